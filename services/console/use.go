package console

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

const (
	usePageSize = 200
	// useDays is how many days before today a page is about that names none.
	useDays = 6
	// maxReason is in characters.
	maxReason = 200
)

// distributionView is the view of how many had how much.
const distributionView = "distribution"

// reasonParameter holds it.
const reasonParameter = "reason"

// reason is why named people's use is looked at, where the account asks for it.
func (v *visit) reason() string {
	reason := []rune(strings.TrimSpace(v.r.URL.Query().Get(reasonParameter)))
	return string(reason[:min(len(reason), maxReason)])
}

// grouping is one way to part use.
type grouping struct {
	Value, Title string
	Chosen       bool
	by           meteringv1.GroupBy
	// filter is the parameter that narrows to one of these; empty where there is none.
	filter string
}

func groupings() []grouping {
	return []grouping{
		{Value: "application", Title: "Application", by: meteringv1.GroupBy_GROUP_BY_APPLICATION, filter: "application"},
		{Value: "person", Title: "Person", by: meteringv1.GroupBy_GROUP_BY_PRINCIPAL, filter: "person"},
		{Value: "machine", Title: "Machine", by: meteringv1.GroupBy_GROUP_BY_MACHINE, filter: "machine"},
		{Value: "group", Title: "Group", by: meteringv1.GroupBy_GROUP_BY_GROUP, filter: "group"},
		{Value: "site", Title: "Site", by: meteringv1.GroupBy_GROUP_BY_SITE, filter: "site"},
		{Value: "document", Title: "Document", by: meteringv1.GroupBy_GROUP_BY_DOCUMENT},
		{Value: "hour", Title: "Hour", by: meteringv1.GroupBy_GROUP_BY_HOUR},
		{Value: "day", Title: "Day", by: meteringv1.GroupBy_GROUP_BY_DAY},
		{Value: "week", Title: "Week", by: meteringv1.GroupBy_GROUP_BY_WEEK},
		{Value: "month", Title: "Month", by: meteringv1.GroupBy_GROUP_BY_MONTH},
	}
}

// usePage is time by attention.
type usePage struct {
	reportPage
	Views      []useView
	View       string
	Groupings  []grouping
	By         grouping
	PersonTime bool
	Rows       []useRow
	Totals     *meteringv1.UsageTotals
	// TotalsBefore are those of the period that is compared with.
	TotalsBefore *meteringv1.UsageTotals
	Greatest     *meteringv1.UsageTotals
	Figures      []figure
	// Trend is how it went on; TrendLater where that is had from, where the page has not asked for it.
	Trend      *trend
	TrendLater *laterTrend
	NextPage   string
	// OnePage says that the order of the lines is that of all of them.
	OnePage bool
	// RankBys, Ranking, Ranks and Measure, Parts are of the other views.
	RankBys []choice
	Ranking *meteringv1.RankUsageResponse
	Ranks   []useRank
	Open    bool
	Spread  *meteringv1.QueryDistributionResponse
}

// useView is one way to look at use.
type useView struct {
	Title, Address string
	Chosen         bool
}

// useRow is a line of the table.
type useRow struct {
	Name string
	// Day or Month is when it began, of a day, a week or a month; the browser writes it as its reader does.
	Day, Month string
	// Narrower is the address of the page that shows this line alone; empty where there is none.
	Narrower string
	Totals   *meteringv1.UsageTotals
	// Before is what it was in the period that is compared with; nil where that has no such line.
	Before *meteringv1.UsageTotals
}

