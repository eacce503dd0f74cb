package keyring

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
)

//go:embed sql/others.sql
var othersSQL string

//go:embed sql/rewrap.sql
var rewrapSQL string

const (
	// rewrapped is how many keys are wrapped anew in one transaction.
	rewrapped = 500
	// retireAfter is how long a former key is kept though nothing is wrapped by it: a process
	// that was about to wrap with it, or does not have the new file yet, has done so by then.
	retireAfter = time.Hour
	// rotating is the advisory lock of whoever writes the file.
	rotating = 0x6b657973 // "keys"
)

// Rotated tells what became of a rotation.
type Rotated struct {
	// Rewrapped counts the keys that were wrapped anew, Former the key-encryption keys that
	// still stand in the file beside the present one.
	Rewrapped, Former int
}

// Rotate makes a new key-encryption key, wrapped as Config.Wrapper has it, and wraps by it all that others
// wrap. Processes that run and read the same file take it up by themselves. Nothing is lost where it is interrupted: the file has both keys, and Rewrap goes on.
func (k *Keyring) Rotate(ctx context.Context) (done Rotated, err error) {
	err = k.alone(ctx, func() error {
		written, err := readKeyFile(k.wrapping.path, k.wrapping.given)
		if err != nil {
			return err
		}
		text, err := k.wrapping.by.Wrap(ctx, NewKey())
		if err != nil {
			return err
		}
		written = append([]writtenKey{{kind: k.wrapping.by.Kind(), text: text, made: k.now()}}, written...)
		if err := durable.Replace(k.wrapping.path, formatKeyFile(written)); err != nil {
			return fmt.Errorf("keyring: write the key-encryption key: %w", err)
		}
		done, err = k.rewrapAll(ctx)
		return err
	})
	return done, err
}

// Rewrap wraps by the present key-encryption key what others wrap, and forgets those that have been
// former ones for an hour and wrap nothing any more.
func (k *Keyring) Rewrap(ctx context.Context) (done Rotated, err error) {
	err = k.alone(ctx, func() error {
		done, err = k.rewrapAll(ctx)
		return err
	})
	return done, err
}

// alone lets nobody else write the file meanwhile: of two who had read the same one, the second would
// write over the key of the first, and whatever that wraps by then would be lost.
func (k *Keyring) alone(ctx context.Context, do func() error) error {
	tx, err := k.deps.Store.Projector.Begin(ctx)
	if err != nil {
		return k.fail(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it has changed nothing; the lock ends with it
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", rotating); err != nil {
		return k.fail(err)
	}
	return do()
}

func (k *Keyring) rewrapAll(ctx context.Context) (done Rotated, err error) {
	keys, err := k.wrapping.get(ctx)
	if err != nil {
		return done, k.fail(err)
	}
	for more := true; more; {
		if err := pgx.BeginFunc(ctx, k.deps.Store.Projector, func(tx pgx.Tx) error {
			n, err := rewrap(ctx, tx, keys)
			more = n > 0
			done.Rewrapped += n
			return err
		}); err != nil {
			return done, k.fail(err)
		}
	}
	written, err := readKeyFile(k.wrapping.path, k.wrapping.given)
	if err != nil {
		return done, err
	}
	// The one that was made last took the others' place when it was made.
	if len(written) > 1 && done.Rewrapped == 0 && k.now().Sub(written[0].made) >= retireAfter {
		written = written[:1]
		if err := durable.Replace(k.wrapping.path, formatKeyFile(written)); err != nil {
			return done, fmt.Errorf("keyring: write the key-encryption key: %w", err)
		}
	}
	done.Former = len(written) - 1
	return done, nil
}

func rewrap(ctx context.Context, tx pgx.Tx, keys []Key) (int, error) {
	rows, err := tx.Query(ctx, othersSQL, keys[0].id(), rewrapped)
	if err != nil {
		return 0, err
	}
	var account, principal [16]byte
	var s stored
	var accounts, principals [][16]byte
	var wrapped [][]byte
	_, err = pgx.ForEachRow(rows, []any{&account, &principal, &s.wrapping, &s.wrapped}, func() error {
		key, err := unwrap(keys, account, principal, s)
		if err != nil {
			return err
		}
		accounts, principals = append(accounts, account), append(principals, principal)
		wrapped = append(wrapped, keys[0].seal(key[:], wrapData(account, principal)))
		return nil
	})
	if err != nil || len(wrapped) == 0 {
		return 0, err
	}
	tag, err := tx.Exec(ctx, rewrapSQL, keys[0].id(), accounts, principals, wrapped)
	if err == nil && tag.RowsAffected() != int64(len(wrapped)) {
		err = errs.New(errs.Internal, "keyring.Rewrap", "", fmt.Sprintf("%d of %d keys were wrapped anew", tag.RowsAffected(), len(wrapped)))
	}
	return len(wrapped), err
}
