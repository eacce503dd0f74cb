package signin

import (
	"context"

	"github.com/jackc/pgx/v5"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// takeOver makes a login its person's own, in the transaction of the sign-in by a password that
// others may have set: whoever had the login in hand before may have registered what lets them in
// again. What was shown at this sign-in stays; codes are recovery codes that it made. Sessions end
// with it.
func (s *Service) takeOver(ctx context.Context, op string, tx pgx.Tx, l Login, shown factorUse, codes []string) ([]string, error) {
	// After the lock nobody registers anything but in a session that stands (see stands).
	if _, err := lockFactors(ctx, tx, l.Account, l.ID); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "UPDATE password SET one_time = false, by_link = false WHERE login_id = $1", [16]byte(l.ID)); err != nil {
		return nil, err
	}
	news, err := s.news(ctx, op, l.actor(), l.Account, l.ID, &identityv1.SecondFactorRemoved{LoginId: l.ID[:]})
	if err != nil {
		return nil, err
	}
	if err := s.removePasskeysBut(ctx, tx, news, shown.passkeyID()); err != nil {
		return nil, err
	}
	if shown.step == 0 {
		removed, err := tx.Exec(ctx, "DELETE FROM totp WHERE login_id = $1 AND sealed IS NOT NULL", [16]byte(l.ID))
		if err != nil {
			return nil, err
		}
		if removed.RowsAffected() > 0 {
			if err := news.keep(ctx, tx); err != nil {
				return nil, err
			}
		}
	}
	// What waits for its first code was asked for before, too.
	if _, err := tx.Exec(ctx, "DELETE FROM totp WHERE login_id = $1 AND sealed IS NULL", [16]byte(l.ID)); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "UPDATE totp SET pending = NULL, pending_until = NULL WHERE login_id = $1", [16]byte(l.ID)); err != nil {
		return nil, err
	}
	if len(codes) > 0 {
		return codes, nil // of now, in place of all others
	}
	had, err := tx.Exec(ctx, "DELETE FROM recovery_code WHERE login_id = $1", [16]byte(l.ID))
	if err != nil || had.RowsAffected() == 0 || shown.passkeyID().IsZero() && shown.step == 0 {
		return nil, err
	}
	renewed, err := s.also(news, &identityv1.RecoveryCodesRenewed{LoginId: l.ID[:]})
	if err != nil {
		return nil, err
	}
	if codes, err = renewRecoveryCodes(ctx, tx, l.Account, l.ID); err != nil {
		return nil, err
	}
	return codes, renewed.keep(ctx, tx)
}

// passkeyID is the passkey that was shown or made; zero: none was.
func (u factorUse) passkeyID() contract.ID {
	switch {
	case u.passkey != nil:
		return u.passkey.id
	case u.adds != nil:
		return u.adds.id
	}
	return contract.ID{}
}

// stands is errOver where the session of a caller has ended meanwhile: what a registration that was
// begun in it would keep is not kept. It is to be asked under the lock of lockFactors, which whoever
// ends sessions for what was registered has taken, too.
func stands(ctx context.Context, tx pgx.Tx, by authn.Caller) error {
	var there int
	return noRows(tx.QueryRow(ctx, "SELECT 1 FROM session WHERE session_id = $1 AND login_id = $2 AND ended IS NULL", [16]byte(by.Session), [16]byte(by.Login)).Scan(&there))
}
