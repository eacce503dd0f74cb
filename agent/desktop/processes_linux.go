package desktop

import (
	"os"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

const (
	// processPeriodMillis is how often processes are looked at where the kernel does not
	// tell of them: what the events of windows bring in between does not ask for another
	// look.
	processPeriodMillis = PeriodMillis * 9 / 10
	// splitPeriodMillis is how often they are looked at where it does, for those that split
	// off and began no program: soon enough to continue the instance of what they split off
	// from. Where that was on a list, they are looked for at once when it ends.
	splitPeriodMillis = activity.HandOver * 3 / 5
)

// linuxProcesses are the processes of all sessions. The kernel tells when they begin a
// program and when they end (kernelNews), and has us look when a program of a display ends
// (exitWatch); where it does neither, they are looked for.
type linuxProcesses struct {
	table *processTable
	exits *exitWatch
	news  *kernelNews
	// told: the kernel told of programs and ends at the look before.
	told   bool
	why    string // it does not
	looked int64  // by the clock that stops in sleep; 0: never, or it is due
	lost   int64  // when something was not told, by that clock; 0: never
	last   moment
	shows  bool // there are processes that are not watched yet
	// unread have begun a program that nobody wants, by when. Most are gone within a second;
	// those that stay are read then.
	unread map[int32]int64
}

// kernel is what the kernel is asked for to tell of processes; it may refuse each.
type kernel struct {
	pidfd     func(pid int32) (fd int, err error)
	connector func(news uint32) (socket *os.File, err error)
	// apart is how long programs that begin one after the other wait to be read together.
	apart time.Duration
}

// systemKernel is the kernel of this machine.
func systemKernel() kernel { return kernel{openPIDFD, dialConnector, newsPeriod} }

// newLinuxProcesses begins to listen to the kernel; close ends it.
func newLinuxProcesses(table *processTable, k kernel, wake func()) *linuxProcesses {
	return &linuxProcesses{table: table, unread: make(map[int32]int64), exits: newExitWatch(k.pidfd, wake), news: newKernelNews(table.root, k, wake)}
}

func (p *linuxProcesses) close() {
	p.news.close()
	p.exits.close()
}

// follow tells the sessions of a machine, and has the processes follow them.
func (p *linuxProcesses) follow(s seats) seats { return followedSeats{s, p} }

// look implements processes.
func (p *linuxProcesses) look(now moment, force bool) error {
	changed := p.table.forgetEnded()
	heard := p.news.take()
	p.why = heard.why
	var moved bool
	var err error
	if heard.listening {
		moved, err = p.hear(now, heard)
	} else {
		moved, err = p.search(now, force)
	}
	if err != nil {
		return err
	}
	changed = moved || changed || p.told != heard.listening
	p.told, p.last = heard.listening, now
	if !changed && !p.shows {
		return nil
	}
	var shown map[int32]bool
	shown, p.shows = p.table.shown(now.bootMillis)
	p.news.await(shown)
	p.exits.watch(shown)
	return nil
}

// hear takes in what the kernel has told.
func (p *linuxProcesses) hear(now moment, heard heard) (changed bool, err error) {
	// Whose end had us look has told the kernel's news of it too, with its moment.
	for _, pid := range p.exits.take() {
		p.exits.remove(pid)
	}
	ended := false
	for _, n := range heard.news {
		at := p.place(n.awakeNanos, now)
		switch {
		case n.ended:
			delete(p.unread, n.pid)
			ended = p.table.ends(n.pid, at) || ended
		case n.began == nil:
			p.unread[n.pid] = at
		default:
			delete(p.unread, n.pid)
			p.table.begins(n.began, at)
		}
	}
	changed = p.table.listBegun()
	for pid, at := range p.unread {
		// What stands on a list was another program until then.
		if now.bootMillis-at >= PeriodMillis || p.table.stands(pid) {
			delete(p.unread, pid)
			changed = p.table.reread(pid, at) || changed
		}
	}
	if heard.lost {
		p.lost = max(1, now.awakeMillis)
	}
	all := heard.lost || !p.told
	if all || ended || p.looked == 0 || now.awakeMillis-p.looked >= splitPeriodMillis {
		p.looked = max(1, now.awakeMillis)
		moved, err := p.table.catchUp(all, p.unread)
		return moved || changed || ended, err
	}
	return changed, nil
}

// place puts a moment of the clock that stops in sleep on the boot timeline.
func (p *linuxProcesses) place(awakeNanos int64, now moment) int64 {
	awake := awakeNanos / int64(time.Millisecond)
	asleep := now.asleepMillis()
	if awake <= p.last.awakeMillis {
		asleep = p.last.asleepMillis()
	}
	return min(awake+asleep, now.bootMillis)
}

// search looks for what has come and gone.
func (p *linuxProcesses) search(now moment, force bool) (changed bool, err error) {
	ended := p.exits.take()
	changed = len(ended) > 0
	for _, pid := range ended {
		p.exits.remove(pid)
		p.table.end(pid)
	}
	if p.looked == 0 || now.awakeMillis-p.looked >= processPeriodMillis || force && !p.exits.tells() {
		p.looked = max(1, now.awakeMillis)
		moved, err := p.table.look(now.bootMillis, force && !p.exits.tells())
		return moved || changed, err
	}
	return changed, nil
}

// of implements processes.
func (p *linuxProcesses) of(s seat) []activity.Process { return p.table.list(s.key) }

// passed implements processes.
func (p *linuxProcesses) passed(s seat) []activity.Process { return p.table.passed[s.key] }

// shown implements processes.
func (p *linuxProcesses) shown(s seat, windows []activity.Window) {
	for _, w := range windows {
		if w.PID != 0 && p.table.windowOf(w.PID, s.key) {
			p.shows = true
		}
	}
}

// sift implements processes.
func (p *linuxProcesses) sift(wanted sieve) { p.news.sift(wanted) }

// shortfall implements processes.
func (p *linuxProcesses) shortfall() string {
	if p.why == "" && p.lost > 0 && p.last.awakeMillis-p.lost < livesMissedMillis {
		return livesMissed
	}
	return p.why
}

// followedSeats have the processes follow the sessions.
type followedSeats struct {
	seats
	processes *linuxProcesses
}

func (f followedSeats) list() ([]seat, error) {
	list, err := f.seats.list()
	if err == nil {
		f.processes.news.follow(list)
		if f.processes.table.follow(list) {
			f.processes.looked = 0 // nobody was told of what began for whom no session was known
		}
	}
	return list, err
}
