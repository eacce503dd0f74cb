package metering

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/projection"
)

//go:embed sql/stage.sql
var stageSQL string

//go:embed sql/rebind.sql
var rebindSQL string

const totalsColumns = "suspended_ms, unknown_ms, paused_ms, away_ms, busy_ms, idle_ms, background_ms, timeouts, instances"

// usageProjection adds up what agents observed. It belongs to one Runner.
//
// A batch is added up in memory first: each key of each level is one row however
// many events touched it. A row that cannot be there yet goes into its table by
// COPY; one that may be goes to a temporary table, is added from there to the row
// that is there by one statement for all, and is copied too where there is none.
// Nobody else writes the tables meanwhile: the checkpoint is held. Adding is all that is ever done to a total, so the
// order of events, how they were batched and how late they come change nothing.
type usageProjection struct {
	decoder *agentlog.Decoder
	buffer  copyBuffer
	// counted, where it is set, is told how what is applied came, within the transaction.
	counted func(ctx context.Context, receptions []agentlog.Reception)

	// pairs are the (account, principal, machine) that are known to be in their
	// table, so that few batches have to ask.
	pairs map[pairKey]struct{}
	// latest are where the coarsest cells end of who has opened what, as far as that is known to be in its
	// table; the key is of no quarter-hour.
	latest map[cellKey]quarter
	// known is the same of how documents were recognised.
	known map[knownKey]recognisedDocument
	// unprepared are the days that are noted as not prepared.
	unprepared unpreparedDays
	// cellMarks and documentMarks are how far each person's rows reach.
	cellMarks, documentMarks highWater

	cells        map[cellKey]*Totals
	documents    map[documentCellKey]*Totals
	applications map[applicationKey]*Totals
	instances    map[instanceKey]*instanceRow
	opened       map[openedKey]*openedRow
	spare        []Totals
	// lastDays are those of instances that were there, where they are later than what came.
	lastDays map[instanceKey]int32
	// sorted are the keys of these.
	sorted struct {
		cells        []cellKey
		documents    []documentCellKey
		applications []applicationKey
		instances    []instanceKey
		opened       []openedKey
	}
}

// maxPairs bounds what is remembered of pairs; the memory is an optimization.
const maxPairs = 1 << 18

type knownKey struct{ account, document contract.ID }

type pairKey struct{ account, principal, machine contract.ID }

type cellKey struct {
	account, principal, application, machine contract.ID
	quarter                                  quarter
	level                                    level
}

type documentCellKey struct {
	cellKey
	document contract.ID
}

type applicationKey struct {
	account, application contract.ID
	quarter              quarter
	level                level
	documents            bool
}

type instanceKey struct{ account, instance contract.ID }

type instanceRow struct {
	application, principal, machine, session contract.ID
	opened, decided                          int64
	closed                                   int64
	isClosed, lost                           bool
	accesses                                 accesses
	totals                                   Totals
}

// accesses is a bit set of where a session was shown.
type accesses int16

// with adds one; that it is not told is none.
func (a accesses) with(one usagev1.SessionAccess) accesses {
	if one == usagev1.SessionAccess_SESSION_ACCESS_UNSPECIFIED {
		return a
	}
	return a | 1<<one
}

// message lists them.
func (a accesses) message() (all []usagev1.SessionAccess) {
	for _, one := range []usagev1.SessionAccess{usagev1.SessionAccess_SESSION_ACCESS_CONSOLE, usagev1.SessionAccess_SESSION_ACCESS_REMOTE} {
		if a&(1<<one) != 0 {
			all = append(all, one)
		}
	}
	return all
}

// openedKey is a document inside an instance.
type openedKey struct{ account, instance, document contract.ID }

type openedRow struct {
	opened, decided int64
	closed          int64
	isClosed        bool
	recognised      recognised
	unsaved         bool
	totals          Totals
}

// recognised is how sure it is which document it is and, below that, what told so: of
// two, the greater is the one to believe.
type recognised int16

func recognisedOf(u *agentlog.Usage) recognised {
	return recognised(u.DocumentConfidence)<<7 | recognised(u.DocumentSource&0x7f)
}

func (r recognised) source() usagev1.DocumentSource { return usagev1.DocumentSource(r & 0x7f) }

func (r recognised) confidence() usagev1.DocumentConfidence {
	return usagev1.DocumentConfidence(r >> 7)
}

func newUsageProjection(decoder *agentlog.Decoder) *usageProjection {
	return &usageProjection{
		decoder: decoder, pairs: make(map[pairKey]struct{}), latest: make(map[cellKey]quarter), known: make(map[knownKey]recognisedDocument),
		cellMarks:     highWater{table: "cell", marks: make(map[personKey]quarter)},
		documentMarks: highWater{table: "document_cell", marks: make(map[personKey]quarter)},
		cells:         make(map[cellKey]*Totals), documents: make(map[documentCellKey]*Totals),
		applications: make(map[applicationKey]*Totals), instances: make(map[instanceKey]*instanceRow),
		opened: make(map[openedKey]*openedRow), lastDays: make(map[instanceKey]int32), unprepared: make(unpreparedDays),
	}
}

// forget drops what is remembered of the tables: it is read again.
func (p *usageProjection) forget() {
	p.decoder.Forget()
	clear(p.pairs)
	clear(p.latest)
	clear(p.known)
	clear(p.cellMarks.marks)
	clear(p.documentMarks.marks)
	clear(p.unprepared)
}

