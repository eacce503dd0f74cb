package metering

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// maxHolders bounds how many are named of those who held a licence.
	maxHolders = 1000
	// weekHours is how many hours of a week have names of their own.
	weekHours = 7 * 24
)

// giveBackTimes reads after how long not busy licences are given back, in milliseconds.
func giveBackTimes(list []*durationpb.Duration) (after []int64, wrong []errs.Field) {
	for i, d := range list {
		if d.CheckValid() != nil || d.AsDuration() < 0 || d.AsDuration() > maxGiveBack {
			wrong = append(wrong, errs.Field{Path: fmt.Sprintf("give_back_after[%d]", i), Description: fmt.Sprintf("is not within 0s to %s", inSeconds(maxGiveBack))})
			continue
		}
		after = append(after, d.AsDuration().Milliseconds())
	}
	return after, wrong
}

// wrongPrice tells what is wrong with the price in a question, where there is one.
func wrongPrice(given bool, code string) []errs.Field {
	if !given || code != "" {
		return nil
	}
	return []errs.Field{{Path: "currency_code", Description: "is needed with a price, such as EUR"}}
}

func knownMetric(m meteringv1.Metric) meteringv1.Metric {
	if m == meteringv1.Metric_METRIC_UNSPECIFIED {
		return meteringv1.Metric_METRIC_USER
	}
	return m
}

// weekOf cuts a period at the hours of a zone's clock, each with its place in the week.
func weekOf(from, to quarter, zone *time.Location) []hourSpan {
	buckets := hourBuckets(from, to, zone)
	spans := make([]hourSpan, len(buckets))
	for i, b := range buckets {
		// ISO's week begins on Monday.
		spans[i] = hourSpan{to: b.to.millis(), slot: (int(b.label.Weekday())+6)%7*24 + b.label.Hour()}
	}
	return spans
}

