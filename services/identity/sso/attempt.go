package sso

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/keyring"
)

// attemptLife is how long a person may take at the provider.
const attemptLife = 10 * time.Minute

// attempt is one sign-in that has been begun.
type attempt struct {
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"`
	Expires  time.Time `json:"expires"`
	// Revision is that of the provider's settings: what changed meanwhile ends the attempt.
	Revision int `json:"revision"`
}

// errAttempt means that a browser did not keep what it was given.
var errAttempt = errors.New("sso: this is no attempt of this account")

// seal writes an attempt so that only this platform reads it, for this account.
func (a attempt) seal(key keyring.Key, account contract.ID) (string, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return "", fmt.Errorf("sso: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(keyring.SealText(key, account, whatAttempt, string(text))), nil
}

// openAttempt reads what seal wrote.
func openAttempt(key keyring.Key, account contract.ID, browserKey string) (attempt, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(browserKey)
	if err != nil {
		return attempt{}, errAttempt
	}
	text, err := keyring.OpenText(key, account, whatAttempt, sealed)
	if err != nil || text == "" {
		return attempt{}, errAttempt
	}
	var a attempt
	if err := json.Unmarshal([]byte(text), &a); err != nil || a.State == "" || a.Nonce == "" || a.Verifier == "" {
		return attempt{}, errAttempt
	}
	return a, nil
}
