package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/fingerprint"
	"github.com/cetrus/cetrus/agent/uplink"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/stack"
)

// patience is how long anything may take on a busy machine.
const patience = 90 * time.Second

// site is a platform with its Manager, and what agents have journalled.
type site struct {
	t      *testing.T
	api    *api.Client
	agents string // address
	token  string // to enrol by; empty: none is given
	policy *policyv1.Policy
	uplink uplink.Config

	mu    sync.Mutex
	truth map[contract.ID]*usagev1.UsageEvent // by event
}

func start(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "cetrus-fleet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // for PostgreSQL's own user
		t.Fatal(err)
	}
	binary, err := stack.Build(t.Context(), dir, "services/cmd/cetrus")
	if err != nil {
		t.Fatal(err)
	}
	p, err := stack.StartPlatform(t.Context(), binary, filepath.Join(dir, "platform"), filepath.Join(t.ArtifactDir(), "cetrus.log"), append(stack.Anywhere().Listen(), stack.Plaintext)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, api: p.API, agents: p.ManagerAgents, truth: make(map[contract.ID]*usagev1.UsageEvent)}
	if _, err := s.api.CreateApplication(t.Context(), &meteringv1.Application{
		DisplayName: "Draft", ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(30 * time.Minute),
		Rules: []*meteringv1.Rule{{Executable: "draft"}},
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// machine is what a copy of it differs in.
func machine(n string) fingerprint.Traits {
	return fingerprint.Traits{fingerprint.System: {"uuid-" + n}, fingerprint.Network: {"mac-" + n}, fingerprint.Installation: {"copied"}}
}

// seat is an agent's folder on a machine.
type seat struct {
	site *site
	dir  string
	host string
	on   fingerprint.Traits
}

func (s *site) seat(host string, on fingerprint.Traits) *seat {
	return &seat{site: s, dir: s.t.TempDir(), host: host, on: on}
}

// copied is the same folder on another machine, or seemingly on the same.
func (s *seat) copied(host string, on fingerprint.Traits) *seat {
	c := s.site.seat(host, on)
	if err := os.CopyFS(c.dir, os.DirFS(s.dir)); err != nil {
		s.site.t.Fatal(err)
	}
	return c
}

func (s *seat) id() string {
	var kept struct {
		Agent string `json:"agent_id"`
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "identity.json"))
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		s.site.t.Fatal(err)
	}
	return kept.Agent
}

var errAway = errors.New("no network")

// open makes an agent over a scripted desktop.
func (s *seat) open(c scripted.Config, offline bool) (*agent.Agent, *scripted.Desktop, error) {
	c.Host, c.Booted = desktop.Host{Name: s.host, OperatingSystem: "Script"}, time.Hour
	c.Seed = sha256.Sum256(fmt.Appendf(nil, "%s %v", s.host, c.Begin))
	d := scripted.New(c)
	deps := agent.Deps{
		Desktop: d, Journalled: s.site.journalled, Policy: s.site.policy, Traits: func() fingerprint.Traits { return s.on },
		Log: slog.New(slog.NewTextHandler(s.site.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("seat", s.host),
	}
	if offline {
		deps.Dial = append(deps.Dial, grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errAway }))
	}
	talk := s.site.uplink
	talk.FirstPause, talk.LastPause, talk.RefusalPause, talk.HealthPeriod = time.Millisecond, 100*time.Millisecond, 100*time.Millisecond, time.Second
	a, err := agent.New(agent.Config{
		DataDir: s.dir, Managers: []string{s.site.agents}, Version: "fleet", ControlSocket: agent.NoControl, Drain: !offline, Uplink: talk,
		EnrollmentToken: s.site.token,
	}, deps)
	return a, d, err
}

// day is a day of work in virtual time.
func day(person string) []scripted.Step {
	return []scripted.Step{
		{At: 0, Do: scripted.LogOn{User: activity.User{Domain: "FLEET", Name: person}}},
		{At: time.Second, Do: scripted.Start{PID: 10, Path: "/usr/bin/draft"}},
		{At: time.Second, Do: scripted.Show{ID: 1, PID: 10, Class: "Draft", Title: "plan"}},
		{At: time.Second, Do: scripted.Focus{ID: 1}},
		{At: time.Minute, Do: scripted.Inputs{For: 47 * time.Minute, Every: 5 * time.Second}},
		{At: 70 * time.Minute, Do: scripted.Lock{}},
		{At: 80 * time.Minute, Do: scripted.Unlock{}},
		{At: 90 * time.Minute, Do: scripted.Exit{PID: 10}},
		{At: 91 * time.Minute, Do: scripted.LogOff{}},
	}
}

// work plays a day that lies some days back.
func (s *seat) work(person string, daysBack int, offline bool) {
	s.site.t.Helper()
	begin := time.Now().Truncate(time.Hour).AddDate(0, 0, -daysBack)
	a, d, err := s.open(scripted.Config{Script: scripted.Steps(day(person)...), Begin: begin}, offline)
	if err == nil {
		defer d.Close()
		err = a.Run(s.site.t.Context())
	}
	if err != nil {
		s.site.t.Errorf("%s: %v", s.host, err)
	}
}

