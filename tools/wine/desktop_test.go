//go:build linux

package wine

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

// within is how far what is told lies from what was done, mostly.
const within = time.Second

// watcher keeps what the Windows desktop tells, with the lists that were left out
// filled in.
type watcher struct {
	mu   sync.Mutex
	told []activity.Observation
}

func (w *watcher) read(r io.Reader) {
	for lines := json.NewDecoder(r); ; {
		var o activity.Observation
		if lines.Decode(&o) != nil {
			return
		}
		w.mu.Lock()
		if n := len(w.told); n > 0 && len(w.told[n-1].Sessions) == 1 && len(o.Sessions) == 1 {
			before, s := w.told[n-1].Sessions[0], &o.Sessions[0]
			if s.SameWindows {
				s.Windows = before.Windows
			}
			if s.SameProcesses {
				s.Processes = before.Processes
			}
		}
		w.told = append(w.told, o)
		w.mu.Unlock()
	}
}

// first is the wall clock of the first observation since a moment of which the
// condition holds.
func (w *watcher) first(since time.Time, holds func(o activity.Observation, s activity.Session) bool) (at time.Time, found bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.told {
		if o.UTCMillis >= since.UnixMilli() && len(o.Sessions) == 1 && holds(o, o.Sessions[0]) {
			return time.UnixMilli(o.UTCMillis), true
		}
	}
	return at, false
}

func runs(s activity.Session, program string) bool {
	return slices.ContainsFunc(s.Processes, func(p activity.Process) bool {
		return strings.EqualFold(p.Executable, program) && p.ExitMillis == 0
	})
}

func inFront(s activity.Session, program string) bool {
	i := slices.IndexFunc(s.Windows, func(w activity.Window) bool { return w.ID == s.Foreground })
	return !s.FocusUnsupported && i >= 0 && slices.ContainsFunc(s.Processes, func(p activity.Process) bool {
		return p.PID == s.Windows[i].PID && strings.EqualFold(p.Executable, program)
	})
}

// A person works with Windows programs by a script; each thing that they do is
// told, and mostly within a second.
func TestARealWindowsDesktop(t *testing.T) {
	t.Parallel()
	w := Start(t)
	program := w.Build("agent", "./desktop", "watcher.exe", true)
	seen := new(watcher)
	watching := w.Command(t.Context(), program, "as-watcher", "-")
	input, err := watching.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := watching.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { seen.read(output) })
	t.Cleanup(func() {
		_ = input.Close()
		reading.Wait()
		_ = watching.Wait()
	})

	var lateness []time.Duration
	// told waits until what was done at a moment is told, and notes how late that was.
	told := func(what string, done time.Time, holds func(activity.Observation, activity.Session) bool) {
		t.Helper()
		var at time.Time
		eventually(t, 20*time.Second, what, func() (string, bool) {
			told, found := seen.first(done, holds)
			at = told
			return "", found
		})
		late := at.Sub(done)
		lateness = append(lateness, late)
		t.Logf("%-28s told after %v", what, late.Round(time.Millisecond))
	}
	front := func(name string) func(activity.Observation, activity.Session) bool {
		return func(_ activity.Observation, s activity.Session) bool { return inFront(s, name) }
	}
	xdotool := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("xdotool", args...)
		cmd.Env = w.Env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("xdotool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}

	began := time.Now()
	eventually(t, time.Minute, "the desktop to be watched", func() (string, bool) {
		_, watched := seen.first(began, func(_ activity.Observation, s activity.Session) bool { return !s.FocusUnsupported })
		return "", watched
	})
	windows := map[string]string{}
	for _, name := range []string{"notepad.exe", "regedit.exe", "winemine.exe"} {
		start := w.Command(t.Context(), name)
		if err := start.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = start.Wait() }()
		eventually(t, 30*time.Second, name+" to have the focus", func() (string, bool) {
			cmd := exec.Command("xdotool", "getactivewindow", "getwindowname")
			cmd.Env = w.Env
			out, err := cmd.Output()
			title := map[string]string{"notepad.exe": "Notepad", "regedit.exe": "Registry Editor", "winemine.exe": "WineMine"}[name]
			return string(out), err == nil && strings.Contains(string(out), title)
		})
		done := time.Now()
		windows[name] = xdotool("getactivewindow")
		told(name+" comes to the front", done, front(name))
	}
	for _, name := range []string{"notepad.exe", "winemine.exe", "regedit.exe", "notepad.exe"} {
		xdotool("windowactivate", "--sync", windows[name])
		told("switch to "+name, time.Now(), front(name))
		done := time.Now()
		xdotool("key", "a")
		told("a key in "+name, done, func(o activity.Observation, s activity.Session) bool {
			return !s.InputUnsupported && o.UTCMillis-(o.BootMillis-s.LastInputMillis) >= done.UnixMilli()-50
		})
	}
	for _, name := range []string{"winemine.exe", "regedit.exe"} {
		xdotool("windowactivate", "--sync", windows[name])
		told("switch to "+name, time.Now(), front(name))
		xdotool("key", "alt+F4")
		eventually(t, 20*time.Second, name+" to end", func() (string, bool) {
			n := w.Running(name)
			return fmt.Sprint(n, " processes"), n == 0
		})
		told(name+" has ended", time.Now(), func(_ activity.Observation, s activity.Session) bool { return !runs(s, name) })
	}
	slices.Sort(lateness)
	median, worst := lateness[len(lateness)/2], lateness[len(lateness)-1]
	t.Logf("%d changes; half of them told within %v, the latest after %v", len(lateness), median.Round(time.Millisecond), worst.Round(time.Millisecond))
	// A single one may wait for a busy machine, and for xdotool itself.
	if median > within {
		t.Errorf("half of the changes are told more than %v after they were made", median)
	}
}
