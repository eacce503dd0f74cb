package console

import (
	"net/url"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// maxPlaces is how many groups or sites there are to choose from.
const maxPlaces = 1000

// narrowings are what a report can be narrowed to, by the parameters of its address.
var narrowings = []string{"application", "person", "machine", "group", "site"}

// filterOf reads what a page is narrowed to.
func filterOf(query url.Values) *meteringv1.UsageFilter {
	of := func(name string) (ids []string) {
		for _, id := range query[name] {
			if id != "" { // nothing was chosen of a list
				ids = append(ids, id)
			}
		}
		return ids
	}
	return &meteringv1.UsageFilter{ApplicationIds: of("application"), PrincipalIds: of("person"), MachineIds: of("machine"), GroupIds: of("group"), ManagerIds: of("site")}
}

// chosenFilter is something that the page is narrowed to.
type chosenFilter struct {
	Kind string
	// Without is the address of the page that is not.
	Without string
}

func chosenFilters(query url.Values) (all []chosenFilter) {
	for _, kind := range narrowings {
		if query.Get(kind) != "" {
			all = append(all, chosenFilter{Kind: kind, Without: with(query, kind, "", "page", "")})
		}
	}
	return all
}

// filterBar is what the forms of all reports are narrowed by, beside applications.
type filterBar struct {
	// Places are groups and sites to choose from: those that there are, and that the person may see.
	Places []placeList
	// Kept are what the page is narrowed to that nothing in the form chooses.
	Kept []keptFilter
}

type placeList struct {
	Name, Title string
	Choices     []choice
}

type keptFilter struct{ Name, ID string }

func (s *Service) filterBar(v *visit, query url.Values) (filterBar, error) {
	var bar filterBar
	listed := map[string]bool{"application": true}
	add := func(name, title, all string, choices []choice) {
		if len(choices) > 0 {
			listed[name] = true
			bar.Places = append(bar.Places, placeList{name, title, append([]choice{{Title: all, Chosen: query.Get(name) == ""}}, choices...)})
		}
	}
	if seesAll(v.caller.Privileges) {
		answer, err := s.groupsAPI.ListGroups(v.ctx, &identityv1.ListGroupsRequest{PageSize: maxPlaces})
		if err != nil {
			return bar, err
		}
		var choices []choice
		for _, g := range answer.GetGroups() {
			choices = append(choices, choice{g.GetGroupId(), g.GetDisplayName(), g.GetGroupId() == query.Get("group")})
		}
		add("group", "Group", "All groups", choices)
	}
	if administers(v.caller.Privileges) {
		answer, err := s.managers.ListManagers(v.ctx, &identityv1.ListManagersRequest{PageSize: maxPlaces})
		if err != nil {
			return bar, err
		}
		var choices []choice
		for _, m := range answer.GetManagers() {
			title := m.GetDisplayName()
			if title == "" {
				title = m.GetManagerId()
			}
			choices = append(choices, choice{m.GetManagerId(), title, m.GetManagerId() == query.Get("site")})
		}
		add("site", "Site", "All sites", choices)
	}
	for _, name := range narrowings {
		for _, id := range query[name] {
			if !listed[name] && id != "" {
				bar.Kept = append(bar.Kept, keptFilter{name, id})
			}
		}
	}
	return bar, nil
}
