package ingest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurnsHaveRoomForSoManyAndLoseNone: whatever agents do, no more is read or kept at once than there
// is room for, beside what was read of those that were slow; and in the end all room is there again.
func TestTurnsHaveRoomForSoManyAndLoseNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const places, agents, rounds = 5, 60, 40
		all := newTurns(places*turnRoom, time.Second)
		var kept, most, slow atomic.Int64
		var working sync.WaitGroup
		for n := range agents {
			random := rand.New(rand.NewPCG(uint64(n), 11))
			working.Go(func() {
				mine := turn{of: all}
				defer mine.close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for range rounds {
					if random.IntN(3) > 0 { // who is not known to have much does not begin
						if mine.begin(ctx) != nil {
							return
						}
					}
					if reading := time.Duration(random.Int64N(int64(1100 * time.Millisecond))); reading > time.Second {
						slow.Add(1)
						<-time.After(reading)
					} else {
						<-time.After(reading / 10)
					}
					switch random.IntN(6) {
					case 0: // it was a small message
						mine.end()
						continue
					case 1: // it goes, and is back at once
						mine.close()
					case 2: // it goes while it waits
						if random.IntN(5) == 0 {
							time.AfterFunc(time.Millisecond, cancel)
						}
					}
					if mine.keep(ctx) != nil {
						return
					}
					now := kept.Add(1)
					for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
						continue
					}
					<-time.After(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
					kept.Add(-1)
					mine.end()
				}
			})
		}
		working.Wait()
		if most.Load() > places {
			t.Errorf("%d were kept at once, there is room for %d", most.Load(), places)
		}
		if most.Load() < 2 || slow.Load() == 0 {
			t.Errorf("%d were kept at once at most, %d were slow: the test proves less than it says", most.Load(), slow.Load())
		}
		<-time.After(2 * time.Second) // what was lent runs out
		if !all.room.TryAcquire(places * turnRoom) {
			t.Error("room is lost")
		}
	})
}

// TestTurnsAreServedInOrder: who asks again stands behind those who wait.
func TestTurnsAreServedInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newTurns(turnRoom, time.Second)
		var order []int
		var working sync.WaitGroup
		for n := range 3 {
			working.Go(func() {
				mine := turn{of: all}
				for range 4 {
					if err := mine.keep(t.Context()); err != nil {
						t.Error(err)
					}
					order = append(order, n) // there is room for one
					<-time.After(time.Millisecond)
					mine.end()
				}
			})
			synctest.Wait()
		}
		working.Wait()
		for i, n := range order {
			if n != i%3 {
				t.Fatalf("they were served in the order %v", order)
			}
		}
	})
}

// TestASilentAgentKeepsNobodyFromBeingRead: what is lent to one that sends nothing goes to the next.
func TestASilentAgentKeepsNobodyFromBeingRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := newTurns(turnRoom, time.Second)
		silent, other := turn{of: all}, turn{of: all}
		if err := silent.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := other.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("the other waited for %v", waited)
		}
		if err := other.keep(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Now the silent one sends after all: it waits.
		short, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := silent.keep(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("both are kept: %v", err)
		}
		if silent.waiting.Load() {
			t.Error("it is said to wait, and has given up")
		}
		other.end()
		if err := silent.keep(t.Context()); err != nil {
			t.Error(err)
		}
		silent.close()
	})
}
