package enrollment

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// Prefix begins a token, so that it is known for one wherever it lies about.
	Prefix = "cetrus-enroll-"
	// ServerName is the name in the certificate of each Manager of a site. Managers do not
	// know by which names agents call them, and the authority signs for nobody else.
	ServerName = "cetrus-manager"
	// MaxRequestBytes is how long a request for a certificate may be.
	MaxRequestBytes = 4096

	// IDBytes is how long a token's ID is; one that was made at the platform begins its id there.
	IDBytes = 8

	pinBytes, secretBytes, sumBytes = sha256.Size, 16, 4
	bodyBytes                       = pinBytes + IDBytes + secretBytes
)

// Token admits agents to a site.
type Token struct {
	// Authority is the SHA-256 of the certificate of the site's authority.
	Authority [pinBytes]byte
	// ID names the token where it is spoken about.
	ID [IDBytes]byte
	// Secret is known to whoever holds the token, and to nobody else.
	Secret [secretBytes]byte
}

// NewToken draws a token of a site.
func NewToken(authority *x509.Certificate) Token {
	t := Token{Authority: Pin(authority)}
	_, _ = rand.Read(t.ID[:])
	_, _ = rand.Read(t.Secret[:])
	return t
}

// Text is the token as it is handed out.
func (t Token) Text() string {
	body := append(t.Authority[:], t.Credential()...)
	sum := sha256.Sum256(body)
	return Prefix + base64.RawURLEncoding.EncodeToString(append(body, sum[:sumBytes]...))
}

// String keeps the secret out of logs.
func (t Token) String() string { return fmt.Sprintf("token %x", t.ID) }

// GoString does so too.
func (t Token) GoString() string { return t.String() }

// MarshalText does so too, for JSON.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// ParseToken reads what Text wrote. The text is not in the error.
func ParseToken(text string) (t Token, err error) {
	coded, ok := strings.CutPrefix(strings.TrimSpace(text), Prefix)
	if !ok {
		return t, fmt.Errorf("an enrolment token begins with %q; `cetrus-manager token create` prints one", Prefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(coded)
	if err != nil || len(raw) != bodyBytes+sumBytes {
		return t, errors.New("the enrolment token is not whole: copy all of it, from \"" + Prefix + "\" to its end")
	}
	sum := sha256.Sum256(raw[:bodyBytes])
	if !bytes.Equal(sum[:sumBytes], raw[bodyBytes:]) {
		return t, errors.New("the enrolment token has a wrong letter in it: copy it again")
	}
	copy(t.Authority[:], raw)
	return t, t.parseCredential(raw[pinBytes:bodyBytes])
}

// Credential is what a Manager is told of the token.
func (t Token) Credential() []byte { return append(t.ID[:], t.Secret[:]...) }

// ParseCredential reads what Credential gave; the authority is not known by it.
func ParseCredential(raw []byte) (t Token, err error) { return t, t.parseCredential(raw) }

func (t *Token) parseCredential(raw []byte) error {
	if len(raw) != IDBytes+secretBytes {
		return fmt.Errorf("the token has %d bytes, not %d", len(raw), IDBytes+secretBytes)
	}
	copy(t.ID[:], raw)
	copy(t.Secret[:], raw[IDBytes:])
	return nil
}

// Pin is how a token names an authority.
func Pin(authority *x509.Certificate) [pinBytes]byte { return sha256.Sum256(authority.Raw) }

// Request asks for a certificate of an agent's key.
func Request(agent contract.ID, key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: Subject(agent)}, key)
}

// ParseRequest reads a request from outside, whose signature shows that who made it has
// the key.
func ParseRequest(raw []byte) (agent contract.ID, key *ecdsa.PublicKey, err error) {
	if len(raw) > MaxRequestBytes {
		return agent, nil, fmt.Errorf("the request for a certificate has %d bytes: at most %d", len(raw), MaxRequestBytes)
	}
	r, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		return agent, nil, fmt.Errorf("the request for a certificate cannot be read: %w", err)
	}
	key, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return agent, nil, errors.New("the request for a certificate is for another kind of key than ECDSA P-256")
	}
	if err := r.CheckSignature(); err != nil {
		return agent, nil, fmt.Errorf("the request for a certificate is not signed by its key: %w", err)
	}
	agent, err = AgentOf(r.Subject)
	return agent, key, err
}

// Subject is an agent in a certificate.
func Subject(agent contract.ID) pkix.Name {
	return pkix.Name{CommonName: agent.String(), OrganizationalUnit: []string{unit}}
}

// unit tells agents' certificates from a Manager's.
const unit = "agent"

// AgentOf is the agent that a subject names.
func AgentOf(s pkix.Name) (contract.ID, error) {
	if len(s.OrganizationalUnit) != 1 || s.OrganizationalUnit[0] != unit {
		return contract.ID{}, errors.New("it is not about an agent")
	}
	id, err := contract.ParseID(s.CommonName)
	if err == nil && id.IsZero() {
		err = errors.New("the agent's id is zero")
	}
	return id, err
}
