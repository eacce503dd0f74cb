package release

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cetrus/cetrus/agent/durable"
)

// Dir is a folder of the system's. It is made, for its owner alone, where it is missing.
func Dir(path string) (Disk, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return dir(absolute), nil
}

type dir string

func (d dir) Path(name string) string { return filepath.Join(string(d), name) }

func (d dir) Open(name string) (io.ReadCloser, error) { return os.Open(d.Path(name)) }

func (d dir) Append(name string, data []byte) error {
	f, err := os.OpenFile(d.Path(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func (d dir) Sync(name string) error {
	f, err := os.OpenFile(d.Path(name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Runnable lets everybody run the file who can reach it: nobody can through the folder, but
// a service hands the program that it is to the people into whose sessions it looks.
func (d dir) Runnable(name string) error { return os.Chmod(d.Path(name), 0o755) }

func (d dir) Rename(from, to string) error { return durable.Rename(d.Path(from), d.Path(to)) }

func (d dir) Remove(name string) error { return os.Remove(d.Path(name)) }

func (d dir) SyncDir() error { return durable.SyncDir(string(d)) }

func (d dir) Sizes() (map[string]int64, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]int64, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			sizes[e.Name()] = info.Size()
		}
	}
	return sizes, nil
}
