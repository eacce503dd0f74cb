package signin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// linkWithin is how old a sign-in may be that a link is made by: whoever finds an open session
	// must not bind it to a login of their own.
	linkWithin = 10 * time.Minute
	// maxLinks bounds what one login has.
	maxLinks = 50
)

// ReasonLinkProof is the reason where what was sent is of no session of another login.
const ReasonLinkProof = "LINK_PROOF_INVALID"

func noProof(op string) error {
	return errs.New(errs.Precondition, op, "", "this proves no login of another account: sign in there, and send the refresh token of that session within 10 minutes; it is good for one link").WithReason(ReasonLinkProof)
}

// fresh tells whether a session was signed in to a moment ago.
func (r sessionRow) fresh(now time.Time) bool {
	return r.good(now) && !r.switched() && now.Sub(r.created) <= linkWithin
}

// kindLink is what attempts to link are counted as.
const kindLink = "link"

// linking is what LinkLogin is asked with.
type linking struct {
	// refreshToken is of the session that was signed in to at the other login.
	refreshToken string
	own, other   anew
}

// linkLogin says that the login which a refresh token has just been given to is the caller's too.
func (s *Service) linkLogin(ctx context.Context, by authn.Caller, want linking, from authn.Origin) (other Login, err error) {
	const op = "identity.LinkLogin"
	if err := signedIn(op, by); err != nil {
		return Login{}, err
	}
	err = s.refusable(ctx, op, kindLink, by, from, func() (err error) {
		other, err = s.link(ctx, op, by, want, from)
		return err
	}, func(reason string, failures int32) []refusal {
		return []refusal{{Login{Account: by.Account, ID: by.Login}, &identityv1.LinkRefused{LoginId: by.Login[:], Reason: reason, Failures: failures}}}
	})
	return other, err
}

func (s *Service) link(ctx context.Context, op string, by authn.Caller, want linking, from authn.Origin) (Login, error) {
	own, err := s.mayLink(ctx, op, by)
	if err != nil {
		return Login{}, err
	}
	account, id, secret, ok := readRefresh(want.refreshToken)
	if !ok {
		return Login{}, noProof(op)
	}
	if account == by.Account {
		return Login{}, errs.New(errs.Precondition, op, "", "logins of one account are not linked: each is another person's").WithReason(ReasonLinkProof)
	}
	_, other, found, err := s.loginOf(ctx, op, account, id)
	if errs.Is(errs.Unauthenticated, err) || err == nil && (!found || other.Disabled) {
		return Login{}, noProof(op)
	}
	if err != nil {
		return Login{}, err
	}
	if err := s.linksAllowed(ctx, op, other); err != nil {
		return Login{}, err
	}
	// What would be refused below is refused before codes are used up for it.
	if row, err := s.readSession(ctx, account, id); err != nil || !row.fresh(s.now()) {
		if err != nil && !errors.Is(err, errOver) {
			return Login{}, fail(op, err)
		}
		return Login{}, noProof(op)
	}
	ends := [2]LinkEnd{{Ref: own.ref()}, {Ref: other.ref()}}
	if ends[0].ByProvider, err = s.prove(ctx, proving{op: op, path: "proof", login: own, besides: by.Session, factor: true, from: from}, want.own); err != nil {
		return Login{}, err
	}
	if ends[1].ByProvider, err = s.prove(ctx, proving{op: op, path: "linked_proof", login: other, besides: id, from: from}, want.other); err != nil {
		return Login{}, err
	}
	// The session is used up before what it proves is recorded: it links once, or not at all.
	err = s.useSession(ctx, op, other, id, secret, func(sessionRow) bool { return true })
	s.tellEndsNow(ctx, other.ID)
	if errors.Is(err, errOver) {
		return Login{}, noProof(op)
	}
	if err != nil {
		return Login{}, err
	}
	if err := s.directory.Link(ctx, by.Actor, ends[0], ends[1]); err != nil {
		return Login{}, errs.Wrap(op, "", err)
	}
	// Whoever sets the login's credentials ends its sessions first, and then the links that there are:
	// one that was being made meanwhile ends here.
	if row, err := s.readSession(ctx, by.Account, by.Session); err != nil || !row.good(s.now()) {
		if err == nil || errors.Is(err, errOver) {
			err = over()
		}
		return Login{}, errors.Join(fail(op, err), errs.Wrap(op, "", s.directory.Unlink(ctx, by.Actor, own.ref(), other.ref())))
	}
	return other, nil
}

