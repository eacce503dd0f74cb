package identity

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/scim"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// TestProvisioning is of one service, since each needs a database; each part has accounts of its own.
func TestProvisioning(t *testing.T) {
	s := running(t)
	for name, test := range map[string]func(*testing.T, *Service){
		"users": aProviderKeepsItsUsers, "pages": listsComeInPages, "groups": groupsGiveWhatIsMapped,
		"bounds": aProviderKeepsWithinItsBounds, "last administrator": aProviderNeverTakesTheLastAdministrator,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// tenant is an account of a service that runs, with provisioning.
type tenant struct {
	t       *testing.T
	service *Service
	account contract.ID
	identityv1.ProvisioningServiceServer
}

// RegisterService takes the server of provisioning as it registers itself.
func (f *tenant) RegisterService(_ *grpc.ServiceDesc, server any) {
	f.ProvisioningServiceServer, _ = server.(identityv1.ProvisioningServiceServer)
}

func newTenant(t *testing.T, s *Service, account contract.ID) *tenant {
	t.Helper()
	provisioning, err := scim.New(
		scim.Config{PublicURL: func() (string, error) { return "https://cetrus.example/", nil }},
		scim.Deps{Log: eventlog.NewJetStream(s.nats, contract.EventStream), Directory: s.Provider()},
	)
	if err != nil {
		t.Fatal(err)
	}
	f := &tenant{t: t, service: s, account: account}
	provisioning.Register(f)
	return f
}

func (f *tenant) allow(p *identityv1.Provisioning) {
	f.t.Helper()
	p.Enabled = true
	if _, err := f.UpdateProvisioning(as(f.t.Context(), f.account), &identityv1.UpdateProvisioningRequest{Provisioning: p}); err != nil {
		f.t.Fatal(err)
	}
}

func gives(group string, privileges ...authzv1.Privilege) *identityv1.ProvisioningMapping {
	return &identityv1.ProvisioningMapping{Group: group, Privileges: privileges}
}

// resourceJSON is an answer's body.
type resourceJSON map[string]any

func (r resourceJSON) text(path ...string) string {
	var at any = map[string]any(r)
	for _, name := range path {
		switch v := at.(type) {
		case map[string]any:
			at = v[name]
		case []any:
			at = nil
			if len(v) > 0 {
				at, _ = v[0].(map[string]any)[name]
			}
		}
	}
	if at == nil {
		return ""
	}
	return fmt.Sprint(at)
}

// ask sends a request as the provider's key does; header is an If-Match.
func (f *tenant) ask(method, path, body string, ifMatch ...string) (int, resourceJSON, *identityv1.HandleScimResponse) {
	f.t.Helper()
	ctx := authn.WithCaller(f.t.Context(), authn.Caller{
		Account: f.account, Actor: "key:provider", Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_PROVISIONING), Reach: authzv1.Reach_REACH_ACCOUNT,
	})
	path, query, _ := strings.Cut(path, "?")
	in := &identityv1.HandleScimRequest{Method: method, Path: path, Query: query, Body: []byte(body)}
	if len(ifMatch) > 0 {
		in.IfMatch = ifMatch[0]
	}
	out, err := f.HandleScim(ctx, in)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	var m resourceJSON
	if len(out.GetBody()) > 0 {
		if err := json.Unmarshal(out.GetBody(), &m); err != nil {
			f.t.Fatalf("%s %s: %s: %v", method, path, out.GetBody(), err)
		}
	}
	return int(out.GetStatus()), m, out
}

// must asks, and fails where the status is another.
func (f *tenant) must(status int, method, path, body string, ifMatch ...string) resourceJSON {
	f.t.Helper()
	got, m, out := f.ask(method, path, body, ifMatch...)
	if got != status {
		f.t.Fatalf("%s %s: %d, not %d: %s", method, path, got, status, out.GetBody())
	}
	return m
}

// refuses asks what must be refused.
func (f *tenant) refuses(status int, scimType, method, path, body string) {
	f.t.Helper()
	m := f.must(status, method, path, body)
	if m.text("scimType") != scimType || m.text("status") != fmt.Sprint(status) || m.text("detail") == "" || !strings.Contains(fmt.Sprint(m["schemas"]), "messages:2.0:Error") {
		f.t.Errorf("%s %s: %v", method, path, m)
	}
}

func patchOf(operations string) string {
	return `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[` + operations + `]}`
}

func (f *tenant) login(id string) Login {
	f.t.Helper()
	parsed, err := contract.ParseID(id)
	if err != nil {
		f.t.Fatal(err)
	}
	l, _, err := f.service.commands.logins.Load(f.t.Context(), loginSubject(f.account, parsed))
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

func (f *tenant) found(path, filter string) (names []string) {
	f.t.Helper()
	list := f.must(http.StatusOK, http.MethodGet, path+"?filter="+url.QueryEscape(filter), "")
	all, _ := list["Resources"].([]any)
	for _, one := range all {
		m := resourceJSON(one.(map[string]any)) //nolint:forcetypeassert // a failure of the test
		names = append(names, m.text("userName")+m.text("displayName"))
	}
	if fmt.Sprint(len(names)) != list.text("totalResults") || fmt.Sprint(len(names)) != list.text("itemsPerPage") {
		f.t.Errorf("%s: %v", filter, list)
	}
	return names
}

// newcomer is a user as Entra ID makes one (docs: "Create User").
func newcomer(name string) string {
	return `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User","urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],
		"externalId":"` + name + `-0a21f0f2","userName":"` + name + `@works.example","active":true,
		"emails":[{"primary":true,"type":"work","value":"` + name + `@works.example"}],"meta":{"resourceType":"User"},
		"name":{"formatted":"givenName familyName","familyName":"of Works","givenName":"` + name + `"},"roles":[]}`
}

// What a provider does all its life: it finds nobody, makes somebody, finds them, changes and
// disables them, and deletes them at last.
func aProviderKeepsItsUsers(t *testing.T, s *Service) {
	f := newTenant(t, s, newAccountOf(t, s, t.Name()))
	if status, m, _ := f.ask(http.MethodPost, "/Users", newcomer("ada")); status != http.StatusForbidden || !strings.Contains(m.text("detail"), "administrator") {
		t.Fatalf("provisioning is off: %d %v", status, m)
	}
	f.allow(&identityv1.Provisioning{GroupMappings: []*identityv1.ProvisioningMapping{gives("", authzv1.Privilege_PRIVILEGE_APPLICATION_USER)}})

	if got := f.found("/Users", `userName eq "ada@works.example"`); len(got) != 0 {
		t.Fatalf("found %v", got)
	}
	status, ada, out := f.ask(http.MethodPost, "/Users", newcomer("ada"))
	id := ada.text("id")
	if status != http.StatusCreated || out.GetLocation() != "https://cetrus.example/scim/v2/Users/"+id || out.GetEtag() != ada.text("meta", "version") {
		t.Fatalf("%d %v %v", status, ada, out)
	}
	for want, path := range map[string][]string{
		"ada@works.example": {"emails", "value"}, "ada-0a21f0f2": {"externalId"}, "ada of Works": {"displayName"}, "of Works": {"name", "familyName"}, "true": {"active"},
	} {
		if got := ada.text(path...); got != want {
			t.Errorf("%v: %q, not %q", path, got, want)
		}
	}
	if l := f.login(id); l.Privileges != authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER) || !l.Provisioned {
		t.Errorf("made %+v", l)
	}
	f.refuses(http.StatusConflict, "uniqueness", http.MethodPost, "/Users", newcomer("ADA"))
	for _, filter := range []string{
		`userName eq "ada@works.example"`, `userName eq "ADA@works.example"`, `externalId eq "ada-0a21f0f2"`, `id eq "` + id + `"`,
		`emails.value eq "ada@works.example"`, `emails[type eq "work" and value co "works"]`, `active eq true and displayName sw "ADA"`, `not (active eq false)`,
		`userName eq "ada@works.example" and active eq true`, `name.familyName co "works" or userName eq "x"`, `meta.created gt "2020-01-01T00:00:00Z"`,
	} {
		if got := f.found("/Users", filter); len(got) != 1 {
			t.Errorf("%s: found %v", filter, got)
		}
	}
	for _, filter := range []string{`userName eq "bob"`, `externalId eq "ADA-0A21F0F2"`, `userName eq "ada@works.example" and active eq false`, `emails[type eq "home"]`, `displayName eq null`} {
		if got := f.found("/Users", filter); len(got) != 0 {
			t.Errorf("%s: found %v", filter, got)
		}
	}

	changed := f.must(http.StatusOK, http.MethodPatch, "/Users/"+id, patchOf(`
		{"op":"Replace","path":"displayName","value":"Ada Lovelace"},
		{"op":"Add","path":"emails[type eq \"work\"].value","value":"lovelace@works.example"},
		{"op":"Replace","path":"active","value":"False"}`))
	if changed.text("displayName") != "Ada Lovelace" || changed.text("emails", "value") != "lovelace@works.example" || changed.text("active") != "false" {
		t.Errorf("changed to %v", changed)
	}
	if l := f.login(id); !l.Disabled || !l.DisabledByProvider || l.Disablings != 1 {
		t.Errorf("not disabled: %+v", l)
	}
	back := f.must(http.StatusOK, http.MethodPatch, "/Users/"+id, patchOf(`{"op":"replace","value":{"active":true}}`))
	if l := f.login(id); l.Disabled || back.text("active") != "true" {
		t.Errorf("not enabled: %+v %v", l, back)
	}
	if status, _, _ := f.ask(http.MethodPatch, "/Users/"+id, patchOf(`{"op":"replace","value":{"active":false}}`), ada.text("meta", "version")); status != http.StatusPreconditionFailed {
		t.Errorf("an old version: %d", status)
	}
	f.must(http.StatusNoContent, http.MethodDelete, "/Users/"+id, "", back.text("meta", "version"))
	f.refuses(http.StatusNotFound, "", http.MethodGet, "/Users/"+id, "")
	f.refuses(http.StatusNotFound, "", http.MethodDelete, "/Users/"+id, "")
	f.must(http.StatusCreated, http.MethodPost, "/Users", newcomer("ada")) // the name is free
}

// A list comes in pages, with what was asked for.
func listsComeInPages(t *testing.T, s *Service) {
	f := newTenant(t, s, newAccountOf(t, s, t.Name()))
	f.allow(&identityv1.Provisioning{})
	for _, name := range []string{"ada", "bob", "cleo"} {
		f.must(http.StatusCreated, http.MethodPost, "/Users", newcomer(name))
	}
	for query, want := range map[string]string{
		"": "3 1 ada bob cleo", "count=2": "3 1 ada bob", "startIndex=2": "3 2 bob cleo", "startIndex=3&count=5": "3 3 cleo", "count=0": "3 1", "startIndex=9": "3 9",
		"filter=" + url.QueryEscape(`userName co "works"`) + "&startIndex=2&count=1": "3 2 bob", "filter=" + url.QueryEscape(`userName sw "c"`): "1 1 cleo", "startIndex=-1&count=-1": "3 1",
	} {
		list := f.must(http.StatusOK, http.MethodGet, "/Users?attributes=userName&"+query, "")
		got := list.text("totalResults") + " " + list.text("startIndex")
		all, _ := list["Resources"].([]any)
		for _, one := range all {
			m := resourceJSON(one.(map[string]any)) //nolint:forcetypeassert // a failure of the test
			name, _, _ := strings.Cut(m.text("userName"), "@")
			got += " " + name
			if len(m) != 3 { // schemas and id are always there
				t.Errorf("%s: more than was asked for: %v", query, m)
			}
		}
		if got != want {
			t.Errorf("%q: %s, not %s", query, got, want)
		}
	}
	f.refuses(http.StatusBadRequest, "invalidValue", http.MethodGet, "/Users?count=many", "")
	f.refuses(http.StatusBadRequest, "invalidFilter", http.MethodGet, "/Users?filter="+url.QueryEscape(`shoeSize eq 42`), "")
	f.refuses(http.StatusBadRequest, "invalidValue", http.MethodGet, "/Users?attributes=shoeSize", "")
}

// Membership of the provider's groups gives what mappings say, and nothing else.
func groupsGiveWhatIsMapped(t *testing.T, s *Service) {
	f := newTenant(t, s, newAccountOf(t, s, t.Name()))
	user, report := authzv1.Privilege_PRIVILEGE_APPLICATION_USER, authzv1.Privilege_PRIVILEGE_REPORT
	f.allow(&identityv1.Provisioning{GroupMappings: []*identityv1.ProvisioningMapping{gives("", user), gives("analysts", report)}})
	ada := f.must(http.StatusCreated, http.MethodPost, "/Users", newcomer("ada")).text("id")
	bob := f.must(http.StatusCreated, http.MethodPost, "/Users", newcomer("bob")).text("id")
	may := func(id string, want ...authzv1.Privilege) {
		t.Helper()
		if got := f.login(id).Privileges; got != authn.PrivilegesOf(want...) {
			t.Errorf("privileges are %v, not %v", got.List(), want)
		}
	}
	members := func(m resourceJSON) int { list, _ := m["members"].([]any); return len(list) }

	made := f.must(http.StatusCreated, http.MethodPost, "/Groups", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"],"externalId":"g-1","displayName":"analysts","members":[{"value":"`+ada+`"}]}`)
	group := "/Groups/" + made.text("id")
	if members(made) != 1 || made.text("members", "display") != "ada@works.example" {
		t.Errorf("made %v", made)
	}
	may(ada, user, report)
	may(bob, user)
	if got := f.must(http.StatusOK, http.MethodGet, "/Users/"+ada, "").text("groups", "display"); got != "analysts" {
		t.Errorf("ada is in %q", got)
	}
	if got := f.found("/Groups", `displayName eq "Analysts" and externalId eq "g-1"`); !slices.Equal(got, []string{"analysts"}) {
		t.Errorf("found %v", got)
	}
	if bare := f.must(http.StatusOK, http.MethodGet, group+"?excludedAttributes=members", ""); bare["members"] != nil || bare.text("displayName") != "analysts" {
		t.Errorf("without members: %v", bare)
	}

	f.must(http.StatusOK, http.MethodPatch, group, patchOf(`{"op":"Add","path":"members","value":[{"$ref":null,"value":"`+bob+`"}]}`))
	may(bob, user, report)
	f.must(http.StatusOK, http.MethodPatch, group, patchOf(`{"op":"remove","path":"members[value eq \"`+ada+`\"]"}`))
	may(ada, user)
	f.must(http.StatusOK, http.MethodPatch, group, patchOf(`{"op":"Remove","path":"members","value":[{"value":"`+bob+`"}]}`))
	may(bob, user)
	if m := f.must(http.StatusOK, http.MethodPut, group, `{"displayName":"analysts","members":[{"value":"`+ada+`"},{"value":"`+bob+`"}]}`); members(m) != 2 {
		t.Errorf("replaced: %v", m)
	}
	may(ada, user, report)
	// Okta renames so.
	f.must(http.StatusOK, http.MethodPatch, group, patchOf(`{"op":"replace","value":{"id":"`+made.text("id")+`","displayName":"readers"}}`))
	may(ada, user)
	f.allow(&identityv1.Provisioning{GroupMappings: []*identityv1.ProvisioningMapping{gives("", user), gives("readers", report)}})
	may(ada, user, report)

	f.refuses(http.StatusBadRequest, "invalidValue", http.MethodPatch, group, patchOf(`{"op":"add","path":"members","value":[{"value":"11111111-1111-4111-8111-111111111111"}]}`))
	f.refuses(http.StatusConflict, "uniqueness", http.MethodPost, "/Groups", `{"displayName":"READERS"}`)
	f.must(http.StatusNoContent, http.MethodDelete, group, "")
	may(ada, user)
	if l := f.login(ada); len(l.Groups) != 0 {
		t.Errorf("still in %v", l.Groups)
	}
	f.refuses(http.StatusNotFound, "", http.MethodGet, group, "")
}

// What an administrator has made and given is out of a provider's reach.
func aProviderKeepsWithinItsBounds(t *testing.T, s *Service) {
	f := newTenant(t, s, newAccountOf(t, s, t.Name()))
	ctx, logins := as(t.Context(), f.account), &loginAPI{service: s}
	user, report, admin := authzv1.Privilege_PRIVILEGE_APPLICATION_USER, authzv1.Privilege_PRIVILEGE_REPORT, authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR
	f.allow(&identityv1.Provisioning{GroupMappings: []*identityv1.ProvisioningMapping{gives("", user), gives("admins", admin)}})
	login := func(name string, privileges ...authzv1.Privilege) string {
		t.Helper()
		made, err := logins.CreateLogin(ctx, &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: name, MailAddress: name + "@works.example", Privileges: privileges}})
		if err != nil {
			t.Fatal(err)
		}
		return made.GetLogin().GetLoginId()
	}
	update := func(id, path string, m *identityv1.Login) {
		t.Helper()
		m.LoginId = id
		if _, err := logins.UpdateLogin(ctx, &identityv1.UpdateLoginRequest{Login: m, UpdateMask: mask(path)}); err != nil {
			t.Fatal(err)
		}
	}
	boss, key := login("boss", report), login("provider", authzv1.Privilege_PRIVILEGE_PROVISIONING)
	other := newAccountOf(t, s, t.Name()+" Ltd")
	theirs, err := logins.CreateLogin(as(t.Context(), other), &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: "eve"}})
	if err != nil {
		t.Fatal(err)
	}
	foreign := theirs.GetLogin().GetLoginId()
	off := patchOf(`{"op":"replace","path":"active","value":false}`)
	unreachable := func(why string, ids ...string) {
		t.Helper()
		for _, id := range ids {
			f.refuses(http.StatusNotFound, "", http.MethodGet, "/Users/"+id, "")
			f.refuses(http.StatusNotFound, "", http.MethodPatch, "/Users/"+id, off)
			f.refuses(http.StatusNotFound, "", http.MethodPut, "/Users/"+id, newcomer("x"))
			f.refuses(http.StatusNotFound, "", http.MethodDelete, "/Users/"+id, "")
			f.refuses(http.StatusBadRequest, "invalidValue", http.MethodPost, "/Groups", `{"displayName":"`+why+`","members":[{"value":"`+id+`"}]}`)
		}
	}
	unreachable("administrators' logins", boss, key, foreign)
	f.refuses(http.StatusConflict, "uniqueness", http.MethodPost, "/Users", `{"userName":"Boss"}`)
	group, err := (&groupAPI{service: s}).CreateGroup(ctx, &identityv1.CreateGroupRequest{Group: &identityv1.Group{DisplayName: "admins"}})
	if err != nil {
		t.Fatal(err)
	}
	f.refuses(http.StatusNotFound, "", http.MethodPatch, "/Groups/"+group.GetGroup().GetGroupId(), patchOf(`{"op":"replace","path":"displayName","value":"x"}`))
	f.refuses(http.StatusNotFound, "", http.MethodDelete, "/Groups/"+group.GetGroup().GetGroupId(), "")

	// What an administrator adds stays, and keeps name and address.
	ada := f.must(http.StatusCreated, http.MethodPost, "/Users", newcomer("ada")).text("id")
	update(ada, "privileges", &identityv1.Login{Privileges: []authzv1.Privilege{user, report}})
	for _, operation := range []string{`{"op":"replace","path":"userName","value":"x"}`, `{"op":"replace","path":"emails","value":[{"value":"thief@elsewhere.example"}]}`, `{"op":"remove","path":"emails"}`} {
		f.refuses(http.StatusBadRequest, "mutability", http.MethodPatch, "/Users/"+ada, patchOf(operation))
	}
	f.must(http.StatusOK, http.MethodPatch, "/Users/"+ada, patchOf(`{"op":"replace","path":"displayName","value":"A"}`))
	if l := f.login(ada); l.Privileges != authn.PrivilegesOf(user, report) {
		t.Errorf("privileges are %v", l.Privileges.List())
	}
	// Whom an administrator has disabled no provider enables.
	update(ada, "disabled", &identityv1.Login{Disabled: true})
	f.refuses(http.StatusBadRequest, "mutability", http.MethodPatch, "/Users/"+ada, patchOf(`{"op":"replace","value":{"active":true}}`))

	// A name alone does not make an administrator: the group "admins" of the account is not the provider's.
	bob := f.must(http.StatusCreated, http.MethodPost, "/Users", newcomer("bob")).text("id")
	update(bob, "group_ids", &identityv1.Login{GroupIds: []string{group.GetGroup().GetGroupId()}})
	f.must(http.StatusOK, http.MethodPatch, "/Users/"+bob, patchOf(`{"op":"replace","path":"displayName","value":"B"}`))
	if l := f.login(bob); l.Administers() {
		t.Error("a group of the account made an administrator")
	}

	f.allow(&identityv1.Provisioning{LinkLogins: true, GroupMappings: []*identityv1.ProvisioningMapping{gives("", user), gives("admins", admin)}})
	unreachable("kept from providers", key, foreign)
	if got := f.found("/Users", `userName eq "boss"`); len(got) != 1 {
		t.Errorf("not to be linked: %v", got)
	}
}

