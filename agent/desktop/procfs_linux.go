package desktop

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/proto/contract"
)

// Linux gives a process's start in clock ticks since boot, sleep included; the
// tick has been 1/100 s in every file of /proc since that interface exists.
const millisPerTick = 10

// How long a process is read again at every look, since a launcher often forks
// first and becomes the program (exec) a moment later; and the share of the
// older ones that is read again, so that a late exec is seen within a minute.
const (
	youngMillis      = 3_000
	recheckOneInLook = 60
)

// process is what is known of one process, whether it belongs to a desktop session or
// not.
type process struct {
	pid         int32
	parent      int32 // as first seen
	startMillis int64
	// programMillis is when it became this program, where it was known as another one; 0:
	// it was not, or that is not told.
	programMillis int64
	// missed: the last list of all processes did not have it; told: a list of a session had.
	missed, told bool
	// path of the executable, and the package that it came from; empty where the
	// kernel does not say.
	path string
	pkg  string
	// name is the kernel's short name, for programs whose path is hidden.
	name string
	uid  uint32
	// display, wayland and login are the display and the compositor that it was started
	// for, and the login session that it belongs to; empty where it is not told.
	display, wayland, login string
	// seat is the key of the session that it belongs to; empty: to none.
	seat string
	// shown: it is meant for a display, as servers and jobs in the background are not.
	shown bool
	// windowed is the key of the session in which it has shown a window, so it is of that
	// session whatever its environment says.
	windowed string
}

// processTable follows the processes of the desktop sessions. It reads a process when it
// appears, and otherwise only what may have changed.
type processTable struct {
	root  string // /proc
	seats []seat

	processes map[int32]*process
	// fresh are pids that were there for the first time at the last look. They are
	// read at the next one, if they still are: most processes live shorter than
	// that and show no window, and a program's start is told by the kernel.
	fresh    map[int32]bool
	lastLoad string
	looks    int
	buffer   []byte
	listed   []int32 // pids at the last look
	// lists are the processes of each session, by its key; a missing one is made anew.
	lists map[string][]activity.Process
	// begun have begun a program, and are on no list yet.
	begun []*process
	// ended are those whose end was told since the look before, by the key of their session,
	// and passed those of them that were on no list.
	ended, passed map[string][]activity.Process
}

func newProcessTable(root string) *processTable {
	return &processTable{
		root:      root,
		processes: make(map[int32]*process),
		fresh:     make(map[int32]bool),
		buffer:    make([]byte, 32<<10),
		lists:     make(map[string][]activity.Process),
		ended:     make(map[string][]activity.Process),
		passed:    make(map[string][]activity.Process),
	}
}

// follow says which sessions there are, and tells whether they are others than before. What
// runs already may be of a new one.
func (t *processTable) follow(seats []seat) (others bool) {
	same := slices.EqualFunc(seats, t.seats, func(a, b seat) bool {
		return a.key == b.key && a.uid == b.uid && a.login == b.login && a.at == b.at
	})
	if same {
		return false
	}
	t.seats = seats
	for _, p := range t.processes {
		if p.windowed != "" && !t.follows(p.windowed) {
			p.windowed = ""
		}
		t.identify(p)
	}
	clear(t.lists)
	return true
}

// seated tells whether a user has a session.
func (t *processTable) seated(uid uint32) bool {
	return slices.ContainsFunc(t.seats, func(s seat) bool { return s.uid == uid })
}

func (t *processTable) follows(key string) bool {
	return slices.ContainsFunc(t.seats, func(s seat) bool { return s.key == key })
}

// look brings the table up to date and tells whether anything changed in the
// processes of a session. With force false it believes the kernel's counters
// when they say that no task came or went.
func (t *processTable) look(bootMillis int64, force bool) (changed bool, err error) {
	t.looks++
	load, err := t.taskCounters()
	unmoved := err == nil && load == t.lastLoad
	if unmoved && !force && len(t.fresh) == 0 {
		return t.recheck(bootMillis), nil
	}
	first := t.looks == 1
	pids, err := t.pids()
	if err != nil {
		return false, err
	}
	t.lastLoad = load
	for pid, p := range t.processes {
		if _, alive := slices.BinarySearch(pids, pid); !alive {
			changed = t.drop(p) || changed
		}
	}
	changed = t.recheck(bootMillis) || changed
	fresh := make(map[int32]bool)
	for _, pid := range pids {
		switch _, known := t.processes[pid]; {
		case known:
		case first || t.fresh[pid]:
			changed = t.admit(pid, "") || changed
		default:
			fresh[pid] = true
		}
	}
	t.fresh = fresh
	return changed, nil
}

