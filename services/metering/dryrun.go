package metering

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

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

// trial is a set of rules that is tried.
type trial struct {
	matcher *rules.Matcher
	rules   []*policyv1.Rule
	index   map[contract.ID]int
	// fresh are rules that have no id of their own yet.
	fresh map[contract.ID]bool
	// own is the application that the rules shall be of; zero: a new one.
	own contract.ID
	// others matches as the other applications' rules do.
	others *rules.Matcher
}

// newTrial compiles the rules the way that agents will.
func newTrial(req *meteringv1.TestRulesRequest) (*trial, error) {
	const op = "metering.TestRules"
	t := &trial{index: make(map[contract.ID]int), fresh: make(map[contract.ID]bool)}
	if text := req.GetApplicationId(); text != "" {
		var err error
		if t.own, err = resource.ParseID(op, "application_id", text); err != nil {
			return nil, err
		}
	}
	application := contract.ID{15: 1}
	var wrong []errs.Field
	for i, m := range req.GetRules() {
		rule := ruleOf(m)
		id, err := contract.IDFrom(rule.GetRuleId())
		if err != nil {
			id = resource.NewID()
			rule.RuleId, t.fresh[id] = id[:], true
		}
		if first, there := t.index[id]; there {
			wrong = append(wrong, errs.Field{Path: fmt.Sprintf("rules[%d].rule_id", i), Description: fmt.Sprintf("is that of rules[%d] too: leave it out of a rule that is new", first)})
			continue
		}
		t.index[id] = i
		if bad := checkRule(application, rule); bad != nil {
			wrong = append(wrong, errs.Field{Path: fmt.Sprintf("rules[%d]%s", i, bad.field), Description: bad.cause.Error()})
		}
		t.rules = append(t.rules, rule)
	}
	if len(wrong) > 0 {
		return nil, errs.InvalidFields(op, "", wrong...)
	}
	var err error
	t.matcher, err = rules.Compile(&policyv1.Policy{Applications: []*policyv1.ApplicationPolicy{{
		ApplicationId: application[:], DisplayName: "trial", Rules: t.rules,
	}}})
	if err != nil {
		return nil, errs.As(errs.Invalid, op, "", err.Error(), err)
	}
	return t, nil
}

// presentRule is a rule of an application that is metered today.
type presentRule struct {
	id, application contract.ID
	displayName     string
	priority        int32
	rule            *policyv1.Rule
}

// against compiles the rules of the other applications, which the tested ones compete with.
func (t *trial) against(present map[contract.ID]presentRule) (err error) {
	others := maps.Clone(present)
	maps.DeleteFunc(others, func(_ contract.ID, p presentRule) bool { return p.application == t.own })
	t.others, err = rules.Compile(asPolicy(others))
	return err
}

// match tells which of the tested rules would claim a program, and who does today.
func (t *trial) match(seen *seenProgram, present map[contract.ID]presentRule) []*meteringv1.RuleMatch {
	var matches []*meteringv1.RuleMatch
	for _, candidate := range t.matcher.Possible(seen.program) {
		index := t.index[candidate.RuleID]
		matches = append(matches, &meteringv1.RuleMatch{
			Executable: seen.program.Executable, WindowClass: seen.program.WindowClass, Package: seen.program.Package, Path: seen.program.Path,
			RuleIndex: int32(index), MachineCount: int32(seen.machines), LastSeenTime: timestamppb.New(seen.last),
			TitleUnknown: candidate.Titled, Claims: t.claims(t.rules[index], candidate.RuleID, seen, present),
		})
	}
	return matches
}

// claims are the present claims to a program, the one that goes before the others
// first.
func (t *trial) claims(tested *policyv1.Rule, id contract.ID, seen *seenProgram, present map[contract.ID]presentRule) []*meteringv1.Claim {
	var found []presentRule
	for rule := range seen.claims {
		// A rule that is not there any more claims nothing, though an agent does not
		// know it yet.
		if p, there := present[rule]; there {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b presentRule) int {
		return cmp.Or(-cmp.Compare(a.priority, b.priority), bytes.Compare(a.id[:], b.id[:]))
	})
	var claims []*meteringv1.Claim
	own := false
	for _, p := range found {
		own = own || p.application == t.own
		claims = append(claims, &meteringv1.Claim{
			ApplicationId: p.application.String(), DisplayName: p.displayName, RuleId: p.id.String(), Priority: p.priority,
			MachineCount: int32(seen.claims[p.id]), Precedence: t.precedence(tested, id, p),
		})
	}
	if own {
		claims = append(claims, t.heirs(tested, id, seen, present)...)
	}
	return claims
}

