package archive

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// KeyFile is the file of the keys under which archives and backups are sealed.
const KeyFile = "archive-key"

// keyFileHead begins it; each key is a line. The first seals, all of them open.
const keyFileHead = "cetrus archive keys v1"

// foreign are the rights that nobody may have on the file: its group may read it, as that of a mounted Secret.
const foreign = 0o027

// Keys seal objects, and open them.
type Keys struct{ keys []key }

type key [chacha20poly1305.KeySize]byte

// id names a key without telling it.
func (k key) id() [8]byte {
	sum := sha256.Sum256(append([]byte("cetrus archive "), k[:]...))
	return [8]byte(sum[:])
}

func (k key) aead() cipher.AEAD {
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		panic(err) // the key's length is its type's
	}
	return aead
}

// NewKeys draws a key.
func NewKeys() *Keys {
	var k key
	rand.Read(k[:]) // never fails: crypto/rand ends the process instead
	return &Keys{keys: []key{k}}
}

// LoadKeys reads a file of keys; its error is fs.ErrNotExist where there is none.
func LoadKeys(path string) (*Keys, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.As(errs.Precondition, "archive", path, "the key of the archive cannot be read", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, errs.As(errs.Precondition, "archive", path, "the key of the archive cannot be read", err)
	}
	if info.Mode().Perm()&foreign != 0 {
		return nil, errs.New(errs.Precondition, "archive", path, fmt.Sprintf("others may read it (%04o), and so the archive and all backups; run: chmod 600 %s", info.Mode().Perm(), path))
	}
	return ParseKeys(path, content)
}

// ParseKeys reads what a file of keys holds; name is told in errors.
func ParseKeys(name string, content []byte) (*Keys, error) {
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if lines[0] != keyFileHead || len(lines) < 2 {
		return nil, errs.New(errs.Precondition, "archive", name, "is no file of keys of an archive: restore it from where it is kept; without it nothing that was archived or backed up can be read")
	}
	keys := &Keys{}
	for _, line := range lines[1:] {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil || len(raw) != chacha20poly1305.KeySize {
			return nil, errs.New(errs.Precondition, "archive", name, "holds a line that is no key: restore it from where it is kept")
		}
		keys.keys = append(keys.keys, key(raw))
	}
	return keys, nil
}

// EnsureKeys reads a file of keys, or makes one; made tells which.
func EnsureKeys(path string) (keys *Keys, made bool, err error) {
	keys, err = LoadKeys(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, errs.As(errs.Precondition, "archive", path, "the key of the archive cannot be made", err)
	}
	err = durable.Create(path, NewKeyFile())
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, false, errs.As(errs.Precondition, "archive", path, "the key of the archive cannot be made", err)
	}
	made = err == nil // else another process was first
	keys, err = LoadKeys(path)
	return keys, made, err
}

// NewKeyFile is what a file of a new key holds.
func NewKeyFile() []byte { return NewKeys().file() }

func (k *Keys) file() []byte {
	text := keyFileHead + "\n"
	for _, one := range k.keys {
		text += base64.StdEncoding.EncodeToString(one[:]) + "\n"
	}
	return []byte(text)
}

// named finds the key that sealed something.
func (k *Keys) named(id [8]byte) (key, error) {
	at := slices.IndexFunc(k.keys, func(one key) bool { return one.id() == id })
	if at < 0 {
		return key{}, fmt.Errorf("%w: it was sealed under key %x", ErrOtherKey, id)
	}
	return k.keys[at], nil
}
