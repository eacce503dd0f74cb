package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/cetrus/cetrus/tools/figure"
)

const (
	// backWithin is within which time all agents are to be back after their Manager began anew.
	backWithin = 60 * time.Second
	// liveWanted and liveWantedAtArrival are the freshness that is wanted of the live view, alone and
	// while laptops bring a week.
	liveWanted, liveWantedAtArrival = time.Second, 5 * time.Second
)

// used is what processes have used up to a moment.
type used struct {
	at                       time.Time
	manager, platform, crowd time.Duration
	acknowledged             int64
}

func (s *site) used(ctx context.Context) (used, error) {
	state, err := s.state(ctx, time.Time{})
	return used{
		at: time.Now(), manager: s.manager.cpu(), platform: treeCPU(s.platform.PID()), crowd: state.CPU,
		acknowledged: state.acknowledged(),
	}, err
}

// tenThousandAgents measures what connected agents cost a Manager at the pace of people at work, and
// how they come back when it begins anew.
func tenThousandAgents(ctx context.Context, r *run) error {
	s, err := r.theSite(ctx)
	if err != nil {
		return err
	}
	r.say("what the machines bring along is counted")
	if err := s.stillCounted(ctx); err != nil {
		return err
	}
	if err := s.steady(ctx); err != nil {
		return err
	}
	for _, how := range []struct {
		name string
		end  func() error
	}{
		{"restart_sigterm", func() error { return s.manager.Stop(time.Minute) }},
		{"restart_sigkill", func() error {
			s.manager.Kill()
			return nil
		}},
	} {
		if err := s.restart(ctx, how.name, how.end); err != nil {
			return err
		}
	}
	return s.lost(ctx)
}

// stillCounted waits, with nothing happening at the machines, until all is counted.
func (s *site) stillCounted(ctx context.Context) error {
	if err := s.tell(ctx, "still"); err != nil {
		return err
	}
	if err := s.counted(ctx); err != nil {
		return err
	}
	return s.tell(ctx, "work")
}

// steady measures people at work.
func (s *site) steady(ctx context.Context) error {
	r := s.run
	if !pause(ctx, warm) {
		return ctx.Err()
	}
	s.watch.live.take()
	s.watch.final.take()
	before, err := s.used(ctx)
	if err != nil {
		return err
	}
	status, err := s.managerStatus(ctx)
	if err != nil {
		return err
	}
	span := sized(r, 6*time.Second, time.Minute)
	r.say("%d agents at work for %v", s.order.Agents, span)
	if !pause(ctx, span) {
		return ctx.Err()
	}
	after, err := s.used(ctx)
	if err != nil {
		return err
	}
	later, err := s.managerStatus(ctx)
	if err != nil {
		return err
	}
	live, final, err := s.felt(ctx)
	if err != nil {
		return err
	}
	seconds := after.at.Sub(before.at).Seconds()
	resident := memory(s.manager.PID(), "VmRSS:")
	minute := (after.manager - before.manager).Seconds() / seconds * 60
	events := float64(after.acknowledged - before.acknowledged)
	agents := float64(s.order.Agents + watched)
	share := func() map[string]any {
		return map[string]any{
			"agents": s.order.Agents, "events_per_s": events / seconds, "frames_per_s": float64(later.Ingest.Frames-status.Ingest.Frames) / seconds,
			"snapshots_per_s":      float64(later.Ingest.Live-status.Ingest.Live) / seconds,
			"platform_processors":  (after.platform - before.platform).Seconds() / seconds,
			"generator_processors": (after.crowd - before.crowd).Seconds() / seconds,
		}
	}
	line := func(part string, value float64, unit string, limit float64, more map[string]any) error {
		all := share()
		for k, v := range more {
			all[k] = v
		}
		return r.emit(figure.Line{Name: "ten_thousand_agents_" + part, Value: value, Unit: unit, Limit: limit, More: all})
	}
	return errors.Join(
		line("memory", float64(resident)/1e6, "MB", agents*residentPerAgent/1e6, map[string]any{
			"empty_mb": float64(s.empty) / 1e6, "per_agent_kb": float64(resident-s.empty) / agents / 1000, "peak_mb": float64(s.manager.peakMemory()) / 1e6,
		}),
		line("cpu", minute, "s/min", 60, nil),
		line("acknowledged", events/seconds, "events/s", 0, nil),
		line("live", at(0.99, live), "ms", millis(liveWanted), map[string]any{"p50_ms": at(0.5, live), "most_ms": at(1, live), "samples": len(live)}),
		line("final", at(0.99, final), "ms", 0, map[string]any{"p50_ms": at(0.5, final), "most_ms": at(1, final), "samples": len(final)}),
	)
}

