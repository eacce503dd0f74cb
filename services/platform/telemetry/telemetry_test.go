package telemetry_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"

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
