package metering

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
)

// weakestFirst orders attentions as usage-semantics tells them: more than one at a moment count as
// the strongest.
var weakestFirst = []agentlog.Attention{1, 2, 3, 4, 7, 6, 5}

func strongerThan(a, b agentlog.Attention) bool {
	return slices.Index(weakestFirst, a) > slices.Index(weakestFirst, b)
}

// nowOf is what events say of one moment: the strongest attention, and whether a timeout was on;
// 0 where nothing was open.
func nowOf(events []agentlog.Usage, at int64) (attention agentlog.Attention, state agentlog.State) {
	for _, u := range events {
		if u.FromUTCMillis <= at && at < u.ToUTCMillis && (attention == 0 || strongerThan(u.ClosedAttention, attention)) {
			attention, state = u.ClosedAttention, u.ClosedState
		}
	}
	return attention, state
}

// plainBars looks at every moment at which anything changes.
func plainBars(events []agentlog.Usage, from, to int64, withState bool) (bars []*meteringv1.TimelineBar) {
	moments := []int64{from, to}
	for _, u := range events {
		moments = append(moments, u.FromUTCMillis, u.ToUTCMillis)
	}
	moments = slices.DeleteFunc(moments, func(at int64) bool { return at < from || at > to })
	slices.Sort(moments)
	moments = slices.Compact(moments)
	for i := range len(moments) - 1 {
		attention, state := nowOf(events, moments[i])
		if attention == 0 {
			continue
		}
		b := &meteringv1.TimelineBar{StartTime: stampOf(moments[i]), EndTime: stampOf(moments[i+1]), Attention: usagev1.Attention(attention)}
		if withState {
			b.State = usagev1.State(state)
		}
		if n := len(bars); n > 0 && bars[n-1].GetEndTime().AsTime().Equal(b.GetStartTime().AsTime()) && bars[n-1].GetAttention() == b.GetAttention() && bars[n-1].GetState() == b.GetState() {
			bars[n-1].EndTime = b.GetEndTime()
			continue
		}
		bars = append(bars, b)
	}
	return bars
}

func stampOf(ms int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(ms)) }

// plainTime adds up what of events lies in [from, to), each for itself.
func plainTime(events []agentlog.Usage, from, to int64) (t Totals) {
	for _, u := range events {
		t.Millis[u.ClosedAttention-1] += max(0, min(u.ToUTCMillis, to)-max(u.FromUTCMillis, from))
	}
	return t
}

// plainSteps makes the bars of steps one by one: an attention stands for a step if what is
// stronger leaves less than half without it, and it does not.
func plainSteps(events []agentlog.Usage, from, to, step int64) (bars []*meteringv1.TimelineBar) {
	for at := from; at < to; at += step {
		end := min(to, at+step)
		t := plainTime(events, at, end)
		if t.Open() == 0 {
			continue
		}
		half := float64(min(t.Open().Milliseconds(), end-at)) / 2
		var standing agentlog.Attention
		for _, a := range weakestFirst {
			without := 0.0
			for _, other := range weakestFirst {
				if strongerThan(other, a) {
					without += float64(t.Millis[other-1])
				}
			}
			with := without + float64(t.Millis[a-1])
			if with > without && with >= half && without < half {
				standing = a
			}
		}
		b := &meteringv1.TimelineBar{StartTime: stampOf(at), EndTime: stampOf(end), Attention: usagev1.Attention(standing)}
		if n := len(bars); n > 0 && bars[n-1].GetEndTime().AsTime().Equal(b.GetStartTime().AsTime()) && bars[n-1].GetAttention() == b.GetAttention() {
			bars[n-1].EndTime = b.GetEndTime()
			continue
		}
		bars = append(bars, b)
	}
	for _, b := range bars {
		t := plainTime(events, b.GetStartTime().AsTime().UnixMilli(), b.GetEndTime().AsTime().UnixMilli())
		b.Totals = t.message()
	}
	return bars
}

