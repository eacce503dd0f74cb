package activity_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// disk is what outlives a crash: the journal's events, and the slot with its place
// among them.
type disk struct {
	events []*usagev1.UsageEvent
	slot   []byte
	at     int
	taken  int64
}

// attentions gives the attention of an application at a moment, 0 where it is closed.
func attentionAt(ls []*line, app int, at int64) usagev1.Attention {
	for _, l := range ls {
		if l.App != appID(app) || !l.Document.IsZero() {
			continue
		}
		for _, p := range l.Pieces {
			if p.From <= at && at < p.To {
				return p.Attention
			}
		}
	}
	return 0
}

func TestP8CrashNeverAddsBusyTime(t *testing.T) {
	counts := map[usagev1.Attention]bool{
		usagev1.Attention_ATTENTION_AWAY: true, usagev1.Attention_ATTENTION_IDLE: true, usagev1.Attention_ATTENTION_BACKGROUND: true,
	}
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, options{clockSteps: true, sleeps: true, blind: true, policyChanges: rapid.Bool().Draw(t, "policies")})
		moments := s.moments()
		down := rapid.IntRange(0, len(moments)-1).Draw(t, "down")
		up := rapid.IntRange(down, len(moments)-1).Draw(t, "up")
		orderly := rapid.Bool().Draw(t, "orderly")
		how := rapid.IntRange(0, 4).Draw(t, "how")
		skip := rapid.IntRange(0, 3).Draw(t, "skip")

		var d disk
		d.taken = moments[0]
		p := newPlayer(activity.New(config(1)))
		for n, at := range moments[:down+1] {
			if n == down && !orderly && how > 2 {
				// The last observation comes in parts, each with its slot, and the last of
				// them that reaches the disk does so in a first part of its events.
				parts := 0
				p.each(s, at, func(out activity.Output) bool {
					parts++
					if torn := !out.More || parts == how-2; torn {
						d.events = append(d.events, out.Events[:rapid.IntRange(0, len(out.Events)).Draw(t, "events")]...)
						return false
					}
					d.events = append(d.events, out.Events...)
					d.slot, d.at, d.taken = p.machine.Slot(), len(d.events), at
					return true
				})
				break
			}
			out := p.observe(s, at)
			// The last output may not reach the disk whole.
			if n == down && !orderly && how == 0 {
				break
			}
			d.events = append(d.events, out.Events...)
			if n == down && !orderly && how == 1 {
				break
			}
			// Some slots are left out, so that more of the journal lies behind one.
			if out.SlotDue && (n == 0 || skip == 0 || n%(skip+1) == 0) {
				d.slot, d.at, d.taken = p.machine.Slot(), len(d.events), at
			}
		}
		if orderly {
			d.events = append(d.events, p.take(p.machine.Stop(moments[down])).Events...)
			d.slot, d.at, d.taken = p.machine.Slot(), len(d.events), moments[down]
		}
		if d.slot == nil {
			return
		}
		var named []*usagev1.Anchor
		for _, a := range p.anchors {
			named = append(named, a)
		}
		slices.SortFunc(named, func(a, b *usagev1.Anchor) int { return int(a.GetBootMillis() - b.GetBootMillis()) })
		m, err := activity.Recover(config(2), d.slot, d.events[d.at:], named)
		if err != nil {
			t.Fatalf("recover: %v", err)
		}
		r := newPlayer(m)
		r.policy = 0
		for _, at := range moments[up:] {
			r.observe(s, at)
		}
		r.finish(s)
		if e := s.wrongAccess(r.events, moments[up]); e != nil {
			t.Fatalf("with a crash at %d (slot %d, up %d): %v\n%s", moments[down], d.taken, moments[up], e, describe(s))
		}
		all := append(slices.Clone(d.events), r.events...)
		for _, e := range all {
			// What was entered held for a moment; of busy time not even that is known.
			if c := e.GetClosed(); c != nil && counts[c.GetAttention()] && c.GetFromBootMillis() >= c.GetToBootMillis() {
				t.Fatalf("an interval of no length with a crash at %d (slot %d, up %d): %v\n%s", moments[down], d.taken, moments[up], e, describe(s))
			}
		}
		got, want := lines(all), s.truth()
		for _, l := range got {
			if l.Closed < 0 {
				t.Fatalf("instance %v, document %v, opened at %d, never closed", l.Instance, l.Document, l.Opened)
			}
		}
		for app := range 2 {
			sum := func(ls []*line, document bool) int64 {
				n := int64(0)
				for _, l := range ls {
					if l.App == appID(app) && l.Document.IsZero() != document {
						n += l.sum(usagev1.Attention_ATTENTION_BUSY)
					}
				}
				return n
			}
			for _, document := range []bool{false, true} {
				if a, b := sum(got, document), sum(want, document); a > b {
					t.Fatalf("app %d busy for %d ms with a crash at %d (slot %d, up %d), %d without\n%s\ngot:\n%s\nwithout:\n%s", app, a, moments[down], d.taken, moments[up], b, describe(s), text(got, false), text(want, false))
				}
			}
			if a, b := sum(got, true), sum(got, false); a > b {
				t.Fatalf("documents of app %d busy for %d ms with a crash at %d (slot %d, up %d), the instances for %d\n%s\ngot:\n%s\nwithout:\n%s", app, a, moments[down], d.taken, moments[up], b, describe(s), text(got, false), text(want, false))
			}
			gap := int64(0)
			for _, w := range s.Worlds {
				gap = max(gap, w.Policy.Gap[app])
			}
			for _, e := range s.edges() {
				if e >= d.taken-gap && e <= moments[up]+gap || e >= s.End {
					continue
				}
				a, b := attentionAt(got, app, e), attentionAt(want, app, e)
				// The exit of a process that went in the hole was not seen, and closed its
				// instance: the time until another takes over is not open.
				if a == 0 && e > moments[up] && e <= moments[up]+activity.HandOver && !slices.ContainsFunc(s.at(e).Procs, func(p activity.Process) bool {
					return p.Executable == programs[app]
				}) {
					continue
				}
				if a != b {
					t.Fatalf("app %d at %d: %v with a crash at %d (slot %d, up %d), %v without\n%s\ngot:\n%s\nwithout:\n%s", app, e, a, moments[down], d.taken, moments[up], b, describe(s), text(got, false), text(want, false))
				}
			}
			for _, l := range got {
				if l.App != appID(app) || !l.Document.IsZero() {
					continue
				}
				// Nobody was watching, so whatever is open then is unknown.
				for n := down; n < up; n++ {
					at := moments[n]
					if orderly && l.Opened <= at && at < l.Closed && attentionAt([]*line{l}, app, at) != usagev1.Attention_ATTENTION_UNKNOWN {
						t.Fatalf("app %d at %d in the hole: %v", app, at, attentionAt([]*line{l}, app, at))
					}
				}
			}
			// What lived all the while is one instance still.
			for _, run := range s.runsOf(app) {
				alive := true
				for _, e := range s.edges() {
					if e >= d.taken && e <= moments[up] {
						w := s.at(e)
						alive = alive && !w.Policy.Gone[app] && slices.ContainsFunc(w.Procs, func(p activity.Process) bool {
							return p.Executable == programs[app] && p.StartMillis <= d.taken
						})
					}
				}
				if !alive || run.from > d.taken || run.to <= moments[up] {
					continue
				}
				n := 0
				for _, l := range got {
					if l.App == appID(app) && l.Document.IsZero() && l.Opened < run.to && l.Closed > run.from {
						n++
					}
				}
				if n != 1 {
					t.Fatalf("app %d lived on, and is %d instances: %s", app, n, text(got, false))
				}
			}
		}
	})
}

