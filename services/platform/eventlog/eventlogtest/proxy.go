package eventlogtest

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fault is what a Proxy does to the next message that a client publishes.
type Fault int

const (
	// LoseRequest cuts the connection before the server has seen the message.
	LoseRequest Fault = iota
	// LoseAnswer lets the message through and cuts the connection instead of
	// passing the answer on.
	LoseAnswer
	// HoldRequest lets the message through late, after the client has given up
	// waiting; the connection lives on.
	HoldRequest
	faults
)

// String names the fault.
func (f Fault) String() string {
	return [...]string{"request lost", "answer lost", "request held"}[f]
}

// Proxy stands between NATS clients and a server and does one fault at a time,
// when told to.
type Proxy struct {
	target   string
	listener net.Listener
	hold     time.Duration
	stopped  chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	armed []Fault
	match []byte
	hits  [faults]int
	conns map[net.Conn]bool
	done  bool
}

// NewProxy starts a proxy to a server's address; the test's end stops it. Held
// requests wait for the given time.
func NewProxy(t testing.TB, target string, hold time.Duration) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{target: target, listener: listener, hold: hold, stopped: make(chan struct{}), conns: make(map[net.Conn]bool)}
	p.wg.Add(1)
	go p.accept()
	t.Cleanup(p.stop)
	return p
}

// URL is what a client connects to.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Arm makes the faults happen, one after the other, to the next messages
// published to subjects that begin with prefix.
func (p *Proxy) Arm(prefix string, faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.match = faults, []byte("HPUB "+prefix)
}

// Hits is how often a fault has happened.
func (p *Proxy) Hits(f Fault) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hits[f]
}

func (p *Proxy) stop() {
	close(p.stopped)
	p.listener.Close()
	p.mu.Lock()
	p.done = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		if p.done {
			client.Close()
			server.Close()
		}
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		link := &link{client: client, server: server}
		p.wg.Add(2)
		go p.requests(link)
		go p.answers(link)
	}
}

// link is one client's connection.
type link struct {
	client, server net.Conn
	mu             sync.Mutex
	mute           bool
}

func (l *link) close() {
	l.client.Close()
	l.server.Close()
}

func (p *Proxy) requests(l *link) {
	defer p.wg.Done()
	defer l.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := l.client.Read(buffer)
		if err != nil {
			return
		}
		fault, hit := p.take(buffer[:n])
		if hit && fault == LoseRequest {
			return
		}
		if hit && fault == HoldRequest {
			select {
			case <-time.After(p.hold):
			case <-p.stopped:
				return
			}
		}
		if hit && fault == LoseAnswer {
			l.mu.Lock()
			l.mute = true
			l.mu.Unlock()
		}
		if _, err := l.server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// answers passes on what the server says. On a mute link it waits for the answer
// to a publish, to be sure that it was made, and then cuts the connection.
func (p *Proxy) answers(l *link) {
	defer p.wg.Done()
	defer l.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buffer)
		if err != nil {
			return
		}
		l.mu.Lock()
		mute := l.mute
		l.mu.Unlock()
		if mute {
			if strings.Contains(string(buffer[:n]), `"stream":`) {
				return
			}
			continue
		}
		if _, err := io.Copy(l.client, bytes.NewReader(buffer[:n])); err != nil {
			return
		}
	}
}

func (p *Proxy) take(chunk []byte) (Fault, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.armed) == 0 || !bytes.Contains(chunk, p.match) {
		return 0, false
	}
	fault := p.armed[0]
	p.armed = p.armed[1:]
	p.hits[fault]++
	return fault, true
}
