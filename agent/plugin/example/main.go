// Command opening-counter is an example of a plug-in for the Cetrus agent. It counts
// how often monitored applications open, and says so in its health.
//
// Its settings (PluginPolicy.settings, JSON) are {"warn_after": N}: with more openings than that it
// says that it is not well. {"misbehave": "crash"}, "hang", "memory" or "lie" make it a bad
// plug-in, for the tests of the agent.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/plugin/serve"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
)

func main() { serve.Run(&counter{}) }

type settings struct {
	WarnAfter int    `json:"warn_after"`
	Misbehave string `json:"misbehave"`
}

// counter implements plugin.Plugin.
type counter struct {
	mu       sync.Mutex
	settings settings
	openings int
	eaten    [][]byte
}

func (c *counter) Describe(context.Context) (*pluginv1.DescribeResponse, error) {
	return &pluginv1.DescribeResponse{
		Name: "opening-counter", Version: "1.0.0",
		Events: []pluginv1.EventKind{pluginv1.EventKind_EVENT_KIND_OPENED},
		Facts:  []pluginv1.FactKind{pluginv1.FactKind_FACT_KIND_INVENTORY},
	}, nil
}

func (c *counter) Configure(_ context.Context, r *pluginv1.ConfigureRequest) error {
	var s settings
	if text := r.GetPolicy().GetSettings(); len(text) > 0 {
		if err := json.Unmarshal(text, &s); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings = s
	return nil
}

func (c *counter) Notify(_ context.Context, events []*pluginv1.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.openings += len(events)
	switch c.settings.Misbehave {
	case "crash":
		os.Exit(3)
	case "hang":
		select {}
	case "memory":
		for range 512 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			c.eaten = append(c.eaten, b)
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// Report tells how many openings there were, whenever that has changed.
func (c *counter) Report(ctx context.Context, tell func(*pluginv1.ReportResponse) error) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	told := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		c.mu.Lock()
		openings, lie := c.openings, c.settings.Misbehave == "lie"
		c.mu.Unlock()
		if openings == told {
			continue
		}
		told = openings
		report := &pluginv1.ReportResponse{Report: &pluginv1.ReportResponse_Inventory{Inventory: &pluginv1.Inventory{
			Kind: "openings", Snapshot: fmt.Append(nil, openings),
		}}}
		if lie {
			report = &pluginv1.ReportResponse{Report: &pluginv1.ReportResponse_Choice{Choice: &pluginv1.Choice{InstanceId: make([]byte, 16)}}}
		}
		if err := tell(report); err != nil {
			return err
		}
	}
}

func (c *counter) Check(context.Context) (*pluginv1.Health, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if most := c.settings.WarnAfter; most > 0 && c.openings > most {
		return &pluginv1.Health{Message: fmt.Sprintf("%d openings, more than %d", c.openings, most)}, nil
	}
	return &pluginv1.Health{Well: true}, nil
}

func (c *counter) Stop(context.Context) error { return nil }
