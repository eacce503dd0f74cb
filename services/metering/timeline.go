package metering

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// maxBars bounds an answer: some 20 MB.
const maxBars = 200_000

//go:embed sql/bars.sql
var barsSQL string

// timeline is the time that bars are drawn in, in milliseconds of UTC. step is 0 where they are
// exact.
type timeline struct{ from, to, step int64 }

// bar is time of one attention. of is the time by attention in it, told where it is made of
// steps; state and event are an instance's, where it is exact.
type bar struct {
	from, to  int64
	attention usagev1.Attention
	state     usagev1.State
	event     contract.ID
	of        Totals
}

// timelineRow is one line of bars while it is made.
type timelineRow struct {
	key              groupKey
	instance         *instance
	totals           Totals
	bars             []bar
	steps            map[int64]*Totals
	stretches        []stretch
	documents        map[contract.ID]*timelineRow
	document         contract.ID
	documentsInOrder []*timelineRow
}

// add puts an interval into a row; what lies outside the period is cut away.
func (w timeline) add(row *timelineRow, b bar) {
	b.from, b.to = max(b.from, w.from), min(b.to, w.to)
	if b.from >= b.to {
		return
	}
	row.totals.Millis[b.attention-1] += b.to - b.from
	if w.step == 0 {
		// Intervals are cut for reasons that a reader does not see.
		if n := len(row.bars); n > 0 {
			if last := &row.bars[n-1]; last.to == b.from && last.attention == b.attention && last.state == b.state {
				last.to = b.to
				return
			}
		}
		row.bars = append(row.bars, b)
		return
	}
	if row.steps == nil {
		row.steps = make(map[int64]*Totals)
	}
	for at := b.from; at < b.to; {
		n := (at - w.from) / w.step
		end := min(b.to, w.from+(n+1)*w.step)
		sum := row.steps[n]
		if sum == nil {
			sum = &Totals{}
			row.steps[n] = sum
		}
		sum.Millis[b.attention-1] += end - at
		at = end
	}
}

// finish makes bars of a row's steps: neighbours of one attention are one bar.
func (w timeline) finish(row *timelineRow) {
	numbers := make([]int64, 0, len(row.steps))
	for n := range row.steps {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		b := bar{from: w.from + n*w.step, of: *row.steps[n]}
		b.to = min(w.to, b.from+w.step)
		b.attention = prevailing(&b.of, b.to-b.from)
		if n := len(row.bars); n > 0 {
			if last := &row.bars[n-1]; last.to == b.from && last.attention == b.attention {
				last.to = b.to
				last.of.Add(b.of)
				continue
			}
		}
		row.bars = append(row.bars, b)
	}
	row.steps = nil
}

// prevailing is the attention that stands for a step of some length: from the strongest on, the
// first with which half of what was open is reached. Of several instances more can be open than
// the step is long; then half of the step counts, so that what somebody works in is not hidden
// by what lies in the background meanwhile.
func prevailing(of *Totals, length int64) usagev1.Attention {
	half := min(of.Open().Milliseconds(), length)
	var sum int64
	for _, a := range strength {
		if sum += of.Millis[a-1]; sum > 0 && 2*sum >= half {
			return a
		}
	}
	return usagev1.Attention_ATTENTION_UNSPECIFIED
}

