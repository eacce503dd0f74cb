package console

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// savedActions are what is done with saved reports.
var savedActions = []action{
	{path: "/saved-reports/new", page: "/saved-reports/new", may: saves, do: (*Service).saveReport},
	{path: "/saved-reports/{id}", page: "/saved-reports/{id}", may: saves, do: (*Service).changeSaved},
	{path: "/saved-reports/{id}/schedule", page: "/saved-reports/{id}", may: saves, do: (*Service).scheduleSaved},
	{path: "/saved-reports/{id}/send", page: "/saved-reports/{id}", may: saves, do: (*Service).sendSaved},
	{path: "/saved-reports/{id}/delete", may: saves, do: (*Service).deleteSaved, confirm: (*Service).confirmDeleteSaved},
}

// saves tells who may save reports: who may see any.
func saves(p authn.Privileges) bool { return seesUse(p) || seesMany(p) }

// saveAddress is where what a page shows is saved; "" where it is no report with a period of its own.
func saveAddress(v *visit) string {
	if v.page == nil || exported[v.page.path] == nil || strings.Contains(v.page.path, "{") || !saves(v.caller.Privileges) {
		return ""
	}
	query := v.r.URL.Query()
	query.Del("page")
	return "/saved-reports/new?" + url.Values{ofField: {(&url.URL{Path: v.r.URL.Path, RawQuery: query.Encode()}).String()}}.Encode()
}

// ofField is the address of the page whose report is saved.
const ofField = "of"

// periodChoice is a period that moves on, as a form has it.
type periodChoice struct {
	value, title string
	period       *meteringv1.ReportPeriod
	// preset is the title of the preset that it is chosen for.
	preset string
}

func periodChoices() []periodChoice {
	kind := func(kind meteringv1.ReportPeriod_Kind, days int32) *meteringv1.ReportPeriod {
		return &meteringv1.ReportPeriod{Kind: kind, Days: days}
	}
	return []periodChoice{
		{"", "these very days", nil, ""},
		{"yesterday", "yesterday", kind(meteringv1.ReportPeriod_KIND_LAST_DAYS, 1), "Yesterday"},
		{"last-7", "the last 7 days, up to yesterday", kind(meteringv1.ReportPeriod_KIND_LAST_DAYS, 7), ""},
		{"last-30", "the last 30 days, up to yesterday", kind(meteringv1.ReportPeriod_KIND_LAST_DAYS, 30), ""},
		{"last-90", "the last 90 days, up to yesterday", kind(meteringv1.ReportPeriod_KIND_LAST_DAYS, 90), ""},
		{"last-week", "last week, Monday to Sunday", kind(meteringv1.ReportPeriod_KIND_LAST_WEEK, 0), ""},
		{"last-month", "last month", kind(meteringv1.ReportPeriod_KIND_LAST_MONTH, 0), "Last month"},
		{"last-quarter", "last quarter", kind(meteringv1.ReportPeriod_KIND_LAST_QUARTER, 0), ""},
		{"last-year", "last year", kind(meteringv1.ReportPeriod_KIND_LAST_YEAR, 0), ""},
		{"today", "today, until now", kind(meteringv1.ReportPeriod_KIND_TODAY, 0), "Today"},
		{"now-7", "7 days, until now", kind(meteringv1.ReportPeriod_KIND_DAYS_TO_NOW, 7), "7 days"},
		{"now-30", "30 days, until now", kind(meteringv1.ReportPeriod_KIND_DAYS_TO_NOW, 30), "30 days"},
		{"this-week", "this week, until now", kind(meteringv1.ReportPeriod_KIND_THIS_WEEK, 0), ""},
		{"this-month", "this month, until now", kind(meteringv1.ReportPeriod_KIND_THIS_MONTH, 0), "This month"},
		{"this-quarter", "this quarter, until now", kind(meteringv1.ReportPeriod_KIND_THIS_QUARTER, 0), ""},
		{"this-year", "this year, until now", kind(meteringv1.ReportPeriod_KIND_THIS_YEAR, 0), ""},
	}
}

// periodOfForm is the period that a form names.
func periodOfForm(f *sent) (*meteringv1.ReportPeriod, error) {
	for _, c := range periodChoices() {
		if c.value == f.text("period") {
			return c.period, nil
		}
	}
	return nil, errs.InvalidFields("console.form", "", errs.Field{Path: "period", Description: "is none of those to choose from"})
}

