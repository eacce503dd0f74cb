package durable

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
)

// ErrDamaged says that a file cannot be trusted.
var ErrDamaged = errors.New("damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is the CRC-32C of content.
func Sum(content []byte) uint32 { return crc32.Checksum(content, castagnoli) }

// Read reads a file that Replace wrote; ErrDamaged where its checksum, which
// stands in a last line of its own, does not fit.
func Read(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	content, err := Check(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return content, nil
}

// Check takes the checksum off a file's bytes, if it fits.
func Check(raw []byte) ([]byte, error) {
	n := len(raw) - len(sumLine(nil))
	if n < 0 {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(raw))
	}
	if string(raw[n:]) != sumLine(raw[:n]) {
		return nil, fmt.Errorf("%w: its checksum does not fit", ErrDamaged)
	}
	return raw[:n:n], nil
}

func sumLine(content []byte) string { return fmt.Sprintf("\ncrc32c %08x\n", Sum(content)) }

// Replace writes a file durably in place of what was there, readable by its owner
// only.
func Replace(path string, content []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(slices.Clone(content), sumLine(content)...))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
