package metering

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// BenchmarkWalls asks the same summaries with and without row-level security, in turns, and
// tells what it costs (wanted: ratio ≤ 1.15).
func BenchmarkWalls(b *testing.B) {
	ctx := b.Context()
	url := platformtest.Database(b)
	stores, err := OpenStores(ctx, url, platformtest.Logger(b))
	if err != nil {
		b.Fatal(err)
	}
	defer stores.Close()
	s, err := New(Config{}, Deps{NATS: platformtest.NATS(b), Stores: stores, Logger: platformtest.Logger(b)})
	if err != nil {
		b.Fatal(err)
	}
	const people, days = 200, 30
	rnd := rand.New(rand.NewPCG(3, 4))
	account, begin := resource.NewID(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	ids := func(n int) (list []contract.ID) {
		for range n {
			list = append(list, resource.NewID())
		}
		return list
	}
	persons, machines, applications := ids(people), ids(people), ids(20)
	p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
	var seq uint64
	for day := range days {
		var usage []agentlog.Usage
		for i, person := range persons {
			for range 5 {
				u := agentlog.Usage{
					Account: account, Agent: machines[i], Epoch: 1, Instance: resource.NewID(), Session: resource.NewID(),
					Application: applications[rnd.IntN(len(applications))], Principal: person, Machine: machines[i],
				}
				at := begin.AddDate(0, 0, day).Add(8*time.Hour + time.Duration(rnd.IntN(8*60))*time.Minute).UnixMilli()
				for n := range 3 {
					seq++
					u.Seq, u.Event, u.Position = seq, resource.NewID(), seq
					u.Transition, u.AtUTCMillis = agentlog.Opened, at
					if n > 0 {
						u.Transition, u.FromUTCMillis, u.HasClosed = agentlog.Cut, at, true
						at += rnd.Int64N(900_000)
						u.ToUTCMillis, u.AtUTCMillis, u.ClosedAttention, u.ClosedState = at, at, agentlog.Busy, agentlog.Active
					}
					usage = append(usage, u)
				}
			}
		}
		apply(ctx, b, stores, p, &agentlog.Facts{Usage: usage})
	}

	admin, err := pgx.Connect(ctx, url)
	if err != nil {
		b.Fatal(err)
	}
	defer admin.Close(ctx)
	wall := func(verb string) {
		_, err := admin.Exec(ctx, `DO $$ DECLARE t regclass; BEGIN
			FOR t IN SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = '`+stores.Views.Schema+`'::regnamespace AND c.relkind = 'r' AND c.relname NOT LIKE 'goose%'
			LOOP EXECUTE format('ALTER TABLE %s `+verb+` ROW LEVEL SECURITY', t); END LOOP; END $$`)
		if err != nil {
			b.Fatal(err)
		}
	}
	if _, err := admin.Exec(ctx, "ANALYZE"); err != nil {
		b.Fatal(err)
	}
	groups := []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION, meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_MACHINE, meteringv1.GroupBy_GROUP_BY_DAY}
	ask := func(number int) time.Duration {
		of := rand.New(rand.NewPCG(uint64(number), 5)) // both are asked the same
		from := begin.Add(time.Duration(of.IntN(days*24/2)) * time.Hour)
		began := time.Now()
		_, err := (&usageAPI{service: s}).SummarizeUsage(as(ctx, account), &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(from), EndTime: timestamppb.New(from.Add(time.Duration(1+of.IntN(days*24/2)) * time.Hour)),
			GroupBy: []meteringv1.GroupBy{groups[number%len(groups)], groups[(number+1)%len(groups)]},
		})
		if err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	took := map[string][]time.Duration{}
	const rounds, questions = 10, 40
	for b.Loop() {
		for round := range rounds {
			for _, verb := range []string{"ENABLE", "DISABLE"} {
				wall(verb)
				for number := range groups { // plans are made anew
					ask(number)
				}
				for number := range questions {
					took[verb] = append(took[verb], ask(round*questions+number))
				}
			}
		}
	}
	median := func(list []time.Duration) float64 {
		slices.Sort(list)
		return float64(list[len(list)/2].Microseconds()) / 1000
	}
	walled, bare := median(took["ENABLE"]), median(took["DISABLE"])
	b.ReportMetric(walled, "walled-ms")
	b.ReportMetric(bare, "bare-ms")
	b.ReportMetric(walled/bare, "ratio")
}
