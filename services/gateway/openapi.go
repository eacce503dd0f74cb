package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"go.yaml.in/yaml/v3"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// object is a JSON object of the document.
type object = map[string]any

const schemaPrefix = "#/components/schemas/"

// completeOpenAPI makes the document that is served out of the one that the
// generator wrote, adding from the descriptors what the generator does not say:
// how to authenticate, who may call what, response_body, streams, what is required, and the limits
// that requests are checked against.
func completeOpenAPI(document []byte, ops map[string]*operation) ([]byte, error) {
	var doc object
	if err := yaml.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("gateway: OpenAPI document: %w", err)
	}
	doc["info"] = object{
		"title":   "Cetrus",
		"version": "v1",
		"description": "Who uses which application, on which file, and is the person really working with it.\n\n" +
			"Send an API key as `Authorization: Bearer cetrus_…` or as `X-API-Key: cetrus_…`. Times are RFC 3339, durations seconds (`90s`, `0.5s`), " +
			"64-bit numbers are written as text. Errors are `google.rpc.Status`. Lists go on with `page_token`.",
		"license": object{"name": "Apache-2.0"},
	}
	doc["servers"] = []any{object{"url": "/"}}
	doc["security"] = []any{object{"bearer": []any{}}, object{"apiKey": []any{}}}

	byID := map[string]*operation{}
	for _, op := range ops {
		byID[op.id] = op
	}
	paths, _ := doc["paths"].(object)
	for _, item := range paths {
		verbs, _ := item.(object)
		for _, v := range verbs {
			described, _ := v.(object)
			id, _ := described["operationId"].(string)
			op, ok := byID[id]
			if !ok {
				return nil, fmt.Errorf("gateway: the OpenAPI document has %q, which is no method that is served", id)
			}
			delete(byID, id)
			op.describe(described)
			tags, _ := described["tags"].([]any)
			for i := range tags {
				tags[i] = tagName(tags[i])
			}
		}
	}
	for id := range byID {
		return nil, fmt.Errorf("gateway: the OpenAPI document lacks %q: generate it again", id)
	}

	if err := shareTemplates(paths); err != nil {
		return nil, err
	}
	nameTags(doc)

	components, _ := doc["components"].(object)
	schemas, _ := components["schemas"].(object)
	components["securitySchemes"] = object{
		"bearer": object{"type": "http", "scheme": "bearer", "description": "An API key, cetrus_…"},
		"apiKey": object{"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a header of its own."},
	}
	for name, s := range schemas {
		desc, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		msg, ok := desc.(protoreflect.MessageDescriptor)
		if err != nil || !ok || !strings.HasPrefix(name, "cetrus.") {
			continue
		}
		describeMessage(msg, s.(object))
	}
	prune(doc, schemas)
	tidy(doc)
	return json.Marshal(doc)
}

// shareTemplates puts operations on one resource under one path. A binding names
// the field of the request that a variable fills, {application.application_id} in
// an update and {application_id} elsewhere; to OpenAPI the two are one path, which
// a document may name once only. The last word names the variable.
func shareTemplates(paths object) error {
	for _, template := range slices.Sorted(maps.Keys(paths)) {
		item, _ := paths[template].(object)
		short := variable.ReplaceAllStringFunc(template, func(v string) string { return "{" + lastWord(v[1:len(v)-1]) + "}" })
		if short == template {
			continue
		}
		for _, v := range item {
			described, _ := v.(object)
			params, _ := described["parameters"].([]any)
			for _, p := range params {
				if param, _ := p.(object); param["in"] == "path" {
					name, _ := param["name"].(string)
					param["name"] = lastWord(name)
				}
			}
		}
		shared, ok := paths[short].(object)
		if !ok {
			shared = object{}
			paths[short] = shared
		}
		for verb, described := range item {
			if shared[verb] != nil {
				return fmt.Errorf("gateway: %s %s is bound twice, the second time as %s", strings.ToUpper(verb), short, template)
			}
			shared[verb] = described
		}
		delete(paths, template)
	}
	return nil
}

