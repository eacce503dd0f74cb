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

// plainStretches looks at an instance between any two moments at which anything changes.
func plainStretches(n plainInstance, from, to int64) (stretches []spareStretch, open, busy int64) {
	moments := []int64{from, to}
	for _, u := range n.events {
		for _, at := range []int64{u.FromUTCMillis, u.ToUTCMillis} {
			if from < at && at < to {
				moments = append(moments, at)
			}
		}
	}
	slices.Sort(moments)
	moments = slices.Compact(moments)
	for i := range len(moments) - 1 {
		at, next := moments[i], moments[i+1]
		since, isOpen, isBusy := n.opened, false, false
		for _, u := range n.events {
			now := u.FromUTCMillis <= at && at < u.ToUTCMillis
			isOpen = isOpen || now
			if u.ClosedAttention == agentlog.Busy {
				isBusy = isBusy || now
				if u.FromUTCMillis <= at {
					since = max(since, min(at, u.ToUTCMillis))
				}
			}
		}
		switch {
		case isBusy:
			busy += next - at
			open += next - at
		case isOpen:
			open += next - at
			if last := len(stretches) - 1; last >= 0 && stretches[last].to == at && stretches[last].since == since {
				stretches[last].to = next
			} else {
				stretches = append(stretches, spareStretch{at, next, since})
			}
		}
	}
	return stretches, open, busy
}

