package firm

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/desks"
)

// Days is how long the firm's past is, unless told otherwise.
const Days = 210

const (
	windows11 = "Windows 11 Pro 24H2"
	server    = "Windows Server 2022"
	debian    = "Debian GNU/Linux 13"

	// calmPeriod lies between two observations of machines at which nobody is watched.
	calmPeriod = 5 * time.Second
	// earlyCrew is how many are at work first.
	earlyCrew = 18
	// terminals is how many use the terminal server.
	terminals = 10
	// lateLaptops have been away for two weeks and come back.
	lateLaptops = 3
)

// Firm is everybody and everything of the firm.
type Firm struct {
	People []*Person
	Desks  []desks.Desk

	calendar *calendar
}

// New makes the firm of a seed, as it was between two moments; for the same three it is
// the same. most bounds how many people there are, for tests; 0: all.
func New(seed uint64, from, to time.Time, most int) *Firm {
	f := &Firm{People: staff(seed, from, to), calendar: &calendar{seed: seed, to: to}}
	if most > 0 && most < len(f.People) {
		// Some of each department.
		var some []*Person
		for i := range most {
			some = append(some, f.People[i*len(f.People)/most])
		}
		f.People = some
	}
	f.machines()
	return f
}

// machines gives everybody a desk, and puts up the servers.
func (f *Firm) machines() {
	add := func(d desks.Desk) {
		d.Number = len(f.Desks)
		f.Desks = append(f.Desks, d)
	}
	var hosts []string
	byHost := map[string][]*Person{}
	for _, p := range f.People {
		if byHost[p.host] == nil {
			hosts = append(hosts, p.host)
		}
		byHost[p.host] = append(byHost[p.host], p)
	}
	crew, late := 0, 0
	var silent, skewed, blind bool
	for _, host := range hosts {
		owners := byHost[host]
		p := owners[0]
		d := desks.Desk{Host: host, System: windows11, Site: p.Site, Past: f.past(owners), Present: f.present(owners), Period: calmPeriod, Roams: p.crew && p.laptop}
		if p.crew {
			d.Period = 0
			crew++
			d.Early = crew%2 == 0 && crew <= 2*earlyCrew
		}
		switch {
		case p.crew || p.Joined.After(time.Time{}) || !p.Left.IsZero():
		case !silent && p.Department == sales:
			// Its agent was stopped eleven days ago, and nobody has noticed.
			silent, d.Past, d.Present = true, f.until(d.Past, f.calendar.to.AddDate(0, 0, -11)), nil
		case !skewed && p.Department == civil:
			skewed, d.Clock = true, 9*time.Minute
		case !blind && p.Department == digital:
			// A Linux desktop that does not tell which window is in front, since it was upgraded.
			blind, d.System = true, debian
			d.Past, d.Present = unsupported(d.Past, f.calendar.to.AddDate(0, 0, -6)), unsupportedNow(d.Present)
		case late < lateLaptops && p.laptop && p.Department == projects:
			d.Late = true
			late++
		}
		add(d)
	}
	add(f.terminalServer())
	add(f.forgotten("sim-01", analysis, f.calendar.to.AddDate(0, 0, -163), "ansys", "matlab"))
	add(f.forgotten("gis-02", civil, f.calendar.to.AddDate(0, 0, -121), "arcgis", "excel"))
}

// past is what the owners of a machine did at it.
func (f *Firm) past(owners []*Person) func(from, to time.Time) scripted.Script {
	return func(from, to time.Time) scripted.Script {
		var scripts []scripted.Script
		for _, p := range owners {
			scripts = append(scripts, play(f.calendar, p, p.Login, from, func(w *player) { w.days(to) }))
		}
		return merge(scripts)
	}
}

// present goes on with who is there now.
func (f *Firm) present(owners []*Person) func(now time.Time, seed uint64) scripted.Script {
	return func(now time.Time, seed uint64) scripted.Script {
		var scripts []scripted.Script
		for _, p := range owners {
			scripts = append(scripts, play(f.calendar, p, p.Login, now, func(w *player) {
				if p.crew {
					w.shift(seed)
				} else {
					w.days(now.AddDate(1, 0, 0))
				}
			}))
		}
		return merge(scripts)
	}
}

// until leaves out what comes after a moment.
func (f *Firm) until(past func(from, to time.Time) scripted.Script, end time.Time) func(from, to time.Time) scripted.Script {
	return func(from, to time.Time) scripted.Script {
		if end.Before(to) {
			to = end
		}
		if !from.Before(to) {
			return scripted.Steps()
		}
		return past(from, to)
	}
}

