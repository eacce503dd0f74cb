package console

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// auditPage is who did what.
type auditPage struct {
	*asked
	listPage[*identityv1.AuditEntry]
	Query      url.Values
	Kinds      []choice
	CSV, JSON  string
	loginNames map[string]string
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
			return nil, nil, errs.InvalidFields("console.audit", "", errs.Field{Path: name, Description: "is no day: write it as 2027-04-01"})
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
	from, to, err := s.auditTimes(v)
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
	_, page.loginNames, err = s.loginNames(v)
	return page, err
}

// Who is an actor as people know it.
func (p auditPage) Who(actor string) string {
	kind, id, _ := strings.Cut(actor, ":")
	switch name := p.loginNames[id]; {
	case actor == "":
		return "Cetrus itself, or nobody who had signed in"
	case name != "":
		return name
	default:
		return kind
	}
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
func (auditPage) Plain(value string) string {
	var text string
	if json.Unmarshal([]byte(value), &text) == nil {
		return text
	}
	return value
}

// exportAudit gives the entries as a file.
func (s *Service) exportAudit(v *visit) (download, error) {
	query := v.r.URL.Query()
	from, to, err := s.auditTimes(v)
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
