package metering

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// filter narrows a query; an empty list means all.
type filter struct {
	applications, principals, machines []contract.ID
	// groups and sites are those that are asked for; narrow turns them into principals and machines.
	groups, sites []contract.ID
}

// filterOf reads a filter. Whoever sees only what is their own asks for that: the walls would hide all else, but
// answers of the whole account are added up elsewhere than those of persons.
func filterOf(ctx context.Context, op string, m *meteringv1.UsageFilter) (filter, error) {
	var f filter
	for path, list := range map[string]struct {
		texts []string
		ids   *[]contract.ID
	}{
		"filter.application_ids": {m.GetApplicationIds(), &f.applications},
		"filter.principal_ids":   {m.GetPrincipalIds(), &f.principals},
		"filter.machine_ids":     {m.GetMachineIds(), &f.machines},
		"filter.group_ids":       {m.GetGroupIds(), &f.groups},
		"filter.manager_ids":     {m.GetManagerIds(), &f.sites},
	} {
		for _, text := range list.texts {
			id, err := resource.ParseID(op, path, text)
			if err != nil {
				return f, err
			}
			*list.ids = append(*list.ids, id)
		}
	}
	if own, only := authn.OwnOnly(ctx); only {
		asked := f.principals
		f.principals = slices.DeleteFunc(slices.Clone(own), func(p contract.ID) bool { return len(asked) > 0 && !slices.Contains(asked, p) })
		if len(f.principals) == 0 {
			f.principals = []contract.ID{nobody}
		}
	}
	return f, nil
}

// nobody is the id of no principal, and of no machine: random ids never are.
var nobody = contract.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// named tells whether a filter says whose use is asked for: who is in a group is somebody in
// particular, and so is whoever works at a machine.
func (f *filter) named() bool { return len(f.principals)+len(f.groups)+len(f.machines) > 0 }

// some tells whether a filter leaves some people or machines only, so that what is added up of the
// whole account does not answer.
func (f *filter) some() bool {
	return len(f.principals)+len(f.machines)+len(f.groups)+len(f.sites) > 0
}

// narrow makes a filter one of principals and machines: a person is all of their principals, a group
// whoever is in it now, a site the machines that belong to it now.
func (f *filter) narrow(ctx context.Context, tx pgx.Tx, account contract.ID, people merged) error {
	f.principals = people.all(f.principals)
	if len(f.groups) > 0 {
		members, err := readGroups(ctx, tx, account, f.groups, people)
		if err != nil {
			return err
		}
		f.principals, f.groups = common(f.principals, people.all(members.members())), nil
	}
	if len(f.sites) > 0 {
		machines, err := readIDs(ctx, tx, "SELECT machine_id FROM "+machineSites+" WHERE manager_id = ANY ($2::uuid[])", account, raw(f.sites))
		if err != nil {
			return err
		}
		f.machines, f.sites = common(f.machines, machines), nil
	}
	return nil
}

// common are those of the asked, none of which means all, that are there; where there are none, nobody.
func common(asked, there []contract.ID) []contract.ID {
	if len(asked) > 0 {
		there = slices.DeleteFunc(slices.Clone(there), func(id contract.ID) bool { return !slices.Contains(asked, id) })
	}
	if len(there) == 0 {
		return []contract.ID{nobody}
	}
	slices.SortFunc(there, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
	return there
}

func readIDs(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]contract.ID, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	ids, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (id contract.ID, err error) {
		return id, row.Scan((*[16]byte)(&id))
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return ids, nil
}

// memberships are the groups that persons are in now, each by the principal that counts for them.
type memberships map[contract.ID][]contract.ID

// readGroups reads who is in some groups, or in any where none are named. A person is in a group by any login that any
// principal of theirs is bound to.
func readGroups(ctx context.Context, tx pgx.Tx, account contract.ID, groups []contract.ID, people merged) (memberships, error) {
	rows, err := tx.Query(ctx, `SELECT p.principal_id, g.group_id FROM login_group AS g
		JOIN group_name AS n ON n.account_id = g.account_id AND n.group_id = g.group_id
		JOIN principal AS p ON p.account_id = g.account_id AND p.login_id = g.login_id
		WHERE g.account_id = $1::uuid AND (cardinality($2::uuid[]) = 0 OR g.group_id = ANY ($2::uuid[]))`, account, raw(groups))
	if err != nil {
		return nil, fmt.Errorf("metering: who is in which group: %w", err)
	}
	in := make(memberships)
	var principal, group contract.ID
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&principal), (*[16]byte)(&group)}, func() error {
		person := people.of(principal)
		if !slices.Contains(in[person], group) {
			in[person] = append(in[person], group)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: who is in which group: %w", err)
	}
	return in, nil
}

// members are all who are in some group.
func (m memberships) members() []contract.ID {
	all := make([]contract.ID, 0, len(m))
	for person := range m {
		all = append(all, person)
	}
	return all
}

// machineSites are the sites of the account $1's machines: through which Manager the agent on each was
// heard of last.
const machineSites = "(SELECT DISTINCT ON (machine_id) machine_id, manager_id FROM agent WHERE account_id = $1::uuid ORDER BY machine_id, received_ms DESC, agent_id) AS s"

// readSites reads to which site each machine belongs now; one of none is left out.
func readSites(ctx context.Context, tx pgx.Tx, account contract.ID) (map[contract.ID]contract.ID, error) {
	rows, err := tx.Query(ctx, "SELECT machine_id, manager_id FROM "+machineSites, account)
	if err != nil {
		return nil, fmt.Errorf("metering: which machine is of which site: %w", err)
	}
	of := make(map[contract.ID]contract.ID)
	var machine, site contract.ID
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&machine), (*[16]byte)(&site)}, func() error {
		if !site.IsZero() {
			of[machine] = site
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: which machine is of which site: %w", err)
	}
	return of, nil
}
