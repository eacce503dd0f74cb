package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// Config says which plug-ins there are and how patient the host is. Times and sizes
// that are left at zero have defaults.
type Config struct {
	// Dir is the folder of plug-ins; empty: there are built-in ones only.
	Dir string
	// Keys are those whose lists are trusted.
	Keys Keys
	// StateDir is the agent's folder for what plug-ins keep and the copies that run.
	StateDir string
	// CallTimeout is how long a call may take; 5 s.
	CallTimeout time.Duration
	// StartTimeout is how long a program may take until it has shaken hands; 20 s.
	StartTimeout time.Duration
	// Heartbeat is how often a plug-in is asked whether it lives; 15 s.
	Heartbeat time.Duration
	// FirstPause and LastPause bound the pause before a new start; 1 s and 5 min.
	FirstPause, LastPause time.Duration
	// SteadyAfter is how long a plug-in must have worked for its next pause to be the first
	// again; 10 min.
	SteadyAfter time.Duration
	// MemoryBytes bounds a program's memory where its list does not; 128 MiB.
	MemoryBytes int64
	// Queue is how many events wait for a plug-in at most; 4096.
	Queue int
	// ListLook is how often it is looked whether the folder has a new list; 1 min.
	ListLook time.Duration
	// TrialFor is how long a program on trial must have worked, and be well at the end; 1 min.
	TrialFor time.Duration
}

func (c Config) withDefaults() Config {
	c.CallTimeout = cmp.Or(c.CallTimeout, 5*time.Second)
	c.StartTimeout = cmp.Or(c.StartTimeout, 20*time.Second)
	c.Heartbeat = cmp.Or(c.Heartbeat, 15*time.Second)
	c.FirstPause = cmp.Or(c.FirstPause, time.Second)
	c.LastPause = cmp.Or(c.LastPause, 5*time.Minute)
	c.SteadyAfter = cmp.Or(c.SteadyAfter, 10*time.Minute)
	c.MemoryBytes = cmp.Or(c.MemoryBytes, 128<<20)
	c.Queue = cmp.Or(c.Queue, 4096)
	c.ListLook = cmp.Or(c.ListLook, time.Minute)
	c.TrialFor = cmp.Or(c.TrialFor, time.Minute)
	return c
}

// Deps are what the host works with.
type Deps struct {
	// BuiltIn are the agent's own parts by their names.
	BuiltIn map[string]Plugin
	// Tell takes a fact of a plug-in. An error is told to the plug-in's log and ends its run.
	Tell func(ctx context.Context, plugin string, report *pluginv1.ReportResponse) error
	// Changed, where set, is told that Health has something new.
	Changed func()
	// Tried is told how a program on trial did: nil, and it goes on; otherwise why it was
	// ended, and whoever is told says what is to run in its place. ctx ends with the program.
	Tried func(ctx context.Context, entry Entry, err error)
	Log   *slog.Logger
}

// Host runs plug-ins. Its methods may be called from anywhere, and none waits for
// a plug-in.
type Host struct {
	config Config
	deps   Deps

	seen []byte // the list that was read last; of follow's goroutine, once Run runs

	settling sync.Mutex // serialises changes of what runs, which wait for plug-ins without mu

	mu       sync.Mutex
	start    func(*member) // starts one beside the others, with mu held; set while Run runs
	members  []*member
	list     List                  // of the folder
	programs map[string]Program    // by name; they go before the folder's
	refused  *agentv1.PluginHealth // of the list as a whole
	request  *pluginv1.ConfigureRequest
	policy   map[string]*policyv1.PluginPolicy
	open     map[string]*pluginv1.Event
}

// Program is the program of a plug-in, from wherever it came.
type Program struct {
	Entry

	// Dir is where the entry's file lies.
	Dir string
	// Trial: it has yet to show that it works, and Deps.Tried is told.
	Trial bool
}

// same tells whether two are the same program, tried or not.
func (p Program) same(other Program) bool { return p.Entry == other.Entry && p.Dir == other.Dir }

// member is one plug-in with all its runs.
type member struct {
	host    *Host
	name    string
	own     Plugin // built in; nil: a program
	program Program
	trial   atomic.Bool
	wake    chan struct{}
	// stop ends it, and ended is closed when it has; set when it is started.
	stop  context.CancelFunc
	ended chan struct{}

	// The host's mu guards what follows.
	health     *agentv1.PluginHealth
	queue      []*pluginv1.Event
	listening  bool
	overflown  bool
	configured int // version of the configuration that is wanted
}

