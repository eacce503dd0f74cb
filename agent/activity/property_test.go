package activity_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func text(ls []*line, ids bool) string {
	ls = slices.Clone(ls)
	slices.SortStableFunc(ls, func(a, b *line) int {
		return cmp.Or(cmp.Compare(a.App.String(), b.App.String()), cmp.Compare(a.Opened, b.Opened), cmp.Compare(a.Document.String(), b.Document.String()))
	})
	var b strings.Builder
	for _, l := range ls {
		fmt.Fprintf(&b, "app %d doc %x [%d,%d) %v timeouts %v\n", l.App[1], l.Document[:2], l.Opened, l.Closed, l.Why, l.Timeouts)
		for _, p := range l.Pieces {
			fmt.Fprintf(&b, "   %v\n", p)
		}
	}
	return b.String()
}

// TestOracle compares every interval with the truth; the properties below look at
// what must hold whatever the truth is.
func TestOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		got, want := text(lines(play(s, s.moments()).events), false), text(s.truth(), false)
		if got != want {
			t.Fatalf("script %+v\n inputs %v sleeps %v\n\ngot:\n%s\nwant:\n%s", describe(s), s.Inputs, s.Sleeps, got, want)
		}
	})
}

func describe(s script) string {
	var b strings.Builder
	for _, w := range s.Worlds {
		fmt.Fprintf(&b, "%+v\n", w)
	}
	return b.String()
}

// An interval says where the session was shown, all of the time.
func TestIntervalsSayWhereTheSessionIsShown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		p := play(s, s.moments())
		if e := s.wrongAccess(p.events, 0); e != nil {
			t.Fatalf("%v\n%s", e, describe(s))
		}
		last := s.Worlds[0].Access
		for _, snapshot := range p.live {
			if !snapshot.GetEnded() {
				last = snapshot.GetSessionAccess()
			}
		}
		if now := s.at(s.End).Access; last != now {
			t.Fatalf("it is live that the session is shown at %v, it is at %v\n%s", last, now, describe(s))
		}
	})
}

var allAttentions = []usagev1.Attention{1, 2, 3, 4, 5, 6, 7}

func TestP1OpenTimeIsTheSumOfAttentions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		for _, l := range lines(play(s, s.moments()).events) {
			sum := int64(0)
			for _, a := range allAttentions {
				sum += l.sum(a)
			}
			if sum != l.Closed-l.Opened {
				t.Fatalf("open for %d ms, the attentions add up to %d: %v", l.Closed-l.Opened, sum, l.Pieces)
			}
		}
	})
}

// TestScriptsReachEverything guards the generator: a property over scripts in which
// nothing happens proves nothing.
func TestScriptsReachEverything(t *testing.T) {
	seen := map[string]int{}
	scripts := rapid.Custom(func(t *rapid.T) script { return drawScript(t, everything) })
	for seed := range 600 {
		s := scripts.Example(seed)
		p := play(s, s.moments())
		for _, e := range p.events {
			seen[e.GetTransition().String()]++
			seen[e.GetAttention().String()]++
			seen[e.GetReason().String()]++
			seen[e.GetSessionAccess().String()]++
			if len(e.GetDocumentId()) > 0 {
				seen["document "+e.GetAttention().String()]++
			}
		}
		for app := range 2 {
			for _, r := range s.runsOf(app) {
				for _, w := range s.Worlds {
					if w.At > r.from && w.At < r.to && !slices.ContainsFunc(w.Procs, func(p activity.Process) bool { return p.Executable == programs[app] }) {
						seen["hand-over"]++
					}
				}
				for _, b := range s.Briefs {
					switch {
					case b.program != app || b.from < r.from || b.to > r.to:
					case b.from == r.from && b.to == r.to:
						seen["brief alone"]++
					case b.from == r.from:
						seen["brief launcher"]++
					default:
						seen["brief goes on"]++
					}
				}
			}
		}
		if len(p.anchors) > 1 {
			seen["new anchor"]++
		}
	}
	want := []string{"hand-over", "brief alone", "brief launcher", "brief goes on", "new anchor", "document ATTENTION_BUSY", "document ATTENTION_IDLE", "document ATTENTION_BACKGROUND"}
	for n := 1; n <= 7; n++ {
		want = append(want, usagev1.Attention(n).String())
	}
	for n := 1; n <= 5; n++ {
		want = append(want, usagev1.Transition(n).String())
	}
	for n := range 3 {
		want = append(want, usagev1.SessionAccess(n).String())
	}
	for _, r := range []usagev1.Reason{3, 5, 6, 7, 8} {
		want = append(want, r.String())
	}
	for _, w := range want {
		if seen[w] < 20 {
			t.Errorf("%s came only %d times", w, seen[w])
		}
	}
	t.Log(seen)
}

