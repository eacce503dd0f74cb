package main

import (
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// openSingleSignOn lets people in whom their companies' identity providers vouch for.
func (p *process) openSingleSignOn(nc *nats.Conn, stores *identity.Stores, service *identity.Service, sessions sso.Sessions) (*sso.Service, error) {
	return sso.New(
		sso.Config{PublicURL: p.publicURL, PrivateAddresses: p.settings.ssoPrivateAddresses},
		sso.Deps{
			Log: eventlog.NewJetStream(nc, contract.EventStream), Secrets: stores.Secrets, Keys: p.names,
			Directory: service.Guests(p.names), Sessions: sessions, Logger: p.log,
		},
	)
}
