package metering

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// usualBounds part people by what is hardly used, what now and then, and what all the time.
var usualBounds = [...]time.Duration{time.Hour, 5 * time.Hour, 20 * time.Hour, 40 * time.Hour, 80 * time.Hour, 160 * time.Hour}

// boundsOf reads where parts end, in milliseconds; what is wrong with them is told.
func boundsOf(req *meteringv1.QueryDistributionRequest) (bounds []int64, wrong []errs.Field) {
	for i, b := range req.GetBounds() {
		ms := b.AsDuration().Milliseconds()
		if b.CheckValid() != nil || ms <= 0 || i > 0 && ms <= bounds[i-1] {
			wrong = append(wrong, errs.Field{Path: fmt.Sprintf("bounds[%d]", i), Description: "is not greater than the bound before it, or than nothing"})
		}
		bounds = append(bounds, ms)
	}
	if len(bounds) == 0 {
		for _, b := range usualBounds {
			bounds = append(bounds, b.Milliseconds())
		}
	}
	return bounds, wrong
}

func (a *reportAPI) QueryDistribution(ctx context.Context, req *meteringv1.QueryDistributionRequest) (*meteringv1.QueryDistributionResponse, error) {
	const op = "metering.QueryDistribution"
	bounds, wrong := boundsOf(req)
	r, err := reportOf(ctx, op, req, wrong...)
	if err != nil {
		return nil, err
	}
	if err := a.viewed(ctx, r, req, false); err != nil {
		return nil, err
	}
	r.byCells = true
	var lengths, before []int64
	var compare *meteringv1.DistributionComparison
	err = a.read(ctx, r, "UTC", func(tx pgx.Tx) (err error) {
		if other, kept := r.beside(); other != nil {
			compare = &meteringv1.DistributionComparison{StartTime: other.startTime(), EndTime: other.endTime()}
			if kept {
				if before, err = readLengths(ctx, tx, other, req); err != nil {
					return err
				}
			}
		}
		lengths, err = readLengths(ctx, tx, r, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	resp := distribution(lengths, bounds)
	resp.Position, resp.DataSinceTime = r.position, r.since
	if compare != nil {
		was := distribution(before, bounds)
		compare.Parts, compare.Count, compare.Total, compare.Median, compare.P90, compare.Greatest = was.GetParts(), was.GetCount(), was.GetTotal(), was.GetMedian(), was.GetP90(), was.GetGreatest()
		resp.Compare = compare
	}
	return resp, nil
}

// readLengths are how long those used something who had anything open in a period.
func readLengths(ctx context.Context, tx pgx.Tx, r *report, req *meteringv1.QueryDistributionRequest) ([]int64, error) {
	by, id := byPrincipal, func(k groupKey) contract.ID { return k.principal }
	if req.GetGroupBy() == meteringv1.GroupBy_GROUP_BY_MACHINE {
		by, id = byMachine, func(k groupKey) contract.ID { return k.machine }
	}
	groups, _, err := readRanked(ctx, tx, r.caller.Account, period{r.from, r.to}, &summary{by: by, filter: r.filter, merged: r.merged})
	if err != nil {
		return nil, err
	}
	open, times := make(map[contract.ID]int64), make(map[contract.ID]int64)
	for _, g := range groups {
		open[id(g.key)] += g.totals.Open().Milliseconds()
		times[id(g.key)] += g.totals.Millis[busyIndex]
	}
	lengths := make([]int64, 0, len(times))
	for who, ms := range times {
		switch {
		case open[who] == 0: // something was counted of them, at a moment of no length
		case req.GetOpen():
			lengths = append(lengths, open[who])
		default:
			lengths = append(lengths, ms)
		}
	}
	return lengths, nil
}

// distribution parts lengths at bounds.
func distribution(lengths, bounds []int64) *meteringv1.QueryDistributionResponse {
	slices.Sort(lengths)
	resp := &meteringv1.QueryDistributionResponse{Count: int64(len(lengths))}
	var total, from int64
	rest := lengths
	for i := range len(bounds) + 1 {
		part := &meteringv1.DistributionPart{From: millisSpan(from)}
		n := len(rest)
		if i < len(bounds) {
			from = bounds[i]
			part.To = millisSpan(from)
			n, _ = slices.BinarySearch(rest, from)
		}
		var sum int64
		for _, ms := range rest[:n] {
			sum += ms
		}
		total += sum
		part.Count, part.Total = int64(n), millisSpan(sum)
		resp.Parts = append(resp.Parts, part)
		rest = rest[n:]
	}
	// The smallest that at least so many of a hundred have at most.
	rank := func(percent int) int64 {
		if len(lengths) == 0 {
			return 0
		}
		return lengths[(len(lengths)*percent+99)/100-1]
	}
	resp.Total, resp.Median, resp.P90, resp.Greatest = millisSpan(total), millisSpan(rank(50)), millisSpan(rank(90)), millisSpan(rank(100))
	return resp
}
