package desktop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// login is a session as logind tells it.
type login struct {
	id   string
	path dbus.ObjectPath
	uid  uint32
	name string // of the user
	// kind, class, state, seat, display, desktop and leader are logind's Type, Class and so on.
	kind, class, state string
	seat               string
	display, desktop   string
	leader             uint32
	// startedMillis is when it began, in wall-clock time.
	startedMillis int64
	// locked is logind's LockedHint, which lock screens set and clear.
	locked bool
	// askedMillis is when logind asked for the screen to be locked, on the boot
	// timeline; 0: it has not, or the lock was taken off since. Whoever followed may
	// not have told logind, nor when it ended.
	askedMillis int64
	// active: the session is the one that its seat shows. A session that another
	// user has switched away from is not, nor one whose remote viewer has left.
	active bool
	// remote: it was begun from another machine.
	remote bool
}

// Names on the system bus.
const (
	logindName    = "org.freedesktop.login1"
	logindPath    = dbus.ObjectPath("/org/freedesktop/login1")
	logindManager = "org.freedesktop.login1.Manager"
	logindSession = "org.freedesktop.login1.Session"
	logindUser    = "org.freedesktop.login1.User"
	dbusProps     = "org.freedesktop.DBus.Properties"
	dbusDaemon    = "org.freedesktop.DBus"
)

const (
	// logindRetry is how long a missing bus or login manager is left alone, and
	// logindReturn how long one that has just gone.
	logindRetry  = 30 * time.Second
	logindReturn = time.Second
)

// logins follows the sessions of systemd's or elogind's login manager.
type logins struct {
	address string // empty: the system bus
	log     *slog.Logger
	// wake is called after a change, and before the machine sleeps.
	wake func()

	mu       sync.Mutex
	sessions map[dbus.ObjectPath]login
	// mains are the sessions that logind calls the main ones of their users.
	mains map[uint32]dbus.ObjectPath
	// trouble is why the sessions are not known; nil: they are.
	trouble error
	// asked is closed once it is known what there is, or that nobody tells.
	asked     chan struct{}
	askedOnce sync.Once
}

func newLogins(address string, log *slog.Logger, wake func()) *logins {
	return &logins{address: address, log: log, wake: wake, trouble: errNoAnswer, asked: make(chan struct{})}
}

// errNoAnswer says that the login manager has not answered yet.
var errNoAnswer = errors.New("the login manager does not answer")

// firstAnswer is how long the login manager's first answer is waited for: sessions that
// are not listed count as ended, and they may have gone on while nobody watched.
const firstAnswer = 5 * time.Second

// HasLogins tells whether a login manager lists the sessions of this machine: without
// one, an agent of root has to be told which display to watch.
func HasLogins(ctx context.Context) bool {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return false
	}
	defer conn.Close()
	return conn.Object(logindName, logindPath).CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err == nil
}

// all gives the sessions, in the order in which they began.
func (l *logins) all() ([]login, error) {
	select {
	case <-l.asked:
	case <-time.After(firstAnswer):
		l.answered()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trouble != nil {
		return nil, l.trouble
	}
	list := make([]login, 0, len(l.sessions))
	for _, s := range l.sessions {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b login) int {
		return cmp.Or(cmp.Compare(a.startedMillis, b.startedMillis), cmp.Compare(a.id, b.id))
	})
	return list, nil
}

// mainOf is the session that logind calls the user's main one.
func (l *logins) mainOf(uid uint32) (login, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, there := l.sessions[l.mains[uid]]
	return s, there
}

// set takes in what was read of a session; what the signals told of it stays.
func (l *logins) set(s login) {
	l.mu.Lock()
	was, known := l.sessions[s.path]
	if s.askedMillis = was.askedMillis; was.locked && !s.locked {
		s.askedMillis = 0
	}
	l.sessions[s.path] = s
	l.mu.Unlock()
	if !known || s != was {
		l.wake()
	}
}

// change alters a session that is there.
func (l *logins) change(path dbus.ObjectPath, f func(*login)) {
	l.mu.Lock()
	s, known := l.sessions[path]
	if known {
		f(&s)
		l.sessions[path] = s
	}
	l.mu.Unlock()
	if known {
		l.wake()
	}
}

func (l *logins) remove(path dbus.ObjectPath) {
	l.mu.Lock()
	delete(l.sessions, path)
	l.mu.Unlock()
	l.wake()
}

func (l *logins) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// What was asked of a session that goes on is remembered.
	if l.sessions == nil {
		l.sessions = make(map[dbus.ObjectPath]login)
	}
	l.mains = make(map[uint32]dbus.ObjectPath)
}

// known says which sessions there are, all of which were read.
func (l *logins) known(paths []dbus.ObjectPath) {
	l.mu.Lock()
	for path := range l.sessions {
		if !slices.Contains(paths, path) {
			delete(l.sessions, path)
		}
	}
	l.trouble = nil
	l.mu.Unlock()
	l.answered()
	l.wake()
}

func (l *logins) lost(err error) {
	l.mu.Lock()
	l.trouble = err
	l.mu.Unlock()
	l.answered()
	l.wake()
}

func (l *logins) answered() { l.askedOnce.Do(func() { close(l.asked) }) }

