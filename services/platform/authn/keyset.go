package authn

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// maxKeySetBytes and maxKeys are more than any key set of ours has.
const (
	maxKeySetBytes = 64 << 10
	maxKeys        = 64
)

// KeySet is the public keys that access tokens may be signed with. There are several while
// one takes another's place: each token names its own.
type KeySet struct {
	keys map[string]ed25519.PublicKey // by key id
}

// NewKeySet is the set of the keys. What is no Ed25519 key is left out.
func NewKeySet(keys ...ed25519.PublicKey) KeySet {
	set := KeySet{keys: make(map[string]ed25519.PublicKey, len(keys))}
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize {
			set.keys[KeyID(key)] = key
		}
	}
	return set
}

// KeyID names a key by what it is (RFC 7638), so that no two have one name.
func KeyID(key ed25519.PublicKey) string {
	sum, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "" // it fails for keys of other kinds only
	}
	return base64.RawURLEncoding.EncodeToString(sum)
}

// ParseKeySet reads a JSON Web Key Set. It must hold Ed25519 keys to sign with only, each
// under the name that KeyID gives it, and nothing private.
func ParseKeySet(jwks []byte) (KeySet, error) {
	var list jose.JSONWebKeySet
	if len(jwks) > maxKeySetBytes {
		return KeySet{}, fmt.Errorf("authn: key set: has %d bytes, more than any", len(jwks))
	}
	if err := json.Unmarshal(jwks, &list); err != nil {
		return KeySet{}, fmt.Errorf("authn: key set: %w", err)
	}
	if len(list.Keys) > maxKeys {
		return KeySet{}, fmt.Errorf("authn: key set: has %d keys, more than any", len(list.Keys))
	}
	set := NewKeySet()
	for _, k := range list.Keys {
		key, ok := k.Key.(ed25519.PublicKey)
		switch {
		case !ok || len(key) != ed25519.PublicKeySize:
			return KeySet{}, fmt.Errorf("authn: key set: %q is no public Ed25519 key", k.KeyID)
		case k.KeyID != KeyID(key):
			return KeySet{}, fmt.Errorf("authn: key set: %q is not that key's name", k.KeyID)
		case k.Algorithm != "" && k.Algorithm != string(jose.EdDSA), k.Use != "" && k.Use != "sig":
			return KeySet{}, fmt.Errorf("authn: key set: %q is not to sign with", k.KeyID)
		}
		set.keys[k.KeyID] = key
	}
	return set, nil
}

// JWKS writes the set as a JSON Web Key Set, always in the same order.
func (s KeySet) JWKS() ([]byte, error) {
	list := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, id := range slices.Sorted(maps.Keys(s.keys)) {
		list.Keys = append(list.Keys, jose.JSONWebKey{Key: s.keys[id], KeyID: id, Algorithm: string(jose.EdDSA), Use: "sig"})
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("authn: key set: %w", err)
	}
	return text, nil
}

// Len is the number of keys.
func (s KeySet) Len() int { return len(s.keys) }
