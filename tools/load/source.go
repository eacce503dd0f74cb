package load

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Source is one machine: its journal, made as it is asked for. It is not safe
// for use from several goroutines.
type Source struct {
	session Session
	rand    *rand.Rand
	ledger  *Ledger
	rules   []RuleRef

	number    int
	agent     contract.ID
	machine   contract.ID
	alias     contract.ID
	desktop   contract.ID
	boot      contract.ID
	epoch     uint64
	anchor    *usagev1.Anchor
	seq       uint64
	chain     contract.Hash
	next      int   // index into session.Events
	shift     int64 // milliseconds that the present repetition lies behind the corpus
	utcMillis int64
	instances map[string]contract.ID
	documents map[string]contract.ID
}

// RuleRef names a rule of the account's policy and the application it belongs
// to; the corpus's own rules are mapped onto these in turn.
type RuleRef struct {
	Application, Rule contract.ID
}

// SourceConfig says what a Source is made of.
type SourceConfig struct {
	// Number tells sources apart: it chooses the session of the corpus and names
	// the machine and its person.
	Number int
	// Seed and Number together decide every id.
	Seed uint64
	// StartUTCMillis is when the machine booted.
	StartUTCMillis int64
	// Ledger receives every event that was made; it may be nil.
	Ledger *Ledger
	// Rules replaces the corpus's rules; empty keeps them.
	Rules []RuleRef
}

// NewSource makes a machine with an empty journal.
func NewSource(corpus *Corpus, config SourceConfig) *Source {
	s := &Source{
		session:   corpus.Sessions[config.Number%len(corpus.Sessions)],
		rand:      rand.New(rand.NewPCG(config.Seed, uint64(config.Number))),
		ledger:    config.Ledger,
		rules:     config.Rules,
		number:    config.Number,
		instances: map[string]contract.ID{},
		documents: map[string]contract.ID{},
		utcMillis: config.StartUTCMillis,
	}
	s.agent, s.machine, s.alias, s.desktop, s.boot = s.id(), s.id(), s.id(), s.id(), s.id()
	s.epoch = max(1, s.rand.Uint64())
	s.anchor = &usagev1.Anchor{BootId: s.boot[:], UtcMillis: config.StartUTCMillis}
	s.anchor.AnchorId = contract.AnchorID(s.anchor)
	return s
}

// Agent is the id of the agent.
func (s *Source) Agent() contract.ID { return s.agent }

// Machine is the id of the machine.
func (s *Source) Machine() contract.ID { return s.machine }

// Seq is the number of the last record made; 0 before the first.
func (s *Source) Seq() uint64 { return s.seq }

// UTCMillis is when, on the machine's clock, the last record was written.
func (s *Source) UTCMillis() int64 { return s.utcMillis }

// NextUTCMillis is when, on the machine's clock, the next record is written.
func (s *Source) NextUTCMillis() int64 {
	if s.next < len(s.session.Events) {
		return s.anchor.GetUtcMillis() + s.shift + s.session.Events[s.next].GetAtBootMillis()
	}
	return s.anchor.GetUtcMillis() + s.shift + s.session.SpanMillis + s.session.Events[0].GetAtBootMillis()
}

// Hello is what the agent says first on a connection.
func (s *Source) Hello() *agentv1.Hello {
	return &agentv1.Hello{
		ProtocolVersion: 1,
		AgentId:         s.agent[:],
		MachineId:       s.machine[:],
		HostName:        fmt.Sprintf("load-%04d", s.number),
		OperatingSystem: "load generator",
		AgentVersion:    "load",
		UtcMillis:       s.utcMillis,
	}
}

// Person is who works at the machine.
func (s *Source) Person() *agentv1.Person {
	return &agentv1.Person{
		PrincipalAlias: s.alias[:],
		Domain:         "LOAD",
		UserName:       fmt.Sprintf("user%04d", s.number),
		DisplayName:    fmt.Sprintf("Load User %04d", s.number),
	}
}

