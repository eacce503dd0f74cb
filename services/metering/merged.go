package metering

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
)

// merged says of principals that were merged whose they are now: the principal that counts
// for the person. Tables keep what agents reported under the principal that they reported,
// so that a merge moves no row, and use that comes later under a merged one is the person's
// too.
type merged map[contract.ID]contract.ID

// readMerged reads them.
func readMerged(ctx context.Context, tx pgx.Tx, account contract.ID) (merged, error) {
	rows, err := tx.Query(ctx, "SELECT principal_id, merged_into FROM principal WHERE account_id = $1::uuid AND merged_into IS NOT NULL", account)
	if err != nil {
		return nil, fmt.Errorf("metering: who was merged: %w", err)
	}
	into := make(merged)
	var id, target contract.ID
	if _, err := pgx.ForEachRow(rows, []any{(*[16]byte)(&id), (*[16]byte)(&target)}, func() error { into[id] = target; return nil }); err != nil {
		return nil, fmt.Errorf("metering: who was merged: %w", err)
	}
	return into.resolved(), nil
}

// resolved follows chains to their ends. Two merges that were decided at the same moment may
// form a ring, since each looked at the other's principal before: its smallest id counts then.
func (m merged) resolved() merged {
	out := make(merged, len(m))
	for id := range m {
		way := []contract.ID{id}
		for {
			next, on := m[way[len(way)-1]]
			if !on {
				break
			}
			if at := slices.Index(way, next); at >= 0 {
				way = append(way, slices.MinFunc(way[at:], func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) }))
				break
			}
			way = append(way, next)
		}
		if last := way[len(way)-1]; last != id {
			out[id] = last
		}
	}
	return out
}

// of is the principal that counts for a person.
func (m merged) of(principal contract.ID) contract.ID {
	if into, ok := m[principal]; ok {
		return into
	}
	return principal
}

// all are the principals of the persons that some principals are of; none for none, which
// means everybody.
func (m merged) all(principals []contract.ID) []contract.ID {
	if len(m) == 0 || len(principals) == 0 {
		return principals
	}
	persons := make(map[contract.ID]bool, len(principals))
	for _, p := range principals {
		persons[m.of(p)] = true
	}
	all := make([]contract.ID, 0, len(principals))
	for p := range persons {
		all = append(all, p)
	}
	for p, into := range m {
		if persons[into] {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
	return all
}

// persons are the persons among principals, in order, and the principals of each.
func (m merged) persons(principals [][16]byte) (persons []contract.ID, of map[contract.ID][][16]byte) {
	of = make(map[contract.ID][][16]byte, len(principals))
	for _, p := range principals {
		person := m.of(p)
		if of[person] == nil {
			persons = append(persons, person)
		}
		of[person] = append(of[person], p)
	}
	slices.SortFunc(persons, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
	return persons, of
}
