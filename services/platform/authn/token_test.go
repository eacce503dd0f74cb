package authn_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const issuer = "https://cetrus.example"

// mint is an issuer with one key, and what judges its tokens at the time now.
type mint struct {
	public ed25519.PublicKey
	key    ed25519.PrivateKey
	signer *authn.Signer
	tokens *authn.Tokens
	now    time.Time
}

func newMint(t testing.TB) *mint {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &mint{public: public, key: key, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	if m.signer, err = authn.NewSigner(issuer, key); err != nil {
		t.Fatal(err)
	}
	m.tokens = authn.NewTokens(issuer, func() time.Time { return m.now })
	m.tokens.SetKeys(authn.NewKeySet(public))
	return m
}

func (m *mint) token() authn.AccessToken {
	return authn.AccessToken{
		Account: contract.ID{1}, Login: contract.ID{2}, Session: contract.ID{3}, Issued: m.now, Expires: m.now.Add(authn.TokenLife),
		Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT, authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR),
	}
}

func (m *mint) sign(t testing.TB, token authn.AccessToken) string {
	t.Helper()
	text, err := m.signer.Sign(token)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// forge signs what it is told, with the mint's key where key is nil.
func (m *mint) forge(t testing.TB, key ed25519.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	if key == nil {
		key = m.key
	}
	signed := part(t, header) + "." + part(t, claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(signed)))
}

func part(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func (m *mint) header() map[string]any {
	return map[string]any{"alg": "EdDSA", "typ": "at+jwt", "kid": authn.KeyID(m.public)}
}

func (m *mint) claims() map[string]any {
	return map[string]any{
		"iss": issuer, "aud": authn.TokenAudience, "sub": contract.ID{2}.String(), "account": contract.ID{1}.String(), "session": contract.ID{3}.String(),
		"privileges": []string{"report"}, "iat": m.now.Unix(), "exp": m.now.Add(time.Minute).Unix(),
	}
}

func with(base, changes map[string]any) map[string]any {
	out := maps.Clone(base)
	for name, value := range changes {
		if value == nil {
			delete(out, name)
		} else {
			out[name] = value
		}
	}
	return out
}

func TestTokensSayWhatWasSigned(t *testing.T) {
	m := newMint(t)
	rapid.Check(t, func(r *rapid.T) {
		id := rapid.Custom(func(r *rapid.T) contract.ID {
			b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "id")
			return contract.ID(b)
		}).Filter(func(id contract.ID) bool { return !id.IsZero() })
		want := authn.AccessToken{
			Account: id.Draw(r, "account"), Login: id.Draw(r, "login"), Session: id.Draw(r, "session"),
			Privileges: authn.Privileges(rapid.Uint32Range(0, 31).Draw(r, "privileges") << 1),
			Issued:     m.now, Expires: m.now.Add(time.Duration(rapid.IntRange(1, 900).Draw(r, "life")) * time.Second),
		}
		if rapid.Bool().Draw(r, "switched") {
			want.Origin = authn.TokenOrigin{Account: id.Draw(r, "origin account"), Login: id.Draw(r, "origin login"), Session: id.Draw(r, "origin session")}
		}
		text, err := m.signer.Sign(want)
		if err != nil {
			r.Fatal(err)
		}
		for range 2 { // the second time it is remembered
			got, err := m.tokens.Check(text)
			got.Issued, got.Expires = got.Issued.UTC(), got.Expires.UTC()
			if err != nil || got != want {
				r.Fatalf("%+v, %v, not %+v", got, err, want)
			}
		}
	})
}

func TestSignersRefuseTokensThatNobodyShouldHave(t *testing.T) {
	m := newMint(t)
	for name, change := range map[string]func(*authn.AccessToken){
		"no account":  func(a *authn.AccessToken) { a.Account = contract.ID{} },
		"no login":    func(a *authn.AccessToken) { a.Login = contract.ID{} },
		"no session":  func(a *authn.AccessToken) { a.Session = contract.ID{} },
		"too long":    func(a *authn.AccessToken) { a.Expires = a.Issued.Add(authn.TokenLife + time.Second) },
		"ends before": func(a *authn.AccessToken) { a.Expires = a.Issued },
	} {
		token := m.token()
		change(&token)
		if text, err := m.signer.Sign(token); err == nil {
			t.Errorf("%s: signed: %s", name, text)
		}
	}
	if _, err := authn.NewSigner("", m.key); err == nil {
		t.Error("a signer without an issuer")
	}
	if _, err := authn.NewSigner(issuer, m.key[:10]); err == nil {
		t.Error("a signer without a key")
	}
}

