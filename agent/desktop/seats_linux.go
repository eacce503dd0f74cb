package desktop

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// loginSeats are the desktop sessions of the machine, as the login manager lists them.
type loginSeats struct {
	logins *logins
	users  *users
	places *places
}

// list implements seats.
func (l *loginSeats) list() ([]seat, error) {
	all, err := l.logins.all()
	if err != nil {
		return nil, fmt.Errorf("desktop: list the sessions: %w", err)
	}
	var list []seat
	for _, s := range all {
		if !s.lives() {
			continue
		}
		at, found := l.places.of(s)
		if !found {
			continue
		}
		list = append(list, s.asSeat(s.key(), l.users.of(s.uid, s.name), at))
	}
	l.places.forget(func(key string) bool { return slices.ContainsFunc(list, func(s seat) bool { return s.key == key }) })
	return list, nil
}

// personal are the classes of sessions in which a person works; others are those of
// greeters, lock screens, service managers and jobs.
var personal = []string{"user", "user-early", "user-light"}

// lives tells whether a session is a person's, who has not logged off.
func (s login) lives() bool { return slices.Contains(personal, s.class) && s.state != "closing" }

// key tells sessions of one boot apart.
func (s login) key() string { return fmt.Sprintf("login%s@%d", s.id, s.startedMillis) }

func (s login) asSeat(key string, user activity.User, at place) seat {
	return seat{
		key: key, user: user, systemSeat: systemSeat{uid: s.uid, login: s.id, at: at},
		locked: s.locked, lockAskedMillis: s.askedMillis, disconnected: !s.active, access: s.access(),
	}
}

// access is where a session is shown. One without a seat has no screen here, also where
// the login manager was not told that it comes from elsewhere, as by xrdp.
func (s login) access() usagev1.SessionAccess {
	switch {
	case !s.active:
		return usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED
	case s.remote || s.seat == "":
		return usagev1.SessionAccess_SESSION_ACCESS_REMOTE
	default:
		return usagev1.SessionAccess_SESSION_ACCESS_CONSOLE
	}
}

// users names the people of sessions, and calls each the same for as long as it runs.
type users struct {
	known map[uint32]activity.User
	// lookUp is passwdOf.
	lookUp func(ctx context.Context, uid uint32) ([]string, error)
	// askedAgain is when a directory that did not answer is asked again.
	askedAgain time.Time
}

// How long everything that is watched waits for the directory of users, and for how long
// one that did not answer is left alone.
const (
	namePatience  = time.Second
	directoryRest = time.Minute
)

func newUsers() *users {
	return &users{known: make(map[uint32]activity.User), lookUp: passwdOf}
}

// of names a user; name is what the login manager calls them, and goes before what the
// directory of users does: it is there also where that is not.
func (u *users) of(uid uint32, name string) activity.User {
	if user, known := u.known[uid]; known {
		return user
	}
	var fields []string
	if now := time.Now(); now.After(u.askedAgain) {
		ctx, cancel := context.WithTimeout(context.Background(), namePatience)
		defer cancel()
		var err error
		if fields, err = u.lookUp(ctx, uid); err != nil {
			u.askedAgain = now.Add(directoryRest)
		}
	}
	if name == "" && fields == nil && uid == uint32(os.Getuid()) {
		name = cmp.Or(os.Getenv("LOGNAME"), os.Getenv("USER")) // as whoever started this was logged in
	}
	user := userFrom(uid, name, fields)
	u.known[uid] = user
	return user
}

// How long a display without a server is left alone.
const (
	firstReconnect = 250 * time.Millisecond
	lastReconnect  = 5 * time.Second
	// probeTimeout is how long a server may take to let itself be connected to.
	probeTimeout = 300 * time.Millisecond
)

