package metering

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// ownProgram is the agent's, which has windows too and is nothing to meter.
const ownProgram = "cetrus-agent"

// claims tell what the account's applications claim: agents learn of a change some seconds after
// it is decided, and tell what follows from it later still.
type claims struct {
	present map[contract.ID]presentRule
	matcher *rules.Matcher
}

// of tells whether an application claims what was seen. Of one that does so by titles only agents
// can know.
func (c claims) of(seen sighting) bool {
	if _, there := c.present[seen.rule]; there {
		return true
	}
	return slices.ContainsFunc(c.matcher.Possible(seen.program.Value()), func(candidate rules.Candidate) bool { return !candidate.Titled })
}

// namesake are the programs of one name, on all machines.
type namesake struct {
	programName
	machines int
	windowed bool
	last     time.Time
	programs []rules.Program
	known    map[unique.Handle[rules.Program]]bool
}

// place is where one stands in the list: the most widespread first, then by name.
func (n *namesake) place() string {
	return fmt.Sprintf("%010d\x1f%s\x1f%t", math.MaxInt32-n.machines, n.name, n.packaged)
}

// unclaimed lists by name what agents saw and no application claims. A program of which an
// application claims any window on a machine is not counted there: it is metered, if not all of it.
func (s *sightings) unclaimed(account contract.ID, c claims) (list []*namesake, agents int) {
	byName := make(map[programName]*namesake)
	claimed := make(map[sighting]bool) // most machines have the same ones
	reports := s.reportsOf(account)
	for _, r := range reports {
		here, metered := make(map[programName][]unique.Handle[rules.Program]), make(map[programName]bool)
		for _, seen := range r.seen {
			k := nameOf(seen.program.Value())
			if k.name == "" || k.name == ownProgram {
				continue
			}
			is, judged := claimed[seen]
			if !judged {
				is = c.of(seen)
				claimed[seen] = is
			}
			metered[k] = metered[k] || is
			here[k] = append(here[k], seen.program)
		}
		for k, programs := range here {
			if metered[k] {
				continue
			}
			n := byName[k]
			if n == nil {
				n = &namesake{programName: k, known: make(map[unique.Handle[rules.Program]]bool)}
				byName[k] = n
				list = append(list, n)
			}
			n.machines++
			if r.at.After(n.last) {
				n.last = r.at
			}
			for _, program := range programs {
				if n.known[program] {
					continue
				}
				n.known[program] = true
				n.windowed = n.windowed || program.Value().WindowClass != ""
				n.programs = append(n.programs, program.Value())
			}
		}
	}
	slices.SortFunc(list, func(a, b *namesake) int { return cmp.Compare(a.place(), b.place()) })
	return list, len(reports)
}

// ListSeenPrograms lists what could be metered. Names alone leave: a path may say more of who has
// a program than an administrator has to know to switch it on.
func (a *applicationAPI) ListSeenPrograms(ctx context.Context, req *meteringv1.ListSeenProgramsRequest) (*meteringv1.ListSeenProgramsResponse, error) {
	const op = "metering.ListSeenPrograms"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	question := fmt.Sprintf("seen programs %s %t %q", caller.Account, req.GetWindowless(), req.GetNameContains())
	after, err := readTextToken(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	c := claims{present: make(map[contract.ID]presentRule)}
	resp := &meteringv1.ListSeenProgramsResponse{}
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		settings, err := readSettings(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		resp.SightingsWanted = settings.SightingsWanted
		if err := readRules(ctx, tx, caller.Account, c.present); err != nil {
			return err
		}
		c.matcher, err = rules.Compile(asPolicy(c.present))
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	list, agents := a.service.seen.unclaimed(caller.Account, c)
	resp.MachineCount = int32(agents)
	if !resp.GetSightingsWanted() {
		return resp, nil // what agents told while it was wanted is nobody's any more
	}
	wanted := strings.ToLower(strings.TrimSpace(req.GetNameContains()))
	list = slices.DeleteFunc(list, func(n *namesake) bool {
		return !n.windowed && !req.GetWindowless() || !strings.Contains(n.name, wanted) || req.GetPageToken() != "" && n.place() <= after.text
	})
	if size := resource.PageSize(req.GetPageSize(), 100); len(list) > size {
		list = list[:size]
		resp.NextPageToken = textToken(question, textMark{text: list[size-1].place()})
	}
	for _, n := range list {
		first := a.service.seen.since(caller.Account, n.programName)
		if first.IsZero() {
			first = n.last
		}
		m := &meteringv1.SeenProgram{
			Name: n.name, Packaged: n.packaged, MachineCount: int32(n.machines),
			FirstSeenTime: timestamppb.New(first), LastSeenTime: timestamppb.New(n.last),
		}
		if t, found := a.service.templates.Recognise(n.programs); found {
			m.TemplateId, m.TemplateName = t.ID, t.Name
		}
		resp.Programs = append(resp.Programs, m)
	}
	return resp, nil
}

// asPolicy is what matches as the present rules do.
func asPolicy(present map[contract.ID]presentRule) *policyv1.Policy {
	byApplication := make(map[contract.ID]*policyv1.ApplicationPolicy)
	policy := &policyv1.Policy{}
	for _, p := range present {
		a := byApplication[p.application]
		if a == nil {
			a = &policyv1.ApplicationPolicy{ApplicationId: p.application[:]}
			byApplication[p.application] = a
			policy.Applications = append(policy.Applications, a)
		}
		a.Rules = append(a.Rules, p.rule)
	}
	return policy
}
