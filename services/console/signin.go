package console

import (
	"bytes"
	"encoding/base64"
	"html/template"
	"image/png"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/qr"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// typedParameter has the sign-in say that what was typed is kept.
	typedParameter = "typed"
	// maxSignInBytes has room for what an authenticator signs.
	maxSignInBytes = 64 << 10
	qrPixels       = 240
)

// signInForm is the first page of a sign-in.
type signInForm struct {
	// Next is where the person wanted to go.
	Next string
	// Chosen says that a password was chosen a moment ago, Typed that a form is kept which was sent too late.
	Chosen, Typed bool
	More          signInMore
}

// signInMore is what a sign-in asks for beside what stands in the form, or why it failed. It
// takes the place of what it asked before; the form keeps what was typed, in the browser alone.
type signInMore struct {
	Refused                string
	SecondFactor, Password bool
	// RecoveryOnly says that of what can be typed a recovery code alone would do.
	RecoveryOnly bool
	// Secret and Picture are for an authenticator program.
	Secret  string
	Picture template.URL
	// Challenge is for a passkey, that is to be used or, where Makes is set, made.
	Challenge string
	Makes     bool
	// Passkey is the answer to one, where more is asked for beside it.
	Passkey string
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
	for i := range actions {
		if ok, err := path.Match(wild.Replace(actions[i].path), u.Path); ok && err == nil {
			return u.RequestURI()
		}
	}
	return "/"
}

// wild makes a pattern of an address's.
var wild = strings.NewReplacer("{id}", "*", "{key}", "*", "{token}", "*")

func (s *Service) signInPage(w http.ResponseWriter, r *http.Request) {
	next := nextAfter(r.URL.Query().Get("next"))
	if _, _, err := s.enter(w, r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther) //nolint:gosec // nextAfter leads to pages of the console alone, which is fuzzed
		return
	}
	s.write(&visit{ctx: r.Context(), w: w, r: r}, http.StatusOK, "sign-in", "Sign in", signInForm{Next: next, Chosen: r.URL.Query().Has("chosen"), Typed: r.URL.Query().Has(typedParameter)})
}

// texts are values that can be asked for: what is no text becomes one.
func texts(values url.Values) url.Values {
	for _, all := range values {
		for i := range all {
			all[i] = strings.ToValidUTF8(all[i], "\uFFFD")
		}
	}
	return values
}

// said is what the person is told of an error, in the form: htmx shows no page of one.
func (s *Service) said(v *visit, err error) string {
	st := statusOf(err)
	if st.Code() == codes.Internal || st.Code() == codes.Unknown {
		s.deps.Logger.ErrorContext(v.ctx, "a sign-in failed", "path", v.r.URL.Path, "error", err)
		return insideWrong + ". " + seeLog
	}
	wrong := violations(st)
	if len(wrong) == 0 {
		return st.Message()
	}
	var all []string
	for _, of := range wrong { // as the fields of the form are called
		name, ok := map[string]string{"new_password": "the new password will not do", "account_name": "account", "login_name": "login", "second_factor": "code"}[of.GetField()]
		if !ok {
			name = of.GetField()
		}
		all = append(all, name+": "+of.GetDescription())
	}
	return strings.Join(all, "; ")
}

// begin has the browser hold the tokens of a session that somebody signed in to, and none of another.
func begin(w http.ResponseWriter, r *http.Request, tokens *identityv1.Tokens) {
	keep(w, r, current, tokens)
	keep(w, r, home, nil)
}

// challenge gives a browser what a passkey signs, where nobody has said who they are.
func (s *Service) challenge(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: asking(r, ""), w: w, r: r}
	answer, err := s.passkeys.BeginPasskeySignIn(v.ctx, &identityv1.BeginPasskeySignInRequest{})
	var text string
	if err == nil {
		text, err = challengeText(answer.GetChallenge())
	}
	if err != nil {
		http.Error(w, s.said(v, err), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, text) // the browser is gone where this fails
}

