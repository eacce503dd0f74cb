package rest

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cetrus/cetrus/proto/binding"
)

// call is a method as REST has it.
type call struct {
	binding.Binding
	method protoreflect.MethodDescriptor
	// responseBody is the field that is answered; nil: the whole message.
	responseBody protoreflect.FieldDescriptor
}

// callOf finds a method, as /cetrus.metering.v1.UsageService/SummarizeUsage.
func callOf(method string) (*call, error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	m, ok := found.(protoreflect.MethodDescriptor)
	if err != nil || !ok {
		return nil, status.Errorf(codes.Unimplemented, "%s is no method of the contract", method)
	}
	stands, offered, err := binding.Of(m)
	switch {
	case err != nil:
		return nil, status.Error(codes.Unimplemented, err.Error())
	case !offered:
		return nil, status.Errorf(codes.Unimplemented, "%s is not offered over REST", method)
	}
	b := &call{Binding: stands, method: m}
	if field := b.ResponseBody; field != "" {
		b.responseBody = m.Output().Fields().ByName(protoreflect.Name(field))
	}
	return b, nil
}

// variable is a field's path in a template.
var variable = regexp.MustCompile(`\{([a-z0-9_.]+)\}`)

// request is what a message is in REST.
func (b *call) request(in proto.Message) (path string, query url.Values, body []byte, err error) {
	rest := proto.Clone(in)
	path = variable.ReplaceAllStringFunc(b.Template, func(braced string) string {
		field := strings.Trim(braced, "{}")
		value := take(rest.ProtoReflect(), field)
		if value == "" && err == nil {
			err = status.Errorf(codes.InvalidArgument, "%s is needed", field)
		}
		return url.PathEscape(value)
	})
	if err != nil {
		return "", nil, nil, err
	}
	write := protojson.MarshalOptions{UseProtoNames: true}
	switch b.Body {
	case "":
	case "*":
		body, err = write.Marshal(rest)
		return path, nil, body, err
	default:
		field := rest.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(b.Body))
		if body, err = write.Marshal(rest.ProtoReflect().Get(field).Message().Interface()); err != nil {
			return "", nil, nil, err
		}
		rest.ProtoReflect().Clear(field)
	}
	query = url.Values{}
	collect(query, "", rest.ProtoReflect())
	return path, query, body, nil
}

// take reads a scalar field by its dotted path, and clears it.
func take(m protoreflect.Message, path string) string {
	name, below, deeper := strings.Cut(path, ".")
	field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if field == nil || !m.Has(field) {
		return ""
	}
	if deeper {
		return take(m.Mutable(field).Message(), below)
	}
	value := scalar(field, m.Get(field))
	m.Clear(field)
	return value
}

// collect writes the fields that are set as query parameters.
func collect(into url.Values, prefix string, m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := prefix + string(field.Name())
		switch {
		case field.IsMap(): // no method has one
		case field.IsList():
			for i := range value.List().Len() {
				into.Add(name, scalar(field, value.List().Get(i)))
			}
		case field.Message() != nil && field.Message().ParentFile().Package() != "google.protobuf":
			if before := len(into); value.Message().IsValid() {
				collect(into, name+".", value.Message())
				if len(into) == before {
					present(into, name+".", value.Message().Descriptor())
				}
			}
		default:
			into.Set(name, scalar(field, value))
		}
		return true
	})
}

// present has a message be there that says nothing: by an empty text, where it can have one.
func present(into url.Values, prefix string, m protoreflect.MessageDescriptor) {
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.Kind() == protoreflect.StringKind && !f.IsList() && f.ContainingOneof() == nil {
			into.Set(prefix+string(f.Name()), "")
			return
		}
	}
}

// scalar is a value as a query or a path has it.
func scalar(field protoreflect.FieldDescriptor, value protoreflect.Value) string {
	switch field.Kind() {
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return string(known.Name())
		}
		return strconv.Itoa(int(value.Enum()))
	case protoreflect.BytesKind:
		return base64.URLEncoding.EncodeToString(value.Bytes())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		switch m := value.Message().Interface().(type) {
		case *fieldmaskpb.FieldMask:
			return strings.Join(m.GetPaths(), ",")
		case *timestamppb.Timestamp, *durationpb.Duration:
			text, err := protojson.Marshal(m)
			if err != nil { // out of the range that the type has: the server says so
				return fmt.Sprint(m)
			}
			return strings.Trim(string(text), `"`)
		}
	default:
	}
	return value.String()
}