// terminalServer has the sessions of those who work at it from elsewhere.
func (f *Firm) terminalServer() desks.Desk {
	var guests []*Person
	for _, p := range f.People {
		if p.Department != sales || p.crew || len(guests) == terminals {
			continue
		}
		guest := *p
		guest.Number += 1000 // other days than at their own machine
		guest.homeDays, guest.laptop, guest.leavesOpen = false, false, true
		guest.role = &role{hours: 2.5, meetings: 1, uses: []use{{"sapgui", 95, 40}, {"excel", 60, 25}, {"powerbi", 12, 20}}}
		guests = append(guests, &guest)
	}
	remote := func(script func(p *Person, w *player)) func(from time.Time) scripted.Script {
		return func(from time.Time) scripted.Script {
			var scripts []scripted.Script
			for _, p := range guests {
				scripts = append(scripts, play(f.calendar, p, p.Login, from, func(w *player) {
					w.alwaysRemote = true
					script(p, w)
				}))
			}
			return merge(scripts)
		}
	}
	return desks.Desk{
		Host: "ts-01", System: server, Period: calmPeriod,
		Past: func(from, to time.Time) scripted.Script {
			return remote(func(_ *Person, w *player) { w.days(to) })(from)
		},
		Present: func(now time.Time, _ uint64) scripted.Script {
			return remote(func(_ *Person, w *player) { w.days(now.AddDate(1, 0, 0)) })(now)
		},
	}
}

// forgotten is a server on which somebody began some programs, cut the line, and never came
// back.
func (f *Firm) forgotten(host, department string, since time.Time, names ...string) desks.Desk {
	programs := Programs()
	// Whoever it was has their own machine, too.
	owner := f.People[0]
	for _, p := range f.People {
		if p.Department == department {
			owner = p
		}
	}
	script := func(from, begin, end time.Time) scripted.Script {
		if !begin.Before(end) {
			return scripted.Steps()
		}
		at := begin.Sub(from)
		steps := []scripted.Step{{At: at, Do: scripted.LogOn{
			User:   activity.User{Domain: Domain, Name: owner.Login, DisplayName: owner.Name},
			Access: usagev1.SessionAccess_SESSION_ACCESS_REMOTE,
		}}}
		for i, name := range names {
			id := int32(i + 1)
			title := programs[name].Title
			if programs[name].File != "" {
				title = programs[name].Name
			}
			steps = append(steps,
				scripted.Step{At: at, Do: scripted.Start{PID: id, Parent: 1, Path: programs[name].Path}},
				scripted.Step{At: at, Do: scripted.Show{ID: uint64(id), PID: id, Class: programs[name].Class, Title: title}},
				scripted.Step{At: at, Do: scripted.Focus{ID: uint64(id)}})
		}
		steps = append(steps, scripted.Step{At: at + time.Second, Do: scripted.Disconnect{}})
		if end.Before(farAway) {
			steps = append(steps, scripted.Step{At: end.Sub(from), Do: scripted.LogOff{}})
		}
		return scripted.Steps(steps...)
	}
	return desks.Desk{
		Host: host, System: server, Period: calmPeriod, Whole: true,
		Past: func(from, to time.Time) scripted.Script {
			begin := since
			if begin.Before(from) {
				begin = from
			}
			return script(from, begin, to)
		},
		Present: func(now time.Time, _ uint64) scripted.Script { return script(now, now, farAway) },
	}
}

var farAway = time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)

// unsupported has the desktop keep to itself which window is in front, from a moment on.
func unsupported(past func(from, to time.Time) scripted.Script, since time.Time) func(from, to time.Time) scripted.Script {
	return func(from, to time.Time) scripted.Script { return keptToItself(past(from, to), since.Sub(from)) }
}

func unsupportedNow(present func(now time.Time, seed uint64) scripted.Script) func(now time.Time, seed uint64) scripted.Script {
	return func(now time.Time, seed uint64) scripted.Script { return keptToItself(present(now, seed), 0) }
}

func keptToItself(script scripted.Script, since time.Duration) scripted.Script {
	return func(yield func(scripted.Step) bool) {
		for step := range script {
			if !yield(step) {
				return
			}
			if _, on := step.Do.(scripted.LogOn); on && step.At >= since && !yield(scripted.Step{At: step.At, Session: step.Session, Do: scripted.FocusUnsupported{Is: true}}) {
				return
			}
		}
	}
}

// merge plays several scripts at one machine, in the order of time.
func merge(scripts []scripted.Script) scripted.Script {
	if len(scripts) == 1 {
		return scripts[0]
	}
	return func(yield func(scripted.Step) bool) {
		type head struct {
			step scripted.Step
			next func() (scripted.Step, bool)
		}
		var heads []head
		for _, script := range scripts {
			next, stop := iter.Pull(script)
			defer stop()
			if step, more := next(); more {
				heads = append(heads, head{step, next})
			}
		}
		for len(heads) > 0 {
			first, least := 0, time.Duration(math.MaxInt64)
			for i, h := range heads {
				if h.step.At < least {
					first, least = i, h.step.At
				}
			}
			if !yield(heads[first].step) {
				return
			}
			var more bool
			if heads[first].step, more = heads[first].next(); !more {
				heads = slices.Delete(heads, first, first+1)
			}
		}
	}
}

// Groups are the people of each department, those that are there at the end.
func (f *Firm) Groups() map[string][]*Person {
	groups := map[string][]*Person{}
	for _, p := range f.People {
		groups[p.Department] = append(groups[p.Department], p)
	}
	for _, people := range groups {
		slices.SortFunc(people, func(a, b *Person) int { return cmp.Compare(a.Name, b.Name) })
	}
	return groups
}
