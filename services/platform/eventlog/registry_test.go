package eventlog_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/eventlog/eventlogtest"
)

// testRegistry once wrote a number in words, then as a number.
func testRegistry() *eventlog.Registry {
	return eventlog.NewRegistry(
		eventlog.Current[*wrapperspb.Int64Value]("cetrus.test.counted.v3"),
		eventlog.Upcast("cetrus.test.counted.v2", "cetrus.test.counted.v3",
			func(old *wrapperspb.Int32Value) (*wrapperspb.Int64Value, error) {
				return wrapperspb.Int64(int64(old.GetValue())), nil
			}),
		eventlog.Upcast("cetrus.test.counted.v1", "cetrus.test.counted.v2",
			func(old *wrapperspb.StringValue) (*wrapperspb.Int32Value, error) {
				return wrapperspb.Int32(int32(len(old.GetValue()))), nil
			}),
	)
}

func TestGolden(t *testing.T) {
	eventlogtest.Golden(t, testRegistry(), "testdata/events")
}

func TestDecodeLifts(t *testing.T) {
	data, err := proto.Marshal(wrapperspb.String("seven77"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := testRegistry().Decode(eventlog.Event{Type: "cetrus.test.counted.v1", Data: data})
	if err != nil || m.(*wrapperspb.Int64Value).GetValue() != 7 {
		t.Errorf("got %v, %v", m, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	if _, err := testRegistry().Decode(eventlog.Event{Type: "cetrus.test.counted.v9"}); !errors.Is(err, eventlog.ErrUnknownType) {
		t.Errorf("unknown type: %v", err)
	}
	if _, err := testRegistry().Decode(eventlog.Event{Type: "cetrus.test.counted.v3", Data: []byte{0xff}}); !errors.Is(err, eventlog.ErrInvalid) {
		t.Errorf("broken bytes: %v", err)
	}
	if _, err := testRegistry().Encode(wrapperspb.String("old")); !errors.Is(err, eventlog.ErrUnknownType) {
		t.Errorf("a message that is not written any more: %v", err)
	}
}

func TestRegistryRefusesMistakes(t *testing.T) {
	lift := func(*wrapperspb.Int32Value) (*wrapperspb.Int64Value, error) { return nil, nil }
	for name, options := range map[string][]eventlog.RegistryOption{
		"twice":            {eventlog.Current[*wrapperspb.Int64Value]("a"), eventlog.Current[*wrapperspb.Int32Value]("a")},
		"two current":      {eventlog.Current[*wrapperspb.Int64Value]("a"), eventlog.Current[*wrapperspb.Int64Value]("b")},
		"leads nowhere":    {eventlog.Upcast("a", "b", lift)},
		"leads to itself":  {eventlog.Upcast("a", "a", lift)},
		"leads in a round": {eventlog.Upcast("a", "b", lift), eventlog.Upcast("b", "a", lift)},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			eventlog.NewRegistry(options...)
		})
	}
}

// FuzzFromMessage feeds whatever may stand in a stream to the decoder.
func FuzzFromMessage(f *testing.F) {
	f.Add("1.0", "id", "cetrus.test.counted.v3", "2026-11-21T21:00:00Z", "application/protobuf", []byte{8, 7})
	f.Add("1.0", "", "", "", "", []byte{})
	f.Add("0.3", "id", "cetrus.test.counted.v1", "yesterday", "text/plain", []byte{0xff, 0xff})
	f.Add("1.0", "id", "cetrus.test.counted.v2", "9999-99-99T00:00:00Z", "application/protobuf", []byte(strings.Repeat("\x0a", 100)))
	registry := testRegistry()
	f.Fuzz(func(t *testing.T, version, id, eventType, time, content string, data []byte) {
		header := map[string][]string{
			"ce-specversion": {version}, "ce-id": {id}, "ce-type": {eventType}, "ce-time": {time}, "content-type": {content},
		}
		e, err := eventlog.FromMessage("ev.1.a.b.c.d", header, data, 1)
		if err != nil {
			if !errors.Is(err, eventlog.ErrInvalid) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		again, err := eventlog.FromMessage(e.Subject, eventlog.HeaderOf(e), e.Data, e.Position)
		if err != nil || !again.Time.Equal(e.Time) || again.ID != e.ID || again.Type != e.Type {
			t.Fatalf("read back as %+v (%v), was %+v", again, err, e)
		}
		if _, err := registry.Decode(e); err != nil && !errors.Is(err, eventlog.ErrInvalid) && !errors.Is(err, eventlog.ErrUnknownType) {
			t.Fatalf("an error of another kind: %v", err)
		}
	})
}