// periodWord is a period as the form has it, and in words; one that no form makes stays as it is.
func periodWord(p *meteringv1.ReportPeriod) (value, title string) {
	if p == nil {
		return "", "these very days"
	}
	for _, c := range periodChoices() {
		if c.period.GetKind() == p.GetKind() && c.period.GetDays() == p.GetDays() {
			return c.value, c.title
		}
	}
	return otherPeriod, strconv.Itoa(int(p.GetDays())) + " days"
}

// otherPeriod is a period that was chosen elsewhere.
const otherPeriod = "other"

// newSavedPage is the form that saves a report.
type newSavedPage struct {
	Create  *form
	Of      string
	Title   string
	Periods []choice
	// Shares says that the person may share it.
	Shares bool
}

// reportAt is the visit of a page of a report by its address, and that page.
func (s *Service) reportAt(v *visit, address string) (*visit, *page, error) {
	u, err := url.Parse(address)
	if err == nil && u.Host == "" && u.Scheme == "" {
		if p := s.savable[u.Path]; p != nil {
			if !p.may(v.caller.Privileges) {
				return nil, nil, errs.New(errs.Denied, "console", "", "this report is for others: your login does not have the privilege that it needs")
			}
			at := *v
			at.r = v.r.Clone(v.ctx)
			at.r.Method, at.r.URL, at.page, at.asked = http.MethodGet, u, p, nil
			return &at, p, askable(&at)
		}
	}
	return nil, nil, errs.InvalidFields("console.form", "", errs.Field{Path: ofField, Description: "is no report: save one by the button on its page"})
}

// reportOfForm is the address of the report that a form is of, also where the form comes back.
func reportOfForm(v *visit) string {
	if v.refused != nil {
		return v.refused.values.Get(ofField)
	}
	return v.r.URL.Query().Get(ofField)
}

func (s *Service) newSaved(v *visit) (any, error) {
	address := reportOfForm(v)
	if address == "" {
		return newSavedPage{}, nil
	}
	at, p, err := s.reportAt(v, address)
	if err != nil {
		return nil, err
	}
	page := newSavedPage{Of: address, Title: p.title, Shares: seesAll(v.caller.Privileges)}
	chosen, query := "", at.r.URL.Query()
	switch {
	case query.Get(compareParameter) == yearComparison: // whose days stand still
	case query.Has("from") && seesUse(v.caller.Privileges):
		period, err := s.periodOf(at, 0)
		if err != nil {
			return nil, err
		}
		for _, preset := range period.Presets {
			for _, c := range periodChoices() {
				if preset.Chosen && c.preset == preset.Title {
					chosen = c.value
				}
			}
		}
	case !query.Has("first"):
		chosen = "last-30"
	}
	for _, c := range periodChoices() {
		page.Periods = append(page.Periods, choice{Value: c.value, Title: c.title})
	}
	page.Create = v.form("/saved-reports/new", url.Values{"display_name": {p.title}, "period": {chosen}, ofField: {address}}, "")
	return page, nil
}

func (s *Service) saveReport(v *visit, f *sent) (outcome, error) {
	at, p, err := s.reportAt(v, f.text(ofField))
	if err != nil {
		return outcome{}, err
	}
	question, err := s.question(at, p)
	if err != nil {
		return outcome{}, err
	}
	saved := &meteringv1.SavedReport{DisplayName: f.text("display_name"), Report: question, Shared: f.is("shared")}
	if saved.Period, err = periodOfForm(f); err != nil {
		return outcome{}, err
	}
	if err := s.standsStill(v, saved); err != nil {
		return outcome{}, err
	}
	moveOn(saved)
	answer, err := s.savedAPI.CreateSavedReport(v.ctx, &meteringv1.CreateSavedReportRequest{SavedReport: saved, RequestId: f.requestID})
	return outcome{next: of("/saved-reports", answer.GetSavedReport().GetSavedReportId()), notice: "The report is saved. Here you choose when it is sent, and to whom."}, err
}

