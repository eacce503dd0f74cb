package signin

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// enrolWithin is how long a secret waits for its first code.
const enrolWithin = 15 * time.Minute

// enrolment is what an authenticator program needs.
type enrolment struct {
	uri     string
	expires time.Time
}

// factor is a login's second factor as it is kept.
type factor struct {
	account, login contract.ID
	sealed         []byte
	confirmedAt    time.Time
	usedStep       int64
	pending        []byte
	pendingUntil   time.Time
	recoveryCodes  int
	passkeys       []kept
}

// confirmed: there is an authenticator program.
func (f factor) confirmed() bool { return f.sealed != nil }

// any tells whether there is a second factor of any kind.
func (f factor) any() bool { return f.confirmed() || len(f.passkeys) > 0 }

func (f factor) pendingAt(now time.Time) bool { return f.pending != nil && now.Before(f.pendingUntil) }

func totpPlace(account, login contract.ID) string {
	return "totp " + account.String() + " " + login.String()
}

// factor reads a login's second factor; one without has an empty one.
func (s *Service) factor(ctx context.Context, op string, account, login contract.ID) (factor, error) {
	f := factor{account: account, login: login}
	err := s.secrets.InAccount(ctx, account, func(tx pgx.Tx) error {
		var confirmed, until *time.Time
		err := tx.QueryRow(ctx, "SELECT sealed, confirmed, used_step, pending, pending_until FROM totp WHERE login_id = $1", [16]byte(login)).
			Scan(&f.sealed, &confirmed, &f.usedStep, &f.pending, &until)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if confirmed != nil {
			f.confirmedAt = *confirmed
		}
		if until != nil {
			f.pendingUntil = *until
		}
		if f.passkeys, err = passkeysOf(ctx, tx, login); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT count(*) FROM recovery_code WHERE login_id = $1", [16]byte(login)).Scan(&f.recoveryCodes)
	})
	return f, fail(op, err)
}

// factorUse is what is used up by a second factor that was right.
type factorUse struct {
	// step of the confirmed program's code.
	step uint64
	// recovery is the hash of a recovery code.
	recovery *credential.Hash
	// confirms is the sealed secret whose first code it was.
	confirms []byte
	// passkey was shown.
	passkey *passkeyUse
	// adds a passkey.
	adds *newPasskey
	// ceremony that it answers.
	ceremony *ceremony
}

func (u factorUse) any() bool {
	return u.step > 0 || u.recovery != nil || u.passkey != nil || u.adds != nil
}

// checkFactor tells whether a code is right for the confirmed factor, and what it uses up.
func (s *Service) checkFactor(op string, f factor, code string) (factorUse, bool, error) {
	if f.confirmed() {
		secret, err := s.box.open(f.sealed, totpPlace(f.account, f.login))
		if err != nil {
			return factorUse{}, false, errs.Wrap(op, "login "+f.login.String(), err)
		}
		if step, right := credential.VerifyTOTP(secret, code, s.now(), uint64(f.usedStep)); right {
			return factorUse{step: step}, true, nil
		}
	}
	// Whether the code is one of the login's shows when it is used.
	if hash, ok := credential.RecoveryHash(code); ok {
		return factorUse{recovery: &hash}, true, nil
	}
	return factorUse{}, false, nil
}

// checkPending tells whether a code is the first of the secret that waits for it.
func (s *Service) checkPending(op string, f factor, code string) (step uint64, right bool, err error) {
	secret, err := s.box.open(f.pending, totpPlace(f.account, f.login))
	if err != nil {
		return 0, false, errs.Wrap(op, "login "+f.login.String(), err)
	}
	step, right = credential.VerifyTOTP(secret, code, s.now(), 0)
	return step, right, nil
}

// use takes what a code uses up, or answers with errWrongFactor where somebody was faster
// or a recovery code is none of the login's. It answers with recovery codes at the end of
// an enrolment.
func (u factorUse) use(ctx context.Context, tx pgx.Tx, account, login contract.ID, now time.Time) ([]string, error) {
	change := func(sql string, args ...any) error {
		tag, err := tx.Exec(ctx, sql, args...)
		if err == nil && tag.RowsAffected() != 1 {
			return errWrongFactor
		}
		return err
	}
	switch {
	case u.passkey != nil:
		return nil, u.passkey.use(ctx, tx, now)
	case u.adds != nil:
		return u.adds.insert(ctx, tx, account, login, now)
	case u.recovery != nil:
		return nil, change("DELETE FROM recovery_code WHERE login_id = $1 AND hash = $2", [16]byte(login), u.recovery[:])
	case u.confirms != nil:
		err := change("UPDATE totp SET sealed = pending, confirmed = $3, used_step = $4, pending = NULL, pending_until = NULL WHERE login_id = $1 AND pending = $2",
			[16]byte(login), u.confirms, now, int64(u.step))
		if err != nil {
			return nil, err
		}
		return renewRecoveryCodes(ctx, tx, account, login)
	case u.step > 0:
		return nil, change("UPDATE totp SET used_step = $2 WHERE login_id = $1 AND used_step < $2", [16]byte(login), int64(u.step))
	}
	return nil, nil
}

// event tells what a use means for the log; nil where it is said by the session alone.
func (u factorUse) event(login contract.ID) proto.Message {
	switch {
	case u.adds != nil:
		return u.adds.event(login)
	case u.confirms != nil:
		return &identityv1.SecondFactorAdded{LoginId: login[:]}
	case u.recovery != nil:
		return &identityv1.RecoveryCodeUsed{LoginId: login[:]}
	}
	return nil
}

