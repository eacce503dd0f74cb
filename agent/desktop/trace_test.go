package desktop

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
)

// startEvent writes the event of a start as the manifest of the provider lays it out.
func startEvent(version uint8, e processEvent) []byte {
	var b bytes.Buffer
	put := func(fields ...any) {
		for _, f := range fields {
			_ = binary.Write(&b, binary.LittleEndian, f)
		}
	}
	text := func(s string) { put(utf16.Encode([]rune(s)), uint16(0)) }
	put(e.pid)
	if version >= 3 {
		put(uint64(77)) // ProcessSequenceNumber
	}
	put(e.created, e.parent)
	if version >= 3 {
		put(uint64(76)) // ParentProcessSequenceNumber
	}
	put(e.session)
	if version >= 1 {
		put(uint32(0)) // Flags
	}
	if version >= 3 {
		put(uint32(1), uint32(0))                            // ProcessTokenElevationType, ProcessTokenIsElevated
		put([]byte{1, 1, 0, 0, 0, 0, 0, 16}, uint32(0x2000)) // MandatoryLabel: S-1-16-8192
	}
	text(e.image)
	if version >= 2 {
		put(uint32(0xabcdef), uint32(0x5f5e100)) // ImageChecksum, TimeDateStamp
		text(e.pkg)
		text("App")
	}
	if version >= 4 {
		put(uint32(9)) // SecurityMitigations
	}
	return b.Bytes()
}

// stopEvent writes the event of an exit.
func stopEvent(version uint8, e processEvent) []byte {
	var b bytes.Buffer
	put := func(fields ...any) {
		for _, f := range fields {
			_ = binary.Write(&b, binary.LittleEndian, f)
		}
	}
	put(e.pid)
	if version >= 2 {
		put(uint64(77))
	}
	put(e.created, e.exited, uint32(1), uint32(1), uint32(50), uint64(1), uint64(2)) // ExitCode, TokenElevationType, HandleCount, CommitCharge, CommitPeak
	if version >= 1 {
		put(uint64(3), uint32(4), uint32(5), uint32(6), uint32(7), uint32(8))
	}
	put([]byte("writer.exe\x00"))
	return b.Bytes()
}

