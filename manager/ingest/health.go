package ingest

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// tellPeriod is how often the platform is told of agents that have something new.
	tellPeriod = time.Second
	// renewPeriod is how often an agent of which nothing but its figures has changed is
	// told of again.
	renewPeriod = time.Minute
	// catchUpPeriod is the same while it sends what it recorded earlier.
	catchUpPeriod = 5 * time.Second
	// tellStatePeriod is how often it is told how the Manager itself is doing.
	tellStatePeriod = 10 * time.Second
	// stateBytesAtOnce is from how many bytes on a message takes no further state: with the
	// last one, as large as its bounds allow, it is still less than any server takes, so
	// that a wordy agent keeps nobody from being told of.
	stateBytesAtOnce = 256 << 10

	// What is kept of an agent's words.
	maxUnsupported, maxUnsupportedText = 32, 255
	maxPlugins, maxPluginText          = 64, 255
)

// bounded cuts a report down to what is kept of it: agents write what they like.
func bounded(h *agentv1.Health) {
	h.Unsupported = h.GetUnsupported()[:min(len(h.GetUnsupported()), maxUnsupported)]
	for i, text := range h.GetUnsupported() {
		h.Unsupported[i] = shorten(text, maxUnsupportedText)
	}
	h.Plugins = h.GetPlugins()[:min(len(h.GetPlugins()), maxPlugins)]
	for _, p := range h.GetPlugins() {
		p.Name, p.Version, p.Message = shorten(p.GetName(), maxPluginText), shorten(p.GetVersion(), maxPluginText), shorten(p.GetMessage(), maxPluginText)
	}
	h.ManagerProblem = shorten(h.GetManagerProblem(), 1024)
	h.PolicyProblem = shorten(h.GetPolicyProblem(), 1024)
	boundedRelease(h.GetRelease())
	boundedPlugins(h.GetPluginReleases())
	if b := h.GetBacklog(); b.GetTimeMillis() < 0 || b.GetSentMillis() < 0 {
		h.Backlog = nil
	}
}

func boundedRelease(r *agentv1.ReleaseReport) *agentv1.ReleaseReport {
	if r != nil {
		r.System, r.Architecture, r.Message = shorten(r.GetSystem(), 32), shorten(r.GetArchitecture(), 32), shorten(r.GetMessage(), 1024)
		r.Name = shorten(r.GetName(), 64)
	}
	return r
}

func boundedPlugins(p *agentv1.PluginReleases) *agentv1.PluginReleases {
	if p != nil {
		p.System, p.Architecture = shorten(p.GetSystem(), 32), shorten(p.GetArchitecture(), 32)
		p.Plugins = p.GetPlugins()[:min(len(p.GetPlugins()), maxPlugins)]
		for _, r := range p.GetPlugins() {
			boundedRelease(r).Message = shorten(r.GetMessage(), maxPluginText)
		}
	}
	return p
}

// sameWords tells whether two reports differ in figures only.
func sameWords(a, b *agentv1.Health) bool {
	if a == nil || b == nil {
		return a == b
	}
	words := func(h *agentv1.Health) *agentv1.Health {
		return &agentv1.Health{
			Unsupported: h.GetUnsupported(), Paused: h.GetPaused(), Plugins: h.GetPlugins(), Release: h.GetRelease(), PluginReleases: h.GetPluginReleases(),
			AppliedPolicyRevision: h.GetAppliedPolicyRevision(), ManagerProblem: h.GetManagerProblem(), PolicyProblem: h.GetPolicyProblem(),
		}
	}
	return proto.Equal(words(a), words(b)) && (a.GetBacklog() == nil) == (b.GetBacklog() == nil)
}

// healthLoop tells the platform how agents are doing, until ctx ends.
func (s *Server) healthLoop(ctx context.Context) {
	tick := time.NewTicker(tellPeriod)
	defer tick.Stop()
	var told time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.tellHealth()
			if now := s.config.Now(); s.asked.Swap(false) || now.Sub(told) >= tellStatePeriod {
				told = now
				s.tellState()
			}
		}
	}
}

// tellState tells how the Manager itself is doing. Where it cannot, the next word will.
func (s *Server) tellState() {
	if s.deps.State == nil {
		return
	}
	raw, err := proto.Marshal(&agentv1.AgentStates{ManagerId: s.config.ManagerID[:], UtcMillis: s.config.Now().UnixMilli(), Manager: s.deps.State()})
	if err == nil {
		s.deps.Publish(contract.HealthSubject(s.config.AccountID, s.config.ManagerID), raw)
	}
}

// RepeatHealth tells of all agents, and of the Manager, soon, for a platform that has forgotten them or was
// away.
func (s *Server) RepeatHealth() {
	s.asked.Store(true)
	for _, a := range s.all() {
		a.mu.Lock()
		a.untold = true
		a.mu.Unlock()
	}
}

func (s *Server) all() []*agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*agent, 0, len(s.agents))
	for _, a := range s.agents {
		list = append(list, a)
	}
	return list
}

// tellHealth tells of those who have something new. What cannot be told is told later.
func (s *Server) tellHealth() {
	now := s.config.Now()
	none := func() *agentv1.AgentStates {
		return &agentv1.AgentStates{ManagerId: s.config.ManagerID[:], UtcMillis: now.UnixMilli()}
	}
	batch, told, size := none(), []*agent(nil), 0
	tell := func() bool {
		if len(told) == 0 {
			return true
		}
		raw, err := proto.Marshal(batch)
		if err == nil && !s.deps.Publish(contract.HealthSubject(s.config.AccountID, s.config.ManagerID), raw) {
			for _, a := range told {
				a.mu.Lock()
				a.untold = true
				a.mu.Unlock()
			}
			return false
		}
		batch, told, size = none(), nil, 0
		return true
	}
	for _, a := range s.all() {
		state := s.stateOf(a, now)
		if state == nil {
			continue
		}
		batch.Agents, told, size = append(batch.GetAgents(), state), append(told, a), size+proto.Size(state)
		if size >= stateBytesAtOnce && !tell() {
			return
		}
	}
	tell()
}

// stateOf is what there is to tell of an agent now; nil where that is nothing.
func (s *Server) stateOf(a *agent, now time.Time) *agentv1.AgentState {
	s.mu.Lock()
	connected := a.connected > 0
	s.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.info.MachineID.IsZero() {
		return nil // it has only ever handed over what another one left
	}
	a.forgive(now.Add(-troubleLife))
	renew := renewPeriod
	if a.health.GetBacklog() != nil {
		renew = catchUpPeriod
	}
	if !a.untold && connected == a.toldConnected && (!a.renewed || now.Sub(a.told) < renew) {
		return nil
	}
	a.untold, a.renewed, a.told, a.toldConnected = false, false, now, connected
	return &agentv1.AgentState{
		AgentId: a.id[:], MachineId: a.info.MachineID[:], HostName: shorten(a.info.HostName, 255),
		OperatingSystem: shorten(a.info.OperatingSystem, 255), AgentVersion: shorten(a.info.Version, 64),
		Connected: connected, SeenUtcMillis: a.seen.UnixMilli(), SkewMillis: a.info.SkewMillis,
		Health: a.health, Refusals: a.info.Refused, LastRefusal: shorten(a.info.LastRefusal, 1024), Copied: a.info.Copied != "",
	}
}
