package desktop

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/cetrus/cetrus/agent/activity"
)

// How a machine is looked at.
const (
	// A look through eyes that takes longer is not waited for; what was seen before
	// stands for so long, and then nothing is known.
	lookTimeout      = 400 * time.Millisecond
	sightValidMillis = 2_500
	// Eyes that were lost are replaced after a pause that doubles, up to the last;
	// eyes that served for so long have shown that the trouble is over.
	firstPauseMillis = 250
	lastPauseMillis  = 30_000
	settledMillis    = 60_000
	// What happens together is looked at together: focus leaves one window before it
	// reaches the next.
	calm = 15 * time.Millisecond
	// Whoever wakes the desktop has it looked at at once so many times, as fast as a
	// person changes windows; who goes on to do so gets one look in a while, at whatever
	// is there by then, and delays nobody else's.
	wakesAtOnce = 30
	wakePeriod  = 200 * time.Millisecond // a title that moves costs less
	lateLook    = 250 * time.Millisecond
	// Eyes that replace others may place an input that was told already a little elsewhere.
	sameInputMillis = 100
	// How long after a request to lock the keys that asked for it may still be coming up:
	// a later input says that somebody is there again.
	lockGraceMillis = 2_000
	// A time between two observations that is longer than this, sleep left out, was
	// not watched.
	unwatchedMillis = 15_000
)

// Why a session's sight is missing.
const (
	notOpened = "nothing looks at this session yet"
	notSeen   = "what looks at this session does not answer"
)

// machineDesktop watches all sessions of a machine: it joins the parts into
// observations.
type machineDesktop struct {
	parts
	log    *slog.Logger
	poke   chan struct{}
	later  chan struct{} // asks for a look that may wait
	looks  atomic.Uint64 // that have begun
	period time.Duration // between looks that nothing asks for

	// present are the sessions by their keys, for whoever starts programs in them.
	seatsMu sync.Mutex
	present map[string]seat

	// Only the goroutine of Watch touches what follows.
	watched map[string]*watchedSeat
	// closing are eyes that are being let go of. A helper may have to be ended for that,
	// which nobody else's session is to wait for.
	closing sync.WaitGroup
	last    moment
	// listed is the last list of sessions, and lost says why there is no newer one.
	listed []seat
	lost   string
}

func newMachineDesktop(p parts, log *slog.Logger) *machineDesktop {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &machineDesktop{
		parts: p, log: log, poke: make(chan struct{}, 1), later: make(chan struct{}, 1), period: PeriodMillis * time.Millisecond,
		watched: make(map[string]*watchedSeat),
	}
}

// watchedSeat is a session with the eyes that look at it.
type watchedSeat struct {
	seat
	wake    func()
	closing *sync.WaitGroup
	eyes    eyes // nil: none
	// left is closed when the eyes before have let go; nil: there were none.
	left chan struct{}
	// opening delivers one result; nil: none are being opened.
	opening chan opened
	giveUp  context.CancelFunc // of opening
	pause   int64              // before the next attempt
	retryAt int64              // not before, by the clock that stops in sleep
	since   int64              // when these eyes were opened, by that clock
	reason  string             // why there are none
	told    bool               // that reason was logged

	sight  Sight
	seenAt int64 // by the clock that stops in sleep; 0: never
	input  steadyInput
	// What the last observation has told in full.
	windows   []activity.Window
	processes []activity.Process
	listed    bool
}

type opened struct {
	eyes eyes
	err  error
}