// catchUp lists the processes where the kernel tells of programs and ends: what is not known
// yet is a process that another one has split off, and that began no program. With all true
// something was not told, so that all are read again. Those of later are left out.
func (t *processTable) catchUp(all bool, later map[int32]int64) (changed bool, err error) {
	load, err := t.taskCounters()
	if err == nil && load == t.lastLoad && !all {
		return false, nil
	}
	pids, err := t.pids()
	if err != nil {
		return false, err
	}
	t.lastLoad = load
	clear(t.fresh)
	for pid, p := range t.processes {
		_, listed := slices.BinarySearch(pids, pid)
		switch {
		case !listed && (all || p.missed):
			changed = t.drop(p) || changed
		case all:
			changed = t.refresh(p) || changed
		default:
			p.missed = !listed // its end is being told
		}
	}
	for _, pid := range pids {
		if _, wait := later[pid]; t.processes[pid] == nil && !wait {
			changed = t.admit(pid, "") || changed
		}
	}
	return changed, nil
}

// begins takes in a process as it was when it began a program.
func (t *processTable) begins(p *process, atMillis int64) {
	if p.startMillis > atMillis+millisPerTick {
		return // it is gone, and what was read is another process with its number
	}
	was := t.processes[p.pid]
	switch {
	case was == nil:
	case was.startMillis != p.startMillis:
		t.drop(was)
	default:
		p.parent, p.programMillis, p.told = was.parent, was.programMillis, was.told
		if p.path != was.path {
			p.programMillis = atMillis
		}
		if was.windowed != "" {
			p.windowed = was.windowed
			t.identify(p)
		}
		t.stale(was.seat)
	}
	t.processes[p.pid] = p
	if parent := t.processes[p.parent]; p.path == "" && parent != nil && parent.uid == p.uid {
		// It was over when it was looked at: it was where its parent is.
		p.seat, p.pkg = parent.seat, parent.pkg
	}
	t.begun = append(t.begun, p)
}

// stands tells whether a process is on the list of a session.
func (t *processTable) stands(pid int32) bool {
	p := t.processes[pid]
	return p != nil && p.seat != ""
}

// reread looks at a process that has begun a program some time ago.
func (t *processTable) reread(pid int32, atMillis int64) (changed bool) {
	p := t.processes[pid]
	if p == nil {
		return t.admit(pid, "")
	}
	before, start := p.path, p.startMillis
	changed = t.refresh(p)
	if p.startMillis == start && p.path != before {
		p.programMillis = atMillis
	}
	return changed
}

// listBegun puts those that have begun a program, and still run it, on the lists; it tells
// whether there are any.
func (t *processTable) listBegun() (changed bool) {
	for _, p := range t.begun {
		if t.processes[p.pid] == p {
			changed = t.stale(p.seat) || changed
		}
	}
	t.begun = nil
	return changed
}

// ends takes in that a process has ended; it tells whether it was on the list of a session.
func (t *processTable) ends(pid int32, atMillis int64) (changed bool) {
	p := t.processes[pid]
	if p == nil || p.startMillis > atMillis+millisPerTick {
		return false
	}
	gone := p.fact()
	gone.ExitMillis = max(atMillis, p.startMillis)
	switch {
	case p.seat == "":
	case p.told:
		t.ended[p.seat] = append(t.ended[p.seat], gone)
		return t.drop(p)
	default:
		t.passed[p.seat] = append(t.passed[p.seat], gone)
	}
	delete(t.processes, pid)
	return false
}

// forgetEnded lets go of what has ended and was told; it tells whether a list had it.
func (t *processTable) forgetEnded() (changed bool) {
	for key := range t.ended {
		changed = t.stale(key) || changed
	}
	clear(t.ended)
	clear(t.passed)
	return changed
}

// fact is what is told of a process.
func (p *process) fact() activity.Process {
	executable := p.name
	if p.path != "" {
		executable = path.Base(p.path)
	}
	return activity.Process{
		PID: p.pid, StartMillis: p.startMillis, ProgramMillis: p.programMillis, ParentPID: p.parent,
		Executable: executable, Path: p.path, Package: p.pkg,
	}
}