// Apply implements projection.Handler.
func (p *usageProjection) Apply(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
	facts, err := p.decoder.Decode(ctx, tx, batch)
	if err != nil {
		return err
	}
	if p.counted != nil {
		p.counted(ctx, facts.Receptions)
	}
	return p.apply(ctx, tx, &facts)
}

func (p *usageProjection) apply(ctx context.Context, tx pgx.Tx, facts *agentlog.Facts) error {
	if len(facts.Usage) > 0 {
		// The database takes the intervals while they are added up here.
		adding := beside(func() { p.addUp(facts.Usage) })
		err := p.copyIntervals(ctx, tx, facts.Usage)
		if err := errors.Join(adding(), err); err != nil {
			return err
		}
		if err := p.merge(ctx, tx); err != nil {
			return err
		}
		if err := p.noteRecognised(ctx, tx); err != nil {
			return err
		}
		if err := p.noteOpened(ctx, tx); err != nil {
			return err
		}
		if err := p.noteUnprepared(ctx, tx); err != nil {
			return err
		}
	}
	if err := p.notePairs(ctx, tx, facts.Usage); err != nil {
		return err
	}
	if err := p.rebind(ctx, tx, facts.Bindings); err != nil {
		return err
	}
	if err := noteMachines(ctx, tx, facts.Machines); err != nil {
		return err
	}
	if err := noteNames(ctx, tx, facts.Names); err != nil {
		return err
	}
	return noteAgents(ctx, tx, facts)
}

// beside runs work in a goroutine. wait waits for it and tells of its panic, which
// the Runner then lays at the message that causes it.
func beside(work func()) (wait func() error) {
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("metering: panic: %v\n%s", r, debug.Stack())
			}
			done <- err
		}()
		work()
	}()
	return func() error { return <-done }
}

func (p *usageProjection) copyIntervals(ctx context.Context, tx pgx.Tx, usage []agentlog.Usage) error {
	b := &p.buffer
	closed := make([]int32, 0, len(usage))
	for i := range usage {
		if usage[i].HasClosed {
			closed = append(closed, int32(i))
		}
	}
	return b.into(ctx, tx, "interval (account_id, instance_id, from_ms, to_ms, epoch, seq, position, attention, state, reason, session_access, event_id, agent_id, document_id)", len(closed), func(i int) {
		u := &usage[closed[i]]
		b.row(14)
		b.id(u.Account)
		b.id(u.Instance)
		b.int8(u.FromUTCMillis)
		b.int8(u.ToUTCMillis)
		b.int8(int64(u.Epoch))
		b.int8(int64(u.Seq))
		b.int8(int64(u.Position))
		b.int2(int16(u.ClosedAttention))
		b.int2(int16(u.ClosedState))
		b.int2(int16(u.ClosedReason))
		b.int2(int16(u.ClosedAccess))
		b.id(u.Event)
		b.id(u.Agent)
		if u.Document.IsZero() {
			b.null()
		} else {
			b.id(u.Document)
		}
	})
}

// addUp adds the events up by the keys of all tables, and sorts these.
func (p *usageProjection) addUp(usage []agentlog.Usage) {
	clear(p.cells)
	clear(p.documents)
	clear(p.applications)
	clear(p.instances)
	clear(p.opened)
	clear(p.lastDays)
	p.spare = nil
	for i := range usage {
		u := &usage[i]
		var marks Totals
		switch u.Transition {
		case agentlog.Opened:
			marks.Instances = 1
		case agentlog.TimedOut:
			marks.Timeouts = 1
		case agentlog.Changed, agentlog.Cut, agentlog.Closed:
		}
		if marks != (Totals{}) {
			p.add(u, quarterOf(u.AtUTCMillis), &marks)
		}
		var life Totals
		if u.HasClosed && u.ToUTCMillis > u.FromUTCMillis {
			at := int(u.ClosedAttention) - 1
			life.Millis[at] = u.ToUTCMillis - u.FromUTCMillis
			eachQuarter(u.FromUTCMillis, u.ToUTCMillis, func(q quarter, millis int64) {
				var t Totals
				t.Millis[at] = millis
				p.add(u, q, &t)
			})
		}
		if u.Document.IsZero() {
			life.Add(marks)
			p.addInstance(u, &life)
		} else {
			// A document's time is not added to its instance's, but the instance
			// lasted at least as long.
			p.addInstance(u, &Totals{})
			life.Add(marks)
			p.addDocument(u, &life)
		}
	}
	// The quarter-hours are added up; each coarser level is the sum of them, which
	// costs a row's addition rather than an event's.
	for l := levelHour; l < levels; l++ {
		rollUp(p.cells, l, p.total, func(k cellKey) (level, quarter) { return k.level, k.quarter },
			func(k cellKey, q quarter) cellKey { k.level, k.quarter = l, q; return k })
		rollUp(p.documents, l, p.total, func(k documentCellKey) (level, quarter) { return k.level, k.quarter },
			func(k documentCellKey, q quarter) documentCellKey { k.level, k.quarter = l, q; return k })
		rollUp(p.applications, l, p.total, func(k applicationKey) (level, quarter) { return k.level, k.quarter },
			func(k applicationKey, q quarter) applicationKey { k.level, k.quarter = l, q; return k })
	}
	p.sorted.cells = sortedKeys(p.cells, func(a, b cellKey) int { return a.compare(&b) })
	p.sorted.documents = sortedKeys(p.documents, func(a, b documentCellKey) int {
		return cmp.Or(a.compare(&b.cellKey), bytes.Compare(a.document[:], b.document[:]))
	})
	p.sorted.applications = sortedKeys(p.applications, applicationKey.compare)
	p.sorted.instances = sortedKeys(p.instances, func(a, b instanceKey) int {
		return cmp.Or(bytes.Compare(a.instance[:], b.instance[:]), bytes.Compare(a.account[:], b.account[:]))
	})
	p.sorted.opened = sortedKeys(p.opened, func(a, b openedKey) int {
		return cmp.Or(bytes.Compare(a.account[:], b.account[:]), bytes.Compare(a.instance[:], b.instance[:]), bytes.Compare(a.document[:], b.document[:]))
	})
}

