package gateway

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/cetrus/cetrus/proto/binding"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// operation is one method as REST offers it.
type operation struct {
	binding.Binding
	// id is the operationId in the OpenAPI document: Service_Method.
	id     string
	method protoreflect.MethodDescriptor
	input  protoreflect.MessageType
	// rule is who may call it.
	rule authz.Rule
	// query are the fields that a query parameter may fill, by their dotted path.
	query map[string]protoreflect.FieldDescriptor
}

// operationsOf lists the operations of services, by "verb template".
func operationsOf(services ...protoreflect.ServiceDescriptor) (map[string]*operation, error) {
	all := map[string]*operation{}
	for _, svc := range services {
		for i := range svc.Methods().Len() {
			m := svc.Methods().Get(i)
			stands, offered, err := binding.Of(m)
			if err != nil {
				return nil, fmt.Errorf("gateway: %w", err)
			}
			if !offered {
				continue // gRPC only
			}
			op := &operation{Binding: stands, id: string(svc.Name()) + "_" + string(m.Name()), method: m}
			if op.rule, err = authz.Of(m); err != nil {
				return nil, fmt.Errorf("gateway: %w", err)
			}
			input, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			if err != nil {
				return nil, fmt.Errorf("gateway: %s: %w", m.FullName(), err)
			}
			op.input = input
			op.query = map[string]protoreflect.FieldDescriptor{}
			if op.Body != "*" {
				op.collect("", m.Input())
			}
			all[op.Verb+" "+op.Template] = op
		}
	}
	return all, nil
}

// collect gathers the fields that may come by query: scalars, well-known types
// and lists of them, down through messages, less what the path or the body fills.
func (op *operation) collect(prefix string, msg protoreflect.MessageDescriptor) {
	for i := range msg.Fields().Len() {
		f := msg.Fields().Get(i)
		path := prefix + string(f.Name())
		switch {
		case path == op.Body, strings.Contains(op.Template, "{"+path+"}"), f.IsMap():
		case f.Message() == nil || f.Message().ParentFile().Package() == "google.protobuf":
			op.query[path] = f
		case !f.IsList():
			op.collect(path+".", f.Message())
		}
	}
}

// checkQuery refuses what is not a parameter of the operation and what cannot be
// one of its values, all at once, and spells short enum values out, so that what
// remains is what grpc-gateway reads.
func (op *operation) checkQuery(values url.Values) error {
	var wrong []errs.Field
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		path, field := op.resolve(key)
		if field == nil {
			wrong = append(wrong, errs.Field{Path: key, Description: "is not a query parameter of this method; " + op.known()})
			continue
		}
		if other, ok := seen[path]; ok {
			wrong = append(wrong, errs.Field{Path: key, Description: "is given twice, as " + other + " and " + key})
			continue
		}
		seen[path] = key
		if len(values[key]) > 1 && !field.IsList() {
			wrong = append(wrong, errs.Field{Path: key, Description: fmt.Sprintf("takes one value, not %d", len(values[key]))})
			continue
		}
		for i, value := range values[key] {
			if field.Enum() != nil {
				value = fullEnumName(field.Enum(), value)
				values[key][i] = value
			}
			if err := runtime.PopulateFieldFromPath(op.input.New().Interface(), path, value); err != nil {
				wrong = append(wrong, errs.Field{Path: key, Description: fmt.Sprintf("%q is not %s", value, expected(field))})
			}
		}
	}
	if len(wrong) > 0 {
		return errs.InvalidFields("gateway.checkQuery", "", wrong...)
	}
	return nil
}

// resolve finds the field of a parameter, written in snake_case or camelCase.
func (op *operation) resolve(key string) (string, protoreflect.FieldDescriptor) {
	if f, ok := op.query[key]; ok {
		return key, f
	}
	for path, f := range op.query {
		if camel(path) == key {
			return path, f
		}
	}
	return "", nil
}

// camel is a dotted path as protojson names it.
func camel(path string) string {
	var b strings.Builder
	upper := false
	for _, c := range path {
		switch {
		case c == '_':
			upper = true
		case upper:
			b.WriteString(strings.ToUpper(string(c)))
			upper = false
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

func (op *operation) known() string {
	if len(op.query) == 0 {
		return "it takes none"
	}
	return "it takes " + strings.Join(slices.Sorted(maps.Keys(op.query)), ", ")
}

// fullEnumName spells out a short value: application → GROUP_BY_APPLICATION.
// What is no short value stays as it is.
func fullEnumName(enum protoreflect.EnumDescriptor, value string) string {
	full := enumPrefix(enum) + strings.ToUpper(value)
	if enum.Values().ByName(protoreflect.Name(full)) != nil {
		return full
	}
	return value
}

// enumPrefix is what the names of an enum's values begin with, from its zero
// value: GROUP_BY_UNSPECIFIED has GROUP_BY_.
func enumPrefix(enum protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(enum.Values().ByNumber(0).Name()), "UNSPECIFIED")
}

// expected says in words what a parameter takes.
func expected(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Enum() != nil:
		var names []string
		for i := range f.Enum().Values().Len() {
			if v := f.Enum().Values().Get(i); v.Number() != 0 {
				names = append(names, strings.ToLower(strings.TrimPrefix(string(v.Name()), enumPrefix(f.Enum()))))
			}
		}
		return "one of " + strings.Join(names, ", ")
	case f.Message() != nil:
		switch f.Message().Name() {
		case "Timestamp":
			return "a time as RFC 3339 writes it: 2026-01-31T12:00:00Z (a + in its zone is written %2B)"
		case "Duration":
			return "a duration in seconds: 90s, 0.5s"
		case "FieldMask":
			return "a list of field names with commas"
		}
		return "a " + string(f.Message().Name())
	case f.Kind() == protoreflect.BoolKind:
		return "true or false"
	case f.Kind() == protoreflect.StringKind:
		return "a text"
	}
	return "a whole number of the type " + f.Kind().String()
}
