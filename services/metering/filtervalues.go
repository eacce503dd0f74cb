package metering

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// filterValuesShown is how many of a kind are told where nobody says.
	filterValuesShown = 20
	// knownNamesFor is how long the opened names of an account are kept: for who is typing.
	knownNamesFor = 15 * time.Second
	// knownNamesOf bounds of how many accounts.
	knownNamesOf = 64
)

// filterValue is something that a question can be narrowed to.
type filterValue struct {
	id   contract.ID
	name string
}

// knownNames are the names of accounts' people, opened a moment ago: they are sealed, and no table can be
// searched for them.
type knownNames struct {
	mu    sync.Mutex
	known map[contract.ID]knownPeople
}

type knownPeople struct {
	people []filterValue
	until  time.Time
}

func newKnownNames() *knownNames { return &knownNames{known: make(map[contract.ID]knownPeople)} }

func (k *knownNames) of(account contract.ID, now time.Time) ([]filterValue, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known, ok := k.known[account]
	return known.people, ok && now.Before(known.until)
}

func (k *knownNames) keep(account contract.ID, people []filterValue, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= knownNamesOf {
		clear(k.known) // they are read again
	}
	k.known[account] = knownPeople{people, now.Add(knownNamesFor)}
}

// forget is for an account of which somebody is to be forgotten.
func (k *knownNames) forget(account contract.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known, account)
}

func (a *usageAPI) SearchFilterValues(ctx context.Context, req *meteringv1.SearchFilterValuesRequest) (*meteringv1.SearchFilterValuesResponse, error) {
	const op = "metering.SearchFilterValues"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	var ids []contract.ID
	for _, text := range req.GetIds() {
		id, err := resource.ParseID(op, "ids", text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	kinds := req.GetKinds()
	if len(kinds) == 0 {
		for kind := meteringv1.FilterKind_FILTER_KIND_APPLICATION; kind <= meteringv1.FilterKind_FILTER_KIND_SITE; kind++ {
			kinds = append(kinds, kind)
		}
	}
	words := strings.Fields(strings.ToLower(req.GetQuery()))
	size := resource.PageSize(req.GetPageSize(), filterValuesShown)
	if len(ids) > 0 {
		size = len(ids)
	}
	resp := &meteringv1.SearchFilterValuesResponse{}
	for _, kind := range slices.Sorted(slices.Values(kinds)) {
		all, err := a.service.filterValues(ctx, caller, kind, ids)
		if err != nil {
			return nil, errs.Wrap(op, "", err)
		}
		found := matching(all, words)
		if len(found) > size {
			found = found[:size]
			resp.MoreKinds = append(resp.MoreKinds, kind)
		}
		for _, value := range found {
			resp.Values = append(resp.Values, &meteringv1.FilterValue{Kind: kind, Id: value.id.String(), Name: value.name})
		}
	}
	return resp, nil
}

// matching are those in whose names all words occur, the ones that begin with the first word first.
func matching(all []filterValue, words []string) (found []filterValue) {
	type match struct {
		filterValue
		lower string
		begin bool
	}
	var matches []match
	for _, value := range all {
		m := match{filterValue: value, lower: strings.ToLower(value.name)}
		if m.lower == "" || slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(m.lower, w) }) {
			continue
		}
		m.begin = len(words) > 0 && strings.HasPrefix(m.lower, words[0])
		matches = append(matches, m)
	}
	slices.SortFunc(matches, func(a, b match) int {
		if a.begin != b.begin {
			if a.begin {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.lower, b.lower), strings.Compare(string(a.id[:]), string(b.id[:])))
	})
	for _, m := range matches {
		found = append(found, m.filterValue)
	}
	return found
}

// filterValues are all of a kind that the caller may see, or those with some ids.
func (s *Service) filterValues(ctx context.Context, caller authn.Caller, kind meteringv1.FilterKind, ids []contract.ID) ([]filterValue, error) {
	switch kind {
	case meteringv1.FilterKind_FILTER_KIND_APPLICATION:
		if len(ids) == 0 { // of one that was deleted there is use, but nobody looks for it
			return s.plainValues(ctx, caller.Account, "SELECT application_id, display_name FROM application WHERE account_id = $1::uuid AND NOT deleted", ids)
		}
		return s.plainValues(ctx, caller.Account, "SELECT application_id, display_name FROM application WHERE account_id = $1::uuid AND application_id = ANY ($2::uuid[])", ids)
	case meteringv1.FilterKind_FILTER_KIND_MACHINE:
		return s.plainValues(ctx, caller.Account, "SELECT machine_id, host_name FROM machine WHERE account_id = $1::uuid"+only("machine_id", ids), ids)
	case meteringv1.FilterKind_FILTER_KIND_GROUP:
		return s.plainValues(ctx, caller.Account, "SELECT group_id, display_name FROM group_name WHERE account_id = $1::uuid"+only("group_id", ids), ids)
	case meteringv1.FilterKind_FILTER_KIND_SITE:
		return s.plainValues(ctx, caller.Account, "SELECT manager_id, display_name FROM site_name WHERE account_id = $1::uuid"+only("manager_id", ids), ids)
	case meteringv1.FilterKind_FILTER_KIND_PRINCIPAL:
		return s.personValues(ctx, caller, ids)
	case meteringv1.FilterKind_FILTER_KIND_UNSPECIFIED:
	}
	return nil, nil
}

// only narrows to some ids, where there are some.
func only(column string, ids []contract.ID) string {
	if len(ids) == 0 {
		return ""
	}
	return " AND " + column + " = ANY ($2::uuid[])"
}

func (s *Service) plainValues(ctx context.Context, account contract.ID, sql string, ids []contract.ID) (all []filterValue, err error) {
	args := []any{account}
	if len(ids) > 0 {
		args = append(args, raw(ids))
	}
	err = s.inAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (v filterValue, err error) {
			return v, row.Scan((*[16]byte)(&v.id), &v.name)
		})
		return err
	})
	return all, err
}

// personValues are people, each by the principal that counts for them.
func (s *Service) personValues(ctx context.Context, caller authn.Caller, ids []contract.ID) ([]filterValue, error) {
	_, own := authn.OwnOnly(ctx)
	now := time.Now()
	if !own && len(ids) == 0 {
		if known, ok := s.known.of(caller.Account, now); ok {
			return known, nil
		}
	}
	var sealed []*usagev1.SealedName
	var people merged
	err := s.inAccount(ctx, caller.Account, func(tx pgx.Tx) (err error) {
		if people, err = readMerged(ctx, tx, caller.Account); err != nil {
			return err
		}
		args := []any{caller.Account}
		if len(ids) > 0 {
			args = append(args, raw(people.all(ids)))
		}
		rows, err := tx.Query(ctx, `SELECT principal_id, document_id, sealed FROM sealed_name
			WHERE account_id = $1::uuid AND document_id = '00000000-0000-0000-0000-000000000000'`+only("principal_id", ids), args...)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		sealed, err = pgx.CollectRows(rows, scanSealed)
		return err
	})
	if err != nil {
		return nil, err
	}
	opened := newNameSet()
	if err := opened.open(ctx, s.names, caller.Account, sealed); err != nil {
		return nil, err
	}
	names := make(map[contract.ID]string)
	for id, name := range opened.principals {
		if person := people.of(id); names[person] == "" || person == id { // their own goes before those of others that are theirs
			names[person] = name
		}
	}
	all := make([]filterValue, 0, len(names))
	for id, name := range names {
		all = append(all, filterValue{id, name})
	}
	if !own && len(ids) == 0 {
		s.known.keep(caller.Account, all, now)
	}
	return all, nil
}
