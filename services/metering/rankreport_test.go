package metering

import (
	"cmp"
	"slices"
	"strings"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/agentlog"
)

// plainGroups walks the events for one period.
func plainGroups(w *world, from, to *timestamppb.Timestamp, f *meteringv1.UsageFilter, by ...meteringv1.GroupBy) (map[string]Totals, Totals) {
	return scan(w, &meteringv1.SummarizeUsageRequest{StartTime: from, EndTime: to, Filter: f, GroupBy: by, TimeZone: "UTC"})
}

func checkRanking(t *rapid.T, w *world, api *reportAPI) {
	by := rapid.SampledFrom([]meteringv1.GroupBy{1, 2, 3, 7, 8}).Draw(t, "by")
	req := &meteringv1.RankUsageRequest{Filter: drawFilter(t, w), GroupBy: by, RankBy: meteringv1.RankBy(rapid.IntRange(0, 4).Draw(t, "rank by"))}
	req.StartTime, req.EndTime = drawPeriod(t, w, 30)
	if rapid.Bool().Draw(t, "compared with some period") {
		req.CompareStartTime, req.CompareEndTime = drawPeriod(t, w, 30)
	}
	resp, err := api.RankUsage(as(t.Context(), w.account), req)
	if err != nil {
		t.Fatal(err)
	}
	before, until := req.GetCompareStartTime(), req.GetCompareEndTime()
	if before == nil {
		until = req.GetStartTime()
		before = timestamppb.New(req.GetStartTime().AsTime().Add(req.GetStartTime().AsTime().Sub(req.GetEndTime().AsTime())))
	}
	var plain [2]map[string]Totals
	var totals [2]Totals
	var people [2]map[string]int64
	for i, p := range [][2]*timestamppb.Timestamp{{req.GetStartTime(), req.GetEndTime()}, {before, until}} {
		plain[i], totals[i] = plainGroups(w, p[0], p[1], req.GetFilter(), by)
		people[i] = make(map[string]int64)
		of := []meteringv1.GroupBy{by, meteringv1.GroupBy_GROUP_BY_PRINCIPAL}
		if by == meteringv1.GroupBy_GROUP_BY_PRINCIPAL {
			of = of[:1]
		}
		each, _ := plainGroups(w, p[0], p[1], req.GetFilter(), of...)
		for name, g := range each {
			if g.Open() > 0 {
				people[i][" "+strings.Fields(name)[0]]++
			}
		}
	}
	value := func(i int, name string) int64 {
		t := plain[i][name]
		return []int64{t.Millis[4], t.Millis[4], t.Open().Milliseconds(), t.Instances, people[i][name]}[req.GetRankBy()]
	}
	// Its place is how many are ahead of it.
	place := func(i int, name string) (rank int64) {
		for other, g := range plain[i] {
			if g != (Totals{}) && (value(i, other) > value(i, name) || value(i, other) == value(i, name) && other <= name) {
				rank++
			}
		}
		return rank
	}
	names := make(map[string]bool)
	for _, groups := range plain {
		for name, g := range groups {
			if g != (Totals{}) {
				names[name] = true
			}
		}
	}
	want := &meteringv1.RankUsageResponse{
		TotalRanks: int64(len(names)), Totals: totals[0].message(), CompareTotals: totals[1].message(), CompareStartTime: before, CompareEndTime: until, Position: resp.GetPosition(),
	}
	for name := range names {
		now, then := plain[0][name], plain[1][name]
		row := &meteringv1.UsageRank{Totals: now.message(), CompareTotals: then.message(), People: people[0][name], ComparePeople: people[1][name]}
		if then != (Totals{}) {
			row.CompareRank = place(1, name)
		}
		if now != (Totals{}) {
			row.Rank = place(0, name)
		}
		id := name[2:]
		switch by {
		case meteringv1.GroupBy_GROUP_BY_APPLICATION:
			row.ApplicationId = id
		case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
			row.PrincipalId = id
		case meteringv1.GroupBy_GROUP_BY_GROUP:
			row.GroupId = id
			if id != "" {
				row.GroupName = "of " + id
			}
		case meteringv1.GroupBy_GROUP_BY_SITE:
			row.ManagerId = id
		default:
			row.MachineId = id
		}
		want.Ranks = append(want.Ranks, row)
	}
	rankOf := func(r *meteringv1.UsageRank) int64 {
		if r.GetRank() == 0 {
			return 1 << 40
		}
		return r.GetRank()
	}
	id := func(r *meteringv1.UsageRank) string {
		return r.GetApplicationId() + r.GetPrincipalId() + r.GetMachineId() + r.GetGroupId() + r.GetManagerId()
	}
	slices.SortFunc(want.GetRanks(), func(a, b *meteringv1.UsageRank) int {
		return cmp.Or(cmp.Compare(rankOf(a), rankOf(b)), strings.Compare(id(a), id(b)))
	})
	for i, r := range want.GetRanks() {
		r.Rank = int64(i) + 1
	}
	if diff := gocmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Fatalf("%v (-events +answer):\n%s", req, diff)
	}
}

