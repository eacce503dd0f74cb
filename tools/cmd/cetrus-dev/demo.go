package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cetrus/cetrus/tools/office"
	"github.com/cetrus/cetrus/tools/stack"
)

// runOffice lets the simulated office work until ctx ends.
func runOffice(ctx context.Context, s settings, p *stack.Platform, history *progress, logPath string) (err error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	days := count(s.days, "day")
	o, err := office.New(office.Config{
		Dir: filepath.Join(s.dataDir, "office"), Manager: p.ManagerAgents,
		Days: s.days, Seed: s.seed, Applications: len(office.Applications()),
		Progress: func(share float64) {
			if share >= 1 {
				history.set(1, "the history of "+days+" is loaded")
				return
			}
			history.set(share, fmt.Sprintf("of %s of history loaded through the same pipeline", days))
		},
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	return o.Run(ctx)
}

// startAgent starts the agent of this machine, on its desktop.
func startAgent(s settings, p *stack.Platform, logPath string) (*stack.Process, error) {
	return stack.Start(stack.Command{
		Name: "the agent", Path: filepath.Join(s.binDir, "cetrus-agent"), Log: logPath, Orphaned: syscall.SIGTERM,
		Args: []string{"run", "--data-dir", filepath.Join(s.dataDir, "agent"), "--manager", p.ManagerAgents},
	})
}
