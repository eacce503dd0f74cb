package signin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// Reasons why a session of a linked login is not to be had, beside ReasonSession and
// ReasonSingleSignOn.
const (
	// ReasonSwitchedSession: who has switched goes back to where they signed in.
	ReasonSwitchedSession = "SESSION_SWITCHED"
	ReasonNotLinked       = "NOT_LINKED"
	ReasonLoginGone       = "LOGIN_UNAVAILABLE"
	ReasonLinksForbidden  = "LINKS_FORBIDDEN"
	ReasonFactorNeeded    = "SECOND_FACTOR_NEEDED"
	// ReasonProviderUnknown: an identity provider has vouched that the other account does not
	// let this person in by.
	ReasonProviderUnknown = "OTHER_IDENTITY_PROVIDER"
	ReasonTooOld          = "SIGN_IN_TOO_OLD"
	// ReasonByProvider: the link was made by who came by the identity provider here, and so is used.
	ReasonByProvider = "LINKED_BY_IDENTITY_PROVIDER"
)

// kindSwitch is what switches are counted as.
const kindSwitch = "switch"

// refusalText says it to the person.
func refusalText(reason string) string {
	switch reason {
	case ReasonSession:
		return "the session that you come from has ended: sign in again"
	case ReasonSwitchedSession:
		return "this session was switched to itself: switch from the one that you signed in to"
	case ReasonNotLinked:
		return "it is no linked login of yours"
	case ReasonLoginGone:
		return "that login is disabled, or is not there any more: ask an administrator of its account"
	case ReasonLinksForbidden:
		return "one of the two accounts does not allow links between logins: sign in there"
	case ReasonFactorNeeded:
		return "a second factor is asked for there, and you signed in without one: sign in there, or here anew with one"
	case ReasonProviderUnknown:
		return "the identity provider that vouched for you here does not do so there: sign in there"
	case ReasonSingleSignOn:
		return "that account lets people in by its identity provider only: sign in there by single sign-on"
	case ReasonByProvider:
		return "you linked it while signed in by your identity provider, and switch to it only from there: sign in by that, or link it again with your password"
	case ReasonTooOld:
		return "you signed in too long ago for that account: sign in there, or here anew"
	}
	return "it is not possible"
}

func (l Login) ref() Ref { return Ref{l.Account, l.ID} }

// entry is what is known of a switch before it is made.
type entry struct {
	from sessionRow
	to   Login
	// refusal is empty where the switch may be made.
	refusal string
}

// judgeSwitch finds out whether whoever signed in to a session may be in a session of another
// login. It is asked when they switch and, but for the age of the sign-in, at each refresh.
func (s *Service) judgeSwitch(ctx context.Context, op string, origin authn.TokenOrigin, to Ref, again bool) (e entry, err error) {
	e.from, err = s.readSession(ctx, origin.Account, origin.Session)
	switch now := s.now(); {
	case errors.Is(err, errOver):
		return entry{refusal: ReasonSession}, nil
	case err != nil:
		return e, fail(op, err)
	case !e.from.good(now) || e.from.login != origin.Login:
		return entry{refusal: ReasonSession}, nil
	case e.from.switched():
		return entry{refusal: ReasonSwitchedSession}, nil
	}
	own, found, err := s.directory.Login(ctx, origin.Account, origin.Login)
	switch {
	case err != nil:
		return e, errs.Wrap(op, "", err)
	case !found || own.Disabled || own.Disablings != e.from.disablings:
		return entry{refusal: ReasonSession}, nil
	case !slices.Contains(own.Links, to):
		return entry{refusal: ReasonNotLinked}, nil
	}
	e.to, found, err = s.directory.Login(ctx, to.Account, to.Login)
	switch {
	case err != nil:
		return e, errs.Wrap(op, "", err)
	case !found || e.to.Disabled || !slices.Contains(e.to.Links, own.ref()):
		e.refusal = ReasonLoginGone
		return e, nil
	}
	if e.from.voucher == (Voucher{}) && slices.Contains(own.LinksByProvider, to) {
		e.refusal = ReasonByProvider
		return e, nil
	}
	e.refusal, err = s.rulesRefuse(ctx, op, own, e, again)
	return e, err
}

