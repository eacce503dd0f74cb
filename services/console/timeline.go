package console

import (
	"cmp"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// timelineSteps is into how many parts the page's width is parted.
	timelineSteps = 400
	// timelineRows is how many rows a page shows.
	timelineRows = 25
	// exactBelow is the step from which on a timeline is told exactly.
	exactBelow = 5 * time.Second
	// instancesBelow is the length from which on rows are runs, unless asked otherwise.
	instancesBelow = 49 * time.Hour
	// shortestWindow bounds zooming.
	shortestWindow = 10 * time.Second
	longestWindow  = 400 * 24 * time.Hour
	// ticksWanted is about how many times are written below the bars.
	ticksWanted = 8
)

// moment is how an address writes a time.
const moment = "2006-01-02T15:04:05.000Z"

// timelinePage is when what was open, as bars.
type timelinePage struct {
	reportPage
	RowsBy []choice
	By     string
	// Table shows the bars as lines of a table; Files shows files too.
	Table, Files bool
	// Begin and End are what is shown, which zooming makes a part of the period.
	Begin, End time.Time
	Zoomed     bool
	Step       time.Duration
	Rows       []timelineRow
	Ticks      []tick
	NextPage   string
}

// timelineRow is one line of bars.
type timelineRow struct {
	*meteringv1.TimelineRow
	Title, Under string
	// Address is where the row leads: to the run, or to a timeline of it alone.
	Address string
	Bars    []timelineBar
	Files   []timelineRow
}

// timelineBar is one bar; X and Width are percents of the page's width.
type timelineBar struct {
	X, Width, Kind, Label, Address string
	Begin, End                     *timestamppb.Timestamp
	Word                           string
	Busy                           *durationpb.Duration
}

// tick is a time below the bars, and where it stands.
type tick struct{ X, Text string }

func (s *Service) timeline(v *visit) (any, error) {
	base, err := s.reportOf(v, 0)
	page := timelinePage{reportPage: base, Begin: base.Period.start, End: base.Period.end}
	page.Table, page.Files = base.Query.Get("view") == "table", base.Query.Get("files") == "on"
	zoomed := page.zoom()
	req := &meteringv1.QueryTimelineRequest{
		StartTime: timestamppb.New(page.Begin), EndTime: timestamppb.New(page.End), Filter: filterOf(base.Query),
		PageSize: timelineRows, PageToken: base.Query.Get("page"), Reason: base.Reason,
	}
	if page.Step = page.End.Sub(page.Begin) / timelineSteps; page.Step >= exactBelow {
		req.Resolution = durationpb.New(page.Step)
	} else {
		page.Step = 0
	}
	page.rowsBy(req)
	if err = cmp.Or(err, zoomed); err != nil {
		return page, err
	}
	answer, err := s.reports.QueryTimeline(v.ctx, req)
	if err != nil {
		return page, err
	}
	page.Since = answer.GetDataSinceTime()
	// Whole quarter-hours are told, which may be a little more than was asked for.
	page.Begin, page.End = answer.GetStartTime().AsTime(), answer.GetEndTime().AsTime()
	if next := answer.GetNextPageToken(); next != "" {
		page.NextPage = with(base.Query, "page", next)
	}
	for _, row := range answer.GetRows() {
		page.Rows = append(page.Rows, page.row(row))
	}
	page.Ticks = ticks(page.Begin, page.End, page.Period.Zone)
	return page, nil
}

// zoom reads the part of the period that the address names.
func (p *timelinePage) zoom() error {
	begin, end := p.Query.Get("begin"), p.Query.Get("end")
	if begin == "" && end == "" {
		return nil
	}
	var wrong []errs.Field
	read := func(name, text string) time.Time {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			wrong = append(wrong, errs.Field{Path: name, Description: "the address has to name a moment such as 2026-03-01T09:15:00Z"})
		}
		return t.UTC()
	}
	p.Begin, p.End, p.Zoomed = read("begin", begin), read("end", end), true
	if len(wrong) == 0 && !p.Begin.Before(p.End) {
		wrong = append(wrong, errs.Field{Path: "end", Description: "it is not after the beginning"})
	}
	if len(wrong) > 0 {
		return errs.InvalidFields("console.timeline", "", wrong...)
	}
	return nil
}

