package metering

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/currency"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/services/metering/export"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// reportTable is a report as rows of a file has it.
type reportTable struct {
	// title is what the report is called, file what a file of it is.
	title, file string
	// question is what is asked, without its page.
	question proto.Message
	columns  []export.Column
	// currency is of the columns of money.
	currency string
	digits   int
	// list is the field of an answer that goes on from page to page; none where one answer is all.
	list protoreflect.Name
	// ask answers one page and gives its rows; next is the token of the page after it.
	ask func(ctx context.Context, token string) (answer proto.Message, rows func(yield func(...export.Value) error) error, next string, err error)
	// facts are what an answer tells beside its rows.
	facts func(answer proto.Message) []export.Fact
	// done is how much of the report the rows are, up to those of an answer; nil where that cannot be told.
	done func(answer proto.Message, rows int64) portion
}

// column is one of rows of a type.
type column[T any] struct {
	title string
	kind  export.Kind
	value func(T) export.Value
}

func columnsOf[T any](columns []column[T]) []export.Column {
	var all []export.Column
	for _, c := range columns {
		all = append(all, export.Column{Title: c.title, Kind: c.kind})
	}
	return all
}

// rowsOf are values of a type as rows of a file.
func rowsOf[T any](columns []column[T], list []T) func(yield func(...export.Value) error) error {
	return func(yield func(...export.Value) error) error {
		row := make([]export.Value, len(columns))
		for _, value := range list {
			for i, c := range columns {
				row[i] = c.value(value)
			}
			if err := yield(row...); err != nil {
				return err
			}
		}
		return nil
	}
}

func textColumn[T any](title string, of func(T) string) column[T] {
	return column[T]{title, export.Text, func(t T) export.Value { return export.OfText(of(t)) }}
}

func timeColumn[T any](title string, of func(T) *timestamppb.Timestamp) column[T] {
	return column[T]{title, export.Time, func(t T) export.Value {
		if at := of(t); at != nil {
			return export.OfTime(at.AsTime())
		}
		return export.Value{}
	}}
}

func lengthColumn[T any](title string, of func(T) *durationpb.Duration) column[T] {
	return column[T]{title, export.Duration, func(t T) export.Value {
		if d := of(t); d != nil {
			return export.OfDuration(d.AsDuration())
		}
		return export.Value{}
	}}
}

func countColumn[T any](title string, of func(T) int64) column[T] {
	return column[T]{title, export.Count, func(t T) export.Value { return export.OfNumber(of(t)) }}
}

// maybeColumn is a number that an answer may leave out.
func maybeColumn[T any](title string, kind export.Kind, told func(T) bool, of func(T) int64) column[T] {
	return column[T]{title, kind, func(t T) export.Value {
		if told(t) {
			return export.OfNumber(of(t))
		}
		return export.Value{}
	}}
}

// enumWord is a value of an enum without what all its values begin with.
func enumWord(value fmt.Stringer, prefix string) string {
	name := strings.TrimPrefix(value.String(), prefix)
	if name == "UNSPECIFIED" {
		return ""
	}
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}

// totalColumns are the columns of times by attention.
func totalColumns[T any](of func(T) *meteringv1.UsageTotals) []column[T] {
	return []column[T]{
		lengthColumn("Open", func(t T) *durationpb.Duration { return of(t).GetOpen() }),
		lengthColumn("Busy", func(t T) *durationpb.Duration { return of(t).GetBusy() }),
		lengthColumn("Idle", func(t T) *durationpb.Duration { return of(t).GetIdle() }),
		lengthColumn("Background", func(t T) *durationpb.Duration { return of(t).GetBackground() }),
		lengthColumn("Away", func(t T) *durationpb.Duration { return of(t).GetAway() }),
		lengthColumn("Paused", func(t T) *durationpb.Duration { return of(t).GetPaused() }),
		lengthColumn("Suspended", func(t T) *durationpb.Duration { return of(t).GetSuspended() }),
		lengthColumn("Unknown", func(t T) *durationpb.Duration { return of(t).GetUnknown() }),
		countColumn("Timeouts", func(t T) int64 { return of(t).GetTimeouts() }),
		countColumn("Instances", func(t T) int64 { return of(t).GetInstances() }),
	}
}

// beforeColumns are the columns of the same times in another period.
func beforeColumns[T any](of func(T) *meteringv1.UsageTotals) []column[T] {
	columns := totalColumns(of)
	for i := range columns {
		columns[i].title += " before"
	}
	return columns
}

