package metering

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// silentAfter is how long nothing is heard of an agent that is called silent.
	silentAfter = time.Hour
	// awayAfter is how long nothing is heard of an agent that is not connected any more, whatever was told last: one
	// that is connected is heard of each minute, but its Manager may be gone, or cut off.
	awayAfter = 3 * time.Minute
	// skewedFrom is from where a clock is called wrong.
	skewedFrom = 2 * time.Minute
	// backlogFrom is how many records a busy desktop does not gather in an hour.
	backlogFrom = 1000
	// keepStatesEvery is how often what was told is written.
	keepStatesEvery = time.Second
	// maxAgents and maxWaitingBytes bound what waits to be written of one account.
	maxAgents       = 100_000
	maxWaitingBytes = 128 << 20
	// maxStateBytes is more than a Manager's bounds let a state be.
	maxStateBytes = 512 << 10
	// maxBacklog is of more time than any agent has to send.
	maxBacklog = 100 * 365 * 24 * time.Hour
	// forgottenAfter is how long an agent or a Manager that nobody hears of is still listed.
	forgottenAfter = 90 * 24 * time.Hour
	// forgetEvery is how often states that are not listed any more are deleted.
	forgetEvery = time.Hour
	// jitter is by how much two words of one Manager about one moment may differ, as what
	// is known of it is how long ago it was.
	jitter = 10 * time.Second
)

// fleet keeps how agents are doing, as their Managers tell.
type fleet struct {
	log    *slog.Logger
	nats   *nats.Conn
	stores func() []*postgres.Store // the serving one, and one that is to take its place

	mu      sync.Mutex
	waiting map[agentKey]toldState
	rooms   map[contract.ID]waitingRoom // by account
	known   []*postgres.Store           // into which Managers' words have gone
	forgot  time.Time                   // when states were deleted last
	// managers are how Managers are doing: what each told last, which is told again before it is missed.
	managers map[contract.ID]map[contract.ID]toldManager // by account
}

// toldManager is what a Manager told of itself, and when.
type toldManager struct {
	state *agentv1.ManagerState
	at    time.Time
}

const (
	// maxManagers bounds of how many Managers of an account it is known how they are doing.
	maxManagers = 1000
	// managerAway is how long nothing is heard of a Manager that is not connected: it tells of itself every ten
	// seconds.
	managerAway = time.Minute
)

// waitingRoom is what waits of one account.
type waitingRoom struct{ agents, bytes int }

type agentKey struct{ account, agent contract.ID }

// toldState is an agent's state, and the Manager that told it.
type toldState struct {
	manager contract.ID
	state   *agentv1.AgentState
	bytes   int
}

func newFleet(log *slog.Logger, nc *nats.Conn, stores func() []*postgres.Store) *fleet {
	return &fleet{log: log, nats: nc, stores: stores, waiting: make(map[agentKey]toldState), rooms: make(map[contract.ID]waitingRoom), managers: make(map[contract.ID]map[contract.ID]toldManager)}
}

func (f *fleet) run(ctx context.Context, aside *aside) error {
	take := func(from origin, told *agentv1.AgentStates, now time.Time) error {
		if named := told.GetManagerId(); !bytes.Equal(named, from.manager[:]) {
			return fmt.Errorf("manager_id: it names Manager %x", named)
		}
		if state := told.GetManager(); state != nil {
			if err := aside.check(state); err != nil {
				aside.set(from, "a Manager's state", err, now)
			} else {
				f.takeManager(from, state, now)
			}
		}
		// One agent's words keep nobody else from being believed.
		told.Agents = slices.DeleteFunc(told.GetAgents(), func(state *agentv1.AgentState) bool {
			err := aside.check(state)
			if size := proto.Size(state); err == nil && size > maxStateBytes {
				err = fmt.Errorf("it has %d bytes; at most %d are taken", size, maxStateBytes)
			}
			if err != nil {
				aside.set(from, "an agent's health", fmt.Errorf("agent %x: %w", state.GetAgentId(), err), now)
			}
			return err != nil
		})
		f.take(from, told, now)
		return nil
	}
	return listen(ctx, f.nats, aside, channel{subjects: contract.HealthSubjects, what: "a report of agents' health", room: 1024},
		f.ask, take, keepStatesEvery, func(now time.Time) {
			f.keep(ctx)
			f.forget(ctx, now)
		})
}