func checkTimeline(t *rapid.T, w *world, api *reportAPI) {
	req := &meteringv1.QueryTimelineRequest{Filter: drawFilter(t, w), RowBy: meteringv1.TimelineRowBy(rapid.IntRange(0, 4).Draw(t, "row by")), PageSize: rapid.Int32Range(1, 5).Draw(t, "page")}
	begin, end := drawPeriod(t, w, 4)
	from, to := begin.AsTime().UnixMilli()+rapid.Int64Range(0, 899_999).Draw(t, "after"), end.AsTime().UnixMilli()+rapid.Int64Range(0, 899_999).Draw(t, "before")
	if to <= from {
		to = from + 1
	}
	req.StartTime, req.EndTime = stampOf(from), stampOf(to)
	step := rapid.SampledFrom([]time.Duration{0, 30 * time.Second, 7 * time.Minute, 15 * time.Minute, 40 * time.Minute, 6 * time.Hour, 26 * time.Hour}).Draw(t, "resolution").Milliseconds()
	if step > 0 {
		req.Resolution = durationpb.New(time.Duration(step) * time.Millisecond)
	}
	if step >= 900_000 {
		from, to, step = from/900_000*900_000, (to+899_999)/900_000*900_000, (step+899_999)/900_000*900_000
	}
	byInstance := req.GetRowBy() <= meteringv1.TimelineRowBy_TIMELINE_ROW_BY_INSTANCE
	req.Documents = byInstance && rapid.Bool().Draw(t, "documents")
	got := askTimeline(t, w, api, req)

	type plainRow struct {
		opened int64
		id     contract.ID
		row    *meteringv1.TimelineRow
	}
	var want []plainRow
	bars := func(events []agentlog.Usage) []*meteringv1.TimelineBar {
		if step == 0 {
			return plainBars(events, from, to, byInstance)
		}
		return plainSteps(events, from, to, step)
	}
	all := w.instances(req.GetFilter())
	rowOf := func(n plainInstance) (contract.ID, *meteringv1.TimelineRow) {
		switch req.GetRowBy() {
		case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL:
			return n.principal, &meteringv1.TimelineRow{PrincipalId: n.principal.String()}
		case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_MACHINE:
			return n.machine, &meteringv1.TimelineRow{MachineId: n.machine.String()}
		case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_APPLICATION:
			return n.application, &meteringv1.TimelineRow{ApplicationId: n.application.String()}
		default:
			return n.instance, &meteringv1.TimelineRow{
				InstanceId: n.instance.String(), SessionId: n.session.String(), ApplicationId: n.application.String(), PrincipalId: n.principal.String(), MachineId: n.machine.String(), OpenTime: stampOf(n.opened),
			}
		}
	}
	events := make(map[contract.ID][]agentlog.Usage)
	for _, n := range all {
		id, row := rowOf(n)
		if _, there := events[id]; !there {
			want = append(want, plainRow{n.opened, id, row})
		}
		events[id] = append(events[id], n.events...)
		if req.GetDocuments() {
			row.Documents = w.plainDocuments(n.instance, from, to, bars)
		}
	}
	want = slices.DeleteFunc(want, func(r plainRow) bool {
		total := plainTime(events[r.id], from, to)
		r.row.Totals, r.row.Bars = total.message(), bars(events[r.id])
		return total.Open() == 0
	})
	slices.SortFunc(want, func(a, b plainRow) int {
		if byInstance {
			return cmp.Or(cmp.Compare(b.opened, a.opened), bytes.Compare(b.id[:], a.id[:]))
		}
		return cmp.Or(cmp.Compare(b.row.GetTotals().GetOpen().AsDuration(), a.row.GetTotals().GetOpen().AsDuration()), bytes.Compare(a.id[:], b.id[:]))
	})
	var rows []*meteringv1.TimelineRow
	for _, r := range want {
		rows = append(rows, r.row)
	}
	if diff := gocmp.Diff(rows, got, protocmp.Transform(), protocmp.IgnoreFields(&meteringv1.TimelineBar{}, "event_id"), protocmp.IgnoreFields(&meteringv1.TimelineRow{}, "close_time")); diff != "" {
		t.Fatalf("%s (-events +answer):\n%s", fmt.Sprint(req), diff)
	}
	if byInstance && step == 0 {
		w.checkEvents(t, got)
	}
}

