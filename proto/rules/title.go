package rules

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// DocumentKind is what a title says that its document is.
type DocumentKind uint8

const (
	// NoDocument says that the title names none.
	NoDocument DocumentKind = iota
	// WholeTitle says that no rule tells which part is the name, so all of it stands for
	// one; it may be empty.
	WholeTitle
	// Named is something that has a name and is no file, or may be none.
	Named
	// File is a file.
	File
	// Unsaved has never been saved: its name is the program's, and no file's.
	Unsaved
	// Private is a private window, which has no document whatever it shows.
	Private
)

// Document is what a window's title says of its document, not reduced yet.
type Document struct {
	Kind DocumentKind
	// Name is a file's without its folder, or what else there is; empty where there is
	// no document.
	Name string
	// Folder of a file, where the title tells it: as the title writes it.
	Folder string
	// Project that it belongs to, where the title tells it.
	Project string
	// Modified: there are changes that are not saved.
	Modified bool
}

// The groups of a title rule; policy.proto says what they mean.
const (
	groupPath     = "path"
	groupFile     = "file"
	groupFolder   = "folder"
	groupDocument = "document"
	groupUnsaved  = "unsaved"
	groupProject  = "project"
	groupModified = "modified"
	groupPrivate  = "private"
)

var titleGroups = [...]string{groupPath, groupFile, groupFolder, groupDocument, groupUnsaved, groupProject, groupModified, groupPrivate}

// titleRule reads titles. It is compiled when a title is first read by it.
type titleRule struct{ *expression }

func newTitleRule(pattern string) (*titleRule, error) {
	switch {
	case pattern == "":
		return nil, errors.New("is empty")
	case len(pattern) > MaxPattern:
		return nil, fmt.Errorf("has %d bytes; at most %d can be", len(pattern), MaxPattern)
	case !utf8.ValidString(pattern):
		return nil, errors.New("is not valid UTF-8")
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl|syntax.FoldCase)
	if err != nil {
		return nil, err
	}
	known := "the groups are " + strings.Join(titleGroups[:], ", ")
	var seen []string
	for _, name := range parsed.CapNames() {
		if name == "" {
			continue
		}
		if !slices.Contains(titleGroups[:], name) {
			return nil, fmt.Errorf("has a group %q, which says nothing; %s", name, known)
		}
		if slices.Contains(seen, name) {
			return nil, fmt.Errorf("has the group %q twice; write a rule for each", name)
		}
		seen = append(seen, name)
	}
	if len(seen) == 0 {
		return nil, fmt.Errorf("has no named group, as (?P<file>…), so it can tell nothing; %s", known)
	}
	return &titleRule{&expression{source: pattern}}, nil
}

// read tells what a title says; false where the rule does not match it.
func (t *titleRule) read(title string) (Document, bool) {
	re := t.compiled()
	found := re.FindStringSubmatch(title)
	if found == nil {
		return Document{}, false
	}
	of := func(group string) string {
		if i := re.SubexpIndex(group); i >= 0 {
			return strings.TrimSpace(found[i])
		}
		return ""
	}
	d := Document{Project: of(groupProject), Modified: of(groupModified) != ""}
	switch {
	case of(groupPrivate) != "":
		return Document{Kind: Private}, true
	case of(groupUnsaved) != "":
		d.Kind, d.Name = Unsaved, of(groupUnsaved)
	case of(groupPath) != "":
		d.Kind = File
		d.Folder, d.Name = splitPath(of(groupPath))
	case of(groupFile) != "":
		d.Kind = File
		d.Folder, d.Name = splitPath(of(groupFile))
		if folder := of(groupFolder); folder != "" && d.Folder == "" {
			d.Folder = folder
		}
	case of(groupDocument) != "":
		d.Kind, d.Name = Named, of(groupDocument)
	case d.Project != "":
		d.Kind, d.Name, d.Project = Named, d.Project, ""
	default:
		return Document{}, true
	}
	return d, true
}

// splitPath cuts a path behind its last separator, which goes with neither part. A
// path that ends with one is a folder, and its own name.
func splitPath(path string) (folder, name string) {
	trimmed := strings.TrimRight(path, `/\`)
	i := strings.LastIndexAny(trimmed, `/\`)
	switch {
	case trimmed == "":
		return "", path
	case i < 0:
		return "", trimmed
	case i == 0:
		return trimmed[:1], trimmed[1:]
	}
	return trimmed[:i], trimmed[i+1:]
}

// documentOf reads a title by the rule that claimed its window.
func (r *rule) documentOf(title string) Document {
	if r.document != nil {
		if name := r.document.document(title); name != "" {
			return Document{Kind: Named, Name: name}
		}
		return Document{}
	}
	if len(r.application.titles) == 0 {
		return Document{Kind: WholeTitle, Name: title}
	}
	for _, t := range r.application.titles {
		if d, ok := t.read(title); ok {
			return d
		}
	}
	return Document{}
}