// ofPerson are messages about an application, a person and a machine.
type ofPerson interface {
	GetApplicationId() string
	GetApplicationName() string
	GetPrincipalId() string
	GetPrincipalName() string
}

type atMachine interface {
	GetMachineId() string
	GetMachineName() string
}

// ofPlace are messages about a group of people or a site.
type ofPlace interface {
	GetGroupId() string
	GetGroupName() string
	GetManagerId() string
	GetManagerName() string
}

func groupOfRow[T ofPlace]() []column[T] {
	return []column[T]{textColumn("Group", T.GetGroupName), textColumn("Group id", T.GetGroupId)}
}

func siteOfRow[T ofPlace]() []column[T] {
	return []column[T]{textColumn("Site", T.GetManagerName), textColumn("Manager id", T.GetManagerId)}
}

func applicationOfRow[T ofPerson]() []column[T] {
	return []column[T]{textColumn("Application", T.GetApplicationName), textColumn("Application id", T.GetApplicationId)}
}

func personOfRow[T ofPerson]() []column[T] {
	return []column[T]{textColumn("Person", T.GetPrincipalName), textColumn("Person id", T.GetPrincipalId)}
}

func machineOfRow[T atMachine]() []column[T] {
	return []column[T]{textColumn("Machine", T.GetMachineName), textColumn("Machine id", T.GetMachineId)}
}

// Page sizes of exports: what a page costs beside its rows is shared by many.
const (
	groupsAtOnce    = 10_000
	instancesAtOnce = 1000
	intervalsAtOnce = 10_000
)

// tableOf is the table of a report. What is asked is not changed.
func (s *Service) tableOf(question *meteringv1.ReportQuestion) (*reportTable, error) {
	const op = "metering.ExportReport"
	usage, reports := &usageAPI{service: s}, &reportAPI{service: s}
	question = proto.CloneOf(question)
	var t *reportTable
	token := ""
	switch q := question.GetQuestion().(type) {
	case *meteringv1.ReportQuestion_Usage:
		t, token = usageTable(usage, q.Usage), q.Usage.GetPageToken()
	case *meteringv1.ReportQuestion_Instances:
		t, token = instancesTable(usage, q.Instances), q.Instances.GetPageToken()
	case *meteringv1.ReportQuestion_Intervals:
		t, token = intervalsTable(usage, q.Intervals), q.Intervals.GetPageToken()
	case *meteringv1.ReportQuestion_Concurrency:
		t = concurrencyTable(usage, q.Concurrency)
	case *meteringv1.ReportQuestion_Demand:
		t = demandTable(reports, q.Demand)
	case *meteringv1.ReportQuestion_LicencesNeeded:
		t = licencesTable(reports, q.LicencesNeeded)
	case *meteringv1.ReportQuestion_Ranking:
		t = rankingTable(reports, q.Ranking)
	case *meteringv1.ReportQuestion_Unused:
		t, token = unusedTable(reports, q.Unused), q.Unused.GetPageToken()
	case *meteringv1.ReportQuestion_Idle:
		t = idleTable(reports, q.Idle)
	case *meteringv1.ReportQuestion_Timeline:
		t, token = timelineTable(reports, q.Timeline), q.Timeline.GetPageToken()
	case *meteringv1.ReportQuestion_Sessions:
		t, token = sessionsTable(reports, q.Sessions), q.Sessions.GetPageToken()
	case *meteringv1.ReportQuestion_SessionChanges:
		t, token = sessionChangesTable(reports, q.SessionChanges), q.SessionChanges.GetPageToken()
	case *meteringv1.ReportQuestion_Distribution:
		t = distributionTable(reports, q.Distribution)
	case *meteringv1.ReportQuestion_Forecast:
		t = forecastTable(reports, q.Forecast)
	case *meteringv1.ReportQuestion_DataQuality:
		t = qualityTable(usage, q.DataQuality)
	case *meteringv1.ReportQuestion_AccountUse:
		t = accountUseTable(reports, q.AccountUse)
	case *meteringv1.ReportQuestion_Live:
		t = liveTable(usage, q.Live)
	default:
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "report", Description: "is none that this release knows"})
	}
	if token != "" {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "report", Description: "has a page token, and an export is of all pages: leave page_token out"})
	}
	return t, nil
}

