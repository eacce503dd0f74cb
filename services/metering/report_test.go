package metering

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
)

// plainInstance is an instance as its events tell it, whole.
type plainInstance struct {
	instance, application, principal, machine, session contract.ID
	opened                                             int64
	events                                             []agentlog.Usage // that close an interval
}

// passes tells whether a filter leaves an event: one of a person's principals is as good as
// another.
func (w *world) passes(f *meteringv1.UsageFilter, u *agentlog.Usage) bool {
	in := func(list []string, id contract.ID) bool { return len(list) == 0 || slices.Contains(list, id.String()) }
	return in(f.GetApplicationIds(), u.Application) && in(f.GetMachineIds(), u.Machine) && in(f.GetManagerIds(), w.siteOf[u.Machine]) &&
		(len(f.GetGroupIds()) == 0 || slices.ContainsFunc(w.groupsOf(u.Principal), func(group contract.ID) bool { return in(f.GetGroupIds(), group) })) &&
		(len(f.GetPrincipalIds()) == 0 || slices.ContainsFunc(f.GetPrincipalIds(), func(asked string) bool { return w.person(idOf(asked)) == w.person(u.Principal) }))
}

// instances gathers the world's instances that a filter leaves, in whatever order events came.
func (w *world) instances(f *meteringv1.UsageFilter) []plainInstance {
	index := make(map[contract.ID]int)
	var all []plainInstance
	for _, u := range w.usage {
		if !w.passes(f, &u) {
			continue
		}
		i, ok := index[u.Instance]
		if !ok {
			i = len(all)
			index[u.Instance] = i
			all = append(all, plainInstance{u.Instance, u.Application, w.person(u.Principal), u.Machine, u.Session, u.AtUTCMillis, nil})
		}
		all[i].opened = min(all[i].opened, u.AtUTCMillis)
		if u.HasClosed {
			// What is known of a document is known of its instance: it was open then.
			all[i].opened = min(all[i].opened, u.FromUTCMillis)
		}
		if u.HasClosed && u.Document.IsZero() {
			all[i].events = append(all[i].events, u)
		}
	}
	return all
}

func plainRuns(all []plainInstance, m meteringv1.Metric) []run {
	var runs []run
	for _, n := range all {
		key := demandKey{n.principal}
		switch m {
		case meteringv1.Metric_METRIC_MACHINE:
			key = demandKey{n.machine}
		case meteringv1.Metric_METRIC_USER_AND_MACHINE:
			key = demandKey{n.principal, n.machine}
		case meteringv1.Metric_METRIC_SESSION:
			key = demandKey{n.session}
		case meteringv1.Metric_METRIC_INSTANCE:
			key = demandKey{n.instance}
		default:
		}
		r := run{key: key, opened: n.opened}
		for _, u := range n.events {
			r.uses = append(r.uses, use{from: u.FromUTCMillis, to: u.ToUTCMillis, busy: u.ClosedAttention == agentlog.Busy, timedOut: u.ClosedState == agentlog.Timeout})
		}
		runs = append(runs, r)
	}
	return runs
}

