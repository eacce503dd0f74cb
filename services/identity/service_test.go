package identity

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/resource"
)

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// newAccountOf makes an account through the operator's API.
func newAccountOf(t *testing.T, s *Service, name string) contract.ID {
	t.Helper()
	made, err := (&accountAPI{service: s}).CreateAccount(as(t.Context(), s.cfg.Operator), &identityv1.CreateAccountRequest{
		Account: &identityv1.Account{Name: name}, AdministratorName: "Boss of " + name, AdministratorMailAddress: "boss@example.org",
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := contract.ParseID(made.GetAccount().GetAccountId())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestFirstStartMakesTheOperatorOnce(t *testing.T) {
	s := running(t)
	if err := s.FirstStart(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := as(t.Context(), s.cfg.Operator)
	account, err := (&accountAPI{service: s}).GetAccount(ctx, nil)
	if err != nil || account.GetAccount().GetName() != operatorAccountName {
		t.Fatalf("%v, %v", account, err)
	}
	logins, err := (&loginAPI{service: s}).ListLogins(ctx, &identityv1.ListLoginsRequest{})
	if err != nil || len(logins.GetLogins()) != 1 || logins.GetLogins()[0].GetName() != operatorLoginName || len(logins.GetLogins()[0].GetPrivileges()) != 5 {
		t.Fatalf("%v, %v", logins, err)
	}
	link, found, err := s.findLogin(t.Context(), " OPERATOR", "Admin")
	if err != nil || !found || link.Login.String() != logins.GetLogins()[0].GetLoginId() || link.Account != s.cfg.Operator {
		t.Errorf("sign-in finds %v, %v, %v", link, found, err)
	}
	for _, names := range [][2]string{{"operator", "nobody"}, {"nobody", "admin"}} {
		if _, found, err := s.findLogin(t.Context(), names[0], names[1]); found || err != nil {
			t.Errorf("%v is found; %v", names, err)
		}
	}
}

func TestAccountsAreNamedListedAndApart(t *testing.T) {
	s := running(t)
	api, operator := &accountAPI{service: s}, as(t.Context(), s.cfg.Operator)
	var all []string
	for _, name := range []string{"Acme  Ltd", "Umbrella", "Straße"} {
		all = append(all, newAccountOf(t, s, name).String())
	}
	if _, err := api.CreateAccount(operator, &identityv1.CreateAccountRequest{Account: &identityv1.Account{Name: "ACME ltd"}, AdministratorName: "x"}); errs.PublicOf(err).Reason != "NAME_TAKEN" {
		t.Errorf("a name that is taken: %v", err)
	}
	var listed []string
	token := ""
	for {
		page, err := api.ListAccounts(operator, &identityv1.ListAccountsRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.GetAccounts() {
			listed = append(listed, a.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if got := strings.Join(listed, ","); got != "operator,Acme Ltd,Umbrella,Straße" {
		t.Errorf("listed %s", got)
	}
	acme, err := contract.ParseID(all[0])
	if err != nil {
		t.Fatal(err)
	}
	mine := as(t.Context(), acme)
	before, err := api.GetAccount(mine, nil)
	if err != nil {
		t.Fatal(err)
	}
	renamed, err := api.UpdateAccount(mine, &identityv1.UpdateAccountRequest{Account: &identityv1.Account{Name: "Acme", Etag: before.GetAccount().GetEtag()}, UpdateMask: mask("name")})
	if err != nil || renamed.GetAccount().GetName() != "Acme" {
		t.Fatalf("%v, %v", renamed, err)
	}
	if _, err := api.UpdateAccount(mine, &identityv1.UpdateAccountRequest{Account: &identityv1.Account{Name: "Late", Etag: before.GetAccount().GetEtag()}}); !errs.Is(errs.Conflict, err) {
		t.Errorf("an old etag: %v", err)
	}
	if _, err := api.UpdateAccount(mine, &identityv1.UpdateAccountRequest{Account: &identityv1.Account{Name: "umbrella"}}); errs.PublicOf(err).Reason != "NAME_TAKEN" {
		t.Errorf("another's name: %v", err)
	}
	// The former name is free.
	newAccountOf(t, s, "Acme Ltd")

	theirs := as(t.Context(), resource.NewID())
	if _, err := api.GetAccount(theirs, nil); !errs.Is(errs.NotFound, err) {
		t.Errorf("an account that is not there: %v", err)
	}
	logins, err := (&loginAPI{service: s}).ListLogins(mine, &identityv1.ListLoginsRequest{})
	if err != nil || len(logins.GetLogins()) != 1 || logins.GetLogins()[0].GetName() != "Boss of Acme Ltd" || logins.GetLogins()[0].GetMailAddress() != "boss@example.org" {
		t.Errorf("logins of Acme: %v, %v", logins, err)
	}
	if _, err := (&loginAPI{service: s}).GetLogin(operator, &identityv1.GetLoginRequest{LoginId: logins.GetLogins()[0].GetLoginId()}); !errs.Is(errs.NotFound, err) {
		t.Errorf("another account's login is visible: %v", err)
	}
}

func TestLoginsAndGroups(t *testing.T) {
	s := running(t)
	account := newAccountOf(t, s, "Acme")
	ctx, api, groups := as(t.Context(), account), &loginAPI{service: s}, &groupAPI{service: s}
	group, err := groups.CreateGroup(ctx, &identityv1.CreateGroupRequest{Group: &identityv1.Group{DisplayName: "Drafting", DeniedApplicationIds: []string{resource.NewID().String()}}})
	if err != nil || len(group.GetGroup().GetDeniedApplicationIds()) != 1 {
		t.Fatalf("%v, %v", group, err)
	}
	if _, err := groups.CreateGroup(ctx, &identityv1.CreateGroupRequest{Group: &identityv1.Group{DisplayName: "drafting"}}); errs.PublicOf(err).Reason != "NAME_TAKEN" {
		t.Errorf("a group's name that is taken: %v", err)
	}
	request := &identityv1.CreateLoginRequest{RequestId: resource.NewID().String(), Login: &identityv1.Login{
		Name: "ada", DisplayName: "Ada Obi", MailAddress: "ada@example.org", GroupIds: []string{group.GetGroup().GetGroupId()},
		Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT, authzv1.Privilege_PRIVILEGE_APPLICATION_USER},
	}}
	made, err := api.CreateLogin(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	ada := made.GetLogin()
	if refused := ada.GetRefusedApplicationIds(); !slices.Equal(refused, group.GetGroup().GetDeniedApplicationIds()) {
		t.Errorf("what was taken away from the group: %v", refused)
	}
	if ada.GetName() != "ada" || ada.GetDisplayName() != "Ada Obi" || ada.GetMailAddress() != "ada@example.org" || len(ada.GetPrivileges()) != 2 || len(ada.GetGroupIds()) != 1 || ada.GetDisabled() || ada.GetEtag() == "" {
		t.Fatalf("made %v", ada)
	}
	if again, err := api.CreateLogin(ctx, request); err != nil || again.GetLogin().GetLoginId() != ada.GetLoginId() || again.GetLogin().GetEtag() != ada.GetEtag() {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	request.Login.Name = "eve"
	if _, err := api.CreateLogin(ctx, request); errs.PublicOf(err).Reason != "REQUEST_ID_REUSED" {
		t.Errorf("another request with its id: %v", err)
	}
	for what, bad := range map[string]*identityv1.Login{
		"no name": {}, "no such group": {Name: "x", GroupIds: []string{resource.NewID().String()}}, "two addresses": {Name: "x", MailAddress: "a@b.c, d@e.f"},
		"header": {Name: "x", MailAddress: "a@b.c\r\nBcc: d@e.f"}, "unseen": {Name: "x\u202ey"},
	} {
		if _, err := api.CreateLogin(ctx, &identityv1.CreateLoginRequest{Login: bad}); !errs.Is(errs.Invalid, err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if listed, err := api.ListLogins(ctx, &identityv1.ListLoginsRequest{GroupId: group.GetGroup().GetGroupId()}); err != nil || len(listed.GetLogins()) != 1 {
		t.Errorf("members: %v, %v", listed, err)
	}
	if listed, err := api.ListLogins(ctx, &identityv1.ListLoginsRequest{LoginIds: []string{ada.GetLoginId(), resource.NewID().String()}}); err != nil || len(listed.GetLogins()) != 1 || listed.GetLogins()[0].GetName() != "ada" {
		t.Errorf("these alone: %v, %v", listed, err)
	}
	id, _ := contract.ParseID(ada.GetLoginId())
	if own, err := api.GetMyLogin(asLogin(t.Context(), account, id), nil); err != nil || own.GetLogin().GetName() != "ada" {
		t.Errorf("her own login: %v, %v", own, err)
	}
	if _, err := api.GetMyLogin(ctx, nil); !errs.Is(errs.NotFound, err) {
		t.Errorf("the login of a key without one: %v", err)
	}

	update := func(login *identityv1.Login, paths ...string) (*identityv1.Login, error) {
		login.LoginId = ada.GetLoginId()
		done, err := api.UpdateLogin(ctx, &identityv1.UpdateLoginRequest{Login: login, UpdateMask: mask(paths...)})
		return done.GetLogin(), err
	}
	if got, err := update(&identityv1.Login{Disabled: true, Name: "unseen"}, "disabled"); err != nil || !got.GetDisabled() || got.GetName() != "ada" {
		t.Errorf("disabled: %v, %v", got, err)
	}
	if _, err := update(&identityv1.Login{Etag: ada.GetEtag()}, "disabled"); !errs.Is(errs.Conflict, err) {
		t.Errorf("an old etag: %v", err)
	}
	if got, err := update(&identityv1.Login{Name: "Ada O."}, "name", "display_name"); err != nil || got.GetName() != "Ada O." || got.GetDisplayName() != "" {
		t.Errorf("renamed: %v, %v", got, err)
	}
	apart := resource.NewID().String()
	if got, err := update(&identityv1.Login{DeniedApplicationIds: []string{apart}}, "denied_application_ids"); err != nil || !slices.Contains(got.GetRefusedApplicationIds(), apart) || len(got.GetRefusedApplicationIds()) != 2 {
		t.Errorf("taken away from her and her group: %v, %v", got, err)
	}
	if _, err := api.CreateLogin(ctx, &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: "ada"}}); err != nil {
		t.Errorf("the former name is not free: %v", err)
	}
	if _, err := groups.DeleteGroup(ctx, &identityv1.DeleteGroupRequest{GroupId: group.GetGroup().GetGroupId()}); err != nil {
		t.Error(err)
	}
	if got, err := api.GetLogin(ctx, &identityv1.GetLoginRequest{LoginId: ada.GetLoginId()}); err != nil || len(got.GetLogin().GetGroupIds()) != 0 || len(got.GetLogin().GetRefusedApplicationIds()) != 1 {
		t.Errorf("a deleted group is still told: %v, %v", got, err)
	}
	if _, err := api.DeleteLogin(ctx, &identityv1.DeleteLoginRequest{LoginId: ada.GetLoginId()}); err != nil {
		t.Error(err)
	}
	if _, err := api.GetLogin(ctx, &identityv1.GetLoginRequest{LoginId: ada.GetLoginId()}); !errs.Is(errs.NotFound, err) {
		t.Errorf("a deleted login: %v", err)
	}
	if _, err := update(&identityv1.Login{}, "disabled"); !errs.Is(errs.NotFound, err) {
		t.Errorf("a change of a deleted login: %v", err)
	}
}

func TestKeysOfLogins(t *testing.T) {
	s := running(t)
	account := newAccountOf(t, s, "Acme")
	ctx, api := as(t.Context(), account), &apiKeyAPI{service: s}
	login := func(name string, privileges ...authzv1.Privilege) contract.ID {
		made, err := (&loginAPI{service: s}).CreateLogin(ctx, &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: name, Privileges: privileges}})
		if err != nil {
			t.Fatal(err)
		}
		id, _ := contract.ParseID(made.GetLogin().GetLoginId())
		return id
	}
	ada, bob := login("ada", authzv1.Privilege_PRIVILEGE_REPORT), login("bob")
	own := asLogin(t.Context(), account, ada, authzv1.Privilege_PRIVILEGE_REPORT)
	made, err := api.CreateApiKey(own, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{DisplayName: "Ada's script"}})
	if err != nil {
		t.Fatal(err)
	}
	key := made.GetApiKey()
	if !strings.HasPrefix(made.GetKey(), authn.KeyPrefix+key.GetPrefix()+"_") || key.GetDisplayName() != "Ada's script" || key.GetLoginId() != ada.String() || len(key.GetPrivileges()) != 1 || key.GetRevokeTime() != nil {
		t.Errorf("made %v", made)
	}
	if life := time.Until(key.GetExpireTime().AsTime()); life < standardKeyLife-time.Hour || life > standardKeyLife {
		t.Errorf("it expires in %s", life)
	}
	if _, err := api.CreateApiKey(own, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_FINANCIAL}}}); !errs.Is(errs.Invalid, err) {
		t.Errorf("more than its login: %v", err)
	}
	if _, err := api.CreateApiKey(own, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{LoginId: bob.String()}}); !errs.Is(errs.Denied, err) {
		t.Errorf("a key of another's login: %v", err)
	}
	if _, err := api.CreateApiKey(ctx, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{}}); !errs.Is(errs.Invalid, err) {
		t.Errorf("a key of no login: %v", err)
	}
	if _, err := api.CreateApiKey(ctx, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{LoginId: bob.String()}}); err != nil {
		t.Errorf("an administrator's key for another login: %v", err)
	}
	list := func(ctx context.Context) int {
		all, err := api.ListApiKeys(ctx, &identityv1.ListApiKeysRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return len(all.GetApiKeys())
	}
	of := func(ctx context.Context, ids ...string) int {
		some, err := api.ListApiKeys(ctx, &identityv1.ListApiKeysRequest{ApiKeyIds: ids})
		if err != nil {
			t.Fatal(err)
		}
		return len(some.GetApiKeys())
	}
	if both, _ := api.ListApiKeys(ctx, &identityv1.ListApiKeysRequest{}); of(ctx, both.GetApiKeys()[1].GetApiKeyId(), resource.NewID().String()) != 1 ||
		of(own, both.GetApiKeys()[0].GetApiKeyId(), both.GetApiKeys()[1].GetApiKeyId()) != 1 {
		t.Error("of these keys alone, others are told, or another's")
	}
	if mine, _ := api.ListApiKeys(own, &identityv1.ListApiKeysRequest{}); len(mine.GetApiKeys()) == 1 {
		found, err := api.ListApiKeys(ctx, &identityv1.ListApiKeysRequest{Prefixes: []string{mine.GetApiKeys()[0].GetPrefix(), "none"}})
		if err != nil || len(found.GetApiKeys()) != 1 || found.GetApiKeys()[0].GetApiKeyId() != mine.GetApiKeys()[0].GetApiKeyId() {
			t.Errorf("by its beginning: %v, %v", found, err)
		}
	}
	if list(own) != 1 || list(ctx) != 2 {
		t.Errorf("she sees %d keys, an administrator %d", list(own), list(ctx))
	}
	theirs := asLogin(t.Context(), account, bob)
	if _, err := api.GetApiKey(theirs, &identityv1.GetApiKeyRequest{ApiKeyId: key.GetApiKeyId()}); !errs.Is(errs.NotFound, err) {
		t.Errorf("another's key is visible: %v", err)
	}
	if _, err := api.RevokeApiKey(theirs, &identityv1.RevokeApiKeyRequest{ApiKeyId: key.GetApiKeyId()}); !errs.Is(errs.NotFound, err) {
		t.Errorf("another's key is revoked: %v", err)
	}
	nobody := authn.WithCaller(t.Context(), authn.Caller{Account: account, Actor: "key", Reach: authzv1.Reach_REACH_SELF})
	if _, err := api.ListApiKeys(nobody, &identityv1.ListApiKeysRequest{}); !errs.Is(errs.Denied, err) {
		t.Errorf("a key without login and privilege lists keys: %v", err)
	}
	for range 2 {
		if gone, err := api.RevokeApiKey(own, &identityv1.RevokeApiKeyRequest{ApiKeyId: key.GetApiKeyId()}); err != nil || gone.GetApiKey().GetRevokeTime() == nil {
			t.Errorf("revoked: %v, %v", gone, err)
		}
	}
}

// TestAKeyIsNoPerson: a key of a login that is no administrator's makes and ends no keys.
func TestAKeyIsNoPerson(t *testing.T) {
	s := running(t)
	account := newAccountOf(t, s, "Acme")
	const report = authzv1.Privilege_PRIVILEGE_REPORT
	ada, err := (&loginAPI{service: s}).CreateLogin(as(t.Context(), account), &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: "ada", Privileges: []authzv1.Privilege{report}}})
	if err != nil {
		t.Fatal(err)
	}
	login, _ := contract.ParseID(ada.GetLogin().GetLoginId())
	api := &apiKeyAPI{service: s}
	made, err := api.CreateApiKey(asLogin(t.Context(), account, login, report), &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{}})
	if err != nil {
		t.Fatal(err)
	}
	key := authn.WithCaller(t.Context(), authn.Caller{Account: account, Login: login, Actor: "key:1", Privileges: authn.PrivilegesOf(report), Reach: authzv1.Reach_REACH_SELF})
	if _, err := api.CreateApiKey(key, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{}}); !errs.Is(errs.Denied, err) {
		t.Errorf("it makes another: %v", err)
	}
	if _, err := api.RevokeApiKey(key, &identityv1.RevokeApiKeyRequest{ApiKeyId: made.GetApiKey().GetApiKeyId()}); !errs.Is(errs.Denied, err) {
		t.Errorf("it ends one: %v", err)
	}
	if _, err := api.GetApiKey(key, &identityv1.GetApiKeyRequest{ApiKeyId: made.GetApiKey().GetApiKeyId()}); err != nil {
		t.Errorf("it looks at one: %v", err)
	}
}

