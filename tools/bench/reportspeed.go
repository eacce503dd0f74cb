package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/tools/company"
	"github.com/cetrus/cetrus/tools/figure"
	"github.com/cetrus/cetrus/tools/recount"
)

// reportSpeed asks each report at random about the company's year, and has the plain re-computation answer the same,
// to the millisecond: from the events, which it has to read first.
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
	facts.Groups = c.members
	questions := &recount.Questions{
		Usage: meteringv1.NewUsageServiceClient(conn), Reports: meteringv1.NewReportServiceClient(conn),
		Facts: facts, Company: c.company, Groups: c.groups, Begin: c.begin, Days: c.days - 1, // the last day is not over
	}
	var shares, again []float64
	for _, report := range recount.Names() {
		var of []float64
		refused := 0
		for seed := range uint64(sized(r, 2, 5)) {
			// What is asked for the first time brings tables into memory, and what is asked again is as pages are.
			first, err := questions.Ask(call, report, seed)
			if err == nil {
				var second recount.Answered
				second, err = questions.Ask(call, report, seed)
				of = append(of, float64(reading+first.Plain)/float64(first.Platform))
				again = append(again, float64(reading+second.Plain)/float64(second.Platform))
			}
			switch status.Code(err) {
			case codes.OK:
			case codes.InvalidArgument, codes.ResourceExhausted: // too much for one answer
				refused++
				r.say("%s: %v", report, err)
			default:
				return fmt.Errorf("bench: %s: %w", report, err)
			}
		}
		r.say("%s: %d answers are equal, %d questions were refused", report, len(of), refused)
		more[strings.ReplaceAll(report, " ", "_")+"_refused"] = refused
		if len(of) > 0 {
			more[strings.ReplaceAll(report, " ", "_")+"_times"] = median(of)
			shares = append(shares, of...)
		}
	}
	if len(shares) == 0 {
		return errors.New("bench: every question was refused")
	}
	more["least_times"], more["again_times"], more["again_least_times"] = slices.Min(shares), median(again), slices.Min(again)
	more["equal"] = len(shares)
	return r.emit(figure.Line{Name: r.name, Value: median(shares), Unit: "times", More: more})
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
