package console

import (
	"bytes"
	"encoding/base64"
	"html/template"
	"image/png"
	"net/http"
	"net/url"
	"strings"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/qr"
	"google.golang.org/grpc/codes"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	maxSignInBytes = 16 << 10
	qrPixels       = 240
)

// signInForm is the first page of a sign-in.
type signInForm struct {
	// Next is where the person wanted to go.
	Next string
}

// signInMore is what a sign-in asks for beside what stands in the form, or why it failed. It
// takes the place of what it asked before; the form keeps what was typed, in the browser alone.
type signInMore struct {
	Refused                string
	SecondFactor, Password bool
	// Secret and Picture are for an authenticator program.
	Secret  string
	Picture template.URL
	// RecoveryCodes are shown once; Next is where it goes on from there.
	RecoveryCodes []string
	Next          string
}

// nextAfter is a page of the console, whatever somebody has written into a link.
func nextAfter(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, `\`) {
		return "/"
	}
	for i := range pages {
		list, _, _ := strings.Cut(pages[i].path, "{")
		if u.Path == pages[i].path || list != pages[i].path && strings.HasPrefix(u.Path, list) {
			return u.RequestURI()
		}
	}
	return "/"
}

func (s *Service) signInPage(w http.ResponseWriter, r *http.Request) {
	next := nextAfter(r.URL.Query().Get("next"))
	if _, _, err := s.enter(w, r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther) //nolint:gosec // nextAfter leads to pages of the console alone, which is fuzzed
		return
	}
	s.write(&visit{ctx: r.Context(), w: w, r: r}, http.StatusOK, "sign-in", "Sign in", signInForm{Next: next})
}

// signInStep tries what was typed so far, and asks for more.
func (s *Service) signInStep(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: asking(r, ""), w: w, r: r}
	r.Body = http.MaxBytesReader(w, r.Body, maxSignInBytes)
	if err := r.ParseForm(); err != nil {
		s.fail(v, errs.As(errs.Invalid, "console.SignIn", "", "the form could not be read", err))
		return
	}
	next := nextAfter(r.PostForm.Get("next"))
	// What is no text cannot be asked for.
	typed := func(name string) string { return strings.ToValidUTF8(r.PostForm.Get(name), "\uFFFD") }
	answer, err := s.signIn.SignIn(v.ctx, &identityv1.SignInRequest{
		AccountName: typed("account"), LoginName: typed("login"), Password: typed("password"),
		SecondFactor: strings.TrimSpace(typed("second-factor")), NewPassword: typed("new-password"),
	})
	more := signInMore{Next: next}
	if err != nil {
		st := statusOf(err)
		more.Refused = st.Message()
		if st.Code() == codes.Internal || st.Code() == codes.Unknown { // said in the form: htmx shows no page of an error
			s.deps.Logger.ErrorContext(v.ctx, "a sign-in failed", "error", err)
			more.Refused = insideWrong + ". " + seeLog
		}
		// What had been asked for is asked for still.
		more.SecondFactor, more.Password = r.PostForm.Has("second-factor"), r.PostForm.Has("new-password")
		s.more(v, more)
		return
	}
	switch answer.GetOutcome() {
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN:
		keep(w, r, answer.GetTokens())
		if more.RecoveryCodes = answer.GetRecoveryCodes(); len(more.RecoveryCodes) == 0 {
			w.Header().Set("Hx-Redirect", next)
			return
		}
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED:
		more.SecondFactor = true
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_ENROLMENT_NEEDED:
		more.SecondFactor = true
		if more.Secret, more.Picture, err = authenticator(answer.GetEnrolment().GetUri()); err != nil {
			s.fail(v, err)
			return
		}
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_NEW_PASSWORD_NEEDED:
		more.SecondFactor, more.Password = r.PostForm.Has("second-factor"), true
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_UNSPECIFIED:
		more.Refused = "this sign-in asks for something that this version of the console does not know"
	}
	s.more(v, more)
}

func (s *Service) more(v *visit, more signInMore) {
	var out bytes.Buffer
	if err := s.templates["sign-in"].ExecuteTemplate(&out, "more", more); err != nil {
		s.fail(v, err)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = v.w.Write(out.Bytes()) // the browser is gone where this fails
}

// authenticator is what an authenticator program takes: a secret to type, and a picture to scan.
func authenticator(uri string) (secret string, picture template.URL, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", "", errs.As(errs.Internal, "console.authenticator", "", "the enrolment is no address", err)
	}
	code, err := qr.Encode(uri, qr.M, qr.Auto)
	if err == nil {
		code, err = barcode.Scale(code, qrPixels, qrPixels)
	}
	var out bytes.Buffer
	if err == nil {
		err = png.Encode(&out, code)
	}
	if err != nil {
		return "", "", errs.As(errs.Internal, "console.authenticator", "", "no picture could be made", err)
	}
	//nolint:gosec // a picture made here
	return u.Query().Get("secret"), template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(out.Bytes())), nil
}

// signOut ends the session, and forgets it in the browser whatever the service says.
func (s *Service) signOut(w http.ResponseWriter, r *http.Request) {
	if refresh := cookieOf(r, refreshCookie); refresh != "" {
		if _, err := s.signIn.SignOut(asking(r, ""), &identityv1.SignOutRequest{RefreshToken: refresh}); err != nil {
			s.deps.Logger.WarnContext(r.Context(), "a session could not be ended at sign-out", "error", err)
		}
	}
	keep(w, r, nil)
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}
