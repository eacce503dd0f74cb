package forward

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"

	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/internal/trace"
)

// parcel is one message on its way to the platform.
type parcel struct {
	message   *nats.Msg
	through   uint64 // the last position in it
	positions uint64
	end       func() // ends its span
}

// publish forwards from a position on until something goes wrong, or the buffer has
// another identity than when next was decided. One parcel is under way at a time: a replicated
// stream refuses a second one of its subject while the first is not decided, whatever it expects. What
// comes meanwhile goes with the next, so that a slow way makes parcels larger and not fewer.
func (l *lane) publish(ctx context.Context, broken <-chan struct{}, nc *nats.Conn, js jetstream.JetStream, identity contract.ID, next, expected uint64) error {
	limit := contract.MaxBatchBytes
	if most := int(nc.MaxPayload()) - headroom; most < limit {
		limit = most
	}
	for {
		changed, state := l.source.Changed(), l.source.State()
		if state.ID != identity {
			return errReborn
		}
		p, err := l.gather(ctx, next, limit)
		if errors.Is(err, buffer.ErrNothing) {
			l.level(state.LastPosition)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-broken:
				return errDisconnected
			case <-changed:
			}
			continue
		}
		if err != nil {
			return err
		}
		// Reborn while it was read: old bytes may bear the new identity, and positions
		// before these may have been given out anew.
		if l.source.State().ID != identity {
			p.end()
			return errReborn
		}
		ack, err := send(ctx, broken, js, p, expected)
		p.end()
		if err != nil {
			return err
		}
		l.advance(p.through, p.positions, ack.Sequence)
		next, expected = p.through+1, ack.Sequence
	}
}

// send publishes a parcel behind the message that is its subject's last.
func send(ctx context.Context, broken <-chan struct{}, js jetstream.JetStream, p *parcel, expected uint64) (*jetstream.PubAck, error) {
	future, err := js.PublishMsgAsync(p.message, jetstream.WithExpectStream(contract.AgentStream), jetstream.WithExpectLastSequencePerSubject(expected))
	if err != nil {
		return nil, fmt.Errorf("publish through position %d: %w", p.through, err)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-broken:
		return nil, errDisconnected
	case ack := <-future.Ok():
		return ack, nil
	case err := <-future.Err():
		return nil, fmt.Errorf("publish through position %d: %w", p.through, err)
	}
}

// gather makes one message of what the buffer holds from a position on, up to a
// size.
func (l *lane) gather(ctx context.Context, from uint64, limit int) (*parcel, error) {
	first, err := l.source.Next(ctx, l.lane, from)
	if err != nil {
		return nil, err
	}
	if len(first.Data) > limit {
		return nil, fmt.Errorf("position %d has %d bytes, but the platform takes no more than %d in a message: raise its max_payload", first.Position, len(first.Data), limit)
	}
	p := &parcel{through: first.Position, positions: 1}
	data, parent, stored := first.Data, first.TraceParent, first.Stored
	for {
		more, err := l.source.Next(ctx, l.lane, p.through+1)
		if errors.Is(err, buffer.ErrNothing) || err == nil && (more.BufferID != first.BufferID || len(data)+len(more.Data) > limit) {
			break
		}
		if err != nil {
			return nil, err
		}
		data = append(data, more.Data...)
		p.through, stored = more.Position, more.Stored
		p.positions++
		if parent == "" {
			parent = more.TraceParent
		}
	}
	position := strconv.FormatUint(p.through, 10)
	p.message = &nats.Msg{Subject: l.subject, Data: data, Header: nats.Header{
		contract.HeaderID:             []string{first.BufferID.String() + "/" + position},
		contract.HeaderSource:         []string{"urn:cetrus:manager:" + l.config.ManagerID.String()},
		contract.HeaderSpecVersion:    []string{contract.SpecVersion},
		contract.HeaderType:           []string{contract.AgentBatchType},
		contract.HeaderTime:           []string{stored.UTC().Format(time.RFC3339Nano)},
		contract.HeaderContentType:    []string{contract.ContentTypeProtobuf},
		contract.HeaderBuffer:         []string{first.BufferID.String()},
		contract.HeaderBufferPosition: []string{position},
	}}
	p.end = func() {}
	if parent != "" {
		var text string
		text, p.end = trace.Span(ctx, parent, "forward", attribute.Int64("cetrus.buffer.position", int64(p.through)))
		p.message.Header[contract.HeaderTraceParent] = []string{text}
	}
	return p, nil
}

// release deletes forwarded messages that are older than they must be kept, and
// the oldest ones while there are too many bytes of them.
func (f *Forwarder) release(ctx context.Context) error {
	state := f.source.State()
	safe, err := f.forwarded(ctx, state.LastPosition)
	if err != nil || safe < state.FirstPosition {
		return err
	}
	through, err := f.outdated(ctx, state.FirstPosition, safe)
	if err != nil {
		return err
	}
	if excess := state.UsedBytes - f.config.KeepBytes; excess > 0 {
		count := state.LastPosition - state.FirstPosition + 1
		average := max(1, state.UsedBytes/int64(count))
		through = max(through, state.FirstPosition-1+uint64(excess/average)+1)
	}
	through = min(through, safe)
	if through < state.FirstPosition {
		return nil
	}
	// What is deleted must not be needed to find out again how far we came.
	if err := f.save(); err != nil {
		return err
	}
	return f.source.Release(ctx, through)
}

// forwarded is the last position up to which the platform has everything.
func (f *Forwarder) forwarded(ctx context.Context, last uint64) (uint64, error) {
	safe := last
	for _, l := range f.lanes {
		waiting, err := f.source.Next(ctx, l.lane, l.cursor()+1)
		if errors.Is(err, buffer.ErrNothing) {
			continue
		}
		if err != nil {
			return 0, err
		}
		safe = min(safe, waiting.Position-1)
	}
	return safe, nil
}

// outdated is the last position in [first, last] that was stored too long ago to
// be kept; first − 1 where there is none.
func (f *Forwarder) outdated(ctx context.Context, first, last uint64) (uint64, error) {
	horizon := time.Now().Add(-f.config.KeepFor)
	low, high := first, last+1 // what is before low is outdated, what is from high on is not
	for low < high {
		middle := low + (high-low)/2
		if low == first && high == last+1 {
			middle = first // mostly nothing is outdated: one look tells
		}
		stored, err := f.source.StoredAt(ctx, middle)
		if errors.Is(err, buffer.ErrNothing) {
			high = middle
			continue
		}
		if err != nil {
			return 0, err
		}
		if stored.Before(horizon) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low - 1, nil
}
