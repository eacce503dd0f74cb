package firm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// handsEvery lies between two inputs of somebody who works: less than any activity gap.
const handsEvery = 28 * time.Second

// player writes the script of one person at one machine.
type player struct {
	calendar *calendar
	person   *Person
	programs map[string]Program
	// session names the desktop session, since several may share a machine.
	session string
	begin   time.Time
	yield   func(scripted.Step) bool
	over    bool
	random  *rand.Rand

	now        time.Time
	on, locked bool
	remote     bool
	// alwaysRemote: the machine is elsewhere.
	alwaysRemote bool
	windows      []window // the last one is in front
	last         int32    // the last number given to a process and its window
	zone         int
}

type window struct {
	program string
	id      int32
}

// play makes a script of what somebody does; it begins and ends logged off.
func play(c *calendar, p *Person, session string, from time.Time, what func(*player)) scripted.Script {
	return func(yield func(scripted.Step) bool) {
		_, zone := from.Zone()
		w := &player{calendar: c, person: p, programs: Programs(), session: session, begin: from, now: from, yield: yield, zone: zone}
		what(w)
		w.leave()
	}
}

func (w *player) do(action scripted.Action) {
	if !w.over {
		w.over = !w.yield(scripted.Step{At: w.now.Sub(w.begin), Session: w.session, Do: action})
	}
}

func (w *player) pass(d time.Duration) { w.now = w.now.Add(d.Truncate(time.Millisecond)) }

func (w *player) chance(percent int) bool { return w.random.IntN(100) < percent }

func (w *player) between(least, most time.Duration) time.Duration {
	return (least + time.Duration(w.random.Int64N(int64(most-least)+1))).Truncate(time.Millisecond)
}

// days plays every day until the end.
func (w *player) days(to time.Time) {
	for day := midnight(w.begin); day.Before(to) && !w.over; day = midnight(day.Add(30 * time.Hour)) {
		w.random = w.calendar.random(w.person.Number, day)
		if w.calendar.works(w.person, day, w.random) {
			w.day(day, to)
		} else if w.on && !w.person.at(day) {
			w.leave()
		}
	}
	if to.After(w.now) {
		w.now = to
	}
}

// day is one working day, of which nothing happens after the end.
func (w *player) day(day, end time.Time) {
	role := w.person.role
	begin := day.Add(7*time.Hour + 15*time.Minute + w.between(0, 2*time.Hour))
	hours := role.hours + float64(w.random.IntN(90)-45)/60
	near, days := w.calendar.pressed(w.person, day)
	weekend := day.Weekday() == time.Saturday || day.Weekday() == time.Sunday
	switch {
	case role.nights:
		begin = day.Add(21*time.Hour + 30*time.Minute + w.between(0, 25*time.Minute))
	case weekend:
		begin, hours = day.Add(10*time.Hour+w.between(0, 3*time.Hour)), 1+float64(w.random.IntN(180))/60
	case days && w.chance(35): // past midnight
		hours += 7
	case near && w.chance(60):
		hours += 2
	case day.Weekday() == time.Friday:
		hours--
	}
	if w.now.After(begin) {
		// Who was at it past midnight, or has only begun to be told of, comes when they can.
		hours -= w.now.Sub(begin).Hours()
		begin = w.now
	}
	finish := begin.Add(time.Duration(max(30, hours*60)) * time.Minute)
	if finish.After(end) {
		finish = end
	}
	if !begin.Before(finish) {
		return
	}
	w.now = begin
	w.arrive(w.person.homeDays && !w.person.laptop && w.chance(40))
	today := w.today(day)
	lunch := day.Add(11*time.Hour + 45*time.Minute + w.between(0, 75*time.Minute))
	if role.nights {
		lunch = begin.Add(4 * time.Hour)
	}
	if w.now.Before(lunch) && lunch.Before(finish) {
		w.work(lunch, today)
		w.rest(w.between(25*time.Minute, 50*time.Minute))
	}
	w.work(finish, today)
	w.goHome(day)
}

// today is what somebody works with on a day, from their role's programs.
func (w *player) today(day time.Time) []use {
	var today []use
	for _, u := range w.person.role.uses {
		u.days = w.calendar.days(w.person, u, day)
		if w.chance(u.days) {
			today = append(today, u)
		}
	}
	if len(today) == 0 {
		today = w.person.role.uses[:1]
	}
	return today
}

func (w *player) arrive(remote bool) {
	if _, zone := w.now.Zone(); zone != w.zone {
		w.zone = zone
		w.do(scripted.SetZone{OffsetSeconds: int32(zone)})
	}
	access := usagev1.SessionAccess_SESSION_ACCESS_CONSOLE
	if remote || w.alwaysRemote {
		access = usagev1.SessionAccess_SESSION_ACCESS_REMOTE
	}
	switch {
	case !w.on:
		w.on = true
		w.do(scripted.LogOn{User: activity.User{Domain: Domain, Name: w.person.Login, DisplayName: w.person.Name}, Access: access})
	default:
		w.do(scripted.Connect{Access: access})
	}
	w.remote = access == usagev1.SessionAccess_SESSION_ACCESS_REMOTE
	if w.locked {
		w.locked = false
		w.do(scripted.Unlock{})
	}
	w.do(scripted.Input{})
	w.pass(w.between(5*time.Second, 40*time.Second))
}

