package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func (s *session) reportCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "report", Aliases: []string{"reports"}, Short: "Ask a report, as a table or as a file (CSV, JSON, XLSX)",
		Long: `Asks one of the platform's reports. A table is for people; -o csv, json and xlsx are the platform's own
files, with the same figures, whole or not at all. docs/reports.md tells what each figure means.

Periods are days of the account's zone: --period last-month, 7d, 2026-03, 2026-Q1, or --from and --to.
What it is about is narrowed by names: --application, --person, --machine, --group, --site.`,
		Example: `  cetrusctl report use --period last-month --by application
  cetrusctl report unused --application AutoCAD --not-for 90d -o xlsx -f unused.xlsx
  cetrusctl report licences --application AutoCAD --period 12m --bought 40 --price 1890 --currency EUR`,
	}
	for _, p := range allReports() {
		c.AddCommand(p.command(s))
	}
	c.AddCommand(s.savedReportCommand())
	return c
}

// allReports are those that the API answers.
func allReports() []report {
	return []report{
		nowReport, useReport(), concurrentReport(), demandReport(), licencesReport(), forecastReport(), rankingReport(), unusedReport(), idleReport(),
		timelineReport(), sessionsReport(), sessionReport, distributionReport(), qualityReport, accountUseReport(), instancesReport(), intervalsReport(),
	}
}

var nowReport = report{
	name: "now", short: "Who has what open at the moment, and in which state", filters: true,
	long: "It is one look; cetrusctl live follows it.",
	ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
		return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Live{Live: &meteringv1.StreamLiveUsageRequest{Filter: r.filter, Reason: r.reason}}}, nil
	},
	show: func(r *asked, q *meteringv1.ReportQuestion) error {
		stream, err := r.a.usage.StreamLiveUsage(r.ctx, q.GetLive())
		if err != nil {
			return err
		}
		now, err := stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		v := newLiveView()
		v.take(now)
		return rows(r, liveColumns(r.s.Now), first(v.rows(), r.limit))
	},
}

// groupings are what use can be grouped by.
var groupings = []struct {
	word string
	by   meteringv1.GroupBy
}{
	{"application", meteringv1.GroupBy_GROUP_BY_APPLICATION},
	{"person", meteringv1.GroupBy_GROUP_BY_PRINCIPAL},
	{"machine", meteringv1.GroupBy_GROUP_BY_MACHINE},
	{"group", meteringv1.GroupBy_GROUP_BY_GROUP},
	{"site", meteringv1.GroupBy_GROUP_BY_SITE},
	{"document", meteringv1.GroupBy_GROUP_BY_DOCUMENT},
	{"hour", meteringv1.GroupBy_GROUP_BY_HOUR},
	{"day", meteringv1.GroupBy_GROUP_BY_DAY},
	{"week", meteringv1.GroupBy_GROUP_BY_WEEK},
	{"month", meteringv1.GroupBy_GROUP_BY_MONTH},
}

// groupWords are these as words, all or some.
func groupWords(only ...meteringv1.GroupBy) []string {
	var words []string
	for _, g := range groupings {
		if len(only) == 0 {
			words = append(words, g.word)
		}
		for _, by := range only {
			if g.by == by {
				words = append(words, g.word)
			}
		}
	}
	return words
}

// groupBy reads such a word.
func groupBy(word string, only ...meteringv1.GroupBy) (meteringv1.GroupBy, error) {
	for _, g := range groupings {
		if g.word != word {
			continue
		}
		for _, by := range only {
			if by == g.by {
				return g.by, nil
			}
		}
		if len(only) == 0 {
			return g.by, nil
		}
	}
	return 0, usagef("--by: %q is none of %s", word, strings.Join(groupWords(only...), ", "))
}

// named is what several answers call their rows by.
type named interface {
	GetApplicationName() string
	GetPrincipalName() string
	GetPrincipalId() string
	GetMachineName() string
}

// nobody stands for somebody whose name is not known or not told.
func nobody(name, id string) string {
	if name == "" && id != "" {
		const short = 8
		return "(" + id[:min(short, len(id))] + ")"
	}
	return name
}

func applicationColumn[T named]() column[T] {
	return flex("APPLICATION", func(v T) any { return v.GetApplicationName() })
}

func personColumn[T named]() column[T] {
	return flex("PERSON", func(v T) any { return nobody(v.GetPrincipalName(), v.GetPrincipalId()) })
}

func machineColumn[T named]() column[T] {
	return flex("MACHINE", func(v T) any { return v.GetMachineName() })
}

// totalsColumns are those of time by attention.
func totalsColumns[T any](of func(T) *meteringv1.UsageTotals) []column[T] {
	return []column[T]{
		col("BUSY", func(v T) any { return of(v).GetBusy() }),
		col("OPEN", func(v T) any { return of(v).GetOpen() }),
		col("BUSY %", func(v T) any { return share(of(v).GetBusy(), of(v).GetOpen()) }),
		wide("IDLE", func(v T) any { return of(v).GetIdle() }),
		wide("BACKGROUND", func(v T) any { return of(v).GetBackground() }),
		wide("AWAY", func(v T) any { return of(v).GetAway() }),
		wide("UNKNOWN", func(v T) any { return of(v).GetUnknown() }),
		wide("INSTANCES", func(v T) any { return of(v).GetInstances() }),
	}
}

