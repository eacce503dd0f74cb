package company

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

func made(t *testing.T, seed uint64) *Company {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Seed: seed, People: 60, Days: 400, Begin: time.Date(2025, 9, 1, 0, 0, 0, 0, time.UTC), Zone: zone, Attendance: 45, Minutes: 70})
}

// TestJournalsHold: what agents tell is what real ones do: chains and anchors that hold, and of each
// run or document, intervals that join from its opening to its close.
func TestJournalsHold(t *testing.T) {
	type journal struct {
		agent contract.ID
		epoch uint64
	}
	chains := make(map[journal]map[uint64]contract.Hash)
	type thing struct{ instance, document contract.ID }
	reached := make(map[thing][]*usagev1.Interval)
	opened, closed := make(map[thing]int64), make(map[thing]int64)
	seen := make(map[string]bool)
	events, frames, late, attentions := 0, 0, 0, make(map[usagev1.Attention]int)
	began := time.Now()
	c := made(t, 1)
	err := c.Days(func(day int, came []Delivery) error {
		for _, d := range came {
			frames++
			frame := &usagev1.Frame{}
			if err := proto.Unmarshal(d.Frame.GetFrame(), frame); err != nil {
				return err
			}
			j := journal{contract.ID(frame.GetAgentId()), frame.GetEpoch()}
			if chains[j] == nil {
				chains[j] = map[uint64]contract.Hash{0: {}}
			}
			chain := contract.Hash(frame.GetChainBefore())
			anchor := frame.GetAnchors()[0]
			for _, record := range frame.GetRecords() {
				chain = contract.Chain(chain, record)
				r := &usagev1.Record{}
				if err := proto.Unmarshal(record, r); err != nil {
					return err
				}
				u := r.GetUsage()
				if seen[string(u.GetEventId())] {
					continue
				}
				seen[string(u.GetEventId())] = true
				events++
				utc := func(boot int64) int64 { return anchor.GetUtcMillis() + boot - anchor.GetBootMillis() }
				if u.GetAtBootMillis() < 0 || u.GetAnchorId() != contract.AnchorID(anchor) {
					t.Fatalf("an event at %d", u.GetAtBootMillis())
				}
				of := thing{instance: contract.ID(u.GetInstanceId())}
				if len(u.GetDocumentId()) > 0 {
					of.document = contract.ID(u.GetDocumentId())
				}
				if u.GetTransition() == usagev1.Transition_TRANSITION_OPENED {
					opened[of] = utc(u.GetAtBootMillis())
				}
				if u.GetTransition() == usagev1.Transition_TRANSITION_CLOSED {
					closed[of] = utc(u.GetAtBootMillis())
				}
				if i := u.GetClosed(); i != nil {
					attentions[i.GetAttention()]++
					reached[of] = append(reached[of], &usagev1.Interval{FromBootMillis: utc(i.GetFromBootMillis()), ToBootMillis: utc(i.GetToBootMillis())})
				}
			}
			if !bytes.Equal(chain[:], frame.GetChainAfter()) {
				t.Fatal("a chain does not hold")
			}
			chains[j][frame.GetFirstSeq()+uint64(len(frame.GetRecords()))-1] = chain
			if day > 400 {
				late++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events in %d frames, %d of them after the last day, of %d runs and documents, within %v: %v", events, frames, late, len(opened), time.Since(began), attentions)
	if events < 100_000 || late == 0 || len(attentions) != 7 {
		t.Error("that is too little")
	}
	for of, parts := range reached {
		at := opened[of]
		for len(parts) > 0 { // they came in any order
			joined := false
			for i, part := range parts {
				if part.GetFromBootMillis() == at && (part.GetToBootMillis() > at || len(parts) == 1) {
					at, joined = part.GetToBootMillis(), true
					parts = append(parts[:i], parts[i+1:]...)
					break
				}
			}
			if !joined {
				rest := parts[:0]
				for _, part := range parts {
					if part.GetFromBootMillis() != part.GetToBootMillis() {
						rest = append(rest, part)
					}
				}
				if len(rest) == len(parts) {
					t.Fatalf("of %x nothing goes on at %d", of.instance, at)
				}
				parts = rest
			}
		}
		if at != closed[of] {
			t.Fatalf("%x is told until %d, and closed at %d", of.instance, at, closed[of])
		}
	}
}

// TestSameSeedSameCompany, but for what is drawn where nobody sees it.
func TestSameSeedSameCompany(t *testing.T) {
	told := func(seed uint64) (all [][]byte) {
		c := made(t, seed)
		c.config.Days = 30
		if err := c.Days(func(_ int, came []Delivery) error {
			for _, d := range came {
				all = append(all, d.Frame.GetFrame())
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	one, same, other := told(1), told(1), told(2)
	equal := func(a, b [][]byte) bool {
		if len(a) != len(b) {
			return false
		}
		for i := range a {
			if !bytes.Equal(a[i], b[i]) {
				return false
			}
		}
		return true
	}
	if !equal(one, same) || equal(one, other) {
		t.Error("a company does not follow from its seed")
	}
}
