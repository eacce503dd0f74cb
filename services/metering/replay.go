package metering

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// replay is the demand of a period, put in such an order that one scan tells how it would have
// been for any time after which a licence is given back.
//
// That time changes nothing but where a licence is still held without being busy. So beside
// the plain curves there are the stretches in which a key was open and not busy, and since
// when it was not: given back after n, a key holds none from since + n on. Sorted once, those
// moments stay sorted for every n.
type replay struct {
	from, to int64
	// starts and ends are where a key begins and ceases to be so, in the order of time.
	starts, ends [curveGivenBack][]int64
	// spare are the stretches that begin when the key was last busy, by that; spareEnds are all
	// stretches by their end. late are those that begin later: another instance of the key has
	// closed, or the period begins there; they are in the order of their beginnings.
	spare, spareEnds, late []spareStretch
}

// spareStretch is time [from, to) in which a key is open and not busy, and has not been since.
type spareStretch struct{ from, to, since int64 }

// newReplay reads runs, which must have when they were last busy before the period.
func newReplay(runs []run, from, to int64) *replay {
	r := &replay{from: from, to: to}
	keys := make(map[demandKey][]*run)
	for i := range runs {
		keys[runs[i].key] = append(keys[runs[i].key], &runs[i])
	}
	var k keyReplay
	for _, of := range keys {
		k.replay(r, of)
	}
	for c := range r.starts {
		slices.Sort(r.starts[c])
		slices.Sort(r.ends[c])
	}
	r.spareEnds = slices.Concat(r.spare, r.late)
	slices.SortFunc(r.late, func(a, b spareStretch) int { return cmp.Compare(a.from, b.from) })
	slices.SortFunc(r.spare, func(a, b spareStretch) int { return cmp.Compare(a.since, b.since) })
	slices.SortFunc(r.spareEnds, func(a, b spareStretch) int { return cmp.Compare(a.to, b.to) })
	return r
}

// joinReplays makes one of several that follow each other: where one ends and the next begins, what goes on ends and
// begins again at one moment.
func joinReplays(parts []*replay, from, to int64) *replay {
	r := &replay{from: from, to: to}
	for c := range r.starts {
		r.starts[c] = joined(parts, func(p *replay) []int64 { return p.starts[c] })
		r.ends[c] = joined(parts, func(p *replay) []int64 { return p.ends[c] })
	}
	// A stretch that was cut is one of the late: it begins after the key was last busy.
	r.spare = joined(parts, func(p *replay) []spareStretch { return p.spare })
	r.spareEnds = joined(parts, func(p *replay) []spareStretch { return p.spareEnds })
	r.late = joined(parts, func(p *replay) []spareStretch { return p.late })
	return r
}

func joined[E any](parts []*replay, of func(*replay) []E) []E {
	n := 0
	for _, p := range parts {
		n += len(of(p))
	}
	all := make([]E, 0, n)
	for _, p := range parts {
		all = append(all, of(p)...)
	}
	return all
}

// bytes is how much memory a replay takes.
func (r *replay) bytes() int {
	n := 0
	for c := range r.starts {
		n += 8 * (cap(r.starts[c]) + cap(r.ends[c]))
	}
	return n + 24*(cap(r.spare)+cap(r.spareEnds)+cap(r.late))
}

// keyReplay replays the instances of one key; it is used for one after the other.
type keyReplay struct {
	edges []keyEdge
	lives []keyLife
	// opened are the lives that are open now.
	opened []int
	// open, busy and kept count the uses that are so now.
	open, busy, kept int
}

// keyLife is one instance: how many of its uses are open now, and when it was last busy.
type keyLife struct {
	open int
	last int64
}

type keyEdge struct {
	at   int64
	life int
	// delta is 1 where a use begins, -1 where it ends, 0 at a busy moment of no length.
	delta          int
	busy, timedOut bool
}

// keyState is what a key is at a moment.
type keyState struct {
	is    [curveGivenBack]bool
	since int64
}

func (s *keyState) spare() bool { return s.is[curveOpen] && !s.is[curveBusy] }

