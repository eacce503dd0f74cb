package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/internal/trace"
	"github.com/cetrus/cetrus/manager/people"
)

// session is one connection of one agent.
type session struct {
	server *Server
	stream agentv1.AgentService_ConnectServer
	out    *outbox

	// Handed to the buffer and not durable yet.
	pending atomic.Int64

	left   bool          // guarded by Server.mu
	probes []probe       // put to the agent, not answered yet; guarded by Server.mu
	ended  chan error    // of one: why the Manager ends the connection
	over   chan struct{} // closed when the receiving side ends
	err    error         // why; read after over is closed

	// What follows belongs to the receiving side, and is set by the hello.
	agent   *agent
	bequest bool // it hands over what another machine held of the agent's
	hello   *agentv1.Hello
	machine []byte // serialized MachineName, until a frame has carried it
	name    *usagev1.MachineName
	skew    int64
	has     policyMark            // set by the hello, then the sending side's
	offered *agentv1.ReleaseOffer // the sending side's
	// pluginsOffered and managersTold are the sending side's, too.
	pluginsOffered []*agentv1.ReleaseOffer
	managersTold   []string
	welcomed       chan struct{} // closed by the hello
	check          *checker
	view           frame
	turn           turn
	// much: the agent has much to send, as it says itself or as its last frame shows, which was full.
	much bool
}

// policyMark tells one policy from another.
type policyMark struct {
	revision  uint64
	published int64
}

func newSession(s *Server, stream agentv1.AgentService_ConnectServer) *session {
	return &session{
		server:   s,
		stream:   stream,
		out:      newOutbox(),
		ended:    make(chan error, 1),
		over:     make(chan struct{}),
		welcomed: make(chan struct{}),
		check:    newChecker(),
		turn:     turn{of: s.turns},
	}
}

// send says what there is to say until the receiving side ends or the Manager
// stops. It is the only one who writes to the stream.
func (c *session) send() error {
	patience := time.NewTimer(helloPatience)
	defer patience.Stop()
	stopping := c.server.stopping
	var goodbye <-chan time.Time
	welcomed := c.welcomed
	var policyChanged, releasesChanged <-chan struct{}
	for {
		if err := c.flush(); err != nil {
			return err
		}
		if stopping == nil && c.pending.Load() == 0 {
			// Done counts down after it has filled the outbox.
			if err := c.flush(); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "the Manager is stopping")
		}
		select {
		case <-c.out.wake:
		case <-welcomed:
			welcomed = nil
			patience.Stop()
			policyChanged = c.offerPolicy()
			releasesChanged = c.offerRelease()
		case <-policyChanged:
			policyChanged = c.offerPolicy()
		case <-releasesChanged:
			releasesChanged = c.offerRelease()
		case <-stopping:
			stopping = nil
			t := time.NewTimer(stopPatience - time.Second)
			defer t.Stop()
			goodbye = t.C
		case <-goodbye:
			return status.Error(codes.Unavailable, "the Manager is stopping")
		case <-patience.C:
			if welcomed != nil {
				c.refuseAgent(contract.ReasonNoHello, fmt.Sprintf("no hello within %v", helloPatience))
				_ = c.flush()
				return status.Error(codes.FailedPrecondition, "no hello")
			}
		case err := <-c.ended:
			// A certificate that has expired meanwhile was renewed on the way: the agent comes
			// back with that, and is not refused.
			if status.Code(err) == codes.PermissionDenied {
				c.refuseAgent(contract.ReasonNoCertificate, status.Convert(err).Message())
			}
			_ = c.flush()
			return err
		case <-c.over:
			_ = c.flush()
			return c.err
		}
	}
}

func (c *session) flush() error {
	for _, m := range c.out.take() {
		if err := c.stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (c *session) offerPolicy() <-chan struct{} {
	policy, changed := c.server.deps.Policies.Current()
	c.offerManagers(policy.GetManagers())
	if mark := (policyMark{policy.GetRevision(), policy.GetPublishedUtcMillis()}); policy != nil && mark != c.has {
		c.has = mark
		c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Policy{Policy: policy}})
	}
	return changed
}