// listName stands in health for a list that is refused as a whole, or missing.
const listName = "list-of-plug-ins"

// New makes a host. A folder whose list cannot be trusted is no error: health
// says so, and the built-in plug-ins run.
func New(config Config, deps Deps) *Host {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		config: config.withDefaults(), deps: deps, open: map[string]*pluginv1.Event{}, request: &pluginv1.ConfigureRequest{},
		programs: map[string]Program{},
	}
	names := make([]string, 0, len(deps.BuiltIn))
	for name := range deps.BuiltIn {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h.add(&member{name: name, own: guarded{deps.BuiltIn[name]}})
	}
	if config.Dir == "" {
		return h
	}
	h.seen = h.mark()
	list, err := h.takeList()
	if err == nil {
		err = withoutList(config.Dir)
	}
	h.note(err)
	h.list = list
	h.settle()
	return h
}

func (h *Host) add(m *member) {
	m.host, m.wake = h, make(chan struct{}, 1)
	m.health = &agentv1.PluginHealth{Name: m.name, State: agentv1.PluginState_PLUGIN_STATE_STARTING, BuiltIn: m.own != nil}
	h.members = append(h.members, m)
}

// Run runs the plug-ins until ctx ends, and stops them.
func (h *Host) Run(ctx context.Context) {
	var all sync.WaitGroup
	h.settling.Lock()
	h.mu.Lock()
	h.start = func(m *member) {
		own, stop := context.WithCancel(ctx)
		m.stop, m.ended = stop, make(chan struct{})
		all.Go(func() {
			defer close(m.ended)
			defer stop()
			m.supervise(own)
		})
	}
	for _, m := range h.members {
		h.start(m)
	}
	h.mu.Unlock()
	h.settling.Unlock()
	if h.config.Dir != "" {
		h.follow(ctx)
	}
	<-ctx.Done()
	h.mu.Lock()
	h.start = nil
	h.mu.Unlock()
	all.Wait()
}

// Replace has a program run in the place of what has its name, be it of the folder or
// another one that was given so; nil: the folder's runs again, where it has one. It returns
// when what ran before has stopped. A name of a part of the agent is refused.
func (h *Host) Replace(name string, p *Program) error {
	if h.deps.BuiltIn[name] != nil || p != nil && (!IsName(name) || p.Name != name) {
		return refuse("%q is no name for a plug-in that is a program", name)
	}
	h.mu.Lock()
	if p == nil {
		delete(h.programs, name)
	} else {
		h.programs[name] = *p
	}
	h.mu.Unlock()
	h.settle()
	if h.deps.Changed != nil {
		h.deps.Changed()
	}
	return nil
}

// wanted are the programs that are to run, by name.
func (h *Host) wanted() map[string]Program {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := maps.Clone(h.programs)
	for _, entry := range h.list.Plugins {
		if h.deps.BuiltIn[entry.Name] != nil {
			h.deps.Log.Error("a plug-in of the folder has the name of a part of the agent, and is left out", "plugin", entry.Name)
		} else if _, replaced := all[entry.Name]; !replaced {
			all[entry.Name] = Program{Entry: entry, Dir: h.config.Dir}
		}
	}
	return all
}

// settle stops what is not to run any more, or as another program, and starts what is to;
// the rest goes on undisturbed. It tells how many it started.
func (h *Host) settle() (started int) {
	h.settling.Lock()
	defer h.settling.Unlock()
	wanted := h.wanted()
	stays := func(m *member) bool {
		p, there := wanted[m.name]
		return m.own != nil || there && m.program.same(p)
	}
	h.mu.Lock()
	members := slices.Clone(h.members)
	h.mu.Unlock()
	for _, m := range members {
		if !stays(m) && m.stop != nil {
			m.stop()
			<-m.ended
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.members = slices.DeleteFunc(h.members, func(m *member) bool { return !stays(m) })
	for _, m := range h.members {
		m.trial.Store(h.programs[m.name].Trial)
		delete(wanted, m.name)
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		m := &member{name: name, program: wanted[name]}
		m.trial.Store(h.programs[name].Trial)
		h.add(m)
		if h.start != nil {
			h.start(m)
			started++
		}
	}
	return started
}

// Health is how the plug-ins are doing.
func (h *Host) Health() []*agentv1.PluginHealth {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*agentv1.PluginHealth
	for _, m := range h.members {
		all = append(all, proto.CloneOf(m.health))
	}
	if h.refused != nil {
		all = append(all, proto.CloneOf(h.refused))
	}
	return all
}

// Configure tells all plug-ins what they may know; each gets its own policy and folder.
func (h *Host) Configure(request *pluginv1.ConfigureRequest, policies []*policyv1.PluginPolicy) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.request = proto.CloneOf(request)
	h.policy = map[string]*policyv1.PluginPolicy{}
	for _, p := range policies {
		h.policy[p.GetName()] = p
	}
	for _, m := range h.members {
		m.configured++
		m.signal()
	}
}

// Publish tells events to the plug-ins that want them.
func (h *Host) Publish(events []*pluginv1.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		key := string(e.GetInstanceId()) + string(e.GetDocumentId())
		switch e.GetKind() {
		case pluginv1.EventKind_EVENT_KIND_OPENED:
			h.open[key] = e
		case pluginv1.EventKind_EVENT_KIND_CLOSED:
			delete(h.open, key)
		default:
		}
	}
	for _, m := range h.members {
		if !m.listening {
			continue
		}
		m.queue = append(m.queue, events...)
		if len(m.queue) > h.config.Queue {
			m.queue, m.overflown = nil, true
		}
		m.signal()
	}
}

