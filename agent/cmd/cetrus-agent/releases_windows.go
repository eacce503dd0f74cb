package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/owned"
	"github.com/cetrus/cetrus/agent/release"
)

const takesReleases = true

// serviceVariable tells a release that its guardian is a service.
const serviceVariable = "CETRUS_RELEASE_SERVICE"

// launch does nothing yet: the service manager is to be answered first.
func (*settings) launch(context.Context, *slog.Logger) (over bool, err error) { return false, nil }

// work runs the agent, or stays as the guardian of a release that does: no process can take
// this one's place here, and the service manager speaks to this one.
func (p *program) work(ctx context.Context) error {
	if release.Launched() {
		ctx, done, err := release.Guarded(ctx, p.lookNow)
		if err != nil {
			return err
		}
		defer done()
		return p.watch(ctx)
	}
	for {
		over, err := p.guard(ctx)
		if over || err != nil {
			return err
		}
		if err := p.watch(ctx); !errors.Is(err, agent.ErrSwitch) {
			return err
		}
	}
}

// guard runs the release that is to run, where there is one, as long as it runs.
func (p *program) guard(ctx context.Context) (over bool, err error) {
	launcher, err := p.settings.launcher(p.log)
	if launcher == nil || err != nil {
		return false, err
	}
	if p.asService {
		if err := p.settings.believed(); err != nil {
			return false, err
		}
		// Helpers run from there, as the people whose sessions they look at.
		if err := owned.Programs(launcher.Dir); err != nil {
			return false, err
		}
		launcher.Environment = []string{serviceVariable + "=yes"}
	}
	p.guarding.Store(true)
	defer p.guarding.Store(false)
	debug.FreeOSMemory() // of the agent that it may have been until now
	launcher.Looks = p.looks
	return launcher.Launch(ctx)
}

// switchOver lets another release go on.
func switchOver(ctx context.Context) error { return release.Switch(ctx) }
