package desktop

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
