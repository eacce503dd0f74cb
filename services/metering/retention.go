package metering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelmetric "go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/projection"
)

const (
	// retainEvery is how often what has grown too old is looked for; what comes late to behind
	// a horizon stays in the tables for so long, and in no answer.
	retainEvery = 15 * time.Minute
	// leastKept is the shortest time for which anything may be kept: what an agent has yet to
	// send should not be too old when it comes.
	leastKept = 7
	// removedInstances and removedRows bound what one transaction removes: the projection of usage
	// waits for it.
	removedInstances = 100
	removedRows      = 5000
	// retentionActor stands in the events that follow from age alone.
	retentionActor = "retention"
)

// Keep is for how many days what was measured is kept; 0: for ever.
type Keep struct {
	// Instances are instances with their intervals and documents, Persons time by person,
	// machine and document, Totals time of the whole account by application.
	Instances, Persons, Totals int32
}

// problem tells what cannot be.
func (k Keep) problem() error {
	type tier struct {
		name string
		days int32
	}
	var finer *tier
	for _, t := range []tier{{"instance_days", k.Instances}, {"person_days", k.Persons}, {"total_days", k.Totals}} {
		path := "settings.retention." + t.name
		if t.days != 0 && t.days < leastKept {
			return errs.InvalidFields("metering.UpdateSettings", "", errs.Field{Path: path, Description: fmt.Sprintf("is less than %d days: use that comes late from a machine that was off would be gone before anybody saw it; 0 keeps for ever", leastKept)})
		}
		if t.days != 0 && finer != nil && (finer.days == 0 || finer.days > t.days) {
			return errs.InvalidFields("metering.UpdateSettings", "", errs.Field{Path: path, Description: fmt.Sprintf("is shorter than %s: what is finer may not be kept longer than what is coarser", finer.name)})
		}
		finer = &t
	}
	return nil
}

// horizons are before when nothing is answered any more, in milliseconds of UTC; 0: all is
// there. They never go back: what was removed does not return.
type horizons struct{ instances, persons, totals int64 }

// horizonsAt is where they are at a moment. Instances go by days. Of cells the coarsest span 16 days,
// and any period is made of cells of all levels, added and taken away: so they all end at a
// beginning of the coarsest.
func (k Keep) horizonsAt(now time.Time) horizons {
	at := func(days int32, width quarter) int64 {
		if days == 0 {
			return 0
		}
		q := quarterOf(now.UnixMilli()) - quarter(days)*levelWidths[levelDay]
		return max(0, (quarter(floorDiv(int64(q), int64(width))) * width).millis())
	}
	return horizons{
		instances: at(k.Instances, levelWidths[levelDay]),
		persons:   at(k.Persons, levelWidths[levelSixteenDays]), totals: at(k.Totals, levelWidths[levelSixteenDays]),
	}
}

func (h horizons) latest(o horizons) horizons {
	return horizons{max(h.instances, o.instances), max(h.persons, o.persons), max(h.totals, o.totals)}
}

// Decide moves horizons on to where they are to be.
func (h horizons) Decide(want horizons) []proto.Message {
	moved := h.latest(want)
	if moved == h {
		return nil
	}
	return []proto.Message{&meteringv1.RetentionMoved{
		InstancesBeforeUtcMillis: moved.instances, PersonsBeforeUtcMillis: moved.persons, TotalsBeforeUtcMillis: moved.totals,
	}}
}

// Apply returns the horizons after an event.
func (h horizons) Apply(event proto.Message) (horizons, error) {
	e, ok := event.(*meteringv1.RetentionMoved)
	if !ok {
		return h, fmt.Errorf("metering: %T is no event of the retention", event)
	}
	return h.latest(horizons{e.GetInstancesBeforeUtcMillis(), e.GetPersonsBeforeUtcMillis(), e.GetTotalsBeforeUtcMillis()}), nil
}

