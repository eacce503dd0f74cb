package keyring

import (
	"context"
	"unicode/utf8"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// What the platform itself seals is tagged so in the associated data; beside those of
// contract.SealedNameData.
const (
	sealedText  = 't'
	sealedBytes = 'b'
)

// WhatReason is the field that a reason is sealed as, whichever service asked for it, so that the
// audit log can show it.
const WhatReason = "view reason"

// Text is a sealed text of a principal.
type Text struct {
	Principal contract.ID
	// What names the field that it is, so that one cannot be put in another's place.
	What string
	// Sealed may be empty: it opens as "".
	Sealed []byte
}

// KeyOf is the key of a principal that the platform itself knows, such as a login. It is drawn
// where there is none; of a principal that was forgotten there is none any more, which is a
// Precondition error.
func (k *Keyring) KeyOf(ctx context.Context, account, principal contract.ID) (Key, error) {
	for range 2 {
		found, err := k.keys(ctx, account, []contract.ID{principal})
		if err != nil {
			return Key{}, err
		}
		if key, ok := found[principal]; ok {
			return key, nil
		}
		// Somebody else may draw one at the same time: the first counts for both.
		err = k.deposit(ctx, account, contract.ID{}, []entry{{principal: principal, key: NewKey()}})
		if err != nil && !errs.Is(errs.Conflict, err) {
			return Key{}, err
		}
	}
	return Key{}, errs.New(errs.Precondition, "keyring.KeyOf", "principal "+principal.String(), "it was forgotten: nothing can be sealed for it any more")
}

// SealText seals a text under the key of a principal; "" stays empty.
func SealText(key Key, principal contract.ID, what, text string) []byte {
	if text == "" {
		return nil
	}
	return key.seal([]byte(text), textData(principal, what))
}

// OpenTexts reads sealed texts of one account. It answers in the order of the question, with ""
// where there is no key any more, or the seal does not open.
func (k *Keyring) OpenTexts(ctx context.Context, account contract.ID, texts []Text) ([]string, error) {
	principals := make([]contract.ID, len(texts))
	for i, t := range texts {
		principals[i] = t.Principal
	}
	keys, err := k.keys(ctx, account, principals)
	if err != nil {
		return nil, err
	}
	opened := make([]string, len(texts))
	broken := 0
	for i, t := range texts {
		key, ok := keys[t.Principal]
		if !ok {
			continue
		}
		if opened[i], err = OpenText(key, t.Principal, t.What, t.Sealed); err != nil {
			broken++
		}
	}
	if broken > 0 {
		k.deps.Logger.WarnContext(ctx, "texts do not open", "account", account, "texts", broken)
	}
	return opened, nil
}

func textData(principal contract.ID, what string) []byte {
	return append(append(append(make([]byte, 0, len(principal)+1+len(what)), principal[:]...), sealedText), what...)
}

// OpenText reads what SealText has sealed; the error is ErrSealed.
func OpenText(key Key, principal contract.ID, what string, sealed []byte) (string, error) {
	if len(sealed) == 0 {
		return "", nil
	}
	text, err := key.open(sealed, textData(principal, what))
	if err != nil || !utf8.Valid(text) {
		return "", ErrSealed
	}
	return string(text), nil
}

// SealBytes seals bytes under the key of a principal, as SealText does a text.
func SealBytes(key Key, principal contract.ID, what string, content []byte) []byte {
	return key.seal(content, bytesData(principal, what))
}

// OpenBytes reads what SealBytes has sealed; the error is ErrSealed.
func OpenBytes(key Key, principal contract.ID, what string, sealed []byte) ([]byte, error) {
	return key.open(sealed, bytesData(principal, what))
}

func bytesData(principal contract.ID, what string) []byte {
	return append(append(append(make([]byte, 0, len(principal)+1+len(what)), principal[:]...), sealedBytes), what...)
}
