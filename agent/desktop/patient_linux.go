package desktop

import (
	"context"
	"sync"

	"github.com/cetrus/cetrus/agent/activity"
)

// patientEyes let nobody wait longer than they want to for eyes in this process, whose
// looks take as long as the desktop's server does. A look that was given up goes on;
// the next one waits for it first. They belong to one goroutine at a time.
type patientEyes struct {
	under   eyes
	ask     chan struct{} // closed by close
	answers chan looked
	stop    context.CancelFunc // of a look that is going on
	running sync.WaitGroup
	// begun: a look was asked for whose answer was not taken yet.
	begun   bool
	windows []activity.Window
}

type looked struct {
	sight Sight
	err   error
}

func newPatientEyes(under eyes) *patientEyes {
	ctx, stop := context.WithCancel(context.Background())
	p := &patientEyes{under: under, ask: make(chan struct{}, 1), answers: make(chan looked, 1), stop: stop}
	p.running.Go(func() {
		for range p.ask {
			sight, err := under.look(ctx)
			p.answers <- looked{sight, err}
		}
	})
	return p
}

// look implements eyes.
func (p *patientEyes) look(ctx context.Context) (Sight, error) {
	for {
		late := p.begun
		if !late {
			p.begun = true
			p.ask <- struct{}{}
		}
		select {
		case <-ctx.Done():
			return Sight{}, ctx.Err()
		case l := <-p.answers:
			p.begun = false
			if l.sight.SameWindows {
				l.sight.Windows, l.sight.SameWindows = p.windows, false
			}
			p.windows = l.sight.Windows
			if l.err != nil || !late { // what began before it was asked for is of the past
				return l.sight, l.err
			}
		}
	}
}

// close implements eyes.
func (p *patientEyes) close() {
	p.stop()
	close(p.ask)
	p.running.Wait()
	p.under.close()
}
