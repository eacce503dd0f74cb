package stack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// maxLogBytes is how large a log may be before it is put aside at a start.
const maxLogBytes = 20 << 20

// Command says what to run.
type Command struct {
	// Name is told in errors: "the agent".
	Name string
	// Path of the program, and its arguments.
	Path string
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Log is the file that takes what the process says, after what is there.
	Log string
	// Orphaned is the signal that the process gets when this one dies; default
	// SIGKILL.
	Orphaned syscall.Signal
}

// Process is a program that was started. It is the leader of a group of its own, so
// that a terminal's Ctrl-C does not reach it.
type Process struct {
	name, log string
	process   *os.Process
	done      chan struct{}
	err       error // how it ended; to be read after done
}

// Start starts a program.
func Start(c Command) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(c.Log), 0o700); err != nil {
		return nil, fmt.Errorf("log of %s: %w", c.Name, err)
	}
	if info, err := os.Stat(c.Log); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(c.Log, c.Log+".1"); err != nil {
			return nil, fmt.Errorf("log of %s: %w", c.Name, err)
		}
	}
	// What programs say is for who runs them, also where an earlier run left it to all.
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", c.Name, err)
	}
	if err := log.Chmod(0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("log of %s: %w", c.Name, err), log.Close())
	}
	if c.Orphaned == 0 {
		c.Orphaned = syscall.SIGKILL
	}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: c.Orphaned}
	p := &Process{name: c.Name, log: c.Log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The signal comes at the death of the thread that started the process, so
		// this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		p.process = cmd.Process
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("starting %s: %w", c.Name, err)
	}
	return p, nil
}

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID is its id.
func (p *Process) PID() int { return p.process.Pid }

// Signal tells the process something, if it runs.
func (p *Process) Signal(s syscall.Signal) { _ = p.process.Signal(s) }

// Stop asks the process to end and waits; with patience over it is killed, which is
// an error.
func (p *Process) Stop(patience time.Duration) error {
	p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	p.Kill()
	return fmt.Errorf("%s did not stop within %v and was killed; its log: %s", p.name, patience, p.log)
}

// Kill ends the process and its group at once, as a power cut would, and waits.
func (p *Process) Kill() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// WithSuccess is how a process has ended that says so.
const WithSuccess = "with success"

// EndedError is the error of a process that has ended.
type EndedError struct {
	// Name of the process, and how it ended: "signal: killed".
	Name, How string
	// Log is its file, Lines the end of that.
	Log   string
	Lines []string
}

// Error tells all of it.
func (e *EndedError) Error() string {
	return fmt.Sprintf("%s has ended (%s); the end of %s:\n    %s", e.Name, e.How, e.Log, strings.Join(e.Lines, "\n    "))
}

// Failure says how the process has ended, as *EndedError; nil while it runs.
func (p *Process) Failure() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	e := &EndedError{Name: p.name, How: WithSuccess, Log: p.log}
	if p.err != nil {
		e.How = p.err.Error()
	}
	const last = 15
	lines := strings.Split(strings.TrimSpace(p.Said()), "\n")
	e.Lines = lines[max(0, len(lines)-last):]
	return e
}

// Said is what the process has written, the last 64 KiB of it.
func (p *Process) Said() string {
	const most = 64 << 10
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// Name is as it is told in errors.
func (p *Process) Name() string { return p.name }
