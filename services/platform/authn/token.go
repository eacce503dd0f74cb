package authn

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// TokenLife is the longest that an access token is good for.
const TokenLife = 15 * time.Minute

const (
	// TokenIssuer is the "iss" and "aud" of access tokens: identity makes them, for the
	// services of the same platform alone.
	TokenIssuer = "cetrus"
	// tokenType is the "typ" of access tokens (RFC 9068), so that no other kind of token
	// that the same key signs is taken for one.
	tokenType = "at+jwt"
)

// Token is what an access token says: a session of a login, and what that may.
type Token struct {
	Account    contract.ID
	Login      contract.ID
	Session    contract.ID
	Privileges Privileges
	// Operator says that the account is that of whoever runs this platform.
	Operator bool
	Issued   time.Time
	Expires  time.Time
}

// tokenClaims are a Token as they stand in a JWT.
type tokenClaims struct {
	jwt.RegisteredClaims
	Account    string              `json:"acc"`
	Session    string              `json:"ses"`
	Privileges []authzv1.Privilege `json:"prv"`
	Operator   bool                `json:"opr,omitempty"`
}

// SignToken writes an access token: an EdDSA JWT. keyID names the key among those that
// identity publishes.
func SignToken(t Token, keyID string, key ed25519.PrivateKey) (string, error) {
	claims := tokenClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: TokenIssuer, Audience: jwt.ClaimStrings{TokenIssuer}, Subject: t.Login.String(),
			IssuedAt: jwt.NewNumericDate(t.Issued), ExpiresAt: jwt.NewNumericDate(t.Expires),
		},
		Account: t.Account.String(), Session: t.Session.String(), Privileges: t.Privileges.List(), Operator: t.Operator,
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["typ"], token.Header["kid"] = tokenType, keyID
	text, err := token.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("authn: signing an access token: %w", err)
	}
	return text, nil
}
