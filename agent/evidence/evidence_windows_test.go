package evidence

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// TestHelperProcess is the other program of TestCommandLine.
func TestHelperProcess(*testing.T) {
	if os.Getenv("CETRUS_TEST_WAIT") == "" {
		return
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

func TestCommandLine(t *testing.T) {
	named := filepath.Join(t.TempDir(), "Müller & Söhne.docx")
	c := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$", named, "file:///C:/a%20b.docx", "relative.docx")
	c.Env = append(os.Environ(), "CETRUS_TEST_WAIT=1")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	p := observed(t, int32(c.Process.Pid))
	other := p
	other.StartMillis -= 60_000
	if line, err := commandLine(other); !errors.Is(err, errAnother) {
		t.Errorf("a process that has gone has what its successor has: %q, %v", line, err)
	}
	_, err = commandLine(p)
	if errors.Is(err, windows.STATUS_INVALID_INFO_CLASS) {
		t.Skip("this Wine does not tell command lines; see docs/windows-checklist.md")
	} else if err != nil {
		t.Fatal(err)
	}
	e := New()
	got := e.CommandLine(p)
	if !slices.Contains(got, named) || !slices.Contains(got, `C:\a b.docx`) || slices.Contains(got, "relative.docx") {
		t.Errorf("the command line has %q", got)
	}
	if got := e.CommandLine(activity.Process{PID: 1 << 30}); got != nil {
		t.Errorf("a process that is not there has %q", got)
	}
	if e.OpenFiles(p) != nil {
		t.Error("handles were looked at")
	}
}

// observed is a process as the desktop tells it.
func observed(t *testing.T, pid int32) (found activity.Process) {
	t.Helper()
	d, err := desktop.Open(desktop.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Watch(ctx, func(o activity.Observation) {
		for _, s := range o.Sessions {
			for _, p := range s.Processes {
				if p.PID == pid {
					found = p
					cancel()
				}
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if found.PID == 0 {
		t.Fatalf("the desktop does not tell of process %d", pid)
	}
	return found
}

// system answers as NtQueryInformationProcess does for ProcessCommandLineInformation.
type system struct {
	text  string
	asked []int
	// elsewhere: the text is said to lie outside of the answer.
	elsewhere bool
}

func (s *system) ask(buffer []uint64) (uint32, error) {
	s.asked = append(s.asked, len(buffer)*8)
	units := utf16.Encode([]rune(s.text))
	head := int(unsafe.Sizeof(windows.NTUnicodeString{}))
	if need := head + 2*len(units) + 2; len(buffer)*8 < need {
		return uint32(need), windows.STATUS_INFO_LENGTH_MISMATCH
	}
	text := unsafe.Slice((*uint16)(unsafe.Add(unsafe.Pointer(&buffer[0]), head)), len(units)+1)
	copy(text, units)
	at := &text[0]
	if s.elsewhere {
		at = &units[0]
	}
	*(*windows.NTUnicodeString)(unsafe.Pointer(&buffer[0])) = windows.NTUnicodeString{Length: uint16(2 * len(units)), MaximumLength: uint16(2*len(units) + 2), Buffer: at}
	return uint32(head + 2*len(units) + 2), nil
}

// TestRead against the documented behaviour of the system's call.
func TestRead(t *testing.T) {
	short, long := `"C:\Program Files\Edit\edit.exe" "C:\Pläne\Pier 3.dwg"`, "edit.exe "+strings.Repeat("x", 30_000)
	for _, text := range []string{"", short, long} {
		s := &system{text: text}
		got, err := read(s.ask)
		if err != nil || got != text || len(s.asked) > 2 {
			t.Errorf("%.40q is read as %.40q, %v, asked with %v bytes", text, got, err, s.asked)
		}
	}
	if got, err := read((&system{text: short, elsewhere: true}).ask); err == nil {
		t.Errorf("memory outside of the answer is read: %q", got)
	}
	if _, err := read(func([]uint64) (uint32, error) { return 1 << 31, windows.STATUS_INFO_LENGTH_MISMATCH }); err == nil {
		t.Error("a system that never has room enough is asked for ever")
	}
	if _, err := read(func([]uint64) (uint32, error) { return 0, windows.STATUS_ACCESS_DENIED }); !errors.Is(err, windows.STATUS_ACCESS_DENIED) {
		t.Errorf("what is refused gives %v", err)
	}
}

func TestWholePath(t *testing.T) {
	for a, want := range map[string]string{
		`C:\a b.docx`: `C:\a b.docx`, "c:/x/y.docx": `c:\x\y.docx`, `\\server\share\x`: `\\server\share\x`, "//server/x": `\\server\x`, "a.docx": "", `\a.docx`: "", "C:a.docx": "", "1:/x": "",
	} {
		if got := wholePath(a); got != want {
			t.Errorf("%q becomes %q, want %q", a, got, want)
		}
	}
}
