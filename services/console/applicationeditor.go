package console

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// newApplication stands in an address where an application's id does.
const newApplication = "new"

// triedRows is how many lines of a dry run are shown.
const triedRows = 50

// editor is the page of one application: its rules with a dry run beside them, and all else that
// agents are told of it.
type editor struct {
	Zone *time.Location
	// ID is newApplication where there is none yet.
	ID          string
	Application *meteringv1.Application
	Form        *form
	Rows        []*ruleRow
	Trial       *trial
	Rollout     *rollout
	Choices     map[string][]choice
}

// DraftTrigger is where the form is sent to be tried.
func (e *editor) DraftTrigger() string { return e.Form.Action + "/draft" }

// Problems are the places beside the fields of rules, which a trial fills while somebody writes.
func (e *editor) Problems() string {
	var places []string
	for _, r := range e.Rows {
		for _, f := range []field{r.Executable, r.Path, r.WindowClass, r.Title, r.Package, r.DocumentTitle, r.Priority} {
			places = append(places, "#"+f.ID+"-below")
		}
	}
	return strings.Join(places, ",")
}

// ruleRow is one rule in the form.
type ruleRow struct {
	Number int
	RuleID string
	draft  string
	// Fields are the inputs; those that an agent may find wrong are first.
	Executable, Path, WindowClass, Title, Package, DocumentTitle, Priority field
}

// Draft is where the form is sent to be tried.
func (r *ruleRow) Draft() string { return r.draft }

// Prefix begins the names of a rule's inputs.
func (r *ruleRow) Prefix() string { return rulePrefix(r.Number) }

func rulePrefix(n int) string { return fmt.Sprintf("rules_%d_", n) }

// trial is what a dry run answers.
type trial struct {
	// Wrong is why it could not be done.
	Wrong  string
	Answer *meteringv1.TestRulesResponse
	// Lines are the first of the matches, More how many there are beside.
	Lines []*meteringv1.RuleMatch
	More  int
	// numbers are those of the rules in the form, by their place in what was tried.
	numbers []int
}

// Rule is the number of a rule as the page shows it.
func (t *trial) Rule(index int32) int {
	if index < 0 || int(index) >= len(t.numbers) {
		return int(index) + 1 // the API tells of one that it was not sent
	}
	return t.numbers[index]
}

// Precedence is who gets a program, in words.
func (*trial) Precedence(c *meteringv1.Claim) string {
	name := c.GetDisplayName()
	switch c.GetPrecedence() {
	case meteringv1.Precedence_PRECEDENCE_TESTED_RULE:
		return "taken from " + name
	case meteringv1.Precedence_PRECEDENCE_PRESENT:
		if c.GetMachineCount() == 0 {
			return "would go to " + name
		}
		return "stays with " + name
	case meteringv1.Precedence_PRECEDENCE_UNDECIDED:
		return "open between this and " + name + ": give the rules different priorities"
	case meteringv1.Precedence_PRECEDENCE_OWN:
		return "its own already"
	case meteringv1.Precedence_PRECEDENCE_UNSPECIFIED:
	}
	return name
}

// lengths are what gap and timeout may be chosen from.
var lengths = []time.Duration{
	30 * time.Second, time.Minute, 2 * time.Minute, 3 * time.Minute, 5 * time.Minute, 10 * time.Minute,
	15 * time.Minute, 20 * time.Minute, 30 * time.Minute, 45 * time.Minute, time.Hour,
}

// lengthChoices are these, and what is there.
func lengthChoices(present *durationpb.Duration) (all []choice) {
	set := slices.Clone(lengths)
	if d := present.AsDuration(); d > 0 && !slices.Contains(set, d) {
		set = append(set, d)
		slices.Sort(set)
	}
	for _, d := range set {
		all = append(all, choice{Value: d.String(), Title: lengthWords(d)})
	}
	return all
}

