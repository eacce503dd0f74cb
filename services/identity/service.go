package identity

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/reactor"
)

// SchemaVersion is the version of the tables that this build writes. Raise it with
// a change of what the projection means: the new tables are then built beside the
// old ones from the start of the log.
const SchemaVersion = 1

//go:embed migrations/*.sql
var migrationFiles embed.FS

//go:embed secrets/*.sql
var secretFiles embed.FS

// Config of the service.
type Config struct {
	// Instance names this process among those of this service that run at once; default: the host's name.
	Instance string
	// Operator is the account of whoever runs this platform; it is made at first start.
	Operator contract.ID
}

// Stores are the service's tables.
type Stores struct {
	// Views are built from the log, and can be built again.
	Views *postgres.Store
	// Secrets cannot: what must be kept, and not in the log.
	Secrets *postgres.Store
}

// ViewsConfig is how the tables of the views are opened, but for URL and logger.
func ViewsConfig() postgres.Config {
	return postgres.Config{
		Service: "identity", Version: SchemaVersion,
		Migrations: []postgres.Migrations{projection.Migrations(), {Name: "identity", Files: sub(migrationFiles, "migrations")}},
	}
}

// SecretsConfig is how the tables of the secrets are opened.
func SecretsConfig() postgres.Config {
	return postgres.Config{
		Service: "identitysecrets", Version: 1,
		Migrations: []postgres.Migrations{{Name: "secrets", Files: sub(secretFiles, "secrets")}, signin.Migrations(), sso.Migrations()},
	}
}

func sub(files fs.FS, dir string) fs.FS {
	s, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // the directory is embedded
	}
	return s
}

// OpenStores opens the tables on a server; url is an administrator's.
func OpenStores(ctx context.Context, url string, logger *slog.Logger) (*Stores, error) {
	cfg := ViewsConfig()
	cfg.URL, cfg.Logger = url, logger
	views, err := postgres.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	cfg = SecretsConfig()
	cfg.URL, cfg.Logger = url, logger
	secrets, err := postgres.Open(ctx, cfg)
	if err != nil {
		views.Close()
		return nil, fmt.Errorf("identity: %w", err)
	}
	return &Stores{Views: views, Secrets: secrets}, nil
}

// Close closes the tables, waiting for what is under way.
func (s *Stores) Close() {
	s.Views.Close()
	s.Secrets.Close()
}

// Deps of the service; NATS, Stores and Keys are needed.
type Deps struct {
	NATS   *nats.Conn
	Stores *Stores
	Keys   Keys
	Logger *slog.Logger
	// Mails, where it is set, tells people what happens to their logins; Links makes the
	// links in these mails, and Origins opens from where it was asked for. Without Links
	// mails that need one are not sent.
	Mails   Mails
	Links   Links
	Origins Origins
}

// Service is identity.
type Service struct {
	cfg      Config
	log      *slog.Logger
	nats     *nats.Conn
	stores   *Stores
	keys     Keys
	commands *commands
	views    *projection.Runner
	// shares says whether this process keeps the tables, or another does.
	shares *projection.Shares
	// mails and mailer are nil where no mails are sent.
	mails  *reactor.Reactor
	mailer *mailer
	// forgets follows deletions of logins by the rules of forget.
	forgets *reactor.Reactor
	forget  *forgetter
}

// New makes the service. Its stores stay the caller's to close.
func New(cfg Config, deps Deps) (*Service, error) {
	if deps.NATS == nil || deps.Stores == nil || deps.Keys == nil || cfg.Operator.IsZero() {
		return nil, errors.New("identity: Config.Operator, Deps.NATS, Deps.Stores and Deps.Keys are needed")
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	log := deps.Logger.With("service", contextName)
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	registry := newRegistry()
	s := &Service{
		cfg: cfg, log: log, nats: deps.NATS, stores: deps.Stores, keys: deps.Keys,
		commands: newCommands(eventlog.NewJetStream(deps.NATS, contract.EventStream), registry, deps.Keys, deps.Stores.Secrets.Projector),
	}
	// Decisions of people are few: one process keeps the tables of all accounts, and another takes over.
	s.shares, err = projection.NewShares(projection.SharesConfig{
		Pool: deps.Stores.Views.Projector, Instance: cfg.Instance, Partitions: projection.Whole, Reads: deps.NATS.IsConnected, Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	s.views, err = projection.New(projection.Config{
		Name: contextName, Shares: s.shares, JetStream: js, Stream: contract.EventStream,
		Subjects: viewSubjects(),
		Pool:     deps.Stores.Views.Projector, Handler: viewsProjection{registry, cfg.Operator}, Logger: log,
		Level: deps.Stores.Views.Activate,
	})
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	s.forget = &forgetter{secrets: deps.Stores.Secrets, keys: deps.Keys, log: log, now: time.Now}
	if s.forgets, err = s.forget.reactor(deps.NATS, forgetFirstPause); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if deps.Mails != nil {
		s.mailer = &mailer{
			mails: deps.Mails, links: deps.Links, commands: s.commands, keys: deps.Keys, origins: deps.Origins, secrets: deps.Stores.Secrets, log: log, now: time.Now,
		}
		if s.mails, err = newMailer(s.mailer, deps.NATS, mailFirstPause); err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
	}
	return s, nil
}

// Register adds the service's APIs to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	identityv1.RegisterAccountServiceServer(r, &accountAPI{service: s})
	identityv1.RegisterLoginServiceServer(r, &loginAPI{service: s})
	identityv1.RegisterGroupServiceServer(r, &groupAPI{service: s})
	identityv1.RegisterApiKeyServiceServer(r, &apiKeyAPI{service: s})
	identityv1.RegisterManagerServiceServer(r, &managerAPI{service: s})
	identityv1.RegisterEnrollmentTokenServiceServer(r, &enrollmentTokenAPI{service: s})
	identityv1.RegisterAgentAdmissionServiceServer(r, &agentAdmissionAPI{service: s})
}

// Run keeps the tables up to date until ctx ends, then returns nil. A projection
// that cannot go on ends it with an error: a wrong answer is worse than none.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.shares.Keep(ctx, s.views) })
	group.Go(func() error { return s.forgets.Run(ctx) })
	group.Go(func() error { return s.forget.run(ctx) })
	group.Go(func() error { return s.publishAdmissions(ctx) })
	group.Go(func() error { return s.hearSites(ctx) })
	group.Go(func() error { return s.hearKeyUses(ctx) })
	group.Go(func() error { return s.sendReports(ctx) })
	if s.mails != nil {
		group.Go(func() error { return s.mails.Run(ctx) })
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("identity: %w", err)
	}
	return nil
}
