package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/cetrus/cetrus/services/platform/postgres"
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	// reportEvery is how often progress is told.
	reportEvery = 250 * time.Millisecond
	// askEvery is how often a waiting reader asks the tables how far another process is.
	askEvery = 25 * time.Millisecond
	// moveEvery is how often the checkpoints of partitions in which nothing happens are moved: what
	// is behind them is read again, and left out, by who begins there.
	moveEvery = time.Second
	// lookEvery is how often it is looked whether the stream has gone on in others' partitions alone.
	lookEvery = 10 * time.Second
	// asksAtOnce is how many subjects the stream is asked about at a time.
	asksAtOnce = 16
)

// errShares says that other partitions are to be read.
var errShares = errors.New("other partitions are read")

// errOvertaken says that messages may have gone out of the stream before they were read here: they are in the archive.
var errOvertaken = errors.New("the stream no longer holds all that was still to be read of it: the archive is read first")

// Config says what a Runner projects.
type Config struct {
	// Name of the projection, for its checkpoint, logs and metrics.
	Name string
	// Shares, where it is set, says which partitions are read here, while other processes read the
	// others. Where it is nil, all is read here.
	Shares *Shares
	// JetStream and Stream are what is read.
	JetStream jetstream.JetStream
	Stream    string
	// Subjects filter the stream; none means all of it. A projection keeps its
	// subjects for life: what a filter leaves out is never applied later. Where Shares has
	// more than one partition they are of the form <word>.*.… or <word>.>, and the partition is the second token.
	Subjects []string
	// WholeStream says that the stream holds nothing else than Subjects.
	WholeStream bool
	// Archive, where it is set, holds what the stream no longer does: a projection that begins
	// there reads it first. Without it, what has gone out of the stream is left out.
	Archive Archive
	// Pool is the projector's pool, with the projection's schema as search_path
	// and Migrations applied.
	Pool *pgxpool.Pool
	// Handler writes the tables.
	Handler Handler

	// Forget, where it is set, is called before the first batch of each session: by
	// then the tables may be others than when the handler last saw them, since a
	// crash of Postgres took commits back, or another Runner wrote. It must drop
	// whatever is remembered of them.
	Forget func()
	// Decode, where it is set, is called for each message ahead of Apply, by
	// several goroutines at once, and may leave its result in Message.Decoded.
	Decode func(*Message)
	// Poison, where it is set, takes a message that Apply fails on for good when
	// it stands alone in its batch, within the transaction that moves the
	// checkpoint over it: it must put it where it can be seen. Where it is nil,
	// such a message stops the Runner.
	Poison func(ctx context.Context, tx pgx.Tx, m Message, cause error) error
	// Level, where it is set, is called once, when everything that the stream
	// held has been applied: the moment to swap a rebuilt version in.
	Level func(ctx context.Context) error
	// Progress, where it is set, is told how far the Runner is, some times a
	// second. It must not block.
	Progress func(Progress)

	// MaxMessages and MaxBytes bound a batch; default 4,096 and 4 MiB.
	MaxMessages int
	MaxBytes    int
	// MaxWait is how long a batch that is not full waits for messages that are
	// known to be on their way; default 50 ms. A batch never waits for messages
	// that are not stored yet.
	MaxWait time.Duration
	// Prefetch bounds the bytes that are read ahead; default 16 MiB.
	Prefetch int

	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Progress is how far a Runner is.
type Progress struct {
	// Position up to which everything is applied.
	Position uint64
	// Done counts the messages applied since Run began.
	Done uint64
	// Total is Done and what was waiting when it was last looked at.
	Total uint64
	// PerSecond is the rate of the last seconds, in messages.
	PerSecond int64
	// Remaining is how long the rest takes at that rate.
	Remaining time.Duration
	// Level is true once everything was applied that the stream held.
	Level bool
}

// Runner keeps one projection up to date.
type Runner struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	mu       sync.Mutex
	progress Progress
	moved    chan struct{} // closed at each change of progress, reads or failed
	failed   error
	reads    set // of the session under way

	// applying is held by whoever is in a transaction with the handler's tables.
	applying sync.Mutex
	held     map[int]checkpoint // under applying: as this Runner left them, by partition

	// Of the goroutine of Run only.
	levelTold    bool
	levelHere    bool   // in this session, what is read here
	isolateUntil uint64 // messages up to here are applied one by one
	reported     time.Time
	rate         rate
}

