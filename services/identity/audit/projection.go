package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// handler turns events into entries. People's decisions are few: a row at a time will do.
type handler struct{ types *types }

// Apply implements projection.Handler.
func (h handler) Apply(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
	for _, m := range batch {
		event, err := eventlog.FromMessage(m.Subject, m.Header, m.Data, eventlog.Position(m.Position))
		if err != nil {
			return err
		}
		e, owned, err := entryOf(event)
		if err != nil {
			return err
		}
		if !owned {
			continue
		}
		if err := h.apply(ctx, tx, e, event.Data); err != nil {
			return fmt.Errorf("audit: event %s at %d: %w", e.eventID, e.position, err)
		}
	}
	return nil
}

func (h handler) apply(ctx context.Context, tx pgx.Tx, e entry, data []byte) error {
	account := [16]byte(e.account)
	var before link
	var raw []byte
	err := tx.QueryRow(ctx, "SELECT link FROM audit_head WHERE account_id = $1", account).Scan(&raw)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	copy(before[:], raw)
	after := e.after(before)
	if _, err := tx.Exec(ctx, "INSERT INTO audit_head (account_id, position, link) VALUES ($1, $2, $3) ON CONFLICT (account_id) DO UPDATE SET position = excluded.position, link = excluded.link",
		account, e.position, after[:]); err != nil {
		return err
	}
	message := h.types.decode(e.kind, data)
	changes, err := h.changes(ctx, tx, e, message)
	if err != nil {
		return err
	}
	key, sealed := reasonOf(message).columns()
	_, err = tx.Exec(ctx, `INSERT INTO audit_entry (account_id, position, event_id, type, context, aggregate, aggregate_id, at, actor, origin, command, data, link, changes, key_id, sealed_reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		account, e.position, e.eventID, e.kind, e.context, e.aggregate, e.aggregateID, e.at, e.actor, e.origin, e.command, e.data[:], after[:], changes, key, sealed)
	return err
}

// changes also takes in what the event says. nil: its type is not known.
func (h handler) changes(ctx context.Context, tx pgx.Tx, e entry, message proto.Message) (*string, error) {
	if message == nil {
		return nil, nil
	}
	if !hasState(e.aggregate) {
		list, err := said{}.changes(message, e.aggregateID)
		if err != nil {
			return nil, err
		}
		text, err := written(list)
		return &text, err
	}
	key := []any{[16]byte(e.account), e.context, e.aggregate, e.aggregateID}
	so := said{}
	var text string
	err := tx.QueryRow(ctx, "SELECT said FROM audit_said WHERE account_id = $1 AND context = $2 AND aggregate = $3 AND aggregate_id = $4", key...).Scan(&text)
	switch {
	case err == nil:
		if err := json.Unmarshal([]byte(text), &so); err != nil {
			return nil, err
		}
	case !errors.Is(err, pgx.ErrNoRows):
		return nil, err
	}
	list, err := so.changes(message, e.aggregateID)
	if err != nil {
		return nil, err
	}
	now, err := json.Marshal(so)
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO audit_said (account_id, context, aggregate, aggregate_id, said) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (account_id, context, aggregate, aggregate_id) DO UPDATE SET said = excluded.said`, append(key, string(now))...); err != nil {
		return nil, err
	}
	written, err := written(list)
	return &written, err
}

// written is how changes lie in the table.
func written(list []change) (string, error) {
	if list == nil {
		list = []change{}
	}
	text, err := json.Marshal(list)
	return string(text), err
}

// scanEntry reads a row of entryColumns.
const entryColumns = "account_id, position, event_id, type, context, aggregate, aggregate_id, at, actor, origin, command, data, link, changes, key_id, sealed_reason"

type row struct {
	entry
	link    link
	changes *string
	reason  reason
}

func scanEntry(r pgx.CollectableRow) (out row, err error) {
	var data, after, sealed []byte
	var key *[16]byte
	err = r.Scan((*[16]byte)(&out.account), &out.position, &out.eventID, &out.kind, &out.context, &out.aggregate, &out.aggregateID,
		&out.at, &out.actor, &out.origin, &out.command, &data, &after, &out.changes, &key, &sealed)
	copy(out.data[:], data)
	copy(out.link[:], after)
	out.at, out.reason = out.at.UTC(), readReason(key, sealed)
	return out, err
}
