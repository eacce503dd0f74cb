package console

import (
	"net/http"
	"net/url"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Where mailed links lead; services/platform/mail has the same.
const (
	resetPath  = "/reset-password"
	invitePath = "/accept-invitation"
)

// forgotten is the page that has a link mailed.
type forgotten struct {
	// Sent says that it was asked for; not whether there is such a login, which is nobody's to know.
	Sent                    bool
	Account, Login, Refused string
}

func (s *Service) forgottenPage(w http.ResponseWriter, r *http.Request) {
	s.write(&visit{ctx: r.Context(), w: w, r: r}, http.StatusOK, "forgotten-password", "Forgotten password", forgotten{Sent: r.URL.Query().Has("sent")})
}

func (s *Service) askForLink(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: asking(r, ""), w: w, r: r}
	form, ok := s.readSignIn(v)
	if !ok {
		return
	}
	typed := forgotten{Account: form.Get("account"), Login: form.Get("login")}
	if _, err := s.signIn.RequestPasswordReset(v.ctx, &identityv1.RequestPasswordResetRequest{AccountName: typed.Account, LoginName: typed.Login}); err != nil {
		typed.Refused = s.said(v, err)
		s.write(v, http.StatusBadRequest, "forgotten-password", "Forgotten password", typed)
		return
	}
	http.Redirect(w, r, "/forgotten-password?sent", http.StatusSeeOther)
}

// choosing is the page behind a mailed link. Its script takes the link's secret out of the address.
type choosing struct {
	// First says that the login has had none so far.
	First                bool
	Path, Token, Refused string
}

func (s *Service) choosingPage(w http.ResponseWriter, r *http.Request) {
	s.choose(&visit{ctx: r.Context(), w: w, r: r}, http.StatusOK, choosing{Token: r.URL.Query().Get("token")})
}

func (s *Service) choose(v *visit, httpStatus int, c choosing) {
	c.Path, c.First = v.r.URL.Path, v.r.URL.Path == invitePath
	s.write(v, httpStatus, "choose-password", "Choose a password", c)
}

func (s *Service) setPassword(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: asking(r, ""), w: w, r: r}
	form, ok := s.readSignIn(v)
	if !ok {
		return
	}
	c := choosing{Token: form.Get("token")}
	if form.Get("password") != form.Get("again") {
		c.Refused = "the two passwords are not the same"
		s.choose(v, http.StatusBadRequest, c)
		return
	}
	if _, err := s.signIn.CompletePasswordReset(v.ctx, &identityv1.CompletePasswordResetRequest{Token: c.Token, NewPassword: form.Get("password")}); err != nil {
		c.Refused = s.said(v, err)
		s.choose(v, http.StatusBadRequest, c)
		return
	}
	// Whoever was signed in here is not any more.
	begin(w, r, nil)
	http.Redirect(w, r, "/sign-in?chosen", http.StatusSeeOther)
}

// readSignIn reads a form of somebody who is not signed in; ok is false where that was answered.
// What is no text cannot be asked for.
func (s *Service) readSignIn(v *visit) (form url.Values, ok bool) {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxSignInBytes)
	if err := v.r.ParseForm(); err != nil {
		s.fail(v, errs.As(errs.Invalid, "console.SignIn", "", "the form could not be read", err))
		return nil, false
	}
	return texts(v.r.PostForm), true
}
