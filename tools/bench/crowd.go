package bench

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cetrus/cetrus/tools/load"
)

// Crowd is an order for a process that is many light agents, and answers on HTTP how they do.
type Crowd struct {
	// Manager is where they go, Token what they enrol by.
	Manager, Token string
	// Dir takes their certificates, and a file with the address that this process answers on.
	Dir string
	// Agents work from the beginning on, Laptops were away for LaptopDays and arrive when they are told to.
	Agents, Laptops, LaptopDays int
	// Spread and Morning are those of load.CrowdConfig, of the agents.
	Spread, Morning time.Duration
	// Rules are the account's.
	Rules []load.RuleRef
	Seed  uint64
}

// crowdState is what the process answers.
type crowdState struct {
	// Enrolled: all of them have certificates, within EnrollSeconds. Begun: the agents connect.
	Enrolled, Begun bool
	EnrollSeconds   float64
	Agents, Laptops load.CrowdCounts
	CPU             time.Duration
	Failure         string
}

func (s crowdState) made() int64         { return s.Agents.Made + s.Laptops.Made }
func (s crowdState) acknowledged() int64 { return s.Agents.Acknowledged + s.Laptops.Acknowledged }

// millisOf is a line of the truth.
type millisOf struct {
	Key    load.Key
	Millis int64
}

const (
	crowdAddressFile = "address"
	// crowdFiles are those of a process beside one for each connection.
	crowdFiles = 512
	// enrolAtOnce is how many ask for their certificates at once.
	enrolAtOnce = 64
)

// Be is the process: it ends with ctx.
func (c Crowd) Be(ctx context.Context) error {
	if err := load.NeedFiles(uint64(c.Agents + c.Laptops + crowdFiles)); err != nil {
		return err
	}
	debug.SetGCPercent(300) // it shares the processors with what is measured
	config := load.CrowdConfig{Manager: c.Manager, Token: c.Token, Dir: c.Dir, Rules: c.Rules, Seed: c.Seed}
	working, away := config, config
	working.Ledger, away.Ledger = load.NewLedger(), load.NewLedger()
	working.Count, working.Spread, working.Morning = c.Agents, c.Spread, c.Morning
	away.First, away.Count, away.AwayDays = c.Agents, c.Laptops, max(1, c.LaptopDays)
	agents, err := load.NewCrowd(working)
	if err != nil {
		return err
	}
	laptops, err := load.NewCrowd(away)
	if err != nil {
		return err
	}
	p := &crowdProcess{agents: agents, laptops: laptops, truth: []*load.Ledger{working.Ledger}, late: away.Ledger, arrive: make(chan struct{})}
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() { p.fail(p.work(ctx)) })
	all.Go(func() { p.fail(p.laptop(ctx)) })
	return p.answer(ctx, filepath.Join(c.Dir, crowdAddressFile))
}

type crowdProcess struct {
	agents, laptops *load.Crowd
	arrive          chan struct{}
	late            *load.Ledger // of the laptops

	mu    sync.Mutex
	state crowdState
	truth []*load.Ledger // of those who have arrived
}

func (p *crowdProcess) fail(err error) {
	if err != nil {
		p.note(func(s *crowdState) { s.Failure = err.Error() })
	}
}

func (p *crowdProcess) note(f func(*crowdState)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.state)
}

func (p *crowdProcess) work(ctx context.Context) error {
	began := time.Now()
	for _, c := range []*load.Crowd{p.agents, p.laptops} {
		if err := c.Enroll(ctx, enrolAtOnce); err != nil {
			return err
		}
	}
	p.note(func(s *crowdState) { s.Enrolled, s.Begun, s.EnrollSeconds = true, true, time.Since(began).Seconds() })
	return p.agents.Run(ctx)
}

func (p *crowdProcess) laptop(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.arrive:
	}
	return p.laptops.Run(ctx)
}

// answer serves until ctx ends.
func (p *crowdProcess) answer(ctx context.Context, addressFile string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) {
		since, _ := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		p.mu.Lock()
		state, arrived := p.state, len(p.truth) > 1
		p.mu.Unlock()
		state.Agents, state.Laptops, state.CPU = p.agents.Counts(time.UnixMilli(since)), p.laptops.Counts(time.UnixMilli(since)), ownCPU()
		if !arrived {
			state.Laptops = load.CrowdCounts{}
		}
		_ = json.NewEncoder(w).Encode(state)
	})
	mux.HandleFunc("POST /arrive", func(http.ResponseWriter, *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.truth) == 1 {
			p.truth = append(p.truth, p.late)
			close(p.arrive)
		}
	})
	mux.HandleFunc("POST /still", func(http.ResponseWriter, *http.Request) { p.agents.Still(true) })
	mux.HandleFunc("POST /work", func(http.ResponseWriter, *http.Request) { p.agents.Still(false) })
	mux.HandleFunc("POST /pace", func(_ http.ResponseWriter, r *http.Request) {
		times, _ := strconv.ParseInt(r.URL.Query().Get("times"), 10, 64)
		p.agents.Pace(times)
	})
	mux.HandleFunc("GET /truth", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		truth := slices.Clone(p.truth)
		p.mu.Unlock()
		out := gob.NewEncoder(w)
		for _, ledger := range truth {
			for key, millis := range ledger.Millis() {
				if key.Document.IsZero() && out.Encode(millisOf{key, millis}) != nil {
					return
				}
			}
		}
	})
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := writeWhole(addressFile, listener.Addr().String()); err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
