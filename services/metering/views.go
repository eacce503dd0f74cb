package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
)

const (
	// tellEvery is how often the log tells how far views are that are not level.
	tellEvery = 10 * time.Second
	// retrySwap is how long a swap, or the look before it, that failed waits.
	retrySwap = time.Second
	// lookEvery is how often it is looked whether other tables answer.
	lookEvery = time.Second
)

// What PostgreSQL says of what a schema does not hold.
const (
	undefinedTable  = "42P01"
	undefinedColumn = "42703"
)

// errAgedOut means that the stream does not hold what tables would be built from.
var errAgedOut = errors.New("what came before has aged out of it")

// views are one build of the tables, and what keeps it up to date.
type views struct {
	store          *postgres.Store
	log            *slog.Logger
	decoder        *agentlog.Decoder
	projection     *usageProjection
	usage, catalog *projection.Runner
	// shares says whose accounts are kept here; other processes keep the others.
	shares *projection.Shares
	// republish has agents take what the log of decisions holds now.
	republish func(context.Context)

	// level is closed once both Runners have applied what their streams held.
	level   chan struct{}
	waiting atomic.Int32 // Runners that are not level yet
	// retired ends when other views answer in place of these.
	retired context.Context
	retire  context.CancelFunc
}

// newViews makes what keeps a store up to date. levelled is called when it is
// level, before level is closed.
func (s *Service) newViews(store *postgres.Store, levelled func(context.Context) error) (*views, error) {
	log := s.log.With("schema", store.Schema)
	v := &views{store: store, log: log, level: make(chan struct{}), republish: s.republish}
	v.decoder = agentlog.NewDecoder(agentlog.Config{Logger: s.log, Conflict: func(account, agent contract.ID, epoch uint64) {
		select {
		case <-v.level:
		default:
			return // what went wrong long ago is over; if not, it comes again
		}
		if err := s.nats.Publish(contract.ConflictSubject(account), contract.EncodeConflict(agent, epoch)); err != nil {
			log.Warn("Managers could not be told of an epoch with two contents", "agent", agent, "epoch", epoch, "error", err)
		}
	}})
	v.projection = newUsageProjection(v.decoder)
	v.projection.counted = func(ctx context.Context, receptions []agentlog.Reception) {
		select {
		case <-v.level:
			s.figures.countedWhen(ctx, receptions, s.now)
		default: // what was counted long ago is counted again
		}
	}
	v.retired, v.retire = context.WithCancel(context.Background())
	v.waiting.Store(2)
	oneLevel := func(ctx context.Context) error {
		if v.waiting.Add(-1) > 0 {
			return nil
		}
		err := s.removeBefore(ctx, v)
		if err == nil {
			err = levelled(ctx)
		}
		if err != nil {
			v.waiting.Add(1) // its Runner calls again
			return err
		}
		close(v.level)
		return nil
	}
	told := time.Now()
	tell := func(p projection.Progress) {
		if !p.Level && time.Since(told) >= tellEvery {
			told = time.Now()
			log.Info("the tables are not level with the stream yet", "messages", p.Done, "of", p.Total, "per_second", p.PerSecond, "remaining", p.Remaining)
		}
		if s.cfg.Progress != nil {
			s.cfg.Progress(p)
		}
	}
	var archived projection.Archive
	if s.archive != nil {
		archived = s.archive
	}
	var err error
	v.shares, err = projection.NewShares(projection.SharesConfig{
		Pool: store.Projector, Instance: s.cfg.Instance, Partitions: contract.Partitions, Reads: s.nats.IsConnected, Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	v.usage, err = projection.New(projection.Config{
		Name: "usage", JetStream: s.js, Stream: contract.AgentStream, Subjects: []string{"agent.>"}, WholeStream: true, Shares: v.shares, Archive: archived,
		Pool: store.Projector, Handler: v.projection, Forget: v.projection.forget, Decode: v.decoder.Predecode, Poison: v.decoder.Poison,
		MaxMessages: s.cfg.MaxBatchMessages, MaxBytes: s.cfg.MaxBatchBytes, Prefetch: 2 * s.cfg.MaxBatchBytes,
		Progress: tell, Logger: log, Level: oneLevel,
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	v.catalog, err = projection.New(projection.Config{
		Name: "catalog", JetStream: s.js, Stream: contract.EventStream, Shares: v.shares,
		Subjects: append([]string{"ev.*.*." + contextName + ".>"}, placeSubjects...),
		Pool:     store.Projector, Handler: catalogProjection{s.registry, newPlaceRegistry(), s.retention.wake}, Logger: log, Level: oneLevel,
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return v, nil
}

// takes tells whether an account's tables are kept here.
func (v *views) takes(account contract.ID) bool { return v.usage.Takes(contract.Partition(account)) }

// running are views whose Runners run.
type running struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed once both have ended
	changed chan struct{} // closed once one has found that its log has changed
	err     error         // of the one that failed; to be read after done
}

func (v *views) start(ctx context.Context) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	// Shares are given away when the Runners have ended.
	endShares := v.shares.Start(ctx)
	group, ctx := errgroup.WithContext(ctx)
	var once sync.Once
	keep := func(runner *projection.Runner, what string, changed func(context.Context)) {
		group.Go(func() error {
			err := runner.Run(ctx)
			if !projection.IsLogChanged(err) {
				return err
			}
			// The tables answer as they are, and the order to build them anew needs
			// somebody who hears it.
			v.log.Error(what+", and answers stay as they are: the log has changed behind what the tables hold; restore it, or build the tables anew (cetrus rebuild metering)", "error", err)
			once.Do(func() { close(r.changed) })
			changed(ctx)
			<-ctx.Done()
			return nil
		})
	}
	keep(v.usage, "usage is no longer counted", func(context.Context) {})
	keep(v.catalog, "applications and settings are no longer kept up to date", v.republish)
	go func() {
		defer close(r.done)
		r.err = group.Wait()
		endShares()
	}()
	return r
}

func (r *running) stop() error {
	r.cancel()
	<-r.done
	return r.err
}

// runViews keeps the views up to date until ctx ends, and builds them anew beside
// the serving ones when that is ordered.
func (s *Service) runViews(ctx context.Context) error {
	serving := s.serving.Load()
	if err := s.checkNewVersion(ctx, serving.store); err != nil {
		return err
	}
	run := serving.start(ctx)
	defer func() {
		_ = run.stop() // what it failed with was returned
		s.release(serving)
	}()
	interrupted, err := serving.store.HasBeside(ctx)
	if err != nil {
		// Nothing but an order to go on is lost, and it can be given again.
		s.log.Warn("cannot tell whether a rebuild was interrupted", "error", err)
	}
	if interrupted {
		s.log.Info("an interrupted rebuild goes on")
		s.orderRebuild()
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-run.done:
			if run.err == nil || ctx.Err() != nil {
				return run.err
			}
			next, nextRun := s.moveOver(ctx, serving, run)
			if next == nil {
				return run.err
			}
			serving, run = next, nextRun
		case <-look.C:
			if next, nextRun := s.moveOver(ctx, serving, run); next != nil {
				serving, run = next, nextRun
			}
		case <-s.rebuild:
			var next *views
			var nextRun *running
			var err error
			if order := s.verifying.Swap(nil); order != nil {
				next, nextRun = s.verify(ctx, *order, serving, run)
			} else {
				next, nextRun, err = s.buildAnew(ctx, serving, run)
			}
			s.ordered.Store(false)
			if err != nil {
				return err
			}
			if next != nil {
				if next.store != serving.store {
					s.release(serving)
				}
				serving, run = next, nextRun
			}
		}
	}
}

// checkNewVersion fails where this release's tables are to take the place of a
// former one's and cannot hold as much.
func (s *Service) checkNewVersion(ctx context.Context, store *postgres.Store) error {
	for ctx.Err() == nil {
		err := func() error {
			active, err := store.Active(ctx)
			if err != nil || active {
				return err
			}
			position, err := projection.Position(ctx, store.Projector, "usage", projection.AllPartitions)
			if err != nil {
				return err
			}
			if err := s.canBuild(ctx, position); err != nil {
				return err
			}
			s.log.Warn("this release has other tables: the former release's answer until these are built, and are not kept up to date by this process", "schema", store.Schema, "from_position", position)
			return nil
		}()
		if err == nil || errors.Is(err, errAgedOut) {
			return err
		}
		s.log.Warn("cannot tell yet whether these tables answer", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retrySwap):
		}
	}
	return nil
}

// release closes the views' store, unless it is the caller's of New.
func (s *Service) release(v *views) {
	if v.store != s.stores.Views {
		v.store.Close()
	}
}

// buildAnew builds the tables beside the serving ones, which go on being kept and
// read, and swaps when both are level. It returns no views where that could not be
// done and the serving ones stay; an error is of the serving ones.
func (s *Service) buildAnew(ctx context.Context, serving *views, run *running) (*views, *running, error) {
	began := time.Now()
	claim, err := serving.shares.Claim(ctx, rebuildTask)
	if err != nil || claim == nil {
		if ctx.Err() == nil {
			s.log.Warn("the tables are not built anew here: another process is at it, or that cannot be told", "error", err)
		}
		return nil, nil, nil
	}
	claimed, endClaim := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { s.tellRebuild(claimed, claim) })
	defer func() {
		endClaim()
		keeping.Wait()
	}()
	if err := s.canBuild(ctx, 0); err != nil {
		s.log.Error("the tables are not built anew", "error", err)
		return nil, nil, nil
	}
	store, err := serving.store.Beside(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("the tables cannot be built anew; the present ones go on answering", "error", err)
		}
		return nil, nil, nil
	}
	next, err := s.newViews(store, func(context.Context) error { return nil })
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	s.building.Store(next)
	defer s.building.Store(nil)
	s.log.Info("building the tables anew; the present ones answer until that is done", "schema", store.Schema)
	nextRun := next.start(ctx)
	drop := func() {
		_ = nextRun.stop()
		store.Close()
	}
	select {
	case <-ctx.Done():
		drop()
		return nil, nil, nil
	case <-run.done:
		drop()
		return nil, nil, run.err
	case <-nextRun.done:
		s.log.Error("building the tables anew has failed; the present ones go on answering", "error", nextRun.err)
		drop()
		return nil, nil, nil
	case <-nextRun.changed:
		// What an interrupted rebuild has left is of the log before, too.
		drop()
		if err := serving.store.DropOthers(ctx); err != nil {
			s.log.Error("what was built of another log cannot be dropped; the present tables go on answering: give the order again", "error", err)
			return nil, nil, nil
		}
		return s.buildAnew(ctx, serving, run)
	case <-next.level:
	}
	// Whoever has seen a position in the present tables must see it in the new ones:
	// the present ones stand still until those are as far.
	for err == nil {
		if err = serving.halt(ctx, run, next); err == nil {
			err = store.Activate(ctx)
		}
		if err == nil {
			break
		}
		select {
		case <-run.done:
			if run.err != nil {
				drop()
				return nil, nil, run.err
			}
		default:
		}
		s.log.Warn("the new tables cannot take over yet", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retrySwap):
			err = nil
		}
	}
	if err != nil {
		drop()
		if ctx.Err() != nil {
			return nil, nil, nil
		}
		return nil, nil, fmt.Errorf("metering: taking over %s: %w", store.Schema, err)
	}
	s.serving.Store(next)
	serving.retire()
	endClaim() // it is in the former tables
	keeping.Wait()
	s.log.Info("the tables were built anew", "schema", store.Schema, "took", time.Since(began).Round(time.Millisecond))
	if err := store.DropOthers(ctx); err != nil {
		s.log.Warn("the former tables could not be dropped; the next rebuild does it", "error", err)
	}
	return next, nextRun, nil
}

