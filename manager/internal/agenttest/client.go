package agenttest

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Client is the agent's side of one stream.
type Client struct {
	Stream agentv1.AgentService_ConnectClient
	conn   *grpc.ClientConn
	cancel context.CancelFunc
}

// Dial opens a stream and says nothing yet.
func Dial(ctx context.Context, address string, options ...grpc.DialOption) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(ctx)
	if err != nil {
		cancel()
		_ = conn.Close()
		return nil, err
	}
	return &Client{Stream: stream, conn: conn, cancel: cancel}, nil
}

// Close cuts the connection.
func (c *Client) Close() {
	c.cancel()
	_ = c.conn.Close()
}

// Hello is the hello of a journal's agent.
func Hello(j *Journal) *agentv1.Hello {
	return &agentv1.Hello{
		ProtocolVersion: 1, AgentId: j.Agent[:], MachineId: j.Machine[:], HostName: fmt.Sprintf("desk-%x", j.Machine[:3]),
		OperatingSystem: "Debian GNU/Linux 12", AgentVersion: "0.1.0", UtcMillis: time.Now().UnixMilli(),
	}
}

// SendHello says hello.
func (c *Client) SendHello(h *agentv1.Hello) error {
	return c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: h}})
}

// SendFrame sends a frame.
func (c *Client) SendFrame(f *usagev1.Frame) error {
	return c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: f}})
}

// SendPerson tells who an alias is.
func (c *Client) SendPerson(p *agentv1.Person) error {
	return c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Person{Person: p}})
}

// Next is the next message of the kind that pick wants; others are passed over.
func Next[T any](c *Client, pick func(*agentv1.ConnectResponse) T, wanted func(T) bool) (T, error) {
	for {
		m, err := c.Stream.Recv()
		if err != nil {
			var none T
			return none, err
		}
		if t := pick(m); wanted(t) {
			return t, nil
		}
	}
}

// Acknowledged reads until an epoch is acknowledged from its first record through
// a sequence number, counting only ranges that join.
func (c *Client) Acknowledged(epoch, from, through uint64) error {
	next := from
	for next <= through {
		a, err := Next(c, (*agentv1.ConnectResponse).GetAcknowledgement, func(a *agentv1.Acknowledgement) bool { return a != nil && a.GetEpoch() == epoch })
		if err != nil {
			return err
		}
		if a.GetFirstSeq() <= next && a.GetLastSeq() >= next {
			next = a.GetLastSeq() + 1
		}
	}
	return nil
}

// Refused reads until a refusal comes.
func (c *Client) Refused() (*agentv1.Refusal, error) {
	return Next(c, (*agentv1.ConnectResponse).GetRefusal, func(r *agentv1.Refusal) bool { return r != nil })
}
