package metering

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/metering/templates"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/reactor"
)

// SchemaVersion is the version of the tables that this build writes. Raise it with
// a change of what the projections mean: the new tables are then built beside the
// old ones from the start of the streams.
const SchemaVersion = 10

//go:embed migrations/*.sql
var migrationFiles embed.FS

//go:embed secrets/*.sql
var secretFiles embed.FS

//go:embed files/*.sql
var keptFileFiles embed.FS

// Config of the service; the zero Config with an account is a sensible one.
type Config struct {
	// Instance names this process among those of this service that run at once; default: the host's name.
	Instance string
	// Accounts that must have a policy from the start on, though nobody has changed anything
	// yet and identity may not have made them yet; others have one from when it has.
	Accounts []contract.ID
	// AllowShortGaps lets activity gap and timeout begin at 1 s: for tests.
	AllowShortGaps bool
	// Progress, where it is set, is told how far the projection of usage is.
	Progress func(projection.Progress)
	// MaxBatchMessages and MaxBatchBytes bound one transaction of the projection
	// of usage; default 4,096 and 32 MiB. They matter for a backlog only: the
	// larger the batch, the fewer times a day's row is written.
	MaxBatchMessages int
	MaxBatchBytes    int
	// Now is what saved reports are due by; time.Now if nil.
	Now func() time.Time
	// RunFirstPause is the pause before a saved report that could not be sent is sent again for the first
	// time; 0: a second.
	RunFirstPause time.Duration
	// MaxFileBytes bounds a kept file of a report; 0: 1 GiB.
	MaxFileBytes int64
	// FileClaim is for how long nobody else makes a file after its maker was heard of last; 0: 30 s.
	FileClaim time.Duration
}

// Names opens sealed names. It answers in the order of the question, with "" where
// the key is gone or the name does not open.
type Names interface {
	OpenNames(ctx context.Context, account contract.ID, names []*usagev1.SealedName) ([]string, error)
}

// Logins knows what logins may do.
type Logins interface {
	// CallerOf is a login as it would call now; authn.ErrDisabled, or NotFound.
	CallerOf(account, login contract.ID) (authn.Caller, error)
}

// Archive holds messages of the stream AGENT that have gone out of it.
type Archive interface {
	projection.Archive
	// Holds tells why it does not hold what the stream that was made at created had from a
	// position to another.
	Holds(ctx context.Context, created time.Time, from, until uint64) error
}

// Stores are the service's tables.
type Stores struct {
	// Views are built from the streams, and can be built again.
	Views *postgres.Store
	// Secrets cannot: the key of an account's document ids.
	Secrets *postgres.Store
	// Files are those of reports that are kept for a while; whoever loses them asks again.
	Files *postgres.Store
}

// ViewsConfig is how the tables of the views are opened, but for URL and logger.
func ViewsConfig() postgres.Config {
	return postgres.Config{
		Service: "metering", Version: SchemaVersion, Own: true,
		Migrations: []postgres.Migrations{projection.Migrations(), agentlog.Migrations(), {Name: "metering", Files: sub(migrationFiles, "migrations")}},
	}
}

// SecretsConfig is how the tables of the secrets are opened.
func SecretsConfig() postgres.Config {
	return postgres.Config{
		Service: "meteringkeys", Version: 1, MaxQueries: 2,
		Migrations: []postgres.Migrations{{Name: "secrets", Files: sub(secretFiles, "secrets")}},
	}
}

// FilesConfig is how the tables of kept files are opened.
func FilesConfig() postgres.Config {
	return postgres.Config{
		Service: "meteringfiles", Version: 1, MaxQueries: 4, Own: true,
		Migrations: []postgres.Migrations{{Name: "files", Files: sub(keptFileFiles, "files")}},
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
		return nil, fmt.Errorf("metering: %w", err)
	}
	cfg = SecretsConfig()
	cfg.URL, cfg.Logger = url, logger
	secrets, err := postgres.Open(ctx, cfg)
	if err != nil {
		views.Close()
		return nil, fmt.Errorf("metering: %w", err)
	}
	cfg = FilesConfig()
	cfg.URL, cfg.Logger = url, logger
	files, err := postgres.Open(ctx, cfg)
	if err != nil {
		views.Close()
		secrets.Close()
		return nil, fmt.Errorf("metering: %w", err)
	}
	return &Stores{Views: views, Secrets: secrets, Files: files}, nil
}

