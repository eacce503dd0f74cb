package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// askerOf is who is at the other end of a connection, by number: whom the process ran as
// that connected (SO_PEERCRED).
func askerOf(conn net.Conn) (asker, error) {
	uid, err := uidOf(conn)
	if err != nil {
		return asker{}, err
	}
	return asker{user: activity.User{UID: strconv.FormatUint(uint64(uid), 10)}, administrator: administers(uid)}, nil
}

func administers(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

func uidOf(conn net.Conn) (uint32, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("agent: control socket: a connection that is no Unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("agent: control socket: %w", err)
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, fmt.Errorf("agent: control socket: %w", err)
	}
	if peerErr != nil {
		return 0, fmt.Errorf("agent: control socket: who asks: %w", peerErr)
	}
	return peer.Uid, nil
}

// placeOf says whose places at the control channel somebody takes one of. sits tells whose
// session is watched: whoever has none may be one person with many users (user namespaces).
func placeOf(conn net.Conn, sits func(uid string) bool) string {
	uid, err := uidOf(conn)
	if err != nil {
		return ofStrangers
	}
	return placeOfUser(uid, sits)
}

func placeOfUser(uid uint32, sits func(uid string) bool) string {
	number := strconv.FormatUint(uint64(uid), 10)
	switch {
	case administers(uid):
		return ofAdministrators
	case sits(number):
		return "user " + number
	default:
		return ofStrangers
	}
}

// userOf asks the system whom a number stands for.
func userOf(ctx context.Context, uid string) (activity.User, error) {
	number, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return activity.User{}, fmt.Errorf("agent: the user %q has no number: %w", uid, err)
	}
	return desktop.UserOf(ctx, uint32(number))
}