// rollUp adds the rows of the level below l into rows of l.
func rollUp[K comparable](rows map[K]*Totals, l level, total func() *Totals, of func(K) (level, quarter), with func(K, quarter) K) {
	below := make([]K, 0, len(rows))
	for k := range rows {
		if kl, _ := of(k); kl == l-1 {
			below = append(below, k)
		}
	}
	for _, k := range below {
		_, q := of(k)
		up := with(k, l.start(q))
		t := rows[up]
		if t == nil {
			t = total()
			rows[up] = t
		}
		t.Add(*rows[k])
	}
}

// add adds to the quarter-hour cells.
func (p *usageProjection) add(u *agentlog.Usage, q quarter, t *Totals) {
	k := cellKey{account: u.Account, principal: u.Principal, application: u.Application, machine: u.Machine, quarter: q}
	if u.Document.IsZero() {
		into(p.cells, k, p.total).Add(*t)
	} else {
		into(p.documents, documentCellKey{k, u.Document}, p.total).Add(*t)
	}
	into(p.applications, applicationKey{account: u.Account, application: u.Application, quarter: q, documents: !u.Document.IsZero()}, p.total).Add(*t)
}

func into[K comparable](rows map[K]*Totals, k K, total func() *Totals) *Totals {
	t := rows[k]
	if t == nil {
		t = total()
		rows[k] = t
	}
	return t
}

// total takes a zero Totals from a block, since a batch needs many.
func (p *usageProjection) total() *Totals {
	if len(p.spare) == 0 {
		p.spare = make([]Totals, 256)
	}
	t := &p.spare[0]
	p.spare = p.spare[1:]
	return t
}

func (p *usageProjection) addInstance(u *agentlog.Usage, life *Totals) {
	k := instanceKey{u.Account, u.Instance}
	first, last := u.AtUTCMillis, u.AtUTCMillis
	if u.HasClosed {
		first = min(first, u.FromUTCMillis)
		last = max(last, u.ToUTCMillis)
	}
	r := p.instances[k]
	if r == nil {
		r = &instanceRow{application: u.Application, principal: u.Principal, machine: u.Machine, session: u.Session, opened: first, decided: last}
		p.instances[k] = r
	}
	r.opened, r.decided = min(r.opened, first), max(r.decided, last)
	r.principal = u.Principal
	r.accesses = r.accesses.with(usagev1.SessionAccess(u.ClosedAccess))
	if u.Transition == agentlog.Closed && u.Document.IsZero() {
		r.isClosed, r.closed = true, u.AtUTCMillis
		r.lost = r.lost || u.Reason == agentlog.Reason(usagev1.Reason_REASON_LOST)
	}
	r.totals.Add(*life)
}

func (p *usageProjection) addDocument(u *agentlog.Usage, life *Totals) {
	k := openedKey{u.Account, u.Instance, u.Document}
	first, last := u.AtUTCMillis, u.AtUTCMillis
	if u.HasClosed {
		first = min(first, u.FromUTCMillis)
		last = max(last, u.ToUTCMillis)
	}
	r := p.opened[k]
	if r == nil {
		r = &openedRow{opened: first, decided: last}
		p.opened[k] = r
	}
	r.opened, r.decided = min(r.opened, first), max(r.decided, last)
	if u.Transition == agentlog.Closed {
		r.closed = max(r.closed, u.AtUTCMillis)
		r.isClosed = true
	}
	r.recognised = max(r.recognised, recognisedOf(u))
	r.unsaved = r.unsaved || u.DocumentUnsaved
	r.totals.Add(*life)
}