// halt has the tables stand still, whichever process keeps them, and waits until next ones are as far.
func (v *views) halt(ctx context.Context, run *running, next *views) error {
	if err := v.shares.TakeAll(ctx); err != nil {
		return err
	}
	for _, r := range []*projection.Runner{v.usage, v.catalog} {
		if err := r.Everywhere(ctx, func(context.Context, pgx.Tx) error { return nil }); err != nil {
			return err
		}
	}
	if err := run.stop(); err != nil {
		return err
	}
	select {
	case <-run.changed:
		return nil // they are of another log, whose positions mean nothing in this one
	default:
	}
	for was, is := range map[*projection.Runner]*projection.Runner{v.usage: next.usage, v.catalog: next.catalog} {
		positions, err := was.Positions(ctx)
		if err != nil {
			return err
		}
		for p, position := range positions {
			if err := is.WaitFor(ctx, p, position); err != nil {
				return err
			}
		}
	}
	return nil
}

// rebuildTask is what one process does at a time.
const rebuildTask = "rebuild"

// tellRebuild keeps the claim of a rebuild, and tells other processes how far it is, until ctx ends.
func (s *Service) tellRebuild(ctx context.Context, claim *projection.Claim) {
	every(ctx, time.Second, nil, func() {
		note, err := json.Marshal(s.localProgress())
		if err == nil {
			err = claim.Keep(ctx, string(note))
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("other processes do not hear how far the rebuild is", "error", err)
		}
	})
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := claim.End(ending); err != nil {
		s.log.Debug("the claim of a rebuild ends by itself", "error", err) // with its tables, if they were replaced
	}
}