// Each of these has been a hole somewhere.
func TestForgedTokensAreRefused(t *testing.T) {
	m := newMint(t)
	_, otherKey, _ := ed25519.GenerateKey(rand.Reader)
	otherID := authn.KeyID(otherKey.Public().(ed25519.PublicKey))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	hs256 := func(secret []byte) string {
		signed := part(t, with(m.header(), map[string]any{"alg": "HS256"})) + "." + part(t, m.claims())
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	jwks, err := authn.NewKeySet(m.public).JWKS()
	if err != nil {
		t.Fatal(err)
	}
	rs256 := func() string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: rsaKey, KeyID: authn.KeyID(m.public)}}, (&jose.SignerOptions{}).WithType("at+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		payload, _ := json.Marshal(m.claims())
		signed, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := signed.CompactSerialize()
		return text
	}
	good := m.forge(t, nil, m.header(), m.claims())
	if _, err := m.tokens.Check(good); err != nil {
		t.Fatalf("the forger's own tools do not make good tokens: %v", err)
	}
	parts := strings.Split(good, ".")
	claims := func(changes map[string]any) string {
		return m.forge(t, nil, m.header(), with(m.claims(), changes))
	}
	header := func(changes map[string]any) string {
		return m.forge(t, nil, with(m.header(), changes), m.claims())
	}
	embedded := json.RawMessage(`{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(otherKey.Public().(ed25519.PublicKey)) + `"}`)
	full := `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`
	for name, text := range map[string]string{
		"nothing":                      "",
		"no token":                     "eyJ",
		"not compact":                  full,
		"alg none, no signature":       part(t, with(m.header(), map[string]any{"alg": "none"})) + "." + parts[1] + ".",
		"alg none, signed":             header(map[string]any{"alg": "none"}),
		"alg None":                     header(map[string]any{"alg": "None"}),
		"no alg":                       header(map[string]any{"alg": nil}),
		"HS256 under the public key":   hs256(m.public),
		"HS256 under the key set":      hs256(jwks),
		"HS256 under nothing":          hs256(nil),
		"RS256":                        rs256(),
		"another's key, our name":      m.forge(t, otherKey, m.header(), m.claims()),
		"another's key and name":       m.forge(t, otherKey, with(m.header(), map[string]any{"kid": otherID}), m.claims()),
		"a key of its own":             m.forge(t, otherKey, with(m.header(), map[string]any{"jwk": embedded}), m.claims()),
		"a key of its own, no name":    m.forge(t, otherKey, with(m.header(), map[string]any{"jwk": embedded, "kid": nil}), m.claims()),
		"a key from elsewhere":         m.forge(t, otherKey, with(m.header(), map[string]any{"jku": "http://127.0.0.1/keys"}), m.claims()),
		"no key's name":                header(map[string]any{"kid": nil}),
		"an unknown key's name":        header(map[string]any{"kid": otherID}),
		"a path for a name":            header(map[string]any{"kid": "../../etc/passwd"}),
		"another type":                 header(map[string]any{"typ": "JWT"}),
		"no type":                      header(map[string]any{"typ": nil}),
		"an extension to be heeded":    header(map[string]any{"crit": []string{"x"}, "x": 1}),
		"another issuer":               claims(map[string]any{"iss": "https://evil.example"}),
		"an issuer that begins alike":  claims(map[string]any{"iss": issuer + ".evil.example"}),
		"no issuer":                    claims(map[string]any{"iss": nil}),
		"another audience":             claims(map[string]any{"aud": "grafana"}),
		"other audiences":              claims(map[string]any{"aud": []string{"a", "b"}}),
		"no audience":                  claims(map[string]any{"aud": nil}),
		"expired":                      claims(map[string]any{"iat": m.now.Add(-2 * time.Minute).Unix(), "exp": m.now.Add(-time.Second).Unix()}),
		"expires now":                  claims(map[string]any{"iat": m.now.Add(-time.Minute).Unix(), "exp": m.now.Unix()}),
		"no end":                       claims(map[string]any{"exp": nil}),
		"no beginning":                 claims(map[string]any{"iat": nil}),
		"an end that is no time":       claims(map[string]any{"exp": "tomorrow"}),
		"an end beyond all":            claims(map[string]any{"exp": 1e300}),
		"not yet":                      claims(map[string]any{"iat": m.now.Add(time.Minute).Unix(), "exp": m.now.Add(2 * time.Minute).Unix()}),
		"not before":                   claims(map[string]any{"nbf": m.now.Add(45 * time.Second).Unix()}),
		"longer than any":              claims(map[string]any{"exp": m.now.Add(authn.TokenLife + time.Second).Unix()}),
		"no account":                   claims(map[string]any{"account": nil}),
		"an account that is none":      claims(map[string]any{"account": "*"}),
		"the account of zeros":         claims(map[string]any{"account": contract.ID{}.String()}),
		"no login":                     claims(map[string]any{"sub": nil}),
		"no session":                   claims(map[string]any{"session": ""}),
		"two of a claim":               m.twice(t),
		"other claims, same signature": parts[0] + "." + part(t, with(m.claims(), map[string]any{"privileges": []string{"account_administrator"}})) + "." + parts[2],
		"no signature":                 parts[0] + "." + parts[1] + ".",
		"half a signature":             parts[0] + "." + parts[1] + "." + parts[2][:43],
		"a fourth part":                good + "." + parts[2],
		"longer than it may be":        claims(map[string]any{"x": strings.Repeat("x", 5000)}),
	} {
		got, err := m.tokens.Check(text)
		if !errs.Is(errs.Unauthenticated, err) || got != (authn.AccessToken{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		reason := authn.ReasonInvalidToken
		if strings.HasPrefix(name, "expire") {
			reason = authn.ReasonExpiredToken
		}
		if p := errs.PublicOf(err); p.Reason != reason || text != "" && strings.Contains(p.Message, text) {
			t.Errorf("%s: %+v, not %s", name, p, reason)
		}
	}
}

// twice is a token with two of one claim, of which readers may take either.
func (m *mint) twice(t testing.TB) string {
	t.Helper()
	body, err := json.Marshal(m.claims())
	if err != nil {
		t.Fatal(err)
	}
	body = append([]byte(`{"account":"`+contract.ID{9}.String()+`",`), body[1:]...)
	signed := part(t, m.header()) + "." + base64.RawURLEncoding.EncodeToString(body)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(m.key, []byte(signed)))
}

func TestAPrivilegeThatIsNotKnownGivesNone(t *testing.T) {
	m := newMint(t)
	text := m.forge(t, nil, m.header(), with(m.claims(), map[string]any{"privileges": []string{"report", "unspecified", "emperor", "PRIVILEGE_FINANCIAL", ""}}))
	got, err := m.tokens.Check(text)
	if err != nil || got.Privileges != authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT) {
		t.Errorf("%v, %v", got.Privileges.List(), err)
	}
}

