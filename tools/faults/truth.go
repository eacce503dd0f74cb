package faults

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/faults/history"
	"github.com/cetrus/cetrus/tools/load"
)

// truthFile is what an agent journalled, written beside the journal: each event
// with its length before it. A kill keeps what was written, since the page cache
// outlives the process.
type truthFile struct {
	file *os.File
}

func openTruth(path string) (*truthFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("faults: truth: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("faults: truth: %w", err)
	}
	return &truthFile{file}, nil
}

// add is called by the agent when events are durable, before they are sent.
func (t *truthFile) add(events []*usagev1.UsageEvent) {
	var text []byte
	for _, e := range events {
		b, err := proto.Marshal(e)
		if err != nil {
			panic(err) // it has just been journalled
		}
		text = binary.BigEndian.AppendUint32(text, uint32(len(b)))
		text = append(text, b...)
	}
	if _, err := t.file.Write(text); err != nil {
		panic(fmt.Sprintf("faults: the truth cannot be written: %v", err))
	}
}

func (t *truthFile) close() { _ = t.file.Close() }

// truth is everything that agents journalled: what they wrote beside their
// journals, and what passed by on its way to the Manager, since a kill may fall
// between the journal and the file beside it.
type truth struct {
	history *history.File

	mu             sync.Mutex
	events         map[contract.ID]noted
	contradictions []string
}

// noted is an event, and what it is compared by.
type noted struct {
	text   []byte
	digest string
}

func newTruth(file *history.File) *truth {
	return &truth{history: file, events: map[contract.ID]noted{}}
}

// pass notes the records of a frame on its way.
func (t *truth) pass(frame *usagev1.Frame) {
	for _, b := range frame.GetRecords() {
		record := &usagev1.Record{}
		if err := proto.Unmarshal(b, record); err != nil || record.GetUsage() == nil {
			continue
		}
		t.note(record.GetUsage())
	}
}

func (t *truth) note(e *usagev1.UsageEvent) {
	r, err := history.RecordOf(e)
	text, err2 := proto.Marshal(e)
	t.mu.Lock()
	defer t.mu.Unlock()
	var id contract.ID
	copy(id[:], e.GetEventId())
	known, ok := t.events[id]
	switch {
	case errors.Join(err, err2) != nil:
		t.contradictions = append(t.contradictions, errors.Join(err, err2).Error())
	case !ok:
		t.events[id] = noted{text, r.Digest}
		t.history.Tell(history.Fact{Journalled: &r})
	case known.digest != r.Digest:
		t.history.Tell(history.Fact{Journalled: &r})
		t.contradictions = append(t.contradictions, fmt.Sprintf("event %s came with two contents", id))
	}
}

// collect reads the files beside the journals. A torn end is of a kill between
// two writes of the same call, whose record the journal holds and sends.
func (t *truth) collect(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "truth-*"))
	if err != nil {
		return fmt.Errorf("faults: truth: %w", err)
	}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("faults: truth: %w", err)
		}
		err = t.read(bufio.NewReader(file))
		_ = file.Close()
		if err != nil {
			return fmt.Errorf("faults: truth %s: %w", name, err)
		}
	}
	return nil
}

func (t *truth) read(r io.Reader) error {
	for {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
		b := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(r, b); err != nil {
			return nil //nolint:nilerr // A torn end, see collect.
		}
		e := &usagev1.UsageEvent{}
		if err := proto.Unmarshal(b, e); err != nil {
			return err
		}
		t.note(e)
	}
}

// ledger adds up the milliseconds of all events.
func (t *truth) ledger() (*load.Ledger, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.contradictions) > 0 {
		return nil, fmt.Errorf("faults: the truth contradicts itself %d times: %s", len(t.contradictions), t.contradictions[0])
	}
	l := load.NewLedger()
	for _, n := range t.events {
		e := &usagev1.UsageEvent{}
		if err := proto.Unmarshal(n.text, e); err != nil {
			return nil, fmt.Errorf("faults: truth: %w", err)
		}
		l.Add(e)
	}
	return l, nil
}
