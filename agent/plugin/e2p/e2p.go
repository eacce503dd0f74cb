package e2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/prompt"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/expense"
)

// Name is the plug-in's.
const Name = "expense-to-project"

// ErrSessionEnded says that there is nobody to ask any more, which is no fault.
var ErrSessionEnded = errors.New("the desktop session has ended")

// Deps are what the plug-in works with.
type Deps struct {
	// Ask puts a question to the person of a session. It ends with an error where nobody can be
	// asked, with ErrSessionEnded where they have gone, and when ctx ends.
	Ask func(ctx context.Context, sessionID []byte, request prompt.Request) (prompt.Answer, error)
	// User is what the system calls the person of an alias: DOMAIN\name or the bare name.
	User func(alias []byte) string
	// Now is the boot time of the last observation, and does not wait: what opened much
	// earlier was open when the agent started, and is not asked for.
	Now func() int64
	// Files are the whole paths that an instance was started with; nil: not known.
	Files func(e *pluginv1.Event) []string
	// Hold keeps the programs of an instance waiting until release is called; nil:
	// none can be held.
	Hold func(e *pluginv1.Event) (release func())
	// Version is the agent's.
	Version string
	Log     *slog.Logger
}

// Plugin implements plugin.Plugin.
type Plugin struct {
	deps Deps

	inbox inbox

	mu       sync.Mutex
	now      int64 // boot time of what is being taken in
	settings *policyv1.ExpenseToProject
	rules    *expense.Assigner
	apps     map[string]*policyv1.ApplicationPolicy
	recent   recent
	pending  pending
	runs     map[string]*run                   // by instance
	closed   []string                          // instances that have, the first one first
	windows  map[string][]activity.ShownWindow // by session
	waiting  map[string][]*question            // by session; the first is being asked
	wake     chan struct{}
	ready    []*pluginv1.ReportResponse
	problem  string
}

const (
	// fresh is how long ago something may have opened to be asked for, in milliseconds.
	fresh = 60_000
	// maxWaiting is how many questions wait in a session: more than anybody answers.
	maxWaiting = 500
)

// question asks for the project of a subject.
type question struct {
	subject *subject
	closing bool
	cancel  context.CancelFunc
	ctx     context.Context //nolint:containedctx // Ends the one question.
	release func()
}

// New makes the plug-in.
func New(deps Deps) *Plugin {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Plugin{
		deps: deps, runs: map[string]*run{}, windows: map[string][]activity.ShownWindow{}, waiting: map[string][]*question{},
		wake: make(chan struct{}, 1),
	}
}

// Settings are what the agent gives as the plug-in's settings: of a policy the applications
// that are asked for, and what is asked.
func Settings(p *policyv1.Policy) (*policyv1.PluginPolicy, error) {
	reduced := &policyv1.Policy{AccountId: p.GetAccountId(), ExpenseToProject: p.GetExpenseToProject()}
	for _, a := range p.GetApplications() {
		if a.GetProjectPrompt().GetEnabled() {
			reduced.Applications = append(reduced.Applications, &policyv1.ApplicationPolicy{
				ApplicationId: a.GetApplicationId(), DisplayName: a.GetDisplayName(), ProjectPrompt: a.GetProjectPrompt(),
			})
		}
	}
	settings, err := proto.Marshal(reduced)
	if err != nil {
		return nil, fmt.Errorf("e2p: settings: %w", err)
	}
	return &policyv1.PluginPolicy{Name: Name, Settings: settings}, nil
}

// Describe implements plugin.Plugin.
func (p *Plugin) Describe(context.Context) (*pluginv1.DescribeResponse, error) {
	return &pluginv1.DescribeResponse{
		Name: Name, Version: p.deps.Version,
		Events: []pluginv1.EventKind{pluginv1.EventKind_EVENT_KIND_OPENED, pluginv1.EventKind_EVENT_KIND_CHANGED, pluginv1.EventKind_EVENT_KIND_CLOSED},
		Facts:  []pluginv1.FactKind{pluginv1.FactKind_FACT_KIND_CHOICE},
	}, nil
}

