package metering

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/text/currency"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/metering/export"
)

// timelineRowsAtOnce is few, since a row may have thousands of bars.
const timelineRowsAtOnce = 100

// timelineLine is one bar of a row, or of a document of it.
type timelineLine struct {
	*meteringv1.TimelineRow
	document *meteringv1.TimelineDocument
	bar      *meteringv1.TimelineBar
}

func timelineTable(api *reportAPI, q *meteringv1.QueryTimelineRequest) *reportTable {
	type row = timelineLine
	var columns []column[row]
	switch q.GetRowBy() {
	case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL:
		columns = personOfRow[row]()
	case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_MACHINE:
		columns = machineOfRow[row]()
	case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_APPLICATION:
		columns = applicationOfRow[row]()
	default:
		columns = append(append(applicationOfRow[row](), personOfRow[row]()...), machineOfRow[row]()...)
		columns = append(columns, textColumn("Instance id", func(l row) string { return l.GetInstanceId() }), textColumn("Session id", func(l row) string { return l.GetSessionId() }))
	}
	if q.GetDocuments() {
		columns = append(columns, textColumn("Document", func(l row) string { return l.document.GetDocumentName() }), textColumn("Document id", func(l row) string { return l.document.GetDocumentId() }))
	}
	columns = append(columns, stretchColumns(func(l row) attended { return l.bar })...)
	if q.GetResolution() != nil {
		for _, c := range totalColumns(func(l row) *meteringv1.UsageTotals { return l.bar.GetTotals() }) {
			if c.kind == export.Duration { // timeouts and instances are not told
				columns = append(columns, c)
			}
		}
	} else {
		columns = append(columns, textColumn("Event id", func(l row) string { return l.bar.GetEventId() }))
	}
	lines := func(rows []*meteringv1.TimelineRow) (all []row) {
		for _, r := range rows {
			for _, b := range r.GetBars() {
				all = append(all, row{TimelineRow: r, bar: b})
			}
			for _, d := range r.GetDocuments() {
				for _, b := range d.GetBars() {
					all = append(all, row{TimelineRow: r, document: d, bar: b})
				}
			}
		}
		return all
	}
	return &reportTable{
		title: "Timeline", file: "timeline", question: q, columns: columnsOf(columns), list: "rows",
		done: func(answer proto.Message, _ int64) portion {
			a, _ := answer.(*meteringv1.QueryTimelineResponse)
			if q.GetRowBy() != meteringv1.TimelineRowBy_TIMELINE_ROW_BY_UNSPECIFIED && q.GetRowBy() != meteringv1.TimelineRowBy_TIMELINE_ROW_BY_INSTANCE || len(a.GetRows()) == 0 {
				return portion{}
			}
			bars := a.GetRows()[len(a.GetRows())-1].GetBars()
			if len(bars) == 0 {
				return portion{}
			}
			return backTo(q, bars[0].GetStartTime())
		},
		ask: func(ctx context.Context, token string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			q.PageSize, q.PageToken = timelineRowsAtOnce, token
			answer, err := api.QueryTimeline(ctx, q)
			return answer, rowsOf(columns, lines(answer.GetRows())), answer.GetNextPageToken(), err
		},
		facts: func(answer proto.Message) []export.Fact {
			a, _ := answer.(*meteringv1.QueryTimelineResponse)
			facts := []export.Fact{{Name: "Bars", Value: "exact"}}
			if a.GetResolution() != nil {
				facts[0].Value = "in steps of " + a.GetResolution().AsDuration().String() + ", each told by the attention that prevails in it"
			}
			if q.GetDocuments() {
				facts = append(facts, export.Fact{Name: "Documents", Value: "lines with a document are of the same time as lines without"})
			}
			return facts
		},
	}
}

