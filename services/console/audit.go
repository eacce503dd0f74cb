package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// auditPage is who did what.
type auditPage struct {
	*asked
	listPage[*identityv1.AuditEntry]
	Query     url.Values
	Kinds     []choice
	CSV, JSON string
	// names are what things are called, by their ids, and keys what API keys are, by how they begin.
	names, keys map[string]string
	// Typed is who is asked for, as people write it.
	Typed string
	// Filters are what it is narrowed to.
	Filters []chosenFilter
}

// auditKinds are what entries are narrowed to; the API takes the beginning of an event's type.
var auditKinds = []choice{
	{Title: "everything"},
	{Value: "cetrus.identity.login.", Title: "logins"},
	{Value: "cetrus.identity.group.", Title: "groups"},
	{Value: "cetrus.identity.credential.", Title: "passwords and second factors"},
	{Value: "cetrus.identity.session.", Title: "sessions"},
	{Value: "cetrus.identity.apikey.", Title: "API keys"},
	{Value: "cetrus.identity.manager.", Title: "Managers"},
	{Value: "cetrus.identity.enrollment_token.", Title: "enrolment tokens"},
	{Value: "cetrus.identity.agent.", Title: "agents"},
	{Value: "cetrus.identity.signin.", Title: "what is asked at sign-in"},
	{Value: "cetrus.identity.provider.", Title: "single sign-on"},
	{Value: "cetrus.identity.provisioning.", Title: "provisioning"},
	{Value: "cetrus.identity.account.", Title: "the account"},
	{Value: "cetrus.metering.", Title: "what is measured, and who looked at it"},
}

// auditTimes are the days that are asked for, as moments; absent: none.
func (s *Service) auditTimes(v *visit) (from, to *timestamppb.Timestamp, err error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, nil, err
	}
	query := v.r.URL.Query()
	for name, into := range map[string]**timestamppb.Timestamp{"from": &from, "to": &to} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		on, err := time.Parse(day, text)
		if err != nil {
			return nil, nil, errs.InvalidFields("console.audit", "", errs.Field{Path: name, Description: "is no date: write it as 2027-04-01"})
		}
		if name == "to" {
			on = on.AddDate(0, 0, 1)
		}
		*into = timestamppb.New(begins(on, zone))
	}
	return from, to, nil
}

