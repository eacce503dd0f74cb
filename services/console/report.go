package console

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/text/currency"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// reportPage is what the forms of all reports have.
type reportPage struct {
	*asked
	Period   period
	Query    url.Values
	Programs []choice
	Reason   string
	// Quality is the query, with its question mark, of the data quality of the same period and
	// filters; empty where it is not offered.
	Quality string
	// Since is from when on the account keeps what is asked about; nil where that is all of it.
	Since *timestamppb.Timestamp
	// MostUsed is the application that the page chose by itself; "" where its address says.
	MostUsed string
	// Compared is what it is compared with.
	Compared comparison
	// locale is how whoever asks reads numbers.
	locale locale
	filterBar
}

// Link is the address of this page with another period.
func (p reportPage) Link(choice preset) string {
	return with(p.Query, "from", choice.From, "to", choice.To, "page", "")
}

// Sessions is the address of the instances behind a figure.
func (p reportPage) Sessions(application, person, machine string) string {
	query := url.Values{"from": {p.Period.From}, "to": {p.Period.To}}
	for _, name := range narrowings {
		if len(p.Query[name]) > 0 {
			query[name] = p.Query[name]
		}
	}
	for name, id := range map[string]string{"application": application, "person": person, "machine": machine} {
		if id != "" {
			query.Set(name, id)
		}
	}
	return "/instances?" + query.Encode()
}

// reportOf is what the form of a report has, also where what was entered is wrong.
func (s *Service) reportOf(v *visit, back int) (reportPage, error) {
	p, err := s.periodOf(v, back)
	return s.reportAbout(v, p, v.r.URL.Query(), err)
}

// mostUsedDays is how far back it is looked which application is used most.
const mostUsedDays = 30

// licenceReportOf is reportOf for pages that count licences. How many had anything at all open is no
// number of licences: where the address chooses nothing, the page is about the application that was busy the
// longest in the latest of its days, and says so. An address that means all of them has an empty application.
func (s *Service) licenceReportOf(v *visit, back int) (reportPage, error) {
	p, err := s.periodOf(v, back)
	query := v.r.URL.Query()
	if err = cmp.Or(err, wrongIDs(query)); err != nil || query.Has("application") || query.Has("person") || query.Has("machine") {
		return s.reportAbout(v, p, query, err)
	}
	answer, err := s.usage.SummarizeUsage(v.ctx, &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(latest(p.start, begins(p.last.AddDate(0, 0, 1-mostUsedDays), p.Zone))), EndTime: timestamppb.New(p.end),
		GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION}, Filter: filterOf(query), PageSize: maxPlaces, Reason: v.reason(),
	})
	if err != nil {
		return s.reportAbout(v, p, query, err)
	}
	groups := byBusy(answer.GetGroups())
	if len(groups) < 2 {
		return s.reportAbout(v, p, query, nil)
	}
	query.Set("application", groups[0].GetApplicationId())
	page, err := s.reportAbout(v, p, query, nil)
	page.MostUsed = cmp.Or(groups[0].GetApplicationName(), "(no name)")
	return page, err
}

// byBusy are groups, the busiest first.
func byBusy(groups []*meteringv1.UsageGroup) []*meteringv1.UsageGroup {
	sorted := slices.Clone(groups)
	slices.SortStableFunc(sorted, func(a, b *meteringv1.UsageGroup) int {
		return cmp.Or(cmp.Compare(b.GetTotals().GetBusy().AsDuration(), a.GetTotals().GetBusy().AsDuration()), cmp.Compare(b.GetTotals().GetOpen().AsDuration(), a.GetTotals().GetOpen().AsDuration()))
	})
	return sorted
}

// latest is the later of two moments.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TogetherAddress is this page about all applications together.
func (p reportPage) TogetherAddress() string {
	query := maps.Clone(p.Query)
	query.Set("application", "")
	return "?" + query.Encode()
}

