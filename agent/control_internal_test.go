package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

// queue is a listener that somebody comes to, one after the other.
type queue struct {
	net.Listener
	came chan net.Conn
}

func newQueue(conns ...net.Conn) queue {
	q := queue{came: make(chan net.Conn, len(conns))}
	for _, c := range conns {
		q.came <- c
	}
	return q
}

func (q queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.came:
		return c, nil
	default:
		return nil, net.ErrClosed
	}
}

// visitor is a connection that somebody in particular has made.
type visitor struct {
	net.Conn
	who string
}

func newVisitor(t *testing.T, who string) visitor {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = errors.Join(ours.Close(), theirs.Close()) })
	return visitor{ours, who}
}

func ofVisitors(conn net.Conn) string {
	v, _ := conn.(visitor)
	return v.who
}

// However often one person comes, there is a place for another, and a place that is left is
// there for who comes next.
func TestNobodyTakesThePlacesOfOthers(t *testing.T) {
	t.Parallel()
	var all []net.Conn
	for range 2 * maxAskers {
		all = append(all, newVisitor(t, "ann"))
	}
	l := newAskedListener(newQueue(append(all, newVisitor(t, "bob"))...), ofVisitors)
	accept := func() *askedConn {
		t.Helper()
		conn, err := l.Accept()
		if err != nil {
			t.Fatalf("nobody is let in: %v", err)
		}
		asked, _ := conn.(*askedConn)
		return asked
	}
	var anns []*askedConn
	for range maxOfOneAsker {
		anns = append(anns, accept())
	}
	if bob := accept(); ofVisitors(bob.Conn) != "bob" {
		t.Fatalf("after %d of ann's, another of hers is let in", maxOfOneAsker)
	}
	if _, err := all[maxOfOneAsker].Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("who is not let in is not hung up on: %v", err)
	}
	if err := errors.Join(anns[0].Close(), anns[0].Close()); err != nil {
		t.Error(err)
	}
	l.Listener = newQueue(newVisitor(t, "ann"), newVisitor(t, "ann"), newVisitor(t, "eve"))
	if next := accept(); ofVisitors(next.Conn) != "ann" {
		t.Errorf("the place that ann has left goes to %s", ofVisitors(next.Conn))
	}
	if next := accept(); ofVisitors(next.Conn) != "eve" {
		t.Error("ann has left one place, and gets two")
	}
}

// A directory that does not answer holds nobody up for long, and who asks is then nobody
// rather than somebody else; one that does is not asked each time.
func TestNamesWaitForNoDirectory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, dead := 0, true
		n := newNames(func(ctx context.Context, uid string) (activity.User, error) {
			if asked++; dead {
				<-ctx.Done()
				return activity.User{}, ctx.Err()
			}
			return activity.User{UID: uid, Name: "ann"}, nil
		})
		began := time.Now()
		if u, err := n.of(t.Context(), "1000"); err == nil || time.Since(began) > namePatience {
			t.Errorf("a dead directory says %+v, %v after %v", u, err, time.Since(began))
		}
		dead = false
		for range 3 {
			if u, err := n.of(t.Context(), "1000"); err != nil || u.Name != "ann" {
				t.Errorf("user 1000 is %+v, %v", u, err)
			}
		}
		if asked != 2 {
			t.Errorf("the directory was asked %d times", asked)
		}
		time.Sleep(nameValid) //nolint:forbidigo // Virtual time: it passes when everybody waits.
		for uid := range 3 * maxNames {
			if _, err := n.of(t.Context(), string(rune(uid))); err != nil {
				t.Error(err)
			}
		}
		if len(n.known) > maxNames {
			t.Errorf("%d names are kept", len(n.known))
		}
	})
}

// Whoever does not let themselves be known is refused each time, and fills no log with it.
func TestTheNamelessFillNoLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := newControl(&Agent{log: slog.New(slog.NewTextHandler(&log, nil))}, newQueue())
	c.handle("GET /", func(asker, http.ResponseWriter, *http.Request) { t.Error("somebody without a name is answered") })
	ours, theirs := net.Pipe()
	defer theirs.Close()
	defer ours.Close()
	for range 1000 {
		request := httptest.NewRequestWithContext(context.WithValue(t.Context(), connKey{}, &askedConn{Conn: ours}), http.MethodGet, "/", http.NoBody)
		said := httptest.NewRecorder()
		c.mux.ServeHTTP(said, request)
		if said.Code != http.StatusForbidden {
			t.Fatalf("they are told %d: %s", said.Code, said.Body)
		}
	}
	if n := bytes.Count(log.Bytes(), []byte("does not name")); n == 0 || n > 20 {
		t.Errorf("it is said %d times", n)
	}
}