// LookNow implements Desktop.
func (m *machineDesktop) LookNow() {
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// waker gives somebody who is not of the service, such as the helper of a session, a way to
// ask for a look: LookNow, until they ask too often.
func (m *machineDesktop) waker() (wake func()) {
	budget := rate.NewLimiter(rate.Every(wakePeriod), wakesAtOnce)
	var asked atomic.Uint64
	return func() {
		// What happens before the look that was asked for last has begun, that one sees.
		if next := m.looks.Load() + 1; asked.Swap(next) == next {
			return
		}
		if budget.Allow() {
			m.LookNow()
			return
		}
		select {
		case m.later <- struct{}{}:
		default:
		}
	}
}

// Sift implements Sieve.
func (m *machineDesktop) Sift(wanted func(executable, path, pkg string) bool) {
	m.parts.processes.sift(wanted)
}

// Host implements Desktop.
func (m *machineDesktop) Host() Host { return m.host }

// Watch implements Desktop.
func (m *machineDesktop) Watch(ctx context.Context, tell func(activity.Observation)) error {
	var openers sync.WaitGroup
	if m.parts.close != nil {
		defer m.parts.close()
	}
	defer openers.Wait()
	defer m.letGo()
	period := time.NewTicker(m.period)
	defer period.Stop()
	force := true
	for {
		o, err := m.observe(ctx, force, &openers)
		if err != nil {
			return err
		}
		tell(o)
		if force = m.rest(ctx, period.C); ctx.Err() != nil {
			// What is looked at last settles everything up to now.
			last, err := m.observe(context.WithoutCancel(ctx), true, nil)
			if err == nil {
				tell(last)
			}
			return nil
		}
	}
}

// rest waits until it is time for the next look; force tells whether somebody asks for it.
func (m *machineDesktop) rest(ctx context.Context, period <-chan time.Time) (force bool) {
	var late <-chan time.Time // when a look that may wait is due; nil: nobody waits for one
	for {
		select {
		case <-ctx.Done():
			return true
		case <-period:
			return false
		case <-m.poke:
			select {
			case <-ctx.Done():
			case <-time.After(calm):
			}
			return true
		case <-late:
			return true
		case <-m.later:
			if late == nil {
				late = time.After(lateLook)
			}
		}
	}
}

// letGo closes all eyes, and waits until they are.
func (m *machineDesktop) letGo() {
	for key, w := range m.watched {
		w.blind("")
		w.forgetOpening()
		delete(m.watched, key)
	}
	m.closing.Wait()
}

// observe looks at everything once. Where openers is nil, no eyes are opened.
func (m *machineDesktop) observe(ctx context.Context, force bool, openers *sync.WaitGroup) (activity.Observation, error) {
	m.looks.Add(1)
	before, err := m.clocks.now()
	if err != nil {
		return activity.Observation{}, err
	}
	m.follow(ctx, before)
	m.lookAll(ctx, before)
	// Everything in an observation holds from its moment on, so the moment comes last.
	now, err := m.clocks.now()
	if err != nil {
		return activity.Observation{}, err
	}
	if err := m.parts.processes.look(now, force); err != nil {
		return activity.Observation{}, err
	}
	o := activity.Observation{
		BootID: m.boot, BootMillis: now.bootMillis, AwakeMillis: now.awakeMillis,
		UTCMillis: now.utcMillis, ZoneOffsetSeconds: now.zoneOffsetSeconds,
	}
	if m.last.bootMillis > 0 && now.awakeMillis-m.last.awakeMillis > unwatchedMillis {
		o.BlindSinceMillis = m.last.bootMillis
	}
	m.last = now
	for _, s := range m.listed {
		w := m.watched[s.key]
		o.Sessions = append(o.Sessions, m.session(w, now))
		if openers != nil {
			m.keepOpen(ctx, w, now, openers)
		}
	}
	return o, nil
}

// follow brings the list of sessions up to date. Where the system does not give it,
// the sessions are what they were: a failed question is no log-off.
func (m *machineDesktop) follow(ctx context.Context, now moment) {
	list, err := m.seats.list()
	if err != nil {
		if reason := err.Error(); reason != m.lost {
			m.lost = reason
			m.log.WarnContext(ctx, "the list of sessions cannot be had; they are taken to be what they were", "reason", err)
		}
	} else {
		m.lost, m.listed = "", list
		present := make(map[string]seat, len(list))
		for _, s := range list {
			present[s.key] = s
		}
		m.seatsMu.Lock()
		m.present = present
		m.seatsMu.Unlock()
	}
	for key, w := range m.watched {
		if i := slices.IndexFunc(m.listed, func(s seat) bool { return s.key == key }); i < 0 {
			m.log.InfoContext(ctx, "a session has ended", "session", key)
			w.blind("")
			w.forgetOpening()
			delete(m.watched, key)
		} else {
			w.seat = m.listed[i]
		}
	}
	for _, s := range m.listed {
		if m.watched[s.key] == nil {
			m.watched[s.key] = &watchedSeat{seat: s, wake: m.waker(), closing: &m.closing, pause: firstPauseMillis, retryAt: now.awakeMillis, reason: notOpened}
		}
	}
}

// lookAll looks at all sessions at once, since any of them may be slow.
func (m *machineDesktop) lookAll(ctx context.Context, now moment) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var looking sync.WaitGroup
	for _, s := range m.listed {
		w := m.watched[s.key]
		w.takeOpened(now)
		if w.eyes != nil {
			looking.Go(func() { w.look(ctx, now) })
		}
	}
	looking.Wait()
}

// look looks at one session.
func (w *watchedSeat) look(ctx context.Context, now moment) {
	sight, err := w.eyes.look(ctx)
	switch {
	case err == nil:
		if sight.SameWindows {
			sight.Windows = w.sight.Windows
		}
		if sight.InputUnsupported == "" {
			sight.LastInputMillis = w.input.take(sight.LastInputMillis)
		}
		w.sight, w.seenAt, w.reason = sight, max(1, now.awakeMillis), ""
		if now.awakeMillis-w.since >= settledMillis {
			w.pause, w.told = firstPauseMillis, false
		}
	case ctx.Err() != nil && now.awakeMillis-max(w.seenAt, w.since) <= sightValidMillis:
		// Slow, not gone.
	case ctx.Err() != nil:
		w.blind(notSeen)
		w.retryLater(now)
	default:
		w.blind(err.Error())
		w.retryLater(now)
	}
}

// blind gives up the eyes of a session.
func (w *watchedSeat) blind(reason string) {
	if before := w.eyes; before != nil {
		left := make(chan struct{})
		w.left = left
		w.closing.Go(func() {
			defer close(left)
			before.close()
		})
	}
	w.eyes, w.reason, w.sight, w.seenAt = nil, reason, Sight{}, 0
	w.input.another()
}

