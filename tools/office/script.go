package office

import (
	"iter"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
)

// Script makes a script for the scripted desktop of what a person does; its
// times count from begin.
func Script(person Person, acts iter.Seq[Act], begin time.Time) scripted.Script {
	return func(yield func(scripted.Step) bool) {
		w := scriptWriter{
			yield: yield, begin: begin, person: person,
			processes: map[string]int32{}, owners: map[uint64]string{},
		}
		for act := range acts {
			w.write(act)
			if w.over {
				return
			}
		}
	}
}

type scriptWriter struct {
	yield     func(scripted.Step) bool
	begin     time.Time
	person    Person
	over      bool
	sleepAt   time.Time // not zero: asleep since, until the next act
	lastPID   int32
	processes map[string]int32  // by path
	owners    map[uint64]string // paths by window
}

func (w *scriptWriter) write(act Act) {
	switch act.Kind {
	case Sleep:
		w.sleepAt = act.At // how long is known at Wake
		return
	case Wake:
		w.step(w.sleepAt, scripted.Sleep{For: act.At.Sub(w.sleepAt)})
		return
	case LogOn:
		w.step(act.At, scripted.LogOn{User: activity.User{Domain: Domain, Name: w.person.Login, DisplayName: w.person.Name}})
	case LogOff:
		w.step(act.At, scripted.LogOff{})
	case Open:
		w.open(act)
	case Retitle:
		w.step(act.At, scripted.Title{ID: act.Window, Title: act.Title})
	case Close:
		w.close(act)
	case Focus:
		w.step(act.At, scripted.Focus{ID: act.Window})
	case Input:
		w.step(act.At, scripted.Input{})
	case Lock:
		w.step(act.At, scripted.Lock{})
	case Unlock:
		w.step(act.At, scripted.Unlock{})
	}
}

func (w *scriptWriter) step(at time.Time, do scripted.Action) {
	if !w.over {
		w.over = !w.yield(scripted.Step{At: at.Sub(w.begin), Do: do})
	}
}

func (w *scriptWriter) open(act Act) {
	path := act.Program.Path
	pid, runs := w.processes[path]
	if !runs {
		w.lastPID += 7
		pid = 1000 + w.lastPID
		w.processes[path] = pid
		w.step(act.At, scripted.Start{PID: pid, Parent: 1, Path: path})
	}
	w.owners[act.Window] = path
	w.step(act.At, scripted.Show{ID: act.Window, PID: pid, Class: act.Program.Class, Title: act.Title})
	w.step(act.At, scripted.Focus{ID: act.Window})
}

// close closes a window; a program ends with its last one.
func (w *scriptWriter) close(act Act) {
	path := w.owners[act.Window]
	delete(w.owners, act.Window)
	w.step(act.At, scripted.Hide{ID: act.Window})
	for _, other := range w.owners {
		if other == path {
			return
		}
	}
	w.step(act.At, scripted.Exit{PID: w.processes[path]})
	delete(w.processes, path)
}
