package metering

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
)

// drawRuns draws instances whose intervals join, on a short time line, so that
// edges meet often.
func drawRuns(t *rapid.T) []run {
	keys := drawIDs(t, 3)
	runs := make([]run, rapid.IntRange(0, 6).Draw(t, "runs"))
	for i := range runs {
		r := &runs[i]
		r.key = demandKey{pick(t, "key", keys)}
		r.opened = rapid.Int64Range(0, 40).Draw(t, "opened")
		at := r.opened
		for range rapid.IntRange(0, 6).Draw(t, "uses") {
			u := use{from: at, to: at + rapid.Int64Range(0, 8).Draw(t, "length"), busy: rapid.Bool().Draw(t, "busy")}
			u.timedOut = !u.busy && rapid.Bool().Draw(t, "timed out")
			at = u.to
			r.uses = append(r.uses, u)
		}
	}
	return runs
}

// bruteForce counts keys millisecond by millisecond.
func bruteForce(runs []run, p sweepPeriod, at int64) (now [curves]int64) {
	var have [curves]map[demandKey]bool
	for c := range have {
		have[c] = make(map[demandKey]bool)
	}
	for _, r := range runs {
		lastBusy := r.opened // the last busy moment, or the opening
		open := false
		for _, u := range r.uses {
			if u.busy && u.from <= at {
				lastBusy = max(lastBusy, min(at, u.to))
			}
			if u.from <= at && at < u.to {
				open = true
				have[curveOpen][r.key] = true
				have[curveBusy][r.key] = have[curveBusy][r.key] || u.busy
				have[curveNotTimedOut][r.key] = have[curveNotTimedOut][r.key] || !u.timedOut
				if u.busy {
					lastBusy = at + 1 // busy now: nothing to give back
				}
			}
		}
		if open && (lastBusy > at || at-lastBusy < p.giveBackAfter) {
			have[curveGivenBack][r.key] = true
		}
	}
	for c := range now {
		for _, is := range have[c] {
			if is {
				now[c]++
			}
		}
	}
	return now
}

// TestPointsEqualBruteForce: peaks and points of a replay, and of a sweep over the unions of each key, are those that counting
// keys millisecond by millisecond finds.
func TestPointsEqualBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := drawRuns(t)
		p := sweepPeriod{from: rapid.Int64Range(0, 30).Draw(t, "from"), step: rapid.Int64Range(1, 9).Draw(t, "step"), giveBackAfter: rapid.Int64Range(-1, 12).Draw(t, "give back")}
		p.to = p.from + rapid.Int64Range(1, 60).Draw(t, "length")
		swept, sweptPoints := sweep(runs, p)
		r := newReplay(runs, p.from, p.to)
		peaks, points := peaksOf(r, p), r.points(p)

		var want [curves]peak
		var seen [curves][]int64
		wantPoints := make([]point, 0)
		for at := p.from; at < p.to; at++ {
			now := bruteForce(runs, p, at)
			if p.giveBackAfter < 0 {
				now[curveGivenBack] = 0
			}
			for c := range curves {
				if now[c] > want[c].value {
					want[c].value, want[c].at = now[c], at
				}
				seen[c] = append(seen[c], now[c])
			}
			if (at-p.from)%p.step == 0 {
				wantPoints = append(wantPoints, point{at: at, now: now})
			}
			q := &wantPoints[len(wantPoints)-1]
			if now[curveOpen] > q.now[curveOpen] {
				q.now = now
			}
			for c := range curves {
				q.peak[c] = max(q.peak[c], now[c])
			}
		}
		for c := range curves {
			slices.Sort(seen[c])
			rank := func(percent int) int64 { return seen[c][(len(seen[c])*percent+99)/100-1] }
			want[c].p99, want[c].p95 = rank(99), rank(95)
		}
		if diff := cmp.Diff(want, peaks, cmp.AllowUnexported(peak{})); diff != "" {
			t.Fatalf("peaks (-brute force +replay):\n%s", diff)
		}
		if diff := cmp.Diff(wantPoints, points, cmp.AllowUnexported(point{})); diff != "" {
			t.Fatalf("points (-brute force +replay):\n%s", diff)
		}
		if diff := cmp.Diff(want, swept, cmp.AllowUnexported(peak{})); diff != "" {
			t.Fatalf("peaks (-brute force +sweep):\n%s", diff)
		}
		if diff := cmp.Diff(wantPoints, sweptPoints, cmp.AllowUnexported(point{})); diff != "" {
			t.Fatalf("points (-brute force +sweep):\n%s", diff)
		}
	})
}

