package signin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const (
	// accessLife of an access token: shorter than authn.TokenLife allows, so that a name
	// or a privilege that changed is soon in the next one.
	accessLife = 10 * time.Minute
	// idleLife of a session: so long after its last refresh it is over.
	idleLife = 7 * 24 * time.Hour
	// sessionLife is how long a session lasts at most.
	sessionLife = 30 * 24 * time.Hour
	// sameAnswerFor is how long a refresh token that was used is answered as it was then.
	sameAnswerFor = 30 * time.Second
	// refreshPrefix lets people and secret scanners know a refresh token when they see one.
	refreshPrefix = "cetrus_refresh_"
)

// ReasonSession is the reason of an error that asks to sign in anew.
const ReasonSession = "SESSION_ENDED"

func over() error {
	return errs.New(errs.Unauthenticated, "identity.RefreshSession", "", "this session has ended, or the refresh token was used before: sign in again").WithReason(ReasonSession)
}

// begun is a session as it begins, with its first refresh token.
type begun struct {
	account, session, login contract.ID
	created, expires        time.Time
	secondFactor            bool
	disablings              int
	voucher                 Voucher
	// origin is the session that it was switched from; zero: it was signed in to.
	origin authn.TokenOrigin
	from   authn.Origin
	secret []byte
}

// started is what a person gets of a session.
type started struct {
	session *identityv1.Session
	tokens  *identityv1.Tokens
}

func newSession(l Login, now time.Time, secondFactor bool, from authn.Origin) begun {
	b := begun{account: l.Account, login: l.ID, created: now, expires: now.Add(sessionLife), secondFactor: secondFactor, disablings: l.Disablings, from: from, secret: credential.NewSecret()}
	copy(b.session[:], credential.NewSecret())
	b.session[6], b.session[8] = b.session[6]&0x0f|0x40, b.session[8]&0x3f|0x80
	return b
}

