//go:build linux

package desktoptest

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of logind on the system bus.
const (
	logindName  = "org.freedesktop.login1"
	logindPath  = dbus.ObjectPath("/org/freedesktop/login1")
	sessionFace = "org.freedesktop.login1.Session"
	managerFace = "org.freedesktop.login1.Manager"
	properties  = "org.freedesktop.DBus.Properties"
)

// Session is one session of a login manager.
type Session struct {
	ID   string
	UID  uint32
	User string
	// Type, Class and Display are logind's.
	Type, Class, Display string
	Locked, Active       bool
	// Remote: it was begun from another machine.
	Remote bool
	// Seatless: no screen here shows it, as one of xrdp.
	Seatless bool
	began    uint64 // microseconds of wall-clock time
}

// seat is the session's; a remote one has none.
func (s Session) seat() pathed[string] {
	if s.Remote || s.Seatless {
		return pathed[string]{"", "/"}
	}
	return pathed[string]{"seat0", logindPath + "/seat/seat0"}
}

func (s Session) path() dbus.ObjectPath {
	return logindPath + dbus.ObjectPath("/session/_"+fmt.Sprintf("%x", s.ID))
}

// Logind is a login manager on a bus of its own, which does what it is told. It behaves
// as org.freedesktop.login1(5) documents.
type Logind struct {
	// Address is the D-Bus address of its bus.
	Address string

	tb   testing.TB
	conn *dbus.Conn

	mu       sync.Mutex
	sessions map[string]Session
	read     map[string]bool
}

// StartLogind starts a login manager with sessions.
func StartLogind(tb testing.TB, sessions ...Session) *Logind {
	tb.Helper()
	l := &Logind{Address: StartBus(tb), tb: tb, sessions: make(map[string]Session), read: make(map[string]bool)}
	conn, err := dbus.Connect(l.Address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	l.conn = conn
	if err := conn.ExportMethodTable(map[string]any{"ListSessions": l.list}, logindPath, managerFace); err != nil {
		tb.Fatal(err)
	}
	if err := conn.ExportSubtreeMethodTable(map[string]any{"GetAll": l.getAll}, logindPath, properties); err != nil {
		tb.Fatal(err)
	}
	for _, s := range sessions {
		l.add(s)
	}
	if reply, err := conn.RequestName(logindName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		tb.Fatalf("own %s: %v, %v", logindName, reply, err)
	}
	return l
}

// StartBus starts a message bus that listens in a folder of the test.
func StartBus(tb testing.TB) (address string) {
	tb.Helper()
	daemon := need(tb, "dbus-daemon", "dbus-daemon")
	dir := tb.TempDir()
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s/bus</listen>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="false"/><allow own="*"/></policy></busconfig>`, dir), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("dbus-daemon did not say its address: %v", err)
	}
	return strings.TrimSpace(line)
}

type listed struct {
	ID   string
	UID  uint32
	User string
	Seat string
	Path dbus.ObjectPath
}

func (l *Logind) list() ([]listed, *dbus.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []listed{}
	for _, id := range slices.Sorted(maps.Keys(l.sessions)) {
		s := l.sessions[id]
		all = append(all, listed{s.ID, s.UID, s.User, s.seat().Name, s.path()})
	}
	return all, nil
}

type pathed[T any] struct {
	Name T
	Path dbus.ObjectPath
}

func (l *Logind) getAll(message dbus.Message, of string) (map[string]dbus.Variant, *dbus.Error) {
	path, _ := message.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sessions {
		if s.path() != path || of != sessionFace {
			continue
		}
		l.read[s.ID] = true
		state := "online"
		if s.Active {
			state = "active"
		}
		all := make(map[string]dbus.Variant)
		for name, value := range map[string]any{
			"Id": s.ID, "Name": s.User, "Type": s.Type, "Class": s.Class, "Display": s.Display, "State": state,
			"LockedHint": s.Locked, "Active": s.Active, "Remote": s.Remote, "Timestamp": s.began, "Leader": uint32(1),
			"User": pathed[uint32]{s.UID, logindPath + "/user/_1"}, "Seat": s.seat(),
		} {
			all[name] = dbus.MakeVariant(value)
		}
		return all, nil
	}
	return nil, dbus.NewError("org.freedesktop.DBus.Error.UnknownObject", []any{string(path)})
}

func (l *Logind) add(s Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.began = uint64(time.Now().UnixMicro())
	l.sessions[s.ID] = s
}

// LogOn adds a session.
func (l *Logind) LogOn(s Session) {
	l.tb.Helper()
	l.add(s)
	l.Emit(logindPath, managerFace+".SessionNew", s.ID, s.path())
}

// LogOff ends a session.
func (l *Logind) LogOff(id string) {
	l.tb.Helper()
	l.mu.Lock()
	s := l.sessions[id]
	delete(l.sessions, id)
	l.mu.Unlock()
	l.Emit(logindPath, managerFace+".SessionRemoved", id, s.path())
}

// Change alters a session and tells that it has changed.
func (l *Logind) Change(id string, change func(*Session)) {
	l.tb.Helper()
	l.mu.Lock()
	s := l.sessions[id]
	change(&s)
	l.sessions[id] = s
	l.mu.Unlock()
	l.Emit(s.path(), properties+".PropertiesChanged", sessionFace, map[string]dbus.Variant{}, []string{"LockedHint", "Active"})
}

// Ask sends a signal to a session: Lock or Unlock.
func (l *Logind) Ask(id, signal string) {
	l.tb.Helper()
	l.mu.Lock()
	path := l.sessions[id].path()
	l.mu.Unlock()
	l.Emit(path, sessionFace+"."+signal)
}

// Sleep says that the machine is about to sleep.
func (l *Logind) Sleep() {
	l.tb.Helper()
	l.Emit(logindPath, managerFace+".PrepareForSleep", true)
}

// Emit sends any signal.
func (l *Logind) Emit(path dbus.ObjectPath, name string, values ...any) {
	l.tb.Helper()
	if err := l.conn.Emit(path, name, values...); err != nil {
		l.tb.Fatal(err)
	}
}

// Followed waits until somebody has read a session.
func (l *Logind) Followed(id string) {
	l.tb.Helper()
	deadline := time.Now().Add(startTimeout)
	for {
		l.mu.Lock()
		read := l.read[id]
		l.mu.Unlock()
		if read {
			return
		}
		if time.Now().After(deadline) {
			l.tb.Fatal("the login manager is not followed")
		}
		<-time.After(5 * time.Millisecond)
	}
}
