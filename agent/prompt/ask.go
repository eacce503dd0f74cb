package prompt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// reapAfter is how long a prompt that was told to go may take to do so.
const reapAfter = 2 * time.Second

// maxComplaintBytes is how much of what a prompt complains about is told.
const maxComplaintBytes = 4 << 10

// Files are the standard input and outputs of a prompt. They stay the caller's, who
// closes them once the prompt has its own.
type Files struct{ In, Out, Err *os.File }

// Program is a prompt that was started.
type Program interface {
	// Wait waits for its end; an error says that it was no good one.
	Wait() error
	Kill() error
}

// Starter starts `cetrus-agent prompt` in a desktop session, as the person who is
// logged on there.
type Starter func(Files) (Program, error)

// Command starts a prompt in the session that this process runs in, or that the command's
// environment leads to.
func Command(command *exec.Cmd) Starter {
	return func(f Files) (Program, error) {
		command.Stdin, command.Stdout, command.Stderr = f.In, f.Out, f.Err
		if err := command.Start(); err != nil {
			return nil, err
		}
		return started{command}, nil
	}
}

type started struct{ command *exec.Cmd }

func (s started) Wait() error { return s.command.Wait() }
func (s started) Kill() error { return s.command.Process.Kill() }

// Ask shows a question in a process of its own and gives the answer. When ctx ends, the
// window closes. An error means that nobody was asked, or nobody can be.
func Ask(ctx context.Context, start Starter, request Request) (Answer, error) {
	if err := request.Check(); err != nil {
		return Answer{}, err
	}
	question, err := json.Marshal(request)
	if err != nil {
		return Answer{}, fmt.Errorf("prompt: write the question: %w", err)
	}
	p, err := open()
	if err != nil {
		return Answer{}, err
	}
	defer p.close()
	program, err := start(p.theirs)
	p.theirs.close() // so that ours end when theirs do
	if err != nil {
		return Answer{}, fmt.Errorf("prompt: start it: %w", err)
	}
	var talking sync.WaitGroup
	defer talking.Wait()
	defer p.unblock()
	var answer Answer
	var writeErr, readErr error
	var complaint []byte
	answered := make(chan struct{})
	talking.Go(func() { _, writeErr = p.ours.In.Write(append(question, '\n')) })
	talking.Go(func() {
		complaint, _ = io.ReadAll(io.LimitReader(p.ours.Err, maxComplaintBytes))
		_, _ = io.Copy(io.Discard, p.ours.Err)
	})
	talking.Go(func() {
		defer close(answered)
		answer, readErr = ReadAnswer(p.ours.Out, request)
	})
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = p.ours.In.Close()
		timer := time.NewTimer(reapAfter)
		defer timer.Stop()
		select {
		case <-ended:
		case <-timer.C:
			_ = program.Kill()
		}
	})
	defer stop()
	waitErr := program.Wait()
	close(ended)
	// What it said lies in the pipes; whoever it has left behind may hold them open.
	select {
	case <-answered:
	case <-time.After(reapAfter):
	}
	p.unblock()
	talking.Wait()
	switch {
	case ctx.Err() != nil:
		return Answer{}, ctx.Err()
	case waitErr != nil:
		return Answer{}, fmt.Errorf("prompt: it ended with %w: %s", waitErr, bytes.TrimSpace(complaint))
	case writeErr != nil && !errors.Is(writeErr, os.ErrClosed):
		return Answer{}, fmt.Errorf("prompt: put the question: %w", writeErr)
	}
	return answer, readErr
}

// pipes lead to a prompt.
type pipes struct{ ours, theirs Files }

func open() (p *pipes, err error) {
	p = new(pipes)
	defer func() {
		if err != nil {
			p.close()
			err = fmt.Errorf("prompt: %w", err)
		}
	}()
	if p.theirs.In, p.ours.In, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.ours.Out, p.theirs.Out, err = os.Pipe(); err != nil {
		return nil, err
	}
	p.ours.Err, p.theirs.Err, err = os.Pipe()
	return p, err
}

func (p *pipes) close() {
	p.ours.close()
	p.theirs.close()
}

// unblock lets go of what still reads and writes, where the system can. Where it cannot,
// the pipes end with the process that had them: it starts no other.
func (p *pipes) unblock() {
	now := time.Now()
	_ = p.ours.In.SetDeadline(now)
	_ = p.ours.Out.SetDeadline(now)
	_ = p.ours.Err.SetDeadline(now)
}

func (f Files) close() {
	for _, file := range []*os.File{f.In, f.Out, f.Err} {
		if file != nil {
			_ = file.Close()
		}
	}
}
