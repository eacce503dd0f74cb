//go:build linux

package desktoptest

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// Recorder stands between programs and an X server and keeps every request.
type Recorder struct {
	// Display is what $DISPLAY has to be to be recorded.
	Display string

	listener net.Listener
	server   string
	serving  sync.WaitGroup

	mu       sync.Mutex
	requests [][]byte
	conns    []net.Conn
}

// Record records what is asked of a display by programs that connect to a socket of the
// test's instead.
func Record(tb testing.TB, d *Display, socket string) *Recorder {
	tb.Helper()
	listener, err := net.Listen("unix", socket+":0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &Recorder{Display: socket + ":0", listener: listener, server: "/tmp/.X11-unix/X" + d.number}
	r.serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			r.serving.Go(func() { r.relay(client) })
		}
	})
	tb.Cleanup(func() {
		_ = listener.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.serving.Wait()
	})
	return r
}

// Requests are those that were made, as they were sent.
func (r *Recorder) Requests() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Connections counts the programs that have connected.
func (r *Recorder) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns) / 2
}

func (r *Recorder) relay(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", r.server)
	if err != nil {
		return
	}
	defer server.Close()
	r.mu.Lock()
	r.conns = append(r.conns, client, server)
	r.mu.Unlock()
	r.serving.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	requests := io.TeeReader(client, server)
	greeting := make([]byte, 12)
	if _, err := io.ReadFull(requests, greeting); err != nil {
		return
	}
	padded := func(n uint16) int64 { return int64(n+3) &^ 3 }
	rest := padded(binary.LittleEndian.Uint16(greeting[6:])) + padded(binary.LittleEndian.Uint16(greeting[8:]))
	if _, err := io.CopyN(io.Discard, requests, rest); err != nil {
		return
	}
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(requests, head); err != nil {
			return
		}
		request := make([]byte, max(4, 4*int(binary.LittleEndian.Uint16(head[2:]))))
		copy(request, head)
		if _, err := io.ReadFull(requests, request[4:]); err != nil {
			return
		}
		r.mu.Lock()
		r.requests = append(r.requests, request)
		r.mu.Unlock()
	}
}
