package activity_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/activity"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// facts are what a test's system knows of the files of its processes, by pid.
type facts struct {
	arguments, open map[int32][]string
	home            string
	asked           int
}

func (f *facts) CommandLine(p activity.Process) []string {
	f.asked++
	return f.arguments[p.PID]
}

func (f *facts) OpenFiles(p activity.Process) []string {
	f.asked++
	return f.open[p.PID]
}

func (f *facts) Home(activity.Process) string { return f.home }

// titles of an editor.
var editorTitles = []*policyv1.TitleRule{
	{Pattern: `(?P<private>Private)`},
	{Pattern: `^Start page(?P<document>)$`},
	{Pattern: `^(?P<modified>\*)?(?P<unsaved>Untitled \d+) - Edit$`},
	{Pattern: `^(?P<modified>\*)?(?P<path>/.+) - Edit$`},
	{Pattern: `^(?P<modified>\*)?(?P<file>[^()]+) \((?P<folder>.+)\) - Edit$`},
	{Pattern: `^(?P<modified>\*)?(?P<file>[^-]+) - (?P<project>\w+) - Edit$`},
	{Pattern: `^(?P<modified>\*)?(?P<file>.+) - Edit$`},
	{Pattern: `^(?P<document>.+) - Browse$`},
}

// editorScene is a scene whose application reads titles as an editor's, and keeps so much
// of documents.
func editorScene(t *testing.T, f *facts, reduction policyv1.DocumentReduction) *scene {
	t.Helper()
	s := newScene(t, func(a *policyv1.ApplicationPolicy) {
		a.Documents, a.DocumentReduction, a.TitleRules = true, reduction, editorTitles
	})
	c := config(1)
	c.Evidence = f
	s.machine = activity.New(c)
	if err := s.machine.SetPolicy(s.firstPolicy); err != nil {
		t.Fatal(err)
	}
	return s
}

// told gives the documents' openings as words: name, source, confidence, unsaved.
func (s *scene) told() []string {
	names := map[string]string{}
	for _, l := range s.labels {
		names[string(l.DocumentID[:])] = l.Name
	}
	var all []string
	for _, e := range s.events {
		if len(e.GetDocumentId()) == 0 || e.GetTransition() != usagev1.Transition_TRANSITION_OPENED {
			continue
		}
		unsaved := ""
		if e.GetDocumentUnsaved() {
			unsaved = " unsaved"
		}
		all = append(all, fmt.Sprintf("%s %s %s%s", names[string(e.GetDocumentId())],
			strings.TrimPrefix(e.GetDocumentSource().String(), "DOCUMENT_SOURCE_"), strings.TrimPrefix(e.GetDocumentConfidence().String(), "DOCUMENT_CONFIDENCE_"), unsaved))
	}
	return all
}

func (s *scene) title(id uint64, title string) {
	s.session.Windows = slices.Clone(s.session.Windows)
	for n := range s.session.Windows {
		if s.session.Windows[n].ID == id {
			s.session.Windows[n].Title = title
		}
	}
}

