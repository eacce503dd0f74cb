package desktop

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// displayAddress is a parsed $DISPLAY.
type displayAddress struct {
	network string // "unix" or "tcp"
	address string
	host    string // empty: this machine
	number  string
	screen  int
}

func parseDisplay(display string) (displayAddress, error) {
	colon := strings.LastIndexByte(display, ':')
	if colon < 0 {
		return displayAddress{}, fmt.Errorf("desktop: display %q has no colon; it looks like :0 or host:10.0", display)
	}
	number, screen, hasScreen := strings.Cut(display[colon+1:], ".")
	n, err := strconv.ParseUint(number, 10, 15)
	if err != nil {
		return displayAddress{}, fmt.Errorf("desktop: display %q has no number after the colon; it looks like :0 or host:10.0", display)
	}
	a := displayAddress{number: number}
	if hasScreen {
		if a.screen, err = strconv.Atoi(screen); err != nil || a.screen < 0 {
			return displayAddress{}, fmt.Errorf("desktop: display %q has a screen that is no number", display)
		}
	}
	host := strings.TrimSuffix(display[:colon], "/unix")
	switch {
	case host == "" || host == "unix":
		a.network, a.address = "unix", "/tmp/.X11-unix/X"+number
	case host[0] == '/':
		a.network, a.address = "unix", host+":"+number
	default:
		a.host = strings.TrimPrefix(host, "tcp/")
		a.network, a.address = "tcp", net.JoinHostPort(a.host, strconv.FormatUint(6000+n, 10))
	}
	return a, nil
}

// dial connects to the X server.
func (a displayAddress) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, a.network, a.address)
	if err != nil && a.network == "unix" && a.host == "" && !strings.Contains(a.address, ":") {
		// Servers without a socket in the file system listen on an abstract one.
		if abstract, _ := dialer.DialContext(ctx, "unix", "@"+a.address); abstract != nil {
			return abstract, nil
		}
	}
	return conn, err
}

// cookieName is the one authorization protocol that is used in practice.
const cookieName = "MIT-MAGIC-COOKIE-1"

// findCookie reads the secret for a display from an Xauthority file; ok is
// false where the file has none, and the server may let us in without.
func findCookie(r io.Reader, host, number string) (cookie []byte, ok bool, err error) {
	const familyLocal, familyWild, familyIP4, familyIP6 = 256, 65535, 0, 6
	for {
		var family uint16
		if err := binary.Read(r, binary.BigEndian, &family); err != nil {
			if errors.Is(err, io.EOF) {
				return cookie, ok, nil
			}
			return nil, false, fmt.Errorf("desktop: Xauthority file: %w", err)
		}
		var fields [4][]byte // address, number, name, data
		for i := range fields {
			var length uint16
			if err := binary.Read(r, binary.BigEndian, &length); err != nil {
				return nil, false, fmt.Errorf("desktop: Xauthority file is cut short: %w", err)
			}
			fields[i] = make([]byte, length)
			if _, err := io.ReadFull(r, fields[i]); err != nil {
				return nil, false, fmt.Errorf("desktop: Xauthority file is cut short: %w", err)
			}
		}
		if string(fields[2]) != cookieName {
			continue
		}
		if n := string(fields[1]); n != "" && n != number {
			continue
		}
		switch {
		case family == familyLocal && string(fields[0]) == host:
			return fields[3], true, nil
		case family == familyWild, (family == familyIP4 || family == familyIP6) && !ok:
			cookie, ok = fields[3], true
		}
	}
}

// dialX connects to an X server and returns a connection whose first write, the
// greeting of xgb, goes out with the right cookie: xgb itself looks only into
// $XAUTHORITY, and only on connections that it has dialled without a deadline.
func dialX(ctx context.Context, display, authority string) (*greetedConn, displayAddress, error) {
	address, err := parseDisplay(display)
	if err != nil {
		return nil, displayAddress{}, err
	}
	conn, err := address.dial(ctx)
	if err != nil {
		return nil, displayAddress{}, fmt.Errorf("desktop: no X server answers for display %q: %w", display, err)
	}
	g := &greetedConn{Conn: conn}
	if authority == "" {
		authority = ownAuthority(os.Getenv)
	}
	if file, err := os.Open(authority); err == nil {
		defer file.Close()
		host := address.host
		if host == "" || host == "localhost" {
			host, _ = os.Hostname()
		}
		if g.cookie, _, err = findCookie(file, host, address.number); err != nil {
			_ = conn.Close()
			return nil, displayAddress{}, fmt.Errorf("%w (%s)", err, authority)
		}
	}
	return g, address, nil
}

// ownAuthority is the Xauthority file of whoever has an environment; empty: there is none.
func ownAuthority(get func(name string) string) string {
	if named := get("XAUTHORITY"); named != "" {
		return named
	}
	for _, where := range [][2]string{{get("XDG_RUNTIME_DIR"), "gdm/Xauthority"}, {get("HOME"), ".Xauthority"}} {
		file := filepath.Join(where[0], where[1])
		if about, err := os.Stat(file); where[0] != "" && err == nil && about.Mode().IsRegular() {
			return file
		}
	}
	return ""
}

const (
	dialTimeout = 5 * time.Second
	// An X server that has not answered for so long is taken for dead: the
	// connection is cut and made anew, and meanwhile focus counts as not known.
	answerTimeout = 10 * time.Second
)

// greetedConn replaces the greeting and gives the connection a guard against
// servers that stop answering.
type greetedConn struct {
	net.Conn
	cookie  []byte
	greeted bool // touched by xgb's own goroutine before any other exists
	closing sync.Once
}

func (g *greetedConn) Write(b []byte) (int, error) {
	if g.greeted {
		return g.Conn.Write(b)
	}
	g.greeted = true
	greeting := greeting(g.cookie)
	if _, err := g.Conn.Write(greeting); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close may be called by xgb and by us.
func (g *greetedConn) Close() error {
	var err error
	g.closing.Do(func() { err = g.Conn.Close() })
	return err
}

// greeting is X11's connection setup, little-endian, protocol 11.0.
func greeting(cookie []byte) []byte {
	name := ""
	if len(cookie) > 0 {
		name = cookieName
	}
	b := make([]byte, 12, 12+len(name)+len(cookie)+8)
	b[0] = 'l'
	binary.LittleEndian.PutUint16(b[2:], 11)
	binary.LittleEndian.PutUint16(b[6:], uint16(len(name)))
	binary.LittleEndian.PutUint16(b[8:], uint16(len(cookie)))
	b = append(b, name...)
	b = append(b, make([]byte, -len(b)&3)...)
	b = append(b, cookie...)
	return append(b, make([]byte, -len(b)&3)...)
}

// peerOf is the process at the other end of a connection; 0: the system does not say.
func peerOf(conn net.Conn) int32 {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return 0
	}
	var pid int32
	if err := raw.Control(func(fd uintptr) {
		if credentials, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = credentials.Pid
		}
	}); err != nil {
		return 0
	}
	return pid
}