func TestP2IntervalsPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		p := play(s, s.moments())
		for _, l := range lines(p.events) {
			at := l.Opened
			for _, piece := range l.Pieces {
				if piece.From != at || piece.To <= piece.From {
					t.Fatalf("a gap, an overlap or nothing at %d: %v", at, l.Pieces)
				}
				at = piece.To
			}
			if at != l.Closed {
				t.Fatalf("closed at %d, the last interval ends at %d", l.Closed, at)
			}
		}
		// No interval crosses a quarter-hour or an anchor.
		for _, e := range p.events {
			a, c := p.anchors[e.GetAnchorId()], e.GetClosed()
			if a == nil {
				t.Fatalf("the anchor of an event was not given: %v", e)
			}
			if c == nil || c.GetFromBootMillis() == c.GetToBootMillis() {
				continue
			}
			from := c.GetFromBootMillis() - a.GetBootMillis() + a.GetUtcMillis()
			to := c.GetToBootMillis() - a.GetBootMillis() + a.GetUtcMillis()
			w := s.at(c.GetFromBootMillis())
			if off := from - c.GetFromBootMillis() - w.UTC; off >= activity.DriftFloor || off <= -activity.DriftFloor || a.GetZoneOffsetSeconds() != w.Zone {
				t.Fatalf("an interval is placed %d ms off, in zone %d instead of %d", off, a.GetZoneOffsetSeconds(), w.Zone)
			}
			if from/900_000 != (to-1)/900_000 {
				t.Fatalf("an interval from %d to %d in UTC crosses a quarter-hour", from, to)
			}
			for _, other := range p.anchors {
				if other.GetBootMillis() > c.GetFromBootMillis() && other.GetBootMillis() < c.GetToBootMillis() {
					t.Fatalf("an interval crosses an anchor: %v, %v", e, other)
				}
			}
		}
	})
}

func TestP3OneIsBusyAtATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := everything
		o.policyChanges = false
		s := drawScript(t, o)
		// With one gap for both, busy is exactly stretches within a metered front.
		for n := range s.Worlds {
			s.Worlds[n].Policy.Gap[1] = s.Worlds[n].Policy.Gap[0]
		}
		var busy []span
		total := int64(0)
		for _, l := range lines(play(s, s.moments()).events) {
			for _, p := range l.Pieces {
				if l.Document.IsZero() && p.State == usagev1.State_STATE_ACTIVE {
					busy = append(busy, span{p.From, p.To})
					total += p.To - p.From
				}
			}
		}
		slices.SortFunc(busy, func(a, b span) int { return cmp.Compare(a.from, b.from) })
		for n := 1; n < len(busy); n++ {
			if busy[n].from < busy[n-1].to {
				t.Fatalf("two are busy at %d", busy[n].from)
			}
		}
		want := int64(0)
		edges := s.edges()
		for n := 0; n+1 < len(edges); n++ {
			metered := s.frontTitle(0, edges[n]) != nil || s.frontTitle(1, edges[n]) != nil
			if metered && !s.broken(edges[n]) && s.stretch(0, edges[n]) {
				want += edges[n+1] - edges[n]
			}
		}
		if total != want {
			t.Fatalf("busy for %d ms, want %d", total, want)
		}
	})
}

func busyByRun(ls []*line) map[string]int64 {
	all := map[string]int64{}
	for _, l := range ls {
		all[fmt.Sprint(l.App, l.Document, l.Opened)] += l.sum(usagev1.Attention_ATTENTION_BUSY)
	}
	return all
}

