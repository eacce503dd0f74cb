package metering

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// smallestGroup is how many people must be behind a figure, unless an account says otherwise.
	smallestGroup = 5
	// maxAccountMonths bounds how much is read for one answer: a year, and what it is compared with at its ends.
	maxAccountMonths = 14
	monthLayout      = "2006-01"
)

// accountQuestion is what may be asked about everybody by who sees nobody: whole months and applications. Parts of time that
// could overlap, or a choice of people or machines, would let small groups be found by taking one answer from
// another.
type accountQuestion struct {
	first, last  string
	applications []contract.ID
}

// accountAnswer is what may be told of it.
type accountAnswer struct {
	zone, position string
	floor          int32
	cells          []accountCell
	withheld       int64
	since          *timestamppb.Timestamp
	names          *nameSet
}

// accountCell is what everybody did with an application in a month.
type accountCell struct {
	month       string
	application contract.ID
	open, busy  accountFigures
}

type accountFigures struct {
	people     map[contract.ID]bool
	time, peak int64
}

// few tells whether fewer people than the floor are behind figures.
func (f *accountFigures) few(floor int32) bool { return len(f.people) < int(floor) }

func (f *accountFigures) message() *meteringv1.AccountUseFigures {
	return &meteringv1.AccountUseFigures{People: int64(len(f.people)), Time: millisSpan(f.time), Peak: f.peak}
}

// floored leaves what at least so many people are behind, each figure for itself: an application that
// many had open and one was busy in would tell how long that one worked. What is left out is
// counted, and in no sum.
func floored(cells []accountCell, floor int32) (told []accountCell, withheld int64) {
	for _, c := range cells {
		if c.open.few(floor) {
			withheld++
			continue
		}
		if c.busy.few(floor) {
			c.busy = accountFigures{}
		}
		told = append(told, c)
	}
	return told, withheld
}

