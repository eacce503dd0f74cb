package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

const (
	firstPause   = time.Second
	longestPause = time.Minute
	askWithin    = 10 * time.Second
	// lookEvery is how often it is looked what may go out of the stream.
	lookEvery = time.Minute
	// heartbeat is how long the server may say nothing before it counts as gone.
	heartbeat = 2 * time.Second
	// forgotten is when the server may drop the consumer of an archiver that died.
	forgotten = time.Minute
	// mostPulled bounds the bytes under way.
	mostPulled = 8 << 20
	// mark is made once in each store: the second attempt shows that it refuses to replace.
	mark = "this-is-an-archive-of-cetrus"
)

// Errors of an archiver that does not go on by itself.
var (
	// ErrAhead means that the archive holds what the stream does not, or holds otherwise.
	ErrAhead = errors.New("archive: the stream is not as it was archived: it was put back, or has lost messages")
	// ErrNoBeginning means that messages have gone out of the stream, and the archive has none at all: it is another
	// than the one that holds them.
	ErrNoBeginning = errors.New("archive: what has gone out of the stream is not in this archive, which is empty")
)

// ArchiverConfig says how a stream is archived.
type ArchiverConfig struct {
	// Stream that is archived.
	Stream string
	// SegmentBytes and SegmentAge are when a segment is cut: it holds so many bytes of messages,
	// or its first is so old. Default 32 MiB and an hour.
	SegmentBytes int64
	SegmentAge   time.Duration
	// Keep is for how long the stream keeps what is archived; 0: for ever. What is not archived
	// stays in any case.
	Keep time.Duration
	// BeginAnew has an empty archive begin where the stream does, though that has lost messages before.
	BeginAnew bool
}

// Deps are what an archiver stands on.
type Deps struct {
	JetStream jetstream.JetStream
	Store     Store
	Keys      *Keys
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
}

// Archiver archives one stream. Several at work on one stream do no harm.
type Archiver struct {
	cfg  ArchiverConfig
	deps Deps
	log  *slog.Logger
	now  func() time.Time

	// position is the last sequence that is archived; oldest when the stream took the first
	// message that is not, or when it was first not to be known, in nanoseconds since 1970, 0 where there is none.
	position atomic.Uint64
	oldest   atomic.Int64

	segments, failures metric.Int64Counter
	registration       metric.Registration

	// Of the goroutine of Run only.
	proved bool
	// next is the segment that goes out of the stream next, once it is old enough; its name is
	// empty where that was not looked at in this session: the next may find another stream.
	next struct {
		name string
		Header
	}
}

// NewArchiver makes one.
func NewArchiver(cfg ArchiverConfig, deps Deps) (*Archiver, error) {
	if cfg.Stream == "" || deps.JetStream == nil || deps.Store == nil || deps.Keys == nil {
		return nil, errors.New("archive: an archiver needs a Stream, JetStream, a Store and Keys")
	}
	cfg.SegmentBytes, cfg.SegmentAge = cmp.Or(cfg.SegmentBytes, 32<<20), cmp.Or(cfg.SegmentAge, time.Hour)
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	a := &Archiver{cfg: cfg, deps: deps, log: deps.Logger.With("component", "archive", "stream", cfg.Stream), now: time.Now}
	if err := a.measure(); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return a, nil
}

func (a *Archiver) measure() error {
	meter := otel.Meter("github.com/cetrus/cetrus/services/platform/archive")
	var err error
	if a.segments, err = meter.Int64Counter("cetrus.archive.segments", metric.WithDescription("Segments archived.")); err != nil {
		return err
	}
	if a.failures, err = meter.Int64Counter("cetrus.archive.failures", metric.WithDescription("Times that archiving was interrupted.")); err != nil {
		return err
	}
	behind, err := meter.Float64ObservableGauge("cetrus.archive.behind", metric.WithUnit("s"), metric.WithDescription("Age of the oldest message that is not archived, as last seen, or for how long that cannot be known; 0 while there is none."))
	if err != nil {
		return err
	}
	position, err := meter.Int64ObservableGauge("cetrus.archive.position", metric.WithDescription("Last sequence of the stream that is archived."))
	if err != nil {
		return err
	}
	a.registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveFloat64(behind, a.Behind().Seconds())
		o.ObserveInt64(position, int64(a.position.Load()))
		return nil
	}, behind, position)
	return err
}

// Behind is how old the oldest message is that is not archived, as last seen; 0 while there is none. Where nothing can
// be archived and none was seen, it counts from then on: messages come whether somebody looks or not.
func (a *Archiver) Behind() time.Duration {
	if oldest := a.oldest.Load(); oldest != 0 {
		return max(0, a.now().Sub(time.Unix(0, oldest)))
	}
	return 0
}

