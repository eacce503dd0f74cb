package templates

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

func load(t *testing.T) *Library {
	t.Helper()
	library, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return library
}

// compiled is a policy of one application made from a template.
func compiled(t *testing.T, template *Template) *rules.Matcher {
	t.Helper()
	id := contract.ID{1}
	policyRules := template.PolicyRules()
	for i, r := range policyRules {
		ruleID := contract.ID{1, byte(i + 1)}
		r.RuleId = ruleID[:]
	}
	// A rule that takes every window reads titles where those of the template do not.
	all := contract.ID{2}
	policyRules = append(policyRules, &policyv1.Rule{RuleId: all[:], Executable: "golden", Priority: 100})
	m, err := rules.Compile(&policyv1.Policy{DocumentKey: make([]byte, 32), Applications: []*policyv1.ApplicationPolicy{{
		ApplicationId: id[:], Rules: policyRules, TitleRules: template.PolicyTitleRules(), Documents: true,
		DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL,
	}}})
	if err != nil {
		t.Fatalf("%s: %v", template.ID, err)
	}
	return m
}

// TestExamples reads every example by the rules that agents use.
func TestExamples(t *testing.T) {
	library := load(t)
	if n := len(library.All()); n < 40 {
		t.Fatalf("the library has %d programs", n)
	}
	for _, template := range library.All() {
		t.Run(template.ID, func(t *testing.T) {
			m := compiled(t, template)
			plain, unsaved := 0, 0
			for _, e := range template.Examples {
				want := rules.Document{Folder: e.Folder, Project: e.Project, Modified: e.Modified}
				switch {
				case e.Private:
					want.Kind = rules.Private
				case e.Unsaved != "":
					want.Kind, want.Name = rules.Unsaved, e.Unsaved
					unsaved++
				case e.File != "":
					want.Kind, want.Name = rules.File, e.File
					plain++
				case e.Document != "":
					want.Kind, want.Name = rules.Named, e.Document
					plain++
				}
				got, _ := m.Match(rules.Program{Executable: "golden", Title: e.Title})
				if got.Document != want {
					t.Errorf("%q\n got %+v\nwant %+v", e.Title, got.Document, want)
				}
			}
			if len(template.Examples) < 2 || plain+unsaved == 0 && template.Caution == "" {
				t.Errorf("%d examples, %d with a document", len(template.Examples), plain+unsaved)
			}
			if template.Documents != (template.Category != "browser" && template.Category != "remote") {
				t.Errorf("documents are %v by default", template.Documents)
			}
			if template.RemoteClient != (template.Category == "remote") {
				t.Errorf("of the category %s, a remote client: %v", template.Category, template.RemoteClient)
			}
			// What a rule that needs a title claims must be its own examples' titles.
			for _, r := range template.Rules {
				if r.Executable == "" && r.Path == "" && r.WindowClass == "" && r.Package == "" {
					t.Errorf("the rule %+v claims windows of any program", r)
				}
			}
		})
	}
}

// TestNoTemplateTakesAnothersProgram: two templates may name one executable only where a
// title or a path tells them apart.
func TestNoTemplateTakesAnothersProgram(t *testing.T) {
	owner := map[string]string{}
	for _, template := range load(t).All() {
		for _, r := range template.Rules {
			for _, key := range []string{"executable " + r.Executable, "package " + r.Package} {
				if strings.HasSuffix(key, " ") || r.Title != "" || r.Path != "" {
					continue
				}
				if other, taken := owner[strings.ToLower(key)]; taken && other != template.ID {
					t.Errorf("%s belongs to %s and to %s", key, other, template.ID)
				}
				owner[strings.ToLower(key)] = template.ID
			}
		}
	}
}

// TestPrivateWindowsHaveNoDocument looks at all browsers with titles that say that their
// window is private, in words that examples may have left out.
func TestPrivateWindowsHaveNoDocument(t *testing.T) {
	private := []string{
		"Diagnosis — Mozilla Firefox Private Browsing", "Diagnosis — Navigation privée de Mozilla Firefox", "Diagnose — Mozilla Firefox (Privater Modus)",
		"Диагноз — Приватный просмотр Mozilla Firefox", "Mozilla Firefox Private Browsing", "Diagnosis - Google Chrome (Incognito)", "New Incognito Tab - Google Chrome",
		"Nueva pestaña de incógnito - Chromium", "Diagnosis - [InPrivate] - Microsoft Edge", "Diagnosis and 2 more pages - [InPrivate] - Microsoft\u200B Edge",
	}
	for _, template := range load(t).All() {
		if template.Category != "browser" {
			continue
		}
		m := compiled(t, template)
		for _, title := range private {
			if got, _ := m.Match(rules.Program{Executable: "golden", Title: title}); got.Document.Name != "" {
				t.Errorf("%s: %q is read as %+v", template.ID, title, got.Document)
			}
		}
	}
}

