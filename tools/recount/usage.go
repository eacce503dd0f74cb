package recount

import (
	"fmt"
	"slices"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// label names what a summary groups by, from what its own answer tells, or from an instance.
type label struct {
	application, principal, machine, document, group, site string
	time                                                   string
}

// timeLabel is what a calendar and a clock on the wall of a zone show, for the shortest of the groupings
// by time.
func timeLabel(by []meteringv1.GroupBy, wall time.Time) string {
	switch {
	case slices.Contains(by, meteringv1.GroupBy_GROUP_BY_HOUR):
		return wall.Format("2006-01-02T15 -07:00")
	case slices.Contains(by, meteringv1.GroupBy_GROUP_BY_DAY):
		return wall.Format("2006-01-02")
	case slices.Contains(by, meteringv1.GroupBy_GROUP_BY_WEEK):
		year, week := wall.ISOWeek()
		return fmt.Sprintf("%d-W%02d", year, week)
	case slices.Contains(by, meteringv1.GroupBy_GROUP_BY_MONTH):
		return wall.Format("2006-01")
	}
	return ""
}

// idText is an id, or nothing of none.
func idText(id contract.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// labels are those that an instance counts in: more than one where its person is in more groups.
func (f *Facts) labels(by []meteringv1.GroupBy, n *instance, document contract.ID) []label {
	var l label
	groups := []string{""}
	for _, g := range by {
		switch g {
		case meteringv1.GroupBy_GROUP_BY_APPLICATION:
			l.application = n.application.String()
		case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
			l.principal = f.person(n).String()
		case meteringv1.GroupBy_GROUP_BY_MACHINE:
			l.machine = n.machine.String()
		case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
			l.document = document.String()
		case meteringv1.GroupBy_GROUP_BY_SITE:
			l.site = idText(f.site(n))
		case meteringv1.GroupBy_GROUP_BY_GROUP:
			if in := f.groupsOf(f.person(n)); len(in) > 0 {
				groups = nil
				for _, id := range in {
					groups = append(groups, id.String())
				}
			}
		default:
		}
	}
	var all []label
	for _, l.group = range groups {
		all = append(all, l)
	}
	return all
}

// Summary is a summary of use.
type Summary struct {
	Groups map[label]*Totals
	Totals Totals
}

// Summarize adds up as SummarizeUsage does.
func (f *Facts) Summarize(q *meteringv1.SummarizeUsageRequest) (*Summary, error) {
	zone := f.Zone
	if q.GetTimeZone() != "" {
		var err error
		if zone, err = time.LoadLocation(q.GetTimeZone()); err != nil {
			return nil, fmt.Errorf("recount: %w", err)
		}
	}
	from, to := q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli()
	by, documents := q.GetGroupBy(), slices.Contains(q.GetGroupBy(), meteringv1.GroupBy_GROUP_BY_DOCUMENT)
	leaves := f.leaves(q.GetFilter())
	out := &Summary{Groups: make(map[label]*Totals)}
	walls := make(map[int64]string)
	add := func(l label, at int64, t Totals) {
		wall, known := walls[at/quarter]
		if !known {
			wall = timeLabel(by, time.UnixMilli(at).In(zone))
			walls[at/quarter] = wall
		}
		l.time = wall
		if out.Groups[l] == nil {
			out.Groups[l] = &Totals{}
		}
		out.Groups[l].add(t)
	}
	type theirs struct {
		person contract.ID
		label  label
		all    bool
	}
	people := make(map[theirs][]*stretch)
	for _, s := range f.stretches {
		if s.to <= from || s.from >= to || s.document.IsZero() == documents || !leaves(s.of) {
			continue
		}
		labels := f.labels(by, s.of, s.document)
		if q.GetCounting() == meteringv1.Counting_COUNTING_PERSON_TIME {
			person := f.person(s.of)
			for _, l := range labels {
				people[theirs{person: person, label: l}] = append(people[theirs{person: person, label: l}], s)
			}
			people[theirs{person: person, all: true}] = append(people[theirs{person: person, all: true}], s)
			continue
		}
		pieces(span{max(s.from, from), min(s.to, to)}, func(a, b int64) {
			var t Totals
			t.Millis[s.attention] = b - a
			out.Totals.add(t)
			for _, l := range labels {
				add(l, a, t)
			}
		})
	}
	for of, stretches := range people {
		for attention, spans := range strongest(stretches, from, to) {
			for _, s := range spans {
				pieces(s, func(a, b int64) {
					var t Totals
					t.Millis[attention] = b - a
					if of.all {
						out.Totals.add(t)
					} else {
						add(of.label, a, t)
					}
				})
			}
		}
	}
	if q.GetCounting() == meteringv1.Counting_COUNTING_PERSON_TIME {
		return out, nil
	}
	for _, m := range f.marks {
		if m.at < from || m.at >= to || m.document.IsZero() == documents || !leaves(m.of) {
			continue
		}
		t := Totals{Timeouts: 1}
		if m.opened {
			t = Totals{Instances: 1}
		}
		out.Totals.add(t)
		for _, l := range f.labels(by, m.of, m.document) {
			add(l, m.at, t)
		}
	}
	return out, nil
}

// Rank is one line of a ranking.
type Rank struct {
	ID     string
	Totals [2]Totals
	People [2]int64
}

// RankUsage adds up for a ranking, of the period and of the one before; it puts nothing in order.
func (f *Facts) RankUsage(q *meteringv1.RankUsageRequest, compareFrom, compareTo int64) (map[string]*Rank, [2]Totals) {
	by := q.GetGroupBy()
	if by == meteringv1.GroupBy_GROUP_BY_UNSPECIFIED {
		by = meteringv1.GroupBy_GROUP_BY_APPLICATION
	}
	name := func(l label) string { return l.application + l.principal + l.machine + l.group + l.site }
	leaves := f.leaves(q.GetFilter())
	out := make(map[string]*Rank)
	var totals [2]Totals
	for i, p := range []span{{q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli()}, {compareFrom, compareTo}} {
		people := make(map[string]map[contract.ID]bool)
		of := func(id string) *Rank {
			if out[id] == nil {
				out[id] = &Rank{ID: id}
			}
			return out[id]
		}
		for _, s := range f.stretches {
			if ms := min(s.to, p.to) - max(s.from, p.from); ms > 0 && s.document.IsZero() && leaves(s.of) {
				totals[i].Millis[s.attention] += ms
				for _, l := range f.labels([]meteringv1.GroupBy{by}, s.of, contract.ID{}) {
					of(name(l)).Totals[i].Millis[s.attention] += ms
					if people[name(l)] == nil {
						people[name(l)] = make(map[contract.ID]bool)
					}
					people[name(l)][f.person(s.of)] = true
				}
			}
		}
		for _, m := range f.marks {
			if m.at >= p.from && m.at < p.to && m.document.IsZero() && leaves(m.of) {
				t := Totals{Timeouts: 1}
				if m.opened {
					t = Totals{Instances: 1}
				}
				totals[i].add(t)
				for _, l := range f.labels([]meteringv1.GroupBy{by}, m.of, contract.ID{}) {
					of(name(l)).Totals[i].add(t)
				}
			}
		}
		for id, who := range people {
			out[id].People[i] = int64(len(who))
		}
	}
	return out, totals
}

// Unused is an application and who has opened it at some time.
type Unused struct {
	Totals Totals
	// LastBusy and LastOpen are the ends of quarter-hours of UTC; 0: never.
	LastBusy, LastOpen int64
}

// UnusedKey is whose use of which application, by their ids.
type UnusedKey struct{ application, principal, machine string }

// ListUnused tells all that are known, and which of them are listed.
func (f *Facts) ListUnused(q *meteringv1.ListUnusedRequest) (known map[UnusedKey]*Unused, listed map[UnusedKey]bool) {
	known, listed = make(map[UnusedKey]*Unused), make(map[UnusedKey]bool)
	from, to := q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli()
	leaves := f.leaves(q.GetFilter())
	of := func(n *instance) *Unused {
		k := UnusedKey{application: n.application.String()}
		if q.GetBy() != meteringv1.UnusedBy_UNUSED_BY_MACHINE {
			k.principal = f.person(n).String()
		}
		if q.GetBy() == meteringv1.UnusedBy_UNUSED_BY_MACHINE || q.GetBy() == meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE {
			k.machine = n.machine.String()
		}
		if known[k] == nil {
			known[k] = &Unused{}
		}
		return known[k]
	}
	endOf := func(last int64) int64 { return (last/quarter + 1) * quarter }
	for _, s := range f.stretches {
		if s.from == s.to || !s.document.IsZero() || !leaves(s.of) {
			continue
		}
		u := of(s.of)
		u.LastOpen = max(u.LastOpen, endOf(s.to-1))
		if s.attention == usagev1.Attention_ATTENTION_BUSY {
			u.LastBusy = max(u.LastBusy, endOf(s.to-1))
		}
		u.Totals.Millis[s.attention] += max(0, min(s.to, to)-max(s.from, from))
	}
	for _, m := range f.marks {
		if !m.document.IsZero() || !leaves(m.of) {
			continue
		}
		u := of(m.of)
		u.LastOpen = max(u.LastOpen, endOf(m.at))
		if m.at >= from && m.at < to {
			if m.opened {
				u.Totals.Instances++
			} else {
				u.Totals.Timeouts++
			}
		}
	}
	for k, u := range known {
		busy := u.Totals.busy()
		list := q.GetNotFor() == nil && q.GetBusyLessThan() == nil && busy == 0
		if q.GetNotFor() != nil && (u.LastBusy == 0 || u.LastBusy < to-q.GetNotFor().AsDuration().Milliseconds()) {
			list = true
		}
		if q.GetBusyLessThan() != nil && busy < q.GetBusyLessThan().AsDuration().Milliseconds() {
			list = true
		}
		listed[k] = list
	}
	return known, listed
}

// Distribution is how much time each person, or machine, with something open had.
func (f *Facts) Distribution(q *meteringv1.QueryDistributionRequest) (lengths []int64) {
	from, to := q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli()
	leaves := f.leaves(q.GetFilter())
	of := make(map[contract.ID]*Totals)
	for _, s := range f.stretches {
		if ms := min(s.to, to) - max(s.from, from); ms > 0 && s.document.IsZero() && leaves(s.of) {
			who := f.person(s.of)
			if q.GetGroupBy() == meteringv1.GroupBy_GROUP_BY_MACHINE {
				who = s.of.machine
			}
			if of[who] == nil {
				of[who] = &Totals{}
			}
			of[who].Millis[s.attention] += ms
		}
	}
	for _, t := range of {
		if q.GetOpen() {
			lengths = append(lengths, t.open())
		} else {
			lengths = append(lengths, t.busy())
		}
	}
	slices.Sort(lengths)
	return lengths
}

// Quality is the time of a period, by machine.
func (f *Facts) Quality(q *meteringv1.GetDataQualityRequest) (of map[string]*Totals, total Totals) {
	from, to := q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli()
	leaves := f.leaves(q.GetFilter())
	of = make(map[string]*Totals)
	for _, s := range f.stretches {
		if ms := min(s.to, to) - max(s.from, from); ms > 0 && s.document.IsZero() && leaves(s.of) {
			id := s.of.machine.String()
			if of[id] == nil {
				of[id] = &Totals{}
			}
			of[id].Millis[s.attention] += ms
			total.Millis[s.attention] += ms
		}
	}
	return of, total
}
