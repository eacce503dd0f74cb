package trial

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// upgrade brings the platform to this commit's chart and image while agents record and people ask, back to what was
// there before, as docs/operations/upgrade.md promises, and forward again.
func upgrade(ctx context.Context, t *trial) error {
	asking := t.ask(ctx)
	defer asking.stop()
	t.say("upgrading to %s", t.current.number)
	t.platform.chart = filepath.Join(t.current.charts, "cetrus")
	begun := time.Now()
	forward := func() error {
		if _, err := t.helm(ctx, append([]string{"upgrade", t.platform.name, t.platform.chart, "--wait", "--timeout", "10m"}, t.platform.settings()...)...); err != nil {
			return err
		}
		return t.platform.ready(ctx)
	}
	if err := forward(); err != nil {
		return err
	}
	took := time.Since(begun)
	if _, err := t.platform.test(ctx); err != nil {
		return err
	}
	t.say("upgraded after %.0f s: %s", took.Seconds(), asking.told())
	if err := t.compare(ctx); err != nil {
		return err
	}

	t.say("going back to %s", t.old.number)
	begun = time.Now()
	if _, err := t.helm(ctx, "rollback", t.platform.name, "--namespace", namespace, "--wait", "--timeout", "10m"); err != nil {
		return err
	}
	if err := t.platform.ready(ctx); err != nil {
		return err
	}
	back := time.Since(begun)
	if err := t.compare(ctx); err != nil {
		return err
	}
	if err := forward(); err != nil {
		return err
	}
	asking.stop()
	t.say("back after %.0f s, and forward again: %s", back.Seconds(), asking.told())
	return t.line("upgrade", took.Seconds(), "s", readyWithin.Seconds(), map[string]any{
		"from": t.old.name, "rollback_s": back.Seconds(), "questions": asking.questions, "unanswered": asking.failed, "longest_away_s": asking.longest.Seconds(),
	})
}

// asking is somebody who asks the API all the time, and counts what is not answered.
type asking struct {
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu                sync.Mutex
	questions, failed int
	// longest is the longest time in which no question was answered; last is why one was not.
	longest time.Duration
	last    error
}

// ask begins to ask, four times a second.
func (t *trial) ask(ctx context.Context) *asking {
	ctx, cancel := context.WithCancel(ctx)
	a := &asking{cancel: cancel}
	a.ended.Go(func() {
		ticker := time.NewTicker(250 * time.Millisecond)
		defer ticker.Stop()
		answered := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			bounded, done := context.WithTimeout(ctx, 5*time.Second)
			_, err := t.usage.api.Applications(bounded)
			done()
			if ctx.Err() != nil {
				return
			}
			a.mu.Lock()
			a.questions++
			if err != nil {
				a.failed++
				a.last = err
				a.longest = max(a.longest, time.Since(answered))
			} else {
				answered = time.Now()
			}
			a.mu.Unlock()
		}
	})
	return a
}

// stop ends the asking. It may be called again.
func (a *asking) stop() {
	a.cancel()
	a.ended.Wait()
}

func (a *asking) told() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == 0 {
		return fmt.Sprintf("all of %d questions were answered", a.questions)
	}
	return fmt.Sprintf("%d of %d questions were not answered, for %s at the longest; the last: %v", a.failed, a.questions, a.longest.Round(100*time.Millisecond), a.last)
}
