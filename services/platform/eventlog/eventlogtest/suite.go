package eventlogtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// Harness is an implementation under test.
type Harness struct {
	// Open returns a log on the one storage under test, with a connection of its
	// own that the test's end closes.
	Open func(t testing.TB) eventlog.Log
	// OpenFaulty returns one that speaks through a proxy; nil where nothing can
	// get lost.
	OpenFaulty func(t testing.TB) (eventlog.Log, *Proxy)
	// ChangeLeader makes another server lead the stream, and waits for it; nil
	// where nobody leads.
	ChangeLeader func(ctx context.Context) error
}

const (
	raceRounds      = 300
	faultRounds     = 36
	leaderChanges   = 4
	counterWriters  = 4
	countsPerWriter = 20
)

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Run("append and load", func(t *testing.T) { testRoundTrip(t, h) })
	t.Run("model", func(t *testing.T) { testModel(t, h) })
	t.Run("large aggregate", func(t *testing.T) { testLarge(t, h) })
	t.Run("all or none", func(t *testing.T) { testAllOrNone(t, h) })
	t.Run("bad input", func(t *testing.T) { testBadInput(t, h) })
	t.Run("ended context", func(t *testing.T) { testEndedContext(t, h) })
	t.Run("two writers", func(t *testing.T) { testTwoWriters(t, h) })
	t.Run("two batches", func(t *testing.T) { testTwoBatches(t, h) })
	t.Run("no update is lost", func(t *testing.T) { testNoLostUpdate(t, h) })
	t.Run("a command happens once", func(t *testing.T) { testCommandOnce(t, h) })
	t.Run("a refusal rests on the present", func(t *testing.T) { testRefusal(t, h) })
	if h.OpenFaulty != nil {
		t.Run("ambiguous failures", func(t *testing.T) { testAmbiguous(t, h) })
	}
	if h.ChangeLeader != nil {
		t.Run("leader change", func(t *testing.T) { testLeaderChange(t, h) })
	}
}

// newSubject is an aggregate that no other test uses.
func newSubject() string {
	return "ev.7." + uuid.NewString() + ".test.thing." + uuid.NewString()
}

func event(data string) eventlog.Event {
	return eventlog.Event{Type: "cetrus.test.said.v1", Data: []byte(data)}
}

// texts is the data of events, for comparison.
func texts(events []eventlog.Event) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, string(e.Data))
	}
	return out
}

// checkEach compares what is handed over one after the other, and has an error end it.
func checkEach(t testing.TB, log eventlog.Log, subject string, want []eventlog.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	enough := errors.New("enough")
	for _, most := range []int{len(want), len(want) - 1} {
		var got []eventlog.Event
		var last eventlog.Position
		err := error(nil)
		for len(got) < most || most < len(want) && err == nil { // a replica may lag
			got = nil
			last, err = log.Each(ctx, subject, func(e eventlog.Event) error {
				if len(got) == most {
					return enough
				}
				got = append(got, e)
				return nil
			})
			if err != nil && !errors.Is(err, enough) {
				t.Fatalf("handing over %d events: %v", most, err)
			}
		}
		if wantText := texts(want[:most]); fmt.Sprint(texts(got)) != fmt.Sprint(wantText) {
			t.Fatalf("handed over are %q, want %q", texts(got), wantText)
		}
		if most == len(want) && last != want[most-1].Position {
			t.Fatalf("handing over %d events ends at %d, not %d", most, last, want[most-1].Position)
		}
	}
}

// eventually loads until as many events are there: a replica may lag behind an
// acknowledged append.
func eventually(t testing.TB, log eventlog.Log, subject string, want int) []eventlog.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		events, _, err := log.Load(ctx, subject)
		if err != nil {
			t.Fatalf("load %d events: %v", want, err)
		}
		if len(events) >= want {
			return events
		}
	}
}

