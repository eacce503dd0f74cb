package desktop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/wayland"
)

// A Wayland compositor tells its clients nothing of each other, but for what it offers
// on purpose, and each offers something else. So idleness and windows come each from
// whatever is there, best first; where nothing is, it is said that it is not known.

// idleSource tells when the last input of a session was.
type idleSource interface {
	// lastInput is asked after the compositor has told all that it knew at reading.
	lastInput(ctx context.Context, reading moment) (inputFacts, error)
	close()
}

// inputFacts is what is known of a session's input.
type inputFacts struct {
	// bootMillis is when the last one was.
	bootMillis int64
	// unsupported is why that is not known; empty: it is.
	unsupported string
	// shortfall is what input is not told apart from; empty: nothing.
	shortfall string
}

// windowSource tells which windows a session has.
type windowSource interface {
	windows(ctx context.Context) (windowFacts, error)
	close()
}

// windowFacts is what is known of a session's windows.
type windowFacts struct {
	list       []activity.Window
	foreground uint64
	// unsupported is why it is not known what is in front; empty: it is.
	unsupported string
	// inhibited: a program keeps the session from becoming idle, where inhibitorsTold.
	inhibited, inhibitorsTold bool
}

// Interfaces that an observer binds; nothing else of a compositor is ever asked for.
const (
	seatInterface       = "wl_seat"
	extIdleInterface    = "ext_idle_notifier_v1"
	kdeIdleInterface    = "org_kde_kwin_idle"
	toplevelsInterface  = "zwlr_foreign_toplevel_manager_v1"
	connectTimeout      = 2 * time.Second
	noWindowsOffered    = "this compositor does not tell other programs which window is in front"
	noIdlenessOffered   = "this compositor does not tell when there was no input"
	oldKWinIdleness     = "KWin tells idleness precisely enough from version 5.27 on, and this one is older"
	inhibitedIdleness   = "a program keeps the session from becoming idle, and this compositor does not tell input apart from that"
	inhibitorsNotTold   = "what keeps the session from becoming idle, such as a film, counts as input, as this compositor does not tell them apart"
	defaultWaylandValue = "wayland-0"
)

// waylandEyes look at one Wayland session. They belong to one goroutine at a time.
type waylandEyes struct {
	conn   *wayland.Conn
	clocks *clocks
	idle   idleSource
	focus  windowSource

	before []activity.Window
	told   bool
}

// openWaylandEyes looks at the Wayland session at a place, in a process of that
// session's user.
func openWaylandEyes(ctx context.Context, at place, wake func()) (eyes, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	e := &waylandEyes{clocks: newClocks()}
	if err := e.open(ctx, at, wake); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *waylandEyes) open(ctx context.Context, at place, wake func()) error {
	raw, err := dialWayland(ctx, at)
	if err != nil {
		return err
	}
	compositor := peerOf(raw)
	e.conn, err = wayland.NewConn(raw, seatInterface, extIdleInterface, kdeIdleInterface, toplevelsInterface)
	if err != nil {
		return fmt.Errorf("desktop: %w", err)
	}
	if err := e.conn.Sync(ctx); err != nil {
		return fmt.Errorf("desktop: %w", err)
	}
	if bus := filepath.Join(at.runtimeDir, "bus"); at.sessionBus == "" && at.runtimeDir != "" {
		// Where systemd's user manager has it, though nobody says so.
		if _, err := os.Stat(bus); err == nil {
			at.sessionBus = "unix:path=" + bus
		}
	}
	shell := findShell(ctx, at.sessionBus)
	focus, err := openWindowSource(ctx, e.conn, at, compositor, shell, wake)
	if err != nil {
		return err
	}
	e.focus = focus
	idle, err := openIdleSource(e.conn, shell)
	if err != nil {
		return err
	}
	e.idle = idle
	return nil
}