// ownSeat is the one session of a desktop that was named, or that this process runs in.
// It begins and ends with the desktop's server.
type ownSeat struct {
	at     place
	uid    uint32
	logins *logins
	users  *users
	log    *slog.Logger
	stat   func(pid int32) (processStat, error)

	server server
	pause  time.Duration
	next   time.Time // not probed before
	told   bool
}

// server identifies one run of a desktop's server.
type server struct {
	key   string // of the desktop session; empty: there is none
	pid   int32  // 0: not known
	start int64
}

// list implements seats.
func (o *ownSeat) list() ([]seat, error) {
	if !o.lives() && !o.probe() {
		return nil, nil
	}
	found, own, ok := o.login()
	if !ok {
		// Where there is no login manager, the session counts as unlocked and active.
		return []seat{{key: o.server.key, user: o.users.of(o.uid, ""), systemSeat: systemSeat{uid: o.uid, at: o.at}}}, nil
	}
	if o.uid != 0 { // an agent that runs as root may watch anybody's display
		found.uid = o.uid
	}
	s := found.asSeat(o.server.key, o.users.of(found.uid, ""), o.at)
	if !own { // a virtual display, say, that was started there
		s.access = usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED
	}
	s.login = "" // programs that were started by hand for this display are of it too
	return []seat{s}, nil
}

// lives tells whether the server that was found still runs, though it may not answer.
func (o *ownSeat) lives() bool {
	if o.server.pid == 0 {
		return false
	}
	stat, err := o.stat(o.server.pid)
	return err == nil && !stat.gone && stat.startMillis == o.server.start
}

// probe looks who serves the desktop.
func (o *ownSeat) probe() bool {
	known := o.server.key != ""
	if time.Now().Before(o.next) {
		return known && o.server.pid == 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	name, conn, err := o.at.dial(ctx)
	if err != nil {
		if !o.told {
			o.log.WarnContext(ctx, "no desktop yet; waiting for its server", "desktop", name, "reason", err)
			o.told = true
		}
		o.pause = min(max(firstReconnect, 2*o.pause), lastReconnect)
		o.next = time.Now().Add(o.pause)
		o.server = server{}
		return false
	}
	defer conn.Close()
	o.pause, o.told = 0, false
	found := server{pid: peerOf(conn)}
	if stat, err := o.stat(found.pid); found.pid > 0 && err == nil {
		found.start = stat.startMillis
	} else {
		// A server elsewhere: as long as it takes connections, it is taken for the same.
		o.next = time.Now().Add(lastReconnect)
		if known && o.server.pid == 0 {
			return true
		}
		found = server{start: awakeMillis()}
	}
	found.key = fmt.Sprintf("%s@%d", name, found.start)
	o.server = found
	o.log.InfoContext(ctx, "watching the desktop", "desktop", name)
	return true
}

// login looks for the session that shows our display, and failing that for the one that
// logind calls the user's main one. own tells whether it shows what is watched.
func (o *ownSeat) login() (found login, own, ok bool) {
	all, err := o.logins.all()
	if err != nil {
		return login{}, false, false
	}
	for _, s := range all {
		if (s.uid == o.uid || o.uid == 0) && s.display != "" && o.at.display != "" && sameDisplay(s.display, o.at.display) {
			return s, true, true
		}
	}
	found, ok = o.logins.mainOf(o.uid)
	return found, found.kind == kindWayland && o.at.kind == kindWayland, ok
}

// dial connects to what serves a desktop, to see that it is there and who it is. name
// tells desktops of one machine apart.
func (at place) dial(ctx context.Context) (name string, conn net.Conn, err error) {
	if at.kind != kindWayland {
		address, err := parseDisplay(at.display)
		if err != nil {
			return at.display, nil, err
		}
		conn, err := address.dial(ctx)
		return "x11" + displayNumber(at.display), conn, err
	}
	socket, err := at.waylandSocket()
	if err != nil {
		return "wayland", nil, err
	}
	conn, err = new(net.Dialer).DialContext(ctx, "unix", socket)
	return "wayland" + filepath.Base(socket), conn, err
}
