package console

import (
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// forecastBack is how many days before today a forecast is made from, where nobody says.
const forecastBack = 179

// forecastPage is how many licences will be wanted.
type forecastPage struct {
	reportPage
	price
	Metrics, Terms        []choice
	GiveBack              string
	Answer                *meteringv1.ForecastDemandResponse
	Greatest              int64
	MeanError, NaiveError string
	ModelTitle            string
	Chart                 forecastChart
}

// forecastChart is what console.js draws: a day a place, of which the first have a peak and the
// rest a forecast.
type forecastChart struct {
	Days     []string `json:"days"`
	Peaks    []int64  `json:"peaks"`
	Expected []int64  `json:"expected"`
	Low      []int64  `json:"low"`
	High     []int64  `json:"high"`
}

// NoFile says that there is nothing to have as a file.
func (p forecastPage) NoFile() bool { return p.Answer == nil }

func (s *Service) forecast(v *visit) (any, error) {
	base, err := s.licenceReportOf(v, forecastBack)
	query := base.Query
	page := forecastPage{reportPage: base, GiveBack: query.Get("give-back"), price: price{Price: query.Get("price"), Currency: query.Get("currency")}}
	req := &meteringv1.ForecastDemandRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), Filter: filterOf(query), Reason: page.Reason,
	}
	page.Metrics, req.Metric = metricChoices(base.asked, query.Get("metric"))
	page.Terms, req.Days = termChoices(base.asked, query.Get("days"))
	if err != nil {
		return page, err
	}
	after, err := base.stretch("give-back", time.Minute)
	if err != nil {
		return page, err
	}
	if page.GiveBack != "" {
		req.GiveBackAfter = durationpb.New(after)
	}
	if page.price, req.PriceMinorUnits, err = priceOf(query, base.locale); err != nil {
		return page, err
	}
	req.CurrencyCode = page.code()
	page.Answer, err = s.reports.ForecastDemand(v.ctx, req)
	switch {
	case err == nil:
		page.fill()
	case tooShort(err):
		page.Answer = nil
	default:
		return page, err
	}
	return page, nil
}

// tooShort tells that there is not enough of the past to forecast from, as where an account is new.
func tooShort(err error) bool {
	for _, wrong := range violations(statusOf(err)) {
		if wrong.GetField() == "start_time" {
			return true
		}
	}
	return false
}

// defaultTerm is how many days it is looked ahead where the address does not say.
const defaultTerm = 90

// termChoices are how far it is looked ahead.
func termChoices(a *asked, chosen string) (all []choice, days int32) {
	days = defaultTerm
	n, err := strconv.ParseInt(chosen, 10, 32)
	switch {
	case err == nil && n >= 1 && n <= 400:
		days = int32(n)
	case chosen != "":
		a.instead("days", chosen, "90 days")
	}
	for _, term := range []struct {
		days  int32
		title string
	}{{30, "30 days"}, {defaultTerm, "90 days"}, {180, "180 days"}, {365, "a year"}} {
		all = append(all, choice{strconv.Itoa(int(term.days)), term.title, days == term.days})
	}
	if !slices.ContainsFunc(all, func(c choice) bool { return c.Chosen }) { // one that was saved elsewhere
		all = append(all, choice{strconv.Itoa(int(days)), strconv.Itoa(int(days)) + " days", true})
	}
	return all, days
}

func (p *forecastPage) fill() {
	a := p.Answer
	p.Since = a.GetDataSinceTime()
	c := &p.Chart
	for _, day := range a.GetHistory() {
		c.Days, c.Peaks = append(c.Days, day.GetDate()), append(c.Peaks, day.GetPeak())
		p.Greatest = max(p.Greatest, day.GetPeak())
	}
	for _, day := range a.GetDays() {
		c.Days = append(c.Days, day.GetDate())
		c.Expected, c.Low, c.High = append(c.Expected, day.GetPeak().GetExpected()), append(c.Low, day.GetPeak().GetLow()), append(c.High, day.GetPeak().GetHigh())
	}
	p.MeanError, p.NaiveError = p.reportPage.locale.decimal(a.GetLookBack().GetMeanError()), p.reportPage.locale.decimal(a.GetLookBack().GetNaiveMeanError())
	p.ModelTitle = map[meteringv1.ForecastModel]string{
		meteringv1.ForecastModel_FORECAST_MODEL_WEEK:           "the mean of each weekday",
		meteringv1.ForecastModel_FORECAST_MODEL_WEEK_AND_TREND: "the mean of each weekday, and a line through all days",
		meteringv1.ForecastModel_FORECAST_MODEL_LAST_WEEKS:     "the mean of each weekday in the last four weeks",
		meteringv1.ForecastModel_FORECAST_MODEL_HIGHEST:        "the mean of each weekday and, for the most at once, the most so far",
	}[a.GetModel()]
}
