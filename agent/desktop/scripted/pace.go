package scripted

import (
	"context"
	"time"
)

// Pace is the time that a script is played in. Times are milliseconds since the
// beginning of the script.
type Pace interface {
	// begin is called when watching begins, or begins again.
	begin(now int64)
	// reached is the time that it is.
	reached() int64
	// until waits for a moment, or until the context ends or somebody asks to
	// look at once, and returns the time that has been reached.
	until(ctx context.Context, at int64, now <-chan struct{}) int64
}

// Virtual is time that passes as fast as whoever listens can take it, and stands
// still while nobody watches.
func Virtual() Pace { return &virtual{} }

type virtual struct{ now int64 }

func (v *virtual) begin(now int64) { v.now = now }
func (v *virtual) reached() int64  { return v.now }

func (v *virtual) until(ctx context.Context, at int64, _ <-chan struct{}) int64 {
	if ctx.Err() == nil {
		v.now = max(v.now, at)
	}
	return v.now
}

// Real is the time of the clock, from the first time that the desktop is watched.
func Real() Pace { return Faster(1) }

// Since is the time of the clock, counted from a moment: another process goes on with a
// script where this one is.
func Since(start time.Time) Pace { return &realTime{factor: 1, start: start} }

// Faster is real time sped up: an hour passes in an hour divided by the factor,
// which is at least 1.
func Faster(factor int64) Pace { return &realTime{factor: max(1, factor)} }

type realTime struct {
	factor int64
	start  time.Time
}

func (r *realTime) begin(now int64) {
	if r.start.IsZero() {
		r.start = time.Now().Add(-time.Duration(now/r.factor) * time.Millisecond)
	}
}

func (r *realTime) reached() int64 {
	return int64(time.Since(r.start)) * r.factor / int64(time.Millisecond)
}

func (r *realTime) until(ctx context.Context, at int64, now <-chan struct{}) int64 {
	wait := time.Until(r.start.Add(time.Duration(at) * time.Millisecond / time.Duration(r.factor)))
	if wait <= 0 {
		return at
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return r.reached()
	case <-now:
		return r.reached()
	case <-timer.C:
		return at
	}
}
