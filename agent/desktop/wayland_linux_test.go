package desktop

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/desktop/wayland"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// testHelper is this test binary as the helper of a session.
func testHelper() Helper { return Helper{Executable: selfProgram, Args: []string{asHelper}} }

// placeIn is how a session is reached.
func placeIn(s *desktoptest.Sway) place {
	return place{kind: kindWayland, display: s.Display, wayland: s.Socket, runtimeDir: s.RuntimeDir}
}

// watched is a session that eyes look at as the agent does: when they wake it, and once
// a second.
type watched struct {
	tb    testing.TB
	eyes  eyes
	woken chan struct{}
	ended chan struct{}

	mu     sync.Mutex
	seen   []seenSight
	failed error
}

type seenSight struct {
	atMillis int64 // boot time
	Sight
}

// watchSway looks at a session through a helper in it.
func watchSway(t *testing.T, s *desktoptest.Sway, at place) *watched {
	t.Helper()
	w := &watched{tb: t, woken: make(chan struct{}, 1), ended: make(chan struct{})}
	opened, err := openHelper(t.Context(), testHelper(), seat{systemSeat: systemSeat{uid: s.UID, at: at}}, func() {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.eyes = opened
	ctx, stop := context.WithCancel(t.Context())
	go w.look(ctx)
	t.Cleanup(func() {
		stop()
		<-w.ended
		opened.close()
	})
	return w
}

func (w *watched) look(ctx context.Context) {
	defer close(w.ended)
	period := time.NewTicker(PeriodMillis * time.Millisecond)
	defer period.Stop()
	for {
		patience, end := context.WithTimeout(ctx, 20*time.Second)
		sight, err := w.eyes.look(patience)
		end()
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		if err != nil {
			w.failed = err
			w.mu.Unlock()
			return
		}
		w.seen = append(w.seen, seenSight{bootMillis(), sight})
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-w.woken:
		case <-period.C:
		}
	}
}

// until waits for a sight at or after a moment that shows something.
func (w *watched) until(what string, since int64, shows func(seenSight) bool) seenSight {
	w.tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		w.mu.Lock()
		seen, failed := slices.Clone(w.seen), w.failed
		w.mu.Unlock()
		for _, s := range seen {
			if s.atMillis >= since && shows(s) {
				return s
			}
		}
		if failed != nil {
			w.tb.Fatalf("%s is not seen: %v", what, failed)
		}
		if time.Now().After(deadline) {
			w.tb.Fatalf("%s is not seen; the last sight is %+v", what, seen[len(seen)-1])
		}
		<-time.After(10 * time.Millisecond)
	}
}

// all gives what was seen since a moment.
func (w *watched) all(since int64) []seenSight {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.seen), func(s seenSight) bool { return s.atMillis < since })
}

// inFront gives the window in front.
func (s Sight) inFront() activity.Window {
	for _, w := range s.Windows {
		if w.ID == s.Foreground {
			return w
		}
	}
	return activity.Window{}
}

func (s Sight) titled(title string) activity.Window {
	for _, w := range s.Windows {
		if w.Title == title {
			return w
		}
	}
	return activity.Window{}
}

// copyOf is a copy of a program where the session's user may run it.
func copyOf(t *testing.T, program, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "copy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name = filepath.Join(dir, name)
	// Another process writes it: a program started meanwhile would inherit the open file,
	// and what somebody may write to cannot be run.
	if out, err := exec.Command("install", "--mode=755", program, name).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", program, err, out)
	}
	return name
}

