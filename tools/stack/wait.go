package stack

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// askEvery is how often Wait asks.
const askEvery = 50 * time.Millisecond

// Hopeless marks an error that waiting does not mend: Wait returns it at once.
func Hopeless(err error) error { return &hopelessError{err} }

type hopelessError struct{ error }

func (e *hopelessError) Unwrap() error { return e.error }

// Wait asks until the condition holds. Its error says what was waited for, and what
// the condition said last.
func Wait(ctx context.Context, limit time.Duration, what string, condition func() error) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if hopeless := new(hopelessError); errors.As(err, &hopeless) {
			return hopeless.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("while waiting for %s: %w", what, context.Cause(ctx))
		case <-bounded.Done():
			return fmt.Errorf("waited %v for %s: %w", limit, what, err)
		case <-ticker.C:
		}
	}
}

// Running makes a condition hopeless once the process has ended.
func (p *Process) Running(condition func() error) func() error {
	return func() error {
		if err := p.Failure(); err != nil {
			return Hopeless(err)
		}
		return condition()
	}
}
