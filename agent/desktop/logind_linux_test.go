package desktop

import (
	"os"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func TestLogind(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	l := desktoptest.StartLogind(t, desktoptest.Session{ID: "1", UID: uint32(os.Getuid()), User: "me", Type: "x11", Class: "user", Display: d.Name, Active: true})
	w := watch(t, Config{Display: d.Name, SystemBus: l.Address})
	session := func(locked, disconnected bool) func(activity.Observation) bool {
		return func(o activity.Observation) bool {
			return len(o.Sessions) == 1 && o.Sessions[0].Locked == locked && o.Sessions[0].Disconnected == disconnected
		}
	}
	w.until("the session is open", session(false, false))
	l.Followed("1")
	set := func(locked, active bool) {
		l.Change("1", func(s *desktoptest.Session) { s.Locked, s.Active = locked, active })
	}
	set(true, true)
	w.until("the session is locked", session(true, false))
	set(false, true)
	w.until("the session is unlocked", session(false, false))
	set(false, false)
	w.until("another session is shown", session(false, true))
	set(true, true)
	w.until("it is shown again, locked", session(true, false))
	l.Ask("1", "Unlock")
	w.until("the session is unlocked", session(false, false))

	// A request to lock counts, though nobody says that it was followed, until somebody
	// is there again.
	d.Do("key", "--window", "0", "a")
	l.Ask("1", "Lock")
	w.until("the session is asked to lock", session(true, false))
	l.Ask("1", "Unlock")
	w.until("the session is unlocked", session(false, false))
	l.Ask("1", "Lock")
	asked := w.until("the session is asked to lock", session(true, false)).BootMillis
	later := w.until("the keys that asked for it are up", func(o activity.Observation) bool { return o.BootMillis > asked+2*lockGraceMillis })
	if !session(true, false)(later) {
		t.Error("a request to lock is forgotten though nobody is there")
	}
	d.Do("key", "--window", "0", "b")
	w.until("somebody is there again", session(false, false))

	// Going to sleep makes the agent look at once, so that little is open.
	w.mu.Lock()
	before := w.last.BootMillis
	w.mu.Unlock()
	l.Sleep()
	w.until("the agent looks before sleep", func(o activity.Observation) bool { return o.BootMillis > before })

	// A bus that goes away takes what it said with it.
	set(true, true)
	w.until("the session is locked", session(true, false))
	l.LogOff("1")
	w.until("the session counts as open again", session(false, false))
}

// A session says whether a screen of this machine shows it.
func TestWhereASessionIsShown(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	l := desktoptest.StartLogind(t, desktoptest.Session{ID: "1", UID: uint32(os.Getuid()), User: "me", Type: "x11", Class: "user", Display: d.Name, Active: true})
	w := watch(t, Config{Display: d.Name, SystemBus: l.Address})
	shown := func(access usagev1.SessionAccess) func(activity.Observation) bool {
		return func(o activity.Observation) bool { return len(o.Sessions) == 1 && o.Sessions[0].Access == access }
	}
	w.until("it is shown here", shown(usagev1.SessionAccess_SESSION_ACCESS_CONSOLE))
	l.Followed("1")
	l.Change("1", func(s *desktoptest.Session) { s.Active = false })
	w.until("it is shown nowhere", shown(usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED))
	l.Change("1", func(s *desktoptest.Session) { s.Active, s.Seatless = true, true })
	w.until("it has no seat", shown(usagev1.SessionAccess_SESSION_ACCESS_REMOTE))
	l.Change("1", func(s *desktoptest.Session) { s.Seatless, s.Remote = false, true })
	w.until("it comes from elsewhere", shown(usagev1.SessionAccess_SESSION_ACCESS_REMOTE))
	// Of another session of the same person nothing follows for this display.
	l.Change("1", func(s *desktoptest.Session) { s.Remote, s.Display = false, ":65000" })
	w.until("it is another's", shown(usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED))
}

func TestLockScreenOfTheSessionBus(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	bus := desktoptest.StartBus(t)
	own := func(name string, active bool) (*dbus.Conn, dbus.ObjectPath) {
		conn, err := dbus.Connect(bus)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		path := dbus.ObjectPath("/" + strings.ReplaceAll(name, ".", "/"))
		get := map[string]any{"GetActive": func() (bool, *dbus.Error) { return active, nil }}
		if err := conn.ExportMethodTable(get, path, name); err != nil {
			t.Fatal(err)
		}
		if reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
			t.Fatalf("own %s: %v, %v", name, reply, err)
		}
		return conn, path
	}
	locked := func(want bool) func(activity.Observation) bool {
		return func(o activity.Observation) bool { return len(o.Sessions) == 1 && o.Sessions[0].Locked == want }
	}
	conn, path := own("org.mate.ScreenSaver", true)
	w := watch(t, Config{Display: d.Name, SystemBus: "unix:path=/nowhere", SessionBus: bus})
	w.until("it is locked from the start", locked(true))
	emit := func(active bool) {
		if err := conn.Emit(path, "org.mate.ScreenSaver.ActiveChanged", active); err != nil {
			t.Fatal(err)
		}
	}
	emit(false)
	w.until("it is unlocked", locked(false))
	emit(true)
	w.until("it is locked", locked(true))
	// A lock screen that dies covers nothing.
	_ = conn.Close()
	w.until("it is open", locked(false))
}