func (s *Service) use(v *visit) (any, error) {
	base, err := s.reportOf(v, useDays)
	query := base.Query
	page := &usePage{reportPage: base, View: query.Get("view"), PersonTime: query.Get("counting") == "person", Open: query.Get("measure") == "open"}
	views := map[string]func(*Service, *visit, *usePage) error{"": (*Service).useParts, "ranking": (*Service).useRanking, distributionView: (*Service).useDistribution}
	show := views[page.View]
	if show == nil {
		base.instead("view", page.View, "Time")
		show, page.View = (*Service).useParts, ""
	}
	for _, view := range []struct{ value, title string }{{"", "Time"}, {"ranking", "Ranking"}, {distributionView, "Distribution"}} {
		page.Views = append(page.Views, useView{view.title, with(query, "view", view.value, "by", "", "page", ""), view.value == page.View})
	}
	page.part(query.Get("by"))
	settle(base.asked, "counting", query.Get("counting"), []choice{{Title: "every run of a program", Chosen: query.Get("counting") == ""}, {Chosen: page.PersonTime}})
	settle(base.asked, "measure", query.Get("measure"), []choice{{Title: "busy", Chosen: query.Get("measure") == ""}, {Chosen: page.Open}})
	if err != nil {
		return page, err
	}
	return page, show(s, v, page)
}

// part reads by what use is parted, of what the view can do.
func (p *usePage) part(chosen string) {
	for _, g := range groupings() {
		switch p.View {
		case "ranking":
			if g.filter == "" {
				continue
			}
		case distributionView:
			if g.Value != "person" && g.Value != "machine" {
				continue
			}
		}
		g.Chosen = g.Value == chosen || chosen == "" && len(p.Groupings) == 0
		if g.Chosen {
			p.By = g
		}
		p.Groupings = append(p.Groupings, g)
	}
	if p.By.Value == "" {
		p.Groupings[0].Chosen = true
		p.By = p.Groupings[0]
		p.instead("by", chosen, p.By.Title)
	}
}

// narrower is the address of the page that shows one line alone.
func (p *usePage) narrower(id string) string {
	if p.By.filter == "" || id == "" {
		return ""
	}
	next := "person"
	if p.By.Value != "application" && p.By.Value != "machine" {
		next = "application"
	}
	return with(p.Query, p.By.filter, id, "by", next, "view", "", "page", "")
}

func (s *Service) useParts(v *visit, page *usePage) error {
	p, query := page.Period, page.Query
	req := &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(p.start), EndTime: timestamppb.New(p.end), GroupBy: []meteringv1.GroupBy{page.By.by},
		Filter:   filterOf(query),
		PageSize: usePageSize, PageToken: query.Get("page"), Reason: page.Reason,
	}
	if page.PersonTime {
		req.Counting = meteringv1.Counting_COUNTING_PERSON_TIME
	}
	req.CompareStartTime, req.CompareEndTime = page.Compared.stamps()
	answer, err := s.usage.SummarizeUsage(v.ctx, req)
	if err != nil {
		return err
	}
	if by, word := trendStep(p); by == page.By.by {
		page.Trend = page.trendOf(by, word, answer.GetGroups(), s.deps.Now())
	} else if req.GetPageToken() == "" {
		page.TrendLater = &laterTrend{word, trendPath + with(query), with(query, "by", word)}
	}
	page.Figures = page.figures(answer.GetTotals(), answer.GetCompare().GetTotals())
	page.TotalsBefore = answer.GetCompare().GetTotals()
	page.Totals, page.Since = answer.GetTotals(), answer.GetDataSinceTime()
	if answer.GetNextPageToken() != "" {
		page.NextPage = with(query, "page", answer.GetNextPageToken())
	}
	groups := answer.GetGroups()
	if page.By.filter != "" || page.By.by == meteringv1.GroupBy_GROUP_BY_DOCUMENT { // days stay in their order
		groups = byBusy(groups)
		page.OnePage = page.NextPage == "" && query.Get("page") == ""
	}
	for _, g := range groups {
		row := useRow{Totals: g.GetTotals(), Before: g.GetCompareTotals()}
		switch page.By.by {
		case meteringv1.GroupBy_GROUP_BY_APPLICATION:
			row.Name, row.Narrower = g.GetApplicationName(), page.narrower(g.GetApplicationId())
		case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
			row.Name, row.Narrower = g.GetPrincipalName(), page.narrower(g.GetPrincipalId())
		case meteringv1.GroupBy_GROUP_BY_MACHINE:
			row.Name, row.Narrower = g.GetMachineName(), page.narrower(g.GetMachineId())
		case meteringv1.GroupBy_GROUP_BY_GROUP:
			row.Name, row.Narrower = cmp.Or(g.GetGroupName(), noneOf(g.GetGroupId())), page.narrower(g.GetGroupId())
		case meteringv1.GroupBy_GROUP_BY_SITE:
			row.Name, row.Narrower = cmp.Or(g.GetManagerName(), noneOf(g.GetManagerId())), page.narrower(g.GetManagerId())
		case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
			row.Name = g.GetDocumentName()
		default:
			page.stretchOfTime(&row, g.GetStartTime().AsTime().In(p.Zone), page.By.by)
		}
		row.Name = cmp.Or(row.Name, "(no name)")
		if page.Greatest.GetOpen().AsDuration() < row.Totals.GetOpen().AsDuration() {
			page.Greatest = row.Totals
		}
		page.Rows = append(page.Rows, row)
	}
	return nil
}

