package manager

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// observe makes the Manager's figures readable by whatever collects metrics in
// this process; it costs nothing where nobody does.
func (m *Manager) observe() error {
	meter := otel.Meter("github.com/cetrus/cetrus/manager")
	type figure struct {
		name, unit, text string
		read             func() int64
	}
	figures := []figure{
		{"cetrus.manager.frames", "{frame}", "Frames that were checked and taken", func() int64 { return int64(m.ingest.Counts().Frames) }},
		{"cetrus.manager.records", "{record}", "Records that became durable", func() int64 { return int64(m.ingest.Counts().Records) }},
		{"cetrus.manager.refused", "{frame}", "Frames and agents refused", func() int64 { return int64(m.ingest.Counts().Refused) }},
		{"cetrus.manager.buffer.commits", "{commit}", "Synced commits", func() int64 { return int64(m.buffer.State().Stats.Commits) }},
		{"cetrus.manager.buffer.used", "By", "Size of the buffer", func() int64 { return m.buffer.State().UsedBytes }},
		{"cetrus.manager.backlog", "{message}", "Messages that wait for the platform", func() int64 { return int64(m.backlog()) }},
	}
	gauges := make([]metric.Int64ObservableGauge, len(figures))
	instruments := make([]metric.Observable, len(figures))
	for i, f := range figures {
		gauge, err := meter.Int64ObservableGauge(f.name, metric.WithUnit(f.unit), metric.WithDescription(f.text))
		if err != nil {
			return wrap(err)
		}
		gauges[i], instruments[i] = gauge, gauge
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for i, f := range figures {
			o.ObserveInt64(gauges[i], f.read())
		}
		return nil
	}, instruments...)
	return wrap(err)
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
