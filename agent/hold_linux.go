package agent

import (
	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// identify finds the process of a key: the kernel tells starts on the boot timeline. One
// that is not run by the session's own person is none of theirs to be held, whoever says
// that it shows a window there: a service of the machine must not stand still for that.
func identify(key activity.ProcessKey, owner activity.User) (program, bool) {
	return program{PID: key.PID, Start: key.StartMillis}, desktop.IsRunBy(key.PID, owner.UID)
}

// suspend and resume stop a program and let it go on. One that is gone, or that the
// agent has no right to stop, is left alone.
func suspend(p program) { signal(p, unix.SIGSTOP) }

func resume(p program) { signal(p, unix.SIGCONT) }

// signal reaches the process that has the pid since that start, and no other one: what
// is open cannot change hands between the look and the signal. A kernel without
// pidfd_open(2) gets the look alone.
func signal(p program, s unix.Signal) {
	fd, openErr := unix.PidfdOpen(int(p.PID), 0)
	if openErr == nil {
		defer unix.Close(fd)
	}
	if start, err := desktop.StartMillis(p.PID); err != nil || start != p.Start {
		return
	}
	if openErr != nil {
		_ = unix.Kill(int(p.PID), s)
		return
	}
	_ = unix.PidfdSendSignal(fd, s, nil, 0)
}

// sameBoot tells whether this run of the machine is that of a boot id: starts are told
// from its beginning.
func sameBoot(boot string) bool {
	id, err := desktop.BootID()
	return err == nil && id.String() == boot
}