// New makes a Runner.
func New(cfg Config) (*Runner, error) {
	for what, missing := range map[string]bool{
		"Name": cfg.Name == "", "JetStream": cfg.JetStream == nil, "Stream": cfg.Stream == "",
		"Pool": cfg.Pool == nil, "Handler": cfg.Handler == nil,
	} {
		if missing {
			return nil, fmt.Errorf("projection: %q: Config.%s is missing", cfg.Name, what)
		}
	}
	if cfg.Shares != nil && cfg.Shares.cfg.Partitions != Whole && len(cfg.Subjects) == 0 {
		return nil, fmt.Errorf("projection: %q: Config.Subjects are needed, to be read by partition", cfg.Name)
	}
	if cfg.MaxMessages == 0 {
		cfg.MaxMessages = 4096
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 4 << 20
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 50 * time.Millisecond
	}
	if cfg.Prefetch == 0 {
		cfg.Prefetch = 16 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := &Runner{cfg: cfg, log: cfg.Logger.With("projection", cfg.Name), moved: make(chan struct{})}
	var err error
	if r.metrics, err = newMetrics(r); err != nil {
		return nil, fmt.Errorf("projection: %s: %w", cfg.Name, err)
	}
	return r, nil
}

// Run applies what the stream holds and what comes, until ctx ends; it then
// returns nil. It outlives the deaths of Postgres and NATS. It returns an error
// only where going on would be wrong: another stream under the same name, or a
// message that cannot be applied while Config.Poison is nil.
//
// Run is called once.
func (r *Runner) Run(ctx context.Context) error {
	defer r.metrics.stop()
	if r.cfg.Shares != nil {
		defer r.cfg.Shares.ended(r)
	}
	wait := firstPause
	for {
		before := r.Progress().Done
		err := r.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errShares) {
			continue
		}
		if fatal := r.fatal(err); fatal != nil {
			fatal = fmt.Errorf("projection: %s: %w", r.cfg.Name, fatal)
			r.log.Error("the projection has stopped: what it shows stays as it is", "error", fatal, "position", r.Progress().Position)
			r.fail(fatal)
			return fatal
		}
		if r.Progress().Done > before {
			wait = firstPause
		}
		r.metrics.failures.Add(ctx, 1, r.metrics.attributes)
		r.log.Warn("the projection was interrupted and begins again at its checkpoint", "error", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, longestPause)
	}
}

// fatal is the error to stop for, or nil.
func (r *Runner) fatal(err error) error {
	if IsLogChanged(err) {
		return err
	}
	var bad *badMessageError
	if errors.As(err, &bad) && bad.alone && (r.cfg.Poison == nil || bad.poisoning) {
		return bad
	}
	return nil
}

// badMessageError says that the handler, not the database, failed.
type badMessageError struct {
	first, last uint64
	alone       bool // the batch was this one message
	poisoning   bool // Poison itself failed
	cause       error
}

func (e *badMessageError) Error() string {
	if e.alone {
		return fmt.Sprintf("the message at position %d cannot be applied: %v", e.first, e.cause)
	}
	return fmt.Sprintf("a message of positions %d to %d cannot be applied: %v", e.first, e.last, e.cause)
}

func (e *badMessageError) Unwrap() error { return e.cause }

