package desktop

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/wayland"
)

// fakeCompositor speaks the wire protocol as the specifications say, for what no
// compositor of Debian offers. It has one seat, and tells idleness when it is told to.
type fakeCompositor struct {
	tb       testing.TB
	socket   string
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	conn    net.Conn
	offered []wayland.Global
	// bound are the interfaces by object, and requests what was asked: interface,
	// opcode, and the first number after an id.
	bound    map[uint32]string
	requests []fakeRequest
	notices  []uint32 // objects to tell idleness to
	manager  uint32   // of toplevels
	nextID   uint32
}

type fakeRequest struct {
	of     string
	opcode uint16
}

func startCompositor(t *testing.T, offered ...wayland.Global) *fakeCompositor {
	t.Helper()
	c := &fakeCompositor{tb: t, socket: filepath.Join(t.TempDir(), "wayland"), offered: offered, nextID: 0xFF000000}
	listener, err := net.Listen("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	c.listener = listener
	c.serving.Go(c.serve)
	t.Cleanup(func() {
		_ = listener.Close()
		c.mu.Lock()
		if c.conn != nil {
			_ = c.conn.Close()
		}
		c.mu.Unlock()
		c.serving.Wait()
	})
	return c
}

func (c *fakeCompositor) serve() {
	conn, err := c.listener.Accept()
	if err != nil {
		return
	}
	c.mu.Lock()
	c.conn, c.bound = conn, map[uint32]string{1: "wl_display"}
	c.mu.Unlock()
	for {
		m, err := wayland.ReadMessage(conn)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.answer(m)
		c.mu.Unlock()
	}
}

// answer is called with the lock held.
func (c *fakeCompositor) answer(m wayland.Message) {
	of, args := c.bound[m.Object], m.Args()
	c.requests = append(c.requests, fakeRequest{of, m.Opcode})
	switch {
	case of == "wl_display" && m.Opcode == 0:
		id := args.Uint()
		c.send(wayland.NewMessage(id, 0).Uint(0))
		c.send(wayland.NewMessage(1, 1).Uint(id))
	case of == "wl_display" && m.Opcode == 1:
		registry := args.Uint()
		c.bound[registry] = "wl_registry"
		for _, g := range c.offered {
			c.send(wayland.NewMessage(registry, 0).Uint(g.Name).String(g.Interface).Uint(g.Version))
		}
	case of == "wl_registry":
		_, name, _, id := args.Uint(), args.String(), args.Uint(), args.Uint()
		c.bound[id] = name
		if name == toplevelsInterface {
			c.manager = id
		}
	case of == extIdleInterface, of == kdeIdleInterface:
		id := args.Uint()
		c.bound[id] = of + " notice"
		c.notices = append(c.notices, id)
	}
}

func (c *fakeCompositor) send(b *wayland.Builder) {
	bytes, err := b.Bytes()
	if err != nil {
		c.tb.Error(err)
	}
	_, _ = c.conn.Write(bytes)
}

// tell sends events.
func (c *fakeCompositor) tell(events ...*wayland.Builder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		c.send(e)
	}
}

// notice sends idleness (0) or resumption (1) to everybody that asked.
func (c *fakeCompositor) notice(opcode uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.notices {
		c.send(wayland.NewMessage(id, opcode))
	}
}

func (c *fakeCompositor) asked(of string, opcode uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.requests {
		if r.of == of && r.opcode == opcode {
			return true
		}
	}
	return false
}

// toplevel makes a window and returns its object.
func (c *fakeCompositor) toplevel(title, appID string) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.nextID
	c.nextID++
	c.send(wayland.NewMessage(c.manager, managerToplevel).Uint(id))
	c.send(wayland.NewMessage(id, handleTitle).String(title))
	c.send(wayland.NewMessage(id, handleAppID).String(appID))
	c.send(wayland.NewMessage(id, handleState).Array(nil))
	c.send(wayland.NewMessage(id, handleDone))
	return id
}

func (c *fakeCompositor) activate(id uint32, active bool) {
	var states []byte
	if active {
		states = binary.NativeEndian.AppendUint32(states, stateActivated)
	}
	c.tell(wayland.NewMessage(id, handleState).Array(states), wayland.NewMessage(id, handleDone))
}