func (s *Service) audit(v *visit) (any, error) {
	query := v.r.URL.Query()
	page := auditPage{asked: v.asks(), Query: query}
	for _, kind := range auditKinds {
		kind.Chosen = kind.Value == query.Get("kind")
		page.Kinds = append(page.Kinds, kind)
	}
	page.CSV, page.JSON = "/audit-log/export"+with(query, "page", "", "format", "csv"), "/audit-log/export"+with(query, "page", "", "format", "json")
	page.Typed = query.Get("actor")
	from, to, err := s.auditTimes(v)
	if err == nil {
		err = s.actorByName(v, query)
	}
	if err != nil {
		return page, err
	}
	page.listPage, err = list(s, v, func(size int32, token string) ([]*identityv1.AuditEntry, string, error) {
		answer, err := s.auditing.ListAuditEntries(v.ctx, &identityv1.ListAuditEntriesRequest{
			PageSize: size, PageToken: token, Actor: query.Get("actor"), TypePrefix: query.Get("kind"), AggregateId: query.Get("about"), StartTime: from, EndTime: to,
		})
		return answer.GetAuditEntries(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return page, err
	}
	if err := s.nameEntries(v, &page); err != nil {
		return page, err
	}
	if actor := query.Get("actor"); actor != "" {
		if _, id, _ := strings.Cut(actor, ":"); page.names[id] != "" {
			page.Typed = page.names[id]
		}
		page.Filters = append(page.Filters, chosenFilter{Kind: "who", Name: page.Who(actor), Without: with(query, "actor", "", "page", "")})
	}
	if id := query.Get("about"); id != "" {
		page.Filters = append(page.Filters, chosenFilter{Kind: "about", Name: cmp.Or(page.names[id], id), Without: with(query, "about", "", "page", "")})
	}
	return page, nil
}

// actorByName has a query ask for the login that it names in place of the one whose id it says.
func (s *Service) actorByName(v *visit, query url.Values) error {
	typed := strings.TrimSpace(query.Get("actor"))
	if typed == "" || strings.Contains(typed, ":") {
		return nil
	}
	found, _, err := s.findLogins(v, typed, "", "")
	if err != nil {
		return err
	}
	exact := slices.DeleteFunc(slices.Clone(found), func(l *identityv1.Login) bool {
		return !strings.EqualFold(l.GetName(), typed) && !strings.EqualFold(l.GetDisplayName(), typed)
	})
	if len(exact) > 0 {
		found = exact
	}
	if len(found) == 1 {
		query.Set("actor", "login:"+found[0].GetLoginId())
		return nil
	}
	description := "no login is called “" + cut(typed, 40) + "”"
	if len(found) > 1 {
		var names []string
		for _, l := range found[:min(len(found), valuesShown)] {
			names = append(names, l.GetName())
		}
		description = "several are called so; write one of " + strings.Join(names, ", ")
	}
	return errs.InvalidFields("console.audit", "", errs.Field{Path: "actor", Description: description})
}

// nameEntries finds out what is called how of what the page shows.
func (s *Service) nameEntries(v *visit, page *auditPage) (err error) {
	// Who did it and what it happened to come first, then what lines show: there may be more ids in changes than are
	// asked for.
	var first, shown, more, prefixes []string
	actor := func(actor string) {
		if kind, id, _ := strings.Cut(actor, ":"); kind == "key" {
			prefixes = append(prefixes, id)
		} else {
			first = append(first, id)
		}
	}
	actor(page.Query.Get("actor"))
	first = append(first, page.Query.Get("about"))
	for _, e := range page.Items {
		actor(e.GetActor())
		first = append(first, e.GetAggregateId())
		for _, c := range e.GetChanges() {
			for _, value := range []string{c.GetBefore(), c.GetAfter()} {
				ids := anID.FindAllString(value, -1)
				shown, more = append(shown, ids[:min(len(ids), valuesShown)]...), append(more, ids[min(len(ids), valuesShown):]...)
			}
		}
	}
	if page.names, err = s.namesOfAll(v, slices.Concat(first, shown, more)); err != nil {
		return err
	}
	page.keys, err = s.namesOfKeys(v, prefixes)
	return err
}

// valuesShown is how many of a list that changed a line shows.
const valuesShown = 10

// Who is an actor as people know it.
func (p auditPage) Who(actor string) string {
	kind, id, _ := strings.Cut(actor, ":")
	switch {
	case actor == "":
		return "Cetrus itself, or nobody who had signed in"
	case p.names[id] != "":
		return p.names[id]
	case kind == "key" && p.keys[id] != "":
		return p.keys[id] + " (API key)"
	case kind == "key":
		return "API key " + id
	case kind == "login":
		return "a login that is gone"
	default:
		return actor
	}
}

// Of is what it happened to, as people know it; empty where that has no name.
func (p auditPage) Of(id string) string { return p.names[id] }

// aboutWords are fields whose name says too little, or too much.
var aboutWords = map[string]string{"principal": "person", "principals": "people", "aggregate": "it", "name_id": "name (hashed)", "sso": "single sign-on"}

// Field is a field of an event in words.
func (auditPage) Field(name string) string {
	words := strings.Split(name, ".")
	for i, word := range words {
		if one, ok := strings.CutSuffix(word, "_id"); ok && word != "name_id" && word != "client_id" {
			word = one
		} else if one, ok := strings.CutSuffix(word, "_ids"); ok {
			word = one + "s"
		}
		words[i] = strings.ReplaceAll(cmp.Or(aboutWords[word], word), "_", " ")
	}
	return strings.Join(words, ": ")
}

// What is an event in words, of its type.
func (auditPage) What(kind string) string {
	parts := strings.Split(kind, ".")
	if len(parts) < 4 {
		return kind
	}
	return strings.ReplaceAll(strings.Join(parts[2:len(parts)-1], ": "), "_", " ")
}

// Narrow is the address of this page with one thing more asked for.
func (p auditPage) Narrow(name, value string) string { return with(p.Query, name, value, "page", "") }

// Plain is a value of JSON as people read it.
func (p auditPage) Plain(value string) string {
	var read any
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.UseNumber() // as they were written
	if decoder.Decode(&read) != nil {
		return value
	}
	return p.plain(read)
}

func (p auditPage) plain(value any) string {
	switch value := value.(type) {
	case nil:
		return "nothing"
	case bool:
		return map[bool]string{true: "yes", false: "no"}[value]
	case string:
		return p.word(value)
	case []any:
		var texts []string
		for _, one := range value[:min(len(value), valuesShown)] {
			texts = append(texts, p.plain(one))
		}
		if more := len(value) - valuesShown; more > 0 {
			texts = append(texts, "and "+strconv.Itoa(more)+" more")
		}
		return strings.Join(texts, ", ")
	case map[string]any:
		var texts []string
		for _, name := range slices.Sorted(maps.Keys(value)) {
			texts = append(texts, p.Field(name)+": "+p.plain(value[name]))
		}
		return strings.Join(texts, "; ")
	}
	return fmt.Sprint(value)
}

// word is a text of an event as people read it: ids by their names, the contract's words as such.
func (p auditPage) word(text string) string {
	if name := p.names[text]; name != "" {
		return name
	}
	if privilege, ok := authzv1.Privilege_value[text]; ok {
		return authn.PrivilegeName(authzv1.Privilege(privilege))
	}
	if constant.MatchString(text) {
		return strings.ToLower(strings.ReplaceAll(text, "_", " "))
	}
	if d, err := time.ParseDuration(text); err == nil && seconds.MatchString(text) {
		return lengthWords(d)
	}
	return text
}

var (
	// constant is how the contract writes a choice, seconds how JSON writes a length.
	constant = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$`)
	seconds  = regexp.MustCompile(`^[0-9.]+s$`)
)

// exportAudit gives the entries as a file.
func (s *Service) exportAudit(v *visit) (download, error) {
	query := v.r.URL.Query()
	from, to, err := s.auditTimes(v)
	if err == nil {
		err = s.actorByName(v, query)
	}
	if err != nil {
		return download{}, err
	}
	format := identityv1.AuditFormat_AUDIT_FORMAT_CSV
	if query.Get("format") == "json" {
		format = identityv1.AuditFormat_AUDIT_FORMAT_JSON
	}
	answer, err := s.auditing.ExportAuditEntries(v.ctx, &identityv1.ExportAuditEntriesRequest{
		Format: format, Actor: query.Get("actor"), TypePrefix: query.Get("kind"), AggregateId: query.Get("about"), StartTime: from, EndTime: to,
	})
	if err != nil {
		return download{}, err
	}
	if answer.GetTruncated() {
		return download{}, errs.InvalidFields("console.audit", "", errs.Field{Path: "from", Description: "more entries than one file holds are asked for: choose fewer days"})
	}
	return download{name: answer.GetFileName(), contentType: answer.GetContentType(), content: []byte(answer.GetContent())}, nil
}
