package metering

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// maxConcerned bounds how many agents and machines a finding names.
	maxConcerned = 100
	// goodPerMillion and fairPerMillion are how much of the time may be unknown.
	goodPerMillion, fairPerMillion = 10_000, 50_000

	unknownIndex, pausedIndex = usagev1.Attention_ATTENTION_UNKNOWN - 1, usagev1.Attention_ATTENTION_PAUSED - 1
)

// quality is what is known of the figures of a period and a filter.
type quality struct {
	totals   Totals
	machines map[contract.ID]*Totals
	agents   []*agentOfPeriod
	// setAside are messages since the period began, lag those that wait.
	setAside, lag int64
	// sending are agents that have still to send what they recorded in the period.
	sending []sendingAgent
	// behind are Managers that hold messages, so many together.
	behind, held int64
	// gradesOnly: neither agents nor machines are named.
	gradesOnly bool
}

// agentOfPeriod is an agent on whose machine something was open.
type agentOfPeriod struct {
	id, machine                               contract.ID
	missing                                   int64
	silent, skewed, unsupported, watchedTwice bool
}

// sendingAgent is one that has still to send what it recorded earlier.
type sendingAgent struct {
	id      contract.ID
	waiting int64
	// time is of how much time it had something to send, and sent of how much that has come; nil where it does
	// not tell.
	time, sent *int64
}

// readSending reads the agents of an account that have still to send what they recorded in a period. One that
// tells only how many records wait, since it is old, is among them whatever the period is. Whether one that is not
// heard of any more has recorded anything since is not known.
func readSending(ctx context.Context, tx pgx.Tx, r *report, now time.Time) ([]sendingAgent, error) {
	rows, err := tx.Query(ctx, `SELECT s.agent_id, s.waiting, s.backlog_ms, s.backlog_sent_ms FROM agent_state AS s
		WHERE s.account_id = $1::uuid AND s.seen_ms >= $4 AND (cardinality($5::uuid[]) = 0 OR s.machine_id = ANY ($5::uuid[]))
			AND (s.backlog_from_ms < $3 AND coalesce(s.backlog_until_ms, s.seen_ms) > $2 OR s.backlog_from_ms IS NULL AND s.conditions & $6::int4 <> 0)
			AND NOT EXISTS (SELECT FROM removed_agent AS g WHERE g.account_id = $1::uuid AND g.agent_id = s.agent_id AND g.removed_ms >= s.seen_ms)
		ORDER BY s.agent_id`,
		r.caller.Account, r.from.millis(), r.to.millis(), now.Add(-forgottenAfter).UnixMilli(), raw(r.filter.machines), bit(meteringv1.AgentCondition_AGENT_CONDITION_BACKLOG))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a sendingAgent, err error) {
		err = row.Scan((*[16]byte)(&a.id), &a.waiting, &a.time, &a.sent)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return found, nil
}

// stillSending is what there is against the figures since agents have still to send; nil where none has.
func (q *quality) stillSending() *meteringv1.QualityFinding {
	if len(q.sending) == 0 {
		return nil
	}
	f := &meteringv1.QualityFinding{Issue: meteringv1.QualityIssue_QUALITY_ISSUE_STILL_SENDING, Grade: meteringv1.QualityGrade_QUALITY_GRADE_FAIR, Count: int64(len(q.sending))}
	var time, sent int64
	for _, a := range q.sending {
		f.Waiting += a.waiting
		if a.time != nil && a.sent != nil {
			time, sent = time+*a.time, sent+*a.sent
		}
		if len(f.GetAgentIds()) < maxConcerned && !q.gradesOnly {
			f.AgentIds = append(f.AgentIds, a.id.String())
		}
	}
	if time > 0 {
		share := perMillion(sent, time)
		f.SentPerMillion = &share
		// What one agent of many has not sent yet weighs little.
		agents := int64(len(q.sending))
		if missing := perMillion(agents, max(agents, int64(len(q.machines)))) * (1_000_000 - share) / 1_000_000; missing >= fairPerMillion {
			f.Grade = meteringv1.QualityGrade_QUALITY_GRADE_POOR
		}
	}
	return f
}

// asksPeriod tells whether a question is about a period too.
func asksPeriod(req *meteringv1.GetDataQualityRequest) bool {
	return req.GetStartTime() != nil || req.GetEndTime() != nil
}

