package release

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// AgentName is the name of the agent's own releases.
const AgentName = "cetrus-agent"

const (
	// signedPrefix keeps a signature from meaning anything else.
	signedPrefix = "cetrus release v1\n"
	// maxHeaderBytes bounds the first line of a release file.
	maxHeaderBytes = 64 << 10
	// MaxProgramBytes is the greatest size of a program.
	MaxProgramBytes = 256 << 20
	maxText         = 64
)

// Manifest says what a release is.
type Manifest struct {
	// Name of the program: AgentName, or that of a plug-in.
	Name string `json:"name"`
	// Version is for people.
	Version string `json:"version"`
	// Number grows with every release of the name; from 1.
	Number uint64 `json:"number"`
	// Least is the least number that may be replaced by this release directly; 0: any.
	Least uint64 `json:"least_replaced,omitempty"`
	// System and Architecture are as Go calls them: linux, windows; amd64, arm64.
	System       string `json:"system"`
	Architecture string `json:"architecture"`
	// Size of the program in bytes.
	Size int64 `json:"size"`
	// SHA256 of the program, in hexadecimal.
	SHA256 string `json:"sha256"`
	// Released is when it was signed.
	Released time.Time `json:"released_at"`
}

// Sum is the SHA-256 of the program; Check has made sure that there is one.
func (m Manifest) Sum() (sum [sha256.Size]byte) {
	raw, _ := hex.DecodeString(m.SHA256)
	copy(sum[:], raw)
	return sum
}

// Check says what is wrong with a manifest.
func (m Manifest) Check() error {
	sum, err := hex.DecodeString(m.SHA256)
	switch {
	case !isWord(m.Name) || !isWord(m.System) || !isWord(m.Architecture):
		return fmt.Errorf("release: name %q, system %q and architecture %q are each to be up to %d lower-case letters, digits and dashes", m.Name, m.System, m.Architecture, maxText)
	case m.Version == "" || len(m.Version) > maxText:
		return fmt.Errorf("release: the version %q is empty or longer than %d bytes", m.Version, maxText)
	case m.Number == 0:
		return errors.New("release: the number is 0; numbers begin with 1 and grow with every release")
	case m.Least >= m.Number:
		return fmt.Errorf("release: it has the number %d and replaces only %d or greater, so nothing that is older", m.Number, m.Least)
	case err != nil || len(sum) != sha256.Size:
		return fmt.Errorf("release: %q is no SHA-256", m.SHA256)
	case m.Size <= 0 || m.Size > MaxProgramBytes:
		return fmt.Errorf("release: a size of %d bytes is not between 1 and %d", m.Size, MaxProgramBytes)
	}
	return nil
}

// String names a release for people.
func (m Manifest) String() string {
	return fmt.Sprintf("%s %s (number %d, %s/%s)", m.Name, m.Version, m.Number, m.System, m.Architecture)
}

func isWord(text string) bool {
	ok := func(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }
	return text != "" && len(text) <= maxText && strings.IndexFunc(text, func(c rune) bool { return !ok(c) }) < 0
}

// Keys are the public keys of those who may sign releases, by their ids.
type Keys map[string]ed25519.PublicKey

// ParseKeys reads {"keys": {"id": "public key in base64"}}.
func ParseKeys(text []byte) (Keys, error) {
	var list struct {
		Keys map[string][]byte `json:"keys"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf(`release: it is not {"keys": {"id": "public key in base64"}}: %w`, err)
	}
	keys := Keys{}
	for id, key := range list.Keys {
		if len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("release: the key %q has %d bytes; an Ed25519 public key has %d", id, len(key), ed25519.PublicKeySize)
		}
		keys[id] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("release: it holds no key")
	}
	return keys, nil
}

// RefusedError says why a release is not trusted.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "release: refused: " + e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// Signed is a manifest with its signature: the first line of a release file.
type Signed struct {
	// Manifest is the text that was signed, byte for byte.
	Manifest []byte `json:"manifest"`
	KeyID    string `json:"key_id"`
	// Ed25519 over "cetrus release v1\n" and Manifest.
	Ed25519 []byte `json:"ed25519"`
}

// Open verifies a signed manifest, and reads it.
func (s Signed) Open(keys Keys) (Manifest, error) {
	var m Manifest
	key, known := keys[s.KeyID]
	if !known || len(key) != ed25519.PublicKeySize {
		return m, refuse("it is signed with the key %q, which is not trusted here", s.KeyID)
	}
	if !ed25519.Verify(key, append([]byte(signedPrefix), s.Manifest...), s.Ed25519) {
		return m, refuse("its manifest is not what the key %q has signed", s.KeyID)
	}
	if err := json.Unmarshal(s.Manifest, &m); err != nil {
		return m, refuse("its manifest cannot be read: %v", err)
	}
	if err := m.Check(); err != nil {
		return m, refuse("%v", err)
	}
	return m, nil
}

// Sign signs a manifest.
func Sign(m Manifest, keyID string, key ed25519.PrivateKey) (Signed, error) {
	if err := m.Check(); err != nil {
		return Signed{}, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return Signed{}, fmt.Errorf("release: %w", err)
	}
	return Signed{Manifest: text, KeyID: keyID, Ed25519: ed25519.Sign(key, append([]byte(signedPrefix), text...))}, nil
}

// NewKey draws a key pair.
func NewKey() (ed25519.PublicKey, ed25519.PrivateKey, error) { return ed25519.GenerateKey(rand.Reader) }

// Header is the first line of a release file.
func (s Signed) Header() ([]byte, error) {
	line, err := json.Marshal(s)
	if err == nil && len(line) >= maxHeaderBytes {
		err = errors.New("release: the manifest is too long")
	}
	return append(line, '\n'), err
}

// ReadHeader reads the first line of a release file; what is left to read is the program.
func ReadHeader(r io.Reader) (s Signed, program io.Reader, headerBytes int64, err error) {
	buffered := bufio.NewReaderSize(r, maxHeaderBytes)
	line, err := buffered.ReadSlice('\n')
	if err != nil {
		return s, nil, 0, refuse("it does not begin like a release file: %v", err)
	}
	if err := json.Unmarshal(line, &s); err != nil {
		return s, nil, 0, refuse("it does not begin like a release file: %v", err)
	}
	return s, buffered, int64(len(line)), nil
}

// CopyProgram copies a program and checks that it is the manifest's. What was written is not
// to be used where it gives an error.
func CopyProgram(to io.Writer, from io.Reader, m Manifest) error {
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, hash), io.LimitReader(from, m.Size+1))
	if err != nil {
		return fmt.Errorf("release: copy the program: %w", err)
	}
	if n != m.Size {
		return refuse("its program has not the %d bytes that were signed", m.Size)
	}
	if sum := m.Sum(); [sha256.Size]byte(hash.Sum(nil)) != sum {
		return refuse("its program is not the one that was signed")
	}
	return nil
}
