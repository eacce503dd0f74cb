package metering

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// usageAPI serves cetrus.metering.v1.UsageService.
type usageAPI struct {
	meteringv1.UnimplementedUsageServiceServer
	service *Service
}

// coalesce is how long the live stream waits for more changes to send with one.
const coalesce = 30 * time.Millisecond

func (a *usageAPI) SummarizeUsage(ctx context.Context, req *meteringv1.SummarizeUsageRequest) (*meteringv1.SummarizeUsageResponse, error) {
	const op = "metering.SummarizeUsage"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	q, err := summaryOf(ctx, req)
	if err != nil {
		return nil, err
	}
	if q.by&byNamed != 0 || q.filter.named() {
		if err := a.service.view(ctx, op, caller, req.GetReason(), look{principals: q.filter.principals, machines: q.filter.machines}); err != nil {
			return nil, err
		}
	}
	if req.GetMinPosition() != "" {
		position, err := strconv.ParseUint(req.GetMinPosition(), 10, 64)
		if err != nil {
			return nil, errs.InvalidFields(op, "", errs.Field{Path: "min_position", Description: "is not a position such as another answer carries"})
		}
		if err := a.service.awaitPosition(ctx, op, caller.Account, position); err != nil {
			return nil, err
		}
	}
	resp := &meteringv1.SummarizeUsageResponse{Counting: meteringv1.Counting_COUNTING_INSTANCE_TIME}
	if q.person {
		resp.Counting = meteringv1.Counting_COUNTING_PERSON_TIME
	}
	var page summaryPage
	var before *comparedSummary
	names := newNameSet()
	var sealed []*usagev1.SealedName
	var documents map[contract.ID]recognisedDocument
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		kept, err := readHorizons(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		horizon := q.horizon(kept)
		if q.merged, err = readMerged(ctx, tx, caller.Account); err != nil {
			return err
		}
		q.asked = q.filter
		if err := q.filter.narrow(ctx, tx, caller.Account, q.merged); err != nil {
			return err
		}
		if err := q.readPlaces(ctx, tx, caller.Account); err != nil {
			return err
		}
		basis, err := readBasis(ctx, tx, caller.Account, &q, req.GetTimeZone())
		if err != nil {
			return err
		}
		if q.zone, err = loadZone(basis.zone); err != nil {
			return errs.InvalidFields(op, "", errs.Field{Path: "time_zone", Description: err.Error()})
		}
		if err := q.readToken(caller.Account, req.GetPageToken()); err != nil {
			return err
		}
		resp.DataSinceTime = since(q.from.millis(), horizon)
		answered := q
		answered.clip(horizon)
		resp.TimeZone, resp.Position = basis.zone, basis.position
		if q.person {
			page, err = summarizePersons(ctx, tx, caller.Account, answered, basis.who, a.service.memory)
		} else {
			page, err = summarize(ctx, tx, caller.Account, answered, basis.who)
		}
		if err != nil {
			return err
		}
		if q.compare != nil {
			compared := page.groups
			if q.by&byTime != 0 {
				compared = nil // days of one period are none of another's
			}
			if before, err = q.beside(horizon).compareGroups(ctx, tx, caller.Account, basis.who, compared, a.service.memory); err != nil {
				return err
			}
		}
		for _, g := range page.groups {
			names.want(g.key.application, g.key.principal, g.key.machine, g.key.document)
			names.wantPlace(g.key.group, g.key.site)
		}
		if documents, err = readRecognised(ctx, tx, caller.Account, names.documents); err != nil {
			return err
		}
		sealed, err = names.read(ctx, tx, caller.Account)
		return err
	})
	if err == nil {
		err = names.open(ctx, a.service.names, caller.Account, sealed)
	}
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	resp.Totals = page.totals.message()
	if before != nil {
		resp.Compare = before.message()
	}
	for i := range page.groups {
		g := &page.groups[i]
		m := &meteringv1.UsageGroup{
			ApplicationName: names.applications[g.key.application], PrincipalName: names.principals[g.key.principal],
			MachineName: names.machines[g.key.machine], DocumentName: names.documents[g.key.document],
			GroupName: names.groups[g.key.group], ManagerName: names.sites[g.key.site],
			Totals: g.totals.message(),
		}
		m.ApplicationId, m.PrincipalId = idText(g.key.application), idText(g.key.principal)
		m.MachineId, m.DocumentId = idText(g.key.machine), idText(g.key.document)
		m.GroupId, m.ManagerId = idText(g.key.group), idText(g.key.site)
		m.RemoteClient = names.remoteClients[g.key.application]
		known := documents[g.key.document]
		m.DocumentSource, m.DocumentConfidence, m.DocumentUnsaved = known.recognised.source(), known.recognised.confidence(), known.unsaved
		if q.by&byTime != 0 {
			m.StartTime = timestamppb.New(g.label)
		} else if before != nil {
			t := before.groups[g.key]
			m.CompareTotals = t.message()
		}
		resp.Groups = append(resp.Groups, m)
	}
	if page.more {
		resp.NextPageToken = q.token(caller.Account, page.groups[len(page.groups)-1].key)
	}
	return resp, nil
}

