package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/agent/plugin"
	"github.com/cetrus/cetrus/agent/plugin/e2p"
	"github.com/cetrus/cetrus/agent/prompt"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/expense"
	"github.com/cetrus/cetrus/proto/rules"
)

// Names in the data directory.
const (
	choiceDir  = "choice"
	pluginsDir = "plugins"
	heldFile   = "held.json"
)

// PluginsConfig says which plug-ins run beside the agent's own work.
type PluginsConfig struct {
	// Dir is the folder of programs; empty: there are the built-in plug-ins only.
	Dir string
	// Keys are those whose lists of programs are trusted.
	Keys plugin.Keys
	// Prompt starts what shows a question to the person of a desktop session, which it is
	// given the key of; nil: nobody is asked.
	Prompt func(session string) prompt.Starter
	// Releases lets plug-ins come from Managers; nil: none do.
	Releases *PluginReleasesConfig
	// Host tunes the host; its Dir, Keys and StateDir are set by the agent.
	Host plugin.Config
}

const (
	// rememberedInstances is how many instances that have closed a choice may still name.
	rememberedInstances = 256
	// rememberedPlaces is of how many places of one instance a choice can be changed: those
	// before are told anew, as choices of their own.
	rememberedPlaces = 4096
)

// plugins ties the host of plug-ins to the agent: what is journalled goes to the
// monitor, and choices come back into a journal of their own. It costs next to nothing
// until a folder of plug-ins or a policy asks for it (wanted); from then on it stays.
type plugins struct {
	agent   *Agent
	config  PluginsConfig
	log     *slog.Logger
	choices choices
	// host is nil until plug-ins are wanted; monitor, projects, instances, users, processes
	// and owners are made before it.
	host     atomic.Pointer[plugin.Host]
	monitor  *plugin.Monitor
	projects *e2p.Plugin // nil: nobody is asked
	// releases are those that came from Managers; nil where none may.
	releases *pluginReleases

	mu        sync.Mutex
	runHost   func()               // runs the host beside Run; nil: Run has not begun
	trouble   string               // why there is no host though one is wanted
	moment    activity.Observation // the last one, without its sessions
	instances map[string]*opening  // by instance
	closed    []string
	users     map[string]string // by alias
	matcher   *rules.Matcher    // set where it matters which processes an instance opens with
	sessions  map[string]string // id of a session -> the desktop's key
	processes map[string][]activity.Process
	owners    map[string]activity.User // of the sessions that processes has

	keeping sync.Mutex // serialises keep, which waits for the disk without mu
	waiting waiting
}

// opening is an instance as it was first shown, with the anchor of that moment.
type opening struct {
	event  *pluginv1.Event
	anchor *usagev1.Anchor
	told   map[place]told
}

// place is what a choice is for: a document or the whole instance, and from when on.
type place struct {
	document string
	since    int64
}

// told is the last choice of a place, with the anchor that places it.
type told struct {
	choice *usagev1.Choice
	anchor *usagev1.Anchor
}

// choiceShare is the part of Config.JournalBytes that choices may take beside usage, of
// which there is far more.
const choiceShare = 8

// choices is the journal of choices as the uplink sees it: empty until there is one.
type choices struct {
	opened atomic.Pointer[journal.Journal]
}

func (c *choices) Lane() usagev1.Lane { return usagev1.Lane_LANE_CHOICE }

// Epoch implements uplink.Journal. No journal has the epoch 0.
func (c *choices) Epoch() uint64 {
	if j := c.opened.Load(); j != nil {
		return j.Epoch()
	}
	return 0
}

func (c *choices) Frame(fromSeq uint64) (*usagev1.Frame, error) {
	if j := c.opened.Load(); j != nil {
		return j.Frame(fromSeq)
	}
	return nil, nil //nolint:nilnil // As the interface says where there is none.
}

func (c *choices) Acknowledge(epoch, firstSeq, lastSeq uint64) error {
	if j := c.opened.Load(); j != nil {
		return j.Acknowledge(epoch, firstSeq, lastSeq)
	}
	return nil
}

