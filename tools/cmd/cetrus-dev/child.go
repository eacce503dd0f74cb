package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// How long a child may take to stop before it is killed; Ctrl-C promises five
	// seconds for everything.
	agentPatience    = 1500 * time.Millisecond
	platformPatience = 3200 * time.Millisecond
	// maxLogBytes is how large a log may be before it is put aside at a start.
	maxLogBytes = 20 << 20
)

// child is a program that runs until it is told to stop, with its output in a
// file.
type child struct {
	name    string
	logPath string
	process *os.Process
	done    chan struct{} // closed when it has ended
	err     error         // how it ended; read after done
}

// startChild starts a program. It does not get the terminal's Ctrl-C, so that
// the runner can stop things in order, and it is stopped if the runner is
// killed.
func startChild(name, logPath, path string, args, env []string) (*child, error) {
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	if info, err := os.Stat(logPath); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(logPath, logPath+".1"); err != nil {
			return nil, fmt.Errorf("log of %s: %w", name, err)
		}
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	command := exec.Command(path, args...)
	command.Stdout, command.Stderr = log, log
	command.Env = append(os.Environ(), env...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}

	c := &child{name: name, logPath: logPath, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal at the parent's death comes at the death of the thread that
		// started the child, so this thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		defer log.Close()
		err := command.Start()
		c.process = command.Process
		started <- err
		if err == nil {
			c.err = command.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-c.done
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return c, nil
}

// stop asks the child to end and waits; it kills it when patience is over. It
// tells whether the child ended by itself.
func (c *child) stop(patience time.Duration) bool {
	select {
	case <-c.done:
		return true
	default:
	}
	if err := c.process.Signal(syscall.SIGTERM); err != nil {
		<-c.done
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.done:
		return true
	case <-timer.C:
	}
	// The group, so that its own children go too.
	if err := syscall.Kill(-c.process.Pid, syscall.SIGKILL); err != nil {
		fmt.Fprintf(os.Stderr, "killing %s: %v\n", c.name, err)
	}
	<-c.done
	return false
}

// failure says why a child that should run has ended, with the end of its log.
func (c *child) failure() error {
	lines := lastLines(c.logPath, 15)
	if len(lines) == 0 {
		return fmt.Errorf("%s has ended: %v", c.name, c.err)
	}
	return fmt.Errorf("%s has ended: %v; the end of %s:\n    %s", c.name, c.err, c.logPath, strings.Join(lines, "\n    "))
}

func lastLines(path string, n int) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	const most = 64 << 10
	if len(text) > most {
		text = text[len(text)-most:]
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[max(0, len(lines)-n):]
}
