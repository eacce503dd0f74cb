package signin

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// ReasonRefused is the reason of every refusal to sign in: which of names, password or
// second factor was wrong is not told.
const ReasonRefused = "SIGN_IN_REFUSED"

// kindSignIn is what attempts to sign in are counted as.
const kindSignIn = "sign-in"

func refused(op string) error {
	return errs.New(errs.Unauthenticated, op, "", "account name, login name, password or second factor are wrong, or the login is disabled").WithReason(ReasonRefused)
}

// proof is what a person types to sign in, and a passkey that they show.
type proof struct {
	account, login, password, secondFactor, newPassword string
	passkey                                             answered
}

// result is how far a sign-in came.
type result struct {
	outcome       identityv1.SignInOutcome
	started       started
	enrolment     enrolment
	recoveryCodes []string
	// passkey is asked for in place of a code, or to be made.
	passkey asked
	// takesTOTP: a code of the authenticator program would do.
	takesTOTP bool
}

// signIn lets a person in, or says what is missing.
func (s *Service) signIn(ctx context.Context, p proof, from authn.Origin) (result, error) {
	const op = "identity.SignIn"
	began := time.Now()
	r, err := s.judge(ctx, op, p, from)
	if errs.Is(errs.Unauthenticated, err) {
		if waitErr := s.holdBack(ctx, began); waitErr != nil {
			return result{}, waitErr
		}
	}
	return r, err
}

// holdBack waits for the next full step of time since the call began: what differs by
// less than a step, such as whether a login was found, does not show in the answer's time.
func (s *Service) holdBack(ctx context.Context, began time.Time) error {
	step := s.cfg.AnswerStep
	timer := time.NewTimer(step - time.Since(began)%step)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (s *Service) judge(ctx context.Context, op string, p proof, from authn.Origin) (result, error) {
	account, login := s.directory.FoldName(p.account), s.directory.FoldName(p.login)
	attempt, err := s.throttle.begin(ctx, op, kindSignIn, account, login, from)
	if err != nil {
		return result{}, err
	}
	l, found, err := s.directory.FindLogin(ctx, p.account, p.login)
	if err != nil {
		return result{}, errors.Join(errs.Wrap(op, "", err), s.throttle.takeBack(ctx, op, attempt))
	}
	if !found {
		l = Login{Account: nobody(), ID: nobody()}
	}
	checked, err := s.checkPassword(ctx, op, l, p.password)
	if err != nil {
		return result{}, errors.Join(err, s.throttle.takeBack(ctx, op, attempt))
	}
	if !checked.right || l.Disabled {
		s.refusedLater(l, found, false, attempt, from)
		return result{}, refused(op)
	}

	r, plan, err := s.plan(s.withOrigin(ctx, l, from), op, l, p, checked.oneTime)
	switch {
	case errors.Is(err, errWrongFactor):
		s.refusedLater(l, true, true, attempt, from)
		return result{}, refused(op)
	case err != nil || r.outcome != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN:
		return r, errors.Join(err, s.throttle.takeBack(ctx, op, attempt))
	}
	plan.proved, plan.takesOver = checked.hash, checked.ofOthers()
	if plan.setPassword == "" && checked.stale {
		plan.setPassword = p.password
	}
	if r.started, r.recoveryCodes, err = s.carryOut(ctx, op, l, plan, from); err != nil {
		// The factor was used meanwhile, or is no recovery code of the login.
		if wrongFactor := errors.Is(err, errWrongFactor); wrongFactor || errors.Is(err, errOldPassword) {
			s.refusedLater(l, true, wrongFactor, attempt, from)
			return result{}, refused(op)
		}
		return result{}, errors.Join(err, s.throttle.takeBack(ctx, op, attempt))
	}
	return r, s.throttle.succeeded(ctx, op, kindSignIn, from, attempt)
}

// checked is what a password was found to be.
type checked struct {
	right bool
	// hash is what it was compared with.
	hash string
	// stale: its hash is of another cost than today's.
	stale bool
	// oneTime: it is good to choose another one.
	oneTime bool
	// byLink: a mailed link has set it, and nobody has signed in with it yet.
	byLink bool
}

// ofOthers: it may be somebody else who has set it, until its person signs in.
func (c checked) ofOthers() bool { return c.oneTime || c.byLink }

// checkPassword does the same work whether the login has a password, is there, or not.
func (s *Service) checkPassword(ctx context.Context, op string, l Login, password string) (c checked, err error) {
	var changed time.Time
	err = s.secrets.InAccount(ctx, l.Account, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, "SELECT hash, one_time, by_link, changed FROM password WHERE login_id = $1", [16]byte(l.ID)).Scan(&c.hash, &c.oneTime, &c.byLink, &changed)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return c, fail(op, err)
	}
	c.right, c.stale, err = s.hasher.Verify(ctx, c.hash, password)
	if c.oneTime && s.now().Sub(changed) > oneTimeLife {
		c.right = false
	}
	return c, errs.Wrap(op, "login "+l.ID.String(), err)
}

