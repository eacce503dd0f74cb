package desktop

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/proto/contract"
)

// fakeMachine behaves as systems document it: sessions come and go, helpers start,
// hang and die. Its clock is the bubble's.
type fakeMachine struct {
	began time.Time

	mu        sync.Mutex
	sessions  []terminalSession
	listErr   error
	slept     time.Duration
	helpers   map[uint32]*fakeHelper
	starts    map[uint32][]time.Duration // since began
	startErr  error
	startTime time.Duration
	running   []activity.Process
	// lockAsked is seat.lockAskedMillis, and inputMoved where new helpers place the input.
	lockAsked, inputMoved int64
}

// fakeHelper is the eyes of one session.
type fakeHelper struct {
	machine *fakeMachine
	wake    func()
	dead    bool
	hangs   bool
	sight   Sight
	closed  bool
}

func (f *fakeMachine) now() (moment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	awake := time.Since(f.began).Milliseconds() + 1000
	return moment{bootMillis: awake + f.slept.Milliseconds(), awakeMillis: awake, utcMillis: 1_700_000_000_000 + awake}, nil
}

func (f *fakeMachine) list() ([]seat, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var seats []seat
	for _, t := range f.sessions {
		if s, ok := seatOf(t); ok {
			s.lockAskedMillis = f.lockAsked
			seats = append(seats, s)
		}
	}
	return seats, f.listErr
}

func (f *fakeMachine) open(ctx context.Context, s seat, wake func()) (eyes, error) {
	f.mu.Lock()
	f.starts[s.number] = append(f.starts[s.number], time.Since(f.began))
	startErr, wait, moved := f.startErr, f.startTime, f.inputMoved
	f.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if startErr != nil {
		return nil, startErr
	}
	h := &fakeHelper{machine: f, wake: wake, sight: Sight{
		LastInputMillis: 500 + moved, Foreground: 7, Windows: []activity.Window{{ID: 7, PID: 70, Title: "a letter"}},
	}}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.helpers[s.number] = h
	return h, nil
}

func (h *fakeHelper) look(ctx context.Context) (Sight, error) {
	h.machine.mu.Lock()
	dead, hangs, sight := h.dead, h.hangs, h.sight
	h.machine.mu.Unlock()
	if dead {
		return Sight{}, errors.New("the helper has died")
	}
	if hangs {
		<-ctx.Done()
		return Sight{}, ctx.Err()
	}
	sight.Windows = slices.Clone(sight.Windows)
	return sight, nil
}

func (h *fakeHelper) close() {
	h.machine.mu.Lock()
	hangs := h.hangs
	h.machine.mu.Unlock()
	if hangs { // it has to be ended
		time.Sleep(2 * time.Second) //nolint:forbidigo // Virtual time: it passes when everybody waits.
	}
	h.machine.mu.Lock()
	defer h.machine.mu.Unlock()
	h.closed = true
}

// change does something to a helper and wakes the service.
func (h *fakeHelper) change(what func(*fakeHelper)) {
	h.machine.mu.Lock()
	what(h)
	h.machine.mu.Unlock()
	h.wake()
}

type fakeProcesses struct{ machine *fakeMachine }

func (fakeProcesses) look(moment, bool) error        { return nil }
func (p fakeProcesses) of(seat) []activity.Process   { return p.machine.running }
func (fakeProcesses) shown(seat, []activity.Window)  {}
func (fakeProcesses) passed(seat) []activity.Process { return nil }
func (fakeProcesses) sift(sieve)                     {}
func (fakeProcesses) shortfall() string              { return "" }

// watching runs a machine desktop over a fake in virtual time.
type watching struct {
	*fakeMachine
	t    *testing.T
	mu   sync.Mutex
	last activity.Observation
	told []activity.Observation
}

func person(number uint32, name string) terminalSession {
	return terminalSession{number: number, state: terminalActive, user: activity.User{Name: name}, logonFileTime: int64(number), lock: terminalUnlocked}
}

func watchFake(t *testing.T, body func(w *watching), sessions ...terminalSession) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeMachine{
			began: time.Now(), sessions: sessions, helpers: make(map[uint32]*fakeHelper), starts: make(map[uint32][]time.Duration),
			running: []activity.Process{{PID: 70, StartMillis: 100, Executable: "writer.exe"}},
		}
		w := &watching{fakeMachine: f, t: t}
		m := newMachineDesktop(parts{boot: contract.ID{1}, clocks: f, seats: f, processes: fakeProcesses{f}, open: f.open}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Watch(ctx, w.take) }()
		body(w)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch: %v", err)
		}
		w.set(func(f *fakeMachine) {
			for number, h := range f.helpers {
				if !h.closed {
					t.Errorf("the helper of session %d is not let go of", number)
				}
			}
		})
		told := w.since(0)
		for i := 1; i < len(told); i++ {
			if gap := told[i].AwakeMillis - told[i-1].AwakeMillis; gap < 0 || gap > PeriodMillis+lookTimeout.Milliseconds() {
				t.Errorf("observation %d came %d ms after the one before", i, gap)
			}
		}
	})
}

