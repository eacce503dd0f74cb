package desktop

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/desktop/wayland"
)

// The eyes of a Wayland session look from a process of its user, as in production: this
// test binary, started once more.
const (
	eyesProcess = "CETRUS_TEST_EYES"
)

// TestEyesProcess is what the other process runs.
func TestEyesProcess(t *testing.T) {
	if os.Getenv(eyesProcess) == "" {
		t.Skip("this is the other process of the tests of Wayland")
	}
	fd, err := strconv.Atoi(os.Getenv(eyesProcess))
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "service")
	conn, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		t.Fatal(err)
	}
	err = serveSight(t.Context(), conn, nil, func(wake func()) (eyes, error) {
		return openWaylandEyes(t.Context(), placeOf(os.Getenv), wake)
	})
	if err != nil {
		t.Error(err)
	}
}

// watched is a session that eyes look at as the agent does: when they wake it, and once
// a second.
type watched struct {
	tb    testing.TB
	eyes  *helperEyes
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

// watchSway looks at a session from a process in it. env is added to its environment.
func watchSway(t *testing.T, s *desktoptest.Sway, env ...string) *watched {
	t.Helper()
	service, child, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.Command("", copyOf(t, self(t), "eyes.test"), "-test.run=^TestEyesProcess$", "-test.count=1")
	cmd.Env = append(cmd.Env, eyesProcess+"=3", "XDG_SESSION_TYPE=wayland")
	cmd.Env = append(cmd.Env, env...)
	cmd.ExtraFiles = []*os.File{child}
	var said output
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = child.Close()
	w := &watched{tb: t, woken: make(chan struct{}, 1), ended: make(chan struct{})}
	w.eyes, err = greetHelper(service, func() {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}, func() {})
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("%v: %s", err, said.text())
	}
	ctx, stop := context.WithCancel(t.Context())
	go w.look(ctx)
	t.Cleanup(func() {
		stop()
		<-w.ended
		w.eyes.close()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the process in the session said: %s", said.text())
		}
	})
	return w
}

func (w *watched) look(ctx context.Context) {
	defer close(w.ended)
	period := time.NewTicker(PeriodMillis * time.Millisecond)
	defer period.Stop()
	for {
		sight, err := w.eyes.look(ctx)
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

// self is this test binary.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func lookUp(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// output collects what a process says.
type output struct {
	mu    sync.Mutex
	bytes []byte
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes = append(o.bytes, b...)
	return len(b), nil
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.bytes)
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
	w := watchSway(t, s)

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
	w := watchSway(t, s)
	// What is typed as it begins to watch may count as having been before.
	begun := w.until("a sight", 0, func(seenSight) bool { return true })
	w.until("another sight", begun.atMillis+2*idleTimeoutMillis, func(seenSight) bool { return true })

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
	if lone < from-newsMillis || lone > to+newsMillis {
		t.Errorf("a lone input between %d and %d is told at %d", from, to, lone)
	}
	told := make(map[int64]bool)
	for _, s := range w.all(from) {
		if s.LastInputMillis >= from {
			told[s.LastInputMillis] = true
		}
	}
	// It is pressed and released, which are two inputs.
	if len(told) > 2 {
		t.Errorf("a lone keystroke between %d and %d is told as %v", from, to, told)
	}

	from = bootMillis()
	s.Do("wtype", "wtype", "-d", "100", "abcdefghijklmnopqrstuvwxyz")
	to = bootMillis()
	last := quiet(from, to)
	if last < to-toleranceMillis || last > to+newsMillis {
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
	w := watchSway(t, s)
	begun := w.until("a sight", 0, func(seenSight) bool { return true })
	w.until("another sight", begun.atMillis+2*idleTimeoutMillis, func(seenSight) bool { return true })
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
	w := watchSway(t, s, "WAYLAND_DISPLAY="+proxy.socket)
	w.until("all windows", 0, func(s seenSight) bool { return len(s.Windows) == 3 })

	since := bootMillis()
	s.Focus("only")
	seen := w.until("the X11 window in front", since, func(s seenSight) bool { return s.inFront().Title == "only" })
	if seen.inFront().PID != int32(x.PID) || seen.FocusUnsupported != "" || seen.atMillis-since > toleranceMillis {
		t.Errorf("the one xterm, process %d, after %d ms is %+v: %q", x.PID, seen.atMillis-since, seen.inFront(), seen.FocusUnsupported)
	}
	since = bootMillis()
	s.Focus("one")
	seen = w.until("one of two in front", since, func(s seenSight) bool { return s.inFront().Title == "one" })
	if seen.inFront().PID != 0 || seen.FocusUnsupported != whoseWindow {
		t.Errorf("one of two is %+v: %q", seen.inFront(), seen.FocusUnsupported)
	}
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
