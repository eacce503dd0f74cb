package people

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

// line is one line of the book: what became known of one principal, or the
// book's secret.
type line struct {
	Secret    []byte   `json:"secret,omitempty"`
	Principal []byte   `json:"principal,omitempty"`
	Key       []byte   `json:"key,omitempty"`
	Tags      [][]byte `json:"tags,omitempty"`
	Sealed    []byte   `json:"sealed,omitempty"`
	NameTag   []byte   `json:"name_tag,omitempty"`
	Announced []byte   `json:"announced,omitempty"`
	Deposited bool     `json:"deposited,omitempty"`
	Agent     []byte   `json:"agent,omitempty"`
	Alias     []byte   `json:"alias,omitempty"`
}

// journal is an append-only file of lines, each with its checksum, synced for many
// at once.
type journal struct {
	mu      sync.Mutex // guards what is below
	unsaved []byte
	written uint64 // lines given to write

	disk  sync.Mutex // held while the file is written; taken before mu
	file  *os.File
	saved uint64 // lines that are durable
}

// openJournal reads every line into replay, cuts off a torn end, and tells how
// many other lines were damaged.
func openJournal(path string, replay func(line) error) (*journal, int, error) {
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
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return &journal{file: file}, damaged, nil
}

// readLines tells how many bytes hold whole lines, and how many of these lines are
// damaged.
func readLines(raw []byte, replay func(line) error) (whole, damaged int) {
	for {
		end := bytes.IndexByte(raw[whole:], '\n')
		if end < 0 {
			return whole, damaged
		}
		l, err := decodeLine(raw[whole : whole+end])
		if err == nil {
			err = replay(l)
		}
		if err != nil {
			damaged++
		}
		whole += end + 1
	}
}

func decodeLine(raw []byte) (line, error) {
	var l line
	sum, body, ok := bytes.Cut(raw, []byte(" "))
	if !ok {
		return l, fmt.Errorf("%w: no checksum", durable.ErrDamaged)
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || uint32(want) != durable.Sum(body) {
		return l, fmt.Errorf("%w: the checksum does not fit", durable.ErrDamaged)
	}
	return l, json.Unmarshal(body, &l)
}

func encodeLine(l line) []byte {
	body, err := json.Marshal(l) //nolint:gosec // keeping the secret is what this file is for
	if err != nil {
		panic(err) // a struct of bytes and a bool always has a JSON form
	}
	return fmt.Appendf(nil, "%08x %s\n", durable.Sum(body), body)
}

// write hands over a line; sync makes it durable.
func (j *journal) write(l line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unsaved = append(j.unsaved, encodeLine(l)...)
	j.written++
}

// sync returns once every line written before the call is durable.
func (j *journal) sync() error {
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

func (j *journal) commit(l line) error {
	j.write(l)
	return j.sync()
}

func (j *journal) close() error {
	return errors.Join(j.sync(), j.file.Close())
}