// standsStill refuses a period that moves on for a report that is compared with the year before, which the
// API can name for days that stand still only.
func (s *Service) standsStill(v *visit, saved *meteringv1.SavedReport) error {
	asked := askedOf(saved.GetReport())
	if saved.GetPeriod() == nil || asked == nil {
		return nil
	}
	zone, err := s.zoneFor(v)
	if err != nil {
		return err
	}
	if days, ok := asked.Interface().(dated); ok && comparisonOf(days, zone) == yearComparison {
		return errs.InvalidFields("console.form", "", errs.Field{Path: "period", Description: "moves on, and the year before cannot: choose these very days, or save the report compared with the time before"})
	}
	return nil
}

// moveOn leaves out what stands still while a saved report's period moves on: what it is compared with is
// the time before then.
func moveOn(saved *meteringv1.SavedReport) {
	m := askedOf(saved.GetReport())
	if m == nil {
		return
	}
	fields := m.Descriptor().Fields()
	if fields.ByName("end_time") == nil && fields.ByName("last_month") == nil {
		saved.Period = nil // it is about no period
	}
	if field := fields.ByName("as_of_position"); field != nil {
		m.Clear(field)
	}
	if saved.GetPeriod() == nil {
		return
	}
	compared := false
	for _, name := range []protoreflect.Name{"compare_start_time", "compare_end_time"} {
		if field := fields.ByName(name); field != nil && m.Has(field) {
			compared = true
			m.Clear(field)
		}
	}
	if field := fields.ByName("compare"); field != nil && compared {
		m.Set(field, protoreflect.ValueOfBool(true))
	}
}

// askedOf is the message of a report's own method; nil where there is none.
func askedOf(question *meteringv1.ReportQuestion) protoreflect.Message {
	m := question.ProtoReflect()
	if one := m.WhichOneof(m.Descriptor().Oneofs().Get(0)); one != nil {
		return m.Mutable(one).Message()
	}
	return nil
}

// savedLine is a saved report in the list.
type savedLine struct {
	*meteringv1.SavedReport
	Kind, Period string
	Mine         bool
}

func (s *Service) savedReports(v *visit) (any, error) {
	page, err := list(s, v, func(size int32, token string) ([]savedLine, string, error) {
		answer, err := s.savedAPI.ListSavedReports(v.ctx, &meteringv1.ListSavedReportsRequest{PageSize: size, PageToken: token})
		var lines []savedLine
		for _, r := range answer.GetSavedReports() {
			line := savedLine{SavedReport: r, Mine: r.GetOwnerLoginId() == v.caller.Login.String()}
			line.Kind, _ = addressOf(r.GetReport(), time.UTC)
			_, line.Period = periodWord(r.GetPeriod())
			lines = append(lines, line)
		}
		return lines, answer.GetNextPageToken(), err
	})
	return savedReportsPage{page}, err
}

// savedReportsPage is the list of saved reports.
type savedReportsPage struct{ listPage[savedLine] }

// Parts are one's own, and others'.
func (p savedReportsPage) Parts() []savedPart {
	parts := []savedPart{{Title: "Mine", Empty: "You have saved none yet"}, {Title: "Others'"}}
	for _, line := range p.Items {
		part := &parts[1]
		if line.Mine {
			part = &parts[0]
		}
		part.Lines = append(part.Lines, line)
	}
	if len(parts[1].Lines) == 0 {
		parts = parts[:1]
	}
	return parts
}

// savedPart is a part of the list.
type savedPart struct {
	Title, Empty string
	Lines        []savedLine
}

// savedReportPage is one saved report.
type savedReportPage struct {
	Zone                         *time.Location
	Saved                        *meteringv1.SavedReport
	Kind, PeriodTitle            string
	Facts                        []string
	Change, Schedule, Send       *form
	Periods, Recurrences         []choice
	Weekdays, Days, Files, Whose []choice
	// Unreached are those to choose who have no mail address; NoAddress says that oneself is one.
	Unreached []choice
	NoAddress bool
	// WhoseHint says who can be chosen.
	WhoseHint                    string
	Shares, HasPeriod, HasReason bool
	Runs                         []*meteringv1.ReportRun
	names                        map[string]string
}

const linkFile = "LINK"

