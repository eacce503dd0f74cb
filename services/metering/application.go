package metering

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Catalog is the aggregate of an account's applications. They are one aggregate,
// not one each, since names are unique in the account and rules of all of them
// compete: with one subject for an account, the log's own expectation makes two
// people who take the same name at once conflict, and no reservation has to be
// given back. An account has at most some thousands of changes here in its life.
type Catalog struct {
	applications map[contract.ID]*Application
	names        map[string]contract.ID
	deleted      map[contract.ID]bool
}

// Application is something that an account meters. It is not changed once made.
type Application struct {
	ID          contract.ID
	DisplayName string
	Rules       []*policyv1.Rule
	ActivityGap time.Duration
	Timeout     time.Duration
	Scope       policyv1.InstanceScope
	Documents   bool
	Reduction   policyv1.DocumentReduction
	TitleRules  []*policyv1.TitleRule
	// Prompt says when people are asked for a project; nil: never.
	Prompt *policyv1.ProjectPrompt
	// RemoteClient: it shows what runs on other machines.
	RemoteClient bool
	// Revision counts the application's changes from 1; it is its etag.
	Revision int
}

// Limits of what an application may say.
const (
	// MinSetting and MaxSetting bound activity gap and timeout.
	MinSetting = 30 * time.Second
	MaxSetting = time.Hour
	// MinSettingForTests takes MinSetting's place where short gaps are allowed.
	MinSettingForTests = time.Second
	// MaxApplications is how many applications an account may have.
	MaxApplications = 1000
)

// NewCatalog is the catalogue of an account in which nothing has happened.
func NewCatalog() *Catalog {
	return &Catalog{
		applications: make(map[contract.ID]*Application),
		names:        make(map[string]contract.ID),
		deleted:      make(map[contract.ID]bool),
	}
}

// Application finds an application; nil where there is none.
func (c *Catalog) Application(id contract.ID) *Application { return c.applications[id] }

// Applications lists all applications by their id.
func (c *Catalog) Applications() []*Application {
	all := make([]*Application, 0, len(c.applications))
	for _, a := range c.applications {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *Application) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all
}

// Define is the command to create an application or to change one.
type Define struct {
	// Want is what the application shall be. Rules without an id get NewRuleID.
	Want Application
	// Create says that the application must not be there; otherwise it must.
	Create bool
	// Etag, where not empty, must be the etag of what is there.
	Etag string
	// ShortGaps lets gap and timeout begin at MinSettingForTests.
	ShortGaps bool
}

// Etag tells one state of an application from the next.
func (a *Application) Etag() string { return fmt.Sprintf("%d", a.Revision) }

// WithDefaults fills in what the request left open.
func (a Application) WithDefaults() Application {
	a.DisplayName = strings.TrimSpace(a.DisplayName)
	if a.ActivityGap == 0 {
		a.ActivityGap = rules.DefaultActivityGap
	}
	if a.Timeout == 0 {
		a.Timeout = rules.DefaultTimeout
	}
	if a.Scope == policyv1.InstanceScope_INSTANCE_SCOPE_UNSPECIFIED {
		a.Scope = policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE
	}
	if a.Reduction == policyv1.DocumentReduction_DOCUMENT_REDUCTION_UNSPECIFIED {
		a.Reduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING
	}
	return a
}

