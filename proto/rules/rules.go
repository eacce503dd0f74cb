package rules

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Settings that apply where a policy leaves them out, and their bounds.
const (
	DefaultActivityGap = 30 * time.Second
	DefaultTimeout     = 30 * time.Minute
	// MinSetting is for tests; people's settings start at 30 s.
	MinSetting = time.Second
	MaxSetting = time.Hour
	// MaxRules is the greatest number of rules in a policy.
	MaxRules = 10_000
	// MaxTitleRules is the greatest number of title rules of an application, and
	// MaxPattern how long one may be, in bytes.
	MaxTitleRules = 20
	MaxPattern    = 1024
)

// cacheSize bounds each of the two tables of answers; a full table is dropped as a
// whole, which costs one match per program that is still there.
const cacheSize = 1024

// Program is what is matched: a process, or a window with its process. A field
// that is not known is empty, and matches no rule that names it.
type Program struct {
	Executable  string
	Path        string
	WindowClass string
	Title       string
	Package     string
}

// Application is what a policy says of one application, with defaults filled in.
type Application struct {
	ID          contract.ID
	DisplayName string
	// ActivityGapMillis and TimeoutMillis are g and T.
	ActivityGapMillis int64
	TimeoutMillis     int64
	Scope             policyv1.InstanceScope
	Documents         bool
	Reduction         policyv1.DocumentReduction
	// Asks: people are asked which project its use belongs to, or rules say so.
	Asks bool

	titles []*titleRule
}

// Match is the answer for a program.
type Match struct {
	Application *Application
	RuleID      contract.ID
	// ByWindow: the rule names a window class or a title, so that no process
	// matches it without a window.
	ByWindow bool
	// Document is what the window's title says of its document, not reduced yet. It
	// is not looked for where the application's documents are not metered.
	Document Document
}

// Candidate is a rule that may claim a program.
type Candidate struct {
	RuleID contract.ID
	// Titled: the rule names a title, so whether it claims the program depends on it.
	Titled bool
}

