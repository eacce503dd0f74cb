package contract

import (
	"crypto/sha256"
	"encoding/binary"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Hash is a link of a journal's chain. The zero Hash stands before seq 1.
type Hash [sha256.Size]byte

// Chain is the link after a record: SHA-256 over the link before it and the
// record's serialized bytes. Equal links mean equal histories, so a reader sees
// at once when one (agent, epoch, seq) comes with two contents.
func Chain(before Hash, record []byte) Hash {
	h := sha256.New()
	h.Write(before[:])
	h.Write(record)
	var after Hash
	h.Sum(after[:0])
	return after
}

// AnchorID is the id that an anchor must carry: the first 8 bytes of the
// SHA-256 over its other fields, big-endian, in the order of their numbers;
// never zero.
func AnchorID(a *usagev1.Anchor) uint64 {
	b := make([]byte, 0, 16+8+8+4)
	b = append(b, a.GetBootId()...)
	b = binary.BigEndian.AppendUint64(b, uint64(a.GetBootMillis()))
	b = binary.BigEndian.AppendUint64(b, uint64(a.GetUtcMillis()))
	b = binary.BigEndian.AppendUint32(b, uint32(a.GetZoneOffsetSeconds()))
	sum := sha256.Sum256(b)
	return max(1, binary.BigEndian.Uint64(sum[:8]))
}
