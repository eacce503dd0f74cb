package metering

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// instance is one run of one application as the tables have it, of the person whom its principal counts for.
type instance struct {
	id, application, principal, machine, session contract.ID
	opened, decided                              int64
	closed                                       *int64
	lost                                         bool
	accesses                                     accesses
	totals                                       Totals
}

// instanceQuery asks for instances that overlap [from, to), in milliseconds of
// UTC, the latest opened first.
type instanceQuery struct {
	from, to int64
	filter   filter
	openOnly bool
	// access, where it is not unspecified, is where the session must have been shown.
	access   usagev1.SessionAccess
	pageSize int
	after    *instanceMark
}

// instanceMark is the place of an instance in the order of the list.
type instanceMark struct {
	opened int64
	id     contract.ID
}

// instancesHorizon is before when there are none for whoever asks, removed or not; keptInstances is
// what instances meet that are there.
const (
	instancesHorizon = "coalesce((SELECT instances_before_ms FROM retention WHERE account_id = $1::uuid), -9223372036854775808)"
	keptInstances    = "last_day >= " + instancesHorizon + " / 86400000"
)

const instanceColumns = "instance_id, application_id, principal_id, machine_id, session_id, opened_ms, closed_ms, decided_ms, lost, session_accesses, " + totalsColumns

func (n *instance) targets() []any {
	targets := []any{
		(*[16]byte)(&n.id), (*[16]byte)(&n.application), (*[16]byte)(&n.principal), (*[16]byte)(&n.machine), (*[16]byte)(&n.session),
		&n.opened, &n.closed, &n.decided, &n.lost, (*int16)(&n.accesses),
	}
	return append(targets, totalsTargets(&n.totals)...)
}

// fewInstances are so many principals that all their instances of a period are found sooner by their key and put into order
// than the instances of everybody are looked through in theirs.
const fewInstances = 16

func listInstances(ctx context.Context, tx pgx.Tx, account contract.ID, q instanceQuery) (found []instance, more bool, err error) {
	people, err := readMerged(ctx, tx, account)
	if err != nil {
		return nil, false, err
	}
	if err := q.filter.narrow(ctx, tx, account, people); err != nil {
		return nil, false, err
	}
	principals := raw(q.filter.principals)
	if len(q.filter.machines) > 0 {
		who, err := readAudience(ctx, tx, account, &summary{filter: q.filter})
		if err != nil || len(who.principals) == 0 {
			return nil, false, err
		}
		if len(who.principals) <= fewInstances {
			principals = who.principals
		}
	}
	few := len(principals) > 0 && len(principals) <= fewInstances
	// First those that were opened in the period or on the day on which it begins, then those that were open already:
	// they lasted over a midnight, and there are few.
	begin := dayOf(q.from) * dayMillis
	for _, stretch := range []struct {
		where, order string
	}{
		{"opened_ms >= $5", "opened_ms"},
		{"opened_ms < $5 AND last_day <> opened_ms / 86400000", "opened_ms + 0"},
	} {
		args := []any{account, q.from, q.to, dayOf(q.from), begin}
		sql := "SELECT " + instanceColumns + " FROM instance WHERE account_id = $1::uuid AND opened_ms < $3 AND decided_ms >= $2 AND last_day >= $4 AND " + keptInstances + " AND " + stretch.where
		in := func(column string, ids [][16]byte) {
			if len(ids) > 0 {
				args = append(args, ids)
				sql += fmt.Sprintf(" AND %s = ANY ($%d::uuid[])", column, len(args))
			}
		}
		in("application_id", raw(q.filter.applications))
		in("principal_id", principals)
		in("machine_id", raw(q.filter.machines))
		if q.openOnly {
			sql += " AND closed_ms IS NULL"
		}
		// It has no index, which every write would have to touch: a month of a million instances
		// of which none fits is read in half a second.
		if wanted := accesses(0).with(q.access); wanted != 0 {
			args = append(args, int16(wanted))
			sql += fmt.Sprintf(" AND session_accesses & $%d::int2 <> 0", len(args))
		}
		if q.after != nil {
			args = append(args, q.after.opened, q.after.id)
			sql += fmt.Sprintf(" AND (opened_ms, instance_id) < ($%d, $%d::uuid)", len(args)-1, len(args))
		}
		// An order that no index has keeps the planner at the key of what is asked for.
		if few {
			stretch.order = "opened_ms + 0"
		}
		args = append(args, q.pageSize+1-len(found))
		sql += fmt.Sprintf(" ORDER BY %s DESC, instance_id DESC LIMIT $%d", stretch.order, len(args))
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return nil, false, fmt.Errorf("metering: %w", err)
		}
		some, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n instance, err error) {
			err = row.Scan(n.targets()...)
			n.principal = people.of(n.principal)
			return n, err
		})
		if err != nil {
			return nil, false, fmt.Errorf("metering: %w", err)
		}
		if found = append(found, some...); len(found) > q.pageSize {
			return found[:q.pageSize], true, nil
		}
	}
	return found, false, nil
}

