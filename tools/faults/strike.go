package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cetrus/cetrus/tools/faults/history"
	"github.com/cetrus/cetrus/tools/stack"
)

// can tells whether a kind of fault can strike here.
func (r *run) can(kind Kind) bool {
	of, site := kinds[kind], r.platform.site != nil
	switch {
	case len(r.Kinds) > 0 && !slices.Contains(r.Kinds, kind):
		return false
	case kind == FillDisk:
		return site || r.platform.mounted
	case kind == PartitionNATS || kind == PauseNATSLeader:
		return site && len(r.platform.site.servers) > 1
	default:
		return of.place == anywhere || (of.place == ownMachines) == site
	}
}

// strikeAll injects faults in their order, as many at once as were asked for.
func (r *run) strikeAll(ctx context.Context, planned []Kind) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan int)
	var work sync.WaitGroup
	for range max(1, r.AtOnce) {
		work.Go(func() {
			for i := range next {
				if err := r.strike(ctx, i+1, planned[i]); err != nil {
					stop(fmt.Errorf("faults: %s (fault %d, seed %d): %w", planned[i], i+1, r.Seed, err))
					return
				}
				fmt.Fprintf(r.Out, "faults: %d of %d injected (%s)\n", i+1, len(planned), planned[i])
				sleep(ctx, r.random.between(50*time.Millisecond, 300*time.Millisecond))
			}
		})
	}
feed:
	for i := range planned {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	work.Wait()
	return context.Cause(ctx)
}

// patience is how long a fault waits for data under way that it can meet.
const patience = 5 * time.Second

// stroke is one fault.
type stroke struct {
	*run
	kind Kind
	met  bool
	// struck are its targets, and began is when it had them.
	struck []string
	began  time.Time
}

// until waits for data under way.
func (s *stroke) until(ctx context.Context, condition func() bool) {
	for deadline := time.Now().Add(patience); !s.met && time.Now().Before(deadline); {
		if s.met = condition(); !s.met && !sleep(ctx, time.Millisecond) {
			return
		}
	}
}

func (s *stroke) sending() bool { return s.relay.unacknowledged.Load() > 0 }

func (s *stroke) forwarding(ctx context.Context) func() bool {
	return func() bool {
		status, err := s.platform.managerStatus(ctx)
		return err == nil && status.Backlog > 0
	}
}

// counting tells when metering is at work, which it does so quickly that a fault hardly ever meets it. So it
// is held still until more has come, and struck as soon as it goes on.
func (s *stroke) counting(ctx context.Context, metering *program) func() bool {
	return func() bool {
		before := s.witness.seen()
		metering.signal(syscall.SIGSTOP)
		defer func() {
			metering.signal(syscall.SIGCONT)
			sleep(ctx, s.random.between(0, 20*time.Millisecond))
		}()
		for deadline := time.Now().Add(patience / 2); time.Now().Before(deadline) && sleep(ctx, 10*time.Millisecond); {
			if s.witness.seen() > before {
				return true
			}
		}
		return false
	}
}

// strike injects one fault once data is under way where it strikes.
func (r *run) strike(ctx context.Context, number int, kind Kind) error {
	s := &stroke{run: r, kind: kind}
	err := s.inject(ctx)
	if err == nil && ctx.Err() != nil {
		return ctx.Err()
	}
	r.history.Tell(history.Fact{Fault: &history.Fault{Number: number, Kind: string(kind), Targets: s.struck, Met: s.met, Millis: time.Since(s.began).Milliseconds()}})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Injected[kind]++
	if s.met {
		r.result.InFlight[kind]++
	}
	return err
}

