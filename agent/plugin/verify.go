package plugin

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cetrus/cetrus/agent/durable"
)

// Files in a folder of plug-ins.
const (
	ListFile      = "plugins.json"
	SignatureFile = "plugins.json.sig"
	// signedPrefix keeps a signature from meaning anything else.
	signedPrefix    = "cetrus list of plug-ins v1\n"
	maxListBytes    = 1 << 20
	maxProgramBytes = 256 << 20
	maxPlugins      = 64
)

// List is what a folder of plug-ins holds.
type List struct {
	// Number goes only forward: a list with a smaller one than was taken is refused, and so
	// is another one of the same number. 0: it is older than all that have one.
	Number  uint64  `json:"number,omitempty"`
	Plugins []Entry `json:"plugins"`
}

// Entry is one program.
type Entry struct {
	// Name is that of the plug-in, by its own description too.
	Name string `json:"name"`
	// File lies in the same folder.
	File string `json:"file"`
	// SHA256 of the file, in hexadecimal.
	SHA256 string `json:"sha256"`
	// MemoryBytes bounds its memory; 0: as the host's configuration says.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
}

// Signature signs a list.
type Signature struct {
	KeyID string `json:"key_id"`
	// Ed25519 over "cetrus list of plug-ins v1\n" and the bytes of the list.
	Ed25519 []byte `json:"ed25519"`
}

// Keys are the public keys of those who may sign lists, by their ids.
type Keys map[string]ed25519.PublicKey

// RefusedError says why a plug-in, or a whole list, is not trusted.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "plugin: refused: " + e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// Sign makes the signature of a list.
func Sign(list []byte, keyID string, key ed25519.PrivateKey) Signature {
	return Signature{KeyID: keyID, Ed25519: ed25519.Sign(key, append([]byte(signedPrefix), list...))}
}

// IsName tells whether a text may name a plug-in: a lower-case letter, then up to 62 of those,
// digits and dashes. It is no regular expression, as that would cost every agent 50 KB.
func IsName(text string) bool {
	for i, c := range []byte(text) {
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return text != "" && len(text) <= 63
}

// readList reads the list of a folder and checks who signed it. A folder without a
// list holds no plug-in.
func readList(dir string, keys Keys) (list List, text []byte, err error) {
	text, err = readSmall(filepath.Join(dir, ListFile))
	if errors.Is(err, fs.ErrNotExist) {
		return List{}, nil, nil
	}
	if err != nil {
		return List{}, nil, refuse("the list cannot be read: %v", err)
	}
	signature, err := readSmall(filepath.Join(dir, SignatureFile))
	if err != nil {
		return List{}, nil, refuse("the list's signature cannot be read: %v", err)
	}
	list, err = parseList(text, signature, keys)
	return list, text, err
}

// withoutList tells why a folder that has no list is no empty folder: somebody meant
// something to run, and it does not.
func withoutList(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse("the folder %s does not exist, so nothing of it runs: make it, or name another with plugin-dir", dir)
	case err != nil:
		return refuse("the folder cannot be read, so nothing of it runs: %v", err)
	}
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ListFile }) {
		return nil
	}
	if i := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() && !strings.HasPrefix(e.Name(), ".") }); i >= 0 {
		return refuse("the folder %s has %s but no %s, so nothing of it runs: a plug-in needs a signed list", dir, entries[i].Name(), ListFile)
	}
	return nil
}

func parseList(text, signature []byte, keys Keys) (List, error) {
	var s Signature
	if err := json.Unmarshal(signature, &s); err != nil {
		return List{}, refuse("the list's signature cannot be read: %v", err)
	}
	key, known := keys[s.KeyID]
	if !known || len(key) != ed25519.PublicKeySize {
		return List{}, refuse("the list is signed with the key %q, which this agent does not trust", s.KeyID)
	}
	if !ed25519.Verify(key, append([]byte(signedPrefix), text...), s.Ed25519) {
		return List{}, refuse("the list is not what the key %q has signed", s.KeyID)
	}
	var list List
	if err := json.Unmarshal(text, &list); err != nil {
		return List{}, refuse("the list cannot be read: %v", err)
	}
	if len(list.Plugins) > maxPlugins {
		return List{}, refuse("the list has %d plug-ins; at most %d are run", len(list.Plugins), maxPlugins)
	}
	seen := map[string]bool{}
	for _, e := range list.Plugins {
		sum, err := hex.DecodeString(e.SHA256)
		if !IsName(e.Name) || seen[e.Name] || e.File == "" || filepath.Base(e.File) != e.File || err != nil || len(sum) != sha256.Size || e.MemoryBytes < 0 {
			return List{}, refuse("the list's entry %q is none: a name, a file of the same folder and its SHA-256 are needed, each name once", e.Name)
		}
		seen[e.Name] = true
	}
	return list, nil
}

func readSmall(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxListBytes+1))
	if err == nil && len(text) > maxListBytes {
		err = fmt.Errorf("it is longer than %d bytes", maxListBytes)
	}
	return text, err
}

// fetch copies a program into a folder of the agent's own, hashing what it copies, and
// gives the copy: what was checked is what runs.
func fetch(dir string, e Entry, into string) (program string, err error) {
	if err := os.MkdirAll(into, 0o700); err != nil {
		return "", fmt.Errorf("plugin: %w", err)
	}
	source, err := os.Open(filepath.Join(dir, e.File))
	if err != nil {
		return "", refuse("its program cannot be read: %v", err)
	}
	defer source.Close()
	copied, err := os.CreateTemp(into, ".new-*")
	if err != nil {
		return "", fmt.Errorf("plugin: %w", err)
	}
	defer os.Remove(copied.Name()) // fails once it is renamed
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(copied, hash), io.LimitReader(source, maxProgramBytes+1))
	if closeErr := copied.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", fmt.Errorf("plugin: copy the program of %s: %w", e.Name, err)
	}
	if n > maxProgramBytes {
		return "", refuse("its program has more than %d bytes", maxProgramBytes)
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); sum != e.SHA256 {
		return "", refuse("its program is not the one that was signed: SHA-256 %s, signed %s", sum, e.SHA256)
	}
	if err := os.Chmod(copied.Name(), 0o500); err != nil {
		return "", fmt.Errorf("plugin: %w", err)
	}
	program = filepath.Join(into, e.Name+cmp.Or(filepath.Ext(e.File), programSuffix))
	if err := durable.Rename(copied.Name(), program); err != nil { // the one before may have ended just now
		return "", fmt.Errorf("plugin: %w", err)
	}
	return program, nil
}
