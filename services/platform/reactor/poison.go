package reactor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// Headers that a message in POISON has beside its own.
const (
	headerReason   = "cetrus-poison-reason"
	headerSubject  = "cetrus-poison-subject"
	headerPosition = "cetrus-poison-position"
	headerTime     = "cetrus-poison-time"
)

// maxReason bounds what of an error is kept, in bytes.
const maxReason = 2000

// setAside keeps the message as it came, with the reason. When it returns nil,
// the message is durable in POISON.
func (r *Reactor) setAside(ctx context.Context, d *delivery, payload []byte, reason error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	msg := nats.NewMsg(contract.PoisonSubject(r.config.Name))
	for name, values := range d.header {
		// JetStream would take its own headers for instructions.
		if !strings.HasPrefix(name, "Nats-") {
			msg.Header[name] = values
		}
	}
	msg.Header[headerReason] = []string{headerText(reason.Error())}
	msg.Header[headerSubject] = []string{d.event.Subject}
	msg.Header[headerPosition] = []string{strconv.FormatUint(uint64(d.event.Position), 10)}
	msg.Header[headerTime] = []string{time.Now().UTC().Format(time.RFC3339Nano)}
	msg.Data = payload
	// An event whose acknowledgement got lost is not set aside twice, at least
	// not within the stream's window.
	if _, err := r.js.PublishMsg(ctx, msg, jetstream.WithMsgID(r.config.Name+" "+d.event.ID)); err != nil {
		return err
	}
	r.deps.Logger.Error("an event was set aside; look at it and replay it", "event", d.event.ID, "type", d.event.Type,
		"subject", d.event.Subject, "position", uint64(d.event.Position), "reason", reason)
	return nil
}

// headerText makes a text fit for a header: one line, of bounded length.
func headerText(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	return strings.ToValidUTF8(s, "")
}

// Poisoned is an event that was set aside.
type Poisoned struct {
	Event eventlog.Event
	// Reason is the last error.
	Reason string
	// Since is when it was set aside.
	Since time.Time

	sequence uint64
	invalid  error
}

// Poisoned lists what this reactor has set aside, oldest first, and at most so many;
// 0 lists all.
func (r *Reactor) Poisoned(ctx context.Context, most int) ([]Poisoned, error) {
	stream, err := r.js.Stream(ctx, contract.PoisonStream)
	if err != nil {
		return nil, fmt.Errorf("reactor %s: %w", r.config.Name, err)
	}
	subject := contract.PoisonSubject(r.config.Name)
	var list []Poisoned
	for next := uint64(1); ; {
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reactor %s: %w", r.config.Name, err)
		}
		list = append(list, poisonedFrom(msg))
		if len(list) == most {
			return list, nil
		}
		next = msg.Sequence + 1
	}
}

func poisonedFrom(msg *jetstream.RawStreamMsg) Poisoned {
	p := Poisoned{Reason: msg.Header.Get(headerReason), sequence: msg.Sequence, Since: msg.Time.UTC()}
	position, err := strconv.ParseUint(msg.Header.Get(headerPosition), 10, 64)
	if err != nil {
		p.invalid = fmt.Errorf("%s: %w", headerPosition, err)
	}
	event, err := eventlog.FromMessage(msg.Header.Get(headerSubject), msg.Header, msg.Data, eventlog.Position(position))
	p.Event = event
	p.invalid = errors.Join(p.invalid, err)
	return p
}

// Replay hands what was set aside to the handler again, once each, and removes
// what it handles. It returns how many it handled; the error joins why others
// stay.
func (r *Reactor) Replay(ctx context.Context) (int, error) {
	list, err := r.Poisoned(ctx, 0)
	if err != nil {
		return 0, err
	}
	stream, err := r.js.Stream(ctx, contract.PoisonStream)
	if err != nil {
		return 0, fmt.Errorf("reactor %s: %w", r.config.Name, err)
	}
	handled := 0
	var failed []error
	for _, p := range list {
		if err := r.replay(ctx, p); err != nil {
			failed = append(failed, fmt.Errorf("event %s: %w", p.Event.ID, err))
			continue
		}
		if err := stream.DeleteMsg(ctx, p.sequence); err != nil {
			failed = append(failed, fmt.Errorf("event %s was handled, but could not be removed: %w", p.Event.ID, err))
			continue
		}
		handled++
	}
	return handled, errors.Join(failed...)
}

func (r *Reactor) replay(ctx context.Context, p Poisoned) (err error) {
	if p.invalid != nil {
		return p.invalid
	}
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return r.deps.Handler(ctx, p.Event)
}
