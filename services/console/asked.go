package console

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// asked is what a page says of how it was asked: what of its form is wrong, in place of an answer, or what was taken
// in place of something that it does not know.
type asked struct {
	// Wrong are told once, above the place of the answer; the form keeps what was entered.
	Wrong []wrongLine
	// Notes are what was taken as something else.
	Notes []string
	// others are those of Notes that change what is answered.
	others []string
}

// wrongLine is something of a form that is wrong, by the form's label.
type wrongLine struct {
	// ID is the input's; empty where the page has none.
	ID, Label, Text string
	// Stands says that the text is no continuation of the label.
	Stands bool
	// Address leads to what would do; Link is its text.
	Address, Link string
}

// askedPart is for pages that have it.
func (a *asked) askedPart() *asked { return a }

// asks is what the visit's page says of it.
func (v *visit) asks() *asked {
	if v.asked == nil {
		v.asked = &asked{}
	}
	return v.asked
}

// settle has one of the choices chosen: the one of that value, or else the first, which the page then says.
func settle(a *asked, parameter, given string, choices []choice) []choice {
	if len(choices) == 0 || slices.ContainsFunc(choices, func(c choice) bool { return c.Chosen }) {
		return choices
	}
	choices = slices.Clone(choices)
	choices[0].Chosen = true
	a.instead(parameter, given, choices[0].Title)
	return choices
}

// instead says that a value is none of those that there are, and what was taken.
func (a *asked) instead(parameter, given, taken string) {
	note := labelOf(parameter).label + ": “" + cut(given, 40) + "” is not one of the choices, so “" + taken + "” is used."
	a.Notes, a.others = append(a.Notes, note), append(a.others, note)
}

// label is what a form calls a parameter, and the id of its input.
type label struct{ id, label string }

// labels are those of all pages, by the parameter of an address.
var labels = map[string]label{
	"from": {"from", "From"}, "to": {"to", "To"}, "application": {"application", "Application"}, "person": {"who", "Person"}, "machine": {"who", "Machine"},
	"group": {"group", "Group"}, "site": {"site", "Site"}, compareParameter: {"compare", "Compare with"}, reasonParameter: {"reason", "Why named people are looked at"},
	"by": {"by", "By"}, "metric": {"metric", "A licence is for"}, "give-back": {"give-back", "Given back after idle minutes"}, "minutes": {"minutes", "Idle minutes"},
	"refused": {"refused", "Refused to"}, "bought": {"bought", "Bought"}, "price": {"price", "Price of one"}, "currency": {"price", "Currency"}, "days": {"days", "Look ahead"},
	"not-for": {"not-for", "Not busy for days"}, "less": {"less", "Busy for fewer hours than"}, "at-least": {"at-least", "Stretches of at least minutes"},
	"rows": {"rows", "Rows"}, "begin": {"", "The beginning of what is shown"}, "end": {"", "The end of what is shown"}, "view": {"", "The kind of view"}, "rank": {"rank", "Most of"},
	"counting": {"counting", "Counting"}, "measure": {"measure", "Hours"}, "first": {"first", "From month"}, "last": {"last", "To month"},
	"kind": {"kind", "About"}, "actor": {"actor", "Who"}, "about": {"about", "What it happened to"}, "condition": {"condition", "Problems"}, whoParameter: {"who", "Person or machine"},
}

// parameters are those of addresses, by the names of the contract's fields.
var parameters = map[string]string{
	"start_time": "from", "end_time": "to", "application_ids": "application", "principal_ids": "person", "machine_ids": "machine", "group_ids": "group", "manager_ids": "site",
	"compare_start_time": compareParameter, "compare_end_time": compareParameter, "group_by": "by", "give_back_after": "give-back", "refused_per_million": "refused",
	"price_minor_units": "price", "currency_code": "currency", "busy_less_than": "less", "row_by": "rows", "rank_by": "rank", "first_month": "first", "last_month": "last",
	"type_prefix": "kind", "aggregate_id": "about", "conditions": "condition", "query": whoParameter,
}

// labelOf is what a form calls a parameter, or a field of the contract.
func labelOf(name string) label {
	name = fieldOf(name)
	if parameter, ok := parameters[name]; ok {
		name = parameter
	} else if name = strings.ReplaceAll(name, "_", "-"); labels[name].label == "" {
		return label{"", sentence(strings.ReplaceAll(name, "-", " "))}
	}
	return labels[name]
}