// plainDocuments are the documents of an instance with time in the period, by when that begins.
func (w *world) plainDocuments(instance contract.ID, from, to int64, bars func([]agentlog.Usage) []*meteringv1.TimelineBar) (all []*meteringv1.TimelineDocument) {
	of := make(map[contract.ID][]agentlog.Usage)
	for _, u := range w.usage {
		if u.Instance == instance && !u.Document.IsZero() && u.HasClosed {
			of[u.Document] = append(of[u.Document], u)
		}
	}
	for id, events := range of {
		if total := plainTime(events, from, to); total.Open() > 0 {
			all = append(all, &meteringv1.TimelineDocument{DocumentId: id.String(), Totals: total.message(), Bars: bars(events)})
		}
	}
	slices.SortFunc(all, func(a, b *meteringv1.TimelineDocument) int {
		return cmp.Or(a.GetBars()[0].GetStartTime().AsTime().Compare(b.GetBars()[0].GetStartTime().AsTime()), cmp.Compare(a.GetDocumentId(), b.GetDocumentId()))
	})
	return all
}

// checkEvents: each bar names the event of the interval that its first moment lies in.
func (w *world) checkEvents(t *rapid.T, rows []*meteringv1.TimelineRow) {
	for _, row := range rows {
		for _, b := range row.GetBars() {
			at := b.GetStartTime().AsTime().UnixMilli()
			i := slices.IndexFunc(w.usage, func(u agentlog.Usage) bool { return u.Event.String() == b.GetEventId() })
			if i < 0 || w.usage[i].Instance.String() != row.GetInstanceId() || w.usage[i].FromUTCMillis > at || w.usage[i].ToUTCMillis <= at {
				t.Fatalf("the event of %v is none of that moment", b)
			}
		}
	}
}

// askTimeline reads all pages.
func askTimeline(t *rapid.T, w *world, api *reportAPI, req *meteringv1.QueryTimelineRequest) (rows []*meteringv1.TimelineRow) {
	req = proto.CloneOf(req)
	for {
		resp, err := api.QueryTimeline(as(t.Context(), w.account), req)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetRows()) > int(req.GetPageSize()) {
			t.Fatal("a page is longer than asked for")
		}
		rows = append(rows, resp.GetRows()...)
		if resp.GetNextPageToken() == "" {
			return rows
		}
		req.PageToken = resp.GetNextPageToken()
	}
}

// plainSession is what a moment-by-moment look at desktop sessions tells of some instances.
func plainSession(all []plainInstance, from, to int64) *meteringv1.SessionGroup {
	g := &meteringv1.SessionGroup{}
	sessions, applications := make(map[contract.ID][]agentlog.Usage), make(map[contract.ID]bool)
	var instanceTime, sessionTime Totals
	var first, last int64
	for _, n := range all {
		t := plainTime(n.events, from, to)
		if t.Open() == 0 {
			continue
		}
		instanceTime.Add(t)
		g.Instances++
		applications[n.application] = true
		sessions[n.session] = append(sessions[n.session], n.events...)
		for _, b := range plainBars(n.events, from, to, false) {
			begin, end := b.GetStartTime().AsTime().UnixMilli(), b.GetEndTime().AsTime().UnixMilli()
			if first == 0 || begin < first {
				first = begin
			}
			last = max(last, end)
		}
	}
	for _, events := range sessions {
		for _, b := range plainBars(events, from, to, false) {
			sessionTime.Millis[b.GetAttention()-1] += b.GetEndTime().AsTime().Sub(b.GetStartTime().AsTime()).Milliseconds()
		}
	}
	g.Sessions, g.Applications = int64(len(sessions)), int64(len(applications))
	g.SessionTime, g.InstanceTime = sessionTime.message(), instanceTime.message()
	if g.GetSessions() > 0 {
		g.StartTime, g.EndTime = stampOf(first), stampOf(last)
	}
	return g
}

