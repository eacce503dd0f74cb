package desktop

import (
	"cmp"
	"slices"
	"sync"

	"github.com/cetrus/cetrus/agent/activity"
)

// snapshotProcess is one line of a list of all processes of the machine.
type snapshotProcess struct {
	pid, parent int32
	// session is the number of the session that the process belongs to.
	session uint32
	// created is a FILETIME.
	created int64
	name    string
}

// snapshotter lists processes, and looks closer at one of them.
type snapshotter interface {
	// snapshot lists the processes that run; the slice is the snapshotter's own.
	snapshot() ([]snapshotProcess, error)
	// describe tells the program's file and its package; empty where the system does
	// not say.
	describe(pid int32) (path, pkg string)
	// fileOf is a file by its drive that the kernel names by its device; empty: it has none.
	fileOf(image string) string
	// waitFor sees to it that the exits of these processes, and of no others, are told.
	waitFor(pids []int32)
}

// snapshotTable follows processes by comparing lists of all of them, and by what a trace
// tells of those that come and go in between.
type snapshotTable struct {
	source   snapshotter
	line     *bootline
	known    map[int32]*followed
	sessions map[uint32]*sessionProcesses
	looked   int64 // by the clock that stops in sleep
	// coming have started, and are on no list; their exit is being told.
	coming map[born]*processEvent
	// past are those that were known and are told to be gone, by when that was.
	past   map[born]int64
	lostAt int64 // when the trace did not tell all, by that clock; 0: never

	mu     sync.Mutex
	exits  map[born]exit
	starts []processEvent
	why    string // no trace tells
	lost   bool
	wanted sieve // nil: all are
}

// exit is when a process is said to have exited, as a FILETIME.
type exit struct {
	at int64
	// sure: it was held on to when it did. What a trace tells, other programs may have
	// written into it.
	sure bool
}

// born tells processes apart: a number is soon used again.
type born struct {
	pid     int32
	created int64
}

// followed is what is known of a process.
type followed struct {
	activity.Process
	session uint32
	created int64
	seen    bool
}

func (f *followed) born() born { return born{f.PID, f.created} }

const (
	// pastMillis is how long it is remembered that one is gone.
	pastMillis = 60_000
	// maxStarts bounds what is kept for the next look.
	maxStarts = 8192
)

// sessionProcesses is what one session runs.
type sessionProcesses struct {
	list    []activity.Process
	stale   bool
	windows []int32 // pids that show windows
	exited  []activity.Process
	passed  []activity.Process // that were on no list
}

func newSnapshotTable(source snapshotter, line *bootline) *snapshotTable {
	return &snapshotTable{
		source: source, line: line,
		known: make(map[int32]*followed), sessions: make(map[uint32]*sessionProcesses), exits: make(map[born]exit),
		coming: make(map[born]*processEvent), past: make(map[born]int64),
	}
}

// noteExit takes the exit of a process that was waited for, from any goroutine.
func (t *snapshotTable) noteExit(pid int32, created, exited int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exits[born{pid, created}] = exit{exited, true}
}

// note takes what a trace tells, from any goroutine.
func (t *snapshotTable) note(e processEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case e.exited > 0 && len(t.exits) < maxStarts:
		if key := (born{e.pid, e.created}); !t.exits[key].sure {
			t.exits[key] = exit{at: e.exited}
		}
	case e.exited == 0 && len(t.starts) < maxStarts:
		if e.session != serviceSession {
			t.starts = append(t.starts, e)
		}
	default:
		t.lost = true
	}
}

// noteLost takes in that a trace did not tell all.
func (t *snapshotTable) noteLost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = true
}

// noteTrace takes in that a trace tells, where why is empty, or why none does.
func (t *snapshotTable) noteTrace(why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why = why
}

// sift implements processes.
func (t *snapshotTable) sift(wanted sieve) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted = wanted
}

// shortfall implements processes.
func (t *snapshotTable) shortfall() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.why != "":
		return livesUnseen + t.why
	case t.lostAt > 0 && t.looked-t.lostAt < livesMissedMillis:
		return livesMissed
	}
	return ""
}

// leastSnapshotMillis is the shortest time between two snapshots for no reason.
const leastSnapshotMillis = PeriodMillis / 2

