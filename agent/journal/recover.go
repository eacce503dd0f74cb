package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// QuarantineDir in the directory of a journal holds files that opening has put aside, for
// a person to look at.
const QuarantineDir = "quarantine"

// found is a segment file as opening finds it.
type foundSegment struct {
	segment
	header  header
	chain   contract.Hash
	torn    bool
	damaged bool
	// headless: the header cannot be read, so nothing in the file can.
	headless bool
}

// recover brings the journal from what is on the disk to where it stood.
func (j *Journal) recover() error {
	var err error
	if j.labels, err = openLabels(j.config.Dir, j.sync, j.log); err != nil {
		return err
	}
	var value []byte
	var stated bool
	var damaged int
	if j.state, value, stated, damaged, err = openPair(filepath.Join(j.config.Dir, "state"), j.sync); err != nil {
		return err
	}
	var state journalState
	if stated {
		if err := json.Unmarshal(value, &state); err != nil || state.Epoch == 0 || !state.Acked.sound() {
			state, stated, damaged = journalState{}, false, damaged+1
		}
	}
	if damaged > 0 {
		j.log.Warn("a copy of the journal's state is damaged, by a torn write or a bad sector", "dir", j.config.Dir, "other_copy_sound", stated)
	}
	if err := j.openSlot(); err != nil {
		return err
	}
	segments, err := j.findSegments()
	if err != nil {
		return err
	}
	epoch, err := j.chooseEpoch(segments, state, damaged > 0)
	if err != nil {
		return err
	}
	if epoch == 0 {
		for _, s := range segments {
			// Files without a readable header, and nothing that says whose they are.
			if err := j.quarantine(s.name); err != nil {
				return err
			}
		}
		return j.begin()
	}
	if epoch != state.Epoch {
		if stated {
			j.damage.Reason = fmt.Sprintf("the state names epoch %016x, which is over; what was acknowledged of epoch %016x is not known and is sent again", state.Epoch, epoch)
		}
		state, stated = journalState{Epoch: epoch}, false
	}
	own, others := ofEpoch(segments, epoch)
	if err := j.leaveOtherEpochs(own, others, state, stated && damaged == 0); err != nil {
		return err
	}
	if err := j.take(own, state, stated, damaged == 0); err != nil {
		return err
	}
	if damaged == 0 && stated && len(others) == 0 {
		return nil
	}
	return j.saveStateTwice(journalState{Epoch: j.epoch, Acked: j.acked, Next: j.next, Before: j.before})
}

// chooseEpoch tells in which epoch the journal goes on: the one that the state names,
// unless the state may be an old one and another epoch holds what the named one lacks.
// 0: there is none.
func (j *Journal) chooseEpoch(segments []foundSegment, state journalState, damaged bool) (uint64, error) {
	if state.Epoch == 0 {
		return likeliestEpoch(segments), nil
	}
	own, others := ofEpoch(segments, state.Epoch)
	if !damaged && len(own) > 0 {
		return state.Epoch, nil
	}
	if len(own) > 0 {
		// What the state took the place of is no candidate.
		others = slices.DeleteFunc(others, func(s foundSegment) bool { return s.header.epoch == state.Before })
	}
	likeliest := likeliestEpoch(others)
	if likeliest == 0 {
		return state.Epoch, nil
	}
	// A change of epoch that did not come to its end left less than there is, and perhaps
	// a file that cannot be read: only a record that is nowhere else tells of a later one.
	candidate, _ := ofEpoch(others, likeliest)
	held, err := j.held(candidate, own)
	if err != nil || held {
		return state.Epoch, err
	}
	return likeliest, nil
}

// ofEpoch parts the segments of an epoch from the others.
func ofEpoch(segments []foundSegment, epoch uint64) (own, others []foundSegment) {
	for _, s := range segments {
		if s.header.epoch == epoch {
			own = append(own, s)
		} else {
			others = append(others, s)
		}
	}
	return own, others
}

