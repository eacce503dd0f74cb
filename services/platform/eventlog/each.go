package eventlog

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
)

// eachIdle is how long the log may be silent before what it still holds is given up.
const eachIdle = 30 * time.Second

// Each hands over what the log holds on some subjects, in its order, up to a position. It fails where the log does not
// go on though there is more, and with what take returns.
func Each(ctx context.Context, js jetstream.JetStream, subjects []string, until Position, take func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	stream, err := js.Stream(ctx, contract.EventStream)
	if err != nil {
		return err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	info, err := consumer.Info(ctx)
	if err != nil || info.NumPending == 0 {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for left := info.NumPending; left > 0; left-- {
		waiting, cancel := context.WithTimeout(ctx, eachIdle)
		m, err := messages.Next(jetstream.NextContext(waiting))
		cancel()
		if err != nil {
			return fmt.Errorf("the log does not go on: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil || Position(meta.Sequence.Stream) > until {
			return err
		}
		if err := take(m, meta); err != nil {
			return err
		}
	}
	return nil
}