func (f *fleet) ask() {
	if err := f.nats.Publish(contract.HealthAskSubject, nil); err != nil {
		f.log.Warn("Managers cannot be asked how their agents are doing", "error", err)
	}
}

// takeManager takes in what a Manager tells of itself.
func (f *fleet) takeManager(from origin, state *agentv1.ManagerState, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.managers[from.account]
	if of == nil {
		of = make(map[contract.ID]toldManager)
		f.managers[from.account] = of
	}
	if _, known := of[from.manager]; !known && len(of) >= maxManagers {
		f.log.Warn("an account has too many Managers: of one it is not kept how it is doing", "account", from.account.String(), "limit", maxManagers)
		return
	}
	of[from.manager] = toldManager{state, now}
}

// managersOf are an account's Managers as each told last, by id.
func (f *fleet) managersOf(account contract.ID, now time.Time) (all []*meteringv1.ManagerState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, told := range f.managers[account] {
		m := &meteringv1.ManagerState{
			ManagerId: id.String(), Version: told.state.GetVersion(), SeenTime: timestamppb.New(told.at), StartTime: millisStamp(told.state.GetStartUtcMillis()),
			Connected: now.Sub(told.at) < managerAway, ConnectedAgents: told.state.GetConnectedAgents(),
			BufferBytes: told.state.GetBufferBytes(), BufferMaxBytes: told.state.GetBufferMaxBytes(), Backlog: told.state.GetBacklog(),
		}
		for _, alarm := range told.state.GetAlarms() {
			m.Alarms = append(m.Alarms, &meteringv1.ManagerAlarm{Code: alarm.GetCode(), Text: alarm.GetText()})
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *meteringv1.ManagerState) int { return strings.Compare(a.GetManagerId(), b.GetManagerId()) })
	return all
}

func (a *agentAPI) ListManagerStates(ctx context.Context, _ *meteringv1.ListManagerStatesRequest) (*meteringv1.ListManagerStatesResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	return &meteringv1.ListManagerStatesResponse{Managers: a.service.fleet.managersOf(caller.Account, time.Now())}, nil
}

// take takes in what a Manager tells, which keeps to the contract.
func (f *fleet) take(from origin, told *agentv1.AgentStates, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	full := 0
	clock := cmp.Or(told.GetUtcMillis(), now.UnixMilli())
	for _, state := range told.GetAgents() {
		// Only how long ago it was counts: a Manager's clock may be wrong, and one that is
		// ahead must neither hide silence nor keep others from being believed.
		boundBacklog(state.GetHealth())
		state.SeenUtcMillis = now.UnixMilli() - max(0, clock-state.GetSeenUtcMillis())
		key := agentKey{from.account, contract.ID(state.GetAgentId())}
		before, waits := f.waiting[key]
		if next := (toldState{from.manager, state, proto.Size(state)}); (!waits || !next.before(before)) && !f.put(key, next) {
			full++
		}
	}
	if full > 0 {
		f.log.Warn("too many agents' health of one account waits to be written: some is left out", "account", from.account.String(), "left_out", full)
	}
}

// boundBacklog takes away what cannot be: figures of many agents are added.
func boundBacklog(h *agentv1.Health) {
	b := h.GetBacklog()
	if b == nil {
		return
	}
	if b.GetSentMillis() < 0 || b.GetTimeMillis() < 0 || b.GetTimeMillis() > maxBacklog.Milliseconds() {
		h.Backlog = nil
		return
	}
	b.SentMillis = min(b.GetSentMillis(), b.GetTimeMillis())
}

// put has a state wait, in place of what waits of the agent; false where the account has
// no room left. It is called with the lock held.
func (f *fleet) put(key agentKey, told toldState) bool {
	room := f.rooms[key.account]
	if before, waits := f.waiting[key]; waits {
		room = waitingRoom{room.agents - 1, room.bytes - before.bytes}
	}
	room = waitingRoom{room.agents + 1, room.bytes + told.bytes}
	if room.agents > maxAgents || room.bytes > maxWaitingBytes {
		return false
	}
	f.waiting[key], f.rooms[key.account] = told, room
	return true
}