// rowsBy reads what one row is.
func (p *timelinePage) rowsBy(req *meteringv1.QueryTimelineRequest) {
	p.By = p.Query.Get("rows")
	if p.By == "" {
		switch {
		case p.End.Sub(p.Begin) < instancesBelow:
			p.By = "run"
		case p.Query.Has("person"):
			p.By = "application"
		default:
			p.By = "person"
		}
	}
	for _, by := range []struct {
		value, title string
		by           meteringv1.TimelineRowBy
	}{
		{"run", "each run", meteringv1.TimelineRowBy_TIMELINE_ROW_BY_INSTANCE},
		{"person", "person", meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL},
		{"machine", "machine", meteringv1.TimelineRowBy_TIMELINE_ROW_BY_MACHINE},
		{"application", "application", meteringv1.TimelineRowBy_TIMELINE_ROW_BY_APPLICATION},
	} {
		p.RowsBy = append(p.RowsBy, choice{by.value, by.title, p.By == by.value})
		if p.By == by.value {
			req.RowBy = by.by
		}
	}
	if req.GetRowBy() == meteringv1.TimelineRowBy_TIMELINE_ROW_BY_UNSPECIFIED {
		p.RowsBy = settle(p.asked, "rows", p.By, p.RowsBy)
		p.By, req.RowBy = "run", meteringv1.TimelineRowBy_TIMELINE_ROW_BY_INSTANCE
	}
	p.Files = p.Files && p.By == "run"
	req.Documents = p.Files
}

func (p *timelinePage) row(row *meteringv1.TimelineRow) timelineRow {
	r := timelineRow{TimelineRow: row}
	narrower := func(filter, id, rows string) string { return with(p.Query, filter, id, "rows", rows, "page", "") }
	switch p.By {
	case "person":
		r.Title, r.Address = row.GetPrincipalName(), narrower("person", row.GetPrincipalId(), "application")
	case "machine":
		r.Title, r.Address = row.GetMachineName(), narrower("machine", row.GetMachineId(), "application")
	case "application":
		r.Title, r.Address = row.GetApplicationName(), narrower("application", row.GetApplicationId(), "run")
	default:
		r.Title, r.Under = row.GetApplicationName(), row.GetPrincipalName()+" · "+row.GetMachineName()
		r.Address = "/instances/" + row.GetInstanceId()
	}
	if r.Title == "" {
		r.Title = "(no name)"
	}
	r.Bars = p.bars(row.GetBars(), row.GetInstanceId(), "")
	for _, d := range row.GetDocuments() {
		file := timelineRow{TimelineRow: &meteringv1.TimelineRow{Totals: d.GetTotals()}, Title: d.GetDocumentName(), Address: "/instances/" + row.GetInstanceId() + "?document=" + d.GetDocumentId()}
		if file.Title == "" {
			file.Title = "(no name)"
		}
		file.Bars = p.bars(d.GetBars(), row.GetInstanceId(), d.GetDocumentId())
		r.Files = append(r.Files, file)
	}
	return r
}

// bars lays bars out. An exact one of a run leads to its event, any other to a closer look at it.
func (p *timelinePage) bars(bars []*meteringv1.TimelineBar, instance, document string) []timelineBar {
	whole := float64(p.End.Sub(p.Begin))
	out := make([]timelineBar, len(bars))
	for i, b := range bars {
		begin, end := b.GetStartTime().AsTime(), b.GetEndTime().AsTime()
		word, kind := attentionWord(b.GetAttention())
		if b.GetState() == usagev1.State_STATE_TIMEOUT {
			word += ", timed out"
		}
		bar := timelineBar{X: percent(float64(begin.Sub(p.Begin)) / whole), Width: percent(float64(end.Sub(begin)) / whole), Kind: kind, Word: word, Begin: b.GetStartTime(), End: b.GetEndTime(), Busy: b.GetTotals().GetBusy()}
		bar.Label = fmt.Sprintf("%s for %s from %s", word, p.locale.length(end.Sub(begin)), at(b.GetStartTime(), p.Period.Zone))
		if b.GetTotals() != nil {
			bar.Label = fmt.Sprintf("mostly %s from %s to %s: busy %s of %s", word, at(b.GetStartTime(), p.Period.Zone), at(b.GetEndTime(), p.Period.Zone), p.locale.span(b.GetTotals().GetBusy()), p.locale.span(b.GetTotals().GetOpen()))
		}
		if b.GetEventId() != "" {
			query := url.Values{"event": {b.GetEventId()}}
			if document != "" {
				query.Set("document", document)
			}
			bar.Address = "/instances/" + instance + "?" + query.Encode() + "#event"
		} else {
			bar.Address = p.window(begin.Add(-end.Sub(begin)/4), end.Add(end.Sub(begin)/4))
		}
		out[i] = bar
	}
	return out
}

