package metering

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
)

// walk deals out a summary in parts, in the order of its groups, so that a page
// reads little more than what it shows. It goes along two axes: the buckets of
// time, and within each the people or the machines. How many groups a part makes
// is foretold from how much use there is, and from what the parts before have made.
type walk struct {
	base cellQuery
	// ids are the people, or machines, that a part may hold some of; nil where
	// groups do not come in their order.
	ids []contract.ID
	// members are the principals that each of ids is about.
	members  map[contract.ID][][16]byte
	machines bool
	timed    bool
	// leads: groups come in the order of ids.
	leads bool

	// bucket and id are where the next part begins.
	bucket, id int
	// known are the ids up to which it is known who has any use of the applications
	// asked for; those who have none are gone from ids.
	known int
	// seen are the buckets up to which it is known where there is any use; used are
	// those that have some, from the next part on. Neither is kept where there are
	// few people: their rows say as much as those of the company.
	looks  bool
	seen   int
	window int
	used   []usedBucket

	// rate is how many groups a weight of one makes.
	rate                float64
	readWeight, made    float64
	partWeight, largest float64
}

// usedBucket is a bucket with use: how many hours of instances.
type usedBucket struct {
	bucket int
	weight float64
}

// fewPeople are so many that reading their rows costs less than looking first
// where there are any.
const fewPeople = 16

// ample is by how much a part is larger than foretold, since one more costs a turn.
const ample = 1.15