// readHorizons reads an account's. Whoever answers from a tier leaves out what is before its
// horizon, though it may not be removed yet, and says so.
func readHorizons(ctx context.Context, tx pgx.Tx, account contract.ID) (h horizons, err error) {
	err = tx.QueryRow(ctx, "SELECT instances_before_ms, persons_before_ms, totals_before_ms FROM retention WHERE account_id = $1::uuid", account).Scan(&h.instances, &h.persons, &h.totals)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return h, fmt.Errorf("metering: %w", err)
	}
	return h, nil
}

// since is what an answer says of a question about what is behind a horizon; nil where it is not.
func since(from, horizon int64) *timestamppb.Timestamp {
	if from >= horizon {
		return nil
	}
	return millisStamp(horizon)
}

// horizon is that of the tables that a summary is made of.
func (q *summary) horizon(h horizons) int64 {
	switch {
	case q.person:
		return h.instances
	case q.by&(byPrincipal|byMachine|byDocument|byGroup|bySite) != 0 || q.filter.some():
		return h.persons
	}
	return h.totals
}

// clip leaves out of the period what is behind a horizon, which begins with a quarter-hour.
func (q *summary) clip(horizon int64) {
	q.from = max(q.from, quarterOf(horizon))
	q.to = max(q.to, q.from)
}

// message tells them; nil where nothing was removed.
func (h horizons) message() *meteringv1.RetainedSince {
	if h == (horizons{}) {
		return nil
	}
	return &meteringv1.RetainedSince{InstancesTime: since(0, h.instances), PersonsTime: since(0, h.persons), TotalsTime: since(0, h.totals)}
}

// retention removes what is too old.
type retention struct {
	// wake has it looked for what is too old.
	wake
	removed otelmetric.Int64Counter
}

func newRetention() (*retention, error) {
	removed, err := otel.Meter("github.com/cetrus/cetrus/services/metering").Int64Counter("cetrus.metering.retention.removed",
		otelmetric.WithUnit("{row}"), otelmetric.WithDescription("Rows that were removed since they were older than their account keeps them."))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return &retention{wake: newWake(), removed: removed}, nil
}

// runRetention removes what is too old until ctx ends. What an attempt leaves the next one finds:
// a removal that was interrupted goes on.
func (s *Service) runRetention(ctx context.Context) error {
	s.everyLevel(ctx, retainEvery, s.retention.wake, func(v *views) {
		if err := s.retain(ctx, v, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Warn("what is too old could not be removed; it is tried again", "error", err, "again in", retainEvery)
		}
	})
	return nil
}

// retain moves the horizons of the accounts whose use is counted here to where they are at a moment, then removes what is
// behind them. What fails for one account keeps nothing of another's.
func (s *Service) retain(ctx context.Context, v *views, now time.Time) error {
	rows, err := v.store.Projector.Query(ctx, `SELECT account_id, instance_days, person_days, total_days FROM settings WHERE instance_days + person_days + total_days > 0`)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	keep := make(map[contract.ID]Keep)
	var account contract.ID
	var k Keep
	if _, err := pgx.ForEachRow(rows, []any{(*[16]byte)(&account), &k.Instances, &k.Persons, &k.Totals}, func() error { keep[account] = k; return nil }); err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	known, err := allHorizons(ctx, v)
	if err != nil {
		return err
	}
	var failed []error
	for account, k := range keep {
		if !v.takes(account) {
			continue
		}
		want := k.horizonsAt(now)
		if want.latest(known[account]) == known[account] {
			continue
		}
		result, err := s.commands.retentions.Execute(ctx, retentionSubject(account), eventlog.Command{Actor: retentionActor}, func(h horizons) ([]proto.Message, error) {
			return h.Decide(want), nil
		})
		if err == nil {
			err = v.catalog.WaitFor(ctx, contract.Partition(account), uint64(result.Position))
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("metering: the retention of %s: %w", account, err))
		}
	}
	return errors.Join(append(failed, s.removeBehind(ctx, v))...)
}

