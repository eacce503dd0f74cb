package desktop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/proto/contract"
)

// ErrNoDisplay says that there is no desktop to watch.
var ErrNoDisplay = errors.New("desktop: no display: set DISPLAY, or name one (such as :0) in the agent's configuration")

// Open gives the X11 desktop of this machine. The X server need not run yet: it
// is waited for.
func Open(config Config) (Desktop, error) {
	config.Display = cmp.Or(config.Display, os.Getenv("DISPLAY"))
	if config.Display == "" {
		return nil, ErrNoDisplay
	}
	if _, err := parseDisplay(config.Display); err != nil {
		return nil, err
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	boot, err := readBootID()
	if err != nil {
		return nil, err
	}
	uid := uint32(os.Getuid())
	return &x11Desktop{
		config:    config,
		boot:      boot,
		user:      lookUpUser(uid),
		clocks:    newClocks(),
		processes: newProcessTable("/proc", uid, config.Display),
		logind:    newLogind(config.SystemBus, config.Display, uid, config.Log),
		saver:     newSaver(config.SessionBus, uid),
		now:       make(chan struct{}, 1),
		openPIDFD: openPIDFD, period: PeriodMillis * time.Millisecond,
	}, nil
}

// How an X11 desktop is looked at.
const (
	// Every so many looks the list of windows is read again, in case an event was
	// missed.
	fullLookEvery = 15
	// Processes come and go without an event. What the events of windows bring in
	// between does not ask for another look at all of them.
	processPeriodMillis = PeriodMillis * 9 / 10
	// What happens together is looked at together: a window manager that moves the
	// focus first takes it away.
	settle = 5 * time.Millisecond
	// A program closes its connection before it exits; after a window went, its
	// process is looked for at these moments, where the kernel does not tell exits.
	firstExitLook  = 50 * time.Millisecond
	secondExitLook = 300 * time.Millisecond
	// How long a display without a server is left alone.
	firstReconnect = 250 * time.Millisecond
	lastReconnect  = 5 * time.Second
	// A time between two observations that is longer than this, sleep left out,
	// was not watched: the server did not answer, or the agent was stopped.
	blindAfterMillis = 15_000
)

// x11Desktop watches one display, and the processes of its user.
type x11Desktop struct {
	config    Config
	boot      contract.ID
	user      activity.User
	clocks    *clocks
	processes *processTable
	logind    *logind
	saver     *saver
	now       chan struct{}
	openPIDFD func(pid int32) (fd int, err error)
	period    time.Duration // between looks that nothing asks for

	// Only the goroutine of Watch touches what follows.
	x      *x11   // nil: no connection
	server server // of the last connection
	exits  *exitWatch
	looks  int
	// exitLooks are still to come for the process of a window that went.
	exitLooks int
	input     lastInput
	sleep     sleepMeter
	lastRun   clockReading
	// processesSeen is when the processes were last looked at, on the clock that
	// stops in sleep.
	processesSeen int64
	// What the last observation of the session has told in full.
	windowsTold   bool
	processesTold bool
}

// server identifies one run of an X server.
type server struct {
	key   string // of the desktop session; empty: none yet
	pid   int32  // 0: not known
	start int64
}

func (d *x11Desktop) LookNow() {
	select {
	case d.now <- struct{}{}:
	default:
	}
}

// Host implements Desktop.
func (d *x11Desktop) Host() Host { return host() }

// Watch implements Desktop.
func (d *x11Desktop) Watch(ctx context.Context, tell func(activity.Observation)) error {
	var helpers sync.WaitGroup
	defer helpers.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	helpers.Go(func() { d.logind.run(ctx) })
	helpers.Go(func() { d.saver.run(ctx) })
	d.exits = newExitWatch(d.openPIDFD)
	defer d.exits.close()
	if !d.exits.tells() {
		d.config.Log.InfoContext(ctx, "this kernel does not tell when a process ends; it is looked for once a second")
	}
	defer d.disconnect()

	period := time.NewTicker(d.period)
	defer period.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	connect := newConnector(d)
	for {
		connect.try(ctx)
		observation, next, err := d.observe(ctx)
		if err != nil {
			return err
		}
		tell(observation)
		if next > 0 {
			again.Reset(next)
		}
		if !d.wait(ctx, period.C, again.C) {
			if last, _, err := d.observe(ctx); err == nil {
				tell(last)
			}
			return nil
		}
	}
}

// wait sleeps until there is a reason to look; false when ctx has ended.
func (d *x11Desktop) wait(ctx context.Context, period, again <-chan time.Time) bool {
	var wake, gone <-chan struct{}
	if d.x != nil {
		wake, gone = d.x.wake, d.x.done
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
		select {
		case <-ctx.Done():
			return false
		case <-time.After(settle):
		}
	case <-period:
	case <-gone:
	case <-again:
	case <-d.exits.wake:
	case <-d.logind.wake:
	case <-d.saver.wake:
	case <-d.now:
	}
	return true
}

// connector connects to the display's server, patiently.
type connector struct {
	desktop *x11Desktop
	pause   time.Duration
	at      time.Time
	told    bool
}

func newConnector(d *x11Desktop) *connector { return &connector{desktop: d, pause: firstReconnect} }

func (c *connector) try(ctx context.Context) {
	d := c.desktop
	if d.x != nil || time.Now().Before(c.at) {
		return
	}
	if err := d.connect(); err != nil {
		if !c.told {
			d.config.Log.WarnContext(ctx, "no desktop yet; waiting for its X server", "display", d.config.Display, "reason", err)
			c.told = true
		}
		c.at = time.Now().Add(c.pause)
		c.pause = min(2*c.pause, lastReconnect)
		return
	}
	d.config.Log.InfoContext(ctx, "watching the desktop", "display", d.config.Display, "window_manager", d.x.manager != 0)
	*c = *newConnector(d)
}

func (d *x11Desktop) connect() error {
	x, err := openX(d.config.Display, d.config.Authority)
	if err != nil {
		return err
	}
	x.findManager()
	d.x = x
	d.windowsTold, d.processesTold = false, false
	if found := d.identify(x.raw); found != d.server {
		d.server, d.input = found, lastInput{}
	}
	return nil
}

// identify finds out which run of the server a connection leads to.
func (d *x11Desktop) identify(conn *greetedConn) server {
	s := server{pid: conn.peer()}
	if stat, err := d.processes.stat(s.pid); s.pid > 0 && err == nil {
		s.start = stat.startMillis
	} else {
		s.pid, s.start = 0, awakeMillis() // each connection counts as a session of its own
	}
	s.key = fmt.Sprintf("x11%s@%d", displayNumber(d.config.Display), s.start)
	return s
}

// serverAlive tells whether the server of the last connection still runs,
// though it may not answer.
func (d *x11Desktop) serverAlive() bool {
	if d.server.pid == 0 {
		return false
	}
	stat, err := d.processes.stat(d.server.pid)
	return err == nil && !stat.gone && stat.startMillis == d.server.start
}

func (d *x11Desktop) disconnect() {
	if d.x != nil {
		d.x.close()
		d.x = nil
	}
}

// observe looks at everything once. next, where greater than zero, is when to
// look again though nothing may have happened.
func (d *x11Desktop) observe(ctx context.Context) (o activity.Observation, next time.Duration, err error) {
	var screen x11Screen
	if d.x != nil {
		d.looks++
		if screen, err = d.x.look(d.looks%fullLookEvery == 0); err != nil {
			d.config.Log.WarnContext(ctx, "the desktop has gone, or does not answer", "display", d.config.Display, "reason", err)
			d.disconnect()
		}
	}
	facts := d.logind.current()
	d.ownedBy(facts)
	reading, err := d.clocks.read()
	if err != nil {
		return o, 0, err
	}
	o = activity.Observation{
		BootID:            d.boot,
		BootMillis:        reading.bootMillis,
		AwakeMillis:       reading.awakeMillis,
		UTCMillis:         reading.utcMillis,
		ZoneOffsetSeconds: reading.zoneOffsetSeconds,
	}
	if d.lastRun.bootMillis > 0 && reading.awakeMillis-d.lastRun.awakeMillis > blindAfterMillis {
		o.BlindSinceMillis = d.lastRun.bootMillis
	}
	d.sleep.note(d.lastRun, reading)
	d.lastRun = reading
	if d.x == nil && !d.serverAlive() {
		return o, 0, nil // no server, no session
	}
	processesChanged, err := d.lookAtProcesses(screen, reading)
	if err != nil {
		return o, 0, err
	}
	input, inputKnown := d.input.take(screen.input, d.sleep)
	s := activity.Session{
		Key:              d.server.key,
		User:             d.user,
		LastInputMillis:  input,
		InputUnsupported: !inputKnown,
		FocusUnsupported: !screen.focusKnown,
		Locked:           facts.lockedGiven(input, inputKnown) || d.saver.covers(),
		Disconnected:     !facts.active,
		Foreground:       uint64(screen.foreground),
		SameWindows:      d.windowsTold && !screen.windowsChanged,
		SameProcesses:    d.processesTold && !processesChanged,
	}
	if !s.SameWindows && d.x != nil {
		s.Windows, d.windowsTold = d.x.list(), true
	}
	if !s.SameProcesses {
		s.Processes, d.processesTold = d.processes.list(), true
	}
	o.Sessions = []activity.Session{s}
	return o, d.nextLook(screen.windowsGone), nil
}

// lookAtProcesses brings the processes up to date; it tells whether any of ours
// came, went, or became another program.
func (d *x11Desktop) lookAtProcesses(screen x11Screen, reading clockReading) (changed bool, err error) {
	ended := d.exits.take()
	for _, pid := range ended {
		d.exits.remove(pid)
		changed = d.processes.end(pid) || changed
	}
	exiting := !d.exits.tells() && (screen.windowsGone || d.exitLooks > 0)
	if exiting || screen.windowsChanged || !d.processesTold || reading.awakeMillis-d.processesSeen >= processPeriodMillis {
		d.processesSeen = reading.awakeMillis
		looked, err := d.processes.look(reading.bootMillis, exiting)
		if err != nil {
			return false, err
		}
		changed = looked || changed
	}
	if screen.windowsChanged && d.x != nil {
		for _, w := range d.x.windows {
			changed = w.pid != 0 && d.processes.windowOf(w.pid) || changed
		}
	}
	if changed || len(ended) > 0 || !d.processesTold {
		d.processes.watch(d.exits)
	}
	return changed, nil
}

// nextLook plans the looks for the process of a window that went.
func (d *x11Desktop) nextLook(windowsGone bool) time.Duration {
	if d.exits.tells() {
		return 0
	}
	if windowsGone {
		d.exitLooks = 2
		return firstExitLook
	}
	if d.exitLooks > 0 {
		d.exitLooks--
	}
	if d.exitLooks > 0 {
		return secondExitLook
	}
	return 0
}

// ownedBy takes over whom the session belongs to, where the agent runs as root
// and logind knows better.
func (d *x11Desktop) ownedBy(f sessionFacts) {
	if !f.owned || f.owner == d.processes.uid {
		return
	}
	d.processes = newProcessTable(d.processes.root, f.owner, d.config.Display)
	d.user = lookUpUser(f.owner)
	d.windowsTold, d.processesTold = false, false
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
func (m *sleepMeter) note(last, now clockReading) {
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
