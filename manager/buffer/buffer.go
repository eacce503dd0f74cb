package buffer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

const (
	subjectPrefix = "buffer."

	defaultBatchBytes   = 1 << 20
	defaultInFlight     = 3
	defaultReserveBytes = 256 << 20

	identityFileName = "identity"
	headFileName     = "head"

	housekeepingPeriod = 250 * time.Millisecond
	// quickBytes is how much small entries may have unwritten beside the budget of larger ones.
	quickBytes = 4 << 20
)

// SmallEntry is the greatest size in bytes of an entry that does not wait behind larger ones.
const SmallEntry = 16 << 10

// ErrClosed is returned once the buffer has been closed.
var ErrClosed = errors.New("buffer: closed")

// ErrNothing says that the buffer holds no message at or behind a position.
var ErrNothing = errors.New("buffer: nothing there")

// Config is what a buffer needs to know.
type Config struct {
	// Dir is the buffer's own folder.
	Dir string
	// AccountID and ManagerID head every batch.
	AccountID, ManagerID contract.ID
	// MaxBytes bounds the stream on disk.
	MaxBytes int64
	// ReserveBytes is what must stay free on the disk; 256 MiB by default.
	ReserveBytes int64
	// BatchBytes is the size at which a batch is full; 1 MiB by default, at
	// most contract.MaxBatchBytes.
	BatchBytes int
	// InFlight is how many batches may be on their way to the disk; 3 by default.
	InFlight int
	// Reborn makes a new identity for all that the buffer holds where the file
	// with the old one is missing or damaged, instead of refusing to open.
	Reborn bool
	// Log takes what the buffer has to say.
	Log *slog.Logger
}

// Buffer is an open buffer. Its methods may be called from any goroutine.
type Buffer struct {
	config Config
	log    *slog.Logger
	lock   *os.File
	head   *head
	first  []byte // what every batch begins with
	// budget bounds what is unwritten of large entries, quick of small ones.
	budget, quick *semaphore.Weighted

	ctx    context.Context // ends when the buffer gives up on what is unwritten
	cancel context.CancelFunc
	wg     sync.WaitGroup
	flying chan *flight

	mu         sync.Mutex
	work       *sync.Cond
	store      *store
	identity   identity
	open       [2]*batch // by laneIndex; being gathered
	full       []*batch  // waiting for their turn
	spare      [][]byte  // memory of batches that are durable
	inFlight   int
	recovering bool
	stopping   bool
	stall      string
	tail       uint64 // the last position given out
	durable    uint64
	released   uint64
	used       int64
	free       int64
	changed    chan struct{}
	stats      Stats
}

// Stats counts what the buffer did since it was opened.
type Stats struct {
	// Commits is how many batches became durable, Entries how many entries they
	// held, Bytes their size.
	Commits, Entries, Bytes uint64
	// Failures is how many attempts to write failed.
	Failures uint64
}

// State is how the buffer is doing.
type State struct {
	// ID is the current identity.
	ID contract.ID
	// FirstPosition and LastPosition bound what is kept; Last is First − 1 where
	// nothing is.
	FirstPosition, LastPosition uint64
	// UsedBytes is the size on disk, MaxBytes its bound, FreeBytes what the disk
	// has left.
	UsedBytes, MaxBytes, FreeBytes int64
	// Stall says why nothing can be written; empty while all is well.
	Stall string
	// Losses are acknowledged positions that are gone.
	Losses []Loss
	// Stats counts.
	Stats Stats
}

