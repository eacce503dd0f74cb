package identity

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// admissionAggregate is the word in subjects of what is decided on agents.
const admissionAggregate = "agent"

func admissionSubject(account, agent contract.ID) string {
	return contract.EventSubject(account, contextName, admissionAggregate, agent.String())
}

// AgentAdmission is the aggregate of what was decided on an agent. Which agents there are the
// Managers know, so that one may be decided on that nobody here has heard of.
type AgentAdmission struct {
	// Decided: something was.
	Decided bool
	Revoked bool
	Copies  bool
}

// There is an error where nothing was decided.
func (a AgentAdmission) There(op string, id contract.ID) error {
	if !a.Decided {
		return errs.New(errs.NotFound, op, "agent "+id.String(), "nothing was decided on this agent here: Managers admit it by its certificate")
	}
	return nil
}

// DecideRevoke keeps the agent out; one that is out stays so, though its copies may follow.
func (a AgentAdmission) DecideRevoke(op string, id contract.ID, copies bool) ([]proto.Message, error) {
	if id.IsZero() {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "agent_id", Description: "names nobody"})
	}
	if a.Revoked && (a.Copies || !copies) {
		return nil, nil
	}
	return []proto.Message{&identityv1.AgentRevoked{AgentId: id[:], Copies: copies}}, nil
}

// DecideReadmit lets the agent enrol again. It may be asked again: also one that was readmitted
// may lose its key.
func (a AgentAdmission) DecideReadmit(op string, id contract.ID) ([]proto.Message, error) {
	if id.IsZero() {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "agent_id", Description: "names nobody"})
	}
	return []proto.Message{&identityv1.AgentReadmitted{AgentId: id[:]}}, nil
}

// Apply returns what is decided after an event.
func (a AgentAdmission) Apply(event proto.Message) (AgentAdmission, error) {
	switch e := event.(type) {
	case *identityv1.AgentRevoked:
		return AgentAdmission{Decided: true, Revoked: true, Copies: e.GetCopies()}, nil
	case *identityv1.AgentReadmitted:
		return AgentAdmission{Decided: true}, nil
	}
	return a, fmt.Errorf("identity: %T decides nothing on an agent", event)
}