// Position is the last sequence that is archived.
func (a *Archiver) Position() uint64 { return a.position.Load() }

// Run archives until ctx ends, then returns nil. Whatever fails is tried again: what is not
// archived stays in the stream.
func (a *Archiver) Run(ctx context.Context) error {
	defer func() { _ = a.registration.Unregister() }()
	wait := firstPause
	var refusedAt *uint64
	for {
		before := a.position.Load()
		err := a.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		// Refused at one place twice, nobody else is there: it is the store that refuses.
		if at := a.position.Load(); errors.Is(err, ErrExists) && (refusedAt == nil || *refusedAt != at) {
			a.log.Info("another archiver is at work; going on behind it")
			refusedAt, wait = &at, firstPause
			continue
		}
		if a.position.Load() > before {
			wait = firstPause
		}
		a.failures.Add(ctx, 1)
		a.oldest.CompareAndSwap(0, a.now().UnixNano())
		a.log.Error("the stream is not archived; nothing is taken out of it meanwhile", "behind", a.Behind().Round(time.Second), "error", err, "again in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, longestPause)
	}
}

// session archives from where the archive ends until something fails.
func (a *Archiver) session(ctx context.Context) error {
	// Until it is known where the archive ends, something may wait.
	a.oldest.CompareAndSwap(0, a.now().UnixNano())
	if err := a.prove(ctx); err != nil {
		return err
	}
	stream, created, err := a.stream(ctx)
	if err != nil {
		return err
	}
	// As it was before the archive is looked at: what another archiver takes out meanwhile is archived, and not seen here.
	first := stream.CachedInfo().State.FirstSeq
	to := New(a.deps.Store, a.deps.Keys, a.cfg.Stream, created)
	at, err := to.tail(ctx)
	if err != nil {
		return err
	}
	// NATS answers soon or not at all. The store may be slow.
	asked, cancel := context.WithTimeout(ctx, 4*askWithin)
	defer cancel()
	info, err := stream.Info(asked) // meanwhile another archiver may have gone on
	if err != nil {
		return fmt.Errorf("stream %s: %w", a.cfg.Stream, err)
	}
	if !info.Created.Equal(created) {
		return fmt.Errorf("stream %s: it was made anew while the archive was looked at", a.cfg.Stream)
	}
	if err := a.sameStream(asked, stream, at); err != nil {
		return err
	}
	a.position.Store(at.last)
	a.next.name = ""
	from, err := a.goesOn(first, at)
	if err != nil {
		return err
	}
	cons, err := stream.CreateConsumer(asked, jetstream.ConsumerConfig{
		Description: "archive", DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: forgotten,
	})
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", a.cfg.Stream, err)
	}
	messages, err := cons.Messages(jetstream.PullMaxBytes(mostPulled), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fmt.Errorf("reading %s: %w", a.cfg.Stream, err)
	}
	defer messages.Stop()
	if cons.CachedInfo().NumPending == 0 {
		a.oldest.Store(0)
	}
	packer := newPacker()
	var delivered uint64
	for {
		b := &builder{packer: packer, header: Header{Stream: a.cfg.Stream, Created: info.Created.UTC(), Branch: at.branch, First: from, Previous: at.previous}}
		for !a.due(b) {
			patient, cancel := context.WithTimeout(ctx, a.patience(b))
			m, err := messages.Next(jetstream.NextContext(patient))
			cancel()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, context.DeadlineExceeded) {
				b.behind = false
				if err := a.remove(ctx, stream, to); err != nil {
					a.log.Warn("what is archived could not be taken out of the stream", "error", err)
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("reading %s: %w", a.cfg.Stream, err)
			}
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("reading %s: %w", a.cfg.Stream, err)
			}
			if meta.Sequence.Consumer != delivered+1 {
				return fmt.Errorf("reading %s: message %d of the consumer came after %d: some were lost on the way", a.cfg.Stream, meta.Sequence.Consumer, delivered)
			}
			delivered++
			b.add(&Message{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Stored: meta.Timestamp, Header: m.Headers(), Data: m.Data()}, meta.NumPending > 0)
			if b.header.Messages == 1 {
				a.oldest.Store(meta.Timestamp.UnixNano())
			}
		}
		content, sum, err := b.seal(a.deps.Keys)
		if err != nil {
			return err
		}
		name := to.segmentName(at.branch, from)
		if err := a.deps.Store.Create(ctx, name, content); err != nil {
			return err
		}
		a.segments.Add(ctx, 1)
		a.position.Store(b.header.Last)
		a.oldest.Store(0) // the next message, where there is one, sets it
		a.log.Info("a segment is archived", "from", from, "to", b.header.Last, "messages", b.header.Messages, "bytes", b.header.Bytes, "sealed_bytes", len(content))
		from, at.previous = b.header.Last+1, sum.String()
		if err := a.remove(ctx, stream, to); err != nil {
			a.log.Warn("what is archived could not be taken out of the stream", "error", err)
		}
	}
}

