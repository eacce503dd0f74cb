package desktop

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
)

func TestClocksAgree(t *testing.T) {
	t.Parallel()
	c := newClocks()
	first, err := c.now()
	if err != nil {
		t.Fatal(err)
	}
	if first.bootMillis < first.awakeMillis {
		t.Errorf("since boot %d ms, of them awake %d", first.bootMillis, first.awakeMillis)
	}
	if off := first.utcMillis - time.Now().UnixMilli(); off < -1000 || off > 1000 {
		t.Errorf("UTC is %d ms off", off)
	}
	second, err := c.now()
	if err != nil {
		t.Fatal(err)
	}
	if second.bootMillis < first.bootMillis || second.awakeMillis < first.awakeMillis {
		t.Errorf("clocks went back: %+v, then %+v", first, second)
	}
	if id, err := readBootID(); err != nil || id.IsZero() {
		t.Errorf("boot id %v, %v", id, err)
	}
}

// A laptop that travels changes its zone while the agent runs.
func TestZoneIsReadAgain(t *testing.T) {
	if _, set := os.LookupEnv("TZ"); set {
		t.Setenv("TZ", "")
		_ = os.Unsetenv("TZ")
	}
	link := filepath.Join(t.TempDir(), "localtime")
	c := &clocks{zoneFile: link, zone: time.UTC}
	for zone, want := range map[string]int32{"Asia/Kathmandu": 20_700, "Asia/Tokyo": 32_400} {
		file := filepath.Join("/usr/share/zoneinfo", zone)
		if _, err := os.Stat(file); err != nil {
			file = filepath.Join(t.TempDir(), "zone")
			if err := os.WriteFile(file, fixedZone(want), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_ = os.Remove(link)
		if err := os.Symlink(file, link); err != nil {
			t.Fatal(err)
		}
		c.zoneChecked = 0
		r, err := c.now()
		if err != nil {
			t.Fatal(err)
		}
		if r.zoneOffsetSeconds != want {
			t.Errorf("%s is %d s east of UTC, want %d", zone, r.zoneOffsetSeconds, want)
		}
	}
}

// fixedZone is a zone file of one offset, for machines without zone files.
func fixedZone(offset int32) []byte {
	b := append([]byte("TZif"), make([]byte, 16)...)
	for _, n := range []uint32{0, 0, 0, 0, 1, 4} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(offset))
	return append(b, 0, 0, 'X', 'Y', 'Z', 0)
}

// However often a lone input is asked about, and however the answers jitter, it
// stays at one time; a later input is seen; time never goes back; what lies
// before a sleep is not carried over it.
func TestLastInput(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var l lastInput
		var meter sleepMeter
		reading := moment{bootMillis: 10_000_000, awakeMillis: 9_000_000}
		meter.note(moment{}, reading)
		inputAwake, inputBoot := reading.awakeMillis, reading.bootMillis
		reported, _ := l.take(inputReading{known: true, earliest: inputAwake, latest: inputAwake}, meter)
		for range rapid.IntRange(1, 60).Draw(t, "looks") {
			last := reading
			passed := rapid.Int64Range(10, 3000).Draw(t, "passed") // inputs within the jitter of a sleep cannot be placed
			reading.bootMillis += passed
			reading.awakeMillis += passed
			if rapid.IntRange(0, 9).Draw(t, "sleeps") == 0 {
				reading.bootMillis += rapid.Int64Range(activity.SleepFloor, 8*3_600_000).Draw(t, "sleep")
			}
			meter.note(last, reading)
			if rapid.IntRange(0, 3).Draw(t, "input") == 0 {
				inputAwake, inputBoot = reading.awakeMillis, reading.bootMillis
			}
			early := rapid.Int64Range(0, 3).Draw(t, "early")
			late := rapid.Int64Range(0, 3).Draw(t, "late")
			got, known := l.take(inputReading{known: true, earliest: inputAwake - early, latest: inputAwake + late}, meter)
			if !known || got < reported {
				t.Fatalf("input at %d, known %v, after one at %d", got, known, reported)
			}
			reported = got
			if off := got - inputBoot; off < -8 || off > 8 {
				t.Fatalf("input at %d is told as %d", inputBoot, got)
			}
		}
		for range 5 {
			jitter := rapid.Int64Range(0, 3).Draw(t, "jitter")
			if got, _ := l.take(inputReading{known: true, earliest: inputAwake - jitter, latest: inputAwake + 3 - jitter}, meter); got != reported {
				t.Fatalf("the same input moved from %d to %d", reported, got)
			}
		}
	})
}

