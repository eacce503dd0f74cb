package forecast

import (
	"fmt"
	"math"
	"slices"
	"time"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"
)

const (
	// LeastDays are the fewest days that a forecast is made from: weekdays are seen eight times.
	LeastDays = 56
	// MostDays bounds how many days are looked back and ahead.
	MostDays = 400
	// leastTrained is from how many days a model forecasts in the look back.
	leastTrained = 28
	// leastHorizon is the shortest period that is forecast in the look back.
	leastHorizon = 14
	// mostOrigins bounds how often the look back forecasts.
	mostOrigins = 60
	// low and high bound four of five.
	low, high = 0.1, 0.9
)

// Model is a way to forecast.
type Model int

// The models.
const (
	// Week takes the mean of each weekday.
	Week Model = iota
	// WeekAndTrend adds a line through all days.
	WeekAndTrend
	// LastWeeks takes the mean of each weekday in the last four weeks.
	LastWeeks
	// Highest takes the mean of each weekday, and the highest so far for the highest to come.
	Highest
	models
)

// Series is a figure of each day, one day after the other; none is below zero.
type Series struct {
	// First is the weekday of the first.
	First  time.Weekday
	Values []int64
}

// Range is a figure and the bounds between which four of five such figures lay in the look
// back.
type Range struct{ Expected, Low, High int64 }

// Forecast is what is expected.
type Forecast struct {
	Model Model
	// Days are those after the series.
	Days []Range
	// Peak is the highest of these days.
	Peak     Range
	LookBack LookBack
}

// LookBack is how the model did in the past.
type LookBack struct {
	// Origins are how many periods were forecast, Days how long each was: shorter than what is
	// forecast now where the series is short.
	Origins, Days int
	// MeanError is by how much the forecast peaks missed the true ones, MeanBias by how much
	// they were too high.
	MeanError, MeanBias float64
	// NaiveMeanError is MeanError of who takes the highest of the series so far.
	NaiveMeanError float64
}

// Next forecasts so many days after a series.
func Next(s Series, days int) (*Forecast, error) {
	if n := len(s.Values); n < LeastDays || n > MostDays {
		return nil, fmt.Errorf("forecast: a series of %d days; it takes %d to %d", n, LeastDays, MostDays)
	}
	if days < 1 || days > MostDays {
		return nil, fmt.Errorf("forecast: %d days ahead; it takes 1 to %d", days, MostDays)
	}
	var best *backTest
	for m := range models {
		t, err := s.backTest(m, days)
		if err != nil {
			return nil, err
		}
		if best == nil || t.look.MeanError < best.look.MeanError {
			best = t
		}
	}
	ahead, peak, err := s.ahead(best.model, days)
	if err != nil {
		return nil, err
	}
	f := &Forecast{Model: best.model, LookBack: best.look}
	for _, v := range ahead {
		f.Days = append(f.Days, within(v, best.dayErrors))
	}
	f.Peak = within(peak, best.peakErrors)
	return f, nil
}

// backTest is how a model did.
type backTest struct {
	model Model
	look  LookBack
	// dayErrors and peakErrors are what was true less what was forecast, in order.
	dayErrors, peakErrors []float64
}

func (s Series) backTest(m Model, days int) (*backTest, error) {
	n := len(s.Values)
	// Half of what there is to look back on may be one period, so that there are others.
	days = min(days, max(leastHorizon, (n-leastTrained)/2))
	t := &backTest{model: m}
	last := n - days
	step := max(1, (last-leastTrained)/mostOrigins)
	var naive float64
	for origin := last; origin >= leastTrained; origin -= step {
		known := Series{s.First, s.Values[:origin]}
		ahead, expected, err := known.ahead(m, days)
		if err != nil {
			return nil, err
		}
		truth := s.Values[origin : origin+days]
		for i, v := range ahead {
			t.dayErrors = append(t.dayErrors, float64(truth[i])-v)
		}
		peak := float64(slices.Max(truth))
		t.peakErrors = append(t.peakErrors, peak-expected)
		naive += math.Abs(peak - float64(slices.Max(known.Values)))
	}
	for _, e := range t.peakErrors {
		t.look.MeanError += math.Abs(e)
		t.look.MeanBias -= e
	}
	origins := float64(len(t.peakErrors))
	t.look.MeanError /= origins
	t.look.MeanBias /= origins
	t.look.NaiveMeanError = naive / origins
	t.look.Origins, t.look.Days = len(t.peakErrors), days
	slices.Sort(t.dayErrors)
	slices.Sort(t.peakErrors)
	return t, nil
}

// ahead is what a model forecasts for the days after a series, and for the highest of them. The
// highest of many days is above the highest of their means: by as much as it was in periods of
// that length that the model was made from, of which the middle one counts.
func (s Series) ahead(m Model, days int) (ahead []float64, peak float64, err error) {
	known := s
	if m == LastWeeks {
		cut := max(0, len(s.Values)-leastTrained)
		known = Series{s.weekday(cut), s.Values[cut:]}
	}
	n := len(known.Values)
	weights, err := known.fit(m == WeekAndTrend)
	if err != nil {
		return nil, 0, err
	}
	level := func(day int) float64 {
		v := weights[known.weekday(day)]
		if m == WeekAndTrend {
			v += weights[7] * float64(day)
		}
		return max(0, v)
	}
	levels := make([]float64, n+days)
	for day := range levels {
		levels[day] = level(day)
	}
	ahead = levels[n:]
	if m == Highest {
		return ahead, float64(slices.Max(known.Values)), nil
	}
	var above []float64
	for length, to := min(days, n), n; to >= length; to -= length {
		above = append(above, float64(slices.Max(known.Values[to-length:to]))-slices.Max(levels[to-length:to]))
	}
	slices.Sort(above)
	return ahead, slices.Max(ahead) + max(0, stat.Quantile(0.5, stat.Empirical, above, nil)), nil
}

// weekday is that of a day of the series, counted from 0.
func (s Series) weekday(day int) time.Weekday { return time.Weekday((int(s.First) + day) % 7) }

// fit finds, by least squares, a weight of each weekday, and that of a day's place in the
// series.
func (s Series) fit(trend bool) ([]float64, error) {
	columns := 7
	if trend {
		columns = 8
	}
	days := mat.NewDense(len(s.Values), columns, nil)
	values := mat.NewVecDense(len(s.Values), nil)
	for day, v := range s.Values {
		days.Set(day, int(s.weekday(day)), 1)
		if trend {
			days.Set(day, 7, float64(day))
		}
		values.SetVec(day, float64(v))
	}
	var weights mat.VecDense
	if err := weights.SolveVec(days, values); err != nil {
		return nil, fmt.Errorf("forecast: fit %d days: %w", len(s.Values), err)
	}
	return weights.RawVector().Data, nil
}

// within rounds a figure, with bounds by errors in order.
func within(v float64, errors []float64) Range {
	r := Range{
		Expected: whole(v),
		Low:      whole(v + stat.Quantile(low, stat.Empirical, errors, nil)),
		High:     whole(v + stat.Quantile(high, stat.Empirical, errors, nil)),
	}
	r.Low, r.High = min(r.Low, r.Expected), max(r.High, r.Expected)
	return r
}

// whole is the nearest figure that can be.
func whole(v float64) int64 { return int64(math.Round(max(0, v))) }
