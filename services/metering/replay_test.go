package metering

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// plainCurve counts millisecond by millisecond what a curve is.
func plainCurve(runs []run, p sweepPeriod, c curve, hours []hourSpan, slots int) demandCurve {
	d := demandCurve{hours: make([]demandHour, slots)}
	var seen []int64
	for at := p.from; at < p.to; at++ {
		now := bruteForce(runs, p, at)[c]
		seen = append(seen, now)
		if now > d.peak.value {
			d.peak.value, d.peak.at = now, at
		}
		for int64(len(d.lasted)) <= now {
			d.lasted = append(d.lasted, 0)
		}
		d.lasted[now]++
		d.total += now
		for _, h := range hours {
			if at < h.to {
				of := &d.hours[h.slot]
				of.length++
				of.total += now
				if now > of.peak {
					of.peak, of.peakAt = now, at
				}
				break
			}
		}
	}
	slices.Sort(seen)
	d.peak.p99, d.peak.p95 = seen[(len(seen)*99+99)/100-1], seen[(len(seen)*95+99)/100-1]
	return d
}

// TestReplayEqualsBruteForce: one replay answers for every time after which licences are given
// back as counting keys millisecond by millisecond does, for every such time anew.
func TestReplayEqualsBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := drawRuns(t)
		from := rapid.Int64Range(0, 30).Draw(t, "from")
		to := from + rapid.Int64Range(1, 60).Draw(t, "length")
		var hours []hourSpan
		for at := from; at < to; {
			at = min(to, at+rapid.Int64Range(1, 9).Draw(t, "hour"))
			hours = append(hours, hourSpan{at, len(hours) % 3})
		}
		// Of parts that are replayed by themselves, one behind the other, the replay is the same.
		var parts []*replay
		for at := from; at < to; {
			end := min(to, at+rapid.Int64Range(1, 40).Draw(t, "part"))
			parts = append(parts, newReplay(runs, at, end))
			at = end
		}
		r := joinReplays(parts, from, to)
		compare := func(c curve, after int64) {
			p := sweepPeriod{from: from, to: to, giveBackAfter: after}
			if diff := cmp.Diff(plainCurve(runs, p, c, hours, 3), r.curve(c, after, hours, 3), cmp.AllowUnexported(demandCurve{}, demandHour{}, peak{})); diff != "" {
				t.Fatalf("curve %d after %d (-brute force +replay):\n%s", c, after, diff)
			}
		}
		for _, c := range []curve{curveOpen, curveBusy, curveNotTimedOut} {
			compare(c, neverGivenBack)
		}
		for after := range int64(14) {
			compare(curveGivenBack, after)
		}
	})
}

// TestLicencesNeeded: with as many as are needed no more is refused than was chosen, and with
// one less more is.
func TestLicencesNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := demandCurve{lasted: rapid.SliceOfN(rapid.Int64Range(0, 400*86_400_000), 1, 50).Draw(t, "lasted")}
		for value, ms := range d.lasted {
			d.total += int64(value) * ms
		}
		perMillion := rapid.OneOf(rapid.Int64Range(0, 1_000_000), rapid.SampledFrom([]int64{0, 1, 999_999, 1_000_000})).Draw(t, "per million")
		refused := func(licences int64) (sum int64) {
			for value, ms := range d.lasted {
				sum += max(0, int64(value)-licences) * ms
			}
			return sum
		}
		// total / 1,000,000 is exact enough once both sides are cut to whole parts and rests.
		tooMuch := func(licences int64) bool {
			r := refused(licences)
			whole, rest := d.total/1_000_000*perMillion, d.total%1_000_000*perMillion
			return r-whole > rest/1_000_000
		}
		needed := d.needed(perMillion)
		if tooMuch(needed) {
			t.Fatalf("%d licences refuse %d of %d, more than %d of a million", needed, refused(needed), d.total, perMillion)
		}
		if needed > 0 && !tooMuch(needed-1) {
			t.Fatalf("%d licences would do as well as %d", needed-1, needed)
		}
		if wanted, _ := d.refused(needed); wanted != refused(needed) {
			t.Fatalf("%d are refused, not %d", wanted, refused(needed))
		}
	})
}

// BenchmarkSlider moves a slider: METERING_PEOPLE people (default 100) had one application open
// on 250 days of a year, and were busy in it a dozen times a day.
func BenchmarkSlider(b *testing.B) {
	people := size("METERING_PEOPLE", 100)
	rnd := rand.New(rand.NewPCG(3, 3))
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const minute = int64(time.Minute / time.Millisecond)
	var runs []run
	uses := 0
	for person := range people {
		for day := range 365 {
			date := begin.AddDate(0, 0, day)
			if date.Weekday() == time.Saturday || date.Weekday() == time.Sunday {
				continue
			}
			at := date.UnixMilli() + 7*60*minute + rnd.Int64N(180*minute)
			r := run{key: demandKey{idAt('p', person)}, opened: at}
			for range 12 {
				busy, spare := 1+rnd.Int64N(20*minute), 1+rnd.Int64N(50*minute)
				r.uses = append(r.uses, use{from: at, to: at + busy, busy: true}, use{from: at + busy, to: at + busy + spare})
				at += busy + spare
			}
			uses += len(r.uses)
			runs = append(runs, r)
		}
	}
	from, to := begin.UnixMilli(), begin.AddDate(1, 0, 0).UnixMilli()
	began := time.Now()
	r := newReplay(runs, from, to)
	b.Logf("%d people, %d uses put in order in %v", people, uses, time.Since(began))
	hours := weekOf(quarterOf(from), quarterOf(to), time.UTC)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		r.curve(curveGivenBack, rnd.Int64N(120*minute), hours, weekHours)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[(len(took)-1)*99/100].Microseconds())/1000, "p99-ms")
}