// offerManagers tells where the agent is to find its Managers.
func (c *session) offerManagers(accounts []string) {
	managers := c.server.config.Managers
	if len(managers) == 0 {
		managers = accounts
	}
	if len(managers) == 0 || slices.Equal(managers, c.managersTold) {
		return // an agent that is told of none keeps those that it has
	}
	c.managersTold = managers
	c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Managers{Managers: &agentv1.ManagerAddresses{Addresses: managers}}})
}

// offerRelease offers what the agent may upgrade to, once on a connection.
func (c *session) offerRelease() <-chan struct{} {
	if c.server.deps.Releases == nil || c.bequest {
		return nil
	}
	own, plugins := c.agent.releases()
	offer, changed := c.server.deps.Releases.Offer(c.agent.id, own)
	if offer != nil && offer != c.offered {
		c.offered = offer
		c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Release{Release: offer}})
	}
	// What changes in between closes the channel.
	if offers := c.server.deps.Releases.OfferPlugins(c.agent.id, plugins); !slices.Equal(offers, c.pluginsOffered) {
		c.pluginsOffered = offers
		c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_PluginReleases{PluginReleases: &agentv1.PluginOffers{Offers: offers}}})
	}
	return changed
}

// receive hears the agent until the stream ends. An agent that has much to send is read in turn with others
// of that kind: what it sends meanwhile stays where it is.
func (c *session) receive() {
	defer close(c.over)
	defer c.turn.close()
	ctx := c.stream.Context()
	for {
		if c.much {
			if err := c.turn.begin(ctx); err != nil {
				c.err = status.FromContextError(err).Err()
				return
			}
		}
		var in inbound
		if err := c.stream.RecvMsg(&in); err != nil {
			if !errors.Is(err, io.EOF) {
				c.err = err
			}
			return
		}
		var err error
		large := len(*in.data) > largeInbound
		if large {
			err = status.FromContextError(c.turn.keep(ctx)).Err()
		}
		if err == nil {
			err = c.hear(ctx, *in.data)
		}
		in.free()
		if large {
			c.view = frame{} // its views of many records would stay with the connection
		}
		c.turn.end()
		if !c.much {
			c.turn.close() // the end of a backlog was small, and used nothing of what was lent for it
		}
		if err == nil && c.out.overflowing() {
			err = status.Error(codes.ResourceExhausted, "the agent does not read what it is told")
		}
		if err != nil {
			c.err = err
			return
		}
	}
}

// hear acts on one message. An error ends the stream.
func (c *session) hear(ctx context.Context, raw []byte) error {
	kind, body, err := parseRequest(raw)
	if err != nil {
		return c.malformed("a message", err)
	}
	if c.agent == nil && kind != requestHello {
		c.refuseAgent(contract.ReasonNoHello, "the first message must be a hello")
		return status.Error(codes.FailedPrecondition, "the first message must be a hello")
	}
	switch int(kind) {
	case requestHello:
		var m agentv1.Hello
		if err := proto.Unmarshal(body, &m); err != nil {
			return c.malformed("a hello", err)
		}
		return c.hearHello(&m)
	case requestFrame:
		return c.hearFrame(ctx, body)
	case requestLive:
		var m usagev1.LiveSnapshot
		if err := proto.Unmarshal(body, &m); err != nil {
			return c.malformed("a live snapshot", err)
		}
		c.hearLive(&m)
	case requestPerson:
		var m agentv1.Person
		if err := proto.Unmarshal(body, &m); err != nil {
			return c.malformed("a person", err)
		}
		return c.hearPerson(ctx, &m)
	case requestLabel:
		var m agentv1.DocumentLabel
		if err := proto.Unmarshal(body, &m); err != nil {
			return c.malformed("a document label", err)
		}
		return c.hearLabel(ctx, &m)
	case requestSightings:
		var m usagev1.SightingReport
		if err := proto.Unmarshal(body, &m); err != nil {
			return c.malformed("a sighting report", err)
		}
		if c.bequest {
			return nil
		}
		m.AgentId, m.ReceivedUtcMillis = c.agent.id[:], c.server.config.Now().UnixMilli()
		c.server.saw(c.agent, &m)
	case requestHealth:
		var m agentv1.Health
		// Words that this Manager does not know have no bound, and are kept and passed on.
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &m); err != nil {
			return c.malformed("a health report", err)
		}
		c.hearHealth(&m)
	}
	return nil
}

