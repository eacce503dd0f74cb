package desktop

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

func TestStatesOfTerminalSessions(t *testing.T) {
	t.Parallel()
	const (
		nowhere = usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED
		console = usagev1.SessionAccess_SESSION_ACCESS_CONSOLE
		remote  = usagev1.SessionAccess_SESSION_ACCESS_REMOTE
	)
	shown := func(by terminalProtocol) terminalSession {
		s := person(5, "ann")
		s.protocol = by
		return s
	}
	for _, c := range []struct {
		name                 string
		session              terminalSession
		is, locked, detached bool
		access               usagev1.SessionAccess
	}{
		{"console", person(1, "ann"), true, false, false, console},
		{"by RDP", shown(2), true, false, false, remote},
		{"by ICA", shown(1), true, false, false, remote},
		{"by what is not told", shown(terminalProtocolUnknown), true, false, false, nowhere},
		{"services", person(0, "SYSTEM"), false, false, false, nowhere},
		{"nobody has logged on", terminalSession{number: 3, state: terminalConnected}, false, false, false, nowhere},
		{"logging on", terminalSession{number: 3, state: terminalConnected, user: activity.User{Name: "ann"}}, true, true, true, nowhere},
		{"remote viewer has left", terminalSession{number: 3, state: terminalDisconnected, user: activity.User{Name: "ann"}, lock: terminalLocked}, true, true, true, nowhere},
		{"listener", terminalSession{number: 65536, state: terminalListen}, false, false, false, nowhere},
		{"shadow", terminalSession{number: 4, state: terminalShadow, user: activity.User{Name: "admin"}}, false, false, false, nowhere},
		{"lock not told", terminalSession{number: 1, state: terminalActive, user: activity.User{Name: "ann"}, lock: terminalLockUnknown}, true, false, false, console},
	} {
		s, is := seatOf(c.session)
		if is != c.is || s.locked != c.locked || s.disconnected != c.detached || s.access != c.access {
			t.Errorf("%s: %+v, %v", c.name, s, is)
		}
	}
}

// fakeSnapshots is a list of processes that a test writes.
type fakeSnapshots struct {
	list    []snapshotProcess
	asked   []int32
	waiting []int32
}

func (f *fakeSnapshots) snapshot() ([]snapshotProcess, error) { return f.list, nil }

func (f *fakeSnapshots) describe(pid int32) (path, pkg string) {
	f.asked = append(f.asked, pid)
	return `C:\Program Files\writer.exe`, ""
}

func (f *fakeSnapshots) fileOf(image string) string {
	return driveOf(image, map[string]string{"C:": `\Device\HarddiskVolume3`})
}

func (f *fakeSnapshots) waitFor(pids []int32) { f.waiting = slices.Clone(pids) }

const someBoot = 133_000_000_000_000_000 // a FILETIME

func fileTimeAt(boot int64) int64 { return someBoot + boot*fileTimePerMilli }

// momentAt is when the machine has run for so long, by a wall clock that shows a FILETIME.
func momentAt(boot, wall int64) moment {
	return moment{bootMillis: boot, awakeMillis: boot, utcMillis: (wall - unixEpochFileTime) / fileTimePerMilli}
}

func TestProcessesOfASession(t *testing.T) {
	t.Parallel()
	line := new(bootline)
	line.note(fileTimeAt(10_000), 10_000)
	f := &fakeSnapshots{}
	table := newSnapshotTable(f, line)
	ann, bob := seat{number: 1}, seat{number: 2}
	at := func(boot int64, list ...snapshotProcess) {
		t.Helper()
		f.list = list
		if err := table.look(momentAt(boot, fileTimeAt(boot)), true); err != nil {
			t.Fatal(err)
		}
	}
	writer := snapshotProcess{pid: 70, parent: 4, session: 1, created: fileTimeAt(9_000), name: "writer.exe"}
	system := snapshotProcess{pid: 8, session: serviceSession, created: fileTimeAt(10), name: "services.exe"}
	at(10_000, writer, system)
	list := table.of(ann)
	if len(list) != 1 || list[0].StartMillis != 9_000 || len(table.of(bob)) != 0 || slices.Contains(f.asked, 8) {
		t.Fatalf("ann runs %+v, bob %+v; asked about %v", list, table.of(bob), f.asked)
	}
	at(11_000, writer, system)
	if again := table.of(ann); &again[0] != &list[0] {
		t.Error("an unchanged list is built anew")
	}
	table.shown(ann, []activity.Window{{ID: 1, PID: 70}, {ID: 2, PID: 70}})
	if !slices.Equal(f.waiting, []int32{70}) {
		t.Errorf("waited for %v", f.waiting)
	}
	// The pid is used again: the old one has exited when the kernel says.
	table.noteExit(70, writer.created, fileTimeAt(11_250))
	again := writer
	again.created = fileTimeAt(11_400)
	at(12_000, again)
	list = table.of(ann)
	if len(list) != 2 || list[0].ExitMillis != 11_250 || list[1].StartMillis != 11_400 || list[1].ExitMillis != 0 {
		t.Errorf("after a reuse of the pid: %+v", list)
	}
	at(13_000, again)
	if list = table.of(ann); len(list) != 1 {
		t.Errorf("an exit is told more than once: %+v", list)
	}
	// A process that has exited stays listed while somebody holds on to it.
	table.noteExit(70, again.created, fileTimeAt(13_500))
	at(14_000, again)
	if list = table.of(ann); len(list) != 1 || list[0].ExitMillis != 13_500 {
		t.Errorf("after an exit that is still listed: %+v", list)
	}
	at(15_000, again)
	if list = table.of(ann); len(list) != 0 {
		t.Errorf("what is listed long after its exit is taken for another one: %+v", list)
	}
}

