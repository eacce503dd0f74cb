package activity

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// slotVersion of the form below.
const slotVersion = 1

// slot is what a machine recovers from.
type slot struct {
	Version  int         `json:"version"`
	BootID   contract.ID `json:"boot"`
	Now      int64       `json:"now"`
	Offset   int64       `json:"offset"`
	Revision uint64      `json:"revision"`
	Stopped  bool        `json:"stopped,omitempty"`
	Anchors  anchors     `json:"anchors,omitempty"`
	Sessions []*session  `json:"sessions,omitempty"`
}

// Slot is the state to recover from, without any title or path. It is valid with
// exactly the events that were given out so far.
func (m *Machine) Slot() []byte {
	m.slotGiven = m.now
	b, err := json.Marshal(slot{
		Version: slotVersion, BootID: m.bootID, Now: m.now, Offset: m.offset, Revision: m.revision,
		Stopped: m.hole == usagev1.Reason_REASON_AGENT_STOPPED, Anchors: m.anchors, Sessions: m.sessions,
	})
	if err != nil {
		panic("activity: the slot cannot be written: " + err.Error())
	}
	return b
}

// Recover makes a machine that goes on from a crash slot. slot is what Slot gave;
// tail are the usage events that were journalled after it was written, in order, and
// named the anchors that they name. The next observation settles what was lost. An
// error means that the slot cannot be read: start with New, and say so.
func Recover(config Config, saved []byte, tail []*usagev1.UsageEvent, named []*usagev1.Anchor) (*Machine, error) {
	var sl slot
	if err := json.Unmarshal(saved, &sl); err != nil {
		return nil, fmt.Errorf("activity: crash slot: %w", err)
	}
	if err := sl.check(); err != nil {
		return nil, fmt.Errorf("activity: crash slot: %w", err)
	}
	m := New(config)
	m.bootID, m.now, m.offset, m.revision = sl.BootID, sl.Now, sl.Offset, sl.Revision
	m.anchors, m.sessions = sl.Anchors, sl.Sessions
	m.slotRevision = sl.Revision
	if len(m.anchors) > 0 {
		m.hole = usagev1.Reason_REASON_AGENT_CRASHED
		if sl.Stopped {
			m.hole = usagev1.Reason_REASON_AGENT_STOPPED
		}
	}
	for _, s := range m.sessions {
		for _, i := range s.Instances {
			i.exit = never
			for n, d := range i.Documents {
				for _, earlier := range i.Documents[:n] {
					if earlier.Document == d.Document {
						d.after = earlier
					}
				}
			}
		}
	}
	for _, event := range tail {
		if err := m.replay(event, named); err != nil {
			return nil, fmt.Errorf("activity: journal behind the crash slot: %w", err)
		}
	}
	return m, nil
}

// Aliases are the aliases of the users whose sessions are open, or were when the machine
// was recovered, by User.Key.
func (m *Machine) Aliases() map[string]contract.ID {
	aliases := make(map[string]contract.ID, len(m.sessions))
	for _, s := range m.sessions {
		if !s.Orphaned {
			aliases[s.UserKey] = s.Alias
		}
	}
	return aliases
}

// check refuses a slot that no machine has written.
func (sl *slot) check() error {
	if sl.Version != slotVersion {
		return fmt.Errorf("version %d is not %d", sl.Version, slotVersion)
	}
	if sl.Now < 0 {
		return errors.New("its time is negative")
	}
	for n := 1; n < len(sl.Anchors); n++ {
		if sl.Anchors[n].Boot <= sl.Anchors[n-1].Boot {
			return errors.New("its anchors are out of order")
		}
	}
	for _, s := range sl.Sessions {
		if s == nil {
			return errors.New("it has an empty session")
		}
		if len(sl.Anchors) == 0 {
			return errors.New("it has no anchor")
		}
		for _, i := range s.Instances {
			if i == nil || i.Track == nil {
				return errors.New("it has an empty instance")
			}
			for t := range i.tracks {
				if t == nil {
					return errors.New("it has an empty document")
				}
				if err := t.check(sl.Now); err != nil {
					return fmt.Errorf("instance %s: %w", i.ID, err)
				}
			}
		}
	}
	return nil
}

