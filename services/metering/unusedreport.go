package metering

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

var (
	//go:embed sql/known.sql
	knownSQL string
	//go:embed sql/last_quarters.sql
	lastQuartersSQL string
)

const (
	// busyIndex is where busy time stands in Totals.
	busyIndex = int(usagev1.Attention_ATTENTION_BUSY) - 1
	// noQuarter is none.
	noQuarter = quarter(-1)
	// farQuarter is behind all that anybody did.
	farQuarter = (1 << 30) / (16 * 96) * (16 * 96)
)

// knownUser is an application and who has opened it at some time. When it was last open and last busy, and totals, are
// read of those that are told.
type knownUser struct {
	key        groupKey
	open, busy quarter
	totals     Totals
	// busyFor is how long it was in the period, and lately whether since the moment that the question names.
	busyFor time.Duration
	lately  bool
	// pairs are those that stand in the tables.
	pairs []groupKey
}

// knownQuery asks who has opened what.
type knownQuery struct {
	account contract.ID
	period
	// kept is before when nothing is told.
	kept   quarter
	by     dimension
	filter filter
	people merged
	memory *memory
}

// key is as much of a pair as is asked for.
func (q *knownQuery) key(k groupKey) groupKey {
	k.principal = q.people.of(k.principal)
	if q.by&byPrincipal == 0 {
		k.principal = contract.ID{}
	}
	if q.by&byMachine == 0 {
		k.machine = contract.ID{}
	}
	return k
}

// read reads who has opened what, of what a filter leaves. since is since when it matters whether it was busy; none: it does
// not.
func (q *knownQuery) read(ctx context.Context, tx pgx.Tx, since quarter) ([]*knownUser, error) {
	who, err := readAudience(ctx, tx, q.account, &summary{by: byPrincipal, filter: q.filter})
	if err != nil || len(who.principals) == 0 {
		return nil, err
	}
	if _, err := tx.Exec(ctx, tuneForCells); err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	narrow := func(ids []contract.ID) any {
		if len(ids) == 0 {
			return nil
		}
		return raw(ids)
	}
	rows, err := tx.Query(ctx, knownSQL, q.account, who.principals, narrow(q.filter.applications), narrow(q.filter.machines), int32(q.kept))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	index := make(map[groupKey]*knownUser)
	of := func(k groupKey) *knownUser {
		k = q.key(k)
		if index[k] == nil {
			index[k] = &knownUser{key: k, open: noQuarter, busy: noQuarter}
		}
		return index[k]
	}
	var k groupKey
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&k.principal), (*[16]byte)(&k.application), (*[16]byte)(&k.machine)}, func() error {
		n := of(k)
		n.pairs = append(n.pairs, k)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	busy := func(from, to quarter, add func(*knownUser, time.Duration)) error {
		times := timesQuery{
			account: q.account, period: period{from, to}, filter: q.filter, people: q.people, principals: who.principals, by: q.by | byApplication, memory: q.memory,
		}
		sums, err := times.read(ctx, tx)
		for k, t := range sums {
			add(of(k), t.Of(usagev1.Attention_ATTENTION_BUSY))
		}
		return err
	}
	err = busy(q.from, q.to, func(n *knownUser, t time.Duration) { n.busyFor += t })
	if err == nil && since != noQuarter {
		err = busy(max(since, q.kept), farQuarter, func(n *knownUser, t time.Duration) { n.lately = n.lately || t > 0 })
	}
	if err != nil {
		return nil, err
	}
	all := make([]*knownUser, 0, len(index))
	for _, n := range index {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *knownUser) int { return compareKnown(a.key, b.key) })
	return all, nil
}

