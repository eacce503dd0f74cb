package faults

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/faults/history"
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
	serving sync.WaitGroup

	mu      sync.Mutex
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

// newRelay takes agents in by a listener, which is its own from then on, and forwards to the Manager at
// an address that dial knows the way to.
func newRelay(listener net.Listener, manager string, dial func(ctx context.Context, address string) (net.Conn, error), truth *truth) (*relay, error) {
	conn, err := grpc.NewClient("passthrough:///"+manager, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second, Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("faults: relay to %s: %w", manager, err), listener.Close())
	}
	r := &relay{
		manager: conn, address: listener.Addr().String(), truth: truth,
		// As a Manager: what is cut off is found out.
		server:  grpc.NewServer(grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 5 * time.Second}), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true})),
		pending: map[Kind]int{}, streams: map[*context.CancelFunc]struct{}{},
	}
	agentv1.RegisterAgentServiceServer(r.server, r)
	r.serving.Go(func() { _ = r.server.Serve(listener) }) // it ends with close
	return r, nil
}

func (r *relay) close() {
	r.server.Stop()
	_ = r.manager.Close()
	r.serving.Wait()
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
	journals := &journals{of: map[uint64]history.Span{}}
	var underWay atomic.Int64
	defer func() { r.unacknowledged.Add(-underWay.Load()) }()
	count := func(n int64) {
		underWay.Add(n)
		r.unacknowledged.Add(n)
	}
	down := make(chan error, 1)
	go func() { down <- r.relayDown(agent, manager, journals, count) }()
	up := make(chan error, 1)
	go func() { up <- r.relayUp(ctx, agent, manager, journals, count) }()
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

// journals are those that one agent sends from, by their epochs.
type journals struct {
	mu sync.Mutex
	of map[uint64]history.Span
}

func (j *journals) note(frame *usagev1.Frame) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.of[frame.GetEpoch()] = history.Span{Agent: hex.EncodeToString(frame.GetAgentId()), Epoch: frame.GetEpoch(), Lane: frame.GetLane().String()}
}

// span are the numbers that are acknowledged.
func (j *journals) span(ack *agentv1.Acknowledgement) (history.Span, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	span, ok := j.of[ack.GetEpoch()]
	span.First, span.Last = ack.GetFirstSeq(), ack.GetLastSeq()
	return span, ok
}

// heldFor is how long a frame waits for another to overtake it.
const heldFor = 2 * time.Second

func (r *relay) relayUp(
	ctx context.Context, agent grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse],
	manager grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse], journals *journals, count func(int64),
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
			journals.note(frame)
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
	manager grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse], journals *journals, count func(int64),
) error {
	for {
		response, err := manager.Recv()
		if err != nil {
			return err
		}
		if ack := response.GetAcknowledgement(); ack != nil {
			count(-int64(ack.GetLastSeq() - ack.GetFirstSeq() + 1))
			if span, ok := journals.span(ack); ok {
				r.truth.history.Tell(history.Fact{Acknowledged: &span})
			}
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
