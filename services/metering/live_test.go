package metering

import (
	"bytes"
	"log/slog"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestASilentSessionVanishesInBoundedTime: a lost "ended", an agent that was killed,
// clocks that jump, a snapshot that claims to hold for ever: what nobody renews is
// not shown any more, and not kept.
func TestASilentSessionVanishesInBoundedTime(t *testing.T) {
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		v := newLiveView(slog.New(slog.DiscardHandler))
		account := resource.NewID()
		now := time.UnixMilli(1_800_000_000_000)
		heard := make(map[contract.ID]time.Time)
		w := v.watch(ctx, account)
		shown := make(map[contract.ID]bool)
		look := func() {
			there, gone := v.fetch(account, w)
			for _, s := range there {
				shown[contract.ID(s.GetSessionId())] = true
			}
			for _, id := range gone {
				delete(shown, id)
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 200_000).Draw(t, "pause")) * time.Millisecond)
			session := contract.ID{15: rapid.Byte().Draw(t, "session")%3 + 1}
			v.take(account, &usagev1.LiveSnapshot{
				SessionId: session[:], RunId: uint64(rapid.IntRange(1, 2).Draw(t, "run")), Serial: rapid.Uint64Range(1, 10).Draw(t, "serial"),
				ObservedUtcMillis: now.UnixMilli() + rapid.Int64Range(-1e12, 1e12).Draw(t, "clock"),
				ValidMillis:       rapid.SampledFrom([]int64{-1, 0, 1, 90_000, 1 << 40, 1<<63 - 1}).Draw(t, "valid"),
				Ended:             rapid.Bool().Draw(t, "ended"),
			}, now)
			heard[session] = now
			v.expire(now)
			look()
			for id := range shown {
				if silent := now.Sub(heard[id]); silent > 5*time.Minute {
					t.Fatalf("a session that was silent for %v is shown", silent)
				}
			}
		}
		v.expire(now.Add(5 * time.Minute))
		look()
		if len(shown) != 0 {
			t.Fatalf("%d sessions are shown for ever", len(shown))
		}
		v.unwatch(account, w)
		v.expire(now.Add(5 * time.Minute))
		if len(v.accounts) != 0 {
			t.Fatal("what has ended is kept for ever")
		}
	})
}

// TestALostEndIsNoticed: what an agent claims today, 90 s, is what it gets.
func TestALostEndIsNoticed(t *testing.T) {
	v := newLiveView(slog.New(slog.DiscardHandler))
	account, session, began := resource.NewID(), resource.NewID(), time.Now()
	v.take(account, &usagev1.LiveSnapshot{SessionId: session[:], RunId: 1, Serial: 1, ValidMillis: 90_000}, began)
	w := v.watch(t.Context(), account)
	if there, _ := v.fetch(account, w); len(there) != 1 {
		t.Fatalf("there are %v", there)
	}
	v.expire(began.Add(89 * time.Second))
	if _, gone := v.fetch(account, w); len(gone) != 0 {
		t.Fatal("ended too early")
	}
	// The agent starts anew, with its clock set back by years: that is not newer, and
	// must not keep the old one alive either.
	v.take(account, &usagev1.LiveSnapshot{SessionId: session[:], RunId: 2, Serial: 1, ValidMillis: 90_000, ObservedUtcMillis: -1}, began.Add(80*time.Second))
	v.expire(began.Add(90 * time.Second))
	if _, gone := v.fetch(account, w); len(gone) != 1 || gone[0] != session {
		t.Fatalf("gone are %v", gone)
	}
}

// A desktop's clock may say anything; an answer must still be one that can be
// written.
func TestALiveTimeCanAlwaysBeWritten(t *testing.T) {
	id := bytes.Repeat([]byte{1}, 16)
	for _, ms := range []int64{math.MinInt64, firstStamp - 1, -1, 0, lastStamp + 1, math.MaxInt64} {
		session := liveSessionOf(&usagev1.LiveSnapshot{
			SessionId: id, ObservedUtcMillis: ms,
			Open: []*usagev1.OpenInstance{{InstanceId: id, ApplicationId: id, SinceUtcMillis: ms, OpenedUtcMillis: ms}},
		}, filter{}, newNameSet())
		if _, err := protojson.Marshal(session); err != nil {
			t.Errorf("%d: %v", ms, err)
		}
	}
}
