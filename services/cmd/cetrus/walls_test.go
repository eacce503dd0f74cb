package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
)

// walled looks, behind every service's back, at all tables of the platform's database: none is
// without forced row-level security, and whatever SQL a role writes that answers questions, it
// sees the rows of the account that its transaction names and of no other; of none, where it
// names none. It is the matrix of who sees whose, for raw SQL.
func (i *instance) walled(t *testing.T, accounts ...contract.ID) {
	t.Helper()
	addresses, err := addressesOf(i.dir, "all")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	admin, err := pgx.Connect(ctx, addresses.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.WithoutCancel(ctx))
	type table struct {
		Schema, Name              string
		Forced, HasPolicy, Counts bool
	}
	rows, err := admin.Query(ctx, `SELECT n.nspname::text, c.relname::text, c.relrowsecurity AND c.relforcerowsecurity, EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid),
		EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'account_id' AND NOT a.attisdropped)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		t.Fatal(err)
	}
	rows, err = admin.Query(ctx, `SELECT rolname::text FROM pg_roles WHERE rolname ~ '_(query|own)$' AND rolcanlogin`)
	if err != nil {
		t.Fatal(err)
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	// seen counts the rows of one account and all others in a table: those that a role sees, and
	// those that are there, as of one moment, since the platform goes on writing.
	type counted struct{ own, others int }
	seen := func(role string, at table, named string, account contract.ID) (sees, there counted, err error) {
		err = pgx.BeginTxFunc(ctx, admin, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
			count := func(into *counted) error {
				return tx.QueryRow(ctx, "SELECT count(*) FILTER (WHERE account_id = $1), count(*) FILTER (WHERE account_id <> $1) FROM "+pgx.Identifier{at.Schema, at.Name}.Sanitize(),
					[16]byte(account)).Scan(&into.own, &into.others)
			}
			if err := count(&there); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "SELECT set_config('cetrus.account', $1, true)", named); err != nil {
				return err
			}
			return count(&sees)
		})
		return sees, there, err
	}
	services, full, cells := map[string]bool{}, 0, 0
	for _, at := range tables {
		if !at.Forced || !at.HasPolicy {
			t.Errorf("%s.%s stands open: forced %t, a policy %t", at.Schema, at.Name, at.Forced, at.HasPolicy)
		}
		if !at.Counts {
			continue
		}
		for _, role := range roles {
			var may bool
			if err := admin.QueryRow(ctx, "SELECT has_schema_privilege($1, $2, 'USAGE') AND has_table_privilege($1, $3, 'SELECT')", role, at.Schema, pgx.Identifier{at.Schema, at.Name}.Sanitize()).Scan(&may); err != nil {
				t.Fatal(err)
			}
			if !may {
				continue
			}
			service, _, _ := strings.Cut(role, "_")
			services[service] = true
			for _, account := range accounts {
				cells++
				sees, there, err := seen(role, at, account.String(), account)
				if err != nil || sees.others != 0 {
					t.Errorf("%s sees %d rows of others in %s.%s: %v", role, sees.others, at.Schema, at.Name, err)
				}
				if strings.HasSuffix(role, "_query") && sees.own != there.own {
					t.Errorf("%s sees %d of the account's %d rows in %s.%s", role, sees.own, there.own, at.Schema, at.Name)
				}
				if there.others > 0 {
					full++
				}
				if sees, _, err := seen(role, at, "", account); err != nil || sees != (counted{}) {
					t.Errorf("%s sees %d rows in %s.%s for nobody: %v", role, sees.own+sees.others, at.Schema, at.Name, err)
				}
			}
		}
	}
	for _, service := range []string{"metering", "identity", "identitysecrets", "audit"} {
		if !services[service] {
			t.Errorf("the service %s has no role that asks, of %v", service, slices.Sorted(maps.Keys(services)))
		}
	}
	if full < 15 {
		t.Errorf("only %d of %d cells had rows of others to hide: the test proves little", full, cells)
	}
	fmt.Printf("walls matrix: %d tables, %d cells of raw SQL, %d with rows to hide\n", len(tables), cells, full)
}
