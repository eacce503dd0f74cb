package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/services/platform/telemetry"
)

func quiet(t *testing.T) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
}

func TestLogsCarryTraceIDsWithoutAnyExporter(t *testing.T) {
	quiet(t)
	var out bytes.Buffer
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "test", LogLevel: "info", LogFormat: "json", LogTo: &out})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := otel.Tracer("test").Start(t.Context(), "work")
	tel.Logger.InfoContext(ctx, "hello", "n", 1)
	tel.Logger.DebugContext(ctx, "not told")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line["trace_id"] != span.SpanContext().TraceID().String() || line["msg"] != "hello" {
		t.Errorf("got %v", line)
	}
}

func TestTracesAreExportedWhereAskedFor(t *testing.T) {
	quiet(t)
	var got bytes.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/traces" {
			_, _ = got.ReadFrom(r.Body)
		}
	}))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.URL+"/v1/traces")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "test", LogLevel: "info", LogFormat: "text", LogTo: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	_, span := otel.Tracer("test").Start(t.Context(), "exported-work")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got.String(), "exported-work") {
		t.Errorf("span not exported: %q", got.String())
	}
}

func TestWrongSettingsAreNamed(t *testing.T) {
	_, err := telemetry.Setup(t.Context(), telemetry.Config{LogLevel: "loud", LogFormat: "xml"})
	if err == nil || !strings.Contains(err.Error(), "log-level") || !strings.Contains(err.Error(), "log-format") {
		t.Errorf("got %v", err)
	}
}

// The names that Prometheus gets are those that the alerts and dashboards of charts/cetrus ask for by this rule.
func TestPrometheusIsShownMetricsByTheirRule(t *testing.T) {
	quiet(t)
	held, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(held.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("OTEL_METRICS_EXPORTER", "prometheus")
	t.Setenv("OTEL_EXPORTER_PROMETHEUS_HOST", host)
	t.Setenv("OTEL_EXPORTER_PROMETHEUS_PORT", port)
	held.Release()
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{Service: "test", LogLevel: "info", LogFormat: "text", LogTo: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	meter := otel.Meter("test")
	counter, err1 := meter.Int64Counter("cetrus.test.things", metric.WithUnit("{thing}"))
	seconds, err2 := meter.Float64Histogram("cetrus.test.took", metric.WithUnit("s"))
	size, err3 := meter.Int64Gauge("cetrus.test.size", metric.WithUnit("By"))
	level, err4 := meter.Int64Gauge("cetrus.test.level")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1, metric.WithAttributes(attribute.Int("http.response.status_code", 200), attribute.Bool("connected", false)))
	seconds.Record(t.Context(), 1)
	size.Record(t.Context(), 1)
	level.Record(t.Context(), 1)
	answer, err := http.Get("http://" + net.JoinHostPort(host, port) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(answer.Body)
	if err := errors.Join(err, answer.Body.Close(), tel.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\ncetrus_test_things_total{", `http_response_status_code="200"`, `connected="false"`, "\ncetrus_test_took_seconds_bucket{", "\ncetrus_test_took_seconds_count{", "\ncetrus_test_size_bytes{", "\ncetrus_test_level{",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}
