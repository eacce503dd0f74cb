package metering

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// idleAtLeast is how long a stretch is of which a report tells, unless asked otherwise.
	idleAtLeast = 30 * time.Minute
	// maxIdlePeople bounds how many people and applications are told of.
	maxIdlePeople = 1000
)

// idleStretch is time of one instance in which it was open and not busy.
type idleStretch struct {
	instance, application, principal, machine contract.ID
	spareStretch
}

func (s *idleStretch) length() int64 { return s.to - s.from }

// idleOf finds the stretches of an instance within a period, and adds up its open and busy
// time. k and r are for use again.
func idleOf(n *used, k *keyReplay, r *replay) (stretches []spareStretch, open, busy int64) {
	r.spare, r.late = r.spare[:0], r.late[:0]
	for c := range r.starts {
		r.starts[c], r.ends[c] = r.starts[c][:0], r.ends[c][:0]
	}
	k.replay(r, []*run{{opened: n.opened, uses: n.uses}})
	lasted := func(c curve) (sum int64) {
		for i := range r.starts[c] {
			sum += r.ends[c][i] - r.starts[c][i]
		}
		return sum
	}
	return append(r.spare, r.late...), lasted(curveOpen), lasted(curveBusy)
}

// idleTime adds up.
type idleTime struct {
	open, busy, idle, longest, stretches int64
	days                                 map[[3]int]bool
}

func (t *idleTime) add(s spareStretch, zone *time.Location) {
	t.stretches++
	t.idle += s.to - s.from
	t.longest = max(t.longest, s.to-s.from)
	if t.days == nil {
		t.days = make(map[[3]int]bool)
	}
	year, month, day := time.UnixMilli(s.from).In(zone).Date()
	t.days[[3]int{year, int(month), day}] = true
}

func (t *idleTime) message() *meteringv1.IdleTime {
	return &meteringv1.IdleTime{
		Open: millisSpan(t.open), Busy: millisSpan(t.busy), Stretches: t.stretches, Idle: millisSpan(t.idle),
		Longest: millisSpan(t.longest), Days: int64(len(t.days)),
	}
}

// idleDay is what a part of the period says about it: open and busy time by application and person, and stretches, those
// that are cut by its ends whatever their length.
type idleDay struct {
	from, to  int64
	times     map[[2]contract.ID]*[2]int64
	stretches []idleStretch
}

// idleOfPart looks at all instances of a part.
func idleOfPart(all []used, from, to, atLeast int64) *idleDay {
	d := &idleDay{from: from, to: to, times: make(map[[2]contract.ID]*[2]int64)}
	r := &replay{from: from, to: to}
	var k keyReplay
	for i := range all {
		n := &all[i]
		stretches, open, busy := idleOf(n, &k, r)
		if open == 0 {
			continue
		}
		who := [2]contract.ID{n.application, n.principal}
		t := d.times[who]
		if t == nil {
			t = new([2]int64)
			d.times[who] = t
		}
		t[0], t[1] = t[0]+open, t[1]+busy
		for _, s := range stretches {
			if s.to-s.from >= atLeast || s.from == from || s.to == to {
				d.stretches = append(d.stretches, idleStretch{n.instance, n.application, n.principal, n.machine, s})
			}
		}
	}
	return d
}

func (d *idleDay) bytes() int {
	const time, stretch = 120, 88 // what they take, in a map and in a slice
	return time*len(d.times) + stretch*cap(d.stretches)
}

// idleAfter makes what idle time of some length is made of: that of what is asked unless otherwise
// holds all longer ones too.
func idleAfter(atLeast int64) making[*idleDay] {
	type idleKind struct{ atLeast int64 }
	atLeast = min(atLeast, idleAtLeast.Milliseconds())
	return making[*idleDay]{
		kind: idleKind{atLeast},
		of:   func(from, to int64, all []used) *idleDay { return idleOfPart(all, from, to, atLeast) },
		size: (*idleDay).bytes,
	}
}

// idle is what a report of idle time finds.
type idle struct {
	total idleTime
	// groups are by application, and by application and person.
	groups map[groupKey]*idleTime
	hours  [weekHours]int64
	// longest are the longest stretches, at most so many.
	longest []idleStretch
	most    int

	atLeast int64
	// week are the hours of the period, one after the other.
	week []hourSpan
	zone *time.Location
	// cut are stretches that went on where the last part ended.
	cut map[contract.ID]idleStretch
}

func (d *idle) of(k groupKey) *idleTime {
	if d.groups[k] == nil {
		d.groups[k] = &idleTime{}
	}
	return d.groups[k]
}

// add adds the next part.
func (d *idle) add(part *idleDay) {
	for who, t := range part.times {
		for _, of := range []*idleTime{&d.total, d.of(groupKey{application: who[0]}), d.of(groupKey{application: who[0], principal: who[1]})} {
			of.open, of.busy = of.open+t[0], of.busy+t[1]
		}
	}
	cut := make(map[contract.ID]idleStretch)
	for _, s := range part.stretches {
		if before, ok := d.cut[s.instance]; ok && before.to == s.from && before.since == s.since {
			s.from = before.from
			delete(d.cut, s.instance)
		}
		if s.to == part.to {
			cut[s.instance] = s
		} else {
			d.addStretch(s)
		}
	}
	d.finish()
	d.cut = cut
}

// finish adds the stretches that have not gone on.
func (d *idle) finish() {
	for _, s := range d.cut {
		d.addStretch(s)
	}
	clear(d.cut)
}

