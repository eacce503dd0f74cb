package recount

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Idle is time in which instances were open and nobody worked in them.
type Idle struct {
	Open, Busy, Stretches, Idle, Longest int64
	days                                 map[string]bool
}

// IdleStretch is one stretch.
type IdleStretch struct {
	Instance       string
	From, To, Last int64
}

// idleKey is an application, or an application and a person.
type idleKey struct{ application, principal string }

// IdleReport is where such time goes.
type IdleReport struct {
	Total  Idle
	Groups map[idleKey]*Idle
	Hours  map[[2]int]int64
	// Longest are all stretches, the longest first.
	Longest []IdleStretch
}

// QueryIdle finds all stretches of a period.
func (f *Facts) QueryIdle(filter *meteringv1.UsageFilter, from, to, atLeast int64, zone *time.Location) *IdleReport {
	r := &IdleReport{Groups: make(map[idleKey]*Idle), Hours: make(map[[2]int]int64)}
	for _, n := range f.left(filter) {
		open, busy := clipped(n.held(curveOpen, 0), from, to), clipped(n.held(curveBusy, 0), from, to)
		if length(open) == 0 {
			continue
		}
		keys := []idleKey{{n.application.String(), ""}, {n.application.String(), f.person(n).String()}}
		groups := []*Idle{&r.Total}
		for _, k := range keys {
			if r.Groups[k] == nil {
				r.Groups[k] = &Idle{}
			}
			groups = append(groups, r.Groups[k])
		}
		for _, g := range groups {
			g.Open, g.Busy = g.Open+length(open), g.Busy+length(busy)
		}
		for _, s := range n.idle(from, to) {
			if s.To-s.From < atLeast {
				continue
			}
			for _, g := range groups {
				g.Stretches++
				g.Idle += s.To - s.From
				g.Longest = max(g.Longest, s.To-s.From)
				if g.days == nil {
					g.days = make(map[string]bool)
				}
				g.days[time.UnixMilli(s.From).In(zone).Format(time.DateOnly)] = true
			}
			pieces(span{s.From, s.To}, func(a, b int64) {
				wall := time.UnixMilli(a).In(zone)
				r.Hours[[2]int{(int(wall.Weekday())+6)%7 + 1, wall.Hour()}] += b - a
			})
			r.Longest = append(r.Longest, s)
		}
	}
	slices.SortFunc(r.Longest, func(a, b IdleStretch) int {
		return cmp.Or(cmp.Compare(b.To-b.From, a.To-a.From), cmp.Compare(a.From, b.From), cmp.Compare(a.Instance, b.Instance))
	})
	return r
}

// idle are the stretches of an instance, as far as they lie in a period.
func (n *instance) idle(from, to int64) (all []IdleStretch) {
	free := without(n.held(curveOpen, 0), n.held(curveBusy, 0))
	var moments []int64 // one key ends a stretch too
	for _, s := range n.own {
		if s.from == s.to && s.attention == usagev1.Attention_ATTENTION_BUSY {
			moments = append(moments, s.from)
		}
	}
	slices.Sort(moments)
	for _, s := range free {
		for _, at := range append(slices.Clone(moments), s.to) {
			if at <= s.from || at > s.to {
				continue
			}
			if a, b := max(s.from, from), min(at, to); a < b {
				all = append(all, IdleStretch{Instance: n.id.String(), From: a, To: b, Last: n.lastBusy(a)})
			}
			s.from = at
		}
	}
	return all
}

// lastBusy is when an instance was last busy before a moment, or was opened.
func (n *instance) lastBusy(at int64) int64 {
	last := n.opened
	for _, s := range n.own {
		if s.attention == usagev1.Attention_ATTENTION_BUSY && s.from <= at {
			last = max(last, min(s.to, at))
		}
	}
	return last
}

// Session is one line of a summary of desktop sessions.
type Session struct {
	Sessions, Instances, Applications int64
	First, Last                       int64
	SessionTime, InstanceTime         Totals
}

