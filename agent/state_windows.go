package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/windows"
)

// lockFile is what an agent holds on to as long as it uses a directory.
const lockFile = "agent.lock"

// lockPatience is how long an agent waits for one that is ending: a release that was killed
// with its guardian may hold on to the directory for a moment, and is no reason to refuse
// the next.
const lockPatience = 3 * time.Second

// lockDir makes sure that one agent uses the directory at a time. The lock ends
// with the process.
func lockDir(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	const all = ^uint32(0)
	for began := time.Now(); ; {
		err = windows.LockFileEx(windows.Handle(file.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, all, all, new(windows.Overlapped))
		if err == nil {
			break
		}
		if time.Since(began) > lockPatience {
			_ = file.Close()
			return nil, fmt.Errorf("agent: another agent uses %s: %w", dir, err)
		}
		<-time.After(lockPatience / 20)
	}
	return func() { _ = file.Close() }, nil
}