// stay works in real time until it is told to leave, as whichever agent it is told to be.
func (s *seat) stay(leaving *atomic.Bool, opened func(*agent.Agent)) error {
	for {
		a, d, err := s.open(scripted.Config{Begin: time.Now(), Pace: scripted.Real(), Script: func(yield func(scripted.Step) bool) {
			at, goes := time.Duration(0), yield(scripted.Step{Do: scripted.LogOn{User: activity.User{Domain: "FLEET", Name: s.host}}})
			for _, do := range []scripted.Action{scripted.Start{PID: 10, Path: "/usr/bin/draft"}, scripted.Show{ID: 1, PID: 10, Class: "Draft", Title: "plan"}} {
				goes = goes && yield(scripted.Step{Do: do})
			}
			for goes && !leaving.Load() {
				at += 200 * time.Millisecond
				goes = yield(scripted.Step{At: at, Do: scripted.Focus{ID: uint64(at/(200*time.Millisecond)) % 2}})
			}
			if goes {
				yield(scripted.Step{At: at + time.Millisecond, Do: scripted.LogOff{}})
			}
		}}, false)
		if err != nil {
			return err
		}
		if opened != nil {
			opened(a)
		}
		err = a.Run(s.site.t.Context())
		d.Close()
		if !errors.Is(err, agent.ErrBeginAnew) {
			return err
		}
	}
}

// learn waits until the seat's agent has the policy.
func (s *site) learn(seat *seat) {
	s.t.Helper()
	var leaving atomic.Bool
	done := make(chan error, 1)
	go func() { done <- seat.stay(&leaving, nil) }()
	s.await("the agent has a policy", func() error {
		text, err := os.ReadFile(filepath.Join(seat.dir, "policy.pb"))
		policy := new(policyv1.Policy)
		if err == nil {
			err = proto.Unmarshal(text, policy)
		}
		if err == nil && len(policy.GetApplications()) == 0 {
			err = errors.New("it names no application")
		}
		s.policy = policy
		return err
	})
	leaving.Store(true)
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) await(what string, condition func() error) {
	s.t.Helper()
	if err := stack.Wait(s.t.Context(), patience, what, condition); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) journalled(events []*usagev1.UsageEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		s.truth[contract.ID(e.GetEventId())] = proto.CloneOf(e)
	}
}

// expected adds up what was journalled, each event once.
func (s *site) expected() (totals map[usagev1.Attention]time.Duration, instances int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	totals = make(map[usagev1.Attention]time.Duration)
	for _, e := range s.truth {
		if len(e.GetDocumentId()) > 0 {
			continue
		}
		if e.GetTransition() == usagev1.Transition_TRANSITION_OPENED {
			instances++
		}
		if c := e.GetClosed(); c != nil {
			totals[c.GetAttention()] += time.Duration(c.GetToBootMillis()-c.GetFromBootMillis()) * time.Millisecond
		}
	}
	return totals, instances
}

// checkTotals compares what the platform has counted with what was journalled.
func (s *site) checkTotals() error {
	now := time.Now().UTC().Truncate(15 * time.Minute)
	summary := new(meteringv1.SummarizeUsageResponse)
	if err := s.api.Get(s.t.Context(), "/v1/usage:summarize", url.Values{
		"start_time": {now.AddDate(0, 0, -30).Format(time.RFC3339)}, "end_time": {now.Add(time.Hour).Format(time.RFC3339)},
	}, summary); err != nil {
		return err
	}
	want, instances := s.expected()
	got := summary.GetTotals()
	for attention, counted := range map[usagev1.Attention]*durationpb.Duration{
		usagev1.Attention_ATTENTION_BUSY: got.GetBusy(), usagev1.Attention_ATTENTION_IDLE: got.GetIdle(), usagev1.Attention_ATTENTION_AWAY: got.GetAway(),
		usagev1.Attention_ATTENTION_BACKGROUND: got.GetBackground(), usagev1.Attention_ATTENTION_UNKNOWN: got.GetUnknown(),
	} {
		if counted.AsDuration() != want[attention] {
			return fmt.Errorf("%v: %v is counted, %v was journalled", attention, counted.AsDuration(), want[attention])
		}
	}
	if got.GetInstances() != instances {
		return fmt.Errorf("%d instances are counted, %d were journalled", got.GetInstances(), instances)
	}
	return nil
}

func (s *site) list(query url.Values) (agents []*meteringv1.Agent) {
	s.t.Helper()
	for {
		page := new(meteringv1.ListAgentsResponse)
		if err := s.api.Get(s.t.Context(), "/v1/agents", query, page); err != nil {
			s.t.Fatal(err)
		}
		agents = append(agents, page.GetAgents()...)
		if page.GetNextPageToken() == "" {
			return agents
		}
		query.Set("page_token", page.GetNextPageToken())
	}
}

