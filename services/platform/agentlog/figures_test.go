package agentlog_test

import (
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
)

// An alert asks how much these have grown, and has to see them before the first record is set aside.
func TestWhatIsSetAsideIsCountedFromZero(t *testing.T) {
	reader, before := metric.NewManualReader(), otel.GetMeterProvider()
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))
	t.Cleanup(func() { otel.SetMeterProvider(before) })
	agentlog.NewDecoder(agentlog.Config{})
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, _ := m.Data.(metricdata.Sum[int64])
			for _, point := range sum.DataPoints {
				reason, _ := point.Attributes.Value("reason")
				told[m.Name+" "+reason.AsString()] = point.Value == 0
			}
		}
	}
	for _, counter := range []string{"cetrus.agentlog.quarantined", "cetrus.agentlog.quarantine.overflowed"} {
		for _, reason := range []string{contract.ReasonMalformed, contract.ReasonConflict, contract.ReasonUnknownAnchor} {
			if !told[counter+" "+reason] {
				t.Errorf("%s of %s is not told: %v", counter, reason, told)
			}
		}
	}
}