func useReport() report {
	var by []string
	var persons bool
	return report{
		name: "use", short: "Time by attention, by application, person, machine, site, document, day …", preset: "7d", filters: true, compares: true,
		example: "  cetrusctl report use --period last-month --by application,person\n  cetrusctl report use --by week --period 12m -o csv -f use.csv\n  cetrusctl report use --compare --by application",
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringSliceVar(&by, "by", []string{"application"}, "up to three of "+strings.Join(groupWords(), ", "))
			c.Flags().BoolVar(&persons, "person-time", false, "add up people's time, not that of instances: two screens do not make two people")
			must(c.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(groupWords(), cobra.ShellCompDirectiveNoFileComp)))
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			in := &meteringv1.SummarizeUsageRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}
			for _, word := range by {
				g, err := groupBy(word)
				if err != nil {
					return nil, err
				}
				in.GroupBy = append(in.GroupBy, g)
			}
			if persons {
				in.Counting = meteringv1.Counting_COUNTING_PERSON_TIME
			}
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Usage{Usage: in}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			type row = *meteringv1.UsageGroup
			var columns []column[row]
			for _, g := range q.GetUsage().GetGroupBy() {
				switch g {
				case meteringv1.GroupBy_GROUP_BY_APPLICATION:
					columns = append(columns, applicationColumn[row]())
				case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
					columns = append(columns, personColumn[row]())
				case meteringv1.GroupBy_GROUP_BY_MACHINE:
					columns = append(columns, machineColumn[row]())
				case meteringv1.GroupBy_GROUP_BY_GROUP:
					columns = append(columns, flex("GROUP", func(v row) any { return cmp.Or(v.GetGroupName(), v.GetGroupId(), "(none)") }))
				case meteringv1.GroupBy_GROUP_BY_SITE:
					columns = append(columns, flex("SITE", func(v row) any { return cmp.Or(v.GetManagerName(), v.GetManagerId(), "(none)") }))
				case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
					columns = append(columns, flex("DOCUMENT", func(v row) any { return nobody(v.GetDocumentName(), v.GetDocumentId()) }))
				case meteringv1.GroupBy_GROUP_BY_HOUR:
					columns = append(columns, col("FROM", func(v row) any { return v.GetStartTime() }))
				default:
					columns = append(columns, col("FROM", func(v row) any { return v.GetStartTime().AsTime().In(r.s.zone(r.ctx)).Format("2006-01-02") }))
				}
			}
			columns = append(columns, totalsColumns(row.GetTotals)...)
			if r.compared {
				columns = append(columns, col("BUSY BEFORE", func(v row) any { return v.GetCompareTotals().GetBusy() }),
					col("CHANGE", func(v row) any { return change(v.GetTotals().GetBusy(), v.GetCompareTotals().GetBusy()) }))
			}
			w, err := begin(r, columns)
			if err != nil {
				return err
			}
			var last *meteringv1.SummarizeUsageResponse
			if err := pages(r.question, func(size int32, token string) ([]row, string, error) {
				in := q.GetUsage()
				in.PageSize, in.PageToken = size, token
				answer, err := r.a.usage.SummarizeUsage(r.ctx, in)
				last = answer
				return answer.GetGroups(), answer.GetNextPageToken(), err
			}, w.write); err != nil {
				return err
			}
			if err := w.close(); err != nil {
				return err
			}
			r.since(last.GetDataSinceTime())
			return r.sum(last.GetTotals(), last.GetCompare().GetTotals())
		},
	}
}

// sum writes the line below a table of use.
func (r *asked) sum(totals, before *meteringv1.UsageTotals) error {
	text := fmt.Sprintf("\nIn all %s busy of %s open", clock(totals.GetBusy().AsDuration()), clock(totals.GetOpen().AsDuration()))
	if before != nil {
		text += fmt.Sprintf("\nBefore %s busy of %s open", clock(before.GetBusy().AsDuration()), clock(before.GetOpen().AsDuration()))
	}
	_, err := fmt.Fprintln(r.out, text)
	return err
}

// metricFlag says what one licence stands for.
func metricFlag(c *cobra.Command, into *string) {
	wordFlag(c, c.Flags(), into, "metric", "what one licence stands for, user where none is given", enumWords[meteringv1.Metric]())
}

// curve is one line of a table of demand.
type curve struct {
	name   string
	demand *meteringv1.Demand
	total  *durationpb.Duration
	before *meteringv1.Demand
}

// curveColumns are those of demand.
func curveColumns(compared bool) []column[curve] {
	columns := []column[curve]{
		col("LICENCES", func(c curve) any { return c.name }),
		col("PEAK", func(c curve) any { return c.demand.GetPeak() }),
		col("FIRST AT", func(c curve) any { return c.demand.GetPeakTime() }),
		col("P99", func(c curve) any { return c.demand.GetP99() }),
		col("P95", func(c curve) any { return c.demand.GetP95() }),
	}
	if compared {
		columns = append(columns, col("PEAK BEFORE", func(c curve) any {
			if c.before == nil {
				return ""
			}
			return c.before.GetPeak()
		}))
	}
	return append(columns, wide("LICENCE TIME", func(c curve) any { return c.total }))
}

func concurrentReport() report {
	var metric, back, step string
	return report{
		name: "concurrent", short: "How many had it open, busy or timed out at once, step by step", preset: "today", filters: true, compares: true,
		example: "  cetrusctl report concurrent --application FreeCAD --step 15m\n  cetrusctl report concurrent --period 7d --step 1m -o csv -f concurrent.csv",
		flags: func(_ *session, c *cobra.Command) {
			metricFlag(c, &metric)
			c.Flags().StringVar(&back, "give-back", "", "also if licences were given back after so long not busy, as 30m")
			c.Flags().StringVar(&step, "step", "1h", "width of a line of the table")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			in := &meteringv1.QueryConcurrencyRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}
			var err error
			if in.Metric, err = enumOf[meteringv1.Metric]("metric", metric); err != nil {
				return nil, err
			}
			if in.GiveBackAfter, err = duration("give-back", back); err != nil {
				return nil, err
			}
			if in.Step, err = duration("step", step); err != nil {
				return nil, err
			}
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Concurrency{Concurrency: in}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.usage.QueryConcurrency(r.ctx, q.GetConcurrency())
			if err != nil {
				return err
			}
			before := answer.GetCompare()
			curves := []curve{
				{"open", answer.GetOpen(), nil, before.GetOpen()},
				{"not timed out", answer.GetNotTimedOut(), nil, before.GetNotTimedOut()},
				{"busy", answer.GetBusy(), nil, before.GetBusy()},
			}
			after := q.GetConcurrency().GetGiveBackAfter()
			if after != nil {
				curves = append(curves, curve{"given back after " + clock(after.AsDuration()), answer.GetGivenBack(), nil, before.GetGivenBack()})
			}
			if err := rows(r, curveColumns(r.compared), curves); err != nil {
				return err
			}
			type row = *meteringv1.ConcurrencyPoint
			columns := []column[row]{
				col("FROM", func(p row) any { return p.GetStartTime() }),
				col("OPEN", func(p row) any { return p.GetOpen() }),
				col("ACTIVE", func(p row) any { return p.GetActive() }),
				col("INACTIVE", func(p row) any { return p.GetInactive() }),
				col("TIMED OUT", func(p row) any { return p.GetTimedOut() }),
			}
			if after != nil {
				columns = append(columns, col("GIVEN BACK", func(p row) any { return p.GetPeakGivenBack() }))
			}
			columns = append(columns, wide("PEAK ACTIVE", func(p row) any { return p.GetPeakActive() }))
			r.since(answer.GetDataSinceTime())
			points := answer.GetPoints()
			for len(points) > 0 && points[len(points)-1].GetStartTime().AsTime().After(r.s.Now()) {
				points = points[:len(points)-1] // what is to come is no use yet
			}
			return rows(r, columns, first(points, r.limit))
		},
	}
}

