package keyring

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed sql/deposit.sql
var depositSQL string

//go:embed sql/load.sql
var loadSQL string

//go:embed sql/forget.sql
var forgetSQL string

//go:embed sql/foreign.sql
var foreignSQL string

// StoreConfig is the keyring's schema, for postgres.Open; the URL and the logger
// are the caller's to fill in.
func StoreConfig() postgres.Config {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return postgres.Config{
		Service: "keyring", Version: 1, MaxQueries: 4,
		Migrations: []postgres.Migrations{{Name: "keyring", Files: files}},
	}
}

// Config of a keyring.
type Config struct {
	// KeyFile is the file of the key-encryption key, beside the database and in
	// no backup of it. It is made where it is missing, unless the database holds
	// keys that need it.
	KeyFile string
	// Given says that somebody else makes and keeps that file: where it is missing, none is made, and its group
	// may read it, as is usual with a secret that is mounted.
	Given bool
	// Wrapper is how a new key-encryption key is written into it; InClear if nil.
	Wrapper Wrapper
}

// Deps are what a keyring stands on. All stay the caller's.
type Deps struct {
	// NATS takes deposits; nil where this process only opens names.
	NATS *nats.Conn
	// Store is opened from StoreConfig.
	Store *postgres.Store
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
}

// Keyring opens names, takes deposits while Run runs, and forgets people.
type Keyring struct {
	wrapping *wrappingKeys
	deps     Deps
	cache    *cache
	now      func() time.Time
}

// New reads the key-encryption key and checks that it is the one that wraps the
// keys in the database.
func New(ctx context.Context, config Config, deps Deps) (*Keyring, error) {
	if config.KeyFile == "" || deps.Store == nil {
		return nil, errors.New("keyring: it needs a KeyFile and a Store")
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	deps.Logger = deps.Logger.With("component", "keyring")
	if config.Wrapper == nil {
		config.Wrapper = InClear{}
	}
	made := false
	if _, err := os.Stat(config.KeyFile); errors.Is(err, fs.ErrNotExist) && !config.Given {
		if err := makeKeyFile(ctx, config.KeyFile, config.Wrapper, time.Now()); err != nil {
			return nil, err
		}
		made = true
	}
	wrapping := &wrappingKeys{path: config.KeyFile, given: config.Given, by: config.Wrapper, log: deps.Logger, now: time.Now}
	foreign, err := wrapping.foreign(ctx, deps.Store)
	if err == nil && foreign > 0 {
		// A rotation may have written the file, and then wrapped with what is new in it, since it was read.
		foreign, err = wrapping.foreign(ctx, deps.Store)
	}
	if err != nil {
		return nil, err
	}
	if foreign > 0 {
		if made {
			err = os.Remove(config.KeyFile)
		}
		return nil, errors.Join(fmt.Errorf("keyring: %d keys in the database are wrapped by another key-encryption key than %s; restore that file from its backup: without it the names of people cannot be read", foreign, config.KeyFile), err)
	}
	return &Keyring{wrapping: wrapping, deps: deps, cache: newCache(cacheSize), now: time.Now}, nil
}

// foreign counts the keys in the database that are wrapped by none of the file's.
func (w *wrappingKeys) foreign(ctx context.Context, store *postgres.Store) (n int64, err error) {
	keys, err := w.get(ctx)
	if err != nil {
		return 0, err
	}
	known := make([][]byte, len(keys))
	for i, k := range keys {
		known[i] = k.id()
	}
	if err := store.Projector.QueryRow(ctx, foreignSQL, known).Scan(&n); err != nil {
		return 0, fmt.Errorf("keyring: %w", err)
	}
	return n, nil
}

// OpenNames reads sealed names of one account. It answers in the order of the
// question, with "" where there is no key, not yet or not any more, or the seal
// does not open.
func (k *Keyring) OpenNames(ctx context.Context, account contract.ID, names []*usagev1.SealedName) ([]string, error) {
	principals := make([]contract.ID, 0, len(names))
	for _, name := range names {
		if principal, err := contract.IDFrom(name.GetPrincipalId()); err == nil {
			principals = append(principals, principal)
		}
	}
	keys, err := k.keys(ctx, account, principals)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(names))
	broken := 0
	for i, name := range names {
		principal, err := contract.IDFrom(name.GetPrincipalId())
		if err != nil {
			broken++
			continue
		}
		key, ok := keys[principal]
		if !ok {
			continue
		}
		if texts[i], err = Open(key, name); err != nil {
			broken++
		}
	}
	if broken > 0 {
		k.deps.Logger.WarnContext(ctx, "names do not open", "account", account, "names", broken)
	}
	return texts, nil
}