func TestP4LargerGapNeverLowersBusy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := everything
		o.policyChanges = false
		s := drawScript(t, o)
		before := lines(play(s, s.moments()).events)
		more := rapid.Int64Range(0, 40_000).Draw(t, "more")
		later := rapid.Int64Range(0, 100_000).Draw(t, "later")
		change := func(gap, timeout int64) []*line {
			c := s
			c.Worlds = slices.Clone(s.Worlds)
			for n := range c.Worlds {
				for a := range 2 {
					c.Worlds[n].Policy.Gap[a] += gap
					c.Worlds[n].Policy.Timeout[a] += gap + timeout
				}
			}
			return lines(play(c, c.moments()).events)
		}
		after := busyByRun(change(more, 0))
		for run, busy := range busyByRun(before) {
			if after[run] < busy {
				t.Fatalf("%s: busy fell from %d to %d", run, busy, after[run])
			}
		}
		// T changes nothing but timeouts.
		plain := func(ls []*line) string {
			for _, l := range ls {
				l.Timeouts = nil
				var merged []piece
				for _, p := range l.Pieces {
					p.State = 0
					if n := len(merged); n > 0 && merged[n-1].Attention == p.Attention && merged[n-1].Reason == p.Reason {
						merged[n-1].To = p.To
					} else {
						merged = append(merged, p)
					}
				}
				l.Pieces = merged
			}
			return text(ls, false)
		}
		if a, b := plain(before), plain(change(0, later)); a != b {
			t.Fatalf("T changed more than timeouts:\n%s\n%s", a, b)
		}
	})
}

func TestP5TimeoutsStandWhereCountedTimeReachesT(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := everything
		o.policyChanges = false
		s := drawScript(t, o)
		for _, l := range lines(play(s, s.moments()).events) {
			limit := s.Worlds[0].Policy.Timeout[l.App[1]]
			ends := 0
			for n, p := range l.Pieces {
				if n > 0 && l.Pieces[n-1].State == usagev1.State_STATE_TIMEOUT && p.State != usagev1.State_STATE_TIMEOUT {
					ends++
				}
			}
			if len(l.Timeouts) > ends+1 {
				t.Fatalf("%d timeouts, %d of them ended", len(l.Timeouts), ends)
			}
			for _, at := range l.Timeouts {
				counted, lastBusy := int64(0), l.Opened
				for _, in := range s.Inputs {
					front := s.frontTitle(int(l.App[1]), in)
					if in >= l.Opened && in <= at && !s.broken(in) && front != nil && (l.Document.IsZero() || documentID(*front) == l.Document) {
						lastBusy = max(lastBusy, in)
					}
				}
				for _, p := range l.Pieces {
					if p.State == usagev1.State_STATE_ACTIVE && p.From < at {
						lastBusy = max(lastBusy, p.To)
					}
				}
				for _, p := range l.Pieces {
					from, to := max(p.From, lastBusy), min(p.To, at)
					switch p.Attention {
					case usagev1.Attention_ATTENTION_SUSPENDED, usagev1.Attention_ATTENTION_PAUSED, usagev1.Attention_ATTENTION_UNKNOWN:
					default:
						counted += max(0, to-from)
					}
				}
				if counted != limit {
					t.Fatalf("a timeout at %d after %d ms counted, T is %d: %v", at, counted, limit, l.Pieces)
				}
			}
		}
	})
}

func TestP7ClocksChangeNothingOnTheBootTimeline(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		plain := s
		plain.Worlds = slices.Clone(s.Worlds)
		for n := range plain.Worlds {
			plain.Worlds[n].UTC, plain.Worlds[n].Zone = s.Worlds[0].UTC, s.Worlds[0].Zone
		}
		a, b := text(lines(play(s, s.moments()).events), false), text(lines(play(plain, plain.moments()).events), false)
		if a != b {
			t.Fatalf("with clock steps:\n%s\nwithout:\n%s", a, b)
		}
	})
}

