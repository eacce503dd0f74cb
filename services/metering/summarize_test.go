package metering

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

var testZones = []string{"UTC", "Europe/Vienna", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo"}

// timeLabel is what a clock and a calendar on the wall show, for the shortest of the groupings by
// time.
func timeLabel(by meteringv1.GroupBy, of []meteringv1.GroupBy, wall time.Time) string {
	for _, g := range []struct {
		by   meteringv1.GroupBy
		text string
	}{
		{meteringv1.GroupBy_GROUP_BY_HOUR, wall.Format("2006-01-02T15 -07:00")},
		{meteringv1.GroupBy_GROUP_BY_DAY, wall.Format("2006-01-02")},
		{meteringv1.GroupBy_GROUP_BY_WEEK, func() string { year, week := wall.ISOWeek(); return fmt.Sprintf("%d-W%d", year, week) }()},
		{meteringv1.GroupBy_GROUP_BY_MONTH, wall.Format("2006-01")},
	} {
		if slices.Contains(of, g.by) {
			if by == g.by {
				return " t" + g.text
			}
			return ""
		}
	}
	return ""
}

// scan is the other algorithm: it walks the intervals a quarter-hour at a time and
// labels each piece by what a clock on the wall of the zone would show.
func scan(w *world, req *meteringv1.SummarizeUsageRequest) (groups map[string]Totals, total Totals) {
	zone, err := time.LoadLocation(req.GetTimeZone())
	if err != nil {
		panic(err)
	}
	from, to := req.GetStartTime().AsTime().UnixMilli(), req.GetEndTime().AsTime().UnixMilli()
	documents := slices.Contains(req.GetGroupBy(), meteringv1.GroupBy_GROUP_BY_DOCUMENT)
	// labels are the groups that a moment counts in: more than one where its person is in more than one.
	labels := func(u *agentlog.Usage, at int64) []string {
		wall := time.UnixMilli(at).In(zone)
		texts := []string{""}
		for _, g := range req.GetGroupBy() {
			parts := []string{""}
			switch g {
			case meteringv1.GroupBy_GROUP_BY_APPLICATION:
				parts[0] = " a" + u.Application.String()
			case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
				parts[0] = " p" + w.person(u.Principal).String()
			case meteringv1.GroupBy_GROUP_BY_MACHINE:
				parts[0] = " m" + u.Machine.String()
			case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
				parts[0] = " d" + u.Document.String()
			case meteringv1.GroupBy_GROUP_BY_SITE:
				parts[0] = " s" + idText(w.siteOf[u.Machine])
			case meteringv1.GroupBy_GROUP_BY_GROUP:
				parts[0] = " g"
				if in := w.groupsOf(u.Principal); len(in) > 0 {
					parts = nil
					for _, group := range in {
						parts = append(parts, " g"+group.String())
					}
				}
			default:
				parts[0] = timeLabel(g, req.GetGroupBy(), wall)
			}
			var longer []string
			for _, text := range texts {
				for _, part := range parts {
					longer = append(longer, text+part)
				}
			}
			texts = longer
		}
		return texts
	}
	groups = make(map[string]Totals)
	person := req.GetCounting() == meteringv1.Counting_COUNTING_PERSON_TIME
	// Under person time: what is strongest in each piece, by person, in all and in
	// each group. Pieces are cut at every edge of any interval.
	var edges []int64
	if person {
		for _, u := range w.usage {
			edges = append(edges, u.FromUTCMillis, u.ToUTCMillis)
		}
		slices.Sort(edges)
		edges = slices.Compact(edges)
	}
	type moment struct {
		principal contract.ID
		group     string
		from, to  int64
	}
	strongest := make(map[moment]usagev1.Attention)
	order := []usagev1.Attention{1, 2, 3, 4, 7, 6, 5} // weakest first
	for i := range w.usage {
		u := &w.usage[i]
		if !w.passes(req.GetFilter(), u) || u.Document.IsZero() == documents {
			continue
		}
		add := func(at int64, t Totals) {
			if at >= from && at < to {
				for _, label := range labels(u, at) {
					g := groups[label]
					g.Add(t)
					groups[label] = g
				}
				total.Add(t)
			}
		}
		if !person {
			switch u.Transition {
			case agentlog.Opened:
				add(u.AtUTCMillis, Totals{Instances: 1})
			case agentlog.TimedOut:
				add(u.AtUTCMillis, Totals{Timeouts: 1})
			}
		}
		if !u.HasClosed {
			continue
		}
		cuts := []int64{u.FromUTCMillis}
		for q := u.FromUTCMillis - u.FromUTCMillis%900_000 + 900_000; q < u.ToUTCMillis; q += 900_000 {
			cuts = append(cuts, q)
		}
		for _, e := range edges {
			if e > u.FromUTCMillis && e < u.ToUTCMillis {
				cuts = append(cuts, e)
			}
		}
		cuts = append(cuts, u.ToUTCMillis)
		slices.Sort(cuts)
		for i := range len(cuts) - 1 {
			a, b := cuts[i], cuts[i+1]
			if a == b {
				continue
			}
			if !person {
				var t Totals
				t.Millis[u.ClosedAttention-1] = b - a
				add(a, t)
				continue
			}
			if a < from || a >= to {
				continue
			}
			for _, g := range append(labels(u, a), "*") {
				m := moment{w.person(u.Principal), g, a, b}
				if g == "" {
					m.group = "(one)"
				}
				if slices.Index(order, attentionOf(u)) > slices.Index(order, strongest[m]) {
					strongest[m] = attentionOf(u)
				}
			}
		}
	}
	for m, a := range strongest {
		var t Totals
		t.Millis[a-1] = m.to - m.from
		if m.group == "*" {
			total.Add(t)
			continue
		}
		if m.group == "(one)" {
			m.group = ""
		}
		g := groups[m.group]
		g.Add(t)
		groups[m.group] = g
	}
	return groups, total
}

func totalsOf(m *meteringv1.UsageTotals) Totals {
	var t Totals
	for i, d := range []time.Duration{
		m.GetSuspended().AsDuration(), m.GetUnknown().AsDuration(), m.GetPaused().AsDuration(), m.GetAway().AsDuration(),
		m.GetBusy().AsDuration(), m.GetIdle().AsDuration(), m.GetBackground().AsDuration(),
	} {
		t.Millis[i] = d.Milliseconds()
	}
	t.Timeouts, t.Instances = m.GetTimeouts(), m.GetInstances()
	return t
}

// ask reads all pages and labels the groups as scan does.
func ask(t *rapid.T, s *Service, w *world, req *meteringv1.SummarizeUsageRequest) (groups map[string]Totals, total Totals) {
	zone, err := time.LoadLocation(req.GetTimeZone())
	if err != nil {
		t.Fatal(err)
	}
	api := &usageAPI{service: s}
	groups = make(map[string]Totals)
	for pages := 0; ; pages++ {
		resp, err := api.SummarizeUsage(as(t.Context(), w.account), req)
		if err != nil {
			t.Fatal(err)
		}
		if pages > 0 && totalsOf(resp.GetTotals()) != total {
			t.Fatal("the totals differ from page to page")
		}
		total = totalsOf(resp.GetTotals())
		if open := resp.GetTotals().GetOpen().AsDuration(); open != total.Open() {
			t.Fatalf("open is %v and the attentions add up to %v", open, total.Open())
		}
		for _, g := range resp.GetGroups() {
			wall := g.GetStartTime().AsTime().In(zone)
			key := ""
			for _, by := range req.GetGroupBy() {
				switch by {
				case meteringv1.GroupBy_GROUP_BY_APPLICATION:
					key += " a" + g.GetApplicationId()
				case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
					key += " p" + g.GetPrincipalId()
				case meteringv1.GroupBy_GROUP_BY_MACHINE:
					key += " m" + g.GetMachineId()
				case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
					key += " d" + g.GetDocumentId()
				case meteringv1.GroupBy_GROUP_BY_GROUP:
					key += " g" + g.GetGroupId()
				case meteringv1.GroupBy_GROUP_BY_SITE:
					key += " s" + g.GetManagerId()
				default:
					key += timeLabel(by, req.GetGroupBy(), wall)
				}
			}
			if _, twice := groups[key]; twice {
				t.Fatalf("the group %q comes twice", key)
			}
			groups[key] = totalsOf(g.GetTotals())
		}
		if int(req.GetPageSize()) > 0 && len(resp.GetGroups()) > int(req.GetPageSize()) {
			t.Fatal("a page is longer than asked for")
		}
		if resp.GetNextPageToken() == "" {
			return groups, total
		}
		req.PageToken = resp.GetNextPageToken()
	}
}

func drawSummary(t *rapid.T, w *world) *meteringv1.SummarizeUsageRequest {
	groupings := []meteringv1.GroupBy{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	req := &meteringv1.SummarizeUsageRequest{
		TimeZone: pick(t, "zone", testZones),
		GroupBy:  rapid.SliceOfNDistinct(rapid.SampledFrom(groupings), 0, 3, func(g meteringv1.GroupBy) meteringv1.GroupBy { return g }).Draw(t, "by"),
		PageSize: rapid.SampledFrom([]int32{0, 1, 3, 10, 10000}).Draw(t, "page"),
		Filter:   &meteringv1.UsageFilter{},
	}
	// Small pages of many hours would only take long.
	if slices.Contains(req.GetGroupBy(), meteringv1.GroupBy_GROUP_BY_HOUR) {
		req.PageSize = max(req.GetPageSize(), 100)
	}
	quarters := (w.to - w.from) / 900_000
	a := rapid.Int64Range(-100, quarters+100).Draw(t, "start")
	b := rapid.Int64Range(a+1, quarters+200).Draw(t, "end")
	req.StartTime = timestamppb.New(time.UnixMilli(w.from + a*900_000))
	req.EndTime = timestamppb.New(time.UnixMilli(w.from + b*900_000))
	maybe := func(what string, ids []contract.ID) []string {
		if !rapid.Bool().Draw(t, "filter "+what) {
			return nil
		}
		return []string{pick(t, what, ids).String(), pick(t, what, ids).String()}
	}
	req.Filter.ApplicationIds = maybe("app", w.apps)
	req.Filter.PrincipalIds = maybe("person", w.persons)
	req.Filter.MachineIds = maybe("machine", w.machines)
	if rapid.Bool().Draw(t, "filter by places") {
		req.Filter.GroupIds, req.Filter.ManagerIds = maybe("group", w.groups), maybe("site", w.sites)
	}
	if rapid.IntRange(0, 2).Draw(t, "counting") == 0 {
		req.Counting = meteringv1.Counting_COUNTING_PERSON_TIME
	}
	return req
}

func TestSummaryEqualsScan(t *testing.T) {
	s := newService(t, Config{})
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		for range 4 {
			req := drawSummary(t, w)
			wantGroups, wantTotal := scan(w, req)
			question := fmt.Sprint(req)
			groups, total := ask(t, s, w, req)
			if diff := cmp.Diff(wantGroups, groups); diff != "" {
				t.Fatalf("%s\ngroups (-scan +answer):\n%s", question, diff)
			}
			if diff := cmp.Diff(wantTotal, total); diff != "" {
				t.Fatalf("%s\ntotals (-scan +answer):\n%s", question, diff)
			}
		}
	})
}

