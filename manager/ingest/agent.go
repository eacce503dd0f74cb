package ingest

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Document names that an agent's live snapshots may need.
const maxDocuments = 256

// What one agent may make the Manager, and those who read the log, remember.
const (
	maxLivePerAgent = 1000
	// Agents claim 90 s and renew after 30.
	maxLiveValid = 5 * time.Minute
	// An epoch is for ever to a reader.
	maxNewEpochs    = 60
	newEpochsPeriod = time.Hour
)

// agent is what is remembered of one agent over its connections.
type agent struct {
	id        contract.ID
	connected int        // guarded by Server.mu
	left      time.Time  // when it last disconnected; guarded by Server.mu
	sessions  []*session // connected ones, but for bequests; guarded by Server.mu

	mu        sync.Mutex
	epochs    []*known // the newest last
	refusals  []uint64 // epochs with two contents, as the platform tells
	begun     int      // epochs, since
	since     time.Time
	documents map[contract.ID]*usagev1.SealedName
	sightings *usagev1.SightingReport // its last one, not changed any more
	info      AgentInfo
	// refusedAt and copiedAt are when the last of info's refusals, and its copy, were.
	refusedAt, copiedAt time.Time
	health              *agentv1.Health // its last words, not changed any more
	seen                time.Time       // when it was last heard
	// untold: the platform does not know the last; renewed: of its figures only. told is
	// when it was last told, and toldConnected what.
	untold, renewed, toldConnected bool
	told                           time.Time
}

// AgentInfo is how one agent is doing.
type AgentInfo struct {
	AgentID         contract.ID
	MachineID       contract.ID
	HostName        string
	OperatingSystem string
	Version         string
	Connected       bool
	ConnectedSince  time.Time
	LastFrame       time.Time
	// SkewMillis is the agent's UTC clock less the Manager's, as last seen.
	SkewMillis int64
	Frames     uint64
	Records    uint64
	// Refused counts what was refused of it until a day passed without, or somebody
	// acknowledged it.
	Refused        uint64
	LastRefusal    string
	PolicyRevision uint64
	// JournalBytes, Unacknowledged, Unsupported and Paused are the agent's words.
	JournalBytes   uint64
	Unacknowledged uint64
	Unsupported    []string
	Paused         bool
	// Plugins are how its plug-ins are doing.
	Plugins []*agentv1.PluginHealth
	// ManagerProblem is why it could not speak to a Manager that it prefers, or cannot use its token.
	ManagerProblem string
	// PolicyProblem is why the last policy is not in force there.
	PolicyProblem string
	// Copied says that two machines were connected under its id at once, and which; empty
	// where none were.
	Copied string
	// Release is how it stands with its releases; nil where it takes none.
	Release *agentv1.ReleaseReport
	// PluginReleases are how it stands with releases of plug-ins; nil where it takes none.
	PluginReleases *agentv1.PluginReleases
}

// troubleLife is how long a refusal or a copy is shown that nobody acknowledges and that
// does not happen again.
const troubleLife = 24 * time.Hour

// LiveSession is what one desktop session was doing when it was last heard of.
type LiveSession struct {
	Snapshot *usagev1.LiveSnapshot
	Received time.Time
}

func (a *agent) judge(f *frame) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.refusals, f.epoch) {
		return contradicted
	}
	for _, k := range a.epochs {
		if k.epoch == f.epoch {
			return k.judge(f)
		}
	}
	return unknown
}

// RefuseEpoch has an agent begin a new epoch when it next sends something in this one,
// because other records came under its numbers than this Manager knows of: the platform
// has seen two contents.
func (s *Server) RefuseEpoch(id contract.ID, epoch uint64) {
	s.mu.Lock()
	a := s.agents[id]
	s.mu.Unlock()
	if a == nil {
		return // of another Manager, or told again with the next frame
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.refusals, epoch) {
		return
	}
	if len(a.refusals) >= maxEpochs {
		a.refusals = slices.Delete(a.refusals, 0, 1)
	}
	a.refusals = append(a.refusals, epoch)
	s.log.Warn("the platform has two contents under one number: the agent is told to begin a new epoch", "agent", id, "epoch", epoch)
}

// mayBegin tells whether the agent may go on in an epoch, or begin it.
func (a *agent) mayBegin(epoch uint64, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.ContainsFunc(a.epochs, func(k *known) bool { return k.epoch == epoch }) {
		return true
	}
	if now.Sub(a.since) > newEpochsPeriod {
		a.begun, a.since = 0, now
	}
	if a.begun >= maxNewEpochs {
		return false
	}
	a.begun++
	a.remember(epoch)
	return true
}

// remember is what is known of an epoch, which becomes the newest.
func (a *agent) remember(epoch uint64) *known {
	if i := slices.IndexFunc(a.epochs, func(k *known) bool { return k.epoch == epoch }); i >= 0 {
		k := a.epochs[i]
		a.epochs = append(slices.Delete(a.epochs, i, i+1), k)
		return k
	}
	if len(a.epochs) >= maxEpochs {
		a.epochs = slices.Delete(a.epochs, 0, 1)
	}
	k := &known{epoch: epoch}
	a.epochs = append(a.epochs, k)
	return k
}

func (a *agent) durable(epoch, first, last uint64, link contract.Hash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remember(epoch).add(first, last, link)
}

