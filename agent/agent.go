package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/enroll"
	"github.com/cetrus/cetrus/agent/fingerprint"
	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/agent/ledger"
	"github.com/cetrus/cetrus/agent/uplink"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Config says how one agent works.
type Config struct {
	// DataDir keeps what has to last. It is made where it is missing.
	DataDir string
	// Managers are addresses, host:port, in the order of preference.
	Managers []string
	// Version is the agent's own, as shown to people.
	Version string
	// JournalBytes bounds the journal of usage; 0: the journal's own default, which
	// holds six weeks of a busy desktop. Choices may take an eighth of it besides.
	JournalBytes int64
	// ControlSocket is where status, pause and resume are served; empty:
	// control.sock in DataDir; "none": nowhere.
	ControlSocket string
	// Uplink tunes the conversation; its Managers are those above.
	Uplink uplink.Config
	// EnrollmentToken is what the agent may enrol by; empty: what lies in the data folder.
	EnrollmentToken string

	// LedgerDays is how many days of a person's use are kept for them to see; 0: none.
	LedgerDays int

	// Plugins are the plug-ins to run; nil: none.
	Plugins *PluginsConfig

	// Releases lets the agent take releases of itself; nil: it takes none.
	Releases *ReleasesConfig

	// What follows is for scripts in virtual time, and left at zero otherwise.

	// GroupRecords lets so many usage events gather before they are written and
	// synced together. What has not been written is lost in a crash.
	GroupRecords int
	// BacklogRecords makes observing wait while more records than this are not
	// acknowledged.
	BacklogRecords uint64
	// Drain makes Run go on, once the desktop's script is over, until everything
	// is acknowledged.
	Drain bool
}

// NoControl as Config.ControlSocket serves no control socket.
const NoControl = "none"

// Deps are what an agent works with.
type Deps struct {
	Desktop desktop.Desktop
	// Evidence tells which files the desktop's programs have to do with; nil, as where
	// the desktop is a script: documents are what titles say.
	Evidence activity.Evidence
	// Dial are options of the connection to the Manager: credentials, a dialer.
	Dial []grpc.DialOption
	// Tracer follows each commit of the journal; nil: none does.
	Tracer trace.Tracer
	// Random is where ids are drawn from; nil: the system's source.
	Random io.Reader
	// Journalled, where set, is told of usage events once they are durable, with
	// their epoch and seq, before any of them is sent.
	Journalled func(events []*usagev1.UsageEvent)
	// Sync makes a file of the journal durable; nil: (*os.File).Sync.
	Sync func(*os.File) error
	// Policy, where set, applies from the start if it is newer than the stored one.
	Policy *policyv1.Policy
	// Traits reads what tells this machine from a copy of it; nil: fingerprint.Read.
	Traits func() fingerprint.Traits
	Log    *slog.Logger
}

// Agent is the collector of one machine.
type Agent struct {
	config   Config
	deps     Deps
	log      *slog.Logger
	identity identity
	persons  *persons
	journal  *journal.Journal
	machine  *activity.Machine
	uplink   *uplink.Uplink
	runID    uint64
	plugins  *plugins
	unlock   func()
	closing  sync.Once

	ledger    *ledger.Ledger // nil: none is kept
	releasing *releasing
	inherited []*inheritance
	// anew is closed when the agent is to stop, to begin as another one.
	anew     chan struct{}
	anewOnce sync.Once

	// looking belongs to the goroutine that observes.
	looking looking

	choosing sync.Mutex // serialises choose, which waits for the disk without mu
	hands    hands

	mu     sync.Mutex
	chosen settings
	// choices counts changes of chosen; seenChoices is how many of them the last
	// observation was told of.
	choices, seenChoices uint64
	people               []seated
	anyPaused            bool
	users                map[string]activity.User // by alias, of people seen since the start
	aliases              map[string]contract.ID   // by the user's key
	policy               *policyv1.Policy         // applied
	offered              *policyv1.Policy         // to be applied at the next observation
	live                 map[string]*usagev1.LiveSnapshot
	documents            map[string]string // names of open documents, as they are told
	trouble              string            // why nothing is recorded, in words
	policyProblem        string            // why the last policy is not in force, in words
	blind                []string
	observed             int64 // UTC of the last observation
	backlogFrom          int64 // UTC of the first record of what was recorded earlier and is being sent; 0: nothing is
}

