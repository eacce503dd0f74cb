package console

import (
	"net/url"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	usePageSize = 200
	// maxReason is in characters.
	maxReason = 200
)

// reasonParameter holds it.
const reasonParameter = "reason"

// reason is why named people's use is looked at, where the account asks for it.
func (v *visit) reason() string {
	reason := []rune(strings.TrimSpace(v.r.URL.Query().Get(reasonParameter)))
	return string(reason[:min(len(reason), maxReason)])
}

// grouping is one way to part use.
type grouping struct {
	Value, Title string
	Chosen       bool
	by           meteringv1.GroupBy
	// filter is the parameter that narrows to one of these; empty where there is none.
	filter string
}

func groupings() []grouping {
	return []grouping{
		{Value: "application", Title: "Application", by: meteringv1.GroupBy_GROUP_BY_APPLICATION, filter: "application"},
		{Value: "person", Title: "Person", by: meteringv1.GroupBy_GROUP_BY_PRINCIPAL, filter: "person"},
		{Value: "machine", Title: "Machine", by: meteringv1.GroupBy_GROUP_BY_MACHINE, filter: "machine"},
		{Value: "group", Title: "Group", by: meteringv1.GroupBy_GROUP_BY_GROUP, filter: "group"},
		{Value: "site", Title: "Site", by: meteringv1.GroupBy_GROUP_BY_SITE, filter: "site"},
		{Value: "document", Title: "Document", by: meteringv1.GroupBy_GROUP_BY_DOCUMENT},
		{Value: "day", Title: "Day", by: meteringv1.GroupBy_GROUP_BY_DAY},
	}
}

// usePage is time by attention.
type usePage struct {
	Period     period
	Groupings  []grouping
	By         grouping
	Filters    []chosenFilter
	Query      url.Values
	PersonTime bool
	Rows       []useRow
	Totals     *meteringv1.UsageTotals
	Greatest   *meteringv1.UsageTotals
	NextPage   string
	Reason     string
	filterBar
}

// useRow is a line of the table.
type useRow struct {
	Name string
	// Narrower is the address of the page that shows this line alone; empty where there is none.
	Narrower string
	Totals   *meteringv1.UsageTotals
}

func (s *Service) use(v *visit) (any, error) {
	p, err := s.periodOf(v, 6)
	if err != nil {
		return nil, err
	}
	query := v.r.URL.Query()
	page := usePage{Period: p, Query: query, Groupings: groupings(), Reason: v.reason(), PersonTime: query.Get("counting") == "person"}
	chosen := query.Get("by")
	if chosen == "" {
		chosen = "application"
	}
	for i := range page.Groupings {
		if g := &page.Groupings[i]; g.Value == chosen {
			g.Chosen, page.By = true, *g
		}
	}
	if page.By.Value == "" {
		return nil, errs.InvalidFields("console.use", "", errs.Field{Path: "by", Description: "is no way to part use"})
	}
	req := &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(p.start), EndTime: timestamppb.New(p.end), GroupBy: []meteringv1.GroupBy{page.By.by},
		Filter:   filterOf(query),
		PageSize: usePageSize, PageToken: query.Get("page"), Reason: page.Reason,
	}
	if page.PersonTime {
		req.Counting = meteringv1.Counting_COUNTING_PERSON_TIME
	}
	answer, err := s.usage.SummarizeUsage(v.ctx, req)
	if err != nil {
		return nil, err
	}
	page.Totals = answer.GetTotals()
	if answer.GetNextPageToken() != "" {
		page.NextPage = with(query, "page", answer.GetNextPageToken())
	}
	for _, g := range answer.GetGroups() {
		row := useRow{Totals: g.GetTotals()}
		var id string
		switch page.By.by {
		case meteringv1.GroupBy_GROUP_BY_APPLICATION:
			row.Name, id = g.GetApplicationName(), g.GetApplicationId()
		case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
			row.Name, id = g.GetPrincipalName(), g.GetPrincipalId()
		case meteringv1.GroupBy_GROUP_BY_MACHINE:
			row.Name, id = g.GetMachineName(), g.GetMachineId()
		case meteringv1.GroupBy_GROUP_BY_GROUP:
			row.Name, id = g.GetGroupName(), g.GetGroupId()
		case meteringv1.GroupBy_GROUP_BY_SITE:
			row.Name, id = g.GetManagerName(), g.GetManagerId()
		case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
			row.Name = g.GetDocumentName()
		default:
			date := g.GetStartTime().AsTime().In(p.Zone)
			on := date.Format(day)
			row.Name = date.Format("Mon " + day)
			row.Narrower = with(query, "from", on, "to", on, "by", "application", "page", "")
		}
		if row.Name == "" {
			row.Name = "(no name)"
			if id == "" && page.By.filter != "" {
				row.Name = "(in none)"
			}
		}
		if page.By.filter != "" && id != "" {
			next := "person"
			if page.By.Value != "application" && page.By.Value != "machine" {
				next = "application"
			}
			row.Narrower = with(query, page.By.filter, id, "by", next, "page", "")
		}
		if page.Greatest.GetOpen().AsDuration() < row.Totals.GetOpen().AsDuration() {
			page.Greatest = row.Totals
		}
		page.Rows = append(page.Rows, row)
	}
	page.Filters = chosenFilters(query)
	page.filterBar, err = s.filterBar(v, query)
	return page, err
}

// with is the address of the same page with some parameters of its query set, or with an empty
// value left out.
func with(query url.Values, pairs ...string) string {
	changed := url.Values{}
	for name, values := range query {
		changed[name] = values
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			changed.Del(pairs[i])
		} else {
			changed.Set(pairs[i], pairs[i+1])
		}
	}
	return "?" + changed.Encode()
}

// Link is the address of this page with another period.
func (p usePage) Link(choice preset) string {
	return with(p.Query, "from", choice.From, "to", choice.To, "page", "")
}

// barWidths are the parts of a line's bar, in thousandths of the longest line.
type barWidths struct {
	Busy, Idle, BusyIdle, Background int64
	Label                            string
}

// Bar is a line's bar.
func (p usePage) Bar(row useRow) barWidths {
	whole := p.Greatest.GetOpen()
	b := barWidths{Busy: width(row.Totals.GetBusy(), whole), Idle: width(row.Totals.GetIdle(), whole), Background: width(row.Totals.GetBackground(), whole)}
	b.BusyIdle = b.Busy + b.Idle
	b.Label = "busy " + span(row.Totals.GetBusy()) + ", idle " + span(row.Totals.GetIdle()) + ", in the background " + span(row.Totals.GetBackground())
	return b
}