// readQuality reads it; lag and who watches what with whom are known in memory.
func readQuality(ctx context.Context, tx pgx.Tx, r *report, memory *memory, now time.Time, together map[string][]string) (*quality, error) {
	q := &quality{machines: make(map[contract.ID]*Totals)}
	err := tx.QueryRow(ctx, "SELECT coalesce(sum(size * count), 0)::int8 FROM agent_quarantine WHERE account_id = $1::uuid AND last_stored >= $2",
		r.caller.Account, r.from.time()).Scan(&q.setAside)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	if q.sending, err = readSending(ctx, tx, r, now); err != nil {
		return nil, err
	}
	if q.agents, err = readAgentsOfPeriod(ctx, tx, r, now); err != nil {
		return nil, err
	}
	who, err := readAudience(ctx, tx, r.caller.Account, &summary{by: byPrincipal, filter: r.filter})
	if err != nil {
		return nil, err
	}
	// It is for cells alone, and so comes last.
	if _, err := tx.Exec(ctx, tuneForCells); err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	times := timesQuery{account: r.caller.Account, period: period{r.from, r.to}, filter: r.filter, people: r.merged, principals: who.principals, by: byMachine, memory: memory}
	byMachines, err := times.read(ctx, tx)
	if err != nil {
		return nil, err
	}
	for k, t := range byMachines {
		if t.Open() > 0 {
			q.totals.Add(*t)
			q.machines[k.machine] = t
		}
	}
	q.agents = slices.DeleteFunc(q.agents, func(a *agentOfPeriod) bool { return q.machines[a.machine] == nil })
	for _, a := range q.agents {
		a.watchedTwice = len(together[a.id.String()]) > 0
	}
	return q, nil
}

// readAgentsOfPeriod reads all agents of an account as a period's figures stand on them.
func readAgentsOfPeriod(ctx context.Context, tx pgx.Tx, r *report, now time.Time) ([]*agentOfPeriod, error) {
	// What was received after the period's end, or within the hour, makes an agent no silent one.
	until := min(r.to.millis(), now.Add(-silentAfter).UnixMilli())
	rows, err := tx.Query(ctx, `
		SELECT a.agent_id, a.machine_id, greatest(a.received_ms, coalesce(s.seen_ms, a.received_ms)) < $2::int8, coalesce(s.skew_ms, a.skew_ms) NOT BETWEEN -$3::int8 AND $3::int8,
		       coalesce(s.conditions, 0) & $4::int4 <> 0, coalesce(e.missing, 0)::int8
		FROM agent AS a
		LEFT JOIN agent_state AS s ON s.account_id = a.account_id AND s.agent_id = a.agent_id
		LEFT JOIN (
			SELECT agent_id, sum(upper(received) - 1 - kept) AS missing
			FROM agent_epoch CROSS JOIN LATERAL (SELECT coalesce(sum(upper(r) - lower(r)), 0) AS kept FROM unnest(received) AS r) AS n
			WHERE account_id = $1::uuid GROUP BY agent_id
		) AS e ON e.agent_id = a.agent_id
		WHERE a.account_id = $1::uuid ORDER BY a.agent_id`,
		r.caller.Account, until, skewedFrom.Milliseconds(), bit(meteringv1.AgentCondition_AGENT_CONDITION_UNSUPPORTED))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	agents, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*agentOfPeriod, error) {
		a := &agentOfPeriod{}
		return a, row.Scan((*[16]byte)(&a.id), (*[16]byte)(&a.machine), &a.silent, &a.skewed, &a.unsupported, &a.missing)
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return agents, nil
}

