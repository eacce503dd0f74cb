package metering

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// scheduleZones have clocks that are put forward and back, also at midnight and by half an hour, one
// that left a day out, and one that does nothing.
var scheduleZones = []string{"UTC", "Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "Asia/Kathmandu", "Africa/Casablanca"}

func drawSchedule(t *rapid.T) *meteringv1.ReportSchedule {
	s := &meteringv1.ReportSchedule{
		Recurrence: meteringv1.ReportSchedule_Recurrence(rapid.IntRange(1, 3).Draw(t, "recurrence")),
		TimeOfDay:  time.Unix(rapid.Int64Range(0, 24*60-1).Draw(t, "minute")*60, 0).UTC().Format(timeOfDay),
	}
	switch s.GetRecurrence() {
	case meteringv1.ReportSchedule_RECURRENCE_WEEKLY:
		for _, day := range rapid.SliceOfNDistinct(rapid.Int32Range(1, 7), 1, 7, rapid.ID[int32]).Draw(t, "weekdays") {
			s.Weekdays = append(s.Weekdays, meteringv1.Weekday(day))
		}
	case meteringv1.ReportSchedule_RECURRENCE_MONTHLY:
		s.DayOfMonth = rapid.Int32Range(1, 31).Draw(t, "day of the month")
	default:
	}
	return s
}

func drawScheduleZone(t *rapid.T) *time.Location {
	zone, err := time.LoadLocation(rapid.SampledFrom(scheduleZones).Draw(t, "zone"))
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// plainDues are the due times between two moments, found by looking at each minute of the clock: another
// way than the one that is tested.
func plainDues(s *meteringv1.ReportSchedule, zone *time.Location, from, to time.Time) (dues []time.Time) {
	wanted := func(date time.Time) bool {
		switch s.GetRecurrence() {
		case meteringv1.ReportSchedule_RECURRENCE_WEEKLY:
			day := meteringv1.Weekday(date.Weekday())
			if date.Weekday() == time.Sunday {
				day = meteringv1.Weekday_WEEKDAY_SUNDAY
			}
			return slices.Contains(s.GetWeekdays(), day)
		case meteringv1.ReportSchedule_RECURRENCE_MONTHLY:
			next := date.AddDate(0, 0, 1)
			return date.Day() == int(s.GetDayOfMonth()) || next.Day() == 1 && date.Day() < int(s.GetDayOfMonth())
		default:
			return true
		}
	}
	shown := func(at time.Time) time.Time {
		_, offset := at.In(zone).Zone()
		return at.Add(time.Duration(offset) * time.Second).UTC()
	}
	clock, _ := time.Parse(timeOfDay, s.GetTimeOfDay())
	// Dates in the order of the calendar, those that the clock leaves out too.
	date := shown(from).Truncate(24*time.Hour).AddDate(0, 0, -2)
	at := from.Add(-3 * 24 * time.Hour).Truncate(time.Minute)
	for ; at.Before(to); date = date.AddDate(0, 0, 1) {
		due := date.Add(time.Duration(clock.Hour())*time.Hour + time.Duration(clock.Minute())*time.Minute)
		probe := at
		for shown(probe).Before(due) {
			probe = probe.Add(time.Minute)
		}
		at = probe
		if wanted(date) && !probe.Before(from) && probe.Before(to) && (len(dues) == 0 || !dues[len(dues)-1].Equal(probe)) {
			dues = append(dues, probe.UTC())
		}
	}
	return dues
}

// TestDueTimes: what is due last and next at any moment, in any zone, is what a look at each minute of
// the clock finds.
func TestDueTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, zone := drawSchedule(t), drawScheduleZone(t)
		// Samoa left out 30 December 2011; in 2026 clocks change in March, April, October and November.
		begin := rapid.SampledFrom([]time.Time{
			time.Date(2011, 12, 20, 0, 0, 0, 0, time.UTC), time.Date(2017, 10, 10, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC), time.Date(2028, 2, 1, 0, 0, 0, 0, time.UTC),
		}).Draw(t, "begin")
		dues := plainDues(s, zone, begin, begin.AddDate(0, 0, 50))
		if len(dues) == 0 {
			t.Fatal("nothing is due in 50 days")
		}
		for i, due := range dues {
			if latest, ok := latestDue(s, zone, due); !ok || !latest.Equal(due) {
				t.Fatalf("at %s the latest is %s, %t", due, latest, ok)
			}
			if next, ok := nextDue(s, zone, due.Add(-time.Millisecond)); !ok || !next.Equal(due) {
				t.Fatalf("just before %s the next is %s, %t", due, next, ok)
			}
			if i > 0 {
				between := dues[i-1].Add(time.Duration(rapid.Int64Range(0, int64(due.Sub(dues[i-1]))-1).Draw(t, "between")))
				latest, _ := latestDue(s, zone, between)
				next, _ := nextDue(s, zone, between)
				if !latest.Equal(dues[i-1]) || !next.Equal(due) {
					t.Fatalf("at %s: %s and %s, not %s and %s", between, latest, next, dues[i-1], due)
				}
			}
		}
	})
}