const (
	// maxPositionWait bounds the waiting for min_position.
	maxPositionWait = 5 * time.Second
	// answerTime is the share of a call's time that waiting leaves for the answer.
	answerTime = 10
)

// awaitPosition returns once what the AGENT stream has of an account up to position is counted. It waits for
// what the stream has, and refuses what it has not given yet.
func (s *Service) awaitPosition(ctx context.Context, op string, account contract.ID, position uint64) error {
	wait := maxPositionWait
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		wait = min(wait, left-left/answerTime)
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	stream, err := s.js.Stream(waiting, contract.AgentStream)
	if err != nil {
		return errs.As(errs.Unavailable, op, "", "the log of what agents report does not answer: ask again later", err)
	}
	if end := stream.CachedInfo().State.LastSeq; position > end {
		return errs.InvalidFields(op, "", errs.Field{Path: "min_position", Description: fmt.Sprintf("%d is no position yet: the log ends at %d; take one that another answer carries", position, end)})
	}
	partition := contract.Partition(account)
	err = s.waitFor(waiting, partition, position, func(v *views) *projection.Runner { return v.usage })
	if err != nil {
		// Where that fails too, 0 is no more than is true.
		counted, _ := projection.Position(ctx, s.serving.Load().store.Projector, "usage", partition)
		return errs.As(errs.Unavailable, op, "", fmt.Sprintf("position %d is not counted yet, only %d is: ask again later", position, counted), err)
	}
	return nil
}

func summaryOf(ctx context.Context, req *meteringv1.SummarizeUsageRequest) (summary, error) {
	const op = "metering.SummarizeUsage"
	q := summary{pageSize: resource.PageSize(req.GetPageSize(), defaultPageSize), person: req.GetCounting() == meteringv1.Counting_COUNTING_PERSON_TIME}
	var wrong []errs.Field
	q.from, q.to, wrong = quartersOf(req, nil)
	for _, g := range req.GetGroupBy() {
		switch g {
		case meteringv1.GroupBy_GROUP_BY_APPLICATION:
			q.by |= byApplication
		case meteringv1.GroupBy_GROUP_BY_PRINCIPAL:
			q.by |= byPrincipal
		case meteringv1.GroupBy_GROUP_BY_MACHINE:
			q.by |= byMachine
		case meteringv1.GroupBy_GROUP_BY_DOCUMENT:
			q.by |= byDocument
		case meteringv1.GroupBy_GROUP_BY_GROUP:
			q.by |= byGroup
		case meteringv1.GroupBy_GROUP_BY_SITE:
			q.by |= bySite
		case meteringv1.GroupBy_GROUP_BY_DAY:
			q.groupByTime(grainDay)
		case meteringv1.GroupBy_GROUP_BY_HOUR:
			q.groupByTime(grainHour)
		case meteringv1.GroupBy_GROUP_BY_WEEK:
			q.groupByTime(grainWeek)
		case meteringv1.GroupBy_GROUP_BY_MONTH:
			q.groupByTime(grainMonth)
		default:
			wrong = append(wrong, errs.Field{Path: "group_by", Description: "is none of the groupings"})
		}
	}
	longest := quarter(maxQuarters)
	switch q.grain {
	case grainDay, grainWeek, grainMonth:
		longest = maxQuarters / 2
	case grainHour:
		longest = 4 * 24 * 366 * 3
	case noGrain:
	}
	q.compare, wrong = compareOf(req, q.from, q.to, wrong)
	if q.to-q.from > longest {
		wrong = append(wrong, errs.Field{Path: "end_time", Description: fmt.Sprintf("the period is longer than %d days, too long for this grouping", longest/96)})
	}
	var err error
	if q.filter, err = filterOf(ctx, op, req.GetFilter()); err != nil {
		return q, err
	}
	if len(wrong) > 0 {
		return q, errs.InvalidFields(op, "", wrong...)
	}
	return q, nil
}

// countedPosition is how far the projection of usage had come with an account when the transaction
// began.
func countedPosition(ctx context.Context, tx pgx.Tx, account contract.ID) (position uint64, err error) {
	err = tx.QueryRow(ctx, positionSQL, partitionName(account)).Scan(&position)
	return position, err
}

const positionSQL = "SELECT coalesce(min(position), 0) FROM projection_checkpoint WHERE projection = 'usage' AND partitions = $1"

