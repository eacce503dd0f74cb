package metering

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/nats-io/nats.go"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

const (
	// askEvery is how often Managers are asked to repeat what they have, beside the
	// start; a report that is not renewed for reportLife is forgotten.
	askEvery   = time.Hour
	reportLife = 5 * askEvery / 2
	// maxSightings bounds what is remembered of one account, over all its agents.
	maxSightings = 1_000_000
)

// sightings remember what agents saw, for trying rules on it. Nothing of it is
// stored: Managers have it too, and are asked for it when this process starts.
type sightings struct {
	log      *slog.Logger
	mu       sync.Mutex
	accounts map[contract.ID]*accountSightings
}

type accountSightings struct {
	reports map[contract.ID]*sightingReport // by agent
	size    int                             // sightings in them
	// known are the names in the reports, and those that no report has held for less than
	// reportLife: what stops one evening on the only machine that has it is not new in the
	// morning.
	known map[programName]*acquaintance
}

// programName is what a program is called on every machine: the executable's base name, or where
// that is not known the package's; case does not count.
type programName struct {
	name     string
	packaged bool
}

func nameOf(p rules.Program) programName {
	if base := rules.BaseName(p.Executable); base != "" {
		return programName{name: base}
	}
	return programName{rules.Fold(p.Package), true}
}

// acquaintance is since when a name has been reported, and when a report that held it came here
// last.
type acquaintance struct{ first, heard time.Time }

// sightingReport is the last report of an agent.
type sightingReport struct {
	seen []sighting
	// at is when the Manager had it from the agent, heard when it came here last.
	at, heard time.Time
}

type sighting struct {
	program unique.Handle[rules.Program] // many machines have the same ones
	rule    contract.ID                  // that claims it; zero: none does
}

func newSightings(log *slog.Logger) *sightings {
	return &sightings{log: log, accounts: make(map[contract.ID]*accountSightings)}
}

func (s *sightings) run(ctx context.Context, nc *nats.Conn, aside *aside) error {
	ask := func() {
		if err := nc.Publish(contract.SightingAskSubject, nil); err != nil {
			s.log.Warn("Managers cannot be asked what agents saw", "error", err)
		}
	}
	return listen(ctx, nc, aside, channel{subjects: contract.SightingSubjects, what: "a report of sightings", room: 1024},
		ask, checked(aside, s.take), askEvery, func(now time.Time) { s.expire(now); ask() })
}

// take takes in a report, which replaces the agent's report before.
func (s *sightings) take(account contract.ID, report *usagev1.SightingReport, now time.Time) {
	agent, err := contract.IDFrom(report.GetAgentId())
	if err != nil {
		s.log.Warn("a report of sightings names no agent", "account", account.String(), "error", err)
		return
	}
	received := func(millis int64) time.Time {
		if at := time.UnixMilli(millis); millis > 0 && at.Before(now) {
			return at
		}
		return now
	}
	next := &sightingReport{at: received(report.GetReceivedUtcMillis()), heard: now, seen: make([]sighting, 0, len(report.GetSightings()))}
	for _, m := range report.GetSightings() {
		// A claim without a rule's id is none.
		rule, _ := contract.IDFrom(m.GetRuleId())
		next.seen = append(next.seen, sighting{rule: rule, program: unique.Make(rules.Program{
			Executable: m.GetExecutable(), WindowClass: m.GetWindowClass(), Package: m.GetPackage(), Path: m.GetPath(),
		})})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[account]
	if a == nil {
		a = &accountSightings{reports: make(map[contract.ID]*sightingReport), known: make(map[programName]*acquaintance)}
		s.accounts[account] = a
	}
	if before := a.reports[agent]; before != nil {
		if before.at.After(next.at) {
			return // overtaken on the way, or repeated by a Manager that the agent has left
		}
		a.size -= len(before.seen)
		delete(a.reports, agent)
	}
	if a.size+len(next.seen) > maxSightings {
		s.log.Warn("agents of an account saw too many programs: rules are not tried on one agent's", "account", account.String(), "agent", agent.String(), "limit", maxSightings)
		return
	}
	a.size += len(next.seen)
	a.reports[agent] = next
	for i, seen := range next.seen {
		first := next.at
		if millis := report.GetSightings()[i].GetFirstReceivedUtcMillis(); millis > 0 {
			first = received(millis)
		}
		name := nameOf(seen.program.Value())
		k := a.known[name]
		if k == nil {
			if len(a.known) >= maxSightings {
				continue // an agent that makes up names is no reason to remember them all
			}
			k = &acquaintance{first: first}
			a.known[name] = k
		}
		if k.heard = now; first.Before(k.first) {
			k.first = first
		}
	}
}

func (s *sightings) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for account, a := range s.accounts {
		for agent, r := range a.reports {
			if now.Sub(r.heard) >= reportLife {
				a.size -= len(r.seen)
				delete(a.reports, agent)
			}
		}
		for name, k := range a.known {
			if now.Sub(k.heard) >= reportLife {
				delete(a.known, name)
			}
		}
		if len(a.reports) == 0 {
			delete(s.accounts, account)
		}
	}
}

// seenProgram is a program that agents saw.
type seenProgram struct {
	program  rules.Program
	machines int
	last     time.Time
	// claims counts the machines on which a rule claims it.
	claims map[contract.ID]int
}

// of tells what was seen in an account, in a stable order, and by how many agents.
func (s *sightings) of(account contract.ID) (programs []*seenProgram, agents int) {
	reports := s.reportsOf(account)
	byProgram := make(map[unique.Handle[rules.Program]]*seenProgram)
	for _, r := range reports {
		once := make(map[unique.Handle[rules.Program]]bool, len(r.seen))
		for _, seen := range r.seen {
			p := byProgram[seen.program]
			if p == nil {
				p = &seenProgram{program: seen.program.Value(), claims: make(map[contract.ID]int)}
				byProgram[seen.program] = p
				programs = append(programs, p)
			}
			if !once[seen.program] {
				once[seen.program] = true
				p.machines++
				if r.at.After(p.last) {
					p.last = r.at
				}
			}
			if !seen.rule.IsZero() {
				p.claims[seen.rule]++
			}
		}
	}
	slices.SortFunc(programs, func(a, b *seenProgram) int {
		return cmp.Or(-cmp.Compare(a.machines, b.machines), compareProgram(a.program, b.program))
	})
	return programs, len(reports)
}

func (s *sightings) reportsOf(account contract.ID) (reports []*sightingReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.accounts[account]; a != nil {
		for _, r := range a.reports {
			reports = append(reports, r) // not changed once it is there
		}
	}
	return reports
}

// since tells since when a name has been reported in an account; zero: that is not remembered.
func (s *sightings) since(account contract.ID, name programName) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.accounts[account]; a != nil && a.known[name] != nil {
		return a.known[name].first
	}
	return time.Time{}
}

func compareProgram(a, b rules.Program) int {
	return cmp.Or(strings.Compare(a.Executable, b.Executable), strings.Compare(a.Path, b.Path),
		strings.Compare(a.WindowClass, b.WindowClass), strings.Compare(a.Package, b.Package))
}
