package metering

import (
	"math"
	"time"
)

// bucket is one day or hour of a zone, or the part of it within a period.
type bucket struct {
	// label is where the day or hour begins, also where the period cuts it.
	label    time.Time
	from, to quarter
}

// dayBuckets cuts [from, to) at the days of a zone. A day begins at the first
// moment that bears its date, so a day has 23, 24 or 25 hours, and a midnight that
// does not exist or exists twice begins one day, once.
func dayBuckets(from, to quarter, zone *time.Location) []bucket {
	var last int64
	// Begin with the day that holds from: at most 26 hours before.
	return cutBuckets(from-26*4, from, to, zone, func(local int64, first, _ bool) bool {
		n := floorDiv(local, 24*60*60)
		begins := first || n > last
		last = max(last, n)
		return begins
	})
}

// hourBuckets cuts [from, to) at the hours of a zone's clock. Where the clock is
// put back, an hour that is told twice is two; where the shift is half an hour,
// the hours beside it are shorter.
func hourBuckets(from, to quarter, zone *time.Location) []bucket {
	var last int64
	return cutBuckets(from-2*4, from, to, zone, func(local int64, _, shifted bool) bool {
		n := floorDiv(local, 60*60)
		begins := shifted || n != last
		last = n
		return begins
	})
}

// cutBuckets walks the quarter-hours from probe on; begins tells whether a bucket
// begins at one, given what the zone's clock shows in seconds of 1970, whether it
// is the first, and whether the clock was put forward or back there.
func cutBuckets(probe, from, to quarter, zone *time.Location, begins func(local int64, first, shifted bool) bool) []bucket {
	const quarterSeconds = quarterMillis / 1000
	label := probe
	var buckets []bucket
	var offset, until int64 // of the zone, and when it may change, in seconds
	for q := probe; q < to; q++ {
		at := int64(q) * quarterSeconds
		shifted := false
		if at >= until || q == probe {
			now := q.time().In(zone)
			_, seconds := now.Zone()
			shifted = q > probe && int64(seconds) != offset
			offset, until = int64(seconds), math.MaxInt64
			if _, end := now.ZoneBounds(); !end.IsZero() {
				until = end.Unix()
			}
		}
		begin := begins(at+offset, q == probe, shifted)
		if begin {
			label = q
		}
		if q >= from && (begin || len(buckets) == 0) {
			if n := len(buckets); n > 0 {
				buckets[n-1].to = q
			}
			buckets = append(buckets, bucket{label: label.time().In(zone), from: q})
		}
	}
	if n := len(buckets); n > 0 {
		buckets[n-1].to = to
	}
	return buckets
}