func usageTable(api *usageAPI, q *meteringv1.SummarizeUsageRequest) *reportTable {
	type row = *meteringv1.UsageGroup
	var columns []column[row]
	for _, by := range q.GetGroupBy() {
		switch by {
		case meteringv1.GroupBy_GROUP_BY_APPLICATION:
			columns = append(columns, applicationOfRow[row]()...)
		case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
			columns = append(columns, personOfRow[row]()...)
		case meteringv1.GroupBy_GROUP_BY_MACHINE:
			columns = append(columns, machineOfRow[row]()...)
		case meteringv1.GroupBy_GROUP_BY_GROUP:
			columns = append(columns, groupOfRow[row]()...)
		case meteringv1.GroupBy_GROUP_BY_SITE:
			columns = append(columns, siteOfRow[row]()...)
		case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
			columns = append(columns, textColumn("Document", row.GetDocumentName), textColumn("Document id", row.GetDocumentId))
		case meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_WEEK, meteringv1.GroupBy_GROUP_BY_MONTH:
			begin := timeColumn(map[meteringv1.GroupBy]string{
				meteringv1.GroupBy_GROUP_BY_DAY: "Day", meteringv1.GroupBy_GROUP_BY_WEEK: "Week from", meteringv1.GroupBy_GROUP_BY_MONTH: "Month from",
			}[by], row.GetStartTime)
			begin.kind = export.Date
			columns = append(columns, begin)
		case meteringv1.GroupBy_GROUP_BY_HOUR:
			columns = append(columns, timeColumn("Hour", row.GetStartTime))
		default:
		}
	}
	columns = append(columns, totalColumns(row.GetTotals)...)
	if isCompared(q) && !slices.ContainsFunc(columns, func(c column[row]) bool { return c.kind == export.Time || c.kind == export.Date }) {
		columns = append(columns, beforeColumns(row.GetCompareTotals)...)
	}
	written := int64(0)
	return &reportTable{
		title: "Use", file: "use", question: q, columns: columnsOf(columns), list: "groups",
		// How many groups there are is not told, and how much time they have in all is.
		done: func(answer proto.Message, _ int64) portion {
			a, _ := answer.(*meteringv1.SummarizeUsageResponse)
			for _, g := range a.GetGroups() {
				written += g.GetTotals().GetOpen().AsDuration().Milliseconds()
			}
			return portionOf(written, a.GetTotals().GetOpen().AsDuration().Milliseconds())
		},
		ask: func(ctx context.Context, token string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			q.PageSize, q.PageToken = groupsAtOnce, token
			answer, err := api.SummarizeUsage(ctx, q)
			return answer, rowsOf(columns, answer.GetGroups()), answer.GetNextPageToken(), err
		},
	}
}

// backTo is how much of a period lies behind a moment, of a report that begins with its end.
func backTo(q interface {
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
}, at *timestamppb.Timestamp,
) portion {
	if q.GetStartTime() == nil || q.GetEndTime() == nil || at == nil {
		return portion{}
	}
	start, end := q.GetStartTime().AsTime(), q.GetEndTime().AsTime()
	return portionOf(end.Sub(at.AsTime()).Milliseconds(), end.Sub(start).Milliseconds())
}

func instancesTable(api *usageAPI, q *meteringv1.ListInstancesRequest) *reportTable {
	type row = *meteringv1.Instance
	columns := append(applicationOfRow[row](), personOfRow[row]()...)
	columns = append(columns, machineOfRow[row]()...)
	columns = append(columns,
		timeColumn("Opened", row.GetOpenTime), timeColumn("Closed", row.GetCloseTime), timeColumn("Decided until", row.GetDecidedTime),
		textColumn("Lost", func(n row) string {
			if n.GetLost() {
				return "lost"
			}
			return ""
		}),
		textColumn("Shown", func(n row) string {
			var all []string
			for _, access := range n.GetSessionAccesses() {
				all = append(all, enumWord(access, "SESSION_ACCESS_"))
			}
			return strings.Join(all, ", ")
		}))
	columns = append(columns, totalColumns(row.GetTotals)...)
	columns = append(columns, textColumn("Instance id", row.GetInstanceId), textColumn("Session id", row.GetSessionId))
	return &reportTable{
		title: "Instances", file: "instances", question: q, columns: columnsOf(columns), list: "instances",
		done: func(answer proto.Message, _ int64) portion {
			a, _ := answer.(*meteringv1.ListInstancesResponse)
			if len(a.GetInstances()) == 0 {
				return portion{}
			}
			return backTo(q, a.GetInstances()[len(a.GetInstances())-1].GetOpenTime())
		},
		ask: func(ctx context.Context, token string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			q.PageSize, q.PageToken = instancesAtOnce, token
			answer, err := api.ListInstances(ctx, q)
			return answer, rowsOf(columns, answer.GetInstances()), answer.GetNextPageToken(), err
		},
	}
}

