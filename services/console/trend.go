package console

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

const (
	// trendDays and trendWeeks are the most days and weeks that stand beside each other; of more there are weeks, and months.
	trendDays, trendWeeks = 92, 105
	// trendLines is how many amounts at most are written beside a trend, and trendTicks about how many times below it.
	trendLines, trendTicks = 4, 8
	// trendFill is how much of its place a column takes.
	trendFill = 0.8
)

// trend is time over time, as columns that the server draws: it needs no script, and can be printed.
type trend struct {
	// Word is what a column is of: "day".
	Word    string
	Columns []trendColumn
	Lines   []tick
	// Table says that its figures stand nowhere else on the page.
	Table bool
}

// trendColumn is one of them; all places are percents.
type trendColumn struct {
	useRow
	// Slot is where its place begins, Whole how wide that is; X and Width are those of the column.
	Slot, Whole, X, Width string
	Parts                 []trendPart
	Label                 string
	// Middle is where its time is written; "" where there is no room. Clock is that time where it is no date.
	Middle, Clock string
}

// trendPart is one colour of a column.
type trendPart struct{ Kind, Y, Height string }

// trendPath is where a trend is had from.
const trendPath = "/use/trend"

// laterTrend is one that the page asks for once it is shown: to add up by time is dear, and nobody waits for it.
type laterTrend struct {
	Word string
	// Address is where it is had from, Instead the page that shows the same as a table.
	Address, Instead string
}

// useTrend answers with the trend of a page's period and filters.
func (s *Service) useTrend(v *visit) {
	if !seesUse(v.caller.Privileges) {
		v.w.WriteHeader(http.StatusForbidden)
		return
	}
	out, err := s.askTrend(v)
	if err != nil {
		s.deps.Logger.DebugContext(v.ctx, "no trend for a report", "error", err)
		v.w.WriteHeader(http.StatusNoContent)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = v.w.Write(out) // the browser is gone where this fails
}

func (s *Service) askTrend(v *visit) ([]byte, error) {
	base, err := s.reportOf(v, useDays)
	if err != nil {
		return nil, err
	}
	page := &usePage{reportPage: base, PersonTime: base.Query.Get("counting") == "person"}
	by, word := trendStep(base.Period)
	req := &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), GroupBy: []meteringv1.GroupBy{by},
		Filter: filterOf(base.Query), PageSize: usePageSize, Reason: base.Reason,
	}
	if page.PersonTime {
		req.Counting = meteringv1.Counting_COUNTING_PERSON_TIME
	}
	answer, err := s.usage.SummarizeUsage(v.ctx, req)
	if err != nil {
		return nil, err
	}
	drawn := page.trendOf(by, word, answer.GetGroups(), s.deps.Now())
	if drawn == nil {
		return nil, nil
	}
	var out bytes.Buffer
	err = s.render(&out, v.r, "use", "trend", drawn)
	return out.Bytes(), err
}

// trendStep is by what a period is parted, so that its columns can be told apart.
func trendStep(p period) (by meteringv1.GroupBy, word string) {
	switch days := int(p.last.Sub(p.first)/(24*time.Hour)) + 1; {
	case days == 1:
		return meteringv1.GroupBy_GROUP_BY_HOUR, "hour"
	case days <= trendDays:
		return meteringv1.GroupBy_GROUP_BY_DAY, "day"
	case days <= 7*trendWeeks:
		return meteringv1.GroupBy_GROUP_BY_WEEK, "week"
	default:
		return meteringv1.GroupBy_GROUP_BY_MONTH, "month"
	}
}

// trendOf draws the groups of a summary by a step of time. Of what is still to come there is nothing.
func (p *usePage) trendOf(by meteringv1.GroupBy, word string, groups []*meteringv1.UsageGroup, now time.Time) *trend {
	at := map[int64]*meteringv1.UsageTotals{}
	for _, t := range p.Period.begins(by, now) {
		at[t.Unix()] = nil
	}
	var most time.Duration
	for _, g := range groups {
		at[g.GetStartTime().AsTime().Unix()] = g.GetTotals()
		most = max(most, drawn(g.GetTotals()))
	}
	if most == 0 || len(at) < 2 {
		return nil
	}
	t := &trend{Word: word, Table: by != p.By.by}
	step := trendLine(most)
	top := (most + step - 1).Truncate(step)
	for amount := time.Duration(0); amount <= top; amount += step {
		t.Lines = append(t.Lines, tick{percent(float64(top-amount) / float64(top)), p.amountOf(amount)})
	}
	whole := 1 / float64(len(at))
	for i, begin := range slices.Sorted(maps.Keys(at)) {
		slot := float64(i) * whole
		c := trendColumn{useRow: useRow{Totals: at[begin]}, Slot: percent(slot), Whole: percent(whole), X: percent(slot + whole*(1-trendFill)/2), Width: percent(whole * trendFill)}
		p.stretchOfTime(&c.useRow, time.Unix(begin, 0).In(p.Period.Zone), by)
		if by == meteringv1.GroupBy_GROUP_BY_HOUR {
			c.Clock = c.Name
		}
		if every := (len(at) + trendTicks - 1) / trendTicks; i%every == 0 {
			c.Middle = percent(slot + whole/2)
		}
		c.Label = c.Name
		if c.Day != "" {
			c.Label += " " + c.Day
		}
		c.Label += ": " + p.Bar(c.useRow).Label
		base := top
		for _, part := range []struct {
			kind string
			of   *durationpb.Duration
		}{{"busy", c.Totals.GetBusy()}, {"idle", c.Totals.GetIdle()}, {"background", c.Totals.GetBackground()}} {
			if length := part.of.AsDuration(); length > 0 {
				base -= length
				c.Parts = append(c.Parts, trendPart{part.kind, percent(float64(base) / float64(top)), percent(float64(length) / float64(top))})
			}
		}
		t.Columns = append(t.Columns, c)
	}
	return t
}

