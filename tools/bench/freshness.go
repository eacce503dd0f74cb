package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/figure"
	"github.com/cetrus/cetrus/tools/load"
	"github.com/cetrus/cetrus/tools/stack"
)

// Freshness: a crowd of light agents keeps up a steady load, and a few real agents
// over scripted desktops among them are watched through the API.
const (
	// crowdPause lies between two frames of one of the crowd, each of 1 to 3 events.
	crowdPause = 4 * time.Second
	// crowdLive lies between two of its live snapshots.
	crowdLive = 10 * time.Second
	// probePeriod is how often a watched person turns from one program to the other.
	probePeriod = 2 * time.Second
	// probePause is how long a watched person rests between turning to a window and
	// the next key. What was before the turn is decided by that key: until then nobody
	// can know whether the stretch goes on.
	probePause = 300 * time.Millisecond
	// probeBooted is how long a watched machine is up when its script begins.
	probeBooted = time.Hour
	// askEvery is the time between two questions after one interval, and so the
	// grain of freshness_final.
	askEvery = 20 * time.Millisecond
	// askTenth makes it a tenth of what was waited, where that is more: hundreds wait behind a backlog.
	askTenth = 10
)

// freshness measures both kinds in one run, since both need the same load, and
// emits one of them.
func freshness(ctx context.Context, r *run, which string) error {
	if r.fresh == nil {
		var err error
		if r.fresh, err = r.measureFreshness(ctx); err != nil {
			return err
		}
	}
	return r.emit(r.fresh[which])
}

// delays collects delays from several goroutines.
type delays struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *delays) add(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, delay)
}

func (d *delays) taken() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all
}

// take gives what was added since it was asked last.
func (d *delays) take() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken := d.all
	d.all = nil
	return taken
}

// watch is what is known of the watched agents' doings.
type watch struct {
	platform *stack.Platform
	manager  string       // where the watched agents go, host:port
	token    string       // what they enrol by; empty: they speak in plain
	live     delays       // observed → told by the live stream
	final    delays       // decidable → counted
	journal  delays       // decidable → durable in the agent's journal
	events   atomic.Int64 // that watched agents have journalled
	began    time.Time

	mu     sync.Mutex
	seen   map[string]bool // attentions of watched agents that the live stream has told
	asking sync.WaitGroup
}