// list gives the processes of a session; the list is not changed afterwards.
func (t *processTable) list(key string) []activity.Process {
	if list, made := t.lists[key]; made {
		return list
	}
	list := slices.Clone(t.ended[key])
	for _, p := range t.processes {
		if p.seat == key {
			p.told = true
			list = append(list, p.fact())
		}
	}
	slices.SortFunc(list, func(a, b activity.Process) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.StartMillis, b.StartMillis))
	})
	t.lists[key] = list
	return list
}

// stale says that a session's list is to be made anew.
func (t *processTable) stale(key string) (changed bool) {
	delete(t.lists, key)
	return key != ""
}

// windowOf tells the table that a process shows a window in a session; it is read again,
// since its program is certain by then.
func (t *processTable) windowOf(pid int32, key string) (changed bool) {
	p, known := t.processes[pid]
	if !known {
		return t.admit(pid, key)
	}
	if p.windowed != "" { // of the first session that it showed one in
		return false
	}
	p.windowed = key
	return t.refresh(p)
}

// end takes in that a process has ended; it tells whether it was of a session. A process
// that was given the same pid since stays, or comes.
func (t *processTable) end(pid int32) (changed bool) {
	p := t.processes[pid]
	return p != nil && t.refresh(p)
}

// shown are the pids of the programs of displays whose ends are worth a look at once: tools
// that a script starts by the dozen are not, and most of them are gone within a second. young
// tells whether there are some that may be worth one later.
func (t *processTable) shown(bootMillis int64) (pids map[int32]bool, young bool) {
	pids = make(map[int32]bool)
	for pid, p := range t.processes {
		switch {
		case !p.shown:
		case p.windowed == "" && bootMillis-p.startMillis < PeriodMillis:
			young = true
		default:
			pids[pid] = true
		}
	}
	return pids, young
}

// admit reads a process for the first time; it tells whether it is of a session. One
// that is gone again, or cannot be read, is tried again at the next look.
func (t *processTable) admit(pid int32, windowed string) (changed bool) {
	stat, err := t.stat(pid)
	if err != nil || stat.gone {
		return false
	}
	p := &process{pid: pid, parent: stat.parent, startMillis: stat.startMillis, name: stat.name, windowed: windowed}
	t.identify(p)
	t.processes[pid] = p
	return t.stale(p.seat)
}

// drop forgets a process.
func (t *processTable) drop(p *process) (changed bool) {
	delete(t.processes, p.pid)
	return t.stale(p.seat)
}

// recheck looks whether the young have become other programs, and reads a few of
// the old again.
func (t *processTable) recheck(bootMillis int64) (changed bool) {
	for pid, p := range t.processes {
		switch {
		case (int(pid)+t.looks)%recheckOneInLook == 0:
			if stat, err := t.stat(pid); err != nil || stat.gone || stat.startMillis != p.startMillis || t.executable(pid) != p.path {
				changed = t.refresh(p) || changed
			}
		case bootMillis-p.startMillis >= youngMillis:
		case t.executable(pid) != p.path:
			changed = t.refresh(p) || changed
		}
	}
	return changed
}

// refresh reads one process again; it tells whether one of a session went, came, or
// became another program.
func (t *processTable) refresh(p *process) (changed bool) {
	stat, err := t.stat(p.pid)
	if err != nil || stat.gone {
		return t.drop(p)
	}
	if stat.startMillis != p.startMillis {
		gone := t.drop(p)
		return t.admit(p.pid, "") || gone
	}
	was := *p
	p.name = stat.name
	t.identify(p)
	if p.path != was.path {
		p.programMillis = 0 // nobody tells when that was
	}
	if p.seat == was.seat && p.path == was.path {
		return false
	}
	before := t.stale(was.seat)
	return t.stale(p.seat) || before
}

// identify finds out which program a process runs, and which session it is of.
func (t *processTable) identify(p *process) {
	var info unix.Stat_t
	if err := unix.Stat(t.file(p.pid, ""), &info); err != nil {
		return
	}
	p.uid = info.Uid
	if p.windowed != "" && !t.believes(p) {
		p.windowed = ""
	}
	p.seat, p.shown = p.windowed, p.windowed != ""
	if p.windowed == "" && !t.seated(p.uid) {
		return
	}
	name := t.executable(p.pid)
	if name == "" {
		// A kernel thread has none; a windowed program that runs as another user
		// does not show it.
		return
	}
	if name != p.path {
		p.path = name
		cgroup := t.cgroup(p.pid)
		p.pkg, p.login = t.packageOf(p.pid, name, cgroup), loginOfCgroup(cgroup)
	}
	if p.windowed != "" {
		return
	}
	p.display, p.wayland = t.displaysOf(p.pid)
	p.seat, p.shown = t.seatOf(p)
}