// DecideDefine returns what follows from the command: an event, or nothing where
// the application is so already.
func (c *Catalog) DecideDefine(cmd Define) ([]proto.Message, error) {
	op := "metering.UpdateApplication"
	if cmd.Create {
		op = "metering.CreateApplication"
	}
	want := cmd.Want.WithDefaults()
	subject := "application " + want.ID.String()
	there := c.applications[want.ID]
	switch {
	case cmd.Create && (there != nil || c.deleted[want.ID]):
		return nil, errs.New(errs.AlreadyExists, op, subject, "there is, or was, an application of this id")
	case !cmd.Create && there == nil:
		return nil, errs.New(errs.NotFound, op, subject, "there is no such application")
	case !cmd.Create && cmd.Etag != "" && cmd.Etag != there.Etag():
		return nil, errs.New(errs.Conflict, op, subject, "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
	case cmd.Create && len(c.applications) >= MaxApplications:
		return nil, errs.New(errs.Exhausted, op, "", fmt.Sprintf("an account has at most %d applications: delete one that is not needed any more", MaxApplications))
	}
	if fields := want.check(cmd.ShortGaps); len(fields) > 0 {
		return nil, errs.InvalidFields(op, subject, fields...)
	}
	if other, taken := c.names[foldName(want.DisplayName)]; taken && other != want.ID {
		return nil, errs.New(errs.AlreadyExists, op, "", fmt.Sprintf("the name %q belongs to application %s: choose another", want.DisplayName, other)).WithReason("NAME_TAKEN")
	}
	event := want.event()
	if there != nil && proto.Equal(event, there.event()) {
		return nil, nil
	}
	return []proto.Message{event}, nil
}

// DecideDelete returns what follows from wanting an application gone. What was
// measured of it stays.
func (c *Catalog) DecideDelete(id contract.ID) ([]proto.Message, error) {
	if c.applications[id] == nil {
		return nil, errs.New(errs.NotFound, "metering.DeleteApplication", "application "+id.String(), "there is no such application")
	}
	return []proto.Message{&meteringv1.ApplicationDeleted{ApplicationId: id[:]}}, nil
}

// Apply takes in an event.
func (c *Catalog) Apply(event proto.Message) (*Catalog, error) {
	switch e := event.(type) {
	case *meteringv1.ApplicationDefined:
		id, err := contract.IDFrom(e.GetApplicationId())
		if err != nil {
			return c, fmt.Errorf("metering: application defined: %w", err)
		}
		a := applicationOf(id, e)
		a.Revision = 1
		if old := c.applications[id]; old != nil {
			a.Revision = old.Revision + 1
			delete(c.names, foldName(old.DisplayName))
		}
		c.applications[id] = a
		c.names[foldName(a.DisplayName)] = id
	case *meteringv1.ApplicationDeleted:
		id, err := contract.IDFrom(e.GetApplicationId())
		if err != nil {
			return c, fmt.Errorf("metering: application deleted: %w", err)
		}
		if old := c.applications[id]; old != nil {
			delete(c.names, foldName(old.DisplayName))
			delete(c.applications, id)
		}
		c.deleted[id] = true
	default:
		return c, fmt.Errorf("metering: %T is no event of a catalogue", event)
	}
	return c, nil
}

// Policy is what agents are to be told: the account's key of document ids comes
// from outside, since it is a secret and no event.
func (c *Catalog) Policy(account contract.ID, revision uint64, s Settings, documentKey []byte) *policyv1.Policy {
	p := &policyv1.Policy{
		AccountId: account[:], Revision: revision, DocumentKey: documentKey,
		PauseAllowed: s.PauseAllowed, SightingsWanted: s.SightingsWanted, Paused: s.Paused, Person: s.Person, Managers: s.Managers,
	}
	for _, a := range c.Applications() {
		p.Applications = append(p.Applications, a.policy())
	}
	return p
}

func (a *Application) policy() *policyv1.ApplicationPolicy {
	return &policyv1.ApplicationPolicy{
		ApplicationId: a.ID[:], DisplayName: a.DisplayName, Rules: a.Rules,
		ActivityGap: durationpb.New(a.ActivityGap), Timeout: durationpb.New(a.Timeout),
		InstanceScope: a.Scope, Documents: a.Documents, DocumentReduction: a.Reduction, TitleRules: a.TitleRules, ProjectPrompt: a.Prompt,
	}
}

func (a *Application) event() *meteringv1.ApplicationDefined {
	return &meteringv1.ApplicationDefined{
		ApplicationId: a.ID[:], DisplayName: a.DisplayName, Rules: a.Rules,
		ActivityGap: durationpb.New(a.ActivityGap), Timeout: durationpb.New(a.Timeout),
		InstanceScope: a.Scope, Documents: a.Documents, DocumentReduction: a.Reduction, TitleRules: a.TitleRules, ProjectPrompt: a.Prompt,
		RemoteClient: a.RemoteClient,
	}
}

func applicationOf(id contract.ID, e *meteringv1.ApplicationDefined) *Application {
	return &Application{
		ID: id, DisplayName: e.GetDisplayName(), Rules: e.GetRules(),
		ActivityGap: e.GetActivityGap().AsDuration(), Timeout: e.GetTimeout().AsDuration(),
		Scope: e.GetInstanceScope(), Documents: e.GetDocuments(), Reduction: e.GetDocumentReduction(), TitleRules: e.GetTitleRules(), Prompt: e.GetProjectPrompt(),
		RemoteClient: e.GetRemoteClient(),
	}
}

// check names every field that is wrong.
func (a *Application) check(shortGaps bool) []errs.Field {
	var fields []errs.Field
	wrong := func(path, format string, args ...any) {
		fields = append(fields, errs.Field{Path: "application." + path, Description: fmt.Sprintf(format, args...)})
	}
	least := MinSetting
	if shortGaps {
		least = MinSettingForTests
	}
	switch {
	case a.DisplayName == "":
		wrong("display_name", "is empty: give the application a name")
	case len([]rune(a.DisplayName)) > 120:
		wrong("display_name", "has more than 120 characters")
	case strings.ContainsFunc(a.DisplayName, unicode.IsControl):
		wrong("display_name", "contains a control character")
	}
	if a.ActivityGap < least || a.ActivityGap > MaxSetting {
		wrong("activity_gap", "%s is not within %s to %s", inSeconds(a.ActivityGap), inSeconds(least), inSeconds(MaxSetting))
	}
	if a.Timeout < least || a.Timeout > MaxSetting {
		wrong("timeout", "%s is not within %s to %s", inSeconds(a.Timeout), inSeconds(least), inSeconds(MaxSetting))
	}
	if a.Timeout < a.ActivityGap {
		wrong("timeout", "%s is shorter than the activity gap of %s", inSeconds(a.Timeout), inSeconds(a.ActivityGap))
	}
	if a.ActivityGap%time.Millisecond != 0 || a.Timeout%time.Millisecond != 0 {
		wrong("activity_gap", "gap and timeout are whole milliseconds")
	}
	if len(a.Rules) == 0 {
		wrong("rules", "an application needs at least one rule")
	}
	for i, r := range a.Rules {
		if err := checkRule(a.ID, r); err != nil {
			wrong(fmt.Sprintf("rules[%d]%s", i, err.field), "%v", err.cause)
		}
	}
	if err := checkTitleRules(a.ID, a.TitleRules); err != nil {
		wrong(strings.TrimPrefix(err.field, "."), "%v", err.cause)
	}
	return append(fields, a.checkPrompt()...)
}

// checkPrompt names what of the prompt for projects no agent could do.
func (a *Application) checkPrompt() []errs.Field {
	var fields []errs.Field
	wrong := func(path, description string) {
		fields = append(fields, errs.Field{Path: "application.project_prompt." + path, Description: description})
	}
	ofFiles := a.Prompt.GetSubject() == policyv1.PromptSubject_PROMPT_SUBJECT_FILE
	ofWindows := a.Prompt.GetSubject() == policyv1.PromptSubject_PROMPT_SUBJECT_WINDOW
	switch {
	case !a.Prompt.GetEnabled():
	case (ofFiles || ofWindows) && !a.Documents:
		wrong("subject", "a project is asked for each window or file, and the application's documents are not metered: set documents too")
	case ofFiles && len(a.TitleRules) == 0:
		wrong("subject", "a project is asked for each file, and nothing tells which file a window shows: give title_rules, or ask by WINDOW")
	case (ofFiles || ofWindows) && a.Prompt.GetHoldsLaunch():
		wrong("holds_launch", "a launch is held for a choice of the application as a whole only: a program has to run to open a window or a file")
	}
	return fields
}

// checkTitleRules compiles title rules the way that agents will.
func checkTitleRules(application contract.ID, titles []*policyv1.TitleRule) *ruleError {
	return checkPolicy(&policyv1.ApplicationPolicy{ApplicationId: application[:], DisplayName: "x", TitleRules: titles})
}

// inSeconds writes a duration as requests must: 90s, 0.5s.
func inSeconds(d time.Duration) string {
	text, err := protojson.Marshal(durationpb.New(d))
	if err != nil {
		return d.String() // none that Go can hold is out of range
	}
	return strings.Trim(string(text), `"`)
}

type ruleError struct {
	field string
	cause error
}

// checkRule compiles one rule the way that agents will.
func checkRule(application contract.ID, r *policyv1.Rule) *ruleError {
	return checkPolicy(&policyv1.ApplicationPolicy{ApplicationId: application[:], DisplayName: "x", Rules: []*policyv1.Rule{r}})
}

func checkPolicy(application *policyv1.ApplicationPolicy) *ruleError {
	_, err := rules.Compile(&policyv1.Policy{Applications: []*policyv1.ApplicationPolicy{application}})
	if err == nil {
		return nil
	}
	var ruleErr *rules.Error
	if errors.As(err, &ruleErr) {
		return &ruleError{field: "." + ruleErr.Field, cause: ruleErr.Err}
	}
	return &ruleError{cause: err}
}

// foldName is what makes two names the same: case and the spaces around do not.
func foldName(name string) string { return strings.ToLower(strings.TrimSpace(name)) }
