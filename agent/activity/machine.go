package activity

import (
	"cmp"
	"crypto/rand"
	"io"
	"math"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// Constants of the state machine, in milliseconds.
const (
	// HandOver is how long after the last exit a process of the same application
	// still continues an instance.
	HandOver = 5_000
	// LateStart is how much later than its start a process may be told, and still open its
	// instance at that start, or continue the one that it started in time for.
	LateStart = 3_000
	// SleepFloor is the shortest sleep that is told from jitter of the clocks.
	SleepFloor = 1_000
	// DriftFloor is the deviation of the wall clock from the anchor that makes a
	// new one.
	DriftFloor = 250
	// SlotPeriod is the longest time between two writes of the crash slot.
	SlotPeriod = 30_000
	// LiveValid is how long a live snapshot holds where none follows.
	LiveValid = 90_000
	// DefaultPartEvents is Config.PartEvents where it is left out: some 120 kB.
	DefaultPartEvents = 500
)

// Config says what a Machine stands on.
type Config struct {
	// Alias gives the random alias of an operating-system user, always the same
	// for the same User.Key.
	Alias func(User) contract.ID
	// Random is where ids are drawn from; nil: crypto/rand.
	Random io.Reader
	// Evidence tells which files processes have to do with; nil: nothing does, and
	// documents are what titles say.
	Evidence Evidence
	// PartEvents is about how many cuts at quarter-hours one Output holds at most, but at
	// least one of all that is open: those of a long sleep, or of a long time that was not
	// watched, come in parts. 0: DefaultPartEvents.
	PartEvents int
}

// Output is what one observation brought.
type Output struct {
	// Events are decided facts; those of one instance or document come in the order
	// of time. They lack agent id, epoch and seq, which the journal adds. Append
	// them, with Anchors, before the slot is written and before the next observation.
	Events []*usagev1.UsageEvent
	// Anchors are the anchors that Events name.
	Anchors []*usagev1.Anchor
	// Labels name documents that have just opened, reduced as policy says.
	Labels []Label
	// Live holds a snapshot of each session in which something changed, or that
	// ended. They lack agent, machine, run id and serial.
	Live []*usagev1.LiveSnapshot
	// Windows tells the windows of each session in which they changed.
	Windows []SessionWindows
	// SlotDue: write Slot() now, since what is open has changed or SlotPeriod is over.
	SlotDue bool
	// More: this was a part of what the observation brings, with which the slot is valid
	// too; Continue gives the next one.
	More bool
}

// Label is the reduced name of a document.
type Label struct {
	DocumentID contract.ID
	Alias      contract.ID
	Name       string
}

// Machine is the state machine of one machine's desktop sessions. It is not safe
// for concurrent use.
type Machine struct {
	alias      func(User) contract.ID
	random     io.Reader
	evidence   Evidence
	partEvents int64

	matcher  *rules.Matcher
	policy   *policyv1.Policy
	revision uint64
	// changed: the policy is new to what is open.
	changed bool

	pausedByPerson bool

	watching bool
	// hole: the next observation ends a time that was not watched, for this reason.
	hole usagev1.Reason
	// slotRevision is the policy that the slot was written under.
	slotRevision uint64
	bootID       contract.ID
	now          int64
	utc          int64
	offset       int64
	anchors      anchors
	sessions     []*session

	// pending is the time that the last observation told of and that is not settled yet.
	pending *pending

	out       Output
	slotDue   bool
	slotGiven int64
	sightings sightings
}

// New makes a machine that has seen nothing. Until SetPolicy it watches nothing.
func New(config Config) *Machine {
	m := &Machine{alias: config.Alias, random: config.Random, evidence: config.Evidence, partEvents: int64(cmp.Or(config.PartEvents, DefaultPartEvents)), slotGiven: math.MinInt64 / 2}
	if m.random == nil {
		m.random = rand.Reader
	}
	if m.evidence == nil {
		m.evidence = noEvidence{}
	}
	m.matcher, _ = rules.Compile(nil)
	m.policy = &policyv1.Policy{}
	return m
}

// SetPolicy makes a policy apply from the next observation on. It fails with a
// *rules.Error, and the policy before goes on, where a rule or a setting is wrong.
func (m *Machine) SetPolicy(policy *policyv1.Policy) error {
	matcher, err := rules.Compile(policy)
	if err != nil {
		return err
	}
	m.matcher, m.policy, m.revision, m.changed = matcher, policy, policy.GetRevision(), true
	m.sightAnew()
	return nil
}

// pending is time to be settled part by part, so that neither memory nor a journal has to
// hold a month of cuts at once.
type pending struct {
	to int64
	// feed settles a part, which is the last one or not; done follows the last.
	feed func(from, to int64, last bool)
	done func()
}

// Continue gives the next part of what the last observation brings, after an Output with
// More. Where it was not asked for, Observe does the rest itself, and Stop leaves it: it
// becomes UNKNOWN, as the time after it.
func (m *Machine) Continue() Output {
	m.begin(m.utc)
	if m.pending != nil {
		m.goOn(m.partEnd())
	}
	return m.end()
}

// goOn settles what is pending up to a moment.
func (m *Machine) goOn(to int64) {
	p := m.pending
	p.feed(m.now, to, to == p.to)
	m.now = to
	if to < p.to {
		m.slotDue = true
		return
	}
	m.pending = nil
	p.done()
}

// settlePending does all that is left at once.
func (m *Machine) settlePending() {
	if m.pending != nil {
		m.goOn(m.pending.to)
	}
}

// partEnd is how far the next part reaches: to a cut.
func (m *Machine) partEnd() int64 {
	tracks := int64(0)
	for _, s := range m.sessions {
		for _, i := range s.Instances {
			tracks += 1 + int64(len(i.Documents))
		}
	}
	if tracks == 0 {
		return m.pending.to
	}
	quarters := max(1, m.partEvents/tracks)
	return min(m.pending.to, m.anchors.nextCut(m.now)+(quarters-1)*quarterHour)
}

// Observe takes in what the desktop shows.
func (m *Machine) Observe(o Observation) Output {
	m.begin(o.UTCMillis)
	m.settlePending()
	m.pausedByPerson = o.PausedByPerson
	if (m.watching || m.hole != 0) && o.BootID != m.bootID {
		m.lose()
	}
	switch {
	case m.watching:
		m.proceed(o)
	case m.hole != 0:
		m.resume(o)
	default:
		m.start(o)
	}
	return m.end()
}

func (m *Machine) begin(utc int64) {
	m.out, m.slotDue, m.utc = Output{}, false, utc
}

func (m *Machine) end() Output {
	if m.pending == nil {
		for _, s := range m.sessions {
			m.finish(s)
		}
		m.changed = false
	}
	if len(m.anchors) > 1 {
		oldest := m.now - LateStart
		for _, s := range m.sessions {
			for _, i := range s.Instances {
				for t := range i.tracks {
					oldest = min(oldest, t.Since)
				}
			}
		}
		m.anchors = m.anchors.prune(oldest)
	}
	if m.out.More = m.pending != nil; !m.out.More {
		m.tellLive()
		m.tellWindows()
	}
	m.out.SlotDue = m.slotDue || m.now-m.slotGiven >= SlotPeriod
	out := m.out
	m.out = Output{}
	return out
}

// start is the first observation where nothing is known of before.
func (m *Machine) start(o Observation) {
	m.bootID, m.now, m.offset = o.BootID, max(0, o.BootMillis), o.BootMillis-o.AwakeMillis
	m.watching = true
	m.anchors = nil
	m.anchor(o)
	for n := range o.Sessions {
		s := m.newSession(&o.Sessions[n], m.now)
		m.apply(s, &o.Sessions[n], true)
	}
}

// anchor takes a new anchor at the observation where the last one is off.
func (m *Machine) anchor(o Observation) {
	if m.anchors.needed(m.now, o.UTCMillis, o.ZoneOffsetSeconds) {
		a := anchor{Boot: m.now, UTC: o.UTCMillis, Zone: o.ZoneOffsetSeconds}
		a.ID = a.message(m.bootID).GetAnchorId()
		m.anchors = m.anchors.add(a)
		m.slotDue = true
	}
}

// proceed takes the step from the observation before to this one.
func (m *Machine) proceed(o Observation) {
	st := step{from: m.now, to: max(m.now, o.BootMillis), blind: never, input: never}
	st.asleep = m.sleep(o, st)
	if o.BlindSinceMillis > 0 && o.BlindSinceMillis < st.to {
		st.blind = max(st.from, o.BlindSinceMillis)
	}
	late := map[*session]bool{}
	steps := map[*session]step{}
	for _, s := range m.sessions {
		so := find(o.Sessions, s)
		mine := st
		if so != nil {
			last, told := s.newInput(so, st)
			if told && last < st.to {
				mine.input = last
			} else if told {
				late[s] = true
			}
			m.list(s, so)
			m.exits(s, st)
		}
		steps[s] = mine
	}
	m.pending = &pending{
		to: st.to,
		feed: func(from, to int64, last bool) {
			for _, s := range m.sessions {
				mine := steps[s]
				mine.from, mine.to = from, to
				m.advance(s, mine)
				if last {
					m.closeExited(s, to)
				}
			}
		},
		done: func() {
			m.anchor(o)
			m.settleSessions(o, piece{Raw: rawBehind, From: st.from, To: m.now})
			for s := range late {
				if !s.base.breaks() {
					m.input(s, m.now)
				}
			}
		},
	}
	m.goOn(m.partEnd())
}

// settleSessions ends the sessions that are gone, and applies what the others show; a
// new one was what before says.
func (m *Machine) settleSessions(o Observation, before piece) {
	kept := m.sessions[:0]
	for _, s := range m.sessions {
		if so := find(o.Sessions, s); so != nil {
			m.apply(s, so, false)
			kept = append(kept, s)
			continue
		}
		m.endSession(s, usagev1.Reason_REASON_SESSION_ENDED)
	}
	clear(m.sessions[len(kept):])
	m.sessions = kept
	for n := range o.Sessions {
		so := &o.Sessions[n]
		if m.known(so) == nil {
			s := m.newSession(so, before.From)
			if before.From < before.To {
				before.Access = so.Access
				s.remember(before)
			}
			m.apply(s, so, false)
		}
	}
}

// endSession closes everything in a session at its cursor.
func (m *Machine) endSession(s *session, reason usagev1.Reason) {
	m.breakStretch(s)
	for _, i := range s.Instances {
		for t := range i.tracks {
			t.close(t.Cursor, reason)
		}
		e := m.emitter(s, i)
		for _, d := range i.Documents {
			d.finish(e)
		}
		i.Track.finish(e)
	}
	s.Instances = nil
	m.tellEnded(s)
	m.slotDue = true
}

// lose closes everything at what was last seen: the machine has been started anew.
func (m *Machine) lose() {
	for _, s := range m.sessions {
		m.endSession(s, usagev1.Reason_REASON_LOST)
	}
	m.sessions, m.anchors = nil, nil
	m.watching, m.hole, m.now = false, 0, 0
	m.slotDue = true
}

// sleep finds where in a step the machine slept, by how far unbiased time fell behind.
func (m *Machine) sleep(o Observation, st step) piece {
	offset := o.BootMillis - o.AwakeMillis
	slept := offset - m.offset
	if slept < SleepFloor {
		return piece{}
	}
	m.offset = offset
	slept = min(slept, st.to-st.from)
	end := st.to
	for n := range o.Sessions {
		// An input after all the waking time of the step came after waking up.
		if last := o.Sessions[n].LastInputMillis; last > st.to-slept && last >= st.from+slept && last < end {
			end = last
		}
	}
	return piece{Raw: rawSuspended, From: end - slept, To: end}
}

// Stop settles everything in good order at a boot time no earlier than the last
// observation: what is open becomes UNKNOWN until a machine recovers from the slot.
// The machine can do nothing else but give its slot afterwards.
func (m *Machine) Stop(bootMillis int64) Output {
	if m.pending != nil {
		m.pending, bootMillis = nil, m.now
		for _, s := range m.sessions {
			for _, i := range s.Instances {
				i.exit = never // it lies in what is left
			}
		}
	}
	m.begin(m.utc + max(0, bootMillis-m.now))
	if m.watching {
		st := step{from: m.now, to: max(m.now, bootMillis), blind: never, input: never}
		for _, s := range m.sessions {
			m.advance(s, st)
			m.closeExited(s, st.to)
			m.breakStretch(s)
		}
		m.now = st.to
		for _, s := range m.sessions {
			for _, i := range s.Instances {
				e := m.emitter(s, i)
				for t := range i.tracks {
					if t.Closed == never && t.flush(e) {
						t.settle(e, piece{Raw: rawUnknown, Reason: because(usagev1.Reason_REASON_AGENT_STOPPED), From: t.Cursor, To: t.Cursor + 1})
					}
				}
			}
			m.finish(s)
		}
		m.watching, m.hole = false, usagev1.Reason_REASON_AGENT_STOPPED
	}
	m.slotDue = true
	return m.end()
}

func find(sessions []Session, s *session) *Session {
	for n := range sessions {
		if sessions[n].Key == s.Key && sessions[n].User.Key() == s.UserKey {
			return &sessions[n]
		}
	}
	return nil
}

func (m *Machine) known(so *Session) *session {
	for _, s := range m.sessions {
		if s.Key == so.Key && s.UserKey == so.User.Key() {
			return s
		}
	}
	return nil
}
