package desktop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	winio "github.com/Microsoft/go-winio"

	"github.com/cetrus/cetrus/agent/activity"
)

// These tests run on Windows, and under Wine by tools/wine.

// What the test binary does when it is started as a helper.
const (
	helperMode = "as-session-helper"
	// betrayMode hands name and secret to a stranger before it connects itself.
	betrayMode   = "as-betrayed-helper"
	strangerMode = "as-stranger"
	// watcherMode tells what it sees, a line of JSON for each observation, until its
	// input ends. tools/wine compares that with what a script does.
	watcherMode = "as-watcher"
)

func TestMain(m *testing.M) {
	if len(os.Args) < 3 {
		os.Exit(m.Run())
	}
	pipe := os.Args[len(os.Args)-1]
	switch os.Args[1] {
	case helperMode:
		end(ServeSession(context.Background(), pipe, os.Stdin))
	case betrayMode:
		secret := make([]byte, maxSecret)
		n, err := os.Stdin.Read(secret)
		end(err)
		stranger := exec.Command(os.Args[0], strangerMode, pipe)
		stranger.Stdin = strings.NewReader(string(secret[:n]))
		_ = stranger.Run() // ends with an error where it was admitted
		if stranger.ProcessState.ExitCode() != 0 {
			os.Exit(9)
		}
		read, write, err := os.Pipe()
		end(err)
		_, _ = write.Write(secret[:n])
		end(ServeSession(context.Background(), pipe, read))
	case strangerMode:
		secret, err := io.ReadAll(os.Stdin)
		end(err)
		for range helperTries {
			conn, err := winio.DialPipe(pipe, nil)
			end(err)
			err = serveSight(context.Background(), conn, secret, func(func()) (eyes, error) { return nil, errors.New("admitted") })
			if !errors.Is(err, errNotGreeted) {
				os.Exit(1)
			}
		}
		os.Exit(0)
	case watcherMode:
		end(watchToOutput())
	default:
		os.Exit(m.Run())
	}
	os.Exit(0)
}

func watchToOutput() error {
	d, err := Open(Config{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	out := json.NewEncoder(os.Stdout)
	return d.Watch(ctx, func(o activity.Observation) { _ = out.Encode(o) })
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// observed keeps what a desktop tells, with the lists that were left out filled in.
type observed struct {
	t    *testing.T
	told chan activity.Observation
	last activity.Observation
}

func watchWindows(t *testing.T, config Config) *observed {
	t.Helper()
	config.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	d, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	o := &observed{t: t, told: make(chan activity.Observation, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Watch(ctx, func(o1 activity.Observation) { o.told <- o1 }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return o
}

func (o *observed) until(what string, holds func(activity.Session) bool) activity.Session {
	o.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case now := <-o.told:
			for i := range now.Sessions {
				s := &now.Sessions[i]
				for _, before := range o.last.Sessions {
					if before.Key == s.Key && s.SameWindows {
						s.Windows = before.Windows
					}
					if before.Key == s.Key && s.SameProcesses {
						s.Processes = before.Processes
					}
				}
			}
			if now.BootMillis < o.last.BootMillis || now.AwakeMillis < o.last.AwakeMillis {
				o.t.Errorf("the clocks went back: %d, %d after %d, %d", now.BootMillis, now.AwakeMillis, o.last.BootMillis, o.last.AwakeMillis)
			}
			o.last = now
			if len(now.Sessions) == 1 && holds(now.Sessions[0]) {
				return now.Sessions[0]
			}
		case <-deadline:
			o.t.Fatalf("no observation in which %s; the last one: %+v", what, o.last)
		}
	}
}

func TestWatchesItsOwnSession(t *testing.T) { seesNotepad(t, Config{}) }

// Eyes that are closed as soon as they are open close, though the system may not take messages for their
// thread yet.
func TestEyesCloseAtOnce(t *testing.T) {
	p := newProcs()
	for range 100 {
		e, err := openSessionEyes(p, func() {})
		if err != nil {
			t.Fatal(err)
		}
		e.close()
	}
}

func TestWatchesThroughAHelper(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	seesNotepad(t, Config{Helper: &Helper{Executable: self, Args: []string{helperMode}}})
}

func seesNotepad(t *testing.T, config Config) {
	o := watchWindows(t, config)
	s := o.until("the session can be seen", func(s activity.Session) bool { return !s.FocusUnsupported })
	if s.User.SID == "" || s.User.Name == "" || !strings.HasPrefix(s.Key, "win") {
		t.Errorf("the session is %q of %+v", s.Key, s.User)
	}
	notepad := exec.Command("notepad.exe")
	if err := notepad.Start(); err != nil {
		t.Fatal(err)
	}
	pid := int32(notepad.Process.Pid)
	s = o.until("notepad is in front", func(s activity.Session) bool {
		return slices.ContainsFunc(s.Windows, func(w activity.Window) bool {
			return w.PID == pid && w.ID == s.Foreground && strings.Contains(w.Title, "Notepad")
		}) && slices.ContainsFunc(s.Processes, func(p activity.Process) bool { return p.PID == pid })
	})
	p := s.Processes[slices.IndexFunc(s.Processes, func(p activity.Process) bool { return p.PID == pid })]
	if !strings.EqualFold(p.Executable, "notepad.exe") || !strings.HasSuffix(strings.ToLower(p.Path), `\notepad.exe`) ||
		p.StartMillis > o.last.BootMillis || p.StartMillis < o.last.BootMillis-20_000 || p.ParentPID != int32(os.Getpid()) {
		t.Errorf("notepad's process is %+v at %d", p, o.last.BootMillis)
	}
	if err := notepad.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = notepad.Wait()
	o.until("notepad has gone", func(s activity.Session) bool {
		i := slices.IndexFunc(s.Processes, func(p activity.Process) bool { return p.PID == pid })
		if i >= 0 && s.Processes[i].ExitMillis > o.last.BootMillis {
			t.Errorf("notepad exits at %d, later than now: %d", s.Processes[i].ExitMillis, o.last.BootMillis)
		}
		return i < 0 || s.Processes[i].ExitMillis > 0
	})
}

// The service talks to its own child only: a process that knows both the pipe's name
// and the secret is not served.
func TestStrangersAreRefused(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	number, err := ownSession()
	if err != nil {
		t.Fatal(err)
	}
	e, err := openHelper(t.Context(), Helper{Executable: self, Args: []string{betrayMode}}, seat{number: number}, func() {})
	if err != nil {
		t.Fatalf("the child itself is refused, or a stranger was admitted: %v", err)
	}
	defer e.close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := e.look(ctx); err != nil {
		t.Errorf("the child does not look: %v", err)
	}
}

func TestBootlineLastsAsLongAsTheBoot(t *testing.T) {
	p := newProcs()
	first, err := openBootline(p, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.key.SetBinaryValue(bootValue, first.bytes()); err != nil {
		t.Fatal(err)
	}
	second, err := openBootline(p, false)
	if err != nil {
		t.Fatal(err)
	}
	if first.boot != second.boot || first.boot.IsZero() {
		t.Errorf("one boot has the ids %v and %v", first.boot, second.boot)
	}
}