func (c *session) hearHello(m *agentv1.Hello) error {
	s := c.server
	refuse := func(reason, message string) error {
		c.refuseAgent(reason, message)
		return status.Error(codes.FailedPrecondition, message)
	}
	if c.agent != nil {
		return refuse(contract.ReasonMalformed, "a second hello")
	}
	if m.GetProtocolVersion() != protocolVersion {
		return refuse(contract.ReasonUnknownVersion, fmt.Sprintf("the agent speaks version %d of the protocol, this Manager version %d: upgrade the older one", m.GetProtocolVersion(), protocolVersion))
	}
	id, err := contract.IDFrom(m.GetAgentId())
	if err != nil {
		return refuse(contract.ReasonMalformed, "agent_id: "+err.Error())
	}
	machine, err := contract.IDFrom(m.GetMachineId())
	if err != nil {
		return refuse(contract.ReasonMalformed, "machine_id: "+err.Error())
	}
	// A bequest, too: with the folder of the agent that it is of came its certificate.
	if s.deps.Callers != nil {
		caller, err := s.deps.Callers.Caller(c.stream.Context())
		if err != nil {
			return refuse(contract.ReasonNoCertificate, status.Convert(err).Message())
		}
		if caller != id {
			return refuse(contract.ReasonForeignAgent, fmt.Sprintf("the certificate is of agent %s, and it says that it is agent %s", caller, id))
		}
	}
	if account := m.GetAccountId(); len(account) != 0 && string(account) != string(s.config.AccountID[:]) {
		return refuse(contract.ReasonForeignAccount, fmt.Sprintf("the agent belongs to account %x, this Manager serves %s", account, s.config.AccountID))
	}
	now := s.config.Now()
	c.hello, c.bequest = m, m.GetBequest()
	c.skew = m.GetUtcMillis() - now.UnixMilli()
	c.name = &usagev1.MachineName{
		MachineId:       m.GetMachineId(),
		HostName:        shorten(m.GetHostName(), 255),
		OperatingSystem: shorten(m.GetOperatingSystem(), 255),
		AgentVersion:    shorten(m.GetAgentVersion(), 64),
	}
	// The machine that a bequest comes from is not the agent's.
	if !c.bequest {
		if c.machine, err = proto.Marshal(c.name); err != nil {
			return c.malformed("a hello", err)
		}
	}
	c.has = policyMark{m.GetPolicyRevision(), m.GetPolicyPublishedUtcMillis()}
	s.join(id, c)
	if !c.bequest {
		c.agent.greet(m, machine, c.skew, now)
		c.hearReleases(boundedRelease(m.GetRelease()), boundedPlugins(m.GetPluginReleases()))
	}
	c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{
		ManagerId: s.config.ManagerID[:], AccountId: s.config.AccountID[:], UtcMillis: now.UnixMilli(),
	}}})
	close(c.welcomed)
	if !c.bequest {
		s.challenge(c)
	}
	return nil
}

func (c *session) hearHealth(m *agentv1.Health) {
	now := c.server.config.Now()
	c.skew = m.GetUtcMillis() - now.UnixMilli()
	c.much = m.GetBacklog() != nil
	if c.bequest {
		return
	}
	if m.GetProbe() != 0 {
		c.server.answered(c, m.GetProbe())
	}
	bounded(m) // before anybody else sees it
	c.hearReleases(m.GetRelease(), m.GetPluginReleases())
	c.agent.reported(m, c.skew, now)
}

// hearReleases takes in how the agent stands with releases, bounded and not changed any more;
// nil: as before.
func (c *session) hearReleases(own *agentv1.ReleaseReport, plugins *agentv1.PluginReleases) {
	if c.server.deps.Releases == nil {
		return
	}
	if own != nil {
		c.agent.stands(own)
		c.server.deps.Releases.Report(c.agent.id, own)
	}
	if plugins != nil {
		c.agent.standsWithPlugins(plugins)
		c.server.deps.Releases.ReportPlugins(c.agent.id, plugins)
	}
}

