package console

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// maxKeptNext bounds the address that is kept beside an attempt: cookies have 4 KiB.
const maxKeptNext = 1024

// beginSingleSignOn sends the browser to the account's identity provider. It is told so in a header
// that htmx follows: a form that was sent may lead to no other host, by the policy.
func (s *Service) beginSingleSignOn(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: asking(r, ""), w: w, r: r}
	form, ok := s.readSignIn(v)
	if !ok {
		return
	}
	next, name := nextAfter(form.Get("next")), strings.TrimSpace(form.Get("account"))
	if name == "" {
		s.more(v, signInMore{Refused: "type the name of your account first"})
		return
	}
	started, err := s.sso.StartSingleSignOn(v.ctx, &identityv1.StartSingleSignOnRequest{AccountName: name})
	if err != nil {
		s.more(v, signInMore{Refused: s.said(v, err)})
		return
	}
	back, err := url.Parse(started.GetRedirectUrl())
	if err != nil {
		s.more(v, signInMore{Refused: s.said(v, errs.Wrap("console.SingleSignOn", "", err))})
		return
	}
	if back.Host != r.Host { // the browser would come back there, and have kept nothing for it
		s.more(v, signInMore{Refused: "single sign-on begins at " + back.Scheme + "://" + back.Host + "/: open Cetrus there"})
		return
	}
	life := max(int(time.Until(started.GetExpireTime().AsTime())/time.Second), 1)
	keepAttempt(w, back.Scheme == "https", attemptOf(next, started.GetBrowserKey()), life)
	w.Header().Set("Hx-Redirect", started.GetAuthorizationUrl())
}

// attemptOf is what the browser keeps of an attempt: where the person wanted to go, and what proves that
// it began it.
func attemptOf(next, browserKey string) string {
	if len(next) > maxKeptNext {
		next = "/"
	}
	return rpc.ConsoleAttempt(base64.RawURLEncoding.EncodeToString([]byte(next)) + "." + browserKey)
}

// readAttempt reads it again; ok is false where it is none of the console's.
func readAttempt(cookie string) (next, browserKey string, ok bool) {
	kept, ok := rpc.OfConsoleAttempt(cookie)
	where, browserKey, _ := strings.Cut(kept, ".")
	text, _ := base64.RawURLEncoding.DecodeString(where) // what is none leads to the first page
	return nextAfter(string(text)), browserKey, ok
}

// keepAttempt has the browser keep what binds an attempt to it, or with a negative age lose it. Lax,
// since the browser comes back from another site.
func keepAttempt(w http.ResponseWriter, secure bool, value string, maxAgeSeconds int) {
	name := rpc.AttemptCookiePlain
	if secure {
		name = rpc.AttemptCookie
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // not Secure only where the whole platform is reached in plain, on one machine
		Name: name, Value: value, Path: "/", MaxAge: maxAgeSeconds, Secure: secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// endSingleSignOn takes a browser that comes back from the identity provider.
func (s *Service) endSingleSignOn(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: asking(r, ""), w: w, r: r}
	// An attempt has one end, however it goes.
	keepAttempt(w, true, "", -1)
	keepAttempt(w, false, "", -1)
	query := r.URL.Query()
	in := &identityv1.CompleteSingleSignOnRequest{
		AccountId: r.PathValue("account_id"), State: query.Get("state"), Code: query.Get("code"), Issuer: query.Get("iss"), Error: query.Get("error"),
	}
	next := "/"
	for _, name := range []string{rpc.AttemptCookie, rpc.AttemptCookiePlain} {
		cookie, err := r.Cookie(name)
		if err != nil || in.GetBrowserKey() != "" {
			continue
		}
		if where, key, ok := readAttempt(cookie.Value); ok {
			next, in.BrowserKey, in.PlainCookie = where, key, name == rpc.AttemptCookiePlain
		}
	}
	done, err := s.sso.CompleteSingleSignOn(v.ctx, in)
	if err == nil && done.GetSignIn().GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN {
		err = errs.New(errs.Internal, "console.SingleSignOn", "", "a single sign-on ended with "+done.GetSignIn().GetOutcome().String())
	}
	if err != nil {
		status := http.StatusUnauthorized
		if statusOf(err).Code() == codes.Unavailable {
			status = http.StatusServiceUnavailable
		}
		s.write(v, status, "sign-in", "Sign in", signInForm{Next: next, More: signInMore{Refused: s.said(v, err)}})
		return
	}
	begin(w, r, done.GetSignIn().GetTokens())
	http.Redirect(w, r, next, http.StatusSeeOther) //nolint:gosec // nextAfter leads to pages of the console alone, which is fuzzed
}