func (r *run) measureFreshness(ctx context.Context) (map[string]figure.Line, error) {
	p, err := r.startPlatform(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Stop(20 * time.Second) }()
	for _, name := range []string{"draft", "solver"} {
		if _, err := p.API.CreateApplication(ctx, &meteringv1.Application{DisplayName: name, Rules: []*meteringv1.Rule{{Executable: name}}}); err != nil {
			return nil, err
		}
	}
	crowd, probes := sized(r, 50, 990), sized(r, 3, 10)
	working, stop := context.WithCancelCause(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop(nil)
	if err := r.startCrowd(working, &workers, stop, p, crowd); err != nil {
		return nil, err
	}
	w := &watch{platform: p, manager: p.ManagerAgents, seen: map[string]bool{}, began: time.Now()}
	workers.Go(func() {
		for working.Err() == nil {
			_ = p.API.Live(working, nil, w.told)
			pause(working, 100*time.Millisecond)
		}
	})
	for n := range probes {
		a, desk, err := r.newProbe(working, w, n)
		if err != nil {
			return nil, err
		}
		workers.Go(func() {
			defer desk.Close()
			if err := a.Run(working); err != nil && working.Err() == nil {
				stop(fmt.Errorf("probe %d: %w", n, err))
			}
		})
	}
	span := sized(r, 15*time.Second, time.Minute)
	r.say("%d light agents and %d watched ones at work for %v", crowd, probes, span)
	cpu, platformCPU := ownCPU(), treeCPU(p.PID())
	if !pause(working, span) {
		return nil, errors.Join(context.Cause(working), p.Failure())
	}
	share := map[string]any{
		"agents": crowd + probes, "watched": probes, "frames_per_s": float64(crowd) / crowdPause.Seconds(), "snapshots_per_s": float64(crowd) / crowdLive.Seconds(),
		"generator_processors": (ownCPU() - cpu).Seconds() / span.Seconds(), "platform_processors": (treeCPU(p.PID()) - platformCPU).Seconds() / span.Seconds(),
	}
	stop(nil)
	workers.Wait()
	w.asking.Wait()
	line := func(name string, d []time.Duration, wanted float64) (figure.Line, error) {
		if len(d) == 0 {
			return figure.Line{}, fmt.Errorf("bench: %s: nothing was observed", name)
		}
		more := map[string]any{"p50_ms": at(0.5, d), "p99_ms": at(0.99, d), "most_ms": at(1, d), "samples": len(d)}
		for k, v := range share {
			more[k] = v
		}
		return figure.Line{Name: name, Value: at(0.99, d), Unit: "ms", Limit: wanted, More: more}, nil
	}
	live, err := line("freshness_live", w.live.taken(), 1000)
	if err != nil {
		return nil, err
	}
	final, err := line("freshness_final", w.final.taken(), 0)
	if err != nil {
		return nil, err
	}
	final.More["observing_p50_ms"], final.More["observing_p99_ms"] = at(0.5, w.journal.taken()), at(0.99, w.journal.taken())
	final.More["asked_every_ms"] = millis(askEvery)
	return map[string]figure.Line{"freshness_live": live, "freshness_final": final}, nil
}

// warm is how long the watched agents may take until what they do is measured:
// connecting, their policy and their first programs.
const warm = 5 * time.Second

// newProbe makes a real agent that is watched.
func (r *run) newProbe(ctx context.Context, w *watch, number int) (*agent.Agent, *scripted.Desktop, error) {
	dir, err := r.folder("probe")
	if err != nil {
		return nil, nil, err
	}
	begin := time.Now()
	desk := scripted.New(scripted.Config{
		Host: desktop.Host{Name: fmt.Sprintf("probe-%02d", number), OperatingSystem: "Linux"}, Script: turning(number),
		Begin: begin, Booted: probeBooted, Seed: sha256.Sum256(fmt.Appendf(nil, "%d %v", number, begin)), Pace: scripted.Real(), Endless: true,
	})
	a, err := agent.New(agent.Config{
		DataDir: filepath.Join(dir, "agent"), Managers: []string{w.manager}, EnrollmentToken: w.token, Version: "bench", ControlSocket: agent.NoControl,
	}, agent.Deps{
		Desktop: desk, Log: slog.New(slog.DiscardHandler),
		Journalled: func(events []*usagev1.UsageEvent) { w.journalled(ctx, begin, events) },
	})
	if err != nil {
		desk.Close()
		return nil, nil, err
	}
	return a, desk, nil
}

// turning is a person who turns from one program to the other and back, and starts
// one of them anew now and then.
func turning(number int) scripted.Script {
	return func(yield func(scripted.Step) bool) {
		at, over := time.Duration(number)*probePeriod/10, false
		do := func(actions ...scripted.Action) {
			for _, action := range actions {
				over = over || !yield(scripted.Step{At: at, Do: action})
			}
		}
		open := func(program int) {
			name := []string{"draft", "solver"}[program]
			do(scripted.Start{PID: int32(100 + program), Parent: 1, Path: "/opt/" + name},
				scripted.Show{ID: uint64(1 + program), PID: int32(100 + program), Class: name, Title: "a plan"})
		}
		do(scripted.LogOn{User: activity.User{Domain: "BENCH", Name: fmt.Sprintf("probe%d", number)}})
		open(0)
		open(1)
		for turn := 0; !over; turn++ {
			program := turn % 2
			do(scripted.Focus{ID: uint64(1 + program)}, scripted.Input{})
			at += probePause
			do(scripted.Input{})
			at += probePeriod - probePause
			if turn%8 == 7 {
				do(scripted.Exit{PID: int32(100 + program)})
				at += 10 * time.Second // longer than a launcher may take to hand over
				open(program)
				at += time.Second
			}
		}
	}
}

// journalled takes what a watched agent has just made durable.
func (w *watch) journalled(ctx context.Context, begin time.Time, events []*usagev1.UsageEvent) {
	w.events.Add(int64(len(events)))
	now := time.Now()
	if now.Sub(w.began) < warm {
		return
	}
	for _, event := range events {
		closed := event.GetClosed()
		// Only what the script's key decides is of use: of other intervals it is not
		// known here when they could be decided.
		if closed.GetAttention() != usagev1.Attention_ATTENTION_BUSY || event.GetAttention() != usagev1.Attention_ATTENTION_BACKGROUND || len(event.GetDocumentId()) > 0 {
			continue
		}
		decidable := begin.Add(time.Duration(event.GetAtBootMillis())*time.Millisecond - probeBooted + probePause)
		w.journal.add(now.Sub(decidable))
		instance, err := contract.IDFrom(event.GetInstanceId())
		if err != nil {
			continue
		}
		w.asking.Go(func() { w.ask(ctx, instance, decidable.Add(-probePause), decidable) })
	}
}

// ask asks until the API has counted an instance up to the end of an interval.
func (w *watch) ask(ctx context.Context, instance contract.ID, end, decidable time.Time) {
	for {
		answer := &meteringv1.Instance{}
		err := w.platform.API.Get(ctx, "/v1/instances/"+instance.String(), nil, answer)
		if err == nil && !answer.GetDecidedTime().AsTime().Before(end.Truncate(time.Millisecond)) {
			w.final.add(time.Since(decidable))
			return
		}
		if !pause(ctx, max(askEvery, time.Since(decidable)/askTenth)) {
			return
		}
	}
}

// told takes an answer of the live stream.
func (w *watch) told(answer *meteringv1.StreamLiveUsageResponse) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, session := range answer.GetSessions() {
		for _, instance := range session.GetInstances() {
			if name := instance.GetApplicationName(); name != "draft" && name != "solver" {
				continue
			}
			// An attention that has just begun was observed when it began: nobody in
			// these scripts is idle for long enough to be so in retrospect.
			since := instance.GetSinceTime().AsTime()
			key := fmt.Sprint(instance.GetInstanceId(), since.UnixMilli())
			if w.seen[key] {
				continue
			}
			w.seen[key] = true
			// What was there when the stream began says nothing.
			if !answer.GetComplete() && since.Sub(w.began) > warm {
				w.live.add(now.Sub(since))
			}
		}
	}
}