func TestEventsOfAllVersions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := processEvent{
			pid: rapid.Int32Range(4, 1<<30).Draw(t, "pid"), created: rapid.Int64Range(1, 1<<62).Draw(t, "created"),
			parent: rapid.Int32Range(0, 1<<30).Draw(t, "parent"), session: rapid.Uint32().Draw(t, "session"),
			image: `\Device\HarddiskVolume3\` + rapid.StringOf(rapid.RuneFrom([]rune(`aZ \.ü語`))).Draw(t, "image"),
		}
		version := rapid.Uint8Range(0, 4).Draw(t, "version")
		if version >= 2 {
			want.pkg = rapid.SampledFrom([]string{"", "Microsoft.WindowsCalculator_11.2210.0.0_x64__8wekyb3d8bbwe"}).Draw(t, "package")
		}
		if got, ok, err := parseProcessEvent(1, version, startEvent(version, want)); got != want || !ok || err != nil {
			t.Fatalf("version %d: %+v, %v, %v; want %+v", version, got, ok, err, want)
		}
		version = rapid.Uint8Range(0, 2).Draw(t, "version of the exit")
		ended := processEvent{pid: want.pid, created: want.created, exited: rapid.Int64Range(1, 1<<62).Draw(t, "exited")}
		data := stopEvent(version, ended)
		if got, ok, err := parseProcessEvent(2, version, data); got != ended || !ok || err != nil {
			t.Fatalf("exit, version %d: %+v, %v, %v; want %+v", version, got, ok, err, ended)
		}
		cut := rapid.IntRange(0, 19).Draw(t, "cut")
		if _, _, err := parseProcessEvent(2, version, data[:cut]); err == nil {
			t.Fatalf("%d bytes of an exit are taken", cut)
		}
	})
	for _, c := range []struct {
		id      uint16
		version uint8
		known   bool
	}{{1, 5, false}, {2, 3, false}, {3, 0, true}, {15, 0, true}} {
		if _, ok, err := parseProcessEvent(c.id, c.version, make([]byte, 200)); ok || (err == nil) != c.known {
			t.Errorf("event %d, version %d: %v, %v", c.id, c.version, ok, err)
		}
	}
}

func FuzzProcessEvent(f *testing.F) {
	for version := range uint8(5) {
		f.Add(uint16(1), version, startEvent(version, processEvent{pid: 8, created: 9, image: `\Device\x.exe`, pkg: "p"}))
		f.Add(uint16(2), version, stopEvent(version, processEvent{pid: 8, created: 9, exited: 10}))
	}
	f.Fuzz(func(t *testing.T, id uint16, version uint8, data []byte) {
		e, ok, err := parseProcessEvent(id, version, data)
		if ok && err == nil && (e.exited > 0) != (id == 2) {
			t.Errorf("event %d is read as %+v", id, e)
		}
	})
}

// fakeTraces are the traces of a machine, as Microsoft documents them: they are the system's,
// so one outlives who began it; of a name there is one; whoever follows one is let go when it
// ends.
type fakeTraces struct {
	mu    sync.Mutex
	trace chan struct{} // closed when it ends; nil: there is none
	begun int
	fails error
	told  chan traced
}

func (f *fakeTraces) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.fails != nil:
		return f.fails
	case f.trace != nil:
		return errTraceThere
	}
	f.trace = make(chan struct{})
	f.begun++
	return nil
}

func (f *fakeTraces) takeAway() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trace != nil {
		close(f.trace)
		f.trace = nil
	}
	return nil
}

func (f *fakeTraces) end() error { return f.takeAway() }

func (f *fakeTraces) follow(take func(traced)) error {
	f.mu.Lock()
	trace := f.trace
	f.mu.Unlock()
	if trace == nil {
		return errors.New("the instance name passed was not recognized")
	}
	for {
		select {
		case <-trace:
			return nil
		case t := <-f.told:
			take(t)
		}
	}
}

// tracing is a processTrace over a fake, with what it has told.
type tracing struct {
	*fakeTraces
	mu     sync.Mutex
	events []processEvent
	losses int
	why    []string
	stop   func()
}

func startTracing(t *testing.T, f *fakeTraces) *tracing {
	t.Helper()
	f.told = make(chan traced)
	tr := &tracing{fakeTraces: f}
	p := processTrace{
		system: f,
		note:   func(e processEvent) { tr.do(func() { tr.events = append(tr.events, e) }) },
		lost:   func() { tr.do(func() { tr.losses++ }) },
		state:  func(why string) { tr.do(func() { tr.why = append(tr.why, why) }) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx)
	}()
	tr.stop = func() {
		cancel()
		<-done
	}
	synctest.Wait()
	return tr
}

func (tr *tracing) do(what func()) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	what()
}

func (tr *tracing) last() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.why) == 0 {
		return "nothing"
	}
	return tr.why[len(tr.why)-1]
}

func TestTraceIsTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// A service that was ended has left its trace behind, which nobody follows.
		f := &fakeTraces{trace: make(chan struct{})}
		tr := startTracing(t, f)
		if tr.last() != "" || f.begun != 1 {
			t.Fatalf("said %q, %d begun", tr.last(), f.begun)
		}
		started := processEvent{pid: 7, created: 8, session: 1, image: `\Device\x.exe`}
		f.told <- traced{id: 1, version: 3, data: startEvent(3, started)}
		f.told <- traced{id: 15, version: 0, data: []byte{1}} // of a process that was there before
		f.told <- traced{lost: true}
		synctest.Wait()
		if !slices.Equal(tr.events, []processEvent{started}) || tr.losses != 1 {
			t.Errorf("told %+v, %d losses", tr.events, tr.losses)
		}
		tr.stop()
		if f.trace != nil {
			t.Error("the trace outlives its service")
		}
	})
}

func TestTraceThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTraces{fails: errors.New("insufficient system resources exist to complete the requested service")}
		tr := startTracing(t, f)
		if !strings.Contains(tr.last(), "insufficient") {
			t.Fatalf("said %q", tr.last())
		}
		f.mu.Lock()
		f.fails = nil
		f.mu.Unlock()
		time.Sleep(firstTracePause) //nolint:forbidigo // Virtual time: it passes when everybody waits.
		synctest.Wait()
		if tr.last() != "" {
			t.Fatalf("after another attempt said %q", tr.last())
		}
		// Somebody ends it, and it is begun anew after a while.
		_ = f.takeAway()
		synctest.Wait()
		if tr.last() == "" {
			t.Error("nobody says that the trace has ended")
		}
		time.Sleep(2 * firstTracePause) //nolint:forbidigo // Virtual time.
		synctest.Wait()
		if tr.last() != "" || f.begun != 2 {
			t.Errorf("said %q, %d begun", tr.last(), f.begun)
		}
		// An event that nobody knows is said, and does not stop the others.
		f.told <- traced{id: 1, version: 200, data: make([]byte, 100)}
		f.told <- traced{id: 2, version: 2, data: stopEvent(2, processEvent{pid: 7, created: 8, exited: 9})}
		synctest.Wait()
		if !strings.Contains(tr.last(), "version 200") || len(tr.events) != 1 {
			t.Errorf("said %q, told %+v", tr.last(), tr.events)
		}
		tr.stop()
	})
}

func TestDriveOfAFile(t *testing.T) {
	t.Parallel()
	devices := map[string]string{"C:": `\Device\HarddiskVolume3`, "D:": `\Device\HarddiskVolume33`, "E:": ""}
	for image, want := range map[string]string{
		`\Device\HarddiskVolume3\Windows\notepad.exe`: `C:\Windows\notepad.exe`,
		`\Device\HarddiskVolume33\x.exe`:              `D:\x.exe`,
		`\Device\Mup\server\share\x.exe`:              "",
		`\Device\HarddiskVolume4\x.exe`:               "",
		`\x.exe`:                                      "",
	} {
		if got := driveOf(image, devices); got != want {
			t.Errorf("%s is %q, want %q", image, got, want)
		}
	}
}

// tracedTable is a table of processes with a trace beside it.
type tracedTable struct {
	*snapshotTable
	t    *testing.T
	list *fakeSnapshots
}

func newTracedTable(t *testing.T) *tracedTable {
	t.Helper()
	line := new(bootline)
	line.note(fileTimeAt(10_000), 10_000)
	f := &fakeSnapshots{}
	table := newSnapshotTable(f, line)
	table.noteTrace("")
	return &tracedTable{table, t, f}
}

// at looks, and gives the processes of session 1, on its list or beside it.
func (t *tracedTable) at(boot int64, list ...snapshotProcess) []activity.Process {
	t.t.Helper()
	t.list.list = list
	if err := t.look(momentAt(boot, fileTimeAt(boot)), true); err != nil {
		t.t.Fatal(err)
	}
	own := seat{number: 1}
	return slices.Concat(t.of(own), t.passed(own))
}

func started(pid int32, at int64) processEvent {
	return processEvent{pid: pid, parent: 4, session: 1, created: fileTimeAt(at), image: `\Device\HarddiskVolume3\tools\errand.exe`, pkg: "suite"}
}

func exited(pid int32, at, ended int64) processEvent {
	return processEvent{pid: pid, created: fileTimeAt(at), exited: fileTimeAt(ended)}
}

func TestProcessesBetweenTwoSnapshots(t *testing.T) {
	t.Parallel()
	table := newTracedTable(t)
	table.at(10_000)
	service := started(71, 10_200)
	service.session = serviceSession
	for _, e := range []processEvent{started(70, 10_100), service, exited(70, 10_100, 10_300), exited(71, 10_200, 10_250), started(70, 10_400)} {
		table.note(e)
	}
	want := activity.Process{
		PID: 70, ParentPID: 4, StartMillis: 10_100, ExitMillis: 10_300, Executable: "errand.exe", Path: `C:\tools\errand.exe`, Package: "suite",
	}
	if got := table.at(11_000); !slices.Equal(got, []activity.Process{want}) {
		t.Fatalf("told %+v", got)
	}
	if got := table.at(12_000); len(got) != 0 {
		t.Fatalf("told again: %+v", got)
	}
	// The second with that number has started, is not on the list, and its exit is told late.
	table.note(exited(70, 10_400, 10_500))
	if got := table.at(13_000); len(got) != 1 || got[0].StartMillis != 10_400 || got[0].ExitMillis != 10_500 {
		t.Fatalf("told %+v", got)
	}
	if len(table.coming) != 0 {
		t.Errorf("%d are still awaited", len(table.coming))
	}
	table.sift(func(executable, path, pkg string) bool {
		if executable != "errand.exe" || path != `C:\tools\errand.exe` || pkg != "suite" {
			t.Errorf("asked whether %s, %s of %s is wanted", executable, path, pkg)
		}
		return false
	})
	table.note(started(72, 13_400))
	table.note(exited(72, 13_400, 13_500))
	if got := table.at(14_000); len(got) != 0 {
		t.Errorf("nobody wants it, and told is %+v", got)
	}
	// One that nobody wants ties what it started to what started it.
	table.note(started(73, 14_200))
	table.note(exited(73, 14_200, 14_600))
	child := snapshotProcess{pid: 90, parent: 73, session: 1, created: fileTimeAt(14_500), name: "writer.exe"}
	if got := table.at(15_000, child); len(got) != 2 || got[0].PID != 90 || got[1].PID != 73 || got[1].ParentPID != 4 {
		t.Errorf("of a program and of what started it is told %+v", got)
	}
}

// What snapshots have shown is not told a second time, however late the trace is, and an
// exit has the kernel's own time where it is told by then.
func TestTraceThatIsLate(t *testing.T) {
	t.Parallel()
	table := newTracedTable(t)
	line := snapshotProcess{pid: 70, parent: 4, session: 1, created: fileTimeAt(10_100), name: "errand.exe"}
	if got := table.at(11_000, line); len(got) != 1 || got[0].ExitMillis != 0 {
		t.Fatalf("told %+v", got)
	}
	table.note(started(70, 10_100))
	table.note(exited(70, 10_100, 11_200))
	if got := table.at(12_000); len(got) != 1 || got[0].ExitMillis != 11_200 {
		t.Fatalf("told %+v", got)
	}
	line.pid, line.created = 80, fileTimeAt(12_500)
	table.at(13_000, line)
	if got := table.at(14_000); len(got) != 0 {
		t.Fatalf("it is gone, and told as %+v", got)
	}
	for _, e := range []processEvent{started(70, 10_100), exited(70, 10_100, 11_200), started(80, 12_500), exited(80, 12_500, 13_100)} {
		table.note(e)
	}
	for boot := int64(15_000); boot < 18_000; boot += 1_000 {
		if got := table.at(boot); len(got) != 0 {
			t.Fatalf("told again: %+v", got)
		}
	}
}

// A trace may be written into by programs of anybody here: what is on the list runs,
// whatever is told of it.
func TestAnExitOfWhatRunsIsNotBelieved(t *testing.T) {
	t.Parallel()
	table := newTracedTable(t)
	line := snapshotProcess{pid: 70, parent: 4, session: 1, created: fileTimeAt(10_100), name: "errand.exe"}
	table.at(11_000, line)
	table.note(exited(70, 10_100, 11_500))
	for boot := int64(12_000); boot < 15_000; boot += 1_000 {
		if got := table.at(boot, line); len(got) != 1 || got[0].ExitMillis != 0 {
			t.Fatalf("it runs, and told is %+v", got)
		}
	}
	table.note(exited(70, 10_100, 14_700))
	if got := table.at(15_000); len(got) != 1 || got[0].ExitMillis != 14_700 {
		t.Fatalf("it is gone, and told is %+v", got)
	}
	if len(table.exits) != 0 {
		t.Errorf("%d exits are kept", len(table.exits))
	}
}

func TestWhatATraceDoesNotTellIsSaid(t *testing.T) {
	t.Parallel()
	table := newTracedTable(t)
	table.at(10_000)
	if said := table.shortfall(); said != "" {
		t.Errorf("said %q", said)
	}
	table.noteLost()
	table.at(11_000)
	if said := table.shortfall(); !strings.Contains(said, "may be missing") {
		t.Errorf("after a loss said %q", said)
	}
	table.at(11_000 + livesMissedMillis)
	if said := table.shortfall(); said != "" {
		t.Errorf("long after a loss said %q", said)
	}
	table.noteTrace("access is denied")
	if said := table.shortfall(); !strings.Contains(said, "not seen: access is denied") {
		t.Errorf("without a trace said %q", said)
	}
	// Without one, what is not on a list is gone.
	line := snapshotProcess{pid: 70, session: 1, created: fileTimeAt(80_000), name: "errand.exe"}
	table.at(80_500, line)
	if got := table.at(81_500); len(got) != 0 {
		t.Errorf("told %+v", got)
	}
	for n := range int32(2 * maxStarts) {
		table.note(started(n, 82_000))
	}
	if table.at(83_000); table.lostAt != 83_000 || len(table.coming) != maxStarts {
		t.Errorf("of more starts than are kept %d are, and a loss is said at %d", len(table.coming), table.lostAt)
	}
	for n := range int32(100) {
		table.note(started(n, 83_100))
	}
	if table.at(84_000); table.lostAt != 84_000 || len(table.coming) != maxStarts {
		t.Errorf("after more of them %d are kept, and a loss is said at %d", len(table.coming), table.lostAt)
	}
}
