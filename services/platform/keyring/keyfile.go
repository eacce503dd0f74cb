package keyring

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cetrus/cetrus/services/platform/durable"
)

const (
	// keyFileHead begins a file of one key-encryption key in clear.
	keyFileHead = "cetrus key-encryption key v1"
	// keysFileHead begins a file of several, each in a line: how it is wrapped, its text, when it
	// was made. The first wraps what comes; the others are kept until nothing is wrapped by them.
	keysFileHead = "cetrus key-encryption keys v2"
)

// Wrapper is how a key-encryption key is written into its file.
type Wrapper interface {
	// Kind is the word for it in the file.
	Kind() string
	Wrap(ctx context.Context, key Key) (string, error)
	Unwrap(ctx context.Context, text string) (Key, error)
}

// InClear writes the key as it is: the file is what protects it.
type InClear struct{}

// Kind implements Wrapper.
func (InClear) Kind() string { return "clear" }

// Wrap implements Wrapper.
func (InClear) Wrap(_ context.Context, key Key) (string, error) {
	return base64.StdEncoding.EncodeToString(key[:]), nil
}

// Unwrap implements Wrapper.
func (InClear) Unwrap(_ context.Context, text string) (key Key, err error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != len(key) {
		return key, errors.New("keyring: not a key")
	}
	return Key(raw), nil
}

// id names a key without telling it.
func (k Key) id() []byte {
	sum := sha256.Sum256(append([]byte("cetrus wrapping "), k[:]...))
	return sum[:8]
}

// writtenKey is a key-encryption key as its file has it.
type writtenKey struct {
	kind, text string
	made       time.Time
}

// NewKeyFile is what a file of one new key-encryption key in clear holds.
func NewKeyFile() []byte {
	key := NewKey()
	return fmt.Appendf(nil, "%s\n%s\n", keyFileHead, base64.StdEncoding.EncodeToString(key[:]))
}

// readKeyFile reads a file of key-encryption keys; its error is fs.ErrNotExist where there is none. The group of
// one that was given may read it too.
func readKeyFile(path string, given bool) ([]writtenKey, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("keyring: read the key-encryption key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	foreign := fs.FileMode(0o077)
	if given {
		foreign = 0o027
	}
	if info.Mode().Perm()&foreign != 0 {
		return nil, fmt.Errorf("keyring: others may read %s (%04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	keys, ok := parseKeyFile(string(content))
	if !ok {
		return nil, fmt.Errorf("keyring: %s is not a key-encryption key; restore it from its backup: without it the names of people cannot be read", path)
	}
	return keys, nil
}

func parseKeyFile(content string) (keys []writtenKey, ok bool) {
	head, rest, _ := strings.Cut(strings.TrimSpace(content), "\n")
	if head == keyFileHead {
		text := strings.TrimSpace(rest)
		_, err := InClear{}.Unwrap(context.Background(), text)
		return []writtenKey{{kind: InClear{}.Kind(), text: text}}, err == nil
	}
	if head != keysFileHead || rest == "" {
		return nil, false
	}
	for line := range strings.SplitSeq(rest, "\n") {
		words := strings.Fields(line)
		if len(words) != 3 {
			return nil, false
		}
		made, err := time.Parse(time.RFC3339, words[2])
		if err != nil {
			return nil, false
		}
		keys = append(keys, writtenKey{kind: words[0], text: words[1], made: made})
	}
	return keys, true
}

func formatKeyFile(keys []writtenKey) []byte {
	if len(keys) == 1 && keys[0].kind == (InClear{}).Kind() {
		return fmt.Appendf(nil, "%s\n%s\n", keyFileHead, keys[0].text)
	}
	text := keysFileHead + "\n"
	for _, k := range keys {
		text += k.kind + " " + k.text + " " + k.made.UTC().Format(time.RFC3339) + "\n"
	}
	return []byte(text)
}

// makeKeyFile makes a key durable before anything is wrapped with it. It never takes the place
// of another.
func makeKeyFile(ctx context.Context, path string, by Wrapper, now time.Time) error {
	text, err := by.Wrap(ctx, NewKey())
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = durable.Create(path, formatKeyFile([]writtenKey{{kind: by.Kind(), text: text, made: now}}))
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // another process was first
	}
	if err != nil {
		return fmt.Errorf("keyring: make the key-encryption key: %w", err)
	}
	return nil
}
