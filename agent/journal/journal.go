package journal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Sizes that apply where Config leaves them out.
const (
	// DefaultMaxBytes holds six weeks of one person on a machine that is never shut down,
	// and a third as much again.
	DefaultMaxBytes = 128 << 20
	// DefaultSegmentBytes is when a segment is full. Whole segments are read and
	// deleted, so it also bounds what reading costs in memory. A journal has at least
	// segmentsOfJournal of them, or the one that is written would leave no room.
	DefaultSegmentBytes = 128 << 10
	segmentsOfJournal   = 4
	// LeastMaxBytes is the smallest cap: what one observation of a very busy desktop
	// brings has to fit beside what waits for a Manager.
	LeastMaxBytes = 256 << 10
	// maxRecord bounds a single record.
	maxRecord = 64 << 10
	// maxBatchBytes bounds what one append may write.
	maxBatchBytes = 16 << 20
)

// Config says where a journal lies and whose it is.
type Config struct {
	Dir     string
	Lane    usagev1.Lane
	AgentID contract.ID
	// MachineID goes into frames; zero: it is left out.
	MachineID contract.ID
	// MaxBytes bounds the size on disk, without slot and labels: 0, or at least
	// LeastMaxBytes.
	MaxBytes int64
	// SegmentBytes is when a segment is full: 0, or at most a quarter of MaxBytes.
	SegmentBytes int64
	// Random is where epochs are drawn from; nil: crypto/rand.
	Random io.Reader
	// Sync makes a file durable; nil: (*os.File).Sync. Tests count with it.
	Sync func(*os.File) error
	Log  *slog.Logger
}

// FullError says that the journal is at its cap and takes nothing until a Manager has
// acknowledged records, or it is given more room.
type FullError struct {
	Dir             string
	Bytes, MaxBytes int64
}

func (e *FullError) Error() string {
	return fmt.Sprintf("journal: %s holds %d bytes of at most %d: nothing more is taken until a Manager acknowledges records; connect one, or allow a larger journal", e.Dir, e.Bytes, e.MaxBytes)
}

// ErrBroken is given by a journal after a write that could neither be completed nor
// taken back: only opening it anew tells what is on the disk.
var ErrBroken = errors.New("journal: nobody knows what is on the disk; open it again")

// ErrClosed is given by a journal that was closed.
var ErrClosed = errors.New("journal: it is closed")

// Batch is what one append makes durable.
type Batch struct {
	Usage   []*usagev1.UsageEvent
	Choices []*usagev1.Choice
	// Anchors holds every anchor that a record names.
	Anchors []*usagev1.Anchor
	Labels  []*agentv1.DocumentLabel
	// TraceParent is the trace context of the append; may be empty.
	TraceParent string
}

// Damage says what opening found wrong and did about it. Zero: nothing.
type Damage struct {
	// TornBytes are of a write that a crash interrupted, never acknowledged to anyone.
	TornBytes int64
	// Quarantined are damaged files, kept aside.
	Quarantined []string
	// LostRecords were durable, not acknowledged, and cannot be read any more.
	LostRecords uint64
	// NewEpoch: what was not acknowledged goes on in a new epoch.
	NewEpoch bool
	// Reason says it in words; empty where nothing but a torn write was found.
	Reason string
}

// Stats is how the journal stands.
type Stats struct {
	Epoch   uint64
	NextSeq uint64
	// Unacknowledged is how many records no Manager has acknowledged.
	Unacknowledged  uint64
	Bytes, MaxBytes int64
	// Full: the last append was refused for want of room.
	Full bool
	// Syncs is how often a file was made durable since opening.
	Syncs  uint64
	Damage Damage
	// Labels is how many documents' names wait for a Manager.
	Labels int
}

// Journal is the durable queue of one lane. It is safe for concurrent use.
type Journal struct {
	config Config
	log    *slog.Logger

	queueMu sync.Mutex
	queue   []*request

	mu       sync.Mutex
	closed   bool
	broken   error
	epoch    uint64
	before   uint64
	next     uint64
	chain    contract.Hash
	acked    ranges
	segments []*segment
	active   *os.File
	// anchored are the anchors in the active segment, recent those named lately.
	anchored map[uint64]bool
	recent   map[uint64]*usagev1.Anchor
	state    *pair
	slotPair *pair
	slot     crashSlot
	slotted  bool
	labels   *labels
	full     bool
	syncs    uint64
	damage   Damage
	buffer   []byte
	reading  reading
}

