package dryrun

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/manager"
	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// patience is how long anything may take but what is measured.
const patience = 30 * time.Second

// within is how soon metering must answer after it was restarted.
const within = 5 * time.Second

var account = contract.ID{0xac, 15: 1}

// run runs something until the test or stop ends it.
func run(t *testing.T, what string, work func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- work(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// apis takes what metering registers.
type apis struct {
	meteringv1.ApplicationServiceServer
	meteringv1.SettingsServiceServer
}

func (a *apis) RegisterService(_ *grpc.ServiceDesc, impl any) {
	switch s := impl.(type) {
	case meteringv1.ApplicationServiceServer:
		a.ApplicationServiceServer = s
	case meteringv1.SettingsServiceServer:
		a.SettingsServiceServer = s
	}
}

type office struct {
	t      *testing.T
	ctx    context.Context
	nc     *nats.Conn
	stores *metering.Stores
	api    apis
	began  time.Time
}

func (o *office) startMetering() (stop func()) {
	o.t.Helper()
	s, err := metering.New(metering.Config{Accounts: []contract.ID{account}}, metering.Deps{NATS: o.nc, Stores: o.stores, Logger: platformtest.Logger(o.t)})
	if err != nil {
		o.t.Fatal(err)
	}
	s.Register(&o.api)
	return run(o.t, "metering", s.Run)
}

// try answers a dry run, a line for each match.
func (o *office) try(rules ...*meteringv1.Rule) []string {
	o.t.Helper()
	resp, err := o.api.TestRules(o.ctx, &meteringv1.TestRulesRequest{Rules: rules})
	if err != nil {
		o.t.Fatal(err)
	}
	var lines []string
	for _, m := range resp.GetMatches() {
		line := m.GetPath() + " " + m.GetWindowClass()
		if m.GetTitleUnknown() {
			line += " if titled"
		}
		for _, c := range m.GetClaims() {
			line += fmt.Sprintf("; %s: %s", c.GetDisplayName(), strings.TrimPrefix(c.GetPrecedence().String(), "PRECEDENCE_"))
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// awaitSeen waits until what is seen and not metered is told so.
func (o *office) awaitSeen(want ...string) {
	o.t.Helper()
	for began := time.Now(); ; <-time.After(20 * time.Millisecond) {
		resp, err := o.api.ListSeenPrograms(o.ctx, &meteringv1.ListSeenProgramsRequest{})
		if err != nil {
			o.t.Fatal(err)
		}
		var got []string
		for _, p := range resp.GetPrograms() {
			got = append(got, fmt.Sprintf("%s on %d", p.GetName(), p.GetMachineCount()))
			if since := p.GetFirstSeenTime().AsTime(); since.Before(o.began) || since.After(time.Now()) {
				o.t.Errorf("%s is seen since %v", p.GetName(), since)
			}
		}
		if slices.Equal(got, want) {
			return
		}
		if time.Since(began) > patience {
			o.t.Fatalf("seen and not metered are %q, not %q", got, want)
		}
	}
}

// await waits until a dry run answers so, and tells how long that took.
func (o *office) await(rule *meteringv1.Rule, want ...string) time.Duration {
	o.t.Helper()
	began := time.Now()
	for {
		got := o.try(rule)
		if slices.Equal(got, want) {
			return time.Since(began)
		}
		if time.Since(began) > patience {
			o.t.Fatalf("%v is answered\n%s\nnot\n%s", rule, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (o *office) meter(a *meteringv1.Application) {
	o.t.Helper()
	if _, err := o.api.CreateApplication(o.ctx, &meteringv1.CreateApplicationRequest{Application: a}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) wantSightings(wanted bool) {
	o.t.Helper()
	_, err := o.api.UpdateSettings(o.ctx, &meteringv1.UpdateSettingsRequest{
		Settings: &meteringv1.Settings{SightingsWanted: wanted}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"sightings_wanted"}},
	})
	if err != nil {
		o.t.Fatal(err)
	}
}

func TestADryRunAgainstWhatAgentsSee(t *testing.T) {
	platform := natsserver.PlatformUser(natsserver.NewPassword())
	service := natsserver.RoleUser(natsserver.Metering, natsserver.NewPassword())
	server, err := natsserver.Start(t.Context(), natsserver.Config{
		StoreDir: t.TempDir(), Unsynced: true, Users: []natsserver.User{platform, service}, Logger: platformtest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	o := &office{t: t, began: time.Now(), ctx: authn.WithCaller(t.Context(), authn.Caller{Account: account, Actor: "test", Reach: authzv1.Reach_REACH_ACCOUNT})}
	all, err := server.Connect(platform)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(all.Close)
	if err := natsserver.EnsureStreams(t.Context(), all, natsserver.Streams{}); err != nil {
		t.Fatal(err)
	}
	if o.nc, err = server.Connect(service); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.nc.Close)
	if o.stores, err = metering.OpenStores(t.Context(), platformtest.Database(t), platformtest.Logger(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.stores.Close)

	// Whatever is told of sightings is kept, to look for what must not be in it.
	var mu sync.Mutex
	var told bytes.Buffer
	if _, err := o.nc.Subscribe(contract.SightingSubjects, func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		told.Write(m.Data)
	}); err != nil {
		t.Fatal(err)
	}

	stopMetering := o.startMetering()
	o.meter(&meteringv1.Application{DisplayName: "Browser", Rules: []*meteringv1.Rule{{Executable: "firefox", Priority: 1}}})

	m, err := manager.New(manager.Config{DataDir: t.TempDir(), AccountID: account, AgentsSecurity: manager.Plaintext, AgentsAddress: "127.0.0.1:0", StatusAddress: "127.0.0.1:0"}, manager.Deps{
		Log: platformtest.Logger(t),
		Platform: func(_ context.Context, id contract.ID) (*nats.Conn, error) {
			user := natsserver.ManagerUser(account, id, natsserver.NewPassword())
			if err := server.SetUsers(platform, service, user); err != nil {
				return nil, err
			}
			return server.Connect(user)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, "the Manager", m.Run)

	desk := scripted.New(scripted.Config{
		Host: desktop.Host{Name: "desk", OperatingSystem: "Linux"}, Begin: time.Now(), Booted: time.Hour,
		Pace: scripted.Faster(20), Endless: true, Period: time.Second,
		Script: scripted.Steps(
			scripted.Step{Do: scripted.LogOn{User: activity.User{Name: "adalovelace"}}},
			scripted.Step{Do: scripted.Start{PID: 10, Path: "/usr/bin/firefox"}},
			scripted.Step{Do: scripted.Show{ID: 1, PID: 10, Class: "Navigator", Title: "Tracker: Hidden matter"}},
			scripted.Step{Do: scripted.Start{PID: 11, Path: "/home/adalovelace/bin/draft"}},
			scripted.Step{Do: scripted.Show{ID: 2, PID: 11, Class: "Draft", Title: "Hidden plan"}},
		),
	})
	t.Cleanup(desk.Close)
	a, err := agent.New(agent.Config{DataDir: t.TempDir(), Managers: []string{m.AgentsAddress()}, Version: "test", ControlSocket: agent.NoControl},
		agent.Deps{Desktop: desk, Log: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, "the agent", a.Run)

	everything := &meteringv1.Rule{Executable: "*"}
	t.Log("metered programs are tried after", o.await(everything,
		"/usr/bin/firefox ; Browser: PRESENT", "/usr/bin/firefox Navigator; Browser: PRESENT"))
	o.wantSightings(true)
	t.Log("all programs are tried after", o.await(everything,
		"/home/*/bin/draft ", "/home/*/bin/draft Draft", "/usr/bin/firefox ; Browser: PRESENT", "/usr/bin/firefox Navigator; Browser: PRESENT"))

	o.awaitSeen("draft on 1")

	// A title is matched on the agent, which tells who claims the window; the trial of
	// a title is not answered by looking for it.
	o.meter(&meteringv1.Application{DisplayName: "Tracker", Rules: []*meteringv1.Rule{{Executable: "firefox", Title: "tracker", Priority: 5}}})
	titled := &meteringv1.Rule{WindowClass: "navi*", Title: "no window has this", Priority: 9}
	const claimed = "/usr/bin/firefox Navigator if titled; Tracker: TESTED_RULE"
	o.await(titled, claimed)

	stopMetering()
	began := time.Now()
	o.startMetering()
	o.await(titled, claimed)
	o.await(&meteringv1.Rule{Executable: "draft"}, "/home/*/bin/draft ", "/home/*/bin/draft Draft")
	if took := time.Since(began); took > within {
		t.Errorf("a restarted metering answers after %v", took)
	} else {
		t.Log("a restarted metering answers after", took)
	}

	// What nobody asks for any more is forgotten.
	o.wantSightings(false)
	t.Log("forgotten after", o.await(&meteringv1.Rule{Executable: "draft"}))
	o.awaitSeen()
	mu.Lock()
	defer mu.Unlock()
	for _, secret := range []string{"Hidden", "adalovelace"} {
		if bytes.Contains(told.Bytes(), []byte(secret)) {
			t.Errorf("%q left the desktop", secret)
		}
	}
}
