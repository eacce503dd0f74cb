package desks_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/desks"
	"github.com/cetrus/cetrus/tools/office"
)

// TestThePastGoesOnWhereItStopped: a past whose loading is stopped in the middle is told
// moment by moment once, and live snapshots of the past never leave the agent.
func TestThePastGoesOnWhereItStopped(t *testing.T) {
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Stop()
	manager.SetPolicy(office.Policy())
	dir := t.TempDir()
	people := []desks.Desk{
		{Number: 0, Host: "ws-1", Past: hours("ada")},
		{Number: 1, Host: "ws-2", Past: hours("ben"), Early: true},
		{Number: 2, Host: "srv-1", Past: hours("eve"), Whole: true},
	}

	const days = 22 // two stretches
	run := func(stopAt float64) (reached float64) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var mu sync.Mutex
		room, err := desks.New(desks.Config{
			Dir: dir, Sites: []desks.Site{{Manager: manager.Address()}}, Desks: people, Days: days, Seed: 5, Applications: len(office.Applications()),
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
		if err := room.Run(ctx); err != nil {
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
	// Agents tell how far they are, as one that was away does, and last that nothing is left.
	told, partly := manager.Health(), 0
	for _, h := range told {
		b := h.GetBacklog()
		if b == nil {
			continue
		}
		if b.GetSentMillis() > b.GetTimeMillis() || b.GetOldestUtcMillis() >= b.GetNewestUtcMillis() || b.GetTimeMillis() < (days-1)*24*time.Hour.Milliseconds() {
			t.Errorf("an agent tells %v", b)
		}
		if b.GetSentMillis() > 0 {
			partly++
		}
	}
	if partly == 0 || told[len(told)-1].GetBacklog() != nil || told[len(told)-1].GetUnacknowledgedRecords() != 0 {
		t.Errorf("of %d words %d are of the middle; the last: %v", len(told), partly, told[len(told)-1])
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
	// Of each day four hours; the last one has only begun.
	if per := busy / time.Duration(days*len(people)); per < 230*time.Minute || per > 255*time.Minute {
		t.Errorf("busy for %v a day and person, not for 4h", per)
	}
}

// hours is a past of four hours' work each morning.
func hours(user string) func(from, to time.Time) scripted.Script {
	return func(from, to time.Time) scripted.Script {
		var steps []scripted.Step
		for at := time.Duration(0); from.Add(at + 5*time.Hour).Before(to); at += 24 * time.Hour {
			steps = append(steps,
				scripted.Step{At: at, Do: scripted.LogOn{User: activity.User{Name: user}}},
				scripted.Step{At: at, Do: scripted.Start{PID: 7, Parent: 1, Path: "/usr/bin/blender"}},
				scripted.Step{At: at, Do: scripted.Show{ID: 1, PID: 7, Title: "Lobby.blend - Blender"}},
				scripted.Step{At: at, Do: scripted.Focus{ID: 1}},
				scripted.Step{At: at, Do: scripted.Inputs{For: 4 * time.Hour, Every: 25 * time.Second}},
				scripted.Step{At: at + 5*time.Hour, Do: scripted.LogOff{}})
		}
		return scripted.Steps(steps...)
	}
}

// TestStretches: the newest comes first, and together they are the past without a hole.
func TestStretches(t *testing.T) {
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Stop()
	manager.SetPolicy(office.Policy())
	type span struct{ from, to time.Time }
	var told []span
	desk := desks.Desk{Host: "ws-1", Past: func(from, to time.Time) scripted.Script {
		told = append(told, span{from, to})
		return scripted.Steps()
	}}
	for _, days := range []int{1, 14, 30, 210} {
		told = nil
		room, err := desks.New(desks.Config{Dir: t.TempDir(), Sites: []desks.Site{{Manager: manager.Address()}}, Desks: []desks.Desk{desk}, Days: days, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := room.Run(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		to := room.To()
		for _, s := range told {
			if !s.to.Equal(to) || !s.from.Before(s.to) {
				t.Errorf("%d days: a stretch from %v to %v where it should end at %v", days, s.from, s.to, to)
			}
			to = s.from
		}
		if !to.Equal(room.From()) {
			t.Errorf("%d days: they begin at %v, not at %v", days, to, room.From())
		}
	}
}

// TestWhatWasMissedIsMadeUp: the time in which nothing ran is loaded at the next start, once.
func TestWhatWasMissedIsMadeUp(t *testing.T) {
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Stop()
	manager.SetPolicy(office.Policy())
	dir := t.TempDir()
	run := func() (told [][2]time.Time) {
		desk := desks.Desk{Host: "ws-1", Past: func(from, to time.Time) scripted.Script {
			told = append(told, [2]time.Time{from, to})
			return scripted.Steps()
		}}
		room, err := desks.New(desks.Config{Dir: dir, Sites: []desks.Site{{Manager: manager.Address()}}, Desks: []desks.Desk{desk}, Days: 2, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := room.Run(ctx); err != nil {
			t.Fatal(err)
		}
		return told
	}
	if told := run(); len(told) != 1 {
		t.Fatalf("at first %v", told)
	}
	if told := run(); len(told) != 0 {
		t.Fatalf("nothing was missed, and %v is told", told)
	}
	stopped := time.Now().Add(-3 * time.Hour).Truncate(time.Second)
	text, err := json.Marshal(stopped)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "alive.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	told := run()
	if len(told) != 1 || !told[0][0].Equal(stopped) || time.Since(told[0][1]) > time.Minute {
		t.Fatalf("of three hours %v is told", told)
	}
	if told := run(); len(told) != 0 {
		t.Fatalf("it is made up again: %v", told)
	}
}

// TestAPastThatFailsIsToldAtOnce: it does not wait for the past of all others.
func TestAPastThatFailsIsToldAtOnce(t *testing.T) {
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Stop()
	manager.SetPolicy(office.Policy())
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "machines"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "machines", "ws-1"), nil, 0o600); err != nil { // where its folder is to be
		t.Fatal(err)
	}
	var mu sync.Mutex
	reached := 0.0
	room, err := desks.New(desks.Config{
		Dir: dir, Sites: []desks.Site{{Manager: manager.Address()}}, Days: 300, Seed: 5, Applications: len(office.Applications()),
		Desks: []desks.Desk{{Number: 0, Host: "ws-1", Past: hours("ada")}, {Number: 1, Host: "ws-2", Past: hours("ben")}},
		Progress: func(share float64) {
			mu.Lock()
			defer mu.Unlock()
			reached = max(reached, share)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := room.Run(ctx); err == nil || !strings.Contains(err.Error(), "ws-1") {
		t.Errorf("it ends with %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if reached > 0.25 { // half of all is another's
		t.Errorf("it was told when %v were loaded", reached)
	}
}
