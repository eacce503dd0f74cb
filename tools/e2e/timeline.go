package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

const (
	// sessionGap is the activity gap of these scripts.
	sessionGap = 3 * time.Second
	// slack is how much nearer to the gap, or farther from it, two inputs may seem to the
	// agent: a Wayland compositor tells idleness 250 ms late, and its news take a while.
	slack = 600 * time.Millisecond
	// promised is how far the report of a transition may be from the truth.
	promised = time.Second
	// glance is the shortest time for which something is so that must be told.
	glance = 3 * time.Second
	// keyPause is between two keys, where pressing them takes no time.
	keyPause = 400 * time.Millisecond
	// judgeEvery is how often truth and report are compared.
	judgeEvery = 20 // ms
)

// when is the stretch in which something took effect, in milliseconds on the boot timeline:
// a script knows when it began to do it, and when it was done, however slow the machine.
type when struct{ from, to int64 }

func bootMillis() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano() / int64(time.Millisecond)
}

// wallAhead is how far the wall clock is ahead of the boot timeline, in milliseconds.
func wallAhead() int64 {
	boot := bootMillis()
	return time.Now().UnixMilli() - boot
}

// pulse measures how late this machine runs what is due. News of what a person does pass
// several processes, each of which waits for a processor as this one does.
type pulse struct {
	stop    chan struct{}
	beating sync.WaitGroup

	mu   sync.Mutex
	late []beat
}

// beat is one that came late.
type beat struct{ at, late int64 }

const (
	pulsePeriod = 20 * time.Millisecond
	// hops is how many processes stand between a program and the agent's clock, at most.
	hops = 4
	// around is how long before and after a moment lateness still delays its news.
	around = 2000 // ms
)

func startPulse(t *testing.T) *pulse {
	p := &pulse{stop: make(chan struct{})}
	p.beating.Go(func() {
		tick := time.NewTicker(pulsePeriod)
		defer tick.Stop()
		for last := bootMillis(); ; {
			select {
			case <-p.stop:
				return
			case <-tick.C:
			}
			now := bootMillis()
			if late := now - last - pulsePeriod.Milliseconds(); late > pulsePeriod.Milliseconds() {
				p.mu.Lock()
				p.late = append(p.late, beat{now, late})
				p.mu.Unlock()
			}
			last = now
		}
	})
	t.Cleanup(func() {
		close(p.stop)
		p.beating.Wait()
	})
	return p
}

// allowed is how far from the truth a transition may be told that happened at some time.
func (p *pulse) allowed(at when) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var worst int64
	for _, b := range p.late {
		if b.at >= at.from-around && b.at-b.late <= at.to+around {
			worst = max(worst, b.late)
		}
	}
	return promised.Milliseconds() + hops*worst
}

// hands are what a person does things with: the windows of a desktop, and its keyboard.
type hands interface {
	// open starts a program and brings its window to the front.
	open(program string)
	// turnTo brings a program's window to the front.
	turnTo(program string)
	// press presses a key.
	press()
	// end ends a program at once.
	end(program string)
}

// worker is a person at a desktop, with the truth of what they did.
type worker struct {
	t     *testing.T
	name  string
	hands hands

	changes []change
	inputs  []input
	// began is when the script had been seen to be watched.
	began int64
}

// change is how things stand once something has happened.
type change struct {
	when
	open map[string]bool
	// front is the program in front; empty: none. away: the session is locked, or another
	// one is shown.
	front string
	away  bool
}

// input is a keystroke, or what may or may not have counted as one.
type input struct {
	when
	perhaps bool
}

// does notes a change and when it happened.
func (w *worker) does(what func(), then func(*change)) {
	next := change{open: map[string]bool{}}
	if n := len(w.changes); n > 0 {
		next.front, next.away = w.changes[n-1].front, w.changes[n-1].away
		for program := range w.changes[n-1].open {
			next.open[program] = true
		}
	}
	next.from = bootMillis()
	what()
	next.to = bootMillis()
	then(&next)
	w.changes = append(w.changes, next)
}

func (w *worker) opens(program string) {
	w.t.Helper()
	w.does(func() { w.hands.open(program) }, func(c *change) { c.open[program], c.front = true, program })
}

func (w *worker) turnsTo(program string) {
	w.t.Helper()
	w.does(func() { w.hands.turnTo(program) }, func(c *change) { c.front = program })
}

// ends ends a program and turns to another one; to none where that is empty.
func (w *worker) ends(program, next string) {
	w.t.Helper()
	w.does(func() {
		w.hands.end(program)
		if next != "" {
			w.hands.turnTo(next)
		}
	}, func(c *change) {
		delete(c.open, program)
		c.front = next
	})
}

