package console

import (
	"bytes"
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// maxPlaces is how many groups or sites there are to choose from, and matchesShown how many that a name was typed of.
const (
	maxPlaces    = 1000
	matchesShown = 12
)

// whoParameter holds what was typed to find a person or a machine.
const whoParameter = "who"

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

// kindsOf are the kinds of what a page is narrowed to, by the parameters of its address.
var kindsOf = map[string]meteringv1.FilterKind{
	"application": meteringv1.FilterKind_FILTER_KIND_APPLICATION, "person": meteringv1.FilterKind_FILTER_KIND_PRINCIPAL,
	"machine": meteringv1.FilterKind_FILTER_KIND_MACHINE, "group": meteringv1.FilterKind_FILTER_KIND_GROUP, "site": meteringv1.FilterKind_FILTER_KIND_SITE,
}

// chosenFilter is something that the page is narrowed to.
type chosenFilter struct {
	Kind, Name string
	// Without is the address of the page that is not.
	Without string
}

// filterBar is what the forms of all reports are narrowed by, beside applications.
type filterBar struct {
	// Places are groups and sites to choose from: those that there are, and that the person may see.
	Places []placeList
	// Kept are what the page is narrowed to that nothing in the form chooses.
	Kept []keptFilter
	// Filters are what the page is narrowed to.
	Filters []chosenFilter
	// Who says that people and machines can be looked for; Typed is what was typed, and Matches what is called so.
	Who     bool
	Typed   string
	Matches []filterMatch
	// More says that there are more matches.
	More bool
}

// several are what more than one of a kind are called.
var several = map[string]string{"application": "applications", "person": "people", "machine": "machines", "group": "groups", "site": "sites"}

// Told is what the page is narrowed to in a few words: "application FreeCAD, 3 people".
func (b filterBar) Told() string { return b.told(1, ", ") }

// ToldInFull names all of it.
func (b filterBar) ToldInFull() string { return b.told(len(b.Filters), "; ") }

// told names of each kind at most so many.
func (b filterBar) told(most int, between string) string {
	named := map[string][]string{}
	for _, f := range b.Filters {
		named[f.Kind] = append(named[f.Kind], f.Name)
	}
	var words []string
	for _, kind := range narrowings {
		switch names := named[kind]; {
		case len(names) > max(most, 1):
			words = append(words, strconv.Itoa(len(names))+" "+several[kind])
		case len(names) > 0:
			words = append(words, kind+" "+strings.Join(names, ", "))
		case kind == "application":
			words = append(words, "all applications")
		}
	}
	return strings.Join(words, between)
}

type placeList struct {
	Name, Title string
	Choices     []choice
}

type keptFilter struct{ Name, ID string }

// filterMatch is something that is called as was typed.
type filterMatch struct {
	Kind, ID, Name string
	// Address is that of the page narrowed to it.
	Address string
}

// without is a query without one value of a parameter.
func without(query url.Values, name, value string) string {
	changed := maps.Clone(query)
	changed[name] = slices.DeleteFunc(slices.Clone(query[name]), func(v string) bool { return v == value || v == "" })
	changed.Del("page")
	if len(changed[name]) == 0 {
		changed.Del(name)
		if name == "application" { // all of them, where a page would choose one by itself
			changed.Set(name, "")
		}
	}
	return "?" + changed.Encode()
}

// narrowed is a query narrowed to one more.
func narrowed(query url.Values, name, value string) string {
	changed := maps.Clone(query)
	changed[name] = append(slices.DeleteFunc(slices.Clone(query[name]), func(v string) bool { return v == value || v == "" }), value)
	changed.Del("page")
	changed.Del(whoParameter)
	return "?" + changed.Encode()
}

// Icon is its picture.
func (m filterMatch) Icon() string {
	if m.Kind == "machine" {
		return "device-desktop"
	}
	return "user"
}

func (s *Service) filterBar(v *visit, query url.Values) (filterBar, error) {
	bar := filterBar{Who: seesAll(v.caller.Privileges), Typed: strings.TrimSpace(query.Get(whoParameter))}
	if v.overheard {
		return bar, nil // a file has no bar
	}
	listed := map[string]bool{"application": true}
	if bar.Who {
		for _, place := range []struct{ name, title, all string }{{"group", "Group", "All groups"}, {"site", "Site", "All sites"}} {
			answer, err := s.usage.SearchFilterValues(v.ctx, &meteringv1.SearchFilterValuesRequest{Kinds: []meteringv1.FilterKind{kindsOf[place.name]}, PageSize: maxPlaces})
			if err != nil {
				return bar, err
			}
			if len(answer.GetValues()) == 0 {
				continue
			}
			listed[place.name] = true
			choices := []choice{{Title: place.all, Chosen: query.Get(place.name) == ""}}
			for _, value := range answer.GetValues() {
				choices = append(choices, choice{value.GetId(), value.GetName(), value.GetId() == query.Get(place.name)})
			}
			bar.Places = append(bar.Places, placeList{place.name, place.title, choices})
		}
	}
	if err := s.fillChips(v, query, &bar); err != nil {
		return bar, err
	}
	for _, name := range narrowings {
		for i, id := range query[name] {
			if id != "" && (!listed[name] || i > 0) { // a list of the form chooses the first
				bar.Kept = append(bar.Kept, keptFilter{name, id})
			}
		}
	}
	if bar.Who && bar.Typed != "" {
		var err error
		if bar.Matches, bar.More, err = s.matches(v, query, bar.Typed); err != nil {
			return bar, err
		}
	}
	return bar, nil
}

// fillChips names what the page is narrowed to.
func (s *Service) fillChips(v *visit, query url.Values, bar *filterBar) error {
	asked := filterOf(query)
	ids := slices.Concat(asked.GetApplicationIds(), asked.GetPrincipalIds(), asked.GetMachineIds(), asked.GetGroupIds(), asked.GetManagerIds())
	names := map[string]string{}
	if len(ids) > 0 && wrongIDs(query) == nil {
		answer, err := s.usage.SearchFilterValues(v.ctx, &meteringv1.SearchFilterValuesRequest{Ids: ids})
		if err != nil {
			return err
		}
		for _, value := range answer.GetValues() {
			names[value.GetId()] = value.GetName()
		}
	}
	for _, kind := range narrowings {
		for _, id := range query[kind] {
			if id != "" {
				bar.Filters = append(bar.Filters, chosenFilter{Kind: kind, Name: cmp.Or(names[id], "(no name)"), Without: without(query, kind, id)})
			}
		}
	}
	return nil
}

// matches are the people and machines that are called as was typed.
func (s *Service) matches(v *visit, query url.Values, typed string) (all []filterMatch, more bool, err error) {
	answer, err := s.usage.SearchFilterValues(v.ctx, &meteringv1.SearchFilterValuesRequest{
		Kinds: []meteringv1.FilterKind{meteringv1.FilterKind_FILTER_KIND_PRINCIPAL, meteringv1.FilterKind_FILTER_KIND_MACHINE}, Query: typed, PageSize: matchesShown,
	})
	if err != nil {
		return nil, false, err
	}
	for _, value := range answer.GetValues() {
		kind := "person"
		if value.GetKind() == meteringv1.FilterKind_FILTER_KIND_MACHINE {
			kind = "machine"
		}
		all = append(all, filterMatch{kind, value.GetId(), value.GetName(), narrowed(query, kind, value.GetId())})
	}
	return all, len(answer.GetMoreKinds()) > 0, nil
}

// filterMatches answers with what a page's form can be narrowed to, while somebody types.
func (s *Service) filterMatches(v *visit) {
	if !seesAll(v.caller.Privileges) {
		v.w.WriteHeader(http.StatusForbidden)
		return
	}
	if err := askable(v); err != nil {
		s.fail(v, err)
		return
	}
	part := filterBar{Typed: strings.TrimSpace(v.r.URL.Query().Get(whoParameter))}
	if part.Typed != "" {
		var err error
		if part.Matches, part.More, err = s.matches(v, url.Values{}, part.Typed); err != nil {
			s.fail(v, err)
			return
		}
	}
	var out bytes.Buffer
	if err := s.render(&out, v.r, "use", "matches", part); err != nil {
		s.fail(v, err)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = v.w.Write(out.Bytes()) // the browser is gone where this fails
}
