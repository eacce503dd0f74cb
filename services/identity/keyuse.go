package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// keyUsesWaiting bounds what was told and not yet kept; what is more is lost.
const keyUsesWaiting = 1 << 12

// hearKeyUses keeps when API keys were last used, as the processes that judge them tell.
func (s *Service) hearKeyUses(ctx context.Context) error {
	heard := make(chan *nats.Msg, keyUsesWaiting)
	subscription, err := s.nats.ChanQueueSubscribe(contract.KeyUseSubjects, contextName, heard)
	if err != nil {
		return fmt.Errorf("identity: hear of used keys: %w", err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-heard:
			if err := s.keepKeyUse(ctx, m); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "when an API key was used is not kept", "subject", m.Subject, "error", err)
			}
		}
	}
}

// keepKeyUse keeps one. A clock that is ahead is not believed: what is kept could not be put
// back by what comes later.
func (s *Service) keepKeyUse(ctx context.Context, m *nats.Msg) error {
	account, err := accountOfKeyUse(m.Subject)
	if err != nil {
		return err
	}
	use := &identityv1.ApiKeyUse{}
	if err := proto.Unmarshal(m.Data, use); err != nil {
		return err
	}
	key, err := contract.IDFrom(use.GetApiKeyId())
	if err != nil {
		return err
	}
	login, err := contract.IDFrom(use.GetLoginId())
	if err != nil {
		return err
	}
	at := use.GetUseTime().AsTime()
	if now := time.Now(); at.After(now) {
		at = now
	}
	_, err = s.stores.Secrets.Projector.Exec(ctx, `INSERT INTO key_use (account_id, api_key_id, login_id, last_used)
		SELECT $1::uuid, $2::uuid, $3::uuid, $4::timestamptz WHERE NOT EXISTS (SELECT FROM forgotten_login WHERE account_id = $1::uuid AND login_id = $3::uuid)
		ON CONFLICT (account_id, api_key_id) DO UPDATE SET last_used = excluded.last_used WHERE key_use.last_used < excluded.last_used`,
		[16]byte(account), [16]byte(key), [16]byte(login), at)
	return err
}

func accountOfKeyUse(subject string) (contract.ID, error) {
	var text string
	if _, err := fmt.Sscanf(subject, "keyuse.%s", &text); err != nil {
		return contract.ID{}, fmt.Errorf("identity: subject %q: %w", subject, err)
	}
	return contract.ParseID(text)
}

// keyUses are when some keys of an account were last used.
func (s *Service) keyUses(ctx context.Context, account contract.ID, rows []apiKeyRow) (map[contract.ID]time.Time, error) {
	ids := make([][16]byte, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	uses := make(map[contract.ID]time.Time)
	return uses, s.stores.Secrets.InAccount(ctx, account, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, "SELECT api_key_id, last_used FROM key_use WHERE account_id = $1 AND api_key_id = ANY ($2)", [16]byte(account), ids)
		if err != nil {
			return err
		}
		var id [16]byte
		var at time.Time
		_, err = pgx.ForEachRow(found, []any{&id, &at}, func() error {
			uses[contract.ID(id)] = at
			return nil
		})
		return err
	})
}