func sessionsTable(api *reportAPI, q *meteringv1.SummarizeSessionsRequest) *reportTable {
	type row = *meteringv1.SessionGroup
	var columns []column[row]
	switch q.GetGroupBy() {
	case meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL:
		columns = personOfRow[row]()
	case meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION:
		columns = applicationOfRow[row]()
	case meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE:
		columns = machineOfRow[row]()
	default:
		columns = append(append(columns, personOfRow[row]()...), machineOfRow[row]()...)
		columns = append(columns, textColumn("Session id", row.GetSessionId))
	}
	columns = append(columns, timeColumn("From", row.GetStartTime), timeColumn("To", row.GetEndTime),
		countColumn("Sessions", row.GetSessions), countColumn("Instances", row.GetInstances), countColumn("Applications", row.GetApplications))
	for _, c := range totalColumns(row.GetSessionTime) {
		if c.kind == export.Duration { // timeouts and instances are not told
			columns = append(columns, c)
		}
	}
	columns = append(columns,
		lengthColumn("Open, of all instances", func(g row) *durationpb.Duration { return g.GetInstanceTime().GetOpen() }),
		lengthColumn("Busy, of all instances", func(g row) *durationpb.Duration { return g.GetInstanceTime().GetBusy() }))
	if isCompared(q) && q.GetGroupBy() > meteringv1.SessionGroupBy_SESSION_GROUP_BY_SESSION {
		columns = append(columns, countColumn("Sessions before", row.GetCompareSessions),
			lengthColumn("Open before", func(g row) *durationpb.Duration { return g.GetCompareSessionTime().GetOpen() }),
			lengthColumn("Busy before", func(g row) *durationpb.Duration { return g.GetCompareSessionTime().GetBusy() }))
	}
	return &reportTable{
		title: "Sessions", file: "sessions", question: q, columns: columnsOf(columns), list: "groups",
		done: func(answer proto.Message, rows int64) portion {
			a, _ := answer.(*meteringv1.SummarizeSessionsResponse)
			return portionOf(rows, a.GetTotalGroups())
		},
		ask: func(ctx context.Context, token string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			q.PageSize, q.PageToken = groupsAtOnce, token
			answer, err := api.SummarizeSessions(ctx, q)
			return answer, rowsOf(columns, answer.GetGroups()), answer.GetNextPageToken(), err
		},
		facts: func(answer proto.Message) []export.Fact {
			a, _ := answer.(*meteringv1.SummarizeSessionsResponse)
			said := func(g *meteringv1.SessionGroup) string {
				return fmt.Sprintf("%d sessions, each once, in use for %s", g.GetSessions(), g.GetSessionTime().GetOpen().AsDuration())
			}
			facts := []export.Fact{{Name: "In all", Value: said(a.GetTotal())}}
			if c := a.GetCompare(); c.GetTotal() != nil {
				facts = append(facts, export.Fact{Name: "In all, before", Value: said(c.GetTotal())})
			}
			return facts
		},
	}
}

func sessionChangesTable(api *reportAPI, q *meteringv1.ListSessionChangesRequest) *reportTable {
	type row = *meteringv1.SessionChange
	columns := append([]column[row]{
		textColumn("Application", row.GetApplicationName), textColumn("Application id", row.GetApplicationId), textColumn("Instance id", row.GetInstanceId),
	}, intervalColumns(row.GetInterval)...)
	return &reportTable{
		title: "Session", file: "session", question: q, columns: columnsOf(columns), list: "changes",
		ask: func(ctx context.Context, token string) (proto.Message, func(func(...export.Value) error) error, string, error) {
			q.PageSize, q.PageToken = intervalsAtOnce, token
			answer, err := api.ListSessionChanges(ctx, q)
			return answer, rowsOf(columns, answer.GetChanges()), answer.GetNextPageToken(), err
		},
		facts: func(answer proto.Message) []export.Fact {
			a, _ := answer.(*meteringv1.ListSessionChangesResponse)
			return []export.Fact{{Name: "Person", Value: a.GetPrincipalName() + " " + a.GetPrincipalId()}, {Name: "Machine", Value: a.GetMachineName() + " " + a.GetMachineId()}}
		},
	}
}

// distributionLine is a part, and the same part of another period.
type distributionLine struct {
	*meteringv1.DistributionPart
	before *meteringv1.DistributionPart
}

