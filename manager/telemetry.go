package manager

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// figure is one of the Manager's metrics.
type figure struct {
	// name is OpenTelemetry's; Prometheus's has _ for each dot.
	name, unit, text string
	// sum is true where the figure only grows, from 0 at the start.
	sum  bool
	read func() int64
}

func (m *Manager) figures() []figure {
	return []figure{
		{"cetrus.manager.frames", "{frame}", "Frames that were checked and taken", true, func() int64 { return int64(m.ingest.Counts().Frames) }},
		{"cetrus.manager.records", "{record}", "Records that became durable", true, func() int64 { return int64(m.ingest.Counts().Records) }},
		{"cetrus.manager.refused", "{frame}", "Frames and agents refused", true, func() int64 { return int64(m.ingest.Counts().Refused) }},
		{"cetrus.manager.enrollments.refused", "{request}", "Requests for an agent's certificate that got none", true, func() int64 {
			if m.enrolled == nil {
				return 0
			}
			return int64(m.enrolled.Refused())
		}},
		{"cetrus.manager.buffer.commits", "{commit}", "Synced commits", true, func() int64 { return int64(m.buffer.State().Stats.Commits) }},
		{"cetrus.manager.buffer.used", "By", "Size of the buffer", false, func() int64 { return m.buffer.State().UsedBytes }},
		{"cetrus.manager.buffer.size", "By", "Greatest size of the buffer", false, func() int64 { return m.buffer.State().MaxBytes }},
		{"cetrus.manager.disk.free", "By", "Room on the buffer's disk", false, func() int64 { return m.buffer.State().FreeBytes }},
		{"cetrus.manager.backlog", "{message}", "Messages that wait for the platform", false, func() int64 { return int64(m.backlog()) }},
		{"cetrus.manager.agents", "{agent}", "Agents that are connected", false, func() (n int64) {
			for _, a := range m.ingest.Agents() {
				if a.Connected {
					n++
				}
			}
			return n
		}},
		{"cetrus.manager.alarms", "{alarm}", "What needs a person's attention", false, func() int64 { return int64(len(m.Status().Alarms)) }},
	}
}

// observe makes the figures readable by whatever collects metrics in this process; it
// costs nothing where nobody does.
func (m *Manager) observe() error {
	meter := otel.Meter("github.com/cetrus/cetrus/manager")
	for _, f := range m.figures() {
		observed := func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(f.read())
			return nil
		}
		unit, text := metric.WithUnit(f.unit), metric.WithDescription(f.text)
		var err error
		if f.sum {
			_, err = meter.Int64ObservableCounter(f.name, unit, text, metric.WithInt64Callback(observed))
		} else {
			_, err = meter.Int64ObservableGauge(f.name, unit, text, metric.WithInt64Callback(observed))
		}
		if err != nil {
			return wrap(err)
		}
	}
	return nil
}

// serveMetrics writes the figures as Prometheus reads them.
func (m *Manager) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	var page strings.Builder
	for _, f := range m.figures() {
		name, kind := strings.ReplaceAll(f.name, ".", "_"), "gauge"
		if f.unit == "By" {
			name += "_bytes"
		}
		if f.sum {
			name, kind = name+"_total", "counter"
		}
		fmt.Fprintf(&page, "# HELP %s %s\n# TYPE %[1]s %[3]s\n%[1]s %[4]d\n", name, f.text, kind, f.read())
	}
	_, _ = w.Write([]byte(page.String()))
}

// backlog is how many messages of the buffer the platform does not have.
func (m *Manager) backlog() uint64 {
	last := m.buffer.State().LastPosition
	level := last
	for _, l := range m.forwarder.State() {
		level = min(level, l.Level)
	}
	return last - level
}
