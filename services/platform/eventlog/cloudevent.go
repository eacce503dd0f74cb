package eventlog

import (
	"fmt"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
)

// Header is the set of headers of a message. It is what nats.Header is, and
// names are matched exactly, as NATS does.
type Header map[string][]string

func (h Header) get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (h Header) set(name, value string) {
	if value != "" {
		h[name] = []string{value}
	}
}

// HeaderOf returns the CloudEvents headers of an event.
func HeaderOf(e Event) Header {
	h := make(Header, 10)
	h.set(contract.HeaderSpecVersion, contract.SpecVersion)
	h.set(contract.HeaderID, e.ID)
	h.set(contract.HeaderType, e.Type)
	h.set(contract.HeaderSource, e.Source)
	h.set(contract.HeaderSubject, e.Subject)
	h.set(contract.HeaderTime, e.Time.UTC().Format(time.RFC3339Nano))
	h.set(contract.HeaderContentType, contract.ContentTypeProtobuf)
	h.set(contract.HeaderCommand, e.Command)
	h.set(contract.HeaderCommandDigest, e.CommandDigest)
	h.set(contract.HeaderActor, e.Actor)
	h.set(contract.HeaderOrigin, e.Origin)
	h.set(contract.HeaderTraceParent, e.TraceParent)
	return h
}

// FromMessage reads a message of the log back into an event. A message without
// an id, a type or a readable time is ErrInvalid: it was not written by a Log.
func FromMessage(subject string, header map[string][]string, data []byte, position Position) (Event, error) {
	h := Header(header)
	e := Event{
		ID:            h.get(contract.HeaderID),
		Type:          h.get(contract.HeaderType),
		Source:        h.get(contract.HeaderSource),
		Command:       h.get(contract.HeaderCommand),
		CommandDigest: h.get(contract.HeaderCommandDigest),
		Actor:         h.get(contract.HeaderActor),
		Origin:        h.get(contract.HeaderOrigin),
		TraceParent:   h.get(contract.HeaderTraceParent),
		Data:          data,
		Subject:       subject,
		Position:      position,
	}
	if v := h.get(contract.HeaderSpecVersion); v != contract.SpecVersion {
		return e, fmt.Errorf("eventlog: message %d on %s: %s is %q, not %q: %w", position, subject, contract.HeaderSpecVersion, v, contract.SpecVersion, ErrInvalid)
	}
	if e.ID == "" || e.Type == "" {
		return e, fmt.Errorf("eventlog: message %d on %s has no %s or no %s: %w", position, subject, contract.HeaderID, contract.HeaderType, ErrInvalid)
	}
	if v := h.get(contract.HeaderContentType); v != contract.ContentTypeProtobuf {
		return e, fmt.Errorf("eventlog: message %d on %s: content type %q, not %q: %w", position, subject, v, contract.ContentTypeProtobuf, ErrInvalid)
	}
	t, err := time.Parse(time.RFC3339Nano, h.get(contract.HeaderTime))
	if err != nil {
		return e, fmt.Errorf("eventlog: message %d on %s: %s: %v: %w", position, subject, contract.HeaderTime, err, ErrInvalid)
	}
	e.Time = t.UTC()
	return e, nil
}
