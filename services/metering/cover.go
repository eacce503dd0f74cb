package metering

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// span is the rows of one level that begin in [from, to): added, or taken away.
type span struct {
	level    level
	from, to quarter
	less     bool
}

// nearest is the beginning of a row of the level that lies nearest to q.
func (l level) nearest(q quarter) quarter { return l.start(q + levelWidths[l]/2) }

// cover makes [from, to) out of few rows of the levels. What lies before the
// nearest beginning of a coarse row is added by finer ones, what is too much of it
// is taken away: totals are whole numbers, so nothing is lost by that, and no end
// takes more than half a row's worth of finer rows. A day of a zone west of
// Greenwich, say, is one day of UTC and the hours between the two midnights, twice.
func cover(from, to quarter) []span {
	if from >= to {
		return nil
	}
	spans, _ := coverBy(levels-1, from, to)
	return spans
}

// coverBy uses the levels up to l, and tells how many rows of one key it takes.
func coverBy(l level, from, to quarter) ([]span, int) {
	if l == levelQuarter {
		return []span{{level: l, from: from, to: to}}, int(to - from)
	}
	finer, fewest := coverBy(l-1, from, to)
	first, last := l.nearest(from), l.nearest(to)
	if first >= last {
		return finer, fewest
	}
	spans := []span{{level: l, from: first, to: last}}
	rows := int((last - first) / levelWidths[l])
	// between is negative where a is behind b.
	between := func(a, b quarter) {
		less := a > b
		if less {
			a, b = b, a
		}
		if a == b {
			return
		}
		some, n := coverBy(l-1, a, b)
		rows += n
		for _, s := range some {
			s.less = s.less != less
			spans = append(spans, s)
		}
	}
	between(from, first)
	between(last, to)
	if rows >= fewest {
		return finer, fewest
	}
	return spans, rows
}

// share says that a row counts for a bucket: added, or taken away.
type share struct {
	bucket int32
	less   bool
}

// cellRanges say which rows of which levels make up buckets.
type cellRanges struct {
	// levels, lows and highs are the ranges to read. Neighbouring ones are read as
	// one, since a descent of the key costs as much as some rows.
	levels      []int16
	lows, highs []int32
	// starts are those of the spans, sorted: the level in the upper half, the
	// quarter in the lower. A span reaches to its end; its rows are of one class.
	starts        []int64
	ends, classes []int32
	// shares of the buckets, by class.
	shares [][]share
}

// joinGap is the widest gap between spans, in rows of their level, over which they
// are read as one.
const joinGap = 4

func newCellRanges(buckets []bucket) cellRanges {
	type edge struct {
		level level
		at    quarter
		share share
		opens bool
	}
	var edges []edge
	for i, b := range buckets {
		for _, s := range cover(b.from, b.to) {
			of := share{int32(i), s.less}
			edges = append(edges, edge{s.level, s.from, of, true}, edge{s.level, s.to, of, false})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.at, b.at)) })
	var r cellRanges
	classes := make(map[string]int32)
	var open []share
	for i, e := range edges {
		if e.opens {
			open = append(open, e.share)
		} else {
			at := slices.Index(open, e.share)
			open = slices.Delete(open, at, at+1)
		}
		if len(open) == 0 || edges[i+1].at == e.at {
			continue
		}
		end := edges[i+1].at // what is open closes at the same level
		slices.SortFunc(open, func(a, b share) int { return cmp.Compare(a.bucket, b.bucket) })
		var key []byte
		for _, s := range open {
			key = binary.BigEndian.AppendUint32(key, uint32(s.bucket)<<1)
			if s.less {
				key[len(key)-1] |= 1
			}
		}
		class, ok := classes[string(key)]
		if !ok {
			class = int32(len(r.shares))
			classes[string(key)] = class
			r.shares = append(r.shares, slices.Clone(open))
		}
		r.starts = append(r.starts, int64(e.level)<<32+int64(e.at))
		r.ends, r.classes = append(r.ends, int32(end)), append(r.classes, class)
		if n := len(r.highs); n > 0 && r.levels[n-1] == int16(e.level) && e.at-quarter(r.highs[n-1]) <= joinGap*levelWidths[e.level] {
			r.highs[n-1] = int32(end)
			continue
		}
		r.levels, r.lows, r.highs = append(r.levels, int16(e.level)), append(r.lows, int32(e.at)), append(r.highs, int32(end))
	}
	return r
}