// TestEachDueTimeIsDecidedOnce: whatever the clock does, however often and by however many it is looked, with changes and
// pauses in between, no due time is decided twice, none is made up for, and none is missed while somebody looks.
func TestEachDueTimeIsDecidedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := drawScheduleZone(t)
		owner, id := resource.NewID(), resource.NewID()
		r, err := SavedReport{}.Apply(&meteringv1.SavedReportDefined{SavedReportId: id[:], OwnerLoginId: owner[:]})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
		greatest := now
		do := func(events []proto.Message) {
			for _, e := range events {
				if r, err = r.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		do(r.DecideSchedule(drawSchedule(t), now))
		seen := map[int64]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0: // the clock is put back
				now = now.Add(-time.Duration(rapid.Int64Range(1, int64(72*time.Hour)).Draw(t, "back")))
			case 1:
				changed := proto.CloneOf(r.Schedule)
				changed.Paused = !changed.GetPaused()
				do(r.DecideSchedule(changed, now))
			case 2:
				do(r.DecideSchedule(drawSchedule(t), now))
			default: // nobody has looked for so long
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(30*24*time.Hour)).Draw(t, "on")))
			}
			before := r
			decided := r.DecideDue(resource.NewID(), zone, now)
			do(decided)
			if again := r.DecideDue(resource.NewID(), zone, now); len(again) > 0 {
				t.Fatalf("decided twice: %v", again)
			}
			greatest = later(greatest, now)
			latest, _ := latestDue(before.Schedule, zone, now)
			if len(decided) == 0 {
				if !before.Schedule.GetPaused() && latest.After(before.Since) && latest.After(before.LastDue) {
					t.Fatalf("%s was missed", latest)
				}
				continue
			}
			due := decided[0].(*meteringv1.SavedReportRunDecided).GetDueUtcMillis()
			switch {
			case seen[due]:
				t.Fatalf("%d was decided before", due)
			case before.Schedule.GetPaused():
				t.Fatal("it is due while it is paused")
			case due != latest.UnixMilli() || due <= before.Since.UnixMilli() || due > now.UnixMilli():
				t.Fatalf("at %s %d is due, since %s", now, due, before.Since)
			}
			seen[due] = true
		}
	})
}

// TestPeriods: each kind begins and ends where a calendar has it.
func TestPeriods(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 30, 9, 20, 0, 0, zone) // a Monday, a day after the clock was put forward
	day := func(year int, month time.Month, day int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, zone)
	}
	now := time.Date(2026, 3, 30, 9, 15, 0, 0, zone)
	for _, c := range []struct {
		kind       meteringv1.ReportPeriod_Kind
		days       int32
		start, end time.Time
	}{
		{meteringv1.ReportPeriod_KIND_LAST_DAYS, 7, day(2026, 3, 23), day(2026, 3, 30)},
		{meteringv1.ReportPeriod_KIND_LAST_WEEK, 0, day(2026, 3, 23), day(2026, 3, 30)},
		{meteringv1.ReportPeriod_KIND_LAST_MONTH, 0, day(2026, 2, 1), day(2026, 3, 1)},
		{meteringv1.ReportPeriod_KIND_LAST_QUARTER, 0, day(2025, 10, 1), day(2026, 1, 1)},
		{meteringv1.ReportPeriod_KIND_LAST_YEAR, 0, day(2025, 1, 1), day(2026, 1, 1)},
		{meteringv1.ReportPeriod_KIND_TODAY, 0, day(2026, 3, 30), now},
		{meteringv1.ReportPeriod_KIND_THIS_WEEK, 0, day(2026, 3, 30), now},
		{meteringv1.ReportPeriod_KIND_THIS_MONTH, 0, day(2026, 3, 1), now},
		{meteringv1.ReportPeriod_KIND_THIS_QUARTER, 0, day(2026, 1, 1), now},
		{meteringv1.ReportPeriod_KIND_THIS_YEAR, 0, day(2026, 1, 1), now},
		{meteringv1.ReportPeriod_KIND_DAYS_TO_NOW, 3, day(2026, 3, 28), now},
	} {
		start, end := timesOf(&meteringv1.ReportPeriod{Kind: c.kind, Days: c.days}, zone, at)
		if !start.Equal(c.start) || !end.Equal(c.end) {
			t.Errorf("%s: %s to %s", c.kind, start.In(zone), end.In(zone))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		period := &meteringv1.ReportPeriod{Kind: meteringv1.ReportPeriod_Kind(rapid.IntRange(1, 11).Draw(t, "kind")), Days: rapid.Int32Range(1, 400).Draw(t, "days")}
		zone := drawScheduleZone(t)
		at := time.Unix(rapid.Int64Range(1_300_000_000, 1_900_000_000).Draw(t, "at"), 0)
		start, end := timesOf(period, zone, at)
		if !start.Before(end) || start.Unix()%900 != 0 || end.Unix()%900 != 0 || end.After(at.Add(15*time.Minute)) {
			t.Fatalf("%s in %s at %s: %s to %s", period, zone, at, start, end)
		}
	})
}
