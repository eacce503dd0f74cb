package desktop

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"

	"github.com/cetrus/cetrus/agent/desktop/wayland"
)

// fakeShell is a GNOME Shell or a KWin on a bus of its own, as far as their interfaces
// are documented: it answers, and our script in it tells.
type fakeShell struct {
	tb      testing.TB
	address string
	conn    *dbus.Conn
	idle    atomic.Int64 // milliseconds since the last input

	mu     sync.Mutex
	file   string // what KWin was given
	script string // and what it held when KWin ran it
	loaded bool
}

func startShell(t *testing.T, names ...string) *fakeShell {
	t.Helper()
	s := &fakeShell{tb: t, address: desktoptest.StartBus(t)}
	conn, err := dbus.Connect(s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s.conn = conn
	for _, export := range []struct {
		methods map[string]any
		path    dbus.ObjectPath
		iface   string
	}{
		{map[string]any{"GetIdletime": func() (uint64, *dbus.Error) { return uint64(s.idle.Load()), nil }}, mutterIdlePath, mutterIdleName},
		{map[string]any{"loadScript": s.loadScript, "unloadScript": s.unloadScript, "isScriptLoaded": s.isScriptLoaded}, kwinPath, kwinScripting},
		{map[string]any{"run": s.run}, "/7", kwinScript}, // as KWin 5 has it
	} {
		if err := conn.ExportMethodTable(export.methods, export.path, export.iface); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		if reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
			t.Fatalf("own %s: %v, %v", name, reply, err)
		}
	}
	return s
}

