package metering

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// Keys are the keys that names are sealed under.
type Keys interface {
	// KeyOf is the key of a principal, which is drawn where there was never one.
	KeyOf(ctx context.Context, account, principal contract.ID) (keyring.Key, error)
	// Forget destroys it.
	Forget(ctx context.Context, account, principal contract.ID) error
	// OpenTexts reads what is sealed under them, with "" for what does not open any more.
	OpenTexts(ctx context.Context, account contract.ID, texts []keyring.Text) ([]string, error)
}

// people keeps the names of people out of what is decided about projects: the log holds them
// sealed, one key each, so that each of them can be forgotten. The key of a worker is the
// person's, and outlives the settings, since what the person chose names the worker. Keys of
// what merely matches people go with it.
type people struct {
	names Names
	keys  Keys
}

// asking is what is asked about projects with its names opened. What does not open any more
// is left out: a rule that was for one person must not become one for everybody.
type asking struct {
	*policyv1.ExpenseToProject
	workers, users map[contract.ID]named // by the id of the worker, or the rule
	shared         []named
}

// named is a name and how it is sealed.
type named struct {
	text   string
	sealed *usagev1.SealedName
}

// settings are a copy, to be changed.
func (a asking) settings() *policyv1.ExpenseToProject { return proto.CloneOf(a.ExpenseToProject) }

// open opens the names of what was decided; nil is no settings.
func (p people) open(ctx context.Context, account contract.ID, decided *meteringv1.ExpenseToProjectDecided) (asking, error) {
	a := asking{ExpenseToProject: new(policyv1.ExpenseToProject), workers: map[contract.ID]named{}, users: map[contract.ID]named{}}
	if decided.GetExpenseToProject() != nil {
		a.ExpenseToProject = proto.CloneOf(decided.GetExpenseToProject())
	}
	sealed := slices.Concat(decided.GetWorkers(), decided.GetSharedLogins())
	for _, u := range decided.GetUsers() {
		sealed = append(sealed, u.GetUser())
	}
	if len(sealed) == 0 {
		return a, nil
	}
	const op = "metering.ExpenseToProject"
	if p.names == nil {
		return a, errs.New(errs.Precondition, op, "", "names of people cannot be opened, since this process has no keyring: start it with one")
	}
	texts, err := p.names.OpenNames(ctx, account, sealed)
	if err != nil {
		return a, errs.Wrap(op, "", err)
	}
	for i, name := range sealed {
		switch n := (named{texts[i], name}); {
		case i < len(decided.GetWorkers()):
			a.workers[contract.ID(name.GetPrincipalId())] = n
		case i < len(decided.GetWorkers())+len(decided.GetSharedLogins()):
			a.shared = append(a.shared, n)
		default:
			rule := decided.GetUsers()[i-len(decided.GetWorkers())-len(decided.GetSharedLogins())]
			a.users[contract.ID(rule.GetAssignmentRuleId())] = n
		}
	}
	a.Workers = slices.DeleteFunc(a.GetWorkers(), func(w *policyv1.PromptWorker) bool {
		n, is := a.workers[contract.ID(w.GetWorkerId())]
		if is {
			w.Label = n.text
		}
		return is && n.text == ""
	})
	a.Rules = slices.DeleteFunc(a.GetRules(), func(r *policyv1.AssignmentRule) bool {
		n, is := a.users[contract.ID(r.GetAssignmentRuleId())]
		if is {
			r.User = n.text
		}
		return is && n.text == ""
	})
	for _, n := range a.shared {
		if n.text != "" {
			a.SharedLogins = append(a.SharedLogins, n.text)
		}
	}
	return a, nil
}

// seal makes of settings what can be decided. What is named as before stays sealed as before;
// dropped are the keys that nothing is sealed under any more once that is decided.
func (p people) seal(ctx context.Context, account contract.ID, before asking, want *policyv1.ExpenseToProject) (decided *meteringv1.ExpenseToProjectDecided, dropped []contract.ID, err error) {
	left := make(map[contract.ID]bool)
	for _, n := range before.users {
		left[contract.ID(n.sealed.GetPrincipalId())] = true
	}
	for _, n := range before.shared {
		left[contract.ID(n.sealed.GetPrincipalId())] = true
	}
	seal := func(was named, principal contract.ID, text string) (*usagev1.SealedName, error) {
		if was.sealed != nil && was.text == text {
			delete(left, contract.ID(was.sealed.GetPrincipalId()))
			return was.sealed, nil
		}
		return p.sealOne(ctx, account, principal, text)
	}
	out := proto.CloneOf(want)
	decided = &meteringv1.ExpenseToProjectDecided{ExpenseToProject: out}
	for _, w := range out.GetWorkers() {
		id := contract.ID(w.GetWorkerId())
		name, err := seal(before.workers[id], id, w.GetLabel())
		if err != nil {
			return nil, nil, err
		}
		w.Label = ""
		decided.Workers = append(decided.Workers, name)
	}
	for _, r := range out.GetRules() {
		if r.GetUser() == "" {
			continue
		}
		name, err := seal(before.users[contract.ID(r.GetAssignmentRuleId())], resource.NewID(), r.GetUser())
		if err != nil {
			return nil, nil, err
		}
		r.User = ""
		decided.Users = append(decided.Users, &meteringv1.SealedUser{AssignmentRuleId: r.GetAssignmentRuleId(), User: name})
	}
	for _, text := range out.GetSharedLogins() {
		var was named
		if i := slices.IndexFunc(before.shared, func(n named) bool { return n.text == text }); i >= 0 {
			was = before.shared[i]
		}
		name, err := seal(was, resource.NewID(), text)
		if err != nil {
			return nil, nil, err
		}
		decided.SharedLogins = append(decided.SharedLogins, name)
	}
	out.SharedLogins = nil
	for id := range left {
		dropped = append(dropped, id)
	}
	return decided, dropped, nil
}

func (p people) sealOne(ctx context.Context, account, principal contract.ID, text string) (*usagev1.SealedName, error) {
	const op = "metering.UpdateExpenseToProject"
	if p.keys == nil {
		return nil, errs.New(errs.Precondition, op, "", "names of people cannot be sealed, since this process has no keyring: start it with one")
	}
	key, err := p.keys.KeyOf(ctx, account, principal)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	name := &usagev1.SealedName{PrincipalId: principal[:], Subject: &usagev1.SealedName_Person{Person: true}}
	if err := keyring.Seal(key, name, text); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	return name, nil
}

// forget destroys keys that nothing is sealed under any more.
func (p people) forget(ctx context.Context, account contract.ID, principals []contract.ID) error {
	for _, principal := range principals {
		if err := p.keys.Forget(ctx, account, principal); err != nil {
			return errs.Wrap("metering.Forget", "principal "+principal.String(), err)
		}
	}
	return nil
}