// session reads and applies from the checkpoints on until something fails, or other partitions are
// to be read.
func (r *Runner) session(ctx context.Context) error {
	of, changed := r.share()
	tick := time.NewTicker(moveEvery)
	defer tick.Stop()
	if of == 0 {
		return r.stand(ctx, changed, tick.C)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, cancelAsked := context.WithTimeout(ctx, 10*time.Second)
	defer cancelAsked()
	stream, err := r.cfg.JetStream.Stream(asked, r.cfg.Stream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.cfg.Stream, err)
	}
	info := stream.CachedInfo()
	at, err := r.load(asked, info.Created, of)
	if err == nil {
		err = r.mine(asked, of)
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	least, most := bounds(at)
	if most > info.State.LastSeq {
		// Another runner may have moved the checkpoint since: ask the stream anew.
		if info, err = stream.Info(asked); err != nil {
			return fmt.Errorf("stream %s: %w", r.cfg.Stream, err)
		}
	}
	if most > info.State.LastSeq {
		return fmt.Errorf("%w: the checkpoint is %d, the stream %s ends at %d; restore the stream, or rebuild the projection under a new version",
			ErrBehind, most, r.cfg.Stream, info.State.LastSeq)
	}
	if err := sameMessages(asked, stream, at); err != nil {
		return err
	}
	s := &session{stream: stream, of: of, changed: changed, tick: tick.C, sweptAt: time.Now()}
	s.last.position, s.swept = least, least
	from := least + 1
	if from < info.State.FirstSeq && r.cfg.Archive != nil {
		r.hold(at)
		if from, err = r.sessionOfArchive(ctx, stream, from, s); err != nil {
			return err
		}
		// Reading what the stream did not hold took as long as it took.
		renewed, cancelRenewed := context.WithTimeout(ctx, 10*time.Second)
		defer cancelRenewed()
		asked = renewed
	} else if first := info.State.FirstSeq; from < first && info.State.LastSeq >= first {
		r.log.Warn("the stream no longer holds all that this projection has not applied", "position", least, "stream begins at", first)
		from = first
	}
	f, err := r.fetch(asked, stream, from, of)
	if err != nil {
		return err
	}
	s.passed = from - 1
	// What went out before the consumer was there does not even make it jump.
	if err := r.notOvertaken(asked, s); err != nil {
		return err
	}
	// The fetcher's goroutines end with ctx, and the session ends after them.
	defer f.wait()
	defer cancel()
	if err := f.start(ctx, r.cfg.Decode, func(p any) { r.log.Error("decoding panicked", "panic", p) }); err != nil {
		return fmt.Errorf("consumer of %s: %w", r.cfg.Stream, err)
	}
	if s.archived {
		at = r.left()
	}
	r.hold(at)
	r.begin(from-1, f.pending, of)
	defer r.begin(0, 0, 0)
	r.levelHere = false
	if f.pending == 0 {
		if err := r.level(ctx, of); err != nil {
			return err
		}
	}
	for {
		batch, err := r.applyNext(ctx, f, s)
		if err != nil {
			return err
		}
		if r.levelHere || len(batch) > 0 && s.last.pending == 0 {
			if err := r.level(ctx, of); err != nil {
				return err
			}
		}
		if len(batch) == 0 {
			if err := r.goOn(ctx, s); err != nil {
				return err
			}
		}
	}
}

// session is one reading of some partitions.
type session struct {
	stream  jetstream.Stream
	of      set
	changed <-chan struct{} // closed when other partitions are to be read
	tick    <-chan time.Time
	// last is the last message that was read, applied or left out.
	last struct {
		position, pending uint64
		stored            int64
	}
	// passed is the position up to which nothing is still to be read of the stream. It is beyond last where an archive was
	// read whose end holds nothing of these partitions.
	passed uint64
	// swept is the position that all checkpoints were moved to at sweptAt, at least.
	swept   uint64
	sweptAt time.Time
	// lookedAt is when it was last looked how far the stream has gone on elsewhere.
	lookedAt time.Time
	// archived is true where messages came from an archive.
	archived bool
}

// applyNext applies the next batch, which is empty at a tick, and moves checkpoints of partitions in which nothing
// happens from time to time, and at the end.
func (r *Runner) applyNext(ctx context.Context, f *fetcher, s *session) ([]*slot, error) {
	batch, err := f.collect(ctx, r, s.changed, s.tick)
	if err != nil {
		if errors.Is(err, errShares) || ctx.Err() != nil {
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shareWithin)
			defer cancel()
			if err := r.sweep(ending, s); err != nil {
				r.log.Debug("what was read is read again, and left out", "error", err)
			}
		}
		return nil, err
	}
	if len(batch) > 0 {
		until := batch[len(batch)-1]
		if f.consumer != nil { // it is the stream that is read
			if err := r.follows(ctx, s, batch); err != nil {
				return nil, err
			}
		}
		if err := r.apply(ctx, batch); err != nil {
			r.noteWaiting(uint64(len(batch)) + until.pending)
			return nil, err
		}
		s.last.position, s.last.pending, s.last.stored = until.message.Position, until.pending, until.message.Stored.UnixNano()
		r.applied(batch)
		f.release(batch)
	}
	if len(batch) == 0 || time.Since(s.sweptAt) >= moveEvery {
		return batch, r.sweep(ctx, s)
	}
	return batch, nil
}

