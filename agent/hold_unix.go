//go:build unix

package agent

import "syscall"

// suspend and resume stop a program of the agent's user and let it go on. A program
// that is gone, or is another user's, is left alone.
func suspend(pid int32) { _ = syscall.Kill(int(pid), syscall.SIGSTOP) }

func resume(pid int32) { _ = syscall.Kill(int(pid), syscall.SIGCONT) }