func testRoundTrip(t *testing.T, h Harness) {
	ctx, log, subject := t.Context(), h.Open(t), newSubject()
	if events, last, err := log.Load(ctx, subject); err != nil || len(events) != 0 || last != 0 {
		t.Fatalf("an aggregate without events: %v, %d, %v", events, last, err)
	}
	if last, err := log.Last(ctx, subject); err != nil || last != 0 {
		t.Fatalf("last of an aggregate without events: %d, %v", last, err)
	}
	full := eventlog.Event{
		ID: uuid.NewString(), Type: "cetrus.test.said.v1", Source: "/cetrus/elsewhere",
		Time: time.Date(2026, 2, 28, 23, 59, 59, 123456789, time.FixedZone("", 3600)), Command: "do it", Actor: "Ünal", Origin: "0198:c2VhbGVk",
		TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Data: []byte{0, 1, '\r', '\n'},
	}
	first, err := log.Append(ctx, subject, 0, full)
	if err != nil {
		t.Fatal(err)
	}
	second, err := log.Append(ctx, subject, first, event(""))
	if err != nil {
		t.Fatal(err)
	}
	if second <= first || first == 0 {
		t.Fatalf("positions %d, %d do not rise", first, second)
	}
	if last, err := log.Last(ctx, subject); err != nil || last != second {
		t.Fatalf("last is %d, %v; want %d", last, err, second)
	}
	events := eventually(t, log, subject, 2)
	checkEach(t, log, subject, events)
	want := full
	want.Time, want.Subject, want.Position = full.Time.UTC(), subject, first
	got := events[0]
	if string(got.Data) != string(want.Data) || !got.Time.Equal(want.Time) {
		t.Errorf("data %q time %v; want %q %v", got.Data, got.Time, want.Data, want.Time)
	}
	got.Data, got.Time, want.Data, want.Time = nil, time.Time{}, nil, time.Time{}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if e := events[1]; e.ID == "" || e.Time.IsZero() || e.Source != "/cetrus/test" || e.Position != second {
		t.Errorf("not completed: %+v", e)
	}
}

// testModel compares a random history with what a list would hold.
func testModel(t *testing.T, h Harness) {
	log := h.Open(t)
	rapid.Check(t, func(rt *rapid.T) {
		ctx := t.Context()
		subjects := []string{newSubject(), newSubject(), newSubject()}
		model := map[string][]string{}
		lasts := map[string]eventlog.Position{}
		for step := range rapid.IntRange(1, 8).Draw(rt, "steps") {
			subject := rapid.SampledFrom(subjects).Draw(rt, "subject")
			var events []eventlog.Event
			for i := range rapid.IntRange(1, 4).Draw(rt, "events") {
				events = append(events, event(fmt.Sprintf("%d.%d", step, i)))
			}
			expected := lasts[subject]
			wrong := rapid.SampledFrom([]int{0, 0, 0, -1, 1, 1000}).Draw(rt, "wrong by")
			if int(expected)+wrong < 0 {
				wrong = 0
			}
			position, err := insist(ctx, log, subject, eventlog.Position(int(expected)+wrong), events)
			if wrong != 0 {
				if !errors.Is(err, eventlog.ErrConflict) {
					rt.Fatalf("expectation wrong by %d: %v", wrong, err)
				}
				continue
			}
			if err != nil {
				rt.Fatal(err)
			}
			lasts[subject] = position
			model[subject] = append(model[subject], texts(events)...)
		}
		for _, subject := range subjects {
			events := eventually(t, log, subject, len(model[subject]))
			if got, want := fmt.Sprint(texts(events)), fmt.Sprint(append([]string{}, model[subject]...)); got != want {
				rt.Fatalf("%s holds %s, want %s", subject, got, want)
			}
			if last, err := log.Last(ctx, subject); err != nil || last != lasts[subject] {
				rt.Fatalf("%s ends at %d (%v), want %d", subject, last, err, lasts[subject])
			}
		}
	})
}

// insistence is how long insist goes on; oneAppend, how long one append may take of it.
// Where its first attempt got no answer, an append under a wrong expectation
// can never find out more.
const (
	insistence = 2 * time.Minute
	oneAppend  = 5 * time.Second
)

