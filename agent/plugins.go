package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

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
	// Prompt gives the command that shows a question to the person of a session; nil: nobody
	// is asked.
	Prompt func() *exec.Cmd
	// Host tunes the host; its Dir, Keys and StateDir are set by the agent.
	Host plugin.Config
}

// rememberedInstances is how many instances that have closed a choice may still name.
const rememberedInstances = 256

// plugins ties the host of plug-ins to the agent: what is journalled goes to the
// monitor, and choices come back into a journal of their own. A nil one does nothing.
type plugins struct {
	agent   *Agent
	config  *PluginsConfig
	log     *slog.Logger
	host    *plugin.Host
	monitor *plugin.Monitor
	choices *journal.Journal

	mu        sync.Mutex
	moment    activity.Observation // the last one, without its sessions
	instances map[string]opening   // by instance
	closed    []string
	told      map[string]*usagev1.Choice // the last choice of each
	users     map[string]string          // by alias
	matcher   *rules.Matcher             // set where an application holds its launch
	processes map[string][]activity.Process
	held      map[int32]int // pid -> how many hold it
}

// opening is an instance as it was first shown, with the anchor of that moment.
type opening struct {
	event  *pluginv1.Event
	anchor *usagev1.Anchor
}

// openPlugins opens the journal of choices and makes the host, where plug-ins are
// configured.
func (a *Agent) openPlugins() (err error) {
	config := a.config.Plugins
	if config == nil {
		return nil
	}
	p := &plugins{
		agent: a, config: config, log: a.log,
		monitor:   plugin.NewMonitor(a.config.Version),
		instances: map[string]opening{}, told: map[string]*usagev1.Choice{},
		users: map[string]string{}, processes: map[string][]activity.Process{}, held: map[int32]int{},
	}
	if p.choices, err = journal.Open(journal.Config{
		Dir: filepath.Join(a.config.DataDir, choiceDir), Lane: usagev1.Lane_LANE_CHOICE,
		AgentID: a.identity.AgentID, MachineID: a.identity.MachineID,
		Random: a.deps.Random, Sync: a.deps.Sync, Log: a.log,
	}); err != nil {
		return err
	}
	p.releaseLeftOver()
	builtIn := map[string]plugin.Plugin{plugin.MonitorName: p.monitor}
	if config.Prompt != nil {
		builtIn[e2p.Name] = e2p.New(e2p.Deps{Ask: p.ask, User: p.user, Now: p.now, Hold: p.hold, Version: a.config.Version, Log: a.log})
	}
	host := config.Host
	host.Dir, host.Keys, host.StateDir = config.Dir, config.Keys, filepath.Join(a.config.DataDir, pluginsDir)
	p.host = plugin.New(host, plugin.Deps{
		BuiltIn: builtIn, Tell: p.tell, Log: a.log,
		Changed: func() { a.uplink.ShowHealth() },
	})
	a.plugins = p
	return nil
}

func (p *plugins) journals() []*journal.Journal {
	if p == nil {
		return nil
	}
	return []*journal.Journal{p.choices}
}

func (p *plugins) run(ctx context.Context) {
	if p != nil {
		p.host.Run(ctx)
	}
}

func (p *plugins) close() {
	if p == nil {
		return
	}
	if err := p.choices.Close(); err != nil {
		p.log.Error("the journal of choices could not be closed", "reason", err)
	}
}

// backlog is how many choices no Manager has acknowledged.
func (p *plugins) backlog() uint64 {
	if p == nil {
		return 0
	}
	return p.choices.Backlog()
}

func (p *plugins) health() []*agentv1.PluginHealth {
	if p == nil {
		return nil
	}
	return p.host.Health()
}

