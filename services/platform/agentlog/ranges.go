package agentlog

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cetrus/cetrus/proto/contract"
)

// mostRecent is how many ends of frames are remembered beside the ends of what
// was received, so that a frame repeated soon with another content is found
// even between two marks.
const mostRecent = 8

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

// journal is what was received of one journal.
type journal struct {
	spans   []span     // in order, never touching
	missing []seqRange // of the spans, what was set aside; in order
	recent  []boundary // ends of the frames received last
	// marks were made by the transaction under way; stored ones were read for it.
	marks, stored []boundary
	dirty         bool
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
// tells the first sequence number at which they differ.
func (j *journal) conflict(f *frame) (seq uint64, conflict bool) {
	var known []boundary
	add := func(b boundary) {
		if b.seq+1 >= f.first && b.seq <= f.last {
			known = append(known, b)
		}
	}
	for i := len(j.spans) - 1; i >= 0 && j.spans[i].last+1 >= f.first; i-- {
		if s := j.spans[i]; s.first > 1 { // before 1 there is nothing to compare
			add(boundary{s.first - 1, s.before})
		}
		add(boundary{j.spans[i].last, j.spans[i].after})
	}
	for _, list := range [][]boundary{j.recent, j.marks, j.stored} {
		for _, b := range list {
			add(b)
		}
	}
	if len(known) == 0 {
		return 0, false
	}
	slices.SortFunc(known, func(a, b boundary) int { return cmp.Compare(a.seq, b.seq) })
	hash, at := f.beforeHash, f.first-1
	for _, b := range known {
		switch b.seq {
		case f.first - 1:
			if b.link != f.before {
				return b.seq, true
			}
			continue
		case f.last:
			if b.link != f.after {
				return b.seq, true
			}
			continue
		}
		hash, _ = chain(hash, at+1, f.records[at+1-f.first:b.seq+1-f.first])
		at = b.seq
		if b.link != linkOf(hash) {
			return b.seq, true
		}
	}
	return 0, false
}

// take notes a frame whose chain agrees. bad are the records of it that are set
// aside, in order.
func (j *journal) take(f *frame, bad []uint64) {
	j.dirty = true
	if len(j.missing) > 0 || len(bad) > 0 {
		j.missing = j.missingAfter(seqRange{f.first, f.last}, bad)
	}
	j.spans = join(j.spans, span{seqRange{f.first, f.last}, f.before, f.after})
	if len(j.recent) == mostRecent {
		j.recent = slices.Delete(j.recent, 0, 1)
	}
	j.recent = append(j.recent, boundary{f.last, f.after})
	j.marks = append(j.marks, f.marks...)
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
	inner, ok := strings.CutPrefix(s, "{")
	if inner, ok = strings.CutSuffix(inner, "}"); !ok {
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
const linksVersion = 1

// encode writes the spans and the recent ends: a version, the number of spans,
// each as first, last, link before and after, then the number of recent ends,
// each as sequence number and link.
func (j *journal) encode() []byte {
	b := make([]byte, 0, 8+len(j.spans)*40+len(j.recent)*20)
	b = append(b, linksVersion)
	b = binary.AppendUvarint(b, uint64(len(j.spans)))
	for _, s := range j.spans {
		b = binary.AppendUvarint(b, s.first)
		b = binary.AppendUvarint(b, s.last)
		b = append(b, s.before[:]...)
		b = append(b, s.after[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(j.recent)))
	for _, r := range j.recent {
		b = binary.AppendUvarint(b, r.seq)
		b = append(b, r.link[:]...)
	}
	return b
}

var errLinks = errors.New("agentlog: agent_epoch.links cannot be read")

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
	j := &journal{}
	for n := number(); n > 0 && !failed; n-- {
		var s span
		s.first, s.last = number(), number()
		take(&s.before)
		take(&s.after)
		j.spans = append(j.spans, s)
	}
	for n := number(); n > 0 && !failed; n-- {
		r := boundary{seq: number()}
		take(&r.link)
		j.recent = append(j.recent, r)
	}
	if failed || len(b) > 0 {
		return nil, errLinks
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