// before tells whether what was told is of an earlier moment than other. What one Manager
// tells comes in order.
func (t toldState) before(other toldState) bool {
	seen := t.state.GetSeenUtcMillis()
	if t.manager == other.manager {
		seen += jitter.Milliseconds()
	}
	return seen < other.state.GetSeenUtcMillis()
}

// keep writes what was told. What cannot be written is written later.
func (f *fleet) keep(ctx context.Context) {
	stores := f.stores()
	f.mu.Lock()
	waiting := f.waiting
	f.waiting, f.rooms = make(map[agentKey]toldState), make(map[contract.ID]waitingRoom)
	fresh := false
	for _, s := range stores {
		fresh = fresh || !slices.Contains(f.known, s)
	}
	f.known = stores
	f.mu.Unlock()
	if fresh {
		f.ask()
	}
	for _, store := range stores {
		if err := writeStates(ctx, store, waiting); err != nil && ctx.Err() == nil {
			f.log.Warn("how agents are doing cannot be written yet", "schema", store.Schema, "error", err)
			f.mu.Lock()
			for key, told := range waiting {
				if since, waits := f.waiting[key]; !waits || since.before(told) {
					f.put(key, told) // where there is no room, it is told again
				}
			}
			f.mu.Unlock()
		}
	}
}

// forget deletes what is not listed any more.
func (f *fleet) forget(ctx context.Context, now time.Time) {
	if now.Sub(f.forgot) < forgetEvery {
		return
	}
	f.forgot = now
	f.mu.Lock()
	for account, of := range f.managers {
		maps.DeleteFunc(of, func(_ contract.ID, told toldManager) bool { return now.Sub(told.at) > forgottenAfter })
		if len(of) == 0 {
			delete(f.managers, account)
		}
	}
	f.mu.Unlock()
	for _, store := range f.stores() {
		if _, err := store.Projector.Exec(ctx, "DELETE FROM agent_state WHERE seen_ms < $1", now.Add(-forgottenAfter).UnixMilli()); err != nil && ctx.Err() == nil {
			f.log.Warn("how agents were doing that are not heard of any more cannot be deleted yet", "schema", store.Schema, "error", err)
		}
	}
}

func writeStates(ctx context.Context, store *postgres.Store, told map[agentKey]toldState) error {
	if len(told) == 0 {
		return nil
	}
	var accounts, agents, machines, managers [][16]byte
	var seen, skews []int64
	var connected []bool
	var revisions []int64
	var conditions []int32
	var hosts []string
	var states [][]byte
	var oldest, newest, whole, sent []*int64 // of what is still to be sent
	var waiting []int64
	// In the same order everywhere: another replica writes the same rows.
	for _, key := range sortedKeys(told, func(a, b agentKey) int {
		return cmp.Or(bytes.Compare(a.account[:], b.account[:]), bytes.Compare(a.agent[:], b.agent[:]))
	}) {
		state := told[key].state
		raw, err := proto.Marshal(state)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		accounts, agents, managers = append(accounts, key.account), append(agents, key.agent), append(managers, told[key].manager)
		machines = append(machines, [16]byte(state.GetMachineId()))
		seen, skews = append(seen, state.GetSeenUtcMillis()), append(skews, state.GetSkewMillis())
		conditions, hosts, states = append(conditions, conditionsOf(state)), append(hosts, text(state.GetHostName())), append(states, raw)
		connected = append(connected, state.GetConnected())
		waiting = append(waiting, int64(min(state.GetHealth().GetUnacknowledgedRecords(), math.MaxInt32)))
		var from, until, of, here *int64
		if b := state.GetHealth().GetBacklog(); b != nil {
			from, of, here = &b.OldestUtcMillis, &b.TimeMillis, &b.SentMillis
			if b.GetNewestUtcMillis() != 0 {
				until = &b.NewestUtcMillis
			}
		}
		oldest, newest, whole, sent = append(oldest, from), append(newest, until), append(whole, of), append(sent, here)
		revisions = append(revisions, int64(min(state.GetHealth().GetAppliedPolicyRevision(), math.MaxInt64)))
	}
	_, err := store.Projector.Exec(ctx, `INSERT INTO agent_state AS s (account_id, agent_id, machine_id, manager_id, seen_ms, skew_ms, conditions, host_name, state, connected, policy_revision, backlog_from_ms, backlog_until_ms, backlog_ms, backlog_sent_ms, waiting)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int8[], $6::int8[], $7::int4[], $8::text[], $9::bytea[], $11::bool[], $12::int8[], $13::int8[], $14::int8[], $15::int8[], $16::int8[], $17::int8[])
		ON CONFLICT (account_id, agent_id) DO UPDATE SET machine_id = excluded.machine_id, manager_id = excluded.manager_id, seen_ms = excluded.seen_ms,
			skew_ms = excluded.skew_ms, conditions = excluded.conditions, host_name = excluded.host_name, state = excluded.state,
			connected = excluded.connected, policy_revision = excluded.policy_revision,
			backlog_from_ms = excluded.backlog_from_ms, backlog_until_ms = excluded.backlog_until_ms, backlog_ms = excluded.backlog_ms,
			backlog_sent_ms = excluded.backlog_sent_ms, waiting = excluded.waiting
		WHERE excluded.seen_ms + CASE WHEN excluded.manager_id = s.manager_id THEN $10::int8 ELSE 0 END >= s.seen_ms`,
		accounts, agents, machines, managers, seen, skews, conditions, hosts, states, jitter.Milliseconds(), connected, revisions,
		oldest, newest, whole, sent, waiting)
	if err != nil {
		return fmt.Errorf("metering: noting how agents are doing: %w", err)
	}
	return nil
}

