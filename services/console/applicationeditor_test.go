package console

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// An application that is shown in the form and sent back as it is has not changed.
func TestTheFormHoldsAWholeApplication(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-zA-Z0-9*?.\\/()\[\]äß-]{0,12}`)
		a := &meteringv1.Application{
			DisplayName: "A" + word.Draw(t, "name"), Documents: rapid.Bool().Draw(t, "documents"), RemoteClient: rapid.Bool().Draw(t, "remote"), Etag: "7",
			ActivityGap:       durationpb.New(time.Duration(rapid.Int64Range(1, 3_600_000).Draw(t, "gap")) * time.Millisecond),
			Timeout:           durationpb.New(time.Duration(rapid.Int64Range(1, 3_600_000).Draw(t, "timeout")) * time.Millisecond),
			InstanceScope:     policyv1.InstanceScope(rapid.Int32Range(0, 3).Draw(t, "scope")),
			DocumentReduction: policyv1.DocumentReduction(rapid.Int32Range(0, 5).Draw(t, "reduction")),
			ProjectPrompt: &policyv1.ProjectPrompt{
				Enabled: rapid.Bool().Draw(t, "enabled"), HoldsLaunch: rapid.Bool().Draw(t, "holds"), AtClose: rapid.Bool().Draw(t, "close"),
				Subject: policyv1.PromptSubject(rapid.Int32Range(1, 3).Draw(t, "subject")),
			},
		}
		if rapid.Bool().Draw(t, "nothing is asked") {
			a.ProjectPrompt = nil
		}
		for range rapid.IntRange(1, 12).Draw(t, "rules") {
			a.Rules = append(a.Rules, &meteringv1.Rule{
				RuleId: word.Draw(t, "id"), Priority: rapid.Int32().Draw(t, "priority"), Executable: "x" + word.Draw(t, "executable"), Path: word.Draw(t, "path"),
				WindowClass: word.Draw(t, "class"), Title: word.Draw(t, "title"), Package: word.Draw(t, "package"), DocumentTitle: word.Draw(t, "document"),
			})
		}
		for range rapid.IntRange(0, 3).Draw(t, "title rules") {
			a.TitleRules = append(a.TitleRules, &meteringv1.TitleRule{Pattern: "(?P<file>" + word.Draw(t, "pattern") + ")"})
		}
		values := applicationValues(a)
		values.Set(etagField, a.GetEtag())
		got, numbers, err := applicationFrom(&sent{values: values})
		if err != nil || len(numbers) != len(a.GetRules()) {
			t.Fatal(numbers, err)
		}
		if p := a.GetProjectPrompt(); !p.GetEnabled() && !p.GetHoldsLaunch() && !p.GetAtClose() && p.GetSubject() == policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION {
			a.ProjectPrompt = nil
		}
		if diff := cmp.Diff(a, got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Wherever rules were left empty or taken away before it, what the API finds wrong with one stands
// beside the input that it was written in.
func TestWhatIsWrongWithARuleStandsBesideIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values, written := url.Values{}, []int{}
		n := 0
		for range rapid.IntRange(1, 8).Draw(t, "rows") {
			n += rapid.IntRange(1, 3).Draw(t, "taken away before it")
			rule := &meteringv1.Rule{}
			if rapid.Bool().Draw(t, "written") {
				rule.Title, written = fmt.Sprintf("title %d (", n), append(written, n)
			}
			setRule(values, n, rule)
		}
		rules, numbers, err := rulesOf(values)
		if err != nil || !slices.Equal(numbers, written) || len(rules) != len(written) {
			t.Fatalf("rules %v are read, not %v: %v", numbers, written, err)
		}
		for i, n := range written {
			for path, want := range map[string]string{
				fmt.Sprintf("rules[%d].title", i):             rulePrefix(n) + "title",
				fmt.Sprintf("application.rules[%d].title", i): rulePrefix(n) + "title",
				fmt.Sprintf("application.rules[%d]", i):       rulePrefix(n) + "executable",
				"application.title_rules[4].pattern":          "title_rules",
				"application.timeout":                         "application.timeout",
				"application.rules[999999999999999999999].x":  "application.rules[999999999999999999999].x",
			} {
				st := statusOf(besideFields(errs.InvalidFields("test", "", errs.Field{Path: path, Description: "is wrong"}), numbers))
				if wrong := violations(st); len(wrong) != 1 || wrong[0].GetField() != want {
					t.Fatalf("%s: %v", path, wrong)
				}
			}
		}
	})
}

// FuzzApplicationForm sends what no browser would.
func FuzzApplicationForm(f *testing.F) {
	f.Add("display_name=A&activity_gap=30s&timeout=30m0s&rules_1_executable=a&rules_1_priority=3")
	f.Add("rules_0_title=a&rules_10000_title=b&rules_1_priority=99999999999&rules_2_executable=%00&activity_gap=1e9h")
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Skip()
		}
		a, numbers, err := applicationFrom(&sent{values: values})
		if err == nil && (len(a.GetRules()) == 0 || len(a.GetRules()) != len(numbers)) {
			t.Fatalf("%d rules of %v are taken", len(a.GetRules()), numbers)
		}
		if err != nil && len(violations(statusOf(err))) == 0 {
			t.Fatalf("%v names no field", err)
		}
		if !slices.IsSorted(numbers) {
			t.Fatalf("rules change their order: %v", numbers)
		}
	})
}
