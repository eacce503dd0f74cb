package sso

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

const (
	clientID     = "cetrus"
	clientSecret = "between the two of us, nobody else"
	publicURL    = "https://cetrus.example.com"
)

// rest is what single sign-on asks of the rest of identity: it lets everybody in, and notes whom.
type rest struct {
	mu       sync.Mutex
	accounts map[string]contract.ID
	keys     map[contract.ID]keyring.Key
	admitted []Person
	begun    int
}

func (r *rest) FindAccount(_ context.Context, name string) (contract.ID, bool, error) {
	id, ok := r.accounts[name]
	return id, ok, nil
}

func (r *rest) Admit(_ context.Context, _ contract.ID, p Person, _ authn.Origin) (contract.ID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.admitted = append(r.admitted, p)
	return contract.ID{0xa}, nil
}

func (r *rest) Begin(_ context.Context, _, login contract.ID, issuer, subject string, _ authn.Origin) (*identityv1.SignInResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.admitted[len(r.admitted)-1]; issuer == "" || subject != last.Subject {
		return nil, fmt.Errorf("%q vouches for %q, not for %q", issuer, subject, last.Subject)
	}
	r.begun++
	return &identityv1.SignInResponse{Outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN, Session: &identityv1.Session{LoginId: login.String()}}, nil
}

func (r *rest) KeyOf(_ context.Context, _, principal contract.ID) (keyring.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ok := r.keys[principal]
	if !ok {
		key = keyring.NewKey()
		r.keys[principal] = key
	}
	return key, nil
}

// provider is an identity provider that can be made to lie.
type provider struct {
	t      testing.TB
	server *httptest.Server
	key    *rsa.PrivateKey

	mu sync.Mutex
	// says changes what it publishes of itself.
	says map[string]any
	// claims of the next token; nonce and the rest are filled in where they are not there.
	claims map[string]any
	// without are claims that the next token lacks.
	without []string
	// token, where it is set, makes the token of its claims.
	token func(claims map[string]any) string
	// userInfo is what it says beside the token; nil: it has no such endpoint.
	userInfo map[string]any
	// codes that are good, with what the browser asked with.
	codes map[string]url.Values
	// asked are the requests for tokens.
	asked []url.Values
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, key: key, says: map[string]any{}, claims: map[string]any{}, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("GET /jwks", p.jwks)
	mux.HandleFunc("POST /token", p.exchange)
	mux.HandleFunc("GET /userinfo", func(w http.ResponseWriter, _ *http.Request) { answer200(w, p.userInfo) })
	p.server = httptest.NewServer(mux)
	t.Cleanup(p.server.Close)
	return p
}

func answer200(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (p *provider) discovery(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.server.URL
	says := map[string]any{
		"issuer": at, "authorization_endpoint": at + "/authorize", "token_endpoint": at + "/token", "jwks_uri": at + "/jwks",
		"id_token_signing_alg_values_supported": []string{"RS256", "none", "HS256"},
	}
	if p.userInfo != nil {
		says["userinfo_endpoint"] = at + "/userinfo"
	}
	maps.Copy(says, p.says)
	answer200(w, says)
}

func (p *provider) jwks(w http.ResponseWriter, _ *http.Request) {
	answer200(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "one", Algorithm: "RS256", Use: "sig"}}})
}

