package console

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// chartPoints is about how many points a chart of a screen's width can show.
const chartPoints = 1440

// concurrentPage is how many had it open at once.
type concurrentPage struct {
	reportPage
	Metrics  []choice
	GiveBack string
	Answer   *meteringv1.QueryConcurrencyResponse
	// Week is how many had it open at most, and Holders who had when most did.
	Week    []heatDay
	Holders []*meteringv1.DemandHolder
	Chart   chart
	// Peaks are what the chart shows, for who cannot see it.
	Peaks []peakLine
	// Slider tells the same of other minutes at once.
	Slider slider
}

// peakLine is how many had it open at most within an hour, a day, a week or a month.
type peakLine struct {
	Name, Day, Month                   string
	Open, NotTimedOut, Busy, GivenBack int64
}

// peaksOf are those of a chart's points.
func peaksOf(p period, points []*meteringv1.ConcurrencyPoint, now time.Time) (lines []peakLine) {
	by, _ := trendStep(p)
	begins := p.begins(by, now)
	for i, begin := range begins {
		line := peakLine{}
		line.Name, line.Day, line.Month, _ = timeName(begin.In(p.Zone), by)
		for len(points) > 0 && (i+1 == len(begins) || points[0].GetStartTime().AsTime().Before(begins[i+1])) {
			line.Open, line.NotTimedOut = max(line.Open, points[0].GetOpen()), max(line.NotTimedOut, points[0].GetPeakNotTimedOut())
			line.Busy, line.GivenBack = max(line.Busy, points[0].GetPeakActive()), max(line.GivenBack, points[0].GetPeakGivenBack())
			points = points[1:]
		}
		lines = append(lines, line)
	}
	return lines
}

// choice is one of a list to choose from.
type choice struct {
	Value, Title string
	Chosen       bool
}

// chart is what console.js draws: columns of the same length.
type chart struct {
	// Times are in milliseconds since 1970.
	Times     []int64 `json:"times"`
	Active    []int64 `json:"active"`
	Inactive  []int64 `json:"inactive"`
	TimedOut  []int64 `json:"timedOut"`
	GivenBack []int64 `json:"givenBack,omitempty"`
}

func (s *Service) concurrent(v *visit) (any, error) {
	base, err := s.licenceReportOf(v, 6)
	p, query := base.Period, base.Query
	page := concurrentPage{reportPage: base, GiveBack: query.Get("give-back")}
	var metric meteringv1.Metric
	page.Metrics, metric = metricChoices(base.asked, query.Get("metric"))
	if err != nil {
		return page, err
	}
	step := p.end.Sub(p.start) / chartPoints
	step = max(time.Minute, step.Round(time.Minute))
	req := &meteringv1.QueryConcurrencyRequest{
		StartTime: timestamppb.New(p.start), EndTime: timestamppb.New(p.end), Filter: filterOf(query),
		Step: durationpb.New(step), Reason: page.Reason, Metric: metric,
	}
	after, err := base.stretch("give-back", time.Minute)
	if err != nil {
		return page, err
	}
	if page.GiveBack = ""; after > 0 {
		page.GiveBack, req.GiveBackAfter = query.Get("give-back"), durationpb.New(after)
	}
	req.CompareStartTime, req.CompareEndTime = base.Compared.stamps()
	if page.Answer, err = s.usage.QueryConcurrency(v.ctx, req); err != nil {
		return page, err
	}
	page.Since = page.Answer.GetDataSinceTime()
	demand, err := s.reports.QueryDemand(v.ctx, &meteringv1.QueryDemandRequest{
		StartTime: req.GetStartTime(), EndTime: req.GetEndTime(), Filter: req.GetFilter(), Metric: req.GetMetric(), HeatMap: true, Holders: query.Get("holders") == "on", Reason: page.Reason,
	})
	if err != nil {
		return page, err
	}
	var minutes []*durationpb.Duration
	if page.Slider, minutes, err = sliderOf(query); err != nil {
		return page, err
	}
	given, err := s.reports.QueryDemand(v.ctx, &meteringv1.QueryDemandRequest{
		StartTime: req.GetStartTime(), EndTime: req.GetEndTime(), Filter: req.GetFilter(), Metric: req.GetMetric(), GiveBackAfter: minutes, AsOfPosition: demand.GetPosition(), Reason: page.Reason,
	})
	if err != nil {
		return page, err
	}
	for _, back := range given.GetGivenBack() {
		d := back.GetCurve().GetDemand()
		page.Slider.Points = append(page.Slider.Points, sliderPoint{
			Needed: base.locale.count(d.GetPeak()),
			Usual:  "at most " + base.locale.count(d.GetP99()) + " in 99 % of the time, " + base.locale.count(d.GetP95()) + " in 95 %",
		})
	}
	page.Week, page.Holders = heatOfDemand(demand.GetOpen().GetHeatMap(), base.locale), demand.GetOpen().GetHolders()
	page.Peaks = peaksOf(p, page.Answer.GetPoints(), s.deps.Now())
	for _, point := range page.Answer.GetPoints() {
		c := &page.Chart
		c.Times = append(c.Times, point.GetStartTime().AsTime().UnixMilli())
		c.Active = append(c.Active, point.GetActive())
		c.Inactive = append(c.Inactive, point.GetInactive())
		c.TimedOut = append(c.TimedOut, point.GetTimedOut())
		if req.GetGiveBackAfter() != nil {
			c.GivenBack = append(c.GivenBack, point.GetGivenBack())
		}
	}
	return page, nil
}

// heatOfDemand lays the greatest number at once of each hour out as a week.
func heatOfDemand(hours []*meteringv1.DemandHour, l locale) []heatDay {
	var week [7][24]int64
	var most int64
	for _, h := range hours {
		if d, at := h.GetWeekday(), h.GetHour(); d >= 1 && d <= 7 && at >= 0 && at < 24 {
			week[d-1][at] = h.GetPeak()
			most = max(most, h.GetPeak())
		}
	}
	return heatDays(func(d, hour int) heatHour {
		n := week[d][hour]
		if n == 0 {
			return heatHour{Text: "nobody"}
		}
		return heatHour{Level: 1 + int(8*n/most), Text: l.count(n)}
	})
}

// ShowHolders is the address of this page that also says who had it open when most did.
func (p concurrentPage) ShowHolders() string { return with(p.Query, "holders", "on") }

// programChoices are the applications to choose one from.
func (s *Service) programChoices(v *visit, chosen string) ([]choice, error) {
	all := []choice{{Title: "All applications", Chosen: chosen == ""}}
	answer, err := s.programs.ListApplications(v.ctx, &meteringv1.ListApplicationsRequest{PageSize: 1000})
	if err != nil {
		return nil, err
	}
	for _, a := range answer.GetApplications() {
		all = append(all, choice{a.GetApplicationId(), a.GetDisplayName(), a.GetApplicationId() == chosen})
	}
	return all, nil
}

// demandCard is one figure of the page.
type demandCard struct {
	Title  string
	Demand *meteringv1.Demand
	Zone   *time.Location
	Change *change
}

// Demand is for templates.
func (p concurrentPage) Demand(title string, demand, before *meteringv1.Demand) demandCard {
	return demandCard{title, demand, p.Period.Zone, p.Change(demand.GetPeak(), before.GetPeak())}
}