func (c *session) hearFrame(ctx context.Context, raw []byte) error {
	s := c.server
	f := &c.view
	if err := f.parse(raw); err != nil {
		return c.malformed("a frame", err)
	}
	if r := c.check.check(f, c.agent.id); r != nil {
		c.refuseFrame(f, r)
		return nil
	}
	s.counts.frames.Add(1)
	c.much = len(f.records) == contract.MaxFrameRecords || len(raw) > contract.MaxFrameBytes/2
	epoch, first, last := f.epoch, f.first, f.last()
	switch c.agent.judge(f) {
	case repeated:
		s.counts.repeated.Add(1)
		c.out.acknowledge(epoch, first, last)
		return nil
	case contradicted:
		c.refuseFrame(f, &refusal{contract.ReasonConflict, "other records came under the same numbers before", true})
		return nil
	case scattered:
		c.refuseFrame(f, &refusal{contract.ReasonTooLarge, fmt.Sprintf("the epoch's records came with more than %d gaps here", maxSpans), true})
		return nil
	case unknown:
	}
	now := s.config.Now()
	if !c.agent.mayBegin(epoch, now) {
		c.refuseFrame(f, &refusal{contract.ReasonTooLarge, fmt.Sprintf("the agent began more than %d epochs within %v", maxNewEpochs, newEpochsPeriod), false})
		return nil
	}
	end := func() {}
	parent := sampledTrace(f.trace)
	if parent != "" {
		parent, end = trace.Span(ctx, parent, "make durable", attribute.Int("records", len(f.records)))
	}
	link := contract.Hash(f.after)
	count := uint64(len(f.records))
	entry := buffer.Entry{
		Lane:           usagev1.Lane(f.lane),
		Frame:          raw,
		Bindings:       s.deps.People.Bindings(c.agent.id),
		ReceivedMillis: now.UnixMilli(),
		SkewMillis:     c.skew,
		Machine:        c.machine,
		TraceParent:    parent,
		Done: func(uint64) {
			end()
			c.agent.durable(epoch, first, last, link)
			s.counts.records.Add(count)
			s.counts.acknowledged.Add(1)
			c.out.acknowledge(epoch, first, last)
			c.settle()
		},
	}
	if err := c.append(ctx, entry); err != nil {
		return err
	}
	c.machine = nil
	c.agent.took(len(f.records), now)
	return nil
}

// append hands an entry to the buffer, telling the agent to wait where that will
// take long.
func (c *session) append(ctx context.Context, e buffer.Entry) error {
	if reason := c.server.deps.Buffer.Stalled(); reason != "" {
		c.out.pause(&agentv1.Throttle{PauseMillis: throttlePause.Milliseconds(), Reason: reason})
	}
	c.pending.Add(1)
	err := c.server.deps.Buffer.Append(ctx, e)
	if err == nil {
		return nil
	}
	c.settle()
	if errors.Is(err, buffer.ErrClosed) {
		return status.Error(codes.Unavailable, "the Manager is stopping")
	}
	return status.FromContextError(err).Err()
}

func (c *session) settle() {
	if c.pending.Add(-1) == 0 {
		c.out.rouse()
	}
}

func (c *session) hearPerson(ctx context.Context, m *agentv1.Person) error {
	_, name, named, err := c.server.deps.People.Bind(ctx, c.agent.id, m)
	// A refusal would be one of the agent, which would come back and say the same.
	if errors.Is(err, people.ErrInvalid) {
		c.refused(contract.ReasonMalformed, "a person is left out: "+err.Error())
		return nil
	}
	if errors.Is(err, people.ErrTooMany) {
		c.refused(contract.ReasonTooLarge, "a person is left out: "+err.Error())
		return nil
	}
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if name == nil {
		return nil
	}
	raw, err := proto.Marshal(name)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return c.append(ctx, buffer.Entry{
		Lane:    usagev1.Lane_LANE_USAGE,
		Names:   [][]byte{raw},
		Machine: c.machine,
		Done: func(uint64) {
			named()
			c.settle()
		},
	})
}

