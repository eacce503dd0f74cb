package journal_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/journal"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// TestDayOfWorkFitsOneMegabyte writes a day as office work is: nine hours, eight
// monitored programs open, documents in four of them, a change of window every 40 s on
// average, breaks, a lunch with the screen locked.
func TestDayOfWorkFitsOneMegabyte(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c := config(t.TempDir())
	c.SegmentBytes = 0
	j := open(t, c)
	m := activity.New(activity.Config{Alias: func(activity.User) contract.ID { return contract.ID{1} }})
	policy := &policyv1.Policy{Revision: 1, DocumentKey: make([]byte, 32)}
	session := activity.Session{Key: "1", User: activity.User{Name: "ann"}}
	const apps = 8
	for n := range apps {
		id := contract.ID{2, byte(n)}
		policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: fmt.Sprint("app", n)}},
			Documents: n < 4, DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME,
		})
		session.Processes = append(session.Processes, activity.Process{PID: int32(10 + n), StartMillis: 1, Executable: fmt.Sprint("app", n)})
		for w := range 2 {
			session.Windows = append(session.Windows, activity.Window{ID: uint64(100 + 2*n + w), PID: int32(10 + n), Title: fmt.Sprintf("file%d-%d.docx", n, w)})
		}
	}
	if err := m.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	const hour = int64(3_600_000)
	now, events, slots, largest := int64(0), 0, 0, 0
	for now < 9*hour {
		session.Locked = now > 4*hour && now < 4*hour+hour/2
		if random.IntN(40) == 0 {
			session.Foreground = session.Windows[random.IntN(len(session.Windows))].ID
		}
		resting := now/600_000%7 == 6
		if !session.Locked && !resting && random.IntN(6) == 0 {
			session.LastInputMillis = now
		}
		out := m.Observe(activity.Observation{
			BootID: contract.ID{3}, BootMillis: now, AwakeMillis: now, UTCMillis: 1_750_000_000_000 + now,
			Sessions: []activity.Session{session},
		})
		events += len(out.Events)
		if len(out.Events) > 0 {
			if err := j.Append(t.Context(), journal.Batch{Usage: out.Events, Anchors: out.Anchors}); err != nil {
				t.Fatal(err)
			}
		}
		if out.SlotDue {
			slot := m.Slot()
			slots, largest = slots+1, max(largest, len(slot))
			if err := j.WriteSlot(slot); err != nil {
				t.Fatal(err)
			}
		}
		now += 1000
	}
	t.Logf("%d events, %d bytes, %d slots of at most %d bytes", events, j.Bytes(), slots, largest)
	if j.Bytes() > 1<<20 {
		t.Fatalf("a day takes %d bytes", j.Bytes())
	}
}
