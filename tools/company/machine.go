package company

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

type machineKind int

const (
	machineOwn machineKind = iota
	machineSecond
	machineShared
	machineServer
)

// machine is one, with its agent.
type machine struct {
	number    int
	kind      machineKind
	laptop    bool
	random    *rand.Rand
	id, agent contract.ID
	site      int
	users     []*user

	// boots counts restarts of the machine; boot is the last of them, that began at bootUTC.
	boots   int
	boot    contract.ID
	bootUTC int64
	// last is when the last happened that is in the journal.
	last int64
	// anchors are those of the boot, the last one holds.
	anchors []*usagev1.Anchor
	epoch   uint64
	seq     uint64
	chain   contract.Hash
	visits  int
	pending []happening
	// silentUntil is the day until which nothing of it comes.
	silentUntil int
}

// user is a person at a machine.
type user struct {
	alias, principal, session contract.ID
	boots                     int
	until                     int64
}

func (c *Company) newMachine(kind machineKind) *machine {
	n := len(c.machines)
	m := &machine{number: n, kind: kind, random: c.random(kindMachine, n), site: n % sites}
	m.id, m.agent, m.epoch = newID(m.random), newID(m.random), max(1, m.random.Uint64())
	c.machines = append(c.machines, m)
	return m
}

// user is who somebody is on the machine.
func (m *machine) user(p *person, principal contract.ID) *user {
	for _, u := range m.users {
		if u.principal == principal {
			return u
		}
	}
	u := &user{alias: newID(p.random), principal: principal}
	m.users = append(m.users, u)
	return u
}

// silentDays is for how long a laptop may be away.
const silentDays = 40

// begin begins a day: some machines are started anew, and some laptops go on a journey.
func (m *machine) begin(day int) {
	if len(m.pending) == 0 && (m.boot.IsZero() || m.random.IntN(3) > 0) {
		m.boots++
		m.boot = contract.ID{} // from what happens next on
		if m.random.IntN(60) == 0 {
			// The agent was installed anew, or its journal was lost.
			m.epoch, m.seq, m.chain = max(1, m.random.Uint64()), 0, contract.Hash{}
		}
	}
	if m.laptop && day >= m.silentUntil && m.random.IntN(70) == 0 {
		m.silentUntil = day + 3 + m.random.IntN(silentDays)
	}
}

// Delivery is a frame as a Manager hands it on.
type Delivery struct {
	Manager contract.ID
	Frame   *usagev1.ReceivedFrame
	// Events is how many are in it.
	Events int
}

// unbound says that no binding of aliases comes before half of the days have passed: the platform does
// not know whose use it is until then.
func (m *machine) unbound(day, days int) bool { return m.number%11 == 5 && day < days/2 }

// maxRecords is of a frame.
const maxRecords = 500

// journal writes what happened on a machine before a moment, and sends it on its way.
func (c *Company) journal(m *machine, day int, until int64) error {
	n, _ := slices.BinarySearchFunc(m.pending, until, func(h happening, until int64) int { return int(min(1, max(-1, h.at-until))) })
	told := m.pending[:n]
	m.pending = slices.Clone(m.pending[n:])
	if n == 0 {
		return nil
	}
	m.start(told[0].at)
	m.last = told[n-1].at
	var bindings []*usagev1.PrincipalBinding
	for _, u := range m.users {
		bindings = append(bindings, &usagev1.PrincipalBinding{PrincipalAlias: u.alias[:], PrincipalId: u.principal[:]})
	}
	for part := range slices.Chunk(told, maxRecords) {
		frame, err := c.frame(m, part)
		if err != nil {
			return err
		}
		d := Delivery{Manager: c.managers[m.site], Frame: &usagev1.ReceivedFrame{Frame: frame}, Events: len(part)}
		if !m.unbound(day, c.config.Days) {
			d.Frame.Bindings = bindings
		}
		arrives := day
		if m.silentUntil > day {
			arrives = m.silentUntil
			if m.random.IntN(4) == 0 { // through another Manager, before the rest
				arrives -= m.random.IntN(m.silentUntil - day)
				d.Manager = c.managers[(m.site+1)%sites]
			}
		}
		c.coming[arrives] = append(c.coming[arrives], d)
		if m.random.IntN(50) == 0 { // nobody heard the acknowledgement
			again := d
			again.Frame = proto.CloneOf(d.Frame)
			again.Manager = c.managers[(m.site+2)%sites]
			arrives += m.random.IntN(5)
			c.coming[arrives] = append(c.coming[arrives], again)
		}
	}
	return nil
}

