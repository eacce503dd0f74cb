package uplinktest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Faults says how often, in a thousand, what goes wrong.
type Faults struct {
	// CutBefore ends the connection when a frame comes, before it is kept.
	CutBefore int
	// CutAfter ends it when the frame is kept and not yet acknowledged.
	CutAfter int
	// DropAck forgets an acknowledgement.
	DropAck int
	// RepeatAck sends one twice.
	RepeatAck int
	// DelayAck keeps one back and sends it later, out of order.
	DelayAck int
	// SplitAck acknowledges a frame in two parts.
	SplitAck int
	// Throttle asks for a pause.
	Throttle int
}

// Key names one journal.
type Key struct {
	Agent contract.ID
	Epoch uint64
	Lane  usagev1.Lane
}

// Manager is a Manager in memory. Its methods may be called from anywhere.
type Manager struct {
	agentv1.UnimplementedAgentServiceServer

	id       contract.ID
	server   *grpc.Server
	listener net.Listener
	serving  sync.WaitGroup

	mu       sync.Mutex
	random   *rand.Rand
	faults   Faults
	injected map[string]int
	records  map[Key]map[uint64][]byte
	chain    map[Key]map[uint64]contract.Hash // after each seq that ends a frame
	problems []error
	live     []*usagev1.LiveSnapshot
	health   []*agentv1.Health
	seen     []*usagev1.SightingReport
	labels   map[contract.ID]string
	persons  map[string]*agentv1.Person
	hellos   []*agentv1.Hello
	policy   *policyv1.Policy
	managers []string
	refuse   *agentv1.Refusal // the next frame, or the next hello where it names no record
	refused  map[Key]bool
	changed  chan struct{}
	open     map[*connection]struct{}
}

type connection struct {
	stream  grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]
	sending sync.Mutex
	known   uint64 // policy revision
	late    []*agentv1.Acknowledgement
	persons map[string]bool
	cut     chan struct{}
	cutOnce sync.Once
}

// New starts a Manager on a free port of the loopback. Stop ends it.
func New(seed uint64) (*Manager, error) { return Listen("127.0.0.1:0", seed) }

// Listen starts a Manager on an address.
func Listen(address string, seed uint64) (*Manager, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("uplinktest: listen on %s: %w", address, err)
	}
	m := &Manager{
		listener: listener,
		server:   grpc.NewServer(grpc.MaxRecvMsgSize(2 * contract.MaxFrameBytes)),
		random:   rand.New(rand.NewPCG(seed, seed)),
		injected: make(map[string]int),
		records:  make(map[Key]map[uint64][]byte),
		chain:    make(map[Key]map[uint64]contract.Hash),
		labels:   make(map[contract.ID]string),
		persons:  make(map[string]*agentv1.Person),
		refused:  make(map[Key]bool),
		changed:  make(chan struct{}),
		open:     make(map[*connection]struct{}),
	}
	for i := range m.id {
		m.id[i] = byte(m.random.Uint32())
	}
	agentv1.RegisterAgentServiceServer(m.server, m)
	m.serving.Go(func() { _ = m.server.Serve(listener) })
	return m, nil
}

// Address is where agents reach it.
func (m *Manager) Address() string { return m.listener.Addr().String() }

// Stop ends all connections and the server.
func (m *Manager) Stop() {
	m.server.Stop()
	m.serving.Wait()
}

// SetFaults changes what goes wrong from now on.
func (m *Manager) SetFaults(f Faults) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = f
}

// Injected counts the faults by their names.
func (m *Manager) Injected() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.injected)
}

// SetPolicy sends a policy to the agents that do not have it yet.
func (m *Manager) SetPolicy(p *policyv1.Policy) {
	m.mu.Lock()
	m.policy = p
	connections := slices.Collect(maps.Keys(m.open))
	m.mu.Unlock()
	for _, c := range connections {
		m.sendPolicy(c)
	}
}

// SetManagers names the Managers to go to, to whoever is connected or comes.
func (m *Manager) SetManagers(addresses ...string) {
	m.mu.Lock()
	m.managers = addresses
	connections := slices.Collect(maps.Keys(m.open))
	m.mu.Unlock()
	for _, c := range connections {
		m.sendManagers(c)
	}
}