// reportAbout is a report's form; wrong is what is known to be wrong with what was entered.
func (s *Service) reportAbout(v *visit, p period, query url.Values, wrong error) (page reportPage, err error) {
	if p.Zone == nil {
		return reportPage{asked: v.asks()}, wrong
	}
	var programs []choice
	if !v.overheard {
		if programs, err = s.programChoices(v, query.Get("application")); err != nil {
			return reportPage{asked: v.asks()}, err
		}
	}
	v.asks().unknown(v.page, v.r.URL.Query())
	compared := comparedWith(v.asks(), query.Get(compareParameter), p)
	bar, err := s.filterBar(v, query)
	page = reportPage{asked: v.asks(), Compared: compared, Period: p, Query: query, Programs: programs, Reason: v.reason(), locale: v.locale(), filterBar: bar}
	if seesAll(v.caller.Privileges) {
		asked := url.Values{}
		maps.Copy(asked, query)
		asked["from"], asked["to"] = []string{p.From}, []string{p.To}
		page.Quality = "?" + qualityQuery(asked)
	}
	return page, cmp.Or(wrong, wrongIDs(query), err)
}

// stretch reads a whole number of minutes, hours or days from the page's address; 0 where there
// is none.
func (p reportPage) stretch(name string, unit time.Duration) (time.Duration, error) {
	text := p.Query.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 100_000 {
		return 0, errs.InvalidFields("console.report", "", errs.Field{Path: name, Description: "write a whole number from 1 to 100000, or nothing"})
	}
	return time.Duration(n) * unit, nil
}

const (
	// sliderMinutes is how far sliders reach.
	sliderMinutes = 60
	// sliderBegins is where one stands where the address does not say.
	sliderBegins = 15
)

// slider is how many idle minutes a licence is kept for: what the page shows of each is with it.
type slider struct {
	Minutes int
	Points  []sliderPoint
}

// sliderPoint is what is shown for one number of minutes, as it is written.
type sliderPoint struct {
	Needed string `json:"needed"`
	Money  string `json:"money"`
	Usual  string `json:"usual"`
}

// Point is what is shown where it stands.
func (s slider) Point() (p sliderPoint) {
	if s.Minutes <= len(s.Points) {
		p = s.Points[s.Minutes-1]
	}
	return p
}

// titledSlider is one with what it is said to show.
type titledSlider struct {
	slider
	Title string
	Most  int
}

// Titled is for templates.
func (s slider) Titled(title string) titledSlider { return titledSlider{s, title, sliderMinutes} }

// sliderOf puts a slider where the address says, and asks for its minutes.
func sliderOf(query url.Values) (slider, []*durationpb.Duration, error) {
	s := slider{Minutes: sliderBegins}
	if text := query.Get("minutes"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > sliderMinutes {
			return s, nil, errs.InvalidFields("console.report", "", errs.Field{Path: "minutes", Description: fmt.Sprintf("choose from 1 to %d", sliderMinutes)})
		}
		s.Minutes = n
	}
	var asked []*durationpb.Duration
	for minute := 1; minute <= sliderMinutes; minute++ {
		asked = append(asked, durationpb.New(time.Duration(minute)*time.Minute))
	}
	return s, asked, nil
}

// inTable tells which of its minutes the table shows.
func inTable(minutes int) bool {
	return minutes == 5 || minutes%15 == 0 && minutes != 45 || minutes == 10
}

// licencesPage is how many licences would do.
type licencesPage struct {
	reportPage
	price
	Metrics []choice
	Shares  []choice
	Bought  string
	Answer  *meteringv1.QueryLicencesNeededResponse
	Lines   []licenceLine
	Slider  slider
}

// licenceLine is one policy.
type licenceLine struct {
	Title  string
	Policy *meteringv1.LicencePolicy
	Change *change
}

