package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// One agent of root watches two people who work at the same time, each in a session of
// their own on a display that lets nobody else in, by a helper that runs as that person.
// What it journals is compared with what the script did, which is known here alone.

const (
	// gap is the activity gap. The script keeps all pauses well away from it.
	gap = 2 * time.Second
	// pause is longer than the gap, and than twice the tolerance, so that each state that
	// the script means is one that must be seen.
	pause = 2700 * time.Millisecond
	// keyPause is between two keys.
	keyPause = 400 * time.Millisecond
	// tolerance is how far a transition may be from the script's.
	tolerance = time.Second
	// helperMemory is the most that a helper may take.
	helperMemory = 12 << 20
)

// worker is a person at a desktop, with the truth of what they did.
type worker struct {
	t       *testing.T
	name    string
	session string
	display *desktoptest.Display
	windows map[string]string
	running map[string]*desktoptest.Program

	changes []change
	inputs  []int64
	unknown []unseen
}

// change is how things stand from a moment on.
type change struct {
	at   int64
	open map[string]bool
	// front is the program in front; away says that the session is locked, or another one is shown.
	front string
	away  bool
}

type unseen struct{ from, to int64 }

// now is the boot timeline in milliseconds.
func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano() / int64(time.Millisecond)
}

// note says that something has changed.
func (w *worker) note(what func(*change)) {
	next := change{open: map[string]bool{}}
	if n := len(w.changes); n > 0 {
		next = w.changes[n-1]
		next.open = maps.Clone(next.open)
	}
	what(&next)
	next.at = now()
	w.changes = append(w.changes, next)
}

// opens starts a program, which comes to the front.
func (w *worker) opens(pkg, program string, args ...string) {
	w.t.Helper()
	title := w.name + "'s " + program
	w.running[program] = w.display.Run(pkg, program, append(args, "-title", title)...)
	w.note(func(c *change) { c.open[program] = true })
	w.windows[program] = w.display.Window(title)
	w.turnsTo(program)
}

func (w *worker) turnsTo(program string) {
	w.t.Helper()
	w.display.Do("windowactivate", "--sync", w.windows[program])
	w.note(func(c *change) { c.front = program })
}

// types presses a key n times.
func (w *worker) types(n int) {
	w.t.Helper()
	for i := range n {
		if i > 0 {
			rest(keyPause)
		}
		w.display.Do("key", "a")
		w.inputs = append(w.inputs, now())
	}
}

func (w *worker) ends(program string) {
	w.t.Helper()
	w.running[program].Kill()
	w.note(func(c *change) {
		delete(c.open, program)
		if c.front == program {
			c.front = ""
		}
	})
}

// rest is part of the script, not a wait for something.
func rest(d time.Duration) { <-time.After(d) }

// attention is what a program of theirs is to be at a moment; zero: it is not open.
func (w *worker) attention(program string, at int64) usagev1.Attention {
	i := slices.IndexFunc(w.changes, func(c change) bool { return c.at > at })
	if i < 0 {
		i = len(w.changes)
	}
	if i == 0 || !w.changes[i-1].open[program] {
		return 0
	}
	c := w.changes[i-1]
	switch {
	case slices.ContainsFunc(w.unknown, func(u unseen) bool { return u.from <= at && at < u.to }):
		return usagev1.Attention_ATTENTION_UNKNOWN
	case c.away:
		return usagev1.Attention_ATTENTION_AWAY
	case c.front != program:
		return usagev1.Attention_ATTENTION_BACKGROUND
	case w.works(at):
		return usagev1.Attention_ATTENTION_BUSY
	default:
		return usagev1.Attention_ATTENTION_IDLE
	}
}

// works tells whether a moment lies between two inputs that are no further apart than
// the gap.
func (w *worker) works(at int64) bool {
	for i := 1; i < len(w.inputs); i++ {
		if w.inputs[i-1] <= at && at < w.inputs[i] && w.inputs[i]-w.inputs[i-1] <= gap.Milliseconds() {
			return true
		}
	}
	return false
}

// edges are the inputs at which work began or ended.
func (w *worker) edges() (all []int64) {
	for i, at := range w.inputs {
		first := i == 0 || at-w.inputs[i-1] > gap.Milliseconds()
		last := i == len(w.inputs)-1 || w.inputs[i+1]-at > gap.Milliseconds()
		if first || last {
			all = append(all, at)
		}
	}
	return all
}

