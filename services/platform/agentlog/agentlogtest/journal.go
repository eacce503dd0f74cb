// Package agentlogtest writes what agents and Managers write, for the tests of
// those who read it: journals whose chains hold, and batches of their frames.
package agentlogtest

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/projection"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// ID draws an id.
func ID(rnd *rand.Rand) (id contract.ID) {
	binary.BigEndian.PutUint64(id[:8], rnd.Uint64())
	binary.BigEndian.PutUint64(id[8:], rnd.Uint64()|1)
	return id
}

// Journal is an agent's journal of one lane.
type Journal struct {
	Agent, Machine, Boot contract.ID
	Epoch                uint64
	Lane                 usagev1.Lane
	Anchor               *usagev1.Anchor
	// Records are the serialized records, record i has the sequence number i+1.
	Records [][]byte
	links   []contract.Hash // links[i] is the link before record i
}

// NewJournal makes a journal whose boot timeline began at booted.
func NewJournal(rnd *rand.Rand, booted time.Time) *Journal {
	j := &Journal{Agent: ID(rnd), Machine: ID(rnd), Boot: ID(rnd), Epoch: rnd.Uint64() | 1, Lane: usagev1.Lane_LANE_USAGE, links: make([]contract.Hash, 1)}
	j.Anchor = &usagev1.Anchor{BootId: j.Boot[:], BootMillis: 0, UtcMillis: booted.UnixMilli(), ZoneOffsetSeconds: 3600}
	j.Anchor.AnchorId = contract.AnchorID(j.Anchor)
	return j
}

// Fork makes a journal with the same key and the same first n records.
func (j *Journal) Fork(n int) *Journal {
	f := *j
	f.Records = append([][]byte(nil), j.Records[:n]...)
	f.links = append([]contract.Hash(nil), j.links[:n+1]...)
	return &f
}

// Renew makes the journal that an agent goes on with in a new epoch: the records
// from a sequence number on, which nobody has acknowledged, under new keys.
func (j *Journal) Renew(rnd *rand.Rand, from uint64) *Journal {
	n := *j
	n.Epoch, n.Records, n.links = rnd.Uint64()|1, nil, make([]contract.Hash, 1)
	for _, b := range j.Records[from-1:] {
		var r usagev1.Record
		if err := proto.Unmarshal(b, &r); err != nil {
			panic(err)
		}
		switch f := r.GetFact().(type) {
		case *usagev1.Record_Usage:
			f.Usage.Epoch, f.Usage.Seq = n.Epoch, n.Next()
		case *usagev1.Record_Choice:
			f.Choice.Epoch, f.Choice.Seq = n.Epoch, n.Next()
		}
		n.append(&r)
	}
	return &n
}

// Next is the sequence number of the record that is appended next.
func (j *Journal) Next() uint64 { return uint64(len(j.Records)) + 1 }

// AppendUsage appends a usage event, having set its key, boot and anchor.
func (j *Journal) AppendUsage(e *usagev1.UsageEvent) {
	e.SchemaVersion, e.SourceKind = max(1, e.GetSchemaVersion()), usagev1.SourceKind_SOURCE_KIND_AGENT
	e.AgentId, e.Epoch, e.Seq = j.Agent[:], j.Epoch, j.Next()
	e.BootId, e.AnchorId = j.Boot[:], j.Anchor.GetAnchorId()
	j.append(&usagev1.Record{Fact: &usagev1.Record_Usage{Usage: e}})
}

// AppendChoice appends a choice, having set its key, boot and anchor.
func (j *Journal) AppendChoice(c *usagev1.Choice) {
	c.SchemaVersion, c.SourceKind = 1, usagev1.SourceKind_SOURCE_KIND_AGENT
	c.AgentId, c.Epoch, c.Seq = j.Agent[:], j.Epoch, j.Next()
	c.BootId, c.AnchorId = j.Boot[:], j.Anchor.GetAnchorId()
	j.append(&usagev1.Record{Fact: &usagev1.Record_Choice{Choice: c}})
}

