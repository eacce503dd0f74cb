package audit

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/cetrus/cetrus/proto/contract"
)

// maxValue bounds what is shown of one field, in bytes.
const maxValue = 4000

// change is one field that an event names.
type change struct {
	Field  string `json:"field"`
	Before string `json:"before,omitempty"`
	After  string `json:"after"`
}

// said is what the events of an aggregate have said so far, as JSON: by field, and by what they
// were about, since one aggregate may hold many things (all applications of an account).
type said map[string]string

// changes are what a message says that had not been said, or otherwise; then it is said. A field of
// the message's type that it leaves empty says that it is empty. Ids say what an event is
// about, and have no before; own is the aggregate's, which all of its events are about.
func (s said) changes(m proto.Message, own string) ([]change, error) {
	now := map[string]string{}
	if err := flatten(now, "", m.ProtoReflect()); err != nil {
		return nil, err
	}
	fields := slices.Sorted(maps.Keys(now))
	about := ""
	for _, field := range fields {
		if isAbout(field) && now[field] != empty && now[field] != strconv.Quote(own) {
			about += field + "=" + now[field] + " "
		}
	}
	var list []change
	for _, field := range fields {
		value := now[field]
		if isAbout(field) {
			if value != empty {
				list = append(list, change{Field: field, After: value})
			}
			continue
		}
		before := s[about+field]
		s[about+field] = value
		if before == value || before == "" && value == empty {
			continue
		}
		list = append(list, change{Field: field, Before: before, After: value})
	}
	return list, nil
}

// isAbout leaves out the ids that are part of how a thing is: the hash of its name, which secret
// counts, and what an identity provider calls Cetrus.
func isAbout(field string) bool {
	switch field {
	case "name_id", "secret_id", "client_id":
		return false
	}
	return strings.HasSuffix(field, "_id") && !strings.Contains(field, ".")
}

// hasState is false for an aggregate whose events say what happened once, and nothing that holds
// from then on: they have no before, and there is no end to what they are about.
func hasState(aggregate string) bool { return aggregate != "view" && aggregate != "savedreport" }

// What is shown in place of values.
const (
	empty  = "null"
	sealed = `"(sealed)"`
	secret = `"(secret)"`
)

// sealedValue begins a value that is recorded as it is sealed, in base 64: whoever reads it opens
// it, as long as there is the key.
const sealedValue = "sealed:"

// flatten tells each field of a message by its path.
func flatten(into map[string]string, path string, m protoreflect.Message) error {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		at := path + string(field.Name())
		if field.Message() != nil && !field.IsList() && !field.IsMap() && !isWellKnown(field.Message()) && m.Has(field) {
			if err := flatten(into, at+".", m.Get(field).Message()); err != nil {
				return err
			}
			continue
		}
		if field.ContainingOneof() != nil && !m.Has(field) {
			continue
		}
		text := empty
		if m.Has(field) {
			value, err := show(field, m.Get(field))
			if err != nil {
				return fmt.Errorf("audit: field %s: %w", field.FullName(), err)
			}
			raw, err := json.Marshal(value)
			if err != nil {
				return fmt.Errorf("audit: field %s: %w", field.FullName(), err)
			}
			if text = string(raw); len(text) > maxValue {
				text = fmt.Sprintf(`"(%d characters)"`, len(text))
			}
		}
		into[at] = text
	}
	return nil
}

func isWellKnown(d protoreflect.MessageDescriptor) bool {
	return strings.HasPrefix(string(d.FullName()), "google.protobuf.")
}

// show is a value as JSON has it, without what nobody is to read.
func show(field protoreflect.FieldDescriptor, value protoreflect.Value) (any, error) {
	if isSecret(field) {
		return json.RawMessage(secret), nil
	}
	switch {
	case field.IsList():
		var list []any
		for i := range value.List().Len() {
			one, err := showOne(field, value.List().Get(i))
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		return list, nil
	case field.IsMap():
		all := map[string]any{}
		var failed error
		value.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
			all[key.String()], failed = showOne(field.MapValue(), v)
			return failed == nil
		})
		return all, failed
	}
	return showOne(field, value)
}

func showOne(field protoreflect.FieldDescriptor, value protoreflect.Value) (any, error) {
	switch field.Kind() {
	case protoreflect.BytesKind:
		b := value.Bytes()
		if strings.HasPrefix(string(field.Name()), "sealed") {
			return sealedValue + base64.StdEncoding.EncodeToString(b), nil
		}
		name := strings.TrimSuffix(string(field.Name()), "s")
		if id, err := contract.IDFrom(b); err == nil && strings.HasSuffix(name, "_id") {
			return id.String(), nil
		}
		return fmt.Sprintf("(%d bytes)", len(b)), nil
	case protoreflect.EnumKind:
		if v := field.Enum().Values().ByNumber(value.Enum()); v != nil {
			return string(v.Name()), nil
		}
		return int32(value.Enum()), nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if isWellKnown(field.Message()) {
			raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(value.Message().Interface())
			if err != nil {
				return nil, err
			}
			var plain any // protojson spaces at random, on purpose
			return plain, json.Unmarshal(raw, &plain)
		}
		inner := map[string]string{}
		if err := flatten(inner, "", value.Message()); err != nil {
			return nil, err
		}
		out := map[string]json.RawMessage{}
		for path, text := range inner {
			if text != empty {
				out[path] = json.RawMessage(text)
			}
		}
		return out, nil
	default:
		return value.Interface(), nil
	}
}

// isSecret holds for what is marked so in the contract, and for words that are named like
// secrets: no event should hold any, and one that does by mistake is not repeated here.
func isSecret(field protoreflect.FieldDescriptor) bool {
	if options, ok := field.Options().(*descriptorpb.FieldOptions); ok && options.GetDebugRedact() {
		return true
	}
	name := string(field.Name())
	if field.Kind() != protoreflect.StringKind && field.Kind() != protoreflect.BytesKind || strings.HasSuffix(name, "_id") {
		return false
	}
	for _, word := range []string{"password", "secret", "token", "private", "sha256", "hash", "recovery"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