func (m *Manager) sendManagers(c *connection) {
	m.mu.Lock()
	managers := m.managers
	m.mu.Unlock()
	if len(managers) > 0 {
		_ = c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Managers{Managers: &agentv1.ManagerAddresses{Addresses: managers}}})
	}
}

// Refuse answers the next frame, or the next hello where it names no epoch and
// asks for none, with a refusal. The records and the epoch are filled in.
func (m *Manager) Refuse(r *agentv1.Refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = r
}

// CutAll ends every connection at once.
func (m *Manager) CutAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.open {
		c.end()
	}
}

// Records gives what was kept of each journal, by sequence number.
func (m *Manager) Records() map[Key]map[uint64][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[Key]map[uint64][]byte, len(m.records))
	for k, r := range m.records {
		all[k] = maps.Clone(r)
	}
	return all
}

// Usage gives the usage events kept, of all epochs, in the order of (epoch as
// first seen, seq).
func (m *Manager) Usage() []*usagev1.UsageEvent {
	var events []*usagev1.UsageEvent
	for key, records := range m.Records() {
		if key.Lane != usagev1.Lane_LANE_USAGE {
			continue
		}
		for _, seq := range slices.Sorted(maps.Keys(records)) {
			record := new(usagev1.Record)
			if proto.Unmarshal(records[seq], record) == nil && record.GetUsage() != nil {
				events = append(events, record.GetUsage())
			}
		}
	}
	return events
}

// Choices gives the choices kept, of all epochs.
func (m *Manager) Choices() []*usagev1.Choice {
	var choices []*usagev1.Choice
	for key, records := range m.Records() {
		if key.Lane != usagev1.Lane_LANE_CHOICE {
			continue
		}
		for _, seq := range slices.Sorted(maps.Keys(records)) {
			record := new(usagev1.Record)
			if proto.Unmarshal(records[seq], record) == nil && record.GetChoice() != nil {
				choices = append(choices, record.GetChoice())
			}
		}
	}
	return choices
}

// Count is how many records are kept.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, r := range m.records {
		n += len(r)
	}
	return n
}

// Problems are breaches of the contract that were seen.
func (m *Manager) Problems() []error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.problems)
}

// Live are the snapshots that came, in their order.
func (m *Manager) Live() []*usagev1.LiveSnapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.live)
}

// Health are the reports that came, in their order.
func (m *Manager) Health() []*agentv1.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.health)
}

// Sightings are the reports that came, in their order.
func (m *Manager) Sightings() []*usagev1.SightingReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.seen)
}

// Labels are the names of documents that came.
func (m *Manager) Labels() map[contract.ID]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.labels)
}

// Persons are the people that agents have told of, by their aliases.
func (m *Manager) Persons() map[string]*agentv1.Person {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.persons)
}

// Hellos are the greetings that came, in their order.
func (m *Manager) Hellos() []*agentv1.Hello {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.hellos)
}

// Changed is closed when something comes next.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Connect implements agentv1.AgentServiceServer.
func (m *Manager) Connect(stream grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		m.problem(errors.New("a connection did not begin with a hello"))
		return status.Error(codes.FailedPrecondition, "say hello first")
	}
	c := &connection{stream: stream, known: hello.GetPolicyRevision(), persons: make(map[string]bool), cut: make(chan struct{})}
	m.mu.Lock()
	m.hellos = append(m.hellos, hello)
	m.touch()
	refusal := m.refuse
	if refusal != nil && refusal.GetEpoch() == 0 && !refusal.GetNewEpoch() && refusal.GetFirstSeq() == 0 {
		m.refuse = nil
	} else {
		refusal = nil
	}
	m.open[c] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.open, c)
	}()
	if refusal != nil {
		return c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Refusal{Refusal: refusal}})
	}
	if err := c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{
		ManagerId: m.id[:], AccountId: make([]byte, 16), UtcMillis: time.Now().UnixMilli(),
	}}}); err != nil {
		return err
	}
	m.sendPolicy(c)
	m.sendManagers(c)
	requests := make(chan error, 1)
	go func() { requests <- m.receive(c) }()
	select {
	case err := <-requests:
		return err
	case <-c.cut:
		return status.Error(codes.Unavailable, "cut")
	}
}

func (c *connection) end() { c.cutOnce.Do(func() { close(c.cut) }) }

func (c *connection) send(r *agentv1.ConnectResponse) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(r)
}

