package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/services/platform/postgres"
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	// reportEvery is how often progress is told.
	reportEvery = 250 * time.Millisecond
	// askEvery is how often a waiting reader asks whether a position that never
	// comes is passed.
	askEvery = 50 * time.Millisecond
)

// Config says what a Runner projects.
type Config struct {
	// Name of the projection, for its checkpoint, logs and metrics.
	Name string
	// Partitions names the set of partitions that Subjects select; default
	// "all". Runners of one projection on different sets go side by side.
	Partitions string
	// JetStream and Stream are what is read.
	JetStream jetstream.JetStream
	Stream    string
	// Subjects filter the stream; none means all of it. A projection keeps its
	// subjects for life: what a filter leaves out is never applied later.
	Subjects []string
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
	moved    chan struct{} // closed at each change of progress or failed
	failed   error
	consumer jetstream.Consumer // of the session under way; else nil

	// applying is held by whoever is in a transaction with the handler's tables.
	applying sync.Mutex
	held     checkpoint // under applying: as this Runner left it

	// Of the goroutine of Run only.
	levelTold    bool
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
	if cfg.Partitions == "" {
		cfg.Partitions = "all"
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
	wait := firstPause
	for {
		before := r.Progress().Done
		err := r.session(ctx)
		if ctx.Err() != nil {
			return nil
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

// session reads and applies from the checkpoint on until something fails.
func (r *Runner) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, cancelAsked := context.WithTimeout(ctx, 10*time.Second)
	defer cancelAsked()
	stream, err := r.cfg.JetStream.Stream(asked, r.cfg.Stream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", r.cfg.Stream, err)
	}
	info := stream.CachedInfo()
	at, err := r.load(asked, info.Created)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if at.position > info.State.LastSeq {
		// Another runner may have moved the checkpoint since: ask the stream anew.
		if info, err = stream.Info(asked); err != nil {
			return fmt.Errorf("stream %s: %w", r.cfg.Stream, err)
		}
	}
	if at.position > info.State.LastSeq {
		return fmt.Errorf("%w: the checkpoint is %d, the stream %s ends at %d; restore the stream, or rebuild the projection under a new version",
			ErrBehind, at.position, r.cfg.Stream, info.State.LastSeq)
	}
	if err := at.sameMessage(asked, stream); err != nil {
		return err
	}
	if first := info.State.FirstSeq; at.position+1 < first && info.State.LastSeq >= first {
		r.log.Warn("the stream no longer holds all that this projection has not applied", "position", at.position, "stream begins at", first)
	}
	f, err := r.fetch(asked, stream, at.position+1)
	if err != nil {
		return err
	}
	// The fetcher's goroutines end with ctx, and the session ends after them.
	defer f.wait()
	defer cancel()
	if err := f.start(ctx, r.cfg.Decode, func(p any) { r.log.Error("decoding panicked", "panic", p) }); err != nil {
		return fmt.Errorf("consumer of %s: %w", r.cfg.Stream, err)
	}
	r.hold(at)
	r.begin(at.position, f.consumer)
	defer r.begin(at.position, nil)
	if f.pending == 0 {
		if err := r.level(ctx); err != nil {
			return err
		}
	}
	for {
		batch, err := f.collect(ctx, r)
		if err != nil {
			return err
		}
		if err := r.apply(ctx, batch); err != nil {
			return err
		}
		r.applied(batch)
		f.release(batch)
		if batch[len(batch)-1].pending == 0 {
			if err := r.level(ctx); err != nil {
				return err
			}
		}
	}
}

// level does what is to be done once everything is applied.
func (r *Runner) level(ctx context.Context) error {
	if r.levelTold {
		return nil
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

// apply applies a batch and moves the checkpoint in one transaction.
func (r *Runner) apply(ctx context.Context, batch []*slot) (err error) {
	until := &batch[len(batch)-1].message
	first, last := batch[0].message.Position, until.Position
	messages := make([]Message, len(batch))
	for i, s := range batch {
		messages[i] = s.message
	}
	ctx, span := startSpan(ctx, r.cfg.Name, messages)
	began := time.Now()
	r.metrics.oldest.Store(messages[0].Stored.UnixNano())
	defer func() {
		r.metrics.oldest.Store(0)
		endSpan(span, err)
	}()

	work := r.cfg.Handler.Apply
	idle := batch[len(batch)-1].pending == 0
	err = r.transact(ctx, until, idle, func(ctx context.Context, tx pgx.Tx) error { return work(ctx, tx, messages) })
	var bad *badMessageError
	if errors.As(err, &bad) {
		bad.first, bad.last, bad.alone = first, last, len(batch) == 1
		if !bad.alone {
			// Go back and apply one by one, so that one message only is to blame.
			r.isolateUntil = last
			return bad
		}
		if r.cfg.Poison == nil {
			return bad
		}
		r.log.Error("a message cannot be applied and is set aside", "position", first, "subject", messages[0].Subject, "error", bad.cause)
		err = r.transact(ctx, until, idle, func(ctx context.Context, tx pgx.Tx) error {
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

// transact runs work in the transaction that moves the checkpoint to the message
// until.
//
// Only a commit behind which nothing waits reaches the disk before it returns,
// and takes all earlier ones with it. What a crash of the server takes of the
// others is applied again, since the checkpoint goes with it: the transaction
// that follows finds the checkpoint moved back, and the session that follows has
// the handler forget.
func (r *Runner) transact(ctx context.Context, until *Message, idle bool, work func(context.Context, pgx.Tx) error) (err error) {
	r.applying.Lock()
	defer r.applying.Unlock()
	hooked, ended := WithHooks(ctx)
	committed := false
	defer func() { ended(committed) }()
	begin := "BEGIN; SET LOCAL synchronous_commit TO off"
	if idle {
		begin = "BEGIN"
	}
	tx, err := r.cfg.Pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	at, stored := r.held, until.Stored.UnixNano()
	tag, err := tx.Exec(ctx, moveSQL, r.cfg.Name, r.cfg.Partitions, at.created, int64(at.position), at.turn, int64(until.Position), stored)
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return errMoved
	}
	if err := r.guarded(hooked, tx, work); err != nil {
		return err
	}
	if err := r.guarded(ctx, tx, func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }); err != nil {
		return err
	}
	committed = true
	r.held.position, r.held.stored, r.held.turn = until.Position, stored, at.turn+1
	return nil
}

// Do runs work on the projection's tables between two batches, in a transaction
// that no batch of this or another Runner overlaps. AfterTx works in it. It fails
// where another Runner keeps the tables: what this one's handler has in memory of
// them may be out of date then.
func (r *Runner) Do(ctx context.Context, work func(context.Context, pgx.Tx) error) error {
	r.applying.Lock()
	defer r.applying.Unlock()
	hooked, ended := WithHooks(ctx)
	committed := false
	defer func() { ended(committed) }()
	tx, err := r.cfg.Pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("projection: %s: %w", r.cfg.Name, err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var position, turn int64
	if err := tx.QueryRow(ctx, holdSQL, r.cfg.Name, r.cfg.Partitions).Scan(&position, &turn); err != nil {
		return fmt.Errorf("projection: %s: its checkpoint, which is there once Run has found its stream: %w", r.cfg.Name, err)
	}
	if at := r.held; at.position != uint64(position) || at.turn != turn {
		return fmt.Errorf("projection: %s: %w: it is %d, this one's %d", r.cfg.Name, errMoved, position, at.position)
	}
	if err := r.guarded(hooked, tx, work); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("projection: %s: %w", r.cfg.Name, err)
	}
	committed = true
	r.held.turn = turn + 1
	return nil
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

// WaitFor returns once everything up to position has been applied: a reader who
// wants to see what a command did waits for the command's position. It returns
// the context's error, or the one that the Runner has stopped with.
//
// A position that the projection's subjects leave out counts as applied when
// everything before it is.
func (r *Runner) WaitFor(ctx context.Context, position uint64) error {
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		r.mu.Lock()
		at, moved, failed, consumer := r.progress.Position, r.moved, r.failed, r.consumer
		r.mu.Unlock()
		if at >= position {
			return nil
		}
		if failed != nil {
			return failed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("projection: %s: at position %d, waiting for %d: %w", r.cfg.Name, at, position, ctx.Err())
		case <-moved:
			continue
		case <-ask.C:
		}
		if consumer == nil {
			continue
		}
		// The position was stored before WaitFor was called, so a consumer that
		// has nothing left has passed it.
		info, err := consumer.Info(ctx)
		if err == nil && info.NumPending == 0 && info.Delivered.Stream <= r.Progress().Position {
			return nil
		}
	}
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

// hold takes over a checkpoint from the tables, whatever they hold besides.
func (r *Runner) hold(at checkpoint) {
	r.applying.Lock()
	defer r.applying.Unlock()
	r.held = at
	if r.cfg.Forget != nil {
		r.cfg.Forget()
	}
}

// begin notes a session's beginning, or with no consumer its end.
func (r *Runner) begin(position uint64, consumer jetstream.Consumer) {
	r.update(func(p *Progress) {
		r.consumer = consumer
		if consumer != nil {
			p.Position = position
		}
	})
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