func TestProcessTable(t *testing.T) {
	t.Parallel()
	c := newClocks()
	boot := func() int64 {
		r, err := c.now()
		if err != nil {
			t.Fatal(err)
		}
		return r.bootMillis
	}
	find := func(table *processTable, pid int) (activity.Process, bool) {
		for _, p := range table.list("mine") {
			if p.PID == int32(pid) {
				return p, true
			}
		}
		return activity.Process{}, false
	}
	table := newProcessTable("/proc")
	table.follow([]seat{{key: "mine", systemSeat: systemSeat{uid: uint32(os.Getuid()), at: place{display: ":77"}}}})
	if _, err := table.look(boot(), false); err != nil {
		t.Fatal(err)
	}
	run := func(display string) *exec.Cmd {
		cmd := exec.Command("sleep", "600")
		cmd.Env = []string{"DISPLAY=" + display}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd
	}
	ours, other := run(":77.0"), run(":78")
	if _, err := table.look(boot(), false); err != nil {
		t.Fatal(err)
	}
	if changed, err := table.look(boot(), false); err != nil || !changed {
		t.Fatalf("a new process is not seen: %v, %v", changed, err)
	}
	p, found := find(table, ours.Process.Pid)
	if !found || p.Executable != "sleep" || !strings.HasSuffix(p.Path, "/sleep") || p.ParentPID != int32(os.Getpid()) {
		t.Errorf("our process is %+v", p)
	}
	if since := boot() - p.StartMillis; since < 0 || since > 60_000 {
		t.Errorf("our process started %d ms ago", since)
	}
	if _, found := find(table, other.Process.Pid); found {
		t.Error("a process of another display is listed")
	}
	if !table.windowOf(int32(other.Process.Pid), "mine") {
		t.Error("a window here changes nothing")
	}
	if _, found := find(table, other.Process.Pid); !found {
		t.Error("a process with a window here is not listed")
	}
	_ = ours.Process.Kill()
	_ = ours.Wait()
	if changed, err := table.look(boot(), true); err != nil || !changed {
		t.Errorf("an exit is not seen: %v, %v", changed, err)
	}
	if _, found := find(table, ours.Process.Pid); found {
		t.Error("a process that exited is listed")
	}
}

