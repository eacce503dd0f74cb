package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Limits of what is read, so that no file takes the machine with it.
const (
	maxFileBytes = 16 << 20
	maxDepth     = 32
	maxNodes     = 1 << 20
)

// Place is where something stands.
type Place struct {
	File         string
	Line, Column int
}

// String is as editors and terminals know it: file:line:column.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is something wrong in a file.
type Error struct {
	Place Place
	Text  string
}

// Error is the place and what is wrong there.
func (e *Error) Error() string { return e.Place.String() + ": " + e.Text }

// Document is one document: what is wanted of one thing.
type Document struct {
	Kind string
	// Message is what it says; names stand in it where the contract has ids.
	Message proto.Message
	// Members are the logins of a group, where it says so.
	Members *[]string
	// Says are the fields that it names, by their names in the contract; the rest of what an account
	// has one of is left as it is.
	Says  []string
	Place Place
	// places are those of all fields, by their paths in the contract: "rules[0].title".
	places map[string]Place
}

// Name is what it is called; empty where an account has one of its kind.
func (d *Document) Name() string {
	if f := fieldOf(d.Message.ProtoReflect().Descriptor(), "name"); f != nil {
		return d.Message.ProtoReflect().Get(f).String()
	}
	return ""
}

// Title is its kind, with its name.
func (d *Document) Title() string {
	if name := d.Name(); name != "" {
		return d.Kind + " " + name
	}
	return d.Kind
}

// PlaceOf is where a field stands, or else what it is part of.
func (d *Document) PlaceOf(path string) Place {
	for path != "" {
		if place, ok := d.places[path]; ok {
			return place
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return d.Place
}

// Load reads documents from files and folders, whose *.yaml and *.yml files are read by name, folders
// in them too; "-" is stdin. All that is wrong is told at once.
func Load(paths []string, stdin io.Reader) ([]*Document, error) {
	var all []*Document
	var wrong []error
	take := func(name string, from io.Reader) {
		text, err := io.ReadAll(io.LimitReader(from, maxFileBytes+1))
		if err == nil && len(text) > maxFileBytes {
			err = fmt.Errorf("%s has more than %d MiB", name, maxFileBytes>>20)
		}
		if err != nil {
			wrong = append(wrong, err)
			return
		}
		documents, err := Decode(name, text)
		all = append(all, documents...)
		wrong = append(wrong, err)
	}
	for _, path := range paths {
		if path == "-" {
			take("stdin", stdin)
			continue
		}
		files, err := filesOf(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			take(file, f)
			if err := f.Close(); err != nil {
				return nil, err
			}
		}
	}
	first := map[string]*Document{}
	for _, d := range all {
		id := d.Kind + " " + Fold(d.Name())
		if before := first[id]; before != nil {
			wrong = append(wrong, &Error{d.Place, fmt.Sprintf("%s is there already, at %s", d.Title(), before.Place)})
		}
		first[id] = cmp.Or(first[id], d)
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	return all, nil
}

// filesOf are the files of a path.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		switch {
		case entry.IsDir() && strings.HasPrefix(name, ".") && at != path:
			return fs.SkipDir // .git and its like
		case !entry.IsDir() && (strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")):
			files = append(files, at)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s holds no *.yaml file", path)
	}
	return files, err
}

// syntaxLine is how the library tells the line of a mistake.
var syntaxLine = regexp.MustCompile(`^yaml: (?:unmarshal errors:\s*)?line (\d+): `)

// Decode reads the documents of a file. All that is wrong in it is told, as far as it can be read.
func Decode(file string, text []byte) ([]*Document, error) {
	var all []*Document
	var wrong []error
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return all, errors.Join(wrong...)
		}
		if err != nil { // what follows cannot be told apart any more
			place, said := Place{File: file}, strings.TrimPrefix(err.Error(), "yaml: ")
			if found := syntaxLine.FindStringSubmatch(err.Error()); found != nil {
				place.Line, _ = strconv.Atoi(found[1])
				place.Column, said = 1, err.Error()[len(found[0]):]
			}
			return all, errors.Join(append(wrong, &Error{place, "is no YAML: " + said})...)
		}
		r := &reader{file: file}
		if d := r.document(&node); d != nil {
			all = append(all, d)
		}
		wrong = append(wrong, r.wrong...)
	}
}

// reader reads one document.
type reader struct {
	file  string
	doc   *Document
	nodes int
	wrong []error
}

