package metering

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

// What an account asks about projects is checked where it is made, by the name of the field
// that is wrong, reaches the policy of its agents, and is read as it was written.
func TestExpenseToProject(t *testing.T) {
	account := newID()
	nc := platformtest.NATS(t)
	s, err := New(Config{Accounts: []contract.ID{account}}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	policies := policiesOf(t, nc, account)
	start(t, s)
	ctx := as(t.Context(), account)
	api, applications := &expenseAPI{service: s}, &applicationAPI{service: s}
	<-policies

	set := func(want *meteringv1.ExpenseToProject, paths ...string) (*meteringv1.ExpenseToProject, error) {
		resp, err := api.UpdateExpenseToProject(ctx, &meteringv1.UpdateExpenseToProjectRequest{ExpenseToProject: want, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return resp.GetExpenseToProject(), err
	}
	before, err := api.GetExpenseToProject(ctx, &meteringv1.GetExpenseToProjectRequest{})
	if err != nil || len(before.GetExpenseToProject().GetFields()) != 0 {
		t.Fatalf("before there is %v, %v", before, err)
	}
	order := &policyv1.PromptField{Key: "order", Label: "Order", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_TEXT, Pattern: `[A-Z]{2}\d{4}`, PatternMessage: "As in AB1234"}
	told, err := set(&meteringv1.ExpenseToProject{
		Fields:   []*policyv1.PromptField{{Key: "project", Label: "Project", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT, Required: true}, order},
		Projects: []*meteringv1.Project{{Label: "2024-017 Pier 3"}, {Label: "2024-018 Quay"}},
	}, "fields", "projects")
	if err != nil || len(told.GetProjects()) != 2 || told.GetProjects()[0].GetProjectId() == "" || told.GetFields()[1].GetPattern() != order.GetPattern() {
		t.Fatalf("told is %v, %v", told, err)
	}
	first := <-policies
	pier := told.GetProjects()[0].GetProjectId()
	ruled, err := set(&meteringv1.ExpenseToProject{Rules: []*meteringv1.AssignmentRule{
		{Folder: `P:\2024\017`, Assigned: &meteringv1.AssignmentRule_ProjectId{ProjectId: pier}},
		{FileName: "timesheet*", Assigned: &meteringv1.AssignmentRule_NotChargeable{NotChargeable: true}},
	}}, "rules")
	if err != nil || len(ruled.GetRules()) != 2 || ruled.GetRules()[0].GetProjectId() != pier || len(ruled.GetProjects()) != 2 {
		t.Fatalf("told is %v, %v", ruled, err)
	}
	if second := <-policies; second.GetRevision() <= first.GetRevision() || len(second.GetExpenseToProject().GetRules()) != 2 || len(first.GetExpenseToProject().GetProjects()) != 2 {
		t.Errorf("the policies are %v and %v", first, second)
	}
	// What was read can be sent back, ids and all, and changes nothing.
	if again, err := set(ruled); err != nil || again.GetRules()[0].GetAssignmentRuleId() != ruled.GetRules()[0].GetAssignmentRuleId() {
		t.Errorf("sent back: %v, %v", again, err)
	}

	for want, spoil := range map[string]func(*meteringv1.ExpenseToProject){
		"expense_to_project.fields[1].pattern": func(e *meteringv1.ExpenseToProject) { e.Fields[1].Pattern = `[A-Z` },
		"expense_to_project.rules[0].folder":   func(e *meteringv1.ExpenseToProject) { e.Rules[0].Folder = "2024" },
		"expense_to_project.shared_logins":     func(e *meteringv1.ExpenseToProject) { e.SharedLogins = []string{"cad"} },
		"update_mask":                          func(e *meteringv1.ExpenseToProject) { e.Projects = nil },
	} {
		resp, err := api.GetExpenseToProject(ctx, &meteringv1.GetExpenseToProjectRequest{})
		if err != nil {
			t.Fatal(err)
		}
		bad, mask := resp.GetExpenseToProject(), []string{"*"}
		spoil(bad)
		if want == "update_mask" {
			mask = []string{"prices"}
		}
		_, err = set(bad, mask...)
		if p := errs.PublicOf(err); err == nil || p.Kind != errs.Invalid || len(p.Fields) != 1 || p.Fields[0].Path != want {
			t.Errorf("%s is wrong, and the answer is %v", want, err)
		}
	}
	if _, err := set(&meteringv1.ExpenseToProject{}, "projects"); !errs.Is(errs.Invalid, err) {
		t.Errorf("a project is taken away that a rule assigns: %v", err)
	}

	// The application says when it is asked.
	app := xterm()
	app.ProjectPrompt = &policyv1.ProjectPrompt{Enabled: true, Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE}
	create := func() (*meteringv1.Application, error) {
		resp, err := applications.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: app})
		return resp.GetApplication(), err
	}
	wrong := func(path, words string) {
		t.Helper()
		_, err := create()
		if p := errs.PublicOf(err); err == nil || p.Kind != errs.Invalid || len(p.Fields) != 1 || p.Fields[0].Path != path || !strings.Contains(p.Fields[0].Description, words) {
			t.Errorf("%s is wrong, and the answer is %v", path, err)
		}
	}
	wrong("application.project_prompt.subject", "documents")
	app.Documents = true
	wrong("application.project_prompt.subject", "title_rules")
	app.TitleRules = []*meteringv1.TitleRule{{Pattern: `^(?P<file>.+) - Editor$`}}
	app.ProjectPrompt.HoldsLaunch = true
	wrong("application.project_prompt.holds_launch", "run")
	app.ProjectPrompt.HoldsLaunch = false
	made, err := create()
	if err != nil || made.GetProjectPrompt().GetSubject() != policyv1.PromptSubject_PROMPT_SUBJECT_FILE {
		t.Fatalf("made is %v, %v", made, err)
	}
	if last := <-policies; !last.GetApplications()[0].GetProjectPrompt().GetEnabled() {
		t.Errorf("the policy is %v", last)
	}
}