// segment is a file of consecutive records.
type segment struct {
	name  string
	first uint64
	// next is behind its last record.
	next uint64
	size int64
}

type request struct {
	batch Batch
	done  bool
	err   error
}

// journalState is the value of the state pair.
type journalState struct {
	Epoch uint64 `json:"epoch"`
	Acked ranges `json:"acked,omitempty"`
	// Next is behind what was durable when this was written: less on the disk than
	// that is damage, not a torn write.
	Next uint64 `json:"next,omitempty"`
	// Before is the epoch that this one took the place of: all that was left of it is here.
	Before uint64 `json:"before,omitempty"`
}

// Open opens or makes the journal in a directory. What a crash or a failing disk left
// behind is repaired; Stats().Damage says how. An error means that the directory
// cannot be used at all.
func Open(config Config) (*Journal, error) {
	if config.MaxBytes == 0 {
		config.MaxBytes = DefaultMaxBytes
	}
	if config.SegmentBytes == 0 {
		config.SegmentBytes = min(DefaultSegmentBytes, config.MaxBytes/segmentsOfJournal)
	}
	if config.MaxBytes < LeastMaxBytes || config.SegmentBytes < 0 || config.SegmentBytes > config.MaxBytes/segmentsOfJournal {
		return nil, fmt.Errorf("journal: at most %d bytes in segments of %d would not free room as records are acknowledged; allow at least %d bytes, and %d segments",
			config.MaxBytes, config.SegmentBytes, LeastMaxBytes, segmentsOfJournal)
	}
	if config.Random == nil {
		config.Random = rand.Reader
	}
	if config.Sync == nil {
		config.Sync = (*os.File).Sync
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.AgentID.IsZero() || config.Lane == usagev1.Lane_LANE_UNSPECIFIED {
		return nil, errors.New("journal: an agent id and a lane are needed")
	}
	j := &Journal{config: config, log: config.Log, recent: map[uint64]*usagev1.Anchor{}}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := j.recover(); err != nil {
		return nil, err
	}
	return j, nil
}

func (j *Journal) sync(f *os.File) error {
	j.syncs++
	return j.config.Sync(f)
}

// Append makes a batch durable: when it returns nil, the records have their sequence
// numbers and outlive a loss of power. Appends that come together share one sync. On
// an error nothing was taken, and the same batch may be tried again; a *FullError says
// that there is no room. A crash before it returns may leave a first part of the batch.
func (j *Journal) Append(ctx context.Context, batch Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{batch: batch}
	j.queueMu.Lock()
	j.queue = append(j.queue, r)
	j.queueMu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.done {
		return r.err
	}
	j.queueMu.Lock()
	group := j.queue
	j.queue = nil
	j.queueMu.Unlock()
	j.commit(group)
	return r.err
}

// commit writes requests with one sync. Where they cannot go together, each is tried on
// its own, so that one bad batch fails alone.
func (j *Journal) commit(group []*request) {
	err := j.write(group)
	if err != nil && len(group) > 1 && j.broken == nil {
		for _, r := range group {
			r.err, r.done = j.write([]*request{r}), true
		}
		return
	}
	for _, r := range group {
		r.err, r.done = err, true
	}
}

func (j *Journal) usable() error {
	if j.closed {
		return ErrClosed
	}
	return j.broken
}

func (j *Journal) write(group []*request) error {
	if err := j.usable(); err != nil {
		return err
	}
	var labels []*agentv1.DocumentLabel
	records := 0
	for _, r := range group {
		labels = append(labels, r.batch.Labels...)
		records += len(r.batch.Usage) + len(r.batch.Choices)
	}
	if err := j.labels.add(labels); err != nil {
		return err
	}
	if records == 0 {
		return nil
	}
	// Room for a header and for anchors that a new segment has to repeat is small
	// beside a batch, so one encoding decides both.
	last := j.segments[len(j.segments)-1]
	fresh := last.size >= j.config.SegmentBytes
	entries, next, chain, anchored, err := j.encode(group, fresh)
	if err != nil {
		return err
	}
	size := int64(0)
	for _, e := range entries {
		size += int64(e.size())
	}
	if size > maxBatchBytes {
		return fmt.Errorf("journal: a batch of %d bytes is more than %d", size, maxBatchBytes)
	}
	if total := j.bytes() + size; total > j.config.MaxBytes {
		if !j.full {
			j.log.Error("the journal is full; nothing more is taken until a Manager acknowledges records", "dir", j.config.Dir, "bytes", j.bytes(), "max_bytes", j.config.MaxBytes)
		}
		j.full = true
		return &FullError{Dir: j.config.Dir, Bytes: j.bytes(), MaxBytes: j.config.MaxBytes}
	}
	if fresh {
		if err := j.roll(); err != nil {
			return err
		}
		last = j.segments[len(j.segments)-1]
	}
	j.buffer = j.buffer[:0]
	for _, e := range entries {
		j.buffer = e.append(j.buffer, j.epoch)
	}
	_, err = j.active.WriteAt(j.buffer, last.size)
	if err == nil {
		err = j.sync(j.active)
	}
	if cap(j.buffer) > 1<<20 {
		j.buffer = nil
	}
	if err != nil {
		return j.undo(last, err)
	}
	last.size += size
	last.next = next
	j.next, j.chain, j.anchored, j.full = next, chain, anchored, false
	return nil
}

// undo takes back a write that failed, so that it can be tried again; where even that
// fails nobody knows what is on the disk, and the journal has to be opened anew.
func (j *Journal) undo(last *segment, cause error) error {
	err := j.active.Truncate(last.size)
	if err == nil {
		err = j.sync(j.active)
	}
	if err != nil {
		j.broken = fmt.Errorf("%w: %s: %w", ErrBroken, last.name, errors.Join(cause, err))
		j.log.Error("the journal cannot be written", "error", j.broken)
		return j.broken
	}
	return fmt.Errorf("journal: %s: %w", last.name, cause)
}

// encode numbers the records of a group and puts the anchors that they name, where the
// segment lacks them, in front.
func (j *Journal) encode(group []*request, fresh bool) (entries []entry, next uint64, chain contract.Hash, anchored map[uint64]bool, err error) {
	next, chain = j.next, j.chain
	anchored = map[uint64]bool{}
	if !fresh {
		for id := range j.anchored {
			anchored[id] = true
		}
	}
	for _, r := range group {
		given := map[uint64]*usagev1.Anchor{}
		for _, a := range r.batch.Anchors {
			given[a.GetAnchorId()] = a
		}
		add := func(record *usagev1.Record, anchorID uint64) error {
			if !anchored[anchorID] {
				a := given[anchorID]
				if a == nil {
					a = j.recent[anchorID]
				}
				if a == nil {
					return fmt.Errorf("journal: a record names the anchor %016x, which the batch does not hold", anchorID)
				}
				b, err := proto.Marshal(a)
				if err != nil {
					return fmt.Errorf("journal: anchor: %w", err)
				}
				entries = append(entries, entry{kind: entryAnchor, seq: next, payload: b})
				anchored[anchorID] = true
				if len(j.recent) > 256 {
					clear(j.recent)
				}
				j.recent[anchorID] = a
			}
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(record)
			if err != nil {
				return fmt.Errorf("journal: record: %w", err)
			}
			if len(b) > maxRecord {
				return fmt.Errorf("journal: a record of %d bytes is more than %d", len(b), maxRecord)
			}
			entries = append(entries, entry{kind: entryRecord, seq: next, payload: b})
			chain = contract.Chain(chain, b)
			next++
			return nil
		}
		if tp := r.batch.TraceParent; tp != "" && len(tp) <= 64 {
			entries = append(entries, entry{kind: entryTrace, seq: next, payload: []byte(tp)})
		}
		for _, u := range r.batch.Usage {
			u.AgentId, u.Epoch, u.Seq = j.config.AgentID[:], j.epoch, next
			if err := add(&usagev1.Record{Fact: &usagev1.Record_Usage{Usage: u}}, u.GetAnchorId()); err != nil {
				return nil, 0, chain, nil, err
			}
		}
		for _, c := range r.batch.Choices {
			c.AgentId, c.Epoch, c.Seq = j.config.AgentID[:], j.epoch, next
			if err := add(&usagev1.Record{Fact: &usagev1.Record_Choice{Choice: c}}, c.GetAnchorId()); err != nil {
				return nil, 0, chain, nil, err
			}
		}
	}
	return entries, next, chain, anchored, nil
}

// roll begins a new segment behind the last.
func (j *Journal) roll() error {
	s, f, err := j.create(j.epoch, j.next, j.chain)
	if err != nil {
		return err
	}
	if j.active != nil {
		_ = j.active.Close()
	}
	j.active, j.anchored = f, map[uint64]bool{}
	j.segments = append(j.segments, s)
	j.drop()
	return nil
}

// create makes a segment file durable, empty but for its header.
func (j *Journal) create(epoch, first uint64, before contract.Hash) (*segment, *os.File, error) {
	name := segmentName(epoch, first)
	f, err := os.OpenFile(filepath.Join(j.config.Dir, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	h := header{lane: uint32(j.config.Lane), epoch: epoch, first: first, agent: j.config.AgentID, before: before}
	_, err = f.WriteAt(h.append(nil), 0)
	if err == nil {
		err = j.sync(f)
	}
	if err == nil {
		err = syncDirectory(j.config.Dir, j.sync)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, nil, fmt.Errorf("journal: %s: %w", name, err)
	}
	return &segment{name: name, first: first, next: first, size: int64(headerSize)}, f, nil
}

func (j *Journal) bytes() int64 {
	var n int64
	for _, s := range j.segments {
		n += s.size
	}
	return n
}

// Lane is the kind of the journal's records.
func (j *Journal) Lane() usagev1.Lane { return j.config.Lane }

// Epoch is the one that records are written in now.
func (j *Journal) Epoch() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.epoch
}

// Bytes is the size of the segments on disk.
func (j *Journal) Bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes()
}

// Backlog is how many records are not acknowledged.
func (j *Journal) Backlog() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.backlog()
}

