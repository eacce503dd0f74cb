package metering

import (
	"testing"

	"pgregory.net/rapid"
)

// TestCoverIsExact: what is added and taken away leaves each quarter-hour of the
// period once and no other, out of rows that exist.
func TestCoverIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := quarter(rapid.Int32Range(-10_000, 2_100_000).Draw(t, "from"))
		to := from + quarter(rapid.Int32Range(0, 20_000).Draw(t, "length"))
		times := make(map[quarter]int)
		rows := 0
		for _, s := range cover(from, to) {
			if s.to <= s.from || s.level.start(s.from) != s.from || s.level.start(s.to) != s.to {
				t.Fatalf("there is no such span: %+v", s)
			}
			rows += int((s.to - s.from) / levelWidths[s.level])
			for q := s.from; q < s.to; q++ {
				if s.less {
					times[q]--
				} else {
					times[q]++
				}
			}
		}
		for q, n := range times {
			if want := q >= from && q < to; want != (n == 1) || !want && n != 0 {
				t.Fatalf("quarter-hour %d of [%d, %d) is there %d times", q, from, to, n)
			}
		}
		for q := from; q < to; q++ {
			if times[q] != 1 {
				t.Fatalf("quarter-hour %d of [%d, %d) lacks", q, from, to)
			}
		}
		// At most half a row of the level above at either end, of each level.
		if most := int(to-from)/int(levelWidths[levelSixteenDays]) + 1 + 2*(8+12+2); rows > most {
			t.Fatalf("%d rows for [%d, %d), which %d do", rows, from, to, most)
		}
	})
}

// TestRangesAreTheCovers: for each bucket, the rows that are read add up to what
// its cover says, however buckets share rows.
func TestRangesAreTheCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := quarter(rapid.Int32Range(0, 2_000_000).Draw(t, "from"))
		var buckets []bucket
		for range rapid.IntRange(1, 20).Draw(t, "buckets") {
			b := bucket{from: at + quarter(rapid.Int32Range(0, 3).Draw(t, "gap"))}
			b.to = b.from + quarter(rapid.SampledFrom([]int32{1, 2, 4, 4, 92, 96, 100, 3000}).Draw(t, "length"))
			buckets, at = append(buckets, b), b.to
		}
		type place struct {
			level   level
			quarter quarter
			bucket  int
		}
		times := make(map[place]int)
		for i, b := range buckets {
			for _, s := range cover(b.from, b.to) {
				for q := s.from; q < s.to; q += levelWidths[s.level] {
					if s.less {
						times[place{s.level, q, i}]--
					} else {
						times[place{s.level, q, i}]++
					}
				}
			}
		}
		r := newCellRanges(buckets)
		read := make(map[place]bool)
		for i, low := range r.lows {
			l := level(r.levels[i])
			for q := quarter(low); q < quarter(r.highs[i]); q += levelWidths[l] {
				if read[place{l, q, -1}] {
					t.Fatalf("the row %d of level %d is read twice", q, l)
				}
				read[place{l, q, -1}] = true
			}
		}
		for i, start := range r.starts {
			l := level(start >> 32)
			for q := quarter(start & 0xffffffff); q < quarter(r.ends[i]); q += levelWidths[l] {
				if !read[place{l, q, -1}] {
					t.Fatalf("the row %d of level %d is not read", q, l)
				}
				for _, s := range r.shares[r.classes[i]] {
					if s.less {
						times[place{l, q, int(s.bucket)}]++
					} else {
						times[place{l, q, int(s.bucket)}]--
					}
				}
			}
		}
		for p, n := range times {
			if n != 0 {
				t.Fatalf("the row %d of level %d is off by %d for bucket %d", p.quarter, p.level, n, p.bucket)
			}
		}
	})
}
