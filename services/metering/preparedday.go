package metering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// A prepared day is what the instances of one application did on one day of UTC, as bytes:
//
//	format
//	how many uses there are, with those before the day
//	principals, machines, sessions: how many, and each one's id
//	how many instances there are, and of each
//	    its id; the numbers of its principal, machine and session
//	    opened, less the beginning of the day
//	    how many bytes follow of it
//	    0, or how long before the day it was last busy to, and one, and for how long it was
//	    its uses in the order of time: a head, the time since the use before where it does not join, and its length
//
// Numbers are varints, times milliseconds. Principals are those that agents reported: who was merged into
// whom is known when it is read.
const dayFormat = 1

// dayMillis is the length of a day of UTC.
const dayMillis = 96 * quarterMillis

// What the head of a use says beside its attention.
const (
	headTimedOut  = 1 << 3
	headApart     = 1 << 4 // it does not begin where the use before ends
	headAttention = headTimedOut - 1
)

// dayPart is what is wanted of a prepared day.
type dayPart struct {
	application contract.ID
	begin       int64 // of the day
	from, to    int64
	// wants tells whose use; nil: everybody's.
	wants func(principal, machine contract.ID) bool
	// fine keeps uses of different attention apart.
	fine bool
}

// encodeDay puts together the uses of instances on the day that begins at a moment. Uses lie within
// the day, in the order in which they begin: where a machine's clock was put back they may overlap. A first
// one that ends before the day says when the instance was last busy.
func encodeDay(begin int64, all []used) []byte {
	var principals, machines, sessions idTable
	uses := 0
	var lives, body []byte
	for i := range all {
		n := &all[i]
		uses += len(n.uses)
		lives = append(lives, n.instance[:]...)
		lives = binary.AppendUvarint(lives, principals.number(n.principal))
		lives = binary.AppendUvarint(lives, machines.number(n.machine))
		lives = binary.AppendUvarint(lives, sessions.number(n.session))
		lives = binary.AppendVarint(lives, n.opened-begin)
		body = appendUses(body[:0], begin, n.uses)
		lives = binary.AppendUvarint(lives, uint64(len(body)))
		lives = append(lives, body...)
	}
	data := binary.AppendUvarint([]byte{dayFormat}, uint64(uses))
	data = principals.append(data)
	data = machines.append(data)
	data = sessions.append(data)
	data = binary.AppendUvarint(data, uint64(len(all)))
	return append(data, lives...)
}

func appendUses(data []byte, begin int64, uses []use) []byte {
	if len(uses) > 0 && uses[0].before(begin) {
		data = binary.AppendUvarint(data, uint64(begin-uses[0].to)+1)
		data = binary.AppendUvarint(data, uint64(uses[0].to-uses[0].from))
		uses = uses[1:]
	} else {
		data = append(data, 0)
	}
	at := begin
	for _, u := range uses {
		head := byte(u.attention)
		if u.timedOut {
			head |= headTimedOut
		}
		if u.from != at {
			head |= headApart
		}
		data = append(data, head)
		if u.from != at {
			data = binary.AppendVarint(data, u.from-at)
		}
		data = binary.AppendUvarint(data, uint64(u.to-u.from))
		at = u.to
	}
	return data
}

// idTable numbers ids in the order in which they come.
type idTable struct {
	ids     []contract.ID
	numbers map[contract.ID]uint64
}

func (t *idTable) number(id contract.ID) uint64 {
	n, ok := t.numbers[id]
	if !ok {
		if t.numbers == nil {
			t.numbers = make(map[contract.ID]uint64)
		}
		n = uint64(len(t.ids))
		t.ids, t.numbers[id] = append(t.ids, id), n
	}
	return n
}

func (t *idTable) append(data []byte) []byte {
	data = binary.AppendUvarint(data, uint64(len(t.ids)))
	for _, id := range t.ids {
		data = append(data, id[:]...)
	}
	return data
}

var errDayFormat = errors.New("metering: a prepared day cannot be read")

// dayReader reads the bytes of a prepared day; what it finds wrong it remembers.
type dayReader struct {
	data []byte
	bad  bool
}

