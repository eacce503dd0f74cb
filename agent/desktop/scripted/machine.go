package scripted

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"path"
	"slices"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// machine is the simulated machine. Its times are milliseconds; now counts from
// the beginning of the script.
type machine struct {
	seed     [32]byte
	boots    int
	now      int64
	bootedAt int64 // may lie before the script
	slept    int64 // since boot
	utcAt0   int64 // UTC at now = 0, clock changes included
	zone     int32
	paused   bool
	blind    int64 // 0, or the boot time since which nothing was watched
	// asleepUntil, where greater than now, is when the machine wakes.
	asleepUntil int64
	sessions    map[string]*session
}

type session struct {
	key              string
	user             activity.User
	lastInput        int64 // on the boot timeline
	focusUnsupported bool
	locked           bool
	disconnected     bool
	access           usagev1.SessionAccess
	foreground       uint64
	windows          map[uint64]activity.Window
	processes        map[int32]activity.Process
	windowsTold      bool
	processesTold    bool
	inputs           train
}

// train is a row of inputs that are still to come.
type train struct{ next, every, until int64 }

func (t train) running() bool { return t.every > 0 && t.next <= t.until }

func (m *machine) boot() int64 { return m.now - m.bootedAt }

// bootID is drawn from the seed, so that a script gives the same every time.
func (m *machine) bootID() contract.ID {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(m.seed[:], uint64(m.boots)))
	return contract.ID(sum[:16])
}

// observe tells what the machine shows. all asks for the full lists.
func (m *machine) observe(all bool) activity.Observation {
	o := activity.Observation{
		BootID:            m.bootID(),
		BootMillis:        m.boot(),
		AwakeMillis:       m.boot() - m.slept,
		UTCMillis:         m.utcAt0 + m.now,
		ZoneOffsetSeconds: m.zone,
		PausedByPerson:    m.paused,
		BlindSinceMillis:  m.blind,
	}
	m.blind = 0
	for _, name := range slices.Sorted(maps.Keys(m.sessions)) {
		s := m.sessions[name]
		told := activity.Session{
			Key:              s.key,
			User:             s.user,
			LastInputMillis:  s.lastInput,
			FocusUnsupported: s.focusUnsupported,
			Shortfalls:       s.shortfalls(),
			Locked:           s.locked,
			Disconnected:     s.disconnected,
			Access:           s.access,
			Foreground:       s.foreground,
			SameWindows:      s.windowsTold && !all,
			SameProcesses:    s.processesTold && !all,
		}
		if !told.SameWindows {
			for _, id := range slices.Sorted(maps.Keys(s.windows)) {
				told.Windows = append(told.Windows, s.windows[id])
			}
			s.windowsTold = true
		}
		if !told.SameProcesses {
			for _, pid := range slices.Sorted(maps.Keys(s.processes)) {
				told.Processes = append(told.Processes, s.processes[pid])
			}
			s.processesTold = true
		}
		o.Sessions = append(o.Sessions, told)
	}
	return o
}

// nextInput is when the next input of any session comes; ok is false where none
// is planned.
func (m *machine) nextInput() (at int64, ok bool) {
	for _, s := range m.sessions {
		if s.inputs.running() && (!ok || s.inputs.next < at) {
			at, ok = s.inputs.next, true
		}
	}
	return at, ok
}

// takeInputs lets the inputs happen whose time has come.
func (m *machine) takeInputs() {
	for _, s := range m.sessions {
		if !s.inputs.running() || s.inputs.next > m.now {
			continue
		}
		// Several are due where nobody watched, or the machine slept: the last counts.
		last := s.inputs.next + (min(m.now, s.inputs.until)-s.inputs.next)/s.inputs.every*s.inputs.every
		if m.asleepUntil == 0 {
			s.lastInput = max(s.lastInput, last-m.bootedAt)
		}
		s.inputs.next = last + s.inputs.every
	}
}

func (m *machine) in(name string) *session {
	s := m.sessions[name]
	if s == nil {
		LogOn{User: activity.User{Name: "person"}}.apply(m, name)
		s = m.sessions[name]
	}
	return s
}

