package metering

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// fewTimes are so many people that their cells are read sooner than what memory has of everybody.
const fewTimes = 100

// timeOf is for how long somebody had an application open at a machine, by attention.
type timeOf struct {
	principal, machine, application contract.ID
	millis                          [attentions]int64
}

// dayTimes are those of a day of UTC, of everybody.
type dayTimes []timeOf

// bytes is how much memory they take.
func (d dayTimes) bytes() int { return 100 + (3*16+8*attentions)*cap(d) }

// timesOfDay makes them of what was used; cells of the day say the same.
func timesOfDay() making[dayTimes] {
	type timesKind struct{}
	return making[dayTimes]{kind: timesKind{}, size: dayTimes.bytes, of: func(from, to int64, all []used) dayTimes {
		type key struct{ principal, machine, application contract.ID }
		index := make(map[key]int)
		var times dayTimes
		for i := range all {
			n := &all[i]
			k := key{n.principal, n.machine, n.application}
			at, known := index[k]
			for _, u := range n.uses {
				millis := min(u.to, to) - max(u.from, from)
				if millis <= 0 {
					continue
				}
				if !known {
					at, known = len(times), true
					index[k] = at
					times = append(times, timeOf{principal: k.principal, machine: k.machine, application: k.application})
				}
				times[at].millis[u.attention-1] += millis
			}
		}
		return slices.Clip(times)
	}}
}

// timesQuery asks for instance time of a period by a part of a key: of what a filter leaves, whose principals are known.
type timesQuery struct {
	account contract.ID
	period
	filter     filter
	people     merged
	principals [][16]byte
	by         dimension
	memory     *memory
}

// read adds time up, of all attentions. Days that memory has are taken from there, and the rest of the period is read from
// cells.
func (q *timesQuery) read(ctx context.Context, tx pgx.Tx) (map[groupKey]*Totals, error) {
	if q.from >= q.to {
		return nil, nil
	}
	sums := make(map[groupKey]*Totals)
	of := func(k groupKey) *Totals {
		t := sums[k]
		if t == nil {
			t = &Totals{}
			sums[k] = t
		}
		return t
	}
	known, err := q.remembered(ctx, tx)
	if err != nil {
		return nil, err
	}
	left := func(asked []contract.ID) func(contract.ID) bool {
		if len(asked) == 0 {
			return func(contract.ID) bool { return true }
		}
		of := make(map[contract.ID]bool, len(asked))
		for _, id := range asked {
			of[id] = true
		}
		return func(id contract.ID) bool { return of[id] }
	}
	// A filter by person holds all principals of theirs.
	someone, somewhere, something := left(q.filter.principals), left(q.filter.machines), left(q.filter.applications)
	rest := bucket{from: q.from, to: q.to}
	var buckets []bucket
	for _, d := range known {
		if d.from > rest.from {
			buckets = append(buckets, bucket{from: rest.from, to: d.from})
		}
		rest.from = d.from + levelWidths[levelDay]
		for i := range d.times {
			t := &d.times[i]
			if !someone(t.principal) || !somewhere(t.machine) || !something(t.application) {
				continue
			}
			sum := of(q.by.keyOf(t.principal, t.machine, t.application))
			for i, ms := range t.millis {
				sum.Millis[i] += ms
			}
		}
	}
	if rest.from < rest.to {
		buckets = append(buckets, rest)
	}
	groups, err := readCells(ctx, tx, q.account, cellQuery{by: q.by, filter: q.filter, merged: q.people, buckets: buckets, narrow: true, principals: q.principals})
	for _, g := range groups {
		of(g.key).Add(Totals{Millis: g.totals.Millis})
	}
	return sums, err
}

// rememberedDay is a day that begins with a quarter-hour.
type rememberedDay struct {
	from  quarter
	times dayTimes
}

// remembered are the whole days of the period that memory has, in their order. What it has is of everybody, and so is no
// answer to who sees only their own.
func (q *timesQuery) remembered(ctx context.Context, tx pgx.Tx) ([]rememberedDay, error) {
	over := lastOver(time.Now())
	first, last := int32(dayOf((q.from + levelWidths[levelDay] - 1).millis())), int32(dayOf(q.to.millis()))-1
	// Of longer ago memory has nothing.
	last = min(last, over)
	first = max(first, last-aheadTimesDays)
	few := len(q.filter.principals)+len(q.filter.machines) > 0 && len(q.principals) < fewTimes
	if _, own := authn.OwnOnly(ctx); own || few || q.memory == nil || first > last {
		return nil, nil
	}
	days, err := readPrepared(ctx, tx, q.account, first, last)
	if err != nil {
		return nil, err
	}
	kept, err := readHorizons(ctx, tx, q.account)
	if err != nil {
		return nil, err
	}
	asked := usedQuery{account: q.account, horizon: kept.instances}
	people, kind := q.people.fingerprint(), timesOfDay().kind
	var known []rememberedDay
	for _, d := range days {
		begin := int64(d.day) * dayMillis
		part := usedPart{usedQuery: &asked, from: begin, to: begin + dayMillis, prepared: d.prepared}
		if !d.whole {
			continue
		}
		if value, ok := q.memory.get(q.account, *part.madeKey(kind, people)); ok {
			known = append(known, rememberedDay{quarterOf(begin), value.(dayTimes)})
		}
	}
	slices.Reverse(known)
	return known, nil
}
