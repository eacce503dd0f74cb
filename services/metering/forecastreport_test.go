package metering

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/metering/forecast"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestForecastsAreOfEachDaysPeak: the history of a forecast is the peak of each whole day of the
// zone, changes of the clocks included, as a plain re-computation from the events tells it; what
// is forecast are the days after.
func TestForecastsAreOfEachDaysPeak(t *testing.T) {
	s := newService(t, Config{})
	api := &reportAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		zone, err := time.LoadLocation(pick(t, "zone", testZones))
		if err != nil {
			t.Fatal(err)
		}
		first := time.UnixMilli(w.from).In(zone)
		first = time.Date(first.Year(), first.Month(), first.Day(), 0, 0, 0, 0, zone)
		days := rapid.IntRange(forecast.LeastDays, 90).Draw(t, "history")
		req := &meteringv1.ForecastDemandRequest{
			Filter: drawFilter(t, w), TimeZone: zone.String(), Days: int32(rapid.IntRange(1, 30).Draw(t, "days")),
			// What is before the first whole day and after the last is nobody's.
			StartTime: timestamppb.New(first.Add(-time.Duration(rapid.IntRange(0, 80).Draw(t, "before")) * 15 * time.Minute)),
			EndTime:   timestamppb.New(first.AddDate(0, 0, days).Add(time.Duration(rapid.IntRange(0, 80).Draw(t, "after")) * 15 * time.Minute)),
			Metric:    meteringv1.Metric(rapid.IntRange(0, 5).Draw(t, "metric")),
		}
		curve, p := curveOpen, sweepPeriod{}
		if rapid.Bool().Draw(t, "is given back") {
			curve, p.giveBackAfter = curveGivenBack, drawGiveBack(t, w, req.GetEndTime())
			req.GiveBackAfter = durationpb.New(time.Duration(p.giveBackAfter) * time.Millisecond)
		}
		runs := plainRuns(w.instances(req.GetFilter()), req.GetMetric())
		var want []*meteringv1.DayPeak
		for day := range days {
			begin := first.AddDate(0, 0, day)
			p.from, p.to = begin.UnixMilli(), first.AddDate(0, 0, day+1).UnixMilli()
			peak := plainDemand(runs, p, zone)[curve].GetDemand().GetPeak()
			if peak > 0 || len(want) > 0 {
				want = append(want, &meteringv1.DayPeak{Date: begin.Format(time.DateOnly), Peak: peak})
			}
		}
		resp, err := api.ForecastDemand(as(t.Context(), w.account), req)
		if len(want) < forecast.LeastDays {
			if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), fmt.Sprintf("leaves %d whole days", len(want))) {
				t.Fatalf("of %d days: %v", len(want), err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, resp.GetHistory(), protocmp.Transform()); diff != "" {
			t.Fatalf("%v (-events +answer):\n%s", req, diff)
		}
		for i, day := range resp.GetDays() {
			if want := first.AddDate(0, 0, days+i).Format(time.DateOnly); day.GetDate() != want {
				t.Fatalf("day %d is %s, not %s", i, day.GetDate(), want)
			}
		}
		if len(resp.GetDays()) != int(req.GetDays()) || resp.GetModel() == meteringv1.ForecastModel_FORECAST_MODEL_UNSPECIFIED || resp.GetLookBack().GetPeriods() == 0 {
			t.Fatal(resp)
		}
		checkForecastFile(t, s, w, req, resp)
	})
}

// checkForecastFile: the file has a line for each day, with the answer's figures.
func checkForecastFile(t *rapid.T, s *Service, w *world, req *meteringv1.ForecastDemandRequest, resp *meteringv1.ForecastDemandResponse) {
	want := [][]string{{"Day", "Peak", "Expected", "Low", "High"}}
	for _, day := range resp.GetHistory() {
		want = append(want, []string{day.GetDate(), fmt.Sprint(day.GetPeak()), "", "", ""})
	}
	for _, day := range resp.GetDays() {
		want = append(want, []string{day.GetDate(), "", fmt.Sprint(day.GetPeak().GetExpected()), fmt.Sprint(day.GetPeak().GetLow()), fmt.Sprint(day.GetPeak().GetHigh())})
	}
	q := &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Forecast{Forecast: req}}
	if diff := cmp.Diff(want, linesOf(as(t.Context(), w.account), t, s, q)); diff != "" {
		t.Fatalf("%v (-answer +file):\n%s", req, diff)
	}
}

// A history that is too short for a forecast is refused with what is missing.
func TestForecastOfTooLittleIsRefused(t *testing.T) {
	s := newService(t, Config{})
	api := &reportAPI{service: s}
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	_, err := api.ForecastDemand(as(t.Context(), resource.NewID()), &meteringv1.ForecastDemandRequest{
		StartTime: timestamppb.New(begin), EndTime: timestamppb.New(begin.AddDate(0, 0, forecast.LeastDays-1)), TimeZone: "UTC",
	})
	if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "start_time: leaves 0 whole days") {
		t.Error(err)
	}
}