func (r *dayReader) uvarint() uint64 {
	// Most numbers are of one byte.
	if len(r.data) > 0 && r.data[0] < 0x80 {
		v := r.data[0]
		r.data = r.data[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *dayReader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

// count reads a number of things that take at least so many bytes each.
func (r *dayReader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.data)/size) {
		r.bad, r.data = true, nil
		return 0
	}
	return int(n)
}

// table reads ids as they lie in the bytes.
func (r *dayReader) table() []byte {
	n := r.count(16)
	table := r.data[:16*n]
	r.data = r.data[16*n:]
	return table
}

func (r *dayReader) of(table []byte) contract.ID {
	n := r.uvarint()
	if n >= uint64(len(table)/16) {
		r.bad = true
		return contract.ID{}
	}
	return contract.ID(table[16*n : 16*n+16])
}

// decodeDay reads what is wanted of a prepared day, and appends it to out: instances with uses in the
// part, and before them when they were last busy before it.
func decodeDay(data []byte, p *dayPart, out []used) ([]used, error) {
	if len(data) == 0 || data[0] != dayFormat {
		return out, fmt.Errorf("%w: its format is another release's", errDayFormat)
	}
	r := dayReader{data: data[1:]}
	uses := r.count(1)
	if p.wants != nil {
		uses = 0 // mostly a few people's
	}
	arena := make([]use, 0, uses)
	principals, machines, sessions := r.table(), r.table(), r.table()
	for range r.count(16 + 5) {
		if len(r.data) < 16 {
			return out, errDayFormat
		}
		n := used{instance: contract.ID(r.data[:16]), application: p.application}
		r.data = r.data[16:]
		n.principal, n.machine, n.session = r.of(principals), r.of(machines), r.of(sessions)
		n.opened = p.begin + r.varint()
		size := r.count(1)
		body := dayReader{data: r.data[:size]}
		r.data = r.data[size:]
		if r.bad {
			return out, errDayFormat
		}
		if p.wants != nil && !p.wants(n.principal, n.machine) {
			continue
		}
		first := len(arena)
		var ok bool
		if arena, ok = body.uses(p, arena); !ok {
			return out, errDayFormat
		}
		if n.uses = arena[first:len(arena):len(arena)]; len(n.uses) > 0 {
			out = append(out, n)
		}
	}
	if r.bad || len(r.data) > 0 {
		return out, errDayFormat
	}
	return out, nil
}

// uses reads those of one instance that are in the part, behind the last before it in which it was
// busy; none where none is in it.
func (r *dayReader) uses(p *dayPart, arena []use) (_ []use, ok bool) {
	first := len(arena)
	busyBefore := false
	if before := r.uvarint(); before > 0 {
		to := p.begin - int64(min(before-1, math.MaxInt32*1000))
		arena = append(arena, use{from: to - int64(min(r.uvarint(), math.MaxInt32*1000)), to: to, busy: true, attention: usagev1.Attention_ATTENTION_BUSY})
		busyBefore = true
	}
	at := p.begin
	for len(r.data) > 0 {
		head := r.data[0]
		r.data = r.data[1:]
		if head&headApart != 0 {
			at += max(-dayMillis, min(r.varint(), dayMillis))
		}
		u := use{from: at, attention: usagev1.Attention(head & headAttention), timedOut: head&headTimedOut != 0}
		u.busy = u.attention == usagev1.Attention_ATTENTION_BUSY
		at += int64(min(r.uvarint(), uint64(dayMillis)))
		u.to = at
		if r.bad || u.attention == 0 || u.from < p.begin || u.to > p.begin+dayMillis {
			return arena, false
		}
		switch {
		case u.from >= p.to:
		case u.before(p.from):
			// Where a clock was put back, a use that goes on for longer may have begun earlier.
			switch {
			case u.busy && !busyBefore:
				arena, busyBefore = slices.Insert(arena, first, u), true
			case u.busy && u.to > arena[first].to:
				arena[first] = u
			}
		default:
			arena = appendUse(arena, first, busyBefore, u, p.fine)
		}
	}
	if len(arena) == first+1 && busyBefore {
		arena = arena[:first]
	}
	return arena, !r.bad
}

// before tells whether a use ends before a moment: one of no length at that moment does not.
func (u *use) before(at int64) bool { return u.to <= at && u.from < at }

// appendUse appends a use to those from first on: one that goes on as the one before is the same.
// Where fine is false, attentions other than busy are not told apart. What is said of the time before,
// busyBefore, stands for itself.
func appendUse(uses []use, first int, busyBefore bool, u use, fine bool) []use {
	if busyBefore {
		first++
	}
	if len(uses) > first {
		if last := &uses[len(uses)-1]; last.to == u.from && last.busy == u.busy && last.timedOut == u.timedOut && (!fine || last.attention == u.attention) {
			last.to = u.to
			return uses
		}
	}
	return append(uses, u)
}
