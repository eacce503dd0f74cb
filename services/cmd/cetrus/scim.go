package main

import (
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/scim"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// openProvisioning lets companies' identity providers keep the logins of their accounts.
func (p *process) openProvisioning(nc *nats.Conn, service *identity.Service) (*scim.Service, error) {
	return scim.New(
		scim.Config{PublicURL: p.publicURL},
		scim.Deps{Log: eventlog.NewJetStream(nc, contract.EventStream), Directory: service.Provider(), Logger: p.log},
	)
}