// TestSummaryOfACrowdEqualsScan: where there are many people, parts are dealt out
// by both axes, and those without use are left out.
func TestSummaryOfACrowdEqualsScan(t *testing.T) {
	s := newService(t, Config{})
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		// The more days, the more of them are empty.
		w.to = w.from + rapid.SampledFrom([]int64{1, 3, 30}).Draw(t, "crowd's days")*24*time.Hour.Milliseconds()
		for range 2 * fewPeople {
			w.persons, w.machines = append(w.persons, resource.NewID()), append(w.machines, resource.NewID())
		}
		for range 2 * fewPeople {
			w.drawInstance(t)
		}
		w.applyBatches(t.Context(), t, s.stores)
		for range 2 {
			req := drawSummary(t, w)
			req.GroupBy = append(rapid.SampledFrom([][]meteringv1.GroupBy{
				{meteringv1.GroupBy_GROUP_BY_PRINCIPAL},
				{meteringv1.GroupBy_GROUP_BY_MACHINE},
				{meteringv1.GroupBy_GROUP_BY_DAY},
				{meteringv1.GroupBy_GROUP_BY_HOUR},
				{meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_MACHINE},
				{meteringv1.GroupBy_GROUP_BY_HOUR, meteringv1.GroupBy_GROUP_BY_PRINCIPAL},
			}).Draw(t, "leading"), req.GetGroupBy()...)
			req.Filter.PrincipalIds, req.Filter.MachineIds = nil, nil
			req.PageSize = rapid.SampledFrom([]int32{7, 40, 10000}).Draw(t, "page")
			wantGroups, wantTotal := scan(w, req)
			question := fmt.Sprint(req)
			groups, total := ask(t, s, w, req)
			if diff := cmp.Diff(wantGroups, groups); diff != "" {
				t.Fatalf("%s\ngroups (-scan +answer):\n%s", question, diff)
			}
			if diff := cmp.Diff(wantTotal, total); diff != "" {
				t.Fatalf("%s\ntotals (-scan +answer):\n%s", question, diff)
			}
		}
	})
}

