package desktop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// saverNames are the lock screens and screen savers of the session bus. Each has an object
// at the path that its name makes, which tells with ActiveChanged when it covers the
// screen and when it no longer does.
var saverNames = []string{
	"org.freedesktop.ScreenSaver", "org.gnome.ScreenSaver", "org.cinnamon.ScreenSaver", "org.mate.ScreenSaver", "org.xfce.ScreenSaver",
}

// saver follows the lock screens of the session bus: many of them tell logind nothing.
type saver struct {
	address string // empty: there is no session bus
	retry   time.Duration

	mu sync.Mutex
	// covering are the unique names of those that cover the screen.
	covering []string
	// wake is called after a change.
	wake func()
}

func newSaver(address string, uid uint32, wake func()) *saver {
	if address == "" {
		address = os.Getenv("DBUS_SESSION_BUS_ADDRESS")
	}
	if socket := "/run/user/" + strconv.FormatUint(uint64(uid), 10) + "/bus"; address == "" {
		if _, err := os.Stat(socket); err == nil {
			address = "unix:path=" + socket
		}
	}
	return &saver{address: address, retry: logindRetry, wake: wake}
}

// covers tells whether any of them covers the screen.
func (s *saver) covers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.covering) > 0
}

func (s *saver) set(owner string, covering bool) {
	s.mu.Lock()
	was := len(s.covering)
	s.covering = slices.DeleteFunc(s.covering, func(o string) bool { return o == owner || owner == "" })
	if covering {
		s.covering = append(s.covering, owner)
	}
	changed := (was > 0) != (len(s.covering) > 0)
	s.mu.Unlock()
	if changed {
		s.wake()
	}
}

// run follows the bus until ctx ends, coming back when it goes away.
func (s *saver) run(ctx context.Context) {
	for s.address != "" && ctx.Err() == nil {
		_ = s.follow(ctx) // a session without such a bus is as good as any
		s.set("", false)
		select {
		case <-ctx.Done():
		case <-time.After(s.retry):
		}
	}
}

func (s *saver) follow(ctx context.Context) error {
	conn, err := dbus.Connect(s.address, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("session bus: %w", err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 32)
	conn.Signal(signals)
	matches := [][]dbus.MatchOption{{dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged")}}
	for _, name := range saverNames {
		matches = append(matches, []dbus.MatchOption{dbus.WithMatchInterface(name), dbus.WithMatchMember("ActiveChanged")})
	}
	for _, match := range matches {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("subscribe to the session bus: %w", err)
		}
	}
	for _, name := range saverNames {
		var owner string
		if conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, name).Store(&owner) != nil {
			continue // nobody has that name
		}
		path := dbus.ObjectPath("/" + strings.ReplaceAll(name, ".", "/"))
		var active bool
		if conn.Object(name, path).CallWithContext(ctx, name+".GetActive", dbus.FlagNoAutoStart).Store(&active) == nil {
			s.set(owner, active)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case signal, ok := <-signals:
			if !ok {
				return errors.New("the session bus has closed the connection")
			}
			if name, told := strings.CutSuffix(signal.Name, ".ActiveChanged"); told && slices.Contains(saverNames, name) {
				if active, ok := only[bool](signal.Body); ok {
					s.set(signal.Sender, active)
				}
			}
			if signal.Name == "org.freedesktop.DBus.NameOwnerChanged" && len(signal.Body) == 3 && signal.Body[2] == "" {
				if gone, ok := signal.Body[0].(string); ok && gone != "" {
					s.set(gone, false)
				}
			}
		}
	}
}
