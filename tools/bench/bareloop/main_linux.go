// Command bareloop is the least that an agent on X11 could be: once a second it
// asks which window is in front and when the last input was, and it holds an idle
// stream to a Manager. The bench of the agent's cost compares with it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/screensaver"
	"github.com/jezek/xgb/xproto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
)

func main() { os.Exit(report(run(os.Args[1]))) }

func report(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bareloop:", err)
		return 1
	}
	return 0
}

func run(manager string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	conn, err := grpc.NewClient(manager, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(ctx)
	if err != nil {
		return err
	}
	hello := &agentv1.Hello{ProtocolVersion: 1, AgentId: []byte("bareloop of x11."), MachineId: []byte("bareloop of x11."), HostName: "bareloop", UtcMillis: time.Now().UnixMilli()}
	if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer stop()
	receiving.Go(func() {
		for err := error(nil); err == nil; {
			_, err = stream.Recv()
		}
	})
	return poll(ctx)
}

func poll(ctx context.Context) error {
	x, err := xgb.NewConn()
	if err != nil {
		return err
	}
	defer x.Close()
	if err := screensaver.Init(x); err != nil {
		return err
	}
	root := xproto.Setup(x).DefaultScreen(x).Root
	const name = "_NET_ACTIVE_WINDOW"
	active, err := xproto.InternAtom(x, false, uint16(len(name)), name).Reply()
	if err != nil {
		return err
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		if _, err := screensaver.QueryInfo(x, xproto.Drawable(root)).Reply(); err != nil {
			return err
		}
		if _, err := xproto.GetProperty(x, false, root, active.Atom, xproto.GetPropertyTypeAny, 0, 1).Reply(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-second.C:
		}
	}
}