// follows fails where a batch may leave out messages that the archive holds: a purge of the stream moves a consumer that
// lags behind it on, and its own numbers do not show it. Positions that are left out are usual where others' partitions are
// in the same stream, so the stream is asked, once for a batch and after all of it was sent: as long as it still holds the
// first position that was left out, no purge has taken any of them.
func (r *Runner) follows(ctx context.Context, s *session, batch []*slot) error {
	for _, next := range batch {
		if next.message.Position > s.passed+1 {
			asked, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if err := r.notOvertaken(asked, s); err != nil {
				return err
			}
			break
		}
		s.passed = next.message.Position
	}
	s.passed = batch[len(batch)-1].message.Position
	return nil
}

// notOvertaken fails where the stream begins behind what is to be read next, and the archive may have what is between.
func (r *Runner) notOvertaken(ctx context.Context, s *session) error {
	if r.cfg.Archive == nil {
		return nil
	}
	info, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.cfg.Stream, err)
	}
	if first := info.State.FirstSeq; first > s.passed+1 {
		return fmt.Errorf("%w: it begins at %d, and was read up to %d", errOvertaken, first, s.passed)
	}
	return nil
}

// goOn has a session that has nothing to read come to the stream's end, though what stands there is of others'
// partitions: who takes over would begin at what was read last, long ago. That nothing of its own stands before the end
// the stream's leader tells: a consumer hears of what is stored a moment later, or reads from a server that lags behind.
// Where there is an archive the session ends if some of its own may have gone out of the stream unread.
func (r *Runner) goOn(ctx context.Context, s *session) error {
	if s.of == r.everything() && r.cfg.Archive == nil || time.Since(s.lookedAt) < lookEvery {
		return nil
	}
	s.lookedAt = time.Now()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.cfg.Stream, err)
	}
	end := info.State.LastSeq
	if end <= s.passed {
		return nil
	}
	// Asked for after the end: all up to there was stored before.
	own, err := r.lastOf(ctx, s.of)
	if err != nil {
		return fmt.Errorf("the last message of %d partitions: %w", s.of.size(), err)
	}
	if own > s.passed {
		return nil // it is still to be read
	}
	// Asked behind it: what had gone out by then it does not tell of.
	if err := r.notOvertaken(ctx, s); err != nil {
		return err
	}
	m, err := s.stream.GetMsg(ctx, end)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // not there yet, where it was asked for
	}
	if err != nil {
		return fmt.Errorf("the message at position %d: %w", end, err)
	}
	s.last.position, s.last.pending, s.last.stored = end, 0, m.Time.UnixNano()
	s.passed = end
	r.update(func(p *Progress) { p.Position = end })
	return r.sweep(ctx, s)
}

// left are the checkpoints as this Runner left them.
func (r *Runner) left() map[int]checkpoint {
	r.applying.Lock()
	defer r.applying.Unlock()
	return maps.Clone(r.held)
}

// stand waits for something to read.
func (r *Runner) stand(ctx context.Context, changed <-chan struct{}, tick <-chan time.Time) error {
	r.noteWaiting(0)
	r.metrics.oldest.Store(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			return errShares
		case <-tick:
			if err := r.level(ctx, 0); err != nil {
				return err
			}
		}
	}
}

// bounds are the least and the greatest position.
func bounds(at map[int]checkpoint) (least, most uint64) {
	least = math.MaxUint64
	for _, c := range at {
		least, most = min(least, c.position), max(most, c.position)
	}
	return least, most
}

