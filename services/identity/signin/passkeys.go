package signin

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/passkey"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// maxPasskeys of one login: more than anybody carries.
const maxPasskeys = 20

// kindPasskey is what sign-ins by a passkey alone are counted as.
const kindPasskey = "passkey"

// ReasonLastFactor is the reason of an error where the last second factor has to stay.
const ReasonLastFactor = "SECOND_FACTOR_REQUIRED"

// kept is a passkey as it is kept.
type kept struct {
	id, login contract.ID
	party     string
	name      string
	created   time.Time
	lastUsed  *time.Time
	suspended *time.Time
	key       passkey.Key
}

func (k kept) message() *identityv1.Passkey {
	m := &identityv1.Passkey{
		PasskeyId: k.id.String(), LoginId: k.login.String(), DisplayName: k.name, CreateTime: timestamppb.New(k.created),
		Synced: k.key.Synced(), RelyingParty: k.party,
	}
	if k.lastUsed != nil {
		m.LastUseTime = timestamppb.New(*k.lastUsed)
	}
	if k.suspended != nil {
		m.SuspendTime = timestamppb.New(*k.suspended)
	}
	return m
}

// passkeysOf reads a login's passkeys, the latest first.
func passkeysOf(ctx context.Context, tx pgx.Tx, login contract.ID) ([]kept, error) {
	rows, err := tx.Query(ctx, `SELECT passkey_id, credential_id, relying_party, public_key, format, aaguid, transports, flags, sign_count, display_name, created, last_used, suspended
		FROM passkey WHERE login_id = $1 ORDER BY created DESC, passkey_id DESC`, [16]byte(login))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (kept, error) {
		k := kept{login: login}
		var flags int16
		var count int64
		err := row.Scan((*[16]byte)(&k.id), &k.key.ID, &k.party, &k.key.Public, &k.key.Format, &k.key.AAGUID, &k.key.Transports, &flags, &count, &k.name, &k.created, &k.lastUsed, &k.suspended)
		k.key.Flags, k.key.Count = byte(flags), uint32(count)
		return k, err
	})
}

// person is a login as a browser is asked about it: with the passkeys that it can use here.
func (s *Service) person(l Login, list []kept, p *passkey.Party) passkey.Person {
	of := passkey.Person{Account: l.Account, Login: l.ID, Name: l.Name + " · " + l.AccountName}
	for _, k := range list {
		if k.party == p.ID() && k.suspended == nil {
			of.Keys = append(of.Keys, k.key)
		}
	}
	return of
}

// askFactor asks for one of a login's passkeys beside the password; nothing where none would do.
func (s *Service) askFactor(ctx context.Context, op string, l Login, list []kept) (asked, error) {
	if len(list) == 0 {
		return asked{}, nil
	}
	p, err := s.party(op)
	if err != nil {
		// A recovery code does.
		s.log.WarnContext(ctx, "a login has passkeys that are not asked for", "account", l.Account, "login", l.ID, "error", err)
		return asked{}, nil
	}
	of := s.person(l, list, p)
	if len(of.Keys) == 0 {
		return asked{}, nil
	}
	c, err := p.Ask(of)
	if err != nil {
		return asked{}, errs.Wrap(op, "login "+l.ID.String(), err)
	}
	return s.ask(op, ceremony{For: forSecondFactor, Account: l.Account, Login: l.ID, Party: p.ID()}, c)
}

// checkPasskey judges an answer to askFactor, and tells what it uses up.
func (s *Service) checkPasskey(ctx context.Context, op string, l Login, list []kept, a answered) (factorUse, bool, error) {
	p, err := s.party(op)
	if err != nil {
		return factorUse{}, false, err
	}
	c, err := s.ceremony(op, forSecondFactor, p, a.token)
	if err != nil {
		return factorUse{}, false, err
	}
	if c.Account != l.Account || c.Login != l.ID {
		return factorUse{}, false, nil
	}
	answer, err := passkey.Read(a.credential)
	if err != nil {
		return factorUse{}, false, s.unreadable(op, err)
	}
	shown, err := p.Asked(s.person(l, list, p), c.State, answer)
	return s.judgeShown(ctx, op, l, list, c, shown, err)
}

func (s *Service) unreadable(op string, err error) error {
	return errs.As(errs.Invalid, op, "", "passkey.credential: it is not what navigator.credentials gave, by its toJSON()", err)
}