// mayLink is the caller's login, where a link may be made of it now.
func (s *Service) mayLink(ctx context.Context, op string, by authn.Caller) (Login, error) {
	row, err := s.readSession(ctx, by.Account, by.Session)
	if err != nil && !errors.Is(err, errOver) {
		return Login{}, fail(op, err)
	}
	own, found, dirErr := s.directory.Login(ctx, by.Account, by.Login)
	switch {
	case dirErr != nil:
		return own, errs.Wrap(op, "", dirErr)
	case err != nil || !found || own.Disabled || row.login != own.ID || row.disablings != own.Disablings || !row.good(s.now()):
		return own, over()
	case row.switched():
		return own, errs.New(errs.Precondition, op, "", "this session was switched to: sign in to this login itself, then link").WithReason(ReasonSwitchedSession)
	}
	return own, s.linksAllowed(ctx, op, own)
}

func (s *Service) linksAllowed(ctx context.Context, op string, l Login) error {
	rules, _, err := s.policies.Load(ctx, policySubject(l.Account))
	switch {
	case err != nil:
		return errs.Wrap(op, "", err)
	case rules.linksForbidden:
		return errs.New(errs.Denied, op, "login "+l.ID.String(), "its account does not allow links with other accounts' logins").WithReason(ReasonLinksForbidden)
	case len(l.Links) >= maxLinks:
		return errs.New(errs.Precondition, op, "login "+l.ID.String(), fmt.Sprintf("it has %d links already: end one first", maxLinks))
	}
	return nil
}

// useSession ends a session whose refresh token was shown, where that was signed in to a moment ago
// and is such as is wanted; errOver where it is not. Of two who show one, one succeeds.
func (s *Service) useSession(ctx context.Context, op string, l Login, id contract.ID, secret []byte, wanted func(sessionRow) bool) error {
	now, proved := s.now(), false
	err := s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) error {
		row, err := lockSession(ctx, tx, id)
		if err != nil {
			return err
		}
		if !row.fresh(now) || row.login != l.ID || row.disablings != l.Disablings || !wanted(row) {
			return errOver
		}
		hash := credential.HashOf(secret)
		var used *time.Time
		if err := tx.QueryRow(ctx, "SELECT used FROM refresh_token WHERE hash = $1 AND session_id = $2", hash[:], [16]byte(id)).Scan(&used); err != nil {
			return noRows(err)
		}
		if used != nil {
			return endOne(ctx, tx, id, now, identityv1.SessionEnd_SESSION_END_TOKEN_REUSED, "")
		}
		proved = true
		return endOne(ctx, tx, id, now, identityv1.SessionEnd_SESSION_END_LINKED, l.actor())
	})
	if err == nil && !proved {
		err = errOver
	}
	if errors.Is(err, errOver) {
		return err
	}
	return fail(op, err)
}

// unlink ends a link, then what came of it, in both directions.
func (s *Service) unlink(ctx context.Context, actor string, one, other Ref) error {
	const op = "identity.UnlinkLogin"
	if err := s.directory.Unlink(ctx, actor, one, other); err != nil {
		return errs.Wrap(op, "", err)
	}
	_, err := s.secrets.Projector.Exec(ctx, `UPDATE session SET ended = $5, reason = $6, actor = $7 WHERE ended IS NULL AND (
			origin_account_id = $1 AND origin_login_id = $2 AND account_id = $3 AND login_id = $4 OR
			origin_account_id = $3 AND origin_login_id = $4 AND account_id = $1 AND login_id = $2)`,
		[16]byte(one.Account), [16]byte(one.Login), [16]byte(other.Account), [16]byte(other.Login), s.now(), int32(identityv1.SessionEnd_SESSION_END_ORIGIN_ENDED), actor)
	if err != nil {
		return fail(op, err)
	}
	s.tellEndsNow(ctx, one.Login)
	s.tellEndsNow(ctx, other.Login)
	return nil
}

