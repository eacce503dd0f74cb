package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// span is a half-open stretch of time.
type span struct{ from, to time.Time }

// spans are ordered and do not touch each other.
type spans []span

func (s spans) length() (d time.Duration) {
	for _, x := range s {
		d += x.to.Sub(x.from)
	}
	return d
}

func (s spans) intersect(other spans) (out spans) {
	for _, a := range s {
		for _, b := range other {
			from, to := a.from, a.to
			if b.from.After(from) {
				from = b.from
			}
			if b.to.Before(to) {
				to = b.to
			}
			if from.Before(to) {
				out = append(out, span{from, to})
			}
		}
	}
	return out
}

func (s spans) subtract(other spans) spans {
	out := slices.Clone(s)
	for _, b := range other {
		var rest spans
		for _, a := range out {
			if b.from.After(a.from) {
				rest = append(rest, span{a.from, earlier(a.to, b.from)})
			}
			if b.to.Before(a.to) {
				rest = append(rest, span{later(a.from, b.to), a.to})
			}
		}
		out = slices.DeleteFunc(rest, func(x span) bool { return !x.from.Before(x.to) })
	}
	return out
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// truth is what a script did, as it happened.
type truth struct {
	gap, timeout time.Duration
	inputs       []time.Time
	// front holds which program came to the front when; "" is none of ours.
	front  []focus
	runs   map[string]spans
	paused spans
	// changes counts what the script did.
	changes int
}

type focus struct {
	at      time.Time
	program string
}

func newTruth(gap, timeout time.Duration) *truth {
	return &truth{gap: gap, timeout: timeout, runs: map[string]spans{}}
}

// expectation is what a program's totals must be.
type expectation struct {
	open, busy, idle, background, paused spans
	timeouts, instances                  int64
	// undecided is how many timeouts more or fewer a second would make.
	undecided int64
}

// stretches are inputs no further apart than the gap, cut at every pause.
func (t *truth) stretches() (out spans) {
	var from, last time.Time
	flush := func() {
		if from.Before(last) {
			out = append(out, span{from, last})
		}
	}
	broken := func(a, b time.Time) bool {
		return slices.ContainsFunc(t.paused, func(p span) bool { return p.from.Before(b) && p.to.After(a) })
	}
	for i, at := range t.inputs {
		if i == 0 || at.Sub(last) > t.gap || broken(last, at) {
			flush()
			from = at
		}
		last = at
	}
	flush()
	return out
}

func (t *truth) inFront(program string, end time.Time) (out spans) {
	for i, f := range t.front {
		to := end
		if i+1 < len(t.front) {
			to = t.front[i+1].at
		}
		if f.program == program && f.at.Before(to) {
			out = append(out, span{f.at, to})
		}
	}
	return out
}

func (t *truth) expect(program string, end time.Time) expectation {
	var e expectation
	front := t.inFront(program, end)
	for _, run := range t.runs[program] {
		open := spans{run}
		watched := open.subtract(t.paused)
		shown := watched.intersect(front)
		busy := shown.intersect(t.stretches())
		e.instances++
		e.open = append(e.open, run)
		e.paused = append(e.paused, open.intersect(t.paused)...)
		e.busy = append(e.busy, busy...)
		e.idle = append(e.idle, shown.subtract(busy)...)
		e.background = append(e.background, watched.subtract(shown)...)
		timeouts, undecided := t.timeouts(run, busy, shown)
		e.timeouts += timeouts
		e.undecided += undecided
	}
	return e
}

// timeouts counts how often the time since the last busy moment, or since the
// opening, reached the timeout; paused time does not count. A lone input in front
// is a busy moment of no length.
func (t *truth) timeouts(run span, busy, shown spans) (n, undecided int64) {
	moments := spans{{run.from, run.from}}
	moments = append(moments, busy...)
	for _, at := range t.inputs {
		if slices.ContainsFunc(shown, func(s span) bool { return !at.Before(s.from) && at.Before(s.to) }) {
			moments = append(moments, span{at, at})
		}
	}
	slices.SortFunc(moments, func(a, b span) int { return cmp.Compare(a.from.UnixNano(), b.from.UnixNano()) })
	since := run.from
	judge := func(until time.Time) {
		if !since.Before(until) {
			return
		}
		counted := (spans{{since, until}}).subtract(t.paused).length()
		if counted >= t.timeout {
			n++
		}
		if (counted - t.timeout).Abs() < time.Second {
			undecided++
		}
	}
	for _, m := range moments {
		judge(m.from)
		since = later(since, m.to)
	}
	judge(run.to)
	return n, undecided
}

// margin is how far from the activity gap a script keeps every gap between its inputs.
const margin = 1900 * time.Millisecond

// check tells whether a script keeps clear of the borders on which a second more
// or less would change a figure by more than a second.
func (t *truth) check() error {
	for i := 1; i < len(t.inputs); i++ {
		d := t.inputs[i].Sub(t.inputs[i-1])
		if d > t.gap-margin && d < t.gap+margin {
			return fmt.Errorf("inputs %d and %d are %v apart, too near the activity gap %v", i-1, i, d, t.gap)
		}
	}
	return nil
}
