package reactor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/reactor"
)

const patience = 20 * time.Second

// bench is a log and the reactors on it.
type bench struct {
	t   *testing.T
	nc  *nats.Conn
	log eventlog.Log
}

func newBench(t *testing.T) *bench {
	nc := platformtest.NATS(t)
	return &bench{t: t, nc: nc, log: eventlog.NewJetStream(nc, contract.EventStream)}
}

// say appends one event with the text, on an aggregate of its own.
func (b *bench) say(text string) eventlog.Event {
	b.t.Helper()
	e := eventlog.Event{ID: uuid.NewString(), Type: "cetrus.test.said.v1", Data: []byte(text)}
	subject := "ev.7." + uuid.NewString() + ".test.thing." + uuid.NewString()
	if _, err := b.log.Append(b.t.Context(), subject, 0, e); err != nil {
		b.t.Fatal(err)
	}
	return e
}

func (b *bench) config() reactor.Config {
	return reactor.Config{
		Name: "test", Stream: contract.EventStream, Subjects: []string{"ev.*.*.test.>"},
		Attempts: 3, FirstPause: time.Millisecond, MaxPause: 5 * time.Millisecond, Grace: 200 * time.Millisecond,
	}
}

// start runs a reactor until stop is called, or the test ends. stop waits.
func (b *bench) start(config reactor.Config, handler reactor.Handler) (r *reactor.Reactor, stop func()) {
	b.t.Helper()
	r, err := reactor.New(config, reactor.Deps{NATS: b.nc, Handler: handler, Logger: platformtest.Logger(b.t)})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	b.t.Cleanup(stop)
	return r, stop
}

// seen collects what a handler was given.
type seen struct {
	mu     sync.Mutex
	texts  []string
	change chan struct{}
}

func newSeen() *seen { return &seen{change: make(chan struct{}, 1)} }

func (s *seen) add(e eventlog.Event) {
	s.mu.Lock()
	s.texts = append(s.texts, string(e.Data))
	s.mu.Unlock()
	select {
	case s.change <- struct{}{}:
	default:
	}
}

func (s *seen) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.texts)
}

func (s *seen) await(t *testing.T, n int) []string {
	t.Helper()
	deadline := time.After(patience)
	for {
		if all := s.all(); len(all) >= n {
			return all
		}
		select {
		case <-s.change:
		case <-deadline:
			t.Fatalf("only %v came, %d were awaited", s.all(), n)
		}
	}
}

