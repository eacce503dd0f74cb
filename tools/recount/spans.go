package recount

import (
	"cmp"
	"slices"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// span is time [from, to), in milliseconds of UTC.
type span struct{ from, to int64 }

// joined are the spans in which any of some is: in order, none touching the next, none empty.
func joined(spans []span) (out []span) {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for _, s := range spans {
		switch n := len(out); {
		case s.from >= s.to:
		case n > 0 && s.from <= out[n-1].to:
			out[n-1].to = max(out[n-1].to, s.to)
		default:
			out = append(out, s)
		}
	}
	return out
}

// without is what is left of some spans that are joined where others are not, which are joined too.
func without(spans, others []span) (out []span) {
	for _, s := range spans {
		for len(others) > 0 && others[0].to <= s.from {
			others = others[1:]
		}
		for _, o := range others {
			if o.from >= s.to {
				break
			}
			if s.from < o.from {
				out = append(out, span{s.from, o.from})
			}
			s.from = max(s.from, o.to)
		}
		if s.from < s.to {
			out = append(out, s)
		}
	}
	return out
}

// within is what of some spans is also in others; both are joined.
func within(spans, others []span) []span { return without(spans, without(spans, others)) }

// clipped is what of some spans lies in a period.
func clipped(spans []span, from, to int64) (out []span) {
	for _, s := range spans {
		if s.from, s.to = max(s.from, from), min(s.to, to); s.from < s.to {
			out = append(out, s)
		}
	}
	return out
}

func length(spans []span) (sum int64) {
	for _, s := range spans {
		sum += s.to - s.from
	}
	return sum
}

// strength is the order in which attentions win, the strongest first.
func strength() []usagev1.Attention {
	return []usagev1.Attention{
		usagev1.Attention_ATTENTION_BUSY, usagev1.Attention_ATTENTION_IDLE, usagev1.Attention_ATTENTION_BACKGROUND, usagev1.Attention_ATTENTION_AWAY,
		usagev1.Attention_ATTENTION_PAUSED, usagev1.Attention_ATTENTION_UNKNOWN, usagev1.Attention_ATTENTION_SUSPENDED,
	}
}

// strongest parts time by the strongest attention of each moment.
func strongest(stretches []*stretch, from, to int64) map[usagev1.Attention][]span {
	by := make(map[usagev1.Attention][]span)
	for _, s := range stretches {
		by[s.attention] = append(by[s.attention], span{s.from, s.to})
	}
	out := make(map[usagev1.Attention][]span)
	var taken []span
	for _, attention := range strength() {
		of := clipped(joined(by[attention]), from, to)
		out[attention] = without(of, taken)
		taken = joined(append(slices.Clone(taken), of...))
	}
	return out
}

const quarter = int64(15 * 60 * 1000)

// pieces cuts a span at every quarter-hour of UTC.
func pieces(s span, yield func(from, to int64)) {
	for s.from < s.to {
		end := min(s.to, (s.from/quarter+1)*quarter)
		yield(s.from, end)
		s.from = end
	}
}
