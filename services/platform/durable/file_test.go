package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cetrus/cetrus/services/platform/durable"
)

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	holds := func(want string) {
		t.Helper()
		text, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || string(text) != want || info.Mode().Perm() != 0o600 {
			t.Errorf("%q %v %v", text, info.Mode(), errors.Join(err, statErr))
		}
	}
	for _, step := range []struct {
		write func(string, []byte) error
		text  string
		want  string
		err   error
	}{
		{durable.Create, "one", "one", nil},
		{durable.Create, "two", "one", fs.ErrExist},
		{durable.Replace, "three", "three", nil},
	} {
		if err := step.write(path, []byte(step.text)); !errors.Is(err, step.err) {
			t.Errorf("%s: %v", step.text, err)
		}
		holds(step.want)
	}
	if err := durable.Replace(filepath.Join(dir, "none", "key"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v %v", names, err)
	}
}
