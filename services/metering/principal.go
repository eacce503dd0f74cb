package metering

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Principal is the aggregate of what was decided about one principal: whose it is. That there
// is one at all agents say, or the settings of Expense-to-Project of its workers.
type Principal struct {
	// Login is the person's; zero: not known.
	Login contract.ID
	// MergedInto is the principal of the same person that counts for both; zero: none.
	MergedInto contract.ID
	Forgotten  bool
}

func (p Principal) open(op string, id contract.ID) error {
	switch {
	case p.Forgotten:
		return errs.New(errs.Precondition, op, "principal "+id.String(), "the person was forgotten")
	case !p.MergedInto.IsZero():
		return errs.New(errs.Precondition, op, "principal "+id.String(), "it was merged into "+p.MergedInto.String()+": decide about that one")
	}
	return nil
}

// DecideBind says that it is the person of a login.
func (p Principal) DecideBind(id, login contract.ID) ([]proto.Message, error) {
	const op = "metering.BindLogin"
	if err := p.open(op, id); err != nil {
		return nil, err
	}
	switch p.Login {
	case login:
		return nil, nil
	case contract.ID{}:
		return []proto.Message{&meteringv1.LoginBound{PrincipalId: id[:], LoginId: login[:]}}, nil
	}
	return nil, errs.New(errs.Conflict, op, "principal "+id.String(), "it is that of login "+p.Login.String()+": unbind it first").WithReason("BOUND_TO_ANOTHER")
}

// DecideUnbind ends that.
func (p Principal) DecideUnbind(id contract.ID) ([]proto.Message, error) {
	if p.Login.IsZero() {
		return nil, nil
	}
	return []proto.Message{&meteringv1.LoginUnbound{PrincipalId: id[:]}}, nil
}

// DecideMerge says that it is the same person as another one.
func (p Principal) DecideMerge(id, into contract.ID, other Principal) ([]proto.Message, error) {
	const op = "metering.MergePrincipal"
	if p.MergedInto == into && !p.Forgotten {
		return nil, nil
	}
	if err := p.open(op, id); err != nil {
		return nil, err
	}
	if err := other.open(op, into); err != nil {
		return nil, err
	}
	switch {
	case id == into:
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "into_principal_id", Description: "is the principal itself"})
	case !p.Login.IsZero():
		return nil, errs.New(errs.Precondition, op, "principal "+id.String(), "it is that of login "+p.Login.String()+": unbind it, and bind the login to "+into.String()).WithReason("BOUND")
	}
	return []proto.Message{&meteringv1.PrincipalMerged{PrincipalId: id[:], IntoPrincipalId: into[:]}}, nil
}

// DecideForget orders its key destroyed.
func (p Principal) DecideForget(id contract.ID) ([]proto.Message, error) {
	if p.Forgotten {
		return nil, nil
	}
	return []proto.Message{&meteringv1.PrincipalForgotten{PrincipalId: id[:]}}, nil
}

// Apply returns the principal after an event.
func (p Principal) Apply(event proto.Message) (Principal, error) {
	var err error
	switch e := event.(type) {
	case *meteringv1.LoginBound:
		p.Login, err = contract.IDFrom(e.GetLoginId())
	case *meteringv1.LoginUnbound:
		p.Login = contract.ID{}
	case *meteringv1.PrincipalMerged:
		p.MergedInto, err = contract.IDFrom(e.GetIntoPrincipalId())
	case *meteringv1.PrincipalForgotten:
		p.Login, p.Forgotten = contract.ID{}, true
	default:
		return p, fmt.Errorf("metering: %T is no event of a principal", event)
	}
	if err != nil {
		return p, fmt.Errorf("metering: %T: %w", event, err)
	}
	return p, nil
}

// corrections is how often one was asked for by one id: once.
type corrections int

// Apply returns the state after an event.
func (n corrections) Apply(event proto.Message) (corrections, error) {
	if _, ok := event.(*meteringv1.CorrectionAsked); !ok {
		return n, fmt.Errorf("metering: %T is no event of a correction", event)
	}
	return n + 1, nil
}