func partitionName(account contract.ID) string { return strconv.Itoa(contract.Partition(account)) }

// basis is what a summary needs to know before it adds up.
type basis struct {
	position string
	zone     string
	who      audience
}

// readBasis reads it in one turn; zone is the one that was asked for, "" for the
// account's. A transaction that adds up cells is tuned for them by it.
func readBasis(ctx context.Context, tx pgx.Tx, account contract.ID, q *summary, zone string) (basis, error) {
	b := basis{zone: zone}
	batch := &pgx.Batch{}
	if !q.person {
		batch.Queue(tuneForCells)
	}
	batch.Queue(positionSQL, partitionName(account)).QueryRow(func(row pgx.Row) error {
		var position int64
		err := row.Scan(&position)
		b.position = strconv.FormatInt(position, 10)
		return err
	})
	if zone == "" {
		b.zone = DefaultSettings().TimeZone
		batch.Queue("SELECT time_zone FROM settings WHERE account_id = $1::uuid", account).Query(func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, []any{&b.zone}, func() error { return nil })
			return err
		})
	}
	queueAudience(batch, account, q, &b.who)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return b, fmt.Errorf("metering: %w", err)
	}
	return b, nil
}

func (t *Totals) message() *meteringv1.UsageTotals {
	of := func(a usagev1.Attention) *durationpb.Duration { return durationpb.New(t.Of(a)) }
	return &meteringv1.UsageTotals{
		Open:       durationpb.New(t.Open()),
		Suspended:  of(usagev1.Attention_ATTENTION_SUSPENDED),
		Unknown:    of(usagev1.Attention_ATTENTION_UNKNOWN),
		Paused:     of(usagev1.Attention_ATTENTION_PAUSED),
		Away:       of(usagev1.Attention_ATTENTION_AWAY),
		Busy:       of(usagev1.Attention_ATTENTION_BUSY),
		Idle:       of(usagev1.Attention_ATTENTION_IDLE),
		Background: of(usagev1.Attention_ATTENTION_BACKGROUND),
		Timeouts:   t.Timeouts, Instances: t.Instances,
	}
}

func idText(id contract.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// The times that RFC 3339 can write: the years 1 to 9999.
const (
	firstStamp = -62_135_596_800_000
	lastStamp  = 253_402_300_799_999
)

// millisStamp keeps to what can be written: a live snapshot has its times from a
// desktop's clock, and nobody has looked at them.
func millisStamp(utcMillis int64) *timestamppb.Timestamp {
	return timestamppb.New(time.UnixMilli(min(max(utcMillis, firstStamp), lastStamp)))
}

// millisSpan keeps to what can be written: an agent's clock says what it likes.
func millisSpan(millis int64) *durationpb.Duration {
	const most = int64(math.MaxInt64 / time.Millisecond)
	return durationpb.New(time.Duration(min(max(millis, -most), most)) * time.Millisecond)
}

func (a *usageAPI) ListInstances(ctx context.Context, req *meteringv1.ListInstancesRequest) (*meteringv1.ListInstancesResponse, error) {
	const op = "metering.ListInstances"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	q := instanceQuery{to: 1 << 60, openOnly: req.GetOpenOnly(), access: req.GetSessionAccess(), pageSize: resource.PageSize(req.GetPageSize(), 100)}
	if t := req.GetStartTime(); t != nil {
		q.from = t.AsTime().UnixMilli()
	}
	if t := req.GetEndTime(); t != nil {
		q.to = t.AsTime().UnixMilli()
	}
	if q.from >= q.to {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "end_time", Description: "is not after start_time"})
	}
	if q.filter, err = filterOf(ctx, op, req.GetFilter()); err != nil {
		return nil, err
	}
	if err := a.service.view(ctx, op, caller, req.GetReason(), look{principals: q.filter.principals, machines: q.filter.machines}); err != nil {
		return nil, err
	}
	question := questionOf(caller.Account, &meteringv1.ListInstancesRequest{StartTime: req.GetStartTime(), EndTime: req.GetEndTime(), Filter: req.GetFilter(), OpenOnly: req.GetOpenOnly(), SessionAccess: req.GetSessionAccess()})
	if q.after, err = readInstanceMark(op, question, req.GetPageToken()); err != nil {
		return nil, err
	}
	resp := &meteringv1.ListInstancesResponse{}
	var found []instance
	var more bool
	names := newNameSet()
	var sealed []*usagev1.SealedName
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		kept, err := readHorizons(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		resp.DataSinceTime = since(q.from, kept.instances)
		if found, more, err = listInstances(ctx, tx, caller.Account, q); err != nil {
			return err
		}
		for _, n := range found {
			names.want(n.application, n.principal, n.machine, contract.ID{})
		}
		sealed, err = names.read(ctx, tx, caller.Account)
		return err
	})
	if err == nil {
		err = names.open(ctx, a.service.names, caller.Account, sealed)
	}
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	for i := range found {
		resp.Instances = append(resp.Instances, found[i].message(names))
	}
	if more {
		last := found[len(found)-1]
		resp.NextPageToken = markToken(question, last.opened, last.id)
	}
	return resp, nil
}

