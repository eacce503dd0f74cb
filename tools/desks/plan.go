package desks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// newestStretch is how long the stretch is that is loaded first; each one before it is
	// twice as long as the one after.
	newestStretch = 14
	// shortestGap is how long the desks must have stood still for that time to be made up.
	shortestGap = 30 * time.Minute
	// longestGap is how much of it is made up.
	longestGap = 60 * 24 * time.Hour
	aliveEvery = time.Minute

	planFile, aliveFile = "plan.json", "alive.json"
)

// plan is what the past is; it is decided once, and grows by what was missed while
// nothing ran.
type plan struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Seed uint64    `json:"seed"`
	// Gaps are times in which nothing ran, the newest first.
	Gaps []stretch `json:"gaps,omitempty"`

	dir string
}

// stretch is a part of the past.
type stretch struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

func (s stretch) length() time.Duration { return s.To.Sub(s.From) }

func openPlan(dir string, days int, seed uint64, now time.Time) (plan, error) {
	now = now.Truncate(time.Second)
	p := plan{}
	err := readJSON(filepath.Join(dir, planFile), &p)
	p.dir = dir
	switch {
	case errors.Is(err, os.ErrNotExist):
		p.From, p.To, p.Seed = now, now, seed
		if days > 0 {
			p.From = midnight(now.AddDate(0, 0, -days))
		}
	case err != nil:
		return p, err
	default:
		var alive time.Time
		if err := readJSON(filepath.Join(dir, aliveFile), &alive); err != nil && !errors.Is(err, os.ErrNotExist) {
			return p, err
		}
		if alive.IsZero() || now.Sub(alive) < shortestGap {
			return p, nil
		}
		if earliest := now.Add(-longestGap); alive.Before(earliest) {
			alive = earliest.Truncate(time.Second)
		}
		p.Gaps = append([]stretch{{alive, now}}, p.Gaps...)
	}
	if err := writeJSON(filepath.Join(dir, planFile), p); err != nil {
		return p, err
	}
	return p, writeJSON(filepath.Join(dir, aliveFile), now)
}

// of is the past of a desk in the order in which it is loaded.
func (p *plan) of(desk *Desk) []stretch {
	first := stretches(p.From, p.To)
	if desk.Whole && len(first) > 0 {
		first = []stretch{{p.From, p.To}}
	}
	return slices.Concat(p.Gaps, first)
}

// stretches cuts the past at midnights, the newest stretch first.
func stretches(from, to time.Time) []stretch {
	var all []stretch
	for days := newestStretch; from.Before(to); days *= 2 {
		begin := midnight(to.AddDate(0, 0, -days))
		if begin.AddDate(0, 0, -days/2).Before(from) {
			begin = from
		}
		all = append(all, stretch{begin, to})
		to = begin
	}
	return all
}

func midnight(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, t.Location())
}

// stayAlive notes until when the desks were there.
func (p *plan) stayAlive(ctx context.Context, log *slog.Logger) {
	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
		if err := writeJSON(filepath.Join(p.dir, aliveFile), time.Now().Truncate(time.Second)); err != nil {
			log.Error("what is missed until the next start will not be made up", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func readJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("desks: %w", err)
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("desks: %s: %w", path, err)
	}
	return nil
}

// writeJSON puts a file in place whole: who is killed goes on the next time.
func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("desks: %s: %w", path, err)
	}
	return nil
}