func (c *session) hearLabel(ctx context.Context, m *agentv1.DocumentLabel) error {
	document, sealed, err := c.seal(m)
	if err != nil {
		// Asked again it would be no better: the agent may forget it.
		c.refused(contract.ReasonMalformed, "a document label is left out: "+err.Error())
		c.acknowledgeLabel(m.GetDocumentId())
		return nil //nolint:nilerr // it is told and counted; the stream goes on
	}
	raw, err := proto.Marshal(sealed)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	c.agent.named(document, sealed)
	return c.append(ctx, buffer.Entry{
		Lane:  usagev1.Lane_LANE_USAGE,
		Names: [][]byte{raw},
		Done: func(uint64) {
			c.acknowledgeLabel(document[:])
			c.settle()
		},
	})
}

func (c *session) acknowledgeLabel(document []byte) {
	c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_LabelAcknowledgement{
		LabelAcknowledgement: &agentv1.LabelAcknowledgement{DocumentId: document},
	}})
}

func (c *session) seal(m *agentv1.DocumentLabel) (contract.ID, *usagev1.SealedName, error) {
	document, err := contract.IDFrom(m.GetDocumentId())
	if err != nil {
		return document, nil, err
	}
	alias, err := contract.IDFrom(m.GetPrincipalAlias())
	if err != nil {
		return document, nil, err
	}
	principal, ok := c.server.deps.People.Principal(c.agent.id, alias)
	if !ok {
		return document, nil, fmt.Errorf("nobody told who alias %s is", alias)
	}
	sealed, err := c.server.deps.People.SealDocument(principal, document, shorten(m.GetName(), 1024))
	return document, sealed, err
}

func (c *session) hearLive(m *usagev1.LiveSnapshot) {
	s := c.server
	if c.bequest {
		return
	}
	desktop, err := contract.IDFrom(m.GetSessionId())
	if err != nil {
		c.refused(contract.ReasonMalformed, "a live snapshot: session_id: "+err.Error())
		return
	}
	m.AgentId, m.MachineId, m.Machine = c.agent.id[:], c.hello.GetMachineId(), c.name
	m.PrincipalId, m.Names = nil, nil
	if alias, err := contract.IDFrom(m.GetPrincipalAlias()); err == nil {
		if principal, ok := s.deps.People.Principal(c.agent.id, alias); ok {
			m.PrincipalId = principal[:]
			if name := s.deps.People.PersonName(principal); name != nil {
				m.Names = append(m.Names, name)
			}
		}
	}
	m.Names = append(m.Names, c.agent.namesOf(m)...)
	if !s.keepLive(c.agent, desktop, m, s.config.Now()) {
		c.refused(contract.ReasonTooLarge, fmt.Sprintf("a live snapshot: the agent shows more than %d desktop sessions at once", maxLivePerAgent))
		return
	}
	s.publish(contract.LiveSubject(s.config.AccountID, s.config.ManagerID), m)
}

// malformed refuses an agent whose bytes make no sense; nothing behind them can be
// trusted either.
func (c *session) malformed(what string, err error) error {
	message := fmt.Sprintf("%s cannot be read: %v", what, err)
	c.refuseAgent(contract.ReasonMalformed, message)
	return status.Error(codes.InvalidArgument, message)
}

func (c *session) refuseAgent(reason, message string) {
	c.refused(reason, message)
	c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Refusal{Refusal: &agentv1.Refusal{Reason: reason, Message: message}}})
}

func (c *session) refuseFrame(f *frame, r *refusal) {
	c.refused(r.reason, r.message)
	refusal := &agentv1.Refusal{Reason: r.reason, Message: r.message, Epoch: f.epoch, FirstSeq: f.first, NewEpoch: r.newEpoch}
	if len(f.records) > 0 {
		refusal.LastSeq = f.last()
	}
	c.out.say(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Refusal{Refusal: refusal}})
}

func (c *session) refused(reason, message string) {
	c.server.counts.refused.Add(1)
	var who any = "unknown"
	if c.agent != nil {
		c.agent.refused(reason+": "+message, c.server.config.Now())
		who = c.agent.id
	}
	c.server.log.Warn("refused", "agent", who, "reason", reason, "message", message)
}

// sampledTrace is the frame's trace context if anybody records that trace.
func sampledTrace(text []byte) string {
	const length = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(text) != length || text[length-1]&1 == 0 {
		return ""
	}
	return string(text)
}

func shorten(s string, limit int) string {
	runes := 0
	for i := range s {
		if runes == limit {
			return s[:i]
		}
		runes++
	}
	return s
}
