package desktop

import (
	"fmt"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// terminalSession is a Windows session as WTSEnumerateSessions and
// WTSQuerySessionInformation tell it.
type terminalSession struct {
	number uint32
	// state is WTS_CONNECTSTATE_CLASS.
	state terminalState
	// user is empty where nobody is logged on.
	user activity.User
	// logonFileTime is in units of 100 ns since 1601; 0: not told.
	logonFileTime int64
	lock          terminalLock
	protocol      terminalProtocol
}

// terminalState is WTS_CONNECTSTATE_CLASS.
type terminalState uint32

const (
	terminalActive       terminalState = 0
	terminalConnected    terminalState = 1 // a client is there, nobody has logged on
	terminalShadow       terminalState = 3 // looks at another session
	terminalDisconnected terminalState = 4 // logged on, with nobody looking
	terminalListen       terminalState = 6 // waits for connections
)

// terminalLock is SessionFlags of WTSINFOEX_LEVEL1.
type terminalLock uint32

const (
	terminalLocked      terminalLock = 0
	terminalUnlocked    terminalLock = 1
	terminalLockUnknown terminalLock = 0xFFFFFFFF
)

// terminalProtocol is WTSClientProtocolType: by what a session is shown.
type terminalProtocol uint16

const (
	terminalConsole terminalProtocol = 0
	// Every other one is a client's elsewhere: 1 is ICA, 2 RDP.
	terminalProtocolUnknown terminalProtocol = 0xFFFF
)

// access is where a session is shown. The system names the console's protocol also for a
// session that nobody looks at.
func (t terminalSession) access() usagev1.SessionAccess {
	switch {
	case t.state != terminalActive || t.protocol == terminalProtocolUnknown:
		return usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED
	case t.protocol == terminalConsole:
		return usagev1.SessionAccess_SESSION_ACCESS_CONSOLE
	default:
		return usagev1.SessionAccess_SESSION_ACCESS_REMOTE
	}
}

// serviceSession is where services live since Windows Vista; nobody sits there.
const serviceSession = 0

// seatOf tells whether a session is somebody's desktop.
//
// A session that the console has switched away from (fast user switching) is
// disconnected, and so is one whose remote viewer has left. Only a session that is
// shown somewhere counts as connected.
func seatOf(t terminalSession) (s seat, ok bool) {
	if t.number == serviceSession || t.user.Name == "" {
		return seat{}, false
	}
	switch t.state {
	case terminalActive, terminalConnected, terminalDisconnected:
	case terminalShadow, terminalListen:
		return seat{}, false
	default: // idle, being reset, down, initialising
		return seat{}, false
	}
	return seat{
		key:    fmt.Sprintf("win%d@%d", t.number, t.logonFileTime),
		number: t.number,
		user:   t.user,
		locked: t.lock == terminalLocked,
		// Connected with a user is the moment of logging on or off.
		disconnected: t.state != terminalActive,
		access:       t.access(),
	}, true
}