// residentPerAgent is what a connected agent may take of a Manager's memory.
const residentPerAgent = 150_000

// sampled is what came of looking at the crowd again and again.
type sampled struct {
	at            []time.Time
	dials, hellos []int64
}

func (s *sampled) add(dials, hellos int64) {
	s.at, s.dials, s.hellos = append(s.at, time.Now()), append(s.dials, dials), append(s.hellos, hellos)
}

// most is the greatest number within a second.
func (s *sampled) most(of []int64) (most int64) {
	from := 0
	for i := range s.at {
		for s.at[i].Sub(s.at[from]) > time.Second {
			from++
		}
		most = max(most, of[i]-of[from])
	}
	return most
}

// restart ends the Manager and starts it again, and measures until all are back.
func (s *site) restart(ctx context.Context, name string, end func() error) error {
	r := s.run
	r.say("%s", name)
	s.watch.live.take()
	state, err := s.state(ctx, time.Time{})
	if err != nil {
		return err
	}
	var seen sampled
	dials := state.Agents.Dials
	seen.add(state.Agents.Dials, state.Agents.Hellos)
	began := time.Now()
	if err := end(); err != nil {
		return err
	}
	started := time.Now()
	if err := s.startManager(); err != nil {
		return err
	}
	var first, half time.Duration
	var all used
	if err := s.await(ctx, "all agents to be back", func() error {
		state, err = s.state(ctx, started)
		if err != nil {
			return err
		}
		seen.add(state.Agents.Dials, state.Agents.Hellos)
		since := time.Since(started)
		if first == 0 && state.Agents.Back > 0 {
			first = since
		}
		if half == 0 && state.Agents.Back >= s.order.Agents/2 {
			half = since
		}
		if state.Agents.Back < s.order.Agents {
			return fmt.Errorf("%d of %d are back", state.Agents.Back, s.order.Agents)
		}
		all, err = s.used(ctx)
		return err
	}); err != nil {
		return err
	}
	back := all.at.Sub(started).Seconds()
	if !pause(ctx, sized(r, time.Second, 5*time.Second)) {
		return ctx.Err()
	}
	return r.emit(figure.Line{Name: "ten_thousand_agents_" + name, Value: back, Unit: "s", Limit: backWithin.Seconds(), More: map[string]any{
		"agents": s.order.Agents, "stopping_s": started.Sub(began).Seconds(), "first_s": first.Seconds(), "half_s": half.Seconds(),
		"most_connects_per_s": seen.most(seen.dials), "most_handshakes_per_s": seen.most(seen.hellos), "connects": state.Agents.Dials - dials,
		"manager_cpu_s": all.manager.Seconds(), "manager_processors": all.manager.Seconds() / back, "peak_mb": float64(s.manager.peakMemory()) / 1e6,
	}})
}

// felt takes how long what the watched agents did needed to be seen live and counted, since it was taken
// last: at least one of each, which a small run may be too short for.
func (s *site) felt(ctx context.Context) (live, final []time.Duration, err error) {
	err = s.await(ctx, "the watched agents to be seen live and counted", func() error {
		if live, final := len(s.watch.live.taken()), len(s.watch.final.taken()); live == 0 || final == 0 {
			return fmt.Errorf("%d delays of live and %d of counted use", live, final)
		}
		return nil
	})
	return s.watch.live.take(), s.watch.final.take(), err
}

// lost compares what was counted with what was recorded.
func (s *site) lost(ctx context.Context) error {
	if err := s.stillCounted(ctx); err != nil {
		return err
	}
	if err := s.tell(ctx, "still"); err != nil {
		return err
	}
	if err := s.counted(ctx); err != nil {
		return err
	}
	found, err := s.compare(ctx)
	if err != nil {
		return err
	}
	if err := s.run.emit(figure.Line{Name: s.run.name + "_lost", Value: float64(found.LostMillis), Unit: "ms", More: map[string]any{
		"doubled_ms": found.DoubledMillis, "keys": found.Keys, "differences": len(found.Differences),
	}}); err != nil {
		return err
	}
	if !found.Equal() {
		return fmt.Errorf("bench: %d ms lost, %d ms doubled, first %+v", found.LostMillis, found.DoubledMillis, found.Differences[0])
	}
	return s.tell(ctx, "work")
}

