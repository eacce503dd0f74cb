package activity

import (
	"strings"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Observation is what a desktop shows at one moment. Everything in it holds from
// BootMillis until the next observation, but for LastInputMillis, which tells
// what has been.
//
// Every observation carries a fresh reading of the clocks and of each session's
// last input; lists that have not changed may be left out with the Same flags.
type Observation struct {
	// BootID is the random id of this boot of the machine.
	BootID contract.ID
	// BootMillis is the time since boot, sleep included. It never decreases
	// within a boot; a smaller value is taken as the greatest seen.
	BootMillis int64
	// AwakeMillis is the time since any fixed moment of this boot, sleep not
	// included (CLOCK_MONOTONIC, QueryUnbiasedInterruptTime). Read it right
	// beside BootMillis: where it falls behind, the machine slept.
	AwakeMillis int64
	// UTCMillis is the wall clock at BootMillis: milliseconds since 1970 in UTC.
	UTCMillis int64
	// ZoneOffsetSeconds is the machine's zone at that moment, east of UTC.
	ZoneOffsetSeconds int32
	// PausedByPerson: somebody has paused all of the machine.
	PausedByPerson bool
	// BlindSinceMillis, where greater than zero, says that nothing was watched
	// from that boot time until BootMillis, although the agent ran.
	BlindSinceMillis int64
	// Sessions are all desktop sessions that exist. One that is missing has ended.
	Sessions []Session
}

// Session is one person's interactive session on the machine.
type Session struct {
	// Key tells sessions of one boot apart: the logind id, the Windows session
	// number with its logon time.
	Key  string
	User User
	// LastInputMillis is the boot time of the last keyboard or mouse input. A
	// value in the future is ignored, one smaller than the greatest seen too.
	LastInputMillis int64
	// InputUnsupported: the system does not tell when the last input was.
	InputUnsupported bool
	// FocusUnsupported: the system does not tell which window is in front.
	FocusUnsupported bool
	// Shortfalls say, for people, what the system does not tell of this session, or
	// less well than elsewhere, and why.
	Shortfalls []string
	// Locked and Disconnected make every instance AWAY.
	Locked       bool
	Disconnected bool
	// Access is where the session is shown, as far as the system says.
	Access usagev1.SessionAccess
	// PausedByPerson: the session's person has pressed the pause button. PauseReason is the
	// category that they gave, if they gave one.
	PausedByPerson bool
	PauseReason    string
	// Foreground is the id of the window that owns the keyboard; 0: none does.
	Foreground uint64
	// Windows are the session's top-level windows and dialogs.
	Windows []Window
	// SameWindows: Windows is left out, as it is what it was before.
	SameWindows bool
	// Processes are the session's processes.
	Processes []Process
	// SameProcesses: Processes is left out, as it is what it was before.
	SameProcesses bool
	// Passed are processes that came and went since the observation before, with their
	// exits, and were on no list.
	Passed []Process
}

// User is what the operating system knows of a person.
type User struct {
	SID string
	// UID is the machine's own number of them, where the system has one. It is part of no
	// name: another machine gives it to somebody else.
	UID               string
	UserPrincipalName string
	Domain            string
	Name              string
	DisplayName       string
}

// Key is the strongest name that the system gives: SID, user principal name,
// DOMAIN\name, or the bare name.
func (u User) Key() string {
	switch {
	case u.SID != "":
		return "sid:" + strings.ToUpper(u.SID)
	case u.UserPrincipalName != "":
		return "upn:" + strings.ToLower(u.UserPrincipalName)
	case u.Domain != "":
		return "domain:" + strings.ToLower(u.Domain+`\`+u.Name)
	default:
		return "name:" + u.Name
	}
}

// Window is a top-level window or a dialog.
type Window struct {
	// ID is unique among the windows of the session; not 0.
	ID uint64
	// Parent is the window that this one is a dialog of (transient for, owner);
	// 0: it stands on its own.
	Parent uint64
	// PID is the process that owns the window; 0: the system does not say.
	PID   int32
	Class string
	Title string
	// Auxiliary: it is a palette, a toolbar or the like, and shows no document of its
	// own.
	Auxiliary bool
}

// ProcessKey tells processes of one boot apart, also where a pid is used again.
type ProcessKey struct {
	PID         int32 `json:"p"`
	StartMillis int64 `json:"s"`
}

// Process is a running process, or one that has exited since the observation before.
type Process struct {
	PID int32
	// StartMillis is the boot time of its start, by the kernel.
	StartMillis int64
	// ProgramMillis is the boot time from which it has run this program, where it ran
	// another one before and the system tells; 0: since its start, or not told.
	ProgramMillis int64
	// ExitMillis is the boot time of its exit where the system tells it; 0: it
	// runs. A process that is no longer listed exited at the observation.
	ExitMillis int64
	// ParentPID is the parent as first seen.
	ParentPID int32
	// Executable is the base name of the program's file.
	Executable string
	// Path is the program's file.
	Path string
	// Package is the snap, flatpak or AppX package that it comes from.
	Package string
}

// Key is the process's key.
func (p Process) Key() ProcessKey { return ProcessKey{PID: p.PID, StartMillis: p.StartMillis} }

// LastInputFromTicks turns a 32-bit tick count of the last input, as Windows gives
// it, into boot time. The ticks wrap every 49.7 days; a last input that seems to lie
// in the future, which Windows may say, is taken as now.
func LastInputFromTicks(bootMillis int64, now, last uint32) int64 {
	since := now - last
	if since > 1<<31 {
		return bootMillis
	}
	return bootMillis - int64(since)
}