// timelineOf reads the period and the resolution; what is wrong with them is told.
func timelineOf(req *meteringv1.QueryTimelineRequest) (w timeline, wrong []errs.Field) {
	for path, t := range map[string]interface{ CheckValid() error }{"start_time": req.GetStartTime(), "end_time": req.GetEndTime()} {
		if t.CheckValid() != nil {
			wrong = append(wrong, errs.Field{Path: path, Description: "is no time"})
		}
	}
	if req.GetResolution() != nil {
		if req.GetResolution().CheckValid() != nil || req.GetResolution().AsDuration() < time.Millisecond {
			wrong = append(wrong, errs.Field{Path: "resolution", Description: "is not a time of at least a millisecond: leave it out for exact bars"})
		}
		w.step = req.GetResolution().AsDuration().Milliseconds()
	}
	if req.GetDocuments() && timelineDimension(req.GetRowBy()) != 0 {
		wrong = append(wrong, errs.Field{Path: "documents", Description: "are an instance's: ask for a row by instance"})
	}
	if len(wrong) > 0 {
		return w, wrong
	}
	w.from, w.to = max(0, req.GetStartTime().AsTime().UnixMilli()), max(0, req.GetEndTime().AsTime().UnixMilli())
	if w.step >= quarterMillis {
		up := func(ms int64) int64 { return -floorDiv(-ms, quarterMillis) * quarterMillis }
		w.step, w.from, w.to = up(w.step), quarterOf(w.from).millis(), up(w.to)
	}
	switch {
	case w.from >= w.to:
		wrong = append(wrong, errs.Field{Path: "end_time", Description: "is not after start_time"})
	case w.to-w.from > maxReportDays*96*quarterMillis:
		wrong = append(wrong, errs.Field{Path: "end_time", Description: fmt.Sprintf("the period is longer than %d days", maxReportDays)})
	case w.step > 0 && (w.to-w.from-1)/w.step >= maxPoints:
		wrong = append(wrong, errs.Field{Path: "resolution", Description: fmt.Sprintf("makes more than %d steps: ask for longer ones or for a shorter period", maxPoints)})
	}
	return w, wrong
}

// timelineDimension is what a row is grouped by; 0 where it is an instance.
func timelineDimension(by meteringv1.TimelineRowBy) dimension {
	switch by {
	case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL:
		return byPrincipal
	case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_MACHINE:
		return byMachine
	case meteringv1.TimelineRowBy_TIMELINE_ROW_BY_APPLICATION:
		return byApplication
	default:
		return 0
	}
}

