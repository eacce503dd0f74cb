//go:build unix

package natsserver

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// roomFor is how many bytes a directory may take, which is perhaps not made yet.
func roomFor(dir string) (uint64, error) {
	for {
		var disk syscall.Statfs_t
		err := syscall.Statfs(dir, &disk)
		above := filepath.Dir(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || above == dir {
			return disk.Bavail * uint64(disk.Bsize), err
		}
		dir = above
	}
}