// questionOf is the text that a page token is bound to.
func questionOf(account contract.ID, req proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return account.String() // a message that came over the wire can be written again
	}
	return account.String() + string(b)
}

func (n *instance) message(names *nameSet) *meteringv1.Instance {
	m := &meteringv1.Instance{
		InstanceId: n.id.String(), ApplicationId: n.application.String(), ApplicationName: names.applications[n.application],
		PrincipalId: n.principal.String(), PrincipalName: names.principals[n.principal],
		MachineId: n.machine.String(), MachineName: names.machines[n.machine], SessionId: n.session.String(),
		OpenTime: millisStamp(n.opened), DecidedTime: millisStamp(n.decided), Lost: n.lost, Totals: n.totals.message(),
		SessionAccesses: n.accesses.message(),
	}
	if n.closed != nil {
		m.CloseTime = millisStamp(*n.closed)
	}
	return m
}

func (a *usageAPI) GetInstance(ctx context.Context, req *meteringv1.GetInstanceRequest) (*meteringv1.GetInstanceResponse, error) {
	const op = "metering.GetInstance"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "instance_id", req.GetInstanceId())
	if err != nil {
		return nil, err
	}
	if err := a.service.view(ctx, op, caller, req.GetReason(), look{instance: id}); err != nil {
		return nil, err
	}
	var found instance
	names := newNameSet()
	var sealed []*usagev1.SealedName
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		var err error
		if found, err = getInstance(ctx, tx, caller.Account, id); err != nil {
			return err
		}
		names.want(found.application, found.principal, found.machine, contract.ID{})
		sealed, err = names.read(ctx, tx, caller.Account)
		return err
	})
	if err == nil {
		err = names.open(ctx, a.service.names, caller.Account, sealed)
	}
	if err != nil {
		return nil, errs.Wrap(op, "instance "+id.String(), err)
	}
	return &meteringv1.GetInstanceResponse{Instance: found.message(names)}, nil
}

func (a *usageAPI) ListIntervals(ctx context.Context, req *meteringv1.ListIntervalsRequest) (*meteringv1.ListIntervalsResponse, error) {
	const op = "metering.ListIntervals"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "instance_id", req.GetInstanceId())
	if err != nil {
		return nil, err
	}
	if err := a.service.view(ctx, op, caller, req.GetReason(), look{instance: id}); err != nil {
		return nil, err
	}
	var document contract.ID
	if req.GetDocumentId() != "" {
		if document, err = resource.ParseID(op, "document_id", req.GetDocumentId()); err != nil {
			return nil, err
		}
	}
	question := questionOf(caller.Account, &meteringv1.ListIntervalsRequest{InstanceId: req.GetInstanceId(), DocumentId: req.GetDocumentId()})
	var after *decidedMark
	if req.GetPageToken() != "" {
		after = &decidedMark{}
		if after.from, after.event, err = readMarkToken(op, question, req.GetPageToken()); err != nil {
			return nil, err
		}
	}
	size := resource.PageSize(req.GetPageSize(), 1000)
	resp := &meteringv1.ListIntervalsResponse{}
	var found []decided
	var more bool
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		of, err := getInstance(ctx, tx, caller.Account, id)
		if err != nil {
			return err
		}
		kept, err := readHorizons(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		resp.DataSinceTime = since(of.opened, kept.instances)
		found, more, err = listDecided(ctx, tx, caller.Account, id, document, after, size)
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "instance "+id.String(), err)
	}
	for _, d := range found {
		resp.Intervals = append(resp.Intervals, d.interval())
	}
	if more {
		last := found[len(found)-1]
		resp.NextPageToken = markToken(question, last.from, last.event)
	}
	return resp, nil
}

func (d *decided) interval() *meteringv1.UsageInterval {
	return &meteringv1.UsageInterval{
		StartTime: millisStamp(d.from), EndTime: millisStamp(d.to), Attention: d.attention, State: d.state, Reason: d.reason, SessionAccess: d.access,
		DocumentId: idText(d.document), EventId: d.event.String(), AgentId: d.agent.String(),
		Epoch: fmt.Sprintf("%016x", uint64(d.epoch)), Seq: uint64(d.seq), Position: uint64(d.message),
	}
}