// look implements processes.
func (t *snapshotTable) look(now moment, force bool) error {
	for _, s := range t.sessions {
		s.passed = nil
	}
	if !force && now.awakeMillis-t.looked < leastSnapshotMillis {
		return nil
	}
	t.looked = now.awakeMillis
	// What was told by now to have started, and is not on the list, is gone.
	exits := t.takeNotes(now)
	list, err := t.source.snapshot()
	if err != nil {
		return err
	}
	for _, s := range t.sessions {
		if len(s.exited) > 0 {
			s.exited, s.stale = nil, true
		}
	}
	for _, f := range t.known {
		f.seen = false
	}
	early := make(map[born]exit) // of what is listed all the same
	for _, p := range list {
		if p.session == serviceSession {
			continue
		}
		f, key := t.known[p.pid], born{p.pid, p.created}
		if _, was := t.past[key]; was || exits[key].sure {
			continue // it has exited, and is listed for as long as somebody holds on to it
		}
		if f != nil && f.created == p.created {
			f.seen = true
			if said, told := exits[key]; told {
				early[key] = said
			}
			continue
		}
		if f != nil { // the number is used again
			t.drop(f, exits, now)
		}
		path, pkg := t.source.describe(p.pid)
		f = &followed{session: p.session, created: p.created, seen: true, Process: activity.Process{
			PID: p.pid, ParentPID: p.parent, StartMillis: t.line.place(p.created, now),
			Executable: p.name, Path: path, Package: pkg,
		}}
		t.known[p.pid] = f
		t.session(p.session).stale = true
	}
	t.tellPassed(exits, now)
	for pid, f := range t.known {
		if !f.seen {
			delete(t.known, pid)
			t.drop(f, exits, now)
		}
	}
	t.noteEarly(early)
	return nil
}

// noteEarly keeps exits for the next look that a trace has told of processes that run, by
// the list: they may be going, or somebody tells stories of what is another's.
func (t *snapshotTable) noteEarly(early map[born]exit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, said := range early {
		if _, newer := t.exits[key]; !newer {
			t.exits[key] = said
		}
	}
}

// takeNotes takes over what was told since the look before.
func (t *snapshotTable) takeNotes(now moment) (exits map[born]exit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := range t.starts {
		if len(t.coming) >= maxStarts {
			t.lost = true
			break
		}
		e := &t.starts[n]
		t.coming[born{e.pid, e.created}] = e
	}
	if t.lost {
		t.lostAt = max(1, now.awakeMillis)
	}
	exits = t.exits
	t.exits, t.starts, t.lost = make(map[born]exit), nil, false
	return exits
}

// tellPassed tells the processes that have come and gone without being on a list.
func (t *snapshotTable) tellPassed(exits map[born]exit, now moment) {
	t.mu.Lock()
	wanted := t.wanted
	t.mu.Unlock()
	for key, at := range t.past {
		if now.awakeMillis-at > pastMillis {
			delete(t.past, key)
		}
	}
	for key, e := range t.coming {
		f := t.known[key.pid]
		_, was := t.past[key]
		said, told := exits[key]
		started := t.line.place(e.created, now)
		switch {
		case f != nil && f.created == key.created, was, now.bootMillis-started > pastMillis:
			delete(t.coming, key)
		case told:
			delete(t.coming, key)
			t.past[key] = now.awakeMillis
			p := activity.Process{
				PID: e.pid, ParentPID: e.parent, StartMillis: started, ExitMillis: max(started, t.line.place(said.at, now)),
				Executable: baseName(e.image), Path: t.source.fileOf(e.image), Package: e.pkg,
			}
			if wanted == nil || wanted(p.Executable, p.Path, p.Package) || t.isParent(p) {
				s := t.session(e.session)
				s.passed = append(s.passed, p)
			}
		}
	}
}

// isParent tells whether something that runs was started by a process that has gone: it may
// be all that ties that to the run of an application.
func (t *snapshotTable) isParent(p activity.Process) bool {
	for _, f := range t.known {
		if f.ParentPID == p.PID && f.StartMillis >= p.StartMillis && f.StartMillis <= p.ExitMillis {
			return true
		}
	}
	return false
}

// drop notes that a process has gone, and when, where that is known.
func (t *snapshotTable) drop(f *followed, exits map[born]exit, now moment) {
	s := t.session(f.session)
	s.stale = true
	t.past[f.born()] = now.awakeMillis
	if said, told := exits[f.born()]; told {
		gone := f.Process
		gone.ExitMillis = max(gone.StartMillis, t.line.place(said.at, now))
		s.exited = append(s.exited, gone)
	}
}

func (t *snapshotTable) session(number uint32) *sessionProcesses {
	s := t.sessions[number]
	if s == nil {
		s = &sessionProcesses{stale: true}
		t.sessions[number] = s
	}
	return s
}

// of implements processes.
func (t *snapshotTable) of(s seat) []activity.Process {
	own := t.session(s.number)
	if !own.stale {
		return own.list
	}
	own.stale = false
	own.list = slices.Clone(own.exited)
	for _, f := range t.known {
		if f.session == s.number {
			own.list = append(own.list, f.Process)
		}
	}
	slices.SortFunc(own.list, func(a, b activity.Process) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.StartMillis, b.StartMillis))
	})
	return own.list
}

// passed implements processes.
func (t *snapshotTable) passed(s seat) []activity.Process { return t.session(s.number).passed }

// shown implements processes.
func (t *snapshotTable) shown(s seat, windows []activity.Window) {
	var pids []int32
	for _, w := range windows {
		if w.PID != 0 && !slices.Contains(pids, w.PID) {
			pids = append(pids, w.PID)
		}
	}
	slices.Sort(pids)
	own := t.session(s.number)
	if slices.Equal(pids, own.windows) {
		return
	}
	own.windows = pids
	var all []int32
	for _, other := range t.sessions {
		all = append(all, other.windows...)
	}
	t.source.waitFor(all)
}
