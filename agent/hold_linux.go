package agent

import (
	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// suspend and resume stop a program of the agent's user and let it go on. A program
// that is gone, or is another user's, is left alone.
func suspend(key activity.ProcessKey) { signal(key, unix.SIGSTOP) }

func resume(key activity.ProcessKey) { signal(key, unix.SIGCONT) }

// signal reaches the process that has the pid since that start, and no other one: what
// is open cannot change hands between the look and the signal. A kernel without
// pidfd_open(2) gets the look alone.
func signal(key activity.ProcessKey, s unix.Signal) {
	fd, openErr := unix.PidfdOpen(int(key.PID), 0)
	if openErr == nil {
		defer unix.Close(fd)
	}
	if start, err := desktop.StartMillis(key.PID); err != nil || start != key.StartMillis {
		return
	}
	if openErr != nil {
		_ = unix.Kill(int(key.PID), s)
		return
	}
	_ = unix.PidfdSendSignal(fd, s, nil, 0)
}

// bootNow names this run of the machine, as observations do.
func bootNow() string {
	id, err := desktop.BootID()
	if err != nil {
		return ""
	}
	return id.String()
}
