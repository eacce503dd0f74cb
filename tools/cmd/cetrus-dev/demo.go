package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cetrus/cetrus/tools/office"
)

// runOffice lets the simulated office work until ctx ends.
func runOffice(ctx context.Context, s settings, p *platform, history *progress, logPath string) (err error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	note := fmt.Sprintf("of %d days of history loaded through the same pipeline", s.days)
	o, err := office.New(office.Config{
		Dir: filepath.Join(s.dataDir, "office"), Manager: p.addresses.ManagerAgents,
		Days: s.days, Seed: s.seed, Applications: len(office.Applications()),
		Progress: func(share float64) {
			if share >= 1 {
				history.set(1, fmt.Sprintf("%d days of history are loaded", s.days))
				return
			}
			history.set(share, note)
		},
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	return o.Run(ctx)
}

// startAgent starts the agent of this machine, on its desktop.
func startAgent(s settings, p *platform, logPath string) (*child, error) {
	return startChild("the agent", logPath, filepath.Join(s.binDir, "cetrus-agent"), []string{
		"run", "--data-dir", filepath.Join(s.dataDir, "agent"), "--manager", p.addresses.ManagerAgents,
	}, nil)
}
