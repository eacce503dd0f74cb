package agent_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/agent/uplink"
	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	"github.com/cetrus/cetrus/proto/contract"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

var begin = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)

func id(n byte) []byte { return append(make([]byte, 15), n) }

func policy(revision uint64, names ...string) *policyv1.Policy {
	p := &policyv1.Policy{AccountId: id(1), Revision: revision, PauseAllowed: true, DocumentKey: make([]byte, 32)}
	for n, name := range names {
		p.Applications = append(p.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id(byte(100 + n)), DisplayName: name,
			Rules:         []*policyv1.Rule{{RuleId: id(byte(200 + n)), Executable: name}},
			ActivityGap:   durationpb.New(30 * time.Second),
			Timeout:       durationpb.New(30 * time.Minute),
			InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE,
		})
	}
	return p
}

// day is a morning's work: 10 minutes of typing in the editor, a lock, then the
// calculator in front with nobody there.
func day() []scripted.Step {
	return []scripted.Step{
		{At: 0, Do: scripted.LogOn{User: activity.User{Domain: "OFFICE", Name: "anna", DisplayName: "Anna"}}},
		{At: time.Second, Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
		{At: time.Second, Do: scripted.Show{ID: 1, PID: 10, Class: "Editor", Title: "letter"}},
		{At: time.Second, Do: scripted.Focus{ID: 1}},
		{At: time.Minute, Do: scripted.Inputs{For: 10 * time.Minute, Every: 5 * time.Second}},
		{At: 15 * time.Minute, Do: scripted.Lock{}},
		{At: 20 * time.Minute, Do: scripted.Unlock{}},
		{At: 21 * time.Minute, Do: scripted.Start{PID: 11, Path: "/usr/bin/calc"}},
		{At: 21 * time.Minute, Do: scripted.Show{ID: 2, PID: 11, Class: "Calc", Title: "sum"}},
		{At: 21 * time.Minute, Do: scripted.Focus{ID: 2}},
		{At: 40 * time.Minute, Do: scripted.Exit{PID: 11}},
		{At: 50 * time.Minute, Do: scripted.Exit{PID: 10}},
		{At: 51 * time.Minute, Do: scripted.LogOff{}},
	}
}

type office struct {
	tb      testing.TB
	dir     string
	manager *uplinktest.Manager
}

func newOffice(tb testing.TB) *office {
	tb.Helper()
	m, err := uplinktest.New(1)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Stop)
	return &office{tb: tb, dir: tb.TempDir(), manager: m}
}

func (o *office) config() agent.Config {
	return agent.Config{
		DataDir: o.dir, Managers: []string{o.manager.Address()}, Version: "test", Drain: true,
		Uplink: uplink.Config{FirstPause: time.Millisecond, LastPause: 20 * time.Millisecond, LivePeriod: time.Millisecond},
	}
}

