package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/tools/company"
	"github.com/cetrus/cetrus/tools/recount"
)

// compared is a report's question, and the same in plain.
type compared struct {
	name  string
	ask   func(ctx context.Context) error
	plain func() error
}

// reportSpeed asks each report about all days of the company, and has the plain re-computation answer
// the same: from the events, which it has to read first.
func reportSpeed(ctx context.Context, r *run) error {
	c, err := r.consoled(ctx)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.platform.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = conn.Close() }()
	call := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.platform.Key)
	facts, reading, err := c.facts()
	if err != nil {
		return err
	}
	r.say("%d events are read in plain within %v", facts.Events(), reading.Round(time.Millisecond))
	more := map[string]any{"events": facts.Events(), "people": len(c.company.Principals()), "days": c.days, "plain_reading_ms": millis(reading)}
	var shares []float64
	for _, report := range c.reports(conn, facts) {
		var took []time.Duration
		refused := error(nil)
		for range 5 { // the first brings pages into memory
			began := time.Now()
			if refused = report.ask(call); refused != nil {
				break
			}
			took = append(took, time.Since(began))
		}
		if refused != nil {
			r.say("%s: %v", report.name, refused)
			more["refused "+report.name] = refused.Error()
			continue
		}
		began := time.Now()
		if err := report.plain(); err != nil {
			return err
		}
		adding := time.Since(began)
		ms := at(0.5, took[1:])
		share := millis(reading+adding) / ms
		shares = append(shares, share)
		more[report.name+"_ms"], more[report.name+"_first_ms"], more[report.name+"_plain_adding_ms"], more[report.name+"_times"] = ms, millis(took[0]), millis(adding), share
	}
	if len(shares) == 0 {
		return errors.New("bench: every report was refused")
	}
	more["least_times"] = slices.Min(shares)
	return r.emit(Line{Name: r.name, Value: median(shares), Unit: "times", More: more})
}

// facts reads everything that the company did, in plain: the same seed does the same again.
func (c *consoled) facts() (*recount.Facts, time.Duration, error) {
	facts := recount.New(c.zone)
	var reading time.Duration
	again := company.New(c.company.Config())
	err := again.Days(func(_ int, came []company.Delivery) error {
		began := time.Now()
		defer func() { reading += time.Since(began) }()
		for _, d := range came {
			if err := facts.Read(d.Manager, d.Frame); err != nil {
				return err
			}
		}
		return nil
	})
	return facts, reading, err
}

// reports are questions about all days: of everybody where a report adds up, and of one application where it replays.
func (c *consoled) reports(conn *grpc.ClientConn, facts *recount.Facts) []compared {
	usage, reports := meteringv1.NewUsageServiceClient(conn), meteringv1.NewReportServiceClient(conn)
	start, end := timestamppb.New(c.begin), timestamppb.New(c.begin.AddDate(0, 0, c.days))
	from, to := start.AsTime().UnixMilli(), end.AsTime().UnixMilli()
	one := &meteringv1.UsageFilter{ApplicationIds: []string{c.company.Applications()[1].String()}}
	summary := func(by ...meteringv1.GroupBy) compared {
		q := &meteringv1.SummarizeUsageRequest{StartTime: start, EndTime: end, GroupBy: by}
		var names []string
		for _, g := range by {
			names = append(names, strings.ToLower(strings.TrimPrefix(g.String(), "GROUP_BY_")))
		}
		return compared{
			"use_by_" + strings.Join(names, "_and_"),
			func(ctx context.Context) error { _, err := usage.SummarizeUsage(ctx, q); return err },
			func() error { _, err := facts.Summarize(q); return err },
		}
	}
	demand := func(name string, filter *meteringv1.UsageFilter) compared {
		q := &meteringv1.QueryDemandRequest{StartTime: start, EndTime: end, Filter: filter, GiveBackAfter: []*durationpb.Duration{durationpb.New(30 * time.Minute)}}
		return compared{
			name,
			func(ctx context.Context) error { _, err := reports.QueryDemand(ctx, q); return err },
			func() error { facts.QueryDemand(filter, q.GetMetric(), q.GetGiveBackAfter(), from, to); return nil },
		}
	}
	ranking := &meteringv1.RankUsageRequest{StartTime: start, EndTime: end}
	unused := &meteringv1.ListUnusedRequest{StartTime: start, EndTime: end}
	distribution := &meteringv1.QueryDistributionRequest{StartTime: start, EndTime: end}
	sessions := &meteringv1.SummarizeSessionsRequest{StartTime: start, EndTime: end, GroupBy: meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL, Filter: one}
	idle := &meteringv1.QueryIdleRequest{StartTime: start, EndTime: end, Filter: one}
	forecast := &meteringv1.ForecastDemandRequest{StartTime: start, EndTime: end, Filter: one}
	return []compared{
		summary(meteringv1.GroupBy_GROUP_BY_APPLICATION), summary(meteringv1.GroupBy_GROUP_BY_PRINCIPAL), summary(meteringv1.GroupBy_GROUP_BY_APPLICATION, meteringv1.GroupBy_GROUP_BY_MONTH),
		summary(meteringv1.GroupBy_GROUP_BY_GROUP), demand("demand_of_one_application", one), demand("demand_of_all", nil),
		{
			"ranking",
			func(ctx context.Context) error { _, err := reports.RankUsage(ctx, ranking); return err },
			func() error { facts.RankUsage(ranking, 2*from-to, from); return nil },
		},
		{
			"unused",
			func(ctx context.Context) error { _, err := reports.ListUnused(ctx, unused); return err },
			func() error { facts.ListUnused(unused); return nil },
		},
		{
			"distribution",
			func(ctx context.Context) error { _, err := reports.QueryDistribution(ctx, distribution); return err },
			func() error { facts.Distribution(distribution); return nil },
		},
		{
			"idle_of_one_application",
			func(ctx context.Context) error { _, err := reports.QueryIdle(ctx, idle); return err },
			func() error { facts.QueryIdle(one, from, to, (30 * time.Minute).Milliseconds(), c.zone); return nil },
		},
		{
			"sessions_of_one_application",
			func(ctx context.Context) error { _, err := reports.SummarizeSessions(ctx, sessions); return err },
			func() error { facts.SummarizeSessions(sessions); return nil },
		},
		{
			"forecast_of_one_application",
			func(ctx context.Context) error { _, err := reports.ForecastDemand(ctx, forecast); return err },
			func() error { facts.DayPeaks(forecast, time.Now()); return nil },
		},
	}
}
