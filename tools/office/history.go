package office

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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
	// historyWorkers is how many people's pasts are loaded at once.
	historyWorkers = 2
	// historyPeriod lies between two observations of the past in which nothing
	// happens.
	historyPeriod = 5 * time.Minute
	// historyGroup is how many events are written and synced together.
	historyGroup = 500
	// historyBacklog is how many events may wait for the Manager.
	historyBacklog = 4000
	// progressEvery is how much of the past goes by between two notes of how far it is.
	progressEvery = time.Hour
	policyLook    = 100 * time.Millisecond
)

// plan is what the history is; it is decided once.
type plan struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Seed uint64    `json:"seed"`
}

func loadPlan(path string, days int, seed uint64) (plan, error) {
	var p plan
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		now := time.Now().Truncate(time.Second)
		p = plan{From: midnight(now.AddDate(0, 0, -days)), To: now, Seed: seed}
		if days == 0 {
			p.From = p.To
		}
		return p, writeJSON(path, p)
	}
	if err != nil {
		return p, fmt.Errorf("office: %w", err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("office: %s: %w", path, err)
	}
	return p, nil
}

func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("office: %s: %w", path, err)
	}
	return replace(path, text)
}

// replace puts a file in place whole: an office that is killed goes on the next time.
func replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("office: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("office: %w", err)
	}
	return nil
}

// load loads everybody's past that is not there yet.
func (o *Office) load(ctx context.Context) error {
	span := o.history.To.Sub(o.history.From)
	if span <= 0 {
		return nil
	}
	var mu sync.Mutex
	passed := make([]time.Duration, len(o.config.Staff))
	note := func(i int, now time.Time) {
		mu.Lock()
		defer mu.Unlock()
		passed[i] = min(span, max(passed[i], now.Sub(o.history.From)))
		var sum time.Duration
		for _, p := range passed {
			sum += p / time.Duration(len(passed))
		}
		o.config.Progress(float64(sum) / float64(span))
	}

	waiting := make(chan int)
	failures := make([]error, len(o.config.Staff))
	var workers sync.WaitGroup
	for range historyWorkers {
		workers.Go(func() {
			for i := range waiting {
				failures[i] = o.loadPerson(ctx, o.config.Staff[i], func(now time.Time) { note(i, now) })
				if failures[i] == nil && ctx.Err() == nil {
					note(i, o.history.To)
				}
			}
		})
	}
	for i := range o.config.Staff {
		select {
		case waiting <- i:
		case <-ctx.Done():
		}
	}
	close(waiting)
	workers.Wait()
	if err := errors.Join(failures...); err != nil || ctx.Err() != nil {
		return err
	}
	o.config.Progress(1)
	return nil
}

// loadPerson plays one person's past through an agent of its own. Stopped in the
// middle, it goes on there the next time.
func (o *Office) loadPerson(ctx context.Context, person Person, passed func(time.Time)) error {
	dir, err := o.folder("history", person)
	if err != nil {
		return err
	}
	notes := filepath.Join(dir, "progress.json")
	var reached time.Time
	if text, err := os.ReadFile(notes); err == nil {
		if err := json.Unmarshal(text, &reached); err != nil {
			return fmt.Errorf("%s: %w", notes, err)
		}
	}
	if !reached.Before(o.history.To) {
		return nil
	}
	_, zone := o.history.From.Zone()
	acts := Days(person, o.history.Seed, o.history.From, o.history.To)
	past := &past{
		Desktop: scripted.New(scripted.Config{
			Host: person.host(), Script: Script(person, acts, o.history.From),
			Begin: o.history.From, ZoneOffsetSeconds: int32(zone), Booted: time.Duration(1+person.Number) * time.Hour,
			Seed: [32]byte{byte(o.history.Seed), byte(person.Number)}, Period: historyPeriod,
		}),
		policy: filepath.Join(dir, "policy.pb"), applications: o.config.Applications,
		skipTo: reached, reached: reached,
		note: func(now time.Time) error {
			passed(now)
			return writeJSON(notes, now)
		},
	}
	defer past.Close()
	a, err := agent.New(agent.Config{
		DataDir: dir, Managers: []string{o.config.Manager}, Version: "demo", ControlSocket: agent.NoControl, EnrollmentToken: o.config.Token,
		GroupRecords: historyGroup, BacklogRecords: historyBacklog, Drain: true,
	}, agent.Deps{
		Desktop: past, Log: o.config.Log.With("machine", person.Host, "tense", "past"),
		Dial: []grpc.DialOption{grpc.WithChainStreamInterceptor(onlyThePast)},
	})
	if err != nil {
		return err
	}
	if err := a.Run(ctx); err != nil || ctx.Err() != nil {
		return errors.Join(err, past.failure)
	}
	return errors.Join(past.failure, writeJSON(notes, o.history.To))
}

// past is a scripted desktop that waits for the policy before it begins, notes
// how far it is, and leaves out what has been told in a run before.
type past struct {
	*scripted.Desktop
	policy       string
	applications int
	skipTo       time.Time
	reached      time.Time
	note         func(time.Time) error
	failure      error
}

var _ desktop.Desktop = (*past)(nil)

// Watch implements desktop.Desktop.
func (p *past) Watch(ctx context.Context, tell func(activity.Observation)) error {
	if !p.awaitPolicy(ctx) {
		return nil
	}
	windows, processes := map[string][]activity.Window{}, map[string][]activity.Process{}
	skipping := !p.skipTo.IsZero()
	return p.Desktop.Watch(ctx, func(o activity.Observation) {
		now := time.UnixMilli(o.UTCMillis)
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
		if now.Sub(p.reached) >= progressEvery && p.failure == nil {
			p.reached = now
			p.failure = p.note(now)
		}
	})
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

// onlyThePast keeps the live channel out of history, and the agent's clock, which
// is that of the past, out of the Manager's judgement of clocks.
func onlyThePast(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return pastStream{stream}, nil
}

type pastStream struct{ grpc.ClientStream }

// SendMsg implements grpc.ClientStream.
func (s pastStream) SendMsg(m any) error {
	if request, ok := m.(*agentv1.ConnectRequest); ok {
		switch message := request.GetMessage().(type) {
		case *agentv1.ConnectRequest_Live:
			return nil
		case *agentv1.ConnectRequest_Hello:
			message.Hello.UtcMillis = time.Now().UnixMilli()
		case *agentv1.ConnectRequest_Health:
			message.Health.UtcMillis = time.Now().UnixMilli()
		}
	}
	return s.ClientStream.SendMsg(m)
}
