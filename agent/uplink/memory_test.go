package uplink_test

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// journal keeps records in memory, as package journal does on disk.
type journal struct {
	mu      sync.Mutex
	agent   contract.ID
	machine contract.ID
	lane    usagev1.Lane
	epoch   uint64
	records []*usagev1.UsageEvent // of this epoch, from seq 1
	raw     [][]byte
	acked   []bool
	anchor  *usagev1.Anchor
	labels  map[contract.ID]string
	most    int // records in a frame
}

func newJournal() *journal {
	j := &journal{lane: usagev1.Lane_LANE_USAGE, labels: make(map[contract.ID]string), most: 7}
	j.agent, j.machine = randomID(), randomID()
	boot := randomID()
	j.anchor = &usagev1.Anchor{BootId: boot[:], BootMillis: 5, UtcMillis: 1_700_000_000_000}
	j.anchor.AnchorId = contract.AnchorID(j.anchor)
	j.epoch = newEpoch()
	return j
}

func randomID() (id contract.ID) {
	_, _ = rand.Read(id[:])
	return id
}

func newEpoch() uint64 {
	id := randomID()
	return binary.BigEndian.Uint64(id[:]) | 1
}

// append adds a record of which nothing matters but its number.
func (j *journal) append(alias contract.ID, number int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	event := randomID()
	j.add(&usagev1.UsageEvent{
		SchemaVersion: 1, EventId: event[:], PrincipalAlias: alias[:], AnchorId: j.anchor.GetAnchorId(), AtBootMillis: number,
	})
}

func (j *journal) add(e *usagev1.UsageEvent) {
	e.AgentId, e.Epoch, e.Seq = j.agent[:], j.epoch, uint64(len(j.records)+1)
	raw, err := proto.Marshal(&usagev1.Record{Fact: &usagev1.Record_Usage{Usage: e}})
	if err != nil {
		panic(err)
	}
	j.records, j.raw, j.acked = append(j.records, e), append(j.raw, raw), append(j.acked, false)
}

func (j *journal) Lane() usagev1.Lane { return j.lane }

func (j *journal) Epoch() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.epoch
}

func (j *journal) Frame(from uint64) (*usagev1.Frame, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var hash contract.Hash
	i := 0
	for ; i < len(j.raw) && (uint64(i+1) < from || j.acked[i]); i++ {
		hash = contract.Chain(hash, j.raw[i])
	}
	if i == len(j.raw) {
		return nil, nil
	}
	before := hash
	frame := &usagev1.Frame{
		AgentId: j.agent[:], MachineId: j.machine[:], Epoch: j.epoch, Lane: j.lane, FirstSeq: uint64(i + 1),
		ChainBefore: before[:], Anchors: []*usagev1.Anchor{j.anchor},
	}
	for ; i < len(j.raw) && !j.acked[i] && len(frame.GetRecords()) < j.most; i++ {
		frame.Records = append(frame.GetRecords(), j.raw[i])
		hash = contract.Chain(hash, j.raw[i])
	}
	frame.ChainAfter = hash[:]
	return frame, nil
}

func (j *journal) Acknowledge(epoch, first, last uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if epoch != j.epoch {
		return nil
	}
	if last > uint64(len(j.acked)) {
		return fmt.Errorf("record %d is acknowledged, and there are %d", last, len(j.acked))
	}
	for seq := first; seq <= last; seq++ {
		j.acked[seq-1] = true
	}
	return nil
}

func (j *journal) NewEpoch() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	records, acked := j.records, j.acked
	j.records, j.raw, j.acked = nil, nil, nil
	j.epoch = newEpoch()
	for i, r := range records {
		if !acked[i] {
			j.add(proto.CloneOf(r))
		}
	}
	return nil
}

func (j *journal) waiting() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, done := range j.acked {
		if !done {
			n++
		}
	}
	return n
}

func (j *journal) PendingLabels(limit int) []*agentv1.DocumentLabel {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []*agentv1.DocumentLabel
	for id, name := range j.labels {
		if len(list) < limit {
			list = append(list, &agentv1.DocumentLabel{DocumentId: id[:], PrincipalAlias: id[:], Name: name})
		}
	}
	return list
}

func (j *journal) AcknowledgeLabel(id contract.ID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.labels, id)
	return nil
}
