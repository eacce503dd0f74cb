package console

import (
	"bytes"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// homeLife bounds how long a browser keeps the session that somebody has switched from; identity
// knows how long it lasts.
const homeLife = 30 * 24 * time.Hour

// linkedAccount is one account to be in.
type linkedAccount struct {
	AccountID, LoginID string
	Account, Login     string
	// Here marks the one that the page is of, Home the one that was signed in to.
	Here, Home bool
	// Refusal says why it cannot be switched to now.
	Refusal string
}

// signedInTo is the session that links count from: who has switched switches on from the one that they
// signed in to.
func (s *Service) signedInTo(v *visit) (caller authn.Caller, tokens *identityv1.Tokens, away bool, err error) {
	if cookieOf(v.r, home.refresh) == "" {
		return v.caller, v.tokens, false, nil
	}
	caller, tokens, err = s.enterBy(v.w, v.r, home)
	return caller, tokens, true, err
}

// switchMenu is the part of the frame's menu that leads to other accounts; it is asked for when the
// menu is opened.
func (s *Service) switchMenu(v *visit) {
	caller, tokens, away, err := s.signedInTo(v)
	if err != nil {
		s.fail(v, err)
		return
	}
	ctx := asking(v.r, tokens.GetAccessToken())
	answer, err := s.links.ListLinkedLogins(ctx, &identityv1.ListLinkedLoginsRequest{})
	if err != nil {
		s.fail(v, err)
		return
	}
	var list []linkedAccount
	if len(answer.GetLinkedLogins()) > 0 || away {
		own := linkedAccount{AccountID: caller.Account.String(), LoginID: caller.Login.String(), Home: true, Here: !away}
		own.Login, own.Account = s.names(&visit{ctx: ctx, r: v.r})
		list = append(list, own)
	}
	for _, l := range answer.GetLinkedLogins() {
		list = append(list, linkedAccount{
			AccountID: l.GetAccountId(), LoginID: l.GetLoginId(), Account: l.GetAccountName(), Login: l.GetLoginName(),
			Here: l.GetAccountId() == v.caller.Account.String() && l.GetLoginId() == v.caller.Login.String(), Refusal: refusalOf(l.GetRefusal()),
		})
	}
	var out bytes.Buffer
	if err := s.render(&out, v.r, "switch", "switch", list); err != nil {
		s.fail(v, err)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = v.w.Write(out.Bytes()) // the browser is gone where this fails
}

// refusalOf says shortly what a reason of SwitchAccount means; the whole is said by whoever tries.
func refusalOf(reason string) string {
	switch reason {
	case "":
		return ""
	case "SECOND_FACTOR_NEEDED":
		return "asks for a second factor: sign in with one"
	case "SIGN_IN_TOO_OLD":
		return "asks for a newer sign-in"
	case "SINGLE_SIGN_ON_REQUIRED", "OTHER_IDENTITY_PROVIDER":
		return "asks for its own single sign-on"
	case "LINKS_FORBIDDEN":
		return "forbids links"
	case "LOGIN_UNAVAILABLE":
		return "the login is disabled or gone"
	}
	return "cannot be switched to now"
}

// switchAccount goes on in another account without a sign-in.
func (s *Service) switchAccount(v *visit) {
	form, ok := s.readSignIn(v)
	if !ok {
		return
	}
	caller, tokens, away, err := s.signedInTo(v)
	if err != nil {
		s.fail(v, err)
		return
	}
	to := &identityv1.SwitchAccountRequest{AccountId: form.Get("account-id"), LoginId: form.Get("login-id")}
	goesHome := to.GetAccountId() == caller.Account.String() && to.GetLoginId() == caller.Login.String()
	var switched *identityv1.Tokens
	if !goesHome {
		answer, err := s.links.SwitchAccount(asking(v.r, tokens.GetAccessToken()), to)
		if err != nil {
			if statusOf(err).Code() == codes.Unauthenticated {
				s.toSignIn(v.w, v.r)
				return
			}
			s.fail(v, err)
			return
		}
		switched = answer.GetTokens()
	}
	if away { // the session that is left is nobody's any more
		if _, err := s.signIn.SignOut(asking(v.r, ""), &identityv1.SignOutRequest{RefreshToken: v.tokens.GetRefreshToken()}); err != nil {
			s.deps.Logger.WarnContext(v.ctx, "a session that was switched from could not be ended", "error", err)
		}
	}
	if tokens.GetAccessTokenExpireTime() == nil {
		until := timestamppb.New(s.deps.Now().Add(homeLife))
		tokens = &identityv1.Tokens{AccessToken: tokens.GetAccessToken(), RefreshToken: tokens.GetRefreshToken(), AccessTokenExpireTime: until, RefreshTokenExpireTime: until}
	}
	if goesHome {
		begin(v.w, v.r, tokens)
	} else {
		keep(v.w, v.r, current, switched)
		keep(v.w, v.r, home, tokens)
	}
	http.Redirect(v.w, v.r, "/", http.StatusSeeOther)
}