// checkIdleReading: an answer that names the position of another is as that one, whatever has come meanwhile; and
// longer and shorter stretches are as those of a reading of their own.
func checkIdleReading(t *rapid.T, w *world, api *reportAPI, before *meteringv1.QueryIdleResponse) *meteringv1.QueryIdleResponse {
	ask := func(atLeast time.Duration, asOf string) *meteringv1.QueryIdleResponse {
		resp, err := api.QueryIdle(as(t.Context(), w.account), &meteringv1.QueryIdleRequest{
			StartTime: timestamppb.New(time.UnixMilli(w.from)), EndTime: timestamppb.New(time.UnixMilli(w.to + 900_000)), AtLeast: durationpb.New(atLeast), AsOfPosition: asOf,
		})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	const atLeast = 10 * time.Minute
	if before != nil {
		if diff := gocmp.Diff(before, ask(atLeast, before.GetPosition()), protocmp.Transform()); diff != "" {
			t.Fatalf("asked again (-first +again):\n%s", diff)
		}
	}
	before = ask(atLeast, "")
	for _, other := range []time.Duration{2 * atLeast, 0} {
		of := ask(other, before.GetPosition())
		if diff := gocmp.Diff(ask(other, ""), of, protocmp.Transform()); diff != "" {
			t.Fatalf("of %v as of a reading of %v (-own +other):\n%s", other, atLeast, diff)
		}
	}
	return ask(atLeast, "")
}

func checkIdle(t *rapid.T, w *world, api *reportAPI) {
	zone, err := time.LoadLocation(pick(t, "zone", testZones))
	if err != nil {
		t.Fatal(err)
	}
	req := &meteringv1.QueryIdleRequest{Filter: drawFilter(t, w), TimeZone: zone.String(), Longest: rapid.Int32Range(0, 5).Draw(t, "longest")}
	req.StartTime, req.EndTime = drawPeriod(t, w, 30)
	atLeast := 30 * time.Minute
	if rapid.Bool().Draw(t, "at least") {
		atLeast = time.Duration(rapid.Int64Range(0, 3_600_000).Draw(t, "ms")) * time.Millisecond
		req.AtLeast = durationpb.New(atLeast)
	}
	resp, err := api.QueryIdle(as(t.Context(), w.account), req)
	if err != nil {
		t.Fatal(err)
	}
	type sum struct {
		message *meteringv1.IdleGroup
		days    map[string]bool
	}
	groups := make(map[string]*sum)
	add := func(key string, n plainInstance, person bool, do func(m *meteringv1.IdleTime, days map[string]bool)) {
		if groups[key] == nil {
			groups[key] = &sum{&meteringv1.IdleGroup{ApplicationId: n.application.String(), Time: &meteringv1.IdleTime{}}, make(map[string]bool)}
			if person {
				groups[key].message.PrincipalId = n.principal.String()
			}
		}
		do(groups[key].message.GetTime(), groups[key].days)
	}
	more := func(d **durationpb.Duration, ms int64) { *d = millisSpan((*d).AsDuration().Milliseconds() + ms) }
	hours := make(map[[2]int]int64)
	var longest []*meteringv1.IdleStretch
	from, to := req.GetStartTime().AsTime().UnixMilli(), req.GetEndTime().AsTime().UnixMilli()
	for _, n := range w.instances(req.GetFilter()) {
		stretches, open, busy := plainStretches(n, from, to)
		if open == 0 {
			continue
		}
		each := func(do func(m *meteringv1.IdleTime, days map[string]bool)) {
			add("total", n, false, do)
			add("a"+n.application.String(), n, false, do)
			add("p"+n.application.String()+n.principal.String(), n, true, do)
		}
		each(func(m *meteringv1.IdleTime, _ map[string]bool) { more(&m.Open, open); more(&m.Busy, busy) })
		for _, s := range stretches {
			if s.to-s.from < atLeast.Milliseconds() {
				continue
			}
			each(func(m *meteringv1.IdleTime, days map[string]bool) {
				m.Stretches++
				more(&m.Idle, s.to-s.from)
				m.Longest = millisSpan(max(m.GetLongest().AsDuration().Milliseconds(), s.to-s.from))
				days[time.UnixMilli(s.from).In(zone).Format(time.DateOnly)] = true
			})
			longest = append(longest, &meteringv1.IdleStretch{
				InstanceId: n.instance.String(), ApplicationId: n.application.String(), PrincipalId: n.principal.String(), MachineId: n.machine.String(),
				StartTime: timestamppb.New(time.UnixMilli(s.from)), EndTime: timestamppb.New(time.UnixMilli(s.to)), LastBusyTime: timestamppb.New(time.UnixMilli(s.since)),
			})
			for at := s.from; at < s.to; {
				next := min(s.to, at-at%900_000+900_000)
				wall := time.UnixMilli(at).In(zone)
				hours[[2]int{(int(wall.Weekday())+6)%7 + 1, wall.Hour()}] += next - at
				at = next
			}
		}
	}
	want := &meteringv1.QueryIdleResponse{TimeZone: zone.String(), Position: resp.GetPosition(), Total: &meteringv1.IdleTime{}}
	for key, g := range groups {
		g.message.Time.Days = int64(len(g.days))
		switch key[0] {
		case 't':
			want.Total = g.message.GetTime()
		case 'a':
			want.Applications = append(want.Applications, g.message)
		default:
			want.People = append(want.People, g.message)
		}
	}
	for _, m := range append(slices.Concat(want.GetApplications(), want.GetPeople()), &meteringv1.IdleGroup{Time: want.GetTotal()}) {
		for _, d := range []**durationpb.Duration{&m.Time.Open, &m.Time.Busy, &m.Time.Idle, &m.Time.Longest} {
			more(d, 0) // none is told as none
		}
	}
	for _, list := range [][]*meteringv1.IdleGroup{want.GetApplications(), want.GetPeople()} {
		slices.SortFunc(list, func(a, b *meteringv1.IdleGroup) int {
			return cmp.Or(cmp.Compare(b.GetTime().GetIdle().AsDuration(), a.GetTime().GetIdle().AsDuration()),
				strings.Compare(a.GetApplicationId(), b.GetApplicationId()), strings.Compare(a.GetPrincipalId(), b.GetPrincipalId()))
		})
	}
	for weekday := 1; weekday <= 7; weekday++ {
		for hour := range 24 {
			if ms := hours[[2]int{weekday, hour}]; ms > 0 {
				want.HeatMap = append(want.HeatMap, &meteringv1.IdleHour{Weekday: int32(weekday), Hour: int32(hour), Idle: millisSpan(ms)})
			}
		}
	}
	slices.SortFunc(longest, func(a, b *meteringv1.IdleStretch) int {
		return cmp.Or(cmp.Compare(b.GetEndTime().AsTime().Sub(b.GetStartTime().AsTime()), a.GetEndTime().AsTime().Sub(a.GetStartTime().AsTime())),
			a.GetStartTime().AsTime().Compare(b.GetStartTime().AsTime()), strings.Compare(a.GetInstanceId(), b.GetInstanceId()))
	})
	size := int(req.GetLongest())
	if size == 0 {
		size = 100
	}
	want.Longest = longest[:min(len(longest), size)]
	if diff := gocmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Fatalf("%v (-events +answer):\n%s", req, diff)
	}
}
