package eventlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/propagation"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Position is the sequence number of an event in its stream; 0 stands before
// the first one.
type Position uint64

// Event is one fact about an aggregate, as it stands in the log.
type Event struct {
	// ID is the event's own, for ever; also the idempotency key of whoever acts
	// on it. Append draws one where it is empty.
	ID string
	// Type is the CloudEvents type with its version:
	// cetrus.metering.application.defined.v1.
	Type string
	// Source is the context that decided: /cetrus/metering. Append takes it from
	// the subject where it is empty.
	Source string
	// Time is when it was decided, in UTC. Append takes the present where it is
	// zero.
	Time time.Time
	// Command is the id of the command that it comes from; may be empty.
	Command string
	// CommandDigest tells what that command asked for; may be empty.
	CommandDigest string
	// Actor names who gave the command; may be empty.
	Actor string
	// Origin is from where, sealed (see WithOrigin). Append takes it from its ctx where it
	// is empty; may be empty.
	Origin string
	// TraceParent is the W3C trace context of the decision. Append takes it from
	// its ctx where it is empty.
	TraceParent string
	// Data is the serialized protobuf message.
	Data []byte

	// Subject and Position are where it stands; Append ignores them.
	Subject  string
	Position Position
}

// Write is what is to be appended to one subject.
type Write struct {
	// Subject of the aggregate, without wildcards: contract.EventSubject.
	Subject string
	// Expected is the position of the subject's last event, 0 for none.
	Expected Position
	// Events to append, at least one.
	Events []Event
}

// MaxWrite is the greatest number of events in one Append or AppendAll.
const MaxWrite = 1000

// Log keeps the events of aggregates.
type Log interface {
	// Load returns all events of the subject in their order, and the position of
	// the last one; 0 if there is none. What was appended a moment ago may be
	// missing, where a replica answers that lags behind; never a part in the
	// middle.
	Load(ctx context.Context, subject string) ([]Event, Position, error)

	// Each hands over what Load returns, one after the other: of a long history only a part
	// is in memory. An error of take ends it, and comes back as it is.
	Each(ctx context.Context, subject string, take func(Event) error) (Position, error)

	// Last returns the position of the subject's last event, 0 for none, as the
	// stream's leader knows it.
	Last(ctx context.Context, subject string) (Position, error)

	// Append appends the events if the subject's last position is the expected
	// one, all or none, and returns the position of the last of them.
	//
	// The error is ErrConflict if somebody else has appended; ErrUnknownOutcome
	// if ctx ended before it was known whether the events are in the log; any
	// other error says that they are not: ErrUnavailable, ErrInvalid, the error
	// of a ctx that was cancelled.
	Append(ctx context.Context, subject string, expected Position, events ...Event) (Position, error)

	// AppendAll does the same for several subjects at once, all or none.
	AppendAll(ctx context.Context, writes ...Write) (Position, error)
}

// op is how this package's errors name it.
const op = "eventlog"

// The errors that callers tell apart with errors.Is. Each has its kind, so that
// a service may pass it on as it is.
var (
	// ErrConflict means that the subject has other events behind the expected
	// position: load again, decide again.
	ErrConflict error = errs.New(errs.Conflict, op, "", "it was changed by somebody else in the meantime; read it again, then repeat")

	// ErrUnknownOutcome means that the events may or may not be in the log, now
	// or a little later. Only the same command id may be tried again.
	ErrUnknownOutcome error = errs.New(errs.Unavailable, op, "", "it is not known whether the change was recorded; repeat it with the same request id").
				WithReason("UNKNOWN_OUTCOME")

	// ErrCommandReused means that a command of this id is recorded that asked for
	// something else.
	ErrCommandReused error = errs.New(errs.AlreadyExists, op, "", "this request id belongs to another request, which was carried out; nothing was changed now: give each request an id of its own, or repeat that one unchanged").
				WithReason("REQUEST_ID_REUSED")

	// ErrUnavailable means that the log did not answer in time, and nothing was
	// changed.
	ErrUnavailable error = errs.New(errs.Unavailable, op, "", "the event log does not answer; nothing was changed, repeat it in a while")

	// ErrInvalid means that a subject or an event cannot be in the log at all, or
	// that what is in the log is no event.
	ErrInvalid = errors.New("not a valid event")
)

// checkSubject refuses what would make an expectation cover more than one
// aggregate. On a replicated stream two writers with different wildcards both
// succeed.
func checkSubject(subject string) error {
	if subject == "" {
		return fmt.Errorf("eventlog: the subject is empty: %w", ErrInvalid)
	}
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n\x00") {
			return fmt.Errorf("eventlog: subject %q has an empty token, a wildcard or a space: %w", subject, ErrInvalid)
		}
	}
	return nil
}

// prepare checks the writes and returns a copy in which every event is complete,
// so that each attempt sends the same bytes.
func prepare(ctx context.Context, writes []Write) ([]Write, error) {
	total, origin := 0, ""
	seen := make(map[string]bool, len(writes))
	out := make([]Write, len(writes))
	for i, w := range writes {
		if err := checkSubject(w.Subject); err != nil {
			return nil, err
		}
		if seen[w.Subject] {
			return nil, fmt.Errorf("eventlog: subject %q comes twice in one append: %w", w.Subject, ErrInvalid)
		}
		seen[w.Subject] = true
		if len(w.Events) == 0 {
			return nil, fmt.Errorf("eventlog: nothing to append to %q: %w", w.Subject, ErrInvalid)
		}
		total += len(w.Events)
		events := make([]Event, len(w.Events))
		for j, e := range w.Events {
			if e.Type == "" {
				return nil, fmt.Errorf("eventlog: an event for %q has no type: %w", w.Subject, ErrInvalid)
			}
			if e.Origin == "" {
				if origin == "" {
					var err error
					if origin, err = SealedOrigin(ctx); err != nil {
						return nil, err
					}
				}
				e.Origin = origin
			}
			events[j] = complete(ctx, w.Subject, e)
			if err := checkHeaders(events[j]); err != nil {
				return nil, err
			}
		}
		out[i] = Write{Subject: w.Subject, Expected: w.Expected, Events: events}
	}
	if total == 0 || total > MaxWrite {
		return nil, fmt.Errorf("eventlog: %d events in one append, not 1 to %d: %w", total, MaxWrite, ErrInvalid)
	}
	return out, nil
}

func complete(ctx context.Context, subject string, e Event) Event {
	if e.ID == "" {
		e.ID = uuid.Must(uuid.NewV7()).String()
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	if e.Source == "" {
		e.Source = sourceOf(subject)
	}
	if e.TraceParent == "" {
		carrier := propagation.MapCarrier{}
		propagation.TraceContext{}.Inject(ctx, carrier)
		e.TraceParent = carrier[contract.HeaderTraceParent]
	}
	e.Subject = subject
	return e
}

// sourceOf is the context in ev.<p>.<account>.<context>.<aggregate>.<id>.
func sourceOf(subject string) string {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 4 {
		return "/cetrus"
	}
	return "/cetrus/" + tokens[3]
}

// checkHeaders refuses what could not be read back out of a header.
func checkHeaders(e Event) error {
	for _, v := range []string{e.ID, e.Type, e.Source, e.Command, e.CommandDigest, e.Actor, e.Origin, e.TraceParent} {
		if strings.ContainsAny(v, "\r\n\x00") || strings.TrimSpace(v) != v {
			return fmt.Errorf("eventlog: %q in an event for %q cannot stand in a header: %w", v, e.Subject, ErrInvalid)
		}
	}
	return nil
}
