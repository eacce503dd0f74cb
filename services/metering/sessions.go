package metering

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

//go:embed sql/session.sql
var sessionSQL string

// sessionKey names a line of a summary of desktop sessions; what it is not about is zero.
type sessionKey struct {
	session, principal, application, machine contract.ID
}

// sessionGroup is one line of it while it is made. Of sessions, instances and applications some may stand there
// several times until they are counted.
type sessionGroup struct {
	key                               sessionKey
	sessions, instances, applications []contract.ID
	first, last                       int64
	sessionTime, instanceTime         Totals
}

// sessionPart is what a part of the period says: by line, and of all. Where each session is one line's, the
// lines' ids are those of all.
type sessionPart struct {
	lines []*sessionGroup
	total *sessionGroup
	apart bool
}

// bytes is how much memory it takes.
func (p sessionPart) bytes() int {
	n := 100
	for _, g := range append([]*sessionGroup{p.total}, p.lines...) {
		n += 350 + 16*(cap(g.sessions)+cap(g.instances)+cap(g.applications))
	}
	return n
}

// sessionsOfPart adds up a part by line. In a session two programs at once are one time.
func sessionsOfPart(from, to int64, all []used, key func(*used) sessionKey) []*sessionGroup {
	type line struct {
		*sessionGroup
		stretches map[contract.ID][]stretch
	}
	index := make(map[sessionKey]line)
	var groups []*sessionGroup
	for i := range all {
		n := &all[i]
		var l line
		for _, u := range n.uses {
			s := stretch{from: max(u.from, from), to: min(u.to, to), attention: u.attention}
			if s.from >= s.to {
				continue
			}
			if l.sessionGroup == nil {
				k := key(n)
				if l = index[k]; l.sessionGroup == nil {
					l = line{&sessionGroup{key: k, first: s.from, last: s.to}, make(map[contract.ID][]stretch)}
					index[k], groups = l, append(groups, l.sessionGroup)
				}
				l.instances = append(l.instances, n.instance)
				if !slices.Contains(l.applications, n.application) {
					l.applications = append(l.applications, n.application)
				}
			}
			l.stretches[n.session] = append(l.stretches[n.session], s)
			l.first, l.last = min(l.first, s.from), max(l.last, s.to)
			l.instanceTime.Millis[s.attention-1] += s.to - s.from
		}
	}
	var scratch []stretchEdge
	for _, l := range index {
		for session, stretches := range l.stretches {
			l.sessions = append(l.sessions, session)
			scratch = strongest(stretches, scratch, func(s stretch) { l.sessionTime.Millis[s.attention-1] += s.to - s.from })
		}
	}
	return groups
}

// newSessionPart adds up a part by line, and all of it.
func newSessionPart(from, to int64, all []used, key func(*used) sessionKey) sessionPart {
	p := sessionPart{lines: sessionsOfPart(from, to, all, key), total: &sessionGroup{}, apart: true}
	seen := make(map[contract.ID]bool)
	for _, l := range p.lines {
		for _, session := range l.sessions {
			p.apart = p.apart && !seen[session]
			seen[session] = true
		}
	}
	if !p.apart {
		for _, l := range sessionsOfPart(from, to, all, func(*used) sessionKey { return sessionKey{} }) {
			p.total = l
		}
		return p
	}
	for _, l := range p.lines {
		p.total.addTimes(l)
		for _, id := range l.applications {
			if !slices.Contains(p.total.applications, id) {
				p.total.applications = append(p.total.applications, id)
			}
		}
	}
	return p
}

// addTo adds the next part to all that were before it.
func (p sessionPart) addTo(index map[sessionKey]*sessionGroup, total *sessionGroup) {
	for _, d := range p.lines {
		g := index[d.key]
		if g == nil {
			g = &sessionGroup{key: d.key}
			index[d.key] = g
		}
		g.addTimes(d)
		g.addIDs(d)
		if p.apart {
			total.sessions, total.instances = append(total.sessions, d.sessions...), append(total.instances, d.instances...)
		}
	}
	if len(p.lines) > 0 {
		total.addTimes(p.total)
		total.addIDs(p.total)
	}
}

// addTimes adds times of the next part.
func (g *sessionGroup) addTimes(d *sessionGroup) {
	if g.last == 0 && g.first == 0 {
		g.first, g.last = d.first, d.last
	}
	g.first, g.last = min(g.first, d.first), max(g.last, d.last)
	g.sessionTime.Add(d.sessionTime)
	g.instanceTime.Add(d.instanceTime)
}

// addIDs adds ids of the next part.
func (g *sessionGroup) addIDs(d *sessionGroup) {
	g.sessions, g.instances, g.applications = append(g.sessions, d.sessions...), append(g.instances, d.instances...), append(g.applications, d.applications...)
}

// count leaves each id once.
func (g *sessionGroup) count() {
	for _, ids := range []*[]contract.ID{&g.sessions, &g.instances, &g.applications} {
		if len(*ids) > 1 {
			slices.SortFunc(*ids, func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) })
			*ids = slices.Compact(*ids)
		}
	}
}

