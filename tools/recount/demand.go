package recount

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// curve is what a licence is held for.
type curve int

const (
	curveOpen curve = iota
	curveBusy
	curveNotTimedOut
	curveGivenBack
)

// held is when an instance holds its licence.
func (n *instance) held(c curve, after int64) []span {
	var all, open []span
	for _, s := range n.own {
		open = append(open, span{s.from, s.to})
		switch {
		case c == curveOpen,
			c == curveBusy && s.attention == usagev1.Attention_ATTENTION_BUSY,
			c == curveNotTimedOut && (s.attention == usagev1.Attention_ATTENTION_BUSY || s.state != usagev1.State_STATE_TIMEOUT):
			all = append(all, span{s.from, s.to})
		case c == curveGivenBack && s.attention == usagev1.Attention_ATTENTION_BUSY: // one of no length too
			all = append(all, span{s.from, s.to + after})
		}
	}
	if c == curveGivenBack {
		all = append(all, span{n.opened, n.opened + after})
		return within(joined(all), joined(open))
	}
	return joined(all)
}

// key is what one licence stands for.
func (f *Facts) key(m meteringv1.Metric, n *instance) [2]contract.ID {
	switch m {
	case meteringv1.Metric_METRIC_MACHINE:
		return [2]contract.ID{n.machine}
	case meteringv1.Metric_METRIC_USER_AND_MACHINE:
		return [2]contract.ID{f.person(n), n.machine}
	case meteringv1.Metric_METRIC_SESSION:
		return [2]contract.ID{n.session}
	case meteringv1.Metric_METRIC_INSTANCE:
		return [2]contract.ID{n.id}
	default:
		return [2]contract.ID{f.person(n)}
	}
}

// step is time in which a curve has one value.
type step struct {
	span
	value int64
}

// Demand is a curve over a period.
type Demand struct {
	steps  []step
	Peak   int64
	PeakAt int64
	Total  int64
	// Levels are for how long it was each value, up to the peak.
	Levels []int64
	length int64
}

// demand counts how many keys hold a licence at each moment of a period.
func (f *Facts) demand(instances []*instance, m meteringv1.Metric, c curve, after, from, to int64) *Demand {
	keys := make(map[[2]contract.ID][]span)
	for _, n := range instances {
		k := f.key(m, n)
		keys[k] = append(keys[k], n.held(c, after)...)
	}
	changes := map[int64]int64{from: 0, to: 0}
	for _, spans := range keys {
		for _, s := range clipped(joined(spans), from, to) {
			changes[s.from]++
			changes[s.to]--
		}
	}
	d := &Demand{length: to - from}
	moments := slices.Sorted(maps.Keys(changes))
	value := int64(0)
	for i, at := range moments[:len(moments)-1] {
		value += changes[at]
		s := step{span{at, moments[i+1]}, value}
		d.steps = append(d.steps, s)
		if value > d.Peak {
			d.Peak, d.PeakAt = value, at
		}
		for int64(len(d.Levels)) <= value {
			d.Levels = append(d.Levels, 0)
		}
		d.Levels[value] += s.to - s.from
		d.Total += value * (s.to - s.from)
	}
	return d
}

// QueryDemand gives the curves of a period: open, busy, not timed out, and given back after each time.
func (f *Facts) QueryDemand(filter *meteringv1.UsageFilter, m meteringv1.Metric, after []*durationpb.Duration, from, to int64) (all []*Demand) {
	instances := f.overlapping(filter, from, to)
	for _, c := range []curve{curveOpen, curveBusy, curveNotTimedOut} {
		all = append(all, f.demand(instances, m, c, 0, from, to))
	}
	for _, n := range after {
		all = append(all, f.demand(instances, m, curveGivenBack, n.AsDuration().Milliseconds(), from, to))
	}
	return all
}

