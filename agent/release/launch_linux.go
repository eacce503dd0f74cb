package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// goOnAs makes this process a release; it returns only where that fails.
func (l Launcher) goOnAs(ctx context.Context, program, self string) (again bool, err error) {
	if told(ctx) {
		return false, nil
	}
	return false, become(program, self, roleCurrent)
}

// Guarded gives ctx itself: a guardian tells by a signal that its release is to stop.
func Guarded(ctx context.Context, _ func()) (guarded context.Context, done func(), err error) {
	return ctx, func() {}, nil
}

// child is a release that runs under this process.
type child struct{ command *exec.Cmd }

func startChild(program string, environment []string) (*child, error) {
	command := exec.Command(program, os.Args[1:]...) //nolint:gosec // Its signature and SHA-256 were verified.
	command.Env = environment
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return &child{command}, command.Start()
}

func (c *child) wait() (code int, err error) {
	err = c.command.Wait()
	failed := new(exec.ExitError)
	if errors.As(err, &failed) && failed.Exited() {
		return failed.ExitCode(), nil
	}
	return 0, err
}

func (c *child) stop() { _ = c.command.Process.Signal(syscall.SIGTERM) }

func (c *child) kill() { _ = c.command.Process.Kill() }

// look is for systems whose sessions are told to the guardian alone.
func (*child) look() {}

func (*child) close() {}

// Switch makes this process, a release that has stopped for another one, the installed
// program again, which starts what is to run. A release on trial ends, and tells its guardian
// thereby that it is well. It returns only where neither can be done, and where ctx says that
// this process is to stop: the program in its place would not know.
func Switch(ctx context.Context) error {
	if OnTrial() {
		os.Exit(provenCode)
	}
	if told(ctx) {
		return nil
	}
	signal.Reset(syscall.SIGTERM, syscall.SIGINT) // what comes from now on ends the process, whichever program it is
	if told(ctx) {
		return nil
	}
	self := os.Getenv(launcherVariable)
	if self == "" {
		var err error
		if self, err = os.Executable(); err != nil {
			return fmt.Errorf("release: find this program's own file: %w", err)
		}
	}
	if err := become(self, "", ""); err != nil {
		return fmt.Errorf("release: start %s, which starts the new release: %w", self, err)
	}
	return nil
}

// underway is how long a signal that has reached this process may take to end a context.
const underway = 10 * time.Millisecond

// told says whether a process that is about to become another program was told to stop. It
// waits for signals that are under way, for they would be forgotten.
func told(ctx context.Context) bool {
	heard := time.NewTimer(underway)
	defer heard.Stop()
	select {
	case <-ctx.Done():
		return true
	case <-heard.C:
		return false
	}
}

// become replaces this process; it returns only where that fails.
func become(program, launcher, role string) error {
	err := syscall.Exec(program, append([]string{program}, os.Args[1:]...), launched(launcher, role)) //nolint:gosec // Verified, or what was installed.
	return fmt.Errorf("%w: %w", errNotStarted, err)
}
