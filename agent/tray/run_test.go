package tray

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cetrus/cetrus/agent"
)

// lateAgent does not answer before it has been asked so often.
type lateAgent struct {
	Agent
	silent int

	mu    sync.Mutex
	asked []time.Time
}

func (a *lateAgent) Status(context.Context) (agent.Status, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asked = append(a.asked, time.Now()); len(a.asked) <= a.silent {
		return agent.Status{}, errors.New("nobody answers")
	}
	return status(), nil
}

// shownFront remembers what it was to show, and when it was there.
type shownFront struct {
	mu    sync.Mutex
	icons []Icon
	begun time.Time
}

func (f *shownFront) Show(v View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.icons = append(f.icons, v.Icon)
}

func (f *shownFront) Run(ctx context.Context, _ func(), _ func(Action)) error {
	f.mu.Lock()
	f.begun = time.Now()
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

// An icon comes with what it has to tell, soon after the agent answers, and says that none
// does once that is no matter of a start.
func TestTheIconBeginsWithAnAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		silent int
		first  Icon
		within time.Duration
	}{
		"an agent that runs":       {silent: 0, first: Recording, within: 0},
		"one that starts":          {silent: 3, first: Recording, within: 2 * time.Second},
		"one that does not":        {silent: 1 << 30, first: Off, within: 2 * grace},
		"one that is started late": {silent: 8, first: Off, within: 2 * grace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				a, f := &lateAgent{silent: c.silent}, &shownFront{}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- Run(ctx, Deps{Agent: a, Front: f}) }()
				<-time.After(time.Minute)
				stop()
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if len(f.icons) == 0 || f.icons[0] != c.first || f.begun.IsZero() || f.begun.Sub(began) > c.within {
					t.Errorf("the icons %v, from %v on", f.icons, f.begun.Sub(began))
				}
				if last := f.icons[len(f.icons)-1]; c.silent < 100 && last != Recording {
					t.Errorf("the agent answers, and the icon is %d", last)
				}
				// Once in lookEvery, but for the first pauses.
				if n := len(a.asked); n > int(time.Minute/lookEvery)+6 {
					t.Errorf("asked %d times in a minute", n)
				}
			})
		})
	}
}
