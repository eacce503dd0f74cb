package ingest

import (
	"slices"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	maxSpans  = 64
	maxEnds   = 32
	maxEpochs = 8
)

// known is what this Manager remembers, in memory only, of one epoch's durable
// records: enough to see that a frame came before, or may contradict one that did.
// Forgetting all of it is harmless to what was counted, since readers of the log keep
// ranges too; but then only they see a contradiction.
type known struct {
	epoch uint64
	spans []span
	ends  []end // the newest ends of durable frames, oldest first
}

// span is the closed range [first, last] of sequence numbers.
type span struct{ first, last uint64 }

// end is the chain's link after a record. Equal links mean equal histories.
type end struct {
	seq  uint64
	link contract.Hash
}

type verdict int

const (
	unknown verdict = iota
	repeated
	contradicted
	scattered // nothing wrong, but there are too many gaps to remember
)

// judge compares a frame with what is remembered. A frame whose records came before,
// in whole or in part, must show by a link that they are the same ones. One that
// cannot, since the ends of what it repeats are forgotten, is taken for a
// contradiction: a new epoch costs nothing, while an acknowledgement for records of
// another history would lose them.
func (k *known) judge(f *frame) verdict {
	first, last := f.first, f.last()
	same, inside := false, false
	for _, e := range k.ends {
		switch {
		case e.seq == first-1 && string(e.link[:]) != string(f.before), e.seq == last && string(e.link[:]) != string(f.after):
			return contradicted
		case e.seq == last:
			same = true
		case first <= e.seq && e.seq < last:
			inside = true
		}
	}
	var overlap uint64 // the last record of the frame that came before; 0 if none did
	covered := false
	for _, s := range k.spans {
		if s.first <= last && first <= s.last {
			overlap = min(last, s.last)
			covered = covered || s.first <= first && last <= s.last
		}
	}
	switch {
	case overlap == 0 && len(k.spans) >= maxSpans && !slices.ContainsFunc(k.spans, func(s span) bool { return s.last+1 == first || last+1 == s.first }):
		return scattered
	case overlap == 0:
		return unknown
	case same && covered:
		return repeated
	case same:
		return unknown
	case !inside:
		return contradicted
	}
	var agreed uint64
	link := contract.Hash(f.before)
	for i, record := range f.records {
		link = contract.Chain(link, record)
		for _, e := range k.ends {
			if e.seq != first+uint64(i) {
				continue
			}
			if e.link != link {
				return contradicted
			}
			agreed = e.seq
		}
	}
	if agreed < overlap {
		return contradicted
	}
	return unknown
}

// add remembers a durable frame.
func (k *known) add(first, last uint64, link contract.Hash) {
	k.spans = addSpan(k.spans, span{first, last})
	if len(k.spans) > maxSpans {
		k.spans = slices.Delete(k.spans, 0, len(k.spans)-maxSpans)
	}
	if slices.ContainsFunc(k.ends, func(e end) bool { return e.seq == last }) {
		return
	}
	if len(k.ends) >= maxEnds {
		k.ends = slices.Delete(k.ends, 0, 1)
	}
	k.ends = append(k.ends, end{last, link})
}

// addSpan merges a span into sorted, disjoint, non-adjacent spans.
func addSpan(spans []span, s span) []span {
	from := 0
	for from < len(spans) && spans[from].last+1 < s.first {
		from++
	}
	to := from
	for to < len(spans) && spans[to].first <= s.last+1 {
		s.first = min(s.first, spans[to].first)
		s.last = max(s.last, spans[to].last)
		to++
	}
	return slices.Replace(spans, from, to, s)
}
