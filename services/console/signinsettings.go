package console

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// signInActions are what is done with how people come in.
var signInActions = []action{
	{path: "/sign-in-settings", page: "/sign-in-settings", may: administers, do: (*Service).updateSignInPolicy},
	{path: "/sign-in-settings/provider", page: "/sign-in-settings", may: administers, do: (*Service).updateProvider},
	{path: "/sign-in-settings/provisioning", page: "/sign-in-settings", may: administers, do: (*Service).updateProvisioning},
	{path: "/sign-in-settings/provisioning-key", page: "/sign-in-settings", may: administers, do: (*Service).createProvisioningKey, taken: "name"},
}

// signInSettingsPage is how people come in.
type signInSettingsPage struct {
	Policy, Provider, Provisioning, Key *form
	RedirectURL, BaseURL                string
	HasSecret                           bool
	Enabled                             bool
}

func (s *Service) signInSettings(v *visit) (any, error) {
	policy, err := s.signIn.GetSignInPolicy(v.ctx, &identityv1.GetSignInPolicyRequest{})
	if err != nil {
		return nil, err
	}
	provider, err := s.sso.GetIdentityProvider(v.ctx, &identityv1.GetIdentityProviderRequest{})
	if err != nil {
		return nil, err
	}
	provisioning, err := s.provisioning.GetProvisioning(v.ctx, &identityv1.GetProvisioningRequest{})
	if err != nil {
		return nil, err
	}
	groups, err := s.allGroups(v)
	if err != nil {
		return nil, err
	}
	of, idp, scim := policy.GetPolicy(), provider.GetIdentityProvider(), provisioning.GetProvisioning()
	hours := ""
	if of.GetMaxSwitchAge() != nil {
		hours = strconv.FormatInt(int64(of.GetMaxSwitchAge().AsDuration()/time.Minute), 10)
	}
	var idpMappings, scimMappings []string
	for _, m := range idp.GetGroupMappings() {
		idpMappings = append(idpMappings, mappingLine(m.GetGroup(), m.GetPrivileges(), titles(groups, m.GetGroupIds())))
	}
	for _, m := range scim.GetGroupMappings() {
		scimMappings = append(scimMappings, mappingLine(m.GetGroup(), m.GetPrivileges(), nil))
	}
	return signInSettingsPage{
		Policy: v.form("/sign-in-settings", url.Values{
			"second_factor_required": boxed(of.GetSecondFactorRequired()), "single_sign_on_required": boxed(of.GetSingleSignOnRequired()),
			"links_forbidden": boxed(of.GetLinksForbidden()), "max_switch_age": {hours},
		}, etagOf(of)),
		Provider: v.form("/sign-in-settings/provider", url.Values{
			"enabled": boxed(idp.GetEnabled()), "issuer": {idp.GetIssuer()}, "client_id": {idp.GetClientId()}, "scopes": {strings.Join(idp.GetScopes(), " ")},
			"login_name_claim": {idp.GetLoginNameClaim()}, "groups_claim": {idp.GetGroupsClaim()}, "create_logins": boxed(idp.GetCreateLogins()),
			"link_logins": boxed(idp.GetLinkLogins()), "mail_domains": {strings.Join(idp.GetMailDomains(), "\n")}, "group_mappings": {strings.Join(idpMappings, "\n")},
		}, idp.GetEtag()),
		Provisioning: v.form("/sign-in-settings/provisioning", url.Values{
			"enabled": boxed(scim.GetEnabled()), "link_logins": boxed(scim.GetLinkLogins()), "group_mappings": {strings.Join(scimMappings, "\n")},
		}, scim.GetEtag()),
		Key:         v.form("/sign-in-settings/provisioning-key", url.Values{"name": {"provisioning"}}, ""),
		RedirectURL: idp.GetRedirectUrl(), BaseURL: scim.GetBaseUrl(), HasSecret: idp.GetHasClientSecret(), Enabled: scim.GetEnabled(),
	}, nil
}

func (s *Service) updateSignInPolicy(v *visit, f *sent) (outcome, error) {
	got, err := s.signIn.GetSignInPolicy(v.ctx, &identityv1.GetSignInPolicyRequest{})
	if err != nil {
		return outcome{}, err
	}
	if err := unchanged(f, got.GetPolicy()); err != nil {
		return outcome{}, err
	}
	policy := &identityv1.SignInPolicy{
		SecondFactorRequired: f.is("second_factor_required"), SingleSignOnRequired: f.is("single_sign_on_required"), LinksForbidden: f.is("links_forbidden"),
	}
	minutes, err := f.number("max_switch_age")
	if err != nil {
		return outcome{}, err
	}
	if minutes != 0 {
		policy.MaxSwitchAge = durationpb.New(time.Duration(minutes) * time.Minute)
	}
	_, err = s.signIn.UpdateSignInPolicy(v.ctx, &identityv1.UpdateSignInPolicyRequest{
		Policy: policy, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"second_factor_required", "single_sign_on_required", "links_forbidden", "max_switch_age"}}, RequestId: f.requestID,
	})
	return outcome{next: "/sign-in-settings", notice: "What is asked of those who sign in is changed."}, err
}