// TestP7SleepAddsSuspendedTimeAndNothingElse cuts the sleeps out of a script and
// compares.
func TestP7SleepAddsSuspendedTimeAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := everything
		o.sleeps, o.policyChanges = false, false
		s := drawScript(t, o)
		at := rapid.SampledFrom(s.moments()).Draw(t, "at")
		slept := rapid.Int64Range(activity.SleepFloor, 100_000_000).Draw(t, "slept")
		if at == s.End || slices.Contains(s.Inputs, at) {
			return
		}
		with := s
		with.Sleeps = []span{{at, at + slept}}
		with.End += slept
		with.Inputs, with.Worlds = slices.Clone(s.Inputs), slices.Clone(s.Worlds)
		for n := range with.Inputs {
			if with.Inputs[n] > at {
				with.Inputs[n] += slept
			}
		}
		with.Briefs = slices.Clone(s.Briefs)
		for n, b := range s.Briefs {
			if b.from <= at && at < b.told {
				return // it would have lived through the sleep
			}
			if b.from > at {
				b.from, b.to, b.told = b.from+slept, b.to+slept, b.told+slept
			}
			with.Briefs[n] = b
		}
		for n := range with.Worlds {
			if with.Worlds[n].At > at {
				with.Worlds[n].At += slept
			}
			with.Worlds[n].Procs = slices.Clone(with.Worlds[n].Procs)
			for k := range with.Worlds[n].Procs {
				if p := &with.Worlds[n].Procs[k]; p.StartMillis > at {
					p.StartMillis += slept
				}
			}
		}
		sums := func(s script) (map[string]int64, int64) {
			all, suspended := map[string]int64{}, int64(0)
			count := map[string]int{}
			for _, l := range lines(play(s, s.moments()).events) {
				// Which of two applications is told first may change with the sleep.
				n := count[fmt.Sprint(l.App, l.Document)]
				count[fmt.Sprint(l.App, l.Document)]++
				for _, a := range allAttentions {
					if a != usagev1.Attention_ATTENTION_SUSPENDED && a != usagev1.Attention_ATTENTION_BUSY && a != usagev1.Attention_ATTENTION_IDLE {
						all[fmt.Sprint(l.App, l.Document, n, a)] += l.sum(a)
					}
				}
				// A stretch across the sleep is broken by it: its busy time is idle then.
				all[fmt.Sprint(l.App, l.Document, n, "in front")] += l.sum(usagev1.Attention_ATTENTION_BUSY) + l.sum(usagev1.Attention_ATTENTION_IDLE)
				if l.Document.IsZero() {
					suspended = max(suspended, l.sum(usagev1.Attention_ATTENTION_SUSPENDED))
				}
			}
			return all, suspended
		}
		a, _ := sums(s)
		b, suspended := sums(with)
		if fmt.Sprint(a) != fmt.Sprint(b) {
			// An instance that opened in between may have been handed over or not, as
			// hand-over runs on the boot timeline; then there is nothing to compare.
			if len(lines(play(s, s.moments()).events)) == len(lines(play(with, with.moments()).events)) {
				t.Fatalf("asleep at %d for %d:\n%v\n%v", at, slept, a, b)
			}
		}
		if open := s.openAt(at); open && suspended != slept {
			t.Fatalf("slept %d ms, suspended for %d", slept, suspended)
		}
	})
}

func (s script) openAt(at int64) bool {
	for app := range 2 {
		for _, r := range s.runsOf(app) {
			if r.from <= at && at < r.to && slices.ContainsFunc(s.at(at).Procs, func(p activity.Process) bool { return p.Executable == programs[app] }) {
				return true
			}
		}
	}
	return false
}

func TestP7TickWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		boot := rapid.Int64Range(1<<31, 1<<40).Draw(t, "boot")
		ago := rapid.Int64Range(0, 1<<31).Draw(t, "ago")
		ticks := rapid.Uint32().Draw(t, "ticks")
		if got := activity.LastInputFromTicks(boot, ticks, ticks-uint32(ago)); got != boot-ago {
			t.Fatalf("got %d, want %d", got, boot-ago)
		}
		if got := activity.LastInputFromTicks(boot, ticks, ticks+uint32(rapid.Int64Range(1, 1<<30).Draw(t, "ahead"))); got != boot {
			t.Fatalf("an input in the future is at %d, not now", got)
		}
	})
}

// TestP9CellsAddUp: since no interval crosses a quarter-hour of UTC, cutting at the
// midnight of any zone cuts nothing in two.
func TestP9CellsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		p := play(s, s.moments())
		zone := rapid.SampledFrom([]int64{0, 3600, 20_700, -12_600}).Draw(t, "zone") * 1000
		days, uncut := map[int64]int64{}, int64(0)
		for _, e := range p.events {
			c, a := e.GetClosed(), p.anchors[e.GetAnchorId()]
			if c == nil || c.GetFromBootMillis() == c.GetToBootMillis() {
				continue
			}
			from := c.GetFromBootMillis() - a.GetBootMillis() + a.GetUtcMillis() + zone
			to := c.GetToBootMillis() - a.GetBootMillis() + a.GetUtcMillis() + zone
			const day = 86_400_000
			if from/day != (to-1)/day {
				t.Fatalf("an interval crosses midnight in zone %d", zone)
			}
			days[from/day] += to - from
			uncut += c.GetToBootMillis() - c.GetFromBootMillis()
		}
		cut := int64(0)
		for _, d := range days {
			cut += d
		}
		if cut != uncut {
			t.Fatalf("the days add up to %d, uncut to %d", cut, uncut)
		}
	})
}