// drawn is how much of some time a column shows.
func drawn(t *meteringv1.UsageTotals) time.Duration {
	return t.GetBusy().AsDuration() + t.GetIdle().AsDuration() + t.GetBackground().AsDuration()
}

// trendLine is what lies between two amounts beside a trend.
func trendLine(most time.Duration) time.Duration {
	for _, step := range []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute} {
		if most <= trendLines*step {
			return step
		}
	}
	for unit := time.Hour; ; unit *= 10 {
		for _, step := range []time.Duration{unit, 2 * unit, 5 * unit} {
			if most <= trendLines*step {
				return step
			}
		}
	}
}

// amountOf writes an amount beside a trend.
func (p *usePage) amountOf(d time.Duration) string {
	if d%time.Hour == 0 {
		return p.locale.count(int64(d/time.Hour)) + "\u00a0h"
	}
	return strconv.Itoa(int(d/time.Minute)) + "\u00a0min"
}

// percent writes a share as an attribute of SVG.
func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 3, 64) + "%" }

// begins are the moments at which the hours, days, weeks or months of the period begin that have begun.
func (p period) begins(by meteringv1.GroupBy, now time.Time) (all []time.Time) {
	date, next := p.first, func(d time.Time) time.Time { return d.AddDate(0, 0, 1) }
	switch by {
	case meteringv1.GroupBy_GROUP_BY_HOUR:
		for t := p.start; t.Before(p.end) && t.Before(now); t = t.Add(time.Hour) {
			all = append(all, t)
		}
		return all
	case meteringv1.GroupBy_GROUP_BY_WEEK:
		date = date.AddDate(0, 0, -(int(date.Weekday())+6)%7)
		next = func(d time.Time) time.Time { return d.AddDate(0, 0, 7) }
	case meteringv1.GroupBy_GROUP_BY_MONTH:
		date = date.AddDate(0, 0, 1-date.Day())
		next = func(d time.Time) time.Time { return d.AddDate(0, 1, 0) }
	default:
	}
	for ; begins(date, p.Zone).Before(p.end) && begins(date, p.Zone).Before(now); date = next(date) {
		all = append(all, begins(date, p.Zone))
	}
	return all
}

// timeName is what an hour, day, week or month is called that begins at a moment, and its last day; day and month are
// dates for the browser to write.
func timeName(begin time.Time, by meteringv1.GroupBy) (name, onDay, inMonth string, last time.Time) {
	switch by {
	case meteringv1.GroupBy_GROUP_BY_HOUR:
		return begin.Format("15:04"), begin.Format(day), "", begin
	case meteringv1.GroupBy_GROUP_BY_WEEK:
		_, week := begin.ISOWeek()
		return "Week " + strconv.Itoa(week) + ", from", begin.Format(day), "", begin.AddDate(0, 0, 6)
	case meteringv1.GroupBy_GROUP_BY_MONTH:
		return begin.Format("January 2006"), "", begin.Format(monthLayout), begin.AddDate(0, 1, -1)
	default:
		return begin.Format("Mon"), begin.Format(day), "", begin
	}
}

// stretchOfTime is the line of an hour, day, week or month that begins at a moment.
func (p *usePage) stretchOfTime(row *useRow, begin time.Time, by meteringv1.GroupBy) {
	var last time.Time
	row.Name, row.Day, row.Month, last = timeName(begin, by)
	if by == meteringv1.GroupBy_GROUP_BY_HOUR {
		row.Narrower = "/timeline" + with(p.Query, "from", begin.Format(day), "to", begin.Format(day), "by", "", "view", "", "counting", "", "rank", "", "measure", "", compareParameter, "", "page", "",
			"begin", begin.UTC().Format(moment), "end", begin.Add(time.Hour).UTC().Format(moment))
		return
	}
	next := "application"
	if by != meteringv1.GroupBy_GROUP_BY_DAY {
		next = "day"
	}
	// Of a week or month that is only in part in the period, the line tells no more than that part.
	row.Narrower = with(p.Query, "from", max(begin.Format(day), p.Period.From), "to", min(last.Format(day), p.Period.To), "by", next, "page", "")
}