func (c *choices) NewEpoch() error {
	if j := c.opened.Load(); j != nil {
		return j.NewEpoch()
	}
	return nil
}

// openPlugins opens what an earlier run has left: choices that no Manager has yet, and
// programs that wait.
func (a *Agent) openPlugins() error {
	p := &plugins{agent: a, log: a.log, waiting: waiting{file: filepath.Join(a.config.DataDir, heldFile), log: a.log}}
	a.plugins = p
	if a.config.Plugins != nil {
		p.config = *a.config.Plugins
	}
	p.waiting.releaseLeftOver()
	if p.config.Releases != nil {
		if err := p.openReleases(*p.config.Releases); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(a.config.DataDir, choiceDir)); err != nil {
		return nil //nolint:nilerr // There is none yet, or opening it later says why not.
	}
	return p.openChoices()
}

func (p *plugins) openChoices() error {
	if p.choices.opened.Load() != nil {
		return nil
	}
	a := p.agent
	most := a.config.JournalBytes
	if most == 0 {
		most = journal.DefaultMaxBytes
	}
	opened, err := journal.Open(journal.Config{
		Dir: filepath.Join(a.config.DataDir, choiceDir), Lane: usagev1.Lane_LANE_CHOICE,
		AgentID: a.identity.AgentID, MachineID: a.identity.MachineID,
		MaxBytes: max(journal.LeastMaxBytes, most/choiceShare),
		Random:   a.deps.Random, Sync: a.deps.Sync, Log: a.log,
	})
	if err != nil {
		return err
	}
	p.choices.opened.Store(opened)
	return nil
}

// wanted tells whether there is work for plug-ins: a folder of programs, a release of one, or
// an application whose use is to be given a project.
func (p *plugins) wanted(policy *policyv1.Policy) bool {
	return p.config.Dir != "" || p.releases.any() || p.config.Prompt != nil && slices.ContainsFunc(policy.GetApplications(), func(app *policyv1.ApplicationPolicy) bool {
		return app.GetProjectPrompt().GetEnabled()
	})
}

// start makes the host.
func (p *plugins) start() error {
	if err := p.openChoices(); err != nil {
		return err
	}
	a := p.agent
	p.monitor = plugin.NewMonitor(a.config.Version)
	builtIn := map[string]plugin.Plugin{plugin.MonitorName: p.monitor}
	if p.config.Prompt != nil {
		p.projects = e2p.New(e2p.Deps{Ask: p.ask, User: p.user, Now: p.now, Files: p.files, Hold: p.hold, Version: a.config.Version, Log: a.log})
		builtIn[e2p.Name] = p.projects
	}
	config := p.config.Host
	config.Dir, config.Keys, config.StateDir = p.config.Dir, p.config.Keys, filepath.Join(a.config.DataDir, pluginsDir)
	host := plugin.New(config, plugin.Deps{
		BuiltIn: builtIn, Tell: p.tell, Log: a.log,
		Changed: func() {
			if a.uplink != nil { // there is none until the host is made, and then there always is
				a.uplink.ShowHealth()
			}
		},
		Tried: func(ctx context.Context, entry plugin.Entry, err error) {
			select {
			case <-ctx.Done():
			case p.releases.tried <- triedProgram{entry, err}:
			}
		},
	})
	p.releases.runAll(host)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.instances = map[string]*opening{}
	p.users, p.sessions, p.processes = map[string]string{}, map[string]string{}, map[string][]activity.Process{}
	p.owners = map[string]activity.User{}
	p.host.Store(host)
	p.trouble = ""
	if p.runHost != nil {
		p.runHost()
	}
	return nil
}

// run lets the plug-ins run until ctx ends, from when they are wanted, in a goroutine
// that spawn starts and the caller waits for.
func (p *plugins) run(ctx context.Context, spawn func(work func())) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.releases != nil {
		spawn(func() { p.releases.judge(ctx) })
	}
	p.runHost = func() { spawn(func() { p.host.Load().Run(ctx) }) }
	if p.host.Load() != nil {
		p.runHost()
	}
}