// startCrowd connects light agents, which go on until ctx ends.
func (r *run) startCrowd(ctx context.Context, workers *sync.WaitGroup, failed context.CancelCauseFunc, p *stack.Platform, size int) error {
	corpus, err := load.Recorded()
	if err != nil {
		return err
	}
	for n := range size {
		source := load.NewSource(corpus, load.SourceConfig{Number: n, Seed: uint64(time.Now().UnixNano()), StartUTCMillis: time.Now().Add(-30 * 24 * time.Hour).UnixMilli()})
		conn, err := grpc.NewClient(p.ManagerAgents, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		workers.Go(func() {
			defer func() { _ = conn.Close() }()
			if err := oneOfMany(ctx, conn, source); err != nil && ctx.Err() == nil {
				failed(fmt.Errorf("light agent %d: %w", n, err))
			}
		})
	}
	return nil
}

// oneOfMany is a light agent: frames and live snapshots at a steady pace.
func oneOfMany(ctx context.Context, conn *grpc.ClientConn, source *load.Source) error {
	random := rand.New(rand.NewPCG(uint64(source.Agent()[0]), uint64(source.Agent()[1])))
	if !pause(ctx, rand.N(crowdPause)) {
		return nil
	}
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(ctx)
	if err != nil {
		return err
	}
	hello := source.Hello()
	hello.UtcMillis = time.Now().UnixMilli()
	if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Person{Person: source.Person()}}); err != nil {
		return err
	}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	receiving.Go(func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	})
	shown := time.Time{}
	for serial := uint64(1); ; serial++ {
		frame, err := source.Next(1 + random.IntN(3))
		if err != nil {
			return err
		}
		if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}}); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(shown) >= crowdLive {
			shown = now
			live := source.Live(1, serial, now.UnixMilli(), activity.LiveValid)
			if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Live{Live: live}}); err != nil {
				return err
			}
		}
		if !pause(ctx, crowdPause/2+time.Duration(random.Int64N(int64(crowdPause)))) {
			return nil
		}
	}
}
