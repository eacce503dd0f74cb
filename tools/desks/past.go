package desks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

const (
	// pastPeriod lies between two observations of the past in which nothing happens.
	pastPeriod = 5 * time.Minute
	// pastGroup is how many events are written and synced together.
	pastGroup = 500
	// pastBacklog is how many events may wait for the Manager.
	pastBacklog = 4000
	// noteEvery is how much of the past goes by between two notes of how far it is.
	noteEvery  = 24 * time.Hour
	policyLook = 100 * time.Millisecond
)

// part is a stretch of one desk's past.
type part struct {
	desk *Desk
	stretch
}

// parts are what is to be loaded, in that order: of each list one part after the other.
func (r *Room) parts() [][]part {
	var early, late [][]part
	var others [][][]part // by how old they are
	for d := range r.config.Desks {
		desk := &r.config.Desks[d]
		var all []part
		for _, s := range r.plan.of(desk) {
			all = append(all, part{desk, s})
		}
		if desk.Early || desk.Whole {
			early = append(early, all)
			continue
		}
		for age, p := range all {
			if age == len(others) {
				others = append(others, nil)
			}
			if desk.Late && age == 0 {
				late = append(late, []part{p})
			} else {
				others[age] = append(others[age], []part{p})
			}
		}
	}
	return slices.Concat(early, slices.Concat(others...), late)
}

// load loads everybody's past that is not there yet, and lets each desk begin its present
// when its own is.
func (r *Room) load(ctx context.Context, begin func(*Desk)) error {
	ctx, stop := context.WithCancel(ctx) // one that fails ends the others: they go on where they were the next time
	defer stop()
	progress := &progress{tell: r.config.Progress, passed: make(map[part]time.Duration), parts: make(map[*Desk][]part)}
	lists := r.parts()
	left, busy := make(map[*Desk]int), make(map[*Desk]*sync.Mutex)
	for d := range r.config.Desks {
		busy[&r.config.Desks[d]] = &sync.Mutex{} // one agent of a desk at a time
	}
	for _, list := range lists {
		for _, p := range list {
			left[p.desk]++
			progress.whole += p.length()
			progress.parts[p.desk] = append(progress.parts[p.desk], p)
		}
	}
	for d := range r.config.Desks {
		if desk := &r.config.Desks[d]; left[desk] == 0 {
			begin(desk)
		}
	}
	var mu sync.Mutex
	done := func(desk *Desk) {
		mu.Lock()
		left[desk]--
		last := left[desk] == 0
		mu.Unlock()
		if last {
			begin(desk)
		}
	}

	waiting := make(chan []part)
	failures := make([]error, r.config.Workers)
	var workers sync.WaitGroup
	for w := range failures {
		workers.Go(func() {
			for list := range waiting {
				for _, p := range list {
					if failures[w] != nil || ctx.Err() != nil {
						break
					}
					busy[p.desk].Lock()
					err := r.loadPart(ctx, p, progress)
					busy[p.desk].Unlock()
					if err != nil {
						failures[w] = fmt.Errorf("%s: %w", p.desk.Host, err)
						stop()
					} else if ctx.Err() == nil {
						done(p.desk)
					}
				}
			}
		})
	}
	for _, list := range lists {
		select {
		case waiting <- list:
		case <-ctx.Done():
		}
	}
	close(waiting)
	workers.Wait()
	if err := errors.Join(failures...); err != nil || ctx.Err() != nil {
		return err
	}
	r.config.Progress(1)
	return nil
}

