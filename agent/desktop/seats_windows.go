package desktop

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/activity"
)

// terminal lists the sessions of this machine. It is used by one goroutine.
type terminal struct {
	procs *procs
	// own, where set, is the only session that is told: of a program that was not
	// started as a service.
	own *uint32
	// sids remembers what was looked up, since a domain controller may be far away.
	sids map[string]string
}

// Classes of WTSQuerySessionInformation.
const (
	wtsUserName       = 5
	wtsDomainName     = 7
	wtsClientProtocol = 16
	wtsSessionInfoEx  = 25
)

// wtsInfoEx is the beginning of WTSINFOEXW with its level 1, laid out as in C.
type wtsInfoEx struct {
	level, _   uint32
	number     uint32
	state      uint32
	flags      uint32
	winStation [33]uint16
	userName   [21]uint16
	domainName [18]uint16
	_          [4]byte
	logonTime  int64
}

// list implements seats.
func (t *terminal) list() ([]seat, error) {
	var list []seat
	if t.own != nil {
		return t.add(list, *t.own, terminalActive, true), nil
	}
	var first *windows.WTS_SESSION_INFO
	var count uint32
	if err := windows.WTSEnumerateSessions(0, 0, 1, &first, &count); err != nil {
		return nil, fmt.Errorf("desktop: list the sessions: %w", err)
	}
	defer windows.WTSFreeMemory(uintptr(unsafe.Pointer(first)))
	for _, info := range unsafe.Slice(first, count) {
		list = t.add(list, info.SessionID, terminalState(info.State), false)
	}
	if count == 0 { // Wine 8 lists none; the console is the one that there is
		list = t.add(list, windows.WTSGetActiveConsoleSessionId(), terminalActive, true)
	}
	return list, nil
}

// add appends a session where it is somebody's. fallback uses the name of this
// process's user where the system does not tell whose session it is.
func (t *terminal) add(list []seat, number uint32, state terminalState, fallback bool) []seat {
	if number == serviceSession && !fallback {
		return list
	}
	s := terminalSession{number: number, state: state, lock: terminalLockUnknown, protocol: terminalProtocolUnknown}
	s.user = activity.User{Name: t.text(number, wtsUserName), Domain: t.text(number, wtsDomainName)}
	if s.user.Name == "" && fallback {
		s.user = processUser()
	}
	if s.user.Name != "" && s.user.SID == "" {
		s.user.SID = t.sid(s.user)
	}
	t.query(number, wtsSessionInfoEx, func(data []byte) {
		if len(data) < int(unsafe.Sizeof(wtsInfoEx{})) {
			return
		}
		if info := (*wtsInfoEx)(unsafe.Pointer(&data[0])); info.level == 1 {
			s.state, s.lock, s.logonFileTime = terminalState(info.state), terminalLock(info.flags), info.logonTime
		}
	})
	t.query(number, wtsClientProtocol, func(data []byte) {
		if len(data) >= 2 {
			s.protocol = terminalProtocol(*(*uint16)(unsafe.Pointer(&data[0])))
		}
	})
	if found, ok := seatOf(s); ok {
		list = append(list, found)
	}
	return list
}

func (t *terminal) text(number uint32, class uintptr) (text string) {
	t.query(number, class, func(data []byte) {
		if len(data) >= 2 {
			text = windows.UTF16PtrToString((*uint16)(unsafe.Pointer(&data[0])))
		}
	})
	return text
}

// query hands over what the system tells of a session; nothing where it does not.
func (t *terminal) query(number uint32, class uintptr, use func([]byte)) {
	var data *byte
	var size uint32
	ok, _, _ := t.procs.querySessionInformation.Call(0, uintptr(number), class, uintptr(unsafe.Pointer(&data)), uintptr(unsafe.Pointer(&size)))
	if ok == 0 || data == nil {
		return
	}
	defer windows.WTSFreeMemory(uintptr(unsafe.Pointer(data)))
	use(unsafe.Slice(data, size))
}

func (t *terminal) sid(u activity.User) string {
	name := u.Domain + `\` + u.Name
	if sid, known := t.sids[name]; known {
		return sid
	}
	sid, _, _, err := windows.LookupSID("", name)
	if err != nil {
		return "" // asked again at the next look: the directory may not answer yet
	}
	t.sids[name] = sid.String()
	return t.sids[name]
}

// processUser is whom this process runs as.
func processUser() (u activity.User) {
	owner, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return u
	}
	u.SID = owner.User.Sid.String()
	if name, domain, _, err := owner.User.Sid.LookupAccount(""); err == nil {
		u.Name, u.Domain = name, domain
	}
	return u
}

// ownSession is the number of the session that this process runs in.
func ownSession() (uint32, error) {
	var number uint32
	if err := windows.ProcessIdToSessionId(windows.GetCurrentProcessId(), &number); err != nil {
		return 0, fmt.Errorf("desktop: the session of this process: %w", err)
	}
	return number, nil
}
