package signin

import (
	"context"
	"crypto/hmac"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// linkLife is how long a mailed link is good, and firstLinkLife one of a login that has
	// no password yet.
	linkLife      = 30 * time.Minute
	firstLinkLife = 7 * 24 * time.Hour
	// oneTimeLife is how long a one-time password waits for its person.
	oneTimeLife = 7 * 24 * time.Hour
	// kindReset is what requests for a link are counted as: each counts, since none can fail.
	kindReset = "reset"
)

// ReasonLink is the reason of an error that asks for another link.
const ReasonLink = "LINK_INVALID"

func setPassword(ctx context.Context, tx pgx.Tx, account, login contract.ID, hash string, source identityv1.PasswordSource, now time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO password (account_id, login_id, hash, changed, one_time, by_link) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (account_id, login_id) DO UPDATE SET hash = excluded.hash, changed = excluded.changed, one_time = excluded.one_time, by_link = excluded.by_link`,
		[16]byte(account), [16]byte(login), hash, now, source == identityv1.PasswordSource_PASSWORD_SOURCE_ONE_TIME, source == identityv1.PasswordSource_PASSWORD_SOURCE_LINK)
	return err
}

// own checks the caller's own password, counting failures as a sign-in does: who has found
// an open session must not guess it here.
func (s *Service) own(ctx context.Context, op string, by authn.Caller, password string, from authn.Origin) (Login, error) {
	if by.Login.IsZero() {
		return Login{}, errs.New(errs.Precondition, op, "", "the key that was sent belongs to no login, which has no password")
	}
	l, found, err := s.directory.Login(ctx, by.Account, by.Login)
	if err != nil {
		return l, errs.Wrap(op, "", err)
	}
	if !found || l.Disabled {
		return l, refused(op)
	}
	account, login := s.directory.FoldName(l.AccountName), s.directory.FoldName(l.Name)
	attempt, err := s.throttle.begin(ctx, op, kindSignIn, account, login, from)
	if err != nil {
		return l, err
	}
	checked, err := s.checkPassword(ctx, op, l, password)
	if err != nil {
		return l, errors.Join(err, s.throttle.takeBack(ctx, op, attempt))
	}
	if !checked.right {
		s.refusedLater(l, true, false, attempt, from)
		return l, errs.InvalidFields(op, "", errs.Field{Path: "password", Description: "it is not the password of your login"})
	}
	return l, s.throttle.takeBack(ctx, op, attempt)
}

// changePassword replaces the caller's own password, and ends their other sessions.
func (s *Service) changePassword(ctx context.Context, by authn.Caller, before, chosen string, from authn.Origin) error {
	const op = "identity.ChangePassword"
	l, err := s.own(ctx, op, by, before, from)
	if err != nil {
		return err
	}
	if err := checkNewPassword(op, l, before, chosen); err != nil {
		return err
	}
	return s.replacePassword(ctx, op, by.Actor, l.Account, l.ID, by.Session, chosen, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN)
}

// SetOneTimePassword gives a login a password that is shown once and has to be changed:
// for the first start, and for whoever runs the platform. actor names who asked.
func (s *Service) SetOneTimePassword(ctx context.Context, actor string, account, login contract.ID) (string, error) {
	const op = "identity.SetOneTimePassword"
	_, found, err := s.directory.Login(ctx, account, login)
	if err != nil {
		return "", errs.Wrap(op, "", err)
	}
	if !found {
		return "", errs.New(errs.NotFound, op, "login "+login.String(), "there is no such login")
	}
	if err := s.unlinkAll(ctx, op, actor, account, login); err != nil {
		return "", err
	}
	password := credential.NewOneTimePassword()
	if err := s.replacePassword(ctx, op, actor, account, login, contract.ID{}, password, identityv1.PasswordSource_PASSWORD_SOURCE_ONE_TIME); err != nil {
		return "", err
	}
	// Once more: a session that has ended by now may have made one meanwhile.
	return password, s.unlinkAll(ctx, op, actor, account, login)
}

// FirstPassword gives a login that has no password yet, or one that nobody came by in time, the one-time password that
// choose answers, which its person finds where that has kept it.
func (s *Service) FirstPassword(ctx context.Context, account, login contract.ID, choose func() (password string, err error)) error {
	const op = "identity.FirstPassword"
	if _, there, err := s.directory.Login(ctx, account, login); err != nil || !there {
		return errs.Wrap(op, "", err) // others administer the account since, and the login was deleted
	}
	var has bool
	err := s.secrets.InAccount(ctx, account, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM password WHERE login_id = $1 AND NOT (one_time AND changed < $2))", [16]byte(login), s.now().Add(-oneTimeLife)).Scan(&has)
	})
	if err != nil || has {
		return fail(op, err)
	}
	password, err := choose()
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	return s.replacePassword(ctx, op, "platform", account, login, contract.ID{}, password, identityv1.PasswordSource_PASSWORD_SOURCE_ONE_TIME)
}

func (s *Service) replacePassword(ctx context.Context, op, actor string, account, login, keep contract.ID, password string, source identityv1.PasswordSource) error {
	hash, err := s.hasher.Hash(ctx, password)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	news, err := s.news(ctx, op, actor, account, login, passwordChanged(login, source))
	if err != nil {
		return err
	}
	now := s.now()
	err = s.secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		if err := setPassword(ctx, tx, account, login, hash, source, now); err != nil {
			return err
		}
		if err := news.keep(ctx, tx); err != nil {
			return err
		}
		return endAll(ctx, tx, login, keep, now, actor)
	})
	if err != nil {
		return fail(op, err)
	}
	s.tellEndsNow(ctx, login)
	s.tellNow(ctx, login)
	return nil
}

func passwordChanged(login contract.ID, source identityv1.PasswordSource) *identityv1.PasswordChanged {
	return &identityv1.PasswordChanged{LoginId: login[:], Source: source}
}

// requestReset has a link mailed. Nothing is looked up before the answer, so that neither
// what it says nor when it comes can tell whether there is such a login.
func (s *Service) requestReset(ctx context.Context, account, login string, from authn.Origin) error {
	const op = "identity.RequestPasswordReset"
	if _, err := s.throttle.begin(ctx, op, kindReset, s.directory.FoldName(account), s.directory.FoldName(login), from); err != nil {
		return err
	}
	room := s.doLater(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, laterWithin)
		defer cancel()
		l, found, err := s.directory.FindLogin(ctx, account, login)
		if err == nil && found && !l.Disabled && l.MailAddress != "" {
			err = s.record(s.withOrigin(ctx, l, from), op, "", l.Account, l.ID, &identityv1.PasswordResetRequested{LoginId: l.ID[:]})
		}
		if err != nil {
			s.log.WarnContext(ctx, "a link to a new password was not asked for", "error", err)
		}
	})
	if !room {
		return errs.New(errs.Exhausted, op, "", "too much is asked for at once: repeat it in a moment")
	}
	return nil
}

// Link draws the secret of a link to a new password, for a mail alone: what is kept is its
// hash. The first password may be chosen for longer than a forgotten one. ok is false where
// the login is not there any more, must not sign in, or has another mail address by now.
func (s *Service) Link(ctx context.Context, account, login contract.ID, to string) (text string, expires time.Time, ok bool, err error) {
	const op = "identity.Link"
	l, found, err := s.directory.Login(ctx, account, login)
	if err != nil || !found || l.Disabled || l.MailAddress != to {
		return "", expires, false, errs.Wrap(op, "", err)
	}
	secret := credential.NewSecret()
	hash := credential.HashOf(secret)
	err = s.secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		var has bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM password WHERE login_id = $1)", [16]byte(login)).Scan(&has); err != nil {
			return err
		}
		expires = s.now().Add(firstLinkLife)
		if has {
			expires = s.now().Add(linkLife)
		}
		_, err := tx.Exec(ctx, "INSERT INTO reset_link (account_id, hash, login_id, expires, mailed_to) VALUES ($1, $2, $3, $4, $5)",
			[16]byte(account), hash[:], [16]byte(login), expires, s.mailedTo(l))
		return err
	})
	return place(account, login, secret), expires, err == nil, fail(op, err)
}

// mailedTo tells links apart that were mailed to a login's present address, and while it was not disabled,
// from those of before: whoever reads mail at a former address must not choose a password.
func (s *Service) mailedTo(l Login) []byte {
	key := s.throttle.hash("link", l.MailAddress, strconv.Itoa(l.Disablings))
	return key[:]
}

// completeReset sets a password by a link, once. The second factor is still asked for at the
// sign-in that follows.
func (s *Service) completeReset(ctx context.Context, token, chosen string, from authn.Origin) error {
	const op = "identity.CompletePasswordReset"
	wrong := errs.New(errs.Precondition, op, "", "this link is not good any more: it was used, has expired, or a newer password was set; ask for another one").WithReason(ReasonLink)
	account, login, secret, ok := readPlace(token)
	if !ok {
		return wrong
	}
	now, hash := s.now(), credential.HashOf(secret)
	var mailedTo []byte
	err := s.secrets.InAccount(ctx, account, func(tx pgx.Tx) error {
		return noRows(tx.QueryRow(ctx, "SELECT mailed_to FROM reset_link WHERE hash = $1 AND login_id = $2 AND expires > $3", hash[:], [16]byte(login), now).Scan(&mailedTo))
	})
	if errors.Is(err, errOver) {
		return wrong
	}
	if err != nil {
		return fail(op, err)
	}
	l, found, err := s.directory.Login(ctx, account, login)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	if !found || l.Disabled || len(mailedTo) > 0 && !hmac.Equal(mailedTo, s.mailedTo(l)) {
		return wrong
	}
	if err := checkNewPassword(op, l, "", chosen); err != nil {
		return err // the link stays good
	}
	// An administrator may have changed where the link was mailed to.
	if err := s.unlinkAll(ctx, op, l.actor(), account, login); err != nil {
		return err
	}
	passwordHash, err := s.hasher.Hash(ctx, chosen)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	ctx = s.withOrigin(ctx, l, from)
	news, err := s.news(ctx, op, l.actor(), account, login, passwordChanged(login, identityv1.PasswordSource_PASSWORD_SOURCE_LINK))
	if err != nil {
		return err
	}
	err = s.secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "DELETE FROM reset_link WHERE hash = $1 AND login_id = $2 AND expires > $3", hash[:], [16]byte(login), now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return errOver
		}
		if err := setPassword(ctx, tx, account, login, passwordHash, identityv1.PasswordSource_PASSWORD_SOURCE_LINK, now); err != nil {
			return err
		}
		if err := news.keep(ctx, tx); err != nil {
			return err
		}
		return endAll(ctx, tx, login, contract.ID{}, now, l.actor())
	})
	if errors.Is(err, errOver) {
		return wrong
	}
	if err != nil {
		return fail(op, err)
	}
	s.tellEndsNow(ctx, login)
	s.tellNow(ctx, login)
	// Whoever reads the login's mail is its person: what others failed at must not hold them up.
	accountName, loginName := s.directory.FoldName(l.AccountName), s.directory.FoldName(l.Name)
	return s.throttle.succeeded(ctx, op, kindSignIn, from, attempt{
		gates: []gate{{s.throttle.hash(kindSignIn+" login", accountName, loginName), freeOfLogin}},
		pair:  s.throttle.hash(kindSignIn+" pair", accountName, loginName, networkOf(from)),
	})
}
