package metering

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// aheadDays are the latest days of which everything is made: a month, and the few that it may begin and end with.
	aheadDays = 35
	// aheadTimesDays are those of which time is, of which pages about what is unused look at a quarter of a year.
	aheadTimesDays = 100
	// aheadDemandDays are those of which demand is, of which forecasts and budgets look at a year.
	aheadDemandDays = maxReportDays
	// aheadMinutes are the minutes after which pages ask what is given back.
	aheadMinutes = 60
	// aheadEvery is how often it is looked whether something is missing of anybody's: what another process prepares wakes
	// nobody here, and what failed is tried again.
	aheadEvery = 15 * time.Minute
	// aheadShare is how much of memory all accounts together fill before they ask, in hundredths.
	aheadShare = 70
)

// aheadMaking is a making of any kind.
type aheadMaking struct {
	kind any
	of   func(from, to int64, all []used) (value any, size int)
}

func aheadOf[T any](m making[T]) aheadMaking {
	return aheadMaking{m.kind, func(from, to int64, all []used) (any, int) {
		value := m.of(from, to, all)
		return value, m.size(value)
	}}
}

// madeOfLatest are the kinds that pages ask for of everybody's use in the latest days.
func madeOfLatest() []aheadMaking {
	all := []aheadMaking{aheadOf(idleAfter(idleAtLeast.Milliseconds()))}
	for _, by := range []meteringv1.SessionGroupBy{
		meteringv1.SessionGroupBy_SESSION_GROUP_BY_SESSION, meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL,
		meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION, meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE,
	} {
		all = append(all, aheadOf(sessionsOf(by)))
	}
	for _, by := range []dimension{byPrincipal, byApplication, byMachine} {
		all = append(all, aheadOf(personsOf(&summary{by: by})))
	}
	return all
}

// madeOfDemand is what pages about licences ask for, of one application and of all.
func madeOfDemand() aheadMaking { return aheadOf(demandOf(meteringv1.Metric_METRIC_USER)) }

// ahead makes what is asked of an account's prepared days before anybody asks, the latest day first, and
// keeps it in memory.
type ahead struct {
	account contract.ID
	pool    interface {
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
	memory *memory
	// room is its share of memory in bytes; of what others leave it may have more.
	room   int
	people merged
	kept   horizons
	// days are those that are left.
	days []aheadDay
	// keys are what is in memory of the days before.
	keys []any
	// used is how many bytes that takes.
	used int
	made int
}

// aheadDay is what is prepared of a day, by application.
type aheadDay struct {
	day      int32
	prepared []preparedUses
	// whole tells that nothing of it is unprepared.
	whole bool
}

// aheadPart is something to be made of a day: of all applications, or of one.
type aheadPart struct {
	aheadMaking
	usedPart
	everybody bool
}

// readAhead finds the days of an account.
func (s *Service) readAhead(ctx context.Context, v *views, account contract.ID, last int32, room int) (*ahead, error) {
	a := &ahead{account: account, pool: v.store.Projector, memory: s.memory, room: room}
	err := pgx.BeginTxFunc(ctx, v.store.Projector, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if a.people, err = readMerged(ctx, tx, account); err != nil {
			return err
		}
		if a.kept, err = readHorizons(ctx, tx, account); err != nil {
			return err
		}
		a.days, err = readPrepared(ctx, tx, account, last-aheadDemandDays, last)
		return err
	})
	return a, err
}

