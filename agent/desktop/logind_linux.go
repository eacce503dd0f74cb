package desktop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// sessionFacts is what logind says about the desktop session.
type sessionFacts struct {
	// locked is logind's LockedHint, which lock screens set and clear.
	locked bool
	// askedMillis is when logind asked for the screen to be locked, on the boot
	// timeline; 0: it has not, or the lock was taken off since. Whoever followed may
	// not have told logind, nor when it ended.
	askedMillis int64
	// active: the session is the one that its seat shows. A session that another
	// user has switched away from is not, nor one whose remote viewer has left.
	active bool
	// sleeping: the machine is about to sleep, or has not told yet that it woke.
	sleeping bool
	// owner is the user that the session belongs to, where owned is true.
	owner uint32
	owned bool
}

// Names on the system bus.
const (
	logindName    = "org.freedesktop.login1"
	logindPath    = dbus.ObjectPath("/org/freedesktop/login1")
	logindManager = "org.freedesktop.login1.Manager"
	logindSession = "org.freedesktop.login1.Session"
	logindUser    = "org.freedesktop.login1.User"
	dbusProps     = "org.freedesktop.DBus.Properties"
)

// logindRetry is how long a missing bus or session is left alone.
const logindRetry = 30 * time.Second

// lockGraceMillis is how long after a request to lock the keys that asked for it may
// still be coming up: a later input says that somebody is there again.
const lockGraceMillis = 2_000

// lockedGiven tells whether the session is locked as far as logind knows, given the last
// input in it. A request to lock that nobody tells the end of holds until then: the
// password is an input too.
func (f sessionFacts) lockedGiven(inputMillis int64, inputKnown bool) bool {
	return f.locked || f.askedMillis > 0 && inputKnown && inputMillis <= f.askedMillis+lockGraceMillis
}

// logind follows one session of systemd's or elogind's login manager. Where
// there is none, the session counts as unlocked and active.
type logind struct {
	address string // empty: the system bus
	display string
	uid     uint32
	retry   time.Duration
	log     *slog.Logger

	mu    sync.Mutex
	facts sessionFacts
	// wake holds one token after a change.
	wake chan struct{}
}

func newLogind(address, display string, uid uint32, log *slog.Logger) *logind {
	return &logind{
		address: address, display: display, uid: uid, retry: logindRetry, log: log,
		facts: sessionFacts{active: true},
		wake:  make(chan struct{}, 1),
	}
}

func (l *logind) current() sessionFacts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.facts
}

func (l *logind) change(f func(*sessionFacts)) {
	l.mu.Lock()
	was := l.facts
	f(&l.facts)
	changed := l.facts != was
	l.mu.Unlock()
	if changed {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run follows the session until ctx ends, coming back when the bus goes away.
func (l *logind) run(ctx context.Context) {
	told := false
	for ctx.Err() == nil {
		err := l.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if !told {
			l.log.InfoContext(ctx, "no login manager is watched; locking and switching of sessions are not seen until there is one", "reason", err)
			told = true
		}
		l.change(func(f *sessionFacts) { *f = sessionFacts{active: true} })
		select {
		case <-ctx.Done():
		case <-time.After(l.retry):
		}
	}
}

func (l *logind) follow(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return fmt.Errorf("system bus: %w", err)
	}
	defer conn.Close()
	session, owner, err := l.findSession(ctx, conn)
	if err != nil {
		return err
	}
	l.change(func(f *sessionFacts) { f.owner, f.owned = owner, true })
	signals := make(chan *dbus.Signal, 32)
	conn.Signal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchObjectPath(session), dbus.WithMatchInterface(logindSession)},
		{dbus.WithMatchObjectPath(session), dbus.WithMatchInterface(dbusProps), dbus.WithMatchMember("PropertiesChanged")},
		{dbus.WithMatchObjectPath(logindPath), dbus.WithMatchInterface(logindManager), dbus.WithMatchMember("PrepareForSleep")},
		{dbus.WithMatchObjectPath(logindPath), dbus.WithMatchInterface(logindManager), dbus.WithMatchMember("SessionRemoved")},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("subscribe to the login manager: %w", err)
		}
	}
	object := conn.Object(logindName, session)
	if err := l.readAll(ctx, object); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-signals:
			if !ok {
				return errors.New("the system bus has closed the connection")
			}
			switch s.Name {
			case logindManager + ".PrepareForSleep":
				if before, ok := only[bool](s.Body); ok {
					l.change(func(f *sessionFacts) { f.sleeping = before })
				}
			case logindManager + ".SessionRemoved":
				if len(s.Body) == 2 && s.Body[1] == session {
					return errors.New("the session has ended")
				}
			case logindSession + ".Lock":
				l.change(func(f *sessionFacts) { f.askedMillis = max(1, bootMillis()) })
			case logindSession + ".Unlock":
				l.change(func(f *sessionFacts) { f.locked, f.askedMillis = false, 0 })
			case dbusProps + ".PropertiesChanged":
				if err := l.readAll(ctx, object); err != nil {
					return err
				}
			}
		}
	}
}

