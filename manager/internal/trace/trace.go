// Package trace carries W3C trace context, which travels in messages as text,
// through the spans of this Manager.
package trace

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"
)

const field = "traceparent"

// Span begins a span under the context that parent names, and returns the text
// that names the new one and what ends it. Where parent is empty or nobody records the trace, the
// span records nothing and costs next to nothing.
func Span(ctx context.Context, parent, name string, attributes ...attribute.KeyValue) (text string, end func()) {
	carrier := propagation.MapCarrier{field: parent}
	ctx = propagation.TraceContext{}.Extract(ctx, carrier)
	ctx, span := otel.Tracer("github.com/cetrus/cetrus/manager").Start(ctx, name, oteltrace.WithAttributes(attributes...))
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[field], func() { span.End() }
}
