package activity_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// A script is the truth about a machine: what a desktop is like from each moment on,
// when there was input, and when the machine slept. The machine under test sees it
// through observations; the oracle looks at it directly.
type script struct {
	Inputs []int64
	Worlds []world
	Sleeps []span
	Briefs []brief
	End    int64
}

type span struct{ from, to int64 }

// brief is a process that comes and goes between two observations, and is told at the
// first one at or after told.
type brief struct {
	span
	program int
	pid     int32
	told    int64
}

func (b brief) process() activity.Process {
	return activity.Process{PID: b.pid, StartMillis: b.from, ExitMillis: b.to, ParentPID: 1, Executable: programs[b.program]}
}

// world is what holds from a moment on.
type world struct {
	At       int64
	Locked   bool
	Off      bool
	Paused   bool
	NoFocus  bool
	NoInput  bool
	Access   usagev1.SessionAccess
	UTC      int64 // wall clock less boot time
	Zone     int32
	Front    uint64
	Windows  []activity.Window
	Procs    []activity.Process
	Policy   setting
	PolicyNo uint64
}

// setting is the policy of the applications alpha and beta, in milliseconds.
type setting struct {
	Gap, Timeout [2]int64
	Gone         [2]bool
	Paused       bool
}

var programs = []string{"alpha", "beta", "other"}

func appID(n int) contract.ID { return contract.ID{0xa, byte(n)} }

func (s setting) policy(revision uint64) *policyv1.Policy {
	p := &policyv1.Policy{Revision: revision, DocumentKey: make([]byte, 32), Paused: s.Paused}
	for n := range 2 {
		if s.Gone[n] {
			continue
		}
		id := appID(n)
		p.Applications = append(p.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: programs[n]}},
			ActivityGap:       durationpb.New(time.Duration(s.Gap[n]) * time.Millisecond),
			Timeout:           durationpb.New(time.Duration(s.Timeout[n]) * time.Millisecond),
			Documents:         n == 1,
			DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH,
		})
	}
	return p
}

// options say what a random script may hold.
type options struct {
	policyChanges, clockSteps, sleeps, blind, briefs bool
}

var everything = options{policyChanges: true, clockSteps: true, sleeps: true, blind: true, briefs: true}