// useLine are the figures of a line, and how its busy time has changed where that is shown.
type useLine struct {
	*meteringv1.UsageTotals
	Compared bool
	Change   *change
}

// Line is for templates.
func (p *usePage) Line(now, before *meteringv1.UsageTotals) useLine {
	l := useLine{UsageTotals: now, Compared: p.BesideLines()}
	if l.Compared {
		l.Change = p.ChangeTime(now.GetBusy(), before.GetBusy())
	}
	return l
}

// Parted says that the lines have an order, and that it is that of this page alone.
func (p *usePage) Parted() bool {
	return !p.OnePage && (p.By.filter != "" || p.By.by == meteringv1.GroupBy_GROUP_BY_DOCUMENT)
}

// RankingAddress is this page as a ranking; "" where there is none by this.
func (p *usePage) RankingAddress() string {
	if p.By.filter == "" {
		return ""
	}
	return with(p.Query, "view", "ranking", "by", p.By.Value, "page", "")
}

// BesideLines tells whether each line is compared: days of one period are none of another's.
func (p *usePage) BesideLines() bool {
	return p.Compared.Asked && !slices.Contains([]string{"hour", "day", "week", "month"}, p.By.Value)
}

// noneOf is what those are called that are in no group, or of no site.
func noneOf(id string) string {
	if id == "" {
		return "(in none)"
	}
	return ""
}

// useRank is one line of a ranking.
type useRank struct {
	*meteringv1.UsageRank
	Name, Narrower string
	locale         locale
}

func (s *Service) useRanking(v *visit, page *usePage) error {
	req := &meteringv1.RankUsageRequest{
		StartTime: timestamppb.New(page.Period.start), EndTime: timestamppb.New(page.Period.end), Filter: filterOf(page.Query), GroupBy: page.By.by, Reason: page.Reason,
	}
	if !page.Compared.Asked { // a ranking always is
		page.Compared = comparedWith(page.asked, "before", page.Period)
	}
	req.CompareStartTime, req.CompareEndTime = page.Compared.stamps()
	for _, by := range []struct {
		value, title string
		by           meteringv1.RankBy
	}{
		{"", "busy time", meteringv1.RankBy_RANK_BY_BUSY},
		{"open", "open time", meteringv1.RankBy_RANK_BY_OPEN},
		{"runs", "runs", meteringv1.RankBy_RANK_BY_INSTANCES},
		{"people", "people", meteringv1.RankBy_RANK_BY_PEOPLE},
	} {
		chosen := page.Query.Get("rank") == by.value
		page.RankBys = append(page.RankBys, choice{by.value, by.title, chosen})
		if chosen {
			req.RankBy = by.by
		}
	}
	page.RankBys = settle(page.asked, "rank", page.Query.Get("rank"), page.RankBys)
	var err error
	if page.Ranking, err = s.reports.RankUsage(v.ctx, req); err != nil {
		return err
	}
	page.Since = page.Ranking.GetDataSinceTime()
	page.Figures = page.figures(page.Ranking.GetTotals(), page.Ranking.GetCompareTotals())
	for _, r := range page.Ranking.GetRanks() {
		id := r.GetApplicationId() + r.GetPrincipalId() + r.GetMachineId() + r.GetGroupId() + r.GetManagerId()
		name := r.GetApplicationName() + r.GetPrincipalName() + r.GetMachineName() + r.GetGroupName() + r.GetManagerName()
		page.Ranks = append(page.Ranks, useRank{r, cmp.Or(name, noneOf(id), "(no name)"), page.narrower(id), page.locale})
	}
	return nil
}

