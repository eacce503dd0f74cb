package manifest

import (
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// The kinds of documents.
const (
	Application      = "Application"
	Group            = "Group"
	Settings         = "Settings"
	SignInPolicy     = "SignInPolicy"
	ExpenseToProject = "ExpenseToProject"
)

// kind is what the documents of a kind say.
type kind struct {
	name string
	new  func() proto.Message
	// named says that there are many, each with a name; else the account has one.
	named bool
}

// kinds in the order in which they are made and written: what others refer to comes first.
var kinds = []kind{
	{Settings, func() proto.Message { return &meteringv1.Settings{} }, false},
	{SignInPolicy, func() proto.Message { return &identityv1.SignInPolicy{} }, false},
	{Application, func() proto.Message { return &meteringv1.Application{} }, true},
	{ExpenseToProject, func() proto.Message { return &meteringv1.ExpenseToProject{} }, false},
	{Group, func() proto.Message { return &identityv1.Group{} }, true},
}

// Kinds are the names of all kinds.
func Kinds() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	slices.Sort(names)
	return names
}

func kindOf(name string) (kind, bool) {
	for _, k := range kinds {
		if k.name == name {
			return k, true
		}
	}
	return kind{}, false
}

// renamed are fields that are called otherwise in a file, where names stand in place of ids.
var renamed = map[protoreflect.FullName]string{
	"cetrus.metering.v1.Application.display_name":      "name",
	"cetrus.identity.v1.Group.display_name":            "name",
	"cetrus.identity.v1.Group.denied_application_ids":  "denied_applications",
	"cetrus.metering.v1.AssignmentRule.application_id": "application",
	"cetrus.metering.v1.AssignmentRule.project_id":     "project",
}

// hidden are fields that the platform alone decides.
var hidden = map[protoreflect.FullName]bool{
	"cetrus.metering.v1.Application.application_id":        true,
	"cetrus.metering.v1.Application.create_time":           true,
	"cetrus.metering.v1.Application.update_time":           true,
	"cetrus.metering.v1.Application.etag":                  true,
	"cetrus.metering.v1.Application.policy_revision":       true,
	"cetrus.metering.v1.Rule.rule_id":                      true,
	"cetrus.identity.v1.Group.group_id":                    true,
	"cetrus.identity.v1.Group.create_time":                 true,
	"cetrus.identity.v1.Group.update_time":                 true,
	"cetrus.identity.v1.Group.etag":                        true,
	"cetrus.metering.v1.Settings.retained_since":           true,
	"cetrus.metering.v1.ExpenseToProject.etag":             true,
	"cetrus.metering.v1.Project.project_id":                true,
	"cetrus.metering.v1.Worker.worker_id":                  true,
	"cetrus.metering.v1.AssignmentRule.assignment_rule_id": true,
}

// key is what a field is called in a file; empty: it is in none.
func key(f protoreflect.FieldDescriptor) string {
	if hidden[f.FullName()] {
		return ""
	}
	if name, ok := renamed[f.FullName()]; ok {
		return name
	}
	return string(f.Name())
}

// fieldOf finds a field by its key.
func fieldOf(m protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); key(f) == name {
			return f
		}
	}
	return nil
}

// keys are what a message may say.
func keys(m protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range m.Fields().Len() {
		if name := key(m.Fields().Get(i)); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Fold is a name as names are compared: case, width and surplus spaces do not count.
func Fold(name string) string {
	return strings.ToLower(strings.Join(strings.Fields(norm.NFKC.String(name)), " "))
}

// Fields are what an update of a message names: all that a file may say of it, so that what it leaves
// out is at its default.
func Fields(m proto.Message) []string {
	var names []string
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); key(f) != "" {
			names = append(names, string(f.Name()))
		}
	}
	return names
}
