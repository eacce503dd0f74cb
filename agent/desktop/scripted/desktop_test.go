package scripted_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
)

var begin = time.Date(2026, 3, 28, 23, 0, 0, 0, time.UTC)

// play collects what a script tells.
func play(tb interface {
	Helper()
	Fatal(args ...any)
}, config scripted.Config,
) []activity.Observation {
	tb.Helper()
	d := scripted.New(config)
	defer d.Close()
	var told []activity.Observation
	if err := d.Watch(context.Background(), func(o activity.Observation) { told = append(told, o) }); err != nil {
		tb.Fatal(err)
	}
	if !d.Over() {
		tb.Fatal("the script is not over")
	}
	return told
}

func at(d time.Duration, do scripted.Action) scripted.Step { return scripted.Step{At: d, Do: do} }

func TestTellsEachChangeAtItsTime(t *testing.T) {
	t.Parallel()
	told := play(t, scripted.Config{Begin: begin, Booted: time.Hour, Period: time.Hour, Script: scripted.Steps(
		at(0, scripted.LogOn{User: activity.User{Name: "anna"}}),
		at(1500*time.Millisecond, scripted.Start{PID: 7, Parent: 1, Path: "/opt/cad/cad"}),
		at(1500*time.Millisecond, scripted.Show{ID: 3, PID: 7, Class: "Cad", Title: "bridge"}),
		at(2*time.Second, scripted.Focus{ID: 3}),
		at(3*time.Second, scripted.Inputs{For: 20 * time.Second, Every: 10 * time.Second}),
		at(60*time.Second, scripted.Exit{PID: 7}),
	)})
	const boot = 3_600_000
	var times []int64
	for _, o := range told {
		times = append(times, o.BootMillis-boot)
		if o.UTCMillis != begin.UnixMilli()+o.BootMillis-boot || o.AwakeMillis != o.BootMillis {
			t.Errorf("clocks disagree: %+v", o)
		}
	}
	want := []int64{0, 1500, 2000, 3000, 13_000, 23_000, 60_000}
	if len(times) != len(want) {
		t.Fatalf("observations at %v, want %v", times, want)
	}
	for i := range want {
		if times[i] != want[i] {
			t.Fatalf("observations at %v, want %v", times, want)
		}
	}
	started := told[1].Sessions[0]
	if len(started.Processes) != 1 || started.Processes[0].Executable != "cad" || started.Processes[0].StartMillis != boot+1500 || len(started.Windows) != 1 {
		t.Errorf("after the start: %+v", started)
	}
	if s := told[5].Sessions[0]; s.LastInputMillis != boot+23_000 || s.Foreground != 3 || !s.SameProcesses {
		t.Errorf("at the last input: %+v", s)
	}
	if s := told[6].Sessions[0]; len(s.Processes) != 0 || len(s.Windows) != 0 || s.SameWindows || s.Foreground != 0 {
		t.Errorf("after the exit: %+v", s)
	}
}

func TestSleepClockZoneAndReboot(t *testing.T) {
	t.Parallel()
	told := play(t, scripted.Config{Begin: begin, Booted: time.Hour, Period: 24 * time.Hour, Script: scripted.Steps(
		at(0, scripted.LogOn{}),
		at(time.Second, scripted.Inputs{For: time.Hour, Every: time.Minute}),
		at(10*time.Minute, scripted.Sleep{For: 30 * time.Minute}),
		at(50*time.Minute, scripted.SetClock{By: -10 * time.Minute}),
		at(51*time.Minute, scripted.SetZone{OffsetSeconds: 7200}),
		at(2*time.Hour, scripted.Reboot{After: time.Minute}),
		at(3*time.Hour, scripted.LogOn{}),
	)})
	var asleepInput bool
	var jump, slept int64
	boots := map[[16]byte]bool{}
	for i, o := range told {
		boots[o.BootID] = true
		slept = max(slept, o.BootMillis-o.AwakeMillis)
		if i > 0 && told[i-1].BootID == o.BootID {
			jump = max(jump, o.BootMillis-told[i-1].BootMillis)
			if o.BootMillis < told[i-1].BootMillis || o.AwakeMillis < told[i-1].AwakeMillis {
				t.Errorf("time went back from %+v to %+v", told[i-1], o)
			}
		}
		for _, s := range o.Sessions {
			since := s.LastInputMillis - 3_600_000
			asleepInput = asleepInput || since > 10*60_000 && since < 40*60_000
		}
	}
	if asleepInput {
		t.Error("there was an input while the machine slept")
	}
	if slept != 30*60_000 {
		t.Errorf("the machine slept %d ms, want %d", slept, 30*60_000)
	}
	if len(boots) != 2 {
		t.Errorf("%d boots, want 2", len(boots))
	}
	last := told[len(told)-1]
	if last.BootMillis != 59*60_000 || last.ZoneOffsetSeconds != 7200 || last.UTCMillis != begin.Add(3*time.Hour-10*time.Minute).UnixMilli() {
		t.Errorf("the last observation is %+v", last)
	}
}

