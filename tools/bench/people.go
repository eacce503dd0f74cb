package bench

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// The company that summarize asks about.
const (
	companyApplications = 50
	companyDays         = 90
)

// companyID names the n-th of a kind: the same in every run.
func companyID(kind byte, n int) contract.ID {
	rnd := rand.New(rand.NewPCG(uint64(kind), uint64(n)))
	var id contract.ID
	binary.BigEndian.PutUint64(id[:8], rnd.Uint64())
	binary.BigEndian.PutUint64(id[8:], rnd.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// employee is one person's machine: its journal of all working days, an interval
// every few minutes in some of the applications.
type employee struct {
	number int
	begin  time.Time
	rand   *rand.Rand

	day    int
	agent  contract.ID
	boot   contract.ID
	anchor *usagev1.Anchor
	seq    uint64
	chain  contract.Hash
}

func newEmployee(number int, begin time.Time) *employee {
	e := &employee{number: number, begin: begin, rand: rand.New(rand.NewPCG(7, uint64(number))), agent: companyID('g', number), boot: companyID('b', number)}
	e.anchor = &usagev1.Anchor{BootId: e.boot[:], UtcMillis: begin.UnixMilli()}
	e.anchor.AnchorId = contract.AnchorID(e.anchor)
	return e
}

// next is the journal of the next working day; nil after the last.
func (e *employee) next() (*received, error) {
	for ; e.day < companyDays; e.day++ {
		if weekday := e.begin.AddDate(0, 0, e.day).Weekday(); weekday != time.Saturday && weekday != time.Sunday {
			break
		}
	}
	if e.day == companyDays {
		return nil, nil
	}
	// Milliseconds from begin, at which the machine booted.
	at := (time.Duration(e.day)*24*time.Hour + time.Duration(7*60+e.rand.IntN(180))*time.Minute).Milliseconds()
	end := at + (7*time.Hour + time.Duration(e.rand.IntN(180))*time.Minute).Milliseconds()
	e.day++
	machine, session, alias := companyID('m', e.number), companyID('s', e.number), companyID('l', e.number)
	frame := &usagev1.Frame{
		AgentId: e.agent[:], Epoch: 1, Lane: usagev1.Lane_LANE_USAGE, FirstSeq: e.seq + 1, ChainBefore: slices.Clone(e.chain[:]),
		Anchors: []*usagev1.Anchor{e.anchor}, MachineId: machine[:],
	}
	add := func(application, instance contract.ID, transition usagev1.Transition, at int64, closed *usagev1.Interval) error {
		e.seq++
		id := contract.ID{}
		binary.BigEndian.PutUint64(id[:8], e.rand.Uint64())
		binary.BigEndian.PutUint64(id[8:], e.rand.Uint64())
		event := &usagev1.UsageEvent{
			SchemaVersion: 1, AgentId: e.agent[:], Epoch: 1, Seq: e.seq, EventId: id[:], SourceKind: usagev1.SourceKind_SOURCE_KIND_AGENT,
			BootId: e.boot[:], AnchorId: e.anchor.GetAnchorId(), RuleId: application[:], ApplicationId: application[:], PolicyRevision: 1,
			PrincipalAlias: alias[:], SessionId: session[:], InstanceId: instance[:], Transition: transition, AtBootMillis: at, Closed: closed,
		}
		if transition != usagev1.Transition_TRANSITION_CLOSED {
			event.Attention, event.State = usagev1.Attention_ATTENTION_BACKGROUND, usagev1.State_STATE_INACTIVE
		}
		record, err := proto.Marshal(&usagev1.Record{Fact: &usagev1.Record_Usage{Usage: event}})
		e.chain = contract.Chain(e.chain, record)
		frame.Records = append(frame.Records, record)
		return err
	}
	type open struct {
		application, instance contract.ID
		from                  int64
	}
	opened := make([]open, 2+e.rand.IntN(6))
	for i := range opened {
		opened[i] = open{companyID('a', (e.number*7+e.rand.IntN(12))%companyApplications), companyID('i', e.number*100_000+e.day*100+i), at}
		if err := add(opened[i].application, opened[i].instance, usagev1.Transition_TRANSITION_OPENED, at, nil); err != nil {
			return nil, err
		}
	}
	attentions := []usagev1.Attention{
		usagev1.Attention_ATTENTION_BUSY, usagev1.Attention_ATTENTION_IDLE, usagev1.Attention_ATTENTION_BACKGROUND, usagev1.Attention_ATTENTION_AWAY,
	}
	for last := false; !last; {
		at += 1 + e.rand.Int64N((15 * time.Minute).Milliseconds())
		last = at >= end
		for i := range opened {
			o := &opened[i]
			if !last && e.rand.IntN(len(opened)) != 0 {
				continue
			}
			closed := &usagev1.Interval{Attention: attentions[e.rand.IntN(len(attentions))], State: usagev1.State_STATE_INACTIVE, FromBootMillis: o.from, ToBootMillis: at}
			if closed.GetAttention() == usagev1.Attention_ATTENTION_BUSY {
				closed.State = usagev1.State_STATE_ACTIVE
			}
			transition := usagev1.Transition_TRANSITION_CHANGED
			if last {
				transition = usagev1.Transition_TRANSITION_CLOSED
			}
			if err := add(o.application, o.instance, transition, at, closed); err != nil {
				return nil, err
			}
			o.from = at
		}
	}
	frame.ChainAfter = slices.Clone(e.chain[:])
	return &received{frame: frame, alias: alias, principal: companyID('p', e.number), utcMillis: e.begin.UnixMilli() + at}, nil
}
