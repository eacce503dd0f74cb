package period

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Period is the time from Start until, and not with, End.
type Period struct{ Start, End time.Time }

// Names are the periods that have a name.
var names = []string{"today", "yesterday", "this-week", "last-week", "this-month", "last-month", "this-quarter", "last-quarter", "this-year", "last-year"}

// Names lists the periods that have a name.
func Names() []string { return append([]string(nil), names...) }

// longest is the longest period that reports answer.
const longest = 400

var (
	// several is so many days, weeks, … up to and with today: 7d, 4w, 6m, 1y, 30-days.
	several = regexp.MustCompile(`^(\d{1,4})(?:(d|w|m|y)|-?(days?|weeks?|months?|years?))$`)
	hours   = regexp.MustCompile(`^(\d{1,4})(?:h|-?hours?)$`)
	year    = regexp.MustCompile(`^\d{4}$`)
	month   = regexp.MustCompile(`^\d{4}-\d{2}$`)
	quarter = regexp.MustCompile(`^(\d{4})-?q([1-4])$`)
)

// Parse reads a period: a name; "7d", "4w", "6m", "1y", which end with today; "12h", which ends now; a
// day, a month, a quarter or a year as 2026-03-01, 2026-03, 2026-Q1, 2026; or two of these with ".."
// between.
func Parse(text string, now time.Time, zone *time.Location) (Period, error) {
	word := strings.ToLower(strings.TrimSpace(text))
	if first, last, both := strings.Cut(word, ".."); both {
		from, err := one(first, now, zone)
		if err != nil {
			return Period{}, err
		}
		to, err := one(last, now, zone)
		if err != nil {
			return Period{}, err
		}
		return checked(Period{from.Start, to.End}, text)
	}
	p, err := one(word, now, zone)
	if err != nil {
		return Period{}, err
	}
	return checked(p, text)
}

// Between reads a first and a last day, or moments as RFC 3339 writes them; an empty last one is the
// end of today, an empty first one the day of the last one.
func Between(from, to string, now time.Time, zone *time.Location) (Period, error) {
	end := dayOf(now.In(zone), 1, zone)
	if to != "" {
		_, until, err := edge(to, zone)
		if err != nil {
			return Period{}, err
		}
		end = until
	}
	start := dayOf(end.Add(-time.Nanosecond).In(zone), 0, zone)
	if from != "" {
		begin, _, err := edge(from, zone)
		if err != nil {
			return Period{}, err
		}
		start = begin
	}
	return checked(Period{start, end}, strings.TrimSpace(from+" to "+to))
}

// edge reads a day or a moment; until is the end of the day, or the moment again.
func edge(text string, zone *time.Location) (begin, until time.Time, err error) {
	if moment, err := time.Parse(time.RFC3339, text); err == nil {
		return moment, moment, nil
	}
	if moment, err := time.ParseInLocation("2006-01-02T15:04", strings.Replace(text, " ", "T", 1), zone); err == nil {
		return moment, moment, nil
	}
	date, err := time.Parse("2006-01-02", text)
	if err != nil {
		return begin, until, fmt.Errorf("%q is neither a day, as 2026-03-01, nor a moment, as 2026-03-01T12:00 or 2026-03-01T12:00:00Z", text)
	}
	return dayOf(date, 0, zone), dayOf(date, 1, zone), nil
}

func checked(p Period, text string) (Period, error) {
	switch {
	case !p.Start.Before(p.End):
		return Period{}, fmt.Errorf("%q ends before it begins", text)
	case p.End.Sub(p.Start) > longest*24*time.Hour+time.Hour: // a day of 25 hours may be in it
		return Period{}, fmt.Errorf("%q is longer than %d days, which is the most that a report answers", text, longest)
	case p.Start.Year() < 1970 || p.End.Year() > 9999:
		return Period{}, fmt.Errorf("%q is out of reach", text)
	}
	return p, nil
}

