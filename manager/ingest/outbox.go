package ingest

import (
	"sync"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
)

// An agent that reads nothing while so much waits for it is cut off.
const maxWaiting = 4096

// outbox holds what is to be said to one agent. Anybody may put something in,
// without waiting; the session's own goroutine takes it out.
type outbox struct {
	wake chan struct{}

	mu       sync.Mutex
	acks     []*agentv1.Acknowledgement
	others   []*agentv1.ConnectResponse
	throttle *agentv1.Throttle
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) rouse() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// acknowledge says that records are durable; neighbours merge into one range.
func (o *outbox) acknowledge(epoch, first, last uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := len(o.acks) - 1; i >= 0 && i >= len(o.acks)-2; i-- {
		if a := o.acks[i]; a.GetEpoch() == epoch && a.GetLastSeq()+1 == first {
			a.LastSeq = last
			return
		}
	}
	o.acks = append(o.acks, &agentv1.Acknowledgement{Epoch: epoch, FirstSeq: first, LastSeq: last})
	o.rouse()
}

func (o *outbox) say(m *agentv1.ConnectResponse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.others = append(o.others, m)
	o.rouse()
}

func (o *outbox) pause(t *agentv1.Throttle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.throttle = t
	o.rouse()
}

func (o *outbox) overflowing() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.acks)+len(o.others) > maxWaiting
}

// take empties the outbox.
func (o *outbox) take() []*agentv1.ConnectResponse {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.others
	o.others = nil
	for _, a := range o.acks {
		out = append(out, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Acknowledgement{Acknowledgement: a}})
	}
	o.acks = o.acks[:0]
	if o.throttle != nil {
		out = append(out, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Throttle{Throttle: o.throttle}})
		o.throttle = nil
	}
	return out
}
