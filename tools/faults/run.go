package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/faults/disk"
	"github.com/cetrus/cetrus/tools/faults/history"
	"github.com/cetrus/cetrus/tools/faults/network"
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
	// AtOnce is how many faults strike at once; 0: one after the other.
	AtOnce int
	// Kinds are those that strike; none: all that can here.
	Kinds []Kind
	// Seed decides which, when and where.
	Seed uint64
	// Machines gives each part a machine of its own, with so many NATS servers; 0: all share
	// this one. It needs root.
	Machines int
	// Host is the command that runs RunAgents with the words that follow it.
	Host []string
	// HostEnv is added to its environment.
	HostEnv []string
	// History is the file that keeps what was seen; it must not be there.
	History string
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
	// Unsettled says what did not come to rest after the last fault.
	Unsettled error
	// Verdict is what the history shows.
	Verdict history.Verdict
	// Revived counts programs that ended by themselves, and were started again as any
	// system would.
	Revived map[string]int
	Network network.Figures
	Disks   disk.Figures
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
	if r.Unsettled != nil {
		problems = append(problems, r.Unsettled)
	}
	if !r.Comparison.Equal() {
		for _, d := range r.Comparison.Differences[:min(10, len(r.Comparison.Differences))] {
			problems = append(problems, fmt.Errorf("instance %s, %s: journalled %d ms, reported %d ms", d.Key.Instance, d.Key.Attention, d.Truth, d.Reported))
		}
	}
	if !r.Verdict.Clean() {
		problems = append(problems, fmt.Errorf("the history shows: %s", strings.Join(r.Verdict.Findings, "; ")))
	}
	if r.Quarantined > 0 {
		problems = append(problems, fmt.Errorf("%d records are quarantined", r.Quarantined))
	}
	for kind, injected := range r.Injected {
		if injected >= enough && r.InFlight[kind] == 0 {
			problems = append(problems, fmt.Errorf("%s: none of %d faults met data under way", kind, injected))
		}
	}
	return errors.Join(problems...)
}

// settleWithin is how long everything may take to be sent and counted after the last fault.
const settleWithin = 3 * time.Minute

// enough faults of a kind meet data under way at least once.
const enough = 3

const perHost = 10

// Run does one run. The error is of the harness; what was found is in Result.
func Run(ctx context.Context, c Config) (result Result, err error) {
	result = Result{Seed: c.Seed, Injected: map[Kind]int{}, InFlight: map[Kind]int{}, Revived: map[string]int{}}
	fmt.Fprintf(c.Out, "faults: seed %d, %d agents, %d faults, files in %s\n", c.Seed, c.Agents, c.Faults, c.Dir)
	start := func() (*platform, error) {
		if c.Machines > 0 {
			return startSite(ctx, c.Bin, c.Dir, c.Seed, c.Machines)
		}
		return startPlatform(ctx, c.Bin, c.Dir)
	}
	p, err := start()
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.createApplications(ctx); err != nil {
		return result, err
	}
	listener, dial, err := p.doorOfManager(ctx)
	if err != nil {
		return result, fmt.Errorf("faults: the way to the Manager: %w", err)
	}
	file, err := history.Create(c.History)
	if err != nil {
		return result, errors.Join(err, listener.Close())
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err == nil {
			result.Verdict, err = history.Check(c.History)
		}
	}()
	r, err := newRelay(listener, p.manager, dial, newTruth(file))
	if err != nil {
		return result, err
	}
	defer r.close()
	seen, err := watch(ctx, p, file)
	if err != nil {
		return result, err
	}
	defer seen.close()
	run := &run{Config: c, platform: p, relay: r, witness: seen, history: file, targets: targets{busy: map[string]bool{}}, random: newDice(c.Seed, 0), result: &result}
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
		if err := run.compare(ctx); err != nil {
			return result, err
		}
		if result.Comparison.Equal() || time.Now().After(deadline) {
			run.figures()
			return result, errors.Join(seen.caughtUp(ctx), seen.look(ctx))
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
	witness  *witness
	history  *history.File
	random   *dice
	targets  targets
	// desks are the processes of agents by their names.
	desks []*program

	mu     sync.Mutex
	hosts  []*program // those, and the ones that came later
	result *Result
}

func (r *run) everything(ctx context.Context) error {
	for first := 0; first < r.Agents; first += perHost {
		h, err := r.host(fmt.Sprintf("agents-%d", first), "--first", strconv.Itoa(first), "--count", strconv.Itoa(min(perHost, r.Agents-first)))
		if err != nil {
			return err
		}
		r.desks = append(r.desks, h)
		if err := h.start(); err != nil {
			return err
		}
	}
	reviving, stop := context.WithCancel(ctx)
	var work, desks sync.WaitGroup
	defer work.Wait()
	defer desks.Wait()
	defer stop()
	leaving, leave := context.WithCancel(reviving)
	defer leave()
	if r.platform.site != nil {
		work.Go(func() { r.reviveAll(reviving, slices.Collect(maps.Values(r.platform.programs))) })
		desks.Go(func() { r.reviveAll(leaving, r.desks) })
	}
	if err := r.strikeAll(ctx, plan(r.random.random, r.Faults, r.can)); err != nil {
		return err
	}
	leave()
	desks.Wait()
	fmt.Fprintln(r.Out, "faults: people log off, everything is sent")
	for _, h := range r.hosts {
		r.result.Unsettled = errors.Join(r.result.Unsettled, h.stop(settleWithin), h.failed())
	}
	// What is not there by then is lost: the comparison tells how much.
	if err := r.settled(ctx); ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		r.result.Unsettled = errors.Join(r.result.Unsettled, err)
	}
	return r.relay.truth.collect(filepath.Join(r.Dir, "agents"))
}

