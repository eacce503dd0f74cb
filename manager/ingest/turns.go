package ingest

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/cetrus/cetrus/manager/buffer"
)

const (
	// turnBytes is the memory for what is being read, or waits for the buffer, of all agents together
	// that have much to send.
	turnBytes = 64 << 20
	// turnRoom is what one turn takes of it: the memory of a frame, whatever its size, which is not known
	// before it was read.
	turnRoom = largeMessage
	// largeInbound is from how many bytes on a message needs a turn.
	largeInbound = buffer.SmallEntry
	// longestTurn is how long room is held for an agent that sends nothing, or slowly: then it goes
	// on beside the others, and keeps nobody from being served.
	longestTurn = 5 * time.Second
	// tellTurnPeriod is how often agents that wait for their turn are told so: well within what they
	// wait for an acknowledgement.
	tellTurnPeriod = 10 * time.Second
)

// turns bounds the memory of what agents send that have much to send. They are read in turn, one message
// each; what waits for its turn stays with the agent, but for a stream's window.
type turns struct {
	room    *semaphore.Weighted // served in the order of asking
	longest time.Duration
}

func newTurns(bytes int64, longest time.Duration) *turns {
	return &turns{room: semaphore.NewWeighted(bytes), longest: longest}
}

// turn is one session's. It belongs to the receiving side.
type turn struct {
	of      *turns
	waiting atomic.Bool // anybody may read it
	// lent gives room back that is held for what is still to be read, at until; nil: there was none.
	lent  *time.Timer
	until time.Time
	// held: there is room for what was read.
	held bool
}

// begin waits for room for a message that is still to be read. What there is of an earlier begin goes on.
func (t *turn) begin(ctx context.Context) error {
	if time.Now().Before(t.until) {
		return nil
	}
	if err := t.enter(ctx); err != nil {
		return err
	}
	t.until = time.Now().Add(t.of.longest)
	t.lent = time.AfterFunc(t.of.longest, t.leave)
	return nil
}

// keep waits for room for a large message that was read, unless there still is what begin took.
func (t *turn) keep(ctx context.Context) error {
	if !t.takeBack() {
		if err := t.enter(ctx); err != nil {
			return err
		}
	}
	t.held = true
	return nil
}

// end gives back the room of a message that needs none any more.
func (t *turn) end() {
	if t.held {
		t.held = false
		t.leave()
	}
}

// close gives back all room.
func (t *turn) close() {
	t.held = t.held || t.takeBack()
	t.end()
}

// takeBack ends what begin took, and tells whether the room is still there: then it is the caller's.
func (t *turn) takeBack() bool {
	lent := t.lent
	t.lent, t.until = nil, time.Time{}
	return lent != nil && lent.Stop()
}

func (t *turn) enter(ctx context.Context) error {
	if t.of.room.TryAcquire(turnRoom) {
		return nil
	}
	t.waiting.Store(true)
	defer t.waiting.Store(false)
	return t.of.room.Acquire(ctx, turnRoom)
}

func (t *turn) leave() { t.of.room.Release(turnRoom) }
