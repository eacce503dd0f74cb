package reactor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/cetrus/cetrus/proto/contract"
)

const scope = "github.com/cetrus/cetrus/services/platform/reactor"

// middleware is what stands between the stream and the handler, outermost first.
// The order is the meaning:
func (r *Reactor) middleware() []message.HandlerMiddleware {
	return []message.HandlerMiddleware{
		// 1. Correlation: one span for all that is done about an event, in the
		// trace of the decision that it came from. Outermost, so that retries
		// and poison are seen in it.
		r.correlate,
		// 2. Poison: what is left over after all retries is set aside, so that it
		// holds up nothing else. Outside of the retries, whose last error it takes.
		r.poison,
		// 3. Retry with back-off: each attempt runs all that is below.
		r.retry().Middleware,
		// 4. Throttle: counts attempts, not events, since attempts are what the
		// other side feels.
		r.throttle(),
		// 5. Timeout of one attempt; waiting for the throttle is not in it.
		r.timeout,
		// 6. Recover: innermost, so that a panic is an error like any other to
		// all that is above.
		middleware.Recoverer,
	}
}

// metrics count how events ended.
type metrics struct {
	handled  metric.Int64Counter
	duration metric.Float64Histogram
}

func newMetrics() (*metrics, error) {
	meter := otel.Meter(scope)
	handled, err := meter.Int64Counter("cetrus.reactor.events",
		metric.WithDescription("Events by how they ended: done, poisoned, returned"))
	if err != nil {
		return nil, err
	}
	duration, err := meter.Float64Histogram("cetrus.reactor.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that an event took, with all attempts and pauses"))
	if err != nil {
		return nil, err
	}
	return &metrics{handled: handled, duration: duration}, nil
}

func (r *Reactor) correlate(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := deliveryFrom(msg.Context())
		origin := propagation.TraceContext{}.Extract(msg.Context(), propagation.MapCarrier{
			contract.HeaderTraceParent: d.event.TraceParent,
		})
		ctx, span := otel.Tracer(scope).Start(origin, "react "+r.config.Name,
			trace.WithSpanKind(trace.SpanKindConsumer),
			trace.WithAttributes(
				attribute.String("cetrus.event.id", d.event.ID),
				attribute.String("cetrus.event.type", d.event.Type),
				attribute.Int64("cetrus.event.position", int64(d.event.Position)),
				attribute.Int("cetrus.delivery", d.number)))
		defer span.End()
		msg.SetContext(ctx)
		correlation := d.event.Command
		if correlation == "" {
			correlation = d.event.ID
		}
		middleware.SetCorrelationID(correlation, msg)

		begin := time.Now()
		messages, err := next(msg)
		r.metrics.duration.Record(ctx, time.Since(begin).Seconds(), metric.WithAttributes(attribute.String("reactor", r.config.Name)))
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
			r.count(ctx, "returned", 1)
		}
		return messages, err
	}
}

func (r *Reactor) count(ctx context.Context, outcome string, events int64) {
	r.metrics.handled.Add(ctx, events, metric.WithAttributes(
		attribute.String("reactor", r.config.Name), attribute.String("outcome", outcome)))
}

// poison sets the event aside when nothing more can be done here. The process's
// own end is no fault of the event.
func (r *Reactor) poison(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		ctx := msg.Context()
		d := deliveryFrom(ctx)
		var err error
		if d.number > r.config.MaxDeliveries {
			err = fmt.Errorf("it was handed out %d times and never came to an end", d.number-1)
		} else {
			_, err = next(msg)
		}
		switch {
		case err == nil:
			r.count(ctx, "done", 1)
			return nil, nil
		case d.stopping.Err() != nil && !isPermanent(err):
			return nil, err
		}
		if poisonErr := r.setAside(ctx, d, msg.Payload, err); poisonErr != nil {
			return nil, errors.Join(err, fmt.Errorf("set the event aside: %w", poisonErr))
		}
		r.count(ctx, "poisoned", 1)
		return nil, nil
	}
}

func (r *Reactor) retry() middleware.Retry {
	return middleware.Retry{
		MaxRetries:          r.config.Attempts - 1,
		InitialInterval:     r.config.FirstPause,
		MaxInterval:         r.config.MaxPause,
		Multiplier:          2,
		RandomizationFactor: 0.3,
		// Each attempt has ended its own context.
		ResetContextOnRetry: true,
		ShouldRetry: func(params middleware.RetryParams) bool {
			return !isPermanent(params.Err)
		},
		OnRetryHook: func(attempt int, pause time.Duration) {
			r.deps.Logger.Warn("an event could not be handled; it will be tried again", "attempt", attempt, "pause", pause)
		},
	}
}

// timeout gives an attempt its own context. Pauses end as soon as Run is to end,
// an attempt that is under way only after the grace.
func (r *Reactor) timeout(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(msg.Context()), r.config.Timeout)
		defer cancel()
		defer context.AfterFunc(deliveryFrom(ctx).work, cancel)()
		msg.SetContext(ctx)
		return next(msg)
	}
}

// throttle waits for its turn, or for Run's end.
func (r *Reactor) throttle() message.HandlerMiddleware {
	limit := rate.Inf
	if r.config.PerSecond > 0 {
		limit = rate.Limit(r.config.PerSecond)
	}
	limiter := rate.NewLimiter(limit, 1)
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			if err := limiter.Wait(msg.Context()); err != nil {
				return nil, err
			}
			return next(msg)
		}
	}
}

func isPermanent(err error) bool {
	var permanent *permanentError
	return errors.As(err, &permanent)
}