// dialWayland connects to the compositor's socket.
func dialWayland(ctx context.Context, at place) (net.Conn, error) {
	socket, err := at.waylandSocket()
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("desktop: no Wayland compositor answers: %w", err)
	}
	return conn, nil
}

// waylandSocket is where the compositor listens: $WAYLAND_DISPLAY names it within
// $XDG_RUNTIME_DIR, or by itself. A compositor knows its own only once it listens, and none of
// its programs need run yet: where nobody names it, it is the usual one, or else the only one.
func (at place) waylandSocket() (string, error) {
	if filepath.IsAbs(at.wayland) {
		return at.wayland, nil
	}
	if at.runtimeDir == "" {
		return "", errors.New("desktop: XDG_RUNTIME_DIR is not set, so the compositor's socket is not found")
	}
	usual := filepath.Join(at.runtimeDir, cmp.Or(at.wayland, defaultWaylandValue))
	if _, err := os.Lstat(usual); err == nil || at.wayland != "" {
		return usual, nil
	}
	if found, err := fs.Glob(os.DirFS(at.runtimeDir), "wayland-*[0-9]"); err == nil && len(found) == 1 {
		return filepath.Join(at.runtimeDir, found[0]), nil
	}
	return usual, nil
}

// openWindowSource takes the best that is there. What the shells of GNOME and KDE tell
// names processes, and so does sway; what any compositor of wlroots tells does not.
func openWindowSource(ctx context.Context, conn *wayland.Conn, at place, compositor int32, shell shellBus, wake func()) (windowSource, error) {
	switch {
	case shell.name != "":
		return openShellWindows(ctx, shell, at, wake)
	case compositor > 0 && at.runtimeDir != "":
		socket := filepath.Join(at.runtimeDir, "sway-ipc."+strconv.Itoa(os.Getuid())+"."+strconv.Itoa(int(compositor))+".sock")
		if _, err := os.Stat(socket); err == nil {
			return openSway(ctx, socket, at, wake)
		}
	}
	for _, g := range conn.Globals() {
		if g.Interface == toplevelsInterface {
			return openToplevels(conn, g, newPrograms(at), wake)
		}
	}
	return blindWindows(noWindowsOffered), nil
}

// blindWindows see nothing, and say why.
type blindWindows string

func (b blindWindows) windows(context.Context) (windowFacts, error) {
	return windowFacts{unsupported: string(b)}, nil
}

func (blindWindows) close() {}

// blindIdleness knows of no input, and says why.
type blindIdleness string

func (b blindIdleness) lastInput(context.Context, moment) (inputFacts, error) {
	return inputFacts{unsupported: string(b)}, nil
}

func (blindIdleness) close() {}

// look implements eyes.
func (e *waylandEyes) look(ctx context.Context) (Sight, error) {
	reading, err := e.clocks.now()
	if err != nil {
		return Sight{}, err
	}
	if err := e.conn.Sync(ctx); err != nil {
		return Sight{}, err
	}
	windows, err := e.focus.windows(ctx)
	if err != nil {
		return Sight{}, err
	}
	if n, ok := e.idle.(*idleNotices); ok {
		n.inhibit(windows)
	}
	input, err := e.idle.lastInput(ctx, reading)
	if err != nil {
		return Sight{}, err
	}
	sight := Sight{
		LastInputMillis: input.bootMillis, InputUnsupported: input.unsupported, InputShortfall: input.shortfall,
		Foreground: windows.foreground, FocusUnsupported: windows.unsupported,
		SameWindows: e.told && slices.Equal(windows.list, e.before),
	}
	if !sight.SameWindows {
		sight.Windows = windows.list
	}
	e.before, e.told = windows.list, true
	return sight, nil
}

// close implements eyes.
func (e *waylandEyes) close() {
	if e.conn != nil {
		e.conn.Close()
	}
	if e.idle != nil {
		e.idle.close()
	}
	if e.focus != nil {
		e.focus.close()
	}
}
