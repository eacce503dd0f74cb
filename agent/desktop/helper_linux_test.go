package desktop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
)

// Words that make this test binary be a helper, as the agent is with its own.
const (
	asHelper    = "session-helper"
	asPrisoner  = "try-everything"
	selfProgram = "/proc/self/exe"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case asHelper:
			if err := ServeSession(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case asPrisoner:
			os.Exit(tryEverything())
		}
	}
	os.Exit(m.Run())
}

// openTestHelper opens a helper of this test on a display.
func openTestHelper(t *testing.T, h Helper, display string, wake func()) eyes {
	t.Helper()
	opened, err := openHelper(t.Context(), h, seat{systemSeat: systemSeat{uid: uint32(os.Getuid()), at: place{kind: kindX11, display: display}}}, wake)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func lookIn(t *testing.T, e eyes) Sight {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sight, err := e.look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return sight
}

// A helper has no way out but its service's pipe, its display and its session's bus: that
// it takes none is seen in every system call that it makes, that it could take none is
// seen in the next test.
func TestHelperReachesNothingElse(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is missing: install it with: apt-get install strace")
	}
	d := desktoptest.StartManaged(t)
	record := filepath.Join(t.TempDir(), "calls")
	e := openTestHelper(t, Helper{Executable: strace, Args: []string{"-f", "-qq", "-o", record, "-e", "trace=%file,%network,%process,%desc", selfProgramOf(t), asHelper}}, d.Name, func() {})
	_, terminal := d.Open("xterm", "^shell$", "xterm", "-T", "shell")
	d.Do("windowactivate", "--sync", terminal)
	d.Until("the helper sees it", func() bool {
		s := lookIn(t, e)
		return len(s.Windows) == 1 && s.Windows[0].Title == "shell" && s.Foreground == s.Windows[0].ID
	})
	e.close()
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	display := regexp.QuoteMeta("/tmp/.X11-unix/X" + strings.TrimPrefix(d.Name, ":"))
	allowed := regexp.MustCompile(`^(connect\(\d+, \{sa_family=AF_UNIX, sun_path=@?"` + display + `"|connect\(.* = -1 |socket\(AF_UNIX, )`)
	confined, connected := false, 0
	for line := range strings.Lines(string(text)) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		name, _, _ := strings.Cut(call, "(")
		switch name {
		case "connect":
			connected++
			fallthrough
		case "socket":
			if !allowed.MatchString(call) {
				t.Errorf("the helper reaches out: %s", call)
			}
		case "bind", "listen", "accept4", "unlink", "unlinkat", "rename", "renameat2", "mkdirat", "kill":
			t.Errorf("the helper does what it has no business to: %s", call)
		case "openat":
			if confined && regexp.MustCompile(`O_WRONLY|O_RDWR|O_CREAT`).MatchString(call) {
				t.Errorf("the helper opens a file to write: %s", call)
			}
		case "execve":
			if confined {
				t.Errorf("the helper starts a program: %s", call)
			}
		}
		// What the Go runtime and this test do before is not the helper's.
		confined = confined || strings.Contains(call, "SO_TYPE")
	}
	if !confined || connected == 0 {
		t.Errorf("the record shows nothing of a helper:\n%.2000s", text)
	}
}

