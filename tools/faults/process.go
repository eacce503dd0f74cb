package faults

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cetrus/cetrus/tools/stack"
)

// program is one tier that can be killed and started again with the same words.
type program struct {
	stack.Command
	// also names a file whose first line is the id of a process that is killed
	// with this one, since it left the group: PostgreSQL's.
	also string

	mu      sync.Mutex
	process *stack.Process
}

func (p *program) start() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process, err = stack.Start(p.Command)
	return err
}

// running is the process; nil where none is.
func (p *program) running() *stack.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

// signal tells the program something, if it runs.
func (p *program) signal(s syscall.Signal) {
	if process := p.running(); process != nil {
		process.Signal(s)
	}
}

// kill ends the program and what it started at once, as a power cut would.
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
	p.process.Kill()
	p.process = nil
}

// stop asks the program to end and waits; it is killed after the patience.
func (p *program) stop(patience time.Duration) error {
	if process := p.running(); process != nil {
		return process.Stop(patience)
	}
	return nil
}

// failed tells how the program ended, if it did and without success.
func (p *program) failed() error {
	if process := p.running(); process != nil {
		if ended := new(stack.EndedError); errors.As(process.Failure(), &ended) && ended.How != stack.WithSuccess {
			return ended
		}
	}
	return nil
}

// alive tells whether the program runs, unless it was killed on purpose; one that
// ended by itself is a finding, not a fault.
func (p *program) alive() error {
	if process := p.running(); process != nil {
		return process.Failure()
	}
	return nil
}

// revive starts a program again that has ended by itself, and tells how it had.
func (p *program) revive() (ended, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == nil {
		return nil, nil
	}
	if ended = p.process.Failure(); ended == nil {
		return nil, nil
	}
	p.process, err = stack.Start(p.Command)
	return ended, err
}
