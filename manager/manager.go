package manager

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/enroll"
	"github.com/cetrus/cetrus/manager/forward"
	"github.com/cetrus/cetrus/manager/ingest"
	"github.com/cetrus/cetrus/manager/internal/arrivals"
	"github.com/cetrus/cetrus/manager/internal/durable"
	"github.com/cetrus/cetrus/manager/people"
	"github.com/cetrus/cetrus/manager/policy"
	"github.com/cetrus/cetrus/manager/releases"
)

const (
	firstConnectRetry = 250 * time.Millisecond
	lastConnectRetry  = 10 * time.Second
	// A platform that begins knows nobody for a moment. From so many refusals on it is told, and
	// the platform asked less often: what ends it is a person.
	refusalsToTell   = 3
	lastRefusedRetry = time.Minute
	// How long a stop may take to write what is on its way.
	stopPatience = 2 * time.Second
)

// Files and folders in the data folder.
const (
	selfFile    = "manager"
	bufferDir   = "buffer"
	peopleFile  = "people"
	policyFile  = "policy"
	forwardFile = "forward"
	releasesDir = "releases"
	siteDir     = "site"

	// ControlTokenFile holds the token that commands to a running Manager carry.
	ControlTokenFile = "control-token"
)

// Manager is one running Manager. Make it with New.
type Manager struct {
	config  Config
	deps    Deps
	log     *slog.Logger
	id      contract.ID
	started time.Time
	token   string

	buffer    *buffer.Buffer
	people    *people.Book
	policy    *policy.Mirror
	ingest    *ingest.Server
	forwarder *forward.Forwarder
	usage     *recentUse
	releases  *releases.Library
	// certificates are nil unless they come from files, enrolled unless agents enrol.
	certificates *certificates
	enrolled     *enroll.Service

	agents, status net.Listener
	platform       atomic.Pointer[nats.Conn]
	// forbidden is what the platform does not let this Manager do, since it was
	// reached last; nil where there is nothing.
	forbidden atomic.Pointer[string]
	// refused is how the platform lets this Manager in no more; nil where it does, or that is not
	// told yet.
	refused atomic.Pointer[refusal]
	closing sync.Once
	// told: the folder says where this Manager listens. It is of whoever runs Run.
	told bool
}

// refusal is that the platform refuses this Manager.
type refusal struct {
	since time.Time
	times int
	text  string
}

// New opens the Manager's folder and buffer and begins to listen, so that
// addresses are known when it returns; nothing is served before Run. It does not
// need the platform. Close it if Run is never called.
func New(config Config, deps Deps) (_ *Manager, err error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	m := &Manager{config: config, deps: deps, started: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if m.id, err = self(config); err != nil {
		return nil, err
	}
	m.log = deps.Log.With("manager", m.id)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if m.buffer, err = buffer.Open(ctx, buffer.Config{
		Dir: filepath.Join(config.DataDir, bufferDir), AccountID: config.AccountID, ManagerID: m.id,
		MaxBytes: config.MaxBufferBytes, Log: m.log, Reborn: config.reborn,
	}); err != nil {
		return nil, err
	}
	if m.people, err = people.Open(filepath.Join(config.DataDir, peopleFile), m.log); err != nil {
		return nil, err
	}
	if m.policy, err = policy.Open(filepath.Join(config.DataDir, policyFile), config.AccountID, m.log); err != nil {
		return nil, err
	}
	if m.forwarder, err = forward.New(forward.Config{
		AccountID: config.AccountID, ManagerID: m.id, StatePath: filepath.Join(config.DataDir, forwardFile),
		KeepFor: config.KeepForwarded, KeepBytes: config.KeepForwardedBytes, Log: m.log,
	}, m.buffer); err != nil {
		return nil, err
	}
	config.Releases.Dir, config.Releases.Log = filepath.Join(config.DataDir, releasesDir), m.log
	if m.releases, err = releases.Open(config.Releases); err != nil {
		return nil, err
	}
	if m.certificates, err = openCertificates(config.TLS, m.log); err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	taking := ingest.Config{AccountID: config.AccountID, ManagerID: m.id, Managers: config.AgentsManagers, Log: m.log}
	needs := ingest.Deps{Buffer: m.buffer, People: m.people, Policies: m.policy, Releases: m.releases, Publish: m.publish, State: m.stateToTell}
	switch config.AgentsSecurity {
	case ByFiles:
		taking.Options = []grpc.ServerOption{grpc.Creds(arrivals.InTurn(credentials.NewTLS(m.certificates.server())))}
	case ByEnrollment:
		if m.enrolled, err = enroll.New(enroll.Config{Dir: filepath.Join(config.DataDir, siteDir), Log: m.log}); err != nil {
			return nil, fmt.Errorf("manager: %w", err)
		}
		taking.Options, taking.Register, needs.Callers = m.enrolled.Options(), m.enrolled.Register, m.enrolled
	case Plaintext:
		m.log.Warn("agents are spoken to in plain, and believed whatever they say: for tests on this machine only")
	}
	m.ingest = ingest.New(taking, needs)
	m.usage = newRecentUse(m.buffer)
	if m.token, err = writeToken(filepath.Join(config.DataDir, ControlTokenFile)); err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	if m.agents, err = net.Listen("tcp", config.AgentsAddress); err != nil {
		return nil, fmt.Errorf("manager: listen for agents: %w", err)
	}
	if m.status, err = net.Listen("tcp", config.StatusAddress); err != nil {
		return nil, fmt.Errorf("manager: listen for the status page: %w", err)
	}
	return m, nil
}

// Run serves until the context ends, then stops in good order and closes the
// Manager. It returns nil after an orderly stop.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.observe(); err != nil {
		return errors.Join(err, m.Close())
	}
	m.tellAddresses()
	m.log.Info("serving", "agents", m.AgentsAddress(), "status", m.StatusAddress(), "account", m.config.AccountID)
	group, ctx := errgroup.WithContext(ctx)
	page := &http.Server{Handler: m.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	group.Go(func() error { return m.ingest.Serve(ctx, m.agents) })
	group.Go(func() error { return unlessEnded(ctx, m.forwarder.Tend(ctx)) })
	group.Go(func() error { return m.followPlatform(ctx) })
	group.Go(func() error {
		m.releases.Tend(ctx)
		return nil
	})
	group.Go(func() error {
		m.certificates.tend(ctx)
		return nil
	})
	group.Go(func() error {
		if err := page.Serve(m.status); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return errors.Join(page.Shutdown(late))
	})
	err := group.Wait()
	return errors.Join(err, m.Close())
}

