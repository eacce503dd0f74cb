package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cetrus/cetrus/tools/stack"
)

func shell(t *testing.T, script string) func(context.Context) (program, error) {
	log := filepath.Join(t.TempDir(), "log")
	return func(context.Context) (program, error) {
		return stack.Start(stack.Command{Name: "the program", Path: "/bin/sh", Args: []string{"-c", script}, Log: log})
	}
}

// What is killed is started again, and is stopped with the runner.
func TestWhatDiesIsStartedAgain(t *testing.T) {
	start := shell(t, "exec sleep 600")
	running := make(chan program, 1)
	said := make(chan string, 16)
	k := &keeper{
		name: "the program", patience: 10 * time.Second, pause: time.Millisecond, say: func(text string) { said <- text },
		start: func(ctx context.Context) (program, error) {
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
		p.(*stack.Process).Signal(syscall.SIGKILL)
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

// The office is looked after like a process: what it fails by is in its log, and it
// ends when it is told to.
func TestTheOfficeIsStartedAgain(t *testing.T) {
	var log bytes.Buffer
	said := make(chan string, 16)
	office := func(work func(context.Context) error) program {
		return startTask("the simulated office", slog.New(slog.NewTextHandler(&log, nil)), work)
	}
	k := &keeper{
		name: "the simulated office", patience: 10 * time.Second, pause: time.Millisecond, say: func(text string) { said <- text },
		start: func(context.Context) (program, error) {
			return office(func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	first := office(func(context.Context) error { return errors.New("the roof leaks") })
	go func() { ended <- k.keep(ctx, first) }()
	for _, want := range []string{"the simulated office: the roof leaks; it is started again", "the simulated office runs again"} {
		if text := <-said; text != want {
			t.Errorf("said %q, want %q", text, want)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "the roof leaks") {
		t.Errorf("the log says %q", log.String())
	}
}
