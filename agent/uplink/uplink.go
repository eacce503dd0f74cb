package uplink

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/proxy"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Journal is what an uplink sends from; one for each lane.
type Journal interface {
	// Lane is the kind of its records.
	Lane() usagev1.Lane
	// Epoch is the one that it writes in now.
	Epoch() uint64
	// Frame gives the records that are not acknowledged, from a sequence number of
	// the epoch on, up to the limits of the contract; nil where there is none.
	// The frame lacks machine_id where the journal does not know it.
	Frame(fromSeq uint64) (*usagev1.Frame, error)
	// Acknowledge lets go of a range of records. What it does not hold is ignored.
	Acknowledge(epoch, firstSeq, lastSeq uint64) error
	// NewEpoch moves what is not acknowledged into a new epoch.
	NewEpoch() error
}

// Labels names documents until the Manager keeps the names.
type Labels interface {
	// PendingLabels are labels that are not acknowledged, at most limit of them.
	PendingLabels(limit int) []*agentv1.DocumentLabel
	// AcknowledgeLabel lets go of a label.
	AcknowledgeLabel(documentID contract.ID) error
}

// Identity is how an agent proves who it is.
type Identity interface {
	// TLS is how to speak to the Manager to which connect connects, which may be asked for a
	// certificate first; nil where the agent has none and cannot get one.
	TLS(ctx context.Context, connect func(*tls.Config) (*grpc.ClientConn, error)) (*tls.Config, error)
	// Keep renews over a connection what has to be, until ctx ends.
	Keep(ctx context.Context, conn grpc.ClientConnInterface)
	// Problem says what of it cannot be used, though another part may do; empty: nothing.
	Problem() string
}

// Config says where to, and how patiently. Zero fields take the defaults below.
type Config struct {
	// Managers are addresses, host:port, in the order of preference.
	Managers []string
	// Adopted are addresses that were adopted before (Deps.Adopt); they go before Managers.
	Adopted []string
	// TLS are the files of a conversation under TLS; none: it is plain.
	TLS TLSFiles
	// Proxy is http://[user:password@]host:port, proxy.None, or empty: as HTTPS_PROXY and
	// NO_PROXY in the environment say.
	Proxy string
	// Window is how many frames may be in flight on one lane.
	Window int
	// LivePeriod is the shortest time between two sendings of live snapshots.
	LivePeriod time.Duration
	// HealthPeriod is the time between two reports of health.
	HealthPeriod time.Duration
	// AckTimeout is how long an acknowledgement is waited for.
	AckTimeout time.Duration
	// RefusalPause is how long a refusal holds.
	RefusalPause time.Duration
	// MovePause is the least time between two moves to Managers that others named.
	MovePause time.Duration
	// FirstPause and LastPause bound the random wait after failures.
	FirstPause, LastPause time.Duration
	// HelloTimeout is how long the welcome is waited for.
	HelloTimeout time.Duration
	// SteadyAfter is how long a connection has to last to count as a good one,
	// though there was nothing to acknowledge.
	SteadyAfter time.Duration
}

// Defaults of Config.
const (
	DefaultWindow       = 8
	DefaultLivePeriod   = 200 * time.Millisecond
	DefaultHealthPeriod = time.Minute
	// catchUpPeriod is the same while what was recorded earlier is being sent.
	catchUpPeriod       = 5 * time.Second
	DefaultAckTimeout   = 30 * time.Second
	DefaultRefusalPause = 2 * time.Minute
	// With 2 s, ten thousand agents whose Manager is gone for a moment come back at 5,000 a second;
	// with 45 s and what a connection may take, all that have looked in vain for long are back within
	// a minute.
	DefaultFirstPause   = 2 * time.Second
	DefaultLastPause    = 45 * time.Second
	DefaultHelloTimeout = 15 * time.Second
	DefaultSteadyAfter  = 30 * time.Second
	// keepaliveTime and keepaliveTimeout find out about a Manager that is gone
	// without a word.
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 10 * time.Second
	labelsAtOnce     = 64
	// receiveWindow is how many bytes a Manager may send ahead.
	receiveWindow = 64 << 10
	// farewell is how long a connection that is given up still takes to say goodbye.
	farewell = 500 * time.Millisecond
)

