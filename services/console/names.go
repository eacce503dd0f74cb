package console

import (
	"cmp"
	"regexp"
	"slices"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

const (
	// namesAtOnce is how many ids a page has named; what stands behind them stays an id.
	namesAtOnce = 1000
	// valuesAtOnce is how many SearchFilterValues takes.
	valuesAtOnce = 500
)

// anID finds ids in what is recorded of a change.
var anID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// namesOfLogins are what logins are called, of which a page shows the ids; where there are too many, the first ones.
func (s *Service) namesOfLogins(v *visit, ids []string) (map[string]string, error) {
	names := map[string]string{}
	ids = distinct(ids)
	if len(ids) == 0 {
		return names, nil
	}
	answer, err := s.logins.ListLogins(v.ctx, &identityv1.ListLoginsRequest{PageSize: namesAtOnce, LoginIds: ids})
	for _, login := range answer.GetLogins() {
		names[login.GetLoginId()] = cmp.Or(login.GetDisplayName(), login.GetName())
	}
	return names, err
}

// namesOfAll are what logins, applications, people, machines, groups and Managers are called, of which a page shows
// the ids, whichever they are of; where there are too many, the first ones.
func (s *Service) namesOfAll(v *visit, ids []string) (map[string]string, error) {
	ids = distinct(ids)
	names, err := s.namesOfLogins(v, ids)
	if err != nil {
		return nil, err
	}
	for some := range slices.Chunk(ids, valuesAtOnce) {
		answer, err := s.usage.SearchFilterValues(v.ctx, &meteringv1.SearchFilterValuesRequest{Ids: some})
		if err != nil {
			return nil, err
		}
		for _, value := range answer.GetValues() {
			names[value.GetId()] = cmp.Or(names[value.GetId()], value.GetName())
		}
	}
	return names, nil
}

// namesOfKeys are what API keys are called, by how they begin.
func (s *Service) namesOfKeys(v *visit, prefixes []string) (map[string]string, error) {
	names := map[string]string{}
	if prefixes = slices.Compact(slices.Sorted(slices.Values(prefixes))); len(prefixes) == 0 {
		return names, nil
	}
	answer, err := s.apiKeys.ListApiKeys(v.ctx, &identityv1.ListApiKeysRequest{PageSize: namesAtOnce, Prefixes: prefixes[:min(len(prefixes), namesAtOnce)]})
	for _, key := range answer.GetApiKeys() {
		names[key.GetPrefix()] = key.GetDisplayName()
	}
	return names, err
}

// distinct are the ids, each once and the first ones first, as many as are asked for.
func distinct(ids []string) (all []string) {
	seen := map[string]bool{"": true}
	for _, id := range ids {
		if len(all) < namesAtOnce && !seen[id] && !noID(id) {
			all = append(all, id)
		}
		seen[id] = true
	}
	return all
}
