package metering

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// size reads a size from the environment: benchmarks are small unless asked.
func size(name string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return standard
}

func idAt(kind byte, n int) contract.ID {
	rnd := rand.New(rand.NewPCG(uint64(kind), uint64(n)))
	var id contract.ID
	for i := range id {
		id[i] = byte(rnd.Uint32())
	}
	return resource.AsUUID(id, 4)
}

// workday is what one person does on one day, an interval every few minutes; the
// applications are some of all that there are.
func workday(rnd *rand.Rand, account contract.ID, person, apps int, day time.Time, perQuarter int, out []agentlog.Usage) []agentlog.Usage {
	at := day.Add(time.Duration(7*60+rnd.IntN(180)) * time.Minute).UnixMilli()
	end := at + int64(7*time.Hour/time.Millisecond) + rnd.Int64N(int64(3*time.Hour/time.Millisecond))
	used := 2 + rnd.IntN(6)
	type open struct{ app, instance contract.ID }
	var opened []open
	for range used {
		opened = append(opened, open{idAt('a', (person*7+rnd.IntN(12))%apps), resource.NewID()})
	}
	for at < end {
		next := min(at-at%900_000+900_000, at+1+rnd.Int64N(2*900_000/int64(perQuarter)))
		o := opened[rnd.IntN(used)]
		attention := []agentlog.Attention{agentlog.Busy, agentlog.Idle, agentlog.Background, agentlog.Away}[rnd.IntN(4)]
		out = append(out, agentlog.Usage{
			Account: account, Agent: idAt('g', person), Epoch: 1, Seq: uint64(at), Event: resource.NewID(), Instance: o.instance,
			Application: o.app, Principal: idAt('p', person), Machine: idAt('m', person), Session: idAt('s', person),
			FromUTCMillis: at, ToUTCMillis: next, AtUTCMillis: next, HasClosed: true, ClosedAttention: attention, ClosedState: agentlog.Inactive,
			Transition: agentlog.Changed,
		})
		at = next
	}
	return out
}

// cpu is the processor time that this process and PostgreSQL's backends for it have
// used: unlike the clock, it says the same on a machine that others use too.
func cpu(tb testing.TB, stores *Stores) time.Duration {
	tb.Helper()
	rows, err := stores.Views.Projector.Query(tb.Context(), "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
	if err != nil {
		tb.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		tb.Fatal(err)
	}
	var sum time.Duration
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			continue
		}
		ns, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		sum += time.Duration(n)
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		tb.Fatal(err)
	}
	return sum + time.Duration(own.Utime.Nano()+own.Stime.Nano())
}

// BenchmarkProjection adds up events as they come from many agents at once, and
// copies the same rows barely: METERING_EVENTS events (default 40,000), in batches
// of METERING_BATCH (default 10,000).
func BenchmarkProjection(b *testing.B) {
	stores := openStores(b)
	ctx := b.Context()
	account := resource.NewID()
	total, perBatch := size("METERING_EVENTS", 40_000), size("METERING_BATCH", 10_000)
	rnd := rand.New(rand.NewPCG(1, 1))
	var usage []agentlog.Usage
	for day := 0; len(usage) < total; day++ {
		for person := range 500 {
			usage = workday(rnd, account, person, 50, time.Date(2026, 3, 2+day, 0, 0, 0, 0, time.UTC), 5, usage)
		}
	}
	// In the order in which they would come: by time over all agents.
	slices.SortFunc(usage, func(a, b agentlog.Usage) int { return int(a.AtUTCMillis - b.AtUTCMillis) })
	usage = usage[:total]
	for b.Loop() {
		p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
		began, used := time.Now(), cpu(b, stores)
		for batch := range slices.Chunk(usage, perBatch) {
			apply(ctx, b, stores, p, &agentlog.Facts{Usage: batch})
		}
		ours, spent := time.Since(began), cpu(b, stores)-used
		bare, bareUsed, rows := copyAgain(ctx, b, stores)
		b.ReportMetric(float64(spent.Microseconds())/float64(total), "cpu-us/event")
		b.ReportMetric(bareUsed.Seconds()/spent.Seconds(), "cpu-ratio")
		b.ReportMetric(float64(total)/ours.Seconds(), "events/s")
		b.ReportMetric(float64(total)/bare.Seconds(), "bare-events/s")
		b.ReportMetric(float64(rows)/float64(total), "rows/event")
		b.ReportMetric(bare.Seconds()/ours.Seconds(), "ratio")
	}
}

