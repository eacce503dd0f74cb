package identity

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// TestVerifyFindsWhatIsNotOfTheLog: tables that are as the log has them are found so while the service keeps them,
// and nothing stays of the comparison; a row that somebody has changed, removed or added is named.
func TestVerifyFindsWhatIsNotOfTheLog(t *testing.T) {
	s := running(t)
	account := newAccountOf(t, s, "Acme")
	ctx := as(t.Context(), account)
	if _, err := (&groupAPI{service: s}).CreateGroup(ctx, &identityv1.CreateGroupRequest{Group: &identityv1.Group{DisplayName: "Drafting"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := (&managerAPI{service: s}).CreateManager(ctx, &identityv1.CreateManagerRequest{Manager: &identityv1.Manager{DisplayName: "Berlin"}}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(s.nats)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	last := stream.CachedInfo().State.LastSeq
	different := func() (names []string) {
		t.Helper()
		v, err := Verify(t.Context(), js, s.stores.Views, s.cfg.Operator, func(uint64, uint64) {})
		if err != nil {
			t.Fatal(err)
		}
		if v.Position < last {
			t.Errorf("it was compared at %d, and the log is at %d", v.Position, last)
		}
		rows := int64(0)
		for _, table := range v.Tables {
			rows += table.Rows
			if !table.Same() {
				names = append(names, table.Name)
				if len(table.TooMany)+len(table.Missing) == 0 {
					t.Errorf("nothing is told of %+v", table)
				}
			}
		}
		if rows < 8 {
			t.Errorf("the log has %d rows", rows)
		}
		return names
	}
	for range 2 {
		if got := different(); len(got) > 0 {
			t.Errorf("what nobody has changed differs: %q", got)
		}
	}
	views := s.stores.Views.Projector
	for _, sql := range []string{
		"UPDATE login SET privileges = privileges + 1 WHERE ctid = (SELECT min(ctid) FROM login)",
		"DELETE FROM manager",
		"INSERT INTO login_link SELECT account_id, login_id, account_id, login_id FROM login LIMIT 1",
	} {
		if tag, err := views.Exec(t.Context(), sql); err != nil || tag.RowsAffected() != 1 {
			t.Fatal(tag, err)
		}
	}
	if got := different(); !slices.Equal(got, []string{"login", "login_link", "manager"}) {
		t.Errorf("what differs is %q", got)
	}

	// Whoever adds a table has it compared.
	rows, err := views.Query(t.Context(), "SELECT tablename::text FROM pg_tables WHERE schemaname = $1", s.stores.Views.Schema)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if !slices.Contains(verifiedTables(), table) && !strings.HasPrefix(table, "projection_") && !strings.HasPrefix(table, "migrated_") && !strings.Contains(table, "goose") {
			t.Errorf("the table %s is not compared", table)
		}
	}
}