// drawScript makes a random script. Its times keep to where things happen: around the
// gaps, the timeouts and the quarter-hours.
func drawScript(t *rapid.T, o options) script {
	g := rapid.SampledFrom([]int64{1_000, 5_000, 30_000}).Draw(t, "g")
	w := world{At: 10_000, UTC: 1_700_000_000_000 + rapid.Int64Range(0, 900_000).Draw(t, "utc"), PolicyNo: 1}
	w.Policy = setting{
		Gap:     [2]int64{g, rapid.SampledFrom([]int64{g, 3 * g}).Draw(t, "g2")},
		Timeout: [2]int64{rapid.SampledFrom([]int64{g, 2*g + 7, 10 * g}).Draw(t, "T"), rapid.SampledFrom([]int64{3 * g, 20 * g}).Draw(t, "T2")},
	}
	var s script
	next, pid := uint64(1), int32(100)
	start := func(n int) {
		pid++
		w.Procs = append(slices.Clone(w.Procs), activity.Process{PID: pid, StartMillis: w.At, ParentPID: 1, Executable: programs[n]})
		w.Windows = append(slices.Clone(w.Windows), activity.Window{ID: next, PID: pid, Title: "a.txt"})
		next++
	}
	runs := func(n int) int {
		return slices.IndexFunc(w.Procs, func(p activity.Process) bool { return p.Executable == programs[n] })
	}
	start(rapid.IntRange(0, 1).Draw(t, "first"))
	start(2)
	if rapid.Bool().Draw(t, "inFront") {
		w.Front = 1
	}
	s.Worlds = append(s.Worlds, w)
	inStep := func() int64 {
		return rapid.OneOf(
			rapid.Int64Range(0, 1500),
			rapid.SampledFrom([]int64{0, 1, g - 1, g, g + 1, 2 * g, 3 * g, 3*g + 1, 4_999, 5_000, 5_001}),
			rapid.Int64Range(0, 4*g),
			rapid.Int64Range(0, 40*g),
		).Draw(t, "step")
	}
	steps := rapid.IntRange(3, 60).Draw(t, "steps")
	for range steps {
		w.At += inStep()
		last := 23
		if o.briefs {
			last = 25
		}
		kind := rapid.IntRange(0, last).Draw(t, "kind")
		paused := w.Paused || w.Policy.Paused
		if n := len(s.Worlds); (kind == 12 || kind == 19 || paused) && s.Worlds[n-1].At == w.At {
			w.At++
		}
		switch kind {
		case 0, 1, 2, 3, 4, 5:
			for range rapid.IntRange(1, 4).Draw(t, "inputs") {
				if n := len(s.Inputs); n == 0 || s.Inputs[n-1] < w.At {
					s.Inputs = append(s.Inputs, w.At)
				}
				w.At += rapid.SampledFrom([]int64{1, 300, g - 1, g, g + 1}).Draw(t, "next")
			}
			continue
		case 20, 21:
			for _, x := range w.Windows {
				if at := runs(kind - 20); at >= 0 && x.PID == w.Procs[at].PID {
					w.Front = x.ID
				}
			}
		case 22:
			// A launcher that hands over, or almost.
			n := rapid.IntRange(0, 1).Draw(t, "launcher")
			at := runs(n)
			if at < 0 || paused || w.Policy.Gone[n] {
				continue
			}
			gone := w.Procs[at].PID
			w.Procs = slices.Delete(slices.Clone(w.Procs), at, at+1)
			w.Windows = slices.DeleteFunc(slices.Clone(w.Windows), func(x activity.Window) bool { return x.PID == gone })
			s.Worlds = append(s.Worlds, w)
			w.At += rapid.SampledFrom([]int64{1, 700, 4_999, 5_000, 5_001}).Draw(t, "handOver")
			start(n)
		case 24, 25:
			// It comes and goes unseen, perhaps while somebody types, and is told late.
			n := kind - 24
			if runs(n) >= 0 || w.Policy.Gone[n] {
				continue
			}
			pid++
			b := brief{span: span{from: w.At}, program: n, pid: pid}
			w.At += rapid.SampledFrom([]int64{1, 10, 200, 999}).Draw(t, "lives")
			b.to = w.At
			if rapid.Bool().Draw(t, "typing") {
				s.Inputs = append(s.Inputs, b.from+(b.to-b.from)/2)
			}
			w.At += rapid.SampledFrom([]int64{0, 1, 300, 1_500}).Draw(t, "late")
			b.told = w.At
			s.Briefs = append(s.Briefs, b)
		case 6, 7, 8, 9:
			w.Front = 0
			if n := rapid.IntRange(0, len(w.Windows)).Draw(t, "front"); n < len(w.Windows) {
				w.Front = w.Windows[n].ID
			}
		case 10:
			w.Locked = !w.Locked
		case 11:
			w.Off = !w.Off
		case 12:
			w.Paused = !w.Paused
		case 13:
			if o.blind {
				w.NoFocus = !w.NoFocus
			}
		case 14:
			n := rapid.IntRange(0, 2).Draw(t, "program")
			if at := runs(n); at < 0 {
				if !paused {
					start(n)
				}
			} else {
				gone := w.Procs[at].PID
				w.Procs = slices.Delete(slices.Clone(w.Procs), at, at+1)
				w.Windows = slices.DeleteFunc(slices.Clone(w.Windows), func(x activity.Window) bool { return x.PID == gone })
			}
		case 15:
			if at := runs(1); at >= 0 && !paused {
				if rapid.Bool().Draw(t, "more") {
					w.Windows = append(slices.Clone(w.Windows), activity.Window{ID: next, PID: w.Procs[at].PID, Title: "b.txt"})
					next++
				} else {
					w.Windows = slices.Clone(w.Windows)
					for i := range w.Windows {
						if w.Windows[i].PID == w.Procs[at].PID {
							w.Windows[i].Title = rapid.SampledFrom([]string{"a.txt", "b.txt", ""}).Draw(t, "title")
							break
						}
					}
				}
			}
		case 16:
			if o.clockSteps {
				w.UTC += rapid.SampledFrom([]int64{-3_600_000, -2_500, 100, 300, 2_001, 86_400_000}).Draw(t, "jump")
				w.Zone = rapid.SampledFrom([]int32{0, 3600, 20_700}).Draw(t, "zone")
			}
		case 17:
			if o.sleeps {
				// Both ends are seen, as logind and Windows tell them.
				s.Worlds = append(s.Worlds, w)
				slept := rapid.Int64Range(activity.SleepFloor, 40*g).Draw(t, "slept")
				s.Sleeps = append(s.Sleeps, span{w.At, w.At + slept})
				w.At += slept
			}
		case 18:
			if o.policyChanges && !paused {
				// Away from a hand-over, where removal and continuation meet.
				w.At += 6_000
				w.PolicyNo++
				n := rapid.IntRange(0, 1).Draw(t, "which")
				if rapid.Bool().Draw(t, "gone") {
					w.Policy.Gone[n] = !w.Policy.Gone[n]
				} else {
					w.Policy.Gap[n] = rapid.SampledFrom([]int64{1_000, g, 2 * g}).Draw(t, "newg")
					w.Policy.Timeout[n] = max(w.Policy.Gap[n], rapid.SampledFrom([]int64{g, 5 * g}).Draw(t, "newT"))
				}
				s.Worlds = append(s.Worlds, w)
				w.At += 6_000
				continue
			}
		case 19:
			if o.policyChanges {
				w.PolicyNo++
				w.Policy.Paused = !w.Policy.Paused
			} else if o.blind {
				w.NoInput = !w.NoInput
			}
		case 23:
			w.Access = usagev1.SessionAccess(rapid.Int32Range(0, 2).Draw(t, "access"))
		}
		s.Worlds = append(s.Worlds, w)
	}
	s.End = w.At + 1 + inStep()
	slices.Sort(s.Inputs)
	s.Inputs = slices.Compact(s.Inputs)
	s.Inputs = slices.DeleteFunc(s.Inputs, func(i int64) bool { return i > s.End || s.asleep(i) })
	return s
}

