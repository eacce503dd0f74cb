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
	return dateBuckets(1, from, to, zone, func(day int64) int64 { return day })
}

// weekBuckets cuts [from, to) at the Mondays of a zone.
func weekBuckets(from, to quarter, zone *time.Location) []bucket {
	return dateBuckets(7, from, to, zone, func(day int64) int64 { return floorDiv(day+3, 7) }) // 1970 began on a Thursday
}

// monthBuckets cuts [from, to) where months of a zone begin.
func monthBuckets(from, to quarter, zone *time.Location) []bucket {
	return dateBuckets(31, from, to, zone, func(day int64) int64 {
		date := time.Unix(day*24*60*60, 0).UTC()
		return int64(date.Year())*12 + int64(date.Month())
	})
}

// dateBuckets cuts where a number of the date grows: that of the day itself, or of what is at most
// so many days long.
func dateBuckets(longest int, from, to quarter, zone *time.Location, number func(day int64) int64) []bucket {
	var day, last int64
	// Begin before what holds from: a zone may have left out a day, or told two hours of one twice.
	probe := from - quarter(longest+1)*24*4 - 2*4
	return cutBuckets(probe, from, to, zone, func(local int64, first, _ bool) bool {
		on := floorDiv(local, 24*60*60)
		if !first && on <= day {
			return false
		}
		day = on
		n := number(on)
		begins := first || n > last
		last = n
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
