package buffer

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

// Segment is a run of positions under one identity.
type Segment struct {
	// ID is the identity: random, born with the segment.
	ID contract.ID
	// From is the segment's first position.
	From uint64
	// To is its last; 0 while it is the current one.
	To uint64
}

// Loss is a run of positions that were acknowledged and are gone.
type Loss struct {
	From   uint64    `json:"from"`
	To     uint64    `json:"to"`
	Found  time.Time `json:"found"`
	Reason string    `json:"reason"`
	// Acknowledged is when a person said that they know of it; zero where nobody has.
	Acknowledged time.Time `json:"acknowledged,omitzero"`
}

type identity struct {
	segments []Segment
	losses   []Loss
	released uint64 // what was deleted on purpose: every position up to this one
}

type identityFile struct {
	Segments []segmentFile `json:"segments"`
	Released uint64        `json:"released"`
	Losses   []Loss        `json:"losses,omitempty"`
}

type segmentFile struct {
	ID   string `json:"id"`
	From uint64 `json:"from"`
	To   uint64 `json:"to,omitempty"`
}

// NewID draws a random id.
func NewID() contract.ID {
	var id contract.ID
	_, _ = rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

func bornIdentity() identity {
	return identity{segments: []Segment{{ID: NewID(), From: 1}}}
}

// rebornAt closes the current segment before position from and begins another.
func (i identity) rebornAt(from uint64) identity {
	segments := slices.Clone(i.segments)
	for len(segments) > 0 && segments[len(segments)-1].From >= from {
		segments = segments[:len(segments)-1]
	}
	if n := len(segments); n > 0 {
		segments[n-1].To = from - 1
	}
	return identity{segments: append(segments, Segment{ID: NewID(), From: from}), losses: i.losses, released: i.released}
}

func (i identity) of(position uint64) Segment {
	for n := len(i.segments) - 1; n >= 0; n-- {
		if i.segments[n].From <= position {
			return i.segments[n]
		}
	}
	return i.segments[0]
}

// loadIdentity reads the identity file; fs.ErrNotExist where there is none.
func loadIdentity(path string) (identity, error) {
	payload, err := durable.Read(path)
	if err != nil {
		return identity{}, err
	}
	i, err := decodeIdentity(payload)
	if err != nil {
		return i, fmt.Errorf("%s: %w", path, err)
	}
	return i, nil
}

func decodeIdentity(payload []byte) (identity, error) {
	var i identity
	var f identityFile
	if err := json.Unmarshal(payload, &f); err != nil {
		return i, fmt.Errorf("%w: %v", durable.ErrDamaged, err)
	}
	for _, s := range f.Segments {
		id, err := contract.ParseID(s.ID)
		if err != nil {
			return i, fmt.Errorf("%w: %v", durable.ErrDamaged, err)
		}
		i.segments = append(i.segments, Segment{ID: id, From: s.From, To: s.To})
	}
	if len(i.segments) == 0 {
		return i, fmt.Errorf("%w: it names no identity", durable.ErrDamaged)
	}
	i.losses, i.released = f.Losses, f.Released
	return i, nil
}

func (i identity) encode() ([]byte, error) {
	f := identityFile{Released: i.released, Losses: i.losses}
	for _, s := range i.segments {
		f.Segments = append(f.Segments, segmentFile{ID: s.ID.String(), From: s.From, To: s.To})
	}
	return json.MarshalIndent(f, "", "  ")
}

func (i identity) save(path string) error {
	payload, err := i.encode()
	if err != nil {
		return err
	}
	return durable.Replace(path, payload)
}

// head remembers the last durable position beside the stream, so that a stream
// that lost its tail is noticed. It is written after every commit but synced only
// now and then: after a power failure it may lag, and then proves less, never
// something false.
type head struct {
	file *os.File
}

const headSize = 8 + 4

func openHead(path string) (*head, uint64, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	raw := make([]byte, headSize)
	n, err := file.ReadAt(raw, 0)
	if n == 0 {
		return &head{file}, 0, nil
	}
	if n < headSize {
		return &head{file}, 0, fmt.Errorf("%s: %w: %d bytes instead of %d (%v)", path, durable.ErrDamaged, n, headSize, err)
	}
	position, err := decodeHead(raw)
	if err != nil {
		return &head{file}, 0, fmt.Errorf("%s: %w", path, err)
	}
	return &head{file}, position, nil
}

func decodeHead(raw []byte) (uint64, error) {
	if len(raw) != headSize || binary.LittleEndian.Uint32(raw[8:]) != durable.Sum(raw[:8]) {
		return 0, fmt.Errorf("%w: its checksum does not fit", durable.ErrDamaged)
	}
	return binary.LittleEndian.Uint64(raw), nil
}

func (h *head) set(position uint64) error {
	raw := binary.LittleEndian.AppendUint64(make([]byte, 0, headSize), position)
	raw = binary.LittleEndian.AppendUint32(raw, durable.Sum(raw))
	_, err := h.file.WriteAt(raw, 0)
	return err
}

func (h *head) close() error {
	return errors.Join(h.file.Sync(), h.file.Close())
}
