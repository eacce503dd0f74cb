package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/cetrus/cetrus/services/platform/config"
)

// Config of a process's telemetry.
type Config struct {
	// Service is the process's name: "cetrus-all", "cetrus-metering".
	Service string
	// Version is the build's.
	Version string
	// LogLevel is debug, info, warn or error.
	LogLevel string
	// LogFormat is text or json.
	LogFormat string
	// LogTo takes the logs; standard error where nil.
	LogTo io.Writer
}

// Validate tells all that is wrong with the configuration.
func (c Config) Validate() error {
	return errors.Join(
		config.OneOf("log-level", c.LogLevel, "debug", "info", "warn", "error"),
		config.OneOf("log-format", c.LogFormat, "text", "json"),
	)
}

// Telemetry is what a process tells about itself, until Shutdown.
type Telemetry struct {
	// Logger is the root of all logs.
	Logger *slog.Logger

	shutdown []func(context.Context) error
}

// Setup makes the logger and the global OpenTelemetry providers.
func Setup(ctx context.Context, cfg Config) (*Telemetry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	t := &Telemetry{}
	res := resource.NewSchemaless(
		attribute.String("service.name", cfg.Service),
		attribute.String("service.version", cfg.Version),
	)
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over ours.
	if merged, err := resource.Merge(res, resource.Environment()); err == nil {
		res = merged
	}

	handlers := []slog.Handler{console(cfg)}
	if wanted("LOGS") {
		exporter, err := autoexport.NewLogExporter(ctx)
		if err != nil {
			return nil, errors.Join(err, t.Shutdown(ctx))
		}
		provider := sdklog.NewLoggerProvider(sdklog.WithResource(res), sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter)))
		otel.SetLoggerProvider(provider)
		t.shutdown = append(t.shutdown, provider.Shutdown)
		handlers = append(handlers, otelslog.NewHandler(cfg.Service, otelslog.WithLoggerProvider(provider)))
	}
	t.Logger = slog.New(slog.NewMultiHandler(handlers...))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		t.Logger.Warn("telemetry could not be exported", "error", err)
	}))

	tracing := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if wanted("TRACES") {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, errors.Join(err, t.Shutdown(ctx))
		}
		tracing = append(tracing, sdktrace.WithBatcher(exporter))
	} else {
		// Ids without records: they cost next to nothing and tie logs together.
		tracing = append(tracing, sdktrace.WithSampler(sdktrace.NeverSample()))
	}
	traces := sdktrace.NewTracerProvider(tracing...)
	otel.SetTracerProvider(traces)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	t.shutdown = append(t.shutdown, traces.Shutdown)

	if wanted("METRICS") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, errors.Join(err, t.Shutdown(ctx))
		}
		metrics := sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(reader))
		otel.SetMeterProvider(metrics)
		t.shutdown = append(t.shutdown, metrics.Shutdown)
	}
	return t, nil
}

// Shutdown sends what is left and releases everything, the last made first. It
// takes no longer than ctx, and at most 2 s.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var all error
	for i := len(t.shutdown) - 1; i >= 0; i-- {
		all = errors.Join(all, t.shutdown[i](ctx))
	}
	t.shutdown = nil
	return all
}

// wanted tells whether the OTEL_* variables ask for a signal (TRACES, METRICS,
// LOGS) to be exported. The specification's default, OTLP to localhost, would
// complain on every machine without a collector.
func wanted(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

func console(cfg Config) slog.Handler {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo // Validate has refused it
	}
	to := cfg.LogTo
	if to == nil {
		to = os.Stderr
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return traced{slog.NewJSONHandler(to, opts)}
	}
	return traced{slog.NewTextHandler(to, opts)}
}

// traced adds the ids of the span in the context to each record.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }

func (h traced) WithGroup(name string) slog.Handler { return traced{h.Handler.WithGroup(name)} }
