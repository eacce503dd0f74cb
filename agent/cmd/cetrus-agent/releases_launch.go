//go:build linux || windows

package main

import (
	"log/slog"

	"github.com/cetrus/cetrus/agent/release"
)

// launcher starts releases; nil: none are taken.
func (s *settings) launcher(log *slog.Logger) (*release.Launcher, error) {
	config, err := s.releases()
	if config == nil || err != nil {
		return nil, err
	}
	return &release.Launcher{Config: config.Trust, Dir: config.Dir, Trial: s.releaseTrial, Log: log}, nil
}
