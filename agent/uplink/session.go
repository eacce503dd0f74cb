package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/proto/contract"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

type stream = grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse]

// session is one connection. One goroutine sends, one receives, one watches that the
// Manager goes on reading and acknowledging, since the sender may be stuck, one
// applies policy, since that may take a disk's time, two take releases, one looks for
// Managers to move to, and one renews the agent's certificate.
type session struct {
	uplink  *Uplink
	stream  stream
	address string
	began   time.Time
	fetch   Fetch
	keep    func(context.Context) // renews the agent's certificate; nil: it has none of its own

	mu        sync.Mutex
	flights   []flight
	saying    time.Time // since when the sender is in Send; zero while it is not
	overdue   error     // why the connection was given up
	throttled time.Time
	inTurn    time.Time // when the Manager last said that what was sent waits for its turn
	acked     bool
	restart   map[usagev1.Lane]bool // lanes to send again from their beginning

	// Of the sender alone.
	lanes      []*lane
	told       int // version of the persons told
	labelsSent map[contract.ID]bool
	liveAt     time.Time
	healthAt   time.Time
	// catchingUp says that what was recorded earlier was still to be sent then.
	catchingUp bool
}

// flight is a frame that is not acknowledged yet, or not all of it.
type flight struct {
	lane  usagev1.Lane
	epoch uint64
	first uint64
	last  uint64
	sent  time.Time
}

// lane is where the sender stands in one journal.
type lane struct {
	journal Journal
	epoch   uint64
	next    uint64
}

func newSession(u *Uplink, s stream, address string) *session {
	session := &session{
		uplink: u, stream: s, address: address, began: time.Now(),
		told:       -1,
		labelsSent: make(map[contract.ID]bool),
		restart:    make(map[usagev1.Lane]bool),
	}
	for _, j := range u.deps.Journals {
		session.lanes = append(session.lanes, &lane{journal: j})
	}
	return session
}

// good tells whether the connection was worth having.
func (s *session) good() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overdue == nil && (s.acked || len(s.flights) == 0 && time.Since(s.began) > s.uplink.config.SteadyAfter)
}

