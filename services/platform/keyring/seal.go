package keyring

import (
	"crypto/rand"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/crypto/chacha20poly1305"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Key opens and seals what belongs to one principal, or wraps such keys.
type Key [chacha20poly1305.KeySize]byte

// NewKey draws a random key.
func NewKey() Key {
	var key Key
	rand.Read(key[:]) // never fails: crypto/rand ends the process instead
	return key
}

// ErrSealed means that a seal does not open: another key, another principal or
// subject than it was made for, or changed bytes. The error says no more.
var ErrSealed = errors.New("keyring: the seal does not open")

// Seal seals a name for the principal and the subject that the message names and
// puts it into the message.
func Seal(key Key, name *usagev1.SealedName, text string) error {
	if err := checkSubject(name); err != nil {
		return err
	}
	if !utf8.ValidString(text) {
		return errors.New("keyring: a name must be UTF-8")
	}
	name.Sealed = key.seal([]byte(text), contract.SealedNameData(name))
	return nil
}

// Open reads a sealed name. The error is ErrSealed, or says what the message
// lacks.
func Open(key Key, name *usagev1.SealedName) (string, error) {
	if err := checkSubject(name); err != nil {
		return "", err
	}
	text, err := key.open(name.GetSealed(), contract.SealedNameData(name))
	if err != nil {
		return "", err
	}
	if !utf8.Valid(text) {
		return "", ErrSealed
	}
	return string(text), nil
}

// checkSubject keeps the associated data unambiguous.
func checkSubject(name *usagev1.SealedName) error {
	if n := len(name.GetPrincipalId()); n != 16 {
		return fmt.Errorf("keyring: a principal's id has 16 bytes, not %d", n)
	}
	switch subject := name.GetSubject().(type) {
	case *usagev1.SealedName_Person:
		return nil
	case *usagev1.SealedName_DocumentId:
		if n := len(subject.DocumentId); n != 16 {
			return fmt.Errorf("keyring: a document's id has 16 bytes, not %d", n)
		}
		return nil
	}
	return errors.New("keyring: a sealed name says neither person nor document")
}

// seal returns a random nonce and the ciphertext behind it.
func (k Key) seal(text, data []byte) []byte {
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		panic(err) // the key's length is its type's
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(text)+chacha20poly1305.Overhead)
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, text, data)
}

func (k Key) open(sealed, data []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		panic(err) // the key's length is its type's
	}
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, ErrSealed
	}
	text, err := aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], data)
	if err != nil {
		return nil, ErrSealed
	}
	return text, nil
}
