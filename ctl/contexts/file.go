package contexts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"go.yaml.in/yaml/v3"
)

// Context is one server and who one is there.
type Context struct {
	Name string `yaml:"name"`
	// Server is the address of the platform, as https://cetrus.example.com.
	Server string `yaml:"server"`
	// CAFile holds certificates, in PEM, of authorities that are trusted beside the system's.
	CAFile  string   `yaml:"ca_file,omitempty"`
	Account string   `yaml:"account,omitempty"`
	Login   string   `yaml:"login,omitempty"`
	Session *Session `yaml:"session,omitempty"`
}

// Session is what a sign-in gave.
type Session struct {
	AccessToken  string    `yaml:"access_token"`
	AccessUntil  time.Time `yaml:"access_until"`
	RefreshToken string    `yaml:"refresh_token"`
	RefreshUntil time.Time `yaml:"refresh_until"`
}

// State is what the file holds.
type State struct {
	// Current is the name of the context that is used where none is named.
	Current  string     `yaml:"current,omitempty"`
	Contexts []*Context `yaml:"contexts,omitempty"`
}

// Context finds one by its name; nil where there is none.
func (s *State) Context(name string) *Context {
	for _, c := range s.Contexts {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Put keeps a context in place of the one of its name.
func (s *State) Put(c *Context) {
	s.Remove(c.Name)
	s.Contexts = append(s.Contexts, c)
	slices.SortFunc(s.Contexts, func(a, b *Context) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
}

// Remove takes a context out, and tells whether it was there.
func (s *State) Remove(name string) bool {
	n := len(s.Contexts)
	s.Contexts = slices.DeleteFunc(s.Contexts, func(c *Context) bool { return c.Name == name })
	return len(s.Contexts) < n
}

// File is where the state is kept.
type File struct{ path string }

// Open names the file; it need not be there yet.
func Open(path string) *File { return &File{path} }

// DefaultPath is where the file is unless somebody says otherwise: in the person's folder of
// configuration.
func DefaultPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no folder for configuration is known (%w): say one with --config or CETRUS_CONFIG", err)
	}
	return filepath.Join(dir, "cetrus", "cetrusctl.yaml"), nil
}

// Path is where it is.
func (f *File) Path() string { return f.path }

// Read reads the state; empty where there is no file.
func (f *File) Read() (*State, error) {
	state := &State{}
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return nil, err
	}
	const others = 0o077
	if runtime.GOOS != "windows" && info.Mode().Perm()&others != 0 { // on Windows the profile's own rights hold
		return nil, fmt.Errorf("%s holds tokens, and others can read it: chmod 600 %s, and sign in again if somebody may have", f.path, f.path)
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(state); err != nil && len(bytes.TrimSpace(text)) > 0 {
		return nil, fmt.Errorf("%s is none of cetrusctl's, or of a later release (%w): mend it, or move it away and sign in again", f.path, err)
	}
	for _, c := range state.Contexts {
		if c == nil || c.Name == "" || c.Server == "" {
			return nil, fmt.Errorf("%s has a context without a name or a server: mend it, or move it away and sign in again", f.path)
		}
	}
	return state, nil
}

// lockPatience is how long another process may hold the file.
const lockPatience = 30 * time.Second

// Update changes the state, while no other process does. Nothing is written where change fails.
func (f *File) Update(ctx context.Context, change func(*State) error) (err error) {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock := flock.New(f.path+".lock", flock.SetPermissions(0o600))
	bounded, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if _, err := lock.TryLockContext(bounded, 20*time.Millisecond); err != nil {
		return fmt.Errorf("%s is held by another cetrusctl: %w", f.path, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	state, err := f.Read()
	if err != nil {
		return err
	}
	if err := change(state); err != nil {
		return err
	}
	text, err := yaml.Marshal(state)
	if err != nil {
		return err
	}
	return replace(f.path, text)
}

// replace writes a file that is there whole or not at all, for its owner alone.
func replace(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".cetrusctl-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