// TestP9DaysAddUp: durations cut at midnight, in any zone, add up to durations
// uncut; hours too.
func TestP9DaysAddUp(t *testing.T) {
	s := newService(t, Config{})
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		req := drawSummary(t, w)
		req.Counting = rapid.SampledFrom([]meteringv1.Counting{0, 1, 2}).Draw(t, "counting")
		req.GroupBy = []meteringv1.GroupBy{rapid.SampledFrom([]meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_HOUR}).Draw(t, "by")}
		groups, total := ask(t, s, w, req)
		var sum Totals
		for g := range maps.Values(groups) {
			sum.Add(g)
		}
		if diff := cmp.Diff(total, sum); diff != "" {
			t.Fatalf("uncut and cut differ: %s", diff)
		}
	})
}

func TestPageTokenBelongsToItsQuestion(t *testing.T) {
	account := resource.NewID()
	q := summary{from: 1, to: 99, by: byPrincipal | byApplication, zone: time.UTC, asked: filter{machines: []contract.ID{resource.NewID()}}}
	last := groupKey{bucket: 7, group: resource.NewID(), site: resource.NewID(), principal: resource.NewID(), application: resource.NewID()}
	token := q.token(account, last)
	again := q
	if err := again.readToken(account, token); err != nil || *again.after != last {
		t.Fatalf("the token comes back as %+v, %v", again.after, err)
	}
	others := map[string]func(*summary){
		"period":   func(q *summary) { q.to++ },
		"grouping": func(q *summary) { q.by = byPrincipal },
		"filter":   func(q *summary) { q.asked = filter{principals: q.asked.machines} },
		"zone":     func(q *summary) { q.zone = time.FixedZone("x", 3600) },
		"counting": func(q *summary) { q.person = true },
	}
	for name, change := range others {
		other := q
		change(&other)
		if err := other.readToken(account, token); !errs.Is(errs.Invalid, err) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if err := q.readToken(resource.NewID(), token); !errs.Is(errs.Invalid, err) {
		t.Errorf("another account: %v", err)
	}
}

func FuzzPageToken(f *testing.F) {
	q := summary{from: 1, to: 99, zone: time.UTC}
	f.Add(q.token(contract.ID{1}, groupKey{}))
	f.Add("not a token")
	f.Fuzz(func(t *testing.T, token string) {
		q := q
		if err := q.readToken(contract.ID{1}, token); err != nil && !errs.Is(errs.Invalid, err) {
			t.Error(err)
		}
		if _, _, err := readMarkToken("test", "question", token); err != nil && !errs.Is(errs.Invalid, err) {
			t.Error(err)
		}
	})
}
