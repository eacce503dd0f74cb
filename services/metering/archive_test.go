package metering

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// TestRebuildReadsTheArchive: where the stream no longer holds what was counted, tables built
// anew from its archive and what is left are the same, row by row.
func TestRebuildReadsTheArchive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 64))
	o := newOffice(rnd, 3, 100)
	nc := platformtest.NATS(t)
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keys := archive.NewKeys()
	s, err := New(Config{MaxBatchMessages: 8}, Deps{
		NATS: nc, Stores: openStores(t), Archive: archive.NewReader(store, keys, contract.AgentStream), Logger: platformtest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	frames := o.frames(rnd, 3)
	half := len(frames) / 2
	last := o.publish(t, nc, rnd, frames[:half], 2)
	if err := s.WaitForUsage(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	archiver, err := archive.NewArchiver(archive.ArchiverConfig{Stream: contract.AgentStream, SegmentBytes: 4000, SegmentAge: time.Millisecond, Keep: time.Millisecond},
		archive.Deps{JetStream: s.js, Store: store, Keys: keys, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- archiver.Run(ctx) }()
	for {
		stream, err := s.js.Stream(t.Context(), contract.AgentStream)
		if err != nil {
			t.Fatal(err)
		}
		if state := stream.CachedInfo().State; state.Msgs == 0 && state.FirstSeq > last {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	last = o.publish(t, nc, rnd, frames[half:], 2)
	if err := s.WaitForUsage(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	first := s.serving.Load().store
	want, shown := contents(t, first), picture(t, s, o)
	give(t, nc, OrderRebuild)
	for give(t, nc, OrderProgress).Rebuilding != "" {
		if t.Context().Err() != nil {
			t.Fatal("the rebuild does not end")
		}
	}
	next := s.serving.Load().store
	if next.Schema == first.Schema {
		t.Fatal("the tables were not built anew")
	}
	if diff := cmp.Diff(want, contents(t, next)); diff != "" {
		t.Errorf("tables: %.4000s", diff)
	}
	if diff := cmp.Diff(shown, picture(t, s, o)); diff != "" {
		t.Errorf("answers: %.4000s", diff)
	}
}

// contents are all rows of the tables that are made of the stream.
func contents(t *testing.T, s *postgres.Store) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	for _, table := range Tables() {
		rows, err := s.Projector.Query(t.Context(), fmt.Sprintf("SELECT t::text FROM %s t ORDER BY 1", pgx.Identifier{table}.Sanitize()))
		if err != nil {
			t.Fatal(err)
		}
		if all[table], err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
	}
	if len(all["interval"]) == 0 || len(all["cell"]) == 0 {
		t.Fatal("nothing was counted")
	}
	return all
}
