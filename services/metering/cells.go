package metering

import (
	"time"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// quarterMillis is the width of a cell.
const quarterMillis = int64(contract.QuarterHour / time.Millisecond)

// quarter numbers the quarter-hours of UTC from 1970-01-01T00:00:00Z.
type quarter int32

func quarterOf(utcMillis int64) quarter { return quarter(floorDiv(utcMillis, quarterMillis)) }

func (q quarter) millis() int64 { return int64(q) * quarterMillis }

func (q quarter) time() time.Time { return time.UnixMilli(q.millis()).UTC() }

// level is a width in which durations are added up. Each is a multiple of the
// one below, and a row of a level begins at a multiple of its width.
type level int16

const (
	levelQuarter level = iota
	levelHour
	levelDay
	levelSixteenDays
	levels
)

// levelWidths are the levels' widths in quarter-hours. Hours exist for days of
// zones that do not begin at midnight UTC and for the ends of a period; 16 days
// keep a quarter of a year to a handful of rows per key. Each level more would be
// written with every batch and read by few: pages already bound how many keys a
// question reads.
var levelWidths = [levels]quarter{1, 4, 96, 16 * 96}

// start is the beginning of the level's row that q falls into.
func (l level) start(q quarter) quarter {
	w := levelWidths[l]
	return quarter(floorDiv(int64(q), int64(w))) * w
}

// attentions is the number of attentions that time is added up by.
const attentions = int(usagev1.Attention_ATTENTION_BACKGROUND)

// Totals are time by attention in milliseconds, and counts.
type Totals struct {
	// Millis by attention: the attention's number less one.
	Millis [attentions]int64
	// Timeouts counts the moments at which a timeout began.
	Timeouts int64
	// Instances counts openings.
	Instances int64
}

// Add adds u.
func (t *Totals) Add(u Totals) {
	for i, ms := range u.Millis {
		t.Millis[i] += ms
	}
	t.Timeouts += u.Timeouts
	t.Instances += u.Instances
}

// Subtract takes u away.
func (t *Totals) Subtract(u Totals) {
	for i, ms := range u.Millis {
		t.Millis[i] -= ms
	}
	t.Timeouts -= u.Timeouts
	t.Instances -= u.Instances
}

// Of is the time in one attention.
func (t *Totals) Of(a usagev1.Attention) time.Duration {
	return time.Duration(t.Millis[a-1]) * time.Millisecond
}

// Open is the sum of all attentions.
func (t *Totals) Open() time.Duration {
	var sum int64
	for _, ms := range t.Millis {
		sum += ms
	}
	return time.Duration(sum) * time.Millisecond
}

// eachQuarter cuts [fromMillis, toMillis) at quarter-hours.
func eachQuarter(fromMillis, toMillis int64, yield func(q quarter, millis int64)) {
	for at := fromMillis; at < toMillis; {
		q := quarterOf(at)
		end := min((q + 1).millis(), toMillis)
		yield(q, end-at)
		at = end
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
