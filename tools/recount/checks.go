package recount

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func (p *proof) checkSummary(ctx context.Context) error {
	name, zone, err := p.zone()
	if err != nil {
		return err
	}
	from, to := p.period(zone, p.Days)
	q := &meteringv1.SummarizeUsageRequest{Filter: p.filter(), TimeZone: name, PageSize: int32(100 + p.n(3000))}
	q.StartTime, q.EndTime = stamps(from, to)
	all := []meteringv1.GroupBy{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	p.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	q.GroupBy = all[:p.n(4)]
	if slices.Contains(q.GetGroupBy(), meteringv1.GroupBy_GROUP_BY_HOUR) && to.Sub(from) > 40*24*time.Hour {
		q.PageSize = 10_000
	}
	if p.n(3) == 0 {
		q.Counting = meteringv1.Counting_COUNTING_PERSON_TIME
	}
	asking := proto.CloneOf(q)
	var groups []*meteringv1.UsageGroup
	var totals *meteringv1.UsageTotals
	var want *Summary
	var failed error
	err = p.timed(func() error {
		for {
			answer, err := p.Usage.SummarizeUsage(ctx, asking)
			if err != nil {
				return err
			}
			groups, totals = append(groups, answer.GetGroups()...), answer.GetTotals()
			if asking.PageToken = answer.GetNextPageToken(); asking.GetPageToken() == "" {
				return nil
			}
		}
	}, func() { want, failed = p.Facts.Summarize(q) })
	if err = errors.Join(err, failed); err != nil {
		return asked(q, err)
	}
	if err := sameTotals("in all", totals, &want.Totals); err != nil {
		return asked(q, err)
	}
	seen := make(map[label]bool)
	for _, g := range groups {
		l := label{application: g.GetApplicationId(), principal: g.GetPrincipalId(), machine: g.GetMachineId(), document: g.GetDocumentId(), group: g.GetGroupId(), site: g.GetManagerId()}
		if g.GetStartTime() != nil {
			l.time = timeLabel(q.GetGroupBy(), g.GetStartTime().AsTime().In(zone))
		}
		if seen[l] {
			return asked(q, fmt.Errorf("%+v is told twice", l))
		}
		seen[l] = true
		if err := sameTotals(fmt.Sprintf("%+v", l), g.GetTotals(), want.Groups[l]); err != nil {
			return asked(q, err)
		}
	}
	for l, t := range want.Groups {
		if !seen[l] && *t != (Totals{}) && len(q.GetGroupBy()) > 0 {
			return asked(q, fmt.Errorf("%+v is not told, recounted %v", l, *t))
		}
	}
	return nil
}

func sameDemand(what string, got *meteringv1.Demand, want *Demand) error {
	err := errors.Join(equal(what+": peak", got.GetPeak(), want.Peak), equal(what+": p99", got.GetP99(), want.Percentile(99)), equal(what+": p95", got.GetP95(), want.Percentile(95)))
	if want.Peak > 0 {
		err = errors.Join(err, equal(what+": when", momentOf(got.GetPeakTime()), want.PeakAt))
	}
	return err
}

func (p *proof) checkConcurrency(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, 12)
	q := &meteringv1.QueryConcurrencyRequest{Filter: p.filter(), Metric: p.metric()}
	if p.n(2) == 0 {
		from, to = from.Add(time.Duration(p.n(800_000))*time.Millisecond), to.Add(time.Duration(p.n(800_000))*time.Millisecond)
	}
	q.StartTime, q.EndTime = stamps(from, to)
	width := time.Minute
	if to.Sub(from) > 48*time.Hour || p.n(2) == 0 {
		width = time.Duration(1+p.n(7_200_000))*time.Millisecond + to.Sub(from)/2000
		q.Step = durationpb.New(width.Truncate(time.Millisecond))
		width = q.GetStep().AsDuration()
	}
	after := int64(-1)
	if p.n(2) == 0 {
		after = int64(p.n(3_600_000))
		q.GiveBackAfter = durationpb.New(time.Duration(after) * time.Millisecond)
	}
	var answer *meteringv1.QueryConcurrencyResponse
	var open, busy, kept, givenBack *Demand
	var points []Point
	a, b := from.UnixMilli(), to.UnixMilli()
	err := p.timed(func() (err error) {
		answer, err = p.Usage.QueryConcurrency(ctx, q)
		return err
	}, func() {
		instances := p.Facts.overlapping(q.GetFilter(), a, b)
		of := func(c curve) *Demand { return p.Facts.demand(instances, q.GetMetric(), c, after, a, b) }
		open, busy, kept = of(curveOpen), of(curveBusy), of(curveNotTimedOut)
		if after >= 0 {
			givenBack = of(curveGivenBack)
		}
		points = Points(a, b, width.Milliseconds(), open, busy, kept, givenBack)
	})
	if err != nil {
		return asked(q, err)
	}
	err = errors.Join(sameDemand("open", answer.GetOpen(), open), sameDemand("busy", answer.GetBusy(), busy), sameDemand("not timed out", answer.GetNotTimedOut(), kept))
	if givenBack != nil {
		err = errors.Join(err, sameDemand("given back", answer.GetGivenBack(), givenBack))
	}
	err = errors.Join(err, equal("points", len(answer.GetPoints()), len(points)))
	if err != nil {
		return asked(q, err)
	}
	for i, g := range answer.GetPoints() {
		got := Point{g.GetOpen(), g.GetActive(), g.GetInactive(), g.GetTimedOut(), g.GetGivenBack(), g.GetPeakActive(), g.GetPeakNotTimedOut(), g.GetPeakGivenBack()}
		if err := equal("the point at "+g.GetStartTime().AsTime().String(), got, points[i]); err != nil {
			return asked(q, err)
		}
	}
	return nil
}