var (
	scopeChoices = []choice{
		{Value: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE.String(), Title: "From the first process to the last exit"},
		{Value: policyv1.InstanceScope_INSTANCE_SCOPE_SESSION.String(), Title: "All of it in one desktop session together"},
		{Value: policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW.String(), Title: "Each window on its own"},
	}
	reductionChoices = []choice{
		{Value: policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING.String(), Title: "Nothing of it"},
		{Value: policyv1.DocumentReduction_DOCUMENT_REDUCTION_CATEGORY.String(), Title: "Its kind: the extension"},
		{Value: policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH.String(), Title: "A mark that nobody can read, to add up by"},
		{Value: policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME.String(), Title: "The file's name without its folder"},
		{Value: policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL.String(), Title: "The whole title or path"},
	}
	subjectChoices = []choice{
		{Value: policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION.String(), Title: "The application as a whole"},
		{Value: policyv1.PromptSubject_PROMPT_SUBJECT_WINDOW.String(), Title: "Each window that shows a document"},
		{Value: policyv1.PromptSubject_PROMPT_SUBJECT_FILE.String(), Title: "Each file"},
	}
)

// application is the page of one.
func (s *Service) application(v *visit) (any, error) {
	a, err := s.applicationToEdit(v)
	if err != nil {
		return nil, err
	}
	return s.edit(v, a, nil)
}

// applicationToEdit is the application that the address names, or one that is to be made.
func (s *Service) applicationToEdit(v *visit) (*meteringv1.Application, error) {
	id := v.r.PathValue("id")
	if id != newApplication {
		answer, err := s.programs.GetApplication(v.ctx, &meteringv1.GetApplicationRequest{ApplicationId: id})
		return answer.GetApplication(), err
	}
	query := v.r.URL.Query()
	if template := query.Get("template"); template != "" {
		answer, err := s.programs.GetApplicationTemplate(v.ctx, &meteringv1.GetApplicationTemplateRequest{TemplateId: template})
		t := answer.GetTemplate()
		return &meteringv1.Application{DisplayName: t.GetDisplayName(), Rules: t.GetRules(), TitleRules: t.GetTitleRules(), Documents: t.GetDocuments(), RemoteClient: t.GetRemoteClient()}, err
	}
	name := query.Get("name")
	return &meteringv1.Application{DisplayName: name, Rules: []*meteringv1.Rule{ruleByName(name, query.Get("packaged") != "")}}, nil
}

// edit makes the page of an application, filled from it, from what was just refused, or from a
// draft that is to be tried.
func (s *Service) edit(v *visit, a *meteringv1.Application, draft *sent) (*editor, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	e := &editor{Zone: zone, ID: v.r.PathValue("id"), Application: a}
	action := of("/applications", e.ID)
	typed := applicationValues(a)
	if draft != nil {
		typed = draft.values
		v.refused = &refusal{action: action, values: typed, st: statusOf(nil)}
	} else if v.refused != nil {
		typed = v.refused.values
	}
	e.Trial, err = s.tryRules(v, e.ID, typed)
	if err != nil {
		if draft == nil && v.refused == nil || statusOf(err).Code() != codes.InvalidArgument {
			return nil, err
		}
		e.Trial = &trial{Wrong: "These rules cannot be tried: what is wrong is said beside them."}
		switch {
		case draft != nil:
			v.refused.st = statusOf(err)
		case v.refused.st.Code() == codes.InvalidArgument: // what was found first may hide it
			v.refused.st = together(v.refused.st, statusOf(err))
		}
	}
	e.Form = v.form(action, applicationValues(a), a.GetEtag())
	e.Choices = map[string][]choice{
		"activity_gap": lengthChoices(a.GetActivityGap()), "timeout": lengthChoices(a.GetTimeout()),
		"instance_scope": scopeChoices, "document_reduction": reductionChoices, "subject": subjectChoices,
	}
	for _, n := range ruleNumbers(e.Form.values) {
		e.Rows = append(e.Rows, e.Form.ruleRow(n))
	}
	if e.ID != newApplication {
		e.Rollout, err = s.rolloutOf(v, of("/applications", e.ID, "rollout"), a.GetPolicyRevision())
	}
	return e, err
}

