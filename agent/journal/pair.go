package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A pair is a small value that is overwritten in place, in two files by turns, so
// that one sound copy always stands. A copy is
//
//	magic "CETRPAIR", generation 8, length 4, value, crc 4
const (
	pairMagic = "CETRPAIR"
	pairHead  = len(pairMagic) + 8 + 4
	// maxPair is the greatest value, so that a damaged length costs no memory.
	maxPair = 32 << 20
)

var errPair = errors.New("journal: the copy is damaged")

func appendCopy(b []byte, generation uint64, value []byte) []byte {
	from := len(b)
	b = append(b, pairMagic...)
	b = binary.BigEndian.AppendUint64(b, generation)
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	b = append(b, value...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

func parseCopy(b []byte) (generation uint64, value []byte, err error) {
	if len(b) < pairHead+4 || string(b[:len(pairMagic)]) != pairMagic {
		return 0, nil, errPair
	}
	generation = binary.BigEndian.Uint64(b[len(pairMagic):])
	length := int64(binary.BigEndian.Uint32(b[len(pairMagic)+8:]))
	if length > maxPair || int64(len(b)) < int64(pairHead)+length+4 {
		return 0, nil, errPair
	}
	end := pairHead + int(length)
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return 0, nil, errPair
	}
	return generation, b[pairHead:end], nil
}

type pair struct {
	base       string
	sync       func(*os.File) error
	generation uint64
	// next is the copy to overwrite: not the newest sound one.
	next int
}

// openPair reads the newest sound copy. damaged counts copies that are there and do
// not check; found is false where no sound one is.
func openPair(base string, sync func(*os.File) error) (p *pair, value []byte, found bool, damaged int, err error) {
	p = &pair{base: base, sync: sync}
	for n := range 2 {
		b, err := readBounded(p.file(n), int64(pairHead)+maxPair+4)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, false, 0, fmt.Errorf("journal: %w", err)
		}
		generation, v, err := parseCopy(b)
		if err != nil {
			// An empty file is a copy that was never written.
			if len(b) > 0 {
				damaged++
			}
			continue
		}
		if !found || generation > p.generation {
			p.generation, p.next, value, found = generation, 1-n, v, true
		}
	}
	return p, value, found, damaged, nil
}

func (p *pair) file(n int) string { return p.base + [2]string{".a", ".b"}[n] }

// write replaces the value durably.
func (p *pair) write(value []byte) error {
	if len(value) > maxPair {
		return fmt.Errorf("journal: %s: %d bytes are more than %d", filepath.Base(p.base), len(value), maxPair)
	}
	name := p.file(p.next)
	_, statErr := os.Stat(name)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	b := appendCopy(nil, p.generation+1, value)
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Truncate(int64(len(b)))
	}
	if err == nil {
		err = p.sync(f)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil && errors.Is(statErr, fs.ErrNotExist) {
		err = syncDirectory(filepath.Dir(name), p.sync)
	}
	if err != nil {
		return fmt.Errorf("journal: %s: %w", name, err)
	}
	p.generation++
	p.next = 1 - p.next
	return nil
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, limit))
}
