package desktop

import "github.com/cetrus/cetrus/agent/activity"

// inputReading is one answer to "how long ago was the last input": the answer
// was made at a moment between question and receipt, so the input lies between
// two bounds, in milliseconds of the clock that stops while the machine sleeps
// (the X server measures idle time by that clock).
type inputReading struct {
	known            bool
	earliest, latest int64
}

// lastInput makes one steady time out of readings that jitter: as long as the
// readings can be of the same input, they are, so that a lone input stays a lone
// input however often it is asked about.
type lastInput struct {
	bounds inputReading
	boot   int64 // the input on the boot timeline
}

// jitterMillis is how far two readings of one input may lie apart beyond their
// bounds: both clocks round down to milliseconds.
const jitterMillis = 2

// take accepts a reading and returns the time of the last input on the boot
// timeline, which never goes back.
func (l *lastInput) take(r inputReading, sleep sleepMeter) (bootMillis int64, known bool) {
	if !r.known {
		return l.boot, false
	}
	if l.bounds.known && r.earliest <= l.bounds.latest+jitterMillis {
		earliest, latest := max(r.earliest, l.bounds.earliest), min(r.latest, l.bounds.latest)
		if earliest <= latest {
			l.bounds.earliest, l.bounds.latest = earliest, latest
		}
		return l.boot, true
	}
	l.bounds = r
	// Where it cannot be told whether the machine slept before or after the input,
	// it was before: sleep is not work.
	l.boot = max(l.boot, max(0, r.earliest)+sleep.sleptBy(r.earliest))
	return l.boot, true
}

// sleepMeter follows how long the machine has slept, to place times of the clock
// that stops in sleep on the boot timeline.
type sleepMeter struct {
	slept  int64 // since boot
	before int64 // before the last sleep
	// wentAt is the latest moment, on the clock that stops, that is known to lie
	// before the last sleep.
	wentAt int64
}

// note compares two readings of the clocks.
func (m *sleepMeter) note(last, now moment) {
	slept := now.asleepMillis()
	switch {
	case last.bootMillis == 0:
		*m = sleepMeter{slept: slept, before: slept}
	case slept-m.slept >= activity.SleepFloor:
		m.before, m.wentAt, m.slept = m.slept, last.awakeMillis, slept
	}
}

// sleptBy is how long the machine had slept, since it booted, by a moment of the
// clock that stops in sleep.
func (m *sleepMeter) sleptBy(awake int64) int64 {
	if awake <= m.wentAt {
		return m.before
	}
	return m.slept
}
