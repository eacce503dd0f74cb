package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/wine"
)

// What programs are to be told as, in the tables of these tests.
const (
	busy       = usagev1.Attention_ATTENTION_BUSY
	idle       = usagev1.Attention_ATTENTION_IDLE
	background = usagev1.Attention_ATTENTION_BACKGROUND
	away       = usagev1.Attention_ATTENTION_AWAY
)

const (
	// untilIdle is longer than the gap, as far as two inputs have to be apart to be so surely.
	untilIdle = sessionGap + 1300*time.Millisecond
	keys      = 10 // together much longer than what is not judged at both ends
)

// meters makes an application of each program.
func (s *deployment) meters(programs ...string) {
	s.t.Helper()
	for _, program := range programs {
		if _, err := s.api.CreateApplication(s.t.Context(), &meteringv1.Application{
			DisplayName: program, Rules: []*meteringv1.Rule{{Executable: program}},
			ActivityGap: durationpb.New(sessionGap), Timeout: durationpb.New(30 * time.Minute),
		}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// startService starts the agent as the one of a machine, which watches all its sessions.
func (s *deployment) startService(logind *desktoptest.Logind) {
	s.t.Helper()
	settings := filepath.Join(s.t.TempDir(), "agent.yaml")
	if err := os.WriteFile(settings, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(s.binaries, "cetrus-agent"), "run", "--config", settings, "--data-dir", s.agent, "--manager", s.manager)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DBUS_SYSTEM_BUS_ADDRESS=" + logind.Address}
	startChild(s.t, cmd)
	s.knows(s.status)
}

// knows waits until an agent records by the policy.
func (s *deployment) knows(status func() (agentStatus, error)) {
	s.t.Helper()
	list := &meteringv1.ListApplicationsResponse{}
	if err := s.api.Get(s.t.Context(), "/v1/applications", nil, list); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, time.Minute, "the agent to have the policy", func() error {
		status, err := status()
		if err == nil && len(status.Applications) != len(list.GetApplications()) {
			err = fmt.Errorf("status: %+v", status)
		}
		return err
	})
}

// workTogether has people type at once.
func workTogether(people ...*worker) {
	for n := range keys {
		if n > 0 {
			rest(keyPause)
		}
		for _, w := range people {
			w.presses()
		}
	}
}

// Three people work at one machine at once: two on X servers of their own, one on a Wayland
// compositor. What the API reports of each is within a second of what they did at each
// transition: when programs open, come to the front, are busy, and close, when a screen is
// locked, and when another session is shown instead.
func TestReportOfThreePeopleAtOneMachine(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: the report of several people at one machine: only root can start programs of others")
	}
	const annUID, bobUID = 61_011, 61_012
	s := startPlatform(t)
	s.meters("xterm", "xedit", "xcalc", "planner", "xviewer")
	logind := desktoptest.StartLogind(t)
	s.startService(logind)

	x := func(name, session string, uid uint32) *worker {
		display := desktoptest.StartFor(t, uid)
		logind.LogOn(desktoptest.Session{ID: session, UID: uid, User: name, Type: "x11", Class: "user", Display: display.Name, Active: true})
		return &worker{t: t, name: name, hands: newXHands(display, name)}
	}
	ann, bob := x("ann", "c1", annUID), x("bob", "c2", bobUID)
	// Without a name in the system's list, its user could open no window of X11, nor unlock.
	sway := desktoptest.StartSwayIn(t, "c3")
	logind.LogOn(desktoptest.Session{ID: "c3", UID: sway.UID, User: "nobody", Type: "wayland", Class: "user", Display: sway.Display, Active: true})
	cleo := &worker{t: t, name: "nobody", hands: &swayHands{
		sway: sway, running: map[string]*desktoptest.Program{},
		programs: map[string]string{"planner": publicCopy(t, "foot", "planner"), "xviewer": publicCopy(t, "xterm", "xviewer")},
	}}
	lock := func(w *worker, session string, locked bool) {
		w.does(func() { logind.Change(session, func(s *desktoptest.Session) { s.Locked = locked }) }, func(c *change) { c.away = locked })
	}
	shown := func(w *worker, session string, active bool) {
		w.does(func() { logind.Change(session, func(s *desktoptest.Session) { s.Active = active }) }, func(c *change) { c.away = !active })
	}

	began := time.Now()
	pulse := startPulse(t)
	ahead := wallAhead()
	ann.opens("xterm")
	bob.opens("xterm")
	cleo.opens("planner")
	s.watched(ann, "xterm")
	s.watched(bob, "xterm")
	s.watched(cleo, "planner")
	rest(glance)
	// All work at once, and then nobody does.
	workTogether(ann, bob, cleo)
	rest(untilIdle)
	// A stretch goes on over a switch: the time is busy on both sides of it.
	bob.opens("xcalc")
	cleo.opens("xviewer")
	workTogether(bob, cleo)
	bob.turnsTo("xterm")
	cleo.turnsTo("planner")
	workTogether(bob, cleo)
	rest(untilIdle)
	// ann's screen is locked, then cleo's; the console is switched away from bob.
	lock(ann, "c1", true)
	workTogether(bob, cleo)
	rest(untilIdle)
	lock(ann, "c1", false)
	shown(bob, "c2", false)
	// A lock screen that tells nobody is something else in front.
	var unlock func()
	cleo.does(func() { unlock = sway.Lock() }, func(c *change) { c.front = "" })
	ann.opens("xedit")
	workTogether(ann)
	rest(untilIdle)
	shown(bob, "c2", true)
	lock(cleo, "c3", true)
	ann.turnsTo("xterm")
	bob.turnsTo("xcalc")
	rest(glance)
	cleo.does(func() {
		logind.Change("c3", func(s *desktoptest.Session) { s.Locked = false })
		unlock()
	}, func(c *change) { c.front, c.away = "planner", false })
	rest(glance)
	cleo.turnsTo("xviewer")
	rest(glance)
	workTogether(ann, bob, cleo)
	rest(untilIdle)
	// They end what they have open.
	bob.ends("xterm", "xcalc")
	cleo.ends("planner", "xviewer")
	ann.ends("xedit", "xterm")
	rest(glance)
	ann.ends("xterm", "")
	bob.ends("xcalc", "")
	cleo.ends("xviewer", "")
	for _, session := range []string{"c1", "c2", "c3"} {
		logind.LogOff(session)
	}
	t.Logf("the script took %v", time.Since(began).Round(time.Second))

	all := s.reported(6)
	ann.judge(all, pulse, ahead, map[string][]usagev1.Attention{"xterm": {busy, idle, background, away}, "xedit": {busy, idle, background}})
	bob.judge(all, pulse, ahead, map[string][]usagev1.Attention{"xterm": {busy, idle, background, away}, "xcalc": {busy, idle, background, away}})
	cleo.judge(all, pulse, ahead, map[string][]usagev1.Attention{"planner": {busy, idle, background, away}, "xviewer": {busy, idle, background, away}})
}

// A person works with Windows programs; the agent is the machine's service, with its helper,
// and the API's report is within a second of what they did at each transition. Wine has no
// lock screen, and one session.
func TestReportOfAWindowsDesktop(t *testing.T) {
	t.Parallel()
	w := wine.Start(t)
	agent := w.Build("agent", "./cmd/cetrus-agent", "cetrus-agent.exe", false)
	compileWindow(t, w, "planner.exe", "viewer.exe")
	s := startPlatform(t)
	titles := map[string]string{"notepad.exe": "Notepad", "regedit.exe": "Registry Editor", "planner.exe": "planner.exe", "viewer.exe": "viewer.exe"}
	programs := slices.Sorted(maps.Keys(titles))
	s.meters(programs...)
	const data = `C:\agent data`
	w.Run(time.Minute, agent, "install", "--manager", s.manager, "--data-dir", data)
	w.Run(time.Minute, agent, "start")
	t.Cleanup(func() { _, _ = w.Try(30*time.Second, agent, "stop") })
	s.knows(func() (agentStatus, error) {
		out, err := w.Try(20*time.Second, agent, "status", "--json", "--data-dir", data)
		return parseStatus([]byte(out), err)
	})
	person, err := user.Current() // whose name Wine takes
	if err != nil {
		t.Fatal(err)
	}
	hands := &wineHands{t: t, wine: w, desktop: &xdesktop{display: w.Display, env: w.Env}, titles: titles, windows: map[string]string{}}
	ada := &worker{t: t, name: person.Username, hands: hands}
	// Wine takes the coming of a window to the front for an input, or does not.
	perhaps := func() {
		last := ada.changes[len(ada.changes)-1]
		ada.inputs = append(ada.inputs, input{when: last.when, perhaps: true})
	}
	opens := func(program string) { ada.opens(program); perhaps() }
	turnsTo := func(program string) { ada.turnsTo(program); perhaps() }
	ends := func(program, next string) { ada.ends(program, next); perhaps() }

	began := time.Now()
	pulse := startPulse(t)
	ahead := wallAhead()
	opens("notepad.exe")
	hands.readNotice()
	turnsTo("notepad.exe")
	s.watched(ada, "notepad.exe")
	rest(untilIdle)
	workTogether(ada)
	rest(untilIdle)
	for _, program := range []string{"planner.exe", "regedit.exe", "viewer.exe"} {
		opens(program)
		rest(untilIdle)
		workTogether(ada)
	}
	turnsTo("notepad.exe")
	rest(untilIdle)
	workTogether(ada)
	ends("notepad.exe", "regedit.exe")
	rest(glance)
	ends("regedit.exe", "planner.exe")
	rest(glance)
	ends("planner.exe", "viewer.exe")
	ends("viewer.exe", "")
	t.Logf("the script took %v", time.Since(began).Round(time.Second))

	all := s.reported(len(programs))
	ada.judge(all, pulse, ahead, map[string][]usagev1.Attention{
		"notepad.exe": {busy, idle, background}, "regedit.exe": {busy, idle, background},
		"planner.exe": {busy, idle, background}, "viewer.exe": {busy, idle, background},
	})
}

// What judges these scripts sees a transition that is told late, and one that is not told.
func TestJudgeSeesWhatIsWrong(t *testing.T) {
	t.Parallel()
	second := func(n float64) int64 { return int64(1000 * n) }
	at := func(n float64) when { return when{second(n), second(n) + 50} }
	w := &worker{t: t, name: "ann"}
	w.changes = []change{
		{when: at(0), open: map[string]bool{"editor": true}, front: "editor"},
		{when: at(30), open: map[string]bool{"editor": true, "viewer": true}, front: "viewer"},
		{when: at(40), open: map[string]bool{"editor": true, "viewer": true}, front: "viewer", away: true},
		{when: at(50), open: map[string]bool{"viewer": true}, front: "viewer"},
		{when: at(60), open: map[string]bool{}},
	}
	for n := range 11 {
		w.inputs = append(w.inputs, input{when: at(10 + float64(n))})
	}
	w.inputs = append(w.inputs, input{when: at(35)}, input{when: at(52), perhaps: true})
	type stretch struct {
		to float64
		a  usagev1.Attention
	}
	told := func(stretches ...stretch) (r report) {
		from := 0.0
		for _, s := range stretches {
			r.intervals = append(r.intervals, &meteringv1.UsageInterval{
				StartTime: timestamppb.New(time.UnixMilli(second(from))), EndTime: timestamppb.New(time.UnixMilli(second(s.to))), Attention: s.a,
			})
			from = s.to
		}
		return r
	}
	allowed := func(when) int64 { return promised.Milliseconds() }
	for _, c := range []struct {
		name  string
		told  report
		wrong bool
	}{
		{"as it was", told(stretch{10, idle}, stretch{20, busy}, stretch{30, idle}, stretch{40, background}, stretch{50, away}), false},
		{"all 0.9 s late", told(stretch{10.9, idle}, stretch{20.9, busy}, stretch{30.9, idle}, stretch{40.9, background}, stretch{50.9, away}), false},
		{"all 0.9 s early", told(stretch{9.1, idle}, stretch{19.1, busy}, stretch{29.1, idle}, stretch{39.1, background}, stretch{49.1, away}), false},
		{"busy 1.3 s late", told(stretch{11.3, idle}, stretch{20, busy}, stretch{30, idle}, stretch{40, background}, stretch{50, away}), true},
		{"busy 1.3 s long", told(stretch{10, idle}, stretch{21.3, busy}, stretch{30, idle}, stretch{40, background}, stretch{50, away}), true},
		{"in front 1.3 s long", told(stretch{10, idle}, stretch{20, busy}, stretch{31.3, idle}, stretch{40, background}, stretch{50, away}), true},
		{"locked 1.3 s early", told(stretch{10, idle}, stretch{20, busy}, stretch{30, idle}, stretch{38.7, background}, stretch{50, away}), true},
		{"closed 1.3 s late", told(stretch{10, idle}, stretch{20, busy}, stretch{30, idle}, stretch{40, background}, stretch{51.3, away}), true},
		{"never busy", told(stretch{30, idle}, stretch{40, background}, stretch{50, away}), true},
		{"a hole of a second", told(stretch{10, idle}, stretch{20, busy}, stretch{24, idle}, stretch{25, 0}, stretch{30, idle}, stretch{40, background}, stretch{50, away}), true},
	} {
		problems, compared := w.differ("editor", c.told, allowed, 0)
		if (len(problems) > 0) != c.wrong {
			t.Errorf("%s: %v", c.name, problems)
		}
		for _, a := range []usagev1.Attention{busy, idle, background, away} {
			if compared[a] == 0 {
				t.Errorf("%s: no moment of %v was compared", c.name, a)
			}
		}
	}
	// A slow machine is given more, where it was slow.
	p := &pulse{late: []beat{{at: second(40), late: 500}}}
	if got := p.allowed(at(40)); got != promised.Milliseconds()+hops*500 {
		t.Errorf("where the machine was 500 ms late, %d ms are allowed", got)
	}
	if got := p.allowed(at(10)); got != promised.Milliseconds() {
		t.Errorf("where it was not, %d ms are allowed", got)
	}
}