// keys finds the keys of principals, of those that have one.
func (k *Keyring) keys(ctx context.Context, account contract.ID, principals []contract.ID) (map[contract.ID]Key, error) {
	now, generation := k.now(), k.cache.begin()
	found := make(map[contract.ID]Key)
	asked := make(map[contract.ID]bool)
	var missing [][16]byte
	for _, principal := range principals {
		if asked[principal] {
			continue
		}
		asked[principal] = true
		if key, ok := k.cache.get(cacheKey{account, principal}, now); ok {
			found[principal] = key
		} else {
			missing = append(missing, principal)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	wrapping, err := k.wrapping.get(ctx)
	if err != nil {
		return nil, k.fail(err)
	}
	err = k.deps.Store.InAccount(ctx, account, func(tx pgx.Tx) error {
		stored, err := load(ctx, tx, account, missing)
		if err != nil {
			return err
		}
		for principal, s := range stored {
			if s.wrapped == nil {
				continue
			}
			key, err := unwrap(wrapping, account, principal, s)
			if err != nil {
				return err
			}
			found[principal] = key
			k.cache.put(cacheKey{account, principal}, key, now, generation)
		}
		return nil
	})
	if err != nil {
		return nil, k.fail(err)
	}
	return found, nil
}

// Forget destroys the key of a principal: its names can never be read again, and
// a later deposit for it is ignored. Forgetting twice is no error.
func (k *Keyring) Forget(ctx context.Context, account, principal contract.ID) error {
	_, err := k.deps.Store.Projector.Exec(ctx, forgetSQL, [16]byte(account), [16]byte(principal))
	k.cache.remove(cacheKey{account, principal})
	if err != nil {
		return k.fail(err)
	}
	k.deps.Logger.InfoContext(ctx, "a person was forgotten", "account", account, "principal", principal)
	return nil
}

// entry is one key to deposit.
type entry struct {
	principal contract.ID
	key       Key
}

// deposit makes the keys durable. Depositing a key again is no error; a key that
// differs from the one deposited before is refused, and the others stand.
func (k *Keyring) deposit(ctx context.Context, account, manager contract.ID, entries []entry) error {
	wrapping, err := k.wrapping.get(ctx)
	if err != nil {
		return k.fail(err)
	}
	ids := make([][16]byte, len(entries))
	wrapped := make([][]byte, len(entries))
	for i, e := range entries {
		ids[i] = e.principal
		wrapped[i] = wrapping[0].seal(e.key[:], wrapData(account, e.principal))
	}
	var before map[contract.ID]stored
	err = pgx.BeginFunc(ctx, k.deps.Store.Projector, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, depositSQL, [16]byte(account), [16]byte(manager), wrapping[0].id(), ids, wrapped)
		if err != nil {
			return err
		}
		added, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
		if err != nil || len(added) == len(ids) {
			return err
		}
		before, err = load(ctx, tx, account, ids)
		return err
	})
	if err != nil {
		return k.fail(err)
	}
	var others []string
	for _, e := range entries {
		s, ok := before[e.principal]
		if !ok || s.wrapped == nil {
			continue
		}
		key, err := unwrap(wrapping, account, e.principal, s)
		if err != nil {
			return err
		}
		if key != e.key {
			others = append(others, e.principal.String())
		}
	}
	if len(others) > 0 {
		return errs.New(errs.Conflict, "keyring.Deposit", "", "of these principals there is another key already: "+strings.Join(others, ", "))
	}
	return nil
}

// stored is a row; wrapped is nil where the principal is forgotten.
type stored struct{ wrapping, wrapped []byte }

func load(ctx context.Context, tx pgx.Tx, account contract.ID, principals [][16]byte) (map[contract.ID]stored, error) {
	rows, err := tx.Query(ctx, loadSQL, [16]byte(account), principals)
	if err != nil {
		return nil, err
	}
	result := make(map[contract.ID]stored, len(principals))
	var id [16]byte
	var s stored
	_, err = pgx.ForEachRow(rows, []any{&id, &s.wrapping, &s.wrapped}, func() error {
		result[id] = s
		s = stored{}
		return nil
	})
	return result, err
}

func unwrap(keys []Key, account, principal contract.ID, s stored) (Key, error) {
	var key Key
	wrapping, ok := of(keys, s.wrapping)
	if !ok {
		return key, fmt.Errorf("keyring: the key of principal %s is wrapped by another key-encryption key", principal)
	}
	raw, err := wrapping.open(s.wrapped, wrapData(account, principal))
	if err != nil || len(raw) != len(key) {
		return key, fmt.Errorf("keyring: the key of principal %s in the database is damaged: %w", principal, errors.Join(err, ErrSealed))
	}
	copy(key[:], raw)
	return key, nil
}

// wrapData ties a wrapped key to its place.
func wrapData(account, principal contract.ID) []byte {
	return append(append([]byte("cetrus principal key"), account[:]...), principal[:]...)
}

// fail gives an error of the database its kind.
func (k *Keyring) fail(err error) error {
	if errs.Is(errs.Unavailable, err) || errs.Is(errs.Precondition, err) {
		return err
	}
	if postgres.IsTransient(err) {
		return errs.As(errs.Unavailable, "keyring", "", "the keys of names cannot be reached now; repeat it in a while", err)
	}
	return fmt.Errorf("keyring: %w", err)
}