func bit(c meteringv1.AgentCondition) int32 { return 1 << c }

// conditionsOf are the conditions that a state shows, whenever it is looked at.
func conditionsOf(s *agentv1.AgentState) (set int32) {
	h := s.GetHealth()
	on := func(c meteringv1.AgentCondition, holds bool) {
		if holds {
			set |= bit(c)
		}
	}
	on(meteringv1.AgentCondition_AGENT_CONDITION_BACKLOG, h.GetUnacknowledgedRecords() > backlogFrom)
	on(meteringv1.AgentCondition_AGENT_CONDITION_PAUSED, h.GetPaused())
	on(meteringv1.AgentCondition_AGENT_CONDITION_UNSUPPORTED, len(h.GetUnsupported()) > 0)
	for _, p := range h.GetPlugins() {
		on(meteringv1.AgentCondition_AGENT_CONDITION_PLUGIN, p.GetState() == agentv1.PluginState_PLUGIN_STATE_FAILED || p.GetState() == agentv1.PluginState_PLUGIN_STATE_REFUSED)
	}
	for _, r := range h.GetPluginReleases().GetPlugins() {
		on(meteringv1.AgentCondition_AGENT_CONDITION_PLUGIN, r.GetState() == agentv1.ReleaseState_RELEASE_STATE_REFUSED)
	}
	on(meteringv1.AgentCondition_AGENT_CONDITION_RELEASE, h.GetRelease().GetState() == agentv1.ReleaseState_RELEASE_STATE_REFUSED)
	on(meteringv1.AgentCondition_AGENT_CONDITION_REFUSED, s.GetRefusals() > 0)
	on(meteringv1.AgentCondition_AGENT_CONDITION_COPIED, s.GetCopied())
	on(meteringv1.AgentCondition_AGENT_CONDITION_MANAGER, h.GetManagerProblem() != "")
	on(meteringv1.AgentCondition_AGENT_CONDITION_POLICY, h.GetPolicyProblem() != "")
	return set
}

