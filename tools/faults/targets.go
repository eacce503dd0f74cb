package faults

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// targets are what faults strike: each is struck by one fault at a time, unless both do not mind.
type targets struct {
	mu   sync.Mutex
	busy map[string]bool
	// reserved is what somebody has waited for so long that nobody else gets it.
	reserved []string
}

// longWait is how long somebody waits for targets before they are reserved.
const longWait = time.Second

// take waits until all of one of the sets are free, and takes them: the first in a random order.
func (t *targets) take(ctx context.Context, random *dice, sets [][]string) (set []string, release func(), err error) {
	order := random.permutation(len(sets))
	began, reserved := time.Now(), false
	for {
		for _, i := range order {
			if t.takeAll(sets[i], reserved) {
				return sets[i], func() { t.release(sets[i]) }, nil
			}
		}
		if !reserved && time.Since(began) > longWait && t.reserve(sets[order[0]]) {
			order, reserved = order[:1], true
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return nil, nil, ctx.Err()
		}
	}
}

func (t *targets) reserve(names []string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reserved != nil {
		return false
	}
	t.reserved = names
	return true
}

// takeAll takes targets if all are free; reserved says that they are the caller's to wait for.
func (t *targets) takeAll(names []string, reserved bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		if t.busy[name] || !reserved && slices.Contains(t.reserved, name) {
			return false
		}
	}
	if reserved {
		t.reserved = nil
	}
	for _, name := range names {
		t.busy[name] = true
	}
	return true
}

func (t *targets) release(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		delete(t.busy, name)
	}
}

// dice are a seeded source that several may throw.
type dice struct {
	mu     sync.Mutex
	random *rand.Rand
}

func newDice(seed, stream uint64) *dice { return &dice{random: rand.New(rand.NewPCG(seed, stream))} }

func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.IntN(n)
}

func (d *dice) permutation(n int) []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.Perm(n)
}

// between is a time from one to another.
func (d *dice) between(from, to time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return from + time.Duration(d.random.Int64N(int64(to-from)+1))
}
