package signin

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/identity/passkey"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
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
	return postgres.Migrations{Name: "signin", Files: files}
}

// Config of signing in; zero values mean the defaults told.
type Config struct {
	// Operator is the account of whoever runs the platform.
	Operator contract.ID
	// KeyFile holds the key of what is kept sealed; it is made where it is missing.
	KeyFile string
	// KeyGiven says that somebody else makes and keeps that file: none is made, and its group may read it.
	KeyGiven bool
	// PasswordCost is what a hash costs; default credential's own.
	PasswordCost credential.Cost
	// HashesAtOnce bounds the memory; default: one a processor, at least two.
	HashesAtOnce int
	// AnswerStep is the time to whose full multiples refusals are held back, so that
	// what was found out on the way does not show; default 1 s, several times what it takes.
	AnswerStep time.Duration
	// PublicURL is where browsers reach Cetrus, asked each time; without it there are no passkeys.
	PublicURL func() (string, error)
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Login is what identity knows of a login.
type Login struct {
	Account, ID contract.ID
	// AccountName, Name and the rest are for people; empty once they are forgotten.
	AccountName, Name, DisplayName, MailAddress string
	Privileges                                  authn.Privileges
	// Disabled: it must not sign in. One that was deleted is not found.
	Disabled bool
	// Disablings counts how often it was disabled: its sessions from before are over.
	Disablings int
	// Links are the same person's logins of other accounts, and LinksByProvider those of them
	// that only who comes by the account's identity provider switches to.
	Links, LinksByProvider []Ref
}

// LinkEnd is a login that is linked. ByProvider: it was its account's identity provider that made
// sure of its person, so that a password or passkey of it may be somebody else's.
type LinkEnd struct {
	Ref
	ByProvider bool
}

// Ref names a login.
type Ref struct{ Account, Login contract.ID }

// Voucher is whom an account's identity provider has vouched for; zero: nobody was.
type Voucher struct{ Issuer, Subject string }

// Directory is the rest of identity.
type Directory interface {
	// FoldName makes of a name what is the same for all its spellings.
	FoldName(name string) string
	// FindLogin finds a login by the names that a person types; ok is false where there
	// is none.
	FindLogin(ctx context.Context, account, login string) (l Login, ok bool, err error)
	// Login is a login by its id; ok is false where there is none.
	Login(ctx context.Context, account, login contract.ID) (l Login, ok bool, err error)
	// Vouched tells whether the account of a login has an identity provider by which this
	// very person signs in to it.
	Vouched(ctx context.Context, login Ref, v Voucher) (bool, error)
	// Link says in both that two logins are one person's, and Unlink that they are not;
	// actor names who did it. Doing it twice does nothing twice.
	Link(ctx context.Context, actor string, one, other LinkEnd) error
	Unlink(ctx context.Context, actor string, one, other Ref) error
}

// Origins seals where a call comes from, for the log.
type Origins interface {
	SealOrigin(ctx context.Context, account, principal contract.ID, origin authn.Origin) (string, error)
}

// Deps of signing in; Origins and Logger may be nil.
type Deps struct {
	Log       eventlog.Log
	Secrets   *postgres.Store
	Directory Directory
	Origins   Origins
	Logger    *slog.Logger
}

// Service lets people in.
type Service struct {
	cfg       Config
	log       *slog.Logger
	directory Directory
	origins   Origins
	secrets   *postgres.Store
	box       box
	hasher    *credential.Hasher
	throttle  *throttle
	keys      *signingKeys
	now       func() time.Time

	sessions    eventlog.Repository[session]
	credentials eventlog.Repository[credentials]
	policies    eventlog.Repository[policy]
	// later is work whose outcome no answer waits for, so that answers tell nothing of it.
	later chan func(context.Context)
}

// maxLater bounds the work that waits; what does not fit is refused where it was asked for.
const maxLater = 1000

// New makes the service.
func New(ctx context.Context, cfg Config, deps Deps) (*Service, error) {
	if deps.Log == nil || deps.Secrets == nil || deps.Directory == nil || cfg.KeyFile == "" || cfg.Operator.IsZero() {
		return nil, errors.New("signin: Config.Operator, Config.KeyFile, Deps.Log, Deps.Secrets and Deps.Directory are needed")
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	if cfg.HashesAtOnce == 0 {
		cfg.HashesAtOnce = max(2, runtime.GOMAXPROCS(0))
	}
	if cfg.AnswerStep == 0 {
		cfg.AnswerStep = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	key, err := openBox(cfg.KeyFile, cfg.KeyGiven)
	if err != nil {
		return nil, err
	}
	registry := newRegistry()
	s := &Service{
		cfg: cfg, log: deps.Logger.With("component", "signin"), directory: deps.Directory, origins: deps.Origins, secrets: deps.Secrets, box: key,
		hasher:      credential.NewHasher(cfg.PasswordCost, cfg.HashesAtOnce),
		throttle:    &throttle{store: deps.Secrets, key: key.derive("cetrus throttle"), now: cfg.Now},
		now:         cfg.Now,
		sessions:    repository(deps.Log, registry, session.apply),
		credentials: repository(deps.Log, registry, func(c credentials, _ proto.Message) (credentials, error) { return c, nil }),
		policies:    repository(deps.Log, registry, policy.apply),
		later:       make(chan func(context.Context), maxLater),
	}
	s.keys = newSigningKeys(cfg, deps, registry, key)
	if err := s.keys.refresh(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func repository[S any](log eventlog.Log, registry *eventlog.Registry, apply func(S, proto.Message) (S, error)) eventlog.Repository[S] {
	return eventlog.Repository[S]{Log: log, Registry: registry, New: func() S { var empty S; return empty }, Apply: apply}
}

// Register adds the API to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	identityv1.RegisterSignInServiceServer(r, &api{service: s})
	identityv1.RegisterPasskeyServiceServer(r, &passkeyAPI{service: s})
	identityv1.RegisterLinkServiceServer(r, &linkAPI{service: s})
}

// Run does what no answer waits for until ctx ends, then returns nil.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { s.runLater(ctx); return nil })
	group.Go(func() error { s.sayWherePasskeysAre(ctx, 5*time.Second); return nil })
	group.Go(func() error { s.every(ctx, 5*time.Second, "telling ends of sessions", s.tellEnds); return nil })
	group.Go(func() error {
		s.every(ctx, 5*time.Second, "telling of passwords and second factors", s.tellAll)
		return nil
	})
	group.Go(func() error { s.every(ctx, time.Minute, "signing keys", s.keys.refresh); return nil })
	group.Go(func() error { s.every(ctx, time.Hour, "sweeping", s.sweep); return nil })
	return group.Wait()
}

// every repeats work until ctx ends. What fails is said, and done again the next time.
func (s *Service) every(ctx context.Context, pause time.Duration, what string, work func(context.Context) error) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if err := work(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "failed, and is tried again", "what", what, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *Service) runLater(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case work := <-s.later:
			work(ctx)
		}
	}
}

// sayWherePasskeysAre says once whether browsers will offer passkeys, as soon as it is known where
// people reach this platform.
func (s *Service) sayWherePasskeysAre(ctx context.Context, pause time.Duration) {
	if s.cfg.PublicURL == nil {
		return
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if public, err := s.cfg.PublicURL(); err == nil {
			if p, err := passkey.At(public); err != nil {
				s.log.WarnContext(ctx, err.Error())
			} else {
				s.log.InfoContext(ctx, "passkeys can be used", "at", p.Origin())
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// doLater answers whether there was room for the work.
func (s *Service) doLater(work func(context.Context)) bool {
	select {
	case s.later <- work:
		return true
	default:
		return false
	}
}

// sweep deletes what says nothing any more.
func (s *Service) sweep(ctx context.Context) error {
	if err := s.throttle.sweep(ctx); err != nil {
		return err
	}
	now := s.now()
	// Rows of every account: a matter of the platform's own, which answers nobody.
	for _, statement := range []struct {
		sql    string
		before time.Time
	}{
		{"DELETE FROM session WHERE expires < $1 AND (ended IS NULL OR told)", now},
		{"DELETE FROM session WHERE last_used < $1 AND (ended IS NULL OR told)", now.Add(-idleLife)},
		{"DELETE FROM session WHERE ended < $1 AND told", now},
		{"DELETE FROM reset_link WHERE expires < $1", now},
		{"DELETE FROM used_challenge WHERE expires < $1", now},
	} {
		if _, err := s.secrets.Projector.Exec(ctx, statement.sql, statement.before); err != nil {
			return fmt.Errorf("signin: sweep: %w", err)
		}
	}
	return nil
}

// later work is bounded, so that the log's absence does not hold all of it up.
const laterWithin = 20 * time.Second
