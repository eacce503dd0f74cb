//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestOwnFolder(t *testing.T) {
	t.Parallel()
	me := strconv.Itoa(os.Geteuid())
	shared := func(mode os.FileMode) string {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dir := shared(os.ModeSticky | 0o777)
	for range 2 {
		if own, ok := ownFolder(dir); !ok || own != filepath.Join(dir, me) {
			t.Fatalf("own folder: %q, %v", own, ok)
		}
	}
	about, err := os.Stat(filepath.Join(dir, me))
	if err != nil || about.Mode() != os.ModeDir|0o700 {
		t.Errorf("others can look into it: %v, %v", about, err)
	}

	if own, ok := ownFolder(shared(0o777)); ok {
		t.Errorf("%s could be removed by anybody", own)
	}
	if own, ok := ownFolder(filepath.Join(dir, "nowhere")); ok {
		t.Errorf("%s is nowhere", own)
	}
	dir = shared(os.ModeSticky | 0o777)
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, me)); err != nil {
		t.Fatal(err)
	}
	if own, ok := ownFolder(dir); ok {
		t.Errorf("%s leads elsewhere", own)
	}
	if os.Geteuid() != 0 {
		return // nobody else can be had to make a folder
	}
	dir = shared(os.ModeSticky | 0o777)
	squatted := filepath.Join(dir, me)
	if err := os.Mkdir(squatted, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(squatted, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if own, ok := ownFolder(dir); ok {
		t.Errorf("%s is somebody else's", own)
	}
}
