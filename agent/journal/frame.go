package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Frame gives records that are not acknowledged, from a sequence number of the epoch
// on: consecutive, within the limits of the contract, with every anchor that they
// name. nil: there is none. Only durable records are ever given.
func (j *Journal) Frame(fromSeq uint64) (*usagev1.Frame, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, from, until, err := j.waiting(fromSeq)
	if err != nil || s == nil {
		return nil, err
	}
	return j.frame(s, from, until)
}

// Oldest gives the first record that is not acknowledged; nil: there is none.
func (j *Journal) Oldest() (*usagev1.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s, from, _, err := j.waiting(1)
	if err != nil || s == nil {
		return nil, err
	}
	defer func(before reading) { j.reading = before }(j.reading) // whoever sends goes on where they were
	f, err := j.frame(s, from, from+1)
	if err != nil {
		return nil, err
	}
	r := &usagev1.Record{}
	if err := proto.Unmarshal(f.GetRecords()[0], r); err != nil {
		return nil, fmt.Errorf("journal: record %d: %w", from, err)
	}
	return r, nil
}

// waiting finds the first records from one on that are not acknowledged, up to the next that is, and the segment
// that they begin in; nil: there are none.
func (j *Journal) waiting(fromSeq uint64) (in *segment, from, until uint64, err error) {
	if j.closed {
		return nil, 0, 0, ErrClosed
	}
	from = max(fromSeq, 1)
	if s, there := j.acked.holds(from); there {
		from = s.Last + 1
	}
	if from >= j.next {
		return nil, 0, 0, nil
	}
	until = j.next
	if s, there := j.acked.after(from); there {
		until = s.First
	}
	for _, s := range j.segments {
		if from >= s.first && from < s.next {
			return s, from, until, nil
		}
	}
	return nil, 0, 0, fmt.Errorf("journal: record %d of epoch %016x is in no segment; open the journal again", from, j.epoch)
}

func (j *Journal) read(s *segment) ([]byte, error) {
	b, err := readBounded(filepath.Join(j.config.Dir, s.name), s.size)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return b, nil
}

// reading is where the last frame ended: records are mostly read one after the other,
// each as soon as it is written.
type reading struct {
	segment string
	// next is the record that stands, with what belongs to it, at the offset.
	next   uint64
	offset int64
	// chain is that before next; anchors are those before the offset, and perhaps some
	// behind it.
	chain   contract.Hash
	anchors map[uint64]*usagev1.Anchor
}

// readFrom gives the bytes of a segment from where a reading of it that begins at a record
// can begin.
func (j *Journal) readFrom(s *segment, from uint64) (reading, []byte, error) {
	if r := j.reading; r.segment == s.name && r.next == from {
		b := make([]byte, s.size-r.offset)
		file := j.active
		if s != j.segments[len(j.segments)-1] {
			var err error
			if file, err = os.Open(filepath.Join(j.config.Dir, s.name)); err != nil {
				return reading{}, nil, fmt.Errorf("journal: %w", err)
			}
			defer file.Close()
		}
		if _, err := file.ReadAt(b, r.offset); err != nil {
			return reading{}, nil, fmt.Errorf("journal: %s: %w", s.name, err)
		}
		return r, b, nil
	}
	b, err := j.read(s)
	if err != nil {
		return reading{}, nil, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return reading{}, nil, errDamagedSince(s)
	}
	r := reading{segment: s.name, next: s.first, offset: int64(headerSize), chain: h.before, anchors: map[uint64]*usagev1.Anchor{}}
	return r, b[headerSize:], nil
}

func errDamagedSince(s *segment) error {
	return fmt.Errorf("journal: %s: it was damaged after it was opened; open the journal again", s.name)
}

// frameOverhead is more than a frame takes beside its records and anchors.
const frameOverhead = 512

// frame reads records of one segment.
func (j *Journal) frame(s *segment, from, until uint64) (*usagev1.Frame, error) {
	r, b, err := j.readFrom(s, from)
	if err != nil {
		return nil, err
	}
	f := &usagev1.Frame{AgentId: j.config.AgentID[:], Epoch: j.epoch, Lane: j.config.Lane, FirstSeq: from}
	if !j.config.MachineID.IsZero() {
		f.MachineId = j.config.MachineID[:]
	}
	named := map[uint64]bool{}
	size := frameOverhead
	trace, passed := "", int64(0) // what stands between two records
	for r.next < min(until, s.next) {
		e, ok := parseEntry(b, j.epoch)
		if !ok || e.seq != r.next {
			return nil, errDamagedSince(s)
		}
		b = b[e.size():]
		passed += int64(e.size())
		switch e.kind {
		case entryAnchor:
			a := &usagev1.Anchor{}
			if err := proto.Unmarshal(e.payload, a); err != nil {
				return nil, fmt.Errorf("journal: anchor: %w", err)
			}
			r.anchors[a.GetAnchorId()] = a
			continue
		case entryTrace:
			trace = string(e.payload)
			continue
		case entryRecord:
		}
		if r.next >= from {
			more, err := addRecord(f, e, r.anchors, named, contract.MaxFrameBytes-size)
			if err != nil {
				return nil, err
			}
			if more == 0 {
				break // it is for the next frame
			}
			size += more
			if len(f.GetRecords()) == 1 {
				before := r.chain
				f.ChainBefore = before[:]
			}
			if trace != "" {
				f.Traceparent = trace
			}
		}
		r.chain = contract.Chain(r.chain, e.payload)
		r.next++
		r.offset += passed
		trace, passed = "", 0
	}
	after := r.chain
	f.ChainAfter = after[:]
	j.reading = r
	return f, nil
}

// addRecord adds a record and its anchor to a frame that has room for so many bytes, and
// tells how many it took; 0: it has no room. The first record always has.
func addRecord(f *usagev1.Frame, e entry, anchors map[uint64]*usagev1.Anchor, named map[uint64]bool, room int) (size int, err error) {
	var r usagev1.Record
	if err := proto.Unmarshal(e.payload, &r); err != nil {
		return 0, fmt.Errorf("journal: record %d: %w", e.seq, err)
	}
	id := r.GetUsage().GetAnchorId()
	if r.GetChoice() != nil {
		id = r.GetChoice().GetAnchorId()
	}
	size = len(e.payload) + 8
	if !named[id] {
		size += 80
	}
	if n := len(f.GetRecords()); n == contract.MaxFrameRecords || n > 0 && size > room {
		return 0, nil
	}
	if !named[id] {
		if anchors[id] == nil {
			return 0, fmt.Errorf("journal: record %d names the anchor %016x, which its segment lacks", e.seq, id)
		}
		named[id] = true
		f.Anchors = append(f.Anchors, anchors[id])
	}
	f.Records = append(f.Records, bytes.Clone(e.payload))
	return size, nil
}