// sentence begins with a capital.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return ""
	}
	return string(unicode.ToUpper(first)) + text[size:]
}

// noID tells of a text that it is nothing's id.
func noID(text string) bool {
	_, err := contract.ParseID(text)
	return text != "" && err != nil
}

// wrongIDs are what an address narrows to that cannot be the id of anything.
func wrongIDs(query url.Values) error {
	var wrong []errs.Field
	for _, name := range narrowings {
		if slices.ContainsFunc(query[name], noID) {
			wrong = append(wrong, errs.Field{Path: name, Description: "the address names one that cannot be: choose another one"})
		}
	}
	if len(wrong) > 0 {
		return errs.InvalidFields("console.filter", "", wrong...)
	}
	return nil
}

var (
	// fieldName is how the contract writes the name of a field.
	fieldName = regexp.MustCompile(`\b[a-z]+(_[a-z]+)+\b`)
	// continues is how a description begins that goes on from the name of its field.
	continues = regexp.MustCompile(`^(is|are|has|have|was|must|needs|makes|names|may|can|cannot|does|belongs) `)
)

// wrongLines are what a status says of a page's form, each once.
func wrongLines(v *visit, st *status.Status) (lines []wrongLine) {
	query := v.r.URL.Query()
	for _, wrong := range violations(st) {
		name := fieldOf(wrong.GetField())
		if name == "page_token" || name == "page" {
			lines = append(lines, wrongLine{Text: "The list cannot be continued from where this address says.", Address: with(query, "page", ""), Link: "Show it from its beginning"})
			continue
		}
		l := labelOf(name)
		text := fieldName.ReplaceAllStringFunc(wrong.GetDescription(), func(name string) string {
			if parameters[name] == "" {
				return name
			}
			return "“" + labelOf(name).label + "”"
		})
		line := wrongLine{ID: l.id, Label: l.label, Text: strings.TrimSuffix(text, ".") + ".", Stands: !continues.MatchString(text)}
		for _, kind := range narrowings {
			if labels[kind] == l && query.Get(kind) != "" {
				line.ID, line.Address, line.Link = "", with(query, kind, "", "page", ""), "Show it without"
			}
		}
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		lines = append(lines, wrongLine{Text: sentence(strings.TrimSuffix(st.Message(), ".")) + "."})
	}
	return lines
}

// showWrong answers with the page's form, as it was filled, and what is wrong with it; false where the page has
// none, or the error is another one.
func (s *Service) showWrong(v *visit, p *page, body any, err error) bool {
	of, ok := body.(interface{ askedPart() *asked })
	st := statusOf(err)
	switch st.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
	default:
		return false
	}
	if !ok || of.askedPart() == nil {
		return false
	}
	of.askedPart().Wrong = wrongLines(v, st)
	s.write(v, http.StatusBadRequest, p.template(), p.title, body)
	return true
}

// addressParameters are those that a report's address may have, beside its own.
var addressParameters = append([]string{"from", "to", whoParameter, compareParameter, reasonParameter, "page", "format", "zoom", "find"}, narrowings...)

// ownParameters are those that single pages know.
var ownParameters = map[string][]string{
	"/use": {"view", "by", "counting", "rank", "measure"}, "/concurrent": {"metric", "give-back", "minutes", "holders"}, "/licences": {"metric", "refused", "bought", "price", "currency", "minutes"},
	"/forecast": {"metric", "give-back", "days", "price", "currency"}, "/unused": {"by", "not-for", "less"}, "/idle": {"at-least"},
	"/timeline": {"rows", "files", "view", "begin", "end"}, "/sessions": {"by"},
}

// unknown says what of an address a report does not know, and so leaves out.
func (a *asked) unknown(p *page, query url.Values) {
	if p == nil {
		return
	}
	var names []string
	for name := range query {
		if !slices.Contains(addressParameters, name) && !slices.Contains(ownParameters[p.path], name) {
			names = append(names, "“"+cut(name+"="+query.Get(name), 40)+"”")
		}
	}
	if slices.Sort(names); len(names) > 0 {
		a.Notes = append(a.Notes, "This page knows nothing of "+strings.Join(names, ", ")+" in its address, and leaves it out.")
	}
}