func (s *session) run(ctx context.Context, cancel context.CancelFunc) error {
	if err := s.greet(cancel); err != nil {
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	received := make(chan error, 1)
	policies := make(chan *policyv1.Policy, 1)
	releases, plugins := make(chan *agentv1.ReleaseOffer, 1), make(chan *agentv1.PluginOffers, 1)
	moves := make(chan []string, 1)
	group.Go(func() { received <- s.receive(policies, releases, plugins, moves) })
	group.Go(func() {
		takeNewest(s.stream.Context(), moves, func(ctx context.Context, to []string) { s.move(ctx, to, cancel) })
	})
	group.Go(func() {
		takeNewest(s.stream.Context(), releases, func(ctx context.Context, offer *agentv1.ReleaseOffer) {
			if take := s.uplink.deps.Release; take != nil {
				take(ctx, offer, s.fetch)
			}
		})
	})
	group.Go(func() {
		takeNewest(s.stream.Context(), plugins, func(ctx context.Context, offers *agentv1.PluginOffers) {
			if take := s.uplink.deps.PluginReleases; take != nil {
				take(ctx, offers.GetOffers(), s.fetch)
			}
		})
	})
	if s.keep != nil {
		group.Go(func() { s.keep(s.stream.Context()) })
	}
	group.Go(func() { s.applyPolicies(ctx, policies) })
	group.Go(func() { s.watch(cancel) })
	err := s.send(ctx, received)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overdue != nil {
		return s.overdue
	}
	return err
}

// watch gives the connection up when the Manager has neither read nor acknowledged
// for too long. It ends with the stream.
func (s *session) watch(giveUp context.CancelFunc) {
	patience := s.uplink.config.AckTimeout
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-s.stream.Context().Done():
			return
		case <-timer.C:
		}
		s.mu.Lock()
		left := patience // what begins after this look is due no sooner
		if !s.saying.IsZero() {
			if left = min(left, time.Until(later(s.saying, s.inTurn).Add(patience))); left <= 0 {
				s.overdue = fmt.Errorf("uplink: %s reads nothing for %v", s.address, patience)
			}
		}
		for _, f := range s.flights {
			if left = min(left, time.Until(later(f.sent, s.inTurn).Add(patience))); left <= 0 {
				s.overdue = fmt.Errorf("uplink: %s did not acknowledge the records %d to %d within %v", s.address, f.first, f.last, patience)
				break
			}
		}
		s.mu.Unlock()
		if left <= 0 {
			giveUp()
			return
		}
		timer.Reset(left)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// say sends a message, in the sight of watch.
func (s *session) say(m *agentv1.ConnectRequest) error {
	s.mu.Lock()
	s.saying = time.Now()
	s.mu.Unlock()
	err := s.stream.Send(m)
	s.mu.Lock()
	s.saying = time.Time{}
	s.mu.Unlock()
	return err
}

// greet says hello and waits for the welcome.
func (s *session) greet(cancel context.CancelFunc) error {
	// A stream can only be given up by its context.
	timer := time.AfterFunc(s.uplink.config.HelloTimeout, cancel)
	defer timer.Stop()
	hello := &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: s.uplink.deps.Hello()}}
	sendErr := s.stream.Send(hello)
	response, err := s.stream.Recv()
	switch {
	case err != nil && sendErr != nil && !errors.Is(sendErr, io.EOF):
		return fmt.Errorf("uplink: say hello to %s: %w", s.address, sendErr)
	case err != nil:
		return fmt.Errorf("uplink: wait for the welcome of %s: %w", s.address, err)
	}
	if refusal := response.GetRefusal(); refusal != nil {
		return errors.Join(s.uplink.anew(refusal), refusedBy(refusal))
	}
	welcome := response.GetWelcome()
	if welcome == nil {
		return fmt.Errorf("uplink: %s answered the hello with %T, not with a welcome", s.address, response.GetMessage())
	}
	if !timer.Stop() {
		return fmt.Errorf("uplink: the welcome of %s came too late", s.address)
	}
	manager, _ := contract.IDFrom(welcome.GetManagerId())
	s.uplink.note(func(st *Status) {
		st.Manager, st.Connected, st.Since, st.Problem = s.address, true, time.Now(), ""
		st.ManagerID = manager
		delete(s.uplink.problems, s.address)
		st.Skew = time.Duration(time.Now().UnixMilli()-welcome.GetUtcMillis()) * time.Millisecond
	})
	s.uplink.deps.Log.Info("connected to the Manager", "manager", s.address, "manager_id", manager)
	s.uplink.showAgain()
	return nil
}

// receive takes in what the Manager says, until the stream ends.
func (s *session) receive(policies chan *policyv1.Policy, releases chan *agentv1.ReleaseOffer, plugins chan *agentv1.PluginOffers, moves chan []string) error {
	defer close(moves)
	defer close(policies)
	defer close(releases)
	defer close(plugins)
	for {
		response, err := s.stream.Recv()
		if err != nil {
			return fmt.Errorf("uplink: connection to %s: %w", s.address, err)
		}
		switch m := response.GetMessage().(type) {
		case *agentv1.ConnectResponse_Acknowledgement:
			if err := s.acknowledged(m.Acknowledgement); err != nil {
				return err
			}
		case *agentv1.ConnectResponse_Policy:
			replace(policies, m.Policy)
		case *agentv1.ConnectResponse_Release:
			replace(releases, m.Release)
		case *agentv1.ConnectResponse_PluginReleases:
			replace(plugins, m.PluginReleases)
		case *agentv1.ConnectResponse_Managers:
			replace(moves, s.uplink.tell(s.address, m.Managers.GetAddresses()))
		case *agentv1.ConnectResponse_Throttle:
			s.mu.Lock()
			if m.Throttle.GetInTurn() {
				s.inTurn = time.Now()
			}
			s.throttled = time.Now().Add(min(time.Duration(max(0, m.Throttle.GetPauseMillis()))*time.Millisecond, longestThrottle))
			s.mu.Unlock()
			s.uplink.Appended()
		case *agentv1.ConnectResponse_LabelAcknowledgement:
			if id, err := contract.IDFrom(m.LabelAcknowledgement.GetDocumentId()); err == nil && s.uplink.deps.Labels != nil {
				if err := s.uplink.deps.Labels.AcknowledgeLabel(id); err != nil {
					return fmt.Errorf("uplink: let go of a label: %w", err)
				}
				s.uplink.Appended() // there may be more of them than are told at once
			}
		case *agentv1.ConnectResponse_Probe:
			s.uplink.answer(m.Probe.GetNonce())
		case *agentv1.ConnectResponse_Refusal:
			if err := s.refused(m.Refusal); err != nil {
				return err
			}
		}
	}
}

