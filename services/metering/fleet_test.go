package metering

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/resource"
)

func TestEachConditionIsSeen(t *testing.T) {
	t.Parallel()
	health := func(h *agentv1.Health) *agentv1.AgentState { return &agentv1.AgentState{Health: h} }
	for want, state := range map[meteringv1.AgentCondition]*agentv1.AgentState{
		meteringv1.AgentCondition_AGENT_CONDITION_BACKLOG:     health(&agentv1.Health{UnacknowledgedRecords: backlogFrom + 1}),
		meteringv1.AgentCondition_AGENT_CONDITION_PAUSED:      health(&agentv1.Health{Paused: true}),
		meteringv1.AgentCondition_AGENT_CONDITION_UNSUPPORTED: health(&agentv1.Health{Unsupported: []string{"focus"}}),
		meteringv1.AgentCondition_AGENT_CONDITION_PLUGIN: health(&agentv1.Health{Plugins: []*agentv1.PluginHealth{
			{State: agentv1.PluginState_PLUGIN_STATE_REFUSED}, {State: agentv1.PluginState_PLUGIN_STATE_RUNNING},
		}}),
		meteringv1.AgentCondition_AGENT_CONDITION_RELEASE: health(&agentv1.Health{Release: &agentv1.ReleaseReport{State: agentv1.ReleaseState_RELEASE_STATE_REFUSED}}),
		meteringv1.AgentCondition_AGENT_CONDITION_MANAGER: health(&agentv1.Health{ManagerProblem: "its certificate has expired"}),
		meteringv1.AgentCondition_AGENT_CONDITION_POLICY:  health(&agentv1.Health{PolicyProblem: "it has no rules"}),
		meteringv1.AgentCondition_AGENT_CONDITION_REFUSED: {Refusals: 1},
		meteringv1.AgentCondition_AGENT_CONDITION_COPIED:  {Copied: true},
	} {
		if got := conditionsIn(conditionsOf(state)); !slices.Equal(got, []meteringv1.AgentCondition{want}) {
			t.Errorf("%v: the conditions are %v", want, got)
		}
	}
	if got := conditionsIn(conditionsOf(health(&agentv1.Health{UnacknowledgedRecords: backlogFrom}))); len(got) != 0 {
		t.Errorf("a healthy agent has %v", got)
	}
}

