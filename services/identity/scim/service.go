package scim

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"google.golang.org/grpc"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// newRegistry names the one event of this package.
func newRegistry() *eventlog.Registry {
	return eventlog.NewRegistry(eventlog.Current[*identityv1.ProvisioningChanged]("cetrus.identity.provisioning.changed.v1"))
}

// Query selects users.
type Query struct {
	// Name, Reference and ID, where not empty, are of those that alone can be meant: the name that
	// they sign in with, what the provider calls them, and their login.
	Name, Reference string
	ID              contract.ID
	// Match, where it is set, tells which are meant.
	Match func(User) bool
	// Skip and Most say which part of them.
	Skip, Most int
}

// Directory is the rest of identity. What it has decided can be read when it returns.
type Directory interface {
	// Users tells a part of the account's users, the oldest first, and how many there are.
	Users(ctx context.Context, account contract.ID, settings Settings, query Query) (users []User, total int, err error)
	CreateUser(ctx context.Context, by authn.Caller, settings Settings, want User) (User, error)
	// ChangeUser makes a user what change makes of it; change may run several times.
	ChangeUser(ctx context.Context, by authn.Caller, settings Settings, id contract.ID, change func(User) (User, error)) (User, error)
	DeleteUser(ctx context.Context, by authn.Caller, settings Settings, id contract.ID, check func(User) error) error
	// Groups tells the account's groups of the provider, the oldest first; id, where not zero,
	// names the only one.
	Groups(ctx context.Context, account contract.ID, settings Settings, id contract.ID) ([]Group, error)
	CreateGroup(ctx context.Context, by authn.Caller, settings Settings, want Group) (Group, error)
	ChangeGroup(ctx context.Context, by authn.Caller, settings Settings, id contract.ID, change func(Group) (Group, error)) (Group, error)
	DeleteGroup(ctx context.Context, by authn.Caller, settings Settings, id contract.ID, check func(Group) error) error
	// Refit gives all that the provider keeps what mappings give them now.
	Refit(ctx context.Context, by authn.Caller, settings Settings) error
}

// Config of provisioning.
type Config struct {
	// PublicURL is where Cetrus is reached; asked each time.
	PublicURL func() (string, error)
}

// Deps of provisioning; Logger may be nil.
type Deps struct {
	Log       eventlog.Log
	Directory Directory
	Logger    *slog.Logger
}

// Service is provisioning.
type Service struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	settings eventlog.Repository[Settings]
	turns    turns
}

// New makes the service.
func New(cfg Config, deps Deps) (*Service, error) {
	if cfg.PublicURL == nil || deps.Log == nil || deps.Directory == nil {
		return nil, errors.New("scim: Config.PublicURL, Deps.Log and Deps.Directory are needed")
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	return &Service{
		cfg: cfg, deps: deps, log: deps.Logger.With("component", "scim"), turns: turns{of: map[contract.ID]chan struct{}{}},
		settings: eventlog.Repository[Settings]{
			Log: deps.Log, Registry: newRegistry(),
			New: func() Settings { return Settings{} }, Apply: Settings.apply,
		},
	}, nil
}

// Register adds the API to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	identityv1.RegisterProvisioningServiceServer(r, &api{service: s})
}

func subject(account contract.ID) string {
	return contract.EventSubject(account, "identity", "provisioning", account.String())
}

// baseURL is what identity providers are told; "" where no gateway runs whose address could stand
// for it.
func (s *Service) baseURL() string {
	base, err := s.cfg.PublicURL()
	if err != nil {
		return ""
	}
	return strings.TrimRight(base, "/") + "/scim/v2"
}

// turns lets changes of an account be made one after another.
type turns struct {
	mu sync.Mutex
	of map[contract.ID]chan struct{}
}

// take waits for an account's turn; done ends it.
func (t *turns) take(ctx context.Context, account contract.ID) (done func(), err error) {
	t.mu.Lock()
	turn, ok := t.of[account]
	if !ok {
		turn = make(chan struct{}, 1)
		t.of[account] = turn
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
