package company

import (
	"slices"
	"time"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// ending is how a visit to a machine ends.
type ending int

const (
	// ordinary: everything is closed in time.
	ordinary ending = iota
	// leftOpen: the screen is locked, and it goes on on the next day.
	leftOpen
	// asleep: the lid is closed, and it goes on on the next day.
	asleep
	// lost: the agent was killed, and has not seen the end.
	lost
	// forgotten: nobody comes back for weeks.
	forgotten
)

// segment is a time in which nothing changes in a desktop session. front is the run in front, and
// document its document; -1: none.
type segment struct {
	from, to        int64
	attention       usagev1.Attention
	reason          usagev1.Reason
	front, document int
}

// life is a run of an application, or a document in it, from when to when.
type life struct {
	application       int
	instance          contract.ID
	document          contract.ID // zero: the run itself
	run, number       int         // which of the visit's runs, and which of its documents
	opened, closed    int64
	lost              bool
	alias, session    contract.ID
	timeoutMillis     int64
	attention         usagev1.Attention
	state             usagev1.State
	reason            usagev1.Reason
	since, notBusyFor int64
}

// happening is something that an agent tells.
type happening struct {
	at              int64
	of              *life
	transition      usagev1.Transition
	attention       usagev1.Attention
	state           usagev1.State
	reason          usagev1.Reason
	closes          bool
	from            int64
	closedAttention usagev1.Attention
	closedState     usagev1.State
	closedReason    usagev1.Reason
	visit           int
}

const (
	minute  = int64(time.Minute / time.Millisecond)
	hour    = 60 * minute
	quarter = 15 * minute
)

// visit lets somebody sit down at a machine.
func (c *Company) visit(p *person, m *machine, principal contract.ID, begin time.Time, kind ending) {
	random, start := p.random, begin.UnixMilli()
	user := m.user(p, principal)
	if start < user.until { // they are there still
		return
	}
	end := start + minute + random.Int64N(int64(2*c.config.Minutes)*minute)
	var segments []segment
	add := func(until int64, attention usagev1.Attention, reason usagev1.Reason) {
		from := start
		if n := len(segments); n > 0 {
			from = segments[n-1].to
		}
		segments = append(segments, segment{from: from, to: max(from, until), attention: attention, reason: reason, front: -1, document: -1})
	}
	work := func(end int64) {
		at := start
		if n := len(segments); n > 0 {
			at = segments[n-1].to
		}
		for at < end {
			length := 1 + random.Int64N(14*minute)
			switch r := random.IntN(100); {
			case r < 50:
				add(min(end, at+length), usagev1.Attention_ATTENTION_BUSY, 0)
			case r < 68:
				add(min(end, at+30_001+length), usagev1.Attention_ATTENTION_IDLE, 0)
			case r < 88:
				add(min(end, at+length), usagev1.Attention_ATTENTION_BACKGROUND, 0)
			case r < 93:
				add(min(end, at+4*length), usagev1.Attention_ATTENTION_AWAY, 0)
			case r < 95:
				add(min(end, at+length), usagev1.Attention_ATTENTION_PAUSED, usagev1.Reason_REASON_PAUSED_BY_PERSON)
			case r < 97:
				add(min(end, at+length/4), usagev1.Attention_ATTENTION_UNKNOWN, usagev1.Reason_REASON_AGENT_STOPPED)
			default: // one key alone is a busy moment of no length
				add(min(end, at+length), usagev1.Attention_ATTENTION_IDLE, 0)
				add(at, usagev1.Attention_ATTENTION_BUSY, 0)
			}
			at = segments[len(segments)-1].to
		}
	}
	work(end)
	worked := end
	switch kind {
	case leftOpen, asleep:
		next := begin.AddDate(0, 0, 1)
		for next.Weekday() == time.Saturday || next.Weekday() == time.Sunday {
			next = next.AddDate(0, 0, 1)
		}
		attention := usagev1.Attention_ATTENTION_AWAY
		if kind == asleep {
			add(end+minute, attention, 0)
			attention = usagev1.Attention_ATTENTION_SUSPENDED
		}
		add(next.UnixMilli(), attention, 0)
		end = next.UnixMilli() + minute + random.Int64N(hour)
		work(end)
	case forgotten:
		end = max(end+minute, min(end+40*24*hour, c.Day(c.config.Days).UnixMilli()))
		add(end, usagev1.Attention_ATTENTION_AWAY, 0)
	case ordinary, lost:
	}
	user.until = end
	session := user.session
	if session.IsZero() || user.boots != m.boots || random.IntN(3) == 0 {
		session = newID(random)
		user.session, user.boots = session, m.boots
	}
	m.visits++
	lives := c.lives(p, kind, start, worked, end)
	c.bringForward(p, lives, segments)
	for _, l := range lives {
		l.alias, l.session, l.lost = user.alias, session, kind == lost
		m.pending = append(m.pending, l.live(segments, m.visits)...)
	}
	slices.SortStableFunc(m.pending, func(a, b happening) int { return int(a.at - b.at) })
}

// lives are what somebody opens, while they work first, and has open until the end.
func (c *Company) lives(p *person, kind ending, start, worked, end int64) (lives []*life) {
	random := p.random
	runs := 1 + random.IntN(3)
	if kind == forgotten {
		runs = 1
	}
	for run := range runs {
		application := p.favourites[random.IntN(len(p.favourites))]
		l := &life{application: application, instance: newID(random), run: run, number: -1, timeoutMillis: timeoutOf(application).Milliseconds()}
		l.opened = start + random.Int64N((worked-start)/3+1)
		l.closed = end
		if kind == ordinary {
			l.closed -= random.Int64N((worked-start)/3 + 1)
		}
		lives = append(lives, l)
		if !hasDocuments(application) || kind == forgotten {
			continue
		}
		for number := range 1 + random.IntN(2) {
			d := *l
			d.document, d.number = c.id(kindDocument, application*1000+random.IntN(documentsOf)), number
			d.opened += random.Int64N(min(worked-l.opened, l.closed-l.opened)/3 + 1)
			d.closed -= random.Int64N((l.closed-d.opened)/3 + 1)
			if slices.ContainsFunc(lives, func(o *life) bool { return o.instance == d.instance && o.document == d.document }) {
				continue // it is open there
			}
			lives = append(lives, &d)
		}
	}
	return lives
}

// bringForward decides what is in front of each segment in which something is.
func (c *Company) bringForward(p *person, lives []*life, segments []segment) {
	for i := range segments {
		s := &segments[i]
		if s.attention != usagev1.Attention_ATTENTION_BUSY && s.attention != usagev1.Attention_ATTENTION_IDLE {
			continue
		}
		if s.from == s.to && i > 0 { // a key is pressed in what is in front
			s.front, s.document = segments[i-1].front, segments[i-1].document
			continue
		}
		var runs, documents []*life
		for _, l := range lives {
			if l.number < 0 && l.opened <= s.from && l.closed >= s.to {
				runs = append(runs, l)
			}
		}
		if len(runs) == 0 {
			s.attention = usagev1.Attention_ATTENTION_BACKGROUND
			continue
		}
		s.front = runs[p.random.IntN(len(runs))].run
		for _, l := range lives {
			if l.number >= 0 && l.run == s.front && l.opened <= s.from && l.closed >= s.to {
				documents = append(documents, l)
			}
		}
		if len(documents) > 0 {
			s.document = documents[p.random.IntN(len(documents))].number
		}
	}
}

// in is what a life is in a segment.
func (l *life) in(s *segment) (usagev1.Attention, usagev1.Reason) {
	switch s.attention {
	case usagev1.Attention_ATTENTION_BUSY, usagev1.Attention_ATTENTION_IDLE:
		if s.front != l.run || l.number >= 0 && s.document != l.number {
			return usagev1.Attention_ATTENTION_BACKGROUND, 0
		}
	default:
	}
	return s.attention, s.reason
}

// live tells a life from its opening to its close.
func (l *life) live(segments []segment, visit int) (told []happening) {
	tell := func(at int64, transition usagev1.Transition, attention usagev1.Attention, state usagev1.State, reason usagev1.Reason) {
		h := happening{at: at, of: l, transition: transition, attention: attention, state: state, reason: reason, visit: visit}
		if transition != usagev1.Transition_TRANSITION_OPENED {
			h.closes, h.from, h.closedAttention, h.closedState, h.closedReason = true, l.since, l.attention, l.state, l.reason
		}
		told = append(told, h)
		l.attention, l.state, l.reason, l.since = attention, state, reason, at
	}
	for i := range segments {
		s := segments[i]
		if s.to < l.opened || s.from > l.closed || s.from >= l.closed && s.to > s.from {
			continue
		}
		s.from, s.to = max(s.from, l.opened), min(s.to, l.closed)
		attention, reason := l.in(&s)
		if s.from == s.to && attention != usagev1.Attention_ATTENTION_BUSY {
			continue
		}
		state := max(l.state, usagev1.State_STATE_INACTIVE)
		switch {
		case attention == usagev1.Attention_ATTENTION_BUSY:
			state, l.notBusyFor = usagev1.State_STATE_ACTIVE, 0
		case l.state == usagev1.State_STATE_ACTIVE:
			state = usagev1.State_STATE_INACTIVE
		}
		if len(told) == 0 {
			tell(s.from, usagev1.Transition_TRANSITION_OPENED, attention, state, reason)
		} else if attention != l.attention || state != l.state || reason != l.reason {
			tell(s.from, usagev1.Transition_TRANSITION_CHANGED, attention, state, reason)
		}
		l.pass(&s, tell)
	}
	if len(told) == 0 { // it was opened and closed within a moment in which nothing was seen
		tell(l.opened, usagev1.Transition_TRANSITION_OPENED, usagev1.Attention_ATTENTION_BACKGROUND, usagev1.State_STATE_INACTIVE, 0)
	}
	reason := usagev1.Reason_REASON_UNSPECIFIED
	if l.lost {
		reason = usagev1.Reason_REASON_LOST
	}
	tell(max(l.since, l.closed), usagev1.Transition_TRANSITION_CLOSED, 0, 0, reason)
	return told
}

// pass goes through a segment: the timeout, and the cuts at quarter-hours.
func (l *life) pass(s *segment, tell func(int64, usagev1.Transition, usagev1.Attention, usagev1.State, usagev1.Reason)) {
	timesOut := int64(-1)
	switch l.attention {
	case usagev1.Attention_ATTENTION_AWAY, usagev1.Attention_ATTENTION_IDLE, usagev1.Attention_ATTENTION_BACKGROUND:
		if left := l.timeoutMillis - l.notBusyFor; l.state == usagev1.State_STATE_INACTIVE && left < s.to-s.from {
			timesOut = s.from + max(0, left)
		}
		l.notBusyFor += s.to - s.from
	default:
	}
	out := func() {
		tell(timesOut, usagev1.Transition_TRANSITION_TIMED_OUT, l.attention, usagev1.State_STATE_TIMEOUT, l.reason)
		timesOut = -1
	}
	if l.attention != usagev1.Attention_ATTENTION_SUSPENDED { // who sleeps cuts nothing
		for cut := (s.from/quarter + 1) * quarter; cut < s.to; cut += quarter {
			if timesOut >= 0 && timesOut <= cut {
				same := timesOut == cut
				if out(); same {
					continue
				}
			}
			tell(cut, usagev1.Transition_TRANSITION_CUT, l.attention, l.state, l.reason)
		}
	}
	if timesOut >= 0 {
		out()
	}
}