func (s *stroke) inject(ctx context.Context) error {
	sets := s.sets()
	if len(sets) == 0 {
		return errors.New("there is nothing for it to strike")
	}
	set, release, err := s.targets.take(ctx, s.random, sets)
	if err != nil {
		return err
	}
	defer release()
	s.struck, s.began = set, time.Now()
	held := s.random.between(200*time.Millisecond, time.Second)
	switch s.kind {
	case KillAgents, KillManager, KillNATS, KillMetering, KillPostgres, KillService:
		return s.restart(ctx, set[0])
	case PauseManager, PauseNATSLeader, PauseMetering:
		return s.pause(ctx, set[0])
	case PartitionAgents, PartitionManager, PartitionNATS, PartitionService, PartitionPostgres, PartitionOneWay, LosePackets, OvertakePackets, DamagePackets:
		s.weather(ctx, set)
	case CutAgents:
		s.until(ctx, s.sending)
		s.relay.cutAll()
	case CutPlatform:
		s.until(ctx, s.forwarding(ctx))
		s.platform.link.cut()
		sleep(ctx, held)
		s.platform.link.mend()
	case DelayAgents:
		s.until(ctx, s.sending)
		s.relay.delayMillis.Store(50)
		sleep(ctx, held)
		s.relay.delayMillis.Store(0)
	case DelayPlatform:
		s.until(ctx, s.forwarding(ctx))
		s.platform.link.delay.Store(int64(50 * time.Millisecond))
		sleep(ctx, held)
		s.platform.link.delay.Store(0)
	case RepeatFrame, ReorderFrames, SwallowAcknowledgement:
		before := s.relay.struck(s.kind)
		s.relay.order(s.kind)
		s.until(ctx, func() bool { return s.relay.struck(s.kind) > before })
	case FillDisk:
		if s.platform.site == nil {
			s.until(ctx, s.sending)
			return s.fillDisk(ctx, held)
		}
		return s.wear(ctx, set)
	case DiskErrors, DiskReadOnly:
		return s.wear(ctx, set)
	case PowerLoss, PowerLossAll:
		return s.powerLoss(ctx, set)
	case LongOffline:
		// The first agent may not have been told anything yet, or its disk be away.
		if err := stack.Wait(ctx, time.Minute, "the first agent's policy", s.packPolicy); err != nil {
			return err
		}
		h, err := s.host(offline, "--first", "900", "--count", "1", "--offline")
		if err != nil {
			return err
		}
		s.met = true // six weeks of it, by its nature
		return h.start()
	}
	return nil
}

// sets are what a kind of fault may strike: all of one of them.
func (s *stroke) sets() (sets [][]string) {
	each := func(kinds ...string) {
		for _, name := range s.platform.names(kinds...) {
			sets = append(sets, []string{name})
		}
	}
	site := s.platform.site
	switch s.kind {
	case KillAgents:
		for _, desk := range s.desks {
			sets = append(sets, []string{desk.Name})
		}
	case KillManager, PauseManager:
		each("manager")
	case KillNATS, PauseNATSLeader:
		each("nats")
	case KillMetering, PauseMetering:
		each("metering")
	case KillPostgres:
		each("postgres")
	case KillService:
		each("keyring", "identity", "gateway")
	case FillDisk, DiskErrors, DiskReadOnly:
		if site == nil {
			each("manager")
			break
		}
		// Whose disk is drawn first: those of NATS servers are seldom free while much else strikes.
		whose := []string{"agents", "manager", "nats"}[s.random.below(3)]
		for _, name := range slices.Sorted(maps.Keys(site.disks)) {
			if part(name) == whose {
				sets = append(sets, append([]string{diskOf + name}, site.spared(name)...))
			}
		}
	case PowerLoss:
		for _, name := range slices.Sorted(maps.Keys(site.disks)) {
			sets = append(sets, []string{name, diskOf + name})
		}
	case PowerLossAll:
		// The rack: all NATS servers at once.
		var all []string
		for _, name := range site.servers {
			all = append(all, name, diskOf+name)
		}
		sets = append(sets, all)
	case PartitionAgents:
		for _, desk := range s.desks {
			sets = append(sets, ways(desk.Name, "manager"))
		}
	case PartitionManager:
		sets = append(sets, ways("manager", site.servers...))
	case PartitionNATS:
		for _, name := range site.servers {
			sets = append(sets, ways(name, without(site.servers, name)...))
		}
	case PartitionService:
		for _, name := range s.platform.names("metering", "identity", "keyring", "gateway") {
			sets = append(sets, ways(name, site.servers...))
		}
	case PartitionPostgres:
		for _, name := range s.platform.names("metering", "identity", "keyring") {
			sets = append(sets, ways(name, "postgres"))
		}
	case PartitionOneWay, LosePackets, OvertakePackets, DamagePackets:
		for _, desk := range s.desks {
			sets = append(sets, ways(desk.Name, "manager"))
		}
		for i, server := range site.servers {
			sets = append(sets, ways("manager", server))
			for _, other := range site.servers[i+1:] {
				sets = append(sets, ways(server, other))
			}
			for _, name := range s.platform.names("metering", "identity", "keyring", "gateway") {
				sets = append(sets, ways(name, server))
			}
		}
		for _, name := range s.platform.names("metering", "identity", "keyring") {
			sets = append(sets, ways(name, "postgres"))
		}
		sets = append(sets, ways("gateway", "metering-0"), ways("gateway", "identity"))
	default:
		sets = append(sets, []string{string(s.kind)})
	}
	return sets
}

