package agentlog

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
)

// A journal must agree with a set of sequence numbers, whatever comes in which
// order, and come back from what is stored.
func TestJournalIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 200
		records := make([][]byte, n)
		hashes := make([]contract.Hash, n+1)
		for i := range records {
			records[i] = []byte{byte(i)}
			hashes[i+1] = contract.Chain(hashes[i], records[i])
		}
		frame := func(first, last uint64) *frame {
			after, marks := chain(hashes[first-1], records[first-1:last])
			return &frame{
				first: first, last: last, before: linkOf(hashes[first-1]), after: linkOf(after), marks: marks, records: int(last - first + 1),
			}
		}
		j := &journal{}
		set := map[uint64]bool{}
		var stored []segment // as agent_mark would hold them
		for range rapid.IntRange(1, 15).Draw(t, "frames") {
			first := rapid.Uint64Range(1, n).Draw(t, "first")
			last := rapid.Uint64Range(first, min(n, first+40)).Draw(t, "last")
			var bad []uint64
			for seq := first; seq <= last; seq++ {
				if rapid.IntRange(0, 5).Draw(t, "bad") == 0 {
					bad = append(bad, seq)
				}
			}
			f := frame(first, last)
			if seq, conflict := j.conflict(f); conflict {
				t.Fatalf("a true frame conflicts at %d", seq)
			}
			// The same frame with one record changed must conflict wherever
			// something from the change on is known.
			at := rapid.Uint64Range(first, last).Draw(t, "forged")
			other := slices.Clone(records[first-1 : last])
			other[at-first] = []byte("another")
			after, marks := chain(hashes[first-1], other)
			forged := *f
			forged.after, forged.marks = linkOf(after), marks
			known := false
			for _, s := range j.spans {
				known = known || s.first <= last+1 && s.last >= at
			}
			if _, conflict := j.conflict(&forged); known && !conflict {
				t.Fatalf("a forged record %d in [%d, %d] is not seen: %+v", at, first, last, j)
			}
			overlaps := false
			for seq := first; seq <= last; seq++ {
				if j.received(seq) != set[seq] {
					t.Fatalf("received(%d) = %v", seq, j.received(seq))
				}
				overlaps = overlaps || set[seq]
			}
			if overlaps && !j.overlaps(seqRange{first, last}) {
				t.Fatalf("[%d, %d] does not overlap", first, last)
			}
			j.take(f, bad)
			stored = append(stored, j.made...)
			j.made, j.stored = nil, stored
			for seq := first; seq <= last; seq++ {
				if !slices.Contains(bad, seq) {
					set[seq] = true
				}
			}
			for seq := uint64(1); seq <= n; seq++ {
				if j.received(seq) != set[seq] {
					t.Fatalf("after [%d, %d] less %v: received(%d) = %v, want %v: %+v", first, last, bad, seq, j.received(seq), set[seq], j)
				}
			}
			for i := 1; i < len(j.spans); i++ {
				if j.spans[i].first <= j.spans[i-1].last+1 {
					t.Fatalf("spans touch: %+v", j.spans)
				}
			}
			again, err := decodeJournal(j.encode(), multirange(j.present()))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(again.spans, j.spans) || !slices.Equal(again.missing, j.missing) || !slices.Equal(again.tail.marks, j.tail.marks) || again.tail.first != j.tail.first {
				t.Fatalf("stored %+v, was %+v", again, j)
			}
			if rapid.Bool().Draw(t, "restart") {
				j = again
				j.stored = stored
			}
		}
	})
}
