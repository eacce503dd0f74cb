package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cetrus/cetrus/agent/durable"
)

// A file is replaced whole, whatever an interrupted replacement has left, and nothing is
// left beside it.
func TestReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, left := filepath.Join(dir, "settings.json"), filepath.Join(dir, "settings.json.new")
	for _, step := range []struct {
		leave func() error
		text  string
	}{
		{func() error { return nil }, "one"},
		{func() error { return os.WriteFile(left, []byte("a longer text that a crash has left"), 0o400) }, "two"},
		{func() error { return nil }, ""},
	} {
		if err := step.leave(); err != nil {
			t.Fatal(err)
		}
		if err := durable.Replace(file, []byte(step.text)); err != nil {
			t.Errorf("write %q: %v", step.text, err)
		}
		text, err := os.ReadFile(file)
		about, statErr := os.Stat(file)
		if err := errors.Join(err, statErr); err != nil || string(text) != step.text {
			t.Fatalf("%q is read where %q was written: %v", text, step.text, err)
		}
		if mode := about.Mode().Perm(); runtime.GOOS != "windows" && mode != 0o600 {
			t.Errorf("others may do %v", mode)
		}
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something is left beside it: %v", err)
		}
	}
}

// Where it fails, what was there stays, and nothing is left beside it.
func TestReplaceThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := durable.Replace(filepath.Join(dir, "none", "settings.json"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
	folder := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(folder, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(folder, []byte("x")); err == nil {
		t.Error("a folder is replaced")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// What is written beside a file is not written through a link that somebody has put there.
func TestReplaceFollowsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	precious, file := filepath.Join(dir, "precious"), filepath.Join(dir, "settings.json")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, file+".new"); err != nil {
		t.Skip("no links here")
	}
	if err := durable.Replace(file, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "settings.json")
	for _, there := range [][]string{nil, {file}, {file + ".new"}, {file, file + ".new"}} {
		for _, name := range there {
			if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := durable.Remove(file); err != nil {
			t.Errorf("remove %v: %v", there, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Errorf("of %v there are left %v, %v", there, names, err)
		}
	}
}
