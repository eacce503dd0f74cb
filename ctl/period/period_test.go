package period

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPeriods(t *testing.T) {
	prague, err := time.LoadLocation("Europe/Prague")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 29, 13, 7, 0, 0, prague) // the day of 23 hours, a Sunday
	for text, want := range map[string]string{
		"today":                  "2026-03-29T00:00:00+01:00 2026-03-30T00:00:00+02:00",
		"Yesterday":              "2026-03-28T00:00:00+01:00 2026-03-29T00:00:00+01:00",
		"this-week":              "2026-03-23T00:00:00+01:00 2026-03-30T00:00:00+02:00",
		"last-week":              "2026-03-16T00:00:00+01:00 2026-03-23T00:00:00+01:00",
		"this-month":             "2026-03-01T00:00:00+01:00 2026-04-01T00:00:00+02:00",
		"last-month":             "2026-02-01T00:00:00+01:00 2026-03-01T00:00:00+01:00",
		"this-quarter":           "2026-01-01T00:00:00+01:00 2026-04-01T00:00:00+02:00",
		"last-quarter":           "2025-10-01T00:00:00+02:00 2026-01-01T00:00:00+01:00",
		"last-year":              "2025-01-01T00:00:00+01:00 2026-01-01T00:00:00+01:00",
		"7d":                     "2026-03-23T00:00:00+01:00 2026-03-30T00:00:00+02:00",
		"1-day":                  "2026-03-29T00:00:00+01:00 2026-03-30T00:00:00+02:00",
		"2w":                     "2026-03-16T00:00:00+01:00 2026-03-30T00:00:00+02:00",
		"1m":                     "2026-03-02T00:00:00+01:00 2026-03-30T00:00:00+02:00", // there is no 30 February
		"12 h":                   "",
		"12h":                    "2026-03-29T00:15:00+01:00 2026-03-29T13:15:00+02:00",
		"2026":                   "2026-01-01T00:00:00+01:00 2027-01-01T00:00:00+01:00",
		"2026-02":                "2026-02-01T00:00:00+01:00 2026-03-01T00:00:00+01:00",
		"2026-Q2":                "2026-04-01T00:00:00+02:00 2026-07-01T00:00:00+02:00",
		"2026-10-25":             "2026-10-25T00:00:00+02:00 2026-10-26T00:00:00+01:00",
		"2026-02..2026-03-14":    "2026-02-01T00:00:00+01:00 2026-03-15T00:00:00+01:00",
		"last-month..today":      "2026-02-01T00:00:00+01:00 2026-03-30T00:00:00+02:00",
		"2026-03-14..2026-03-01": "",
		"2020..2026":             "",
		"2026-13":                "",
		"0d":                     "",
		"":                       "",
		"fortnight":              "",
	} {
		p, err := Parse(text, now, prague)
		got := p.Start.In(prague).Format(time.RFC3339) + " " + p.End.In(prague).Format(time.RFC3339)
		if want == "" && err == nil || want != "" && (err != nil || got != want) {
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		}
	}
}

func TestBetween(t *testing.T) {
	now := time.Date(2026, 3, 5, 13, 7, 0, 0, time.UTC)
	for _, c := range []struct{ from, to, want string }{
		{"2026-03-01", "2026-03-02", "2026-03-01T00:00:00Z 2026-03-03T00:00:00Z"},
		{"2026-03-01", "", "2026-03-01T00:00:00Z 2026-03-06T00:00:00Z"},
		{"", "2026-03-02", "2026-03-02T00:00:00Z 2026-03-03T00:00:00Z"},
		{"2026-03-01T12:00", "2026-03-01 14:30", "2026-03-01T12:00:00Z 2026-03-01T14:30:00Z"},
		{"2026-03-01T12:00:00+02:00", "2026-03-01T12:00:00Z", "2026-03-01T10:00:00Z 2026-03-01T12:00:00Z"},
		{"March", "", ""},
	} {
		p, err := Between(c.from, c.to, now, time.UTC)
		got := p.Start.UTC().Format(time.RFC3339) + " " + p.End.UTC().Format(time.RFC3339)
		if c.want == "" && err == nil || c.want != "" && (err != nil || got != c.want) {
			t.Errorf("%s to %s is %s, %v", c.from, c.to, got, err)
		}
	}
}

// TestNamesAlwaysMeanWholeDays: whatever the zone and the moment, every name is a period of whole days
// that holds or touches today, and "this" follows "last" without a gap.
func TestNamesAlwaysMeanWholeDays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom([]string{"UTC", "Europe/Prague", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "America/Havana", "Africa/Cairo"}).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(rapid.Int64Range(1e9, 2e9).Draw(t, "now"), 0)
		read := func(name string) Period {
			p, err := Parse(name, now, zone)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, edge := range []time.Time{p.Start, p.End} {
				if before := edge.Add(-time.Second).In(zone).Day(); before == edge.In(zone).Day() {
					t.Fatalf("%s begins or ends at %s, within a day", name, edge.In(zone))
				}
			}
			return p
		}
		for _, name := range names {
			p := read(name)
			if last, is := strings.CutPrefix(name, "last-"); is {
				if this := read("this-" + last); !p.End.Equal(this.Start) {
					t.Fatalf("%s ends at %s and this-%s begins at %s", name, p.End, last, this.Start)
				}
			} else if name != "yesterday" && (now.Before(p.Start) || !now.Before(p.End)) {
				t.Fatalf("%s does not hold %s", name, now.In(zone))
			}
		}
	})
}

// FuzzParse: whatever is typed is refused, or a period that a report answers.
func FuzzParse(f *testing.F) {
	for _, name := range append(Names(), "7d", "9999y", "2026-q1", "0000-00..", "..", "12h", "2026-02-30") {
		f.Add(name)
	}
	now := time.Date(2026, 3, 29, 13, 7, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text, now, time.UTC)
		if err == nil && (!p.Start.Before(p.End) || p.End.Sub(p.Start) > (longest+1)*24*time.Hour) {
			t.Errorf("%q is %v", text, p)
		}
		if _, err := Between(text, text, now, time.UTC); err == nil && text == "" {
			return
		}
	})
}