// stream is the stream that is archived, and when it was made.
func (a *Archiver) stream(ctx context.Context) (jetstream.Stream, time.Time, error) {
	asked, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	stream, err := a.deps.JetStream.Stream(asked, a.cfg.Stream)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("stream %s: %w", a.cfg.Stream, err)
	}
	return stream, stream.CachedInfo().Created, nil
}

// goesOn is the first sequence to be archived of a stream that begins with one.
func (a *Archiver) goesOn(first uint64, at tail) (uint64, error) {
	from := at.last + 1
	switch {
	case first <= from:
		return from, nil
	case at.last > 0:
		a.log.Error("messages have gone out of the stream that were never archived", "from", from, "to", first-1)
		return from, nil
	case a.cfg.BeginAnew:
		a.log.Warn("the archive begins anew: what has gone out of the stream is not in it", "from", first)
		return first, nil
	}
	return 0, fmt.Errorf("%w: the stream begins at %d, and %s has nothing of it; name the archive that has the rest, or, where there is none, have one begin there: --archive-begin-anew", ErrNoBeginning, first, a.deps.Store.Where())
}

// prove makes sure, once, that the store refuses to replace an object: two archivers rely on it.
func (a *Archiver) prove(ctx context.Context) error {
	for range 2 {
		if a.proved {
			return nil
		}
		err := a.deps.Store.Create(ctx, mark, []byte("Objects here are made once, and never changed.\n"))
		if err != nil && !errors.Is(err, ErrExists) {
			return err
		}
		a.proved = err != nil
	}
	if !a.proved {
		return fmt.Errorf("archive: %s replaces objects that are there, whatever \"If-None-Match: *\" says: two archivers would destroy each other's; take another store", a.deps.Store.Where())
	}
	return nil
}

// sameStream fails where the stream cannot be the one that the archive ends with.
func (a *Archiver) sameStream(ctx context.Context, stream jetstream.Stream, at tail) error {
	const wayOut = "; bring the stream back, or have the archive go on behind what it has: cetrus archive fork"
	if last := stream.CachedInfo().State.LastSeq; at.last > last {
		return fmt.Errorf("%w: it ends at %d, the archive at %d"+wayOut, ErrAhead, last, at.last)
	}
	if at.ended.IsZero() {
		return nil
	}
	m, err := stream.GetMsg(ctx, at.last)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the message at %d: %w", at.last, err)
	}
	if !m.Time.Equal(at.ended) {
		return fmt.Errorf("%w: message %d is of %s, that in the archive of %s"+wayOut, ErrAhead, at.last, m.Time.UTC().Format(time.RFC3339Nano), at.ended.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

func (a *Archiver) due(b *builder) bool {
	return b.header.Bytes >= a.cfg.SegmentBytes || b.header.Messages > 0 && !b.behind && a.now().Sub(b.header.Began) >= a.cfg.SegmentAge
}

// patience is how long to wait for another message.
func (a *Archiver) patience(b *builder) time.Duration {
	if b.header.Messages == 0 || b.behind {
		return lookEvery
	}
	return min(lookEvery, max(time.Millisecond, a.cfg.SegmentAge-a.now().Sub(b.header.Began)))
}

// remove takes out of the stream what was archived, has been read back, and is old enough.
func (a *Archiver) remove(ctx context.Context, stream jetstream.Stream, from *Archive) error {
	if a.cfg.Keep <= 0 {
		return nil
	}
	for {
		if a.next.name == "" {
			info, err := stream.Info(ctx)
			if err != nil {
				return err
			}
			if err := a.readBack(ctx, from, info.State.FirstSeq); err != nil || a.next.name == "" {
				return err
			}
		}
		if a.now().Sub(a.next.Ended) < a.cfg.Keep {
			return nil
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSequence(a.next.Last+1)); err != nil {
			return err
		}
		a.log.Info("what is archived was taken out of the stream", "to", a.next.Last)
		a.next.name = ""
	}
}

// readBack reads the first segment that the stream still holds messages of, to its end, as who needs it would.
func (a *Archiver) readBack(ctx context.Context, from *Archive, first uint64) error {
	enough := errors.New("one is enough")
	_, err := from.read(ctx, first, func(p part, s *segment, until uint64) error {
		if until == s.Last { // of one that counts in part, the rest is in the next
			if err := s.messages(a.deps.Keys, func(Message) error { return nil }); err != nil {
				return err
			}
			a.next.name, a.next.Header = p.name, s.Header
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		return nil
	}
	return err
}