func (s *Service) savedReport(v *visit) (any, error) {
	id := v.r.PathValue("id")
	got, err := s.savedAPI.GetSavedReport(v.ctx, &meteringv1.GetSavedReportRequest{SavedReportId: id})
	if err != nil {
		return nil, err
	}
	zone, err := s.zoneFor(v)
	if err != nil {
		return nil, err
	}
	runs, err := s.savedAPI.ListReportRuns(v.ctx, &meteringv1.ListReportRunsRequest{SavedReportId: id, PageSize: 50})
	if err != nil {
		return nil, err
	}
	saved := got.GetSavedReport()
	page := savedReportPage{Zone: zone, Saved: saved, Runs: runs.GetRuns(), Shares: seesAll(v.caller.Privileges), names: map[string]string{v.caller.Login.String(): "you"}}
	page.Kind, _ = addressOf(saved.GetReport(), zone)
	page.Facts = factsOfSaved(saved, zone)
	if m := askedOf(saved.GetReport()); m != nil {
		page.HasPeriod = m.Descriptor().Fields().ByName("end_time") != nil || m.Descriptor().Fields().ByName("last_month") != nil
		page.HasReason = m.Descriptor().Fields().ByName("reason") != nil
	}
	var period string
	period, page.PeriodTitle = periodWord(saved.GetPeriod())
	for _, c := range periodChoices() {
		page.Periods = append(page.Periods, choice{Value: c.value, Title: c.title})
	}
	if period == otherPeriod {
		page.Periods = append(page.Periods, choice{Value: otherPeriod, Title: page.PeriodTitle})
	}
	if err := s.whoGets(v, &page); err != nil {
		return nil, err
	}
	values := url.Values{"display_name": {saved.GetDisplayName()}, "period": {period}, "reason": {reasonIn(saved.GetReport())}}
	if saved.GetShared() {
		values.Set("shared", "yes")
	}
	page.Change = v.form(of("/saved-reports", id), values, saved.GetEtag())
	page.Schedule = v.form(of("/saved-reports", id, "schedule"), scheduleValues(saved), saved.GetEtag())
	page.Send = v.form(of("/saved-reports", id, "send"), nil, "")
	for _, c := range [][2]string{{"", "by hand only"}, {"1", "each day"}, {"2", "each week"}, {"3", "each month"}} {
		page.Recurrences = append(page.Recurrences, choice{Value: c[0], Title: c[1]})
	}
	for d := 1; d <= 7; d++ {
		page.Weekdays = append(page.Weekdays, choice{Value: strconv.Itoa(d), Title: time.Weekday(d % 7).String()})
	}
	for d := 1; d <= 30; d++ {
		page.Days = append(page.Days, choice{Value: strconv.Itoa(d), Title: strconv.Itoa(d)})
	}
	page.Days = append(page.Days, choice{Value: "31", Title: "the last day"})
	page.Files = append(fileFormats(), choice{Value: linkFile, Title: "a link only"})
	return page, nil
}

// whoGets fills in whom a report can be sent to: of all logins for who may see these, or else oneself
// and those who are there.
func (s *Service) whoGets(v *visit, page *savedReportPage) error {
	page.WhoseHint = "Others than the owner get what is shared. Whoever administers the account adds them here: they see all logins."
	if administers(v.caller.Privileges) {
		page.WhoseHint = "Others than the owner get what is shared, and need the privilege Report or Account Administrator."
		all, more, err := s.everyLogin(v)
		if err != nil {
			return err
		}
		if more {
			page.WhoseHint += " There are more logins than are looked through here: the API takes them all."
		}
		for _, login := range all {
			name := cmp.Or(login.GetDisplayName(), login.GetName())
			page.names[login.GetLoginId()] = name
			if login.GetDisabled() {
				name += " (disabled)"
			}
			if login.GetMailAddress() == "" {
				name += " (no mail address)"
			}
			sees := slices.Contains(login.GetPrivileges(), authzv1.Privilege_PRIVILEGE_REPORT) || slices.Contains(login.GetPrivileges(), authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
			if login.GetLoginId() == page.Saved.GetOwnerLoginId() || sees && page.Saved.GetShared() {
				page.Whose = append(page.Whose, choice{Value: login.GetLoginId(), Title: name})
				if login.GetMailAddress() == "" {
					page.Unreached = append(page.Unreached, choice{Value: login.GetLoginId(), Title: page.names[login.GetLoginId()]})
				}
			}
		}
	} else if page.Saved.GetOwnerLoginId() == v.caller.Login.String() {
		page.Whose = append(page.Whose, choice{Value: v.caller.Login.String(), Title: "you"})
		mine, err := s.logins.GetMyLogin(v.ctx, &identityv1.GetMyLoginRequest{})
		if err != nil {
			return err
		}
		page.NoAddress = mine.GetLogin().GetMailAddress() == ""
	}
	for _, login := range page.Saved.GetSchedule().GetDelivery().GetRecipientLoginIds() {
		if !slices.ContainsFunc(page.Whose, func(c choice) bool { return c.Value == login }) {
			page.Whose = append(page.Whose, choice{Value: login, Title: cmp.Or(page.names[login], "another login")})
		}
	}
	return nil
}

// Login is what a login is called, as far as whoever looks may know.
func (p savedReportPage) Login(id string) string { return cmp.Or(p.names[id], "another login") }

// Missed is why somebody got no mail.
func (savedReportPage) Missed(problem meteringv1.RecipientProblem) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(problem.String(), "RECIPIENT_PROBLEM_"), "_", " "))
}

