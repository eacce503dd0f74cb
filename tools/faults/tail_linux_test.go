package faults_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/manager/buffer"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/faults/disk"
)

// syncsFail is a disk that takes writes and syncs none: what was written is read back as if it were there.
var syncsFail = disk.Failure{Error: unix.EIO, Syncs: true}

func mountDisk(t *testing.T) (*disk.Disk, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a disk needs root")
	}
	dir := t.TempDir()
	at := filepath.Join(dir, "mounted")
	d, err := disk.Mount(dir, at, 1)
	if err != nil {
		t.Skipf("a disk cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, filepath.Join(at, "data")
}

// TestAManagerKeepsWhatItAcknowledgedThoughASyncFailed: a sync fails while batches are written, the buffer goes on
// once the disk is well, and the power goes: all that was acknowledged is there.
func TestAManagerKeepsWhatItAcknowledgedThoughASyncFailed(t *testing.T) {
	d, dir := mountDisk(t)
	open := func() *buffer.Buffer {
		t.Helper()
		b, err := buffer.Open(t.Context(), buffer.Config{
			Dir: dir, AccountID: contract.ID{1}, ManagerID: contract.ID{2}, MaxBytes: 1 << 30, ReserveBytes: 1, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // before its disk
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
			defer cancel()
			_ = b.Close(ctx)
		})
		return b
	}
	b := open()
	put := func() <-chan uint64 {
		t.Helper()
		done := make(chan uint64, 1)
		// Larger than what is written at once, so that one part of it can be there and another not.
		if err := b.Append(t.Context(), buffer.Entry{Lane: usagev1.Lane_LANE_USAGE, Frame: make([]byte, 64<<10), Done: func(p uint64) { done <- p }}); err != nil {
			t.Fatal(err)
		}
		return done
	}
	<-put()
	d.Fail(syncsFail)
	before := d.Figures().Failed
	failed := put()
	for late := time.After(time.Minute); d.Figures().Failed == before; {
		select {
		case <-late:
			t.Fatal("no sync has failed")
		case <-time.After(time.Millisecond):
		}
	}
	d.Fail(disk.Failure{})
	<-failed
	last := <-put()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if s := open().State(); len(s.Losses) > 0 || s.LastPosition != last {
		t.Errorf("through %d was acknowledged, and it has lost: %+v, its last is %d", last, s.Losses, s.LastPosition)
	}
}

// TestAnAgentKeepsWhatItGaveThoughASyncFailed: what an opened journal gives is there after a loss of power.
func TestAnAgentKeepsWhatItGaveThoughASyncFailed(t *testing.T) {
	d, dir := mountDisk(t)
	failing := false
	open := func() *journal.Journal {
		t.Helper()
		j, err := journal.Open(journal.Config{
			Dir: dir, AgentID: contract.ID{1}, Lane: usagev1.Lane_LANE_USAGE, Log: slog.New(slog.DiscardHandler),
			Sync: func(f *os.File) error {
				if !failing {
					return f.Sync()
				}
				d.Fail(syncsFail)
				err := f.Sync()
				d.Fail(disk.ReadOnly()) // what was written cannot be taken back either
				return err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = j.Close() }) // before its disk
		return j
	}
	j := open()
	add := func() error {
		return j.Append(t.Context(), journal.Batch{
			Usage:   []*usagev1.UsageEvent{{EventId: make([]byte, 16), AnchorId: 1}},
			Anchors: []*usagev1.Anchor{{AnchorId: 1}},
		})
	}
	if err := add(); err != nil {
		t.Fatal(err)
	}
	failing = true
	if err := add(); err == nil {
		t.Fatal("a sync that fails makes a record durable")
	}
	failing = false
	d.Fail(disk.Failure{})
	_ = j.Close() // broken, as its program is ended
	j = open()
	next := j.Stats().NextSeq
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if s := open().Stats(); s.NextSeq != next {
		t.Errorf("numbers through %d were given, and %d are left", next-1, s.NextSeq-1)
	}
}
