package desktop

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
)

// fakeLogind is a login manager with one session, on a bus of its own.
type fakeLogind struct {
	address string
	display string
	conn    *dbus.Conn

	mu     sync.Mutex
	locked bool
	active bool
	read   bool
}

const fakeSession = logindPath + "/session/_31"

func startLogind(t *testing.T, display string) *fakeLogind {
	t.Helper()
	l := &fakeLogind{address: startBus(t), display: display, active: true}
	conn, err := dbus.Connect(l.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	l.conn = conn
	for _, export := range []struct {
		methods map[string]any
		path    dbus.ObjectPath
		iface   string
	}{
		{map[string]any{"ListSessions": l.listSessions}, logindPath, logindManager},
		{map[string]any{"GetAll": l.getAll}, fakeSession, dbusProps},
	} {
		if err := conn.ExportMethodTable(export.methods, export.path, export.iface); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName(logindName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("own %s: %v, %v", logindName, reply, err)
	}
	return l
}

// startBus starts a message bus that listens in a folder of the test.
func startBus(t *testing.T) string {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Fatal("dbus-daemon is missing: install it with: apt-get install dbus-daemon")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s/bus</listen>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="false"/><allow own="*"/></policy></busconfig>`, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("dbus-daemon did not say its address: %v", err)
	}
	return strings.TrimSpace(address)
}

func (l *fakeLogind) listSessions() ([]struct {
	ID   string
	UID  uint32
	User string
	Seat string
	Path dbus.ObjectPath
}, *dbus.Error,
) {
	return []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}{{"1", uint32(os.Getuid()), "me", "seat0", fakeSession}}, nil
}

func (l *fakeLogind) getAll(string) (map[string]dbus.Variant, *dbus.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = true
	properties := make(map[string]dbus.Variant)
	for name, value := range map[string]any{
		"Id": "1", "Name": "me", "Display": l.display, "LockedHint": l.locked, "Active": l.active,
		"User": struct {
			UID  uint32
			Path dbus.ObjectPath
		}{uint32(os.Getuid()), logindPath + "/user/_0"},
	} {
		properties[name] = dbus.MakeVariant(value)
	}
	return properties, nil
}

func (l *fakeLogind) set(t *testing.T, locked, active bool) {
	t.Helper()
	l.mu.Lock()
	l.locked, l.active = locked, active
	l.mu.Unlock()
	l.emit(t, fakeSession, dbusProps+".PropertiesChanged", logindSession, map[string]dbus.Variant{}, []string{"LockedHint", "Active"})
}

func (l *fakeLogind) emit(t *testing.T, path dbus.ObjectPath, name string, values ...any) {
	t.Helper()
	if err := l.conn.Emit(path, name, values...); err != nil {
		t.Fatal(err)
	}
}

func TestLogind(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	l := startLogind(t, d.Name)
	w := watch(t, Config{Display: d.Name, SystemBus: l.address})
	session := func(locked, disconnected bool) func(activity.Observation) bool {
		return func(o activity.Observation) bool {
			return len(o.Sessions) == 1 && o.Sessions[0].Locked == locked && o.Sessions[0].Disconnected == disconnected
		}
	}
	w.until("the session is open", session(false, false))
	l.waitFollowed(t)
	l.set(t, true, true)
	w.until("the session is locked", session(true, false))
	l.set(t, false, true)
	w.until("the session is unlocked", session(false, false))
	l.set(t, false, false)
	w.until("another session is shown", session(false, true))
	l.set(t, true, true)
	w.until("it is shown again, locked", session(true, false))
	l.emit(t, fakeSession, logindSession+".Unlock")
	w.until("the session is unlocked", session(false, false))

	// A request to lock counts, though nobody says that it was followed, until somebody
	// is there again.
	d.Do("key", "--window", "0", "a")
	l.emit(t, fakeSession, logindSession+".Lock")
	w.until("the session is asked to lock", session(true, false))
	l.emit(t, fakeSession, logindSession+".Unlock")
	w.until("the session is unlocked", session(false, false))
	l.emit(t, fakeSession, logindSession+".Lock")
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
	l.emit(t, logindPath, logindManager+".PrepareForSleep", true)
	w.until("the agent looks before sleep", func(o activity.Observation) bool { return o.BootMillis > before })

	// A bus that goes away takes what it said with it.
	l.set(t, true, true)
	w.until("the session is locked", session(true, false))
	l.emit(t, logindPath, logindManager+".SessionRemoved", "1", fakeSession)
	w.until("the session counts as open again", session(false, false))
}

func TestLockScreenOfTheSessionBus(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	bus := startBus(t)
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

// waitFollowed waits until somebody has read the session.
func (l *fakeLogind) waitFollowed(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(5 * time.Millisecond) {
		l.mu.Lock()
		read := l.read
		l.mu.Unlock()
		if read {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the login manager is not followed")
		}
	}
}
