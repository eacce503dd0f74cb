package metering

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"
)

// channel is how what is not stored comes from Managers: on subjects of the form
// <channel>.<p>.<account>.<manager>.
type channel struct {
	// subjects is what to listen to; what says what comes there, for the log.
	subjects, what string
	room           int
}

// listen hands over each message of a channel, and calls tick so often, until ctx
// ends. listening is called once the server knows of it, and again after each loss
// of the connection: what was published meanwhile is gone. What take refuses, or cannot
// be read, is set aside.
func listen[M any, P interface {
	*M
	proto.Message
}](ctx context.Context, nc *nats.Conn, aside *aside, c channel, listening func(), take func(origin, P, time.Time) error, every time.Duration, tick func(time.Time)) error {
	messages := make(chan *nats.Msg, c.room)
	subscription, err := nc.ChanSubscribe(c.subjects, messages)
	if err != nil {
		return fmt.Errorf("listen to %s: %w", c.subjects, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	listening()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-connected:
			listening()
		case m := <-messages:
			now := time.Now()
			from, message, err := readPlain[M, P](m.Subject, m.Data)
			if err == nil {
				err = take(from, message, now)
			}
			if err != nil {
				aside.set(from, c.what, err, now)
			}
		case now := <-ticker.C:
			tick(now)
		}
	}
}

// readPlain reads one message, and who tells it.
func readPlain[M any, P interface {
	*M
	proto.Message
}](subject string, data []byte) (from origin, message P, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 {
		return from, nil, fmt.Errorf("metering: subject %q has not the form <channel>.<p>.<account>.<manager>", subject)
	}
	account, err := contract.ParseID(tokens[2])
	if err != nil {
		return from, nil, fmt.Errorf("metering: subject %q: account: %w", subject, err)
	}
	manager, err := contract.ParseID(tokens[3])
	if err != nil {
		return from, nil, fmt.Errorf("metering: subject %q: manager: %w", subject, err)
	}
	from = origin{account, manager}
	message = P(new(M))
	if err := proto.Unmarshal(data, message); err != nil {
		return from, nil, err
	}
	return from, message, nil
}