func renewRecoveryCodes(ctx context.Context, tx pgx.Tx, account, login contract.ID) ([]string, error) {
	if _, err := tx.Exec(ctx, "DELETE FROM recovery_code WHERE login_id = $1", [16]byte(login)); err != nil {
		return nil, err
	}
	codes := credential.NewRecoveryCodes()
	hashes := make([][]byte, len(codes))
	for i, code := range codes {
		hash, _ := credential.RecoveryHash(code)
		hashes[i] = hash[:]
	}
	_, err := tx.Exec(ctx, "INSERT INTO recovery_code (account_id, login_id, hash) SELECT $1, $2, unnest($3::bytea[])", [16]byte(account), [16]byte(login), hashes)
	return codes, err
}

// beginEnrolment draws a secret that a code has to confirm; it takes the place of one that waits.
func (s *Service) beginEnrolment(ctx context.Context, op string, l Login) (enrolment, error) {
	secret := credential.NewTOTPSecret()
	e := enrolment{uri: credential.TOTPURL(secret, l.AccountName, l.Name), expires: s.now().Add(enrolWithin)}
	err := s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO totp (account_id, login_id, pending, pending_until) VALUES ($1, $2, $3, $4)
			ON CONFLICT (account_id, login_id) DO UPDATE SET pending = excluded.pending, pending_until = excluded.pending_until`,
			[16]byte(l.Account), [16]byte(l.ID), s.box.seal(secret, totpPlace(l.Account, l.ID)), e.expires)
		return err
	})
	return e, fail(op, err)
}

// confirmEnrolment ends what beginEnrolment began.
func (s *Service) confirmEnrolment(ctx context.Context, op string, by authn.Caller, code string) ([]string, error) {
	l := Login{Account: by.Account, ID: by.Login}
	f, err := s.factor(ctx, op, l.Account, l.ID)
	if err != nil {
		return nil, err
	}
	if !f.pendingAt(s.now()) {
		return nil, errs.New(errs.Precondition, op, "", "no enrolment waits for a code: begin one with secondFactor:enrolTotp")
	}
	step, right, err := s.checkPending(op, f, code)
	if err != nil {
		return nil, err
	}
	wrong := errs.InvalidFields(op, "", errs.Field{Path: "code", Description: "it is not the code of now: check the clock of the device, and take the next one"})
	if !right {
		return nil, wrong
	}
	use := factorUse{confirms: f.pending, step: step}
	news, err := s.news(ctx, op, l.actor(), l.Account, l.ID, use.event(l.ID))
	if err != nil {
		return nil, err
	}
	var codes []string
	err = s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) (err error) {
		if _, err := lockFactors(ctx, tx, l.Account, l.ID); err != nil {
			return err
		}
		if codes, err = use.use(ctx, tx, l.Account, l.ID, s.now()); err != nil {
			return err
		}
		if err := stands(ctx, tx, by); err != nil {
			return err
		}
		return news.keep(ctx, tx)
	})
	switch {
	case errors.Is(err, errWrongFactor):
		return nil, wrong
	case errors.Is(err, errOver):
		return nil, over()
	}
	if err != nil {
		return nil, fail(op, err)
	}
	s.tellNow(ctx, l.ID)
	return codes, nil
}

// RemoveSecondFactor takes all second factors of a login away and ends its sessions, for whoever runs
// the platform. actor names who asked.
func (s *Service) RemoveSecondFactor(ctx context.Context, actor string, account, login contract.ID) error {
	return s.removeFactor(ctx, "identity.RemoveSecondFactor", authn.Caller{Account: account, Actor: actor}, login, contract.ID{}, false)
}

// removeFactor takes a login's authenticator program away, and its passkeys unless they are to
// stay, and ends its sessions, but for one.
func (s *Service) removeFactor(ctx context.Context, op string, by authn.Caller, login, keep contract.ID, keepPasskeys bool) error {
	if keep.IsZero() { // by another than its person
		if err := s.unlinkAll(ctx, op, by.Actor, by.Account, login); err != nil {
			return err
		}
	}
	mustKeep, err := s.mustKeepOne(ctx, op, by, login)
	if err != nil {
		return err
	}
	news, err := s.news(ctx, op, by.Actor, by.Account, login, &identityv1.SecondFactorRemoved{LoginId: login[:]})
	if err != nil {
		return err
	}
	err = s.secrets.ChangeInAccount(ctx, by.Account, func(tx pgx.Tx) error {
		had, err := lockFactors(ctx, tx, by.Account, login)
		if err != nil {
			return err
		}
		left := keepPasskeys && had.passkeys > 0
		if mustKeep && had.any() && !left {
			return errLastFactor
		}
		if _, err := tx.Exec(ctx, "DELETE FROM totp WHERE login_id = $1", [16]byte(login)); err != nil {
			return err
		}
		if had.totp {
			if err := news.keep(ctx, tx); err != nil {
				return err
			}
		}
		if !left {
			if err := s.removePasskeysBut(ctx, tx, news, contract.ID{}); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "DELETE FROM recovery_code WHERE login_id = $1", [16]byte(login)); err != nil {
				return err
			}
		}
		return endAll(ctx, tx, login, keep, s.now(), by.Actor)
	})
	if errors.Is(err, errLastFactor) {
		return lastFactor(op)
	}
	if err != nil {
		return fail(op, err)
	}
	s.tellEndsNow(ctx, login)
	s.tellNow(ctx, login)
	return nil
}
