package archive

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Message is one message of the stream.
type Message struct {
	Subject string
	// Sequence is its place in the stream, from 1.
	Sequence uint64
	// Stored is when the stream took it, by the stream's clock.
	Stored time.Time
	// Header holds the message's headers by their exact names; may be nil.
	Header map[string][]string
	Data   []byte
}

// Header says what a segment holds.
type Header struct {
	Stream string `json:"stream"`
	// Created is when the stream was made: one that was made anew has an archive of its own.
	Created time.Time `json:"created"`
	Branch  int       `json:"branch"`
	// First and Last are the sequences that it speaks for: what the stream held of them is in it.
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	// Messages counts those in it, Bytes their data.
	Messages int   `json:"messages"`
	Bytes    int64 `json:"bytes"`
	// Began and Ended are when the stream took the first and the last message.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Previous is the digest of the segment before; empty in the first.
	Previous string `json:"previous,omitempty"`
}

// blockBytes is how much of messages is compressed and sealed at a time.
const blockBytes = 1 << 20

// builder gathers the messages of a segment.
type builder struct {
	header Header
	packer *zstd.Encoder
	open   []byte
	blocks [][]byte
	// behind tells that the stream has more already: until it has not, a segment is closed by its size alone, or each message
	// of a backlog that is older than segments may become would be one of its own.
	behind bool
}

func (b *builder) add(m *Message, behind bool) {
	b.behind = behind
	if b.header.Messages == 0 {
		b.header.Began = m.Stored
	}
	b.header.Messages++
	b.header.Bytes += int64(len(m.Data))
	b.header.Last, b.header.Ended = m.Sequence, m.Stored
	b.open = appendMessage(b.open, m)
	if len(b.open) >= blockBytes {
		b.close()
	}
}

func (b *builder) close() {
	if len(b.open) == 0 {
		return
	}
	b.blocks, b.open = append(b.blocks, b.packer.EncodeAll(b.open, nil)), b.open[:0]
}

func (b *builder) seal(keys *Keys) ([]byte, digest, error) {
	b.close()
	header, err := json.Marshal(b.header)
	if err != nil {
		return nil, digest{}, fmt.Errorf("archive: %w", err)
	}
	content, sum := keys.seal(kindSegment, header, b.blocks)
	return content, sum, nil
}

// appendMessage writes sequence, time, subject, headers and data; lengths and counts are varints.
func appendMessage(to []byte, m *Message) []byte {
	text := func(s string) { to = append(binary.AppendUvarint(to, uint64(len(s))), s...) }
	to = binary.AppendUvarint(to, m.Sequence)
	to = binary.AppendVarint(to, m.Stored.UnixNano())
	text(m.Subject)
	to = binary.AppendUvarint(to, uint64(len(m.Header)))
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		text(name)
		values := m.Header[name]
		to = binary.AppendUvarint(to, uint64(len(values)))
		for _, v := range values {
			text(v)
		}
	}
	to = binary.AppendUvarint(to, uint64(len(m.Data)))
	return append(to, m.Data...)
}

// cursor reads what appendMessage has written; once it has failed it stays so.
type cursor struct {
	rest   []byte
	failed bool
}

func (c *cursor) number() uint64 {
	n, size := binary.Uvarint(c.rest)
	if size <= 0 {
		c.failed, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[size:]
	return n
}

func (c *cursor) signed() int64 {
	n, size := binary.Varint(c.rest)
	if size <= 0 {
		c.failed, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[size:]
	return n
}

func (c *cursor) bytes() []byte {
	n := c.number()
	if n > uint64(len(c.rest)) {
		c.failed, c.rest = true, nil
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

// count is a number of things of which each takes a byte at least.
func (c *cursor) count() int {
	n := c.number()
	if n > uint64(len(c.rest)) {
		c.failed, c.rest = true, nil
		return 0
	}
	return int(n)
}

func (c *cursor) message() Message {
	m := Message{Sequence: c.number(), Stored: time.Unix(0, c.signed()).UTC(), Subject: string(c.bytes())}
	if n := c.count(); n > 0 {
		m.Header = make(map[string][]string, min(n, 64))
		for range n {
			name := string(c.bytes())
			values := make([]string, 0, 1)
			for range c.count() {
				values = append(values, string(c.bytes()))
			}
			m.Header[name] = values
		}
	}
	m.Data = c.bytes()
	return m
}

// segment is one that was read, and whose digest was found right.
type segment struct {
	Header
	sealed *sealed
}

func parseSegment(content []byte) (*segment, error) {
	s, err := parse(kindSegment, content)
	if err != nil {
		return nil, err
	}
	found := &segment{sealed: s}
	if err := json.Unmarshal(s.header, &found.Header); err != nil {
		return nil, fmt.Errorf("%w: its header: %w", ErrDamaged, err)
	}
	if h := found.Header; h.First == 0 || h.Last < h.First || h.Messages < 0 {
		return nil, fmt.Errorf("%w: it speaks for %d to %d", ErrDamaged, h.First, h.Last)
	}
	return found, nil
}

// messages are those of the segment, in their order; all of them were authenticated.
func (s *segment) messages(keys *Keys, take func(Message) error) error {
	n, before := 0, s.First-1
	err := s.sealed.open(keys, func(plain []byte) error {
		c := cursor{rest: plain}
		for len(c.rest) > 0 {
			m := c.message()
			if c.failed || m.Sequence <= before || m.Sequence > s.Last {
				return fmt.Errorf("%w: behind message %d", ErrDamaged, before)
			}
			before = m.Sequence
			n++
			if err := take(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && n != s.Messages {
		err = fmt.Errorf("%w: it holds %d messages, and says %d", ErrDamaged, n, s.Messages)
	}
	return err
}