// mappingLine is what membership of a provider's group gives, as people type it.
func mappingLine(group string, privileges []authzv1.Privilege, groups []string) string {
	var given []string
	for _, p := range privileges {
		given = append(given, authn.PrivilegeName(p))
	}
	return group + ": " + strings.Join(append(given, groups...), ", ")
}

// mapping is one line of them.
type mapping struct {
	group      string
	privileges []authzv1.Privilege
	groupIDs   []string
}

// mappingsIn reads them: what a group gives is named as a privilege, or as a group of the account.
func mappingsIn(f *sent, groups []choice) (all []mapping, err error) {
	for i, line := range lines(f.text("group_mappings")) {
		wrong := func(why string) error {
			return errs.InvalidFields("console.mappings", "", errs.Field{Path: "group_mappings", Description: fmt.Sprintf("line %d %s", i+1, why)})
		}
		at := strings.LastIndex(line, ":")
		if at < 0 {
			return nil, wrong("has no colon after the group")
		}
		one := mapping{group: strings.TrimSpace(line[:at])}
		for word := range strings.SplitSeq(line[at+1:], ",") {
			if word = strings.TrimSpace(word); word == "" {
				continue
			}
			known := false
			for _, p := range authn.PeoplesPrivileges().List() {
				if strings.EqualFold(authn.PrivilegeName(p), word) {
					one.privileges, known = append(one.privileges, p), true
				}
			}
			for _, g := range groups {
				if !known && strings.EqualFold(g.Title, word) {
					one.groupIDs, known = append(one.groupIDs, g.Value), true
				}
			}
			if !known {
				return nil, wrong(fmt.Sprintf("names %q, which is no privilege, nor what else may stand here", word))
			}
		}
		all = append(all, one)
	}
	return all, nil
}

func (s *Service) updateProvider(v *visit, f *sent) (outcome, error) {
	groups, err := s.allGroups(v)
	if err != nil {
		return outcome{}, err
	}
	mappings, err := mappingsIn(f, groups)
	if err != nil {
		return outcome{}, err
	}
	idp := &identityv1.IdentityProvider{
		Enabled: f.is("enabled"), Issuer: f.text("issuer"), ClientId: f.text("client_id"), ClientSecret: f.secret("client_secret"),
		Scopes: strings.Fields(f.text("scopes")), LoginNameClaim: f.text("login_name_claim"), GroupsClaim: f.text("groups_claim"),
		CreateLogins: f.is("create_logins"), LinkLogins: f.is("link_logins"), MailDomains: lines(f.text("mail_domains")), Etag: f.etag(),
	}
	for _, m := range mappings {
		idp.GroupMappings = append(idp.GroupMappings, &identityv1.GroupMapping{Group: m.group, Privileges: m.privileges, GroupIds: m.groupIDs})
	}
	_, err = s.sso.UpdateIdentityProvider(v.ctx, &identityv1.UpdateIdentityProviderRequest{IdentityProvider: idp})
	return outcome{next: "/sign-in-settings", notice: "Single sign-on is changed."}, err
}

func (s *Service) updateProvisioning(v *visit, f *sent) (outcome, error) {
	mappings, err := mappingsIn(f, nil)
	if err != nil {
		return outcome{}, err
	}
	scim := &identityv1.Provisioning{Enabled: f.is("enabled"), LinkLogins: f.is("link_logins"), Etag: f.etag()}
	for _, m := range mappings {
		scim.GroupMappings = append(scim.GroupMappings, &identityv1.ProvisioningMapping{Group: m.group, Privileges: m.privileges})
	}
	_, err = s.provisioning.UpdateProvisioning(v.ctx, &identityv1.UpdateProvisioningRequest{Provisioning: scim})
	return outcome{next: "/sign-in-settings", notice: "Provisioning is changed."}, err
}

// createProvisioningKey makes a login for the identity provider, which may do nothing else, and
// its key.
func (s *Service) createProvisioningKey(v *visit, f *sent) (outcome, error) {
	privileges := []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_PROVISIONING}
	made, err := s.logins.CreateLogin(v.ctx, &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: f.text("name"), Privileges: privileges}, RequestId: f.requestID})
	if err != nil {
		return outcome{}, err
	}
	answer, err := s.apiKeys.CreateApiKey(v.ctx, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{
		DisplayName: f.text("name"), LoginId: made.GetLogin().GetLoginId(), Privileges: privileges,
	}})
	return outcome{next: "/sign-in-settings", once: &once{
		Title: "The key of the identity provider", Next: "/sign-in-settings",
		Text:   "Enter it at the provider, with the address that stands on the page before. It may keep logins and groups, and nothing else; it is good for a year.",
		Blocks: []block{{Title: "Key", Code: answer.GetKey()}},
	}}, err
}
