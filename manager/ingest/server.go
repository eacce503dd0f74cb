package ingest

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
)

const (
	protocolVersion = 1
	// A stream must say hello within this time.
	helloPatience = 15 * time.Second
	// What an agent may send at once and still be answered with a reason rather
	// than cut off.
	maxReceive = 4 * contract.MaxFrameBytes
	// What an agent may send before it is read.
	streamWindow = 64 << 10
	// How long a stop waits for what is on its way to the disk.
	stopPatience = 3 * time.Second
	// While the buffer is stalled, agents are told so this often, and to wait so
	// long.
	throttlePeriod = time.Second
	throttlePause  = 2 * time.Second
	// Agents remembered after they left, for what they sent.
	maxAgents = 20_000
)

// Buffer is where frames become durable.
type Buffer interface {
	// Append hands over an entry; it waits while too much is unwritten.
	Append(ctx context.Context, e buffer.Entry) error
	// Stalled says why nothing can be written; empty while all is well.
	Stalled() string
}

// People knows who the users behind aliases are. Its answers are durable.
type People interface {
	// Bind binds an alias of an agent to the principal of a person;
	// people.ErrInvalid where none is named, people.ErrTooMany where no more can be
	// remembered. name is the person's sealed name where the log does not have it yet, else nil; named
	// says that now it has.
	Bind(ctx context.Context, agent contract.ID, person *agentv1.Person) (principal contract.ID, name *usagev1.SealedName, named func(), err error)
	// Principal is who an alias of an agent stands for.
	Principal(agent, alias contract.ID) (contract.ID, bool)
	// Bindings are the agent's aliases as serialized PrincipalBinding messages.
	Bindings(agent contract.ID) [][]byte
	// PersonName is the sealed name of a principal, nil where none is known.
	PersonName(principal contract.ID) *usagev1.SealedName
	// SealDocument seals a document's name under the principal's key.
	SealDocument(principal, document contract.ID, name string) (*usagev1.SealedName, error)
}

// Policies is the account's policy.
type Policies interface {
	// Current is the policy, nil before there was one, and a channel that is
	// closed when another takes its place.
	Current() (*policyv1.Policy, <-chan struct{})
}

// Releases are what agents may upgrade to.
type Releases interface {
	// Offer is what an agent is offered now, nil where that is nothing, and a channel that
	// is closed when that, or what it is offered of plug-ins, may have changed.
	Offer(agent contract.ID, r *agentv1.ReleaseReport) (*agentv1.ReleaseOffer, <-chan struct{})
	// Report takes in how an agent stands with its releases.
	Report(agent contract.ID, r *agentv1.ReleaseReport)
	// OfferPlugins and ReportPlugins are the same for plug-ins.
	OfferPlugins(agent contract.ID, p *agentv1.PluginReleases) []*agentv1.ReleaseOffer
	ReportPlugins(agent contract.ID, p *agentv1.PluginReleases)
	// Piece reads a part of a release; an empty one lies behind its end.
	Piece(sum []byte, offset uint64, most uint32) ([]byte, error)
}

// Callers tells who speaks on a connection.
type Callers interface {
	// Caller is the agent that has proved to be it. It is asked again, each second, as long as
	// the connection lasts, and an error ends that; one of codes.PermissionDenied is for good.
	Caller(ctx context.Context) (contract.ID, error)
}

// Config is what a Server needs to know.
type Config struct {
	AccountID, ManagerID contract.ID
	// Managers are where agents are told to find their Managers; none: what the policy says.
	Managers []string
	Log      *slog.Logger
	// Now is the Manager's clock; time.Now by default.
	Now func() time.Time
	// Options are further options of the gRPC server, and Register adds further services to
	// it; nil: none.
	Options  []grpc.ServerOption
	Register func(*grpc.Server)
}

// Deps is what a Server is given.
type Deps struct {
	Buffer   Buffer
	People   People
	Policies Policies
	// Releases may be nil: none are offered.
	Releases Releases
	// Callers may be nil: agents are who they say they are.
	Callers Callers
	// Publish sends a message that is not stored to the platform and tells
	// whether it could. It must not wait.
	Publish func(subject string, data []byte) bool
	// State tells how the Manager is doing, for the platform; nil: it is told nothing of that.
	State func() *agentv1.ManagerState
}

// Server serves agents. Make it with New.
type Server struct {
	agentv1.UnimplementedAgentServiceServer

	config Config
	deps   Deps
	log    *slog.Logger

	stopping chan struct{}
	readers  sync.WaitGroup
	counts   counters
	turns    *turns
	// asked: the platform wants to be told anew.
	asked atomic.Bool

	mu       sync.Mutex
	sessions map[*session]struct{}
	agents   map[contract.ID]*agent
	live     map[liveKey]LiveSession
	liveOf   map[contract.ID]int // sessions in live, by agent
}

// liveKey is a desktop session of an agent; agents draw these ids themselves.
type liveKey struct{ agent, session contract.ID }

// Counts counts what the server did since it started.
type Counts struct {
	Frames, Records, Repeated, Refused, Acknowledged uint64
	Live, LiveDropped                                uint64
}

type counters struct {
	frames, records, repeated, refused, acknowledged atomic.Uint64
	live, liveDropped                                atomic.Uint64
}