func TestEvidence(t *testing.T) {
	for _, c := range []struct {
		name, title string
		facts       facts
		want        string
	}{
		{"the title alone", "plan.odt - Edit", facts{}, "plan.odt TITLE MEDIUM"},
		{"the title has the path", "/srv/plan.odt - Edit", facts{open: map[int32][]string{10: {"/else/plan.odt"}}}, "/srv/plan.odt TITLE HIGH"},
		{"the title has the folder", "plan.odt (/srv) - Edit", facts{}, "/srv/plan.odt TITLE HIGH"},
		{"the title has a part of the folder", "plan.odt (bridge) - Edit", facts{open: map[int32][]string{10: {"/srv/tunnel/plan.odt", "/srv/bridge/plan.odt"}}}, "/srv/bridge/plan.odt OPEN_FILE HIGH"},
		{"the folder is at home", "plan.odt (~/notes) - Edit", facts{home: "/home/ann"}, "/home/ann/notes/plan.odt TITLE HIGH"},
		{"whose home is not known", "plan.odt (~/notes) - Edit", facts{}, "~/notes/plan.odt TITLE MEDIUM"},
		{"an open file", "plan.odt - Edit", facts{open: map[int32][]string{10: {"/tmp/x", "/srv/plan.odt"}}}, "/srv/plan.odt OPEN_FILE HIGH"},
		{"an argument", "plan.odt - Edit", facts{arguments: map[int32][]string{10: {"/srv/plan.odt", "/srv/other.odt"}}}, "/srv/plan.odt COMMAND_LINE MEDIUM"},
		{"an open file goes before an argument", "plan.odt - Edit", facts{open: map[int32][]string{10: {"/srv/plan.odt"}}, arguments: map[int32][]string{10: {"/old/plan.odt"}}}, "/srv/plan.odt OPEN_FILE HIGH"},
		{"two files of the name are no evidence", "plan.odt - Edit", facts{open: map[int32][]string{10: {"/a/plan.odt", "/b/plan.odt"}}}, "plan.odt TITLE MEDIUM"},
		{"one file twice is one", "plan.odt - Edit", facts{open: map[int32][]string{10: {"/a/plan.odt", "/a/plan.odt"}}}, "/a/plan.odt OPEN_FILE HIGH"},
		{"the title leaves the extension off", "plan - Edit", facts{open: map[int32][]string{10: {"/a/plan.odt", "/a/planet.odt"}}}, "/a/plan.odt OPEN_FILE HIGH"},
		{"the whole name goes before one without extension", "plan - Edit", facts{open: map[int32][]string{10: {"/a/plan.odt", "/b/plan"}}}, "/b/plan OPEN_FILE HIGH"},
		{"a child of the terminal", "plan.odt - Edit", facts{arguments: map[int32][]string{12: {"/srv/plan.odt"}}}, "/srv/plan.odt COMMAND_LINE MEDIUM"},
		{"a stranger", "plan.odt - Edit", facts{open: map[int32][]string{13: {"/srv/plan.odt"}}}, "plan.odt TITLE MEDIUM"},
		{"the project decides", "main.go - beta - Edit", facts{open: map[int32][]string{10: {"/src/alpha/main.go", "/src/beta/main.go"}}}, "/src/beta/main.go OPEN_FILE HIGH"},
		{"the project stands for the folder", "main.go - beta - Edit", facts{}, "beta/main.go TITLE MEDIUM"},
		{"a page", "plan.odt - Browse", facts{open: map[int32][]string{10: {"/srv/plan.odt"}}}, "plan.odt TITLE MEDIUM"},
		{"what was never saved", "*Untitled 1 - Edit", facts{open: map[int32][]string{10: {"/srv/Untitled 1"}}}, "Untitled 1 TITLE MEDIUM unsaved"},
		{"a private window", "Private plan.odt - Browse", facts{}, ""},
		{"a page without document", "Start page", facts{}, ""},
		{"a title that no rule reads", "About", facts{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := editorScene(t, &c.facts, policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL)
			s.start(10, 1, "alpha")
			s.start(11, 10, "shell")
			s.start(12, 11, "vi")
			s.start(13, 1, "vi")
			s.window(1, 0, 10, c.title)
			s.see(0)
			s.see(1_000)
			want := []string{c.want}
			if c.want == "" {
				want = nil
			}
			if got := s.told(); !slices.Equal(got, want) {
				t.Errorf("%q tells %q, want %q", c.title, got, want)
			}
		})
	}
}

// TestOneDocumentStaysOne: evidence that comes and goes with each save, and a star, make
// no second document; another file of the name does.
func TestOneDocumentStaysOne(t *testing.T) {
	f := &facts{open: map[int32][]string{10: {"/srv/plan.odt"}}}
	s := editorScene(t, f, policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "plan.odt - Edit")
	s.see(0)
	f.open = nil
	for _, title := range []string{"*plan.odt - Edit", "plan.odt - Edit", "other.odt - Edit", "plan.odt - Edit"} {
		s.title(1, title)
		s.see(1_000)
	}
	s.see(1_000)
	if got := s.told(); !slices.Equal(got, []string{"/srv/plan.odt OPEN_FILE HIGH", "other.odt TITLE MEDIUM", "/srv/plan.odt OPEN_FILE HIGH"}) {
		t.Errorf("told %q", got)
	}
	// Only a new title asks.
	asked := f.asked
	for range 10 {
		s.see(1_000)
	}
	s.title(1, "*plan.odt - Edit")
	s.see(1_000)
	s.see(3_000)
	if f.asked != asked {
		t.Errorf("asked %d times without a new name", f.asked-asked)
	}
	f.open = map[int32][]string{10: {"/tmp/plan.odt"}}
	s.title(1, "other.odt - Edit")
	s.see(1_000)
	s.title(1, "plan.odt - Edit")
	s.see(1_000)
	s.see(1_000)
	if got := s.told(); got[len(got)-1] != "/tmp/plan.odt OPEN_FILE HIGH" {
		t.Errorf("told %q", got)
	}
}

