//go:build linux

package wine

import (
	"bytes"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// editing is a policy under which each file of an editor has its project, and no folder is
// kept. Its rule writes the folder otherwise than the title does.
func editing() *policyv1.Policy {
	p := holding()
	p.DocumentKey = make([]byte, 32)
	p.Applications = []*policyv1.ApplicationPolicy{{
		ApplicationId: id(11), DisplayName: "Editor", Rules: []*policyv1.Rule{{RuleId: id(51), Executable: "editor.exe"}},
		ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(30 * time.Minute),
		InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_SESSION, Documents: true, DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME,
		TitleRules:    []*policyv1.TitleRule{{Pattern: `^(?P<path>(?:[a-z]:\\|\\\\).+) - Edit$`}},
		ProjectPrompt: &policyv1.ProjectPrompt{Enabled: true, Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE},
	}}
	e := p.GetExpenseToProject()
	e.SharedLogins, e.Workers = nil, nil
	e.Fields[1] = &policyv1.PromptField{Key: "order", Label: "Order", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_TEXT, Required: true, Pattern: `[A-Z]{2}\d{4}`}
	project := func(n, rule byte, folder string) *policyv1.AssignmentRule {
		return &policyv1.AssignmentRule{AssignmentRuleId: id(rule), Folder: folder, Assigned: &policyv1.AssignmentRule_ProjectId{ProjectId: id(n)}}
	}
	e.Rules = []*policyv1.AssignmentRule{project(70, 80, "p:/2024/*PIER*/"), project(71, 81, `\\SERVER\plans\quay`)}
	return p
}

// Files in folders of a drive and of a server have their projects by rule, whatever the case
// and the slashes; of others the person is asked, one prompt at a time, and answers the last ones
// together.
func TestEachFileHasItsProjectOnWindows(t *testing.T) {
	t.Parallel()
	w := Start(t)
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(manager.Stop)
	manager.SetPolicy(editing())
	agent := w.Build("agent", "./cmd/cetrus-agent", "cetrus-agent.exe", false)
	program := w.Build("tools", "./wine/editor", "editor.exe", false)
	const data = `C:\agent data`
	w.serve(t, manager, agent, data, "Editor")
	chosen := func(n int) []*usagev1.Choice {
		t.Helper()
		var all []*usagev1.Choice
		eventually(t, time.Minute, fmt.Sprintf("%d choices at the Manager", n), func() (string, bool) {
			all = manager.Choices()
			return fmt.Sprint(all), len(all) >= n
		})
		if len(all) != n {
			t.Fatalf("%d choices have come, not %d: %v", len(all), n, all)
		}
		return all
	}
	start := func(files ...string) {
		t.Helper()
		cmd := w.Command(t.Context(), program, files...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = cmd.Wait() }() // it ends with the desktop
	}
	start(`P:\2024\017 pier\Plans\a.dwg`, `\\server\Plans\QUAY\b.dwg`)
	for _, c := range chosen(2) {
		want := map[byte]byte{80: 70, 81: 71}[c.GetAssignmentRuleId()[15]]
		if len(c.GetDocumentId()) != 16 || !bytes.Equal(c.GetProjectId(), id(want)) {
			t.Errorf("by rule: %v", c)
		}
	}
	start(`P:\2024\018\c.dwg`, `P:\2024\018\d.dwg`, `P:\2024\018\e.dwg`)
	eventually(t, time.Minute, "the agent to see all files", func() (string, bool) {
		labels := slices.Sorted(maps.Values(manager.Labels()))
		return fmt.Sprint(labels), len(labels) == 5
	})
	const title = "Project: Editor"
	// What has the keyboard and is painted takes keys: its program has come to serve it. What
	// opens later may have taken its place.
	asked := func() {
		t.Helper()
		eventually(t, time.Minute, "the prompt in front", func() (string, bool) {
			out, err := w.xdo("search", "--onlyvisible", "--name", "^"+title+"$")
			window, _, _ := strings.Cut(out, "\n")
			if err != nil || window == "" {
				return out, false
			}
			_, _ = w.xdo("windowactivate", window)
			out, err = w.xdo("getwindowfocus", "getwindowname")
			return out, err == nil && out == title && w.painted(window)
		})
	}
	asked()
	w.shoot("of-a-file")
	for _, keys := range [][]string{{"type", "--delay", "40", "quay"}, {"key", "Tab"}, {"type", "--delay", "40", "ab12"}, {"key", "Return"}, {"type", "--delay", "40", "AB1234"}, {"key", "Return"}} {
		w.Do(keys...)
	}
	if c := chosen(3)[2]; c.GetFields()["order"] != "AB1234" || !bytes.Equal(c.GetProjectId(), id(71)) || len(c.GetDocumentId()) != 16 {
		t.Errorf("asked: %v", c)
	}
	asked()
	w.shoot("and-others")
	w.Do("key", "alt+s")
	w.Do("key", "Return")
	documents := map[string]bool{}
	for _, c := range chosen(5) {
		documents[string(c.GetDocumentId())] = true
	}
	if len(documents) != 5 {
		t.Errorf("the choices are %v", manager.Choices())
	}
	for _, problem := range manager.Problems() {
		t.Error(problem)
	}
}

// painted tells whether the prompt's light ground is in a window.
func (w *Wine) painted(window string) bool {
	cmd := exec.Command("xwd", "-silent", "-id", window)
	cmd.Env = w.Env
	picture, err := cmd.Output()
	const light = 0xf0
	lit := 0
	for _, b := range picture {
		if b > light {
			lit++
		}
	}
	return err == nil && lit > len(picture)/2
}
