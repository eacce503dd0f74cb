package arrivals

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/credentials"
)

const (
	// placesPerProcessor is how many handshakes go on at once for each processor.
	placesPerProcessor = 32
	// patience is how long a caller waits for a place: less than agents wait for a connection.
	patience = 10 * time.Second
	// longest is how long a place is held. A caller who answers slowly goes on beyond it, and keeps
	// nobody from being served.
	longest = 250 * time.Millisecond
)

// ErrTooMany is why a caller was sent away.
var ErrTooMany = errors.New("arrivals: too many connections at once")

// InTurn has few handshakes go on at once, counted from the caller's first word on: who says nothing
// takes nobody's place.
func InTurn(c credentials.TransportCredentials) credentials.TransportCredentials {
	return inTurn(c, int64(placesPerProcessor*runtime.GOMAXPROCS(0)), patience, longest)
}

func inTurn(c credentials.TransportCredentials, places int64, patience, longest time.Duration) *orderly {
	return &orderly{TransportCredentials: c, places: semaphore.NewWeighted(places), patience: patience, longest: longest}
}

type orderly struct {
	credentials.TransportCredentials
	places            *semaphore.Weighted
	patience, longest time.Duration
}

// ServerHandshake implements credentials.TransportCredentials.
func (o *orderly) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	a := &arrival{Conn: raw, of: o}
	defer a.leave()
	return o.TransportCredentials.ServerHandshake(a)
}

// Clone implements credentials.TransportCredentials. The places stay the same.
func (o *orderly) Clone() credentials.TransportCredentials {
	return &orderly{TransportCredentials: o.TransportCredentials.Clone(), places: o.places, patience: o.patience, longest: o.longest}
}

// arrival is a connection in its handshake.
type arrival struct {
	net.Conn
	of     *orderly
	spoken bool // belongs to whoever reads, one at a time
	err    error

	once sync.Once
	held *time.Timer // nil while there is no place
}

// Read implements net.Conn. After the caller's first word it waits for a place.
func (a *arrival) Read(b []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.Conn.Read(b)
	if a.spoken || n == 0 {
		return n, err // as it is: crypto/tls and gRPC compare it
	}
	a.spoken = true
	if a.err = a.enter(); a.err != nil {
		return 0, a.err
	}
	return n, err
}

func (a *arrival) enter() error {
	ctx, cancel := context.WithTimeout(context.Background(), a.of.patience)
	defer cancel()
	if a.of.places.Acquire(ctx, 1) != nil {
		return ErrTooMany
	}
	a.held = time.AfterFunc(a.of.longest, a.release)
	return nil
}

func (a *arrival) release() { a.once.Do(func() { a.of.places.Release(1) }) }

// leave gives the place back.
func (a *arrival) leave() {
	if a.held != nil {
		a.held.Stop()
		a.release()
	}
}
