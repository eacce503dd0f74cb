package identity

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

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

// FollowManagers tells who may connect, from the log itself, whenever that changes, until ctx
// ends. It is for the server that Managers connect to, which needs no tables for it.
func FollowManagers(ctx context.Context, nc *nats.Conn, tell func([]AdmittedManager) error) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("identity: follow Managers: %w", err)
	}
	consumer, err := js.OrderedConsumer(ctx, contract.EventStream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"ev.*.*." + contextName + ".manager.*"},
	})
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
	known := make(map[string]Manager)   // by subject
	enrolled := make(map[string]uint64) // when each came with its key, by subject
	var last []AdmittedManager
	told := false
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
		event, err := eventlog.FromMessage(message.Subject(), message.Headers(), message.Data(), eventlog.Position(metadata.Sequence.Stream))
		if err != nil {
			return err
		}
		decoded, err := registry.Decode(event)
		if err != nil {
			return err
		}
		before := known[message.Subject()]
		after, err := before.Apply(decoded)
		if err != nil {
			return err
		}
		known[message.Subject()] = after
		if after.PublicKey != before.PublicKey {
			enrolled[message.Subject()] = metadata.Sequence.Stream
		}
		if metadata.NumPending > 0 {
			continue // who was revoked is not let in for a moment while the log is read
		}
		list := admitted(known, enrolled)
		if told && slices.Equal(list, last) {
			continue // Managers tell of their sites, too
		}
		if err := tell(list); err != nil {
			return err
		}
		last, told = list, true
	}
}

// admitted are those of the Managers who may connect, in the order in which they enrolled. A key
// is the Manager's that came with it first: keys are no secret, and nobody takes a Manager from
// another account by naming its key.
func admitted(known map[string]Manager, enrolled map[string]uint64) (list []AdmittedManager) {
	taken := make(map[string]bool)
	inOrder := func(a, b string) int { return cmp.Compare(enrolled[a], enrolled[b]) }
	for _, subject := range slices.SortedFunc(maps.Keys(known), inOrder) {
		m := known[subject]
		at, err := placeOf(subject)
		if err != nil || m.Revoked || m.PublicKey == "" || taken[m.PublicKey] {
			continue // the filter matches subjects of Managers only
		}
		taken[m.PublicKey] = true
		list = append(list, AdmittedManager{Account: at.account, Manager: m.ID, PublicKey: m.PublicKey})
	}
	return list
}
