package console

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// zoneLife is how long an account's zone is remembered.
const zoneLife = time.Minute

// zones remembers accounts' time zones, in which their days begin.
type zones struct {
	now func() time.Time

	mu    sync.Mutex
	known map[contract.ID]zoneOf
}

type zoneOf struct {
	zone  *time.Location
	until time.Time
}

func newZones(now func() time.Time) *zones {
	return &zones{now: now, known: map[contract.ID]zoneOf{}}
}

// zone is the account's, which each summary tells.
func (s *Service) zone(ctx context.Context, account contract.ID) (*time.Location, error) {
	z := s.zones
	now := z.now()
	z.mu.Lock()
	known, ok := z.known[account]
	z.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.zone, nil
	}
	end := now.Truncate(time.Hour)
	answer, err := s.usage.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{StartTime: timestamppb.New(end.Add(-time.Hour)), EndTime: timestamppb.New(end)})
	if err != nil {
		return nil, err
	}
	zone, err := time.LoadLocation(answer.GetTimeZone())
	if err != nil {
		return nil, errs.As(errs.Internal, "console.zone", answer.GetTimeZone(), "is no time zone known here", err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	for other, of := range z.known {
		if !now.Before(of.until) {
			delete(z.known, other)
		}
	}
	z.known[account] = zoneOf{zone, now.Add(zoneLife)}
	return zone, nil
}

// period is the days that a report is about, in the account's zone.
type period struct {
	// From and To are the first and the last day.
	From, To string
	Zone     *time.Location
	// Presets are periods that one click chooses.
	Presets []preset
	// Today is the last day that can be chosen.
	Today string

	start, end time.Time
	// first and last are From and To, as dates.
	first, last time.Time
}

type preset struct {
	Title, From, To string
	Chosen          bool
}

// Word is what the days are called that a preset chooses; "" of others.
func (p period) Word() string {
	for _, preset := range p.Presets {
		if preset.Chosen {
			word := strings.ToLower(preset.Title)
			if word[0] <= '9' {
				word = "last " + word
			}
			return word
		}
	}
	return ""
}

const day = "2006-01-02"

// periodOf reads the days that a page's address names; the latest where it names none. Beside an error of what is
// written there it is a period too, for the form.
func (s *Service) periodOf(v *visit, back int) (period, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return period{}, err
	}
	year, mon, on := s.deps.Now().In(zone).Date()
	today := time.Date(year, mon, on, 0, 0, 0, 0, time.UTC) // a date, wherever it begins
	p := period{Zone: zone, Today: today.Format(day)}
	month := today.AddDate(0, 0, 1-today.Day())
	for _, choice := range []struct {
		title      string
		start, end time.Time
	}{
		{"Today", today, today},
		{"Yesterday", today.AddDate(0, 0, -1), today.AddDate(0, 0, -1)},
		{"7 days", today.AddDate(0, 0, -6), today},
		{"30 days", today.AddDate(0, 0, -29), today},
		{"This month", month, today},
		{"Last month", month.AddDate(0, -1, 0), month.AddDate(0, 0, -1)},
	} {
		p.Presets = append(p.Presets, preset{Title: choice.title, From: choice.start.Format(day), To: choice.end.Format(day)})
	}
	query := v.r.URL.Query()
	p.From, p.To = query.Get("from"), query.Get("to")
	switch {
	case p.From == "" && p.To == "":
		p.From, p.To = today.AddDate(0, 0, -back).Format(day), today.Format(day)
	case p.To == "":
		p.To = max(p.From, p.Today)
	case p.From == "":
		p.From = p.To
	}
	var wrong []errs.Field
	read := func(name, value string) time.Time {
		date, err := time.Parse(day, value)
		if err != nil {
			wrong = append(wrong, errs.Field{Path: name, Description: "is no date: write it as " + today.Format(day)})
		}
		return date
	}
	p.first, p.last = read("from", p.From), read("to", p.To)
	p.start, p.end = begins(p.first, zone), begins(p.last.AddDate(0, 0, 1), zone)
	if len(wrong) == 0 && !p.start.Before(p.end) {
		wrong = append(wrong, errs.Field{Path: "to", Description: "is before the first day"})
	}
	if len(wrong) > 0 { // the form still shows what was entered
		p.first, p.last = today.AddDate(0, 0, -back), today
		p.start, p.end = begins(p.first, zone), begins(p.last.AddDate(0, 0, 1), zone)
		return p, errs.InvalidFields("console.period", "", wrong...)
	}
	for i := range p.Presets {
		p.Presets[i].Chosen = p.Presets[i].From == p.From && p.Presets[i].To == p.To
	}
	return p, nil
}

// begins is the first moment of a date in a zone: midnight, but where the clock is put forward
// just then.
func begins(date time.Time, zone *time.Location) time.Time {
	year, month, on := date.Date()
	t := time.Date(year, month, on, 0, 0, 0, 0, zone)
	if t.Day() != on {
		_, t = t.ZoneBounds()
	}
	return t
}
