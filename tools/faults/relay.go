package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
)

// relay stands between agents and their Manager and treats the conversation as a
// bad network and a bad day would: it cuts streams, repeats frames, lets a later
// frame overtake an earlier one, and swallows acknowledgements. It speaks the
// protocol, since TCP itself never repeats or reorders.
type relay struct {
	agentv1.UnimplementedAgentServiceServer
	manager *grpc.ClientConn
	server  *grpc.Server
	address string

	mu      sync.Mutex
	random  *rand.Rand
	pending map[Kind]int
	streams map[*context.CancelFunc]struct{}

	// How often each fault met a frame or an acknowledgement.
	repeated, reordered, swallowed atomic.Int64
	// delayMillis holds back every frame.
	delayMillis atomic.Int64
	// unacknowledged is the number of records under way to the Manager.
	unacknowledged atomic.Int64
	truth          *truth
}

var errSwallowed = errors.New("faults: the acknowledgement was swallowed and the stream cut")

// newRelay listens on a loopback port and forwards to the Manager at address.
func newRelay(manager string, seed uint64) (*relay, error) {
	conn, err := grpc.NewClient(manager, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, fmt.Errorf("faults: relay to %s: %w", manager, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("faults: relay: %w", err)
	}
	r := &relay{
		manager: conn, server: grpc.NewServer(), address: listener.Addr().String(),
		random:  rand.New(rand.NewPCG(seed, 1)),
		pending: map[Kind]int{}, streams: map[*context.CancelFunc]struct{}{}, truth: newTruth(),
	}
	agentv1.RegisterAgentServiceServer(r.server, r)
	go func() { _ = r.server.Serve(listener) }()
	return r, nil
}

func (r *relay) close() {
	r.server.Stop()
	_ = r.manager.Close()
}

// order asks for a fault of the conversation; it strikes the next frame or
// acknowledgement that passes.
func (r *relay) order(kind Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending[kind]++
}

func (r *relay) strike(kind Kind) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[kind] == 0 {
		return false
	}
	r.pending[kind]--
	return true
}

// struck is how often a fault of the conversation has struck.
func (r *relay) struck(kind Kind) int64 {
	switch kind {
	case RepeatFrame:
		return r.repeated.Load()
	case ReorderFrames:
		return r.reordered.Load()
	default:
		return r.swallowed.Load()
	}
}

// cutAll breaks every stream.
func (r *relay) cutAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for cancel := range r.streams {
		(*cancel)()
	}
}

// Connect relays one agent's stream.
func (r *relay) Connect(agent grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]) error {
	ctx, cancel := context.WithCancel(agent.Context())
	r.mu.Lock()
	r.streams[&cancel] = struct{}{}
	r.mu.Unlock()
	defer func() {
		cancel()
		r.mu.Lock()
		delete(r.streams, &cancel)
		r.mu.Unlock()
	}()
	manager, err := agentv1.NewAgentServiceClient(r.manager).Connect(ctx)
	if err != nil {
		return fmt.Errorf("faults: relay: %w", err)
	}
	var underWay atomic.Int64
	defer func() { r.unacknowledged.Add(-underWay.Load()) }()
	count := func(n int64) {
		underWay.Add(n)
		r.unacknowledged.Add(n)
	}
	down := make(chan error, 1)
	go func() { down <- r.relayDown(agent, manager, count) }()
	up := make(chan error, 1)
	go func() { up <- r.relayUp(ctx, agent, manager, count) }()
	select {
	case err = <-down:
	case err = <-up:
		if errors.Is(err, io.EOF) {
			_ = manager.CloseSend()
			err = <-down
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	return err
}

// heldFor is how long a frame waits for another to overtake it.
const heldFor = 2 * time.Second

func (r *relay) relayUp(
	ctx context.Context, agent grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse],
	manager grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse], count func(int64),
) error {
	requests := make(chan *agentv1.ConnectRequest)
	received := make(chan error, 1)
	go func() {
		for {
			request, err := agent.Recv()
			if err != nil {
				received <- err
				return
			}
			select {
			case requests <- request:
			case <-ctx.Done():
				return
			}
		}
	}()
	var held *agentv1.ConnectRequest
	var overdue <-chan time.Time
	for {
		var send []*agentv1.ConnectRequest
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-received:
			return err
		case <-overdue:
			send, held, overdue = append(send, held), nil, nil
		case request := <-requests:
			frame := request.GetFrame()
			if frame == nil {
				send = append(send, request)
				break
			}
			count(int64(len(frame.GetRecords())))
			r.truth.pass(frame)
			if !sleep(ctx, time.Duration(r.delayMillis.Load())*time.Millisecond) {
				return ctx.Err()
			}
			if held == nil && r.strike(ReorderFrames) {
				held, overdue = request, time.After(heldFor)
				continue
			}
			send = append(send, request)
			if held != nil {
				send, held, overdue = append(send, held), nil, nil
				r.reordered.Add(1)
			}
			if r.strike(RepeatFrame) {
				send = append(send, request)
				r.repeated.Add(1)
			}
		}
		for _, s := range send {
			if err := manager.Send(s); err != nil {
				return err
			}
		}
	}
}

// sleep waits, and tells whether the context lived on.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *relay) relayDown(
	agent grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse],
	manager grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse], count func(int64),
) error {
	for {
		response, err := manager.Recv()
		if err != nil {
			return err
		}
		if ack := response.GetAcknowledgement(); ack != nil {
			count(-int64(ack.GetLastSeq() - ack.GetFirstSeq() + 1))
			if r.strike(SwallowAcknowledgement) {
				// A stream never loses one message and keeps the next: it breaks.
				r.swallowed.Add(1)
				return errSwallowed
			}
		}
		if err := agent.Send(response); err != nil {
			return err
		}
	}
}
