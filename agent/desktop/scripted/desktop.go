package scripted

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// Config says what machine a script is played on.
type Config struct {
	// Host names the machine.
	Host desktop.Host
	// Script is what happens.
	Script Script
	// Begin is the wall clock at the beginning of the script.
	Begin time.Time
	// ZoneOffsetSeconds is the machine's zone at the beginning.
	ZoneOffsetSeconds int32
	// Booted is how long the machine has been up at the beginning.
	Booted time.Duration
	// Seed makes the ids of boots; machines that are to differ need seeds that do.
	Seed [32]byte
	// Pace is the time that the script is played in; nil: Virtual.
	Pace Pace
	// Period is the time between observations while nothing happens; 0: that of a
	// real desktop. History is played with a longer one, since an observation that
	// changes nothing costs time and adds nothing.
	Period time.Duration
	// Endless lets the machine go on after the last step; without it Watch
	// returns nil there.
	Endless bool
}

// Desktop plays a script. It implements desktop.Desktop.
type Desktop struct {
	host    desktop.Host
	pace    Pace
	period  int64
	endless bool
	now     chan struct{}

	watching sync.Mutex // Watch is called again only after it has returned
	machine  machine
	next     func() (Step, bool)
	stop     func()
	step     Step
	hasStep  bool
	// elapsed is the machine's now, for those who ask from outside.
	elapsedMu sync.Mutex
	elapsed   time.Duration
}

var _ desktop.Desktop = (*Desktop)(nil)

// New makes a machine at the beginning of its script. Close lets go of a script
// that is not played to its end.
func New(config Config) *Desktop {
	d := &Desktop{
		host:    config.Host,
		pace:    config.Pace,
		period:  config.Period.Milliseconds(),
		endless: config.Endless,
		now:     make(chan struct{}, 1),
		machine: machine{
			seed:     config.Seed,
			bootedAt: -config.Booted.Milliseconds(),
			utcAt0:   config.Begin.UnixMilli(),
			zone:     config.ZoneOffsetSeconds,
			sessions: make(map[string]*session),
		},
	}
	if d.pace == nil {
		d.pace = Virtual()
	}
	if d.period <= 0 {
		d.period = desktop.PeriodMillis
	}
	if config.Script == nil {
		config.Script = Steps()
	}
	d.next, d.stop = iter.Pull(config.Script)
	d.advance()
	return d
}

// Close lets go of the script. Watch must have returned.
func (d *Desktop) Close() { d.stop() }

// Host implements desktop.Desktop.
func (d *Desktop) Host() desktop.Host { return d.host }

// LookNow implements desktop.Desktop. In virtual time the next observation comes
// as soon as it can anyway.
func (d *Desktop) LookNow() {
	select {
	case d.now <- struct{}{}:
	default:
	}
}

// Elapsed is how far the script has been played. It may be called from anywhere.
func (d *Desktop) Elapsed() time.Duration {
	d.elapsedMu.Lock()
	defer d.elapsedMu.Unlock()
	return d.elapsed
}

// Over tells whether every step has happened. It may be called when Watch has
// returned.
func (d *Desktop) Over() bool { return !d.hasStep }

// Watch implements desktop.Desktop. It returns nil when the script is over, too.
func (d *Desktop) Watch(ctx context.Context, tell func(activity.Observation)) error {
	d.watching.Lock()
	defer d.watching.Unlock()
	d.pace.begin(d.machine.now)
	d.catchUp()
	tell(d.machine.observe(true))
	for {
		if !d.hasStep && !d.endless {
			if _, more := d.machine.nextInput(); !more && d.machine.asleepUntil == 0 {
				return nil
			}
		}
		at := d.nextMoment()
		reached := d.pace.until(ctx, at, d.now)
		if ctx.Err() != nil {
			// The last observation stands at the time that has been reached.
			d.play(min(at, max(reached, d.machine.now)))
			tell(d.machine.observe(false))
			return nil
		}
		d.play(min(at, max(reached, d.machine.now)))
		if d.machine.asleepUntil == 0 {
			tell(d.machine.observe(false))
		}
	}
}

// nextMoment is when something happens next, or is looked at again.
func (d *Desktop) nextMoment() int64 {
	m := &d.machine
	if m.asleepUntil > 0 {
		return m.asleepUntil
	}
	at := m.now + d.period
	if d.hasStep {
		at = min(at, max(m.now, d.step.At.Milliseconds()))
	}
	if input, ok := m.nextInput(); ok {
		at = min(at, max(m.now, input))
	}
	return at
}

// play moves the machine to a moment, with everything that happens until then.
func (d *Desktop) play(to int64) {
	m := &d.machine
	for {
		at, isStep := to, false
		if d.hasStep && d.step.At.Milliseconds() <= at {
			at, isStep = max(m.now, d.step.At.Milliseconds()), true
		}
		if m.asleepUntil > 0 && m.asleepUntil <= max(at, to) {
			d.wake()
			continue
		}
		if m.asleepUntil > 0 {
			m.now = to
			break
		}
		m.now = at
		m.takeInputs()
		if !isStep {
			break
		}
		name := d.step.Session
		if name == "" {
			name = MainSession
		}
		d.step.Do.apply(m, name)
		m.takeInputs()
		d.advance()
	}
	d.elapsedMu.Lock()
	d.elapsed = time.Duration(m.now) * time.Millisecond
	d.elapsedMu.Unlock()
}

// wake ends a sleep, or the time that the machine was off.
func (d *Desktop) wake() {
	m := &d.machine
	if m.asleepUntil > m.bootedAt {
		m.slept += m.asleepUntil - max(m.now, m.bootedAt)
	}
	m.now = max(m.now, m.asleepUntil)
	m.takeInputs() // those that fell into the sleep did not happen
	m.asleepUntil = 0
}

// catchUp plays what happened while nobody watched, in real time.
func (d *Desktop) catchUp() { d.play(max(d.machine.now, d.pace.reached())) }

func (d *Desktop) advance() { d.step, d.hasStep = d.next() }