func lookUp(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// toleranceMillis is how far a report may be from the truth at each transition.
const toleranceMillis = 1_000

// What happens on a real compositor is seen: which window is in front and whose it is,
// X11 windows too, and when there was input, though this compositor only tells idleness.
func TestSway(t *testing.T) {
	t.Parallel()
	s := desktoptest.StartSway(t)
	alpha := s.Open("foot", "alpha", "foot", "--title=alpha", "sleep", "600")
	beta := s.Open("foot", "beta", "foot", "--title=beta", "sleep", "600")
	gamma := s.Open("xterm", "gamma", "xterm", "-T", "gamma", "-e", "sleep", "600")
	w := watchSway(t, s, placeIn(s))

	first := w.until("all windows", 0, func(s seenSight) bool { return len(s.Windows) == 3 })
	for title, want := range map[string]activity.Window{
		"alpha": {PID: int32(alpha.PID), Class: "foot"},
		"beta":  {PID: int32(beta.PID), Class: "foot"},
		"gamma": {PID: int32(gamma.PID), Class: "XTerm"},
	} {
		if got := first.titled(title); got.PID != want.PID || got.Class != want.Class {
			t.Errorf("window %s is %+v, want %+v", title, got, want)
		}
	}
	if first.FocusUnsupported != "" || first.InputUnsupported != "" {
		t.Errorf("unsupported: %q, %q", first.FocusUnsupported, first.InputUnsupported)
	}
	for _, title := range []string{"alpha", "gamma", "beta", "alpha"} {
		since := bootMillis()
		s.Focus(title)
		seen := w.until(title+" in front", since, func(s seenSight) bool { return s.inFront().Title == title })
		if late := seen.atMillis - since; late > toleranceMillis {
			t.Errorf("%s in front is seen %d ms late", title, late)
		}
	}

	since := bootMillis()
	s.Do("sway", "swaymsg", "workspace", "empty")
	w.until("nothing in front", since, func(s seenSight) bool { return s.Foreground == 0 && s.FocusUnsupported == "" })
	s.Do("sway", "swaymsg", "workspace", "1")

	since = bootMillis()
	alpha.Close()
	w.until("a window gone", since, func(s seenSight) bool { return len(s.Windows) == 2 && s.titled("alpha").ID == 0 })
}

// Inputs on a real compositor are told at the right times: a lone one once, and of many
// the first and the last.
func TestInputOnSway(t *testing.T) {
	t.Parallel()
	s := desktoptest.StartSway(t)
	s.Open("foot", "typed into", "foot", "--title=typed into", "sleep", "600")
	w := watchSway(t, s, placeIn(s))
	// What is typed as it begins to watch may count as having been before.
	begun := w.until("a sight", 0, func(seenSight) bool { return true })
	w.until("another sight", begun.atMillis+beginningMillis+2*idleTimeoutMillis, func(seenSight) bool { return true })

	// quiet gives the last input once nothing was typed for a while.
	quiet := func(from, to int64) int64 {
		t.Helper()
		return w.until("silence", to, func(s seenSight) bool {
			return s.LastInputMillis >= from-newsMillis && s.atMillis-max(to, s.LastInputMillis) > 4*idleTimeoutMillis
		}).LastInputMillis
	}
	from := bootMillis()
	s.Do("wtype", "wtype", "x")
	to := bootMillis()
	lone := quiet(from, to)
	if lone < from-newsMillis || lone > to+toleranceMillis {
		t.Errorf("a lone input between %d and %d is told at %d", from, to, lone)
	}
	told := make(map[int64]bool)
	for _, s := range w.all(from) {
		if s.LastInputMillis >= from {
			told[s.LastInputMillis] = true
		}
	}
	// It is pressed and released, which are two inputs; where the compositor's news take
	// long, each may be told by its silence once more.
	if len(told) > 4 {
		t.Errorf("a lone keystroke between %d and %d is told as %v", from, to, told)
	}

	from = bootMillis()
	s.Do("wtype", "wtype", "-d", "100", "abcdefghijklmnopqrstuvwxyz")
	to = bootMillis()
	last := quiet(from, to)
	if last < to-toleranceMillis || last > to+toleranceMillis {
		t.Errorf("typing from %d to %d ends at %d", from, to, last)
	}
	var first int64
	for _, s := range w.all(from) {
		switch {
		case first == 0 && s.LastInputMillis >= from:
			first = s.LastInputMillis
		case s.LastInputMillis > last:
			t.Errorf("an input is told at %d, after the last one at %d", s.LastInputMillis, last)
		}
	}
	if first < from || first > from+toleranceMillis {
		t.Errorf("typing from %d to %d begins at %d", from, to, first)
	}
}

// While a program keeps the session awake, silence says nothing on this compositor, and
// it is said so; what it tells when that begins and ends is no input.
func TestInhibitorOnSway(t *testing.T) {
	t.Parallel()
	s := desktoptest.StartSway(t)
	s.Open("foot", "film", "foot", "--title=film", "sleep", "600")
	w := watchSway(t, s, placeIn(s))
	begun := w.until("a sight", 0, func(seenSight) bool { return true })
	w.until("another sight", begun.atMillis+beginningMillis+2*idleTimeoutMillis, func(seenSight) bool { return true })
	if w.until("a sight", 0, func(seenSight) bool { return true }).InputUnsupported != "" {
		t.Skip("this compositor tells input apart from idleness")
	}
	since := bootMillis()
	s.Do("sway", "swaymsg", `[title="film"] inhibit_idle open`)
	w.until("that input is not told", since, func(s seenSight) bool { return s.InputUnsupported == inhibitedIdleness })
	since = bootMillis()
	s.Do("sway", "swaymsg", `[title="film"] inhibit_idle none`)
	told := w.until("that input is told again", since, func(s seenSight) bool { return s.InputUnsupported == "" })
	w.until("silence", told.atMillis+4*idleTimeoutMillis, func(s seenSight) bool {
		if s.LastInputMillis != 0 {
			t.Errorf("an input is told at %d, there was none", s.LastInputMillis)
		}
		return true
	})
	from := bootMillis()
	s.Do("wtype", "wtype", "x")
	w.until("an input afterwards", from, func(s seenSight) bool { return s.LastInputMillis >= from-newsMillis })
}

// A compositor that names no processes is followed too, and nothing that is asked of it
// is more than an observer needs.
func TestForeignToplevelsOnSway(t *testing.T) {
	t.Parallel()
	s := desktoptest.StartSway(t)
	s.Open("foot", "one", "foot", "--title=one", "sleep", "600")
	s.Open("foot", "another", "foot", "--title=another", "sleep", "600")
	// Tests beside this one run other terminals, so this is a program of another name.
	program := copyOf(t, lookUp(t, "xterm"), "cetrus-only")
	x := s.Open("xterm", "only", program, "-class", "cetrus-only", "-T", "only", "-e", "sleep", "600")
	proxy := recordWayland(t, s)
	// Reached through the proxy, it is not known to be sway.
	at := placeIn(s)
	at.wayland = proxy.socket
	w := watchSway(t, s, at)
	begun := w.until("all windows", 0, func(s seenSight) bool { return len(s.Windows) == 3 })

	// It opened last, so it is in front, and another one has to be for it to come there.
	since := bootMillis()
	s.Focus("one")
	seen := w.until("one of two in front", since, func(s seenSight) bool { return s.inFront().Title == "one" })
	if seen.inFront().PID != 0 || seen.FocusUnsupported != whoseWindow {
		t.Errorf("one of two is %+v: %q", seen.inFront(), seen.FocusUnsupported)
	}
	since = bootMillis()
	s.Focus("only")
	seen = w.until("the X11 window in front", since, func(s seenSight) bool { return s.inFront().Title == "only" })
	if seen.inFront().PID != int32(x.PID) || seen.FocusUnsupported != "" || seen.atMillis-since > toleranceMillis {
		t.Errorf("the one xterm, process %d, after %d ms is %+v: %q", x.PID, seen.atMillis-since, seen.inFront(), seen.FocusUnsupported)
	}
	// What is typed as it begins to watch may count as having been before.
	w.until("another sight", begun.atMillis+beginningMillis+2*idleTimeoutMillis, func(seenSight) bool { return true })
	from := bootMillis()
	s.Do("wtype", "wtype", "x")
	w.until("an input", from, func(s seenSight) bool { return s.LastInputMillis >= from-newsMillis })
	s.Kill()
	deadline := time.Now().Add(30 * time.Second)
	for w.lost() == nil && time.Now().Before(deadline) {
		<-time.After(10 * time.Millisecond)
	}
	if w.lost() == nil {
		t.Error("a compositor that was killed is still seen")
	}

	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	if len(proxy.asked) == 0 {
		t.Fatal("the proxy has seen nothing")
	}
	for request, times := range proxy.asked {
		if !allowedOfWayland[request] {
			t.Errorf("request %d of %s is made %d times", request.opcode, request.of, times)
		}
	}
}

// allowedOfWayland is everything that may be asked of a compositor.
var allowedOfWayland = map[fakeRequest]bool{
	{"wl_display", 0}: true, {"wl_display", 1}: true,
	{"wl_registry", 0}:                true, // of allowed interfaces only: the proxy adds what is bound
	{"bind wl_seat", 0}:               true,
	{kdeIdleInterface, 0}:             true,
	{extIdleInterface, 1}:             true,
	{extIdleInterface, 2}:             true,
	{"a window", 7}:                   true, // let go of
	{"bind " + kdeIdleInterface, 0}:   true,
	{"bind " + extIdleInterface, 0}:   true,
	{"bind " + toplevelsInterface, 0}: true,
}

// waylandProxy stands between the eyes and a compositor and counts every request.
type waylandProxy struct {
	socket string
	mu     sync.Mutex
	asked  map[fakeRequest]int
}

func recordWayland(t *testing.T, s *desktoptest.Sway) *waylandProxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &waylandProxy{socket: filepath.Join(dir, s.Socket), asked: make(map[fakeRequest]int)}
	listener, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, p.socket} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	var serving sync.WaitGroup
	var conns [2]net.Conn
	serving.Go(func() {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", filepath.Join(s.RuntimeDir, s.Socket))
		if err != nil {
			_ = client.Close()
			return
		}
		p.mu.Lock()
		conns = [2]net.Conn{client, server}
		p.mu.Unlock()
		serving.Go(func() {
			_, _ = io.Copy(client, server)
			_ = client.Close()
		})
		p.relay(client, server)
		_ = server.Close()
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
		p.mu.Unlock()
		serving.Wait()
	})
	return p
}

