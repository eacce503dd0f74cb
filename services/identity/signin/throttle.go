package signin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// nobody is the account of rows that belong to none: a UUID of a version that no id has.
func nobody() contract.ID {
	return contract.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
}

const (
	// freeOfLogin failures in a row cost no wait; then one second, two, four …
	freeOfLogin = 5
	// freeOfAddress is more: many people may share one.
	freeOfAddress = 30
	// longestWait bounds the wait: some hundred guesses a day, and nobody is shut out for good.
	longestWait = 15 * time.Minute
	// forgetAfter a failure, it and those before it count no more.
	forgetAfter = 24 * time.Hour
	// knownFor is how long an address counts as a login's own after it has signed in from it.
	knownFor = 60 * 24 * time.Hour
)

// ReasonThrottled is the reason of an error that asks to wait.
const ReasonThrottled = "TOO_MANY_ATTEMPTS"

// throttle counts failures, in the database, so that a restart forgets none.
type throttle struct {
	store *postgres.Store
	key   []byte
	now   func() time.Time
}

type attemptKey [sha256.Size]byte

// gate is one count that an attempt has to pass.
type gate struct {
	key  attemptKey
	free int
}

// attempt is one that was let pass. It counts as a failure unless it is taken back or
// succeeds: so a hundred at once are a hundred, not one.
type attempt struct {
	gates []gate
	pair  attemptKey
	// failures is the greatest count, this one included.
	failures int
}

func (t *throttle) hash(kind string, words ...string) (key attemptKey) {
	h := hmac.New(sha256.New, t.key)
	for _, w := range append([]string{kind}, words...) {
		fmt.Fprintf(h, "%d:%s", len(w), w)
	}
	copy(key[:], h.Sum(nil))
	return key
}

// begin counts an attempt of a kind on a login's names from an address, or answers with
// an error that says how long to wait. Attempts while one waits are not counted.
func (t *throttle) begin(ctx context.Context, op, kind, account, login string, from authn.Origin) (attempt, error) {
	pair := t.hash(kind+" pair", account, login, networkOf(from))
	return t.pass(ctx, op, pair, func(tx pgx.Tx) ([]gate, error) {
		var knownUntil *time.Time
		err := tx.QueryRow(ctx, "SELECT known_until FROM attempt WHERE key = $1", pair[:]).Scan(&knownUntil)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
		if knownUntil != nil && t.now().Before(*knownUntil) {
			return []gate{{pair, freeOfLogin}}, nil
		}
		return []gate{{t.hash(kind+" login", account, login), freeOfLogin}, t.addressGate(kind, from)}, nil
	})
}

// beginAddress is begin for attempts of which nobody can say yet whose they are: they count for
// the address alone.
func (t *throttle) beginAddress(ctx context.Context, op, kind string, from authn.Origin) (attempt, error) {
	return t.pass(ctx, op, attemptKey{}, func(pgx.Tx) ([]gate, error) { return []gate{t.addressGate(kind, from)}, nil })
}

func (t *throttle) addressGate(kind string, from authn.Origin) gate {
	return gate{t.hash(kind+" address", networkOf(from)), freeOfAddress}
}

// pass counts an attempt at each of its gates, or answers with an error that says how long to wait.
func (t *throttle) pass(ctx context.Context, op string, pair attemptKey, gates func(pgx.Tx) ([]gate, error)) (attempt, error) {
	a := attempt{pair: pair}
	now := t.now()
	var wait time.Duration
	err := t.store.ChangeInAccount(ctx, nobody(), func(tx pgx.Tx) (err error) {
		if a.gates, err = gates(tx); err != nil {
			return err
		}
		// Always in the same order, so that two attempts do not wait for each other.
		slices.SortFunc(a.gates, func(x, y gate) int { return slices.Compare(x.key[:], y.key[:]) })
		for _, g := range a.gates {
			failures, last, err := t.lock(ctx, tx, g.key, now)
			if err != nil {
				return err
			}
			wait = max(wait, last.Add(waitAfter(failures, g.free)).Sub(now))
			a.failures = max(a.failures, failures+1)
		}
		if wait > 0 {
			return nil
		}
		for _, g := range a.gates {
			if _, err := tx.Exec(ctx, "UPDATE attempt SET failures = failures + 1, last = $2 WHERE key = $1", g.key[:], now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return a, fail(op, err)
	}
	if wait > 0 {
		seconds := int((wait + time.Second - 1) / time.Second)
		return a, errs.New(errs.Exhausted, op, "", fmt.Sprintf("too many attempts failed: wait %d s, then try again", seconds)).WithReason(ReasonThrottled)
	}
	return a, nil
}

// lock reads a count for update; one that is old enough has been forgotten.
func (t *throttle) lock(ctx context.Context, tx pgx.Tx, key attemptKey, now time.Time) (failures int, last time.Time, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO attempt AS a (account_id, key, failures, last) VALUES ($1, $2, 0, $3)
		ON CONFLICT (account_id, key) DO UPDATE SET failures = CASE WHEN a.last < $4 THEN 0 ELSE a.failures END
		RETURNING failures, last`, [16]byte(nobody()), key[:], now, now.Add(-forgetAfter)).Scan(&failures, &last)
	return failures, last, err
}

// waitAfter is how long to wait after the last of so many failures in a row.
func waitAfter(failures, free int) time.Duration {
	over := failures - free
	if over < 0 {
		return 0
	}
	if over > 20 {
		return longestWait
	}
	return min(time.Second<<over, longestWait)
}

// takeBack says that an attempt was no failure, and no success either.
func (t *throttle) takeBack(ctx context.Context, op string, a attempt) error {
	return fail(op, t.store.ChangeInAccount(ctx, nobody(), func(tx pgx.Tx) error {
		for _, g := range a.gates {
			if _, err := tx.Exec(ctx, "UPDATE attempt SET failures = greatest(failures - 1, 0) WHERE key = $1", g.key[:]); err != nil {
				return err
			}
		}
		return nil
	}))
}

// succeeded forgets the failures of the login, and remembers its address. Those of the
// address stay, but for this attempt: else whoever has a login of their own could try
// others' without end.
func (t *throttle) succeeded(ctx context.Context, op, kind string, from authn.Origin, a attempt) error {
	now, ofAddress := t.now(), t.hash(kind+" address", networkOf(from))
	return fail(op, t.store.ChangeInAccount(ctx, nobody(), func(tx pgx.Tx) error {
		for _, g := range a.gates {
			change := "UPDATE attempt SET failures = 0 WHERE key = $1"
			if g.key == ofAddress {
				change = "UPDATE attempt SET failures = greatest(failures - 1, 0) WHERE key = $1"
			}
			if _, err := tx.Exec(ctx, change, g.key[:]); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO attempt (account_id, key, failures, last, known_until) VALUES ($1, $2, 0, $3, $4)
			ON CONFLICT (account_id, key) DO UPDATE SET failures = 0, known_until = excluded.known_until`,
			[16]byte(nobody()), a.pair[:], now, now.Add(knownFor))
		return err
	}))
}

// sweep deletes counts that say nothing any more.
func (t *throttle) sweep(ctx context.Context) error {
	now := t.now()
	return fail("signin.sweep", t.store.ChangeInAccount(ctx, nobody(), func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM attempt WHERE last < $1 AND (known_until IS NULL OR known_until < $2)", now.Add(-forgetAfter), now)
		return err
	}))
}

// fail gives an error of the database its kind.
func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if postgres.IsTransient(err) {
		return errs.As(errs.Unavailable, op, "", "sign-in cannot be reached now; repeat it in a while", err)
	}
	return errs.Wrap(op, "", err)
}
