package keyring

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cetrus/cetrus/services/platform/durable"
)

// keyFileHead begins the file of the key-encryption key.
const keyFileHead = "cetrus key-encryption key v1"

// id names a key without telling it.
func (k Key) id() []byte {
	sum := sha256.Sum256(append([]byte("cetrus wrapping "), k[:]...))
	return sum[:8]
}

// loadKeyFile reads the key-encryption key, or makes it where there is no file.
func loadKeyFile(path string) (key Key, made bool, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKeyFile(path)
		return key, true, err
	}
	if err != nil {
		return key, false, fmt.Errorf("keyring: read the key-encryption key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return key, false, fmt.Errorf("keyring: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return key, false, fmt.Errorf("keyring: others may read %s (%04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	head, text, _ := strings.Cut(strings.TrimSpace(string(content)), "\n")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if head != keyFileHead || err != nil || len(raw) != len(key) {
		return key, false, fmt.Errorf("keyring: %s is not a key-encryption key; restore it from its backup: without it the names of people cannot be read", path)
	}
	copy(key[:], raw)
	return key, false, nil
}

// makeKeyFile makes the key durable before anything is wrapped with it. It never
// takes the place of another.
func makeKeyFile(path string) (Key, error) {
	key := NewKey()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = durable.Create(path, fmt.Appendf(nil, "%s\n%s\n", keyFileHead, base64.StdEncoding.EncodeToString(key[:])))
	}
	if err != nil {
		return key, fmt.Errorf("keyring: make the key-encryption key: %w", err)
	}
	return key, nil
}
