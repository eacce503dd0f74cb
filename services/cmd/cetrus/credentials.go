package main

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authn/follow"
)

// credentialsPart judges callers: it follows who may call, and stands before all parts that
// are called.
var credentialsPart = part{
	name: "credentials",
	start: func(_ context.Context, p *process) (runner, error) {
		nc, err := p.connect("credentials")
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
			return follower.Run(ctx)
		}, nil
	},
}