// Failed, UnderWay and Sent tell how a run is.
func (savedReportPage) Failed(r *meteringv1.ReportRun) bool {
	return r.GetState() == meteringv1.ReportRun_STATE_FAILED
}

// UnderWay tells that it has not ended.
func (savedReportPage) UnderWay(r *meteringv1.ReportRun) bool {
	return r.GetState() == meteringv1.ReportRun_STATE_UNDER_WAY
}

// Failed tells it of the list.
func (savedReportsPage) Failed(r *meteringv1.ReportRun) bool {
	return r.GetState() == meteringv1.ReportRun_STATE_FAILED
}

// reasonIn is why named use is looked at.
func reasonIn(question *meteringv1.ReportQuestion) string {
	if m := askedOf(question); m != nil {
		if field := m.Descriptor().Fields().ByName("reason"); field != nil {
			return m.Get(field).String()
		}
	}
	return ""
}

// factsOfSaved are what a saved report asks, in words.
func factsOfSaved(saved *meteringv1.SavedReport, zone *time.Location) (facts []string) {
	_, address := addressOf(saved.GetReport(), zone)
	u, err := url.Parse(address)
	if err != nil {
		return nil
	}
	query := u.Query()
	if saved.GetPeriod() == nil && query.Has("from") {
		facts = append(facts, query.Get("from")+" to "+query.Get("to"))
	}
	for _, name := range narrowings {
		if n := len(slices.DeleteFunc(query[name], func(id string) bool { return id == "" })); n == 1 {
			facts = append(facts, "one "+name+" only")
		} else if n > 1 {
			facts = append(facts, strconv.Itoa(n)+" "+strings.ReplaceAll(name+"s", "persons", "people")+" only")
		}
		query.Del(name)
	}
	for _, name := range []string{"from", "to", reasonParameter} {
		query.Del(name)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if fact := factOf(name, query); fact != "" {
			facts = append(facts, fact)
		}
	}
	return facts
}

// factOf is a parameter of a page's address in the page's words; empty where the kind of report says it.
func factOf(name string, query url.Values) string {
	value := query.Get(name)
	titled := func(choices []choice) string {
		for _, c := range choices {
			if c.Value == value {
				return c.Title
			}
		}
		return value
	}
	switch {
	case value == "" || name == "view" || name == "currency":
		return ""
	case name == "by" && value == "both":
		return "by person and machine"
	case name == "by", name == "rows" && value != "run":
		return "by " + value
	case name == "rows":
		return "each run"
	case name == "counting":
		return "counting each person once"
	case name == "rank":
		return "most of " + map[string]string{"open": "open time", "runs": "runs", "people": "people"}[value]
	case name == "measure":
		return "open hours"
	case name == "metric":
		all, _ := metricChoices(&asked{}, value)
		return "a licence is for " + titled(all)
	case name == compareParameter:
		return "compared with " + titled(comparedWith(&asked{}, "", period{}).Choices)
	case name == "give-back":
		return "given back after " + value + " idle minutes"
	case name == "refused":
		return value + " millionths of the wanted time refused"
	case name == "bought":
		return value + " bought"
	case name == "price":
		return value + " " + query.Get("currency") + " each"
	case name == "days":
		return value + " days ahead"
	case name == "not-for":
		return "not busy for " + value + " days"
	case name == "less":
		return "busy for fewer hours than " + value
	case name == "at-least":
		return "stretches of at least " + value + " minutes"
	case name == "first":
		return "from " + value
	case name == "last":
		return "to " + value
	}
	return labelOf(name).label + " " + value
}

