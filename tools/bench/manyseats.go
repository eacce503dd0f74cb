package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cetrus/cetrus/tools/figure"
)

// manySeats lets time pass faster at the agents, so that each records what many people do, and measures
// what that costs: the events are those of so many seats, the connections are not. It climbs until the
// machine, on which the agents run as well, keeps up no longer.
func manySeats(ctx context.Context, r *run) error {
	s, err := r.theSite(ctx)
	if err != nil {
		return err
	}
	if err := s.stillCounted(ctx); err != nil {
		return err
	}
	span := sized(r, 2*time.Second, 40*time.Second)
	for _, times := range sized(r, []int{5}, []int{5, 10, 20, 40, 100}) {
		behind, err := s.seats(ctx, times, span)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			r.say("with %d seats nothing here has the time to answer: no more are tried", s.order.Agents*times)
			if err = s.await(ctx, "the agents to slow down", func() error { return s.tell(ctx, "pace?times=1") }); err != nil {
				return err
			}
			break
		}
		if err != nil {
			return err
		}
		if behind > keepsUp {
			r.say("what %d seats did in %v was counted %v after that: no more are tried", s.order.Agents*times, span, behind.Round(time.Second))
			break
		}
	}
	return s.lost(ctx)
}

// keepsUp is how far a platform that can go on like this may be behind after a span.
const keepsUp = 10 * time.Second

// seats has each agent do what so many people do, and tells how long after the span it took until all
// that they did was counted.
func (s *site) seats(ctx context.Context, times int, span time.Duration) (behind time.Duration, err error) {
	r := s.run
	if err := s.tell(ctx, fmt.Sprintf("pace?times=%d", times)); err != nil {
		return 0, err
	}
	if !pause(ctx, warm) {
		return 0, ctx.Err()
	}
	s.watch.live.take()
	s.watch.final.take()
	before, err := s.used(ctx)
	if err != nil {
		return 0, err
	}
	r.say("%d agents, each as %d people, for %v", s.order.Agents, times, span)
	if !pause(ctx, span) {
		return 0, ctx.Err()
	}
	after, err := s.used(ctx)
	if err != nil {
		return 0, err
	}
	state, err := s.state(ctx, time.Time{})
	if err != nil {
		return 0, err
	}
	status, err := s.managerStatus(ctx)
	if err != nil {
		return 0, err
	}
	live, final := s.watch.live.take(), s.watch.final.take()
	waiting := state.Agents.Made - state.Agents.Acknowledged
	if err := s.tell(ctx, "pace?times=1"); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.stillCounted(ctx); err != nil {
		return 0, err
	}
	behind = time.Since(began)
	seconds := after.at.Sub(before.at).Seconds()
	thousands := float64(after.acknowledged-before.acknowledged) / 1000
	return behind, r.emit(figure.Line{Name: fmt.Sprintf("many_seats_%d", s.order.Agents*times), Value: thousands * 1000 / seconds, Unit: "events/s", More: map[string]any{
		"agents": s.order.Agents, "people_per_agent": times, "unacknowledged_events": waiting, "manager_backlog_messages": status.Backlog, "level_after_s": behind.Seconds(),
		"live_p50_ms": at(0.5, live), "live_p99_ms": at(0.99, live), "final_p50_ms": at(0.5, final), "final_p99_ms": at(0.99, final),
		"manager_processors": (after.manager - before.manager).Seconds() / seconds, "manager_cpu_s_per_thousand": (after.manager - before.manager).Seconds() / thousands,
		"platform_processors": (after.platform - before.platform).Seconds() / seconds, "platform_cpu_s_per_thousand": (after.platform - before.platform).Seconds() / thousands,
		"generator_processors": (after.crowd - before.crowd).Seconds() / seconds, "manager_resident_mb": float64(memory(s.manager.PID(), "VmRSS:")) / 1e6,
	}})
}