// replace puts something into a channel of one, of which only the newest matters.
func replace[T any](waiting chan T, newest T) {
	select {
	case <-waiting:
	default:
	}
	waiting <- newest
}

// takeNewest lets take work on what was offered last, until the channel is closed: what
// comes in between ends the work on what was there before.
func takeNewest[T any](ctx context.Context, offers <-chan T, take func(context.Context, T)) {
	var stop context.CancelFunc = func() {}
	var work sync.WaitGroup
	end := func() {
		stop()
		work.Wait()
	}
	defer end()
	for offer := range offers {
		end()
		taking, cancel := context.WithCancel(ctx)
		stop = cancel
		work.Go(func() { take(taking, offer) })
	}
}

// longestThrottle is the longest pause that a Manager's word is taken for; after
// it the agent asks again.
const longestThrottle = 10 * time.Minute

func (s *session) acknowledged(a *agentv1.Acknowledgement) error {
	if a.GetFirstSeq() == 0 || a.GetLastSeq() < a.GetFirstSeq() {
		return fmt.Errorf("uplink: %s acknowledges the records %d to %d, which is no range", s.address, a.GetFirstSeq(), a.GetLastSeq())
	}
	// An acknowledgement does not name its lane: epochs are random, so at most one
	// journal knows it.
	for _, j := range s.uplink.deps.Journals {
		if err := j.Acknowledge(a.GetEpoch(), a.GetFirstSeq(), a.GetLastSeq()); err != nil {
			return fmt.Errorf("uplink: note an acknowledgement: %w", err)
		}
	}
	s.mu.Lock()
	s.acked = true
	s.flights = without(s.flights, a.GetEpoch(), a.GetFirstSeq(), a.GetLastSeq())
	s.mu.Unlock()
	s.uplink.note(func(st *Status) { st.LastAcknowledged = time.Now() })
	s.uplink.Appended()
	return nil
}

// without takes a range out of the flights.
func without(flights []flight, epoch, first, last uint64) []flight {
	kept := make([]flight, 0, len(flights)+1)
	for _, f := range flights {
		if f.epoch != epoch || last < f.first || first > f.last {
			kept = append(kept, f)
			continue
		}
		if first > f.first {
			before := f
			before.last = first - 1
			kept = append(kept, before)
		}
		if last < f.last {
			f.first = last + 1
			kept = append(kept, f)
		}
	}
	return kept
}

