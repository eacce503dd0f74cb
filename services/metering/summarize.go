package metering

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
)

// dimension is one of the things that a summary is grouped by. Their order is the
// order of the groups in an answer: the key of the cells begins with what comes
// early, so a page reads little more than what it shows.
type dimension uint8

const (
	byTime dimension = 1 << iota
	byPrincipal
	byMachine
	byApplication
	byDocument
	byGroup
	bySite
)

// byNamed are what says whose use it is: whoever knows a document, a group or a machine mostly
// knows who is behind it.
const byNamed = byPrincipal | byMachine | byDocument | byGroup

// grain is what byTime means.
type grain uint8

// From the longest to the shortest: of several groupings by time the shortest counts.
const (
	noGrain grain = iota
	grainMonth
	grainWeek
	grainDay
	grainHour
)

// summary is what a summary is asked for.
type summary struct {
	from, to quarter
	// compare is the period that it is compared with; nil where none is.
	compare *period
	by      dimension
	grain   grain
	filter  filter
	// asked is the filter as it was asked for.
	asked filter
	// merged are the principals that count as others; a filter by person then holds all of theirs.
	merged merged
	// memberships and sites are read where groups or sites are grouped by.
	memberships memberships
	sites       map[contract.ID]contract.ID
	// person adds up person time instead of instance time.
	person   bool
	zone     *time.Location
	pageSize int
	after    *groupKey
}

// groupKey names a group; what it is not grouped by is zero.
type groupKey struct {
	bucket                                                 quarter
	group, site, principal, machine, application, document contract.ID
}

func (k groupKey) compare(o groupKey) int {
	return cmp.Or(
		cmp.Compare(k.bucket, o.bucket), bytes.Compare(k.group[:], o.group[:]), bytes.Compare(k.site[:], o.site[:]),
		bytes.Compare(k.principal[:], o.principal[:]),
		bytes.Compare(k.machine[:], o.machine[:]), bytes.Compare(k.application[:], o.application[:]),
		bytes.Compare(k.document[:], o.document[:]),
	)
}

// group is one row of a summary. label is where its day or hour begins.
type group struct {
	key    groupKey
	label  time.Time
	totals Totals
}

// summaryPage is one page of a summary.
type summaryPage struct {
	groups []group
	// totals over all pages.
	totals Totals
	// more tells whether groups come behind the last one.
	more bool
}

const (
	defaultPageSize = 1000
	// maxQuarters bounds the period: a hundred years.
	maxQuarters = 100 * 366 * 96
)

func (q *summary) groupByTime(g grain) {
	q.by |= byTime
	q.grain = max(q.grain, g)
}

// buckets are the parts of time that the summary is grouped by; one where it is
// not.
func (q *summary) buckets() []bucket {
	switch q.grain {
	case grainMonth:
		return monthBuckets(q.from, q.to, q.zone)
	case grainWeek:
		return weekBuckets(q.from, q.to, q.zone)
	case grainDay:
		return dayBuckets(q.from, q.to, q.zone)
	case grainHour:
		return hourBuckets(q.from, q.to, q.zone)
	case noGrain:
	}
	return []bucket{{from: q.from, to: q.to}}
}

// summarize answers in instance time, from the roll-ups.
//
// Groups come in the order of groupKey, and only as much is read as the page
// needs: see walk. The totals are those of the groups where the page holds all of
// them, and otherwise come from the narrowest table that can tell them.
func summarize(ctx context.Context, tx pgx.Tx, account contract.ID, q summary, who audience) (summaryPage, error) {
	if q.by&(byGroup|bySite) != 0 {
		return summarizePlaces(ctx, tx, account, q, who)
	}
	var page summaryPage
	// A summary over documents adds up documents throughout; any other, instances.
	total := cellQuery{filter: q.filter, documents: q.by&byDocument != 0, buckets: []bucket{{from: q.from, to: q.to}}}
	if len(q.filter.principals)+len(q.filter.machines) > 0 {
		total.principals, total.narrow = who.principals, true
	}
	base := total
	base.by, base.buckets, base.merged = q.by, q.buckets(), q.merged
	if q.by&(byPrincipal|byMachine|byDocument) != 0 {
		base.principals, base.narrow = who.principals, true
	}
	w := newWalk(&q, base, who)
	for len(page.groups) <= q.pageSize {
		if err := w.look(ctx, tx, account); err != nil {
			return page, err
		}
		part, ok := w.next(q.pageSize + 1 - len(page.groups))
		if !ok {
			break
		}
		if w.looks && len(part.filter.applications) > 0 && len(part.principals) > fewPeople {
			var err error
			if part.principals, err = readUsers(ctx, tx, account, &part); err != nil {
				return page, err
			}
		}
		groups, err := readCells(ctx, tx, account, part)
		if err != nil {
			return page, err
		}
		w.learn(len(groups))
		for _, g := range groups {
			if q.after == nil || g.key.compare(*q.after) > 0 {
				page.groups = append(page.groups, g)
			}
		}
	}
	cut(&page, q.pageSize)
	all := page.groups
	if page.more || q.after != nil {
		var err error
		if all, err = readCells(ctx, tx, account, total); err != nil {
			return page, err
		}
	}
	for _, g := range all {
		page.totals.Add(g.totals)
	}
	return page, nil
}