// Live is a snapshot of what is open at the last record, taken at observed.
func (s *Source) Live(run, serial uint64, observedUTCMillis, validMillis int64) *usagev1.LiveSnapshot {
	snapshot := &usagev1.LiveSnapshot{
		AgentId: s.agent[:], MachineId: s.machine[:], SessionId: s.desktop[:], PrincipalAlias: s.alias[:],
		RunId: run, Serial: serial, ObservedUtcMillis: observedUTCMillis, ValidMillis: validMillis,
	}
	seen := map[string]bool{}
	for i := s.next - 1; i >= 0; i-- {
		event := s.session.Events[i]
		if len(event.GetDocumentId()) > 0 || seen[string(event.GetInstanceId())] {
			continue
		}
		seen[string(event.GetInstanceId())] = true
		if event.GetTransition() == usagev1.Transition_TRANSITION_CLOSED {
			continue
		}
		instance := s.instances[string(event.GetInstanceId())]
		ref := s.rule(event)
		snapshot.Open = append(snapshot.Open, &usagev1.OpenInstance{
			InstanceId: instance[:], ApplicationId: ref.Application[:], RuleId: ref.Rule[:],
			Attention: event.GetAttention(), State: event.GetState(),
			SinceUtcMillis: observedUTCMillis, OpenedUtcMillis: observedUTCMillis,
		})
	}
	return snapshot
}

// Next makes the next n records, at most contract.MaxFrameRecords, and the
// frame that carries them.
func (s *Source) Next(n int) (*usagev1.Frame, error) {
	n = min(n, contract.MaxFrameRecords)
	frame := &usagev1.Frame{
		AgentId:     s.agent[:],
		Epoch:       s.epoch,
		Lane:        usagev1.Lane_LANE_USAGE,
		FirstSeq:    s.seq + 1,
		Records:     make([][]byte, 0, n),
		ChainBefore: slices.Clone(s.chain[:]),
		Anchors:     []*usagev1.Anchor{s.anchor},
		MachineId:   s.machine[:],
	}
	for range n {
		event := s.event()
		record, err := proto.Marshal(&usagev1.Record{Fact: &usagev1.Record_Usage{Usage: event}})
		if err != nil {
			return nil, fmt.Errorf("load: making a record: %w", err)
		}
		if s.ledger != nil {
			s.ledger.Add(event)
		}
		s.chain = contract.Chain(s.chain, record)
		frame.Records = append(frame.Records, record)
	}
	frame.ChainAfter = slices.Clone(s.chain[:])
	return frame, nil
}

// event is the next event of the corpus, as this machine's own.
func (s *Source) event() *usagev1.UsageEvent {
	if s.next == len(s.session.Events) {
		s.next = 0
		s.shift += s.session.SpanMillis
		clear(s.instances)
		clear(s.documents)
	}
	event := proto.CloneOf(s.session.Events[s.next])
	s.next++
	s.seq++
	event.SchemaVersion = 1
	event.AgentId = s.agent[:]
	event.Epoch = s.epoch
	event.Seq = s.seq
	event.SourceKind = usagev1.SourceKind_SOURCE_KIND_AGENT
	event.BootId = s.boot[:]
	event.AnchorId = s.anchor.GetAnchorId()
	event.PrincipalAlias = s.alias[:]
	event.SessionId = s.desktop[:]
	ref := s.rule(event)
	event.ApplicationId, event.RuleId = ref.Application[:], ref.Rule[:]
	event.InstanceId = s.own(s.instances, event.GetInstanceId())
	if len(event.GetDocumentId()) > 0 {
		event.DocumentId = s.own(s.documents, event.GetDocumentId())
	}
	event.AtBootMillis += s.shift
	if closed := event.GetClosed(); closed != nil {
		closed.FromBootMillis += s.shift
		closed.ToBootMillis += s.shift
	}
	s.utcMillis = s.anchor.GetUtcMillis() + event.GetAtBootMillis()
	event.EventId = s.eventID()
	return event
}

// rule maps a rule of the corpus onto one of the account's.
func (s *Source) rule(event *usagev1.UsageEvent) RuleRef {
	if len(s.rules) == 0 {
		var ref RuleRef
		copy(ref.Application[:], event.GetApplicationId())
		copy(ref.Rule[:], event.GetRuleId())
		return ref
	}
	return s.rules[int(event.GetApplicationId()[0])%len(s.rules)]
}

func (s *Source) own(ids map[string]contract.ID, theirs []byte) []byte {
	id, known := ids[string(theirs)]
	if !known {
		id = s.id()
		ids[string(theirs)] = id
	}
	return id[:]
}

func (s *Source) id() contract.ID {
	var id contract.ID
	binary.BigEndian.PutUint64(id[:8], s.rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], s.rand.Uint64())
	return id
}

// eventID is a UUIDv7 at the machine's time.
func (s *Source) eventID() []byte {
	id := s.id()
	binary.BigEndian.PutUint64(id[:8], uint64(s.utcMillis)<<16|0x7000|uint64(id[6]&0x0f)<<8|uint64(id[7]))
	id[8] = id[8]&0x3f | 0x80
	return id[:]
}
