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
// records: enough to see that a frame came before, or contradicts one that did.
// Forgetting is harmless, since readers of the log keep ranges too.
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
)

// judge compares a frame with what is remembered.
func (k *known) judge(first, last uint64, before, after []byte) verdict {
	for _, e := range k.ends {
		if e.seq == last && string(e.link[:]) != string(after) || e.seq == first-1 && string(e.link[:]) != string(before) {
			return contradicted
		}
	}
	sameEnd := slices.ContainsFunc(k.ends, func(e end) bool { return e.seq == last })
	covered := slices.ContainsFunc(k.spans, func(s span) bool { return s.first <= first && last <= s.last })
	if sameEnd && covered {
		return repeated
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
