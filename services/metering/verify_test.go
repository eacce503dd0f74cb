package metering

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/services/platform/platformtest"
)

// TestVerifyFindsWhatDiffers: tables that are as the log has them are found so, under load, and
// stay; one figure that somebody has changed is named.
func TestVerifyFindsWhatDiffers(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 65))
	o := newOffice(rnd, 3, 100)
	nc := platformtest.NATS(t)
	s, err := New(Config{MaxBatchMessages: 8}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
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
	verified := func() *Verified {
		t.Helper()
		id := give(t, nc, OrderVerify).Ordered
		for {
			if r := give(t, nc, OrderProgress); r.Verified != nil && r.Verified.Order == id {
				if r.Verified.Problem != "" || len(r.Verified.Tables) < 8 {
					t.Fatalf("%+v", r.Verified)
				}
				return r.Verified
			}
			if t.Context().Err() != nil {
				t.Fatal("the comparison does not end")
			}
		}
	}
	before := give(t, nc, OrderProgress).Serving
	v := verified()
	for _, table := range v.Tables {
		if !table.Same() {
			t.Errorf("%+v", table)
		}
	}
	if v.Position < last || v.Tables[0].Rows == 0 {
		t.Errorf("%+v", v)
	}
	// The tables that were compared go on being kept.
	last = o.publish(t, nc, rnd, frames[half:], 2)
	if err := s.WaitForUsage(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if after := give(t, nc, OrderProgress).Serving; after != before {
		t.Errorf("%s answers in place of %s", after, before)
	}
	// Checkpoints that stand elsewhere than those of tables that are built anew: one of all partitions, of a former release,
	// and one that has come to the stream's end, where nothing of it stands.
	ack, err := s.js.Publish(t.Context(), "ev.5."+o.account.String()+".billing.receipt.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.js.Stream(t.Context(), ack.Stream)
	if err != nil {
		t.Fatal(err)
	}
	end, err := stream.GetMsg(t.Context(), ack.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	for sql, args := range map[string][]any{
		"INSERT INTO projection_checkpoint (projection, partitions, stream, stream_created_nanos, position) VALUES ('usage', 'all', 'AGENT, by partition', 0, 1)": {},
		"UPDATE projection_checkpoint SET position = $1, stored_nanos = $2, turn = turn + 1 WHERE projection = 'catalog' AND partitions = '5' AND position < $1":  {int64(ack.Sequence), end.Time.UnixNano()},
	} {
		if tag, err := s.serving.Load().store.Projector.Exec(t.Context(), sql, args...); err != nil || tag.RowsAffected() != 1 {
			t.Fatal(tag, err)
		}
	}
	if _, err := s.serving.Load().store.Projector.Exec(t.Context(), "UPDATE interval SET to_ms = to_ms + 1 WHERE ctid = (SELECT min(ctid) FROM interval)"); err != nil {
		t.Fatal(err)
	}
	for _, table := range verified().Tables {
		if table.Same() != (table.Name != "interval") {
			t.Errorf("%+v", table)
		}
		if table.Name == "interval" && (len(table.TooMany) != 1 || len(table.Missing) != 1 || !strings.Contains(table.Missing[0], o.account.String())) {
			t.Errorf("%+v", table)
		}
	}
}
