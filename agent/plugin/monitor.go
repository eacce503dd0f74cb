package plugin

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// MonitorName is the activity monitor's.
const MonitorName = "activity-monitor"

// Monitor is the built-in plug-in that tells the others what the agent observes. It works
// on what is shown live: a final event may wait for as long as the activity gap, and a
// prompt for a project may not. What it tells is therefore provisional where attention
// and state are concerned; that something opened or closed is not taken back.
type Monitor struct {
	mu      sync.Mutex
	version string
	shown   map[string]map[string]*pluginv1.Event // session -> instance -> as last told
	pending []*pluginv1.Event
	wake    chan struct{}
}

// Moment places what is shown on the boot timeline.
type Moment struct {
	BootID                []byte
	BootMillis, UTCMillis int64
}

// NewMonitor makes the monitor of an agent of a version.
func NewMonitor(version string) *Monitor {
	return &Monitor{version: version, shown: map[string]map[string]*pluginv1.Event{}, wake: make(chan struct{}, 1)}
}

// Show takes the live snapshots of a moment and gives what has happened since those
// before. It never waits.
func (m *Monitor) Show(snapshots []*usagev1.LiveSnapshot, at Moment) []*pluginv1.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	var events []*pluginv1.Event
	for _, s := range snapshots {
		session := string(s.GetSessionId())
		before, now := m.shown[session], map[string]*pluginv1.Event{}
		for _, o := range s.GetOpen() {
			instance := string(o.GetInstanceId())
			e := &pluginv1.Event{
				Kind: pluginv1.EventKind_EVENT_KIND_CHANGED, ApplicationId: o.GetApplicationId(), InstanceId: o.GetInstanceId(),
				SessionId: s.GetSessionId(), PrincipalAlias: s.GetPrincipalAlias(), Attention: o.GetAttention(), State: o.GetState(),
				BootId: at.BootID, AtBootMillis: at.on(o.GetSinceUtcMillis()),
			}
			was := before[instance]
			if was == nil {
				e.Kind, e.AtBootMillis = pluginv1.EventKind_EVENT_KIND_OPENED, at.on(o.GetOpenedUtcMillis())
			}
			if was == nil || was.GetAttention() != e.GetAttention() || was.GetState() != e.GetState() {
				events = append(events, e)
			}
			now[instance] = e
		}
		for instance, was := range before {
			if now[instance] == nil {
				closed := proto.CloneOf(was)
				closed.Kind, closed.AtBootMillis, closed.Attention, closed.State = pluginv1.EventKind_EVENT_KIND_CLOSED, at.BootMillis, 0, 0
				events = append(events, closed)
			}
		}
		m.shown[session] = now
		if s.GetEnded() {
			delete(m.shown, session)
		}
	}
	if len(events) > 0 {
		m.pending = append(m.pending, events...)
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	return events
}

// on is the boot time of a time of the wall clock.
func (at Moment) on(utcMillis int64) int64 { return max(0, at.BootMillis-(at.UTCMillis-utcMillis)) }

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
