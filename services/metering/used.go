package metering

import (
	"context"
	_ "embed"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

//go:embed sql/last_busy.sql
var lastBusySQL string

// used is one instance and what was done with it in a period.
type used struct {
	instance, application, principal, machine, session contract.ID
	opened                                             int64
	// uses are those that overlap the period, whole. Before them stands when it was last busy
	// before the period, if it was.
	uses []use
}

// metric is what one licence stands for.
type metric func(*used) demandKey

// runsOf are the instances as demand under a metric sees them.
func runsOf(all []used, key metric) []run {
	runs := make([]run, len(all))
	for i := range all {
		runs[i] = run{key: key(&all[i]), opened: all[i].opened, uses: all[i].uses}
	}
	return runs
}

// readUsed reads all instances that overlap [from, to), in milliseconds of UTC. What people had
// is that of the persons that they count for; a filter by person holds all principals of theirs.
func readUsed(ctx context.Context, tx pgx.Tx, account contract.ID, from, to int64, f filter, people merged) ([]used, error) {
	// Of everybody, or of one application, use that was at one time lies together:
	// only a few people are asked for one by one.
	who := audience{}
	if len(f.principals)+len(f.machines) > 0 {
		var err error
		if who, err = readAudience(ctx, tx, account, &summary{filter: f}); err != nil {
			return nil, err
		}
		if len(who.principals) == 0 {
			return nil, nil
		}
	}
	index := make(map[contract.ID]int)
	var all []used
	var before [][16]byte
	read := 0
	err := eachInterval(ctx, tx, account, intervalQuery{from: from, to: to, principals: who.principals, filter: f}, func(r *intervalRow) error {
		if read++; read > maxIntervals {
			return errs.New(errs.Exhausted, "metering.readUsed", "", fmt.Sprintf("this is computed from the intervals, and more than %d lie in this period: ask for a shorter one, or for fewer applications", maxIntervals))
		}
		r.principal = people.of(r.principal)
		i, ok := index[r.instance]
		if !ok {
			i = len(all)
			index[r.instance] = i
			all = append(all, used{instance: r.instance, application: r.application, principal: r.principal, machine: r.machine, session: r.session, opened: r.opened})
			if r.opened < from {
				before = append(before, r.instance)
			}
		}
		u := use{
			from: r.from, to: r.to,
			busy:     r.attention == usagev1.Attention_ATTENTION_BUSY,
			timedOut: r.state == usagev1.State_STATE_TIMEOUT,
		}
		// Intervals are cut for reasons that demand does not know: one that goes on
		// as the one before is the same use.
		if n := len(all[i].uses); n > 0 {
			if last := &all[i].uses[n-1]; last.to == u.from && last.busy == u.busy && last.timedOut == u.timedOut {
				last.to = u.to
				return nil
			}
		}
		all[i].uses = append(all[i].uses, u)
		return nil
	})
	if err != nil || len(before) == 0 {
		return all, err
	}
	rows, err := tx.Query(ctx, lastBusySQL, account, before, from, int16(usagev1.Attention_ATTENTION_BUSY))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	var instance contract.ID
	last := use{busy: true}
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&instance), &last.from, &last.to}, func() error {
		n := &all[index[instance]]
		n.uses = slices.Insert(n.uses, 0, last)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return all, nil
}
