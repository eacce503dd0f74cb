package metering

import (
	"context"
	"slices"
	"sync"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// exportsAtOnce bounds how many parts of exports are asked at once: each may take a processor
	// for minutes.
	exportsAtOnce = 4
	// exportsOfAccount bounds how many of them are of one account.
	exportsOfAccount = 2
)

// turns hands out a number of places fairly: to the accounts that wait one after the other, and
// within an account to whoever came first. A place is for one piece of work, and nobody keeps it while
// they wait for others, such as a reader that takes nothing.
type turns struct {
	each int

	mu   sync.Mutex
	free int
	held map[contract.ID]int
	// waiting are those who wait, by account; round are the accounts of them, whose turn is next first.
	waiting map[contract.ID][]chan struct{}
	round   []contract.ID
}

// newTurns has so many places, of which one account has at most each.
func newTurns(places, each int) *turns {
	return &turns{free: places, each: each, held: make(map[contract.ID]int), waiting: make(map[contract.ID][]chan struct{})}
}

// do does a piece of work when the account's turn comes; it fails where ctx ends before.
func (t *turns) do(ctx context.Context, account contract.ID, work func() error) error {
	if err := t.take(ctx, account); err != nil {
		return err
	}
	defer t.give(account)
	return work()
}

func (t *turns) take(ctx context.Context, account contract.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	mine := make(chan struct{})
	t.mu.Lock()
	if len(t.waiting[account]) == 0 {
		t.round = append(t.round, account)
	}
	t.waiting[account] = append(t.waiting[account], mine)
	t.pass()
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-mine: // it came just now
		t.back(account)
	default:
		t.leave(account, mine)
	}
	return ctx.Err()
}

func (t *turns) give(account contract.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.back(account)
}

// back takes a place back, and passes it on.
func (t *turns) back(account contract.ID) {
	t.free++
	if t.held[account]--; t.held[account] == 0 {
		delete(t.held, account)
	}
	t.pass()
}

// leave is for who waits no longer.
func (t *turns) leave(account contract.ID, mine chan struct{}) {
	rest := slices.DeleteFunc(t.waiting[account], func(c chan struct{}) bool { return c == mine })
	t.waiting[account] = rest
	if len(rest) == 0 {
		t.quit(account)
	}
}

// quit takes an account of which nobody waits out of the round.
func (t *turns) quit(account contract.ID) {
	delete(t.waiting, account)
	t.round = slices.DeleteFunc(t.round, func(a contract.ID) bool { return a == account })
}

// pass hands free places to those whose turn it is.
func (t *turns) pass() {
	for t.free > 0 {
		next := slices.IndexFunc(t.round, func(a contract.ID) bool { return t.held[a] < t.each })
		if next < 0 {
			return
		}
		account := t.round[next]
		first := t.waiting[account][0]
		t.waiting[account] = t.waiting[account][1:]
		t.round = slices.Delete(t.round, next, next+1)
		if len(t.waiting[account]) > 0 {
			t.round = append(t.round, account)
		} else {
			delete(t.waiting, account)
		}
		t.free--
		t.held[account]++
		close(first)
	}
}
