package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts a file in the place of what was there, in one step that outlives a crash.
// Its owner alone reads it. One caller at a time replaces a file.
func Replace(file string, content []byte) error {
	beside := unfinished(file)
	err := write(beside, content)
	if err == nil {
		err = Rename(beside, file)
	}
	if err != nil {
		_ = os.Remove(beside)
		return fmt.Errorf("durable: write %s: %w", file, err)
	}
	if err := SyncDir(filepath.Dir(file)); err != nil {
		return fmt.Errorf("durable: write %s: %w", file, err)
	}
	return nil
}

// ReplaceJSON is Replace with a value as JSON.
func ReplaceJSON(file string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("durable: write %s: %w", file, err)
	}
	return Replace(file, content)
}

// Remove removes a file where there is one, and what a Replace that a crash has cut short
// may have left beside it.
func Remove(file string) error {
	for _, name := range []string{file, unfinished(file)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("durable: %w", err)
		}
	}
	return nil
}

// unfinished is where a file is written before it is put in its place: always the same, so
// that what a crash leaves is overwritten.
func unfinished(file string) string { return file + ".new" }

// write makes a file anew: whatever lies there, a link say, is no part of it.
func write(file string, content []byte) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