func (a *agent) greet(hello *agentv1.Hello, machine contract.ID, skewMillis int64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.info.AgentID, a.info.MachineID = a.id, machine
	a.info.HostName, a.info.OperatingSystem, a.info.Version = hello.GetHostName(), hello.GetOperatingSystem(), hello.GetAgentVersion()
	a.info.PolicyRevision = hello.GetPolicyRevision()
	a.info.SkewMillis, a.info.ConnectedSince = skewMillis, now
	a.seen, a.untold = now, true
}

// reported takes in a report of health, which is not changed any more.
func (a *agent) reported(h *agentv1.Health, skewMillis int64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.renewed = true; !sameWords(a.health, h) {
		a.untold = true
	}
	a.health, a.seen = h, now
	a.info.SkewMillis = skewMillis
	a.info.Plugins, a.info.ManagerProblem, a.info.PolicyProblem = h.GetPlugins(), h.GetManagerProblem(), h.GetPolicyProblem()
	a.info.JournalBytes, a.info.Unacknowledged = h.GetJournalBytes(), h.GetUnacknowledgedRecords()
	a.info.PolicyRevision = h.GetAppliedPolicyRevision()
	a.info.Unsupported, a.info.Paused = h.GetUnsupported(), h.GetPaused()
}

// stands notes how the agent stands with its releases. The report is not changed any more.
func (a *agent) stands(r *agentv1.ReleaseReport) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.info.Release = r
}

// standsWithPlugins is the same for releases of plug-ins.
func (a *agent) standsWithPlugins(p *agentv1.PluginReleases) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.info.PluginReleases = p
}

func (a *agent) releases() (*agentv1.ReleaseReport, *agentv1.PluginReleases) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.info.Release, a.info.PluginReleases
}

func (a *agent) took(records int, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.info.Frames++
	a.info.Records += uint64(records)
	a.info.LastFrame, a.seen = now, now
}

func (a *agent) refused(reason string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.info.Refused++
	a.info.LastRefusal, a.refusedAt = reason, now
	a.untold = true
}

// copied notes that two machines are this agent.
func (a *agent) copied(which string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.info.Copied, a.copiedAt, a.untold = which, now, true
}

// forgive forgets what was refused of the agent and that it was copied, where the last of
// it was before then. It is called with the lock held.
func (a *agent) forgive(then time.Time) {
	if a.info.Refused > 0 && a.refusedAt.Before(then) {
		a.info.Refused, a.info.LastRefusal, a.untold = 0, "", true
	}
	if a.info.Copied != "" && a.copiedAt.Before(then) {
		a.info.Copied, a.untold = "", true
	}
}

// Forgive forgets refusals and copies of all agents: somebody has looked at them.
func (s *Server) Forgive() {
	then := s.config.Now().Add(time.Nanosecond)
	for _, a := range s.all() {
		a.mu.Lock()
		a.forgive(then)
		a.mu.Unlock()
	}
}

func (a *agent) named(document contract.ID, name *usagev1.SealedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.documents == nil || len(a.documents) >= maxDocuments {
		a.documents = make(map[contract.ID]*usagev1.SealedName)
	}
	a.documents[document] = name
}

// namesOf are the names of the documents that a snapshot shows.
func (a *agent) namesOf(snapshot *usagev1.LiveSnapshot) []*usagev1.SealedName {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []*usagev1.SealedName
	for _, open := range snapshot.GetOpen() {
		if id, err := contract.IDFrom(open.GetDocumentId()); err == nil && a.documents[id] != nil {
			names = append(names, a.documents[id])
		}
	}
	return names
}

func (s *Server) publish(subject string, m proto.Message) {
	raw, err := proto.Marshal(m)
	if err == nil && s.deps.Publish(subject, raw) {
		s.counts.live.Add(1)
		return
	}
	s.counts.liveDropped.Add(1)
}

// Agents tells how each agent is doing that was heard of since the start.
func (s *Server) Agents() []AgentInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]AgentInfo, 0, len(s.agents))
	for _, a := range s.agents {
		a.mu.Lock()
		a.forgive(s.config.Now().Add(-troubleLife))
		info := a.info
		a.mu.Unlock()
		info.Connected = a.connected > 0
		out = append(out, info)
	}
	return out
}

// Live tells what each desktop session was doing when it was last heard of.
func (s *Server) Live() []LiveSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]LiveSession, 0, len(s.live))
	for _, l := range s.live {
		out = append(out, LiveSession{Snapshot: proto.CloneOf(l.Snapshot), Received: l.Received})
	}
	return out
}

// keepLive keeps a snapshot, unless its agent shows too many sessions.
func (s *Server) keepLive(a *agent, session contract.ID, snapshot *usagev1.LiveSnapshot, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := liveKey{a.id, session}
	_, known := s.live[key]
	switch {
	case snapshot.GetEnded():
		if known {
			s.forgetLive(key)
		}
		return true
	case !known && s.liveOf[a.id] >= maxLivePerAgent:
		return false
	case !known:
		s.liveOf[a.id]++
	}
	s.live[key] = LiveSession{Snapshot: snapshot, Received: now}
	return true
}

func (s *Server) forgetLive(key liveKey) {
	delete(s.live, key)
	if s.liveOf[key.agent]--; s.liveOf[key.agent] == 0 {
		delete(s.liveOf, key.agent)
	}
}

func (s *Server) forgetStaleLive() {
	now := s.config.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.live {
		valid := min(l.Snapshot.GetValidMillis(), maxLiveValid.Milliseconds())
		if now.Sub(l.Received) > time.Duration(valid)*time.Millisecond {
			s.forgetLive(key)
		}
	}
}