func checkSessions(t *rapid.T, w *world, api *reportAPI) {
	req := &meteringv1.SummarizeSessionsRequest{Filter: drawFilter(t, w), GroupBy: meteringv1.SessionGroupBy(rapid.IntRange(0, 4).Draw(t, "sessions by")), PageSize: rapid.Int32Range(1, 5).Draw(t, "page")}
	req.StartTime, req.EndTime = drawPeriod(t, w, 30)
	question := fmt.Sprint(req)
	from, to := req.GetStartTime().AsTime().UnixMilli(), req.GetEndTime().AsTime().UnixMilli()
	all := w.instances(req.GetFilter())
	of := make(map[string][]plainInstance)
	keys := make(map[string]*meteringv1.SessionGroup)
	for _, n := range all {
		k := &meteringv1.SessionGroup{}
		switch req.GetGroupBy() {
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL:
			k.PrincipalId = n.principal.String()
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION:
			k.ApplicationId = n.application.String()
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE:
			k.MachineId = n.machine.String()
		default:
			k.SessionId, k.PrincipalId, k.MachineId = n.session.String(), n.principal.String(), n.machine.String()
		}
		name := k.GetSessionId() + k.GetPrincipalId() + k.GetApplicationId() + k.GetMachineId()
		of[name], keys[name] = append(of[name], n), k
	}
	var want []*meteringv1.SessionGroup
	for name, instances := range of {
		g := plainSession(instances, from, to)
		k := keys[name]
		g.SessionId, g.PrincipalId, g.ApplicationId, g.MachineId = k.GetSessionId(), k.GetPrincipalId(), k.GetApplicationId(), k.GetMachineId()
		if g.GetSessions() > 0 {
			want = append(want, g)
		}
	}
	slices.SortFunc(want, func(a, b *meteringv1.SessionGroup) int {
		if a.GetSessionId() != "" {
			return cmp.Or(b.GetStartTime().AsTime().Compare(a.GetStartTime().AsTime()), cmp.Compare(a.GetSessionId(), b.GetSessionId()))
		}
		return cmp.Or(cmp.Compare(b.GetSessionTime().GetBusy().AsDuration(), a.GetSessionTime().GetBusy().AsDuration()),
			cmp.Compare(a.GetPrincipalId()+a.GetApplicationId()+a.GetMachineId(), b.GetPrincipalId()+b.GetApplicationId()+b.GetMachineId()))
	})
	var got []*meteringv1.SessionGroup
	for {
		resp, err := api.SummarizeSessions(as(t.Context(), w.account), req)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(plainSession(all, from, to), resp.GetTotal(), protocmp.Transform()); diff != "" || resp.GetTotalGroups() != int64(len(want)) {
			t.Fatalf("%s: %d lines, total (-events +answer):\n%s", question, resp.GetTotalGroups(), diff)
		}
		got = append(got, resp.GetGroups()...)
		if resp.GetNextPageToken() == "" {
			break
		}
		req.PageToken = resp.GetNextPageToken()
	}
	if diff := gocmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("%s (-events +answer):\n%s", question, diff)
	}
}