// border tells whether something changed so near to a moment that either is right.
func (w *worker) border(at int64) bool {
	near := func(of int64) bool { return max(at-of, of-at) <= tolerance.Milliseconds() }
	return slices.ContainsFunc(w.changes, func(c change) bool { return near(c.at) }) || slices.ContainsFunc(w.edges(), near) ||
		slices.ContainsFunc(w.unknown, func(u unseen) bool { return near(u.from) || near(u.to) })
}

// machine is the agent of a machine, and what is round it.
type machine struct {
	t       *testing.T
	logind  *desktoptest.Logind
	manager *uplinktest.Manager
	agent   *exec.Cmd
	ended   chan error
	said    *bytes.Buffer
	dir     string
}

func startMachine(t *testing.T, logind *desktoptest.Logind, apps ...string) *machine {
	t.Helper()
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(manager.Stop)
	id := func(n byte) []byte { return append(make([]byte, 15), n) }
	policy := &policyv1.Policy{AccountId: id(1), Revision: 1, DocumentKey: make([]byte, 32)}
	for n, name := range apps {
		policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id(byte(100 + n)), DisplayName: name, Rules: []*policyv1.Rule{{RuleId: id(byte(200 + n)), Executable: name}},
			ActivityGap: durationpb.New(gap), Timeout: durationpb.New(30 * time.Minute),
			InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE,
		})
	}
	manager.SetPolicy(policy)
	// Nobody but root reaches the program's file.
	binary := filepath.Join(t.TempDir(), "cetrus-agent")
	if out, err := exec.Command("go", "build", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	if err := os.Chmod(filepath.Dir(binary), 0o700); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, logind: logind, manager: manager, dir: t.TempDir(), said: new(bytes.Buffer), ended: make(chan error, 1)}
	settings := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(settings, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.agent = exec.Command(binary, "run", "--config", settings, "--data-dir", m.dir, "--manager", manager.Address())
	m.agent.Env = []string{"PATH=" + os.Getenv("PATH"), "DBUS_SYSTEM_BUS_ADDRESS=" + logind.Address}
	m.agent.Stdout, m.agent.Stderr = m.said, m.said
	if err := m.agent.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { m.ended <- m.agent.Wait() }()
	t.Cleanup(func() {
		m.stop()
		if t.Failed() {
			t.Logf("the agent said:\n%s", m.said)
		}
	})
	return m
}

func (m *machine) stop() {
	_ = m.agent.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(20 * time.Second):
		_ = m.agent.Process.Kill()
		<-m.ended
		m.t.Error("the agent did not stop")
	}
	m.ended <- nil
}

// until waits for a condition that nothing announces.
func (m *machine) until(what string, holds func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// helper is the process of a person's helper; 0: there is none.
func (m *machine) helper(uid uint32) (pid int) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.agent.Process.Pid, m.agent.Process.Pid))
	list := strings.Fields(string(children))
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", m.agent.Process.Pid))
	for _, file := range threads {
		text, _ := os.ReadFile(file)
		list = append(list, strings.Fields(string(text))...)
	}
	for _, child := range list {
		var about unix.Stat_t
		if unix.Stat("/proc/"+child, &about) == nil && about.Uid == uid {
			pid, _ = strconv.Atoi(child)
			return pid
		}
	}
	return 0
}

// shows tells whether a person's program is told to be in front, busy or not.
func (m *machine) shows(w *worker) bool {
	live := m.manager.Live()
	for i := len(live) - 1; i >= 0; i-- {
		if m.manager.Persons()[string(live[i].GetPrincipalAlias())].GetUserName() != w.name {
			continue
		}
		return slices.ContainsFunc(live[i].GetOpen(), func(o *usagev1.OpenInstance) bool {
			return o.GetAttention() == usagev1.Attention_ATTENTION_IDLE || o.GetAttention() == usagev1.Attention_ATTENTION_BUSY
		})
	}
	return false
}