func distributionTable(api *reportAPI, q *meteringv1.QueryDistributionRequest) *reportTable {
	type row = distributionLine
	who := "People"
	if q.GetGroupBy() == meteringv1.GroupBy_GROUP_BY_MACHINE {
		who = "Machines"
	}
	columns := []column[row]{
		lengthColumn("At least", func(l row) *durationpb.Duration { return l.GetFrom() }), lengthColumn("Less than", func(l row) *durationpb.Duration { return l.GetTo() }),
		countColumn(who, func(l row) int64 { return l.GetCount() }), lengthColumn("Together", func(l row) *durationpb.Duration { return l.GetTotal() }),
	}
	if isCompared(q) {
		columns = append(columns, countColumn(who+" before", func(l row) int64 { return l.before.GetCount() }), lengthColumn("Together before", func(l row) *durationpb.Duration { return l.before.GetTotal() }))
	}
	return once("Distribution", "distribution", q, columns,
		func(ctx context.Context) (*meteringv1.QueryDistributionResponse, error) {
			return api.QueryDistribution(ctx, q)
		},
		func(a *meteringv1.QueryDistributionResponse) (lines []row) {
			for i, part := range a.GetParts() {
				l := row{DistributionPart: part}
				if before := a.GetCompare().GetParts(); i < len(before) {
					l.before = before[i]
				}
				lines = append(lines, l)
			}
			return lines
		},
		func(a *meteringv1.QueryDistributionResponse) []export.Fact {
			facts := distributionFacts(a, "")
			if a.GetCompare() != nil {
				facts = append(facts, distributionFacts(a.GetCompare(), ", before")...)
			}
			return facts
		})
}

// distributionFacts are what a distribution, or the one that it is compared with, tells beside its parts.
func distributionFacts(a interface {
	GetCount() int64
	GetTotal() *durationpb.Duration
	GetMedian() *durationpb.Duration
	GetP90() *durationpb.Duration
	GetGreatest() *durationpb.Duration
}, when string,
) []export.Fact {
	return []export.Fact{
		{Name: "In all" + when, Value: fmt.Sprintf("%d with %s", a.GetCount(), a.GetTotal().AsDuration())},
		{Name: "The middle one, nine of ten, and all have at most" + when, Value: fmt.Sprintf("%s, %s, %s", a.GetMedian().AsDuration(), a.GetP90().AsDuration(), a.GetGreatest().AsDuration())},
	}
}

// forecastLine is a day that was or is to come.
type forecastLine struct {
	date string
	peak *int64
	*meteringv1.ForecastRange
}

func forecastTable(api *reportAPI, q *meteringv1.ForecastDemandRequest) *reportTable {
	type row = forecastLine
	ahead := func(l row) bool { return l.ForecastRange != nil }
	var zone *time.Location
	columns := []column[row]{
		{"Day", export.Date, func(l row) export.Value {
			day, err := time.ParseInLocation(time.DateOnly, l.date, zone)
			if err != nil {
				return export.Value{}
			}
			return export.OfTime(day.Add(12 * time.Hour)) // not every day begins at midnight
		}},
		maybeColumn("Peak", export.Count, func(l row) bool { return l.peak != nil }, func(l row) int64 { return *l.peak }),
		maybeColumn("Expected", export.Count, ahead, func(l row) int64 { return l.GetExpected() }),
		maybeColumn("Low", export.Count, ahead, func(l row) int64 { return l.GetLow() }),
		maybeColumn("High", export.Count, ahead, func(l row) int64 { return l.GetHigh() }),
	}
	return once("Forecast", "forecast", q, columns,
		func(ctx context.Context) (*meteringv1.ForecastDemandResponse, error) {
			answer, err := api.ForecastDemand(ctx, q)
			if err != nil {
				return nil, err
			}
			zone, err = loadZone(answer.GetTimeZone())
			return answer, err
		},
		func(a *meteringv1.ForecastDemandResponse) (lines []row) {
			for _, day := range a.GetHistory() {
				lines = append(lines, row{date: day.GetDate(), peak: &day.Peak})
			}
			for _, day := range a.GetDays() {
				lines = append(lines, row{date: day.GetDate(), ForecastRange: day.GetPeak()})
			}
			return lines
		},
		func(a *meteringv1.ForecastDemandResponse) []export.Fact {
			peak, back := a.GetPeak(), a.GetLookBack()
			facts := []export.Fact{
				{Name: "Highest of the days to come", Value: fmt.Sprintf("%d; four of five times %d to %d", peak.GetExpected(), peak.GetLow(), peak.GetHigh())},
				{Name: "Made from", Value: enumWord(a.GetModel(), "FORECAST_MODEL_")},
				{Name: "How wrong it would have been", Value: fmt.Sprintf("%.1f in the mean, in %d periods of %d days; too high by %.1f in the mean; %.1f for who buys the most of so far", back.GetMeanError(), back.GetPeriods(), back.GetDays(), back.GetMeanBias(), back.GetNaiveMeanError())},
			}
			if unit, err := currency.ParseISO(a.GetCurrencyCode()); err == nil && a.CostMinorUnits != nil {
				digits, _ := currency.Standard.Rounding(unit)
				facts = append(facts, export.Fact{Name: "Cost", Value: fmt.Sprintf("%s %s, or %s for the highest bound", export.Decimal(a.GetCostMinorUnits(), digits), unit, export.Decimal(a.GetCostHighMinorUnits(), digits))})
			}
			return facts
		})
}