func (k *keyReplay) replay(r *replay, runs []*run) {
	k.edges, k.lives, k.opened = k.edges[:0], k.lives[:0], k.opened[:0]
	k.open, k.busy, k.kept = 0, 0, 0
	for i, run := range runs {
		k.lives = append(k.lives, keyLife{last: run.opened})
		for _, u := range run.uses {
			if u.busy && u.from < r.to && (u.from == u.to || u.from < r.from) {
				k.edges = append(k.edges, keyEdge{at: min(u.to, max(r.from, u.from)), life: i, busy: true})
			}
			if from, to := max(u.from, r.from), min(u.to, r.to); from < to {
				k.edges = append(k.edges, keyEdge{from, i, 1, u.busy, u.timedOut}, keyEdge{to, i, -1, u.busy, u.timedOut})
			}
		}
	}
	slices.SortFunc(k.edges, func(a, b keyEdge) int { return cmp.Compare(a.at, b.at) })
	var was keyState
	begin := int64(0)
	for i := 0; i < len(k.edges); {
		at := k.edges[i].at
		for ; i < len(k.edges) && k.edges[i].at == at; i++ {
			k.pass(&k.edges[i])
		}
		now := k.state()
		for c := range now.is {
			switch {
			case now.is[c] && !was.is[c]:
				r.starts[c] = append(r.starts[c], at)
			case !now.is[c] && was.is[c]:
				r.ends[c] = append(r.ends[c], at)
			}
		}
		if was.spare() && now.spare() && was.since == now.since {
			was = now
			continue
		}
		if was.spare() {
			r.addSpare(spareStretch{begin, at, was.since})
		}
		was, begin = now, at
	}
}

func (r *replay) addSpare(s spareStretch) {
	if s.from > s.since {
		r.late = append(r.late, s)
	} else {
		r.spare = append(r.spare, s)
	}
}

// pass goes past an edge.
func (k *keyReplay) pass(e *keyEdge) {
	life := &k.lives[e.life]
	was := life.open
	life.open += e.delta
	k.open += e.delta
	if e.busy {
		k.busy += e.delta
		life.last = max(life.last, e.at)
	}
	if e.busy || !e.timedOut {
		k.kept += e.delta
	}
	switch {
	case was == 0 && life.open > 0:
		k.opened = append(k.opened, e.life)
	case was > 0 && life.open == 0:
		k.opened = slices.DeleteFunc(k.opened, func(i int) bool { return i == e.life })
	}
}

func (k *keyReplay) state() keyState {
	s := keyState{since: math.MinInt64}
	s.is[curveOpen], s.is[curveBusy], s.is[curveNotTimedOut] = k.open > 0, k.busy > 0, k.kept > 0
	for _, i := range k.opened {
		s.since = max(s.since, k.lives[i].last)
	}
	return s
}

// neverGivenBack asks for a plain curve.
const neverGivenBack = -1

// demandCurve is what a curve is over the period.
type demandCurve struct {
	peak peak
	// total is the integral: licences times milliseconds.
	total int64
	// lasted is for how long it was each value.
	lasted []int64
	// hours are by slot, if there were slots.
	hours []demandHour
}

// demandHour is a curve within all hours of one slot.
type demandHour struct{ length, peak, peakAt, total int64 }

// hourSpan is one hour, or the part of it within the period, and which slot it belongs to.
type hourSpan struct {
	to   int64
	slot int
}

// curve scans the period. Given back asks what would have been open if a key were given back
// so many milliseconds after it was last busy; the other curves take neverGivenBack. hours
// follow each other through the period; none: they are not wanted.
func (r *replay) curve(c curve, after int64, hours []hourSpan, slots int) demandCurve {
	if c == curveGivenBack {
		givenBack, taken := r.spareEdges(r.spare, r.spareEnds, after)
		return r.scan([2][]int64{r.starts[curveOpen], taken}, [2][]int64{r.ends[curveOpen], givenBack}, hours, slots)
	}
	return r.scan([2][]int64{r.starts[c]}, [2][]int64{r.ends[c]}, hours, slots)
}

// scan adds up what rises and falls, each in the order of time.
func (r *replay) scan(rising, falling [2][]int64, hours []hourSpan, slots int) demandCurve {
	d := demandCurve{hours: make([]demandHour, slots)}
	scan := demandScan{d: &d, hours: hours}
	next := func(edges []int64, i int) int64 {
		if i < len(edges) {
			return edges[i]
		}
		return r.to
	}
	var up, down [2]int
	at, value := r.from, 0
	for at < r.to {
		end := r.to
		for i := range rising {
			edges, n := rising[i], up[i]
			for n < len(edges) && edges[n] <= at {
				n++
			}
			value += n - up[i]
			up[i], end = n, min(end, next(edges, n))
			edges, n = falling[i], down[i]
			for n < len(edges) && edges[n] <= at {
				n++
			}
			value -= n - down[i]
			down[i], end = n, min(end, next(edges, n))
		}
		scan.add(at, end, int64(value))
		at = end
	}
	d.peak.p99 = percentile(d.lasted, r.to-r.from, 99)
	d.peak.p95 = percentile(d.lasted, r.to-r.from, 95)
	return d
}

