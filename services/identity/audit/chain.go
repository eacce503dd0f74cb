package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// link is one of an account's hash chain; the zero link stands before its first entry.
type link [sha256.Size]byte

// entry is an event as it is recorded for its account.
type entry struct {
	account  contract.ID
	position int64
	eventID  string
	kind     string // its CloudEvents type
	// context, aggregate and aggregateID are the subject's.
	context, aggregate, aggregateID string
	at                              time.Time
	actor                           string
	// origin is sealed.
	origin  string
	command string
	// data is the SHA-256 of the event's bytes.
	data [sha256.Size]byte
}

// entryOf is false for an event that belongs to no account: the zero account holds only who has
// reserved which name of an account.
func entryOf(e eventlog.Event) (entry, bool, error) {
	tokens := strings.Split(e.Subject, ".")
	if len(tokens) != 6 || tokens[0] != "ev" {
		return entry{}, false, fmt.Errorf("audit: %q is no subject of an aggregate", e.Subject)
	}
	account, err := contract.ParseID(tokens[2])
	if err != nil {
		return entry{}, false, fmt.Errorf("audit: %q: %w", e.Subject, err)
	}
	return entry{
		account: account, position: int64(e.Position), eventID: e.ID, kind: e.Type,
		context: tokens[3], aggregate: tokens[4], aggregateID: tokens[5],
		// As exactly as the table keeps it.
		at: e.Time.UTC().Truncate(time.Microsecond), actor: e.Actor, origin: e.Origin, command: e.Command, data: sha256.Sum256(e.Data),
	}, !account.IsZero(), nil
}

// after is the link behind the entry. Each part has its length before it, so that no two
// entries are the same bytes.
func (e entry) after(before link) link {
	h := sha256.New()
	h.Write(before[:])
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(e.position)))
	part(e.account[:])
	for _, text := range []string{e.eventID, e.kind, e.context, e.aggregate, e.aggregateID, e.actor, e.origin, e.command} {
		part([]byte(text))
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(e.at.UnixMicro())))
	part(e.data[:])
	return link(h.Sum(nil))
}
