package metering

import (
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestAccountsAreWalledOff walks every table of the service: none stands open, and
// an account that has nothing reads nothing, from tables that are full.
func TestAccountsAreWalledOff(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 11))
	o := newOffice(rnd, 2, 60)
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	if err := s.WaitForUsage(t.Context(), o.publish(t, nc, rnd, o.frames(rnd, 20), 3)); err != nil {
		t.Fatal(err)
	}
	for _, store := range []*postgres.Store{s.stores.Views, s.stores.Secrets, s.stores.Files} {
		if err := store.CheckWalls(t.Context()); err != nil {
			t.Error(err)
		}
	}
	full := 0
	tables, err := s.stores.Views.Projector.Query(t.Context(), `SELECT c.table_name::text FROM information_schema.columns AS c
		JOIN information_schema.tables AS t USING (table_schema, table_name)
		WHERE c.table_schema = $1 AND c.column_name = 'account_id' AND t.table_type = 'BASE TABLE'`, s.stores.Views.Schema)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(tables, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	rows := func(tx pgx.Tx, table string) (n int) {
		if err := tx.QueryRow(t.Context(), "SELECT count(*) FROM "+pgx.Identifier{table}.Sanitize()).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, table := range names {
		if err := s.stores.Views.InAccount(t.Context(), resource.NewID(), func(tx pgx.Tx) error {
			if n := rows(tx, table); n != 0 {
				t.Errorf("a stranger reads %d rows of %s", n, table)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.stores.Views.InAccount(t.Context(), o.account, func(tx pgx.Tx) error {
			if rows(tx, table) > 0 {
				full++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if full < 8 {
		t.Fatalf("only %d of %v hold anything: the test proves little", full, names)
	}
}
