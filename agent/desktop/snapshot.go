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
	// waitFor sees to it that the exits of these processes, and of no others, are told.
	waitFor(pids []int32)
}

// snapshotTable follows processes by comparing lists of all of them.
type snapshotTable struct {
	source snapshotter
	line   *bootline
	// served tells the sessions that matter; processes of others are not looked into.
	known    map[int32]*followed
	sessions map[uint32]*sessionProcesses
	looked   int64 // by the clock that stops in sleep

	mu    sync.Mutex
	exits map[int32]exit
}

// followed is what is known of a process.
type followed struct {
	activity.Process
	session uint32
	created int64
	seen    bool
}

type exit struct {
	created, exited int64
}

// sessionProcesses is what one session runs.
type sessionProcesses struct {
	list    []activity.Process
	stale   bool
	windows []int32 // pids that show windows
	exited  []activity.Process
}

func newSnapshotTable(source snapshotter, line *bootline) *snapshotTable {
	return &snapshotTable{
		source: source, line: line,
		known: make(map[int32]*followed), sessions: make(map[uint32]*sessionProcesses), exits: make(map[int32]exit),
	}
}

// noteExit takes the exit of a process that was waited for, from any goroutine.
func (t *snapshotTable) noteExit(pid int32, created, exited int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exits[pid] = exit{created, exited}
}

// leastSnapshotMillis is the shortest time between two snapshots for no reason.
const leastSnapshotMillis = PeriodMillis / 2

// look implements processes.
func (t *snapshotTable) look(now moment, force bool) error {
	if !force && now.awakeMillis-t.looked < leastSnapshotMillis {
		return nil
	}
	t.looked = now.awakeMillis
	list, err := t.source.snapshot()
	if err != nil {
		return err
	}
	t.mu.Lock()
	exits := t.exits
	t.exits = make(map[int32]exit)
	t.mu.Unlock()
	for _, s := range t.sessions {
		if len(s.exited) > 0 {
			s.exited, s.stale = nil, true
		}
	}
	for _, f := range t.known {
		f.seen = false
	}
	for _, p := range list {
		if p.session == serviceSession {
			continue
		}
		f := t.known[p.pid]
		if f != nil && f.created == p.created {
			if e, gone := exits[p.pid]; gone && e.created == p.created {
				continue // it has exited, and is listed for as long as somebody holds on to it
			}
			f.seen = true
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
	for pid, f := range t.known {
		if !f.seen {
			delete(t.known, pid)
			t.drop(f, exits, now)
		}
	}
	return nil
}

// drop notes that a process has gone, and when, where that is known.
func (t *snapshotTable) drop(f *followed, exits map[int32]exit, now moment) {
	s := t.session(f.session)
	s.stale = true
	if e, told := exits[f.PID]; told && e.created == f.created {
		gone := f.Process
		gone.ExitMillis = max(gone.StartMillis, t.line.place(e.exited, now))
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