func (a *usageAPI) ListDocuments(ctx context.Context, req *meteringv1.ListDocumentsRequest) (*meteringv1.ListDocumentsResponse, error) {
	const op = "metering.ListDocuments"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "instance_id", req.GetInstanceId())
	if err != nil {
		return nil, err
	}
	if err := a.service.view(ctx, op, caller, req.GetReason(), look{instance: id}); err != nil {
		return nil, err
	}
	question := questionOf(caller.Account, &meteringv1.ListDocumentsRequest{InstanceId: req.GetInstanceId()})
	after, err := readInstanceMark(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	var found []document
	var more bool
	names := newNameSet()
	var sealed []*usagev1.SealedName
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		if _, err := getInstance(ctx, tx, caller.Account, id); err != nil {
			return err
		}
		var err error
		if found, more, err = listDocuments(ctx, tx, caller.Account, id, after, resource.PageSize(req.GetPageSize(), 100)); err != nil {
			return err
		}
		for i := range found {
			names.want(contract.ID{}, contract.ID{}, contract.ID{}, found[i].id)
		}
		sealed, err = names.read(ctx, tx, caller.Account)
		return err
	})
	if err == nil {
		err = names.open(ctx, a.service.names, caller.Account, sealed)
	}
	if err != nil {
		return nil, errs.Wrap(op, "instance "+id.String(), err)
	}
	resp := &meteringv1.ListDocumentsResponse{}
	for i := range found {
		resp.Documents = append(resp.Documents, found[i].message(names))
	}
	if more {
		last := &found[len(found)-1]
		resp.NextPageToken = markToken(question, last.opened, last.id)
	}
	return resp, nil
}

func (d *document) message(names *nameSet) *meteringv1.Document {
	m := &meteringv1.Document{
		DocumentId: d.id.String(), DocumentName: names.documents[d.id], OpenTime: millisStamp(d.opened), DecidedTime: millisStamp(d.decided),
		Source: d.recognised.source(), Confidence: d.recognised.confidence(), Unsaved: d.unsaved, Totals: d.totals.message(),
	}
	// One that was opened again has been decided beyond its last closing.
	if d.closed != nil && *d.closed >= d.decided {
		m.CloseTime = millisStamp(*d.closed)
	}
	return m
}

const (
	maxPoints   = 20_000
	maxGiveBack = 400 * 24 * time.Hour
)

