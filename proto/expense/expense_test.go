package expense_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/expense"
)

func id(n byte) []byte { return append(make([]byte, 15), n) }

func rule(n byte, change func(*policyv1.AssignmentRule)) *policyv1.AssignmentRule {
	r := &policyv1.AssignmentRule{AssignmentRuleId: id(n), Assigned: &policyv1.AssignmentRule_NotChargeable{NotChargeable: true}}
	if change != nil {
		change(r)
	}
	return r
}

func compile(t interface {
	Helper()
	Fatal(args ...any)
}, list ...*policyv1.AssignmentRule,
) *expense.Assigner {
	t.Helper()
	a, err := expense.CompileRules(list)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestFolders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rule, folder string
		want         bool
	}{
		{"/srv/bridge", "/srv/bridge", true},
		{"/srv/bridge", "/srv/bridge/plans/old", true},
		{"/srv/bridge/", "/srv/bridge", true},
		{"/srv/bridge", "/srv/bridges", false},
		{"/srv/bridge", "/srv", false},
		{"/srv/bridge", "/srv/Bridge", false},
		{"/srv/bridge", "/srv/tunnel/../bridge/plans", true},
		{"/srv/bridge", "/srv/bridge/../tunnel", false},
		{"/srv/*/plans", "/srv/bridge/plans/old", true},
		{"/srv/*/plans", "/srv/a/b/plans", false},
		{"/srv/20??", "/srv/2024/x", true},
		{"/srv/[2024] bridge", "/srv/[2024] bridge/x", true},
		{"/srv/[2024] bridge", "/srv/2 bridge/x", false},
		{"/", "/anything", true},
		{"/", `C:\anything`, false},
		{`/srv/a\b`, `/srv/a\b/c`, true},
		{`/srv/a\b`, `/srv/a/b`, false},

		{`P:\2024\017`, `p:\2024\017\Plans`, true},
		{`P:\2024\017`, `P:/2024/017`, true},
		{`P:/2024/017/`, `P:\2024\017`, true},
		{`P:\2024\017`, `P:\2024\0170`, false},
		{`P:\2024\017`, `Q:\2024\017`, false},
		{`?:\2024\017`, `Q:\2024\017`, true},
		{`P:\`, `P:\x`, true},
		{`P:`, `P:\x`, true},
		{`P:\Brücke`, `P:\BRÜCKE\Pläne`, true},
		{`P:\2024`, `\\?\P:\2024\x`, true},
		{`P:\2024`, `/2024`, false},

		{`\\server\share\bridge`, `\\SERVER\Share\Bridge\plans`, true},
		{`//server/share/bridge`, `\\server\share\bridge`, true},
		{`\\server\share`, `\\server\share2`, false},
		{`\\server\share`, `\\?\UNC\server\share\x`, true},
		{`\\*\share`, `\\backup\share\x`, true},
		{`\\server\share`, `/server/share`, false},

		{"/srv", "relative", false},
		{"/srv", "~/srv", false},
		{"/srv", "", false},
	} {
		a := compile(t, rule(1, func(r *policyv1.AssignmentRule) { r.Folder = c.rule }))
		if got := a.Find(expense.Use{Folder: c.folder, File: "x"}) != nil; got != c.want {
			t.Errorf("the rule %s fits %s: %v, want %v", c.rule, c.folder, got, c.want)
		}
	}
}

func TestRulesTogether(t *testing.T) {
	t.Parallel()
	a := compile(t,
		rule(1, func(r *policyv1.AssignmentRule) { r.Folder, r.FileName = "/srv/bridge", "*.dwg" }),
		rule(2, func(r *policyv1.AssignmentRule) { r.ApplicationId, r.User = id(10), `ACME\a*` }),
		rule(3, func(r *policyv1.AssignmentRule) { r.FileName = "timesheet ?.xlsx" }),
	)
	for _, c := range []struct {
		use  expense.Use
		want byte
	}{
		{expense.Use{Application: id(10), Folder: "/srv/bridge", File: "Pier.DWG"}, 1},
		{expense.Use{Application: id(10), Folder: "/srv/bridge", File: "Pier.dxf"}, 0},
		{expense.Use{Application: id(10), File: "Pier.dwg"}, 0}, // its folder is not known
		{expense.Use{Application: id(10), User: `Acme\Ada`, Folder: "/srv/bridge", File: "Pier.dwg"}, 1},
		{expense.Use{Application: id(10), User: `Acme\Ada`}, 2},
		{expense.Use{Application: id(11), User: `Acme\Ada`}, 0},
		{expense.Use{Application: id(10), User: "ada"}, 0},
		{expense.Use{Application: id(11), File: "Timesheet 3.xlsx"}, 3},
		{expense.Use{Application: id(11), File: "Timesheet 31.xlsx"}, 0},
	} {
		got := byte(0)
		if r := a.Find(c.use); r != nil {
			got = r.GetAssignmentRuleId()[15]
		}
		if got != c.want {
			t.Errorf("%+v gets the rule %d, want %d", c.use, got, c.want)
		}
	}
	if !a.ReadsFiles(expense.Use{Application: id(10)}) {
		t.Error("files decide, and it says that they do not")
	}
	if compile(t, rule(1, nil)).ReadsFiles(expense.Use{}) {
		t.Error("no file decides, and it says that one does")
	}
}

