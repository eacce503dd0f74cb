package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// signInKeyFile is the name of the file of the key, where it is not set.
const signInKeyFile = "sign-in-key"

// openSignIn lets people in, and gives the first administrator a password at first start.
func (p *process) openSignIn(ctx context.Context, nc *nats.Conn, stores *identity.Stores, service *identity.Service) (*signin.Service, error) {
	given := p.settings.credentialsDir != ""
	keyFile := cmp.Or(p.settings.signInKeyFile, filepath.Join(p.settings.credentials(), signInKeyFile))
	if given {
		if _, err := os.Stat(keyFile); err != nil {
			return nil, missingCredential(keyFile, err)
		}
	}
	deps := signin.Deps{Log: eventlog.NewJetStream(nc, contract.EventStream), Secrets: stores.Secrets, Directory: service.Directory(), Origins: p.names, Logger: p.log}
	people, err := signin.New(ctx, signin.Config{Operator: p.keys.Account(), KeyFile: keyFile, KeyGiven: given, PublicURL: p.publicURL}, deps)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(p.settings.credentials(), authn.FirstPasswordFile)
	err = people.FirstPassword(ctx, p.keys.Account(), service.OperatorLogin(), func() (password string, err error) {
		if given {
			password, err = readCredential(path)
		} else {
			password = credential.NewOneTimePassword()
			err = errs.Wrap("cetrus", path, durable.Replace(path, []byte(password+"\n")))
		}
		if err == nil {
			p.log.InfoContext(ctx, "the first administrator has a one-time password", "account", "operator", "login", "admin", "file", path)
		}
		return password, err
	})
	if given && errors.Is(err, fs.ErrNotExist) {
		p.log.WarnContext(ctx, "the first administrator has no password yet, and none was given: give `cetrus admin reset-password admin --account operator`, or put one there", "file", path)
		err = nil
	}
	return people, err
}