// times draws times after which licences are given back.
func (p *proof) times() (after []*durationpb.Duration) {
	for range p.n(4) {
		ms := int64(p.n(7_200_000))
		if p.n(3) == 0 {
			ms = int64(p.n(3)) * 3_600_000 * 24
		}
		after = append(after, durationpb.New(time.Duration(ms)*time.Millisecond))
	}
	return after
}

func (p *proof) checkDemand(ctx context.Context) error {
	name, zone, err := p.zone()
	if err != nil {
		return err
	}
	from, to := p.period(zone, p.Days)
	q := &meteringv1.QueryDemandRequest{Filter: p.filter(), Metric: p.metric(), TimeZone: name, GiveBackAfter: p.times(), HeatMap: p.n(2) == 0, Holders: p.n(2) == 0, Compare: p.n(3) == 0}
	q.StartTime, q.EndTime = stamps(from, to)
	var answer *meteringv1.QueryDemandResponse
	recount := func(from, to int64) []*Demand {
		return p.Facts.QueryDemand(q.GetFilter(), q.GetMetric(), q.GetGiveBackAfter(), from, to)
	}
	a, b := from.UnixMilli(), to.UnixMilli()
	var want, before []*Demand
	err = p.timed(func() (err error) {
		answer, err = p.Reports.QueryDemand(ctx, q)
		return err
	}, func() { want = recount(a, b) })
	if err != nil {
		return asked(q, err)
	}
	if p.n(2) == 0 { // the same once more, from the reading that is kept
		again := proto.CloneOf(q)
		again.AsOfPosition = answer.GetPosition()
		second, err := p.Reports.QueryDemand(ctx, again)
		if err == nil && !proto.Equal(second, answer) {
			err = errors.New("as of its own position it is answered otherwise")
		}
		if err != nil {
			return asked(q, err)
		}
	}
	got := []*meteringv1.DemandCurve{answer.GetOpen(), answer.GetBusy(), answer.GetNotTimedOut()}
	for _, g := range answer.GetGivenBack() {
		got = append(got, g.GetCurve())
	}
	if q.GetCompare() {
		before = recount(2*a-b, a)
		then := []*meteringv1.DemandCurve{answer.GetCompare().GetOpen(), answer.GetCompare().GetBusy(), answer.GetCompare().GetNotTimedOut()}
		for _, g := range answer.GetCompare().GetGivenBack() {
			then = append(then, g.GetCurve())
		}
		if err := equal("curves of the period before", len(then), len(before)); err != nil {
			return asked(q, err)
		}
		for i := range then {
			if err := sameCurve(fmt.Sprintf("curve %d of the period before", i), then[i], before[i], nil); err != nil {
				return asked(q, err)
			}
		}
	}
	if err := equal("curves", len(got), len(want)); err != nil {
		return asked(q, err)
	}
	instances := p.Facts.overlapping(q.GetFilter(), a, b)
	for i := range got {
		heat := zone
		if !q.GetHeatMap() {
			heat = nil
		}
		err := sameCurve(fmt.Sprintf("curve %d", i), got[i], want[i], heat)
		if q.GetHolders() && want[i].Peak > 0 {
			after := int64(0)
			if i > 2 {
				after = millisOf(q.GetGiveBackAfter()[i-3])
			}
			who := holders(instances, min(curve(i), curveGivenBack), after, want[i].PeakAt)
			err = errors.Join(err, equal("holders", len(got[i].GetHolders()), len(who)))
			for _, h := range got[i].GetHolders() {
				err = errors.Join(err, equal("holder "+h.GetInstanceId(), who[h.GetInstanceId()], true))
			}
		}
		if err != nil {
			return asked(q, err)
		}
	}
	return nil
}

