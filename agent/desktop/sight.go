package desktop

import (
	"context"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// A machine-wide desktop is put together from five things that each system has in
// some form. What follows are the seams; machineDesktop joins them, knows no system,
// and is tested with fakes that behave as the systems document.

// Sight is what only a process inside a desktop session can see, at one moment.
type Sight struct {
	// LastInputMillis is the boot time of the last keyboard or mouse input. One
	// input has one time, however often it is told.
	LastInputMillis int64
	// InputUnsupported is why the last input is not known; empty: it is.
	InputUnsupported string
	// InputShortfall is what is not told apart where the last input is known; empty:
	// nothing.
	InputShortfall string
	// Covered: a lock screen covers the session.
	Covered bool
	// Foreground is the id of the window that owns the keyboard; 0: none does,
	// which is a fact.
	Foreground uint64
	// FocusUnsupported is why it is not known what is in front; empty: it is.
	FocusUnsupported string
	// Windows are the top-level windows and dialogs.
	Windows []activity.Window
	// SameWindows: Windows is left out, as it is what it was at the look before.
	SameWindows bool
}

// eyes look at one desktop session from inside, in this process or through a
// helper of ours that runs in that session.
type eyes interface {
	// look tells what is there now. It returns soon after ctx has ended. An error
	// means that these eyes see no more; they are closed then, and others opened.
	look(ctx context.Context) (Sight, error)
	// close lets go of the session, and waits for whatever served it.
	close()
}

// seat is one person's interactive session, as the system lists it. Sessions of
// services (session 0 on Windows), and those in which nobody is logged on, are none.
type seat struct {
	// key tells sessions of one boot apart, also where the number is used again.
	key string
	// number is the system's own for the session.
	number       uint32
	user         activity.User
	locked       bool
	disconnected bool
	// access is where it is shown, as far as the system says.
	access usagev1.SessionAccess
	// lockAskedMillis is when the system asked for the session to be locked, on the boot
	// timeline, where it does not say whether that was done; 0: it has not asked.
	lockAskedMillis int64
	systemSeat
}

// seats lists the interactive sessions of the machine.
type seats interface {
	list() ([]seat, error)
}

// processes follows the machine's processes.
type processes interface {
	// look brings the table up to date. With force false it may leave out what is
	// dear, if it was done a moment ago.
	look(now moment, force bool) error
	// of gives a session's processes, ordered by pid. The list is not changed
	// afterwards; while nothing changes it is the same one.
	of(s seat) []activity.Process
	// passed are a session's processes that came and went between the last two looks, and were
	// on no list.
	passed(s seat) []activity.Process
	// shown tells which windows a session shows, whose processes are worth a closer
	// look: their exit is to be seen at once.
	shown(s seat, windows []activity.Window)
	// shortfall is what is not told of processes, and why; empty: nothing is missing.
	shortfall() string
	// sift says which of those that come and go between two looks are wanted, from any
	// goroutine.
	sift(wanted sieve)
}

// sieve tells whether a program is wanted, as in Sieve.
type sieve func(executable, path, pkg string) bool

// What is said where processes are not told that start and exit between two looks.
const (
	livesUnseen = "programs that start and end between two looks, a second apart, are not seen: "
	// livesMissed is said for a while where some were not told.
	livesMissed       = "of programs that start and end between two looks, a second apart, some may be missing: more came and went than could be followed"
	livesMissedMillis = 60_000
)

// moment is all clocks of the machine, read one right after the other.
type moment struct {
	// bootMillis is the boot timeline, sleep included.
	bootMillis int64
	// awakeMillis is the same without sleep.
	awakeMillis int64
	utcMillis   int64
	// zoneOffsetSeconds is east of UTC.
	zoneOffsetSeconds int32
}

// timekeeper reads the machine's clocks.
type timekeeper interface {
	now() (moment, error)
}

// parts are what a machine-wide desktop is put together from.
type parts struct {
	boot      contract.ID
	host      Host
	clocks    timekeeper
	seats     seats
	processes processes
	// open gives eyes for a session. It may take seconds, and stops trying when ctx
	// ends. The eyes call wake, from any goroutine and without being held up,
	// when there may be something new to see, or when they see no more.
	open func(ctx context.Context, s seat, wake func()) (eyes, error)
	// launch starts a program in a session, as the person there; nil: none can be. It is
	// called from any goroutine.
	launch func(s seat, p Program) (Launched, error)
	// close lets go of what the parts hold on to, once nobody watches any more.
	close func()
}
