package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

const (
	// The shortest settings that tests may use, so that idling takes seconds. The
	// script keeps every gap between inputs two seconds away from activityGap.
	activityGap = 5 * time.Second
	timeout     = 14 * time.Second
	// tolerance is how far the moment of a transition may be from the script's; a
	// quarter of what is promised, so that errors do not hide in sums.
	tolerance = 250 * time.Millisecond
)

// TestARealDesktop is the main job: real programs on a real X server, a person
// who works by script, and figures in the API that equal what the person did.
func TestARealDesktop(t *testing.T) {
	t.Parallel()
	began := time.Now()
	desktop := startDesktop(t)
	s := startPlatform(t)

	// 1. An administrator says what to meter.
	names := map[string]string{}
	for program := range catalog {
		created, err := s.api.CreateApplication(t.Context(), &meteringv1.Application{
			DisplayName: "The " + program, Rules: []*meteringv1.Rule{{Executable: program}},
			ActivityGap: durationpb.New(activityGap), Timeout: durationpb.New(timeout),
		})
		if err != nil {
			t.Fatal(err)
		}
		names[created.GetApplicationId()] = program
	}

	// 2. The agent starts, and gets the policy from its Manager.
	s.startAgent(desktop)
	eventually(t, time.Minute, "the agent to have the policy", func() error {
		status, err := s.status()
		if err == nil && (!status.Recording || len(status.Applications) != len(catalog)) {
			err = fmt.Errorf("status: %+v", status)
		}
		return err
	})

	// 3. A person works.
	p := &person{t: t, desktop: desktop, truth: newTruth(activityGap, timeout), open: map[string]*program{}}
	work(p, s)
	if err := p.truth.check(); err != nil {
		t.Fatalf("the script is at fault: %v", err)
	}
	if p.truth.changes < 40 {
		t.Fatalf("the script made %d changes; 40 are wanted", p.truth.changes)
	}
	end := time.Now()

	// 4. Everything is sent and counted.
	var groups []*meteringv1.UsageGroup
	eventually(t, time.Minute, "every instance to be closed and counted", func() error {
		var runs int
		for _, spans := range p.truth.runs {
			runs += len(spans)
		}
		list := &meteringv1.ListInstancesResponse{}
		if err := s.api.Get(t.Context(), "/v1/instances", url.Values{"page_size": {"100"}}, list); err != nil {
			return err
		}
		closed := 0
		for _, i := range list.GetInstances() {
			if i.GetCloseTime() != nil {
				closed++
			}
		}
		if closed != runs {
			return fmt.Errorf("%d of %d runs are closed, %d known", closed, runs, len(list.GetInstances()))
		}
		summary := &meteringv1.SummarizeUsageResponse{}
		err := s.api.Get(t.Context(), "/v1/usage:summarize", url.Values{
			"start_time": {began.UTC().Truncate(15 * time.Minute).Format(time.RFC3339)},
			"end_time":   {end.UTC().Truncate(15 * time.Minute).Add(15 * time.Minute).Format(time.RFC3339)},
			"group_by":   {"GROUP_BY_APPLICATION"},
		}, summary)
		groups = summary.GetGroups()
		return err
	})

	// 5. The figures equal the truth.
	if len(groups) != len(catalog) {
		t.Fatalf("the summary has %d groups, want %d: %v", len(groups), len(catalog), groups)
	}
	for _, g := range groups {
		compare(t, p.truth, names[g.GetApplicationId()], g.GetTotals(), end)
	}

	// 6. Nothing that the policy hides has touched a disk.
	for _, secret := range []string{windowTitle, typedText} {
		nowhereIn(t, secret, s.agent, s.platform)
	}
	t.Logf("%d changes in %v", p.truth.changes, end.Sub(began).Round(time.Second))
}

