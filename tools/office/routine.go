package office

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Days is what a person does from one moment to another: working days with a
// lunch break, evenings, weekends, laptops asleep at night. It ends logged off.
// The zone of from is the office's. The same seed gives the same days.
func Days(person Person, seed uint64, from, to time.Time) iter.Seq[Act] {
	return func(yield func(Act) bool) {
		r := newRoutine(person, seed, from, yield)
		for day := from; day.Before(to) && !r.over; day = midnight(day).AddDate(0, 0, 1) {
			r.day(midnight(day), to)
		}
		r.leave()
	}
}

// Shift is what a person does from a moment on, without end: the working day
// that a spectator would like to see at any hour, with shorter breaks.
func Shift(person Person, seed uint64, from time.Time) iter.Seq[Act] {
	return func(yield func(Act) bool) {
		r := newRoutine(person, seed, from, yield)
		r.brisk = true
		r.pass(time.Duration(r.rand.IntN(3000)) * time.Millisecond)
		r.arrive()
		for range 1 + r.rand.IntN(3) { // nobody likes to watch an empty office
			r.open()
		}
		for !r.over {
			r.work(r.now.Add(r.between(20*time.Minute, 50*time.Minute)))
			r.breakFor(r.between(40*time.Second, 4*time.Minute))
		}
	}
}

func midnight(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, t.Location())
}

type window struct {
	id      uint64
	program string
}

// routine is a person as the days go by.
type routine struct {
	person   Person
	programs map[string]Program
	rand     *rand.Rand
	now      time.Time
	yield    func(Act) bool
	over     bool
	brisk    bool // turns from one thing to another sooner

	present  bool // logged on
	locked   bool
	asleep   bool
	windows  []window // the last one is in front
	lastID   uint64
	untilEnd time.Time
}

func newRoutine(person Person, seed uint64, from time.Time, yield func(Act) bool) *routine {
	return &routine{
		person: person, programs: programs(), now: from, yield: yield,
		rand: rand.New(rand.NewPCG(seed, uint64(person.Number)+1)),
	}
}

func (r *routine) act(a Act) {
	if r.over {
		return
	}
	a.At = r.now
	r.over = !r.yield(a)
}

func (r *routine) pass(d time.Duration) { r.now = r.now.Add(d.Truncate(time.Millisecond)) }

func (r *routine) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rand.Int64N(int64(most-least)+1))
}

func (r *routine) chance(percent int) bool { return r.rand.IntN(100) < percent }

