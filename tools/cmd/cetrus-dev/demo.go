package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cetrus/cetrus/agent/enroll"
	"github.com/cetrus/cetrus/tools/desks"
	"github.com/cetrus/cetrus/tools/firm"
	"github.com/cetrus/cetrus/tools/stack"
)

// startCompany lets the simulated company work: its Managers, its people, and what is known
// of them.
func startCompany(ctx context.Context, s settings, p *stack.Platform, history *progress, log *slog.Logger) (program, error) {
	days := count(s.days, "day")
	config := desks.Config{
		Dir: filepath.Join(s.dataDir, companyDir), Days: s.days, Seed: s.seed, Applications: len(firm.Applications()),
		Progress: func(share float64) {
			if share >= 1 {
				history.set(1, "the history of "+days+" is loaded")
				return
			}
			history.set(share, fmt.Sprintf("of %s of history loaded through the same pipeline, the newest first", days))
		},
		Log: log,
	}
	room, err := desks.New(config)
	if err != nil {
		return nil, failed(log, err)
	}
	company := firm.New(room.Seed(), room.From(), room.To(), s.people)
	places, err := startSites(ctx, s, p, len(company.Desks))
	if err != nil {
		return nil, failed(log, err)
	}
	room.Furnish(places.desks, company.Desks)
	return startTask(companyName, log, func(ctx context.Context) (err error) {
		defer func() { err = errors.Join(err, places.stop()) }()
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var beside sync.WaitGroup
		defer beside.Wait()
		defer cancel(nil)
		beside.Go(func() {
			if err := places.ended(ctx); err != nil {
				cancel(err)
			}
		})
		beside.Go(func() { employ(ctx, p.API, company, log) })
		err = room.Run(ctx)
		if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return err
	}), nil
}

func failed(log *slog.Logger, err error) error {
	log.Error("the simulated company does not begin", "error", err)
	return fmt.Errorf("%s: %w", companyName, err)
}

const companyName = "the simulated company"

// openLog opens a log for this process's own use, readable by its owner only.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// task is a program within this process.
type task struct {
	name string
	stop context.CancelFunc
	done chan struct{}
	err  error // how it ended; to be read after done
}

// startTask runs work until it is stopped; by what it fails is logged as well.
func startTask(name string, log *slog.Logger, work func(context.Context) error) *task {
	ctx, stop := context.WithCancel(context.Background())
	t := &task{name: name, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		err := work(ctx)
		switch {
		case err != nil:
			t.err = fmt.Errorf("%s: %w", name, err)
		case ctx.Err() == nil:
			t.err = fmt.Errorf("%s has ended by itself", name)
		default:
			t.err = errors.New(name + " was stopped")
			return
		}
		log.Error("it has ended", "error", t.err)
	}()
	return t
}

// Done implements program.
func (t *task) Done() <-chan struct{} { return t.done }

// Failure implements program.
func (t *task) Failure() error {
	select {
	case <-t.done:
		return t.err
	default:
		return nil
	}
}

// Stop implements program.
func (t *task) Stop(patience time.Duration) error {
	t.stop()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-t.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s did not stop within %v", t.name, patience)
	}
}

// startAgent starts the agent of this machine, on its desktop.
func startAgent(ctx context.Context, s settings, p *stack.Platform, logPath string) (program, error) {
	token, err := p.EnrollmentToken(ctx, 1)
	if err == nil {
		err = os.MkdirAll(filepath.Join(s.dataDir, agentDir), 0o700)
	}
	if err == nil {
		err = enroll.PutToken(filepath.Join(s.dataDir, agentDir), token)
	}
	if err != nil {
		return nil, err
	}
	args := []string{"run", "--data-dir", filepath.Join(s.dataDir, agentDir), "--manager", p.ManagerAgents}
	if os.Geteuid() == 0 { // an agent of root would watch everybody's session
		args = append(args, "--display", os.Getenv("DISPLAY"))
	}
	return stack.Start(stack.Command{
		Name: agentName, Path: filepath.Join(s.binDir, "cetrus-agent"), Log: logPath, Orphaned: syscall.SIGTERM, Args: args,
	})
}

const agentName = "the agent"
