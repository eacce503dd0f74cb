package templates

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

//go:embed data/*.yaml
var data embed.FS

// Template is a program whose rules are known.
type Template struct {
	// ID is lower-case words joined by hyphens; it never changes.
	ID   string `yaml:"id"`
	Name string `yaml:"name"`
	// Category is the file that it stands in.
	Category string `yaml:"-"`
	// Source says where the form of its titles is known from.
	Source string `yaml:"source"`
	// Caution is what one should know before documents are switched on.
	Caution string `yaml:"caution"`
	Rules   []Rule `yaml:"rules"`
	// RemoteClient: it shows what runs on other machines.
	RemoteClient bool `yaml:"remote_client"`
	// Documents: they are metered unless told otherwise.
	Documents bool     `yaml:"documents"`
	Titles    []string `yaml:"titles"`
	// Examples are titles, and what is to be read in them.
	Examples []Example `yaml:"examples"`
}

// Rule recognises the program, as a rule of the policy does.
type Rule struct {
	Executable  string `yaml:"executable"`
	Path        string `yaml:"path"`
	WindowClass string `yaml:"window_class"`
	Title       string `yaml:"title"`
	Package     string `yaml:"package"`
	Priority    int32  `yaml:"priority"`
}

// Example is a title and what is to be read in it: one of file, document, unsaved and
// private, or nothing.
type Example struct {
	Title    string `yaml:"title"`
	File     string `yaml:"file"`
	Folder   string `yaml:"folder"`
	Document string `yaml:"document"`
	Unsaved  string `yaml:"unsaved"`
	Project  string `yaml:"project"`
	Modified bool   `yaml:"modified"`
	Private  bool   `yaml:"private"`
}

// partsFile holds what patterns share; it is no category.
const partsFile = "parts.yaml"

// Library holds the templates.
type Library struct {
	all []*Template
	// matcher claims for each template, as an application, what its rules do.
	matcher *rules.Matcher
	byRule  map[contract.ID]owned
}

// owned is a rule, and the template that it is of.
type owned struct {
	template *Template
	rule     *policyv1.Rule
}

// Load reads the library that is built in.
func Load() (*Library, error) { return read(data) }

// All lists the templates by category and name.
func (l *Library) All() []*Template { return slices.Clone(l.all) }

// Find finds a template by its id.
func (l *Library) Find(id string) (*Template, bool) {
	i := slices.IndexFunc(l.all, func(t *Template) bool { return t.ID == id })
	if i < 0 {
		return nil, false
	}
	return l.all[i], true
}

// Categories lists the categories that there are.
func (l *Library) Categories() []string {
	var categories []string
	for _, t := range l.all {
		if !slices.Contains(categories, t.Category) {
			categories = append(categories, t.Category)
		}
	}
	return categories
}

// Place is where the template stands in the order of the list: by category and name.
func (t *Template) Place() string {
	return strings.Join([]string{t.Category, strings.ToLower(t.Name), t.ID}, "\x1f")
}

// PolicyRules are the rules that recognise the program, without ids.
func (t *Template) PolicyRules() []*policyv1.Rule {
	var all []*policyv1.Rule
	for _, r := range t.Rules {
		all = append(all, &policyv1.Rule{
			Executable: r.Executable, Path: r.Path, WindowClass: r.WindowClass, Title: r.Title, Package: r.Package, Priority: r.Priority,
		})
	}
	return all
}

// PolicyTitleRules are what its titles say of documents.
func (t *Template) PolicyTitleRules() []*policyv1.TitleRule {
	var titles []*policyv1.TitleRule
	for _, pattern := range t.Titles {
		titles = append(titles, &policyv1.TitleRule{Pattern: pattern})
	}
	return titles
}

// read reads a library. What a field's name misspells is refused.
func read(files fs.FS) (*Library, error) {
	parts := map[string]string{}
	if err := decode(files, partsFile, &parts); err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "data/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	var all []*Template
	seen := map[string]bool{}
	for _, name := range names {
		base := path.Base(name)
		if base == partsFile {
			continue
		}
		var inFile []*Template
		if err := decode(files, base, &inFile); err != nil {
			return nil, err
		}
		for _, t := range inFile {
			t.Category = strings.TrimSuffix(base, ".yaml")
			if t.ID == "" || t.Name == "" || t.Source == "" || len(t.Rules) == 0 {
				return nil, fmt.Errorf("templates: %s: %q lacks an id, a name, a source or a rule", base, cmp.Or(t.ID, t.Name))
			}
			if seen[t.ID] {
				return nil, fmt.Errorf("templates: %q is there twice", t.ID)
			}
			seen[t.ID] = true
			if err := t.expand(parts); err != nil {
				return nil, fmt.Errorf("templates: %q: %w", t.ID, err)
			}
		}
		all = append(all, inFile...)
	}
	slices.SortFunc(all, func(a, b *Template) int { return strings.Compare(a.Place(), b.Place()) })
	l := &Library{all: all, byRule: make(map[contract.ID]owned)}
	if err := l.compile(); err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return l, nil
}

func (l *Library) compile() (err error) {
	policy := &policyv1.Policy{}
	id := func(n int) contract.ID {
		return contract.ID{12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
	}
	for i, t := range l.all {
		application := id(i + 1)
		a := &policyv1.ApplicationPolicy{ApplicationId: application[:], Rules: t.PolicyRules()}
		for _, r := range a.GetRules() {
			rule := id(len(l.byRule) + 1)
			r.RuleId, l.byRule[rule] = rule[:], owned{t, r}
		}
		policy.Applications = append(policy.Applications, a)
	}
	l.matcher, err = rules.Compile(policy)
	return err
}

// Recognise finds the template that claims a program, given as what was seen of it but its titles:
// one whose rules do so whatever the titles are, or else one that knows its windows' class.
func (l *Library) Recognise(seen []rules.Program) (*Template, bool) {
	var byClass *Template
	for _, program := range seen {
		for _, candidate := range l.matcher.Possible(program) {
			o := l.byRule[candidate.RuleID]
			if !candidate.Titled {
				return o.template, true
			}
			if byClass == nil && o.rule.GetWindowClass() != "" {
				byClass = o.template
			}
		}
	}
	return byClass, byClass != nil
}

func decode(files fs.FS, base string, into any) error {
	text, err := fs.ReadFile(files, "data/"+base)
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("templates: %s: %w", base, err)
	}
	return nil
}

var partName = regexp.MustCompile(`\{([a-z][a-z_]*)\}`)

// expand puts the parts that patterns name in their place.
func (t *Template) expand(parts map[string]string) error {
	var missing error
	expand := func(pattern string) string {
		return partName.ReplaceAllStringFunc(pattern, func(named string) string {
			part, ok := parts[named[1:len(named)-1]]
			if !ok {
				missing = errors.Join(missing, fmt.Errorf("there is no part %s", named))
			}
			return part
		})
	}
	for i := range t.Titles {
		t.Titles[i] = expand(t.Titles[i])
	}
	for i := range t.Rules {
		t.Rules[i].Title = expand(t.Rules[i].Title)
	}
	return missing
}
