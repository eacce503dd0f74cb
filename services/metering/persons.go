package metering

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// personChunk is how many people's intervals are in memory at once.
	personChunk = 25
	// maxIntervals bounds what one question reads from the intervals themselves, where nothing is
	// prepared: some ten seconds, and 200 MB where all are held at once.
	maxIntervals = 4_000_000
)

// summarizePersons answers in person time. Unions do not add up, so it is computed
// from what each instance did: per person, within each group and over all of them, every
// moment counts once with its strongest attention. A group's time is the sum over
// its people. Totals are therefore at most the sum of the groups.
//
// Every page reads the use of all people that the question is about, since
// the totals are theirs; what is kept of them is one page of groups.
func summarizePersons(ctx context.Context, tx pgx.Tx, account contract.ID, q summary, who audience, memory *memory) (summaryPage, error) {
	var page summaryPage
	kept := smallestGroups{after: q.after, most: q.pageSize + 1, groups: make(map[groupKey]*group)}
	var err error
	if q.by&byDocument != 0 {
		err = q.documentPersons(ctx, tx, account, who, &page, &kept)
	} else {
		err = q.persons(ctx, tx, account, memory, &page, &kept)
	}
	page.groups = kept.sorted()
	cut(&page, q.pageSize)
	return page, err
}

// personDay is person time of a part of the period.
type personDay struct {
	from   int64
	total  Totals
	groups []group
}

// bytes is how much memory it takes.
func (d personDay) bytes() int { return 100 + 250*cap(d.groups) }

// personsOf makes what person time is made of.
func personsOf(q *summary) making[personDay] {
	buckets := q.buckets()
	m := making[personDay]{size: personDay.bytes, of: func(from, to int64, all []used) personDay {
		day := personDay{from: from}
		persons := make(map[contract.ID]*personUse)
		for i := range all {
			n := &all[i]
			p := persons[n.principal]
			if p == nil {
				p = &personUse{groups: make(map[groupKey][]stretch)}
				persons[n.principal] = p
			}
			first := len(p.all)
			for _, u := range n.uses {
				if s := (stretch{from: max(u.from, from), to: min(u.to, to), attention: u.attention}); s.from < s.to {
					p.all = append(p.all, s)
				}
			}
			if len(p.all) == first {
				continue
			}
			q.eachPlace(n.principal, n.machine, q.by.keyOf(n.principal, n.machine, n.application), func(k groupKey) { p.groups[k] = append(p.groups[k], p.all[first:]...) })
		}
		here := []bucket{{from: quarterOf(from), to: quarterOf(to + quarterMillis - 1)}}
		whole := here
		if q.by&byTime != 0 {
			here = bucketsWithin(buckets, from, to)
		}
		var scratch []stretchEdge
		for _, p := range persons {
			// All that somebody did is often one group's.
			one := q.by&byTime == 0 && len(p.groups) == 1
			if !one {
				scratch = addPerson(p.all, whole, scratch, func(_ bucket, t *Totals) { day.total.Add(*t) })
			}
			for key, stretches := range p.groups {
				scratch = addPerson(stretches, here, scratch, func(b bucket, t *Totals) {
					k := key
					if q.by&byTime != 0 {
						k.bucket = b.from
					}
					if one {
						day.total.Add(*t)
					}
					day.groups = append(day.groups, group{key: k, label: b.label, totals: *t})
				})
			}
		}
		return day
	}}
	if q.by&^(byPrincipal|byMachine|byApplication) == 0 {
		type personKind struct{ by dimension }
		m.kind = personKind{q.by}
	}
	return m
}

// persons adds up part by part: time does, where parts do not overlap. What parts are made of is by as much of a group as
// no other question knows otherwise: a group's time is that of the people who are in it now, and a day's that of the
// parts that it is cut into. At which site a machine is, and hours, are the question's alone.
func (q *summary) persons(ctx context.Context, tx pgx.Tx, account contract.ID, memory *memory, page *summaryPage, kept *smallestGroups) error {
	asked := usedQuery{op: "metering.SummarizeUsage", account: account, from: q.from.millis(), to: q.to.millis(), filter: q.filter, people: q.merged, fine: true, memory: memory}
	if q.by&bySite != 0 || q.grain == grainHour {
		return eachUsed(ctx, tx, asked, personsOf(q), func(day personDay) {
			page.totals.Add(day.total)
			for i := range day.groups {
				g := &day.groups[i]
				kept.add(g.key, bucket{label: g.label}, &g.totals)
			}
		})
	}
	made := summary{by: q.by & (byPrincipal | byMachine | byApplication)}
	if q.by&byGroup != 0 {
		made.by |= byPrincipal
	}
	buckets := q.buckets()
	for _, b := range buckets {
		asked.cuts = append(asked.cuts, b.from.millis())
	}
	return eachUsed(ctx, tx, asked, personsOf(&made), func(day personDay) {
		page.totals.Add(day.total)
		for len(buckets) > 1 && buckets[0].to.millis() <= day.from {
			buckets = buckets[1:]
		}
		for i := range day.groups {
			g := &day.groups[i]
			k := q.by.keyOf(g.key.principal, g.key.machine, g.key.application)
			if q.by&byTime != 0 {
				k.bucket = buckets[0].from
			}
			q.eachPlace(g.key.principal, g.key.machine, k, func(k groupKey) { kept.add(k, buckets[0], &g.totals) })
		}
	})
}

