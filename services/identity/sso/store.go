package sso

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/keyring"
)

// What is sealed under an account's own key.
const (
	whatSecret  = "identity provider's client secret"
	whatAttempt = "single sign-on attempt"
)

// keepSecret stores a client secret; it counts once an event names it.
func (s *Service) keepSecret(ctx context.Context, account, id contract.ID, secret string) error {
	key, err := s.deps.Keys.KeyOf(ctx, account, account)
	if err != nil {
		return err
	}
	err = s.deps.Secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO provider_secret (account_id, secret_id, sealed) VALUES ($1, $2, $3)",
			[16]byte(account), [16]byte(id), keyring.SealText(key, account, whatSecret, secret))
		return err
	})
	if err != nil {
		return fmt.Errorf("sso: secret of the identity provider: %w", err)
	}
	return nil
}

// dropSecrets deletes all of an account but the one that counts.
func (s *Service) dropSecrets(ctx context.Context, account, but contract.ID) error {
	err := s.deps.Secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM provider_secret WHERE secret_id <> $1 AND created < now() - interval '1 hour'", [16]byte(but))
		return err
	})
	if err != nil {
		return fmt.Errorf("sso: former secrets of the identity provider: %w", err)
	}
	return nil
}

// secret reads the client secret; "" where there is none.
func (s *Service) secret(ctx context.Context, account, id contract.ID) (string, error) {
	if id.IsZero() {
		return "", nil
	}
	var sealed []byte
	err := s.deps.Secrets.InAccount(ctx, account, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT sealed FROM provider_secret WHERE secret_id = $1", [16]byte(id)).Scan(&sealed)
	})
	if err != nil {
		return "", fmt.Errorf("sso: secret of the identity provider: %w", err)
	}
	key, err := s.deps.Keys.KeyOf(ctx, account, account)
	if err != nil {
		return "", err
	}
	return keyring.OpenText(key, account, whatSecret, sealed)
}

// errUsed means that an attempt came to its end before.
var errUsed = errors.New("sso: this attempt has been used")

// use notes that an attempt has come to its end. Those that would be refused for their age
// anyhow are forgotten.
func (s *Service) use(ctx context.Context, account contract.ID, a attempt) error {
	hash := sha256.Sum256([]byte(a.State))
	err := s.deps.Secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM used_attempt WHERE expires < $1", s.now().Add(-time.Minute)); err != nil {
			return err
		}
		done, err := tx.Exec(ctx, "INSERT INTO used_attempt (account_id, hash, expires) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
			[16]byte(account), hash[:], a.Expires)
		if err == nil && done.RowsAffected() == 0 {
			return errUsed
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("sso: use of an attempt: %w", err)
	}
	return nil
}