// getInstance finds one instance; a NotFound error where there is none.
func getInstance(ctx context.Context, tx pgx.Tx, account, id contract.ID) (instance, error) {
	var n instance
	err := tx.QueryRow(ctx, "SELECT "+instanceColumns+" FROM instance WHERE account_id = $1::uuid AND instance_id = $2::uuid AND "+keptInstances, account, id).Scan(n.targets()...)
	if errors.Is(err, pgx.ErrNoRows) {
		return n, errs.New(errs.NotFound, "metering.GetInstance", "instance "+id.String(), "there is no such instance, nothing of it has been counted yet, or it is older than the account keeps them")
	}
	if err != nil {
		return n, fmt.Errorf("metering: %w", err)
	}
	people, err := readMerged(ctx, tx, account)
	n.principal = people.of(n.principal)
	return n, err
}

// document is a document inside an instance as the tables have it.
type document struct {
	id              contract.ID
	opened, decided int64
	closed          *int64
	recognised      recognised
	unsaved         bool
	totals          Totals
}

// listDocuments lists the documents of an instance by when they first opened.
func listDocuments(ctx context.Context, tx pgx.Tx, account, instance contract.ID, after *instanceMark, pageSize int) (found []document, more bool, err error) {
	args := []any{account, instance, pageSize + 1}
	sql := "SELECT document_id, opened_ms, closed_ms, decided_ms, recognised, unsaved, " + totalsColumns + " FROM document WHERE account_id = $1::uuid AND instance_id = $2::uuid"
	if after != nil {
		args = append(args, after.opened, after.id)
		sql += " AND (opened_ms, document_id) > ($4, $5::uuid)"
	}
	rows, err := tx.Query(ctx, sql+" ORDER BY opened_ms, document_id LIMIT $3", args...)
	if err != nil {
		return nil, false, fmt.Errorf("metering: %w", err)
	}
	found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (document, error) {
		var d document
		targets := []any{(*[16]byte)(&d.id), &d.opened, &d.closed, &d.decided, &d.recognised, &d.unsaved}
		return d, row.Scan(append(targets, totalsTargets(&d.totals)...)...)
	})
	if err != nil {
		return nil, false, fmt.Errorf("metering: %w", err)
	}
	if len(found) > pageSize {
		return found[:pageSize], true, nil
	}
	return found, false, nil
}

// recognisedDocument is how a document was recognised where it was most surely.
type recognisedDocument struct {
	recognised recognised
	unsaved    bool
}

// readRecognised reads how documents were recognised.
func readRecognised(ctx context.Context, tx pgx.Tx, account contract.ID, documents map[contract.ID]string) (map[contract.ID]recognisedDocument, error) {
	all := make(map[contract.ID]recognisedDocument, len(documents))
	if len(documents) == 0 {
		return all, nil
	}
	rows, err := tx.Query(ctx, "SELECT document_id, recognised, unsaved FROM recognised_document WHERE account_id = $1::uuid AND document_id = ANY ($2::uuid[])",
		account, ids(documents))
	if err != nil {
		return nil, fmt.Errorf("metering: how documents were recognised: %w", err)
	}
	var id contract.ID
	var d recognisedDocument
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&id), &d.recognised, &d.unsaved}, func() error { all[id] = d; return nil })
	if err != nil {
		return nil, fmt.Errorf("metering: how documents were recognised: %w", err)
	}
	return all, nil
}

// decided is one interval with the event that made it.
type decided struct {
	from, to            int64
	attention           usagev1.Attention
	state               usagev1.State
	reason              usagev1.Reason
	access              usagev1.SessionAccess
	document            contract.ID
	event, agent        contract.ID
	epoch, seq, message int64
}

// decidedMark is the place of an interval in the order of the list.
type decidedMark struct {
	from  int64
	event contract.ID
}

