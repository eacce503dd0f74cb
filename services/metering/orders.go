package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
)

// Order is what an operator asks of a metering service that runs: over NATS, where
// only the operator may ask.
type Order string

// Orders.
const (
	// OrderRebuild builds the tables anew from the streams, beside the present ones.
	OrderRebuild Order = "rebuild"
	// OrderVerify builds them so and compares them with the present ones, which stay.
	OrderVerify Order = "verify"
	// OrderProgress asks how far either is.
	OrderProgress Order = "progress"
	// OrderListQuarantine lists what was set aside: of what agents sent, the latest
	// first, and of decisions that could not be acted on, the oldest first.
	OrderListQuarantine Order = "quarantine.list"
	// OrderReplayQuarantine tries all of both again.
	OrderReplayQuarantine Order = "quarantine.replay"
)

const (
	orderSubject = "ops." + contextName + "."
	// mostListed bounds a list of the quarantine.
	mostListed = 500
)

// Report answers an Order; what does not concern the order is zero.
type Report struct {
	// Problem says why the order was not carried out; empty where it was.
	Problem string `json:"problem,omitempty"`
	// Rebuilding names the schema that is being built; empty where none is.
	Rebuilding string `json:"rebuilding,omitempty"`
	// Serving names the schema that answers.
	Serving string `json:"serving,omitempty"`
	// Done and Total count the messages of the build.
	Done  uint64 `json:"done,omitempty"`
	Total uint64 `json:"total,omitempty"`
	// Ordered is the id of a comparison that was ordered.
	Ordered string `json:"ordered,omitempty"`
	// Verified is what the last comparison found that this process has made; nil while one is
	// under way, or was never ordered.
	Verified *Verified `json:"verified,omitempty"`
	// Tried counts the payloads that were replayed, Counted the events that were new
	// in them, Aside the records, frames and messages that were set aside again.
	Tried   int `json:"tried,omitempty"`
	Counted int `json:"counted,omitempty"`
	Aside   int `json:"aside,omitempty"`
	// Quarantine is at most 500 entries.
	Quarantine []Quarantined `json:"quarantine,omitempty"`
	// Poisoned is at most 500 entries.
	Poisoned []Poisoned `json:"poisoned,omitempty"`
	// Acted counts the decisions that were acted on in a replay; Stayed says of the
	// others why not, and is empty where there are none.
	Acted  int    `json:"acted,omitempty"`
	Stayed string `json:"stayed,omitempty"`
}

// Poisoned is one decision that this service's reactor could not act on.
type Poisoned struct {
	// Event is its id, Type and Subject as the log has them; empty where the bytes
	// are no event.
	Event   string `json:"event,omitempty"`
	Type    string `json:"type,omitempty"`
	Subject string `json:"subject"`
	// Position in the stream EVENTS.
	Position uint64 `json:"position"`
	// Reason is the last error.
	Reason string `json:"reason"`
	// Since is when it was set aside.
	Since time.Time `json:"since"`
}

// Quarantined is one payload that was set aside.
type Quarantined struct {
	// Account is all zero where the subject names none.
	Account string `json:"account"`
	Reason  string `json:"reason"`
	// Detail says what exactly is wrong.
	Detail string `json:"detail"`
	// Agent and Records are empty where the bytes do not say.
	Agent   string `json:"agent,omitempty"`
	Records string `json:"records,omitempty"`
	// Size counts the records, frames or messages in it, Count how often it came.
	Size  int   `json:"size"`
	Count int64 `json:"count"`
	// Position in the stream where it first came, 0 where it came beside the log; Last is
	// when it last came.
	Position int64     `json:"position"`
	Last     time.Time `json:"last"`
}

// Give gives an order to the metering service on the other side of nc, and waits
// for its report.
func Give(ctx context.Context, nc *nats.Conn, order Order) (Report, error) {
	m, err := nc.RequestWithContext(ctx, orderSubject+string(order), nil)
	if errors.Is(err, nats.ErrNoResponders) {
		return Report{}, errors.New("metering: no metering service runs here: start it first (cetrus all, or cetrus metering)")
	}
	if err != nil {
		return Report{}, fmt.Errorf("metering: order %s: %w", order, err)
	}
	var r Report
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return Report{}, fmt.Errorf("metering: the report on %s cannot be read: %w", order, err)
	}
	if r.Problem != "" {
		return r, fmt.Errorf("metering: order %s: %s", order, r.Problem)
	}
	return r, nil
}

