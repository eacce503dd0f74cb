package activity_test

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/rules"
)

// askingScene is an editorScene of an application that people are asked about.
func askingScene(t *testing.T, f *facts, reduction policyv1.DocumentReduction, asks bool) *scene {
	t.Helper()
	s := editorScene(t, f, reduction)
	s.firstPolicy.Applications[0].ProjectPrompt = &policyv1.ProjectPrompt{Enabled: asks}
	if err := s.machine.SetPolicy(s.firstPolicy); err != nil {
		t.Fatal(err)
	}
	return s
}

// windows takes what was told of them; nil: nothing.
func windows(t *testing.T, out activity.Output) []activity.ShownWindow {
	t.Helper()
	switch len(out.Windows) {
	case 0:
		return nil
	case 1:
		return out.Windows[0].Windows
	}
	t.Fatalf("told is of %d sessions", len(out.Windows))
	return nil
}

// Rules by folder see whole paths, whatever policy keeps of them, and of what it does not keep
// nothing reaches an event, a label or the slot.
func TestWindowsAreToldWholeAndKeptReduced(t *testing.T) {
	for _, reduction := range []policyv1.DocumentReduction{
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING, policyv1.DocumentReduction_DOCUMENT_REDUCTION_CATEGORY, policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH,
	} {
		t.Run(reduction.String(), func(t *testing.T) {
			s := askingScene(t, &facts{open: map[int32][]string{10: {"/srv/bridge/secret.odt"}}}, reduction, true)
			s.start(10, 1, "alpha")
			s.window(1, 0, 10, "secret.odt - Edit")
			s.session.Foreground = 1
			told := windows(t, s.see(0))
			if len(told) != 1 || told[0].Folder != "/srv/bridge" || told[0].Name != "secret.odt" || told[0].Kind != rules.File || !told[0].Front || !told[0].Settled || told[0].Document.IsZero() {
				t.Fatalf("told is %+v", told)
			}
			s.see(1000)
			slot := s.machine.Slot()
			s.session.Windows = nil
			out := s.see(1000)
			if len(out.Windows) != 1 || len(out.Windows[0].Windows) != 0 {
				t.Errorf("after the window has gone, told is %+v", out.Windows)
			}
			s.end()
			kept := slices.Clone(slot)
			opened := false
			for _, e := range s.events {
				text, err := proto.Marshal(e)
				if err != nil {
					t.Fatal(err)
				}
				kept = append(kept, text...)
				if reduction == policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING && len(e.GetDocumentId()) > 0 && e.GetDocumentSource() != usagev1.DocumentSource_DOCUMENT_SOURCE_WINDOW {
					t.Errorf("an event says that its document was known by %v", e.GetDocumentSource())
				}
				opened = opened || len(e.GetDocumentId()) > 0 && bytes.Equal(e.GetDocumentId(), told[0].Document[:])
			}
			for _, l := range s.labels {
				kept = append(kept, l.Name...)
			}
			if !opened {
				t.Error("no event is about the document that was told of")
			}
			for _, secret := range []string{"secret", "bridge"} {
				if bytes.Contains(kept, []byte(secret)) {
					t.Errorf("%q is kept", secret)
				}
			}
		})
	}
}

// Where policy keeps nothing and asks for nothing, nothing is looked for, as before.
func TestNothingIsLookedForWhereNobodyAsks(t *testing.T) {
	f := &facts{open: map[int32][]string{10: {"/srv/secret.odt"}}}
	s := askingScene(t, f, policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING, false)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "secret.odt - Edit")
	for range 5 {
		if out := s.see(1000); len(out.Windows) > 0 {
			t.Errorf("told is %+v", out.Windows)
		}
	}
	if f.asked > 0 {
		t.Errorf("the process was asked %d times for its files", f.asked)
	}
}

// What is found later is told later, and a window that shows no document is there still.
func TestWindowsAreToldWhenTheyChange(t *testing.T) {
	f := &facts{open: map[int32][]string{}}
	s := askingScene(t, f, policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING, true)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "plan.odt - Edit")
	first := windows(t, s.see(0))
	if len(first) != 1 || first[0].Folder != "" || first[0].Settled {
		t.Fatalf("told is %+v", first)
	}
	if told := windows(t, s.see(1000)); told != nil {
		t.Errorf("though nothing has changed, told is %+v", told)
	}
	f.open[10] = []string{"/srv/plan.odt"}
	s.see(2000)
	second := windows(t, s.see(1000)) // it is looked for once more at the first moment after two seconds
	if len(second) != 1 || second[0].Folder != "/srv" || !second[0].Settled || second[0].Document != first[0].Document || second[0].Title != first[0].Title {
		t.Errorf("told is %+v, before %+v", second, first)
	}
	f.open[10] = []string{"/srv/other.odt"}
	s.title(1, "other.odt - Edit")
	if told := windows(t, s.see(1000)); len(told) != 1 || told[0].Name != "other.odt" || told[0].Document != first[0].Document {
		t.Errorf("told is %+v", told)
	}
	s.title(1, "Start page")
	if told := windows(t, s.see(1000)); len(told) != 1 || !told[0].Document.IsZero() || told[0].Name != "" {
		t.Errorf("told is %+v", told)
	}
	// While the person has paused nothing is told, and afterwards what there is then.
	s.session.PausedByPerson = true
	s.title(1, "secret.odt - Edit")
	for range 3 {
		if told := windows(t, s.see(1000)); told != nil {
			t.Errorf("in the pause, told is %+v", told)
		}
	}
	s.title(1, "plan.odt - Edit")
	s.session.PausedByPerson = false
	if told := windows(t, s.see(1000)); len(told) != 1 || told[0].Name != "plan.odt" {
		t.Errorf("told is %+v", told)
	}
	s.session.Windows = nil
	s.see(1000)
	o := s.observation()
	o.Sessions = nil
	if out := s.take(s.machine.Observe(o)); len(out.Windows) > 0 {
		t.Errorf("of a session without windows told is at its end: %+v", out.Windows)
	}
}
