package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// AdmittedManager is a Manager that may connect, and by which key it is known.
type AdmittedManager struct {
	Account, Manager contract.ID
	PublicKey        string
}

// managerEvents are the subjects of all Managers of all accounts.
const managerEvents = "ev.*.*." + contextName + ".manager.*"

// leaderWithin is how long the stream's leader may take to say how far it is.
const leaderWithin = 5 * time.Second

// FollowManagers tells who may connect, from the log itself, whenever that changes, until ctx
// ends. It is for the server that Managers connect to, which needs no tables for it.
//
// A Manager of which an event cannot be understood is let in no more, since that event may have
// revoked it; unread is told of it, and others go on.
func FollowManagers(ctx context.Context, nc *nats.Conn, tell func([]AdmittedManager) error, unread func(subject string, err error)) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("identity: follow Managers: %w", err)
	}
	// The consumer may be at a server that lags behind, as one that was put in place of another: who
	// was let in by it would be cut off for a while.
	level, err := lastOfManagers(ctx, nc)
	if err != nil {
		return fmt.Errorf("identity: follow Managers: %w", err)
	}
	consumer, err := js.OrderedConsumer(ctx, contract.EventStream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{managerEvents}})
	if err != nil {
		return fmt.Errorf("identity: follow Managers: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("identity: follow Managers: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	registry := newRegistry()
	known := make(map[string]Manager)    // by subject
	enrolled := make(map[string]arrival) // by subject
	shut := make(map[string]bool)        // of which something was not understood, by subject
	var last []AdmittedManager
	told := level == 0
	if told {
		if err := tell(nil); err != nil {
			return err
		}
	}
	for {
		message, err := messages.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("identity: follow Managers: %w", err)
		}
		metadata, err := message.Metadata()
		if err != nil {
			return fmt.Errorf("identity: follow Managers: %w", err)
		}
		subject := message.Subject()
		before := known[subject]
		after, err := before.after(registry, message, metadata.Sequence.Stream)
		if err != nil {
			shut[subject] = true
			unread(subject, err)
		} else {
			known[subject] = after
		}
		if after.PublicKey != before.PublicKey {
			came := metadata.Sequence.Stream
			enrolled[subject] = arrival{first: cmp.Or(enrolled[subject].first, came), key: came}
		}
		if metadata.NumPending > 0 || metadata.Sequence.Stream < level {
			continue // who was revoked is not let in for a moment while the log is read
		}
		list := admitted(known, enrolled, shut)
		if told && slices.Equal(list, last) {
			continue // Managers tell of their sites, too
		}
		if err := tell(list); err != nil {
			return err
		}
		last, told = list, true
	}
}

// lastOfManagers is the position of the last event of a Manager, as the stream's leader knows it; 0 where
// there is none.
func lastOfManagers(ctx context.Context, nc *nats.Conn) (uint64, error) {
	ask, err := json.Marshal(map[string]string{"last_by_subj": managerEvents})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaderWithin)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+contract.EventStream, ask)
	if err != nil {
		return 0, err
	}
	var last struct {
		Message struct {
			Sequence uint64 `json:"seq"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &last); err != nil {
		return 0, err
	}
	if last.Error != nil && last.Error.ErrorCode != jetstream.JSErrCodeMessageNotFound {
		return 0, last.Error
	}
	return last.Message.Sequence, nil
}

// after is the Manager after a message of the log; as it is where that is not understood.
func (m Manager) after(registry *eventlog.Registry, message jetstream.Msg, position uint64) (Manager, error) {
	event, err := eventlog.FromMessage(message.Subject(), message.Headers(), message.Data(), eventlog.Position(position))
	if err != nil {
		return m, err
	}
	decoded, err := registry.Decode(event)
	if err != nil {
		return m, err
	}
	after, err := m.Apply(decoded)
	if err != nil {
		return m, err
	}
	return after, nil
}

// arrival is when, in the log, a Manager enrolled first, and with the key that it has.
type arrival struct{ first, key uint64 }

// admitted are those of the Managers who may connect, in the order in which they enrolled. A key
// is the Manager's that came with it first: keys are no secret, and nobody takes a Manager from
// another account by naming its key. So is an id, revoked or not: a Manager's inbox is named by
// its id alone, and another account's of the same id would hear its answers.
func admitted(known map[string]Manager, enrolled map[string]arrival, shut map[string]bool) (list []AdmittedManager) {
	owner := make(map[contract.ID]string) // by subject
	for _, subject := range slices.SortedFunc(maps.Keys(enrolled), func(a, b string) int { return cmp.Compare(enrolled[a].first, enrolled[b].first) }) {
		if id := known[subject].ID; owner[id] == "" {
			owner[id] = subject
		}
	}
	taken := make(map[string]bool)
	inOrder := func(a, b string) int { return cmp.Compare(enrolled[a].key, enrolled[b].key) }
	for _, subject := range slices.SortedFunc(maps.Keys(known), inOrder) {
		m := known[subject]
		at, err := placeOf(subject)
		if err != nil || m.Revoked || m.PublicKey == "" || taken[m.PublicKey] || owner[m.ID] != subject {
			continue // the filter matches subjects of Managers only
		}
		taken[m.PublicKey] = true
		if shut[subject] {
			continue // its key is nobody else's all the same
		}
		list = append(list, AdmittedManager{Account: at.account, Manager: m.ID, PublicKey: m.PublicKey})
	}
	return list
}