func sameCurve(what string, got *meteringv1.DemandCurve, want *Demand, heat *time.Location) error {
	err := errors.Join(sameDemand(what, got.GetDemand(), want), equal(what+": total", millisOf(got.GetTotal()), want.Total))
	var levels []int64
	for _, l := range got.GetLevels() {
		levels = append(levels, millisOf(l))
	}
	if !slices.Equal(levels, want.Levels) {
		err = errors.Join(err, fmt.Errorf("%s: levels %v, recounted %v", what, levels, want.Levels))
	}
	if heat == nil {
		return err
	}
	hours := want.Hours(heat)
	err = errors.Join(err, equal(what+": hours", len(got.GetHeatMap()), len(hours)))
	for _, h := range got.GetHeatMap() {
		want := hours[[2]int{int(h.GetWeekday()), int(h.GetHour())}]
		if want == nil {
			return errors.Join(err, fmt.Errorf("%s: hour %v is in no period", what, h))
		}
		got := Hour{millisOf(h.GetLength()), h.GetPeak(), momentOf(h.GetPeakTime()), millisOf(h.GetTotal())}
		err = errors.Join(err, equal(fmt.Sprintf("%s: weekday %d, hour %d", what, h.GetWeekday(), h.GetHour()), got, *want))
	}
	return err
}

func (p *proof) checkLicences(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, p.Days)
	q := &meteringv1.QueryLicencesNeededRequest{Filter: p.filter(), Metric: p.metric(), GiveBackAfter: p.times(), RefusedPerMillion: int32([]int{0, 1, 1000, p.n(200_000), 1_000_000}[p.n(5)])}
	q.StartTime, q.EndTime = stamps(from, to)
	if p.n(2) == 0 {
		q.Bought, q.PriceMinorUnits, q.CurrencyCode = proto.Int64(int64(p.n(30))), proto.Int64(int64(p.n(1_000_000))), "EUR"
	}
	a, b := from.UnixMilli(), to.UnixMilli()
	var answer *meteringv1.QueryLicencesNeededResponse
	var want []*Demand
	var named [4]int64
	err := p.timed(func() (err error) {
		answer, err = p.Reports.QueryLicencesNeeded(ctx, q)
		return err
	}, func() {
		instances := p.Facts.overlapping(q.GetFilter(), a, b)
		want = append(want, p.Facts.demand(instances, q.GetMetric(), curveOpen, 0, a, b))
		for _, after := range q.GetGiveBackAfter() {
			want = append(want, p.Facts.demand(instances, q.GetMetric(), curveGivenBack, millisOf(after), a, b))
		}
		named[0], named[1] = p.Facts.Named(instances, meteringv1.Metric_METRIC_USER, a, b)
		named[2], named[3] = p.Facts.Named(instances, meteringv1.Metric_METRIC_MACHINE, a, b)
	})
	if err != nil {
		return asked(q, err)
	}
	err = equal("people and machines", [4]int64{answer.GetPeople().GetOpen(), answer.GetPeople().GetBusy(), answer.GetMachines().GetOpen(), answer.GetMachines().GetBusy()}, named)
	if q.PriceMinorUnits != nil {
		err = errors.Join(err, equal("what people cost", answer.GetPeople().GetCostMinorUnits(), named[1]*q.GetPriceMinorUnits()))
	}
	kept := int64(0)
	for i, got := range append([]*meteringv1.LicencePolicy{answer.GetKept()}, answer.GetGivenBack()...) {
		d, what := want[i], fmt.Sprintf("policy %d", i)
		needed := d.Needed(int64(q.GetRefusedPerMillion()))
		refused, refusing := d.Refused(needed)
		err = errors.Join(
			err, equal(what+": needed", got.GetNeeded(), needed), equal(what+": peak", got.GetPeak(), d.Peak), equal(what+": wanted", millisOf(got.GetWanted()), d.Total),
			equal(what+": refused", millisOf(got.GetRefused()), refused), equal(what+": refusing", millisOf(got.GetRefusing()), refusing),
		)
		if q.Bought == nil {
			continue
		}
		if i == 0 {
			kept = needed
		}
		refused, refusing = d.Refused(q.GetBought())
		err = errors.Join(
			err, equal(what+": refused with what is bought", millisOf(got.GetRefusedWithBought()), refused), equal(what+": refusing with that", millisOf(got.GetRefusingWithBought()), refusing),
			equal(what+": surplus", got.GetSurplus(), q.GetBought()-needed), equal(what+": cost", got.GetCostMinorUnits(), needed*q.GetPriceMinorUnits()),
			equal(what+": saving", got.GetSavingMinorUnits(), (kept-needed)*q.GetPriceMinorUnits()),
		)
	}
	return asked(q, err)
}

