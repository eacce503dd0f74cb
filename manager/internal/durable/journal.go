package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Journal is an append-only file of lines, each a T as JSON with its checksum, synced for
// many at once. Its owner alone reads it.
type Journal[T any] struct {
	mu      sync.Mutex // guards what is below
	unsaved []byte
	written uint64 // lines given to Write

	disk  sync.Mutex // held while the file is written; taken before mu
	file  *os.File
	saved uint64 // lines that are durable
}

// OpenJournal reads every line into replay, cuts off a torn end, and tells how
// many other lines were damaged.
func OpenJournal[T any](path string, replay func(T) error) (*Journal[T], int, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	raw, err := io.ReadAll(file)
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	whole, damaged := readLines(raw, replay)
	if whole < len(raw) {
		err = file.Truncate(int64(whole))
	}
	if err == nil {
		_, err = file.Seek(int64(whole), io.SeekStart)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path)) // it may be new, or have been put in another's place
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return &Journal[T]{file: file}, damaged, nil
}

// readLines tells how many bytes hold whole lines, and how many of these lines are
// damaged.
func readLines[T any](raw []byte, replay func(T) error) (whole, damaged int) {
	for {
		end := bytes.IndexByte(raw[whole:], '\n')
		if end < 0 {
			return whole, damaged
		}
		l, err := decodeLine[T](raw[whole : whole+end])
		if err == nil {
			err = replay(l)
		}
		if err != nil {
			damaged++
		}
		whole += end + 1
	}
}

func decodeLine[T any](raw []byte) (T, error) {
	var l T
	sum, body, ok := bytes.Cut(raw, []byte(" "))
	if !ok {
		return l, fmt.Errorf("%w: no checksum", ErrDamaged)
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || uint32(want) != Sum(body) {
		return l, fmt.Errorf("%w: the checksum does not fit", ErrDamaged)
	}
	return l, json.Unmarshal(body, &l)
}

func encodeLine(l any) []byte {
	body, err := json.Marshal(l)
	if err != nil {
		panic(err) // who makes a journal gives it lines that have a JSON form
	}
	return fmt.Appendf(nil, "%08x %s\n", Sum(body), body)
}

// Write hands over a line; Sync makes it durable.
func (j *Journal[T]) Write(l T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unsaved = append(j.unsaved, encodeLine(l)...)
	j.written++
}

// Sync returns once every line written before the call is durable.
func (j *Journal[T]) Sync() error {
	j.mu.Lock()
	goal := j.written
	j.mu.Unlock()
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.saved >= goal {
		return nil
	}
	j.mu.Lock()
	lines, count := j.unsaved, j.written
	j.unsaved = nil
	j.mu.Unlock()
	position, err := j.file.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = j.file.Write(lines)
	}
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// Take back what may be torn, and keep the lines for the next attempt.
		_ = j.file.Truncate(position)
		_, _ = j.file.Seek(position, io.SeekStart)
		j.mu.Lock()
		j.unsaved = append(lines, j.unsaved...)
		j.mu.Unlock()
		return err
	}
	j.saved = count
	return nil
}

// Commit is both.
func (j *Journal[T]) Commit(l T) error {
	j.Write(l)
	return j.Sync()
}

// Close makes durable what is not yet, and closes the file.
func (j *Journal[T]) Close() error {
	return errors.Join(j.Sync(), j.file.Close())
}