// selfProgramOf is this test's file, which another program is to start.
func selfProgramOf(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// tryEverything is a helper that has been taken over: it tries what could lead out, after
// it was confined, and tells how many attempts succeeded.
func tryEverything() int {
	kept, err := os.CreateTemp("", "cetrus-kept-")
	if err != nil {
		return 98
	}
	if err := errors.Join(confine(true), confine(false)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	out := 0
	try := func(what string, err error) {
		if err == nil {
			fmt.Fprintln(os.Stderr, "it can", what)
			out++
		}
	}
	dir := os.TempDir()
	try("write a file", os.WriteFile(filepath.Join(dir, "cetrus-written"), []byte("x"), 0o600))
	try("make a folder", os.Mkdir(filepath.Join(dir, "cetrus-made"), 0o700))
	try("write to one that it made before", func() error { _, err := kept.WriteString("x"); return err }())
	try("remove a file", os.Remove(kept.Name()))
	try("start a program", exec.Command("/bin/true").Run())
	for _, network := range []string{"tcp", "udp"} {
		_, err := net.Dial(network, "127.0.0.1:9")
		var refused syscall.Errno
		if errors.As(err, &refused) && refused == syscall.ECONNREFUSED {
			err = nil // it got as far as somebody who could have said yes
		}
		try("reach a network by "+network, err)
	}
	_, err = net.Listen("unix", "@cetrus-listening")
	try("listen", err)
	try("signal another process", syscall.Kill(os.Getppid(), 0))
	// What it needs still works.
	if _, err := os.ReadFile("/proc/self/stat"); err != nil {
		fmt.Fprintln(os.Stderr, "it cannot read:", err)
		out++
	}
	return out
}

func TestConfinedHelperCanDoNothingElse(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(selfProgramOf(t), asPrisoner)
	cmd.Env = []string{"TMPDIR=" + t.TempDir()}
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// A session whose programs tell no key for its display is reached all the same, by the key
// that lies where log-ins put it: the helper looks there, as the person.
func TestHelperFindsTheKeyOfItsDisplay(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a display that is somebody else's")
	}
	const nobody = 65534
	d := desktoptest.StartFor(t, nobody)
	home := d.Owner().Home
	for name, at := range map[string]place{
		".Xauthority":    {home: home},
		"gdm/Xauthority": {runtimeDir: home, home: "/nonexistent"},
	} {
		file := filepath.Join(home, name)
		command := exec.Command("install", "-D", "--owner=65534", "--mode=600", d.Owner().Authority, file)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Chmod(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		at.kind, at.display = kindX11, d.Name
		e, err := openHelper(t.Context(), testHelper(), seat{systemSeat: systemSeat{uid: nobody, at: at}}, func() {})
		if err != nil {
			t.Errorf("with its key in %s: %v", name, err)
			continue
		}
		if sight := lookIn(t, e); sight.FocusUnsupported != "" {
			t.Errorf("with its key in %s: %+v", name, sight)
		}
		e.close()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// What a helper says when it cannot look reaches the log, and it is gone.
func TestHelperSaysWhyItCannotLook(t *testing.T) {
	t.Parallel()
	_, err := openHelper(t.Context(), Helper{Executable: selfProgram, Args: []string{asHelper}},
		seat{systemSeat: systemSeat{uid: uint32(os.Getuid()), at: place{kind: kindX11, display: ":65000"}}}, func() {})
	if err == nil || !strings.Contains(err.Error(), ":65000") {
		t.Errorf("error is %v", err)
	}
}

// A helper that is let go of, or whose service dies, ends.
func TestHelperEndsWithItsService(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	woken := make(chan struct{}, 1)
	e := openTestHelper(t, Helper{Executable: selfProgram, Args: []string{asHelper}}, d.Name, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	lookIn(t, e)
	d.Open("xterm", "^shell$", "xterm", "-T", "shell")
	select {
	case <-woken:
	case <-time.After(20 * time.Second):
		t.Error("the helper does not tell that a window came")
	}
	began := time.Now()
	e.close()
	if took := time.Since(began); took > helperEnd {
		t.Errorf("it had to be killed after %v", took)
	}
	if err := exec.Command(selfProgramOf(t), asHelper).Run(); err == nil {
		t.Error("anybody can start a helper")
	}
}

// Whoever the helper runs as can open what it has open, and keep it: the service goes on
// all the same.
func TestHelperWhoseErrorsAreHeldOpenEnds(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	held := filepath.Join(t.TempDir(), "pid")
	e := openTestHelper(t, Helper{Executable: "sh", Args: []string{"-c", `echo $$ >"$1.new"; mv "$1.new" "$1"; exec "$2" "$3"`, "sh", held, selfProgramOf(t), asHelper}}, d.Name, func() {})
	lookIn(t, e)
	pid, err := os.ReadFile(held)
	if err != nil {
		t.Fatal(err)
	}
	errorsOf, err := os.OpenFile("/proc/"+strings.TrimSpace(string(pid))+"/fd/2", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.close()
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the service waits for whoever holds on to what its helper had open")
	}
	_ = errorsOf.Close()
	<-ended
}

// The confinement leaves the eyes of a Wayland session what they need.
func TestHelperOfWayland(t *testing.T) {
	t.Parallel()
	s := desktoptest.StartSway(t)
	var about unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", s.PID), &about); err != nil {
		t.Fatal(err)
	}
	e, err := openHelper(t.Context(), Helper{Executable: selfProgram, Args: []string{asHelper}}, seat{systemSeat: systemSeat{uid: about.Uid, at: place{
		kind: kindWayland, wayland: s.Socket, runtimeDir: s.RuntimeDir, desktop: "sway",
	}}}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	s.Open("foot", "a letter", "foot", "--title=a letter", "sleep", "600")
	s.Until("the helper sees it", func() bool {
		sight := lookIn(t, e)
		return len(sight.Windows) == 1 && sight.Windows[0].Title == "a letter" && sight.Foreground == sight.Windows[0].ID && sight.FocusUnsupported == ""
	})
}
