package console

import (
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"golang.org/x/text/currency"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// dated is what the questions of reports about days have.
type dated interface {
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
}

// addressOf is the page that shows what a report is asked, and what it is called; "" where none does. It
// is the other way round of question.
func addressOf(question *meteringv1.ReportQuestion, zone *time.Location) (title, address string) {
	var path string
	query := url.Values{}
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	narrow := func(filter *meteringv1.UsageFilter, reason string) {
		for name, ids := range map[string][]string{
			"application": filter.GetApplicationIds(), "person": filter.GetPrincipalIds(), "machine": filter.GetMachineIds(), "group": filter.GetGroupIds(), "site": filter.GetManagerIds(),
		} {
			query[name] = ids
		}
		set(reasonParameter, reason)
	}
	about := func(days dated, filter *meteringv1.UsageFilter, reason string) {
		if days.GetStartTime() != nil && days.GetEndTime() != nil {
			set("from", days.GetStartTime().AsTime().In(zone).Format(day))
			set("to", days.GetEndTime().AsTime().Add(-time.Nanosecond).In(zone).Format(day))
		}
		narrow(filter, reason)
		set(compareParameter, comparisonOf(days, zone))
	}
	// licences are pages that choose an application by themselves where their address names none.
	licences := func(days dated, filter *meteringv1.UsageFilter, reason string) {
		about(days, filter, reason)
		if len(filter.GetApplicationIds()) == 0 {
			query.Set("application", "")
		}
	}
	whole := func(d *durationpb.Duration, unit time.Duration) string {
		if n := d.AsDuration() / unit; n > 0 {
			return strconv.FormatInt(int64(n), 10)
		}
		return ""
	}
	priced := func(minor int64, code string) {
		if code == "" {
			return // it is told with a price only
		}
		if unit, err := currency.ParseISO(code); err == nil {
			digits, _ := currency.Standard.Rounding(unit)
			set("price", minorText(minor, digits))
			set("currency", code)
		}
	}
	switch q := question.GetQuestion().(type) {
	case *meteringv1.ReportQuestion_Usage:
		title, path = "Use", "/use"
		about(q.Usage, q.Usage.GetFilter(), q.Usage.GetReason())
		set("by", groupingWord(q.Usage.GetGroupBy()...))
		if q.Usage.GetCounting() == meteringv1.Counting_COUNTING_PERSON_TIME {
			set("counting", "person")
		}
	case *meteringv1.ReportQuestion_Ranking:
		title, path = "Ranking", "/use"
		about(q.Ranking, q.Ranking.GetFilter(), q.Ranking.GetReason())
		set("view", "ranking")
		set("by", groupingWord(q.Ranking.GetGroupBy()))
		set("rank", map[meteringv1.RankBy]string{meteringv1.RankBy_RANK_BY_OPEN: "open", meteringv1.RankBy_RANK_BY_INSTANCES: "runs", meteringv1.RankBy_RANK_BY_PEOPLE: "people"}[q.Ranking.GetRankBy()])
	case *meteringv1.ReportQuestion_Distribution:
		title, path = "Distribution", "/use"
		about(q.Distribution, q.Distribution.GetFilter(), q.Distribution.GetReason())
		set("view", distributionView)
		set("by", groupingWord(q.Distribution.GetGroupBy()))
		if q.Distribution.GetOpen() {
			set("measure", "open")
		}
	case *meteringv1.ReportQuestion_Concurrency:
		title, path = "Concurrent use", "/concurrent"
		licences(q.Concurrency, q.Concurrency.GetFilter(), q.Concurrency.GetReason())
		set("metric", metricWord(q.Concurrency.GetMetric()))
		set("give-back", whole(q.Concurrency.GetGiveBackAfter(), time.Minute))
	case *meteringv1.ReportQuestion_Demand:
		title, path = "Demand", "/concurrent"
		licences(q.Demand, q.Demand.GetFilter(), q.Demand.GetReason())
		set("metric", metricWord(q.Demand.GetMetric()))
	case *meteringv1.ReportQuestion_LicencesNeeded:
		title, path = "Licences needed", "/licences"
		n := q.LicencesNeeded
		licences(n, n.GetFilter(), n.GetReason())
		set("metric", metricWord(n.GetMetric()))
		if n.GetRefusedPerMillion() > 0 {
			set("refused", strconv.Itoa(int(n.GetRefusedPerMillion())))
		}
		if n.Bought != nil {
			set("bought", strconv.FormatInt(n.GetBought(), 10))
		}
		priced(n.GetPriceMinorUnits(), n.GetCurrencyCode())
	case *meteringv1.ReportQuestion_Forecast:
		title, path = "Forecast", "/forecast"
		licences(q.Forecast, q.Forecast.GetFilter(), q.Forecast.GetReason())
		set("metric", metricWord(q.Forecast.GetMetric()))
		set("give-back", whole(q.Forecast.GetGiveBackAfter(), time.Minute))
		if q.Forecast.GetDays() > 0 {
			set("days", strconv.Itoa(int(q.Forecast.GetDays())))
		}
		priced(q.Forecast.GetPriceMinorUnits(), q.Forecast.GetCurrencyCode())
	case *meteringv1.ReportQuestion_AccountUse:
		title, path = "Use of the account", "/account-use"
		set("first", q.AccountUse.GetFirstMonth())
		set("last", q.AccountUse.GetLastMonth())
	case *meteringv1.ReportQuestion_Unused:
		title, path = "Unused", "/unused"
		about(q.Unused, q.Unused.GetFilter(), q.Unused.GetReason())
		set("by", map[meteringv1.UnusedBy]string{meteringv1.UnusedBy_UNUSED_BY_MACHINE: "machine", meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE: "both"}[q.Unused.GetBy()])
		set("not-for", whole(q.Unused.GetNotFor(), 24*time.Hour))
		set("less", whole(q.Unused.GetBusyLessThan(), time.Hour))
	case *meteringv1.ReportQuestion_Idle:
		title, path = "Idle", "/idle"
		about(q.Idle, q.Idle.GetFilter(), q.Idle.GetReason())
		set("at-least", whole(q.Idle.GetAtLeast(), time.Minute))
	case *meteringv1.ReportQuestion_Timeline:
		title, path = "Timeline", "/timeline"
		about(q.Timeline, q.Timeline.GetFilter(), q.Timeline.GetReason())
		set("rows", map[meteringv1.TimelineRowBy]string{
			meteringv1.TimelineRowBy_TIMELINE_ROW_BY_INSTANCE: "run", meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL: "person",
			meteringv1.TimelineRowBy_TIMELINE_ROW_BY_MACHINE: "machine", meteringv1.TimelineRowBy_TIMELINE_ROW_BY_APPLICATION: "application",
		}[q.Timeline.GetRowBy()])
	case *meteringv1.ReportQuestion_Sessions:
		title, path = "Sessions", "/sessions"
		about(q.Sessions, q.Sessions.GetFilter(), q.Sessions.GetReason())
		set("by", map[meteringv1.SessionGroupBy]string{
			meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL: "person", meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION: "application", meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE: "machine",
		}[q.Sessions.GetGroupBy()])
	case *meteringv1.ReportQuestion_Instances:
		title, path = "Runs", "/instances"
		about(q.Instances, q.Instances.GetFilter(), q.Instances.GetReason())
	case *meteringv1.ReportQuestion_DataQuality:
		title, path = "Data quality", "/quality"
		about(q.DataQuality, q.DataQuality.GetFilter(), q.DataQuality.GetReason())
	case *meteringv1.ReportQuestion_Live:
		title, path = "Now", "/now"
		narrow(q.Live.GetFilter(), q.Live.GetReason())
	case *meteringv1.ReportQuestion_Intervals:
		title, path = "One run", of("/instances", q.Intervals.GetInstanceId())
	case *meteringv1.ReportQuestion_SessionChanges:
		title, path = "One session", of("/sessions", q.SessionChanges.GetSessionId())
	default:
		return "A report of another version", ""
	}
	return title, (&url.URL{Path: path, RawQuery: query.Encode()}).String()
}

// comparisonOf is what a page calls the period that a report is compared with; "" where there is none.
func comparisonOf(days dated, zone *time.Location) string {
	named, ok := days.(interface{ GetCompareStartTime() *timestamppb.Timestamp })
	if !ok {
		return ""
	}
	if start := named.GetCompareStartTime(); start != nil {
		first := days.GetStartTime().AsTime().In(zone)
		if date := yearBefore(time.Date(first.Year(), first.Month(), first.Day(), 0, 0, 0, 0, time.UTC)); begins(date, zone).Equal(start.AsTime()) {
			return yearComparison
		}
		return "before"
	}
	if asked, ok := days.(interface{ GetCompare() bool }); ok && asked.GetCompare() {
		return "before"
	}
	return ""
}

// groupingWord is what a page calls how use is parted.
func groupingWord(by ...meteringv1.GroupBy) string {
	for _, g := range groupings() {
		if len(by) > 0 && g.by == by[0] {
			return g.Value
		}
	}
	return ""
}

// metricWord is what a page calls what one licence stands for.
func metricWord(metric meteringv1.Metric) string {
	all, _ := metricChoices(&asked{}, "")
	for _, c := range all {
		if _, of := metricChoices(&asked{}, c.Value); of == metric {
			return c.Value
		}
	}
	return ""
}

// minorText is an amount of minor units as money reads it.
func minorText(minor int64, digits int) string {
	text := strconv.FormatInt(minor, 10)
	for len(text) <= digits {
		text = "0" + text
	}
	if digits == 0 {
		return text
	}
	return text[:len(text)-digits] + "." + text[len(text)-digits:]
}
