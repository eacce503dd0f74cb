package enrollment

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/cetrus/cetrus/proto/contract"
)

// ManagerPrefix begins a Manager's token.
const ManagerPrefix = "cetrus-manager-"

// ManagerToken admits one Manager to the platform, once.
type ManagerToken struct {
	Account, Manager contract.ID
	Secret           [secretBytes]byte
}

// NewManagerToken draws a token.
func NewManagerToken(account, manager contract.ID) ManagerToken {
	t := ManagerToken{Account: account, Manager: manager}
	_, _ = rand.Read(t.Secret[:])
	return t
}

func (t ManagerToken) body() []byte {
	return append(append(append([]byte(nil), t.Account[:]...), t.Manager[:]...), t.Secret[:]...)
}

// Text is the token as it is handed out.
func (t ManagerToken) Text() string {
	body := t.body()
	sum := sha256.Sum256(body)
	return ManagerPrefix + base64.RawURLEncoding.EncodeToString(append(body, sum[:sumBytes]...))
}

// Hash is what is kept of it.
func (t ManagerToken) Hash() [sha256.Size]byte {
	return sha256.Sum256(append([]byte(ManagerPrefix), t.body()...))
}

// String keeps the secret out of logs.
func (t ManagerToken) String() string { return "token of Manager " + t.Manager.String() }

// GoString does so too.
func (t ManagerToken) GoString() string { return t.String() }

// MarshalText does so too, for JSON.
func (t ManagerToken) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// ParseManagerToken reads what Text wrote. The text is not in the error.
func ParseManagerToken(text string) (t ManagerToken, err error) {
	coded, ok := strings.CutPrefix(strings.TrimSpace(text), ManagerPrefix)
	if !ok {
		return t, fmt.Errorf("a Manager's token begins with %q; CreateManager answers with one", ManagerPrefix)
	}
	const whole = 2*len(contract.ID{}) + secretBytes
	raw, err := base64.RawURLEncoding.Strict().DecodeString(coded)
	if err != nil || len(raw) != whole+sumBytes {
		return t, errors.New("the Manager's token is not whole: copy all of it, from \"" + ManagerPrefix + "\" to its end")
	}
	sum := sha256.Sum256(raw[:whole])
	if !bytes.Equal(sum[:sumBytes], raw[whole:]) {
		return t, errors.New("the Manager's token has a wrong letter in it: copy it again")
	}
	copy(t.Account[:], raw)
	copy(t.Manager[:], raw[len(t.Account):])
	copy(t.Secret[:], raw[len(t.Account)+len(t.Manager):])
	return t, nil
}