func (a *reportAPI) QueryDemand(ctx context.Context, req *meteringv1.QueryDemandRequest) (*meteringv1.QueryDemandResponse, error) {
	after, wrong := giveBackTimes(req.GetGiveBackAfter())
	r, err := reportOf(ctx, "metering.QueryDemand", req, wrong...)
	if err != nil {
		return nil, err
	}
	if err := a.viewed(ctx, r, req, req.GetHolders()); err != nil {
		return nil, err
	}
	resp := &meteringv1.QueryDemandResponse{Metric: knownMetric(req.GetMetric())}
	curves := []*askedCurve{{curve: curveOpen, after: neverGivenBack}, {curve: curveBusy, after: neverGivenBack}, {curve: curveNotTimedOut, after: neverGivenBack}}
	for _, n := range after {
		curves = append(curves, &askedCurve{curve: curveGivenBack, after: n})
	}
	err = a.read(ctx, r, req.GetTimeZone(), func(tx pgx.Tx) error {
		asOf := req.GetAsOfPosition()
		if req.GetHolders() {
			asOf = "" // who held one is read from the tables, as far as they are now
		}
		reading, err := a.reading(ctx, tx, r, resp.GetMetric(), asOf)
		if err != nil {
			return err
		}
		var hours []hourSpan
		slots := 0
		if req.GetHeatMap() {
			hours, slots = weekOf(r.from, r.to, r.zone), weekHours
		}
		if err := a.compareDemand(ctx, tx, r, req, resp, after); err != nil {
			return err
		}
		for _, c := range curves {
			c.demandCurve = reading.curve(c.curve, c.after, hours, slots)
			if req.GetHolders() && c.peak.value > 0 {
				all, err := readUsed(ctx, tx, a.usedQuery(r, c.peak.at, c.peak.at+1))
				if err != nil {
					return err
				}
				c.holders = holdersAt(all, c.peak.at, c.curve, c.after)
				for _, h := range c.holders {
					r.names.want(h.application, h.principal, h.machine, contract.ID{})
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.TimeZone, resp.Position, resp.DataSinceTime = r.zone.String(), r.position, r.since
	resp.Open, resp.Busy, resp.NotTimedOut = curves[0].message(r.names), curves[1].message(r.names), curves[2].message(r.names)
	for _, c := range curves[3:] {
		resp.GivenBack = append(resp.GivenBack, &meteringv1.GivenBackDemand{After: durationpb.New(time.Duration(c.after) * time.Millisecond), Curve: c.message(r.names)})
	}
	return resp, nil
}

// compareDemand adds the demand of the period that it is compared with.
func (a *reportAPI) compareDemand(ctx context.Context, tx pgx.Tx, r *report, req *meteringv1.QueryDemandRequest, resp *meteringv1.QueryDemandResponse, after []int64) error {
	other, kept := r.beside()
	if other == nil {
		return nil
	}
	resp.Compare = &meteringv1.DemandComparison{StartTime: other.startTime(), EndTime: other.endTime()}
	if !kept {
		return nil
	}
	reading, err := a.reading(ctx, tx, other, resp.GetMetric(), req.GetAsOfPosition())
	if err != nil {
		return err
	}
	of := func(c curve, after int64) *meteringv1.DemandCurve {
		asked := askedCurve{demandCurve: reading.curve(c, after, nil, 0)}
		return asked.message(r.names)
	}
	resp.Compare.Open, resp.Compare.Busy, resp.Compare.NotTimedOut = of(curveOpen, neverGivenBack), of(curveBusy, neverGivenBack), of(curveNotTimedOut, neverGivenBack)
	for _, n := range after {
		resp.Compare.GivenBack = append(resp.Compare.GivenBack, &meteringv1.GivenBackDemand{After: durationpb.New(time.Duration(n) * time.Millisecond), Curve: of(curveGivenBack, n)})
	}
	return nil
}

// askedCurve is one curve of an answer.
type askedCurve struct {
	curve   curve
	after   int64
	holders []holder
	demandCurve
}

func (c *askedCurve) message(names *nameSet) *meteringv1.DemandCurve {
	m := &meteringv1.DemandCurve{Demand: c.peak.message(), Total: millisSpan(c.total)}
	for _, ms := range c.lasted {
		m.Levels = append(m.Levels, millisSpan(ms))
	}
	for slot := range c.hours {
		h := &c.hours[slot]
		if h.length == 0 {
			continue
		}
		hour := &meteringv1.DemandHour{
			Weekday: int32(slot/24) + 1, Hour: int32(slot % 24),
			Length: millisSpan(h.length), Peak: h.peak, Total: millisSpan(h.total),
		}
		if h.peak > 0 {
			hour.PeakTime = millisStamp(h.peakAt)
		}
		m.HeatMap = append(m.HeatMap, hour)
	}
	for i := range c.holders {
		m.Holders = append(m.Holders, c.holders[i].message(names))
	}
	return m
}

// holder is an instance that held a licence at some moment.
type holder struct {
	*used
	busy bool
	last int64
}

// holdersAt are the instances for which keys are counted at a moment.
func holdersAt(all []used, at int64, c curve, after int64) []holder {
	var holders []holder
	for i := range all {
		h := holder{used: &all[i], last: all[i].opened}
		open, kept := false, false
		for _, u := range h.uses {
			if u.busy && u.from <= at {
				h.last = max(h.last, min(u.to, at))
			}
			if u.from <= at && at < u.to {
				open, h.busy, kept = true, h.busy || u.busy, kept || u.busy || !u.timedOut
			}
		}
		holds := open
		switch c {
		case curveBusy:
			holds = h.busy
		case curveNotTimedOut:
			holds = kept
		case curveGivenBack:
			holds = open && (h.busy || at-h.last < after)
		default:
		}
		if holds {
			holders = append(holders, h)
		}
	}
	slices.SortFunc(holders, func(a, b holder) int {
		return cmp.Or(bytes.Compare(a.principal[:], b.principal[:]), bytes.Compare(a.machine[:], b.machine[:]), bytes.Compare(a.instance[:], b.instance[:]))
	})
	return holders[:min(len(holders), maxHolders)]
}

func (h *holder) message(names *nameSet) *meteringv1.DemandHolder {
	return &meteringv1.DemandHolder{
		InstanceId: h.instance.String(), ApplicationId: h.application.String(), ApplicationName: names.applications[h.application],
		PrincipalId: h.principal.String(), PrincipalName: names.principals[h.principal],
		MachineId: h.machine.String(), MachineName: names.machines[h.machine],
		Busy: h.busy, LastBusyTime: millisStamp(h.last),
	}
}

func (a *reportAPI) QueryLicencesNeeded(ctx context.Context, req *meteringv1.QueryLicencesNeededRequest) (*meteringv1.QueryLicencesNeededResponse, error) {
	after, wrong := giveBackTimes(req.GetGiveBackAfter())
	wrong = append(wrong, wrongPrice(req.PriceMinorUnits != nil, req.GetCurrencyCode())...)
	r, err := reportOf(ctx, "metering.QueryLicencesNeeded", req, wrong...)
	if err != nil {
		return nil, err
	}
	if err := a.viewed(ctx, r, req, false); err != nil {
		return nil, err
	}
	resp := &meteringv1.QueryLicencesNeededResponse{Metric: knownMetric(req.GetMetric()), CurrencyCode: req.GetCurrencyCode()}
	err = a.read(ctx, r, "", func(tx pgx.Tx) error {
		reading, err := a.reading(ctx, tx, r, resp.GetMetric(), req.GetAsOfPosition())
		if err != nil {
			return err
		}
		needed := licencesIn(req, reading, after)
		resp.Kept, resp.GivenBack, resp.People, resp.Machines = needed.GetKept(), needed.GetGivenBack(), needed.GetPeople(), needed.GetMachines()
		other, kept := r.beside()
		if other == nil {
			return nil
		}
		resp.Compare = &meteringv1.LicencesComparison{}
		if kept {
			then, err := a.reading(ctx, tx, other, resp.GetMetric(), req.GetAsOfPosition())
			if err != nil {
				return err
			}
			resp.Compare = licencesIn(req, then, after)
		}
		resp.Compare.StartTime, resp.Compare.EndTime = other.startTime(), other.endTime()
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Position, resp.DataSinceTime = r.position, r.since
	return resp, nil
}

// licencesIn is what is needed in the period of a reading.
func licencesIn(req *meteringv1.QueryLicencesNeededRequest, of *reading, after []int64) *meteringv1.LicencesComparison {
	needed := &meteringv1.LicencesComparison{Kept: policyOf(req, of.curve(curveOpen, neverGivenBack, nil, 0))}
	addSaving(needed.GetKept(), needed.GetKept())
	for i, curve := range of.givenBack(after, nil, 0) {
		p := policyOf(req, curve)
		p.GiveBackAfter = durationpb.New(time.Duration(after[i]) * time.Millisecond)
		addSaving(p, needed.GetKept())
		needed.GivenBack = append(needed.GivenBack, p)
	}
	needed.People = namedLicences(req, of.days, func(d *demandDay) *namedDay { return &d.people })
	needed.Machines = namedLicences(req, of.days, func(d *demandDay) *namedDay { return &d.machines })
	return needed
}

// policyOf is what is needed for a curve.
func policyOf(req *meteringv1.QueryLicencesNeededRequest, d demandCurve) *meteringv1.LicencePolicy {
	needed := d.needed(int64(req.GetRefusedPerMillion()))
	refused, refusing := d.refused(needed)
	p := &meteringv1.LicencePolicy{
		Needed: needed, Peak: d.peak.value, Wanted: millisSpan(d.total),
		Refused: millisSpan(refused), Refusing: millisSpan(refusing),
	}
	if d.peak.value > 0 {
		p.PeakTime = millisStamp(d.peak.at)
	}
	if req.Bought != nil {
		refused, refusing = d.refused(req.GetBought())
		p.RefusedWithBought, p.RefusingWithBought = millisSpan(refused), millisSpan(refusing)
		p.Surplus = proto.Int64(req.GetBought() - needed)
	}
	if req.PriceMinorUnits != nil {
		p.CostMinorUnits = proto.Int64(needed * req.GetPriceMinorUnits())
	}
	return p
}

// addSaving tells what a policy costs less than another, where there is a price.
func addSaving(p, than *meteringv1.LicencePolicy) {
	if p.CostMinorUnits != nil {
		p.SavingMinorUnits = proto.Int64(than.GetCostMinorUnits() - p.GetCostMinorUnits())
	}
}

// namedLicences counts who had an instance open in the period, and who was busy in one.
func namedLicences(req *meteringv1.QueryLicencesNeededRequest, days []*demandDay, of func(*demandDay) *namedDay) *meteringv1.NamedLicences {
	open, busy := countNamed(days, of)
	m := &meteringv1.NamedLicences{Open: open, Busy: busy}
	if req.PriceMinorUnits != nil {
		m.CostMinorUnits = proto.Int64(busy * req.GetPriceMinorUnits())
	}
	return m
}
