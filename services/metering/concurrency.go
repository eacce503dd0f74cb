package metering

import (
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
