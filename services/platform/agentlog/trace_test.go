package agentlog_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/agentlog/agentlogtest"
	"github.com/cetrus/cetrus/services/platform/projection"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// The span of the projection's batch names the trace in which the agent wrote
// its journal.
func TestTraceGoesOnFromTheJournal(t *testing.T) {
	s, o := store(t), newOffice(8)
	j, _ := o.journal(1)
	f := j.Frame(1, 1)
	f.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	recorder := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(recorder))
	if _, err := transact(s, true, func(ctx context.Context, tx pgx.Tx) (agentlog.Facts, error) {
		ctx, span := provider.Tracer("test").Start(ctx, "batch")
		defer span.End()
		return agentlog.NewDecoder(agentlog.Config{}).Decode(ctx, tx, []projection.Message{
			o.message(usagev1.Lane_LANE_USAGE, agentlogtest.Received(f)),
		})
	}); err != nil {
		t.Fatal(err)
	}
	links := recorder.Ended()[0].Links()
	if len(links) != 1 || links[0].SpanContext.TraceID().String() != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("links: %+v", links)
	}
}
