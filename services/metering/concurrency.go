package metering

import (
	"cmp"
	"slices"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// demandKey is what one licence stands for under a metric: a user, a machine, a
// pair of both, a session or an instance.
type demandKey [2]contract.ID

// use is one interval of one instance, in milliseconds of UTC.
type use struct {
	from, to int64
	busy     bool
	timedOut bool
	// attention is what it was where uses of different attention are kept apart.
	attention usagev1.Attention
}

// run is one instance as demand sees it.
type run struct {
	key    demandKey
	opened int64
	// uses are the instance's intervals. Those that end before the period count
	// for what is given back: a busy moment before it holds the licence into it.
	uses []use
}

// curve is a function of time: how many keys are so at once.
type curve int

const (
	curveOpen curve = iota
	curveBusy
	curveNotTimedOut
	curveGivenBack
	curves
)

// sweepPeriod is what a sweep is asked for: [from, to) in milliseconds of UTC,
// points every step, and after how long not busy an instance is given back, sleep
// included; negative: never asked.
type sweepPeriod struct {
	from, to, step int64
	giveBackAfter  int64
}

// peak is the greatest value of a curve, when it was first reached, and
// percentiles over time: the smallest value that is not exceeded in that share of
// the period.
type peak struct {
	value, at int64
	p99, p95  int64
}

// point is what the curves are, within one step, at the first moment of greatest
// open, so that they add up, and the greatest of each.
type point struct {
	at        int64
	now, peak [curves]int64
}

// inactive and timedOut are what is open besides the busy.
func (q *point) inactive() int64 { return q.now[curveNotTimedOut] - q.now[curveBusy] }
func (q *point) timedOut() int64 { return q.now[curveOpen] - q.now[curveNotTimedOut] }

// demand sweeps over the runs. Intervals are half-open: at one instant ends come
// before starts, so that a licence handed from one to the next is one licence.
func demand(runs []run, p sweepPeriod) (peaks [curves]peak, points []point) {
	edges := demandEdges(runs, p)
	points = make([]point, (p.to-p.from+p.step-1)/p.step)
	for i := range points {
		points[i] = point{at: p.from + int64(i)*p.step}
		// A step begins where nothing has been seen of it: the first moment is greater.
		points[i].peak[curveOpen] = -1
	}
	var now [curves]int64
	var lasted [curves][]int64 // by value, in milliseconds
	at := p.from
	for i := 0; at < p.to; {
		for ; i < len(edges) && edges[i].at <= at; i++ {
			now[edges[i].curve] += int64(edges[i].delta)
		}
		next := p.to
		if i < len(edges) {
			next = min(next, edges[i].at)
		}
		for c := range curves {
			if now[c] > peaks[c].value {
				peaks[c].value, peaks[c].at = now[c], at
			}
			for int64(len(lasted[c])) <= now[c] {
				lasted[c] = append(lasted[c], 0)
			}
			lasted[c][now[c]] += next - at
		}
		for s := (at - p.from) / p.step; s <= (next-1-p.from)/p.step; s++ {
			q := &points[s]
			if now[curveOpen] > q.peak[curveOpen] {
				q.now = now
			}
			for c := range curves {
				q.peak[c] = max(q.peak[c], now[c])
			}
		}
		at = next
	}
	for c := range curves {
		peaks[c].p99 = percentile(lasted[c], p.to-p.from, 99)
		peaks[c].p95 = percentile(lasted[c], p.to-p.from, 95)
	}
	return peaks, points
}

// percentile is the smallest value that the curve did not exceed in percent of
// the time.
func percentile(lasted []int64, total, percent int64) int64 {
	var sum int64
	for value, ms := range lasted {
		// ms and totals are below 2^50: no overflow.
		if sum += ms; sum*100 >= total*percent {
			return int64(value)
		}
	}
	return 0
}

type demandEdge struct {
	at    int64
	curve curve
	delta int8
}

// demandEdges makes the edges of all curves: per key the union of its instances,
// clipped to the period, in the order of time.
func demandEdges(runs []run, p sweepPeriod) []demandEdge {
	type bounds [curves][]segment
	keys := make(map[demandKey]*bounds)
	for _, r := range runs {
		b := keys[r.key]
		if b == nil {
			b = new(bounds)
			keys[r.key] = b
		}
		first := [curves]int{}
		for c := range curves {
			first[c] = len(b[c])
		}
		for _, u := range r.uses {
			s := segment{max(u.from, p.from), min(u.to, p.to)}
			if s.from >= s.to {
				continue
			}
			b[curveOpen] = append(b[curveOpen], s)
			if u.busy {
				b[curveBusy] = append(b[curveBusy], s)
			}
			if u.busy || !u.timedOut {
				b[curveNotTimedOut] = append(b[curveNotTimedOut], s)
			}
		}
		if p.giveBackAfter >= 0 {
			b[curveGivenBack] = append(b[curveGivenBack], intersect(union(slices.Clone(b[curveOpen][first[curveOpen]:])), r.held(p.giveBackAfter))...)
		}
	}
	var edges []demandEdge
	for _, b := range keys {
		for c := range curves {
			for _, s := range union(b[c]) {
				edges = append(edges, demandEdge{s.from, c, 1}, demandEdge{s.to, c, -1})
			}
		}
	}
	slices.SortFunc(edges, func(a, b demandEdge) int { return cmp.Compare(a.at, b.at) })
	return edges
}

// held is when the instance would keep its licence: from its opening and from each
// busy moment, one of no length too, until so long after.
func (r *run) held(after int64) []segment {
	held := []segment{{r.opened, r.opened + after}}
	for _, u := range r.uses {
		if u.busy {
			held = append(held, segment{u.from, u.to + after})
		}
	}
	return union(held)
}

// segment is [from, to) in milliseconds of UTC.
type segment struct{ from, to int64 }

// union sorts and joins segments in place; those that only touch become one.
func union(segments []segment) []segment {
	slices.SortFunc(segments, func(a, b segment) int { return cmp.Compare(a.from, b.from) })
	joined := segments[:0]
	for _, s := range segments {
		switch n := len(joined); {
		case s.from >= s.to:
		case n > 0 && s.from <= joined[n-1].to:
			joined[n-1].to = max(joined[n-1].to, s.to)
		default:
			joined = append(joined, s)
		}
	}
	return joined
}

// intersect returns where both are; both are unions.
func intersect(a, b []segment) []segment {
	var both []segment
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if s := (segment{max(a[i].from, b[j].from), min(a[i].to, b[j].to)}); s.from < s.to {
			both = append(both, s)
		}
		if a[i].to < b[j].to {
			i++
		} else {
			j++
		}
	}
	return both
}
