package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cetrus/cetrus/agent/plugin"
	"github.com/cetrus/cetrus/agent/release"
	"github.com/cetrus/cetrus/agent/uplink"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	signing "github.com/cetrus/cetrus/proto/release"
)

// PluginReleasesConfig lets an agent take releases of plug-ins from its Manager.
type PluginReleasesConfig struct {
	// Keys are those whose releases are taken.
	Keys signing.Keys
	// System and Architecture of this machine, as in a manifest.
	System, Architecture string
	// BytesPerSecond bounds fetching; 0: DefaultReleaseBytesPerSecond.
	BytesPerSecond int64
}

const (
	// pluginReleasesDir lies in the folder of plug-ins; each name has a folder there.
	pluginReleasesDir = "releases"
	// maxPluginReleases is of how many plug-ins releases are kept, and told.
	maxPluginReleases = 64
)

// pluginReleases are the releases of plug-ins that came from Managers. Each plug-in has a
// store of its own, which knows what runs, what is on trial and what was refused, as the
// agent's own releases have; here the host of plug-ins is the guardian. A nil one takes none.
type pluginReleases struct {
	plugins *plugins
	config  PluginReleasesConfig
	dir     string
	tried   chan triedProgram

	// working is held by whoever changes what runs, which may wait for a plug-in to stop.
	working sync.Mutex

	mu      sync.Mutex // guards the stores, each of which is opened once, and what is told
	stores  map[string]*release.Store
	reports map[string]*agentv1.ReleaseReport
}

// triedProgram is how a program on trial did.
type triedProgram struct {
	entry plugin.Entry
	err   error
}

// openReleases reads what an earlier run has kept.
func (p *plugins) openReleases(config PluginReleasesConfig) error {
	r := &pluginReleases{
		plugins: p, config: config, dir: filepath.Join(p.agent.config.DataDir, pluginsDir, pluginReleasesDir),
		tried: make(chan triedProgram), stores: map[string]*release.Store{}, reports: map[string]*agentv1.ReleaseReport{},
	}
	r.config.BytesPerSecond = cmp.Or(config.BytesPerSecond, DefaultReleaseBytesPerSecond)
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("agent: releases of plug-ins: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && plugin.IsName(e.Name()) && len(r.stores) < maxPluginReleases {
			if _, err := r.store(e.Name()); err != nil {
				return err
			}
		}
	}
	p.releases = r
	return nil
}

// store is that of a plug-in, which is made where there is none.
func (r *pluginReleases) store(name string) (*release.Store, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.stores[name]; s != nil {
		return s, nil
	}
	if len(r.stores) >= maxPluginReleases {
		return nil, fmt.Errorf("agent: there are releases of %d plug-ins already; no more are taken", len(r.stores))
	}
	disk, err := release.Dir(filepath.Join(r.dir, name))
	if err != nil {
		return nil, err
	}
	s, trouble, err := release.Open(release.Config{Keys: r.config.Keys, Name: name, System: r.config.System, Architecture: r.config.Architecture}, disk)
	if err != nil {
		return nil, err
	}
	if trouble != nil {
		r.plugins.log.Error("releases of a plug-in that were fetched are lost", "plugin", name, "reason", trouble)
	}
	r.stores[name] = s
	r.tell(name, s)
	return s, nil
}

// tell says how the plug-in's releases stand, when nothing of them is under way. It is
// called with mu held.
func (r *pluginReleases) tell(name string, s *release.Store) {
	refused, reason := s.Refused()
	report := &agentv1.ReleaseReport{Name: name, Number: s.Number(), Refused: refused, State: agentv1.ReleaseState_RELEASE_STATE_CURRENT}
	if refused > report.GetNumber() {
		report.State, report.Target, report.Message = agentv1.ReleaseState_RELEASE_STATE_REFUSED, refused, shortened(reason)
	}
	if m, there := s.Trial(); there {
		report.Number, report.State, report.Target, report.Message = m.Number, agentv1.ReleaseState_RELEASE_STATE_TRIAL, m.Number, ""
	}
	r.reports[name] = report
}

// any tells whether there are releases to run.
func (r *pluginReleases) any() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.stores {
		if _, tried := s.Trial(); tried || s.Number() > 0 {
			return true
		}
	}
	return false
}

