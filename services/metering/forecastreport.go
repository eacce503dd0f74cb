package metering

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/metering/forecast"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// defaultForecastDays is a quarter of a year.
const defaultForecastDays = 90

var forecastModels = map[forecast.Model]meteringv1.ForecastModel{
	forecast.Week:         meteringv1.ForecastModel_FORECAST_MODEL_WEEK,
	forecast.WeekAndTrend: meteringv1.ForecastModel_FORECAST_MODEL_WEEK_AND_TREND,
	forecast.LastWeeks:    meteringv1.ForecastModel_FORECAST_MODEL_LAST_WEEKS,
	forecast.Highest:      meteringv1.ForecastModel_FORECAST_MODEL_HIGHEST,
}

// ForecastDemand implements the rpc.
func (a *reportAPI) ForecastDemand(ctx context.Context, req *meteringv1.ForecastDemandRequest) (*meteringv1.ForecastDemandResponse, error) {
	var wrong []errs.Field
	given, after := curveOpen, int64(neverGivenBack)
	if d := req.GetGiveBackAfter(); d != nil {
		times, bad := giveBackTimes([]*durationpb.Duration{d})
		for i := range bad {
			bad[i].Path = "give_back_after"
		}
		if wrong = append(wrong, bad...); len(bad) == 0 {
			given, after = curveGivenBack, times[0]
		}
	}
	wrong = append(wrong, wrongPrice(req.PriceMinorUnits != nil, req.GetCurrencyCode())...)
	r, err := reportOf(ctx, "metering.ForecastDemand", req, wrong...)
	if err != nil {
		return nil, err
	}
	if err := a.viewed(ctx, r, req, false); err != nil {
		return nil, err
	}
	resp := &meteringv1.ForecastDemandResponse{Metric: knownMetric(req.GetMetric()), CurrencyCode: req.GetCurrencyCode()}
	var days []bucket
	var series forecast.Series
	err = a.read(ctx, r, req.GetTimeZone(), func(tx pgx.Tx) error {
		if days = wholeDays(r.from, r.to, quarterOf(time.Now().UnixMilli()), r.zone); len(days) > 0 {
			reading, err := a.reading(ctx, tx, r, resp.GetMetric(), req.GetAsOfPosition())
			if err != nil {
				return err
			}
			days, series = dailyPeaks(reading, given, after, days)
		}
		if len(days) < forecast.LeastDays {
			return errs.InvalidFields(r.op, "", errs.Field{
				Path:        "start_time",
				Description: fmt.Sprintf("leaves %d whole days that are over and kept, from the first use on; a forecast takes %d to %d", len(days), forecast.LeastDays, forecast.MostDays),
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ahead := int(req.GetDays())
	if ahead == 0 {
		ahead = defaultForecastDays
	}
	f, err := forecast.Next(series, ahead)
	if err != nil {
		return nil, errs.Wrap(r.op, "", err)
	}
	resp.TimeZone, resp.Position, resp.DataSinceTime = r.zone.String(), r.position, r.since
	fillForecast(resp, f, days, series)
	if req.PriceMinorUnits != nil {
		resp.CostMinorUnits = proto.Int64(resp.GetPeak().GetExpected() * req.GetPriceMinorUnits())
		resp.CostHighMinorUnits = proto.Int64(resp.GetPeak().GetHigh() * req.GetPriceMinorUnits())
	}
	return resp, nil
}

// fillForecast puts a forecast into an answer, with the days that it was made from.
func fillForecast(resp *meteringv1.ForecastDemandResponse, f *forecast.Forecast, days []bucket, series forecast.Series) {
	for i, day := range days {
		resp.History = append(resp.History, &meteringv1.DayPeak{Date: day.label.Format(time.DateOnly), Peak: series.Values[i]})
	}
	last := days[len(days)-1].label
	for i, day := range f.Days {
		// Of the calendar, for a day of a zone is not always of 24 hours.
		date := time.Date(last.Year(), last.Month(), last.Day()+1+i, 0, 0, 0, 0, time.UTC)
		resp.Days = append(resp.Days, &meteringv1.DayForecast{Date: date.Format(time.DateOnly), Peak: rangeMessage(day)})
	}
	resp.Peak, resp.Model = rangeMessage(f.Peak), forecastModels[f.Model]
	resp.LookBack = &meteringv1.LookBack{
		Periods: int32(f.LookBack.Origins), Days: int32(f.LookBack.Days),
		MeanError: f.LookBack.MeanError, MeanBias: f.LookBack.MeanBias, NaiveMeanError: f.LookBack.NaiveMeanError,
	}
}

func rangeMessage(r forecast.Range) *meteringv1.ForecastRange {
	return &meteringv1.ForecastRange{Expected: r.Expected, Low: r.Low, High: r.High}
}

// wholeDays are those of a zone that lie in a period and are over.
func wholeDays(from, to, now quarter, zone *time.Location) []bucket {
	to = min(to, now)
	const day = 24 * 4
	if from >= to {
		return nil
	}
	// A day before and after show where the first and the last one begin and end.
	var whole []bucket
	for _, b := range dayBuckets(from-2*day, to+2*day, zone) {
		if b.from >= from && b.to <= to {
			whole = append(whole, b)
		}
	}
	return whole
}

// dailyPeaks are the highest values of a curve on each day, from the first one with any: before
// that nobody had it, or nothing was measured.
func dailyPeaks(r *reading, c curve, after int64, days []bucket) ([]bucket, forecast.Series) {
	spans := make([]hourSpan, 0, len(days)+2)
	// What lies before the first day and after the last is in a slot that nobody reads.
	rest := len(days)
	spans = append(spans, hourSpan{to: days[0].from.millis(), slot: rest})
	for i, d := range days {
		spans = append(spans, hourSpan{to: d.to.millis(), slot: i})
	}
	spans = append(spans, hourSpan{to: r.to, slot: rest})
	curve := r.curve(c, after, spans, len(days)+1)
	var s forecast.Series
	first := len(days)
	for i, d := range days {
		if peak := curve.hours[i].peak; peak > 0 || i > first {
			if i < first {
				first, s.First = i, d.label.Weekday()
			}
			s.Values = append(s.Values, peak)
		}
	}
	return days[first:], s
}
