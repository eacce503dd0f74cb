package desktop

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/activity"
)

// needConnector skips where the kernel does not tell this test of processes: it tells the
// root of the machine itself, of no container.
func needConnector(t *testing.T) {
	t.Helper()
	n := newKernelNews(proc, systemKernel(), func() {})
	defer n.close()
	var said heard
	eventually(t, "the kernel answers or refuses", func() bool {
		said = n.take()
		return said.listening || said.why != ""
	})
	if said.why != "" {
		t.Skip("NOT TESTED: what the kernel tells of processes: " + said.why)
	}
}

// rounding is how far two clocks, each read in whole milliseconds, may set a moment off.
const rounding = 2

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !holds(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	good := make([]byte, 76)
	binary.NativeEndian.PutUint16(good[newsType:], unix.NLMSG_DONE)
	binary.NativeEndian.PutUint32(good[newsIndex:], connectorID)
	binary.NativeEndian.PutUint32(good[newsValue:], connectorID)
	binary.NativeEndian.PutUint32(good[newsWhat:], newsExec)
	binary.NativeEndian.PutUint32(good[newsPID:], 70)
	binary.NativeEndian.PutUint32(good[newsGroup:], 70)
	f.Add(good)
	f.Add(good[:newsLength-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if said, err := parseMessage(packet); err == nil && (len(packet) < newsLength || said.group != int32(binary.NativeEndian.Uint32(packet[newsGroup:]))) {
			t.Errorf("%x is read as %+v", packet, said)
		}
	})
}

// The kernel wakes nobody for threads, nor for processes that merely split, and each kind of
// news comes by itself.
func TestOnlyWhatIsOfInterestIsTold(t *testing.T) {
	t.Parallel()
	needConnector(t)
	sockets := map[uint32]*os.File{}
	for _, news := range []uint32{newsExec, newsExit} {
		socket, err := dialConnector(news)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		sockets[news] = socket
	}
	// A thread of ours ends, and a shell splits before it begins the program that is waited for.
	threads := make(chan string)
	for range 2 { // the process's first thread, should it be one of them, does not end
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			threads <- fmt.Sprintf("/proc/self/task/%d", unix.Gettid())
		}()
	}
	first, second := <-threads, <-threads
	eventually(t, "a thread has ended", func() bool {
		_, err := os.Stat(first)
		_, err2 := os.Stat(second)
		return err != nil || err2 != nil
	})
	last := exec.Command("sh", "-c", "( : ) ; sleep 0.01 & wait")
	if err := last.Run(); err != nil {
		t.Fatal(err)
	}
	for news, socket := range sockets {
		_ = socket.SetReadDeadline(time.Now().Add(60 * time.Second))
		for seen, packet := false, make([]byte, 512); !seen; {
			length, err := socket.Read(packet)
			if err != nil {
				t.Fatalf("of the shell nothing of kind %#x was told: %v", news, err)
			}
			said, err := parseMessage(packet[:length])
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case said.what == newsAnswer:
			case said.what != news, said.thread != said.group:
				t.Fatalf("told %+v", said)
			default:
				seen = said.group == int32(last.Process.Pid)
			}
		}
	}
}

// shortLives watches the processes of this user on a display that there is not.
type shortLives struct {
	*linuxProcesses
	t     *testing.T
	clock *clocks
	seats seats
	own   seat
}

type fixedSeats []seat

func (f fixedSeats) list() ([]seat, error) { return f, nil }

func watchShortLives(t *testing.T, k kernel) *shortLives {
	t.Helper()
	own := seat{key: "own", systemSeat: systemSeat{uid: uint32(os.Getuid()), at: place{display: ":" + t.Name()}}}
	processes := newLinuxProcesses(newProcessTable(proc), k, func() {})
	t.Cleanup(processes.close)
	return &shortLives{processes, t, newClocks(), processes.follow(fixedSeats{own}), own}
}

func (s *shortLives) now() moment {
	s.t.Helper()
	now, err := s.clock.now()
	if err != nil {
		s.t.Fatal(err)
	}
	return now
}

