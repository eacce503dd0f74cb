package console

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cetrus/cetrus/services/platform/authn"
)

// fullServices answer everything with one of each, all of whose fields are filled.
type fullServices struct {
	services
	empty bool
}

func (s *fullServices) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	fillMessage(reply.(proto.Message).ProtoReflect(), 0, s.empty)
	return nil
}

// fillMessage fills a message: with what says nothing, but for zones, where it is to be empty.
func fillMessage(m protoreflect.Message, depth int, empty bool) {
	switch special := m.Interface().(type) {
	case *timestamppb.Timestamp:
		special.Seconds = time.Now().Unix()
		return
	case *durationpb.Duration:
		special.Seconds = 90
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		single := func() (protoreflect.Value, bool) {
			switch field.Kind() {
			case protoreflect.StringKind:
				return protoreflect.ValueOfString(map[bool]string{true: "UTC", false: `0198-"><script>`}[field.Name() == "time_zone"]), true
			case protoreflect.BoolKind:
				return protoreflect.ValueOfBool(true), true
			case protoreflect.EnumKind:
				return protoreflect.ValueOfEnum(1), true
			case protoreflect.Int32Kind:
				return protoreflect.ValueOfInt32(3), true
			case protoreflect.Int64Kind:
				return protoreflect.ValueOfInt64(3), true
			case protoreflect.DoubleKind:
				return protoreflect.ValueOfFloat64(3), true
			default:
				return protoreflect.Value{}, false
			}
		}
		if field.Name() == "next_page_token" || field.IsMap() || empty && (field.IsList() || field.Kind() != protoreflect.MessageKind && field.Name() != "time_zone") || depth > 4 {
			continue
		}
		switch {
		case field.Kind() == protoreflect.MessageKind && field.IsList():
			fillMessage(m.Mutable(field).List().AppendMutable().Message(), depth+1, empty)
		case field.Kind() == protoreflect.MessageKind:
			fillMessage(m.Mutable(field).Message(), depth+1, empty)
		default:
			if value, ok := single(); ok && field.IsList() {
				m.Mutable(field).List().Append(value)
			} else if ok {
				m.Set(field, value)
			}
		}
	}
}

// Every page and every question is made of whatever the services answer, and holds no name as
// anything but text.
func TestEveryPageIsMade(t *testing.T) {
	paths := map[string]bool{}
	fill := strings.NewReplacer("{id}", "x", "{token}", "y")
	for _, p := range pages {
		paths[fill.Replace(p.path)] = p.path != "/now" // which is a stream
	}
	for _, a := range actions {
		paths[fill.Replace(a.path)] = true
	}
	for _, empty := range []bool{false, true} {
		s := &fullServices{empty: empty}
		s.privileges = authn.AllPrivileges()
		var log strings.Builder
		console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for path, wanted := range paths {
			if !wanted {
				continue
			}
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
			w := httptest.NewRecorder()
			console.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				t.Errorf("%s (empty: %v) is answered %d: %s", path, empty, w.Code, log.String())
			}
			if strings.Contains(w.Body.String(), `"><script>`) {
				t.Errorf("%s shows a name as it is: %s", path, w.Body)
			}
			log.Reset()
		}
	}
}

// What is sent to any action ends in a page or leads to one, whatever the services answer.
func TestEveryActionLeadsToAPage(t *testing.T) {
	s := &fullServices{}
	s.privileges = authn.AllPrivileges()
	var log strings.Builder
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range actions {
		path := strings.NewReplacer("{id}", "x", "{token}", "y").Replace(a.path)
		w := post(console, path, url.Values{"form": {"f"}, "address": {"m.example.com"}, "max_uses": {"1"}})
		if w.Code != http.StatusOK && w.Code != http.StatusSeeOther && w.Code != http.StatusUnprocessableEntity && w.Code != http.StatusConflict {
			t.Errorf("%s is answered %d: %s", path, w.Code, log.String())
		}
		if strings.Contains(w.Body.String(), `"><script>`) {
			t.Errorf("%s shows a name as it is", path)
		}
		log.Reset()
	}
}
