package metering

import "time"

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
	// Begin with the day that holds from: at most 26 hours before.
	return cutBuckets(from-26*4, from, to, zone, func(before, now time.Time, last int) (bool, int) {
		n := dateNumber(now)
		return n > last, max(n, last)
	})
}

// hourBuckets cuts [from, to) at the hours of a zone's clock. Where the clock is
// put back, an hour that is told twice is two; where the shift is half an hour,
// the hours beside it are shorter.
func hourBuckets(from, to quarter, zone *time.Location) []bucket {
	return cutBuckets(from-2*4, from, to, zone, func(before, now time.Time, _ int) (bool, int) {
		_, offsetBefore := before.Zone()
		_, offset := now.Zone()
		return before.Hour() != now.Hour() || before.Day() != now.Day() || offset != offsetBefore, 0
	})
}

// cutBuckets walks the quarter-hours from probe on; begins tells whether a bucket
// begins now, given a number of its own that it keeps.
func cutBuckets(probe, from, to quarter, zone *time.Location, begins func(before, now time.Time, kept int) (bool, int)) []bucket {
	before := probe.time().In(zone)
	_, kept := begins(before.Add(-time.Hour), before, 0)
	label := before
	var buckets []bucket
	for q := probe + 1; q < to; q++ {
		now := q.time().In(zone)
		var begin bool
		if begin, kept = begins(before, now, kept); begin {
			label = now
		}
		if q >= from && (begin || len(buckets) == 0) {
			if n := len(buckets); n > 0 {
				buckets[n-1].to = q
			}
			buckets = append(buckets, bucket{label: label, from: q})
		}
		before = now
	}
	if n := len(buckets); n > 0 {
		buckets[n-1].to = to
	}
	return buckets
}

func dateNumber(t time.Time) int {
	y, m, d := t.Date()
	return (y*100+int(m))*100 + d
}