func newWalk(q *summary, base cellQuery, who audience) *walk {
	w := &walk{base: base, timed: q.by&byTime != 0, window: 24}
	var from contract.ID
	switch {
	case q.by&byPrincipal != 0:
		w.ids, w.members = q.merged.persons(who.principals)
		if q.after != nil {
			from = q.after.principal
		}
	case q.by&byMachine != 0:
		w.ids, w.members, w.machines = slices.Clone(who.machines), who.users, true
		if q.after != nil {
			from = q.after.machine
		}
	}
	if q.after != nil {
		if w.timed {
			w.bucket, _ = slices.BinarySearchFunc(base.buckets, q.after.bucket, func(b bucket, q quarter) int { return cmp.Compare(b.from, q) })
		}
		w.id, _ = slices.BinarySearchFunc(w.ids, from, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
	}
	w.leads = !w.timed && q.by&(byPrincipal|byMachine) != 0
	w.looks = w.timed && base.narrow && len(base.principals) > fewPeople
	w.seen, w.known = w.bucket, w.id
	w.rate = usualRate(q.by, q.grain, w.looks, len(base.filter.applications))
	return w
}

// usualRate is what is supposed before anything was read: how many groups there
// are to an hour of instances, to a bucket, or to a person. wanted is how many
// applications are asked for, 0 for all.
func usualRate(by dimension, g grain, looks bool, wanted int) float64 {
	applications := by&(byApplication|byDocument) != 0
	// Who uses one of a few applications rarely has two of them open.
	alone := applications || wanted > 0 && wanted <= 4
	switch {
	case looks && g == grainHour && alone:
		return 1
	case looks && g == grainHour:
		return 0.25
	case looks && alone:
		return 0.1
	case looks:
		return 0.03
	case applications && wanted > 0:
		return float64(wanted)
	case applications:
		return 8
	}
	return 1
}

// look finds the next buckets that anybody has used, in the rows by application:
// a company's nights and week-ends are not asked for person by person.
func (w *walk) look(ctx context.Context, tx pgx.Tx, account contract.ID) error {
	for w.looks && len(w.used) == 0 && w.seen < len(w.base.buckets) {
		end := min(len(w.base.buckets), w.seen+w.window)
		found, err := readCells(ctx, tx, account, cellQuery{
			by: byTime, filter: filter{applications: w.base.filter.applications}, documents: w.base.documents, buckets: w.base.buckets[w.seen:end],
		})
		if err != nil {
			return err
		}
		for _, g := range found {
			at, _ := slices.BinarySearchFunc(w.base.buckets, g.key.bucket, func(b bucket, q quarter) int { return cmp.Compare(b.from, q) })
			w.used = append(w.used, usedBucket{at, max(0.01, g.totals.Open().Hours())})
		}
		w.seen = end
		if len(found) == 0 {
			w.window *= 2
		}
	}
	if w.looks && len(w.used) > 0 && w.used[0].bucket != w.bucket {
		w.bucket, w.id = w.used[0].bucket, 0
	}
	for !w.timed && len(w.base.filter.applications) > 0 && w.known-w.id < manyPeople && w.known < len(w.ids) {
		if err := w.forgetIdle(ctx, tx, account); err != nil {
			return err
		}
	}
	return nil
}

// manyPeople are looked at in one turn, for whether they have any use.
const manyPeople = 128

// forgetIdle drops those of the next ids that have not used the applications asked
// for: to find that out takes one descent of the key for each, to add up their
// nothing, seven.
func (w *walk) forgetIdle(ctx context.Context, tx pgx.Tx, account contract.ID) error {
	end := min(len(w.ids), w.known+2*manyPeople)
	part := w.base
	w.only(&part, w.known, end)
	users, err := readUsers(ctx, tx, account, &part)
	if err != nil {
		return err
	}
	used := make(map[contract.ID]bool, len(users))
	for _, u := range users {
		used[u] = true
	}
	kept := w.ids[:w.known]
	for _, id := range w.ids[w.known:end] {
		if slices.ContainsFunc(w.members[id], func(p [16]byte) bool { return used[p] }) {
			kept = append(kept, id)
		}
	}
	w.known = len(kept)
	w.ids = append(kept, w.ids[end:]...)
	return nil
}

// readUsers returns those of a part's people that can have rows in it.
func readUsers(ctx context.Context, tx pgx.Tx, account contract.ID, part *cellQuery) ([][16]byte, error) {
	from, to := part.buckets[0].from, part.buckets[len(part.buckets)-1].to
	l := levelDay
	if to-from > levelWidths[levelSixteenDays]/4 {
		l = levelSixteenDays
	}
	table := "cell"
	if part.documents {
		table = "document_cell"
	}
	sql := "SELECT p.id FROM unnest($2::uuid[]) AS p (id) WHERE EXISTS (SELECT FROM " + table + ` AS c
		WHERE c.account_id = $1::uuid AND c.level = $3 AND c.principal_id = p.id AND c.quarter >= $4 AND c.quarter < $5`
	args := []any{account, part.principals, int16(l), int32(l.start(from)), int32(to)}
	if len(part.filter.applications) > 0 {
		args = append(args, raw(part.filter.applications))
		sql += " AND c.application_id = ANY ($6::uuid[])"
	}
	rows, err := tx.Query(ctx, sql+" OFFSET 0)", args...)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return users, nil
}

// next returns the next part for so many groups more.
func (w *walk) next(wanted int) (cellQuery, bool) {
	if w.looks && w.largest == 0 && len(w.used) > 0 && len(w.base.filter.applications) == 0 {
		// In a bucket that is as busy as this everybody has a group.
		if hours := w.used[0].weight; hours > float64(len(w.ids)) {
			w.rate = max(w.rate, float64(len(w.ids))/hours)
		}
	}
	weight := float64(wanted) * ample / w.rate
	if w.largest > 0 {
		weight = min(weight, 4*w.largest)
	}
	part := w.base
	switch {
	case w.looks:
		if len(w.used) == 0 {
			return part, false
		}
		first := w.used[0].weight
		if len(w.ids) > 0 && (w.id > 0 || first > weight) {
			n := max(fewPeople, int(weight/first*float64(len(w.ids))))
			if w.id == len(w.ids) { // the groups of the page before ended with the last one's
				n = 0
			}
			end := min(len(w.ids), w.id+n)
			w.partWeight = first * float64(end-w.id) / float64(len(w.ids))
			part.buckets = part.buckets[w.bucket : w.bucket+1]
			w.only(&part, w.id, end)
			if w.id = end; end == len(w.ids) {
				w.used, w.id = w.used[1:], 0
			}
			return part, true
		}
		n := 0
		w.partWeight = 0
		part.buckets = nil
		for n < len(w.used) && (n == 0 || w.partWeight+w.used[n].weight <= weight) {
			part.buckets = append(part.buckets, w.base.buckets[w.used[n].bucket])
			w.partWeight += w.used[n].weight
			n++
		}
		w.used = w.used[n:]
		return part, true
	case w.timed:
		if w.bucket >= len(w.base.buckets) {
			return part, false
		}
		end := min(len(w.base.buckets), w.bucket+max(1, int(weight)))
		w.partWeight = float64(end - w.bucket)
		part.buckets = part.buckets[w.bucket:end]
		w.bucket = end
		return part, true
	case w.leads:
		if w.id >= len(w.ids) {
			return part, false
		}
		end := min(len(w.ids), w.id+max(1, int(weight)))
		if len(w.base.filter.applications) > 0 {
			end = min(end, w.known)
		}
		w.partWeight = float64(end - w.id)
		w.only(&part, w.id, end)
		w.id = end
		return part, true
	}
	ok := w.largest == 0
	w.partWeight = 1
	return part, ok
}

// only narrows a part to some of the ids.
func (w *walk) only(part *cellQuery, from, to int) {
	ids := w.ids[from:to]
	if w.machines {
		part.filter.machines = ids
	}
	part.principals = nil
	for _, id := range ids {
		part.principals = append(part.principals, w.members[id]...)
	}
	slices.SortFunc(part.principals, compareRaw)
	part.principals = slices.Compact(part.principals)
}

// learn is told how many groups the last part has made.
func (w *walk) learn(made int) {
	w.largest = max(w.largest, w.partWeight)
	w.readWeight += w.partWeight
	w.made += float64(made)
	if w.readWeight > 0 {
		// Half a group stands for none: the next part is larger, and bounded by next.
		w.rate = max(0.5, w.made) / w.readWeight
	}
}
