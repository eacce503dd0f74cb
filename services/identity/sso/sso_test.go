package sso

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog/eventlogtest"
	"github.com/cetrus/cetrus/services/platform/keyring"
)

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

func TestEventsOfEveryVersion(t *testing.T) { eventlogtest.Golden(t, newRegistry(), "testdata/events") }

func TestAPersonSignsIn(t *testing.T) {
	f := begin(t)
	started := f.away("works")
	u, err := url.Parse(started.GetAuthorizationUrl())
	if err != nil || !strings.HasPrefix(started.GetAuthorizationUrl(), f.provider.server.URL+"/authorize?") ||
		u.Query().Get("redirect_uri") != publicURL+"/v1/singleSignOn/"+f.account.String()+"/callback" || u.Query().Get("scope") != "openid profile email" {
		t.Errorf("the browser is sent to %s; %v", started.GetAuthorizationUrl(), err)
	}
	for _, kept := range []string{"state", "nonce"} {
		if strings.Contains(started.GetBrowserKey(), u.Query().Get(kept)) {
			t.Errorf("the browser can read its %s", kept)
		}
	}
	in, err := f.back(started.GetBrowserKey(), f.provider.authorize(started.GetAuthorizationUrl()))
	if err != nil || in.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN {
		t.Fatalf("%v, %v", in, err)
	}
	if p := f.rest.admitted[0]; p.Name != "Ada" || p.DisplayName != "Ada Lovelace" || p.MailAddress != "ada@example.com" || p.Create || p.Link || len(p.Subject) != 64 {
		t.Errorf("admitted: %+v", p)
	}
}

// Two providers, or two people, are never one person; one is always the same.
func TestSubjects(t *testing.T) {
	seen := map[string]string{}
	for _, issuer := range []string{"https://a", "https://a1", "https://b"} {
		for _, sub := range []string{"1", "11", "x"} {
			c := claims{"sub": json.RawMessage(`"` + sub + `"`)}
			one, err := Provider{Issuer: issuer}.person(c)
			other, _ := Provider{Issuer: issuer}.person(c)
			if err != nil || one.Subject != other.Subject || seen[one.Subject] != "" {
				t.Errorf("%s at %s is %s, as %s; %v", sub, issuer, one.Subject, seen[one.Subject], err)
			}
			seen[one.Subject] = sub + " at " + issuer
		}
	}
	for _, sub := range []string{``, `""`, `7`, `null`, `["a"]`, `"` + strings.Repeat("x", 256) + `"`} {
		if _, err := (Provider{}).person(claims{"sub": json.RawMessage(sub)}); err == nil {
			t.Errorf("sub %s is somebody", sub)
		}
	}
}