func (s *session) refused(r *agentv1.Refusal) error {
	u := s.uplink
	if err := u.anew(r); err != nil {
		return err
	}
	if r.GetFirstSeq() == 0 && !r.GetNewEpoch() {
		return refusedBy(r)
	}
	for _, j := range u.deps.Journals {
		if r.GetEpoch() != 0 && r.GetEpoch() != j.Epoch() {
			continue // of another lane, or of an epoch that is over
		}
		if r.GetNewEpoch() {
			u.deps.Log.Warn("the Manager asks for a new epoch", "lane", j.Lane(), "reason", r.GetReason(), "message", r.GetMessage())
			if err := j.NewEpoch(); err != nil {
				return fmt.Errorf("uplink: begin a new epoch: %w", err)
			}
		} else {
			reason := fmt.Sprintf("%s: %s (records %d to %d)", r.GetReason(), r.GetMessage(), r.GetFirstSeq(), r.GetLastSeq())
			u.deps.Log.Error("the Manager refuses records; they are kept, and offered again later", "lane", j.Lane(), "reason", reason, "again_in", u.config.RefusalPause)
			u.mu.Lock()
			u.holds[j.Lane()] = hold{until: time.Now().Add(u.config.RefusalPause), reason: reason}
			u.mu.Unlock()
		}
		s.mu.Lock()
		lane := j.Lane()
		s.flights = slices.DeleteFunc(s.flights, func(f flight) bool { return f.lane == lane })
		s.restart[lane] = true
		s.mu.Unlock()
	}
	u.Appended()
	return nil
}

func (s *session) applyPolicies(ctx context.Context, policies <-chan *policyv1.Policy) {
	for policy := range policies {
		if err := s.uplink.deps.Policy(ctx, policy); err != nil {
			s.uplink.deps.Log.ErrorContext(ctx, "the policy cannot be applied; the one before goes on", "revision", policy.GetRevision(), "reason", err)
			continue
		}
		s.uplink.ShowHealth()
	}
}

// send says what there is to say, until the connection ends.
func (s *session) send(ctx context.Context, received <-chan error) error {
	for {
		wait, err := s.sendDue()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return <-received // the stream's own error is told to the receiver
			}
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			if err := s.stream.CloseSend(); err != nil {
				return err
			}
			// The Manager has taken in everything and hangs up, or the farewell is over.
			return errors.Join(ctx.Err(), <-received)
		case err := <-received:
			timer.Stop()
			return err
		case <-s.uplink.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// sendDue sends everything that may be sent now, and tells how long nothing else
// can become due by itself.
func (s *session) sendDue() (wait time.Duration, err error) {
	for {
		if err := s.sendPersons(); err != nil {
			return 0, err
		}
		liveIn, err := s.sendLive()
		if err != nil {
			return 0, err
		}
		healthIn, err := s.sendHealth()
		if err != nil {
			return 0, err
		}
		if err := s.sendLabels(); err != nil {
			return 0, err
		}
		// One frame of each lane, then whatever has become due meanwhile.
		sent, framesIn, err := s.sendFrames()
		if err != nil {
			return 0, err
		}
		if !sent {
			s.adopt()
			return min(liveIn, healthIn, framesIn), nil
		}
	}
}

func (s *session) sendPersons() error {
	u := s.uplink
	u.mu.Lock()
	persons, version := u.persons, u.version
	u.mu.Unlock()
	if version == s.told {
		return nil
	}
	for _, p := range persons {
		if err := s.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Person{Person: p}}); err != nil {
			return err
		}
	}
	s.told = version
	return nil
}

// never is longer than any other wait.
const never = time.Hour

func (s *session) sendLive() (due time.Duration, err error) {
	u := s.uplink
	u.mu.Lock()
	if len(u.liveNew) == 0 && !u.seenNew {
		u.mu.Unlock()
		return never, nil
	}
	if due := u.config.LivePeriod - time.Since(s.liveAt); due > 0 {
		u.mu.Unlock()
		return due, nil
	}
	var snapshots []*usagev1.LiveSnapshot
	for id := range u.liveNew {
		snapshots = append(snapshots, u.live[id])
	}
	clear(u.liveNew)
	var sightings *usagev1.SightingReport
	if u.seenNew {
		sightings, u.seenNew = u.sightings, false
	}
	u.mu.Unlock()
	if err := s.sendPersons(); err != nil {
		return 0, err
	}
	s.liveAt = time.Now()
	for _, l := range snapshots {
		if err := s.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Live{Live: l}}); err != nil {
			return 0, err
		}
	}
	if sightings != nil {
		if err := s.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Sightings{Sightings: sightings}}); err != nil {
			return 0, err
		}
	}
	return never, nil
}

