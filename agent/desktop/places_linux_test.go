package desktop

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeProc is a folder like /proc.
type fakeProc struct {
	t    *testing.T
	root string
}

// add puts a process there.
func (f fakeProc) add(pid int, uid uint32, cgroup string, environment ...string) {
	f.t.Helper()
	dir := filepath.Join(f.root, fmt.Sprint(pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	for name, text := range map[string]string{"environ": strings.Join(environment, "\x00") + "\x00", "cgroup": "0::" + cgroup + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := os.Chown(dir, int(uid), -1); err != nil {
		f.t.Fatal(err)
	}
}

func TestLoginOfCgroup(t *testing.T) {
	t.Parallel()
	for cgroup, want := range map[string]string{
		"0::/user.slice/user-1000.slice/session-2.scope\n":                                       "2",
		"0::/user.slice/user-1000.slice/session-c12.scope/sub\n":                                 "c12",
		"12:devices:/\n1:name=systemd:/user.slice/user-1000.slice/session-7.scope\n0::/\n":       "7",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Shell.slice\n": "",
		"1:name=elogind:/3\n":            "3",
		"0::/system.slice/ssh.service\n": "",
		"nonsense":                       "",
	} {
		if got := loginOfCgroup(cgroup); got != want {
			t.Errorf("the login session of %q is %q, want %q", cgroup, got, want)
		}
	}
}

func FuzzLoginOfCgroup(f *testing.F) {
	f.Add("0::/user.slice/user-1000.slice/session-2.scope\n")
	f.Add("1:name=elogind:/c3/x\n")
	f.Fuzz(func(t *testing.T, cgroup string) {
		if id := loginOfCgroup(cgroup); strings.Contains(id, "/") || !strings.Contains(cgroup, id) {
			t.Errorf("a login session %q", id)
		}
	})
}

// What leads to a session is read from its own programs, and from nobody else's.
func TestReach(t *testing.T) {
	t.Parallel()
	me := uint32(os.Getuid())
	proc := fakeProc{t, t.TempDir()}
	const first, second = "/user.slice/session-1.scope", "/user.slice/session-2.scope"
	proc.add(10, me, first, "DISPLAY=:1", "XAUTHORITY=/one", "SECRET=x", "DBUS_SESSION_BUS_ADDRESS=unix:path=/bus1")
	proc.add(11, me, first, "DISPLAY=:1") // started by hand, with less
	proc.add(20, me, second, "DISPLAY=:2.0", "XAUTHORITY=/two", "XDG_RUNTIME_DIR=/run/two", "XDG_CURRENT_DESKTOP=XFCE")
	proc.add(30, me, "/user.slice/user@1.service", "WAYLAND_DISPLAY=wayland-1", "DISPLAY=:9", "XDG_SESSION_ID=3", "XDG_RUNTIME_DIR=/run/three")
	proc.add(40, me, second) // a daemon
	const compositor = "/user.slice/session-6.scope"
	proc.add(60, me, compositor, "XDG_RUNTIME_DIR=/run/six")
	proc.add(61, me, "/user.slice/user@1.service", "WAYLAND_DISPLAY=wayland-7", "XDG_SESSION_ID=7", "XDG_RUNTIME_DIR=/run/seven")
	proc.add(62, me, "/user.slice/session-7.scope", "XDG_RUNTIME_DIR=/run/other")
	if me == 0 {
		proc.add(50, 4242, second, "DISPLAY=:2", "XAUTHORITY=/of/somebody/else", "XDG_RUNTIME_DIR=/x", "DBUS_SESSION_BUS_ADDRESS=unix:path=/x")
	}
	for _, c := range []struct {
		name  string
		login string
		at    place
		want  place
	}{
		{"its display is told", "1", place{kind: kindX11, display: ":1"}, place{kind: kindX11, display: ":1", authority: "/one", sessionBus: "unix:path=/bus1"}},
		{"its display is not told", "2", place{kind: kindX11}, place{kind: kindX11, display: ":2.0", authority: "/two", runtimeDir: "/run/two", desktop: "XFCE"}},
		{"Wayland", "3", place{kind: kindWayland}, place{kind: kindWayland, display: ":9", wayland: "wayland-1", runtimeDir: "/run/three"}},
		{"a compositor without programs", "6", place{kind: kindWayland}, place{kind: kindWayland, runtimeDir: "/run/six"}},
		{"a program knows more than the compositor", "7", place{kind: kindWayland}, place{kind: kindWayland, wayland: "wayland-7", runtimeDir: "/run/seven"}},
	} {
		got := reach(proc.root, seat{systemSeat: systemSeat{uid: me, login: c.login, at: c.at}})
		if c.want.runtimeDir == "" {
			c.want.runtimeDir = fmt.Sprintf("/run/user/%d", me)
		}
		c.want.home = homeOf(me)
		if got != c.want {
			t.Errorf("%s: reached by %+v, want %+v", c.name, got, c.want)
		}
	}
	if got := reach(proc.root, seat{systemSeat: systemSeat{uid: me, login: "4", at: place{kind: kindX11, display: ":4"}}}); got.display != ":4" || got.wayland != "" || got.sessionBus != "" {
		t.Errorf("a session without programs is reached by another's: %+v", got)
	}
}

// A compositor is found before any of its programs name its socket.
func TestWaylandSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(names ...string) {
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	is := func(named, want string) {
		t.Helper()
		if got, err := (place{wayland: named, runtimeDir: dir}).waylandSocket(); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("named %q, the socket is %s, %v", named, got, err)
		}
	}
	is("", "wayland-0")
	write("wayland-1", "wayland-1.lock")
	is("", "wayland-1")
	is("wayland-3", "wayland-3")
	write("wayland-0", "wayland-2")
	is("", "wayland-0")
	if got, err := (place{wayland: "/run/elsewhere"}).waylandSocket(); err != nil || got != "/run/elsewhere" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := (place{wayland: "wayland-0"}).waylandSocket(); err == nil {
		t.Error("a socket is found in no folder")
	}
}

// A session of a terminal is a desktop where its own X server runs in it.
func TestTerminalWithAnXServer(t *testing.T) {
	t.Parallel()
	sockets, proc := t.TempDir(), fakeProc{t, t.TempDir()}
	proc.add(os.Getpid(), uint32(os.Getuid()), "/user.slice/session-3.scope")
	listener, err := net.Listen("unix", filepath.Join(sockets, "X7"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := newPlaces(proc.root, sockets)
	for _, kind := range []string{"tty", "unspecified", kindX11} {
		if at, ok := p.of(login{id: "3", kind: kind}); !ok || at.kind != kindX11 || at.display != ":7" {
			t.Errorf("a session of type %s with an X server is %+v, %v", kind, at, ok)
		}
	}
	if at, ok := p.of(login{id: "4", kind: "tty"}); ok {
		t.Errorf("a terminal is a desktop: %+v", at)
	}
	if at, ok := p.of(login{id: "5", kind: "mir"}); !ok || at.kind != "mir" {
		t.Errorf("a session of another type is %+v, %v", at, ok)
	}
	sight, err := must(openSessionEyes(t.Context(), place{kind: "mir"}, func() {})).look(t.Context())
	if err != nil || !strings.Contains(sight.FocusUnsupported, `"mir"`) || sight.InputUnsupported == "" {
		t.Errorf("a session of another type is seen as %+v, %v", sight, err)
	}
}

func must(e eyes, err error) eyes {
	if err != nil {
		panic(err)
	}
	return e
}

// Each process is of one session at most, and of the right one.
func TestProcessesOfSessions(t *testing.T) {
	t.Parallel()
	const ann, bob = 1000, 1001
	table := newProcessTable(t.TempDir())
	table.follow([]seat{
		{key: "ann's", systemSeat: systemSeat{uid: ann, login: "1", at: place{kind: kindX11, display: ":1"}}},
		{key: "ann's second", systemSeat: systemSeat{uid: ann, login: "2", at: place{kind: kindWayland, display: ":2", wayland: "wayland-0"}}},
		{key: "bob's", systemSeat: systemSeat{uid: bob, login: "3", at: place{kind: kindX11, display: ":3"}}},
		{key: "bob's second", systemSeat: systemSeat{uid: bob, login: "4", at: place{kind: kindWayland}}}, // not reached yet
	})
	for _, c := range []struct {
		process process
		want    string
		shown   bool
	}{
		{process{uid: ann, display: ":1.0"}, "ann's", true},
		{process{uid: ann, display: ":2"}, "ann's second", true},
		{process{uid: ann, display: ":2", wayland: "wayland-0", login: "1"}, "ann's second", true},
		{process{uid: ann, display: ":3"}, "", false}, // bob's display is not hers
		{process{uid: ann, login: "2"}, "ann's second", false},
		{process{uid: ann}, "ann's", false},
		{process{uid: ann, login: "9"}, "", false}, // logged in over a network
		{process{uid: ann, login: "9", display: ":1"}, "ann's", true},
		{process{uid: bob, display: ":3"}, "bob's", true},
		{process{uid: bob, display: ":5", login: "4"}, "bob's second", true},
		{process{uid: bob, display: ":5"}, "bob's second", true},
		{process{uid: 1002, display: ":1"}, "", false},
	} {
		if key, shown := table.seatOf(&c.process); key != c.want || shown != c.shown {
			t.Errorf("%+v is of %q (shown %v), want %q (%v)", c.process, key, shown, c.want, c.shown)
		}
	}
}

// A program is of whoever runs it, whatever somebody else's session says to show: only what
// nobody else here runs is of the session that shows it.
func TestWindowsOfOthersAreNotBelieved(t *testing.T) {
	t.Parallel()
	me := uint32(os.Getuid())
	mine := seat{key: "mine", systemSeat: systemSeat{uid: me, login: "1", at: place{kind: kindX11, display: ":1"}}}
	my2nd := seat{key: "my second", systemSeat: systemSeat{uid: me, login: "2", at: place{kind: kindX11, display: ":2"}}}
	hers := seat{key: "hers", systemSeat: systemSeat{uid: me + 1, login: "3", at: place{kind: kindX11, display: ":3"}}}
	for _, c := range []struct {
		seats []seat
		shown []string // the sessions that say to show it, one after the other
		want  string
	}{
		{[]seat{mine, hers}, []string{"hers"}, "mine"},
		{[]seat{mine, hers}, []string{"hers", "mine"}, "mine"},
		{[]seat{mine, my2nd, hers}, []string{"hers", "my second"}, "my second"},
		{[]seat{hers}, []string{"hers"}, "hers"}, // as a program that an administrator runs there
	} {
		proc := fakeProc{t, t.TempDir()}
		proc.add(7, me, "/user.slice/session-1.scope", "DISPLAY=:1")
		dir := filepath.Join(proc.root, "7")
		stat := "7 (editor) S 1 7 7 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 165822 2998272 390\n"
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600), os.Symlink("/usr/bin/editor", filepath.Join(dir, "exe"))); err != nil {
			t.Fatal(err)
		}
		table := newProcessTable(proc.root)
		table.follow(c.seats)
		for _, key := range c.shown {
			table.windowOf(7, key)
		}
		for _, s := range c.seats {
			if got := len(table.list(s.key)); (got == 1) != (s.key == c.want) {
				t.Errorf("shown by %v it is %d times in the session %q, and should be in %q", c.shown, got, s.key, c.want)
			}
		}
	}
}
