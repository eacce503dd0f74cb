package recount

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/company"
)

// Questions are what reports are asked at random, of a platform and of the facts.
type Questions struct {
	Usage   meteringv1.UsageServiceClient
	Reports meteringv1.ReportServiceClient
	Facts   *Facts
	Company *company.Company
	// Groups are those that a filter may name.
	Groups []contract.ID
	// Begin and Days are the period that questions lie in.
	Begin time.Time
	Days  int
}

// Answered is how long one question took.
type Answered struct{ Platform, Plain time.Duration }

// proof is one question.
type proof struct {
	*Questions
	random *rand.Rand
	// took and plain are how long the answers took.
	took, plain time.Duration
}

// checks compare a platform's answer with the plain one, by report.
func checks() map[string]func(*proof, context.Context) error {
	return map[string]func(*proof, context.Context) error{
		"usage": (*proof).checkSummary, "concurrency": (*proof).checkConcurrency, "demand": (*proof).checkDemand, "licences": (*proof).checkLicences, "forecast": (*proof).checkForecast,
		"ranking": (*proof).checkRanking, "unused": (*proof).checkUnused, "idle": (*proof).checkIdle, "sessions": (*proof).checkSessions, "changes": (*proof).checkChanges,
		"timeline": (*proof).checkTimeline, "distribution": (*proof).checkDistribution, "account use": (*proof).checkAccountUse, "quality": (*proof).checkQuality, "runs": (*proof).checkRuns,
	}
}

// Names are the reports, in order.
func Names() []string { return slices.Sorted(maps.Keys(checks())) }

// Ask asks a report the question of a seed, which is the same each time. The error tells figures that
// are not equal and what was asked, or wraps what the platform refused it with.
func (q *Questions) Ask(ctx context.Context, report string, seed uint64) (Answered, error) {
	p := &proof{Questions: q, random: rand.New(rand.NewPCG(seed, 2))}
	err := checks()[report](p, ctx)
	return Answered{p.took, p.plain}, err
}

// timed measures an answer, and then the plain one.
func (p *proof) timed(answer func() error, plain func()) error {
	began := time.Now()
	err := answer()
	p.took = time.Since(began)
	if err != nil {
		return err
	}
	began = time.Now()
	plain()
	p.plain = time.Since(began)
	return nil
}

func (p *proof) n(n int) int { return p.random.IntN(n) }

// zone draws a zone: with whole hours, with half and quarter ones, of both halves of the world; "" is the account's.
func (p *proof) zone() (name string, zone *time.Location, err error) {
	names := []string{"", "", "Europe/Berlin", "UTC", "Australia/Lord_Howe", "Asia/Kathmandu", "America/New_York", "Pacific/Auckland", "America/St_Johns", "Pacific/Chatham", "Africa/Casablanca"}
	if name = names[p.n(len(names))]; name == "" {
		return name, p.Facts.Zone, nil
	}
	if zone, err = time.LoadLocation(name); err != nil {
		err = fmt.Errorf("recount: %w", err)
	}
	return name, zone, err
}

// period draws a period of at most so many days, to the quarter-hour: all of it, between two midnights of a zone, about a
// change of the clocks, or between any two moments.
func (p *proof) period(zone *time.Location, most int) (from, to time.Time) {
	day := func(n int) time.Time {
		year, month, day := p.Begin.Date()
		return time.Date(year, month, day+n, 0, 0, 0, 0, zone)
	}
	switch p.n(6) {
	case 0:
		if most >= p.Days {
			return p.Begin, p.Begin.AddDate(0, 0, p.Days)
		}
		fallthrough
	case 1:
		length := 1 + p.n(min(most, 31, p.Days-1))
		first := p.n(p.Days - length)
		return day(first), day(first + length)
	case 2:
		// Of a zone without changes this is the whole, cut.
		_, change := p.Begin.AddDate(0, 0, p.n(p.Days)).In(zone).ZoneBounds()
		if change.IsZero() || change.After(p.Begin.AddDate(0, 0, p.Days)) {
			break
		}
		length := 1 + p.n(min(most, 5, p.Days-1))
		before := p.n(length)
		at := int(change.Sub(p.Begin).Hours() / 24)
		return day(at - before), day(at - before + length)
	}
	length := 1 + p.n(min(most, 100)*96-1)
	if p.n(2) == 0 {
		length = 1 + p.n(96)
	}
	from = p.Begin.Add(time.Duration(p.n(p.Days*96-length)) * 15 * time.Minute)
	return from, from.Add(time.Duration(length) * 15 * time.Minute)
}

// filter draws whose use is asked for: often everybody's.
func (p *proof) filter() *meteringv1.UsageFilter {
	f := &meteringv1.UsageFilter{}
	some := func(from []contract.ID, into *[]string) {
		for range 1 + p.n(3) {
			if id := from[p.n(len(from))].String(); !slices.Contains(*into, id) {
				*into = append(*into, id)
			}
		}
	}
	if p.n(3) == 0 {
		some(p.Company.Applications(), &f.ApplicationIds)
	}
	switch p.n(8) {
	case 0:
		principals := p.Company.Principals()
		for other := range p.Company.Others() {
			principals = append(principals, other)
		}
		slices.SortFunc(principals, func(a, b contract.ID) int { return slices.Compare(a[:], b[:]) })
		some(principals, &f.PrincipalIds)
	case 1:
		some(p.Company.Machines(), &f.MachineIds)
	case 2:
		some(p.Groups, &f.GroupIds)
	case 3:
		some(p.Company.Managers(), &f.ManagerIds)
	case 4:
		some(p.Groups, &f.GroupIds)
		some(p.Company.Managers(), &f.ManagerIds)
	}
	return f
}

func (p *proof) metric() meteringv1.Metric { return meteringv1.Metric(p.n(6)) }

func stamps(from, to time.Time) (start, end *timestamppb.Timestamp) {
	return timestamppb.New(from), timestamppb.New(to)
}

func millisOf(d *durationpb.Duration) int64 { return d.AsDuration().Milliseconds() }

func momentOf(t *timestamppb.Timestamp) int64 {
	if t == nil {
		return 0
	}
	return t.AsTime().UnixMilli()
}

// totalsOf reads totals; open must be the sum of the others.
func totalsOf(m *meteringv1.UsageTotals) (t Totals, err error) {
	for i, d := range []*durationpb.Duration{m.GetSuspended(), m.GetUnknown(), m.GetPaused(), m.GetAway(), m.GetBusy(), m.GetIdle(), m.GetBackground()} {
		t.Millis[i+1] = millisOf(d)
	}
	t.Timeouts, t.Instances = m.GetTimeouts(), m.GetInstances()
	if t.open() != millisOf(m.GetOpen()) {
		err = fmt.Errorf("open is %v of %v", m.GetOpen().AsDuration(), t)
	}
	return t, err
}

// equal tells of figures that differ.
func equal(what string, got, want any) error {
	if got != want {
		return fmt.Errorf("%s: %v, recounted %v", what, got, want)
	}
	return nil
}

func sameTotals(what string, m *meteringv1.UsageTotals, want *Totals) error {
	got, err := totalsOf(m)
	if want == nil {
		want = &Totals{}
	}
	return errors.Join(err, equal(what, got, *want))
}

func asked(q fmt.Stringer, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\nasked: %s", err, q)
}