// plainDemand answers by looking at every moment at which anything can change, instance by
// instance, and labels each by what a clock on the wall of the zone shows.
func plainDemand(runs []run, p sweepPeriod, zone *time.Location) [curves]*meteringv1.DemandCurve {
	moments := []int64{p.from, p.to}
	for _, r := range runs {
		moments = append(moments, r.opened, r.opened+max(0, p.giveBackAfter))
		for _, u := range r.uses {
			moments = append(moments, u.from, u.to, u.to+max(0, p.giveBackAfter))
		}
	}
	for at := p.from; at < p.to; at += 900_000 {
		moments = append(moments, at)
	}
	moments = slices.DeleteFunc(moments, func(at int64) bool { return at < p.from || at > p.to })
	slices.Sort(moments)
	moments = slices.Compact(moments)
	type slot struct {
		length, total, peak, at int64
	}
	var slots [curves]map[[2]int]*slot
	var levels [curves][]int64
	var answer [curves]*meteringv1.DemandCurve
	var peaks [curves]peak
	for c := range curves {
		slots[c] = make(map[[2]int]*slot)
		answer[c] = &meteringv1.DemandCurve{}
	}
	for i := range len(moments) - 1 {
		at, length := moments[i], moments[i+1]-moments[i]
		now := bruteForce(runs, p, at)
		wall := time.UnixMilli(at).In(zone)
		weekday := map[time.Weekday]int{time.Monday: 1, time.Tuesday: 2, time.Wednesday: 3, time.Thursday: 4, time.Friday: 5, time.Saturday: 6, time.Sunday: 7}[wall.Weekday()]
		for c, value := range now {
			for int64(len(levels[c])) <= value {
				levels[c] = append(levels[c], 0)
			}
			levels[c][value] += length
			if value > peaks[c].value {
				peaks[c].value, peaks[c].at = value, at
			}
			s := slots[c][[2]int{weekday, wall.Hour()}]
			if s == nil {
				s = &slot{}
				slots[c][[2]int{weekday, wall.Hour()}] = s
			}
			s.length, s.total = s.length+length, s.total+length*value
			if value > s.peak {
				s.peak, s.at = value, at
			}
		}
	}
	for c, m := range answer {
		rank := func(percent int64) int64 {
			var below int64
			for value, ms := range levels[c] {
				if below += ms; below*100 >= (p.to-p.from)*percent {
					return int64(value)
				}
			}
			return 0
		}
		m.Demand = &meteringv1.Demand{Peak: peaks[c].value, P99: rank(99), P95: rank(95)}
		if peaks[c].value > 0 {
			m.Demand.PeakTime = timestamppb.New(time.UnixMilli(peaks[c].at))
		}
		var total int64
		for value, ms := range levels[c] {
			total += int64(value) * ms
			m.Levels = append(m.Levels, durationpb.New(time.Duration(ms)*time.Millisecond))
		}
		m.Total = durationpb.New(time.Duration(total) * time.Millisecond)
		for weekday := 1; weekday <= 7; weekday++ {
			for hour := range 24 {
				s := slots[c][[2]int{weekday, hour}]
				if s == nil {
					continue
				}
				h := &meteringv1.DemandHour{
					Weekday: int32(weekday), Hour: int32(hour), Peak: s.peak,
					Length: durationpb.New(time.Duration(s.length) * time.Millisecond), Total: durationpb.New(time.Duration(s.total) * time.Millisecond),
				}
				if s.peak > 0 {
					h.PeakTime = timestamppb.New(time.UnixMilli(s.at))
				}
				m.HeatMap = append(m.HeatMap, h)
			}
		}
	}
	return answer
}

// drawPeriod draws a period of quarter-hours that the world may touch.
func drawPeriod(t *rapid.T, w *world, days int64) (from, to *timestamppb.Timestamp) {
	quarters := (w.to - w.from) / 900_000
	a := rapid.Int64Range(-100, quarters+100).Draw(t, "start")
	b := a + rapid.Int64Range(1, days*96).Draw(t, "quarters")
	return timestamppb.New(time.UnixMilli(w.from + a*900_000)), timestamppb.New(time.UnixMilli(w.from + b*900_000))
}

func drawFilter(t *rapid.T, w *world) *meteringv1.UsageFilter {
	maybe := func(what string, ids []contract.ID) []string {
		if rapid.IntRange(0, 3).Draw(t, "filter "+what) > 0 {
			return nil
		}
		return []string{pick(t, what, ids).String(), pick(t, what, ids).String()}
	}
	return &meteringv1.UsageFilter{
		ApplicationIds: maybe("app", w.apps), PrincipalIds: maybe("person", w.persons), MachineIds: maybe("machine", w.machines),
		GroupIds: maybe("group", w.groups), ManagerIds: maybe("site", w.sites),
	}
}