// openFake looks at a fake session in this process.
func openFake(t *testing.T, c *fakeCompositor, at place) (eyes, chan struct{}) {
	t.Helper()
	woken := make(chan struct{}, 1)
	at.wayland = c.socket
	if at.runtimeDir == "" {
		at.runtimeDir = t.TempDir()
	}
	e, err := openWaylandEyes(t.Context(), at, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e, woken
}

func lookAt(t *testing.T, e eyes) Sight {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	sight, err := e.look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return sight
}

var (
	fakeSeat    = wayland.Global{Name: 1, Interface: seatInterface, Version: 7}
	fakeInput   = wayland.Global{Name: 2, Interface: extIdleInterface, Version: 2}
	fakeIdle    = wayland.Global{Name: 2, Interface: extIdleInterface, Version: 1}
	fakeWindows = wayland.Global{Name: 3, Interface: toplevelsInterface, Version: 3}
)

// Where the compositor tells input apart from what keeps the screen on, that is asked
// for; otherwise idleness is; and where it tells nothing, that is said.
func TestIdlenessIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		offered []wayland.Global
		of      string
		opcode  uint16
	}{
		"input":    {[]wayland.Global{fakeSeat, fakeInput}, extIdleInterface, extGetInputIdle},
		"idleness": {[]wayland.Global{fakeSeat, fakeIdle}, extIdleInterface, extGetIdle},
		"of KDE":   {[]wayland.Global{fakeSeat, {Name: 4, Interface: kdeIdleInterface, Version: 1}}, kdeIdleInterface, kdeGetIdle},
		"nothing":  {[]wayland.Global{fakeSeat}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCompositor(t, test.offered...)
			e, _ := openFake(t, c, place{})
			lookAt(t, e)
			sight := lookAt(t, e) // whatever the first one has asked has arrived
			if test.of == "" {
				if sight.InputUnsupported == "" {
					t.Error("it is not said that no input is told")
				}
				return
			}
			if (sight.InputShortfall != "") != (test.opcode != extGetInputIdle) {
				t.Errorf("what is not told apart from input: %q", sight.InputShortfall)
			}
			if sight.InputUnsupported != "" || !c.asked(test.of, test.opcode) {
				t.Errorf("%s is not asked for by request %d; unsupported: %q", test.of, test.opcode, sight.InputUnsupported)
			}
			if sight.LastInputMillis != 0 {
				t.Errorf("an input at %d, there was none", sight.LastInputMillis)
			}
			from := bootMillis()
			c.notice(resumedEvent)
			sight = lookAt(t, e)
			if sight.LastInputMillis < from || sight.LastInputMillis > bootMillis() {
				t.Errorf("an input at %d, it was at %d", sight.LastInputMillis, from)
			}
			if sight.FocusUnsupported == "" {
				t.Error("it is not said that no focus is told")
			}
		})
	}
}

// What the compositor says because a program keeps the session awake is no input.
func TestInhibitorIsNoInput(t *testing.T) {
	t.Parallel()
	c := startCompositor(t, fakeSeat, fakeIdle)
	e, _ := openFake(t, c, place{})
	lookAt(t, e)
	c.notice(idleEvent)
	lookAt(t, e)
	n := e.(*waylandEyes).idle.(*idleNotices)
	n.inhibit(windowFacts{inhibitorsTold: true})
	ask := func() inputFacts {
		t.Helper()
		if err := e.(*waylandEyes).conn.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		reading, err := newClocks().now()
		if err != nil {
			t.Fatal(err)
		}
		facts, err := n.lastInput(t.Context(), reading)
		if err != nil {
			t.Fatal(err)
		}
		return facts
	}
	c.notice(resumedEvent)
	if err := e.(*waylandEyes).conn.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.inhibit(windowFacts{inhibitorsTold: true, inhibited: true})
	if facts := ask(); facts.bootMillis != 0 || facts.unsupported != inhibitedIdleness {
		t.Errorf("a program that begins to keep the session awake is told as %+v", facts)
	}
	n.inhibit(windowFacts{inhibitorsTold: true})
	c.notice(idleEvent)
	if facts := ask(); facts.bootMillis != 0 || facts.unsupported != "" || facts.shortfall != "" {
		t.Errorf("a program that ends that is told as %+v", facts)
	}
}

// A window belongs to a program only where exactly one can be it.
func TestWindowsWithoutProcess(t *testing.T) {
	t.Parallel()
	c := startCompositor(t, fakeSeat, fakeInput, fakeWindows)
	e, woken := openFake(t, c, place{})
	lookAt(t, e)
	self := filepath.Base(t.TempDir()) // no program is called so
	known := c.toplevel("known", "desktop.test")
	unknown := c.toplevel("unknown", self)
	c.activate(unknown, true)
	<-woken
	sight := lookAt(t, e)
	if len(sight.Windows) != 2 || sight.inFront().Title != "unknown" || sight.inFront().PID != 0 || sight.FocusUnsupported == "" {
		t.Errorf("with an unknown program in front: %+v", sight)
	}
	c.activate(unknown, false)
	sight = lookAt(t, e)
	if sight.Foreground != 0 || sight.FocusUnsupported != "" || !sight.SameWindows {
		t.Errorf("with nothing in front: %+v", sight)
	}
	c.tell(wayland.NewMessage(unknown, handleParent).Uint(known), wayland.NewMessage(unknown, handleDone))
	sight = lookAt(t, e)
	if dialog := sight.titled("unknown"); dialog.Parent == 0 || dialog.Parent != sight.titled("known").ID {
		t.Errorf("a dialog is %+v", dialog)
	}
	c.tell(wayland.NewMessage(unknown, handleClosed))
	sight = lookAt(t, e)
	if len(sight.Windows) != 1 {
		t.Errorf("after a window closed there are %+v", sight.Windows)
	}
	lookAt(t, e)
	if !c.asked("", handleDestroy) {
		t.Error("what closed is not let go of")
	}
	c.tell(wayland.NewMessage(c.manager, managerFinished))
	if _, err := e.look(t.Context()); err == nil {
		t.Error("a compositor that tells no more is believed to")
	}
}

