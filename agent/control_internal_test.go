package agent

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// oneConn is a listener that somebody has come to.
type oneConn struct {
	net.Listener
	conn net.Conn
}

func (l oneConn) Accept() (net.Conn, error) { return l.conn, nil }

// Who asks is told by the number of their process where the system tells no more: a process
// that began while they waited for room must not pass for them.
func TestWhoWaitsForRoomCameBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		l := &askedListener{Listener: oneConn{conn: ours}, room: make(chan struct{}, 1)}
		l.room <- struct{}{}
		came := time.Now()
		go func() {
			time.Sleep(time.Second) //nolint:forbidigo // Virtual time: it passes when everybody waits.
			<-l.room
		}()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if asked, ok := conn.(*askedConn); !ok || !asked.taken.Equal(came) {
			t.Errorf("they came at %v, and count as having come at %v", came, asked.taken)
		}
	})
}
