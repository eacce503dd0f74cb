package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/tools/faults/disk"
)

func mount(t *testing.T, seed uint64) (*disk.Disk, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a disk needs root")
	}
	dir := t.TempDir()
	at := filepath.Join(dir, "mounted")
	d, err := disk.Mount(dir, at, seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, at
}

// write writes a file, and syncs it and its folder where it is told to.
func write(t *testing.T, path string, text []byte, sync bool) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Write(text); err != nil {
		t.Fatal(err)
	}
	if sync {
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

func cut(t *testing.T, d *disk.Disk) {
	t.Helper()
	if err := d.PowerCut(); err != nil {
		t.Fatal(err)
	}
}

// TestOnlyWhatIsSyncedIsSafe: over many cuts what was synced always stays, and what was not goes at least
// once, stays at least once, and is torn at least once.
func TestOnlyWhatIsSyncedIsSafe(t *testing.T) {
	d, at := mount(t, 1)
	synced, more := bytes.Repeat([]byte("synced "), 1500), bytes.Repeat([]byte("more "), 3000)
	var gone, whole, torn int
	for i := range 60 {
		path := filepath.Join(at, fmt.Sprint("file", i))
		write(t, path, synced, true)
		write(t, path, more, false)
		cut(t, d)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(text, synced) {
			t.Fatalf("cut %d: what was synced is gone", i)
		}
		switch rest := text[len(synced):]; {
		case len(rest) == 0:
			gone++
		case bytes.Equal(rest, more):
			whole++
		default:
			torn++
		}
	}
	if gone == 0 || whole == 0 || torn == 0 {
		t.Errorf("what was not synced is gone %d times, whole %d, torn %d", gone, whole, torn)
	}
}

// TestOverwrittenBytesComeBack: what was synced and then written over without a sync comes back, or not,
// sector by sector.
func TestOverwrittenBytesComeBack(t *testing.T) {
	d, at := mount(t, 2)
	path := filepath.Join(at, "file")
	before, after := bytes.Repeat([]byte{'a'}, 10_000), bytes.Repeat([]byte{'b'}, 10_000)
	came, stayed := 0, 0
	for range 40 {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		write(t, path, before, true)
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(after, 0); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		cut(t, d)
		text, err := os.ReadFile(path)
		if err != nil || len(text) != len(before) {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		for at := 0; at < len(text); at += 512 {
			sector := text[at:min(at+512, len(text))]
			if bytes.Count(sector, []byte{'a'})%len(sector) != 0 {
				t.Fatalf("the sector at %d is torn within", at)
			}
		}
		came += bytes.Count(text, []byte{'a'})
		stayed += bytes.Count(text, []byte{'b'})
	}
	if came == 0 || stayed == 0 {
		t.Errorf("%d bytes came back, %d stayed", came, stayed)
	}
}

// TestNamesGoInTheirOrder: of names that nothing has made safe a first part remains; a sync of any file
// makes all before it safe; a file that was replaced by one that was not synced is damaged at least once.
func TestNamesGoInTheirOrder(t *testing.T) {
	d, at := mount(t, 3)
	lost, damaged := 0, 0
	for round := range 40 {
		dir := filepath.Join(at, fmt.Sprint("round", round))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "kept"), []byte("old"), true)
		for n := range 5 {
			write(t, filepath.Join(dir, fmt.Sprint(n)), nil, false)
		}
		write(t, filepath.Join(dir, "new"), bytes.Repeat([]byte("new"), 5000), false)
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "kept")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "0")); err != nil {
			t.Fatal(err)
		}
		cut(t, d)
		text, err := os.ReadFile(filepath.Join(dir, "kept"))
		if err != nil {
			t.Fatalf("a name that was synced is gone: %v", err)
		}
		if !bytes.Equal(text, []byte("old")) && len(text) != 15_000 {
			damaged++
		}
		there := func(n int) bool {
			_, err := os.Stat(filepath.Join(dir, fmt.Sprint(n)))
			return err == nil
		}
		for n := 2; n < 5; n++ {
			if there(n) && !there(n-1) {
				t.Errorf("round %d: %d is there and %d is not", round, n, n-1)
			}
		}
		if !there(4) {
			lost++
		}
	}
	if lost == 0 || damaged == 0 {
		t.Errorf("names were lost %d times, a file replaced by one without its content %d", lost, damaged)
	}
}

// TestAFailedSyncIsNotMadeGoodByTheNext: as in Linux.
func TestAFailedSyncIsNotMadeGoodByTheNext(t *testing.T) {
	d, at := mount(t, 4)
	path := filepath.Join(at, "file")
	write(t, path, []byte("first"), true)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("second"); err != nil {
		t.Fatal(err)
	}
	d.Fail(disk.Failure{Error: unix.EIO, Syncs: true})
	if err := file.Sync(); !errors.Is(err, unix.EIO) {
		t.Fatalf("a sync of a broken disk: %v", err)
	}
	d.Fail(disk.Failure{})
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		t.Fatal(err)
	}
	cut(t, d)
	if text, err := os.ReadFile(path); err != nil || bytes.Contains(text, []byte("second")) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestWhatAlwaysSyncsIsSafeWithoutASync(t *testing.T) {
	d, at := mount(t, 5)
	for i := range 20 {
		path := filepath.Join(at, fmt.Sprint(i))
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString("safe"); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		cut(t, d)
		if text, err := os.ReadFile(path); err != nil || string(text) != "safe" {
			t.Fatalf("%q, %v", text, err)
		}
	}
}

func TestADiskIsFullReadOnlyAndBroken(t *testing.T) {
	d, at := mount(t, 6)
	path := filepath.Join(at, "file")
	write(t, path, []byte("there"), true)
	try := func(want error) {
		t.Helper()
		err := os.WriteFile(filepath.Join(at, "other"), []byte("more"), 0o600)
		if !errors.Is(err, want) {
			t.Errorf("writing: %v; want %v", err, want)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != "there" {
			t.Errorf("reading: %q, %v", text, err)
		}
	}
	d.Fail(disk.Full())
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil || st.Bavail != 0 {
		t.Errorf("a full disk has %d free blocks, %v", st.Bavail, err)
	}
	try(unix.ENOSPC)
	d.Fail(disk.ReadOnly())
	try(unix.EROFS)
	d.Fail(disk.Broken(0))
	try(unix.EIO)
	d.Fail(disk.Failure{})
	try(nil)
	if f := d.Figures(); f.Failed == 0 {
		t.Errorf("%+v", f)
	}
}
