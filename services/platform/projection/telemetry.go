package projection

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	scope = "github.com/cetrus/cetrus/services/platform/projection"
	// mostLinks bounds the traces that a batch's span names.
	mostLinks = 32
)

type metrics struct {
	messages     metric.Int64Counter
	failures     metric.Int64Counter
	took         metric.Float64Histogram
	attributes   metric.MeasurementOption
	registration metric.Registration
	// oldest is when the stream took the first message of the batch under way, or of the one that
	// could not be applied, nanoseconds since 1970; 0 while there is none.
	oldest atomic.Int64
}

func newMetrics(r *Runner) (*metrics, error) {
	m := &metrics{attributes: metric.WithAttributes(attribute.String("projection", r.cfg.Name))}
	meter := otel.Meter(scope)
	var err error
	if m.messages, err = meter.Int64Counter("cetrus.projection.messages", metric.WithDescription("Messages applied.")); err != nil {
		return nil, err
	}
	if m.failures, err = meter.Int64Counter("cetrus.projection.failures", metric.WithDescription("Times that the projection was interrupted.")); err != nil {
		return nil, err
	}
	// Told from the start: of what was never told nobody can say that it stands still.
	m.messages.Add(context.Background(), 0, m.attributes)
	m.failures.Add(context.Background(), 0, m.attributes)
	if m.took, err = meter.Float64Histogram("cetrus.projection.apply", metric.WithUnit("s"), metric.WithDescription("How long a batch took to apply and commit.")); err != nil {
		return nil, err
	}
	pending, err := meter.Int64ObservableGauge("cetrus.projection.pending", metric.WithDescription("Messages of what is read here that are stored and not yet applied, as last seen."))
	if err != nil {
		return nil, err
	}
	position, err := meter.Int64ObservableGauge("cetrus.projection.position", metric.WithDescription("Position up to which everything is applied of what is read here."))
	if err != nil {
		return nil, err
	}
	lag, err := meter.Float64ObservableGauge("cetrus.projection.lag", metric.WithUnit("s"), metric.WithDescription("Age of the oldest message that is being applied, or could not be; 0 while there is none."))
	if err != nil {
		return nil, err
	}
	partitions, err := meter.Int64ObservableGauge("cetrus.projection.partitions", metric.WithUnit("{partition}"), metric.WithDescription("Partitions that are read here."))
	if err != nil {
		return nil, err
	}
	m.registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		p := r.Progress()
		o.ObserveInt64(pending, int64(p.Total-p.Done), m.attributes)
		o.ObserveInt64(partitions, int64(r.readsNow().size()), m.attributes)
		o.ObserveInt64(position, int64(p.Position), m.attributes)
		age := 0.0
		if oldest := m.oldest.Load(); oldest != 0 {
			age = time.Since(time.Unix(0, oldest)).Seconds()
		}
		o.ObserveFloat64(lag, age, m.attributes)
		return nil
	}, pending, position, lag, partitions)
	return m, err
}

func (m *metrics) batch(ctx context.Context, batch []Message, took time.Duration) {
	m.messages.Add(ctx, int64(len(batch)), m.attributes)
	m.took.Record(ctx, took.Seconds(), m.attributes)
}

func (m *metrics) stop() { _ = m.registration.Unregister() }

// startSpan begins the span of a batch, linked to the traces of its messages.
func startSpan(ctx context.Context, name string, batch []Message) (context.Context, trace.Span) {
	ctx, span := otel.Tracer(scope).Start(ctx, "project "+name, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithNewRoot())
	if !span.IsRecording() {
		return ctx, span
	}
	span.SetAttributes(
		attribute.Int("messaging.batch.message_count", len(batch)),
		attribute.Int64("cetrus.position.first", int64(batch[0].Position)),
		attribute.Int64("cetrus.position.last", int64(batch[len(batch)-1].Position)),
	)
	links := 0
	for _, m := range batch {
		if links == mostLinks {
			break
		}
		if Link(span, m.Header.Get(contract.HeaderTraceParent)) {
			links++
		}
	}
	return ctx, span
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// Link names the trace of a W3C traceparent in the span; false where it is none.
func Link(span trace.Span, traceparent string) bool {
	if traceparent == "" {
		return false
	}
	carrier := propagation.MapCarrier{"traceparent": traceparent}
	remote := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
	if !remote.IsValid() {
		return false
	}
	span.AddLink(trace.Link{SpanContext: remote})
	return true
}
