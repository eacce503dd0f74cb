package office

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// TestHistoryGoesOnWhereItStopped: a history that is stopped in the middle tells
// every moment once, and live snapshots of the past never leave the agent.
func TestHistoryGoesOnWhereItStopped(t *testing.T) {
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Stop()
	manager.SetPolicy(Policy())
	dir := t.TempDir()
	people := Staff()[1:3]

	const days = 6
	run := func(stopAt float64) (reached float64) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var mu sync.Mutex
		o, err := New(Config{
			Dir: dir, Manager: manager.Address(), Staff: people, Days: days, Seed: 5, Applications: len(Applications()),
			Progress: func(share float64) {
				mu.Lock()
				defer mu.Unlock()
				reached = share
				if share >= stopAt {
					cancel()
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.load(ctx); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return reached
	}
	if reached := run(0.4); reached < 0.4 || reached >= 1 {
		t.Fatalf("stopped at %v", reached)
	}
	first := manager.Count()
	if reached := run(1); reached != 1 {
		t.Fatalf("ended at %v", reached)
	}
	if manager.Count() <= first {
		t.Errorf("the second run added nothing to %d records", first)
	}
	if live := manager.Live(); len(live) > 0 {
		t.Errorf("%d live snapshots of the past", len(live))
	}
	for _, hello := range manager.Hellos() {
		if age := time.Since(time.UnixMilli(hello.GetUtcMillis())); age.Abs() > time.Minute {
			t.Errorf("a hello is %v old", age)
		}
	}
	for _, problem := range manager.Problems() {
		t.Error(problem)
	}

	// Intervals of each instance and document follow one another.
	at := map[string]int64{}
	var busy time.Duration
	for _, event := range manager.Usage() {
		key := string(event.GetInstanceId()) + string(event.GetDocumentId())
		closed := event.GetClosed()
		if closed != nil && closed.GetFromBootMillis() != at[key] {
			t.Fatalf("an interval begins at %d where the one before ended at %d", closed.GetFromBootMillis(), at[key])
		}
		at[key] = event.GetAtBootMillis()
		if closed.GetAttention() == usagev1.Attention_ATTENTION_BUSY && len(event.GetDocumentId()) == 0 {
			busy += time.Duration(closed.GetToBootMillis()-closed.GetFromBootMillis()) * time.Millisecond
		}
	}
	if perDay := busy / time.Duration(days*len(people)); perDay < 90*time.Minute || perDay > 6*time.Hour {
		t.Errorf("busy for %v a day and person, which is not like life", perDay)
	} else {
		t.Logf("busy for %v a day and person, %d records", perDay, manager.Count())
	}
}