func (s *session) sendHealth() (due time.Duration, err error) {
	u := s.uplink
	u.mu.Lock()
	asked, probe := u.healthNew, u.probe
	u.healthNew, u.probe = false, 0
	u.mu.Unlock()
	if due := s.healthPeriod() - time.Since(s.healthAt); due > 0 && !asked {
		return due, nil
	}
	s.healthAt = time.Now()
	health := u.deps.Health()
	health.Probe, s.catchingUp = probe, health.GetBacklog() != nil
	return s.healthPeriod(), s.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Health{Health: health}})
}

// healthPeriod is how long the last word about the agent's health holds.
func (s *session) healthPeriod() time.Duration {
	if s.catchingUp {
		return min(s.uplink.config.HealthPeriod, catchUpPeriod)
	}
	return s.uplink.config.HealthPeriod
}

func (s *session) sendLabels() error {
	labels := s.uplink.deps.Labels
	if labels == nil {
		return nil
	}
	for _, l := range labels.PendingLabels(labelsAtOnce) {
		id, err := contract.IDFrom(l.GetDocumentId())
		if err != nil || s.labelsSent[id] {
			continue
		}
		if err := s.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Label{Label: l}}); err != nil {
			return err
		}
		s.labelsSent[id] = true
	}
	return nil
}

// sendFrames sends the next frame of each lane that has one and may.
func (s *session) sendFrames() (sent bool, due time.Duration, err error) {
	due = never
	for _, l := range s.lanes {
		free, wait := s.mayFly(l)
		due = min(due, wait)
		if !free {
			continue
		}
		frame, err := l.journal.Frame(l.next)
		if err != nil {
			return sent, 0, fmt.Errorf("uplink: read the journal: %w", err)
		}
		if frame == nil {
			continue
		}
		if frame.GetEpoch() != l.epoch {
			// A new epoch began after we looked: begin at its beginning.
			return true, 0, nil
		}
		// Whom its records speak of was set before they were journalled, but perhaps
		// after sendDue had looked.
		if err := s.sendPersons(); err != nil {
			return sent, 0, err
		}
		last := frame.GetFirstSeq() + uint64(len(frame.GetRecords())) - 1
		s.mu.Lock()
		s.flights = append(s.flights, flight{
			lane: l.journal.Lane(), epoch: l.epoch, first: frame.GetFirstSeq(), last: last, sent: time.Now(),
		})
		s.mu.Unlock()
		l.next = last + 1
		if err := s.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}}); err != nil {
			return sent, 0, err
		}
		sent = true
	}
	return sent, due, nil
}

// mayFly tells whether a lane may send a frame now, and after how long it may though
// nothing may have happened.
func (s *session) mayFly(l *lane) (free bool, wait time.Duration) {
	u := s.uplink
	kind, epoch := l.journal.Lane(), l.journal.Epoch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restart[kind] || l.epoch != epoch {
		delete(s.restart, kind)
		l.epoch, l.next = epoch, 1
		s.flights = slices.DeleteFunc(s.flights, func(f flight) bool { return f.lane == kind })
	}
	if until := s.heldUntil(kind); until > 0 {
		return false, until
	}
	inFlight := 0
	for _, f := range s.flights {
		if f.lane == kind {
			inFlight++
		}
	}
	return inFlight < u.config.Window, never
}

// heldUntil is how long a lane may not send, by the Manager's wish.
func (s *session) heldUntil(kind usagev1.Lane) time.Duration {
	u := s.uplink
	u.mu.Lock()
	defer u.mu.Unlock()
	held := u.holds[kind]
	left := time.Until(held.until)
	if left <= 0 {
		delete(u.holds, kind)
	}
	return max(0, left, time.Until(s.throttled))
}
