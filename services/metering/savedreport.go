package metering

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// SavedReport is the aggregate of a saved report, its schedule and its runs. They are one, so that
// what the log expects of its subject decides each due time once, whoever decides, and no run
// of a schedule that was changed meanwhile. It is not changed once made.
type SavedReport struct {
	// Definition is nil before there is one.
	Definition *meteringv1.SavedReportDefined
	// Schedule is nil where it is sent by hand only; it is due after Since.
	Schedule *meteringv1.ReportSchedule
	Since    time.Time
	// LastDue is the last due time that was decided on.
	LastDue time.Time
	Deleted bool
	// Revision counts its changes, without its runs.
	Revision int
	// underWay are the runs that have not ended.
	underWay map[contract.ID]*meteringv1.SavedReportRunDecided
}

// Etag tells one state of it from the next.
func (r SavedReport) Etag() string { return strconv.Itoa(r.Revision) }

// There tells whether it is there.
func (r SavedReport) There() bool { return r.Definition != nil && !r.Deleted }

// Owner is the login whose it is.
func (r SavedReport) Owner() contract.ID { return contract.ID(r.Definition.GetOwnerLoginId()) }

// Apply returns it after an event.
func (r SavedReport) Apply(event proto.Message) (SavedReport, error) {
	switch e := event.(type) {
	case *meteringv1.SavedReportDefined:
		if len(e.GetSavedReportId()) != len(contract.ID{}) || len(e.GetOwnerLoginId()) != len(contract.ID{}) {
			return r, fmt.Errorf("metering: %T has an id that is none", event)
		}
		r.Definition = e
		r.Revision++
	case *meteringv1.SavedReportScheduled:
		r.Schedule, r.Since = e.GetSchedule(), time.UnixMilli(e.GetSinceUtcMillis()).UTC()
		r.Revision++
	case *meteringv1.SavedReportDeleted:
		r.Deleted, r.Schedule = true, nil
		r.Revision++
	case *meteringv1.SavedReportRunDecided:
		id, err := contract.IDFrom(e.GetRunId())
		if err != nil {
			return r, fmt.Errorf("metering: %T: %w", event, err)
		}
		r.underWay = maps.Clone(r.underWay)
		if r.underWay == nil {
			r.underWay = map[contract.ID]*meteringv1.SavedReportRunDecided{}
		}
		r.underWay[id] = e
		if e.GetDueUtcMillis() != 0 {
			r.LastDue = time.UnixMilli(e.GetDueUtcMillis()).UTC()
		}
	case *meteringv1.SavedReportRunEnded:
		id, err := contract.IDFrom(e.GetRunId())
		if err != nil {
			return r, fmt.Errorf("metering: %T: %w", event, err)
		}
		r.underWay = maps.Clone(r.underWay)
		delete(r.underWay, id)
	default:
		return r, fmt.Errorf("metering: %T is no event of a saved report", event)
	}
	return r, nil
}

// DecideSchedule returns what follows from wanting another schedule, at a moment.
func (r SavedReport) DecideSchedule(want *meteringv1.ReportSchedule, now time.Time) []proto.Message {
	if proto.Equal(r.Schedule, want) {
		return nil
	}
	since := now
	if r.Schedule != nil && want != nil && !r.Schedule.GetPaused() && !want.GetPaused() && proto.Equal(timing(r.Schedule), timing(want)) {
		since = r.Since // only what is sent, or to whom, is another; what is due already stays so
	}
	return []proto.Message{&meteringv1.SavedReportScheduled{Schedule: want, SinceUtcMillis: since.UnixMilli()}}
}

// timing is when a schedule is due.
func timing(s *meteringv1.ReportSchedule) *meteringv1.ReportSchedule {
	s = proto.CloneOf(s)
	s.Delivery = nil
	return s
}

// Due is the time that it is due for at a moment, and for which nothing was decided: the latest one.
// What was due before that, and missed, is not made up for.
func (r SavedReport) Due(zone *time.Location, now time.Time) (time.Time, bool) {
	if !r.There() || r.Schedule == nil || r.Schedule.GetPaused() {
		return time.Time{}, false
	}
	due, ok := latestDue(r.Schedule, zone, now)
	return due, ok && due.After(r.Since) && due.After(r.LastDue)
}

// DecideDue returns the run for the time that it is due for, if it is.
func (r SavedReport) DecideDue(run contract.ID, zone *time.Location, now time.Time) []proto.Message {
	due, ok := r.Due(zone, now)
	if !ok {
		return nil
	}
	return []proto.Message{&meteringv1.SavedReportRunDecided{
		RunId: run[:], DueUtcMillis: due.UnixMilli(), AtUtcMillis: due.UnixMilli(), Delivery: r.Schedule.GetDelivery(),
	}}
}

// maxUnderWay bounds how many runs of one saved report may be under way.
const maxUnderWay = 10

// DecideSend returns the run that somebody orders by hand.
func (r SavedReport) DecideSend(run, by contract.ID, delivery *meteringv1.ReportDelivery, now time.Time) ([]proto.Message, error) {
	if len(r.underWay) >= maxUnderWay {
		return nil, errs.New(errs.Exhausted, "metering.SendSavedReport", "", fmt.Sprintf("%d times that this report was sent have not ended yet: wait until they have", maxUnderWay))
	}
	e := &meteringv1.SavedReportRunDecided{RunId: run[:], AtUtcMillis: now.UnixMilli(), Delivery: delivery}
	if !by.IsZero() {
		e.ByLoginId = by[:]
	}
	return []proto.Message{e}, nil
}

// DecideEnd returns the end of a run, unless it has ended.
func (r SavedReport) DecideEnd(ended *meteringv1.SavedReportRunEnded) []proto.Message {
	if r.underWay[contract.ID(ended.GetRunId())] == nil {
		return nil
	}
	return []proto.Message{ended}
}

// checkSchedule tells what is wrong with a schedule beside what its fields say of themselves.
func checkSchedule(s *meteringv1.ReportSchedule) (wrong []errs.Field) {
	if s == nil {
		return nil
	}
	say := func(path, description string) {
		wrong = append(wrong, errs.Field{Path: "saved_report.schedule." + path, Description: description})
	}
	switch s.GetRecurrence() {
	case meteringv1.ReportSchedule_RECURRENCE_WEEKLY:
		if len(s.GetWeekdays()) == 0 {
			say("weekdays", "is needed of a weekly schedule: at least one day of the week")
		}
	case meteringv1.ReportSchedule_RECURRENCE_MONTHLY:
		if s.GetDayOfMonth() == 0 {
			say("day_of_month", "is needed of a monthly schedule: 1 to 31, where 31 is the last day of each month")
		}
	default:
	}
	if s.GetRecurrence() != meteringv1.ReportSchedule_RECURRENCE_WEEKLY && len(s.GetWeekdays()) > 0 {
		say("weekdays", "is of a weekly schedule only")
	}
	if s.GetRecurrence() != meteringv1.ReportSchedule_RECURRENCE_MONTHLY && s.GetDayOfMonth() != 0 {
		say("day_of_month", "is of a monthly schedule only")
	}
	return wrong
}