func (m *Manager) sendPolicy(c *connection) {
	m.mu.Lock()
	policy := m.policy
	send := policy != nil && policy.GetRevision() > c.known
	if send {
		c.known = policy.GetRevision()
	}
	m.mu.Unlock()
	if send {
		_ = c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Policy{Policy: policy}})
	}
}

func (m *Manager) receive(c *connection) error {
	for {
		request, err := c.stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // The agent may leave as it likes.
		}
		switch r := request.GetMessage().(type) {
		case *agentv1.ConnectRequest_Frame:
			if err := m.frame(c, r.Frame); err != nil {
				return err
			}
		case *agentv1.ConnectRequest_Live:
			m.mu.Lock()
			m.live = append(m.live, r.Live)
			m.touch()
			m.mu.Unlock()
		case *agentv1.ConnectRequest_Person:
			c.persons[string(r.Person.GetPrincipalAlias())] = true
			m.mu.Lock()
			m.persons[string(r.Person.GetPrincipalAlias())] = r.Person
			m.mu.Unlock()
		case *agentv1.ConnectRequest_Health:
			m.mu.Lock()
			m.health = append(m.health, r.Health)
			m.touch()
			m.mu.Unlock()
		case *agentv1.ConnectRequest_Sightings:
			m.mu.Lock()
			m.seen = append(m.seen, r.Sightings)
			m.touch()
			m.mu.Unlock()
		case *agentv1.ConnectRequest_Label:
			id, err := contract.IDFrom(r.Label.GetDocumentId())
			if err != nil {
				m.problem(err)
				continue
			}
			m.mu.Lock()
			m.labels[id] = r.Label.GetName()
			m.touch()
			m.mu.Unlock()
			if err := c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_LabelAcknowledgement{
				LabelAcknowledgement: &agentv1.LabelAcknowledgement{DocumentId: id[:]},
			}}); err != nil {
				return err
			}
		case *agentv1.ConnectRequest_Hello:
			m.problem(errors.New("a second hello on one connection"))
		}
	}
}

// happens decides whether a fault happens, and counts it.
func (m *Manager) happens(name string, inThousand int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.random.IntN(1000) >= inThousand {
		return false
	}
	m.injected[name]++
	return true
}

func (m *Manager) frame(c *connection, f *usagev1.Frame) error {
	m.mu.Lock()
	faults := m.faults
	m.mu.Unlock()
	if m.happens("cut before", faults.CutBefore) {
		return status.Error(codes.Unavailable, "cut before")
	}
	agent, err := contract.IDFrom(f.GetAgentId())
	if err != nil {
		m.problem(err)
	}
	key := Key{Agent: agent, Epoch: f.GetEpoch(), Lane: f.GetLane()}
	first, last := f.GetFirstSeq(), f.GetFirstSeq()+uint64(len(f.GetRecords()))-1
	m.mu.Lock()
	refusal := m.refuse
	if refusal != nil {
		m.refuse = nil
		refusal = proto.CloneOf(refusal)
		refusal.Epoch, refusal.FirstSeq, refusal.LastSeq = f.GetEpoch(), first, last
		m.refused[key] = refusal.GetNewEpoch()
	}
	late := m.refused[key] // what was under way in an epoch that is over
	m.mu.Unlock()
	if refusal != nil {
		return c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Refusal{Refusal: refusal}})
	}
	if late {
		return nil
	}
	m.keep(c, key, f)
	if m.happens("cut after", faults.CutAfter) {
		return status.Error(codes.Unavailable, "cut after")
	}
	if m.happens("throttle", faults.Throttle) {
		if err := c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Throttle{Throttle: &agentv1.Throttle{PauseMillis: 5, Reason: "test"}}}); err != nil {
			return err
		}
	}
	return m.acknowledge(c, faults, &agentv1.Acknowledgement{Epoch: f.GetEpoch(), FirstSeq: first, LastSeq: last})
}

