package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
)

// Together runs commands that decide on several aggregates at once: what follows is recorded
// for all of them or for none. Each aggregate that gets events is expected to be as it was
// read; of one that was only read nothing is expected.
type Together struct {
	Log      Log
	Registry *Registry
}

// Unit is what one attempt of such a command has read, and what it has decided so far.
type Unit struct {
	ctx     context.Context //nolint:containedctx // a Unit lives within one call of Execute
	command Command
	read    map[string]*member
	order   []string // subjects with events, as they came
	done    Position
}

// member is an aggregate in a Unit.
type member struct {
	last    Position
	decided []proto.Message
	// fits applies a decided event to the state that was read.
	fits func(proto.Message) error
}

// errRepeated leaves a command that is recorded already.
var errRepeated = errors.New("eventlog: the command was recorded before")

// Read loads an aggregate within a command. Its error is to be passed on as it is. A second
// Read of the same subject is a mistake, since it would not see what was decided meanwhile.
func Read[S any](u *Unit, r *Repository[S], subject string) (S, error) {
	var none S
	if u.read[subject] != nil {
		return none, fmt.Errorf("eventlog: %s is read twice in one command", subject)
	}
	state, last, done, err := r.load(u.ctx, subject, u.command)
	if err != nil {
		return none, err
	}
	if done > 0 {
		u.done = max(u.done, done)
		return none, errRepeated
	}
	now := state
	u.read[subject] = &member{last: last, fits: func(m proto.Message) (err error) {
		now, err = r.Apply(now, m)
		return err
	}}
	return state, nil
}

// Context is that of the command, for what decides and is no aggregate.
func (u *Unit) Context() context.Context { return u.ctx }

// Append decides that events follow on an aggregate that was read.
func (u *Unit) Append(subject string, messages ...proto.Message) error {
	m := u.read[subject]
	if m == nil {
		return fmt.Errorf("eventlog: %s is written, and was not read: its expectation would be a guess", subject)
	}
	for _, message := range messages {
		if err := m.fits(message); err != nil {
			return fmt.Errorf("eventlog: %s: the event decided on does not fit: %w", subject, err)
		}
	}
	if len(messages) > 0 && !slices.Contains(u.order, subject) {
		u.order = append(u.order, subject)
	}
	m.decided = append(m.decided, messages...)
	return nil
}

// Execute lets decide read aggregates and append to them, and appends it all; on a conflict it
// starts again. decide may run several times. An error of its own that refuses the command is
// passed on as it is. The position is that of the last event; where nothing followed, of the last
// that was read.
//
// ErrUnknownOutcome: give the same command again.
func (t *Together) Execute(ctx context.Context, command Command, decide func(*Unit) error) (Position, error) {
	for attempt := range maxConflicts {
		if attempt > 0 {
			if err := pause(ctx, attempt); err != nil {
				return 0, err
			}
		}
		u := &Unit{ctx: ctx, command: command, read: make(map[string]*member)}
		err := decide(u)
		if errors.Is(err, errRepeated) {
			return u.done, nil
		}
		if err != nil || len(u.order) == 0 {
			fresh, last, lastErr := t.fresh(ctx, u)
			if lastErr != nil {
				return 0, lastErr
			}
			if !fresh {
				continue
			}
			return last, err
		}
		writes, err := t.writes(u)
		if err != nil {
			return 0, err
		}
		position, err := t.Log.AppendAll(ctx, writes...)
		if errors.Is(err, ErrConflict) {
			continue
		}
		return position, err
	}
	return 0, fmt.Errorf("eventlog: %d attempts met %w", maxConflicts, ErrConflict)
}

// fresh tells whether what was read is what the leader has: a refusal appends nothing, so
// nothing else would show that it rests on a replica that lags.
func (t *Together) fresh(ctx context.Context, u *Unit) (fresh bool, last Position, err error) {
	for subject, m := range u.read {
		now, err := t.Log.Last(ctx, subject)
		if err != nil {
			return false, 0, err
		}
		if now != m.last {
			return false, 0, nil
		}
		last = max(last, now)
	}
	return true, last, nil
}

func (t *Together) writes(u *Unit) ([]Write, error) {
	var writes []Write
	for _, subject := range u.order {
		w := Write{Subject: subject, Expected: u.read[subject].last}
		for _, m := range u.read[subject].decided {
			e, err := t.Registry.Encode(m)
			if err != nil {
				return nil, err
			}
			e.Command, e.CommandDigest, e.Actor = u.command.ID, u.command.Digest, u.command.Actor
			e.Time = u.command.At
			w.Events = append(w.Events, e)
		}
		writes = append(writes, w)
	}
	return writes, nil
}