// checkSessionChanges: the changes of a desktop session are its events, joined where nothing that
// people see has changed.
func checkSessionChanges(t *rapid.T, w *world, api *reportAPI) {
	if len(w.usage) == 0 {
		return
	}
	session := pick(t, "session", w.usage).Session
	type change struct {
		instance, event string
		from, to        int64
		attention       usagev1.Attention
		state           usagev1.State
	}
	var want []change
	for _, n := range w.instances(nil) {
		if n.session != session {
			continue
		}
		slices.SortFunc(n.events, func(a, b agentlog.Usage) int {
			return cmp.Or(cmp.Compare(a.FromUTCMillis, b.FromUTCMillis), cmp.Compare(a.ToUTCMillis, b.ToUTCMillis), bytes.Compare(a.Event[:], b.Event[:]))
		})
		for i, u := range n.events {
			if last := len(want) - 1; i > 0 && n.events[i-1].ToUTCMillis == u.FromUTCMillis && want[last].attention == attentionOf(&u) && want[last].state == usagev1.State(u.ClosedState) {
				want[last].to = u.ToUTCMillis
				continue
			}
			want = append(want, change{n.instance.String(), u.Event.String(), u.FromUTCMillis, u.ToUTCMillis, attentionOf(&u), usagev1.State(u.ClosedState)})
		}
	}
	req := &meteringv1.ListSessionChangesRequest{SessionId: session.String(), PageSize: rapid.Int32Range(1, 5).Draw(t, "page")}
	var got []change
	for {
		resp, err := api.ListSessionChanges(as(t.Context(), w.account), req)
		if len(want) == 0 {
			if err == nil {
				t.Fatal("a session of which nothing is known is told of")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.GetChanges() {
			i := c.GetInterval()
			got = append(got, change{c.GetInstanceId(), i.GetEventId(), i.GetStartTime().AsTime().UnixMilli(), i.GetEndTime().AsTime().UnixMilli(), i.GetAttention(), i.GetState()})
		}
		if resp.GetNextPageToken() == "" {
			break
		}
		req.PageToken = resp.GetNextPageToken()
	}
	if !slices.IsSortedFunc(got, func(a, b change) int { return cmp.Compare(a.from, b.from) }) {
		t.Fatalf("%v are not in the order of time", got)
	}
	order := func(a, b change) int { return cmp.Compare(a.event, b.event) }
	slices.SortFunc(want, order)
	slices.SortFunc(got, order)
	if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(change{})); diff != "" {
		t.Fatalf("session %s (-events +answer):\n%s", session, diff)
	}
}

func checkDistribution(t *rapid.T, w *world, api *reportAPI) {
	by := rapid.SampledFrom([]meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_MACHINE}).Draw(t, "spread by")
	req := &meteringv1.QueryDistributionRequest{Filter: drawFilter(t, w), GroupBy: by, Open: rapid.Bool().Draw(t, "open")}
	req.StartTime, req.EndTime = drawPeriod(t, w, 60)
	edges := []time.Duration{time.Hour, 5 * time.Hour, 20 * time.Hour, 40 * time.Hour, 80 * time.Hour, 160 * time.Hour}
	if rapid.Bool().Draw(t, "bounds of its own") {
		edges = []time.Duration{time.Minute, 3 * time.Hour}
		for _, e := range edges {
			req.Bounds = append(req.Bounds, durationpb.New(e))
		}
	}
	resp, err := api.QueryDistribution(as(t.Context(), w.account), req)
	if err != nil {
		t.Fatal(err)
	}
	groups, _ := plainGroups(w, req.GetStartTime(), req.GetEndTime(), req.GetFilter(), by)
	want := &meteringv1.QueryDistributionResponse{Position: resp.GetPosition()}
	parts := make([]struct {
		count int64
		total time.Duration
	}, len(edges)+1)
	var lengths []time.Duration
	var total time.Duration
	for _, g := range groups {
		if g.Open() == 0 {
			continue
		}
		length := g.Of(usagev1.Attention_ATTENTION_BUSY)
		if req.GetOpen() {
			length = g.Open()
		}
		at := 0
		for _, e := range edges {
			if length >= e {
				at++
			}
		}
		parts[at].count++
		parts[at].total += length
		lengths = append(lengths, length)
		total += length
	}
	for i, p := range parts {
		m := &meteringv1.DistributionPart{From: durationpb.New(0), Count: p.count, Total: durationpb.New(p.total)}
		if i > 0 {
			m.From = durationpb.New(edges[i-1])
		}
		if i < len(edges) {
			m.To = durationpb.New(edges[i])
		}
		want.Parts = append(want.Parts, m)
	}
	most := func(percent int) *durationpb.Duration {
		var least time.Duration = -1
		for _, length := range lengths {
			n := 0
			for _, other := range lengths {
				if other <= length {
					n++
				}
			}
			if n*100 >= percent*len(lengths) && (least < 0 || length < least) {
				least = length
			}
		}
		return durationpb.New(max(0, least))
	}
	want.Count, want.Total, want.Median, want.P90, want.Greatest = int64(len(lengths)), durationpb.New(total), most(50), most(90), most(100)
	if diff := gocmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Fatalf("%s (-events +answer):\n%s", fmt.Sprint(req), diff)
	}
}