// New makes a server.
func New(config Config, deps Deps) *Server {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Server{
		config:   config,
		deps:     deps,
		log:      config.Log.With("part", "ingest"),
		stopping: make(chan struct{}),
		turns:    newTurns(turnBytes, longestTurn),
		sessions: make(map[*session]struct{}),
		agents:   make(map[contract.ID]*agent),
		live:     make(map[liveKey]LiveSession),
		liveOf:   make(map[contract.ID]int),
	}
}

// Serve serves until the context ends, then lets what is on its way to the disk
// be acknowledged, for a few seconds at most.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	options := append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(newRawCodec()),
		grpc.MaxRecvMsgSize(maxReceive),
		// What is not read yet of an agent takes no more memory: the least that there is. The rest of a
		// message is asked for when it is read.
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(2 << 20),
		// Thousands are connected and silent, and each has a buffer to read into, beside that of TLS. What
		// is larger goes past it.
		grpc.ReadBufferSize(4 << 10),
		grpc.ConnectionTimeout(helloPatience),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}, s.config.Options...)
	server := grpc.NewServer(options...)
	agentv1.RegisterAgentServiceServer(server, s)
	if s.config.Register != nil {
		s.config.Register(server)
	}

	var wg sync.WaitGroup
	wg.Go(func() { s.throttleLoop(ctx) })
	wg.Go(func() { s.healthLoop(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		close(s.stopping)
		hard := time.AfterFunc(stopPatience, server.Stop)
		server.GracefulStop()
		hard.Stop()
	})
	err := server.Serve(listener)
	if ctx.Err() != nil {
		err = nil
		wg.Wait()
		s.readers.Wait()
	}
	return err
}

func (s *Server) throttleLoop(ctx context.Context) {
	tick := time.NewTicker(throttlePeriod)
	defer tick.Stop()
	turns := time.NewTicker(tellTurnPeriod)
	defer turns.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-turns.C:
			s.tellTurns()
			continue
		case <-tick.C:
		}
		if reason := s.deps.Buffer.Stalled(); reason != "" {
			s.mu.Lock()
			for session := range s.sessions {
				session.out.pause(&agentv1.Throttle{PauseMillis: throttlePause.Milliseconds(), Reason: reason})
			}
			s.mu.Unlock()
		}
		s.forgetStaleLive()
		s.lookAtCallers()
	}
}

// tellTurns tells agents that wait for their turn that they are not forgotten. While nothing can be
// written they are: they may find another Manager.
func (s *Server) tellTurns() {
	if s.deps.Buffer.Stalled() != "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		if session.turn.waiting.Load() {
			session.out.pause(&agentv1.Throttle{InTurn: true, Reason: "others are being served that have much to send, too"})
		}
	}
}

// lookAtCallers ends the connections of agents that have not the right to them any more.
func (s *Server) lookAtCallers() {
	if s.deps.Callers == nil {
		return
	}
	s.mu.Lock()
	sessions := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	for _, c := range sessions {
		if _, err := s.deps.Callers.Caller(c.stream.Context()); err != nil {
			select {
			case c.ended <- err:
			default: // it ends
			}
		}
	}
}

// Connect is one agent's stream. The goroutine that gRPC gives it sends; one more
// receives.
func (s *Server) Connect(stream agentv1.AgentService_ConnectServer) error {
	select {
	case <-s.stopping:
		return status.Error(codes.Unavailable, "the Manager is stopping")
	default:
	}
	session := newSession(s, stream)
	defer s.leave(session)
	s.readers.Go(session.receive)
	return session.send()
}

// FetchRelease gives a piece of a release to whoever asks: it is no secret.
func (s *Server) FetchRelease(_ context.Context, r *agentv1.FetchReleaseRequest) (*agentv1.FetchReleaseResponse, error) {
	if s.deps.Releases == nil {
		return nil, status.Error(codes.Unimplemented, "this Manager keeps no releases")
	}
	piece, err := s.deps.Releases.Piece(r.GetSha256(), r.GetOffset(), r.GetMaxBytes())
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return &agentv1.FetchReleaseResponse{Data: piece}, nil
}

// join finds what is remembered of a session's agent, or begins to remember.
func (s *Server) join(id contract.ID, session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[id]
	if a == nil {
		if len(s.agents) >= maxAgents {
			s.forgetAgent()
		}
		a = &agent{id: id}
		s.agents[id] = a
	}
	session.agent = a
	if !session.left {
		s.sessions[session] = struct{}{}
		if !session.bequest {
			a.connected++
			a.sessions = append(a.sessions, session)
		}
	}
}

// forgetAgent makes room by forgetting an agent that is not connected.
func (s *Server) forgetAgent() {
	for id, a := range s.agents {
		if a.connected == 0 {
			delete(s.agents, id)
			return
		}
	}
}

func (s *Server) leave(gone *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone.left = true
	if _, ok := s.sessions[gone]; !ok {
		return
	}
	delete(s.sessions, gone)
	if gone.bequest {
		return
	}
	a := gone.agent
	a.connected--
	a.left = s.config.Now()
	a.sessions = slices.DeleteFunc(a.sessions, func(other *session) bool { return other == gone })
}

// Counts tells what the server did since it started.
func (s *Server) Counts() Counts {
	return Counts{
		Frames:       s.counts.frames.Load(),
		Records:      s.counts.records.Load(),
		Repeated:     s.counts.repeated.Load(),
		Refused:      s.counts.refused.Load(),
		Acknowledged: s.counts.acknowledged.Load(),
		Live:         s.counts.live.Load(),
		LiveDropped:  s.counts.liveDropped.Load(),
	}
}