func TestDisplays(t *testing.T) {
	t.Parallel()
	for display, want := range map[string]displayAddress{
		":0":             {network: "unix", address: "/tmp/.X11-unix/X0", number: "0"},
		"unix:3.1":       {network: "unix", address: "/tmp/.X11-unix/X3", number: "3", screen: 1},
		"host:10.0":      {network: "tcp", address: "host:6010", host: "host", number: "10"},
		"/run/x/socket:": {},
		"/run/x:0":       {network: "unix", address: "/run/x:0", number: "0"},
	} {
		got, err := parseDisplay(display)
		if want == (displayAddress{}) {
			if err == nil {
				t.Errorf("%q is taken as %+v", display, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", display, got, err, want)
		}
	}
	for _, pair := range [][2]string{{":0", ":0.0"}, {"unix:1", ":1.2"}, {"localhost:10.0", "localhost:10"}} {
		if !sameDisplay(pair[0], pair[1]) {
			t.Errorf("%q and %q are one display", pair[0], pair[1])
		}
	}
	if sameDisplay(":0", "localhost:0") || sameDisplay(":0", ":1") {
		t.Error("two displays are taken for one")
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]activity.User{
		"anna":            {Name: "anna", Domain: "desk", DisplayName: "Anna A"},
		"anna@corp.local": {Name: "anna", Domain: "corp.local", UserPrincipalName: "anna@corp.local", DisplayName: "Anna A"},
		`CORP\anna`:       {Name: "anna", Domain: "CORP", DisplayName: "Anna A"},
	} {
		if got := userNamed(name, "Anna A,Room 1,,", "desk"); got != want {
			t.Errorf("%q is %+v, want %+v", name, got, want)
		}
	}
}

func TestNoDisplayIsSaid(t *testing.T) {
	for _, name := range []string{"DISPLAY", "WAYLAND_DISPLAY", "XDG_SESSION_TYPE"} {
		t.Setenv(name, "")
	}
	if _, err := Open(Config{}); err == nil || !strings.Contains(err.Error(), "DISPLAY") {
		t.Errorf("error is %v", err)
	}
	if _, err := Open(Config{Display: "screen"}); err == nil || !strings.Contains(err.Error(), `"screen"`) {
		t.Errorf("error is %v", err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("20656 (head) R 20648 20648 16133 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 165822 2998272 390"))
	f.Add([]byte("1 (a) b) (c) S 0 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 17 1 1"))
	f.Add([]byte("1 (x"))
	f.Fuzz(func(t *testing.T, line []byte) {
		s, err := parseStat(line)
		if err == nil && s.startMillis < 0 {
			t.Errorf("start %d", s.startMillis)
		}
	})
}

func FuzzFindCookie(f *testing.F) {
	entry := func(family uint16, fields ...string) []byte {
		b := binary.BigEndian.AppendUint16(nil, family)
		for _, field := range fields {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...)
		}
		return b
	}
	f.Add(entry(256, "desk", "0", cookieName, "0123456789abcdef"))
	f.Add(append(entry(65535, "", "", cookieName, "wild"), entry(256, "desk", "0", cookieName, "mine")...))
	f.Add(entry(256, "desk", "0", cookieName)[:9])
	f.Fuzz(func(t *testing.T, file []byte) {
		cookie, ok, err := findCookie(bytes.NewReader(file), "desk", "0")
		if ok && err == nil && !bytes.Contains(file, cookie) {
			t.Errorf("a cookie %q that the file does not hold", cookie)
		}
	})
}

func TestCookieOfThisMachineWins(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	add := func(family uint16, fields ...string) {
		_ = binary.Write(&file, binary.BigEndian, family)
		for _, field := range fields {
			_ = binary.Write(&file, binary.BigEndian, uint16(len(field)))
			file.WriteString(field)
		}
	}
	add(65535, "", "", cookieName, "wild")
	add(256, "other", "0", cookieName, "theirs")
	add(256, "desk", "1", cookieName, "another")
	add(256, "desk", "0", cookieName, "mine")
	if cookie, ok, err := findCookie(&file, "desk", "0"); string(cookie) != "mine" || !ok || err != nil {
		t.Errorf("cookie %q, %v, %v", cookie, ok, err)
	}
}

func FuzzDecodeText(f *testing.F) {
	f.Add([]byte("Z\xfcrich"), false)
	f.Add([]byte("Zürich"), true)
	f.Add([]byte("cut \xc3"), true)
	f.Fuzz(func(t *testing.T, value []byte, isUTF8 bool) {
		if text := decodeText(value, isUTF8); !utf8.ValidString(text) {
			t.Errorf("%q is no UTF-8", text)
		}
	})
}

func FuzzParseDisplay(f *testing.F) {
	for _, s := range []string{":0", "host:10.0", "/run/x:0", "tcp/host:1", ":", "::", ":99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, display string) {
		if a, err := parseDisplay(display); err == nil && a.address == "" {
			t.Errorf("%q leads nowhere", display)
		}
	})
}

// The kernel tells the end of a process; where it refuses, nothing breaks.
func TestExitsAreTold(t *testing.T) {
	t.Parallel()
	woken := make(chan struct{}, 1)
	w := newExitWatch(openPIDFD, func() { woken <- struct{}{} })
	defer w.close()
	if !w.tells() {
		t.Skip("this kernel has no pidfd_open")
	}
	for range 3 {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := int32(cmd.Process.Pid)
		w.add(pid)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		// Nobody has asked how it ended: it is a zombie, and over all the same.
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Fatal("the end of a process is not told")
		}
		if ended := w.take(); len(ended) != 1 || ended[0] != pid {
			t.Errorf("ended are %v, want %d", ended, pid)
		}
		w.remove(pid)
		_ = cmd.Wait()
	}
	refused := newExitWatch(func(int32) (int, error) { return 0, unix.ENOSYS }, func() {})
	defer refused.close()
	refused.add(1)
	if refused.tells() || len(refused.take()) > 0 {
		t.Error("a kernel that refuses is believed to tell exits")
	}
}
