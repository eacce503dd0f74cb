package tray

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent"
)

const (
	// lookEvery is how often the agent is asked how it stands.
	lookEvery = 5 * time.Second
	// One that does not answer is asked again sooner, after pauses that double up to
	// lookEvery: at log-on and in an upgrade it is about to.
	firstPause = 250 * time.Millisecond
	// patience is how long an answer is waited for.
	patience = 3 * time.Second
	// grace is how long there is no icon at first rather than one that says that no agent
	// answers.
	grace = 4 * time.Second
)

// Agent is what the icon asks; *agent.Control is one.
type Agent interface {
	Status(ctx context.Context) (agent.Status, error)
	Pause(ctx context.Context, request agent.PauseRequest) (agent.Status, error)
	Resume(ctx context.Context, request agent.PauseRequest) (agent.Status, error)
	SeeNotice(ctx context.Context, version string) (agent.Status, error)
}

// Front puts views on the desktop.
type Front interface {
	// Show shows a view in the place of the one before. It does not wait. The first one
	// comes before Run.
	Show(View)
	// Run is there for the person until ctx ends. It calls look when the person is about
	// to look at the menu, and do with what they choose; neither waits. An error means
	// that this desktop can show no icon at all.
	Run(ctx context.Context, look func(), do func(Action)) error
}

// Deps are what the icon works with.
type Deps struct {
	Agent Agent
	// Front is where it is shown; nil: nowhere, and only the notice is.
	Front Front
	// ShowNotice shows the notice and tells whether the person has seen it; nil: nobody
	// can be shown it.
	ShowNotice func(ctx context.Context, said agent.NoticeStatus) (seen bool, err error)
	// ShowData shows the person their data.
	ShowData func(ctx context.Context) error
	Log      *slog.Logger
}

// Run is the whole of `cetrus-agent tray`: it follows the agent until ctx ends.
func Run(ctx context.Context, deps Deps) error {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	t := &tray{deps: deps, wake: make(chan struct{}, 1), chosen: make(chan Action, 8), idle: true}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	t.follow(ctx, running.Go)
	return nil
}

type tray struct {
	deps   Deps
	wake   chan struct{}
	chosen chan Action

	// Only the goroutine of follow touches this: the icon is there.
	begun bool

	mu   sync.Mutex
	view View
	// idle: no notice is shown.
	idle bool
	// told is the version of the notice that could not be shown, or was put away unread; it
	// comes again at the next start.
	told string
}

func (t *tray) look() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// do takes a choice; where many wait, the person has clicked more than can be meant.
func (t *tray) do(a Action) {
	select {
	case t.chosen <- a:
	default:
	}
}

func (t *tray) follow(ctx context.Context, spawn func(func())) {
	began, pause := time.Now(), firstPause
	for {
		status, err := t.ask(ctx)
		if err == nil || t.begun || time.Since(began) >= grace {
			t.begin(ctx, spawn, ViewOf(status, err))
		}
		t.tellNotice(ctx, spawn, t.current().Notice)
		wait := lookEvery
		if err != nil {
			wait, pause = pause, min(2*pause, lookEvery)
		} else {
			pause = firstPause
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-t.wake:
		case a := <-t.chosen:
			t.act(ctx, spawn, a)
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// ask asks the agent how it stands.
func (t *tray) ask(ctx context.Context) (agent.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return t.deps.Agent.Status(ctx)
}

// begin shows a view, the first one with the icon that it needs.
func (t *tray) begin(ctx context.Context, spawn func(func()), v View) {
	t.show(v)
	if t.begun || t.deps.Front == nil {
		return
	}
	t.begun = true
	spawn(func() {
		if err := t.deps.Front.Run(ctx, t.look, t.do); err != nil && ctx.Err() == nil {
			t.deps.Log.Warn("there is no icon on this desktop; the notice is shown all the same", "reason", err)
		}
	})
}

func (t *tray) current() View {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view
}

func (t *tray) show(v View) {
	t.mu.Lock()
	same := reflect.DeepEqual(t.view, v)
	t.view = v
	t.mu.Unlock()
	if !same && t.deps.Front != nil {
		t.deps.Front.Show(v)
	}
}

func (t *tray) act(ctx context.Context, spawn func(func()), a Action) {
	var err error
	switch a.Do {
	case Pause:
		_, err = t.deps.Agent.Pause(ctx, agent.PauseRequest{Reason: a.Reason})
	case Resume:
		_, err = t.deps.Agent.Resume(ctx, agent.PauseRequest{})
	case ShowData:
		spawn(func() {
			if err := t.deps.ShowData(ctx); err != nil {
				t.deps.Log.Error("the data cannot be shown", "reason", err)
			}
		})
	case ShowNotice:
		var status agent.Status
		if status, err = t.deps.Agent.Status(ctx); err == nil {
			t.mu.Lock()
			t.told = "" // the person asks for it
			t.mu.Unlock()
			t.tellNotice(ctx, spawn, &status.Person.Notice)
		}
	case Nothing:
	}
	if err != nil {
		t.deps.Log.Error("what was chosen cannot be done", "reason", err)
	}
}

// tellNotice shows a notice, one at a time, and tells the agent that it was seen.
func (t *tray) tellNotice(ctx context.Context, spawn func(func()), said *agent.NoticeStatus) {
	if said == nil || t.deps.ShowNotice == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.idle || t.told == said.Version {
		return
	}
	t.idle = false
	spawn(func() {
		seen, err := t.deps.ShowNotice(ctx, *said)
		if err == nil && seen {
			_, err = t.deps.Agent.SeeNotice(ctx, said.Version)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.idle = true
		if err != nil || !seen {
			t.told = said.Version
		}
		if err != nil && ctx.Err() == nil {
			t.deps.Log.Error("the notice cannot be shown; `cetrus-agent status` tells it", "reason", err)
		}
	})
}