// steadyInput keeps one time for one input, and time from going back, also when other
// eyes look: an input that was told before is not another one for being placed by them
// some milliseconds away.
type steadyInput struct {
	last  int64 // as it was told
	alias int64 // what the eyes call it
	fresh bool  // these eyes have not said anything yet
}

func (i *steadyInput) another() { i.fresh = true }

func (i *steadyInput) take(told int64) int64 {
	if i.fresh && told-i.last <= sameInputMillis {
		i.alias = told
	}
	i.fresh = false
	if told > i.alias {
		i.last, i.alias = max(i.last, told), told
	}
	return i.last
}

func (w *watchedSeat) retryLater(now moment) {
	w.retryAt = now.awakeMillis + w.pause
	w.pause = min(2*w.pause, lastPauseMillis)
}

// takeOpened takes over eyes that have been opened meanwhile.
func (w *watchedSeat) takeOpened(now moment) {
	select {
	case result := <-w.opening:
		w.opening = nil
		w.giveUp()
		if result.err != nil {
			w.reason = result.err.Error()
			w.retryLater(now)
			return
		}
		w.eyes, w.since = result.eyes, now.awakeMillis
	default:
	}
}

// forgetOpening lets go of eyes that are being opened, for a session that has ended.
func (w *watchedSeat) forgetOpening() {
	if w.opening == nil {
		return
	}
	w.giveUp()
	opening := w.opening
	w.closing.Go(func() {
		if result := <-opening; result.eyes != nil {
			result.eyes.close()
		}
	})
	w.opening = nil
}

// keepOpen sees to it that a session has eyes, now or after a pause.
func (m *machineDesktop) keepOpen(ctx context.Context, w *watchedSeat, now moment, openers *sync.WaitGroup) {
	if w.eyes != nil || w.opening != nil {
		return
	}
	if w.reason != "" && w.reason != notOpened && !w.told {
		w.told = true
		m.log.WarnContext(ctx, "a session cannot be looked at; what is in front there is not known", "session", w.key, "reason", w.reason)
	}
	if now.awakeMillis < w.retryAt {
		return
	}
	result := make(chan opened, 1)
	ctx, w.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	w.opening = result
	s, left, wake := w.seat, w.left, w.wake
	openers.Go(func() {
		if left != nil {
			<-left
		}
		e, err := m.open(ctx, s, wake)
		if err != nil {
			err = fmt.Errorf("session %s: %w", s.key, err)
		}
		result <- opened{e, err}
		m.LookNow()
	})
}

// isLocked tells whether nobody can work in the session. A request to lock that nobody
// tells the end of holds until the next input: the password is one too.
func (w *watchedSeat) isLocked() bool {
	asked := w.lockAskedMillis > 0 && w.seenAt > 0 && w.sight.InputUnsupported == "" &&
		w.sight.LastInputMillis <= w.lockAskedMillis+lockGraceMillis
	return w.locked || w.sight.Covered || asked
}

// maxReason bounds a reason that a helper gives, in bytes.
const maxReason = 300

// shortfalls say in words what is not known of a session, or less well.
func (w *watchedSeat) shortfalls(blind bool, ofProcesses string) []string {
	focus, idle, partly := w.sight.FocusUnsupported, w.sight.InputUnsupported, w.sight.InputShortfall
	if blind {
		focus = cmp.Or(w.reason, notSeen)
		idle, partly = focus, ""
	}
	var said []string
	for _, s := range []struct{ what, why string }{{"focus: ", focus}, {"idle: ", idle}, {"idle, partly: ", partly}, {"processes: ", ofProcesses}} {
		if s.why == "" {
			continue
		}
		if len(s.why) > maxReason {
			s.why = s.why[:maxReason] + "…"
		}
		said = append(said, s.what+strings.ToValidUTF8(s.why, ""))
	}
	return said
}

// session tells what is known of one session.
func (m *machineDesktop) session(w *watchedSeat, now moment) activity.Session {
	blind := w.seenAt == 0 || now.awakeMillis-w.seenAt > sightValidMillis
	s := activity.Session{
		Key: w.key, User: w.user, Locked: w.isLocked(), Disconnected: w.disconnected, Access: w.access,
		LastInputMillis:  min(w.sight.LastInputMillis, now.bootMillis),
		InputUnsupported: blind || w.sight.InputUnsupported != "",
		FocusUnsupported: blind || w.sight.FocusUnsupported != "",
		Shortfalls:       w.shortfalls(blind, m.parts.processes.shortfall()),
	}
	windows := w.windows
	if !blind {
		s.Foreground, windows = w.sight.Foreground, w.sight.Windows
	}
	if w.listed && slices.Equal(windows, w.windows) {
		s.SameWindows = true
	} else {
		m.parts.processes.shown(w.seat, windows)
		s.Windows = windows
	}
	s.Passed = m.parts.processes.passed(w.seat)
	running := m.parts.processes.of(w.seat)
	if w.listed && slices.Equal(running, w.processes) {
		s.SameProcesses = true
	} else {
		s.Processes = running
	}
	w.windows, w.processes, w.listed = windows, running, true
	return s
}
