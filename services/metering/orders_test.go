package metering

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// give gives an order until the service, which may only be starting, hears it.
func give(t *testing.T, nc *nats.Conn, order Order) Report {
	t.Helper()
	for {
		r, err := Give(t.Context(), nc, order)
		if err == nil {
			return r
		}
		if !strings.Contains(err.Error(), "no metering service runs") || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestRebuildUnderLoad: while the tables are built anew the present ones are kept
// and read; behind the swap nothing is missing or twice, whatever came meanwhile,
// and a second rebuild works like the first.
func TestRebuildUnderLoad(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 14))
	o := newOffice(rnd, 4, 150)
	nc := platformtest.NATS(t)
	s, err := New(Config{MaxBatchMessages: 8}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	api := &usageAPI{service: s}
	frames := o.frames(rnd, 3)
	half := len(frames) / 2
	counted := func(at uint64) int64 {
		t.Helper()
		if err := s.WaitForUsage(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		quality, err := api.GetDataQuality(as(t.Context(), o.account), &meteringv1.GetDataQualityRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if quality.GetPosition() < at {
			t.Fatalf("waited for %d, and read %d", at, quality.GetPosition())
		}
		return quality.GetEventsCounted()
	}
	before := counted(o.publish(t, nc, rnd, frames[:half], 2))
	first := give(t, nc, OrderProgress).Serving
	give(t, nc, OrderRebuild)
	// Each message is read back as soon as it is there, whichever tables answer.
	last := before
	var end uint64
	for swapped := false; len(frames) > half || !swapped; swapped = give(t, nc, OrderProgress).Rebuilding == "" {
		if t.Context().Err() != nil {
			t.Fatal("the rebuild does not end")
		}
		if len(frames) == half {
			continue
		}
		n := min(half+1+rnd.IntN(3), len(frames))
		end = o.publish(t, nc, rnd, frames[half:n], 1)
		now := counted(end)
		if now <= last {
			t.Fatalf("%d events after more were sent; before that %d", now, last)
		}
		last, half = now, n
	}
	after := give(t, nc, OrderProgress)
	if after.Serving == first || last != 600 {
		t.Fatalf("%d events, served from %s, before from %s", last, after.Serving, first)
	}
	want := picture(t, s, o)
	// Days that are prepared answer the same, here and once the tables were built anew, which has none at first.
	prepared := func() int {
		t.Helper()
		if err := s.WaitForPrepared(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, picture(t, s, o)); diff != "" {
			t.Fatalf("prepared: %.4000s", diff)
		}
		var days int
		if err := s.serving.Load().store.Projector.QueryRow(t.Context(), "SELECT count(*) FROM prepared_day").Scan(&days); err != nil || days == 0 {
			t.Fatalf("%d days are prepared, %v", days, err)
		}
		return days
	}
	days := prepared()
	give(t, nc, OrderRebuild)
	for give(t, nc, OrderProgress).Rebuilding != "" {
		if t.Context().Err() != nil {
			t.Fatal("the second rebuild does not end")
		}
	}
	if diff := cmp.Diff(want, picture(t, s, o)); diff != "" {
		t.Fatalf("rebuilt again: %.4000s", diff)
	}
	if n := counted(end); n != 600 {
		t.Fatalf("%d events of 600", n)
	}
	if again := prepared(); again != days {
		t.Fatalf("%d days are prepared, before the tables were built anew %d", again, days)
	}
	var schemas int
	if err := s.stores.Secrets.Projector.QueryRow(t.Context(), `SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'metering\_v%'`).Scan(&schemas); err != nil || schemas != 1 {
		t.Fatalf("%d schemas are left, %v", schemas, err)
	}
}

// TestReplicasMoveOver: whichever process builds the tables anew, the others go on
// with the new ones by themselves, and miss and double nothing.
func TestReplicasMoveOver(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 14))
	o := newOffice(rnd, 2, 40)
	nc, database := platformtest.NATS(t), platformtest.Database(t)
	var replicas []*Service
	for range 2 {
		stores, err := OpenStores(t.Context(), database, platformtest.Logger(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stores.Close)
		s, err := New(Config{}, Deps{NATS: nc, Stores: stores, Logger: platformtest.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		start(t, s)
		replicas = append(replicas, s)
	}
	frames := o.frames(rnd, 3)
	per := len(frames) / 3
	for round := range 3 {
		end := o.publish(t, nc, rnd, frames[round*per:(round+1)*per], 1)
		var pictures []any
		for _, s := range replicas {
			if err := s.WaitForUsage(t.Context(), end); err != nil {
				t.Fatal(err)
			}
			pictures = append(pictures, picture(t, s, o))
		}
		if diff := cmp.Diff(pictures[0], pictures[1]); diff != "" {
			t.Fatalf("round %d: the replicas differ: %.2000s", round, diff)
		}
		before := replicas[0].serving.Load().store.Schema
		give(t, nc, OrderRebuild)
		for _, s := range replicas {
			for s.serving.Load().store.Schema == before {
				if t.Context().Err() != nil {
					t.Fatal("a replica stays with tables that are gone")
				}
				<-time.After(10 * time.Millisecond)
			}
		}
	}
	quality, err := (&usageAPI{service: replicas[1]}).GetDataQuality(as(t.Context(), o.account), &meteringv1.GetDataQualityRequest{})
	if want := int64(2 * 40); err != nil || quality.GetEventsCounted() < want || quality.GetLag() != 0 {
		t.Errorf("%d events counted, lag %d: %v", quality.GetEventsCounted(), quality.GetLag(), err)
	}
}

// TestInterruptedRebuildGoesOn: a service that was stopped while it built its
// tables anew goes on with that at its next start.
func TestInterruptedRebuildGoesOn(t *testing.T) {
	stores := openStores(t)
	beside, err := stores.Views.Beside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	beside.Close()
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: stores, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	for give(t, nc, OrderProgress).Serving != beside.Schema {
		if t.Context().Err() != nil {
			t.Fatal("it does not go on")
		}
	}
}

// TestALogThatWasPutBackLeavesTheServiceToHearOrders: the tables answer as they are
// until they are built anew, also where an interrupted rebuild has left others of the log
// before. Agents are told to take what the log of decisions holds now, though it is what
// was published last.
func TestALogThatWasPutBackLeavesTheServiceToHearOrders(t *testing.T) {
	for _, changed := range []string{"usage", "catalog", "usage beside", "catalog beside"} {
		t.Run(changed, func(t *testing.T) {
			runner, interrupted := strings.CutSuffix(changed, " beside")
			account := resource.NewID()
			o := newOffice(rand.New(rand.NewPCG(2, 16)), 1, 30)
			o.account = account
			nc, stores := platformtest.NATS(t), openStores(t)
			deps := Deps{NATS: nc, Stores: stores, Logger: platformtest.Logger(t)}
			api := func(s *Service) *applicationAPI { return &applicationAPI{service: s} }
			ctx := as(t.Context(), account)
			policies := policiesOf(t, nc, account)
			s, err := New(Config{}, deps)
			if err != nil {
				t.Fatal(err)
			}
			running, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(running) }()
			if _, err := api(s).CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: xterm()}); err != nil {
				t.Fatal(err)
			}
			last := o.publish(t, nc, rand.New(rand.NewPCG(3, 16)), o.frames(rand.New(rand.NewPCG(4, 16)), 5), 1)
			if err := s.WaitForUsage(t.Context(), last); err != nil {
				t.Fatal(err)
			}
			before := <-policies
			stop()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if interrupted {
				beside, err := stores.Views.Beside(t.Context())
				if err == nil {
					_, err = beside.Projector.Exec(t.Context(), "INSERT INTO projection_checkpoint SELECT * FROM "+stores.Views.Schema+".projection_checkpoint")
					beside.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, schema := range []string{stores.Views.Schema, stores.Views.Schema + "b1"}[:1+strings.Count(changed, "beside")] {
				tag, err := stores.Views.Projector.Exec(t.Context(), "UPDATE "+schema+".projection_checkpoint SET position = position + 1000 WHERE projection = $1", runner)
				if err != nil || tag.RowsAffected() != contract.Partitions {
					t.Fatal(tag, err)
				}
			}

			if s, err = New(Config{}, deps); err != nil {
				t.Fatal(err)
			}
			start(t, s)
			if runner == "catalog" {
				if after := <-policies; after.GetPublishedUtcMillis() <= before.GetPublishedUtcMillis() || after.GetRevision() != before.GetRevision() || len(after.GetApplications()) != 1 {
					t.Fatalf("before the log was put back %v, after it %v", before, after)
				}
			}
			first := stores.Views.Schema
			if !interrupted {
				give(t, nc, OrderRebuild)
			}
			for give(t, nc, OrderProgress).Serving == first {
				if t.Context().Err() != nil {
					t.Fatal("the tables are not built anew")
				}
			}
			if err := s.WaitForUsage(t.Context(), last); err != nil {
				t.Fatal(err)
			}
			list, err := api(s).ListApplications(ctx, &meteringv1.ListApplicationsRequest{})
			if err != nil || len(list.GetApplications()) != 1 {
				t.Fatalf("%v, %v", list, err)
			}
			if runner == "usage" && len(policies) > 0 {
				t.Errorf("a policy is published again: %v", <-policies)
			}
		})
	}
}

// TestRebuildLosesNothing: where the stream has forgotten what the tables hold, they
// stay.
func TestRebuildLosesNothing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 16))
	o := newOffice(rnd, 1, 30)
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	last := o.publish(t, nc, rnd, o.frames(rnd, 5), 1)
	if err := s.WaitForUsage(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	stream, err := s.js.Stream(t.Context(), contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(last)); err != nil {
		t.Fatal(err)
	}
	before := give(t, nc, OrderProgress)
	if r, err := Give(t.Context(), nc, OrderRebuild); err == nil || !strings.Contains(err.Error(), "aged out") || r.Rebuilding != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if after := give(t, nc, OrderProgress); after.Serving != before.Serving {
		t.Fatalf("served from %s, before from %s", after.Serving, before.Serving)
	}

	// Nor does another release's version take their place.
	former := ViewsConfig()
	former.URL, former.Logger = platformtest.Database(t), platformtest.Logger(t)
	former.Version++
	tables, err := postgres.Open(t.Context(), former)
	if err != nil {
		t.Fatal(err)
	}
	tables.Close()
	stores, err := OpenStores(t.Context(), former.URL, former.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	next, err := New(Config{}, Deps{NATS: nc, Stores: stores, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "aged out") {
		t.Fatalf("another version took over: %v", err)
	}
}

// TestQuarantineIsListedAndReplayed: what was set aside is seen by the operator,
// comes back when it can be read, and is counted once.
func TestQuarantineIsListedAndReplayed(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 15))
	o := newOffice(rnd, 1, 10)
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	manager := o.managers[0]
	subject := contract.AgentSubject(o.account, manager, usagev1.Lane_LANE_USAGE)
	ack, err := s.js.Publish(t.Context(), subject, []byte("no batch"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitForUsage(t.Context(), ack.Sequence); err != nil {
		t.Fatal(err)
	}
	list := give(t, nc, OrderListQuarantine).Quarantine
	if len(list) != 1 || list[0].Account != o.account.String() || list[0].Reason != contract.ReasonMalformed || list[0].Detail == "" || list[0].Position != int64(ack.Sequence) {
		t.Fatalf("listed %+v", list)
	}
	if r := give(t, nc, OrderReplayQuarantine); r.Tried != 1 || r.Counted != 0 || r.Aside != 1 {
		t.Fatalf("replayed what cannot be read: %+v", r)
	}
	// A later release can read it: here the bytes are mended instead.
	frames := o.frames(rnd, 1000)
	batch, err := proto.Marshal(&usagev1.AgentBatch{AccountId: o.account[:], ManagerId: manager[:], Frames: frames})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.stores.Views.Projector.Exec(t.Context(), `UPDATE agent_quarantine SET payload = $1`, batch); err != nil {
		t.Fatal(err)
	}
	if r := give(t, nc, OrderReplayQuarantine); r.Tried != 1 || r.Aside != 0 || r.Counted != 10 {
		t.Fatalf("replayed what can be read: %+v", r)
	}
	before := picture(t, s, o)
	if err := s.WaitForUsage(t.Context(), o.publish(t, nc, rnd, frames, 1000)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, picture(t, s, o)); diff != "" {
		t.Fatalf("what was replayed is counted again: %.2000s", diff)
	}
	if list := give(t, nc, OrderListQuarantine).Quarantine; len(list) != 0 {
		t.Fatalf("still listed: %+v", list)
	}
	// What the reactor could not act on is in the same lists.
	if _, err := s.js.Publish(t.Context(), contract.PoisonSubject("metering-policy"), []byte("no event")); err != nil {
		t.Fatal(err)
	}
	for s.reactor.Load() == nil { // it begins once the first policies are published
		<-time.After(time.Millisecond)
	}
	r := give(t, nc, OrderReplayQuarantine)
	if r.Acted != 0 || r.Stayed == "" {
		t.Fatalf("replayed what is no event: %+v", r)
	}
	if list := give(t, nc, OrderListQuarantine).Poisoned; len(list) != 1 || list[0].Since.IsZero() {
		t.Fatalf("listed %+v", list)
	}
	if _, err := Give(context.Background(), nc, "nonsense"); err == nil {
		t.Fatal("nonsense was carried out")
	}
}