// Open opens the buffer in its folder, making one where there is none. What it
// finds missing against its own records it reports in State and in the log.
func Open(ctx context.Context, config Config) (*Buffer, error) {
	if config.BatchBytes == 0 {
		config.BatchBytes = defaultBatchBytes
	}
	if config.InFlight == 0 {
		config.InFlight = defaultInFlight
	}
	if config.ReserveBytes == 0 {
		config.ReserveBytes = defaultReserveBytes
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.BatchBytes > contract.MaxBatchBytes-contract.MaxFrameBytes/4 {
		config.BatchBytes = contract.MaxBatchBytes - contract.MaxFrameBytes/4
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("buffer: %w", err)
	}
	lock, err := lockDir(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("buffer: %w", err)
	}
	b := &Buffer{
		config:  config,
		log:     config.Log.With("part", "buffer"),
		lock:    lock,
		first:   batchHead(config.AccountID, config.ManagerID),
		budget:  semaphore.NewWeighted(int64(config.InFlight+2) * int64(config.BatchBytes+contract.MaxFrameBytes)),
		quick:   semaphore.NewWeighted(quickBytes),
		flying:  make(chan *flight, config.InFlight),
		changed: make(chan struct{}),
	}
	b.work = sync.NewCond(&b.mu)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if err := b.recoverFolder(ctx); err != nil {
		b.cancel()
		if b.store != nil {
			b.store.close()
		}
		if b.head != nil {
			_ = b.head.close()
		}
		_ = lock.Close()
		return nil, err
	}
	b.wg.Go(b.commitLoop)
	b.wg.Go(b.acknowledgeLoop)
	b.wg.Go(b.housekeepingLoop)
	return b, nil
}

// recoverFolder compares what the stream holds with what the records beside it
// say that it must hold.
func (b *Buffer) recoverFolder(ctx context.Context) error {
	identityPath := filepath.Join(b.config.Dir, identityFileName)
	var remembered uint64
	var err error
	if b.head, remembered, err = openHead(filepath.Join(b.config.Dir, headFileName)); errors.Is(err, durable.ErrDamaged) {
		b.log.Warn("the record of the last position is damaged; a lost tail would not be noticed this time", "error", err)
	} else if err != nil {
		return fmt.Errorf("buffer: %w", err)
	}
	born := false
	if b.identity, err = loadIdentity(identityPath); errors.Is(err, fs.ErrNotExist) || b.config.Reborn && errors.Is(err, durable.ErrDamaged) {
		born = true
		b.identity = bornIdentity()
	} else if err != nil {
		return fmt.Errorf("buffer: %w; its messages are intact: `cetrus-manager takeover` gives the buffer a new identity and goes on with all that it holds", err)
	}
	current := b.identity.segments[len(b.identity.segments)-1]
	atLeast := max(remembered, current.From-1, b.identity.released)
	if b.store, err = openStore(ctx, b.config.Dir, b.config.MaxBytes, atLeast+1, b.identity.released+1, b.log); err != nil {
		return err
	}
	info, err := b.store.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return fmt.Errorf("buffer: read the stream's state: %w", err)
	}
	state := info.State
	if born && state.Msgs > 0 && !b.config.Reborn {
		return fmt.Errorf("buffer: %s is missing, but there are %d messages: `cetrus-manager takeover` gives the buffer a new identity and goes on with all that it holds", identityPath, state.Msgs)
	}
	if born {
		firstKept := firstKept(state)
		b.identity.segments[0].From, b.identity.released = firstKept, firstKept-1
	}
	if missing := b.missing(state, remembered); born || missing {
		if err := b.identity.save(identityPath); err != nil {
			return fmt.Errorf("buffer: %w", err)
		}
	}
	b.tail, b.durable, b.used, b.released = state.LastSeq, state.LastSeq, int64(state.Bytes), firstKept(state)-1
	if b.free, err = freeBytes(b.config.Dir); err != nil {
		return fmt.Errorf("buffer: %w", err)
	}
	return b.head.set(state.LastSeq)
}

func firstKept(state jetstream.StreamState) uint64 {
	if state.Msgs == 0 {
		return state.LastSeq + 1
	}
	return state.FirstSeq
}

// missing notes what the stream lacks of all that must be in it up to a position, and
// gives the places of a lost tail another identity. It tells whether the identity has
// changed and must be saved.
func (b *Buffer) missing(state jetstream.StreamState, remembered uint64) (changed bool) {
	var losses []Loss
	lose := func(from, to uint64, reason string) {
		losses = append(losses, Loss{From: from, To: to, Found: time.Now().UTC(), Reason: reason})
	}
	if first := firstKept(state); first > b.identity.released+1 {
		lose(b.identity.released+1, first-1, "the stream begins later than it must")
	}
	for _, position := range state.Deleted {
		if n := len(losses); n > 0 && losses[n-1].To == position-1 {
			losses[n-1].To = position
		} else {
			lose(position, position, "messages inside the stream are unreadable")
		}
	}
	if state.LastSeq < remembered {
		lose(state.LastSeq+1, remembered, "the stream ends earlier than it must: its file was cut, or an older copy was put back")
		b.identity = b.identity.rebornAt(state.LastSeq + 1)
	}
	for _, l := range losses {
		known := slices.ContainsFunc(b.identity.losses, func(k Loss) bool { return k.From <= l.From && l.To <= k.To })
		if known && l.To < remembered {
			continue
		}
		changed = true
		b.identity.losses = append(slices.Clip(b.identity.losses), l)
		b.log.Error("acknowledged messages are missing from the buffer", "from", l.From, "to", l.To, "reason", l.Reason)
	}
	return changed
}

