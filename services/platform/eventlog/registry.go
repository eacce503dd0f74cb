package eventlog

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
)

// ErrUnknownType means that a registry does not know an event's type: it was
// written by a newer version, or does not belong to this reader.
var ErrUnknownType = errors.New("unknown type of event")

// Registry names the types of a context's events and reads every version of
// them that was ever written. It is built once and then only read.
type Registry struct {
	kinds   map[string]kind
	current map[string]string // full name of the message → type
}

type kind struct {
	empty func() proto.Message
	next  string // type that lift leads to; empty for a current one
	lift  func(proto.Message) (proto.Message, error)
}

// RegistryOption adds one type of event to a registry.
type RegistryOption func(*Registry)

// Current registers the type that messages M are written as today.
func Current[M proto.Message](eventType string) RegistryOption {
	return func(r *Registry) {
		r.add(eventType, kind{empty: newMessage[M]})
		name := string(newMessage[M]().ProtoReflect().Descriptor().FullName())
		if other, ok := r.current[name]; ok {
			panic(fmt.Sprintf("eventlog: %s is the current message of both %s and %s", name, other, eventType))
		}
		r.current[name] = eventType
	}
}

// Upcast registers a type that is not written any more, and how it becomes the
// type next. Lifts follow one another until a current type is reached.
func Upcast[From, To proto.Message](eventType, next string, lift func(From) (To, error)) RegistryOption {
	return func(r *Registry) {
		r.add(eventType, kind{
			empty: newMessage[From],
			next:  next,
			lift: func(m proto.Message) (proto.Message, error) {
				return lift(m.(From))
			},
		})
	}
}

func newMessage[M proto.Message]() proto.Message {
	var zero M
	return zero.ProtoReflect().New().Interface()
}

// NewRegistry builds a registry. It panics on a type that comes twice or a lift
// that leads nowhere: both are mistakes in the program.
func NewRegistry(options ...RegistryOption) *Registry {
	r := &Registry{kinds: make(map[string]kind), current: make(map[string]string)}
	for _, option := range options {
		option(r)
	}
	for eventType := range r.kinds {
		seen := map[string]bool{}
		for t := eventType; t != ""; t = r.kinds[t].next {
			if _, ok := r.kinds[t]; !ok || seen[t] {
				panic(fmt.Sprintf("eventlog: %s is not lifted to a current type: %s is missing or comes again", eventType, t))
			}
			seen[t] = true
		}
	}
	return r
}

func (r *Registry) add(eventType string, k kind) {
	if _, ok := r.kinds[eventType]; ok {
		panic(fmt.Sprintf("eventlog: type %s is registered twice", eventType))
	}
	r.kinds[eventType] = k
}

// Types lists all types in their order.
func (r *Registry) Types() []string { return slices.Sorted(maps.Keys(r.kinds)) }

// Knows tells whether the registry can decode a type.
func (r *Registry) Knows(eventType string) bool {
	_, ok := r.kinds[eventType]
	return ok
}

// Empty returns an empty message of the type as it was written; nil if the type
// is unknown.
func (r *Registry) Empty(eventType string) proto.Message {
	k, ok := r.kinds[eventType]
	if !ok {
		return nil
	}
	return k.empty()
}

// Encode makes an event of a message: its type and its bytes.
func (r *Registry) Encode(m proto.Message) (Event, error) {
	name := m.ProtoReflect().Descriptor().FullName()
	eventType, ok := r.current[string(name)]
	if !ok {
		return Event{}, fmt.Errorf("eventlog: no type is registered for the message %s: %w", name, ErrUnknownType)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return Event{}, fmt.Errorf("eventlog: encode %s: %w", eventType, err)
	}
	return Event{Type: eventType, Data: data}, nil
}

// Decode reads an event's message and lifts it to the current version. The error
// is ErrUnknownType or ErrInvalid.
func (r *Registry) Decode(e Event) (proto.Message, error) {
	k, ok := r.kinds[e.Type]
	if !ok {
		return nil, fmt.Errorf("eventlog: event %s at %d: %q: %w", e.ID, e.Position, e.Type, ErrUnknownType)
	}
	m := k.empty()
	if err := proto.Unmarshal(e.Data, m); err != nil {
		return nil, fmt.Errorf("eventlog: event %s at %d is no %s: %v: %w", e.ID, e.Position, e.Type, err, ErrInvalid)
	}
	for k.next != "" {
		var err error
		if m, err = k.lift(m); err != nil {
			return nil, fmt.Errorf("eventlog: event %s at %d: lift to %s: %v: %w", e.ID, e.Position, k.next, err, ErrInvalid)
		}
		k = r.kinds[k.next]
	}
	return m, nil
}
