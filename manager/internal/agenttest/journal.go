package agenttest

import (
	"encoding/binary"
	"math/rand/v2"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Journal is one lane's journal of a played agent.
type Journal struct {
	Agent, Machine, Alias contract.ID
	Epoch                 uint64
	Lane                  usagev1.Lane
	Anchor                *usagev1.Anchor

	random *rand.Rand
	next   uint64
	link   contract.Hash
	clock  int64
}

// NewJournal begins a journal; the same random source makes the same one.
func NewJournal(random *rand.Rand) *Journal {
	j := &Journal{random: random, Lane: usagev1.Lane_LANE_USAGE, next: 1, clock: 60_000}
	j.Agent, j.Machine, j.Alias = RandomID(random), RandomID(random), RandomID(random)
	j.Epoch = random.Uint64() | 1
	boot := RandomID(random)
	j.Anchor = &usagev1.Anchor{BootId: boot[:], BootMillis: 1000, UtcMillis: 1_790_000_000_000, ZoneOffsetSeconds: 3600}
	j.Anchor.AnchorId = contract.AnchorID(j.Anchor)
	return j
}

// RandomID draws an id.
func RandomID(random *rand.Rand) contract.ID {
	var id contract.ID
	binary.LittleEndian.PutUint64(id[:8], random.Uint64())
	binary.LittleEndian.PutUint64(id[8:], random.Uint64())
	return id
}

// NewEpoch begins a new epoch, as an agent does that was told to.
func (j *Journal) NewEpoch() {
	j.Epoch, j.next, j.link = j.random.Uint64()|1, 1, contract.Hash{}
}

// Frame appends so many records and returns the frame that carries them.
func (j *Journal) Frame(records int) *usagev1.Frame {
	f := &usagev1.Frame{
		AgentId: j.Agent[:], MachineId: j.Machine[:], Epoch: j.Epoch, Lane: j.Lane, FirstSeq: j.next,
		ChainBefore: append([]byte(nil), j.link[:]...), Anchors: []*usagev1.Anchor{j.Anchor},
	}
	for range records {
		record := j.record()
		j.link = contract.Chain(j.link, record)
		j.next++
		f.Records = append(f.Records, record)
	}
	f.ChainAfter = append([]byte(nil), j.link[:]...)
	return f
}

func (j *Journal) record() []byte {
	from := j.clock
	j.clock += 1000 + j.random.Int64N(60_000)
	event, rule, application, session, instance := RandomID(j.random), RandomID(j.random), RandomID(j.random), RandomID(j.random), RandomID(j.random)
	record := &usagev1.Record{Fact: &usagev1.Record_Usage{Usage: &usagev1.UsageEvent{
		SchemaVersion: 1, AgentId: j.Agent[:], Epoch: j.Epoch, Seq: j.next, EventId: event[:],
		SourceKind: usagev1.SourceKind_SOURCE_KIND_AGENT, BootId: j.Anchor.GetBootId(), AnchorId: j.Anchor.GetAnchorId(),
		RuleId: rule[:], ApplicationId: application[:], PolicyRevision: 7, PrincipalAlias: j.Alias[:],
		SessionId: session[:], InstanceId: instance[:], Transition: usagev1.Transition_TRANSITION_CHANGED,
		Attention: usagev1.Attention_ATTENTION_IDLE, State: usagev1.State_STATE_INACTIVE, AtBootMillis: j.clock,
		Closed: &usagev1.Interval{Attention: usagev1.Attention_ATTENTION_BUSY, State: usagev1.State_STATE_ACTIVE, FromBootMillis: from, ToBootMillis: j.clock},
	}}}
	if j.Lane == usagev1.Lane_LANE_CHOICE {
		record = &usagev1.Record{Fact: &usagev1.Record_Choice{Choice: &usagev1.Choice{
			SchemaVersion: 1, AgentId: j.Agent[:], Epoch: j.Epoch, Seq: j.next, ChoiceId: event[:],
			Chosen: &usagev1.Choice_NotChargeable{NotChargeable: true},
		}}}
	}
	raw, err := proto.Marshal(record)
	if err != nil {
		panic(err) // the message is made here and always has a wire form
	}
	return raw
}
