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

// Both say that the expected last sequence was not the one found.
const (
	codeWrongLastSequence         jetstream.ErrorCode = 10071
	codeWrongLastSequenceConstant jetstream.ErrorCode = 10164
)

// After a wrong guess so many publishes go alone.
const calmAfterGuess = 32

// parcel is one message on its way to the platform.
type parcel struct {
	message   *nats.Msg
	through   uint64 // the last position in it
	positions uint64
	guess     uint64 // the sequence that it will get if nobody else writes
	future    jetstream.PubAckFuture
	end       func() // ends its span
}

// publish forwards from a position on until something goes wrong, or the buffer has
// another identity than when next was decided.
func (l *lane) publish(ctx context.Context, broken <-chan struct{}, nc *nats.Conn, js jetstream.JetStream, identity contract.ID, next, expected uint64) error {
	limit := contract.MaxBatchBytes
	if most := int(nc.MaxPayload()) - headroom; most < limit {
		limit = most
	}
	var flying []*parcel
	defer func() {
		for _, p := range flying {
			p.end()
		}
	}()
	window, calm := 1, 0
	guess := uint64(0) // what the last one sent will get; 0 where nothing is known
	for {
		for len(flying) < window {
			changed, state := l.source.Changed(), l.source.State()
			if state.ID != identity {
				return errReborn
			}
			p, err := l.gather(ctx, next, limit)
			if errors.Is(err, buffer.ErrNothing) {
				if len(flying) > 0 {
					break
				}
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
			if p.future, err = js.PublishMsgAsync(p.message,
				jetstream.WithExpectStream(contract.AgentStream), jetstream.WithExpectLastSequencePerSubject(expected)); err != nil {
				p.end()
				return fmt.Errorf("publish through position %d: %w", p.through, err)
			}
			if guess != 0 {
				guess++
				p.guess = guess
			}
			next, expected = p.through+1, guess
			flying = append(flying, p)
			if guess == 0 {
				break // the next expectation is known only from this one's answer
			}
		}
		p := flying[0]
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-broken:
			return errDisconnected
		case ack := <-p.future.Ok():
			p.end()
			l.advance(p.through, p.positions, ack.Sequence)
			flying = flying[1:]
			if calm--; ack.Sequence == p.guess || calm < 0 {
				window = min(window+1, l.config.Window)
			}
			if len(flying) == 0 {
				expected, guess = ack.Sequence, ack.Sequence
				continue
			}
			if ack.Sequence != p.guess {
				// Others write to the stream too: what flies was sent on a wrong guess and
				// will be refused. Go on behind what is known to be there.
				if err := refused(ctx, flying); err != nil {
					return err
				}
				for _, p := range flying {
					p.end()
				}
				flying, window, calm = nil, 1, calmAfterGuess
				next, expected, guess = p.through+1, ack.Sequence, ack.Sequence
			}
		case err := <-p.future.Err():
			return fmt.Errorf("publish through position %d: %w", p.through, err)
		}
	}
}

// refused waits until every parcel was refused for its expectation; an error if
// anything else became of one.
func refused(ctx context.Context, flying []*parcel) error {
	for _, p := range flying {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.future.Ok():
			return fmt.Errorf("position %d was stored against its expectation", p.through)
		case err := <-p.future.Err():
			var refusal *jetstream.APIError
			if !errors.As(err, &refusal) || refusal.ErrorCode != codeWrongLastSequence && refusal.ErrorCode != codeWrongLastSequenceConstant {
				return fmt.Errorf("publish through position %d: %w", p.through, err)
			}
		}
	}
	return nil
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
