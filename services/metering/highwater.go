package metering

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// highWater knows how far in time each person's rows in a table of cells reach.
// What begins behind that cannot be there yet: it is copied into the table as it
// is, which costs half of finding out by inserting. Use that comes in order is all
// of that kind; what comes late takes the other way.
//
// It holds only what is committed; whatever it has forgotten it reads again.
type highWater struct {
	table string
	marks map[personKey]quarter
}

type personKey struct{ account, principal contract.ID }

// maxMarks bounds the people that are remembered.
const maxMarks = 1 << 18

// forget has a person's mark read again, from the next transaction on: rows of
// another name have been moved to theirs.
func (h *highWater) forget(ctx context.Context, k personKey) {
	// Behind what take has arranged for this transaction.
	projection.AfterTx(ctx, func(bool) { delete(h.marks, k) })
}

// take reads the marks of the people that keys are about, and arranges that they
// are moved once the transaction is committed.
func (h *highWater) take(ctx context.Context, tx pgx.Tx, reach map[personKey]quarter) (map[personKey]quarter, error) {
	marks := make(map[personKey]quarter, len(reach))
	var accounts, principals [][16]byte
	for k := range reach {
		if mark, ok := h.marks[k]; ok {
			marks[k] = mark
		} else {
			accounts, principals = append(accounts, k.account), append(principals, k.principal)
		}
	}
	if len(accounts) > 0 {
		rows, err := tx.Query(ctx, `SELECT account, principal, coalesce((
				SELECT max(quarter) FROM `+h.table+` WHERE account_id = account AND level = 0 AND principal_id = principal
			), $3::int4) FROM unnest($1::uuid[], $2::uuid[]) AS u (account, principal)`, accounts, principals, math.MinInt32)
		if err != nil {
			return nil, fmt.Errorf("metering: how far %s reaches: %w", h.table, err)
		}
		var k personKey
		var mark int32
		_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&k.account), (*[16]byte)(&k.principal), &mark}, func() error {
			marks[k] = quarter(mark)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("metering: how far %s reaches: %w", h.table, err)
		}
	}
	// Until the end of the transaction is known nothing is.
	for k := range reach {
		delete(h.marks, k)
	}
	projection.AfterTx(ctx, func(committed bool) {
		if !committed {
			return
		}
		if len(h.marks)+len(reach) > maxMarks {
			clear(h.marks)
		}
		for k, q := range reach {
			h.marks[k] = max(marks[k], q)
		}
	})
	return marks, nil
}

// split tells the rows that cannot be there yet from those that may be, each in the
// order of keys, and arranges that the marks are moved.
func split[K comparable](ctx context.Context, tx pgx.Tx, h *highWater, keys []K, cell func(K) cellKey) (fresh, known []K, err error) {
	if len(keys) == 0 {
		return nil, nil, nil
	}
	reach := make(map[personKey]quarter)
	for _, key := range keys {
		if k := cell(key); k.level == levelQuarter {
			person := personKey{k.account, k.principal}
			if far, ok := reach[person]; !ok || k.quarter > far {
				reach[person] = k.quarter
			}
		}
	}
	marks, err := h.take(ctx, tx, reach)
	if err != nil {
		return nil, nil, err
	}
	fresh = make([]K, 0, len(keys))
	for _, key := range keys {
		k := cell(key)
		// A row of any level that is there begins no later than the one that holds
		// the mark.
		if mark := marks[personKey{k.account, k.principal}]; mark == math.MinInt32 || k.quarter > k.level.start(mark) {
			fresh = append(fresh, key)
		} else {
			known = append(known, key)
		}
	}
	return fresh, known, nil
}