// Percentile is the smallest number that was not exceeded in so many of a hundred moments.
func (d *Demand) Percentile(percent int64) int64 {
	for value := range d.Levels {
		var above int64 // for how long it was exceeded
		for _, ms := range d.Levels[value+1:] {
			above += ms
		}
		if above*100 <= d.length*(100-percent) {
			return int64(value)
		}
	}
	return 0
}

// Refused is what is wanted beyond a number, and for how long anything is.
func (d *Demand) Refused(licences int64) (refused, refusing int64) {
	for value, ms := range d.Levels {
		if beyond := int64(value) - licences; beyond > 0 {
			refused += beyond * ms
			refusing += ms
		}
	}
	return refused, refusing
}

// Needed is the smallest number with which no more than so many of a million are refused.
func (d *Demand) Needed(perMillion int64) int64 {
	for licences := int64(0); ; licences++ {
		if refused, _ := d.Refused(licences); refused*1000 <= d.Total/1000*perMillion+d.Total%1000*perMillion/1000 {
			return licences
		}
	}
}

// Hour is a curve within all hours of a week that have one name.
type Hour struct{ Length, Peak, PeakAt, Total int64 }

// Hours is a curve by weekday, from Monday, and hour of the zone's clock.
func (d *Demand) Hours(zone *time.Location) map[[2]int]*Hour {
	hours := make(map[[2]int]*Hour)
	names := make(map[int64][2]int)
	for _, s := range d.steps {
		pieces(s.span, func(from, to int64) {
			name, known := names[from/quarter]
			if !known {
				wall := time.UnixMilli(from).In(zone)
				name = [2]int{(int(wall.Weekday())+6)%7 + 1, wall.Hour()}
				names[from/quarter] = name
			}
			h := hours[name]
			if h == nil {
				h = &Hour{}
				hours[name] = h
			}
			h.Length += to - from
			h.Total += s.value * (to - from)
			if s.value > h.Peak {
				h.Peak, h.PeakAt = s.value, from
			}
		})
	}
	return hours
}

// overlapping are the instances of a filter with anything in a period.
func (f *Facts) overlapping(filter *meteringv1.UsageFilter, from, to int64) (all []*instance) {
	for _, n := range f.left(filter) {
		if slices.ContainsFunc(n.own, func(s *stretch) bool {
			return s.from < to && s.to > from || s.from == s.to && s.from >= from && s.from < to
		}) {
			all = append(all, n)
		}
	}
	return all
}

// holders are the instances that hold a licence at a moment.
func holders(instances []*instance, c curve, after, at int64) map[string]bool {
	all := make(map[string]bool)
	for _, n := range instances {
		if len(clipped(n.held(c, after), at, at+1)) > 0 {
			all[n.id.String()] = true
		}
	}
	return all
}

// Named counts people, or machines, with something open in a period, and with something busy.
func (f *Facts) Named(instances []*instance, m meteringv1.Metric, from, to int64) (open, busy int64) {
	opened, worked := make(map[[2]contract.ID]bool), make(map[[2]contract.ID]bool)
	for _, n := range instances {
		for _, s := range n.own {
			long := min(s.to, to) > max(s.from, from)
			moment := s.from == s.to && s.from >= from && s.from < to && s.attention == usagev1.Attention_ATTENTION_BUSY
			if long || moment {
				opened[f.key(m, n)] = true
				if s.attention == usagev1.Attention_ATTENTION_BUSY {
					worked[f.key(m, n)] = true
				}
			}
		}
	}
	return int64(len(opened)), int64(len(worked))
}

// Point is one step of a chart of concurrent use.
type Point struct{ Open, Active, Inactive, TimedOut, GivenBack, PeakActive, PeakNotTimedOut, PeakGivenBack int64 }