// first are so many of a list; 0: all.
func first[T any](all []T, limit int32) []T {
	if limit > 0 && int(limit) < len(all) {
		return all[:limit]
	}
	return all
}

func demandReport() report {
	var metric string
	var back []string
	var heat, holders bool
	return report{
		name: "demand", short: "How many licences were wanted at once: open, busy, or given back after N minutes", preset: "30d", filters: true, compares: true,
		example: "  cetrusctl report demand --application AutoCAD --give-back 15m --give-back 1h\n  cetrusctl report demand --application AutoCAD --heat-map --holders",
		flags: func(_ *session, c *cobra.Command) {
			metricFlag(c, &metric)
			c.Flags().StringArrayVar(&back, "give-back", nil, "also if licences were given back after so long not busy, as 30m; may be repeated")
			c.Flags().BoolVar(&heat, "heat-map", false, "also the peak in each hour of the week")
			c.Flags().BoolVar(&holders, "holders", false, "also who had one at the peak")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			in := &meteringv1.QueryDemandRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, HeatMap: heat, Holders: holders, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}
			var err error
			if in.Metric, err = enumOf[meteringv1.Metric]("metric", metric); err != nil {
				return nil, err
			}
			if in.GiveBackAfter, err = times("give-back", back); err != nil {
				return nil, err
			}
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Demand{Demand: in}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.reports.QueryDemand(r.ctx, q.GetDemand())
			if err != nil {
				return err
			}
			before := answer.GetCompare()
			line := func(name string, c, old *meteringv1.DemandCurve) curve {
				return curve{name, c.GetDemand(), c.GetTotal(), old.GetDemand()}
			}
			curves := []curve{
				line("open", answer.GetOpen(), before.GetOpen()),
				line("not timed out", answer.GetNotTimedOut(), before.GetNotTimedOut()),
			}
			for i, b := range answer.GetGivenBack() {
				var old *meteringv1.DemandCurve
				if i < len(before.GetGivenBack()) {
					old = before.GetGivenBack()[i].GetCurve()
				}
				curves = append(curves, line("given back after "+clock(b.GetAfter().AsDuration()), b.GetCurve(), old))
			}
			curves = append(curves, line("busy", answer.GetBusy(), before.GetBusy()))
			if err := rows(r, curveColumns(r.compared), curves); err != nil {
				return err
			}
			r.since(answer.GetDataSinceTime())
			if q.GetDemand().GetHeatMap() {
				if err := heatMap(r, answer.GetOpen().GetHeatMap()); err != nil {
					return err
				}
			}
			if !q.GetDemand().GetHolders() {
				return nil
			}
			type row = *meteringv1.DemandHolder
			return rows(r, []column[row]{
				personColumn[row](), machineColumn[row](), applicationColumn[row](),
				col("BUSY", func(h row) any { return h.GetBusy() }),
				col("LAST BUSY", func(h row) any { return h.GetLastBusyTime() }),
				wide("INSTANCE", func(h row) any { return h.GetInstanceId() }),
			}, first(answer.GetOpen().GetHolders(), r.limit))
		},
	}
}

// weekdays by ISO's numbers, from 1.
var weekdays = []string{"", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

// heatMap writes the peak of each hour of the week: a line an hour.
func heatMap(r *asked, hours []*meteringv1.DemandHour) error {
	const perDay = 24
	type line struct {
		hour  int
		peaks [8]any
	}
	lines := make([]line, perDay)
	for i := range lines {
		lines[i].hour = i
	}
	for _, h := range hours {
		if d, at := h.GetWeekday(), h.GetHour(); d >= 1 && int(d) < len(weekdays) && at >= 0 && at < perDay {
			lines[at].peaks[d] = h.GetPeak()
		}
	}
	columns := []column[line]{col("HOUR", func(l line) any { return fmt.Sprintf("%02d:00", l.hour) })}
	for d := 1; d < len(weekdays); d++ {
		columns = append(columns, col(weekdays[d], func(l line) any { return cmp.Or(l.peaks[d], any("")) }))
	}
	return rows(r, columns, lines)
}

func licencesReport() report {
	var metric, refused, price, code string
	var back []string
	var bought int64
	return report{
		name: "licences", aliases: []string{"licenses"}, short: "The smallest number of licences under each policy, and what they cost", preset: "30d", filters: true, compares: true,
		example: "  cetrusctl report licences --application AutoCAD --period 12m --refused 0.5 --give-back 30m --bought 40 --price 1890 --currency EUR",
		flags: func(_ *session, c *cobra.Command) {
			metricFlag(c, &metric)
			c.Flags().StringArrayVar(&back, "give-back", []string{"30m"}, "a policy: given back after so long not busy; may be repeated")
			c.Flags().StringVar(&refused, "refused", "0", "how much of the wanted time may be refused, in percent")
			c.Flags().Int64Var(&bought, "bought", -1, "how many there are")
			c.Flags().StringVar(&price, "price", "", "of one licence for its term, as 1890 or 12.50")
			c.Flags().StringVar(&code, "currency", "EUR", "currency of the price")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			in := &meteringv1.QueryLicencesNeededRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}
			var err error
			if in.Metric, err = enumOf[meteringv1.Metric]("metric", metric); err != nil {
				return nil, err
			}
			if in.GiveBackAfter, err = times("give-back", back); err != nil {
				return nil, err
			}
			if in.RefusedPerMillion, err = millionths("refused", refused); err != nil {
				return nil, err
			}
			if bought >= 0 {
				in.Bought = &bought
			}
			if price != "" {
				units, err := minorUnits(price, code)
				if err != nil {
					return nil, err
				}
				in.PriceMinorUnits, in.CurrencyCode = &units, code
			}
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_LicencesNeeded{LicencesNeeded: in}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.reports.QueryLicencesNeeded(r.ctx, q.GetLicencesNeeded())
			if err != nil {
				return err
			}
			type row = *meteringv1.LicencePolicy
			before := map[row]row{answer.GetKept(): answer.GetCompare().GetKept()}
			for i, p := range answer.GetGivenBack() {
				if old := answer.GetCompare().GetGivenBack(); i < len(old) {
					before[p] = old[i]
				}
			}
			columns := []column[row]{
				col("POLICY", func(p row) any {
					if p.GetGiveBackAfter() == nil {
						return "kept until closed"
					}
					return "given back after " + clock(p.GetGiveBackAfter().AsDuration())
				}),
				col("NEEDED", func(p row) any { return p.GetNeeded() }),
				col("PEAK", func(p row) any { return p.GetPeak() }),
				col("FIRST AT", func(p row) any { return p.GetPeakTime() }),
				col("REFUSED", func(p row) any { return p.GetRefused() }),
			}
			if q.GetLicencesNeeded().Bought != nil {
				columns = append(columns, col("SURPLUS", func(p row) any { return p.GetSurplus() }),
					wide("REFUSED WITH BOUGHT", func(p row) any { return p.GetRefusedWithBought() }))
			}
			if q.GetLicencesNeeded().PriceMinorUnits != nil {
				columns = append(columns, col("COST", func(p row) any { return figures(money(p.GetCostMinorUnits(), answer.GetCurrencyCode())) }),
					col("SAVES", func(p row) any { return figures(money(p.GetSavingMinorUnits(), answer.GetCurrencyCode())) }))
			}
			if r.compared {
				columns = append(columns, col("NEEDED BEFORE", func(p row) any {
					if before[p] == nil {
						return ""
					}
					return before[p].GetNeeded()
				}))
			}
			columns = append(columns, wide("WANTED", func(p row) any { return p.GetWanted() }), wide("REFUSING", func(p row) any { return p.GetRefusing() }))
			if err := rows(r, columns, append([]row{answer.GetKept()}, answer.GetGivenBack()...)); err != nil {
				return err
			}
			r.since(answer.GetDataSinceTime())
			_, err = fmt.Fprintf(r.out, "\nOne licence a person: %d had it open, %d were busy in it. One a machine: %d and %d.\n",
				answer.GetPeople().GetOpen(), answer.GetPeople().GetBusy(), answer.GetMachines().GetOpen(), answer.GetMachines().GetBusy())
			return err
		},
	}
}

