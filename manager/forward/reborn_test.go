package forward

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
)

// rebornInRead is a buffer that gets another identity while it is read.
type rebornInRead struct {
	*buffer.Buffer
	reborn atomic.Bool
}

func (r *rebornInRead) State() buffer.State {
	state := r.Buffer.State()
	if r.reborn.Load() {
		state.ID = contract.ID{77}
	}
	return state
}

func (r *rebornInRead) Next(ctx context.Context, lane usagev1.Lane, from uint64) (buffer.Message, error) {
	defer r.reborn.Store(true)
	return r.Buffer.Next(ctx, lane, from)
}

// publishes counts what is sent.
type publishes struct {
	jetstream.JetStream
	sent int
}

func (p *publishes) PublishMsgAsync(m *nats.Msg, options ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	p.sent++
	return p.JetStream.PublishMsgAsync(m, options...)
}

func TestABufferRebornWhileItIsReadIsNotSent(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.put(usage, numbered(1, 3)...)
	source := &rebornInRead{Buffer: s.buffer}
	f, err := New(Config{AccountID: account, ManagerID: manager, StatePath: t.TempDir() + "/forward", Log: quiet()}, source)
	must(t, err)
	nc, err := nats.Connect("", nats.InProcessServer(p.server))
	must(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	must(t, err)
	counted := &publishes{JetStream: js}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = f.lanes[0].publish(ctx, make(chan struct{}), nc, counted, source.State().ID, 1, 0)
	if !errors.Is(err, errReborn) || counted.sent != 0 {
		t.Errorf("%d messages were sent, and then %v", counted.sent, err)
	}
}

// A stream put back with another time of creation still holds one lane's messages; what
// the other lane knew of the old stream is void all the same.
func TestOfAnotherStreamNoLaneKnowsASequence(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.connect(p.address())
	s.put(usage, "a")
	s.level()
	s.disconnect()
	f := s.forwarder
	f.lanes[1].sequence = 5
	js, done := p.local()
	defer done()
	for _, l := range f.lanes {
		l.created = l.created.Add(-time.Hour)
		if _, _, err := l.decide(t.Context(), js); err != nil {
			t.Fatal(err)
		}
	}
	if f.lanes[0].sequence != 1 || f.lanes[1].sequence != 0 {
		t.Errorf("the lanes know the sequences %d and %d", f.lanes[0].sequence, f.lanes[1].sequence)
	}
}