func (w *worker) presses() {
	w.t.Helper()
	from := bootMillis()
	w.hands.press()
	w.inputs = append(w.inputs, input{when: when{from, bootMillis()}})
}

// What lies between two inputs.
type link int

const (
	apart link = iota
	joined
	either // so near to the gap that a slow machine may have it this way or that
)

func linkOf(a, b input) link {
	gap, slack := sessionGap.Milliseconds(), slack.Milliseconds()
	switch {
	case b.from-a.to >= gap+slack:
		return apart
	case b.to-a.from <= gap-slack && !a.perhaps && !b.perhaps:
		return joined
	default:
		return either
	}
}

// works tells whether a moment lies in a stretch of inputs; sure: it can be told.
func (w *worker) works(at int64, allowed func(when) int64) (busy, sure bool) {
	links := make([]link, len(w.inputs)+1) // links[i] is what lies before input i
	for i := 1; i < len(w.inputs); i++ {
		links[i] = linkOf(w.inputs[i-1], w.inputs[i])
	}
	for i, in := range w.inputs {
		edge := links[i] != joined || links[i+1] != joined // a stretch may begin or end with it
		if reach := allowed(in.when); edge && at >= in.from-reach && at <= in.to+reach {
			return false, false
		}
	}
	for i, in := range w.inputs {
		switch {
		case at < in.from:
			return links[i] == joined, links[i] != either
		case at <= in.to:
			return true, true
		}
	}
	return false, true
}

// attention is what a program is to be at a moment; zero: it is not open. sure: it can be
// told, as nothing happened so near to it that either is right.
func (w *worker) attention(program string, at int64, allowed func(when) int64) (a usagev1.Attention, sure bool) {
	var now change
	for _, c := range w.changes {
		reach := allowed(c.when)
		if at > c.from-reach && at < c.to+reach {
			return 0, false
		}
		if c.to <= at {
			now = c
		}
	}
	switch {
	case !now.open[program]:
		return 0, true
	case now.away:
		return usagev1.Attention_ATTENTION_AWAY, true
	case now.front != program:
		return usagev1.Attention_ATTENTION_BACKGROUND, true
	}
	busy, sure := w.works(at, allowed)
	if busy {
		return usagev1.Attention_ATTENTION_BUSY, sure
	}
	return usagev1.Attention_ATTENTION_IDLE, sure
}

// report is what the API tells of one instance, on the boot timeline.
type report struct {
	*meteringv1.Instance
	intervals []*meteringv1.UsageInterval
}

// instances lists what the API knows.
func (s *deployment) instances() ([]*meteringv1.Instance, error) {
	list := &meteringv1.ListInstancesResponse{}
	err := s.api.Get(s.t.Context(), "/v1/instances", url.Values{"page_size": {"1000"}}, list)
	return list.GetInstances(), err
}

// isOf tells whether an instance is a person's, of a program.
func isOf(i *meteringv1.Instance, person, program string) bool {
	return strings.EqualFold(i.GetPrincipalName(), person) && i.GetApplicationName() == program
}

// watched waits until the platform knows a person's first program, and begins the script.
func (s *deployment) watched(w *worker, program string) {
	s.t.Helper()
	eventually(s.t, time.Minute, w.name+"'s "+program+" in the API", func() error {
		all, err := s.instances()
		if err == nil && !slices.ContainsFunc(all, func(i *meteringv1.Instance) bool { return isOf(i, w.name, program) }) {
			err = fmt.Errorf("there are %v", all)
		}
		return err
	})
	w.began = bootMillis()
	w.changes[len(w.changes)-1].to = w.began
}

// reported waits until the API has so many instances, all of them closed, and reads what it
// tells of each.
func (s *deployment) reported(instances int) (all []report) {
	s.t.Helper()
	eventually(s.t, time.Minute, "every instance to be closed in the API", func() error {
		list, err := s.instances()
		closed := 0
		for _, i := range list {
			if i.GetCloseTime() != nil {
				closed++
			}
		}
		if err == nil && (len(list) != instances || closed != instances) {
			err = fmt.Errorf("of %d instances %d are told, and %d are closed: %v", instances, len(list), closed, list)
		}
		all = nil
		for _, i := range list {
			all = append(all, report{Instance: i})
		}
		return err
	})
	for n, r := range all {
		list := &meteringv1.ListIntervalsResponse{}
		if err := s.api.Get(s.t.Context(), "/v1/instances/"+r.GetInstanceId()+"/intervals", url.Values{"page_size": {strconv.Itoa(10_000)}}, list); err != nil {
			s.t.Fatal(err)
		}
		all[n].intervals = list.GetIntervals()
	}
	return all
}