func (t *track) check(now int64) error {
	if t.Opened < 0 || t.Since < t.Opened || t.Cursor < t.Since || t.Cursor > now+1 || t.Closed != never && t.Closed < t.Since {
		return errors.New("its times are out of order")
	}
	if t.Settings.Gap <= 0 || t.Settings.Timeout <= 0 {
		return errors.New("it has no settings")
	}
	at := never
	for _, p := range slices.Concat(t.Ready, t.Waiting) {
		if p.From >= p.To || p.From < t.Since || p.To > t.Cursor || at != never && p.From != at || p.Raw > rawSuspended {
			return errors.New("what waits is out of order")
		}
		at = p.To
	}
	if at != never && at != t.Cursor {
		return errors.New("what waits does not reach its end")
	}
	for _, c := range t.Changes {
		if c.Settings.Gap <= 0 || c.Settings.Timeout <= 0 {
			return errors.New("a change has no settings")
		}
	}
	return nil
}

// replay takes in an event that was journalled after the slot was written.
func (m *Machine) replay(event *usagev1.UsageEvent, named []*usagev1.Anchor) error {
	bootID, err := contract.IDFrom(event.GetBootId())
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	if bootID != m.bootID {
		// The slot is from before a restart of the machine, whose losses were written.
		m.bootID, m.anchors, m.sessions, m.now, m.offset = bootID, nil, nil, 0, 0
		m.hole = usagev1.Reason_REASON_AGENT_CRASHED
	}
	for _, a := range named {
		if a.GetAnchorId() != event.GetAnchorId() || string(a.GetBootId()) != string(m.bootID[:]) {
			continue
		}
		if n := len(m.anchors); n == 0 || m.anchors[n-1].Boot < a.GetBootMillis() {
			m.anchors = append(m.anchors, anchor{ID: a.GetAnchorId(), Boot: a.GetBootMillis(), UTC: a.GetUtcMillis(), Zone: a.GetZoneOffsetSeconds()})
		}
	}
	if len(m.anchors) == 0 {
		return fmt.Errorf("event %x: its anchor %x is not there", event.GetEventId(), event.GetAnchorId())
	}
	sessionID, err := contract.IDFrom(event.GetSessionId())
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	instanceID, err := contract.IDFrom(event.GetInstanceId())
	if err != nil {
		return fmt.Errorf("instance: %w", err)
	}
	n := slices.IndexFunc(m.sessions, func(s *session) bool { return s.ID == sessionID })
	if n < 0 {
		s := &session{ID: sessionID, LastInput: never, Stretch: never, Orphaned: true}
		copy(s.Alias[:], event.GetPrincipalAlias())
		m.sessions = append(m.sessions, s)
		n = len(m.sessions) - 1
	}
	s := m.sessions[n]
	n = slices.IndexFunc(s.Instances, func(i *instance) bool { return i.ID == instanceID })
	if n < 0 {
		if event.GetTransition() == usagev1.Transition_TRANSITION_CLOSED {
			return nil
		}
		i := &instance{ID: instanceID, Orphaned: true, exit: never}
		copy(i.Application[:], event.GetApplicationId())
		i.Track = orphanTrack(event, contract.ID{})
		s.Instances = append(s.Instances, i)
		n = len(s.Instances) - 1
	}
	i := s.Instances[n]
	t := i.Track
	if len(event.GetDocumentId()) > 0 {
		documentID, err := contract.IDFrom(event.GetDocumentId())
		if err != nil {
			return fmt.Errorf("document: %w", err)
		}
		d := slices.IndexFunc(i.Documents, func(d *track) bool { return d.Document == documentID && !d.Done })
		if d < 0 {
			if event.GetTransition() == usagev1.Transition_TRANSITION_CLOSED {
				return nil
			}
			orphan := orphanTrack(event, documentID)
			// The journal does not say how long a gap may be; the instance knows, or will.
			orphan.Settings.Gap, orphan.Settings.Timeout = i.Track.latest().Gap, i.Track.latest().Timeout
			i.Documents = append(i.Documents, orphan)
			d = len(i.Documents) - 1
		}
		t = i.Documents[d]
	}
	i.goOn(event)
	if t.reopens(event) {
		t.Closed, t.CloseReason = never, 0
	}
	t.replay(event)
	if t != i.Track {
		i.Track.carryOn(event.GetAtBootMillis())
	}
	m.now = max(m.now, t.Cursor)
	i.Documents = slices.DeleteFunc(i.Documents, func(d *track) bool { return d.Done })
	if i.Track.Done {
		s.Instances = slices.Delete(s.Instances, n, n+1)
	}
	return nil
}

func orphanTrack(event *usagev1.UsageEvent, document contract.ID) *track {
	opened := event.GetAtBootMillis()
	if event.GetClosed() != nil {
		opened = event.GetClosed().GetFromBootMillis()
	}
	t := newTrack(document, opened, settings{
		Revision: event.GetPolicyRevision(), Gap: rules.DefaultActivityGap.Milliseconds(), Timeout: rules.DefaultTimeout.Milliseconds(),
	})
	copy(t.Settings.Rule[:], event.GetRuleId())
	t.Recognised = recognised{Source: event.GetDocumentSource(), Confidence: event.GetDocumentConfidence(), Unsaved: event.GetDocumentUnsaved()}
	return t
}