// copyAgain copies all rows of the tables of usage into empty tables like them.
func copyAgain(ctx context.Context, tb testing.TB, stores *Stores) (took, used time.Duration, rows int64) {
	for _, table := range Tables() {
		var buffer copyBuffer
		tag, err := copyOut(ctx, stores, table, &buffer)
		if err != nil {
			tb.Fatal(err)
		}
		rows += tag
		err = pgx.BeginFunc(ctx, stores.Views.Projector, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "TRUNCATE "+table); err != nil {
				return err
			}
			began, before := time.Now(), cpu(tb, stores)
			_, err := tx.Conn().PgConn().CopyFrom(ctx, &buffer, "COPY "+table+" FROM STDIN (FORMAT binary)")
			took, used = took+time.Since(began), used+cpu(tb, stores)-before
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	return took, used, rows
}

func copyOut(ctx context.Context, stores *Stores, table string, to *copyBuffer) (int64, error) {
	conn, err := stores.Views.Projector.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	tag, err := conn.Conn().PgConn().CopyTo(ctx, to, "COPY "+table+" TO STDOUT (FORMAT binary)")
	return tag.RowsAffected(), err
}

func (c *copyBuffer) Write(p []byte) (int, error) { c.b = append(c.b, p...); return len(p), nil }

func (c *copyBuffer) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.b)
	c.b = c.b[n:]
	return n, nil
}

