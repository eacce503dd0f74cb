package metering

import (
	"context"
	"time"
)

// wake wakes who waits for it, once however often it was told to since they were awake. It is never closed.
type wake chan struct{}

func newWake() wake { return make(wake, 1) }

// soon has whoever waits do before its time what they do; who is at it does it again.
func (w wake) soon() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// every does something now, then time and again, and whenever it is woken, until ctx ends.
func every(ctx context.Context, period time.Duration, woken wake, do func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-woken:
		}
	}
}

// everyLevel is every, of the tables that answer: it waits until they are level.
func (s *Service) everyLevel(ctx context.Context, period time.Duration, woken wake, do func(*views)) {
	every(ctx, period, woken, func() {
		for ctx.Err() == nil {
			v := s.serving.Load()
			select {
			case <-ctx.Done():
			case <-v.retired.Done():
			case <-v.level:
				do(v)
				return
			}
		}
	})
}
