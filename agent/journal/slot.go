package journal

import (
	"encoding/binary"
	"errors"
)

// crashSlot is the value of the slot's pair: what the state machine gave, and up to
// which record it holds. A new epoch numbers records anew, so the slot is rewritten
// just before the switch in a form that holds in both: from the new epoch's view, what
// came after it in the old one travels inside.
type crashSlot struct {
	epoch, seq       uint64
	newEpoch, newSeq uint64
	// tail are serialized records, and anchors serialized anchors. The first common
	// ones count in the view of epoch too: they came from the epoch before that.
	common        uint32
	tail, anchors [][]byte
	state         []byte
}

var errSlot = errors.New("journal: the crash slot is malformed")

func (c crashSlot) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, c.epoch)
	b = binary.BigEndian.AppendUint64(b, c.seq)
	b = binary.BigEndian.AppendUint64(b, c.newEpoch)
	b = binary.BigEndian.AppendUint64(b, c.newSeq)
	b = binary.BigEndian.AppendUint32(b, c.common)
	for _, list := range [][][]byte{c.tail, c.anchors} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
		for _, item := range list {
			b = binary.BigEndian.AppendUint32(b, uint32(len(item)))
			b = append(b, item...)
		}
	}
	return append(b, c.state...)
}

func decodeSlot(b []byte) (crashSlot, error) {
	var c crashSlot
	if len(b) < 36 {
		return c, errSlot
	}
	c.epoch, c.seq = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	c.newEpoch, c.newSeq = binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	c.common = binary.BigEndian.Uint32(b[32:])
	b = b[36:]
	for _, list := range []*[][]byte{&c.tail, &c.anchors} {
		if len(b) < 4 {
			return c, errSlot
		}
		n := binary.BigEndian.Uint32(b)
		b = b[4:]
		for range n {
			if len(b) < 4 {
				return c, errSlot
			}
			length := int64(binary.BigEndian.Uint32(b))
			b = b[4:]
			if length > int64(len(b)) {
				return c, errSlot
			}
			*list = append(*list, b[:length:length])
			b = b[length:]
		}
	}
	if int64(c.common) > int64(len(c.tail)) {
		return c, errSlot
	}
	c.state = b
	return c, nil
}