// list looks, and gives what is told, on the list or beside it.
func (s *shortLives) list() []activity.Process {
	s.t.Helper()
	if _, err := s.seats.list(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.look(s.now(), false); err != nil {
		s.t.Fatal(err)
	}
	return slices.Concat(s.of(s.own), s.passed(s.own))
}

func (s *shortLives) listening() {
	s.t.Helper()
	eventually(s.t, "the kernel tells", func() bool {
		s.list()
		return s.told
	})
}

func (s *shortLives) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"DISPLAY=" + s.own.at.display, "PATH=" + os.Getenv("PATH")}
	return cmd
}

// A program that lives for 10 ms between two looks is told once, with the kernel's own times.
// Where the machine is too busy to look at one in that time, it may be missed or known by its
// short name only, so it is tried again; other tests' programs are not waited for.
func TestShortLivesAreTold(t *testing.T) {
	t.Parallel()
	needConnector(t)
	s := watchShortLives(t, kernel{openPIDFD, dialConnector, 0})
	s.listening()
	// It lives on: of one that ends as it is looked at, the display cannot be read.
	other := exec.Command("sleep", "600")
	other.Env = []string{"DISPLAY=:another"}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	whole := false
	eventually(t, "a program of 10 ms is told with its path", func() bool {
		before := s.now().bootMillis
		cmd := s.command("sleep", "0.01")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		after := s.now().bootMillis
		// The end is told before it can be waited for, but by another goroutine.
		told := func() (found []activity.Process) {
			for _, p := range s.list() {
				if p.PID == int32(other.Process.Pid) {
					t.Errorf("a program of another display is told: %+v", p)
				}
				if p.PID == int32(cmd.Process.Pid) && p.ExitMillis > 0 {
					found = append(found, p)
				}
			}
			return found
		}
		var found []activity.Process
		for range 100 {
			if found = told(); len(found) > 0 {
				break
			}
			<-time.After(5 * time.Millisecond)
		}
		if len(found) == 0 {
			return false
		}
		p := found[0]
		if len(found) != 1 || p.StartMillis < before-millisPerTick || p.ExitMillis > after+rounding || p.ExitMillis-p.StartMillis < 10-rounding ||
			p.Executable != "sleep" || p.ParentPID != int32(os.Getpid()) {
			t.Fatalf("between %d and %d ran a program that is told as %+v", before, after, found)
		}
		for range 3 {
			if again := told(); len(again) > 0 {
				t.Fatalf("told again: %+v", again)
			}
		}
		whole = strings.HasSuffix(p.Path, "/sleep")
		return whole
	})
	if said := s.shortfall(); said != "" {
		t.Errorf("said %q", said)
	}
}

// Of programs that nobody wants, those that come and go are not even read, and those that
// stay are found at the next look.
func TestProgramsThatNobodyWants(t *testing.T) {
	t.Parallel()
	needConnector(t)
	s := watchShortLives(t, systemKernel())
	s.sift(func(executable, path, _ string) bool {
		return executable != "sleep" || !strings.HasSuffix(path, "/sleep")
	})
	s.listening()
	unwanted := s.command("sleep", "0.01")
	if err := unwanted.Run(); err != nil {
		t.Fatal(err)
	}
	long := s.command("sleep", "600")
	if err := long.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = long.Process.Kill()
		_ = long.Wait()
	}()
	eventually(t, "the program that stays is found", func() bool {
		found := false
		for _, p := range s.list() {
			if p.PID == int32(unwanted.Process.Pid) && p.Path != "" {
				t.Errorf("told is %+v", p)
			}
			found = found || p.PID == int32(long.Process.Pid) && p.Executable == "sleep"
		}
		return found
	})
}