func forecastReport() report {
	var metric, back, price, code string
	var days int32
	return report{
		name: "forecast", short: "How many licences the next renewal period will want, and how wrong that may be", preset: "12m", filters: true,
		example: "  cetrusctl report forecast --application AutoCAD --days 365 --price 1890",
		flags: func(_ *session, c *cobra.Command) {
			metricFlag(c, &metric)
			c.Flags().StringVar(&back, "give-back", "", "if licences were given back after so long not busy, as 30m")
			c.Flags().Int32Var(&days, "days", 90, "how many days after the period")
			c.Flags().StringVar(&price, "price", "", "of one licence for its term, as 1890 or 12.50")
			c.Flags().StringVar(&code, "currency", "EUR", "currency of the price")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			in := &meteringv1.ForecastDemandRequest{StartTime: r.start(), EndTime: r.end(), Filter: r.filter, Days: days, Reason: r.reason}
			var err error
			if in.Metric, err = enumOf[meteringv1.Metric]("metric", metric); err != nil {
				return nil, err
			}
			if in.GiveBackAfter, err = duration("give-back", back); err != nil {
				return nil, err
			}
			if price != "" {
				units, err := minorUnits(price, code)
				if err != nil {
					return nil, err
				}
				in.PriceMinorUnits, in.CurrencyCode = &units, code
			}
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Forecast{Forecast: in}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.reports.ForecastDemand(r.ctx, q.GetForecast())
			if err != nil {
				return err
			}
			p := answer.GetPeak()
			if err := r.say("The highest of the next %d days: %d licences, between %d and %d (model: %s).", len(answer.GetDays()), p.GetExpected(), p.GetLow(), p.GetHigh(), strings.ReplaceAll(enumWord(answer.GetModel()), "_", " ")); err != nil {
				return err
			}
			if q.GetForecast().PriceMinorUnits != nil {
				if err := r.say("They cost %s, and %s at the upper bound.", money(answer.GetCostMinorUnits(), answer.GetCurrencyCode()), money(answer.GetCostHighMinorUnits(), answer.GetCurrencyCode())); err != nil {
					return err
				}
			}
			l := answer.GetLookBack()
			if err := r.say("Looking back %d times at %d days each, peaks were missed by %.1f licences in the mean (%.1f by whoever buys the highest number so far).\n", l.GetPeriods(), l.GetDays(), l.GetMeanError(), l.GetNaiveMeanError()); err != nil {
				return err
			}
			r.since(answer.GetDataSinceTime())
			type row = *meteringv1.DayForecast
			return rows(r, []column[row]{
				col("DAY", func(d row) any { return d.GetDate() }),
				col("EXPECTED", func(d row) any { return d.GetPeak().GetExpected() }),
				col("LOW", func(d row) any { return d.GetPeak().GetLow() }),
				col("HIGH", func(d row) any { return d.GetPeak().GetHigh() }),
			}, first(answer.GetDays(), r.limit))
		},
	}
}

func rankingReport() report {
	var by, rank string
	kinds := []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION, meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_MACHINE, meteringv1.GroupBy_GROUP_BY_GROUP, meteringv1.GroupBy_GROUP_BY_SITE}
	return report{
		name: "ranking", short: "What is used most, beside the period before", preset: "30d", filters: true, compares: true,
		example: "  cetrusctl report ranking --by person --rank-by busy --limit 20",
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringVar(&by, "by", "application", "one of "+strings.Join(groupWords(kinds...), ", "))
			must(c.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(groupWords(kinds...), cobra.ShellCompDirectiveNoFileComp)))
			wordFlag(c, c.Flags(), &rank, "rank-by", "what it goes by, busy where none is given", enumWords[meteringv1.RankBy]())
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			g, err := groupBy(by, kinds...)
			if err != nil {
				return nil, err
			}
			goesBy, err := enumOf[meteringv1.RankBy]("rank-by", rank)
			if err != nil {
				return nil, err
			}
			const all = 10000
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Ranking{Ranking: &meteringv1.RankUsageRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, GroupBy: g, RankBy: goesBy, Reason: r.reason, Limit: cmp.Or(r.limit, all),
				CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.reports.RankUsage(r.ctx, q.GetRanking())
			if err != nil {
				return err
			}
			type row = *meteringv1.UsageRank
			columns := []column[row]{col("RANK", func(v row) any { return v.GetRank() }), col("BEFORE", func(v row) any {
				if v.GetCompareRank() == 0 {
					return ""
				}
				return v.GetCompareRank()
			})}
			switch q.GetRanking().GetGroupBy() {
			case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
				columns = append(columns, personColumn[row]())
			case meteringv1.GroupBy_GROUP_BY_MACHINE:
				columns = append(columns, machineColumn[row]())
			case meteringv1.GroupBy_GROUP_BY_GROUP:
				columns = append(columns, flex("GROUP", func(v row) any { return cmp.Or(v.GetGroupName(), v.GetGroupId(), "(none)") }))
			case meteringv1.GroupBy_GROUP_BY_SITE:
				columns = append(columns, flex("SITE", func(v row) any { return cmp.Or(v.GetManagerName(), v.GetManagerId(), "(none)") }))
			default:
				columns = append(columns, applicationColumn[row]())
			}
			columns = append(columns, totalsColumns(row.GetTotals)...)
			columns = append(columns, col("PEOPLE", func(v row) any { return v.GetPeople() }),
				col("BUSY BEFORE", func(v row) any { return v.GetCompareTotals().GetBusy() }),
				wide("PEOPLE BEFORE", func(v row) any { return v.GetComparePeople() }))
			if err := rows(r, columns, answer.GetRanks()); err != nil {
				return err
			}
			r.since(answer.GetDataSinceTime())
			return r.sum(answer.GetTotals(), answer.GetCompareTotals())
		},
	}
}