// earlier is what of a desk's past is still to be sent, as its agent tells: a machine that was away would. Its parts
// come in any order.
func (p *progress) earlier(desk *Desk) *agentv1.Backlog {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := &agentv1.Backlog{}
	for _, of := range p.parts[desk] {
		passed := p.passed[of]
		b.TimeMillis += of.length().Milliseconds()
		b.SentMillis += passed.Milliseconds()
		if passed == of.length() {
			continue
		}
		if from := of.From.Add(passed).UnixMilli(); b.GetOldestUtcMillis() == 0 || from < b.GetOldestUtcMillis() {
			b.OldestUtcMillis = from
		}
		b.NewestUtcMillis = max(b.GetNewestUtcMillis(), of.To.UnixMilli())
	}
	if b.GetOldestUtcMillis() == 0 {
		return nil
	}
	return b
}

// loadPart plays a stretch of one desk's past. Stopped in the middle, it goes on there
// the next time.
func (r *Room) loadPart(ctx context.Context, p part, progress *progress) error {
	desk, span := p.desk, p.stretch
	dir := r.folder(desk)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	notes := filepath.Join(dir, fmt.Sprintf("loaded-%d.json", span.From.Unix()))
	var reached time.Time
	if err := readJSON(notes, &reached); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	progress.note(p, reached)
	if !reached.Before(span.To) {
		return nil
	}
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], r.plan.Seed)
	binary.BigEndian.PutUint64(seed[8:], uint64(desk.Number))
	binary.BigEndian.PutUint64(seed[16:], uint64(span.From.Unix()))
	_, zone := span.From.Zone()
	past := &past{
		Desktop: scripted.New(scripted.Config{
			Host: desk.host(), Script: desk.Past(span.From, span.To),
			Begin: span.From.Add(desk.Clock), ZoneOffsetSeconds: int32(zone), Booted: time.Duration(1+desk.Number%97) * time.Minute,
			Seed: seed, Period: pastPeriod,
		}),
		policy: filepath.Join(dir, "policy.pb"), applications: r.config.Applications, clock: desk.Clock,
		skipTo: reached, reached: reached,
		note: func(now, next time.Time) error {
			progress.note(p, now)
			if last := span.To.Add(-time.Second); next.After(last) {
				next = last // what waits is still to be sent
			}
			return writeJSON(notes, next)
		},
	}
	defer past.Close()
	a, err := r.agent(desk, "past", agent.Config{GroupRecords: pastGroup, BacklogRecords: pastBacklog, Drain: true}, agent.Deps{
		Desktop: past, Dial: []grpc.DialOption{grpc.WithChainStreamInterceptor(onlyThePast(desk.Clock, func(leaves bool) (*agentv1.Backlog, bool) {
			sent := leaves && past.over.Load() && ctx.Err() == nil // it drains before it leaves
			if sent {
				progress.note(p, span.To)
			}
			return progress.earlier(desk), sent
		}))},
	})
	if err != nil {
		return err
	}
	if err := a.Run(ctx); err != nil || ctx.Err() != nil {
		return errors.Join(err, past.failure)
	}
	progress.note(p, span.To)
	return errors.Join(past.failure, writeJSON(notes, span.To))
}

// progress adds up how far all parts are.
type progress struct {
	tell  func(float64)
	whole time.Duration

	// parts are those of each desk.
	parts map[*Desk][]part

	mu     sync.Mutex
	passed map[part]time.Duration
	sum    time.Duration
}

func (p *progress) note(of part, reached time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	passed := min(of.length(), max(p.passed[of], reached.Sub(of.From)))
	p.sum += passed - p.passed[of]
	p.passed[of] = passed
	// The end is told when everything is sent.
	p.tell(min(0.999, float64(p.sum)/float64(p.whole)))
}

// past is a scripted desktop that waits for the policy before it begins, notes
// how far it is, and leaves out what has been told in a run before.
type past struct {
	*scripted.Desktop
	policy       string
	applications int
	clock        time.Duration
	skipTo       time.Time
	reached      time.Time
	// note keeps from where to go on the next time.
	note    func(now, next time.Time) error
	failure error
	// over says that all of it was told.
	over atomic.Bool
}

var _ desktop.Desktop = (*past)(nil)

