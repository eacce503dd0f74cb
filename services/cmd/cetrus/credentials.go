package main

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authn/follow"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// tellUsesEvery is how often a process tells which API keys were used.
const tellUsesEvery = 30 * time.Second

// credentialsPart judges callers: it follows who may call, and stands before all parts that
// are called.
var credentialsPart = part{
	name: "credentials",
	start: func(ctx context.Context, p *process) (runner, error) {
		// A process needs no rights beside those of its service. Where all are in one, callers
		// are judged with the least.
		role := natsserver.Gateway
		if slices.Contains(natsserver.Roles(), p.target.name) {
			role = p.target.name
		}
		nc, err := p.connect(ctx, role, "credentials")
		if err != nil {
			return nil, err
		}
		js, err := jetstream.New(nc)
		if err != nil {
			nc.Close()
			return nil, err
		}
		directory := authn.NewDirectory(authn.NewTokens(authn.Issuer(p.keys.Account()), time.Now), time.Now)
		p.callers = &authn.Authenticator{Keys: p.keys, Directory: directory}
		follower := follow.New(js, p.keys.Account(), directory, p.log)
		return func(ctx context.Context) error {
			defer nc.Close()
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return follower.Run(ctx) })
			group.Go(func() error { return follow.TellUses(ctx, nc, directory, tellUsesEvery, p.log) })
			return group.Wait()
		}, nil
	},
}
