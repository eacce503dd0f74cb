package metering

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// What a report is compared with is what the same report answers for that period.
func TestComparisonsAreTheReportOfTheOtherPeriod(t *testing.T) {
	s := newService(t, Config{})
	usage, reports := &usageAPI{service: s}, &reportAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		ctx := as(t.Context(), w.account)
		if rapid.Bool().Draw(t, "own") {
			ctx = asOwn(t.Context(), w.account, w.persons[0])
		}
		from, to := drawPeriod(t, w, 4)
		otherFrom, otherTo := drawPeriod(t, w, 4)
		filter := drawFilter(t, w)
		named := rapid.Bool().Draw(t, "named") // or the one just before
		if !named {
			otherTo = from
			otherFrom = millisStamp(max(0, 2*from.AsTime().UnixMilli()-to.AsTime().UnixMilli()))
		}
		compared := func(req proto.Message) {
			m := req.ProtoReflect()
			if named {
				start, end := m.Descriptor().Fields().ByName("compare_start_time"), m.Descriptor().Fields().ByName("compare_end_time")
				m.Set(start, protoreflect.ValueOfMessage(otherFrom.ProtoReflect()))
				m.Set(end, protoreflect.ValueOfMessage(otherTo.ProtoReflect()))
				return
			}
			m.Set(m.Descriptor().Fields().ByName("compare"), protoreflect.ValueOfBool(true))
		}
		same := func(what string, want, got proto.Message, errs ...error) {
			t.Helper()
			for _, err := range errs {
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("%s (-the report of that period +what it is compared with): %s", what, diff)
			}
		}

		summary := drawSummary(t, w)
		summary.StartTime, summary.EndTime, summary.Filter, summary.PageToken = from, to, filter, ""
		other := proto.CloneOf(summary)
		other.StartTime, other.EndTime, other.PageSize = otherFrom, otherTo, 10000
		compared(summary)
		want, err := usage.SummarizeUsage(ctx, other)
		if err != nil {
			t.Fatal(err)
		}
		key := func(g *meteringv1.UsageGroup) string {
			return g.GetApplicationId() + "/" + g.GetPrincipalId() + "/" + g.GetMachineId() + "/" + g.GetDocumentId() + "/" + g.GetGroupId() + "/" + g.GetManagerId()
		}
		was := map[string]*meteringv1.UsageTotals{}
		for _, g := range want.GetGroups() {
			was[key(g)] = g.GetTotals()
		}
		none := &Totals{}
		for first := true; first || summary.GetPageToken() != ""; first = false {
			got, err := usage.SummarizeUsage(ctx, summary)
			same("totals", want.GetTotals(), got.GetCompare().GetTotals(), err)
			same("start", otherFrom, got.GetCompare().GetStartTime())
			for _, g := range got.GetGroups() {
				if g.GetStartTime() != nil {
					if g.GetCompareTotals() != nil {
						t.Fatalf("%v is a day of one period, and is compared", g)
					}
					continue
				}
				before := was[key(g)]
				if before == nil {
					before = none.message()
				}
				same("group", before, g.GetCompareTotals())
			}
			summary.PageToken = got.GetNextPageToken()
		}

		concurrency := &meteringv1.QueryConcurrencyRequest{StartTime: from, EndTime: to, Filter: filter, Step: durationpb.New(24 * time.Hour), GiveBackAfter: durationpb.New(time.Minute), Metric: meteringv1.Metric(rapid.Int32Range(0, 5).Draw(t, "metric"))}
		otherPeaks := proto.CloneOf(concurrency)
		otherPeaks.StartTime, otherPeaks.EndTime = otherFrom, otherTo
		compared(concurrency)
		wantPeaks, err1 := usage.QueryConcurrency(ctx, otherPeaks)
		gotPeaks, err2 := usage.QueryConcurrency(ctx, concurrency)
		same("concurrency", &meteringv1.ConcurrencyComparison{
			StartTime: otherFrom, EndTime: otherTo, Open: wantPeaks.GetOpen(), Busy: wantPeaks.GetBusy(), NotTimedOut: wantPeaks.GetNotTimedOut(), GivenBack: wantPeaks.GetGivenBack(),
		}, gotPeaks.GetCompare(), err1, err2)

		distribution := &meteringv1.QueryDistributionRequest{StartTime: from, EndTime: to, Filter: filter}
		otherSpread := proto.CloneOf(distribution)
		otherSpread.StartTime, otherSpread.EndTime = otherFrom, otherTo
		compared(distribution)
		wantSpread, err1 := reports.QueryDistribution(ctx, otherSpread)
		gotSpread, err2 := reports.QueryDistribution(ctx, distribution)
		same("distribution", &meteringv1.DistributionComparison{
			StartTime: otherFrom, EndTime: otherTo, Parts: wantSpread.GetParts(), Count: wantSpread.GetCount(), Total: wantSpread.GetTotal(), Median: wantSpread.GetMedian(), P90: wantSpread.GetP90(), Greatest: wantSpread.GetGreatest(),
		}, gotSpread.GetCompare(), err1, err2)

		sessions := &meteringv1.SummarizeSessionsRequest{StartTime: from, EndTime: to, Filter: filter, GroupBy: meteringv1.SessionGroupBy(rapid.Int32Range(0, 4).Draw(t, "sessions by")), PageSize: 10000}
		otherSessions := proto.CloneOf(sessions)
		otherSessions.StartTime, otherSessions.EndTime = otherFrom, otherTo
		compared(sessions)
		wantSessions, err1 := reports.SummarizeSessions(ctx, otherSessions)
		gotSessions, err2 := reports.SummarizeSessions(ctx, sessions)
		same("sessions", wantSessions.GetTotal(), gotSessions.GetCompare().GetTotal(), err1, err2)
		wasIn := map[string]*meteringv1.SessionGroup{}
		name := func(g *meteringv1.SessionGroup) string {
			return g.GetApplicationId() + "/" + g.GetPrincipalId() + "/" + g.GetMachineId()
		}
		for _, g := range wantSessions.GetGroups() {
			wasIn[name(g)] = g
		}
		for _, g := range gotSessions.GetGroups() {
			if g.GetSessionId() != "" {
				continue
			}
			before := wasIn[name(g)].GetSessionTime()
			if before == nil {
				before = none.message()
			}
			same("session group", before, g.GetCompareSessionTime())
			if g.GetCompareSessions() != wasIn[name(g)].GetSessions() {
				t.Fatalf("%d sessions before, want %d", g.GetCompareSessions(), wasIn[name(g)].GetSessions())
			}
		}

		// Whoever opened a program only after that period is in none of its lists.
		unused := &meteringv1.ListUnusedRequest{StartTime: from, EndTime: to, Filter: filter, By: meteringv1.UnusedBy(rapid.Int32Range(0, 3).Draw(t, "unused by")), PageSize: 10000}
		unused.BusyLessThan = rapid.SampledFrom([]*durationpb.Duration{nil, durationpb.New(time.Minute), durationpb.New(time.Hour)}).Draw(t, "less than")
		otherUnused := proto.CloneOf(unused)
		otherUnused.StartTime, otherUnused.EndTime = otherFrom, otherTo
		ever := proto.CloneOf(otherUnused)
		ever.StartTime, ever.BusyLessThan = millisStamp(max(0, otherTo.AsTime().UnixMilli()-(maxReportDays*96-1)*quarterMillis)), durationpb.New(1000*24*time.Hour)
		compared(unused)
		gotUnused, err1 := reports.ListUnused(ctx, unused)
		wantUnused, err2 := reports.ListUnused(ctx, otherUnused)
		known, err3 := reports.ListUnused(ctx, ever) // all, each with what it had by then
		for _, err := range []error{err1, err2, err3} {
			if err != nil {
				t.Fatal(err)
			}
		}
		pair := func(u *meteringv1.UnusedApplication) string {
			return u.GetApplicationId() + "/" + u.GetPrincipalId() + "/" + u.GetMachineId()
		}
		then := map[string]bool{}
		for _, u := range known.GetUnused() {
			if p := u.GetTotals(); p.GetOpen().AsDuration() > 0 || p.GetInstances() > 0 || p.GetTimeouts() > 0 {
				then[pair(u)] = true
			}
		}
		listed, busy := int64(0), map[string]*meteringv1.UsageTotals{}
		for _, u := range wantUnused.GetUnused() {
			busy[pair(u)] = u.GetTotals()
			if then[pair(u)] {
				listed++
			}
		}
		if c := gotUnused.GetCompare(); c.GetTotalUnused() != listed || c.GetTotalKnown() != int64(len(then)) {
			t.Fatalf("%d of %d had not used it before, want %d of %d", c.GetTotalUnused(), c.GetTotalKnown(), listed, len(then))
		}
		for _, u := range gotUnused.GetUnused() {
			if before := busy[pair(u)]; before != nil {
				same("unused", before, u.GetCompareTotals())
			}
		}
	})
}
