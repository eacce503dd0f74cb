package projection

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"
)

const (
	// silence is how long the server may say nothing before it counts as gone.
	heartbeat = 2 * time.Second
	expiry    = 30 * time.Second
	// forgotten is when the server may drop the consumer of a runner that died.
	forgotten = time.Minute
	// mostPulled bounds the bytes asked for at a time: a server cuts off who has
	// more than 64 MB under way to it.
	mostPulled = 16 << 20
	// overhead is what a message costs in memory beside its payload.
	overhead = 512
)

// slot is a message on its way from the stream to Apply.
type slot struct {
	message Message
	// pending is how many messages followed it in the stream when it was sent.
	pending uint64
	bytes   int64
	decoded chan struct{} // closed when Decode is done
}

// fetcher reads a stream in order, ahead of what is applied.
type fetcher struct {
	consumer jetstream.Consumer
	pending  uint64 // at the beginning
	slots    chan *slot
	jobs     chan *slot
	room     *semaphore.Weighted
	size     int64
	group    sync.WaitGroup
	err      error         // why slots was closed
	kept     *slot         // taken from slots, and left for the next batch
	nothing  chan struct{} // closed: what is to be waited for where nobody decodes
}

// fetch begins to read at a position, until ctx of the session ends; ctx here
// bounds the beginning.
//
// The consumer is this session's own, unacknowledged, and checked to deliver
// without a gap; where it fails in any way the session ends, and the next one
// makes another from the checkpoint. What a purge takes before it leaves no gap in its
// numbers: follows sees to that.
func (r *Runner) fetch(ctx context.Context, stream jetstream.Stream, from uint64, of set) (*fetcher, error) {
	cons, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Description:       fmt.Sprintf("projection %s, %d partitions", r.cfg.Name, of.size()),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		FilterSubjects:    r.filters(of),
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: forgotten,
	})
	if err != nil {
		return nil, fmt.Errorf("consumer of %s: %w", r.cfg.Stream, err)
	}
	f := r.newFetcher()
	f.consumer, f.pending = cons, cons.CachedInfo().NumPending
	return f, nil
}

func (r *Runner) newFetcher() *fetcher {
	f := &fetcher{
		slots:   make(chan *slot, 2*r.cfg.MaxMessages),
		jobs:    make(chan *slot, 64),
		room:    semaphore.NewWeighted(int64(r.cfg.Prefetch)),
		size:    int64(r.cfg.Prefetch),
		nothing: make(chan struct{}),
	}
	close(f.nothing)
	return f
}

// start makes the goroutines that read and decode.
func (f *fetcher) start(ctx context.Context, decode func(*Message), log func(any)) error {
	messages, err := f.consumer.Messages(
		jetstream.PullMaxBytes(min(int(f.size), mostPulled)),
		jetstream.PullExpiry(expiry),
		jetstream.PullHeartbeat(heartbeat),
	)
	if err != nil {
		return err
	}
	f.run(decode, log, func() error {
		defer messages.Stop()
		return f.read(ctx, messages, decode != nil)
	})
	return nil
}

// run makes the goroutines: read puts what it reads by push.
func (f *fetcher) run(decode func(*Message), log func(any), read func() error) {
	if decode != nil {
		for range runtime.GOMAXPROCS(0) {
			f.group.Go(func() {
				for s := range f.jobs {
					func() {
						defer close(s.decoded)
						// Apply meets the same message and fails in its own right.
						defer func() {
							if p := recover(); p != nil {
								s.message.Decoded = nil
								log(p)
							}
						}()
						decode(&s.message)
					}()
				}
			})
		}
	}
	f.group.Go(func() {
		defer close(f.jobs)
		defer close(f.slots)
		f.err = read()
	})
}

func (f *fetcher) read(ctx context.Context, messages jetstream.MessagesContext, decode bool) error {
	var delivered uint64
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if meta.Sequence.Consumer != delivered+1 {
			return fmt.Errorf("reading: message %d of the consumer came after %d: some were lost on the way", meta.Sequence.Consumer, delivered)
		}
		delivered++
		message := Message{
			Subject: m.Subject(), Position: meta.Sequence.Stream, Stored: meta.Timestamp,
			Header: Header(m.Headers()), Data: m.Data(),
		}
		if err := f.push(ctx, message, meta.NumPending, decode); err != nil {
			return err
		}
	}
}

// push hands a message on as soon as there is room for it.
func (f *fetcher) push(ctx context.Context, m Message, pending uint64, decode bool) error {
	s := &slot{message: m, pending: pending, bytes: min(int64(len(m.Data))+overhead, f.size), decoded: f.nothing}
	if err := f.room.Acquire(ctx, s.bytes); err != nil {
		return err
	}
	if decode {
		s.decoded = make(chan struct{})
		select {
		case f.jobs <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case f.slots <- s:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// collect waits for a message and takes with it what is there, or known to be
// on its way, up to the limits of a batch. It returns none at a tick, and errShares once
// changed is closed.
func (f *fetcher) collect(ctx context.Context, r *Runner, changed <-chan struct{}, tick <-chan time.Time) ([]*slot, error) {
	select {
	case <-changed:
		return nil, errShares
	default:
	}
	var batch []*slot
	var bytes int
	var deadline <-chan time.Time
	for {
		s := f.kept
		f.kept = nil
		if s == nil {
			var open bool
			switch {
			case len(batch) == 0:
				select {
				case s, open = <-f.slots:
				case <-tick:
					return nil, nil
				case <-changed:
					return nil, errShares
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			case batch[len(batch)-1].pending == 0:
				select {
				case s, open = <-f.slots:
				default:
					return batch, nil
				}
			default:
				if deadline == nil {
					deadline = time.After(r.cfg.MaxWait)
				}
				select {
				case s, open = <-f.slots:
				case <-deadline:
					return batch, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			if !open {
				if len(batch) > 0 {
					return batch, nil
				}
				return nil, errors.Join(errors.New("the stream cannot be read"), f.err)
			}
		}
		select {
		case <-s.decoded:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if len(batch) > 0 && bytes+len(s.message.Data) > r.cfg.MaxBytes {
			f.kept = s
			return batch, nil
		}
		batch = append(batch, s)
		bytes += len(s.message.Data)
		if len(batch) >= r.cfg.MaxMessages || s.message.Position <= r.isolateUntil {
			return batch, nil
		}
	}
}

// release makes room for as much as the batch took.
func (f *fetcher) release(batch []*slot) {
	var n int64
	for _, s := range batch {
		n += s.bytes
	}
	f.room.Release(n)
}

func (f *fetcher) wait() { f.group.Wait() }