// restart kills a program and starts it again.
func (s *stroke) restart(ctx context.Context, name string) error {
	program := s.program(name)
	switch part(name) {
	case "agents", "manager":
		s.until(ctx, s.sending)
	case "nats":
		s.until(ctx, s.forwarding(ctx))
	case "metering":
		s.until(ctx, s.counting(ctx, program))
	case "postgres":
		if s.platform.site == nil {
			s.until(ctx, s.counting(ctx, s.program("metering")))
			break
		}
		s.until(ctx, s.forwarding(ctx))
	default:
		s.until(ctx, s.forwarding(ctx))
	}
	program.kill()
	sleep(ctx, s.random.between(0, 400*time.Millisecond))
	return program.start()
}

// reviveAll starts programs again that end by themselves, as any system would.
func (r *run) reviveAll(ctx context.Context, programs []*program) {
	for sleep(ctx, 200*time.Millisecond) {
		for _, p := range programs {
			ended, err := p.revive()
			if ended == nil {
				continue
			}
			fmt.Fprintf(r.Out, "faults: %s ended and is started again (%v)\n", p.Name, errors.Join(inShort(ended), err))
			r.mu.Lock()
			r.result.Revived[p.Name]++
			r.mu.Unlock()
		}
	}
}

// inShort tells how a program has ended, and what it said last.
func inShort(err error) error {
	ended, ok := errors.AsType[*stack.EndedError](err)
	if !ok || len(ended.Lines) == 0 {
		return err
	}
	return fmt.Errorf("%s; last it said: %s", ended.How, ended.Lines[len(ended.Lines)-1])
}

// pause holds a program still for longer than others wait for it.
func (s *stroke) pause(ctx context.Context, name string) error {
	// A NATS server is missed after 4 to 9 s, a replica of metering after 5, a Manager that
	// does not acknowledge after 30.
	held := s.random.between(6*time.Second, 12*time.Second)
	switch s.kind {
	case PauseManager:
		s.until(ctx, s.sending)
		if s.random.below(4) == 0 {
			held = s.random.between(31*time.Second, 36*time.Second)
		}
	default:
		s.until(ctx, s.forwarding(ctx))
	}
	if s.kind == PauseNATSLeader {
		// Whoever leads the log, if nothing else strikes it; else the one that was taken.
		if leader, err := s.witness.leader(ctx); err == nil && leader != name && s.targets.takeAll([]string{leader}, false) {
			defer s.targets.release([]string{leader})
			name = leader
			s.struck = []string{leader}
		}
	}
	program := s.program(name)
	program.signal(syscall.SIGSTOP)
	sleep(ctx, held)
	program.signal(syscall.SIGCONT)
	return nil
}

// packPolicy lays what the first agent was told where who goes on a journey takes it from.
func (r *run) packPolicy() error {
	from := filepath.Join(r.Dir, "agents")
	if r.platform.site != nil {
		from = filepath.Join(r.Dir, "platters", r.desks[0].Name, "platter")
	}
	text, err := os.ReadFile(filepath.Join(from, "agent-000", "policy.pb"))
	if err == nil {
		err = os.WriteFile(filepath.Join(r.Dir, "agents", takenAlong), text, 0o600)
	}
	return err
}

// program is that of a name, of the platform or of agents.
func (r *run) program(name string) *program {
	for _, desk := range r.desks {
		if desk.Name == name {
			return desk
		}
	}
	return r.platform.programs[name]
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
