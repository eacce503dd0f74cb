package signin

import (
	"context"
	"errors"
	"math/bits"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// ReasonProof is the reason where what was sent does not prove a login anew.
	ReasonProof = "PROOF_INVALID"
	// ReasonPasswordOfOthers is the reason where somebody else may know the password.
	ReasonPasswordOfOthers = "OWN_PASSWORD_NEEDED"
)

// anew is what shows that a login is one's own, whatever sessions of it there are: one of
// password, passkey and refresh token.
type anew struct {
	password, secondFactor string
	passkey                answered
	refreshToken           string
}

func anewOf(op, path string, m *identityv1.LoginProof) (a anew, err error) {
	a = anew{password: m.GetPassword(), secondFactor: m.GetSecondFactor(), refreshToken: m.GetRefreshToken()}
	if m.GetPasskey() != nil {
		a.passkey, err = answeredOf(op, path+".passkey.credential", m.GetPasskey().GetChallengeToken(), m.GetPasskey().GetCredential())
	}
	return a, err
}

// proving is a login that is to be proved anew.
type proving struct {
	op string
	// path names the proof in the request.
	path  string
	login Login
	// besides is the session of it that does not count: whoever has come by one has it already.
	besides contract.ID
	// factor: a second factor is to be shown beside the password, where there is one.
	factor bool
	from   authn.Origin
}

func (p proving) wrong(field, why string) error {
	return errs.InvalidFields(p.op, "", errs.Field{Path: p.path + "." + field, Description: why}).WithReason(ReasonProof)
}

// prove makes sure of the person of a login. byProvider: its identity provider did, and nothing is
// known of whose its password and passkeys are.
func (s *Service) prove(ctx context.Context, p proving, a anew) (byProvider bool, err error) {
	ways := 0
	for _, given := range []bool{a.password != "", a.passkey.any(), a.refreshToken != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return false, errs.InvalidFields(p.op, "", errs.Field{
			Path: p.path, Description: "needs one of password, passkey and, for who comes by an identity provider, refresh_token of one more sign-in",
		})
	}
	switch {
	case a.passkey.any():
		return false, s.provePasskey(ctx, p, a.passkey)
	case a.refreshToken != "":
		return true, s.proveProvider(ctx, p, a.refreshToken)
	}
	return false, s.provePassword(ctx, p, a.password, a.secondFactor)
}

// provePassword counts failures as a sign-in does: who has found a session must not guess here.
func (s *Service) provePassword(ctx context.Context, p proving, password, code string) error {
	l := p.login
	attempt, err := s.throttle.begin(ctx, p.op, kindSignIn, s.directory.FoldName(l.AccountName), s.directory.FoldName(l.Name), p.from)
	if err != nil {
		return err
	}
	err = s.judgePassword(ctx, p, password, code)
	if passwordKnown := errors.Is(err, errWrongFactor); passwordKnown || errors.Is(err, errOldPassword) {
		s.refusedLater(l, true, passwordKnown, attempt, p.from)
		if passwordKnown {
			return p.wrong("second_factor", "it is no code of this login, or was used before")
		}
		return p.wrong("password", "it is not the password of this login")
	}
	return errors.Join(err, s.throttle.takeBack(ctx, p.op, attempt))
}

// judgePassword answers with errOldPassword and errWrongFactor for what is wrong.
func (s *Service) judgePassword(ctx context.Context, p proving, password, code string) error {
	checked, err := s.checkPassword(ctx, p.op, p.login, password)
	switch {
	case err != nil:
		return err
	case !checked.right:
		return errOldPassword
	case checked.ofOthers():
		return passwordOfOthers(p.op)
	case !p.factor:
		return nil
	}
	f, err := s.factor(ctx, p.op, p.login.Account, p.login.ID)
	if err != nil || !f.any() {
		return err
	}
	if code == "" {
		return errs.InvalidFields(p.op, "", errs.Field{Path: p.path + ".second_factor", Description: "is needed beside the password, since the login has a second factor; or prove it by a passkey alone"})
	}
	use, right, err := s.checkFactor(p.op, f, code)
	if err := judged(right, err); err != nil {
		return err
	}
	return s.useUp(ctx, p, checked.hash, use)
}

func passwordOfOthers(op string) error {
	return errs.New(errs.Precondition, op, "", "somebody else may have set the password of this login: sign in with that first, so that nothing of theirs is left").WithReason(ReasonPasswordOfOthers)
}

// provePasskey takes a passkey that would be a whole sign-in, unless somebody may have planted it.
func (s *Service) provePasskey(ctx context.Context, p proving, a answered) error {
	party, err := s.party(p.op)
	if err != nil {
		return err
	}
	attempt, err := s.throttle.beginAddress(ctx, p.op, kindPasskey, p.from)
	if err != nil {
		return err
	}
	at, use, err := s.shownByPasskey(ctx, p.op, party, a, p.from)
	if err == nil && at.ref() != p.login.ref() {
		err = errWrongFactor
	}
	if err == nil {
		err = s.ownPassword(ctx, p.op, p.login)
	}
	if err == nil {
		err = s.useUp(ctx, p, "", use)
	}
	if errors.Is(err, errWrongFactor) {
		return p.wrong("passkey", "it is no passkey of this login, or did not make sure of you")
	}
	return errors.Join(err, s.throttle.takeBack(ctx, p.op, attempt))
}

