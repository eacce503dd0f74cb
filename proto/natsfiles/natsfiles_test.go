package natsfiles_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cetrus/cetrus/proto/natsfiles"
)

// stream makes the files of a stream, and answers their names below its folder.
func stream(t *testing.T, dir, name string) string {
	t.Helper()
	folder := filepath.Join(dir, "jetstream", "$G", "streams", name)
	for _, file := range []string{"meta.inf", "meta.sum", "msgs/1.blk", "msgs/2.blk", "obs/reader/meta.inf"} {
		path := filepath.Join(folder, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name+" "+file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func hold(t *testing.T, dir string) *natsfiles.Held {
	t.Helper()
	h, err := natsfiles.Hold(dir)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func same(t *testing.T, folder, name string) {
	t.Helper()
	for _, file := range []string{"meta.inf", "meta.sum", "msgs/1.blk", "msgs/2.blk", "obs/reader/meta.inf"} {
		if text, err := os.ReadFile(filepath.Join(folder, file)); err != nil || string(text) != name+" "+file {
			t.Errorf("%s: %q, %v", file, text, err)
		}
	}
}

func TestWhatAServerRemovesIsPutBack(t *testing.T) {
	dir := t.TempDir()
	gone, kept := stream(t, dir, "GONE"), stream(t, dir, "KEPT")
	h := hold(t, dir)
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	if missing := h.Missing(func(account, stream string) bool { return account == "$G" && stream == "KEPT" }); len(missing) != 1 || missing[0] != gone {
		t.Fatalf("missing: %q", missing)
	}
	if err := h.Restore(); err != nil {
		t.Fatal(err)
	}
	same(t, gone, "GONE")
	same(t, kept, "KEPT")
}

// TestAHoldThatCameToNoEndIsPutBackByTheNext: the power failed after the server had removed a file.
func TestAHoldThatCameToNoEndIsPutBackByTheNext(t *testing.T) {
	dir := t.TempDir()
	folder := stream(t, dir, "BUFFER")
	hold(t, dir)
	if err := os.Remove(filepath.Join(folder, "meta.inf")); err != nil {
		t.Fatal(err)
	}
	h := hold(t, dir)
	same(t, folder, "BUFFER")
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

// TestWhatIsWrittenMeanwhileIsKept: a second name is of the same file.
func TestWhatIsWrittenMeanwhileIsKept(t *testing.T) {
	dir := t.TempDir()
	folder := stream(t, dir, "BUFFER")
	h := hold(t, dir)
	block := filepath.Join(folder, "msgs", "1.blk")
	if err := os.WriteFile(block, []byte("more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := h.Restore(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(block); err != nil || string(text) != "more" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestAnEmptyStoreIsHeld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	h := hold(t, dir)
	if err := h.Release(); err != nil {
		t.Error(err)
	}
}

// TestFilesThatAServerMadeAnewAreNotThoseThatWereHeld: a block of the same name with other messages, or none.
func TestFilesThatAServerMadeAnewAreNotThoseThatWereHeld(t *testing.T) {
	for name, change := range map[string]func(block string) error{
		"nothing": func(string) error { return nil },
		"removed": os.Remove,
		"made anew": func(block string) error {
			return errors.Join(os.Remove(block), os.WriteFile(block, []byte("S msgs/2.blk"), 0o600))
		},
		"written on": func(block string) error {
			file, err := os.OpenFile(block, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = file.WriteString("more")
			return errors.Join(err, file.Close())
		},
		"torn end cut off": func(block string) error { return os.Truncate(block, 2) },
	} {
		dir := t.TempDir()
		folder := stream(t, dir, "S")
		h := hold(t, dir)
		if err := change(filepath.Join(folder, "msgs", "2.blk")); err != nil {
			t.Fatal(err)
		}
		intact, err := h.Intact("$G", "S")
		if want := name != "removed" && name != "made anew"; intact != want || err != nil {
			t.Errorf("%s: intact %t, %v", name, intact, err)
		}
	}
}

// TestWhatIsLeftOfAReleaseIsNotPutBack: a disk that failed while second names were removed.
func TestWhatIsLeftOfAReleaseIsNotPutBack(t *testing.T) {
	dir := t.TempDir()
	folder := stream(t, dir, "S")
	h := hold(t, dir)
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "released", "$G", "streams", "S", "msgs")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "0.blk"), []byte("removed by the server"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := hold(t, dir).Restore(); err != nil {
		t.Fatal(err)
	}
	same(t, folder, "S")
	for _, gone := range []string{filepath.Join(folder, "msgs", "0.blk"), filepath.Join(dir, "released"), natsfiles.Folder(dir)} {
		if _, err := os.Lstat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
}