func (s script) asleep(at int64) bool {
	return slices.ContainsFunc(s.Sleeps, func(x span) bool { return x.from <= at && at < x.to })
}

// at is the world at a moment: the last of those that begin no later.
func (s script) at(at int64) world {
	n := sort.Search(len(s.Worlds), func(i int) bool { return s.Worlds[i].At > at })
	return s.Worlds[max(n-1, 0)]
}

func (s script) observation(at int64) activity.Observation {
	w := s.at(at)
	o := activity.Observation{
		BootID: contract.ID{0xb}, BootMillis: at, AwakeMillis: at, UTCMillis: at + w.UTC, ZoneOffsetSeconds: w.Zone,
		PausedByPerson: w.Paused,
	}
	for _, x := range s.Sleeps {
		if at >= x.to {
			o.AwakeMillis -= x.to - x.from
		}
	}
	last := int64(0)
	if n := sort.Search(len(s.Inputs), func(i int) bool { return s.Inputs[i] > at }); n > 0 {
		last = s.Inputs[n-1]
	}
	o.Sessions = []activity.Session{{
		Key: "1", User: activity.User{Name: "ann"}, LastInputMillis: last, Locked: w.Locked, Disconnected: w.Off, Access: w.Access,
		FocusUnsupported: w.NoFocus, InputUnsupported: w.NoInput, Foreground: w.Front, Windows: w.Windows, Processes: w.Procs,
	}}
	return o
}

