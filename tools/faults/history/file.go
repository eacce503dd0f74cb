package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// File is a history that is being written. It may be told facts by several goroutines.
type File struct {
	// Path is where it is.
	Path string

	mu     sync.Mutex
	file   *os.File
	buffer *bufio.Writer
	failed error
}

// Create makes the file of a history, which must not be there.
func Create(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &File{Path: path, file: file, buffer: bufio.NewWriterSize(file, 1<<20)}, nil
}

// Tell adds a fact. What could not be written is told by Close.
func (f *File) Tell(fact Fact) {
	fact.UTCMillis = time.Now().UnixMilli()
	text, err := json.Marshal(fact)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		_, err = f.buffer.Write(append(text, '\n'))
	}
	f.failed = errors.Join(f.failed, err)
}

// Close ends the history.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.failed, f.buffer.Flush(), f.file.Close()); err != nil {
		return fmt.Errorf("history %s: %w", f.Path, err)
	}
	return nil
}

// Read hands out the facts of a history in their order.
func Read(path string, each func(Fact) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer func() { _ = file.Close() }()
	decoder := json.NewDecoder(bufio.NewReaderSize(file, 1<<20))
	for {
		var fact Fact
		if err := decoder.Decode(&fact); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("history %s: %w", path, err)
		}
		if err := each(fact); err != nil {
			return err
		}
	}
}