func TestTwoPeopleAtOneMachine(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: two people at one machine: only root can start programs of others")
	}
	const annUID, bobUID = 61_001, 61_002
	person := func(name, session string, uid uint32) *worker {
		return &worker{
			t: t, name: name, session: session, display: desktoptest.StartFor(t, uid),
			windows: map[string]string{}, running: map[string]*desktoptest.Program{},
		}
	}
	ann, bob := person("ann", "c1", annUID), person("bob", "c2", bobUID)
	logind := desktoptest.StartLogind(
		t,
		desktoptest.Session{ID: "c1", UID: annUID, User: "ann", Type: "x11", Class: "user", Display: ann.display.Name, Active: true},
		desktoptest.Session{ID: "c2", UID: bobUID, User: "bob", Type: "x11", Class: "user", Display: bob.display.Name, Active: true},
		desktoptest.Session{ID: "c3", UID: 0, User: "gdm", Type: "x11", Class: "greeter", Display: ":9999", Active: true},
		desktoptest.Session{ID: "4", UID: annUID, User: "ann", Type: "tty", Class: "user", Remote: true, Active: true},
	)
	m := startMachine(t, logind, "xterm", "xedit", "xcalc", "errand")

	began := time.Now()
	ann.opens("xterm", "xterm")
	bob.opens("xterm", "xterm")
	m.until("both are seen", func() bool { return m.shows(ann) && m.shows(bob) })
	m.checkHelper(annUID, ann)
	m.checkHelper(bobUID, bob)
	rest(pause)
	// Both work at once.
	for i := range 8 {
		if i > 0 {
			rest(keyPause)
		}
		ann.types(1)
		bob.types(1)
	}
	rest(pause)
	// ann locks her screen; bob goes on.
	logind.Change("c1", func(s *desktoptest.Session) { s.Locked = true })
	ann.note(func(c *change) { c.away = true })
	bob.opens("x11-apps", "xcalc")
	bob.types(7)
	rest(pause)
	logind.Change("c1", func(s *desktoptest.Session) { s.Locked = false })
	ann.note(func(c *change) { c.away = false })
	ann.opens("x11-apps", "xedit")
	// The console is switched to ann and away from bob, and back.
	logind.Change("c2", func(s *desktoptest.Session) { s.Active = false })
	bob.note(func(c *change) { c.away = true })
	ann.types(7)
	rest(pause)
	logind.Change("c2", func(s *desktoptest.Session) { s.Active = true })
	bob.note(func(c *change) { c.away = false })
	rest(pause)
	// ann's helper is killed while she works: what she does until there is another is not
	// known, and bob's work is. What she typed was looked at by then, and could go on.
	ann.types(6)
	rest(gap - keyPause)
	before := m.helper(annUID)
	killed := now()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	bob.types(5)
	m.until("ann has another helper", func() bool { pid := m.helper(annUID); return pid != 0 && pid != before && m.shows(ann) })
	rest(pause)
	ann.turnsTo("xterm")
	ann.types(6)
	rest(pause)
	m.checkHelper(annUID, ann)
	errands := ann.runsErrands(m)
	over := m.closed()
	// bob logs off.
	bob.ends("xcalc")
	bob.ends("xterm")
	logind.LogOff("c2")
	rest(pause)
	ann.ends("xedit")
	ann.ends("xterm")
	m.until("bob's helper has gone with him", func() bool { return m.helper(bobUID) == 0 })
	m.until("all is told", func() bool { return m.closed() == over+len(ann.windows)+len(bob.windows) })
	t.Logf("the agent takes %s at most", fields(t, m.agent.Process.Pid)["VmHWM"])
	m.stop()
	t.Logf("the script took %v", time.Since(began))

	if problems := m.manager.Problems(); len(problems) > 0 {
		t.Fatal(problems)
	}
	told := m.told("xterm", "xedit", "xcalc", "errand")
	for _, program := range []string{"ann xterm", "ann xedit"} {
		ann.unknown = holes(told[program], killed)
		if len(ann.unknown) != 1 || ann.unknown[0].to-killed > (30*time.Second).Milliseconds() {
			t.Errorf("%s was not looked at from %d ms on, and is told as %v", program, killed, ann.unknown)
		}
	}
	for name := range told {
		if !slices.Contains([]string{"ann xterm", "ann xedit", "ann errand", "bob xterm", "bob xcalc"}, name) {
			t.Errorf("%s is told of, and there was none", name)
		}
	}
	for _, w := range []*worker{ann, bob} {
		for program := range w.windows {
			w.compare(program, told[w.name+" "+program])
		}
	}
	checkErrands(t, errands, told["ann errand"])
	m.nobodyElse()
}

// errandLives is how long a program lives that no look at processes sees.
const errandLives = 200 * time.Millisecond