func (f *form) ruleRow(n int) *ruleRow {
	prefix := rulePrefix(n)
	return &ruleRow{
		Number: n, RuleID: f.values.Get(prefix + "rule_id"), draft: f.Action + "/draft",
		Executable:    f.Field(prefix+"executable", "Executable", "max=255", "hint=Its file’s name, without .exe, as gimp*"),
		Path:          f.Field(prefix+"path", "Path", "max=1024", "hint=Folder and file, as */Office16/*"),
		WindowClass:   f.Field(prefix+"window_class", "Window class", "max=255", "hint=As libreoffice-writer"),
		Title:         f.Field(prefix+"title", "Title", "max=1024", "hint=An RE2 expression, as Wiki$"),
		Package:       f.Field(prefix+"package", "Package", "max=255", "hint=Of snap, flatpak or AppX"),
		DocumentTitle: f.Field(prefix+"document_title", "Document in the title", "max=1024", "hint=RE2 with a group named document"),
		Priority:      f.Field(prefix+"priority", "Priority", "type=number", "hint=The greater one wins"),
	}
}

// applicationValues is an application as the form has it.
func applicationValues(a *meteringv1.Application) url.Values {
	gap, timeout := 30*time.Second, 30*time.Minute
	if a.GetActivityGap() != nil {
		gap, timeout = a.GetActivityGap().AsDuration(), a.GetTimeout().AsDuration()
	}
	values := url.Values{
		"display_name": {a.GetDisplayName()}, "activity_gap": {gap.String()}, "timeout": {timeout.String()},
		"instance_scope": {a.GetInstanceScope().String()}, "document_reduction": {a.GetDocumentReduction().String()},
		"subject": {max(a.GetProjectPrompt().GetSubject(), policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION).String()},
	}
	for name, is := range map[string]bool{
		"documents": a.GetDocuments(), "remote_client": a.GetRemoteClient(), "enabled": a.GetProjectPrompt().GetEnabled(),
		"holds_launch": a.GetProjectPrompt().GetHoldsLaunch(), "at_close": a.GetProjectPrompt().GetAtClose(),
	} {
		if is {
			values.Set(name, "yes")
		}
	}
	var titles []string
	for _, t := range a.GetTitleRules() {
		titles = append(titles, t.GetPattern())
	}
	values.Set("title_rules", strings.Join(titles, "\n"))
	for n, r := range a.GetRules() {
		setRule(values, n+1, r)
	}
	return values
}

func setRule(values url.Values, n int, r *meteringv1.Rule) {
	prefix := rulePrefix(n)
	for name, text := range map[string]string{
		"rule_id": r.GetRuleId(), "executable": r.GetExecutable(), "path": r.GetPath(), "window_class": r.GetWindowClass(), "title": r.GetTitle(),
		"package": r.GetPackage(), "document_title": r.GetDocumentTitle(), "priority": strconv.Itoa(int(r.GetPriority())),
	} {
		values.Set(prefix+name, text)
	}
}

var ruleName = regexp.MustCompile(`^rules_([1-9][0-9]{0,3})_[a-z_]+$`)

// ruleNumbers are the rules that a form holds.
func ruleNumbers(values url.Values) []int {
	numbers := map[int]bool{}
	for name := range values {
		if m := ruleName.FindStringSubmatch(name); m != nil {
			n, _ := strconv.Atoi(m[1])
			numbers[n] = true
		}
	}
	return slices.Sorted(maps.Keys(numbers))
}

