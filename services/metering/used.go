package metering

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/jackc/pgx/v5"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

//go:embed sql/last_busy.sql
var lastBusySQL string

const (
	// fewWhole are so many people that all their intervals of a period are read sooner than what is
	// prepared of everybody, where no application is named.
	fewWhole = 3
	// windowDays are the days of which what is prepared is in memory at once.
	windowDays = 32
	// joinedGap is how many days may lie between two that are read from the intervals together.
	joinedGap = 2
)

// used is one instance and what was done with it in a period.
type used struct {
	instance, application, principal, machine, session contract.ID
	opened                                             int64
	// uses are those that overlap the period, in the order of time. Before them stands when it was last
	// busy before the period, if it was.
	uses []use
}

// metric is what one licence stands for.
type metric func(*used) demandKey

// runsOf are the instances as demand under a metric sees them.
func runsOf(all []used, key metric) []run {
	runs := make([]run, len(all))
	for i := range all {
		runs[i] = run{key: key(&all[i]), opened: all[i].opened, uses: all[i].uses}
	}
	return runs
}

// usedQuery asks for the use of a period [from, to), in milliseconds of UTC.
type usedQuery struct {
	op       string
	account  contract.ID
	from, to int64
	// filter holds all principals of the persons that it names.
	filter filter
	// people are those whose use another's counts as.
	people merged
	// fine keeps uses of different attention apart; demand asks only what was busy and what timed out.
	fine bool
	// cuts are moments in their order at which parts end besides the days'.
	cuts []int64
	// memory keeps what is read of prepared days; nil: nothing is kept.
	memory *memory

	// horizon is before when nothing is answered.
	horizon int64
	// left is how many intervals may still be read.
	left int
}

// usedPart is what is there of a part of the period, at most a day.
type usedPart struct {
	*usedQuery
	from, to int64
	wants    func(principal, machine contract.ID) bool
	// prepared is the day as bytes, by application; others are what was read from the intervals.
	prepared []preparedUses
	others   []used
	// key names what is there, where it is of everybody and prepared; known is what was made of it before.
	key   *madeKey
	known any
}

// preparedUses is a prepared day of an application; key tells it from what was or will be prepared of it.
type preparedUses struct {
	key  preparedKey
	data []byte
}

type preparedKey struct {
	application contract.ID
	day         int32
	made        int64
}

// madeKey names what was made of a prepared day: of all of its bytes, as of the persons that they count for.
type madeKey struct {
	of   [sha256.Size]byte
	kind any
}

// fingerprint tells merges from others.
func (m merged) fingerprint() []byte {
	var sum [sha256.Size]byte
	for principal, into := range m {
		one := sha256.Sum256(append(principal[:], into[:]...))
		for i := range sum {
			sum[i] ^= one[i]
		}
	}
	return sum[:]
}

// read returns the instances of the part, as of the persons that they count for.
func (p *usedPart) read() ([]used, error) {
	all := p.others
	begin := dayOf(p.from) * dayMillis
	for _, d := range p.prepared {
		var err error
		if all, err = decodeDay(d.data, &dayPart{application: d.key.application, begin: begin, from: p.from, to: p.to, wants: p.wants, fine: p.fine}, all); err != nil {
			return nil, err
		}
	}
	for i := range all {
		n := &all[i]
		n.principal = p.people.of(n.principal)
		if n.uses[0].before(p.from) && n.uses[0].to <= p.horizon {
			n.uses = n.uses[1:]
		}
	}
	return all, nil
}

// making is what is made of each part of a period. kind, where it is not nil, names it: what was made of a whole
// prepared day of everybody, or of a part of one, is then kept for the next question of that kind, and takes so many bytes.
type making[T any] struct {
	kind any
	of   func(from, to int64, all []used) T
	size func(T) int
}