func (m *Manager) acknowledge(c *connection, faults Faults, a *agentv1.Acknowledgement) error {
	acks := []*agentv1.Acknowledgement{a}
	switch {
	case m.happens("ack dropped", faults.DropAck):
		return nil
	case m.happens("ack delayed", faults.DelayAck):
		c.late = append(c.late, a)
		return nil
	case m.happens("ack repeated", faults.RepeatAck):
		acks = append(acks, a)
	case a.GetLastSeq() > a.GetFirstSeq() && m.happens("ack split", faults.SplitAck):
		middle := a.GetFirstSeq() + (a.GetLastSeq()-a.GetFirstSeq())/2
		acks = []*agentv1.Acknowledgement{
			{Epoch: a.GetEpoch(), FirstSeq: middle + 1, LastSeq: a.GetLastSeq()},
			{Epoch: a.GetEpoch(), FirstSeq: a.GetFirstSeq(), LastSeq: middle},
		}
	}
	acks = append(acks, c.late...)
	c.late = nil
	for _, a := range acks {
		if err := c.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Acknowledgement{Acknowledgement: a}}); err != nil {
			return err
		}
	}
	return nil
}

// keep checks a frame and keeps its records.
func (m *Manager) keep(c *connection, key Key, f *usagev1.Frame) {
	if proto.Size(f) > contract.MaxFrameBytes || len(f.GetRecords()) == 0 || len(f.GetRecords()) > contract.MaxFrameRecords {
		m.problem(fmt.Errorf("a frame of %d records and %d bytes", len(f.GetRecords()), proto.Size(f)))
	}
	if len(f.GetMachineId()) != 16 {
		m.problem(fmt.Errorf("a frame with a machine id of %d bytes", len(f.GetMachineId())))
	}
	var hash contract.Hash
	copy(hash[:], f.GetChainBefore())
	anchors := make(map[uint64]bool)
	for _, a := range f.GetAnchors() {
		anchors[a.GetAnchorId()] = a.GetAnchorId() == contract.AnchorID(a)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.touch()
	if m.records[key] == nil {
		m.records[key] = make(map[uint64][]byte)
		m.chain[key] = make(map[uint64]contract.Hash)
	}
	before := f.GetFirstSeq() - 1
	if known, ok := m.chain[key][before]; ok && known != hash || before == 0 && hash != (contract.Hash{}) {
		m.problems = append(m.problems, fmt.Errorf("%v: the chain before %d is another than it was", key, f.GetFirstSeq()))
	}
	for i, raw := range f.GetRecords() {
		seq := f.GetFirstSeq() + uint64(i)
		hash = contract.Chain(hash, raw)
		if was, ok := m.records[key][seq]; ok && !bytes.Equal(was, raw) {
			m.problems = append(m.problems, fmt.Errorf("%v: record %d comes with two contents", key, seq))
		}
		m.records[key][seq] = raw
		record := new(usagev1.Record)
		if err := proto.Unmarshal(raw, record); err != nil {
			m.problems = append(m.problems, fmt.Errorf("%v: record %d: %w", key, seq, err))
			continue
		}
		if choice := record.GetChoice(); choice != nil {
			if choice.GetSeq() != seq || choice.GetEpoch() != key.Epoch || !bytes.Equal(choice.GetAgentId(), key.Agent[:]) || !anchors[choice.GetAnchorId()] || !c.persons[string(choice.GetPrincipalAlias())] {
				m.problems = append(m.problems, fmt.Errorf("%v: the choice %d is another's, or its anchor or person is missing", key, seq))
			}
		}
		if u := record.GetUsage(); u != nil {
			if u.GetSeq() != seq || u.GetEpoch() != key.Epoch || !bytes.Equal(u.GetAgentId(), key.Agent[:]) {
				m.problems = append(m.problems, fmt.Errorf("%v: record %d calls itself (%x, %d, %d)", key, seq, u.GetAgentId(), u.GetEpoch(), u.GetSeq()))
			}
			if !c.persons[string(u.GetPrincipalAlias())] {
				m.problems = append(m.problems, fmt.Errorf("%v: record %d came before its person", key, seq))
			}
			if !anchors[u.GetAnchorId()] {
				m.problems = append(m.problems, fmt.Errorf("%v: record %d names an anchor that the frame lacks", key, seq))
			}
		}
	}
	if !bytes.Equal(hash[:], f.GetChainAfter()) {
		m.problems = append(m.problems, fmt.Errorf("%v: the chain after %d does not fit", key, before+uint64(len(f.GetRecords()))))
	}
	m.chain[key][before+uint64(len(f.GetRecords()))] = hash
}

func (m *Manager) problem(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problems = append(m.problems, err)
	m.touch()
}

// touch tells those who wait on Changed; mu is held.
func (m *Manager) touch() {
	close(m.changed)
	m.changed = make(chan struct{})
}