// listDecided lists the intervals of an instance, or of one of its documents where
// document is not zero, in the order of time.
func listDecided(ctx context.Context, tx pgx.Tx, account, instance, document contract.ID, after *decidedMark, pageSize int) (found []decided, more bool, err error) {
	args := []any{account, instance, pageSize + 1}
	sql := `SELECT from_ms, to_ms, attention, state, reason, session_access, coalesce(document_id, '00000000-0000-0000-0000-000000000000'), event_id, agent_id, epoch, seq, position
		FROM interval WHERE account_id = $1::uuid AND instance_id = $2::uuid AND to_ms > ` + instancesHorizon
	if document.IsZero() {
		sql += " AND document_id IS NULL"
	} else {
		args = append(args, document)
		sql += fmt.Sprintf(" AND document_id = $%d::uuid", len(args))
	}
	if after != nil {
		args = append(args, after.from, after.event)
		sql += fmt.Sprintf(" AND (from_ms, event_id) > ($%d, $%d::uuid)", len(args)-1, len(args))
	}
	rows, err := tx.Query(ctx, sql+" ORDER BY from_ms, event_id LIMIT $3", args...)
	if err != nil {
		return nil, false, fmt.Errorf("metering: %w", err)
	}
	found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (decided, error) {
		var d decided
		var attention, state, reason, access int16
		err := row.Scan(&d.from, &d.to, &attention, &state, &reason, &access, (*[16]byte)(&d.document), (*[16]byte)(&d.event), (*[16]byte)(&d.agent), &d.epoch, &d.seq, &d.message)
		d.attention, d.state, d.reason = usagev1.Attention(attention), usagev1.State(state), usagev1.Reason(reason)
		d.access = usagev1.SessionAccess(access)
		return d, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("metering: %w", err)
	}
	if len(found) > pageSize {
		return found[:pageSize], true, nil
	}
	return found, false, nil
}

// markToken is a page token of a list: a place in its order, bound to the question.
func markToken(question string, at int64, id contract.ID) string {
	digest := sha256.Sum256([]byte(question))
	b := append([]byte(nil), digest[:8]...)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	return base64.RawURLEncoding.EncodeToString(append(b, id[:]...))
}

// badToken refuses what no answer has given.
func badToken(op string) error {
	return errs.InvalidFields(op, "", errs.Field{Path: "page_token", Description: "is no page token: send next_page_token of the answer before as it is, or none for the first page"})
}

// foreignToken refuses the token of another question's answer.
func foreignToken(op string) error {
	return errs.InvalidFields(op, "", errs.Field{
		Path: "page_token", Description: "belongs to another question: take it from the answer before, and change nothing else but the page size",
	})
}

// readInstanceMark reads where a page of instances begins; nil: with the first.
func readInstanceMark(op, question, token string) (*instanceMark, error) {
	if token == "" {
		return nil, nil //nolint:nilnil // no token is no mark, and no error
	}
	at, id, err := readMarkToken(op, question, token)
	if err != nil {
		return nil, err
	}
	return &instanceMark{at, id}, nil
}

func readMarkToken(op, question, token string) (at int64, id contract.ID, err error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 8+8+16 {
		return 0, id, badToken(op)
	}
	if digest := sha256.Sum256([]byte(question)); [8]byte(b) != [8]byte(digest[:8]) {
		return 0, id, foreignToken(op)
	}
	copy(id[:], b[16:])
	return int64(binary.BigEndian.Uint64(b[8:])), id, nil
}

// textMark is a place in the order of a list that goes by a text, and then by an id.
type textMark struct {
	text string
	id   contract.ID
}

// textToken is a page token of such a list.
func textToken(question string, mark textMark) string {
	digest := sha256.Sum256([]byte(question))
	return base64.RawURLEncoding.EncodeToString(slices.Concat(digest[:8], mark.id[:], []byte(mark.text)))
}

// nameToken is the token of a list by name, behind what has this name and id. The order is
// that of left(lower(name), 64), in the database's own letters.
func nameToken(ctx context.Context, tx pgx.Tx, question, name, id string) (string, error) {
	var mark textMark
	if err := tx.QueryRow(ctx, "SELECT left(lower($1::text), 64)", name).Scan(&mark.text); err != nil {
		return "", err
	}
	var err error
	if mark.id, err = contract.ParseID(id); err != nil {
		return "", err
	}
	return textToken(question, mark), nil
}

// readTextToken reads the place behind which a page begins; none for the first page.
func readTextToken(op, question, token string) (mark textMark, err error) {
	if token == "" {
		return mark, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < 8+16 || !utf8.Valid(b[8+16:]) || bytes.IndexByte(b[8+16:], 0) >= 0 {
		return mark, badToken(op)
	}
	if digest := sha256.Sum256([]byte(question)); [8]byte(b) != [8]byte(digest[:8]) {
		return mark, foreignToken(op)
	}
	return textMark{text: string(b[8+16:]), id: contract.ID(b[8 : 8+16])}, nil
}