// Close releases what New took; Run does so by itself.
func (m *Manager) Close() error {
	var errs []error
	m.closing.Do(func() {
		m.withdrawAddresses()
		for _, l := range []net.Listener{m.agents, m.status} {
			if l == nil {
				continue
			}
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		if m.buffer != nil {
			ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
			defer cancel()
			errs = append(errs, m.buffer.Close(ctx))
		}
		if m.people != nil {
			errs = append(errs, m.people.Close())
		}
		if m.enrolled != nil {
			errs = append(errs, m.enrolled.Close())
		}
	})
	return errors.Join(errs...)
}

// AgentsAddress is where agents can connect.
func (m *Manager) AgentsAddress() string { return m.agents.Addr().String() }

// StatusAddress is where the status page is.
func (m *Manager) StatusAddress() string { return m.status.Addr().String() }

// ID is the Manager's own id, random and born with its folder.
func (m *Manager) ID() contract.ID { return m.id }

// Takeover prepares the folder of a Manager that is not running, so that on its
// next start it follows data of another buffer under its id, and renews a damaged
// identity of its buffer.
func Takeover(config Config, log *slog.Logger) error {
	config.reborn = true
	config.AgentsAddress, config.StatusAddress = "127.0.0.1:0", "127.0.0.1:0"
	m, err := New(config, Deps{Log: log})
	if err != nil {
		return err
	}
	return errors.Join(m.forwarder.Takeover(), m.Close())
}

// followPlatform keeps a connection to the platform, and everything that needs one
// at work.
func (m *Manager) followPlatform(ctx context.Context) error {
	if m.deps.Platform == nil {
		<-ctx.Done()
		return nil
	}
	pause := firstConnectRetry
	refused := refusal{}
	for ctx.Err() == nil {
		nc, err := m.deps.Platform(ctx, m.id)
		if err == nil {
			pause, refused = firstConnectRetry, refusal{}
			m.refused.Store(nil)
			err = m.withPlatform(ctx, nc)
		}
		if ctx.Err() != nil {
			break
		}
		most := lastConnectRetry
		if refuses(err) {
			refused = refused.again(err)
		}
		if refused.times >= refusalsToTell {
			most = lastRefusedRetry
			now := refused
			if m.refused.Swap(&now) == nil {
				m.log.Error("the platform refuses this Manager; agents are served all the same, and what they send is kept", "account", m.config.AccountID, "error", err)
			}
		}
		m.log.Warn("the platform cannot be reached; agents are served all the same", "error", err, "next_attempt_in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, most)
	}
	return nil //nolint:nilerr // the end of the context is an orderly stop
}

// refuses tells whether the platform has answered that it lets this Manager in no more.
func refuses(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAuthExpired)
}

func (r refusal) again(err error) refusal {
	if r.times == 0 {
		r.since = time.Now()
	}
	return refusal{r.since, r.times + 1, err.Error()}
}

func (m *Manager) withPlatform(ctx context.Context, nc *nats.Conn) error {
	m.forbidden.Store(nil)
	nc.SetErrorHandler(m.hearPlatform)
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { m.forbidden.Store(nil) }) // it may be upgraded meanwhile
	m.platform.Store(nc)
	defer nc.Close()
	defer m.platform.Store(nil)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := nc.StatusChanged(nats.CLOSED)
	defer nc.RemoveStatusListener(closed)
	var wg sync.WaitGroup
	for _, work := range []func() error{
		func() error { return m.policy.Follow(ctx, nc) },
		func() error { return m.people.Deposit(ctx, nc, m.config.AccountID, m.id) },
		func() error { return m.forwarder.Run(ctx, nc) },
		func() error { return repeat(ctx, nc, contract.SightingAskSubject, m.ingest.RepeatSightings) },
		func() error { return repeat(ctx, nc, contract.HealthAskSubject, m.ingest.RepeatHealth) },
		func() error { return m.hearConflicts(ctx, nc) },
		func() error { return m.followAdmission(ctx, nc) },
		func() error { return m.tellSite(ctx, nc) },
	} {
		wg.Go(func() {
			if err := unlessEnded(ctx, work()); err != nil {
				m.log.Error("work with the platform ended", "error", err)
				cancel()
			}
		})
	}
	select {
	case <-ctx.Done():
	case <-closed:
	}
	cancel()
	wg.Wait()
	return errors.New("the connection is closed")
}