// rulesOf reads the rules of a form, and the number of each; what was left empty is none.
func rulesOf(values url.Values) (rules []*meteringv1.Rule, numbers []int, err error) {
	var wrong []errs.Field
	for _, n := range ruleNumbers(values) {
		text := func(name string) string { return strings.TrimSpace(values.Get(rulePrefix(n) + name)) }
		r := &meteringv1.Rule{
			RuleId: text("rule_id"), Executable: text("executable"), Path: text("path"), WindowClass: text("window_class"),
			Title: text("title"), Package: text("package"), DocumentTitle: text("document_title"),
		}
		if r.GetExecutable()+r.GetPath()+r.GetWindowClass()+r.GetTitle()+r.GetPackage()+r.GetDocumentTitle() == "" {
			continue
		}
		if priority := text("priority"); priority != "" {
			number, err := strconv.ParseInt(priority, 10, 32)
			if err != nil {
				wrong = append(wrong, errs.Field{Path: rulePrefix(n) + "priority", Description: "is no whole number that makes sense here"})
			}
			r.Priority = int32(number)
		}
		rules, numbers = append(rules, r), append(numbers, n)
	}
	if len(wrong) > 0 {
		return nil, nil, errs.InvalidFields("console.application", "", wrong...)
	}
	return rules, numbers, nil
}

// tryRules has the API try the rules of a form on what agents saw; nil where there are none yet.
func (s *Service) tryRules(v *visit, id string, values url.Values) (*trial, error) {
	rules, numbers, err := rulesOf(values)
	if err != nil || len(rules) == 0 {
		return nil, err
	}
	req := &meteringv1.TestRulesRequest{Rules: rules}
	if id != newApplication {
		req.ApplicationId = id
	}
	answer, err := s.programs.TestRules(v.ctx, req)
	if err != nil {
		return nil, besideFields(err, numbers)
	}
	t := &trial{Answer: answer, Lines: answer.GetMatches(), numbers: numbers}
	if n := len(t.Lines); n > triedRows {
		t.Lines, t.More = t.Lines[:triedRows], n-triedRows
	}
	return t, nil
}

var (
	ruleField  = regexp.MustCompile(`^(?:application\.)?rules\[(\d+)\](?:\.(\w+))?$`)
	titleField = regexp.MustCompile(`^application\.title_rules\[(\d+)\]`)
)

// besideFields has an error name the form's inputs where the API names fields of rules, by their
// place among those that were sent, and lines among the title rules.
func besideFields(err error, numbers []int) error {
	st := statusOf(err)
	wrong := violations(st)
	if len(wrong) == 0 {
		return err
	}
	var fields []errs.Field
	for _, w := range wrong {
		field := errs.Field{Path: w.GetField(), Description: w.GetDescription()}
		if m := ruleField.FindStringSubmatch(field.Path); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil && i < len(numbers) {
				name := m[2]
				if name == "" {
					name = "executable"
				}
				field.Path = rulePrefix(numbers[i]) + name
			}
		} else if m := titleField.FindStringSubmatch(field.Path); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil {
				field.Path, field.Description = "title_rules", fmt.Sprintf("line %d: %s", i+1, field.Description)
			}
		}
		fields = append(fields, field)
	}
	return errs.InvalidFields("console.application", "", fields...)
}

// together is what two refusals say of fields.
func together(a, b *status.Status) *status.Status {
	var fields []errs.Field
	for _, w := range append(violations(a), violations(b)...) {
		fields = append(fields, errs.Field{Path: w.GetField(), Description: w.GetDescription()})
	}
	return statusOf(errs.InvalidFields("console.application", "", fields...))
}

