package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// checkBody names all fields of a body that protojson would refuse, with what each
// takes; protojson itself stops at the first, and often does not name it.
func (op *operation) checkBody(body []byte) error {
	message, path := op.method.Input(), ""
	if op.Body != "*" {
		message, path = message.Fields().ByName(protoreflect.Name(op.Body)).Message(), op.Body+"."
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil // the contract says whether that will do
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return errs.InvalidFields("gateway.checkBody", "", errs.Field{Path: "(body)", Description: "is no JSON object; it takes " + fieldNames(message)})
	}
	if wrong := wrongFields(message, path, object); len(wrong) > 0 {
		return errs.InvalidFields("gateway.checkBody", "", wrong...)
	}
	return nil
}

func wrongFields(message protoreflect.MessageDescriptor, path string, object map[string]json.RawMessage) (wrong []errs.Field) {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		field := message.Fields().ByName(protoreflect.Name(key))
		if field == nil {
			field = message.Fields().ByJSONName(key)
		}
		switch {
		case field == nil:
			wrong = append(wrong, errs.Field{Path: path + key, Description: "is no field here; there are " + fieldNames(message)})
		case field.IsMap():
		case field.IsList():
			var list []json.RawMessage
			if err := json.Unmarshal(object[key], &list); err != nil {
				wrong = append(wrong, errs.Field{Path: path + string(field.Name()), Description: "is not a list: […]"})
				continue
			}
			for i, value := range list {
				wrong = append(wrong, wrongValue(field, fmt.Sprintf("%s%s[%d]", path, field.Name(), i), value)...)
			}
		default:
			wrong = append(wrong, wrongValue(field, path+string(field.Name()), object[key])...)
		}
	}
	return wrong
}

func wrongValue(field protoreflect.FieldDescriptor, path string, value json.RawMessage) []errs.Field {
	if string(value) == "null" && !field.IsList() {
		return nil
	}
	if field.Message() != nil && field.Message().ParentFile().Package() != "google.protobuf" {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(value, &object); err != nil || object == nil {
			return []errs.Field{{Path: path, Description: "is not an object with " + fieldNames(field.Message())}}
		}
		return wrongFields(field.Message(), path+".", object)
	}
	if readable(field, value) {
		return nil
	}
	takes := expected(field)
	if field.Enum() != nil {
		var names []string
		for i := range field.Enum().Values().Len() {
			if v := field.Enum().Values().Get(i); v.Number() != 0 {
				names = append(names, string(v.Name()))
			}
		}
		takes = "one of " + strings.Join(names, ", ")
	}
	const most = 100
	if len(value) > most {
		value = append(slices.Clone(value[:most]), "…"...)
	}
	return []errs.Field{{Path: path, Description: strings.ToValidUTF8(string(value), "\uFFFD") + " is not " + takes}}
}

// readable asks protojson itself, with nothing but this one value.
func readable(field protoreflect.FieldDescriptor, value json.RawMessage) bool {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(field.ContainingMessage().FullName())
	if err != nil {
		return true // it will be told by what reads the whole
	}
	if field.IsList() {
		value = slices.Concat([]byte("["), value, []byte("]"))
	}
	name := strconv.Quote(string(field.Name()))
	return protojson.Unmarshal(slices.Concat([]byte("{"+name+":"), value, []byte("}")), kind.New().Interface()) == nil
}

func fieldNames(message protoreflect.MessageDescriptor) string {
	var names []string
	for i := range message.Fields().Len() {
		names = append(names, string(message.Fields().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}
