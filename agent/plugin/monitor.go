package plugin

import (
	"context"
	"sync"

	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// MonitorName is the activity monitor's.
const MonitorName = "activity-monitor"

// Monitor is the built-in plug-in that tells the others what the agent observes: the
// activity package's events, as the contract words them.
type Monitor struct {
	mu      sync.Mutex
	version string
	pending []*pluginv1.Event
	wake    chan struct{}
}

// NewMonitor makes the monitor of an agent of a version.
func NewMonitor(version string) *Monitor {
	return &Monitor{version: version, wake: make(chan struct{}, 1)}
}

// Observed takes what the agent has journalled. It never waits.
func (m *Monitor) Observed(events []*usagev1.UsageEvent) {
	m.mu.Lock()
	for _, e := range events {
		if told := eventOf(e); told != nil {
			m.pending = append(m.pending, told)
		}
	}
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func eventOf(e *usagev1.UsageEvent) *pluginv1.Event {
	kind := pluginv1.EventKind_EVENT_KIND_CHANGED
	switch e.GetTransition() {
	case usagev1.Transition_TRANSITION_OPENED:
		kind = pluginv1.EventKind_EVENT_KIND_OPENED
	case usagev1.Transition_TRANSITION_CLOSED:
		kind = pluginv1.EventKind_EVENT_KIND_CLOSED
	case usagev1.Transition_TRANSITION_CUT:
		return nil // nothing has happened
	default:
	}
	return &pluginv1.Event{
		Kind: kind, ApplicationId: e.GetApplicationId(), InstanceId: e.GetInstanceId(), DocumentId: e.GetDocumentId(),
		SessionId: e.GetSessionId(), PrincipalAlias: e.GetPrincipalAlias(), Attention: e.GetAttention(), State: e.GetState(),
		BootId: e.GetBootId(), AtBootMillis: e.GetAtBootMillis(), AnchorId: e.GetAnchorId(),
	}
}

// Describe implements Plugin.
func (m *Monitor) Describe(context.Context) (*pluginv1.DescribeResponse, error) {
	return &pluginv1.DescribeResponse{Name: MonitorName, Version: m.version, Facts: []pluginv1.FactKind{pluginv1.FactKind_FACT_KIND_ACTIVITY}}, nil
}

// Configure implements Plugin.
func (*Monitor) Configure(context.Context, *pluginv1.ConfigureRequest) error { return nil }

// Notify implements Plugin.
func (*Monitor) Notify(context.Context, []*pluginv1.Event) error { return nil }

// Report implements Plugin.
func (m *Monitor) Report(ctx context.Context, tell func(*pluginv1.ReportResponse) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		}
		m.mu.Lock()
		events := m.pending
		m.pending = nil
		m.mu.Unlock()
		if len(events) == 0 {
			continue
		}
		if err := tell(&pluginv1.ReportResponse{Report: &pluginv1.ReportResponse_Activity{Activity: &pluginv1.NotifyRequest{Events: events}}}); err != nil {
			return err
		}
	}
}

// Check implements Plugin.
func (*Monitor) Check(context.Context) (*pluginv1.Health, error) {
	return &pluginv1.Health{Well: true}, nil
}

// Stop implements Plugin.
func (*Monitor) Stop(context.Context) error { return nil }