// TestASecondLook: a program that opens its file after it has shown its name is found out
// once more, and only once.
func TestASecondLook(t *testing.T) {
	f := &facts{arguments: map[int32][]string{10: {"/srv/plan.odt"}}}
	s := editorScene(t, f, policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "plan.odt - Edit")
	s.window(2, 0, 10, "late.odt - Edit")
	s.see(0)
	f.open = map[int32][]string{10: {"/srv/plan.odt", "/srv/late.odt"}}
	for range 4 {
		s.see(1_000)
	}
	asked := f.asked
	s.see(1_000)
	s.see(10_000)
	s.now += 1_000
	s.end()
	surest := map[string]usagev1.DocumentConfidence{}
	names := map[string]string{}
	for _, l := range s.labels {
		names[string(l.DocumentID[:])] = l.Name
	}
	for _, e := range s.events {
		if name := names[string(e.GetDocumentId())]; name != "" {
			surest[name] = max(surest[name], e.GetDocumentConfidence())
		}
	}
	high, medium := usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_HIGH, usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_MEDIUM
	if want := map[string]usagev1.DocumentConfidence{"/srv/plan.odt": high, "late.odt": medium, "/srv/late.odt": high}; !maps.Equal(surest, want) {
		t.Errorf("told %v, want %v", surest, want)
	}
	if f.asked != asked {
		t.Errorf("asked %d times after the second look", f.asked-asked)
	}
}

// TestSavedUnderAName: what was never saved is one document, the file that it becomes is
// another; and two programs' Untitled 1 are two.
func TestSavedUnderAName(t *testing.T) {
	s := editorScene(t, &facts{}, policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME)
	s.start(10, 1, "alpha")
	s.start(20, 1, "alpha")
	s.window(1, 0, 10, "*Untitled 1 - Edit")
	s.window(2, 0, 20, "Untitled 1 - Edit")
	s.see(0)
	// An agent that is started anew still knows it.
	s.recover(s.machine.Slot(), len(s.events))
	s.see(1_000)
	s.title(1, "plan.odt - Edit")
	s.see(1_000)
	s.now += 1_000
	var unsaved, saved []*line
	flagged := map[contract.ID]bool{}
	for _, l := range s.end() {
		for _, e := range s.events {
			if contract.ID(e.GetInstanceId()) == l.Instance && string(e.GetDocumentId()) == string(l.Document[:]) && !l.Document.IsZero() {
				flagged[l.Document] = e.GetDocumentUnsaved()
			}
		}
		switch {
		case l.Document.IsZero():
		case flagged[l.Document]:
			unsaved = append(unsaved, l)
		default:
			saved = append(saved, l)
		}
	}
	if len(unsaved) != 2 || len(saved) != 1 || unsaved[0].Document == unsaved[1].Document || saved[0].Opened != 3_000 {
		t.Fatalf("unsaved:\n%s\nsaved:\n%s", text(unsaved, false), text(saved, false))
	}
}

// TestNothingIsAskedWhereNothingIsKept: policy that keeps nothing lets nothing be read,
// and private windows are still no documents.
func TestNothingIsAskedWhereNothingIsKept(t *testing.T) {
	f := &facts{open: map[int32][]string{10: {"/srv/plan.odt"}}}
	s := editorScene(t, f, policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "plan.odt - Edit")
	s.window(2, 0, 10, "Private plan.odt - Browse")
	s.window(3, 0, 10, "Start page")
	s.see(0)
	s.see(1_000)
	if got := s.told(); !slices.Equal(got, []string{" WINDOW UNSPECIFIED"}) || f.asked != 0 || len(s.labels) != 0 {
		t.Errorf("told %q after %d questions, labels %v", got, f.asked, s.labels)
	}
}