// Deps are what an uplink works with.
type Deps struct {
	// Hello makes the greeting of a new connection. It is called from the
	// uplink's goroutines, like the other functions here.
	Hello func() *agentv1.Hello
	// Health reports how the agent is doing.
	Health func() *agentv1.Health
	// Policy takes a policy. An error is logged: the policy before goes on.
	Policy func(context.Context, *policyv1.Policy) error
	// Release takes an offered release, with the means to fetch it while the connection lasts;
	// ctx ends with that, or when another one is offered. One is taken at a time. nil: none is.
	Release func(ctx context.Context, offer *agentv1.ReleaseOffer, fetch Fetch)
	// PluginReleases takes what is offered of plug-ins; ctx ends with the connection, or when
	// something else is offered. nil: nothing is taken.
	PluginReleases func(ctx context.Context, offers []*agentv1.ReleaseOffer, fetch Fetch)
	// Adopt keeps, for Config.Adopted of the next start, addresses of Managers that a Manager
	// has named and one of which has taken the agent. nil: what is named is not taken.
	Adopt func(addresses []string) error
	// Anew is called where the Manager says that the agent lives elsewhere, too, and that
	// this one must begin as another; it is to end Run. nil: only the status says so.
	Anew func() error
	// Identity is what the agent proves by who it is, and whom it believes; where it has
	// nothing, or is nil, Config.TLS says.
	Identity Identity
	// Journals are sent from, each on its own.
	Journals []Journal
	// Labels may be nil.
	Labels Labels
	// Dial options beside the ones that the uplink sets: credentials, a dialer.
	Dial []grpc.DialOption
	// Random chooses the waits; nil: a random seed.
	Random *rand.Rand
	Log    *slog.Logger
}

// Fetch asks the Manager for a piece of the release with a SHA-256: up to most bytes from an
// offset on; none behind its end.
type Fetch func(ctx context.Context, sum []byte, offset uint64, most uint32) ([]byte, error)

// Status is how the conversation stands.
type Status struct {
	// Manager is the address that is or was last tried.
	Manager string
	// Connected: a Manager has welcomed us and the stream is open.
	Connected bool
	// ManagerID is of the Manager that welcomed last.
	ManagerID contract.ID
	// Since is when it was connected, or when it was lost.
	Since time.Time
	// LastAcknowledged is when a Manager last acknowledged something.
	LastAcknowledged time.Time
	// Skew is the agent's UTC clock less the Manager's, as seen at the welcome.
	Skew time.Duration
	// Problem is why nothing is sent, in words; empty where all is well.
	Problem string
	// Preferred is why Managers that are preferred to this one could not be spoken to.
	Preferred string
	// Identity is what cannot be used of how the agent proves who it is; empty where all can.
	Identity string
	// Reconnects counts the connections that were lost.
	Reconnects int
}

// Uplink is one agent's conversation. Its methods may be called from any goroutine.
type Uplink struct {
	config Config
	deps   Deps
	wake   chan struct{}

	mu        sync.Mutex
	status    Status
	persons   []*agentv1.Person
	live      map[string]*usagev1.LiveSnapshot // newest of each session
	sightings *usagev1.SightingReport
	version   int // grows with persons
	liveNew   map[string]bool
	// ended is until when the end of a session is told again over a new connection.
	ended     map[string]time.Time
	seenNew   bool
	healthNew bool
	probe     uint64 // nonce that the next report of health carries
	holds     map[usagev1.Lane]hold
	problems  map[string]string // why the last attempt failed, by address
	// told are Managers that one has named and none of which has taken the agent yet; adopted
	// are those that were named last and have. No move is made before moveAfter.
	told, adopted []string
	moveAfter     time.Time
}

// hold stops a lane, or all of it.
type hold struct {
	until  time.Time
	reason string
}

