package audit

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// SchemaVersion is the version of the tables that this build writes. Raise it with a change of
// what an entry or its changes are: the new tables are then built beside the old ones.
const SchemaVersion = 5

const projectionName = "audit"

//go:embed migrations/*.sql
var migrationFiles embed.FS

// StoreConfig is how the tables are opened, but for URL and logger.
func StoreConfig() postgres.Config {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return postgres.Config{
		Service: "audit", Version: SchemaVersion, MaxQueries: 4,
		Migrations: []postgres.Migrations{projection.Migrations(), {Name: "audit", Files: files}},
	}
}

// Keys open what entries hold sealed: from where somebody called, and why.
type Keys interface {
	OpenOrigins(ctx context.Context, account contract.ID, headers []string) ([]authn.Origin, error)
	OpenTexts(ctx context.Context, account contract.ID, texts []keyring.Text) ([]string, error)
}

// Deps of the service; all but Instance and Logger are needed. They stay the caller's to close.
type Deps struct {
	// Instance names this process among those of this service that run at once; default: the host's name.
	Instance string
	NATS     *nats.Conn
	Store    *postgres.Store
	Keys     Keys
	Logger   *slog.Logger
}

// Service is the audit log.
type Service struct {
	store  *postgres.Store
	keys   Keys
	runner *projection.Runner
	shares *projection.Shares
}

// New makes the service.
func New(deps Deps) (*Service, error) {
	if deps.NATS == nil || deps.Store == nil || deps.Keys == nil {
		return nil, errors.New("audit: Deps.NATS, Deps.Store and Deps.Keys are needed")
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	s := &Service{store: deps.Store, keys: deps.Keys}
	s.shares, err = projection.NewShares(projection.SharesConfig{
		Pool: deps.Store.Projector, Instance: deps.Instance, Partitions: projection.Whole, Reads: deps.NATS.IsConnected, Logger: deps.Logger.With("service", "audit"),
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	s.runner, err = projection.New(projection.Config{
		Name: projectionName, Shares: s.shares, JetStream: js, Stream: contract.EventStream,
		Pool: deps.Store.Projector, Handler: handler{&types{}}, Logger: deps.Logger.With("service", "audit"), Level: deps.Store.Activate,
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return s, nil
}

// Register adds the API to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	identityv1.RegisterAuditServiceServer(r, &api{service: s})
}

// Run keeps the entries up to date until ctx ends, then returns nil.
func (s *Service) Run(ctx context.Context) error {
	if err := s.shares.Keep(ctx, s.runner); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