// offlineBacklog measures what the others feel when laptops that were away for a week arrive at once, and
// what an event costs and takes from end to end.
func offlineBacklog(ctx context.Context, r *run) error {
	s, err := r.theSite(ctx)
	if err != nil {
		return err
	}
	if err := s.stillCounted(ctx); err != nil {
		return err
	}
	if !pause(ctx, warm) {
		return ctx.Err()
	}
	s.watch.live.take()
	s.watch.final.take()
	before, err := s.used(ctx)
	if err != nil {
		return err
	}
	sizes := s.sizes()
	r.say("%d laptops arrive", s.order.Laptops)
	began := time.Now()
	if err := s.tell(ctx, "arrive"); err != nil {
		return err
	}
	var seen sampled
	var state crowdState
	var connected, acknowledged time.Duration
	if err := s.await(ctx, "the backlog to be acknowledged", func() error {
		if state, err = s.state(ctx, began); err != nil {
			return err
		}
		seen.add(state.Laptops.Dials, state.Laptops.Hellos)
		if connected == 0 && state.Laptops.Back == s.order.Laptops {
			connected = time.Since(began)
		}
		if state.Laptops.Acknowledged < state.Laptops.Made {
			return fmt.Errorf("%d of %d events are acknowledged", state.Laptops.Acknowledged, state.Laptops.Made)
		}
		acknowledged = time.Since(began)
		return nil
	}); err != nil {
		return err
	}
	if err := s.level(ctx); err != nil {
		return err
	}
	in := time.Since(began)
	after, err := s.used(ctx)
	if err != nil {
		return err
	}
	live, final, err := s.felt(ctx)
	if err != nil {
		return err
	}
	thousands := float64(after.acknowledged-before.acknowledged) / 1000
	told := map[string]any{
		"agents": s.order.Agents, "laptops": s.order.Laptops, "days": s.order.LaptopDays, "events": state.Laptops.Made,
		"p50_ms": at(0.5, live), "most_ms": at(1, live), "samples": len(live), "final_p99_ms": at(0.99, final), "final_p50_ms": at(0.5, final), "final_samples": len(final),
		"connected_s": connected.Seconds(), "acknowledged_s": acknowledged.Seconds(), "most_connects_per_s": seen.most(seen.dials),
		"manager_cpu_s_per_thousand": (after.manager - before.manager).Seconds() / thousands, "platform_cpu_s_per_thousand": (after.platform - before.platform).Seconds() / thousands,
		"generator_cpu_s_per_thousand": (after.crowd - before.crowd).Seconds() / thousands,
		"manager_peak_mb":              float64(s.manager.peakMemory()) / 1e6,
	}
	if err := errors.Join(
		r.emit(figure.Line{Name: "offline_backlog_live", Value: at(0.99, live), Unit: "ms", Limit: millis(liveWantedAtArrival), More: told}),
		r.emit(figure.Line{Name: "offline_backlog_counted", Value: in.Seconds(), Unit: "s", More: map[string]any{
			"events": state.Laptops.Made, "events_per_s": float64(state.Laptops.Made) / in.Seconds(), "acknowledged_events_per_s": float64(state.Laptops.Made) / acknowledged.Seconds(),
		}}),
	); err != nil {
		return err
	}
	if err := s.lost(ctx); err != nil {
		return err
	}
	if after, err = s.used(ctx); err != nil {
		return err
	}
	if err := s.archived(ctx, sizes["archive"]); err != nil {
		return err
	}
	events, more := float64(after.acknowledged-before.acknowledged), map[string]any{}
	grown := s.sizes()
	for name, bytes := range grown {
		more[name+"_bytes_per_event"] = float64(bytes-sizes[name]) / events
	}
	return r.emit(figure.Line{Name: "offline_backlog_bytes", Value: float64(grown["nats"]-sizes["nats"]) / events, Unit: "bytes/event", More: more})
}

// archived waits until, for longer than anything waits to be archived, the archive has grown by no more than
// a hundredth of what has come since it had a size: the others are at work all the time. Of a small run there
// is too little to tell anything.
func (s *site) archived(ctx context.Context, before int64) error {
	if s.run.Scale == Small {
		return nil
	}
	for {
		size := folderBytes(s.archive)
		if !pause(ctx, archiveAge+archiveAge/2) {
			return ctx.Err()
		}
		if now := folderBytes(s.archive); (now-size)*100 <= now-before {
			return nil
		}
	}
}

// sizes are the bytes that the tiers' folders take on disk.
func (s *site) sizes() map[string]int64 {
	return map[string]int64{
		"manager_buffer": folderBytes(filepath.Join(s.dir, "buffer")), "archive": folderBytes(s.archive),
		"nats": folderBytes(filepath.Join(s.platform.Dir, "nats")), "postgres": folderBytes(filepath.Join(s.platform.Dir, "postgres", "data", "base")),
	}
}

func folderBytes(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what goes away meanwhile takes nothing
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}
