package console

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// peopleActions are what is done with logins.
var peopleActions = []action{
	{path: "/people/new", page: "/people/new", may: administers, do: (*Service).createLogin, taken: "name"},
	{path: "/people/{id}", page: "/people/{id}", may: administers, do: (*Service).updateLogin, taken: "name"},
	{path: "/people/{id}/one-time-password", may: administers, do: (*Service).setOneTimePassword, confirm: (*Service).confirmOneTimePassword},
	{path: "/people/{id}/mail-link", may: administers, do: (*Service).mailLink, confirm: (*Service).confirmMailLink},
	{path: "/people/{id}/disable", may: administers, do: (*Service).disableLogin, confirm: (*Service).confirmDisableLogin},
	{path: "/people/{id}/enable", page: "/people/{id}", may: administers, do: (*Service).enableLogin},
	{path: "/people/{id}/remove-second-factor", may: administers, do: (*Service).removeTheirSecondFactor, confirm: (*Service).confirmRemoveTheirs},
	{path: "/people/{id}/end-sessions", page: "/people/{id}", may: administers, do: (*Service).endSessions},
	{path: "/people/{id}/delete", may: administers, do: (*Service).deleteLogin, confirm: (*Service).confirmDeleteLogin},
	{path: "/people/{id}/bind", page: "/people/{id}", may: administers, do: (*Service).bindLogin, taken: "principal_id"},
	{path: "/people/{id}/unbind", page: "/people/{id}", may: administers, do: (*Service).unbindLogin},
}

// searchPages bounds how far a search reads: so many pages of the API's largest size.
const (
	searchPages    = 20
	searchPageSize = 1000
)

// peoplePage is the list of logins.
type peoplePage struct {
	listPage[*identityv1.Login]
	Find   string
	Groups []choice
}

