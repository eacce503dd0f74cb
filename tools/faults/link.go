package faults

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is a TCP connection's way between a Manager and the platform, which can be
// cut and slowed down.
type link struct {
	listener net.Listener
	to       string
	address  string

	mu      sync.Mutex
	open    map[net.Conn]struct{}
	refuse  bool
	closing sync.WaitGroup
	delay   atomic.Int64 // nanoseconds that each piece of data is held back
}

func newLink(to string) (*link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("faults: link to %s: %w", to, err)
	}
	l := &link{listener: listener, to: to, address: listener.Addr().String(), open: map[net.Conn]struct{}{}}
	l.closing.Go(l.accept)
	return l, nil
}

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.DialTimeout("tcp", l.to, 2*time.Second)
		if err != nil || !l.admit(near, far) {
			_ = near.Close()
			if far != nil {
				_ = far.Close()
			}
			continue
		}
		l.closing.Go(func() { l.carry(far, near) })
		l.closing.Go(func() { l.carry(near, far) })
	}
}

func (l *link) admit(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse {
		return false
	}
	for _, c := range conns {
		l.open[c] = struct{}{}
	}
	return true
}

func (l *link) carry(to, from net.Conn) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
		l.mu.Lock()
		delete(l.open, to)
		delete(l.open, from)
		l.mu.Unlock()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !sleep(context.Background(), time.Duration(l.delay.Load())) {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut breaks what is open and refuses what comes until mend.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = true
	for c := range l.open {
		_ = c.Close()
	}
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = false
}

func (l *link) close() {
	_ = l.listener.Close()
	l.cut()
	l.closing.Wait()
}
