package main

import (
	"context"
	"log/slog"

	"github.com/cetrus/cetrus/agent/release"
)

const takesReleases = true

// launch starts the release that is to run in the place of this program, where there is one.
func (s *settings) launch(ctx context.Context, log *slog.Logger) (over bool, err error) {
	config, err := s.releases()
	if config == nil || err != nil {
		return false, err
	}
	launcher := release.Launcher{Config: config.Trust, Dir: config.Dir, Trial: s.releaseTrial, Log: log}
	return launcher.Launch(ctx)
}

// switchOver lets another release go on.
func switchOver() error { return release.Switch() }