// moveOver goes on with the tables that another process of this service has built
// anew and put in the serving ones' place: those may be dropped already. It returns no
// views where the serving ones answer.
func (s *Service) moveOver(ctx context.Context, serving *views, run *running) (*views, *running) {
	store, err := serving.store.Successor(ctx)
	if err != nil {
		if ctx.Err() == nil && !postgres.IsTransient(err) {
			s.log.Warn("cannot tell whether other tables answer in place of these", "schema", serving.store.Schema, "error", err)
		}
		return nil, nil
	}
	if store == nil {
		return nil, nil
	}
	next, err := s.newViews(store, func(context.Context) error { return nil })
	if err != nil {
		s.log.Error("cannot go on with the tables that answer now", "schema", store.Schema, "error", err)
		store.Close()
		return nil, nil
	}
	if err := run.stop(); err != nil {
		s.log.Debug("the former tables' runners had failed", "error", err)
	}
	nextRun := next.start(ctx)
	s.serving.Store(next)
	serving.retire()
	s.log.Info("another process has built the tables anew: going on with those", "schema", store.Schema, "before", serving.store.Schema)
	s.release(serving)
	return next, nextRun
}

// inAccount runs fn as postgres.Store.InAccount does. Until this release's tables are built a
// former release's answer, and may lack what fn asks for.
func (s *Service) inAccount(ctx context.Context, account contract.ID, fn func(tx pgx.Tx) error) error {
	err := s.stores.Views.InAccount(ctx, account, fn)
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != undefinedTable && answer.Code != undefinedColumn {
		return err
	}
	select {
	case <-s.serving.Load().level:
		return err
	default:
		return errs.As(errs.Unavailable, "metering.inAccount", "", "this release's tables are still being built, and those of the former release do not hold this: ask again in a while", err)
	}
}

