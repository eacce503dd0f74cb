package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/load"
	"github.com/cetrus/cetrus/tools/stack"
)

// Config says how a run goes.
type Config struct {
	// Dir keeps everything; it must be reachable for PostgreSQL's user.
	Dir string
	// Bin holds cetrus and cetrus-manager.
	Bin string
	// Agents is how many there are, in processes of ten.
	Agents int
	// Faults is how many are injected.
	Faults int
	// Seed decides which, when and where.
	Seed uint64
	// Host is the command that runs RunAgents with the words that follow it.
	Host []string
	// HostEnv is added to its environment.
	HostEnv []string
	Out     io.Writer
}

// Result is what a run found.
type Result struct {
	Seed     uint64
	Injected map[Kind]int
	// InFlight counts the faults that met data under way.
	InFlight map[Kind]int
	// Events is how many were journalled, Keys how many (instance, attention)
	// they add up to.
	Events, Keys int
	Comparison   load.Comparison
	Quarantined  int64
}

// Total is how many faults were injected.
func (r Result) Total() (n int) {
	for _, count := range r.Injected {
		n += count
	}
	return n
}

// Err says what is wrong with a run: something lost, doubled or quarantined, or
// a kind of fault that never met data under way and so proves nothing.
func (r Result) Err() error {
	var problems []error
	if !r.Comparison.Equal() {
		for _, d := range r.Comparison.Differences[:min(10, len(r.Comparison.Differences))] {
			problems = append(problems, fmt.Errorf("instance %s, %s: journalled %d ms, reported %d ms", d.Key.Instance, d.Key.Attention, d.Truth, d.Reported))
		}
	}
	if r.Quarantined > 0 {
		problems = append(problems, fmt.Errorf("%d records are quarantined", r.Quarantined))
	}
	for kind, injected := range r.Injected {
		if injected > 0 && r.InFlight[kind] == 0 {
			problems = append(problems, fmt.Errorf("%s: none of %d faults met data under way", kind, injected))
		}
	}
	return errors.Join(problems...)
}

const perHost = 10