// inTwoParts has the world's events counted in an order of their own, and asks twice: when the
// first half has come, and when the late ones have.
func (w *world) inTwoParts(t *rapid.T, s *Service, ask func()) {
	rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 1))
	rnd.Shuffle(len(w.usage), func(i, j int) { w.usage[i], w.usage[j] = w.usage[j], w.usage[i] })
	whole := w.usage
	half := rapid.IntRange(0, len(whole)).Draw(t, "half")
	w.usage = whole[:half]
	w.applyBatches(t.Context(), t, s.stores)
	if rapid.Bool().Draw(t, "asked before late events") {
		ask()
	}
	w.usage = whole[half:]
	w.applyBatches(t.Context(), t, s.stores)
	w.usage = whole
	ask()
}

// TestReportsEqualEvents: every report's figures are those of a plain re-computation from the
// events, before late ones have come and after.
func TestReportsEqualEvents(t *testing.T) {
	s := newService(t, Config{})
	api := &reportAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		kept := &meteringv1.QueryDemandRequest{StartTime: timestamppb.New(time.UnixMilli(w.from)), EndTime: timestamppb.New(time.UnixMilli(w.to + 900_000))}
		var before *meteringv1.QueryDemandResponse
		var idleBefore *meteringv1.QueryIdleResponse
		w.inTwoParts(t, s, func() {
			checkDemand(t, w, api)
			checkLicencesNeeded(t, w, api)
			checkIdle(t, w, api)
			checkRanking(t, w, api)
			checkUnused(t, w, api)
			checkCompared(t, w, api)
			checkTimeline(t, w, api)
			checkSessions(t, w, api)
			checkSessionChanges(t, w, api)
			checkDistribution(t, w, api)
			checkQuality(t, w, api)
			before = checkReading(t, w, api, kept, before)
			idleBefore = checkIdleReading(t, w, api, idleBefore)
		})
	})
}

func checkDemand(t *rapid.T, w *world, api *reportAPI) {
	zone, err := time.LoadLocation(pick(t, "zone", testZones))
	if err != nil {
		t.Fatal(err)
	}
	req := &meteringv1.QueryDemandRequest{Filter: drawFilter(t, w), Metric: meteringv1.Metric(rapid.IntRange(0, 5).Draw(t, "metric")), TimeZone: zone.String(), HeatMap: true, Holders: true}
	req.StartTime, req.EndTime = drawPeriod(t, w, 4)
	for range 2 {
		req.GiveBackAfter = append(req.GiveBackAfter, durationpb.New(time.Duration(drawGiveBack(t, w, req.GetEndTime()))*time.Millisecond))
	}
	resp, err := api.QueryDemand(as(t.Context(), w.account), req)
	if err != nil {
		t.Fatal(err)
	}
	all := w.instances(req.GetFilter())
	runs := plainRuns(all, req.GetMetric())
	compare := func(what string, want, got *meteringv1.DemandCurve) {
		if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(got, "holders")); diff != "" {
			t.Fatalf("%s of %s (-events +answer):\n%s", what, fmt.Sprint(req), diff)
		}
		checkHolders(t, all, req.GetMetric(), got)
	}
	p := sweepPeriod{from: req.GetStartTime().AsTime().UnixMilli(), to: req.GetEndTime().AsTime().UnixMilli()}
	for i, after := range req.GetGiveBackAfter() {
		p.giveBackAfter = after.AsDuration().Milliseconds()
		want := plainDemand(runs, p, zone)
		if i == 0 {
			compare("open", want[curveOpen], resp.GetOpen())
			compare("busy", want[curveBusy], resp.GetBusy())
			compare("not timed out", want[curveNotTimedOut], resp.GetNotTimedOut())
		}
		compare("given back", want[curveGivenBack], resp.GetGivenBack()[i].GetCurve())
	}
}

// drawGiveBack draws a time that matters: one that began before the period may end in it.
func drawGiveBack(t *rapid.T, w *world, end *timestamppb.Timestamp) int64 {
	longest := int64(90_000_000)
	if len(w.usage) > 0 && rapid.Bool().Draw(t, "since an event") {
		u := pick(t, "since", w.usage)
		longest = min(max(0, end.AsTime().UnixMilli()-u.ToUTCMillis), maxGiveBack.Milliseconds())
	}
	return rapid.OneOf(rapid.Int64Range(0, longest), rapid.Int64Range(max(0, longest-4*86_400_000), longest), rapid.Int64Range(0, 100)).Draw(t, "give back")
}

