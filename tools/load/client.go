package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// ErrRefused is a Manager's refusal of a frame or of the agent.
var ErrRefused = errors.New("load: refused")

// Client sends the frames of one machine, keeps what is not acknowledged, and
// sends it again on the next connection.
type Client struct {
	connection grpc.ClientConnInterface
	source     *Source
	window     int
	now        func() time.Time

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when pending or an error changes
	pending []inFlight
	latency []time.Duration
	events  int64
	failure error
}

type inFlight struct {
	frame *usagev1.Frame
	sent  time.Time // when it was first sent
}

func (f inFlight) last() uint64 {
	return f.frame.GetFirstSeq() + uint64(len(f.frame.GetRecords())) - 1
}

// NewClient sends source over connection with at most window frames
// unacknowledged.
func NewClient(connection grpc.ClientConnInterface, source *Source, window int) *Client {
	return &Client{
		connection: connection, source: source, window: max(1, window),
		now: time.Now, changed: make(chan struct{}),
	}
}

// Frames gives the frames to send, in order, and io.EOF after the last. It may
// block, to keep a pace, until ctx ends.
type Frames func(ctx context.Context) (*usagev1.Frame, error)

// Send sends all of frames and returns when the Manager has acknowledged each
// record. Where the connection breaks it connects again, until ctx ends.
func (c *Client) Send(ctx context.Context, frames Frames) error {
	for backoff := 20 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		done, err := c.once(ctx, frames)
		if done || errors.Is(err, ErrRefused) || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
	}
}

// once is one connection: hello, the person, what is pending, then new frames.
func (c *Client) once(ctx context.Context, frames Frames) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := agentv1.NewAgentServiceClient(c.connection).Connect(ctx)
	if err != nil {
		return false, fmt.Errorf("load: connecting: %w", err)
	}
	for _, first := range []*agentv1.ConnectRequest{
		{Message: &agentv1.ConnectRequest_Hello{Hello: c.source.Hello()}},
		{Message: &agentv1.ConnectRequest_Person{Person: c.source.Person()}},
	} {
		if err := stream.Send(first); err != nil {
			return false, fmt.Errorf("load: saying hello: %w", reason(stream, err))
		}
	}
	welcome, err := stream.Recv()
	if err != nil {
		return false, fmt.Errorf("load: waiting for a welcome: %w", err)
	}
	if refusal := welcome.GetRefusal(); refusal != nil {
		return false, fmt.Errorf("%w: %s: %s", ErrRefused, refusal.GetReason(), refusal.GetMessage())
	}

	c.mu.Lock()
	c.failure = nil
	again := append([]inFlight(nil), c.pending...)
	c.mu.Unlock()

	var receiving sync.WaitGroup
	receiving.Go(func() { c.receive(stream) })
	defer receiving.Wait()
	defer cancel() // runs before the wait, and ends receive

	for _, f := range again {
		if err := stream.Send(frameRequest(f.frame)); err != nil {
			return false, fmt.Errorf("load: sending again: %w", err)
		}
	}
	for {
		if err := c.await(ctx, func() bool { return len(c.pending) < c.window }); err != nil {
			return false, err
		}
		frame, err := frames(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return true, err
		}
		c.mu.Lock()
		c.pending = append(c.pending, inFlight{frame: frame, sent: c.now()})
		c.mu.Unlock()
		if err := stream.Send(frameRequest(frame)); err != nil {
			return false, fmt.Errorf("load: sending: %w", err)
		}
	}
	if err := c.await(ctx, func() bool { return len(c.pending) == 0 }); err != nil {
		return false, err
	}
	if err := stream.CloseSend(); err != nil {
		return true, fmt.Errorf("load: closing: %w", err)
	}
	return true, ctx.Err()
}

// await waits until condition holds, under the lock.
func (c *Client) await(ctx context.Context, condition func() bool) error {
	for {
		c.mu.Lock()
		holds, failure, changed := condition(), c.failure, c.changed
		c.mu.Unlock()
		switch {
		case failure != nil:
			return failure
		case holds:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// receive takes acknowledgements until the stream ends.
func (c *Client) receive(stream agentv1.AgentService_ConnectClient) {
	for {
		response, err := stream.Recv()
		c.mu.Lock()
		switch {
		case err != nil:
			if c.failure == nil {
				c.failure = fmt.Errorf("load: the connection ended: %w", err)
			}
		case response.GetRefusal() != nil:
			c.failure = fmt.Errorf("%w: %s: %s", ErrRefused, response.GetRefusal().GetReason(), response.GetRefusal().GetMessage())
		case response.GetAcknowledgement() != nil:
			c.acknowledge(response.GetAcknowledgement())
		}
		failed := c.failure != nil
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if failed {
			return
		}
	}
}

// acknowledge drops the frames that lie within what is acknowledged.
func (c *Client) acknowledge(ack *agentv1.Acknowledgement) {
	now := c.now()
	kept := c.pending[:0]
	for _, f := range c.pending {
		if f.frame.GetEpoch() != ack.GetEpoch() || f.frame.GetFirstSeq() < ack.GetFirstSeq() || f.last() > ack.GetLastSeq() {
			kept = append(kept, f)
			continue
		}
		c.latency = append(c.latency, now.Sub(f.sent))
		c.events += int64(len(f.frame.GetRecords()))
	}
	clear(c.pending[len(kept):])
	c.pending = kept
}

func frameRequest(frame *usagev1.Frame) *agentv1.ConnectRequest {
	return &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}}
}

// reason is why a stream ended, where sending says only that it did.
func reason(stream agentv1.AgentService_ConnectClient, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	_, err = stream.Recv()
	return err
}
