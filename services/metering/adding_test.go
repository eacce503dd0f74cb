package metering

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestAddingFindsRowsByTheirKeys holds what keeps the projection's pace, from the
// first batch into empty tables on: a batch reads the rows that it is about by their
// keys, and no others, whatever the planner knows of the tables and whenever it made
// its plans.
func TestAddingFindsRowsByTheirKeys(t *testing.T) {
	for name, batches := range map[string][]int{
		"little, then more": {1, 10, 100, 1000, 1000, 1000},
		"much at once":      {3000, 100, 500, 500},
	} {
		t.Run(name, func(t *testing.T) {
			stores := openStores(t)
			p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
			usage := someDays(4200)
			for n, size := range batches {
				if n == len(batches)-1 {
					// Its plans are made anew, of tables that are known.
					if _, err := stores.Views.Projector.Exec(t.Context(), "ANALYZE cell, document_cell, application_cell, instance, document"); err != nil {
						t.Fatal(err)
					}
				}
				checkReads(t, stores, p, usage[:size])
				usage = usage[size:]
			}
		})
	}
}

// someDays are events of a company's days in the order in which they would come,
// some of them of documents.
func someDays(events int) []agentlog.Usage {
	rnd := rand.New(rand.NewPCG(1, 1))
	account := resource.NewID()
	var usage []agentlog.Usage
	for day := 0; len(usage) < events; day++ {
		for person := range 60 {
			usage = workday(rnd, account, person, 50, time.Date(2026, 3, 2+day, 0, 0, 0, 0, time.UTC), 5, usage)
		}
	}
	slices.SortFunc(usage, func(a, b agentlog.Usage) int { return int(a.AtUTCMillis - b.AtUTCMillis) })
	for i := range usage {
		if i%4 == 0 {
			usage[i].Document = idAt('d', i%50)
		}
	}
	return usage[:events]
}

// checkReads adds up a batch and looks what PostgreSQL has read for it.
func checkReads(t *testing.T, stores *Stores, p *usageProjection, usage []agentlog.Usage) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), stores.Views.Projector, func(tx pgx.Tx) error {
		before, err := readsOf(t.Context(), tx)
		if err != nil {
			return err
		}
		if err := p.apply(t.Context(), tx, &agentlog.Facts{Usage: usage}); err != nil {
			return err
		}
		after, err := readsOf(t.Context(), tx)
		if err != nil {
			return err
		}
		for table, rows := range map[string]int{
			"cell": len(p.cells), "document_cell": len(p.documents), "application_cell": len(p.applications), "instance": len(p.instances), "document": len(p.opened),
		} {
			// One row for each, and one of each person's for how far theirs reach.
			most := int64(rows + len(usage))
			for read, tuples := range after {
				tuples -= before[read]
				if !strings.HasPrefix(read, table+" ") || tuples == 0 {
					continue
				}
				if by := strings.TrimPrefix(read, table+" "); by != table+"_pkey" || tuples > most {
					t.Errorf("%d events are %d rows of %s: %d were read by %q", len(usage), rows, table, tuples, by)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readsOf are the rows that this session has read since some moment, by table and
// index; what was read without an index stands under the table's own name.
func readsOf(ctx context.Context, tx pgx.Tx) (map[string]int64, error) {
	rows, err := tx.Query(ctx, `
		SELECT c.relname || ' ' || r.relname, pg_stat_get_xact_tuples_returned(r.oid)
		FROM pg_class AS c JOIN pg_class AS r ON r.oid = c.oid OR r.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = c.oid)
		WHERE c.relnamespace = current_schema::regnamespace AND c.relkind = 'r'`)
	if err != nil {
		return nil, err
	}
	reads := make(map[string]int64)
	var name string
	var tuples int64
	_, err = pgx.ForEachRow(rows, []any{&name, &tuples}, func() error { reads[name] = tuples; return nil })
	return reads, err
}