// fleetSQL is every agent that anything is known of and that is to be listed: those that
// Managers told of, and those whose use was counted. $1 is the account, $2 the moment from
// which on one is not silent, $3 from where a clock is wrong, $4 and $5 the bits of the
// two, $6 the moment from which on one is listed.
const fleetSQL = `SELECT f.*, f.bits | CASE WHEN f.last_ms < $2 THEN $4::int4 ELSE 0 END | CASE WHEN f.skew NOT BETWEEN -$3::int8 AND $3::int8 THEN $5::int4 ELSE 0 END AS conditions FROM (
	SELECT agent_id, coalesce(s.machine_id, a.machine_id) AS machine_id, coalesce(s.manager_id, '00000000-0000-0000-0000-000000000000') AS manager_id,
		coalesce(nullif(s.host_name, ''), m.host_name, '') AS host, coalesce(m.operating_system, '') AS system, coalesce(m.agent_version, '') AS version,
		greatest(s.seen_ms, a.received_ms) AS last_ms, coalesce(a.received_ms, 0) AS received_ms, coalesce(s.skew_ms, a.skew_ms) AS skew,
		coalesce(s.conditions, 0) AS bits, s.state, coalesce(s.connected, false) AS connected, coalesce(s.policy_revision, 0) AS policy_revision
	FROM (SELECT * FROM agent_state WHERE account_id = $1::uuid) AS s
	FULL JOIN (SELECT * FROM agent WHERE account_id = $1::uuid) AS a USING (agent_id)
	LEFT JOIN machine AS m ON m.account_id = $1::uuid AND m.machine_id = coalesce(s.machine_id, a.machine_id)
) AS f WHERE last_ms >= $6 AND NOT EXISTS (SELECT FROM removed_agent AS r WHERE r.account_id = $1::uuid AND r.agent_id = f.agent_id AND r.removed_ms >= f.last_ms)`

func fleetArgs(account contract.ID, now time.Time) []any {
	return []any{
		account, now.Add(-silentAfter).UnixMilli(), skewedFrom.Milliseconds(),
		bit(meteringv1.AgentCondition_AGENT_CONDITION_SILENT), bit(meteringv1.AgentCondition_AGENT_CONDITION_SKEWED),
		now.Add(-forgottenAfter).UnixMilli(),
	}
}

// agentAPI serves cetrus.metering.v1.AgentService.
type agentAPI struct {
	meteringv1.UnimplementedAgentServiceServer
	service *Service
}

func (a *agentAPI) ListAgents(ctx context.Context, req *meteringv1.ListAgentsRequest) (*meteringv1.ListAgentsResponse, error) {
	const op = "metering.ListAgents"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	wanted := int32(0)
	for _, c := range req.GetConditions() {
		wanted |= bit(c)
	}
	size := resource.PageSize(req.GetPageSize(), 100)
	question := fmt.Sprintf("agents %s %d", caller.Account, wanted)
	after, err := readTextToken(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &meteringv1.ListAgentsResponse{}
	now := time.Now()
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+agentColumns+" FROM ("+fleetSQL+") AS g WHERE conditions & $7 = $7 AND ($8 OR (left(lower(host), 64), agent_id) > ($9, $10::uuid)) ORDER BY left(lower(host), 64), agent_id LIMIT $11",
			append(fleetArgs(caller.Account, now), wanted, req.GetPageToken() == "", after.text, after.id, size+1)...)
		if err != nil {
			return err
		}
		listed, err := pgx.CollectRows(rows, scanAgent(now))
		if err != nil || len(listed) <= size {
			resp.Agents = listed
			return err
		}
		resp.Agents = listed[:size]
		last := listed[size-1]
		resp.NextPageToken, err = nameToken(ctx, tx, question, last.GetMachineName(), last.GetAgentId())
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	return resp, nil
}

func (a *agentAPI) GetAgent(ctx context.Context, req *meteringv1.GetAgentRequest) (*meteringv1.GetAgentResponse, error) {
	const op = "metering.GetAgent"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "agent_id", req.GetAgentId())
	if err != nil {
		return nil, err
	}
	var found *meteringv1.Agent
	now := time.Now()
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+agentColumns+" FROM ("+fleetSQL+") AS g WHERE agent_id = $7::uuid", append(fleetArgs(caller.Account, now), id)...)
		if err != nil {
			return err
		}
		found, err = pgx.CollectExactlyOneRow(rows, scanAgent(now))
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errs.New(errs.NotFound, op, "agent "+id.String(), "there is no such agent, or nothing has been heard of it yet")
	}
	if err != nil {
		return nil, errs.Wrap(op, "agent "+id.String(), err)
	}
	return &meteringv1.GetAgentResponse{Agent: found}, nil
}

