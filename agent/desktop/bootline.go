package desktop

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cetrus/cetrus/proto/contract"
)

// bootline places moments that a system tells in wall-clock time, such as the
// start of a process on Windows, on the boot timeline, and always at the same place:
// the key of a process must survive a restart of the agent.
//
// The wall clock is adjusted while a machine runs. Each time it has moved by bootlineStep
// against the boot timeline, a mark is made, and a moment is placed by the last mark
// before it. Marks last as long as the boot.
type bootline struct {
	boot  contract.ID
	marks []bootMark
	// unkept: marks were made since it was last kept.
	unkept bool
}

// bootMark says where the boot timeline began, from a moment on. Both are FILETIMEs:
// units of 100 ns since 1601.
type bootMark struct {
	from, zero int64
}

const (
	fileTimePerMilli = 10_000
	bootlineStep     = 1000 * fileTimePerMilli
	maxBootMarks     = 1024
)

// note compares the clocks, and makes a mark where they have moved.
func (b *bootline) note(wallFileTime, bootMillis int64) {
	zero := wallFileTime - bootMillis*fileTimePerMilli
	if n := len(b.marks); n > 0 {
		if off := b.marks[n-1].zero - zero; off < bootlineStep && off > -bootlineStep {
			return
		}
		// After a step back, what the old marks say of the time to come is wrong.
		b.marks = slices.DeleteFunc(b.marks, func(m bootMark) bool { return m.from >= wallFileTime })
	}
	b.mark(bootMark{from: wallFileTime, zero: zero})
}

func (b *bootline) mark(m bootMark) {
	if len(b.marks) == maxBootMarks {
		b.marks = b.marks[1:]
	}
	b.marks = append(b.marks, m)
	slices.SortStableFunc(b.marks, func(x, y bootMark) int { return cmp.Compare(x.from, y.from) })
	b.unkept = true
}

// place turns a moment into boot time, between the boot and now.
func (b *bootline) place(fileTime int64, now moment) int64 {
	at := b.at(fileTime)
	if at > now.bootMillis {
		// The marks are coarse, and this is younger than they say. It must come out the
		// same when it is no longer young.
		b.mark(bootMark{from: fileTime, zero: now.fileTime() - now.bootMillis*fileTimePerMilli})
		at = b.at(fileTime)
	}
	return min(at, now.bootMillis)
}

func (b *bootline) at(fileTime int64) int64 {
	if len(b.marks) == 0 {
		return 0
	}
	mark := b.marks[0]
	for _, m := range b.marks[1:] {
		if m.from <= fileTime {
			mark = m
		}
	}
	return max(0, (fileTime-mark.zero)/fileTimePerMilli)
}

// unixEpochFileTime is 1970 as a FILETIME.
const unixEpochFileTime = 116_444_736_000_000_000

// fileTime is the wall clock as a FILETIME.
func (m moment) fileTime() int64 { return m.utcMillis*fileTimePerMilli + unixEpochFileTime }

// bytes and parseBootline are how it is kept: the id, then the marks.
func (b *bootline) bytes() []byte {
	out := slices.Clone(b.boot[:])
	for _, m := range b.marks {
		out = binary.LittleEndian.AppendUint64(out, uint64(m.from))
		out = binary.LittleEndian.AppendUint64(out, uint64(m.zero))
	}
	return out
}

func parseBootline(data []byte) (*bootline, error) {
	b := new(bootline)
	n := copy(b.boot[:], data)
	data = data[n:]
	if n < len(b.boot) || b.boot.IsZero() || len(data)%16 != 0 || len(data)/16 > maxBootMarks {
		return nil, errors.New("desktop: what is kept of this boot cannot be read")
	}
	for ; len(data) > 0; data = data[16:] {
		b.marks = append(b.marks, bootMark{int64(binary.LittleEndian.Uint64(data)), int64(binary.LittleEndian.Uint64(data[8:]))})
	}
	return b, nil
}
