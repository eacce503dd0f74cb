package recount

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/company"
	"github.com/cetrus/cetrus/tools/stack"
)

const (
	people = 60
	days   = 400
	// afterwards is for how long after the last day something may come that is late.
	afterwards = 50
	// usualQuestions are asked of each report once everything has come; a third as many before.
	usualQuestions = 6
)

// proof is a company on a platform, and the same in plain.
type proof struct {
	t        *testing.T
	ctx      context.Context
	platform *stack.Platform
	company  *company.Company
	facts    *Facts
	usage    meteringv1.UsageServiceClient
	reports  meteringv1.ReportServiceClient
	random   *rand.Rand
	begin    time.Time
	groups   []contract.ID
	// asked and plain are how long answers took, by report.
	asked, plain map[string]time.Duration
}

// number is a setting of the environment.
func number(t *testing.T, name string, usual uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestEveryReportEqualsThePlainRecount asks all reports about 60 people and 400 days, at random: while late data is
// on its way, when it has come, and when people were merged and forgotten.
func TestEveryReportEqualsThePlainRecount(t *testing.T) {
	seed := number(t, "RECOUNT_SEED", uint64(time.Now().UnixNano()))
	questions := int(number(t, "RECOUNT_QUESTIONS", usualQuestions))
	t.Logf("RECOUNT_SEED=%d", seed)
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	p := &proof{t: t, random: rand.New(rand.NewPCG(seed, 1)), facts: New(zone), asked: make(map[string]time.Duration), plain: make(map[string]time.Duration)}
	p.begin = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -days-afterwards)
	cetrus := p.start(zone)
	sender, err := company.NewSender(p.ctx, p.company, p.platform, cetrus)
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	p.counted(sender)
	p.join()
	began := time.Now()
	err = p.company.Days(func(day int, came []company.Delivery) error {
		if day == days {
			t.Logf("%d events are sent after %v", sender.Events, time.Since(began))
			p.counted(sender)
			t.Logf("and counted after %v", time.Since(began))
			p.ask("late data is on its way", max(1, questions/3))
		}
		for _, d := range came {
			if err := p.facts.Read(d.Manager, d.Frame); err != nil {
				return err
			}
		}
		return sender.Send(p.ctx, came)
	})
	if err != nil {
		t.Fatal(err)
	}
	p.counted(sender)
	p.ask("all has come", max(1, questions/3))
	p.change()
	p.ask("people were merged and forgotten", questions)
	for name, took := range p.asked {
		t.Logf("%s: %v, in plain %v: %.0f times", name, took, p.plain[name], p.plain[name].Seconds()/took.Seconds())
	}
}