// day is one day, of which nothing happens after the end.
func (r *routine) day(midnight, end time.Time) {
	weekend := midnight.Weekday() == time.Saturday || midnight.Weekday() == time.Sunday
	ill := r.chance(4)
	extra := r.person.Laptop && r.chance(15)
	if (weekend && !extra) || (!weekend && ill) {
		return
	}
	begin := midnight.Add(7*time.Hour + 15*time.Minute + r.between(0, 2*time.Hour))
	length := 7*time.Hour + r.between(0, 2*time.Hour)
	if weekend {
		begin = midnight.Add(10*time.Hour + r.between(0, 6*time.Hour))
		length = r.between(20*time.Minute, 2*time.Hour)
	}
	begin, finish := later(begin, r.now), begin.Add(length)
	if finish.After(end) {
		finish = end
	}
	if !begin.Before(finish) {
		return
	}
	r.now = begin
	r.arrive()
	lunch := midnight.Add(11*time.Hour + 45*time.Minute + r.between(0, 75*time.Minute))
	if r.now.Before(lunch) && lunch.Before(finish) {
		r.work(lunch)
		r.breakFor(r.between(25*time.Minute, time.Hour))
	}
	r.work(finish)
	r.goHome()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (r *routine) arrive() {
	if r.asleep {
		r.asleep = false
		r.act(Act{Kind: Wake})
		r.pass(r.between(2*time.Second, 5*time.Second))
	}
	if !r.present {
		r.present = true
		r.act(Act{Kind: LogOn})
		r.pass(r.between(time.Second, 4*time.Second))
	}
	r.unlock()
}

func (r *routine) unlock() {
	if !r.locked {
		return
	}
	r.locked = false
	r.act(Act{Kind: Unlock})
	r.input()
}

func (r *routine) goHome() {
	if r.person.LeavesOpen && len(r.windows) > 0 {
		r.locked = true
		r.act(Act{Kind: Lock})
	} else {
		r.leave()
	}
	if r.person.Laptop {
		r.pass(5 * time.Second)
		r.asleep = true
		r.act(Act{Kind: Sleep})
	}
}

// leave closes everything and logs off.
func (r *routine) leave() {
	if !r.present || r.over {
		return
	}
	if r.asleep {
		r.asleep = false
		r.act(Act{Kind: Wake})
		r.pass(time.Second)
	}
	for len(r.windows) > 0 && !r.over {
		r.closeFront()
		r.pass(r.between(500*time.Millisecond, 3*time.Second))
	}
	r.locked, r.present = false, false
	r.act(Act{Kind: LogOff})
}

func (r *routine) breakFor(d time.Duration) {
	if !r.locked && r.chance(70) {
		r.locked = true
		r.act(Act{Kind: Lock})
	}
	r.pass(d)
	r.unlock()
}

// work goes on until a moment.
func (r *routine) work(until time.Time) {
	r.untilEnd = until
	write, read := 4*time.Minute, 3*time.Minute
	if r.brisk {
		write, read = 70*time.Second, 50*time.Second
	}
	for !r.over && r.now.Before(until) {
		if len(r.windows) == 0 {
			r.open()
		}
		switch dice := r.rand.IntN(100); {
		case dice < r.person.Diligence:
			r.write(r.between(8*time.Second, write))
		case dice < 85:
			r.read(r.between(12*time.Second, read))
		case dice < 95:
			r.turn()
		case dice < 98:
			r.closeSome()
		default:
			r.breakFor(r.between(2*time.Minute, 25*time.Minute))
		}
		if r.chance(35) {
			r.turn()
		}
	}
	r.now = later(r.now, until)
}

// write is a time with hands on the keyboard, short pauses to think included.
func (r *routine) write(d time.Duration) {
	for end := r.now.Add(d); !r.over && r.now.Before(end) && r.now.Before(r.untilEnd); {
		r.input()
		if r.chance(6) {
			r.pass(r.between(8*time.Second, 27*time.Second))
		} else {
			r.pass(r.between(400*time.Millisecond, 5*time.Second))
		}
	}
}

// read is a time without input.
func (r *routine) read(d time.Duration) {
	r.pass(d)
	if r.now.Before(r.untilEnd) && r.chance(50) {
		r.input()
	}
}

func (r *routine) input() { r.act(Act{Kind: Input}) }

// turn goes to another window, program or document.
func (r *routine) turn() {
	r.input()
	switch dice := r.rand.IntN(100); {
	case dice < 50 && len(r.windows) > 1:
		i := r.rand.IntN(len(r.windows) - 1)
		w := r.windows[i]
		r.windows = append(slices.Delete(r.windows, i, i+1), w)
		r.act(Act{Kind: Focus, Window: w.id})
	case dice < 70 && len(r.windows) > 0:
		front := r.windows[len(r.windows)-1]
		program := r.programs[front.program]
		r.act(Act{Kind: Retitle, Window: front.id, Program: program, Title: r.title(program)})
	case dice < 74:
		r.act(Act{Kind: Focus}) // the bare desktop
		r.pass(r.between(2*time.Second, 20*time.Second))
		if len(r.windows) > 0 {
			r.input()
			r.act(Act{Kind: Focus, Window: r.windows[len(r.windows)-1].id})
		}
	case len(r.windows) < 6:
		r.open()
	}
	r.pass(r.between(300*time.Millisecond, 2*time.Second))
}

func (r *routine) open() {
	own := r.person.Programs
	// The first is used most: each next one half as often.
	name := own[len(own)-1]
	for _, candidate := range own {
		if r.chance(50) {
			name = candidate
			break
		}
	}
	program := r.programs[name]
	r.input()
	r.pass(r.between(300*time.Millisecond, 2*time.Second))
	if program.Heavy && !slices.ContainsFunc(r.windows, func(w window) bool { return w.program == name }) {
		r.pass(r.between(3*time.Second, 9*time.Second))
	}
	r.lastID++
	r.windows = append(r.windows, window{id: r.lastID, program: name})
	r.act(Act{Kind: Open, Window: r.lastID, Program: program, Title: r.title(program)})
}

func (r *routine) closeSome() {
	if len(r.windows) < 2 {
		return
	}
	if front := r.windows[len(r.windows)-1]; r.programs[front.program].Heavy && r.chance(70) {
		return
	}
	r.input()
	r.closeFront()
}

func (r *routine) closeFront() {
	front := r.windows[len(r.windows)-1]
	r.windows = r.windows[:len(r.windows)-1]
	r.act(Act{Kind: Close, Window: front.id})
	var next uint64
	if len(r.windows) > 0 {
		next = r.windows[len(r.windows)-1].id
	}
	r.act(Act{Kind: Focus, Window: next})
}

func (r *routine) title(program Program) string {
	document := program.Documents[r.rand.IntN(len(program.Documents))]
	if !strings.Contains(program.Title, "%s") {
		return program.Title
	}
	return fmt.Sprintf(program.Title, document)
}