// refusedLater tells the log of a refusal, at the first in a row and whenever their number
// has doubled, and never while an answer waits: a login that is not there has no log.
func (s *Service) refusedLater(l Login, found, passwordKnown bool, a attempt, from authn.Origin) {
	if !found || bits.OnesCount(uint(a.failures)) != 1 {
		return
	}
	s.doLater(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, laterWithin)
		defer cancel()
		err := s.record(s.withOrigin(ctx, l, from), "identity.SignIn", "", l.Account, l.ID, &identityv1.SignInRefused{
			LoginId: l.ID[:], Failures: int32(a.failures), PasswordKnown: passwordKnown,
		})
		if err != nil {
			s.log.WarnContext(ctx, "a refusal to sign in is not in the log", "account", l.Account, "login", l.ID, "error", err)
		}
	})
}

// plan is what a sign-in changes once everything was right.
type plan struct {
	// proved is the hash that the password was compared with; empty where there was none.
	proved      string
	factor      factorUse
	setPassword string
	// changed: the password was asked to be another one.
	changed bool
	// takesOver: the password may have been set by others, and is its person's own from now on.
	takesOver bool
	// voucher is whom the account's identity provider has vouched for.
	voucher Voucher
}

// plan finds out what a sign-in with the right password still needs.
func (s *Service) plan(ctx context.Context, op string, l Login, p proof, oneTime bool) (result, plan, error) {
	var pl plan
	rules, _, err := s.policies.Load(ctx, policySubject(l.Account))
	if err != nil {
		return result{}, pl, errs.Wrap(op, "", err)
	}
	factor, err := s.factor(ctx, op, l.Account, l.ID)
	if err != nil {
		return result{}, pl, err
	}
	needs := factor.any()
	switch {
	case needs && p.secondFactor == "" && !p.passkey.any():
		challenge, err := s.askFactor(ctx, op, l, factor.passkeys)
		return result{outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED, passkey: challenge, takesTOTP: factor.confirmed()}, pl, err
	case needs && p.passkey.any():
		use, right, err := s.checkPasskey(ctx, op, l, factor.passkeys, p.passkey)
		if err := judged(right, err); err != nil {
			return result{}, pl, err
		}
		pl.factor = use
	case needs:
		use, right, err := s.checkFactor(op, factor, p.secondFactor)
		if err := judged(right, err); err != nil {
			return result{}, pl, err
		}
		pl.factor = use
	case rules.secondFactorRequired && p.passkey.any():
		n, c, err := s.checkRegistration(ctx, op, l, contract.ID{}, p.passkey, "")
		if err != nil {
			return result{}, pl, err
		}
		pl.factor = factorUse{adds: &n, ceremony: &c}
	case rules.secondFactorRequired && (p.secondFactor == "" || !factor.pendingAt(s.now())):
		r, err := s.askEnrolment(ctx, op, l)
		return r, pl, err
	case rules.secondFactorRequired:
		step, right, err := s.checkPending(op, factor, p.secondFactor)
		if err := judged(right, err); err != nil {
			return result{}, pl, err
		}
		pl.factor = factorUse{confirms: factor.pending, step: step}
	}
	if oneTime {
		if p.newPassword == "" {
			return result{outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_NEW_PASSWORD_NEEDED}, pl, nil
		}
		if err := checkNewPassword(op, l, p.password, p.newPassword); err != nil {
			return result{}, pl, err
		}
		pl.setPassword, pl.changed = p.newPassword, true
	}
	return result{outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN}, pl, nil
}

// askEnrolment asks for a second factor of any kind from whoever has none.
func (s *Service) askEnrolment(ctx context.Context, op string, l Login) (r result, err error) {
	r.outcome = identityv1.SignInOutcome_SIGN_IN_OUTCOME_ENROLMENT_NEEDED
	if r.enrolment, err = s.beginEnrolment(ctx, op, l); err != nil {
		return r, err
	}
	if r.passkey, err = s.askRegistration(op, l, nil, contract.ID{}); errs.Is(errs.Precondition, err) {
		return r, nil // no browser would make one here; an authenticator program does
	}
	return r, err
}

var (
	// errWrongFactor means that a second factor was shown, and is wrong.
	errWrongFactor = errors.New("signin: the second factor is wrong")
	// errOldPassword means that the password was another one when the session was to begin.
	errOldPassword = errors.New("signin: the password was changed meanwhile")
)

// judged makes an error of what a factor was found to be; what could not be judged is not wrong.
func judged(right bool, err error) error {
	if err == nil && !right {
		return errWrongFactor
	}
	return err
}