func metricChoices(a *asked, chosen string) (all []choice, metric meteringv1.Metric) {
	metric = meteringv1.Metric_METRIC_USER
	for _, m := range []struct {
		value, title string
		metric       meteringv1.Metric
	}{
		{"", "a person", meteringv1.Metric_METRIC_USER},
		{"machine", "a machine", meteringv1.Metric_METRIC_MACHINE},
		{"user-machine", "a person at a machine", meteringv1.Metric_METRIC_USER_AND_MACHINE},
		{"session", "a desktop session", meteringv1.Metric_METRIC_SESSION},
		{"instance", "each run of it", meteringv1.Metric_METRIC_INSTANCE},
	} {
		all = append(all, choice{m.value, m.title, chosen == m.value})
		if chosen == m.value {
			metric = m.metric
		}
	}
	return settle(a, "metric", chosen, all), metric
}

func (s *Service) licences(v *visit) (any, error) {
	base, err := s.licenceReportOf(v, 29)
	page := licencesPage{reportPage: base, Bought: base.Query.Get("bought"), price: price{Price: base.Query.Get("price"), Currency: base.Query.Get("currency")}}
	req := &meteringv1.QueryLicencesNeededRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), Filter: filterOf(base.Query), Reason: base.Reason,
	}
	page.Metrics, req.Metric = metricChoices(base.asked, base.Query.Get("metric"))
	for _, share := range []struct {
		value, title string
		perMillion   int32
	}{{"", "nobody", 0}, {"1000", "0.1 % of the wanted time", 1000}, {"10000", "1 % of the wanted time", 10_000}, {"50000", "5 % of the wanted time", 50_000}} {
		chosen := base.Query.Get("refused") == share.value
		page.Shares = append(page.Shares, choice{share.value, share.title, chosen})
		if chosen {
			req.RefusedPerMillion = share.perMillion
		}
	}
	if err != nil {
		return page, err
	}
	if !slices.ContainsFunc(page.Shares, func(c choice) bool { return c.Chosen }) { // one that was saved elsewhere
		n, err := strconv.ParseInt(base.Query.Get("refused"), 10, 32)
		if err != nil || n < 0 || n > 1_000_000 {
			return page, errs.InvalidFields("console.licences", "", errs.Field{Path: "refused", Description: "choose one of the shares, or write millionths of the wanted time into the address: 0 to 1000000"})
		}
		req.RefusedPerMillion = int32(n)
		page.Shares = append(page.Shares, choice{base.Query.Get("refused"), strconv.FormatInt(n, 10) + " millionths of the wanted time", true})
	}
	if page.Slider, req.GiveBackAfter, err = sliderOf(base.Query); err != nil {
		return page, err
	}
	if page.Bought != "" {
		n, err := strconv.ParseInt(page.Bought, 10, 64)
		if err != nil || n < 0 {
			return page, errs.InvalidFields("console.licences", "", errs.Field{Path: "bought", Description: "write a number of licences, 0 or more"})
		}
		req.Bought = proto.Int64(n)
	}
	if page.price, req.PriceMinorUnits, err = priceOf(base.Query, base.locale); err != nil {
		return page, err
	}
	req.CurrencyCode = page.code()
	req.CompareStartTime, req.CompareEndTime = base.Compared.stamps()
	if page.Answer, err = s.reports.QueryLicencesNeeded(v.ctx, req); err != nil {
		return page, err
	}
	page.Since = page.Answer.GetDataSinceTime()
	before := page.Answer.GetCompare()
	page.Lines = append(page.Lines, licenceLine{"kept until the program is closed", page.Answer.GetKept(), page.Change(page.Answer.GetKept().GetNeeded(), before.GetKept().GetNeeded())})
	for i, policy := range page.Answer.GetGivenBack() {
		minutes := int(policy.GetGiveBackAfter().AsDuration() / time.Minute)
		if inTable(minutes) {
			var was int64
			if i < len(before.GetGivenBack()) {
				was = before.GetGivenBack()[i].GetNeeded()
			}
			page.Lines = append(page.Lines, licenceLine{fmt.Sprintf("given back after %d idle minutes", minutes), policy, page.Change(policy.GetNeeded(), was)})
		}
		point := sliderPoint{Needed: base.locale.count(policy.GetNeeded())}
		if policy.CostMinorUnits != nil {
			point.Money = page.Money(policy.GetCostMinorUnits()) + ", saves " + page.Money(policy.GetSavingMinorUnits())
		}
		page.Slider.Points = append(page.Slider.Points, point)
	}
	return page, nil
}

