package load

import (
	"errors"
	"sync"
	"sync/atomic"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// memory is a light agent's journal: what is not acknowledged, in memory. It implements
// uplink.Journal.
type memory struct {
	mu     sync.Mutex
	source *Source
	frames []*kept
	// made and acknowledged are asked for of all agents at once, and wait for none of them.
	made, acknowledged atomic.Int64
}

// kept is a frame; once it was handed out nobody changes it any more.
type kept struct {
	frame  *usagev1.Frame
	handed bool
}

func (k *kept) last() uint64 {
	return k.frame.GetFirstSeq() + uint64(len(k.frame.GetRecords())) - 1
}

// Lane implements uplink.Journal.
func (*memory) Lane() usagev1.Lane { return usagev1.Lane_LANE_USAGE }

// Epoch implements uplink.Journal.
func (m *memory) Epoch() uint64 { return m.source.epoch }

// Frame implements uplink.Journal.
func (m *memory) Frame(from uint64) (*usagev1.Frame, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.frames {
		if k.last() >= from {
			k.handed = true
			return k.frame, nil
		}
	}
	return nil, nil //nolint:nilnil // as the interface has it
}

// Acknowledge implements uplink.Journal. Frames go as they came, so none is acknowledged in part.
func (m *memory) Acknowledge(epoch, first, last uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if epoch != m.source.epoch {
		return nil
	}
	left := m.frames[:0]
	for _, k := range m.frames {
		if k.frame.GetFirstSeq() < first || k.last() > last {
			left = append(left, k)
			continue
		}
		m.acknowledged.Add(int64(len(k.frame.GetRecords())))
	}
	clear(m.frames[len(left):])
	m.frames = left
	return nil
}

// NewEpoch implements uplink.Journal. A Manager asks for one where it does not believe what it
// was sent, which is never right here.
func (*memory) NewEpoch() error {
	return errors.New("load: a Manager asks a light agent for a new epoch")
}

// record makes the records that are written by a time of the machine's clock, and tells how
// many, and when the next is due.
func (m *memory) record(untilUTCMillis int64) (n int, next int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for next = m.source.NextUTCMillis(); next <= untilUTCMillis; next = m.source.NextUTCMillis() {
		if err := m.keep(1); err != nil {
			return n, 0, err
		}
		n++
	}
	return n, next, nil
}

// recordMany makes n records at once.
func (m *memory) recordMany(n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n > 0 {
		few := min(n, contract.MaxFrameRecords)
		if err := m.keep(few); err != nil {
			return err
		}
		n -= few
	}
	return nil
}

// keep makes n records, and puts them to those that wait, as a journal would read them.
func (m *memory) keep(n int) error {
	frame, err := m.source.Next(n)
	if err != nil {
		return err
	}
	m.made.Add(int64(len(frame.GetRecords())))
	if len(m.frames) > 0 {
		if last := m.frames[len(m.frames)-1]; !last.handed && len(last.frame.GetRecords())+n <= contract.MaxFrameRecords {
			last.frame.Records, last.frame.ChainAfter = append(last.frame.Records, frame.GetRecords()...), frame.GetChainAfter()
			return nil
		}
	}
	m.frames = append(m.frames, &kept{frame: frame})
	return nil
}

// live is what is open at the last record.
func (m *memory) live(run, serial uint64, nowUTCMillis, validMillis int64) *usagev1.LiveSnapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.source.Live(run, serial, nowUTCMillis, validMillis)
}

func (m *memory) hello() *agentv1.Hello {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.source.Hello()
}

func (m *memory) counts() (made, acknowledged int64) {
	acknowledged = m.acknowledged.Load() // first: it never seems to be more than was made
	return m.made.Load(), acknowledged
}
