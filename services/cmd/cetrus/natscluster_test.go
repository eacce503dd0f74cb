package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/forward"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

// natsProcesses are three `cetrus nats` of one installation, each a process with a data folder of its own.
type natsProcesses struct {
	t                   *testing.T
	credentials, tlsDir string
	dirs                []string
	held                *ports.Held // of clients, then of routes, then of WebSocket
	running             []*exec.Cmd
}

func startNATSProcesses(t *testing.T, credentials, tlsDir string) *natsProcesses {
	t.Helper()
	const size = 3
	held, err := ports.Hold(3 * size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.Release)
	p := &natsProcesses{t: t, credentials: credentials, tlsDir: tlsDir, held: held, running: make([]*exec.Cmd, size)}
	for range size {
		p.dirs = append(p.dirs, testDir(t))
	}
	for i := range size {
		p.start(i)
	}
	for i := range size {
		p.awaitStarted(i)
	}
	return p
}

func (p *natsProcesses) start(i int) {
	p.t.Helper()
	size, addresses := len(p.dirs), p.held.Addresses()
	var routes []string
	for _, port := range p.held.Ports[size : 2*size] {
		routes = append(routes, fmt.Sprintf("localhost:%d", port)) // certificates are for names
	}
	cmd := exec.Command(os.Args[0], "nats", "--data-dir", p.dirs[i], "--credentials-dir", p.credentials, "--tls-dir", p.tlsDir,
		"--nats-listen", addresses[i], "--nats-server-name", fmt.Sprintf("nats-%d", i), "--nats-cluster-listen", addresses[size+i],
		"--nats-routes", strings.Join(routes, ","), "--nats-websocket-listen", addresses[2*size+i], "--health-listen", "127.0.0.1:0", "--log-level", "error")
	cmd.Env = append(os.Environ(), "BE_CETRUS=1")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.running[i] = cmd
	p.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if p.t.Failed() {
			p.t.Logf("server %d said: %s", i, said.String())
		}
	})
}

// awaitStarted waits until a server has found its cluster, and that the streams are there.
func (p *natsProcesses) awaitStarted(i int) {
	p.t.Helper()
	for late := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		a, err := addressesOf(p.dirs[i], "nats")
		if err == nil && a.PID == p.running[i].Process.Pid {
			return
		}
		if time.Now().After(late) {
			p.t.Fatalf("server %d does not begin: %v", i, err)
		}
	}
}

func (p *natsProcesses) kill(i int) {
	p.t.Helper()
	if err := p.running[i].Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.running[i].Wait()
}

// erase removes what a server that was killed held, as with its disk.
func (p *natsProcesses) erase(i int) {
	p.t.Helper()
	if err := errors.Join(os.RemoveAll(filepath.Join(p.dirs[i], "nats")), os.Remove(filepath.Join(p.dirs[i], addressesFile("nats")))); err != nil {
		p.t.Fatal(err)
	}
}

// awaitReady waits until all servers say that they are ready: that each has all that it is to have.
func (p *natsProcesses) awaitReady() {
	p.t.Helper()
	began := time.Now()
	for i, dir := range p.dirs {
		for ; ; <-time.After(20 * time.Millisecond) {
			a, err := addressesOf(dir, "nats")
			if err != nil {
				p.t.Fatal(err)
			}
			said := ""
			if answer, err := http.Get(a.Health + "/readyz"); err == nil {
				text, _ := io.ReadAll(answer.Body)
				_ = answer.Body.Close()
				if said = string(text); answer.StatusCode == http.StatusOK {
					break
				}
			}
			if time.Since(began) > 30*time.Second {
				p.t.Fatalf("server %d is not ready: %s", i, said)
			}
		}
	}
	p.t.Logf("all servers are ready after %s", time.Since(began).Round(time.Millisecond))
}

