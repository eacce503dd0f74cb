package main

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cetrus/cetrus/tools/stack"
)

func shell(t *testing.T, script string) func(context.Context) (*stack.Process, error) {
	log := filepath.Join(t.TempDir(), "log")
	return func(context.Context) (*stack.Process, error) {
		return stack.Start(stack.Command{Name: "the program", Path: "/bin/sh", Args: []string{"-c", script}, Log: log})
	}
}

// What is killed is started again, and is stopped with the runner.
func TestWhatDiesIsStartedAgain(t *testing.T) {
	start := shell(t, "exec sleep 600")
	running := make(chan *stack.Process, 1)
	said := make(chan string, 16)
	k := &keeper{
		name: "the program", patience: 10 * time.Second, pause: time.Millisecond, say: func(text string) { said <- text },
		start: func(ctx context.Context) (*stack.Process, error) {
			p, err := start(ctx)
			running <- p
			return p, err
		},
	}
	p, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- k.keep(ctx, p) }()
	for range mostStarts {
		p.Signal(syscall.SIGKILL)
		if text := <-said; !strings.Contains(text, "the program has ended (signal: killed; log: ") {
			t.Errorf("said %q", text)
		}
		p = <-running
		if text := <-said; text != "the program runs again" {
			t.Errorf("said %q", text)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if p.Failure() == nil {
		t.Error("it still runs")
	}
}

// What does not come up is given up, with the end of its log.
func TestWhatDoesNotComeUpIsGivenUp(t *testing.T) {
	start := shell(t, "echo out of luck; exit 3")
	p, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	k := &keeper{name: "the program", pause: time.Millisecond, start: start, say: func(string) { said++ }}
	err = k.keep(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "out of luck") || !strings.Contains(err.Error(), "exit status 3") || said != 2*mostStarts {
		t.Errorf("said %d times; %v", said, err)
	}
}