// What a compositor may not send ends the eyes with an error.
func TestMalformedEvent(t *testing.T) {
	t.Parallel()
	c := startCompositor(t, fakeSeat, fakeInput, fakeWindows)
	e, _ := openFake(t, c, place{})
	lookAt(t, e)
	c.tell(wayland.NewMessage(1, 0).Uint(7).Uint(3).String("no such thing"))
	if _, err := e.look(t.Context()); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("a refusal is %v", err)
	}
}

// Which program an application id means is read from desktop files, and nothing is
// taken for it that could be another.
func TestPrograms(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		writeFile(t, filepath.Join(folder, name), text)
	}
	write("org.example.Editor.desktop", "[Desktop Entry]\nExec=/usr/bin/example-editor --new %U\n[Desktop Action x]\nExec=other\n")
	write("named.desktop", "[Desktop Entry]\nExec=env A=1 \"example-viewer\" %f\nStartupWMClass=Viewer\n")
	write("org.kde.kate.desktop", "[Desktop Entry]\nExec=/usr/bin/flatpak run --branch=stable --command=kate org.kde.kate\nX-Flatpak=org.kde.kate\n")
	write("script.desktop", "[Desktop Entry]\nExec=sh -c 'example'\n")
	running := []runningProgram{
		{pid: 1, parent: 0, executable: "systemd"},
		{pid: 10, parent: 1, executable: "example-editor"},
		{pid: 11, parent: 10, executable: "example-editor"},
		{pid: 20, parent: 1, executable: "example-viewer"},
		{pid: 30, parent: 1, executable: "foot"},
		{pid: 31, parent: 1, executable: "foot"},
		{pid: 40, parent: 1, executable: "bwrap", pkg: "org.kde.kate"},
		{pid: 41, parent: 40, executable: "kate", pkg: "org.kde.kate"},
		{pid: 50, parent: 1, executable: "sh"},
	}
	for appID, want := range map[string]int32{
		"org.example.Editor": 10, // its second process is its child
		"viewer":             20,
		"foot":               0, // two run, either can be it
		"org.kde.kate":       41,
		"script":             0, // a shell can be anything
		"none":               0,
		"../../etc/passwd":   0,
		"":                   0,
	} {
		p := &programs{folders: []string{folder}, entries: make(map[string]desktopEntry), answers: make(map[string]int32), running: running, listed: true}
		if got := p.of(appID); got != want {
			t.Errorf("%q is process %d, want %d", appID, got, want)
		}
	}
}

func FuzzDesktopEntry(f *testing.F) {
	f.Add("[Desktop Entry]\nExec=env A=b flatpak run --command=x y\nX-Flatpak=y\n")
	f.Add("[Desktop Entry]\nExec=\"\nStartupWMClass= \n")
	f.Fuzz(func(t *testing.T, text string) {
		entry, _ := parseDesktopEntry(strings.NewReader(text))
		if strings.Contains(entry.executable, "/") && entry.executable != "/" {
			t.Errorf("executable %q of %q", entry.executable, text)
		}
	})
}

func FuzzSwayTree(f *testing.F) {
	f.Add([]byte(`{"id":1,"nodes":[{"id":2,"pid":7,"name":"x","app_id":"y","focused":true},{"id":3,"pid":8,"window":5,"window_properties":{"class":"C","transient_for":6}}],"floating_nodes":[{"id":4,"pid":9,"window":6}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, tree []byte) {
		facts, _, err := parseSwayTree(tree)
		if err == nil {
			checkFacts(t, facts)
		}
	})
}

func FuzzShown(f *testing.F) {
	f.Add([]byte(`{"focus":"2","windows":[{"id":"1","pid":5,"class":"c","title":"t"},{"id":"2","parent":"1"}]}`))
	f.Add([]byte(`{"ended":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var ids shellIDs
		facts, err := parseShown(text, &ids)
		if err == nil {
			checkFacts(t, facts)
		}
	})
}

// checkFacts holds windows to what the service believes.
func checkFacts(t *testing.T, facts windowFacts) {
	t.Helper()
	sight := Sight{Windows: facts.list}
	if err := checkSight(&sight); err != nil {
		t.Error(err)
	}
	if facts.foreground != 0 {
		sight.Foreground = facts.foreground
		if sight.inFront() == (activity.Window{}) {
			t.Errorf("window %d is in front and not there", facts.foreground)
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