// SummarizeSessions adds up as SummarizeSessions does; "" is the total.
func (f *Facts) SummarizeSessions(q *meteringv1.SummarizeSessionsRequest) map[string]*Session {
	from, to := q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli()
	leaves := f.leaves(q.GetFilter())
	type theirs struct {
		line    string
		session contract.ID
	}
	of := make(map[theirs][]*stretch)
	for _, s := range f.stretches {
		if min(s.to, to) <= max(s.from, from) || !s.document.IsZero() || !leaves(s.of) {
			continue
		}
		line := s.of.session.String()
		switch q.GetGroupBy() {
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL:
			line = f.person(s.of).String()
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION:
			line = s.of.application.String()
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE:
			line = s.of.machine.String()
		default:
		}
		for _, line := range []string{line, ""} {
			of[theirs{line, s.of.session}] = append(of[theirs{line, s.of.session}], s)
		}
	}
	out := make(map[string]*Session)
	instances, applications := make(map[string]map[contract.ID]bool), make(map[string]map[contract.ID]bool)
	for k, stretches := range of {
		line := out[k.line]
		if line == nil {
			line = &Session{First: to, Last: from}
			out[k.line], instances[k.line], applications[k.line] = line, make(map[contract.ID]bool), make(map[contract.ID]bool)
		}
		line.Sessions++
		for _, s := range stretches {
			instances[k.line][s.of.id], applications[k.line][s.of.application] = true, true
			line.First, line.Last = min(line.First, max(s.from, from)), max(line.Last, min(s.to, to))
			line.InstanceTime.Millis[s.attention] += min(s.to, to) - max(s.from, from)
		}
		for attention, spans := range strongest(stretches, from, to) {
			line.SessionTime.Millis[attention] += length(spans)
		}
	}
	for name, line := range out {
		line.Instances, line.Applications = int64(len(instances[name])), int64(len(applications[name]))
	}
	return out
}

// Change is what an instance became, until when.
type Change struct {
	Instance, Event string
	From, To        int64
	Attention       usagev1.Attention
	State           usagev1.State
}

// SessionChanges are those of a desktop session: what was cut for other reasons is joined.
func (f *Facts) SessionChanges(session string) (all []Change) {
	for _, n := range f.instances {
		if n.session.String() == session {
			all = append(all, n.changes(true)...)
		}
	}
	return all
}

// ordered are an instance's own stretches in the order of time.
func (n *instance) ordered() []*stretch {
	own := slices.Clone(n.own)
	slices.SortFunc(own, func(a, b *stretch) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), bytes.Compare(a.event[:], b.event[:]))
	})
	return own
}

// changes joins stretches that are the same; reasons tells whether another reason makes another change.
func (n *instance) changes(reasons bool) (all []Change) {
	var reason usagev1.Reason
	for _, s := range n.ordered() {
		if i := len(all) - 1; i >= 0 && all[i].To == s.from && all[i].Attention == s.attention && all[i].State == s.state && (!reasons || reason == s.reason) {
			all[i].To = s.to
			continue
		}
		all = append(all, Change{Instance: n.id.String(), Event: s.event.String(), From: s.from, To: s.to, Attention: s.attention, State: s.state})
		reason = s.reason
	}
	return all
}

// Bars are those of an instance in a period, exact: what has no length is no bar.
func (n *instance) bars(from, to int64) (all []Change) {
	for _, s := range n.ordered() {
		a, b := max(s.from, from), min(s.to, to)
		if a >= b {
			continue
		}
		if i := len(all) - 1; i >= 0 && all[i].To == a && all[i].Attention == s.attention && all[i].State == s.state {
			all[i].To = b
			continue
		}
		all = append(all, Change{Instance: n.id.String(), Event: s.event.String(), From: a, To: b, Attention: s.attention, State: s.state})
	}
	return all
}

// Timeline is the rows of a timeline: their totals, and exact bars by the strongest attention.
func (f *Facts) Timeline(q *meteringv1.QueryTimelineRequest, from, to int64) (totals map[string]*Totals, bars map[string][]Change) {
	totals, bars = make(map[string]*Totals), make(map[string][]Change)
	leaves := f.leaves(q.GetFilter())
	of := make(map[string][]*stretch)
	for _, s := range f.stretches {
		ms := min(s.to, to) - max(s.from, from)
		if ms <= 0 || !s.document.IsZero() || !leaves(s.of) {
			continue
		}
		row := s.of.id.String()
		switch q.GetRowBy() {
		case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL:
			row = f.person(s.of).String()
		case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_MACHINE:
			row = s.of.machine.String()
		case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_APPLICATION:
			row = s.of.application.String()
		default:
		}
		if totals[row] == nil {
			totals[row] = &Totals{}
		}
		totals[row].Millis[s.attention] += ms
		of[row] = append(of[row], s)
	}
	for row, stretches := range of {
		if id, err := contract.ParseID(row); err == nil && f.instances[id] != nil {
			bars[row] = f.instances[id].bars(from, to)
			continue
		}
		for attention, spans := range strongest(stretches, from, to) {
			for _, s := range spans {
				bars[row] = append(bars[row], Change{From: s.from, To: s.to, Attention: attention})
			}
		}
		slices.SortFunc(bars[row], func(a, b Change) int { return cmp.Compare(a.From, b.From) })
	}
	return totals, bars
}