// judgeShown tells what a passkey that was shown uses up. One whose counter went back is refused
// from now on, to its person and to whoever may have a copy.
func (s *Service) judgeShown(ctx context.Context, op string, l Login, list []kept, c ceremony, shown passkey.Shown, err error) (factorUse, bool, error) {
	if err != nil {
		s.log.InfoContext(ctx, "a passkey was not right", "account", l.Account, "login", l.ID, "error", err)
		return factorUse{}, false, nil
	}
	k := byCredential(list, shown.Key.ID)
	if k == nil {
		return factorUse{}, false, nil
	}
	if shown.WentBack {
		// An answer that is sent again is behind as well, and no sign of a copy.
		if err := s.consume(ctx, c); err != nil {
			if errors.Is(err, errAnswered) {
				return factorUse{}, false, nil
			}
			return factorUse{}, false, fail(op, err)
		}
		return factorUse{}, false, s.suspend(ctx, op, l, k.id)
	}
	return factorUse{passkey: &passkeyUse{id: k.id, key: shown.Key, before: k.key.Count}, ceremony: &c}, true, nil
}

func byCredential(list []kept, id []byte) *kept {
	for i := range list {
		if string(list[i].key.ID) == string(id) {
			return &list[i]
		}
	}
	return nil
}

// suspend has a passkey refused until it is removed.
func (s *Service) suspend(ctx context.Context, op string, l Login, id contract.ID) error {
	news, err := s.news(ctx, op, "", l.Account, l.ID, &identityv1.PasskeySuspended{LoginId: l.ID[:], PasskeyId: id[:]})
	if err != nil {
		return err
	}
	first := false
	err = s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) error {
		done, err := tx.Exec(ctx, "UPDATE passkey SET suspended = $2 WHERE passkey_id = $1 AND suspended IS NULL", [16]byte(id), s.now())
		if err != nil || done.RowsAffected() == 0 {
			return err
		}
		first = true
		return news.keep(ctx, tx)
	})
	if err != nil || !first {
		return fail(op, err)
	}
	s.log.WarnContext(ctx, "a passkey's counter went back, so that there may be a copy of it: it is refused from now on", "account", l.Account, "login", l.ID, "passkey", id)
	s.tellNow(ctx, l.ID)
	return nil
}

// passkeyUse is a passkey that has proved itself.
type passkeyUse struct {
	id     contract.ID
	key    passkey.Key
	before uint32
}

// use moves the passkey's counter, or answers with errWrongFactor where somebody was faster.
func (u passkeyUse) use(ctx context.Context, tx pgx.Tx, now time.Time) error {
	done, err := tx.Exec(ctx, "UPDATE passkey SET flags = $2, sign_count = $3, last_used = $4 WHERE passkey_id = $1 AND suspended IS NULL AND sign_count = $5",
		[16]byte(u.id), int16(u.key.Flags), int64(u.key.Count), now, int64(u.before))
	if err == nil && done.RowsAffected() != 1 {
		return errWrongFactor
	}
	return err
}

// newPasskey is a passkey to be kept.
type newPasskey struct {
	id    contract.ID
	party string
	name  string
	key   passkey.Key
}

var (
	// errPasskeyThere means that a passkey is somebody's already.
	errPasskeyThere = errors.New("signin: this passkey is registered")
	// errPasskeysMany means that its login has too many.
	errPasskeysMany = errors.New("signin: the login has as many passkeys as it may have")
)

// insert keeps it, and answers with recovery codes where it is the login's first second factor.
func (n newPasskey) insert(ctx context.Context, tx pgx.Tx, account, login contract.ID, now time.Time) ([]string, error) {
	others, err := lockFactors(ctx, tx, account, login)
	if err != nil {
		return nil, err
	}
	if others.passkeys >= maxPasskeys {
		return nil, errPasskeysMany
	}
	_, err = tx.Exec(ctx, `INSERT INTO passkey (account_id, passkey_id, login_id, credential_id, relying_party, public_key, format, aaguid, transports, flags, sign_count, display_name, created)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		[16]byte(account), [16]byte(n.id), [16]byte(login), n.key.ID, n.party, n.key.Public, n.key.Format, n.key.AAGUID, n.key.Transports, int16(n.key.Flags), int64(n.key.Count), n.name, now)
	var conflict *pgconn.PgError
	if errors.As(err, &conflict) && conflict.Code == "23505" {
		return nil, errPasskeyThere
	}
	if err != nil || others.any() {
		return nil, err
	}
	return renewRecoveryCodes(ctx, tx, account, login)
}

// factors is how many a login has.
type factors struct {
	totp     bool
	passkeys int
}

func (f factors) any() bool { return f.totp || f.passkeys > 0 }

// lockFactors counts a login's second factors; until the transaction ends nobody else does, so
// that of two who remove one each, the second finds it the last.
func lockFactors(ctx context.Context, tx pgx.Tx, account, login contract.ID) (f factors, err error) {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "second factors "+account.String()+login.String()); err != nil {
		return f, err
	}
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM totp WHERE login_id = $1 AND sealed IS NOT NULL), (SELECT count(*) FROM passkey WHERE login_id = $1)`, [16]byte(login)).Scan(&f.totp, &f.passkeys)
	return f, err
}

