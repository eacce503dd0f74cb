package console

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

func periodFrom(first, last time.Time, zone *time.Location) period {
	return period{From: first.Format(day), To: last.Format(day), Zone: zone, first: first, last: last, start: begins(first, zone), end: begins(last.AddDate(0, 0, 1), zone)}
}

// Whatever the period and the zone, columns stand beside each other without gaps, those of what has begun and no others,
// and what a column is made of stays within the chart.
func TestATrendIsWithinItsChart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"}).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		first := time.Date(2025, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), rapid.IntRange(1, 28).Draw(t, "day"), 0, 0, 0, 0, time.UTC)
		p := periodFrom(first, first.AddDate(0, 0, rapid.SampledFrom([]int{0, 1, 6, 29, 91, 92, 400, 1000}).Draw(t, "days")), zone)
		now := p.start.Add(time.Duration(rapid.Int64Range(1, int64(2*p.end.Sub(p.start))).Draw(t, "now")))
		by, word := trendStep(p)
		all := p.begins(by, now)
		if len(all) == 0 || all[0].After(p.start) || !all[len(all)-1].Before(p.end) || !all[len(all)-1].Before(now) || len(all) > usePageSize {
			t.Fatalf("%d columns by %s, from %v to %v, of %v to %v at %v", len(all), word, all[0], all[len(all)-1], p.start, p.end, now)
		}
		var groups []*meteringv1.UsageGroup
		for _, begin := range all {
			if rapid.Bool().Draw(t, "used") {
				part := func(name string) *durationpb.Duration {
					return durationpb.New(time.Duration(rapid.Int64Range(0, int64(5000*time.Hour)).Draw(t, name)))
				}
				groups = append(groups, &meteringv1.UsageGroup{StartTime: timestamppb.New(begin), Totals: &meteringv1.UsageTotals{Busy: part("busy"), Idle: part("idle"), Background: part("background"), Open: part("open")}})
			}
		}
		page := &usePage{reportPage: reportPage{Period: p, Query: url.Values{}, locale: neutral}}
		drawn := page.trendOf(by, word, groups, now)
		if drawn == nil {
			return
		}
		if len(drawn.Columns) != len(all) || len(drawn.Lines) < 2 || len(drawn.Lines) > trendLines+1 {
			t.Fatalf("%d columns of %d, %d lines", len(drawn.Columns), len(all), len(drawn.Lines))
		}
		for i, c := range drawn.Columns {
			if slot := shareOf(t, c.Slot); slot < float64(i)/float64(len(all))*100-0.01 || slot > float64(i)/float64(len(all))*100+0.01 {
				t.Fatalf("column %d of %d stands at %s", i, len(all), c.Slot)
			}
			_, query, _ := strings.Cut(c.Narrower, "?")
			if of, err := url.ParseQuery(query); err != nil || of.Get("from") < p.From || of.Get("to") > p.To || of.Get("from") > of.Get("to") {
				t.Fatalf("column %d of %s to %s leads to %s", i, p.From, p.To, c.Narrower)
			}
			below := 100.0
			for _, part := range c.Parts {
				y, height := shareOf(t, part.Y), shareOf(t, part.Height)
				if y < -0.01 || y+height < below-0.01 || y+height > below+0.01 {
					t.Fatalf("%s of column %d is from %s, %s high, above %v", part.Kind, i, part.Y, part.Height, below)
				}
				below = y
			}
		}
	})
}

func shareOf(t *rapid.T, percents string) float64 {
	d, err := time.ParseDuration(percents[:len(percents)-1] + "s")
	if err != nil {
		t.Fatal(err)
	}
	return d.Seconds()
}
