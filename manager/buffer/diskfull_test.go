//go:build linux

package buffer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAFullDiskStallsAndHeals runs on a small file system of its own, so that the
// disk is really full: first the reserve stops writing, then, with no reserve, the
// write itself fails.
func TestAFullDiskStallsAndHeals(t *testing.T) {
	for _, reserve := range []struct {
		name  string
		bytes int64
	}{{"reserve", 8 << 20}, {"no reserve", 1}} {
		t.Run(reserve.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
				t.Skipf("a small file system cannot be mounted here: %v", err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
			config := testConfig(filepath.Join(dir, "buffer"))
			config.ReserveBytes = reserve.bytes
			b := open(t, config)
			put(t, b, usage, "before")
			ballast := filepath.Join(dir, "ballast")
			free, err := freeBytes(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(ballast, make([]byte, free-256<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			const entries = 4
			done := make(chan uint64, entries)
			for range entries {
				if err := b.Append(context.Background(), Entry{Lane: usage, Frame: []byte(strings.Repeat("x", 400<<10)), Done: func(p uint64) { done <- p }}); err != nil {
					t.Fatal(err)
				}
			}
			deadline := time.Now().Add(20 * time.Second)
			for b.Stalled() == "" {
				if time.Now().After(deadline) {
					t.Fatalf("no stall on a full disk: %+v", b.State())
				}
				<-time.After(10 * time.Millisecond)
			}
			if len(done) == entries {
				t.Fatal("everything was acknowledged on a full disk")
			}
			t.Logf("stalled: %s", b.Stalled())
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			for range entries {
				await(t, done)
			}
			id := b.State().ID
			shut(t, b)
			b = open(t, config)
			if s := b.State(); len(s.Losses) != 0 || s.ID != id {
				t.Errorf("after the disk healed: %+v", s)
			}
			if got := len(frames(t, b, usage, 1)); got != entries+1 {
				t.Errorf("%d frames are there, not %d", got, entries+1)
			}
		})
	}
}
