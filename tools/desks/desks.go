package desks

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/fingerprint"
	"github.com/cetrus/cetrus/agent/uplink"
)

// Desk is one machine and what happens at it.
type Desk struct {
	// Number tells desks apart, from 0.
	Number int
	// Host is the machine's name, System its operating system.
	Host, System string
	// Site is which of the Managers its agent belongs to.
	Site int
	// Past is what happened from one moment to another. It begins and ends with nobody
	// logged on; for the same span it is the same. Its times count from the first moment.
	Past func(from, to time.Time) scripted.Script
	// Present goes on from a moment without end; nil: nothing is heard of the machine any
	// more once its past is loaded.
	Present func(now time.Time, seed uint64) scripted.Script
	// Period lies between two observations of the present; 0: that of a real desktop.
	Period time.Duration
	// Early: all of its past is loaded before that of others, so that it is soon at work.
	Early bool
	// Whole: its past is one stretch, as where a program stayed open for months.
	Whole bool
	// Late: its newest days come last of all, as those of a laptop that was away.
	Late bool
	// Roams: in the present it leaves the network and comes back.
	Roams bool
	// Clock is by how much the machine's clock is wrong.
	Clock time.Duration
}

// Config says where the desks stand.
type Config struct {
	// Dir keeps the agents' data and how far the past is.
	Dir string
	// Sites are where the agents connect.
	Sites []Site
	Desks []Desk
	// Days of past; 0: none.
	Days int
	// Seed decides the past.
	Seed uint64
	// Applications is how many a policy must have before the past begins, so that none
	// of it is missed.
	Applications int
	// Workers is how many stretches are loaded at once; 0: 2.
	Workers int
	// Progress is told how far the past is, from 0 to 1.
	Progress func(share float64)
	Log      *slog.Logger
}

// Site is a Manager.
type Site struct {
	// Manager is where agents connect, host:port.
	Manager string
	// Token is what agents enrol by; empty: the Manager believes them in plain.
	Token string
}

// Room is all desks at work. Make it with New.
type Room struct {
	config Config
	plan   plan
}

const defaultWorkers = 2

// New prepares the desks; the first time in a folder decides what their past is.
func New(config Config) (*Room, error) {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Progress == nil {
		config.Progress = func(float64) {}
	}
	if config.Workers == 0 {
		config.Workers = defaultWorkers
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("desks: %w", err)
	}
	p, err := openPlan(config.Dir, config.Days, config.Seed, time.Now())
	return &Room{config: config, plan: p}, err
}

// Seed is that of the first time.
func (r *Room) Seed() uint64 { return r.plan.Seed }

// Furnish says where the desks stand, for who makes them of the past that was planned.
func (r *Room) Furnish(sites []Site, desks []Desk) { r.config.Sites, r.config.Desks = sites, desks }

// From is where the past that was planned at first begins.
func (r *Room) From() time.Time { return r.plan.From }

// To is where it ends; what came later was lived, or is made up.
func (r *Room) To() time.Time { return r.plan.To }

// Run works until ctx ends, and returns when all agents have stopped.
func (r *Room) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var working sync.WaitGroup
	work := func(desk *Desk) {
		working.Go(func() {
			if err := r.work(ctx, desk); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("desks: %s: %w", desk.Host, err))
			}
		})
	}
	working.Go(func() {
		if err := r.load(ctx, work); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("desks: loading the past: %w", err))
		}
	})
	alive, stop := context.WithCancel(ctx)
	var noting sync.WaitGroup
	noting.Go(func() { r.plan.stayAlive(alive, r.config.Log) })
	working.Wait()
	stop()
	noting.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// work is a desk's present: an agent that watches as long as ctx lasts.
func (r *Room) work(ctx context.Context, desk *Desk) error {
	if desk.Present == nil {
		return nil
	}
	now := time.Now()
	var seed [32]byte
	if _, err := crand.Read(seed[:]); err != nil {
		return err
	}
	_, zone := now.Zone()
	screen := scripted.New(scripted.Config{
		Host: desk.host(), Script: desk.Present(now, binary.BigEndian.Uint64(seed[:8])),
		Begin: now.Add(desk.Clock), ZoneOffsetSeconds: int32(zone), Booted: time.Duration(1+desk.Number%97) * time.Minute,
		Seed: seed, Pace: scripted.Real(), Endless: true, Period: desk.Period,
	})
	defer screen.Close()
	deps := agent.Deps{Desktop: screen}
	if desk.Roams {
		link := newFlakyLink()
		deps.Dial = append(deps.Dial, grpc.WithContextDialer(link.dial))
		roaming, stop := context.WithCancel(ctx)
		var trips sync.WaitGroup
		trips.Go(func() { link.roam(roaming, desk.Number, binary.BigEndian.Uint64(seed[8:16])) })
		defer trips.Wait()
		defer stop()
	}
	a, err := r.agent(desk, "present", agent.Config{Uplink: uplink.Config{LastPause: 5 * time.Second}}, deps)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// agent is the one agent of a desk, for its past as for its present.
func (r *Room) agent(desk *Desk, tense string, config agent.Config, deps agent.Deps) (*agent.Agent, error) {
	config.DataDir = r.folder(desk)
	config.Managers, config.EnrollmentToken = []string{r.config.Sites[desk.Site].Manager}, r.config.Sites[desk.Site].Token
	config.Version, config.ControlSocket = "demo", agent.NoControl
	deps.Log = r.config.Log.With("machine", desk.Host, "tense", tense)
	// Not those of the machine that all of them are played on.
	deps.Traits = func() fingerprint.Traits { return nil }
	return agent.New(config, deps)
}

func (d *Desk) host() desktop.Host { return desktop.Host{Name: d.Host, OperatingSystem: d.System} }

func (r *Room) folder(desk *Desk) string { return filepath.Join(r.config.Dir, "machines", desk.Host) }
