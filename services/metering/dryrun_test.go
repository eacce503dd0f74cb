package metering

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// told writes what a dry run answers in a line for each match.
func told(resp *meteringv1.TestRulesResponse) []string {
	lines := []string{}
	for _, m := range resp.GetMatches() {
		line := fmt.Sprintf("%s%s by %d on %d", m.GetExecutable(), m.GetWindowClass(), m.GetRuleIndex(), m.GetMachineCount())
		if m.GetTitleUnknown() {
			line += " if titled"
		}
		for _, c := range m.GetClaims() {
			line += fmt.Sprintf("; %s on %d: %s", c.GetDisplayName(), c.GetMachineCount(), strings.TrimPrefix(c.GetPrecedence().String(), "PRECEDENCE_"))
		}
		lines = append(lines, line)
	}
	return lines
}

func TestADryRunTellsWhatMatchesAndWhoClaimsIt(t *testing.T) {
	s := newService(t, Config{})
	start(t, s)
	account := resource.NewID()
	ctx := as(t.Context(), account)
	api := &applicationAPI{service: s}
	create := func(name string, rules ...*meteringv1.Rule) *meteringv1.Application {
		t.Helper()
		resp, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: &meteringv1.Application{DisplayName: name, Rules: rules}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetApplication()
	}
	browser := create("Browser", &meteringv1.Rule{Executable: "firefox", Priority: 1})
	tracker := create("Tracker", &meteringv1.Rule{Executable: "firefox", Title: "tracker", Priority: 5})
	sight := func(executable, class string, by *meteringv1.Application) *usagev1.Sighting {
		seen := &usagev1.Sighting{Executable: executable, WindowClass: class, Path: "/home/*/" + executable}
		if by != nil {
			rule, err := contract.ParseID(by.GetRules()[0].GetRuleId())
			if err != nil {
				t.Fatal(err)
			}
			seen.RuleId = rule[:]
		}
		return seen
	}
	gone := &meteringv1.Application{Rules: []*meteringv1.Rule{{RuleId: resource.NewID().String()}}}
	agents := []contract.ID{resource.NewID(), resource.NewID()}
	report := func(agent int, seen ...*usagev1.Sighting) {
		s.seen.take(account, &usagev1.SightingReport{AgentId: agents[agent][:], Sightings: seen}, time.Now())
	}
	report(0, sight("gimp", "", nil), sight("firefox", "F", browser), sight("firefox", "F", tracker), sight("xterm", "", gone))
	report(1, sight("gimp", "", nil), sight("firefox", "F", browser))

	// What agents told while it was wanted is not told when it no longer is: they may be
	// away, and their Managers repeat it.
	everything := &meteringv1.TestRulesRequest{Rules: []*meteringv1.Rule{{Executable: "*"}}}
	want := func(sightings bool) {
		t.Helper()
		_, err := (&settingsAPI{service: s}).UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
			Settings: &meteringv1.Settings{SightingsWanted: sightings}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"sightings_wanted"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, sightings := range []bool{true, false, true} {
		want(sightings)
		programs := 1
		if sightings {
			programs = 3
		}
		if resp, err := api.TestRules(ctx, everything); err != nil || len(resp.GetMatches()) != programs {
			t.Fatalf("wanted %t: %v, %v", sightings, told(resp), err)
		}
	}

	for name, c := range map[string]struct {
		req  *meteringv1.TestRulesRequest
		want []string
	}{
		"nobody's": {
			&meteringv1.TestRulesRequest{Rules: []*meteringv1.Rule{{Executable: "nothing"}, {Executable: "GIMP*"}}},
			[]string{"gimp by 1 on 2"},
		},
		"conflict": {
			&meteringv1.TestRulesRequest{Rules: []*meteringv1.Rule{{Executable: "firefox", Priority: 1}}},
			[]string{"firefoxF by 0 on 2; Tracker on 1: PRESENT; Browser on 2: UNDECIDED"},
		},
		"a title is not known": {
			&meteringv1.TestRulesRequest{Rules: []*meteringv1.Rule{{Executable: "fire*", Title: "mail", Priority: 6}, {WindowClass: "f"}}},
			[]string{
				"firefoxF by 0 on 2 if titled; Tracker on 1: TESTED_RULE; Browser on 2: TESTED_RULE",
				"firefoxF by 1 on 2; Tracker on 1: PRESENT; Browser on 2: PRESENT",
			},
		},
		"its own": {
			&meteringv1.TestRulesRequest{ApplicationId: browser.GetApplicationId(), Rules: []*meteringv1.Rule{{Executable: "firefox", Priority: 9}}},
			[]string{"firefoxF by 0 on 2; Tracker on 1: TESTED_RULE; Browser on 2: OWN"},
		},
		"a rule that has gone claims nothing": {
			&meteringv1.TestRulesRequest{Rules: []*meteringv1.Rule{{Path: "/home/*/xterm"}}},
			[]string{"xterm by 0 on 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := api.TestRules(ctx, c.req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, told(resp)); diff != "" || resp.GetMachineCount() != 2 || !resp.GetSightingsWanted() {
				t.Fatalf("%s\n%v", diff, resp)
			}
		})
	}

	id := resource.NewID().String()
	for field, rules := range map[string][]*meteringv1.Rule{
		"rules[0].title":          {{Title: "("}},
		"rules[0].document_title": {{Title: "a", DocumentTitle: "b"}},
		"rules[1].rule_id":        {{Title: "a", RuleId: id}, {Title: "b", RuleId: id}},
	} {
		if _, err := api.TestRules(ctx, &meteringv1.TestRulesRequest{Rules: rules}); !errs.Is(errs.Invalid, err) || !strings.Contains(fmt.Sprint(errs.PublicOf(err).Fields), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	// Another account sees nothing of it.
	resp, err := api.TestRules(as(t.Context(), resource.NewID()), &meteringv1.TestRulesRequest{Rules: []*meteringv1.Rule{{Executable: "*"}}})
	if err != nil || len(resp.GetMatches()) != 0 || resp.GetMachineCount() != 0 {
		t.Fatalf("another account: %v, %v", resp, err)
	}
}

// TestSightingsAgainstAPlainModel: whatever the order of reports, what is there is
// the last report of each agent that is not too old.
func TestSightingsAgainstAPlainModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSightings(slog.New(slog.DiscardHandler))
		account := resource.NewID()
		type last struct {
			at, heard int64
			programs  map[string]bool
		}
		model := make(map[byte]last)
		now := int64(1_800_000_000_000)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now += rapid.Int64Range(0, reportLife.Milliseconds()).Draw(t, "pause")
			at := now - rapid.Int64Range(0, reportLife.Milliseconds()).Draw(t, "age")
			agent := rapid.Byte().Draw(t, "agent") % 4
			report := &usagev1.SightingReport{AgentId: append(make([]byte, 15), agent), ReceivedUtcMillis: at}
			l := last{at: at, heard: now, programs: make(map[string]bool)}
			for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID[string]).Draw(t, "programs") {
				report.Sightings = append(report.Sightings, &usagev1.Sighting{Executable: name})
				l.programs[name] = true
			}
			s.expire(time.UnixMilli(now))
			for id, before := range model {
				if now-before.heard >= reportLife.Milliseconds() {
					delete(model, id)
				}
			}
			s.take(account, report, time.UnixMilli(now))
			if before, there := model[agent]; !there || before.at <= at {
				model[agent] = l
			}
		}
		want := make(map[string]int)
		for _, l := range model {
			for name := range l.programs {
				want[name]++
			}
		}
		programs, agents := s.of(account)
		got := make(map[string]int)
		for _, p := range programs {
			got[p.program.Executable] = p.machines
		}
		if diff := cmp.Diff(want, got); diff != "" || agents != len(model) {
			t.Fatalf("%d agents, want %d\n%s", agents, len(model), diff)
		}
		s.expire(time.UnixMilli(now).Add(reportLife))
		if programs, agents := s.of(account); len(programs) != 0 || agents != 0 || len(s.accounts) != 0 {
			t.Fatalf("%d programs of %d agents are kept for ever", len(programs), agents)
		}
	})
}

