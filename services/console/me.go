package console

import (
	"fmt"
	"net/url"
	"time"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
)

// myActions are what people do with their own login.
var myActions = []action{
	{path: "/me/password", page: "/me", may: anybody, do: (*Service).changePassword},
	{path: "/me/totp", page: "/me", may: anybody, do: (*Service).enrolTotp},
	{path: "/me/totp/confirm", page: "/me", may: anybody, do: (*Service).confirmTotp},
	{path: "/me/totp/remove", may: anybody, do: (*Service).removeTotp, confirm: (*Service).confirmRemoveTotp},
	{path: "/me/recovery-codes", page: "/me", may: anybody, do: (*Service).renewRecoveryCodes},
	{path: "/me/passkeys", page: "/me", may: anybody, do: (*Service).registerPasskey},
	{path: "/me/passkeys/{id}", page: "/me", may: anybody, do: (*Service).renamePasskey},
	{path: "/me/passkeys/{id}/remove", may: anybody, do: (*Service).removePasskey, confirm: (*Service).confirmRemovePasskey},
	{path: "/me/end-sessions", page: "/me", may: anybody, do: (*Service).endMySessions},
}

// mePage is somebody's own login.
type mePage struct {
	Zone                     *time.Location
	Login                    *identityv1.Login
	SecondFactor             *identityv1.SecondFactor
	Passkeys                 []passkeyLine
	Sessions                 []*identityv1.Session
	Password, Enrol, Confirm *form
	Codes, Register, End     *form
	// Confirming says that an enrolment waits for a code.
	Confirming bool
	Privileges []string
}

// passkeyLine is a passkey with the form for its name.
type passkeyLine struct {
	*identityv1.Passkey
	Rename *form
}

func (s *Service) me(v *visit) (any, error) {
	zone, err := s.zoneFor(v)
	if err != nil {
		return nil, err
	}
	mine, err := s.logins.GetMyLogin(v.ctx, &identityv1.GetMyLoginRequest{})
	if err != nil {
		return nil, err
	}
	factor, err := s.signIn.GetSecondFactor(v.ctx, &identityv1.GetSecondFactorRequest{})
	if err != nil {
		return nil, err
	}
	passkeys, err := s.passkeys.ListPasskeys(v.ctx, &identityv1.ListPasskeysRequest{})
	if err != nil {
		return nil, err
	}
	sessions, err := s.signIn.ListSessions(v.ctx, &identityv1.ListSessionsRequest{PageSize: listPageSize})
	if err != nil {
		return nil, err
	}
	page := mePage{
		Zone: zone, Login: mine.GetLogin(), SecondFactor: factor.GetSecondFactor(), Sessions: sessions.GetSessions(),
		Password: v.form("/me/password", nil, ""), Enrol: v.form("/me/totp", nil, ""), Confirm: v.form("/me/totp/confirm", nil, ""),
		Codes: v.form("/me/recovery-codes", nil, ""), Register: v.form("/me/passkeys", url.Values{"display_name": {"Passkey"}}, ""), End: v.form("/me/end-sessions", nil, ""),
		Confirming: v.refused != nil && v.refused.action == "/me/totp/confirm",
	}
	for _, key := range passkeys.GetPasskeys() {
		page.Passkeys = append(page.Passkeys, passkeyLine{key, v.form(of("/me/passkeys", key.GetPasskeyId()), url.Values{"display_name": {key.GetDisplayName()}}, "")})
	}
	for _, c := range privilegeChoices(v.caller.Privileges) {
		page.Privileges = append(page.Privileges, c.Title)
	}
	return page, nil
}

func (s *Service) changePassword(v *visit, f *sent) (outcome, error) {
	_, err := s.signIn.ChangePassword(v.ctx, &identityv1.ChangePasswordRequest{Password: f.secret("password"), NewPassword: f.secret("new_password")})
	return outcome{next: "/me", notice: "Your password is changed, and your other sessions have ended."}, err
}