// TestTheTablesHearOfAllThatTheyShow: what is decided on any aggregate comes to the projection, but
// for whom maintenance was announced to, which nothing shows.
func TestTheTablesHearOfAllThatTheyShow(t *testing.T) {
	for _, eventType := range newRegistry().Types() {
		aggregate := strings.ReplaceAll(strings.Split(eventType, ".")[2], "_", "")
		if aggregate != maintenanceAggregate && !slices.Contains(viewSubjects(), "ev.*.*."+contextName+"."+aggregate+".>") {
			t.Errorf("%s does not come to the tables", eventType)
		}
	}
}

// TestLinkedLogins: a person's logins in two accounts know of each other, until one is removed.
func TestLinkedLogins(t *testing.T) {
	s := running(t)
	var pair [2]Link
	for i, name := range []string{"Acme", "Umbrella"} {
		pair[i].Account = newAccountOf(t, s, name)
		made, err := (&loginAPI{service: s}).CreateLogin(as(t.Context(), pair[i].Account), &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: "ada"}})
		if err != nil {
			t.Fatal(err)
		}
		pair[i].Login, _ = contract.ParseID(made.GetLogin().GetLoginId())
	}
	end := func(of Link) signin.LinkEnd { return signin.LinkEnd{Ref: signin.Ref(of)} }
	position, err := s.commands.linkLogins(t.Context(), "test", eventlog.Command{}, end(pair[0]), end(pair[1]))
	if err != nil {
		t.Fatal(err)
	}
	links := func(of Link) []*identityv1.LinkedLogin {
		t.Helper()
		if err := s.wait(t.Context(), position); err != nil {
			t.Fatal(err)
		}
		own, err := (&loginAPI{service: s}).GetMyLogin(asLogin(t.Context(), of.Account, of.Login), nil)
		if err != nil {
			t.Fatal(err)
		}
		return own.GetLogin().GetLinkedLogins()
	}
	for i, of := range pair {
		if got := links(of); len(got) != 1 || got[0].GetLoginId() != pair[1-i].Login.String() || got[0].GetAccountId() != pair[1-i].Account.String() {
			t.Errorf("linked to %v", got)
		}
	}
	if _, err := s.commands.linkLogins(t.Context(), "test", eventlog.Command{}, end(pair[0]), end(pair[0])); !errs.Is(errs.Invalid, err) {
		t.Errorf("linked to itself: %v", err)
	}
	// Signing in asks for the same, and may end it from either end, once.
	d := s.Directory()
	for i, of := range pair {
		l, found, err := d.Login(t.Context(), of.Account, of.Login)
		if err != nil || !found || len(l.LinksByProvider) != 0 || len(l.Links) != 1 || l.Links[0] != signin.Ref(pair[1-i]) {
			t.Errorf("signing in is told %v, %v", l.Links, err)
		}
		if err := d.Unlink(t.Context(), "test", signin.Ref(of), signin.Ref(pair[1-i])); err != nil {
			t.Error(err)
		}
		if err := d.Unlink(t.Context(), "test", signin.Ref(pair[1-i]), signin.Ref(of)); errs.PublicOf(err).Reason != signin.ReasonNotLinked {
			t.Errorf("ended twice: %v", err)
		}
		for _, of := range pair {
			if got := links(of); len(got) != 0 {
				t.Errorf("unlinked, and linked to %v", got)
			}
		}
		if err := d.Link(t.Context(), "test", end(of), end(pair[1-i])); err != nil {
			t.Fatal(err)
		}
	}
	if position, err = s.commands.deleteLogin(t.Context(), "test", eventlog.Command{}, pair[0].Account, pair[0].Login); err != nil {
		t.Fatal(err)
	}
	if got := links(pair[1]); len(got) != 0 {
		t.Errorf("still linked to %v", got)
	}
}