// draft tries what stands in the form, which may have a rule added to it or taken away, and shows
// it again. It changes nothing.
func (s *Service) draft(v *visit) {
	f, err := readForm(v)
	if err != nil {
		s.fail(v, err)
		return
	}
	if remove := f.text("remove"); remove != "" {
		for name := range f.values {
			if strings.HasPrefix(name, "rules_"+remove+"_") {
				f.values.Del(name)
			}
		}
	}
	if numbers := ruleNumbers(f.values); f.text("add") != "" || len(numbers) == 0 {
		next := 1
		if len(numbers) > 0 {
			next = numbers[len(numbers)-1] + 1
		}
		setRule(f.values, next, &meteringv1.Rule{})
	}
	a, err := s.applicationToEdit(v)
	if err != nil {
		s.fail(v, err)
		return
	}
	page, err := s.edit(v, a, f)
	if err != nil {
		s.fail(v, err)
		return
	}
	s.write(v, http.StatusOK, "application", "Application", page)
}

// applicationFrom reads an application out of the form.
func applicationFrom(f *sent) (a *meteringv1.Application, numbers []int, err error) {
	a = &meteringv1.Application{
		DisplayName: f.text("display_name"), Documents: f.is("documents"), RemoteClient: f.is("remote_client"), Etag: f.etag(),
		InstanceScope:     policyv1.InstanceScope(policyv1.InstanceScope_value[f.text("instance_scope")]),
		DocumentReduction: policyv1.DocumentReduction(policyv1.DocumentReduction_value[f.text("document_reduction")]),
		ProjectPrompt: &policyv1.ProjectPrompt{
			Enabled: f.is("enabled"), HoldsLaunch: f.is("holds_launch"), AtClose: f.is("at_close"),
			Subject: policyv1.PromptSubject(policyv1.PromptSubject_value[f.text("subject")]),
		},
	}
	if proto.Equal(a.GetProjectPrompt(), &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION}) {
		a.ProjectPrompt = nil // as where nobody has said anything of it
	}
	for name, set := range map[string]func(*durationpb.Duration){
		"activity_gap": func(d *durationpb.Duration) { a.ActivityGap = d }, "timeout": func(d *durationpb.Duration) { a.Timeout = d },
	} {
		d, err := time.ParseDuration(f.text(name))
		if err != nil {
			return nil, nil, errs.InvalidFields("console.application", "", errs.Field{Path: name, Description: "is no length of time"})
		}
		set(durationpb.New(d))
	}
	for line := range strings.Lines(f.text("title_rules")) {
		if pattern := strings.TrimSpace(line); pattern != "" {
			a.TitleRules = append(a.TitleRules, &meteringv1.TitleRule{Pattern: pattern})
		}
	}
	a.Rules, numbers, err = rulesOf(f.values)
	if err == nil && len(a.GetRules()) == 0 {
		err = errs.InvalidFields("console.application", "", errs.Field{Path: rulePrefix(1) + "executable", Description: "an application needs at least one rule: say by which program it is known"})
	}
	return a, numbers, err
}

// edited are the fields of an application that the form has.
var edited = []string{
	"display_name", "rules", "activity_gap", "timeout", "instance_scope", "documents", "document_reduction", "title_rules", "project_prompt", "remote_client",
}

func (s *Service) saveApplication(v *visit, f *sent) (outcome, error) {
	a, numbers, err := applicationFrom(f)
	if err != nil {
		return outcome{}, err
	}
	id := v.r.PathValue("id")
	if id == newApplication {
		answer, err := s.programs.CreateApplication(v.ctx, &meteringv1.CreateApplicationRequest{Application: a, RequestId: f.requestID})
		if err != nil {
			return outcome{}, besideFields(err, numbers)
		}
		return outcome{next: of("/applications", answer.GetApplication().GetApplicationId()), notice: "It is metered from now on. Agents are being told."}, nil
	}
	a.ApplicationId = id
	_, err = s.programs.UpdateApplication(v.ctx, &meteringv1.UpdateApplicationRequest{
		Application: a, UpdateMask: &fieldmaskpb.FieldMask{Paths: edited}, RequestId: f.requestID,
	})
	if err != nil {
		return outcome{}, besideFields(err, numbers)
	}
	return outcome{next: of("/applications", id), notice: "The application is changed. Agents are being told."}, nil
}
