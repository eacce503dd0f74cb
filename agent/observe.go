package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/journal"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/rules"
)

// Times on the boot timeline, in milliseconds.
const (
	// heartbeat is how often live snapshots are renewed though nothing changed.
	heartbeat = activity.LiveValid / 3
	// sightingPeriod is how often sightings are looked for.
	sightingPeriod = 10_000
)

// chunkBytes is about how much one append may hold, or that part of a small journal: room
// comes back as records are acknowledged, and one of them has to fit into it.
const (
	chunkBytes      = 1 << 20
	chunksOfJournal = 8
)

// looking is what the observing goroutine remembers.
type looking struct {
	last       activity.Observation // without its sessions
	seen       bool
	more       bool // the last observation brings more than was taken from the machine
	unwritten  []activity.Output
	gathered   int // events in unwritten
	blindFrom  int64
	blindBoot  [16]byte
	serial     uint64
	heartbeat  int64 // boot time of the last one
	sightingAt int64
	// ledgerFails: it did not take what was journalled last.
	ledgerFails bool
	// giveUp ends the watch, where only a new start can help.
	giveUp context.CancelFunc
}

// observe takes in one observation. It is the only way by which anything comes
// to be recorded.
func (a *Agent) observe(ctx context.Context, o activity.Observation) {
	l := &a.looking
	if !a.catchUp(ctx) {
		// What is not written must not be followed by more: this time is not watched.
		if l.blindFrom == 0 {
			l.blindFrom, l.blindBoot = max(1, l.last.BootMillis), l.last.BootID
		}
		return
	}
	if l.blindFrom > 0 && l.blindBoot == o.BootID && (o.BlindSinceMillis == 0 || l.blindFrom < o.BlindSinceMillis) {
		o.BlindSinceMillis = l.blindFrom
	}
	l.blindFrom = 0
	a.holdBack(ctx)

	a.mu.Lock()
	offered := a.offered
	a.offered = nil
	a.observed = o.UTCMillis
	a.mu.Unlock()
	if offered != nil {
		a.apply(ctx, offered)
	}

	choices := a.putPauses(&o)
	a.plugins.see(o)
	out := a.machine.Observe(o)
	a.notePeople(o)
	a.noteDocuments(out.Labels)
	a.take(ctx, o, out)
	a.catchUp(ctx)
	a.showSightings(o)
	a.noteBlindness(o)
	a.releasing.see()
	a.mu.Lock()
	a.seenChoices = choices
	a.mu.Unlock()
}

// catchUp journals what was not taken before, and then what is left of the last
// observation, part by part; false: the journal does not take it all yet.
func (a *Agent) catchUp(ctx context.Context) bool {
	l := &a.looking
	for {
		if len(l.unwritten) > 0 && a.trouble != "" && !a.write(ctx) {
			return false
		}
		if !l.more {
			return true
		}
		a.take(ctx, l.last, a.machine.Continue())
	}
}

// take takes in what an observation, or a further part of it, brought.
func (a *Agent) take(ctx context.Context, o activity.Observation, out activity.Output) {
	a.keep(ctx, o, out)
	a.showLive(o, out)
	a.plugins.showWindows(out.Windows)
}

// apply puts a policy into force. It was tried when it came.
func (a *Agent) apply(ctx context.Context, policy *policyv1.Policy) {
	if err := a.machine.SetPolicy(policy); err != nil {
		a.log.ErrorContext(ctx, "the policy cannot be applied; the one before goes on", "revision", policy.GetRevision(), "reason", err)
		return
	}
	a.mu.Lock()
	a.policy, a.policyProblem = policy, ""
	a.mu.Unlock()
	a.sift(policy)
	a.plugins.configure(policy)
	a.log.InfoContext(ctx, "a policy is in force", "revision", policy.GetRevision(), "applications", len(policy.GetApplications()))
	a.uplink.ShowHealth()
}

// sift has the desktop read of programs that come and go between two looks only those that
// an application claims.
func (a *Agent) sift(policy *policyv1.Policy) {
	sieve, can := a.deps.Desktop.(desktop.Sieve)
	if !can {
		return
	}
	matcher, err := rules.Compile(policy)
	if err != nil {
		return // it was tried when it came
	}
	sieve.Sift(func(executable, path, pkg string) bool {
		_, claimed := matcher.Match(rules.Program{Executable: executable, Path: path, Package: pkg})
		return claimed
	})
}

// keep journals what an observation brought.
func (a *Agent) keep(ctx context.Context, o activity.Observation, out activity.Output) {
	l := &a.looking
	l.last = o
	l.last.Sessions = nil
	l.seen, l.more = true, out.More
	if len(out.Events) == 0 && len(out.Labels) == 0 && !out.SlotDue {
		return
	}
	out.Live, out.Windows = nil, nil // shown, never written
	l.unwritten = append(l.unwritten, out)
	l.gathered += len(out.Events)
	if l.gathered < a.config.GroupRecords && a.trouble == "" {
		return
	}
	a.write(ctx)
}

// write journals what is not written yet, and the slot that fits it; it tells
// whether that worked.
func (a *Agent) write(ctx context.Context) bool {
	l := &a.looking
	if len(l.unwritten) == 0 {
		return true
	}
	err := a.commitWithRoom(ctx)
	a.mu.Lock()
	was := a.trouble
	a.trouble = ""
	if err != nil {
		a.trouble = err.Error()
	}
	a.mu.Unlock()
	switch {
	case errors.Is(err, journal.ErrBroken):
		a.log.ErrorContext(ctx, "the agent has to be started anew to find out what its journal holds", "reason", err)
		l.giveUp()
	case err != nil && was == "":
		a.log.ErrorContext(ctx, "the journal does not take what was observed; it is kept in memory, and nothing further is recorded until it does", "reason", err)
		a.uplink.ShowHealth()
	case err == nil && was != "":
		a.log.InfoContext(ctx, "the journal takes records again")
		a.uplink.ShowHealth()
	}
	return err == nil
}

