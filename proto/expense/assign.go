package expense

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// Limits of rules, as policy.proto has them.
const (
	maxFolder   = 1024
	maxFileName = 255
	maxUser     = 255
)

// Use is what a rule is to be found for.
type Use struct {
	Application []byte
	// User is what the system calls the person: DOMAIN\name or the bare name.
	User string
	// Folder and File are a file's whole folder and its name; empty where there is no
	// file, or they are not known.
	Folder, File string
}

// Assigner is a compiled list of rules. It is safe for concurrent use.
type Assigner struct{ rules []assignment }

type assignment struct {
	*policyv1.AssignmentRule
	folder []string
}

// CompileRules checks a list of rules and prepares it. The error is an *Error.
func CompileRules(list []*policyv1.AssignmentRule) (*Assigner, error) {
	a, err := compileRules(list)
	if err != nil {
		return nil, err // not a nil *Error in an error
	}
	return a, nil
}

func compileRules(list []*policyv1.AssignmentRule) (*Assigner, *Error) {
	a := &Assigner{}
	seen := map[contract.ID]bool{}
	for n, r := range list {
		one, id, err := compileRule(r)
		switch {
		case err != nil:
			return nil, err.in(item("rules", n))
		case seen[id]:
			return nil, (&Error{Field: "assignment_rule_id", Err: errTwice}).in(item("rules", n))
		}
		seen[id] = true
		a.rules = append(a.rules, one)
	}
	return a, nil
}

func compileRule(r *policyv1.AssignmentRule) (assignment, contract.ID, *Error) {
	one := assignment{AssignmentRule: r}
	id, err := contract.IDFrom(r.GetAssignmentRuleId())
	if err != nil {
		return one, id, &Error{Field: "assignment_rule_id", Err: err}
	}
	if len(r.GetApplicationId()) > 0 {
		if _, err := contract.IDFrom(r.GetApplicationId()); err != nil {
			return one, id, &Error{Field: "application_id", Err: err}
		}
	}
	switch assigned := r.GetAssigned().(type) {
	case *policyv1.AssignmentRule_ProjectId:
		if _, err := contract.IDFrom(assigned.ProjectId); err != nil {
			return one, id, &Error{Field: "project_id", Err: err}
		}
	case *policyv1.AssignmentRule_NotChargeable:
		if !assigned.NotChargeable {
			return one, id, wrong("not_chargeable", "is false, so the rule assigns nothing: give it a project_id, or say true")
		}
	default:
		return one, id, wrong("project_id", "the rule assigns nothing: give it a project_id or not_chargeable")
	}
	for _, text := range []struct {
		field, value string
		most         int
	}{{"user", r.GetUser(), maxUser}, {"folder", r.GetFolder(), maxFolder}, {"file_name", r.GetFileName(), maxFileName}} {
		switch {
		case len(text.value) > text.most:
			return one, id, wrong(text.field, "has %d bytes; at most %d can be", len(text.value), text.most)
		case !utf8.ValidString(text.value):
			return one, id, wrong(text.field, "is not valid UTF-8")
		}
	}
	if strings.ContainsAny(r.GetFileName(), `/\`) {
		return one, id, wrong("file_name", "%q has a folder in it: give that as folder", r.GetFileName())
	}
	if r.GetFolder() != "" {
		var ok bool
		if one.folder, ok = elements(r.GetFolder()); !ok {
			return one, id, wrong("folder", `%q is no whole folder: it begins with a drive as P:\, a server and its share as \\server\share, or with /`, r.GetFolder())
		}
		if slices.Contains(strings.FieldsFunc(r.GetFolder(), isSlash), "..") {
			return one, id, wrong("folder", "%q has .. in it: write the folder that it leads to", r.GetFolder())
		}
	}
	return one, id, nil
}

// concerns tells whether a rule is for the application and the login of a use.
func (r assignment) concerns(u Use) bool {
	return (len(r.GetApplicationId()) == 0 || bytes.Equal(r.GetApplicationId(), u.Application)) &&
		(r.GetUser() == "" || IsLogin(r.GetUser(), u.User))
}

// Find gives the first rule that fits; nil: none does.
func (a *Assigner) Find(u Use) *policyv1.AssignmentRule {
	if a == nil {
		return nil
	}
	var folder []string
	known := false
	if u.Folder != "" {
		folder, known = elements(u.Folder)
	}
	for _, r := range a.rules {
		switch {
		case !r.concerns(u):
		case r.GetFileName() != "" && (u.File == "" || !rules.Wildcard(rules.Fold(r.GetFileName()), rules.Fold(u.File))):
		case len(r.folder) > 0 && (!known || !begins(folder, r.folder)):
		default:
			return r.AssignmentRule
		}
	}
	return nil
}

// OfFiles tells whether a rule is for some files only.
func OfFiles(r *policyv1.AssignmentRule) bool { return r.GetFolder() != "" || r.GetFileName() != "" }

// ReadsFiles tells whether it may depend on the file which rule fits.
func (a *Assigner) ReadsFiles(u Use) bool {
	if a == nil {
		return false
	}
	return slices.ContainsFunc(a.rules, func(r assignment) bool {
		return OfFiles(r.AssignmentRule) && r.concerns(u)
	})
}

// IsLogin tells whether a shell pattern fits a login: the bare name where the pattern has no
// domain.
func IsLogin(pattern, user string) bool {
	pattern, user = strings.ReplaceAll(rules.Fold(pattern), `\`, "/"), strings.ReplaceAll(rules.Fold(user), `\`, "/")
	if !strings.Contains(pattern, "/") {
		user = user[strings.LastIndexByte(user, '/')+1:]
	}
	return user != "" && rules.Wildcard(pattern, user)
}

func begins(folder, with []string) bool {
	if len(folder) < len(with) {
		return false
	}
	for n, pattern := range with {
		if !rules.Wildcard(pattern, folder[n]) {
			return false
		}
	}
	return true
}

// Where a path begins. A drive is its own beginning, as "p:".
const (
	ofServer = `\\`
	ofRoot   = "/"
)

// elements cuts a whole path into where it begins and the names on the way; false: it is
// no whole path. Of paths with a drive or a server case says nothing.
func elements(path string) (all []string, ok bool) {
	if rest, long := strings.CutPrefix(path, `\\?\`); long {
		// The form for paths that are longer than Windows likes.
		path = rest
		if len(rest) > 4 && strings.EqualFold(rest[:4], `UNC\`) {
			path = `\\` + rest[4:]
		}
	}
	switch {
	case len(path) > 2 && isSlash(rune(path[0])) && path[0] == path[1]:
		all, path = []string{ofServer}, rules.Fold(path)
	case strings.HasPrefix(path, "/"):
		all = []string{ofRoot}
	case len(path) >= 2 && path[1] == ':' && isDrive(path[0]) && (len(path) == 2 || isSlash(rune(path[2]))):
		path = rules.Fold(path)
		all, path = []string{path[:2]}, path[2:]
	default:
		return nil, false
	}
	separates := isSlash
	if all[0] == ofRoot {
		separates = func(r rune) bool { return r == '/' } // elsewhere \ is a letter
	}
	for _, name := range strings.FieldsFunc(path, separates) {
		switch name {
		case ".":
		case "..":
			if len(all) > 1 {
				all = all[:len(all)-1]
			}
		default:
			all = append(all, name)
		}
	}
	return all, all[0] != ofServer || len(all) > 1
}

func isSlash(r rune) bool { return r == '/' || r == '\\' }

func isDrive(letter byte) bool {
	return letter == '?' || letter|0x20 >= 'a' && letter|0x20 <= 'z'
}