// level does what is to be done once everything is applied, here and by others. It is called again
// where others are not there yet.
func (r *Runner) level(ctx context.Context, of set) error {
	r.levelHere = true
	if r.levelTold {
		return nil
	}
	if r.cfg.Shares != nil {
		var all bool
		if err := r.cfg.Pool.QueryRow(ctx, levelSQL, r.cfg.Name, r.cfg.Stream, r.rowNames(of), r.partitions()).Scan(&all); err != nil {
			return fmt.Errorf("level: %w", err)
		}
		if !all {
			return nil
		}
	}
	if r.cfg.Level != nil {
		if err := r.cfg.Level(ctx); err != nil {
			return fmt.Errorf("level: %w", err)
		}
	}
	r.levelTold = true
	r.update(func(p *Progress) { p.Level, p.Total, p.Remaining = true, p.Done, 0 })
	r.report(true)
	return nil
}

// sweep moves the checkpoints of all partitions that are read here to the last message that was
// read. Nothing else is written.
func (r *Runner) sweep(ctx context.Context, s *session) error {
	if s.sweptAt = time.Now(); s.last.position <= s.swept {
		return nil
	}
	r.applying.Lock()
	defer r.applying.Unlock()
	behind := set(0)
	for p, c := range r.held {
		if c.position < s.last.position {
			behind |= 1 << p
		}
	}
	if behind != 0 {
		tx, err := r.cfg.Pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginUnsynced})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		if err := r.move(ctx, tx, behind, s.last.position, s.last.stored, s.last.pending); err != nil {
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		r.movedTo(behind, s.last.position, s.last.stored)
	}
	s.swept = s.last.position
	return nil
}

// beginUnsynced begins a transaction whose commit does not wait for the disk.
const beginUnsynced = "BEGIN; SET LOCAL synchronous_commit TO off"

// move moves checkpoints from where this Runner left them, or fails with errMoved.
func (r *Runner) move(ctx context.Context, tx pgx.Tx, of set, position uint64, stored int64, pending uint64) error {
	var positions, turns []int64
	var created int64
	for _, p := range of.all() {
		at := r.held[p]
		positions, turns, created = append(positions, int64(at.position)), append(turns, at.turn), at.created
	}
	tag, err := tx.Exec(ctx, moveSQL, r.cfg.Name, created, r.rowNames(of), positions, turns, int64(position), stored, int64(pending))
	if err != nil {
		return err
	}
	if int(tag.RowsAffected()) < len(positions) {
		return errMoved
	}
	return nil
}

// movedTo takes over what move wrote, once that is committed.
func (r *Runner) movedTo(of set, position uint64, stored int64) {
	for _, p := range of.all() {
		at := r.held[p]
		at.position, at.stored, at.turn = position, stored, at.turn+1
		r.held[p] = at
	}
}

// fresh are the messages of a batch that are not applied yet, and the partitions that they are of: where
// partitions have come to different positions, it is read from the least.
func (r *Runner) fresh(batch []*slot) (messages []Message, of set) {
	r.applying.Lock()
	defer r.applying.Unlock()
	messages = make([]Message, 0, len(batch))
	for _, s := range batch {
		p := r.partitionOf(s.message.Subject)
		if at, held := r.held[p]; held && s.message.Position > at.position {
			messages, of = append(messages, s.message), of|1<<p
		}
	}
	return messages, of
}

// apply applies a batch and moves the checkpoint in one transaction.
func (r *Runner) apply(ctx context.Context, batch []*slot) (err error) {
	until := batch[len(batch)-1]
	messages, of := r.fresh(batch)
	if len(messages) == 0 {
		return nil
	}
	first, last := messages[0].Position, until.message.Position
	ctx, span := startSpan(ctx, r.cfg.Name, messages)
	began := time.Now()
	r.metrics.oldest.Store(messages[0].Stored.UnixNano())
	defer func() {
		if err == nil { // what could not be applied waits on
			r.metrics.oldest.Store(0)
		}
		endSpan(span, err)
	}()

	work := r.cfg.Handler.Apply
	err = r.transact(ctx, until, of, func(ctx context.Context, tx pgx.Tx) error { return work(ctx, tx, messages) })
	var bad *badMessageError
	if errors.As(err, &bad) {
		bad.first, bad.last, bad.alone = first, last, len(messages) == 1
		if !bad.alone {
			// Go back and apply one by one, so that one message only is to blame.
			r.isolateUntil = last
			return bad
		}
		if r.cfg.Poison == nil {
			return bad
		}
		r.log.Error("a message cannot be applied and is set aside", "position", first, "subject", messages[0].Subject, "error", bad.cause)
		err = r.transact(ctx, until, of, func(ctx context.Context, tx pgx.Tx) error {
			return r.cfg.Poison(ctx, tx, messages[0], bad.cause)
		})
		if errors.As(err, &bad) {
			bad.first, bad.last, bad.alone, bad.poisoning = first, last, true, true
		}
	}
	if err != nil {
		return err
	}
	r.metrics.batch(ctx, messages, time.Since(began))
	return nil
}

