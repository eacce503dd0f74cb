package arrivals

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// handshake is one that hears a word, and ends when it is let go.
type handshake struct {
	credentials.TransportCredentials
	mu       sync.Mutex
	underWay int
	most     int
	begun    chan string
	goOn     chan struct{}
}

func (h *handshake) Clone() credentials.TransportCredentials { return h }

func (h *handshake) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	word := make([]byte, 16)
	n, err := conn.Read(word)
	if err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	h.underWay++
	h.most = max(h.most, h.underWay)
	h.mu.Unlock()
	h.begun <- string(word[:n])
	<-h.goOn
	h.mu.Lock()
	h.underWay--
	h.mu.Unlock()
	return conn, nil, nil
}

type caller struct {
	conn net.Conn
	done chan error
}

func call(t *testing.T, c credentials.TransportCredentials) *caller {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = ours.Close() })
	a := &caller{conn: ours, done: make(chan error, 1)}
	go func() {
		_, _, err := c.ServerHandshake(theirs)
		a.done <- err
	}()
	return a
}

func (c *caller) say(t *testing.T, word string) {
	t.Helper()
	if _, err := c.conn.Write([]byte(word)); err != nil {
		t.Fatal(err)
	}
}

const ages = time.Hour

func TestFewHandshakesGoOnAtOnce(t *testing.T) {
	const places, callers = 3, 40
	h := &handshake{begun: make(chan string, callers), goOn: make(chan struct{})}
	c := inTurn(h, places, ages, ages).Clone()
	// Who says nothing takes nobody's place.
	for range 2 * places {
		call(t, c)
	}
	var all []*caller
	for range callers {
		a := call(t, c)
		a.say(t, "hello")
		all = append(all, a)
	}
	for range places {
		<-h.begun
	}
	for range callers - places { // one goes on for each that ends
		h.goOn <- struct{}{}
		<-h.begun
	}
	close(h.goOn)
	for _, a := range all {
		if err := <-a.done; err != nil {
			t.Error(err)
		}
	}
	if h.most > places {
		t.Errorf("%d handshakes went on at once", h.most)
	}
}

func TestWhoWaitsTooLongIsSentAway(t *testing.T) {
	h := &handshake{begun: make(chan string, 2), goOn: make(chan struct{})}
	c := inTurn(h, 1, time.Millisecond, ages)
	first, second := call(t, c), call(t, c)
	first.say(t, "first")
	<-h.begun
	second.say(t, "second")
	if err := <-second.done; !errors.Is(err, ErrTooMany) {
		t.Errorf("who waited was told %v", err)
	}
	h.goOn <- struct{}{}
	if err := <-first.done; err != nil {
		t.Error(err)
	}
	third := call(t, c)
	third.say(t, "third")
	if word := <-h.begun; word != "third" {
		t.Errorf("the place that was given back went to %q", word)
	}
	close(h.goOn)
	if err := <-third.done; err != nil {
		t.Error(err)
	}
}

func TestWhoIsSlowKeepsNobodyOut(t *testing.T) {
	h := &handshake{begun: make(chan string, 2), goOn: make(chan struct{})}
	c := inTurn(h, 1, ages, time.Millisecond)
	slow, other := call(t, c), call(t, c)
	slow.say(t, "slow")
	<-h.begun
	other.say(t, "other")
	if word := <-h.begun; word != "other" {
		t.Errorf("%q was served", word)
	}
	close(h.goOn)
	for _, a := range []*caller{slow, other} {
		if err := <-a.done; err != nil {
			t.Error(err)
		}
	}
	if !c.places.TryAcquire(1) {
		t.Error("a place was not given back")
	}
	if c.places.TryAcquire(1) {
		t.Error("a place was given back twice")
	}
}