func (o *office) agent(d desktop.Desktop, change func(*agent.Config, *agent.Deps)) *agent.Agent {
	o.tb.Helper()
	config := o.config()
	deps := agent.Deps{Desktop: d, Log: slog.New(slog.NewTextHandler(o.tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if change != nil {
		change(&config, &deps)
	}
	a, err := agent.New(config, deps)
	if err != nil {
		o.tb.Fatal(err)
	}
	return a
}

// play runs a script to its end.
func (o *office) play(steps []scripted.Step, change func(*agent.Config, *agent.Deps)) {
	o.tb.Helper()
	o.playFrom(begin, steps, change)
}

// playFrom runs a script that begins at some time, on a boot of its own.
func (o *office) playFrom(begin time.Time, steps []scripted.Step, change func(*agent.Config, *agent.Deps)) {
	o.tb.Helper()
	d := scripted.New(scripted.Config{
		Script: scripted.Steps(steps...), Begin: begin, Booted: time.Hour, Host: desktop.Host{Name: "desk-1", OperatingSystem: "Script"},
		Seed: sha256.Sum256([]byte(begin.String())),
	})
	defer d.Close()
	if err := o.agent(d, change).Run(o.tb.Context()); err != nil {
		o.tb.Fatal(err)
	}
}

// totals adds up what the Manager has, in milliseconds by application (its last
// byte) and attention.
func (o *office) totals() map[byte]map[usagev1.Attention]int64 {
	o.tb.Helper()
	if problems := o.manager.Problems(); len(problems) > 0 {
		o.tb.Fatal(errors.Join(problems...))
	}
	totals := make(map[byte]map[usagev1.Attention]int64)
	for _, e := range o.manager.Usage() {
		if c := e.GetClosed(); c != nil && len(e.GetDocumentId()) == 0 {
			app := e.GetApplicationId()[15]
			if totals[app] == nil {
				totals[app] = make(map[usagev1.Attention]int64)
			}
			totals[app][c.GetAttention()] += c.GetToBootMillis() - c.GetFromBootMillis()
		}
	}
	return totals
}

const minute = int64(60_000)

func TestFromDesktopToManager(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.play(day(), func(_ *agent.Config, d *agent.Deps) { d.Policy = policy(1, "editor", "calc") })
	totals := o.totals()
	editor, calc := totals[100], totals[101]
	if got := editor[usagev1.Attention_ATTENTION_BUSY]; got != 10*minute {
		t.Errorf("the editor was busy for %d ms, want %d", got, 10*minute)
	}
	if got := editor[usagev1.Attention_ATTENTION_AWAY]; got != 5*minute {
		t.Errorf("away for %d ms, want %d", got, 5*minute)
	}
	open := int64(0)
	for _, ms := range editor {
		open += ms
	}
	if want := 49*minute + 59_000; open != want {
		t.Errorf("the editor was open for %d ms, want %d", open, want)
	}
	if got := calc[usagev1.Attention_ATTENTION_IDLE]; got != 19*minute || calc[usagev1.Attention_ATTENTION_BUSY] != 0 {
		t.Errorf("the calculator: %v, want 19 minutes idle", calc)
	}
	hellos := o.manager.Hellos()
	if len(hellos) == 0 || hellos[0].GetHostName() != "desk-1" || hellos[0].GetPolicyRevision() != 1 {
		t.Errorf("hellos are %v", hellos)
	}
	live := o.manager.Live()
	if len(live) == 0 || !live[len(live)-1].GetEnded() {
		t.Errorf("the session's end is not shown: %d snapshots", len(live))
	}
}

// The same script gives the same totals, however the agent is interrupted in
// good order: what is not watched is UNKNOWN, and never busy.
func TestGoesOnAfterAStop(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := scripted.New(scripted.Config{Script: scripted.Steps(day()...), Begin: begin, Booted: time.Hour})
	defer d.Close()
	runs := 0
	for !d.Over() {
		ctx, cancel := context.WithCancel(t.Context())
		stopAt := d.Elapsed() + 7*time.Minute
		a := o.agent(&until{Desktop: d, stop: cancel, at: begin.Add(stopAt).UnixMilli()}, func(c *agent.Config, deps *agent.Deps) {
			c.Drain = false
			deps.Policy = policy(1, "editor", "calc")
		})
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		runs++
	}
	o.play(nil, nil) // sends what is left
	if runs < 5 {
		t.Errorf("the agent was interrupted %d times only", runs)
	}
	editor := o.totals()[100]
	if got := editor[usagev1.Attention_ATTENTION_BUSY]; got > 10*minute || got < 10*minute-int64(runs)*30_000 {
		t.Errorf("busy for %d ms over %d runs", got, runs)
	}
	open := int64(0)
	for _, ms := range editor {
		open += ms
	}
	if want := 49*minute + 59_000; open != want {
		t.Errorf("open for %d ms, want %d: %v", open, want, editor)
	}
}

// until stops an agent at a moment of its machine's time.
type until struct {
	*scripted.Desktop
	stop func()
	at   int64
}

func (u *until) Watch(ctx context.Context, tell func(activity.Observation)) error {
	return u.Desktop.Watch(ctx, func(o activity.Observation) {
		tell(o)
		if o.UTCMillis >= u.at {
			u.stop()
		}
	})
}

func TestPolicyAppliesWithoutRestart(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.manager.SetPolicy(policy(5, "editor"))
	script := scripted.Steps(
		scripted.Step{Do: scripted.LogOn{User: activity.User{Name: "anna"}}},
		scripted.Step{Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
		scripted.Step{Do: scripted.Start{PID: 11, Path: "/usr/bin/calc"}},
	)
	d := scripted.New(scripted.Config{Script: script, Begin: begin, Pace: scripted.Real(), Period: 10 * time.Millisecond, Endless: true})
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := o.agent(d, func(c *agent.Config, _ *agent.Deps) { c.Drain = false })
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	waitFor(t, "the policy is in force", func() bool { return a.Status().PolicyRevision == 5 && len(a.Status().Open) == 1 })
	o.manager.SetPolicy(policy(6, "editor", "calc"))
	waitFor(t, "the next one is", func() bool { return a.Status().PolicyRevision == 6 && len(a.Status().Open) == 2 })
	waitFor(t, "health tells so", func() bool {
		h := o.manager.Health()
		return len(h) > 0 && h[len(h)-1].GetAppliedPolicyRevision() == 6
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// It is there at the next start, though no Manager is.
	o.manager.Stop()
	a = o.agent(d, nil)
	defer a.Close()
	if got := a.Status().PolicyRevision; got != 6 {
		t.Errorf("the stored policy has revision %d, want 6", got)
	}
}

func TestPauseThroughTheSocket(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	script := scripted.Steps(
		scripted.Step{Do: scripted.LogOn{User: activity.User{Name: "anna"}}},
		scripted.Step{Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
		scripted.Step{Do: scripted.Show{ID: 1, PID: 10}},
		scripted.Step{Do: scripted.Focus{ID: 1}},
	)
	d := scripted.New(scripted.Config{Script: script, Begin: begin, Pace: scripted.Real(), Endless: true})
	defer d.Close()
	socket := filepath.Join(o.dir, "s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
		c.Drain, c.ControlSocket, deps.Policy = false, socket, policy(1, "editor")
	})
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	control := agent.NewControl(o.dir, socket)
	waitFor(t, "it answers", func() bool { s, err := control.Status(t.Context()); return err == nil && len(s.Open) == 1 })
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	for range 5 {
		if s, err := control.Resume(t.Context(), agent.PauseRequest{Everybody: true}); err != nil || s.Paused || len(s.Open) != 1 || s.Open[0].Attention == "paused" {
			t.Errorf("after resume: %+v, %v", s, err)
		}
		if s, err := control.Pause(t.Context(), agent.PauseRequest{Everybody: true}); err != nil || !s.Paused || s.Recording || len(s.Open) != 1 || s.Open[0].Attention != "paused" {
			t.Errorf("after pause: %+v, %v", s, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Paused it stays, over a restart too.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	a = o.agent(d, func(c *agent.Config, _ *agent.Deps) { c.Drain, c.ControlSocket = false, socket })
	done = make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	waitFor(t, "it answers", func() bool { s, err := control.Status(t.Context()); return err == nil && s.Paused })
	if s, err := control.Resume(t.Context(), agent.PauseRequest{Everybody: true}); err != nil || s.Paused {
		t.Errorf("after resume: %+v, %v", s, err)
	}
	forbidding := policy(2, "editor")
	forbidding.PauseAllowed = false
	o.manager.SetPolicy(forbidding)
	waitFor(t, "the policy is in force", func() bool { return a.Status().PolicyRevision == 2 })
	if _, err := control.Pause(t.Context(), agent.PauseRequest{Everybody: true}); err == nil || !strings.Contains(err.Error(), "does not allow") {
		t.Errorf("a pause that is not allowed: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := control.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no agent runs") || !strings.Contains(err.Error(), "cetrus-agent start") {
		t.Errorf("without an agent: %v", err)
	}
	// What an agent that was killed left behind answers nobody.
	leftover, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	leftover.SetUnlinkOnClose(false)
	_ = leftover.Close()
	if _, err := control.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no agent runs") {
		t.Errorf("a leftover: %v", err)
	}
}

// A socket's path may be 107 bytes long; a data directory's may be longer.
func TestControlSocketInALongDirectory(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.dir = filepath.Join(o.dir, strings.Repeat("long-", 20), strings.Repeat("longer-", 20))
	d := scripted.New(scripted.Config{Begin: begin, Pace: scripted.Real(), Endless: true})
	defer d.Close()
	for range 2 { // what the first leaves behind is in nobody's way
		ctx, cancel := context.WithCancel(t.Context())
		a := o.agent(d, func(c *agent.Config, _ *agent.Deps) { c.Drain = false })
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		control := agent.NewControl(o.dir, "")
		waitFor(t, "it answers", func() bool {
			s, err := control.Status(t.Context())
			return err == nil && s.AgentID == a.Status().AgentID
		})
		info, err := os.Stat(filepath.Join(o.dir, "control.sock"))
		if err != nil || info.Mode().Perm() != 0o666 {
			t.Errorf("the socket: %v, %v", info, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	// A name that is too long by itself has no way round.
	a := o.agent(d, func(c *agent.Config, _ *agent.Deps) {
		c.ControlSocket = filepath.Join(o.dir, strings.Repeat("s", 120))
	})
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "control-socket") {
		t.Errorf("a name that cannot be: %v", err)
	}
}

// A journal that is full stops the recording, loses nothing, and the time that
// was not recorded is UNKNOWN once there is room again.
func TestFullJournalIsSaid(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	address := o.manager.Address()
	o.manager.Stop()
	var steps []scripted.Step
	steps = append(steps, scripted.Step{Do: scripted.LogOn{User: activity.User{Name: "anna"}}})
	for n := range int32(1500) {
		at := time.Duration(n) * 10 * time.Second
		steps = append(
			steps,
			scripted.Step{At: at + time.Second, Do: scripted.Start{PID: 100 + n, Path: "/usr/bin/editor"}},
			scripted.Step{At: at + 3*time.Second, Do: scripted.Exit{PID: 100 + n}},
		)
	}
	steps = append(steps, scripted.Step{At: 16_000 * time.Second, Do: scripted.LogOff{}})
	d := scripted.New(scripted.Config{Script: scripted.Steps(steps...), Begin: begin, Booted: time.Hour})
	defer d.Close()
	seen := make(chan agent.Status, 1)
	var a *agent.Agent
	probe := &tap{Desktop: d, told: func(activity.Observation) {
		if s := a.Status(); s.Problem != "" && s.Problem != "no policy yet: the Manager has not told what to record" {
			select {
			case seen <- s:
				// The Manager comes back.
				m, err := uplinktest.Listen(address, 2)
				if err != nil {
					t.Errorf("listen again: %v", err)
					return
				}
				o.manager = m
				t.Cleanup(m.Stop)
				waitFor(t, "there is room", func() bool { return a.Status().Journal.Unacknowledged == 0 })
			default:
			}
		}
	}}
	a = o.agent(probe, func(c *agent.Config, deps *agent.Deps) {
		c.JournalBytes, deps.Policy = 300<<10, policy(1, "editor")
	})
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-seen:
		if s.Recording || !strings.Contains(s.Problem, "connect one, or allow a larger journal") {
			t.Errorf("status while full: %+v", s)
		}
	default:
		t.Fatal("the journal never got full")
	}
	open := int64(0)
	for attention, ms := range o.totals()[100] {
		open += ms
		if attention == usagev1.Attention_ATTENTION_BUSY {
			t.Errorf("busy for %d ms with no input", ms)
		}
	}
	if open == 0 {
		t.Error("nothing arrived")
	}
}

// A disk that fails so badly that nobody knows what is on it ends the agent, and the
// next start goes on: nothing is counted twice, and what was not kept is UNKNOWN.
func TestBrokenJournalEndsTheAgent(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := scripted.New(scripted.Config{Script: scripted.Steps(day()...), Begin: begin, Booted: time.Hour})
	defer d.Close()
	synced, broken := 0, errors.New("input/output error")
	err := o.agent(d, func(_ *agent.Config, deps *agent.Deps) {
		deps.Policy = policy(1, "editor", "calc")
		deps.Sync = func(f *os.File) error {
			if strings.HasSuffix(f.Name(), ".seg") {
				if synced++; synced > 5 {
					return broken
				}
			}
			return nil
		}
	}).Run(t.Context())
	if !errors.Is(err, journal.ErrBroken) || !errors.Is(err, broken) {
		t.Fatalf("the agent ended with %v", err)
	}
	if d.Over() {
		t.Fatal("the agent watched on, with nowhere to write to")
	}
	if err := o.agent(d, nil).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	open := int64(0)
	for _, ms := range o.totals()[100] {
		open += ms
	}
	if busy := o.totals()[100][usagev1.Attention_ATTENTION_BUSY]; busy > 10*minute || open != 50*minute-1_000 {
		t.Errorf("open for %d ms, busy for %d", open, busy)
	}
}

// tap hears what is told.
type tap struct {
	*scripted.Desktop
	told func(activity.Observation)
}

func (d *tap) Watch(ctx context.Context, tell func(activity.Observation)) error {
	return d.Desktop.Watch(ctx, func(o activity.Observation) {
		tell(o)
		d.told(o)
	})
}

func TestSightingsWhereWanted(t *testing.T) {
	t.Parallel()
	for _, wanted := range []bool{false, true} {
		o := newOffice(t)
		o.play(day(), func(_ *agent.Config, d *agent.Deps) {
			d.Policy = policy(1, "editor")
			d.Policy.SightingsWanted = wanted
		})
		found := false
		for _, report := range o.manager.Sightings() {
			for _, s := range report.GetSightings() {
				found = found || s.GetExecutable() == "calc"
			}
		}
		if found != wanted {
			t.Errorf("sightings wanted: %v, told: %v", wanted, found)
		}
	}
}

func TestOneAgentPerDirectory(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := scripted.New(scripted.Config{Begin: begin})
	a := o.agent(d, nil)
	if _, err := agent.New(o.config(), agent.Deps{Desktop: d}); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent in the directory: %v", err)
	}
	a.Close()
	o.agent(d, nil).Close()
}

func TestIdentityLasts(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := scripted.New(scripted.Config{Begin: begin})
	a := o.agent(d, nil)
	first := a.Status().AgentID
	a.Close()
	a = o.agent(d, nil)
	if second := a.Status().AgentID; first != second {
		t.Errorf("the agent was %s and is %s", first, second)
	}
	a.Close()
}

// damage breaks a file of the data directory as a failing disk does.
func (o *office) damage(names ...string) {
	o.tb.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(`{"agent_id":"x`), 0o600); err != nil {
			o.tb.Fatal(err)
		}
	}
}

// A damaged identity is found again beside it, or in the journal: what waits there is
// sent under the id that it was journalled with.
func TestDamagedIdentity(t *testing.T) {
	t.Parallel()
	for _, damaged := range [][]string{{"identity.json"}, {"identity.json", "identity.copy.json"}} {
		t.Run(strings.Join(damaged, "+"), func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.play(day(), func(_ *agent.Config, deps *agent.Deps) { deps.Policy = policy(1, "editor", "calc") })
			first := o.manager.Hellos()[0]
			address := o.manager.Address()
			o.manager.Stop()
			waiting := 0
			next := scripted.New(scripted.Config{Script: scripted.Steps(day()...), Begin: begin.Add(24 * time.Hour), Seed: [32]byte{1}})
			defer next.Close()
			if err := o.agent(next, func(c *agent.Config, deps *agent.Deps) {
				c.Drain = false
				deps.Journalled = func(events []*usagev1.UsageEvent) { waiting += len(events) }
			}).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			o.damage(damaged...)
			m, err := uplinktest.Listen(address, 2)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(m.Stop)
			o.manager = m
			d := scripted.New(scripted.Config{Begin: begin})
			a := o.agent(d, nil)
			if set := a.Status().SetAside; len(set) != len(damaged) || !strings.Contains(set[len(set)-1], "identity.json.damaged") {
				t.Errorf("status does not say what was set aside: %q", set)
			}
			if err := a.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			hello := m.Hellos()[0]
			if string(hello.GetAgentId()) != string(first.GetAgentId()) {
				t.Errorf("the agent was %x and is %x", first.GetAgentId(), hello.GetAgentId())
			}
			if same := string(hello.GetMachineId()) == string(first.GetMachineId()); same != (len(damaged) == 1) {
				t.Errorf("the machine is the same: %v", same)
			}
			if waiting == 0 || m.Count() != waiting {
				t.Errorf("%d records waited, %d arrived", waiting, m.Count())
			}
			if problems := m.Problems(); len(problems) > 0 {
				t.Error(errors.Join(problems...))
			}
			// The next start finds everything in its place.
			again := o.agent(d, nil)
			if again.Status().AgentID != a.Status().AgentID {
				t.Error("the identity was not written down")
			}
			again.Close()
		})
	}
}

// A damaged policy is set aside, which status says, and the agent goes on until a Manager
// sends another.
func TestDamagedPolicy(t *testing.T) {
	t.Parallel()
	for name, damaged := range map[string]string{"garbage": "garbage\n", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			d := scripted.New(scripted.Config{Begin: begin})
			defer d.Close()
			o.agent(d, func(_ *agent.Config, deps *agent.Deps) { deps.Policy = policy(1, "editor") }).Close()
			file := filepath.Join(o.dir, "policy.pb")
			sound := o.agent(d, nil)
			s := sound.Status()
			sound.Close()
			if s.PolicyRevision != 1 || len(s.SetAside) > 0 {
				t.Fatalf("with a sound policy: %+v", s)
			}
			if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
				t.Fatal(err)
			}
			a := o.agent(d, nil)
			defer a.Close()
			if s = a.Status(); len(s.SetAside) != 1 || s.SetAside[0] != file+".damaged" || s.PolicyRevision != 0 {
				t.Errorf("set aside %q, policy revision %d", s.SetAside, s.PolicyRevision)
			}
			if kept, err := os.ReadFile(file + ".damaged"); err != nil || string(kept) != damaged {
				t.Errorf("kept %q, %v", kept, err)
			}
		})
	}
}

// A policy that can be read and not applied is told in status and health until another is
// in force.
func TestPolicyThatCannotBeApplied(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := scripted.New(scripted.Config{Begin: begin})
	defer d.Close()
	o.agent(d, func(_ *agent.Config, deps *agent.Deps) { deps.Policy = policy(1, "editor") }).Close()
	unfit := policy(2, "editor")
	unfit.Applications[0].Rules[0].RuleId = nil
	text, err := proto.Marshal(unfit)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.dir, "policy.pb"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	a := o.agent(d, nil)
	s, h := a.Status(), agent.Health(a)
	a.Close()
	if s.Recording || s.PolicyRevision != 0 || !strings.Contains(s.Problem, "revision 2") || h.GetPolicyProblem() != s.Problem {
		t.Errorf("status: %+v; health: %v", s, h)
	}
	sound := o.agent(d, func(_ *agent.Config, deps *agent.Deps) { deps.Policy = policy(3, "editor") })
	defer sound.Close()
	if s, h := sound.Status(), agent.Health(sound); s.Problem != "" || h.GetPolicyProblem() != "" || s.PolicyRevision != 3 {
		t.Errorf("with a sound one: %+v; health: %v", s, h)
	}
}

// What was recorded while no Manager was there is told as a backlog, from its first record on, until it is sent.
func TestBacklogIsTold(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.manager.Stop()
	o.play(day(), func(c *agent.Config, deps *agent.Deps) { c.Drain, deps.Policy = false, policy(1, "editor", "calc") })
	d := scripted.New(scripted.Config{Begin: time.Now(), Pace: scripted.Real(), Endless: true})
	defer d.Close()
	manager, err := uplinktest.New(1)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Stop()
	manager.SetFaults(uplinktest.Faults{DropAck: 1000})
	o.manager = manager
	a := o.agent(d, func(c *agent.Config, _ *agent.Deps) { c.Drain, c.Uplink.HealthPeriod = false, 10*time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	last := func() (b *agentv1.Backlog, told bool) {
		all := manager.Health()
		if len(all) == 0 {
			return nil, false
		}
		return all[len(all)-1].GetBacklog(), true
	}
	waitFor(t, "the backlog is told", func() bool { b, _ := last(); return b != nil })
	b, _ := last()
	if oldest := time.UnixMilli(b.GetOldestUtcMillis()); oldest.Before(begin) || oldest.After(begin.Add(10*time.Minute)) || b.GetNewestUtcMillis() != 0 || b.GetSentMillis() != 0 ||
		(time.Duration(b.GetTimeMillis())*time.Millisecond-time.Since(oldest)).Abs() > time.Minute {
		t.Errorf("of an hour since %s it tells %v", begin, b)
	}
	manager.SetFaults(uplinktest.Faults{})
	manager.CutAll()
	waitFor(t, "nothing of it is left", func() bool { b, told := last(); return told && b == nil })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Damaged aliases are drawn anew, but for those that the crash slot knows: a person who
// is at work stays the same one. The Manager is told of all of them.
func TestDamagedPersons(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{true, false} {
		t.Run(fmt.Sprintf("open %v", open), func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			aliases := make(map[string]bool)
			listen := func(c *agent.Config, deps *agent.Deps) {
				c.Drain = false
				deps.Journalled = func(events []*usagev1.UsageEvent) {
					for _, e := range events {
						aliases[string(e.GetPrincipalAlias())] = true
					}
				}
				deps.Policy = policy(1, "editor", "calc")
			}
			d := scripted.New(scripted.Config{Script: scripted.Steps(day()...), Begin: begin, Booted: time.Hour})
			defer d.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			watched := &until{Desktop: d, stop: cancel, at: begin.Add(2 * time.Hour).UnixMilli()}
			if open {
				watched.at = begin.Add(12 * time.Minute).UnixMilli()
			}
			if err := o.agent(watched, listen).Run(ctx); err != nil {
				t.Fatal(err)
			}
			o.damage("persons.json", "persons.copy.json", "settings.json")
			if !open {
				d = scripted.New(scripted.Config{Script: scripted.Steps(day()...), Begin: begin.Add(24 * time.Hour), Seed: [32]byte{1}})
				defer d.Close()
			}
			a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
				listen(c, deps)
				c.Drain = true
			})
			// Whoever had paused is not recorded because a file is damaged.
			if !a.Status().Paused {
				t.Error("what the person had chosen is lost, and recording goes on")
			}
			if err := a.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if want := 2; open && len(aliases) != 1 || !open && len(aliases) != want {
				t.Errorf("there are %d aliases of one person", len(aliases))
			}
			if problems := o.manager.Problems(); len(problems) > 0 {
				t.Error(errors.Join(problems...)) // among them, records of an alias that nobody has told
			}
			kept, err := filepath.Glob(filepath.Join(o.dir, "*.damaged"))
			if err != nil || len(kept) != 3 {
				t.Errorf("kept aside are %v, %v", kept, err)
			}
		})
	}
}

func TestForeignPolicyIsRefused(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := scripted.New(scripted.Config{Begin: begin, Pace: scripted.Real(), Endless: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) { c.Drain, deps.Policy = false, policy(1, "editor") })
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	foreign := policy(9, "everything")
	foreign.AccountId = id(99)
	o.manager.SetPolicy(foreign)
	broken := policy(10, "editor")
	broken.Applications[0].Rules[0].Title = "("
	waitFor(t, "it is connected", func() bool { return a.Status().Manager.Connected })
	o.manager.SetPolicy(broken)
	good := policy(11, "editor", "calc")
	waitFor(t, "the good one is in force", func() bool {
		o.manager.SetPolicy(good)
		return a.Status().PolicyRevision == 11
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if contract.ID(id(1)).IsZero() {
		t.Fatal("the account of the test is no account")
	}
}

func waitFor(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Errorf("waited in vain until %s", what)
			return
		}
	}
}
