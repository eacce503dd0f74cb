package e2e

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	metricscollector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracescollector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector takes what the tiers tell about themselves, as any collector of
// OpenTelemetry would.
type collector struct {
	mu     sync.Mutex
	spans  []told
	series map[series]bool
	faults []string
}

// told is one span of one tier.
type told struct {
	service string
	*tracev1.Span
}

// series is one line that a database of metrics would keep.
type series struct{ service, metric, labels string }

// startCollector listens on loopback, and has every process that the test starts
// export to it soon.
func startCollector(t *testing.T) *collector {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	c := &collector{series: map[series]bool{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000")
	return c
}

// ServeHTTP takes OTLP over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		c.mu.Lock()
		switch r.URL.Path {
		case "/v1/traces":
			err = c.takeTraces(body)
		case "/v1/metrics":
			err = c.takeMetrics(body)
		}
		if err != nil {
			c.faults = append(c.faults, r.URL.Path+": "+err.Error())
		}
		c.mu.Unlock()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // an empty answer is success
}

func (c *collector) takeTraces(body []byte) error {
	var export tracescollector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &export); err != nil {
		return err
	}
	for _, of := range export.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, told{serviceOf(of.GetResource()), s})
			}
		}
	}
	return nil
}

func (c *collector) takeMetrics(body []byte) error {
	var export metricscollector.ExportMetricsServiceRequest
	if err := proto.Unmarshal(body, &export); err != nil {
		return err
	}
	for _, of := range export.GetResourceMetrics() {
		for _, scope := range of.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				for _, labels := range labelsOf(m) {
					c.series[series{serviceOf(of.GetResource()), m.GetName(), labels}] = true
				}
			}
		}
	}
	return nil
}

func serviceOf(r *resourcev1.Resource) string {
	return textOf(attribute(r.GetAttributes(), "service.name"))
}

func attribute(all []*commonv1.KeyValue, key string) *commonv1.AnyValue {
	for _, kv := range all {
		if kv.GetKey() == key {
			return kv.GetValue()
		}
	}
	return nil
}

func textOf(v *commonv1.AnyValue) string {
	switch v := v.GetValue().(type) {
	case nil:
		return ""
	case *commonv1.AnyValue_StringValue:
		return v.StringValue
	case *commonv1.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	default:
		return (&commonv1.AnyValue{Value: v}).String()
	}
}

// labelsOf are the labels of each of a metric's series, as one text each.
func labelsOf(m *metricsv1.Metric) (all []string) {
	add := func(labels []*commonv1.KeyValue) {
		words := make([]string, len(labels))
		for i, kv := range labels {
			words[i] = kv.GetKey() + "=" + textOf(kv.GetValue())
		}
		slices.Sort(words)
		all = append(all, strings.Join(words, " "))
	}
	for _, p := range slices.Concat(m.GetGauge().GetDataPoints(), m.GetSum().GetDataPoints()) {
		add(p.GetAttributes())
	}
	for _, p := range m.GetHistogram().GetDataPoints() {
		add(p.GetAttributes())
	}
	for _, p := range m.GetExponentialHistogram().GetDataPoints() {
		add(p.GetAttributes())
	}
	return all
}

// find gives the spans of a service that a condition holds for.
func (c *collector) find(service string, holds func(told) bool) (found []told) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.service == service && holds(s) {
			found = append(found, s)
		}
	}
	return found
}

// metrics are all series seen so far.
func (c *collector) metrics() (all []series) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.series {
		all = append(all, s)
	}
	return all
}

// below are the spans of a name whose parent is the span given.
func below(parent told, name string) func(told) bool {
	return func(s told) bool {
		return s.GetName() == name && string(s.GetParentSpanId()) == string(parent.GetSpanId()) && string(s.GetTraceId()) == string(parent.GetTraceId())
	}
}

// linked tells whether a span names another by a link.
func linked(s, to told) bool {
	return slices.ContainsFunc(s.GetLinks(), func(l *tracev1.Span_Link) bool {
		return string(l.GetTraceId()) == string(to.GetTraceId()) && string(l.GetSpanId()) == string(to.GetSpanId())
	})
}

func (s told) String() string {
	return s.service + " " + s.GetName() + " " + hex.EncodeToString(s.GetTraceId()) + "/" + hex.EncodeToString(s.GetSpanId())
}
