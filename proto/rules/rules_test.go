package rules_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

func id(n byte) []byte { return append(make([]byte, 15), n) }

func policy(rs ...*policyv1.Rule) *policyv1.Policy {
	p := &policyv1.Policy{}
	for i, r := range rs {
		if r.RuleId == nil {
			r.RuleId = id(byte(i + 1))
		}
		p.Applications = append(p.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id(byte(i + 1)), Rules: []*policyv1.Rule{r},
		})
	}
	return p
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		name    string
		rule    *policyv1.Rule
		program rules.Program
		want    bool
	}{
		{"executable", &policyv1.Rule{Executable: "Word"}, rules.Program{Executable: "WORD.EXE"}, true},
		{"executable with .exe in the rule", &policyv1.Rule{Executable: "word.exe"}, rules.Program{Executable: "word"}, true},
		{"executable pattern", &policyv1.Rule{Executable: "acad*"}, rules.Program{Executable: "acadlt.exe"}, true},
		{"executable is whole", &policyv1.Rule{Executable: "word"}, rules.Program{Executable: "wordpad"}, false},
		{"question mark is one letter", &policyv1.Rule{Executable: "w?rd"}, rules.Program{Executable: "wörd"}, true},
		{"path with backslashes", &policyv1.Rule{Path: `C:\Program Files\*\bin\x.exe`}, rules.Program{Path: "c:/program files/A/bin/X.EXE"}, true},
		{"all fields must match", &policyv1.Rule{Executable: "word", Title: "x"}, rules.Program{Executable: "word", Title: "y"}, false},
		{"title is searched", &policyv1.Rule{Title: "jira"}, rules.Program{Title: "Board - JIRA - Firefox"}, true},
		{"title word with an s", &policyv1.Rule{Title: "SKETCH"}, rules.Program{Title: "my ſKetch"}, true},
		{"title expression", &policyv1.Rule{Title: `^\w+ - jira$`}, rules.Program{Title: "Board - Jira"}, true},
		{"title rule needs a window", &policyv1.Rule{Title: ".*"}, rules.Program{Executable: "word"}, false},
		{"class rule needs a window", &policyv1.Rule{WindowClass: "*"}, rules.Program{Executable: "word"}, false},
		{"package", &policyv1.Rule{Package: "org.mozilla.*"}, rules.Program{Package: "org.mozilla.Firefox"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := rules.Compile(policy(c.rule))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second answer comes from the table
				if _, ok := m.Match(c.program); ok != c.want {
					t.Fatalf("match is %v, want %v", ok, c.want)
				}
			}
		})
	}
}

func TestPriorityThenSmallestID(t *testing.T) {
	p := policy(
		&policyv1.Rule{RuleId: id(9), Executable: "firefox"},
		&policyv1.Rule{RuleId: id(3), Executable: "fire*"},
		&policyv1.Rule{RuleId: id(4), Title: "jira", Priority: 5},
	)
	m, err := rules.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	for title, want := range map[string]byte{"": 3, "News": 3, "Jira": 4} {
		got, ok := m.Match(rules.Program{Executable: "firefox", Title: title})
		if !ok || got.RuleID[15] != want {
			t.Errorf("title %q: rule %v, want %d", title, got.RuleID, want)
		}
		if got.ByWindow != (want == 4) {
			t.Errorf("title %q: ByWindow is %v", title, got.ByWindow)
		}
	}
}

func TestDocument(t *testing.T) {
	p := policy(&policyv1.Rule{Executable: "word", DocumentTitle: `^(?P<document>.*?) - Word$`}, &policyv1.Rule{Executable: "any"}, &policyv1.Rule{Executable: "off"})
	for n := range 2 {
		p.Applications[n].Documents = true
	}
	m, err := rules.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		executable, title string
		want              rules.Document
	}{
		{"word", "Plan.docx - Word", rules.Document{Kind: rules.Named, Name: "Plan.docx"}},
		{"word", "Word", rules.Document{}},
		{"word", "", rules.Document{}},
		{"any", "Plan.docx - Word", rules.Document{Kind: rules.WholeTitle, Name: "Plan.docx - Word"}},
		{"off", "Plan.docx - Word", rules.Document{}},
	} {
		if got, _ := m.Match(rules.Program{Executable: c.executable, Title: c.title}); got.Document != c.want {
			t.Errorf("%s, title %q: document %+v, want %+v", c.executable, c.title, got.Document, c.want)
		}
	}
}