func (a *reportAPI) QueryTimeline(ctx context.Context, req *meteringv1.QueryTimelineRequest) (*meteringv1.QueryTimelineResponse, error) {
	const op = "metering.QueryTimeline"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	w, wrong := timelineOf(req)
	r := &report{op: op, caller: caller, names: newNameSet(), from: quarterOf(w.from), to: quarterOf(w.to-1) + 1}
	if r.filter, err = filterOf(ctx, op, req.GetFilter()); err != nil {
		return nil, err
	}
	if len(wrong) > 0 {
		return nil, errs.InvalidFields(op, "", wrong...)
	}
	by := timelineDimension(req.GetRowBy())
	question := questionOf(caller.Account, &meteringv1.QueryTimelineRequest{
		StartTime: req.GetStartTime(), EndTime: req.GetEndTime(), Filter: req.GetFilter(), RowBy: req.GetRowBy(), Resolution: req.GetResolution(),
	})
	after, err := readInstanceMark(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	if err := a.viewed(ctx, r, req, by == 0 || by&byNamed != 0); err != nil {
		return nil, err
	}
	r.byCells = by != 0 && w.step >= quarterMillis
	size := resource.PageSize(req.GetPageSize(), 100)
	var rows []*timelineRow
	resp := &meteringv1.QueryTimelineResponse{}
	err = a.read(ctx, r, "UTC", func(tx pgx.Tx) error {
		w.from = max(w.from, r.from.millis())
		var last *instanceMark
		var err error
		if by == 0 {
			rows, last, err = instanceRows(ctx, tx, r, w, req.GetDocuments(), instanceQuery{from: w.from, to: w.to, filter: r.filter, pageSize: size, after: after})
		} else {
			rows, last, err = a.groupRows(ctx, tx, r, w, by, size, after)
		}
		if err != nil {
			return err
		}
		if last != nil {
			resp.NextPageToken = markToken(question, last.opened, last.id)
		}
		for _, row := range rows {
			r.names.want(row.key.application, row.key.principal, row.key.machine, contract.ID{})
			for _, d := range row.documentsInOrder {
				r.names.want(contract.ID{}, contract.ID{}, contract.ID{}, d.document)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.StartTime, resp.EndTime, resp.Position, resp.DataSinceTime = millisStamp(w.from), millisStamp(w.to), r.position, r.since
	if w.step > 0 {
		resp.Resolution = millisSpan(w.step)
	}
	for _, row := range rows {
		resp.Rows = append(resp.Rows, row.message(r.names))
	}
	return resp, nil
}

// instanceRows are a page of instances, and where the next begins, if there is one.
func instanceRows(ctx context.Context, tx pgx.Tx, r *report, w timeline, documents bool, q instanceQuery) ([]*timelineRow, *instanceMark, error) {
	found, more, err := listInstances(ctx, tx, r.caller.Account, q)
	if err != nil || len(found) == 0 {
		return nil, nil, err
	}
	rows := make([]*timelineRow, len(found))
	index := make(map[contract.ID]*timelineRow, len(found))
	asked := make([][16]byte, len(found))
	for i := range found {
		n := &found[i]
		rows[i] = &timelineRow{instance: n, key: groupKey{application: n.application, principal: n.principal, machine: n.machine}}
		index[n.id], asked[i] = rows[i], n.id
	}
	if err := readBars(ctx, tx, asked, w, documents, func(instance, document contract.ID, b bar) {
		row := index[instance]
		if !document.IsZero() {
			row = row.of(document)
		}
		w.add(row, b)
	}); err != nil {
		return nil, nil, err
	}
	bars := 0
	kept := rows[:0]
	for _, row := range rows {
		for _, d := range row.documents {
			w.finish(d)
			if len(d.bars) > 0 {
				row.documentsInOrder = append(row.documentsInOrder, d)
			}
			bars += len(d.bars)
		}
		slices.SortFunc(row.documentsInOrder, func(a, b *timelineRow) int {
			return cmp.Or(cmp.Compare(a.bars[0].from, b.bars[0].from), bytes.Compare(a.document[:], b.document[:]))
		})
		w.finish(row)
		bars += len(row.bars)
		if len(row.bars) > 0 {
			kept = append(kept, row)
		}
	}
	if bars > maxBars {
		return nil, nil, tooManyBars(r.op)
	}
	var last *instanceMark
	if more {
		n := &found[len(found)-1]
		last = &instanceMark{n.opened, n.id}
	}
	return kept, last, nil
}

func tooManyBars(op string) error {
	return errs.New(errs.Exhausted, op, "", fmt.Sprintf("these are more than %d bars: ask with a resolution, for a shorter period, or for fewer rows", maxBars))
}

func (row *timelineRow) of(document contract.ID) *timelineRow {
	if row.documents == nil {
		row.documents = make(map[contract.ID]*timelineRow)
	}
	d := row.documents[document]
	if d == nil {
		d = &timelineRow{document: document}
		row.documents[document] = d
	}
	return d
}

// readBars reads the intervals of instances, or also those of their documents, that overlap the
// period, those of each in the order of time.
func readBars(ctx context.Context, tx pgx.Tx, instances [][16]byte, w timeline, documents bool, yield func(instance, document contract.ID, b bar)) error {
	ofDocuments := [][16]byte{}
	if documents {
		ofDocuments = instances
	}
	rows, err := tx.Query(ctx, barsSQL, instances, w.from, w.to, ofDocuments, maxIntervals+1)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	var instance, document contract.ID
	var b bar
	var attention, state int16
	read := 0
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&instance), (*[16]byte)(&document), &b.from, &b.to, &attention, &state, (*[16]byte)(&b.event)}, func() error {
		if read++; read > maxIntervals {
			return tooManyIntervals("metering.QueryTimeline")
		}
		b.attention, b.state = usagev1.Attention(attention), usagev1.State(state)
		yield(instance, document, b)
		return nil
	})
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	return nil
}

func tooManyIntervals(op string) error {
	return errs.New(errs.Exhausted, op, "", fmt.Sprintf("this is computed from the intervals, and more than %d lie in this period: ask for a shorter one, or for fewer applications or people", maxIntervals))
}

// groupRows are rows of several instances each. Steps of a quarter-hour and more are added up
// from cells, whatever the period; finer ones and exact bars, from what each instance did.
func (a *reportAPI) groupRows(ctx context.Context, tx pgx.Tx, r *report, w timeline, by dimension, size int, after *instanceMark) ([]*timelineRow, *instanceMark, error) {
	read := a.rowsOfUses
	if r.byCells {
		read = a.rowsOfCells
	}
	rows, last, err := read(ctx, tx, r, w, by, func(rows []*timelineRow) ([]*timelineRow, *instanceMark) { return pageOfRows(rows, size, after) })
	if err != nil {
		return nil, nil, err
	}
	bars := 0
	var scratch []stretchEdge
	for _, row := range rows {
		scratch = strongest(row.stretches, scratch, func(s stretch) { row.bars = append(row.bars, bar{from: s.from, to: s.to, attention: s.attention}) })
		w.finish(row)
		bars += len(row.bars)
	}
	if bars > maxBars {
		return nil, nil, tooManyBars(r.op)
	}
	return rows, last, nil
}

// pageOfRows are a page of rows, and where the next begins, if there is one.
func pageOfRows(all []*timelineRow, size int, after *instanceMark) (rows []*timelineRow, last *instanceMark) {
	for _, row := range all {
		if row.totals.Open() > 0 && (after == nil || row.mark().behind(*after)) {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b *timelineRow) int {
		if b.mark().behind(a.mark()) {
			return -1
		}
		return 1
	})
	if len(rows) > size {
		rows = rows[:size]
		m := rows[size-1].mark()
		last = &m
	}
	return rows, last
}

// rowsOfUses adds up rows from what each instance did, and leaves a page of them.
func (a *reportAPI) rowsOfUses(ctx context.Context, tx pgx.Tx, r *report, w timeline, by dimension, page func([]*timelineRow) ([]*timelineRow, *instanceMark)) ([]*timelineRow, *instanceMark, error) {
	index := make(map[groupKey]*timelineRow)
	var all []*timelineRow
	type part struct {
		from, to int64
		all      []used
	}
	q := a.usedQuery(r, w.from, w.to)
	q.fine = true
	err := eachUsed(ctx, tx, q, making[part]{of: func(from, to int64, all []used) part { return part{from, to, all} }}, func(p part) {
		for i := range p.all {
			n := &p.all[i]
			k := groupKey{}
			switch by {
			case byPrincipal:
				k.principal = n.principal
			case byMachine:
				k.machine = n.machine
			default:
				k.application = n.application
			}
			row := index[k]
			if row == nil {
				row = &timelineRow{key: k}
				index[k], all = row, append(all, row)
			}
			for _, u := range n.uses {
				s := stretch{from: max(u.from, p.from), to: min(u.to, p.to), attention: u.attention}
				switch {
				case s.from >= s.to:
				case w.step > 0:
					w.add(row, bar{from: s.from, to: s.to, attention: s.attention})
				default:
					row.totals.Millis[s.attention-1] += s.to - s.from
					row.stretches = append(row.stretches, s)
				}
			}
		}
	})
	rows, last := page(all)
	return rows, last, err
}

// mark is the row's place: the greatest open time first.
func (row *timelineRow) mark() instanceMark {
	id := row.key.application
	switch {
	case !row.key.principal.IsZero():
		id = row.key.principal
	case !row.key.machine.IsZero():
		id = row.key.machine
	}
	return instanceMark{row.totals.Open().Milliseconds(), id}
}

// behind tells whether a mark comes after another where the greatest come first.
func (m instanceMark) behind(other instanceMark) bool {
	return cmp.Or(cmp.Compare(other.opened, m.opened), bytes.Compare(m.id[:], other.id[:])) > 0
}

// rowsOfCells adds up rows from cells and leaves a page of them; then it adds up the steps of those, which are whole
// quarter-hours: there are many more of them than rows.
func (a *reportAPI) rowsOfCells(ctx context.Context, tx pgx.Tx, r *report, w timeline, by dimension, page func([]*timelineRow) ([]*timelineRow, *instanceMark)) ([]*timelineRow, *instanceMark, error) {
	q := cellQuery{by: by, filter: r.filter, merged: r.merged, buckets: []bucket{{from: quarterOf(w.from), to: quarterOf(w.to)}}}
	if _, err := tx.Exec(ctx, tuneForCells); err != nil {
		return nil, nil, fmt.Errorf("metering: %w", err)
	}
	var users map[contract.ID][][16]byte
	var all []*timelineRow
	add := func(k groupKey, t *Totals) {
		all = append(all, &timelineRow{key: k, totals: Totals{Millis: t.Millis}, steps: make(map[int64]*Totals)})
	}
	if by != byApplication || len(r.filter.principals)+len(r.filter.machines) > 0 {
		who, err := readAudience(ctx, tx, r.caller.Account, &summary{by: by, filter: r.filter})
		if err != nil {
			return nil, nil, err
		}
		q.narrow, q.principals, users = true, who.principals, who.users
		times := timesQuery{
			account: r.caller.Account, period: period{q.buckets[0].from, q.buckets[0].to}, filter: r.filter, people: r.merged, principals: who.principals, by: by, memory: a.service.memory,
		}
		sums, err := times.read(ctx, tx)
		if err != nil {
			return nil, nil, err
		}
		for k, t := range sums {
			add(k, t)
		}
	} else {
		groups, err := readCells(ctx, tx, r.caller.Account, q)
		if err != nil {
			return nil, nil, err
		}
		for i := range groups {
			add(groups[i].key, &groups[i].totals)
		}
	}
	rows, last := page(all)
	index := make(map[groupKey]*timelineRow, len(rows))
	var shown []contract.ID
	for _, row := range rows {
		index[row.key] = row
		shown = append(shown, row.mark().id)
	}
	switch by {
	case byPrincipal:
		q.principals = slices.DeleteFunc(q.principals, func(p [16]byte) bool { return index[groupKey{principal: r.merged.of(p)}] == nil })
	case byMachine:
		q.filter.machines, q.principals = shown, nil
		for _, m := range shown {
			q.principals = append(q.principals, users[m]...)
		}
		slices.SortFunc(q.principals, compareRaw)
		q.principals = slices.Compact(q.principals)
	default:
		q.filter.applications = shown
	}
	q.by, q.buckets = by|byTime, nil
	for at := w.from; at < w.to; at += w.step {
		q.buckets = append(q.buckets, bucket{from: quarterOf(at), to: quarterOf(min(w.to, at+w.step))})
	}
	if len(rows) == 0 {
		return nil, nil, nil
	}
	groups, err := readCells(ctx, tx, r.caller.Account, q)
	if err != nil {
		return nil, nil, err
	}
	for _, g := range groups {
		n := (g.key.bucket.millis() - w.from) / w.step
		g.key.bucket = 0
		if t := (Totals{Millis: g.totals.Millis}); t.Open() > 0 {
			index[g.key].steps[n] = &t
		}
	}
	return rows, last, nil
}

func (row *timelineRow) message(names *nameSet) *meteringv1.TimelineRow {
	k := row.key
	m := &meteringv1.TimelineRow{
		ApplicationId: idText(k.application), ApplicationName: names.applications[k.application],
		PrincipalId: idText(k.principal), PrincipalName: names.principals[k.principal],
		MachineId: idText(k.machine), MachineName: names.machines[k.machine],
		Totals: row.totals.message(), Bars: barMessages(row.bars),
	}
	if n := row.instance; n != nil {
		m.InstanceId, m.SessionId, m.OpenTime = n.id.String(), n.session.String(), millisStamp(n.opened)
		if n.closed != nil {
			m.CloseTime = millisStamp(*n.closed)
		}
	}
	for _, d := range row.documentsInOrder {
		m.Documents = append(m.Documents, &meteringv1.TimelineDocument{
			DocumentId: d.document.String(), DocumentName: names.documents[d.document], Totals: d.totals.message(), Bars: barMessages(d.bars),
		})
	}
	return m
}

func barMessages(bars []bar) []*meteringv1.TimelineBar {
	messages := make([]*meteringv1.TimelineBar, len(bars))
	for i := range bars {
		b := &bars[i]
		messages[i] = &meteringv1.TimelineBar{StartTime: millisStamp(b.from), EndTime: millisStamp(b.to), Attention: b.attention, State: b.state, EventId: idText(b.event)}
		if b.of != (Totals{}) {
			messages[i].Totals = b.of.message()
		}
	}
	return messages
}