func (p *proof) checkForecast(ctx context.Context) error {
	name, _, err := p.zone()
	if err != nil {
		return err
	}
	length := min(p.Days, 70+p.n(max(1, p.Days-70)))
	from := p.Begin.Add(time.Duration(p.n((p.Days-length)*96+1)) * 15 * time.Minute)
	q := &meteringv1.ForecastDemandRequest{Metric: p.metric(), TimeZone: name, Days: int32(1 + p.n(90))}
	q.StartTime, q.EndTime = stamps(from, from.AddDate(0, 0, length))
	if p.n(2) == 0 {
		q.Filter = &meteringv1.UsageFilter{GroupIds: []string{p.Groups[p.n(len(p.Groups))].String()}}
	}
	if p.n(2) == 0 {
		q.GiveBackAfter = durationpb.New(time.Duration(p.n(3_600_000)) * time.Millisecond)
	}
	var answer *meteringv1.ForecastDemandResponse
	var dates []string
	var peaks []int64
	err = p.timed(func() (err error) {
		answer, err = p.Reports.ForecastDemand(ctx, q)
		return err
	}, func() { dates, peaks = p.Facts.DayPeaks(q, time.Now()) })
	if err != nil {
		if dates, _ = p.Facts.DayPeaks(q, time.Now()); len(dates) < 56 { // which is too little to go by
			return nil
		}
		return asked(q, err)
	}
	err = equal("days", len(answer.GetHistory()), len(dates))
	for i, h := range answer.GetHistory() {
		if err == nil {
			err = errors.Join(equal("date", h.GetDate(), dates[i]), equal(h.GetDate(), h.GetPeak(), peaks[i]))
		}
	}
	return asked(q, err)
}

func (p *proof) checkRanking(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, p.Days)
	q := &meteringv1.RankUsageRequest{Filter: p.filter(), RankBy: meteringv1.RankBy(p.n(5)), Limit: 10_000}
	q.GroupBy = []meteringv1.GroupBy{0, 1, 2, 3, 7, 8}[p.n(6)]
	q.StartTime, q.EndTime = stamps(from, to)
	before := span{2*from.UnixMilli() - to.UnixMilli(), from.UnixMilli()}
	if p.n(2) == 0 {
		a, b := p.period(p.Facts.Zone, 60)
		q.CompareStartTime, q.CompareEndTime = stamps(a, b)
		before = span{a.UnixMilli(), b.UnixMilli()}
	}
	var answer *meteringv1.RankUsageResponse
	var want map[string]*Rank
	var totals [2]Totals
	err := p.timed(func() (err error) {
		answer, err = p.Reports.RankUsage(ctx, q)
		return err
	}, func() { want, totals = p.Facts.RankUsage(q, before.from, before.to) })
	if err != nil {
		return asked(q, err)
	}
	err = errors.Join(sameTotals("in all", answer.GetTotals(), &totals[0]), sameTotals("before", answer.GetCompareTotals(), &totals[1]), equal("ranks", len(answer.GetRanks()), len(want)))
	value := func(t *Totals, people int64) int64 {
		switch q.GetRankBy() {
		case meteringv1.RankBy_RANK_BY_OPEN:
			return t.open()
		case meteringv1.RankBy_RANK_BY_INSTANCES:
			return t.Instances
		case meteringv1.RankBy_RANK_BY_PEOPLE:
			return people
		default:
			return t.busy()
		}
	}
	last, ended := int64(1)<<62, false
	for _, r := range answer.GetRanks() {
		id := r.GetApplicationId() + r.GetPrincipalId() + r.GetMachineId() + r.GetGroupId() + r.GetManagerId()
		w := want[id]
		if w == nil {
			return asked(q, fmt.Errorf("%q was not recounted", id))
		}
		err = errors.Join(
			err, sameTotals(id, r.GetTotals(), &w.Totals[0]), sameTotals(id+" before", r.GetCompareTotals(), &w.Totals[1]),
			equal(id+": people", [2]int64{r.GetPeople(), r.GetComparePeople()}, w.People),
		)
		if v := value(&w.Totals[0], w.People[0]); w.Totals[0] == (Totals{}) {
			ended = true
		} else if v > last || ended {
			err = errors.Join(err, fmt.Errorf("%s stands behind what is less", id))
		} else {
			last = v
		}
	}
	return asked(q, err)
}