// some draws one of several.
func some[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// word draws up to n characters of an alphabet.
func word(r *rand.Rand, alphabet string, least, most int) string {
	letters := []rune(alphabet)
	text := make([]rune, least+r.IntN(most-least+1))
	for n := range text {
		text[n] = some(r, letters...)
	}
	return string(text)
}

// A folder's rule fits the folder and all below it, and no folder beside it.
func TestAFolderIsItsElements(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		name := func() string { return word(r, "abzABZäß .09[]{}-", 0, 8) + word(r, "xyz", 1, 1) }
		begin := some(r, "/", `C:\`, `\\server\share\`)
		slash := `\`
		if begin == "/" {
			slash = "/"
		}
		folder := begin + name()
		for range r.IntN(4) {
			folder += slash + name()
		}
		below := folder
		for range r.IntN(4) {
			below += slash + name()
		}
		a := compile(t, rule(1, func(r *policyv1.AssignmentRule) { r.Folder = folder }))
		if a.Find(expense.Use{Folder: below}) == nil {
			t.Fatalf("seed %d: %q does not fit %q", seed, folder, below)
		}
		if beside := folder + name(); a.Find(expense.Use{Folder: beside}) != nil {
			t.Fatalf("seed %d: %q fits %q", seed, folder, beside)
		}
		shouted := strings.ToUpper(folder)
		if fits := a.Find(expense.Use{Folder: shouted}) != nil; fits != (begin != "/" || shouted == folder) {
			t.Fatalf("seed %d: %q fits %q: %v", seed, folder, shouted, fits)
		}
	}
}

// settings are in order.
func settings() *policyv1.ExpenseToProject {
	return &policyv1.ExpenseToProject{
		Fields: []*policyv1.PromptField{
			{Key: "project", Label: "Project", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT, Pattern: `\d{4}-\d{3} .+`},
			{Key: "phase", Label: "Phase", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_CHOICE, Options: []string{"Draft"}},
			{Key: "order", Label: "Order", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_TEXT, Pattern: `[A-Z]{2}\d{4}`, PatternMessage: "As in AB1234", MinLength: 6, MaxLength: 6},
			{Key: "hours", Label: "Hours", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_NUMBER, Minimum: "0.25", Maximum: "24"},
			{Key: "due", Label: "Due", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_DATE, Minimum: "2026-01-01"},
		},
		Projects:     []*policyv1.PromptProject{{ProjectId: id(70), Label: "2024-017 Pier 3"}},
		Rules:        []*policyv1.AssignmentRule{rule(1, func(r *policyv1.AssignmentRule) { r.Folder = `P:\2024\017` })},
		SharedLogins: []string{"cad-*"},
		Workers:      []*policyv1.PromptWorker{{WorkerId: id(90), Label: "Ada Obi"}},
	}
}

// What is wrong in an account's settings is named by its place.
func TestWrongSettingsAreNamed(t *testing.T) {
	t.Parallel()
	if err := expense.CheckSettings(settings()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*policyv1.ExpenseToProject){
		"fields":                    func(s *policyv1.ExpenseToProject) { s.Fields = make([]*policyv1.PromptField, 9) },
		"fields[0].key":             func(s *policyv1.ExpenseToProject) { s.Fields[0].Key = "" },
		"fields[1].key":             func(s *policyv1.ExpenseToProject) { s.Fields[1].Key = "_worker" },
		"fields[2].key":             func(s *policyv1.ExpenseToProject) { s.Fields[2].Key = "project" },
		"fields[2].label":           func(s *policyv1.ExpenseToProject) { s.Fields[2].Label = "a\nb" },
		"fields[2].pattern":         func(s *policyv1.ExpenseToProject) { s.Fields[2].Pattern = `[A-Z` },
		"fields[0].pattern":         func(s *policyv1.ExpenseToProject) { s.Fields[0].Pattern = `a)|(b` },
		"fields[3].pattern":         func(s *policyv1.ExpenseToProject) { s.Fields[3].Pattern = `\d+` },
		"fields[1].pattern":         func(s *policyv1.ExpenseToProject) { s.Fields[1].MinLength = 3 },
		"fields[2].pattern_message": func(s *policyv1.ExpenseToProject) { s.Fields[2].Pattern = "" },
		"fields[2].max_length":      func(s *policyv1.ExpenseToProject) { s.Fields[2].MaxLength = 3 },
		"fields[2].min_length":      func(s *policyv1.ExpenseToProject) { s.Fields[2].MinLength = 201 },
		"fields[2].minimum":         func(s *policyv1.ExpenseToProject) { s.Fields[2].Maximum = "3" },
		"fields[3].minimum":         func(s *policyv1.ExpenseToProject) { s.Fields[3].Minimum = "much" },
		"fields[3].maximum":         func(s *policyv1.ExpenseToProject) { s.Fields[3].Maximum = "0.2" },
		"fields[4].minimum":         func(s *policyv1.ExpenseToProject) { s.Fields[4].Minimum = "2026-02-30" },
		"fields[1].options":         func(s *policyv1.ExpenseToProject) { s.Fields[1].Options = nil },
		"fields[1].options[1]":      func(s *policyv1.ExpenseToProject) { s.Fields[1].Options = []string{"Draft", "Draft"} },
		"fields[3].options":         func(s *policyv1.ExpenseToProject) { s.Fields[3].Options = []string{"1"} },
		"fields[2].kind":            func(s *policyv1.ExpenseToProject) { s.Fields[2].Kind = 77 },
		"fields[1].kind": func(s *policyv1.ExpenseToProject) {
			s.Fields[1] = proto.CloneOf(s.Fields[0])
			s.Fields[1].Key = "second"
		},
		"projects[0].project_id": func(s *policyv1.ExpenseToProject) { s.Projects[0].ProjectId = []byte("x") },
		"projects[1].project_id": func(s *policyv1.ExpenseToProject) { s.Projects = append(s.Projects, s.Projects[0]) },
		"projects[0].label":      func(s *policyv1.ExpenseToProject) { s.Projects[0].Label = " " },
		"rules[0].folder":        func(s *policyv1.ExpenseToProject) { s.Rules[0].Folder = "2024/017" },
		"rules[0].file_name":     func(s *policyv1.ExpenseToProject) { s.Rules[0].FileName = `plans\*.dwg` },
		"rules[0].user":          func(s *policyv1.ExpenseToProject) { s.Rules[0].User = strings.Repeat("x", 300) },
		"rules[0].project_id": func(s *policyv1.ExpenseToProject) {
			s.Rules[0].Assigned = &policyv1.AssignmentRule_ProjectId{ProjectId: id(71)}
		},
		"rules[0].not_chargeable":     func(s *policyv1.ExpenseToProject) { s.Rules[0].Assigned = &policyv1.AssignmentRule_NotChargeable{} },
		"rules[1].assignment_rule_id": func(s *policyv1.ExpenseToProject) { s.Rules = append(s.Rules, s.Rules[0]) },
		"workers[0].worker_id":        func(s *policyv1.ExpenseToProject) { s.Workers[0].WorkerId = nil },
		"shared_logins":               func(s *policyv1.ExpenseToProject) { s.Workers = nil },
		"shared_logins[0]":            func(s *policyv1.ExpenseToProject) { s.SharedLogins[0] = "" },
	} {
		s := settings()
		spoil(s)
		err := expense.CheckSettings(s)
		var of *expense.Error
		if !errors.As(err, &of) || of.Field != want {
			t.Errorf("%s is wrong, and told is %v", want, err)
		}
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	order := expense.Limits{Pattern: `[A-Z]{2}\d{4}`, Message: "As in AB1234"}
	either := expense.Limits{Pattern: `a|b`}
	hours := expense.Limits{Form: expense.Number, Minimum: "0.25", Maximum: "24"}
	day := expense.Limits{Form: expense.Date, Minimum: "2026-01-01", Maximum: "2026-12-31"}
	length := expense.Limits{MinLength: 2, MaxLength: 3}
	for _, c := range []struct {
		limits     expense.Limits
		text, kept string // kept: what is valid, as it is kept
		problem    string
	}{
		{order, "AB1234", "AB1234", ""},
		{order, " AB1234 ", "AB1234", ""},
		{order, "xAB1234", "", "“F”: As in AB1234"},
		{order, "AB12345", "", "“F”: As in AB1234"},
		{order, "AB1234\nx", "", "“F”: As in AB1234"},
		{order, "", "", ""},
		{either, "ab", "", "form"},
		{either, "xb", "", "form"},
		{either, "b", "b", ""},
		{hours, "7,5", "7.5", ""},
		{hours, "+007.50", "7.50", ""},
		{hours, "24", "24", ""},
		{hours, "24.01", "", "more than 24"},
		{hours, "0.2", "", "less than 0.25"},
		{hours, "-0", "", "less than 0.25"},
		{hours, "1e1", "", "no number"},
		{hours, "1,000", "", "1000 or 1.000"},
		{hours, "1.000,5", "", "no number"},
		{hours, "ten", "", "no number"},
		{expense.Limits{Form: expense.Number}, "-0.0", "0.0", ""},
		{expense.Limits{Form: expense.Number}, "-12", "-12", ""},
		{day, "2026-11-28", "2026-11-28", ""},
		{day, "2025-12-31", "", "before 2026-01-01"},
		{day, "2027-01-01", "", "after 2026-12-31"},
		{day, "2026-02-30", "", "no day"},
		{day, "28.11.2026", "", "no day"},
		{length, "ä", "", "at least 2 characters; it has 1"},
		{length, "äö", "äö", ""},
		{length, "äöüß", "", "at most 3 characters; it has 4"},
	} {
		check, err := c.limits.Compile()
		if err != nil {
			t.Fatal(err)
		}
		problem := check.Problem("F", c.text)
		if c.problem == "" && problem != "" || c.problem != "" && !strings.Contains(problem, c.problem) {
			t.Errorf("%+v says of %q: %q, want %q", c.limits, c.text, problem, c.problem)
		}
		if kept := check.Kept(c.text); problem == "" && kept != c.kept {
			t.Errorf("%+v keeps %q as %q, want %q", c.limits, c.text, kept, c.kept)
		}
	}
}

// What is kept is valid, and keeps its spelling.
func TestKeptIsValid(t *testing.T) {
	t.Parallel()
	valid := 0
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 2))
		limits := some(r, expense.Limits{}, expense.Limits{Form: expense.Number}, expense.Limits{Form: expense.Number, Minimum: "-5", Maximum: "1000.5"},
			expense.Limits{Form: expense.Date}, expense.Limits{Pattern: `\S+`}, expense.Limits{MinLength: 3, MaxLength: 5})
		check, err := limits.Compile()
		if err != nil {
			t.Fatal(err)
		}
		text := some(r, word(r, "+-0123456789.,", 0, 8), fmt.Sprintf("20%02d-%02d-%02d", r.IntN(100), r.IntN(14), r.IntN(33)), word(r, " \taä\u2003本.", 0, 6))
		if check.Problem("F", text) != "" {
			continue
		}
		valid++
		kept := check.Kept(text)
		if problem := check.Problem("F", kept); problem != "" || check.Kept(kept) != kept {
			t.Fatalf("seed %d: %q is kept as %q, and that as %q: %s", seed, text, kept, check.Kept(kept), problem)
		}
	}
	if valid < 3000 {
		t.Errorf("only %d texts were valid", valid)
	}
}

// Nothing that an account may write makes compiling or finding fail otherwise than by an error
// that names the place.
func FuzzRule(f *testing.F) {
	f.Add(`P:\2024`, "*.dwg", `ACME\ada`, `p:\2024\x`, "a.dwg")
	f.Add(`\\?\UNC\a`, "", "", `\\a\b`, "")
	f.Add("//", "?", "*", "/", "x")
	f.Fuzz(func(t *testing.T, folder, fileName, user, of, file string) {
		a, err := expense.CompileRules([]*policyv1.AssignmentRule{rule(1, func(r *policyv1.AssignmentRule) { r.Folder, r.FileName, r.User = folder, fileName, user })})
		var named *expense.Error
		if err != nil {
			if !errors.As(err, &named) || !strings.HasPrefix(named.Field, "rules[0].") {
				t.Fatalf("told is %v", err)
			}
			return
		}
		a.Find(expense.Use{Folder: of, File: file, User: user})
	})
}

func FuzzLimits(f *testing.F) {
	f.Add("", `[A-Z]+`, "", "", "AB")
	f.Add("number", "", "1", "2.5", "1,5")
	f.Add("date", "", "2026-01-01", "", "2026-02-30")
	f.Fuzz(func(t *testing.T, form, pattern, minimum, maximum, text string) {
		check, err := expense.Limits{Form: expense.Form(form), Pattern: pattern, Minimum: minimum, Maximum: maximum}.Compile()
		if err != nil || !utf8.ValidString(text) {
			return
		}
		if problem := check.Problem("F", text); problem == "" {
			if again := check.Problem("F", check.Kept(text)); again != "" {
				t.Fatalf("%q is kept as %q: %s", text, check.Kept(text), again)
			}
		}
	})
}
