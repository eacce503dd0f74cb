package activity

import (
	"slices"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// step is the time between two observations: what is known of it beside what the
// earlier one said.
type step struct {
	from, to int64
	// asleep is where the machine slept; empty where asleep.To is not greater.
	asleep piece
	// blind is from when nothing was watched; never if all was.
	blind int64
	// input is the last input of the session within the step; never if there was none.
	input int64
}

// class is what holds at a moment of the step; rawBehind: what the session says.
func (st step) class(at int64) (raw, why) {
	switch {
	case st.asleep.From <= at && at < st.asleep.To:
		return rawSuspended, why{}
	case st.blind != never && at >= st.blind:
		return rawUnknown, because(usagev1.Reason_REASON_AGENT_BLIND)
	default:
		return rawBehind, why{}
	}
}

// advance feeds a step to every track of a session.
func (m *Machine) advance(s *session, st step) {
	bounds := []int64{st.to}
	for _, b := range []int64{st.asleep.From, st.asleep.To, st.blind, st.input} {
		if b > st.from && b < st.to {
			bounds = append(bounds, b)
		}
	}
	slices.Sort(bounds)
	at := st.from
	for _, to := range slices.Compact(bounds) {
		class, reason := st.class(at)
		// Sleep goes before everything; what else is known comes in the order of
		// attentions.
		if class < s.base {
			class, reason = s.base, s.baseReason
		}
		if at == st.input && !class.breaks() {
			m.input(s, at)
		}
		if class.breaks() {
			s.Stretch = never
		}
		for _, i := range s.Instances {
			m.feed(s, i, class, reason, to)
		}
		if to > at {
			s.remember(piece{Raw: class, Reason: reason, From: at, To: to, Access: s.access})
		}
		at = to
	}
}

// closeExited closes the instances whose last holder exited at the very end of a step.
func (m *Machine) closeExited(s *session, at int64) {
	for _, i := range s.Instances {
		if i.exit != never {
			m.closeInstance(i, at, i.exitReason)
			i.exit = never
		}
	}
}

// remember adds to what the session was.
func (s *session) remember(p piece) {
	if n := len(s.history); n > 0 && s.history[n-1].Raw == p.Raw && s.history[n-1].Reason == p.Reason && s.history[n-1].Access == p.Access {
		s.history[n-1].To = p.To
		return
	}
	s.history = append(s.history, p)
}

// forget lets go of what the session was before a moment.
func (s *session) forget(before int64) {
	if before <= s.remembered {
		return
	}
	s.remembered = before
	s.history = slices.DeleteFunc(s.history, func(p piece) bool { return p.To <= before })
}

// input gives an input at the cursor to all tracks of a session.
func (m *Machine) input(s *session, at int64) {
	if s.inputUnsupported {
		return
	}
	for _, i := range s.Instances {
		e := m.emitter(s, i)
		for t := range i.tracks {
			t.input(e)
		}
	}
	s.Stretch = at
}

// feed gives one piece of a session's time to an instance and its documents.
func (m *Machine) feed(s *session, i *instance, class raw, reason why, to int64) {
	if i.exit != never && i.exit < to {
		exit := i.exit
		i.exit = never
		m.feed(s, i, class, reason, exit)
		m.closeInstance(i, exit, i.exitReason)
	}
	e := m.emitter(s, i)
	for t := range i.tracks {
		r, explained := class, reason
		if !class.breaks() && i.inFront && t.Closed == never && (t == i.Track || t.Document == i.frontDocument) {
			r = rawFront
			if s.inputUnsupported {
				r, explained = rawUnknown, because(usagev1.Reason_REASON_INPUT_UNSUPPORTED)
			}
		}
		t.feed(e, r, explained, to)
	}
}

// closeInstance ends an instance and its documents at the cursor. A process tree may
// still be continued by a hand-over.
func (m *Machine) closeInstance(i *instance, at int64, reason usagev1.Reason) {
	i.inFront = false
	for t := range i.tracks {
		t.close(at, reason)
	}
	for _, h := range i.Holders {
		if !h.isWindow() {
			i.Past = append(i.Past, h.Process)
		}
	}
	i.Holders = nil
	m.slotDue = true
}

// continuable tells whether a process tree has ended in a way, and so lately, that a
// process started by a moment continues it.
func (i *instance) continuable(start int64) bool {
	return i.Scope == policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE && i.Track.Closed != never && !i.Track.Done &&
		i.Track.CloseReason == 0 && start <= i.Track.Closed+HandOver
}

// finish writes the closings that have become final, and forgets what is over.
func (m *Machine) finish(s *session) {
	s.Instances = slices.DeleteFunc(s.Instances, func(i *instance) bool {
		e := m.emitter(s, i)
		i.Documents = slices.DeleteFunc(i.Documents, func(d *track) bool { return d.finish(e) })
		if i.Track.Closed == never || i.continuable(m.now-LateStart) || len(i.Documents) > 0 {
			return false
		}
		return i.Track.finish(e)
	})
}

// breakStretch ends the stretch of a session at its cursor.
func (m *Machine) breakStretch(s *session) {
	s.Stretch = never
	for _, i := range s.Instances {
		e := m.emitter(s, i)
		for t := range i.tracks {
			t.endStretch(e)
		}
	}
}
