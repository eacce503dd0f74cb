package audit

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// filter narrows what is listed.
type filter struct {
	actor, typePrefix, aggregateID string
	from, to                       time.Time // zero: open
}

// key tells one filter from another, for page tokens.
func (f filter) key() string {
	return fmt.Sprintf("%q %q %q %d %d", f.actor, f.typePrefix, f.aggregateID, f.from.UnixNano(), f.to.UnixNano())
}

// condition adds to arguments what it needs.
func (f filter) condition(args *[]any) string {
	conditions := []string{"account_id = $1::uuid"}
	add := func(condition string, value any) {
		*args = append(*args, value)
		conditions = append(conditions, fmt.Sprintf(condition, len(*args)))
	}
	if f.actor != "" {
		add("actor = $%d", f.actor)
	}
	if f.typePrefix != "" {
		add("starts_with(type, $%d)", f.typePrefix)
	}
	if f.aggregateID != "" {
		add("aggregate_id = $%d", f.aggregateID)
	}
	if !f.from.IsZero() {
		add("at >= $%d", f.from)
	}
	if !f.to.IsZero() {
		add("at < $%d", f.to)
	}
	return strings.Join(conditions, " AND ")
}

// entries reads an account's entries before a position, the newest first, or with oldest those
// behind it.
func (s *Service) entries(ctx context.Context, op string, account contract.ID, f filter, at int64, oldest bool, most int) ([]*identityv1.AuditEntry, error) {
	args := []any{account, at, most}
	where := f.condition(&args)
	order := "position < $2 ORDER BY position DESC"
	if oldest {
		order = "position > $2 ORDER BY position"
	}
	var rows []row
	err := s.store.InAccount(ctx, account, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, "SELECT "+entryColumns+" FROM audit_entry WHERE "+where+" AND "+order+" LIMIT $3", args...)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(found, scanEntry)
		return err
	})
	if postgres.IsTransient(err) {
		return nil, errs.As(errs.Unavailable, op, "", "the audit log cannot be read now; repeat it in a while", err)
	}
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	headers, sealed := make([]string, len(rows)), make([]keyring.Text, len(rows))
	for i, r := range rows {
		headers[i], sealed[i] = r.origin, keyring.Text{Principal: r.reason.key, What: keyring.WhatReason, Sealed: []byte(r.reason.sealed)}
	}
	origins, err := s.keys.OpenOrigins(ctx, account, headers)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	reasons, err := s.keys.OpenTexts(ctx, account, sealed)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	changes := make([][]change, len(rows))
	for i, r := range rows {
		if r.changes == nil {
			continue
		}
		if err := json.Unmarshal([]byte(*r.changes), &changes[i]); err != nil {
			return nil, errs.Wrap(op, "entry "+strconv.FormatInt(r.position, 10), err)
		}
	}
	if err := s.openWords(ctx, account, rows, changes); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	list := make([]*identityv1.AuditEntry, len(rows))
	for i, r := range rows {
		m := &identityv1.AuditEntry{
			Position: r.position, EventId: r.eventID, EventTime: timestamppb.New(r.at), Actor: r.actor, Type: r.kind, Aggregate: r.aggregate, AggregateId: r.aggregateID,
			UserAgent: origins[i].UserAgent, FieldsKnown: r.changes != nil, Link: fmt.Sprintf("%x", r.link), Reason: reasons[i],
		}
		if origins[i].Address.IsValid() {
			m.Address = origins[i].Address.String()
		}
		for _, c := range changes[i] {
			if isOfReason(c) { // which is told by itself
				continue
			}
			m.Changes = append(m.Changes, &identityv1.FieldChange{Field: c.Field, Before: c.Before, After: c.After})
		}
		list[i] = m
	}
	return list, nil
}

// csvDocument is entries as RFC 4180 has them.
func csvDocument(entries []*identityv1.AuditEntry) (string, error) {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	w.UseCRLF = true
	if err := w.Write([]string{"position", "event_id", "event_time", "actor", "type", "aggregate", "aggregate_id", "address", "user_agent", "changes", "link", "reason"}); err != nil {
		return "", err
	}
	for _, e := range entries {
		var changes []string
		for _, c := range e.GetChanges() {
			text := c.GetField() + ": "
			if c.GetBefore() != "" {
				text += c.GetBefore() + " → "
			}
			changes = append(changes, text+c.GetAfter())
		}
		record := []string{
			strconv.FormatInt(e.GetPosition(), 10), e.GetEventId(), e.GetEventTime().AsTime().Format(time.RFC3339Nano), e.GetActor(), e.GetType(), e.GetAggregate(),
			e.GetAggregateId(), e.GetAddress(), e.GetUserAgent(), strings.Join(changes, "\n"), e.GetLink(), e.GetReason(),
		}
		for i := range record {
			record[i] = plainCell(record[i])
		}
		if err := w.Write(record); err != nil {
			return "", err
		}
	}
	w.Flush()
	return out.String(), w.Error()
}

// plainCell keeps a spreadsheet from running what a stranger wrote into a user agent.
func plainCell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

// jsonDocument is entries as an array.
func jsonDocument(entries []*identityv1.AuditEntry) (string, error) {
	list := make([]json.RawMessage, len(entries))
	for i, e := range entries {
		raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(e)
		if err != nil {
			return "", err
		}
		list[i] = raw
	}
	text, err := json.MarshalIndent(list, "", "  ")
	return string(text) + "\n", err
}