func TestP10DocumentsTogetherAreNoBusierThanTheirInstance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		own, documents := map[string]int64{}, map[string]int64{}
		for _, l := range lines(play(s, s.moments()).events) {
			if busy := l.sum(usagev1.Attention_ATTENTION_BUSY); l.Document.IsZero() {
				own[l.Instance.String()] += busy
			} else {
				documents[l.Instance.String()] += busy
			}
		}
		for i, busy := range documents {
			if busy > own[i] {
				t.Fatalf("instance %s: documents are busy for %d ms, it for %d", i, busy, own[i])
			}
		}
	})
}

func TestP11BackgroundInstancesChangeNobodysBusyTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		before := text(lines(play(s, s.moments()).events), false)
		crowded := s
		crowded.Worlds = slices.Clone(s.Worlds)
		for n := range crowded.Worlds {
			w := &crowded.Worlds[n]
			w.Procs = slices.Clone(w.Procs)
			for extra := range rapid.IntRange(0, 3).Draw(t, "extra") {
				pid := int32(5000 + extra)
				w.Procs = append(w.Procs, activity.Process{PID: pid, StartMillis: 9_000 - int64(extra), ParentPID: 1, Executable: "gamma"})
			}
		}
		after := lines(playWith(crowded, crowded.moments(), "gamma").events)
		after = slices.DeleteFunc(after, func(l *line) bool { return l.App == appID(2) })
		if got := text(after, false); got != before {
			t.Fatalf("alone:\n%s\nwith others behind:\n%s", before, got)
		}
	})
}

// TestPollingMovesBoundariesByLessThanItsPeriod compares a poll at 1 Hz with a desktop
// that misses nothing.
func TestPollingMovesBoundariesByLessThanItsPeriod(t *testing.T) {
	const period = 1_000
	rapid.Check(t, func(t *rapid.T) {
		o := everything
		o.sleeps, o.policyChanges, o.clockSteps = false, false, false
		s := drawScript(t, o)
		// A poll can only be right within its period where inputs keep away from
		// changes, and their gaps from the activity gap.
		worlds := s.Worlds[:1]
		for _, w := range s.Worlds[1:] {
			if w.At >= worlds[len(worlds)-1].At+8*period {
				worlds = append(worlds, w)
			}
		}
		s.Worlds = worlds
		inputs := s.Inputs[:0:0]
		for _, i := range s.Inputs {
			near := func(a, b int64) bool { return a-b < 2*period && b-a < 2*period }
			if slices.ContainsFunc(s.Worlds, func(w world) bool { return near(w.At, i) }) {
				continue
			}
			if n := len(inputs); n > 0 {
				gap := i - inputs[n-1]
				if near(gap, 0) || near(gap, s.Worlds[0].Policy.Gap[0]) || near(gap, s.Worlds[0].Policy.Gap[1]) {
					continue
				}
			}
			inputs = append(inputs, i)
		}
		s.Inputs = inputs
		var polls []int64
		for at := s.Worlds[0].At; at < s.End; at += period {
			polls = append(polls, at)
		}
		polls = append(polls, s.End)
		exact := lines(play(s, s.moments()).events)
		polled := lines(play(s, polls).events)
		sum := func(ls []*line) map[string]int64 {
			all := map[string]int64{}
			for _, l := range ls {
				if l.Document.IsZero() {
					all[fmt.Sprint(l.App[1])] += l.sum(usagev1.Attention_ATTENTION_BUSY)
				}
			}
			return all
		}
		a, b := sum(exact), sum(polled)
		slack := int64(period * (len(s.Worlds) + 1))
		for app := range 2 {
			key := fmt.Sprint(app)
			if d := a[key] - b[key]; d > slack || -d > slack {
				t.Fatalf("app %d: busy for %d ms seen exactly, %d polled, %d changes", app, a[key], b[key], len(s.Worlds))
			}
		}
	})
}