func (r *reader) place(n *yaml.Node) Place { return Place{r.file, n.Line, n.Column} }

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	r.wrong = append(r.wrong, &Error{r.place(n), fmt.Sprintf(format, args...)})
}

// follow is what an alias stands for.
func (r *reader) follow(n *yaml.Node, depth int) *yaml.Node {
	if r.nodes++; r.nodes > maxNodes || depth > maxDepth {
		if len(r.wrong) == 0 || r.nodes == maxNodes+1 {
			r.fail(n, "is nested too deep, or repeated too often by aliases")
		}
		return nil
	}
	for range maxDepth {
		if n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

// document reads a whole document; nil where it is empty or cannot be one.
func (r *reader) document(root *yaml.Node) *Document {
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 {
		return nil
	}
	n := r.follow(root.Content[0], 0)
	switch {
	case n == nil || n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return nil // as between two ---
	case n.Kind != yaml.MappingNode:
		r.fail(n, "is no document of cetrusctl: it begins with kind: %s", strings.Join(Kinds(), ", "))
		return nil
	}
	var k kind
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "kind" {
			value := n.Content[i+1]
			found, ok := kindOf(value.Value)
			if !ok {
				r.fail(value, "%q is no kind: it is one of %s", value.Value, strings.Join(Kinds(), ", "))
				return nil
			}
			k = found
		}
	}
	if k.name == "" {
		r.fail(n, "says no kind: it is one of %s", strings.Join(Kinds(), ", "))
		return nil
	}
	r.doc = &Document{Kind: k.name, Message: k.new(), Place: r.place(n), places: map[string]Place{}}
	r.message(n, r.doc.Message.ProtoReflect(), "", 0)
	if k.named && r.doc.Name() == "" && len(r.wrong) == 0 {
		r.fail(n, "has no name")
	}
	if len(r.wrong) > 0 {
		return nil
	}
	complete(r.doc.Message)
	return r.doc
}

// message reads a mapping.
func (r *reader) message(n *yaml.Node, m protoreflect.Message, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "is %s, and is to have %s", what(n), strings.Join(keys(m.Descriptor()), ", "))
		return
	}
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], r.follow(n.Content[i+1], depth)
		if value == nil {
			return
		}
		if before := seen[name.Value]; before != nil {
			r.fail(name, "%s is there already, in line %d", name.Value, before.Line)
			continue
		}
		seen[name.Value] = name
		if path == "" && name.Value == "kind" {
			continue
		}
		if path == "" && name.Value == "members" && r.doc.Kind == Group {
			r.members(value, depth)
			continue
		}
		f := fieldOf(m.Descriptor(), name.Value)
		if name.Kind != yaml.ScalarNode || f == nil {
			r.unknown(name, m.Descriptor(), path)
			continue
		}
		below := string(f.Name())
		if path != "" {
			below = path + "." + below
		} else {
			r.doc.Says = append(r.doc.Says, below)
		}
		r.doc.places[below] = r.place(value)
		if one := f.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if other := m.WhichOneof(one); other != nil {
				r.fail(name, "%s and %s exclude each other", key(other), name.Value)
				continue
			}
		}
		r.field(value, m, f, below, depth+1)
	}
}

func (r *reader) unknown(name *yaml.Node, m protoreflect.MessageDescriptor, path string) {
	known := keys(m)
	if path == "" {
		known = append([]string{"kind"}, known...)
		if r.doc.Kind == Group {
			known = append(known, "members")
		}
	}
	r.fail(name, "%q is not known here; known are %s", name.Value, strings.Join(known, ", "))
}

// members are the logins of a group.
func (r *reader) members(n *yaml.Node, depth int) {
	names := []string{}
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "members is %s, and is to be a list of logins' names", what(n))
		return
	}
	for _, item := range n.Content {
		if item = r.follow(item, depth+1); item == nil {
			return
		}
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" || strings.TrimSpace(item.Value) == "" {
			r.fail(item, "is %s, and is to be a login's name", what(item))
			continue
		}
		if slices.ContainsFunc(names, func(other string) bool { return Fold(other) == Fold(item.Value) }) {
			r.fail(item, "%s is a member already", item.Value)
			continue
		}
		r.doc.places[fmt.Sprintf("members[%d]", len(names))] = r.place(item)
		names = append(names, item.Value)
	}
	r.doc.places["members"] = r.place(n)
	r.doc.Members = &names
}