// intervalColumns are the columns of an interval and the event that made it.
func intervalColumns[T any](of func(T) *meteringv1.UsageInterval) []column[T] {
	return append(stretchColumns(func(t T) attended { return of(t) }),
		textColumn("Reason", func(t T) string { return enumWord(of(t).GetReason(), "REASON_") }),
		textColumn("Shown", func(t T) string { return enumWord(of(t).GetSessionAccess(), "SESSION_ACCESS_") }),
		textColumn("Document id", func(t T) string { return of(t).GetDocumentId() }), textColumn("Event id", func(t T) string { return of(t).GetEventId() }),
		textColumn("Agent id", func(t T) string { return of(t).GetAgentId() }), textColumn("Epoch", func(t T) string { return of(t).GetEpoch() }),
		countColumn("Sequence number", func(t T) int64 { return int64(of(t).GetSeq()) }),
		countColumn("Position", func(t T) int64 { return int64(of(t).GetPosition()) }))
}

// attended are messages about a stretch of time of one attention.
type attended interface {
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
	GetAttention() usagev1.Attention
	GetState() usagev1.State
}

func stretchColumns[T any](of func(T) attended) []column[T] {
	return []column[T]{
		timeColumn("From", func(t T) *timestamppb.Timestamp { return of(t).GetStartTime() }), timeColumn("To", func(t T) *timestamppb.Timestamp { return of(t).GetEndTime() }),
		lengthColumn("Length", func(t T) *durationpb.Duration {
			return durationpb.New(of(t).GetEndTime().AsTime().Sub(of(t).GetStartTime().AsTime()))
		}),
		textColumn("Attention", func(t T) string { return enumWord(of(t).GetAttention(), "ATTENTION_") }),
		textColumn("State", func(t T) string { return enumWord(of(t).GetState(), "STATE_") }),
	}
}

func intervalsTable(api *usageAPI, q *meteringv1.ListIntervalsRequest) *reportTable {
	type row = *meteringv1.UsageInterval
	columns := intervalColumns(func(n row) *meteringv1.UsageInterval { return n })
	return &reportTable{
		title: "Intervals", file: "intervals", question: q, columns: columnsOf(columns), list: "intervals",
		ask: func(ctx context.Context, token string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			q.PageSize, q.PageToken = intervalsAtOnce, token
			answer, err := api.ListIntervals(ctx, q)
			return answer, rowsOf(columns, answer.GetIntervals()), answer.GetNextPageToken(), err
		},
	}
}

// once is a table of a report whose answer is one.
func once[A proto.Message, T any](title, file string, question proto.Message, columns []column[T], ask func(context.Context) (A, error), list func(A) []T, facts func(A) []export.Fact) *reportTable {
	return &reportTable{
		title: title, file: file, question: question, columns: columnsOf(columns),
		ask: func(ctx context.Context, _ string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			answer, err := ask(ctx)
			if err != nil {
				return nil, nil, "", err
			}
			return answer, rowsOf(columns, list(answer)), "", nil
		},
		facts: func(answer proto.Message) []export.Fact {
			if a, ok := answer.(A); ok && facts != nil {
				return facts(a)
			}
			return nil
		},
	}
}

func peakFact(name string, d *meteringv1.Demand) export.Fact {
	said := fmt.Sprintf("%d", d.GetPeak())
	if at := d.GetPeakTime(); at != nil {
		said += fmt.Sprintf(", first at %s", at.AsTime().Format(time.RFC3339))
	}
	return export.Fact{Name: "Peak, " + name, Value: fmt.Sprintf("%s; 99 %% of the time at most %d, 95 %% at most %d", said, d.GetP99(), d.GetP95())}
}

