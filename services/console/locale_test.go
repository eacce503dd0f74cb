package console

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// Numbers are written as the browser asks for, and dates named for it to write.
func TestNumbersAreWrittenAsTheReaderDoes(t *testing.T) {
	for header, want := range map[string]string{
		"":                        "1\u202f234\u202f567 12\u202f345:06:07 0.5 8.3\u202f%",
		"en-US,en;q=0.9":          "1,234,567 12,345:06:07 0.5 8.3%",
		"de-DE,de;q=0.9,en;q=0.8": "1.234.567 12.345:06:07 0,5 8,3\u00a0%",
		"de-AT":                   "1\u00a0234\u00a0567 12\u00a0345:06:07 0,5 8,3\u00a0%",
		"de-CH":                   "1’234’567 12’345:06:07 0.5 8.3%",
		"fr":                      "1\u00a0234\u00a0567 12\u00a0345:06:07 0,5 8,3\u00a0%",
		"es":                      "1.234.567 12.345:06:07 0,5 8,3\u00a0%",
		"ar":                      "1\u202f234\u202f567 12\u202f345:06:07 0.5 8.3\u202f%", // its digits are not ours
		"!!":                      "1\u202f234\u202f567 12\u202f345:06:07 0.5 8.3\u202f%",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if header != "" {
			r.Header.Set("Accept-Language", header)
		}
		l, spoken := localeOf(r)
		got := strings.Join([]string{l.count(1234567), l.span(durationpb.New(12345*time.Hour + 6*time.Minute + 7*time.Second)), l.decimal(0.5), l.share(0.0833)}, " ")
		if got != want {
			t.Errorf("%q writes %q, want %q", header, got, want)
		}
		if first, _, _ := strings.Cut(header, ","); spoken != first && header != "!!" {
			t.Errorf("%q has dates in %q", header, spoken)
		}
	}
	if l := neutral; l.count(-1234) != "-1\u202f234" || l.length(-90*time.Minute) != "-1:30:00" {
		t.Errorf("below zero: %q, %q", l.count(-1234), l.length(-90*time.Minute))
	}
}

// A period is compared with as many days before it, whole months with whole months, and a year before with the
// same dates.
func TestWhatAPeriodIsComparedWith(t *testing.T) {
	on := func(text string) time.Time {
		date, err := time.Parse(day, text)
		if err != nil {
			t.Fatal(err)
		}
		return date
	}
	for _, c := range []struct{ from, to, with, wantFrom, wantTo string }{
		{"2026-03-10", "2026-03-16", "before", "2026-03-03", "2026-03-09"},
		{"2026-03-01", "2026-03-31", "before", "2026-02-01", "2026-02-28"},
		{"2026-01-01", "2026-03-31", "before", "2025-10-01", "2025-12-31"},
		{"2026-03-01", "2026-03-30", "before", "2026-01-30", "2026-02-28"},
		{"2028-02-29", "2028-03-01", "year", "2027-02-28", "2027-03-01"},
		{"2026-03-29", "2026-03-29", "before", "2026-03-28", "2026-03-28"},
	} {
		notes := &asked{}
		got := comparedWith(notes, c.with, period{first: on(c.from), last: on(c.to), Zone: time.UTC})
		if len(notes.Notes) > 0 || got.From != c.wantFrom || got.To != c.wantTo || !got.Asked {
			t.Errorf("%s to %s and %s: %s to %s, %v", c.from, c.to, c.with, got.From, got.To, notes.Notes)
		}
	}
	for chosen, want := range map[string]int{"": 0, "x": 1} {
		notes := &asked{}
		if got := comparedWith(notes, chosen, period{}); got.Asked || len(notes.Notes) != want {
			t.Errorf("%q: %v, %v", chosen, got, notes.Notes)
		}
	}
}