// relay passes requests on, and notes which interface each is of.
func (p *waylandProxy) relay(client io.Reader, server io.Writer) {
	of := map[uint32]string{1: "wl_display"}
	for {
		m, err := wayland.ReadMessage(client)
		if err != nil {
			return
		}
		name := of[m.Object]
		if m.Object >= 0xFF000000 {
			name = "a window"
		}
		p.mu.Lock()
		p.asked[fakeRequest{name, m.Opcode}]++
		args := m.Args()
		switch {
		case name == "wl_display" && m.Opcode == 1:
			of[args.Uint()] = "wl_registry"
		case name == "wl_registry":
			_, bound, _, id := args.Uint(), args.String(), args.Uint(), args.Uint()
			of[id] = bound
			p.asked[fakeRequest{"bind " + bound, 0}]++
		case name == kdeIdleInterface || name == extIdleInterface:
			of[args.Uint()] = "a notice"
		}
		p.mu.Unlock()
		b := wayland.NewMessage(m.Object, m.Opcode)
		for words := m.Body; len(words) >= 4; words = words[4:] {
			b.Uint(binary.NativeEndian.Uint32(words))
		}
		wire, err := b.Bytes()
		if err != nil {
			return
		}
		if _, err := server.Write(wire); err != nil {
			return
		}
	}
}

