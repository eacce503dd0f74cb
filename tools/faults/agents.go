package faults

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// Hosted says what agents one process runs.
type Hosted struct {
	// Dir keeps the truth that agents write, Disk a folder for each of them.
	Dir, Disk string
	// Manager is where they connect, host:port.
	Manager string
	// First is the number of the first agent, Count how many there are.
	First, Count int
	// Seed decides what their people do.
	Seed uint64
	// Offline plays six weeks without a Manager, in virtual time, before it
	// can connect, instead of working in real time until ctx ends.
	Offline bool
}

// The programs that the scripts use; each is an application.
var programs = []string{"draft", "solver", "viewer"}

// ownMachine is where agents believe their Manager to be, since they have no certificates: in
// plain they speak to their own machine only. The way leads elsewhere.
const ownMachine = "127.0.0.1:10041"

// sixWeeks is how long a laptop stays away.
const sixWeeks = 42 * 24 * time.Hour

// RunAgents runs real agents over scripted desktops until ctx ends; then their
// people log off, and it returns when all that was journalled is acknowledged.
func RunAgents(ctx context.Context, h Hosted, log *slog.Logger) error {
	var group sync.WaitGroup
	failures := make(chan error, h.Count)
	for number := h.First; number < h.First+h.Count; number++ {
		group.Go(func() {
			log := log.With("agent", number)
			err := runAgent(ctx, h, number, log)
			// One whose disk failed ends and is started again, by any system, whatever becomes of the others; who
			// is on a journey has a disk that nothing strikes.
			for ; err != nil && !h.Offline; err = runAgent(ctx, h, number, log) {
				log.Error("it ended and is started again", "error", err)
				sleep(context.WithoutCancel(ctx), startedAgainAfter)
			}
			if err != nil {
				failures <- fmt.Errorf("faults: agent %d: %w", number, err)
			}
		})
	}
	group.Wait()
	close(failures)
	return <-failures
}

// startedAgainAfter is how long an agent that has ended by itself stays away.
const startedAgainAfter = 200 * time.Millisecond

func runAgent(ctx context.Context, h Hosted, number int, log *slog.Logger) error {
	truth, err := openTruth(filepath.Join(h.Dir, fmt.Sprintf("truth-%03d", number)))
	if err != nil {
		return err
	}
	defer truth.close()
	var leaving atomic.Bool
	defer context.AfterFunc(ctx, func() { leaving.Store(true) })()

	now := time.Now()
	config := scripted.Config{
		Host: desktop.Host{Name: fmt.Sprintf("ws-%03d", number), OperatingSystem: "Linux"},
		Seed: sha256.Sum256(fmt.Appendf(nil, "%d/%d/%d", h.Seed, number, now.UnixNano())), Begin: now, Booted: time.Hour, Pace: scripted.Real(),
	}
	random := rand.New(rand.NewPCG(h.Seed, uint64(number)^uint64(now.UnixNano())))
	agentConfig := agent.Config{
		DataDir: filepath.Join(h.Disk, fmt.Sprintf("agent-%03d", number)), Managers: []string{ownMachine}, Version: "faults",
		ControlSocket: agent.NoControl, Drain: true,
	}
	var home atomic.Bool
	home.Store(!h.Offline)
	deps := agent.Deps{Journalled: truth.add, Log: log, Dial: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		if !home.Load() {
			return nil, errAway
		}
		return new(net.Dialer).DialContext(ctx, "tcp", h.Manager)
	})}}
	if h.Offline {
		config.Begin, config.Pace, config.Period = now.Add(-sixWeeks), scripted.Virtual(), time.Minute
		config.Script = sixWeeksOf(number, random, &home)
		agentConfig.GroupRecords = 500
		if deps.Policy, err = policyOf(filepath.Join(h.Dir, takenAlong)); err != nil {
			return err
		}
	} else {
		config.Script = busyDesk(number, random, &leaving)
	}
	desk := scripted.New(config)
	defer desk.Close()
	deps.Desktop = desk
	a, err := agent.New(agentConfig, deps)
	if err != nil {
		return err
	}
	// The agent outlives ctx until its people have logged off and all is sent.
	return a.Run(context.WithoutCancel(ctx))
}

// takenAlong is the file of what another agent was told, taken along on a journey.
const takenAlong = "policy.pb"

func policyOf(file string) (*policyv1.Policy, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	policy := &policyv1.Policy{}
	return policy, proto.Unmarshal(text, policy)
}

// writer gives the steps of a script their times.
type writer struct {
	yield func(scripted.Step) bool
	at    time.Duration
	over  bool
}

func (w *writer) do(after time.Duration, action scripted.Action) {
	w.at += after
	if !w.over {
		w.over = !w.yield(scripted.Step{At: w.at, Do: action})
	}
}

func (w *writer) open(program int) {
	w.do(0, scripted.Start{PID: int32(100 + program), Path: "/opt/" + programs[program]})
	w.do(0, scripted.Show{ID: uint64(program + 1), PID: int32(100 + program), Class: programs[program], Title: "a plan"})
}

// busyDesk is somebody in a hurry: several changes a second until they leave.
func busyDesk(number int, random *rand.Rand, leaving *atomic.Bool) scripted.Script {
	return func(yield func(scripted.Step) bool) {
		w := &writer{yield: yield}
		w.do(0, scripted.LogOn{User: activity.User{Domain: "FAULTS", Name: fmt.Sprintf("person%d", number)}})
		for p := range programs {
			w.open(p)
		}
		for !w.over && !leaving.Load() {
			pause := time.Duration(100+random.IntN(700)) * time.Millisecond
			program := random.IntN(len(programs))
			if random.IntN(50) == 0 { // somebody, or a time server, sets the machine's clock
				w.do(0, scripted.SetClock{By: time.Duration(random.IntN(1200)-600) * time.Second})
			}
			switch random.IntN(12) {
			case 0:
				w.do(pause, scripted.Exit{PID: int32(100 + program)})
				// Longer than a launcher may take to hand over, now and then.
				w.do(time.Duration(random.IntN(8))*time.Second/2, scripted.Focus{})
				w.open(program)
			case 1:
				w.do(pause, scripted.Lock{})
				w.do(pause, scripted.Unlock{})
			case 2, 3, 4:
				w.do(pause, scripted.Inputs{For: time.Second, Every: 200 * time.Millisecond})
			default:
				w.do(pause, scripted.Focus{ID: uint64(program + 1)})
			}
		}
		w.do(100*time.Millisecond, scripted.LogOff{})
	}
}

var errAway = errors.New("faults: on a journey, without a network")

// sixWeeksOf is somebody on a long journey, eight hours a day, who then is home.
func sixWeeksOf(number int, random *rand.Rand, home *atomic.Bool) scripted.Script {
	return func(yield func(scripted.Step) bool) {
		defer home.Store(true)
		w := &writer{yield: yield}
		for day := time.Duration(0); day < sixWeeks-24*time.Hour; day += 24 * time.Hour {
			w.at = day
			w.do(0, scripted.LogOn{User: activity.User{Domain: "FAULTS", Name: fmt.Sprintf("person%d", number)}})
			for p := range programs {
				w.open(p)
			}
			for w.at < day+8*time.Hour {
				w.do(time.Duration(1+random.IntN(10))*time.Minute, scripted.Focus{ID: uint64(1 + random.IntN(len(programs)))})
				w.do(time.Second, scripted.Inputs{For: time.Minute, Every: 900 * time.Millisecond})
			}
			w.do(2*time.Minute, scripted.LogOff{})
		}
	}
}