var variable = regexp.MustCompile(`\{[^{}]+\}`)

func lastWord(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// nameTags gives the headings of the page words in place of services' names.
func nameTags(doc object) {
	tags, _ := doc["tags"].([]any)
	for _, t := range tags {
		tag, _ := t.(object)
		service, _ := tag["name"].(string)
		tag["name"] = tagName(service)
		if text, ok := tag["description"].(string); ok {
			if text = strings.TrimPrefix(unwrap(text), service+" "); text != "" {
				tag["description"] = strings.ToUpper(text[:1]) + text[1:]
			}
		}
	}
}

// tagName is the heading of a service: ApplicationService has Applications.
func tagName(service any) string {
	name, _ := service.(string)
	switch name = strings.TrimSuffix(name, "Service"); name {
	case "Application", "Account", "Login", "Group":
		return name + "s"
	case "ApiKey":
		return "API keys"
	case "Settings":
		return "Metering settings"
	}
	return name
}

// describe completes one operation of the document.
func (op *operation) describe(described object) {
	if text, ok := described["description"].(string); ok {
		first, _, _ := strings.Cut(unwrap(text), ". ")
		described["summary"] = strings.TrimSuffix(strings.TrimPrefix(first, string(op.method.Name())+" "), ".")
		described["description"] = text + "\n\nWho may call it: " + op.rule.String() + "."
	}
	if op.rule.Anybody() {
		described["security"] = []any{}
	}
	params, _ := described["parameters"].([]any)
	for _, p := range params {
		param := p.(object)
		name, _ := param["name"].(string)
		if f := fieldAt(op.method.Input(), name); f != nil {
			if requiredAt(op.method.Input(), name) {
				param["required"] = true
			}
			limit(f, param["schema"].(object), true)
		}
	}
	responses, _ := described["responses"].(object)
	ok, _ := responses["200"].(object)
	whole := object{"$ref": schemaPrefix + string(op.method.Output().FullName())}
	switch {
	case sendsDocuments(op):
		file := object{"type": "string", "format": "binary"}
		ok["content"] = object{"*/*": object{"schema": file}}
	case op.method.IsStreamingServer():
		line := object{
			"type":        "object",
			"description": "One line, or the data of one event: a result, or the error that ended the stream.",
			"properties":  object{"result": whole, "error": object{"$ref": schemaPrefix + "google.rpc.Status"}},
		}
		ok["content"] = object{mediaLines: object{"schema": line}, mediaEvents: object{"schema": line}}
	case op.ResponseBody != "":
		f := op.method.Output().Fields().ByName(protoreflect.Name(op.ResponseBody))
		if f != nil && f.Message() != nil && !f.IsList() {
			ok["content"] = object{"application/json": object{"schema": object{"$ref": schemaPrefix + string(f.Message().FullName())}}}
		}
	}
}

// fieldAt finds a field by its dotted path.
func fieldAt(msg protoreflect.MessageDescriptor, path string) protoreflect.FieldDescriptor {
	name, rest, deeper := strings.Cut(path, ".")
	f := msg.Fields().ByName(protoreflect.Name(name))
	if f == nil || !deeper {
		return f
	}
	if f.Message() == nil {
		return nil
	}
	return fieldAt(f.Message(), rest)
}

// requiredAt tells whether a request without the field of a dotted path is refused: what is
// required within something that may be left out is not.
func requiredAt(msg protoreflect.MessageDescriptor, path string) bool {
	name, rest, deeper := strings.Cut(path, ".")
	f := msg.Fields().ByName(protoreflect.Name(name))
	if f == nil || !isRequired(f) {
		return false
	}
	return !deeper || requiredAt(f.Message(), rest)
}

// describeMessage adds what is required and the limits of fields to a schema.
func describeMessage(msg protoreflect.MessageDescriptor, schema object) {
	properties, _ := schema["properties"].(object)
	var required []any
	for i := range msg.Fields().Len() {
		f := msg.Fields().Get(i)
		property, ok := properties[string(f.Name())].(object)
		if !ok {
			continue
		}
		if isRequired(f) {
			required = append(required, string(f.Name()))
		}
		if _, isRef := property["$ref"]; !isRef { // in OpenAPI 3.0 nothing may stand beside a $ref
			limit(f, property, false)
		}
	}
	if len(required) > 0 {
		schema["required"] = required
	}
}

func isRequired(f protoreflect.FieldDescriptor) bool {
	behaviors, _ := proto.GetExtension(f.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	return slices.Contains(behaviors, annotations.FieldBehavior_REQUIRED) || rules(f).GetRequired()
}

func rules(f protoreflect.FieldDescriptor) *validate.FieldRules {
	r, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	return r
}

// limit writes the rules of a field that JSON Schema can say.
func limit(f protoreflect.FieldDescriptor, schema object, inQuery bool) {
	r := rules(f)
	if f.IsList() {
		if n := r.GetRepeated().GetMinItems(); n > 0 {
			schema["minItems"] = n
		}
		if r.GetRepeated().HasMaxItems() {
			schema["maxItems"] = r.GetRepeated().GetMaxItems()
		}
		if r.GetRepeated().GetUnique() {
			schema["uniqueItems"] = true
		}
		items, ok := schema["items"].(object)
		if !ok {
			return
		}
		schema, r = items, r.GetRepeated().GetItems()
	}
	if s := r.GetString(); s != nil {
		if s.GetUuid() {
			schema["format"] = "uuid"
		}
		if s.HasMinLen() {
			schema["minLength"] = s.GetMinLen()
		}
		if s.HasMaxLen() {
			schema["maxLength"] = s.GetMaxLen()
		}
	}
	if n := r.GetInt32(); n != nil {
		if n.HasGte() {
			schema["minimum"] = n.GetGte()
		}
		if n.HasLte() {
			schema["maximum"] = n.GetLte()
		}
	}
	if values, ok := schema["enum"].([]any); ok && f.Enum() != nil && inQuery {
		// The zero value says nothing that leaving the parameter out does not, and
		// values may be written short.
		schema["enum"] = slices.DeleteFunc(slices.Clone(values), func(v any) bool { return v == string(f.Enum().Values().ByNumber(0).Name()) })
		schema["description"] = "May be written short: " + strings.TrimPrefix(expected(f), "one of ") + "."
	}
}

// prune removes the schemas that nothing refers to.
func prune(doc, schemas object) {
	used := map[string]bool{}
	var walk func(any)
	walk = func(node any) {
		switch n := node.(type) {
		case object:
			if ref, ok := n["$ref"].(string); ok {
				if name := strings.TrimPrefix(ref, schemaPrefix); !used[name] {
					used[name] = true
					walk(schemas[name])
				}
			}
			for _, child := range n {
				walk(child)
			}
		case []any:
			for _, child := range n {
				walk(child)
			}
		}
	}
	walk(doc["paths"])
	for name := range schemas {
		if !used[name] {
			delete(schemas, name)
		}
	}
}

// tidy joins the lines of comments into sentences, and drops the format "enum",
// which no reader knows.
func tidy(node any) {
	switch n := node.(type) {
	case object:
		if text, ok := n["description"].(string); ok {
			n["description"] = unwrap(text)
		}
		if n["format"] == "enum" {
			delete(n, "format")
		}
		for _, child := range n {
			tidy(child)
		}
	case []any:
		for _, child := range n {
			tidy(child)
		}
	}
}

// unwrap joins the lines of a comment; the generator leaves a space before each.
func unwrap(comment string) string { return strings.ReplaceAll(comment, "\n ", " ") }
