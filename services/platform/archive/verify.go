package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// mostDifferences bounds how many are told.
	mostDifferences = 10
	// silence is how long the stream may say nothing before it counts as ended.
	silence = 30 * time.Second
)

// Verified is what a look through an archive, or a stream, has found.
type Verified struct {
	// First and Last are the sequences that it speaks for; Messages counts those that were read, and
	// Compared those that both archive and stream have.
	First, Last        uint64
	Messages, Compared uint64
	// Differences are the first that were found; none: all is as it should be.
	Differences []string
}

func (v *Verified) differs(format string, args ...any) {
	if len(v.Differences) < mostDifferences {
		v.Differences = append(v.Differences, fmt.Sprintf(format, args...))
	}
}

// Verify reads the whole archive: digests, seals, the chain; and compares it with what the stream
// still holds of the same sequences. tell is told the sequence it is at, and the last. An error
// means that it could not be read to its end; what was found until then stands.
func (a *Archive) Verify(ctx context.Context, stream jetstream.Stream, tell func(at, last uint64)) (v Verified, err error) {
	if v.First, v.Last, err = a.Range(ctx); err != nil {
		return v, a.found(&v, err)
	}
	info, err := stream.Info(ctx) // after the archive was asked, which goes on
	if err != nil {
		return v, fmt.Errorf("archive: look at the stream: %w", err)
	}
	state := info.State
	if v.First == 0 {
		if state.FirstSeq > 1 {
			v.differs("the archive is empty, or not there, and the stream begins at %d: what was before is in neither", state.FirstSeq)
		}
		return v, nil
	}
	if state.FirstSeq > v.Last+1 {
		v.differs("neither archive nor stream has %d to %d", v.Last+1, state.FirstSeq-1)
	}
	if v.Last > state.LastSeq {
		v.differs("the archive ends at %d, the stream at %d: it was put back, or has lost messages", v.Last, state.LastSeq)
	}
	held := &messagesOf{stream: stream, next: max(v.First, state.FirstSeq)}
	defer held.stop()
	reached, err := a.Read(ctx, v.First, func(m Message) error {
		v.Messages++
		tell(m.Sequence, v.Last)
		if m.Sequence < state.FirstSeq || m.Sequence > state.LastSeq {
			return nil
		}
		other, err := held.at(ctx, m.Sequence, &v)
		if errors.Is(err, ErrNone) {
			// It may have gone out of the stream a moment ago.
			info, err := stream.Info(ctx)
			if err == nil && m.Sequence >= info.State.FirstSeq {
				v.differs("message %d is in the archive and not in the stream", m.Sequence)
			}
			return err
		}
		if err != nil {
			return err
		}
		v.Compared++
		if !same(&m, other) {
			v.differs("message %d is another in the archive than in the stream", m.Sequence)
		}
		return nil
	})
	if err == nil && reached < v.Last {
		v.differs("the archive can be read to %d of %d", reached, v.Last)
	}
	return v, a.found(&v, err)
}

// found makes a difference of an error that is of the archive's bytes.
func (a *Archive) found(v *Verified, err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrGap) {
		v.differs("%v", err)
		return nil
	}
	return err
}

func same(a, b *Message) bool {
	return a.Subject == b.Subject && a.Stored.Equal(b.Stored) && bytes.Equal(a.Data, b.Data) &&
		maps.EqualFunc(a.Header, b.Header, func(x, y []string) bool { return slices.Equal(x, y) })
}

// VerifyStream reads a whole stream; NATS checks each message's checksum as it does. One that
// nothing is ever taken out of has no gaps.
func VerifyStream(ctx context.Context, stream jetstream.Stream, gapless bool, tell func(at, last uint64)) (v Verified, err error) {
	state := stream.CachedInfo().State
	v.First, v.Last = state.FirstSeq, state.LastSeq
	if v.Last < v.First || v.Last == 0 { // how many messages there are is not told to everybody
		return v, nil
	}
	held := &messagesOf{stream: stream, next: v.First}
	defer held.stop()
	for before := v.First - 1; before < v.Last; {
		m, err := held.take(ctx)
		if err != nil {
			return v, err
		}
		if m.Sequence > v.Last {
			break
		}
		if gapless && m.Sequence != before+1 {
			v.differs("messages %d to %d are missing", before+1, m.Sequence-1)
		}
		before = m.Sequence
		v.Messages++
		tell(m.Sequence, v.Last)
	}
	return v, nil
}

// messagesOf reads a stream in its order.
type messagesOf struct {
	stream jetstream.Stream
	// next is where it begins, before it has.
	next     uint64
	messages jetstream.MessagesContext
	// kept is one that was read and is behind what was asked for.
	kept *Message
}

func (r *messagesOf) stop() {
	if r.messages != nil {
		r.messages.Stop()
	}
}

func (r *messagesOf) take(ctx context.Context) (*Message, error) {
	if r.messages == nil {
		ordered, err := r.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next})
		if err == nil {
			r.messages, err = ordered.Messages()
		}
		if err != nil {
			return nil, fmt.Errorf("archive: read the stream: %w", err)
		}
	}
	patient, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	m, err := r.messages.Next(jetstream.NextContext(patient))
	if err != nil {
		return nil, fmt.Errorf("archive: read the stream: %w", err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, fmt.Errorf("archive: read the stream: %w", err)
	}
	return &Message{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Stored: meta.Timestamp, Header: m.Headers(), Data: m.Data()}, nil
}

// at reads on to a sequence; ErrNone where the stream does not have it.
func (r *messagesOf) at(ctx context.Context, sequence uint64, v *Verified) (*Message, error) {
	for {
		m := r.kept
		r.kept = nil
		if m == nil {
			var err error
			if m, err = r.take(ctx); err != nil {
				return nil, err
			}
		}
		switch {
		case m.Sequence == sequence:
			return m, nil
		case m.Sequence > sequence:
			r.kept = m
			return nil, ErrNone
		}
		v.differs("message %d is in the stream and not in the archive", m.Sequence)
	}
}
