package buffer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
	// After so many failures in a row the embedded server itself is suspected: a
	// full disk leaves its file closed for good.
	failuresBeforeReopen = 3
)

var errBroken = errors.New("the embedded server cannot write")

// batch is what is gathered for one message.
type batch struct {
	lane int
	data []byte
	// cost is what it holds of the budget, quickCost of that of small entries.
	cost, quickCost int64

	done  []func(position uint64)
	count uint64
	trace string
}

// flight is a batch on its way to the disk. It is published under the literal
// expectation that the stream ends at expected, so it can stand at one place only:
// if the stream has grown past that place, it is there.
type flight struct {
	batch    *batch
	expected uint64
	store    *store
	future   jetstream.PubAckFuture
	err      error
}

// Append hands an entry to the next batch. It waits while too much is waiting to
// be written, until ctx ends; small entries wait for one another only. That it
// returned nil says nothing about durability: Done does.
func (b *Buffer) Append(ctx context.Context, e Entry) error {
	size := e.size()
	if size > contract.MaxFrameBytes+contract.MaxFrameBytes/2 {
		return fmt.Errorf("buffer: an entry of %d bytes is too large", size)
	}
	budget := b.budget
	if size <= SmallEntry {
		budget = b.quick
	}
	if err := budget.Acquire(ctx, int64(size)); err != nil {
		return err
	}
	lane := laneIndex(e.Lane)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		budget.Release(int64(size))
		return ErrClosed
	}
	o := b.open[lane]
	if o != nil && len(o.data)+size > b.config.BatchBytes {
		b.full = append(b.full, o)
		o = nil
	}
	if o == nil {
		o = &batch{lane: lane, data: append(b.blank(), b.first...)}
		b.open[lane] = o
	}
	o.data = e.appendTo(o.data)
	if size <= SmallEntry {
		o.quickCost += int64(size)
	} else {
		o.cost += int64(size)
	}
	o.count++
	if e.Done != nil {
		o.done = append(o.done, e.Done)
	}
	if o.trace == "" {
		o.trace = e.TraceParent
	}
	b.work.Signal()
	return nil
}

// blank is an empty slice with room for a batch, used before if possible: fresh
// memory for every batch would keep the garbage collector busy.
func (b *Buffer) blank() []byte {
	if n := len(b.spare); n > 0 {
		data := b.spare[n-1]
		b.spare = b.spare[:n-1]
		return data
	}
	return make([]byte, 0, b.config.BatchBytes)
}

// take is the batch to write next: whatever there is while nothing is in flight,
// a good part of a full one while something is.
func (b *Buffer) take() *batch {
	if b.recovering || b.stall != "" || b.inFlight >= b.config.InFlight {
		return nil
	}
	if len(b.full) > 0 {
		taken := b.full[0]
		b.full = b.full[1:]
		return taken
	}
	for lane, o := range b.open {
		if o != nil && (b.inFlight == 0 || len(o.data) >= b.config.BatchBytes/4) {
			b.open[lane] = nil
			return o
		}
	}
	return nil
}

func (b *Buffer) idle() bool {
	return len(b.full) == 0 && b.open[0] == nil && b.open[1] == nil && b.inFlight == 0
}

// commitLoop publishes batches; acknowledgeLoop hears what became of them.
func (b *Buffer) commitLoop() {
	defer close(b.flying)
	for {
		b.mu.Lock()
		var next *batch
		for next = b.take(); next == nil; next = b.take() {
			if b.ctx.Err() != nil || b.stopping && (b.idle() || b.stall != "") {
				b.mu.Unlock()
				return
			}
			b.work.Wait()
		}
		f := &flight{batch: next, expected: b.tail, store: b.store}
		b.tail++
		b.inFlight++
		b.mu.Unlock()
		f.future, f.err = f.store.js.PublishMsgAsync(message(next), jetstream.WithExpectLastSequence(f.expected))
		b.flying <- f
	}
}

func (b *Buffer) acknowledgeLoop() {
	for f := range b.flying {
		if err := f.wait(b.ctx); err == nil {
			b.committed(f)
			continue
		} else if b.ctx.Err() == nil {
			b.log.Warn("a batch was not written at the first attempt", "position", f.expected+1, "error", err)
		}
		b.mu.Lock()
		b.recovering = true
		b.stats.Failures++
		failed := []*flight{f}
		for len(failed) < b.inFlight {
			b.mu.Unlock()
			failed = append(failed, <-b.flying)
			b.mu.Lock()
		}
		b.mu.Unlock()
		b.recover(failed)
	}
}

func (f *flight) wait(ctx context.Context) error {
	if f.err != nil {
		return f.err
	}
	select {
	case <-f.future.Ok():
		return nil
	case f.err = <-f.future.Err():
		return f.err
	case <-f.store.broken:
		f.err = errBroken
		return f.err
	case <-ctx.Done():
		f.err = ctx.Err()
		return f.err
	}
}

