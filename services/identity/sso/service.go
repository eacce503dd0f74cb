package sso

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

//go:embed secrets/*.sql
var secretFiles embed.FS

// Migrations are those of this package's tables, for identity's secrets schema.
func Migrations() postgres.Migrations {
	files, err := fs.Sub(secretFiles, "secrets")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return postgres.Migrations{Name: "sso", Files: files}
}

// newRegistry names the one event of this package.
func newRegistry() *eventlog.Registry {
	return eventlog.NewRegistry(eventlog.Current[*identityv1.IdentityProviderChanged]("cetrus.identity.provider.changed.v1"))
}

// Config of single sign-on; zero values mean the defaults told.
type Config struct {
	// PublicURL is where browsers reach Cetrus; asked each time.
	PublicURL func() (string, error)
	// PrivateAddresses lets providers be in private networks.
	PrivateAddresses bool
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Directory is the rest of identity.
type Directory interface {
	// FindAccount finds an account by the name that a person types.
	FindAccount(ctx context.Context, name string) (account contract.ID, ok bool, err error)
	// Admit finds, links or makes the login of a person, as far as that is allowed, and
	// gives it what the person gets. What it refuses is an error for the person.
	Admit(ctx context.Context, account contract.ID, p Person, from authn.Origin) (login contract.ID, err error)
}

// Sessions is who signs in.
type Sessions interface {
	// Begin begins a session of a login that has proved itself elsewhere: to an issuer, as
	// whom it calls subject.
	Begin(ctx context.Context, account, login contract.ID, issuer, subject string, from authn.Origin) (*identityv1.SignInResponse, error)
}

// Keys are those of accounts.
type Keys interface {
	KeyOf(ctx context.Context, account, principal contract.ID) (keyring.Key, error)
}

// Deps of single sign-on; Logger may be nil.
type Deps struct {
	Log       eventlog.Log
	Secrets   *postgres.Store
	Keys      Keys
	Directory Directory
	Sessions  Sessions
	Logger    *slog.Logger
}

// Service is single sign-on.
type Service struct {
	cfg       Config
	deps      Deps
	log       *slog.Logger
	now       func() time.Time
	known     *known
	providers eventlog.Repository[Provider]
}

// New makes the service.
func New(cfg Config, deps Deps) (*Service, error) {
	if cfg.PublicURL == nil || deps.Log == nil || deps.Secrets == nil || deps.Keys == nil || deps.Directory == nil || deps.Sessions == nil {
		return nil, errors.New("sso: Config.PublicURL and all of Deps but Logger are needed")
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{
		cfg: cfg, deps: deps, log: deps.Logger.With("component", "sso"), now: cfg.Now,
		known:     &known{client: newHTTPClient(cfg.PrivateAddresses), private: cfg.PrivateAddresses, now: cfg.Now, accounts: map[contract.ID]*remembered{}},
		providers: providers(deps.Log),
	}, nil
}

func providers(log eventlog.Log) eventlog.Repository[Provider] {
	return eventlog.Repository[Provider]{
		Log: log, Registry: newRegistry(),
		New: func() Provider { return Provider{} }, Apply: Provider.apply,
	}
}

// ProviderOf is what an account has set up, for the rest of identity.
func ProviderOf(ctx context.Context, log eventlog.Log, account contract.ID) (Provider, error) {
	repository := providers(log)
	p, _, err := repository.Load(ctx, subject(account))
	return p, err
}

// Register adds the API to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	identityv1.RegisterSingleSignOnServiceServer(r, &api{service: s})
}

func subject(account contract.ID) string {
	return contract.EventSubject(account, "identity", "provider", account.String())
}
