package desktop

import (
	"context"
	"log/slog"

	"github.com/cetrus/cetrus/agent/activity"
)

// Desktop observes a machine.
type Desktop interface {
	// Watch tells observations until ctx ends: one at once, one whenever something
	// changes, and one at least every Period. When ctx ends it tells a last one,
	// so that everything up to that moment is settled, and returns nil. An error
	// means that this desktop cannot be watched at all.
	//
	// tell is called by one goroutine at a time. While it runs, nothing
	// is observed: a slow one delays what follows, it loses nothing.
	Watch(ctx context.Context, tell func(activity.Observation)) error
	// LookNow asks for an observation soon, though nothing may have changed. It
	// never blocks and may be called from any goroutine.
	LookNow()
	// Host names the machine.
	Host() Host
}

// Sieve is a Desktop that reads of programs which come and go between two looks only those
// that are wanted. Until it is told, all are.
type Sieve interface {
	// Sift says which are, by executable, path and package; empty: not known. wanted is called
	// from any goroutine.
	Sift(wanted func(executable, path, pkg string) bool)
}

// PeriodMillis is the longest time between two observations of a machine that is
// awake.
const PeriodMillis = 1000

// Host is what a machine is called.
type Host struct {
	// Name is its host name.
	Name string
	// OperatingSystem is the system's own name and version, for people.
	OperatingSystem string
}

// Config says which desktop to open.
type Config struct {
	// Display is the X display to watch, as in $DISPLAY; empty: $DISPLAY.
	Display string
	// Authority is the Xauthority file with the display's cookie; empty:
	// $XAUTHORITY, then ~/.Xauthority.
	Authority string
	// Helper, where set, makes every session of the machine be watched, each by a
	// helper in it; nil: the display above, or the session that this process runs in.
	Helper *Helper
	// SystemBus is the D-Bus address of logind's bus; empty: the system's.
	SystemBus string
	// SessionBus is the D-Bus address of the lock screen's bus; empty:
	// $DBUS_SESSION_BUS_ADDRESS, then that of the display's user.
	SessionBus string
	// Log takes what an operator should know; nil: nothing is logged.
	Log *slog.Logger
}