// roomPatience is how long a full journal is waited for while a Manager is there, which
// may be about to acknowledge. Observing waits too.
const roomPatience = 2 * time.Second

// commitWithRoom commits, and waits a moment for room. Where it waited in vain before, it
// does not do so again.
func (a *Agent) commitWithRoom(ctx context.Context) error {
	patience, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	var err error
	a.await(patience, func() bool {
		err = a.commit(ctx)
		var full *journal.FullError
		return !errors.As(err, &full) || a.trouble != "" || !a.uplink.Status().Connected
	})
	return err
}

func (a *Agent) commit(ctx context.Context) (err error) {
	l := &a.looking
	ctx, span := a.deps.Tracer.Start(ctx, "journal.commit", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.Int("cetrus.usage_events", l.gathered)))
	defer func() {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, "not journalled")
		}
		span.End()
	}()
	// An alias is saved before a record names it, or a restart would give the same
	// person another one.
	saved, err := a.persons.save()
	if err != nil {
		return err
	}
	if saved {
		a.uplink.SetPersons(a.persons.messages())
	}
	// In chunks, each of which is done with once it is durable. The slot comes last: until
	// then the one before holds, with whatever came behind it, be it a first part.
	limit := min(chunkBytes, int(a.journal.Stats().MaxBytes/chunksOfJournal))
	for {
		batch := batchOf(l.unwritten, limit, traceParent(span.SpanContext()))
		if len(batch.Usage) == 0 && len(batch.Labels) == 0 {
			break
		}
		if err := a.journal.Append(ctx, batch); err != nil {
			return err
		}
		l.gathered -= len(batch.Usage)
		written(l.unwritten, len(batch.Usage))
		if a.deps.Journalled != nil {
			a.deps.Journalled(batch.Usage)
		}
		a.uplink.Appended()
		a.enter(batch)
	}
	if slices.ContainsFunc(l.unwritten, func(o activity.Output) bool { return o.SlotDue }) {
		if err := a.journal.WriteSlot(a.machine.Slot()); err != nil {
			return err
		}
	}
	l.unwritten = nil
	return nil
}

// traceParent is W3C trace context; empty where nobody follows.
func traceParent(c trace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-%s", c.TraceID(), c.SpanID(), c.TraceFlags())
}

// holdBack waits while too much is not acknowledged, where that is wanted.
func (a *Agent) holdBack(ctx context.Context) {
	if most := a.config.BacklogRecords; most > 0 {
		a.await(ctx, func() bool { return a.journal.Backlog() <= most })
	}
}

// showLive shows who has what open, on change and as a heartbeat.
func (a *Agent) showLive(o activity.Observation, out activity.Output) {
	l := &a.looking
	snapshots := out.Live
	if o.BootMillis-l.heartbeat >= heartbeat || o.BootMillis < l.heartbeat {
		l.heartbeat = o.BootMillis
		renewed := a.machine.Live()
		for _, s := range out.Live {
			if s.GetEnded() {
				renewed = append(renewed, s)
			}
		}
		snapshots = renewed
	}
	if len(snapshots) == 0 {
		return
	}
	a.mu.Lock()
	for _, s := range snapshots {
		l.serial++
		s.AgentId, s.MachineId = a.identity.AgentID[:], a.identity.MachineID[:]
		s.RunId, s.Serial = a.runID, l.serial
		if s.GetEnded() {
			delete(a.live, string(s.GetSessionId()))
		} else {
			a.live[string(s.GetSessionId())] = s
		}
	}
	a.mu.Unlock()
	a.uplink.ShowLive(snapshots)
	a.plugins.shown(snapshots)
}

func (a *Agent) showSightings(o activity.Observation) {
	l := &a.looking
	if o.BootMillis-l.sightingAt < sightingPeriod && o.BootMillis >= l.sightingAt {
		return
	}
	l.sightingAt = o.BootMillis
	if all, changed := a.machine.Sightings(); changed {
		a.uplink.ShowSightings(&usagev1.SightingReport{AgentId: a.identity.AgentID[:], Sightings: all})
	}
}

// noteBlindness keeps what the desktop does not tell, for status and Manager.
func (a *Agent) noteBlindness(o activity.Observation) {
	var blind []string
	for _, s := range o.Sessions {
		for _, what := range s.Shortfalls {
			if !slices.Contains(blind, what) {
				blind = append(blind, what)
			}
		}
	}
	a.mu.Lock()
	changed := !slices.Equal(a.blind, blind)
	a.blind = blind
	a.mu.Unlock()
	if changed {
		a.uplink.ShowHealth()
	}
}

// finish settles everything at the time of the last observation.
func (a *Agent) finish(ctx context.Context) error {
	l := &a.looking
	if !l.seen {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	a.catchUp(ctx) // what it cannot do stays UNKNOWN
	out := a.machine.Stop(l.last.BootMillis)
	out.SlotDue = true
	l.unwritten = append(l.unwritten, out)
	l.gathered += len(out.Events)
	for _, s := range out.Live {
		l.serial++
		s.AgentId, s.MachineId, s.RunId, s.Serial = a.identity.AgentID[:], a.identity.MachineID[:], a.runID, l.serial
	}
	a.uplink.ShowLive(out.Live)
	if err := a.commitWithRoom(ctx); err != nil {
		return fmt.Errorf("agent: what was open when the agent stopped could not be journalled: %w", err)
	}
	return nil
}
