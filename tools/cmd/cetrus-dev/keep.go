package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cetrus/cetrus/tools/stack"
)

const (
	// How long a process may take to stop before it is killed; Ctrl-C promises five
	// seconds for everything.
	agentPatience    = 1500 * time.Millisecond
	platformPatience = 3200 * time.Millisecond
	// What the platform takes at most beyond what it is told to stop within.
	stopMargin = 1200 * time.Millisecond
	// A company of hundreds takes longer, and so does a platform that is adding up their past.
	companyPatience = 10 * time.Second
	// mostStarts in a row, each of which did not last for steady, are enough.
	mostStarts = 5
	steady     = 20 * time.Second
	// The pause before a start doubles from the first to the longest.
	shortestPause = 250 * time.Millisecond
	longestPause  = 5 * time.Second
)

// program is what is looked after: a process, or the office.
type program interface {
	// Done is closed once it has ended.
	Done() <-chan struct{}
	// Failure says how it has ended; nil while it runs.
	Failure() error
	// Stop asks it to end and waits, at most for its patience.
	Stop(patience time.Duration) error
}

// keeper starts a program again when it dies.
type keeper struct {
	name     string
	patience time.Duration
	// start starts the program again; it returns when the program is of use.
	start func(context.Context) (program, error)
	// say tells the person at the terminal.
	say func(string)
	// pause before the first start in a row; doubled for each after it.
	pause time.Duration
}

// keep looks after a running program until ctx ends, and then stops it. It ends by
// itself, with an error, where the program does not come up any more.
func (k *keeper) keep(ctx context.Context, p program) error {
	starts, began := 0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return p.Stop(k.patience)
		case <-p.Done():
		}
		if time.Since(began) >= steady {
			starts = 0
		}
		for failure := p.Failure(); failure != nil; {
			if starts == mostStarts {
				return fmt.Errorf("%s does not come up any more, and was tried %d times: %w", k.name, starts, failure)
			}
			pause := min(k.pause<<starts, longestPause)
			k.say(fmt.Sprintf("%s; it is started again", brief(failure)))
			if wait(ctx, pause); ctx.Err() != nil {
				return nil //nolint:nilerr // it was to end, and has
			}
			starts++
			began = time.Now()
			var next program
			if next, failure = k.start(ctx); failure == nil {
				p = next
			} else if ctx.Err() != nil {
				return nil //nolint:nilerr // as above
			}
		}
		k.say(k.name + " runs again")
	}
}

// brief is an error in one line.
func brief(err error) string {
	if ended := new(stack.EndedError); errors.As(err, &ended) {
		return fmt.Sprintf("%s has ended (%s; log: %s)", ended.Name, ended.How, ended.Log)
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}
