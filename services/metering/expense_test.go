package metering

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// What an account asks about projects is checked where it is made, by the name of the field
// that is wrong, reaches the policy of its agents, and is read as it was written.
func TestExpenseToProject(t *testing.T) {
	account := resource.NewID()
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

// openKeyring is a keyring of the test's own.
func openKeyring(t *testing.T) *keyring.Keyring {
	t.Helper()
	k, err := keyring.New(t.Context(), keyring.Config{KeyFile: filepath.Join(t.TempDir(), "key")}, keyring.Deps{Store: platformtest.Store(t, keyring.StoreConfig()), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Names of people reach agents and whoever may read them, never the log; what was written
// before that is read as it was; and who is forgotten is named nowhere any more.
func TestNamesInExpenseToProjectAreSealed(t *testing.T) {
	account := resource.NewID()
	nc, keys := platformtest.NATS(t), openKeyring(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Names: keys, Keys: keys, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	policies := policiesOf(t, nc, account)
	start(t, s)
	ctx := as(t.Context(), account)
	api := &expenseAPI{service: s}
	set := func(want *meteringv1.ExpenseToProject, paths ...string) (*meteringv1.ExpenseToProject, error) {
		resp, err := api.UpdateExpenseToProject(ctx, &meteringv1.UpdateExpenseToProjectRequest{ExpenseToProject: want, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return resp.GetExpenseToProject(), err
	}
	get := func() *meteringv1.ExpenseToProject {
		t.Helper()
		resp, err := api.GetExpenseToProject(ctx, &meteringv1.GetExpenseToProjectRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetExpenseToProject()
	}

	project, worker := resource.NewID(), resource.NewID()
	old, err := proto.Marshal(&meteringv1.ExpenseToProjectChanged{ExpenseToProject: &policyv1.ExpenseToProject{
		Projects: []*policyv1.PromptProject{{ProjectId: project[:], Label: "Quay"}}, SharedLogins: []string{"old-room"},
		Workers: []*policyv1.PromptWorker{{WorkerId: worker[:], Label: "Olga Old"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	log := eventlog.NewJetStream(nc, contract.EventStream)
	position, err := log.Append(ctx, expenseSubject(account), 0, eventlog.Event{ID: resource.NewID().String(), Type: "cetrus.metering.expense_to_project.changed.v1", Data: old, Source: "/cetrus/metering", Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.waitForCatalog(ctx, account, position); err != nil {
		t.Fatal(err)
	}
	if e := get(); len(e.GetWorkers()) != 1 || e.GetWorkers()[0].GetLabel() != "Olga Old" || e.GetEtag() != "1" {
		t.Fatalf("written in the clear, it is read as %v", e)
	}

	names := []string{"Anna Gärtner", "Berta Baum", `OFFICE\berta`, `OFFICE\cad-*`, "plotter"}
	told, err := set(&meteringv1.ExpenseToProject{
		Workers: []*meteringv1.Worker{{Label: names[0]}, {Label: names[1]}}, SharedLogins: names[3:],
		Rules: []*meteringv1.AssignmentRule{
			{User: names[2], Assigned: &meteringv1.AssignmentRule_ProjectId{ProjectId: project.String()}},
			{FileName: "t*", Assigned: &meteringv1.AssignmentRule_NotChargeable{NotChargeable: true}},
		},
	}, "workers", "shared_logins", "rules")
	if err != nil || told.GetWorkers()[0].GetLabel() != names[0] || told.GetRules()[0].GetUser() != names[2] || !slices.Equal(told.GetSharedLogins(), names[3:]) || told.GetEtag() != "2" {
		t.Fatalf("told is %v, %v", told, err)
	}
	until := func(what string, holds func(*policyv1.ExpenseToProject) bool) {
		t.Helper()
		timeout := time.After(30 * time.Second)
		for {
			select {
			case p := <-policies:
				if holds(p.GetExpenseToProject()) {
					return
				}
			case <-timeout:
				t.Fatalf("no policy in which %s", what)
			}
		}
	}
	until("agents are told all names", func(e *policyv1.ExpenseToProject) bool {
		return len(e.GetWorkers()) == 2 && e.GetWorkers()[1].GetLabel() == names[1] && slices.Equal(e.GetSharedLogins(), names[3:]) && e.GetRules()[0].GetUser() == names[2]
	})
	// In the log there is none of them; what is named as before is not sealed anew.
	decisions := func() (all []*meteringv1.ExpenseToProjectDecided) {
		t.Helper()
		first := true
		if _, err := log.Each(ctx, expenseSubject(account), func(e eventlog.Event) error {
			m, err := s.registry.Decode(e)
			if err != nil {
				return err
			}
			for _, name := range names {
				if !first && bytes.Contains(bytes.ToLower(e.Data), bytes.ToLower([]byte(name))) {
					t.Errorf("event %d holds %q", e.Position, name)
				}
			}
			first = false
			all = append(all, m.(*meteringv1.ExpenseToProjectDecided))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	if _, err := set(&meteringv1.ExpenseToProject{SharedLogins: names[3:4], Etag: "1"}, "shared_logins"); !errs.Is(errs.Conflict, err) {
		t.Errorf("with an old etag: %v", err)
	}
	less, err := set(&meteringv1.ExpenseToProject{SharedLogins: names[3:4], Etag: "2"}, "shared_logins")
	if err != nil || !slices.Equal(less.GetSharedLogins(), names[3:4]) || less.GetEtag() != "3" {
		t.Fatalf("told is %v, %v", less, err)
	}
	if again, err := set(less); err != nil || !proto.Equal(again, less) {
		t.Errorf("sent back, it is %v, %v", again, err)
	}
	all := decisions()
	if len(all) != 3 {
		t.Fatalf("%d decisions", len(all))
	}
	before, after := all[1], all[2]
	if !proto.Equal(before.GetWorkers()[0], after.GetWorkers()[0]) || !proto.Equal(before.GetUsers()[0], after.GetUsers()[0]) || !proto.Equal(before.GetSharedLogins()[0], after.GetSharedLogins()[0]) {
		t.Errorf("sealed anew: %v, then %v", before, after)
	}
	if opened, err := keys.OpenNames(ctx, account, before.GetSharedLogins()); err != nil || !slices.Equal(opened, []string{names[3], ""}) {
		t.Errorf("the shared logins of before open as %q, %v", opened, err)
	}

	// Who is forgotten is not named, and a rule for them is for nobody.
	anna := contract.ID(after.GetWorkers()[0].GetPrincipalId())
	for _, principal := range []contract.ID{anna, contract.ID(after.GetUsers()[0].GetUser().GetPrincipalId())} {
		if err := keys.Forget(ctx, account, principal); err != nil {
			t.Fatal(err)
		}
	}
	if e := get(); len(e.GetWorkers()) != 1 || e.GetWorkers()[0].GetLabel() != names[1] || len(e.GetRules()) != 1 || e.GetRules()[0].GetFileName() == "" {
		t.Errorf("after forgetting there is %v", e)
	}
	if _, err := set(&meteringv1.ExpenseToProject{Workers: []*meteringv1.Worker{{WorkerId: anna.String(), Label: "Anna again"}}}, "workers"); !errs.Is(errs.Precondition, err) {
		t.Errorf("the forgotten are named again: %v", err)
	}
	if _, err := set(&meteringv1.ExpenseToProject{ProposeAllowed: true}, "propose_allowed"); err != nil {
		t.Fatal(err)
	}
	until("nobody forgotten is named", func(e *policyv1.ExpenseToProject) bool {
		return e.GetProposeAllowed() && len(e.GetWorkers()) == 1 && len(e.GetRules()) == 1
	})
	decisions()
}