// goOn takes note that an instance that was closed in the slot went on: a process took
// over, and the journal does not say which.
func (i *instance) goOn(event *usagev1.UsageEvent) {
	if i.Track.reopens(event) {
		i.Track.Closed, i.Track.CloseReason = never, 0
		i.Orphaned = true
	}
}

// reopens tells whether an event can only have come about after a closed track was
// continued.
func (t *track) reopens(event *usagev1.UsageEvent) bool {
	if t.Closed == never {
		return false
	}
	at := event.GetAtBootMillis()
	return at > t.Closed || at == t.Closed && event.GetTransition() != usagev1.Transition_TRANSITION_CLOSED
}

// carryOn notes that an instance went on as it was until an event of a document of it:
// an instance's own events always come first.
func (t *track) carryOn(to int64) {
	if !t.Started || to <= t.settled() {
		return
	}
	if counts(t.Attention) {
		t.Counted += to - t.settled()
	}
	t.Ready, t.Waiting = after(t.Ready, to), after(t.Waiting, to)
	t.Cursor = max(t.Cursor, to)
}

// replay brings a track to where a journalled event left it.
func (t *track) replay(event *usagev1.UsageEvent) {
	at := event.GetAtBootMillis()
	if closed := event.GetClosed(); closed != nil {
		if closed.GetAttention() == usagev1.Attention_ATTENTION_BUSY {
			t.Counted, t.TimedOut = 0, false
		} else if counts(closed.GetAttention()) {
			t.Counted += max(0, at-max(t.settled(), closed.GetFromBootMillis()))
		}
	}
	for len(t.Changes) > 0 && t.Changes[0].At <= at {
		t.Settings = t.Changes[0].Settings
		t.Changes = t.Changes[1:]
	}
	if event.GetTransition() != usagev1.Transition_TRANSITION_CLOSED {
		t.Settings.Access = event.GetSessionAccess()
	}
	t.Started, t.Since, t.Entered = true, at, t.Settings
	t.Attention, t.State, t.Reason = event.GetAttention(), event.GetState(), why{event.GetReason(), event.GetPauseReason()}
	switch {
	case event.GetTransition() == usagev1.Transition_TRANSITION_CLOSED:
		t.Done = true
	case t.State == usagev1.State_STATE_TIMEOUT:
		t.TimedOut = true
		t.Counted = max(t.Counted, t.Settings.Timeout)
	case t.State == usagev1.State_STATE_ACTIVE:
		t.Counted, t.TimedOut = 0, false
	case t.TimedOut:
		t.Counted, t.TimedOut = 0, false
	}
	t.Ready = after(t.Ready, at)
	t.Waiting = after(t.Waiting, at)
	t.Cursor = max(t.Cursor, at)
	if !t.Done && t.Cursor == at && counts(t.Attention) {
		// What was entered held for a moment at least, or it would not have been told.
		t.Cursor++
		t.Counted++
	}
}

// after drops what lies before a moment.
func after(pieces []piece, at int64) []piece {
	var kept []piece
	for _, p := range pieces {
		if p.To > at {
			p.From = max(p.From, at)
			kept = append(kept, p)
		}
	}
	return kept
}

// settled is how far events have been given out.
func (t *track) settled() int64 {
	if len(t.Ready) > 0 {
		return t.Ready[0].From
	}
	return t.decided()
}

// resume is the first observation after a time that was not watched, in the same boot:
// what lives on is UNKNOWN in between, the rest closed when it was last seen.
func (m *Machine) resume(o Observation) {
	reason, since := because(m.hole), m.now
	m.hole, m.watching = 0, true
	m.changed = m.changed && m.revision != m.slotRevision
	for _, s := range m.sessions {
		for _, i := range s.Instances {
			for t := range i.tracks {
				since = max(since, t.Cursor)
			}
		}
	}
	m.now = max(since, o.BootMillis)
	m.offset = o.BootMillis - o.AwakeMillis
	m.sessions = slices.DeleteFunc(m.sessions, func(s *session) bool {
		so := m.returned(o.Sessions, s)
		if so == nil {
			m.endSession(s, usagev1.Reason_REASON_LOST)
			return true
		}
		s.Orphaned, s.Key, s.UserKey = false, so.Key, so.User.Key()
		m.alias(so.User) // whoever keeps the aliases may have lost this one
		s.LastInput = max(s.LastInput, min(so.LastInputMillis, m.now-1))
		m.list(s, so)
		m.breakStretch(s)
		for _, i := range s.Instances {
			m.resumeInstance(s, i)
		}
		s.remembered, s.history = since, []piece{{Raw: rawUnknown, Reason: reason, From: since, To: m.now}}
		return false
	})
	m.pending = &pending{
		to: m.now,
		feed: func(_, to int64, _ bool) {
			for _, s := range m.sessions {
				for _, i := range s.Instances {
					m.feed(s, i, rawUnknown, reason, to)
				}
			}
		},
		done: func() {
			m.anchor(o)
			m.settleSessions(o, piece{Raw: rawUnknown, Reason: reason, From: since, To: m.now})
		},
	}
	m.now = since
	m.goOn(m.partEnd())
}