func (w *watching) take(o activity.Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o.Sessions = slices.Clone(o.Sessions)
	for i := range o.Sessions {
		s := &o.Sessions[i]
		for _, before := range w.last.Sessions {
			if before.Key == s.Key && s.SameWindows {
				s.Windows = before.Windows
			}
			if before.Key == s.Key && s.SameProcesses {
				s.Processes = before.Processes
			}
		}
	}
	w.last, w.told = o, append(w.told, o)
}

// after lets time pass and gives the session of a person as last told.
func (w *watching) after(d time.Duration, name string) (s activity.Session, there bool) {
	w.t.Helper()
	time.Sleep(d) //nolint:forbidigo // Virtual time: it passes when everybody waits.
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.last.Sessions, func(s activity.Session) bool { return s.User.Name == name })
	if i < 0 {
		return s, false
	}
	return w.last.Sessions[i], true
}

// since gives the observations from one on.
func (w *watching) since(n int) []activity.Observation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told[n:])
}

func (w *watching) observed() activity.Observation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// helper is what looks at a session now.
func (w *watching) helper(number uint32) (h *fakeHelper) {
	w.set(func(f *fakeMachine) { h = f.helpers[number] })
	return h
}

func (w *watching) isClosed(h *fakeHelper) (closed bool) {
	w.set(func(*fakeMachine) { closed = h.closed })
	return closed
}

// startsOf is when a session's helpers were started.
func (w *watching) startsOf(number uint32) (starts []time.Duration) {
	w.set(func(f *fakeMachine) { starts = slices.Clone(f.starts[number]) })
	return starts
}

func (w *watching) set(what func(*fakeMachine)) {
	w.fakeMachine.mu.Lock()
	defer w.fakeMachine.mu.Unlock()
	what(w.fakeMachine)
}

func (w *watching) sees(d time.Duration, name string) activity.Session {
	w.t.Helper()
	s, there := w.after(d, name)
	if !there || s.FocusUnsupported || s.InputUnsupported || len(s.Shortfalls) > 0 || s.Foreground != 7 || len(s.Windows) != 1 || len(s.Processes) != 1 {
		w.t.Errorf("the session of %s is not seen: %+v (there: %v)", name, s, there)
	}
	return s
}

func (w *watching) blind(d time.Duration, name string) activity.Session {
	w.t.Helper()
	s, there := w.after(d, name)
	if !there || !s.FocusUnsupported || !s.InputUnsupported || s.Foreground != 0 {
		w.t.Errorf("the session of %s is told though nobody sees it: %+v (there: %v)", name, s, there)
	}
	if len(s.Shortfalls) != 2 || !strings.HasPrefix(s.Shortfalls[0], "focus: ") || !strings.HasPrefix(s.Shortfalls[1], "idle: ") {
		w.t.Errorf("that nobody sees the session of %s is said as %q", name, s.Shortfalls)
	}
	return s
}

func TestSessionsOfServicesAndOfNobodyAreNone(t *testing.T) {
	t.Parallel()
	service := person(0, "SYSTEM")
	nobody := terminalSession{number: 2, state: terminalConnected}
	listener := terminalSession{number: 65536, state: terminalListen}
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "ann")
		if len(w.observed().Sessions) != 1 || len(w.startsOf(1)) != 1 {
			w.t.Errorf("%d sessions are told, %d helpers started; there is one person", len(w.observed().Sessions), len(w.startsOf(1)))
		}
	}, service, nobody, listener, person(1, "ann"))
}

func TestEverySessionHasItsOwnEyes(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "ann")
		w.sees(0, "bob")
		w.helper(1).change(func(h *fakeHelper) { h.sight.Foreground = 0 })
		if s, _ := w.after(calm+time.Millisecond, "ann"); s.Foreground != 0 || s.FocusUnsupported {
			w.t.Errorf("no foreground is a fact: %+v", s)
		}
		w.sees(0, "bob")
		// A hung helper of one does not hold up the other, and is replaced.
		hung := w.helper(1)
		w.set(func(*fakeMachine) { hung.hangs = true })
		from := len(w.since(0))
		w.sees(sightValidMillis*time.Millisecond+3*time.Second, "ann")
		blind := 0
		for _, o := range w.since(from) {
			if o.Sessions[0].FocusUnsupported {
				blind++
			}
			if o.Sessions[1].FocusUnsupported {
				w.t.Error("a hung helper of ann makes bob unseen")
			}
		}
		if blind == 0 || !w.isClosed(hung) || len(w.startsOf(1)) != 2 {
			w.t.Errorf("%d observations without focus, closed: %v, %d helpers", blind, w.isClosed(hung), len(w.startsOf(1)))
		}
	}, person(1, "ann"), person(2, "bob"))
}