// settled waits until the consumer has nothing left to hand out or to hear of.
func (b *bench) settled(name string) {
	b.t.Helper()
	js, err := jetstream.New(b.nc)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	for {
		consumer, err := js.Consumer(ctx, contract.EventStream, name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		info := consumer.CachedInfo()
		if info.NumPending == 0 && info.NumAckPending == 0 {
			return
		}
	}
}

func TestEachEventOnceAcrossRestarts(t *testing.T) {
	b, got := newBench(t), newSeen()
	handler := func(_ context.Context, e eventlog.Event) error {
		if e.ID == "" || e.Position == 0 || e.Subject == "" {
			return reactor.Permanent(fmt.Errorf("incomplete: %+v", e))
		}
		got.add(e)
		return nil
	}
	var want []string
	for round := range 3 {
		_, stop := b.start(b.config(), handler)
		for i := range 10 {
			want = append(want, fmt.Sprintf("%d.%d", round, i))
			b.say(want[len(want)-1])
		}
		got.await(t, len(want))
		b.settled("test")
		stop()
	}
	all := got.await(t, len(want))
	slices.Sort(all)
	if !slices.Equal(all, want) {
		t.Errorf("handled %v, want %v", all, want)
	}
}

func TestRetriesUntilItWorks(t *testing.T) {
	b, got := newBench(t), newSeen()
	r, _ := b.start(b.config(), func(_ context.Context, e eventlog.Event) error {
		got.add(e)
		if len(got.all()) < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	b.say("a")
	got.await(t, 3)
	b.settled("test")
	if poisoned, err := r.Poisoned(t.Context(), 0); err != nil || len(poisoned) != 0 {
		t.Errorf("set aside: %v, %v", poisoned, err)
	}
}

func TestPoisonHoldsUpNothingAndReplays(t *testing.T) {
	b, got := newBench(t), newSeen()
	var mended sync.Once
	broken := make(chan struct{})
	r, _ := b.start(b.config(), func(_ context.Context, e eventlog.Event) error {
		got.add(e)
		select {
		case <-broken:
			return nil
		default:
		}
		switch string(e.Data) {
		case "error":
			return errors.New("it never works\r\nNats-Rollup: all")
		case "panic":
			panic("ouch")
		case "permanent":
			return reactor.Permanent(errors.New("of no use"))
		}
		return nil
	})
	sent := map[string]eventlog.Event{}
	for _, text := range []string{"error", "panic", "permanent", "good"} {
		sent[text] = b.say(text)
	}
	// Three attempts each at two of them, one at the others.
	got.await(t, 3+3+1+1)
	b.settled("test")
	poisoned, err := r.Poisoned(t.Context(), 0)
	if err != nil || len(poisoned) != 3 {
		t.Fatalf("set aside: %v, %v", poisoned, err)
	}
	for _, p := range poisoned {
		text := string(p.Event.Data)
		if p.Event.ID != sent[text].ID || !strings.HasPrefix(p.Event.Subject, "ev.7.") || p.Event.Position == 0 || p.Since.IsZero() {
			t.Errorf("%s is kept as %+v", text, p)
		}
		want := map[string]string{"error": "it never works Nats-Rollup: all", "panic": "ouch", "permanent": "of no use"}[text]
		if !strings.Contains(p.Reason, want) {
			t.Errorf("%s: reason %q, want %q", text, p.Reason, want)
		}
	}
	if n, err := r.Replay(t.Context()); n != 0 || err == nil {
		t.Errorf("replay while broken: %d, %v", n, err)
	}
	mended.Do(func() { close(broken) })
	if n, err := r.Replay(t.Context()); n != 3 || err != nil {
		t.Errorf("replay: %d, %v", n, err)
	}
	if poisoned, err := r.Poisoned(t.Context(), 0); err != nil || len(poisoned) != 0 {
		t.Errorf("left over: %v, %v", poisoned, err)
	}
}

func TestWhatIsNoEventIsSetAside(t *testing.T) {
	b, got := newBench(t), newSeen()
	r, _ := b.start(b.config(), func(_ context.Context, e eventlog.Event) error {
		got.add(e)
		return nil
	})
	if _, err := b.nc.Request("ev.7.x.test.thing.y", []byte("no headers"), patience); err != nil {
		t.Fatal(err)
	}
	b.say("good")
	got.await(t, 1)
	b.settled("test")
	poisoned, err := r.Poisoned(t.Context(), 0)
	if err != nil || len(poisoned) != 1 || string(poisoned[0].Event.Data) != "no headers" {
		t.Fatalf("set aside: %+v, %v", poisoned, err)
	}
	if n, err := r.Replay(t.Context()); n != 0 || !errors.Is(err, eventlog.ErrInvalid) {
		t.Errorf("replay: %d, %v", n, err)
	}
}

func TestSeveralInHand(t *testing.T) {
	b := newBench(t)
	config := b.config()
	config.InFlight = 4
	var together sync.WaitGroup
	together.Add(config.InFlight)
	b.start(config, func(context.Context, eventlog.Event) error {
		together.Done()
		together.Wait() // returns only if all four are in hand at once
		return nil
	})
	for i := range config.InFlight {
		b.say(fmt.Sprint(i))
	}
	b.settled("test")
}

// TestUnfinishedComesAgain ends a reactor while its handler is at work: the next
// one must get the event.
func TestUnfinishedComesAgain(t *testing.T) {
	b, got := newBench(t), newSeen()
	_, stop := b.start(b.config(), func(ctx context.Context, e eventlog.Event) error {
		got.add(e)
		<-ctx.Done()
		return ctx.Err()
	})
	b.say("a")
	got.await(t, 1)
	begin := time.Now()
	stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	r, _ := b.start(b.config(), func(_ context.Context, e eventlog.Event) error {
		got.add(e)
		return nil
	})
	if all := got.await(t, 2); !slices.Equal(all, []string{"a", "a"}) {
		t.Errorf("got %v", all)
	}
	if poisoned, err := r.Poisoned(t.Context(), 0); err != nil || len(poisoned) != 0 {
		t.Errorf("the process's end was blamed on the event: %v, %v", poisoned, err)
	}
}

// TestGraceLetsFinish lets a handler that is at work come to its end.
func TestGraceLetsFinish(t *testing.T) {
	b, got := newBench(t), newSeen()
	config := b.config()
	config.Grace = patience
	finish := make(chan struct{})
	_, stop := b.start(config, func(ctx context.Context, e eventlog.Event) error {
		got.add(e)
		<-finish
		return ctx.Err()
	})
	b.say("a")
	got.await(t, 1)
	time.AfterFunc(50*time.Millisecond, func() { close(finish) })
	stop()
	b.settled("test")
}

// TestSlowHandlerKeepsItsEvent works for longer than the server would wait
// without a sign of life.
func TestSlowHandlerKeepsItsEvent(t *testing.T) {
	b, got := newBench(t), newSeen()
	config := b.config()
	config.AckWait = 300 * time.Millisecond
	b.start(config, func(ctx context.Context, e eventlog.Event) error {
		got.add(e)
		select {
		case <-ctx.Done():
		case <-time.After(4 * config.AckWait):
		}
		return ctx.Err()
	})
	b.say("a")
	got.await(t, 1)
	b.settled("test")
	if all := got.all(); len(all) != 1 {
		t.Errorf("it was handed out %d times", len(all))
	}
}

// TestEventThatEndsTheProcess stands in for a crash: each process gets the event
// and is gone before it says anything.
func TestEventThatEndsTheProcess(t *testing.T) {
	b, got := newBench(t), newSeen()
	config := b.config()
	config.MaxDeliveries = 2
	for i := range config.MaxDeliveries {
		_, stop := b.start(config, func(ctx context.Context, e eventlog.Event) error {
			got.add(e)
			<-ctx.Done()
			return ctx.Err()
		})
		if i == 0 {
			b.say("a")
		}
		got.await(t, i+1)
		stop()
	}
	r, _ := b.start(config, func(_ context.Context, e eventlog.Event) error {
		got.add(e)
		return nil
	})
	b.settled("test")
	poisoned, err := r.Poisoned(t.Context(), 0)
	if err != nil || len(poisoned) != 1 || !strings.Contains(poisoned[0].Reason, "handed out 2 times") {
		t.Errorf("set aside: %+v, %v", poisoned, err)
	}
	if all := got.all(); len(all) != config.MaxDeliveries {
		t.Errorf("handled %d times", len(all))
	}
}

func TestServerRestart(t *testing.T) {
	dir := t.TempDir()
	nc, stopServer := platformtest.NATSServer(t, dir)
	b, got := &bench{t: t, nc: nc, log: eventlog.NewJetStream(nc, contract.EventStream)}, newSeen()
	handler := func(_ context.Context, e eventlog.Event) error {
		got.add(e)
		return nil
	}
	_, stop := b.start(b.config(), handler)
	b.say("before")
	got.await(t, 1)
	b.settled("test")
	stop()
	stopServer()
	b.nc, _ = platformtest.NATSServer(t, dir)
	b.log = eventlog.NewJetStream(b.nc, contract.EventStream)
	b.say("after")
	b.start(b.config(), handler)
	if all := got.await(t, 2); !slices.Equal(all, []string{"before", "after"}) {
		t.Errorf("got %v", all)
	}
}

func TestDeletedConsumerEndsRun(t *testing.T) {
	b, got := newBench(t), newSeen()
	r, err := reactor.New(b.config(), reactor.Deps{NATS: b.nc, Logger: platformtest.Logger(t), Handler: func(_ context.Context, e eventlog.Event) error {
		got.add(e)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(t.Context()) }()
	b.say("a")
	got.await(t, 1)
	b.settled("test")
	js, err := jetstream.New(b.nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), contract.EventStream, "test"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, jetstream.ErrConsumerDeleted) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Error("Run goes on without a position")
	}
}

func TestConfigIsChecked(t *testing.T) {
	nc, handler := &nats.Conn{}, func(context.Context, eventlog.Event) error { return nil }
	for name, config := range map[string]reactor.Config{
		"no name":   {Stream: "S"},
		"dots":      {Name: "a.b", Stream: "S"},
		"no stream": {Name: "a"},
		"negative":  {Name: "a", Stream: "S", Attempts: -1},
	} {
		if _, err := reactor.New(config, reactor.Deps{NATS: nc, Handler: handler}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
