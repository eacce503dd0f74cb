package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

const sixWeeks = 42 * 24 * time.Hour

// sleepy has programs open over a long sleep.
func sleepy(programs int32) []scripted.Step {
	steps := []scripted.Step{{Do: scripted.LogOn{User: activity.User{Name: "anna"}}}}
	for n := range programs {
		steps = append(steps, scripted.Step{At: time.Second, Do: scripted.Start{PID: 100 + n, Path: "/usr/bin/editor"}})
	}
	return append(
		steps,
		scripted.Step{At: time.Minute, Do: scripted.Sleep{For: sixWeeks}},
		scripted.Step{At: sixWeeks + 3*time.Minute, Do: scripted.LogOff{}},
	)
}

// sleptThrough checks that every program's time adds up.
func (o *office) sleptThrough(programs int64) {
	o.tb.Helper()
	totals, open := o.totals()[100], int64(0)
	for _, ms := range totals {
		open += ms
	}
	if want := programs * (sixWeeks + 3*time.Minute - time.Second).Milliseconds(); open != want {
		o.tb.Errorf("open for %d ms, want %d: %v", open, want, totals)
	}
	if want := programs * sixWeeks.Milliseconds(); totals[usagev1.Attention_ATTENTION_SUSPENDED] != want {
		o.tb.Errorf("asleep for %d ms, want %d: %v", totals[usagev1.Attention_ATTENTION_SUSPENDED], want, totals)
	}
}

// Six weeks of sleep are some 80,000 cuts at quarter-hours, which come in parts: they fit
// into a journal that could never hold them together, as a Manager takes them.
func TestSixWeeksOfSleepInASmallJournal(t *testing.T) {
	t.Parallel()
	programs := int32(20)
	if testing.Short() {
		programs = 3
	}
	o := newOffice(t)
	o.play(sleepy(programs), func(c *agent.Config, deps *agent.Deps) {
		c.JournalBytes, deps.Policy = journal.LeastMaxBytes, policy(1, "editor")
	})
	o.sleptThrough(int64(programs))
}

// With the journal's own size all of it waits for a Manager that is away, and nothing is
// said to be wrong.
func TestSixWeeksOfSleepWithoutAManager(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	address := o.manager.Address()
	o.manager.Stop()
	d := scripted.New(scripted.Config{Script: scripted.Steps(sleepy(20)...), Begin: begin, Booted: time.Hour})
	defer d.Close()
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) { c.Drain, deps.Policy = false, policy(1, "editor") })
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.Problem != "" || s.Journal.Unacknowledged < 80_000 {
		t.Errorf("%d records wait, %q", s.Journal.Unacknowledged, s.Problem)
	}
	m, err := uplinktest.Listen(address, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	o.manager = m
	o.play(nil, nil)
	o.sleptThrough(20)
}

// An agent that stops while a small journal is full of a long sleep keeps what was
// written: what was not is UNKNOWN once it goes on, and nothing is there twice.
func TestStopInTheMidstOfALongSleep(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	address := o.manager.Address()
	o.manager.Stop()
	d := scripted.New(scripted.Config{Script: scripted.Steps(sleepy(3)...), Begin: begin, Booted: time.Hour})
	defer d.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var a *agent.Agent
	full := &tap{Desktop: d, told: func(activity.Observation) {
		if a.Status().Problem != "" {
			stop()
		}
	}}
	small := func(c *agent.Config, deps *agent.Deps) {
		c.JournalBytes, deps.Policy = journal.LeastMaxBytes, policy(1, "editor")
	}
	a = o.agent(full, small)
	if err := a.Run(ctx); err == nil {
		t.Fatal("the journal was never full")
	}
	if d.Over() {
		t.Fatal("the agent did not stop")
	}
	m, err := uplinktest.Listen(address, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	o.manager = m
	// A script is over in no time: it waits until the Manager has made room.
	again := &tap{Desktop: d, told: func(activity.Observation) {
		waitFor(t, "the Manager has taken what was kept", func() bool { return a.Status().Journal.Unacknowledged == 0 })
	}}
	a = o.agent(again, small)
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	totals, open := o.totals()[100], int64(0)
	for _, ms := range totals {
		open += ms
	}
	if want := 3 * (sixWeeks + 3*time.Minute - time.Second).Milliseconds(); open != want {
		t.Errorf("open for %d ms, want %d: %v", open, want, totals)
	}
	if totals[usagev1.Attention_ATTENTION_SUSPENDED] == 0 || totals[usagev1.Attention_ATTENTION_UNKNOWN] == 0 {
		t.Errorf("asleep and unknown: %v", totals)
	}
}