func (b begun) insert(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `INSERT INTO session (account_id, session_id, login_id, created, last_used, expires, second_factor, address, user_agent, disablings,
			vouched_by, vouched_as, origin_account_id, origin_login_id, origin_session_id)
		VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		[16]byte(b.account), [16]byte(b.session), [16]byte(b.login), b.created, b.expires, b.secondFactor, addressOf(b.from), userAgentOf(b.from), b.disablings,
		b.voucher.Issuer, b.voucher.Subject, orNull(b.origin.Account), orNull(b.origin.Login), orNull(b.origin.Session))
	if err != nil {
		return err
	}
	return insertToken(ctx, tx, b.account, b.session, b.secret)
}

func orNull(id contract.ID) any {
	if id.IsZero() {
		return nil
	}
	return [16]byte(id)
}

func insertToken(ctx context.Context, tx pgx.Tx, account, session contract.ID, secret []byte) error {
	hash := credential.HashOf(secret)
	_, err := tx.Exec(ctx, "INSERT INTO refresh_token (account_id, hash, session_id) VALUES ($1, $2, $3)", [16]byte(account), hash[:], [16]byte(session))
	return err
}

func (s *Service) tellStart(ctx context.Context, op string, l Login, b begun) error {
	_, err := s.sessions.Execute(ctx, sessionSubject(b.account, b.session), eventlog.Command{Actor: l.actor()}, func(session) ([]proto.Message, error) {
		event := &identityv1.SessionStarted{SessionId: b.session[:], LoginId: b.login[:], SecondFactor: b.secondFactor, ExpireTime: timestamppb.New(b.expires)}
		if o := b.origin; o != (authn.TokenOrigin{}) {
			event.OriginAccountId, event.OriginLoginId, event.OriginSessionId = o.Account[:], o.Login[:], o.Session[:]
		}
		return []proto.Message{event}, nil
	})
	return errs.Wrap(op, "", err)
}

// give makes what the person gets of a session that has begun.
func (s *Service) give(op string, l Login, b begun, codes []string) (started, []string, error) {
	tokens, err := s.tokens(op, l, b.session, b.origin, b.secret, b.created, b.expires)
	if err != nil {
		return started{}, nil, err
	}
	return started{tokens: tokens, session: &identityv1.Session{
		SessionId: b.session.String(), LoginId: b.login.String(), CreateTime: timestamppb.New(b.created), LastUseTime: timestamppb.New(b.created),
		ExpireTime: timestamppb.New(b.expires), Address: addressOf(b.from), UserAgent: userAgentOf(b.from), SecondFactor: b.secondFactor, Current: true,
		Switched: b.origin != authn.TokenOrigin{},
	}}, codes, nil
}

func (s *Service) tokens(op string, l Login, session contract.ID, origin authn.TokenOrigin, secret []byte, now, expires time.Time) (*identityv1.Tokens, error) {
	until := now.Add(accessLife)
	if until.After(expires) {
		until = expires
	}
	access, err := s.keys.sign(authn.AccessToken{Account: l.Account, Login: l.ID, Session: session, Origin: origin, Privileges: l.Privileges, Issued: now, Expires: until})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	refreshUntil := now.Add(idleLife)
	if refreshUntil.After(expires) {
		refreshUntil = expires
	}
	return &identityv1.Tokens{
		AccessToken: access, AccessTokenExpireTime: timestamppb.New(until),
		RefreshToken: refreshPrefix + place(l.Account, session, secret), RefreshTokenExpireTime: timestamppb.New(refreshUntil),
	}, nil
}

// place writes where a secret belongs in front of it: the secret is looked for behind the
// wall of its account alone.
func place(account, of contract.ID, secret []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(append(append([]byte{}, account[:]...), of[:]...), secret...))
}

// readPlace reads what place wrote; ok is false for anything else.
func readPlace(text string) (account, of contract.ID, secret []byte, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != 16+16+len(credential.NewSecret()) {
		return account, of, nil, false
	}
	account, of = contract.ID(raw[:16]), contract.ID(raw[16:32])
	return account, of, raw[32:], !account.IsZero() && account != nobody()
}

// refresh gives new tokens for a refresh token, and uses it up. Who sends it again within sameAnswerFor is given
// the same refresh token once more, for as long as that was not used: requests of one browser reach several
// gateways, and answers are lost. So the next token follows from the one before, under the key of secrets.
func (s *Service) refresh(ctx context.Context, text string) (*identityv1.Tokens, error) {
	const op = "identity.RefreshSession"
	rest, ok := strings.CutPrefix(text, refreshPrefix)
	account, id, secret, placed := readPlace(rest)
	if !ok || !placed {
		return nil, over()
	}
	// Before the token is used up: who gets no answer, since this cannot be asked, keeps it.
	login, l, found, err := s.loginOf(ctx, op, account, id)
	if err != nil {
		return nil, err
	}
	refusal, err := s.originRefuses(ctx, op, account, id, l)
	if err != nil {
		return nil, err
	}
	rules, _, err := s.policies.Load(ctx, policySubject(account))
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	now, next := s.now(), s.box.derive("cetrus refresh token after "+string(secret))
	var row sessionRow
	ended, reused := false, false
	err = s.secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		var err error
		if row, err = lockSession(ctx, tx, id); err != nil {
			return err
		}
		if !row.good(now) {
			return errOver
		}
		hash := credential.HashOf(secret)
		var used *time.Time
		if err := tx.QueryRow(ctx, "SELECT used FROM refresh_token WHERE hash = $1 AND session_id = $2", hash[:], [16]byte(id)).Scan(&used); err != nil {
			return noRows(err)
		}
		again := false
		if used != nil && now.Sub(*used) < sameAnswerFor {
			hash := credential.HashOf(next)
			if err := tx.QueryRow(ctx, "SELECT used IS NULL FROM refresh_token WHERE hash = $1 AND session_id = $2", hash[:], [16]byte(id)).Scan(&again); err != nil {
				return noRows(err)
			}
		}
		if used != nil && !again {
			ended, reused = true, true
			return endOne(ctx, tx, id, now, identityv1.SessionEnd_SESSION_END_TOKEN_REUSED, "")
		}
		if !found || l.Disabled || l.Disablings != row.disablings {
			ended = true
			return endOne(ctx, tx, id, now, identityv1.SessionEnd_SESSION_END_BY_ADMINISTRATOR, "")
		}
		if rules.secondFactorRequired && !row.secondFactor && row.voucher == (Voucher{}) {
			ended = true // it began before the account asked for one
			return endOne(ctx, tx, id, now, identityv1.SessionEnd_SESSION_END_CREDENTIAL_CHANGED, "")
		}
		if refusal != "" {
			ended = true
			return endOne(ctx, tx, id, now, identityv1.SessionEnd_SESSION_END_ORIGIN_ENDED, "")
		}
		if again {
			return nil
		}
		if _, err := tx.Exec(ctx, "UPDATE refresh_token SET used = $2 WHERE hash = $1", hash[:], now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE session SET last_used = $2 WHERE session_id = $1", [16]byte(id), now); err != nil {
			return err
		}
		return insertToken(ctx, tx, account, id, next)
	})
	switch {
	case errors.Is(err, errOver):
		return nil, over()
	case err != nil:
		return nil, fail(op, err)
	case ended:
		if reused {
			s.log.WarnContext(ctx, "a refresh token came a second time: its session has ended", "account", account, "login", login, "session", id)
		}
		s.tellEndsNow(ctx, login)
		return nil, over()
	}
	return s.tokens(op, l, id, row.origin, next, now, row.expires)
}

// loginOf is the login of a session; found is false where it is not there any more.
func (s *Service) loginOf(ctx context.Context, op string, account, session contract.ID) (login contract.ID, l Login, found bool, err error) {
	err = s.secrets.InAccount(ctx, account, func(tx pgx.Tx) error {
		return noRows(tx.QueryRow(ctx, "SELECT login_id FROM session WHERE session_id = $1", [16]byte(session)).Scan((*[16]byte)(&login)))
	})
	if errors.Is(err, errOver) {
		return login, l, false, over()
	}
	if err != nil {
		return login, l, false, fail(op, err)
	}
	l, found, err = s.directory.Login(ctx, account, login)
	return login, l, found, errs.Wrap(op, "", err)
}

// errOver means that a session, or a token of it, is not good any more.
var errOver = errors.New("signin: the session is over")

func noRows(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return errOver
	}
	return err
}

type sessionRow struct {
	login                      contract.ID
	created, lastUsed, expires time.Time
	ended, secondFactor        bool
	disablings                 int
	voucher                    Voucher
	origin                     authn.TokenOrigin
}

// good tells whether the session is so, as far as itself is concerned.
func (r sessionRow) good(now time.Time) bool {
	return !r.ended && now.Before(r.expires) && now.Before(r.lastUsed.Add(idleLife))
}

// switched tells whether nobody signed in to it.
func (r sessionRow) switched() bool { return r.origin != authn.TokenOrigin{} }

// lockSession reads a session for update: two uses of one token come one after the other.
func lockSession(ctx context.Context, tx pgx.Tx, id contract.ID) (row sessionRow, err error) {
	return scanSession(ctx, tx, id, " FOR UPDATE")
}

// readSession reads a session as it is now.
func (s *Service) readSession(ctx context.Context, account, id contract.ID) (row sessionRow, err error) {
	err = s.secrets.InAccount(ctx, account, func(tx pgx.Tx) (err error) {
		row, err = scanSession(ctx, tx, id, "")
		return err
	})
	return row, err
}

func scanSession(ctx context.Context, tx pgx.Tx, id contract.ID, how string) (row sessionRow, err error) {
	var origin [3]*[16]byte
	err = tx.QueryRow(ctx, `SELECT login_id, created, last_used, expires, ended IS NOT NULL, second_factor, disablings, vouched_by, vouched_as,
			origin_account_id, origin_login_id, origin_session_id FROM session WHERE session_id = $1`+how, [16]byte(id)).
		Scan((*[16]byte)(&row.login), &row.created, &row.lastUsed, &row.expires, &row.ended, &row.secondFactor, &row.disablings, &row.voucher.Issuer, &row.voucher.Subject,
			&origin[0], &origin[1], &origin[2])
	if err == nil && origin[0] != nil && origin[1] != nil && origin[2] != nil {
		row.origin = authn.TokenOrigin{Account: *origin[0], Login: *origin[1], Session: *origin[2]}
	}
	return row, noRows(err)
}

// endOne ends a session that has not ended.
func endOne(ctx context.Context, tx pgx.Tx, id contract.ID, now time.Time, reason identityv1.SessionEnd, actor string) error {
	_, err := tx.Exec(ctx, "UPDATE session SET ended = $2, reason = $3, actor = $4 WHERE session_id = $1 AND ended IS NULL", [16]byte(id), now, int32(reason), actor)
	return err
}

// endAll ends all sessions of a login but one, since what it proves itself with has changed, and takes back all links to a new password.
func endAll(ctx context.Context, tx pgx.Tx, login, keep contract.ID, now time.Time, actor string) error {
	_, err := tx.Exec(ctx, "UPDATE session SET ended = $3, reason = $4, actor = $5 WHERE login_id = $1 AND session_id <> $2 AND ended IS NULL",
		[16]byte(login), [16]byte(keep), now, int32(identityv1.SessionEnd_SESSION_END_CREDENTIAL_CHANGED), actor)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "DELETE FROM reset_link WHERE login_id = $1", [16]byte(login))
	return err
}

// tellEndsNow tells the log at once of a login's sessions; where that fails, Run does it again.
// Others' ends stay to Run: what is told in a call says that it came from there.
func (s *Service) tellEndsNow(ctx context.Context, login contract.ID) {
	if err := s.tellEndsOf(ctx, login); err != nil {
		s.log.WarnContext(ctx, "the log was not told that sessions ended; it is tried again", "error", err)
	}
}

// tellEnds tells the log of every session that has ended and that it does not know of.
// Telling twice does nothing twice: the aggregate ends once.
func (s *Service) tellEnds(ctx context.Context) error { return s.tellEndsOf(ctx, contract.ID{}) }

// tellEndsOf is tellEnds for one login; zero: for all. One that cannot be told holds up no other.
func (s *Service) tellEndsOf(ctx context.Context, login contract.ID) error {
	// Sessions of every account: a matter of the platform's own, whose rows no answer shows.
	rows, err := s.secrets.Projector.Query(ctx, `SELECT account_id, session_id, login_id, reason, actor FROM session WHERE ended IS NOT NULL AND NOT told
		AND ($1::uuid = '00000000-0000-0000-0000-000000000000' OR login_id = $1::uuid) ORDER BY ended LIMIT 1000`, [16]byte(login))
	if err != nil {
		return fmt.Errorf("signin: ended sessions: %w", err)
	}
	ends, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e end, err error) {
		err = row.Scan((*[16]byte)(&e.account), (*[16]byte)(&e.session), (*[16]byte)(&e.login), (*int32)(&e.reason), &e.actor)
		return e, err
	})
	if err != nil {
		return fmt.Errorf("signin: ended sessions: %w", err)
	}
	var failed error
	for _, e := range ends {
		if err := s.tellEnd(ctx, e); err != nil {
			failed = errors.Join(failed, fmt.Errorf("signin: telling that session %s ended: %w", e.session, err))
		}
	}
	return failed
}

// end is a session that has ended, as its row has it.
type end struct {
	account, session, login contract.ID
	reason                  identityv1.SessionEnd
	actor                   string
}

func (s *Service) tellEnd(ctx context.Context, e end) error {
	if err := s.endSwitched(ctx, e.account, e.session); err != nil {
		return err
	}
	event := &identityv1.SessionEnded{SessionId: e.session[:], LoginId: e.login[:], Reason: e.reason}
	_, err := s.sessions.Execute(ctx, sessionSubject(e.account, e.session), eventlog.Command{Actor: e.actor},
		func(st session) ([]proto.Message, error) { return st.decideEnd(event), nil })
	if err != nil {
		return err
	}
	_, err = s.secrets.Projector.Exec(ctx, "UPDATE session SET told = true WHERE account_id = $1 AND session_id = $2", [16]byte(e.account), [16]byte(e.session))
	return err
}

// signOut ends the session of a refresh token, used or not.
func (s *Service) signOut(ctx context.Context, text string) error {
	const op = "identity.SignOut"
	rest, _ := strings.CutPrefix(text, refreshPrefix)
	account, id, secret, ok := readPlace(rest)
	if !ok {
		return nil
	}
	var login contract.ID
	err := s.secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		row, err := lockSession(ctx, tx, id)
		if err != nil || row.ended {
			return err
		}
		login = row.login
		hash := credential.HashOf(secret)
		var there int
		if err := tx.QueryRow(ctx, "SELECT 1 FROM refresh_token WHERE hash = $1 AND session_id = $2", hash[:], [16]byte(id)).Scan(&there); err != nil {
			return noRows(err)
		}
		return endOne(ctx, tx, id, s.now(), identityv1.SessionEnd_SESSION_END_SIGNED_OUT, "login:"+row.login.String())
	})
	if errors.Is(err, errOver) || err == nil && login.IsZero() {
		return nil
	}
	if err != nil {
		return fail(op, err)
	}
	s.tellEndsNow(ctx, login)
	return nil
}

// endSession ends a session of an account; of is the login that it must be of, zero for any.
func (s *Service) endSession(ctx context.Context, by authn.Caller, id, of contract.ID) error {
	const op = "identity.EndSession"
	var login contract.ID
	err := s.secrets.ChangeInAccount(ctx, by.Account, func(tx pgx.Tx) error {
		row, err := lockSession(ctx, tx, id)
		if err != nil {
			return err
		}
		login = row.login
		if !of.IsZero() && row.login != of {
			return errOver
		}
		reason := identityv1.SessionEnd_SESSION_END_BY_ADMINISTRATOR
		if row.login == by.Login {
			reason = identityv1.SessionEnd_SESSION_END_BY_LOGIN
		}
		return endOne(ctx, tx, id, s.now(), reason, by.Actor)
	})
	if errors.Is(err, errOver) {
		return errs.New(errs.NotFound, op, "session "+id.String(), "there is no such session")
	}
	if err != nil {
		return fail(op, err)
	}
	s.tellEndsNow(ctx, login)
	return nil
}

// EndSessions ends all sessions of a login, for whoever runs the platform. actor names who asked.
func (s *Service) EndSessions(ctx context.Context, actor string, account, login contract.ID) error {
	const op = "identity.EndSessions"
	err := s.secrets.ChangeInAccount(ctx, account, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE session SET ended = $2, reason = $3, actor = $4 WHERE login_id = $1 AND ended IS NULL",
			[16]byte(login), s.now(), int32(identityv1.SessionEnd_SESSION_END_BY_ADMINISTRATOR), actor)
		return err
	})
	if err != nil {
		return fail(op, err)
	}
	s.tellEndsNow(ctx, login)
	return nil
}

// listSessions lists sessions of a login that have not ended, the latest first.
func (s *Service) listSessions(ctx context.Context, op string, by authn.Caller, login contract.ID, before time.Time, behind contract.ID, size int) ([]*identityv1.Session, error) {
	var list []*identityv1.Session
	now := s.now()
	err := s.secrets.InAccount(ctx, by.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT session_id, created, last_used, expires, second_factor, address, user_agent, origin_session_id IS NOT NULL FROM session
			WHERE login_id = $1 AND ended IS NULL AND expires > $2 AND last_used > $3 AND (created, session_id) < ($4, $5::uuid)
			ORDER BY created DESC, session_id DESC LIMIT $6`,
			[16]byte(login), now, now.Add(-idleLife), before, [16]byte(behind), size)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*identityv1.Session, error) {
			var id [16]byte
			var created, lastUsed, expires time.Time
			m := &identityv1.Session{LoginId: login.String()}
			if err := row.Scan(&id, &created, &lastUsed, &expires, &m.SecondFactor, &m.Address, &m.UserAgent, &m.Switched); err != nil {
				return nil, err
			}
			m.SessionId, m.Current = contract.ID(id).String(), contract.ID(id) == by.Session
			m.CreateTime, m.LastUseTime, m.ExpireTime = timestamppb.New(created), timestamppb.New(lastUsed), timestamppb.New(expires)
			return m, nil
		})
		return err
	})
	return list, fail(op, err)
}
