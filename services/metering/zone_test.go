package metering

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func at(t *testing.T, text string) quarter {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return quarterOf(moment.UnixMilli())
}

func TestDaysOfZones(t *testing.T) {
	for _, c := range []struct {
		name, zone, from, to string
		begin                []string
	}{
		{"a day of 23 hours", "Europe/Vienna", "2026-03-28T23:00:00Z", "2026-03-30T22:00:00Z", []string{"2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"}},
		{"a day of 25 hours", "Europe/Vienna", "2026-10-24T22:00:00Z", "2026-10-26T23:00:00Z", []string{"2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"}},
		{"a period begins within a day", "Asia/Kathmandu", "2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z", []string{"2026-04-30T18:15:00Z", "2026-05-01T18:15:00Z"}},
		{"a midnight that does not exist", "Africa/Cairo", "2026-04-22T22:00:00Z", "2026-04-24T21:00:00Z", []string{"2026-04-22T22:00:00Z", "2026-04-23T22:00:00Z"}},
		{"a day that does not exist", "Pacific/Apia", "2011-12-29T10:00:00Z", "2011-12-31T10:00:00Z", []string{"2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			zone, err := time.LoadLocation(c.zone)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range dayBuckets(at(t, c.from), at(t, c.to), zone) {
				got = append(got, b.label.UTC().Format(time.RFC3339))
			}
			if diff := cmp.Diff(c.begin, got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// TestBucketsPartitionThePeriod: days and hours follow one another without gap or
// overlap, and each begins where its label says, but for the first.
func TestBucketsPartitionThePeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(pick(t, "zone", testZones))
		if err != nil {
			t.Fatal(err)
		}
		from := quarterOf(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()) + quarter(rapid.Int32Range(0, 70_000).Draw(t, "from"))
		to := from + quarter(rapid.Int32Range(1, 5000).Draw(t, "length"))
		for name, buckets := range map[string][]bucket{
			"days": dayBuckets(from, to, zone), "hours": hourBuckets(from, to, zone), "weeks": weekBuckets(from, to, zone), "months": monthBuckets(from, to, zone),
		} {
			end := from
			for i, b := range buckets {
				if b.from != end || b.to <= b.from {
					t.Fatalf("%s: bucket %d is [%d, %d), after %d", name, i, b.from, b.to, end)
				}
				if label := quarterOf(b.label.UnixMilli()); label > b.from || i > 0 && label != b.from {
					t.Fatalf("%s: bucket %d begins at %d and is called %v", name, i, b.from, b.label)
				}
				wall := b.label.In(zone)
				if name == "days" && wall.Hour() > 1 {
					t.Fatalf("a day begins at %v", wall)
				}
				if name == "weeks" && wall.Weekday() != time.Monday || name == "months" && wall.Day() != 1 {
					t.Fatalf("one of the %s begins on %v", name, wall)
				}
				end = b.to
			}
			if end != to {
				t.Fatalf("%s end at %d, not %d", name, end, to)
			}
		}
	})
}