// What Managers tell is had by the account's callers and nobody else, the latest of each
// agent, with what the log tells of agents that no Manager speaks of.
func TestAgentsAreListed(t *testing.T) {
	t.Parallel()
	s := newService(t, Config{})
	api := &agentAPI{service: s}
	account, stranger, now := resource.NewID(), resource.NewID(), time.Now()
	ids := []contract.ID{resource.NewID(), resource.NewID(), resource.NewID()}
	managers := []contract.ID{resource.NewID(), resource.NewID()}
	tell := func(manager contract.ID, states ...*agentv1.AgentState) {
		t.Helper()
		told := &agentv1.AgentStates{ManagerId: manager[:], UtcMillis: now.UnixMilli()}
		for _, state := range states {
			told.Agents = append(told.Agents, proto.CloneOf(state))
		}
		s.fleet.take(origin{account, manager}, told, now)
		s.fleet.keep(t.Context())
	}
	state := func(n int, host string, seen time.Time) *agentv1.AgentState {
		machine := resource.NewID()
		return &agentv1.AgentState{AgentId: ids[n][:], MachineId: machine[:], HostName: host, AgentVersion: "1.0.0", Connected: true, SeenUtcMillis: seen.UnixMilli()}
	}
	wrong := state(0, "b", now)
	wrong.SkewMillis, wrong.Health = -skewedFrom.Milliseconds()-1, &agentv1.Health{Paused: true}
	tell(managers[0], wrong, state(1, "A", now.Add(-2*silentAfter)))
	// A Manager that the agent has left speaks of it later, of what was before.
	tell(managers[1], state(0, "left", now.Add(-time.Minute)))
	// Of the third only the log tells, and that its clock shows no time that there is.
	machine := resource.NewID()
	if _, err := s.stores.Views.Projector.Exec(t.Context(), `INSERT INTO agent VALUES ($1, $2, $3, $4, $5, 7, 6)`, account, ids[2], machine, now.UnixMilli(), int64(math.MinInt64)); err != nil {
		t.Fatal(err)
	}

	list := func(account contract.ID, req *meteringv1.ListAgentsRequest) (agents []*meteringv1.Agent) {
		t.Helper()
		for {
			page, err := api.ListAgents(as(t.Context(), account), req)
			if err != nil {
				t.Fatal(err)
			}
			if agents = append(agents, page.GetAgents()...); page.GetNextPageToken() == "" {
				return agents
			}
			req.PageToken = page.GetNextPageToken()
		}
	}
	if got := list(stranger, &meteringv1.ListAgentsRequest{}); len(got) != 0 {
		t.Errorf("a stranger is told of %v", got)
	}
	all := list(account, &meteringv1.ListAgentsRequest{PageSize: 1})
	if len(all) != 3 || all[0].GetAgentId() != ids[2].String() || all[1].GetMachineName() != "A" || all[2].GetMachineName() != "b" {
		t.Fatalf("the agents are %v", all)
	}
	if all[2].GetManagerId() != managers[0].String() || !all[2].GetConnected() || all[1].GetConnected() {
		t.Errorf("of the second and third is told: %v", all[1:])
	}
	only := func(want int, conditions ...meteringv1.AgentCondition) {
		t.Helper()
		got := list(account, &meteringv1.ListAgentsRequest{Conditions: conditions})
		if len(got) != 1 || got[0].GetAgentId() != ids[want].String() {
			t.Errorf("%v: %v", conditions, got)
		}
	}
	only(1, meteringv1.AgentCondition_AGENT_CONDITION_SILENT)
	only(0, meteringv1.AgentCondition_AGENT_CONDITION_SKEWED, meteringv1.AgentCondition_AGENT_CONDITION_PAUSED)
	for _, token := range []string{"x", markToken("agents", 1, contract.ID{}), textToken(fmt.Sprintf("agents %s 0", account), textMark{text: "a\x00"})} {
		if _, err := api.ListAgents(as(t.Context(), account), &meteringv1.ListAgentsRequest{PageToken: token}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a token that nobody gave: %v", err)
		}
	}
	one, err := api.GetAgent(as(t.Context(), account), &meteringv1.GetAgentRequest{AgentId: ids[2].String()})
	if err != nil || one.GetAgent().GetMachineId() != machine.String() || one.GetAgent().GetSkew().GetSeconds() >= 0 {
		t.Errorf("one agent: %v, %v", one, err)
	}
	if _, err := api.GetAgent(as(t.Context(), stranger), &meteringv1.GetAgentRequest{AgentId: ids[2].String()}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a stranger asks for it: %v", err)
	}
	quality, err := (&usageAPI{service: s}).GetDataQuality(as(t.Context(), account), &meteringv1.GetDataQualityRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := quality.GetConditions(); len(got) != 3 || got[0].GetCondition() != meteringv1.AgentCondition_AGENT_CONDITION_SILENT || got[0].GetAgents() != 1 {
		t.Errorf("the conditions are %v", got)
	}
}

// fleetOf is a service, an account of one Manager, and what tells and lists there. What is
// told is told to a fleet of the test's own, which a service that runs does not write, too.
type fleetOf struct {
	*Service
	fleet            *fleet
	api              *agentAPI
	account, manager contract.ID
}

func newFleetOf(t *testing.T) *fleetOf {
	s := newService(t, Config{})
	return &fleetOf{s, newFleet(s.log, s.nats, s.fleet.stores), &agentAPI{service: s}, resource.NewID(), resource.NewID()}
}

// tell tells, at a moment of the platform's, by a Manager's clock.
func (f *fleetOf) tell(t *testing.T, now time.Time, managersClock time.Duration, agents ...*agentv1.AgentState) {
	t.Helper()
	f.fleet.take(origin{f.account, f.manager}, &agentv1.AgentStates{ManagerId: f.manager[:], UtcMillis: now.Add(managersClock).UnixMilli(), Agents: agents}, now)
	f.fleet.keep(t.Context())
}

func (f *fleetOf) list(t *testing.T, req *meteringv1.ListAgentsRequest) []*meteringv1.Agent {
	t.Helper()
	page, err := f.api.ListAgents(as(t.Context(), f.account), req)
	if err != nil {
		t.Fatal(err)
	}
	return page.GetAgents()
}

func stateAt(agent contract.ID, host string, seen time.Time) *agentv1.AgentState {
	return &agentv1.AgentState{AgentId: agent[:], MachineId: agent[:], HostName: host, SeenUtcMillis: seen.UnixMilli()}
}

// A Manager's clock may be as wrong as it likes: silence is by the platform's.
func TestAManagersClockHidesNoSilence(t *testing.T) {
	t.Parallel()
	f := newFleetOf(t)
	now := time.Now()
	for _, clock := range []time.Duration{-24 * time.Hour, 0, 24 * time.Hour} {
		silent, heard := resource.NewID(), resource.NewID()
		f.tell(t, now, clock, stateAt(silent, "silent", now.Add(clock-2*silentAfter)), stateAt(heard, "heard", now.Add(clock)))
		got := f.list(t, &meteringv1.ListAgentsRequest{Conditions: []meteringv1.AgentCondition{meteringv1.AgentCondition_AGENT_CONDITION_SILENT}})
		if len(got) != 1 || got[0].GetAgentId() != silent.String() {
			t.Errorf("with a Manager's clock %v ahead the silent ones are %v", clock, got)
		}
		for _, id := range []contract.ID{silent, heard} {
			if _, err := f.stores.Views.Projector.Exec(t.Context(), "DELETE FROM agent_state WHERE agent_id = $1", id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An agent that nobody hears of falls away, and one that is removed does until it is heard
// of again.
func TestAgentsFallAway(t *testing.T) {
	t.Parallel()
	f := newFleetOf(t)
	start(t, f.Service)
	now := time.Now()
	gone, removed := resource.NewID(), resource.NewID()
	f.tell(t, now, 0, stateAt(gone, "gone", now.Add(-forgottenAfter-time.Minute)), stateAt(removed, "removed", now.Add(-time.Minute)))
	if got := f.list(t, &meteringv1.ListAgentsRequest{}); len(got) != 1 || got[0].GetAgentId() != removed.String() {
		t.Fatalf("before it is removed there are %v", got)
	}
	f.fleet.forget(t.Context(), now)
	var rows int
	if err := f.stores.Views.Projector.QueryRow(t.Context(), "SELECT count(*) FROM agent_state WHERE account_id = $1", f.account).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d states are kept, %v", rows, err)
	}
	if _, err := f.api.RemoveAgent(as(t.Context(), resource.NewID()), &meteringv1.RemoveAgentRequest{AgentId: removed.String()}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a stranger removes it: %v", err)
	}
	request := &meteringv1.RemoveAgentRequest{AgentId: removed.String(), RequestId: resource.NewID().String()}
	for range 2 { // a repeated request is the same
		if _, err := f.api.RemoveAgent(as(t.Context(), f.account), request); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.list(t, &meteringv1.ListAgentsRequest{}); len(got) != 0 {
		t.Errorf("once it is removed there are %v", got)
	}
	// Its Manager tells of it again, but has not heard it since.
	f.tell(t, time.Now(), 0, stateAt(removed, "removed", now.Add(-time.Minute)))
	if got := f.list(t, &meteringv1.ListAgentsRequest{}); len(got) != 0 {
		t.Errorf("though nobody heard of it there are %v", got)
	}
	later := time.Now().Add(time.Second)
	f.tell(t, later, 0, stateAt(removed, "removed", later))
	if got := f.list(t, &meteringv1.ListAgentsRequest{}); len(got) != 1 {
		t.Errorf("once it is heard of again there are %v", got)
	}
}

// A page begins behind the last agent of the page before, whatever came and went meanwhile.
func TestPagesOfAgentsGoByThePlace(t *testing.T) {
	t.Parallel()
	f := newFleetOf(t)
	now := time.Now()
	// Names that differ behind what the order goes by, and in their letters' case only.
	hosts := []string{"b", "B", "Ä", strings.Repeat("ü", 200) + "1", strings.Repeat("ü", 200) + "2", "", "z"}
	ids := map[string]bool{}
	for _, host := range hosts {
		id := resource.NewID()
		ids[id.String()] = true
		f.tell(t, now, 0, stateAt(id, host, now))
	}
	req := &meteringv1.ListAgentsRequest{PageSize: 1}
	for n := 0; ; n++ {
		page, err := f.api.ListAgents(as(t.Context(), f.account), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.GetAgents() {
			if !ids[a.GetAgentId()] {
				t.Errorf("%q is there twice, or came before the page", a.GetMachineName())
			}
			delete(ids, a.GetAgentId())
		}
		if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
		if len(req.GetPageToken()) > 512 {
			t.Fatalf("a page token has %d characters", len(req.GetPageToken()))
		}
		f.tell(t, now, 0, stateAt(contract.ID{15: byte(n + 1)}, "", now))
	}
	if len(ids) != 0 {
		t.Errorf("on no page are %v", ids)
	}
}

// One account's agents take no room from another's.
func TestAnAccountTakesNobodysRoom(t *testing.T) {
	t.Parallel()
	f := newFleet(slog.New(slog.DiscardHandler), nil, nil)
	full, other, manager, now := resource.NewID(), resource.NewID(), resource.NewID(), time.Now()
	for range maxAgents {
		if agent := resource.NewID(); !f.put(agentKey{full, agent}, toldState{manager: manager}) {
			t.Fatal("there is no room below the bound")
		}
	}
	if f.put(agentKey{full, resource.NewID()}, toldState{manager: manager}) {
		t.Error("there is room above the bound")
	}
	f.take(origin{other, manager}, &agentv1.AgentStates{Agents: []*agentv1.AgentState{stateAt(resource.NewID(), "ws", now)}}, now)
	if f.rooms[other].agents != 1 {
		t.Error("another account's agent has no place")
	}
	for range 2 { // the second takes the first's place
		f.put(agentKey{other, full}, toldState{manager: manager, bytes: maxWaitingBytes - 1000})
	}
	if f.rooms[other].agents != 2 || f.put(agentKey{other, resource.NewID()}, toldState{bytes: 1001}) {
		t.Errorf("the room is %+v", f.rooms[other])
	}
}

// heeding calls what is to be done when something is logged.
type heeding struct {
	slog.Handler
	do func()
}

func (h heeding) Enabled(context.Context, slog.Level) bool { return true }

func (h heeding) Handle(context.Context, slog.Record) error {
	h.do()
	return nil
}

// What could not be written is not forgotten for an older word that came meanwhile.
func TestWhatCouldNotBeWrittenIsWrittenLater(t *testing.T) {
	t.Parallel()
	nc := platformtest.NATS(t)
	stores := openStores(t)
	gone, err := stores.Views.Beside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	account, agent, manager, now := resource.NewID(), resource.NewID(), resource.NewID(), time.Now()
	tell := func(f *fleet, host string, seen time.Time) {
		f.take(origin{account, manager}, &agentv1.AgentStates{ManagerId: manager[:], Agents: []*agentv1.AgentState{
			{AgentId: agent[:], MachineId: agent[:], HostName: host, SeenUtcMillis: seen.UnixMilli()},
		}}, now)
	}
	var f *fleet
	log := slog.New(heeding{slog.DiscardHandler, func() { tell(f, "older", now.Add(-time.Minute)) }})
	serving := gone
	f = newFleet(log, nc, func() []*postgres.Store { return []*postgres.Store{serving} })
	tell(f, "newer", now)
	f.keep(t.Context())
	serving = stores.Views
	f.keep(t.Context())
	var host string
	if err := serving.Projector.QueryRow(t.Context(), "SELECT host_name FROM agent_state WHERE account_id = $1 AND agent_id = $2", account, agent).Scan(&host); err != nil || host != "newer" {
		t.Errorf("what stands there is of %q, %v", host, err)
	}
}

// A service that starts asks, and what a Manager answers is kept.
func TestHealthComesFromManagers(t *testing.T) {
	t.Parallel()
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	account, manager, agent := resource.NewID(), resource.NewID(), resource.NewID()
	if _, err := nc.Subscribe(contract.HealthAskSubject, func(*nats.Msg) {
		raw, err := proto.Marshal(&agentv1.AgentStates{ManagerId: manager[:], Agents: []*agentv1.AgentState{
			{AgentId: agent[:], MachineId: agent[:], HostName: "ws", SeenUtcMillis: time.Now().UnixMilli(), Connected: true},
		}})
		if err == nil {
			err = nc.Publish(contract.HealthSubject(account, manager), raw)
		}
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	start(t, s)
	api := &agentAPI{service: s}
	for late := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		got, err := api.GetAgent(as(t.Context(), account), &meteringv1.GetAgentRequest{AgentId: agent.String()})
		if err == nil && got.GetAgent().GetConnected() {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("nothing is known of the agent: %v, %v", got, err)
		}
	}
}

// What a Manager tells against the contract is set aside with what is wrong, and what is
// right beside it is taken; who tells is what the subject says.
func TestWhatBreaksTheContractIsSetAside(t *testing.T) {
	t.Parallel()
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	account, manager, other, agent, now := resource.NewID(), resource.NewID(), resource.NewID(), resource.NewID(), time.Now()
	bad := stateAt(resource.NewID(), strings.Repeat("x", 256), now)
	good := stateAt(agent, "ws", now)
	say := func(subject string, m proto.Message) {
		t.Helper()
		raw, err := proto.Marshal(m)
		if err == nil {
			err = nc.Publish(subject, raw)
		}
		if err != nil {
			t.Error(err)
		}
	}
	tellAll := func() {
		say(contract.HealthSubject(account, manager), &agentv1.AgentStates{ManagerId: other[:], Agents: []*agentv1.AgentState{good}})
		say(contract.HealthSubject(account, manager), &agentv1.AgentStates{ManagerId: manager[:], Agents: []*agentv1.AgentState{bad, good}})
		say(contract.LiveSubject(account, manager), &usagev1.LiveSnapshot{SessionId: []byte("short")})
		say(contract.SightingSubject(account, manager), &usagev1.SightingReport{Sightings: []*usagev1.Sighting{{Executable: strings.Repeat("x", 256)}}})
	}
	api := &agentAPI{service: s}
	wants := []string{"an agent's health", "host_name", "a report of agents' health", other.String()[:8], "a live snapshot", "session_id", "a report of sightings", "executable"}
	for late := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		tellAll()
		got, err := api.GetAgent(as(t.Context(), account), &meteringv1.GetAgentRequest{AgentId: agent.String()})
		var told strings.Builder
		for _, q := range s.aside.of(&account) {
			fmt.Fprintln(&told, q.Detail)
		}
		missing := slices.DeleteFunc(slices.Clone(wants), func(want string) bool { return strings.Contains(told.String(), want) })
		if err == nil && len(missing) == 0 {
			if got.GetAgent().GetManagerId() != manager.String() {
				t.Errorf("it is told of by Manager %s", got.GetAgent().GetManagerId())
			}
			break
		}
		if time.Now().After(late) {
			t.Fatalf("after a minute: %v, %v; missing %q of %s", got, err, missing, told.String())
		}
	}
	if _, err := api.GetAgent(as(t.Context(), account), &meteringv1.GetAgentRequest{AgentId: contract.ID(bad.GetAgentId()).String()}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("the one that was set aside: %v", err)
	}
	quality, err := (&usageAPI{service: s}).GetDataQuality(as(t.Context(), account), &meteringv1.GetDataQualityRequest{})
	if err != nil || len(quality.GetQuarantined()) != 1 || quality.GetQuarantined()[0].GetReason() != reasonTold || quality.GetQuarantined()[0].GetCount() < 4 {
		t.Errorf("data quality tells %v, %v", quality.GetQuarantined(), err)
	}
	quality, err = (&usageAPI{service: s}).GetDataQuality(as(t.Context(), resource.NewID()), &meteringv1.GetDataQualityRequest{})
	if err != nil || len(quality.GetQuarantined()) != 0 {
		t.Errorf("a stranger is told of %v, %v", quality.GetQuarantined(), err)
	}
}

// While the tables of this release are not built, what those of a former one do not hold is
// to be asked for again, and is no fault of the service.
func TestWhatAFormerReleaseDoesNotHold(t *testing.T) {
	t.Parallel()
	cfg := ViewsConfig()
	cfg.Version = SchemaVersion - 1
	first := fstest.MapFS{}
	for _, name := range []string{"00001_metering.sql", "00002_agent_state.sql", "00003_person.sql"} {
		text, err := migrationFiles.ReadFile("migrations/" + name)
		if err != nil {
			t.Fatal(err)
		}
		first[name] = &fstest.MapFile{Data: text}
	}
	cfg.Migrations[2].Files = first // without removed agents
	cfg.URL, cfg.Logger = platformtest.Database(t), platformtest.Logger(t)
	former, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	former.Close()
	stores, err := OpenStores(t.Context(), cfg.URL, cfg.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stores.Close)
	s, err := New(Config{}, Deps{NATS: platformtest.NATS(t), Stores: stores, Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	api, ctx := &agentAPI{service: s}, as(t.Context(), resource.NewID())
	if _, err := api.ListAgents(ctx, &meteringv1.ListAgentsRequest{}); !errs.Is(errs.Unavailable, err) {
		t.Errorf("before the tables are built: %v", err)
	}
	if _, err := (&usageAPI{service: s}).GetDataQuality(ctx, &meteringv1.GetDataQualityRequest{}); err != nil {
		t.Errorf("how far the tables are, before they are built: %v", err)
	}
	start(t, s)
	select {
	case <-s.serving.Load().level:
	case <-time.After(time.Minute):
		t.Fatal("the tables are not level after a minute")
	}
	if _, err := api.ListAgents(ctx, &meteringv1.ListAgentsRequest{}); err != nil {
		t.Errorf("once the tables are built: %v", err)
	}
}

// Of the agents of an account those count that have the revision or a later one; an agent that
// nothing is heard of, or that only the log knows, is away.
func TestHowFarAChangeHasCome(t *testing.T) {
	t.Parallel()
	s := newService(t, Config{})
	start(t, s)
	account, stranger, manager, now := resource.NewID(), resource.NewID(), resource.NewID(), time.Now()
	ctx := as(t.Context(), account)
	api, programs := &agentAPI{service: s}, &applicationAPI{service: s}
	created, err := programs.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: &meteringv1.Application{DisplayName: "A", Rules: []*meteringv1.Rule{{Executable: "a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	first := created.GetApplication().GetPolicyRevision()
	updated, err := programs.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{
		Application: &meteringv1.Application{ApplicationId: created.GetApplication().GetApplicationId(), DisplayName: "B"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	second := updated.GetApplication().GetPolicyRevision()
	deleted, err := programs.DeleteApplication(ctx, &meteringv1.DeleteApplicationRequest{ApplicationId: created.GetApplication().GetApplicationId()})
	if err != nil {
		t.Fatal(err)
	}
	third := deleted.GetPolicyRevision()
	if first <= 0 || second <= first || third <= second {
		t.Fatalf("the revisions are %d, %d, %d", first, second, third)
	}

	state := func(connected bool, revision int64, problem string, seen time.Time) *agentv1.AgentState {
		agent, machine := resource.NewID(), resource.NewID()
		return &agentv1.AgentState{
			AgentId: agent[:], MachineId: machine[:], HostName: "h", Connected: connected, SeenUtcMillis: seen.UnixMilli(),
			Health: &agentv1.Health{AppliedPolicyRevision: uint64(revision), PolicyProblem: problem},
		}
	}
	moving := state(true, first, "", now)
	states := []*agentv1.AgentState{
		moving, state(true, second, "", now), state(true, third, "", now), state(true, math.MaxInt64, "", now), state(true, first, "no", now),
		state(false, first, "", now), state(false, third, "", now), state(true, first, "", now.Add(-2*awayAfter)),
	}
	tell := func(states ...*agentv1.AgentState) {
		s.fleet.take(origin{account, manager}, &agentv1.AgentStates{ManagerId: manager[:], UtcMillis: now.UnixMilli(), Agents: states}, now)
		s.fleet.keep(t.Context())
	}
	tell(states...)
	if all, err := api.ListAgents(ctx, &meteringv1.ListAgentsRequest{}); err != nil || len(slices.DeleteFunc(all.GetAgents(), func(a *meteringv1.Agent) bool { return !a.GetConnected() })) != 5 {
		t.Errorf("connected are %v, %v", all, err)
	}
	want := func(ctx context.Context, revision int64, want string) {
		t.Helper()
		resp, err := api.GetPolicyRollout(ctx, &meteringv1.GetPolicyRolloutRequest{Revision: revision})
		r := resp.GetRollout()
		if got := fmt.Sprintf("%d: %d of %d, %d refused, %d away", r.GetRevision(), r.GetCurrentCount(), r.GetConnectedCount(), r.GetRefusedCount(), r.GetAwayCount()); err != nil || got != want {
			t.Errorf("%d: %s, %v; want %s", revision, got, err, want)
		}
	}
	want(ctx, first, fmt.Sprintf("%d: 5 of 5, 0 refused, 0 away", first))
	want(ctx, second, fmt.Sprintf("%d: 3 of 5, 1 refused, 2 away", second))
	want(ctx, third, fmt.Sprintf("%d: 2 of 5, 1 refused, 2 away", third))
	want(ctx, 0, fmt.Sprintf("%d: 2 of 5, 1 refused, 2 away", third))
	want(as(t.Context(), stranger), 0, "0: 0 of 0, 0 refused, 0 away")
	moving.Health.AppliedPolicyRevision, moving.SeenUtcMillis = uint64(third), now.UnixMilli()
	tell(moving)
	want(ctx, third, fmt.Sprintf("%d: 3 of 5, 1 refused, 2 away", third))
}

// What a Manager tells of itself is told its account alone, the last word of each; one of which nothing comes
// is not connected.
func TestManagerStates(t *testing.T) {
	s := newService(t, Config{})
	account, other := contract.ID{15: 1}, contract.ID{15: 2}
	at := time.Now()
	from := func(account contract.ID, n byte) origin { return origin{account: account, manager: contract.ID{0: n}} }
	s.fleet.takeManager(from(account, 2), &agentv1.ManagerState{
		Version: "1.2.3", ConnectedAgents: 7, Backlog: 3, BufferBytes: 10, BufferMaxBytes: 100, StartUtcMillis: at.UnixMilli(),
		Alarms: []*agentv1.ManagerAlarm{{Code: "BUFFER_NEARLY_FULL", Text: "the buffer is 90 % full"}},
	}, at)
	s.fleet.takeManager(from(account, 1), &agentv1.ManagerState{Version: "old"}, at.Add(-time.Hour))
	s.fleet.takeManager(from(account, 2), &agentv1.ManagerState{Version: "1.2.4", Alarms: []*agentv1.ManagerAlarm{{Code: "X"}}}, at)
	s.fleet.takeManager(from(other, 3), &agentv1.ManagerState{Version: "theirs"}, at)
	answer, err := (&agentAPI{service: s}).ListManagerStates(as(t.Context(), account), nil)
	if err != nil {
		t.Fatal(err)
	}
	if m := answer.GetManagers(); len(m) != 2 || m[0].GetVersion() != "old" || m[0].GetConnected() || m[1].GetVersion() != "1.2.4" || !m[1].GetConnected() || m[1].GetAlarms()[0].GetCode() != "X" {
		t.Errorf("Managers are %v", m)
	}
	// Who is not heard of for very long falls away, and leaves its place to others.
	s.fleet.forget(t.Context(), at.Add(forgottenAfter-time.Minute))
	if m := s.fleet.managersOf(account, at); len(m) != 1 || m[0].GetVersion() != "1.2.4" {
		t.Errorf("later, Managers are %v", m)
	}
	s.fleet.forget(t.Context(), at.Add(forgottenAfter+forgetEvery))
	if len(s.fleet.managers) != 0 {
		t.Errorf("in the end, Managers are %v", s.fleet.managers)
	}
}

// What agents recorded earlier and have still to send stands against the figures of the days that it is of, and of no
// others, whatever machines are known of these; and so does what Managers hold.
func TestWhatIsStillToBeSent(t *testing.T) {
	t.Parallel()
	s := newService(t, Config{})
	account, manager, now := resource.NewID(), resource.NewID(), time.Now()
	today := now.UTC().Truncate(24 * time.Hour)
	agents := map[string]contract.ID{}
	for _, name := range []string{"away", "past", "old", "well", "removed", "absurd", "gone"} {
		agents[name] = resource.NewID()
	}
	machine := resource.NewID()
	told := &agentv1.AgentStates{ManagerId: manager[:], UtcMillis: now.UnixMilli()}
	for name, health := range map[string]*agentv1.Health{
		// Away for three days, the first of which is here by now.
		"away": {UnacknowledgedRecords: 200, Backlog: &agentv1.Backlog{OldestUtcMillis: today.AddDate(0, 0, -2).UnixMilli(), TimeMillis: 72 * 3600_000, SentMillis: 24 * 3600_000}},
		// Its newest ten days are here, and ten before are not.
		"past": {UnacknowledgedRecords: 100, Backlog: &agentv1.Backlog{OldestUtcMillis: today.AddDate(0, 0, -20).UnixMilli(), NewestUtcMillis: today.AddDate(0, 0, -10).UnixMilli(), TimeMillis: 480 * 3600_000, SentMillis: 240 * 3600_000}},
		// Too old to tell since when.
		"old":    {UnacknowledgedRecords: backlogFrom + 1},
		"well":   {UnacknowledgedRecords: 3},
		"absurd": {UnacknowledgedRecords: 9, Backlog: &agentv1.Backlog{OldestUtcMillis: 1, TimeMillis: math.MaxInt64, SentMillis: -1}},
		// Two weeks ago it had a day to send, and nothing was heard of it since.
		"gone":    {UnacknowledgedRecords: 7, Backlog: &agentv1.Backlog{OldestUtcMillis: today.AddDate(0, 0, -16).UnixMilli(), TimeMillis: 24 * 3600_000}},
		"removed": {UnacknowledgedRecords: 9, Backlog: &agentv1.Backlog{OldestUtcMillis: 1, TimeMillis: 1}},
	} {
		id, on := agents[name], resource.NewID()
		seen := now
		switch name {
		case "away":
			on = machine
		case "gone":
			seen = now.AddDate(0, 0, -15)
		}
		told.Agents = append(told.Agents, &agentv1.AgentState{AgentId: id[:], MachineId: on[:], HostName: name, SeenUtcMillis: seen.UnixMilli(), Health: health})
	}
	s.fleet.take(origin{account, manager}, told, now)
	s.fleet.keep(t.Context())
	if _, err := s.stores.Views.Projector.Exec(t.Context(), "INSERT INTO removed_agent (account_id, agent_id, removed_ms) VALUES ($1, $2, $3)", account, agents["removed"], now.Add(time.Minute).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	s.fleet.takeManager(origin{account: account, manager: manager}, &agentv1.ManagerState{Backlog: 5000}, now)
	s.fleet.takeManager(origin{account: account, manager: resource.NewID()}, &agentv1.ManagerState{Backlog: 10}, now)
	s.fleet.takeManager(origin{account: account, manager: resource.NewID()}, &agentv1.ManagerState{Backlog: 5000}, now.Add(-2*managerAway))

	api := &usageAPI{service: s}
	for _, c := range []struct {
		what     string
		from, to int // days from today
		filter   *meteringv1.UsageFilter
		want     []string
		waiting  int64
		sent     int64 // of a million; -1: not told
	}{
		{"now", -1, 1, nil, []string{"away", "old"}, 200 + backlogFrom + 1, 333_333},
		{"ten days", -9, 1, nil, []string{"away", "old"}, 200 + backlogFrom + 1, 333_333},
		{"long ago", -19, -11, nil, []string{"past", "gone", "old"}, 107 + backlogFrom + 1, 476_190},
		{"before all of it", -40, -20, nil, []string{"old"}, backlogFrom + 1, -1},
		{"a month", -30, 1, nil, []string{"away", "past", "gone", "old"}, 307 + backlogFrom + 1, 458_333},
		{"one machine", -30, 1, &meteringv1.UsageFilter{MachineIds: []string{machine.String()}}, []string{"away"}, 200, 333_333},
	} {
		answer, err := api.GetDataQuality(as(t.Context(), account), &meteringv1.GetDataQualityRequest{
			StartTime: timestamppb.New(today.AddDate(0, 0, c.from)), EndTime: timestamppb.New(today.AddDate(0, 0, c.to)), Filter: c.filter,
		})
		if err != nil {
			t.Fatal(err)
		}
		found := map[meteringv1.QualityIssue]*meteringv1.QualityFinding{}
		for _, f := range answer.GetPeriod().GetFindings() {
			found[f.GetIssue()] = f
		}
		f := found[meteringv1.QualityIssue_QUALITY_ISSUE_STILL_SENDING]
		var want []string
		for _, name := range c.want {
			want = append(want, agents[name].String())
		}
		slices.Sort(want)
		sent, grade := int64(-1), meteringv1.QualityGrade_QUALITY_GRADE_POOR
		if c.sent < 0 { // it is not known how much is missing
			grade = meteringv1.QualityGrade_QUALITY_GRADE_FAIR
		}
		if f.GetSentPerMillion() != 0 {
			sent = f.GetSentPerMillion()
		}
		if !slices.Equal(f.GetAgentIds(), want) || f.GetCount() != int64(len(want)) || f.GetWaiting() != c.waiting || sent != c.sent || answer.GetPeriod().GetGrade() != grade {
			t.Errorf("%s: %v of %v, not %v, %d, %d", c.what, f, answer.GetPeriod().GetGrade(), want, c.waiting, c.sent)
		}
		if m := found[meteringv1.QualityIssue_QUALITY_ISSUE_MANAGERS_BEHIND]; m.GetCount() != 1 || m.GetWaiting() != 5000 {
			t.Errorf("%s: Managers: %v", c.what, m)
		}
	}
	one, err := (&agentAPI{service: s}).GetAgent(as(t.Context(), account), &meteringv1.GetAgentRequest{AgentId: agents["past"].String()})
	if b := one.GetAgent().GetBacklog(); err != nil || b.GetSent().AsDuration() != 240*time.Hour || b.GetNewestTime().AsTime() != today.AddDate(0, 0, -10) {
		t.Errorf("%v, %v", one, err)
	}
}

// What the metrics tell is of all accounts together, and has labels of known words only.
func TestFiguresOfTheFleet(t *testing.T) {
	t.Parallel()
	s := newService(t, Config{})
	now := time.Now()
	tell := func(states ...*agentv1.AgentState) {
		account, manager := resource.NewID(), resource.NewID()
		s.fleet.take(origin{account, manager}, &agentv1.AgentStates{ManagerId: manager[:], UtcMillis: now.UnixMilli(), Agents: states}, now)
		s.fleet.takeManager(origin{account, manager}, &agentv1.ManagerState{Backlog: 7, Alarms: []*agentv1.ManagerAlarm{
			{Code: "BUFFER_DAMAGED"}, {Code: "BUFFER_DAMAGED"}, {Code: "made up " + manager.String()},
		}}, now)
		s.fleet.keep(t.Context())
	}
	state := func(seen time.Time, waiting uint64) *agentv1.AgentState {
		id, machine := resource.NewID(), resource.NewID()
		return &agentv1.AgentState{AgentId: id[:], MachineId: machine[:], SeenUtcMillis: seen.UnixMilli(), Health: &agentv1.Health{UnacknowledgedRecords: waiting, Paused: waiting > 0}}
	}
	tell(state(now, 3), state(now.Add(-2*silentAfter), 0))
	tell(state(now, 0), state(now.Add(-2*forgottenAfter), 5))
	// Of the journal of one the sequence numbers 4 and 5 are missing.
	account, agent := resource.NewID(), resource.NewID()
	if _, err := s.stores.Views.Projector.Exec(t.Context(), `INSERT INTO agent VALUES ($1, $2, $3, $4, 0, 7, 6)`, account, agent, resource.NewID(), now.UnixMilli()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.stores.Views.Projector.Exec(t.Context(), `INSERT INTO agent_epoch (account_id, agent_id, epoch, lane, received, links) VALUES ($1, $2, 1, 0, '{[1,4),[6,9)}', '')`, account, agent); err != nil {
		t.Fatal(err)
	}

	got, err := readFleetFigures(t.Context(), s.stores.Views.Projector, now)
	if err != nil {
		t.Fatal(err)
	}
	if got.agents != 4 || got.waiting != 3 || got.missing != 2 {
		t.Errorf("%d agents, %d records wait and %d are missing", got.agents, got.waiting, got.missing)
	}
	for c, want := range map[meteringv1.AgentCondition]int64{
		meteringv1.AgentCondition_AGENT_CONDITION_SILENT: 1, meteringv1.AgentCondition_AGENT_CONDITION_PAUSED: 1, meteringv1.AgentCondition_AGENT_CONDITION_COPIED: 0,
	} {
		if n, told := got.conditions[c]; !told || n != want {
			t.Errorf("%v: %d, %v", c, n, told)
		}
	}
	managers := s.fleet.managerFigures(now)
	if managers.connected != 2 || managers.backlog != 14 || managers.alarms["BUFFER_DAMAGED"] != 2 || managers.alarms[otherAlarm] != 2 || len(managers.alarms) != len(knownAlarms)+1 {
		t.Errorf("of Managers is told %+v", managers)
	}
	if managers = s.fleet.managerFigures(now.Add(managerAway)); managers.away != 2 {
		t.Errorf("later, %d are away", managers.away)
	}
}
