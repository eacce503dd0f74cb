package release

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// provenCode is the exit code of a release on trial that has shown that it is well, and has
// stopped in good order.
const provenCode = 86

// lastWord is how long a release whose trial is over may take to stop.
const lastWord = 5 * time.Second

// Launcher starts what a folder of releases says, in the place of this process.
type Launcher struct {
	Config Config
	// Dir is the folder.
	Dir string
	// Trial is how long a new release may take to show that it is well.
	Trial time.Duration
	Log   *slog.Logger
}

// Launch makes this process, which is the installed program, the release that is to run, and
// does not return then. Where the installed program itself is to go on, over is false. A
// release on trial runs as a child until it is over; ctx ends that too.
func (l Launcher) Launch(ctx context.Context) (over bool, err error) {
	if os.Getenv(roleVariable) != "" {
		return false, nil // launched already
	}
	self, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("release: find this program's own file: %w", err)
	}
	for ctx.Err() == nil {
		store, err := l.open()
		if err != nil {
			l.stay(err)
			return false, nil
		}
		plan, err := store.Next()
		if err != nil {
			l.stay(err)
			return false, nil
		}
		if plan.Trouble != "" {
			l.Log.ErrorContext(ctx, "about releases of the agent", "trouble", plan.Trouble)
		}
		switch {
		case plan.Program == "":
			return false, nil
		case !plan.Trial:
			l.Log.InfoContext(ctx, "starting the current release", "release", plan.Manifest)
			l.stay(become(plan.Program, self, roleCurrent))
			return false, nil
		}
		l.Log.InfoContext(ctx, "trying a release", "release", plan.Manifest, "bound", l.Trial)
		ended := l.guard(ctx, plan.Program, self)
		switch {
		case ended == "":
			err = store.Confirm()
		case ctx.Err() != nil:
			return true, store.CutShort()
		default:
			l.Log.ErrorContext(ctx, "the release is not well; the one before goes on", "release", plan.Manifest, "reason", ended)
			err = store.Refuse(ended)
		}
		if err != nil {
			l.stay(err)
			return false, nil
		}
	}
	return true, nil
}

// stay has the installed program run where the releases do not let themselves be used: a
// machine without an agent would be worse.
func (l Launcher) stay(err error) {
	l.Log.Error("no release can be started, so the installed program runs", "reason", err)
}

func (l Launcher) open() (*Store, error) {
	disk, err := Dir(l.Dir)
	if err != nil {
		return nil, err
	}
	store, trouble, err := Open(l.Config, disk)
	if trouble != nil {
		l.Log.Error("releases that were fetched are lost", "reason", trouble)
	}
	return store, err
}

// guard runs a release on trial, and says why it is not well; empty where it is.
func (l Launcher) guard(ctx context.Context, program, self string) string {
	result := make(chan string, 1)
	go func() {
		// The child's death is tied to that of the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		command := exec.Command(program, os.Args[1:]...) //nolint:gosec // Its signature and SHA-256 were verified.
		command.Env = launched(self, roleTrial)
		command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := command.Start(); err != nil {
			result <- fmt.Sprintf("it cannot be started: %v", err)
			return
		}
		over := make(chan struct{})
		timed := make(chan bool, 1)
		go func() { timed <- l.limit(ctx, command.Process, over) }()
		err := command.Wait()
		close(over)
		late := <-timed
		switch failed := new(exec.ExitError); {
		case errors.As(err, &failed) && failed.ExitCode() == provenCode:
			result <- ""
		case late:
			result <- fmt.Sprintf("it did not show within %v that it is well", l.Trial)
		case err != nil:
			result <- fmt.Sprintf("it ended before it had shown that it is well: %v", err)
		default:
			result <- "it stopped before it had shown that it is well"
		}
	}()
	return <-result
}

// limit ends a process whose time is over, or that is to stop; it tells whether time was why.
func (l Launcher) limit(ctx context.Context, process *os.Process, over <-chan struct{}) (timed bool) {
	timer := time.NewTimer(l.Trial)
	defer timer.Stop()
	select {
	case <-over:
		return false
	case <-ctx.Done():
	case <-timer.C:
		timed = true
	}
	_ = process.Signal(syscall.SIGTERM)
	timer.Reset(lastWord)
	select {
	case <-over:
	case <-timer.C:
		_ = process.Kill()
	}
	return timed
}

// Switch makes this process, a release that has stopped for another one, the installed
// program again, which starts what is to run. A release on trial ends, and tells its guardian
// thereby that it is well. It returns only where neither can be done.
func Switch() error {
	if OnTrial() {
		os.Exit(provenCode)
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

// become replaces this process; it returns only where that fails.
func become(program, launcher, role string) error {
	err := syscall.Exec(program, append([]string{program}, os.Args[1:]...), launched(launcher, role)) //nolint:gosec // Verified, or what was installed.
	return errors.Join(errors.New("it cannot be started"), err)
}

// launched is the environment of a process that is launched; without a role, of a launcher.
func launched(launcher, role string) []string {
	environment := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, roleVariable+"=") || strings.HasPrefix(variable, launcherVariable+"=")
	})
	if role == "" {
		return environment
	}
	return append(environment, roleVariable+"="+role, launcherVariable+"="+launcher)
}