// Close closes the tables, waiting for what is under way.
func (s *Stores) Close() {
	s.Views.Close()
	s.Secrets.Close()
	s.Files.Close()
}

// Deps of the service; all but Names and Logger are needed.
type Deps struct {
	NATS   *nats.Conn
	Stores *Stores
	// Names may be nil: then nobody has a name.
	Names Names
	// Keys seals names; where it is nil, nothing that names people can be decided.
	Keys Keys
	// Archive holds what has gone out of the stream AGENT; nil where that is not archived.
	Archive Archive
	// Logins may be nil: then no saved report is sent, and no file of a report is kept.
	Logins Logins
	Logger *slog.Logger
}

// Service is metering.
type Service struct {
	cfg      Config
	log      *slog.Logger
	nats     *nats.Conn
	stores   *Stores
	archive  Archive
	names    Names
	commands *commands
	// templates are programs whose rules are known.
	templates *templates.Library
	live      *liveView
	views     *viewed
	readings  *readings
	memory    *memory
	seen      *sightings
	fleet     *fleet
	figures   *figures
	aside     *aside
	policies  *policyPublisher
	retention *retention
	preparing *preparing
	// exports has a place for each part of an export that is asked.
	exports *turns
	// known are names that were opened a moment ago.
	known *knownNames
	// askedBy are who may ask a report.
	askedBy   map[protoreflect.FullName]authz.Rule
	validator protovalidate.Validator
	logins    Logins
	sends     *sends
	files     *keptFiles
	now       func() time.Time
	js        jetstream.JetStream
	registry  *eventlog.Registry

	// serving are the views that answer; building are those that are to take their
	// place, nil where there are none.
	serving, building atomic.Pointer[views]
	// rebuild takes an order; ordered is true from then until it is carried out.
	rebuild chan struct{}
	ordered atomic.Bool
	// verifying is the id of the order where it is to compare; verified is what the last comparison found.
	verifying atomic.Pointer[string]
	verified  atomic.Pointer[Verified]
	// reactor publishes policies; nil before it does.
	reactor atomic.Pointer[reactor.Reactor]
	// sendReactor sends saved reports.
	sendReactor *reactor.Reactor
}