func concurrencyTable(api *usageAPI, q *meteringv1.QueryConcurrencyRequest) *reportTable {
	type row = *meteringv1.ConcurrencyPoint
	columns := []column[row]{
		timeColumn("From", row.GetStartTime), countColumn("Open", row.GetOpen), countColumn("Active", row.GetActive), countColumn("Inactive", row.GetInactive),
		countColumn("Timed out", row.GetTimedOut), countColumn("Peak active", row.GetPeakActive), countColumn("Peak not timed out", row.GetPeakNotTimedOut),
	}
	if q.GetGiveBackAfter() != nil {
		columns = append(columns, countColumn("Given back", row.GetGivenBack), countColumn("Peak given back", row.GetPeakGivenBack))
	}
	return once("Concurrent use", "concurrent-use", q, columns,
		func(ctx context.Context) (*meteringv1.QueryConcurrencyResponse, error) {
			return api.QueryConcurrency(ctx, q)
		},
		(*meteringv1.QueryConcurrencyResponse).GetPoints,
		func(a *meteringv1.QueryConcurrencyResponse) []export.Fact {
			facts := []export.Fact{peakFact("open", a.GetOpen()), peakFact("busy", a.GetBusy()), peakFact("not timed out", a.GetNotTimedOut())}
			if a.GetGivenBack() != nil {
				facts = append(facts, peakFact("given back", a.GetGivenBack()))
			}
			if c := a.GetCompare(); c.GetOpen() != nil {
				facts = append(facts, peakFact("open, before", c.GetOpen()), peakFact("busy, before", c.GetBusy()), peakFact("not timed out, before", c.GetNotTimedOut()))
				if c.GetGivenBack() != nil {
					facts = append(facts, peakFact("given back, before", c.GetGivenBack()))
				}
			}
			return facts
		})
}

// demandLevel is for how long a curve of a demand was at one height.
type demandLevel struct {
	curve    string
	after    *durationpb.Duration
	licences int64
	length   *durationpb.Duration
}

// demandAnswer is a demand, or the one that it is compared with.
type demandAnswer interface {
	GetOpen() *meteringv1.DemandCurve
	GetBusy() *meteringv1.DemandCurve
	GetNotTimedOut() *meteringv1.DemandCurve
	GetGivenBack() []*meteringv1.GivenBackDemand
}

func demandCurves(a demandAnswer, yield func(name string, after *durationpb.Duration, c *meteringv1.DemandCurve)) {
	yield("open", nil, a.GetOpen())
	yield("busy", nil, a.GetBusy())
	yield("not timed out", nil, a.GetNotTimedOut())
	for _, g := range a.GetGivenBack() {
		yield("given back", g.GetAfter(), g.GetCurve())
	}
}

func demandTable(api *reportAPI, q *meteringv1.QueryDemandRequest) *reportTable {
	columns := []column[demandLevel]{
		textColumn("Licences that are", func(l demandLevel) string { return l.curve }),
		lengthColumn("Given back after", func(l demandLevel) *durationpb.Duration { return l.after }),
		countColumn("Wanted at once", func(l demandLevel) int64 { return l.licences }),
		lengthColumn("For", func(l demandLevel) *durationpb.Duration { return l.length }),
	}
	return once("Demand", "demand", q, columns,
		func(ctx context.Context) (*meteringv1.QueryDemandResponse, error) { return api.QueryDemand(ctx, q) },
		func(a *meteringv1.QueryDemandResponse) (levels []demandLevel) {
			demandCurves(a, func(name string, after *durationpb.Duration, c *meteringv1.DemandCurve) {
				for n, length := range c.GetLevels() {
					levels = append(levels, demandLevel{name, after, int64(n), length})
				}
			})
			return levels
		},
		func(a *meteringv1.QueryDemandResponse) (facts []export.Fact) {
			peaks := func(a demandAnswer, when string) {
				demandCurves(a, func(name string, after *durationpb.Duration, c *meteringv1.DemandCurve) {
					if after != nil {
						name += " after " + after.AsDuration().String()
					}
					facts = append(facts, peakFact(name+when, c.GetDemand()))
				})
			}
			peaks(a, "")
			if a.GetCompare().GetOpen() != nil {
				peaks(a.GetCompare(), ", before")
			}
			return facts
		})
}

// licencesLine is what licences would be needed under one way of handing them out.
type licencesLine struct {
	policy string
	*meteringv1.LicencePolicy
	before *meteringv1.LicencePolicy
}

