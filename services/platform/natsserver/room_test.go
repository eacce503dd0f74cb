package natsserver

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/natsfiles"
)

// JetStream gives up for good when its disk is full: whoever runs the server hears of it, and starts it anew.
func TestAServerThatTakesNothingAnyMoreEnds(t *testing.T) {
	s, err := Start(t.Context(), Config{StoreDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	if err := s.server.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "is that disk full?") {
			t.Errorf("it says %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}

// A server begins once there is room for what it keeps, and not before.
func TestAServerWaitsForRoom(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("a small disk takes root: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, 0) }()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	config := Config{StoreDir: filepath.Join(dir, "not", "there"), Logger: slog.New(slog.DiscardHandler)}
	waiting, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Start(waiting, config); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "room") {
		t.Fatalf("on a full disk it says %v", err)
	}
	began := make(chan error, 1)
	go func() {
		s, err := Start(t.Context(), config)
		if err == nil {
			s.Stop()
		}
		began <- err
	}()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := <-began; err != nil {
		t.Errorf("there is room, and it says %v", err)
	}
}

// However full a server has made its disk, it may keep as much after its next start.
func TestRoomStaysWhatItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := rapid.Int64Range(1<<20, 1<<50).Draw(t, "disk")
		empty := storeLimit(disk, 0)
		used := rapid.Int64Range(0, empty).Draw(t, "used")
		if now := storeLimit(disk-used, used); now < used-4 || now != empty {
			t.Errorf("of %d bytes it may keep %d, and %d when it holds %d", disk, empty, now, used)
		}
	})
}

// What a start that came to no end has left beside the files, second names of the same bytes, is not used once more.
func TestBytesOfTwoNamesAreCountedOnce(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("a disk of its own, which nobody else fills, takes root: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, 0) }()
	folder := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "1.blk"), make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := storeBytes(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := natsfiles.Hold(dir); err != nil {
		t.Fatal(err)
	}
	same := func(second string) {
		t.Helper()
		if after, err := storeBytes(dir); err != nil || after > before {
			t.Errorf("of this disk %d bytes may be used, and %d once files have second names in %s: %v", before, after, second, err)
		}
	}
	same(natsfiles.Folder(dir))
	released := filepath.Join(dir, "released")
	if err := os.Rename(natsfiles.Folder(dir), released); err != nil {
		t.Fatal(err)
	}
	same(released)
}
