package metering

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelmetric "go.opentelemetry.io/otel/metric"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/telemetry"
)

// figuresEvery is how often it is looked in the tables how agents are doing.
const figuresEvery = time.Minute

// otherAlarm stands for alarms of Managers that are newer than this platform, so that none can make
// labels up.
const otherAlarm = "OTHER"

// knownAlarms are the codes by which Managers tell what is wrong.
var knownAlarms = []string{
	"AGENT_COPIED", "BUFFER_DAMAGED", "BUFFER_NEARLY_FULL", "BUFFER_STALLED", "CERTIFICATE", "CLOCKS", "PLATFORM_FORBIDS",
	"PLATFORM_LOST_DATA", "PLATFORM_PUT_BACK", "PLATFORM_REFUSES", "REFUSED", "RELEASE_DAMAGED", "RELEASE_HELD", "TAKEOVER_NEEDED",
}

// fleetFiguresSQL counts the agents of all accounts that are listed (fleetSQL) by their conditions, and what
// is known to be missing of them. $1 is the moment from which on one is not silent, $2 from where a clock
// is wrong, $3 and $4 the bits of the two, $5 the moment from which on one is listed.
const fleetFiguresSQL = `WITH listed AS (
	SELECT account_id, agent_id, coalesce(s.conditions, 0) AS bits, coalesce(s.waiting, 0) AS waiting,
		greatest(s.seen_ms, a.received_ms) AS last_ms, coalesce(s.skew_ms, a.skew_ms) AS skew
	FROM agent_state AS s FULL JOIN agent AS a USING (account_id, agent_id)
	WHERE greatest(s.seen_ms, a.received_ms) >= $5::int8
), there AS (
	SELECT l.*, l.bits | CASE WHEN l.last_ms < $1::int8 THEN $3::int4 ELSE 0 END
		| CASE WHEN l.skew NOT BETWEEN -$2::int8 AND $2::int8 THEN $4::int4 ELSE 0 END AS conditions
	FROM listed AS l
	WHERE NOT EXISTS (SELECT FROM removed_agent AS r WHERE r.account_id = l.account_id AND r.agent_id = l.agent_id AND r.removed_ms >= l.last_ms)
), holes AS (
	SELECT account_id, agent_id, sum(upper(received) - 1 - kept) AS missing
	FROM agent_epoch CROSS JOIN LATERAL (SELECT coalesce(sum(upper(r) - lower(r)), 0) AS kept FROM unnest(received) AS r) AS n
	GROUP BY account_id, agent_id
)
SELECT t.conditions, count(*), sum(t.waiting)::int8, coalesce(sum(h.missing), 0)::int8
FROM there AS t LEFT JOIN holes AS h USING (account_id, agent_id) GROUP BY t.conditions`

// figures are metrics of how agents and Managers are doing, of all accounts together: nothing in them
// tells one account, agent or person from another.
type figures struct {
	freshness otelmetric.Float64Histogram

	mu    sync.Mutex
	fleet fleetFigures // as last looked at
	known bool
}

// fleetFigures are what the tables tell.
type fleetFigures struct {
	agents int64
	// conditions counts agents, by bit; an agent may have several.
	conditions map[meteringv1.AgentCondition]int64
	// waiting are records that agents hold, missing such that must have been before others that came.
	waiting, missing int64
}

