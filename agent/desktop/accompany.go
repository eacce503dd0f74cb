package desktop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

// How a companion is kept.
const (
	// One that has ended is replaced after a pause that doubles, up to the last; one that
	// was there for so long has shown that the trouble is over.
	firstCompanionPause = time.Second
	lastCompanionPause  = 5 * time.Minute
	companionSettled    = time.Minute
	// How long one that was let go of may take to end.
	companionEnd = 3 * time.Second
)

// Accompany gives the desktop with a program of ours in each of its sessions, for as long as
// it is watched: the icon beside the clock. The program ends when its standard input does,
// so that it does not outlive the service either, and is not in an upgrade's way.
func Accompany(d Desktop, launcher Launcher, program Program, log *slog.Logger) Desktop {
	return &accompanied{Desktop: d, launcher: launcher, program: program, log: log, ends: make(map[string]context.CancelFunc)}
}

type accompanied struct {
	Desktop
	launcher Launcher
	program  Program
	log      *slog.Logger

	// Only the goroutine of Watch touches what follows.
	ends    map[string]context.CancelFunc // of the companions, by session
	keepers sync.WaitGroup
}

// Sift implements Sieve, for a desktop that does.
func (a *accompanied) Sift(wanted func(executable, path, pkg string) bool) {
	if sieve, can := a.Desktop.(Sieve); can {
		sieve.Sift(wanted)
	}
}

// Watch implements Desktop.
func (a *accompanied) Watch(ctx context.Context, tell func(activity.Observation)) error {
	ctx, end := context.WithCancel(ctx)
	defer a.keepers.Wait()
	defer end()
	return a.Desktop.Watch(ctx, func(o activity.Observation) {
		tell(o)
		a.follow(ctx, o.Sessions)
	})
}

// follow sees to it that each session, and no other, has a companion.
func (a *accompanied) follow(ctx context.Context, sessions []activity.Session) {
	gone := make(map[string]bool, len(a.ends))
	for key := range a.ends {
		gone[key] = true
	}
	for _, s := range sessions {
		delete(gone, s.Key)
		if a.ends[s.Key] != nil || ctx.Err() != nil {
			continue
		}
		there, end := context.WithCancel(ctx)
		a.ends[s.Key] = end
		a.keepers.Go(func() { a.keep(there, s.Key) })
	}
	for key := range gone {
		a.ends[key]()
		delete(a.ends, key)
	}
}

// keep has a companion in a session until ctx ends.
func (a *accompanied) keep(ctx context.Context, session string) {
	pause, said := firstCompanionPause, false
	for {
		began := time.Now()
		err := a.run(ctx, session)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= companionSettled {
			pause, said = firstCompanionPause, false
		}
		if !said {
			said = true
			a.log.WarnContext(ctx, "a session has no icon beside the clock; it is tried again", "session", session, "reason", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastCompanionPause)
	}
}

// run has one companion in a session until it ends by itself, or ctx does.
func (a *accompanied) run(ctx context.Context, session string) error {
	input, hold, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("desktop: %w", err)
	}
	defer hold.Close()
	program := a.program
	program.In = input
	companion, err := a.launcher.Launch(session, program)
	_ = input.Close()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- companion.Wait() }()
	select {
	case err := <-ended:
		return errors.Join(errors.New("desktop: it has ended"), err)
	case <-ctx.Done():
	}
	_ = hold.Close()
	select {
	case err = <-ended:
	case <-time.After(companionEnd):
		_ = companion.Kill()
		err = <-ended
	}
	return err
}