func cut(page *summaryPage, size int) {
	if len(page.groups) > size {
		page.groups, page.more = page.groups[:size], true
	}
}

// tuneForCells keeps the planner at what the tables were made for: few ranges of
// a primary key. It cannot know how few rows stand under one person, and planning
// each question anew would cost more than most answers.
const tuneForCells = `SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('enable_seqscan', 'off', true),
	set_config('jit', 'off', true), set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_generic_plan', true)`

// cellQuery reads totals of cells, grouped.
type cellQuery struct {
	by        dimension
	filter    filter
	merged    merged
	documents bool
	buckets   []bucket
	// narrow reads the rows of these people only; without it, those of the whole
	// account by application, which know neither people nor machines.
	narrow     bool
	principals [][16]byte
}

// readCells returns the groups in their order, without those that have nothing.
func readCells(ctx context.Context, tx pgx.Tx, account contract.ID, q cellQuery) ([]group, error) {
	if q.narrow && len(q.principals) == 0 || len(q.buckets) == 0 {
		return nil, nil
	}
	ranges := newCellRanges(q.buckets)
	args := []any{account, ranges.levels, ranges.lows, ranges.highs, ranges.starts, ranges.ends, ranges.classes}
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	columns := []string{}
	scanned := []func(*groupKey) *contract.ID{}
	column := func(d dimension, name string, of func(*groupKey) *contract.ID) {
		if q.by&d != 0 {
			columns = append(columns, "c."+name)
			scanned = append(scanned, of)
		}
	}
	column(byPrincipal, "principal_id", func(k *groupKey) *contract.ID { return &k.principal })
	column(byMachine, "machine_id", func(k *groupKey) *contract.ID { return &k.machine })
	column(byApplication, "application_id", func(k *groupKey) *contract.ID { return &k.application })
	column(byDocument, "document_id", func(k *groupKey) *contract.ID { return &k.document })

	var sql strings.Builder
	sql.WriteString("SELECT ")
	for _, c := range append([]string{"t.class"}, columns...) {
		sql.WriteString(c + ", ")
	}
	var t Totals
	sums, targets := totalsColumnList(), totalsTargets(&t)
	for i, c := range sums {
		if i > 0 {
			sql.WriteString(", ")
		}
		fmt.Fprintf(&sql, "sum(c.%s)::int8", c)
	}
	sql.WriteString("\nFROM ")
	table, where := "application_cell", "c.account_id = $1::uuid AND c.level = s.level AND c.quarter >= s.low AND c.quarter < s.high"
	switch {
	case !q.narrow:
		where += " AND c.documents = " + arg(q.documents)
	case q.documents:
		table = "document_cell"
	default:
		table = "cell"
	}
	if q.narrow {
		sql.WriteString("unnest(" + arg(q.principals) + "::uuid[]) AS p (id) CROSS JOIN ")
		where += " AND c.principal_id = p.id"
		if len(q.filter.machines) > 0 {
			where += " AND c.machine_id = ANY (" + arg(raw(q.filter.machines)) + "::uuid[])"
		}
	}
	if len(q.filter.applications) > 0 {
		where += " AND c.application_id = ANY (" + arg(raw(q.filter.applications)) + "::uuid[])"
	}
	sql.WriteString("unnest($2::int2[], $3::int4[], $4::int4[]) AS s (level, low, high)\n")
	// OFFSET 0 keeps the ranges apart: one descent of the key for each.
	fmt.Fprintf(&sql, "CROSS JOIN LATERAL (SELECT * FROM %s AS c WHERE %s OFFSET 0) AS c\n", table, where)
	sql.WriteString("CROSS JOIN LATERAL (SELECT width_bucket((c.level::int8 << 32) + c.quarter, $5::int8[]) AS i OFFSET 0) AS i\n")
	sql.WriteString("CROSS JOIN LATERAL (SELECT ($7::int4[])[i.i] AS class) AS t\nWHERE c.quarter < ($6::int4[])[i.i]\nGROUP BY t.class")
	for _, c := range columns {
		sql.WriteString(", " + c)
	}

	rows, err := tx.Query(ctx, sql.String(), args...)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	defer rows.Close()
	found := make(map[groupKey]*group)
	var key groupKey
	var class int32
	keys := []any{&class}
	for _, of := range scanned {
		keys = append(keys, (*[16]byte)(of(&key)))
	}
	targets = append(keys, targets...)
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return nil, fmt.Errorf("metering: %w", err)
		}
		key.principal = q.merged.of(key.principal)
		for _, s := range ranges.shares[class] {
			k, b := key, q.buckets[s.bucket]
			if q.by&byTime != 0 {
				k.bucket = b.from
			}
			g := found[k]
			if g == nil {
				g = &group{key: k, label: b.label}
				found[k] = g
			}
			if s.less {
				g.totals.Subtract(t)
			} else {
				g.totals.Add(t)
			}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	groups := make([]group, 0, len(found))
	for _, g := range found {
		if g.totals != (Totals{}) {
			groups = append(groups, *g)
		}
	}
	slices.SortFunc(groups, func(a, b group) int { return a.key.compare(b.key) })
	return groups, nil
}

