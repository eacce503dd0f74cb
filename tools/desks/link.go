package desks

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// flakyLink is the network of a laptop that leaves the office.
type flakyLink struct {
	mu          sync.Mutex
	away        bool
	connections map[net.Conn]bool
}

var errAway = errors.New("desks: the laptop is out of reach")

func newFlakyLink() *flakyLink { return &flakyLink{connections: map[net.Conn]bool{}} }

func (l *flakyLink) dial(ctx context.Context, address string) (net.Conn, error) {
	if l.isAway() {
		return nil, errAway
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return nil, errors.Join(errAway, connection.Close())
	}
	l.connections[connection] = true
	return &linked{Conn: connection, link: l}, nil
}

func (l *flakyLink) isAway() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.away
}

// set goes away, cutting what is connected, or comes back.
func (l *flakyLink) set(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
	if away {
		for connection := range l.connections {
			connection.Close()
		}
		clear(l.connections)
	}
}

// roam leaves and comes back until ctx ends; some are away from the start.
func (l *flakyLink) roam(ctx context.Context, number int, seed uint64) {
	random := rand.New(rand.NewPCG(seed, uint64(number)))
	away := number%3 == 0
	for ctx.Err() == nil {
		l.set(away)
		stay := 2*time.Minute + time.Duration(random.Int64N(int64(6*time.Minute)))
		if away {
			stay = 45*time.Second + time.Duration(random.Int64N(int64(3*time.Minute)))
		}
		timer := time.NewTimer(stay)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		away = !away
	}
}

type linked struct {
	net.Conn
	link *flakyLink
}

// Close forgets the connection.
func (c *linked) Close() error {
	c.link.mu.Lock()
	delete(c.link.connections, c.Conn)
	c.link.mu.Unlock()
	return c.Conn.Close()
}
