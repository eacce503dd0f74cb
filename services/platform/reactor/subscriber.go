package reactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// delivery is what a message carries in its context through the middleware.
type delivery struct {
	event eventlog.Event
	// err says why the message is no event.
	err error
	// number of this delivery, from 1.
	number int
	header eventlog.Header
	// stopping ends when Run is to end, work a grace later.
	stopping, work context.Context
}

type deliveryKey struct{}

func deliveryFrom(ctx context.Context) *delivery {
	return ctx.Value(deliveryKey{}).(*delivery)
}

// subscriber is Watermill's view of a durable consumer. Watermill calls a
// handler for each message that it gets without waiting for the one before, so
// as many are in hand as the server allows.
type subscriber struct {
	config Config
	js     jetstream.JetStream
	log    *slog.Logger

	settling sync.WaitGroup
	abandon  context.CancelFunc
	mu       sync.Mutex
	err      error
}

var _ message.Subscriber = (*subscriber)(nil)

// Subscribe implements message.Subscriber. The channel is closed when ctx ends
// or the consumer is gone.
func (s *subscriber) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	consumer, err := s.consumer(ctx)
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(s.config.InFlight))
	if err != nil {
		return nil, err
	}
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	s.abandon = abandon
	context.AfterFunc(ctx, func() { time.AfterFunc(s.config.Grace, abandon) })
	out := make(chan *message.Message)
	s.settling.Go(func() {
		defer close(out)
		defer context.AfterFunc(ctx, messages.Drain)()
		defer messages.Stop()
		s.pump(ctx, work, messages, out)
	})
	return out, nil
}

// consumer makes the durable consumer, or brings its settings up to date. Its
// position survives both.
func (s *subscriber) consumer(ctx context.Context) (jetstream.Consumer, error) {
	config := jetstream.ConsumerConfig{
		Durable:        s.config.Name,
		FilterSubjects: s.config.Subjects,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        s.config.AckWait,
		MaxAckPending:  s.config.InFlight,
		// Giving up is decided here, where the event can be set aside.
		MaxDeliver:    -1,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if s.config.FromNow {
		config.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		consumer, err := s.js.CreateOrUpdateConsumer(attempt, s.config.Stream, config)
		cancel()
		var refused *jetstream.APIError
		if err == nil || errors.As(err, &refused) && refused.Code < 500 {
			return consumer, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
			s.log.Warn("the consumer cannot be made yet", "error", err)
		}
	}
}

// pump hands messages on until the consumer ends. What was fetched but not
// handed on when ctx ended goes back at once, rather than after AckWait.
func (s *subscriber) pump(ctx, work context.Context, messages jetstream.MessagesContext, out chan<- *message.Message) {
	for {
		msg, err := messages.Next()
		switch {
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return
		case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerNotFound):
			s.fail(fmt.Errorf("its consumer was deleted, and its position with it: %w", err))
			return
		case err != nil:
			s.log.Warn("waiting for the stream", "error", err)
			if ctx.Err() != nil {
				return
			}
			continue
		}
		if ctx.Err() != nil {
			if err := msg.Nak(); err != nil {
				s.log.Warn("an event could not be handed back; it comes again after a while", "error", err)
			}
			continue
		}
		m := s.toMessage(ctx, work, msg)
		select {
		case out <- m:
			s.settling.Go(func() { s.settle(ctx, work, m, msg) })
		case <-ctx.Done():
			if err := msg.Nak(); err != nil {
				s.log.Warn("an event could not be handed back; it comes again after a while", "error", err)
			}
		}
	}
}

func (s *subscriber) toMessage(stopping, work context.Context, msg jetstream.Msg) *message.Message {
	d := &delivery{header: eventlog.Header(msg.Headers()), stopping: stopping, work: work}
	meta, err := msg.Metadata()
	if err != nil {
		d.err = err
	} else {
		d.number = int(meta.NumDelivered)
		d.event, d.err = eventlog.FromMessage(msg.Subject(), d.header, msg.Data(), eventlog.Position(meta.Sequence.Stream))
	}
	if d.event.ID == "" {
		// What is no event still needs a name when it is set aside.
		d.event.ID = fmt.Sprintf("%s-%d", s.config.Stream, d.event.Position)
	}
	return message.NewMessageWithContext(context.WithValue(stopping, deliveryKey{}, d), d.event.ID, msg.Data())
}

// settle waits for the router's verdict and passes it on, and tells the server
// meanwhile that somebody is at work.
func (s *subscriber) settle(stopping, work context.Context, m *message.Message, msg jetstream.Msg) {
	alive := time.NewTicker(s.config.AckWait / 3)
	defer alive.Stop()
	for {
		var err error
		select {
		case <-alive.C:
			if err := msg.InProgress(); err != nil {
				s.log.Warn("a sign of life was not sent", "event", m.UUID, "error", err)
			}
			continue
		case <-m.Acked():
			// Waits for the server's word: an acknowledgement that gets lost has
			// the event handled again.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(work), 5*time.Second)
			err = msg.DoubleAck(ctx)
			cancel()
		case <-m.Nacked():
			err = msg.NakWithDelay(s.delay(stopping))
		case <-work.Done():
			// The handler has ignored the end of its context; the event comes again.
			err = msg.Nak()
		}
		if err != nil {
			s.log.Warn("an event's end was not recorded; it comes again", "event", m.UUID, "error", err)
		}
		return
	}
}

// delay keeps an event that could not even be set aside from coming back at
// once; one that is handed back because the process stops must not wait.
func (s *subscriber) delay(stopping context.Context) time.Duration {
	if stopping.Err() != nil {
		return 0
	}
	return s.config.FirstPause
}

func (s *subscriber) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *subscriber) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// wait returns when all that was handed on is settled.
func (s *subscriber) wait() {
	s.settling.Wait()
	if s.abandon != nil {
		s.abandon()
	}
}

// Close implements message.Subscriber. The end of Subscribe's context does it.
func (s *subscriber) Close() error { return nil }