// returned finds what a session of the slot is now.
func (m *Machine) returned(sessions []Session, s *session) *Session {
	if !s.Orphaned {
		return find(sessions, s)
	}
	for n := range sessions {
		if m.alias(sessions[n].User) == s.Alias && m.known(&sessions[n]) == nil {
			return &sessions[n]
		}
	}
	return nil
}

// resumeInstance keeps of an instance what is still alive, and closes the rest as lost.
func (m *Machine) resumeInstance(s *session, i *instance) {
	if i.Track.Closed != never {
		return
	}
	if i.Orphaned {
		m.adoptOrphan(s, i)
	}
	held := i.Holders
	i.Holders = slices.DeleteFunc(slices.Clone(held), func(h holder) bool { return !m.alive(s, i, h) })
	if len(i.Holders) == 0 {
		if h, there := m.successor(s, i); there {
			for _, before := range held {
				i.Past = append(i.Past, before.Process)
			}
			i.Holders = []holder{h}
		}
	}
	if len(i.Holders) == 0 {
		i.Holders = held
		for t := range i.tracks {
			t.close(t.Cursor, usagev1.Reason_REASON_LOST)
		}
		m.slotDue = true
		return
	}
	wanted := m.wanted(s)[i]
	for _, d := range i.Documents {
		if !slices.ContainsFunc(wanted, func(w *window) bool { return d.isOf(w) }) {
			d.close(d.Cursor, usagev1.Reason_REASON_LOST)
		}
	}
}

// adoptOrphan finds the process or window of an instance of which only the journal
// knows: the process that started when it opened, or a window that nothing else has.
func (m *Machine) adoptOrphan(s *session, i *instance) {
	a := m.application(i.Application)
	if a == nil {
		return
	}
	i.Orphaned, i.Scope = false, a.Scope
	for t := range i.tracks {
		t.change(m.settingsOf(a, t.Settings.Rule, t.latest().Access), false)
	}
	for key, p := range s.processes {
		h := holder{Process: key}
		if p.matched && p.match.Application == a && a.Scope != policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW && key.StartMillis == i.Track.Opened && !s.taken(i.Application, h) {
			h.Rule = p.match.RuleID
			i.Holders = []holder{h}
			return
		}
	}
	for _, id := range s.order {
		w := s.windows[id]
		if w.looked && w.matched && w.owner == w.ID && w.match.Application == a {
			if h := s.holderOf(w); !s.taken(i.Application, h) {
				i.Holders = []holder{h}
				return
			}
		}
	}
}

// taken tells whether a process or window holds an instance of an application.
func (s *session) taken(application contract.ID, h holder) bool {
	return slices.ContainsFunc(s.Instances, func(i *instance) bool {
		return i.Application == application && slices.ContainsFunc(i.Holders, func(there holder) bool {
			return there.Process == h.Process && there.Window == h.Window
		})
	})
}

// successor finds the process that took over an instance whose processes all went while
// nobody watched: the first one that nothing else has and that started no later than
// HandOver after the instance was last known to be open, thus after whatever held it.
func (m *Machine) successor(s *session, i *instance) (next holder, found bool) {
	if i.Scope != policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE {
		return holder{}, false
	}
	for key, p := range s.processes {
		h := holder{Process: key, Rule: p.match.RuleID}
		if !p.matched || p.match.Application.ID != i.Application || p.match.Application.Scope != i.Scope ||
			key.StartMillis < i.Track.Opened || key.StartMillis > i.Track.Cursor+HandOver || s.taken(i.Application, h) ||
			slices.ContainsFunc(s.Instances, func(other *instance) bool {
				return other != i && other.Application == i.Application && other.Track.Closed == never && s.related(other, key)
			}) {
			continue
		}
		if !found || key.StartMillis < next.Process.StartMillis || key.StartMillis == next.Process.StartMillis && key.PID < next.Process.PID {
			next, found = h, true
		}
	}
	return next, found
}