// canBuild fails where tables that have come to a position, and are built on from
// the stream as it is now, would hold less than the present ones.
func (s *Service) canBuild(ctx context.Context, position uint64) error {
	stream, err := s.js.Stream(ctx, contract.AgentStream)
	if err != nil {
		return fmt.Errorf("metering: stream %s: %w", contract.AgentStream, err)
	}
	info := stream.CachedInfo()
	first := info.State.FirstSeq
	if first <= position+1 {
		return nil
	}
	if s.archive == nil {
		return fmt.Errorf("metering: the stream %s begins at %d: %w, and tables built anew would lose it; keep the present ones, with the release that made them, or name the archive that holds it (--archive-url)", contract.AgentStream, first, errAgedOut)
	}
	err = s.archive.Holds(ctx, info.Created, position+1, first-1)
	if errors.Is(err, archive.ErrGap) {
		return fmt.Errorf("metering: the stream %s begins at %d: %w, and its archive lacks some of it: %w", contract.AgentStream, first, errAgedOut, err)
	}
	if err != nil {
		return fmt.Errorf("metering: looking for what came before %d in the archive: %w", first, err)
	}
	return nil
}

// orderRebuild has the tables built anew; false where that is under way.
func (s *Service) orderRebuild() bool {
	if !s.ordered.CompareAndSwap(false, true) {
		return false
	}
	s.rebuild <- struct{}{} // there is room for the one order
	return true
}

// waitFor waits until a Runner of the serving views has applied a position in a partition.
func (s *Service) waitFor(ctx context.Context, partition int, position uint64, of func(*views) *projection.Runner) error {
	for {
		v := s.serving.Load()
		waiting, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(v.retired, cancel)
		err := of(v).WaitFor(waiting, partition, position)
		stop()
		cancel()
		if err == nil || ctx.Err() != nil || v.retired.Err() == nil {
			return err
		}
	}
}

// replayed tells what became of quarantined payloads.
type replayed struct{ tried, counted, aside int }

// replayQuarantine tries everything in the quarantine again, and counts what can be
// read now, of all accounts: other processes begin again behind it with theirs.
func (s *Service) replayQuarantine(ctx context.Context) (replayed, error) {
	const atOnce = 64
	var sum replayed
	var behind agentlog.Cursor
	for {
		v := s.serving.Load()
		var one replayed
		next := behind
		err := v.usage.Everywhere(ctx, func(ctx context.Context, tx pgx.Tx) error {
			facts, at, taken, err := v.decoder.Replay(ctx, tx, contract.ID{}, behind, atOnce)
			if err != nil {
				return err
			}
			next, one = at, replayed{tried: taken, counted: len(facts.Usage) + len(facts.Choices), aside: facts.Quarantined}
			return v.projection.apply(ctx, tx, &facts)
		})
		if err != nil {
			return sum, fmt.Errorf("metering: replaying the quarantine: %w", err)
		}
		if one.tried == 0 {
			return sum, nil
		}
		behind = next
		sum.tried, sum.counted, sum.aside = sum.tried+one.tried, sum.counted+one.counted, sum.aside+one.aside
	}
}
