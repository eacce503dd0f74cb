package desktop

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// places finds out how the sessions of the login manager are reached. That tells little:
// a type, and a display in some. What else leads there stands in the environment of the
// session's programs.
type places struct {
	proc *processTable // for reading /proc; it belongs to whoever lists sessions
	// sockets is the folder of the sockets of X servers.
	sockets string

	// servers are the displays of this machine by the login session that their server
	// belongs to.
	servers map[string]string
	read    time.Time
	seen    map[string]xSocket

	mu sync.Mutex
	// found is what was found out at the last opening, by the keys of sessions.
	found map[string]place
}

// xSocket is a socket of an X server, and whose that is.
type xSocket struct {
	inode uint64
	login string
}

// socketsPeriod is how often new X servers are looked for, where a session may have
// started one that the login manager does not know of.
const socketsPeriod = 3 * time.Second

func newPlaces(root, sockets string) *places {
	return &places{proc: newProcessTable(root), sockets: sockets, found: make(map[string]place)}
}

// of tells how a session is reached, as far as that is known; false: it is no desktop.
// A session of a terminal is one where an X server was started in it.
func (p *places) of(s login) (place, bool) {
	at := place{kind: s.kind, display: s.display, desktop: s.desktop}
	switch s.kind {
	case kindX11:
		at.display = cmp.Or(at.display, p.serverOf(s.id))
	case "tty", "unspecified", "":
		if at.display = cmp.Or(at.display, p.serverOf(s.id)); at.display == "" {
			return place{}, false
		}
		at.kind = kindX11
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if found, ok := p.found[s.key()]; ok && found.kind == at.kind {
		found.display = cmp.Or(at.display, found.display)
		return found, true
	}
	return at, true
}

// serverOf is the display whose server runs in a login session; empty: there is none.
func (p *places) serverOf(login string) string {
	if time.Since(p.read) >= socketsPeriod {
		p.read = time.Now()
		p.readServers()
	}
	return p.servers[login]
}

func (p *places) readServers() {
	entries, err := os.ReadDir(p.sockets)
	if err != nil {
		return
	}
	servers, seen := make(map[string]string), make(map[string]xSocket)
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), "X")
		file := filepath.Join(p.sockets, entry.Name())
		var about unix.Stat_t
		// Anybody may put something there, such as a link to where a server is gone.
		if !ok || unix.Lstat(file, &about) != nil || about.Mode&unix.S_IFMT != unix.S_IFSOCK {
			continue
		}
		socket, known := p.seen[file]
		if !known || socket.inode != about.Ino {
			socket = xSocket{about.Ino, p.loginOfServer(file)}
		}
		seen[file] = socket
		if socket.login != "" {
			servers[socket.login] = ":" + number
		}
	}
	p.servers, p.seen = servers, seen
}

// loginOfServer is the login session of whoever serves a socket.
func (p *places) loginOfServer(socket string) string {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	conn, err := displayAddress{network: "unix", address: socket, host: "-"}.dial(ctx)
	if err != nil {
		return ""
	}
	defer conn.Close()
	pid := peerOf(conn)
	if pid == 0 {
		return ""
	}
	return loginOfCgroup(p.proc.cgroup(pid))
}

// note keeps what was found out about a session.
func (p *places) note(key string, at place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found[key] = at
}

// forget lets go of sessions that have ended.
func (p *places) forget(lives func(key string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.found {
		if !lives(key) {
			delete(p.found, key)
		}
	}
}

// reach looks how a session is reached, at this moment, in the environments of its user's
// programs. What they say leads a helper that has no more rights than they have. It looks
// into nothing that is the person's, whose home may be on a server that is gone: that is
// the helper's to do, which is waited for by nobody else.
func reach(root string, s seat) place {
	at := s.at
	best, score := place{}, 0
	t := newProcessTable(root)
	pids, err := t.pids()
	if err != nil {
		return at
	}
	for _, pid := range slices.Clone(pids) {
		var info unix.Stat_t
		if unix.Stat(t.file(pid, ""), &info) != nil || info.Uid != s.uid {
			continue
		}
		environment, login := t.placeOf(pid)
		if of := loginOfCgroup(t.cgroup(pid)); of != "" {
			login = of
		}
		if fits := fit(s, environment, login); fits > score {
			best, score = environment, fits
		}
	}
	at.display, at.authority = cmp.Or(at.display, best.display), best.authority
	at.wayland, at.desktop = best.wayland, cmp.Or(best.desktop, at.desktop)
	at.runtimeDir = cmp.Or(best.runtimeDir, "/run/user/"+strconv.FormatUint(uint64(s.uid), 10))
	at.sessionBus, at.home = best.sessionBus, homeOf(s.uid)
	return at
}

// fit tells how well the environment of a program leads to a session; 0: it does not.
// login is the login session of the program; empty: it does not tell.
func fit(s seat, environment place, login string) (score int) {
	switch s.at.kind {
	case kindX11:
		if environment.display == "" || s.at.display != "" && !sameDisplay(environment.display, s.at.display) {
			return 0
		}
	case kindWayland:
		if environment.wayland == "" {
			// The compositor itself, say, which tells at least where its socket is.
			if environment.runtimeDir == "" || login == "" || login != s.login {
				return 0
			}
			return 1
		}
	default:
		return 0
	}
	score = 2
	switch {
	case login == "":
	case login == s.login:
		score += 4
	case s.at.display == "":
		return 0 // of another session of the same person
	}
	if environment.authority != "" {
		score += 2
	}
	if environment.sessionBus != "" {
		score++
	}
	return score
}

// placeOf reads how a program reaches its desktop, and the login session that it says to
// be of. Nothing else of its environment is kept.
func (t *processTable) placeOf(pid int32) (at place, login string) {
	n, err := t.read(t.file(pid, "environ"))
	if err != nil {
		return place{}, ""
	}
	defer clear(t.buffer[:n])
	get := func(name string) string {
		for entry := range bytes.SplitSeq(t.buffer[:n], []byte{0}) {
			if value, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok {
				return string(value)
			}
		}
		return ""
	}
	return placeOf(get), get("XDG_SESSION_ID")
}