// rulesRefuse is what the two accounts ask for. Whoever administers the account of the first
// login could let themselves in to it by an identity provider of their own, so that one
// counts only where the other account has it too, for the same person.
func (s *Service) rulesRefuse(ctx context.Context, op string, own Login, e entry, again bool) (reason string, err error) {
	here, _, err := s.policies.Load(ctx, policySubject(own.Account))
	if err != nil {
		return "", errs.Wrap(op, "", err)
	}
	there, _, err := s.policies.Load(ctx, policySubject(e.to.Account))
	if err != nil {
		return "", errs.Wrap(op, "", err)
	}
	if here.linksForbidden || there.linksForbidden {
		return ReasonLinksForbidden, nil
	}
	if !again && there.maxSwitchAge > 0 && s.now().Sub(e.from.created) > there.maxSwitchAge {
		return ReasonTooOld, nil
	}
	if e.from.voucher != (Voucher{}) {
		known, err := s.directory.Vouched(ctx, e.to.ref(), e.from.voucher)
		if err != nil {
			return "", errs.Wrap(op, "", err)
		}
		if !known {
			return ReasonProviderUnknown, nil
		}
		return "", nil
	}
	if there.singleSignOnRequired {
		return ReasonSingleSignOn, nil
	}
	if e.from.secondFactor {
		return "", nil
	}
	f, err := s.factor(ctx, op, e.to.Account, e.to.ID)
	if err != nil {
		return "", err
	}
	if there.secondFactorRequired || f.any() {
		return ReasonFactorNeeded, nil
	}
	return "", nil
}

// originRefuses tells why a session that was switched to is to end; "" where it may go on, or was
// signed in to itself.
func (s *Service) originRefuses(ctx context.Context, op string, account, id contract.ID, l Login) (reason string, err error) {
	row, err := s.readSession(ctx, account, id)
	switch {
	case errors.Is(err, errOver):
		return "", over()
	case err != nil:
		return "", fail(op, err)
	case !row.switched():
		return "", nil
	}
	e, err := s.judgeSwitch(ctx, op, row.origin, l.ref(), true)
	return e.refusal, err
}

// signedIn is an error where nobody has signed in: keys neither link nor switch.
func signedIn(op string, by authn.Caller) error {
	if by.Session.IsZero() || by.Login.IsZero() {
		return errs.New(errs.Denied, op, "", "a key does not do this: sign in, and send the access token").WithReason(authn.ReasonSignInNeeded)
	}
	return nil
}

// switchTo begins a session of a login that is linked with the caller's.
func (s *Service) switchTo(ctx context.Context, by authn.Caller, to Ref, from authn.Origin) (begun started, err error) {
	const op = "identity.SwitchAccount"
	if err := signedIn(op, by); err != nil {
		return started{}, err
	}
	var e entry
	err = s.refusable(ctx, op, kindSwitch, by, from, func() error {
		if e, err = s.judgeSwitch(ctx, op, authn.TokenOrigin{Account: by.Account, Login: by.Login, Session: by.Session}, to, false); err != nil {
			return err
		}
		if e.refusal != "" {
			return switchRefused(op, to, e.refusal)
		}
		begun, err = s.enter(ctx, op, by, e, from)
		return err
	}, func(reason string, failures int32) []refusal { return switchRefusals(by, e, reason, failures) })
	return begun, err
}

