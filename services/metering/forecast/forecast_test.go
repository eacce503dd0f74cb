package forecast

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// office is a firm's daily peaks: weekdays, growth a day in thousandths, and noise.
func office(random *rand.Rand, days int, size, growthThousandths, noise float64) Series {
	s := Series{First: time.Wednesday}
	for day := range days {
		level := size + growthThousandths*float64(day)/1000
		switch s.weekday(day) {
		case time.Saturday, time.Sunday:
			level /= 10
		case time.Friday:
			level *= 0.8
		default:
		}
		s.Values = append(s.Values, int64(math.Round(max(0, level+noise*random.NormFloat64()))))
	}
	return s
}

// What follows a rule that a model knows is forecast by it.
func TestARuleIsFound(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		growth float64
		model  Model
	}{{0, Week}, {200, WeekAndTrend}} {
		s := office(random, 300+90, 100, c.growth, 0)
		known := Series{s.First, s.Values[:300]}
		f, err := Next(known, 90)
		if err != nil {
			t.Fatal(err)
		}
		if f.Model != c.model && c.growth != 0 {
			t.Errorf("growth %v: model %v, want %v", c.growth, f.Model, c.model)
		}
		for i, day := range f.Days {
			// With growth, weekdays that are shares of a day's level drift a little from a line.
			if miss := math.Abs(float64(day.Expected - s.Values[300+i])); miss > 1+c.growth*390/1000*0.45 {
				t.Fatalf("growth %v: day %d: %+v, was %d", c.growth, i, day, s.Values[300+i])
			}
		}
	}
}

// Of many firms, about four of five have their next period's peak within the bounds. Errors in
// the look back overlap, so that bounds are a little too narrow: 65 of 100 is the least.
func TestBoundsHoldAsOftenAsTheySay(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	const firms = 300
	in := 0
	for range firms {
		s := office(random, 200+30, 50+100*random.Float64(), 100*random.Float64(), 5)
		f, err := Next(Series{s.First, s.Values[:200]}, 30)
		if err != nil {
			t.Fatal(err)
		}
		peak := int64(0)
		for _, v := range s.Values[200:] {
			peak = max(peak, v)
		}
		if f.Peak.Low <= peak && peak <= f.Peak.High {
			in++
		}
	}
	if share := float64(in) / firms; share < 0.65 || share > 0.98 {
		t.Errorf("%d of %d peaks were within the bounds", in, firms)
	}
}

// Where days scatter, the highest of a month is well above the mean of any weekday: it is neither
// missed by that much, nor worse than the highest so far, which too grows with the past.
func TestThePeakIsNotThatOfMeans(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	const firms, noise = 100, 10
	bias := 0.0
	for range firms {
		s := office(random, 200+30, 60, 0, noise)
		f, err := Next(Series{s.First, s.Values[:200]}, 30)
		if err != nil {
			t.Fatal(err)
		}
		bias += float64(f.Peak.Expected-slices.Max(s.Values[200:])) / firms
	}
	if math.Abs(bias) > noise/3 {
		t.Errorf("peaks are forecast %.1f too high in the mean", bias)
	}
}

func TestWhateverWasAForecastIsSane(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Series{
			First:  time.Weekday(rapid.IntRange(0, 6).Draw(t, "first")),
			Values: rapid.SliceOfN(rapid.Int64Range(0, 1_000_000), LeastDays, MostDays).Draw(t, "values"),
		}
		days := rapid.IntRange(1, MostDays).Draw(t, "days")
		f, err := Next(s, days)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Days) != days {
			t.Fatalf("%d days", len(f.Days))
		}
		for _, r := range append(f.Days, f.Peak) {
			if r.Low < 0 || r.Low > r.Expected || r.Expected > r.High || r.Expected > f.Peak.Expected {
				t.Fatalf("%+v of %+v", r, f.Peak)
			}
		}
		if l := f.LookBack; l.Origins < 1 || l.Days < 1 || l.Days > days || math.IsNaN(l.MeanError) || l.MeanError < math.Abs(l.MeanBias)-1e-6 || l.MeanError > l.NaiveMeanError {
			t.Fatalf("%+v", l)
		}
	})
}

func TestTooShortOrTooLongIsRefused(t *testing.T) {
	for _, c := range []struct{ known, ahead int }{{LeastDays - 1, 1}, {MostDays + 1, 1}, {LeastDays, 0}, {LeastDays, MostDays + 1}} {
		if _, err := Next(Series{Values: make([]int64, c.known)}, c.ahead); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
