package metering

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// compareRequest is what questions have that can be compared with another period.
type compareRequest interface {
	GetCompare() bool
	GetCompareStartTime() *timestamppb.Timestamp
	GetCompareEndTime() *timestamppb.Timestamp
}

// comparedPeriod is the other period of a request.
type comparedPeriod struct{ req compareRequest }

func (p comparedPeriod) GetStartTime() *timestamppb.Timestamp { return p.req.GetCompareStartTime() }
func (p comparedPeriod) GetEndTime() *timestamppb.Timestamp   { return p.req.GetCompareEndTime() }

// compareOf reads which period [from, to) is compared with: the one that is named, or else the one of the same
// length before it; nil where none is asked for.
func compareOf(req compareRequest, from, to quarter, wrong []errs.Field) (*period, []errs.Field) {
	if req.GetCompareStartTime() == nil && req.GetCompareEndTime() == nil {
		if !req.GetCompare() {
			return nil, wrong
		}
		return &period{max(0, 2*from-to), from}, wrong
	}
	var other period
	before := len(wrong)
	other.from, other.to, wrong = quartersOf(comparedPeriod{req}, wrong)
	for i := range wrong[before:] {
		wrong[before+i].Path = "compare_" + wrong[before+i].Path
	}
	if other.to-other.from > maxReportDays*96 {
		wrong = append(wrong, errs.Field{Path: "compare_end_time", Description: fmt.Sprintf("the period is longer than %d days", maxReportDays)})
	}
	return &other, wrong
}

// beside is the report of the other period, as far as that is kept; nil where none is asked for, and
// without anything to read where it is not kept.
func (r *report) beside() (other *report, kept bool) {
	if r.compare == nil {
		return nil, false
	}
	copied := *r
	copied.from = max(r.compare.from, r.kept)
	copied.to = max(r.compare.to, copied.from)
	return &copied, copied.from < copied.to
}

func (r *report) startTime() *timestamppb.Timestamp { return timestamppb.New(r.from.time()) }
func (r *report) endTime() *timestamppb.Timestamp   { return timestamppb.New(r.to.time()) }
