//go:build unix

package journal

import "os"

// syncDirectory makes the names in a directory durable.
func syncDirectory(dir string, sync func(*os.File) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = sync(d)
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
