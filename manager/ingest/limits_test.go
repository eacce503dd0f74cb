package ingest

import (
	"log/slog"
	"math"
	"testing"
	"time"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

func TestAnAgentKeepsABoundedNumberOfLiveSessionsForABoundedTime(t *testing.T) {
	now := time.Now()
	s := New(Config{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }}, Deps{})
	session := func(n int) contract.ID { return contract.ID{byte(n), byte(n >> 8)} }
	a, other := &agent{id: contract.ID{1}}, &agent{id: contract.ID{2}}
	eternal := &usagev1.LiveSnapshot{ValidMillis: math.MaxInt64}
	for n := range maxLivePerAgent {
		if !s.keepLive(a, session(n), eternal, now) {
			t.Fatalf("session %d is not kept", n)
		}
	}
	if s.keepLive(a, session(maxLivePerAgent), eternal, now) {
		t.Error("one too many is kept")
	}
	if !s.keepLive(a, session(0), eternal, now) || !s.keepLive(other, session(0), eternal, now) {
		t.Error("a known session, or another agent's, is not kept")
	}
	s.keepLive(a, session(0), &usagev1.LiveSnapshot{Ended: true}, now)
	if !s.keepLive(a, session(maxLivePerAgent), eternal, now) {
		t.Error("there is no room where a session ended")
	}
	now = now.Add(maxLiveValid + time.Millisecond)
	s.forgetStaleLive()
	if len(s.live) != 0 || len(s.liveOf) != 0 {
		t.Errorf("%d sessions stay", len(s.live))
	}
}

func TestAnAgentBeginsABoundedNumberOfEpochs(t *testing.T) {
	a := &agent{}
	now := time.Now()
	for n := range uint64(maxNewEpochs) {
		for range 2 {
			if !a.mayBegin(n+1, now) {
				t.Fatalf("epoch %d is refused", n+1)
			}
		}
	}
	if a.mayBegin(maxNewEpochs+1, now) {
		t.Error("one too many may begin")
	}
	if !a.mayBegin(maxNewEpochs, now) {
		t.Error("a known epoch may not go on")
	}
	if !a.mayBegin(maxNewEpochs+1, now.Add(newEpochsPeriod+1)) {
		t.Error("none may begin later")
	}
}

func TestAnEpochHasABoundedNumberOfGaps(t *testing.T) {
	k := &known{}
	frame := func(first uint64) *frame {
		return &frame{first: first, records: [][]byte{{1}}, before: make([]byte, 32), after: make([]byte, 32)}
	}
	for n := range uint64(maxSpans) {
		f := frame(3*n + 1)
		if v := k.judge(f); v != unknown {
			t.Fatalf("span %d: %v", n, v)
		}
		k.add(f.first, f.last(), contract.Hash{})
	}
	if v := k.judge(frame(3*maxSpans + 1)); v != scattered {
		t.Errorf("one gap too many: %v", v)
	}
	for _, first := range []uint64{3*maxSpans - 1, 3} {
		if v := k.judge(frame(first)); v != unknown {
			t.Errorf("what joins a span at %d: %v", first, v)
		}
	}
}