func FuzzReadPlain(f *testing.F) {
	f.Add(contract.SightingSubject(contract.ID{1}, contract.ID{2}), []byte{10, 0})
	f.Add("seen.1.x.y", []byte{})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		from, report, err := readPlain[usagev1.SightingReport](subject, data)
		if err != nil {
			return
		}
		s := newSightings(slog.New(slog.DiscardHandler))
		s.take(from.account, report, time.Now())
		if programs, _ := s.of(from.account); len(programs) > len(report.GetSightings()) {
			t.Fatalf("%d programs of %d sightings", len(programs), len(report.GetSightings()))
		}
		if from, snapshot, err := readPlain[usagev1.LiveSnapshot](subject, data); err == nil {
			newLiveView(slog.New(slog.DiscardHandler)).take(from.account, snapshot, time.Now())
		}
	})
}

// TestADryRunTellsWhatAgentsWillDo compares a dry run with what the agents' own matcher does of the
// same windows once the rules are saved: who gets each window, if the answer does not say that
// titles or equal priorities leave it open.
func TestADryRunTellsWhatAgentsWillDo(t *testing.T) {
	name := func(t *rapid.T, what string, of ...string) string { return rapid.SampledFrom(of).Draw(t, what) }
	rule := func(t *rapid.T) *policyv1.Rule {
		id := resource.NewID()
		r := &policyv1.Rule{
			RuleId: id[:], Priority: rapid.Int32Range(0, 3).Draw(t, "priority"), Executable: name(t, "executable", "", "a", "b", "a*", "?"),
			WindowClass: name(t, "class", "", "", "x", "[x]", "*"), Title: name(t, "title", "", "", "one", "two|one"),
		}
		if r.GetExecutable() == "" && r.GetWindowClass() == "" && r.GetTitle() == "" {
			r.Executable = "c"
		}
		return r
	}
	compiled := func(t *rapid.T, applications map[contract.ID][]*policyv1.Rule) *rules.Matcher {
		policy := &policyv1.Policy{}
		for id, rules := range applications {
			policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{ApplicationId: id[:], Rules: rules})
		}
		m, err := rules.Compile(policy)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	decided, won, lost := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		before := make(map[contract.ID][]*policyv1.Rule)
		present := make(map[contract.ID]presentRule)
		for n := range rapid.IntRange(0, 3).Draw(t, "applications") {
			application := contract.ID{15: byte(n + 1)}
			for range rapid.IntRange(1, 2).Draw(t, "rules") {
				r := rule(t)
				before[application] = append(before[application], r)
				present[contract.ID(r.GetRuleId())] = presentRule{id: contract.ID(r.GetRuleId()), application: application, priority: r.GetPriority(), rule: r}
			}
		}
		// The rules are a new application's, or change those of one that there is.
		own, req := contract.ID{1}, &meteringv1.TestRulesRequest{}
		if len(before) > 0 && rapid.Bool().Draw(t, "change") {
			own = contract.ID{15: 1}
			req.ApplicationId = own.String()
		}
		var tested []*policyv1.Rule
		for _, r := range before[own] {
			if rapid.Bool().Draw(t, "kept") {
				changed := proto.CloneOf(r)
				changed.Priority = rapid.Int32Range(0, 3).Draw(t, "new priority")
				tested = append(tested, changed)
			}
		}
		for range rapid.IntRange(1, 3).Draw(t, "new rules") {
			tested = append(tested, rule(t))
		}
		for _, r := range tested {
			m := ruleMessage(r)
			if _, kept := present[contract.ID(r.GetRuleId())]; kept {
				m.RuleId = contract.ID(r.GetRuleId()).String()
			}
			req.Rules = append(req.Rules, m)
		}
		after := maps.Clone(before)
		after[own] = tested
		now, then := compiled(t, before), compiled(t, after)

		trial, err := newTrial(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := trial.against(present); err != nil {
			t.Fatal(err)
		}
		program := rules.Program{Executable: name(t, "program", "a", "ab", "b", "c"), WindowClass: name(t, "window", "", "x", "y")}
		seen := &seenProgram{program: program, machines: 1, claims: make(map[contract.ID]int)}
		window := program
		window.Title = name(t, "caption", "", "one", "two", "three")
		claim, claimed := now.Match(window)
		if claimed {
			seen.claims[claim.RuleID] = 1
		}
		got, _ := then.Match(window)
		gets := got.Application != nil && got.Application.ID == own

		matches := trial.match(seen, present)
		i := slices.IndexFunc(matches, func(m *meteringv1.RuleMatch) bool {
			r := tested[m.GetRuleIndex()]
			_, fits := compiled(t, map[contract.ID][]*policyv1.Rule{{1}: {r}}).Match(window)
			return fits
		})
		if i < 0 {
			if gets {
				t.Fatalf("the rules get a window that the dry run does not tell: %v", matches)
			}
			return
		}
		titles := false // another application's rule may win by a title, which nobody knows here
		want := true
		for _, c := range matches[i].GetClaims() {
			switch c.GetPrecedence() {
			case meteringv1.Precedence_PRECEDENCE_UNDECIDED:
				return
			case meteringv1.Precedence_PRECEDENCE_PRESENT:
				want = false
			case meteringv1.Precedence_PRECEDENCE_OWN:
				for _, p := range present {
					titles = titles || p.application != own && p.rule.GetTitle() != ""
				}
			case meteringv1.Precedence_PRECEDENCE_TESTED_RULE, meteringv1.Precedence_PRECEDENCE_UNSPECIFIED:
			}
		}
		if want != gets && (!want || !titles) {
			t.Fatalf("%v %q: agents will give it to the rules: %v; told is %v", program, window.Title, gets, matches[i])
		}
		decided++
		if gets {
			won++
		} else {
			lost++
		}
	})
	if decided == 0 || won == 0 || lost == 0 {
		t.Errorf("of %d windows the rules got %d and not %d: nothing was compared", decided, won, lost)
	}
}
