package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// Live is what the platform has, as far as it is needed for the kinds in question.
type Live struct {
	Applications []*meteringv1.Application
	Groups       []*identityv1.Group
	Logins       []*identityv1.Login
	Settings     *meteringv1.Settings
	SignIn       *identityv1.SignInPolicy
	Expense      *meteringv1.ExpenseToProject
}

// Action is what becomes of something.
type Action int

// The actions.
const (
	Create Action = iota
	Update
	Delete
)

// String is the action as a person reads it.
func (a Action) String() string { return [...]string{"create", "update", "delete"}[a] }

// Change is one difference between what is wanted and what there is.
type Change struct {
	Action Action
	Kind   string
	// Title names it: "Application Firefox".
	Title string
	// Wanted is the document; nil where it is to be deleted.
	Wanted *Document
	// There is what there is; nil where there is nothing.
	There proto.Message
	// Before and After are both as files say them.
	Before, After []byte
}

// Documents are what there is of a kind, as documents.
func (l *Live) Documents(kind string) []*Document {
	var all []*Document
	switch kind {
	case Application:
		for _, a := range l.Applications {
			all = append(all, l.Document(a))
		}
	case Group:
		for _, g := range l.Groups {
			all = append(all, l.Document(g))
		}
	case Settings:
		all = append(all, l.Document(l.Settings))
	case SignInPolicy:
		all = append(all, l.Document(l.SignIn))
	case ExpenseToProject:
		all = append(all, l.Document(l.Expense))
	}
	return all
}

// Document is one thing of the platform, as a file says it.
func (l *Live) Document(m proto.Message) *Document {
	d := &Document{Message: proto.Clone(m)}
	switch m := d.Message.(type) {
	case *meteringv1.Application:
		d.Kind = Application
	case *identityv1.Group:
		d.Kind = Group
		for i, id := range m.GetDeniedApplicationIds() {
			m.DeniedApplicationIds[i] = l.applicationName(id)
		}
		members := l.members(m.GetGroupId())
		d.Members = &members
	case *meteringv1.Settings:
		d.Kind = Settings
	case *identityv1.SignInPolicy:
		d.Kind = SignInPolicy
	case *meteringv1.ExpenseToProject:
		d.Kind = ExpenseToProject
		for _, r := range m.GetRules() {
			r.ApplicationId = l.applicationName(r.GetApplicationId())
			if id := r.GetProjectId(); id != "" {
				r.Assigned = &meteringv1.AssignmentRule_ProjectId{ProjectId: label(m.GetProjects(), id)}
			}
		}
	}
	fields := d.Message.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); key(f) != "" {
			d.Says = append(d.Says, string(f.Name()))
		}
	}
	steady(d)
	return d
}

// steady puts what has no order into one.
func steady(d *Document) {
	if g, ok := d.Message.(*identityv1.Group); ok {
		slices.SortFunc(g.GetDeniedApplicationIds(), func(a, b string) int { return strings.Compare(Fold(a), Fold(b)) })
	}
	if d.Members != nil {
		slices.SortFunc(*d.Members, func(a, b string) int { return strings.Compare(Fold(a), Fold(b)) })
	}
}

func (l *Live) applicationName(id string) string {
	for _, a := range l.Applications {
		if a.GetApplicationId() == id {
			return a.GetDisplayName()
		}
	}
	return id
}

func (l *Live) application(name string) *meteringv1.Application {
	for _, a := range l.Applications {
		if Fold(a.GetDisplayName()) == Fold(name) || a.GetApplicationId() == name {
			return a
		}
	}
	return nil
}

func (l *Live) group(name string) *identityv1.Group {
	for _, g := range l.Groups {
		if Fold(g.GetDisplayName()) == Fold(name) {
			return g
		}
	}
	return nil
}

func (l *Live) login(name string) *identityv1.Login {
	for _, g := range l.Logins {
		if Fold(g.GetName()) == Fold(name) || g.GetLoginId() == name {
			return g
		}
	}
	return nil
}

func (l *Live) members(group string) []string {
	names := []string{}
	for _, login := range l.Logins {
		if slices.Contains(login.GetGroupIds(), group) {
			names = append(names, login.GetName())
		}
	}
	return names
}

func label(projects []*meteringv1.Project, id string) string {
	for _, p := range projects {
		if p.GetProjectId() == id {
			return p.GetLabel()
		}
	}
	return id
}