func TestP8RestartOfTheMachineClosesAtTheSlot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		moments := s.moments()
		down := rapid.IntRange(0, len(moments)-1).Draw(t, "down")
		p := newPlayer(activity.New(config(1)))
		for _, at := range moments[:down+1] {
			p.observe(s, at)
		}
		slot := p.machine.Slot()
		m, err := activity.Recover(config(2), slot, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := newPlayer(m)
		o := s.observation(moments[down])
		o.BootID, o.BootMillis, o.AwakeMillis = contract.ID{0xc}, 77, 77
		r.take(m.Observe(o))
		for _, l := range lines(append(slices.Clone(p.events), r.events...)) {
			if l.Opened == 77 {
				continue
			}
			if l.Closed < 0 || l.Closed > moments[down] {
				t.Fatalf("closed at %d, last seen at %d", l.Closed, moments[down])
			}
		}
		for _, e := range r.events {
			if e.GetAtBootMillis() != 77 && e.GetBootId()[0] != 0xb {
				t.Fatalf("an event of the boot before carries boot %x", e.GetBootId())
			}
			if a := r.anchors[e.GetAnchorId()]; a == nil || string(a.GetBootId()) != string(e.GetBootId()) {
				t.Fatalf("an event without the anchor of its boot: %v", e)
			}
		}
	})
}