// merge writes the rows that were added up, in the order of their keys for the sake
// of the index.
func (p *usageProjection) merge(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, stageSQL); err != nil {
		return fmt.Errorf("metering: staging: %w", err)
	}
	b := &p.buffer

	fresh, known, err := split(ctx, tx, &p.cellMarks, p.sorted.cells, func(k cellKey) cellKey { return k })
	if err != nil {
		return err
	}
	err = writeRows(ctx, tx, b, fresh, known, target[cellKey]{
		table: "cell", columns: "account_id, level, quarter, principal_id, application_id, machine_id, " + totalsColumns, fields: 15,
		add: addSQL("cell", "", sameKey("account_id, level, principal_id, quarter, application_id, machine_id")),
		write: func(k cellKey) {
			k.write(b)
			b.totals(p.cells[k])
		},
	})
	if err != nil {
		return err
	}
	freshDocuments, knownDocuments, err := split(ctx, tx, &p.documentMarks, p.sorted.documents, func(k documentCellKey) cellKey { return k.cellKey })
	if err != nil {
		return err
	}
	err = writeRows(ctx, tx, b, freshDocuments, knownDocuments, target[documentCellKey]{
		table: "document_cell", columns: "account_id, level, quarter, principal_id, application_id, machine_id, document_id, " + totalsColumns, fields: 16,
		add: addSQL("document_cell", "", sameKey("account_id, level, principal_id, quarter, application_id, machine_id, document_id")),
		write: func(k documentCellKey) {
			k.cellKey.write(b)
			b.id(k.document)
			b.totals(p.documents[k])
		},
	})
	if err != nil {
		return err
	}
	err = writeRows(ctx, tx, b, nil, p.sorted.applications, target[applicationKey]{
		table: "application_cell", columns: "account_id, level, quarter, documents, application_id, " + totalsColumns, fields: 14,
		add: addSQL("application_cell", "", sameKey("account_id, documents, level, quarter, application_id")),
		write: func(k applicationKey) {
			b.id(k.account)
			b.int2(int16(k.level))
			b.int4(int32(k.quarter))
			b.bool(k.documents)
			b.id(k.application)
			b.totals(p.applications[k])
		},
	})
	if err != nil {
		return err
	}
	err = writeRows(ctx, tx, b, nil, p.sorted.opened, target[openedKey]{
		table: "document", columns: "account_id, instance_id, document_id, opened_ms, closed_ms, decided_ms, recognised, unsaved, " + totalsColumns, fields: 17,
		add: addSQL("document", `opened_ms = least(c.opened_ms, s.opened_ms),
			closed_ms = greatest(c.closed_ms, s.closed_ms),
			decided_ms = greatest(c.decided_ms, s.decided_ms),
			recognised = greatest(c.recognised, s.recognised),
			unsaved = c.unsaved OR s.unsaved, `,
			sameKey("account_id, instance_id, document_id")),
		write: func(k openedKey) {
			r := p.opened[k]
			b.id(k.account)
			b.id(k.instance)
			b.id(k.document)
			b.int8(r.opened)
			if r.isClosed {
				b.int8(r.closed)
			} else {
				b.null()
			}
			b.int8(r.decided)
			b.int2(int16(r.recognised))
			b.bool(r.unsaved)
			b.totals(&r.totals)
		},
	})
	if err != nil {
		return err
	}
	return writeRows(ctx, tx, b, nil, p.sorted.instances, target[instanceKey]{
		table: "instance", columns: "account_id, instance_id, application_id, principal_id, machine_id, session_id, opened_ms, closed_ms, decided_ms, last_day, lost, session_accesses, " + totalsColumns, fields: 21,
		add: addSQL("instance", `opened_ms = least(c.opened_ms, s.opened_ms),
			closed_ms = coalesce(s.closed_ms, c.closed_ms),
			decided_ms = greatest(c.decided_ms, s.decided_ms),
			last_day = greatest(c.last_day, s.last_day),
			lost = c.lost OR s.lost,
			session_accesses = c.session_accesses | s.session_accesses, `,
			// A plan is made once, when the table may be empty, and would then serve any
			// index that begins with the account. What asks whether the comparison is
			// true is of no use to an index, so that the key is left.
			"(c.account_id = s.account_id) IS TRUE AND c.instance_id = s.instance_id") + ", c.last_day",
		lastDay: func(k instanceKey, day int32) { p.lastDays[k] = day },
		write: func(k instanceKey) {
			r := p.instances[k]
			b.id(k.account)
			b.id(k.instance)
			b.id(r.application)
			b.id(r.principal)
			b.id(r.machine)
			b.id(r.session)
			b.int8(r.opened)
			if r.isClosed {
				b.int8(r.closed)
			} else {
				b.null()
			}
			b.int8(r.decided)
			b.int4(int32(dayOf(r.decided)))
			b.bool(r.lost)
			b.int2(int16(r.accesses))
			b.totals(&r.totals)
		},
	})
}

// target is a table that rows are added to.
type target[K any] struct {
	table   string
	columns string
	fields  int    // of a row
	add     string // the statement that adds what is staged
	// lastDay takes the last day of a row that was there, where the statement tells it too.
	lastDay func(K, int32)
	write   func(K)
}

// addSQL adds the totals of the staged rows to the rows of a table that are the same,
// changes these further by set, and tells which staged ones they were.
func addSQL(table, set, same string) string {
	var sums []string
	for _, c := range totalsColumnList() {
		sums = append(sums, fmt.Sprintf("%[1]s = c.%[1]s + s.%[1]s", c))
	}
	return fmt.Sprintf("UPDATE %[1]s AS c SET %[2]s%[3]s FROM stage_%[1]s AS s WHERE %[4]s RETURNING s.n", table, set, strings.Join(sums, ", "), same)
}

// sameKey compares the columns of a key.
func sameKey(columns string) string {
	var same []string
	for c := range strings.SplitSeq(columns, ", ") {
		same = append(same, fmt.Sprintf("c.%[1]s = s.%[1]s", c))
	}
	return strings.Join(same, " AND ")
}