// one reads a period of one word.
func one(word string, now time.Time, zone *time.Location) (Period, error) {
	now = now.In(zone)
	if found := several.FindStringSubmatch(word); found != nil {
		n, err := strconv.Atoi(found[1])
		if err != nil || n == 0 {
			return Period{}, fmt.Errorf("%q is no time at all", word)
		}
		end := dayOf(now, 1, zone)
		var start time.Time
		switch (found[2] + found[3])[0] {
		case 'd':
			return Period{dayOf(now, 1-n, zone), end}, nil
		case 'w':
			return Period{dayOf(now, 1-7*n, zone), end}, nil
		case 'm':
			start = midnight(now.Year(), now.Month()-time.Month(n), now.Day()+1, zone)
		default:
			start = midnight(now.Year()-n, now.Month(), now.Day()+1, zone)
		}
		return Period{start, end}, nil
	}
	if found := hours.FindStringSubmatch(word); found != nil {
		n, err := strconv.Atoi(found[1])
		if err != nil || n == 0 {
			return Period{}, fmt.Errorf("%q is no time at all", word)
		}
		const step = 15 * time.Minute // what reports are asked in
		end := now.Truncate(step)
		if end.Before(now) {
			end = end.Add(step)
		}
		return Period{end.Add(-time.Duration(n) * time.Hour), end}, nil
	}
	y, m, d := now.Date()
	switch {
	case word == "today":
		return span(y, m, d, 0, 0, 1, zone), nil
	case word == "yesterday":
		return span(y, m, d-1, 0, 0, 1, zone), nil
	case word == "this-week", word == "last-week":
		monday := d - (int(now.Weekday())+6)%7
		if word == "last-week" {
			monday -= 7
		}
		return span(y, m, monday, 0, 0, 7, zone), nil
	case word == "this-month":
		return span(y, m, 1, 0, 1, 0, zone), nil
	case word == "last-month":
		return span(y, m-1, 1, 0, 1, 0, zone), nil
	case word == "this-quarter":
		return span(y, (m-1)/3*3+1, 1, 0, 3, 0, zone), nil
	case word == "last-quarter":
		return span(y, (m-1)/3*3-2, 1, 0, 3, 0, zone), nil
	case word == "this-year":
		return span(y, 1, 1, 1, 0, 0, zone), nil
	case word == "last-year":
		return span(y-1, 1, 1, 1, 0, 0, zone), nil
	case year.MatchString(word):
		date, err := time.Parse("2006", word)
		return span(date.Year(), 1, 1, 1, 0, 0, zone), err
	case month.MatchString(word):
		date, err := time.Parse("2006-01", word)
		if err != nil {
			return Period{}, fmt.Errorf("%q is no month: write it as 2026-03", word)
		}
		return span(date.Year(), date.Month(), 1, 0, 1, 0, zone), nil
	}
	if found := quarter.FindStringSubmatch(word); found != nil {
		date, err := time.Parse("2006", found[1])
		return span(date.Year(), time.Month(3*(found[2][0]-'1')+1), 1, 0, 3, 0, zone), err
	}
	if date, err := time.Parse("2006-01-02", word); err == nil {
		return span(date.Year(), date.Month(), date.Day(), 0, 0, 1, zone), nil
	}
	return Period{}, fmt.Errorf("%q is no period: write one of %s; or 7d, 4w, 6m, 12h; or 2026-03, 2026-Q1, 2026-03-01, 2026-03-01..2026-03-14", word, strings.Join(names, ", "))
}

// span is the time from a date on, for so many years, months and days.
func span(y int, m time.Month, d, years, months, days int, zone *time.Location) Period {
	return Period{midnight(y, m, d, zone), midnight(y+years, m+time.Month(months), d+days, zone)}
}

// dayOf is the beginning of the day that lies so many days after a date.
func dayOf(date time.Time, after int, zone *time.Location) time.Time {
	y, m, d := date.Date()
	return midnight(y, m, d+after, zone)
}

// midnight is the first moment of a date: 00:00, but where the clock is put forward just then.
func midnight(y int, m time.Month, d int, zone *time.Location) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, zone)
	if on := time.Date(y, m, d, 0, 0, 0, 0, time.UTC); t.Day() != on.Day() {
		_, t = t.ZoneBounds()
	}
	return t
}
