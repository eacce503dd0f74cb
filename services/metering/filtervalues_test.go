package metering

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// plainNames opens names that were not sealed.
type plainNames struct{ opened int }

func (p *plainNames) OpenNames(_ context.Context, _ contract.ID, names []*usagev1.SealedName) ([]string, error) {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n.GetSealed())
	}
	p.opened += len(names)
	return texts, nil
}

// Of 10,000 people and machines what was typed is found, by whoever may see them, and their names are opened once
// while somebody types.
func TestSearchFilterValues(t *testing.T) {
	s := newService(t, Config{})
	names := &plainNames{}
	s.names = names
	account, other := contract.ID{15: 7}, contract.ID{15: 8}
	id := func(kind, n int) contract.ID {
		return contract.ID{0: byte(kind), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := s.stores.Views.Projector.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	const many = 10_000
	people, machines := make([][16]byte, many), make([][16]byte, many)
	called, hosts := make([][]byte, many), make([]string, many)
	for n := range many {
		people[n], machines[n] = id(1, n), id(2, n)
		called[n], hosts[n] = fmt.Appendf(nil, "Person %05d Ärmel", n), fmt.Sprintf("DESK-%05d", n)
	}
	called[17] = []byte("Änne 100% Dash_Dot")
	exec("INSERT INTO sealed_name (account_id, principal_id, document_id, sealed) SELECT $1, p, '00000000-0000-0000-0000-000000000000', n FROM unnest($2::uuid[], $3::bytea[]) AS x (p, n)", account, people, called)
	exec("INSERT INTO machine (account_id, machine_id, host_name, operating_system, agent_version, stored_ms) SELECT $1, m, h, '', '', 0 FROM unnest($2::uuid[], $3::text[]) AS x (m, h)", account, machines, hosts)
	exec("INSERT INTO sealed_name (account_id, principal_id, document_id, sealed) VALUES ($1, $2, '00000000-0000-0000-0000-000000000000', 'Person of another account')", other, id(1, 1))
	exec("INSERT INTO principal (account_id, principal_id, merged_into) VALUES ($1, $2, $3)", account, id(1, 20), id(1, 21))
	exec("INSERT INTO principal_machine (account_id, principal_id, machine_id) VALUES ($1, $2, $3)", account, id(1, 30), id(2, 40))
	exec("INSERT INTO group_name (account_id, group_id, display_name) VALUES ($1, $2, 'Design of persons')", account, id(3, 1))
	exec("INSERT INTO site_name (account_id, manager_id, display_name) VALUES ($1, $2, 'Vienna')", account, id(4, 1))

	api := &usageAPI{service: s}
	search := func(ctx context.Context, req *meteringv1.SearchFilterValuesRequest) (found []string, more int) {
		t.Helper()
		answer, err := api.SearchFilterValues(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range answer.GetValues() {
			found = append(found, value.GetName())
		}
		return found, len(answer.GetMoreKinds())
	}
	ctx := as(t.Context(), account)
	person, machine := meteringv1.FilterKind_FILTER_KIND_PRINCIPAL, meteringv1.FilterKind_FILTER_KIND_MACHINE
	for _, c := range []struct {
		query string
		kinds []meteringv1.FilterKind
		want  []string
		more  int
	}{
		{"änne", []meteringv1.FilterKind{person}, []string{"Änne 100% Dash_Dot"}, 0},
		{"100%", nil, []string{"Änne 100% Dash_Dot"}, 0},
		{"h_d", nil, []string{"Änne 100% Dash_Dot"}, 0},
		{"ärmel 00123", []meteringv1.FilterKind{person, machine}, []string{"Person 00123 Ärmel"}, 0},
		{"person 00020", nil, nil, 0}, // counts as another
		{"person 00021", nil, []string{"Person 00021 Ärmel"}, 0},
		{"desk-0009", []meteringv1.FilterKind{machine}, []string{"DESK-00090", "DESK-00091", "DESK-00092", "DESK-00093", "DESK-00094", "DESK-00095", "DESK-00096", "DESK-00097", "DESK-00098", "DESK-00099"}, 0},
		{"vienna", nil, []string{"Vienna"}, 0},
		{"of person", nil, []string{"Design of persons"}, 0},
		{"of another", nil, nil, 0},
		{"person", []meteringv1.FilterKind{person}, []string{"Person 00000 Ärmel", "Person 00001 Ärmel", "Person 00002 Ärmel"}, 1},
	} {
		found, more := search(ctx, &meteringv1.SearchFilterValuesRequest{Query: c.query, Kinds: c.kinds, PageSize: 12})
		if more > 0 && len(found) == 12 {
			found = found[:len(c.want)]
		}
		if !slices.Equal(found, c.want) || more != c.more {
			t.Errorf("%q finds %v and %d kinds more, want %v and %d", c.query, found, more, c.want, c.more)
		}
	}
	if names.opened != many {
		t.Errorf("%d names were opened of %d people", names.opened, many)
	}
	began := time.Now()
	search(ctx, &meteringv1.SearchFilterValuesRequest{Query: "person 0999"})
	t.Logf("a search among %d people and as many machines took %v", many, time.Since(began))

	if found, _ := search(ctx, &meteringv1.SearchFilterValuesRequest{Ids: []string{id(1, 5).String(), id(2, 6).String(), id(4, 1).String(), id(9, 9).String()}}); strings.Join(found, ";") != "Person 00005 Ärmel;DESK-00006;Vienna" {
		t.Errorf("the names of ids are %v", found)
	}
	mine := asOwn(t.Context(), account, id(1, 30))
	if found, _ := search(mine, &meteringv1.SearchFilterValuesRequest{Kinds: []meteringv1.FilterKind{person, machine}}); strings.Join(found, ";") != "Person 00030 Ärmel;DESK-00040" {
		t.Errorf("who sees their own finds %v", found)
	}
	// Who is to be forgotten is not found among what was opened before.
	exec("DELETE FROM sealed_name WHERE account_id = $1 AND principal_id = $2", account, id(1, 17))
	s.known.forget(account)
	if found, _ := search(ctx, &meteringv1.SearchFilterValuesRequest{Query: "änne"}); len(found) > 0 {
		t.Errorf("who was forgotten is found: %v", found)
	}
}