func (p *plugins) close() {
	if p == nil {
		return
	}
	p.releases.close()
	if opened := p.choices.opened.Load(); opened != nil {
		if err := opened.Close(); err != nil {
			p.log.Error("the journal of choices could not be closed", "reason", err)
		}
	}
}

// backlog is how many choices no Manager has acknowledged.
func (p *plugins) backlog() uint64 {
	if opened := p.choices.opened.Load(); opened != nil {
		return opened.Backlog()
	}
	return 0
}

func (p *plugins) health() []*agentv1.PluginHealth {
	if host := p.host.Load(); host != nil {
		return host.Health()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trouble == "" {
		return nil
	}
	return []*agentv1.PluginHealth{{Name: e2p.Name, State: agentv1.PluginState_PLUGIN_STATE_FAILED, Message: p.trouble, BuiltIn: true}}
}

// configure tells the plug-ins of a policy, and starts them with the first one that asks
// for them. It is called by the goroutine that observes, or before there is one.
func (p *plugins) configure(policy *policyv1.Policy) {
	if p.host.Load() == nil {
		if !p.wanted(policy) {
			return
		}
		if err := p.start(); err != nil {
			p.log.Error("no plug-in runs, and nobody is asked for a project", "reason", err)
			p.mu.Lock()
			p.trouble = err.Error()
			p.mu.Unlock()
			return
		}
	}
	if policy == nil {
		return
	}
	host := p.agent.deps.Desktop.Host()
	request := &pluginv1.ConfigureRequest{Machine: &pluginv1.Machine{
		MachineId: p.agent.identity.MachineID[:], HostName: host.Name, OperatingSystem: host.OperatingSystem, AgentVersion: p.agent.config.Version,
	}}
	var matcher *rules.Matcher
	ofFiles := slices.ContainsFunc(policy.GetExpenseToProject().GetRules(), expense.OfFiles)
	for _, app := range policy.GetApplications() {
		request.Applications = append(request.Applications, &pluginv1.Application{ApplicationId: app.GetApplicationId(), DisplayName: app.GetDisplayName()})
		if prompt := app.GetProjectPrompt(); prompt.GetEnabled() && (prompt.GetHoldsLaunch() || ofFiles) && matcher == nil {
			var err error
			if matcher, err = rules.Compile(policy); err != nil {
				p.log.Error("no launch can be held", "reason", err)
			}
		}
	}
	settings := slices.Clone(policy.GetPlugins())
	own, err := e2p.Settings(policy)
	if err != nil {
		p.log.Error("the settings of the project prompt", "reason", err)
	} else {
		settings = append(settings, own)
	}
	p.mu.Lock()
	p.matcher = matcher
	p.mu.Unlock()
	p.host.Load().Configure(request, settings)
}

// shown takes what is shown live at the moment that see was told of. It is called by the
// goroutine that observes.
func (p *plugins) shown(snapshots []*usagev1.LiveSnapshot) {
	if p.host.Load() == nil || len(snapshots) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range snapshots {
		if s.GetEnded() {
			delete(p.sessions, string(s.GetSessionId()))
		} else {
			p.sessions[string(s.GetSessionId())] = p.agent.machine.SessionKey(s.GetSessionId())
		}
	}
	for _, k := range p.agent.persons.known {
		alias := p.agent.persons.byKey[k.user().Key()]
		user := k.Name
		if k.Domain != "" {
			user = k.Domain + `\` + k.Name
		}
		p.users[string(alias[:])] = user
	}
	at, anchor := p.moment, p.anchor()
	for _, e := range p.monitor.Show(snapshots, plugin.Moment{BootID: at.BootID[:], BootMillis: at.BootMillis, UTCMillis: at.UTCMillis}) {
		switch key := string(e.GetInstanceId()); e.GetKind() {
		case pluginv1.EventKind_EVENT_KIND_OPENED:
			if p.instances[key] == nil { // else another program has taken over
				p.instances[key] = &opening{event: e, anchor: anchor, told: map[place]told{}}
			}
		case pluginv1.EventKind_EVENT_KIND_CLOSED:
			p.closed = append(p.closed, key)
		default:
		}
	}
	for len(p.closed) > rememberedInstances {
		delete(p.instances, p.closed[0])
		p.closed = p.closed[1:]
	}
}

// anchor places the moment.
func (p *plugins) anchor() *usagev1.Anchor {
	at := p.moment
	anchor := &usagev1.Anchor{BootId: at.BootID[:], BootMillis: at.BootMillis, UtcMillis: at.UTCMillis, ZoneOffsetSeconds: at.ZoneOffsetSeconds}
	anchor.AnchorId = contract.AnchorID(anchor)
	return anchor
}

// showWindows takes the windows of sessions in which they changed, after shown has told
// of the instances that they belong to.
func (p *plugins) showWindows(sessions []activity.SessionWindows) {
	if p.host.Load() == nil || p.projects == nil {
		return
	}
	for _, s := range sessions {
		p.projects.Show(s)
	}
}

// now is the boot time of the last observation.
func (p *plugins) now() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moment.BootMillis
}

// see remembers the moment, and the processes of each session where a launch may have to
// be held.
func (p *plugins) see(o activity.Observation) {
	if p.host.Load() == nil {
		if !p.failed() && p.releases.any() {
			p.configure(p.agent.inForce())
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moment = o
	p.moment.Sessions = nil
	if p.matcher == nil {
		clear(p.processes)
		clear(p.owners)
		return
	}
	there := make(map[string]bool, len(o.Sessions))
	for _, s := range o.Sessions {
		there[s.Key] = true
		p.owners[s.Key] = s.User
		if !s.SameProcesses {
			p.processes[s.Key] = slices.Clone(s.Processes)
		}
	}
	maps.DeleteFunc(p.processes, func(key string, _ []activity.Process) bool { return !there[key] })
	maps.DeleteFunc(p.owners, func(key string, _ activity.User) bool { return !there[key] })
}

// failed tells whether there is no host though one is wanted.
func (p *plugins) failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble != ""
}

// isBuiltIn tells whether a name is that of a part of the agent.
func (p *plugins) isBuiltIn(name string) bool { return name == plugin.MonitorName || name == e2p.Name }

// chosen names the project of each open instance that has one, and of each document, whose
// id stands behind the instance's.
func (p *plugins) chosen(policy *policyv1.Policy) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names, since := map[string]string{}, map[string]int64{}
	for instance, opened := range p.instances {
		for at, told := range opened.told {
			key := instance + at.document
			if _, there := names[key]; there && at.since < since[key] {
				continue
			}
			names[key], since[key] = projectOf(told.choice, policy), at.since
		}
	}
	return names
}

// projectOf names what was chosen, for people.
func projectOf(choice *usagev1.Choice, policy *policyv1.Policy) string {
	switch said := choice.GetChosen().(type) {
	case *usagev1.Choice_NotChargeable:
		return "not chargeable"
	case *usagev1.Choice_Proposed:
		fields := said.Proposed.GetFields()
		words := make([]string, 0, len(fields))
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			words = append(words, fields[key])
		}
		return "proposed: " + strings.Join(words, ", ")
	case *usagev1.Choice_ProjectId:
		for _, project := range policy.GetExpenseToProject().GetProjects() {
			if bytes.Equal(project.GetProjectId(), said.ProjectId) {
				return project.GetLabel()
			}
		}
	}
	return ""
}

func (p *plugins) user(alias []byte) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.users[string(alias)]
}

// tell takes a fact of a plug-in.
func (p *plugins) tell(ctx context.Context, name string, report *pluginv1.ReportResponse) error {
	choice := report.GetChoice()
	if choice == nil {
		p.log.DebugContext(ctx, "a fact of a plug-in goes no further yet", "plugin", name)
		return nil
	}
	if len(choice.GetDocumentId()) > 0 && name != e2p.Name {
		return fmt.Errorf("agent: the choice of %s is not kept: it names a document, and programs are told of none", name)
	}
	if err := p.keep(ctx, choice); err != nil {
		return fmt.Errorf("agent: the choice of %s is not kept: %w", name, err)
	}
	p.agent.uplink.Appended()
	return nil
}

// keep journals a choice. The instance that it names must have been seen to open.
func (p *plugins) keep(ctx context.Context, said *pluginv1.Choice) error {
	p.keeping.Lock()
	defer p.keeping.Unlock()
	at := place{string(said.GetDocumentId()), said.GetEffectiveFromBootMillis()}
	p.mu.Lock()
	opened := p.instances[string(said.GetInstanceId())]
	if opened == nil {
		p.mu.Unlock()
		return errors.New("it names an instance that this agent did not see open")
	}
	of, anchor, before := opened.event, opened.anchor, opened.told[at]
	switch {
	case before.choice != nil:
		anchor = before.anchor
	case at.since > 0:
		anchor = p.anchor()
	}
	p.mu.Unlock()
	id := p.agent.newChoiceID()
	choice := &usagev1.Choice{
		SchemaVersion: 1, ChoiceId: id, SourceKind: usagev1.SourceKind_SOURCE_KIND_AGENT,
		BootId: of.GetBootId(), AnchorId: anchor.GetAnchorId(), ApplicationId: of.GetApplicationId(), PrincipalAlias: of.GetPrincipalAlias(),
		SessionId: of.GetSessionId(), InstanceId: of.GetInstanceId(), DocumentId: said.GetDocumentId(),
		// The opening was placed by another anchor, so it may differ by what clocks may
		// drift between two: the choice covers the instance's first moment all the same.
		EffectiveFromBootMillis: cmp.Or(max(0, said.GetEffectiveFromBootMillis()), max(0, of.GetAtBootMillis()-activity.DriftFloor)),
		Revision:                1, Fields: said.GetFields(), WorkerId: said.GetWorkerId(), AssignmentRuleId: said.GetAssignmentRuleId(),
	}
	if before.choice != nil {
		choice.ChoiceId, choice.Revision = before.choice.GetChoiceId(), before.choice.GetRevision()+1
	}
	switch chosen := said.GetChosen().(type) {
	case *pluginv1.Choice_ProjectId:
		choice.Chosen = &usagev1.Choice_ProjectId{ProjectId: chosen.ProjectId}
	case *pluginv1.Choice_Proposed:
		choice.Chosen = &usagev1.Choice_Proposed{Proposed: chosen.Proposed}
	case *pluginv1.Choice_NotChargeable:
		choice.Chosen = &usagev1.Choice_NotChargeable{NotChargeable: true}
	default:
		return errors.New("nothing is chosen")
	}
	if err := checkChoice(choice); err != nil {
		return err
	}
	if err := p.choices.opened.Load().Append(ctx, journal.Batch{Choices: []*usagev1.Choice{choice}, Anchors: []*usagev1.Anchor{anchor}}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(opened.told) >= rememberedPlaces {
		clear(opened.told)
	}
	opened.told[at] = told{choice, anchor}
	return nil
}

// checkChoice refuses what a reader would set aside.
func checkChoice(c *usagev1.Choice) error {
	for what, id := range map[string][]byte{"project": c.GetProjectId(), "worker": c.GetWorkerId(), "rule": c.GetAssignmentRuleId(), "document": c.GetDocumentId()} {
		if _, isProject := c.GetChosen().(*usagev1.Choice_ProjectId); len(id) == 0 && (what != "project" || !isProject) {
			continue
		}
		if len(id) != len(contract.ID{}) {
			return fmt.Errorf("the id of its %s has %d bytes", what, len(id))
		}
	}
	if len(c.GetFields()) > 8 || len(c.GetProposed().GetFields()) > 8 {
		return errors.New("it has more than 8 fields")
	}
	if proto.Size(c) > 32<<10 {
		return errors.New("it is too long")
	}
	return nil
}

// newChoiceID is a UUIDv7.
func (a *Agent) newChoiceID() []byte {
	id := make([]byte, 16)
	if _, err := a.deps.Random.Read(id[6:]); err != nil {
		panic("agent: the source of randomness failed: " + err.Error())
	}
	a.mu.Lock()
	millis := a.utcNow()
	a.mu.Unlock()
	for i := range 6 {
		id[i] = byte(millis >> (8 * (5 - i)))
	}
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// ask shows a question in a process of its own.
func (p *plugins) ask(ctx context.Context, sessionID []byte, request prompt.Request) (prompt.Answer, error) {
	p.mu.Lock()
	session, known := p.sessions[string(sessionID)]
	p.mu.Unlock()
	if !known {
		return prompt.Answer{}, e2p.ErrSessionEnded
	}
	return prompt.Ask(ctx, p.config.Prompt(session), request)
}

// hold stops the programs of an instance that has just opened, in its session, until
// release is called.
func (p *plugins) hold(e *pluginv1.Event) (release func()) {
	return p.waiting.hold(p.programs(e))
}

// programs name the processes that an event's instance has just opened with, and whose the
// session is.
func (p *plugins) programs(e *pluginv1.Event) (boot contract.ID, owner activity.User, keys []activity.ProcessKey) {
	for _, process := range p.processesOf(e) {
		keys = append(keys, process.Key())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moment.BootID, p.owners[p.sessions[string(e.GetSessionId())]], keys
}

// processesOf are the processes that an event's instance has just opened with.
func (p *plugins) processesOf(e *pluginv1.Event) (all []activity.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	session, known := p.sessions[string(e.GetSessionId())]
	if p.matcher == nil || !known {
		return nil
	}
	for _, process := range p.processes[session] {
		match, matched := p.matcher.Match(rules.Program{Executable: process.Executable, Path: process.Path, Package: process.Package})
		if matched && string(match.Application.ID[:]) == string(e.GetApplicationId()) && process.StartMillis >= e.GetAtBootMillis()-activity.DriftFloor {
			all = append(all, process)
		}
	}
	return all
}

// files are the whole paths that an instance has just been started with.
func (p *plugins) files(e *pluginv1.Event) (paths []string) {
	if p.agent.deps.Evidence == nil {
		return nil
	}
	for _, process := range p.processesOf(e) {
		paths = append(paths, p.agent.deps.Evidence.CommandLine(process)...)
	}
	return paths
}

// PluginStatus is how one plug-in is doing.
type PluginStatus struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"`
	State    string `json:"state"`
	Message  string `json:"message,omitempty"`
	Restarts uint32 `json:"restarts"`
	BuiltIn  bool   `json:"built_in"`
	// Release is how the agent stands with releases of it; nil where it was offered none.
	Release *PluginReleaseStatus `json:"release,omitempty"`
}

// PluginReleaseStatus is how an agent stands with releases of one plug-in.
type PluginReleaseStatus struct {
	// Number of the release that runs; 0: none of a Manager does.
	Number uint64 `json:"number"`
	// State is current, fetching, trial or refused; Target is the release that it is about.
	State   string `json:"state"`
	Target  uint64 `json:"target,omitempty"`
	Message string `json:"message,omitempty"`
}

func (p *plugins) status() (all []PluginStatus) {
	for _, h := range p.health() {
		all = append(all, PluginStatus{
			Name: h.GetName(), Version: h.GetVersion(), State: strings.ToLower(strings.TrimPrefix(h.GetState().String(), "PLUGIN_STATE_")),
			Message: h.GetMessage(), Restarts: h.GetRestarts(), BuiltIn: h.GetBuiltIn(),
		})
	}
	for _, r := range p.releases.said().GetPlugins() {
		i := slices.IndexFunc(all, func(s PluginStatus) bool { return s.Name == r.GetName() })
		if i < 0 {
			i = len(all)
			all = append(all, PluginStatus{Name: r.GetName(), State: "not running"})
		}
		all[i].Release = &PluginReleaseStatus{
			Number: r.GetNumber(), State: strings.ToLower(strings.TrimPrefix(r.GetState().String(), "RELEASE_STATE_")),
			Target: r.GetTarget(), Message: r.GetMessage(),
		}
	}
	return all
}
