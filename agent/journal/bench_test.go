package journal_test

import (
	"testing"
)

// One record at a time, read as soon as it is written, as the uplink does while a
// Manager is connected: what a change at the desktop costs beside its sync.
func BenchmarkTrickle(b *testing.B) {
	c := config(b.TempDir())
	c.SegmentBytes = 0
	j := open(b, c)
	a := anchor(1)
	next := uint64(1)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if err := j.Append(b.Context(), batch(n, 1, a)); err != nil {
			b.Fatal(err)
		}
		f, err := j.Frame(next)
		if err != nil || len(f.GetRecords()) != 1 {
			b.Fatalf("frame from %d: %v, %v", next, f, err)
		}
		next++
		// A Manager acknowledges in its own time; a hundred are under way.
		if next%100 == 0 {
			if err := j.Acknowledge(f.GetEpoch(), 1, next-1); err != nil {
				b.Fatal(err)
			}
			if err := j.WriteSlot(nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}
