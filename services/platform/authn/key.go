package authn

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// KeyPrefix begins every API key, so that people and secret scanners know one
// when they see it.
const KeyPrefix = "cetrus_"

const (
	keyIDBytes  = 4
	secretBytes = 32
)

var secretText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// secretChars is the length of a secret as text.
var secretChars = secretText.EncodedLen(secretBytes)

// NewKey draws an API key: cetrus_<id>_<secret>. The id is public and names the
// key in logs; the secret is 256 random bits, so that a plain hash protects it.
func NewKey() (id, key string) {
	b := make([]byte, keyIDBytes+secretBytes)
	_, _ = rand.Read(b) // never fails, says its documentation
	id = hex.EncodeToString(b[:keyIDBytes])
	return id, KeyPrefix + id + "_" + secretText.EncodeToString(b[keyIDBytes:])
}

// keyID takes the public id out of a key; ok is false where the text is no key.
func keyID(key string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(key, KeyPrefix)
	if !ok {
		return "", false
	}
	id, secret, ok := strings.Cut(rest, "_")
	if !ok || len(id) != 2*keyIDBytes || len(secret) != secretChars {
		return "", false
	}
	return id, true
}

func hashKey(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// KeyFromHeaders reads the API key that a request carries: the values of its
// Authorization header, which must say Bearer, or of X-API-Key. Two different
// keys in one request are refused rather than one of them chosen.
func KeyFromHeaders(authorization, xAPIKey []string) (string, error) {
	const op = "authn.KeyFromHeaders"
	var key string
	take := func(k string) error {
		k = strings.TrimSpace(k)
		if key != "" && k != key {
			return errs.New(errs.Unauthenticated, op, "", "the request carries two different API keys: send one").WithReason(ReasonInvalidKey)
		}
		key = k
		return nil
	}
	for _, v := range authorization {
		scheme, k, _ := strings.Cut(strings.TrimSpace(v), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", errs.New(errs.Unauthenticated, op, "", messageNoKey).WithReason(ReasonNoKey)
		}
		if err := take(k); err != nil {
			return "", err
		}
	}
	for _, v := range xAPIKey {
		if err := take(v); err != nil {
			return "", err
		}
	}
	if key == "" {
		return "", errs.New(errs.Unauthenticated, op, "", messageNoKey).WithReason(ReasonNoKey)
	}
	return key, nil
}
