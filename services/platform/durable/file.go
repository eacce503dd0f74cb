package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace writes a file in place of what was there.
func Replace(path string, content []byte) error { return write(path, content, os.Rename) }

// Create writes a file where none is: an error that errors.Is fs.ErrExist where
// there is one, which stays as it is.
func Create(path string, content []byte) error { return write(path, content, os.Link) }

func write(path string, content []byte, place func(from, to string) error) error {
	dir := filepath.Dir(path)
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temporary.Name()) }() // not there any more where it was renamed
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Sync()
	}
	if err := errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	if err := place(temporary.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
