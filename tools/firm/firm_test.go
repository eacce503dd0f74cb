package firm

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
	"github.com/cetrus/cetrus/services/metering/templates"
	"github.com/cetrus/cetrus/tools/desks"
)

var (
	to   = time.Date(2026, 11, 29, 11, 0, 0, 0, time.UTC)
	from = time.Date(2026, 5, 3, 0, 0, 0, 0, time.UTC)
)

// policy is what the platform would make of the applications; the first two bytes of an
// application's id are its place, from 1.
func policy(tb testing.TB) *policyv1.Policy {
	tb.Helper()
	library, err := templates.Load()
	if err != nil {
		tb.Fatal(err)
	}
	id := func(kind, n int) []byte {
		b := make([]byte, 16)
		binary.BigEndian.PutUint16(b, uint16(n+1))
		b[15] = byte(kind)
		return b
	}
	policy := &policyv1.Policy{AccountId: id(1, 0), Revision: 1, PauseAllowed: true, DocumentKey: make([]byte, 32)}
	n := 0
	for i, a := range Applications() {
		p := &policyv1.ApplicationPolicy{ApplicationId: id(2, i), DisplayName: a.Name, InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE, Documents: a.Documents}
		if a.Documents {
			p.DocumentReduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME
		}
		if a.Template != "" {
			template, found := library.Find(a.Template)
			if !found {
				tb.Fatalf("there is no template %q", a.Template)
			}
			p.Rules, p.TitleRules = template.PolicyRules(), template.PolicyTitleRules()
		} else {
			for _, r := range a.Own.GetRules() {
				p.Rules = append(p.Rules, &policyv1.Rule{Executable: r.GetExecutable(), DocumentTitle: r.GetDocumentTitle()})
			}
		}
		for _, r := range p.GetRules() {
			r.RuleId = id(3, n)
			n++
		}
		policy.Applications = append(policy.Applications, p)
	}
	return policy
}

// Every program is taken for the application that it is, and its document is read out of its
// title; those that are only seen are nobody's.
func TestEveryProgramIsRecognised(t *testing.T) {
	matcher, err := rules.Compile(policy(t))
	if err != nil {
		t.Fatal(err)
	}
	names := map[contract.ID]string{}
	for i, a := range Applications() {
		var id contract.ID
		binary.BigEndian.PutUint16(id[:], uint16(i+1))
		id[15] = 2
		names[id] = a.Name
	}
	if len(names) < 40 {
		t.Errorf("%d applications", len(names))
	}
	for short, p := range Programs() {
		title := strings.ReplaceAll(p.Title, "%s", "4121-GA-03")
		match, found := matcher.Match(rules.Program{Executable: executable(p.Path), Path: p.Path, WindowClass: p.Class, Title: title})
		switch {
		case slices.Contains(seen(), short):
			if found {
				t.Errorf("%s is metered", p.Name)
			}
		case !found:
			t.Errorf("%s is not recognised", p.Name)
		case names[match.Application.ID] != p.Name:
			t.Errorf("%s is taken for %s", p.Name, names[match.Application.ID])
		case p.Documents && !strings.HasPrefix(match.Document.Name, "4121-GA-03"):
			t.Errorf("%s: of %q the document is %+v", p.Name, title, match.Document)
		}
	}
	for _, r := range roles() {
		for _, u := range r.uses {
			if Programs()[u.program].Name == "" {
				t.Errorf("%s uses %q, which is nothing", r.job, u.program)
			}
		}
	}
}

// used is what of one desk's past is measured, by the agent's own state machine.
type used struct {
	events, days int
	busy, open   time.Duration
	byName       map[string]map[int]time.Duration // open time by application and days before the end
	longest      time.Duration                    // of an instance
}