// price is what one licence costs, as it was written; empty where nobody says.
type price struct {
	Price, Currency string
	digits          int
	locale          locale
}

// priceOf reads it, with its minor units for the API; nil where there is none.
func priceOf(query url.Values, l locale) (p price, minorUnits *int64, err error) {
	p.Price, p.Currency, p.locale = query.Get("price"), query.Get("currency"), l
	if p.Price == "" {
		return p, nil, nil
	}
	minor, digits, err := money(p.Price, p.Currency)
	p.digits = digits
	return p, proto.Int64(minor), err
}

// code is the currency that the API is told, which is none without a price.
func (p price) code() string {
	if p.Price == "" {
		return ""
	}
	return p.Currency
}

// Money writes an amount in the page's currency.
func (p price) Money(minor int64) string { return amount(minor, p.digits, p.Currency, p.locale) }

// amount writes an amount of minor units, of which a currency's digits stand after the point.
func amount(minor int64, digits int, code string, l locale) string {
	sign := ""
	if minor < 0 {
		sign, minor = "−", -minor
	}
	unit := int64(math.Pow10(digits))
	text := sign + l.count(minor/unit)
	if digits > 0 {
		text += fmt.Sprintf("%s%0*d", l.point, digits, minor%unit)
	}
	return text + " " + code
}

// money reads an amount as people write it, in the minor units of its currency.
func money(amount, code string) (minor int64, digits int, err error) {
	unit, err := currency.ParseISO(code)
	if err != nil {
		return 0, 0, errs.InvalidFields("console.money", "", errs.Field{Path: "currency", Description: "write three letters, such as EUR"})
	}
	digits, _ = currency.Standard.Rounding(unit)
	wrong := errs.InvalidFields("console.money", "", errs.Field{Path: "price", Description: fmt.Sprintf("write an amount of %s in digits, with at most %d after the point", code, digits)})
	whole, part, _ := cutDecimal(amount)
	if len(part) > digits {
		return 0, 0, wrong
	}
	for len(part) < digits {
		part += "0"
	}
	minor, err = strconv.ParseInt(whole+part, 10, 64)
	if err != nil || minor < 0 {
		return 0, 0, wrong
	}
	return minor, digits, nil
}

// cutDecimal parts an amount at its decimal point or comma.
func cutDecimal(amount string) (whole, part string, found bool) {
	for i, r := range amount {
		if r == '.' || r == ',' {
			return amount[:i], amount[i+1:], true
		}
	}
	return amount, "", false
}

// unusedPage is who has what without using it.
type unusedPage struct {
	reportPage
	Bys []choice
	// People and Machines say of which a line is.
	People, Machines bool
	NotFor, Less     string
	Answer           *meteringv1.ListUnusedResponse
	NextPage         string
}

func (s *Service) unused(v *visit) (any, error) {
	base, err := s.reportOf(v, 89)
	page := unusedPage{reportPage: base, NotFor: base.Query.Get("not-for"), Less: base.Query.Get("less")}
	req := &meteringv1.ListUnusedRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), Filter: filterOf(base.Query),
		PageSize: listPageSize, PageToken: base.Query.Get("page"), Reason: base.Reason, By: meteringv1.UnusedBy_UNUSED_BY_PERSON,
	}
	for _, by := range []struct {
		value, title string
		by           meteringv1.UnusedBy
	}{
		{"", "person", meteringv1.UnusedBy_UNUSED_BY_PERSON},
		{"machine", "machine", meteringv1.UnusedBy_UNUSED_BY_MACHINE},
		{"both", "person and machine", meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE},
	} {
		chosen := base.Query.Get("by") == by.value
		page.Bys = append(page.Bys, choice{by.value, by.title, chosen})
		if chosen {
			req.By = by.by
		}
	}
	page.Bys = settle(base.asked, "by", base.Query.Get("by"), page.Bys)
	page.People, page.Machines = req.GetBy() != meteringv1.UnusedBy_UNUSED_BY_MACHINE, req.GetBy() != meteringv1.UnusedBy_UNUSED_BY_PERSON
	if err != nil {
		return page, err
	}
	notFor, err := base.stretch("not-for", 24*time.Hour)
	if err != nil {
		return page, err
	}
	less, err := base.stretch("less", time.Hour)
	if err != nil {
		return page, err
	}
	if notFor > 0 {
		req.NotFor = durationpb.New(notFor)
	}
	if less > 0 {
		req.BusyLessThan = durationpb.New(less)
	}
	req.CompareStartTime, req.CompareEndTime = base.Compared.stamps()
	if page.Answer, err = s.reports.ListUnused(v.ctx, req); err != nil {
		return page, err
	}
	page.Since = page.Answer.GetDataSinceTime()
	if next := page.Answer.GetNextPageToken(); next != "" {
		page.NextPage = with(base.Query, "page", next)
	}
	return page, nil
}

