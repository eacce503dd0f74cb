package credential

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"strings"
)

const (
	// secretBytes of a link or a token: nobody guesses it, so that a plain hash protects it.
	secretBytes = 32
	// recoveryBytes are few enough to be copied by hand, and still nobody guesses them.
	recoveryBytes = 10
	// RecoveryCodes is how many a person gets.
	RecoveryCodes = 10
)

// words has no letter that is mistaken for a digit, nor digit for a letter.
var words = base32.NewEncoding("abcdefghjkmnpqrstuvwxyz123456789").WithPadding(base32.NoPadding)

// Hash is what is kept of a secret.
type Hash [sha256.Size]byte

// NewSecret draws the bytes of a secret.
func NewSecret() []byte { return random(secretBytes) }

// HashOf is the hash of a secret's bytes.
func HashOf(secret []byte) Hash { return sha256.Sum256(secret) }

// Matches tells, in a time that does not depend on the answer, whether the hash is that of the secret.
func (h Hash) Matches(secret []byte) bool {
	other := HashOf(secret)
	return subtle.ConstantTimeCompare(h[:], other[:]) == 1
}

// NewRecoveryCodes draws the codes that stand in for a lost second factor, each once:
// abcd-efgh-jkmn-pqrs.
func NewRecoveryCodes() []string {
	codes := make([]string, RecoveryCodes)
	for i := range codes {
		text := words.EncodeToString(random(recoveryBytes))
		codes[i] = strings.Join([]string{text[:4], text[4:8], text[8:12], text[12:]}, "-")
	}
	return codes
}

// RecoveryHash is what is kept of a recovery code, however it is typed; ok is false
// where the text cannot be one.
func RecoveryHash(code string) (hash Hash, ok bool) {
	text := strings.ToLower(strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, code))
	raw, err := words.DecodeString(text)
	if err != nil || len(raw) != recoveryBytes || len(text) != words.EncodedLen(recoveryBytes) {
		return hash, false
	}
	return HashOf(raw), true
}

// NewOneTimePassword draws a password for somebody who has to change it: 80 bits in
// the letters of the recovery codes.
func NewOneTimePassword() string { return NewRecoveryCodes()[0] }