func allHorizons(ctx context.Context, v *views) (map[contract.ID]horizons, error) {
	rows, err := v.store.Projector.Query(ctx, "SELECT account_id, instances_before_ms, persons_before_ms, totals_before_ms FROM retention")
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	all := make(map[contract.ID]horizons)
	var account contract.ID
	var h horizons
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&account), &h.instances, &h.persons, &h.totals}, func() error { all[account] = h; return nil })
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return all, nil
}

// removeBefore does so before views answer: the streams they were built from hold what was
// removed from the tables before them.
func (s *Service) removeBefore(ctx context.Context, v *views) error {
	active, err := v.store.Active(ctx)
	if err != nil || active {
		return err
	}
	return s.removeBehind(ctx, v)
}

// removeBehind removes what stands behind the horizons of views.
func (s *Service) removeBehind(ctx context.Context, v *views) error {
	all, err := allHorizons(ctx, v)
	if err != nil {
		return err
	}
	var failed []error
	for account, h := range all {
		if !v.takes(account) {
			continue // another process does it
		}
		r := remover{account: account, pool: v.store.Projector, do: v.doIn(account), forget: v.projection.forgetPairs}
		err := r.remove(ctx, h)
		for table, rows := range r.removed {
			s.retention.removed.Add(ctx, rows, otelmetric.WithAttributes(attribute.String("table", table)))
		}
		if len(r.removed) > 0 {
			v.log.Info("what is older than its account keeps it was removed", "account", account.String(), "rows", r.removed, "all", err == nil)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("metering: the retention of %s: %w", account, err))
		}
	}
	return errors.Join(failed...)
}

// remover removes what stands behind one account's horizons, in small transactions.
type remover struct {
	account contract.ID
	pool    interface {
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
	// do runs a transaction while nobody else writes the tables.
	do doing
	// forget is called in a transaction that takes people from machines.
	forget  func(context.Context)
	removed map[string]int64
}

// again runs a transaction until it has less to remove than it may.
func (r *remover) again(ctx context.Context, work func(context.Context, pgx.Tx) (more bool, err error)) error {
	for more := true; more; {
		if err := r.do(ctx, func(ctx context.Context, tx pgx.Tx) (err error) { more, err = work(ctx, tx); return err }); err != nil {
			return err
		}
	}
	return nil
}

func (r *remover) exec(ctx context.Context, tx pgx.Tx, table, sql string, args ...any) (int64, error) {
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return 0, fmt.Errorf("metering: removing from %s: %w", table, err)
	}
	r.count(table, tag.RowsAffected())
	return tag.RowsAffected(), nil
}

func (r *remover) count(table string, rows int64) {
	if rows > 0 {
		if r.removed == nil {
			r.removed = make(map[string]int64)
		}
		r.removed[table] += rows
	}
}

func (r *remover) remove(ctx context.Context, h horizons) error {
	if h.instances > 0 {
		if err := r.instances(ctx, h.instances); err != nil {
			return err
		}
	}
	if h.persons > 0 {
		if err := r.persons(ctx, int32(quarterOf(h.persons))); err != nil {
			return err
		}
	}
	if h.totals > 0 {
		return r.totals(ctx, int32(quarterOf(h.totals)))
	}
	return nil
}