// transact runs work in the transaction that moves the checkpoints of what it is about to the
// message until.
//
// Only a commit behind which nothing waits reaches the disk before it returns,
// and takes all earlier ones with it. What a crash of the server takes of the
// others is applied again, since the checkpoint goes with it: the transaction
// that follows finds the checkpoint moved back, and the session that follows has
// the handler forget.
func (r *Runner) transact(ctx context.Context, until *slot, of set, work func(context.Context, pgx.Tx) error) (err error) {
	r.applying.Lock()
	defer r.applying.Unlock()
	hooked, ended := WithHooks(ctx)
	committed := false
	defer func() { ended(committed) }()
	begin := beginUnsynced
	if until.pending == 0 {
		begin = "BEGIN"
	}
	tx, err := r.cfg.Pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	position, stored := until.message.Position, until.message.Stored.UnixNano()
	if err := r.move(ctx, tx, of, position, stored, until.pending); err != nil {
		return err
	}
	if err := r.guarded(hooked, tx, work); err != nil {
		return err
	}
	if err := r.guarded(ctx, tx, func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }); err != nil {
		return err
	}
	committed = true
	r.movedTo(of, position, stored)
	return nil
}

// Do runs work on the projection's tables of one partition between two batches, in a transaction
// that no batch of this or another Runner overlaps. AfterTx works in it. It fails
// where another Runner keeps the partition: what this one's handler has in memory of
// it may be out of date then.
func (r *Runner) Do(ctx context.Context, partition int, work func(context.Context, pgx.Tx) error) error {
	r.applying.Lock()
	defer r.applying.Unlock()
	return r.hindering(ctx, new(r.rowName(partition)), func(ctx context.Context, tx pgx.Tx, found map[int]checkpoint) error {
		is, there := found[partition]
		if at, held := r.held[partition]; !there || !held || at.position != is.position || at.turn != is.turn {
			return fmt.Errorf("%w: partition %d is kept by another process, or not known yet", errMoved, partition)
		}
		return r.guarded(ctx, tx, work)
	})
}

// Everywhere runs work on all of the projection's tables, whoever keeps them: in a transaction
// that no batch overlaps, and with nothing of them in the handler's memory. Other Runners begin
// again behind it. It is for what is rare.
func (r *Runner) Everywhere(ctx context.Context, work func(context.Context, pgx.Tx) error) error {
	r.applying.Lock()
	defer r.applying.Unlock()
	forget := func() {
		if r.cfg.Forget != nil {
			r.cfg.Forget()
		}
	}
	forget()
	defer forget()
	return r.hindering(ctx, nil, func(ctx context.Context, tx pgx.Tx, _ map[int]checkpoint) error { return r.guarded(ctx, tx, work) })
}

