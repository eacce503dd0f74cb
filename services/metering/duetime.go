package metering

import (
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// lookBack and lookAhead are how many days hold at least one due time of whatever schedule: a month
// is at most 31 long, and a zone may leave a day out.
const lookBack, lookAhead = 33, 33

// latestDue is the last due time of a schedule that is not after a moment; false where its schedule
// names no day.
func latestDue(schedule *meteringv1.ReportSchedule, zone *time.Location, at time.Time) (time.Time, bool) {
	today := dateIn(at, zone)
	for back := -1; back <= lookBack; back++ {
		if due, ok := dueOn(schedule, today.AddDate(0, 0, -back), zone); ok && !due.After(at) {
			return due, true
		}
	}
	return time.Time{}, false
}

// nextDue is the first due time of a schedule that is after a moment.
func nextDue(schedule *meteringv1.ReportSchedule, zone *time.Location, at time.Time) (time.Time, bool) {
	today := dateIn(at, zone)
	for ahead := -1; ahead <= lookAhead; ahead++ {
		if due, ok := dueOn(schedule, today.AddDate(0, 0, ahead), zone); ok && due.After(at) {
			return due, true
		}
	}
	return time.Time{}, false
}

// dueOn is when a schedule is due on a date; false where it is not.
func dueOn(schedule *meteringv1.ReportSchedule, date time.Time, zone *time.Location) (time.Time, bool) {
	switch schedule.GetRecurrence() {
	case meteringv1.ReportSchedule_RECURRENCE_DAILY:
	case meteringv1.ReportSchedule_RECURRENCE_WEEKLY:
		on := false
		for _, day := range schedule.GetWeekdays() {
			on = on || time.Weekday(int(day)%7) == date.Weekday() // Sunday is the last here, and the first there
		}
		if !on {
			return time.Time{}, false
		}
	case meteringv1.ReportSchedule_RECURRENCE_MONTHLY:
		last := date.AddDate(0, 1, -date.Day()).Day()
		if date.Day() != min(int(schedule.GetDayOfMonth()), last) {
			return time.Time{}, false
		}
	default:
		return time.Time{}, false
	}
	clock, err := time.Parse(timeOfDay, schedule.GetTimeOfDay())
	if err != nil {
		return time.Time{}, false
	}
	return firstAt(date.Add(time.Duration(clock.Hour())*time.Hour+time.Duration(clock.Minute())*time.Minute), zone), true
}

// timeOfDay is how a time of day is written.
const timeOfDay = "15:04"

// dateIn is the date that a zone's clock shows at a moment, as midnight of UTC: the first of a month
// goes one month back to the first of another, whatever clocks do.
func dateIn(at time.Time, zone *time.Location) time.Time {
	year, month, day := at.In(zone).Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// firstAt is the first moment at which a zone's clock shows a time, which is written as UTC, or a later
// one: a time that the clock leaves out is when it goes on, and one that it shows twice the first
// of both.
func firstAt(shown time.Time, zone *time.Location) time.Time {
	const farthest = 26 * time.Hour // from UTC, wherever that was ever
	at := shown.Add(-farthest)
	for {
		_, offset := at.In(zone).Zone()
		_, end := at.In(zone).ZoneBounds()
		would := shown.Add(-time.Duration(offset) * time.Second)
		if end.IsZero() || would.Before(end) {
			if would.Before(at) {
				return at.UTC()
			}
			return would.UTC()
		}
		at = end
	}
}

// timesOf are the first moment of a period and the one after its last, reckoned from a moment; both at
// quarter-hours of UTC.
func timesOf(period *meteringv1.ReportPeriod, zone *time.Location, at time.Time) (start, end time.Time) {
	today := dateIn(at, zone)
	month := today.AddDate(0, 0, 1-today.Day())
	quarterYear := month.AddDate(0, -(int(month.Month())-1)%3, 0)
	year := time.Date(today.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
	monday := today.AddDate(0, 0, -(int(today.Weekday())+6)%7)
	days := max(int(period.GetDays()), 1)
	from, to, toNow := today, today.AddDate(0, 0, 1), true
	switch period.GetKind() {
	case meteringv1.ReportPeriod_KIND_LAST_DAYS:
		from, to, toNow = today.AddDate(0, 0, -days), today, false
	case meteringv1.ReportPeriod_KIND_LAST_WEEK:
		from, to, toNow = monday.AddDate(0, 0, -7), monday, false
	case meteringv1.ReportPeriod_KIND_LAST_MONTH:
		from, to, toNow = month.AddDate(0, -1, 0), month, false
	case meteringv1.ReportPeriod_KIND_LAST_QUARTER:
		from, to, toNow = quarterYear.AddDate(0, -3, 0), quarterYear, false
	case meteringv1.ReportPeriod_KIND_LAST_YEAR:
		from, to, toNow = year.AddDate(-1, 0, 0), year, false
	case meteringv1.ReportPeriod_KIND_THIS_WEEK:
		from = monday
	case meteringv1.ReportPeriod_KIND_THIS_MONTH:
		from = month
	case meteringv1.ReportPeriod_KIND_THIS_QUARTER:
		from = quarterYear
	case meteringv1.ReportPeriod_KIND_THIS_YEAR:
		from = year
	case meteringv1.ReportPeriod_KIND_DAYS_TO_NOW:
		from = today.AddDate(0, 0, 1-days)
	case meteringv1.ReportPeriod_KIND_TODAY, meteringv1.ReportPeriod_KIND_UNSPECIFIED:
	}
	start, end = quarterBefore(firstAt(from, zone)), quarterBefore(firstAt(to, zone))
	if toNow {
		// The first quarter-hour of a day is no empty period.
		end = later(quarterBefore(at), start.Add(contract.QuarterHour))
	}
	return start, end
}

func quarterBefore(t time.Time) time.Time { return t.UTC().Truncate(contract.QuarterHour) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
