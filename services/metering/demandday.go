package metering

import (
	"cmp"
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
	// minutes are those at which anything is another than in the minute before.
	minutes []minuteRun
	// people and machines are those with anything open.
	people, machines namedDay
	// opens and closes are where keys begin and cease to be open. spare are the stretches that begin when
	// the key was last busy, by that, and taken the same by their ends; late are those that begin later. See replay.
	opens, closes []dayMoment
	spare, taken  []daySpare
	late          []lateStretch
}

// dayMoment is a moment of a part, in milliseconds since its beginning.
type dayMoment = uint32

// daySpare is where a stretch begins or ends, and how long it is.
type daySpare struct {
	at     dayMoment
	length uint32
}

// lateStretch is a spareStretch of a part that begins after the key was last busy, which may be before the part.
type lateStretch struct {
	from, to dayMoment
	since    int64
}

// dayCurve is a curve within a part.
type dayCurve struct {
	peak, at, total int64
	// lasted is for how many milliseconds it was each value.
	lasted []uint32
	// quarters are those quarter-hours, where they were asked for, in which it is more than nothing.
	quarters []dayQuarter
}

// dayQuarter is a curve within a quarter-hour that begins, or is cut, at a moment.
type dayQuarter struct {
	at, peakAt dayMoment
	peak       uint32
	total      int64
}

// minuteRun is what all minutes are from one of the part's on.
type minuteRun struct {
	minute uint32
	minutePoint
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
		d.plain[c] = packCurve(r.curve(curve(c), neverGivenBack, quarters, len(quarters)), from)
	}
	begin := floorDiv(from, minuteMillis) * minuteMillis
	for i, p := range r.points(sweepPeriod{from: begin, to: to, step: minuteMillis, giveBackAfter: -1}) {
		var m minutePoint
		for c := range m.now {
			m.now[c], m.peak[c] = uint32(p.now[c]), uint32(max(0, p.peak[c]))
		}
		if n := len(d.minutes); n == 0 || d.minutes[n-1].minutePoint != m {
			d.minutes = append(d.minutes, minuteRun{uint32(i), m})
		}
	}
	d.minutes = slices.Clip(d.minutes)
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
		if s.from <= s.since && s.to > s.since {
			d.taken = append(d.taken, daySpare{dayMoment(s.to - from), uint32(s.to - s.since)})
		}
	}
	for _, s := range r.late {
		d.late = append(d.late, lateStretch{dayMoment(s.from - from), dayMoment(s.to - from), s.since - from})
	}
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

func packCurve(c demandCurve, from int64) dayCurve {
	d := dayCurve{peak: c.peak.value, at: c.peak.at, total: c.total, lasted: make([]uint32, len(c.lasted))}
	for value, ms := range c.lasted {
		d.lasted[value] = uint32(ms)
	}
	at := from
	for _, q := range c.hours {
		if q.peak > 0 {
			d.quarters = append(d.quarters, dayQuarter{at: dayMoment(at - from), peakAt: dayMoment(q.peakAt - from), peak: uint32(q.peak), total: q.total})
		}
		at += q.length
	}
	d.quarters = slices.Clip(d.quarters)
	return d
}

func (c *dayCurve) bytes() int { return 64 + 4*cap(c.lasted) + 24*cap(c.quarters) }

func (d *demandDay) bytes() int {
	n := 500 + 28*cap(d.minutes) + 16*(cap(d.people.ids)+cap(d.machines.ids)) + 4*(cap(d.opens)+cap(d.closes)) + 8*(cap(d.spare)+cap(d.taken)) + 16*cap(d.late)
	for c := range d.plain {
		n += d.plain[c].bytes()
	}
	return n
}

// givenBack are the curves if keys are given back after each of some times.
func (d *demandDay) givenBack(after []int64, byQuarter bool) []dayCurve {
	curves := make([]dayCurve, len(after))
	order := make([]int, len(after))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(after[a], after[b]) })
	scan := dayScan{length: dayMoment(d.to - d.from), from: d.from}
	if byQuarter {
		scan.quarters = quartersWithin(d.from, d.to)
	}
	spare, taken, late := slices.Clone(d.spare), slices.Clone(d.taken), slices.Clone(d.late)
	bySince, byEnd := slices.Clone(late), slices.Clone(late)
	slices.SortFunc(bySince, func(a, b lateStretch) int { return cmp.Compare(a.since, b.since) })
	slices.SortFunc(byEnd, func(a, b lateStretch) int { return cmp.Compare(a.to, b.to) })
	var given, ended, begun, later, again []dayMoment
	for _, i := range order {
		n := after[i]
		// What is given back after one time is among what is after a shorter one.
		spare, given = longerThan(spare, given[:0], n, true)
		taken, ended = longerThan(taken, ended[:0], n, false)
		// A late one is given back where it begins, or later; all of these are in the order of time.
		begun, later, again = begun[:0], later[:0], again[:0]
		for _, s := range late {
			if int64(s.to)-s.since > n && s.since+n <= int64(s.from) {
				begun = append(begun, s.from)
			}
		}
		for _, s := range bySince {
			if int64(s.to)-s.since > n && s.since+n > int64(s.from) {
				later = append(later, dayMoment(s.since+n))
			}
		}
		for _, s := range byEnd {
			if int64(s.to)-s.since > n {
				again = append(again, s.to)
			}
		}
		curves[i] = scan.curve([3][]dayMoment{d.opens, ended, again}, [4][]dayMoment{d.closes, given, begun, later})
	}
	return curves
}

