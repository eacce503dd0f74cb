package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// program is one tier, run as its own process group, that can be killed and
// started again with the same words.
type program struct {
	name string
	path string
	args []string
	env  []string
	log  string
	// also names a file whose first line is the id of a process that is killed
	// with this one, since it left the group: PostgreSQL's.
	also string

	mu      sync.Mutex
	process *os.Process
	ended   chan struct{}
}

func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(p.log), 0o755); err != nil {
		return fmt.Errorf("faults: %s: %w", p.name, err)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("faults: %s: %w", p.name, err)
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The child dies with the thread that started it, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("faults: start %s: %w", p.name, err)
	}
	p.process, p.ended = cmd.Process, ended
	return nil
}

// signal tells the program something, if it runs.
func (p *program) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		_ = p.process.Signal(s)
	}
}

// kill ends the whole group at once, as a power cut would end it.
func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == nil {
		return
	}
	if p.also != "" {
		if text, err := os.ReadFile(p.also); err == nil {
			first, _, _ := strings.Cut(string(text), "\n")
			if pid, err := strconv.Atoi(strings.TrimSpace(first)); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	_ = syscall.Kill(-p.process.Pid, syscall.SIGKILL)
	<-p.ended
	p.process = nil
}

// stop asks the program to end and waits; it is killed after the patience.
func (p *program) stop(patience time.Duration) error {
	p.mu.Lock()
	process, ended := p.process, p.ended
	p.mu.Unlock()
	if process == nil {
		return nil
	}
	_ = process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		p.kill()
		return fmt.Errorf("faults: %s did not stop within %v: see %s", p.name, patience, p.log)
	}
}

// alive tells whether the program runs; a program that ended by itself is a
// finding, not a fault.
func (p *program) alive() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == nil {
		return nil
	}
	select {
	case <-p.ended:
		return errors.New("faults: " + p.name + " ended by itself: see " + p.log)
	default:
		return nil
	}
}