// Configure implements plugin.Plugin.
func (p *Plugin) Configure(_ context.Context, r *pluginv1.ConfigureRequest) error {
	policy := new(policyv1.Policy)
	if err := proto.Unmarshal(r.GetPolicy().GetSettings(), policy); err != nil {
		return fmt.Errorf("e2p: settings: %w", err)
	}
	rules, err := expense.CompileRules(policy.GetExpenseToProject().GetRules())
	if err != nil {
		return fmt.Errorf("e2p: settings: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings, p.rules, p.apps = policy.GetExpenseToProject(), rules, map[string]*policyv1.ApplicationPolicy{}
	for _, a := range policy.GetApplications() {
		p.apps[string(a.GetApplicationId())] = a
	}
	if dir := r.GetMachine().GetDataDir(); dir != "" {
		p.recent.open(filepath.Join(dir, "recent.json"))
		p.pending.open(filepath.Join(dir, "asked.json"))
	}
	return nil
}

// Notify implements plugin.Plugin.
func (p *Plugin) Notify(_ context.Context, events []*pluginv1.Event) error {
	now := p.deps.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = max(p.now, now)
	for _, e := range events {
		if len(e.GetDocumentId()) > 0 {
			continue
		}
		switch e.GetKind() {
		case pluginv1.EventKind_EVENT_KIND_OPENED:
			p.opened(e)
		case pluginv1.EventKind_EVENT_KIND_CHANGED:
			p.changed(e)
		case pluginv1.EventKind_EVENT_KIND_CLOSED:
			p.runClosed(e)
		default:
		}
	}
	return nil
}

// inbox are windows that were shown and not looked at yet: whoever observes does not wait for
// those who remember, and write, what was asked.
type inbox struct {
	mu       sync.Mutex
	now      int64
	sessions map[string][]activity.ShownWindow
}

// Show takes what the windows of a session show now. It never waits.
func (p *Plugin) Show(s activity.SessionWindows) {
	now := p.deps.Now()
	p.inbox.mu.Lock()
	if p.inbox.sessions == nil {
		p.inbox.sessions = map[string][]activity.ShownWindow{}
	}
	p.inbox.sessions[string(s.SessionID[:])], p.inbox.now = s.Windows, now
	p.inbox.mu.Unlock()
	p.signal()
}

// lookAtShown looks at what was shown since.
func (p *Plugin) lookAtShown() {
	p.inbox.mu.Lock()
	shown, now := p.inbox.sessions, p.inbox.now
	p.inbox.sessions = nil
	p.inbox.mu.Unlock()
	p.now = max(p.now, now)
	for session, windows := range shown {
		if p.windows[session] = windows; len(windows) == 0 {
			delete(p.windows, session)
		}
		p.look(session)
	}
}

// enqueue puts a question behind those that wait.
func (p *Plugin) enqueue(q *question) {
	session := string(q.subject.run.event.GetSessionId())
	if len(p.waiting[session]) >= maxWaiting {
		p.deps.Log.Warn("a person is not asked for a project, since too many questions wait", "waiting", maxWaiting)
		q.letGo()
		return
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.subject.question = q
	p.setPending(q.subject, !q.closing)
	p.waiting[session] = append(p.waiting[session], q)
	p.signal()
}

// withdraw takes a question back, where there is one.
func (s *subject) withdraw() {
	if s.question != nil {
		s.question.cancel()
		s.question = nil
	}
}

func (p *Plugin) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Report implements plugin.Plugin: it asks, and tells what was chosen.
func (p *Plugin) Report(ctx context.Context, tell func(*pluginv1.ReportResponse) error) error {
	var asking sync.WaitGroup
	defer p.letGo()
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	busy := map[string]bool{}
	free := make(chan string)
	for {
		p.mu.Lock()
		p.lookAtShown()
		ready := p.ready
		p.ready = nil
		for session, questions := range p.waiting {
			if busy[session] || len(questions) == 0 {
				continue
			}
			busy[session] = true
			q := questions[0]
			asking.Go(func() {
				p.ask(ctx, q)
				p.mu.Lock()
				if q.subject.question == q {
					q.subject.question = nil
				}
				p.waiting[session] = p.waiting[session][1:]
				if len(p.waiting[session]) == 0 {
					delete(p.waiting, session)
				}
				p.mu.Unlock()
				select {
				case free <- session:
				case <-ctx.Done():
				}
			})
		}
		p.mu.Unlock()
		for i, report := range ready {
			if err := tell(report); err != nil {
				p.mu.Lock()
				p.ready = append(ready[i:], p.ready...) // told after the next start
				p.mu.Unlock()
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case session := <-free:
			delete(busy, session)
		case <-p.wake:
		}
	}
}

// letGo lets the application that waits for the question go on, where one does.
func (q *question) letGo() {
	if q.release != nil {
		q.release()
		q.release = nil
	}
}

// letGo lets every application that waits for a question go on: there is nobody to
// ask it.
func (p *Plugin) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, questions := range p.waiting {
		for _, q := range questions {
			q.letGo()
		}
	}
}

// ask asks one question.
func (p *Plugin) ask(ctx context.Context, q *question) {
	defer q.cancel()
	if q.release != nil {
		defer q.release()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(q.ctx, cancel)()
	request, ok := p.request(q)
	if !ok || ctx.Err() != nil {
		return
	}
	answer, err := p.deps.Ask(ctx, q.subject.run.event.GetSessionId(), request)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrSessionEnded):
		return
	case err != nil:
		p.problem = "nobody could be asked for a project: " + err.Error()
		p.deps.Log.Error("nobody could be asked for a project; the application goes on without one", "reason", err)
		return
	}
	p.problem = ""
	var choice *pluginv1.Choice
	if answer.Outcome != prompt.Later {
		if choice, err = choiceOf(request, answer); err != nil {
			p.deps.Log.Error("an answer to the prompt says nothing", "reason", err)
			return
		}
		p.remember(q.subject.run.event, answer)
	}
	p.answered(q.subject, choice, answer)
	if answer.ForAll {
		p.answeredToo(q, choice, answer)
	}
}

// answeredToo gives the answer to a question to the others of its application that wait.
func (p *Plugin) answeredToo(q *question, choice *pluginv1.Choice, answer prompt.Answer) {
	session := string(q.subject.run.event.GetSessionId())
	p.waiting[session] = slices.DeleteFunc(p.waiting[session], func(other *question) bool {
		if other == q || !other.like(q) {
			return false
		}
		if other.ctx.Err() == nil {
			other.subject.question = nil
			p.answered(other.subject, choice, answer)
		}
		other.cancel()
		other.letGo()
		return true
	})
}

// like tells whether another question is put for the same application and occasion.
func (q *question) like(other *question) bool {
	return q.closing == other.closing && bytes.Equal(q.subject.run.event.GetApplicationId(), other.subject.run.event.GetApplicationId())
}

// others is how many questions besides the first, which is being asked, wait that are
// like it.
func (p *Plugin) others(q *question) (n int) {
	for _, other := range p.waiting[string(q.subject.run.event.GetSessionId())] {
		if other != q && other.like(q) && other.ctx.Err() == nil {
			n++
		}
	}
	return n
}

// Check implements plugin.Plugin.
func (p *Plugin) Check(context.Context) (*pluginv1.Health, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &pluginv1.Health{Well: p.problem == "", Message: p.problem}, nil
}

// Stop implements plugin.Plugin.
func (*Plugin) Stop(context.Context) error { return nil }