// scheduleValues are a schedule as its form has it.
func scheduleValues(saved *meteringv1.SavedReport) url.Values {
	s := saved.GetSchedule()
	if s == nil {
		return url.Values{"recurrence": {""}, "weekdays": {"1"}, "day_of_month": {"1"}, "time_of_day": {"07:00"}, "file": {"XLSX"}, "recipient_login_ids": {saved.GetOwnerLoginId()}}
	}
	values := url.Values{
		"recurrence": {strconv.Itoa(int(s.GetRecurrence()))}, "time_of_day": {s.GetTimeOfDay()}, "day_of_month": {strconv.Itoa(max(int(s.GetDayOfMonth()), 1))},
		"recipient_login_ids": s.GetDelivery().GetRecipientLoginIds(), "file": {strings.TrimPrefix(s.GetDelivery().GetFormat().String(), "EXPORT_FORMAT_")},
	}
	if s.GetDelivery().GetFormat() == meteringv1.ExportFormat_EXPORT_FORMAT_UNSPECIFIED {
		values.Set("file", "XLSX")
	}
	if s.GetDelivery().GetLinkOnly() {
		values.Set("file", linkFile)
	}
	for _, day := range s.GetWeekdays() {
		values.Add("weekdays", strconv.Itoa(int(day)))
	}
	if len(s.GetWeekdays()) == 0 { // for who makes it a weekly one
		values.Set("weekdays", "1")
	}
	if s.GetPaused() {
		values.Set("paused", "yes")
	}
	return values
}

func (s *Service) changeSaved(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	got, err := s.savedAPI.GetSavedReport(v.ctx, &meteringv1.GetSavedReportRequest{SavedReportId: id})
	if err != nil {
		return outcome{}, err
	}
	saved := got.GetSavedReport()
	saved.DisplayName, saved.Shared, saved.Etag = f.text("display_name"), f.is("shared"), f.etag()
	if f.text("period") != otherPeriod {
		if saved.Period, err = periodOfForm(f); err != nil {
			return outcome{}, err
		}
	}
	if err := s.standsStill(v, saved); err != nil {
		return outcome{}, err
	}
	moveOn(saved)
	if m := askedOf(saved.GetReport()); m != nil {
		if field := m.Descriptor().Fields().ByName("reason"); field != nil {
			m.Set(field, protoreflect.ValueOfString(f.text("reason")))
		}
	}
	_, err = s.savedAPI.UpdateSavedReport(v.ctx, &meteringv1.UpdateSavedReportRequest{
		SavedReport: saved, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name", "report", "period", "shared"}}, RequestId: f.requestID,
	})
	return outcome{next: of("/saved-reports", id), notice: "The report is changed."}, err
}

func (s *Service) scheduleSaved(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	recurrence, err := f.number("recurrence")
	if err != nil {
		return outcome{}, err
	}
	saved := &meteringv1.SavedReport{SavedReportId: id, Etag: f.etag()}
	notice := "It is sent by hand only now."
	if recurrence != 0 {
		notice = "The schedule is changed."
		schedule := &meteringv1.ReportSchedule{
			Recurrence: meteringv1.ReportSchedule_Recurrence(recurrence), TimeOfDay: clockOf(f.text("time_of_day")), Paused: f.is("paused"),
			Delivery: &meteringv1.ReportDelivery{RecipientLoginIds: f.all("recipient_login_ids"), LinkOnly: f.text("file") == linkFile},
		}
		schedule.Delivery.Format = meteringv1.ExportFormat(meteringv1.ExportFormat_value["EXPORT_FORMAT_"+f.text("file")])
		switch schedule.GetRecurrence() {
		case meteringv1.ReportSchedule_RECURRENCE_WEEKLY:
			for _, text := range f.all("weekdays") {
				day, err := strconv.ParseInt(text, 10, 32)
				if err != nil {
					return outcome{}, errs.InvalidFields("console.form", "", errs.Field{Path: "weekdays", Description: "is no day of the week"})
				}
				schedule.Weekdays = append(schedule.Weekdays, meteringv1.Weekday(day))
			}
		case meteringv1.ReportSchedule_RECURRENCE_MONTHLY:
			if schedule.DayOfMonth, err = f.number("day_of_month"); err != nil {
				return outcome{}, err
			}
		default:
		}
		saved.Schedule = schedule
	}
	_, err = s.savedAPI.UpdateSavedReport(v.ctx, &meteringv1.UpdateSavedReportRequest{SavedReport: saved, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"schedule"}}, RequestId: f.requestID})
	return outcome{next: of("/saved-reports", id), notice: notice}, s.namedRecipients(v, f, err)
}