// titled is a policy of one application that reads titles by these patterns.
func titled(patterns ...string) *policyv1.Policy {
	p := policy(&policyv1.Rule{Executable: "edit"})
	p.Applications[0].Documents = true
	for _, pattern := range patterns {
		p.Applications[0].TitleRules = append(p.Applications[0].TitleRules, &policyv1.TitleRule{Pattern: pattern})
	}
	return p
}

func TestTitleRules(t *testing.T) {
	m, err := rules.Compile(titled(
		`(?P<private>incognito)`,
		`^Start(?P<document>)$`,
		`^(?P<modified>\*)?(?P<unsaved>new \d+) - Edit$`,
		`^(?P<modified>\*)?(?P<path>(?:[a-z]:\\|/).+) - Edit$`,
		`^(?P<modified>\*)?(?P<file>[^(]+) \((?P<folder>[^)]+)\)(?: in (?P<project>\w+))? - Edit$`,
		`^(?P<project>\w+) project - Edit$`,
		`^(?P<document>.+) - Edit$`,
	))
	if err != nil {
		t.Fatal(err)
	}
	for title, want := range map[string]rules.Document{
		"a page, Incognito - Edit":      {Kind: rules.Private},
		"Start":                         {},
		"something else":                {},
		"*NEW 3 - edit":                 {Kind: rules.Unsaved, Name: "NEW 3", Modified: true},
		`C:\plans\Pier 3.dwg - Edit`:    {Kind: rules.File, Folder: `C:\plans`, Name: "Pier 3.dwg"},
		"*/plan.txt - Edit":             {Kind: rules.File, Folder: "/", Name: "plan.txt", Modified: true},
		"plan.txt (~/x) - Edit":         {Kind: rules.File, Folder: "~/x", Name: "plan.txt"},
		"plan.txt (src) in beta - Edit": {Kind: rules.File, Folder: "src", Name: "plan.txt", Project: "beta"},
		"beta project - Edit":           {Kind: rules.Named, Name: "beta"},
		" Überschrift - Edit":           {Kind: rules.Named, Name: "Überschrift"},
	} {
		if got, _ := m.Match(rules.Program{Executable: "edit", Title: title}); got.Document != want {
			t.Errorf("%q is read as %+v, want %+v", title, got.Document, want)
		}
	}
}

func TestTitleRulesThatAreWrong(t *testing.T) {
	many := make([]string, rules.MaxTitleRules+1)
	for i := range many {
		many[i] = "(?P<file>.)"
	}
	for _, c := range []struct {
		patterns []string
		field    string
		says     string
	}{
		{[]string{"(?P<file>.+)", "(?P<file>"}, "title_rules[1].pattern", "missing closing )"},
		{[]string{""}, "title_rules[0].pattern", "empty"},
		{[]string{".+"}, "title_rules[0].pattern", "no named group"},
		{[]string{"(?P<fiel>.+)"}, "title_rules[0].pattern", `"fiel"`},
		{[]string{"(?P<file>a)|(?P<file>b)"}, "title_rules[0].pattern", "twice"},
		{[]string{"(?P<file>.+)(?!x)"}, "title_rules[0].pattern", "(?!"},
		{[]string{"(?P<file>(a{1000}){1000})"}, "title_rules[0].pattern", "repeat"},
		{[]string{"(?P<file>" + strings.Repeat("a", rules.MaxPattern) + ")"}, "title_rules[0].pattern", "1024"},
		{[]string{"(?P<file>\xff)"}, "title_rules[0].pattern", "UTF-8"},
		{many, "title_rules", "at most 20"},
	} {
		_, err := rules.Compile(titled(c.patterns...))
		var named *rules.Error
		if !errors.As(err, &named) || named.Field != c.field || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.40q: want an error of %s that says %q, got %v", c.patterns, c.field, c.says, err)
		}
	}
}

