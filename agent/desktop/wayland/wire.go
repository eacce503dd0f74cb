package wayland

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// headerBytes is what stands before the arguments: the object, then size and opcode.
const headerBytes = 8

// maxMessageBytes is the greatest size that a header can tell.
const maxMessageBytes = 1<<16 - 1

// Message is a request of a client, or an event of the compositor.
type Message struct {
	Object uint32
	Opcode uint16
	Body   []byte
}

// ReadMessage reads one message.
func ReadMessage(r io.Reader) (Message, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Message{}, err
	}
	m := Message{Object: binary.NativeEndian.Uint32(header[:])}
	word := binary.NativeEndian.Uint32(header[4:])
	m.Opcode = uint16(word)
	size := int(word >> 16)
	if size < headerBytes || size%4 != 0 {
		return Message{}, fmt.Errorf("wayland: a message of %d bytes for object %d", size, m.Object)
	}
	m.Body = make([]byte, size-headerBytes)
	if _, err := io.ReadFull(r, m.Body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	return m, nil
}

// Args reads the arguments of a message one after the other. What is not there reads
// as zero; Err tells so afterwards.
type Args struct {
	rest []byte
	err  error
}

// Args begins to read the arguments.
func (m Message) Args() *Args { return &Args{rest: m.Body} }

// Err tells whether more was read than there was.
func (a *Args) Err() error { return a.err }

func (a *Args) take(n int) []byte {
	if a.err != nil {
		return nil
	}
	if n > len(a.rest) {
		a.err = fmt.Errorf("wayland: an argument of %d bytes where %d are left", n, len(a.rest))
		return nil
	}
	taken := a.rest[:n]
	a.rest = a.rest[n:]
	return taken
}

// Uint reads a number, or the id of an object.
func (a *Args) Uint() uint32 {
	word := a.take(4)
	if word == nil {
		return 0
	}
	return binary.NativeEndian.Uint32(word)
}

// Array reads an array, which is followed by as many bytes as fill its last word.
func (a *Args) Array() []byte {
	length := int64(a.Uint())
	if length > int64(len(a.rest)) {
		a.take(int(min(length, maxMessageBytes+1)))
		return nil
	}
	content := a.take(int(length))
	a.take(int(-length & 3))
	if a.err != nil {
		return nil
	}
	return content
}

// String reads a text; a null string is an empty one. The text is valid UTF-8,
// whatever was sent.
func (a *Args) String() string {
	content := a.Array()
	if len(content) == 0 {
		return ""
	}
	if content[len(content)-1] != 0 {
		if a.err == nil {
			a.err = errors.New("wayland: a string without its end")
		}
		return ""
	}
	return strings.ToValidUTF8(string(content[:len(content)-1]), "\uFFFD")
}

// Builder puts a message together.
type Builder struct{ bytes []byte }

// NewMessage begins a message.
func NewMessage(object uint32, opcode uint16) *Builder {
	b := &Builder{bytes: make([]byte, 0, 4*headerBytes)}
	return b.Uint(object).Uint(uint32(opcode))
}

// Uint adds a number, or the id of an object.
func (b *Builder) Uint(n uint32) *Builder {
	b.bytes = binary.NativeEndian.AppendUint32(b.bytes, n)
	return b
}

// Array adds an array.
func (b *Builder) Array(content []byte) *Builder {
	b.Uint(uint32(len(content)))
	b.bytes = append(b.bytes, content...)
	for len(b.bytes)%4 != 0 {
		b.bytes = append(b.bytes, 0)
	}
	return b
}

// String adds a text.
func (b *Builder) String(text string) *Builder {
	return b.Array(append([]byte(text), 0))
}

// Bytes is the message as it is sent.
func (b *Builder) Bytes() ([]byte, error) {
	if len(b.bytes) > maxMessageBytes {
		return nil, fmt.Errorf("wayland: a message of %d bytes, at most %d can be sent", len(b.bytes), maxMessageBytes)
	}
	word := binary.NativeEndian.Uint32(b.bytes[4:])
	binary.NativeEndian.PutUint32(b.bytes[4:], uint32(len(b.bytes))<<16|word&0xFFFF)
	return b.bytes, nil
}
