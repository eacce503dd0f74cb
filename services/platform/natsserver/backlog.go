package natsserver

import (
	"context"
	"sync"
	"time"
)

// JetStream (nats-server 2.15) gives a snapshot up that nobody takes a piece of for 5 s, and a stream that is put
// back when nothing comes for as long. A store of backups may be slower than that at any object, so what is between
// both waits here, and moves a little while the store is at work.
const (
	// aheadBytes is how much waits before no more is asked for than must be: about an object of a backup.
	aheadBytes = 16 << 20
	// fullBytes is how much of a copy waits at the most: what JetStream gives at the least, for a quarter of an hour or more.
	fullBytes = 64 << 20
	// movesEvery is how often JetStream sees a copy move in any case.
	movesEvery = 2 * time.Second
	// putBytes is the size of a piece that is put back; reserveBytes are kept for while no more comes, and go by
	// trickleBytes then, which is enough for a quarter of an hour at least.
	putBytes, reserveBytes, trickleBytes = 512 << 10, 1 << 20, 1 << 10
)

// backlog is what has come of a copy and was not taken yet. One goroutine fills it, and one empties it.
type backlog struct {
	mu    sync.Mutex
	parts [][]byte
	bytes int
	ended bool
	// moved is closed, and made anew, when anything of the above changes.
	moved chan struct{}
}

func newBacklog() *backlog { return &backlog{moved: make(chan struct{})} }

func (b *backlog) tell() {
	close(b.moved)
	b.moved = make(chan struct{})
}

// add appends a part, which is the backlog's own from then on.
func (b *backlog) add(part []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(part) > 0 {
		b.parts, b.bytes = append(b.parts, part), b.bytes+len(part)
		b.tell()
	}
}

// end says that no more comes.
func (b *backlog) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.tell()
}

// take is the next piece, of so many bytes at most; empty where there is none. last tells that none comes any more.
func (b *backlog) take(most int) (piece []byte, last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.parts) == 0 {
		return nil, b.ended
	}
	n := min(most, len(b.parts[0]))
	piece, b.parts[0] = b.parts[0][:n], b.parts[0][n:]
	if len(b.parts[0]) == 0 {
		b.parts = b.parts[1:]
	}
	b.bytes -= n
	b.tell()
	return piece, false
}

// holds waits until more than so many bytes are there, or all that come.
func (b *backlog) holds(ctx context.Context, bytes int, within time.Duration) (bool, error) {
	return b.await(ctx, within, func() bool { return b.bytes > bytes || b.ended })
}

// hasRoom waits until more may come.
func (b *backlog) hasRoom(ctx context.Context, within time.Duration) (bool, error) {
	return b.await(ctx, within, func() bool { return b.bytes < aheadBytes })
}

// isFull tells whether as much waits as may.
func (b *backlog) isFull() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes >= fullBytes
}

// await waits until something is so, and for no longer than within, where that is not 0. It tells whether it is.
func (b *backlog) await(ctx context.Context, within time.Duration, is func() bool) (bool, error) {
	var late <-chan time.Time
	if within > 0 {
		timer := time.NewTimer(within)
		defer timer.Stop()
		late = timer.C
	}
	for {
		b.mu.Lock()
		so, moved := is(), b.moved
		b.mu.Unlock()
		if so {
			return true, nil
		}
		select {
		case <-moved:
		case <-late:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}