// said is what the Manager is told; nil where no releases are taken.
func (r *pluginReleases) said() *agentv1.PluginReleases {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	said := &agentv1.PluginReleases{System: r.config.System, Architecture: r.config.Architecture}
	for _, name := range slices.Sorted(maps.Keys(r.reports)) {
		said.Plugins = append(said.Plugins, r.reports[name]) // replaced, never changed
	}
	return said
}

func (r *pluginReleases) say(report *agentv1.ReleaseReport) {
	r.mu.Lock()
	if before := r.reports[report.GetName()]; before != nil {
		report.Number, report.Refused = before.GetNumber(), before.GetRefused()
	} else if len(r.reports) >= maxPluginReleases {
		r.mu.Unlock()
		return
	}
	r.reports[report.GetName()] = report
	r.mu.Unlock()
	r.plugins.agent.uplink.ShowHealth()
}

// runAll has the host run what is to run. It is called before the host runs.
func (r *pluginReleases) runAll(host *plugin.Host) {
	if r == nil {
		return
	}
	r.working.Lock()
	defer r.working.Unlock()
	r.mu.Lock()
	names := slices.Sorted(maps.Keys(r.stores))
	r.mu.Unlock()
	for _, name := range names {
		r.run(name, host)
	}
}

// run has the host run what the store of a plug-in says: the release on trial, the one
// before, or what the folder of plug-ins has of that name. It is called with working held.
func (r *pluginReleases) run(name string, host *plugin.Host) {
	r.mu.Lock()
	s := r.stores[name]
	plan, err := s.Next()
	if tidyErr := s.Tidy(); err == nil && tidyErr != nil {
		r.plugins.log.Warn("programs of a plug-in that nobody needs are still there", "plugin", name, "reason", tidyErr)
	}
	r.tell(name, s)
	r.mu.Unlock()
	if err != nil {
		r.plugins.log.Error("what is to run of a plug-in cannot be decided; what runs goes on", "plugin", name, "reason", err)
		return
	}
	if plan.Trouble != "" {
		r.plugins.log.Error("a release of a plug-in does not run", "plugin", name, "reason", plan.Trouble)
	}
	var program *plugin.Program
	if plan.Program != "" {
		sum := plan.Manifest.SHA256
		program = &plugin.Program{Entry: plugin.Entry{Name: name, File: sum, SHA256: sum}, Dir: filepath.Dir(plan.Program), Trial: plan.Trial}
	}
	if err := host.Replace(name, program); err != nil {
		r.plugins.log.Error("a release of a plug-in does not run", "plugin", name, "reason", err)
	}
}

// judge takes in how trials went, until ctx ends.
func (r *pluginReleases) judge(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-r.tried:
			r.judged(t)
		}
	}
}

func (r *pluginReleases) judged(t triedProgram) {
	r.working.Lock()
	defer r.working.Unlock()
	r.mu.Lock()
	s := r.stores[t.entry.Name]
	var m signing.Manifest
	there := s != nil
	if there {
		m, there = s.Trial()
	}
	if !there || m.SHA256 != t.entry.SHA256 {
		r.mu.Unlock()
		return // another one is on trial by now
	}
	var err error
	if t.err == nil {
		err = errors.Join(s.Confirm(), s.Tidy())
	} else {
		err = s.Refuse(t.err.Error())
	}
	r.tell(t.entry.Name, s)
	r.mu.Unlock()
	if err != nil {
		r.plugins.log.Error("how the trial of a plug-in went cannot be kept", "release", m, "reason", err)
	}
	if t.err == nil {
		r.plugins.log.Info("a release of a plug-in is well", "release", m)
	} else {
		r.plugins.log.Error("a release of a plug-in is not well; the one before goes on", "release", m, "reason", t.err)
		r.run(t.entry.Name, r.plugins.host.Load())
	}
	r.plugins.agent.uplink.ShowHealth()
}

// close takes back that trials were begun which end with the agent: they have done nothing
// wrong.
func (r *pluginReleases) close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, s := range r.stores {
		if err := s.CutShort(); err != nil {
			r.plugins.log.Error("the trial of a plug-in counts as cut short", "plugin", name, "reason", err)
		}
	}
}

