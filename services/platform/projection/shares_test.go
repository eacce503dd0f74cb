package projection_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// shared runs a projection that is shared by partition, under a name, until the test, or stop, ends it.
func shared(t *testing.T, s *postgres.Store, js jetstream.JetStream, instance string) (r *projection.Runner, stop func()) {
	t.Helper()
	shares, err := projection.NewShares(projection.SharesConfig{Pool: s.Projector, Instance: instance, Partitions: contract.Partitions, Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	r, err = projection.New(projection.Config{
		Name: "seen", JetStream: js, Stream: contract.EventStream, Subjects: []string{"ev.>"}, Shares: shares,
		Pool: s.Projector, Handler: note(nil), MaxMessages: 16, Logger: platformtest.Logger(nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- shares.Keep(ctx, r) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

// spread publishes messages of random partitions, and returns the last position in each.
func (p *published) spread(t *testing.T, rnd *rand.Rand, n int) map[int]uint64 {
	t.Helper()
	last := make(map[int]uint64)
	for i := range n {
		partition := rnd.IntN(contract.Partitions)
		data := fmt.Sprintf("%d of %d", i, n)
		ack, err := p.js.Publish(t.Context(), fmt.Sprintf("ev.%d.test", partition), []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		p.want[ack.Sequence], p.last, last[partition] = data, ack.Sequence, ack.Sequence
	}
	return last
}

// TestSharesAreDividedAndComeTogetherAgain: what one of several has applied each of them knows, and nothing is applied twice
// while they come and go; the checkpoint that all partitions had before is where each goes on.
func TestSharesAreDividedAndComeTogetherAgain(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 63))
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.spread(t, rnd, 100)
	former, stopFormer := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	waitFor(t, former, p.last)
	if err := stopFormer(); err != nil {
		t.Fatal(err)
	}

	one, _ := shared(t, s, p.js, "one")
	p.spread(t, rnd, 100)
	waitFor(t, one, p.last)
	exactlyOnce(t, s, p.want)
	again, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	if err := again.WaitFor(ctx, projection.AllPartitions, p.last); !projection.IsLogChanged(err) {
		t.Fatalf("a former release goes on: %v", err)
	}

	runners := map[string]*projection.Runner{"one": one}
	stops := make(map[string]func())
	for _, name := range []string{"two", "three", "four"} {
		runners[name], stops[name] = shared(t, s, p.js, name)
		for round := range 4 {
			for partition, position := range p.spread(t, rnd, 60) {
				for reader, r := range runners {
					if err := r.WaitFor(ctx, partition, position); err != nil {
						t.Fatalf("%s, in round %d of %s: %v", reader, round, name, err)
					}
				}
			}
		}
		exactlyOnce(t, s, p.want)
	}
	for divided := false; !divided; {
		divided = true
		for name, r := range runners {
			held := 0
			for partition := range contract.Partitions {
				if r.Takes(partition) {
					held++
				}
			}
			divided = divided && held == contract.Partitions/len(runners)
			if ctx.Err() != nil {
				t.Fatalf("%s holds %d partitions", name, held)
			}
		}
		p.spread(t, rnd, 1)
	}
	stops["two"]()
	stops["four"]()
	p.spread(t, rnd, 100)
	for range 100 { // of one partition alone
		ack, err := p.js.Publish(ctx, "ev.0.test", []byte("one"))
		if err != nil {
			t.Fatal(err)
		}
		p.want[ack.Sequence], p.last = "one", ack.Sequence
	}
	if err := one.WaitFor(ctx, projection.AllPartitions, p.last); err != nil {
		t.Fatal(err)
	}
	exactlyOnce(t, s, p.want)
	// Also where nothing happens the checkpoint comes to the stream's end, so that nobody begins far behind.
	for {
		at, err := projection.Position(ctx, s.Projector, "seen", projection.AllPartitions)
		if err != nil {
			t.Fatalf("all tables stand at %d, want %d: %v", at, p.last, err)
		}
		if at == p.last {
			break
		}
	}
}

// TestNothingIsPassedOverThatIsStillToBeRead: a message that the stream has, and that the consumer has not brought yet, keeps
// the checkpoint of its partition before it.
func TestNothingIsPassedOverThatIsStillToBeRead(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	shares, err := projection.NewShares(projection.SharesConfig{Pool: s.Projector, Partitions: contract.Partitions, Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := projection.New(projection.Config{
		Name: "seen", JetStream: p.js, Stream: contract.EventStream, Subjects: []string{"ev.>"}, Shares: shares, Pool: s.Projector, Handler: note(nil), Logger: platformtest.Logger(nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, partition := range []int{3, 9} {
		if _, err := p.js.Publish(t.Context(), fmt.Sprintf("ev.%d.test", partition), nil); err != nil {
			t.Fatal(err)
		}
	}
	of, err := p.js.Stream(t.Context(), contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		partition  int
		read, want uint64
	}{{3, 0, 0}, {3, 1, 2}, {4, 0, 2}, {9, 1, 1}} {
		at, err := r.GoOn(t.Context(), of, c.partition, c.read)
		if err != nil || at != c.want {
			t.Errorf("partition %d, read up to %d, goes on to %d, want %d: %v", c.partition, c.read, at, c.want, err)
		}
	}
}