func (s *site) get(id string) (*meteringv1.Agent, error) {
	a := new(meteringv1.Agent)
	return a, s.api.Get(s.t.Context(), "/v1/agents/"+id, nil, a)
}

func TestFleet(t *testing.T) {
	s := start(t)
	first := s.seat("golden", machine("one"))
	s.learn(first)

	// A day without a network; then the disk is copied to another machine, and the folder
	// to one that cannot be told from the first.
	first.work("ada", 5, true)
	clone := first.copied("clone", machine("two"))
	twin := first.copied("twin", machine("one"))
	for _, copied := range []*seat{first, clone, twin} {
		waiting := new(agent.WaitingError)
		if _, err := agent.Generalize(copied.dir, false); !errors.As(err, &waiting) {
			t.Fatalf("%s holds nothing that waits, so this proves nothing: %v", copied.host, err)
		}
	}
	twin.work("cy", 3, true) // under numbers that the first uses too
	first.work("ada", 4, false)
	clone.work("ben", 3, false)
	if first.id() == clone.id() {
		t.Error("the copy on another machine is the same agent")
	}
	if twin.id() != first.id() {
		t.Error("the copy that cannot be told from the first is another agent without having been told")
	}

	// First and twin are connected at once: the Manager tells the younger to begin anew.
	var leaving atomic.Bool
	ended := make(chan error, 2)
	running := make(chan *agent.Agent, 1)
	go func() { ended <- first.stay(&leaving, func(a *agent.Agent) { running <- a }) }()
	ada := <-running
	s.await("the first is connected", func() error {
		if a, err := s.get(first.id()); err != nil || !a.GetConnected() || a.GetMachineName() != "golden" {
			return fmt.Errorf("it is %v, %w", a, err)
		}
		return nil
	})
	go func() { ended <- twin.stay(&leaving, nil) }()
	s.await("the twin is an agent of its own", func() error {
		if twin.id() == first.id() {
			return errors.New("it is the first still")
		}
		a, err := s.get(twin.id())
		if err == nil && (!a.GetConnected() || a.GetMachineName() != "twin") {
			err = fmt.Errorf("it is %v", a)
		}
		return err
	})

	// What is seen of them centrally.
	if err := ada.SetPaused(true); err != nil {
		t.Fatal(err)
	}
	s.await("the API tells that the first was copied and is paused", func() error {
		a, err := s.get(first.id())
		if err == nil && (!a.GetPaused() || a.GetAgentVersion() != "fleet" || a.GetPolicyRevision() == 0 || a.GetManagerId() == "" ||
			!slices.Contains(a.GetConditions(), meteringv1.AgentCondition_AGENT_CONDITION_COPIED)) {
			err = fmt.Errorf("it is %v", a)
		}
		return err
	})
	if all := s.list(url.Values{"page_size": {"1"}}); len(all) != 3 || all[0].GetMachineName() != "clone" || all[2].GetMachineName() != "twin" {
		t.Errorf("the agents are %v", all)
	}
	if copied := s.list(url.Values{"conditions": {"AGENT_CONDITION_COPIED", "AGENT_CONDITION_PAUSED"}}); len(copied) != 1 || copied[0].GetAgentId() != first.id() {
		t.Errorf("copied and paused are %v", copied)
	}
	if silent := s.list(url.Values{"conditions": {"AGENT_CONDITION_SILENT"}}); len(silent) != 0 {
		t.Errorf("silent are %v", silent)
	}
	refused := new(api.Error)
	if _, err := s.get("00000000-0000-4000-8000-000000000000"); !errors.As(err, &refused) || refused.HTTPStatus != http.StatusNotFound {
		t.Errorf("an agent that there is not: %v", err)
	}
	if err := ada.SetPaused(false); err != nil {
		t.Fatal(err)
	}

	leaving.Store(true)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	s.await("all is counted once", s.checkTotals)
	quality := new(meteringv1.GetDataQualityResponse)
	if err := s.api.Get(t.Context(), "/v1/usage:dataQuality", nil, quality); err != nil {
		t.Fatal(err)
	}
	if len(quality.GetQuarantined()) > 0 {
		t.Errorf("quarantined: %v", quality.GetQuarantined())
	}
	if !slices.ContainsFunc(quality.GetConditions(), func(c *meteringv1.AgentConditionCount) bool {
		return c.GetCondition() == meteringv1.AgentCondition_AGENT_CONDITION_COPIED && c.GetAgents() == 1
	}) {
		t.Errorf("data quality counts %v", quality.GetConditions())
	}
	for _, dir := range []string{clone.dir, twin.dir} {
		if left, err := filepath.Glob(filepath.Join(dir, "inherited", "*")); err != nil || len(left) > 0 {
			t.Errorf("left of what was inherited: %v, %v", left, err)
		}
	}
}
