package metering

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// reportAPI serves cetrus.metering.v1.ReportService.
type reportAPI struct {
	meteringv1.UnimplementedReportServiceServer
	service *Service
}

// maxReportDays bounds the period of a report: a year, and the month that it is looked at in.
const maxReportDays = 400

// reportRequest is what all questions of a report have.
type reportRequest interface {
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
	GetFilter() *meteringv1.UsageFilter
	GetReason() string
}

// report is what all reports know before they read.
type report struct {
	op       string
	caller   authn.Caller
	from, to quarter
	filter   filter
	// compare is the period that it is compared with; nil where none is.
	compare *period
	// merged are the principals that count as others; while it is read, a filter by person
	// holds all principals of theirs.
	merged merged
	// zone is the account's, or the one that was asked for; position is how far the tables were.
	zone     *time.Location
	position string
	// byCells says that it is made of time by person, which is kept for another time than instances.
	byCells bool
	// kept is where what is kept begins; since is that, where it is later than was asked for.
	kept  quarter
	since *timestamppb.Timestamp
	names *nameSet
}

// reportOf reads what all questions have. wrong are what else is wrong with this one.
func reportOf(ctx context.Context, op string, req reportRequest, wrong ...errs.Field) (*report, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	r := &report{op: op, caller: caller, names: newNameSet()}
	r.from, r.to, wrong = quartersOf(req, wrong)
	if r.to-r.from > maxReportDays*96 {
		wrong = append(wrong, errs.Field{Path: "end_time", Description: fmt.Sprintf("the period is longer than %d days", maxReportDays)})
	}
	if other, ok := req.(compareRequest); ok {
		r.compare, wrong = compareOf(other, r.from, r.to, wrong)
	}
	if r.filter, err = filterOf(ctx, op, req.GetFilter()); err != nil {
		return nil, err
	}
	if len(wrong) > 0 {
		return nil, errs.InvalidFields(op, "", wrong...)
	}
	return r, nil
}

// quartersOf reads a period; what is wrong with it is added to a list.
func quartersOf(req interface {
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
}, wrong []errs.Field,
) (from, to quarter, _ []errs.Field) {
	before := len(wrong)
	at := func(path string, t *timestamppb.Timestamp) quarter {
		if err := t.CheckValid(); err != nil || t.GetSeconds()%900 != 0 || t.GetNanos() != 0 {
			wrong = append(wrong, errs.Field{Path: path, Description: "is not a quarter-hour of UTC, such as 2026-03-01T09:15:00Z: time is added up in quarter-hours"})
			return 0
		}
		return quarter(min(max(t.GetSeconds()/900, 0), 1<<30))
	}
	from, to = at("start_time", req.GetStartTime()), at("end_time", req.GetEndTime())
	if len(wrong) == before && from >= to {
		wrong = append(wrong, errs.Field{Path: "end_time", Description: "is not after start_time"})
	}
	return from, to, wrong
}

// viewed records the view where the report shows named use.
func (a *reportAPI) viewed(ctx context.Context, r *report, req reportRequest, named bool) error {
	if !named && !r.filter.named() {
		return nil
	}
	return a.service.view(ctx, r.op, r.caller, req.GetReason(), look{principals: r.filter.principals, machines: r.filter.machines})
}

// read reads in one transaction, opens the names that were wanted in it, and gives errors
// their place. zone is the one that was asked for, "" for the account's.
func (a *reportAPI) read(ctx context.Context, r *report, zone string, fn func(tx pgx.Tx) error) error {
	open := func(context.Context) error { return nil }
	err := a.service.inAccount(ctx, r.caller.Account, func(tx pgx.Tx) error {
		if zone == "" {
			settings, err := readSettings(ctx, tx, r.caller.Account)
			if err != nil {
				return err
			}
			zone = settings.TimeZone
		}
		var err error
		if r.zone, err = loadZone(zone); err != nil {
			return errs.InvalidFields(r.op, "", errs.Field{Path: "time_zone", Description: err.Error()})
		}
		if r.merged, err = readMerged(ctx, tx, r.caller.Account); err != nil {
			return err
		}
		if err := r.filter.narrow(ctx, tx, r.caller.Account, r.merged); err != nil {
			return err
		}
		position, err := countedPosition(ctx, tx, r.caller.Account)
		if err != nil {
			return err
		}
		r.position = strconv.FormatUint(position, 10)
		kept, err := readHorizons(ctx, tx, r.caller.Account)
		if err != nil {
			return err
		}
		horizon, what := kept.instances, "instances"
		if r.byCells {
			horizon, what = kept.persons, "time by person"
		}
		r.kept = quarterOf(horizon)
		if r.since = since(r.from.millis(), horizon); r.since != nil {
			if r.from = r.kept; r.from >= r.to {
				return errs.InvalidFields(r.op, "", errs.Field{Path: "end_time", Description: "is not after " + r.since.AsTime().Format(time.RFC3339) + ", from when on the account keeps " + what})
			}
		}
		if err := fn(tx); err != nil {
			return err
		}
		sealed, err := r.names.read(ctx, tx, r.caller.Account)
		open = func(ctx context.Context) error {
			return r.names.open(ctx, a.service.names, r.caller.Account, sealed)
		}
		return err
	})
	if err == nil {
		err = open(ctx)
	}
	return errs.Wrap(r.op, "", err)
}

// usedQuery asks for the use that a report is about, of a period in milliseconds of UTC.
func (a *reportAPI) usedQuery(r *report, from, to int64) usedQuery {
	return usedQuery{op: r.op, account: r.caller.Account, from: from, to: to, filter: r.filter, people: r.merged, memory: a.service.memory}
}