// Points are the curves step by step: at the first moment of each at which most are open, and the
// greatest of each.
func Points(from, to, width int64, open, busy, kept, givenBack *Demand) (points []Point) {
	at := func(d *Demand, moment int64) int64 {
		if d == nil {
			return 0
		}
		i := slices.IndexFunc(d.steps, func(s step) bool { return s.from <= moment && moment < s.to })
		return d.steps[i].value
	}
	greatest := func(d *Demand, a, b int64) (value, moment int64) {
		if d == nil {
			return 0, a
		}
		value = -1
		for _, s := range d.steps {
			if s.to > a && s.from < b && s.value > value {
				value, moment = s.value, max(s.from, a)
			}
		}
		return value, moment
	}
	for a := from; a < to; a += width {
		b := min(to, a+width)
		value, moment := greatest(open, a, b)
		p := Point{Open: value, Active: at(busy, moment)}
		notTimedOut := at(kept, moment)
		p.Inactive, p.TimedOut, p.GivenBack = notTimedOut-p.Active, value-notTimedOut, at(givenBack, moment)
		p.PeakActive, _ = greatest(busy, a, b)
		p.PeakNotTimedOut, _ = greatest(kept, a, b)
		p.PeakGivenBack, _ = greatest(givenBack, a, b)
		points = append(points, p)
	}
	return points
}

// DayPeaks are the peaks of the days of a zone that lie wholly in a period and are over, from the first
// with any use on.
func (f *Facts) DayPeaks(q *meteringv1.ForecastDemandRequest, now time.Time) (days []string, peaks []int64) {
	zone := f.Zone
	if q.GetTimeZone() != "" {
		zone, _ = time.LoadLocation(q.GetTimeZone())
	}
	from, to := q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli()
	c, after := curveOpen, int64(0)
	if q.GetGiveBackAfter() != nil {
		c, after = curveGivenBack, q.GetGiveBackAfter().AsDuration().Milliseconds()
	}
	d := f.demand(f.overlapping(q.GetFilter(), from, to), q.GetMetric(), c, after, from, to)
	peak := make(map[string]int64)
	for _, s := range d.steps {
		pieces(s.span, func(a, _ int64) {
			day := time.UnixMilli(a).In(zone).Format(time.DateOnly)
			peak[day] = max(peak[day], s.value)
		})
	}
	for _, day := range slices.Sorted(maps.Keys(peak)) {
		date, _ := time.ParseInLocation(time.DateOnly, day, zone)
		end := time.Date(date.Year(), date.Month(), date.Day()+1, 0, 0, 0, 0, zone)
		if date.UnixMilli() < from || end.UnixMilli() > to || end.After(now) || len(days) == 0 && peak[day] == 0 {
			continue
		}
		days, peaks = append(days, day), append(peaks, peak[day])
	}
	return days, peaks
}

// AccountUse is what everybody did with an application in a month.
type AccountUse struct{ People, Time, Peak [2]int64 } // of who had it open, and of who was busy

// AccountUse adds up a calendar month of the account's zone by application.
func (f *Facts) AccountUse(month string) (map[string]*AccountUse, error) {
	first, err := time.ParseInLocation("2006-01", month, f.Zone)
	if err != nil {
		return nil, err
	}
	from, to := first.UnixMilli(), first.AddDate(0, 1, 0).UnixMilli()
	of := make(map[string][]*instance)
	for _, n := range f.overlapping(nil, from, to) {
		of[n.application.String()] = append(of[n.application.String()], n)
	}
	out := make(map[string]*AccountUse)
	for id, instances := range of {
		u := &AccountUse{}
		for i, c := range []curve{curveOpen, curveBusy} {
			people := make(map[contract.ID]bool)
			for _, n := range instances {
				if ms := length(clipped(n.held(c, 0), from, to)); ms > 0 {
					people[f.person(n)] = true
					u.Time[i] += ms
				}
			}
			u.People[i] = int64(len(people))
			u.Peak[i] = f.demand(instances, meteringv1.Metric_METRIC_USER, c, 0, from, to).Peak
		}
		if u.People[0] > 0 {
			out[id] = u
		}
	}
	return out, nil
}
