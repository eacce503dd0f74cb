package agent

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/activity"
)

// placeOf says whose places at the control channel somebody takes one of: those of their
// session, which the system tells of a process without being held up. Services and who runs
// as one have the first session for themselves.
func placeOf(conn net.Conn, _ func(uid string) bool) string {
	pipe, ok := conn.(interface{ Fd() uintptr })
	if !ok {
		return ofStrangers
	}
	var pid, session uint32
	if windows.GetNamedPipeClientProcessId(windows.Handle(pipe.Fd()), &pid) != nil || windows.ProcessIdToSessionId(pid, &session) != nil {
		return ofStrangers
	}
	return "session " + strconv.FormatUint(uint64(session), 10)
}

// userOf is not asked: whoever asks has a name.
func userOf(_ context.Context, uid string) (activity.User, error) {
	return activity.User{}, fmt.Errorf("agent: users of Windows have no number such as %s", uid)
}
