package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"
)

// maxConflicts bounds how often one command is decided anew. Writers of one
// aggregate are people; this many losses in a row mean that something else is
// wrong.
const maxConflicts = 50

// Command says where a decision comes from.
type Command struct {
	// ID makes the command happen at most once on its aggregate: the request id
	// of the caller. Empty: it has none, and a repetition is another command.
	ID string
	// Digest tells what the command asks for. A command of a recorded ID with
	// another digest is ErrCommandReused; empty, or recorded as empty: anything
	// is the same.
	Digest string
	// Actor names who gave it.
	Actor string
	// At is when it was decided, where that was before now; zero: now.
	At time.Time
}

// Repository loads aggregates of one kind and runs commands on them. S is the
// aggregate's state, a value or a pointer.
type Repository[S any] struct {
	Log      Log
	Registry *Registry
	// New returns the state before the first event.
	New func() S
	// Apply returns the state after an event, a message of the registry. It must
	// accept whatever was once recorded; an error means that the log holds what
	// cannot be, and stops the command.
	Apply func(S, proto.Message) (S, error)
}

// Result is what a command led to.
type Result[S any] struct {
	// State of the aggregate after the command, and after whatever followed it.
	State S
	// Position of the command's last event, for a reader to wait for; where the
	// command changed nothing, that of the aggregate's last event.
	Position Position
	// Repeated: the command had been recorded before; nothing was appended now.
	Repeated bool
}

// Load returns the aggregate's state and the position of its last event, 0 if
// there is no event.
func (r *Repository[S]) Load(ctx context.Context, subject string) (S, Position, error) {
	state, last, _, err := r.load(ctx, subject, Command{})
	return state, last, err
}

// Execute loads the aggregate, lets decide choose the events that follow, and
// appends them; on a conflict it starts again. decide must be pure: it may run
// several times. It returns no events where nothing is to change, or an error
// that Execute passes on as it is.
//
// ErrUnknownOutcome: give the same command again.
func (r *Repository[S]) Execute(ctx context.Context, subject string, command Command, decide func(S) ([]proto.Message, error)) (Result[S], error) {
	var none Result[S]
	for attempt := range maxConflicts {
		if attempt > 0 {
			if err := pause(ctx, attempt); err != nil {
				return none, err
			}
		}
		state, last, done, err := r.load(ctx, subject, command)
		if err != nil {
			return none, err
		}
		if done > 0 {
			return Result[S]{State: state, Position: done, Repeated: true}, nil
		}
		decided, err := decide(state)
		if err != nil || len(decided) == 0 {
			// A refusal appends nothing, so nothing would show that it rests on a
			// state from a replica that lags.
			fresh, lastErr := r.Log.Last(ctx, subject)
			if lastErr != nil {
				return none, lastErr
			}
			if fresh != last {
				continue
			}
			return Result[S]{State: state, Position: last}, err
		}
		events := make([]Event, len(decided))
		for i, m := range decided {
			if events[i], err = r.Registry.Encode(m); err != nil {
				return none, err
			}
			events[i].Command, events[i].CommandDigest, events[i].Actor = command.ID, command.Digest, command.Actor
			events[i].Time = command.At
			if state, err = r.Apply(state, m); err != nil {
				return none, fmt.Errorf("eventlog: %s: the event decided on does not fit: %w", subject, err)
			}
		}
		position, err := r.Log.Append(ctx, subject, last, events...)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return none, err
		}
		return Result[S]{State: state, Position: position}, nil
	}
	return none, fmt.Errorf("eventlog: %s: %d attempts met %w", subject, maxConflicts, ErrConflict)
}

// load also finds the position of the last event of a command, 0 if it has left
// none; ErrCommandReused where that command asked for something else.
func (r *Repository[S]) load(ctx context.Context, subject string, command Command) (state S, last, done Position, err error) {
	state = r.New()
	last, err = r.Log.Each(ctx, subject, func(e Event) error {
		m, err := r.Registry.Decode(e)
		if err != nil {
			return err
		}
		if state, err = r.Apply(state, m); err != nil {
			return fmt.Errorf("eventlog: %s: event %s at %d does not follow from those before it: %w", subject, e.ID, e.Position, err)
		}
		if command.ID != "" && e.Command == command.ID {
			if command.Digest != "" && e.CommandDigest != "" && e.CommandDigest != command.Digest {
				return ErrCommandReused
			}
			done = e.Position
		}
		return nil
	})
	if err != nil {
		return state, 0, 0, err
	}
	return state, last, done, nil
}

// pause waits a random time that grows with the attempts, so that two writers
// do not meet again.
func pause(ctx context.Context, attempt int) error {
	limit := min(time.Millisecond<<min(attempt, 8), 200*time.Millisecond)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(rand.Int64N(int64(limit)))):
		return nil
	}
}
