package metering

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
)

// TestMergedEndsSomewhere: whatever was merged into whatever, rings too, everybody who is
// connected counts as one of them, and as the same one.
func TestMergedEndsSomewhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		people := drawIDs(t, 6)
		m := merged{}
		for _, p := range people {
			if rapid.Bool().Draw(t, "is another's") {
				m[p] = pick(t, "whose", people)
			}
		}
		// By colouring: merges make sets of connected principals.
		set := map[contract.ID]contract.ID{}
		for _, p := range people {
			set[p] = p
		}
		for range people {
			for p, into := range m {
				least := slices.MinFunc([]contract.ID{set[p], set[into]}, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
				set[p], set[into] = least, least
			}
		}
		got := m.resolved()
		for _, p := range people {
			if end := got.of(p); got.of(end) != end || set[end] != set[p] {
				t.Fatalf("%s counts as %s, which counts as %s", p, end, got.of(end))
			}
			for _, q := range people {
				if (set[p] == set[q]) != (got.of(p) == got.of(q)) {
					t.Fatalf("%s counts as %s, %s as %s", p, got.of(p), q, got.of(q))
				}
			}
			all := got.all([]contract.ID{p})
			for _, q := range people {
				if (set[p] == set[q]) != slices.Contains(all, q) {
					t.Fatalf("all of %s are %v, %s: %t", p, all, q, set[p] == set[q])
				}
			}
		}
	})
}
