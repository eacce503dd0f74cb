package trial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cetrus/cetrus/tools/stack"
)

// clockSteps moves the wall clocks of machines that agents run on while they record: an hour ahead, two back, an hour
// ahead again. The clock is that of the scripted desktop, which is all that an agent knows of time; what it
// records is durations on the machine's own timeline, and none may be longer or shorter for it.
//
// The clocks of pods and of the Manager are the machine's: Linux has no wall clock for a namespace, and a trial does
// not move that of the machine that it was started on.
func clockSteps(ctx context.Context, t *trial) error {
	steps := []time.Duration{time.Hour, -2 * time.Hour, time.Hour}
	desks, err := t.usage.open(ctx, len(steps), t.site.place())
	if err != nil {
		return err
	}
	err = func() error {
		for range steps {
			for number := range steps {
				desks.steps[number].Store(steps[number].Milliseconds())
			}
			before := t.usage.recordedByDesks()
			if err := stack.Wait(ctx, 2*time.Minute, "agents to go on after their clocks were moved", func() error {
				for number := range desks.steps {
					if desks.steps[number].Load() != 0 {
						return errors.New("a clock is not moved yet")
					}
				}
				if now := t.usage.recordedByDesks() - before; now < 30 {
					return fmt.Errorf("%d events are recorded", now)
				}
				return nil
			}); err != nil {
				return err
			}
			steps = append(steps[1:], steps[0])
		}
		return nil
	}()
	if err := errors.Join(err, desks.close(ctx)); err != nil {
		return err
	}
	return t.line("clock_steps", float64(3*len(steps)), "steps", 0, nil)
}