func (j *Journal) backlog() uint64 { return j.next - 1 - j.acked.count() }

// Stats tells how the journal stands.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Stats{
		Epoch: j.epoch, NextSeq: j.next, Unacknowledged: j.backlog(), Bytes: j.bytes(), MaxBytes: j.config.MaxBytes,
		Full: j.full, Syncs: j.syncs, Damage: j.damage, Labels: len(j.labels.pending),
	}
}

// Acknowledge lets go of a range of records, durably. What the journal does not hold,
// and what belongs to another epoch, is ignored.
func (j *Journal) Acknowledge(epoch, firstSeq, lastSeq uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	firstSeq, lastSeq = max(firstSeq, 1), min(lastSeq, j.next-1)
	if epoch != j.epoch || firstSeq > lastSeq {
		return nil
	}
	acked, changed := j.acked.add(span{firstSeq, lastSeq})
	if !changed {
		return nil
	}
	if err := j.saveState(journalState{Epoch: j.epoch, Acked: acked, Next: j.next, Before: j.before}); err != nil {
		return err
	}
	j.acked = acked
	j.drop()
	return nil
}

func (j *Journal) saveState(s journalState) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("journal: state: %w", err)
	}
	return j.state.write(b)
}

// saveStateTwice makes both copies of the state say the same, so that neither is left
// to name an epoch that is over: one bad sector must not bring that epoch back.
func (j *Journal) saveStateTwice(s journalState) error {
	if err := j.saveState(s); err != nil {
		return err
	}
	return j.saveState(s)
}

