//go:build unix

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience is how long a lock is waited for.
const lockPatience = time.Second

// lockDir makes sure that one agent uses the directory at a time. The lock ends
// with the process.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	// A program that this process is just starting holds the lock of an agent that it has
	// closed until it is that program: where one begins behind another, that is waited for.
	again := time.NewTicker(lockPatience / 100)
	defer again.Stop()
	for late := time.Now().Add(lockPatience); ; <-again.C {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil || time.Now().After(late) {
			break
		}
	}
	if err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("agent: another agent uses %s: %w", dir, err)
	}
	return func() { _ = d.Close() }, nil
}

// longestSocket is how long the path of a Unix socket may be: sun_path less its zero.
const longestSocket = 107

// socketAddress is a name under which a Unix socket can be bound and reached: its path
// or, where that is too long, one that goes by an open descriptor of its directory.
// release lets go of that once the name is no longer used.
func socketAddress(path string) (address string, release func(), err error) {
	if len(path) <= longestSocket {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fmt.Errorf("agent: control socket: %w", err)
	}
	address = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if _, err := os.Stat(filepath.Dir(address)); err != nil || len(address) > longestSocket {
		_ = dir.Close()
		return "", nil, fmt.Errorf("agent: the path of the control socket, %s, is %d bytes long, and the system takes %d: name a shorter one with control-socket", path, len(path), longestSocket)
	}
	return address, func() { _ = dir.Close() }, nil
}
