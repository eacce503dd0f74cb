package metering

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// minuteMillis is the step of the points that a day is made with.
const minuteMillis = 60_000

// demandDay is what demand is made of, of a part of a period that is no longer than a day. Curves over several parts
// are the sums of theirs, so that a year is 365 small rows and not all that rose and fell in it.
type demandDay struct {
	// id tells it from every other, in the keys of what is made of it.
	id       uint64
	from, to int64
	plain    [curveGivenBack]dayCurve
	minutes  []minutePoint
	// people and machines are those with anything open.
	people, machines namedDay
	// opens and closes are where keys begin and cease to be open. spare are the stretches that begin when
	// the key was last busy, by that, and taken the same by their ends; late and lateTaken are those that begin
	// later. See replay.
	opens, closes   []dayMoment
	spare, taken    []daySpare
	late, lateTaken []spareStretch
}

// dayMoment is a moment of a part, in milliseconds since its beginning.
type dayMoment = uint32

// daySpare is where a stretch begins or ends, and how long it is.
type daySpare struct {
	at     dayMoment
	length uint32
}

// dayCurve is a curve within a part.
type dayCurve struct {
	peak, at, total int64
	// lasted is for how many milliseconds it was each value.
	lasted []uint32
	// quarters are by quarter-hour, where they were asked for.
	quarters []demandHour
}

// minutePoint is what the plain curves are in a minute: at the first moment of greatest open, and the greatest of each.
type minutePoint struct{ now, peak [curveGivenBack]uint32 }

// namedDay are those with anything open; the first so many were busy.
type namedDay struct {
	ids  []contract.ID
	busy int
}

func newDemandDay(runs []run, from, to int64) *demandDay {
	d := &demandDay{id: rand.Uint64(), from: from, to: to}
	r := newReplay(runs, from, to)
	quarters := quartersWithin(from, to)
	for c := range d.plain {
		d.plain[c] = packCurve(r.curve(curve(c), neverGivenBack, quarters, len(quarters)))
	}
	begin := floorDiv(from, minuteMillis) * minuteMillis
	for _, p := range r.points(sweepPeriod{from: begin, to: to, step: minuteMillis, giveBackAfter: -1}) {
		var m minutePoint
		for c := range m.now {
			m.now[c], m.peak[c] = uint32(p.now[c]), uint32(max(0, p.peak[c]))
		}
		d.minutes = append(d.minutes, m)
	}
	moments := func(edges []int64) []dayMoment {
		all := make([]dayMoment, len(edges))
		for i, at := range edges {
			all[i] = dayMoment(at - from)
		}
		return all
	}
	d.opens, d.closes = moments(r.starts[curveOpen]), moments(r.ends[curveOpen])
	d.spare, d.taken = make([]daySpare, 0, len(r.spare)), make([]daySpare, 0, len(r.spare))
	for _, s := range r.spare {
		if s.to > s.since { // else it is never given back
			d.spare = append(d.spare, daySpare{dayMoment(s.since - from), uint32(s.to - s.since)})
		}
	}
	for _, s := range r.spareEnds {
		switch {
		case s.from > s.since:
			d.lateTaken = append(d.lateTaken, s)
		case s.to > s.since:
			d.taken = append(d.taken, daySpare{dayMoment(s.to - from), uint32(s.to - s.since)})
		}
	}
	d.late = r.late
	return d
}

// quartersWithin cuts a part at quarter-hours; each has its own slot.
func quartersWithin(from, to int64) []hourSpan {
	var spans []hourSpan
	for at := from; at < to; {
		at = min(to, (floorDiv(at, quarterMillis)+1)*quarterMillis)
		spans = append(spans, hourSpan{at, len(spans)})
	}
	return spans
}

func packCurve(c demandCurve) dayCurve {
	d := dayCurve{peak: c.peak.value, at: c.peak.at, total: c.total, lasted: make([]uint32, len(c.lasted)), quarters: c.hours}
	for value, ms := range c.lasted {
		d.lasted[value] = uint32(ms)
	}
	return d
}

func (c *dayCurve) bytes() int { return 64 + 4*cap(c.lasted) + 32*cap(c.quarters) }

func (d *demandDay) bytes() int {
	n := 500 + 24*cap(d.minutes) + 16*(cap(d.people.ids)+cap(d.machines.ids)) + 4*(cap(d.opens)+cap(d.closes)) + 8*(cap(d.spare)+cap(d.taken)) + 24*(cap(d.late)+cap(d.lateTaken))
	for c := range d.plain {
		n += d.plain[c].bytes()
	}
	return n
}