// run follows the sessions until ctx ends, coming back when the bus goes away.
func (l *logins) run(ctx context.Context) {
	told := false
	for ctx.Err() == nil {
		pause := logindReturn
		began := time.Now()
		err := l.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) < logindRetry {
			pause = logindRetry
		}
		if !told {
			l.log.InfoContext(ctx, "no login manager is watched; locking and switching of sessions are not seen until there is one", "reason", err)
			told = true
		}
		l.lost(err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (l *logins) follow(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return fmt.Errorf("system bus: %w", err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	// Listened to before anything is read, so that no change falls in between.
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchPathNamespace(logindPath), dbus.WithMatchInterface(logindSession)},
		{dbus.WithMatchPathNamespace(logindPath), dbus.WithMatchInterface(dbusProps), dbus.WithMatchMember("PropertiesChanged")},
		{dbus.WithMatchObjectPath(logindPath), dbus.WithMatchInterface(logindManager)},
		{dbus.WithMatchInterface(dbusDaemon), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, logindName)},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("subscribe to the login manager: %w", err)
		}
	}
	if err := l.readAll(ctx, conn); err != nil {
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
			if err := l.take(ctx, conn, s); err != nil {
				return err
			}
		}
	}
}

// take takes in a signal.
func (l *logins) take(ctx context.Context, conn *dbus.Conn, s *dbus.Signal) error {
	switch s.Name {
	case logindManager + ".PrepareForSleep":
		l.wake() // so that little is open when the machine sleeps
	case logindManager + ".SessionNew":
		if path, ok := second[dbus.ObjectPath](s.Body); ok {
			return l.read(ctx, conn, path)
		}
	case logindManager + ".SessionRemoved":
		if path, ok := second[dbus.ObjectPath](s.Body); ok {
			l.remove(path)
		}
	case logindSession + ".Lock":
		l.change(s.Path, func(s *login) { s.askedMillis = max(1, bootMillis()) })
	case logindSession + ".Unlock":
		l.change(s.Path, func(s *login) { s.locked, s.askedMillis = false, 0 })
	case dbusProps + ".PropertiesChanged":
		if len(s.Body) > 0 && s.Body[0] == logindSession {
			return l.read(ctx, conn, s.Path)
		}
	case dbusDaemon + ".NameOwnerChanged":
		return errors.New("the login manager has gone, or was started again")
	}
	return nil
}

func (l *logins) connect(ctx context.Context) (*dbus.Conn, error) {
	if l.address == "" {
		return dbus.ConnectSystemBus(dbus.WithContext(ctx))
	}
	return dbus.Connect(l.address, dbus.WithContext(ctx))
}

// readAll reads all sessions that there are.
func (l *logins) readAll(ctx context.Context, conn *dbus.Conn) error {
	var sessions []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	if err := conn.Object(logindName, logindPath).CallWithContext(ctx, logindManager+".ListSessions", 0).Store(&sessions); err != nil {
		return fmt.Errorf("list the login sessions: %w", err)
	}
	l.begin()
	paths := make([]dbus.ObjectPath, 0, len(sessions))
	for _, s := range sessions {
		if err := l.read(ctx, conn, s.Path); err != nil {
			return err
		}
		paths = append(paths, s.Path)
	}
	l.known(paths)
	return nil
}

// read reads one session. One that has ended meanwhile is none.
func (l *logins) read(ctx context.Context, conn *dbus.Conn, path dbus.ObjectPath) error {
	var p map[string]dbus.Variant
	err := conn.Object(logindName, path).CallWithContext(ctx, dbusProps+".GetAll", 0, logindSession).Store(&p)
	var refused dbus.Error
	if errors.As(err, &refused) {
		l.remove(path)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a login session: %w", err)
	}
	s := login{
		path: path, id: told[string](p, "Id"), name: told[string](p, "Name"),
		kind: told[string](p, "Type"), class: told[string](p, "Class"), state: told[string](p, "State"),
		display: told[string](p, "Display"), desktop: told[string](p, "Desktop"), leader: told[uint32](p, "Leader"),
		startedMillis: int64(told[uint64](p, "Timestamp") / 1000),
		locked:        told[bool](p, "LockedHint"), active: told[bool](p, "Active"),
		remote: told[bool](p, "Remote"),
	}
	if user := told[[]any](p, "User"); len(user) == 2 {
		s.uid, _ = user[0].(uint32)
		if path, ok := user[1].(dbus.ObjectPath); ok {
			l.readMain(ctx, conn, s.uid, path)
		}
	}
	if seat := told[[]any](p, "Seat"); len(seat) == 2 {
		s.seat, _ = seat[0].(string)
	}
	l.set(s)
	return nil
}

// readMain asks which session is the main one of a user, which only matters where a
// display belongs to none.
func (l *logins) readMain(ctx context.Context, conn *dbus.Conn, uid uint32, user dbus.ObjectPath) {
	var value dbus.Variant
	if conn.Object(logindName, user).CallWithContext(ctx, dbusProps+".Get", 0, logindUser, "Display").Store(&value) != nil {
		return
	}
	if main, ok := value.Value().([]any); ok && len(main) == 2 {
		if path, ok := main[1].(dbus.ObjectPath); ok {
			l.mu.Lock()
			l.mains[uid] = path
			l.mu.Unlock()
		}
	}
}

// told gives a property; nothing where it is missing or of another type.
func told[T any](properties map[string]dbus.Variant, name string) T {
	v, _ := properties[name].Value().(T)
	return v
}

func only[T any](body []any) (T, bool) {
	if len(body) != 1 {
		var zero T
		return zero, false
	}
	v, ok := body[0].(T)
	return v, ok
}

func second[T any](body []any) (T, bool) {
	if len(body) != 2 {
		var zero T
		return zero, false
	}
	v, ok := body[1].(T)
	return v, ok
}
