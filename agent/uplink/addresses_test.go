package uplink_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"

	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
)

// nobody listens there.
const nobody = "127.0.0.1:1"

func (r *rig) adopts(t *testing.T, want ...string) {
	t.Helper()
	select {
	case got := <-r.adopted:
		if !slices.Equal(got, want) {
			t.Errorf("%q is adopted, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("after a minute %q is not adopted; the status is %+v", want, r.uplink.Status())
	}
}

// union checks that two Managers hold, together, all that was journalled, and that where
// both hold a record it is the same.
func union(t *testing.T, a, b *uplinktest.Manager, all int) {
	t.Helper()
	n := 0
	inA, inB := a.Records(), b.Records()
	for key, records := range inB {
		for seq, raw := range records {
			if before, both := inA[key][seq]; both && !bytes.Equal(before, raw) {
				t.Errorf("record %d has two contents", seq)
			} else if !both {
				n++
			}
		}
	}
	for _, records := range inA {
		n += len(records)
	}
	if n != all {
		t.Errorf("the two hold %d records, %d were journalled", n, all)
	}
}

// A site moves from one Manager to another with records on the way: nothing is lost, and
// what both have is the same. Then the old one may go.
func TestMovesToTheManagersThatOneNames(t *testing.T) {
	t.Parallel()
	old, next := manager(t, 1), manager(t, 2)
	r := start(t, quick(old.Address()))
	r.delivers(t, 10)
	old.SetFaults(uplinktest.Faults{DropAck: 500, CutAfter: 100})
	r.append(200)
	old.SetManagers(next.Address(), nobody)
	r.append(100)
	r.adopts(t, next.Address(), nobody)
	r.delivers(t, 20)
	union(t, old, next, 330)
	noProblems(t, old)
	noProblems(t, next)
	came := len(old.Hellos())
	old.Stop()
	next.CutAll()
	r.delivers(t, 10)
	if n := len(old.Hellos()); n != came {
		t.Errorf("the old Manager was asked %d times more", n-came)
	}
	if got := r.uplink.Addresses(); !slices.Equal(got, []string{next.Address(), nobody, old.Address()}) {
		t.Errorf("the addresses are %q", got)
	}
}

// A Manager that is among those that it names is stayed with, and they are adopted.
func TestAdoptsWithoutMoving(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	m.SetManagers(nobody, m.Address())
	r := start(t, quick(m.Address()))
	r.adopts(t, nobody, m.Address())
	r.delivers(t, 10)
	if n := len(m.Hellos()); n != 1 {
		t.Errorf("it came %d times", n)
	}
}

// Nobody's word locks an agent out: named Managers that do not answer, or that refuse it,
// are not adopted, and adopted ones that have gone leave those that were configured.
func TestNoWordLocksOut(t *testing.T) {
	t.Parallel()
	m, refusing := manager(t, 1), manager(t, 2)
	config := quick(m.Address())
	config.Adopted = []string{nobody}
	r := start(t, config)
	r.delivers(t, 10)
	m.SetManagers("http://nonsense")
	m.SetManagers(nobody + "0")
	until(t, "it tells that the one named cannot be reached", func() bool { return strings.Contains(r.uplink.Status().Preferred, nobody+"0") })
	r.delivers(t, 10)
	refusing.Refuse(&agentv1.Refusal{Reason: "FOREIGN_ACCOUNT"})
	m.SetManagers(refusing.Address())
	until(t, "it was refused", func() bool { return len(refusing.Hellos()) > 0 })
	refusing.Stop()
	r.delivers(t, 10)
	if m.Count() != 30 {
		t.Errorf("the Manager has %d records of 30", m.Count())
	}
	select {
	case got := <-r.adopted:
		t.Errorf("%q is adopted", got)
	default:
	}
}