// points are the curves step by step; given back is 0 where it is not asked for.
func (r *replay) points(p sweepPeriod) []point {
	points := make([]point, (p.to-p.from+p.step-1)/p.step)
	for i := range points {
		points[i] = point{at: p.from + int64(i)*p.step}
		// A step begins where nothing has been seen of it: the first moment is greater.
		points[i].peak[curveOpen] = -1
	}
	type edges struct {
		curve curve
		delta int64
		at    []int64
	}
	var lists []edges
	for c := range curveGivenBack {
		lists = append(lists, edges{c, 1, r.starts[c]}, edges{c, -1, r.ends[c]})
	}
	if p.giveBackAfter >= 0 {
		givenBack, taken := r.spareEdges(r.spare, r.spareEnds, p.giveBackAfter)
		lists = append(lists, edges{curveGivenBack, 1, r.starts[curveOpen]}, edges{curveGivenBack, -1, r.ends[curveOpen]}, edges{curveGivenBack, -1, givenBack}, edges{curveGivenBack, 1, taken})
	}
	var now [curves]int64
	for at := p.from; at < p.to; {
		end := p.to
		for i := range lists {
			l := &lists[i]
			for len(l.at) > 0 && l.at[0] <= at {
				l.at = l.at[1:]
				now[l.curve] += l.delta
			}
			if len(l.at) > 0 {
				end = min(end, l.at[0])
			}
		}
		for s := (at - p.from) / p.step; s <= (end-1-p.from)/p.step; s++ {
			q := &points[s]
			if now[curveOpen] > q.peak[curveOpen] {
				q.now = now
			}
			for c := range curves {
				q.peak[c] = max(q.peak[c], now[c])
			}
		}
		at = end
	}
	return points
}

// demandScan adds up a curve, piece by piece.
type demandScan struct {
	d     *demandCurve
	hours []hourSpan
}

func (s *demandScan) add(at, next, value int64) {
	d := s.d
	if value > d.peak.value {
		d.peak.value, d.peak.at = value, at
	}
	for int64(len(d.lasted)) <= value {
		d.lasted = append(d.lasted, 0)
	}
	d.lasted[value] += next - at
	d.total += value * (next - at)
	for len(s.hours) > 0 && at < next {
		h := s.hours[0]
		end := min(next, h.to)
		of := &d.hours[h.slot]
		if value > of.peak {
			of.peak, of.peakAt = value, at
		}
		of.length += end - at
		of.total += value * (end - at)
		if at = end; at == h.to {
			s.hours = s.hours[1:]
		}
	}
}

// spareEdges are where keys would be given back, and where that no longer matters, since they
// are busy again or closed: both in the order of time.
func (r *replay) spareEdges(spare, ends []spareStretch, after int64) (givenBack, taken []int64) {
	givenBack, taken = make([]int64, 0, len(spare)), make([]int64, 0, len(ends))
	for i := range spare {
		if s := &spare[i]; s.to-s.since > after {
			givenBack = append(givenBack, s.since+after)
		}
	}
	// A late one is given back where it begins, in their order, or later.
	var begun, later []int64
	for i := range r.late {
		switch s := &r.late[i]; {
		case s.to-s.since <= after:
		case s.since+after <= s.from:
			begun = append(begun, s.from)
		default:
			later = append(later, s.since+after)
		}
	}
	slices.Sort(later)
	givenBack = merge(merge(givenBack, begun), later)
	for i := range ends {
		if s := &ends[i]; s.to-s.since > after {
			taken = append(taken, s.to)
		}
	}
	return givenBack, taken
}

// merge puts two lists that are in order into one.
func merge(a, b []int64) []int64 {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	all := make([]int64, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] <= b[0] {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}

// refused is what is wanted beyond a number of licences, and for how long anything is.
func (d *demandCurve) refused(licences int64) (wanted, during int64) {
	for value := licences + 1; value < int64(len(d.lasted)); value++ {
		wanted += (value - licences) * d.lasted[value]
		during += d.lasted[value]
	}
	return wanted, during
}

// needed is the smallest number of licences with which no more than so many of a million
// wanted licence milliseconds are refused.
func (d *demandCurve) needed(perMillion int64) int64 {
	var wanted, above uint64 // refused with one less, and for how long
	for licences := int64(len(d.lasted)) - 1; licences > 0; licences-- {
		above += uint64(d.lasted[licences])
		wanted += above
		// wanted * 1,000,000 > total * perMillion, in 128 bits.
		high, low := bits.Mul64(wanted, 1_000_000)
		mostHigh, mostLow := bits.Mul64(uint64(d.total), uint64(perMillion))
		if high > mostHigh || high == mostHigh && low > mostLow {
			return licences
		}
	}
	return 0
}