// moments are when a desktop that misses nothing observes: at each change, each input,
// and each end of a sleep.
func (s script) moments() []int64 {
	var all []int64
	for _, w := range s.Worlds {
		all = append(all, w.At)
	}
	for _, i := range s.Inputs {
		if i >= s.Worlds[0].At {
			all = append(all, i)
		}
	}
	for _, x := range s.Sleeps {
		all = append(all, x.from, x.to)
	}
	all = append(all, s.End)
	slices.Sort(all)
	return slices.Compact(all)
}

func config(seed uint64) activity.Config {
	r := rand.New(rand.NewPCG(seed, seed))
	return activity.Config{
		Alias:      func(u activity.User) contract.ID { return contract.ID{0xe, byte(len(u.Name))} },
		Random:     reader{r},
		PartEvents: 1,
	}
}

type reader struct{ r *rand.Rand }

func (r reader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.r.Uint32())
	}
	return len(b), nil
}

// player runs a script through a machine.
type player struct {
	machine *activity.Machine
	seen    int64 // the last observation of a script; 0: none
	policy  uint64
	third   string
	events  []*usagev1.UsageEvent
	anchors map[uint64]*usagev1.Anchor
	live    []*usagev1.LiveSnapshot
}

func newPlayer(m *activity.Machine) *player {
	return &player{machine: m, anchors: map[uint64]*usagev1.Anchor{}}
}

func (p *player) observe(s script, at int64) activity.Output {
	p.apply(s, at)
	return p.take(p.machine.Observe(p.look(s, at)))
}

// look is an observation with what came and went since the one before.
func (p *player) look(s script, at int64) activity.Observation {
	o := s.observation(at)
	for _, b := range s.Briefs {
		if p.seen > 0 && b.told > p.seen && b.told <= at {
			o.Sessions[0].Passed = append(o.Sessions[0].Passed, b.process())
		}
	}
	p.seen = at
	return o
}

// each observes, and goes on with the parts while that is wanted.
func (p *player) each(s script, at int64, wanted func(activity.Output) bool) {
	p.apply(s, at)
	out := p.machine.Observe(p.look(s, at))
	for {
		for _, a := range out.Anchors {
			p.anchors[a.GetAnchorId()] = a
		}
		if !wanted(out) || !out.More {
			return
		}
		out = p.machine.Continue()
	}
}

// apply sets the policy of a moment.
func (p *player) apply(s script, at int64) {
	if w := s.at(at); w.PolicyNo != p.policy {
		policy := w.Policy.policy(w.PolicyNo)
		if p.third != "" {
			id := appID(2)
			policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{
				ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: p.third}},
			})
		}
		if err := p.machine.SetPolicy(policy); err != nil {
			panic(err)
		}
		p.policy = w.PolicyNo
	}
}

// take remembers an output, and those that follow where it is a part.
func (p *player) take(out activity.Output) activity.Output {
	for out.More {
		next := p.machine.Continue()
		next.Events = append(out.Events, next.Events...)
		next.Anchors = append(out.Anchors, next.Anchors...)
		next.Labels = append(out.Labels, next.Labels...)
		next.Live = append(out.Live, next.Live...)
		out = next
	}
	p.events = append(p.events, out.Events...)
	for _, a := range out.Anchors {
		p.anchors[a.GetAnchorId()] = a
	}
	p.live = append(p.live, out.Live...)
	return out
}

// playWith plays with a third application in the policy.
func playWith(s script, moments []int64, third string) *player {
	p := newPlayer(activity.New(config(1)))
	p.third = third
	for _, at := range moments {
		p.observe(s, at)
	}
	p.finish(s)
	return p
}

// play observes at given moments, then ends the session so that everything is decided.
func play(s script, moments []int64) *player {
	p := newPlayer(activity.New(config(1)))
	for _, at := range moments {
		p.observe(s, at)
	}
	p.finish(s)
	return p
}

// finish logs the person off at the script's end.
func (p *player) finish(s script) {
	o := s.observation(s.End)
	o.Sessions = nil
	p.take(p.machine.Observe(o))
}

// piece is an interval as a reader adds it up: cuts are put together again.
type piece struct {
	Attention usagev1.Attention
	State     usagev1.State
	Reason    usagev1.Reason
	From, To  int64
}