// readPrepared reads what is prepared of some days, the latest first.
func readPrepared(ctx context.Context, tx pgx.Tx, account contract.ID, first, last int32) (days []aheadDay, err error) {
	rows, err := tx.Query(ctx, `SELECT day, application_id, coalesce(p.made, 0), u.unprepared IS NOT NULL
		FROM (SELECT day, application_id, made FROM prepared_day WHERE account_id = $1::uuid AND day BETWEEN $2 AND $3) AS p
		FULL JOIN (SELECT day, application_id, true AS unprepared FROM unprepared_day WHERE account_id = $1::uuid AND day BETWEEN $2 AND $3) AS u USING (day, application_id)
		ORDER BY day DESC, application_id`, account, first, last)
	if err != nil {
		return nil, fmt.Errorf("metering: what is prepared: %w", err)
	}
	var k preparedKey
	var unprepared bool
	_, err = pgx.ForEachRow(rows, []any{&k.day, (*[16]byte)(&k.application), &k.made, &unprepared}, func() error {
		if n := len(days); n == 0 || days[n-1].day != k.day {
			days = append(days, aheadDay{day: k.day, whole: true})
		}
		d := &days[len(days)-1]
		if d.whole = d.whole && !unprepared; !unprepared {
			d.prepared = append(d.prepared, preparedUses{key: k})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: what is prepared: %w", err)
	}
	return days, nil
}

// parts are what is to be made of a day; last is the latest that is over.
func (a *ahead) parts(d aheadDay, last int32) []aheadPart {
	begin := int64(d.day) * dayMillis
	q := &usedQuery{op: "metering.ahead", account: a.account, fine: true, people: a.people, horizon: a.kept.instances}
	of := func(prepared []preparedUses, m aheadMaking, everybody bool) aheadPart {
		return aheadPart{m, usedPart{usedQuery: q, from: begin, to: begin + dayMillis, prepared: prepared}, everybody}
	}
	var parts []aheadPart
	demand := madeOfDemand()
	if d.whole {
		parts = append(parts, of(d.prepared, demand, true))
	}
	if d.whole && d.day > last-aheadTimesDays {
		parts = append(parts, of(d.prepared, aheadOf(timesOfDay()), true))
	}
	if d.whole && d.day > last-aheadDays {
		for _, m := range madeOfLatest() {
			parts = append(parts, of(d.prepared, m, true))
		}
	}
	for i := range d.prepared {
		parts = append(parts, of(d.prepared[i:i+1], demand, false))
	}
	return parts
}

// step makes what is missing of the next day; false where there is none, or no more room.
func (a *ahead) step(ctx context.Context, last int32) (more bool, err error) {
	if len(a.days) == 0 || a.used > a.room && a.memory.filled() > a.memory.room/100*aheadShare || int64(a.days[0].day)*dayMillis < a.kept.instances {
		return false, nil
	}
	d := a.days[0]
	a.days = a.days[1:]
	people := a.people.fingerprint()
	parts := a.parts(d, last)
	var missing []aheadPart
	var demand []*demandDay
	for _, p := range parts {
		p.key = p.madeKey(p.kind, people)
		a.keys = append(a.keys, *p.key)
		value, size, ok := a.memory.has(a.account, *p.key)
		if !ok {
			missing = append(missing, p)
			continue
		}
		a.used += size
		if day, is := value.(*demandDay); is {
			demand = append(demand, day)
		}
	}
	if len(missing) > 0 {
		a.made++
		if err := a.fetch(ctx, d); err != nil {
			return false, err
		}
	}
	var everybody []used
	for _, p := range missing {
		if slices.ContainsFunc(p.prepared, func(d preparedUses) bool { return d.data == nil }) {
			continue // it was prepared anew meanwhile
		}
		all := everybody
		if !p.everybody || all == nil {
			if all, err = p.read(); err != nil {
				return false, err
			}
			if p.everybody {
				everybody = all
			}
		}
		value, size := p.of(p.from, p.to, all)
		a.memory.put(a.account, *p.key, value, size)
		// What a question put there meanwhile stays.
		if there, bytes, ok := a.memory.has(a.account, *p.key); ok {
			value, size = there, bytes
		}
		a.used += size
		if day, is := value.(*demandDay); is {
			demand = append(demand, day)
		}
	}
	if d.day > last-aheadDays {
		after := minutesAhead()
		key := keyOfGivenBack(after, false)
		for _, day := range demand {
			key.day = day.id
			_, size, ok := a.memory.has(a.account, key)
			if !ok {
				r := reading{account: a.account, from: day.from, to: day.to, days: []*demandDay{day}, memory: a.memory}
				r.givenBack(after, nil, 0)
				_, size, _ = a.memory.has(a.account, key)
			}
			a.keys, a.used = append(a.keys, key), a.used+size
		}
	}
	for i := range d.prepared {
		d.prepared[i].data = nil
	}
	return true, nil
}

// minutesAhead are the minutes of a slider, in milliseconds.
func minutesAhead() []int64 {
	after := make([]int64, aheadMinutes)
	for i := range after {
		after[i] = int64(i+1) * minuteMillis
	}
	return after
}

// fetch reads the bytes of a day.
func (a *ahead) fetch(ctx context.Context, d aheadDay) error {
	rows, err := a.pool.Query(ctx, "SELECT application_id, made, uses FROM prepared_day WHERE account_id = $1::uuid AND day = $2", a.account, d.day)
	if err != nil {
		return fmt.Errorf("metering: what is prepared: %w", err)
	}
	k := preparedKey{day: d.day}
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&k.application), &k.made, &data}, func() error {
		for i := range d.prepared {
			if d.prepared[i].key == k {
				d.prepared[i].data = slices.Clone(data)
			}
		}
		return nil
	})
	return err
}