// mark is the line's place: the latest session first, else the one that was busy longest.
func (g *sessionGroup) mark() instanceMark {
	if !g.key.session.IsZero() {
		return instanceMark{g.first, g.key.session}
	}
	for _, id := range []contract.ID{g.key.principal, g.key.application, g.key.machine} {
		if !id.IsZero() {
			return instanceMark{g.sessionTime.Millis[busyIndex], id}
		}
	}
	return instanceMark{}
}

func (a *reportAPI) SummarizeSessions(ctx context.Context, req *meteringv1.SummarizeSessionsRequest) (*meteringv1.SummarizeSessionsResponse, error) {
	const op = "metering.SummarizeSessions"
	r, err := reportOf(ctx, op, req)
	if err != nil {
		return nil, err
	}
	question := questionOf(r.caller.Account, &meteringv1.SummarizeSessionsRequest{StartTime: req.GetStartTime(), EndTime: req.GetEndTime(), Filter: req.GetFilter(), GroupBy: req.GetGroupBy()})
	after, err := readInstanceMark(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	by := req.GetGroupBy()
	if err := a.viewed(ctx, r, req, by != meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION); err != nil {
		return nil, err
	}
	resp := &meteringv1.SummarizeSessionsResponse{}
	var total *sessionGroup
	var groups []*sessionGroup
	var before map[sessionKey]*sessionGroup
	err = a.read(ctx, r, "UTC", func(tx pgx.Tx) error {
		if other, kept := r.beside(); other != nil {
			resp.Compare = &meteringv1.SessionsComparison{StartTime: other.startTime(), EndTime: other.endTime()}
			if kept {
				var was *sessionGroup
				if before, was, err = a.readSessions(ctx, tx, other, by); err != nil {
					return err
				}
				resp.Compare.Total = was.message(r.names)
			}
		}
		index, all, err := a.readSessions(ctx, tx, r, by)
		if err != nil {
			return err
		}
		total = all
		for _, g := range index {
			groups = append(groups, g)
		}
		resp.TotalGroups = int64(len(groups))
		if after != nil {
			groups = slices.DeleteFunc(groups, func(g *sessionGroup) bool { return !g.mark().behind(*after) })
		}
		slices.SortFunc(groups, func(a, b *sessionGroup) int {
			x, y := a.mark(), b.mark()
			return cmp.Or(cmp.Compare(y.opened, x.opened), bytes.Compare(x.id[:], y.id[:]))
		})
		if size := resource.PageSize(req.GetPageSize(), 100); len(groups) > size {
			groups = groups[:size]
			last := groups[size-1].mark()
			resp.NextPageToken = markToken(question, last.opened, last.id)
		}
		for _, g := range groups {
			r.names.want(g.key.application, g.key.principal, g.key.machine, contract.ID{})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Position, resp.DataSinceTime, resp.Total = r.position, r.since, total.message(r.names)
	for _, g := range groups {
		m := g.message(r.names)
		if r.compare != nil && g.key.session.IsZero() {
			was := before[g.key]
			if was == nil {
				was = &sessionGroup{}
			}
			m.CompareSessions, m.CompareSessionTime = int64(len(was.sessions)), was.sessionTime.message()
		}
		resp.Groups = append(resp.Groups, m)
	}
	return resp, nil
}

// sessionsOf makes what sessions are made of.
func sessionsOf(by meteringv1.SessionGroupBy) making[sessionPart] {
	type sessionKind struct{ by meteringv1.SessionGroupBy }
	key := func(i *used) sessionKey {
		switch by {
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL:
			return sessionKey{principal: i.principal}
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION:
			return sessionKey{application: i.application}
		case meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE:
			return sessionKey{machine: i.machine}
		default:
			return sessionKey{session: i.session, principal: i.principal, machine: i.machine}
		}
	}
	return making[sessionPart]{
		kind: sessionKind{by},
		of:   func(from, to int64, all []used) sessionPart { return newSessionPart(from, to, all, key) },
		size: sessionPart.bytes,
	}
}

// readSessions adds up the sessions of a period: by key, and all of them.
func (a *reportAPI) readSessions(ctx context.Context, tx pgx.Tx, r *report, by meteringv1.SessionGroupBy) (map[sessionKey]*sessionGroup, *sessionGroup, error) {
	index, total := make(map[sessionKey]*sessionGroup), &sessionGroup{}
	q := a.usedQuery(r, r.from.millis(), r.to.millis())
	q.fine = true
	err := eachUsed(ctx, tx, q, sessionsOf(by), func(p sessionPart) { p.addTo(index, total) })
	total.count()
	for _, g := range index {
		g.count()
	}
	return index, total, err
}

func (g *sessionGroup) message(names *nameSet) *meteringv1.SessionGroup {
	m := &meteringv1.SessionGroup{
		SessionId: idText(g.key.session), ApplicationId: idText(g.key.application), ApplicationName: names.applications[g.key.application],
		PrincipalId: idText(g.key.principal), PrincipalName: names.principals[g.key.principal], MachineId: idText(g.key.machine), MachineName: names.machines[g.key.machine],
		Sessions: int64(len(g.sessions)), Instances: int64(len(g.instances)), Applications: int64(len(g.applications)),
		SessionTime: g.sessionTime.message(), InstanceTime: g.instanceTime.message(),
	}
	if len(g.sessions) > 0 {
		m.StartTime, m.EndTime = millisStamp(g.first), millisStamp(g.last)
	}
	return m
}

// sessionChange is what an instance of a session became.
type sessionChange struct {
	instance, application, principal, machine contract.ID
	decided
}

// goesOn tells whether an interval is what was before it, cut for another reason.
func (c *sessionChange) goesOn(next *sessionChange) bool {
	return c.to == next.from && c.attention == next.attention && c.state == next.state && c.reason == next.reason && c.access == next.access
}

func (a *reportAPI) ListSessionChanges(ctx context.Context, req *meteringv1.ListSessionChangesRequest) (*meteringv1.ListSessionChangesResponse, error) {
	const op = "metering.ListSessionChanges"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "session_id", req.GetSessionId())
	if err != nil {
		return nil, err
	}
	question := questionOf(caller.Account, &meteringv1.ListSessionChangesRequest{SessionId: req.GetSessionId()})
	after, err := readInstanceMark(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	resp := &meteringv1.ListSessionChangesResponse{SessionId: id.String()}
	names := newNameSet()
	var sealed []*usagev1.SealedName
	var changes []*sessionChange
	var of sessionKey
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		kept, err := readHorizons(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		people, err := readMerged(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		if changes, err = readSession(ctx, tx, caller.Account, id); err != nil {
			return err
		}
		if len(changes) == 0 {
			return errs.New(errs.NotFound, op, "session "+id.String(), "there is no such desktop session, nothing of it has been counted yet, or it is older than the account keeps them")
		}
		resp.DataSinceTime = since(changes[0].from, kept.instances)
		of = sessionKey{principal: people.of(changes[0].principal), machine: changes[0].machine}
		if after != nil {
			changes = changesAfter(changes, *after)
		}
		if size := resource.PageSize(req.GetPageSize(), 1000); len(changes) > size {
			changes = changes[:size]
			resp.NextPageToken = markToken(question, changes[size-1].from, changes[size-1].event)
		}
		names.want(contract.ID{}, of.principal, of.machine, contract.ID{})
		for _, c := range changes {
			names.want(c.application, contract.ID{}, contract.ID{}, contract.ID{})
		}
		sealed, err = names.read(ctx, tx, caller.Account)
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	// Whose session it is was not known before.
	if err := a.service.view(ctx, op, caller, req.GetReason(), look{principals: []contract.ID{of.principal}}); err != nil {
		return nil, err
	}
	if err := names.open(ctx, a.service.names, caller.Account, sealed); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	resp.PrincipalId, resp.PrincipalName = of.principal.String(), names.principals[of.principal]
	resp.MachineId, resp.MachineName = of.machine.String(), names.machines[of.machine]
	for _, c := range changes {
		resp.Changes = append(resp.Changes, &meteringv1.SessionChange{
			InstanceId: c.instance.String(), ApplicationId: c.application.String(), ApplicationName: names.applications[c.application], Interval: c.interval(),
		})
	}
	return resp, nil
}

// changesAfter are those behind one; where that has become part of another meanwhile, those of
// later times.
func changesAfter(changes []*sessionChange, mark instanceMark) []*sessionChange {
	at := slices.IndexFunc(changes, func(c *sessionChange) bool { return c.from == mark.opened && c.event == mark.id })
	if at < 0 {
		at = -1 + len(changes)
		if later := slices.IndexFunc(changes, func(c *sessionChange) bool { return c.from > mark.opened }); later >= 0 {
			at = later - 1
		}
	}
	return changes[at+1:]
}

// readSession reads what the instances of a desktop session became, in the order of time.
func readSession(ctx context.Context, tx pgx.Tx, account, session contract.ID) ([]*sessionChange, error) {
	rows, err := tx.Query(ctx, sessionSQL, account, session, maxIntervals+1)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	defer rows.Close()
	last := make(map[contract.ID]*sessionChange)
	var changes []*sessionChange
	for read := 0; rows.Next(); read++ {
		if read == maxIntervals {
			return nil, tooManyIntervals("metering.ListSessionChanges")
		}
		c := &sessionChange{}
		var attention, state, reason, access int16
		if err := rows.Scan((*[16]byte)(&c.instance), (*[16]byte)(&c.application), (*[16]byte)(&c.principal), (*[16]byte)(&c.machine),
			&c.from, &c.to, &attention, &state, &reason, &access, (*[16]byte)(&c.event), (*[16]byte)(&c.agent), &c.epoch, &c.seq, &c.message); err != nil {
			return nil, fmt.Errorf("metering: %w", err)
		}
		c.attention, c.state, c.reason, c.access = usagev1.Attention(attention), usagev1.State(state), usagev1.Reason(reason), usagev1.SessionAccess(access)
		if before := last[c.instance]; before != nil && before.goesOn(c) {
			before.to = c.to
			continue
		}
		last[c.instance] = c
		changes = append(changes, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return changes, nil
}
