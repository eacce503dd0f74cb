package expense

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Limits of an account's settings.
const (
	// MaxFields is how many fields there may be.
	MaxFields = 8
	// MaxOptions is how many options a field may have.
	MaxOptions = 1000
	// MaxProjects, MaxRules, MaxWorkers and MaxSharedLogins are how many of each there
	// may be.
	MaxProjects     = 10_000
	MaxRules        = 1000
	MaxWorkers      = 1000
	MaxSharedLogins = 1000

	maxKey   = 64
	maxLabel = 200
	// maxFieldLabel is shorter: it stands above its field.
	maxFieldLabel = 128
)

// CheckSettings tells what is wrong with an account's settings; the error is an *Error that
// names the place.
func CheckSettings(s *policyv1.ExpenseToProject) error {
	for _, check := range []func(*policyv1.ExpenseToProject) *Error{checkFields, checkProjects, checkRules, checkWorkers} {
		if err := check(s); err != nil {
			return err
		}
	}
	return nil
}

func checkFields(s *policyv1.ExpenseToProject) *Error {
	if len(s.GetFields()) > MaxFields {
		return wrong("fields", "are %d; at most %d can be", len(s.GetFields()), MaxFields)
	}
	keys, projects := map[string]bool{}, 0
	for n, f := range s.GetFields() {
		where := item("fields", n)
		if err := checkField(f); err != nil {
			return err.in(where)
		}
		if keys[f.GetKey()] {
			return (&Error{Field: "key", Err: errTwice}).in(where)
		}
		keys[f.GetKey()] = true
		if f.GetKind() == policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT {
			if projects++; projects > 1 {
				return wrong("kind", "only one field can be of the kind PROJECT").in(where)
			}
		}
	}
	return nil
}

func checkField(f *policyv1.PromptField) *Error {
	switch {
	case f.GetKey() == "":
		return wrong("key", "is empty: it names the field in what is chosen")
	case len(f.GetKey()) > maxKey:
		return wrong("key", "has %d bytes; at most %d can be", len(f.GetKey()), maxKey)
	case strings.HasPrefix(f.GetKey(), "_"):
		return wrong("key", "%q begins with _, as keys of the prompt's own do", f.GetKey())
	}
	if err := checkLabel(f.GetLabel(), maxFieldLabel); err != nil {
		return err
	}
	limits := LimitsOf(f)
	if _, err := limits.compile(); err != nil {
		return err
	}
	isChoice := f.GetKind() == policyv1.PromptFieldKind_PROMPT_FIELD_KIND_CHOICE
	switch f.GetKind() {
	case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_TEXT, policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT,
		policyv1.PromptFieldKind_PROMPT_FIELD_KIND_NUMBER, policyv1.PromptFieldKind_PROMPT_FIELD_KIND_DATE:
	case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_CHOICE:
		if limits != (Limits{}) {
			return wrong("pattern", "a field of the kind CHOICE takes its options only: it has no pattern and no limits")
		}
	default:
		return wrong("kind", "is not given or not known: it is TEXT, CHOICE, PROJECT, NUMBER or DATE")
	}
	switch {
	case isChoice && len(f.GetOptions()) == 0:
		return wrong("options", "are none: a field of the kind CHOICE needs what to choose from")
	case !isChoice && len(f.GetOptions()) > 0:
		return wrong("options", "are for fields of the kind CHOICE")
	case len(f.GetOptions()) > MaxOptions:
		return wrong("options", "are %d; at most %d can be", len(f.GetOptions()), MaxOptions)
	}
	seen := map[string]bool{}
	for n, o := range f.GetOptions() {
		where := item("options", n)
		if err := checkLabel(o, maxLabel); err != nil {
			return &Error{Field: where, Err: err.Err}
		}
		if seen[o] {
			return &Error{Field: where, Err: errTwice}
		}
		seen[o] = true
	}
	return nil
}

// checkLabel is for what people are shown in one line.
func checkLabel(label string, most int) *Error {
	switch {
	case strings.TrimSpace(label) == "":
		return wrong("label", "is empty: it is what people are shown")
	case !utf8.ValidString(label):
		return wrong("label", "is not valid UTF-8")
	case utf8.RuneCountInString(label) > most:
		return wrong("label", "has %d characters; at most %d can be", utf8.RuneCountInString(label), most)
	case strings.ContainsFunc(label, unicode.IsControl):
		return wrong("label", "contains a control character")
	}
	return nil
}

func checkProjects(s *policyv1.ExpenseToProject) *Error {
	if len(s.GetProjects()) > MaxProjects {
		return wrong("projects", "are %d; at most %d can be", len(s.GetProjects()), MaxProjects)
	}
	seen := map[contract.ID]bool{}
	for n, p := range s.GetProjects() {
		if err := checkNamed("project_id", p.GetProjectId(), p.GetLabel(), seen); err != nil {
			return err.in(item("projects", n))
		}
	}
	return nil
}

func checkNamed(field string, bytes []byte, label string, seen map[contract.ID]bool) *Error {
	id, err := contract.IDFrom(bytes)
	if err != nil {
		return &Error{Field: field, Err: err}
	}
	if seen[id] {
		return &Error{Field: field, Err: errTwice}
	}
	seen[id] = true
	return checkLabel(label, maxLabel)
}

func checkRules(s *policyv1.ExpenseToProject) *Error {
	if len(s.GetRules()) > MaxRules {
		return wrong("rules", "are %d; at most %d can be", len(s.GetRules()), MaxRules)
	}
	if _, err := compileRules(s.GetRules()); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, p := range s.GetProjects() {
		known[string(p.GetProjectId())] = true
	}
	for n, r := range s.GetRules() {
		if id := r.GetProjectId(); len(id) > 0 && !known[string(id)] {
			return wrong("project_id", "is none of projects").in(item("rules", n))
		}
	}
	return nil
}

func checkWorkers(s *policyv1.ExpenseToProject) *Error {
	switch {
	case len(s.GetWorkers()) > MaxWorkers:
		return wrong("workers", "are %d; at most %d can be", len(s.GetWorkers()), MaxWorkers)
	case len(s.GetSharedLogins()) > MaxSharedLogins:
		return wrong("shared_logins", "are %d; at most %d can be", len(s.GetSharedLogins()), MaxSharedLogins)
	case len(s.GetSharedLogins()) > 0 && len(s.GetWorkers()) == 0:
		return wrong("shared_logins", "people of a shared login are asked who is working, and workers has nobody to choose from")
	}
	seen := map[contract.ID]bool{}
	for n, w := range s.GetWorkers() {
		if err := checkNamed("worker_id", w.GetWorkerId(), w.GetLabel(), seen); err != nil {
			return err.in(item("workers", n))
		}
	}
	for n, login := range s.GetSharedLogins() {
		switch {
		case login == "":
			return wrong(item("shared_logins", n), "is empty")
		case len(login) > maxUser:
			return wrong(item("shared_logins", n), "has %d bytes; at most %d can be", len(login), maxUser)
		}
	}
	return nil
}

func item(field string, n int) string { return fmt.Sprintf("%s[%d]", field, n) }