// TestPalettesShowNoDocument: a palette in front keeps the document busy that was used
// last, and is none of its own.
func TestPalettesShowNoDocument(t *testing.T) {
	s := editorScene(t, &facts{}, policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "plan.odt - Edit")
	s.window(2, 0, 10, "Tools - Edit")
	s.session.Windows[1].Auxiliary = true
	s.session.Foreground = 1
	s.input()
	s.see(0)
	s.session.Foreground = 2
	s.see(1_000)
	s.input()
	s.see(0)
	s.see(4_000)
	s.input()
	s.see(0)
	s.see(40_000)
	ls := s.end()
	if len(ls) != 2 || ls[1].sum(usagev1.Attention_ATTENTION_BUSY) != 5_000 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// TestNothingHiddenLeavesTheMachine draws titles, paths and policies, and looks for what
// the policy hides in all that the machine gives out.
func TestNothingHiddenLeavesTheMachine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		word := rapid.StringMatching(`[A-Z][a-z]{6}`)
		folder, name, extension := "Ff"+word.Draw(rt, "folder"), "Nn"+word.Draw(rt, "name"), rapid.SampledFrom([]string{".odt", ".dwg", ""}).Draw(rt, "extension")
		reduction := policyv1.DocumentReduction(rapid.IntRange(1, 4).Draw(rt, "reduction"))
		path := "/srv/" + folder + "/" + name + extension
		f := &facts{}
		switch rapid.IntRange(0, 2).Draw(rt, "evidence") {
		case 0:
			f.open = map[int32][]string{10: {path}}
		case 1:
			f.arguments = map[int32][]string{10: {path}}
		}
		title := rapid.SampledFrom([]string{
			name + extension + " - Edit", path + " - Edit", "*" + name + extension + " (/srv/" + folder + ") - Edit",
			name + extension + " - " + folder + " - Edit", "Private " + path + " - Browse", path + " with no rule",
		}).Draw(rt, "title")
		s := editorScene(t, f, reduction)
		s.start(10, 1, "alpha")
		s.window(1, 0, 10, title)
		s.see(0)
		out := string(s.machine.Slot())
		s.see(1_000)
		s.now += 1_000
		s.end()
		hidden := []string{folder}
		if reduction != policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME {
			hidden = append(hidden, name)
		}
		for _, e := range s.events {
			out += e.String()
		}
		for _, l := range s.labels {
			out += l.Name + "\n"
		}
		for _, l := range s.live {
			out += l.String()
		}
		for _, secret := range hidden {
			if strings.Contains(out, secret) {
				rt.Fatalf("%v of %q (%+v) lets %q out:\n%s", reduction, title, f, secret, out)
			}
		}
		if len(s.events) == 0 {
			rt.Fatal("nothing was told")
		}
	})
}

// TestP10WithRandomTitles: whatever titles say and whichever windows are palettes,
// documents together are no busier than their instance, and their intervals partition
// their lives.
func TestP10WithRandomTitles(t *testing.T) {
	busyDocuments := 0
	rapid.Check(t, func(rt *rapid.T) {
		f := &facts{open: map[int32][]string{}, arguments: map[int32][]string{10: {"/srv/a.txt"}}}
		reduction := policyv1.DocumentReduction(rapid.IntRange(1, 5).Draw(rt, "reduction"))
		s := editorScene(t, f, reduction)
		s.start(10, 1, "alpha")
		titles := rapid.OneOf(rapid.SampledFrom([]string{
			"a.txt - Edit", "*a.txt - Edit", "b.txt (/srv) - Edit", "Untitled 1 - Edit", "/srv/a.txt - Edit", "Private x - Browse", "Start page", "", "x - Browse",
		}), rapid.String())
		for n := range uint64(rapid.IntRange(1, 4).Draw(rt, "windows")) {
			s.window(n+1, 0, 10, titles.Draw(rt, "title"))
			s.session.Windows[n].Auxiliary = n > 0 && rapid.Bool().Draw(rt, "palette")
		}
		s.session.Foreground = 1
		s.see(0)
		for range rapid.IntRange(10, 40).Draw(rt, "steps") {
			s.now += rapid.SampledFrom([]int64{0, 1, 1_000, 29_000, 30_000, 40_000}).Draw(rt, "step")
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0:
				s.title(rapid.Uint64Range(1, 4).Draw(rt, "which"), titles.Draw(rt, "title"))
			case 1:
				s.session.Foreground = rapid.Uint64Range(0, 4).Draw(rt, "front")
			case 2, 3, 4:
				s.input()
			case 5:
				f.open[10] = rapid.SampledFrom([][]string{nil, {"/srv/a.txt"}, {"/tmp/a.txt", "/srv/b.txt"}}).Draw(rt, "open")
			}
			s.see(0)
		}
		s.now += 1_000
		own, documents := int64(0), int64(0)
		for _, l := range s.end() {
			at := l.Opened
			for _, p := range l.Pieces {
				if p.From != at {
					rt.Fatalf("a gap at %d: %v", at, l.Pieces)
				}
				at = p.To
			}
			if busy := l.sum(usagev1.Attention_ATTENTION_BUSY); l.Document.IsZero() {
				own += busy
			} else {
				documents += busy
			}
		}
		if documents > own {
			rt.Fatalf("documents are busy for %d ms, the instance for %d", documents, own)
		}
		if documents > 0 {
			busyDocuments++
		}
	})
	if busyDocuments == 0 && !testing.Short() {
		t.Error("documents were busy in no script")
	}
}
