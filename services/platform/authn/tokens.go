package authn

import (
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// maxChecked bounds how many tokens are remembered whose signature was checked.
const maxChecked = 20_000

// Tokens judges access tokens of one issuer. It is safe for concurrent use.
//
// A token is used some thousand times, and its signature costs more than all else that is
// done to judge it: so what was checked is remembered until it expires, or keys change.
type Tokens struct {
	issuer string
	now    func() time.Time
	keyed  atomic.Pointer[keyed]
}

// keyed is a key set, and what was checked with it.
type keyed struct {
	keys    KeySet
	mu      sync.RWMutex
	checked map[[sha256.Size]byte]AccessToken
}

// NewTokens judges tokens by the clock now; they are all unknown before SetKeys.
func NewTokens(issuer string, now func() time.Time) *Tokens {
	t := &Tokens{issuer: issuer, now: now}
	t.SetKeys(NewKeySet())
	return t
}

// SetKeys has tokens judged by these keys from now on. A key that is not among them any
// more ends the tokens that it has signed.
func (t *Tokens) SetKeys(keys KeySet) {
	t.keyed.Store(&keyed{keys: keys, checked: map[[sha256.Size]byte]AccessToken{}})
}

// Check reads a token that is good now.
func (t *Tokens) Check(text string) (AccessToken, error) {
	const op = "authn.Tokens"
	now := t.now()
	token, err := t.keyed.Load().read(text, t.issuer, now)
	if err == nil {
		err = token.good(now)
	}
	if err == nil {
		return token, nil
	}
	refused := &errs.Error{Op: op, Kind: errs.Unauthenticated, Reason: ReasonInvalidToken, Message: messageInvalidToken, Err: err}
	if errors.Is(err, errExpired) {
		refused.Reason, refused.Message = ReasonExpiredToken, messageExpiredToken
	}
	return AccessToken{}, refused
}

func (k *keyed) read(text, issuer string, now time.Time) (AccessToken, error) {
	sum := sha256.Sum256([]byte(text))
	k.mu.RLock()
	token, ok := k.checked[sum]
	k.mu.RUnlock()
	if ok {
		return token, nil
	}
	token, err := verify(text, issuer, k.keys)
	if err != nil || token.good(now) != nil {
		return token, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.checked) >= maxChecked {
		k.forget(now)
	}
	k.checked[sum] = token
	return token, nil
}

// forget makes room: what has expired goes, and where nothing has, half of all.
func (k *keyed) forget(now time.Time) {
	for sum, token := range k.checked {
		if token.good(now) != nil {
			delete(k.checked, sum)
		}
	}
	for sum := range k.checked {
		if len(k.checked) <= maxChecked/2 {
			return
		}
		delete(k.checked, sum)
	}
}
