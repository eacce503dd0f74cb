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

// TestDayOfWork writes days and says how large their journal is: an office day, and the
// worst that is planned for, of which six weeks have to fit the journal's default size.
func TestDayOfWork(t *testing.T) {
	for _, d := range []day{
		{name: "office", apps: 8, documented: 4, windows: 2, hours: 9, most: 1 << 20},
		{name: "heavy, never shut down", apps: 20, documented: 20, windows: 2, hours: 24, most: journal.DefaultMaxBytes / 42},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			d.write(t)
		})
	}
}

// day is nine hours of work: so many monitored programs, documents in some of them, in so
// many windows each, a change of window every 40 s on average, breaks, a lunch with the
// screen locked. Everything stays open for so many hours.
type day struct {
	name                      string
	apps, documented, windows int
	hours                     int64
	// most is how many bytes it may take.
	most int64
}

func (d day) write(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c := config(t.TempDir())
	c.SegmentBytes = 0
	j := open(t, c)
	m := activity.New(activity.Config{Alias: func(activity.User) contract.ID { return contract.ID{1} }})
	policy := &policyv1.Policy{Revision: 1, DocumentKey: make([]byte, 32)}
	session := activity.Session{Key: "1", User: activity.User{Name: "ann"}}
	for n := range d.apps {
		id := contract.ID{2, byte(n)}
		policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: fmt.Sprint("app", n)}},
			Documents: n < d.documented, DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME,
		})
		session.Processes = append(session.Processes, activity.Process{PID: int32(10 + n), StartMillis: 1, Executable: fmt.Sprint("app", n)})
		for w := range d.windows {
			session.Windows = append(session.Windows, activity.Window{ID: uint64(100 + d.windows*n + w), PID: int32(10 + n), Title: fmt.Sprintf("file%d-%d.docx", n, w)})
		}
	}
	if err := m.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	const hour = int64(3_600_000)
	now, events, slots, largest := int64(0), 0, 0, 0
	for now < d.hours*hour {
		session.Locked = now > 4*hour && now < 4*hour+hour/2
		working := now < 9*hour
		if working && random.IntN(40) == 0 {
			session.Foreground = session.Windows[random.IntN(len(session.Windows))].ID
		}
		resting := now/600_000%7 == 6
		if working && !session.Locked && !resting && random.IntN(6) == 0 {
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
	t.Logf("%d events, %d bytes (%d an event), %d slots of at most %d bytes", events, j.Bytes(), j.Bytes()/int64(events), slots, largest)
	if j.Bytes() > d.most {
		t.Fatalf("a day takes %d bytes of at most %d", j.Bytes(), d.most)
	}
}