// writeRows copies fresh rows, and adds the others to those that are there or
// copies them too.
func writeRows[K any](ctx context.Context, tx pgx.Tx, b *copyBuffer, fresh, perhaps []K, t target[K]) error {
	err := b.into(ctx, tx, "stage_"+t.table+" (n, "+t.columns+")", len(perhaps), func(i int) {
		b.row(t.fields + 1)
		b.int4(int32(i))
		t.write(perhaps[i])
	})
	if err != nil {
		return err
	}
	if len(perhaps) > 0 {
		there := make([]bool, len(perhaps))
		rows, err := tx.Query(ctx, t.add)
		if err != nil {
			return fmt.Errorf("metering: adding to %s: %w", t.table, err)
		}
		var n, day int32
		targets := []any{&n}
		if t.lastDay != nil {
			targets = append(targets, &day)
		}
		if _, err := pgx.ForEachRow(rows, targets, func() error {
			if there[n] = true; t.lastDay != nil {
				t.lastDay(perhaps[n], day)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("metering: adding to %s: %w", t.table, err)
		}
		for i, k := range perhaps {
			if !there[i] {
				fresh = append(fresh, k)
			}
		}
	}
	return b.into(ctx, tx, t.table+" ("+t.columns+")", len(fresh), func(i int) {
		b.row(t.fields)
		t.write(fresh[i])
	})
}

func (k *cellKey) write(b *copyBuffer) {
	b.id(k.account)
	b.int2(int16(k.level))
	b.int4(int32(k.quarter))
	b.id(k.principal)
	b.id(k.application)
	b.id(k.machine)
}

// compare orders as the primary key does.
func (k *cellKey) compare(o *cellKey) int {
	return cmp.Or(
		bytes.Compare(k.account[:], o.account[:]), cmp.Compare(k.level, o.level),
		bytes.Compare(k.principal[:], o.principal[:]), cmp.Compare(k.quarter, o.quarter),
		bytes.Compare(k.application[:], o.application[:]), bytes.Compare(k.machine[:], o.machine[:]),
	)
}

func (k applicationKey) compare(o applicationKey) int {
	documents := 0
	if k.documents != o.documents {
		documents = 1
		if o.documents {
			documents = -1
		}
	}
	return cmp.Or(
		bytes.Compare(k.account[:], o.account[:]), documents, cmp.Compare(k.level, o.level),
		cmp.Compare(k.quarter, o.quarter), bytes.Compare(k.application[:], o.application[:]),
	)
}

func sortedKeys[K comparable, V any](rows map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(rows))
	for k := range rows {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

// notePairs notes who used which machine.
func (p *usageProjection) notePairs(ctx context.Context, tx pgx.Tx, usage []agentlog.Usage) error {
	fresh := make(map[pairKey]struct{})
	for i := range usage {
		k := pairKey{usage[i].Account, usage[i].Principal, usage[i].Machine}
		if _, ok := p.pairs[k]; !ok {
			fresh[k] = struct{}{}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	var accounts, principals, machines [][16]byte
	for k := range fresh {
		accounts, principals, machines = append(accounts, k.account), append(principals, k.principal), append(machines, k.machine)
	}
	_, err := tx.Exec(ctx, `INSERT INTO principal_machine (account_id, principal_id, machine_id)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) ON CONFLICT DO NOTHING`, accounts, principals, machines)
	if err != nil {
		return fmt.Errorf("metering: noting who used which machine: %w", err)
	}
	projection.AfterTx(ctx, func(committed bool) {
		if !committed {
			return
		}
		if len(p.pairs)+len(fresh) > maxPairs {
			clear(p.pairs)
		}
		for k := range fresh {
			p.pairs[k] = struct{}{}
		}
	})
	return nil
}

// noteOpened notes who has opened what, of the batch's coarsest cells.
func (p *usageProjection) noteOpened(ctx context.Context, tx pgx.Tx) error {
	fresh := make(map[cellKey]quarter)
	for _, k := range p.sorted.cells {
		if k.level != levelSixteenDays {
			continue
		}
		q := k.quarter
		k.quarter = 0
		if known, ok := p.latest[k]; !ok || known < q {
			fresh[k] = max(fresh[k], q)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	var accounts, principals, applications, machines [][16]byte
	var quarters []int32
	for _, k := range sortedKeys(fresh, func(a, b cellKey) int { return a.compare(&b) }) {
		accounts, principals, applications, machines = append(accounts, k.account), append(principals, k.principal), append(applications, k.application), append(machines, k.machine)
		quarters = append(quarters, int32(fresh[k]))
	}
	_, err := tx.Exec(ctx, `INSERT INTO principal_application AS k (account_id, principal_id, application_id, machine_id, last_quarter)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int4[])
		ON CONFLICT (account_id, principal_id, application_id, machine_id) DO UPDATE SET last_quarter = excluded.last_quarter WHERE k.last_quarter < excluded.last_quarter`,
		accounts, principals, applications, machines, quarters)
	if err != nil {
		return fmt.Errorf("metering: noting who has opened what: %w", err)
	}
	projection.AfterTx(ctx, func(committed bool) {
		if !committed {
			return
		}
		if len(p.latest)+len(fresh) > maxPairs {
			clear(p.latest)
		}
		maps.Copy(p.latest, fresh)
	})
	return nil
}

// noteRecognised notes how the batch's documents were recognised, where that is surer than
// what is noted.
func (p *usageProjection) noteRecognised(ctx context.Context, tx pgx.Tx) error {
	fresh := make(map[knownKey]recognisedDocument)
	for k, r := range p.opened {
		known, noted := p.known[knownKey{k.account, k.document}]
		if f, there := fresh[knownKey{k.account, k.document}]; there {
			known, noted = f, true
		}
		better := recognisedDocument{max(known.recognised, r.recognised), known.unsaved || r.unsaved}
		if !noted || better != known {
			fresh[knownKey{k.account, k.document}] = better
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	var accounts, documents [][16]byte
	var levels []int16
	var unsaved []bool
	for _, k := range sortedKeys(fresh, func(a, b knownKey) int {
		return cmp.Or(bytes.Compare(a.account[:], b.account[:]), bytes.Compare(a.document[:], b.document[:]))
	}) {
		accounts, documents = append(accounts, k.account), append(documents, k.document)
		levels, unsaved = append(levels, int16(fresh[k].recognised)), append(unsaved, fresh[k].unsaved)
	}
	_, err := tx.Exec(ctx, `INSERT INTO recognised_document AS d (account_id, document_id, recognised, unsaved)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int2[], $4::boolean[])
		ON CONFLICT (account_id, document_id) DO UPDATE SET recognised = greatest(d.recognised, excluded.recognised), unsaved = d.unsaved OR excluded.unsaved
		WHERE d.recognised < excluded.recognised OR excluded.unsaved AND NOT d.unsaved`, accounts, documents, levels, unsaved)
	if err != nil {
		return fmt.Errorf("metering: noting how documents were recognised: %w", err)
	}
	projection.AfterTx(ctx, func(committed bool) {
		if !committed {
			return
		}
		if len(p.known)+len(fresh) > maxPairs {
			clear(p.known)
		}
		maps.Copy(p.known, fresh)
	})
	return nil
}

// rebind moves what was counted under an alias, before anybody had said whose it
// is, to its principal.
func (p *usageProjection) rebind(ctx context.Context, tx pgx.Tx, bindings []agentlog.Binding) error {
	if len(bindings) == 0 {
		return nil
	}
	var accounts, aliases [][16]byte
	principals := make(map[pairKey]contract.ID)
	for _, b := range bindings {
		accounts, aliases = append(accounts, b.Account), append(aliases, b.Alias)
		principals[pairKey{account: b.Account, principal: b.Alias}] = b.Principal
	}
	rows, err := tx.Query(ctx, `SELECT DISTINCT account_id, principal_id FROM principal_machine
		JOIN unnest($1::uuid[], $2::uuid[]) AS b (account, alias) ON account_id = account AND principal_id = alias`, accounts, aliases)
	if err != nil {
		return fmt.Errorf("metering: rebinding: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (pairKey, error) {
		var k pairKey
		return k, row.Scan((*[16]byte)(&k.account), (*[16]byte)(&k.principal))
	})
	if err != nil {
		return fmt.Errorf("metering: rebinding: %w", err)
	}
	for _, k := range found {
		principal := principals[k]
		if principal == k.principal {
			continue // what would be moved is where it belongs
		}
		if err := p.unprepared.principal(ctx, tx, k.account, k.principal); err != nil {
			return err
		}
		// The principal's rows may reach further now than was known.
		p.cellMarks.forget(ctx, personKey{k.account, principal})
		p.documentMarks.forget(ctx, personKey{k.account, principal})
		for statement := range strings.SplitSeq(rebindSQL, ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := tx.Exec(ctx, statement, k.account, k.principal, principal); err != nil {
				return fmt.Errorf("metering: rebinding %s to %s: %w", k.principal, principal, err)
			}
		}
	}
	return nil
}

func noteMachines(ctx context.Context, tx pgx.Tx, machines []agentlog.MachineName) error {
	if len(machines) == 0 {
		return nil
	}
	batch := &pgx.Batch{}
	for _, m := range machines {
		batch.Queue(`INSERT INTO machine AS m (account_id, machine_id, host_name, operating_system, agent_version, stored_ms)
			VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (account_id, machine_id) DO UPDATE SET host_name = excluded.host_name, operating_system = excluded.operating_system,
				agent_version = excluded.agent_version, stored_ms = excluded.stored_ms
			WHERE excluded.stored_ms >= m.stored_ms`,
			m.Account, m.Machine, text(m.HostName), text(m.OperatingSystem), text(m.AgentVersion), m.StoredUTCMillis)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("metering: noting machines: %w", err)
	}
	return nil
}

// text is what PostgreSQL can hold of a name: no NUL, valid UTF-8.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func noteNames(ctx context.Context, tx pgx.Tx, names []agentlog.SealedName) error {
	if len(names) == 0 {
		return nil
	}
	batch := &pgx.Batch{}
	for _, n := range names {
		batch.Queue(`INSERT INTO sealed_name (account_id, principal_id, document_id, sealed) VALUES ($1, $2, $3, $4)
			ON CONFLICT (account_id, document_id, principal_id) DO UPDATE SET sealed = excluded.sealed`,
			n.Account, n.Principal, n.Document, n.Sealed)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("metering: noting names: %w", err)
	}
	return nil
}

// noteAgents keeps how agents' frames came, for data quality.
func noteAgents(ctx context.Context, tx pgx.Tx, facts *agentlog.Facts) error {
	type key struct{ account, agent contract.ID }
	type row struct {
		machine  contract.ID
		manager  contract.ID
		received int64
		skew     int64
		records  int64
		events   int64
	}
	rows := make(map[key]*row)
	of := func(account, agent contract.ID) *row {
		k := key{account, agent}
		if rows[k] == nil {
			rows[k] = &row{}
		}
		return rows[k]
	}
	for _, r := range facts.Receptions {
		a := of(r.Account, r.Agent)
		a.records += int64(r.Records)
		if r.ReceivedUTCMillis >= a.received {
			a.machine, a.manager, a.received, a.skew = r.Machine, r.Manager, r.ReceivedUTCMillis, r.SkewMillis
		}
	}
	for i := range facts.Usage {
		u := &facts.Usage[i]
		a := of(u.Account, u.Agent)
		a.machine = u.Machine
		a.events++
	}
	if len(rows) == 0 {
		return nil
	}
	var accounts, agents, machines, managers [][16]byte
	var received, skews, records, events []int64
	for _, k := range sortedKeys(rows, func(a, b key) int {
		return cmp.Or(bytes.Compare(a.account[:], b.account[:]), bytes.Compare(a.agent[:], b.agent[:]))
	}) {
		r := rows[k]
		accounts, agents, machines = append(accounts, k.account), append(agents, k.agent), append(machines, r.machine)
		managers = append(managers, r.manager)
		received, skews = append(received, r.received), append(skews, r.skew)
		records, events = append(records, r.records), append(events, r.events)
	}
	_, err := tx.Exec(ctx, `INSERT INTO agent AS a (account_id, agent_id, machine_id, received_ms, skew_ms, records, events, manager_id)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::uuid[])
		ON CONFLICT (account_id, agent_id) DO UPDATE SET
			machine_id = CASE WHEN excluded.received_ms >= a.received_ms THEN excluded.machine_id ELSE a.machine_id END,
			manager_id = CASE WHEN excluded.received_ms >= a.received_ms THEN excluded.manager_id ELSE a.manager_id END,
			skew_ms = CASE WHEN excluded.received_ms >= a.received_ms THEN excluded.skew_ms ELSE a.skew_ms END,
			received_ms = greatest(excluded.received_ms, a.received_ms),
			records = a.records + excluded.records, events = a.events + excluded.events`,
		accounts, agents, machines, received, skews, records, events, managers)
	if err != nil {
		return fmt.Errorf("metering: noting agents: %w", err)
	}
	return nil
}

// dayOf is the UTC day, counted from 1970.
func dayOf(utcMillis int64) int64 { return floorDiv(utcMillis, 96*quarterMillis) }

// catalogProjection keeps applications and settings as they are, and of identity's decisions who is in which group.
type catalogProjection struct {
	registry, places *eventlog.Registry
	// retention is told where it may be to do something.
	retention wake
}

// Apply implements projection.Handler. People's decisions are few: a row at a
// time will do.
func (p catalogProjection) Apply(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
	for _, m := range batch {
		if err := p.apply(ctx, tx, m); err != nil {
			return err
		}
	}
	return nil
}

func (p catalogProjection) apply(ctx context.Context, tx pgx.Tx, m projection.Message) error {
	event, err := eventlog.FromMessage(m.Subject, m.Header, m.Data, eventlog.Position(m.Position))
	if err != nil {
		return err
	}
	if strings.HasPrefix(event.Type, "cetrus.identity.") {
		if !p.places.Knows(event.Type) {
			return nil // nothing that is followed here
		}
		return applyPlace(ctx, tx, p.places, event)
	}
	account, err := accountOfSubject(m.Subject)
	if err != nil {
		return err
	}
	message, err := p.registry.Decode(event)
	if err != nil {
		return err
	}
	switch e := message.(type) {
	case *meteringv1.ApplicationDefined:
		definition, err := proto.Marshal(e)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		_, err = tx.Exec(ctx, `INSERT INTO application AS a (account_id, application_id, display_name, definition, revision, created, updated, position)
			VALUES ($1, $2, $3, $4, 1, $5, $5, $6)
			ON CONFLICT (account_id, application_id) DO UPDATE SET display_name = excluded.display_name, definition = excluded.definition,
				revision = a.revision + 1, updated = excluded.updated, position = excluded.position, deleted = false`,
			account, [16]byte(e.GetApplicationId()), text(e.GetDisplayName()), definition, event.Time, int64(event.Position))
		return err
	case *meteringv1.ApplicationDeleted:
		_, err := tx.Exec(ctx, `UPDATE application SET deleted = true, updated = $3, position = $4 WHERE account_id = $1 AND application_id = $2`,
			account, [16]byte(e.GetApplicationId()), event.Time, int64(event.Position))
		return err
	case *meteringv1.MeteringSettingsChanged:
		projection.AfterTx(ctx, func(bool) { p.retention.soon() })
		var person []byte
		if e.GetPerson() != nil {
			var err error
			if person, err = proto.Marshal(e.GetPerson()); err != nil {
				return fmt.Errorf("metering: %w", err)
			}
			if person == nil {
				person = []byte{} // it says nothing, and is there
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO settings (account_id, time_zone, pause_allowed, sightings_wanted, paused, person, managers, view_reason_required, instance_days, person_days, total_days, smallest_group) VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, '{}'::text[]), $8, $9, $10, $11, $12)
			ON CONFLICT (account_id) DO UPDATE SET time_zone = excluded.time_zone, pause_allowed = excluded.pause_allowed,
				sightings_wanted = excluded.sightings_wanted, paused = excluded.paused, person = excluded.person, managers = excluded.managers,
				view_reason_required = excluded.view_reason_required, instance_days = excluded.instance_days, person_days = excluded.person_days, total_days = excluded.total_days, smallest_group = excluded.smallest_group`,
			account, e.GetTimeZone(), e.GetPauseAllowed(), e.GetSightingsWanted(), e.GetPaused(), person, e.GetManagers(), e.GetViewReasonRequired(), e.GetInstanceDays(), e.GetPersonDays(), e.GetTotalDays(), cmp.Or(e.GetSmallestGroup(), smallestGroup))
		return err
	case *meteringv1.AgentRemoved:
		_, err := tx.Exec(ctx, `INSERT INTO removed_agent (account_id, agent_id, removed_ms) VALUES ($1, $2, $3)
			ON CONFLICT (account_id, agent_id) DO UPDATE SET removed_ms = excluded.removed_ms`,
			account, [16]byte(e.GetAgentId()), event.Time.UnixMilli())
		return err
	case *meteringv1.RetentionMoved:
		_, err := tx.Exec(ctx, `INSERT INTO retention AS r (account_id, instances_before_ms, persons_before_ms, totals_before_ms) VALUES ($1, $2, $3, $4)
			ON CONFLICT (account_id) DO UPDATE SET instances_before_ms = greatest(r.instances_before_ms, excluded.instances_before_ms),
				persons_before_ms = greatest(r.persons_before_ms, excluded.persons_before_ms), totals_before_ms = greatest(r.totals_before_ms, excluded.totals_before_ms)`,
			account, e.GetInstancesBeforeUtcMillis(), e.GetPersonsBeforeUtcMillis(), e.GetTotalsBeforeUtcMillis())
		return err
	case *meteringv1.NamedUseViewed:
		return nil // for who reads the log
	case *meteringv1.SavedReportDefined, *meteringv1.SavedReportScheduled, *meteringv1.SavedReportDeleted, *meteringv1.SavedReportRunDecided, *meteringv1.SavedReportRunEnded:
		return applySavedReport(ctx, tx, account, event, message)
	case *meteringv1.LoginBound:
		_, err := tx.Exec(ctx, `INSERT INTO principal (account_id, principal_id, login_id) VALUES ($1, $2, $3)
			ON CONFLICT (account_id, principal_id) DO UPDATE SET login_id = excluded.login_id`,
			account, [16]byte(e.GetPrincipalId()), [16]byte(e.GetLoginId()))
		return err
	case *meteringv1.LoginUnbound:
		_, err := tx.Exec(ctx, `UPDATE principal SET login_id = NULL WHERE account_id = $1 AND principal_id = $2`, account, [16]byte(e.GetPrincipalId()))
		return err
	case *meteringv1.PrincipalMerged:
		_, err := tx.Exec(ctx, `INSERT INTO principal (account_id, principal_id, merged_into) VALUES ($1, $2, $3)
			ON CONFLICT (account_id, principal_id) DO UPDATE SET merged_into = excluded.merged_into`,
			account, [16]byte(e.GetPrincipalId()), [16]byte(e.GetIntoPrincipalId()))
		return err
	case *meteringv1.PrincipalForgotten:
		_, err := tx.Exec(ctx, `INSERT INTO principal (account_id, principal_id, forgotten) VALUES ($1, $2, $3)
			ON CONFLICT (account_id, principal_id) DO UPDATE SET login_id = NULL, forgotten = excluded.forgotten`,
			account, [16]byte(e.GetPrincipalId()), event.Time)
		return err
	case *meteringv1.CorrectionAsked:
		_, err := tx.Exec(ctx, `INSERT INTO correction (account_id, correction_id, login_id, principal_id, sealed_text, asked) VALUES ($1, $2, $3, $4, $5, $6)`,
			account, [16]byte(e.GetCorrectionId()), [16]byte(e.GetLoginId()), [16]byte(e.GetPrincipalId()), e.GetSealedText(), event.Time)
		return err
	case *meteringv1.ExpenseToProjectDecided:
		settings, err := proto.Marshal(e)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		if settings == nil {
			settings = []byte{} // it says nothing, and is there
		}
		_, err = tx.Exec(ctx, `INSERT INTO expense_to_project (account_id, settings, changes) VALUES ($1, $2, 1)
			ON CONFLICT (account_id) DO UPDATE SET settings = excluded.settings, changes = expense_to_project.changes + 1`, account, settings)
		return err
	}
	return fmt.Errorf("metering: %T at %d is not known to the catalogue's projection", message, m.Position)
}

// accountOfSubject reads the account out of ev.<p>.<account>.metering.….
func accountOfSubject(subject string) (contract.ID, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 6 || tokens[0] != "ev" || tokens[3] != contextName {
		return contract.ID{}, errors.New("metering: " + subject + " is no subject of this service")
	}
	return contract.ParseID(tokens[2])
}
