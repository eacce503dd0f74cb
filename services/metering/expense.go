package metering

import (
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/expense"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// MaxExpenseBytes bounds what is said of projects: it goes whole into the log with each
// change, where a sealed name is some 100 bytes longer, and to every agent with each policy.
const MaxExpenseBytes = 1 << 20

// Expense is the aggregate of what an account asks people about projects. Metering keeps it
// because it makes the policy that agents get, until a service for projects does.
type Expense struct {
	// Decided is not changed once made; nil: nothing is asked. Names in it are sealed.
	Decided *meteringv1.ExpenseToProjectDecided
	// Changes counts them.
	Changes int64
}

// Etag tells one state of the settings from the next.
func (e Expense) Etag() string { return strconv.FormatInt(e.Changes, 10) }

// Decide tells whether wanting the settings to be so changes those that hold now. Both have
// their names in the clear.
func (e Expense) Decide(now, want *policyv1.ExpenseToProject, etag string) (changes bool, err error) {
	const op = "metering.UpdateExpenseToProject"
	if etag != "" && etag != e.Etag() {
		return false, errs.New(errs.Conflict, op, "", "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
	}
	if err := expense.CheckSettings(want); err != nil {
		var of *expense.Error
		if !errors.As(err, &of) {
			return false, errs.Wrap(op, "", err)
		}
		return false, errs.InvalidFields(op, "", errs.Field{Path: "expense_to_project." + of.Field, Description: of.Err.Error()})
	}
	if size := proto.Size(want); size > MaxExpenseBytes {
		return false, errs.New(errs.Exhausted, op, "", fmt.Sprintf("the settings have %d bytes, and agents are told at most %d: leave out projects that nobody works on any more", size, MaxExpenseBytes))
	}
	return !proto.Equal(want, now), nil
}

// Apply returns the settings after an event.
func (e Expense) Apply(event proto.Message) (Expense, error) {
	decided, ok := event.(*meteringv1.ExpenseToProjectDecided)
	if !ok {
		return e, fmt.Errorf("metering: %T is no event of Expense-to-Project", event)
	}
	return Expense{Decided: decided, Changes: e.Changes + 1}, nil
}

// liftExpense reads settings of before names were sealed.
func liftExpense(v1 *meteringv1.ExpenseToProjectChanged) (*meteringv1.ExpenseToProjectDecided, error) {
	return &meteringv1.ExpenseToProjectDecided{ExpenseToProject: v1.GetExpenseToProject()}, nil
}