// window is the address of the same page that shows another time.
func (p *timelinePage) window(begin, end time.Time) string {
	if short := shortestWindow - end.Sub(begin); short > 0 {
		begin, end = begin.Add(-short/2), end.Add(short/2)
	}
	if long := end.Sub(begin) - longestWindow; long > 0 {
		begin, end = begin.Add(long/2), end.Add(-long/2)
	}
	return with(p.Query, "begin", begin.UTC().Format(moment), "end", end.UTC().Format(moment), "page", "")
}

// Closer, Farther, Earlier and Later are zooms of half, and moves by half.
func (p timelinePage) Closer() string {
	quarter := p.End.Sub(p.Begin) / 4
	return p.window(p.Begin.Add(quarter), p.End.Add(-quarter))
}

// Farther shows twice as long.
func (p timelinePage) Farther() string {
	half := p.End.Sub(p.Begin) / 2
	return p.window(p.Begin.Add(-half), p.End.Add(half))
}

// Earlier moves back.
func (p timelinePage) Earlier() string {
	half := p.End.Sub(p.Begin) / 2
	return p.window(p.Begin.Add(-half), p.End.Add(-half))
}

// Later moves on.
func (p timelinePage) Later() string {
	half := p.End.Sub(p.Begin) / 2
	return p.window(p.Begin.Add(half), p.End.Add(half))
}

// Whole is the period again.
func (p timelinePage) Whole() string { return with(p.Query, "begin", "", "end", "", "page", "") }

// Other is the same as a table, or as bars again.
func (p timelinePage) Other() string {
	if p.Table {
		return with(p.Query, "view", "")
	}
	return with(p.Query, "view", "table")
}

// Link is the address with another period, whole.
func (p timelinePage) Link(choice preset) string {
	return with(p.Query, "from", choice.From, "to", choice.To, "begin", "", "end", "", "page", "")
}

// Stamps are what is shown, for templates and scripts.
func (p timelinePage) Stamps() [2]*timestamppb.Timestamp {
	return [2]*timestamppb.Timestamp{timestamppb.New(p.Begin), timestamppb.New(p.End)}
}

// tickSteps are the distances at which times are written, below a day.
var tickSteps = [...]time.Duration{
	time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour,
}

// ticks are times of a zone at round distances; where these are days or more, midnights.
func ticks(begin, end time.Time, zone *time.Location) (all []tick) {
	whole := end.Sub(begin)
	add := func(t time.Time, layout string) {
		if share := float64(t.Sub(begin)) / float64(whole); share >= 0 && share < 0.96 {
			all = append(all, tick{strconv.FormatFloat(100*share, 'f', 2, 64) + "%", t.In(zone).Format(layout)})
		}
	}
	year, month, on := begin.In(zone).Date()
	midnight := time.Date(year, month, on, 0, 0, 0, 0, time.UTC)
	for _, step := range tickSteps {
		if whole/step > ticksWanted {
			continue
		}
		layout := "15:04"
		if step < time.Minute {
			layout = "15:04:05"
		}
		first := begins(midnight, zone)
		for t := first.Add(begin.Sub(first).Truncate(step)); t.Before(end); t = t.Add(step) {
			add(t, layout)
		}
		return all
	}
	days := max(1, int(whole/(24*time.Hour))/ticksWanted)
	layout := "2 Jan"
	switch {
	case days > 20:
		for date := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC); begins(date, zone).Before(end); date = date.AddDate(0, max(1, days/30), 0) {
			add(begins(date, zone), "Jan 2006")
		}
		return all
	case days > 1:
		days = (days + 6) / 7 * 7
	}
	for date := midnight; begins(date, zone).Before(end); date = date.AddDate(0, 0, days) {
		add(begins(date, zone), layout)
	}
	return all
}

// barLines are a row's bars as lines of a table.
type barLines struct {
	Row  timelineRow
	Zone *time.Location
	Step time.Duration
}

// Lines is for templates.
func (p timelinePage) Lines(row timelineRow) barLines { return barLines{row, p.Period.Zone, p.Step} }