// Eyes that wake without end have the machine looked at a few times a second, at what is
// there by then, and nobody else's changes are seen later for it.
func TestEyesThatWakeWithoutEndAreLookedAtNowAndThen(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "bob")
		from := len(w.since(0))
		ann := w.helper(1)
		wake := func(d time.Duration) {
			for began := time.Now(); time.Since(began) < d; {
				ann.wake()
				time.Sleep(time.Millisecond) //nolint:forbidigo // Virtual time: it passes when everybody waits.
			}
		}
		wake(5 * time.Second)
		w.helper(2).change(func(h *fakeHelper) { h.sight.Foreground = 0 })
		wake(calm + time.Millisecond)
		if s, _ := w.after(0, "bob"); s.Foreground != 0 {
			w.t.Error("bob's change waits for ann's")
		}
		wake(5 * time.Second)
		ann.change(func(h *fakeHelper) { h.sight.Foreground = 0 })
		if s, _ := w.after(lateLook+time.Millisecond, "ann"); s.Foreground != 0 {
			w.t.Error("what ann's eyes see last is not looked at")
		}
		if n := len(w.since(from)); n > 130 {
			w.t.Errorf("%d observations in ten seconds", n)
		}
		// Who has been calm is looked at at once again.
		w.after(wakesAtOnce*wakePeriod, "ann")
		ann.change(func(h *fakeHelper) { h.sight.Foreground = 7 })
		if s, _ := w.after(calm+time.Millisecond, "ann"); s.Foreground != 7 {
			w.t.Error("after a while of calm, a change is seen late")
		}
	}, person(1, "ann"), person(2, "bob"))
}

func TestLockSwitchAndLogOff(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		first := w.sees(2*time.Second, "ann")
		w.set(func(f *fakeMachine) { f.sessions[0].lock = terminalLocked })
		if s, _ := w.after(time.Second, "ann"); !s.Locked || s.Disconnected {
			w.t.Errorf("locked: %+v", s)
		}
		// Fast user switching: the console goes to another session.
		w.set(func(f *fakeMachine) {
			f.sessions[0].state = terminalDisconnected
			f.sessions = append(f.sessions, person(2, "bob"))
		})
		w.sees(2*time.Second, "bob")
		if s, _ := w.after(0, "ann"); !s.Disconnected || s.Key != first.Key {
			w.t.Errorf("switched away: %+v", s)
		}
		w.set(func(f *fakeMachine) { f.sessions[0].state, f.sessions[0].lock = terminalActive, terminalUnlocked })
		if s := w.sees(time.Second, "ann"); s.Locked || s.Disconnected {
			w.t.Errorf("back: %+v", s)
		}
		gone := w.helper(2)
		w.set(func(f *fakeMachine) { f.sessions = f.sessions[:1] })
		if _, there := w.after(time.Second, "bob"); there || !w.isClosed(gone) {
			w.t.Error("a session that was logged off goes on")
		}
		// The number is used again for another log-on, which is another session.
		w.set(func(f *fakeMachine) { f.sessions[0].logonFileTime++ })
		if s := w.sees(2*time.Second, "ann"); s.Key == first.Key {
			w.t.Errorf("a new log-on is the same session %q", s.Key)
		}
	}, person(1, "ann"))
}

func TestADeadHelperIsReplacedEverMorePatiently(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "ann")
		w.helper(1).change(func(h *fakeHelper) { h.dead = true })
		w.blind(calm+time.Millisecond, "ann")
		w.sees(2*time.Second, "ann")
		// One that cannot be started at all.
		w.helper(1).change(func(h *fakeHelper) { h.dead = true })
		w.set(func(f *fakeMachine) { f.startErr, f.starts = errors.New("no such file"), map[uint32][]time.Duration{} })
		s := w.blind(10*time.Minute, "ann")
		if len(s.Processes) != 1 || s.Locked {
			w.t.Errorf("what the service sees itself is still told: %+v", s)
		}
		starts := w.startsOf(1)
		if len(starts) < 18 || len(starts) > 40 {
			w.t.Errorf("%d attempts in ten minutes", len(starts))
		}
		for i := 2; i < len(starts); i++ {
			if cmp.Compare(starts[i]-starts[i-1], starts[i-1]-starts[i-2]) < 0 && starts[i]-starts[i-1] < 25*time.Second {
				w.t.Errorf("attempt %d came sooner than the one before: %v", i, starts)
			}
		}
		w.set(func(f *fakeMachine) { f.startErr = nil })
		w.sees(31*time.Second, "ann")
	}, person(1, "ann"))
}