// New makes an uplink; nothing happens before Run.
func New(config Config, deps Deps) (*Uplink, error) {
	if len(config.Managers) == 0 {
		return nil, errors.New("uplink: no Manager's address is configured; give at least one as host:port")
	}
	if err := config.TLS.Check(); err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	if _, err := proxy.Parse(config.Proxy); err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	if deps.Hello == nil || deps.Health == nil || deps.Policy == nil || len(deps.Journals) == 0 {
		return nil, errors.New("uplink: Hello, Health, Policy and a journal are needed")
	}
	config.Window = cmp.Or(config.Window, DefaultWindow)
	config.LivePeriod = cmp.Or(config.LivePeriod, DefaultLivePeriod)
	config.HealthPeriod = cmp.Or(config.HealthPeriod, DefaultHealthPeriod)
	config.AckTimeout = cmp.Or(config.AckTimeout, DefaultAckTimeout)
	config.RefusalPause = cmp.Or(config.RefusalPause, DefaultRefusalPause)
	config.FirstPause = cmp.Or(config.FirstPause, DefaultFirstPause)
	config.LastPause = max(config.FirstPause, cmp.Or(config.LastPause, DefaultLastPause))
	config.MovePause = cmp.Or(config.MovePause, DefaultMovePause)
	config.HelloTimeout = cmp.Or(config.HelloTimeout, DefaultHelloTimeout)
	config.SteadyAfter = cmp.Or(config.SteadyAfter, DefaultSteadyAfter)
	if deps.Random == nil {
		deps.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	u := &Uplink{
		config:  config,
		adopted: config.Adopted,
		deps:    deps,
		wake:    make(chan struct{}, 1),
		live:    make(map[string]*usagev1.LiveSnapshot),
		liveNew: make(map[string]bool),
		ended:   make(map[string]time.Time),
		holds:   make(map[usagev1.Lane]hold),

		problems: make(map[string]string),
	}
	u.status = Status{Manager: u.addresses()[0], Problem: "not connected yet"}
	return u, nil
}

// Appended tells that a journal has new records. It never blocks.
func (u *Uplink) Appended() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// SetPersons says whom the aliases stand for. Call it before a record that names
// a new one is appended.
func (u *Uplink) SetPersons(persons []*agentv1.Person) {
	u.mu.Lock()
	u.persons = slices.Clone(persons)
	u.version++
	u.mu.Unlock()
	u.Appended()
}

// ShowLive replaces the snapshots of the sessions given. A new connection is shown all
// of them, with those that have ended of late.
func (u *Uplink) ShowLive(snapshots []*usagev1.LiveSnapshot) {
	if len(snapshots) == 0 {
		return
	}
	u.mu.Lock()
	u.forgetEnded()
	for _, s := range snapshots {
		id := string(s.GetSessionId())
		u.live[id], u.liveNew[id] = s, true
		delete(u.ended, id)
		if s.GetEnded() {
			u.ended[id] = time.Now().Add(time.Duration(s.GetValidMillis()) * time.Millisecond)
		}
	}
	u.mu.Unlock()
	u.Appended()
}

// showAgain makes everything that is known due for a Manager that has seen nothing of
// it: nobody knows what a lost connection has carried.
func (u *Uplink) showAgain() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forgetEnded()
	for id := range u.live {
		u.liveNew[id] = true
	}
	u.seenNew = u.sightings != nil
	u.healthNew = true
}

// forgetEnded forgets the ends of sessions of which no snapshot can be shown any more.
func (u *Uplink) forgetEnded() {
	for id, until := range u.ended {
		if !u.liveNew[id] && time.Now().After(until) {
			delete(u.ended, id)
			delete(u.live, id)
		}
	}
}

// ShowSightings replaces the report of what was seen besides.
func (u *Uplink) ShowSightings(report *usagev1.SightingReport) {
	u.mu.Lock()
	u.sightings, u.seenNew = report, true
	u.mu.Unlock()
	u.Appended()
}

// ShowHealth reports health soon, as something in it has changed.
func (u *Uplink) ShowHealth() {
	u.mu.Lock()
	u.healthNew = true
	u.mu.Unlock()
	u.Appended()
}

// answer reports health soon, as the answer to a probe.
func (u *Uplink) answer(nonce uint64) {
	u.mu.Lock()
	u.probe, u.healthNew = nonce, true
	u.mu.Unlock()
	u.Appended()
}

// anew begins as another agent, where a refusal asks for that.
func (u *Uplink) anew(r *agentv1.Refusal) error {
	if !r.GetBeginAnew() || u.deps.Anew == nil {
		return nil
	}
	u.deps.Log.Warn("the Manager asks to begin as another agent", "reason", r.GetReason(), "message", r.GetMessage())
	if err := u.deps.Anew(); err != nil {
		return fmt.Errorf("uplink: begin as another agent: %w", err)
	}
	return nil
}

// Shown tells whether every live snapshot has been sent.
func (u *Uplink) Shown() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.liveNew) == 0
}