// lost is why the eyes see no more; nil: they see.
func (w *watched) lost() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// swaySeats are one session, which is there as long as the test runs.
type swaySeats []seat

func (s swaySeats) list() ([]seat, error) { return s, nil }

// What a person does on a real compositor is what the agent records of it, to within a
// second at each transition: what is busy, and when that begins and ends.
func TestReportOnSway(t *testing.T) {
	t.Parallel()
	s := desktoptest.StartSway(t)
	editor, viewer := copyOf(t, lookUp(t, "foot"), "cetrus-editor"), copyOf(t, lookUp(t, "xterm"), "cetrus-viewer")
	r := recordSway(t, s, "cetrus-editor", "cetrus-viewer")

	s.Open("foot", "editor", editor, "--title=editor", "sleep", "600")
	s.Open("xterm", "viewer", viewer, "-T", "viewer", "-e", "sleep", "600")
	r.until("both are open, and its beginning over", func() bool {
		return len(r.opened()) == 2 && r.begunMillis() > 0 && bootMillis() > r.begunMillis()+beginningMillis+2*idleTimeoutMillis
	})
	type stretch struct{ from, to int64 }
	var truth []stretch
	work := func(title string) {
		t.Helper()
		s.Focus(title)
		r.until(title+" in front", func() bool { return r.front() == title })
		from := bootMillis()
		s.Do("wtype", "wtype", "-d", "100", "abcdefghijklmnopqrstuvwxyz")
		truth = append(truth, stretch{from, bootMillis()})
		// Nobody touches anything, until the stretch is over.
		r.until("idle", func() bool { return r.busyBefore(len(truth)) })
	}
	work("editor")
	work("viewer")
	work("editor")
	got := r.stop()
	want := []string{"cetrus-editor", "cetrus-viewer", "cetrus-editor"}
	if len(got) != len(want) {
		t.Fatalf("busy were %+v, want %v", got, want)
	}
	for n, b := range got {
		if b.program != want[n] || b.from < truth[n].from-newsMillis || b.from > truth[n].from+toleranceMillis ||
			b.to < truth[n].to-toleranceMillis || b.to > truth[n].to+toleranceMillis {
			t.Errorf("%s was busy from %d to %d, the truth is %s from %d to %d", b.program, b.from, b.to, want[n], truth[n].from, truth[n].to)
		}
	}
}