func (a *usageAPI) QueryConcurrency(ctx context.Context, req *meteringv1.QueryConcurrencyRequest) (*meteringv1.QueryConcurrencyResponse, error) {
	const op = "metering.QueryConcurrency"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	p := sweepPeriod{from: req.GetStartTime().AsTime().UnixMilli(), to: req.GetEndTime().AsTime().UnixMilli(), step: time.Minute.Milliseconds(), giveBackAfter: -1}
	if req.GetStep() != nil {
		p.step = req.GetStep().AsDuration().Milliseconds()
	}
	if req.GetGiveBackAfter() != nil {
		p.giveBackAfter = req.GetGiveBackAfter().AsDuration().Milliseconds()
	}
	var wrong []errs.Field
	switch {
	case p.from >= p.to:
		wrong = append(wrong, errs.Field{Path: "end_time", Description: "is not after start_time"})
	case p.step <= 0:
		wrong = append(wrong, errs.Field{Path: "step", Description: "is not at least a millisecond"})
	case (p.to-p.from-1)/p.step >= maxPoints:
		wrong = append(wrong, errs.Field{Path: "step", Description: fmt.Sprintf("makes more than %d points: ask for a longer step or a shorter period", maxPoints)})
	}
	if req.GetGiveBackAfter() != nil && (p.giveBackAfter < 0 || p.giveBackAfter > maxGiveBack.Milliseconds()) {
		wrong = append(wrong, errs.Field{Path: "give_back_after", Description: fmt.Sprintf("is not within 0s to %s", inSeconds(maxGiveBack))})
	}
	before, wrong := comparedSweep(req, p, wrong)
	f, err := filterOf(ctx, op, req.GetFilter())
	if err != nil {
		return nil, err
	}
	if len(wrong) > 0 {
		return nil, errs.InvalidFields(op, "", wrong...)
	}
	if f.named() { // one person's demand is when they used what
		if err := a.service.view(ctx, op, caller, req.GetReason(), look{principals: f.principals, machines: f.machines}); err != nil {
			return nil, err
		}
	}
	resp := &meteringv1.QueryConcurrencyResponse{Metric: req.GetMetric()}
	if resp.GetMetric() == meteringv1.Metric_METRIC_UNSPECIFIED {
		resp.Metric = meteringv1.Metric_METRIC_USER
	}
	var of *reading
	var points []point
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		people, err := readMerged(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		kept, err := readHorizons(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		resp.DataSinceTime = since(p.from, kept.instances)
		p.from = max(p.from, kept.instances)
		p.to = max(p.to, p.from)
		if err := f.narrow(ctx, tx, caller.Account, people); err != nil {
			return err
		}
		if before != nil {
			before.from = max(before.from, kept.instances)
			before.to = max(before.to, before.from)
			resp.Compare = &meteringv1.ConcurrencyComparison{StartTime: millisStamp(before.from), EndTime: millisStamp(before.to)}
			if before.from < before.to {
				then, err := readDemand(ctx, tx, usedQuery{op: op, account: caller.Account, from: before.from, to: before.to, filter: f, people: people, memory: a.service.memory}, resp.GetMetric())
				if err != nil {
					return err
				}
				c := resp.GetCompare()
				c.Open, c.Busy, c.NotTimedOut = then.demand(curveOpen, neverGivenBack), then.demand(curveBusy, neverGivenBack), then.demand(curveNotTimedOut, neverGivenBack)
				if p.giveBackAfter >= 0 {
					c.GivenBack = then.demand(curveGivenBack, p.giveBackAfter)
				}
			}
		}
		q := usedQuery{op: op, account: caller.Account, from: p.from, to: p.to, filter: f, people: people, memory: a.service.memory}
		if of, err = readDemand(ctx, tx, q, resp.GetMetric()); err != nil {
			return err
		}
		if p.byMinutes() {
			points = of.points(p)
			return nil
		}
		r, err := readReplay(ctx, tx, q, resp.GetMetric())
		points = r.points(p)
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	resp.Open, resp.Busy, resp.NotTimedOut = of.demand(curveOpen, neverGivenBack), of.demand(curveBusy, neverGivenBack), of.demand(curveNotTimedOut, neverGivenBack)
	if p.giveBackAfter >= 0 {
		resp.GivenBack = of.demand(curveGivenBack, p.giveBackAfter)
	}
	for _, q := range points {
		resp.Points = append(resp.Points, &meteringv1.ConcurrencyPoint{
			StartTime: millisStamp(q.at), Open: q.now[curveOpen], Active: q.now[curveBusy], Inactive: q.inactive(), TimedOut: q.timedOut(), GivenBack: q.now[curveGivenBack],
			PeakActive: q.peak[curveBusy], PeakNotTimedOut: q.peak[curveNotTimedOut], PeakGivenBack: q.peak[curveGivenBack],
		})
	}
	return resp, nil
}

func metricOf(m meteringv1.Metric) metric {
	switch m {
	case meteringv1.Metric_METRIC_MACHINE:
		return func(n *used) demandKey { return demandKey{n.machine} }
	case meteringv1.Metric_METRIC_USER_AND_MACHINE:
		return func(n *used) demandKey { return demandKey{n.principal, n.machine} }
	case meteringv1.Metric_METRIC_SESSION:
		return func(n *used) demandKey { return demandKey{n.session} }
	case meteringv1.Metric_METRIC_INSTANCE:
		return func(n *used) demandKey { return demandKey{n.instance} }
	default:
		return func(n *used) demandKey { return demandKey{n.principal} }
	}
}

// demand is what is told of a curve.
func (r *reading) demand(c curve, after int64) *meteringv1.Demand {
	return r.curve(c, after, nil, 0).peak.message()
}

func (p peak) message() *meteringv1.Demand {
	m := &meteringv1.Demand{Peak: p.value, P99: p.p99, P95: p.p95}
	if p.value > 0 {
		m.PeakTime = millisStamp(p.at)
	}
	return m
}

// liveQuestion reads what is asked of the live view, and records that it is looked at.
func (a *usageAPI) liveQuestion(ctx context.Context, req *meteringv1.StreamLiveUsageRequest) (authn.Caller, filter, error) {
	const op = "metering.StreamLiveUsage"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return caller, filter{}, err
	}
	f, err := filterOf(ctx, op, req.GetFilter())
	if err != nil {
		return caller, f, err
	}
	if err := a.service.view(ctx, op, caller, req.GetReason(), look{principals: f.principals, machines: f.machines}); err != nil {
		return caller, f, err
	}
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		people, err := readMerged(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		return f.narrow(ctx, tx, caller.Account, people)
	})
	return caller, f, errs.Wrap(op, "", err)
}

// liveNow is what is open at the moment, whole.
func (a *usageAPI) liveNow(ctx context.Context, req *meteringv1.StreamLiveUsageRequest) (*meteringv1.StreamLiveUsageResponse, error) {
	caller, f, err := a.liveQuestion(ctx, req)
	if err != nil {
		return nil, err
	}
	watcher := a.service.live.watch(ctx, caller.Account)
	defer a.service.live.unwatch(caller.Account, watcher)
	there, _ := a.service.live.fetch(caller.Account, watcher)
	resp := a.liveResponse(ctx, caller.Account, f, there)
	resp.Complete = true
	slices.SortFunc(resp.GetSessions(), func(a, b *meteringv1.LiveSession) int { return strings.Compare(a.GetSessionId(), b.GetSessionId()) })
	return resp, nil
}