// qualityLine is one thing that is known of how far figures can be trusted.
type qualityLine struct {
	what, name, grade string
	count             *int64
	time, open        *durationpb.Duration
	share             *int64
	last              *timestamppb.Timestamp
	ids               string
}

func qualityTable(api *usageAPI, q *meteringv1.GetDataQualityRequest) *reportTable {
	type row = qualityLine
	columns := []column[row]{
		textColumn("What", func(l row) string { return l.what }), textColumn("Name", func(l row) string { return l.name }), textColumn("Grade", func(l row) string { return l.grade }),
		maybeColumn("How many", export.Count, func(l row) bool { return l.count != nil }, func(l row) int64 { return *l.count }),
		lengthColumn("How long", func(l row) *durationpb.Duration { return l.time }), lengthColumn("Open", func(l row) *durationpb.Duration { return l.open }),
		{"Of the open time", export.Share, func(l row) export.Value {
			if l.share == nil {
				return export.Value{}
			}
			return export.OfShare(float64(*l.share) / 1e6)
		}},
		timeColumn("Last", func(l row) *timestamppb.Timestamp { return l.last }), textColumn("Ids", func(l row) string { return l.ids }),
	}
	return once("Data quality", "data-quality", q, columns,
		func(ctx context.Context) (*meteringv1.GetDataQualityResponse, error) {
			return api.GetDataQuality(ctx, q)
		},
		func(a *meteringv1.GetDataQualityResponse) (lines []row) {
			for _, f := range a.GetPeriod().GetFindings() {
				l := row{what: "finding", name: enumWord(f.GetIssue(), "QUALITY_ISSUE_"), grade: enumWord(f.GetGrade(), "QUALITY_GRADE_"), time: f.GetTime(), ids: strings.Join(f.GetAgentIds(), ", ")}
				if f.GetTime() != nil {
					l.share = &f.PerMillion
				} else {
					l.count = &f.Count
				}
				lines = append(lines, l)
			}
			for _, m := range a.GetPeriod().GetUnknownMachines() {
				lines = append(lines, row{what: "machine of which some time is unknown", name: m.GetMachineName(), time: m.GetTotals().GetUnknown(), open: m.GetTotals().GetOpen(), ids: m.GetMachineId()})
			}
			for _, reason := range a.GetQuarantined() {
				lines = append(lines, row{what: "set aside", name: reason.GetReason(), count: &reason.Count, last: reason.GetLastTime()})
			}
			for _, agent := range a.GetAgents() {
				lines = append(lines, row{what: "agent: records missing, and how far its clock is off", name: agent.GetMachineName(), count: &agent.Missing, time: agent.GetSkew(), last: agent.GetLastReceivedTime(), ids: agent.GetAgentId()})
			}
			return lines
		},
		func(a *meteringv1.GetDataQualityResponse) []export.Fact {
			facts := []export.Fact{{Name: "Events counted", Value: fmt.Sprint(a.GetEventsCounted())}, {Name: "Came again, and counted once", Value: fmt.Sprint(a.GetDuplicatesDropped())}}
			if p := a.GetPeriod(); p != nil {
				facts = append(facts, export.Fact{Name: "Grade", Value: enumWord(p.GetGrade(), "QUALITY_GRADE_")}, export.Fact{Name: "In the period", Value: fmt.Sprintf("%s open on %d machines, told by %d agents", p.GetTotals().GetOpen().AsDuration(), p.GetMachines(), p.GetAgents())})
			}
			return facts
		})
}

