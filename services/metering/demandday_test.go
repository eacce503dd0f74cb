package metering

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// TestDaysAddUp: curves, hours, points and names of parts put together are those of the whole period, whichever way
// it is cut, whatever part nothing is in, asked for the first time and again.
func TestDaysAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := drawRuns(t)
		// Uses lie across minutes and quarter-hours.
		scale := rapid.SampledFrom([]int64{1, 7001, minuteMillis / 2, quarterMillis / 3}).Draw(t, "scale")
		for i := range runs {
			runs[i].opened *= scale
			for n := range runs[i].uses {
				runs[i].uses[n].from, runs[i].uses[n].to = runs[i].uses[n].from*scale, runs[i].uses[n].to*scale
			}
		}
		from := rapid.Int64Range(0, 20).Draw(t, "from") * scale
		to := from + rapid.Int64Range(1, 60).Draw(t, "length")*scale
		r := &reading{account: contract.ID{1}, from: from, to: to, memory: newMemory(rapid.SampledFrom([]int{0, 1 << 20}).Draw(t, "room"))}
		for at := from; at < to; {
			end := min(to, at+rapid.Int64Range(1, 20).Draw(t, "part")*scale)
			if slices.ContainsFunc(runs, func(n run) bool {
				return slices.ContainsFunc(n.uses, func(u use) bool { return u.from < end && u.to >= at })
			}) {
				r.days = append(r.days, newDemandDay(runs, at, end))
			}
			at = end
		}
		whole := newReplay(runs, from, to)
		var hours []hourSpan
		slots := 0
		if rapid.Bool().Draw(t, "by hour") {
			slots = 3
			for _, q := range quartersWithin(from, to) {
				if len(hours) == 0 || rapid.Bool().Draw(t, "next hour") {
					hours = append(hours, hourSpan{q.to, len(hours) % slots})
				}
				hours[len(hours)-1].to = q.to
			}
		}
		same := func(what string, want, got any) {
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(demandCurve{}, demandHour{}, peak{}, point{})); diff != "" {
				t.Fatalf("%s (-whole +parts):\n%s", what, diff)
			}
		}
		for c := range curveGivenBack {
			same("a plain curve", whole.curve(c, neverGivenBack, hours, slots), r.curve(c, neverGivenBack, hours, slots))
		}
		after := rapid.SliceOfN(rapid.Int64Range(0, 14*scale), 0, 5).Draw(t, "given back after")
		for _, again := range []string{"given back", "given back, asked again"} {
			for i, got := range r.givenBack(after, hours, slots) {
				same(again, whole.curve(curveGivenBack, after[i], hours, slots), got)
			}
		}
		p := sweepPeriod{from: from, to: to, step: rapid.Int64Range(1, 20).Draw(t, "minutes") * minuteMillis, giveBackAfter: neverGivenBack}
		if p.byMinutes() {
			want := whole.points(p)
			for i := range want {
				want[i].peak[curveOpen] = max(0, want[i].peak[curveOpen])
			}
			same("points", want, r.points(p))
		}
	})
}

// TestNamedDaysAddUp: who was busy on any day was busy, and nobody is counted twice.
func TestNamedDaysAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		people := drawIDs(t, 5)
		open, busy := make(map[contract.ID]bool), make(map[contract.ID]bool)
		var days []*demandDay
		for range rapid.IntRange(0, 6).Draw(t, "days") {
			of := rapid.MapOf(rapid.SampledFrom(people), rapid.Bool()).Draw(t, "who was busy")
			for id, is := range of {
				open[id], busy[id] = true, busy[id] || is
			}
			days = append(days, &demandDay{people: namedOf(of)})
		}
		want := &meteringv1.NamedLicences{Open: int64(len(open))}
		for _, is := range busy {
			if is {
				want.Busy++
			}
		}
		got := namedLicences(&meteringv1.QueryLicencesNeededRequest{}, days, func(d *demandDay) *namedDay { return &d.people })
		if got.GetOpen() != want.GetOpen() || got.GetBusy() != want.GetBusy() {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}