// work works until a moment with what there is today.
func (w *player) work(until time.Time, today []use) {
	role := w.person.role
	for w.now.Before(until) && !w.over {
		u := w.pick(today)
		program := w.programs[u.program]
		w.front(u.program)
		spell := w.between(6*time.Minute, 24*time.Minute)
		if program.Heavy {
			spell = w.between(25*time.Minute, 80*time.Minute)
		}
		if u.share <= 4 { // looked at by the way
			spell = w.between(1*time.Minute, 4*time.Minute)
		}
		spell = max(time.Millisecond, min(spell, until.Sub(w.now)))
		hands := spell * time.Duration(55+w.random.IntN(40)) / 100
		w.do(scripted.Inputs{For: hands, Every: handsEvery})
		w.pass(spell)
		if !program.Heavy && w.chance(70) || u.share <= 4 {
			w.closeFront()
		}
		if left := until.Sub(w.now); left > 50*time.Minute {
			switch dice := w.random.Float64() * 9; {
			case dice < role.meetings:
				w.rest(min(left, w.between(25*time.Minute, 75*time.Minute)))
			case dice < role.meetings+0.9:
				w.rest(w.between(5*time.Minute, 18*time.Minute))
			}
		}
	}
}

func (w *player) pick(today []use) use {
	whole := 0
	for _, u := range today {
		whole += u.share
	}
	dice := w.random.IntN(whole)
	for _, u := range today {
		if dice -= u.share; dice < 0 {
			return u
		}
	}
	return today[0]
}

// front brings a program to the front, and begins it where it does not run.
func (w *player) front(name string) {
	program := w.programs[name]
	for i, open := range w.windows {
		if open.program == name {
			w.windows = append(append(w.windows[:i:i], w.windows[i+1:]...), open)
			w.do(scripted.Focus{ID: uint64(open.id)})
			if strings.Contains(program.Title, "%s") && w.chance(35) {
				w.do(scripted.Title{ID: uint64(open.id), Title: w.title(program)})
			}
			return
		}
	}
	w.last++
	w.windows = append(w.windows, window{name, w.last})
	w.do(scripted.Start{PID: w.last, Parent: 1, Path: program.Path})
	w.do(scripted.Show{ID: uint64(w.last), PID: w.last, Class: program.Class, Title: w.title(program)})
	w.do(scripted.Focus{ID: uint64(w.last)})
	if len(w.windows) > 4 { // nobody keeps everything open
		w.closeAt(0)
	}
}

func (w *player) title(program Program) string {
	if !strings.Contains(program.Title, "%s") {
		return program.Title
	}
	if len(program.Pages) > 0 {
		return fmt.Sprintf(program.Title, program.Pages[w.random.IntN(len(program.Pages))])
	}
	projects := w.calendar.projectsOn(midnight(w.now))
	// The same people mostly work on the same projects.
	project := projects[(w.person.Number+w.random.IntN(2))%len(projects)]
	return fmt.Sprintf(program.Title, fmt.Sprintf(program.File, project.Number, 1+(w.person.Number/3+w.random.IntN(5))%12))
}

func (w *player) closeFront() { w.closeAt(len(w.windows) - 1) }

func (w *player) closeAt(i int) {
	if i < 0 || i >= len(w.windows) {
		return
	}
	w.do(scripted.Exit{PID: w.windows[i].id})
	w.windows = append(w.windows[:i:i], w.windows[i+1:]...)
	if n := len(w.windows); n > 0 {
		w.do(scripted.Focus{ID: uint64(w.windows[n-1].id)})
	}
}

// rest is time away from the desk; what is open stays open.
func (w *player) rest(d time.Duration) {
	lock := w.chance(60)
	if lock {
		w.do(scripted.Lock{})
	}
	w.pass(d)
	if lock {
		w.do(scripted.Unlock{})
	}
	w.do(scripted.Input{})
}

// goHome ends a day: some only lock their screen, or cut the line, and leave what is open.
func (w *player) goHome(day time.Time) {
	tonight := 35
	if day.Weekday() == time.Friday {
		tonight = 15
	}
	if w.person.leavesOpen && len(w.windows) > 0 && w.chance(tonight) {
		if w.remote {
			w.do(scripted.Disconnect{})
			return
		}
		w.locked = true
		w.do(scripted.Lock{})
		return
	}
	w.leave()
}

// leave closes everything and logs off.
func (w *player) leave() {
	for len(w.windows) > 0 {
		w.do(scripted.Exit{PID: w.windows[len(w.windows)-1].id})
		w.windows = w.windows[:len(w.windows)-1]
	}
	if w.on {
		w.on, w.locked, w.remote = false, false, false
		w.do(scripted.LogOff{})
	}
}

// shift is the working day, at any hour, that a spectator would like to see: short spells
// and short rests, without end.
func (w *player) shift(seed uint64) {
	w.random = rand.New(rand.NewPCG(seed, uint64(w.person.Number)))
	w.pass(w.between(0, 4*time.Second))
	w.arrive(w.person.homeDays && !w.person.laptop)
	uses := w.today(midnight(w.now))
	for _, u := range uses[:min(2, len(uses))] {
		w.front(u.program)
		w.pass(w.between(time.Second, 4*time.Second))
	}
	for !w.over {
		u := w.pick(uses)
		w.front(u.program)
		for range 1 + w.random.IntN(4) {
			hands := w.between(40*time.Second, 4*time.Minute)
			w.do(scripted.Inputs{For: hands, Every: w.between(3*time.Second, 20*time.Second)})
			w.pass(hands + w.between(5*time.Second, 90*time.Second))
		}
		if w.chance(20) {
			w.closeFront()
		}
		if w.chance(12) {
			w.rest(w.between(time.Minute, 8*time.Minute))
		}
		if w.chance(6) {
			uses = w.today(midnight(w.now))
		}
	}
}