func (p *proof) checkUnused(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, p.Days)
	q := &meteringv1.ListUnusedRequest{Filter: p.filter(), By: meteringv1.UnusedBy(p.n(4)), PageSize: int32(50 + p.n(1000))}
	q.StartTime, q.EndTime = stamps(from, to)
	if p.n(3) == 0 {
		q.NotFor = durationpb.New(time.Duration(p.n(p.Days*24)) * time.Hour)
	}
	if p.n(3) == 0 {
		q.BusyLessThan = durationpb.New(time.Duration(p.n(40_000_000)) * time.Millisecond)
	}
	asking := proto.CloneOf(q)
	var got []*meteringv1.UnusedApplication
	var answer *meteringv1.ListUnusedResponse
	var known map[UnusedKey]*Unused
	var listed map[UnusedKey]bool
	err := p.timed(func() (err error) {
		for {
			if answer, err = p.Reports.ListUnused(ctx, asking); err != nil {
				return err
			}
			got = append(got, answer.GetUnused()...)
			if asking.PageToken = answer.GetNextPageToken(); asking.GetPageToken() == "" {
				return nil
			}
		}
	}, func() { known, listed = p.Facts.ListUnused(q) })
	if err != nil {
		return asked(q, err)
	}
	count := 0
	for _, is := range listed {
		if is {
			count++
		}
	}
	err = errors.Join(equal("known", answer.GetTotalKnown(), int64(len(known))), equal("unused", answer.GetTotalUnused(), int64(count)), equal("listed", len(got), count))
	for _, g := range got {
		k := UnusedKey{g.GetApplicationId(), g.GetPrincipalId(), g.GetMachineId()}
		u := known[k]
		if u == nil || !listed[k] {
			return asked(q, errors.Join(err, fmt.Errorf("%v is listed, and was not recounted", k)))
		}
		err = errors.Join(
			err, sameTotals(fmt.Sprint(k), g.GetTotals(), &u.Totals),
			equal(fmt.Sprint(k, " last busy"), momentOf(g.GetLastBusyTime()), u.LastBusy), equal(fmt.Sprint(k, " last open"), momentOf(g.GetLastOpenTime()), u.LastOpen),
		)
	}
	return asked(q, err)
}

func (p *proof) checkIdle(ctx context.Context) error {
	name, zone, err := p.zone()
	if err != nil {
		return err
	}
	from, to := p.period(zone, p.Days)
	q := &meteringv1.QueryIdleRequest{Filter: p.filter(), TimeZone: name, Longest: int32(1 + p.n(1000)), Compare: p.n(3) == 0}
	q.StartTime, q.EndTime = stamps(from, to)
	atLeast := int64(30 * 60 * 1000)
	if p.n(2) == 0 {
		atLeast = int64(p.n(7_200_000))
		q.AtLeast = durationpb.New(time.Duration(atLeast) * time.Millisecond)
	}
	a, b := from.UnixMilli(), to.UnixMilli()
	var answer *meteringv1.QueryIdleResponse
	var want *IdleReport
	err = p.timed(func() (err error) {
		answer, err = p.Reports.QueryIdle(ctx, q)
		return err
	}, func() { want = p.Facts.QueryIdle(q.GetFilter(), a, b, atLeast, zone) })
	if err != nil {
		return asked(q, err)
	}
	same := func(what string, got *meteringv1.IdleTime, want *Idle) error {
		if want == nil {
			return fmt.Errorf("%s was not recounted", what)
		}
		return equal(what, [6]int64{millisOf(got.GetOpen()), millisOf(got.GetBusy()), got.GetStretches(), millisOf(got.GetIdle()), millisOf(got.GetLongest()), got.GetDays()},
			[6]int64{want.Open, want.Busy, want.Stretches, want.Idle, want.Longest, int64(len(want.days))})
	}
	err = errors.Join(same("in all", answer.GetTotal(), &want.Total), equal("groups", len(answer.GetApplications())+len(answer.GetPeople()), min(len(want.Groups), 1000+len(answer.GetApplications()))))
	for _, g := range slices.Concat(answer.GetApplications(), answer.GetPeople()) {
		k := idleKey{g.GetApplicationId(), g.GetPrincipalId()}
		err = errors.Join(err, same(fmt.Sprint(k), g.GetTime(), want.Groups[k]))
	}
	err = errors.Join(err, equal("hours", len(answer.GetHeatMap()), len(want.Hours)))
	for _, h := range answer.GetHeatMap() {
		err = errors.Join(err, equal(fmt.Sprintf("weekday %d, hour %d", h.GetWeekday(), h.GetHour()), millisOf(h.GetIdle()), want.Hours[[2]int{int(h.GetWeekday()), int(h.GetHour())}]))
	}
	err = errors.Join(err, equal("longest", len(answer.GetLongest()), min(len(want.Longest), int(q.GetLongest()))))
	for i, s := range answer.GetLongest() {
		if err == nil {
			err = equal("a stretch", IdleStretch{s.GetInstanceId(), momentOf(s.GetStartTime()), momentOf(s.GetEndTime()), momentOf(s.GetLastBusyTime())}, want.Longest[i])
		}
	}
	if q.GetCompare() {
		before := p.Facts.QueryIdle(q.GetFilter(), 2*a-b, a, atLeast, zone)
		err = errors.Join(err, same("before", answer.GetCompare().GetTotal(), &before.Total))
	}
	return asked(q, err)
}