// checkHolders: those who held the licences of a peak are as many licences as it is, each of an
// instance that was open then.
func checkHolders(t *rapid.T, all []plainInstance, m meteringv1.Metric, c *meteringv1.DemandCurve) {
	licences := make(map[demandKey]bool)
	at := c.GetDemand().GetPeakTime().AsTime().UnixMilli()
	for _, h := range c.GetHolders() {
		i := slices.IndexFunc(all, func(n plainInstance) bool { return n.instance.String() == h.GetInstanceId() })
		if i < 0 || all[i].principal.String() != h.GetPrincipalId() || all[i].machine.String() != h.GetMachineId() || all[i].application.String() != h.GetApplicationId() {
			t.Fatalf("%v is no instance that was asked for", h)
		}
		now := slices.IndexFunc(all[i].events, func(u agentlog.Usage) bool { return u.FromUTCMillis <= at && at < u.ToUTCMillis })
		if now < 0 || h.GetBusy() != (all[i].events[now].ClosedAttention == agentlog.Busy) {
			t.Fatalf("%v was not so at %d", h, at)
		}
		licences[plainRuns(all[i:i+1], m)[0].key] = true
	}
	if int64(len(licences)) != c.GetDemand().GetPeak() {
		t.Fatalf("%d licences were held, the peak is %d", len(licences), c.GetDemand().GetPeak())
	}
}