// unlinkAll is for a login whose credentials somebody else sets: who can sign in as it from now
// on must not come into other accounts by it.
func (s *Service) unlinkAll(ctx context.Context, op, actor string, account, login contract.ID) error {
	l, found, err := s.directory.Login(ctx, account, login)
	if err != nil || !found {
		return errs.Wrap(op, "", err)
	}
	for _, other := range l.Links {
		// Not there any more: somebody ends it at the same time.
		if err := s.unlink(ctx, actor, l.ref(), other); err != nil && !errs.Is(errs.NotFound, err) {
			return err
		}
	}
	return nil
}

// linked lists the caller's links, as the log has them.
func (s *Service) linked(ctx context.Context, by authn.Caller) ([]*identityv1.LinkedLogin, error) {
	const op = "identity.ListLinkedLogins"
	if err := signedIn(op, by); err != nil {
		return nil, err
	}
	own, found, err := s.directory.Login(ctx, by.Account, by.Login)
	if err != nil || !found {
		return nil, errs.Wrap(op, "", err)
	}
	var list []*identityv1.LinkedLogin
	for _, to := range own.Links {
		e, err := s.judgeSwitch(ctx, op, authn.TokenOrigin{Account: by.Account, Login: by.Login, Session: by.Session}, to, false)
		if err != nil {
			return nil, err
		}
		if e.to.ID.IsZero() {
			if e.to, _, err = s.directory.Login(ctx, to.Account, to.Login); err != nil {
				return nil, errs.Wrap(op, "", err)
			}
		}
		list = append(list, linkMessage(to, e.to, e.refusal))
	}
	return list, nil
}

func linkMessage(to Ref, l Login, refusal string) *identityv1.LinkedLogin {
	return &identityv1.LinkedLogin{
		AccountId: to.Account.String(), LoginId: to.Login.String(), AccountName: l.AccountName, LoginName: l.Name, Refusal: refusal,
	}
}

// linkAPI serves cetrus.identity.v1.LinkService.
type linkAPI struct {
	identityv1.UnimplementedLinkServiceServer
	service *Service
}

func (a *linkAPI) LinkLogin(ctx context.Context, req *identityv1.LinkLoginRequest) (*identityv1.LinkLoginResponse, error) {
	const op = "identity.LinkLogin"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	want := linking{refreshToken: req.GetRefreshToken()}
	if want.own, err = anewOf(op, "proof", req.GetProof()); err != nil {
		return nil, err
	}
	if want.other, err = anewOf(op, "linked_proof", req.GetLinkedProof()); err != nil {
		return nil, err
	}
	other, err := a.service.linkLogin(ctx, by, want, authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	return &identityv1.LinkLoginResponse{LinkedLogin: linkMessage(other.ref(), other, "")}, nil
}

func (a *linkAPI) ListLinkedLogins(ctx context.Context, _ *identityv1.ListLinkedLoginsRequest) (*identityv1.ListLinkedLoginsResponse, error) {
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	list, err := a.service.linked(ctx, by)
	return &identityv1.ListLinkedLoginsResponse{LinkedLogins: list}, err
}

func refOf(op, account, login string) (r Ref, err error) {
	if r.Account, err = resource.ParseID(op, "account_id", account); err == nil {
		r.Login, err = resource.ParseID(op, "login_id", login)
	}
	return r, err
}

func (a *linkAPI) UnlinkLogin(ctx context.Context, req *identityv1.UnlinkLoginRequest) (*identityv1.UnlinkLoginResponse, error) {
	const op = "identity.UnlinkLogin"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := signedIn(op, by); err != nil {
		return nil, err
	}
	other, err := refOf(op, req.GetAccountId(), req.GetLoginId())
	if err != nil {
		return nil, err
	}
	return &identityv1.UnlinkLoginResponse{}, a.service.unlink(ctx, by.Actor, Ref{by.Account, by.Login}, other)
}

func (a *linkAPI) SwitchAccount(ctx context.Context, req *identityv1.SwitchAccountRequest) (*identityv1.SwitchAccountResponse, error) {
	const op = "identity.SwitchAccount"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	to, err := refOf(op, req.GetAccountId(), req.GetLoginId())
	if err != nil {
		return nil, err
	}
	begun, err := a.service.switchTo(ctx, by, to, authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	return &identityv1.SwitchAccountResponse{Tokens: begun.tokens, Session: begun.session}, nil
}
