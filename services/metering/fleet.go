package metering

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

const (
	// silentAfter is how long nothing is heard of an agent that is called silent; one that
	// is connected is heard of each minute.
	silentAfter = time.Hour
	// skewedFrom is from where a clock is called wrong.
	skewedFrom = 2 * time.Minute
	// backlogFrom is how many records a busy desktop does not gather in an hour.
	backlogFrom = 1000
	// keepStatesEvery is how often what was told is written.
	keepStatesEvery = time.Second
	// maxAgents bounds what waits to be written, over all accounts.
	maxAgents = 100_000
	// maxStateBytes is more than a Manager's bounds let a state be.
	maxStateBytes = 256 << 10
)

// fleet keeps how agents are doing, as their Managers tell.
type fleet struct {
	log    *slog.Logger
	nats   *nats.Conn
	stores func() []*postgres.Store // the serving one, and one that is to take its place

	mu      sync.Mutex
	waiting map[agentKey]toldState
	known   []*postgres.Store // into which Managers' words have gone
}

type agentKey struct{ account, agent contract.ID }

// toldState is an agent's state, and the Manager that told it.
type toldState struct {
	manager contract.ID
	state   *agentv1.AgentState
}

func newFleet(log *slog.Logger, nc *nats.Conn, stores func() []*postgres.Store) *fleet {
	return &fleet{log: log, nats: nc, stores: stores, waiting: make(map[agentKey]toldState)}
}

func (f *fleet) run(ctx context.Context) error {
	return listen(ctx, f.nats, f.log, channel{subjects: contract.HealthSubjects, what: "a report of agents' health", room: 1024},
		f.ask, f.take, keepStatesEvery, func(time.Time) { f.keep(ctx) })
}

func (f *fleet) ask() {
	if err := f.nats.Publish(contract.HealthAskSubject, nil); err != nil {
		f.log.Warn("Managers cannot be asked how their agents are doing", "error", err)
	}
}

// take takes in what a Manager tells.
func (f *fleet) take(account contract.ID, told *agentv1.AgentStates, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	manager, err := contract.IDFrom(told.GetManagerId())
	if err != nil {
		f.log.Warn("a report of health names no Manager", "account", account.String(), "error", err)
		return
	}
	for _, state := range told.GetAgents() {
		agent, err := contract.IDFrom(state.GetAgentId())
		if err == nil {
			_, err = contract.IDFrom(state.GetMachineId())
		}
		if err != nil {
			f.log.Warn("a report of health names no agent and machine", "account", account.String(), "error", err)
			continue
		}
		if size := proto.Size(state); size > maxStateBytes {
			f.log.Warn("an agent's health is too large and is left out", "account", account.String(), "agent", agent.String(), "bytes", size, "limit", maxStateBytes)
			continue
		}
		// A Manager's clock that is ahead must not keep others from being believed.
		state.SeenUtcMillis = min(state.GetSeenUtcMillis(), now.UnixMilli())
		key := agentKey{account, agent}
		before, waits := f.waiting[key]
		if !waits && len(f.waiting) >= maxAgents {
			f.log.Warn("too many agents' health waits to be written: one's is left out", "account", account.String(), "agent", agent.String())
			continue
		}
		if told := (toldState{manager, state}); !waits || !told.before(before) {
			f.waiting[key] = told
		}
	}
}

// before tells whether what was told is of an earlier moment.
func (t toldState) before(other toldState) bool {
	return t.state.GetSeenUtcMillis() < other.state.GetSeenUtcMillis()
}

// keep writes what was told. What cannot be written is written later.
func (f *fleet) keep(ctx context.Context) {
	stores := f.stores()
	f.mu.Lock()
	waiting := f.waiting
	f.waiting = make(map[agentKey]toldState)
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
					f.waiting[key] = told
				}
			}
			f.mu.Unlock()
		}
	}
}

func writeStates(ctx context.Context, store *postgres.Store, told map[agentKey]toldState) error {
	if len(told) == 0 {
		return nil
	}
	var accounts, agents, machines, managers [][16]byte
	var seen, skews []int64
	var conditions []int32
	var hosts []string
	var states [][]byte
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
	}
	_, err := store.Projector.Exec(ctx, `INSERT INTO agent_state AS s (account_id, agent_id, machine_id, manager_id, seen_ms, skew_ms, conditions, host_name, state)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int8[], $6::int8[], $7::int4[], $8::text[], $9::bytea[])
		ON CONFLICT (account_id, agent_id) DO UPDATE SET machine_id = excluded.machine_id, manager_id = excluded.manager_id, seen_ms = excluded.seen_ms,
			skew_ms = excluded.skew_ms, conditions = excluded.conditions, host_name = excluded.host_name, state = excluded.state
		WHERE excluded.seen_ms >= s.seen_ms`,
		accounts, agents, machines, managers, seen, skews, conditions, hosts, states)
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
	on(meteringv1.AgentCondition_AGENT_CONDITION_RELEASE, h.GetRelease().GetState() == agentv1.ReleaseState_RELEASE_STATE_REFUSED)
	on(meteringv1.AgentCondition_AGENT_CONDITION_REFUSED, s.GetRefusals() > 0)
	on(meteringv1.AgentCondition_AGENT_CONDITION_COPIED, s.GetCopied())
	on(meteringv1.AgentCondition_AGENT_CONDITION_MANAGER, h.GetManagerProblem() != "")
	return set
}

