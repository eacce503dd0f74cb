package identity

import (
	"context"
	"fmt"
	"net/mail"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/keyring"
)

// whatAccountName is the field that an account's name is sealed as, under the account's own key.
const whatAccountName = "account_name"

// Keys seal and open the words of people.
type Keys interface {
	// KeyOf is the key of a login or account, drawn where there is none.
	KeyOf(ctx context.Context, account, principal contract.ID) (keyring.Key, error)
	// OpenTexts answers in the order of the question, with "" where a key is gone.
	OpenTexts(ctx context.Context, account contract.ID, texts []keyring.Text) ([]string, error)
	// Forget destroys the key of a login, for ever. Twice is no error.
	Forget(ctx context.Context, account, principal contract.ID) error
}

// words are those of one principal.
type words struct {
	key       keyring.Key
	principal contract.ID
}

// wordsOf prepares to seal what belongs to a login, or to an account itself.
func wordsOf(ctx context.Context, keys Keys, account, principal contract.ID) (words, error) {
	key, err := keys.KeyOf(ctx, account, principal)
	return words{key, principal}, err
}

func (w words) seal(what, text string) []byte {
	return keyring.SealText(w.key, w.principal, what, text)
}

func (w words) open(what string, sealed []byte) (string, error) {
	text, err := keyring.OpenText(w.key, w.principal, what, sealed)
	if err != nil {
		return "", fmt.Errorf("identity: %s of %s: %w", what, w.principal, err)
	}
	return text, nil
}

// isMailAddress takes a bare address only: what would be another header, or two addresses, is none.
func isMailAddress(address string) bool {
	parsed, err := mail.ParseAddress(address)
	return err == nil && parsed.Address == address && len(address) <= 254
}
