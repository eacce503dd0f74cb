package manifest

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/rules"
)

// complete fills in what an application is where nothing says otherwise, so that two that mean the
// same are the same.
func complete(m proto.Message) {
	a, ok := m.(*meteringv1.Application)
	if !ok {
		return
	}
	a.DisplayName = strings.TrimSpace(a.GetDisplayName())
	if a.GetActivityGap().AsDuration() == 0 {
		a.ActivityGap = durationpb.New(rules.DefaultActivityGap)
	}
	if a.GetTimeout().AsDuration() == 0 {
		a.Timeout = durationpb.New(rules.DefaultTimeout)
	}
	if a.GetInstanceScope() == policyv1.InstanceScope_INSTANCE_SCOPE_UNSPECIFIED {
		a.InstanceScope = policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE
	}
	if a.GetDocumentReduction() == policyv1.DocumentReduction_DOCUMENT_REDUCTION_UNSPECIFIED {
		a.DocumentReduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING
	}
	if p := a.GetProjectPrompt(); p != nil && proto.Size(p) == 0 {
		a.ProjectPrompt = nil // one that asks nothing
	}
}

// Encode writes a document, its kind first. Of what an account has one of, says are the fields that
// are written.
func Encode(d *Document) ([]byte, error) {
	m := proto.Clone(d.Message)
	complete(m)
	root := &yaml.Node{Kind: yaml.MappingNode}
	add(root, "kind", text(d.Kind))
	k, _ := kindOf(d.Kind)
	fields := m.ProtoReflect().Descriptor().Fields()
	said := map[string]bool{}
	for _, name := range d.Says {
		said[name] = true
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		if key(f) == "" || k.named && !m.ProtoReflect().Has(f) || !k.named && !said[string(f.Name())] {
			continue
		}
		add(root, key(f), node(m.ProtoReflect(), f))
	}
	if d.Members != nil {
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, name := range *d.Members {
			list.Content = append(list.Content, text(name))
		}
		add(root, "members", list)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

func add(to *yaml.Node, name string, value *yaml.Node) {
	to.Content = append(to.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, value)
}

// text is a node that is read as a text again, whatever stands in it.
func text(value string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(value)
	if strings.Contains(value, "\n") {
		n.Style = yaml.DoubleQuotedStyle // one line, in which all is seen
	}
	return n
}

func node(m protoreflect.Message, f protoreflect.FieldDescriptor) *yaml.Node {
	if !f.IsList() {
		if f.Message() != nil && !m.Has(f) {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
		}
		return scalar(m.Get(f), f)
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	if m.Get(f).List().Len() == 0 {
		list.Style = yaml.FlowStyle
	}
	for i := range m.Get(f).List().Len() {
		list.Content = append(list.Content, scalar(m.Get(f).List().Get(i), f))
	}
	return list
}

func scalar(value protoreflect.Value, f protoreflect.FieldDescriptor) *yaml.Node {
	plain := func(tag, value string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
	}
	switch f.Kind() {
	case protoreflect.MessageKind:
		switch m := value.Message().Interface().(type) {
		case *durationpb.Duration:
			return text(Duration(m.AsDuration()))
		case *timestamppb.Timestamp:
			return text(m.AsTime().Format(time.RFC3339Nano))
		}
		below := &yaml.Node{Kind: yaml.MappingNode}
		fields := value.Message().Descriptor().Fields()
		for i := range fields.Len() {
			if g := fields.Get(i); key(g) != "" && value.Message().Has(g) {
				add(below, key(g), node(value.Message(), g))
			}
		}
		if len(below.Content) == 0 {
			below.Style = yaml.FlowStyle
		}
		return below
	case protoreflect.EnumKind:
		number := value.Enum()
		if v := f.Enum().Values().ByNumber(number); v != nil {
			return text(strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix(f.Enum()))))
		}
		return plain("!!int", strconv.Itoa(int(number)))
	case protoreflect.StringKind:
		return text(value.String())
	case protoreflect.BoolKind:
		return plain("!!bool", strconv.FormatBool(value.Bool()))
	default:
		return plain("!!int", value.String())
	}
}

// Duration is a time as people write it, and as ParseDuration reads it.
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