// longerThan keeps the stretches in which a key would be given back after a time, and tells the moments at which it
// would be, or else those that they have. What it is given is written over.
func longerThan(stretches []daySpare, moments []dayMoment, after int64, back bool) ([]daySpare, []dayMoment) {
	shift := dayMoment(0)
	if back {
		shift = dayMoment(min(after, dayMillis))
	}
	kept := 0
	for _, s := range stretches {
		if int64(s.length) > after {
			stretches[kept] = s
			kept++
			moments = append(moments, s.at+shift)
		}
	}
	return stretches[:kept], moments
}

// dayScan adds up curves of a part.
type dayScan struct {
	length dayMoment
	from   int64
	// quarters are those of the part where they are wanted.
	quarters []hourSpan
	lasted   []uint32
}

// curve adds up what rises and falls, each in the order of time.
func (s *dayScan) curve(rising [3][]dayMoment, falling [4][]dayMoment) dayCurve {
	c := dayCurve{}
	quarters := dayQuarters{c: &c, from: s.from, left: s.quarters}
	lasted := append(s.lasted[:0], 0)
	value := 0
	for at := dayMoment(0); at < s.length; {
		end := s.length
		for i := range rising {
			edges := rising[i]
			for len(edges) > 0 && edges[0] <= at {
				edges = edges[1:]
				value++
			}
			if rising[i] = edges; len(edges) > 0 && edges[0] < end {
				end = edges[0]
			}
		}
		for i := range falling {
			edges := falling[i]
			for len(edges) > 0 && edges[0] <= at {
				edges = edges[1:]
				value--
			}
			if falling[i] = edges; len(edges) > 0 && edges[0] < end {
				end = edges[0]
			}
		}
		if int64(value) > c.peak {
			c.peak, c.at = int64(value), s.from+int64(at)
		}
		for len(lasted) <= value {
			lasted = append(lasted, 0)
		}
		lasted[value] += end - at
		c.total += int64(value) * int64(end-at)
		if len(quarters.left) > 0 && value > 0 {
			quarters.add(at, end, int64(value))
		}
		at = end
	}
	s.lasted = lasted
	c.lasted = slices.Clone(lasted)
	return c
}

// dayQuarters adds up the quarter-hours of a curve.
type dayQuarters struct {
	c    *dayCurve
	from int64
	left []hourSpan
	// begin is where the first that is left begins.
	begin dayMoment
}

func (q *dayQuarters) add(at, end dayMoment, value int64) {
	for at < end {
		to := dayMoment(q.left[0].to - q.from)
		if to <= at {
			q.left, q.begin = q.left[1:], to
			continue
		}
		all := q.c.quarters
		if n := len(all); n == 0 || all[n-1].at != q.begin {
			all = append(all, dayQuarter{at: q.begin})
			q.c.quarters = all
		}
		of := &all[len(all)-1]
		if value > int64(of.peak) {
			of.peak, of.peakAt = uint32(value), at
		}
		until := min(end, to)
		of.total += value * int64(until-at)
		at = until
	}
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
		if len(hours) == 0 {
			continue
		}
		for _, q := range c.quarters {
			for hours[0].to <= day.from+int64(q.at) {
				hours = hours[1:]
			}
			of := &d.hours[hours[0].slot]
			if int64(q.peak) > of.peak {
				of.peak, of.peakAt = int64(q.peak), day.from+int64(q.peakAt)
			}
			of.total += q.total
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

// keyOfGivenBack is that of any day.
func keyOfGivenBack(after []int64, byQuarter bool) givenBackKey {
	var text []byte
	for _, n := range after {
		text = binary.AppendVarint(text, n)
	}
	return givenBackKey{after: string(text), byQuarter: byQuarter}
}

// givenBack are the curves if keys are given back after each of some times.
func (r *reading) givenBack(after []int64, hours []hourSpan, slots int) []demandCurve {
	if len(after) == 0 {
		return nil
	}
	made := make([][]dayCurve, len(r.days))
	var missing []int
	key := keyOfGivenBack(after, len(hours) > 0)
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
		size := len(key.after)
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
		begin := floorDiv(d.from, minuteMillis) * minuteMillis
		minutes := (d.to - begin + minuteMillis - 1) / minuteMillis
		for i, m := range d.minutes {
			last := minutes
			if i+1 < len(d.minutes) {
				last = int64(d.minutes[i+1].minute)
			}
			for s := (begin + int64(m.minute)*minuteMillis - p.from) / p.step; s <= (begin+(last-1)*minuteMillis-p.from)/p.step; s++ {
				q := &points[s]
				if int64(m.now[curveOpen]) > q.peak[curveOpen] {
					for c := range m.now {
						q.now[c] = int64(m.now[c])
					}
				}
				for c := range m.peak {
					q.peak[c] = max(q.peak[c], int64(m.peak[c]))
				}
			}
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