func (a *agentAPI) RemoveAgent(ctx context.Context, req *meteringv1.RemoveAgentRequest) (*meteringv1.RemoveAgentResponse, error) {
	const op = "metering.RemoveAgent"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "agent_id", req.GetAgentId())
	if err != nil {
		return nil, err
	}
	position, err := a.service.commands.removeAgent(ctx, caller, req, id, func() error {
		_, err := a.GetAgent(ctx, &meteringv1.GetAgentRequest{AgentId: req.GetAgentId()})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := a.service.waitForCatalog(ctx, caller.Account, position); err != nil {
		return nil, err
	}
	return &meteringv1.RemoveAgentResponse{}, nil
}

// GetPolicyRollout counts the agents that have a revision of the policy. Who has a later one has
// it, since each policy is the whole of what was decided up to its revision.
func (a *agentAPI) GetPolicyRollout(ctx context.Context, req *meteringv1.GetPolicyRolloutRequest) (*meteringv1.GetPolicyRolloutResponse, error) {
	const op = "metering.GetPolicyRollout"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	rollout := &meteringv1.PolicyRollout{Revision: req.GetRevision()}
	if rollout.GetRevision() == 0 {
		last, err := a.service.commands.lastChange(ctx, caller.Account)
		if err != nil {
			return nil, errs.Wrap(op, "", err)
		}
		rollout.Revision = int64(last)
	}
	now := time.Now()
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT count(*) FILTER (WHERE here), count(*) FILTER (WHERE here AND has),
				count(*) FILTER (WHERE here AND NOT has AND conditions & $8 <> 0), count(*) FILTER (WHERE NOT here AND NOT has)
			FROM (SELECT connected AND last_ms >= $9 AS here, policy_revision >= $7 AS has, conditions FROM (`+fleetSQL+`) AS g) AS h`,
			append(fleetArgs(caller.Account, now), rollout.GetRevision(), bit(meteringv1.AgentCondition_AGENT_CONDITION_POLICY), now.Add(-awayAfter).UnixMilli())...).
			Scan(&rollout.ConnectedCount, &rollout.CurrentCount, &rollout.RefusedCount, &rollout.AwayCount)
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	return &meteringv1.GetPolicyRolloutResponse{Rollout: rollout}, nil
}

// countConditions counts, for data quality, the agents of each condition.
func countConditions(ctx context.Context, tx pgx.Tx, account contract.ID, now time.Time) ([]*meteringv1.AgentConditionCount, error) {
	rows, err := tx.Query(ctx, "SELECT conditions, count(*) FROM ("+fleetSQL+") AS g WHERE conditions <> 0 GROUP BY conditions", fleetArgs(account, now)...)
	if err != nil {
		return nil, err
	}
	counts := make(map[meteringv1.AgentCondition]int64)
	var set int32
	var agents int64
	if _, err := pgx.ForEachRow(rows, []any{&set, &agents}, func() error {
		for _, c := range conditionsIn(set) {
			counts[c] += agents
		}
		return nil
	}); err != nil {
		return nil, err
	}
	var list []*meteringv1.AgentConditionCount
	for _, c := range sortedKeys(counts, func(a, b meteringv1.AgentCondition) int { return cmp.Compare(a, b) }) {
		list = append(list, &meteringv1.AgentConditionCount{Condition: c, Agents: counts[c]})
	}
	return list, nil
}

func conditionsIn(set int32) (list []meteringv1.AgentCondition) {
	for n := range len(meteringv1.AgentCondition_name) {
		if c := meteringv1.AgentCondition(n); set&bit(c) != 0 {
			list = append(list, c)
		}
	}
	return list
}

const agentColumns = "agent_id, machine_id, manager_id, host, system, version, last_ms, received_ms, skew, conditions, state"

func scanAgent(now time.Time) func(pgx.CollectableRow) (*meteringv1.Agent, error) {
	return func(row pgx.CollectableRow) (*meteringv1.Agent, error) {
		var agent, machine, manager contract.ID
		var last, received, skew int64
		var set int32
		var raw []byte
		m := &meteringv1.Agent{}
		if err := row.Scan((*[16]byte)(&agent), (*[16]byte)(&machine), (*[16]byte)(&manager), &m.MachineName, &m.OperatingSystem, &m.AgentVersion, &last, &received, &skew, &set, &raw); err != nil {
			return nil, err
		}
		m.AgentId, m.MachineId, m.ManagerId = agent.String(), machine.String(), idText(manager)
		m.LastSeenTime = millisStamp(last)
		if received > 0 { // the platform has use of it
			m.LastReceivedTime = millisStamp(received)
		}
		m.Skew, m.Conditions = millisSpan(skew), conditionsIn(set)
		if raw == nil {
			return m, nil
		}
		state := new(agentv1.AgentState)
		if err := proto.Unmarshal(raw, state); err != nil {
			return nil, fmt.Errorf("state of agent %s: %w", agent, err)
		}
		m.Connected = state.GetConnected() && now.UnixMilli()-last < awayAfter.Milliseconds()
		m.OperatingSystem, m.AgentVersion = cmp.Or(state.GetOperatingSystem(), m.GetOperatingSystem()), cmp.Or(state.GetAgentVersion(), m.GetAgentVersion())
		m.Refusals, m.LastRefusal = int64(state.GetRefusals()), state.GetLastRefusal()
		h := state.GetHealth()
		m.WaitingRecords, m.JournalBytes, m.Paused, m.Unsupported = int64(h.GetUnacknowledgedRecords()), int64(h.GetJournalBytes()), h.GetPaused(), h.GetUnsupported()
		m.PolicyRevision, m.ManagerProblem, m.PolicyProblem = int64(h.GetAppliedPolicyRevision()), h.GetManagerProblem(), h.GetPolicyProblem()
		for _, p := range h.GetPlugins() {
			m.Plugins = append(m.Plugins, &meteringv1.AgentPlugin{
				Name: p.GetName(), Version: p.GetVersion(), State: word(p.GetState().String(), "PLUGIN_STATE_"), Message: p.GetMessage(),
				Restarts: int32(p.GetRestarts()), BuiltIn: p.GetBuiltIn(), PluginState: known(meteringv1.AgentPluginState(p.GetState())),
			})
		}
		for _, r := range h.GetPluginReleases().GetPlugins() {
			i := slices.IndexFunc(m.GetPlugins(), func(p *meteringv1.AgentPlugin) bool { return p.GetName() == r.GetName() })
			if i < 0 { // none runs of which something was offered
				i = len(m.GetPlugins())
				m.Plugins = append(m.Plugins, &meteringv1.AgentPlugin{Name: r.GetName()})
			}
			m.Plugins[i].Release = releaseMessage(r)
		}
		m.Release = releaseMessage(h.GetRelease())
		if b := h.GetBacklog(); b != nil {
			m.Backlog = &meteringv1.AgentBacklog{OldestTime: millisStamp(b.GetOldestUtcMillis()), Time: millisSpan(b.GetTimeMillis()), Sent: millisSpan(b.GetSentMillis())}
			if b.GetNewestUtcMillis() != 0 {
				m.Backlog.NewestTime = millisStamp(b.GetNewestUtcMillis())
			}
		}
		return m, nil
	}
}

// releaseMessage tells how an agent stands with releases; nil where it takes none.
func releaseMessage(r *agentv1.ReleaseReport) *meteringv1.AgentRelease {
	if r == nil {
		return nil
	}
	return &meteringv1.AgentRelease{
		Number: int64(r.GetNumber()), State: word(r.GetState().String(), "RELEASE_STATE_"), Target: int64(r.GetTarget()),
		FetchedPercent: int32(100 * min(r.GetFetchedBytes(), r.GetSizeBytes()) / max(1, r.GetSizeBytes())), Message: r.GetMessage(),
		ReleaseState: known(meteringv1.AgentReleaseState(r.GetState())),
	}
}

func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// known is a value of an enum of ours that has the numbers of an agent's; an agent that is
// newer may tell others, and then it is not specified.
func known[E interface {
	~int32
	protoreflect.Enum
}](value E) E {
	if value.Descriptor().Values().ByNumber(value.Number()) == nil {
		return 0
	}
	return value
}
