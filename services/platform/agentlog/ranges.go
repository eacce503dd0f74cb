package agentlog

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// fullTail is how many marks are gathered in a journal's own row before they
	// get a row in agent_mark.
	fullTail = 64
	// longestSegment bounds the marks of such a row, which thereby stays below the
	// 2 kB from which Postgres would keep its marks elsewhere, at twice the cost.
	longestSegment = 150
	// longestTail bounds those in a journal's own row.
	longestTail = fullTail - 1 + contract.MaxFrameRecords
)

// key names a journal.
type key struct {
	account, agent contract.ID
	epoch          uint64
	lane           uint8
}

// seqRange is [first, last], both included.
type seqRange struct{ first, last uint64 }

// span is a stretch of a journal without a gap, with the chain's links before
// its first record and after its last.
type span struct {
	seqRange
	before, after link
}

// segment is the marks of records without a gap.
type segment struct {
	first uint64
	marks []mark
}

func (s segment) end() uint64 { return s.first + uint64(len(s.marks)) }

// differs is the first record at which the frame has another mark.
func (s segment) differs(f *frame) (seq uint64, differs bool) {
	for seq := max(s.first, f.first); seq < s.end() && seq <= f.last; seq++ {
		if s.marks[seq-s.first].link != f.marks[seq-f.first].link {
			return seq, true
		}
	}
	return 0, false
}

// seconds are those between which the segment's events were made; least is greater
// where it has none.
func (s segment) seconds() (least, most int64) {
	least, most = math.MaxInt64, math.MinInt64
	for _, m := range s.marks {
		if m.event != 0 {
			least, most = min(least, m.event.second()), max(most, m.event.second())
		}
	}
	return least, most
}

// journal is what was received of one journal.
type journal struct {
	spans   []span     // in order, never touching
	missing []seqRange // of the spans, what was set aside; in order
	tail    segment    // the marks that are not in agent_mark yet
	// least and most are the seconds between which its events were made; least is
	// greater where there are none.
	least, most int64
	// made are segments of the transaction under way; stored ones were read for
	// it.
	made, stored []segment
	dirty        bool
}

// overlaps tells whether records of r came before.
func (j *journal) overlaps(r seqRange) bool {
	for i := len(j.spans) - 1; i >= 0 && j.spans[i].last >= r.first; i-- {
		if j.spans[i].first <= r.last {
			return true
		}
	}
	return false
}

// reaches tells whether the journal has events made between two seconds.
func (j *journal) reaches(least, most int64) bool { return least <= j.most && j.least <= most }

// counted adds those of the events to found whose facts are in the tables, as far
// as the marks at hand tell.
func (j *journal) counted(events, found map[event]struct{}) {
	look := func(s segment) {
		for i, m := range s.marks {
			if _, asked := events[m.event]; asked && j.received(s.first+uint64(i)) {
				found[m.event] = struct{}{}
			}
		}
	}
	look(j.tail)
	for _, list := range [][]segment{j.made, j.stored} {
		for _, s := range list {
			look(s)
		}
	}
}

// received tells whether the facts of a record are in the tables.
func (j *journal) received(seq uint64) bool {
	i, found := slices.BinarySearchFunc(j.spans, seq, func(s span, seq uint64) int { return cmp.Compare(s.last, seq) })
	return (found || i < len(j.spans) && j.spans[i].first <= seq) && !contains(j.missing, seq)
}

func contains(ranges []seqRange, seq uint64) bool {
	_, found := slices.BinarySearchFunc(ranges, seq, func(r seqRange, seq uint64) int {
		switch {
		case r.last < seq:
			return -1
		case r.first > seq:
			return 1
		default:
			return 0
		}
	})
	return found
}

// conflict compares the frame's chain with what is known of the journal's, and
// tells a sequence number at which they differ.
func (j *journal) conflict(f *frame) (seq uint64, conflict bool) {
	for i := len(j.spans) - 1; i >= 0 && j.spans[i].last+1 >= f.first; i-- {
		s := j.spans[i]
		if s.last == f.first-1 && s.after != f.before {
			return s.last, true
		}
		if s.last == f.last && s.after != f.after {
			return s.last, true
		}
		if s.first == f.first && s.before != f.before {
			return s.first, true
		}
		if s.first-1 == f.last && s.before != f.after {
			return f.last, true
		}
	}
	if seq, differs := j.tail.differs(f); differs {
		return seq, true
	}
	for _, list := range [][]segment{j.made, j.stored} {
		for _, s := range list {
			if seq, differs := s.differs(f); differs {
				return seq, true
			}
		}
	}
	return 0, false
}

