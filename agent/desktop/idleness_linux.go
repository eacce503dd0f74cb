package desktop

import "math"

// idleness makes times of the last input out of what a compositor tells: that there
// was no input for a while (idle), and that there is one again (resumed). Times are
// milliseconds of the clock that stops while the machine sleeps, as the
// compositor's timer does.
//
// What it gives never goes back and never lies behind the last input. At the beginning
// and at the end of a time of activity it is exact, but for how long the news took;
// in between it is timeoutMillis old at most.
type idleness struct {
	// timeoutMillis is after how long without input the compositor says idle.
	timeoutMillis int64
	// since is when it began to watch: of what was before, nothing is known.
	since int64
	idle  bool
	last  int64 // 0: no input has been seen
}

const (
	// newsMillis is how long news from the compositor may take. Two inputs that lie closer
	// together than that may count as one; a lone one does not count as two.
	newsMillis = 100
	// beginningMillis is for how long, as it begins to watch, an input may be missed: the
	// news of a silence that began then is not to look like one, however late it comes.
	beginningMillis = 1_000
)

// notYet is a moment after all others: nothing is watched yet.
const notYet = math.MaxInt64 / 2

// begin starts anew: of what was before now, only the last input stays known.
func (i *idleness) begin(now int64) { i.since = now }

// becameIdle takes the news that there was no input for timeoutMillis.
func (i *idleness) becameIdle(now int64) {
	i.reach(now - i.timeoutMillis)
	i.idle = true
}

// resumed takes the news of an input.
func (i *idleness) resumed(now int64) {
	i.last = max(i.last, now)
	i.idle = false
}

// at tells the time of the last input, as far as it is known at a moment by which all
// news has arrived.
func (i *idleness) at(now int64) int64 {
	if !i.idle {
		i.reach(now - i.timeoutMillis)
	}
	return i.last
}

// reach takes in that there was an input at or after a moment.
func (i *idleness) reach(input int64) {
	if input > max(i.last+newsMillis, i.since+beginningMillis) {
		i.last = input
	}
}