// insist appends until the log says yes or no. A log that is unavailable, as on a
// machine with too much to do, has said neither: the same events, by their ids, are
// appended again under the same expectation.
func insist(
	ctx context.Context, log eventlog.Log, subject string, expected eventlog.Position, events []eventlog.Event,
) (position eventlog.Position, err error) {
	for i := range events {
		events[i].ID = newSubject()
	}
	for until := time.Now().Add(insistence); ; {
		once, cancel := context.WithTimeout(ctx, oneAppend)
		position, err = log.Append(once, subject, expected, events...)
		cancel()
		undecided := errors.Is(err, eventlog.ErrUnavailable) || errors.Is(err, eventlog.ErrUnknownOutcome)
		if !undecided || time.Now().After(until) {
			return position, err
		}
	}
}

func testLarge(t *testing.T, h Harness) {
	ctx, log, subject := t.Context(), h.Open(t), newSubject()
	var last eventlog.Position
	total := 0
	for _, n := range []int{eventlog.MaxWrite, 1, 300} {
		events := make([]eventlog.Event, n)
		for i := range events {
			events[i] = event(fmt.Sprint(total + i))
		}
		var err error
		if last, err = log.Append(ctx, subject, last, events...); err != nil {
			t.Fatalf("append %d events: %v", n, err)
		}
		total += n
	}
	big := strings.Repeat("x", 1<<20)
	if _, err := log.Append(ctx, subject, last, event(big)); err != nil {
		t.Fatalf("append one event of 1 MiB: %v", err)
	}
	events := eventually(t, log, subject, total+1)
	checkEach(t, log, subject, events)
	if len(events) != total+1 || string(events[total].Data) != big {
		t.Fatalf("%d events, want %d", len(events), total+1)
	}
	for i, e := range events[:total] {
		if string(e.Data) != fmt.Sprint(i) {
			t.Fatalf("event %d is %q", i, e.Data)
		}
	}
}