// A process has one key, however often the agent is restarted and however the wall clock
// runs ahead or lags meanwhile. Where it is set back, the same moment is there twice, and
// nobody can tell which one a start was at.
func TestProcessesKeepTheirPlaceOnTheBootTimeline(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		line := &bootline{boot: contract.ID{1}}
		boot, wall := int64(5_000), fileTimeAt(5_000)
		line.note(wall, boot)
		type placed struct{ created, at int64 }
		var all []placed
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			passed := rapid.Int64Range(0, 3_600_000).Draw(t, "passed")
			drift := rapid.Int64Range(-min(passed, 200), 200).Draw(t, "drift")
			boot, wall = boot+passed, wall+(passed+drift)*fileTimePerMilli
			if rapid.IntRange(0, 5).Draw(t, "jump") == 0 {
				wall += rapid.Int64Range(0, 86_400_000).Draw(t, "by") * fileTimePerMilli
			}
			line.note(wall, boot)
			at := line.place(wall, momentAt(boot, wall))
			if off := boot - at; off < -1100 || off > 1100 {
				t.Fatalf("now is placed at %d, it is %d", at, boot)
			}
			all = append(all, placed{wall, at})
		}
		again, err := parseBootline(line.bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if got := again.place(p.created, momentAt(boot, wall)); got != p.at {
				t.Fatalf("after a restart %d is placed at %d, before at %d", p.created, got, p.at)
			}
		}
	})
}

func FuzzBootline(f *testing.F) {
	f.Add((&bootline{boot: contract.ID{1}, marks: []bootMark{{1, 2}}}).bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		line, err := parseBootline(data)
		if err == nil && !bytes.Equal(line.bytes(), data) {
			t.Errorf("%x is read as %x", data, line.bytes())
		}
	})
}

func FuzzFrame(f *testing.F) {
	var good bytes.Buffer
	_ = writeFrame(&good, fromHelper{Look: 3, Sight: &Sight{Foreground: 1, Windows: []activity.Window{{ID: 1, Title: "x"}}}})
	f.Add(good.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{2, 0, 0, 0, '{', '}'})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			var said fromHelper
			if readFrame(r, &said) != nil {
				return
			}
			if checkSight(said.Sight) == nil && len(said.Sight.Windows) > maxHelperWindows {
				t.Error("too many windows are believed")
			}
		}
	})
}

// pair joins a helper and its service.
func pair(t *testing.T, secret, told []byte, open func(wake func()) (eyes, error), wake func()) (*helperEyes, chan error, error) {
	t.Helper()
	service, helper := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serveSight(context.Background(), helper, told, open) }()
	h, err := admitHelper(service, secret, wake, nil)
	if err != nil {
		_ = service.Close()
	}
	return h, ended, err
}

// stillEyes see one thing.
type stillEyes struct {
	sight Sight
	err   error
	wake  func()
}

func (e *stillEyes) look(context.Context) (Sight, error) { return e.sight, e.err }
func (e *stillEyes) close()                              {}