func FuzzRecover(f *testing.F) {
	scripts := rapid.Custom(func(t *rapid.T) script { return drawScript(t, everything) })
	for seed := range 20 {
		s := scripts.Example(seed)
		p := newPlayer(activity.New(config(1)))
		for _, at := range s.moments() {
			p.observe(s, at)
		}
		f.Add(p.machine.Slot())
	}
	f.Add([]byte("{}"))
	f.Add([]byte(`{"version":1,"sessions":[null]}`))
	f.Fuzz(func(t *testing.T, slot []byte) {
		m, err := activity.Recover(config(2), slot, nil, nil)
		if err != nil {
			return
		}
		scripts := rapid.Custom(func(t *rapid.T) script { return drawScript(t, everything) })
		s := scripts.Example(1)
		r := newPlayer(m)
		for _, at := range s.moments() {
			r.observe(s, at)
		}
	})
}

// TestSessionsDoNotTouch plays two sessions in one machine, and each alone.
func TestSessionsDoNotTouch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := options{blind: true}
		a, b := drawScript(t, o), drawScript(t, o)
		for n := range b.Worlds {
			b.Worlds[n].Policy, b.Worlds[n].PolicyNo = a.Worlds[0].Policy, 1
			b.Worlds[n].UTC, b.Worlds[n].Paused = a.Worlds[0].UTC, false
		}
		for n := range a.Worlds {
			a.Worlds[n].Paused = false
		}
		end := max(a.End, b.End)
		a.End, b.End = end, end
		moments := append(a.moments(), b.moments()...)
		slices.Sort(moments)
		moments = slices.Compact(moments)
		m := activity.New(config(3))
		p := newPlayer(m)
		if err := m.SetPolicy(a.Worlds[0].Policy.policy(1)); err != nil {
			t.Fatal(err)
		}
		for _, at := range moments {
			o, other := a.observation(at), b.observation(at)
			other.Sessions[0].Key, other.Sessions[0].User = "2", activity.User{Name: "robert"}
			o.Sessions = append(o.Sessions, other.Sessions...)
			p.take(m.Observe(o))
		}
		p.finish(a)
		byAlias := map[byte][]*usagev1.UsageEvent{}
		for _, e := range p.events {
			byAlias[e.GetPrincipalAlias()[1]] = append(byAlias[e.GetPrincipalAlias()[1]], e)
		}
		for alias, s := range map[byte]script{3: a, 6: b} {
			got, want := text(lines(byAlias[alias]), false), text(s.truth(), false)
			if got != want {
				t.Fatalf("session %d\n%s\n%s\n\nwant:\n%s", alias, fmt.Sprint(describe(s)), got, want)
			}
		}
	})
}

// TestP8HandOverInTheHole: a launcher that hands over while nobody watches is one run
// still, though the process that took over shows no window, whether the crash slot knew
// the launcher or only the journal did. One that came too late is another run.
func TestP8HandOverInTheHole(t *testing.T) {
	for name, journalOnly := range map[string]bool{"slot": false, "journal": true} {
		for after, runs := range map[int64]int{1_000: 1, activity.HandOver: 1, activity.HandOver + 2: 2} {
			s := newScene(t, nil)
			s.see(0)
			slot, told := s.machine.Slot(), len(s.events)
			s.start(10, 1, "alpha")
			s.see(1000)
			last := s.now
			if !journalOnly {
				slot, told = s.machine.Slot(), len(s.events)
			} else {
				last = s.events[len(s.events)-1].GetAtBootMillis()
			}
			s.recover(slot, told)
			s.now = last + after
			s.exit(10)
			s.start(20, 1, "alpha")
			s.see(20_000)
			s.see(20_000)
			s.exit(20)
			ls := s.end()
			if len(ls) != runs || ls[0].Closed < 0 || runs == 1 && ls[0].Closed != s.now {
				t.Errorf("%s, a hand-over after %d ms:\n%s", name, after, text(ls, false))
			}
		}
	}
}