// bucketsWithin are those that overlap a part of the period.
func bucketsWithin(buckets []bucket, from, to int64) []bucket {
	first, _ := slices.BinarySearchFunc(buckets, from, func(b bucket, at int64) int { return cmp.Compare(b.to.millis(), at+1) })
	last, _ := slices.BinarySearchFunc(buckets, to, func(b bucket, at int64) int { return cmp.Compare(b.from.millis(), at) })
	return buckets[first:max(first, last)]
}

// keyOf is the group of a person's use, but for time, groups of people and sites.
func (by dimension) keyOf(person, machine, application contract.ID) (k groupKey) {
	if by&byPrincipal != 0 {
		k.principal = person
	}
	if by&byMachine != 0 {
		k.machine = machine
	}
	if by&byApplication != 0 {
		k.application = application
	}
	return k
}

// documentPersons adds up what people did with documents, from the intervals.
func (q *summary) documentPersons(ctx context.Context, tx pgx.Tx, account contract.ID, who audience, page *summaryPage, kept *smallestGroups) error {
	buckets, whole := q.buckets(), []bucket{{from: q.from, to: q.to}}
	var scratch []stretchEdge
	left := maxIntervals
	people, of := q.merged.persons(who.principals)
	for chunk := range slices.Chunk(people, personChunk) {
		var principals [][16]byte
		for _, person := range chunk {
			principals = append(principals, of[person]...)
		}
		persons, err := readPersons(ctx, tx, account, q, principals, &left)
		if err != nil {
			return err
		}
		for _, p := range persons {
			scratch = addPerson(p.all, whole, scratch, func(_ bucket, t *Totals) { page.totals.Add(*t) })
			for key, stretches := range p.groups {
				scratch = addPerson(stretches, buckets, scratch, func(b bucket, t *Totals) {
					k := key
					if q.by&byTime != 0 {
						k.bucket = b.from
					}
					kept.add(k, b, t)
				})
			}
		}
	}
	return nil
}

// smallestGroups keeps the first groups behind one, however many come by.
type smallestGroups struct {
	after  *groupKey
	most   int
	groups map[groupKey]*group
	// bound is the last group that can still be among them; nil while that is open.
	bound *groupKey
}

func (s *smallestGroups) add(k groupKey, b bucket, t *Totals) {
	if s.after != nil && k.compare(*s.after) <= 0 || s.bound != nil && k.compare(*s.bound) > 0 {
		return
	}
	g := s.groups[k]
	if g == nil {
		if len(s.groups) >= 2*s.most {
			s.prune()
			s.add(k, b, t)
			return
		}
		g = &group{key: k, label: b.label}
		s.groups[k] = g
	}
	g.totals.Add(*t)
}

// prune drops the groups that so many smaller ones stand before: none of those goes
// away again, since person time only grows.
func (s *smallestGroups) prune() {
	sorted := s.sorted()
	for _, g := range sorted[s.most:] {
		delete(s.groups, g.key)
	}
	s.bound = &sorted[s.most-1].key
}

func (s *smallestGroups) sorted() []group {
	sorted := make([]group, 0, len(s.groups))
	for _, g := range s.groups {
		sorted = append(sorted, *g)
	}
	slices.SortFunc(sorted, func(a, b group) int { return a.key.compare(b.key) })
	return sorted
}

// addPerson joins one person's stretches and tells the totals of each bucket that
// they touch.
func addPerson(stretches []stretch, buckets []bucket, scratch []stretchEdge, yield func(bucket, *Totals)) []stretchEdge {
	i := 0
	var sum Totals
	flush := func() {
		if sum != (Totals{}) {
			yield(buckets[i], &sum)
			sum = Totals{}
		}
	}
	scratch = strongest(stretches, scratch, func(s stretch) {
		for s.from < s.to {
			for i < len(buckets) && buckets[i].to.millis() <= s.from {
				flush()
				i++
			}
			if i == len(buckets) {
				return
			}
			s.from = max(s.from, buckets[i].from.millis())
			end := min(s.to, buckets[i].to.millis())
			if end > s.from {
				sum.Millis[s.attention-1] += end - s.from
			}
			s.from = max(s.from, end)
		}
	})
	if i < len(buckets) {
		flush()
	}
	return scratch
}

// personUse is one person's stretches: all of them, and those of each group.
type personUse struct {
	all    []stretch
	groups map[groupKey][]stretch
}

