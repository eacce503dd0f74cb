package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// Head is a place in an account's chain: what to write down, and to compare with later.
type Head struct {
	Position int64
	// Link is in hexadecimal.
	Link string
}

// Verified is what a comparison found.
type Verified struct {
	Entries int
	Head    Head
	// Difference names the first entry that differs, and how; empty: none does.
	Difference string
}

// Verify compares an account's entries with the log, up to where the tables are. known, where it
// is not zero, is a head that was written down before: the chain of the log must hold it.
func Verify(ctx context.Context, js jetstream.JetStream, store *postgres.Store, account contract.ID, known Head) (v Verified, err error) {
	// All as of one moment: what the projection appends meanwhile is no entry too many.
	err = pgx.BeginTxFunc(ctx, store.Projector, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		until, err := projection.Position(ctx, tx, projectionName, projection.AllPartitions)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		v, err = verify(ctx, js, tx, until, account, known)
		return err
	})
	return v, err
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func verify(ctx context.Context, js jetstream.JetStream, tables querier, until uint64, account contract.ID, known Head) (Verified, error) {
	v := Verified{}
	rows := &rowReader{tables: tables, account: account}
	types, aggregates := &types{}, map[string]said{}
	var chain link
	foundKnown := known.Link == ""
	err := eachEvent(ctx, js, account, until, func(event eventlog.Event) error {
		e, owned, err := entryOf(event)
		if err != nil || !owned {
			return err
		}
		chain = e.after(chain)
		v.Entries++
		v.Head = Head{Position: e.position, Link: fmt.Sprintf("%x", chain)}
		foundKnown = foundKnown || v.Head == Head{known.Position, strings.ToLower(known.Link)}
		so := aggregates[event.Subject]
		if so == nil {
			so = said{}
			if hasState(e.aggregate) {
				aggregates[event.Subject] = so
			}
		}
		var changes *string
		m := types.decode(e.kind, event.Data)
		if m != nil {
			list, err := so.changes(m, e.aggregateID)
			if err != nil {
				return err
			}
			text, err := written(list)
			if err != nil {
				return err
			}
			changes = &text
		}
		have, ok, err := rows.next(ctx)
		if err != nil {
			return err
		}
		v.Difference = differs(row{e, chain, changes, reasonOf(m)}, have, ok)
		if v.Difference != "" {
			return errDiffers
		}
		return nil
	})
	if errors.Is(err, errDiffers) {
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("audit: %w", err)
	}
	have, more, err := rows.next(ctx)
	switch {
	case err != nil:
		return v, fmt.Errorf("audit: %w", err)
	case more:
		v.Difference = fmt.Sprintf("the entry at position %d (event %s) is in no log", have.position, have.eventID)
	case !foundKnown && known.Position > int64(until):
		last, err := lastPosition(ctx, js)
		if err != nil {
			return v, err
		}
		if known.Position <= last {
			return v, errs.New(errs.Unavailable, "audit.Verify", "", fmt.Sprintf("the tables are at position %d and not yet at %d, which was written down before: repeat it when they are", until, known.Position))
		}
		v.Difference = fmt.Sprintf("the log ends at position %d, before %d, which was written down before: the log itself is another one", last, known.Position)
	case !foundKnown:
		v.Difference = fmt.Sprintf("the log's own chain does not hold %s at position %d, which was written down before: the log itself is another one", known.Link, known.Position)
	}
	return v, nil
}

var errDiffers = errors.New("an entry differs")

// differs says how a row differs from what it must be.
func differs(want, have row, there bool) string {
	at := fmt.Sprintf("the entry at position %d (event %s)", want.position, want.eventID)
	switch {
	case !there || have.position > want.position:
		return at + " is missing"
	case have.position < want.position:
		return fmt.Sprintf("the entry at position %d (event %s) is in no log", have.position, have.eventID)
	}
	for _, field := range []struct {
		name       string
		want, have any
	}{
		{"event", want.eventID, have.eventID},
		{"type", want.kind, have.kind},
		{"context", want.context, have.context},
		{"aggregate", want.aggregate, have.aggregate},
		{"id of the aggregate", want.aggregateID, have.aggregateID},
		{"time", want.at.UnixMicro(), have.at.UnixMicro()},
		{"actor", want.actor, have.actor},
		{"origin", want.origin, have.origin},
		{"command", want.command, have.command},
		{"digest of the event", want.data, have.data},
		{"link", want.link, have.link},
	} {
		if field.want != field.have {
			return at + " has another " + field.name + " than the log"
		}
	}
	// A type that was not known when the row was written may be known by now.
	if have.changes != nil && (want.changes == nil || *want.changes != *have.changes) {
		return at + " tells other changes than the log"
	}
	if have.changes != nil && want.reason != have.reason {
		return at + " tells another reason than the log"
	}
	return ""
}

// rowReader reads an account's rows in their order, some at a time, as an administrator of the
// database would see them.
type rowReader struct {
	tables  querier
	account contract.ID
	read    []row
	after   int64
	ended   bool
}

func (r *rowReader) next(ctx context.Context) (row, bool, error) {
	const some = 1000
	if len(r.read) == 0 && !r.ended {
		rows, err := r.tables.Query(ctx, "SELECT "+entryColumns+" FROM audit_entry WHERE account_id = $1 AND position > $2 ORDER BY position LIMIT $3", [16]byte(r.account), r.after, some)
		if err != nil {
			return row{}, false, err
		}
		if r.read, err = pgx.CollectRows(rows, scanEntry); err != nil {
			return row{}, false, err
		}
		r.ended = len(r.read) < some
	}
	if len(r.read) == 0 {
		return row{}, false, nil
	}
	first := r.read[0]
	r.read, r.after = r.read[1:], first.position
	return first, true, nil
}

// lastPosition is that of the log.
func lastPosition(ctx context.Context, js jetstream.JetStream) (int64, error) {
	stream, err := js.Stream(ctx, contract.EventStream)
	if err != nil {
		return 0, fmt.Errorf("audit: %w", err)
	}
	return int64(stream.CachedInfo().State.LastSeq), nil
}

// eachEvent hands over an account's events up to a position, in their order.
func eachEvent(ctx context.Context, js jetstream.JetStream, account contract.ID, until uint64, take func(eventlog.Event) error) error {
	own := []string{fmt.Sprintf("ev.%d.%s.>", contract.Partition(account), account)}
	return eventlog.Each(ctx, js, own, eventlog.Position(until), func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		event, err := eventlog.FromMessage(m.Subject(), m.Headers(), m.Data(), eventlog.Position(meta.Sequence.Stream))
		if err != nil {
			return err
		}
		return take(event)
	})
}