// takeOrders carries operators' orders out, one after another, until ctx ends.
func (s *Service) takeOrders(ctx context.Context) error {
	messages := make(chan *nats.Msg, 64)
	subscription, err := s.nats.ChanQueueSubscribe(orderSubject+">", contextName, messages)
	if err != nil {
		return fmt.Errorf("listen to %s: %w", orderSubject, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			order := Order(m.Subject[len(orderSubject):])
			report, err := s.carryOut(ctx, order)
			if err != nil {
				s.log.Warn("an order was not carried out", "order", order, "error", err)
				report.Problem = err.Error()
			}
			body, err := json.Marshal(report)
			if err == nil {
				err = m.Respond(body)
			}
			if err != nil {
				s.log.Warn("a report does not reach who asked", "order", order, "error", err)
			}
		}
	}
}

func (s *Service) carryOut(ctx context.Context, order Order) (Report, error) {
	switch order {
	case OrderRebuild:
		if err := s.canBuild(ctx, 0); err != nil {
			return s.localProgress(), err
		}
		r, err := s.progressReport(ctx)
		if err != nil {
			return r, err
		}
		if r.Rebuilding != "" || !s.orderRebuild() {
			return r, errors.New("a rebuild is under way already")
		}
		return s.localProgress(), nil
	case OrderVerify:
		if err := s.canBuild(ctx, 0); err != nil {
			return s.localProgress(), err
		}
		r, err := s.progressReport(ctx)
		if err != nil {
			return r, err
		}
		id, ok := "", false
		if r.Rebuilding == "" {
			id, ok = s.orderVerify()
		}
		if !ok {
			return r, errors.New("a rebuild or a comparison is under way already")
		}
		r.Ordered, r.Verified = id, nil
		return r, nil
	case OrderProgress:
		return s.progressReport(ctx)
	case OrderListQuarantine:
		list, err := s.quarantine(ctx)
		if err != nil {
			return Report{}, err
		}
		poisoned, err := s.poisoned(ctx)
		return Report{Quarantine: list, Poisoned: poisoned}, err
	case OrderReplayQuarantine:
		done, err := s.replayQuarantine(ctx)
		report := Report{Tried: done.tried, Counted: done.counted, Aside: done.aside}
		if r := s.reactor.Load(); r != nil && err == nil {
			var stayed error
			if report.Acted, stayed = r.Replay(ctx); stayed != nil {
				report.Stayed = stayed.Error()
			}
		}
		return report, err
	}
	return Report{}, fmt.Errorf("%q is no order", order)
}

// progressReport is how far a rebuild is, whichever process is at it.
func (s *Service) progressReport(ctx context.Context) (Report, error) {
	r := s.localProgress()
	if r.Rebuilding != "" {
		return r, nil
	}
	note, under, err := s.serving.Load().shares.Note(ctx, rebuildTask)
	if err != nil || !under {
		return r, err
	}
	if err := json.Unmarshal([]byte(note), &r); err != nil || r.Rebuilding == "" {
		r.Rebuilding = "about to begin"
	}
	return r, nil
}

func (s *Service) localProgress() Report {
	r := Report{Serving: s.serving.Load().store.Schema, Verified: s.verified.Load()}
	if b := s.building.Load(); b != nil {
		p := b.usage.Progress()
		r.Rebuilding, r.Done, r.Total = b.store.Schema, p.Done, max(p.Done, p.Total)
	} else if s.ordered.Load() {
		r.Rebuilding = "about to begin"
	}
	return r
}

// poisoned lists what the reactor has set aside.
func (s *Service) poisoned(ctx context.Context) ([]Poisoned, error) {
	r := s.reactor.Load()
	if r == nil {
		return nil, nil // it does not run yet, and has set nothing aside
	}
	found, err := r.Poisoned(ctx, mostListed)
	if err != nil {
		return nil, fmt.Errorf("metering: listing what was not acted on: %w", err)
	}
	list := make([]Poisoned, len(found))
	for i, p := range found {
		list[i] = Poisoned{
			Event: p.Event.ID, Type: p.Event.Type, Subject: p.Event.Subject, Position: uint64(p.Event.Position), Reason: p.Reason, Since: p.Since,
		}
	}
	return list, nil
}

// quarantine lists what was set aside in all accounts.
func (s *Service) quarantine(ctx context.Context) ([]Quarantined, error) {
	rows, err := s.serving.Load().store.Projector.Query(ctx, `
		SELECT account_id, reason, detail, coalesce(agent_id::text, ''), coalesce(records::text, ''), size, count, position, last_stored
		FROM agent_quarantine ORDER BY last_stored DESC, account_id, quarantine_id LIMIT $1`, mostListed)
	if err != nil {
		return nil, fmt.Errorf("metering: listing the quarantine: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (q Quarantined, err error) {
		var account contract.ID
		err = row.Scan((*[16]byte)(&account), &q.Reason, &q.Detail, &q.Agent, &q.Records, &q.Size, &q.Count, &q.Position, &q.Last)
		q.Account = account.String()
		return q, err
	})
	if err != nil {
		return nil, fmt.Errorf("metering: listing the quarantine: %w", err)
	}
	return append(s.aside.of(nil), list...), nil
}