// touch has what is in memory of the latest days stay there longest.
func (a *ahead) touch() {
	for _, key := range slices.Backward(a.keys) {
		a.memory.get(a.account, key)
	}
}

// runAhead makes days of which pages ask before anybody does, until ctx ends: of accounts of which something was prepared
// at once, of all from time to time.
func (s *Service) runAhead(ctx context.Context) error {
	s.everyLevel(ctx, aheadEvery, s.preparing.prepared, func(v *views) {
		working, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(v.retired, cancel)() // their tables may be gone
		if err := s.makeAhead(working, v, s.preparing.take(), time.Now()); err != nil && working.Err() == nil {
			s.log.Warn("what pages ask for could not be made before they ask, so they are slower; it is tried again", "error", err, "again in", aheadEvery)
		}
	})
	return nil
}

// makeAhead makes what is missing of some accounts, nil: of all, a day of each in turn. It rests as long as it works.
// Where an account's fail, the others' turn comes all the same; it tells the first failure.
func (s *Service) makeAhead(ctx context.Context, v *views, accounts []contract.ID, now time.Time) error {
	last, began := lastOver(now), time.Now()
	if accounts == nil {
		rows, err := v.store.Projector.Query(ctx, "SELECT DISTINCT account_id FROM prepared_day WHERE day BETWEEN $1 AND $2", last-aheadDemandDays, last)
		if err != nil {
			return fmt.Errorf("metering: what is prepared: %w", err)
		}
		accounts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (id contract.ID, err error) { return id, row.Scan((*[16]byte)(&id)) })
		if err != nil {
			return fmt.Errorf("metering: what is prepared: %w", err)
		}
	}
	room := s.memory.room / 100 * aheadShare / max(1, len(accounts), s.memory.shared())
	var all []*ahead
	var failed error
	for _, account := range accounts {
		a, err := s.readAhead(ctx, v, account, last, room)
		if failed = cmp.Or(failed, err); err == nil {
			all = append(all, a)
		}
	}
	made, size := 0, 0
	for left := slices.Clone(all); len(left) > 0; {
		left = slices.DeleteFunc(left, func(a *ahead) bool {
			if ctx.Err() != nil {
				return true
			}
			step, before := time.Now(), a.made
			var more bool
			var err error
			died := beside(func() { more, err = a.step(ctx, last) })()
			err = cmp.Or(died, err)
			failed = cmp.Or(failed, err)
			if a.made > before {
				wait(ctx, time.Since(step))
			}
			return !more || err != nil
		})
	}
	for _, a := range all {
		a.touch()
		made, size = made+a.made, size+a.used
	}
	if made > 0 && ctx.Err() == nil {
		s.log.Info("what pages ask for is made before they ask", "days", made, "bytes", size, "took", time.Since(began).Round(time.Millisecond))
	}
	return failed
}

// wait waits for so long, or until ctx ends.
func wait(ctx context.Context, span time.Duration) {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