// recover brings batches to the disk whose fate is unknown, in their order, until
// they are there or the buffer is given up.
func (b *Buffer) recover(failed []*flight) {
	for _, f := range failed {
		_ = f.wait(b.ctx)
	}
	pause := firstRetry
	for attempt := 1; b.ctx.Err() == nil; attempt++ {
		rest, err := b.retry(failed)
		failed = rest
		if err == nil {
			b.mu.Lock()
			b.recovering = false
			b.setStall(b.wouldStall())
			b.mu.Unlock()
			return
		}
		b.mu.Lock()
		b.stats.Failures++
		reason := b.wouldStall()
		if reason == "" {
			reason = "the buffer cannot be written: " + err.Error()
		}
		b.setStall(reason)
		stopping := b.stopping
		b.mu.Unlock()
		if stopping && attempt > failuresBeforeReopen {
			break
		}
		b.mu.Lock()
		reopen := b.store.isBroken() || attempt%failuresBeforeReopen == 0
		b.mu.Unlock()
		if reopen {
			if err := b.reopen(); err != nil {
				b.log.Error("the buffer cannot be opened again", "error", err)
			}
		}
		select {
		case <-b.ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastRetry)
		if free, err := freeBytes(b.config.Dir); err == nil {
			b.mu.Lock()
			b.free = free
			b.mu.Unlock()
		}
	}
	b.mu.Lock()
	b.inFlight -= len(failed)
	b.recovering = false
	b.stall = "the buffer is closing"
	b.work.Broadcast()
	b.mu.Unlock()
	for _, f := range failed {
		b.release(f.batch)
	}
}

// release gives back what a batch held of the budgets.
func (b *Buffer) release(o *batch) {
	b.budget.Release(o.cost)
	b.quick.Release(o.quickCost)
}

func (b *Buffer) retry(failed []*flight) ([]*flight, error) {
	b.mu.Lock()
	s := b.store
	full := b.free < b.config.ReserveBytes
	b.mu.Unlock()
	if s.isBroken() {
		return failed, errBroken
	}
	ctx, cancel := context.WithTimeout(b.ctx, serverPatience)
	defer cancel()
	info, err := s.stream.Info(ctx)
	if err != nil {
		return failed, err
	}
	last := info.State.LastSeq
	for len(failed) > 0 && failed[0].expected < last {
		b.committed(failed[0])
		failed = failed[1:]
	}
	b.mu.Lock()
	b.used = int64(info.State.Bytes)
	b.tail = last + uint64(len(failed))
	b.mu.Unlock()
	for n, f := range failed {
		f.expected = last + uint64(n)
	}
	if len(failed) > 0 && full {
		return failed, errors.New("the disk is full")
	}
	for len(failed) > 0 {
		f := failed[0]
		f.store = s
		if f.future, f.err = s.js.PublishMsgAsync(message(f.batch), jetstream.WithExpectLastSequence(f.expected)); f.wait(ctx) != nil {
			return failed, f.err
		}
		b.committed(f)
		failed = failed[1:]
	}
	return nil, nil
}

// reopen starts the embedded server anew over the same files, and compares what it
// found there with what was said to be durable.
func (b *Buffer) reopen() error {
	b.mu.Lock()
	old := b.store
	durable, released := b.durable, b.released
	b.mu.Unlock()
	old.close()
	s, err := openStore(b.ctx, b.config.Dir, b.config.MaxBytes, durable+1, released+1, b.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.ctx, serverPatience)
	defer cancel()
	info, err := s.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		s.close()
		return fmt.Errorf("buffer: read the stream's state: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.identity
	if b.missing(info.State, durable) {
		if err := b.identity.save(filepath.Join(b.config.Dir, identityFileName)); err != nil {
			b.identity = before
			s.close()
			return fmt.Errorf("buffer: %w", err)
		}
	}
	b.store = s
	b.durable = min(durable, info.State.LastSeq)
	b.released = max(b.released, firstKept(info.State)-1)
	if err := b.head.set(b.durable); err != nil {
		b.log.Warn("the last position could not be noted", "error", err)
	}
	return nil
}

// committed runs once for each batch, in the order of positions, after the server
// said that it is synced.
func (b *Buffer) committed(f *flight) {
	position := f.expected + 1
	if err := b.head.set(position); err != nil {
		b.log.Warn("the last position could not be noted", "error", err)
	}
	b.mu.Lock()
	b.durable = position
	b.inFlight--
	b.used += int64(len(f.batch.data))
	b.stats.Commits++
	b.stats.Entries += f.batch.count
	b.stats.Bytes += uint64(len(f.batch.data))
	if len(b.spare) <= b.config.InFlight {
		b.spare = append(b.spare, f.batch.data[:0])
	}
	if reason := b.wouldStall(); reason != "" && !b.recovering {
		b.setStall(reason)
	}
	close(b.changed)
	b.changed = make(chan struct{})
	b.work.Broadcast()
	b.mu.Unlock()
	for _, done := range f.batch.done {
		done(position)
	}
	b.release(f.batch)
}