// instances removes those whose last day is behind the horizon, of the others the intervals that
// are, and what was set aside before.
func (r *remover) instances(ctx context.Context, horizon int64) error {
	err := r.again(ctx, func(ctx context.Context, tx pgx.Tx) (bool, error) {
		rows, err := tx.Query(ctx, "SELECT instance_id FROM instance WHERE account_id = $1::uuid AND last_day < $2 LIMIT $3", r.account, dayOf(horizon), removedInstances)
		if err != nil {
			return false, err
		}
		gone, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
		if err != nil || len(gone) == 0 {
			return false, err
		}
		for _, table := range []string{"interval", "document", "instance"} {
			if _, err := r.exec(ctx, tx, table, "DELETE FROM "+table+" WHERE account_id = $1::uuid AND instance_id = ANY ($2::uuid[])", r.account, gone); err != nil {
				return false, err
			}
		}
		return len(gone) == removedInstances, nil
	})
	if err != nil {
		return err
	}
	var after instanceMark
	err = r.again(ctx, func(ctx context.Context, tx pgx.Tx) (bool, error) {
		rows, err := tx.Query(ctx, `SELECT opened_ms, instance_id FROM instance WHERE account_id = $1::uuid AND opened_ms < $2 AND (opened_ms, instance_id) > ($3, $4::uuid)
			ORDER BY opened_ms, instance_id LIMIT $5`, r.account, horizon, after.opened, after.id, removedInstances)
		if err != nil {
			return false, err
		}
		var open [][16]byte
		if _, err := pgx.ForEachRow(rows, []any{&after.opened, (*[16]byte)(&after.id)}, func() error { open = append(open, after.id); return nil }); err != nil || len(open) == 0 {
			return false, err
		}
		_, err = r.exec(ctx, tx, "interval", "DELETE FROM interval WHERE account_id = $1::uuid AND instance_id = ANY ($2::uuid[]) AND to_ms <= $3", r.account, open, horizon)
		return len(open) == removedInstances, err
	})
	if err != nil {
		return err
	}
	for _, table := range []string{"prepared_day", "unprepared_day"} {
		if err := r.again(ctx, func(ctx context.Context, tx pgx.Tx) (bool, error) {
			rows, err := r.exec(ctx, tx, table, "DELETE FROM "+table+" WHERE ctid = ANY (ARRAY (SELECT ctid FROM "+table+" WHERE account_id = $1::uuid AND day < $2 LIMIT $3))", r.account, dayOf(horizon), removedRows)
			return rows == removedRows, err
		}); err != nil {
			return err
		}
	}
	return r.again(ctx, func(ctx context.Context, tx pgx.Tx) (bool, error) {
		rows, err := r.exec(ctx, tx, "agent_quarantine", `DELETE FROM agent_quarantine WHERE ctid = ANY (ARRAY (
			SELECT ctid FROM agent_quarantine WHERE account_id = $1::uuid AND last_stored < $2 LIMIT $3))`, r.account, time.UnixMilli(horizon), removedInstances)
		return rows == removedInstances, err
	})
}

// persons removes the cells of people before a quarter-hour. Those of the coarsest level go last:
// they tell whether any are left.
func (r *remover) persons(ctx context.Context, before int32) error {
	rows, err := r.pool.Query(ctx, `SELECT p.id FROM (SELECT DISTINCT principal_id AS id FROM principal_machine WHERE account_id = $1::uuid) AS p
		WHERE EXISTS (SELECT FROM cell AS c WHERE c.account_id = $1::uuid AND c.level = $2 AND c.principal_id = p.id AND c.quarter < $3 OFFSET 0)
		OR EXISTS (SELECT FROM document_cell AS c WHERE c.account_id = $1::uuid AND c.level = $2 AND c.principal_id = p.id AND c.quarter < $3 OFFSET 0)`,
		r.account, int16(levelSixteenDays), before)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	principals, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	for _, principal := range principals {
		for l := range levelSixteenDays {
			for _, table := range []string{"cell", "document_cell"} {
				if err := r.again(ctx, func(ctx context.Context, tx pgx.Tx) (bool, error) {
					n, err := r.exec(ctx, tx, table, `DELETE FROM `+table+` WHERE ctid = ANY (ARRAY (
						SELECT ctid FROM `+table+` WHERE account_id = $1::uuid AND level = $2 AND principal_id = $3::uuid AND quarter < $4 LIMIT $5))`,
						r.account, int16(l), principal, before, removedRows)
					return n == removedRows, err
				}); err != nil {
					return err
				}
			}
		}
		if err := r.do(ctx, func(ctx context.Context, tx pgx.Tx) error { return r.coarsest(ctx, tx, principal, before) }); err != nil {
			return err
		}
	}
	return r.pairs(ctx)
}

