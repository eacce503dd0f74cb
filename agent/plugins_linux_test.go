package agent_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/prompt"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// asPrompt makes this test binary be `cetrus-agent prompt`.
const asPrompt = "as-prompt"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asPrompt {
		if err := prompt.Run(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// asking is a policy that asks for a project at each start of xterm, and assigns xclock's
// by a rule.
func asking(revision uint64) *policyv1.Policy {
	app := func(n byte, name string, p *policyv1.ProjectPrompt) *policyv1.ApplicationPolicy {
		return &policyv1.ApplicationPolicy{
			ApplicationId: id(n), DisplayName: name, Rules: []*policyv1.Rule{{RuleId: id(n + 50), Executable: name}},
			ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(30 * time.Minute), ProjectPrompt: p,
		}
	}
	return &policyv1.Policy{
		AccountId: id(1), Revision: revision, PauseAllowed: true,
		Applications: []*policyv1.ApplicationPolicy{
			app(10, "xterm", &policyv1.ProjectPrompt{Enabled: true}),
			app(11, "xclock", &policyv1.ProjectPrompt{Enabled: true}),
			app(12, "xeyes", &policyv1.ProjectPrompt{Enabled: true, HoldsLaunch: true}),
		},
		ExpenseToProject: &policyv1.ExpenseToProject{
			Fields: []*policyv1.PromptField{
				{Key: "project", Label: "Project", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT, Required: true},
				{Key: "phase", Label: "Phase", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_CHOICE, Options: []string{"Draft", "On site"}},
			},
			Projects: []*policyv1.PromptProject{{ProjectId: id(70), Label: "2024-017 Pier 3"}, {ProjectId: id(71), Label: "2024-018 Quay"}},
			Rules: []*policyv1.AssignmentRule{{
				AssignmentRuleId: id(80), ApplicationId: id(11), Assigned: &policyv1.AssignmentRule_NotChargeable{NotChargeable: true},
			}},
			SharedLogins: []string{"*"},
			Workers:      []*policyv1.PromptWorker{{WorkerId: id(90), Label: "Ada Obi"}, {WorkerId: id(91), Label: "Marek Dvořák"}},
		},
	}
}

// A program is opened, the prompt is answered with real keys, offline, and what was chosen
// reaches the Manager when it comes; a rule assigns without asking; a held launch goes on
// once there is a choice.
func TestPromptBecomesAChoice(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.manager.SetPolicy(asking(3))
	display := desktoptest.StartManaged(t)
	d, err := desktop.Open(desktop.Config{Display: display.Name, SystemBus: "unix:path=/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
		c.Drain, deps.Policy = false, asking(3)
		c.Plugins = &agent.PluginsConfig{Prompt: func(session string) prompt.Starter {
			return func(f prompt.Files) (prompt.Program, error) {
				return d.(desktop.Launcher).Launch(session, desktop.Program{Executable: os.Args[0], Args: []string{asPrompt}, In: f.In, Out: f.Out, Err: f.Err})
			}
		}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	waitFor(t, "the plug-ins run", func() bool {
		n := 0
		for _, p := range a.Status().Plugins {
			if p.State == "running" && p.BuiltIn {
				n++
			}
		}
		return n == 2
	})

	// Person, project, phase; all by keyboard.
	display.Open("xterm", "^first$", "xterm", "-T", "first")
	answer(t, display, "xterm", [][]string{{"type", "--delay", "20", "Marek"}, {"key", "Tab"}, {"type", "--delay", "20", "quay"}, {"key", "Tab"}, {"key", "Down"}, {"key", "Return"}})
	chosen := func(application byte) (all []*usagev1.Choice) {
		for _, c := range o.manager.Choices() {
			if string(c.GetApplicationId()) == string(id(application)) {
				all = append(all, c)
			}
		}
		return all
	}
	waitFor(t, "the choice has come", func() bool { return len(chosen(10)) == 1 })
	if len(chosen(10)) == 0 {
		t.Fatalf("status: %+v; the Manager says %v", a.Status(), o.manager.Problems())
	}
	c := chosen(10)[0]
	if hex.EncodeToString(c.GetProjectId()) != hex.EncodeToString(id(71)) || c.GetFields()["phase"] != "Draft" || string(c.GetWorkerId()) != string(id(91)) || len(c.GetAssignmentRuleId()) > 0 || c.GetRevision() != 1 {
		t.Errorf("the choice is %v", c)
	}
	covered := func() bool {
		for _, u := range o.manager.Usage() {
			if string(u.GetInstanceId()) == string(c.GetInstanceId()) && u.GetTransition() == usagev1.Transition_TRANSITION_OPENED {
				early := u.GetAtBootMillis() - c.GetEffectiveFromBootMillis()
				return early >= 0 && early < 5000 && string(u.GetBootId()) == string(c.GetBootId()) && string(u.GetPrincipalAlias()) == string(c.GetPrincipalAlias())
			}
		}
		return false
	}
	waitFor(t, "the choice covers its instance from its opening", covered)

	// A second start is filled in with the first: one Enter.
	display.Open("xterm", "^second$", "xterm", "-T", "second")
	answer(t, display, "xterm", [][]string{{"key", "Return"}})
	waitFor(t, "the second choice has come", func() bool { return len(chosen(10)) == 2 })
	if second := chosen(10)[1]; string(second.GetProjectId()) != string(id(71)) || string(second.GetInstanceId()) == string(c.GetInstanceId()) {
		t.Errorf("the second choice is %v", second)
	}

	// A rule needs nobody.
	display.Run("x11-apps", "xclock")
	waitFor(t, "the rule's choice has come", func() bool { return len(chosen(11)) == 1 })
	if ruled := chosen(11)[0]; !ruled.GetNotChargeable() || string(ruled.GetAssignmentRuleId()) != string(id(80)) {
		t.Errorf("by rule: %v", ruled)
	}

	// A launch that is held: the program stands still until there is an answer.
	eyes := display.Run("x11-apps", "xeyes")
	display.Window("^Project: xeyes$")
	waitFor(t, "xeyes stands still", func() bool { return state(eyes.PID) == "T" })
	answer(t, display, "xeyes", [][]string{{"key", "Escape"}, {"type", "--delay", "20", "Ada"}, {"key", "alt+n"}})
	waitFor(t, "xeyes goes on", func() bool { return state(eyes.PID) != "T" })
	waitFor(t, "its choice has come", func() bool { return len(chosen(12)) == 1 && chosen(12)[0].GetNotChargeable() })

	waitFor(t, "health tells of the plug-ins", func() bool {
		h := o.manager.Health()
		return len(h) > 0 && len(h[len(h)-1].GetPlugins()) == 2
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, problem := range o.manager.Problems() {
		t.Error(problem)
	}
}

// answer presses keys in the prompt for an application.
func answer(t *testing.T, d *desktoptest.Display, application string, keys [][]string) {
	t.Helper()
	title := "Project: " + application
	window := d.Window("^" + title + "$")
	// What has just opened may have taken the keyboard for good, where the machine was slow.
	d.Do("windowactivate", window)
	d.Until("the prompt listens", func() bool { return d.Property(window, "_CETRUS_LISTENS") == "1" })
	for _, k := range keys {
		d.Do(k...)
	}
}

// state is a process's state as the kernel names it.
func state(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// An agent of which nothing is asked carries no plug-ins and no second journal; the first
// policy that asks for projects starts them, without a new start of the agent.
func TestPluginsStartWithTheFirstPolicyThatAsks(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	quiet := asking(3)
	for _, app := range quiet.GetApplications() {
		app.ProjectPrompt = nil
	}
	display := desktoptest.StartManaged(t)
	d, err := desktop.Open(desktop.Config{Display: display.Name, SystemBus: "unix:path=/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
		c.Drain, deps.Policy = false, quiet
		c.Plugins = &agent.PluginsConfig{Prompt: func(string) prompt.Starter { return prompt.Command(exec.Command("false")) }}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	waitFor(t, "it works", func() bool { return len(o.manager.Health()) > 0 })
	if _, err := os.Stat(filepath.Join(o.dir, "choice")); err == nil || len(a.Status().Plugins) > 0 {
		t.Errorf("with nothing asked of it, it runs %v, and its journal of choices: %v", a.Status().Plugins, err)
	}
	o.manager.SetPolicy(asking(4))
	waitFor(t, "the plug-ins run", func() bool {
		n := 0
		for _, p := range a.Status().Plugins {
			if p.State == "running" && p.BuiltIn {
				n++
			}
		}
		return n == 2
	})
	display.Run("x11-apps", "xclock")
	waitFor(t, "the rule's choice has come", func() bool { return len(o.manager.Choices()) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, problem := range o.manager.Problems() {
		t.Error(problem)
	}
}

// editing is a policy under which each file of an editor has its project: those of one folder
// by a rule, the others by asking. Nothing of a file's name is kept.
func editing() *policyv1.Policy {
	p := asking(3)
	app := p.GetApplications()[0]
	app.InstanceScope, app.Documents = policyv1.InstanceScope_INSTANCE_SCOPE_SESSION, true
	app.TitleRules = []*policyv1.TitleRule{{Pattern: `^(?P<path>/.+) - Edit$`}}
	app.ProjectPrompt.Subject = policyv1.PromptSubject_PROMPT_SUBJECT_FILE
	p.DocumentKey = make([]byte, 32)
	e := p.GetExpenseToProject()
	e.SharedLogins, e.Workers = nil, nil
	e.Rules = []*policyv1.AssignmentRule{{
		AssignmentRuleId: id(81), Folder: "/srv/k*/bridge", FileName: "o*.dwg", Assigned: &policyv1.AssignmentRule_ProjectId{ProjectId: id(70)},
	}}
	e.Fields[1] = &policyv1.PromptField{Key: "order", Label: "Order", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_TEXT, Required: true, Pattern: `[A-Z]{2}\d{4}`}
	return p
}

// Several files are opened in one program: by its folder one has its project without asking,
// for the others there is one prompt at a time, whose answer may be for all that wait and is
// not accepted before it is valid. Each choice names its document, and no path is kept.
func TestEachFileHasItsProject(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.manager.SetPolicy(editing())
	display := desktoptest.StartManaged(t)
	d, err := desktop.Open(desktop.Config{Display: display.Name, SystemBus: "unix:path=/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
		c.Drain, deps.Policy = false, editing()
		c.Plugins = &agent.PluginsConfig{Prompt: func(session string) prompt.Starter {
			return func(f prompt.Files) (prompt.Program, error) {
				return d.(desktop.Launcher).Launch(session, desktop.Program{Executable: os.Args[0], Args: []string{asPrompt}, In: f.In, Out: f.Out, Err: f.Err})
			}
		}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	waitFor(t, "the plug-ins run", func() bool {
		n := 0
		for _, p := range a.Status().Plugins {
			if p.State == "running" && p.BuiltIn {
				n++
			}
		}
		return n == 2
	})
	edited := 0
	edit := func(path string) {
		t.Helper()
		title := path + " - Edit"
		_, window := display.Open("xterm", "^"+title+"$", "xterm", "-T", title)
		display.Do("windowactivate", window)
		edited++
		waitFor(t, "the agent sees "+path, func() bool {
			seen := map[string]bool{}
			for _, s := range o.manager.Live() {
				for _, open := range s.GetOpen() {
					if len(open.GetDocumentId()) > 0 {
						seen[string(open.GetDocumentId())] = true
					}
				}
			}
			return len(seen) == edited
		})
	}
	chosen := func(n int) *usagev1.Choice {
		t.Helper()
		waitFor(t, fmt.Sprintf("%d choices have come", n), func() bool { return len(o.manager.Choices()) >= n })
		all := o.manager.Choices()
		if len(all) != n {
			t.Fatalf("%d choices have come, not %d: %v; the Manager says %v", len(all), n, all, o.manager.Problems())
		}
		return all[n-1]
	}

	edit("/srv/kestrel/bridge/ocelot.dwg")
	if c := chosen(1); string(c.GetProjectId()) != string(id(70)) || string(c.GetAssignmentRuleId()) != string(id(81)) || len(c.GetDocumentId()) != 16 {
		t.Errorf("by the rule: %v", c)
	}
	edit("/srv/kestrel/quay/first.dwg")
	edit("/srv/kestrel/quay/second.dwg")
	edit("/srv/kestrel/quay/third.dwg")
	// Enter accepts nothing while the order is none.
	answer(t, display, "xterm", [][]string{{"type", "--delay", "20", "quay"}, {"key", "Tab"}, {"type", "--delay", "20", "ab12"}, {"key", "Return"}, {"type", "--delay", "20", "AB1234"}, {"key", "Return"}})
	first := chosen(2)
	if string(first.GetProjectId()) != string(id(71)) || first.GetFields()["order"] != "AB1234" || len(first.GetDocumentId()) != 16 {
		t.Errorf("for the first file: %v", first)
	}
	answer(t, display, "xterm", [][]string{{"key", "alt+s"}, {"key", "Return"}})
	second := chosen(4)
	documents := map[string]bool{}
	for _, c := range o.manager.Choices() {
		documents[string(c.GetDocumentId())] = true
		if string(c.GetInstanceId()) != string(second.GetInstanceId()) {
			t.Errorf("one program has two instances: %v", c)
		}
	}
	if len(documents) != 4 || string(second.GetProjectId()) != string(id(71)) {
		t.Errorf("the choices are %v", o.manager.Choices())
	}
	waitFor(t, "each choice covers its document from its opening", func() bool {
		covered := 0
		for _, c := range o.manager.Choices() {
			for _, u := range o.manager.Usage() {
				early := u.GetAtBootMillis() - c.GetEffectiveFromBootMillis()
				if string(u.GetDocumentId()) == string(c.GetDocumentId()) && u.GetTransition() == usagev1.Transition_TRANSITION_OPENED && early >= 0 && early < 5000 {
					covered++
				}
			}
		}
		return covered == 4
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, problem := range o.manager.Problems() {
		t.Error(problem)
	}
	files := 0
	err = filepath.WalkDir(o.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		for _, hidden := range []string{"kestrel", "ocelot", "quay/", "first.dwg"} {
			if strings.Contains(string(text), hidden) {
				t.Errorf("%s holds %q", path, hidden)
			}
		}
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("%d files: %v", files, err)
	}
}