func (s *Service) enrolTotp(v *visit, f *sent) (outcome, error) {
	answer, err := s.signIn.EnrolTotp(v.ctx, &identityv1.EnrolTotpRequest{Password: f.secret("password")})
	if err != nil {
		return outcome{}, err
	}
	secret, picture, err := authenticator(answer.GetEnrolment().GetUri())
	then := v.form("/me/totp/confirm", nil, "")
	return outcome{next: "/me", once: &once{
		Title: "An authenticator program", Next: "/me", Picture: picture,
		Text:   "Scan this with an authenticator program on your phone, or type the secret into it. Then type the code that it shows: only then it counts.",
		Blocks: []block{{Title: "Secret", Code: secret}},
		Form:   then, Field: then.Field("code", "Code", "required", "max=64", "autocomplete=one-time-code"), Button: "It shows this code",
	}}, err
}

// recovery shows recovery codes.
func recovery(codes []string) *once {
	text := ""
	for _, code := range codes {
		text += code + "\n"
	}
	return &once{
		Title: "Recovery codes", Next: "/me",
		Text:   "These let you in when you have lost your second factor, each once. Print them, or keep them where you keep passwords. Those that you had before are good for nothing.",
		Blocks: []block{{Title: "Recovery codes", Code: text}},
	}
}

func (s *Service) confirmTotp(v *visit, f *sent) (outcome, error) {
	answer, err := s.signIn.ConfirmTotp(v.ctx, &identityv1.ConfirmTotpRequest{Code: f.text("code")})
	done := outcome{next: "/me", notice: "The authenticator program is your second factor now."}
	if codes := answer.GetRecoveryCodes(); len(codes) > 0 {
		done.once = recovery(codes)
	}
	return done, err
}

func (s *Service) confirmRemoveTotp(v *visit) (confirmation, error) {
	f := v.form("/me/totp/remove", nil, "")
	return confirmation{
		Title: "Remove the authenticator program", Text: "Your authenticator program is to be no second factor of yours any more. Your passkeys stay.",
		Consequences: []string{"Without any passkey, your recovery codes go with it, and your password alone lets you in.", "Where your account asks for a second factor, the last one stays."},
		Button:       "Remove it", Back: "/me", Form: f, Fields: []field{f.Field("password", "Your password", "required", "type=password", "autocomplete=current-password")},
	}, nil
}

func (s *Service) removeTotp(v *visit, f *sent) (outcome, error) {
	_, err := s.signIn.RemoveSecondFactor(v.ctx, &identityv1.RemoveSecondFactorRequest{Password: f.secret("password"), KeepPasskeys: true})
	return outcome{next: "/me", notice: "The authenticator program is removed."}, err
}

func (s *Service) renewRecoveryCodes(v *visit, f *sent) (outcome, error) {
	answer, err := s.signIn.RenewRecoveryCodes(v.ctx, &identityv1.RenewRecoveryCodesRequest{Password: f.secret("password")})
	return outcome{next: "/me", once: recovery(answer.GetRecoveryCodes())}, err
}

// endMySessions ends the session that the form names; none: all but this one.
func (s *Service) endMySessions(v *visit, f *sent) (outcome, error) {
	ids := f.all("session_id")
	if len(ids) == 0 {
		sessions, err := s.signIn.ListSessions(v.ctx, &identityv1.ListSessionsRequest{PageSize: 1000})
		if err != nil {
			return outcome{}, err
		}
		for _, one := range sessions.GetSessions() {
			if !one.GetCurrent() {
				ids = append(ids, one.GetSessionId())
			}
		}
	}
	for _, id := range ids {
		if _, err := s.signIn.EndSession(v.ctx, &identityv1.EndSessionRequest{SessionId: id}); err != nil {
			return outcome{}, err
		}
	}
	return outcome{next: "/me", notice: fmt.Sprintf("Ended: %d.", len(ids))}, nil
}