// Run does one run. The error is of the harness; what was found is in Result.
func Run(ctx context.Context, c Config) (result Result, err error) {
	result = Result{Seed: c.Seed, Injected: map[Kind]int{}, InFlight: map[Kind]int{}}
	fmt.Fprintf(c.Out, "faults: seed %d, %d agents, %d faults, files in %s\n", c.Seed, c.Agents, c.Faults, c.Dir)
	p, err := startPlatform(ctx, c.Bin, c.Dir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.createApplications(ctx); err != nil {
		return result, err
	}
	r, err := newRelay(p.manager, c.Seed)
	if err != nil {
		return result, err
	}
	defer r.close()
	run := &run{Config: c, platform: p, relay: r, random: rand.New(rand.NewPCG(c.Seed, 0)), result: &result}
	defer func() {
		for _, h := range run.hosts {
			h.kill()
		}
	}()
	if err := run.everything(ctx); err != nil {
		return result, err
	}
	// Lag is told by who reads, and may be news to it: the figures decide. What is
	// not there after a minute is lost.
	for deadline := time.Now().Add(time.Minute); ; {
		if err := run.compare(ctx); err != nil || result.Comparison.Equal() || time.Now().After(deadline) {
			return result, err
		}
		if !sleep(ctx, time.Second) {
			return result, ctx.Err()
		}
	}
}

type run struct {
	Config
	platform *platform
	relay    *relay
	random   *rand.Rand
	hosts    []*program
	result   *Result
}

func (r *run) everything(ctx context.Context) error {
	for first := 0; first < r.Agents; first += perHost {
		h := r.host(fmt.Sprintf("agents-%d", first), "--first", strconv.Itoa(first), "--count", strconv.Itoa(min(perHost, r.Agents-first)))
		if err := h.start(); err != nil {
			return err
		}
	}
	kinds := r.plan()
	for i, kind := range kinds {
		if err := r.strike(ctx, kind); err != nil {
			return fmt.Errorf("faults: %s (fault %d, seed %d): %w", kind, i+1, r.Seed, err)
		}
		fmt.Fprintf(r.Out, "faults: %d of %d injected (%s)\n", i+1, len(kinds), kind)
		if !sleep(ctx, time.Duration(50+r.random.IntN(250))*time.Millisecond) {
			return ctx.Err()
		}
	}
	fmt.Fprintln(r.Out, "faults: people log off, everything is sent")
	for _, h := range r.hosts {
		if err := h.stop(2 * time.Minute); err != nil {
			return err
		}
	}
	if err := r.settled(ctx); err != nil {
		return err
	}
	return r.relay.truth.collect(filepath.Join(r.Dir, "agents"))
}

// host is a process of agents; its words end with those given.
func (r *run) host(name string, words ...string) *program {
	args := append(slices.Clone(r.Host[1:]), "--dir", filepath.Join(r.Dir, "agents"), "--manager", r.relay.address, "--seed", strconv.FormatUint(r.Seed, 10))
	h := &program{Command: stack.Command{Name: name, Path: r.Host[0], Args: append(args, words...), Env: r.HostEnv, Log: filepath.Join(r.Dir, "log", name+".log")}}
	r.hosts = append(r.hosts, h)
	return h
}

// plan shuffles the kinds by their quota, each at least once.
func (r *run) plan() []Kind {
	kinds := make([]Kind, 0, len(quota))
	for kind := range quota {
		if kind != FillDisk || r.platform.mounted {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	var weighted []Kind
	for _, kind := range kinds {
		for range quota[kind] {
			weighted = append(weighted, kind)
		}
	}
	for len(kinds) < r.Faults {
		if kind := weighted[r.random.IntN(len(weighted))]; kind != LongOffline {
			kinds = append(kinds, kind)
		}
	}
	r.random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	return kinds
}

// patience is how long a fault waits for data under way that it can meet.
const patience = 10 * time.Second

// strike injects one fault once data is under way where it strikes.
func (r *run) strike(ctx context.Context, kind Kind) error {
	var met bool
	until := func(condition func() bool) {
		for deadline := time.Now().Add(patience); !met && time.Now().Before(deadline); {
			if met = condition(); !met && !sleep(ctx, time.Millisecond) {
				return
			}
		}
	}
	sending := func() bool { return r.relay.unacknowledged.Load() > 0 }
	forwarding := func() bool { s, err := stack.ManagerStatus(ctx, r.platform.status); return err == nil && s.Backlog > 0 }
	// Metering keeps up so well that a fault hardly ever meets it at work. So it is
	// held still until more has come, and struck as soon as it goes on.
	counting := func() bool {
		metering := r.platform.programs["metering"]
		before, err := r.platform.published(ctx)
		if err != nil {
			return false
		}
		metering.signal(syscall.SIGSTOP)
		defer func() {
			metering.signal(syscall.SIGCONT)
			sleep(ctx, time.Duration(r.random.IntN(20))*time.Millisecond)
		}()
		for deadline := time.Now().Add(patience / 2); time.Now().Before(deadline) && sleep(ctx, 10*time.Millisecond); {
			if now, err := r.platform.published(ctx); err == nil && now > before+2 {
				return true
			}
		}
		return false
	}
	restart := func(name string, ready func() bool) error {
		until(ready)
		program := r.platform.programs[name]
		program.kill()
		sleep(ctx, time.Duration(r.random.IntN(400))*time.Millisecond)
		return program.start()
	}
	held := time.Duration(200+r.random.IntN(800)) * time.Millisecond
	defer func() {
		r.result.Injected[kind]++
		if met {
			r.result.InFlight[kind]++
		}
	}()
	switch kind {
	case KillAgents:
		h := r.hosts[r.random.IntN((r.Agents+perHost-1)/perHost)]
		until(sending)
		h.kill()
		return h.start()
	case KillManager:
		return restart("manager", sending)
	case KillNATS:
		return restart("nats", forwarding)
	case KillMetering:
		return restart("metering", counting)
	case KillPostgres:
		return restart("postgres", counting)
	case CutAgents:
		until(sending)
		r.relay.cutAll()
	case CutPlatform:
		until(forwarding)
		r.platform.link.cut()
		sleep(ctx, held)
		r.platform.link.mend()
	case DelayAgents:
		until(sending)
		r.relay.delayMillis.Store(50)
		sleep(ctx, held)
		r.relay.delayMillis.Store(0)
	case DelayPlatform:
		until(forwarding)
		r.platform.link.delay.Store(int64(50 * time.Millisecond))
		sleep(ctx, held)
		r.platform.link.delay.Store(0)
	case RepeatFrame, ReorderFrames, SwallowAcknowledgement:
		before := r.relay.struck(kind)
		r.relay.order(kind)
		until(func() bool { return r.relay.struck(kind) > before })
	case FillDisk:
		until(sending)
		return r.fillDisk(ctx, held)
	case LongOffline:
		h := r.host("offline", "--first", "900", "--count", "1", "--offline")
		met = true // six weeks of it, by its nature
		return h.start()
	}
	return nil
}

// fillDisk leaves the Manager no room for a while.
func (r *run) fillDisk(ctx context.Context, held time.Duration) error {
	filler := filepath.Join(r.platform.disk, "filler")
	file, err := os.Create(filler)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for err == nil {
		_, err = file.Write(block)
	}
	_ = file.Close()
	sleep(ctx, 3*held)
	return os.Remove(filler)
}

// settled waits until the Manager and metering have nothing left to do.
func (r *run) settled(ctx context.Context) error {
	return stack.Wait(ctx, 3*time.Minute, "everything to be counted", func() error {
		status, err := stack.ManagerStatus(ctx, r.platform.status)
		if err != nil {
			return err
		}
		quality, err := r.platform.quality(ctx)
		if err != nil {
			return err
		}
		if status.Backlog > 0 || quality.GetLag() > 0 {
			return fmt.Errorf("the Manager has %d messages to forward (stalled: %q), metering %d to count", status.Backlog, status.Buffer.Stall, quality.GetLag())
		}
		for _, a := range quality.GetAgents() {
			if a.GetMissing() > 0 {
				return fmt.Errorf("agent %s: %d records are missing", a.GetAgentId(), a.GetMissing())
			}
		}
		return nil
	})
}

// compare holds what the API reports against what was journalled, one by one.
func (r *run) compare(ctx context.Context) error {
	ledger, err := r.relay.truth.ledger()
	if err != nil {
		return err
	}
	reported := map[load.Key]int64{}
	if err := r.platform.instances(ctx, func(i *meteringv1.Instance) {
		t := i.GetTotals()
		for attention, millis := range map[usagev1.Attention]int64{
			usagev1.Attention_ATTENTION_SUSPENDED:  t.GetSuspended().AsDuration().Milliseconds(),
			usagev1.Attention_ATTENTION_UNKNOWN:    t.GetUnknown().AsDuration().Milliseconds(),
			usagev1.Attention_ATTENTION_PAUSED:     t.GetPaused().AsDuration().Milliseconds(),
			usagev1.Attention_ATTENTION_AWAY:       t.GetAway().AsDuration().Milliseconds(),
			usagev1.Attention_ATTENTION_BUSY:       t.GetBusy().AsDuration().Milliseconds(),
			usagev1.Attention_ATTENTION_IDLE:       t.GetIdle().AsDuration().Milliseconds(),
			usagev1.Attention_ATTENTION_BACKGROUND: t.GetBackground().AsDuration().Milliseconds(),
		} {
			if millis != 0 {
				reported[load.Key{Instance: mustID(i.GetInstanceId()), Attention: attention}] = millis
			}
		}
	}); err != nil {
		return err
	}
	quality, err := r.platform.quality(ctx)
	if err != nil {
		return err
	}
	r.result.Quarantined = 0
	for _, q := range quality.GetQuarantined() {
		r.result.Quarantined += q.GetCount()
	}
	r.result.Events, r.result.Keys = int(ledger.Events()), ledger.Keys()
	r.result.Comparison = ledger.Compare(reported)
	return nil
}
