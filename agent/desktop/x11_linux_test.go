package desktop

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
)

// watcher keeps what a desktop tells, with the lists that were left out filled in.
type watcher struct {
	tb      testing.TB
	mu      sync.Mutex
	changed chan struct{}
	last    activity.Observation
	told    []activity.Observation
	started time.Time
	desktop Desktop
	stop    func()
}

func watch(tb testing.TB, config Config) *watcher {
	tb.Helper()
	return watchWith(tb, config, systemKernel(), PeriodMillis*time.Millisecond)
}

// watchWith watches a desktop with another kernel, or another period.
func watchWith(tb testing.TB, config Config, k kernel, period time.Duration) *watcher {
	tb.Helper()
	config.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	d, err := open(config, k)
	if err != nil {
		tb.Fatal(err)
	}
	d.period = period
	w := &watcher{tb: tb, changed: make(chan struct{}), desktop: d, started: time.Now()}
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- d.Watch(ctx, w.take) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Watch: %v", err)
		}
	})
	tb.Cleanup(w.stop)
	return w
}

func (w *watcher) take(o activity.Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range o.Sessions {
		s := &o.Sessions[i]
		for _, before := range w.last.Sessions {
			if before.Key != s.Key {
				continue
			}
			if s.SameWindows {
				s.Windows = before.Windows
			}
			if s.SameProcesses {
				s.Processes = before.Processes
			}
		}
	}
	w.last = o
	w.told = append(w.told, o)
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits for an observation of which the condition holds.
func (w *watcher) until(what string, holds func(activity.Observation) bool) activity.Observation {
	w.tb.Helper()
	timeout := time.After(20 * time.Second)
	for {
		w.mu.Lock()
		last, changed := w.last, w.changed
		w.mu.Unlock()
		if last.BootMillis > 0 && holds(last) {
			return last
		}
		select {
		case <-changed:
		case <-timeout:
			w.tb.Fatalf("no observation in which %s; the last one: %+v", what, last)
		}
	}
}

// looking is until, asking for looks meanwhile.
func (w *watcher) looking(what string, holds func(activity.Observation) bool) {
	w.tb.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				w.desktop.LookNow()
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	w.until(what, holds)
}

func (w *watcher) untilFront(class string) activity.Observation {
	w.tb.Helper()
	return w.until(class+" is in front", func(o activity.Observation) bool {
		return len(o.Sessions) == 1 && front(o.Sessions[0]).Class == class
	})
}

func front(s activity.Session) activity.Window {
	for _, w := range s.Windows {
		if w.ID == s.Foreground {
			return w
		}
	}
	return activity.Window{}
}

func hasProcess(o activity.Observation, pid int) bool {
	return len(o.Sessions) == 1 && slices.ContainsFunc(o.Sessions[0].Processes, func(p activity.Process) bool { return p.PID == int32(pid) && p.ExitMillis == 0 })
}

func processOf(s activity.Session, pid int32) activity.Process {
	for _, p := range s.Processes {
		if p.PID == pid {
			return p
		}
	}
	return activity.Process{}
}

func TestRealDesktop(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	w := watch(t, Config{Display: d.Name})

	xterm, xtermWindow := d.Open("xterm", "^shell$", "xterm", "-T", "shell")
	d.Do("windowactivate", "--sync", xtermWindow)
	o := w.untilFront("XTerm")
	window := front(o.Sessions[0])
	if window.Title != "shell" || window.PID != int32(xterm.PID) {
		t.Errorf("xterm's window is %+v, want title shell and pid %d", window, xterm.PID)
	}
	p := processOf(o.Sessions[0], window.PID)
	if p.Executable != "xterm" || p.Path != "/usr/bin/xterm" || p.StartMillis <= 0 || p.StartMillis > o.BootMillis {
		t.Errorf("xterm's process is %+v at %d", p, o.BootMillis)
	}

	xcalc, xcalcWindow := d.Open("x11-apps", "Calculator", "xcalc")
	d.Do("windowactivate", "--sync", xcalcWindow)
	w.untilFront("XCalc")
	d.Run("x11-apps", "xeyes")
	d.Window("xeyes")
	d.Run("x11-apps", "xclock")
	d.Window("xclock")
	w.until("four programs have windows", func(o activity.Observation) bool { return len(o.Sessions[0].Windows) == 4 })

	d.Do("windowactivate", "--sync", xtermWindow)
	w.untilFront("XTerm")
	d.Do("windowminimize", xtermWindow)
	w.until("the terminal is not in front", func(o activity.Observation) bool { return front(o.Sessions[0]).Class != "XTerm" })
	d.Do("windowactivate", "--sync", xtermWindow)
	w.untilFront("XTerm")

	d.Do("set_window", "--name", "letter to the bank", xtermWindow)
	w.until("the title has changed", func(o activity.Observation) bool { return front(o.Sessions[0]).Title == "letter to the bank" })

	before := w.until("there is an input time", func(o activity.Observation) bool { return !o.Sessions[0].InputUnsupported })
	d.Do("key", "--window", "0", "a")
	typed := w.until("an input is seen", func(o activity.Observation) bool {
		return o.Sessions[0].LastInputMillis > before.BootMillis
	})
	for range 3 {
		next := w.until("time goes on", func(o activity.Observation) bool { return o.BootMillis > typed.BootMillis })
		if next.Sessions[0].LastInputMillis != typed.Sessions[0].LastInputMillis {
			t.Errorf("a lone input moved from %d to %d", typed.Sessions[0].LastInputMillis, next.Sessions[0].LastInputMillis)
		}
		typed.BootMillis = next.BootMillis
	}

	xcalc.Kill()
	w.until("the calculator is gone", func(o activity.Observation) bool {
		return !hasProcess(o, xcalc.PID) && len(o.Sessions[0].Windows) == 3
	})
	xterm.Close()
	w.until("the terminal is gone", func(o activity.Observation) bool { return !hasProcess(o, xterm.PID) })
	w.stop()
	for i := 1; i < len(w.told); i++ {
		if gap := w.told[i].BootMillis - w.told[i-1].BootMillis; gap < 0 || gap > 3*PeriodMillis {
			t.Errorf("observation %d came %d ms after the one before", i, gap)
		}
	}
}

// TestWindowsThatShowNoDocument: one that nobody can see is no window, and a palette is
// told as such.
func TestWindowsThatShowNoDocument(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	w := watch(t, Config{Display: d.Name})
	_, hidden := d.Open("x11-apps", "xeyes", "xeyes")
	_, palette := d.Open("x11-apps", "xclock", "xclock")
	auxiliary := func(o activity.Observation) (n int) {
		for _, window := range o.Sessions[0].Windows {
			if window.Auxiliary {
				n++
			}
		}
		return n
	}
	w.until("there are two windows", func(o activity.Observation) bool {
		return len(o.Sessions) == 1 && len(o.Sessions[0].Windows) == 2 && auxiliary(o) == 0
	})
	d.Do("windowunmap", hidden)
	d.Run("x11-utils", "xprop", "-id", palette, "-f", "_NET_WM_WINDOW_TYPE", "32a", "-set", "_NET_WM_WINDOW_TYPE", "_NET_WM_WINDOW_TYPE_UTILITY")
	w.until("one is gone and the other a palette", func(o activity.Observation) bool {
		windows := o.Sessions[0].Windows
		return len(windows) == 1 && windows[0].Title == "xclock" && auxiliary(o) == 1
	})
}

func TestWithoutWindowManager(t *testing.T) {
	t.Parallel()
	d := desktoptest.Start(t)
	w := watch(t, Config{Display: d.Name})
	w.until("focus follows the pointer", func(o activity.Observation) bool {
		return len(o.Sessions) == 1 && o.Sessions[0].FocusUnsupported
	})
	_, window := d.Open("x11-apps", "Calculator", "xcalc")
	w.until("the calculator has a window", func(o activity.Observation) bool { return len(o.Sessions[0].Windows) == 1 })
	d.Do("windowfocus", "--sync", window)
	w.untilFront("XCalc")

	manager := d.Manage()
	d.Do("windowactivate", "--sync", window)
	w.untilFront("XCalc")
	manager.Kill()
	d.Do("windowfocus", window)
	w.untilFront("XCalc")
}

func TestServerDiesAndReturns(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	w := watch(t, Config{Display: d.Name})
	first := w.until("there is a session", func(o activity.Observation) bool { return len(o.Sessions) == 1 })
	d.Kill()
	w.until("the session has ended", func(o activity.Observation) bool { return len(o.Sessions) == 0 })
	d.Revive()
	second := w.until("there is a session again", func(o activity.Observation) bool { return len(o.Sessions) == 1 })
	if first.Sessions[0].Key == second.Sessions[0].Key {
		t.Errorf("a new server gives the same session %q", first.Sessions[0].Key)
	}
}

func TestStartsBeforeTheServer(t *testing.T) {
	t.Parallel()
	d := desktoptest.Start(t)
	d.Kill()
	w := watch(t, Config{Display: d.Name})
	w.until("there is no session", func(o activity.Observation) bool { return len(o.Sessions) == 0 })
	d.Revive()
	w.until("there is a session", func(o activity.Observation) bool { return len(o.Sessions) == 1 })
}

func TestLookNow(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	w := watch(t, Config{Display: d.Name})
	w.until("there is a session", func(o activity.Observation) bool { return len(o.Sessions) == 1 })
	w.mu.Lock()
	changed := w.changed
	w.mu.Unlock()
	w.desktop.LookNow()
	select {
	case <-changed:
	case <-time.After(PeriodMillis / 2 * time.Millisecond):
		t.Error("LookNow did not lead to an observation")
	}
}

// The end of a process without a window is seen at once, not at the next look, in whichever
// way the kernel tells it, and where it tells nothing, at the next look.
func TestExitIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	noPIDFD := func(int32) (int, error) { return 0, unix.ENOSYS }
	noConnector := func(uint32) (*os.File, error) { return nil, unix.EPERM }
	kernels := map[string]kernel{"told by descriptors": {openPIDFD, noConnector, 0}, "refused": {noPIDFD, noConnector, 0}}
	const byConnector = "told by descriptors, and its moment by the connector"
	kernels[byConnector] = systemKernel()
	for name, kernel := range kernels {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == byConnector {
				needConnector(t)
			}
			d := desktoptest.StartManaged(t)
			period, most := time.Duration(PeriodMillis)*time.Millisecond, 5*time.Second
			if name != "refused" {
				period = time.Minute // so only being told is in time, on however slow a machine
			}
			w := watchWith(t, Config{Display: d.Name}, kernel, period)
			var latest time.Duration
			for range 4 {
				cmd := exec.Command("sleep", "600")
				cmd.Env = []string{"DISPLAY=" + d.Name}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				pid := cmd.Process.Pid
				// Ends of those that have just begun are left to the next look.
				w.looking("it runs", func(o activity.Observation) bool {
					return hasProcess(o, pid) && o.BootMillis-processOf(o.Sessions[0], int32(pid)).StartMillis >= PeriodMillis
				})
				killed := time.Now()
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				w.until("it is gone", func(o activity.Observation) bool { return !hasProcess(o, pid) })
				latest = max(latest, time.Since(killed))
			}
			t.Logf("the latest of four exits was seen after %v", latest)
			if latest > most {
				t.Errorf("an exit was seen %v late", latest)
			}
		})
	}
}