// contained tells whether every record of some segments is among those of others, but
// for its epoch and sequence number. Where some cannot be read whole, it is not.
func (j *Journal) contained(some, others []foundSegment) (bool, error) {
	if slices.ContainsFunc(some, func(s foundSegment) bool { return s.damaged || s.headless && s.size > int64(headerSize) }) {
		return false, nil
	}
	return j.held(some, others)
}

// held tells whether every record that can be read in some segments is among those of
// others.
func (j *Journal) held(some, others []foundSegment) (bool, error) {
	there, err := j.recordKeys(others)
	if err != nil {
		return false, err
	}
	keys, err := j.recordKeys(some)
	if err != nil {
		return false, err
	}
	for k := range keys {
		if !there[k] {
			return false, nil
		}
	}
	return true, nil
}

// recordKeys are hashes of what can be read in segments, without what an epoch changes.
func (j *Journal) recordKeys(segments []foundSegment) (map[contract.Hash]bool, error) {
	keys := map[contract.Hash]bool{}
	for n := range segments {
		c, _, err := j.salvage(&segments[n].segment)
		if err != nil {
			return nil, err
		}
		for _, e := range slices.Concat(c.entries, c.salvaged) {
			if e.kind != entryRecord {
				continue
			}
			payload := e.payload
			r := &usagev1.Record{}
			if err := proto.Unmarshal(payload, r); err == nil {
				setPosition(r, 0, 0)
				if payload, err = (proto.MarshalOptions{Deterministic: true}).Marshal(r); err != nil {
					return nil, fmt.Errorf("journal: record %d: %w", e.seq, err)
				}
			}
			keys[contract.Chain(contract.Hash{}, payload)] = true
		}
	}
	return keys, nil
}

// setPosition places a record in an epoch, and tells the anchor that it names.
func setPosition(r *usagev1.Record, epoch, seq uint64) (anchor uint64) {
	switch {
	case r.GetUsage() != nil:
		r.GetUsage().Epoch, r.GetUsage().Seq = epoch, seq
		return r.GetUsage().GetAnchorId()
	case r.GetChoice() != nil:
		r.GetChoice().Epoch, r.GetChoice().Seq = epoch, seq
		return r.GetChoice().GetAnchorId()
	}
	return 0
}

func (j *Journal) openSlot() error {
	p, value, found, damaged, err := openPair(filepath.Join(j.config.Dir, "slot"), j.sync)
	if err != nil {
		return err
	}
	j.slotPair = p
	if damaged > 0 {
		j.log.Error("a copy of the crash slot was damaged", "dir", j.config.Dir, "other_copy_sound", found)
	}
	if found {
		c, err := decodeSlot(value)
		if err != nil {
			j.log.Error("the crash slot is malformed; what was open before is not known", "dir", j.config.Dir)
			return nil //nolint:nilerr // Said; the journal works on without it.
		}
		c.state, c.tail, c.anchors = nil, nil, nil
		j.slot, j.slotted = c, true
	}
	return nil
}