// take notes a frame whose chain agrees. bad are the records of it that are set
// aside, in order.
func (j *journal) take(f *frame, bad []uint64) {
	j.dirty = true
	if len(j.spans) == 0 {
		j.least, j.most = f.least, f.most
	}
	j.least, j.most = min(j.least, f.least), max(j.most, f.most)
	if len(j.missing) > 0 || len(bad) > 0 {
		j.missing = j.missingAfter(seqRange{f.first, f.last}, bad)
	}
	j.spans = join(j.spans, span{seqRange{f.first, f.last}, f.before, f.after})
	if len(j.tail.marks) == 0 || j.tail.end() != f.first {
		j.flush()
		j.tail.first = f.first
	}
	j.tail.marks = append(j.tail.marks, f.marks...)
	if len(j.tail.marks) >= fullTail {
		j.flush()
	}
}

// flush makes rows of agent_mark out of the tail.
func (j *journal) flush() {
	first := j.tail.first
	for marks := range slices.Chunk(j.tail.marks, longestSegment) {
		made := segment{first, marks}
		// One that begins where another does replaces it if it reaches further.
		if i := slices.IndexFunc(j.made, func(s segment) bool { return s.first == made.first }); i < 0 {
			j.made = append(j.made, made)
		} else if len(j.made[i].marks) < len(made.marks) {
			j.made[i] = made
		}
		first = made.end()
	}
	j.tail = segment{}
}

// missingAfter is what is missing once the good records of r are there too. A
// bad record that was received in another frame stays received.
func (j *journal) missingAfter(r seqRange, bad []uint64) []seqRange {
	var out []seqRange
	add := func(first, last uint64) {
		if first > last {
			return
		}
		if n := len(out); n > 0 && out[n-1].last+1 == first {
			out[n-1].last = last
			return
		}
		out = append(out, seqRange{first, last})
	}
	var after []seqRange
	for _, m := range j.missing {
		switch {
		case m.last < r.first:
			add(m.first, m.last)
		case m.first > r.last:
			after = append(after, m)
		default:
			if m.first < r.first {
				add(m.first, r.first-1)
			}
			if m.last > r.last {
				after = append(after, seqRange{r.last + 1, m.last})
			}
		}
	}
	for _, seq := range bad {
		if !j.received(seq) {
			add(seq, seq)
		}
	}
	for _, m := range after {
		add(m.first, m.last)
	}
	return out
}

// join adds a span to spans that it agrees with.
func join(spans []span, s span) []span {
	if n := len(spans); n > 0 && spans[n-1].last+1 == s.first { // the usual case
		spans[n-1].last, spans[n-1].after = s.last, s.after
		return spans
	}
	from, _ := slices.BinarySearchFunc(spans, s.first, func(t span, first uint64) int { return cmp.Compare(t.last+1, first) })
	to := from
	for to < len(spans) && spans[to].first <= s.last+1 {
		if t := spans[to]; t.first < s.first {
			s.first, s.before = t.first, t.before
		}
		if t := spans[to]; t.last > s.last {
			s.last, s.after = t.last, t.after
		}
		to++
	}
	return slices.Replace(spans, from, to, s)
}

// present are the ranges of the spans less what is missing.
func (j *journal) present() []seqRange {
	var out []seqRange
	missing := j.missing
	for _, s := range j.spans {
		first := s.first
		for len(missing) > 0 && missing[0].first <= s.last {
			if missing[0].first > first {
				out = append(out, seqRange{first, missing[0].first - 1})
			}
			first = missing[0].last + 1
			missing = missing[1:]
		}
		if first <= s.last {
			out = append(out, seqRange{first, s.last})
		}
	}
	return out
}

// multirange is the text of an int8multirange.
func multirange(ranges []seqRange) string {
	b := make([]byte, 0, 2+24*len(ranges))
	b = append(b, '{')
	for i, r := range ranges {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		b = strconv.AppendUint(b, r.first, 10)
		b = append(b, ',')
		b = strconv.AppendUint(b, r.last+1, 10)
		b = append(b, ')')
	}
	return string(append(b, '}'))
}