func totalsColumnList() []string { return strings.Split(totalsColumns, ", ") }

func totalsTargets(t *Totals) []any {
	targets := make([]any, 0, attentions+2)
	for i := range t.Millis {
		targets = append(targets, &t.Millis[i])
	}
	return append(targets, &t.Timeouts, &t.Instances)
}

// raw is what pgx takes for uuid[] without looking at each element's type.
func raw(ids []contract.ID) [][16]byte {
	out := make([][16]byte, len(ids))
	for i, id := range ids {
		out[i] = id
	}
	return out
}

// audience is whom a question is about.
type audience struct {
	// principals whose rows it can concern, in order.
	principals [][16]byte
	// machines of theirs that the filter leaves, in order, and who has used each;
	// only where the question is by machine and not by person.
	machines []contract.ID
	users    map[contract.ID][][16]byte
}

func readAudience(ctx context.Context, tx pgx.Tx, account contract.ID, q *summary) (a audience, err error) {
	batch := &pgx.Batch{}
	queueAudience(batch, account, q, &a)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return a, fmt.Errorf("metering: %w", err)
	}
	return a, nil
}

// queueAudience has it read with a batch, or nothing where the question needs to know
// nobody.
func queueAudience(batch *pgx.Batch, account contract.ID, q *summary, a *audience) {
	f := q.filter
	byMachines := q.by&byMachine != 0 && q.by&byPrincipal == 0
	if len(f.machines) == 0 && !byMachines {
		if len(f.principals) > 0 {
			a.principals = raw(f.principals)
			slices.SortFunc(a.principals, compareRaw)
			a.principals = slices.Compact(a.principals)
			return
		}
		if q.by&(byPrincipal|byMachine|byDocument|byGroup|bySite) == 0 && !q.person {
			return
		}
	}
	sql := "SELECT principal_id, machine_id FROM principal_machine WHERE account_id = $1::uuid"
	args := []any{account}
	if len(f.principals) > 0 {
		args = append(args, raw(f.principals))
		sql += fmt.Sprintf(" AND principal_id = ANY ($%d::uuid[])", len(args))
	}
	if len(f.machines) > 0 {
		args = append(args, raw(f.machines))
		sql += fmt.Sprintf(" AND machine_id = ANY ($%d::uuid[])", len(args))
	}
	batch.Queue(sql+" ORDER BY principal_id", args...).Query(func(rows pgx.Rows) error {
		if byMachines {
			a.users = make(map[contract.ID][][16]byte)
		}
		var principal, machine [16]byte
		_, err := pgx.ForEachRow(rows, []any{&principal, &machine}, func() error {
			if n := len(a.principals); n == 0 || a.principals[n-1] != principal {
				a.principals = append(a.principals, principal)
			}
			if byMachines {
				a.users[machine] = append(a.users[machine], principal)
			}
			return nil
		})
		for machine := range a.users {
			a.machines = append(a.machines, machine)
		}
		slices.SortFunc(a.machines, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
		return err
	})
}

func compareRaw(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }

// digest is what a page token is bound to: a token of another question is refused
// rather than answered wrongly.
func (q *summary) digest(account contract.ID) [8]byte {
	h := sha256.New()
	h.Write(account[:])
	_ = binary.Write(h, binary.BigEndian, []int32{int32(q.from), int32(q.to), int32(q.by), int32(q.grain)}) // a hash takes all
	for _, ids := range [][]contract.ID{q.asked.applications, q.asked.principals, q.asked.machines, q.asked.groups, q.asked.sites} {
		_ = binary.Write(h, binary.BigEndian, int32(len(ids)))
		for _, id := range ids {
			h.Write(id[:])
		}
	}
	fmt.Fprintf(h, "%t %s", q.person, q.zone)
	return [8]byte(h.Sum(nil)[:8])
}

func (q *summary) token(account contract.ID, last groupKey) string {
	digest := q.digest(account)
	b := append([]byte(nil), digest[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(last.bucket))
	for _, id := range []contract.ID{last.group, last.site, last.principal, last.machine, last.application, last.document} {
		b = append(b, id[:]...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (q *summary) readToken(account contract.ID, token string) error {
	if token == "" {
		return nil
	}
	const op = "metering.SummarizeUsage"
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 8+4+6*16 {
		return badToken(op)
	}
	if [8]byte(b) != q.digest(account) {
		return foreignToken(op)
	}
	q.after = &groupKey{bucket: quarter(binary.BigEndian.Uint32(b[8:]))}
	for i, id := range []*contract.ID{&q.after.group, &q.after.site, &q.after.principal, &q.after.machine, &q.after.application, &q.after.document} {
		copy(id[:], b[12+16*i:])
	}
	return nil
}
