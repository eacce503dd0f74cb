package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracing follows journal commits where the environment names a collector
// (OTEL_EXPORTER_OTLP_ENDPOINT or …_TRACES_ENDPOINT), and costs nothing elsewhere.
//
// Only the exporters of OTLP are linked: contrib's autoexport would bring every
// exporter there is, Prometheus among them, and megabytes of them.
func tracing(ctx context.Context, version string) (trace.Tracer, func() error, error) {
	const name = "github.com/cetrus/cetrus/agent"
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" ||
		os.Getenv("OTEL_TRACES_EXPORTER") == "none" || os.Getenv("OTEL_SDK_DISABLED") == "true" {
		return noop.NewTracerProvider().Tracer(name), func() error { return nil }, nil
	}
	exporter, err := exporter(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "cetrus-agent"),
			attribute.String("service.version", version),
		)),
	)
	return provider.Tracer(name), func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			return fmt.Errorf("telemetry: the last traces were not sent: %w", err)
		}
		return nil
	}, nil
}

// exporter speaks what the other tiers speak when they are given the same
// environment, so that one endpoint serves them all.
func exporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	const general = "OTEL_EXPORTER_OTLP_PROTOCOL"
	switch protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv(general), "http/protobuf"); protocol {
	case "grpc":
		return otlptracegrpc.New(ctx)
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	default:
		return nil, fmt.Errorf("%s is %q; it is grpc or http/protobuf", general, protocol)
	}
}