// What was checked once is not good for longer for it.
func TestRememberedTokensExpireAndEndWithTheirKey(t *testing.T) {
	m := newMint(t)
	text := m.sign(t, m.token())
	check := func(what, reason string) {
		t.Helper()
		_, err := m.tokens.Check(text)
		if reason == "" && err != nil || reason != "" && (err == nil || errs.PublicOf(err).Reason != reason) {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("fresh", "")
	m.now = m.now.Add(authn.TokenLife - time.Second)
	check("a second before its end", "")
	m.now = m.now.Add(time.Second)
	check("at its end", authn.ReasonExpiredToken)
	m.now = m.now.Add(-time.Minute)

	other, otherKey, _ := ed25519.GenerateKey(rand.Reader)
	m.tokens.SetKeys(authn.NewKeySet(m.public, other))
	check("while another key comes", "")
	signer, err := authn.NewSigner(issuer, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := signer.Sign(m.token())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.tokens.Check(fresh); err != nil {
		t.Errorf("of the other key: %v", err)
	}
	m.tokens.SetKeys(authn.NewKeySet(other))
	check("when its key has gone", authn.ReasonInvalidToken)
	if _, err := m.tokens.Check(fresh); err != nil {
		t.Errorf("of the key that stays: %v", err)
	}
}

func TestKeySetsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var keys []ed25519.PublicKey
		for range rapid.IntRange(0, 4).Draw(r, "keys") {
			seed := rapid.SliceOfN(rapid.Byte(), ed25519.SeedSize, ed25519.SeedSize).Draw(r, "seed")
			keys = append(keys, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
		}
		set := authn.NewKeySet(keys...)
		text, err := set.JWKS()
		if err != nil {
			r.Fatal(err)
		}
		again, err := authn.ParseKeySet(text)
		if err != nil || again.Len() != set.Len() {
			r.Fatalf("%s: %d keys, not %d: %v", text, again.Len(), set.Len(), err)
		}
		if same, err := again.JWKS(); err != nil || string(same) != string(text) {
			r.Fatalf("%s became %s: %v", text, same, err)
		}
	})
	if set := authn.NewKeySet(nil, make(ed25519.PublicKey, 5)); set.Len() != 0 {
		t.Error("what is no key is in the set")
	}
}

func TestKeySetsWithOtherThingsAreRefused(t *testing.T) {
	m := newMint(t)
	good, err := authn.NewKeySet(m.public).JWKS()
	if err != nil {
		t.Fatal(err)
	}
	private, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: m.key, KeyID: authn.KeyID(m.public)}}})
	symmetric, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: []byte("secret"), KeyID: "x"}}})
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "{", "private": string(private), "symmetric": string(symmetric),
		"another name": strings.Replace(string(good), authn.KeyID(m.public), "mine", 1),
		"to encrypt":   strings.Replace(string(good), `"sig"`, `"enc"`, 1),
		"another alg":  strings.Replace(string(good), `"EdDSA"`, `"HS256"`, 1),
		"too large":    string(good) + strings.Repeat(" ", 70_000),
	} {
		if set, err := authn.ParseKeySet([]byte(text)); err == nil {
			t.Errorf("%s: %d keys", name, set.Len())
		}
	}
}

// Whatever comes as a token, only what was signed is believed.
func FuzzToken(f *testing.F) {
	m := newMint(f)
	want := m.token()
	text := m.sign(f, want)
	f.Add(text)
	f.Add(m.forge(f, nil, with(m.header(), map[string]any{"alg": "none"}), m.claims()))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, other string) {
		got, err := m.tokens.Check(other)
		if err == nil && (got.Account != want.Account || got.Privileges&^want.Privileges != 0 || got.Login != want.Login) {
			t.Errorf("%q: %+v", other, got)
		}
		_, _ = authn.ParseKeySet([]byte(other))
	})
}