// askRegistration asks for a new passkey of a login.
func (s *Service) askRegistration(op string, l Login, list []kept, session contract.ID) (asked, error) {
	p, err := s.party(op)
	if err != nil {
		return asked{}, err
	}
	c, err := p.Register(s.person(l, list, p))
	if err != nil {
		return asked{}, errs.Wrap(op, "login "+l.ID.String(), err)
	}
	return s.ask(op, ceremony{For: forRegistration, Account: l.Account, Login: l.ID, Session: session, Party: p.ID()}, c)
}

// checkRegistration judges an answer to askRegistration.
func (s *Service) checkRegistration(ctx context.Context, op string, l Login, session contract.ID, a answered, name string) (newPasskey, ceremony, error) {
	p, err := s.party(op)
	if err != nil {
		return newPasskey{}, ceremony{}, err
	}
	c, err := s.ceremony(op, forRegistration, p, a.token)
	if err != nil {
		return newPasskey{}, c, err
	}
	if c.Account != l.Account || c.Login != l.ID || c.Session != session {
		return newPasskey{}, c, challengeOver(op)
	}
	key, err := p.Registered(passkey.Person{Account: l.Account, Login: l.ID}, c.State, a.credential)
	switch {
	case errors.Is(err, passkey.ErrMalformed):
		return newPasskey{}, c, s.unreadable(op, err)
	case err != nil:
		s.log.InfoContext(ctx, "a passkey was not registered", "account", l.Account, "login", l.ID, "error", err)
		return newPasskey{}, c, errs.As(errs.Invalid, op, "", "credential: it does not answer this challenge, from this site", err)
	}
	if name == "" {
		name = "Passkey"
	}
	return newPasskey{id: resource.NewID(), party: c.Party, name: name, key: key}, c, nil
}

// finishRegistration keeps a passkey of whoever is signed in.
func (s *Service) finishRegistration(ctx context.Context, by authn.Caller, a answered, name string) (kept, []string, error) {
	const op = "identity.FinishPasskeyRegistration"
	l := Login{Account: by.Account, ID: by.Login}
	n, c, err := s.checkRegistration(ctx, op, l, by.Session, a, name)
	if err != nil {
		return kept{}, nil, err
	}
	if err := s.consume(ctx, c); err != nil {
		return kept{}, nil, s.registrationError(op, err)
	}
	news, err := s.news(ctx, op, l.actor(), l.Account, l.ID, n.event(l.ID))
	if err != nil {
		return kept{}, nil, err
	}
	var codes []string
	now := s.now()
	err = s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) (err error) {
		if codes, err = n.insert(ctx, tx, l.Account, l.ID, now); err != nil {
			return err
		}
		if err := stands(ctx, tx, by); err != nil {
			return err
		}
		return news.keep(ctx, tx)
	})
	if err != nil {
		return kept{}, nil, s.registrationError(op, err)
	}
	s.tellNow(ctx, l.ID)
	return kept{id: n.id, login: l.ID, party: n.party, name: n.name, created: now, key: n.key}, codes, nil
}

func (n newPasskey) event(login contract.ID) *identityv1.PasskeyAdded {
	return &identityv1.PasskeyAdded{LoginId: login[:], PasskeyId: n.id[:], Synced: n.key.Synced()}
}

// registrationError says for people why a passkey was not kept.
func (s *Service) registrationError(op string, err error) error {
	switch {
	case errors.Is(err, errAnswered):
		return challengeOver(op)
	case errors.Is(err, errOver):
		return over()
	case errors.Is(err, errPasskeyThere):
		return errs.New(errs.Precondition, op, "", "this passkey is registered already")
	case errors.Is(err, errPasskeysMany):
		return errs.New(errs.Precondition, op, "", "your login has as many passkeys as it may have: remove one first")
	}
	return fail(op, err)
}

// listPasskeys lists a login's passkeys.
func (s *Service) listPasskeys(ctx context.Context, op string, account, login contract.ID) (list []kept, err error) {
	err = s.secrets.InAccount(ctx, account, func(tx pgx.Tx) (err error) {
		list, err = passkeysOf(ctx, tx, login)
		return err
	})
	return list, fail(op, err)
}