func TestHelperAndService(t *testing.T) {
	t.Parallel()
	see := &stillEyes{sight: Sight{LastInputMillis: 4, Foreground: 2, Windows: []activity.Window{{ID: 2, PID: 5, Class: "Edit", Title: "Žofín \U0001F600"}}}}
	woken := make(chan struct{}, 10)
	h, ended, err := pair(t, []byte("secret"), []byte("secret"), func(wake func()) (eyes, error) {
		see.wake = wake
		return see, nil
	}, func() { woken <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	first, err := h.look(ctx)
	if err != nil || !slices.Equal(first.Windows, see.sight.Windows) || first.Foreground != 2 || first.LastInputMillis != 4 {
		t.Fatalf("%+v, %v", first, err)
	}
	see.sight = Sight{LastInputMillis: 5, SameWindows: true}
	second, err := h.look(ctx)
	if err != nil || !slices.Equal(second.Windows, first.Windows) || second.SameWindows || second.LastInputMillis != 5 {
		t.Fatalf("%+v, %v", second, err)
	}
	see.wake()
	<-woken
	h.close()
	if err := <-ended; err != nil {
		t.Errorf("the helper ends with %v when the service lets go of it", err)
	}
}

// However much happens in a session, its helper wakes the service once until that looks.
func TestAHelperWakesOnceForALook(t *testing.T) {
	t.Parallel()
	see := &stillEyes{sight: Sight{Foreground: 2}}
	var woken atomic.Int64
	h, ended, err := pair(t, []byte("secret"), []byte("secret"), func(wake func()) (eyes, error) {
		see.wake = wake
		return see, nil
	}, func() { woken.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := h.look(ctx); err != nil {
		t.Fatal(err)
	}
	see.wake()
	for woken.Load() == 0 && ctx.Err() == nil {
		<-time.After(time.Millisecond)
	}
	for range 1000 {
		see.wake()
		runtime.Gosched()
	}
	if _, err := h.look(ctx); err != nil { // what was said before this is answered has been read
		t.Fatal(err)
	}
	if n := woken.Load(); n < 1 || n > 2 { // another one where the look was on its way
		t.Errorf("it wakes %d times", n)
	}
	h.close()
	<-ended
}

// A helper that wakes without end is none of ours, or the person's by now.
func TestAHelperThatWakesWithoutEndIsLetGoOf(t *testing.T) {
	t.Parallel()
	service, theirs := net.Pipe()
	var talking sync.WaitGroup
	talking.Go(func() {
		defer theirs.Close()
		var hello toHelper
		if writeFrame(theirs, fromHelper{Secret: []byte("secret")}) != nil || readFrame(theirs, &hello) != nil {
			return
		}
		for range 100 * maxWakes {
			if writeFrame(theirs, fromHelper{Wake: true}) != nil {
				return
			}
		}
	})
	var woken atomic.Int64
	h, err := admitHelper(service, []byte("secret"), func() { woken.Add(1) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-h.gone
	if h.err == nil || !strings.Contains(h.err.Error(), "without end") {
		t.Errorf("it is let go of for %v", h.err)
	}
	h.close()
	talking.Wait()
	if n := woken.Load(); n > maxWakes+1 {
		t.Errorf("it wakes the service %d times", n)
	}
}

func TestAHelperThatDiesIsNoticed(t *testing.T) {
	t.Parallel()
	woken := make(chan struct{}, 10)
	h, ended, err := pair(t, []byte("secret"), []byte("secret"), func(func()) (eyes, error) {
		return &stillEyes{err: errors.New("crash")}, nil
	}, func() { woken <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.look(t.Context()); err == nil {
		t.Error("a dead helper sees")
	}
	<-woken
	<-ended
	h.close()
}

func TestWhoeverDoesNotKnowTheSecretIsRefused(t *testing.T) {
	t.Parallel()
	for _, told := range [][]byte{nil, []byte("guess"), bytes.Repeat([]byte("x"), 10*maxSecret)} {
		_, ended, err := pair(t, []byte("secret"), told, nil, func() {})
		if err == nil {
			t.Errorf("%q is let in", told)
		}
		if err := <-ended; !errors.Is(err, errNotGreeted) {
			t.Errorf("the stranger ends with %v", err)
		}
	}
}

func TestSightsThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	many := make([]activity.Window, maxHelperWindows+1)
	for i := range many {
		many[i].ID = uint64(i + 1)
	}
	for _, s := range []*Sight{
		nil,
		{Windows: many},
		{Windows: []activity.Window{{ID: 1}, {ID: 1}}},
		{Windows: []activity.Window{{}}},
		{Windows: []activity.Window{{ID: 1, Title: strings.Repeat("x", 5*maxHelperText)}}},
	} {
		if checkSight(s) == nil {
			t.Errorf("%.80v is believed", s)
		}
	}
	s := Sight{Foreground: uint64(len(many)), Windows: many}
	if bound(&s); checkSight(&s) != nil || s.Windows[len(s.Windows)-1].ID != s.Foreground {
		t.Error("a helper tells what is not believed, or leaves out what is in front")
	}
}

func TestThousandsOfWindowsWithTheLongestTitlesFitAFrame(t *testing.T) {
	t.Parallel()
	for _, character := range []string{"x", "漢", "\x01", "<"} {
		many := make([]activity.Window, maxHelperWindows)
		for i := range many {
			many[i] = activity.Window{ID: uint64(i + 1), PID: 1 << 20, Class: strings.Repeat("c", 256), Title: strings.Repeat(character, maxHelperText)}
		}
		s := Sight{Foreground: maxHelperWindows, Windows: many}
		bound(&s)
		var frame bytes.Buffer
		if err := writeFrame(&frame, fromHelper{Look: 1, Sight: &s}); err != nil {
			t.Errorf("%q: %v", character, err)
		}
		if err := checkSight(&s); err != nil || s.Windows[len(s.Windows)-1].ID != s.Foreground || frame.Len() < maxFrame*9/10 {
			t.Errorf("%q: %d windows in %d bytes are told: %v", character, len(s.Windows), frame.Len(), err)
		}
	}
}