// Moved tells how many places up a line has come; empty where it was not there before.
func (r useRank) Moved() string {
	moved := r.GetCompareRank() - r.GetRank()
	switch {
	case r.GetCompareRank() == 0:
		return "new"
	case moved == 0:
		return "="
	case moved > 0:
		return "▲ " + r.locale.count(moved)
	}
	return "▼ " + r.locale.count(-moved)
}

func (s *Service) useDistribution(v *visit, page *usePage) error {
	req := &meteringv1.QueryDistributionRequest{
		StartTime: timestamppb.New(page.Period.start), EndTime: timestamppb.New(page.Period.end), Filter: filterOf(page.Query), GroupBy: page.By.by, Open: page.Open, Reason: page.Reason,
	}
	req.CompareStartTime, req.CompareEndTime = page.Compared.stamps()
	var err error
	if page.Spread, err = s.reports.QueryDistribution(v.ctx, req); err != nil {
		return err
	}
	now, before := page.Spread, page.Spread.GetCompare()
	page.Since = now.GetDataSinceTime()
	page.Figures = []figure{
		{"Had something open", page.locale.count(now.GetCount()), page.Change(now.GetCount(), before.GetCount())},
		{"Hours in all", page.locale.span(now.GetTotal()), page.ChangeTime(now.GetTotal(), before.GetTotal())},
		{"The middle one", page.locale.span(now.GetMedian()), page.ChangeTime(now.GetMedian(), before.GetMedian())},
		{"Nine of ten have at most", page.locale.span(now.GetP90()), page.ChangeTime(now.GetP90(), before.GetP90())},
	}
	return nil
}

// PartBefore is how many were in a part in the period that is compared with.
func (p *usePage) PartBefore(i int) int64 {
	if parts := p.Spread.GetCompare().GetParts(); i < len(parts) {
		return parts[i].GetCount()
	}
	return 0
}

// Most is how many the fullest part holds.
func (p *usePage) Most() (most int64) {
	for _, part := range p.Spread.GetParts() {
		most = max(most, part.GetCount())
	}
	return most
}

// PartTitle is what a part of the distribution holds.
func (p *usePage) PartTitle(part *meteringv1.DistributionPart) string {
	hours := func(d *durationpb.Duration) string { return p.locale.count(int64(d.AsDuration() / time.Hour)) }
	switch {
	case part.GetTo() == nil:
		return hours(part.GetFrom()) + " h and more"
	case part.GetFrom().AsDuration() == 0:
		return "less than " + hours(part.GetTo()) + " h"
	}
	return hours(part.GetFrom()) + " to " + hours(part.GetTo()) + " h"
}

// with is the address of the same page with some parameters of its query set, or with an empty
// value left out.
func with(query url.Values, pairs ...string) string {
	changed := url.Values{}
	for name, values := range query {
		changed[name] = values
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			changed.Del(pairs[i])
		} else {
			changed.Set(pairs[i], pairs[i+1])
		}
	}
	return "?" + changed.Encode()
}

// barWidths are the parts of a line's bar, in thousandths of the longest line.
type barWidths struct {
	Busy, Idle, BusyIdle, Background int64
	Label                            string
}

// Bar is a line's bar.
func (p *usePage) Bar(row useRow) barWidths {
	whole := p.Greatest.GetOpen()
	b := barWidths{Busy: width(row.Totals.GetBusy(), whole), Idle: width(row.Totals.GetIdle(), whole), Background: width(row.Totals.GetBackground(), whole)}
	b.BusyIdle = b.Busy + b.Idle
	b.Label = "busy " + p.locale.span(row.Totals.GetBusy()) + ", idle " + p.locale.span(row.Totals.GetIdle()) + ", in the background " + p.locale.span(row.Totals.GetBackground())
	return b
}