func (a LogOn) apply(m *machine, name string) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(name), uint64(m.now)))
	m.sessions[name] = &session{
		key:       name + "@" + string(hexDigits(sum[:4])),
		user:      a.User,
		access:    a.Access,
		lastInput: m.boot(),
		windows:   make(map[uint64]activity.Window),
		processes: make(map[int32]activity.Process),
	}
}

func hexDigits(b []byte) []byte {
	const digits = "0123456789abcdef"
	text := make([]byte, 0, 2*len(b))
	for _, c := range b {
		text = append(text, digits[c>>4], digits[c&15])
	}
	return text
}

func (LogOff) apply(m *machine, name string) { delete(m.sessions, name) }
func (Lock) apply(m *machine, name string)   { m.in(name).locked = true }
func (Unlock) apply(m *machine, name string) { m.in(name).locked = false }
func (s *session) shortfalls() []string {
	if s.focusUnsupported {
		return []string{"focus: the script does not tell"}
	}
	return nil
}

func (Disconnect) apply(m *machine, name string) {
	s := m.in(name)
	s.disconnected, s.access = true, usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED
}

func (a Connect) apply(m *machine, name string) {
	s := m.in(name)
	s.disconnected, s.access = false, a.Access
}

func (a FocusUnsupported) apply(m *machine, name string) { m.in(name).focusUnsupported = a.Is }

func (a Start) apply(m *machine, name string) {
	s := m.in(name)
	s.processes[a.PID] = activity.Process{
		PID: a.PID, StartMillis: m.boot(), ParentPID: a.Parent,
		Executable: path.Base(a.Path), Path: a.Path, Package: a.Package,
	}
	s.processesTold = false
}

func (a Exit) apply(m *machine, name string) {
	s := m.in(name)
	delete(s.processes, a.PID)
	s.processesTold = false
	for id, w := range s.windows {
		if w.PID == a.PID {
			Hide{ID: id}.apply(m, name)
		}
	}
}

func (a Show) apply(m *machine, name string) {
	s := m.in(name)
	s.windows[a.ID] = activity.Window{ID: a.ID, Parent: a.Parent, PID: a.PID, Class: a.Class, Title: a.Title}
	s.windowsTold = false
}

func (a Hide) apply(m *machine, name string) {
	s := m.in(name)
	delete(s.windows, a.ID)
	s.windowsTold = false
	if s.foreground == a.ID {
		s.foreground = 0
	}
}

func (a Title) apply(m *machine, name string) {
	s := m.in(name)
	if w, ok := s.windows[a.ID]; ok {
		w.Title = a.Title
		s.windows[a.ID] = w
		s.windowsTold = false
	}
}

func (a Focus) apply(m *machine, name string) { m.in(name).foreground = a.ID }

func (Input) apply(m *machine, name string) { m.in(name).lastInput = m.boot() }

func (a Inputs) apply(m *machine, name string) {
	s := m.in(name)
	s.inputs = train{next: m.now, every: max(1, a.Every.Milliseconds()), until: m.now + a.For.Milliseconds()}
}

func (Pause) apply(m *machine, _ string)  { m.paused = true }
func (Resume) apply(m *machine, _ string) { m.paused = false }

func (a Sleep) apply(m *machine, _ string) { m.asleepUntil = m.now + a.For.Milliseconds() }

func (a SetClock) apply(m *machine, _ string) { m.utcAt0 += a.By.Milliseconds() }

func (a SetZone) apply(m *machine, _ string) { m.zone = a.OffsetSeconds }

func (a Reboot) apply(m *machine, _ string) {
	m.boots++
	m.bootedAt = m.now + a.After.Milliseconds()
	m.asleepUntil = m.bootedAt
	m.slept, m.blind = 0, 0
	m.sessions = make(map[string]*session)
}

func (a Blind) apply(m *machine, _ string) { m.blind = max(1, m.boot()-a.For.Milliseconds()) }