// Close stops taking entries, writes what was gathered unless ctx ends first, and
// closes. Entries whose Done was not called are not in the buffer, as far as
// anybody may rely on.
func (b *Buffer) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.stopping {
		b.mu.Unlock()
		return nil
	}
	b.stopping = true
	b.work.Broadcast()
	b.mu.Unlock()
	stop := context.AfterFunc(ctx, b.giveUp)
	b.wg.Wait()
	stop()
	b.cancel()
	b.store.close()
	return errors.Join(b.head.close(), b.lock.Close())
}

func (b *Buffer) giveUp() {
	b.cancel()
	b.mu.Lock()
	b.work.Broadcast()
	b.mu.Unlock()
}

// Acknowledge notes that a person knows of all losses so far, and tells how many were
// new to them. The losses stay in State.
func (b *Buffer) Acknowledge(now time.Time) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known, fresh := b.identity, 0
	known.losses = slices.Clone(known.losses)
	for i := range known.losses {
		if known.losses[i].Acknowledged.IsZero() {
			known.losses[i].Acknowledged = now.UTC()
			fresh++
		}
	}
	if fresh == 0 {
		return 0, nil
	}
	if err := known.save(filepath.Join(b.config.Dir, identityFileName)); err != nil {
		return 0, fmt.Errorf("buffer: %w", err)
	}
	b.identity = known
	return fresh, nil
}

// State tells how the buffer is doing.
func (b *Buffer) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return State{
		ID:            b.identity.segments[len(b.identity.segments)-1].ID,
		FirstPosition: b.released + 1,
		LastPosition:  b.durable,
		UsedBytes:     b.used,
		MaxBytes:      b.config.MaxBytes,
		FreeBytes:     b.free,
		Stall:         b.stall,
		Losses:        slices.Clone(b.identity.losses),
		Stats:         b.stats,
	}
}

// Stalled says why nothing can be written at the moment; empty while all is well.
func (b *Buffer) Stalled() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stall
}

// Segments are the identities of the buffer, oldest first; the last one is current.
func (b *Buffer) Segments() []Segment {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.identity.segments)
}

// Rebirth gives everything from a position on a new identity: what a takeover
// does. It is durable when it returns.
func (b *Buffer) Rebirth(from uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	reborn := b.identity.rebornAt(from)
	if err := reborn.save(filepath.Join(b.config.Dir, identityFileName)); err != nil {
		return fmt.Errorf("buffer: %w", err)
	}
	b.identity = reborn
	return nil
}

// Message is one message of the buffer.
type Message struct {
	// Position is its place, BufferID the identity that it was stored under.
	Position uint64
	BufferID contract.ID
	Lane     usagev1.Lane
	// Data is a serialized usagev1.AgentBatch.
	Data []byte
	// TraceParent is W3C trace context, or empty.
	TraceParent string
	// Stored is when it was stored, by the Manager's clock.
	Stored time.Time
}

// Next reads the first durable message of a lane at or behind a position;
// ErrNothing where there is none.
func (b *Buffer) Next(ctx context.Context, lane usagev1.Lane, from uint64) (Message, error) {
	b.mu.Lock()
	stream, durable := b.store.stream, b.durable
	b.mu.Unlock()
	if from > durable {
		return Message{}, ErrNothing
	}
	raw, err := stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subjectOf(lane)))
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && raw.Sequence > durable {
		return Message{}, ErrNothing
	}
	if err != nil {
		return Message{}, fmt.Errorf("buffer: read position %d: %w", from, err)
	}
	b.mu.Lock()
	segment := b.identity.of(raw.Sequence)
	b.mu.Unlock()
	return Message{
		Position:    raw.Sequence,
		BufferID:    segment.ID,
		Lane:        lane,
		Data:        raw.Data,
		TraceParent: raw.Header.Get(contract.HeaderTraceParent),
		Stored:      raw.Time,
	}, nil
}

