package scripted

import (
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Step is one thing that happens.
type Step struct {
	// At is when, since the beginning of the script. Sleep is part of it.
	At time.Duration
	// Session is the desktop session that it happens in; empty: MainSession.
	Session string
	// Do is what happens.
	Do Action
}

// MainSession is the session of steps that name none.
const MainSession = "main"

// Script is a sequence of steps in the order of their times. It is read once,
// and no further ahead than one step, so it may be endless.
type Script = iter.Seq[Step]

// Steps makes a script of steps in any order; those of the same time keep theirs.
func Steps(steps ...Step) Script {
	sorted := slices.Clone(steps)
	slices.SortStableFunc(sorted, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return slices.Values(sorted)
}

// Action is one of the types below.
type Action interface {
	apply(m *machine, session string)
}

// Actions on the session.
type (
	// LogOn begins a session of a person; one that exists ends first.
	// Access is where it is shown.
	LogOn struct {
		User   activity.User
		Access usagev1.SessionAccess
	}
	// LogOff ends the session with everything in it.
	LogOff struct{}
	// Lock locks the session's screen.
	Lock struct{}
	// Unlock unlocks it.
	Unlock struct{}
	// Disconnect takes the session's viewer away.
	Disconnect struct{}
	// Connect brings one back.
	Connect struct{ Access usagev1.SessionAccess }
	// FocusUnsupported says whether the system keeps to itself what is in front.
	FocusUnsupported struct{ Is bool }
)

// Actions of programs and windows.
type (
	// Start starts a program.
	Start struct {
		PID, Parent int32
		// Path of the program; the executable is its last element.
		Path    string
		Package string
	}
	// Exit ends a program; its windows go with it.
	Exit struct{ PID int32 }
	// Show opens a window, or changes the one of the same id.
	Show struct {
		ID, Parent   uint64
		PID          int32
		Class, Title string
	}
	// Hide closes a window.
	Hide struct{ ID uint64 }
	// Title changes a window's title.
	Title struct {
		ID    uint64
		Title string
	}
	// Focus gives a window the keyboard; 0 takes it from all.
	Focus struct{ ID uint64 }
)

// Actions of the person.
type (
	// Input is one keyboard or mouse input.
	Input struct{}
	// Inputs are inputs at once and every so often for a while; they replace
	// those of the session that are still to come.
	Inputs struct{ For, Every time.Duration }
	// Pause presses the agent's pause button.
	Pause struct{}
	// Resume releases it.
	Resume struct{}
)

// Actions of the machine; their session does not matter.
type (
	// Sleep puts the machine to sleep. What the script puts into that time happens
	// when it wakes.
	Sleep struct{ For time.Duration }
	// SetClock moves the wall clock.
	SetClock struct{ By time.Duration }
	// SetZone moves the machine to another zone.
	SetZone struct{ OffsetSeconds int32 }
	// Reboot ends all sessions; the machine is up again after the time given.
	Reboot struct{ After time.Duration }
	// Blind says that nothing was watched for the time before.
	Blind struct{ For time.Duration }
)
