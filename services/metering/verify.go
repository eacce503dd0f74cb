package metering

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// attempts is how often tables are compared, where they differ and more has come meanwhile.
const attempts = 10

// Verified is what a comparison of the tables with those that were built anew has found.
type Verified struct {
	// Order is the id of the order, which Report.Ordered has told.
	Order string `json:"order"`
	// Position in AGENT, and Catalog in EVENTS, that both were level with.
	Position uint64 `json:"position"`
	Catalog  uint64 `json:"catalog"`
	// Problem says why nothing was compared; empty where it was.
	Problem string              `json:"problem,omitempty"`
	Tables  []postgres.Compared `json:"tables"`
}

// verifiedTables are those that are made of the streams and of nothing else, whenever that is. Which rows are kept of
// who used what where, and of names, also depends on when what is too old was removed.
func verifiedTables() []string {
	return append(Tables(), "document", "machine", "application", "settings", "expense_to_project", "retention", "login_group", "group_name", "site_name",
		"principal", "correction", "removed_agent", "saved_report", "report_run")
}

// orderVerify has the tables compared, and returns the order's id; false where that, or a rebuild, is under way.
func (s *Service) orderVerify() (id string, ok bool) {
	if !s.ordered.CompareAndSwap(false, true) {
		return "", false
	}
	id = resource.NewID().String()
	s.verified.Store(nil)
	s.verifying.Store(&id)
	s.rebuild <- struct{}{} // there is room for the one order
	return id, true
}

// verify builds the tables anew beside the serving ones, compares both as of one moment, and drops
// what it has built. The serving ones stand still until the comparison has begun.
func (s *Service) verify(ctx context.Context, order string, serving *views, run *running) (*views, *running) {
	claim, err := serving.shares.Claim(ctx, rebuildTask)
	if err != nil || claim == nil {
		s.verified.Store(&Verified{Order: order, Problem: "another process builds or compares the tables, or that cannot be told: give the order again later"})
		return nil, nil
	}
	claimed, endClaim := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { s.tellRebuild(claimed, claim) })
	defer func() {
		endClaim()
		keeping.Wait()
	}()
	began := time.Now()
	s.log.Info("comparing the tables with the log")
	c := &comparison{service: s, serving: serving, run: run}
	found, err := c.compare(ctx)
	if err != nil {
		found = &Verified{Problem: err.Error()}
	}
	if ctx.Err() == nil {
		s.log.Info("the tables were compared with the log", "problem", found.Problem, "position", found.Position, "took", time.Since(began).Round(time.Millisecond))
	}
	found.Order = order
	s.verified.Store(found)
	if c.serving == serving {
		return nil, nil // runViews sees whether it still runs
	}
	return c.serving, c.run
}

// comparison has the serving views, which are others after each attempt.
type comparison struct {
	service *Service
	serving *views
	run     *running
}

func (c *comparison) compare(ctx context.Context) (*Verified, error) {
	if err := c.service.canBuild(ctx, 0); err != nil {
		return nil, err
	}
	store, err := c.serving.store.Beside(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		store.Close()
		// What is left of a comparison would be taken for an interrupted rebuild.
		if err := c.serving.store.DropOthers(context.WithoutCancel(ctx)); err != nil {
			c.service.log.Warn("what was built to be compared could not be dropped; the next rebuild does it", "error", err)
		}
	}()
	for range attempts {
		found, level, err := c.attempt(ctx, store)
		if err != nil {
			return nil, err
		}
		if level || !slices.ContainsFunc(found.Tables, func(t postgres.Compared) bool { return !t.Same() }) {
			return found, nil
		}
		c.service.log.Info("more came while the tables were compared: once more")
	}
	return nil, fmt.Errorf("in %d attempts more came each time while the tables were compared: give the order at a quieter time", attempts)
}

// attempt compares once; level tells whether both had applied the same messages.
func (c *comparison) attempt(ctx context.Context, store *postgres.Store) (found *Verified, level bool, err error) {
	s := c.service
	beside, err := s.newViews(store, func(context.Context) error { return nil })
	if err != nil {
		return nil, false, err
	}
	s.building.Store(beside)
	defer s.building.Store(nil)
	besideRun := beside.start(ctx)
	defer func() { _ = besideRun.stop() }()
	select {
	case <-ctx.Done():
		return nil, false, ctx.Err()
	case <-c.run.done:
		return nil, false, fmt.Errorf("the tables are not kept up to date: %w", cmp.Or(c.run.err, errors.New("they stand still")))
	case <-besideRun.done:
		return nil, false, fmt.Errorf("building the tables anew: %w", cmp.Or(besideRun.err, errors.New("it ended")))
	case <-besideRun.changed:
		return nil, false, errors.New("the log has changed behind what the tables hold: restore it, or build them anew")
	case <-beside.level:
	}
	// What is behind a horizon is gone from the new tables, and goes from these when it is its turn.
	if err := s.removeBefore(ctx, c.serving); err != nil {
		return nil, false, err
	}
	halted := c.serving.halt(ctx, c.run, beside)
	if halted != nil {
		_ = c.run.stop() // it has taken all partitions, for good
	}
	if err := errors.Join(halted, besideRun.stop()); err != nil {
		return nil, false, errors.Join(err, c.goOn(ctx))
	}
	if level, err = sameMessages(ctx, c.serving, beside); err != nil {
		return nil, false, errors.Join(err, c.goOn(ctx))
	}
	err = pgx.BeginTxFunc(ctx, store.Projector, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// The first question takes the moment as of which all are answered.
		found = &Verified{}
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(position) FILTER (WHERE projection = 'usage'), 0), coalesce(max(position) FILTER (WHERE projection = 'catalog'), 0) FROM `+
			pgx.Identifier{c.serving.store.Schema, "projection_checkpoint"}.Sanitize()).Scan(&found.Position, &found.Catalog); err != nil {
			return err
		}
		if err := c.goOn(ctx); err != nil {
			return err
		}
		for _, name := range verifiedTables() {
			t, err := postgres.Compare(ctx, tx, name, c.serving.store.Schema, store.Schema)
			if err != nil {
				return err
			}
			found.Tables = append(found.Tables, t)
		}
		return nil
	})
	select {
	case <-c.run.done: // it did not come so far
		err = errors.Join(err, c.goOn(ctx))
	default:
	}
	return found, level, err
}

// sameMessages tells whether views that stand still have applied the same messages as others that were waited for, which have
// applied at least as many. Where their checkpoints differ, no message of the partition may be between: one that others
// have read, too, comes to the stream's end, whatever stands there.
func sameMessages(ctx context.Context, halted, others *views) (bool, error) {
	for was, is := range map[*projection.Runner]*projection.Runner{halted.usage: others.usage, halted.catalog: others.catalog} {
		positions, err := was.Positions(ctx)
		if err != nil {
			return false, err
		}
		further, err := is.Positions(ctx)
		if err != nil {
			return false, err
		}
		for p, position := range positions {
			if further[p] == position {
				continue
			}
			if ends, err := was.Ends(ctx, p, position); !ends || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// goOn has the serving tables kept again.
func (c *comparison) goOn(ctx context.Context) error {
	select {
	case <-c.run.done:
	default:
		return nil
	}
	next, err := c.service.newViews(c.serving.store, func(context.Context) error { return nil })
	if err != nil {
		return err
	}
	was := c.serving
	c.serving, c.run = next, next.start(ctx)
	c.service.serving.Store(next)
	was.retire()
	return nil
}
