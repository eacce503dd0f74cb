package activity_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func text(ls []*line, ids bool) string {
	ls = slices.Clone(ls)
	slices.SortStableFunc(ls, func(a, b *line) int {
		return cmp.Or(cmp.Compare(a.App.String(), b.App.String()), cmp.Compare(a.Opened, b.Opened), cmp.Compare(a.Document.String(), b.Document.String()))
	})
	var b strings.Builder
	for _, l := range ls {
		fmt.Fprintf(&b, "app %d doc %x [%d,%d) %v timeouts %v\n", l.App[1], l.Document[:2], l.Opened, l.Closed, l.Why, l.Timeouts)
		for _, p := range l.Pieces {
			fmt.Fprintf(&b, "   %v\n", p)
		}
	}
	return b.String()
}

// TestOracle compares every interval with the truth; the properties below look at
// what must hold whatever the truth is.
func TestOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		got, want := text(lines(play(s, s.moments()).events), false), text(s.truth(), false)
		if got != want {
			t.Fatalf("script %+v\n inputs %v sleeps %v\n\ngot:\n%s\nwant:\n%s", describe(s), s.Inputs, s.Sleeps, got, want)
		}
	})
}

func describe(s script) string {
	var b strings.Builder
	for _, w := range s.Worlds {
		fmt.Fprintf(&b, "%+v\n", w)
	}
	return b.String()
}

var allAttentions = []usagev1.Attention{1, 2, 3, 4, 5, 6, 7}

func TestP1OpenTimeIsTheSumOfAttentions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScript(t, everything)
		for _, l := range lines(play(s, s.moments()).events) {
			sum := int64(0)
			for _, a := range allAttentions {
				sum += l.sum(a)
			}
			if sum != l.Closed-l.Opened {
				t.Fatalf("open for %d ms, the attentions add up to %d: %v", l.Closed-l.Opened, sum, l.Pieces)
			}
		}
	})
}
