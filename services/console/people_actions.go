package console

import (
	"fmt"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// their is the page of the login that an action is about.
func their(v *visit) string { return of("/people", v.r.PathValue("id")) }

func (s *Service) updateLogin(v *visit, f *sent) (outcome, error) {
	_, err := s.logins.UpdateLogin(v.ctx, &identityv1.UpdateLoginRequest{
		Login: &identityv1.Login{
			LoginId: v.r.PathValue("id"), Name: f.text("name"), DisplayName: f.text("display_name"), MailAddress: f.text("mail_address"),
			Privileges: privilegesIn(f), GroupIds: f.all("group_ids"), DeniedApplicationIds: f.all("denied_application_ids"), Etag: f.etag(),
		},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"name", "display_name", "mail_address", "privileges", "group_ids", "denied_application_ids"}},
		RequestId:  f.requestID,
	})
	return outcome{next: their(v), notice: "The login is changed."}, err
}

func (s *Service) confirmOneTimePassword(v *visit) (confirmation, error) {
	login, err := s.loginOf(v)
	return confirmation{
		Title: "A password for one use", Text: "The login “" + login.GetName() + "” is to get a new password, which is shown to you once.",
		Consequences: []string{"The password that it has is good for nothing any more.", "Its sessions end.", "At the next sign-in its person chooses another one."},
		Button:       "Give it a new password", Back: their(v),
	}, err
}

func (s *Service) setOneTimePassword(v *visit, _ *sent) (outcome, error) {
	login, err := s.loginOf(v)
	if err != nil {
		return outcome{}, err
	}
	return s.oneTimePassword(v, login)
}

func (s *Service) confirmMailLink(v *visit) (confirmation, error) {
	login, err := s.loginOf(v)
	c := confirmation{
		Title: "Mail a link", Text: "A link by which a new password can be chosen is to be mailed to " + login.GetMailAddress() + ".",
		Consequences: []string{"The password that the login has holds until the link is used.", "It works only where this platform sends mail."},
		Button:       "Mail it", Back: their(v),
	}
	if login.GetMailAddress() == "" {
		c.Text = "The login “" + login.GetName() + "” has no mail address yet: nothing would reach its person. Enter one first."
	}
	return c, err
}

func (s *Service) mailLink(v *visit, _ *sent) (outcome, error) {
	login, err := s.loginOf(v)
	if err == nil {
		err = s.mailReset(v, login)
	}
	return outcome{next: their(v), notice: "The link is on its way, where this platform sends mail."}, err
}

func (s *Service) confirmDisableLogin(v *visit) (confirmation, error) {
	login, err := s.loginOf(v)
	return confirmation{
		Title: "Disable a login", Text: "The login “" + login.GetName() + "” is to be kept out. You can enable it again whenever you like.",
		Consequences: []string{"It cannot sign in, and its sessions end now.", "Its API keys do nothing while it is disabled.", "What is measured of its person goes on."},
		Button:       "Disable the login", Back: their(v), Form: v.form(their(v)+"/disable", nil, login.GetEtag()),
	}, err
}

func (s *Service) disableLogin(v *visit, f *sent) (outcome, error) {
	return s.setDisabled(v, f, true, "The login is disabled.")
}

func (s *Service) enableLogin(v *visit, f *sent) (outcome, error) {
	return s.setDisabled(v, f, false, "The login is enabled.")
}

func (s *Service) setDisabled(v *visit, f *sent, disabled bool, notice string) (outcome, error) {
	login, err := s.loginOf(v)
	if err != nil {
		return outcome{}, err
	}
	login.Disabled, login.Etag = disabled, f.etag()
	_, err = s.logins.UpdateLogin(v.ctx, &identityv1.UpdateLoginRequest{
		Login: login, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled"}}, RequestId: f.requestID,
	})
	return outcome{next: their(v), notice: notice}, err
}

func (s *Service) confirmRemoveTheirs(v *visit) (confirmation, error) {
	login, err := s.loginOf(v)
	return confirmation{
		Title: "Take the second factor away", Text: "The login “" + login.GetName() + "” is to lose its authenticator program, its recovery codes and its passkeys, for one whose person has lost them.",
		Consequences: []string{"Its sessions end.", "Until its person has another one, the password alone lets them in; where the account asks for a second factor, they enrol at the next sign-in.", "Make sure that it is that person who asks you for it."},
		Button:       "Take it away", Back: their(v),
	}, err
}

func (s *Service) removeTheirSecondFactor(v *visit, _ *sent) (outcome, error) {
	_, err := s.signIn.RemoveSecondFactor(v.ctx, &identityv1.RemoveSecondFactorRequest{LoginId: v.r.PathValue("id")})
	return outcome{next: their(v), notice: "The second factor is taken away."}, err
}

// endSessions ends the sessions that the form names; none: all of them.
func (s *Service) endSessions(v *visit, f *sent) (outcome, error) {
	ids := f.all("session_id")
	if len(ids) == 0 {
		sessions, err := s.signIn.ListSessions(v.ctx, &identityv1.ListSessionsRequest{LoginId: v.r.PathValue("id"), PageSize: 1000})
		if err != nil {
			return outcome{}, err
		}
		for _, one := range sessions.GetSessions() {
			ids = append(ids, one.GetSessionId())
		}
	}
	for _, id := range ids {
		if _, err := s.signIn.EndSession(v.ctx, &identityv1.EndSessionRequest{SessionId: id}); err != nil {
			return outcome{}, err
		}
	}
	return outcome{next: their(v), notice: fmt.Sprintf("Ended: %d. What they were given is refused everywhere within a minute.", len(ids))}, nil
}

func (s *Service) confirmDeleteLogin(v *visit) (confirmation, error) {
	login, err := s.loginOf(v)
	return confirmation{
		Title: "Delete a login", Text: "The login “" + login.GetName() + "” is to be deleted and forgotten. It cannot be undone. To only keep somebody out, disable their login.",
		Consequences: []string{
			"Its sessions end, and its API keys are good for nothing any more.",
			"The key that its names are kept under is destroyed: nobody can read its name, its mail address or from where it called, in the audit log neither, nor in any copy or backup.",
			"What it did stays in the audit log, as done by somebody who was forgotten.",
			"What was measured of its person at the desktops stays: it belongs to their principals. To erase that as well, forget these first.",
			"Its name is free again.",
		},
		Button: "Delete and forget it", Back: their(v),
	}, err
}

func (s *Service) deleteLogin(v *visit, f *sent) (outcome, error) {
	_, err := s.logins.DeleteLogin(v.ctx, &identityv1.DeleteLoginRequest{LoginId: v.r.PathValue("id"), RequestId: f.requestID})
	return outcome{next: "/people", notice: "The login is deleted, and forgotten."}, err
}

func (s *Service) bindLogin(v *visit, f *sent) (outcome, error) {
	_, err := s.principals.BindLogin(v.ctx, &meteringv1.BindLoginRequest{PrincipalId: f.text("principal_id"), LoginId: v.r.PathValue("id"), RequestId: f.requestID})
	return outcome{next: their(v), notice: "From now on the login sees what is recorded of that person as its own."}, err
}

func (s *Service) unbindLogin(v *visit, f *sent) (outcome, error) {
	_, err := s.principals.UnbindLogin(v.ctx, &meteringv1.UnbindLoginRequest{PrincipalId: f.text("principal_id"), RequestId: f.requestID})
	return outcome{next: their(v), notice: "The login does not see that person's use any more."}, err
}