// repeat has something told anew on each connection, since nothing of it is stored on the
// way, and whenever the platform asks.
func repeat(ctx context.Context, nc *nats.Conn, ask string, tell func()) error {
	asked := make(chan *nats.Msg, 1)
	subscription, err := nc.ChanSubscribe(ask, asked)
	if err != nil {
		return fmt.Errorf("manager: listen to %s: %w", ask, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	for {
		tell()
		select {
		case <-ctx.Done():
			return nil
		case <-asked:
		case <-connected:
		}
	}
}

// hearConflicts refuses epochs of which the platform tells that two contents came.
func (m *Manager) hearConflicts(ctx context.Context, nc *nats.Conn) error {
	subject := contract.ConflictSubject(m.config.AccountID)
	told := make(chan *nats.Msg, 64) // what it has no room for is told again
	subscription, err := nc.ChanSubscribe(subject, told)
	if err != nil {
		return fmt.Errorf("manager: listen to %s: %w", subject, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case message := <-told:
			if agent, epoch, ok := contract.ParseConflict(message.Data); ok {
				m.ingest.RefuseEpoch(agent, epoch)
			}
		}
	}
}

// hearPlatform takes what the platform's server says of its own accord.
func (m *Manager) hearPlatform(_ *nats.Conn, _ *nats.Subscription, err error) {
	text := err.Error()
	if errors.Is(err, nats.ErrPermissionViolation) {
		if m.forbidden.Swap(&text) == nil { // the rest follows from the first
			m.log.Error("the platform forbids what this Manager needs; is it admitted there, under this account?", "account", m.config.AccountID, "error", err)
		}
		return
	}
	m.log.Warn("the platform's server objects", "error", err)
}

func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of the context is an orderly stop
	}
	return err
}

// publish sends what is not stored; it is dropped while the platform is away.
func (m *Manager) publish(subject string, data []byte) bool {
	nc := m.platform.Load()
	return nc != nil && nc.IsConnected() && nc.Publish(subject, data) == nil
}

type selfDescription struct {
	ManagerID string `json:"manager_id"`
	AccountID string `json:"account_id"`
}

// self reads who this Manager is, or draws an id for a new one.
func self(config Config) (contract.ID, error) {
	s, found, err := whoIs(config.DataDir)
	if err != nil {
		return contract.ID{}, err
	}
	if !found {
		id := buffer.NewID()
		return id, wrap(writeSelf(config.DataDir, id, config.AccountID))
	}
	if s.AccountID != config.AccountID.String() {
		return contract.ID{}, fmt.Errorf("manager: %s belongs to account %s, not to %s: give each account's Manager a folder of its own", config.DataDir, s.AccountID, config.AccountID)
	}
	id, err := contract.ParseID(s.ManagerID)
	return id, wrap(err)
}

// whoIs reads whose a folder is; found is false where that is nobody's yet.
func whoIs(dir string) (s selfDescription, found bool, err error) {
	path := filepath.Join(dir, selfFile)
	raw, err := durable.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("manager: %w: put the file back from a backup, or begin with an empty folder as a new Manager", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, false, fmt.Errorf("manager: %s: %w", path, err)
	}
	return s, true, nil
}

func writeSelf(dir string, id, account contract.ID) error {
	raw, err := json.MarshalIndent(selfDescription{ManagerID: id.String(), AccountID: account.String()}, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, selfFile), raw)
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("manager: %w", err)
}

// writeToken makes the secret that shows that a local caller may read the
// Manager's folder, and so may command it.
func writeToken(path string) (string, error) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	token := hex.EncodeToString(raw)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return token, os.WriteFile(path, []byte(token), 0o600)
}