// A person can stop a helper that is theirs: whatever it then takes to end it, the others
// are watched meanwhile, and a stop takes no longer for many than for one.
func TestHelpersThatHaveToBeEndedHoldNobodyUp(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "bob")
		for _, ann := range []uint32{1, 3} {
			w.helper(ann).change(func(h *fakeHelper) { h.hangs = true })
		}
		w.blind(3600*time.Millisecond, "ann")
		w.sees(time.Millisecond, "bob")
		w.sees(4*time.Second, "ann")
		w.set(func(f *fakeMachine) {
			for _, h := range f.helpers {
				h.hangs = true
			}
		})
		end := time.Now()
		w.t.Cleanup(func() {
			if took := time.Since(end); took > 3*time.Second {
				w.t.Errorf("the stop took %v", took)
			}
		})
	}, person(1, "ann"), person(2, "bob"), person(3, "ann"))
}

func TestALogOffWhileAHelperStarts(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.set(func(f *fakeMachine) { f.startTime = 10 * time.Second })
		w.set(func(f *fakeMachine) { f.sessions = append(f.sessions, person(2, "bob")) })
		w.blind(2*time.Second, "bob")
		w.set(func(f *fakeMachine) { f.sessions = f.sessions[:1] })
		if _, there := w.after(time.Second, "bob"); there {
			w.t.Error("bob is still there")
		}
	}, person(1, "ann"))
}

func TestAFailedQuestionIsNoLogOff(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "ann")
		w.set(func(f *fakeMachine) { f.listErr = errors.New("the RPC server is unavailable") })
		w.sees(5*time.Second, "ann")
	}, person(1, "ann"))
}

func TestSleepMovesTheBootTimelineOnly(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "ann")
		before := w.observed()
		w.set(func(f *fakeMachine) { f.slept = time.Hour })
		w.sees(time.Second, "ann")
		if boot, awake, blind := w.observed().BootMillis-before.BootMillis, w.observed().AwakeMillis-before.AwakeMillis, w.observed().BlindSinceMillis; boot-awake != time.Hour.Milliseconds() || blind != 0 {
			w.t.Errorf("an hour of sleep: boot %d, awake %d, blind since %d", boot, awake, blind)
		}
	}, person(1, "ann"))
}

// A request to lock holds until somebody is there again, as nobody tells its end.
func TestALockRequestHoldsUntilTheNextInput(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		w.sees(2*time.Second, "ann")
		asked := w.observed().BootMillis
		w.set(func(f *fakeMachine) { f.lockAsked = asked })
		for _, c := range []struct {
			input  int64
			locked bool
		}{{asked - 100, true}, {asked + lockGraceMillis, true}, {asked + lockGraceMillis + 1, false}} {
			w.helper(1).change(func(h *fakeHelper) { h.sight.LastInputMillis = c.input })
			if s, _ := w.after(3*time.Second, "ann"); s.Locked != c.locked {
				w.t.Errorf("an input %d ms after a request to lock: locked %v", c.input-asked, s.Locked)
			}
		}
		w.helper(1).change(func(h *fakeHelper) { h.sight.Covered = true })
		if s, _ := w.after(time.Second, "ann"); !s.Locked {
			w.t.Error("a lock screen that covers the session is no lock")
		}
	}, person(1, "ann"))
}

// Other eyes may place an input that was told a little elsewhere: it is the same one.
func TestOtherEyesTellNoOtherInput(t *testing.T) {
	t.Parallel()
	watchFake(t, func(w *watching) {
		before := w.sees(2*time.Second, "ann").LastInputMillis
		for _, moved := range []int64{3, -4, sameInputMillis} {
			w.helper(1).change(func(h *fakeHelper) { h.dead = true })
			w.set(func(f *fakeMachine) { f.inputMoved = moved })
			if s := w.sees(40*time.Second, "ann"); s.LastInputMillis != before {
				w.t.Errorf("an input moved from %d to %d, for other eyes", before, s.LastInputMillis)
			}
		}
		w.helper(1).change(func(h *fakeHelper) { h.sight.LastInputMillis = before + 5_000 })
		if s := w.sees(time.Second, "ann"); s.LastInputMillis != before+5_000 {
			w.t.Errorf("a new input is told as %d, was %d", s.LastInputMillis, before+5_000)
		}
	}, person(1, "ann"))
}
