package metering

import (
	"cmp"
	"slices"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// stretch is time [from, to) in one attention, in milliseconds of UTC.
type stretch struct {
	from, to  int64
	attention usagev1.Attention
}

// strength orders attentions for person time, the strongest first: what a person
// does in front of one screen outweighs what is left alone on another, and the
// less is known of a moment, the later it counts.
var strength = [attentions]usagev1.Attention{
	usagev1.Attention_ATTENTION_BUSY,
	usagev1.Attention_ATTENTION_IDLE,
	usagev1.Attention_ATTENTION_BACKGROUND,
	usagev1.Attention_ATTENTION_AWAY,
	usagev1.Attention_ATTENTION_PAUSED,
	usagev1.Attention_ATTENTION_UNKNOWN,
	usagev1.Attention_ATTENTION_SUSPENDED,
}

// strongest joins the stretches of one person: it yields, in the order of time
// and without overlap, who is strongest when. Stretches of no length count
// nothing. It sorts the edges that it makes in scratch, which is returned for the
// next call.
func strongest(stretches []stretch, scratch []stretchEdge, yield func(stretch)) []stretchEdge {
	edges := scratch[:0]
	for _, s := range stretches {
		if s.from < s.to {
			edges = append(edges, stretchEdge{s.from, s.attention, 1}, stretchEdge{s.to, s.attention, -1})
		}
	}
	slices.SortFunc(edges, func(a, b stretchEdge) int { return cmp.Compare(a.at, b.at) })

	var open [attentions]int
	var current stretch // its attention is zero where nothing is open
	for i := 0; i < len(edges); {
		at := edges[i].at
		for ; i < len(edges) && edges[i].at == at; i++ {
			open[edges[i].attention-1] += edges[i].delta
		}
		next := usagev1.Attention_ATTENTION_UNSPECIFIED
		for _, a := range strength {
			if open[a-1] > 0 {
				next = a
				break
			}
		}
		if next == current.attention {
			continue
		}
		if current.attention != usagev1.Attention_ATTENTION_UNSPECIFIED {
			current.to = at
			yield(current)
		}
		current = stretch{from: at, attention: next}
	}
	return edges
}

type stretchEdge struct {
	at        int64
	attention usagev1.Attention
	delta     int
}