// drop deletes leading segments that are acknowledged as a whole and that the crash slot
// does not need. Only the first ones go, so that what is left has no hole.
func (j *Journal) drop() {
	for len(j.segments) > 1 {
		s := j.segments[0]
		if held, there := j.acked.holds(s.first); s.next > s.first && (!there || held.Last < s.next-1) {
			return
		}
		if j.slotted && s.next > 0 && s.next-1 > j.slot.position(j.epoch) {
			return
		}
		if err := os.Remove(filepath.Join(j.config.Dir, s.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.log.Warn("an acknowledged segment could not be deleted", "segment", s.name, "error", err)
			return
		}
		j.segments = j.segments[1:]
	}
}

// position is up to which record of an epoch the slot holds.
func (c crashSlot) position(epoch uint64) uint64 {
	if c.newEpoch == epoch && epoch != 0 {
		return c.newSeq
	}
	return c.seq
}

// WriteSlot replaces the crash slot, which holds everything appended so far.
func (j *Journal) WriteSlot(state []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	c := crashSlot{epoch: j.epoch, seq: j.next - 1, state: bytes.Clone(state)}
	if err := j.slotPair.write(c.encode()); err != nil {
		return err
	}
	c.state = nil
	j.slot, j.slotted = c, true
	j.drop()
	return nil
}

// Slot gives the crash slot, the usage events appended after it, and the anchors that
// they name. found is false where there is none.
func (j *Journal) Slot() (state []byte, tail []*usagev1.UsageEvent, anchors []*usagev1.Anchor, found bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.slotted {
		return nil, nil, nil, false, nil
	}
	_, value, found, _, err := openPair(j.slotPair.base, j.sync)
	if err != nil || !found {
		return nil, nil, nil, false, err
	}
	c, err := decodeSlot(value)
	if err != nil {
		return nil, nil, nil, false, err
	}
	records, named, err := j.tail(c)
	if err != nil {
		return nil, nil, nil, false, err
	}
	for _, b := range records {
		var r usagev1.Record
		if err := proto.Unmarshal(b, &r); err != nil {
			return nil, nil, nil, false, fmt.Errorf("journal: record behind the crash slot: %w", err)
		}
		if r.GetUsage() != nil {
			tail = append(tail, r.GetUsage())
		}
	}
	for _, b := range named {
		a := &usagev1.Anchor{}
		if err := proto.Unmarshal(b, a); err != nil {
			return nil, nil, nil, false, fmt.Errorf("journal: anchor behind the crash slot: %w", err)
		}
		anchors = append(anchors, a)
	}
	return c.state, tail, anchors, true, nil
}

// tail gives the records behind a slot, and the anchors of their segments.
func (j *Journal) tail(c crashSlot) (records, anchors [][]byte, err error) {
	var from uint64
	switch j.epoch {
	case c.epoch:
		from, records, anchors = c.seq+1, c.tail[:c.common], c.anchors
	case c.newEpoch:
		from, records, anchors = c.newSeq+1, c.tail, c.anchors
	default:
		j.log.Error("the crash slot belongs to an epoch that is gone; what came after it is not known", "slot_epoch", c.epoch, "epoch", j.epoch)
		return nil, nil, nil
	}
	for _, s := range j.segments {
		if s.next <= from {
			continue
		}
		b, err := j.read(s)
		if err != nil {
			return nil, nil, err
		}
		content, err := parseSegment(b)
		if err != nil {
			return nil, nil, fmt.Errorf("journal: %s: %w", s.name, err)
		}
		for _, e := range content.entries {
			switch {
			case e.kind == entryAnchor:
				anchors = append(anchors, e.payload)
			case e.kind == entryRecord && e.seq >= from:
				records = append(records, e.payload)
			}
		}
	}
	return records, anchors, nil
}

// PendingLabels are labels that are not acknowledged, at most limit of them.
func (j *Journal) PendingLabels(limit int) []*agentv1.DocumentLabel {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.labels.list(limit)
}

// AcknowledgeLabel lets go of a label.
func (j *Journal) AcknowledgeLabel(documentID contract.ID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	return j.labels.acknowledge(documentID)
}

// Close releases the files. Everything appended is durable already.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	err := errors.Join(j.labels.save(), j.saveState(journalState{Epoch: j.epoch, Acked: j.acked, Next: j.next, Before: j.before}))
	if j.active != nil {
		if closeErr := j.active.Close(); err == nil {
			err = closeErr
		}
	}
	return err
}

func (j *Journal) drawEpoch() (uint64, error) {
	for {
		var b [8]byte
		if _, err := io.ReadFull(j.config.Random, b[:]); err != nil {
			return 0, fmt.Errorf("journal: draw an epoch: %w", err)
		}
		if epoch := binary.BigEndian.Uint64(b[:]); epoch != 0 {
			return epoch, nil
		}
	}
}