// accountUse is the one place where who sees nobody's use is answered from everybody's. It lifts the walls for what it reads, and
// lets out only what floored leaves.
func (s *Service) accountUse(ctx context.Context, op string, caller authn.Caller, q accountQuestion) (*accountAnswer, error) {
	answer := &accountAnswer{floor: 1, names: newNameSet()}
	aggregate := caller.Reach == authzv1.Reach_REACH_AGGREGATE
	if aggregate {
		caller.Reach = authzv1.Reach_REACH_ACCOUNT
		ctx = authn.WithCaller(ctx, caller)
	}
	err := s.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		settings, err := readSettings(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		if aggregate {
			answer.floor = settings.SmallestGroup
		}
		zone, err := loadZone(settings.TimeZone)
		if err != nil {
			return err
		}
		months, err := monthsOf(op, q, zone, time.Now())
		if err != nil {
			return err
		}
		position, err := countedPosition(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		answer.zone, answer.position = settings.TimeZone, strconv.FormatUint(position, 10)
		kept, err := readHorizons(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		answer.since = since(months[0].from.millis(), kept.instances)
		people, err := readMerged(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		who, err := readHumans(ctx, tx, caller.Account, people)
		if err != nil {
			return err
		}
		var cells []accountCell
		for _, m := range months {
			if m.from.millis() < kept.instances {
				continue
			}
			q := usedQuery{op: op, account: caller.Account, from: m.from.millis(), to: m.to.millis(), filter: filter{applications: q.applications}, people: people, memory: s.memory}
			of, err := readCellsOf(ctx, tx, q, m, who)
			if err != nil {
				return err
			}
			cells = append(cells, of...)
		}
		answer.cells, answer.withheld = floored(cells, answer.floor)
		for _, c := range answer.cells {
			answer.names.want(c.application, contract.ID{}, contract.ID{}, contract.ID{})
		}
		_, err = answer.names.read(ctx, tx, caller.Account)
		return err
	})
	return answer, errs.Wrap(op, "", err)
}

// month is a calendar month of a zone.
type month struct {
	name     string
	from, to quarter
}

// monthsOf are the months that are asked for.
func monthsOf(op string, q accountQuestion, zone *time.Location, now time.Time) ([]month, error) {
	wrong := func(path, what string) error {
		return errs.InvalidFields(op, "", errs.Field{Path: path, Description: what})
	}
	first, err := time.ParseInLocation(monthLayout, q.first, zone)
	if err != nil {
		return nil, wrong("first_month", "is no month such as 2026-03")
	}
	last, err := time.ParseInLocation(monthLayout, q.last, zone)
	if err != nil {
		return nil, wrong("last_month", "is no month such as 2026-03")
	}
	var months []month
	for at := first; !at.After(last); {
		next := time.Date(at.Year(), at.Month()+1, 1, 0, 0, 0, 0, zone)
		if next.After(now) {
			return nil, wrong("last_month", fmt.Sprintf("%s has not ended: ask for months that are over", at.Format(monthLayout)))
		}
		if len(months) == maxAccountMonths {
			return nil, wrong("last_month", fmt.Sprintf("is more than %d months from the first", maxAccountMonths))
		}
		months = append(months, month{at.Format(monthLayout), quarterOf(at.UnixMilli()), quarterOf(next.UnixMilli())})
		at = next
	}
	if len(months) == 0 {
		return nil, wrong("last_month", "is before first_month")
	}
	return months, nil
}

// humans says of persons who they are among those that are counted behind a figure: two principals of one login are one of them,
// though nobody has merged them.
type humans map[contract.ID]contract.ID

// of is who a person is.
func (h humans) of(person contract.ID) contract.ID {
	for {
		same, ok := h[person]
		if !ok {
			return person
		}
		person = same
	}
}

func readHumans(ctx context.Context, tx pgx.Tx, account contract.ID, people merged) (humans, error) {
	rows, err := tx.Query(ctx, "SELECT principal_id, login_id FROM principal WHERE account_id = $1::uuid AND login_id IS NOT NULL", account)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	h, of := make(humans), make(map[contract.ID]contract.ID)
	var principal, login contract.ID
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&principal), (*[16]byte)(&login)}, func() error {
		person := h.of(people.of(principal))
		if first, ok := of[login]; !ok {
			of[login] = person
		} else if first = h.of(first); first != person {
			h[person] = first
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return h, nil
}

// accountDay is what everybody did with an application in a part of a month: who had it open and for how long, then
// who was busy in it.
type accountDay struct {
	people namedDay
	time   [2]int64
	peak   [2]int64
}

// accountDays are those of a part, by application.
type accountDays map[contract.ID]*accountDay

func (days accountDays) bytes() int {
	n := 0
	for _, d := range days {
		n += 150 + 16*cap(d.people.ids)
	}
	return n
}

// accountMaking makes them, by who people are.
func accountMaking(who humans) making[accountDays] {
	type accountKind struct{ who string }
	return making[accountDays]{
		kind: accountKind{string(merged(who).fingerprint())},
		of:   func(from, to int64, all []used) accountDays { return accountDayOf(from, to, all, who) },
		size: accountDays.bytes,
	}
}

// accountDayOf adds up a part by application. All of it is by who people are: the peak is of people too.
func accountDayOf(from, to int64, all []used, who humans) accountDays {
	of := make(map[contract.ID][]used)
	for _, n := range all {
		n.principal = who.of(n.principal)
		of[n.application] = append(of[n.application], n)
	}
	days := make(accountDays, len(of))
	for application, theirs := range of {
		r := newReplay(runsOf(theirs, metricOf(meteringv1.Metric_METRIC_USER)), from, to)
		d := &accountDay{peak: [2]int64{r.curve(curveOpen, neverGivenBack, nil, 0).peak.value, r.curve(curveBusy, neverGivenBack, nil, 0).peak.value}}
		busyIn := make(map[contract.ID]bool)
		for _, n := range theirs {
			for _, u := range n.uses {
				length := min(u.to, to) - max(u.from, from)
				if length <= 0 {
					continue
				}
				busyIn[n.principal] = busyIn[n.principal] || u.busy
				d.time[0] += length
				if u.busy {
					d.time[1] += length
				}
			}
		}
		d.people = namedOf(busyIn)
		days[application] = d
	}
	return days
}

// readCellsOf adds up a month by application.
func readCellsOf(ctx context.Context, tx pgx.Tx, q usedQuery, m month, who humans) ([]accountCell, error) {
	of := make(map[contract.ID]*accountCell)
	err := eachUsed(ctx, tx, q, accountMaking(who), func(days accountDays) {
		for application, d := range days {
			c := of[application]
			if c == nil {
				c = &accountCell{month: m.name, application: application, open: accountFigures{people: make(map[contract.ID]bool)}, busy: accountFigures{people: make(map[contract.ID]bool)}}
				of[application] = c
			}
			for i, f := range []*accountFigures{&c.open, &c.busy} {
				f.time += d.time[i]
				f.peak = max(f.peak, d.peak[i])
			}
			for i, person := range d.people.ids {
				c.open.people[person] = true
				if i < d.people.busy {
					c.busy.people[person] = true
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	var cells []accountCell
	for _, c := range of {
		if len(c.open.people) > 0 {
			cells = append(cells, *c)
		}
	}
	slices.SortFunc(cells, func(a, b accountCell) int { return bytes.Compare(a.application[:], b.application[:]) })
	return cells, nil
}

func (a *reportAPI) QueryAccountUse(ctx context.Context, req *meteringv1.QueryAccountUseRequest) (*meteringv1.QueryAccountUseResponse, error) {
	const op = "metering.QueryAccountUse"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	q := accountQuestion{first: req.GetFirstMonth(), last: req.GetLastMonth()}
	for _, text := range req.GetApplicationIds() {
		id, err := resource.ParseID(op, "application_ids", text)
		if err != nil {
			return nil, err
		}
		q.applications = append(q.applications, id)
	}
	answer, err := a.service.accountUse(ctx, op, caller, q)
	if err != nil {
		return nil, err
	}
	resp := &meteringv1.QueryAccountUseResponse{
		TimeZone: answer.zone, Position: answer.position, SmallestGroup: answer.floor, Withheld: answer.withheld, DataSinceTime: answer.since,
	}
	for _, c := range answer.cells {
		m := &meteringv1.AccountUse{Month: c.month, ApplicationId: c.application.String(), ApplicationName: answer.names.applications[c.application], Open: c.open.message()}
		if len(c.busy.people) > 0 {
			m.Busy = c.busy.message()
		}
		resp.Uses = append(resp.Uses, m)
	}
	return resp, nil
}