// longerThan are the stretches in which a key would be given back after a time.
func longerThan(stretches []daySpare, after int64) []daySpare {
	n := 0
	for i := range stretches {
		if int64(stretches[i].length) > after {
			n++
		}
	}
	if n == len(stretches) {
		return stretches
	}
	kept := make([]daySpare, 0, n)
	for i := range stretches {
		if int64(stretches[i].length) > after {
			kept = append(kept, stretches[i])
		}
	}
	return kept
}

// givenBack are the curves if keys are given back after each of some times.
func (d *demandDay) givenBack(after []int64, byQuarter bool) []dayCurve {
	curves := make([]dayCurve, len(after))
	order := make([]int, len(after))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(after[a] - after[b]) })
	var quarters []hourSpan
	if byQuarter {
		quarters = quartersWithin(d.from, d.to)
	}
	absolute := func(moments []dayMoment) []int64 {
		all := make([]int64, len(moments))
		for i, at := range moments {
			all[i] = d.from + int64(at)
		}
		return all
	}
	r := replay{from: d.from, to: d.to, late: d.late}
	opens, closes := absolute(d.opens), absolute(d.closes)
	spare, taken := d.spare, d.taken
	for _, i := range order {
		n := after[i]
		// What is given back after one time is among what is after a shorter one.
		spare, taken = longerThan(spare, n), longerThan(taken, n)
		back, again := r.spareEdges(nil, d.lateTaken, n)
		given, ended := make([]int64, len(spare)), make([]int64, len(taken))
		for i, s := range spare {
			given[i] = d.from + int64(s.at) + n
		}
		for i, s := range taken {
			ended[i] = d.from + int64(s.at)
		}
		curves[i] = packCurve(r.scan([2][]int64{opens, merge(ended, again)}, [2][]int64{closes, merge(given, back)}, quarters, len(quarters)))
	}
	return curves
}

// sumCurves puts the curves of parts together; where no part is, nothing was open. hours follow each other through
// the period and end at quarter-hours; none: they are not wanted.
func sumCurves(from, to int64, days []*demandDay, of func(int) *dayCurve, hours []hourSpan, slots int) demandCurve {
	d := demandCurve{lasted: []int64{to - from}, hours: make([]demandHour, slots)}
	at := from
	for i := range hours {
		d.hours[hours[i].slot].length += hours[i].to - at
		at = hours[i].to
	}
	for i, day := range days {
		c := of(i)
		if c.peak > d.peak.value {
			d.peak.value, d.peak.at = c.peak, c.at
		}
		d.total += c.total
		for len(d.lasted) < len(c.lasted) {
			d.lasted = append(d.lasted, 0)
		}
		for value, ms := range c.lasted {
			d.lasted[value] += int64(ms)
		}
		d.lasted[0] -= day.to - day.from
		at := day.from
		for q := range c.quarters {
			if len(hours) == 0 {
				break
			}
			for hours[0].to <= at {
				hours = hours[1:]
			}
			of := &d.hours[hours[0].slot]
			if quarter := &c.quarters[q]; quarter.peak > of.peak {
				of.peak, of.peakAt = quarter.peak, quarter.peakAt
			}
			of.total += c.quarters[q].total
			at += c.quarters[q].length
		}
	}
	d.peak.p99, d.peak.p95 = percentile(d.lasted, to-from, 99), percentile(d.lasted, to-from, 95)
	return d
}

// curve is one over the whole period. Given back asks what would have been open if a key were given back
// so many milliseconds after it was last busy; the other curves take neverGivenBack.
func (r *reading) curve(c curve, after int64, hours []hourSpan, slots int) demandCurve {
	if c == curveGivenBack {
		return r.givenBack([]int64{after}, hours, slots)[0]
	}
	return sumCurves(r.from, r.to, r.days, func(i int) *dayCurve { return &r.days[i].plain[c] }, hours, slots)
}

// givenBackKey names what a day is if keys are given back after each of some times.
type givenBackKey struct {
	day       uint64
	after     string
	byQuarter bool
}

