package trial

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// desks are real agents, with a journal and an uplink as they are installed, over scripted desktops. Whatever
// scenario opens them closes them, before all is compared: they cannot hold still.
type desks struct {
	log     *os.File
	leaving atomic.Bool
	// steps is by how much each clock is to be moved next, in milliseconds.
	steps []atomic.Int64
	ended sync.WaitGroup
	mu    sync.Mutex
	err   error
}

// place is the Manager that desks report to, and how they reach and prove themselves to it.
type place struct {
	manager, token string
	dial           []grpc.DialOption
}

// open starts so many agents at a Manager.
func (u *usage) open(ctx context.Context, count int, at place) (*desks, error) {
	log, err := os.OpenFile(filepath.Join(u.t.Dir, "agents.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	d := &desks{log: log, steps: make([]atomic.Int64, count)}
	for number := range count {
		u.desks++
		name := fmt.Sprintf("desk-%03d", u.desks)
		d.ended.Go(func() {
			if err := u.sit(ctx, d, number, name, at); err != nil {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.err = errors.Join(d.err, fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	return d, nil
}

// sit is one agent, from its start until its person has logged off and all is acknowledged.
func (u *usage) sit(ctx context.Context, d *desks, number int, name string, at place) error {
	now := time.Now()
	desk := scripted.New(scripted.Config{
		Host: desktop.Host{Name: name, OperatingSystem: "Linux"}, Begin: now, Booted: time.Hour, Pace: scripted.Real(),
		Seed:   sha256.Sum256(fmt.Appendf(nil, "%d/%s/%d", u.t.Seed, name, now.UnixNano())),
		Script: d.work(number, name, rand.New(rand.NewPCG(u.t.Seed, uint64(now.UnixNano())))),
	})
	defer desk.Close()
	a, err := agent.New(agent.Config{
		DataDir: filepath.Join(u.t.Dir, "agents", name), Managers: []string{at.manager}, Version: "trial",
		ControlSocket: agent.NoControl, Drain: true, EnrollmentToken: at.token,
	}, agent.Deps{Desktop: desk, Dial: at.dial, Log: slog.New(slog.NewTextHandler(d.log, nil)).With("agent", name), Journalled: func(events []*usagev1.UsageEvent) {
		for _, e := range events {
			u.ledger.Add(e)
		}
		u.byDesks.Add(int64(len(events)))
	}})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// work is somebody in a hurry: a change a second, until they leave. Their clock is moved when it is asked for.
func (d *desks) work(number int, name string, random *rand.Rand) scripted.Script {
	return func(yield func(scripted.Step) bool) {
		at, over := time.Duration(0), false
		do := func(after time.Duration, action scripted.Action) {
			at += after
			if !over {
				over = !yield(scripted.Step{At: at, Do: action})
			}
		}
		do(0, scripted.LogOn{User: activity.User{Domain: "TRIAL", Name: name}})
		for p, program := range programs {
			do(0, scripted.Start{PID: int32(100 + p), Path: "/opt/" + program})
			do(0, scripted.Show{ID: uint64(p + 1), PID: int32(100 + p), Class: program, Title: "a plan"})
		}
		for !over && !d.leaving.Load() {
			pause := time.Duration(200+random.IntN(800)) * time.Millisecond
			if by := d.steps[number].Swap(0); by != 0 {
				do(pause, scripted.SetClock{By: time.Duration(by) * time.Millisecond})
				continue
			}
			switch random.IntN(6) {
			case 0:
				do(pause, scripted.Lock{})
				do(pause, scripted.Unlock{})
			case 1, 2:
				do(pause, scripted.Inputs{For: time.Second, Every: 200 * time.Millisecond})
			default:
				do(pause, scripted.Focus{ID: uint64(1 + random.IntN(len(programs)))})
			}
		}
		do(100*time.Millisecond, scripted.LogOff{})
	}
}

// recordedByDesks is how many events real agents have journalled.
func (u *usage) recordedByDesks() int64 { return u.byDesks.Load() }

// close has everybody log off, and returns once their Manager has acknowledged all of it.
func (d *desks) close(ctx context.Context) error {
	d.leaving.Store(true)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		d.ended.Wait()
	}()
	select {
	case <-gone:
		return errors.Join(d.err, d.log.Close())
	case <-ctx.Done():
		<-gone // ctx is theirs, too
		return errors.Join(context.Cause(ctx), d.log.Close())
	}
}