// eachUsed reads a period part by part. What is made of parts is made of several at once; add
// gets one after the other in the order of time. Of an
// instance that is there in several parts the uses are cut where one part ends.
func eachUsed[T any](ctx context.Context, tx pgx.Tx, q usedQuery, m making[T], add func(T)) error {
	type result struct {
		value T
		err   error
	}
	var pending []chan result
	var failed error
	take := func() {
		r := <-pending[0]
		pending = pending[1:]
		if failed == nil {
			failed = r.err
		}
		if failed == nil {
			add(r.value)
		}
	}
	// A processor is at work while the next part is read.
	running := make(chan struct{}, runtime.GOMAXPROCS(0))
	err := q.parts(ctx, tx, m.kind, func(p *usedPart) error {
		done := make(chan result, 1)
		pending = append(pending, done)
		if value, ok := p.known.(T); ok {
			done <- result{value: value}
		} else {
			running <- struct{}{}
			go func() {
				defer func() { <-running }()
				var r result
				// It is this question's failure, and no other's.
				defer func() {
					if failed := recover(); failed != nil {
						r.err = fmt.Errorf("metering: panic: %v\n%s", failed, debug.Stack())
					}
					done <- r
				}()
				var all []used
				if all, r.err = p.read(); r.err == nil {
					r.value = m.of(p.from, p.to, all)
					if p.key != nil {
						q.memory.put(q.account, *p.key, r.value, m.size(r.value))
					}
				}
			}()
		}
		if len(pending) > 2*cap(running) {
			take()
		}
		return failed
	})
	for len(pending) > 0 {
		take()
	}
	if err == nil {
		err = failed
	}
	return err
}

// readUsed reads all instances of a period.
func readUsed(ctx context.Context, tx pgx.Tx, q usedQuery) ([]used, error) {
	index := make(map[contract.ID]int)
	var all []used
	uses := 0
	type part struct {
		from int64
		all  []used
	}
	err := eachUsed(ctx, tx, q, making[part]{of: func(from, _ int64, all []used) part { return part{from, all} }}, func(p part) {
		if uses > maxIntervals {
			return
		}
		for _, n := range p.all {
			uses += len(n.uses)
			i, known := index[n.instance]
			if !known {
				index[n.instance] = len(all)
				all = append(all, n)
				continue
			}
			for _, u := range n.uses {
				// What was before the part is known from the one before.
				if !u.before(p.from) {
					all[i].uses = appendUse(all[i].uses, 0, false, u, q.fine)
				}
			}
		}
	})
	if err == nil && uses > maxIntervals {
		err = tooManyIntervals(q.op)
	}
	return all, err
}

// parts finds what there is: prepared days, and intervals where no prepared day is or none that
// is up to date.
func (q *usedQuery) parts(ctx context.Context, tx pgx.Tx, kind any, yield func(*usedPart) error) error {
	kept, err := readHorizons(ctx, tx, q.account)
	if err != nil {
		return err
	}
	q.horizon, q.left = kept.instances, maxIntervals
	var wants func(principal, machine contract.ID) bool
	if len(q.filter.principals)+len(q.filter.machines) > 0 {
		who, err := readAudience(ctx, tx, q.account, &summary{filter: q.filter})
		if err != nil || len(who.principals) == 0 {
			return err
		}
		// Prepared days tell of everybody, and so are no answer to who sees only their own.
		if _, own := authn.OwnOnly(ctx); own || len(q.filter.applications) == 0 && len(who.principals) <= fewWhole {
			first, last := int32(dayOf(q.from)), int32(dayOf(q.to-1))
			days, err := q.days(ctx, tx, first, last, intervalQuery{principals: who.principals, filter: q.filter}, nil)
			for i, all := range days {
				begin := int64(first+int32(i)) * dayMillis
				day := usedPart{usedQuery: q, from: max(q.from, begin), to: min(q.to, begin+dayMillis), others: all}
				for _, part := range day.cut(q.cuts) {
					if err == nil && len(part.others) > 0 {
						err = yield(&part)
					}
				}
			}
			return err
		}
		wants = wanted(who.principals, q.filter.machines)
	}
	if wants != nil || q.memory == nil {
		kind = nil
	}
	first, last := int32(dayOf(q.from)), int32(dayOf(q.to-1))
	for ; first <= last; first += windowDays {
		if err := q.window(ctx, tx, first, min(last, first+windowDays-1), kind, wants, yield); err != nil {
			return err
		}
	}
	return nil
}