func (l *logind) connect(ctx context.Context) (*dbus.Conn, error) {
	if l.address == "" {
		return dbus.ConnectSystemBus(dbus.WithContext(ctx))
	}
	return dbus.Connect(l.address, dbus.WithContext(ctx))
}

// findSession looks for the session that shows our display, and failing that
// for the one that logind calls the user's main one. An agent that runs as root
// may watch anybody's display.
func (l *logind) findSession(ctx context.Context, conn *dbus.Conn) (session dbus.ObjectPath, owner uint32, err error) {
	var sessions []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	manager := conn.Object(logindName, logindPath)
	if err := manager.CallWithContext(ctx, logindManager+".ListSessions", 0).Store(&sessions); err != nil {
		return "", 0, fmt.Errorf("list the login sessions: %w", err)
	}
	for _, s := range sessions {
		if s.UID != l.uid && l.uid != 0 {
			continue
		}
		display, err := property[string](ctx, conn.Object(logindName, s.Path), logindSession, "Display")
		if err == nil && display != "" && sameDisplay(display, l.display) {
			return s.Path, s.UID, nil
		}
	}
	var user dbus.ObjectPath
	if err := manager.CallWithContext(ctx, logindManager+".GetUser", 0, l.uid).Store(&user); err != nil {
		return "", 0, fmt.Errorf("no login session belongs to display %s: %w", l.display, err)
	}
	main, err := property[[]any](ctx, conn.Object(logindName, user), logindUser, "Display")
	if err != nil {
		return "", 0, fmt.Errorf("no login session belongs to display %s: %w", l.display, err)
	}
	if len(main) == 2 {
		if path, ok := main[1].(dbus.ObjectPath); ok && path != "/" {
			return path, l.uid, nil
		}
	}
	return "", 0, fmt.Errorf("no login session belongs to display %s", l.display)
}

func (l *logind) readAll(ctx context.Context, session dbus.BusObject) error {
	locked, err := property[bool](ctx, session, logindSession, "LockedHint")
	if err != nil {
		return fmt.Errorf("read LockedHint: %w", err)
	}
	active, err := property[bool](ctx, session, logindSession, "Active")
	if err != nil {
		return fmt.Errorf("read Active: %w", err)
	}
	l.change(func(f *sessionFacts) {
		if f.locked && !locked {
			f.askedMillis = 0
		}
		f.locked, f.active = locked, active
	})
	return nil
}

func property[T any](ctx context.Context, object dbus.BusObject, iface, name string) (T, error) {
	var zero T
	var value dbus.Variant
	if err := object.CallWithContext(ctx, dbusProps+".Get", 0, iface, name).Store(&value); err != nil {
		return zero, err
	}
	v, ok := value.Value().(T)
	if !ok {
		return zero, fmt.Errorf("%s.%s is a %T", iface, name, value.Value())
	}
	return v, nil
}

func only[T any](body []any) (T, bool) {
	if len(body) != 1 {
		var zero T
		return zero, false
	}
	v, ok := body[0].(T)
	return v, ok
}