func TestForgedTokens(t *testing.T) {
	f := begin(t)
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(f.provider.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	past, future := time.Now().Add(-time.Minute).Unix(), time.Now().Add(time.Hour).Unix()
	for _, forged := range []struct {
		what    string
		claims  map[string]any
		without []string
		token   func(map[string]any) string
	}{
		{what: "another issuer", claims: map[string]any{"iss": "https://login.example.net"}},
		{what: "no issuer", without: []string{"iss"}},
		{what: "another audience", claims: map[string]any{"aud": "another"}},
		{what: "no audience", without: []string{"aud"}},
		{what: "more audiences, and no azp", claims: map[string]any{"aud": []string{clientID, "another"}}},
		{what: "more audiences, another's azp", claims: map[string]any{"aud": []string{clientID, "another"}, "azp": "another"}},
		{what: "another's azp", claims: map[string]any{"azp": "another"}},
		{what: "another nonce", claims: map[string]any{"nonce": "another"}},
		{what: "no nonce", without: []string{"nonce"}},
		{what: "expired", claims: map[string]any{"exp": past}},
		{what: "no expiry", without: []string{"exp"}},
		{what: "of the future", claims: map[string]any{"iat": future, "exp": future + 60}},
		{what: "not yet", claims: map[string]any{"nbf": future, "exp": future + 60}},
		{what: "no subject", without: []string{"sub"}},
		{what: "of another access token", claims: map[string]any{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
		{what: "alg none", token: unsigned},
		{what: "HS256 by the client secret", token: func(c map[string]any) string {
			return signWith(t, jose.HS256, []byte(clientSecret), "one", c)
		}},
		{what: "HS256 by the public key", token: func(c map[string]any) string { return signWith(t, jose.HS256, public, "one", c) }},
		{what: "a stranger's key", token: func(c map[string]any) string { return signWith(t, jose.RS256, stranger, "one", c) }},
		{what: "an unknown key", token: func(c map[string]any) string { return signWith(t, jose.RS256, stranger, "two", c) }},
		{what: "claims changed under the signature", token: func(c map[string]any) string {
			good := strings.Split(f.provider.sign(c), ".")
			c["sub"] = "the administrator"
			return good[0] + "." + strings.Split(unsigned(c), ".")[1] + "." + good[2]
		}},
		{what: "no token", token: func(map[string]any) string { return "" }},
		{what: "no JWT", token: func(map[string]any) string { return "a.b.c" }},
	} {
		f.provider.claims, f.provider.without, f.provider.token = forged.claims, forged.without, forged.token
		_, err := f.whole()
		f.refusedFor(forged.what, err)
	}
	f.provider.claims, f.provider.without, f.provider.token = nil, nil, nil
	if _, err := f.whole(); err != nil {
		t.Errorf("an honest one afterwards: %v", err)
	}
}

func TestUserinfoSpeaksOfTheSamePerson(t *testing.T) {
	f := begin(t)
	f.provider.userInfo = map[string]any{"sub": "bob", "preferred_username": "Bob"}
	f.enable(f.account, f.provider)
	f.provider.without = []string{"preferred_username"}
	_, err := f.whole()
	f.refusedFor("another person's userinfo", err)
	f.provider.userInfo["sub"], f.provider.userInfo["email_verified"] = "ada", true
	if _, err := f.whole(); err != nil || f.rest.admitted[0].Name != "Bob" {
		t.Fatalf("%v, %+v", err, f.rest.admitted)
	}
	// It filled what was missing, and said nothing of the address that the token has.
	if c := f.rest.admitted[0]; c.MailAddress != "ada@example.com" {
		t.Errorf("%+v", c)
	}
}

func TestAttemptsOfOthers(t *testing.T) {
	f := begin(t)
	one, other := f.away("works"), f.away("works")
	back := func() url.Values { return f.provider.authorize(one.GetAuthorizationUrl()) }
	change := func(name, value string) url.Values { v := back(); v.Set(name, value); return v }

	for what, try := range map[string]func() error{
		"a browser that began none":    func() error { _, err := f.back("", back()); return err },
		"a browser that began another": func() error { _, err := f.back(other.GetBrowserKey(), back()); return err },
		"a browser key cut short":      func() error { _, err := f.back(one.GetBrowserKey()[:40], back()); return err },
		"a browser key made up":        func() error { _, err := f.back("AAAA", back()); return err },
		"another state":                func() error { _, err := f.back(one.GetBrowserKey(), change("state", "another")); return err },
		"no state":                     func() error { _, err := f.back(one.GetBrowserKey(), change("state", "")); return err },
		"a code made up":               func() error { _, err := f.back(one.GetBrowserKey(), change("code", "another")); return err },
		"another issuer's answer": func() error {
			_, err := f.back(one.GetBrowserKey(), change("iss", "https://login.example.net"))
			return err
		},
		"the code of another's attempt": func() error {
			v := f.provider.authorize(other.GetAuthorizationUrl())
			v.Set("state", back().Get("state"))
			_, err := f.back(one.GetBrowserKey(), v)
			return err
		},
	} {
		f.refusedFor(what, try())
	}

	with := back()
	_, err := f.complete(t.Context(), answer{account: f.account, browserKey: one.GetBrowserKey(), plainCookie: true, state: with.Get("state"), code: with.Get("code")}, authn.Origin{})
	f.refusedFor("an attempt that another host has put there", err)

	_, err = f.back(one.GetBrowserKey(), change("error", "access_denied"))
	f.refusedFor("an error", err)
	if m := errs.PublicOf(err).Message; !strings.Contains(m, "access_denied") {
		t.Error(m)
	}
	for _, evil := range []string{"<script>", "a b", strings.Repeat("x", 65), "\r\nSet-Cookie"} {
		_, err := f.back(one.GetBrowserKey(), change("error", evil))
		f.refusedFor(evil, err)
		if m := errs.PublicOf(err).Message; strings.Contains(m, evil) {
			t.Errorf("a stranger's words go on: %s", m)
		}
	}
	// The provider's own words go no farther either.
	_, err = f.back(one.GetBrowserKey(), change("code", "another"))
	if m := errs.PublicOf(err).Message; strings.Contains(m, "script") || !strings.Contains(m, "invalid_grant") {
		t.Error(m)
	}
}

func TestAnAttemptEndsOnce(t *testing.T) {
	f := begin(t)
	started := f.away("works")
	with := f.provider.authorize(started.GetAuthorizationUrl())
	if _, err := f.back(started.GetBrowserKey(), with); err != nil {
		t.Fatal(err)
	}
	f.rest.admitted, f.rest.begun = nil, 0
	_, err := f.back(started.GetBrowserKey(), with)
	f.refusedFor("the code a second time", err)
	// A provider that gives a second code for the same state does not help.
	_, err = f.back(started.GetBrowserKey(), f.provider.authorize(started.GetAuthorizationUrl()))
	f.refusedFor("the state a second time", err)

	// The token itself would still be good.
	f.provider.claims = map[string]any{"exp": time.Now().Add(time.Hour).Unix()}
	late := f.away("works")
	with = f.provider.authorize(late.GetAuthorizationUrl())
	f.now = f.now.Add(attemptLife)
	_, err = f.back(late.GetBrowserKey(), with)
	f.refusedFor("an attempt that took too long", err)
}

// Whoever administers another account, with a provider of their own, gets nothing that this
// account's provider says.
func TestMixUp(t *testing.T) {
	f := begin(t)
	evil := newProvider(t)
	other := contract.ID{2}
	f.enable(other, evil)
	one, two := f.away("works"), f.away("other")
	code := f.provider.authorize(one.GetAuthorizationUrl()).Get("code")
	state := evil.authorize(two.GetAuthorizationUrl()).Get("state")
	for what, in := range map[string]answer{
		"their attempt, at this account's address": {account: f.account, browserKey: two.GetBrowserKey(), state: state, code: code},
		"this account's attempt, at theirs":        {account: other, browserKey: one.GetBrowserKey(), state: state, code: code},
		"at no account's":                          {account: contract.ID{3}, browserKey: one.GetBrowserKey(), state: state, code: code},
	} {
		_, err := f.complete(t.Context(), in, authn.Origin{})
		f.refusedFor(what, err)
	}
	if len(evil.asked) > 0 {
		t.Errorf("the code was shown to another provider: %v", evil.asked)
	}
	// Where the provider names itself in its answers, one that does not is not its.
	f.provider.says["authorization_response_iss_parameter_supported"] = true
	f.enable(f.account, f.provider)
	if err := f.set(f.account, &identityv1.IdentityProvider{GroupsClaim: "teams"}, "groups_claim"); err != nil {
		t.Fatal(err)
	}
	started := f.away("works")
	with := f.provider.authorize(started.GetAuthorizationUrl())
	with.Del("iss")
	_, err := f.back(started.GetBrowserKey(), with)
	f.refusedFor("an answer that names no issuer", err)
	if _, err := f.whole(); err != nil {
		t.Errorf("one that does: %v", err)
	}
}

func TestSettingsThatChangeEndAttempts(t *testing.T) {
	f := begin(t)
	started := f.away("works")
	with := f.provider.authorize(started.GetAuthorizationUrl())
	if err := f.set(f.account, &identityv1.IdentityProvider{GroupsClaim: "teams"}, "groups_claim"); err != nil {
		t.Fatal(err)
	}
	_, err := f.back(started.GetBrowserKey(), with)
	f.refusedFor("after a change", err)
	started = f.away("works")
	with = f.provider.authorize(started.GetAuthorizationUrl())
	if err := f.set(f.account, &identityv1.IdentityProvider{}, "enabled"); err != nil {
		t.Fatal(err)
	}
	_, err = f.back(started.GetBrowserKey(), with)
	f.refusedFor("after it was switched off", err)

	// Whether an account is there does not show.
	_, off := f.start(t.Context(), "works")
	_, none := f.start(t.Context(), "nobody's")
	if off == nil || none == nil || errs.PublicOf(off).Message != errs.PublicOf(none).Message || errs.PublicOf(off).Reason != ReasonOff {
		t.Errorf("%v and %v", off, none)
	}
}

func TestTheSecretIsTold(t *testing.T) {
	f := begin(t)
	a := &api{service: f.Service}
	got, err := a.GetIdentityProvider(as(t.Context(), f.account), &identityv1.GetIdentityProviderRequest{})
	if err != nil || !got.GetIdentityProvider().GetHasClientSecret() || strings.Contains(prototext.Format(got), clientSecret) {
		t.Errorf("%v, %v", got, err)
	}
	for _, e := range f.events.All() {
		if strings.Contains(string(e.Data), clientSecret) {
			t.Errorf("the log has it: %v", e)
		}
	}
	var rows, readable int
	if err := f.store.Projector.QueryRow(t.Context(), "SELECT count(*), count(*) FILTER (WHERE position($1::bytea IN sealed) > 0) FROM provider_secret", []byte(clientSecret)).Scan(&rows, &readable); err != nil || rows != 1 || readable != 0 {
		t.Errorf("%d secrets, %d in clear; %v", rows, readable, err)
	}

	// An update that says nothing of it keeps it; one that names another issuer does not.
	full := got.GetIdentityProvider()
	full.CreateLogins = true
	if err := f.set(f.account, full); err != nil {
		t.Fatal(err)
	}
	if _, err := f.whole(); err != nil {
		t.Errorf("with the secret of before: %v", err)
	}
	thief := newProvider(t)
	err = f.set(f.account, &identityv1.IdentityProvider{Issuer: thief.server.URL}, "issuer")
	if p := errs.PublicOf(err); err == nil || len(p.Fields) != 1 || p.Fields[0].Path != "identity_provider.client_secret" {
		t.Errorf("another issuer gets the secret: %v", err)
	}
	if err := f.set(f.account, &identityv1.IdentityProvider{Issuer: thief.server.URL}, "issuer", "client_secret"); err != nil {
		t.Errorf("without a secret: %v", err)
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	f := begin(t)
	at := f.provider.server.URL
	for field, m := range map[string]*identityv1.IdentityProvider{
		"issuer":                  {Enabled: true, ClientId: clientID},
		"client_id":               {Enabled: true, Issuer: at, ClientSecret: "x"},
		"issuer ":                 {Enabled: true, Issuer: "ftp://example.com", ClientId: clientID, ClientSecret: "x"},
		"issuer  ":                {Enabled: true, Issuer: "https://a:b@example.com", ClientId: clientID, ClientSecret: "x"},
		"issuer   ":               {Enabled: true, Issuer: at + "/?x=1", ClientId: clientID, ClientSecret: "x"},
		"issuer    ":              {Enabled: true, Issuer: at + "/elsewhere", ClientId: clientID, ClientSecret: "x"},
		"group_mappings[1].group": {Issuer: at, ClientSecret: "x", GroupMappings: []*identityv1.GroupMapping{{Group: "a"}, {Group: "a"}}},
	} {
		err := f.set(f.account, m)
		if p := errs.PublicOf(err); err == nil || !slices.ContainsFunc(p.Fields, func(w errs.Field) bool { return w.Path == "identity_provider."+strings.TrimSpace(field) }) {
			t.Errorf("%q: %v", field, err)
		}
	}
	err := f.set(f.account, &identityv1.IdentityProvider{Etag: "77", GroupsClaim: "x"}, "groups_claim")
	if errs.PublicOf(err).Reason != "ETAG_MISMATCH" {
		t.Errorf("an old etag: %v", err)
	}
	f.provider.says["issuer"] = "https://login.example.net"
	if err := f.set(f.account, &identityv1.IdentityProvider{Enabled: true, Issuer: at, ClientId: "x"}, "enabled", "client_id"); err == nil || !strings.Contains(errs.PublicOf(err).Fields[0].Description, "calls itself otherwise") {
		t.Errorf("a provider that calls itself otherwise: %v", err)
	}
}

// Administrators of accounts do not see the network that the platform runs in.
func TestPrivateNetworks(t *testing.T) {
	f := begin(t)
	f.Service = f.service(false)
	for _, issuer := range []string{f.provider.server.URL, strings.Replace(f.provider.server.URL, "http:", "https:", 1), "https://localhost:1", "https://[::1]:1", "https://169.254.169.254", "https://10.0.0.1"} {
		err := f.set(f.account, &identityv1.IdentityProvider{Enabled: true, Issuer: issuer, ClientId: clientID, ClientSecret: "x"})
		if err == nil {
			t.Fatalf("%s is asked", issuer)
		}
		if d := errs.PublicOf(err).Fields; len(d) != 1 || !strings.Contains(d[0].Description, errPrivate.Error()) && !strings.Contains(d[0].Description, errPlain.Error()) {
			t.Errorf("%s: %v", issuer, err)
		}
	}
	for address, public := range map[string]bool{
		"8.8.8.8": true, "2001:4860:4860::8888": true, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "127.0.0.1": false, "169.254.169.254": false,
		"100.64.0.1": false, "0.0.0.0": false, "255.255.255.255": false, "224.0.0.1": false, "::1": false, "::": false, "fe80::1%eth0": false, "fc00::1": false,
		"::ffff:10.0.0.1": false, "::ffff:127.0.0.1": false, "64:ff9b::a00:1": false, "2002:a00:1::": false, "198.18.0.1": false,
	} {
		if isPublic(netip.MustParseAddr(address)) != public {
			t.Errorf("%s: public is not %v", address, public)
		}
	}
}

func TestWhatProvidersCannotDo(t *testing.T) {
	reached := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer inside.Close()
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, inside.URL, http.StatusFound)
			return
		}
		chunk := make([]byte, 1<<16)
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer outside.Close()
	client := newHTTPClient(true)
	for _, path := range []string{"/away", "/endless"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, outside.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		read := 0
		for buffer := make([]byte, 1<<16); ; {
			n, err := resp.Body.Read(buffer)
			if read += n; err != nil {
				break
			}
		}
		_ = resp.Body.Close()
		if read > maxAnswerBytes || reached {
			t.Errorf("%s: %d bytes, inside reached: %v", path, read, reached)
		}
	}
	for at, wanted := range map[string]bool{"http://localhost:1": true, "http://127.0.0.1": true, "http://[::1]:1": true, "http://10.0.0.1": false, "http://example.com": false, "ftp://localhost": false, "https://example.com": true} {
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		if got := checkScheme(u, true) == nil; got != wanted {
			t.Errorf("%s: %v", at, got)
		}
	}
}

func TestGroupsAndDomains(t *testing.T) {
	f := begin(t)
	group := contract.ID{7}
	if err := f.set(f.account, &identityv1.IdentityProvider{
		CreateLogins: true, GroupMappings: []*identityv1.GroupMapping{
			{Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_APPLICATION_USER}},
			{Group: "bosses", Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}, GroupIds: []string{group.String()}},
			{Group: "admins", Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR}},
		},
	}, "create_logins", "group_mappings"); err != nil {
		t.Fatal(err)
	}
	user, report := authzv1.Privilege_PRIVILEGE_APPLICATION_USER, authzv1.Privilege_PRIVILEGE_REPORT
	for _, c := range []struct {
		groups any
		want   authn.Privileges
		in     int
	}{
		{nil, authn.PrivilegesOf(user), 0},
		{[]string{}, authn.PrivilegesOf(user), 0},
		{[]string{"bosses", "others"}, authn.PrivilegesOf(user, report), 1},
		{"bosses", authn.PrivilegesOf(user, report), 1},
		{[]any{"BOSSES", 7, nil, "", map[string]any{"a": "admins"}}, authn.PrivilegesOf(user), 0},
		{map[string]any{"admins": true}, authn.PrivilegesOf(user), 0},
	} {
		f.rest.admitted = nil
		f.provider.claims = map[string]any{"groups": c.groups}
		if _, err := f.whole(); err != nil {
			t.Fatal(err)
		}
		p := f.rest.admitted[0]
		if p.Privileges != c.want || len(p.Groups) != c.in || len(p.ManagedGroups) != 1 || !p.Create || p.Managed != authn.PrivilegesOf(user, report, authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR) {
			t.Errorf("groups %v give %+v", c.groups, p)
		}
	}
	if err := f.set(f.account, &identityv1.IdentityProvider{MailDomains: []string{"Example.com"}}, "mail_domains"); err != nil {
		t.Fatal(err)
	}
	f.rest.admitted, f.rest.begun = nil, 0
	for address, verified := range map[string]any{
		"ada@example.net": true, "ada@sub.example.com": true, "ada@example.com.": true, "@example.com": true, "": true,
		"ada@example.com@example.net": true, "ada@example.com": false, "eve@example.com": nil, "mal@example.com": "yes",
	} {
		f.provider.claims = map[string]any{"email": address, "email_verified": verified}
		_, err := f.whole()
		f.refusedFor(address, err)
	}
	for _, verified := range []any{true, "true"} {
		f.provider.claims = map[string]any{"email": "ada@EXAMPLE.com", "email_verified": verified}
		if _, err := f.whole(); err != nil {
			t.Error(err)
		}
	}
}

