//go:build unix

package durable

import (
	"errors"
	"os"
)

// SyncDir makes a rename in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Rename puts a file in the place of another one. SyncDir makes it durable.
func Rename(from, to string) error { return os.Rename(from, to) }