func (p *proof) checkSessions(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, p.Days)
	q := &meteringv1.SummarizeSessionsRequest{Filter: p.filter(), GroupBy: meteringv1.SessionGroupBy(p.n(5)), PageSize: int32(500 + p.n(9000))}
	q.StartTime, q.EndTime = stamps(from, to)
	asking := proto.CloneOf(q)
	var got []*meteringv1.SessionGroup
	var answer *meteringv1.SummarizeSessionsResponse
	var want map[string]*Session
	err := p.timed(func() (err error) {
		for {
			if answer, err = p.Reports.SummarizeSessions(ctx, asking); err != nil {
				return err
			}
			got = append(got, answer.GetGroups()...)
			if asking.PageToken = answer.GetNextPageToken(); asking.GetPageToken() == "" {
				return nil
			}
		}
	}, func() { want = p.Facts.SummarizeSessions(q) })
	if err != nil {
		return asked(q, err)
	}
	same := func(what string, got *meteringv1.SessionGroup, want *Session) error {
		if want == nil {
			want = &Session{}
		}
		return errors.Join(
			equal(what, [5]int64{got.GetSessions(), got.GetInstances(), got.GetApplications(), momentOf(got.GetStartTime()), momentOf(got.GetEndTime())}, [5]int64{want.Sessions, want.Instances, want.Applications, want.First, want.Last}),
			sameTotals(what+": session time", got.GetSessionTime(), &want.SessionTime), sameTotals(what+": instance time", got.GetInstanceTime(), &want.InstanceTime),
		)
	}
	err = same("in all", answer.GetTotal(), want[""])
	delete(want, "")
	err = errors.Join(err, equal("lines", len(got), len(want)), equal("lines in all", answer.GetTotalGroups(), int64(len(want))))
	for _, g := range got {
		id := g.GetSessionId()
		if id == "" {
			id = g.GetPrincipalId() + g.GetApplicationId() + g.GetMachineId()
		}
		err = errors.Join(err, same(id, g, want[id]))
	}
	return asked(q, err)
}

func (p *proof) checkChanges(ctx context.Context) error {
	instances := p.Facts.left(nil)
	session := instances[p.n(len(instances))].session.String()
	q := &meteringv1.ListSessionChangesRequest{SessionId: session, PageSize: int32(20 + p.n(1000))}
	asking := proto.CloneOf(q)
	var got []*meteringv1.SessionChange
	var want []Change
	err := p.timed(func() error {
		for {
			answer, err := p.Reports.ListSessionChanges(ctx, asking)
			if err != nil {
				return err
			}
			got = append(got, answer.GetChanges()...)
			if asking.PageToken = answer.GetNextPageToken(); asking.GetPageToken() == "" {
				return nil
			}
		}
	}, func() { want = p.Facts.SessionChanges(session) })
	if err != nil {
		return asked(q, err)
	}
	all := make(map[Change]bool)
	for _, c := range want {
		all[c] = true
	}
	err = equal("changes", len(got), len(want))
	for _, g := range got {
		i := g.GetInterval()
		c := Change{g.GetInstanceId(), i.GetEventId(), momentOf(i.GetStartTime()), momentOf(i.GetEndTime()), i.GetAttention(), i.GetState()}
		if !all[c] {
			err = errors.Join(err, fmt.Errorf("%+v was not recounted", c))
		}
	}
	return asked(q, err)
}

func (p *proof) checkTimeline(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, 60)
	q := &meteringv1.QueryTimelineRequest{Filter: p.filter(), RowBy: meteringv1.TimelineRowBy(p.n(5)), PageSize: int32(200 + p.n(800))}
	if p.n(2) == 0 {
		from, to = from.Add(time.Duration(p.n(400_000))*time.Millisecond), to.Add(time.Duration(p.n(400_000))*time.Millisecond)
	}
	q.StartTime, q.EndTime = stamps(from, to)
	if p.n(2) == 0 {
		step := to.Sub(from)/time.Duration(1+p.n(800)) + time.Millisecond
		q.Resolution = durationpb.New(step.Truncate(time.Millisecond))
	}
	asking := proto.CloneOf(q)
	var rows []*meteringv1.TimelineRow
	var answer *meteringv1.QueryTimelineResponse
	var totals map[string]*Totals
	var bars map[string][]Change
	err := p.timed(func() (err error) {
		for {
			if answer, err = p.Reports.QueryTimeline(ctx, asking); err != nil {
				return err
			}
			rows = append(rows, answer.GetRows()...)
			if asking.PageToken = answer.GetNextPageToken(); asking.GetPageToken() == "" {
				return nil
			}
		}
	}, func() {
		totals, bars = p.Facts.Timeline(q, momentOf(answer.GetStartTime()), momentOf(answer.GetEndTime()))
	})
	if err != nil {
		return asked(q, err)
	}
	err = equal("rows", len(rows), len(totals))
	for _, r := range rows {
		id := r.GetInstanceId()
		if id == "" {
			id = r.GetPrincipalId() + r.GetMachineId() + r.GetApplicationId()
		}
		err = errors.Join(err, sameTotals(id, r.GetTotals(), totals[id]))
		if q.GetResolution() != nil {
			var sum Totals
			for _, b := range r.GetBars() {
				t, wrong := totalsOf(b.GetTotals())
				err = errors.Join(err, wrong)
				sum.add(t)
			}
			got, _ := totalsOf(r.GetTotals())
			err = errors.Join(err, equal(id+": the sum of its bars", sum, got))
			continue
		}
		var got []Change
		for _, b := range r.GetBars() {
			got = append(got, Change{r.GetInstanceId(), b.GetEventId(), momentOf(b.GetStartTime()), momentOf(b.GetEndTime()), b.GetAttention(), b.GetState()})
		}
		if !slices.Equal(got, bars[id]) {
			err = errors.Join(err, fmt.Errorf("%s has bars %v, recounted %v", id, got, bars[id]))
		}
	}
	return asked(q, err)
}

