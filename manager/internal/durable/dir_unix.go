//go:build unix

package durable

import (
	"errors"
	"os"
)

// syncDir makes a rename inside the folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