// tell reads what is told of some.
func (q *knownQuery) tell(ctx context.Context, tx pgx.Tx, of []*knownUser) error {
	if len(of) == 0 {
		return nil
	}
	index := make(map[groupKey]*knownUser)
	var numbers []int32
	var principals, applications, machines []contract.ID
	for i, n := range of {
		index[n.key] = n
		for _, p := range n.pairs {
			numbers, principals, applications, machines = append(numbers, int32(i)), append(principals, p.principal), append(applications, p.application), append(machines, p.machine)
		}
	}
	rows, err := tx.Query(ctx, lastQuartersSQL, q.account, numbers, raw(principals), raw(applications), raw(machines), int32(q.kept))
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	var i int32
	var open, busy quarter
	if _, err = pgx.ForEachRow(rows, []any{&i, (*int32)(&open), (*int32)(&busy)}, func() error {
		of[i].open, of[i].busy = max(of[i].open, open), max(of[i].busy, busy)
		return nil
	}); err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	each := func(ids []contract.ID) []contract.ID {
		slices.SortFunc(ids, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
		return slices.Compact(ids)
	}
	theirs := q.filter
	theirs.applications = each(applications)
	groups, err := readCells(ctx, tx, q.account, cellQuery{
		by: byPrincipal | byMachine | byApplication, filter: theirs, merged: q.people, buckets: []bucket{{from: q.from, to: q.to}}, narrow: true, principals: raw(each(principals)),
	})
	for _, g := range groups {
		if n := index[q.key(g.key)]; n != nil {
			n.totals.Add(g.totals)
		}
	}
	return err
}

// compareKnown orders by application first: that is what is decided upon.
func compareKnown(a, b groupKey) int {
	return cmp.Or(bytes.Compare(a.application[:], b.application[:]), bytes.Compare(a.principal[:], b.principal[:]), bytes.Compare(a.machine[:], b.machine[:]))
}

func (a *reportAPI) ListUnused(ctx context.Context, req *meteringv1.ListUnusedRequest) (*meteringv1.ListUnusedResponse, error) {
	const op = "metering.ListUnused"
	var wrong []errs.Field
	for path, d := range map[string]*durationpb.Duration{"not_for": req.GetNotFor(), "busy_less_than": req.GetBusyLessThan()} {
		if d != nil && (d.CheckValid() != nil || d.AsDuration() < 0) {
			wrong = append(wrong, errs.Field{Path: path, Description: "is not a time of 0s or more"})
		}
	}
	r, err := reportOf(ctx, op, req, wrong...)
	if err != nil {
		return nil, err
	}
	by := byPrincipal
	switch req.GetBy() {
	case meteringv1.UnusedBy_UNUSED_BY_MACHINE:
		by = byMachine
	case meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE:
		by = byPrincipal | byMachine
	default:
	}
	if err := a.viewed(ctx, r, req, by&byNamed != 0); err != nil {
		return nil, err
	}
	question := questionOf(r.caller.Account, &meteringv1.ListUnusedRequest{
		StartTime: req.GetStartTime(), EndTime: req.GetEndTime(), Filter: req.GetFilter(), By: req.GetBy(), NotFor: req.GetNotFor(), BusyLessThan: req.GetBusyLessThan(),
	})
	after, err := readKnownToken(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	r.byCells = true
	resp := &meteringv1.ListUnusedResponse{}
	var page []*knownUser
	var before map[groupKey]*Totals
	err = a.read(ctx, r, "UTC", func(tx pgx.Tx) error {
		since := noQuarter
		if req.GetNotFor() != nil {
			since = busySince(r.to, req.GetNotFor().AsDuration())
		}
		q := knownQuery{account: r.caller.Account, period: period{r.from, r.to}, kept: r.kept, by: by, filter: r.filter, people: r.merged, memory: a.service.memory}
		all, err := q.read(ctx, tx, since)
		if err != nil {
			return err
		}
		if other, kept := r.beside(); other != nil {
			resp.Compare = &meteringv1.UnusedComparison{StartTime: other.startTime(), EndTime: other.endTime()}
			if kept {
				if before, err = compareUnused(ctx, tx, other, by, req, resp.GetCompare()); err != nil {
					return err
				}
			}
		}
		size := resource.PageSize(req.GetPageSize(), defaultPageSize)
		for _, n := range all {
			resp.TotalKnown++
			if !n.unused(req) {
				continue
			}
			resp.TotalUnused++
			if after != nil && compareKnown(n.key, *after) <= 0 {
				continue
			}
			if len(page) == size {
				resp.NextPageToken = knownToken(question, page[size-1].key)
				size = -1 // the rest is counted only
			}
			if size > 0 {
				page = append(page, n)
				r.names.want(n.key.application, n.key.principal, n.key.machine, contract.ID{})
			}
		}
		return q.tell(ctx, tx, page)
	})
	if err != nil {
		return nil, err
	}
	resp.Position, resp.DataSinceTime = r.position, r.since
	now := time.Now()
	for _, n := range page {
		m := &meteringv1.UnusedApplication{
			ApplicationId: n.key.application.String(), ApplicationName: r.names.applications[n.key.application],
			PrincipalId: idText(n.key.principal), PrincipalName: r.names.principals[n.key.principal],
			MachineId: idText(n.key.machine), MachineName: r.names.machines[n.key.machine],
			Totals: n.totals.message(), LastBusyTime: n.busy.end(now), LastOpenTime: n.open.end(now),
		}
		if r.compare != nil {
			t := Totals{}
			if of := before[n.key]; of != nil {
				t = *of
			}
			m.CompareTotals = t.message()
		}
		resp.Unused = append(resp.Unused, m)
	}
	return resp, nil
}

// compareUnused counts who would have been listed of another period, among those who had opened an application
// by its end, and tells what each had in it.
func compareUnused(ctx context.Context, tx pgx.Tx, other *report, by dimension, req *meteringv1.ListUnusedRequest, told *meteringv1.UnusedComparison) (map[groupKey]*Totals, error) {
	who, err := readAudience(ctx, tx, other.caller.Account, &summary{by: byPrincipal, filter: other.filter})
	if err != nil {
		return nil, err
	}
	read := func(from quarter) (map[groupKey]*Totals, error) {
		groups, err := readCells(ctx, tx, other.caller.Account, cellQuery{
			by: byPrincipal | byMachine | byApplication, filter: other.filter, merged: other.merged,
			buckets: []bucket{{from: max(from, other.kept), to: other.to}}, narrow: true, principals: who.principals,
		})
		sums := make(map[groupKey]*Totals)
		for _, g := range groups {
			g.key.bucket = 0
			if by&byPrincipal == 0 {
				g.key.principal = contract.ID{}
			}
			if by&byMachine == 0 {
				g.key.machine = contract.ID{}
			}
			if sums[g.key] == nil {
				sums[g.key] = &Totals{}
			}
			sums[g.key].Add(g.totals)
		}
		return sums, err
	}
	known, err := read(0)
	if err != nil {
		return nil, err
	}
	within, err := read(other.from)
	if err != nil {
		return nil, err
	}
	lately := within
	if req.GetNotFor() != nil {
		if lately, err = read(busySince(other.to, req.GetNotFor().AsDuration())); err != nil {
			return nil, err
		}
	}
	busy := func(sums map[groupKey]*Totals, k groupKey) time.Duration {
		if sums[k] == nil {
			return 0
		}
		return sums[k].Of(usagev1.Attention_ATTENTION_BUSY)
	}
	for k := range known {
		told.TotalKnown++
		long := busy(lately, k) == 0 && (req.GetNotFor() != nil || req.GetBusyLessThan() == nil)
		if long || req.GetBusyLessThan() != nil && busy(within, k) < req.GetBusyLessThan().AsDuration() {
			told.TotalUnused++
		}
	}
	return within, nil
}

// busySince is the first quarter-hour that does not end longer than a time before a moment.
func busySince(at quarter, before time.Duration) quarter {
	return quarter(max(0, int64(at)-1-before.Milliseconds()/quarterMillis))
}

// end is the end of a quarter-hour, or now where that is still to come; none of none.
func (q quarter) end(now time.Time) *timestamppb.Timestamp {
	if q == noQuarter {
		return nil
	}
	end := (q + 1).time()
	if end.After(now) {
		end = now
	}
	return timestamppb.New(end)
}

// unused tells whether it is listed.
func (n *knownUser) unused(req *meteringv1.ListUnusedRequest) bool {
	if req.GetNotFor() == nil && req.GetBusyLessThan() == nil {
		return n.busyFor == 0
	}
	return req.GetNotFor() != nil && !n.lately || req.GetBusyLessThan() != nil && n.busyFor < req.GetBusyLessThan().AsDuration()
}

// knownToken is the page token behind a pair, bound to the question.
func knownToken(question string, k groupKey) string {
	digest := sha256.Sum256([]byte(question))
	return base64.RawURLEncoding.EncodeToString(slices.Concat(digest[:8], k.application[:], k.principal[:], k.machine[:]))
}

func readKnownToken(op, question, token string) (*groupKey, error) {
	if token == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 8+3*16 {
		return nil, badToken(op)
	}
	if digest := sha256.Sum256([]byte(question)); [8]byte(b) != [8]byte(digest[:8]) {
		return nil, foreignToken(op)
	}
	return &groupKey{application: contract.ID(b[8:24]), principal: contract.ID(b[24:40]), machine: contract.ID(b[40:])}, nil
}