// findings are what there is against the figures, the weightiest first.
func (q *quality) findings() []*meteringv1.QualityFinding {
	var all []*meteringv1.QualityFinding
	open := q.totals.Open().Milliseconds()
	lasting := func(issue meteringv1.QualityIssue, ms int64, grade func(perMillion int64) meteringv1.QualityGrade) {
		if ms > 0 {
			share := perMillion(ms, open)
			all = append(all, &meteringv1.QualityFinding{Issue: issue, Grade: grade(share), Time: millisSpan(ms), PerMillion: share})
		}
	}
	counted := func(issue meteringv1.QualityIssue, grade meteringv1.QualityGrade, of func(*agentOfPeriod) int64, agents bool) {
		f := &meteringv1.QualityFinding{Issue: issue, Grade: grade}
		for _, a := range q.agents {
			n := of(a)
			if n == 0 {
				continue
			}
			if agents {
				n = 1
			}
			f.Count += n
			if len(f.GetAgentIds()) < maxConcerned && !q.gradesOnly {
				f.AgentIds = append(f.AgentIds, a.id.String())
			}
		}
		if f.GetCount() > 0 {
			all = append(all, f)
		}
	}
	is := func(of func(*agentOfPeriod) bool) func(*agentOfPeriod) int64 {
		return func(a *agentOfPeriod) int64 {
			if of(a) {
				return 1
			}
			return 0
		}
	}
	const good, fair, poor = meteringv1.QualityGrade_QUALITY_GRADE_GOOD, meteringv1.QualityGrade_QUALITY_GRADE_FAIR, meteringv1.QualityGrade_QUALITY_GRADE_POOR
	lasting(meteringv1.QualityIssue_QUALITY_ISSUE_UNKNOWN_TIME, q.totals.Millis[unknownIndex], func(share int64) meteringv1.QualityGrade {
		switch {
		case share < goodPerMillion:
			return good
		case share < fairPerMillion:
			return fair
		}
		return poor
	})
	// Who pauses does so knowingly.
	lasting(meteringv1.QualityIssue_QUALITY_ISSUE_PAUSED_TIME, q.totals.Millis[pausedIndex], func(int64) meteringv1.QualityGrade { return good })
	if f := q.stillSending(); f != nil {
		all = append(all, f)
	}
	if q.behind > 0 {
		all = append(all, &meteringv1.QualityFinding{Issue: meteringv1.QualityIssue_QUALITY_ISSUE_MANAGERS_BEHIND, Grade: fair, Count: q.behind, Waiting: q.held})
	}
	counted(meteringv1.QualityIssue_QUALITY_ISSUE_SILENT_AGENTS, fair, is(func(a *agentOfPeriod) bool { return a.silent }), true)
	counted(meteringv1.QualityIssue_QUALITY_ISSUE_SKEWED_AGENTS, fair, is(func(a *agentOfPeriod) bool { return a.skewed }), true)
	counted(meteringv1.QualityIssue_QUALITY_ISSUE_UNSUPPORTED_AGENTS, fair, is(func(a *agentOfPeriod) bool { return a.unsupported }), true)
	counted(meteringv1.QualityIssue_QUALITY_ISSUE_WATCHED_TWICE, poor, is(func(a *agentOfPeriod) bool { return a.watchedTwice }), true)
	counted(meteringv1.QualityIssue_QUALITY_ISSUE_MISSING_RECORDS, poor, func(a *agentOfPeriod) int64 { return a.missing }, false)
	if q.setAside > 0 {
		all = append(all, &meteringv1.QualityFinding{Issue: meteringv1.QualityIssue_QUALITY_ISSUE_QUARANTINED, Grade: poor, Count: q.setAside})
	}
	if q.lag > 0 {
		all = append(all, &meteringv1.QualityFinding{Issue: meteringv1.QualityIssue_QUALITY_ISSUE_NOT_COUNTED_YET, Grade: good, Count: q.lag})
	}
	slices.SortStableFunc(all, func(a, b *meteringv1.QualityFinding) int { return cmp.Compare(b.GetGrade(), a.GetGrade()) })
	return all
}

// perMillion is a part of a whole, rounded down.
func perMillion(part, whole int64) int64 {
	if whole == 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(part), 1_000_000)
	share, _ := bits.Div64(high, low, uint64(whole))
	return int64(share)
}

func (q *quality) message(r *report) *meteringv1.PeriodQuality {
	m := &meteringv1.PeriodQuality{
		Grade: meteringv1.QualityGrade_QUALITY_GRADE_GOOD, Findings: q.findings(), Totals: q.totals.message(),
		Machines: int64(len(q.machines)), Agents: int64(len(q.agents)), DataSinceTime: r.since,
	}
	for _, f := range m.GetFindings() {
		m.Grade = max(m.GetGrade(), f.GetGrade())
	}
	for _, id := range q.unknownMachines() {
		m.UnknownMachines = append(m.UnknownMachines, &meteringv1.MachineQuality{MachineId: id.String(), MachineName: r.names.machines[id], Totals: q.machines[id].message()})
	}
	return m
}

// unknownMachines are those of which some time is not known, the most first.
func (q *quality) unknownMachines() (ids []contract.ID) {
	if q.gradesOnly {
		return nil
	}
	for id, t := range q.machines {
		if t.Millis[unknownIndex] > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b contract.ID) int {
		return cmp.Or(cmp.Compare(q.machines[b].Millis[unknownIndex], q.machines[a].Millis[unknownIndex]), bytes.Compare(a[:], b[:]))
	})
	return ids[:min(len(ids), maxConcerned)]
}

// periodQuality answers about a period.
func (a *usageAPI) periodQuality(ctx context.Context, req *meteringv1.GetDataQualityRequest, lag uint64, together map[string][]string) (*meteringv1.PeriodQuality, error) {
	const op = "metering.GetDataQuality"
	r, err := reportOf(ctx, op, req)
	if err != nil {
		return nil, err
	}
	reports := &reportAPI{service: a.service}
	if err := reports.viewed(ctx, r, req, !req.GetGradesOnly()); err != nil {
		return nil, err
	}
	r.byCells = true
	var q *quality
	err = reports.read(ctx, r, "UTC", func(tx pgx.Tx) (err error) {
		if q, err = readQuality(ctx, tx, r, a.service.memory, time.Now(), together); err != nil {
			return err
		}
		q.gradesOnly = req.GetGradesOnly()
		for _, id := range q.unknownMachines() {
			r.names.want(contract.ID{}, contract.ID{}, id, contract.ID{})
		}
		return nil
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	q.lag = int64(min(lag, 1<<62))
	for _, m := range a.service.fleet.managersOf(r.caller.Account, time.Now()) {
		if m.GetConnected() && m.GetBacklog() > backlogFrom {
			q.behind, q.held = q.behind+1, q.held+int64(min(m.GetBacklog(), math.MaxInt32))
		}
	}
	return q.message(r), nil
}