func licencesTable(api *reportAPI, q *meteringv1.QueryLicencesNeededRequest) *reportTable {
	columns := []column[licencesLine]{
		textColumn("Licences that are", func(l licencesLine) string { return l.policy }),
		lengthColumn("Given back after", func(l licencesLine) *durationpb.Duration { return l.GetGiveBackAfter() }),
		countColumn("Needed", func(l licencesLine) int64 { return l.GetNeeded() }),
		countColumn("Peak", func(l licencesLine) int64 { return l.GetPeak() }),
		timeColumn("Peak at", func(l licencesLine) *timestamppb.Timestamp { return l.GetPeakTime() }),
		lengthColumn("Wanted", func(l licencesLine) *durationpb.Duration { return l.GetWanted() }),
		lengthColumn("Refused", func(l licencesLine) *durationpb.Duration { return l.GetRefused() }),
		lengthColumn("Refusing for", func(l licencesLine) *durationpb.Duration { return l.GetRefusing() }),
		maybeColumn("Bought beyond that", export.Count, func(l licencesLine) bool { return l.Surplus != nil }, func(l licencesLine) int64 { return l.GetSurplus() }),
	}
	if q.PriceMinorUnits != nil {
		columns = append(columns,
			maybeColumn("Cost", export.Money, func(l licencesLine) bool { return l.CostMinorUnits != nil }, func(l licencesLine) int64 { return l.GetCostMinorUnits() }),
			maybeColumn("Saving", export.Money, func(l licencesLine) bool { return l.SavingMinorUnits != nil }, func(l licencesLine) int64 { return l.GetSavingMinorUnits() }))
	}
	if isCompared(q) {
		before := func(l licencesLine) bool { return l.before != nil }
		columns = append(columns,
			maybeColumn("Needed before", export.Count, before, func(l licencesLine) int64 { return l.before.GetNeeded() }),
			maybeColumn("Peak before", export.Count, before, func(l licencesLine) int64 { return l.before.GetPeak() }))
	}
	t := once("Licences needed", "licences-needed", q, columns,
		func(ctx context.Context) (*meteringv1.QueryLicencesNeededResponse, error) {
			return api.QueryLicencesNeeded(ctx, q)
		},
		func(a *meteringv1.QueryLicencesNeededResponse) []licencesLine {
			lines := []licencesLine{{"kept until closed", a.GetKept(), a.GetCompare().GetKept()}}
			for i, p := range a.GetGivenBack() {
				line := licencesLine{"given back", p, nil}
				if before := a.GetCompare().GetGivenBack(); i < len(before) {
					line.before = before[i]
				}
				lines = append(lines, line)
			}
			return lines
		},
		func(a *meteringv1.QueryLicencesNeededResponse) []export.Fact {
			said := func(n *meteringv1.NamedLicences) string {
				return fmt.Sprintf("%d had it open, %d of them were busy", n.GetOpen(), n.GetBusy())
			}
			return []export.Fact{{Name: "One licence each, people", Value: said(a.GetPeople())}, {Name: "One licence each, machines", Value: said(a.GetMachines())}}
		})
	t.currency = "smallest unit"
	if unit, err := currency.ParseISO(q.GetCurrencyCode()); err == nil {
		t.currency = unit.String()
		t.digits, _ = currency.Standard.Rounding(unit)
	}
	return t
}

func rankingTable(api *reportAPI, q *meteringv1.RankUsageRequest) *reportTable {
	type row = *meteringv1.UsageRank
	columns := []column[row]{countColumn("Rank", row.GetRank), countColumn("Rank before", row.GetCompareRank)}
	switch q.GetGroupBy() {
	case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
		columns = append(columns, personOfRow[row]()...)
	case meteringv1.GroupBy_GROUP_BY_MACHINE:
		columns = append(columns, machineOfRow[row]()...)
	case meteringv1.GroupBy_GROUP_BY_GROUP:
		columns = append(columns, groupOfRow[row]()...)
	case meteringv1.GroupBy_GROUP_BY_SITE:
		columns = append(columns, siteOfRow[row]()...)
	default:
		columns = append(columns, applicationOfRow[row]()...)
	}
	columns = append(columns, totalColumns(row.GetTotals)...)
	columns = append(columns, countColumn("People", row.GetPeople))
	columns = append(columns, beforeColumns(row.GetCompareTotals)...)
	columns = append(columns, countColumn("People before", row.GetComparePeople))
	return once("Ranking", "ranking", q, columns,
		func(ctx context.Context) (*meteringv1.RankUsageResponse, error) { return api.RankUsage(ctx, q) },
		(*meteringv1.RankUsageResponse).GetRanks,
		func(a *meteringv1.RankUsageResponse) []export.Fact {
			return []export.Fact{
				{Name: "In all", Value: fmt.Sprintf("%d, of which %d are listed", a.GetTotalRanks(), len(a.GetRanks()))},
				{Name: "Before", Value: a.GetCompareStartTime().AsTime().Format(time.RFC3339) + " to " + a.GetCompareEndTime().AsTime().Format(time.RFC3339)},
			}
		})
}