func unusedReport() report {
	var by, notFor, less string
	return report{
		name: "unused", short: "Who has an application and does not use it, or hardly", preset: "30d", filters: true, compares: true,
		example: "  cetrusctl report unused --application AutoCAD --not-for 90d\n  cetrusctl report unused --busy-less-than 1h --by machine -o xlsx -f unused.xlsx",
		flags: func(_ *session, c *cobra.Command) {
			wordFlag(c, c.Flags(), &by, "by", "whose use is looked at, person where none is given", enumWords[meteringv1.UnusedBy]())
			c.Flags().StringVar(&notFor, "not-for", "", "who was last busy in it longer ago than this, as 90d")
			c.Flags().StringVar(&less, "busy-less-than", "", "who was busy in it for less than this, as 1h; where neither is given, not at all")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			in := &meteringv1.ListUnusedRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}
			var err error
			if in.By, err = enumOf[meteringv1.UnusedBy]("by", by); err != nil {
				return nil, err
			}
			if in.NotFor, err = duration("not-for", notFor); err != nil {
				return nil, err
			}
			if in.BusyLessThan, err = duration("busy-less-than", less); err != nil {
				return nil, err
			}
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Unused{Unused: in}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			type row = *meteringv1.UnusedApplication
			columns := []column[row]{applicationColumn[row]()}
			if q.GetUnused().GetBy() != meteringv1.UnusedBy_UNUSED_BY_MACHINE {
				columns = append(columns, personColumn[row]())
			}
			if by := q.GetUnused().GetBy(); by == meteringv1.UnusedBy_UNUSED_BY_MACHINE || by == meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE {
				columns = append(columns, machineColumn[row]())
			}
			columns = append(columns,
				col("LAST BUSY", func(v row) any {
					if v.GetLastBusyTime() == nil {
						return "never"
					}
					return v.GetLastBusyTime()
				}),
				col("LAST OPEN", func(v row) any { return v.GetLastOpenTime() }),
				col("BUSY", func(v row) any { return v.GetTotals().GetBusy() }),
				col("OPEN", func(v row) any { return v.GetTotals().GetOpen() }),
			)
			w, err := begin(r, columns)
			if err != nil {
				return err
			}
			var last *meteringv1.ListUnusedResponse
			if err := pages(r.question, func(size int32, token string) ([]row, string, error) {
				in := q.GetUnused()
				in.PageSize, in.PageToken = size, token
				answer, err := r.a.reports.ListUnused(r.ctx, in)
				last = answer
				return answer.GetUnused(), answer.GetNextPageToken(), err
			}, w.write); err != nil {
				return err
			}
			if err := w.close(); err != nil {
				return err
			}
			r.since(last.GetDataSinceTime())
			before := ""
			if c := last.GetCompare(); c != nil {
				before = fmt.Sprintf(", and %d of the period before", c.GetTotalUnused())
			}
			_, err = fmt.Fprintf(r.out, "\n%d of %d that have ever opened one%s\n", last.GetTotalUnused(), last.GetTotalKnown(), before)
			return err
		},
	}
}

func idleReport() report {
	var least string
	var longest int32
	return report{
		name: "idle", short: "Where the time goes in which applications are open and nobody works in them", preset: "30d", filters: true, compares: true,
		example: "  cetrusctl report idle --at-least 1h --longest 20",
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringVar(&least, "at-least", "30m", "only stretches of at least this")
			c.Flags().Int32Var(&longest, "longest", 10, "so many of the longest")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			d, err := duration("at-least", least)
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Idle{Idle: &meteringv1.QueryIdleRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, AtLeast: d, Longest: longest, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}}}, err
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.reports.QueryIdle(r.ctx, q.GetIdle())
			if err != nil {
				return err
			}
			type row = *meteringv1.IdleGroup
			before := map[string]*durationpb.Duration{}
			for _, g := range answer.GetCompare().GetApplications() {
				before[g.GetApplicationId()] = g.GetTime().GetIdle()
			}
			figures := []column[row]{
				col("IDLE", func(g row) any { return g.GetTime().GetIdle() }),
				col("OF OPEN", func(g row) any { return share(g.GetTime().GetIdle(), g.GetTime().GetOpen()) }),
				col("STRETCHES", func(g row) any { return g.GetTime().GetStretches() }),
				col("LONGEST", func(g row) any { return g.GetTime().GetLongest() }),
				col("DAYS", func(g row) any { return g.GetTime().GetDays() }),
			}
			application := flex("APPLICATION", func(g row) any { return g.GetApplicationName() })
			columns := append([]column[row]{application}, figures...)
			if r.compared {
				columns = append(columns, col("IDLE BEFORE", func(g row) any { return before[g.GetApplicationId()] }))
			}
			if err := rows(r, columns, first(answer.GetApplications(), r.limit)); err != nil {
				return err
			}
			r.since(answer.GetDataSinceTime())
			const people = 10
			if err := rows(r, append([]column[row]{flex("PERSON", func(g row) any { return nobody(g.GetPrincipalName(), g.GetPrincipalId()) }), application}, figures...), first(answer.GetPeople(), cmp.Or(r.limit, people))); err != nil {
				return err
			}
			type stretch = *meteringv1.IdleStretch
			return rows(r, []column[stretch]{
				personColumn[stretch](), machineColumn[stretch](), applicationColumn[stretch](),
				col("FROM", func(v stretch) any { return v.GetStartTime() }),
				col("IDLE", func(v stretch) any {
					return durationpb.New(v.GetEndTime().AsTime().Sub(v.GetStartTime().AsTime()))
				}),
				wide("INSTANCE", func(v stretch) any { return v.GetInstanceId() }),
			}, answer.GetLongest())
		},
	}
}

