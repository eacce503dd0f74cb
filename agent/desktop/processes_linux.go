package desktop

import "github.com/cetrus/cetrus/agent/activity"

// processPeriodMillis is how often processes are looked at: they come and go without an
// event, and what the events of windows bring in between does not ask for another look.
const processPeriodMillis = PeriodMillis * 9 / 10

// linuxProcesses are the processes of all sessions, whose ends the kernel tells.
type linuxProcesses struct {
	table  *processTable
	exits  *exitWatch
	looked int64 // by the clock that stops in sleep; 0: never
	shows  bool  // windows have shown processes that are not watched yet
}

// look implements processes.
func (p *linuxProcesses) look(now moment, force bool) error {
	ended := p.exits.take()
	changed := len(ended) > 0
	for _, pid := range ended {
		p.exits.remove(pid)
		p.table.end(pid)
	}
	if p.looked == 0 || now.awakeMillis-p.looked >= processPeriodMillis || force && !p.exits.tells() {
		p.looked = max(1, now.awakeMillis)
		moved, err := p.table.look(now.bootMillis, force && !p.exits.tells())
		if err != nil {
			return err
		}
		changed = moved || changed
	}
	if changed || p.shows {
		p.shows = false
		p.table.watch(p.exits)
	}
	return nil
}

// of implements processes.
func (p *linuxProcesses) of(s seat) []activity.Process { return p.table.list(s.key) }

// shown implements processes.
func (p *linuxProcesses) shown(s seat, windows []activity.Window) {
	for _, w := range windows {
		if w.PID != 0 && p.table.windowOf(w.PID, s.key) {
			p.shows = true
		}
	}
}

// followedSeats have the processes follow the sessions.
type followedSeats struct {
	seats
	table *processTable
}

func (f followedSeats) list() ([]seat, error) {
	list, err := f.seats.list()
	if err == nil {
		f.table.follow(list)
	}
	return list, err
}
