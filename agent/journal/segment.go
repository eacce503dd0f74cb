package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cetrus/cetrus/proto/contract"
)

// A segment is a header and then entries, each of which checks itself:
//
//	header  magic "CETRSEG1", lane 4, epoch 8, first seq 8, agent 16, chain 32, crc 4
//	entry   marker 2, kind 1, zero 1, length 4, seq 8, payload, crc 4
//
// Numbers are big-endian. crc is CRC-32C over everything before it in the entry,
// begun with the epoch, so that bytes of another epoch never pass. seq is that of
// the record, or of the record that follows.
const (
	segmentMagic  = "CETRSEG1"
	headerSize    = len(segmentMagic) + 4 + 8 + 8 + 16 + 32 + 4
	entryHead     = 16
	entryOverhead = entryHead + 4
	entryMarker   = 0xC37E
)

type entryKind uint8

const (
	entryRecord entryKind = 1
	entryAnchor entryKind = 2
	// entryTrace holds the trace context of the append that it follows.
	entryTrace entryKind = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header opens a segment.
type header struct {
	lane  uint32
	epoch uint64
	first uint64
	agent contract.ID
	// before is the chain before the first record.
	before contract.Hash
}

func (h header) append(b []byte) []byte {
	from := len(b)
	b = append(b, segmentMagic...)
	b = binary.BigEndian.AppendUint32(b, h.lane)
	b = binary.BigEndian.AppendUint64(b, h.epoch)
	b = binary.BigEndian.AppendUint64(b, h.first)
	b = append(b, h.agent[:]...)
	b = append(b, h.before[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

var errHeader = errors.New("its header is damaged")

func parseHeader(b []byte) (header, error) {
	var h header
	if len(b) < headerSize || string(b[:len(segmentMagic)]) != segmentMagic {
		return h, errHeader
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli) != binary.BigEndian.Uint32(b[headerSize-4:]) {
		return h, errHeader
	}
	b = b[len(segmentMagic):]
	h.lane = binary.BigEndian.Uint32(b)
	h.epoch = binary.BigEndian.Uint64(b[4:])
	h.first = binary.BigEndian.Uint64(b[12:])
	copy(h.agent[:], b[20:])
	copy(h.before[:], b[36:])
	if h.epoch == 0 || h.first == 0 {
		return h, errHeader
	}
	return h, nil
}

// entry is one piece of a segment; payload points into the segment's bytes.
type entry struct {
	kind    entryKind
	seq     uint64
	payload []byte
}

func (e entry) size() int { return entryOverhead + len(e.payload) }

func (e entry) append(b []byte, epoch uint64) []byte {
	from := len(b)
	b = binary.BigEndian.AppendUint16(b, entryMarker)
	b = append(b, byte(e.kind), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.payload)))
	b = binary.BigEndian.AppendUint64(b, e.seq)
	b = append(b, e.payload...)
	return binary.BigEndian.AppendUint32(b, entryChecksum(b[from:], epoch))
}

func entryChecksum(b []byte, epoch uint64) uint32 {
	var seed [8]byte
	binary.BigEndian.PutUint64(seed[:], epoch)
	return crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, b)
}

// parseEntry reads the entry at the beginning of b.
func parseEntry(b []byte, epoch uint64) (entry, bool) {
	if len(b) < entryOverhead || binary.BigEndian.Uint16(b) != entryMarker {
		return entry{}, false
	}
	length := int64(binary.BigEndian.Uint32(b[4:]))
	if length > int64(len(b)-entryOverhead) {
		return entry{}, false
	}
	end := entryHead + int(length)
	if entryChecksum(b[:end], epoch) != binary.BigEndian.Uint32(b[end:]) {
		return entry{}, false
	}
	kind := entryKind(b[2])
	if kind < entryRecord || kind > entryTrace {
		return entry{}, false
	}
	return entry{kind: kind, seq: binary.BigEndian.Uint64(b[8:]), payload: b[entryHead:end]}, true
}

// content is what a segment's bytes hold.
type content struct {
	header  header
	entries []entry
	// good is the length up to which every byte is sound.
	good int
	// damaged: behind good lies a sound record, so it is not just the torn end of the
	// last write.
	damaged bool
	// salvaged are the sound records and anchors behind the damage.
	salvaged []entry
}

// parseSegment reads a segment. It fails where the header does not stand.
func parseSegment(b []byte) (content, error) {
	h, err := parseHeader(b)
	if err != nil {
		return content{}, err
	}
	c := content{header: h, good: headerSize}
	next := h.first
	for c.good < len(b) {
		e, ok := parseEntry(b[c.good:], h.epoch)
		if !ok || e.seq != next {
			break
		}
		if e.kind == entryRecord {
			next++
		}
		c.entries = append(c.entries, e)
		c.good += e.size()
	}
	for at := c.good; at < len(b); {
		e, ok := parseEntry(b[at:], h.epoch)
		if !ok || e.seq < next {
			at++
			continue
		}
		if e.kind == entryRecord {
			next = e.seq + 1
			c.damaged = true
		}
		c.salvaged = append(c.salvaged, e)
		at += e.size()
	}
	return c, nil
}

// next is the sequence number behind the last sound record.
func (c content) next() uint64 {
	n := c.header.first
	for _, e := range c.entries {
		if e.kind == entryRecord {
			n++
		}
	}
	return n
}

// chain is the chain behind the last sound record.
func (c content) chain() contract.Hash {
	h := c.header.before
	for _, e := range c.entries {
		if e.kind == entryRecord {
			h = contract.Chain(h, e.payload)
		}
	}
	return h
}

func segmentName(epoch, first uint64) string { return fmt.Sprintf("%016x-%016x.seg", epoch, first) }
