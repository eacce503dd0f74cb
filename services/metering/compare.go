package metering

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// compareRequest is what questions have that can be compared with another period.
type compareRequest interface {
	GetCompare() bool
	GetCompareStartTime() *timestamppb.Timestamp
	GetCompareEndTime() *timestamppb.Timestamp
}

// isCompared tells whether a question asks for another period too.
func isCompared(req compareRequest) bool {
	return req.GetCompare() || req.GetCompareStartTime() != nil || req.GetCompareEndTime() != nil
}

// comparedPeriod is the other period of a request.
type comparedPeriod struct{ req compareRequest }

func (p comparedPeriod) GetStartTime() *timestamppb.Timestamp { return p.req.GetCompareStartTime() }
func (p comparedPeriod) GetEndTime() *timestamppb.Timestamp   { return p.req.GetCompareEndTime() }

// compareOf reads which period [from, to) is compared with: the one that is named, or else the one of the same
// length before it; nil where none is asked for.
func compareOf(req compareRequest, from, to quarter, wrong []errs.Field) (*period, []errs.Field) {
	if !isCompared(req) {
		return nil, wrong
	}
	if req.GetCompareStartTime() == nil && req.GetCompareEndTime() == nil {
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

// beside is the summary of the other period, as far as that is kept. Its parts of time have no
// counterparts there: of them only the whole is compared.
func (q summary) beside(horizon int64) *summary {
	q.from, q.to = q.compare.from, q.compare.to
	kept := quarterOf(horizon)
	q.from = max(q.from, kept)
	q.to = max(q.to, q.from)
	if q.by&byTime != 0 {
		q.by, q.grain, q.after = q.by&^byTime, noGrain, nil
	}
	return &q
}

// comparedSummary is what is told of the other period.
type comparedSummary struct {
	from, to quarter
	groups   map[groupKey]Totals
	totals   Totals
}

func (c *comparedSummary) message() *meteringv1.UsageComparison {
	p := report{from: c.from, to: c.to}
	return &meteringv1.UsageComparison{StartTime: p.startTime(), EndTime: p.endTime(), Totals: c.totals.message()}
}

// comparedAtOnce is how many groups of the other period are read at once.
const comparedAtOnce = 10_000

// compareGroups reads what the groups of a page had in this other period, and what all had. Groups come in the
// same order there, so that no more is read than lies between those of the page.
func (q *summary) compareGroups(ctx context.Context, tx pgx.Tx, account contract.ID, who audience, page []group, memory *memory) (*comparedSummary, error) {
	c := &comparedSummary{from: q.from, to: q.to, groups: make(map[groupKey]Totals)}
	if q.from == q.to {
		return c, nil
	}
	wanted := make(map[groupKey]bool, len(page))
	var last groupKey
	for _, g := range page {
		wanted[g.key], last = true, g.key
	}
	other := *q
	other.pageSize = comparedAtOnce
	if len(page) == 0 {
		other.pageSize = 1
	}
	for {
		var beside summaryPage
		var err error
		if other.person {
			beside, err = summarizePersons(ctx, tx, account, other, who, memory)
		} else {
			beside, err = summarize(ctx, tx, account, other, who)
		}
		if err != nil {
			return nil, err
		}
		c.totals = beside.totals
		for _, g := range beside.groups {
			if wanted[g.key] {
				c.groups[g.key] = g.totals
			}
		}
		if !beside.more || len(page) == 0 {
			return c, nil
		}
		end := beside.groups[len(beside.groups)-1].key
		if end.compare(last) >= 0 {
			return c, nil
		}
		other.after = &end
	}
}

// comparedSweep reads which period a question about concurrency is compared with; nil where none is
// asked for.
func comparedSweep(req compareRequest, p sweepPeriod, wrong []errs.Field) (*sweepPeriod, []errs.Field) {
	if !isCompared(req) {
		return nil, wrong
	}
	start, end := req.GetCompareStartTime(), req.GetCompareEndTime()
	other := p
	other.from, other.to = max(0, 2*p.from-p.to), p.from
	if start != nil || end != nil {
		other.from, other.to = start.AsTime().UnixMilli(), end.AsTime().UnixMilli()
		switch {
		case start.CheckValid() != nil:
			wrong = append(wrong, errs.Field{Path: "compare_start_time", Description: "is no time"})
		case end.CheckValid() != nil:
			wrong = append(wrong, errs.Field{Path: "compare_end_time", Description: "is no time"})
		case other.from >= other.to:
			wrong = append(wrong, errs.Field{Path: "compare_end_time", Description: "is not after compare_start_time"})
		case other.to-other.from > maxReportDays*96*quarterMillis:
			wrong = append(wrong, errs.Field{Path: "compare_end_time", Description: fmt.Sprintf("the period is longer than %d days", maxReportDays)})
		}
	}
	return &other, wrong
}