func (m *member) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// set changes what health says.
func (m *member) set(change func(*agentv1.PluginHealth)) {
	m.host.mu.Lock()
	before := proto.CloneOf(m.health)
	change(m.health)
	changed := !proto.Equal(before, m.health)
	m.host.mu.Unlock()
	if changed && m.host.deps.Changed != nil {
		m.host.deps.Changed()
	}
}

// supervise starts the plug-in, again and again, until ctx ends.
func (m *member) supervise(ctx context.Context) {
	c, log := m.host.config, m.host.deps.Log
	pause := c.FirstPause
	for {
		began := time.Now()
		err := m.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if m.trial.CompareAndSwap(true, false) {
			log.Error("a plug-in on trial does not work", "plugin", m.name, "reason", err)
			m.set(func(h *agentv1.PluginHealth) {
				h.State, h.Message = agentv1.PluginState_PLUGIN_STATE_FAILED, clip(err.Error())
			})
			m.tried(ctx, err)
			return
		}
		if time.Since(began) >= c.SteadyAfter {
			pause = c.FirstPause
		}
		state := agentv1.PluginState_PLUGIN_STATE_FAILED
		var refused *RefusedError
		if errors.As(err, &refused) {
			state, pause = agentv1.PluginState_PLUGIN_STATE_REFUSED, c.LastPause
		}
		log.Error("a plug-in does not work; it is started again", "plugin", m.name, "reason", err, "in", pause)
		m.set(func(h *agentv1.PluginHealth) { h.State, h.Message = state, clip(err.Error()) })
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, c.LastPause)
		m.set(func(h *agentv1.PluginHealth) {
			h.State = agentv1.PluginState_PLUGIN_STATE_STARTING
			h.Restarts++
		})
	}
}

func (m *member) tried(ctx context.Context, err error) {
	if told := m.host.deps.Tried; told != nil {
		told(ctx, m.program.Entry, err)
	}
}

// once is one run of the plug-in, from its start to its end.
func (m *member) once(ctx context.Context) error {
	r := &run{member: m, plugin: m.own}
	if m.own == nil {
		if err := r.start(ctx); err != nil {
			return err
		}
		defer r.process.kill()
	}
	defer m.deaf()
	if err := r.introduce(ctx); err != nil {
		return err
	}
	return r.work(ctx)
}

// run is one run of a plug-in.
type run struct {
	member  *member
	plugin  Plugin
	process *process // nil: built in
	events  []pluginv1.EventKind
	facts   []pluginv1.FactKind
	told    int // version of the configuration that it has
}

func (r *run) start(ctx context.Context) error {
	m, c := r.member, r.member.host.config
	program, err := fetch(m.program.Dir, m.program.Entry, filepath.Join(c.StateDir, "programs"))
	if err != nil {
		return err
	}
	// A socket's path may not be long.
	sockets, err := os.MkdirTemp("", "cetrus-")
	if err != nil {
		return fmt.Errorf("plugin: %w", err)
	}
	defer os.RemoveAll(sockets) // a connection outlives its socket's name
	ctx, cancel := context.WithTimeout(ctx, c.StartTimeout)
	defer cancel()
	r.process, r.plugin, err = start(ctx, program, sockets, cmp.Or(m.program.MemoryBytes, c.MemoryBytes), m.host.deps.Log.With("plugin", m.name))
	if err != nil {
		return err
	}
	// The first call connects, while the socket still has its name.
	if _, err := r.plugin.Describe(ctx); err != nil {
		r.process.kill()
		return fmt.Errorf("plugin: %s does not describe itself: %w", m.name, err)
	}
	return nil
}