func (d *idle) addStretch(s idleStretch) {
	if s.length() < d.atLeast {
		return
	}
	for _, t := range []*idleTime{&d.total, d.of(groupKey{application: s.application}), d.of(groupKey{application: s.application, principal: s.principal})} {
		t.add(s.spareStretch, d.zone)
	}
	if d.longest = append(d.longest, s); len(d.longest) >= 2*max(d.most, 100) {
		d.sortLongest()
	}
	at := s.from
	first, _ := slices.BinarySearchFunc(d.week, at, func(h hourSpan, at int64) int { return cmp.Compare(h.to, at+1) })
	for ; at < s.to; first++ {
		end := min(s.to, d.week[first].to)
		d.hours[d.week[first].slot] += end - at
		at = end
	}
}

func (d *idle) sortLongest() {
	slices.SortFunc(d.longest, func(a, b idleStretch) int {
		return cmp.Or(cmp.Compare(b.length(), a.length()), cmp.Compare(a.from, b.from), bytes.Compare(a.instance[:], b.instance[:]))
	})
	d.longest = d.longest[:min(len(d.longest), d.most)]
}

// idleIn adds up a reading.
func idleIn(of *reading, atLeast int64, most int, week []hourSpan, zone *time.Location) *idle {
	d := &idle{groups: make(map[groupKey]*idleTime), atLeast: atLeast, most: most, week: week, zone: zone}
	for _, part := range of.idle {
		d.add(part)
	}
	d.finish()
	d.sortLongest()
	return d
}

// sorted are the groups with a person, or without, the greatest first.
func (d *idle) sorted(people bool) []groupKey {
	var keys []groupKey
	for k := range d.groups {
		if k.principal.IsZero() != people {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b groupKey) int {
		return cmp.Or(cmp.Compare(d.groups[b].idle, d.groups[a].idle), compareKnown(a, b))
	})
	return keys
}

func (a *reportAPI) QueryIdle(ctx context.Context, req *meteringv1.QueryIdleRequest) (*meteringv1.QueryIdleResponse, error) {
	const op = "metering.QueryIdle"
	atLeast := idleAtLeast
	var wrong []errs.Field
	if req.GetAtLeast() != nil {
		atLeast = req.GetAtLeast().AsDuration()
		if req.GetAtLeast().CheckValid() != nil || atLeast < 0 {
			wrong = append(wrong, errs.Field{Path: "at_least", Description: "is not a time of 0s or more"})
		}
	}
	r, err := reportOf(ctx, op, req, wrong...)
	if err != nil {
		return nil, err
	}
	if err := a.viewed(ctx, r, req, true); err != nil {
		return nil, err
	}
	var found, then *idle
	var applications, people, before []groupKey
	other, kept := (*report)(nil), false
	err = a.read(ctx, r, req.GetTimeZone(), func(tx pgx.Tx) error {
		reading, err := a.idleReading(ctx, tx, r, atLeast.Milliseconds(), req.GetAsOfPosition())
		if err != nil {
			return err
		}
		found = idleIn(reading, atLeast.Milliseconds(), resource.PageSize(req.GetLongest(), 100), weekOf(r.from, r.to, r.zone), r.zone)
		applications, people = found.sorted(false), found.sorted(true)
		people = people[:min(len(people), maxIdlePeople)]
		if other, kept = r.beside(); kept {
			if reading, err = a.idleReading(ctx, tx, other, atLeast.Milliseconds(), req.GetAsOfPosition()); err != nil {
				return err
			}
			then = idleIn(reading, atLeast.Milliseconds(), 0, weekOf(other.from, other.to, r.zone), r.zone)
			before = then.sorted(false)
		}
		for _, k := range slices.Concat(applications, people, before) {
			r.names.want(k.application, k.principal, contract.ID{}, contract.ID{})
		}
		for _, s := range found.longest {
			r.names.want(s.application, s.principal, s.machine, contract.ID{})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp := &meteringv1.QueryIdleResponse{TimeZone: r.zone.String(), Position: r.position, DataSinceTime: r.since, Total: found.total.message()}
	group := func(found *idle, k groupKey) *meteringv1.IdleGroup {
		return &meteringv1.IdleGroup{
			ApplicationId: k.application.String(), ApplicationName: r.names.applications[k.application],
			PrincipalId: idText(k.principal), PrincipalName: r.names.principals[k.principal], Time: found.groups[k].message(),
		}
	}
	for _, k := range applications {
		resp.Applications = append(resp.Applications, group(found, k))
	}
	for _, k := range people {
		resp.People = append(resp.People, group(found, k))
	}
	if other != nil {
		resp.Compare = &meteringv1.IdleComparison{StartTime: other.startTime(), EndTime: other.endTime()}
	}
	if kept {
		resp.Compare.Total = then.total.message()
		for _, k := range before {
			resp.Compare.Applications = append(resp.Compare.Applications, group(then, k))
		}
	}
	for slot, ms := range found.hours {
		if ms > 0 {
			resp.HeatMap = append(resp.HeatMap, &meteringv1.IdleHour{Weekday: int32(slot/24) + 1, Hour: int32(slot % 24), Idle: millisSpan(ms)})
		}
	}
	for i := range found.longest {
		s := &found.longest[i]
		resp.Longest = append(resp.Longest, &meteringv1.IdleStretch{
			InstanceId: s.instance.String(), ApplicationId: s.application.String(), ApplicationName: r.names.applications[s.application],
			PrincipalId: s.principal.String(), PrincipalName: r.names.principals[s.principal],
			MachineId: s.machine.String(), MachineName: r.names.machines[s.machine],
			StartTime: millisStamp(s.from), EndTime: millisStamp(s.to), LastBusyTime: millisStamp(s.since),
		})
	}
	return resp, nil
}
