package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
)

var (
	account = contract.ID{1}
	manager = contract.ID{2}
	subject = contract.AgentSubject(account, manager, usagev1.Lane_LANE_USAGE)
)

func quiet() *slog.Logger {
	if os.Getenv("CETRUS_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s still not: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// platform is a real NATS server whose stream directory survives it.
type platform struct {
	t      testing.TB
	dir    string
	port   atomic.Int64
	server *natsserver.Server
}

func startPlatform(t testing.TB) *platform {
	p := &platform{t: t, dir: t.TempDir()}
	p.port.Store(-1)
	p.start()
	t.Cleanup(p.stop)
	must(t, p.createStream())
	return p
}

func (p *platform) start() {
	p.t.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: int(p.port.Load()), JetStream: true, StoreDir: p.dir, MaxPayload: 8 << 20, NoSigs: true, NoLog: true,
	})
	must(p.t, err)
	server.Start()
	if !server.ReadyForConnections(20 * time.Second) {
		p.t.Fatal("the platform's server does not start")
	}
	p.port.Store(int64(server.Addr().(*net.TCPAddr).Port))
	p.server = server
}

func (p *platform) address() int { return int(p.port.Load()) }

func (p *platform) stop() {
	if p.server != nil {
		p.server.Shutdown()
		p.server.WaitForShutdown()
		p.server = nil
	}
}

func (p *platform) local() (jetstream.JetStream, func()) {
	p.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(p.server))
	must(p.t, err)
	js, err := jetstream.New(nc)
	must(p.t, err)
	return js, nc.Close
}

func (p *platform) createStream() error {
	js, done := p.local()
	defer done()
	_, err := js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{
		Name: contract.AgentStream, Subjects: []string{contract.AgentSubjects}, Storage: jetstream.FileStorage, AllowDirect: true,
	})
	return err
}

// frames are all frames that the platform has of a lane, in order.
func (p *platform) frames(lane usagev1.Lane) []string {
	p.t.Helper()
	js, done := p.local()
	defer done()
	stream, err := js.Stream(context.Background(), contract.AgentStream)
	must(p.t, err)
	var out []string
	for sequence := uint64(1); ; {
		m, err := stream.GetMsg(context.Background(), sequence, jetstream.WithGetMsgSubject(contract.AgentSubject(account, manager, lane)))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return out
		}
		must(p.t, err)
		var batch usagev1.AgentBatch
		must(p.t, proto.Unmarshal(m.Data, &batch))
		for _, f := range batch.GetFrames() {
			out = append(out, string(f.GetFrame()))
		}
		sequence = m.Sequence + 1
	}
}

// disturb publishes as another Manager, so that sequences are not ours alone.
func (p *platform) disturb() {
	p.t.Helper()
	js, done := p.local()
	defer done()
	_, err := js.Publish(context.Background(), contract.AgentSubject(account, contract.ID{99}, usagev1.Lane_LANE_USAGE), []byte("x"))
	must(p.t, err)
}

// proxy stands between a forwarder and the platform, and can be unkind.
type proxy struct {
	listener net.Listener
	target   func() int
	wg       sync.WaitGroup

	mu    sync.Mutex
	deaf  bool // answers do not come back
	conns map[net.Conn]struct{}
}

func startProxy(t testing.TB, target func() int) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	x := &proxy{listener: listener, target: target, conns: make(map[net.Conn]struct{})}
	x.wg.Go(x.serve)
	t.Cleanup(func() {
		_ = listener.Close()
		x.cut()
		x.wg.Wait()
	})
	return x
}

func (x *proxy) serve() {
	for {
		in, err := x.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", x.target()))
		if err != nil {
			_ = in.Close()
			continue
		}
		x.mu.Lock()
		x.conns[in], x.conns[out] = struct{}{}, struct{}{}
		x.mu.Unlock()
		x.wg.Go(func() { x.pipe(out, in, false) })
		x.wg.Go(func() { x.pipe(in, out, true) })
	}
}

func (x *proxy) pipe(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	chunk := make([]byte, 64<<10)
	for {
		n, err := from.Read(chunk)
		if err != nil {
			return
		}
		x.mu.Lock()
		drop := answers && x.deaf
		x.mu.Unlock()
		if drop {
			continue
		}
		if _, err := to.Write(chunk[:n]); err != nil {
			return
		}
	}
}

// cut closes every connection.
func (x *proxy) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for c := range x.conns {
		_ = c.Close()
		delete(x.conns, c)
	}
}

// deafen lets requests through but no answers.
func (x *proxy) deafen(on bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.deaf = on
}

// site is a buffer with its forwarder.
type site struct {
	t         testing.TB
	dir       string
	buffer    *buffer.Buffer
	forwarder *Forwarder
	stopped   func()
	mu        sync.Mutex
	stored    map[usagev1.Lane][]string
}

func openSite(t testing.TB, dir string) *site {
	t.Helper()
	s := &site{t: t, dir: dir, stored: make(map[usagev1.Lane][]string)}
	s.open()
	t.Cleanup(s.close)
	return s
}

func (s *site) open() {
	s.t.Helper()
	var err error
	s.buffer, err = buffer.Open(context.Background(), buffer.Config{Dir: filepath.Join(s.dir, "buffer"), AccountID: account, ManagerID: manager, MaxBytes: 1 << 30, Log: quiet()})
	must(s.t, err)
	s.forwarder, err = New(Config{AccountID: account, ManagerID: manager, StatePath: filepath.Join(s.dir, "forward"), KeepFor: time.Hour, KeepBytes: 1 << 29, Log: quiet()}, s.buffer)
	must(s.t, err)
}

func (s *site) close() {
	s.disconnect()
	if s.buffer != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		must(s.t, s.buffer.Close(ctx))
		s.buffer = nil
	}
}

// connect lets the forwarder run over a connection to a port.
func (s *site) connect(port int) {
	s.t.Helper()
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", port), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(true), nats.PingInterval(200*time.Millisecond), nats.MaxPingsOutstanding(2))
	must(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.forwarder.Run(ctx, nc)
	}()
	s.stopped = func() {
		cancel()
		<-ended
		nc.Close()
	}
}

func (s *site) disconnect() {
	if s.stopped != nil {
		s.stopped()
		s.stopped = nil
	}
}

// put stores frames, each in a message of its own.
func (s *site) put(lane usagev1.Lane, frames ...string) {
	s.t.Helper()
	for _, frame := range frames {
		done := make(chan struct{})
		must(s.t, s.buffer.Append(context.Background(), buffer.Entry{Lane: lane, Frame: []byte(frame), Done: func(uint64) { close(done) }}))
		<-done
		s.mu.Lock()
		s.stored[lane] = append(s.stored[lane], frame)
		s.mu.Unlock()
	}
}

func (s *site) lane() LaneState { return s.forwarder.State()[0] }

// level waits until everything stored has been forwarded.
func (s *site) level() {
	s.t.Helper()
	eventually(s.t, "everything is forwarded", func() bool {
		last := s.buffer.State().LastPosition
		for _, l := range s.forwarder.State() {
			if l.Level < last || l.Phase != PhaseForwarding {
				return false
			}
		}
		return true
	})
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	must(t, os.RemoveAll(to))
	must(t, os.CopyFS(to, os.DirFS(from)))
}