// take fetches what a Manager offers, and has it tried; ctx ends when something else is
// offered, or the connection.
func (r *pluginReleases) take(ctx context.Context, offers []*agentv1.ReleaseOffer, fetch uplink.Fetch) {
	for pause := firstFetchPause; len(offers) > 0; pause = min(2*pause, lastFetchPause) {
		offers = slices.DeleteFunc(slices.Clone(offers), func(offer *agentv1.ReleaseOffer) bool {
			return ctx.Err() != nil || r.takeOne(ctx, offer, fetch)
		})
		if len(offers) > 0 && !sleep(ctx, pause) {
			return
		}
	}
}

// takeOne tells whether there is nothing more to do about an offer.
func (r *pluginReleases) takeOne(ctx context.Context, offer *agentv1.ReleaseOffer, fetch uplink.Fetch) (done bool) {
	log := r.plugins.log
	signed := signing.Signed{Manifest: offer.GetManifest(), KeyID: offer.GetKeyId(), Ed25519: offer.GetSignature()}
	m, err := signed.Open(r.config.Keys)
	var s *release.Store
	if err == nil && (!plugin.IsName(m.Name) || m.Name == signing.AgentName || r.plugins.isBuiltIn(m.Name)) {
		err = fmt.Errorf("agent: %v has no name for a plug-in that is a program", m)
	}
	if err == nil {
		s, err = r.store(m.Name)
	}
	if err == nil {
		r.mu.Lock()
		_, err = s.Judge(signed)
		trial, tried := s.Trial()
		r.mu.Unlock()
		if errors.Is(err, release.ErrRuns) || tried && trial.SHA256 == m.SHA256 {
			return true
		}
	}
	said := &agentv1.ReleaseReport{Name: m.Name, Target: m.Number, SizeBytes: uint64(m.Size)}
	if err != nil {
		log.ErrorContext(ctx, "an offered release of a plug-in is not taken", "reason", err)
		said.Name, said.State, said.Message = cmp.Or(m.Name, claimedName(offer)), agentv1.ReleaseState_RELEASE_STATE_REFUSED, shortened(err.Error())
		r.say(said)
		return true
	}
	f := fetching{store: s, guard: &r.mu, bytesPerSecond: r.config.BytesPerSecond, log: log, say: func(at int64) { r.fetched(m, at) }}
	err = f.run(ctx, signed, m, fetch)
	if ctx.Err() != nil {
		return true // it is offered again on the next connection, and goes on where it was
	}
	if err != nil {
		log.WarnContext(ctx, "a release of a plug-in cannot be fetched", "release", m, "reason", err)
		said.State, said.Message = agentv1.ReleaseState_RELEASE_STATE_FETCHING, shortened(err.Error())
		if errors.As(err, new(*signing.RefusedError)) {
			said.State = agentv1.ReleaseState_RELEASE_STATE_REFUSED // what came is not what was signed
		}
		r.say(said)
		return false
	}
	log.InfoContext(ctx, "a release of a plug-in is fetched and verified", "release", m)
	r.working.Lock()
	defer r.working.Unlock()
	if host := r.plugins.host.Load(); host != nil {
		r.run(m.Name, host)
	}
	// Where no host runs yet, the goroutine that observes makes one.
	r.plugins.agent.deps.Desktop.LookNow()
	r.plugins.agent.uplink.ShowHealth()
	return true
}

// fetched says how far fetching is, unless that has failed before and is tried again: why
// is worth more.
func (r *pluginReleases) fetched(m signing.Manifest, at int64) {
	r.mu.Lock()
	before := r.reports[m.Name]
	r.mu.Unlock()
	if before.GetTarget() != m.Number || before.GetMessage() == "" {
		r.say(&agentv1.ReleaseReport{
			Name: m.Name, State: agentv1.ReleaseState_RELEASE_STATE_FETCHING, Target: m.Number,
			FetchedBytes: uint64(at), SizeBytes: uint64(m.Size),
		})
	}
}

// claimedName is what an offer that nobody trusted has signed says that it is, for people.
func claimedName(offer *agentv1.ReleaseOffer) string {
	var m signing.Manifest
	if json.Unmarshal(offer.GetManifest(), &m) != nil || !plugin.IsName(m.Name) {
		return "unknown"
	}
	return m.Name
}