// An address that nobody has confirmed is no name to go by, and no place to send links to.
func TestUnconfirmedAddresses(t *testing.T) {
	p := Provider{NameClaim: "email"}
	for verified, want := range map[string]string{`true`: "a@b.example", `false`: "", `"false"`: ""} {
		who, err := p.person(claims{"sub": json.RawMessage(`"1"`), "email": json.RawMessage(`"a@b.example"`), "email_verified": json.RawMessage(verified)})
		if err != nil || who.Name != want || who.MailAddress != want {
			t.Errorf("verified %s: %+v, %v", verified, who, err)
		}
	}
}

func TestAProviderThatIsDown(t *testing.T) {
	f := begin(t)
	started := f.away("works")
	with := f.provider.authorize(started.GetAuthorizationUrl())
	f.provider.server.Close()
	if _, err := f.back(started.GetBrowserKey(), with); errs.PublicOf(err).Reason != ReasonProvider || strings.Contains(errs.PublicOf(err).Message, "127.0.0.1") {
		t.Errorf("%v", err)
	}
	f.now = f.now.Add(2 * knownFor)
	if _, err := f.start(t.Context(), "works"); errs.PublicOf(err).Reason != ReasonProvider {
		t.Errorf("%v", err)
	}
}

func FuzzClaims(f *testing.F) {
	f.Add([]byte(`{"sub":"a","groups":["x"],"email":"a@b.example","email_verified":true}`))
	f.Add([]byte(`{"sub":7,"groups":{"x":[[[]]]},"email":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c claims
		if json.Unmarshal(text, &c) != nil {
			return
		}
		p := Provider{MailDomains: []string{"b.example"}, Mappings: []Mapping{{Group: "x", Privileges: 2}}}
		who, err := p.person(c)
		if err != nil {
			return
		}
		if !c.mailConfirmed() || !strings.HasSuffix(strings.ToLower(c.text("email")), "@b.example") || len(who.Subject) != 64 || who.Privileges&^who.Managed != 0 {
			t.Errorf("%s: %+v", text, who)
		}
	})
}

func FuzzOpenAttempt(f *testing.F) {
	key, account := keyring.NewKey(), contract.ID{1}
	good, err := attempt{State: "s", Nonce: "n", Verifier: "v"}.seal(key, account)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good + "A")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := openAttempt(key, account, text); err == nil && text != good {
			t.Errorf("%q opens", text)
		} else if err != nil && !errors.Is(err, errAttempt) {
			t.Error(err)
		}
	})
}
