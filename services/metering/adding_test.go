package metering

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestAddingFindsRowsByTheirKeys holds what keeps the projection's pace from falling
// with the length of the log: adding a batch reads the rows that it is about by
// their keys, whatever the planner thinks of the tables.
func TestAddingFindsRowsByTheirKeys(t *testing.T) {
	stores := openStores(t)
	statements := map[string]string{
		"cell": addCellSQL, "document_cell": addDocumentCellSQL, "application_cell": addApplicationCellSQL, "instance": addInstanceSQL,
	}
	explain := func(ctx context.Context, tx pgx.Tx, table, when string) {
		rows, err := tx.Query(ctx, "EXPLAIN "+statements[table])
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "using "+table+"_pkey on "+table+" c") {
			t.Errorf("%s, %s:\n%s", table, when, plan)
		}
	}
	err := pgx.BeginFunc(t.Context(), stores.Views.Projector, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), stageSQL); err != nil {
			return err
		}
		for table := range statements {
			explain(t.Context(), tx, table, "both empty")
			columns := columnsOf(t, tx, table)
			if _, err := tx.Exec(t.Context(), fillSQL("stage_"+table, columns, 40_000)); err != nil {
				return err
			}
			explain(t.Context(), tx, table, "many rows for a table that was empty")
			if _, err := tx.Exec(t.Context(), fillSQL(table, columns, 2_000)); err != nil {
				return err
			}
			explain(t.Context(), tx, table, "many rows for a small table")
			if _, err := tx.Exec(t.Context(), "ANALYZE "+table); err != nil {
				return err
			}
			explain(t.Context(), tx, table, "many rows for a small table that is known")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

type column struct{ Name, Type string }

func columnsOf(t *testing.T, tx pgx.Tx, table string) []column {
	t.Helper()
	rows, err := tx.Query(t.Context(), "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0", table)
	if err != nil {
		t.Fatal(err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		t.Fatal(err)
	}
	return columns
}

// fillSQL inserts so many rows of different keys.
func fillSQL(table string, columns []column, rows int) string {
	var names, values []string
	if strings.HasPrefix(table, "stage_") {
		names, values = append(names, "n"), append(values, "i")
	}
	for _, c := range columns {
		value := "i"
		switch c.Type {
		case "uuid":
			value = "md5(i::text)::uuid"
		case "boolean":
			value = "false"
		case "smallint":
			value = "i % 4"
		}
		names, values = append(names, c.Name), append(values, value)
	}
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM generate_series(1, %d) AS i", table, strings.Join(names, ", "), strings.Join(values, ", "), rows)
}