// The account's last administrator stays one, whatever a provider wishes.
func aProviderNeverTakesTheLastAdministrator(t *testing.T, s *Service) {
	account := newAccountOf(t, s, t.Name()+" Ltd")
	ctx, logins := as(t.Context(), account), &loginAPI{service: s}
	admin := authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR
	all, err := logins.ListLogins(ctx, &identityv1.ListLoginsRequest{})
	if err != nil || len(all.GetLogins()) != 1 {
		t.Fatal(all, err)
	}
	boss := all.GetLogins()[0].GetLoginId()
	if _, err := logins.UpdateLogin(ctx, &identityv1.UpdateLoginRequest{Login: &identityv1.Login{LoginId: boss, Privileges: []authzv1.Privilege{admin}}, UpdateMask: mask("privileges")}); err != nil {
		t.Fatal(err)
	}
	f := newTenant(t, s, account)
	f.allow(&identityv1.Provisioning{LinkLogins: true, GroupMappings: []*identityv1.ProvisioningMapping{gives("admins", admin)}})
	off := patchOf(`{"op":"replace","path":"active","value":false}`)
	stays := func(id string) {
		t.Helper()
		f.refuses(http.StatusForbidden, "", http.MethodPatch, "/Users/"+id, off)
		f.refuses(http.StatusForbidden, "", http.MethodDelete, "/Users/"+id, "")
		if l := f.login(id); !l.Administers() {
			t.Fatalf("no administrator is left: %+v", l)
		}
	}
	stays(boss)
	f.must(http.StatusOK, http.MethodPatch, "/Users/"+boss, patchOf(`{"op":"replace","path":"displayName","value":"The Boss"}`)) // is in no group that makes administrators
	stays(boss)

	ada := f.must(http.StatusCreated, http.MethodPost, "/Users", newcomer("ada")).text("id")
	group := "/Groups/" + f.must(http.StatusCreated, http.MethodPost, "/Groups", `{"displayName":"admins","members":[{"value":"`+ada+`"}]}`).text("id")
	f.must(http.StatusNoContent, http.MethodDelete, "/Users/"+boss, "") // ada is another one
	f.must(http.StatusOK, http.MethodPatch, group, patchOf(`{"op":"remove","path":"members"}`))
	stays(ada)
	f.must(http.StatusNoContent, http.MethodDelete, group, "")
	stays(ada)
}