// ownPassword is an error while others may have set a login's password, and registered what they liked.
func (s *Service) ownPassword(ctx context.Context, op string, l Login) error {
	ofOthers := false
	err := s.secrets.InAccount(ctx, l.Account, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM password WHERE login_id = $1 AND (one_time OR by_link))", [16]byte(l.ID)).Scan(&ofOthers)
	})
	if err == nil && ofOthers {
		return passwordOfOthers(op)
	}
	return fail(op, err)
}

// useUp takes what was shown, where the password that was shown beside it still is the login's.
func (s *Service) useUp(ctx context.Context, p proving, hash string, use factorUse) error {
	if use.ceremony != nil {
		if err := s.consume(ctx, *use.ceremony); errors.Is(err, errAnswered) {
			return errWrongFactor
		} else if err != nil {
			return fail(p.op, err)
		}
	}
	l, event := p.login, use.event(p.login.ID)
	var news untold
	if event != nil {
		var err error
		if news, err = s.news(s.withOrigin(ctx, l, p.from), p.op, l.actor(), l.Account, l.ID, event); err != nil {
			return err
		}
	}
	err := s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) error {
		if err := stillProved(ctx, tx, l.ID, hash); err != nil {
			return err
		}
		if _, err := use.use(ctx, tx, l.Account, l.ID, s.now()); err != nil || event == nil {
			return err
		}
		return news.keep(ctx, tx)
	})
	if errors.Is(err, errWrongFactor) || errors.Is(err, errOldPassword) {
		return err
	}
	if err != nil {
		return fail(p.op, err)
	}
	if event != nil {
		s.tellNow(ctx, l.ID)
	}
	return nil
}

// proveProvider takes one more session, which the login's identity provider has let somebody
// in to a moment ago: where a provider makes sure of people, nothing else can be asked for.
func (s *Service) proveProvider(ctx context.Context, p proving, refreshToken string) error {
	wrong := p.wrong("refresh_token", "it is of no session of this login that was signed in to by its identity provider within 10 minutes, beside the one that there is")
	account, id, secret, ok := readRefresh(refreshToken)
	if !ok || account != p.login.Account || id == p.besides {
		return wrong
	}
	err := s.useSession(ctx, p.op, p.login, id, secret, func(row sessionRow) bool { return row.voucher != Voucher{} })
	if errors.Is(err, errOver) {
		return wrong
	}
	if err != nil {
		return err
	}
	s.tellEndsNow(ctx, p.login.ID)
	return nil
}

func readRefresh(text string) (account, session contract.ID, secret []byte, ok bool) {
	rest, prefixed := strings.CutPrefix(text, refreshPrefix)
	account, session, secret, ok = readPlace(rest)
	return account, session, secret, ok && prefixed
}

// refusal is an event that tells a login's log of a refusal.
type refusal struct {
	login Login
	event proto.Message
}

// refusalOf is the reason of an error that refuses somebody; "" of one that says nothing of who asked, as
// that something is missing in what was sent, or cannot be reached.
func refusalOf(err error) string {
	kind := errs.KindOf(err)
	if reason := errs.PublicOf(err).Reason; reason != kind.Reason() && kind != errs.Exhausted && kind != errs.Unauthenticated {
		return reason
	}
	return ""
}

// refusable does what may be refused to somebody who is signed in. Who is refused again and again
// waits, as whoever fails to sign in does; the log is told of the first refusal in a row, and
// whenever their number has doubled.
func (s *Service) refusable(ctx context.Context, op, kind string, by authn.Caller, from authn.Origin, do func() error, tell func(reason string, failures int32) []refusal) error {
	attempt, err := s.throttle.begin(ctx, op, kind, by.Account.String(), by.Login.String(), from)
	if err != nil {
		return err
	}
	err = do()
	if err == nil {
		return s.throttle.succeeded(ctx, op, kind, from, attempt)
	}
	reason := refusalOf(err)
	if reason == "" {
		return errors.Join(err, s.throttle.takeBack(ctx, op, attempt))
	}
	if bits.OnesCount(uint(attempt.failures)) == 1 {
		list := tell(reason, int32(attempt.failures))
		s.doLater(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, laterWithin)
			defer cancel()
			for _, r := range list {
				if err := s.record(s.withOrigin(ctx, r.login, from), op, by.Actor, r.login.Account, r.login.ID, r.event); err != nil {
					s.log.WarnContext(ctx, "a refusal is not in the log", "what", kind, "account", r.login.Account, "login", r.login.ID, "error", err)
				}
			}
		})
	}
	return err
}