// runsErrands starts such a program, again where the machine was too busy to see it, and
// gives between when each ran.
func (w *worker) runsErrands(m *machine) (ran []unseen) {
	w.t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		w.t.Fatal(err)
	}
	program := filepath.Join(w.display.Owner().Home, "errand")
	if out, err := exec.Command("cp", sleep, program).CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	before := m.closed()
	for range 5 {
		for _, said := range m.manager.Health() {
			if said := strings.Join(said.GetUnsupported(), "; "); strings.Contains(said, "are not seen") {
				w.t.Logf("NOT TESTED: programs of %v: %s", errandLives, said)
				return nil
			}
		}
		began := now()
		w.display.Run("coreutils", program, strconv.FormatFloat(errandLives.Seconds(), 'f', 1, 64)).Wait(w.t.Context())
		ran = append(ran, unseen{began, now()})
		// It is over for good once nothing can continue it.
		for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); rest(50 * time.Millisecond) {
			if m.closed() > before {
				return ran
			}
		}
	}
	w.t.Errorf("of %d programs of %v none was seen", len(ran), errandLives)
	return ran
}

// checkErrands holds what was journalled of short-lived programs against when they ran, by
// the kernel's own times.
func checkErrands(t *testing.T, ran []unseen, told []interval) {
	t.Helper()
	if len(ran) == 0 {
		return
	}
	const rounding = 12 // a start is told in hundredths of a second, and clocks in whole milliseconds
	last := ran[len(ran)-1]
	instances := make(map[string]bool)
	from, to := last.to, last.from
	for _, i := range told {
		if i.attention != usagev1.Attention_ATTENTION_BACKGROUND {
			t.Errorf("a program without a window is told as %v", i.attention)
		}
		instances[i.instance] = true
		from, to = min(from, i.from), max(to, i.to)
	}
	t.Logf("a program that ran between %d and %d ms is told from %d to %d", 0, last.to-last.from, from-last.from, to-last.from)
	if len(instances) != 1 || from < last.from-rounding || to > last.to+rounding || to-from < errandLives.Milliseconds() {
		t.Errorf("%d instances from %d to %d ms, of a program that ran between %d and %d", len(instances), from, to, last.from, last.to)
	}
}

// closed counts the instances that were told to be closed.
func (m *machine) closed() (n int) {
	for _, e := range m.manager.Usage() {
		if e.GetTransition() == usagev1.Transition_TRANSITION_CLOSED && len(e.GetDocumentId()) == 0 {
			n++
		}
	}
	return n
}

// interval is one stretch of one attention.
type interval struct {
	attention usagev1.Attention
	from, to  int64
	instance  string
}

// told gives what was journalled by "person program".
func (m *machine) told(apps ...string) map[string][]interval {
	all := make(map[string][]interval)
	persons := m.manager.Persons()
	sessions := make(map[string]string)
	for _, e := range m.manager.Usage() {
		if len(e.GetDocumentId()) > 0 {
			continue
		}
		name := persons[string(e.GetPrincipalAlias())].GetUserName()
		if of := sessions[string(e.GetSessionId())]; of != "" && of != name {
			m.t.Errorf("one session is told to be of %s and of %s", of, name)
		}
		sessions[string(e.GetSessionId())] = name
		if c := e.GetClosed(); c != nil {
			key := name + " " + apps[e.GetApplicationId()[15]-100]
			all[key] = append(all[key], interval{c.GetAttention(), c.GetFromBootMillis(), c.GetToBootMillis(), string(e.GetInstanceId())})
		}
	}
	return all
}

// holes are the stretches after a moment in which nobody watched.
func holes(told []interval, after int64) (all []unseen) {
	for _, i := range told {
		if i.attention == usagev1.Attention_ATTENTION_UNKNOWN && i.from >= after && i.from <= after+tolerance.Milliseconds() {
			all = append(all, unseen{after, i.to})
		}
	}
	return all
}