func (s *fakeShell) loadScript(file, name string) (int32, *dbus.Error) {
	if _, err := os.Stat(file); err != nil || name != kwinScriptName {
		return -1, dbus.MakeFailedError(errors.New("no such script"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loaded {
		return -1, nil
	}
	s.file, s.loaded = file, true
	return 7, nil
}

func (s *fakeShell) unloadScript(string) (bool, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.loaded
	s.loaded = false
	return was, nil
}

func (s *fakeShell) isScriptLoaded(string) (bool, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loaded, nil
}

// run reads the file, and answers when that is done, as KWin does.
func (s *fakeShell) run() *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := os.ReadFile(s.file)
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	s.script = string(text)
	return nil
}

// tell calls as the script in the shell does, and returns the error.
func tellAs(conn *dbus.Conn, to, text string) error {
	return conn.Object(to, eyesPath).Call(eyesInterface+".Show", 0, text).Err
}

const (
	twoWindows = `{"focus":"0x2","windows":[{"id":"0x1","pid":11,"class":"org.example.One","title":"One"},{"id":"0x2","pid":12,"class":"Two","title":"Two","parent":"0x1"}]}`
	oneWindow  = `{"focus":"","windows":[{"id":"0x2","pid":12,"class":"Two","title":"Two, changed","parent":"0x1"}]}`
)

func TestGNOME(t *testing.T) {
	t.Parallel()
	shell := startShell(t, gnomeShell, mutterIdleName)
	shell.idle.Store(5_000)
	c := startCompositor(t, fakeSeat)
	e, woken := openFake(t, c, place{sessionBus: shell.address})
	now := bootMillis()
	sight := lookAt(t, e)
	if sight.FocusUnsupported != noExtension {
		t.Errorf("without the extension: %q", sight.FocusUnsupported)
	}
	if off := sight.LastInputMillis - (now - 5_000); off < -100 || off > 10_000 || sight.InputUnsupported != "" {
		t.Errorf("an input of five seconds ago is told %d ms off; %q", off, sight.InputUnsupported)
	}

	if err := tellAs(shell.conn, eyesName, twoWindows); err != nil {
		t.Fatal(err)
	}
	<-woken
	sight = lookAt(t, e)
	front := sight.inFront()
	if sight.FocusUnsupported != "" || front.PID != 12 || front.Class != "Two" || front.Title != "Two" || front.Parent != sight.titled("One").ID || front.Parent == 0 {
		t.Errorf("two windows are %+v", sight)
	}
	if err := tellAs(shell.conn, eyesName, oneWindow); err != nil {
		t.Fatal(err)
	}
	sight = lookAt(t, e)
	if len(sight.Windows) != 1 || sight.Foreground != 0 || sight.FocusUnsupported != "" || sight.Windows[0].ID != front.ID {
		t.Errorf("one window, not in front, is %+v", sight)
	}

	stranger, err := dbus.Connect(shell.address)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := tellAs(stranger, eyesName, twoWindows); err == nil {
		t.Error("a stranger is believed")
	}
	if err := tellAs(shell.conn, eyesName, "{"); err == nil {
		t.Error("nonsense is believed")
	}
	if after := lookAt(t, e); !after.SameWindows {
		t.Errorf("what was refused has changed %+v", after)
	}

	if err := tellAs(shell.conn, eyesName, `{"ended":true}`); err != nil {
		t.Fatal(err)
	}
	if sight = lookAt(t, e); sight.FocusUnsupported != noExtension {
		t.Errorf("after the extension was switched off: %q", sight.FocusUnsupported)
	}
	_ = shell.conn.Close()
	untilGone(t, e)
}

// Where another program has taken the agent's name, nobody is believed; when that goes, the
// extension finds the agent.
func TestImpostorOnTheBus(t *testing.T) {
	t.Parallel()
	shell := startShell(t, gnomeShell, mutterIdleName)
	impostor, err := dbus.Connect(shell.address)
	if err != nil {
		t.Fatal(err)
	}
	defer impostor.Close()
	if reply, err := impostor.RequestName(eyesName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("take the name: %v, %v", reply, err)
	}
	c := startCompositor(t, fakeSeat)
	e, woken := openFake(t, c, place{sessionBus: shell.address})
	if sight := lookAt(t, e); sight.FocusUnsupported != nameTaken {
		t.Errorf("while another has the name: %q", sight.FocusUnsupported)
	}
	if err := impostor.Close(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(30 * time.Second)
	for lookAt(t, e).FocusUnsupported == nameTaken {
		select {
		case <-woken:
		case <-deadline:
			t.Fatal("nobody has the name any more, and it is not taken")
		}
	}
	if err := tellAs(shell.conn, eyesName, twoWindows); err != nil {
		t.Fatal(err)
	}
	if sight := lookAt(t, e); sight.FocusUnsupported != "" || sight.inFront().PID != 12 {
		t.Errorf("once it has the name: %+v", sight)
	}
}

func TestKWin(t *testing.T) {
	t.Parallel()
	shell := startShell(t, kwin)
	c := startCompositor(t, fakeSeat, fakeInput)
	e, woken := openFake(t, c, place{sessionBus: shell.address})
	if sight := lookAt(t, e); sight.FocusUnsupported != noScript || sight.InputUnsupported != "" {
		t.Errorf("before the script has told anything: %+v", sight)
	}
	shell.mu.Lock()
	script, file := shell.script, shell.file
	shell.mu.Unlock()
	if _, err := os.Stat(file); err == nil {
		t.Errorf("the script is left in %s", file)
	}
	told := regexp.MustCompile(`const eyes = "(:[0-9.]+)"`).FindStringSubmatch(script)
	if told == nil || strings.Contains(script, "@EYES@") {
		t.Fatalf("the script does not name whom it tells:\n%s", script)
	}
	if err := tellAs(shell.conn, told[1], twoWindows); err != nil {
		t.Fatal(err)
	}
	<-woken
	if sight := lookAt(t, e); sight.inFront().PID != 12 || len(sight.Windows) != 2 || sight.FocusUnsupported != "" {
		t.Errorf("two windows are %+v", sight)
	}
	// Somebody has switched the script off.
	if _, err := shell.unloadScript(kwinScriptName); err != nil {
		t.Fatal(err)
	}
	untilGone(t, e)
}

// A confined helper hears what the shells tell, and KWin reads what it writes.
func TestShellsThroughHelper(t *testing.T) {
	t.Parallel()
	for name, mine := range map[string]string{gnomeShell: eyesName, kwin: ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shell := startShell(t, name, mutterIdleName)
			c := startCompositor(t, fakeSeat, fakeInput)
			e, err := openHelper(t.Context(), testHelper(), seat{systemSeat: systemSeat{uid: uint32(os.Getuid()), at: place{
				kind: kindWayland, wayland: c.socket, runtimeDir: t.TempDir(), sessionBus: shell.address,
			}}}, func() {})
			if err != nil {
				t.Fatal(err)
			}
			defer e.close()
			if name == kwin {
				shell.mu.Lock()
				told := regexp.MustCompile(`const eyes = "(:[0-9.]+)"`).FindStringSubmatch(shell.script)
				file := shell.file
				shell.mu.Unlock()
				if _, err := os.Stat(file); err == nil {
					t.Errorf("the script is left in %s", file)
				}
				if told == nil {
					t.Fatal("KWin was given no script")
				}
				mine = told[1]
			}
			if err := tellAs(shell.conn, mine, twoWindows); err != nil {
				t.Fatal(err)
			}
			if sight := lookAt(t, e); sight.inFront().PID != 12 || len(sight.Windows) != 2 || sight.FocusUnsupported != "" || sight.InputUnsupported != "" {
				t.Errorf("two windows are %+v", sight)
			}
		})
	}
}

// A KWin that tells idleness too coarsely is not believed.
func TestOldKWin(t *testing.T) {
	t.Parallel()
	shell := startShell(t, kwin)
	c := startCompositor(t, fakeSeat, wayland.Global{Name: 4, Interface: kdeIdleInterface, Version: 1})
	e, _ := openFake(t, c, place{sessionBus: shell.address})
	if sight := lookAt(t, e); sight.InputUnsupported != oldKWinIdleness {
		t.Errorf("unsupported is %q", sight.InputUnsupported)
	}
}

// untilGone waits until eyes see no more.
func untilGone(t *testing.T, e eyes) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := e.look(t.Context()); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("what is gone is still seen")
		}
		<-time.After(10 * time.Millisecond)
	}
}