// attentionMarks are how a timeline draws each attention.
var attentionMarks = map[usagev1.Attention]string{
	usagev1.Attention_ATTENTION_BUSY: "█", usagev1.Attention_ATTENTION_IDLE: "▒", usagev1.Attention_ATTENTION_BACKGROUND: "░",
	usagev1.Attention_ATTENTION_AWAY: "·", usagev1.Attention_ATTENTION_PAUSED: "p", usagev1.Attention_ATTENTION_UNKNOWN: "?", usagev1.Attention_ATTENTION_SUSPENDED: "z",
}

func timelineReport() report {
	var by string
	return report{
		name: "timeline", short: "When what was open, and what it was, as bars", preset: "today", filters: true,
		example: "  cetrusctl report timeline --person 'Ada Obi'\n  cetrusctl report timeline --by machine --from 2026-03-02T08:00 --to 2026-03-02T18:00",
		flags: func(_ *session, c *cobra.Command) {
			wordFlag(c, c.Flags(), &by, "by", "what a line is, instance where none is given", personWords(enumWords[meteringv1.TimelineRowBy]()))
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			row, err := enumOf[meteringv1.TimelineRowBy]("by", principalWord(by))
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Timeline{Timeline: &meteringv1.QueryTimelineRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, RowBy: row, Reason: r.reason,
			}}}, err
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			const least, most, names = 20, 120, 44
			width := 60
			if w, is := terminal(r.out); is && w > 0 {
				width = min(max(w-names, least), most)
			}
			in := q.GetTimeline()
			step := (in.GetEndTime().AsTime().Sub(in.GetStartTime().AsTime())/time.Duration(width) + time.Second).Truncate(time.Second)
			in.Resolution = durationpb.New(step)
			type row = *meteringv1.TimelineRow
			columns := []column[row]{}
			switch in.GetRowBy() {
			case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL:
				columns = append(columns, personColumn[row]())
			case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_MACHINE:
				columns = append(columns, machineColumn[row]())
			case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_APPLICATION:
				columns = append(columns, applicationColumn[row]())
			default:
				columns = append(columns, personColumn[row](), applicationColumn[row](), wideFlex("MACHINE", func(v row) any { return v.GetMachineName() }))
			}
			var told *meteringv1.QueryTimelineResponse
			columns = append(columns, col("BUSY", func(v row) any { return v.GetTotals().GetBusy() }), col("", func(v row) any { return bars(told, v, width) }))
			if r.limit == 0 {
				const lines = 100
				r.limit = lines
			}
			w, err := begin(r, columns)
			if err != nil {
				return err
			}
			if err := pages(r.question, func(size int32, token string) ([]row, string, error) {
				in.PageSize, in.PageToken = size, token
				answer, err := r.a.reports.QueryTimeline(r.ctx, in)
				told = answer
				return answer.GetRows(), answer.GetNextPageToken(), err
			}, w.write); err != nil {
				return err
			}
			if err := w.close(); err != nil {
				return err
			}
			r.since(told.GetDataSinceTime())
			_, err = fmt.Fprintf(r.out, "\n%s to %s   █ busy  ▒ idle  ░ background  · away  z asleep  p paused  ? not known\n", r.when(told.GetStartTime()), r.when(told.GetEndTime()))
			return err
		},
	}
}

// bars draws a line of a timeline.
func bars(told *meteringv1.QueryTimelineResponse, row *meteringv1.TimelineRow, width int) string {
	begin, end := told.GetStartTime().AsTime(), told.GetEndTime().AsTime()
	drawn := make([]string, width)
	for i := range drawn {
		drawn[i] = " "
	}
	for _, bar := range row.GetBars() {
		from := int(int64(bar.GetStartTime().AsTime().Sub(begin)) / max(int64(end.Sub(begin))/int64(width), 1))
		to := int(int64(bar.GetEndTime().AsTime().Sub(begin)-1) / max(int64(end.Sub(begin))/int64(width), 1))
		for i := max(from, 0); i <= to && i < width; i++ {
			drawn[i] = cmp.Or(attentionMarks[bar.GetAttention()], "?")
		}
	}
	return strings.TrimRight(strings.Join(drawn, ""), " ")
}

// personWords has people called people, where the API says principal.
func personWords(words []string) []string {
	for i := range words {
		if words[i] == "principal" {
			words[i] = "person"
		}
	}
	return words
}

// principalWord is the way back.
func principalWord(word string) string {
	if word == "person" {
		return "principal"
	}
	return word
}