// FuzzTitleRules: whatever pattern and title there are, compiling refuses or reading
// answers, and an answer keeps what kinds promise.
func FuzzTitleRules(f *testing.F) {
	f.Add(`^(?P<modified>\*)?(?P<file>.+?) - Word$`, "*Plan.docx - Word")
	f.Add(`(?P<path>.*)(?P<project>)`, "//")
	f.Add(`(?P<private>.)`, "\xff")
	f.Add("(?P<file>(", "")
	f.Fuzz(func(t *testing.T, pattern, title string) {
		m, err := rules.Compile(titled(pattern))
		if err != nil {
			var named *rules.Error
			if !errors.As(err, &named) {
				t.Fatalf("%q: %v", pattern, err)
			}
			return
		}
		found, _ := m.Match(rules.Program{Executable: "edit", Title: title})
		d := found.Document
		if named := d.Kind == rules.Named || d.Kind == rules.File || d.Kind == rules.Unsaved; named != (d.Name != "") {
			t.Fatalf("%q reads %q as %+v", pattern, title, d)
		}
		if d.Kind != rules.File && d.Folder != "" {
			t.Fatalf("%q reads %q as %+v", pattern, title, d)
		}
	})
}

func TestCompileNamesWhatIsWrong(t *testing.T) {
	with := func(change func(*policyv1.Policy)) *policyv1.Policy {
		p := policy(&policyv1.Rule{Executable: "a"}, &policyv1.Rule{Executable: "b"})
		change(p)
		return p
	}
	app := func(p *policyv1.Policy) *policyv1.ApplicationPolicy { return p.Applications[1] }
	for _, c := range []struct {
		field  string
		change func(*policyv1.Policy)
	}{
		{"title", func(p *policyv1.Policy) { app(p).Rules[0].Title = "(" }},
		{"document_title", func(p *policyv1.Policy) { app(p).Rules[0].DocumentTitle = "x" }},
		{"rule_id", func(p *policyv1.Policy) { app(p).Rules[0].RuleId = []byte{1} }},
		{"rule_id", func(p *policyv1.Policy) { app(p).Rules[0].RuleId = id(1) }},
		{"executable", func(p *policyv1.Policy) { app(p).Rules[0].Executable = "" }},
		{"path", func(p *policyv1.Policy) { app(p).Rules[0].Path = "\xff" }},
		{"application_id", func(p *policyv1.Policy) { app(p).ApplicationId = nil }},
		{"application_id", func(p *policyv1.Policy) { app(p).ApplicationId = id(1) }},
		{"activity_gap", func(p *policyv1.Policy) { app(p).ActivityGap = durationpb.New(2 * time.Hour) }},
		{"timeout", func(p *policyv1.Policy) { app(p).Timeout = durationpb.New(10 * time.Second) }},
		{"document_reduction", func(p *policyv1.Policy) {
			app(p).Documents = true
			app(p).DocumentReduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL
		}},
	} {
		_, err := rules.Compile(with(c.change))
		var named *rules.Error
		if !errors.As(err, &named) || named.Field != c.field {
			t.Errorf("want an error about %s, got %v", c.field, err)
			continue
		}
		if !strings.Contains(err.Error(), "-00000000000") && c.field != "application_id" {
			t.Errorf("the error does not name the application or rule: %v", err)
		}
	}
}