// authorize is a person who says yes: the browser comes back with a code.
func (p *provider) authorize(at string) url.Values {
	p.t.Helper()
	u, err := url.Parse(at)
	if err != nil || u.Query().Get("response_type") != "code" || u.Query().Get("code_challenge_method") != "S256" || u.Query().Get("client_id") != clientID {
		p.t.Fatalf("the browser was sent to %s; %v", at, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	code := rand.Text()
	p.codes[code] = u.Query()
	back := url.Values{"code": {code}, "state": {u.Query().Get("state")}}
	if p.says["authorization_response_iss_parameter_supported"] == true {
		back.Set("iss", p.server.URL)
	}
	return back
}

func (p *provider) exchange(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = r.ParseForm()
	p.asked = append(p.asked, r.PostForm)
	asked, good := p.codes[r.PostForm.Get("code")]
	delete(p.codes, r.PostForm.Get("code"))
	id, secret, _ := r.BasicAuth()
	if secret, _ = url.QueryUnescape(secret); !good || id != clientID || secret != clientSecret ||
		challenge(r.PostForm.Get("code_verifier")) != asked.Get("code_challenge") || r.PostForm.Get("redirect_uri") != asked.Get("redirect_uri") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"<script>alert(1)</script>"}`))
		return
	}
	now := time.Now()
	claims := map[string]any{
		"iss": p.server.URL, "aud": clientID, "sub": "ada", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "nonce": asked.Get("nonce"),
		"preferred_username": "Ada", "name": "Ada Lovelace", "email": "ada@example.com",
	}
	maps.Copy(claims, p.claims)
	for _, name := range p.without {
		delete(claims, name)
	}
	token := p.sign(claims)
	if p.token != nil {
		token = p.token(claims)
	}
	answer200(w, map[string]any{"access_token": "access", "token_type": "Bearer", "expires_in": 60, "id_token": token})
}

func challenge(verifier string) string {
	sum := crypto.SHA256.New()
	sum.Write([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}

func (p *provider) sign(claims map[string]any) string {
	return signWith(p.t, jose.RS256, p.key, "one", claims)
}

func signWith(t testing.TB, algorithm jose.SignatureAlgorithm, key any, keyID string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", keyID))
	if err != nil {
		t.Error(err)
		return ""
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Error(err)
		return ""
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Error(err)
		return ""
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Error(err)
	}
	return token
}

// unsigned is a token with alg none.
func unsigned(claims map[string]any) string {
	text, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(text) + "."
}

type fixture struct {
	*Service
	t        testing.TB
	rest     *rest
	events   *eventlog.Memory
	store    *postgres.Store
	provider *provider
	account  contract.ID
	now      time.Time
}

func begin(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{
		t: t, events: eventlog.NewMemory(), provider: newProvider(t), account: contract.ID{1}, now: time.Now(),
		store: platformtest.Store(t, postgres.Config{Service: "identitysecrets", Version: 1, Migrations: []postgres.Migrations{Migrations()}}),
		rest:  &rest{accounts: map[string]contract.ID{"works": {1}, "other": {2}}, keys: map[contract.ID]keyring.Key{}},
	}
	f.Service = f.service(true)
	f.enable(f.account, f.provider)
	return f
}

func (f *fixture) service(private bool) *Service {
	f.t.Helper()
	s, err := New(Config{PublicURL: func() (string, error) { return publicURL + "/", nil }, PrivateAddresses: private, Now: func() time.Time { return f.now }},
		Deps{Log: f.events, Secrets: f.store, Keys: f.rest, Directory: f.rest, Sessions: f.rest, Logger: platformtest.Logger(nil)})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func as(ctx context.Context, account contract.ID) context.Context {
	return authn.WithCaller(ctx, authn.Caller{Account: account, Actor: "test", Privileges: authn.AllPrivileges(), Reach: authzv1.Reach_REACH_ACCOUNT})
}

// enable makes a provider an account's.
func (f *fixture) enable(account contract.ID, p *provider) {
	f.t.Helper()
	if err := f.set(account, &identityv1.IdentityProvider{Enabled: true, Issuer: p.server.URL, ClientId: clientID, ClientSecret: clientSecret}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) set(account contract.ID, m *identityv1.IdentityProvider, paths ...string) error {
	req := &identityv1.UpdateIdentityProviderRequest{IdentityProvider: m}
	if len(paths) > 0 {
		req.UpdateMask = mask(paths...)
	}
	_, err := (&api{service: f.Service}).UpdateIdentityProvider(as(f.t.Context(), account), req)
	return err
}

// away sends a browser to the provider of an account.
func (f *fixture) away(accountName string) *identityv1.StartSingleSignOnResponse {
	f.t.Helper()
	started, err := f.start(f.t.Context(), accountName)
	if err != nil {
		f.t.Fatal(err)
	}
	return started
}

// back is a browser that has come back.
func (f *fixture) back(browserKey string, with url.Values) (*identityv1.SignInResponse, error) {
	return f.complete(f.t.Context(), answer{
		account: f.account, browserKey: browserKey, state: with.Get("state"), code: with.Get("code"), issuer: with.Get("iss"), error: with.Get("error"),
	}, authn.Origin{})
}

// whole is a sign-in from its start to its end.
func (f *fixture) whole() (*identityv1.SignInResponse, error) {
	f.t.Helper()
	started := f.away("works")
	return f.back(started.GetBrowserKey(), f.provider.authorize(started.GetAuthorizationUrl()))
}

// refusedFor fails the test unless an attempt was refused, and nobody was let in by it.
func (f *fixture) refusedFor(why string, err error) {
	f.t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Unauthenticated || errs.PublicOf(err).Reason != ReasonRefused {
		f.t.Errorf("%s: %v", why, err)
	}
	if len(f.rest.admitted) > 0 || f.rest.begun > 0 {
		f.t.Errorf("%s: somebody was let in: %v", why, f.rest.admitted)
		f.rest.admitted, f.rest.begun = nil, 0
	}
}
