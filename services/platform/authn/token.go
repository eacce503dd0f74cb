package authn

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// TokenLife is the longest that an access token is good for.
	TokenLife = 15 * time.Minute
	// TokenAudience is whom access tokens are for: the services of the platform.
	TokenAudience = "cetrus"
	// clockSkew is how far the clock of whoever signs may be ahead.
	clockSkew = 30 * time.Second
	// tokenType keeps other tokens that the same key may sign apart (RFC 9068).
	tokenType = "at+jwt"
	// maxTokenBytes is more than any access token has.
	maxTokenBytes = 4096
)

// Issuer is who signs the access tokens of the platform that an account runs.
func Issuer(operator contract.ID) string { return "urn:cetrus:" + operator.String() }

// algorithms is the only one that tokens are signed with: what a token says of itself is
// never asked.
func algorithms() []jose.SignatureAlgorithm { return []jose.SignatureAlgorithm{jose.EdDSA} }

// AccessToken is what an access token says.
type AccessToken struct {
	Account    contract.ID
	Login      contract.ID
	Session    contract.ID
	Privileges Privileges
	// Origin is where the session was switched from; zero: it was signed in to.
	Origin TokenOrigin
	// Issued and Expires are whole seconds.
	Issued  time.Time
	Expires time.Time
}

// TokenOrigin is the session of a linked login with which another one ends, and so its tokens.
type TokenOrigin struct{ Account, Login, Session contract.ID }

// claims is an access token as it is written.
type claims struct {
	jwt.Claims
	Account    string        `json:"account"`
	Session    string        `json:"session"`
	Privileges []string      `json:"privileges"`
	Origin     *originClaims `json:"origin,omitempty"`
}

type originClaims struct {
	Account string `json:"account"`
	Login   string `json:"login"`
	Session string `json:"session"`
}

// Signer makes access tokens.
type Signer struct {
	issuer string
	signer jose.Signer
}

// NewSigner makes a signer of an issuer's key.
func NewSigner(issuer string, key ed25519.PrivateKey) (*Signer, error) {
	if issuer == "" || len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("authn: a signer needs an issuer and an Ed25519 key")
	}
	public := ed25519.PublicKey(key[ed25519.SeedSize:])
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: key, KeyID: KeyID(public), Algorithm: string(jose.EdDSA)}},
		(&jose.SignerOptions{}).WithType(tokenType),
	)
	if err != nil {
		return nil, fmt.Errorf("authn: %w", err)
	}
	return &Signer{issuer: issuer, signer: signer}, nil
}

// Sign makes an access token. One that says no end is good for TokenLife.
func (s *Signer) Sign(t AccessToken) (string, error) {
	if t.Expires.IsZero() {
		t.Expires = t.Issued.Add(TokenLife)
	}
	switch life := t.Expires.Sub(t.Issued); {
	case t.Account.IsZero() || t.Login.IsZero() || t.Session.IsZero():
		return "", errors.New("authn: an access token is of an account, a login and a session")
	case life <= 0 || life > TokenLife:
		return "", fmt.Errorf("authn: an access token is good for at most %s, not %s", TokenLife, life)
	}
	said := claims{
		Claims: jwt.Claims{
			Issuer: s.issuer, Subject: t.Login.String(), Audience: jwt.Audience{TokenAudience},
			IssuedAt: jwt.NewNumericDate(t.Issued), Expiry: jwt.NewNumericDate(t.Expires),
		},
		Account: t.Account.String(), Session: t.Session.String(), Privileges: []string{},
	}
	if o := t.Origin; o != (TokenOrigin{}) {
		said.Origin = &originClaims{Account: o.Account.String(), Login: o.Login.String(), Session: o.Session.String()}
	}
	for _, p := range t.Privileges.List() {
		said.Privileges = append(said.Privileges, privilegeWord(p))
	}
	text, err := jwt.Signed(s.signer).Claims(said).Serialize()
	if err != nil {
		return "", fmt.Errorf("authn: signing: %w", err)
	}
	return text, nil
}

// privilegeWord is a privilege in a token: "account_administrator".
func privilegeWord(p authzv1.Privilege) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), privilegePrefix))
}

// privilegesOfWords reads them; one that is not known here gives no right.
func privilegesOfWords(words []string) Privileges {
	var set Privileges
	for _, word := range words {
		set |= bit(authzv1.Privilege(authzv1.Privilege_value[privilegePrefix+strings.ToUpper(word)]))
	}
	return set
}

// errExpired is of a token that was good once.
var errExpired = errors.New("has expired")

// verify reads a token of the issuer that one of the keys has signed. Time is checked by
// the caller, who may keep what is read.
func verify(text, issuer string, keys KeySet) (AccessToken, error) {
	if len(text) > maxTokenBytes {
		return AccessToken{}, errors.New("is longer than any")
	}
	signed, err := jwt.ParseSigned(text, algorithms())
	if err != nil {
		return AccessToken{}, fmt.Errorf("cannot be read: %w", err)
	}
	header := signed.Headers[0]
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != tokenType {
		return AccessToken{}, fmt.Errorf("is of the type %q", typ)
	}
	key, ok := keys.keys[header.KeyID]
	if !ok {
		return AccessToken{}, fmt.Errorf("is signed with the key %q, which is not known", header.KeyID)
	}
	var said claims
	if err := signed.Claims(key, &said); err != nil {
		return AccessToken{}, fmt.Errorf("is not what was signed: %w", err)
	}
	switch {
	case said.Issuer != issuer:
		return AccessToken{}, fmt.Errorf("is of the issuer %q", said.Issuer)
	case !said.Audience.Contains(TokenAudience):
		return AccessToken{}, fmt.Errorf("is for %q", said.Audience)
	case said.Expiry == nil || said.IssuedAt == nil:
		return AccessToken{}, errors.New("does not say from when to when it is good")
	}
	t := AccessToken{Privileges: privilegesOfWords(said.Privileges), Issued: said.IssuedAt.Time(), Expires: said.Expiry.Time()}
	if said.NotBefore != nil && said.NotBefore.Time().After(t.Issued) {
		t.Issued = said.NotBefore.Time()
	}
	if t.Expires.Sub(said.IssuedAt.Time()) > TokenLife {
		return AccessToken{}, errors.New("is good for longer than any")
	}
	type id struct {
		text string
		into *contract.ID
	}
	ids := []id{{said.Account, &t.Account}, {said.Subject, &t.Login}, {said.Session, &t.Session}}
	if o := said.Origin; o != nil {
		ids = append(ids, id{o.Account, &t.Origin.Account}, id{o.Login, &t.Origin.Login}, id{o.Session, &t.Origin.Session})
	}
	for _, id := range ids {
		if *id.into, err = contract.ParseID(id.text); err != nil || id.into.IsZero() {
			return AccessToken{}, fmt.Errorf("has %q in place of an id", id.text)
		}
	}
	return t, nil
}

// good tells whether the token is so at a time.
func (t AccessToken) good(now time.Time) error {
	if !now.Before(t.Expires) {
		return errExpired
	}
	if now.Add(clockSkew).Before(t.Issued) {
		return errors.New("is not good yet")
	}
	return nil
}