func noPasskey(op string, id contract.ID) error {
	return errs.New(errs.NotFound, op, "passkey "+id.String(), "there is no such passkey")
}

// renamePasskey gives a passkey of the caller's another name.
func (s *Service) renamePasskey(ctx context.Context, by authn.Caller, id contract.ID, name string) (kept, error) {
	const op = "identity.UpdatePasskey"
	news, err := s.news(ctx, op, by.Actor, by.Account, by.Login, &identityv1.PasskeyRenamed{LoginId: by.Login[:], PasskeyId: id[:]})
	if err != nil {
		return kept{}, err
	}
	var found *kept
	err = s.secrets.ChangeInAccount(ctx, by.Account, func(tx pgx.Tx) error {
		list, err := passkeysOf(ctx, tx, by.Login)
		if err != nil {
			return err
		}
		if found = byID(list, id); found == nil || found.name == name {
			return nil
		}
		found.name = name
		if _, err := tx.Exec(ctx, "UPDATE passkey SET display_name = $2 WHERE passkey_id = $1", [16]byte(id), name); err != nil {
			return err
		}
		return news.keep(ctx, tx)
	})
	switch {
	case err != nil:
		return kept{}, fail(op, err)
	case found == nil:
		return kept{}, noPasskey(op, id)
	}
	s.tellNow(ctx, by.Login)
	return *found, nil
}

func byID(list []kept, id contract.ID) *kept {
	for i := range list {
		if list[i].id == id {
			return &list[i]
		}
	}
	return nil
}

// ownerOf is the login of a passkey of an account.
func (s *Service) ownerOf(ctx context.Context, op string, account, id contract.ID) (login contract.ID, err error) {
	err = s.secrets.InAccount(ctx, account, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT login_id FROM passkey WHERE passkey_id = $1", [16]byte(id)).Scan((*[16]byte)(&login))
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return login, noPasskey(op, id)
	}
	return login, fail(op, err)
}

// errLastFactor means that a login would have no second factor, and needs one.
var errLastFactor = errors.New("signin: it is the last second factor")

func lastFactor(op string) error {
	return errs.New(errs.Precondition, op, "", "your account asks for a second factor, and this is your last one: add another one first").WithReason(ReasonLastFactor)
}

// mustKeepOne tells whether a login may not take its last second factor away: its own person, where the
// account asks for one. Administrators may, for somebody who has lost theirs.
func (s *Service) mustKeepOne(ctx context.Context, op string, by authn.Caller, login contract.ID) (bool, error) {
	if by.Login != login {
		return false, nil
	}
	rules, _, err := s.policies.Load(ctx, policySubject(by.Account))
	return rules.secondFactorRequired, errs.Wrap(op, "", err)
}

// removePasskey takes a passkey away and ends its login's sessions, but for one.
func (s *Service) removePasskey(ctx context.Context, by authn.Caller, login, id, keep contract.ID) error {
	const op = "identity.RemovePasskey"
	if keep.IsZero() { // by another than its person
		if err := s.unlinkAll(ctx, op, by.Actor, by.Account, login); err != nil {
			return err
		}
	}
	mustKeep, err := s.mustKeepOne(ctx, op, by, login)
	if err != nil {
		return err
	}
	news, err := s.news(ctx, op, by.Actor, by.Account, login, &identityv1.PasskeyRemoved{LoginId: login[:], PasskeyId: id[:]})
	if err != nil {
		return err
	}
	err = s.secrets.ChangeInAccount(ctx, by.Account, func(tx pgx.Tx) error {
		had, err := lockFactors(ctx, tx, by.Account, login)
		if err != nil {
			return err
		}
		last := !had.totp && had.passkeys == 1
		if last && mustKeep {
			return errLastFactor
		}
		done, err := tx.Exec(ctx, "DELETE FROM passkey WHERE passkey_id = $1 AND login_id = $2", [16]byte(id), [16]byte(login))
		if err != nil {
			return err
		}
		if done.RowsAffected() == 0 {
			return errOver
		}
		if err := news.keep(ctx, tx); err != nil {
			return err
		}
		if last {
			if _, err := tx.Exec(ctx, "DELETE FROM recovery_code WHERE login_id = $1", [16]byte(login)); err != nil {
				return err
			}
		}
		return endAll(ctx, tx, login, keep, s.now(), by.Actor)
	})
	switch {
	case errors.Is(err, errLastFactor):
		return lastFactor(op)
	case errors.Is(err, errOver):
		return noPasskey(op, id)
	case err != nil:
		return fail(op, err)
	}
	s.tellEndsNow(ctx, login)
	s.tellNow(ctx, login)
	return nil
}