func (j *Journal) append(r *usagev1.Record) {
	b, err := proto.Marshal(r)
	if err != nil {
		panic(err)
	}
	j.AppendRaw(b)
}

// AppendRaw appends a record as it is.
func (j *Journal) AppendRaw(b []byte) {
	j.Records = append(j.Records, b)
	j.links = append(j.links, contract.Chain(j.links[len(j.links)-1], b))
}

// Frame is the frame of the records first to last, both included.
func (j *Journal) Frame(first, last uint64) *usagev1.Frame {
	before, after := j.links[first-1], j.links[last]
	return &usagev1.Frame{
		AgentId: j.Agent[:], Epoch: j.Epoch, Lane: j.Lane, FirstSeq: first, Records: j.Records[first-1 : last],
		ChainBefore: before[:], ChainAfter: after[:], Anchors: []*usagev1.Anchor{j.Anchor}, MachineId: j.Machine[:],
	}
}

// Received is a frame as a Manager forwards it.
func Received(f *usagev1.Frame, bindings ...*usagev1.PrincipalBinding) *usagev1.ReceivedFrame {
	b, err := proto.Marshal(f)
	if err != nil {
		panic(err)
	}
	return &usagev1.ReceivedFrame{Frame: b, Bindings: bindings}
}

// Message is a batch of frames as it lies in the stream.
func Message(position uint64, stored time.Time, lane usagev1.Lane, batch *usagev1.AgentBatch) projection.Message {
	data, err := proto.Marshal(batch)
	if err != nil {
		panic(err)
	}
	return projection.Message{
		Subject:  contract.AgentSubject(contract.ID(batch.GetAccountId()), contract.ID(batch.GetManagerId()), lane),
		Position: position, Stored: stored, Data: data,
		Header: projection.Header{contract.HeaderType: {contract.AgentBatchType}},
	}
}

// Person is one person with one open instance, who writes plausible events.
type Person struct {
	Alias, Session, Instance, Application, Rule contract.ID
	at                                          int64 // boot milliseconds
	attention                                   usagev1.Attention
	opened                                      bool
}

// NewPerson draws a person who sits down at a moment of the boot timeline.
func NewPerson(rnd *rand.Rand, atBootMillis int64) *Person {
	return &Person{Alias: ID(rnd), Session: ID(rnd), Instance: ID(rnd), Application: ID(rnd), Rule: ID(rnd), at: atBootMillis}
}

// Next is the person's next event: opened, then busy and in the background by
// turns, some seconds each.
func (p *Person) Next(rnd *rand.Rand) *usagev1.UsageEvent {
	e := &usagev1.UsageEvent{
		EventId: eventID(rnd), RuleId: p.Rule[:], ApplicationId: p.Application[:], PolicyRevision: 7,
		PrincipalAlias: p.Alias[:], SessionId: p.Session[:], InstanceId: p.Instance[:],
		Transition: usagev1.Transition_TRANSITION_CHANGED,
	}
	from := p.at
	if p.opened {
		p.at += 1000 + rnd.Int64N(600_000)
		e.Closed = &usagev1.Interval{Attention: p.attention, State: stateOf(p.attention), FromBootMillis: from, ToBootMillis: p.at}
		p.attention = usagev1.Attention_ATTENTION_BUSY + usagev1.Attention_ATTENTION_BACKGROUND - p.attention
	} else {
		p.opened, p.attention = true, usagev1.Attention_ATTENTION_BACKGROUND
		e.Transition = usagev1.Transition_TRANSITION_OPENED
	}
	e.AtBootMillis, e.Attention, e.State = p.at, p.attention, stateOf(p.attention)
	return e
}

func eventID(rnd *rand.Rand) []byte {
	id := ID(rnd)
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id[:]
}

func stateOf(a usagev1.Attention) usagev1.State {
	if a == usagev1.Attention_ATTENTION_BUSY {
		return usagev1.State_STATE_ACTIVE
	}
	return usagev1.State_STATE_INACTIVE
}