// Watch implements desktop.Desktop.
func (p *past) Watch(ctx context.Context, tell func(activity.Observation)) error {
	if !p.awaitPolicy(ctx) {
		return nil
	}
	windows, processes := map[string][]activity.Window{}, map[string][]activity.Process{}
	skipping := !p.skipTo.IsZero()
	var last time.Time
	err := p.Desktop.Watch(ctx, func(o activity.Observation) {
		now := time.UnixMilli(o.UTCMillis).Add(-p.clock)
		if skipping {
			for i := range o.Sessions {
				s := &o.Sessions[i]
				if !s.SameWindows {
					windows[s.Key] = s.Windows
				}
				if !s.SameProcesses {
					processes[s.Key] = s.Processes
				}
				s.Windows, s.SameWindows = windows[s.Key], false
				s.Processes, s.SameProcesses = processes[s.Key], false
			}
			if !now.After(p.skipTo) {
				return
			}
			skipping = false
		}
		tell(o)
		last = now
		if now.Sub(p.reached) >= noteEvery && p.failure == nil {
			p.reached = now
			// Killed, it leaves the rest of this day out rather than tell any of it twice.
			p.failure = p.note(now, now.Add(noteEvery))
		}
	})
	if ctx.Err() != nil && !last.IsZero() && p.failure == nil {
		p.failure = p.note(last, last)
	}
	p.over.Store(err == nil && ctx.Err() == nil)
	return err
}

// awaitPolicy waits until the Manager has sent a policy with all applications.
func (p *past) awaitPolicy(ctx context.Context) bool {
	ticker := time.NewTicker(policyLook)
	defer ticker.Stop()
	for {
		if text, err := os.ReadFile(p.policy); err == nil {
			policy := &policyv1.Policy{}
			if proto.Unmarshal(text, policy) == nil && len(policy.GetApplications()) >= p.applications {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}

// onlyThePast keeps the live channel out of the past, and the agent's clock, which
// is that of the past, out of the Manager's judgement of clocks. Instead of what waits in its journal, the
// agent tells what is left of the past: earlier gives that, and tells an agent that leaves whether it has sent all of its part.
func onlyThePast(clock time.Duration, earlier func(leaves bool) (*agentv1.Backlog, bool)) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		return &pastStream{ClientStream: stream, clock: clock, earlier: earlier}, nil
	}
}

type pastStream struct {
	grpc.ClientStream
	clock   time.Duration
	earlier func(leaves bool) (*agentv1.Backlog, bool)
	// health is the agent's last word of itself.
	health *agentv1.Health
}

// SendMsg implements grpc.ClientStream. It is called by one goroutine.
func (s *pastStream) SendMsg(m any) error {
	if request, ok := m.(*agentv1.ConnectRequest); ok {
		switch message := request.GetMessage().(type) {
		case *agentv1.ConnectRequest_Live:
			return nil
		case *agentv1.ConnectRequest_Hello:
			message.Hello.UtcMillis = time.Now().Add(s.clock).UnixMilli()
		case *agentv1.ConnectRequest_Health:
			s.tells(message.Health, false)
		}
	}
	return s.ClientStream.SendMsg(m)
}

func (s *pastStream) tells(h *agentv1.Health, leaves bool) {
	h.UtcMillis = time.Now().Add(s.clock).UnixMilli()
	var sent bool
	if h.Backlog, sent = s.earlier(leaves); sent {
		h.UnacknowledgedRecords = 0
	}
	s.health = h
}

// CloseSend implements grpc.ClientStream. Before it leaves the agent tells how far it is: it may not be heard of
// any more.
func (s *pastStream) CloseSend() error {
	if s.health != nil {
		last := proto.CloneOf(s.health)
		last.Probe = 0
		s.tells(last, true)
		if err := s.ClientStream.SendMsg(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Health{Health: last}}); err != nil {
			return err
		}
	}
	return s.ClientStream.CloseSend()
}