func (p *proof) checkDistribution(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, p.Days)
	q := &meteringv1.QueryDistributionRequest{Filter: p.filter(), GroupBy: []meteringv1.GroupBy{0, 2, 3}[p.n(3)], Open: p.n(2) == 0}
	q.StartTime, q.EndTime = stamps(from, to)
	bounds := []int64{1, 5, 20, 40, 80, 160}
	for i := range bounds {
		bounds[i] *= 3_600_000
	}
	if p.n(2) == 0 {
		bounds = nil
		at := int64(0)
		for range 1 + p.n(8) {
			at += int64(1 + p.n(20_000_000))
			bounds = append(bounds, at)
			q.Bounds = append(q.Bounds, durationpb.New(time.Duration(at)*time.Millisecond))
		}
	}
	var answer *meteringv1.QueryDistributionResponse
	var lengths []int64
	err := p.timed(func() (err error) {
		answer, err = p.Reports.QueryDistribution(ctx, q)
		return err
	}, func() { lengths = p.Facts.Distribution(q) })
	if err != nil {
		return asked(q, err)
	}
	// The smallest that at least so many of ten have at most.
	most := func(tenths int) int64 {
		for i, ms := range lengths {
			if (i+1)*10 >= tenths*len(lengths) {
				return ms
			}
		}
		return 0
	}
	total := int64(0)
	parts := make([][2]int64, len(bounds)+1)
	for _, ms := range lengths {
		total += ms
		at := 0
		for at < len(bounds) && ms >= bounds[at] {
			at++
		}
		parts[at][0]++
		parts[at][1] += ms
	}
	err = equal("in all", [5]int64{answer.GetCount(), millisOf(answer.GetTotal()), millisOf(answer.GetMedian()), millisOf(answer.GetP90()), millisOf(answer.GetGreatest())},
		[5]int64{int64(len(lengths)), total, most(5), most(9), most(10)})
	err = errors.Join(err, equal("parts", len(answer.GetParts()), len(parts)))
	for i, part := range answer.GetParts() {
		err = errors.Join(err, equal(fmt.Sprint("part ", i), [2]int64{part.GetCount(), millisOf(part.GetTotal())}, parts[i]))
	}
	return asked(q, err)
}