// TestAgainstPlainSearch compares the indexed matcher with a search through all
// rules that is written without index, cache or short cut.
func TestAgainstPlainSearch(t *testing.T) {
	words := []string{"word", "excel", "acad", "code", "Kiosk"}
	var rs []*policyv1.Rule
	for i := range 200 {
		r := &policyv1.Rule{RuleId: id(byte(i + 1)), Priority: int32(i % 4)}
		w := words[i%len(words)]
		switch i % 7 {
		case 0:
			r.Executable = w
		case 1:
			r.Executable = w[:2] + "*"
		case 2:
			r.Title = w
		case 3:
			r.Executable, r.Title = w, "plan|"+words[(i+1)%5]
		case 4:
			r.WindowClass = "*" + w + "*"
		case 5:
			r.Path = "/opt/*/" + w
		case 6:
			r.Package, r.Title = "org."+w, `^a`
		}
		rs = append(rs, r)
	}
	m, err := rules.Compile(policy(rs...))
	if err != nil {
		t.Fatal(err)
	}
	shell := func(pattern, text string) bool {
		if pattern == "" {
			return true
		}
		q := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
		return text != "" && regexp.MustCompile("(?is)^"+q+"$").MatchString(text)
	}
	for n := range 300 {
		i := n * 7
		w, v := words[i%5], words[(i/5)%5]
		p := rules.Program{Executable: w, Path: "/opt/x/" + v}
		if i%3 > 0 {
			p.WindowClass, p.Title = "the"+v, []string{"a plan", v + " 1", "Ax"}[(i/25)%3]
		}
		if i%2 == 0 {
			p.Package = "org." + v
		}
		var want *policyv1.Rule
		for _, r := range rs {
			if shell(r.Executable, p.Executable) && shell(r.Path, p.Path) && shell(r.WindowClass, p.WindowClass) && shell(r.Package, p.Package) &&
				(r.Title == "" || p.Title != "" && regexp.MustCompile("(?i)"+r.Title).MatchString(p.Title)) {
				if want == nil || r.Priority > want.Priority || r.Priority == want.Priority && string(r.RuleId) < string(want.RuleId) {
					want = r
				}
			}
		}
		got, ok := m.Match(p)
		if ok != (want != nil) || ok && string(got.RuleID[:]) != string(want.RuleId) {
			t.Fatalf("%+v: rule %v (%v), want %v", p, got.RuleID, ok, want)
		}
		// Without its title, whatever claims the program is among what is possible, and
		// what is sure comes last.
		possible := m.Possible(rules.Program{Executable: p.Executable, Path: p.Path, WindowClass: p.WindowClass, Package: p.Package})
		among := !ok
		for i, c := range possible {
			among = among || c.RuleID == got.RuleID
			if !c.Titled && i < len(possible)-1 {
				t.Fatalf("%+v: a rule behind one that is sure: %v", p, possible)
			}
		}
		if !among {
			t.Fatalf("%+v: rule %v is not among %v", p, got.RuleID, possible)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("word*", "(?P<document>.*)", "a b", "WORD")
	f.Add("?", "(", "\xff", "")
	f.Fuzz(func(t *testing.T, pattern, expression, title, executable string) {
		p := policy(&policyv1.Rule{Executable: pattern, Title: expression, DocumentTitle: expression})
		p.Applications[0].Documents = true
		m, err := rules.Compile(p)
		if err != nil {
			return
		}
		m.Match(rules.Program{Executable: executable, Title: title})
	})
}

// BenchmarkTitleRules: title rules of other applications cost nothing, and a title that
// has been read is not read again.
func BenchmarkTitleRules(b *testing.B) {
	for _, n := range []int{1, 1000} {
		p := &policyv1.Policy{}
		for i := range n {
			id := contract.ID{byte(i >> 8), byte(i), 1}
			a := &policyv1.ApplicationPolicy{ApplicationId: id[:], Documents: true, Rules: []*policyv1.Rule{{RuleId: id[:], Executable: fmt.Sprintf("program%d", i)}}}
			for range 5 {
				a.TitleRules = append(a.TitleRules, &policyv1.TitleRule{Pattern: `^(?P<modified>\*)?(?P<file>.+?)(?: \[[^\]]+\])* - Program(?: \(.*\))?$`})
			}
			p.Applications = append(p.Applications, a)
		}
		m, err := rules.Compile(p)
		if err != nil {
			b.Fatal(err)
		}
		titles := make([]string, 4096)
		for i := range titles {
			titles[i] = fmt.Sprintf("*Plan %d.docx [Read-Only] - Program", i)
		}
		b.Run(fmt.Sprintf("new title, %d applications", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				m.Match(rules.Program{Executable: "program0", Title: titles[i%len(titles)]})
				i++
			}
		})
		b.Run(fmt.Sprintf("same title, %d applications", n), func(b *testing.B) {
			for b.Loop() {
				m.Match(rules.Program{Executable: "program0", Title: titles[0]})
			}
		})
	}
}

// BenchmarkMatch: a thousand rules cost an observation what ten do.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := &policyv1.Policy{}
			for i := range n {
				n := contract.ID{byte(i >> 8), byte(i), 1}
				p.Applications = append(p.Applications, &policyv1.ApplicationPolicy{ApplicationId: n[:], Rules: []*policyv1.Rule{
					{RuleId: n[:], Executable: fmt.Sprintf("program%d", i)},
				}})
			}
			m, err := rules.Compile(p)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				m.Match(rules.Program{Executable: "program7", Title: "x"})
				m.Match(rules.Program{Executable: "other", Title: "y"})
			}
		})
	}
}