// coarsest removes a person's coarsest cells, and the names that this person gave documents which
// have none any more.
func (r *remover) coarsest(ctx context.Context, tx pgx.Tx, principal [16]byte, before int32) error {
	gone := func(table, column string) ([][16]byte, error) {
		rows, err := tx.Query(ctx, "DELETE FROM "+table+" WHERE account_id = $1::uuid AND level = $2 AND principal_id = $3::uuid AND quarter < $4 RETURNING "+column,
			r.account, int16(levelSixteenDays), principal, before)
		if err != nil {
			return nil, fmt.Errorf("metering: removing from %s: %w", table, err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
		r.count(table, int64(len(ids)))
		return ids, err
	}
	documents, err := gone("document_cell", "document_id")
	if err != nil {
		return err
	}
	if len(documents) > 0 {
		if _, err := r.exec(ctx, tx, "sealed_name", `DELETE FROM sealed_name AS n WHERE n.account_id = $1::uuid AND n.principal_id = $2::uuid AND n.document_id = ANY ($3::uuid[])
			AND NOT EXISTS (SELECT FROM document_cell AS c WHERE c.account_id = $1::uuid AND c.level = $4 AND c.principal_id = $2::uuid AND c.document_id = n.document_id)`,
			r.account, principal, documents, int16(levelSixteenDays)); err != nil {
			return err
		}
	}
	if _, err = gone("cell", "machine_id"); err != nil {
		return err
	}
	_, err = r.exec(ctx, tx, "principal_application", "DELETE FROM principal_application WHERE account_id = $1::uuid AND principal_id = $2::uuid AND last_quarter < $3", r.account, principal, before)
	return err
}

// idlePairs are who has used a machine, where no time and no instance is left of it.
const idlePairs = ` FROM principal_machine AS p WHERE p.account_id = $1::uuid
	AND NOT EXISTS (SELECT FROM cell AS c WHERE c.account_id = $1::uuid AND c.level = $2 AND c.principal_id = p.principal_id AND c.machine_id = p.machine_id)
	AND NOT EXISTS (SELECT FROM document_cell AS c WHERE c.account_id = $1::uuid AND c.level = $2 AND c.principal_id = p.principal_id AND c.machine_id = p.machine_id)
	AND NOT EXISTS (SELECT FROM instance AS n WHERE n.account_id = $1::uuid AND n.principal_id = p.principal_id AND n.machine_id = p.machine_id)`

// pairs removes who has used which machine, where nothing is left of it.
func (r *remover) pairs(ctx context.Context) error {
	rows, err := r.pool.Query(ctx, "SELECT EXISTS (SELECT"+idlePairs+")", r.account, int16(levelSixteenDays))
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	if some, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[bool]); err != nil || !some {
		return err
	}
	return r.do(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := r.exec(ctx, tx, "principal_machine", "DELETE"+idlePairs, r.account, int16(levelSixteenDays))
		r.forget(ctx)
		return err
	})
}

func (r *remover) totals(ctx context.Context, before int32) error {
	for l := range levels {
		for _, documents := range []bool{false, true} {
			if err := r.again(ctx, func(ctx context.Context, tx pgx.Tx) (bool, error) {
				n, err := r.exec(ctx, tx, "application_cell", `DELETE FROM application_cell WHERE ctid = ANY (ARRAY (
					SELECT ctid FROM application_cell WHERE account_id = $1::uuid AND documents = $2 AND level = $3 AND quarter < $4 LIMIT $5))`,
					r.account, documents, int16(l), before, removedRows)
				return n == removedRows, err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// forgetPairs has it looked up again who has used which machine, once the transaction has ended.
func (p *usageProjection) forgetPairs(ctx context.Context) {
	projection.AfterTx(ctx, func(bool) { clear(p.pairs) })
}