// checkReading: an answer that names the position of another is as that one, whatever has come
// meanwhile; and who sees only their own is shown their own, whatever is kept of everybody's.
func checkReading(t *rapid.T, w *world, api *reportAPI, req *meteringv1.QueryDemandRequest, before *meteringv1.QueryDemandResponse) *meteringv1.QueryDemandResponse {
	ask := func(ctx context.Context, asOf string, principals ...string) *meteringv1.QueryDemandResponse {
		q := proto.CloneOf(req)
		q.AsOfPosition, q.Filter = asOf, &meteringv1.UsageFilter{PrincipalIds: principals}
		resp, err := api.QueryDemand(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if before != nil {
		if diff := cmp.Diff(before, ask(as(t.Context(), w.account), before.GetPosition()), protocmp.Transform()); diff != "" {
			t.Fatalf("asked again (-first +again):\n%s", diff)
		}
	}
	before = ask(as(t.Context(), w.account), "")
	me := w.persons[0]
	want, mine := ask(as(t.Context(), w.account), "", me.String()), asOwn(t.Context(), w.account, w.merged.resolved().all([]contract.ID{me})...)
	for _, asOf := range []string{"", before.GetPosition()} {
		if diff := cmp.Diff(want, ask(mine, asOf), protocmp.Transform()); diff != "" {
			t.Fatalf("of one's own, as of %q (-filtered +own):\n%s", asOf, diff)
		}
	}
	return before
}

func checkLicencesNeeded(t *rapid.T, w *world, api *reportAPI) {
	req := &meteringv1.QueryLicencesNeededRequest{
		Filter: drawFilter(t, w), Metric: meteringv1.Metric(rapid.IntRange(0, 5).Draw(t, "metric")),
		RefusedPerMillion: rapid.Int32Range(0, 1_000_000).Draw(t, "refused"), Bought: proto.Int64(rapid.Int64Range(0, 5).Draw(t, "bought")), PriceMinorUnits: proto.Int64(123_45), CurrencyCode: "EUR",
	}
	req.StartTime, req.EndTime = drawPeriod(t, w, 4)
	after := time.Duration(drawGiveBack(t, w, req.GetEndTime())) * time.Millisecond
	req.GiveBackAfter = []*durationpb.Duration{durationpb.New(after)}
	resp, err := api.QueryLicencesNeeded(as(t.Context(), w.account), req)
	if err != nil {
		t.Fatal(err)
	}
	all := w.instances(req.GetFilter())
	p := sweepPeriod{from: req.GetStartTime().AsTime().UnixMilli(), to: req.GetEndTime().AsTime().UnixMilli(), giveBackAfter: after.Milliseconds()}
	plain := plainDemand(plainRuns(all, req.GetMetric()), p, time.UTC)
	for i, got := range []*meteringv1.LicencePolicy{resp.GetKept(), resp.GetGivenBack()[0]} {
		checkLicences(t, req, plain[[]curve{curveOpen, curveGivenBack}[i]], got)
		if want := (resp.GetKept().GetNeeded() - got.GetNeeded()) * 123_45; got.GetSavingMinorUnits() != want {
			t.Fatalf("%v saves %d", got, want)
		}
	}
	checkNamed(t, all, p, resp)
}

// checkCompared: what a report is compared with is what it answers about that period.
func checkCompared(t *rapid.T, w *world, api *reportAPI) {
	from, to := drawPeriod(t, w, 20)
	otherFrom, otherTo := timestamppb.New(from.AsTime().Add(from.AsTime().Sub(to.AsTime()))), from
	var namedFrom, namedTo *timestamppb.Timestamp
	if rapid.Bool().Draw(t, "named") {
		otherFrom, otherTo = drawPeriod(t, w, 20)
		namedFrom, namedTo = otherFrom, otherTo
	}
	f, after, ctx := drawFilter(t, w), []*durationpb.Duration{durationpb.New(time.Hour)}, as(t.Context(), w.account)
	asked := namedFrom == nil || rapid.Bool().Draw(t, "and asked for")
	metric := meteringv1.Metric(rapid.IntRange(0, 5).Draw(t, "metric"))
	same := func(what string, want, got proto.Message, errs ...error) {
		for _, err := range errs {
			if err != nil {
				t.Fatal(what, err)
			}
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("%s (-of the period +compared):\n%s", what, diff)
		}
	}
	demand, err1 := api.QueryDemand(ctx, &meteringv1.QueryDemandRequest{StartTime: from, EndTime: to, Filter: f, Metric: metric, GiveBackAfter: after, Compare: asked, CompareStartTime: namedFrom, CompareEndTime: namedTo})
	wantDemand, err2 := api.QueryDemand(ctx, &meteringv1.QueryDemandRequest{StartTime: otherFrom, EndTime: otherTo, Filter: f, Metric: metric, GiveBackAfter: after})
	same("demand", &meteringv1.DemandComparison{
		StartTime: otherFrom, EndTime: otherTo, Open: wantDemand.GetOpen(), Busy: wantDemand.GetBusy(), NotTimedOut: wantDemand.GetNotTimedOut(), GivenBack: wantDemand.GetGivenBack(),
	}, demand.GetCompare(), err1, err2)
	licences, err1 := api.QueryLicencesNeeded(ctx, &meteringv1.QueryLicencesNeededRequest{StartTime: from, EndTime: to, Filter: f, Metric: metric, GiveBackAfter: after, Compare: asked, CompareStartTime: namedFrom, CompareEndTime: namedTo})
	wantLicences, err2 := api.QueryLicencesNeeded(ctx, &meteringv1.QueryLicencesNeededRequest{StartTime: otherFrom, EndTime: otherTo, Filter: f, Metric: metric, GiveBackAfter: after})
	same("licences", &meteringv1.LicencesComparison{
		StartTime: otherFrom, EndTime: otherTo, Kept: wantLicences.GetKept(), GivenBack: wantLicences.GetGivenBack(), People: wantLicences.GetPeople(), Machines: wantLicences.GetMachines(),
	}, licences.GetCompare(), err1, err2)
	idle, err1 := api.QueryIdle(ctx, &meteringv1.QueryIdleRequest{StartTime: from, EndTime: to, Filter: f, Compare: asked, CompareStartTime: namedFrom, CompareEndTime: namedTo})
	wantIdle, err2 := api.QueryIdle(ctx, &meteringv1.QueryIdleRequest{StartTime: otherFrom, EndTime: otherTo, Filter: f})
	same("idle", &meteringv1.IdleComparison{StartTime: otherFrom, EndTime: otherTo, Total: wantIdle.GetTotal(), Applications: wantIdle.GetApplications()}, idle.GetCompare(), err1, err2)
	none, err1 := api.QueryIdle(ctx, &meteringv1.QueryIdleRequest{StartTime: from, EndTime: to, Filter: f})
	same("not compared", (*meteringv1.IdleComparison)(nil), none.GetCompare(), err1)
}

// checkLicences tries every number of licences, one after the other.
func checkLicences(t *rapid.T, req *meteringv1.QueryLicencesNeededRequest, c *meteringv1.DemandCurve, got *meteringv1.LicencePolicy) {
	refused := func(licences int64) (wanted, during int64) {
		for value, d := range c.GetLevels() {
			if over := int64(value) - licences; over > 0 {
				wanted, during = wanted+over*d.AsDuration().Milliseconds(), during+d.AsDuration().Milliseconds()
			}
		}
		return wanted, during
	}
	want := &meteringv1.LicencePolicy{GiveBackAfter: got.GetGiveBackAfter(), Peak: c.GetDemand().GetPeak(), PeakTime: c.GetDemand().GetPeakTime(), Wanted: c.GetTotal(), SavingMinorUnits: got.SavingMinorUnits}
	for {
		over, _ := refused(want.GetNeeded())
		if over*1_000_000 <= c.GetTotal().AsDuration().Milliseconds()*int64(req.GetRefusedPerMillion()) {
			break
		}
		want.Needed++
	}
	spans := func(licences int64) (*durationpb.Duration, *durationpb.Duration) {
		wanted, during := refused(licences)
		return durationpb.New(time.Duration(wanted) * time.Millisecond), durationpb.New(time.Duration(during) * time.Millisecond)
	}
	want.Refused, want.Refusing = spans(want.GetNeeded())
	want.RefusedWithBought, want.RefusingWithBought = spans(req.GetBought())
	want.Surplus = proto.Int64(req.GetBought() - want.GetNeeded())
	want.CostMinorUnits = proto.Int64(want.GetNeeded() * req.GetPriceMinorUnits())
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("(-events +answer):\n%s", diff)
	}
}

func checkNamed(t *rapid.T, all []plainInstance, p sweepPeriod, resp *meteringv1.QueryLicencesNeededResponse) {
	people, machines := make(map[string]bool), make(map[string]bool)
	for _, n := range all {
		for _, u := range n.events {
			busy := u.ClosedAttention == agentlog.Busy
			moment := busy && u.FromUTCMillis == u.ToUTCMillis && p.from <= u.FromUTCMillis && u.FromUTCMillis < p.to
			if !moment && (u.ToUTCMillis <= p.from || u.FromUTCMillis >= p.to || u.FromUTCMillis == u.ToUTCMillis) {
				continue
			}
			people["open"+n.principal.String()], machines["open"+n.machine.String()] = true, true
			if busy {
				people["busy"+n.principal.String()], machines["busy"+n.machine.String()] = true, true
			}
		}
	}
	count := func(of map[string]bool) *meteringv1.NamedLicences {
		m := &meteringv1.NamedLicences{}
		for name := range of {
			if name[:4] == "open" {
				m.Open++
			} else {
				m.Busy++
			}
		}
		m.CostMinorUnits = proto.Int64(m.GetBusy() * 123_45)
		return m
	}
	if diff := cmp.Diff([]*meteringv1.NamedLicences{count(people), count(machines)}, []*meteringv1.NamedLicences{resp.GetPeople(), resp.GetMachines()}, protocmp.Transform()); diff != "" {
		t.Fatalf("(-events +answer):\n%s", diff)
	}
}

// TestReportsKeepToWhatIsKept: a question that reaches behind what the account keeps is answered
// as one that begins there, and says so; that something was used before is not told either.
// Nothing of it depends on what is removed already.
func TestReportsKeepToWhatIsKept(t *testing.T) {
	s := newService(t, Config{})
	api := &reportAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		const sixteenDays = 16 * 86_400_000
		kept := (w.from/sixteenDays + rapid.Int64Range(0, 5).Draw(t, "kept")) * sixteenDays
		if _, err := s.stores.Views.Projector.Exec(t.Context(), "INSERT INTO retention (account_id, instances_before_ms, persons_before_ms, totals_before_ms) VALUES ($1, $2, $2, $2)", w.account, kept); err != nil {
			t.Fatal(err)
		}
		ctx := as(t.Context(), w.account)
		begin, end := timestamppb.New(time.UnixMilli(kept)), timestamppb.New(time.UnixMilli(kept+rapid.Int64Range(1, 20*96).Draw(t, "length")*900_000))
		before := timestamppb.New(begin.AsTime().Add(-time.Duration(rapid.Int64Range(1, 1000).Draw(t, "behind")) * 15 * time.Minute))
		after := []*durationpb.Duration{durationpb.New(time.Hour), durationpb.New(200 * time.Hour)}
		asks := map[string]func(from *timestamppb.Timestamp) (proto.Message, error){
			"demand": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.QueryDemand(ctx, &meteringv1.QueryDemandRequest{StartTime: from, EndTime: end, GiveBackAfter: after, Holders: true})
			},
			"licences needed": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.QueryLicencesNeeded(ctx, &meteringv1.QueryLicencesNeededRequest{StartTime: from, EndTime: end, GiveBackAfter: after})
			},
			"ranking": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.RankUsage(ctx, &meteringv1.RankUsageRequest{StartTime: from, EndTime: end, CompareStartTime: from, CompareEndTime: end})
			},
			"idle": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.QueryIdle(ctx, &meteringv1.QueryIdleRequest{StartTime: from, EndTime: end})
			},
			"timeline": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.QueryTimeline(ctx, &meteringv1.QueryTimelineRequest{StartTime: from, EndTime: end})
			},
			"timeline of people in steps": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.QueryTimeline(ctx, &meteringv1.QueryTimelineRequest{StartTime: from, EndTime: end, RowBy: meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL, Resolution: durationpb.New(time.Hour)})
			},
			"sessions": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.SummarizeSessions(ctx, &meteringv1.SummarizeSessionsRequest{StartTime: from, EndTime: end})
			},
			"distribution": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.QueryDistribution(ctx, &meteringv1.QueryDistributionRequest{StartTime: from, EndTime: end})
			},
			"unused": func(from *timestamppb.Timestamp) (proto.Message, error) {
				return api.ListUnused(ctx, &meteringv1.ListUnusedRequest{StartTime: from, EndTime: end})
			},
		}
		wanted := make(map[string]proto.Message)
		for name, ask := range asks {
			var err error
			if wanted[name], err = ask(begin); err != nil {
				t.Fatal(name, err)
			}
		}
		switch rapid.IntRange(0, 2).Draw(t, "how much is removed") {
		case 1: // a removal was interrupted
			if _, err := s.stores.Views.Projector.Exec(t.Context(), "DELETE FROM cell WHERE account_id = $1 AND level < $2 AND quarter < $3", w.account, int16(levelSixteenDays), int32(quarterOf(kept))); err != nil {
				t.Fatal(err)
			}
		case 2:
			p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
			if err := removerOf(s.stores, w.account, p).remove(t.Context(), horizons{kept, kept, kept}); err != nil {
				t.Fatal(err)
			}
		default:
		}
		for name, ask := range asks {
			want := wanted[name]
			got, err := ask(before)
			if err != nil {
				t.Fatal(name, err)
			}
			since := got.ProtoReflect().Descriptor().Fields().ByName("data_since_time")
			if told, ok := got.ProtoReflect().Get(since).Message().Interface().(*timestamppb.Timestamp); !ok || !told.AsTime().Equal(begin.AsTime()) {
				t.Fatalf("%s is said to be answered from %v, not %v", name, told, begin)
			}
			got.ProtoReflect().Clear(since)
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("%s (-from what is kept +from before):\n%s", name, diff)
			}
			if list, ok := got.(*meteringv1.ListUnusedResponse); ok {
				for _, u := range list.GetUnused() {
					if !u.GetLastOpenTime().AsTime().After(begin.AsTime()) || u.GetLastBusyTime() != nil && !u.GetLastBusyTime().AsTime().After(begin.AsTime()) {
						t.Fatalf("%v is of before %v", u, begin)
					}
				}
			}
		}
	})
}