func (a *usageAPI) StreamLiveUsage(req *meteringv1.StreamLiveUsageRequest, stream grpc.ServerStreamingServer[meteringv1.StreamLiveUsageResponse]) error {
	ctx := stream.Context()
	caller, f, err := a.liveQuestion(ctx, req)
	if err != nil {
		return err
	}
	watcher := a.service.live.watch(ctx, caller.Account)
	defer a.service.live.unwatch(caller.Account, watcher)
	told := make(map[contract.ID]bool)
	for first := true; ; first = false {
		there, gone := a.service.live.fetch(caller.Account, watcher)
		resp := a.liveResponse(ctx, caller.Account, f, there)
		resp.Complete = first
		shown := make(map[string]bool, len(resp.GetSessions()))
		for _, s := range resp.GetSessions() {
			shown[s.GetSessionId()] = true
		}
		for _, snapshot := range there {
			id, err := contract.IDFrom(snapshot.GetSessionId())
			if err != nil {
				continue
			}
			// A session that no longer has what the filter asks for has ended for
			// this reader.
			if shown[id.String()] {
				told[id] = true
			} else if told[id] {
				gone = append(gone, id)
			}
		}
		for _, id := range gone {
			if told[id] {
				delete(told, id)
				resp.EndedSessionIds = append(resp.EndedSessionIds, id.String())
			}
		}
		if first || len(resp.GetSessions())+len(resp.GetEndedSessionIds()) > 0 {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watcher.wake:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(coalesce):
		}
	}
}

func (a *usageAPI) liveResponse(ctx context.Context, account contract.ID, f filter, snapshots []*usagev1.LiveSnapshot) *meteringv1.StreamLiveUsageResponse {
	resp := &meteringv1.StreamLiveUsageResponse{}
	if len(snapshots) == 0 {
		return resp
	}
	names := newNameSet()
	var sealed []*usagev1.SealedName
	for _, s := range snapshots {
		if session := liveSessionOf(s, f, names); session != nil {
			resp.Sessions = append(resp.Sessions, session)
		}
		sealed = append(sealed, s.GetNames()...)
	}
	err := a.service.inAccount(ctx, account, func(tx pgx.Tx) error {
		stored, err := names.read(ctx, tx, account)
		sealed = append(sealed, stored...)
		return err
	})
	if err == nil {
		err = names.open(ctx, a.service.names, account, sealed)
	}
	if err != nil && ctx.Err() == nil {
		// Who has what open matters more than what they are called.
		a.service.log.Warn("live usage is told without names", "error", err)
	}
	for _, s := range resp.GetSessions() {
		s.PrincipalName = names.principals[idOf(s.GetPrincipalId())]
		if s.GetMachineName() == "" {
			s.MachineName = names.machines[idOf(s.GetMachineId())]
		}
		for _, n := range s.GetInstances() {
			n.ApplicationName = names.applications[idOf(n.GetApplicationId())]
			n.DocumentName = names.documents[idOf(n.GetDocumentId())]
		}
	}
	return resp
}

func idOf(text string) contract.ID {
	id, err := contract.ParseID(text)
	if err != nil {
		return contract.ID{}
	}
	return id
}

// liveSessionOf is what the filter leaves of a snapshot; nil where it leaves
// nothing.
func liveSessionOf(s *usagev1.LiveSnapshot, f filter, names *nameSet) *meteringv1.LiveSession {
	id := func(b []byte) contract.ID {
		id, err := contract.IDFrom(b)
		if err != nil {
			return contract.ID{}
		}
		return id
	}
	passes := func(list []contract.ID, id contract.ID) bool {
		if len(list) == 0 {
			return true
		}
		for _, want := range list {
			if want == id {
				return true
			}
		}
		return false
	}
	principal, machine := principalOf(s), id(s.GetMachineId())
	if !passes(f.principals, principal) || !passes(f.machines, machine) {
		return nil
	}
	session := &meteringv1.LiveSession{
		SessionId: idText(id(s.GetSessionId())), PrincipalId: idText(principal), MachineId: idText(machine),
		MachineName: s.GetMachine().GetHostName(), ObserveTime: millisStamp(s.GetObservedUtcMillis()),
		SessionAccess: s.GetSessionAccess(),
	}
	for _, o := range s.GetOpen() {
		application, document := id(o.GetApplicationId()), id(o.GetDocumentId())
		if !passes(f.applications, application) {
			continue
		}
		names.want(application, contract.ID{}, contract.ID{}, document)
		session.Instances = append(session.Instances, &meteringv1.LiveInstance{
			InstanceId: idText(id(o.GetInstanceId())), ApplicationId: idText(application), DocumentId: idText(document),
			Attention: o.GetAttention(), State: o.GetState(),
			SinceTime: millisStamp(o.GetSinceUtcMillis()), OpenTime: millisStamp(o.GetOpenedUtcMillis()),
		})
	}
	if len(f.applications) > 0 && len(session.GetInstances()) == 0 {
		return nil
	}
	names.want(contract.ID{}, principal, machine, contract.ID{})
	return session
}