// introduce learns who the plug-in is, and tells it where it is.
func (r *run) introduce(ctx context.Context) error {
	m := r.member
	var card *pluginv1.DescribeResponse
	if err := r.call(ctx, "Describe", func(ctx context.Context) (err error) {
		card, err = r.plugin.Describe(ctx)
		return err
	}); err != nil {
		return err
	}
	if card.GetName() != m.name {
		return refuse("it calls itself %q, and is signed as %q", clip(card.GetName()), m.name)
	}
	r.events, r.facts = card.GetEvents(), card.GetFacts()
	if m.own == nil && slices.Contains(r.facts, pluginv1.FactKind_FACT_KIND_ACTIVITY) {
		return refuse("it wants to tell activity, which only the agent's own monitor may")
	}
	m.set(func(h *agentv1.PluginHealth) { h.Version = clip(card.GetVersion()) })
	if err := r.configure(ctx); err != nil {
		return err
	}
	m.host.mu.Lock()
	m.queue, m.overflown, m.listening = nil, false, len(r.events) > 0
	if m.listening {
		for _, e := range m.host.open {
			m.queue = append(m.queue, e)
		}
		slices.SortFunc(m.queue, func(a, b *pluginv1.Event) int { return cmp.Compare(a.GetAtBootMillis(), b.GetAtBootMillis()) })
		m.signal()
	}
	m.host.mu.Unlock()
	m.set(func(h *agentv1.PluginHealth) { h.State, h.Message = agentv1.PluginState_PLUGIN_STATE_RUNNING, "" })
	return nil
}

// deaf stops events from gathering for a plug-in that does not run.
func (m *member) deaf() {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	m.queue, m.listening = nil, false
}

func (r *run) configure(ctx context.Context) error {
	m := r.member
	dir := filepath.Join(m.host.config.StateDir, "data", m.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("plugin: %w", err)
	}
	m.host.mu.Lock()
	request := proto.CloneOf(m.host.request)
	request.Policy = m.host.policy[m.name]
	r.told = m.configured
	m.host.mu.Unlock()
	if request.GetMachine() == nil {
		request.Machine = &pluginv1.Machine{}
	}
	request.Machine.DataDir = dir
	return r.call(ctx, "Configure", func(ctx context.Context) error { return r.plugin.Configure(ctx, request) })
}

// call makes one call with its deadline.
func (r *run) call(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.member.host.config.CallTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		return fmt.Errorf("plugin: %s: %s: %w", r.member.name, what, err)
	}
	return nil
}

// work tells events and hears facts until something ends.
func (r *run) work(ctx context.Context) error {
	m, c := r.member, r.member.host.config
	reporting, stopReporting := context.WithCancel(ctx)
	reported := make(chan error, 1)
	var reporter sync.WaitGroup
	reporter.Go(func() {
		reported <- r.plugin.Report(reporting, func(report *pluginv1.ReportResponse) error { return r.hear(reporting, report) })
	})
	defer reporter.Wait()
	defer stopReporting()
	var ended <-chan struct{}
	if r.process != nil {
		ended = r.process.ended
		// A program that is gone ends its report, too.
		defer r.process.kill()
	}
	beat := time.NewTicker(c.Heartbeat)
	defer beat.Stop()
	var proven <-chan time.Time
	if m.trial.Load() {
		timer := time.NewTimer(c.TrialFor)
		defer timer.Stop()
		proven = timer.C
	}
	for {
		if err := r.deliver(ctx); err != nil {
			return r.because(err)
		}
		select {
		case <-ctx.Done():
			r.goodbye(ctx)
			return ctx.Err()
		case <-ended:
			return fmt.Errorf("plugin: %s ended: %w", m.name, r.process.endedWith())
		case err := <-reported:
			return r.because(fmt.Errorf("plugin: %s ended its report: %w", m.name, cmp.Or(err, errors.New("it had no more to say"))))
		case <-beat.C:
			if err := r.check(ctx); err != nil {
				return r.because(err)
			}
		case <-proven:
			if err := r.prove(ctx); err != nil {
				return r.because(err)
			}
		case <-m.wake:
		}
	}
}

