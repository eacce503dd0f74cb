package latest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// What the stream does not answer with yet is asked for again after this long.
	firstRetry = 20 * time.Millisecond
	lastRetry  = 5 * time.Second
	// readPatience is how long an answer may take.
	readPatience = 5 * time.Second
	// rereadEvery is how often the stream is read though nothing was heard.
	rereadEvery = 30 * time.Second
)

// ErrNone says that the stream holds no message of the subject.
var ErrNone = errors.New("the stream has none")

// Follow has the last message of a subject read on each connection, when it hears that one is
// published, and once in a while, until the context ends. read takes it over and returns it as the
// stream has it. What is heard is a hint only: the stream refuses a message that another one
// overtook, and a subscriber hears that one too.
func Follow(ctx context.Context, nc *nats.Conn, subject string, log *slog.Logger, read func(context.Context) ([]byte, error)) error {
	hints := make(chan *nats.Msg, 64)
	subscription, err := nc.ChanSubscribe(subject, hints)
	if err != nil {
		return fmt.Errorf("listen to %s: %w", subject, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)

	var hint []byte // what the stream should hold soon; nil: nothing is waited for
	pause := firstRetry
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case message := <-hints:
			hint, pause = message.Data, firstRetry
			next.Reset(0)
		case <-connected:
			pause = firstRetry
			next.Reset(0)
		case <-next.C:
			attempt, cancel := context.WithTimeout(ctx, readPatience)
			body, err := read(attempt)
			cancel()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			none := errors.Is(err, ErrNone)
			if err != nil && !none {
				log.Debug("the last message cannot be read yet", "subject", subject, "error", err)
			}
			if err == nil && (hint == nil || bytes.Equal(body, hint)) || (err == nil || none) && pause >= lastRetry {
				hint = nil
				if !none { // otherwise one look each time is enough
					pause = firstRetry
				}
				next.Reset(rereadEvery)
				continue
			}
			next.Reset(pause)
			pause = min(2*pause, lastRetry)
		}
	}
}

// Read asks a stream for the last message of a subject.
func Read(ctx context.Context, nc *nats.Conn, stream, subject string) ([]byte, error) {
	answer, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return nil, err
	}
	switch status := answer.Header.Get("Status"); status {
	case "":
		return answer.Data, nil
	case "404":
		return nil, ErrNone
	default:
		return nil, fmt.Errorf("the stream answers %s %s", status, answer.Header.Get("Description"))
	}
}