func (j *Journal) findSegments() ([]foundSegment, error) {
	names, err := os.ReadDir(j.config.Dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var found []foundSegment
	for _, n := range names {
		if n.IsDir() || !strings.HasSuffix(n.Name(), ".seg") {
			continue
		}
		b, err := readBounded(filepath.Join(j.config.Dir, n.Name()), maxBatchBytes+j.config.SegmentBytes+1<<20)
		if err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		s := foundSegment{segment: segment{name: n.Name(), size: int64(len(b))}}
		c, err := parseSegment(b)
		switch {
		case err != nil:
			s.headless = true
			// The name says what the header no longer does.
			_, _ = fmt.Sscanf(n.Name(), "%016x-%016x.seg", &s.header.epoch, &s.first)
			s.header.first, s.next = s.first, s.first
		case c.header.agent != j.config.AgentID || c.header.lane != uint32(j.config.Lane):
			return nil, fmt.Errorf("journal: %s belongs to agent %s, lane %d, not to this one; give each agent and lane a directory of its own", n.Name(), c.header.agent, c.header.lane)
		default:
			s.header, s.first, s.next, s.chain = c.header, c.header.first, c.next(), c.chain()
			s.damaged, s.torn = c.damaged, c.good < len(b)
			if s.torn && !s.damaged {
				s.size = int64(c.good)
				j.damage.TornBytes += int64(len(b) - c.good)
			}
		}
		found = append(found, s)
	}
	slices.SortFunc(found, func(a, b foundSegment) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

// Owner is the agent to which a journal in a directory belongs; found is false where
// nothing there says so. It changes nothing.
func Owner(dir string) (agent contract.ID, found bool, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		return agent, false, fmt.Errorf("journal: %w", err)
	}
	for _, name := range names {
		b, err := readBounded(name, int64(headerSize))
		if err != nil {
			return agent, false, fmt.Errorf("journal: %w", err)
		}
		if h, err := parseHeader(b); err == nil {
			return h.agent, true, nil
		}
	}
	return agent, false, nil
}

// likeliestEpoch is the one with most records, where the state does not say; 0: no
// segment tells of one.
func likeliestEpoch(segments []foundSegment) uint64 {
	records := map[uint64]uint64{}
	best := uint64(0)
	for _, s := range segments {
		e := s.header.epoch
		if s.headless || e == 0 {
			continue
		}
		records[e] += s.next - s.first
		if best == 0 || records[e] > records[best] {
			best = e
		}
	}
	return best
}

// leaveOtherEpochs removes what a change of epoch left behind: segments of which it is
// certain that the epoch that goes on holds all that counts, because a state that is
// sure says so, or because every record is there. Anything else is put aside.
func (j *Journal) leaveOtherEpochs(own, others []foundSegment, state journalState, sure bool) error {
	for len(others) > 0 {
		var epoch []foundSegment
		epoch, others = ofEpoch(others, others[0].header.epoch)
		over := len(own) > 0 && (sure || state.Before != 0 && epoch[0].header.epoch == state.Before)
		if !over {
			var err error
			if over, err = j.contained(epoch, own); err != nil {
				return err
			}
		}
		for _, s := range epoch {
			if over {
				if err := os.Remove(filepath.Join(j.config.Dir, s.name)); err != nil {
					return fmt.Errorf("journal: %w", err)
				}
				continue
			}
			if err := j.quarantine(s.name); err != nil {
				return err
			}
			if j.damage.Reason == "" {
				j.damage.Reason = fmt.Sprintf("the state was damaged, and there are segments of epoch %016x beside those of %016x", s.header.epoch, state.Epoch)
			}
		}
	}
	return nil
}

// quarantine keeps a file aside.
func (j *Journal) quarantine(name string) error {
	dir := filepath.Join(j.config.Dir, QuarantineDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	to := filepath.Join(dir, name)
	if err := os.Rename(filepath.Join(j.config.Dir, name), to); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.damage.Quarantined = append(j.damage.Quarantined, to)
	j.log.Error("a segment of the journal was put aside", "file", to)
	return nil
}

// begin starts an empty journal.
func (j *Journal) begin() error {
	epoch, err := j.drawEpoch()
	if err != nil {
		return err
	}
	if err := j.saveState(journalState{Epoch: epoch}); err != nil {
		return err
	}
	j.epoch, j.next, j.chain, j.acked = epoch, 1, contract.Hash{}, nil
	return j.openActive(nil)
}

// openActive makes the segments the journal's, the last one for writing.
func (j *Journal) openActive(segments []*segment) error {
	j.segments = segments
	if len(segments) == 0 {
		s, f, err := j.create(j.epoch, j.next, j.chain)
		if err != nil {
			return err
		}
		j.segments, j.active, j.anchored = []*segment{s}, f, map[uint64]bool{}
		return nil
	}
	last := segments[len(segments)-1]
	f, err := os.OpenFile(filepath.Join(j.config.Dir, last.name), os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.active = f
	b, err := j.read(last)
	if err != nil {
		return err
	}
	// After a sync that failed what is read need not be on the disk, and no later sync brings it there.
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.sync(f); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	c, err := parseSegment(b)
	if err != nil {
		return fmt.Errorf("journal: %s: %w", last.name, err)
	}
	j.anchored = map[uint64]bool{}
	for _, e := range c.entries {
		if e.kind != entryAnchor {
			continue
		}
		a := &usagev1.Anchor{}
		if err := proto.Unmarshal(e.payload, a); err != nil {
			return fmt.Errorf("journal: %s: anchor: %w", last.name, err)
		}
		j.anchored[a.GetAnchorId()] = true
		j.recent[a.GetAnchorId()] = a
	}
	return nil
}

// take makes the segments of the epoch the journal's. Whatever is wrong beyond a torn
// end asks for a new epoch. Where the state is not the newest for sure, the latest
// acknowledgements may be missing in it.
func (j *Journal) take(segments []foundSegment, state journalState, stated, newest bool) error {
	j.epoch, j.before, j.acked = state.Epoch, state.Before, state.Acked
	// A file whose header was being written when the power went holds nothing.
	if n := len(segments); n > 0 && segments[n-1].headless && segments[n-1].size <= int64(headerSize) && n > 1 {
		j.damage.TornBytes += segments[n-1].size
		if err := os.Remove(filepath.Join(j.config.Dir, segments[n-1].name)); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		segments = segments[:n-1]
	}
	if len(segments) == 0 && stated && len(j.acked) == 0 && state.Next <= 1 {
		// The state is written before the first segment.
		j.next = 1
		return j.openActive(nil)
	}
	if len(segments) == 1 && segments[0].headless && segments[0].size <= int64(headerSize) && segments[0].first == 1 {
		if err := os.Remove(filepath.Join(j.config.Dir, segments[0].name)); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		j.next = 1
		return j.openActive(nil)
	}
	segments, err := j.leaveAcknowledged(segments)
	if err != nil {
		return err
	}
	reason := j.wrong(segments)
	if n := len(segments); n > 0 {
		if first := segments[0].first; first > 1 {
			// Segments go only after it is written that all in them is acknowledged.
			held, there := j.acked.holds(1)
			switch {
			case there && held.Last >= first-1:
			case !stated || !newest:
				j.acked, _ = j.acked.add(span{1, first - 1})
			case reason == "":
				reason = fmt.Sprintf("records before %d are missing", first)
			}
		}
		last := segments[n-1]
		j.next, j.chain = last.next, last.chain
		if reason == "" && last.torn && last.next >= state.Next {
			if err := truncate(filepath.Join(j.config.Dir, last.name), last.size, j.sync); err != nil {
				return fmt.Errorf("journal: %s: %w", last.name, err)
			}
			j.log.Warn("the last write of the journal was torn by a crash and has been cut off; nobody was told that it was kept", "segment", last.name, "bytes", j.damage.TornBytes)
		}
		if k := len(j.acked); k > 0 && j.acked[k-1].Last >= last.next && reason == "" {
			reason = fmt.Sprintf("records up to %d were acknowledged, but the journal ends at %d", j.acked[k-1].Last, last.next-1)
		}
		if reason == "" && last.next < state.Next {
			reason = fmt.Sprintf("records up to %d were durable, but the journal ends at %d", state.Next-1, last.next-1)
		}
	} else if reason == "" {
		reason = "its segments are gone"
	}
	list := make([]*segment, 0, len(segments))
	for n := range segments {
		list = append(list, &segments[n].segment)
	}
	if reason == "" {
		return j.openActive(list)
	}
	if j.damage.Reason != "" {
		reason = j.damage.Reason + "; " + reason
	}
	j.damage.Reason, j.damage.NewEpoch = reason, true
	j.segments = list
	j.next = max(j.next, state.Next)
	lost, err := j.renew(true)
	if err != nil {
		return err
	}
	j.damage.LostRecords = lost
	j.log.Error("the journal was damaged; what could be read goes on in a new epoch", "dir", j.config.Dir, "reason", reason, "lost_records", lost, "quarantined", j.damage.Quarantined)
	return nil
}

// leaveAcknowledged removes leading segments of which everything is acknowledged where
// something is wrong with them: their deletion may not have reached the disk.
func (j *Journal) leaveAcknowledged(segments []foundSegment) ([]foundSegment, error) {
	for n := len(segments) - 2; n >= 0; n-- {
		held, there := j.acked.holds(max(1, segments[0].first))
		if !there || held.Last < segments[n+1].first-1 {
			continue
		}
		if j.wrong(segments[:n+2]) == "" || j.slotted && j.slot.epoch == j.epoch && j.slot.seq+1 < segments[n+1].first {
			continue
		}
		for _, s := range segments[:n+1] {
			var err error
			if s.headless || s.damaged {
				err = j.quarantine(s.name)
			} else {
				err = os.Remove(filepath.Join(j.config.Dir, s.name))
			}
			if err != nil {
				return nil, fmt.Errorf("journal: %w", err)
			}
		}
		return segments[n+1:], nil
	}
	return segments, nil
}

// dropSlot forgets the crash slot, because what came after it is not known whole:
// recovering from it could say twice what has been said.
func (j *Journal) dropSlot() {
	j.log.Error("the crash slot is given up, since records behind it are lost; what was open then is not closed", "dir", j.config.Dir)
	for n := range 2 {
		if err := os.Remove(j.slotPair.file(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			j.log.Error("the crash slot could not be removed", "error", err)
		}
	}
	j.slotPair.generation, j.slotPair.next = 0, 0
	j.slot, j.slotted = crashSlot{}, false
}

func truncate(name string, size int64, sync func(*os.File) error) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = sync(f)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// wrong says what is wrong with the segments of an epoch beyond a torn end; empty:
// nothing.
func (j *Journal) wrong(segments []foundSegment) string {
	for n, s := range segments {
		switch {
		case s.headless:
			return fmt.Sprintf("%s: %v", s.name, errHeader)
		case s.damaged:
			return fmt.Sprintf("%s is damaged behind record %d", s.name, s.next-1)
		case s.torn && n < len(segments)-1:
			return fmt.Sprintf("%s ends too early, behind record %d", s.name, s.next-1)
		case n > 0 && segments[n-1].next != s.first:
			return fmt.Sprintf("between %s and %s records are missing", segments[n-1].name, s.name)
		case n > 0 && segments[n-1].chain != s.header.before:
			return fmt.Sprintf("%s does not continue the chain of the segment before", s.name)
		}
	}
	return ""
}

// NewEpoch moves what is not acknowledged into a new epoch, because a Manager or reader
// saw two contents under one key. A crash in between leaves either epoch whole.
func (j *Journal) NewEpoch() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	_, err := j.renew(false)
	return err
}

// renew writes what is not acknowledged, as far as it can be read, into segments of a
// new epoch, switches to it, and removes the old ones; damaged ones are put aside. It
// tells how many records were missing.
func (j *Journal) renew(repairing bool) (lost uint64, err error) {
	epoch, err := j.drawEpoch()
	if err != nil {
		return 0, err
	}
	w := &renewal{journal: j, epoch: epoch, next: 1, anchors: map[uint64][]byte{}, written: map[uint64]bool{}}
	slot, carry, err := j.slotToCarry()
	if err != nil {
		return 0, err
	}
	// Where an anchor is damaged, another segment may hold it too.
	for _, s := range j.segments {
		c, _, err := j.salvage(s)
		if err != nil {
			return 0, err
		}
		for _, e := range slices.Concat(c.entries, c.salvaged) {
			if e.kind == entryAnchor {
				w.keepAnchor(e)
			}
		}
	}
	var damaged []string
	known := map[uint64]bool{}
	for _, s := range j.segments {
		c, b, err := j.salvage(s)
		if err != nil {
			return 0, errors.Join(err, w.abandon())
		}
		if c.header.epoch == 0 || c.damaged || c.good < len(b) && s != j.segments[len(j.segments)-1] {
			damaged = append(damaged, s.name)
		}
		for _, e := range slices.Concat(c.entries, c.salvaged) {
			switch {
			case carry && e.kind == entryAnchor:
				slot.anchors = append(slot.anchors, e.payload)
			case carry && e.kind == entryRecord && e.seq > slot.seq:
				slot.tail = append(slot.tail, e.payload)
			}
			if e.kind != entryRecord {
				continue
			}
			taken, err := w.take(e, j.acked)
			if err != nil {
				return 0, errors.Join(err, w.abandon())
			}
			known[e.seq] = taken
		}
	}
	highest := max(j.next, 1) - 1
	for seq := range known {
		highest = max(highest, seq)
	}
	if repairing {
		for seq := uint64(1); seq <= highest; seq++ {
			if _, acked := j.acked.holds(seq); !acked && !known[seq] {
				lost++
			}
			if carry && seq > slot.seq && !known[seq] {
				carry = false
			}
		}
	}
	if err := w.finish(); err != nil {
		return 0, errors.Join(err, w.abandon())
	}
	if carry {
		slot.newEpoch, slot.newSeq = epoch, w.next-1
		if err := j.slotPair.write(slot.encode()); err != nil {
			return 0, errors.Join(err, w.abandon())
		}
	}
	if err := j.switchTo(journalState{Epoch: epoch, Next: w.next, Before: j.epoch}, w); err != nil {
		return 0, err
	}
	if !carry && j.slotted {
		j.dropSlot()
	}
	if j.active != nil {
		_ = j.active.Close()
		j.active = nil
	}
	for _, s := range j.segments {
		if slices.Contains(damaged, s.name) {
			if err := j.quarantine(s.name); err != nil {
				return lost, err
			}
			continue
		}
		if err := os.Remove(filepath.Join(j.config.Dir, s.name)); err != nil {
			j.log.Warn("a segment of the epoch before could not be deleted", "segment", s.name, "error", err)
		}
	}
	j.before, j.epoch, j.next, j.chain, j.acked, j.full = j.epoch, epoch, w.next, w.chain, nil, false
	if carry {
		slot.state, slot.tail, slot.anchors = nil, nil, nil
		j.slot = slot
	}
	if err := j.openActive(w.segments); err != nil {
		j.broken = fmt.Errorf("%w: %w", ErrBroken, err)
		return lost, err
	}
	j.log.Warn("the journal goes on in a new epoch", "epoch", fmt.Sprintf("%016x", epoch), "records", w.next-1)
	return lost, nil
}

// switchTo writes the state of a new epoch, in both copies before anything of the old
// one goes. From the first copy on the new epoch may hold: where only the second fails,
// just opening the journal anew tells.
func (j *Journal) switchTo(s journalState, w *renewal) error {
	if err := j.saveState(s); err != nil {
		return errors.Join(err, w.abandon())
	}
	if err := j.saveState(s); err != nil {
		j.broken = fmt.Errorf("%w: %w", ErrBroken, err)
		return j.broken
	}
	return nil
}

// slotToCarry reads the slot whole, so that it can be rewritten for a new epoch.
func (j *Journal) slotToCarry() (crashSlot, bool, error) {
	if !j.slotted {
		return crashSlot{}, false, nil
	}
	_, value, found, _, err := openPair(j.slotPair.base, j.sync)
	if err != nil || !found {
		return crashSlot{}, false, err
	}
	c, err := decodeSlot(value)
	if err != nil {
		return crashSlot{}, false, nil //nolint:nilerr // Said when it was opened: there is none.
	}
	switch j.epoch {
	case c.epoch:
		c.tail, c.newEpoch, c.newSeq = c.tail[:c.common], 0, 0
	case c.newEpoch:
		c.epoch, c.seq, c.common = c.newEpoch, c.newSeq, uint32(len(c.tail))
	default:
		return crashSlot{}, false, nil
	}
	return c, true, nil
}

// renewal writes records into the segments of a new epoch.
type renewal struct {
	journal  *Journal
	epoch    uint64
	next     uint64
	chain    contract.Hash
	segments []*segment
	buffer   []byte
	before   contract.Hash
	anchors  map[uint64][]byte
	written  map[uint64]bool
}

// salvage reads what can be read of a segment; nothing where even its header is damaged.
func (j *Journal) salvage(s *segment) (content, []byte, error) {
	b, err := readBounded(filepath.Join(j.config.Dir, s.name), maxBatchBytes+j.config.SegmentBytes+1<<20)
	if err != nil {
		return content{}, nil, fmt.Errorf("journal: %w", err)
	}
	c, err := parseSegment(b)
	if err != nil {
		return content{}, b, nil //nolint:nilerr // Nothing of it can be read: its bytes are kept aside.
	}
	return c, b, nil
}

func (w *renewal) keepAnchor(e entry) {
	a := &usagev1.Anchor{}
	if err := proto.Unmarshal(e.payload, a); err == nil {
		w.anchors[a.GetAnchorId()] = slices.Clone(e.payload)
	}
}

// take moves a record of the old epoch. It tells false where that cannot be done: it
// is no record, or the anchor that would place it is gone.
func (w *renewal) take(e entry, acked ranges) (bool, error) {
	if _, there := acked.holds(e.seq); there {
		return true, nil
	}
	r := &usagev1.Record{}
	if err := proto.Unmarshal(e.payload, r); err != nil {
		return false, nil //nolint:nilerr // That is what false says.
	}
	anchor := setPosition(r, w.epoch, w.next)
	if w.anchors[anchor] == nil {
		return false, nil
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return false, fmt.Errorf("journal: record %d: %w", e.seq, err)
	}
	if len(w.buffer) == 0 {
		w.before = w.chain
		clear(w.written)
		h := header{lane: uint32(w.journal.config.Lane), epoch: w.epoch, first: w.next, agent: w.journal.config.AgentID, before: w.before}
		w.buffer = h.append(w.buffer)
		w.segments = append(w.segments, &segment{name: segmentName(w.epoch, w.next), first: w.next, next: w.next})
	}
	if !w.written[anchor] {
		w.buffer = entry{kind: entryAnchor, seq: w.next, payload: w.anchors[anchor]}.append(w.buffer, w.epoch)
		w.written[anchor] = true
	}
	w.buffer = entry{kind: entryRecord, seq: w.next, payload: payload}.append(w.buffer, w.epoch)
	w.chain = contract.Chain(w.chain, payload)
	w.next++
	last := w.segments[len(w.segments)-1]
	last.next, last.size = w.next, int64(len(w.buffer))
	if last.size >= w.journal.config.SegmentBytes {
		return true, w.flush()
	}
	return true, nil
}

func (w *renewal) flush() error {
	if len(w.buffer) == 0 {
		return nil
	}
	last := w.segments[len(w.segments)-1]
	f, err := os.OpenFile(filepath.Join(w.journal.config.Dir, last.name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	_, err = f.WriteAt(w.buffer, 0)
	if err == nil {
		err = w.journal.sync(f)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("journal: %s: %w", last.name, err)
	}
	w.buffer = w.buffer[:0]
	return nil
}

func (w *renewal) finish() error {
	if len(w.segments) == 0 {
		// The new epoch has a segment before the state names it: one without any was lost.
		s, f, err := w.journal.create(w.epoch, w.next, w.chain)
		if err != nil {
			return err
		}
		w.segments = []*segment{s}
		return f.Close()
	}
	if err := w.flush(); err != nil {
		return err
	}
	return syncDirectory(w.journal.config.Dir, w.journal.sync)
}

// abandon removes what was written for an epoch that does not come.
func (w *renewal) abandon() error {
	var errs []error
	for _, s := range w.segments {
		if err := os.Remove(filepath.Join(w.journal.config.Dir, s.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
