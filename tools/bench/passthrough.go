package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
)

// PassThrough says how the limit of a Manager works: bytes from gRPC streams into
// a synced JetStream, gathered to messages of Size bytes at least while Window of
// them wait for their sync; nothing is decoded or checked.
type PassThrough struct {
	Dir          string
	Size, Window int
}

// maxGathered is the greatest message of a pass-through, in bytes.
const maxGathered = 16 << 20

// Serve runs a pass-through until ctx ends, and writes its address to
// Dir/address once it listens.
func (p PassThrough) Serve(ctx context.Context) error {
	ns, err := server.NewServer(&server.Options{
		DontListen: true, JetStream: true, StoreDir: p.Dir, SyncAlways: true, MaxPayload: maxGathered, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return fmt.Errorf("bench: pass-through: %w", err)
	}
	ns.Start()
	defer ns.WaitForShutdown()
	defer ns.Shutdown()
	if !ns.ReadyForConnections(20 * time.Second) {
		return errors.New("bench: pass-through: NATS does not get ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		return fmt.Errorf("bench: pass-through: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err == nil {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw"}, Storage: jetstream.FileStorage})
	}
	if err != nil {
		return fmt.Errorf("bench: pass-through: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("bench: pass-through: %w", err)
	}
	g := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{encoding.GetCodecV2("proto")}), grpc.MaxRecvMsgSize(maxGathered),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(2<<20))
	gather := newGatherer(p, js)
	agentv1.RegisterAgentServiceServer(g, gather)
	var serving sync.WaitGroup
	defer serving.Wait()
	publishing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 2)
	serving.Go(func() { failed <- gather.publish(publishing) })
	serving.Go(func() { failed <- g.Serve(listener) })
	defer g.Stop()
	if err := writeWhole(filepath.Join(p.Dir, "address"), listener.Addr().String()); err != nil {
		return err
	}
	select {
	case err = <-failed:
		return fmt.Errorf("bench: pass-through: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// writeWhole puts a file in place whole, so that who waits for it reads all of it.
func writeWhole(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return os.Rename(path+".new", path)
}

// rawBytes is a message that is not decoded.
type rawBytes struct{ data []byte }

type bytesCodec struct{ encoding.CodecV2 }

func (c bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*rawBytes); ok {
		m.data = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// gatherer makes few messages of many.
type gatherer struct {
	agentv1.UnimplementedAgentServiceServer
	size int
	js   jetstream.JetStream
	kick chan struct{}
	// flying holds what waits for its sync.
	flying chan flight

	mu    sync.Mutex
	room  *sync.Cond
	data  []byte
	acked []func()
}

type flight struct {
	future jetstream.PubAckFuture
	acked  []func()
}

func newGatherer(p PassThrough, js jetstream.JetStream) *gatherer {
	g := &gatherer{size: p.Size, js: js, kick: make(chan struct{}, 1), flying: make(chan flight, max(0, p.Window-1))}
	g.room = sync.NewCond(&g.mu)
	return g
}

// Connect is the agents' protocol as far as the load generator needs it: a welcome,
// then an acknowledgement of each message, numbered from 1.
func (g *gatherer) Connect(stream agentv1.AgentService_ConnectServer) error {
	var m rawBytes
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{}}}); err != nil {
		return err
	}
	acks := make(chan *agentv1.ConnectResponse, 64)
	var sending, waiting sync.WaitGroup
	sending.Go(func() {
		broken := false
		for a := range acks {
			broken = broken || stream.Send(a) != nil
		}
	})
	for n := uint64(1); stream.RecvMsg(&m) == nil; n++ {
		a := &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Acknowledgement{Acknowledgement: &agentv1.Acknowledgement{FirstSeq: n, LastSeq: n}}}
		waiting.Add(1)
		g.add(m.data, func() { acks <- a; waiting.Done() })
	}
	waiting.Wait()
	close(acks)
	sending.Wait()
	return nil
}

func (g *gatherer) add(data []byte, acked func()) {
	g.mu.Lock()
	for len(g.data) > g.size {
		g.room.Wait()
	}
	g.data, g.acked = append(g.data, data...), append(g.acked, acked)
	g.mu.Unlock()
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// publish publishes what has gathered, until ctx ends.
func (g *gatherer) publish(ctx context.Context) error {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer close(g.flying)
	failed := make(chan error, 1)
	waiting.Go(func() {
		for f := range g.flying {
			select {
			case <-f.future.Ok():
			case err := <-f.future.Err():
				select {
				case failed <- err:
				default:
				}
			}
			for _, acked := range f.acked {
				acked()
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-g.kick:
		}
		g.mu.Lock()
		f := flight{acked: g.acked}
		data := g.data
		g.data, g.acked = nil, nil
		g.room.Broadcast()
		g.mu.Unlock()
		if len(data) == 0 {
			continue
		}
		var err error
		if f.future, err = g.js.PublishMsgAsync(&nats.Msg{Subject: "raw", Data: data}); err != nil {
			return err
		}
		g.flying <- f
	}
}