// heirs is who would get a program in place of the application that the rules are tested for,
// since the rule by which that has it today stands before theirs, and the tested one does not.
func (t *trial) heirs(tested *policyv1.Rule, id contract.ID, seen *seenProgram, present map[contract.ID]presentRule) []*meteringv1.Claim {
	for _, candidate := range t.others.Possible(seen.program) {
		if candidate.Titled || seen.claims[candidate.RuleID] > 0 {
			continue
		}
		p := present[candidate.RuleID]
		if precedence := t.precedence(tested, id, p); precedence != meteringv1.Precedence_PRECEDENCE_TESTED_RULE {
			return []*meteringv1.Claim{{ApplicationId: p.application.String(), DisplayName: p.displayName, RuleId: p.id.String(), Priority: p.priority, Precedence: precedence}}
		}
	}
	return nil
}

// precedence says who would get a program, by the rule that agents go by: the
// greater priority, then the smaller id.
func (t *trial) precedence(tested *policyv1.Rule, id contract.ID, p presentRule) meteringv1.Precedence {
	switch {
	case p.application == t.own:
		return meteringv1.Precedence_PRECEDENCE_OWN
	case tested.GetPriority() > p.priority:
		return meteringv1.Precedence_PRECEDENCE_TESTED_RULE
	case tested.GetPriority() < p.priority:
		return meteringv1.Precedence_PRECEDENCE_PRESENT
	case t.fresh[id]:
		return meteringv1.Precedence_PRECEDENCE_UNDECIDED
	case bytes.Compare(id[:], p.id[:]) < 0:
		return meteringv1.Precedence_PRECEDENCE_TESTED_RULE
	}
	return meteringv1.Precedence_PRECEDENCE_PRESENT
}

// TestRules tries rules on what agents saw. Titles never leave a desktop for this: an
// expression over titles that the policy hides would let anybody who may try rules
// ask who has a window of a certain name.
func (a *applicationAPI) TestRules(ctx context.Context, req *meteringv1.TestRulesRequest) (*meteringv1.TestRulesResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	t, err := newTrial(req)
	if err != nil {
		return nil, err
	}
	resp := &meteringv1.TestRulesResponse{}
	present := make(map[contract.ID]presentRule)
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		settings, err := readSettings(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		resp.SightingsWanted = settings.SightingsWanted
		return readRules(ctx, tx, caller.Account, present)
	})
	if err == nil {
		err = t.against(present)
	}
	if err != nil {
		return nil, errs.Wrap("metering.TestRules", "", err)
	}
	programs, agents := a.service.seen.of(caller.Account)
	resp.MachineCount = int32(agents)
	for _, seen := range programs {
		if !resp.GetSightingsWanted() && !seen.metered(present) {
			continue // told while the policy asked for it, by an agent that has not heard since
		}
		resp.Matches = append(resp.Matches, t.match(seen, present)...)
	}
	return resp, nil
}

// metered tells whether a rule that is in force claims a program.
func (p *seenProgram) metered(present map[contract.ID]presentRule) bool {
	for rule := range p.claims {
		if _, there := present[rule]; there {
			return true
		}
	}
	return false
}

// readRules reads the rules of the account's applications.
func readRules(ctx context.Context, tx pgx.Tx, account contract.ID, into map[contract.ID]presentRule) error {
	rows, err := tx.Query(ctx, "SELECT "+applicationColumns+" FROM application WHERE account_id = $1::uuid AND NOT deleted", account)
	if err != nil {
		return err
	}
	applications, err := pgx.CollectRows(rows, scanApplication)
	if err != nil {
		return err
	}
	for _, a := range applications {
		p := presentRule{displayName: a.GetDisplayName()}
		if p.application, err = contract.ParseID(a.GetApplicationId()); err != nil {
			return err
		}
		for _, r := range a.GetRules() {
			if p.id, err = contract.ParseID(r.GetRuleId()); err != nil {
				return err
			}
			p.priority, p.rule = r.GetPriority(), ruleOf(r)
			into[p.id] = p
		}
	}
	return nil
}