// busy is a busy interval that was recorded.
type busy struct {
	program  string
	from, to int64
}

// swayReport records a session with the parts of the agent that decide.
type swayReport struct {
	t        *testing.T
	cancel   context.CancelFunc
	watching sync.WaitGroup
	programs map[string]string // by application id

	mu     sync.Mutex
	open   map[string]bool
	record []busy
	begun  int64  // when the session was first seen
	title  string // of what is in front
	titles map[uint64]string
}

func recordSway(t *testing.T, s *desktoptest.Sway, programs ...string) *swayReport {
	t.Helper()
	r := &swayReport{t: t, programs: make(map[string]string), open: make(map[string]bool)}
	policy := &policyv1.Policy{Revision: 1, DocumentKey: make([]byte, 32)}
	for n, program := range programs {
		id := contract.ID{byte(n + 1)}
		r.programs[string(id[:])] = program
		policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: program}},
			ActivityGap: durationpb.New(2 * time.Second), Timeout: durationpb.New(time.Minute),
		})
	}
	machine := activity.New(activity.Config{Alias: func(activity.User) contract.ID { return contract.ID{9} }})
	if err := machine.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	table, helper := newProcessTable("/proc"), testHelper()
	m := newMachineDesktop(parts{boot: contract.ID{1}, clocks: newClocks()}, nil)
	processes := newLinuxProcesses(table, systemKernel(), m.waker())
	m.parts.processes, m.parts.close = processes, processes.close
	m.seats = processes.follow(swaySeats{{key: "sway", user: activity.User{Name: "person"}, systemSeat: systemSeat{uid: s.UID, at: placeIn(s)}}})
	m.open = func(ctx context.Context, at seat, wake func()) (eyes, error) {
		return openHelper(ctx, helper, at, wake)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	r.watching.Go(func() {
		var last int64
		err := m.Watch(ctx, func(o activity.Observation) {
			last = o.BootMillis
			r.see(o)
			r.take(machine.Observe(o))
		})
		if err != nil {
			t.Error(err)
		}
		r.take(machine.Stop(last))
	})
	t.Cleanup(func() {
		cancel()
		r.watching.Wait()
	})
	return r
}

func (r *swayReport) take(out activity.Output) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range out.Events {
		program := r.programs[string(e.GetApplicationId())]
		r.open[program] = true
		if c := e.GetClosed(); c.GetAttention() == usagev1.Attention_ATTENTION_BUSY && len(e.GetDocumentId()) == 0 && c.GetToBootMillis() > c.GetFromBootMillis() {
			r.record = append(r.record, busy{program, c.GetFromBootMillis(), c.GetToBootMillis()})
		}
	}
}

func (r *swayReport) see(o activity.Observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range o.Sessions {
		if r.begun == 0 && !s.FocusUnsupported {
			r.begun = o.BootMillis
		}
		if !s.SameWindows {
			r.titles = make(map[uint64]string)
			for _, w := range s.Windows {
				r.titles[w.ID] = w.Title
			}
		}
		r.title = r.titles[s.Foreground]
	}
}

func (r *swayReport) front() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.title
}

func (r *swayReport) begunMillis() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begun
}

func (r *swayReport) opened() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.open))
}

// busyBefore tells whether so many busy intervals have ended.
func (r *swayReport) busyBefore(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.record) >= n
}

func (r *swayReport) until(what string, holds func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain until %s; recorded are %+v", what, r.stop())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// stop ends the recording and gives the busy intervals.
func (r *swayReport) stop() []busy {
	r.cancel()
	r.watching.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record
}