// configure tells the plug-ins of a policy.
func (p *plugins) configure(policy *policyv1.Policy) {
	if p == nil || policy == nil {
		return
	}
	host := p.agent.deps.Desktop.Host()
	request := &pluginv1.ConfigureRequest{Machine: &pluginv1.Machine{
		MachineId: p.agent.identity.MachineID[:], HostName: host.Name, OperatingSystem: host.OperatingSystem, AgentVersion: p.agent.config.Version,
	}}
	var holding *rules.Matcher
	for _, app := range policy.GetApplications() {
		request.Applications = append(request.Applications, &pluginv1.Application{ApplicationId: app.GetApplicationId(), DisplayName: app.GetDisplayName()})
		if prompt := app.GetProjectPrompt(); prompt.GetEnabled() && prompt.GetHoldsLaunch() && holding == nil {
			var err error
			if holding, err = rules.Compile(policy); err != nil {
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
	p.matcher = holding
	p.mu.Unlock()
	p.host.Configure(request, settings)
}

// shown takes what is shown live at the moment that see was told of. It is called by the
// goroutine that observes.
func (p *plugins) shown(snapshots []*usagev1.LiveSnapshot) {
	if p == nil || len(snapshots) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.agent.persons.known {
		alias := p.agent.persons.byKey[k.user().Key()]
		user := k.Name
		if k.Domain != "" {
			user = k.Domain + `\` + k.Name
		}
		p.users[string(alias[:])] = user
	}
	at := p.moment
	anchor := &usagev1.Anchor{BootId: at.BootID[:], BootMillis: at.BootMillis, UtcMillis: at.UTCMillis, ZoneOffsetSeconds: at.ZoneOffsetSeconds}
	anchor.AnchorId = contract.AnchorID(anchor)
	for _, e := range p.monitor.Show(snapshots, plugin.Moment{BootID: at.BootID[:], BootMillis: at.BootMillis, UTCMillis: at.UTCMillis}) {
		switch key := string(e.GetInstanceId()); e.GetKind() {
		case pluginv1.EventKind_EVENT_KIND_OPENED:
			p.instances[key] = opening{event: e, anchor: anchor}
		case pluginv1.EventKind_EVENT_KIND_CLOSED:
			p.closed = append(p.closed, key)
		default:
		}
	}
	for len(p.closed) > rememberedInstances {
		delete(p.instances, p.closed[0])
		delete(p.told, p.closed[0])
		p.closed = p.closed[1:]
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
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moment = o
	p.moment.Sessions = nil
	if p.matcher == nil {
		clear(p.processes)
		return
	}
	for _, s := range o.Sessions {
		if !s.SameProcesses {
			p.processes[s.Key] = slices.Clone(s.Processes)
		}
	}
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
	if err := p.keep(ctx, choice); err != nil {
		return fmt.Errorf("agent: the choice of %s is not kept: %w", name, err)
	}
	p.agent.uplink.Appended()
	return nil
}

// keep journals a choice. The instance that it names must have been seen to open.
func (p *plugins) keep(ctx context.Context, said *pluginv1.Choice) error {
	key := string(said.GetInstanceId())
	p.mu.Lock()
	defer p.mu.Unlock()
	of, anchor := p.instances[key].event, p.instances[key].anchor
	switch {
	case of == nil:
		return errors.New("it names an instance that this agent did not see open")
	case len(said.GetDocumentId()) > 0:
		return errors.New("it names a document, which is not supported yet")
	}
	id := p.agent.newChoiceID()
	choice := &usagev1.Choice{
		SchemaVersion: 1, ChoiceId: id, SourceKind: usagev1.SourceKind_SOURCE_KIND_AGENT,
		BootId: of.GetBootId(), AnchorId: anchor.GetAnchorId(), ApplicationId: of.GetApplicationId(), PrincipalAlias: of.GetPrincipalAlias(),
		SessionId: of.GetSessionId(), InstanceId: of.GetInstanceId(),
		// The opening was placed by another anchor, so it may differ by what clocks may
		// drift between two: the choice covers the instance's first moment all the same.
		EffectiveFromBootMillis: cmp.Or(max(0, said.GetEffectiveFromBootMillis()), max(0, of.GetAtBootMillis()-activity.DriftFloor)),
		Revision:                1, Fields: said.GetFields(), WorkerId: said.GetWorkerId(), AssignmentRuleId: said.GetAssignmentRuleId(),
	}
	if before := p.told[key]; before != nil {
		choice.ChoiceId, choice.Revision = before.GetChoiceId(), before.GetRevision()+1
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
	if err := p.choices.Append(ctx, journal.Batch{Choices: []*usagev1.Choice{choice}, Anchors: []*usagev1.Anchor{anchor}}); err != nil {
		return err
	}
	p.told[key] = choice
	return nil
}

// checkChoice refuses what a reader would set aside.
func checkChoice(c *usagev1.Choice) error {
	for what, id := range map[string][]byte{"project": c.GetProjectId(), "worker": c.GetWorkerId(), "rule": c.GetAssignmentRuleId()} {
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
func (p *plugins) ask(ctx context.Context, _ []byte, request prompt.Request) (prompt.Answer, error) {
	return prompt.Ask(ctx, p.config.Prompt(), request)
}

// hold stops the programs of an instance that has just opened, until release is
// called.
func (p *plugins) hold(e *pluginv1.Event) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pids []int32
	user := p.users[string(e.GetPrincipalAlias())]
	for _, processes := range p.processes {
		for _, process := range processes {
			if p.matcher == nil || user == "" {
				continue
			}
			match, matched := p.matcher.Match(rules.Program{Executable: process.Executable, Path: process.Path, Package: process.Package})
			if matched && string(match.Application.ID[:]) == string(e.GetApplicationId()) && process.StartMillis >= e.GetAtBootMillis()-activity.DriftFloor {
				pids = append(pids, process.PID)
			}
		}
	}
	for _, pid := range pids {
		p.held[pid]++
	}
	p.saveHeld() // before they stop: a crash must not leave them so
	for _, pid := range pids {
		suspend(pid)
	}
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, pid := range pids {
			if p.held[pid]--; p.held[pid] <= 0 {
				delete(p.held, pid)
				resume(pid)
			}
		}
		p.saveHeld()
	})
}

func (p *plugins) heldPath() string { return filepath.Join(p.agent.config.DataDir, heldFile) }

func (p *plugins) saveHeld() {
	if len(p.held) == 0 {
		_ = os.Remove(p.heldPath())
		return
	}
	text, err := json.Marshal(slices.Sorted(maps.Keys(p.held)))
	if err == nil {
		err = replaceFile(p.heldPath(), text)
	}
	if err != nil {
		p.log.Error("which programs wait is not kept over a crash", "reason", err)
	}
}

// releaseLeftOver lets programs go on that a crashed agent has left waiting.
func (p *plugins) releaseLeftOver() {
	text, err := os.ReadFile(p.heldPath())
	if err != nil {
		return
	}
	var pids []int32
	if err := json.Unmarshal(text, &pids); err != nil {
		p.log.Error("which programs a crash left waiting cannot be read", "file", p.heldPath(), "reason", err)
	}
	for _, pid := range pids {
		resume(pid)
	}
	_ = os.Remove(p.heldPath())
}

// PluginStatus is how one plug-in is doing.
type PluginStatus struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"`
	State    string `json:"state"`
	Message  string `json:"message,omitempty"`
	Restarts uint32 `json:"restarts"`
	BuiltIn  bool   `json:"built_in"`
}

func (p *plugins) status() (all []PluginStatus) {
	for _, h := range p.health() {
		all = append(all, PluginStatus{
			Name: h.GetName(), Version: h.GetVersion(), State: strings.ToLower(strings.TrimPrefix(h.GetState().String(), "PLUGIN_STATE_")),
			Message: h.GetMessage(), Restarts: h.GetRestarts(), BuiltIn: h.GetBuiltIn(),
		})
	}
	return all
}