// host is a process of agents, on a machine of its own where there are such; its words end with those given.
func (r *run) host(name string, words ...string) (*program, error) {
	p := r.platform
	data := filepath.Join(r.Dir, "agents")
	if p.site != nil {
		data = filepath.Join(r.Dir, "disks", name)
	}
	args := append(slices.Clone(r.Host), "--dir", filepath.Join(r.Dir, "agents"), "--disk", data, "--seed", strconv.FormatUint(r.Seed, 10), "--manager", r.relay.address)
	args = append(args, words...)
	if p.site != nil {
		m := p.site.machines[name]
		if m == nil {
			var err error
			if m, err = p.site.network.Machine(name); err != nil {
				return nil, err
			}
			p.site.machines[name] = m
			if err := p.site.giveDisk(p, name); err != nil {
				return nil, err
			}
		}
		args = append(p.site.room.command(m), args...)
	}
	h := &program{Command: stack.Command{Name: name, Path: args[0], Args: args[1:], Env: r.HostEnv, Log: filepath.Join(r.Dir, "log", name+".log")}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts = append(r.hosts, h)
	return h, nil
}

// settled waits until the Manager and metering have nothing left to do.
func (r *run) settled(ctx context.Context) error {
	return stack.Wait(ctx, settleWithin, "everything to be counted", func() error {
		status, err := r.platform.managerStatus(ctx)
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
		for attention, millis := range attentionMillis(i) {
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

// attentionMillis is what is reported of an instance.
func attentionMillis(i *meteringv1.Instance) map[usagev1.Attention]int64 {
	t := i.GetTotals()
	return map[usagev1.Attention]int64{
		usagev1.Attention_ATTENTION_SUSPENDED:  t.GetSuspended().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_UNKNOWN:    t.GetUnknown().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_PAUSED:     t.GetPaused().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_AWAY:       t.GetAway().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_BUSY:       t.GetBusy().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_IDLE:       t.GetIdle().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_BACKGROUND: t.GetBackground().AsDuration().Milliseconds(),
	}
}

// figures adds up what machines have seen.
func (r *run) figures() {
	s := r.platform.site
	if s == nil {
		return
	}
	r.result.Network = s.network.Figures()
	for _, d := range s.disks {
		f := d.Figures()
		r.result.Disks.Writes += f.Writes
		r.result.Disks.Syncs += f.Syncs
		r.result.Disks.Failed += f.Failed
		r.result.Disks.Torn += f.Torn
		r.result.Disks.Cuts += f.Cuts
		r.result.Disks.Pages += f.Pages
		r.result.Disks.Names += f.Names
	}
}