// switchRefusals tell the caller's log, and where there is a link the other login's.
func switchRefusals(by authn.Caller, e entry, reason string, failures int32) []refusal {
	own := Login{Account: by.Account, ID: by.Login}
	here := &identityv1.SwitchRefused{LoginId: own.ID[:], Reason: reason, Failures: failures}
	list := []refusal{{own, here}}
	if e.to.ID.IsZero() || reason == ReasonLoginGone {
		return list // that a stranger names it is no matter of another account's
	}
	to := e.to
	here.LinkedAccountId, here.LinkedLoginId = to.Account[:], to.ID[:]
	return append(list, refusal{to, &identityv1.SwitchRefused{LoginId: to.ID[:], Reason: reason, Failures: failures, LinkedAccountId: own.Account[:], LinkedLoginId: own.ID[:]}})
}

// enter begins the session of the other login.
func (s *Service) enter(ctx context.Context, op string, by authn.Caller, e entry, from authn.Origin) (started, error) {
	to, origin := e.to.ref(), authn.TokenOrigin{Account: by.Account, Login: by.Login, Session: by.Session}
	st := newSession(e.to, s.now(), e.from.secondFactor, from)
	st.voucher, st.origin = e.from.voucher, origin
	if st.expires.After(e.from.expires) {
		st.expires = e.from.expires
	}
	if err := s.secrets.ChangeInAccount(ctx, to.Account, func(tx pgx.Tx) error { return st.insert(ctx, tx) }); err != nil {
		return started{}, fail(op, err)
	}
	reason, err := s.tellSwitch(ctx, op, by.Actor, e.to, st, from)
	if err == nil && reason == "" {
		begun, _, err := s.give(op, e.to, st, nil)
		return begun, err
	}
	// It was told to nobody, and must not stay.
	if endErr := s.secrets.ChangeInAccount(ctx, to.Account, func(tx pgx.Tx) error {
		return endOne(ctx, tx, st.session, s.now(), identityv1.SessionEnd_SESSION_END_ORIGIN_ENDED, "")
	}); endErr != nil {
		return started{}, errors.Join(err, fail(op, endErr))
	}
	s.tellEndsNow(ctx, to.Login)
	if err != nil {
		return started{}, err
	}
	return started{}, switchRefused(op, to, reason)
}

func switchRefused(op string, to Ref, reason string) error {
	kind := errs.Precondition
	if reason == ReasonNotLinked {
		kind = errs.NotFound
	}
	return errs.New(kind, op, "login "+to.Login.String(), refusalText(reason)).WithReason(reason)
}

// tellSwitch tells the log at both ends, then looks again: whoever ends a session or a link tells
// the log first and ends what came of it then, and must not miss what began in between.
func (s *Service) tellSwitch(ctx context.Context, op, actor string, to Login, st begun, from authn.Origin) (reason string, err error) {
	_, err = s.sessions.Execute(ctx, sessionSubject(st.origin.Account, st.origin.Session), eventlog.Command{Actor: actor}, func(session) ([]proto.Message, error) {
		return []proto.Message{&identityv1.SessionSwitched{AccountId: st.account[:], LoginId: st.login[:], SessionId: st.session[:]}}, nil
	})
	if err != nil {
		return "", errs.Wrap(op, "", err)
	}
	if err := s.tellStart(s.withOrigin(ctx, to, from), op, to, st); err != nil {
		return "", err
	}
	e, err := s.judgeSwitch(ctx, op, st.origin, to.ref(), true)
	return e.refusal, err
}

// endSwitched ends the sessions that were switched to from one that has ended. They are of other
// accounts: a matter of the platform's own.
func (s *Service) endSwitched(ctx context.Context, account, session contract.ID) error {
	_, err := s.secrets.Projector.Exec(ctx, "UPDATE session SET ended = $3, reason = $4 WHERE origin_account_id = $1 AND origin_session_id = $2 AND ended IS NULL",
		[16]byte(account), [16]byte(session), s.now(), int32(identityv1.SessionEnd_SESSION_END_ORIGIN_ENDED))
	if err != nil {
		return fmt.Errorf("signin: sessions switched to from %s: %w", session, err)
	}
	return nil
}