// Whatever the script, the same one gives the same observations, time never goes
// back within a boot, and being watched in pieces changes nothing about the machine.
func TestSameScriptSameObservations(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(randomStep), 0, 40).Draw(t, "steps")
		config := func() scripted.Config {
			return scripted.Config{Begin: begin, Booted: time.Hour, Period: 7 * time.Second, Script: scripted.Steps(steps...)}
		}
		first, second := play(t, config()), play(t, config())
		if text(first) != text(second) {
			t.Fatal("two runs differ")
		}
		for i := 1; i < len(first); i++ {
			if first[i].BootID == first[i-1].BootID && (first[i].BootMillis < first[i-1].BootMillis || first[i].AwakeMillis < first[i-1].AwakeMillis) {
				t.Fatalf("time goes back from %+v to %+v", first[i-1], first[i])
			}
		}
		d := scripted.New(config())
		defer d.Close()
		var last activity.Observation
		for pieces := 0; pieces == 0 || !d.Over(); pieces++ {
			ctx, cancel := context.WithCancel(context.Background())
			// Time stands still until the second observation of a piece, so each gets on.
			left := rapid.IntRange(2, 10).Draw(t, "piece")
			err := d.Watch(ctx, func(o activity.Observation) {
				last = o
				if left--; left == 0 {
					cancel()
				}
			})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if pieces > 10_000 {
				t.Fatal("watching in pieces does not get on")
			}
		}
		end := first[len(first)-1]
		if last.BootID != end.BootID || last.UTCMillis-last.BootMillis != end.UTCMillis-end.BootMillis || len(last.Sessions) != len(end.Sessions) {
			t.Fatalf("in pieces it ends as %+v, in one as %+v", last, end)
		}
	})
}

func text(told []activity.Observation) string {
	b, err := json.Marshal(told)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func randomStep(t *rapid.T) scripted.Step {
	span := func(name string, most time.Duration) time.Duration {
		return time.Duration(rapid.Int64Range(1, int64(most)).Draw(t, name))
	}
	pid := rapid.Int32Range(1, 4).Draw(t, "pid")
	window := rapid.Uint64Range(1, 4).Draw(t, "window")
	return scripted.Step{
		At:      span("at", time.Hour),
		Session: rapid.SampledFrom([]string{"", "rdp"}).Draw(t, "session"),
		Do: rapid.SampledFrom([]scripted.Action{
			scripted.LogOn{},
			scripted.LogOff{},
			scripted.Lock{},
			scripted.Unlock{},
			scripted.Disconnect{},
			scripted.Connect{},
			scripted.Start{PID: pid, Path: "/bin/a"},
			scripted.Exit{PID: pid},
			scripted.Show{ID: window, PID: pid},
			scripted.Hide{ID: window},
			scripted.Title{ID: window, Title: "t"},
			scripted.Focus{ID: window},
			scripted.Input{},
			scripted.Inputs{For: span("for", time.Hour), Every: 5*time.Second + span("every", time.Minute)},
			scripted.Pause{},
			scripted.Resume{},
			scripted.Sleep{For: span("sleep", time.Hour)},
			scripted.SetClock{By: span("step", time.Hour)},
			scripted.SetZone{OffsetSeconds: 20_700},
			scripted.Reboot{After: span("reboot", time.Minute)},
			scripted.Blind{For: span("blind", time.Minute)},
			scripted.FocusUnsupported{Is: true},
		}).Draw(t, "do"),
	}
}

// In virtual time a slow listener is waited for; a month takes moments.
func TestAMonthInMoments(t *testing.T) {
	t.Parallel()
	script := func(yield func(scripted.Step) bool) {
		for day := range 30 {
			morning := time.Duration(day)*24*time.Hour + 8*time.Hour
			for _, s := range []scripted.Step{
				at(morning, scripted.LogOn{User: activity.User{Name: "anna"}}),
				at(morning, scripted.Inputs{For: 8 * time.Hour, Every: 10 * time.Second}),
				at(morning+9*time.Hour, scripted.LogOff{}),
			} {
				if !yield(s) {
					return
				}
			}
		}
	}
	began := time.Now()
	told := play(t, scripted.Config{Begin: begin, Script: script, Period: time.Minute})
	if len(told) < 30*8*360 {
		t.Errorf("%d observations only", len(told))
	}
	t.Logf("30 days, %d observations, %v", len(told), time.Since(began))
}

func TestRealTimeAndLookNow(t *testing.T) {
	t.Parallel()
	d := scripted.New(scripted.Config{Begin: begin, Pace: scripted.Real(), Period: time.Hour, Endless: true, Script: scripted.Steps(
		at(0, scripted.LogOn{}), at(30*time.Millisecond, scripted.Lock{}),
	)})
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan activity.Observation, 16)
	done := make(chan error, 1)
	go func() { done <- d.Watch(ctx, func(o activity.Observation) { told <- o }) }()
	for o := range told {
		if len(o.Sessions) == 1 && o.Sessions[0].Locked {
			break
		}
	}
	d.LookNow()
	if o := <-told; o.BootMillis < 30 {
		t.Errorf("looked at %d", o.BootMillis)
	}
	cancel()
	<-told // the last one
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// The machine lives on while nobody watches.
	before := d.Elapsed()
	<-time.After(20 * time.Millisecond)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- d.Watch(ctx, func(o activity.Observation) { told <- o }) }()
	if o := <-told; time.Duration(o.BootMillis)*time.Millisecond < before+20*time.Millisecond {
		t.Errorf("it is %d ms, %v had passed before", o.BootMillis, before)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