// challengeText is a challenge as the page's script reads it.
func challengeText(c *identityv1.PasskeyChallenge) (string, error) {
	if c == nil {
		return "", nil
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(c)
	return string(text), err
}

// proofOf is what the page's script has sent of a passkey; nil where it sent none.
func proofOf(text string) (*identityv1.PasskeyProof, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // none is no error
	}
	proof := &identityv1.PasskeyProof{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), proof); err != nil {
		return nil, errs.As(errs.Invalid, "console.SignIn", "", "what the browser sent of the passkey could not be read", err)
	}
	return proof, nil
}

// try asks for a session with all that the form holds.
func (s *Service) try(v *visit, form url.Values) (*identityv1.SignInResponse, error) {
	proof, err := proofOf(form.Get("passkey"))
	if err != nil {
		return nil, err
	}
	if proof != nil && form.Get("alone") != "" {
		answer, err := s.passkeys.SignInWithPasskey(v.ctx, &identityv1.SignInWithPasskeyRequest{Passkey: proof})
		return answer.GetSignIn(), err
	}
	return s.signIn.SignIn(v.ctx, &identityv1.SignInRequest{
		AccountName: form.Get("account"), LoginName: form.Get("login"), Password: form.Get("password"),
		SecondFactor: strings.TrimSpace(form.Get("second-factor")), NewPassword: form.Get("new-password"), Passkey: proof,
	})
}

// signInStep tries what was typed so far, and asks for more.
func (s *Service) signInStep(w http.ResponseWriter, r *http.Request) {
	v := &visit{ctx: asking(r, ""), w: w, r: r}
	form, ok := s.readSignIn(v)
	if !ok {
		return
	}
	next := nextAfter(form.Get("next"))
	more := signInMore{Next: next}
	answer, err := s.try(v, form)
	if err != nil {
		more.Refused = s.said(v, err)
		// What had been asked for is asked for still.
		more.SecondFactor, more.Password, more.RecoveryOnly = form.Has("second-factor"), form.Has("new-password"), form.Has("recovery-only")
		if more.Password {
			more.Passkey = form.Get("passkey")
			more.SecondFactor = more.SecondFactor && more.Passkey == ""
		}
		s.more(v, more)
		return
	}
	if more.Challenge, err = challengeText(answer.GetPasskeyChallenge()); err != nil {
		s.fail(v, err)
		return
	}
	switch answer.GetOutcome() {
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN:
		begin(w, r, answer.GetTokens())
		if more.RecoveryCodes = answer.GetRecoveryCodes(); len(more.RecoveryCodes) == 0 {
			w.Header().Set("Hx-Redirect", next)
			return
		}
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED:
		more.SecondFactor, more.RecoveryOnly = true, !answer.GetTakesTotp()
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_ENROLMENT_NEEDED:
		more.SecondFactor, more.Makes = true, true
		if more.Secret, more.Picture, err = authenticator(answer.GetEnrolment().GetUri()); err != nil {
			s.fail(v, err)
			return
		}
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_NEW_PASSWORD_NEEDED:
		more.Passkey, more.Password = form.Get("passkey"), true
		more.SecondFactor = form.Has("second-factor") && more.Passkey == ""
	case identityv1.SignInOutcome_SIGN_IN_OUTCOME_UNSPECIFIED:
		more.Refused = "this sign-in asks for something that this version of the console does not know"
	}
	s.more(v, more)
}

func (s *Service) more(v *visit, more signInMore) {
	var out bytes.Buffer
	if err := s.render(&out, v.r, "sign-in", "more", more); err != nil {
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

// signOut ends the session, and the one that it was switched from with all that came of it; and
// forgets them in the browser whatever the service says.
func (s *Service) signOut(w http.ResponseWriter, r *http.Request) {
	for _, names := range []cookieNames{current, home} {
		if refresh := cookieOf(r, names.refresh); refresh != "" {
			if _, err := s.signIn.SignOut(asking(r, ""), &identityv1.SignOutRequest{RefreshToken: refresh}); err != nil {
				s.deps.Logger.WarnContext(r.Context(), "a session could not be ended at sign-out", "error", err)
			}
		}
	}
	begin(w, r, nil)
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}
