package ingest

import (
	"time"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// repeatFor is how long an agent that has gone is spoken for: a machine on holiday is
// still a machine, one that was retired is none.
const repeatFor = 14 * 24 * time.Hour

// saw keeps an agent's sighting report, which replaces the one before, and publishes it.
func (s *Server) saw(a *agent, report *usagev1.SightingReport) {
	report = wanted(report, s.sightingsWanted())
	a.mu.Lock()
	dated(report, a.sightings)
	a.sightings = report
	a.mu.Unlock()
	s.publishSightings(report)
}

// seenProgram is what makes two sightings those of one program.
type seenProgram struct{ executable, class, pack, path string }

func programOf(s *usagev1.Sighting) seenProgram {
	return seenProgram{s.GetExecutable(), s.GetWindowClass(), s.GetPackage(), s.GetPath()}
}

// dated notes in a report since when the agent's reports have held each program.
func dated(report, before *usagev1.SightingReport) {
	since := make(map[seenProgram]int64, len(before.GetSightings()))
	for _, seen := range before.GetSightings() {
		since[programOf(seen)] = seen.GetFirstReceivedUtcMillis()
	}
	for _, seen := range report.GetSightings() {
		first, held := since[programOf(seen)]
		if !held {
			first = report.GetReceivedUtcMillis()
		}
		seen.FirstReceivedUtcMillis = first
	}
}

// RepeatSightings publishes the last sighting report of each agent once more, for a
// platform that has forgotten them or was away when they came. What nobody asks for any
// more, and what agents told that have been gone for repeatFor, is forgotten.
func (s *Server) RepeatSightings() {
	all, now := s.sightingsWanted(), s.config.Now()
	s.mu.Lock()
	var reports []*usagev1.SightingReport
	for _, a := range s.agents {
		a.mu.Lock()
		switch {
		case a.sightings == nil:
		case a.connected == 0 && now.Sub(a.left) > repeatFor:
			a.sightings = nil
		default:
			a.sightings = wanted(a.sightings, all)
			reports = append(reports, a.sightings)
		}
		a.mu.Unlock()
	}
	s.mu.Unlock()
	for _, r := range reports {
		s.publishSightings(r)
	}
}

// sightingsWanted tells whether the policy asks for programs that no application claims.
func (s *Server) sightingsWanted() bool {
	policy, _ := s.deps.Policies.Current()
	return policy.GetSightingsWanted()
}

// wanted is what is wanted of a report, which stays as it is: all of it, or what an
// application claims.
func wanted(report *usagev1.SightingReport, all bool) *usagev1.SightingReport {
	if all {
		return report
	}
	claimed := &usagev1.SightingReport{AgentId: report.GetAgentId(), ReceivedUtcMillis: report.GetReceivedUtcMillis()}
	for _, seen := range report.GetSightings() {
		if len(seen.GetRuleId()) > 0 {
			claimed.Sightings = append(claimed.Sightings, seen)
		}
	}
	return claimed
}

func (s *Server) publishSightings(report *usagev1.SightingReport) {
	s.publish(contract.SightingSubject(s.config.AccountID, s.config.ManagerID), report)
}