func accountUseTable(api *reportAPI, q *meteringv1.QueryAccountUseRequest) *reportTable {
	type row = *meteringv1.AccountUse
	columns := []column[row]{textColumn("Month", row.GetMonth), textColumn("Application", row.GetApplicationName), textColumn("Application id", row.GetApplicationId)}
	figures := func(prefix string, of func(row) *meteringv1.AccountUseFigures) {
		told := func(u row) bool { return of(u) != nil }
		columns = append(columns,
			maybeColumn(prefix+"people", export.Count, told, func(u row) int64 { return of(u).GetPeople() }),
			lengthColumn(prefix+"time", func(u row) *durationpb.Duration { return of(u).GetTime() }),
			maybeColumn(prefix+"people at once", export.Count, told, func(u row) int64 { return of(u).GetPeak() }))
	}
	figures("Open, ", row.GetOpen)
	figures("Busy, ", row.GetBusy)
	return once("Use of the account", "account-use", q, columns,
		func(ctx context.Context) (*meteringv1.QueryAccountUseResponse, error) {
			return api.QueryAccountUse(ctx, q)
		},
		(*meteringv1.QueryAccountUseResponse).GetUses,
		func(a *meteringv1.QueryAccountUseResponse) []export.Fact {
			return []export.Fact{{Name: "Behind each figure", Value: fmt.Sprintf("at least %d people; %d applications and months of fewer are left out", a.GetSmallestGroup(), a.GetWithheld())}}
		})
}

// liveLine is one run that is open in a desktop session.
type liveLine struct {
	*meteringv1.LiveSession
	run *meteringv1.LiveInstance
}

func liveTable(api *usageAPI, q *meteringv1.StreamLiveUsageRequest) *reportTable {
	type row = liveLine
	columns := []column[row]{
		textColumn("Person", func(l row) string { return l.GetPrincipalName() }), textColumn("Person id", func(l row) string { return l.GetPrincipalId() }),
	}
	columns = append(columns, machineOfRow[row]()...)
	columns = append(columns,
		textColumn("Application", func(l row) string { return l.run.GetApplicationName() }), textColumn("Application id", func(l row) string { return l.run.GetApplicationId() }),
		textColumn("State", func(l row) string { return enumWord(l.run.GetState(), "STATE_") }), textColumn("Attention", func(l row) string { return enumWord(l.run.GetAttention(), "ATTENTION_") }),
		timeColumn("Since", func(l row) *timestamppb.Timestamp { return l.run.GetSinceTime() }), timeColumn("Opened", func(l row) *timestamppb.Timestamp { return l.run.GetOpenTime() }),
		textColumn("Document", func(l row) string { return l.run.GetDocumentName() }), textColumn("Document id", func(l row) string { return l.run.GetDocumentId() }),
		textColumn("Shown", func(l row) string { return enumWord(l.GetSessionAccess(), "SESSION_ACCESS_") }), timeColumn("Observed", func(l row) *timestamppb.Timestamp { return l.GetObserveTime() }),
		textColumn("Instance id", func(l row) string { return l.run.GetInstanceId() }), textColumn("Session id", func(l row) string { return l.GetSessionId() }))
	return once("Now", "now", q, columns,
		func(ctx context.Context) (*meteringv1.StreamLiveUsageResponse, error) { return api.liveNow(ctx, q) },
		func(a *meteringv1.StreamLiveUsageResponse) (lines []row) {
			for _, session := range a.GetSessions() {
				for _, run := range session.GetInstances() {
					lines = append(lines, row{session, run})
				}
			}
			return lines
		}, nil)
}