// believes tells whether a process may have shown the window that is said to be its own.
// Which process a window is of, a session's programs and its helper can say as they like:
// what somebody else at this machine runs stays theirs. A program may well show windows in
// a session without being its person's, as one of an administrator does.
func (t *processTable) believes(p *process) bool {
	anothers := false
	for _, s := range t.seats {
		if s.uid == p.uid && s.key == p.windowed {
			return true
		}
		anothers = anothers || s.uid == p.uid
	}
	return !anothers
}

// seatOf finds the session that a process without a window is of: one of its user's for
// whose display it was started, or the one that it was logged in with. A process that
// tells neither, such as one of the user's own service manager, is of their first session.
func (t *processTable) seatOf(p *process) (key string, shown bool) {
	told := p.display != "" || p.wayland != ""
	var first, unknown, loggedIn string
	for _, s := range t.seats {
		if s.uid != p.uid {
			continue
		}
		switch {
		case p.wayland != "" && p.wayland == s.at.wayland,
			p.display != "" && s.at.display != "" && sameDisplay(p.display, s.at.display):
			return s.key, true
		case s.at.display == "" && s.at.wayland == "":
			unknown = cmp.Or(unknown, s.key)
		}
		first = cmp.Or(first, s.key)
		if s.login != "" && s.login == p.login {
			loggedIn = s.key
		}
	}
	switch {
	case loggedIn != "" && (!told || unknown != ""):
		return loggedIn, told
	case told:
		return unknown, unknown != "" // else it was started for another display
	case p.login != "" && t.logins():
		return "", false // of a session that is no desktop, over a network say
	}
	return first, false
}

// logins tells whether it is known which login sessions the desktop sessions are.
func (t *processTable) logins() bool {
	return slices.ContainsFunc(t.seats, func(s seat) bool { return s.login != "" })
}

// taskCounters is how many tasks there are, and the pid given out last: as long
// as neither moves, no process came or went.
func (t *processTable) taskCounters() (string, error) {
	n, err := t.read(t.root + "/loadavg")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(t.buffer[:n]))
	if len(fields) < 5 {
		return "", errors.New("desktop: /proc/loadavg has fewer than five fields")
	}
	_, total, _ := strings.Cut(fields[3], "/")
	return total + " " + fields[4], nil
}

// pids lists the processes in order. It is most of what a look costs where processes
// come and go, so it reads the directory's entries as the kernel gives them.
func (t *processTable) pids() ([]int32, error) {
	fd, err := syscall.Open(t.root, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("desktop: list the processes: %w", err)
	}
	defer syscall.Close(fd)
	t.listed = t.listed[:0]
	for {
		n, err := syscall.ReadDirent(fd, t.buffer)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("desktop: list the processes: %w", err)
		}
		if n <= 0 {
			break
		}
		for entries := t.buffer[:n]; len(entries) > direntName; {
			// struct linux_dirent64 of getdents64(2).
			length := int(binary.NativeEndian.Uint16(entries[direntLength:]))
			if length <= direntName || length > len(entries) {
				return nil, errors.New("desktop: list the processes: the kernel's answer makes no sense")
			}
			if pid, ok := parsePID(entries[direntName:length]); ok {
				t.listed = append(t.listed, pid)
			}
			entries = entries[length:]
		}
	}
	slices.Sort(t.listed)
	return t.listed, nil
}

// Where an entry of a directory holds its length and its name.
const (
	direntLength = 16
	direntName   = 19
)

// parsePID reads a name that ends with a zero byte; ok is false where it is no pid.
func parsePID(name []byte) (pid int32, ok bool) {
	for _, c := range name {
		switch {
		case c == 0:
			return pid, ok
		case c < '0' || c > '9' || pid > (1<<31-10)/10:
			return 0, false
		}
		pid, ok = 10*pid+int32(c-'0'), true
	}
	return pid, ok
}

// displaysOf reads which display and compositor a process was started for. Nothing else
// of its environment is looked at or kept.
func (t *processTable) displaysOf(pid int32) (display, wayland string) {
	n, err := t.read(t.file(pid, "environ"))
	if err != nil {
		return "", ""
	}
	defer clear(t.buffer[:n]) // secrets are often handed over in an environment
	for entry := range bytes.SplitSeq(t.buffer[:n], []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte("DISPLAY=")); ok {
			display = string(value)
		}
		if value, ok := bytes.CutPrefix(entry, []byte("WAYLAND_DISPLAY=")); ok {
			wayland = string(value)
		}
	}
	return display, wayland
}