// TestSharesAreExact: a part per million of a whole is rounded down, however long the times are.
func TestSharesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.OneOf(rapid.Int64Range(1, 1000), rapid.Int64Range(1, math.MaxInt64)).Draw(t, "whole")
		part := rapid.OneOf(rapid.Int64Range(0, whole), rapid.Just(whole), rapid.Just(whole-1)).Draw(t, "part")
		want := new(big.Int).Mul(big.NewInt(part), big.NewInt(1_000_000))
		if want.Div(want, big.NewInt(whole)); perMillion(part, whole) != want.Int64() {
			t.Fatalf("%d of %d are %d of a million, not %d", part, whole, want, perMillion(part, whole))
		}
	})
	if share := perMillion(0, 0); share != 0 {
		t.Errorf("of nothing it is %d", share)
	}
}

// checkQuality: the time by machine that the quality is told of is that of the figures.
func checkQuality(t *rapid.T, w *world, api *reportAPI) {
	req := &meteringv1.GetDataQualityRequest{Filter: drawFilter(t, w)}
	req.StartTime, req.EndTime = drawPeriod(t, w, 60)
	resp, err := (&usageAPI{service: api.service}).GetDataQuality(as(t.Context(), w.account), req)
	if err != nil {
		t.Fatal(err)
	}
	groups, _ := plainGroups(w, req.GetStartTime(), req.GetEndTime(), req.GetFilter(), meteringv1.GroupBy_GROUP_BY_MACHINE)
	var total Totals
	machines, unknown := int64(0), 0
	for _, g := range groups {
		if g.Open() > 0 {
			machines++
		}
		total.Add(Totals{Millis: g.Millis})
		if g.Of(usagev1.Attention_ATTENTION_UNKNOWN) > 0 {
			unknown++
		}
	}
	p := resp.GetPeriod()
	if diff := gocmp.Diff(total.message(), p.GetTotals(), protocmp.Transform()); diff != "" || p.GetMachines() != machines || len(p.GetUnknownMachines()) != unknown {
		t.Fatalf("%s: %d machines, %d with unknown time (-events +answer):\n%s", fmt.Sprint(req), machines, unknown, diff)
	}
	lost := total.Of(usagev1.Attention_ATTENTION_UNKNOWN)
	var grade meteringv1.QualityGrade
	switch {
	case lost == 0:
	case lost*20 >= total.Open():
		grade = meteringv1.QualityGrade_QUALITY_GRADE_POOR
	case lost*100 >= total.Open():
		grade = meteringv1.QualityGrade_QUALITY_GRADE_FAIR
	default:
		grade = meteringv1.QualityGrade_QUALITY_GRADE_GOOD
	}
	var told meteringv1.QualityGrade
	for _, f := range p.GetFindings() {
		if f.GetIssue() == meteringv1.QualityIssue_QUALITY_ISSUE_UNKNOWN_TIME {
			told = f.GetGrade()
		}
	}
	if told != grade {
		t.Fatalf("%v unknown of %v is called %v, not %v", lost, total.Open(), told, grade)
	}
}