func sessionsReport() report {
	var by string
	return report{
		name: "sessions", short: "Desktop sessions, each or by person, application, machine", preset: "7d", filters: true, compares: true,
		example: "  cetrusctl report sessions --by person --period last-week\n  cetrusctl report sessions --machine ws-07 -o wide",
		flags: func(_ *session, c *cobra.Command) {
			wordFlag(c, c.Flags(), &by, "by", "what a line is, session where none is given", personWords(enumWords[meteringv1.SessionGroupBy]()))
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			g, err := enumOf[meteringv1.SessionGroupBy]("by", principalWord(by))
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Sessions{Sessions: &meteringv1.SummarizeSessionsRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, GroupBy: g, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}}}, err
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			type row = *meteringv1.SessionGroup
			var columns []column[row]
			counts := col("SESSIONS", func(v row) any { return v.GetSessions() })
			switch q.GetSessions().GetGroupBy() {
			case meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL:
				columns = append(columns, personColumn[row](), counts)
			case meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION:
				columns = append(columns, applicationColumn[row](), counts)
			case meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE:
				columns = append(columns, machineColumn[row](), counts)
			default:
				columns = append(columns, personColumn[row](), machineColumn[row](),
					col("FROM", func(v row) any { return v.GetStartTime() }), wide("TO", func(v row) any { return v.GetEndTime() }), wide("SESSION", func(v row) any { return v.GetSessionId() }))
			}
			columns = append(columns,
				col("APPLICATIONS", func(v row) any { return v.GetApplications() }),
				col("OPEN", func(v row) any { return v.GetSessionTime().GetOpen() }),
				col("BUSY", func(v row) any { return v.GetSessionTime().GetBusy() }),
				wide("INSTANCES", func(v row) any { return v.GetInstances() }),
			)
			if r.compared && q.GetSessions().GetGroupBy() > meteringv1.SessionGroupBy_SESSION_GROUP_BY_SESSION {
				columns = append(columns, col("BUSY BEFORE", func(v row) any { return v.GetCompareSessionTime().GetBusy() }))
			}
			w, err := begin(r, columns)
			if err != nil {
				return err
			}
			var last *meteringv1.SummarizeSessionsResponse
			if err := pages(r.question, func(size int32, token string) ([]row, string, error) {
				in := q.GetSessions()
				in.PageSize, in.PageToken = size, token
				answer, err := r.a.reports.SummarizeSessions(r.ctx, in)
				last = answer
				return answer.GetGroups(), answer.GetNextPageToken(), err
			}, w.write); err != nil {
				return err
			}
			if err := w.close(); err != nil {
				return err
			}
			r.since(last.GetDataSinceTime())
			_, err = fmt.Fprintf(r.out, "\nIn all %s, %s busy of %s open\n", plural(int(last.GetTotal().GetSessions()), "session", "sessions"),
				clock(last.GetTotal().GetSessionTime().GetBusy().AsDuration()), clock(last.GetTotal().GetSessionTime().GetOpen().AsDuration()))
			return err
		},
	}
}

var sessionReport = report{
	name: "session", args: "SESSION", short: "Each change of state in one desktop session",
	long:    "SESSION is an id that report sessions -o wide tells.",
	example: "  cetrusctl report session 01890a5d-ac96-774b-bcce-b302099a8057",
	ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
		return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_SessionChanges{SessionChanges: &meteringv1.ListSessionChangesRequest{SessionId: r.args[0], Reason: r.reason}}}, nil
	},
	show: func(r *asked, q *meteringv1.ReportQuestion) error {
		type row = *meteringv1.SessionChange
		w, err := begin(r, append([]column[row]{flex("APPLICATION", func(v row) any { return v.GetApplicationName() })}, intervalColumns(row.GetInterval)...))
		if err != nil {
			return err
		}
		if err := pages(r.question, func(size int32, token string) ([]row, string, error) {
			in := q.GetSessionChanges()
			in.PageSize, in.PageToken = size, token
			answer, err := r.a.reports.ListSessionChanges(r.ctx, in)
			return answer.GetChanges(), answer.GetNextPageToken(), err
		}, w.write); err != nil {
			return err
		}
		return w.close()
	},
}

// intervalColumns are those of a stretch of one attention.
func intervalColumns[T any](of func(T) *meteringv1.UsageInterval) []column[T] {
	return []column[T]{
		col("FROM", func(v T) any { return of(v).GetStartTime() }),
		col("FOR", func(v T) any { return durationpb.New(of(v).GetEndTime().AsTime().Sub(of(v).GetStartTime().AsTime())) }),
		col("ATTENTION", func(v T) any { return of(v).GetAttention() }),
		col("STATE", func(v T) any { return of(v).GetState() }),
		wide("REASON", func(v T) any { return of(v).GetReason() }),
		wide("EVENT", func(v T) any { return of(v).GetEventId() }),
	}
}

func distributionReport() report {
	var by string
	var open bool
	var bounds []string
	kinds := []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_MACHINE}
	return report{
		name: "distribution", short: "How many people, or machines, used how much", preset: "30d", filters: true, compares: true,
		example: "  cetrusctl report distribution --application AutoCAD --bounds 1h,8h,40h",
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringVar(&by, "by", "person", "person or machine")
			c.Flags().BoolVar(&open, "open", false, "open time in place of busy time")
			c.Flags().StringSliceVar(&bounds, "bounds", nil, "where one part ends and the next begins, as 1h,8h,40h")
			must(c.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(groupWords(kinds...), cobra.ShellCompDirectiveNoFileComp)))
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			g, err := groupBy(by, kinds...)
			if err != nil {
				return nil, err
			}
			parts, err := times("bounds", bounds)
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Distribution{Distribution: &meteringv1.QueryDistributionRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, GroupBy: g, Open: open, Bounds: parts, Reason: r.reason,
				Compare: r.compared, CompareStartTime: r.compareStart(), CompareEndTime: r.compareEnd(),
			}}}, err
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.reports.QueryDistribution(r.ctx, q.GetDistribution())
			if err != nil {
				return err
			}
			type line struct {
				part, before *meteringv1.DistributionPart
			}
			var lines []line
			for i, p := range answer.GetParts() {
				l := line{part: p}
				if old := answer.GetCompare().GetParts(); i < len(old) {
					l.before = old[i]
				}
				lines = append(lines, l)
			}
			const widest = 40
			greatest := int64(1)
			for _, l := range lines {
				greatest = max(greatest, l.part.GetCount())
			}
			many := "PEOPLE"
			if q.GetDistribution().GetGroupBy() == meteringv1.GroupBy_GROUP_BY_MACHINE {
				many = "MACHINES"
			}
			columns := []column[line]{
				col("FROM", func(l line) any { return cmp.Or(l.part.GetFrom(), &durationpb.Duration{}) }),
				col("TO", func(l line) any { return l.part.GetTo() }),
				col(many, func(l line) any { return l.part.GetCount() }),
				col("TIME", func(l line) any { return l.part.GetTotal() }),
			}
			if r.compared {
				columns = append(columns, col("BEFORE", func(l line) any { return l.before.GetCount() }))
			}
			columns = append(columns, col("", func(l line) any { return strings.Repeat("█", int(l.part.GetCount()*widest/greatest)) }))
			if err := rows(r, columns, lines); err != nil {
				return err
			}
			r.since(answer.GetDataSinceTime())
			_, err = fmt.Fprintf(r.out, "\n%d in all; the middle one %s, nine of ten at most %s, the greatest %s\n", answer.GetCount(),
				clock(answer.GetMedian().AsDuration()), clock(answer.GetP90().AsDuration()), clock(answer.GetGreatest().AsDuration()))
			return err
		},
	}
}