// prove ends a trial: who has worked so long, and says that it is well, goes on.
func (r *run) prove(ctx context.Context) error {
	m := r.member
	if err := r.check(ctx); err != nil {
		return err
	}
	h := m.host
	h.mu.Lock()
	message := m.health.GetMessage()
	over := message == "" && m.trial.CompareAndSwap(true, false)
	if p, there := h.programs[m.name]; over && there {
		p.Trial = false
		h.programs[m.name] = p
	}
	h.mu.Unlock()
	if message != "" {
		return fmt.Errorf("plugin: %s is not well: %s", m.name, message)
	}
	if over {
		m.tried(ctx, nil)
	}
	return nil
}

// settled is how long a failed call waits for the end that may explain it.
const settled = 200 * time.Millisecond

// because prefers the end of the program as the reason for a call that failed.
func (r *run) because(err error) error {
	if r.process == nil {
		return err
	}
	timer := time.NewTimer(settled)
	defer timer.Stop()
	select {
	case <-r.process.ended:
		return fmt.Errorf("plugin: %s ended: %w", r.member.name, r.process.endedWith())
	case <-timer.C:
		return err
	}
}

func (r *run) goodbye(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	_ = r.call(ctx, "Stop", r.plugin.Stop)
	if r.process != nil {
		r.process.stop(r.member.host.config.CallTimeout)
	}
}

// check is the heartbeat.
func (r *run) check(ctx context.Context) error {
	if r.process != nil {
		if took := r.process.cage.excess(r.process.cmd.Process); took > 0 {
			return fmt.Errorf("plugin: %s takes %d MiB of memory, and may take %d", r.member.name, took>>20,
				cmp.Or(r.member.program.MemoryBytes, r.member.host.config.MemoryBytes)>>20)
		}
	}
	var health *pluginv1.Health
	err := r.call(ctx, "Check", func(ctx context.Context) (err error) {
		health, err = r.plugin.Check(ctx)
		return err
	})
	if err == nil {
		r.note(health)
	}
	return err
}

func (r *run) note(health *pluginv1.Health) {
	r.member.set(func(h *agentv1.PluginHealth) {
		h.Message = ""
		if !health.GetWell() {
			h.Message = clip(cmp.Or(health.GetMessage(), "it says that it is not well"))
		}
	})
}

// maxNotify is the most events in one call.
const maxNotify = 1000

// deliver brings the plug-in up to date.
func (r *run) deliver(ctx context.Context) error {
	m := r.member
	for {
		m.host.mu.Lock()
		stale, overflown := r.told != m.configured, m.overflown
		n := min(len(m.queue), maxNotify)
		batch := m.queue[:n:n]
		if !stale && !overflown {
			m.queue = m.queue[n:]
		}
		m.host.mu.Unlock()
		switch {
		case overflown:
			return fmt.Errorf("plugin: %s does not keep up with what happens", m.name)
		case stale:
			if err := r.configure(ctx); err != nil {
				return err
			}
			continue
		case n == 0:
			return nil
		}
		wanted := slices.DeleteFunc(slices.Clone(batch), func(e *pluginv1.Event) bool { return !slices.Contains(r.events, e.GetKind()) })
		if len(wanted) == 0 {
			continue
		}
		if err := r.call(ctx, "Notify", func(ctx context.Context) error { return r.plugin.Notify(ctx, wanted) }); err != nil {
			return err
		}
	}
}

// hear takes in one report.
func (r *run) hear(ctx context.Context, report *pluginv1.ReportResponse) error {
	kind := pluginv1.FactKind_FACT_KIND_UNSPECIFIED
	switch report.GetReport().(type) {
	case *pluginv1.ReportResponse_Health:
		r.note(report.GetHealth())
		return nil
	case *pluginv1.ReportResponse_Activity:
		kind = pluginv1.FactKind_FACT_KIND_ACTIVITY
	case *pluginv1.ReportResponse_Choice:
		kind = pluginv1.FactKind_FACT_KIND_CHOICE
	case *pluginv1.ReportResponse_Inventory:
		kind = pluginv1.FactKind_FACT_KIND_INVENTORY
	}
	if !slices.Contains(r.facts, kind) {
		return fmt.Errorf("plugin: %s tells a fact that it did not describe (%v)", r.member.name, kind)
	}
	if kind == pluginv1.FactKind_FACT_KIND_ACTIVITY {
		r.member.host.Publish(report.GetActivity().GetEvents())
		return nil
	}
	return r.member.host.deps.Tell(ctx, r.member.name, report)
}