func checkUnused(t *rapid.T, w *world, api *reportAPI) {
	req := &meteringv1.ListUnusedRequest{Filter: drawFilter(t, w), By: meteringv1.UnusedBy(rapid.IntRange(0, 3).Draw(t, "by")), PageSize: rapid.SampledFrom([]int32{0, 1, 3}).Draw(t, "page")}
	req.StartTime, req.EndTime = drawPeriod(t, w, 30)
	if rapid.Bool().Draw(t, "not for") {
		hours := rapid.Int64Range(0, 40*24).Draw(t, "hours")
		if rapid.IntRange(0, 3).Draw(t, "since for ever") == 0 {
			hours = 200 * 365 * 24
		}
		req.NotFor = durationpb.New(time.Duration(hours) * time.Hour)
	}
	if rapid.Bool().Draw(t, "less than") {
		req.BusyLessThan = durationpb.New(time.Duration(rapid.Int64Range(0, 3*3600).Draw(t, "seconds")) * time.Second)
	}
	people, machines := req.GetBy() != meteringv1.UnusedBy_UNUSED_BY_MACHINE, req.GetBy() >= meteringv1.UnusedBy_UNUSED_BY_MACHINE
	want := make(map[[3]string]*meteringv1.UnusedApplication)
	for _, u := range w.usage {
		if !u.Document.IsZero() || !w.passes(req.GetFilter(), &u) {
			continue
		}
		k := [3]string{u.Application.String()}
		by := []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION}
		name := " a" + k[0]
		if people {
			k[1], by = w.person(u.Principal).String(), append(by, meteringv1.GroupBy_GROUP_BY_PRINCIPAL)
			name += " p" + k[1]
		}
		if machines {
			k[2], by = u.Machine.String(), append(by, meteringv1.GroupBy_GROUP_BY_MACHINE)
			name += " m" + k[2]
		}
		quarterEnd := func(at int64, stamp **timestamppb.Timestamp) {
			end := time.UnixMilli(at).UTC().Truncate(15 * time.Minute).Add(15 * time.Minute)
			if *stamp == nil || end.After((*stamp).AsTime()) {
				*stamp = timestamppb.New(end)
			}
		}
		row := want[k]
		if row == nil {
			row = &meteringv1.UnusedApplication{}
		}
		if u.Transition == agentlog.Opened || u.Transition == agentlog.TimedOut {
			quarterEnd(u.AtUTCMillis, &row.LastOpenTime)
		}
		if u.HasClosed && u.ToUTCMillis > u.FromUTCMillis {
			quarterEnd(u.ToUTCMillis-1, &row.LastOpenTime)
			if u.ClosedAttention == agentlog.Busy {
				quarterEnd(u.ToUTCMillis-1, &row.LastBusyTime)
			}
		}
		if row.LastOpenTime == nil {
			continue // nothing that takes time is known of it
		}
		if want[k] == nil {
			groups, _ := plainGroups(w, req.GetStartTime(), req.GetEndTime(), req.GetFilter(), by...)
			g := groups[name]
			row.ApplicationId, row.PrincipalId, row.MachineId, row.Totals = k[0], k[1], k[2], g.message()
			want[k] = row
		}
	}
	known := int64(len(want))
	var rows []*meteringv1.UnusedApplication
	for _, row := range want {
		busy, end := row.GetTotals().GetBusy().AsDuration(), req.GetEndTime().AsTime()
		never := req.NotFor == nil && req.BusyLessThan == nil && busy == 0
		long := req.NotFor != nil && (row.LastBusyTime == nil || end.Sub(row.GetLastBusyTime().AsTime()) > req.GetNotFor().AsDuration())
		little := req.BusyLessThan != nil && busy < req.GetBusyLessThan().AsDuration()
		if never || long || little {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b *meteringv1.UnusedApplication) int {
		return cmp.Or(strings.Compare(a.GetApplicationId(), b.GetApplicationId()), strings.Compare(a.GetPrincipalId(), b.GetPrincipalId()), strings.Compare(a.GetMachineId(), b.GetMachineId()))
	})
	var got []*meteringv1.UnusedApplication
	for {
		resp, err := api.ListUnused(as(t.Context(), w.account), req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetTotalKnown() != known || resp.GetTotalUnused() != int64(len(rows)) {
			t.Fatalf("%d of %d, not %d of %d", resp.GetTotalUnused(), resp.GetTotalKnown(), len(rows), known)
		}
		if n := len(resp.GetUnused()); req.GetPageSize() > 0 && n > int(req.GetPageSize()) {
			t.Fatalf("%d on a page of %d", n, req.GetPageSize())
		}
		got = append(got, resp.GetUnused()...)
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if diff := gocmp.Diff(rows, got, protocmp.Transform()); diff != "" {
		t.Fatalf("%v (-events +answer):\n%s", req, diff)
	}
}