// checkNewPassword says what is wrong with a password that somebody chose.
func checkNewPassword(op string, l Login, before, chosen string) error {
	wrong := credential.Weakness(chosen, l.AccountName, l.Name, l.DisplayName, l.MailAddress)
	if wrong == "" && chosen == before {
		wrong = "it is the one before"
	}
	if wrong == "" {
		return nil
	}
	return errs.InvalidFields(op, "", errs.Field{Path: "new_password", Description: wrong})
}

// carryOut changes what the plan says and begins the session, all in one transaction; then
// tells the log.
func (s *Service) carryOut(ctx context.Context, op string, l Login, p plan, from authn.Origin) (started, []string, error) {
	ctx = s.withOrigin(ctx, l, from)
	if err := s.mayBegin(ctx, op, l, p); err != nil {
		return started{}, nil, err
	}
	var hash string
	if p.setPassword != "" {
		var err error
		if hash, err = s.hasher.Hash(ctx, p.setPassword); err != nil {
			return started{}, nil, errs.Wrap(op, "", err)
		}
	}
	if p.factor.ceremony != nil {
		if err := s.consume(ctx, *p.factor.ceremony); errors.Is(err, errAnswered) {
			return started{}, nil, errWrongFactor
		} else if err != nil {
			return started{}, nil, fail(op, err)
		}
	}
	now := s.now()
	st := newSession(l, now, p.factor.any(), from)
	st.voucher = p.voucher
	news, err := s.newsOf(ctx, op, l, p)
	if err != nil {
		return started{}, nil, err
	}
	var codes []string
	err = s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) (err error) {
		if err := stillProved(ctx, tx, l.ID, p.proved); err != nil {
			return err
		}
		if codes, err = p.factor.use(ctx, tx, l.Account, l.ID, now); err != nil {
			return err
		}
		if hash != "" {
			if err := setPassword(ctx, tx, l.Account, l.ID, hash, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN, now); err != nil {
				return err
			}
		}
		if p.takesOver {
			if codes, err = s.takeOver(ctx, op, tx, l, p.factor, codes); err != nil {
				return err
			}
		}
		if p.changed || p.takesOver {
			if err := endAll(ctx, tx, l.ID, contract.ID{}, now, l.actor()); err != nil {
				return err
			}
		}
		for _, u := range news {
			if err := u.keep(ctx, tx); err != nil {
				return err
			}
		}
		return st.insert(ctx, tx)
	})
	if err != nil {
		if errors.Is(err, errWrongFactor) || errors.Is(err, errOldPassword) {
			return started{}, nil, err
		}
		return started{}, nil, s.registrationError(op, err)
	}
	if p.changed || p.takesOver {
		s.tellEndsNow(ctx, l.ID)
	}
	if len(news) > 0 || p.takesOver {
		s.tellNow(ctx, l.ID)
	}
	if err := s.tellStart(ctx, op, l, st); err != nil {
		return started{}, nil, err
	}
	return s.give(op, l, st, codes)
}

// newsOf is what the log is to be told of a plan, beside the session.
func (s *Service) newsOf(ctx context.Context, op string, l Login, p plan) ([]untold, error) {
	var events []proto.Message
	if p.changed {
		events = append(events, passwordChanged(l.ID, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN))
	}
	if event := p.factor.event(l.ID); event != nil {
		events = append(events, event)
	}
	var news []untold
	for _, event := range events {
		u, err := s.news(ctx, op, l.actor(), l.Account, l.ID, event)
		if err != nil {
			return nil, err
		}
		news = append(news, u)
	}
	return news, nil
}

// ReasonSingleSignOn is the reason where an account lets nobody in but by its identity provider.
const ReasonSingleSignOn = "SINGLE_SIGN_ON_NEEDED"

// mayBegin is asked for every way to sign in, so that none is forgotten: an account may want
// its identity provider only.
func (s *Service) mayBegin(ctx context.Context, op string, l Login, p plan) error {
	rules, _, err := s.policies.Load(ctx, policySubject(l.Account))
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	if rules.singleSignOnRequired && p.voucher == (Voucher{}) {
		return errs.New(errs.Precondition, op, "", "this account lets people in by its identity provider only: sign in by single sign-on").WithReason(ReasonSingleSignOn)
	}
	return nil
}

// stillProved holds on to the password that was proved: whoever sets another one has ended the
// sessions of the one before, and must not find one that began later, nor the old one set again.
func stillProved(ctx context.Context, tx pgx.Tx, login contract.ID, hash string) error {
	if hash == "" {
		return nil
	}
	var there int
	err := tx.QueryRow(ctx, "SELECT 1 FROM password WHERE login_id = $1 AND hash = $2 FOR UPDATE", [16]byte(login), hash).Scan(&there)
	if errors.Is(err, pgx.ErrNoRows) {
		return errOldPassword
	}
	return err
}

// actor names the login in events' headers.
func (l Login) actor() string { return "login:" + l.ID.String() }
