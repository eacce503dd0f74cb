//go:build !linux && !windows

package main

import (
	"context"
	"errors"
	"log/slog"
)

const takesReleases = false

func (s *settings) launch(context.Context, *slog.Logger) (over bool, err error) { return false, nil }

// work runs the agent.
func (p *program) work(ctx context.Context) error { return p.watch(ctx) }

func switchOver(context.Context) error {
	return errors.New("this system has no way to let another release go on")
}