func unusedTable(api *reportAPI, q *meteringv1.ListUnusedRequest) *reportTable {
	type row = *meteringv1.UnusedApplication
	columns := applicationOfRow[row]()
	if q.GetBy() != meteringv1.UnusedBy_UNUSED_BY_MACHINE {
		columns = append(columns, personOfRow[row]()...)
	}
	if q.GetBy() == meteringv1.UnusedBy_UNUSED_BY_MACHINE || q.GetBy() == meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE {
		columns = append(columns, machineOfRow[row]()...)
	}
	columns = append(columns, timeColumn("Last busy", row.GetLastBusyTime), timeColumn("Last open", row.GetLastOpenTime))
	columns = append(columns, totalColumns(row.GetTotals)...)
	if isCompared(q) {
		columns = append(columns, beforeColumns(row.GetCompareTotals)...)
	}
	return &reportTable{
		title: "Unused", file: "unused", question: q, columns: columnsOf(columns), list: "unused",
		done: func(answer proto.Message, rows int64) portion {
			a, _ := answer.(*meteringv1.ListUnusedResponse)
			return portionOf(rows, a.GetTotalUnused())
		},
		ask: func(ctx context.Context, token string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			q.PageSize, q.PageToken = groupsAtOnce, token
			answer, err := api.ListUnused(ctx, q)
			return answer, rowsOf(columns, answer.GetUnused()), answer.GetNextPageToken(), err
		},
		facts: func(answer proto.Message) []export.Fact {
			a, _ := answer.(*meteringv1.ListUnusedResponse)
			facts := []export.Fact{{Name: "In all", Value: fmt.Sprintf("%d of %d that have ever opened one", a.GetTotalUnused(), a.GetTotalKnown())}}
			if c := a.GetCompare(); c != nil {
				facts = append(facts, export.Fact{Name: "In all, before", Value: fmt.Sprintf("%d of %d that had opened one by then", c.GetTotalUnused(), c.GetTotalKnown())})
			}
			return facts
		},
	}
}

func idleTable(api *reportAPI, q *meteringv1.QueryIdleRequest) *reportTable {
	type row = *meteringv1.IdleGroup
	columns := append(applicationOfRow[row](), personOfRow[row]()...)
	columns = append(columns,
		lengthColumn("Idle", func(g row) *durationpb.Duration { return g.GetTime().GetIdle() }),
		countColumn("Stretches", func(g row) int64 { return g.GetTime().GetStretches() }),
		lengthColumn("Longest", func(g row) *durationpb.Duration { return g.GetTime().GetLongest() }),
		countColumn("Days", func(g row) int64 { return g.GetTime().GetDays() }),
		lengthColumn("Open", func(g row) *durationpb.Duration { return g.GetTime().GetOpen() }),
		lengthColumn("Busy", func(g row) *durationpb.Duration { return g.GetTime().GetBusy() }))
	return once("Idle", "idle", q, columns,
		func(ctx context.Context) (*meteringv1.QueryIdleResponse, error) { return api.QueryIdle(ctx, q) },
		(*meteringv1.QueryIdleResponse).GetPeople,
		func(a *meteringv1.QueryIdleResponse) []export.Fact {
			facts := []export.Fact{{Name: "Idle in all", Value: a.GetTotal().GetIdle().AsDuration().String()}}
			if c := a.GetCompare(); c.GetTotal() != nil {
				facts = append(facts, export.Fact{Name: "Idle in all, before", Value: c.GetTotal().GetIdle().AsDuration().String()})
			}
			if n := len(a.GetPeople()); n == maxIdlePeople {
				facts = append(facts, export.Fact{Name: "Not all", Value: fmt.Sprintf("Only the %d with the greatest totals are listed.", n)})
			}
			return facts
		})
}
