package e2e

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// TestDocumentsOfARealDesktop: an editor, switched on from its template, shows two files,
// and a terminal one that its policy hides; the API tells the files with their times, and
// what told of them.
func TestDocumentsOfARealDesktop(t *testing.T) {
	t.Parallel()
	began := time.Now()
	desktop := startDesktop(t)
	s := startPlatform(t)
	files := t.TempDir()
	plan, notes := filepath.Join(files, "Pier 3", "plan.txt"), filepath.Join(files, "notes.txt")
	hidden := filepath.Join(files, "Kestrelfolder", "Ocelotname.txt")
	for _, name := range []string{plan, notes, hidden} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("text\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	// 1. An administrator switches on a program that is known, and one by rules.
	known := &meteringv1.ListApplicationTemplatesResponse{}
	if err := s.api.Get(t.Context(), "/v1/applicationTemplates", url.Values{"category": {"ide"}}, known); err != nil || len(known.GetTemplates()) < 5 {
		t.Fatalf("%d templates: %v", len(known.GetTemplates()), err)
	}
	editor := &meteringv1.Application{}
	err := s.api.Post(t.Context(), "/v1/applicationTemplates/mousepad:createApplication",
		&meteringv1.CreateApplicationFromTemplateRequest{DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL}, editor)
	if err != nil {
		t.Fatal(err)
	}
	pager, err := s.api.CreateApplication(t.Context(), &meteringv1.Application{
		DisplayName: "Pager", Rules: []*meteringv1.Rule{{Executable: "xterm"}},
		TitleRules:  []*meteringv1.TitleRule{{Pattern: `^(?P<file>.+) - pager$`}},
		ActivityGap: durationpb.New(activityGap), Timeout: durationpb.New(timeout),
		Documents: true, DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.startAgent(desktop)
	eventually(t, 30*time.Second, "the agent to have the policy", func() error {
		status, err := s.status()
		if err == nil && (!status.Recording || len(status.Applications) != 2) {
			err = fmt.Errorf("status: %+v", status)
		}
		return err
	})

	// 2. A person opens three files, and works in one of them; what the terminal shows has
	// been looked for twice by then.
	third := openWindow(t, desktop, filepath.Base(hidden)+" - pager", "xterm", "-T", filepath.Base(hidden)+" - pager", "-e", "tail", "-f", hidden)
	first := openWindow(t, desktop, "plan.txt - Mousepad", "mousepad", "--disable-server", plan)
	second := openWindow(t, desktop, "notes.txt - Mousepad", "mousepad", "--disable-server", notes)
	desktop.xdotool(t, "windowactivate", "--sync", first.id)
	for range 10 {
		desktop.xdotool(t, "key", "x")
		<-time.After(500 * time.Millisecond) // a person's pace is the matter of the test
	}
	eventually(t, 20*time.Second, "the editor to show that the file has changed", func() error {
		out, err := desktop.command("xdotool", "getwindowname", first.id).Output()
		if err == nil && !strings.HasPrefix(string(out), "*") {
			err = fmt.Errorf("the title is %q", out)
		}
		return err
	})
	for _, w := range []*openedWindow{first, second, third} {
		w.kill(t)
	}

	// 3. The API tells of them.
	list := &meteringv1.ListInstancesResponse{}
	eventually(t, 40*time.Second, "every instance to be closed and counted", func() error {
		if err := s.api.Get(t.Context(), "/v1/instances", nil, list); err != nil {
			return err
		}
		for _, i := range list.GetInstances() {
			if i.GetCloseTime() == nil {
				return fmt.Errorf("open: %v", i)
			}
		}
		if len(list.GetInstances()) != 3 {
			return fmt.Errorf("%d instances", len(list.GetInstances()))
		}
		return nil
	})
	documents := map[string]*meteringv1.Document{}
	for _, i := range list.GetInstances() {
		resp := &meteringv1.ListDocumentsResponse{}
		if err := s.api.Get(t.Context(), "/v1/instances/"+i.GetInstanceId()+"/documents", nil, resp); err != nil {
			t.Fatal(err)
		}
		for _, d := range resp.GetDocuments() {
			t.Logf("%s: %v", i.GetApplicationName(), d)
			if d.GetOpenTime().AsTime().Before(i.GetOpenTime().AsTime()) || d.GetCloseTime().AsTime().After(i.GetCloseTime().AsTime()) || d.GetTotals().GetOpen().AsDuration() <= 0 || d.GetUnsaved() {
				t.Errorf("document %v of instance %v", d, i)
			}
			if i.GetApplicationId() == pager.GetApplicationId() {
				documents["pager"] = d
			} else {
				documents[d.GetDocumentName()] = d
			}
		}
	}
	if len(documents) != 3 || documents[plan] == nil || documents[notes] == nil || documents["pager"] == nil {
		t.Fatalf("the documents are %v", documents)
	}
	if busy := documents[plan].GetTotals().GetBusy().AsDuration(); busy < 500*time.Millisecond || busy > 30*time.Second {
		t.Errorf("the plan was busy for %v", busy)
	}
	// An input is told with its own time, a change of what is in front as late as the machine
	// notices it: what lies between them is the other's.
	if busy := documents[notes].GetTotals().GetBusy().AsDuration(); busy > time.Second {
		t.Errorf("the notes were busy for %v", busy)
	}
	title, open := usagev1.DocumentSource_DOCUMENT_SOURCE_TITLE, usagev1.DocumentSource_DOCUMENT_SOURCE_OPEN_FILE
	high := usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_HIGH
	for name, want := range map[string]usagev1.DocumentSource{plan: title, notes: title, "pager": open} {
		if d := documents[name]; d.GetSource() != want || d.GetConfidence() != high {
			t.Errorf("%s: told by %v, %v", name, d.GetSource(), d.GetConfidence())
		}
	}
	if documents["pager"].GetDocumentName() != "" {
		t.Errorf("the hidden document is called %q", documents["pager"].GetDocumentName())
	}

	summary := &meteringv1.SummarizeUsageResponse{}
	err = s.api.Get(t.Context(), "/v1/usage:summarize", url.Values{
		"start_time": {began.UTC().Truncate(15 * time.Minute).Format(time.RFC3339)},
		"end_time":   {time.Now().UTC().Truncate(15 * time.Minute).Add(15 * time.Minute).Format(time.RFC3339)},
		"group_by":   {"GROUP_BY_DOCUMENT"},
	}, summary)
	if err != nil || len(summary.GetGroups()) != 3 {
		t.Fatalf("%v: %v", err, summary.GetGroups())
	}
	for _, g := range summary.GetGroups() {
		d := documents[g.GetDocumentName()]
		if g.GetDocumentName() == "" {
			d = documents["pager"]
		}
		if d == nil || g.GetDocumentId() != d.GetDocumentId() || g.GetTotals().GetOpen().AsDuration() != d.GetTotals().GetOpen().AsDuration() ||
			g.GetDocumentSource() != d.GetSource() || g.GetDocumentConfidence() != d.GetConfidence() {
			t.Errorf("the summary says %v, the list %v", g, d)
		}
	}

	// 4. Nothing that the policy hides has touched a disk.
	for _, secret := range []string{"Kestrelfolder", "Ocelotname"} {
		nowhereIn(t, secret, s.agent, s.platform)
	}
}

// openedWindow is a program's window.
type openedWindow struct {
	id  string
	cmd *exec.Cmd
}

// openWindow starts a program and waits for its window of a title.
func openWindow(t *testing.T, d *xdesktop, title, name string, args ...string) *openedWindow {
	t.Helper()
	w := &openedWindow{cmd: d.command(name, args...)}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.kill(t) })
	eventually(t, 30*time.Second, "a window "+title, func() error {
		out, err := d.command("xdotool", "search", "--onlyvisible", "--name", title).Output()
		if err != nil {
			return err
		}
		w.id, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
		if w.id == "" {
			return errors.New("there is none")
		}
		return nil
	})
	return w
}

func (w *openedWindow) kill(t *testing.T) {
	t.Helper()
	if w.cmd.ProcessState != nil {
		return
	}
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}