// connect connects to any of the servers, the first as long as it is there; as a Manager does that is far
// away, or as a part that is beside them.
func (p *natsProcesses) connect(far bool, options ...nats.Option) *nats.Conn {
	p.t.Helper()
	size := len(p.dirs)
	urls := "tls://" + strings.Join(p.held.Addresses()[:size], ",tls://")
	if far {
		urls = "wss://" + strings.Join(p.held.Addresses()[2*size:], ",wss://")
	}
	nc, err := nats.Connect(urls, append(options, nats.RootCAs(filepath.Join(p.tlsDir, tlsfiles.AuthorityFile)),
		nats.DontRandomize(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(nc.Close)
	return nc
}

// framesOf are the frames of a message of AGENT.
func framesOf(t *testing.T, data []byte) []string {
	t.Helper()
	var batch usagev1.AgentBatch
	if err := proto.Unmarshal(data, &batch); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range batch.GetFrames() {
		all = append(all, string(f.GetFrame()))
	}
	return all
}

// While a Manager forwards and metering reads, a server is killed and its disk is lost; it comes back empty.
// Then another is killed, so that what the first has caught up with is needed. Nothing is lost or doubled,
// and a Manager that enrolled is let in by each server.
func TestNATSClusterLosesAServerAndItsDisk(t *testing.T) {
	credentials := testDir(t)
	keys, _, err := authn.Bootstrap(credentials, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	account, managerID := keys.Account(), contract.ID{2}
	access, _, err := addManager(credentials, account, managerID)
	if err != nil {
		t.Fatal(err)
	}
	book, err := openManagers(credentials, account)
	if err != nil {
		t.Fatal(err)
	}
	servers := startNATSProcesses(t, credentials, newTLSDir(t))
	as := func(role string) []nats.Option { return book.part(role).Options() }

	quiet := slog.New(slog.DiscardHandler)
	kept, err := buffer.Open(t.Context(), buffer.Config{Dir: filepath.Join(testDir(t), "buffer"), AccountID: account, ManagerID: managerID, MaxBytes: 1 << 30, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	forwarder, err := forward.New(forward.Config{AccountID: account, ManagerID: managerID, StatePath: filepath.Join(testDir(t), "forward"), KeepFor: time.Hour, KeepBytes: 1 << 29, Log: quiet}, kept)
	if err != nil {
		t.Fatal(err)
	}
	working, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer func() {
		stop()
		work.Wait()
		if err := kept.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	atManager := servers.connect(true, access.Options()...)
	work.Go(func() { _ = forwarder.Run(working, atManager) }) // it ends with working
	var measured atomic.Int64
	measuring, enough := context.WithCancel(working)
	work.Go(func() {
		for n := 0; measuring.Err() == nil; n++ {
			done := make(chan struct{})
			if err := kept.Append(working, buffer.Entry{Lane: usagev1.Lane_LANE_USAGE, Frame: []byte(fmt.Sprint(n)), Done: func(uint64) { close(done) }}); err != nil {
				t.Error(err)
				return
			}
			<-done
			measured.Add(1)
		}
	})
	// Metering reads on from where it was whenever what serves it is gone.
	var mu sync.Mutex
	var heard []string
	js, err := jetstream.New(servers.connect(false, as(natsserver.Metering)...))
	if err != nil {
		t.Fatal(err)
	}
	work.Go(func() {
		for next := uint64(1); working.Err() == nil; {
			consumer, err := js.OrderedConsumer(working, contract.AgentStream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: next, MaxResetAttempts: 1})
			if err != nil {
				continue
			}
			messages, err := consumer.Messages(jetstream.PullExpiry(4*time.Second), jetstream.PullHeartbeat(time.Second))
			if err != nil {
				continue
			}
			for {
				m, err := messages.Next(jetstream.NextContext(working))
				if err != nil {
					break
				}
				at, err := m.Metadata()
				if err != nil {
					break
				}
				next = at.Sequence.Stream + 1
				mu.Lock()
				heard = append(heard, framesOf(t, m.Data())...)
				mu.Unlock()
			}
			messages.Stop()
		}
	})
	level := func(what string) {
		t.Helper()
		goal, began := int(measured.Load()), time.Now()
		for ; ; <-time.After(10 * time.Millisecond) {
			mu.Lock()
			n := len(heard)
			mu.Unlock()
			if n > goal {
				t.Logf("%s: %d frames, level after %s", what, n, time.Since(began).Round(time.Millisecond))
				return
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: metering has %d of %d frames; the forwarder is %+v", what, n, goal, forwarder.State())
			}
		}
	}
	level("three servers")

	key, public := newManagerKey(t)
	enrol(t, eventlog.NewJetStream(servers.connect(false, as(natsserver.Identity)...), contract.EventStream), account, contract.ID{3}, public)
	letIn := func(i int) {
		t.Helper()
		for late := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
			nc, err := nats.Connect("tls://"+servers.held.Addresses()[i], nats.Nkey(public, key.Sign), nats.RootCAs(filepath.Join(servers.tlsDir, tlsfiles.AuthorityFile)))
			if err == nil {
				nc.Close()
				return
			}
			if time.Now().After(late) {
				t.Fatalf("server %d: %v", i, err)
			}
		}
	}
	for i := range servers.dirs {
		letIn(i)
	}

	servers.kill(0)
	servers.erase(0)
	level("one of them lost with its disk")
	servers.start(0)
	servers.awaitStarted(0)
	letIn(0)
	level("it came back empty")
	servers.awaitReady()
	servers.kill(1)
	level("another one killed")
	servers.start(1)
	servers.awaitStarted(1)
	level("it came back")

	enough()
	for late := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		mu.Lock()
		n := len(heard)
		mu.Unlock()
		if int64(n) >= measured.Load() {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("metering has %d of %d frames", n, measured.Load())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for i, frame := range heard {
		if frame != fmt.Sprint(i) {
			t.Fatalf("frame %d is %s", i, frame)
		}
	}
	lane := forwarder.State()[0]
	t.Logf("%d frames in %d messages: lost 0, doubled %d; %d rewinds", len(heard), lane.Published, len(heard)-int(measured.Load()), lane.Rewinds)
	if len(heard) != int(measured.Load()) || lane.Rewinds > 0 || len(lane.Lost) > 0 {
		t.Errorf("%d frames of %d, %d rewinds, lost %v", len(heard), measured.Load(), lane.Rewinds, lane.Lost)
	}
}

// newTLSDir is a folder of TLS files of this machine.
func newTLSDir(t *testing.T) string {
	t.Helper()
	dir := testDir(t)
	authority, err := tlsfiles.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue([]string{"localhost", "127.0.0.1"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{tlsfiles.CertificateFile: pair.Certificate, tlsfiles.KeyFile: pair.Key, tlsfiles.AuthorityFile: authority.Certificate} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newManagerKey is what a Manager is known by that has enrolled.
func newManagerKey(t *testing.T) (nkeys.KeyPair, string) {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key, public
}

// enrol notes in the log, as identity does, that a Manager has enrolled.
func enrol(t *testing.T, log eventlog.Log, account, manager contract.ID, public string) {
	t.Helper()
	registry := eventlog.NewRegistry(
		eventlog.Current[*identityv1.ManagerCreated]("cetrus.identity.manager.created.v1"),
		eventlog.Current[*identityv1.ManagerEnrolled]("cetrus.identity.manager.enrolled.v1"),
	)
	var events []eventlog.Event
	for _, m := range []proto.Message{&identityv1.ManagerCreated{ManagerId: manager[:]}, &identityv1.ManagerEnrolled{PublicKey: public}} {
		event, err := registry.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
	}
	if _, err := log.Append(t.Context(), contract.EventSubject(account, "identity", "manager", manager.String()), 0, events...); err != nil {
		t.Fatal(err)
	}
}