func (a *usageAPI) GetDataQuality(ctx context.Context, req *meteringv1.GetDataQualityRequest) (*meteringv1.GetDataQualityResponse, error) {
	const op = "metering.GetDataQuality"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	resp := &meteringv1.GetDataQualityResponse{}
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error { return dataQuality(ctx, tx, caller.Account, resp) })
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) (err error) {
		resp.Conditions, err = countConditions(ctx, tx, caller.Account, time.Now())
		return err
	})
	// After an upgrade it is told how far the tables are that answer, though a former release's
	// hold less of agents.
	if err != nil && !errs.Is(errs.Unavailable, err) {
		return nil, errs.Wrap(op, "", err)
	}
	resp.Quarantined = append(resp.Quarantined, toldReason(a.service.aside.of(&caller.Account))...)
	together := a.service.live.together(caller.Account)
	for _, agent := range resp.GetAgents() {
		agent.ConcurrentAgentIds = together[agent.GetAgentId()]
	}
	if req.GetGradesOnly() {
		resp.Agents = nil
	}
	if asksPeriod(req) {
		if resp.Period, err = a.periodQuality(ctx, req, resp.GetLag(), together); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// toldReason adds up what was told beside the log and set aside; none where there is none.
func toldReason(list []Quarantined) []*meteringv1.QuarantineReason {
	if len(list) == 0 {
		return nil
	}
	sum := &meteringv1.QuarantineReason{Reason: reasonTold, LastTime: timestamppb.New(list[0].Last)}
	for _, q := range list {
		sum.Count += q.Count
	}
	return []*meteringv1.QuarantineReason{sum}
}

func dataQuality(ctx context.Context, tx pgx.Tx, account contract.ID, resp *meteringv1.GetDataQualityResponse) error {
	var err error
	if resp.Position, err = countedPosition(ctx, tx, account); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, "SELECT coalesce(sum(waiting), 0)::int8 FROM projection_checkpoint WHERE projection = 'usage' AND partitions = $1", partitionName(account)).Scan(&resp.Lag); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT a.agent_id, a.machine_id, coalesce(m.host_name, ''), coalesce(m.agent_version, ''), a.received_ms, a.skew_ms, a.records, a.events,
		       coalesce(e.kept, 0)::int8, coalesce(e.missing, 0)::int8
		FROM agent AS a
		LEFT JOIN machine AS m ON m.account_id = a.account_id AND m.machine_id = a.machine_id
		LEFT JOIN (
			SELECT agent_id, sum(kept) AS kept, sum(upper(received) - 1 - kept) AS missing
			FROM agent_epoch CROSS JOIN LATERAL (SELECT coalesce(sum(upper(r) - lower(r)), 0) AS kept FROM unnest(received) AS r) AS n
			WHERE account_id = $1::uuid GROUP BY agent_id
		) AS e ON e.agent_id = a.agent_id
		WHERE a.account_id = $1::uuid ORDER BY a.agent_id`, account)
	if err != nil {
		return err
	}
	var agent, machine contract.ID
	var host, version string
	var received, skew, records, events, kept, missing int64
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&agent), (*[16]byte)(&machine), &host, &version, &received, &skew, &records, &events, &kept, &missing}, func() error {
		resp.EventsCounted += events
		resp.DuplicatesDropped += max(0, records-kept)
		resp.Agents = append(resp.Agents, &meteringv1.AgentQuality{
			AgentId: agent.String(), MachineId: machine.String(), MachineName: host, AgentVersion: version,
			LastReceivedTime: millisStamp(received), Skew: millisSpan(skew), Missing: missing,
		})
		return nil
	})
	if err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `SELECT reason, sum(size * count)::int8, max(last_stored) FROM agent_quarantine WHERE account_id = $1::uuid GROUP BY reason ORDER BY reason`, account)
	if err != nil {
		return err
	}
	var reason string
	var count int64
	var last time.Time
	_, err = pgx.ForEachRow(rows, []any{&reason, &count, &last}, func() error {
		resp.Quarantined = append(resp.Quarantined, &meteringv1.QuarantineReason{Reason: reason, Count: count, LastTime: timestamppb.New(last)})
		return nil
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return nil
}
