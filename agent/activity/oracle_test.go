package activity_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// The oracle answers by definition, one elementary interval after the other, with the
// whole script in sight: no state machine, no waiting, nothing incremental.

func attention(name string) usagev1.Attention {
	return usagev1.Attention(usagev1.Attention_value["ATTENTION_"+name])
}

// overall is what holds for the whole session at a moment; empty: nothing special.
func (s script) overall(at int64) (string, usagev1.Reason) {
	w := s.at(at)
	switch {
	case s.asleep(at):
		return "SUSPENDED", 0
	case w.NoFocus:
		return "UNKNOWN", usagev1.Reason_REASON_FOCUS_UNSUPPORTED
	case w.Paused:
		return "PAUSED", usagev1.Reason_REASON_PAUSED_BY_PERSON
	case w.Policy.Paused:
		return "PAUSED", usagev1.Reason_REASON_PAUSED_BY_POLICY
	case w.Locked || w.Off:
		return "AWAY", 0
	}
	return "", 0
}

// broken tells whether no stretch can pass through a moment.
func (s script) broken(at int64) bool {
	class, _ := s.overall(at)
	return class != "" || s.at(at).NoInput
}

// edges are all moments at which anything can change.
func (s script) edges() []int64 {
	all := s.moments()
	for _, b := range s.Briefs {
		all = append(all, b.from, b.to)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// runs tells whether a program runs at a moment, seen or not.
func (s script) runs(app int, at int64) bool {
	return slices.ContainsFunc(s.at(at).Procs, func(p activity.Process) bool { return p.Executable == programs[app] }) ||
		slices.ContainsFunc(s.Briefs, func(b brief) bool { return b.program == app && b.from <= at && at < b.to })
}

// stretch tells whether a moment lies between two inputs that belong together.
func (s script) stretch(app int, at int64) bool {
	i, j := int64(-1), int64(-1)
	for _, in := range s.Inputs {
		if in < s.Worlds[0].At || s.broken(in) {
			continue
		}
		if in <= at {
			i = in
		} else if j < 0 {
			j = in
		}
	}
	if i < 0 || j < 0 || j-i > s.at(j).Policy.Gap[app] {
		return false
	}
	for _, e := range s.edges() {
		if e >= i && e <= j && s.broken(e) {
			return false
		}
		// Under the policy that a change replaced, the stretch must not be over yet.
		if e > i && e <= j && s.at(e).PolicyNo != s.at(e-1).PolicyNo && e > i+s.at(e - 1).Policy.Gap[app] {
			return false
		}
	}
	return true
}

// run is a time in which an instance or document is open.
type run struct {
	from, to int64
	why      usagev1.Reason
}

// runsOf finds the instances of an application.
func (s script) runsOf(app int) []run {
	var runs []run
	open := false
	for _, e := range s.edges() {
		if e == s.End {
			break
		}
		alive := s.runs(app, e)
		switch has := alive && !s.at(e).Policy.Gone[app]; {
		case has && !open:
			open = true
			if n := len(runs); n > 0 && runs[n-1].why == 0 && e <= runs[n-1].to+activity.HandOver {
				continue
			}
			runs = append(runs, run{from: e, to: -1})
		case !has && open:
			open = false
			runs[len(runs)-1].to = e
			if alive {
				runs[len(runs)-1].why = usagev1.Reason_REASON_POLICY_REMOVED
			}
		}
		if open {
			runs[len(runs)-1].to, runs[len(runs)-1].why = -1, 0
		}
	}
	if open {
		runs[len(runs)-1].to, runs[len(runs)-1].why = s.End, usagev1.Reason_REASON_SESSION_ENDED
	}
	return runs
}

// history is the truth about one run, where front says when it is in front.
func (s script) history(app int, r run, front func(at int64) bool) (pieces []piece, timeouts []int64) {
	edges := append(s.edges(), r.from, r.to)
	slices.Sort(edges)
	edges = slices.Compact(edges)
	counted := int64(0)
	timedOut := false
	put := func(p piece) {
		if p.From >= p.To {
			return
		}
		if n := len(pieces); n > 0 && pieces[n-1].Attention == p.Attention && pieces[n-1].State == p.State && pieces[n-1].Reason == p.Reason {
			pieces[n-1].To = p.To
			return
		}
		if p.State == usagev1.State_STATE_TIMEOUT && (len(pieces) == 0 || pieces[len(pieces)-1].State != p.State) {
			timeouts = append(timeouts, p.From)
		}
		pieces = append(pieces, p)
	}
	for n := 0; n+1 < len(edges); n++ {
		from, to := edges[n], edges[n+1]
		if from < r.from || to > r.to {
			continue
		}
		class, reason := s.overall(from)
		inFront := front(from)
		if class == "" {
			switch {
			case !inFront:
				class = "BACKGROUND"
			case s.at(from).NoInput:
				class, reason = "UNKNOWN", usagev1.Reason_REASON_INPUT_UNSUPPORTED
			case s.stretch(app, from):
				class = "BUSY"
			default:
				class = "IDLE"
			}
		}
		if slices.Contains(s.Inputs, from) && inFront && !s.broken(from) {
			counted, timedOut = 0, false
		}
		if class == "BUSY" {
			counted, timedOut = 0, false
			put(piece{attention(class), usagev1.State_STATE_ACTIVE, reason, from, to})
			continue
		}
		limit := s.at(from).Policy.Timeout[app]
		turn := to
		if counted >= limit || timedOut {
			turn = from
		} else if class == "AWAY" || class == "IDLE" || class == "BACKGROUND" {
			turn = min(to, from+limit-counted)
			counted += to - from
		}
		if turn < to {
			timedOut = true
		}
		put(piece{attention(class), usagev1.State_STATE_INACTIVE, reason, from, turn})
		put(piece{attention(class), usagev1.State_STATE_TIMEOUT, reason, turn, to})
	}
	return pieces, timeouts
}

// truth is what the machine should have said of the whole script.
func (s script) truth() []*line {
	var all []*line
	for app := range 2 {
		for _, r := range s.runsOf(app) {
			inFront := func(at int64) bool { return s.frontTitle(app, at) != nil }
			l := &line{App: appID(app), Opened: r.from, Closed: r.to, Why: r.why}
			l.Pieces, l.Timeouts = s.history(app, r, inFront)
			if len(l.Pieces) > 0 {
				all = append(all, l)
			}
			if app == 1 {
				all = append(all, s.documents(app, r)...)
			}
		}
	}
	return all
}

// frontTitle is the title of the window of an application that is in front.
func (s script) frontTitle(app int, at int64) *string {
	w := s.at(at)
	if w.Policy.Gone[app] {
		return nil
	}
	for _, x := range w.Windows {
		for _, p := range w.Procs {
			if x.ID == w.Front && p.PID == x.PID && p.Executable == programs[app] {
				return &x.Title
			}
		}
	}
	return nil
}

func (s script) documents(app int, r run) []*line {
	var all []*line
	for _, title := range []string{"a.txt", "b.txt"} {
		open := int64(-1)
		end := func(at int64, why usagev1.Reason) {
			l := &line{App: appID(app), Document: documentID(title), Opened: open, Closed: at, Why: why}
			l.Pieces, l.Timeouts = s.history(app, run{from: open, to: at}, func(at int64) bool {
				front := s.frontTitle(app, at)
				return front != nil && *front == title
			})
			if len(l.Pieces) > 0 {
				all = append(all, l)
			}
			open = -1
		}
		for _, e := range s.edges() {
			if e < r.from || e >= r.to {
				continue
			}
			w := s.at(e)
			shown := slices.ContainsFunc(w.Windows, func(x activity.Window) bool {
				return x.Title == title && slices.ContainsFunc(w.Procs, func(p activity.Process) bool { return p.PID == x.PID && p.Executable == programs[app] })
			})
			if shown && open < 0 {
				open = e
			}
			if !shown && open >= 0 {
				end(e, 0)
			}
		}
		if open >= 0 {
			end(r.to, r.why)
		}
	}
	return all
}

// documentID is the keyed hash that policy asks for.
func documentID(title string) contract.ID {
	mac := hmac.New(sha256.New, make([]byte, 32))
	mac.Write(append([]byte{3}, title...))
	return contract.ID(mac.Sum(nil)[:16])
}