func testAllOrNone(t *testing.T, h Harness) {
	ctx, log := t.Context(), h.Open(t)
	a, b := newSubject(), newSubject()
	lastA, err := log.Append(ctx, a, 0, event("a1"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = log.AppendAll(ctx,
		eventlog.Write{Subject: a, Expected: lastA, Events: []eventlog.Event{event("a2"), event("a3")}},
		eventlog.Write{Subject: b, Expected: lastA, Events: []eventlog.Event{event("b1")}})
	if !errors.Is(err, eventlog.ErrConflict) {
		t.Fatalf("one of two expectations is wrong: %v", err)
	}
	position, err := log.AppendAll(ctx,
		eventlog.Write{Subject: a, Expected: lastA, Events: []eventlog.Event{event("a2"), event("a3")}},
		eventlog.Write{Subject: b, Expected: 0, Events: []eventlog.Event{event("b1")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := texts(eventually(t, log, a, 3)); fmt.Sprint(got) != "[a1 a2 a3]" {
		t.Errorf("a holds %v", got)
	}
	if got := eventually(t, log, b, 1); len(got) != 1 || got[0].Position != position {
		t.Errorf("b holds %v, want one event at %d", got, position)
	}
}

func testBadInput(t *testing.T, h Harness) {
	ctx, log, good := t.Context(), h.Open(t), newSubject()
	tooMany := make([]eventlog.Event, eventlog.MaxWrite+1)
	for i := range tooMany {
		tooMany[i] = event("x")
	}
	for name, write := range map[string]eventlog.Write{
		"no subject":          {Events: []eventlog.Event{event("x")}},
		"wildcard":            {Subject: "ev.7.*.a", Events: []eventlog.Event{event("x")}},
		"full wildcard":       {Subject: "ev.7.>", Events: []eventlog.Event{event("x")}},
		"empty token":         {Subject: "ev..a", Events: []eventlog.Event{event("x")}},
		"space":               {Subject: "ev.a b", Events: []eventlog.Event{event("x")}},
		"no event":            {Subject: good},
		"no type":             {Subject: good, Events: []eventlog.Event{{Data: []byte("x")}}},
		"header in a command": {Subject: good, Events: []eventlog.Event{{Type: "t", Command: "a\r\nNats-Rollup: all"}}},
		"too many":            {Subject: good, Events: tooMany},
	} {
		if _, err := log.AppendAll(ctx, write); !errors.Is(err, eventlog.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	twice := eventlog.Write{Subject: good, Events: []eventlog.Event{event("x")}}
	if _, err := log.AppendAll(ctx, twice, twice); !errors.Is(err, eventlog.ErrInvalid) {
		t.Errorf("one subject twice: %v", err)
	}
	if _, err := log.AppendAll(ctx); !errors.Is(err, eventlog.ErrInvalid) {
		t.Errorf("nothing: %v", err)
	}
	if _, _, err := log.Load(ctx, "ev.*.a"); !errors.Is(err, eventlog.ErrInvalid) {
		t.Errorf("load by wildcard: %v", err)
	}
	if events, _, err := log.Load(ctx, good); err != nil || len(events) != 0 {
		t.Errorf("bad input left %d events (%v)", len(events), err)
	}
}

func testEndedContext(t *testing.T, h Harness) {
	log, subject := h.Open(t), newSubject()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := log.Append(ctx, subject, 0, event("x")); err == nil {
		t.Error("append succeeded under an ended context")
	}
	if _, _, err := log.Load(ctx, subject); !errors.Is(err, context.Canceled) {
		t.Errorf("load: %v", err)
	}
}

// testTwoWriters lets two connections append behind the same position, again and
// again: one must win each time, and the other must learn it.
func testTwoWriters(t *testing.T, h Harness) {
	race(t, h, raceRounds, func(ctx context.Context, log eventlog.Log, subject string, last eventlog.Position, text string) (eventlog.Position, error) {
		return log.Append(ctx, subject, last, event(text))
	}, 1)
}

// testTwoBatches is the same with atomic batches.
func testTwoBatches(t *testing.T, h Harness) {
	race(t, h, raceRounds/6, func(ctx context.Context, log eventlog.Log, subject string, last eventlog.Position, text string) (eventlog.Position, error) {
		return log.Append(ctx, subject, last, event(text), event(text), event(text))
	}, 3)
}

func race(t *testing.T, h Harness, rounds int, write func(context.Context, eventlog.Log, string, eventlog.Position, string) (eventlog.Position, error), each int) {
	ctx, subject := t.Context(), newSubject()
	logs := [2]eventlog.Log{h.Open(t), h.Open(t)}
	var last eventlog.Position
	var want []string
	wins := [2]int{}
	for round := range rounds {
		var positions [2]eventlog.Position
		var errs [2]error
		var start, done sync.WaitGroup
		start.Add(1)
		for w := range logs {
			done.Go(func() {
				start.Wait()
				positions[w], errs[w] = write(ctx, logs[w], subject, last, fmt.Sprintf("%d.%d", round, w))
			})
		}
		start.Done()
		done.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		if errs[winner] != nil || !errors.Is(errs[1-winner], eventlog.ErrConflict) {
			t.Fatalf("round %d: %v and %v; want one success, one conflict", round, errs[0], errs[1])
		}
		wins[winner]++
		last = positions[winner]
		for range each {
			want = append(want, fmt.Sprintf("%d.%d", round, winner))
		}
	}
	if got := texts(eventually(t, logs[0], subject, len(want))); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the log holds\n%v\nthe winners wrote\n%v", got, want)
	}
	t.Logf("wins %v", wins)
}

// counter is the smallest aggregate: each event adds its number.
func counter(log eventlog.Log) *eventlog.Repository[int64] {
	return &eventlog.Repository[int64]{
		Log:      log,
		Registry: eventlog.NewRegistry(eventlog.Current[*wrapperspb.Int64Value]("cetrus.test.counted.v1")),
		New:      func() int64 { return 0 },
		Apply: func(sum int64, m proto.Message) (int64, error) {
			return sum + m.(*wrapperspb.Int64Value).GetValue(), nil
		},
	}
}

// sumOf adds up events that were loaded; to load them again might ask a replica
// that lags behind the one before.
func sumOf(t testing.TB, log eventlog.Log, events []eventlog.Event) (sum int64) {
	t.Helper()
	c := counter(log)
	for _, e := range events {
		m, err := c.Registry.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err = c.Apply(sum, m); err != nil {
			t.Fatal(err)
		}
	}
	return sum
}

func addOne(int64) ([]proto.Message, error) {
	return []proto.Message{wrapperspb.Int64(1)}, nil
}

func testNoLostUpdate(t *testing.T, h Harness) {
	ctx, subject := t.Context(), newSubject()
	var writers sync.WaitGroup
	for range counterWriters {
		repository := counter(h.Open(t))
		writers.Go(func() {
			for range countsPerWriter {
				if _, err := repository.Execute(ctx, subject, eventlog.Command{}, addOne); err != nil {
					t.Errorf("count: %v", err)
				}
			}
		})
	}
	writers.Wait()
	const want = counterWriters * countsPerWriter
	log := h.Open(t)
	if sum := sumOf(t, log, eventually(t, log, subject, want)); sum != want {
		t.Errorf("the sum is %d, want %d", sum, want)
	}
}

func testCommandOnce(t *testing.T, h Harness) {
	ctx, subject := t.Context(), newSubject()
	const callers = 6
	command := eventlog.Command{ID: uuid.NewString(), Digest: "add one", Actor: "somebody"}
	results := make([]eventlog.Result[int64], callers)
	var wait sync.WaitGroup
	for i := range callers {
		repository := counter(h.Open(t))
		wait.Go(func() {
			var err error
			if results[i], err = repository.Execute(ctx, subject, command, addOne); err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	fresh := 0
	for _, r := range results {
		if !r.Repeated {
			fresh++
		}
		if r.State != 1 || r.Position != results[0].Position {
			t.Errorf("result %+v, want state 1 at %d", r, results[0].Position)
		}
	}
	if events := eventually(t, h.Open(t), subject, 1); len(events) != 1 || fresh != 1 {
		t.Errorf("%d events, %d callers did it; want 1 and 1", len(events), fresh)
	} else if events[0].Command != command.ID || events[0].Actor != command.Actor {
		t.Errorf("the event names command %q, actor %q", events[0].Command, events[0].Actor)
	}
	other := command
	other.Digest = "add two"
	if _, err := counter(h.Open(t)).Execute(ctx, subject, other, addOne); !errors.Is(err, eventlog.ErrCommandReused) {
		t.Errorf("the same id for something else: %v", err)
	}
}

// testRefusal appends through one connection and at once decides through
// another: the decision to refuse must have seen the append.
func testRefusal(t *testing.T, h Harness) {
	ctx := t.Context()
	writer, reader := counter(h.Open(t)), counter(h.Open(t))
	errMissing := errors.New("there is nothing")
	for round := range 50 {
		subject := newSubject()
		if _, err := writer.Execute(ctx, subject, eventlog.Command{}, addOne); err != nil {
			t.Fatal(err)
		}
		_, err := reader.Execute(ctx, subject, eventlog.Command{}, func(sum int64) ([]proto.Message, error) {
			if sum == 0 {
				return nil, errMissing
			}
			return nil, nil
		})
		if err != nil {
			t.Fatalf("round %d: refused on an old state: %v", round, err)
		}
	}
	if _, err := reader.Execute(ctx, newSubject(), eventlog.Command{}, func(int64) ([]proto.Message, error) { return nil, errMissing }); !errors.Is(err, errMissing) {
		t.Errorf("the refusal became %v", err)
	}
}

// testAmbiguous loses requests and answers while two writers append to one
// aggregate. Whatever Append said must be true at the end.
func testAmbiguous(t *testing.T, h Harness) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	log, proxy := h.OpenFaulty(t)
	rival := h.Open(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	subject := newSubject()
	var last eventlog.Position
	said := map[string]bool{} // id → acknowledged
	for round := range faultRounds {
		var chosen []Fault
		for range 1 + random.IntN(2) {
			chosen = append(chosen, Fault(random.IntN(int(faults))))
		}
		if round < int(faults) {
			chosen = []Fault{Fault(round)}
		}
		events := make([]eventlog.Event, 1+2*random.IntN(2))
		for i := range events {
			events[i] = event(fmt.Sprint(round))
			events[i].ID = uuid.NewString()
		}
		rivals := random.IntN(3) == 0
		foreign := event("rival")
		foreign.ID = uuid.NewString()

		proxy.Arm(subject, chosen...)
		var wait sync.WaitGroup
		var rivalErr error
		var rivalAt eventlog.Position
		if rivals {
			wait.Go(func() { rivalAt, rivalErr = rival.Append(ctx, subject, last, foreign) })
		}
		at, err := log.Append(ctx, subject, last, events...)
		wait.Wait()
		if err != nil && !errors.Is(err, eventlog.ErrConflict) {
			t.Fatalf("round %d (%v): %v", round, chosen, err)
		}
		if !rivals && err != nil {
			t.Fatalf("round %d (%v): nobody else wrote, and yet: %v", round, chosen, err)
		}
		for _, e := range events {
			said[e.ID] = err == nil
		}
		if rivals {
			if (rivalErr == nil) == (err == nil) {
				t.Fatalf("round %d (%v): %v and %v; want one success", round, chosen, err, rivalErr)
			}
			said[foreign.ID] = rivalErr == nil
		}
		last = max(at, rivalAt)
	}
	proxy.Arm("nothing")
	checkSaid(t, h.Open(t), subject, last, said)
	for f := range faults {
		if proxy.Hits(f) == 0 {
			t.Errorf("the fault %q never happened", f)
		}
		t.Logf("%s: %d times", f, proxy.Hits(f))
	}
}

// testLeaderChange keeps writers going while the leader changes.
func testLeaderChange(t *testing.T, h Harness) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	subject := newSubject()
	stop := make(chan struct{})
	counts := make([]int64, 2)
	var writers sync.WaitGroup
	for w := range counts {
		repository := counter(h.Open(t))
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// Repeating the command is what a caller does after an unknown outcome.
				command := eventlog.Command{ID: uuid.NewString()}
				_, err := repository.Execute(ctx, subject, command, addOne)
				for errors.Is(err, eventlog.ErrUnknownOutcome) && ctx.Err() == nil {
					_, err = repository.Execute(ctx, subject, command, addOne)
				}
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				counts[w]++
			}
		})
	}
	for change := range leaderChanges {
		if err := h.ChangeLeader(ctx); err != nil {
			t.Errorf("change %d: %v", change, err)
			break
		}
	}
	close(stop)
	writers.Wait()
	log := h.Open(t)
	want := counts[0] + counts[1]
	events := eventually(t, log, subject, int(want))
	if sum := sumOf(t, log, events); sum != want || int64(len(events)) != want {
		t.Errorf("the sum is %d in %d events; %d were acknowledged", sum, len(events), want)
	}
	if want == 0 {
		t.Error("nothing was written while the leader changed")
	}
	t.Logf("%d leader changes under %d appends", leaderChanges, want)
}

// checkSaid compares what the log holds with what its writers were told.
func checkSaid(t *testing.T, log eventlog.Log, subject string, last eventlog.Position, said map[string]bool) {
	t.Helper()
	acknowledged := 0
	for _, yes := range said {
		if yes {
			acknowledged++
		}
	}
	events := eventually(t, log, subject, acknowledged)
	times := map[string]int{}
	for _, e := range events {
		times[e.ID]++
	}
	for id, yes := range said {
		want := 0
		if yes {
			want = 1
		}
		if times[id] != want {
			t.Errorf("event %s stands %d times in the log, its writer was told %d", id, times[id], want)
		}
	}
	if got := events[len(events)-1].Position; got != last {
		t.Errorf("the aggregate ends at %d, the last writer was told %d", got, last)
	}
}