// readPersons reads the intervals of some people's documents, and counts them down from left.
func readPersons(ctx context.Context, tx pgx.Tx, account contract.ID, q *summary, principals [][16]byte, left *int) (map[contract.ID]*personUse, error) {
	persons := make(map[contract.ID]*personUse)
	err := eachInterval(ctx, tx, account, intervalQuery{from: q.from.millis(), to: q.to.millis(), principals: principals, filter: q.filter, documents: true}, func(r *intervalRow) error {
		if *left--; *left < 0 {
			return errs.New(errs.Exhausted, "metering.SummarizeUsage", "", fmt.Sprintf("person time of documents is computed from the intervals, and more than %d lie in this period: ask for a shorter one, for fewer people or applications, or for instance time", maxIntervals))
		}
		if r.from >= r.to {
			return nil
		}
		person := q.merged.of(r.principal)
		p := persons[person]
		if p == nil {
			p = &personUse{groups: make(map[groupKey][]stretch)}
			persons[person] = p
		}
		k := q.by.keyOf(person, r.machine, r.application)
		k.document = r.document
		s := stretch{from: r.from, to: r.to, attention: r.attention}
		p.all = append(p.all, s)
		q.eachPlace(person, r.machine, k, func(k groupKey) { p.groups[k] = append(p.groups[k], s) })
		return nil
	})
	return persons, err
}

// intervalQuery asks for the intervals of instances, or of documents, that overlap
// [from, to), with the instances that they belong to.
type intervalQuery struct {
	from, to int64
	// principals whose instances these are, person by person; nil: anybody's, in
	// the order of their days. The filter's are not looked at.
	principals [][16]byte
	filter     filter
	documents  bool
}

// intervalRow is one interval with its instance. opened is the instance's.
type intervalRow struct {
	instance, principal, machine, application, session, document contract.ID
	opened, from, to                                             int64
	attention                                                    usagev1.Attention
	state                                                        usagev1.State
}

// eachInterval finds the instances that overlap the period, then each one's
// intervals by its own index: from the last one that begins before the period on,
// since an instance's intervals do not overlap. The row is the same one each time.
func eachInterval(ctx context.Context, tx pgx.Tx, account contract.ID, q intervalQuery, yield func(*intervalRow) error) error {
	args := []any{account, q.from, q.to, dayOf(q.from)}
	where := ""
	in := func(column string, ids []contract.ID) {
		if len(ids) > 0 {
			args = append(args, raw(ids))
			where += fmt.Sprintf(" AND n.%s = ANY ($%d::uuid[])", column, len(args))
		}
	}
	in("application_id", q.filter.applications)
	in("machine_id", q.filter.machines)
	document, begin := "i.document_id IS NULL", "coalesce((SELECT b.from_ms FROM interval AS b WHERE b.instance_id = n.instance_id AND b.document_id IS NULL AND b.from_ms <= $2 ORDER BY b.from_ms DESC LIMIT 1), n.opened_ms)"
	if q.documents {
		// Documents of one instance overlap each other: begin at the instance's own
		// opening.
		document, begin = "i.document_id IS NOT NULL", "n.opened_ms"
	}
	people, of := "", ""
	if q.principals != nil {
		args = append(args, q.principals)
		people, of = fmt.Sprintf("unnest($%d::uuid[]) AS p (id) CROSS JOIN ", len(args)), " AND n.principal_id = p.id"
	}
	if _, err := tx.Exec(ctx, "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off"); err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	rows, err := tx.Query(ctx, `
		SELECT n.instance_id, n.principal_id, n.machine_id, n.application_id, n.session_id, n.opened_ms,
		       i.from_ms, i.to_ms, i.attention, i.state, coalesce(i.document_id, '00000000-0000-0000-0000-000000000000')
		FROM `+people+`LATERAL (
			SELECT * FROM instance AS n
			WHERE n.account_id = $1::uuid AND n.last_day >= $4 AND n.opened_ms < $3 AND n.decided_ms >= $2`+of+where+`
			OFFSET 0
		) AS n
		CROSS JOIN LATERAL (
			SELECT * FROM interval AS i
			WHERE i.instance_id = n.instance_id AND i.from_ms >= `+begin+` AND i.from_ms < $3 AND i.to_ms >= $2 AND `+document+`
			OFFSET 0
		) AS i`, args...)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	defer rows.Close()
	var r intervalRow
	var attention, state int16
	targets := []any{
		(*[16]byte)(&r.instance), (*[16]byte)(&r.principal), (*[16]byte)(&r.machine), (*[16]byte)(&r.application), (*[16]byte)(&r.session),
		&r.opened, &r.from, &r.to, &attention, &state, (*[16]byte)(&r.document),
	}
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		r.attention, r.state = usagev1.Attention(attention), usagev1.State(state)
		if err := yield(&r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	return nil
}