// Error names the rule or setting of a policy that is wrong.
type Error struct {
	// Application and Rule are zero where they are not what is wrong.
	Application contract.ID
	Rule        contract.ID
	// Field is the name of the wrong field as in policy.proto.
	Field string
	Err   error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("rules: ")
	if !e.Application.IsZero() {
		fmt.Fprintf(&b, "application %s: ", e.Application)
	}
	if !e.Rule.IsZero() {
		fmt.Fprintf(&b, "rule %s: ", e.Rule)
	}
	fmt.Fprintf(&b, "%s: %v", e.Field, e.Err)
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

type rule struct {
	id          contract.ID
	priority    int32
	application *Application
	executable  string
	path        string
	class       string
	pack        string
	title       *expression
	document    *expression
}

// identity is what a program is but for its title.
type identity struct{ executable, path, class, pack string }

// Matcher is a compiled policy. It is safe for concurrent use.
type Matcher struct {
	applications []*Application
	ruleCount    int
	byExecutable map[string][]*rule
	anywhere     []*rule

	mu         sync.Mutex
	candidates map[identity][]*rule
	answers    map[Program]answer
}

type answer struct {
	match Match
	ok    bool
}

// Compile checks a policy and prepares it. The error is an *Error that names the
// rule or setting at fault. A nil policy matches nothing.
func Compile(policy *policyv1.Policy) (*Matcher, error) {
	m := &Matcher{
		byExecutable: map[string][]*rule{},
		candidates:   map[identity][]*rule{},
		answers:      map[Program]answer{},
	}
	seenApplications := map[contract.ID]bool{}
	seenRules := map[contract.ID]bool{}
	for _, ap := range policy.GetApplications() {
		application, err := newApplication(ap, len(policy.GetDocumentKey()))
		if err != nil {
			return nil, err
		}
		if seenApplications[application.ID] {
			return nil, &Error{Application: application.ID, Field: "application_id", Err: errors.New("is there twice")}
		}
		seenApplications[application.ID] = true
		m.applications = append(m.applications, application)
		for _, rp := range ap.GetRules() {
			r, err := newRule(application, rp)
			if err != nil {
				return nil, err
			}
			if seenRules[r.id] {
				return nil, &Error{Application: application.ID, Rule: r.id, Field: "rule_id", Err: errors.New("is there twice")}
			}
			seenRules[r.id] = true
			m.ruleCount++
			if m.ruleCount > MaxRules {
				return nil, &Error{Field: "rules", Err: fmt.Errorf("more than %d rules in one policy", MaxRules)}
			}
			if r.executable != "" && literal(r.executable) {
				m.byExecutable[r.executable] = append(m.byExecutable[r.executable], r)
			} else {
				m.anywhere = append(m.anywhere, r)
			}
		}
	}
	return m, nil
}

func newApplication(ap *policyv1.ApplicationPolicy, keyLength int) (*Application, error) {
	id, err := contract.IDFrom(ap.GetApplicationId())
	if err != nil {
		return nil, &Error{Field: "application_id", Err: fmt.Errorf("of %q: %w", ap.GetDisplayName(), err)}
	}
	fail := func(field string, err error) (*Application, error) {
		return nil, &Error{Application: id, Field: field, Err: err}
	}
	gap, err := setting(ap.GetActivityGap(), DefaultActivityGap)
	if err != nil {
		return fail("activity_gap", err)
	}
	timeout, err := setting(ap.GetTimeout(), DefaultTimeout)
	if err != nil {
		return fail("timeout", err)
	}
	if timeout < gap {
		return fail("timeout", fmt.Errorf("%v is shorter than the activity gap %v", timeout, gap))
	}
	a := &Application{
		ID:                id,
		DisplayName:       ap.GetDisplayName(),
		ActivityGapMillis: gap.Milliseconds(),
		TimeoutMillis:     timeout.Milliseconds(),
		Scope:             ap.GetInstanceScope(),
		Documents:         ap.GetDocuments(),
		Reduction:         ap.GetDocumentReduction(),
		Asks:              ap.GetProjectPrompt().GetEnabled(),
	}
	if a.Scope == policyv1.InstanceScope_INSTANCE_SCOPE_UNSPECIFIED {
		a.Scope = policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE
	}
	if _, known := policyv1.InstanceScope_name[int32(a.Scope)]; !known {
		return fail("instance_scope", fmt.Errorf("%d is not known", a.Scope))
	}
	if a.Reduction == policyv1.DocumentReduction_DOCUMENT_REDUCTION_UNSPECIFIED {
		a.Reduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING
	}
	if _, known := policyv1.DocumentReduction_name[int32(a.Reduction)]; !known {
		return fail("document_reduction", fmt.Errorf("%d is not known", a.Reduction))
	}
	if a.Documents && a.Reduction != policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING && keyLength != 32 {
		return fail("document_reduction", fmt.Errorf("needs the policy's document_key of 32 bytes, not %d", keyLength))
	}
	if len(ap.GetTitleRules()) > MaxTitleRules {
		return fail("title_rules", fmt.Errorf("are %d; at most %d can be", len(ap.GetTitleRules()), MaxTitleRules))
	}
	for n, tr := range ap.GetTitleRules() {
		t, err := newTitleRule(tr.GetPattern())
		if err != nil {
			return fail(fmt.Sprintf("title_rules[%d].pattern", n), err)
		}
		a.titles = append(a.titles, t)
	}
	return a, nil
}

func setting(d *durationpb.Duration, otherwise time.Duration) (time.Duration, error) {
	if d == nil || d.AsDuration() == 0 {
		return otherwise, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, err
	}
	v := d.AsDuration()
	if v < MinSetting || v > MaxSetting {
		return 0, fmt.Errorf("%v is not between %v and %v", v, MinSetting, MaxSetting)
	}
	if v%time.Millisecond != 0 {
		return 0, fmt.Errorf("%v is not a whole number of milliseconds", v)
	}
	return v, nil
}

func newRule(application *Application, rp *policyv1.Rule) (*rule, error) {
	id, err := contract.IDFrom(rp.GetRuleId())
	if err != nil {
		return nil, &Error{Application: application.ID, Field: "rule_id", Err: err}
	}
	fail := func(field string, err error) (*rule, error) {
		return nil, &Error{Application: application.ID, Rule: id, Field: field, Err: err}
	}
	for field, text := range map[string]string{
		"executable": rp.GetExecutable(), "path": rp.GetPath(), "window_class": rp.GetWindowClass(),
		"title": rp.GetTitle(), "package": rp.GetPackage(), "document_title": rp.GetDocumentTitle(),
	} {
		if !utf8.ValidString(text) {
			return fail(field, errors.New("is not valid UTF-8"))
		}
	}
	r := &rule{
		id: id, priority: rp.GetPriority(), application: application,
		executable: strings.TrimSuffix(Fold(rp.GetExecutable()), ".exe"),
		path:       slashes(Fold(rp.GetPath())),
		class:      Fold(rp.GetWindowClass()),
		pack:       Fold(rp.GetPackage()),
	}
	if rp.GetTitle() != "" {
		if r.title, err = newExpression(rp.GetTitle()); err != nil {
			return fail("title", err)
		}
	}
	if r.executable == "" && r.path == "" && r.class == "" && r.pack == "" && r.title == nil {
		return fail("executable", errors.New("is empty, and so are path, window_class, title and package; a rule names at least one"))
	}
	if rp.GetDocumentTitle() != "" {
		if r.document, err = newExpression(rp.GetDocumentTitle()); err != nil {
			return fail("document_title", err)
		}
		if !slices.Contains(r.document.compiled().SubexpNames(), "document") {
			return fail("document_title", errors.New(`has no group (?P<document>…)`))
		}
	}
	return r, nil
}

// Applications are the policy's applications, in its order.
func (m *Matcher) Applications() []*Application { return m.applications }

// Match finds the application of a program. Of the rules that match, the one with
// the greatest priority wins, then the one with the smallest id.
func (m *Matcher) Match(p Program) (Match, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if found, ok := m.answers[p]; ok {
		return found.match, found.ok
	}
	found := m.match(p)
	if len(m.answers) >= cacheSize {
		clear(m.answers)
	}
	m.answers[p] = found
	return found.match, found.ok
}

func (m *Matcher) match(p Program) answer {
	title := strings.ToValidUTF8(p.Title, "\uFFFD")
	folded := Fold(title)
	for _, r := range m.candidatesOf(p) {
		if r.title != nil && (title == "" || !r.title.match(title, folded)) {
			continue
		}
		match := Match{Application: r.application, RuleID: r.id, ByWindow: r.title != nil || r.class != ""}
		if r.application.Documents {
			match.Document = r.documentOf(title)
		}
		return answer{match: match, ok: true}
	}
	return answer{}
}

// Possible finds what may claim a program whose title is not known, best first:
// rules that name a title and fit but for it, up to the first rule that names none
// and is therefore sure.
func (m *Matcher) Possible(p Program) []Candidate {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Candidate
	for _, r := range m.candidatesOf(p) {
		all = append(all, Candidate{RuleID: r.id, Titled: r.title != nil})
	}
	return all
}

func (m *Matcher) candidatesOf(p Program) []*rule {
	id := identity{BaseName(p.Executable), slashes(Fold(p.Path)), Fold(p.WindowClass), Fold(p.Package)}
	candidates, ok := m.candidates[id]
	if !ok {
		candidates = m.findCandidates(id)
		if len(m.candidates) >= cacheSize {
			clear(m.candidates)
		}
		m.candidates[id] = candidates
	}
	return candidates
}

// findCandidates gives the rules that match but for the title, best first, up to
// the first that needs no title.
func (m *Matcher) findCandidates(id identity) []*rule {
	var found []*rule
	for _, rules := range [][]*rule{m.byExecutable[id.executable], m.anywhere} {
		for _, r := range rules {
			if fits(r.executable, id.executable) && fits(r.path, id.path) && fits(r.class, id.class) && fits(r.pack, id.pack) {
				found = append(found, r)
			}
		}
	}
	slices.SortFunc(found, func(a, b *rule) int {
		if a.priority != b.priority {
			if a.priority > b.priority {
				return -1
			}
			return 1
		}
		return bytes.Compare(a.id[:], b.id[:])
	})
	for i, r := range found {
		if r.title == nil {
			return slices.Clip(found[:i+1])
		}
	}
	return slices.Clip(found)
}

func fits(pattern, text string) bool {
	return pattern == "" || text != "" && Wildcard(pattern, text)
}

// HasRule tells whether a rule of that id is in the policy, and of which application.
func (m *Matcher) HasRule(id contract.ID) (*Application, bool) {
	for _, rs := range m.byExecutable {
		for _, r := range rs {
			if r.id == id {
				return r.application, true
			}
		}
	}
	for _, r := range m.anywhere {
		if r.id == id {
			return r.application, true
		}
	}
	return nil, false
}