// BenchmarkSummarize asks random questions of METERING_PEOPLE people (default 50)
// who used 50 applications for 90 days, and reports percentiles.
func BenchmarkSummarize(b *testing.B) {
	s := newService(b, Config{})
	account := resource.NewID()
	people := size("METERING_PEOPLE", 50)
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	rnd := rand.New(rand.NewPCG(2, 2))
	loaded := time.Now()
	events := 0
	for chunk := 0; chunk < people; chunk += 25 {
		var usage []agentlog.Usage
		for person := chunk; person < min(people, chunk+25); person++ {
			for day := range 90 {
				if date := begin.AddDate(0, 0, day); date.Weekday() != time.Sunday && date.Weekday() != time.Saturday {
					usage = workday(rnd, account, person, 50, date, 2, usage)
				}
			}
		}
		events += len(usage)
		p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
		err := pgx.BeginFunc(b.Context(), s.stores.Views.Projector, func(tx pgx.Tx) error {
			p.addUp(usage)
			if err := p.notePairs(b.Context(), tx, usage); err != nil {
				return err
			}
			return p.merge(b.Context(), tx)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d people, %d events loaded in %v", people, events, time.Since(loaded))
	if _, err := s.stores.Views.Projector.Exec(b.Context(), "ANALYZE"); err != nil {
		b.Fatal(err)
	}
	api := &usageAPI{service: s}
	ctx := as(b.Context(), account)
	type asked struct {
		took, used time.Duration
		req        *meteringv1.SummarizeUsageRequest
	}
	var all []asked
	for b.Loop() {
		from := rnd.IntN(90 * 96)
		to := from + 1 + rnd.IntN(90*96-from)
		if rnd.IntN(2) == 0 {
			from, to = 0, 90*96
		}
		by := []meteringv1.GroupBy{1, 2, 3, 5, 6}
		rnd.Shuffle(len(by), func(i, j int) { by[i], by[j] = by[j], by[i] })
		req := &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(begin.Add(time.Duration(from) * 15 * time.Minute)), EndTime: timestamppb.New(begin.Add(time.Duration(to) * 15 * time.Minute)),
			GroupBy: by[:2], TimeZone: testZones[rnd.IntN(len(testZones))], Filter: &meteringv1.UsageFilter{},
		}
		for range rnd.IntN(4) {
			switch rnd.IntN(3) {
			case 0:
				req.Filter.ApplicationIds = append(req.Filter.ApplicationIds, idAt('a', rnd.IntN(50)).String())
			case 1:
				req.Filter.PrincipalIds = append(req.Filter.PrincipalIds, idAt('p', rnd.IntN(people)).String())
			case 2:
				req.Filter.MachineIds = append(req.Filter.MachineIds, idAt('m', rnd.IntN(people)).String())
			}
		}
		began, before := time.Now(), cpu(b, s.stores)
		if _, err := api.SummarizeUsage(ctx, req); err != nil {
			b.Fatal(err)
		}
		all = append(all, asked{time.Since(began), cpu(b, s.stores) - before, req})
	}
	at := func(percent int) asked { return all[(len(all)-1)*percent/100] }
	slices.SortFunc(all, func(a, b asked) int { return int(a.used - b.used) })
	b.ReportMetric(float64(at(50).used.Microseconds())/1000, "cpu-p50-ms")
	b.ReportMetric(float64(at(99).used.Microseconds())/1000, "cpu-p99-ms")
	slices.SortFunc(all, func(a, b asked) int { return int(a.took - b.took) })
	b.ReportMetric(float64(at(50).took.Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(at(99).took.Microseconds())/1000, "p99-ms")
	slices.SortFunc(all, func(a, b asked) int { return int(a.used - b.used) })
	for _, a := range all[max(0, len(all)-6):] {
		b.Logf("slow: %v of processor by %v, %v..%v, %d apps %d people %d machines, %s", a.used, a.req.GetGroupBy(), a.req.GetStartTime().AsTime(), a.req.GetEndTime().AsTime(),
			len(a.req.GetFilter().GetApplicationIds()), len(a.req.GetFilter().GetPrincipalIds()), len(a.req.GetFilter().GetMachineIds()), a.req.GetTimeZone())
	}
}

// benchCompany is METERING_PEOPLE people (default 50) who used 50 applications on the working days of
// METERING_DAYS days (default 60) before today, prepared. METERING_CROWD of a hundred (default 0) use the first
// application on each of them.
type benchCompany struct {
	s       *Service
	account contract.ID
	ctx     context.Context
	end     time.Time
	days    int
}

func newBenchCompany(b *testing.B) *benchCompany {
	c := &benchCompany{s: newService(b, Config{}), account: resource.NewID(), days: size("METERING_DAYS", 60), end: time.Now().UTC().Truncate(24 * time.Hour)}
	c.ctx = as(b.Context(), c.account)
	people, crowd := size("METERING_PEOPLE", 50), size("METERING_CROWD", 0)
	rnd := rand.New(rand.NewPCG(3, 3))
	p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
	began, events := time.Now(), 0
	for back := c.days; back > 0; back-- {
		day := c.end.AddDate(0, 0, -back)
		if day.Weekday() == time.Sunday || day.Weekday() == time.Saturday {
			continue
		}
		var usage []agentlog.Usage
		for person := range people {
			first := len(usage)
			usage = workday(rnd, c.account, person, 50, day, 5, usage)
			if rnd.IntN(100) < crowd && len(usage) > first {
				of := usage[first].Instance
				for i := first; i < len(usage); i++ {
					if usage[i].Instance == of {
						usage[i].Application = idAt('a', 0)
					}
				}
			}
		}
		events += len(usage)
		err := inTurn(c.s.stores)(b.Context(), func(ctx context.Context, tx pgx.Tx) error {
			if os.Getenv("METERING_CELLS") != "" {
				return p.apply(ctx, tx, &agentlog.Facts{Usage: usage})
			}
			// What is asked here is not made of cells.
			p.addUp(usage)
			clear(p.cells)
			p.sorted.cells, p.sorted.applications = nil, nil
			if err := p.copyIntervals(ctx, tx, usage); err != nil {
				return err
			}
			if err := p.notePairs(ctx, tx, usage); err != nil {
				return err
			}
			if err := p.merge(ctx, tx); err != nil {
				return err
			}
			return p.noteUnprepared(ctx, tx)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if _, err := c.s.stores.Views.Projector.Exec(b.Context(), "ANALYZE"); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d people, %d events loaded in %v", people, events, time.Since(began))
	began = time.Now()
	if os.Getenv("METERING_UNPREPARED") == "" {
		first, last := int32(dayOf(c.end.UnixMilli()))-int32(c.days), int32(dayOf(c.end.UnixMilli()))
		for ; first <= last; first += preparedTogether {
			if _, err := preparerOf(c.s.stores, p).prepare(b.Context(), c.account, first, min(last, first+preparedTogether-1)); err != nil {
				b.Fatal(err)
			}
		}
	}
	var rows, size, intervals int64
	if err := c.s.stores.Views.Projector.QueryRow(b.Context(), "SELECT count(*), coalesce(sum(length(uses)), 0), pg_total_relation_size('interval') FROM prepared_day").Scan(&rows, &size, &intervals); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d days prepared in %v: %.1f bytes an event, the intervals %.1f", rows, time.Since(began), float64(size)/float64(events), float64(intervals)/float64(events))
	return c
}

// position is how far the tables are.
func (c *benchCompany) position(b *testing.B) (position string) {
	if err := c.s.inAccount(c.ctx, c.account, func(tx pgx.Tx) error {
		at, err := countedPosition(c.ctx, tx, c.account)
		position = strconv.FormatUint(at, 10)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	return position
}

// BenchmarkReports asks what the console's pages of unions ask of a company: cold, as if nothing had been asked before, and again.
func BenchmarkReports(b *testing.B) {
	c := newBenchCompany(b)
	reports, usage := &reportAPI{service: c.s}, &usageAPI{service: c.s}
	var slider []*durationpb.Duration
	for minute := range 60 {
		slider = append(slider, durationpb.New(time.Duration(minute+1)*time.Minute))
	}
	for _, days := range []int{7, 30, 180, c.days} {
		if days > c.days {
			continue
		}
		start, end := timestamppb.New(c.end.AddDate(0, 0, -days)), timestamppb.New(c.end)
		for _, of := range []struct {
			what   string
			filter *meteringv1.UsageFilter
		}{
			{"one", &meteringv1.UsageFilter{ApplicationIds: []string{idAt('a', 0).String()}}},
			{"all", nil},
			{"person", &meteringv1.UsageFilter{PrincipalIds: []string{idAt('p', 3).String()}}},
		} {
			for name, ask := range map[string]func() error{
				"concurrency": func() error {
					_, err := usage.QueryConcurrency(c.ctx, &meteringv1.QueryConcurrencyRequest{StartTime: start, EndTime: end, Filter: of.filter, Step: durationpb.New(time.Duration(days) * time.Minute)})
					return err
				},
				"demand": func() error {
					_, err := reports.QueryDemand(c.ctx, &meteringv1.QueryDemandRequest{StartTime: start, EndTime: end, Filter: of.filter, HeatMap: true})
					return err
				},
				"licences": func() error {
					_, err := reports.QueryLicencesNeeded(c.ctx, &meteringv1.QueryLicencesNeededRequest{StartTime: start, EndTime: end, Filter: of.filter, GiveBackAfter: slider})
					return err
				},
				"slider": func() error {
					_, err := reports.QueryLicencesNeeded(c.ctx, &meteringv1.QueryLicencesNeededRequest{StartTime: start, EndTime: end, Filter: of.filter, GiveBackAfter: slider[9:10], AsOfPosition: c.position(b)})
					return err
				},
				"forecast": func() error {
					if days < 60 {
						return nil
					}
					_, err := reports.ForecastDemand(c.ctx, &meteringv1.ForecastDemandRequest{StartTime: start, EndTime: end, Filter: of.filter})
					return err
				},
				"idle": func() error {
					_, err := reports.QueryIdle(c.ctx, &meteringv1.QueryIdleRequest{StartTime: start, EndTime: end, Filter: of.filter, Longest: 20})
					return err
				},
				"sessions": func() error {
					_, err := reports.SummarizeSessions(c.ctx, &meteringv1.SummarizeSessionsRequest{StartTime: start, EndTime: end, Filter: of.filter, GroupBy: meteringv1.SessionGroupBy_SESSION_GROUP_BY_SESSION})
					return err
				},
				"persons": func() error {
					_, err := usage.SummarizeUsage(c.ctx, &meteringv1.SummarizeUsageRequest{StartTime: start, EndTime: end, Filter: of.filter, GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_PRINCIPAL}, Counting: meteringv1.Counting_COUNTING_PERSON_TIME})
					return err
				},
			} {
				for _, cold := range []bool{true, false} {
					b.Run(fmt.Sprintf("%s/%s/days=%d/cold=%t", name, of.what, days, cold), func(b *testing.B) {
						before := cpu(b, c.s.stores)
						for b.Loop() {
							if cold {
								c.s.memory, c.s.readings = newMemory(memoryBytes), newReadings()
							}
							if err := ask(); err != nil {
								b.Skip(err)
							}
						}
						b.ReportMetric(float64((cpu(b, c.s.stores)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
						if cold {
							b.ReportMetric(float64(c.s.memory.size)/1000, "kept-kB")
						}
					})
				}
			}
		}
	}
}