// Plan is what has to be changed so that the platform has what documents want, in the order in which
// it can be. What no document names is left alone, but of the kinds of prune, of which it is deleted.
func Plan(live *Live, documents []*Document, prune []string) ([]Change, error) {
	var changes []Change
	var wrong []error
	for _, k := range kinds {
		for _, d := range documents {
			if d.Kind != k.name {
				continue
			}
			wanted := &Document{Kind: d.Kind, Message: proto.Clone(d.Message), Says: d.Says, Place: d.Place, places: d.places}
			if d.Members != nil {
				members := slices.Clone(*d.Members)
				wanted.Members = &members
			}
			if problems := live.refer(wanted, documents); len(problems) > 0 {
				wrong = append(wrong, problems...)
				continue
			}
			steady(wanted)
			change, err := live.change(wanted)
			if err != nil {
				return nil, err
			}
			if change != nil {
				changes = append(changes, *change)
			}
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	for _, k := range slices.Backward(kinds) {
		if !k.named || !slices.Contains(prune, k.name) {
			continue
		}
		for _, there := range live.Documents(k.name) {
			if slices.ContainsFunc(documents, func(d *Document) bool { return d.Kind == k.name && Fold(d.Name()) == Fold(there.Name()) }) {
				continue
			}
			before, err := Encode(there)
			if err != nil {
				return nil, err
			}
			var m proto.Message = live.group(there.Name())
			if k.name == Application {
				m = live.application(there.Name())
			}
			changes = append(changes, Change{Action: Delete, Kind: k.name, Title: there.Title(), There: m, Before: before})
		}
	}
	return changes, nil
}

// change is the difference between a document and what there is; nil where there is none.
func (l *Live) change(wanted *Document) (*Change, error) {
	var there proto.Message
	switch wanted.Kind {
	case Application:
		if a := l.application(wanted.Name()); a != nil {
			there = a
		}
	case Group:
		if g := l.group(wanted.Name()); g != nil {
			there = g
		}
	case Settings:
		there = l.Settings
	case SignInPolicy:
		there = l.SignIn
	case ExpenseToProject:
		there = l.Expense
	}
	after, err := Encode(wanted)
	if err != nil {
		return nil, err
	}
	change := &Change{Action: Create, Kind: wanted.Kind, Title: wanted.Title(), Wanted: wanted, There: there, After: after}
	if there == nil {
		return change, nil
	}
	change.Action = Update
	before := l.Document(there)
	if k, _ := kindOf(wanted.Kind); !k.named {
		before.Says = wanted.Says
	}
	if wanted.Members == nil {
		before.Members = nil
	}
	if change.Before, err = Encode(before); err != nil {
		return nil, err
	}
	if bytes.Equal(change.Before, change.After) {
		return nil, nil // there is no difference
	}
	return change, nil
}

// refer finds what a document names, and writes each as it is called. What is not there, nor wanted by
// another document, is an error.
func (l *Live) refer(d *Document, documents []*Document) []error {
	var wrong []error
	application := func(path, name string) string {
		if a := l.application(name); a != nil {
			return a.GetDisplayName()
		}
		for _, other := range documents {
			if other.Kind == Application && Fold(other.Name()) == Fold(name) {
				return other.Name()
			}
		}
		wrong = append(wrong, &Error{d.PlaceOf(path), fmt.Sprintf("there is no application %q, neither at the platform nor in these files", name)})
		return name
	}
	switch m := d.Message.(type) {
	case *identityv1.Group:
		for i, name := range m.GetDeniedApplicationIds() {
			m.DeniedApplicationIds[i] = application(fmt.Sprintf("denied_application_ids[%d]", i), name)
		}
		if d.Members != nil {
			for i, name := range *d.Members {
				login := l.login(name)
				if login == nil {
					wrong = append(wrong, &Error{d.PlaceOf(fmt.Sprintf("members[%d]", i)), fmt.Sprintf("there is no login %q", name)})
					continue
				}
				(*d.Members)[i] = login.GetName()
			}
		}
	case *meteringv1.ExpenseToProject:
		projects := m.GetProjects()
		if !slices.Contains(d.Says, "projects") {
			projects = l.Expense.GetProjects()
		}
		for i, r := range m.GetRules() {
			if name := r.GetApplicationId(); name != "" {
				r.ApplicationId = application(fmt.Sprintf("rules[%d].application_id", i), name)
			}
			name := r.GetProjectId()
			if name == "" {
				continue
			}
			at := slices.IndexFunc(projects, func(p *meteringv1.Project) bool { return p.GetLabel() == name || p.GetProjectId() == name })
			if at < 0 {
				wrong = append(wrong, &Error{d.PlaceOf(fmt.Sprintf("rules[%d].project_id", i)), fmt.Sprintf("there is no project %q", name)})
				continue
			}
			r.Assigned = &meteringv1.AssignmentRule_ProjectId{ProjectId: projects[at].GetLabel()}
		}
	}
	return wrong
}

// ApplicationOf is what a document wants, with the ids of what is there; there may be nil.
func ApplicationOf(d *Document, there *meteringv1.Application) *meteringv1.Application {
	want := proto.CloneOf(d.Message.(*meteringv1.Application))
	want.ApplicationId, want.Etag = there.GetApplicationId(), there.GetEtag()
	// A rule that says the same is the same one, then one that matches the same programs: what was
	// measured names it.
	free := slices.Clone(there.GetRules())
	for _, same := range []func(a, b *meteringv1.Rule) bool{
		func(a, b *meteringv1.Rule) bool {
			b = proto.CloneOf(b)
			b.RuleId = ""
			return proto.Equal(a, b)
		},
		func(a, b *meteringv1.Rule) bool {
			return a.GetExecutable() == b.GetExecutable() && a.GetPath() == b.GetPath() && a.GetWindowClass() == b.GetWindowClass() && a.GetPackage() == b.GetPackage()
		},
	} {
		for _, r := range want.GetRules() {
			if r.GetRuleId() != "" {
				continue
			}
			if at := slices.IndexFunc(free, func(other *meteringv1.Rule) bool { return same(r, other) }); at >= 0 {
				r.RuleId = free[at].GetRuleId()
				free = slices.Delete(free, at, at+1)
			}
		}
	}
	return want
}

// GroupOf is what a document wants, with ids; applications has those that were made meanwhile too.
func GroupOf(d *Document, there *identityv1.Group, applications *Live) *identityv1.Group {
	want := proto.CloneOf(d.Message.(*identityv1.Group))
	want.GroupId, want.Etag = there.GetGroupId(), there.GetEtag()
	for i, name := range want.GetDeniedApplicationIds() {
		if a := applications.application(name); a != nil {
			want.DeniedApplicationIds[i] = a.GetApplicationId()
		}
	}
	return want
}

// ExpenseOf is what a document wants, with ids: projects and workers keep theirs by their labels, rules
// by what they say.
func ExpenseOf(d *Document, there *meteringv1.ExpenseToProject, applications *Live, newID func() string) *meteringv1.ExpenseToProject {
	want := proto.CloneOf(d.Message.(*meteringv1.ExpenseToProject))
	want.Etag = there.GetEtag()
	for _, p := range want.GetProjects() {
		if at := slices.IndexFunc(there.GetProjects(), func(o *meteringv1.Project) bool { return o.GetLabel() == p.GetLabel() }); at >= 0 {
			p.ProjectId = there.GetProjects()[at].GetProjectId()
		} else {
			p.ProjectId = newID() // so that rules can name it
		}
	}
	for _, w := range want.GetWorkers() {
		if at := slices.IndexFunc(there.GetWorkers(), func(o *meteringv1.Worker) bool { return o.GetLabel() == w.GetLabel() }); at >= 0 {
			w.WorkerId = there.GetWorkers()[at].GetWorkerId()
		}
	}
	projects := want.GetProjects()
	if !slices.Contains(d.Says, "projects") {
		projects = there.GetProjects()
	}
	free := slices.Clone(there.GetRules())
	for _, r := range want.GetRules() {
		if a := applications.application(r.GetApplicationId()); a != nil {
			r.ApplicationId = a.GetApplicationId()
		}
		for _, p := range projects {
			if r.GetProjectId() != "" && p.GetLabel() == r.GetProjectId() {
				r.Assigned = &meteringv1.AssignmentRule_ProjectId{ProjectId: p.GetProjectId()}
				break
			}
		}
		at := slices.IndexFunc(free, func(o *meteringv1.AssignmentRule) bool {
			o = proto.CloneOf(o)
			o.AssignmentRuleId = ""
			return proto.Equal(r, o)
		})
		if at >= 0 {
			r.AssignmentRuleId = free[at].GetAssignmentRuleId()
			free = slices.Delete(free, at, at+1)
		}
	}
	return want
}