// TestWebApplicationInABrowser: a page that a rule names by its title is an application of
// its own, and every other one is the browser's, with its document.
func TestWebApplicationInABrowser(t *testing.T) {
	chrome, found := load(t).Find("chrome")
	if !found {
		t.Fatal("there is no Chrome")
	}
	browser, tracker := contract.ID{1}, contract.ID{2}
	browserRules := chrome.PolicyRules()
	for i, r := range browserRules {
		id := contract.ID{1, byte(i + 1)}
		r.RuleId = id[:]
	}
	m, err := rules.Compile(&policyv1.Policy{DocumentKey: make([]byte, 32), Applications: []*policyv1.ApplicationPolicy{
		{
			ApplicationId: browser[:], Rules: browserRules, TitleRules: chrome.PolicyTitleRules(), Documents: true,
			DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME,
		},
		{
			ApplicationId: tracker[:], Documents: true, DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH,
			Rules:      []*policyv1.Rule{{RuleId: tracker[:], Executable: "chrome", Title: "- Jira - Google Chrome$", Priority: 10}},
			TitleRules: []*policyv1.TitleRule{{Pattern: `^(?P<document>.+) - Jira - Google Chrome$`}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for title, want := range map[string]struct {
		application contract.ID
		document    rules.Document
	}{
		"PIER-3 Cracks - Jira - Google Chrome": {tracker, rules.Document{Kind: rules.Named, Name: "PIER-3 Cracks"}},
		"Load cases - Google Chrome":           {browser, rules.Document{Kind: rules.Named, Name: "Load cases"}},
		"New Incognito Tab - Google Chrome":    {browser, rules.Document{Kind: rules.Private}},
	} {
		got, ok := m.Match(rules.Program{Executable: "chrome.exe", Title: title})
		if !ok || got.Application.ID != want.application || got.Document != want.document {
			t.Errorf("%q is %+v", title, got)
		}
	}
}

// TestReadRefuses what would be a wrong entry.
func TestReadRefuses(t *testing.T) {
	good := "- {id: a, name: A, source: seen, rules: [{executable: a}], titles: ['^(?P<file>.+) {dash} A$']}\n"
	for _, c := range []struct{ name, entry, want string }{
		{"a misspelt field", strings.Replace(good, "titles", "titel", 1), "titel"},
		{"no source", strings.Replace(good, "source: seen, ", "", 1), "lacks"},
		{"an unknown part", strings.Replace(good, "{dash}", "{dahs}", 1), "{dahs}"},
		{"twice", good + good, "twice"},
		{"", good, ""},
	} {
		files := fstest.MapFS{
			"data/parts.yaml":  {Data: []byte("dash: '-'\n")},
			"data/office.yaml": {Data: []byte(c.entry)},
		}
		_, err := read(files)
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && !strings.Contains(got, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A program that was seen is known again by its executable, its package or its windows' class; one
// that only titles tell apart is not.
func TestProgramsThatWereSeenAreRecognised(t *testing.T) {
	library := load(t)
	for want, seen := range map[string][]rules.Program{
		"microsoft-excel":  {{Executable: "EXCEL.EXE", Path: `C:\Program Files\Microsoft Office\root\Office16\EXCEL.EXE`}},
		"gimp":             {{Executable: "other"}, {Package: "org.gimp.GIMP"}},
		"libreoffice-calc": {{Executable: "soffice.bin"}, {Executable: "soffice.bin", WindowClass: "libreoffice-calc"}},
		"wps-office":       {{Executable: "et", Path: "/opt/kingsoft/wps-office/office6/et"}},
		"":                 {{Executable: "soffice.bin"}, {Executable: "et", Path: "/usr/bin/et"}, {Executable: "xterm", WindowClass: "XTerm"}},
	} {
		got := ""
		if found, ok := library.Recognise(seen); ok {
			got = found.ID
		}
		if got != want {
			t.Errorf("%+v is recognised as %q, not %q", seen, got, want)
		}
	}
}
