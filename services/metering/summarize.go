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
	"github.com/cetrus/cetrus/services/platform/errs"
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
)

// grain is what byTime means.
type grain uint8

const (
	noGrain grain = iota
	grainDay
	grainHour
)

// filter narrows a query; an empty list means all.
type filter struct {
	applications, principals, machines []contract.ID
}

// summary is what a summary is asked for.
type summary struct {
	from, to quarter
	by       dimension
	grain    grain
	filter   filter
	// person adds up person time instead of instance time.
	person   bool
	zone     *time.Location
	pageSize int
	after    *groupKey
}

// groupKey names a group; what it is not grouped by is zero.
type groupKey struct {
	bucket                                    quarter
	principal, machine, application, document contract.ID
}

func (k groupKey) compare(o groupKey) int {
	return cmp.Or(
		cmp.Compare(k.bucket, o.bucket), bytes.Compare(k.principal[:], o.principal[:]),
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

// buckets are the parts of time that the summary is grouped by; one where it is
// not.
func (q *summary) buckets() []bucket {
	switch q.grain {
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
// Groups come in the order of groupKey. Of the first thing that is grouped by -
// time, people or machines - only as many values are read as the page needs, and
// the totals come from the narrowest table that can tell them.
func summarize(ctx context.Context, tx pgx.Tx, account contract.ID, q summary) (summaryPage, error) {
	var page summaryPage
	if err := tuneForCells(ctx, tx); err != nil {
		return page, err
	}
	// A summary over documents adds up documents throughout; any other, instances.
	documents := q.by&byDocument != 0
	totals, err := readCells(ctx, tx, account, cellQuery{filter: q.filter, documents: documents, buckets: []bucket{{from: q.from, to: q.to}}})
	if err != nil {
		return page, err
	}
	for _, g := range totals {
		page.totals.Add(g.totals)
	}

	base := cellQuery{by: q.by, filter: q.filter, documents: documents, buckets: q.buckets()}
	chunks, err := newChunker(ctx, tx, account, &q, base)
	if err != nil {
		return page, err
	}
	for len(page.groups) <= q.pageSize {
		part, ok := chunks.next(q.pageSize+1-len(page.groups), len(page.groups))
		if !ok {
			break
		}
		groups, err := readCells(ctx, tx, account, part)
		if err != nil {
			return page, err
		}
		for _, g := range groups {
			if g.totals == (Totals{}) || q.after != nil && g.key.compare(*q.after) <= 0 {
				continue
			}
			page.groups = append(page.groups, g)
		}
	}
	cut(&page, q.pageSize)
	return page, nil
}

func cut(page *summaryPage, size int) {
	if len(page.groups) > size {
		page.groups, page.more = page.groups[:size], true
	}
}

// tuneForCells keeps the planner at what the tables were made for: few ranges of
// a primary key. It cannot know how few rows stand under one person.
func tuneForCells(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'")
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	return nil
}

// cellQuery reads totals of cells, grouped.
type cellQuery struct {
	by        dimension
	filter    filter
	documents bool
	buckets   []bucket
}

// readCells returns the groups in their order.
func readCells(ctx context.Context, tx pgx.Tx, account contract.ID, q cellQuery) ([]group, error) {
	ranges := newCellRanges(q.buckets)
	wide := q.by&(byPrincipal|byMachine|byDocument) != 0 || len(q.filter.principals) > 0 || len(q.filter.machines) > 0
	args := []any{account, ranges.levels, ranges.lows, ranges.highs, ranges.starts, ranges.ends, ranges.buckets}
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
	for _, c := range append([]string{"t.bucket"}, columns...) {
		sql.WriteString(c + ", ")
	}
	for i, c := range totalsColumnList() {
		if i > 0 {
			sql.WriteString(", ")
		}
		fmt.Fprintf(&sql, "sum(c.%s)::int8", c)
	}
	sql.WriteString("\nFROM ")
	table, where := "application_cell", "c.account_id = $1::uuid AND c.level = s.level AND c.quarter >= s.low AND c.quarter < s.high"
	switch {
	case !wide:
		where += " AND c.documents = " + arg(q.documents)
	case q.documents:
		table = "document_cell"
	default:
		table = "cell"
	}
	if wide {
		principals, err := principalsOf(ctx, tx, account, q.filter)
		if err != nil {
			return nil, err
		}
		if len(principals) == 0 {
			return nil, nil
		}
		sql.WriteString("unnest(" + arg(principals) + "::uuid[]) AS p (id) CROSS JOIN ")
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
	sql.WriteString("CROSS JOIN LATERAL (SELECT ($7::int4[])[i.i] AS bucket) AS t\nWHERE c.quarter < ($6::int4[])[i.i]\nGROUP BY t.bucket")
	for _, c := range columns {
		sql.WriteString(", " + c)
	}

	rows, err := tx.Query(ctx, sql.String(), args...)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	defer rows.Close()
	var groups []group
	for rows.Next() {
		var g group
		var index int32
		targets := make([]any, 0, 1+len(scanned)+attentions+2)
		targets = append(targets, &index)
		for _, of := range scanned {
			targets = append(targets, (*[16]byte)(of(&g.key)))
		}
		targets = append(targets, totalsTargets(&g.totals)...)
		if err := rows.Scan(targets...); err != nil {
			return nil, fmt.Errorf("metering: %w", err)
		}
		if q.by&byTime != 0 {
			b := q.buckets[index]
			g.key.bucket, g.label = b.from, b.label
		}
		groups = append(groups, g)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	slices.SortFunc(groups, func(a, b group) int { return a.key.compare(b.key) })
	return groups, nil
}

// cellRanges say which rows of which levels make up buckets.
//
// Neighbouring spans of a level are read as one range of the key, since a descent
// of the key costs as much as some dozen rows; which bucket a row belongs to, or
// that it fell into a gap between two spans, is looked up by its place among the
// spans' starts.
type cellRanges struct {
	// levels, lows and highs are the ranges to read.
	levels      []int16
	lows, highs []int32
	// starts of the spans, sorted: the level in the upper half, the quarter in the
	// lower; ends, and the bucket of each.
	starts        []int64
	ends, buckets []int32
}

// joinGap is the widest gap between spans, in rows of their level, over which they
// are read as one.
const joinGap = 24

func newCellRanges(buckets []bucket) cellRanges {
	type bucketSpan struct {
		span
		bucket int
	}
	var spans []bucketSpan
	for i, b := range buckets {
		for _, s := range cover(b.from, b.to) {
			spans = append(spans, bucketSpan{s, i})
		}
	}
	slices.SortFunc(spans, func(a, b bucketSpan) int { return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.from, b.from)) })
	var r cellRanges
	for i, s := range spans {
		r.starts = append(r.starts, int64(s.level)<<32+int64(s.from))
		r.ends, r.buckets = append(r.ends, int32(s.to)), append(r.buckets, int32(s.bucket))
		if i > 0 && spans[i-1].level == s.level && s.from-spans[i-1].to <= joinGap*levelWidths[s.level] {
			r.highs[len(r.highs)-1] = int32(s.to)
			continue
		}
		r.levels, r.lows, r.highs = append(r.levels, int16(s.level)), append(r.lows, int32(s.from)), append(r.highs, int32(s.to))
	}
	return r
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

// principalsOf lists in order whose rows a filter can concern.
func principalsOf(ctx context.Context, tx pgx.Tx, account contract.ID, f filter) ([][16]byte, error) {
	if len(f.machines) == 0 && len(f.principals) > 0 {
		ids := slices.Clone(f.principals)
		slices.SortFunc(ids, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
		return raw(slices.Compact(ids)), nil
	}
	return pairIDs(ctx, tx, account, "principal_id", f)
}

// pairIDs lists the people, or the machines, that a filter leaves.
func pairIDs(ctx context.Context, tx pgx.Tx, account contract.ID, column string, f filter) ([][16]byte, error) {
	sql := "SELECT DISTINCT " + column + " FROM principal_machine WHERE account_id = $1::uuid"
	args := []any{account}
	if len(f.principals) > 0 {
		args = append(args, raw(f.principals))
		sql += fmt.Sprintf(" AND principal_id = ANY ($%d::uuid[])", len(args))
	}
	if len(f.machines) > 0 {
		args = append(args, raw(f.machines))
		sql += fmt.Sprintf(" AND machine_id = ANY ($%d::uuid[])", len(args))
	}
	rows, err := tx.Query(ctx, sql+" ORDER BY 1", args...)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return ids, nil
}

// chunker deals out a query in parts, by the first thing that it is grouped by, in
// order; it learns from the parts that were read how many groups one value makes.
type chunker struct {
	base cellQuery
	by   dimension
	ids  []contract.ID
	at   int
	done bool
	last int
}

func newChunker(ctx context.Context, tx pgx.Tx, account contract.ID, q *summary, base cellQuery) (*chunker, error) {
	c := &chunker{base: base}
	switch {
	case q.by&byTime != 0:
		c.by = byTime
		if q.after != nil {
			c.at = sortedIndex(base.buckets, func(b bucket) int { return cmp.Compare(b.from, q.after.bucket) })
		}
		return c, nil
	case q.by&byPrincipal != 0:
		c.by = byPrincipal
	case q.by&byMachine != 0:
		c.by = byMachine
	default:
		return c, nil
	}
	column := "principal_id"
	if c.by == byMachine {
		column = "machine_id"
	}
	ids, err := pairIDs(ctx, tx, account, column, q.filter)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		c.ids = append(c.ids, id)
	}
	if q.after != nil {
		from := q.after.principal
		if c.by == byMachine {
			from = q.after.machine
		}
		c.at = sortedIndex(c.ids, func(id contract.ID) int { return bytes.Compare(id[:], from[:]) })
	}
	return c, nil
}

// sortedIndex is the first element that does not come before what compare looks
// for.
func sortedIndex[E any](s []E, compare func(E) int) int {
	i, _ := slices.BinarySearchFunc(s, struct{}{}, func(e E, _ struct{}) int { return compare(e) })
	return i
}

// next returns the next part for so many groups more, where the parts before have
// made so many.
func (c *chunker) next(wanted, made int) (cellQuery, bool) {
	part := c.base
	total := len(c.ids)
	if c.by == byTime {
		total = len(c.base.buckets)
	}
	if c.by == 0 {
		part.buckets = c.base.buckets
		ok := !c.done
		c.done = true
		return part, ok
	}
	if c.at >= total {
		return part, false
	}
	size := c.guess(wanted, made)
	end := min(total, c.at+size)
	switch c.by {
	case byTime:
		part.buckets = c.base.buckets[c.at:end]
	case byPrincipal:
		part.filter.principals = c.ids[c.at:end]
	case byMachine:
		part.filter.machines = c.ids[c.at:end]
	case byApplication, byDocument:
		// Never dealt out: see newChunker.
	}
	c.at, c.last = end, c.last+(end-c.at)
	return part, true
}

// guess is how many values to read. Before anything was read it supposes what is
// usual; it never more than quadruples, and grows where values make no groups.
func (c *chunker) guess(wanted, made int) int {
	if c.last == 0 {
		usual := 8
		narrow := c.base.by&(byPrincipal|byMachine|byDocument) == 0
		switch {
		case c.by == byTime && c.base.by == byTime:
			usual = 1
		case c.by == byTime && narrow:
			usual = 16
		case c.by == byTime:
			usual = 500
		case c.base.by == c.by:
			usual = 1
		}
		return max(1, (wanted+usual-1)/usual)
	}
	if made == 0 {
		return 4 * c.last
	}
	return max(1, min(4*c.last, (wanted*c.last*9/8+made-1)/made))
}

// digest is what a page token is bound to: a token of another question is refused
// rather than answered wrongly.
func (q *summary) digest(account contract.ID) [8]byte {
	h := sha256.New()
	h.Write(account[:])
	_ = binary.Write(h, binary.BigEndian, []int32{int32(q.from), int32(q.to), int32(q.by), int32(q.grain)}) // a hash takes all
	for _, ids := range [][]contract.ID{q.filter.applications, q.filter.principals, q.filter.machines} {
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
	for _, id := range []contract.ID{last.principal, last.machine, last.application, last.document} {
		b = append(b, id[:]...)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (q *summary) readToken(account contract.ID, token string) error {
	if token == "" {
		return nil
	}
	wrong := errs.InvalidFields("metering.SummarizeUsage", "", errs.Field{
		Path: "page_token", Description: "belongs to another question: take it from the answer before, and change nothing else but the page size",
	})
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 8+4+4*16 {
		return wrong
	}
	if [8]byte(b) != q.digest(account) {
		return wrong
	}
	q.after = &groupKey{bucket: quarter(binary.BigEndian.Uint32(b[8:]))}
	for i, id := range []*contract.ID{&q.after.principal, &q.after.machine, &q.after.application, &q.after.document} {
		copy(id[:], b[12+16*i:])
	}
	return nil
}