// New makes the service. Its stores stay the caller's to close.
func New(cfg Config, deps Deps) (*Service, error) {
	if deps.NATS == nil || deps.Stores == nil {
		return nil, errors.New("metering: Deps.NATS and Deps.Stores are needed")
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	log := deps.Logger.With("service", "metering")
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	if cfg.MaxBatchBytes == 0 {
		cfg.MaxBatchBytes = 32 << 20
	}
	library, err := templates.Load()
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	aside, err := newAside(log)
	if err != nil {
		return nil, err
	}
	registry := newRegistry()
	askedBy, err := rulesOfQuestions()
	if err != nil {
		return nil, err
	}
	kept, err := newRetention()
	if err != nil {
		return nil, err
	}
	preparing, err := newPreparing()
	if err != nil {
		return nil, err
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("metering: validator: %w", err)
	}
	sends, err := newSends()
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	files, err := newKeptFiles(deps.Stores.Files, deps.Keys)
	if err != nil {
		return nil, err
	}
	cfg.MaxFileBytes, cfg.FileClaim = cmp.Or(cfg.MaxFileBytes, maxFileBytes), cmp.Or(cfg.FileClaim, fileClaim)
	s := &Service{
		validator: validator, logins: deps.Logins, sends: sends, files: files, now: cfg.Now,
		templates: library,
		js:        js, registry: registry, rebuild: make(chan struct{}, 1),
		cfg: cfg, log: log, nats: deps.NATS, stores: deps.Stores, archive: deps.Archive, names: deps.Names,
		commands:  newCommands(eventlog.NewJetStream(deps.NATS, contract.EventStream), registry, people{names: deps.Names, keys: deps.Keys}, cfg.AllowShortGaps),
		live:      newLiveView(log),
		views:     newViewed(),
		readings:  newReadings(),
		memory:    newMemory(memoryBytes),
		seen:      newSightings(log),
		aside:     aside,
		retention: kept,
		preparing: preparing,
		exports:   newTurns(exportsAtOnce, exportsOfAccount),
		known:     newKnownNames(),
		askedBy:   askedBy,
	}
	first, err := s.newViews(deps.Stores.Views, deps.Stores.Views.Activate)
	if err != nil {
		return nil, err
	}
	s.serving.Store(first)
	s.fleet = newFleet(log, deps.NATS, func() []*postgres.Store {
		stores := []*postgres.Store{s.serving.Load().store}
		if next := s.building.Load(); next != nil {
			stores = append(stores, next.store)
		}
		return stores
	})
	if s.figures, err = newFigures(s.fleet); err != nil {
		return nil, err
	}
	if s.sendReactor, err = s.newSendReactor(); err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	s.policies = &policyPublisher{js: js, commands: s.commands, secrets: deps.Stores.Secrets.Projector, log: log}
	return s, nil
}

// Register adds the service's APIs to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	meteringv1.RegisterApplicationServiceServer(r, &applicationAPI{service: s})
	meteringv1.RegisterSettingsServiceServer(r, &settingsAPI{service: s})
	meteringv1.RegisterExpenseToProjectServiceServer(r, &expenseAPI{service: s})
	meteringv1.RegisterUsageServiceServer(r, &usageAPI{service: s})
	meteringv1.RegisterReportServiceServer(r, &reportAPI{service: s})
	meteringv1.RegisterExportServiceServer(r, &exportAPI{service: s})
	meteringv1.RegisterSavedReportServiceServer(r, &savedReportAPI{service: s})
	meteringv1.RegisterReportFileServiceServer(r, &reportFileAPI{service: s})
	meteringv1.RegisterAgentServiceServer(r, &agentAPI{service: s})
	meteringv1.RegisterPrincipalServiceServer(r, &principalAPI{service: s})
}

// Run keeps tables, live view and policies up to date until ctx ends, then returns
// nil. A projection that cannot go on ends it with an error: a wrong answer is worse than
// none. Only where a log was put back behind what the tables hold they answer as they
// are, so that the order to build them anew is heard.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.runViews(ctx) })
	group.Go(func() error { return s.takeOrders(ctx) })
	group.Go(func() error { return s.live.run(ctx, s.nats, s.aside) })
	group.Go(func() error { return s.seen.run(ctx, s.nats, s.aside) })
	group.Go(func() error { return s.fleet.run(ctx, s.aside) })
	group.Go(func() error { return s.runFigures(ctx) })
	group.Go(func() error { return s.runReactor(ctx) })
	group.Go(func() error { return s.runRetention(ctx) })
	group.Go(func() error { return s.runPreparing(ctx) })
	group.Go(func() error { return s.runAhead(ctx) })
	group.Go(func() error { return s.runSends(ctx) })
	group.Go(func() error { return s.sendReactor.Run(ctx) })
	group.Go(func() error { return s.runFiles(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("metering: %w", err)
	}
	return nil
}

// UsageProgress is how far the projection of usage is with what is counted here.
func (s *Service) UsageProgress() projection.Progress { return s.serving.Load().usage.Progress() }

// WaitForUsage returns once everything in the AGENT stream up to position is
// counted, here or by other processes.
func (s *Service) WaitForUsage(ctx context.Context, position uint64) error {
	return s.waitFor(ctx, projection.AllPartitions, position, func(v *views) *projection.Runner { return v.usage })
}

// Tables names the tables that usage is counted into: what a benchmark compares
// with bare copying, and what an operator looks at when a disk fills.
func Tables() []string {
	return []string{"interval", "instance", "cell", "document_cell", "application_cell"}
}
