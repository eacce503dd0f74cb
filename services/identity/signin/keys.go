package signin

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

const (
	// keyLife is how long a key signs.
	keyLife = 30 * 24 * time.Hour
	// publishedAhead is how long a key is known before it signs: every process that checks
	// tokens has read of it by then, and copies of the key set have been fetched again.
	publishedAhead = time.Hour
	// rotating is the advisory lock under which keys are made and withdrawn.
	rotating = 0x6365746b // "cetk"
)

// signingKey is a key as it is kept.
type signingKey struct {
	id        string
	private   ed25519.PrivateKey
	created   time.Time
	signsFrom time.Time
}

// signingKeys are those that are published: the one that signs, its predecessor while
// tokens of it may live, and its successor.
type signingKeys struct {
	operator contract.ID
	issuer   string
	store    *postgres.Store
	box      box
	now      func() time.Time
	events   eventlog.Repository[published]

	mu   sync.RWMutex
	keys []signingKey // by signsFrom
}

// published is the aggregate of a signing key.
type published struct{ out, withdrawn bool }

func (p published) apply(event proto.Message) (published, error) {
	switch event.(type) {
	case *identityv1.SigningKeyPublished:
		return published{out: true}, nil
	case *identityv1.SigningKeyWithdrawn:
		return published{withdrawn: true}, nil
	}
	return p, fmt.Errorf("signin: %T is no event of a signing key", event)
}

func newSigningKeys(cfg Config, deps Deps, registry *eventlog.Registry, b box) *signingKeys {
	return &signingKeys{
		operator: cfg.Operator, issuer: authn.Issuer(cfg.Operator), store: deps.Secrets, box: b, now: cfg.Now,
		events: repository(deps.Log, registry, published.apply),
	}
}

// refresh reads the keys, makes the next one when it is time, and withdraws those whose
// last token has expired. A key is in the database before the log is told of it, and the
// log is told again until it knows. One process does it at a time.
func (k *signingKeys) refresh(ctx context.Context) error {
	var keys []signingKey
	// Keys of the platform: no answer shows them, so the projector's role may read them.
	err := pgx.BeginFunc(ctx, k.store.Projector, func(tx pgx.Tx) (err error) {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", rotating); err != nil {
			return err
		}
		if keys, err = k.load(ctx, tx); err != nil {
			return err
		}
		now := k.now()
		if len(keys) == 0 || !now.Before(keys[len(keys)-1].signsFrom.Add(keyLife-publishedAhead)) {
			next, err := k.draw(ctx, tx, now, len(keys) == 0)
			if err != nil {
				return err
			}
			keys = append(keys, next)
		}
		// What has a successor that has signed for longer than a token lives signs nothing
		// that is good any more.
		for len(keys) > 1 && !now.Before(keys[1].signsFrom.Add(authn.TokenLife+time.Minute)) {
			if err := k.withdraw(ctx, tx, keys[0].id, now); err != nil {
				return err
			}
			keys = keys[1:]
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("signin: signing keys: %w", err)
	}
	for _, key := range keys {
		if err := k.publish(ctx, key); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
	return nil
}

func (k *signingKeys) load(ctx context.Context, tx pgx.Tx) ([]signingKey, error) {
	rows, err := tx.Query(ctx, "SELECT key_id, sealed, created, signs_from FROM signing_key WHERE withdrawn IS NULL ORDER BY signs_from, key_id")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (key signingKey, err error) {
		var sealed []byte
		if err := row.Scan(&key.id, &sealed, &key.created, &key.signsFrom); err != nil {
			return key, err
		}
		seed, err := k.box.open(sealed, "signing key "+key.id)
		if err != nil {
			return key, err
		}
		if len(seed) != ed25519.SeedSize {
			return key, errBox
		}
		key.private = ed25519.NewKeyFromSeed(seed)
		return key, nil
	})
}

// draw makes a key; the first signs at once, since nobody knows another.
func (k *signingKeys) draw(ctx context.Context, tx pgx.Tx, now time.Time, first bool) (signingKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return signingKey{}, err
	}
	key := signingKey{id: authn.KeyID(public), private: private, created: now, signsFrom: now}
	if !first {
		key.signsFrom = now.Add(publishedAhead)
	}
	_, err = tx.Exec(ctx, "INSERT INTO signing_key (account_id, key_id, sealed, created, signs_from) VALUES ($1, $2, $3, $4, $5)",
		[16]byte(nobody()), key.id, k.box.seal(private.Seed(), "signing key "+key.id), key.created, key.signsFrom)
	return key, err
}

func (k *signingKeys) publish(ctx context.Context, key signingKey) error {
	public, _ := key.private.Public().(ed25519.PublicKey)
	_, err := k.events.Execute(ctx, signingKeySubject(k.operator, key.id), eventlog.Command{}, func(p published) ([]proto.Message, error) {
		if p.out || p.withdrawn {
			return nil, nil
		}
		return []proto.Message{&identityv1.SigningKeyPublished{PublicKey: public}}, nil
	})
	if err != nil {
		return fmt.Errorf("signin: publishing the signing key %s: %w", key.id, err)
	}
	return nil
}

func (k *signingKeys) withdraw(ctx context.Context, tx pgx.Tx, id string, now time.Time) error {
	_, err := k.events.Execute(ctx, signingKeySubject(k.operator, id), eventlog.Command{}, func(p published) ([]proto.Message, error) {
		if !p.out {
			return nil, nil
		}
		return []proto.Message{&identityv1.SigningKeyWithdrawn{}}, nil
	})
	if err != nil {
		return fmt.Errorf("withdrawing %s: %w", id, err)
	}
	_, err = tx.Exec(ctx, "UPDATE signing_key SET withdrawn = $2, sealed = '' WHERE key_id = $1", id, now)
	return err
}

// sign signs with the key whose time it is.
func (k *signingKeys) sign(t authn.AccessToken) (string, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	now := k.now()
	for _, key := range slices.Backward(k.keys) {
		if now.Before(key.signsFrom) {
			continue
		}
		signer, err := authn.NewSigner(k.issuer, key.private)
		if err != nil {
			return "", err
		}
		return signer.Sign(t)
	}
	return "", errors.New("signin: there is no signing key")
}

// jwks are the public keys, as RFC 8037 writes them.
func (k *signingKeys) jwks() []*identityv1.Jwk {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var list []*identityv1.Jwk
	for _, key := range k.keys {
		public, _ := key.private.Public().(ed25519.PublicKey)
		list = append(list, &identityv1.Jwk{Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(public), Kid: key.id, Use: "sig", Alg: "EdDSA"})
	}
	return list
}