// newFigures registers the metrics; of Managers fleet tells when it is asked, and of agents what was
// last read.
func newFigures(fleet *fleet) (*figures, error) {
	f := &figures{}
	meter := otel.Meter("github.com/cetrus/cetrus/services/metering")
	var err error
	if f.freshness, err = meter.Float64Histogram("cetrus.metering.freshness", otelmetric.WithUnit("s"),
		otelmetric.WithDescription("How long after a Manager took records they were counted."),
		otelmetric.WithExplicitBucketBoundaries(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 86400)); err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	gauges := telemetry.NewGauges("github.com/cetrus/cetrus/services/metering")
	agents := gauges.Gauge("cetrus.metering.agents", "{agent}", "Agents that are listed.")
	conditions := gauges.Gauge("cetrus.metering.agents.conditions", "{agent}", "Agents in each condition; one may be in several.")
	waiting := gauges.Gauge("cetrus.metering.records.waiting", "{record}", "Records that agents hold and no Manager has taken.")
	missing := gauges.Gauge("cetrus.metering.records.missing", "{record}", "Records that have not come though later ones of the same journal have.")
	managers := gauges.Gauge("cetrus.metering.managers", "{manager}", "Managers that have told how they are doing, by whether they are connected.")
	backlog := gauges.Gauge("cetrus.metering.managers.backlog", "{message}", "Messages that Managers hold and the platform has not got.")
	alarms := gauges.Gauge("cetrus.metering.managers.alarms", "{manager}", "Managers with each alarm.")
	_, err = gauges.Look(func(_ context.Context, o otelmetric.Observer) error {
		m := fleet.managerFigures(time.Now())
		o.ObserveInt64(managers, m.connected, otelmetric.WithAttributes(attribute.Bool("connected", true)))
		o.ObserveInt64(managers, m.away, otelmetric.WithAttributes(attribute.Bool("connected", false)))
		o.ObserveInt64(backlog, m.backlog)
		for code, count := range m.alarms {
			o.ObserveInt64(alarms, count, otelmetric.WithAttributes(attribute.String("alarm", code)))
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.known {
			return nil
		}
		o.ObserveInt64(agents, f.fleet.agents)
		o.ObserveInt64(waiting, f.fleet.waiting)
		o.ObserveInt64(missing, f.fleet.missing)
		for c, count := range f.fleet.conditions {
			o.ObserveInt64(conditions, count, otelmetric.WithAttributes(attribute.String("condition", conditionWord(c))))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return f, nil
}

func conditionWord(c meteringv1.AgentCondition) string { return word(c.String(), "AGENT_CONDITION_") }

// runFigures looks how agents are doing until ctx ends.
func (s *Service) runFigures(ctx context.Context) error {
	s.everyLevel(ctx, figuresEvery, newWake(), func(v *views) {
		read, err := readFleetFigures(ctx, v.store.Projector, time.Now())
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("how agents are doing could not be read for the metrics; it is tried again", "error", err, "again in", figuresEvery)
			}
			return
		}
		s.figures.mu.Lock()
		s.figures.fleet, s.figures.known = read, true
		s.figures.mu.Unlock()
	})
	return nil
}

func readFleetFigures(ctx context.Context, pool *pgxpool.Pool, now time.Time) (fleetFigures, error) {
	// Each condition is told from the first, so that none begins to be there when it is wrong.
	read := fleetFigures{conditions: make(map[meteringv1.AgentCondition]int64)}
	for n := range len(meteringv1.AgentCondition_name) {
		if c := meteringv1.AgentCondition(n); c != meteringv1.AgentCondition_AGENT_CONDITION_UNSPECIFIED {
			read.conditions[c] = 0
		}
	}
	rows, err := pool.Query(ctx, fleetFiguresSQL, now.Add(-silentAfter).UnixMilli(), skewedFrom.Milliseconds(),
		bit(meteringv1.AgentCondition_AGENT_CONDITION_SILENT), bit(meteringv1.AgentCondition_AGENT_CONDITION_SKEWED), now.Add(-forgottenAfter).UnixMilli())
	if err != nil {
		return read, fmt.Errorf("metering: %w", err)
	}
	var set int32
	var agents, waiting, missing int64
	_, err = pgx.ForEachRow(rows, []any{&set, &agents, &waiting, &missing}, func() error {
		read.agents, read.waiting, read.missing = read.agents+agents, read.waiting+waiting, read.missing+missing
		for _, c := range conditionsIn(set) {
			read.conditions[c] += agents
		}
		return nil
	})
	if err != nil {
		return read, fmt.Errorf("metering: %w", err)
	}
	return read, nil
}

// managerFigures are what Managers tell of themselves.
type managerFigures struct {
	connected, away, backlog int64
	// alarms counts the Managers that have each.
	alarms map[string]int64
}

func (f *fleet) managerFigures(now time.Time) managerFigures {
	told := managerFigures{alarms: map[string]int64{otherAlarm: 0}}
	for _, code := range knownAlarms {
		told.alarms[code] = 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, of := range f.managers {
		for _, m := range of {
			if now.Sub(m.at) < managerAway {
				told.connected++
			} else {
				told.away++
			}
			told.backlog += int64(min(m.state.GetBacklog(), 1<<40)) // what no Manager can hold is not believed
			var codes []string
			for _, alarm := range m.state.GetAlarms() {
				code := strings.ToUpper(alarm.GetCode())
				if !slices.Contains(knownAlarms, code) {
					code = otherAlarm
				}
				if !slices.Contains(codes, code) {
					codes = append(codes, code)
					told.alarms[code]++
				}
			}
		}
	}
	return told
}

// countedWhen has it noted, once the transaction of ctx is there for good, how long after Managers took
// records these were counted.
func (f *figures) countedWhen(ctx context.Context, receptions []agentlog.Reception, now func() time.Time) {
	if len(receptions) == 0 {
		return
	}
	// One of the batch is enough of each Manager: what came together is counted together.
	oldest := make(map[[2][16]byte]int64)
	for _, r := range receptions {
		from := [2][16]byte{r.Account, r.Manager}
		if at, is := oldest[from]; !is || r.ReceivedUTCMillis < at {
			oldest[from] = r.ReceivedUTCMillis
		}
	}
	projection.AfterTx(ctx, func(committed bool) {
		if !committed {
			return
		}
		for _, at := range oldest {
			f.freshness.Record(context.WithoutCancel(ctx), max(0, now().Sub(time.UnixMilli(at)).Seconds()))
		}
	})
}