// givenBack are the curves if keys are given back after each of some times.
func (r *reading) givenBack(after []int64, hours []hourSpan, slots int) []demandCurve {
	if len(after) == 0 {
		return nil
	}
	var text []byte
	for _, n := range after {
		text = binary.AppendVarint(text, n)
	}
	made := make([][]dayCurve, len(r.days))
	var missing []int
	key := givenBackKey{after: string(text), byQuarter: len(hours) > 0}
	for i, d := range r.days {
		key.day = d.id
		if known, ok := r.memory.get(r.account, key); ok {
			made[i] = known.([]dayCurve)
		} else {
			missing = append(missing, i)
		}
	}
	processors := min(runtime.GOMAXPROCS(0), len(missing))
	var working sync.WaitGroup
	for first := range processors {
		working.Go(func() {
			for n := first; n < len(missing); n += processors {
				i := missing[n]
				made[i] = r.days[i].givenBack(after, key.byQuarter)
			}
		})
	}
	working.Wait()
	for _, i := range missing {
		key.day = r.days[i].id
		size := len(text)
		for n := range made[i] {
			size += made[i][n].bytes()
		}
		r.memory.put(r.account, key, made[i], size)
	}
	curves := make([]demandCurve, len(after))
	for n := range curves {
		curves[n] = sumCurves(r.from, r.to, r.days, func(i int) *dayCurve { return &made[i][n] }, hours, slots)
	}
	return curves
}

// byMinutes tells whether the points of a period are made of minutes.
func (p sweepPeriod) byMinutes() bool {
	return p.from%minuteMillis == 0 && p.step%minuteMillis == 0 && p.giveBackAfter < 0
}

// points are the plain curves step by step, of a period that is asked for by minutes.
func (r *reading) points(p sweepPeriod) []point {
	points := make([]point, (p.to-p.from+p.step-1)/p.step)
	for i := range points {
		points[i].at = p.from + int64(i)*p.step
	}
	for _, d := range r.days {
		at := floorDiv(d.from, minuteMillis) * minuteMillis
		for i := range d.minutes {
			m, q := &d.minutes[i], &points[(at-p.from)/p.step]
			if int64(m.now[curveOpen]) > q.peak[curveOpen] {
				for c := range m.now {
					q.now[c] = int64(m.now[c])
				}
			}
			for c := range m.peak {
				q.peak[c] = max(q.peak[c], int64(m.peak[c]))
			}
			at += minuteMillis
		}
	}
	return points
}

// namedIn are those who had an instance open in a part of the period, and of these those who were busy in one.
func namedIn(all []used, from, to int64, who func(*used) contract.ID) namedDay {
	busyIn := make(map[contract.ID]bool)
	for i := range all {
		open, busy := false, false
		for _, u := range all[i].uses {
			open = open || max(u.from, from) < min(u.to, to)
			busy = busy || u.busy && u.from < to && (u.to > from || u.from >= from)
		}
		if open || busy {
			id := who(&all[i])
			busyIn[id] = busyIn[id] || busy
		}
	}
	return namedOf(busyIn)
}

// namedOf puts those who were busy first.
func namedOf(busyIn map[contract.ID]bool) namedDay {
	named := namedDay{ids: make([]contract.ID, 0, len(busyIn))}
	for id, busy := range busyIn {
		if busy {
			named.ids = append(named.ids, id)
		}
	}
	named.busy = len(named.ids)
	for id, busy := range busyIn {
		if !busy {
			named.ids = append(named.ids, id)
		}
	}
	return named
}

// countNamed counts who was there on any of some days, and who was busy.
func countNamed(days []*demandDay, of func(*demandDay) *namedDay) (open, busy int64) {
	busyIn := make(map[contract.ID]bool)
	for _, d := range days {
		named := of(d)
		for i, id := range named.ids {
			if was, known := busyIn[id]; !known || !was && i < named.busy {
				busyIn[id] = i < named.busy
			}
		}
	}
	for _, is := range busyIn {
		if is {
			busy++
		}
	}
	return int64(len(busyIn)), busy
}

// demandOf makes what demand under a metric is made of.
func demandOf(m meteringv1.Metric) making[*demandDay] {
	type demandKind struct{ m meteringv1.Metric }
	return making[*demandDay]{
		kind: demandKind{m},
		of: func(from, to int64, all []used) *demandDay {
			d := newDemandDay(runsOf(all, metricOf(m)), from, to)
			d.people = namedIn(all, from, to, func(n *used) contract.ID { return n.principal })
			d.machines = namedIn(all, from, to, func(n *used) contract.ID { return n.machine })
			return d
		},
		size: (*demandDay).bytes,
	}
}

// replayOf makes replays under a metric.
func replayOf(m meteringv1.Metric) making[*replay] {
	type replayKind struct{ m meteringv1.Metric }
	return making[*replay]{
		kind: replayKind{m},
		of:   func(from, to int64, all []used) *replay { return newReplay(runsOf(all, metricOf(m)), from, to) },
		size: (*replay).bytes,
	}
}