// compare holds what was journalled of a program against what was done with it, moment
// by moment.
func (w *worker) compare(program string, told []interval) {
	w.t.Helper()
	instances := make(map[string]bool)
	at := func(moment int64) usagev1.Attention {
		for _, i := range told {
			if i.from <= moment && moment < i.to {
				return i.attention
			}
		}
		return 0
	}
	for _, i := range told {
		instances[i.instance] = true
	}
	if len(instances) != 1 {
		w.t.Errorf("%s's %s was started once, and is told as %d instances", w.name, program, len(instances))
	}
	const step = 20
	judged, seen := 0, make(map[usagev1.Attention]int)
	wrong := int64(0)
	var lastWant, lastGot usagev1.Attention
	for moment := w.changes[0].at; moment < w.changes[len(w.changes)-1].at; moment += step {
		if w.border(moment) {
			continue
		}
		judged++
		want, got := w.attention(program, moment), at(moment)
		seen[want]++
		if want != got {
			wrong += step
			if want != lastWant || got != lastGot { // the beginning of each stretch
				w.t.Logf("%s's %s from %d ms on is told as %v, was %v", w.name, program, moment-w.changes[0].at, got, want)
			}
		}
		lastWant, lastGot = want, got
	}
	w.t.Logf("%s's %s: %d moments judged, %v", w.name, program, judged, seen)
	if wrong > 0 {
		for _, i := range told {
			w.t.Logf("told: %v from %d to %d ms", i.attention, i.from-w.changes[0].at, i.to-w.changes[0].at)
		}
		w.t.Errorf("%s's %s is told wrongly for %d ms", w.name, program, wrong)
	}
	busy := func(attention func(int64) usagev1.Attention) (ms int64) {
		for moment := w.changes[0].at; moment < w.changes[len(w.changes)-1].at; moment += step {
			if attention(moment) == usagev1.Attention_ATTENTION_BUSY {
				ms += step
			}
		}
		return ms
	}
	want, got := busy(func(m int64) usagev1.Attention { return w.attention(program, m) }), busy(at)
	w.t.Logf("%s's %s: busy %d ms, told as %d", w.name, program, want, got)
	if off := max(want-got, got-want); off > 2*tolerance.Milliseconds() {
		w.t.Errorf("%s's %s was busy for %d ms and is told as %d", w.name, program, want, got)
	}
}

// checkHelper looks at a helper as the system sees it: whose it is, what it may do, what
// it holds on to, and what it takes.
func (m *machine) checkHelper(uid uint32, w *worker) {
	m.t.Helper()
	pid := m.helper(uid)
	if pid == 0 {
		m.t.Fatalf("%s has no helper", w.name)
	}
	status := fields(m.t, pid)
	for name, want := range map[string]string{
		"Uid": strings.Repeat(strconv.Itoa(int(uid))+"\t", 4), "Groups": "", "NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000", "CapPrm": "0000000000000000",
	} {
		if got := strings.TrimSpace(status[name]); got != strings.TrimSpace(want) {
			m.t.Errorf("%s of %s's helper is %q, want %q", name, w.name, got, want)
		}
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		m.t.Fatal(err)
	}
	kinds := make(map[string]int)
	for _, entry := range entries {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, entry.Name()))
		if err != nil {
			continue
		}
		kind, _, _ := strings.Cut(target, ":")
		kinds[kind]++
		// The runtime keeps an eye on how many processors the machine has to give.
		if !slices.Contains([]string{"socket", "pipe", "anon_inode", "/dev/null"}, kind) && !strings.HasPrefix(target, "/sys/fs/cgroup/") {
			m.t.Errorf("%s's helper holds %s open", w.name, target)
		}
	}
	if kinds["socket"] != 2 { // its service and its display
		m.t.Errorf("%s's helper has %d sockets: %v", w.name, kinds["socket"], kinds)
	}
	// What its start has taken is given back soon after.
	var resident int64
	m.until(w.name+"'s helper to be small", func() bool {
		resident, _ = strconv.ParseInt(strings.Fields(fields(m.t, pid)["VmRSS"])[0], 10, 64)
		return resident<<10 <= helperMemory
	})
	m.t.Logf("%s's helper takes %d kB, at its start %s", w.name, resident, status["VmHWM"])
}

// fields reads /proc/PID/status.
func fields(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		all[name] = strings.TrimSpace(value)
	}
	return all
}

// nobodyElse looks that what the agent keeps is root's alone.
func (m *machine) nobodyElse() {
	m.t.Helper()
	err := filepath.WalkDir(m.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == m.dir {
			return err
		}
		about, err := entry.Info()
		if err != nil {
			return err
		}
		if about.Mode().Perm()&0o077 != 0 {
			m.t.Errorf("others can use %s: %v", path, about.Mode())
		}
		return nil
	})
	if err != nil {
		m.t.Error(err)
	}
}