// wanted tells whose use is asked for.
func wanted(principals [][16]byte, machines []contract.ID) func(principal, machine contract.ID) bool {
	people, at := make(map[contract.ID]bool, len(principals)), make(map[contract.ID]bool, len(machines))
	for _, p := range principals {
		people[p] = true
	}
	for _, m := range machines {
		at[m] = true
	}
	return func(principal, machine contract.ID) bool {
		return people[principal] && (len(at) == 0 || at[machine])
	}
}

// window finds what there is of the days first to last.
func (q *usedQuery) window(ctx context.Context, tx pgx.Tx, first, last int32, kind any, wants func(principal, machine contract.ID) bool, yield func(*usedPart) error) error {
	type key struct {
		day         int32
		application contract.ID
	}
	where, args := "account_id = $1::uuid AND day BETWEEN $2 AND $3", []any{q.account, first, last}
	if len(q.filter.applications) > 0 {
		where, args = where+" AND application_id = ANY ($4::uuid[])", append(args, raw(q.filter.applications))
	}
	rows, err := tx.Query(ctx, "SELECT day, application_id FROM unprepared_day WHERE "+where+" ORDER BY day", args...)
	if err != nil {
		return fmt.Errorf("metering: what is not prepared: %w", err)
	}
	type stretchOfDays struct {
		first, last  int32
		applications []contract.ID
	}
	var unprepared []stretchOfDays
	var k key
	if _, err := pgx.ForEachRow(rows, []any{&k.day, (*[16]byte)(&k.application)}, func() error {
		if n := len(unprepared); n == 0 || k.day > unprepared[n-1].last+1+joinedGap {
			unprepared = append(unprepared, stretchOfDays{first: k.day})
		}
		s := &unprepared[len(unprepared)-1]
		s.last = k.day
		if !slices.Contains(s.applications, k.application) {
			s.applications = append(s.applications, k.application)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("metering: what is not prepared: %w", err)
	}
	days := make([]usedPart, last-first+1)
	unread := make(map[key]bool)
	for _, s := range unprepared {
		all, err := q.days(ctx, tx, s.first, s.last, intervalQuery{filter: filter{applications: s.applications}}, wants)
		if err != nil {
			return err
		}
		for day := s.first; day <= s.last; day++ {
			days[day-first].others = all[day-s.first]
			for _, application := range s.applications {
				unread[key{day, application}] = true
			}
		}
	}
	if rows, err = tx.Query(ctx, "SELECT day, application_id, made FROM prepared_day WHERE "+where+" ORDER BY day, application_id", args...); err != nil {
		return fmt.Errorf("metering: what is prepared: %w", err)
	}
	var made int64
	if _, err := pgx.ForEachRow(rows, []any{&k.day, (*[16]byte)(&k.application), &made}, func() error {
		if !unread[k] {
			d := &days[k.day-first]
			d.prepared = append(d.prepared, preparedUses{key: preparedKey{k.application, k.day, made}})
		}
		return nil
	}); err != nil {
		return fmt.Errorf("metering: what is prepared: %w", err)
	}
	var missing []int32
	people := q.people.fingerprint()
	var parts []usedPart
	for i := range days {
		d := &days[i]
		d.usedQuery, d.wants = q, wants
		begin := int64(first+int32(i)) * dayMillis
		d.from, d.to = max(q.from, begin), min(q.to, begin+dayMillis)
		if len(d.prepared)+len(d.others) == 0 {
			continue
		}
		unknown := false
		for _, part := range d.cut(q.cuts) {
			unknown = part.recall(kind, people) || unknown
			parts = append(parts, part)
		}
		if unknown {
			missing = append(missing, first+int32(i))
		}
	}
	if err := q.fetch(ctx, tx, days, first, missing); err != nil {
		return err
	}
	for i := range parts {
		if err := yield(&parts[i]); err != nil {
			return err
		}
	}
	return nil
}

// cut parts a part at moments; the bytes of what is prepared are the same ones.
func (p *usedPart) cut(at []int64) []usedPart {
	first, _ := slices.BinarySearch(at, p.from+1)
	last, _ := slices.BinarySearch(at, p.to)
	if first == last {
		return []usedPart{*p}
	}
	var parts []usedPart
	for from := p.from; from < p.to; {
		part := *p
		part.from = from
		if first < last {
			part.to = at[first]
			first++
		}
		part.others = nil
		for _, n := range p.others {
			if n.clip(part.from, part.to) {
				part.others = append(part.others, n)
			}
		}
		parts = append(parts, part)
		from = part.to
	}
	return parts
}

// recall looks what of a part is in memory; true where something of it has to be read.
func (p *usedPart) recall(kind any, people []byte) bool {
	if len(p.prepared) == 0 || p.memory == nil {
		return len(p.prepared) > 0
	}
	if kind != nil && len(p.others) == 0 {
		p.key = p.madeKey(kind, people)
		var ok bool
		if p.known, ok = p.memory.get(p.account, *p.key); ok {
			return false
		}
	}
	missing := false
	for i := range p.prepared {
		if data, ok := p.memory.get(p.account, p.prepared[i].key); ok {
			p.prepared[i].data = data.([]byte)
		} else {
			missing = true
		}
	}
	return missing
}

// madeKey names what is made of a part of which everything is prepared.
func (p *usedPart) madeKey(kind any, people []byte) *madeKey {
	h := sha256.New()
	h.Write(people)
	// The last busy moment before a day is left out where it is behind the horizon.
	_ = binary.Write(h, binary.BigEndian, []int64{p.from, p.to, p.horizon}) // a hash takes all
	for _, d := range p.prepared {
		h.Write(d.key.application[:])
		_ = binary.Write(h, binary.BigEndian, d.key.made)
	}
	return &madeKey{of: [sha256.Size]byte(h.Sum(nil)), kind: kind}
}

// fetch reads the bytes of days that are not in memory.
func (q *usedQuery) fetch(ctx context.Context, tx pgx.Tx, days []usedPart, first int32, missing []int32) error {
	if len(missing) == 0 {
		return nil
	}
	sql, args := "SELECT day, application_id, uses FROM prepared_day WHERE account_id = $1::uuid AND day = ANY ($2::int4[])", []any{q.account, missing}
	if len(q.filter.applications) > 0 {
		sql, args = sql+" AND application_id = ANY ($3::uuid[])", append(args, raw(q.filter.applications))
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("metering: what is prepared: %w", err)
	}
	var day int32
	var application contract.ID
	var data []byte
	if _, err := pgx.ForEachRow(rows, []any{&day, (*[16]byte)(&application), &data}, func() error {
		d := &days[day-first]
		i, found := slices.BinarySearchFunc(d.prepared, application, func(p preparedUses, a contract.ID) int { return bytes.Compare(p.key.application[:], a[:]) })
		if !found || d.prepared[i].data != nil {
			return nil
		}
		d.prepared[i].data = slices.Clone(data)
		if q.memory != nil {
			q.memory.put(q.account, d.prepared[i].key, d.prepared[i].data, len(data))
		}
		return nil
	}); err != nil {
		return fmt.Errorf("metering: what is prepared: %w", err)
	}
	return nil
}

// days reads some days from the intervals, each as if it were prepared.
func (q *usedQuery) days(ctx context.Context, tx pgx.Tx, first, last int32, asked intervalQuery, wants func(principal, machine contract.ID) bool) ([][]used, error) {
	from, to := int64(first)*dayMillis, int64(last+1)*dayMillis
	all, err := q.intervals(ctx, tx, from, to, asked)
	if err != nil {
		return nil, err
	}
	if wants != nil {
		all = slices.DeleteFunc(all, func(n used) bool { return !wants(n.principal, n.machine) })
	}
	days := cutDays(all, first, last)
	for i := range days {
		begin := from + int64(i)*dayMillis
		if q.from <= begin && begin+dayMillis <= q.to {
			continue
		}
		kept := days[i][:0]
		for _, n := range days[i] {
			if n.clip(max(q.from, begin), min(q.to, begin+dayMillis)) {
				kept = append(kept, n)
			}
		}
		days[i] = kept
	}
	return days, nil
}

// clip leaves the uses of an instance that are in a part of its day, behind the last before it in which it
// was busy; false where none is.
func (n *used) clip(from, to int64) bool {
	var busy use // the last before the part, with which it begins
	kept := make([]use, 1, len(n.uses)+1)
	for _, u := range n.uses {
		switch {
		case u.from >= to:
		case !u.before(from):
			kept = append(kept, u)
		case u.busy && (!busy.busy || u.to > busy.to):
			busy = u
		}
	}
	if n.uses = kept[1:]; busy.busy {
		kept[0] = busy
		n.uses = kept
	}
	return len(kept) > 1
}

// cutDays cuts what instances did at the days' ends. An instance's uses are in the order of time.
func cutDays(all []used, first, last int32) [][]used {
	days := make([][]used, last-first+1)
	from, to := int64(first)*dayMillis, int64(last+1)*dayMillis
	for i := range all {
		n := &all[i]
		var busy use // the last that was, and has ended
		for _, u := range n.uses {
			if u.before(from) {
				if u.busy {
					busy = u
				}
				continue
			}
			for at := max(u.from, from); at < to; {
				day := int(dayOf(at)) - int(first)
				end := from + int64(day+1)*dayMillis
				of := days[day]
				if len(of) == 0 || of[len(of)-1].instance != n.instance {
					fresh := *n
					fresh.uses = nil
					if busy.busy {
						fresh.uses = append(fresh.uses, busy)
					}
					of = append(of, fresh)
					days[day] = of
				}
				piece := u
				piece.from, piece.to = at, min(u.to, end)
				of[len(of)-1].uses = append(of[len(of)-1].uses, piece)
				if piece.busy {
					busy = piece
				}
				if at = end; u.to <= end {
					break
				}
			}
		}
	}
	return days
}

// intervals reads the instances with intervals that overlap [from, to). What people had is that of the
// principals that were reported.
func (q *usedQuery) intervals(ctx context.Context, tx pgx.Tx, from, to int64, asked intervalQuery) ([]used, error) {
	asked.from, asked.to = from, to
	index := make(map[contract.ID]int)
	var all []used
	var before [][16]byte
	err := eachInterval(ctx, tx, q.account, asked, func(r *intervalRow) error {
		if q.left--; q.left < 0 {
			return tooManyIntervals(q.op)
		}
		i, ok := index[r.instance]
		if !ok {
			i = len(all)
			index[r.instance] = i
			all = append(all, used{instance: r.instance, application: r.application, principal: r.principal, machine: r.machine, session: r.session, opened: r.opened})
			if r.opened < from {
				before = append(before, r.instance)
			}
		}
		u := use{
			from: r.from, to: r.to, attention: r.attention,
			busy:     r.attention == usagev1.Attention_ATTENTION_BUSY,
			timedOut: r.state == usagev1.State_STATE_TIMEOUT,
		}
		// Intervals are cut for reasons that demand does not know.
		all[i].uses = appendUse(all[i].uses, 0, false, u, q.fine)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range all {
		// Of two that begin together, one is of no length.
		slices.SortStableFunc(all[i].uses, func(a, b use) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	}
	if len(before) == 0 {
		return all, nil
	}
	rows, err := tx.Query(ctx, lastBusySQL, q.account, before, from, int16(usagev1.Attention_ATTENTION_BUSY))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	var instance contract.ID
	last := use{busy: true, attention: usagev1.Attention_ATTENTION_BUSY}
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&instance), &last.from, &last.to}, func() error {
		n := &all[index[instance]]
		n.uses = slices.Insert(n.uses, 0, last)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return all, nil
}
