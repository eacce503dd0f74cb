package metering

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
)

// Whatever comes in whichever order: never more work than places, nor more of one account than is
// its share; nobody waits where they could work; and of the accounts that wait each has its turn
// before another has two.
func TestTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		places, each := rapid.IntRange(1, 4).Draw(t, "places"), rapid.IntRange(1, 3).Draw(t, "each")
		all := newTurns(places, each)
		type one struct {
			account contract.ID
			end     context.CancelFunc
			done    chan error
			release chan struct{}
			working chan struct{}
		}
		var waiting, working []*one
		held := func(a contract.ID) (n int) {
			for _, w := range working {
				if w.account == a {
					n++
				}
			}
			return n
		}
		// settle moves those who began meanwhile; who begins is decided before any call returns.
		settle := func() {
			all.mu.Lock()
			left := map[contract.ID]int{}
			for a, list := range all.waiting {
				left[a] = len(list)
			}
			all.mu.Unlock()
			for _, a := range []contract.ID{{1}, {2}, {3}} {
				for {
					var mine []*one
					for _, w := range waiting {
						if w.account == a {
							mine = append(mine, w)
						}
					}
					if len(mine) <= left[a] {
						break
					}
					// First come, first served.
					<-mine[0].working
					working = append(working, mine[0])
					waiting = slices.DeleteFunc(waiting, func(w *one) bool { return w == mine[0] })
				}
			}
			if len(working) > places {
				t.Fatalf("%d work at %d places", len(working), places)
			}
			for _, w := range waiting {
				if len(working) < places && held(w.account) < each {
					t.Fatalf("one of %v waits, though there is a place", w.account[0])
				}
			}
		}
		finish := func(w *one) {
			close(w.release)
			if err := <-w.done; err != nil {
				t.Fatal(err)
			}
			working = slices.DeleteFunc(working, func(x *one) bool { return x == w })
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				ctx, end := context.WithCancel(context.Background())
				w := &one{account: contract.ID{byte(rapid.IntRange(1, 3).Draw(t, "account"))}, end: end, done: make(chan error, 1), release: make(chan struct{}), working: make(chan struct{})}
				all.mu.Lock()
				before := len(all.waiting[w.account]) + all.held[w.account]
				all.mu.Unlock()
				go func() {
					w.done <- all.do(ctx, w.account, func() error { close(w.working); <-w.release; return nil })
				}()
				for asked := false; !asked; { // it is in the line
					all.mu.Lock()
					asked = len(all.waiting[w.account])+all.held[w.account] > before
					all.mu.Unlock()
				}
				waiting = append(waiting, w)
			case 2:
				if len(working) > 0 {
					finish(rapid.SampledFrom(working).Draw(t, "finished"))
				}
			case 3:
				if len(waiting) > 0 {
					w := rapid.SampledFrom(waiting).Draw(t, "gone")
					w.end()
					if err := <-w.done; !errors.Is(err, context.Canceled) {
						t.Fatalf("who waits no longer: %v", err)
					}
					waiting = slices.DeleteFunc(waiting, func(x *one) bool { return x == w })
				}
			}
			settle()
		}
		for len(working) > 0 {
			finish(working[0])
			settle()
		}
		if len(waiting) > 0 || all.free != places || len(all.held)+len(all.waiting)+len(all.round) > 0 {
			t.Fatalf("something is left: %d wait, %+v", len(waiting), all)
		}
	})
}

// An account that asks for much does not keep the others waiting: each has its turn.
func TestTurnsAreByAccount(t *testing.T) {
	all := newTurns(1, 1)
	greedy, other := contract.ID{1}, contract.ID{2}
	if err := all.take(t.Context(), greedy); err != nil {
		t.Fatal(err)
	}
	order := make(chan contract.ID, 9)
	done := make(chan error, 9)
	line := func(account contract.ID, waiting int) {
		go func() { done <- all.do(t.Context(), account, func() error { order <- account; return nil }) }()
		for there := false; !there; {
			all.mu.Lock()
			there = len(all.waiting[account]) == waiting
			all.mu.Unlock()
		}
	}
	for n := range 8 {
		line(greedy, n+1)
	}
	line(other, 1)
	all.give(greedy)
	for range 9 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if first, second := <-order, <-order; first != greedy || second != other {
		t.Errorf("%v, then %v", first[0], second[0])
	}
}
