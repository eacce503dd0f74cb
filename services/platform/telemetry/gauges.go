package telemetry

import (
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// Gauges are figures that are looked up when somebody asks for them.
type Gauges struct {
	meter    metric.Meter
	observed []metric.Observable
	err      error
}

// NewGauges are those of a package, which its path names.
func NewGauges(scope string) *Gauges { return &Gauges{meter: otel.Meter(scope)} }

// Gauge is one more of them. The unit is as UCUM writes it. What is wrong with it Look tells.
func (g *Gauges) Gauge(name, unit, text string) metric.Int64ObservableGauge {
	made, err := g.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(text))
	if err != nil && g.err == nil {
		g.err = fmt.Errorf("telemetry: %s: %w", name, err)
	}
	g.observed = append(g.observed, made)
	return made
}

// Look has all of them looked up by one function, until the registration is undone.
func (g *Gauges) Look(up metric.Callback) (metric.Registration, error) {
	if g.err != nil {
		return nil, g.err
	}
	registration, err := g.meter.RegisterCallback(up, g.observed...)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return registration, nil
}
