package metering

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/expense"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// MaxExpenseBytes bounds what is said of projects: it goes whole into the log with each
// change, and to every agent with each policy.
const MaxExpenseBytes = 1 << 20

// Expense is the aggregate of what an account asks people about projects. Metering keeps it
// because it makes the policy that agents get, until a service for projects does.
type Expense struct {
	// Settings are not changed once made; nil: nothing is asked.
	Settings *policyv1.ExpenseToProject
}

// copied are the settings, to be changed.
func (e Expense) copied() *policyv1.ExpenseToProject {
	if e.Settings == nil {
		return new(policyv1.ExpenseToProject)
	}
	return proto.CloneOf(e.Settings)
}

// Decide returns what follows from wanting the settings to be so: an event, or nothing where
// they are so already.
func (e Expense) Decide(want *policyv1.ExpenseToProject) ([]proto.Message, error) {
	const op = "metering.UpdateExpenseToProject"
	if err := expense.CheckSettings(want); err != nil {
		var of *expense.Error
		if !errors.As(err, &of) {
			return nil, errs.Wrap(op, "", err)
		}
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "expense_to_project." + of.Field, Description: of.Err.Error()})
	}
	if size := proto.Size(want); size > MaxExpenseBytes {
		return nil, errs.New(errs.Exhausted, op, "", fmt.Sprintf("the settings have %d bytes, and agents are told at most %d: leave out projects that nobody works on any more", size, MaxExpenseBytes))
	}
	if proto.Equal(want, e.copied()) {
		return nil, nil
	}
	return []proto.Message{&meteringv1.ExpenseToProjectChanged{ExpenseToProject: want}}, nil
}

// Apply returns the settings after an event.
func (e Expense) Apply(event proto.Message) (Expense, error) {
	changed, ok := event.(*meteringv1.ExpenseToProjectChanged)
	if !ok {
		return e, fmt.Errorf("metering: %T is no event of Expense-to-Project", event)
	}
	return Expense{Settings: changed.GetExpenseToProject()}, nil
}