// TestWhomAnotherAccountsProviderVouchesFor: only the provider that an account has set up, while it
// is switched on, and only for the person whom it has signed in as that login.
func TestWhomAnotherAccountsProviderVouchesFor(t *testing.T) {
	s := running(t)
	account := newAccountOf(t, s, "Acme")
	log := s.commands.together.Log
	change := func(p *identityv1.IdentityProviderChanged) {
		t.Helper()
		data, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		subject := contract.EventSubject(account, "identity", "provider", account.String())
		last, err := log.Last(t.Context(), subject)
		if err == nil {
			_, err = log.Append(t.Context(), subject, last, eventlog.Event{Type: "cetrus.identity.provider.changed.v1", Data: data})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	admit := func(subject string) contract.ID {
		t.Helper()
		id, err := s.Guests(nil).Admit(t.Context(), account, sso.Person{Subject: subject, Name: subject, Create: true}, authn.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	ada, bob := admit("ada"), admit("bob")
	vouched := func(login contract.ID, issuer, subject string) bool {
		t.Helper()
		yes, err := s.Directory().Vouched(t.Context(), signin.Ref{Account: account, Login: login}, signin.Voucher{Issuer: issuer, Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		return yes
	}
	const issuer = "https://issuer.example"
	if vouched(ada, issuer, "ada") {
		t.Error("a provider that there is not")
	}
	change(&identityv1.IdentityProviderChanged{Enabled: true, Issuer: issuer, ClientId: "cetrus"})
	for _, c := range []struct {
		login           contract.ID
		issuer, subject string
		want            bool
	}{
		{ada, issuer, "ada", true},
		{bob, issuer, "bob", true},
		{ada, issuer, "bob", false},
		{ada, issuer, "eve", false},
		{ada, issuer, "", false},
		{ada, "https://mine.example", "ada", false},
		{ada, "", "ada", false},
		{resource.NewID(), issuer, "ada", false},
	} {
		if vouched(c.login, c.issuer, c.subject) != c.want {
			t.Errorf("%+v", c)
		}
	}
	change(&identityv1.IdentityProviderChanged{Issuer: issuer, ClientId: "cetrus"})
	if vouched(ada, issuer, "ada") {
		t.Error("a provider that is switched off")
	}
}

// TestNamesOfPeopleStandNowhereInClear looks for them in all that was written: in the log, and in
// every table of views and secrets.
func TestNamesOfPeopleStandNowhereInClear(t *testing.T) {
	s := running(t)
	account := newAccountOf(t, s, "Wintermute Holding")
	ctx := as(t.Context(), account)
	made, err := (&loginAPI{service: s}).CreateLogin(ctx, &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: "quasimodo", DisplayName: "Esmeralda Frollo", MailAddress: "phoebus@notredame.example"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&apiKeyAPI{service: s}).CreateApiKey(ctx, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{LoginId: made.GetLogin().GetLoginId(), DisplayName: "Gringoire's script"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := (&loginAPI{service: s}).UpdateLogin(ctx, &identityv1.UpdateLoginRequest{Login: &identityv1.Login{LoginId: made.GetLogin().GetLoginId(), Name: "clopin"}, UpdateMask: mask("name")}); err != nil {
		t.Fatal(err)
	}
	secret := [...]string{"wintermute", "quasimodo", "esmeralda", "frollo", "phoebus", "notredame", "gringoire", "clopin", "boss@"}
	look := func(where string, text []byte) {
		for _, word := range secret {
			if bytes.Contains(bytes.ToLower(text), []byte(word)) {
				t.Errorf("%q stands in clear in %s", word, where)
			}
		}
	}
	js, err := jetstream.New(s.nats)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		event, err := eventlog.FromMessage(m.Subject, eventlog.Header(m.Header), m.Data, eventlog.Position(seq))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newRegistry().Decode(event); err != nil {
			t.Fatal(err)
		}
		look("event "+event.Type, m.Data)
		for name, values := range m.Header {
			look("header "+name, []byte(strings.Join(values, " ")))
		}
		look("subject", []byte(m.Subject))
		read++
	}
	if read < 10 {
		t.Fatalf("only %d events: the test proves little", read)
	}
	for _, store := range []*postgres.Store{s.stores.Views, s.stores.Secrets} {
		for _, table := range tablesOf(t, store) {
			rows, err := store.Projector.Query(t.Context(), "SELECT x::text FROM "+pgx.Identifier{table}.Sanitize()+" AS x")
			if err != nil {
				t.Fatal(err)
			}
			texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			look("table "+table, []byte(strings.Join(texts, "\n")))
		}
	}
}

// tablesOf names the tables of a store that hold rows of accounts.
func tablesOf(t *testing.T, store *postgres.Store) []string {
	t.Helper()
	rows, err := store.Projector.Query(t.Context(), `SELECT c.table_name::text FROM information_schema.columns AS c
		JOIN information_schema.tables AS t USING (table_schema, table_name)
		WHERE c.table_schema = $1 AND c.column_name = 'account_id' AND t.table_type = 'BASE TABLE'`, store.Schema)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestAccountsAreWalledOff walks every table of the service: none stands open, and
// an account that has nothing reads nothing, from tables that are full.
func TestAccountsAreWalledOff(t *testing.T) {
	s := running(t)
	account := newAccountOf(t, s, "Acme")
	ctx := as(t.Context(), account)
	if _, err := (&groupAPI{service: s}).CreateGroup(ctx, &identityv1.CreateGroupRequest{Group: &identityv1.Group{DisplayName: "Drafting"}}); err != nil {
		t.Fatal(err)
	}
	logins, err := (&loginAPI{service: s}).ListLogins(ctx, &identityv1.ListLoginsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&apiKeyAPI{service: s}).CreateApiKey(ctx, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{LoginId: logins.GetLogins()[0].GetLoginId()}}); err != nil {
		t.Fatal(err)
	}
	for _, store := range []*postgres.Store{s.stores.Views, s.stores.Secrets} {
		if err := store.CheckWalls(t.Context()); err != nil {
			t.Error(err)
		}
	}
	full := 0
	for _, table := range tablesOf(t, s.stores.Views) {
		count := func(account contract.ID) (n int) {
			if err := s.stores.Views.InAccount(t.Context(), account, func(tx pgx.Tx) error {
				return tx.QueryRow(t.Context(), "SELECT count(*) FROM "+pgx.Identifier{table}.Sanitize()).Scan(&n)
			}); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := count(resource.NewID()); n != 0 {
			t.Errorf("a stranger reads %d rows of %s", n, table)
		}
		if count(account) > 0 {
			full++
		}
	}
	if full < 4 {
		t.Fatalf("only %d tables hold anything: the test proves little", full)
	}
}