var qualityReport = report{
	name: "quality", short: "How far the figures of a period can be trusted, and why", preset: "7d", filters: true,
	ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
		return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_DataQuality{DataQuality: &meteringv1.GetDataQualityRequest{StartTime: r.start(), EndTime: r.end(), Filter: r.filter, Reason: r.reason}}}, nil
	},
	show: func(r *asked, q *meteringv1.ReportQuestion) error {
		answer, err := r.a.usage.GetDataQuality(r.ctx, q.GetDataQuality())
		if err != nil {
			return err
		}
		p := answer.GetPeriod()
		if err := r.say("Grade: %s, of %s on %s.", enumWord(p.GetGrade()), plural(int(p.GetAgents()), "agent", "agents"), plural(int(p.GetMachines()), "machine", "machines")); err != nil {
			return err
		}
		r.since(p.GetDataSinceTime())
		if len(p.GetFindings()) == 0 {
			return r.say("Nothing is known to be missing or wrong.")
		}
		type row = *meteringv1.QualityFinding
		if _, err := fmt.Fprintln(r.out); err != nil {
			return err
		}
		return rows(r, []column[row]{
			col("FINDING", func(f row) any { return strings.ReplaceAll(enumWord(f.GetIssue()), "_", " ") }),
			col("GRADE", func(f row) any { return f.GetGrade() }),
			col("HOW MANY", func(f row) any {
				if f.GetCount() == 0 {
					return ""
				}
				return f.GetCount()
			}),
			col("TIME", func(f row) any { return f.GetTime() }),
			col("OF OPEN", func(f row) any {
				if f.GetTime() == nil {
					return ""
				}
				const perPercent, digits = 10_000, 100
				return figures(fmt.Sprintf("%d.%02d %%", f.GetPerMillion()/perPercent, f.GetPerMillion()%perPercent/digits))
			}),
			wide("AGENTS", func(f row) any { return f.GetAgentIds() }),
		}, p.GetFindings())
	},
}

func accountUseReport() report {
	return report{
		name: "account-use", short: "What the whole account does with each application, month by month, for who buys", preset: "last-month",
		long:    "The period is whole months that have ended, at most 14. No figure is told that fewer people are behind than the account's smallest group.",
		example: "  cetrusctl report account-use --period 2026-01..2026-06",
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			zone := r.s.zone(r.ctx)
			from, to := r.period.Start.In(zone), r.period.End.In(zone)
			if from.Day() != 1 || to.Day() != 1 {
				return nil, usagef("this report is about whole months: give --period 2026-03, or 2026-01..2026-06")
			}
			const month = "2006-01"
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_AccountUse{AccountUse: &meteringv1.QueryAccountUseRequest{
				FirstMonth: from.Format(month), LastMonth: to.AddDate(0, -1, 0).Format(month),
			}}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			answer, err := r.a.reports.QueryAccountUse(r.ctx, q.GetAccountUse())
			if err != nil {
				return err
			}
			type row = *meteringv1.AccountUse
			figures := func(f *meteringv1.AccountUseFigures, value func(*meteringv1.AccountUseFigures) any) any {
				if f == nil {
					return figures("too few")
				}
				return value(f)
			}
			people := func(f *meteringv1.AccountUseFigures) any { return f.GetPeople() }
			hours := func(f *meteringv1.AccountUseFigures) any { return f.GetTime() }
			peak := func(f *meteringv1.AccountUseFigures) any { return f.GetPeak() }
			if err := rows(r, []column[row]{
				col("MONTH", func(u row) any { return u.GetMonth() }),
				flex("APPLICATION", func(u row) any { return u.GetApplicationName() }),
				col("PEOPLE", func(u row) any { return figures(u.GetOpen(), people) }),
				col("OPEN", func(u row) any { return figures(u.GetOpen(), hours) }),
				col("PEAK", func(u row) any { return figures(u.GetOpen(), peak) }),
				col("BUSY PEOPLE", func(u row) any { return figures(u.GetBusy(), people) }),
				col("BUSY", func(u row) any { return figures(u.GetBusy(), hours) }),
				col("BUSY PEAK", func(u row) any { return figures(u.GetBusy(), peak) }),
			}, first(answer.GetUses(), r.limit)); err != nil {
				return err
			}
			r.since(answer.GetDataSinceTime())
			if answer.GetWithheld() > 0 {
				r.s.note(fmt.Sprintf("%d applications and months are not told, which fewer than %d people opened.", answer.GetWithheld(), answer.GetSmallestGroup()))
			}
			return nil
		},
	}
}

func instancesReport() report {
	var open bool
	base := instancesResource()
	return report{
		name: "instances", short: "Runs of applications, the latest first", preset: "today", filters: true,
		example: "  cetrusctl report instances --period last-month -o xlsx -f instances.xlsx",
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().BoolVar(&open, "open", false, "only what is not closed")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Instances{Instances: &meteringv1.ListInstancesRequest{
				StartTime: r.start(), EndTime: r.end(), Filter: r.filter, OpenOnly: open, Reason: r.reason,
			}}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			w, err := begin(r, base.columns)
			if err != nil {
				return err
			}
			if err := pages(r.question, func(size int32, token string) ([]*meteringv1.Instance, string, error) {
				in := q.GetInstances()
				in.PageSize, in.PageToken = size, token
				answer, err := r.a.usage.ListInstances(r.ctx, in)
				return answer.GetInstances(), answer.GetNextPageToken(), err
			}, w.write); err != nil {
				return err
			}
			return w.close()
		},
	}
}

func intervalsReport() report {
	var document string
	return report{
		name: "intervals", args: "INSTANCE", short: "What one run of an application was at each moment, and the events that made it",
		example: "  cetrusctl report intervals 01890a5d-ac96-774b-bcce-b302099a8057 -o wide",
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringVar(&document, "document", "", "those of this document, by its id")
		},
		ask: func(r *asked) (*meteringv1.ReportQuestion, error) {
			return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Intervals{Intervals: &meteringv1.ListIntervalsRequest{InstanceId: r.args[0], DocumentId: document, Reason: r.reason}}}, nil
		},
		show: func(r *asked, q *meteringv1.ReportQuestion) error {
			type row = *meteringv1.UsageInterval
			w, err := begin(r, intervalColumns(func(i row) *meteringv1.UsageInterval { return i }))
			if err != nil {
				return err
			}
			if err := pages(r.question, func(size int32, token string) ([]row, string, error) {
				in := q.GetIntervals()
				in.PageSize, in.PageToken = size, token
				answer, err := r.a.usage.ListIntervals(r.ctx, in)
				return answer.GetIntervals(), answer.GetNextPageToken(), err
			}, w.write); err != nil {
				return err
			}
			return w.close()
		},
	}
}