// StoredAt is when the first message at or behind a position was stored;
// ErrNothing where there is none.
func (b *Buffer) StoredAt(ctx context.Context, position uint64) (time.Time, error) {
	b.mu.Lock()
	stream := b.store.stream
	b.mu.Unlock()
	raw, err := stream.GetMsg(ctx, position, jetstream.WithGetMsgSubject(subjectPrefix+"*"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, ErrNothing
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("buffer: read position %d: %w", position, err)
	}
	return raw.Time, nil
}

// Changed is closed when more becomes durable than is now.
func (b *Buffer) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// Release deletes every message up to and with a position.
func (b *Buffer) Release(ctx context.Context, through uint64) error {
	b.mu.Lock()
	if through > b.durable {
		b.mu.Unlock()
		return fmt.Errorf("buffer: release through %d: only %d is durable", through, b.durable)
	}
	if through <= b.released {
		b.mu.Unlock()
		return nil
	}
	stream := b.store.stream
	b.identity.released = through
	err := b.identity.save(filepath.Join(b.config.Dir, identityFileName))
	b.mu.Unlock()
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSequence(through+1))
	}
	if err != nil {
		return fmt.Errorf("buffer: release through %d: %w", through, err)
	}
	b.mu.Lock()
	b.released = through
	b.mu.Unlock()
	b.measure(ctx)
	return nil
}

func (b *Buffer) housekeepingLoop() {
	tick := time.NewTicker(housekeepingPeriod)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		b.mu.Lock()
		stop := b.stopping && (b.idle() || b.stall != "")
		b.mu.Unlock()
		if stop {
			return
		}
		b.measure(b.ctx)
	}
}

// measure looks at the disk and the stream, and starts or ends a stall.
func (b *Buffer) measure(ctx context.Context) {
	free, err := freeBytes(b.config.Dir)
	if err != nil {
		b.log.Error("cannot tell what the disk has left", "error", err)
		return
	}
	b.mu.Lock()
	s := b.store
	recovering := b.recovering
	b.mu.Unlock()
	if recovering {
		return // it measures by trying
	}
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	info, err := s.stream.Info(ctx)
	if err != nil {
		if ctx.Err() == nil {
			b.log.Warn("cannot read the buffer's size", "error", err)
		}
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free, b.used = free, int64(info.State.Bytes)
	if !b.recovering {
		b.setStall(b.wouldStall())
	}
}

// wouldStall says why the next batch should not even be tried.
func (b *Buffer) wouldStall() string {
	switch {
	case b.used+int64(b.config.InFlight+1)*contract.MaxBatchBytes > b.config.MaxBytes:
		return fmt.Sprintf("the buffer is full: %d of %d bytes wait for the platform; raise max_buffer_bytes or bring the platform back", b.used, b.config.MaxBytes)
	case b.free < b.config.ReserveBytes:
		return fmt.Sprintf("the disk is full: %d bytes are left, %d must stay free; make room on the disk that holds %s", b.free, b.config.ReserveBytes, b.config.Dir)
	}
	return ""
}

func (b *Buffer) setStall(reason string) {
	if (reason == "") != (b.stall == "") {
		if reason == "" {
			b.log.Info("the buffer takes data again")
		} else {
			b.log.Error("the buffer takes no data: agents are asked to wait", "reason", reason)
		}
	}
	b.stall = reason
	b.work.Broadcast()
}

func laneIndex(lane usagev1.Lane) int {
	if lane == usagev1.Lane_LANE_CHOICE {
		return 1
	}
	return 0
}

func subjectOf(lane usagev1.Lane) string { return subjects[laneIndex(lane)] }

var subjects = [2]string{subjectPrefix + "usage", subjectPrefix + "choice"}

func message(b *batch) *nats.Msg {
	m := &nats.Msg{Subject: subjects[b.lane], Data: b.data}
	if b.trace != "" {
		m.Header = nats.Header{contract.HeaderTraceParent: []string{b.trace}}
	}
	return m
}