// field reads a value into a field.
func (r *reader) field(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, path string, depth int) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		if !f.IsList() && f.Message() == nil {
			r.fail(n, "is empty: leave %s out to have its default", key(f))
		}
		return // an empty list, or none of a message
	}
	if !f.IsList() {
		if value, ok := r.value(n, f, m.NewField(f), path, depth); ok {
			m.Set(f, value)
		}
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "%s is %s, and is to be a list", key(f), what(n))
		return
	}
	list := m.Mutable(f).List()
	for i, item := range n.Content {
		if item = r.follow(item, depth); item == nil {
			return
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		r.doc.places[at] = r.place(item)
		if value, ok := r.value(item, f, list.NewElement(), at, depth); ok {
			list.Append(value)
		}
	}
}

// value reads one value of a field's type; ok is false where it cannot be one.
func (r *reader) value(n *yaml.Node, f protoreflect.FieldDescriptor, empty protoreflect.Value, path string, depth int) (value protoreflect.Value, ok bool) {
	if f.Message() != nil {
		switch m := empty.Message().Interface().(type) {
		case *durationpb.Duration:
			d, err := ParseDuration(n.Value)
			if n.Kind != yaml.ScalarNode || err != nil {
				r.fail(n, "%s is %s, and is to be a time, as 90s, 30m, 1h30m", key(f), what(n))
				return value, false
			}
			return protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()), true
		case *timestamppb.Timestamp:
			t, err := time.Parse(time.RFC3339, n.Value)
			if n.Kind != yaml.ScalarNode || err != nil {
				r.fail(n, "%s is %s, and is to be a moment, as 2026-03-01T12:00:00Z", key(f), what(n))
				return value, false
			}
			return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), true
		default:
			before := len(r.wrong)
			r.message(n, m.ProtoReflect(), path, depth)
			return empty, len(r.wrong) == before
		}
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.fail(n, "%s is %s, and is to be %s", key(f), what(n), wanted(f))
		return value, false
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		if n.Tag != "!!str" && strings.HasPrefix(n.Tag, "!!binary") {
			break
		}
		return protoreflect.ValueOfString(n.Value), true
	case protoreflect.BoolKind:
		if b, err := strconv.ParseBool(n.Value); err == nil && n.Tag == "!!bool" {
			return protoreflect.ValueOfBool(b), true
		}
	case protoreflect.Int32Kind:
		if i, err := strconv.ParseInt(n.Value, 0, 32); err == nil && n.Tag == "!!int" {
			return protoreflect.ValueOfInt32(int32(i)), true
		}
	case protoreflect.Uint32Kind:
		if i, err := strconv.ParseUint(n.Value, 0, 32); err == nil && n.Tag == "!!int" {
			return protoreflect.ValueOfUint32(uint32(i)), true
		}
	case protoreflect.Int64Kind:
		if i, err := strconv.ParseInt(n.Value, 0, 64); err == nil && n.Tag == "!!int" {
			return protoreflect.ValueOfInt64(i), true
		}
	case protoreflect.EnumKind:
		full := prefix(f.Enum()) + strings.ToUpper(strings.ReplaceAll(n.Value, "-", "_"))
		if v := f.Enum().Values().ByName(protoreflect.Name(full)); v != nil && v.Number() != 0 {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
	default:
	}
	r.fail(n, "%s is %s, and is to be %s", key(f), what(n), wanted(f))
	return value, false
}

// what says what a node is, in few words.
func what(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "empty"
		}
		const most = 40
		text := []rune(n.Value)
		if len(text) > most {
			text = append(text[:most], '…')
		}
		return strconv.Quote(string(text))
	default:
		return "something else"
	}
}

// wanted says what a field takes.
func wanted(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.EnumKind:
		return "one of " + strings.Join(words(f.Enum()), ", ")
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.StringKind:
		return "a text"
	case protoreflect.MessageKind:
		return "a mapping"
	default:
		return "a whole number"
	}
}

func prefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().ByNumber(0).Name()), "UNSPECIFIED")
}

// words are the values of an enumeration in a file.
func words(e protoreflect.EnumDescriptor) []string {
	var all []string
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); v.Number() != 0 {
			all = append(all, strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix(e))))
		}
	}
	return all
}

// days in a duration: 30d.
var days = regexp.MustCompile(`^(\d{1,5})d$`)

// ParseDuration reads a time as people write it: 90s, 30m, 1h30m, 30d.
func ParseDuration(text string) (time.Duration, error) {
	if found := days.FindStringSubmatch(text); found != nil {
		n, err := strconv.Atoi(found[1])
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no time: write it as 90s, 30m, 1h30m or 30d", text)
	}
	return d, nil
}