// A program of a list that becomes one that nobody wants is that from when it did, at once.
func TestProgramThatBecomesWhatNobodyWants(t *testing.T) {
	t.Parallel()
	needConnector(t)
	s := watchShortLives(t, systemKernel())
	s.sift(func(executable, _, _ string) bool { return executable != "sleep" })
	s.listening()
	turn := filepath.Join(t.TempDir(), "turn")
	if err := unix.Mkfifo(turn, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := s.command("sh", "-c", `read line <"$1"; exec sleep 600`, "sh", turn)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var it activity.Process
	listed := func(asSleep bool) bool {
		return slices.ContainsFunc(s.list(), func(p activity.Process) bool {
			it = p
			return p.PID == int32(cmd.Process.Pid) && (p.Executable == "sleep") == asSleep
		})
	}
	eventually(t, "the shell is on the list", func() bool { return listed(false) })
	before := s.now().bootMillis
	if err := os.WriteFile(turn, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	// It is on the list as sleep at the look at which the kernel has told of that, not a
	// second later.
	eventually(t, "the kernel tells that it is another program", func() bool {
		s.news.mu.Lock()
		defer s.news.mu.Unlock()
		return slices.ContainsFunc(s.news.news, func(n processNews) bool { return n.pid == int32(cmd.Process.Pid) })
	})
	if !listed(true) {
		t.Fatal("the list has the program before")
	}
	if it.ProgramMillis < before-rounding || it.ProgramMillis > s.now().bootMillis+rounding {
		t.Errorf("after %d it became %+v", before, it)
	}
}

// What a process that ends has split off is found with its end, though it began no program,
// and what a process becomes is told with the moment.
func TestSplitsAndChangesOfProgram(t *testing.T) {
	t.Parallel()
	needConnector(t)
	s := watchShortLives(t, systemKernel())
	s.listening()
	dir := t.TempDir()
	end, turn, told := filepath.Join(dir, "end"), filepath.Join(dir, "turn"), filepath.Join(dir, "told")
	for _, pipe := range []string{end, turn} {
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The shell waits, splits, tells its child's pid and ends; the child waits, then becomes sleep.
	cmd := s.command("sh", "-c", `read line <"$1"; ( read line <"$2"; exec sleep 600 ) & echo $! >"$3"`, "sh", end, turn, told)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shell is on the list", func() bool {
		return slices.ContainsFunc(s.list(), func(p activity.Process) bool { return p.PID == int32(cmd.Process.Pid) })
	})
	if err := os.WriteFile(end, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	child, ok := parsePID(append([]byte(strings.TrimSpace(string(text))), 0))
	if !ok {
		t.Fatalf("the child is %q", text)
	}
	defer func() { _ = unix.Kill(int(child), unix.SIGKILL) }()
	find := func(list []activity.Process, pid int32) activity.Process {
		for _, p := range list {
			if p.PID == pid {
				return p
			}
		}
		return activity.Process{}
	}
	var list []activity.Process
	eventually(t, "the end of the shell is told", func() bool {
		list = s.list()
		return find(list, int32(cmd.Process.Pid)).ExitMillis > 0
	})
	shell := find(list, child)
	if shell.PID != child || shell.ExitMillis != 0 || shell.ProgramMillis != 0 {
		t.Errorf("as the shell ends, its child is %+v", shell)
	}
	before := s.now().bootMillis
	if err := os.WriteFile(turn, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	var sleep activity.Process
	eventually(t, "the child has become another program", func() bool { sleep = find(s.list(), child); return sleep.Executable == "sleep" })
	if sleep.Key() != shell.Key() || sleep.ProgramMillis < before-rounding || sleep.ProgramMillis > s.now().bootMillis {
		t.Errorf("the child was %+v, and after %d became %+v", shell, before, sleep)
	}
	_ = unix.Kill(int(child), unix.SIGKILL)
	var gone activity.Process
	eventually(t, "its end is told", func() bool { gone = find(s.list(), child); return gone.ExitMillis > 0 })
	if gone.ExitMillis < sleep.ProgramMillis {
		t.Errorf("it ended as %+v", gone)
	}
}

// A process that is over when it is looked at is known by its short name, and is where its
// parent is.
func TestProcessThatIsOverWhenItIsLookedAt(t *testing.T) {
	t.Parallel()
	s := watchShortLives(t, kernel{openPIDFD, func(uint32) (*os.File, error) { return nil, unix.EPERM }, 0})
	s.list()
	cmd := s.command("sleep", "0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := int32(cmd.Process.Pid)
	eventually(t, "it is over", func() bool {
		stat, err := s.table.stat(pid)
		return err == nil && stat.gone
	})
	p, _ := s.news.read(pid)
	if p == nil || p.name != "sleep" || p.path != "" || p.parent != int32(os.Getpid()) {
		t.Fatalf("it is read as %+v", p)
	}
	parent := &process{pid: p.parent, startMillis: 1, uid: p.uid, seat: "own", pkg: "suite"}
	s.table.processes[parent.pid] = parent
	at := s.now().bootMillis
	s.table.begins(p, at)
	s.table.ends(pid, at)
	passed := s.passed(s.own)
	if len(passed) != 1 || passed[0].Executable != "sleep" || passed[0].ExitMillis != at || passed[0].Package != "suite" || s.table.listBegun() {
		t.Errorf("told is %+v", passed)
	}
	// A moment may be placed a little before the start, which is told in ticks.
	s.table.begins(&process{pid: pid, startMillis: at + millisPerTick, uid: p.uid, seat: "own"}, at)
	s.table.ends(pid, at)
	if passed = s.passed(s.own); len(passed) != 2 || passed[1].ExitMillis != passed[1].StartMillis || s.table.listBegun() {
		t.Errorf("told is %+v", passed)
	}
	// Another one that has its number since is not it.
	s.table.begins(&process{pid: pid, startMillis: at + 10*millisPerTick, uid: p.uid, seat: "own"}, at)
	if s.table.listBegun() {
		t.Error("what was read of another process is taken for it")
	}
	_ = cmd.Wait()
	if p, _ := s.news.read(pid); p != nil {
		t.Errorf("a process that is gone is read as %+v", p)
	}
}

// What began while nobody knew of its session is of that from when it is known.
func TestProgramsThatBeginBeforeTheirSessionIsKnown(t *testing.T) {
	t.Parallel()
	s := watchShortLives(t, kernel{openPIDFD, func(uint32) (*os.File, error) { return nil, unix.EPERM }, 0})
	s.news.answered, s.news.why = map[*os.File]bool{nil: true, os.Stdin: true}, "" // and it tells of nobody who has no session
	own := s.seats
	s.seats = s.follow(fixedSeats{})
	s.list()
	cmd := s.command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	s.seats = own
	if list := s.list(); !slices.ContainsFunc(list, func(p activity.Process) bool { return p.PID == int32(cmd.Process.Pid) }) {
		t.Errorf("of a session that is new is told %+v", list)
	}
}

// Where the kernel tells more than there is room for, that is said, and everything is looked
// at again.
func TestNewsThatWereLost(t *testing.T) {
	t.Parallel()
	needConnector(t)
	narrow := func(news uint32) (*os.File, error) {
		socket, err := dialConnector(news)
		if err != nil {
			return nil, err
		}
		return socket, control(socket, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
	}
	s := watchShortLives(t, kernel{openPIDFD, narrow, 0})
	s.listening()
	var long *exec.Cmd
	eventually(t, "something is lost", func() bool {
		s.news.mu.Lock() // nobody listens meanwhile
		if long == nil {
			long = s.command("sleep", "600")
			if err := long.Start(); err != nil {
				s.news.mu.Unlock()
				t.Fatal(err)
			}
		}
		for range 20 {
			_ = exec.Command("true").Run()
		}
		s.news.mu.Unlock()
		s.list()
		return s.lost > 0
	})
	defer func() {
		_ = long.Process.Kill()
		_ = long.Wait()
	}()
	eventually(t, "what began meanwhile is found", func() bool {
		return slices.ContainsFunc(s.list(), func(p activity.Process) bool { return p.PID == int32(long.Process.Pid) })
	})
	if said := s.shortfall(); said != livesMissed {
		t.Errorf("said %q", said)
	}
}

// Where the kernel does not tell, or does not answer, that is said, and processes are looked
// for as ever.
func TestKernelThatDoesNotTell(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func() (*os.File, error){
		"operation not permitted": func() (*os.File, error) { return nil, unix.EPERM },
		// A socket on which nobody was asked to tell.
		"does not answer": func() (*os.File, error) {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
			return os.NewFile(uintptr(fd), "silence"), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var socket *os.File
			s := watchShortLives(t, kernel{openPIDFD, func(uint32) (_ *os.File, err error) {
				socket, err = dial()
				return socket, err
			}, 0})
			eventually(t, "it is said", func() bool {
				s.list()
				return strings.Contains(s.shortfall(), name)
			})
			if socket != nil && socket.SetReadDeadline(time.Time{}) == nil {
				t.Error("the kernel goes on to keep what it would tell")
			}
			cmd := s.command("sleep", "600")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			eventually(t, "a program is found", func() bool {
				return slices.ContainsFunc(s.list(), func(p activity.Process) bool { return p.PID == int32(cmd.Process.Pid) })
			})
		})
	}
}
