package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/desktop"
)

// askerOf is who is at the other end of a connection: whom the process ran as that
// connected (SO_PEERCRED).
func askerOf(conn net.Conn, _ time.Time) (asker, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return asker{}, errors.New("agent: control socket: a connection that is no Unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return asker{}, fmt.Errorf("agent: control socket: %w", err)
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return asker{}, fmt.Errorf("agent: control socket: %w", err)
	}
	if peerErr != nil {
		return asker{}, fmt.Errorf("agent: control socket: who asks: %w", peerErr)
	}
	return asker{
		user:          desktop.UserOf(peer.Uid),
		administrator: peer.Uid == 0 || int(peer.Uid) == os.Geteuid(),
	}, nil
}
