// Package e2p is the built-in plug-in that finds out which project the use of an application
// belongs to: by a rule, or by asking. It knows the contract of plug-ins, the
// account's settings and how to ask; who shows the question is given to it.
//
// It asks once for each instance that opens, one question after the other in a desktop
// session, filled in with what the same person last chose for that application, or failing that in any. "Later" is
// asked again at the next opening. What it cannot ask, for want of a display say, it
// says in its health and lets pass: nobody is kept from working by a fault.
//
// # Unfinished
//
//   - It asks for instances as a whole, not for documents, and its rules know applications and
//     users, not folders and files.
//   - Instances that were open before the agent started are not asked for.
package e2p

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/prompt"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Name is the plug-in's.
const Name = "expense-to-project"

// workerKey is the key of the field "Who is working?".
const workerKey = "_worker"

// Deps are what the plug-in works with.
type Deps struct {
	// Ask puts a question to the person of a session. It ends with an error where nobody can be
	// asked, and when ctx ends.
	Ask func(ctx context.Context, sessionID []byte, request prompt.Request) (prompt.Answer, error)
	// User is what the system calls the person of an alias: DOMAIN\name or the bare name.
	User func(alias []byte) string
	// Now is the boot time of the last observation: what opened much earlier was open
	// when the agent started, and is not asked for.
	Now func() int64
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

	mu       sync.Mutex
	settings *policyv1.ExpenseToProject
	apps     map[string]*policyv1.ApplicationPolicy
	lastFile string
	last     map[string]map[string]string // application and alias -> field -> value
	waiting  map[string][]*question       // session -> questions, the first is being asked
	chosen   map[string]bool              // instances that a choice was told of
	wake     chan struct{}
	ready    []*pluginv1.ReportResponse
	problem  string
}

// fresh is how long ago something may have opened to be asked for, in milliseconds.
const fresh = 60_000

// question is an instance that a project is to be found for.
type question struct {
	event   *pluginv1.Event
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
	return &Plugin{deps: deps, waiting: map[string][]*question{}, chosen: map[string]bool{}, last: map[string]map[string]string{}, wake: make(chan struct{}, 1)}
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
		Events: []pluginv1.EventKind{pluginv1.EventKind_EVENT_KIND_OPENED, pluginv1.EventKind_EVENT_KIND_CLOSED},
		Facts:  []pluginv1.FactKind{pluginv1.FactKind_FACT_KIND_CHOICE},
	}, nil
}

