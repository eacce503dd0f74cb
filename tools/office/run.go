package office

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
	"github.com/cetrus/cetrus/agent/uplink"
	"github.com/cetrus/cetrus/proto/contract"
)

// Config says where the office works.
type Config struct {
	// Dir keeps the agents' data and how far the history is.
	Dir string
	// Manager is where the agents connect, host:port.
	Manager string
	// Token is what the agents enrol by; empty: the Manager believes them in plain.
	Token string
	// Staff is who works; nil: Staff().
	Staff []Person
	// Days of history; 0: none.
	Days int
	// Seed decides the history.
	Seed uint64
	// Applications is how many a policy must have before the history begins, so
	// that none of it is missed.
	Applications int
	// Progress is told how far the history is, from 0 to 1.
	Progress func(share float64)
	Log      *slog.Logger
}

// Office is a company at work. Make it with New.
type Office struct {
	config  Config
	history plan
	// folders is held while a folder is made: a person's present and past begin at the
	// same moment, and agree on one machine.
	folders sync.Mutex
}

// New prepares an office; the first time in a folder decides what its history is.
func New(config Config) (*Office, error) {
	if config.Staff == nil {
		config.Staff = Staff()
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Progress == nil {
		config.Progress = func(float64) {}
	}
	o := &Office{config: config}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("office: %w", err)
	}
	var err error
	o.history, err = loadPlan(filepath.Join(config.Dir, "history.json"), config.Days, config.Seed)
	return o, err
}

// Run works until ctx ends, and returns when all agents have stopped.
func (o *Office) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var working sync.WaitGroup
	for _, person := range o.config.Staff {
		working.Go(func() {
			if err := o.work(ctx, person); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("office: %s at %s: %w", person.Name, person.Host, err))
			}
		})
	}
	working.Go(func() {
		if err := o.load(ctx); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("office: loading the history: %w", err))
		}
	})
	working.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// work is a person's present: an agent that watches as long as ctx lasts.
func (o *Office) work(ctx context.Context, person Person) error {
	now := time.Now()
	var seed [32]byte
	if _, err := crand.Read(seed[:]); err != nil {
		return err
	}
	_, zone := now.Zone()
	desk := scripted.New(scripted.Config{
		Host:   person.host(),
		Script: Script(person, Shift(person, binary.BigEndian.Uint64(seed[:8]), now), now),
		Begin:  now, ZoneOffsetSeconds: int32(zone), Booted: time.Duration(1+person.Number) * time.Minute,
		Seed: seed, Pace: scripted.Real(), Endless: true,
	})
	defer desk.Close()
	dir, err := o.folder("live", person)
	if err != nil {
		return err
	}
	deps := agent.Deps{Desktop: desk, Log: o.config.Log.With("machine", person.Host)}
	if person.Laptop {
		link := newFlakyLink()
		deps.Dial = append(deps.Dial, grpc.WithContextDialer(link.dial))
		roaming, stop := context.WithCancel(ctx)
		var trips sync.WaitGroup
		trips.Go(func() { link.roam(roaming, person, binary.BigEndian.Uint64(seed[8:16])) })
		defer trips.Wait()
		defer stop()
	}
	a, err := agent.New(agent.Config{
		DataDir: dir, Managers: []string{o.config.Manager}, Version: "demo", ControlSocket: agent.NoControl, EnrollmentToken: o.config.Token,
		Uplink: uplink.Config{LastPause: 5 * time.Second},
	}, deps)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func (p Person) host() desktop.Host { return desktop.Host{Name: p.Host, OperatingSystem: p.System} }

// folder is where an agent of a person keeps its data. The present and the past
// are two agents of one machine.
func (o *Office) folder(tense string, person Person) (string, error) {
	dir := filepath.Join(o.config.Dir, tense, person.Host)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "identity.json")
	o.folders.Lock()
	defer o.folders.Unlock()
	if _, err := os.Stat(path); err == nil {
		return dir, nil
	}
	var agentID, machineID contract.ID
	if _, err := crand.Read(agentID[:]); err != nil {
		return "", err
	}
	machines := filepath.Join(o.config.Dir, "machines", person.Host)
	text, err := os.ReadFile(machines)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := crand.Read(machineID[:]); err != nil {
			return "", err
		}
		if err := os.MkdirAll(filepath.Dir(machines), 0o700); err != nil {
			return "", err
		}
		if err := replace(machines, []byte(machineID.String())); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	default:
		if machineID, err = contract.ParseID(string(text)); err != nil {
			return "", fmt.Errorf("%s: %w", machines, err)
		}
	}
	return dir, writeJSON(path, map[string]string{"agent_id": agentID.String(), "machine_id": machineID.String()})
}