func (p *proof) checkAccountUse(ctx context.Context) error {
	first := p.n(max(1, p.Days/31))
	last := first + p.n(2)
	month := func(n int) string { return p.Begin.AddDate(0, 0, 1-p.Begin.Day()).AddDate(0, n, 0).Format("2006-01") }
	q := &meteringv1.QueryAccountUseRequest{FirstMonth: month(first), LastMonth: month(last)}
	var answer *meteringv1.QueryAccountUseResponse
	want := make(map[[2]string]*AccountUse)
	var failed error
	err := p.timed(func() (err error) {
		answer, err = p.Reports.QueryAccountUse(ctx, q)
		return err
	}, func() {
		for n := first; n <= last; n++ {
			of, err := p.Facts.AccountUse(month(n))
			failed = errors.Join(failed, err)
			for id, u := range of {
				want[[2]string{month(n), id}] = u
			}
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return asked(q, err)
	}
	err = equal("applications and months", len(answer.GetUses()), len(want))
	for _, u := range answer.GetUses() {
		w := want[[2]string{u.GetMonth(), u.GetApplicationId()}]
		if w == nil {
			return asked(q, fmt.Errorf("%v was not recounted", u))
		}
		got := AccountUse{
			[2]int64{u.GetOpen().GetPeople(), u.GetBusy().GetPeople()},
			[2]int64{millisOf(u.GetOpen().GetTime()), millisOf(u.GetBusy().GetTime())},
			[2]int64{u.GetOpen().GetPeak(), u.GetBusy().GetPeak()},
		}
		err = errors.Join(err, equal(u.GetMonth()+" "+u.GetApplicationId(), got, *w))
	}
	return asked(q, err)
}

func (p *proof) checkQuality(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, p.Days)
	q := &meteringv1.GetDataQualityRequest{Filter: p.filter()}
	q.StartTime, q.EndTime = stamps(from, to)
	var answer *meteringv1.GetDataQualityResponse
	var of map[string]*Totals
	var total Totals
	err := p.timed(func() (err error) {
		answer, err = p.Usage.GetDataQuality(ctx, q)
		return err
	}, func() { of, total = p.Facts.Quality(q) })
	if err != nil {
		return asked(q, err)
	}
	got := answer.GetPeriod()
	err = errors.Join(sameTotals("in all", got.GetTotals(), &total), equal("machines", got.GetMachines(), int64(len(of))))
	unknown := 0
	for _, t := range of {
		if t.Millis[usagev1.Attention_ATTENTION_UNKNOWN] > 0 {
			unknown++
		}
	}
	err = errors.Join(err, equal("machines with unknown time", len(got.GetUnknownMachines()), min(100, unknown)))
	for _, m := range got.GetUnknownMachines() {
		err = errors.Join(err, sameTotals(m.GetMachineId(), m.GetTotals(), of[m.GetMachineId()]))
	}
	shares := map[meteringv1.QualityIssue]int64{
		meteringv1.QualityIssue_QUALITY_ISSUE_UNKNOWN_TIME: total.Millis[usagev1.Attention_ATTENTION_UNKNOWN], meteringv1.QualityIssue_QUALITY_ISSUE_PAUSED_TIME: total.Millis[usagev1.Attention_ATTENTION_PAUSED],
	}
	found := make(map[meteringv1.QualityIssue]int64)
	for _, f := range got.GetFindings() {
		if ms, is := shares[f.GetIssue()]; is {
			found[f.GetIssue()] = ms
			err = errors.Join(err, equal(f.GetIssue().String(), [2]int64{millisOf(f.GetTime()), f.GetPerMillion()}, [2]int64{ms, ms * 1_000_000 / max(1, total.open())}))
		}
	}
	maps.DeleteFunc(shares, func(_ meteringv1.QualityIssue, ms int64) bool { return ms == 0 })
	return asked(q, errors.Join(err, equal("findings", len(found), len(shares))))
}

// checkRuns goes down from a figure to the runs behind it, and to the intervals of one.
func (p *proof) checkRuns(ctx context.Context) error {
	from, to := p.period(p.Facts.Zone, 40)
	q := &meteringv1.ListInstancesRequest{Filter: p.filter(), PageSize: 1000}
	q.StartTime, q.EndTime = stamps(from, to)
	a, b := from.UnixMilli(), to.UnixMilli()
	asking := proto.CloneOf(q)
	var got []*meteringv1.Instance
	want := make(map[string]*instance)
	err := p.timed(func() error {
		for {
			answer, err := p.Usage.ListInstances(ctx, asking)
			if err != nil {
				return err
			}
			got = append(got, answer.GetInstances()...)
			if asking.PageToken = answer.GetNextPageToken(); asking.GetPageToken() == "" {
				return nil
			}
		}
	}, func() {
		for _, n := range p.Facts.overlapping(q.GetFilter(), a, b) {
			want[n.id.String()] = n
		}
	})
	if err != nil {
		return asked(q, err)
	}
	seen := make(map[string]bool)
	for _, g := range got {
		seen[g.GetInstanceId()] = true
		n := want[g.GetInstanceId()]
		if n == nil { // one of which nothing lies in the period: it was opened or closed at an end of it
			if o, c := momentOf(g.GetOpenTime()), momentOf(g.GetDecidedTime()); o < b && c >= a {
				continue
			}
			return asked(q, fmt.Errorf("%v was not recounted", g))
		}
		life := Totals{}
		for _, s := range n.own {
			life.Millis[s.attention] += s.to - s.from
		}
		t, wrong := totalsOf(g.GetTotals())
		t.Timeouts, t.Instances = 0, 0
		err = errors.Join(err, wrong, equal(g.GetInstanceId(), t, life), equal(g.GetInstanceId()+": opened and closed", [2]int64{momentOf(g.GetOpenTime()), momentOf(g.GetCloseTime())}, [2]int64{n.opened, n.closed}),
			equal(g.GetInstanceId()+": whose", g.GetPrincipalId(), p.Facts.person(n).String()))
	}
	for id := range want {
		if !seen[id] {
			err = errors.Join(err, fmt.Errorf("%s is not listed", id))
		}
	}
	if err != nil || len(got) == 0 {
		return asked(q, err)
	}
	one := got[p.n(len(got))].GetInstanceId()
	n := want[one]
	intervals, err := p.Usage.ListIntervals(ctx, &meteringv1.ListIntervalsRequest{InstanceId: one, PageSize: 10_000})
	if err != nil || n == nil {
		return asked(q, err)
	}
	err = equal("intervals of "+one, len(intervals.GetIntervals()), len(n.own))
	for i, s := range n.ordered() {
		if err == nil {
			g := intervals.GetIntervals()[i]
			err = equal("an interval", [4]int64{momentOf(g.GetStartTime()), momentOf(g.GetEndTime()), int64(g.GetAttention()), int64(g.GetState())}, [4]int64{s.from, s.to, int64(s.attention), int64(s.state)})
		}
	}
	return asked(q, err)
}
