package natsserver

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/cetrus/cetrus/proto/natsfiles"
)

const (
	// leastRoom is how many bytes must be free where JetStream keeps its files, for it to begin.
	leastRoom = 8 << 20
	// lookForRoom is how often it is looked.
	lookForRoom = time.Second
)

// awaitRoom waits until there is room where JetStream keeps its files: without it JetStream would only find, in
// the middle of something, that it has none, and give up.
func (c Config) awaitRoom(ctx context.Context) error {
	log := cmp.Or(c.Logger, slog.Default())
	told := false
	for {
		free, err := roomFor(c.StoreDir)
		if err != nil {
			return fmt.Errorf("natsserver: look for room in %s: %w", c.StoreDir, err)
		}
		if free >= leastRoom {
			return nil
		}
		if !told {
			log.ErrorContext(ctx, "the disk of the event log is full: nothing is taken until there is room, and Managers keep what comes", "directory", c.StoreDir, "free_bytes", free, "needed_bytes", leastRoom)
			told = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("natsserver: %s has %d bytes of room, and %d are needed: %w", c.StoreDir, free, leastRoom, ctx.Err())
		case <-time.After(lookForRoom):
		}
	}
}

// storeBytes is how many bytes the files of a server may have, of what is free or used by them.
func storeBytes(dir string) (int64, error) {
	free, err := roomFor(dir)
	if err != nil {
		return 0, fmt.Errorf("natsserver: look for room in %s: %w", dir, err)
	}
	var used int64
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if natsfiles.SecondNames(dir, path) {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err == nil {
			used += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("natsserver: measure what is in %s: %w", dir, err)
	}
	return storeLimit(int64(free), used), nil
}

// storeLimit is how many bytes files may have that have so many where so many are free. The server's own
// choice is a share of what is free when it starts: one that has filled half of its disk would begin with
// more than it may have, and take nothing more.
func storeLimit(free, used int64) int64 { return (free + used) / 4 * 3 }