// start sees to it that the machine runs, and its clock is known.
func (m *machine) start(at int64) {
	if m.boot.IsZero() {
		m.boot, m.anchors = newID(m.random), nil
		m.bootUTC = min(at, max(m.last, at-1-m.random.Int64N(5*minute)))
	}
	if n := len(m.anchors); n == 0 || m.random.IntN(4) == 0 {
		// A new anchor says the same of a clock that goes well.
		a := &usagev1.Anchor{BootId: m.boot[:], BootMillis: at - m.bootUTC, UtcMillis: at, ZoneOffsetSeconds: int32(m.random.IntN(3)) * 3600}
		a.AnchorId = contract.AnchorID(a)
		m.anchors = append(m.anchors, a)
	}
}

// frame makes records of what happened.
func (c *Company) frame(m *machine, told []happening) ([]byte, error) {
	anchor := m.anchors[len(m.anchors)-1]
	frame := &usagev1.Frame{
		AgentId: m.agent[:], Epoch: m.epoch, Lane: usagev1.Lane_LANE_USAGE, FirstSeq: m.seq + 1,
		ChainBefore: slices.Clone(m.chain[:]), Anchors: []*usagev1.Anchor{anchor}, MachineId: m.id[:],
	}
	event, closed := &usagev1.UsageEvent{}, &usagev1.Interval{}
	for i := range told {
		h := &told[i]
		application := c.config.Applications[h.of.application]
		m.seq++
		id := m.eventID(h.at)
		*event = usagev1.UsageEvent{
			SchemaVersion: 1, AgentId: m.agent[:], Epoch: m.epoch, Seq: m.seq, EventId: id[:], SourceKind: usagev1.SourceKind_SOURCE_KIND_AGENT,
			BootId: m.boot[:], AnchorId: anchor.GetAnchorId(), RuleId: application[:], ApplicationId: application[:], PolicyRevision: 1,
			PrincipalAlias: h.of.alias[:], SessionId: h.of.session[:], InstanceId: h.of.instance[:],
			Transition: h.transition, Attention: h.attention, State: h.state, AtBootMillis: h.at - m.bootUTC, Reason: h.reason,
		}
		if !h.of.document.IsZero() {
			event.DocumentId = h.of.document[:]
			event.DocumentSource, event.DocumentConfidence = usagev1.DocumentSource_DOCUMENT_SOURCE_TITLE, usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_MEDIUM
		}
		if h.closes {
			*closed = usagev1.Interval{
				Attention: h.closedAttention, State: h.closedState, Reason: h.closedReason,
				FromBootMillis: h.from - m.bootUTC, ToBootMillis: h.at - m.bootUTC,
			}
			event.Closed = closed
		}
		record, err := proto.Marshal(&usagev1.Record{Fact: &usagev1.Record_Usage{Usage: event}})
		if err != nil {
			return nil, fmt.Errorf("making a record: %w", err)
		}
		m.chain = contract.Chain(m.chain, record)
		frame.Records = append(frame.Records, record)
	}
	frame.ChainAfter = slices.Clone(m.chain[:])
	data, err := proto.Marshal(frame)
	if err != nil {
		return nil, fmt.Errorf("making a frame: %w", err)
	}
	return data, nil
}

// eventID is a UUIDv7 at a moment.
func (m *machine) eventID(at int64) contract.ID {
	id := newID(m.random)
	binary.BigEndian.PutUint64(id[:8], uint64(at)<<16|0x7000|uint64(id[6]&0x0f)<<8|uint64(id[7]))
	return id
}
