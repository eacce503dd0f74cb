package journal

import (
	"slices"
	"sort"
)

// span is a closed range of sequence numbers.
type span struct {
	First uint64 `json:"f"`
	Last  uint64 `json:"l"`
}

// ranges are spans in order that neither touch nor overlap.
type ranges []span

// add takes in a span and tells whether anything was new.
func (r ranges) add(s span) (ranges, bool) {
	// from is the first span that s touches, to the first behind those.
	from := sort.Search(len(r), func(i int) bool { return r[i].Last+1 >= s.First })
	to := sort.Search(len(r), func(i int) bool { return r[i].First > s.Last+1 })
	if from < to {
		if to-from == 1 && r[from].First <= s.First && s.Last <= r[from].Last {
			return r, false
		}
		s = span{min(s.First, r[from].First), max(s.Last, r[to-1].Last)}
	}
	return slices.Replace(slices.Clone(r), from, to, s), true
}

// holds finds the span that a number is in.
func (r ranges) holds(seq uint64) (span, bool) {
	i := sort.Search(len(r), func(i int) bool { return r[i].Last >= seq })
	if i < len(r) && r[i].First <= seq {
		return r[i], true
	}
	return span{}, false
}

// after is the first span that begins behind a number.
func (r ranges) after(seq uint64) (span, bool) {
	i := sort.Search(len(r), func(i int) bool { return r[i].First > seq })
	if i < len(r) {
		return r[i], true
	}
	return span{}, false
}

// count is how many numbers there are in the spans.
func (r ranges) count() uint64 {
	var n uint64
	for _, s := range r {
		n += s.Last - s.First + 1
	}
	return n
}

// sound tells whether the spans are in order.
func (r ranges) sound() bool {
	for i, s := range r {
		if s.First == 0 || s.First > s.Last || i > 0 && s.First <= r[i-1].Last+1 {
			return false
		}
	}
	return true
}
