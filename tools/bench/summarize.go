package bench

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/rpc"
	"github.com/cetrus/cetrus/tools/figure"
)

//go:embed scan_whole.sql
var scanWhole string

//go:embed scan_by_time.sql
var scanByTime string

// zones are some with whole hours, with half and quarter ones, and changes of the clocks.
func zones() []string {
	return []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Asia/Tokyo"}
}

// employer is metering of a company, behind its real API on loopback.
type employer struct {
	r       *run
	account contract.ID
	key     string
	begin   time.Time
	people  int
	stream  *stream
	// database is the server that stores is on.
	database *database
	stores   *metering.Stores
	metered  *running
	api      meteringv1.UsageServiceClient
	random   *rand.Rand
	closers  []func() error
}

func (c *employer) close() error {
	var failures []error
	for _, closing := range slices.Backward(c.closers) {
		failures = append(failures, closing())
	}
	return errors.Join(failures...)
}

func (r *run) newCompany(ctx context.Context) (c *employer, err error) {
	c = &employer{r: r, random: rand.New(rand.NewPCG(2, 2)), begin: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -companyDays-2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	dir, err := r.folder("account")
	if err != nil {
		return c, err
	}
	keys, key, err := authn.Bootstrap(dir, time.Now())
	if err != nil {
		return c, err
	}
	c.account, c.key = keys.Account(), key
	d, err := r.newDatabase(ctx)
	if err != nil {
		return c, err
	}
	c.database = d
	c.closers = append(c.closers, func() error { return d.close(ctx) })
	if c.stream, err = r.newStream(ctx); err != nil {
		return c, err
	}
	c.closers = append(c.closers, func() error { c.stream.close(); return nil })
	var drop func() error
	if c.stores, drop, err = d.stores(ctx, r); err != nil {
		return c, err
	}
	c.closers = append(c.closers, drop)
	if c.metered, err = r.meter(ctx, c.stream, c.stores); err != nil {
		return c, err
	}
	c.closers = append(c.closers, c.metered.close)
	return c, c.serve(ctx, keys)
}

// serve puts the service behind the platform's gRPC server, with all that a call
// goes through there.
func (c *employer) serve(ctx context.Context, keys *authn.Keys) error {
	server, err := rpc.New(rpc.Config{UnaryTimeout: time.Minute}, rpc.Deps{Authenticator: keys, Logger: c.r.log, Services: []rpc.Service{c.metered.service}})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	var failure error
	done.Go(func() { failure = server.Serve(serving, listener) })
	c.closers = append(c.closers, func() error { stop(); done.Wait(); return failure })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	c.closers = append(c.closers, conn.Close)
	c.api = meteringv1.NewUsageServiceClient(conn)
	return nil
}

// hire adds people up to a number, with all that they did.
func (c *employer) hire(ctx context.Context, people int) error {
	began, before := time.Now(), c.stream.events
	var hired []*employee
	for n := c.people; n < people; n++ {
		hired = append(hired, newEmployee(n, c.begin))
	}
	turn := 0
	err := c.stream.publish(ctx, c.account, contract.ID{2}, func() (*received, error) {
		for len(hired) > 0 {
			i := turn % len(hired)
			turn++
			f, err := hired[i].next()
			if f != nil || err != nil {
				return f, err
			}
			hired = slices.Delete(hired, i, i+1)
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	published := time.Since(began)
	if err := c.metered.service.WaitForUsage(ctx, c.stream.messages); err != nil {
		return err
	}
	c.people = people
	c.r.say("%d people: %d events more, published after %v, counted after %v", people, c.stream.events-before, published.Round(time.Second), time.Since(began).Round(time.Second))
	if err := c.r.allCounted(ctx, c.stream, c.stores); err != nil {
		return err
	}
	return c.settle(ctx)
}

// settle does what autovacuum and the next checkpoint do within minutes: a company
// does not ask for three months a second after it has counted them.
func (c *employer) settle(ctx context.Context) error {
	for _, statement := range []string{"VACUUM (ANALYZE)", "CHECKPOINT"} {
		if err := c.database.admin(ctx, c.stores, statement); err != nil {
			return err
		}
	}
	return nil
}

// question draws a question. Its span is drawn to the quarter-hour, so that none is
// asked twice.
func (c *employer) question() *meteringv1.SummarizeUsageRequest {
	const quarters = companyDays * 96
	from := c.random.IntN(quarters - 96)
	to := from + 1 + c.random.IntN(quarters-from)
	if c.random.IntN(2) == 0 { // the long ones cost most
		from, to = c.random.IntN(96), quarters-c.random.IntN(96)
	}
	by := []meteringv1.GroupBy{
		meteringv1.GroupBy_GROUP_BY_APPLICATION, meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_MACHINE,
		meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_HOUR,
	}
	for {
		c.random.Shuffle(len(by), func(i, j int) { by[i], by[j] = by[j], by[i] })
		if !slices.Contains(by[:2], meteringv1.GroupBy_GROUP_BY_DAY) || !slices.Contains(by[:2], meteringv1.GroupBy_GROUP_BY_HOUR) {
			break
		}
	}
	q := &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(c.begin.Add(time.Duration(from) * contract.QuarterHour)), EndTime: timestamppb.New(c.begin.Add(time.Duration(to) * contract.QuarterHour)),
		GroupBy: by[:2:2], TimeZone: zones()[c.random.IntN(len(zones()))], Filter: &meteringv1.UsageFilter{}, PageSize: 100,
	}
	for range c.random.IntN(4) {
		switch c.random.IntN(3) {
		case 0:
			q.Filter.ApplicationIds = append(q.Filter.ApplicationIds, companyID('a', c.random.IntN(companyApplications)).String())
		case 1:
			q.Filter.PrincipalIds = append(q.Filter.PrincipalIds, companyID('p', c.random.IntN(c.people)).String())
		case 2:
			q.Filter.MachineIds = append(q.Filter.MachineIds, companyID('m', c.random.IntN(c.people)).String())
		}
	}
	return q
}

// asked is what asking some questions gave.
type asked struct {
	took []time.Duration
	// scan and indexed are of the questions that were checked: by reading all
	// intervals, and with the tables' indexes.
	scan, indexed []time.Duration
	// share and indexedShare are those over the answer, question by question.
	share, indexedShare []float64
	slowest             string
}

// ask asks so many questions, and checks every so manieth answer against a scan of
// the intervals.
func (c *employer) ask(ctx context.Context, questions, every int) (a asked, err error) {
	call := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.key)
	for range 5 { // connections and plans
		if _, err := c.api.SummarizeUsage(call, c.question()); err != nil {
			return a, err
		}
	}
	slowest := time.Duration(0)
	for n := range questions {
		q := c.question()
		began := time.Now()
		answer, err := c.api.SummarizeUsage(call, q)
		took := time.Since(began)
		if err != nil {
			return a, err
		}
		a.took = append(a.took, took)
		if took > slowest {
			slowest = took
			a.slowest = fmt.Sprintf("%v by %v, %d applications, %d people, %d machines", q.GetEndTime().AsTime().Sub(q.GetStartTime().AsTime()), q.GetGroupBy(),
				len(q.GetFilter().GetApplicationIds()), len(q.GetFilter().GetPrincipalIds()), len(q.GetFilter().GetMachineIds()))
		}
		if n%every != 0 {
			continue
		}
		truth, scan, err := c.scan(ctx, q, false)
		if err != nil {
			return a, err
		}
		a.scan, a.share = append(a.scan, scan), append(a.share, scan.Seconds()/took.Seconds())
		indexed := scan
		if len(q.GetFilter().GetPrincipalIds())+len(q.GetFilter().GetMachineIds()) > 0 { // else there is none to use
			if _, indexed, err = c.scan(ctx, q, true); err != nil {
				return a, err
			}
		}
		a.indexed, a.indexedShare = append(a.indexed, indexed), append(a.indexedShare, indexed.Seconds()/took.Seconds())
		if err := c.pages(call, q, answer); err != nil {
			return a, err
		}
		if err := truth.compare(q, answer); err != nil {
			return a, fmt.Errorf("bench: an answer differs from the scan: %w; asked: %s", err, q)
		}
	}
	return a, nil
}

// pages adds the groups of all further pages to an answer.
func (c *employer) pages(ctx context.Context, q *meteringv1.SummarizeUsageRequest, answer *meteringv1.SummarizeUsageResponse) error {
	token := answer.GetNextPageToken()
	for token != "" {
		next := proto.CloneOf(q)
		next.PageSize, next.PageToken = 10_000, token
		more, err := c.api.SummarizeUsage(ctx, next)
		if err != nil {
			return err
		}
		answer.Groups, token = append(answer.Groups, more.GetGroups()...), more.GetNextPageToken()
	}
	return nil
}

// row is what a scan says of a group: milliseconds by attention, 1 to 7.
type row struct {
	application, principal, machine string
	start                           time.Time
	millis                          [8]int64
}

type scanned struct {
	rows  map[string]*row
	total [8]int64
}

// groupName tells groups apart; what a question does not group by is left out.
func groupName(q *meteringv1.SummarizeUsageRequest, application, principal, machine string, start time.Time) string {
	name := ""
	for _, by := range []meteringv1.GroupBy{1, 2, 3, 5, 6} {
		if !slices.Contains(q.GetGroupBy(), by) {
			continue
		}
		switch by {
		case meteringv1.GroupBy_GROUP_BY_APPLICATION:
			name += " application " + application
		case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
			name += " person " + principal
		case meteringv1.GroupBy_GROUP_BY_MACHINE:
			name += " machine " + machine
		case meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_HOUR, meteringv1.GroupBy_GROUP_BY_UNSPECIFIED, meteringv1.GroupBy_GROUP_BY_DOCUMENT:
			name += " from " + start.UTC().Format(time.RFC3339)
		default: // the bench asks for no other
		}
	}
	return name
}

// scan answers a question by reading all intervals: what a report without
// roll-ups would have to do. With the indexes it reads those of the people asked
// for only, where PostgreSQL thinks that faster; both may use all processors.
func (c *employer) scan(ctx context.Context, q *meteringv1.SummarizeUsageRequest, indexes bool) (s *scanned, took time.Duration, err error) {
	began := time.Now()
	err = pgx.BeginFunc(ctx, c.stores.Views.Projector, func(tx pgx.Tx) error {
		const room, sequential = "SET LOCAL work_mem = '64MB'", "; SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off"
		settings := room
		if !indexes {
			settings += sequential
		}
		if _, err := tx.Exec(ctx, settings); err != nil {
			return err
		}
		s, err = c.scanIn(ctx, tx, q)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("bench: scan: %w", err)
	}
	return s, time.Since(began), nil
}

func (c *employer) scanIn(ctx context.Context, tx pgx.Tx, q *meteringv1.SummarizeUsageRequest) (*scanned, error) {
	by := func(g meteringv1.GroupBy) bool { return slices.Contains(q.GetGroupBy(), g) }
	query, arguments := scanWhole, []any{
		c.account.String(), q.GetStartTime().AsTime().UnixMilli(), q.GetEndTime().AsTime().UnixMilli(),
		by(meteringv1.GroupBy_GROUP_BY_APPLICATION), by(meteringv1.GroupBy_GROUP_BY_PRINCIPAL), by(meteringv1.GroupBy_GROUP_BY_MACHINE),
		q.GetFilter().GetApplicationIds(), q.GetFilter().GetPrincipalIds(), q.GetFilter().GetMachineIds(),
	}
	switch {
	case by(meteringv1.GroupBy_GROUP_BY_DAY):
		query, arguments = scanByTime, append(arguments, "day", q.GetTimeZone())
	case by(meteringv1.GroupBy_GROUP_BY_HOUR):
		query, arguments = scanByTime, append(arguments, "hour", q.GetTimeZone())
	}
	rows, err := tx.Query(ctx, query, arguments...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	s := &scanned{rows: map[string]*row{}}
	for rows.Next() {
		var g row
		var start *time.Time
		var attention int16
		var sum int64
		if err := rows.Scan(&g.application, &g.principal, &g.machine, &start, &attention, &sum); err != nil {
			return nil, err
		}
		if start != nil {
			g.start = *start
		}
		name := groupName(q, g.application, g.principal, g.machine, g.start)
		if s.rows[name] == nil {
			s.rows[name] = &g
		}
		s.rows[name].millis[attention] += sum
		s.total[attention] += sum
	}
	return s, rows.Err()
}

// compare finds the first difference of the totals and groups of all pages.
func (s *scanned) compare(q *meteringv1.SummarizeUsageRequest, answer *meteringv1.SummarizeUsageResponse) error {
	for _, g := range answer.GetGroups() {
		name := groupName(q, g.GetApplicationId(), g.GetPrincipalId(), g.GetMachineId(), g.GetStartTime().AsTime())
		scanned, ok := s.rows[name]
		if !ok {
			return fmt.Errorf("%s was not scanned", name)
		}
		if got := attentionMillis(g.GetTotals()); got != scanned.millis {
			return fmt.Errorf("%s has %v, scanned %v", name, got, scanned.millis)
		}
	}
	answered := map[string]bool{}
	for _, g := range answer.GetGroups() {
		answered[groupName(q, g.GetApplicationId(), g.GetPrincipalId(), g.GetMachineId(), g.GetStartTime().AsTime())] = true
	}
	for _, name := range slices.Sorted(maps.Keys(s.rows)) {
		if !answered[name] {
			return fmt.Errorf("%s is not answered; scanned %v", name, s.rows[name].millis)
		}
	}
	if want := len(s.rows); len(answer.GetGroups()) != want {
		return fmt.Errorf("%d groups, scanned %d", len(answer.GetGroups()), want)
	}
	if got := attentionMillis(answer.GetTotals()); got != s.total {
		return fmt.Errorf("in all %v, scanned %v", got, s.total)
	}
	return nil
}

func attentionMillis(t *meteringv1.UsageTotals) (m [8]int64) {
	for i, d := range []*durationpb.Duration{t.GetSuspended(), t.GetUnknown(), t.GetPaused(), t.GetAway(), t.GetBusy(), t.GetIdle(), t.GetBackground()} {
		m[i+1] = d.AsDuration().Milliseconds()
	}
	return m
}

func summarize(ctx context.Context, r *run) error {
	c, err := r.newCompany(ctx)
	if err != nil {
		return err
	}
	err = c.measure(ctx)
	return errors.Join(err, c.close())
}

func (c *employer) measure(ctx context.Context) error {
	r := c.r
	few, many := sized(r, 5, 100), sized(r, 20, 1000)
	questions, every := sized(r, 20, 300), sized(r, 5, 10)
	if err := c.hire(ctx, few); err != nil {
		return err
	}
	small, err := c.ask(ctx, questions, every)
	if err != nil {
		return err
	}
	r.say("%d people: p50 %.1f ms, p99 %.1f ms", few, at(0.5, small.took), at(0.99, small.took))
	if err := c.hire(ctx, many); err != nil {
		return err
	}
	stop := r.profile("")
	large, err := c.ask(ctx, questions, every)
	stop()
	if err != nil {
		return err
	}
	r.say("%d people: p50 %.1f ms, p99 %.1f ms; slowest: %s", many, at(0.5, large.took), at(0.99, large.took), large.slowest)
	return r.emit(figure.Line{Name: r.name, Value: at(0.99, large.took), Unit: "ms", Limit: at(0.5, large.scan), More: map[string]any{
		"p50_ms": at(0.5, large.took), "p99_ms": at(0.99, large.took), "scan_p50_ms": at(0.5, large.scan),
		"times_scan_p50": median(large.share), "times_scan_least": slices.Min(large.share),
		"indexed_p50_ms": at(0.5, large.indexed), "times_indexed_p50": median(large.indexedShare), "times_indexed_least": slices.Min(large.indexedShare),
		"questions": len(large.took), "checked": len(large.scan), "people": many, "events": c.stream.events, "slowest": large.slowest,
		"few_people": few, "few_p50_ms": at(0.5, small.took), "few_p99_ms": at(0.99, small.took),
		"growth_p50": at(0.5, large.took) / at(0.5, small.took), "growth_p99": at(0.99, large.took) / at(0.99, small.took),
	}})
}