func (p piece) String() string {
	return fmt.Sprintf("[%d,%d) %s/%s/%d", p.From, p.To, p.Attention.String()[10:], p.State.String()[6:], p.Reason)
}

// line is the history of one instance, or of one document from opening to closing.
type line struct {
	App      contract.ID
	Instance contract.ID
	Document contract.ID
	Opened   int64
	Closed   int64
	Why      usagev1.Reason
	Pieces   []piece
	Timeouts []int64
}

// lines reads the events as a consumer would; it panics where one does not follow from
// the one before.
func lines(events []*usagev1.UsageEvent) []*line {
	var all []*line
	open := map[[2]contract.ID]*line{}
	last := map[[2]contract.ID]*usagev1.UsageEvent{}
	for _, e := range events {
		var key [2]contract.ID
		copy(key[0][:], e.GetInstanceId())
		copy(key[1][:], e.GetDocumentId())
		l := open[key]
		if e.GetTransition() == usagev1.Transition_TRANSITION_OPENED {
			if l != nil {
				panic(fmt.Sprintf("opened twice: %v", e))
			}
			l = &line{Instance: key[0], Document: key[1], Opened: e.GetAtBootMillis(), Closed: -1}
			copy(l.App[:], e.GetApplicationId())
			open[key], last[key] = l, e
			all = append(all, l)
			if e.GetClosed() != nil {
				panic("an opening closes an interval")
			}
			continue
		}
		if l == nil {
			panic(fmt.Sprintf("an event before its opening: %v", e))
		}
		c, before := e.GetClosed(), last[key]
		if c.GetAttention() != before.GetAttention() || c.GetState() != before.GetState() || c.GetReason() != before.GetReason() || c.GetSessionAccess() != before.GetSessionAccess() ||
			c.GetFromBootMillis() != before.GetAtBootMillis() || c.GetToBootMillis() != e.GetAtBootMillis() || c.GetToBootMillis() < c.GetFromBootMillis() {
			panic(fmt.Sprintf("what is closed was not entered:\n%v\n%v", before, e))
		}
		last[key] = e
		p := piece{c.GetAttention(), c.GetState(), c.GetReason(), c.GetFromBootMillis(), c.GetToBootMillis()}
		if n := len(l.Pieces); n > 0 && l.Pieces[n-1].Attention == p.Attention && l.Pieces[n-1].State == p.State && l.Pieces[n-1].Reason == p.Reason && l.Pieces[n-1].To == p.From {
			l.Pieces[n-1].To = p.To
		} else if p.From < p.To {
			l.Pieces = append(l.Pieces, p)
		}
		switch e.GetTransition() {
		case usagev1.Transition_TRANSITION_TIMED_OUT:
			l.Timeouts = append(l.Timeouts, e.GetAtBootMillis())
		case usagev1.Transition_TRANSITION_CLOSED:
			l.Closed, l.Why = e.GetAtBootMillis(), e.GetReason()
			delete(open, key)
		}
	}
	return all
}

// sum adds up the time in one attention.
func (l *line) sum(a usagev1.Attention) int64 {
	n := int64(0)
	for _, p := range l.Pieces {
		if p.Attention == a {
			n += p.To - p.From
		}
	}
	return n
}

// wrongAccess finds an interval that began no earlier than since, and in which the session
// was shown elsewhere than the event says; nil: there is none.
func (s script) wrongAccess(events []*usagev1.UsageEvent, since int64) *usagev1.UsageEvent {
	for _, e := range events {
		c := e.GetClosed()
		if c == nil || c.GetFromBootMillis() < since || c.GetFromBootMillis() == c.GetToBootMillis() {
			continue
		}
		if s.at(c.GetFromBootMillis()).Access != c.GetSessionAccess() {
			return e
		}
		for _, w := range s.Worlds {
			if w.At > c.GetFromBootMillis() && w.At < c.GetToBootMillis() && s.at(w.At).Access != c.GetSessionAccess() {
				return e
			}
		}
	}
	return nil
}