// TestP12Peaks: a peak is at least every sample of the same curve, and at most the
// number of instances; through the API, from the tables.
func TestP12Peaks(t *testing.T) {
	s := newService(t, Config{})
	api := &usageAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		from := rapid.Int64Range(w.from-86_400_000, w.to).Draw(t, "from")
		length := rapid.Int64Range(1, 40*86_400_000).Draw(t, "length")
		req := &meteringv1.QueryConcurrencyRequest{
			StartTime: timestamppb.New(time.UnixMilli(from)), EndTime: timestamppb.New(time.UnixMilli(from + length)),
			Metric: meteringv1.Metric(rapid.IntRange(0, 5).Draw(t, "metric")),
			Step:   durationpb.New(time.Duration(max(1000, length/rapid.Int64Range(1, 300).Draw(t, "points"))) * time.Millisecond),
		}
		after := rapid.SampledFrom([]time.Duration{-1, 0, time.Minute, 100 * time.Hour}).Draw(t, "give back")
		if after >= 0 {
			req.GiveBackAfter = durationpb.New(after)
		}
		resp, err := api.QueryConcurrency(as(t.Context(), w.account), req)
		if err != nil {
			t.Fatal(err)
		}
		// The same from the events themselves, whole lives, no index.
		runs := w.runs(resp.GetMetric())
		p := sweepPeriod{from: from, to: from + length, step: req.GetStep().AsDuration().Milliseconds(), giveBackAfter: -1}
		if after >= 0 {
			p.giveBackAfter = after.Milliseconds()
		}
		want, _ := sweep(runs, p)
		for c, d := range []*meteringv1.Demand{resp.GetOpen(), resp.GetBusy(), resp.GetNotTimedOut(), resp.GetGivenBack()} {
			if d.GetPeak() != want[c].value || d.GetP95() != want[c].p95 || d.GetP99() != want[c].p99 {
				t.Fatalf("curve %d: the API says %v, the events say %+v", c, d, want[c])
			}
			if d.GetPeak() > int64(len(runs)) {
				t.Fatalf("curve %d: peak %d of %d instances", c, d.GetPeak(), len(runs))
			}
		}
		for _, q := range resp.GetPoints() {
			if q.GetOpen() > resp.GetOpen().GetPeak() || q.GetPeakActive() > resp.GetBusy().GetPeak() ||
				q.GetPeakNotTimedOut() > resp.GetNotTimedOut().GetPeak() || q.GetPeakGivenBack() > resp.GetGivenBack().GetPeak() {
				t.Fatalf("the point %v is above a peak of the period", q)
			}
			if q.GetActive() > q.GetPeakActive() || q.GetActive()+q.GetInactive() > q.GetPeakNotTimedOut() || q.GetGivenBack() > q.GetPeakGivenBack() {
				t.Fatalf("the point %v is above its own peak", q)
			}
			if min(q.GetActive(), q.GetInactive(), q.GetTimedOut()) < 0 || q.GetActive()+q.GetInactive()+q.GetTimedOut() != q.GetOpen() || q.GetGivenBack() > q.GetOpen() {
				t.Fatalf("the point %v does not add up", q)
			}
		}
		for range 20 {
			at := rapid.Int64Range(from, from+length-1).Draw(t, "at")
			now := bruteForce(runs, p, at)
			if now[curveOpen] > resp.GetOpen().GetPeak() || now[curveBusy] > resp.GetBusy().GetPeak() || now[curveNotTimedOut] > resp.GetNotTimedOut().GetPeak() {
				t.Fatalf("at %d there are %v, above a peak", at, now)
			}
		}
	})
}

// runs are the world's instances under a metric.
func (w *world) runs(m meteringv1.Metric) []run {
	byInstance := make(map[contract.ID]*run)
	for i := range w.usage {
		u := &w.usage[i]
		if !u.Document.IsZero() {
			continue
		}
		r := byInstance[u.Instance]
		if r == nil {
			row := used{instance: u.Instance, principal: w.person(u.Principal), machine: u.Machine, session: u.Session}
			r = &run{key: metricOf(m)(&row), opened: u.AtUTCMillis}
			byInstance[u.Instance] = r
		}
		if u.HasClosed {
			r.uses = append(r.uses, use{from: u.FromUTCMillis, to: u.ToUTCMillis, busy: u.ClosedAttention == agentlog.Busy, timedOut: u.ClosedState == agentlog.Timeout})
		}
	}
	var runs []run
	for _, r := range byInstance {
		runs = append(runs, *r)
	}
	return runs
}

// peaksOf are the peaks of a replay's curves.
func peaksOf(r *replay, p sweepPeriod) (peaks [curves]peak) {
	for c := range curveGivenBack {
		peaks[c] = r.curve(c, neverGivenBack, nil, 0).peak
	}
	if p.giveBackAfter >= 0 {
		peaks[curveGivenBack] = r.curve(curveGivenBack, p.giveBackAfter, nil, 0).peak
	}
	return peaks
}