// Configure implements plugin.Plugin.
func (p *Plugin) Configure(_ context.Context, r *pluginv1.ConfigureRequest) error {
	policy := new(policyv1.Policy)
	if err := proto.Unmarshal(r.GetPolicy().GetSettings(), policy); err != nil {
		return fmt.Errorf("e2p: settings: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings, p.apps = policy.GetExpenseToProject(), map[string]*policyv1.ApplicationPolicy{}
	for _, a := range policy.GetApplications() {
		p.apps[string(a.GetApplicationId())] = a
	}
	if file := filepath.Join(r.GetMachine().GetDataDir(), "last.json"); file != p.lastFile && r.GetMachine().GetDataDir() != "" {
		p.lastFile = file
		// What cannot be read is only not filled in.
		if text, err := os.ReadFile(file); err == nil {
			_ = json.Unmarshal(text, &p.last)
		}
		if p.last == nil {
			p.last = map[string]map[string]string{}
		}
	}
	return nil
}

// Notify implements plugin.Plugin.
func (p *Plugin) Notify(_ context.Context, events []*pluginv1.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		app := p.apps[string(e.GetApplicationId())]
		switch {
		case len(e.GetDocumentId()) > 0:
		case e.GetKind() == pluginv1.EventKind_EVENT_KIND_OPENED && app != nil:
			p.opened(e, app)
		case e.GetKind() == pluginv1.EventKind_EVENT_KIND_CLOSED:
			p.closed(e, app)
		}
	}
	return nil
}

// opened finds a project by rule, or puts a question into its queue.
func (p *Plugin) opened(e *pluginv1.Event, app *policyv1.ApplicationPolicy) {
	if p.chosen[string(e.GetInstanceId())] || p.asked(e) {
		return // heard of again, after a new start
	}
	if p.deps.Now()-e.GetAtBootMillis() > fresh {
		return
	}
	if rule := p.rule(e); rule != nil {
		choice := &pluginv1.Choice{InstanceId: e.GetInstanceId(), AssignmentRuleId: rule.GetAssignmentRuleId()}
		if id := rule.GetProjectId(); len(id) > 0 {
			choice.Chosen = &pluginv1.Choice_ProjectId{ProjectId: id}
		} else {
			choice.Chosen = &pluginv1.Choice_NotChargeable{NotChargeable: true}
		}
		p.tell(choice)
		return
	}
	q := &question{event: e}
	if app.GetProjectPrompt().GetHoldsLaunch() && p.deps.Hold != nil {
		q.release = p.deps.Hold(e)
	}
	p.enqueue(q)
}

func (p *Plugin) asked(e *pluginv1.Event) bool {
	return slices.ContainsFunc(p.waiting[string(e.GetSessionId())], func(q *question) bool {
		return bytes.Equal(q.event.GetInstanceId(), e.GetInstanceId())
	})
}

// closed takes back a question that has lost its object, and asks the one for the end.
func (p *Plugin) closed(e *pluginv1.Event, app *policyv1.ApplicationPolicy) {
	for _, q := range p.waiting[string(e.GetSessionId())] {
		if bytes.Equal(q.event.GetInstanceId(), e.GetInstanceId()) && !q.closing {
			q.cancel()
		}
	}
	if p.chosen[string(e.GetInstanceId())] && app.GetProjectPrompt().GetAtClose() {
		p.enqueue(&question{event: e, closing: true})
	}
	delete(p.chosen, string(e.GetInstanceId()))
}

func (p *Plugin) enqueue(q *question) {
	q.ctx, q.cancel = context.WithCancel(context.Background())
	session := string(q.event.GetSessionId())
	p.waiting[session] = append(p.waiting[session], q)
	p.signal()
}

func (p *Plugin) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// rule is the first that fits; nil: none does.
func (p *Plugin) rule(e *pluginv1.Event) *policyv1.AssignmentRule {
	for _, r := range p.settings.GetRules() {
		if id := r.GetApplicationId(); len(id) > 0 && !bytes.Equal(id, e.GetApplicationId()) {
			continue
		}
		if r.GetUser() == "" || isLogin(r.GetUser(), p.deps.User(e.GetPrincipalAlias())) {
			return r
		}
	}
	return nil
}

// isLogin tells whether a pattern fits a login, with or without its domain.
func isLogin(pattern, user string) bool {
	pattern, user = strings.ToLower(strings.ReplaceAll(pattern, `\`, "/")), strings.ToLower(strings.ReplaceAll(user, `\`, "/"))
	if !strings.Contains(pattern, "/") {
		user = user[strings.LastIndexByte(user, '/')+1:]
	}
	fits, err := path.Match(pattern, user)
	return err == nil && fits && user != ""
}

// tell puts a choice where Report takes it.
func (p *Plugin) tell(c *pluginv1.Choice) {
	p.chosen[string(c.GetInstanceId())] = true
	p.ready = append(p.ready, &pluginv1.ReportResponse{Report: &pluginv1.ReportResponse_Choice{Choice: c}})
	p.signal()
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

// letGo lets every application that waits for a question go on: there is nobody to
// ask it.
func (p *Plugin) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, questions := range p.waiting {
		for _, q := range questions {
			if q.release != nil {
				q.release()
				q.release = nil
			}
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
	answer, err := p.deps.Ask(ctx, q.event.GetSessionId(), request)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		p.problem = "nobody could be asked for a project: " + err.Error()
		p.deps.Log.Error("nobody could be asked for a project; the application goes on without one", "reason", err)
		return
	}
	p.problem = ""
	if answer.Outcome == prompt.Later {
		return
	}
	choice, err := choiceOf(q.event.GetInstanceId(), request, answer)
	if err != nil {
		p.deps.Log.Error("an answer to the prompt says nothing", "reason", err)
		return
	}
	if q.closing {
		defer delete(p.chosen, string(q.event.GetInstanceId()))
	}
	p.tell(choice)
	p.remember(q.event, answer)
}

// request is the question for an instance.
func (p *Plugin) request(q *question) (prompt.Request, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	app := p.apps[string(q.event.GetApplicationId())]
	if app == nil || p.settings == nil {
		return prompt.Request{}, false
	}
	s := p.settings
	last, known := p.last[lastKey(q.event)]
	if !known {
		last = p.last[personKey(q.event)] // in another application, rather than nothing
	}
	r := prompt.Request{
		Application: app.GetDisplayName(), Closing: q.closing, ProposeAllowed: s.GetProposeAllowed(), Waiting: q.release != nil,
	}
	user := p.deps.User(q.event.GetPrincipalAlias())
	if slices.ContainsFunc(s.GetSharedLogins(), func(login string) bool { return isLogin(login, user) }) {
		f := prompt.Field{Key: workerKey, Label: "Who is working?", Kind: prompt.Worker, Required: true}
		for _, w := range s.GetWorkers() {
			f.Options = append(f.Options, prompt.Option{ID: hex.EncodeToString(w.GetWorkerId()), Label: w.GetLabel()})
		}
		// On a shared login the last one is only a guess, but the likeliest.
		f.Value = last[f.Key]
		r.Fields = append(r.Fields, f)
	}
	for _, field := range s.GetFields() {
		f := prompt.Field{Key: field.GetKey(), Label: field.GetLabel(), Required: field.GetRequired(), Value: last[field.GetKey()]}
		switch field.GetKind() {
		case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT:
			f.Kind = prompt.Project
			for _, project := range s.GetProjects() {
				f.Options = append(f.Options, prompt.Option{ID: hex.EncodeToString(project.GetProjectId()), Label: project.GetLabel()})
			}
		case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_CHOICE:
			f.Kind = prompt.Choice
			for _, o := range field.GetOptions() {
				f.Options = append(f.Options, prompt.Option{ID: o, Label: o})
			}
		default:
			f.Kind = prompt.Text
		}
		r.Fields = append(r.Fields, f)
	}
	return r, true
}

func lastKey(e *pluginv1.Event) string {
	return hex.EncodeToString(e.GetApplicationId()) + "/" + hex.EncodeToString(e.GetPrincipalAlias())
}

// personKey is for what a person last chose in whatever application.
func personKey(e *pluginv1.Event) string { return "*/" + hex.EncodeToString(e.GetPrincipalAlias()) }

// remember keeps what was chosen, to fill it in the next time.
func (p *Plugin) remember(e *pluginv1.Event, a prompt.Answer) {
	if a.Outcome != prompt.Chosen || p.lastFile == "" {
		return
	}
	p.last[lastKey(e)], p.last[personKey(e)] = a.Values, a.Values
	text, err := json.Marshal(p.last)
	if err == nil {
		temporary := p.lastFile + ".new"
		if err = os.WriteFile(temporary, text, 0o600); err == nil {
			err = os.Rename(temporary, p.lastFile)
		}
	}
	if err != nil {
		p.deps.Log.Warn("the last choice is not remembered over a restart", "reason", err)
	}
}

// choiceOf turns an answer into a choice.
func choiceOf(instance []byte, r prompt.Request, a prompt.Answer) (*pluginv1.Choice, error) {
	c := &pluginv1.Choice{InstanceId: instance, Fields: map[string]string{}}
	proposed := map[string]string{}
	for _, f := range r.Fields {
		value := a.Values[f.Key]
		switch {
		case value == "":
		case f.Kind == prompt.Worker:
			id, err := hex.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("e2p: worker: %w", err)
			}
			c.WorkerId = id
		case f.Kind == prompt.Project && slices.Contains(a.Proposed, f.Key):
			proposed[f.Key] = value
		case f.Kind == prompt.Project:
			id, err := hex.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("e2p: project: %w", err)
			}
			c.Chosen = &pluginv1.Choice_ProjectId{ProjectId: id}
		default:
			c.Fields[f.Key] = value
		}
	}
	switch {
	case a.Outcome == prompt.NotChargeable:
		c.Chosen, c.Fields = &pluginv1.Choice_NotChargeable{NotChargeable: true}, nil
	case len(proposed) > 0 || c.GetChosen() == nil && len(c.GetFields()) > 0:
		// The person's own words, with all that belongs to them.
		for key, value := range c.GetFields() {
			proposed[key] = value
		}
		c.Chosen, c.Fields = &pluginv1.Choice_Proposed{Proposed: &usagev1.ProposedProject{Fields: proposed}}, nil
	case c.GetChosen() == nil:
		return nil, errors.New("e2p: nothing was filled in")
	}
	return c, nil
}

// Check implements plugin.Plugin.
func (p *Plugin) Check(context.Context) (*pluginv1.Health, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &pluginv1.Health{Well: p.problem == "", Message: p.problem}, nil
}

// Stop implements plugin.Plugin.
func (*Plugin) Stop(context.Context) error { return nil }