// start starts a platform with the company's applications, and gives the program's path.
func (p *proof) start(zone *time.Location) string {
	t := p.t
	t.Helper()
	dir := t.TempDir()
	binary, err := stack.Build(t.Context(), dir, "services/cmd/cetrus")
	if err != nil {
		t.Fatal(err)
	}
	p.platform, err = stack.StartPlatform(t.Context(), binary, filepath.Join(dir, "platform"), filepath.Join(t.ArtifactDir(), "cetrus.log"), append(stack.Anywhere().Listen(), stack.Plaintext)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.platform.Stop(30 * time.Second); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(p.platform.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.usage, p.reports = meteringv1.NewUsageServiceClient(conn), meteringv1.NewReportServiceClient(conn)
	p.ctx = metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+p.platform.Key)
	if err := company.SetZone(p.ctx, p.platform.API, zone); err != nil {
		t.Fatal(err)
	}
	applications, err := company.Applications(p.ctx, p.platform.API, 12)
	if err != nil {
		t.Fatal(err)
	}
	p.company = company.New(company.Config{Seed: 1, People: people, Days: days, Begin: p.begin, Zone: zone, Applications: applications, Attendance: 35, Minutes: 60})
	return binary
}

// join gives everybody a login and groups.
func (p *proof) join() {
	t := p.t
	t.Helper()
	groups, err := p.company.Join(p.ctx, p.platform.API)
	if err != nil {
		t.Fatal(err)
	}
	p.facts.Groups = groups
	for _, in := range groups {
		for _, id := range in {
			if !slices.Contains(p.groups, id) {
				p.groups = append(p.groups, id)
			}
		}
	}
	slices.SortFunc(p.groups, func(a, b contract.ID) int { return slices.Compare(a[:], b[:]) })
}

// counted waits until everything that was sent is in the reports.
func (p *proof) counted(sender *company.Sender) {
	p.t.Helper()
	if err := sender.Wait(p.ctx); err != nil {
		p.t.Fatal(err)
	}
	if err := stack.Wait(p.ctx, 3*time.Minute, "everything to be counted", func() error {
		quality, err := p.usage.GetDataQuality(p.ctx, &meteringv1.GetDataQualityRequest{})
		switch {
		case err != nil:
			return err
		case len(quality.GetQuarantined()) > 0:
			return stack.Hopeless(fmt.Errorf("%v is set aside", quality.GetQuarantined()))
		case quality.GetPosition() < sender.Position:
			return fmt.Errorf("%d of %d messages are", quality.GetPosition(), sender.Position)
		case quality.GetEventsCounted() != int64(p.facts.Events()):
			return fmt.Errorf("%d of %d events are", quality.GetEventsCounted(), p.facts.Events())
		}
		return nil
	}); err != nil {
		p.t.Fatal(err)
	}
}

// change merges whom two Managers know as two, and forgets some, of whom one was merged.
func (p *proof) change() {
	t := p.t
	t.Helper()
	forgotten := p.company.Principals()[1:4]
	for other, into := range p.company.Others() {
		request := &meteringv1.MergePrincipalRequest{IntoPrincipalId: into.String()}
		if err := p.platform.API.Post(p.ctx, "/v1/principals/"+other.String()+":merge", request, &meteringv1.Principal{}); err != nil {
			t.Fatal(err)
		}
		p.facts.Merged[other] = into
	}
	for _, id := range forgotten {
		if err := p.platform.API.Post(p.ctx, "/v1/principals/"+id.String()+":forget", &meteringv1.ForgetPrincipalRequest{}, &meteringv1.Principal{}); err != nil {
			t.Fatal(err)
		}
		delete(p.facts.Groups, id) // they have no login any more
	}
	if err := stack.Wait(p.ctx, time.Minute, "the decisions to be followed", func() error {
		var answer meteringv1.ListPrincipalsResponse
		if err := p.platform.API.Get(p.ctx, "/v1/principals", map[string][]string{"page_size": {"1000"}}, &answer); err != nil {
			return err
		}
		merged, gone := 0, 0
		for _, principal := range answer.GetPrincipals() {
			if principal.GetMergedIntoId() != "" {
				merged++
			}
			if principal.GetForgetTime() != nil {
				gone++
			}
		}
		if merged < len(p.facts.Merged) || gone < len(forgotten) {
			return fmt.Errorf("%d are merged and %d forgotten", merged, gone)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// ask asks so many questions of each report.
func (p *proof) ask(when string, questions int) {
	began := time.Now()
	for name, check := range map[string]func() error{
		"usage": p.checkSummary, "concurrency": p.checkConcurrency, "demand": p.checkDemand, "licences": p.checkLicences, "forecast": p.checkForecast,
		"ranking": p.checkRanking, "unused": p.checkUnused, "idle": p.checkIdle, "sessions": p.checkSessions, "changes": p.checkChanges,
		"timeline": p.checkTimeline, "distribution": p.checkDistribution, "account use": p.checkAccountUse, "quality": p.checkQuality, "runs": p.checkRuns,
	} {
		p.t.Run(when+"/"+name, func(t *testing.T) {
			for range questions {
				if err := check(); err != nil {
					t.Fatalf("%v", err)
				}
			}
		})
	}
	p.t.Logf("%s: asked within %v", when, time.Since(began))
}

// timed measures an answer, and then the plain one.
func (p *proof) timed(name string, answer func() error, plain func()) error {
	began := time.Now()
	err := answer()
	p.asked[name] += time.Since(began)
	if err != nil {
		return err
	}
	began = time.Now()
	plain()
	p.plain[name] += time.Since(began)
	return nil
}

func (p *proof) n(n int) int { return p.random.IntN(n) }

// zoneName draws a zone: with whole hours, with half and quarter ones, of both halves of the world; "" is the account's.
func (p *proof) zoneName() string {
	names := []string{"", "", "Europe/Berlin", "UTC", "Australia/Lord_Howe", "Asia/Kathmandu", "America/New_York", "Pacific/Auckland", "America/St_Johns", "Pacific/Chatham", "Africa/Casablanca"}
	return names[p.n(len(names))]
}

func (p *proof) zone(name string) *time.Location {
	if name == "" {
		return p.facts.Zone
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return zone
}

// period draws a period of at most so many days, to the quarter-hour: all of it, between two midnights of a zone, about a
// change of the clocks, or between any two moments.
func (p *proof) period(zone *time.Location, most int) (from, to time.Time) {
	day := func(n int) time.Time {
		year, month, day := p.begin.Date()
		return time.Date(year, month, day+n, 0, 0, 0, 0, zone)
	}
	switch p.n(6) {
	case 0:
		if most >= days {
			return p.begin, p.begin.AddDate(0, 0, days)
		}
		fallthrough
	case 1:
		length := 1 + p.n(min(most, 31))
		first := p.n(days - length)
		return day(first), day(first + length)
	case 2:
		// Of a zone without changes this is the whole, cut.
		_, change := p.begin.AddDate(0, 0, p.n(days)).In(zone).ZoneBounds()
		if change.IsZero() || change.After(p.begin.AddDate(0, 0, days)) {
			break
		}
		length := 1 + p.n(min(most, 5))
		before := p.n(length)
		at := int(change.Sub(p.begin).Hours() / 24)
		return day(at - before), day(at - before + length)
	}
	length := 1 + p.n(min(most, 100)*96)
	if p.n(2) == 0 {
		length = 1 + p.n(96)
	}
	from = p.begin.Add(time.Duration(p.n(days*96-length)) * 15 * time.Minute)
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
		some(p.company.Applications(), &f.ApplicationIds)
	}
	switch p.n(8) {
	case 0:
		principals := p.company.Principals()
		for other := range p.company.Others() {
			principals = append(principals, other)
		}
		slices.SortFunc(principals, func(a, b contract.ID) int { return slices.Compare(a[:], b[:]) })
		some(principals, &f.PrincipalIds)
	case 1:
		some(p.company.Machines(), &f.MachineIds)
	case 2:
		some(p.groups, &f.GroupIds)
	case 3:
		some(p.company.Managers(), &f.ManagerIds)
	case 4:
		some(p.groups, &f.GroupIds)
		some(p.company.Managers(), &f.ManagerIds)
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