// sweep is another way to the same: it sweeps over the runs. Intervals are half-open: at one instant ends come
// before starts, so that a licence handed from one to the next is one licence.
func sweep(runs []run, p sweepPeriod) (peaks [curves]peak, points []point) {
	edges := demandEdges(runs, p)
	points = make([]point, (p.to-p.from+p.step-1)/p.step)
	for i := range points {
		points[i] = point{at: p.from + int64(i)*p.step}
		// A step begins where nothing has been seen of it: the first moment is greater.
		points[i].peak[curveOpen] = -1
	}
	var now [curves]int64
	var lasted [curves][]int64 // by value, in milliseconds
	at := p.from
	for i := 0; at < p.to; {
		for ; i < len(edges) && edges[i].at <= at; i++ {
			now[edges[i].curve] += int64(edges[i].delta)
		}
		next := p.to
		if i < len(edges) {
			next = min(next, edges[i].at)
		}
		for c := range curves {
			if now[c] > peaks[c].value {
				peaks[c].value, peaks[c].at = now[c], at
			}
			for int64(len(lasted[c])) <= now[c] {
				lasted[c] = append(lasted[c], 0)
			}
			lasted[c][now[c]] += next - at
		}
		for s := (at - p.from) / p.step; s <= (next-1-p.from)/p.step; s++ {
			q := &points[s]
			if now[curveOpen] > q.peak[curveOpen] {
				q.now = now
			}
			for c := range curves {
				q.peak[c] = max(q.peak[c], now[c])
			}
		}
		at = next
	}
	for c := range curves {
		peaks[c].p99 = percentile(lasted[c], p.to-p.from, 99)
		peaks[c].p95 = percentile(lasted[c], p.to-p.from, 95)
	}
	return peaks, points
}

type demandEdge struct {
	at    int64
	curve curve
	delta int8
}

// demandEdges makes the edges of all curves: per key the union of its instances,
// clipped to the period, in the order of time.
func demandEdges(runs []run, p sweepPeriod) []demandEdge {
	type bounds [curves][]segment
	keys := make(map[demandKey]*bounds)
	for _, r := range runs {
		b := keys[r.key]
		if b == nil {
			b = new(bounds)
			keys[r.key] = b
		}
		first := [curves]int{}
		for c := range curves {
			first[c] = len(b[c])
		}
		for _, u := range r.uses {
			s := segment{max(u.from, p.from), min(u.to, p.to)}
			if s.from >= s.to {
				continue
			}
			b[curveOpen] = append(b[curveOpen], s)
			if u.busy {
				b[curveBusy] = append(b[curveBusy], s)
			}
			if u.busy || !u.timedOut {
				b[curveNotTimedOut] = append(b[curveNotTimedOut], s)
			}
		}
		if p.giveBackAfter >= 0 {
			b[curveGivenBack] = append(b[curveGivenBack], intersect(union(slices.Clone(b[curveOpen][first[curveOpen]:])), r.held(p.giveBackAfter))...)
		}
	}
	var edges []demandEdge
	for _, b := range keys {
		for c := range curves {
			for _, s := range union(b[c]) {
				edges = append(edges, demandEdge{s.from, c, 1}, demandEdge{s.to, c, -1})
			}
		}
	}
	slices.SortFunc(edges, func(a, b demandEdge) int { return int(a.at - b.at) })
	return edges
}

// held is when the instance would keep its licence: from its opening and from each
// busy moment, one of no length too, until so long after.
func (r *run) held(after int64) []segment {
	held := []segment{{r.opened, r.opened + after}}
	for _, u := range r.uses {
		if u.busy {
			held = append(held, segment{u.from, u.to + after})
		}
	}
	return union(held)
}

// segment is [from, to) in milliseconds of UTC.
type segment struct{ from, to int64 }

// union sorts and joins segments in place; those that only touch become one.
func union(segments []segment) []segment {
	slices.SortFunc(segments, func(a, b segment) int { return int(a.from - b.from) })
	joined := segments[:0]
	for _, s := range segments {
		switch n := len(joined); {
		case s.from >= s.to:
		case n > 0 && s.from <= joined[n-1].to:
			joined[n-1].to = max(joined[n-1].to, s.to)
		default:
			joined = append(joined, s)
		}
	}
	return joined
}

// intersect returns where both are; both are unions.
func intersect(a, b []segment) []segment {
	var both []segment
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if s := (segment{max(a[i].from, b[j].from), min(a[i].to, b[j].to)}); s.from < s.to {
			both = append(both, s)
		}
		if a[i].to < b[j].to {
			i++
		} else {
			j++
		}
	}
	return both
}