// removePasskeysBut takes all of a login's away but one, beside what else there is news of.
func (s *Service) removePasskeysBut(ctx context.Context, tx pgx.Tx, beside untold, but contract.ID) error {
	rows, err := tx.Query(ctx, "DELETE FROM passkey WHERE login_id = $1 AND passkey_id <> $2 RETURNING passkey_id", [16]byte(beside.login), [16]byte(but))
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return err
	}
	for _, id := range ids {
		news, err := s.also(beside, &identityv1.PasskeyRemoved{LoginId: beside.login[:], PasskeyId: id[:]})
		if err != nil {
			return err
		}
		if err := news.keep(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// askAnybody asks for any passkey.
func (s *Service) askAnybody() (asked, error) {
	const op = "identity.BeginPasskeySignIn"
	p, err := s.party(op)
	if err != nil {
		return asked{}, err
	}
	c, err := p.AskAnybody()
	if err != nil {
		return asked{}, errs.Wrap(op, "", err)
	}
	return s.ask(op, ceremony{For: forSignIn, Party: p.ID()}, c)
}

// signInWithPasskey lets in who holds a passkey and was made sure of by its authenticator.
func (s *Service) signInWithPasskey(ctx context.Context, a answered, from authn.Origin) (started, error) {
	const op = "identity.SignInWithPasskey"
	began := time.Now()
	st, err := s.judgePasskey(ctx, op, a, from)
	if errs.Is(errs.Unauthenticated, err) {
		if waitErr := s.holdBack(ctx, began); waitErr != nil {
			return started{}, waitErr
		}
	}
	return st, err
}

func passkeyRefused(op string) error {
	return errs.New(errs.Unauthenticated, op, "", "this passkey is not known here, did not make sure of you, or its login is disabled").WithReason(ReasonRefused)
}

func (s *Service) judgePasskey(ctx context.Context, op string, a answered, from authn.Origin) (started, error) {
	p, err := s.party(op)
	if err != nil {
		return started{}, err
	}
	// By address alone: nobody has said yet who they are, and what a stranger says must count
	// against no login. A signature cannot be guessed; what is spared is work.
	attempt, err := s.throttle.beginAddress(ctx, op, kindPasskey, from)
	if err != nil {
		return started{}, err
	}
	st, l, err := s.openByPasskey(ctx, op, p, a, from)
	switch {
	case errors.Is(err, errWrongFactor):
		s.refusedLater(l, !l.ID.IsZero(), false, attempt, from)
		return started{}, passkeyRefused(op)
	case err != nil:
		return started{}, errors.Join(err, s.throttle.takeBack(ctx, op, attempt))
	}
	return st, s.throttle.takeBack(ctx, op, attempt)
}

// shownByPasskey is whose passkey an answer to askAnybody shows, and what that uses up; it answers with
// errWrongFactor for everything that is to be refused in the same words.
func (s *Service) shownByPasskey(ctx context.Context, op string, p *passkey.Party, a answered, from authn.Origin) (at Login, use factorUse, err error) {
	c, err := s.ceremony(op, forSignIn, p, a.token)
	if err != nil {
		return at, use, err
	}
	answer, err := passkey.Read(a.credential)
	if err != nil {
		return at, use, s.unreadable(op, err)
	}
	account, login, ok := answer.Of()
	if !ok || account.IsZero() || account == nobody() {
		return at, use, errWrongFactor
	}
	list, err := s.listPasskeys(ctx, op, account, login)
	if err != nil {
		return at, use, err
	}
	at = Login{Account: account, ID: login}
	shown, err := p.AskedAnybody(s.person(at, list, p), c.State, answer)
	use, right, err := s.judgeShown(s.withOrigin(ctx, at, from), op, at, list, c, shown, err)
	return at, use, judged(right, err)
}

// openByPasskey answers with errWrongFactor for everything that is to be refused in the same words; l
// is the login that the passkey belongs to, as far as it came.
func (s *Service) openByPasskey(ctx context.Context, op string, p *passkey.Party, a answered, from authn.Origin) (st started, l Login, err error) {
	at, use, err := s.shownByPasskey(ctx, op, p, a, from)
	if err != nil {
		return st, l, err
	}
	l, found, err := s.directory.Login(ctx, at.Account, at.ID)
	if err != nil {
		return st, l, errs.Wrap(op, "", err)
	}
	if !found || l.Disabled {
		return st, l, errWrongFactor
	}
	st, _, err = s.carryOut(ctx, op, l, plan{factor: use}, from)
	return st, l, err
}