func (s *Service) people(v *visit) (any, error) {
	query := v.r.URL.Query()
	find, group := strings.TrimSpace(query.Get("find")), query.Get("group")
	all, err := list(s, v, func(size int32, token string) ([]*identityv1.Login, string, error) {
		if find != "" {
			return s.findLogins(v, find, group, token)
		}
		answer, err := s.logins.ListLogins(v.ctx, &identityv1.ListLoginsRequest{PageSize: size, PageToken: token, GroupId: group})
		return answer.GetLogins(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	groups, err := s.allGroups(v)
	for i := range groups {
		groups[i].Chosen = groups[i].Value == group
	}
	return peoplePage{listPage: all, Find: find, Groups: groups}, err
}

// findLogins are those in which a text occurs, from a page on; the API does not search.
func (s *Service) findLogins(v *visit, find, group, token string) (found []*identityv1.Login, next string, err error) {
	find = strings.ToLower(find)
	for range searchPages {
		answer, err := s.logins.ListLogins(v.ctx, &identityv1.ListLoginsRequest{PageSize: searchPageSize, PageToken: token, GroupId: group})
		if err != nil {
			return nil, "", err
		}
		for _, login := range answer.GetLogins() {
			if strings.Contains(strings.ToLower(login.GetName()+"\n"+login.GetDisplayName()+"\n"+login.GetMailAddress()), find) {
				found = append(found, login)
			}
		}
		if token = answer.GetNextPageToken(); token == "" || len(found) >= listPageSize {
			return found, token, nil
		}
	}
	return found, token, nil
}

// everyLogin are the account's logins; more says that there are more than a search reads.
func (s *Service) everyLogin(v *visit) (all []*identityv1.Login, more bool, err error) {
	token := ""
	for range searchPages {
		answer, err := s.logins.ListLogins(v.ctx, &identityv1.ListLoginsRequest{PageSize: searchPageSize, PageToken: token})
		if err != nil {
			return nil, false, err
		}
		all = append(all, answer.GetLogins()...)
		if token = answer.GetNextPageToken(); token == "" {
			return all, false, nil
		}
	}
	return all, true, nil
}

// loginChoices are logins to choose one from.
func (s *Service) loginChoices(v *visit) (choices []choice, err error) {
	all, _, err := s.everyLogin(v)
	for _, login := range all {
		choices = append(choices, choice{Value: login.GetLoginId(), Title: cmp.Or(login.GetDisplayName(), login.GetName())})
	}
	return choices, err
}

// allGroups are the account's groups, to choose among.
func (s *Service) allGroups(v *visit) (all []choice, err error) {
	for token := ""; ; {
		answer, err := s.groupsAPI.ListGroups(v.ctx, &identityv1.ListGroupsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, g := range answer.GetGroups() {
			all = append(all, choice{Value: g.GetGroupId(), Title: g.GetDisplayName()})
		}
		if token = answer.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

// privilegeChoices are privileges to choose among.
func privilegeChoices(of authn.Privileges) (all []choice) {
	for _, p := range of.List() {
		all = append(all, choice{Value: p.String(), Title: authn.PrivilegeName(p)})
	}
	return all
}

// privilegesIn are those chosen in a form.
func privilegesIn(f *sent) (all []authzv1.Privilege) {
	for _, name := range f.all("privileges") {
		all = append(all, authzv1.Privilege(authzv1.Privilege_value[name])) // what is none is refused by the API
	}
	return all
}

func privilegeNames(all []authzv1.Privilege) (names []string) {
	for _, p := range all {
		names = append(names, p.String())
	}
	return names
}

// newLoginPage makes a login.
type newLoginPage struct {
	Create             *form
	Privileges, Groups []choice
	First              []choice
}

func (s *Service) newLogin(v *visit) (any, error) {
	groups, err := s.allGroups(v)
	return newLoginPage{
		Create:     v.form("/people/new", url.Values{"privileges": {authzv1.Privilege_PRIVILEGE_APPLICATION_USER.String()}, "first": {"show"}}, ""),
		Privileges: privilegeChoices(authn.PeoplesPrivileges()), Groups: groups,
		First: []choice{
			{Value: "show", Title: "with a password for one use, which is shown next"},
			{Value: "mail", Title: "by a link that is mailed to them"},
			{Value: "none", Title: "by single sign-on, or by a password that they get later"},
		},
	}, err
}

func (s *Service) createLogin(v *visit, f *sent) (outcome, error) {
	answer, err := s.logins.CreateLogin(v.ctx, &identityv1.CreateLoginRequest{
		Login: &identityv1.Login{
			Name: f.text("name"), DisplayName: f.text("display_name"), MailAddress: f.text("mail_address"),
			Privileges: privilegesIn(f), GroupIds: f.all("group_ids"),
		},
		RequestId: f.requestID,
	})
	if err != nil {
		return outcome{}, err
	}
	login := answer.GetLogin()
	done := outcome{next: of("/people", login.GetLoginId()), notice: "The login is there."}
	switch f.text("first") {
	case "show":
		return s.oneTimePassword(v, login)
	case "mail":
		if err := s.mailReset(v, login); err != nil {
			return outcome{}, err
		}
		done.notice = "The login is there, and a link to choose a password is mailed to its address."
	}
	return done, nil
}

// oneTimePassword gives a login a password for one use, and shows it.
func (s *Service) oneTimePassword(v *visit, login *identityv1.Login) (outcome, error) {
	given, err := s.signIn.SetOneTimePassword(v.ctx, &identityv1.SetOneTimePasswordRequest{LoginId: login.GetLoginId()})
	next := of("/people", login.GetLoginId())
	return outcome{next: next, once: &once{
		Title: "A password for one use", Next: next,
		Text:   "Tell it to the person of the login “" + login.GetName() + "” so that nobody else reads it. At their first sign-in they choose another one.",
		Blocks: []block{{Title: "Password of " + login.GetName(), Code: given.GetPassword()}},
	}}, err
}

func (s *Service) mailReset(v *visit, login *identityv1.Login) error {
	of, err := s.accounts.GetAccount(v.ctx, &identityv1.GetAccountRequest{})
	if err != nil {
		return err
	}
	_, err = s.signIn.RequestPasswordReset(v.ctx, &identityv1.RequestPasswordResetRequest{AccountName: of.GetAccount().GetName(), LoginName: login.GetName()})
	return err
}

// personPage is one login.
type personPage struct {
	Zone                         *time.Location
	Login                        *identityv1.Login
	Update, End, Enable          *form
	Bind, Unbind                 *form
	Privileges, Groups, Programs []choice
	SecondFactor                 *identityv1.SecondFactor
	Sessions                     []*identityv1.Session
	// Principals are the login's, Others those that are nobody's yet.
	Principals []principalLine
	Others     []choice
	// Own says that it is the login of who looks.
	Own bool
}

func (s *Service) person(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	id := v.r.PathValue("id")
	login, err := s.loginOf(v)
	if err != nil {
		return nil, err
	}
	here := of("/people", id)
	page := personPage{
		Zone: zone, Login: login, Own: id == v.caller.Login.String(),
		Update: v.form(here, url.Values{
			"name": {login.GetName()}, "display_name": {login.GetDisplayName()}, "mail_address": {login.GetMailAddress()},
			"privileges": privilegeNames(login.GetPrivileges()), "group_ids": login.GetGroupIds(), "denied_application_ids": login.GetDeniedApplicationIds(),
		}, login.GetEtag()),
		End: v.form(here+"/end-sessions", nil, ""), Enable: v.form(here+"/enable", nil, login.GetEtag()),
		Bind: v.form(here+"/bind", nil, ""), Unbind: v.form(here+"/unbind", nil, ""),
		Privileges: privilegeChoices(authn.AllPrivileges()),
	}
	if page.Groups, err = s.allGroups(v); err != nil {
		return nil, err
	}
	if page.Programs, err = s.allPrograms(v); err != nil {
		return nil, err
	}
	factor, err := s.signIn.GetSecondFactor(v.ctx, &identityv1.GetSecondFactorRequest{LoginId: id})
	if err != nil {
		return nil, err
	}
	page.SecondFactor = factor.GetSecondFactor()
	sessions, err := s.signIn.ListSessions(v.ctx, &identityv1.ListSessionsRequest{LoginId: id, PageSize: listPageSize})
	if err != nil {
		return nil, err
	}
	page.Sessions = sessions.GetSessions()
	page.Principals, page.Others, err = s.principalsOf(v, id)
	return page, err
}

// Has tells whether the login has a second factor of any kind.
func (p personPage) Has() bool { return p.SecondFactor.GetTotp() || p.SecondFactor.GetPasskeys() > 0 }

// Named are the titles of those of choices that are chosen.
func (p personPage) Named(choices []choice, chosen []string) string {
	known := slices.DeleteFunc(slices.Clone(chosen), func(id string) bool {
		return !slices.ContainsFunc(choices, func(c choice) bool { return c.Value == id })
	})
	return strings.Join(titles(choices, known), ", ")
}

func (s *Service) loginOf(v *visit) (*identityv1.Login, error) {
	got, err := s.logins.GetLogin(v.ctx, &identityv1.GetLoginRequest{LoginId: v.r.PathValue("id")})
	return got.GetLogin(), err
}
