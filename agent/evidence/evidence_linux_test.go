package evidence

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// TestAProcess looks at a real one, which holds one file open and was started with two.
func TestAProcess(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	held, named := filepath.Join(dir, "Müller.txt"), filepath.Join(dir, "sub", "plan.odt")
	for _, name := range []string{held, named} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tail := exec.Command("tail", "-f", held)
	// A shell takes any word for an argument, and waits.
	shell := exec.Command("sh", "-c", "read line", "sub/plan.odt")
	tail.Dir, shell.Dir = dir, dir
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	var processes []activity.Process
	for _, c := range []*exec.Cmd{tail, shell} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		start, err := desktop.StartMillis(int32(c.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		processes = append(processes, activity.Process{PID: int32(c.Process.Pid), StartMillis: start})
	}
	e := New()
	eventually(t, "tail to hold its file", func() bool { return slices.Contains(e.OpenFiles(processes[0]), held) })
	if got := e.OpenFiles(processes[0]); !slices.Equal(got, []string{held}) {
		t.Errorf("open are %q", got)
	}
	eventually(t, "the command lines", func() bool {
		return slices.Contains(e.CommandLine(processes[0]), held) && slices.Contains(e.CommandLine(processes[1]), named)
	})
	home, _ := os.UserHomeDir()
	if got := e.Home(processes[0]); got != home {
		t.Errorf("the home is %q, want %q", got, home)
	}
	// A number that another process has now tells nothing.
	other := processes[0]
	other.StartMillis--
	if e.OpenFiles(other) != nil || e.CommandLine(other) != nil || e.Home(other) != "" {
		t.Error("a process that has gone tells what its successor has")
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.NewTimer(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// BenchmarkOpenFiles is what a new title costs.
func BenchmarkOpenFiles(b *testing.B) {
	start, err := desktop.StartMillis(int32(os.Getpid()))
	if err != nil {
		b.Fatal(err)
	}
	p := activity.Process{PID: int32(os.Getpid()), StartMillis: start}
	e := New()
	for b.Loop() {
		e.OpenFiles(p)
	}
}
