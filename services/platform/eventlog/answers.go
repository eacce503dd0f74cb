package eventlog

import (
	"context"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// answers receives what comes back to requests that have several answers. One
// subscription serves all requests of a connection: making one for each would
// cost more than the request.
type answers struct {
	nc *nats.Conn

	mu      sync.Mutex
	inbox   string
	waiting map[string]chan *nats.Msg
}

func newAnswers(nc *nats.Conn) *answers {
	return &answers{nc: nc, waiting: make(map[string]chan *nats.Msg)}
}

// ask sends a request and returns where its answers arrive, at most most of them;
// done must be called when no more are wanted.
func (a *answers) ask(subject string, request []byte, most int) (arriving <-chan *nats.Msg, done func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inbox == "" {
		inbox := a.nc.NewInbox()
		// It ends with the connection.
		if _, err := a.nc.Subscribe(inbox+".*", a.deliver); err != nil {
			return nil, nil, err
		}
		a.inbox = inbox
	}
	reply := a.nc.NewInbox()
	token := reply[strings.LastIndexByte(reply, '.')+1:]
	channel := make(chan *nats.Msg, most)
	a.waiting[token] = channel
	done = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, token)
	}
	if err := a.nc.PublishRequest(subject, a.inbox+"."+token, request); err != nil {
		delete(a.waiting, token)
		return nil, nil, err
	}
	return channel, done, nil
}

// deliver drops what nobody waits for any more, or what is more than was asked
// for: the gap shows in the answers' own numbers.
func (a *answers) deliver(msg *nats.Msg) {
	a.mu.Lock()
	channel := a.waiting[msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]]
	a.mu.Unlock()
	select {
	case channel <- msg:
	default:
	}
}

// next waits for one answer.
func next(ctx context.Context, arriving <-chan *nats.Msg) (*nats.Msg, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case msg := <-arriving:
		return msg, nil
	}
}
