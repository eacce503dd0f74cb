//go:build linux || windows

package release

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// provenCode is the exit code of a release that has stopped in good order for another one
// to go on: on trial, to say that it is well.
const provenCode = 86

// lastWord is how long a release that is to stop may take to do so.
const lastWord = 5 * time.Second

// Launcher starts what a folder of releases says, in the place of this process.
type Launcher struct {
	Config Config
	// Dir is the folder.
	Dir string
	// Trial is how long a new release may take to show that it is well.
	Trial time.Duration
	Log   *slog.Logger
	// Environment is added to that of a release, as name=value.
	Environment []string
	// Looks passes on to a release that its desktop may have changed; nil: nothing is
	// passed on. Releases that take this process's place hear of it themselves.
	Looks <-chan struct{}
}

// errNotStarted says that a release cannot be started at all.
var errNotStarted = errors.New("it cannot be started")

// Launch has the release that is to run go on in the place of this process, which is the
// installed program. Where the system lets a process become another program, Launch does not
// return then; elsewhere it returns when that is over. Where the installed program itself
// is to go on, over is false. A release on trial runs as a child; ctx ends that too.
func (l Launcher) Launch(ctx context.Context) (over bool, err error) {
	if Launched() {
		return false, nil
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
		if err := store.Tidy(); err != nil { // such as a program that a virus scanner looks at
			l.Log.WarnContext(ctx, "a program that is not needed any more is left", "reason", err)
		}
		if plan.Program == "" {
			return false, nil
		}
		if !plan.Trial {
			l.Log.InfoContext(ctx, "starting the current release", "release", plan.Manifest)
			again, err := l.goOnAs(ctx, plan.Program, self)
			switch {
			case errors.Is(err, errNotStarted):
				l.stay(err)
				return false, nil
			case err != nil || !again:
				return true, err
			}
			continue
		}
		l.Log.InfoContext(ctx, "trying a release", "release", plan.Manifest, "bound", l.Trial)
		ended := l.try(ctx, plan.Program, self)
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

// try runs a release on trial, and says why it is not well; empty where it is.
func (l Launcher) try(ctx context.Context, program, self string) string {
	code, late, err := l.run(ctx, program, self, roleTrial, l.Trial)
	switch {
	case errors.Is(err, errNotStarted):
		return err.Error()
	case err == nil && code == provenCode:
		return ""
	case late:
		return fmt.Sprintf("it did not show within %v that it is well", l.Trial)
	case err != nil:
		return fmt.Sprintf("it ended before it had shown that it is well: %v", err)
	case code != 0:
		return fmt.Sprintf("it ended before it had shown that it is well: exit status %d", code)
	default:
		return "it stopped before it had shown that it is well"
	}
}

// run runs a release as a child until it ends. ctx ends it, and so does a limit, where
// there is one: it is told to stop, and ended where it does not.
func (l Launcher) run(ctx context.Context, program, self, role string, limit time.Duration) (code int, late bool, err error) {
	type result struct {
		code int
		late bool
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		// On Linux the child's death is tied to that of the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		c, err := startChild(program, append(launched(self, role), l.Environment...))
		if err != nil {
			ended <- result{err: fmt.Errorf("%w: %w", errNotStarted, err)}
			return
		}
		defer c.close()
		over, timed := make(chan struct{}), make(chan bool, 1)
		go func() { timed <- l.attend(ctx, c, limit, over) }()
		code, err := c.wait()
		close(over)
		ended <- result{code, <-timed, err}
	}()
	r := <-ended
	return r.code, r.late, r.err
}

// attend passes on to a child what it is to know, and ends it when its time is over or it is
// to stop; it tells whether time was why.
func (l Launcher) attend(ctx context.Context, c *child, limit time.Duration, over <-chan struct{}) (timed bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	expired := timer.C
	if limit == 0 {
		expired = nil
	}
waiting:
	for {
		select {
		case <-over:
			return false
		case <-l.Looks:
			c.look()
		case <-ctx.Done():
			break waiting
		case <-expired:
			timed = true
			break waiting
		}
	}
	c.stop()
	timer.Reset(lastWord)
	select {
	case <-over:
	case <-timer.C:
		c.kill()
	}
	return timed
}

// launched is the environment of a process that is launched; without a role, of a launcher.
func launched(launcher, role string) []string {
	environment := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return name == roleVariable || name == launcherVariable
	})
	if role == "" {
		return environment
	}
	return append(environment, roleVariable+"="+role, launcherVariable+"="+launcher)
}
