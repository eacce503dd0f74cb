package signin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/cetrus/cetrus/services/platform/durable"
)

// boxHead begins the file of the key.
const boxHead = "cetrus sign-in key v1"

// errBox means that something sealed does not open with the key of the file.
var errBox = errors.New("signin: a sealed secret does not open: the key file is not the one that it was sealed with; restore it from its backup")

// box seals what must be read back, under a key that lies in a file beside the database
// and in no backup of it.
type box [chacha20poly1305.KeySize]byte

// NewKeyFile is what a file of a new key holds (Config.KeyFile).
func NewKeyFile() []byte {
	var b box
	_, _ = rand.Read(b[:]) // never fails, says its documentation
	return b.file()
}

func (b box) file() []byte {
	return fmt.Appendf(nil, "%s\n%s\n", boxHead, base64.StdEncoding.EncodeToString(b[:]))
}

// openBox reads the key, or makes it where there is no file and none was to be given. The group of a file that
// was given may read it.
func openBox(path string, given bool) (b box, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !given {
		_, _ = rand.Read(b[:]) // never fails, says its documentation
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = durable.Create(path, b.file())
		}
		if err != nil {
			return b, fmt.Errorf("signin: make the key of secrets: %w", err)
		}
		return b, nil
	}
	if err != nil {
		return b, fmt.Errorf("signin: read the key of secrets: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return b, fmt.Errorf("signin: %w", err)
	}
	foreign := fs.FileMode(0o077)
	if given {
		foreign = 0o027
	}
	if info.Mode().Perm()&foreign != 0 {
		return b, fmt.Errorf("signin: others may read %s (%04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	head, text, _ := strings.Cut(strings.TrimSpace(string(content)), "\n")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if head != boxHead || err != nil || len(raw) != len(b) {
		return b, fmt.Errorf("signin: %s is not a key of secrets; restore it from its backup: without it second factors cannot be checked", path)
	}
	copy(b[:], raw)
	return b, nil
}

// derive is a key of its own for another purpose.
func (b box) derive(purpose string) []byte {
	h := hmac.New(sha256.New, b[:])
	h.Write([]byte(purpose))
	return h.Sum(nil)
}

// seal ties the secret to its place.
func (b box) seal(secret []byte, place string) []byte {
	aead, err := chacha20poly1305.NewX(b[:])
	if err != nil {
		panic(err) // the key's length is its type's
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(secret)+chacha20poly1305.Overhead)
	_, _ = rand.Read(nonce)
	return aead.Seal(nonce, nonce, secret, []byte(place))
}

func (b box) open(sealed []byte, place string) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(b[:])
	if err != nil {
		panic(err) // the key's length is its type's
	}
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, errBox
	}
	secret, err := aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], []byte(place))
	if err != nil {
		return nil, errBox
	}
	return secret, nil
}