// attention is what the API tells of a moment of UTC; zero: it was not open.
func (r report) attention(utcMillis int64) usagev1.Attention {
	for _, i := range r.intervals {
		if i.GetStartTime().AsTime().UnixMilli() <= utcMillis && utcMillis < i.GetEndTime().AsTime().UnixMilli() {
			return i.GetAttention()
		}
	}
	return 0
}

// judge compares what the API tells of a person's programs with what they did, moment by
// moment. Each attention that the script means has to be among what was compared, unless the
// machine is so slow that none of it is sure.
func (w *worker) judge(all []report, p *pulse, ahead int64, means map[string][]usagev1.Attention) {
	w.t.Helper()
	// Whether the wall clock was set, or slewed, during the script.
	drift := wallAhead() - ahead
	drift = max(drift, -drift)
	tolerance := make(map[when]int64)
	allowed := func(at when) int64 {
		if _, known := tolerance[at]; !known {
			tolerance[at] = p.allowed(at) + drift
		}
		return tolerance[at]
	}
	var worst int64
	for _, c := range w.changes {
		worst = max(worst, allowed(c.when))
	}
	w.t.Logf("%s: %d changes and %d inputs; a transition may be told up to %d ms from the truth on this machine", w.name, len(w.changes), len(w.inputs), worst)
	var slowest int64
	for _, i := range w.inputs {
		if !i.perhaps {
			slowest = max(slowest, i.to-i.from)
		}
	}
	quick := 2*worst < glance.Milliseconds() && slowest < keyPause.Milliseconds()
	for program, attentions := range means {
		n := slices.IndexFunc(all, func(r report) bool { return isOf(r.Instance, w.name, program) })
		if n < 0 {
			w.t.Errorf("the API tells nothing of %s's %s", w.name, program)
			continue
		}
		r := all[n]
		problems, compared := w.differ(program, r, allowed, ahead)
		w.t.Logf("%s's %s: compared %v", w.name, program, compared)
		for _, a := range attentions {
			if compared[a] == 0 && quick {
				problems = append(problems, fmt.Errorf("no moment of %v was compared", a))
			}
		}
		var busy time.Duration
		for _, i := range r.intervals {
			if i.GetAttention() == usagev1.Attention_ATTENTION_BUSY {
				busy += i.GetEndTime().AsTime().Sub(i.GetStartTime().AsTime())
			}
		}
		if total := r.GetTotals().GetBusy().AsDuration(); total != busy || r.GetLost() {
			problems = append(problems, fmt.Errorf("its busy time is %v, its intervals add up to %v; lost: %v", total, busy, r.GetLost()))
		}
		if len(problems) > 0 {
			w.t.Errorf("%s's %s: %v\ntruth:\n%s\nreport:\n%s", w.name, program, errors.Join(problems...), w.story(), r.story(w.began+ahead))
		}
	}
}

// differ compares moment by moment, and counts what was compared.
func (w *worker) differ(program string, r report, allowed func(when) int64, ahead int64) (problems []error, compared map[usagev1.Attention]int) {
	compared = make(map[usagev1.Attention]int)
	var wasWant, wasGot usagev1.Attention
	for at := w.began; at < w.changes[len(w.changes)-1].to; at += judgeEvery {
		want, sure := w.attention(program, at, allowed)
		if !sure {
			continue
		}
		compared[want]++
		got := r.attention(at + ahead)
		if got != want && (want != wasWant || got != wasGot) { // the beginning of each stretch
			problems = append(problems, fmt.Errorf("from %d ms on it is told as %v, and was %v", at-w.began, got, want))
		}
		wasWant, wasGot = want, got
	}
	return problems, compared
}

// story is the truth as a text, in milliseconds from the beginning.
func (w *worker) story() string {
	type line struct {
		when
		text string
	}
	var lines []line
	for _, c := range w.changes {
		lines = append(lines, line{c.when, fmt.Sprintf("%v open, %q in front, away: %v", c.open, c.front, c.away)})
	}
	for _, i := range w.inputs {
		lines = append(lines, line{i.when, fmt.Sprintf("a key (perhaps: %v)", i.perhaps)})
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.from, b.from) })
	var text strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&text, "  %6d … %6d  %s\n", l.from-w.began, l.to-w.began, l.text)
	}
	return text.String()
}

func (r report) story(began int64) string {
	var text strings.Builder
	for _, i := range r.intervals {
		fmt.Fprintf(&text, "  %6d … %6d  %v\n", i.GetStartTime().AsTime().UnixMilli()-began, i.GetEndTime().AsTime().UnixMilli()-began, i.GetAttention())
	}
	return text.String()
}

// rest is part of a script: a person who does nothing for a while.
func rest(d time.Duration) { <-time.After(d) }