// sameDisplay compares two values of $DISPLAY, leaving the screen off.
func sameDisplay(a, b string) bool { return displayNumber(a) == displayNumber(b) }

func displayNumber(display string) string {
	colon := strings.LastIndexByte(display, ':')
	if colon < 0 {
		return display
	}
	number, _, _ := strings.Cut(display[colon+1:], ".")
	host := strings.TrimSuffix(display[:colon], "/unix")
	if host == "unix" {
		host = ""
	}
	return host + ":" + number
}

func (t *processTable) executable(pid int32) string {
	name, err := os.Readlink(t.file(pid, "exe"))
	if err != nil {
		return ""
	}
	// An upgrade replaced the file while the program ran.
	return strings.TrimSuffix(name, " (deleted)")
}

func (t *processTable) cgroup(pid int32) string {
	n, err := t.read(t.file(pid, "cgroup"))
	if err != nil {
		return ""
	}
	return string(t.buffer[:n])
}

// loginOfCgroup finds the login session in the scope that logind makes for each:
// session-c2.scope, or that elogind makes: /c2.
func loginOfCgroup(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		if _, rest, ok := strings.Cut(fields[2], "/session-"); ok {
			if id, _, ok := strings.Cut(rest, ".scope"); ok && !strings.Contains(id, "/") {
				return id
			}
		}
		if fields[1] == "name=elogind" {
			id, _, _ := strings.Cut(strings.TrimPrefix(fields[2], "/"), "/")
			return id
		}
	}
	return ""
}

type processStat struct {
	name        string
	parent      int32
	startMillis int64
	gone        bool // a zombie: it has exited, and nobody has asked how
}

// StartMillis is the boot time of the start of the process that has a pid now, as in
// activity.Process.
func StartMillis(pid int32) (int64, error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("desktop: %w", err)
	}
	stat, err := parseStat(line)
	return stat.startMillis, err
}

// BootID is the id of this boot, as in activity.Observation.
func BootID() (contract.ID, error) { return readBootID() }

func (t *processTable) stat(pid int32) (processStat, error) {
	n, err := t.read(t.file(pid, "stat"))
	if err != nil {
		return processStat{}, err
	}
	return parseStat(t.buffer[:n])
}

// parseStat reads one line of /proc/<pid>/stat. The program's name stands in
// brackets and may hold brackets and spaces itself, so the fields are counted
// from the last one.
func parseStat(line []byte) (processStat, error) {
	begin, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if begin < 0 || end < begin {
		return processStat{}, errors.New("desktop: a stat line without a name")
	}
	fields := bytes.Fields(line[end+1:])
	// Fields 3, 4 and 22 of proc(5), counted from the state.
	const state, parent, start = 0, 1, 19
	if len(fields) <= start {
		return processStat{}, fmt.Errorf("desktop: a stat line of %d fields after the name", len(fields))
	}
	ppid, err := strconv.ParseInt(string(fields[parent]), 10, 32)
	if err != nil {
		return processStat{}, fmt.Errorf("desktop: parent in a stat line: %w", err)
	}
	ticks, err := strconv.ParseInt(string(fields[start]), 10, 64)
	if err != nil || ticks < 0 || ticks > (1<<62)/millisPerTick {
		return processStat{}, fmt.Errorf("desktop: start %q in a stat line", fields[start])
	}
	s := fields[state][0]
	return processStat{
		name:        string(line[begin+1 : end]),
		parent:      int32(ppid),
		startMillis: ticks * millisPerTick,
		gone:        s == 'Z' || s == 'X' || s == 'x',
	}, nil
}

func (t *processTable) file(pid int32, name string) string {
	return t.root + "/" + strconv.Itoa(int(pid)) + "/" + name
}

// read fills the buffer with the beginning of a file: plain system calls, since
// a poller registration for each small file of /proc would cost more than the read. Nobody
// is waited for who holds a lease on a file.
func (t *processTable) read(name string) (int, error) {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	read := 0
	for read < len(t.buffer) {
		n, err := syscall.Read(fd, t.buffer[read:])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return read, err
		}
		if n == 0 {
			break
		}
		read += n
	}
	if read == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return read, nil
}