// clockOf is a time of day without the seconds that some browsers send.
func clockOf(text string) string {
	if t, err := time.Parse(time.TimeOnly, text); err == nil {
		return t.Format("15:04")
	}
	return text
}

// namedRecipients says of whom something is wrong, in place of which of them by number.
func (s *Service) namedRecipients(v *visit, f *sent, err error) error {
	wrong, ids := violations(statusOf(err)), f.all("recipient_login_ids")
	if !slices.ContainsFunc(wrong, func(w *errdetails.BadRequest_FieldViolation) bool {
		return fieldOf(w.GetField()) == "recipient_login_ids"
	}) {
		return err
	}
	names := map[string]string{v.caller.Login.String(): "you"}
	if administers(v.caller.Privileges) {
		if known, err := s.namesOfLogins(v, ids); err == nil {
			names = known
		}
	}
	var fields []errs.Field
	var said []string
	for _, w := range wrong {
		if fieldOf(w.GetField()) != "recipient_login_ids" {
			fields = append(fields, errs.Field{Path: w.GetField(), Description: w.GetDescription()})
			continue
		}
		text := w.GetDescription()
		if _, number, ok := strings.Cut(w.GetField(), "["); ok {
			if i, err := strconv.Atoi(strings.TrimSuffix(number, "]")); err == nil && i < len(ids) {
				text = cmp.Or(names[ids[i]], "another login") + " " + text
			}
		}
		said = append(said, text)
	}
	fields = append(fields, errs.Field{Path: "recipient_login_ids", Description: strings.Join(said, "; ")})
	return errs.InvalidFields("console.savedReport", "", fields...)
}

func (s *Service) sendSaved(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	_, err := s.savedAPI.SendSavedReport(v.ctx, &meteringv1.SendSavedReportRequest{SavedReportId: id, RequestId: f.requestID})
	return outcome{next: of("/saved-reports", id), notice: "It is made and sent now. Below it says what became of it."}, err
}

func (s *Service) confirmDeleteSaved(v *visit) (confirmation, error) {
	id := v.r.PathValue("id")
	got, err := s.savedAPI.GetSavedReport(v.ctx, &meteringv1.GetSavedReportRequest{SavedReportId: id})
	return confirmation{
		Title: "Delete a saved report", Text: "The saved report “" + got.GetSavedReport().GetDisplayName() + "” is to go, with its schedule.",
		Consequences: []string{"It is sent to nobody any more. What it showed stays where it was counted."},
		Button:       "Delete the saved report", Back: of("/saved-reports", id),
	}, err
}

func (s *Service) deleteSaved(v *visit, f *sent) (outcome, error) {
	_, err := s.savedAPI.DeleteSavedReport(v.ctx, &meteringv1.DeleteSavedReportRequest{SavedReportId: v.r.PathValue("id"), RequestId: f.requestID})
	return outcome{next: "/saved-reports", notice: "The saved report is deleted."}, err
}

// openSaved leads to the page of what a saved report asks now, or asked at a moment.
func (s *Service) openSaved(v *visit) {
	address, err := s.savedAddress(v.ctx, v)
	if err != nil {
		s.fail(v, err)
		return
	}
	http.Redirect(v.w, v.r, address, http.StatusSeeOther)
}

func (s *Service) savedAddress(ctx context.Context, v *visit) (string, error) {
	req := &meteringv1.ResolveSavedReportRequest{SavedReportId: v.r.PathValue("id")}
	if text := v.r.URL.Query().Get("at"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return "", errs.InvalidFields("console.saved", "", errs.Field{Path: "at", Description: "is no moment such as 2026-03-01T09:15:00Z"})
		}
		req.AtTime = timestamppb.New(at)
	}
	resolved, err := s.savedAPI.ResolveSavedReport(ctx, req)
	if err != nil {
		return "", err
	}
	zone, err := s.zoneFor(v)
	if err != nil {
		return "", err
	}
	_, address := addressOf(resolved.GetReport(), zone)
	if address == "" {
		return "", errs.New(errs.Precondition, "console.saved", "", "this report is of another version of Cetrus: ask it by the API")
	}
	return address, nil
}
