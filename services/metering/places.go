package metering

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// placeSubjects are what identity decides on who is in which group, and how groups and sites are called.
var placeSubjects = []string{"ev.*.*.identity.login.*", "ev.*.*.identity.group.*", "ev.*.*.identity.manager.*"}

// newPlaceRegistry knows those of their events that matter here.
func newPlaceRegistry() *eventlog.Registry {
	return eventlog.NewRegistry(
		eventlog.Current[*identityv1.LoginGroupsChanged]("cetrus.identity.login.groups_changed.v1"),
		eventlog.Current[*identityv1.LoginDeleted]("cetrus.identity.login.deleted.v1"),
		eventlog.Current[*identityv1.GroupDefined]("cetrus.identity.group.defined.v1"),
		eventlog.Current[*identityv1.GroupDeleted]("cetrus.identity.group.deleted.v1"),
		eventlog.Current[*identityv1.ManagerCreated]("cetrus.identity.manager.created.v1"),
	)
}

// applyPlace follows a decision of identity.
func applyPlace(ctx context.Context, tx pgx.Tx, registry *eventlog.Registry, event eventlog.Event) error {
	tokens := strings.Split(event.Subject, ".")
	if len(tokens) != 6 {
		return fmt.Errorf("metering: %s is no subject of identity", event.Subject)
	}
	account, err := contract.ParseID(tokens[2])
	if err != nil {
		return err
	}
	id, err := contract.ParseID(tokens[5])
	if err != nil {
		return err
	}
	message, err := registry.Decode(event)
	if err != nil {
		return err
	}
	switch e := message.(type) {
	case *identityv1.LoginGroupsChanged:
		groups := make([][16]byte, 0, len(e.GetGroupIds()))
		for _, g := range e.GetGroupIds() {
			group, err := contract.IDFrom(g)
			if err != nil {
				return err
			}
			groups = append(groups, group)
		}
		if _, err := tx.Exec(ctx, "DELETE FROM login_group WHERE account_id = $1 AND login_id = $2", account, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO login_group (account_id, login_id, group_id) SELECT DISTINCT $1::uuid, $2::uuid, g FROM unnest($3::uuid[]) AS g", account, id, groups)
	case *identityv1.LoginDeleted:
		_, err = tx.Exec(ctx, "DELETE FROM login_group WHERE account_id = $1 AND login_id = $2", account, id)
	case *identityv1.GroupDefined:
		err = callPlace(ctx, tx, "group_name", "group_id", account, id, e.GetDisplayName())
	case *identityv1.GroupDeleted:
		_, err = tx.Exec(ctx, "DELETE FROM group_name WHERE account_id = $1 AND group_id = $2", account, id)
	case *identityv1.ManagerCreated:
		err = callPlace(ctx, tx, "site_name", "manager_id", account, id, e.GetDisplayName())
	default:
		err = fmt.Errorf("metering: %T at %d is not known to the catalogue's projection", message, event.Position)
	}
	return err
}

// callPlace notes how a group or a site is called.
func callPlace(ctx context.Context, tx pgx.Tx, table, key string, account, id contract.ID, name string) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(`INSERT INTO %[1]s (account_id, %[2]s, display_name) VALUES ($1, $2, $3)
		ON CONFLICT (account_id, %[2]s) DO UPDATE SET display_name = excluded.display_name`, table, key), account, id, text(name))
	return err
}

// placesAtOnce is how many days or hours are added up at once for groups and sites.
const placesAtOnce = 7 * 24

// readPlaces reads what groups or sites a summary is grouped by.
func (q *summary) readPlaces(ctx context.Context, tx pgx.Tx, account contract.ID) (err error) {
	if q.by&byGroup != 0 {
		if q.memberships, err = readGroups(ctx, tx, account, nil, q.merged); err != nil {
			return err
		}
	}
	if q.by&bySite != 0 {
		q.sites, err = readSites(ctx, tx, account)
	}
	return err
}

// eachPlace yields a group's key for each group that the person is in, and for the site of the
// machine, where these are grouped by.
func (q *summary) eachPlace(person, machine contract.ID, k groupKey, yield func(groupKey)) {
	if q.by&bySite != 0 {
		k.site = q.sites[machine]
	}
	groups := q.memberships[person]
	if q.by&byGroup == 0 || len(groups) == 0 {
		yield(k)
		return
	}
	for _, group := range groups {
		k.group = group
		yield(k)
	}
}

// summarizePlaces answers in instance time what is grouped by groups or sites, which no table knows: cells are read by
// person and machine, and each counts in the groups of its person and at the site of its machine.
func summarizePlaces(ctx context.Context, tx pgx.Tx, account contract.ID, q summary, who audience) (summaryPage, error) {
	var page summaryPage
	total := cellQuery{filter: q.filter, documents: q.by&byDocument != 0, buckets: []bucket{{from: q.from, to: q.to}}, narrow: true, principals: who.principals}
	cells := total
	cells.merged = q.merged
	buckets := q.buckets()
	for part := range slices.Chunk(buckets, placesAtOnce) {
		if q.after != nil && q.by&byTime != 0 && part[len(part)-1].from < q.after.bucket {
			continue
		}
		cells.buckets = part
		groups, err := readPlaced(ctx, tx, account, &q, cells)
		if err != nil {
			return page, err
		}
		for _, g := range groups {
			if q.after == nil || g.key.compare(*q.after) > 0 {
				page.groups = append(page.groups, g)
			}
		}
		if len(page.groups) > q.pageSize {
			break
		}
	}
	cut(&page, q.pageSize)
	// Who is in two groups counts once in the totals.
	all, err := readCells(ctx, tx, account, total)
	if err != nil {
		return page, err
	}
	for _, g := range all {
		page.totals.Add(g.totals)
	}
	return page, nil
}

// readPlaced reads cells and adds them up by groups and sites, in the order of their keys.
func readPlaced(ctx context.Context, tx pgx.Tx, account contract.ID, q *summary, cells cellQuery) ([]group, error) {
	cells.by = q.by &^ (byGroup | bySite)
	if q.by&byGroup != 0 {
		cells.by |= byPrincipal
	}
	if q.by&bySite != 0 {
		cells.by |= byMachine
	}
	found, err := readCells(ctx, tx, account, cells)
	if err != nil {
		return nil, err
	}
	sums := make(map[groupKey]*group)
	for _, g := range found {
		person, machine := g.key.principal, g.key.machine
		if q.by&byPrincipal == 0 {
			g.key.principal = contract.ID{}
		}
		if q.by&byMachine == 0 {
			g.key.machine = contract.ID{}
		}
		q.eachPlace(person, machine, g.key, func(k groupKey) {
			if sums[k] == nil {
				sums[k] = &group{key: k, label: g.label}
			}
			sums[k].totals.Add(g.totals)
		})
	}
	groups := make([]group, 0, len(sums))
	for _, g := range sums {
		groups = append(groups, *g)
	}
	slices.SortFunc(groups, func(a, b group) int { return a.key.compare(b.key) })
	return groups, nil
}