// fleetSQL is every agent that anything is known of: those that Managers told of, and
// those whose use was counted. $1 is the account, $2 the moment from which on one is not
// silent, $3 from where a clock is wrong, $4 and $5 the bits of the two.
const fleetSQL = `SELECT f.*, f.bits | CASE WHEN f.last_ms < $2 THEN $4::int4 ELSE 0 END | CASE WHEN f.skew NOT BETWEEN -$3::int8 AND $3::int8 THEN $5::int4 ELSE 0 END AS conditions FROM (
	SELECT agent_id, coalesce(s.machine_id, a.machine_id) AS machine_id, coalesce(s.manager_id, '00000000-0000-0000-0000-000000000000') AS manager_id,
		coalesce(nullif(s.host_name, ''), m.host_name, '') AS host, coalesce(m.operating_system, '') AS system, coalesce(m.agent_version, '') AS version,
		greatest(s.seen_ms, a.received_ms) AS last_ms, coalesce(a.received_ms, 0) AS received_ms, coalesce(s.skew_ms, a.skew_ms) AS skew,
		coalesce(s.conditions, 0) AS bits, s.state
	FROM (SELECT * FROM agent_state WHERE account_id = $1::uuid) AS s
	FULL JOIN (SELECT * FROM agent WHERE account_id = $1::uuid) AS a USING (agent_id)
	LEFT JOIN machine AS m ON m.account_id = $1::uuid AND m.machine_id = coalesce(s.machine_id, a.machine_id)
) AS f`

func fleetArgs(account contract.ID, now time.Time) []any {
	return []any{
		account, now.Add(-silentAfter).UnixMilli(), skewedFrom.Milliseconds(),
		bit(meteringv1.AgentCondition_AGENT_CONDITION_SILENT), bit(meteringv1.AgentCondition_AGENT_CONDITION_SKEWED),
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
	size := pageSize(req.GetPageSize(), 100)
	question := fmt.Sprintf("agents %s %d", caller.Account, wanted)
	offset := int64(0)
	if token := req.GetPageToken(); token != "" {
		if offset, err = readOffsetToken(op, question, token); err != nil {
			return nil, err
		}
	}
	resp := &meteringv1.ListAgentsResponse{}
	now := time.Now()
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+agentColumns+" FROM ("+fleetSQL+") AS g WHERE conditions & $6 = $6 ORDER BY lower(host), agent_id OFFSET $7 LIMIT $8",
			append(fleetArgs(caller.Account, now), wanted, offset, size+1)...)
		if err != nil {
			return err
		}
		resp.Agents, err = pgx.CollectRows(rows, scanAgent(now))
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if len(resp.GetAgents()) > size {
		resp.Agents = resp.GetAgents()[:size]
		resp.NextPageToken = markToken(question, offset+int64(size), contract.ID{})
	}
	return resp, nil
}

func (a *agentAPI) GetAgent(ctx context.Context, req *meteringv1.GetAgentRequest) (*meteringv1.GetAgentResponse, error) {
	const op = "metering.GetAgent"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := parseID(op, "agent_id", req.GetAgentId())
	if err != nil {
		return nil, err
	}
	var found *meteringv1.Agent
	now := time.Now()
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+agentColumns+" FROM ("+fleetSQL+") AS g WHERE agent_id = $6::uuid", append(fleetArgs(caller.Account, now), id)...)
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
		m.LastSeenTime, m.LastReceivedTime = millisStamp(last), millisStamp(received)
		m.Skew, m.Conditions = millisSpan(skew), conditionsIn(set)
		if raw == nil {
			return m, nil
		}
		state := new(agentv1.AgentState)
		if err := proto.Unmarshal(raw, state); err != nil {
			return nil, fmt.Errorf("state of agent %s: %w", agent, err)
		}
		m.Connected = state.GetConnected() && now.UnixMilli()-last < silentAfter.Milliseconds()
		m.OperatingSystem, m.AgentVersion = cmp.Or(state.GetOperatingSystem(), m.GetOperatingSystem()), cmp.Or(state.GetAgentVersion(), m.GetAgentVersion())
		m.Refusals, m.LastRefusal = int64(state.GetRefusals()), state.GetLastRefusal()
		h := state.GetHealth()
		m.WaitingRecords, m.JournalBytes, m.Paused, m.Unsupported = int64(h.GetUnacknowledgedRecords()), int64(h.GetJournalBytes()), h.GetPaused(), h.GetUnsupported()
		m.PolicyRevision, m.ManagerProblem = int64(h.GetAppliedPolicyRevision()), h.GetManagerProblem()
		for _, p := range h.GetPlugins() {
			m.Plugins = append(m.Plugins, &meteringv1.AgentPlugin{
				Name: p.GetName(), Version: p.GetVersion(), State: word(p.GetState().String(), "PLUGIN_STATE_"), Message: p.GetMessage(),
				Restarts: int32(p.GetRestarts()), BuiltIn: p.GetBuiltIn(),
			})
		}
		if r := h.GetRelease(); r != nil {
			m.Release = &meteringv1.AgentRelease{
				Number: int64(r.GetNumber()), State: word(r.GetState().String(), "RELEASE_STATE_"), Target: int64(r.GetTarget()),
				FetchedPercent: int32(100 * min(r.GetFetchedBytes(), r.GetSizeBytes()) / max(1, r.GetSizeBytes())), Message: r.GetMessage(),
			}
		}
		return m, nil
	}
}

func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }
