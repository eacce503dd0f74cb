package metering

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	otelmetric "go.opentelemetry.io/otel/metric"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/projection"
)

const (
	// prepareEvery is how often days are looked for that could be prepared.
	prepareEvery = 30 * time.Second
	// prepareAfter is how long a day has to be over: what agents observed at its end comes a little later.
	prepareAfter = 15 * time.Minute
	// prepareBehind is how many messages may wait to be counted: what is prepared while a backlog is
	// counted would only be prepared again.
	prepareBehind = 100
	// preparedTogether are the days that are read in one go.
	preparedTogether = 8
	// maxPrepared bounds the intervals that are read in one go, but for those of one day.
	maxPrepared = 1_000_000
)

// dayKey is a day of an application.
type dayKey struct {
	account, application contract.ID
	day                  int32
}

func (k dayKey) compare(o dayKey) int {
	return cmp.Or(bytes.Compare(k.account[:], o.account[:]), cmp.Compare(k.day, o.day), bytes.Compare(k.application[:], o.application[:]))
}

// unpreparedDays remembers the days that are noted as not prepared, and that nobody has taken since:
// so few batches have to note any.
type unpreparedDays map[dayKey]struct{}

// noteUnprepared notes the days that the batch has changed: of each instance those from the first that
// something came of to its last, since a later day holds when it was opened and when it was last busy
// before. It is part of the batch's transaction: from its end on intervals answer for these days.
func (p *usageProjection) noteUnprepared(ctx context.Context, tx pgx.Tx) error {
	fresh := make(map[dayKey]struct{})
	for k, r := range p.instances {
		for day := int32(dayOf(r.opened)); day <= max(int32(dayOf(r.decided)), p.lastDays[k]); day++ {
			key := dayKey{k.account, r.application, day}
			if _, noted := p.unprepared[key]; !noted {
				fresh[key] = struct{}{}
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	keys := sortedKeys(fresh, dayKey.compare)
	accounts, applications, days := make([][16]byte, len(keys)), make([][16]byte, len(keys)), make([]int32, len(keys))
	for i, k := range keys {
		accounts[i], applications[i], days[i] = k.account, k.application, k.day
	}
	_, err := tx.Exec(ctx, `INSERT INTO unprepared_day AS u (account_id, day, application_id) SELECT * FROM unnest($1::uuid[], $2::int4[], $3::uuid[])
		ON CONFLICT (account_id, day, application_id) DO UPDATE SET taken = NULL WHERE u.taken IS NOT NULL`, accounts, days, applications)
	if err != nil {
		return fmt.Errorf("metering: noting what is not prepared: %w", err)
	}
	projection.AfterTx(ctx, func(committed bool) {
		if !committed {
			return
		}
		if len(p.unprepared)+len(keys) > maxPairs {
			clear(p.unprepared)
		}
		for _, k := range keys {
			p.unprepared[k] = struct{}{}
		}
	})
	return nil
}

// principal notes all days of a principal's instances.
func (unpreparedDays) principal(ctx context.Context, tx pgx.Tx, account, principal contract.ID) error {
	_, err := tx.Exec(ctx, `INSERT INTO unprepared_day AS u (account_id, day, application_id)
		SELECT DISTINCT $1::uuid, d.day, n.application_id
		FROM instance AS n CROSS JOIN LATERAL generate_series(floor(n.opened_ms / 86400000.0)::int4, n.last_day) AS d (day)
		WHERE n.account_id = $1::uuid AND n.principal_id = $2::uuid
		ON CONFLICT (account_id, day, application_id) DO UPDATE SET taken = NULL WHERE u.taken IS NOT NULL`, account, principal)
	if err != nil {
		return fmt.Errorf("metering: noting what is not prepared: %w", err)
	}
	return nil
}

// forgetUnprepared has days noted again, once the transaction in which they are taken has ended.
func (p *usageProjection) forgetUnprepared(ctx context.Context, keys []dayKey) {
	projection.AfterTx(ctx, func(bool) {
		for _, k := range keys {
			delete(p.unprepared, k)
		}
	})
}

// preparer prepares days of one build of the tables.
type preparer struct {
	pool interface {
		BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
	}
	// do runs a transaction while nobody else writes the tables.
	do doing
	// forget is called in a transaction that takes days.
	forget func(context.Context, []dayKey)
}

// prepare prepares what is not prepared of the days first to last. It takes them, reads and encodes them while
// usage goes on being counted, and puts down what nobody has changed meanwhile; a day that was changed stays
// unprepared, as does one that was taken and not put down.
func (p *preparer) prepare(ctx context.Context, account contract.ID, first, last int32) (prepared int, err error) {
	token := rand.Int64()
	var keys []dayKey
	err = p.do(ctx, func(ctx context.Context, tx pgx.Tx) error {
		keys = keys[:0]
		rows, err := tx.Query(ctx, "UPDATE unprepared_day SET taken = $4 WHERE account_id = $1::uuid AND day BETWEEN $2 AND $3 RETURNING day, application_id", account, first, last, token)
		if err != nil {
			return err
		}
		k := dayKey{account: account}
		if _, err := pgx.ForEachRow(rows, []any{&k.day, (*[16]byte)(&k.application)}, func() error { keys = append(keys, k); return nil }); err != nil {
			return err
		}
		p.forget(ctx, keys)
		return nil
	})
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	var applications []contract.ID
	for _, k := range keys {
		if !slices.Contains(applications, k.application) {
			applications = append(applications, k.application)
		}
	}
	q := usedQuery{op: "metering.prepare", account: account, from: int64(first) * dayMillis, to: int64(last+1) * dayMillis, fine: true, left: maxPrepared}
	if first == last {
		q.left = 1 << 62
	}
	var days [][]used
	err = func() error {
		tx, err := p.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return fmt.Errorf("metering: preparing: %w", err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		days, err = q.days(ctx, tx, first, last, intervalQuery{filter: filter{applications: applications}}, nil)
		return err
	}()
	if err != nil {
		return 0, err
	}
	encoded := make(map[dayKey][]byte)
	for i, all := range days {
		of := make(map[contract.ID][]used)
		for _, n := range all {
			of[n.application] = append(of[n.application], n)
		}
		begin := int64(first+int32(i)) * dayMillis
		for application, all := range of {
			encoded[dayKey{account, application, first + int32(i)}] = encodeDay(begin, all)
		}
	}
	err = p.do(ctx, func(ctx context.Context, tx pgx.Tx) error {
		prepared, err = putPrepared(ctx, tx, account, token, keys, encoded)
		return err
	})
	return prepared, err
}

// putPrepared puts down those of the days that are still taken.
func putPrepared(ctx context.Context, tx pgx.Tx, account contract.ID, token int64, keys []dayKey, encoded map[dayKey][]byte) (int, error) {
	daysOf, applicationsOf := make([]int32, len(keys)), make([][16]byte, len(keys))
	for i, k := range keys {
		daysOf[i], applicationsOf[i] = k.day, k.application
	}
	rows, err := tx.Query(ctx, `DELETE FROM unprepared_day AS u USING unnest($2::int4[], $3::uuid[]) AS t (day, application_id)
		WHERE u.account_id = $1::uuid AND u.day = t.day AND u.application_id = t.application_id AND u.taken = $4 RETURNING u.day, u.application_id`, account, daysOf, applicationsOf, token)
	if err != nil {
		return 0, fmt.Errorf("metering: putting down what is prepared: %w", err)
	}
	var days []int32
	var applications [][16]byte
	var uses [][]byte
	k := dayKey{account: account}
	if _, err := pgx.ForEachRow(rows, []any{&k.day, (*[16]byte)(&k.application)}, func() error {
		days, applications, uses = append(days, k.day), append(applications, k.application), append(uses, encoded[k])
		return nil
	}); err != nil {
		return 0, fmt.Errorf("metering: putting down what is prepared: %w", err)
	}
	// Of an instance that was opened late a day may have nothing any more.
	for _, sql := range []string{
		`DELETE FROM prepared_day AS p USING unnest($2::int4[], $3::uuid[], $4::bytea[]) AS t (day, application_id, uses)
			WHERE p.account_id = $1::uuid AND p.day = t.day AND p.application_id = t.application_id AND t.uses IS NULL AND $5::int8 IS NOT NULL`,
		`INSERT INTO prepared_day (account_id, day, application_id, made, uses)
			SELECT $1::uuid, t.day, t.application_id, $5, t.uses FROM unnest($2::int4[], $3::uuid[], $4::bytea[]) AS t (day, application_id, uses) WHERE t.uses IS NOT NULL
			ON CONFLICT (account_id, day, application_id) DO UPDATE SET made = excluded.made, uses = excluded.uses`,
	} {
		if _, err := tx.Exec(ctx, sql, account, days, applications, uses, token); err != nil {
			return 0, fmt.Errorf("metering: putting down what is prepared: %w", err)
		}
	}
	return len(days), nil
}

// preparing is what prepares days in the background.
type preparing struct {
	wake
	// prepared is told when accounts are to be taken.
	prepared wake
	days     otelmetric.Int64Counter

	mu sync.Mutex
	// accounts are those of which something was prepared since they were taken.
	accounts map[contract.ID]bool
	// looked is closed, and another takes its place, when all that could be prepared was looked at.
	looked chan struct{}
}

func newPreparing() (*preparing, error) {
	days, err := otel.Meter("github.com/cetrus/cetrus/services/metering").Int64Counter("cetrus.metering.prepared.days",
		otelmetric.WithUnit("{day}"), otelmetric.WithDescription("Days of applications whose use was put together to be read at once."))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return &preparing{wake: newWake(), prepared: newWake(), days: days, accounts: make(map[contract.ID]bool), looked: make(chan struct{})}, nil
}

// look has it looked for days before its time; the channel is closed when that is done.
func (p *preparing) look() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.soon()
	return p.looked
}

// add notes that something of an account was prepared.
func (p *preparing) add(account contract.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accounts[account] = true
}

// take returns the accounts of which something was prepared since it was called before; nil where there is none.
func (p *preparing) take() []contract.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	accounts := slices.Collect(maps.Keys(p.accounts))
	clear(p.accounts)
	return accounts
}

// done tells that all was looked at that could be prepared.
func (p *preparing) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.accounts) > 0 {
		p.prepared.soon()
	}
	close(p.looked)
	p.looked = make(chan struct{})
}