// parseMultirange reads the text of an int8multirange as Postgres writes it.
func parseMultirange(s string) ([]seqRange, error) {
	inner, opens := strings.CutPrefix(s, "{")
	inner, closes := strings.CutSuffix(inner, "}")
	if !opens || !closes {
		return nil, fmt.Errorf("agentlog: %q is no multirange", s)
	}
	var out []seqRange
	for inner != "" {
		var one string
		var found bool
		if one, inner, found = strings.Cut(inner, ")"); !found {
			return nil, fmt.Errorf("agentlog: %q is no multirange", s)
		}
		inner = strings.TrimPrefix(inner, ",")
		first, behind, ok := strings.Cut(strings.TrimPrefix(one, "["), ",")
		a, err1 := strconv.ParseUint(first, 10, 64)
		b, err2 := strconv.ParseUint(behind, 10, 64)
		if !ok || err1 != nil || err2 != nil || b <= a {
			return nil, fmt.Errorf("agentlog: %q is no multirange", s)
		}
		out = append(out, seqRange{a, b - 1})
	}
	return out, nil
}

// linksVersion begins what is kept in agent_epoch.links.
const linksVersion = 2

// markBytes is how long an encoded mark is.
const markBytes = 4 + 8

// encode writes the spans and the tail: a version, the number of spans, each as
// first, last, link before and after, the seconds of its events, then the tail as
// its first sequence number and its marks.
func (j *journal) encode() []byte {
	b := make([]byte, 0, 32+len(j.spans)*40+len(j.tail.marks)*markBytes)
	b = append(b, linksVersion)
	b = binary.AppendUvarint(b, uint64(len(j.spans)))
	for _, s := range j.spans {
		b = binary.AppendUvarint(b, s.first)
		b = binary.AppendUvarint(b, s.last)
		b = append(b, s.before[:]...)
		b = append(b, s.after[:]...)
	}
	b = binary.AppendVarint(b, j.least)
	b = binary.AppendVarint(b, j.most)
	b = binary.AppendUvarint(b, j.tail.first)
	return appendMarks(b, j.tail.marks)
}

func appendMarks(b []byte, marks []mark) []byte {
	for _, m := range marks {
		b = binary.BigEndian.AppendUint32(b, m.link)
		b = binary.BigEndian.AppendUint64(b, uint64(m.event))
	}
	return b
}

func decodeMarks(b []byte) ([]mark, error) {
	if len(b)%markBytes != 0 || len(b) > markBytes*longestTail {
		return nil, errLinks
	}
	marks := make([]mark, len(b)/markBytes)
	for i := range marks {
		marks[i] = mark{binary.BigEndian.Uint32(b[markBytes*i:]), event(binary.BigEndian.Uint64(b[markBytes*i+4:]))}
	}
	return marks, nil
}

var errLinks = errors.New("agentlog: the links of a journal cannot be read")

// decodeJournal reads what encode and multirange wrote.
func decodeJournal(b []byte, received string) (*journal, error) {
	if len(b) == 0 || b[0] != linksVersion {
		return nil, errLinks
	}
	b = b[1:]
	failed := false
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			failed = true
			return 0
		}
		b = b[n:]
		return v
	}
	take := func(l *link) {
		if len(b) < len(l) {
			failed = true
			return
		}
		b = b[copy(l[:], b):]
	}
	signed := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			failed = true
			return 0
		}
		b = b[n:]
		return v
	}
	j := &journal{}
	for n := number(); n > 0 && !failed; n-- {
		var s span
		s.first, s.last = number(), number()
		take(&s.before)
		take(&s.after)
		j.spans = append(j.spans, s)
	}
	j.least, j.most = signed(), signed()
	j.tail.first = number()
	if failed {
		return nil, errLinks
	}
	var err error
	if j.tail.marks, err = decodeMarks(b); err != nil {
		return nil, err
	}
	present, err := parseMultirange(received)
	if err != nil {
		return nil, err
	}
	for _, s := range j.spans {
		first := s.first
		for len(present) > 0 && present[0].first <= s.last {
			if present[0].first > first {
				j.missing = append(j.missing, seqRange{first, present[0].first - 1})
			}
			first = present[0].last + 1
			present = present[1:]
		}
		if first <= s.last {
			j.missing = append(j.missing, seqRange{first, s.last})
		}
	}
	return j, nil
}