// TestQualityOfAgents: what agents on the machines of a period say against its figures is found,
// and what others say is not.
func TestQualityOfAgents(t *testing.T) {
	s := newService(t, Config{})
	w := &world{account: contract.ID{1}}
	from := time.Date(2026, 5, 4, 8, 0, 0, 0, time.UTC)
	machine := func(n byte) contract.ID { return contract.ID{2, n} }
	for n := range byte(5) {
		w.seq++
		at := from.UnixMilli()
		w.usage = append(w.usage, agentlog.Usage{
			Account: w.account, Agent: contract.ID{3, n}, Epoch: 1, Seq: w.seq, Position: w.seq, Event: contract.ID{4, n}, Instance: contract.ID{5, n}, Session: contract.ID{6, n},
			Application: contract.ID{7}, Principal: contract.ID{8, n}, Machine: machine(n), Transition: agentlog.Closed,
			FromUTCMillis: at, ToUTCMillis: at + 3_600_000, AtUTCMillis: at + 3_600_000, HasClosed: true, ClosedAttention: agentlog.Busy, ClosedState: agentlog.Active,
		})
	}
	apply(t.Context(), t, s.stores, newUsageProjection(agentlog.NewDecoder(agentlog.Config{})), &agentlog.Facts{Usage: w.usage})
	// The first is well, each other has one thing; the last but one is of a machine that was not used.
	day := 24 * time.Hour
	for _, a := range []struct {
		n, machine byte
		received   time.Time
		skew       time.Duration
		missing    bool
	}{
		{0, 0, from.Add(day), 0, false},
		{1, 1, from.Add(time.Hour), 0, false},
		{2, 2, from.Add(day), 3 * time.Minute, false},
		{3, 3, from.Add(day), 0, true},
		{4, 9, from.Add(time.Hour), time.Hour, true},
	} {
		exec := func(sql string, args ...any) {
			t.Helper()
			if _, err := s.stores.Views.Projector.Exec(t.Context(), sql, args...); err != nil {
				t.Fatal(err)
			}
		}
		agent := contract.ID{3, a.n}
		exec("INSERT INTO agent (account_id, agent_id, machine_id, received_ms, skew_ms, records, events) VALUES ($1, $2, $3, $4, $5, 1, 1) ON CONFLICT (account_id, agent_id) DO UPDATE SET received_ms = excluded.received_ms, skew_ms = excluded.skew_ms, machine_id = excluded.machine_id",
			w.account, agent, machine(a.machine), a.received.UnixMilli(), a.skew.Milliseconds())
		received := "{[1,10)}"
		if a.missing {
			received = "{[1,3),[5,10)}"
		}
		exec("INSERT INTO agent_epoch (account_id, agent_id, epoch, lane, received, links) VALUES ($1, $2, 1, 0, $3::int8multirange, '')", w.account, agent, received)
	}
	resp, err := (&usageAPI{service: s}).GetDataQuality(as(t.Context(), w.account), &meteringv1.GetDataQualityRequest{StartTime: timestamppb.New(from), EndTime: timestamppb.New(from.Add(8 * time.Hour))})
	if err != nil {
		t.Fatal(err)
	}
	p := resp.GetPeriod()
	if p.GetGrade() != meteringv1.QualityGrade_QUALITY_GRADE_POOR || p.GetMachines() != 5 || p.GetAgents() != 4 {
		t.Errorf("%v, %d machines, %d agents", p.GetGrade(), p.GetMachines(), p.GetAgents())
	}
	found := make(map[meteringv1.QualityIssue]string)
	for _, f := range p.GetFindings() {
		found[f.GetIssue()] = fmt.Sprint(f.GetCount(), f.GetAgentIds())
	}
	if diff := gocmp.Diff(map[meteringv1.QualityIssue]string{
		meteringv1.QualityIssue_QUALITY_ISSUE_SILENT_AGENTS:   fmt.Sprint(1, []string{contract.ID{3, 1}.String()}),
		meteringv1.QualityIssue_QUALITY_ISSUE_SKEWED_AGENTS:   fmt.Sprint(1, []string{contract.ID{3, 2}.String()}),
		meteringv1.QualityIssue_QUALITY_ISSUE_MISSING_RECORDS: fmt.Sprint(2, []string{contract.ID{3, 3}.String()}),
	}, found); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}