// runPreparing prepares days until ctx ends.
func (s *Service) runPreparing(ctx context.Context) error {
	s.everyLevel(ctx, prepareEvery, s.preparing.wake, func(v *views) {
		if err := s.prepareOver(ctx, v, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Warn("days could not be prepared, and their intervals go on answering; it is tried again", "error", err, "again in", prepareEvery)
		}
		s.preparing.done()
	})
	return nil
}

// lastOver is the last day that is over at a moment, as far as preparing goes.
func lastOver(now time.Time) int32 { return int32(dayOf(now.Add(-prepareAfter).UnixMilli())) - 1 }

// doing runs a transaction on the tables of one account while nobody else writes them.
type doing func(context.Context, func(context.Context, pgx.Tx) error) error

// doIn is that of an account whose use is counted here.
func (v *views) doIn(account contract.ID) doing {
	return func(ctx context.Context, work func(context.Context, pgx.Tx) error) error {
		return v.usage.Do(ctx, contract.Partition(account), work)
	}
}

// prepareOver prepares all days that are over, of accounts whose use is counted here. Where an account's fail, the others' turn comes all the same;
// it tells the first failure.
func (s *Service) prepareOver(ctx context.Context, v *views, now time.Time) (failed error) {
	rows, err := v.store.Projector.Query(ctx, "SELECT DISTINCT account_id, day FROM unprepared_day WHERE day <= $1 ORDER BY account_id, day", lastOver(now))
	if err != nil {
		return fmt.Errorf("metering: what is not prepared: %w", err)
	}
	days, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k dayKey, err error) {
		return k, row.Scan((*[16]byte)(&k.account), &k.day)
	})
	if err != nil {
		return fmt.Errorf("metering: what is not prepared: %w", err)
	}
	days = slices.DeleteFunc(days, func(k dayKey) bool { return !v.takes(k.account) })
	together := preparedTogether
	for len(days) > 0 {
		if progress := v.usage.Progress(); ctx.Err() != nil || progress.Total > progress.Done+prepareBehind {
			return failed
		}
		first, n := days[0], 1
		for n < len(days) && days[n].account == first.account && int(days[n].day-first.day) < together {
			n++
		}
		p := preparer{pool: v.store.Projector, do: v.doIn(first.account), forget: v.projection.forgetUnprepared}
		prepared, err := p.prepare(ctx, first.account, first.day, days[n-1].day)
		switch {
		case err != nil && errs.Is(errs.Exhausted, err) && together > 1:
			together /= 2
			continue
		case err != nil:
			failed = cmp.Or(failed, fmt.Errorf("metering: of account %s, days %d to %d: %w", first.account, first.day, days[n-1].day, err))
			days = slices.DeleteFunc(days, func(k dayKey) bool { return k.account == first.account })
			continue
		}
		s.preparing.days.Add(ctx, int64(prepared))
		if prepared > 0 {
			s.preparing.add(first.account)
		}
		days = days[n:]
	}
	return failed
}

// WaitForPrepared returns once every day that is over is prepared: what a benchmark waits for.
func (s *Service) WaitForPrepared(ctx context.Context) error {
	for {
		looked := s.preparing.look()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-looked:
		}
		var left bool
		if err := s.serving.Load().store.Projector.QueryRow(ctx, "SELECT EXISTS (SELECT FROM unprepared_day WHERE day <= $1)", lastOver(time.Now())).Scan(&left); err != nil {
			return fmt.Errorf("metering: what is not prepared: %w", err)
		}
		if !left {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second / 10): // a backlog goes before
		}
	}
}
