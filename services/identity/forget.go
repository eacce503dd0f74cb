package identity

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/reactor"
)

const (
	// strayWithin is how long after a login was forgotten a call that knew it may still write of it.
	strayWithin = time.Hour
	// originKept is how long it is known from where a login has signed in, since it last did.
	originKept = 180 * 24 * time.Hour
	// forgetFirstPause and forgetPause are the shortest and the longest pause between attempts to
	// forget, of which there is no last one.
	forgetFirstPause = 200 * time.Millisecond
	forgetPause      = time.Minute
)

// forgetter destroys what is left of a login that was deleted: all that lies beside the log, then
// the key of what stands sealed in it. Each step may be repeated, and all are until all are done.
type forgetter struct {
	secrets  *postgres.Store
	keys     Keys
	registry *eventlog.Registry
	log      *slog.Logger
	now      func() time.Time
}

// reactor follows the deletions in the log, those from before it was there included.
func (f *forgetter) reactor(nc *nats.Conn, firstPause time.Duration) (*reactor.Reactor, error) {
	f.registry = eventlog.NewRegistry(eventlog.Current[*identityv1.LoginDeleted]("cetrus.identity.login.deleted.v1"))
	return reactor.New(reactor.Config{
		Name: "identity-forget", Stream: contract.EventStream, Subjects: []string{"ev.*.*." + contextName + ".login.*"},
		FirstPause: firstPause, MaxPause: forgetPause,
		// Nobody is told that somebody was not forgotten: so it is never given up.
		Attempts: math.MaxInt32, MaxDeliveries: math.MaxInt32,
	}, reactor.Deps{NATS: nc, Handler: f.handle, Logger: f.log})
}

func (f *forgetter) handle(ctx context.Context, event eventlog.Event) error {
	if !f.registry.Knows(event.Type) {
		return nil
	}
	at, err := placeOf(event.Subject)
	if err != nil {
		return reactor.Permanent(err)
	}
	now := f.now()
	err = pgx.BeginFunc(ctx, f.secrets.Projector, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO forgotten_login (account_id, login_id, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", [16]byte(at.account), [16]byte(at.id), now); err != nil {
			return err
		}
		return f.drop(ctx, tx, at.account, at.id, event.Actor, now)
	})
	if err != nil {
		return f.fail(err)
	}
	return f.keys.Forget(ctx, at.account, at.id)
}

// drop deletes the rows of a login from every table beside the log that has any, whichever part
// of identity made it, so that no table can be left out.
func (f *forgetter) drop(ctx context.Context, tx pgx.Tx, account, login contract.ID, actor string, now time.Time) error {
	if err := signin.Forget(ctx, tx, account, login, actor, now); err != nil {
		return err
	}
	tables, err := tablesOfLogins(ctx, tx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if _, err := tx.Exec(ctx, "DELETE FROM "+pgx.Identifier{table}.Sanitize()+" WHERE account_id = $1 AND login_id = $2", [16]byte(account), [16]byte(login)); err != nil {
			return fmt.Errorf("identity: table %s: %w", table, err)
		}
	}
	return nil
}

// tablesOfLogins are those that have a column login_id, but for those that may keep it for a while.
func tablesOfLogins(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'login_id' AND NOT a.attisdropped ORDER BY c.relname`)
	if err != nil {
		return nil, err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	kept := append(signin.KeptUntilTold(), "forgotten_login")
	return slices.DeleteFunc(tables, func(table string) bool { return slices.Contains(kept, table) }), err
}

// run sweeps each minute until ctx ends. What fails is said, and done again the next time.
func (f *forgetter) run(ctx context.Context) error {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		if err := f.sweep(ctx); err != nil && ctx.Err() == nil {
			f.log.WarnContext(ctx, "what has to be forgotten is not yet; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// sweep deletes what was written of logins while they were forgotten, and what is known of
// others for too long.
func (f *forgetter) sweep(ctx context.Context) error {
	now := f.now()
	return f.fail(pgx.BeginFunc(ctx, f.secrets.Projector, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT account_id, login_id FROM forgotten_login")
		if err != nil {
			return err
		}
		links, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Link, err error) {
			err = row.Scan((*[16]byte)(&l.Account), (*[16]byte)(&l.Login))
			return l, err
		})
		if err != nil {
			return err
		}
		for _, l := range links {
			if err := f.drop(ctx, tx, l.Account, l.Login, "", now); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "DELETE FROM forgotten_login WHERE at < $1", now.Add(-strayWithin)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "DELETE FROM known_origin WHERE at < $1", now.Add(-originKept))
		return err
	}))
}

func (f *forgetter) fail(err error) error {
	if postgres.IsTransient(err) {
		return errs.As(errs.Unavailable, "identity.forget", "", "the database does not answer", err)
	}
	return errs.Wrap("identity.forget", "", err)
}
