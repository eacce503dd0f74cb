package agent_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
)

// Managers that one names outlive the agent, once one of them has taken it, until somebody
// changes the settings on the machine.
func TestNamedManagersAreKept(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	next, err := uplinktest.New(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Stop)
	o.manager.SetManagers(next.Address())
	// run runs an agent until a Manager has had so many hellos.
	run := func(where *uplinktest.Manager, hellos int, managers ...string) {
		t.Helper()
		begun := time.Now()
		d := scripted.New(scripted.Config{Begin: begun, Booted: time.Hour, Pace: scripted.Since(begun), Endless: true, Host: desktop.Host{Name: "desk-1"}})
		defer d.Close()
		a := o.agent(d, func(c *agent.Config, _ *agent.Deps) { c.Managers, c.Drain = managers, false })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		waitFor(t, "the Manager is greeted, and adopted", func() bool {
			return len(where.Hellos()) == hellos && len(where.Health()) >= hellos
		})
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	installed := []string{o.manager.Address()}
	run(next, 1, installed...)
	o.manager.Stop()
	before := len(o.manager.Hellos())
	run(next, 2, installed...)
	if n := len(o.manager.Hellos()) - before; n != 0 {
		t.Errorf("the old Manager was greeted %d times more", n)
	}
	third, err := uplinktest.New(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(third.Stop)
	run(third, 1, slices.Concat([]string{third.Address()}, installed)...)
}