// Status tells how the conversation stands.
func (u *Uplink) Status() Status {
	identity := ""
	if u.deps.Identity != nil {
		identity = u.deps.Identity.Problem()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.status
	s.Identity = identity
	if s.Connected {
		list := u.addresses()
		for _, address := range list[:max(0, slices.Index(list, s.Manager))] {
			if problem := u.problems[address]; problem != "" {
				s.Preferred = strings.TrimPrefix(s.Preferred+"; "+problem, "; ")
			}
		}
	}
	for lane, h := range u.holds {
		if time.Now().Before(h.until) && s.Problem == "" {
			s.Problem = fmt.Sprintf("%s held: %s", lane, h.reason)
		}
	}
	return s
}

func (u *Uplink) note(f func(*Status)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f(&u.status)
}

// Run converses until ctx ends, and then returns nil.
func (u *Uplink) Run(ctx context.Context) error {
	bound := u.config.FirstPause
	for turn := 0; ctx.Err() == nil; turn++ {
		list := u.Addresses()
		address := list[turn%len(list)]
		good, err := u.converse(ctx, address)
		if ctx.Err() != nil {
			break
		}
		u.note(func(s *Status) {
			if s.Connected {
				s.Reconnects++
			}
			*s = Status{
				Manager: address, ManagerID: s.ManagerID, Since: time.Now(), Skew: s.Skew,
				LastAcknowledged: s.LastAcknowledged, Reconnects: s.Reconnects, Problem: err.Error(),
			}
			if !errors.Is(err, errMoving) {
				u.problems[address] = err.Error()
			}
		})
		if errors.Is(err, errMoving) {
			turn, bound = -1, u.config.FirstPause // from the first on, at once
			continue
		}
		if good {
			bound = u.config.FirstPause
			turn-- // the same Manager again: it was a good one
		}
		pause := u.pause(bound)
		var refused *refusedError
		if errors.As(err, &refused) {
			if refused.anew && u.deps.Anew != nil {
				<-ctx.Done() // whoever it is by then speaks for itself
				break
			}
			pause += u.config.RefusalPause / 2
			pause = min(pause, u.config.RefusalPause)
		}
		u.deps.Log.InfoContext(ctx, "no connection to the Manager; what is recorded is kept and sent later", "manager", address, "reason", err, "again_in", pause)
		bound = min(2*bound, u.config.LastPause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	u.note(func(s *Status) { s.Connected, s.Problem = false, "stopped" })
	return nil //nolint:nilerr // That the last connection ended is what was asked for.
}

// pause is a random time up to the bound: many agents that lost one Manager do
// not come back at the same moment.
func (u *Uplink) pause(bound time.Duration) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return time.Duration(u.deps.Random.Int64N(int64(bound) + 1))
}

// converse holds one connection, until it fails. good tells whether it was worth
// having.
func (u *Uplink) converse(ctx context.Context, address string) (good bool, err error) {
	// The stream outlives ctx by a moment, so that what was sent last arrives.
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-streaming.Done():
		case <-time.After(farewell):
			cancel()
		}
	})()
	last := new(handshake)
	transport, enrolled, err := u.transport(ctx, address, last)
	if err != nil {
		return false, u.explain(address, enrolled, last.failed(), fmt.Errorf("uplink: TLS with %s: %w", address, err))
	}
	conn, err := u.connect(address, transport)
	if err != nil {
		return false, fmt.Errorf("uplink: address %q: %w", address, err)
	}
	defer conn.Close()
	client := agentv1.NewAgentServiceClient(conn)
	stream, err := client.Connect(streaming)
	if err != nil {
		return false, u.explain(address, enrolled, last.failed(), fmt.Errorf("uplink: connect to %s: %w", address, err))
	}
	s := newSession(u, stream, address)
	s.fetch = func(ctx context.Context, sum []byte, offset uint64, most uint32) ([]byte, error) {
		piece, err := client.FetchRelease(ctx, &agentv1.FetchReleaseRequest{Sha256: sum, Offset: offset, MaxBytes: most})
		return piece.GetData(), err
	}
	if enrolled {
		s.keep = func(ctx context.Context) { u.deps.Identity.Keep(ctx, conn) }
	}
	if err = s.run(ctx, cancel); err == nil {
		return s.good(), nil
	}
	return s.good(), u.explain(address, enrolled, last.failed(), err)
}

// transport is what a connection is spoken over; enrolled: by the agent's own certificate.
func (u *Uplink) transport(ctx context.Context, address string, last *handshake) (t credentials.TransportCredentials, enrolled bool, err error) {
	if u.deps.Identity != nil {
		own, err := u.deps.Identity.TLS(ctx, func(config *tls.Config) (*grpc.ClientConn, error) {
			return u.connect(address, &telling{credentials.NewTLS(config), last})
		})
		if err != nil {
			return nil, true, err
		}
		if own != nil {
			return &telling{credentials.NewTLS(own), last}, true, nil
		}
	}
	t, err = u.config.TLS.credentials(address, last)
	return t, false, err
}

func (u *Uplink) connect(address string, transport credentials.TransportCredentials) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithContextDialer(u.dial),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: false}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(), // dial knows of it
		// A Manager says little: windows of a fixed size save the pings that measure
		// whether larger ones would be faster.
		grpc.WithStaticStreamWindowSize(receiveWindow),
		grpc.WithStaticConnWindowSize(receiveWindow),
		grpc.WithReadBufferSize(8 << 10),
		grpc.WithWriteBufferSize(16 << 10),
	}
	return grpc.NewClient("passthrough:///"+address, append(options, u.deps.Dial...)...)
}

// refusedError says that a Manager does not want this agent.
type refusedError struct {
	reason, message string
	anew            bool
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("uplink: the Manager refuses this agent: %s: %s", e.reason, e.message)
}

func refusedBy(r *agentv1.Refusal) error {
	return &refusedError{reason: r.GetReason(), message: r.GetMessage(), anew: r.GetBeginAnew()}
}