func measure(t *testing.T, p *policyv1.Policy, past func(from, to time.Time) scripted.Script, from, to time.Time) used {
	t.Helper()
	machine := activity.New(activity.Config{Alias: func(activity.User) contract.ID { return contract.ID{1} }, Random: rand.NewChaCha8([32]byte{})})
	if err := machine.SetPolicy(p); err != nil {
		t.Fatal(err)
	}
	u := used{byName: map[string]map[int]time.Duration{}}
	names := map[string]string{}
	for _, a := range p.GetApplications() {
		names[string(a.GetApplicationId())] = a.GetDisplayName()
	}
	at := map[string]int64{}
	opened := map[string]int64{}
	days := map[int]bool{}
	const booted = time.Minute
	desk := scripted.New(scripted.Config{Script: past(from, to), Begin: from, Booted: booted, Seed: [32]byte{}, Period: 5 * time.Minute})
	defer desk.Close()
	err := desk.Watch(t.Context(), func(o activity.Observation) {
		for _, e := range machine.Observe(o).Events {
			u.events++
			key := string(e.GetInstanceId()) + string(e.GetDocumentId())
			closed := e.GetClosed()
			if closed == nil {
				at[key], opened[key] = e.GetAtBootMillis(), e.GetAtBootMillis()
				continue
			}
			if closed.GetFromBootMillis() != at[key] {
				t.Fatalf("an interval begins at %d where the one before ended at %d", closed.GetFromBootMillis(), at[key])
			}
			at[key] = e.GetAtBootMillis()
			if len(e.GetDocumentId()) > 0 {
				continue
			}
			length := time.Duration(closed.GetToBootMillis()-closed.GetFromBootMillis()) * time.Millisecond
			u.open += length
			u.longest = max(u.longest, time.Duration(e.GetAtBootMillis()-opened[key])*time.Millisecond)
			begin := from.Add(time.Duration(closed.GetFromBootMillis())*time.Millisecond - booted)
			before := int(to.Sub(begin).Hours()) / 24
			name := names[string(e.GetApplicationId())]
			if u.byName[name] == nil {
				u.byName[name] = map[int]time.Duration{}
			}
			u.byName[name][before] += length
			if closed.GetAttention() == usagev1.Attention_ATTENTION_BUSY {
				u.busy += length
				days[before] = true
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	u.days = len(days)
	return u
}

// The firm is as large as it says, and its days are like life.
func TestDaysAreLikeLife(t *testing.T) {
	f := New(1, from, to, 0)
	there, hosts := 0, map[string]bool{}
	for _, p := range f.People {
		if p.at(midnight(to)) {
			there++
		}
	}
	for _, d := range f.Desks {
		if hosts[d.Host] {
			t.Errorf("there are two of %s", d.Host)
		}
		hosts[d.Host] = true
	}
	if there < 300 || len(f.Desks) < 300 || len(f.Groups()) < 12 {
		t.Errorf("%d people at %d desks in %d departments", there, len(f.Desks), len(f.Groups()))
	}
	p := policy(t)
	autumn := to.AddDate(0, 0, -30)
	var all used
	for _, i := range []int{3, 66, 131, 197, 262} {
		u := measure(t, p, f.Desks[i].Past, autumn, to)
		all.events, all.days, all.busy, all.open = all.events+u.events, all.days+u.days, all.busy+u.busy, all.open+u.open
	}
	if all.days < 60 || all.days > 140 {
		t.Errorf("five people are at work on %d days of 30", all.days)
	}
	if per := all.busy / time.Duration(all.days); per < 3*time.Hour || per > 7*time.Hour {
		t.Errorf("busy for %v a day", per)
	}
	// What a demo may cost: some 40,000 days of people are loaded.
	if per := all.events / all.days; per > 180 {
		t.Errorf("%d events a day", per)
	}
}

// What is paid for and not used, what is left open, and who is away: what reports have to tell.
func TestWhatThereIsToFind(t *testing.T) {
	f := New(1, from, to, 0)
	p := policy(t)
	host := func(name string) desks.Desk {
		for _, d := range f.Desks {
			if d.Host == name {
				return d
			}
		}
		t.Fatalf("there is no %s", name)
		return desks.Desk{}
	}
	server := measure(t, p, host("sim-01").Past, from, to)
	if server.longest < 150*24*time.Hour || server.busy > time.Minute {
		t.Errorf("on the forgotten server something was open for %v, and busy for %v", server.longest, server.busy)
	}
	if u := measure(t, p, host("ts-01").Past, to.AddDate(0, 0, -3), to); len(u.byName["SAP GUI"]) == 0 {
		t.Errorf("at the terminal server was used: %v", u.byName)
	}
	var matlab [2]time.Duration
	var away int
	for _, person := range f.People {
		summer := time.Date(2026, time.July, 30, 0, 0, 0, 0, time.UTC)
		if f.calendar.away(person, summer) {
			away++
		}
		if person.Department != analysis || person.Number%6 != 0 {
			continue
		}
		for before, length := range measure(t, p, host(person.host).Past, to.AddDate(0, 0, -125), to.AddDate(0, 0, -80)).byName["MATLAB"] {
			if before+80 >= 109 {
				matlab[1] += length
			} else {
				matlab[0] += length
			}
		}
	}
	if matlab[0] > 0 || matlab[1] == 0 {
		t.Errorf("MATLAB was open for %v before they changed to another program, and for %v since", matlab[1], matlab[0])
	}
	if share := 100 * away / len(f.People); share < 10 || share > 60 {
		t.Errorf("%d %% are away in summer", share)
	}
	var silent, skewed, late, early int
	for _, d := range f.Desks {
		if d.Present == nil {
			silent++
		}
		if d.Clock != 0 {
			skewed++
		}
		if d.Late {
			late++
		}
		if d.Early {
			early++
		}
	}
	if silent != 1 || skewed != 1 || late == 0 || early == 0 {
		t.Errorf("%d silent, %d with a wrong clock, %d late, %d early", silent, skewed, late, early)
	}
}

// The same seed gives the same days, however the past is cut.
func TestSameSeedSameDays(t *testing.T) {
	day := to.AddDate(0, 0, -20)
	steps := func(f *Firm, from time.Time) (all []string) {
		for step := range f.Desks[40].Past(from, midnight(to)) {
			if at := from.Add(step.At); at.After(midnight(day)) {
				all = append(all, fmt.Sprint(at, step.Do))
			}
		}
		return all
	}
	one, two := steps(New(7, from, to, 0), midnight(day.AddDate(0, 0, -1))), steps(New(7, from, to, 0), midnight(day.AddDate(0, 0, -9)))
	if len(one) < 500 || len(one) != len(two) {
		t.Errorf("%d and %d steps", len(one), len(two))
	}
	if !slices.Equal(one, steps(New(7, from, to, 0), midnight(day.AddDate(0, 0, -1)))) {
		t.Error("the same past differs")
	}
	if slices.Equal(one, steps(New(8, from, to, 0), midnight(day.AddDate(0, 0, -1)))) {
		t.Error("another seed gives the same firm")
	}
}
