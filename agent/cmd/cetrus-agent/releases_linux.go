package main

import (
	"context"
	"log/slog"

	"github.com/cetrus/cetrus/agent/release"
)

const takesReleases = true

// launch starts the release that is to run in the place of this program, where there is one.
func (s *settings) launch(ctx context.Context, log *slog.Logger) (over bool, err error) {
	launcher, err := s.launcher(log)
	if launcher == nil || err != nil {
		return false, err
	}
	return launcher.Launch(ctx)
}

// work runs the agent.
func (p *program) work(ctx context.Context) error { return p.watch(ctx) }

// switchOver lets another release go on.
func switchOver(ctx context.Context) error { return release.Switch(ctx) }
