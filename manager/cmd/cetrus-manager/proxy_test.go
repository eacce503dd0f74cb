package main

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
)

// forwardProxy is an HTTP proxy that knows the platform, which nobody else does.
type forwardProxy struct {
	address string

	mu    sync.Mutex
	asked []string
	open  []net.Conn
}

// platformName leads nowhere but through the proxy.
const platformName = "platform.invalid:4222"

// startProxy starts one that takes these credentials, and for which a name leads to an address.
func startProxy(t *testing.T, credentials, name, platform string) *forwardProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &forwardProxy{address: listener.Addr().String()}
	var relays sync.WaitGroup
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.Host)
		p.mu.Unlock()
		switch {
		case r.Method != http.MethodConnect || r.Host != name:
			w.WriteHeader(http.StatusBadGateway)
			return
		case r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(credentials)):
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		behind, err := net.Dial("tcp", platform)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, err = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		}
		if err != nil {
			t.Error(err)
			return
		}
		p.mu.Lock()
		p.open = append(p.open, conn, behind)
		p.mu.Unlock()
		for _, way := range []struct {
			to   io.WriteCloser
			from io.Reader
		}{{behind, buffered}, {conn, behind}} {
			relays.Go(func() {
				_, _ = io.Copy(way.to, way.from)
				_ = way.to.Close()
			})
		}
	})}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		served.Wait()
		p.cut()
		relays.Wait()
	})
	return p
}

// cut ends what goes through the proxy now.
func (p *forwardProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.open {
		_ = conn.Close()
	}
	p.open = nil
}

func (p *forwardProxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

// startAnswering starts a server on which somebody answers what is asked on the subject ask with the same.
func startAnswering(t *testing.T, options *natsserver.Options) *natsserver.Server {
	t.Helper()
	server, err := natsserver.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Shutdown)
	if !server.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	platform, err := nats.Connect("", nats.InProcessServer(server))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	if _, err := platform.Subscribe("ask", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := platform.Flush(); err != nil {
		t.Fatal(err)
	}
	return server
}

// asks asks it until it answers.
func asks(t *testing.T, nc *nats.Conn) {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		// What is asked as the connection ends is not answered.
		answer, err := nc.Request("ask", []byte("hello"), time.Second)
		if err == nil && string(answer.Data) == "hello" {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("no answer through the proxy: %v", err)
		}
	}
}

// The way to the platform goes through the proxy of the setting, or of the environment, and
// again after it was cut; the proxy is asked for the platform's name.
func TestThePlatformIsReachedThroughAProxy(t *testing.T) {
	server := startAnswering(t, &natsserver.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	p := startProxy(t, "anna:p@ss", platformName, server.Addr().String())
	with := "http://anna:p%40ss@" + p.address
	connect := func(setting string) (*nats.Conn, error) {
		return settings{PlatformURL: "nats://" + platformName, Proxy: setting}.platform()(t.Context(), contract.ID{1})
	}
	nc, err := connect(with)
	if err != nil {
		t.Fatal(err)
	}
	asks(t, nc)
	p.cut()
	asks(t, nc)
	nc.Close()
	if p.count() < 2 {
		t.Errorf("the proxy was asked %d times", p.count())
	}
	if _, err := connect("http://" + p.address); err == nil || !strings.Contains(err.Error(), "wants a user and a password") {
		t.Errorf("without the password: %v", err)
	}
	t.Setenv("HTTPS_PROXY", with)
	t.Setenv("NO_PROXY", "other.invalid") // whatever it is where the test runs
	if nc, err = connect(""); err != nil {
		t.Fatal(err)
	}
	asks(t, nc)
	nc.Close()
	before := p.count()
	for name, c := range map[string]struct{ setting, except string }{"none": {"none", ""}, "an exception": {"", "platform.invalid"}} {
		t.Setenv("NO_PROXY", c.except)
		if nc, err := connect(c.setting); err == nil {
			nc.Close()
			t.Errorf("%s: there is a way to the platform", name)
		}
	}
	if p.count() != before {
		t.Error("the proxy was asked where there is none")
	}
}
