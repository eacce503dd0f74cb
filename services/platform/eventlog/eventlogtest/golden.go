package eventlogtest

import (
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// Update makes golden files that are missing. It never changes one that exists:
// what was once written to a log stays readable as it was.
var update = flag.Bool("update", false, "make golden files that are missing")

// Golden checks that every type of event in the registry is still read as it was
// when its golden file was made, and has such a file: dir/<type>.golden, two
// lines, the event's bytes in hexadecimal and what the registry reads from them
// as text. A type that is lifted is read as what it becomes today.
func Golden(t *testing.T, registry *eventlog.Registry, dir string) {
	t.Helper()
	for _, eventType := range registry.Types() {
		t.Run(eventType, func(t *testing.T) {
			path := filepath.Join(dir, eventType+".golden")
			content, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && *update {
				content = makeGolden(t, registry, eventType, path)
			} else if err != nil {
				t.Fatalf("%v; run this test with -update and commit the file", err)
			}
			data, want, ok := strings.Cut(string(content), "\n") // an event may say nothing but its type
			if !ok {
				t.Fatalf("%s has no two parts", path)
			}
			raw, err := hex.DecodeString(strings.TrimSpace(data))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			got, err := registry.Decode(eventlog.Event{Type: eventType, Data: raw})
			if err != nil {
				t.Fatal(err)
			}
			expected := got.ProtoReflect().New().Interface()
			if err := prototext.Unmarshal([]byte(want), expected); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if !proto.Equal(got, expected) {
				t.Errorf("%s is read as\n%v\nand was\n%v", path, got, expected)
			}
		})
	}
	leftOver(t, registry, dir)
}

// leftOver finds golden files of types that the registry has lost.
func leftOver(t *testing.T, registry *eventlog.Registry, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if eventType := strings.TrimSuffix(filepath.Base(file), ".golden"); !registry.Knows(eventType) {
			t.Errorf("%s: the registry cannot read %s any more, but logs hold it", file, eventType)
		}
	}
}

func makeGolden(t *testing.T, registry *eventlog.Registry, eventType, path string) []byte {
	t.Helper()
	m := registry.Empty(eventType)
	fill(m.ProtoReflect(), 1)
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	current, err := registry.Decode(eventlog.Event{Type: eventType, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	content := []byte(hex.EncodeToString(data) + "\n" + prototext.MarshalOptions{Multiline: true}.Format(current))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return content
}

// fill gives every field of a message a value that is not its default, so that
// a golden file covers all of them. Of a oneof it fills the first field.
func fill(m protoreflect.Message, depth int) {
	const maxDepth = 6
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if oneof := f.ContainingOneof(); oneof != nil && oneof.Fields().Get(0) != f {
			continue
		}
		isMessage := f.Kind() == protoreflect.MessageKind || f.Kind() == protoreflect.GroupKind
		if isMessage && depth == maxDepth {
			continue
		}
		switch {
		case f.IsMap():
			value := m.NewField(f)
			element := value.Map().NewValue()
			if f.MapValue().Kind() == protoreflect.MessageKind {
				fill(element.Message(), depth+1)
			} else {
				element = scalar(f.MapValue())
			}
			value.Map().Set(scalar(f.MapKey()).MapKey(), element)
			m.Set(f, value)
		case f.IsList():
			value := m.NewField(f)
			if isMessage {
				fill(value.List().AppendMutable().Message(), depth+1)
			} else {
				value.List().Append(scalar(f))
			}
			m.Set(f, value)
		case isMessage:
			fill(m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, scalar(f))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := int64(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("0123456789abcdef"))
	default:
		return protoreflect.ValueOfString(string(f.Name()))
	}
}
