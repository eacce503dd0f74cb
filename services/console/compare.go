package console

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// compareParameter says what a report is compared with.
const compareParameter = "compare"

// yearComparison is the same days of the year before.
const yearComparison = "year"

// comparison is what a report is compared with.
type comparison struct {
	Choices []choice
	// Asked says that it is compared; From and To are the first and the last day then.
	Asked    bool
	From, To string

	start, end time.Time
}

// comparedWith reads it. The time before whole calendar months is as many of them.
func comparedWith(a *asked, chosen string, p period) comparison {
	c := comparison{}
	for _, with := range []struct{ value, title string }{{"", "nothing"}, {"before", "the time before"}, {yearComparison, "the year before"}} {
		c.Choices = append(c.Choices, choice{with.value, with.title, chosen == with.value})
	}
	c.Choices = settle(a, compareParameter, chosen, c.Choices)
	first, last := p.first, p.last
	var from, to time.Time
	switch chosen {
	case "before":
		next := last.AddDate(0, 0, 1)
		if first.Day() == 1 && next.Day() == 1 {
			months := (next.Year()-first.Year())*12 + int(next.Month()-first.Month())
			from = first.AddDate(0, -months, 0)
		} else {
			from = first.AddDate(0, 0, -int(next.Sub(first)/(24*time.Hour)))
		}
		to = first.AddDate(0, 0, -1)
	case yearComparison:
		from, to = yearBefore(first), yearBefore(last)
	default:
		return c
	}
	c.Asked, c.From, c.To = true, from.Format(day), to.Format(day)
	c.start, c.end = begins(from, p.Zone), begins(to.AddDate(0, 0, 1), p.Zone)
	return c
}

// yearBefore is the same date a year before; of a leap day the day before it.
func yearBefore(date time.Time) time.Time {
	before := date.AddDate(-1, 0, 0)
	if before.Day() != date.Day() {
		return before.AddDate(0, 0, -1)
	}
	return before
}

// stamps are the period for the API; nil where none is asked for.
func (c comparison) stamps() (start, end *timestamppb.Timestamp) {
	if !c.Asked {
		return nil, nil
	}
	return timestamppb.New(c.start), timestamppb.New(c.end)
}

// change is how a figure differs from what it was. Word says so to who does not see the sign.
type change struct{ Before, Difference, Share, Kind, Word string }

func (l locale) changed(now, before float64, write func(float64) string) *change {
	c := &change{Before: write(before), Kind: "same", Word: "as before"}
	difference := now - before
	if difference == 0 {
		c.Difference = "±" + write(0)
		return c
	}
	sign := "+"
	c.Kind, c.Word = "more", "more than before"
	if difference < 0 {
		sign, difference, c.Kind, c.Word = "−", -difference, "less", "less than before"
	}
	c.Difference = sign + write(difference)
	if before != 0 {
		c.Share = sign + l.share(difference/before)
	}
	return c
}

// Change is how a number differs from what it was; nil where nothing is compared.
func (p reportPage) Change(now, before int64) *change {
	if !p.Compared.Asked {
		return nil
	}
	return p.locale.changed(float64(now), float64(before), func(f float64) string { return p.locale.count(int64(f)) })
}

// ChangeTime is how a length of time differs from what it was; nil where nothing is compared.
func (p reportPage) ChangeTime(now, before *durationpb.Duration) *change {
	if !p.Compared.Asked {
		return nil
	}
	return p.locale.changed(now.AsDuration().Seconds(), before.AsDuration().Seconds(), func(f float64) string {
		return p.locale.length(time.Duration(f * float64(time.Second)))
	})
}

// figure is one of the greatest figures of a page.
type figure struct {
	Title, Value string
	Change       *change
}

// figures are those of times by attention.
func (p reportPage) figures(now, before *meteringv1.UsageTotals) []figure {
	of := func(title string, get func(*meteringv1.UsageTotals) *durationpb.Duration) figure {
		return figure{title, p.locale.span(get(now)), p.ChangeTime(get(now), get(before))}
	}
	return []figure{
		of("Open", (*meteringv1.UsageTotals).GetOpen), of("Busy", (*meteringv1.UsageTotals).GetBusy),
		of("Idle", (*meteringv1.UsageTotals).GetIdle), of("In the background", (*meteringv1.UsageTotals).GetBackground),
	}
}
