package agentlog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// overflowType is the type of a row that only counts: what an account had set aside
// for one reason when its quarantine was full.
const overflowType = "cetrus.quarantine.overflow"

// id of what is set aside: the same bytes set aside for the same reason are the
// same.
func (f *fault) id(subject string) contract.ID {
	h := sha256.New()
	fmt.Fprintf(h, "%q %s ", subject, f.reason)
	h.Write(f.payload)
	return contract.ID(h.Sum(nil)[:16])
}

// room is what an account's quarantine holds.
type room struct{ rows, bytes int64 }

// overflow is what it had no room for.
type overflow struct {
	located
	count int64
}

// quarantine queues the rows of what is set aside; counts holds how often replayed
// payloads had come.
func (d *Decoder) quarantine(ctx context.Context, tx pgx.Tx, b *pgx.Batch, faults []located, counts map[contract.ID]int64) error {
	if len(faults) == 0 {
		return nil
	}
	held, known, err := readQuarantine(ctx, tx, faults)
	if err != nil {
		return err
	}
	type kind struct {
		account contract.ID
		reason  string
	}
	beyond := make(map[kind]*overflow)
	for _, f := range faults {
		id, count := f.id(f.from.Subject), int64(1)
		if had, replayed := counts[id]; replayed {
			count = had
		}
		if !known[id] {
			r := held[f.account]
			r.rows, r.bytes = r.rows+1, r.bytes+int64(len(f.payload))
			if r.rows > int64(d.cfg.MaxQuarantine) || r.bytes > d.cfg.MaxQuarantineBytes {
				k := kind{f.account, f.reason}
				if beyond[k] == nil {
					beyond[k] = &overflow{located: f}
				}
				beyond[k].count += int64(f.size) * count
				continue
			}
			known[id], held[f.account] = true, r
		}
		queueFault(b, f.account, id, f.from, f.fault, count, f.from.Header.Get(contract.HeaderType))
	}
	for _, o := range slices.SortedFunc(maps.Values(beyond), func(a, b *overflow) int {
		return cmp.Or(slices.Compare(a.account[:], b.account[:]), cmp.Compare(a.reason, b.reason))
	}) {
		d.overflowed.Add(ctx, o.count, ofReason(o.reason))
		d.log.Error("the quarantine is full: what agents sent is counted and not kept; see to the cause, then replay what is kept",
			"account", o.account.String(), "reason", o.reason, "count", o.count, "first", o.detail)
		id := overflowID(o.reason)
		queueFault(b, o.account, id, o.from, fault{
			reason: o.reason, size: 1, payload: []byte{},
			detail: fmt.Sprintf("no room was left, with at most %d payloads and %d MiB kept of an account: these are counted, and cannot be replayed", d.cfg.MaxQuarantine, d.cfg.MaxQuarantineBytes>>20),
		}, o.count, overflowType)
	}
	return nil
}

// readQuarantine tells what the quarantines of the accounts hold, and which of the
// faults are there already.
func readQuarantine(ctx context.Context, tx pgx.Tx, faults []located) (held map[contract.ID]room, known map[contract.ID]bool, err error) {
	accounts, ids := make([]contract.ID, len(faults)), make([]contract.ID, len(faults))
	for i, f := range faults {
		accounts[i], ids[i] = f.account, f.id(f.from.Subject)
	}
	held, known = make(map[contract.ID]room), make(map[contract.ID]bool)
	var id contract.ID
	var r room
	rows, err := tx.Query(ctx, roomInQuarantineSQL, accounts, overflowType)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&id, &r.rows, &r.bytes}, func() error { held[id] = r; return nil })
	}
	if err != nil {
		return nil, nil, err
	}
	rows, err = tx.Query(ctx, knownInQuarantineSQL, accounts, ids)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&id}, func() error { known[id] = true; return nil })
	}
	return held, known, err
}

func queueFault(b *pgx.Batch, account, id contract.ID, from *projection.Message, f fault, count int64, kind string) {
	var agent, epoch, records any
	if !f.agent.IsZero() {
		agent, epoch = f.agent, int64(f.epoch)
	}
	if f.seqs != nil {
		records = multirange(f.seqs)
	}
	b.Queue(putQuarantineSQL, account, id, f.reason, text(f.detail), agent, epoch, records, f.size, count,
		text(from.Subject), text(kind), int64(from.Position), from.Stored, from.Stored, f.payload)
}

func overflowID(reason string) contract.ID {
	sum := sha256.Sum256([]byte("beyond what is kept: " + reason))
	return contract.ID(sum[:16])
}
