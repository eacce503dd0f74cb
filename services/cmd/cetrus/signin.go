package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// openSignIn lets people in, and gives the first administrator a password at first start.
func (p *process) openSignIn(ctx context.Context, nc *nats.Conn, stores *identity.Stores, service *identity.Service) (*signin.Service, error) {
	keyFile := p.settings.signInKeyFile
	if keyFile == "" {
		keyFile = filepath.Join(p.settings.dataDir, "sign-in-key")
	}
	deps := signin.Deps{Log: eventlog.NewJetStream(nc, contract.EventStream), Secrets: stores.Secrets, Directory: service.Directory(), Origins: p.names, Logger: p.log}
	people, err := signin.New(ctx, signin.Config{Operator: p.keys.Account(), KeyFile: keyFile, PublicURL: p.publicURL}, deps)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(p.settings.dataDir, authn.FirstPasswordFile)
	err = people.FirstPassword(ctx, p.keys.Account(), service.OperatorLogin(), func(password string) error {
		if err := durable.Replace(path, []byte(password+"\n")); err != nil {
			return fmt.Errorf("keeping the first password: %w", err)
		}
		p.log.InfoContext(ctx, "the first administrator has a one-time password", "account", "operator", "login", "admin", "file", path)
		return nil
	})
	return people, err
}