// idlePage is where open hours go that nobody uses.
type idlePage struct {
	reportPage
	AtLeast string
	Answer  *meteringv1.QueryIdleResponse
	Week    []heatDay
	before  map[string]*meteringv1.IdleTime
}

// Before is what an application had in the period that is compared with.
func (p idlePage) Before(application string) *meteringv1.IdleTime { return p.before[application] }

// heatDay is one weekday of a heat map.
type heatDay struct {
	Name  string
	Hours []heatHour
}

// heatHour is one hour of it; Level is from 0 to 9.
type heatHour struct {
	Level int
	Text  string
}

// longestShown is how many of the longest stretches are listed.
const longestShown = 20

func (s *Service) idle(v *visit) (any, error) {
	base, err := s.reportOf(v, 6)
	page := idlePage{reportPage: base, AtLeast: base.Query.Get("at-least")}
	if err != nil {
		return page, err
	}
	req := &meteringv1.QueryIdleRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), Filter: filterOf(base.Query),
		Longest: longestShown, Reason: base.Reason,
	}
	atLeast, err := base.stretch("at-least", time.Minute)
	if err != nil {
		return page, err
	}
	if atLeast > 0 {
		req.AtLeast = durationpb.New(atLeast)
	}
	req.CompareStartTime, req.CompareEndTime = base.Compared.stamps()
	if page.Answer, err = s.reports.QueryIdle(v.ctx, req); err != nil {
		return page, err
	}
	page.Since = page.Answer.GetDataSinceTime()
	page.before = map[string]*meteringv1.IdleTime{}
	for _, g := range page.Answer.GetCompare().GetApplications() {
		page.before[g.GetApplicationId()] = g.GetTime()
	}
	page.Week = heatOf(page.Answer.GetHeatMap(), base.locale)
	return page, nil
}

// heatOf lays hours out as a week, from Monday on.
func heatOf(hours []*meteringv1.IdleHour, l locale) []heatDay {
	var week [7][24]time.Duration
	var most time.Duration
	for _, h := range hours {
		if d, at := h.GetWeekday(), h.GetHour(); d >= 1 && d <= 7 && at >= 0 && at < 24 {
			week[d-1][at] = h.GetIdle().AsDuration()
			most = max(most, week[d-1][at])
		}
	}
	return heatDays(func(d, hour int) heatHour {
		length := week[d][hour]
		if length == 0 {
			return heatHour{Text: l.span(nil)}
		}
		return heatHour{Level: 1 + int(8*length/most), Text: l.span(durationpb.New(length))}
	})
}

// heatDays are the days of a week, from Monday on.
func heatDays(hour func(day, hour int) heatHour) []heatDay {
	days := make([]heatDay, 0, 7)
	for d := range 7 {
		day := heatDay{Name: time.Weekday((d + 1) % 7).String()[:3]}
		for h := range 24 {
			day.Hours = append(day.Hours, hour(d, h))
		}
		days = append(days, day)
	}
	return days
}

// Hours are the head of a heat map.
func (reportPage) Hours() (all []int) {
	for h := range 24 {
		all = append(all, h)
	}
	return all
}