// New opens what an agent keeps. Run runs it; Close lets go of it where Run is
// not called.
func New(config Config, deps Deps) (_ *Agent, err error) {
	if config.DataDir == "" {
		return nil, errors.New("agent: no data directory is configured")
	}
	if deps.Desktop == nil {
		return nil, errors.New("agent: there is no desktop to watch")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Tracer == nil {
		deps.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if deps.Random == nil {
		deps.Random = rand.Reader
	} else {
		deps.Random = &lockedReader{source: deps.Random}
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("agent: make the data directory: %w", err)
	}
	a := &Agent{
		config: config, deps: deps, log: deps.Log, live: make(map[string]*usagev1.LiveSnapshot),
		users: make(map[string]activity.User), aliases: make(map[string]contract.ID), documents: make(map[string]string), anew: make(chan struct{}),
	}
	if a.unlock, err = lockDir(config.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	var restored bool
	if a.identity, restored, err = belong(config.DataDir, deps); err != nil {
		return nil, err
	}
	if a.persons, err = loadPersons(config.DataDir, deps.Random, a.log); err != nil {
		return nil, err
	}
	a.aliases = maps.Clone(a.persons.byKey)
	chosen, known, err := loadSettings(config.DataDir, a.log)
	if err != nil {
		return nil, err
	}
	var run [8]byte
	if _, err = io.ReadFull(deps.Random, run[:]); err != nil {
		return nil, fmt.Errorf("agent: draw the id of this run: %w", err)
	}
	a.runID = max(1, binary.BigEndian.Uint64(run[:]))
	if err = a.openJournal(); err != nil {
		return nil, err
	}
	if config.LedgerDays > 0 {
		if a.ledger, err = ledger.Open(filepath.Join(config.DataDir, ledgerDir), config.LedgerDays); err != nil {
			return nil, err
		}
	}
	if err = a.openPlugins(); err != nil {
		return nil, err
	}
	if restored {
		if err = a.part(); err != nil {
			return nil, err
		}
	}
	a.openInherited()
	if err = a.openReleases(); err != nil {
		return nil, err
	}
	if err = a.startPolicy(); err != nil {
		return nil, err
	}
	a.plugins.configure(a.policy)
	a.chosen = chosen
	if !known && (a.policy == nil || a.policy.GetPauseAllowed()) {
		// Whoever had paused must not be recorded because a file is damaged.
		a.chosen = settings{Paused: true, Lost: true}
		a.log.Error("who had paused recording is lost, so everybody has; `cetrus-agent resume` goes on, for each person, or with --everybody for all")
		if err = saveSettings(config.DataDir, a.chosen); err != nil {
			return nil, err
		}
	}
	config.Uplink.Managers, config.Uplink.Adopted = config.Managers, loadManagers(config.DataDir, config.Managers, a.log)
	journals := []uplink.Journal{a.journal, &a.plugins.choices}
	var takeRelease func(context.Context, *agentv1.ReleaseOffer, uplink.Fetch)
	if a.releasing != nil {
		takeRelease = a.releasing.take
	}
	var takePlugins func(context.Context, []*agentv1.ReleaseOffer, uplink.Fetch)
	if a.plugins.releases != nil {
		takePlugins = a.plugins.releases.take
	}
	a.uplink, err = uplink.New(config.Uplink, uplink.Deps{
		Identity: a.proof(config.DataDir, a.identity.AgentID, config.EnrollmentToken),
		Release:  takeRelease,
		Hello:    a.hello,
		Health:   a.health,
		Policy:   a.takePolicy,
		Adopt:    a.adopt,
		Anew:     a.beginAnew,
		Journals: journals,
		Labels:   a.journal,
		Dial:     deps.Dial,
		Log:      deps.Log,

		PluginReleases: takePlugins,
	})
	if err != nil {
		return nil, err
	}
	a.uplink.SetPersons(a.persons.messages())
	return a, nil
}

// proof is what an agent of a folder proves by who it is; nil where the settings name files.
func (a *Agent) proof(dir string, id contract.ID, token string) uplink.Identity {
	if a.config.Uplink.TLS.CA != "" {
		return nil
	}
	return enroll.New(enroll.Config{
		Dir: dir, AgentID: id, Token: token, HostName: func() string { return a.deps.Desktop.Host().Name }, Log: a.log,
	})
}

// startPolicy applies the stored policy, so that a start needs no Manager. One
// that cannot be read or applied is told and left aside: a Manager sends another.
func (a *Agent) startPolicy() error {
	policy, err := loadPolicy(a.config.DataDir, a.log)
	if err != nil {
		a.log.Error("starting without a policy until the Manager sends one", "reason", err)
	}
	if given := a.deps.Policy; given != nil && supersedes(given, policy) {
		policy = given
		if err := savePolicy(a.config.DataDir, policy); err != nil {
			return err
		}
	}
	a.sift(policy)
	if policy == nil {
		return nil
	}
	if err := a.machine.SetPolicy(policy); err != nil {
		a.log.Error("the stored policy cannot be applied; nothing is recorded until the Manager sends another", "revision", policy.GetRevision(), "reason", err)
		a.policyProblem = fmt.Sprintf("the policy of revision %d cannot be applied: %v; nothing is recorded until a Manager sends another", policy.GetRevision(), err)
		return nil
	}
	a.policy = policy
	return nil
}

// Close lets go of everything. Run does so itself.
func (a *Agent) Close() {
	a.closing.Do(func() {
		if a.journal != nil {
			if err := a.journal.Close(); err != nil {
				a.log.Error("the journal could not be closed", "reason", err)
			}
		}
		a.plugins.close()
		for _, h := range a.inherited {
			h.close()
		}
		if a.unlock != nil {
			a.unlock()
		}
	})
}

// farewell is how long a stopping agent still tries to send what it has just
// written. What does not arrive is sent at the next start.
const farewell = 2 * time.Second

// Run watches and sends until ctx ends or the desktop's script is over, and then
// stops in good order: what can be decided is journalled, and the crash slot says
// what was open. An error means that the agent cannot work, or has to be started anew
// to find out what its journal holds; ErrSwitch, that another release is to go on.
func (a *Agent) Run(ctx context.Context) error {
	defer a.Close()
	control, err := a.serveControl()
	if err != nil {
		return err
	}
	var helpers sync.WaitGroup
	defer helpers.Wait()
	// The uplink outlives the desktop by a moment, to say goodbye.
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	helpers.Go(func() { _ = a.uplink.Run(sending) })
	for _, h := range a.inherited {
		helpers.Go(func() { h.run(sending) })
	}
	if control != nil {
		helpers.Go(control.serve)
		defer control.stop()
	}
	plugging, stopPlugins := context.WithCancel(ctx)
	defer stopPlugins()
	a.plugins.run(plugging, helpers.Go)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	a.looking.giveUp = stopWatching
	if a.releasing != nil {
		helpers.Go(func() { a.releasing.prove(watching) })
		helpers.Go(func() {
			select {
			case <-watching.Done():
			case <-a.releasing.stopping():
				stopWatching()
			}
		})
	}
	helpers.Go(func() {
		select {
		case <-watching.Done():
		case <-a.anew:
			stopWatching()
		}
	})
	watchErr := a.deps.Desktop.Watch(watching, func(o activity.Observation) { a.observe(ctx, o) })
	finishErr := a.finish(ctx)
	if a.config.Drain && finishErr == nil && !a.toBeginAnew() {
		a.await(ctx, func() bool { return a.journal.Backlog() == 0 || a.toBeginAnew() })
	}
	patience := farewell
	if a.releasing.switching() || a.toBeginAnew() {
		patience = 0 // whoever goes on sends it, and sooner begins to watch
	}
	goodbye, cancel := context.WithTimeout(sending, patience)
	defer cancel()
	a.awaitWhile(goodbye, func() bool {
		return a.uplink.Status().Connected && (a.journal.Backlog()+a.plugins.backlog() > 0 || !a.uplink.Shown())
	})
	if err := cmp.Or(watchErr, finishErr); err == nil && ctx.Err() == nil && a.toBeginAnew() {
		return ErrBeginAnew
	} else if err != nil || !a.releasing.switching() || ctx.Err() != nil {
		return err
	}
	return ErrSwitch
}

// backlogLook is how often the backlog is looked at by those who wait for it.
const backlogLook = 20 * time.Millisecond

func (a *Agent) await(ctx context.Context, holds func() bool) {
	a.awaitWhile(ctx, func() bool { return !holds() })
}

// awaitWhile waits while the condition holds and the context lasts.
func (a *Agent) awaitWhile(ctx context.Context, holds func() bool) {
	ticker := time.NewTicker(backlogLook)
	defer ticker.Stop()
	for holds() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (a *Agent) hello() *agentv1.Hello {
	host := a.deps.Desktop.Host()
	a.mu.Lock()
	defer a.mu.Unlock()
	return &agentv1.Hello{
		ProtocolVersion: 1,
		AgentId:         a.identity.AgentID[:],
		MachineId:       a.identity.MachineID[:],
		HostName:        host.Name,
		OperatingSystem: host.OperatingSystem,
		AgentVersion:    a.config.Version,
		UtcMillis:       a.utcNow(),
		PolicyRevision:  a.policy.GetRevision(),
		AccountId:       a.policy.GetAccountId(),

		PolicyPublishedUtcMillis: a.policy.GetPublishedUtcMillis(),
		Release:                  a.releasing.said(),
		PluginReleases:           a.plugins.releases.said(),
		RunId:                    a.runID,
	}
}

// adopt keeps Managers that another one has named.
func (a *Agent) adopt(addresses []string) error {
	return saveManagers(a.config.DataDir, adoptedManagers{Addresses: addresses, Installed: a.config.Managers})
}

// inForce is the policy that applies; nil where none does.
func (a *Agent) inForce() *policyv1.Policy {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.policy
}

// utcNow is the agent's wall clock as its desktop last told it; a scripted
// machine has one of its own. Before the first observation it is the system's.
func (a *Agent) utcNow() int64 { return cmp.Or(a.observed, time.Now().UnixMilli()) }

// earlierFrom is how old what waits must be to be told of as a backlog: what a connected agent records waits for seconds.
const earlierFrom = 15 * time.Minute

// oldestWaiting is when the first record was made that waits for a Manager; 0 where none does.
func (a *Agent) oldestWaiting() int64 {
	if a.journal.Backlog() == 0 {
		return 0
	}
	record, err := a.journal.Oldest()
	if err != nil {
		a.log.Warn("how old what waits is cannot be told", "reason", err)
		return 0
	}
	id := record.GetUsage().GetEventId()
	if len(id) != len(contract.ID{}) {
		return 0
	}
	return int64(binary.BigEndian.Uint64(id[:8]) >> 16) // UUIDv7 begins with the time
}

// backlog is what was recorded earlier and is still to be sent; nil where there is nothing. It is called with the
// lock held.
func (a *Agent) backlog(oldest int64) *agentv1.Backlog {
	now := a.utcNow()
	if oldest == 0 || now-oldest < earlierFrom.Milliseconds() {
		a.backlogFrom = 0
		return nil
	}
	if a.backlogFrom == 0 || oldest < a.backlogFrom {
		a.backlogFrom = oldest
	}
	return &agentv1.Backlog{OldestUtcMillis: oldest, TimeMillis: now - a.backlogFrom, SentMillis: oldest - a.backlogFrom}
}

func (a *Agent) health() *agentv1.Health {
	up := a.uplink.Status()
	oldest := a.oldestWaiting()
	a.mu.Lock()
	defer a.mu.Unlock()
	return &agentv1.Health{
		JournalBytes:          uint64(max(0, a.journal.Bytes())),
		UnacknowledgedRecords: a.journal.Backlog() + a.plugins.backlog() + a.inheritedBacklog(),
		AppliedPolicyRevision: a.policy.GetRevision(),
		UtcMillis:             a.utcNow(),
		Unsupported:           a.blind,
		Paused:                a.anyPaused,
		Plugins:               a.plugins.health(),
		Release:               a.releasing.said(),
		PluginReleases:        a.plugins.releases.said(),
		ManagerProblem:        cmp.Or(up.Preferred, up.Identity),
		PolicyProblem:         a.policyProblem,
		Backlog:               a.backlog(oldest),
	}
}

// takePolicy is called by the uplink. The policy is stored before it applies, so
// that a restart does not fall back behind what was once in force.
func (a *Agent) takePolicy(_ context.Context, policy *policyv1.Policy) error {
	if _, err := contract.IDFrom(policy.GetAccountId()); err != nil {
		return fmt.Errorf("agent: the policy names no account: %w", err)
	}
	a.mu.Lock()
	account, newest := a.policy.GetAccountId(), a.policy
	if supersedes(a.offered, newest) {
		newest = a.offered
	}
	a.mu.Unlock()
	if len(account) > 0 && string(account) != string(policy.GetAccountId()) {
		return fmt.Errorf("agent: the policy is another account's; this agent belongs to %x", account)
	}
	if !supersedes(policy, newest) {
		return nil // known already, or from a Manager that has not heard of ours yet
	}
	// A machine of its own tries it, as the real one belongs to the observer.
	if err := activity.New(activity.Config{Alias: a.noAlias}).SetPolicy(policy); err != nil {
		return err
	}
	if err := savePolicy(a.config.DataDir, policy); err != nil {
		return err
	}
	a.mu.Lock()
	a.offered = policy
	a.mu.Unlock()
	a.deps.Desktop.LookNow()
	return nil
}

// supersedes tells whether a policy holds rather than another. Revisions count anew when
// the platform's log was made anew or put back, so the time of publication comes first.
func supersedes(p, other *policyv1.Policy) bool {
	return cmp.Or(cmp.Compare(p.GetPublishedUtcMillis(), other.GetPublishedUtcMillis()), cmp.Compare(p.GetRevision(), other.GetRevision())) > 0
}

func (a *Agent) noAlias(activity.User) contract.ID { return contract.ID{} }