// work is the script. A rest of 8 s is idle, one of 1 s is not.
func work(p *person, s *deployment) {
	const pauseInWork, idle = time.Second, activityGap + 3*time.Second
	p.start("xterm")
	p.typeKeys(4)
	p.rest(idle)
	p.click("xterm")
	p.rest(pauseInWork)
	p.typeKeys(3)
	p.start("xcalc")
	p.rest(idle)
	p.click("xcalc")
	p.rest(pauseInWork)
	p.click("xcalc")
	// A stretch goes on over a switch: the time is busy on both sides of it.
	p.rest(pauseInWork)
	p.focus("xterm")
	p.typeKeys(3)
	p.rest(idle)
	p.start("xedit")
	p.typeKeys(5)
	p.rest(pauseInWork)
	p.minimize("xedit")
	p.rest(idle)
	p.focus("xcalc")
	p.rest(pauseInWork)
	p.click("xcalc")
	p.rest(pauseInWork + pauseInWork/2)
	p.click("xcalc")
	p.rest(idle)
	// Idle for longer than the timeout.
	p.focus("xterm")
	p.rest(timeout + 3*time.Second)
	p.typeKeys(3)
	p.rest(pauseInWork)
	p.start("xlogo")
	p.click("xlogo")
	p.rest(pauseInWork)
	p.click("xlogo")
	p.rest(pauseInWork)
	p.kill("xlogo")
	p.rest(idle)
	p.focus("xedit")
	p.typeKeys(4)
	p.rest(idle)
	p.pause(func() { p.must(s.ask("pause")) }, func() { p.must(s.ask("resume")) }, func() {
		p.rest(2 * time.Second)
		p.typeKeys(3)
		p.rest(2 * time.Second)
	})
	p.rest(idle)
	p.typeKeys(3)
	p.rest(idle)
	p.close("xcalc")
	p.rest(pauseInWork)
	p.focus("xterm")
	p.typeKeys(2)
	p.rest(idle)
	p.kill("xedit")
	p.rest(pauseInWork)
	p.start("xcalc")
	p.click("xcalc")
	p.rest(pauseInWork + pauseInWork/2)
	p.click("xcalc")
	p.rest(idle)
	p.close("xcalc")
	p.close("xterm")
}

func (p *person) must(out []byte, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

func compare(t *testing.T, truth *truth, program string, got *meteringv1.UsageTotals, end time.Time) {
	t.Helper()
	want := truth.expect(program, end)
	for _, figure := range []struct {
		name string
		got  time.Duration
		want spans
	}{
		{"open", got.GetOpen().AsDuration(), want.open},
		{"busy", got.GetBusy().AsDuration(), want.busy},
		{"idle", got.GetIdle().AsDuration(), want.idle},
		{"background", got.GetBackground().AsDuration(), want.background},
		{"paused", got.GetPaused().AsDuration(), want.paused},
	} {
		length := figure.want.length()
		allowed := max(time.Second, 2*tolerance*time.Duration(len(figure.want)))
		off := (figure.got - length).Abs()
		t.Logf("%-6s %-10s got %8.3f s, want %8.3f s, off %.3f s of %.1f s allowed", program, figure.name,
			figure.got.Seconds(), length.Seconds(), off.Seconds(), allowed.Seconds())
		if off > allowed {
			t.Errorf("%s: %s is %v, want %v", program, figure.name, figure.got, length)
		}
	}
	sum := got.GetSuspended().AsDuration() + got.GetUnknown().AsDuration() + got.GetPaused().AsDuration() + got.GetAway().AsDuration() +
		got.GetBusy().AsDuration() + got.GetIdle().AsDuration() + got.GetBackground().AsDuration()
	if sum != got.GetOpen().AsDuration() {
		t.Errorf("%s: open is %v, the seven attentions add up to %v", program, got.GetOpen().AsDuration(), sum)
	}
	if got.GetInstances() != want.instances {
		t.Errorf("%s: %d instances, want %d", program, got.GetInstances(), want.instances)
	}
	if off := got.GetTimeouts() - want.timeouts; max(off, -off) > want.undecided {
		t.Errorf("%s: %d timeouts, want %d (%d on the border)", program, got.GetTimeouts(), want.timeouts, want.undecided)
	}
}

// nowhereIn fails where a file below the directories holds the text, as it is or
// in UTF-16.
func nowhereIn(t *testing.T, text string, dirs ...string) {
	t.Helper()
	wide := make([]byte, 0, 2*len(text))
	for _, c := range []byte(text) {
		wide = append(wide, c, 0)
	}
	for _, dir := range dirs {
		files := 0
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil //nolint:nilerr // Files of a running database come and go.
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // As above.
			}
			files++
			if slices.ContainsFunc([][]byte{[]byte(text), wide}, func(b []byte) bool { return bytes.Contains(content, b) }) {
				t.Errorf("%s holds %q", path, text)
			}
			return nil
		})
		if err != nil || files == 0 {
			t.Errorf("%s: looked into %d files: %v", dir, files, err)
		}
	}
}