// hindering runs work while it holds the checkpoint of a row, nil: all of them.
func (r *Runner) hindering(ctx context.Context, row *string, work func(context.Context, pgx.Tx, map[int]checkpoint) error) error {
	hooked, ended := WithHooks(ctx)
	committed := false
	defer func() { ended(committed) }()
	tx, err := r.cfg.Pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("projection: %s: %w", r.cfg.Name, err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	rows, err := tx.Query(ctx, holdSQL, r.cfg.Name, r.cfg.Stream, row)
	if err != nil {
		return fmt.Errorf("projection: %s: its checkpoint: %w", r.cfg.Name, err)
	}
	found := make(map[int]checkpoint)
	var name string
	var position, turn int64
	if _, err := pgx.ForEachRow(rows, []any{&name, &position, &turn}, func() error {
		for p := range r.partitions() {
			if r.rowName(p) == name {
				found[p] = checkpoint{position: uint64(position), turn: turn}
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("projection: %s: its checkpoint: %w", r.cfg.Name, err)
	}
	if err := work(hooked, tx, found); err != nil {
		return fmt.Errorf("projection: %s: %w", r.cfg.Name, err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("projection: %s: %w", r.cfg.Name, err)
	}
	committed = true
	for p, is := range found {
		if at, held := r.held[p]; held && at.position == is.position && at.turn == is.turn {
			at.turn++
			r.held[p] = at
		}
	}
	return nil
}

// Takes tells whether a partition is read here.
func (r *Runner) Takes(partition int) bool { return r.readsNow().has(partition) }

func (r *Runner) readsNow() set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads
}

// guarded calls work and tells the errors that are the messages' from those
// that are the database's. A panic is the messages'.
func (r *Runner) guarded(ctx context.Context, tx pgx.Tx, work func(context.Context, pgx.Tx) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &badMessageError{cause: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
		}
	}()
	err = work(ctx, tx)
	if err == nil || ctx.Err() != nil || postgres.IsTransient(err) || tx.Conn().IsClosed() {
		return err
	}
	return &badMessageError{cause: err}
}

// WaitFor returns once everything up to position has been applied, here or by other processes, in
// a partition or in AllPartitions: a reader who wants to see what a command did waits for the command's
// position in its account's. It returns the context's error, or the one that the Runner has stopped with.
//
// A position that the projection's subjects leave out, or that is another partition's, counts as applied when
// everything before it is. One that is not stored is waited for.
func (r *Runner) WaitFor(ctx context.Context, partition int, position uint64) error {
	of := r.everything()
	if partition != AllPartitions {
		of = 1 << partition
	} else if r.partitions() != Whole && r.readsNow() != of {
		for p := range r.partitions() { // each comes to a last position of its own
			if err := r.WaitFor(ctx, p, position); err != nil {
				return err
			}
		}
		return nil
	}
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	narrowed := false
	for asked := false; ; {
		r.mu.Lock()
		at, moved, failed, elsewhere := r.progress.Position, r.moved, r.failed, r.cfg.Shares != nil && of&^r.reads != 0
		r.mu.Unlock()
		if elsewhere {
			var err error
			if at, err = r.positionOf(ctx, of); err != nil && !postgres.IsTransient(err) {
				return err
			}
		}
		if at >= position {
			return nil
		}
		if failed != nil {
			return failed
		}
		if asked && !narrowed {
			last, stored, err := r.last(ctx, of, position)
			if err == nil && stored {
				position, narrowed = min(position, last), true
				continue
			}
		}
		if elsewhere {
			moved = nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("projection: %s: at position %d, waiting for %d: %w", r.cfg.Name, at, position, ctx.Err())
		case <-moved:
		case <-ask.C:
			asked = true
		}
	}
}

// positionOf is how far the tables are in a set of partitions.
func (r *Runner) positionOf(ctx context.Context, of set) (uint64, error) {
	var position, rows int64
	err := r.cfg.Pool.QueryRow(ctx, "SELECT coalesce(min(position), 0), count(*) FROM projection_checkpoint WHERE projection = $1 AND stream = $2 AND partitions = ANY ($3::text[])",
		r.cfg.Name, r.cfg.Stream, r.rowNames(of)).Scan(&position, &rows)
	if err != nil {
		return 0, fmt.Errorf("projection: %s: its checkpoint: %w", r.cfg.Name, err)
	}
	if int(rows) < of.size() {
		return 0, nil // nobody has begun with one
	}
	return uint64(position), nil
}

// Positions are how far the tables are, by partition.
func (r *Runner) Positions(ctx context.Context) ([]uint64, error) {
	positions := make([]uint64, r.partitions())
	for p := range positions {
		var err error
		if positions[p], err = r.positionOf(ctx, 1<<p); err != nil {
			return nil, err
		}
	}
	return positions, nil
}

// Ends tells whether the stream holds nothing of a partition behind a position.
func (r *Runner) Ends(ctx context.Context, partition int, position uint64) (bool, error) {
	last, err := r.lastOf(ctx, 1<<partition)
	if err != nil {
		return false, fmt.Errorf("projection: %s: the last message of partition %d: %w", r.cfg.Name, partition, err)
	}
	return last <= position, nil
}

// last is the position of the last message of partitions, and whether the stream reaches to a position. Of what
// has gone out of the stream any may be of them.
func (r *Runner) last(ctx context.Context, of set, position uint64) (last uint64, stored bool, err error) {
	stream, err := r.cfg.JetStream.Stream(ctx, r.cfg.Stream)
	if err != nil {
		return 0, false, err
	}
	state := stream.CachedInfo().State
	if state.LastSeq < position {
		return 0, false, nil
	}
	if last, err = r.lastOf(ctx, of); err != nil {
		return 0, false, err
	}
	return max(last, max(state.FirstSeq, 1)-1), true, nil
}

// lastOf is the position of the last message of partitions that the stream holds; 0 where there is none. The stream's
// leader tells: a replica may lag behind whoever has the position that is asked about.
func (r *Runner) lastOf(ctx context.Context, of set) (uint64, error) {
	subjects := r.filters(of)
	if len(subjects) == 0 {
		subjects = []string{">"}
	}
	lasts := make([]uint64, len(subjects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(asksAtOnce)
	for i, subject := range subjects {
		group.Go(func() (err error) {
			lasts[i], err = r.lastBySubject(ctx, subject)
			return err
		})
	}
	err := group.Wait()
	return slices.Max(lasts), err
}

func (r *Runner) lastBySubject(ctx context.Context, subject string) (uint64, error) {
	question, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return 0, err
	}
	answer, err := r.cfg.JetStream.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+r.cfg.Stream, question)
	if err != nil {
		return 0, err
	}
	var a struct {
		Message struct {
			Seq uint64 `json:"seq"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &a); err != nil {
		return 0, err
	}
	if a.Error != nil && a.Error.ErrorCode != jetstream.JSErrCodeMessageNotFound {
		return 0, a.Error
	}
	return a.Message.Seq, nil
}

// Progress is how far the Runner is.
func (r *Runner) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// Position is up to where everything has been applied.
func (r *Runner) Position() uint64 { return r.Progress().Position }

func (r *Runner) update(change func(*Progress)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.progress)
	close(r.moved)
	r.moved = make(chan struct{})
}

func (r *Runner) fail(err error) {
	r.update(func(*Progress) { r.failed = err })
}

// hold takes over checkpoints from the tables, whatever they hold besides.
func (r *Runner) hold(at map[int]checkpoint) {
	r.applying.Lock()
	defer r.applying.Unlock()
	r.held = at
	if r.cfg.Forget != nil {
		r.cfg.Forget()
	}
}

// begin notes what a session reads, from where, and how much waits there; nothing at its end.
func (r *Runner) begin(position, waiting uint64, reads set) {
	r.metrics.oldest.Store(0)
	r.update(func(p *Progress) {
		r.reads = reads
		if reads != 0 {
			p.Position, p.Total = position, p.Done+waiting
		}
	})
}

// noteWaiting notes how many messages wait to be applied here.
func (r *Runner) noteWaiting(waiting uint64) {
	r.update(func(p *Progress) { p.Total = p.Done + waiting })
}

func (r *Runner) applied(batch []*slot) {
	now := time.Now()
	perSecond := r.rate.add(now, len(batch))
	r.update(func(p *Progress) {
		pending := batch[len(batch)-1].pending
		p.Position = batch[len(batch)-1].message.Position
		p.Done += uint64(len(batch))
		p.Total = p.Done + pending
		p.PerSecond = perSecond
		p.Remaining = 0
		if perSecond > 0 {
			p.Remaining = time.Duration(pending) * time.Second / time.Duration(perSecond)
		}
	})
	r.report(false)
}

func (r *Runner) report(always bool) {
	if now := time.Now(); r.cfg.Progress != nil && (always || now.Sub(r.reported) >= reportEvery) {
		r.reported = now
		r.cfg.Progress(r.Progress())
	}
}

// rate counts messages over the last seconds.
type rate struct {
	since time.Time
	count int
	last  int64
}

func (r *rate) add(now time.Time, n int) int64 {
	if r.since.IsZero() {
		r.since = now
	}
	r.count += n
	if took := now.Sub(r.since); took >= time.Second {
		r.last = int64(r.count) * int64(time.Second) / int64(took)
		r.since, r.count = now, 0
	}
	return r.last
}
