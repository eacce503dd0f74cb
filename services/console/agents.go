package console

import (
	"cmp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// agentActions are what is done with agents.
var agentActions = []action{
	{path: "/agents/{id}/revoke", may: administers, do: (*Service).revokeAgent, confirm: (*Service).confirmRevokeAgent},
	{path: "/agents/{id}/readmit", may: administers, do: (*Service).readmitAgent, confirm: (*Service).confirmReadmitAgent},
	{path: "/agents/{id}/remove", may: administers, do: (*Service).removeAgent, confirm: (*Service).confirmRemoveAgent},
}

// agentsPage is the list of agents.
type agentsPage struct {
	*asked
	listPage[*meteringv1.Agent]
	Conditions []choice
	// Managers are how many there are: without one, no agent comes.
	Managers int
}

func (s *Service) agentList(v *visit) (any, error) {
	chosen := v.r.URL.Query().Get("condition")
	page := agentsPage{asked: v.asks()}
	var conditions []meteringv1.AgentCondition
	for number := int32(1); ; number++ {
		c := meteringv1.AgentCondition(number)
		if _, there := meteringv1.AgentCondition_name[number]; !there {
			break
		}
		value := page.Condition(c)
		page.Conditions = append(page.Conditions, choice{value, conditionMeans(c), value == chosen})
		if value == chosen {
			conditions = append(conditions, c)
		}
	}
	if chosen != "" && len(conditions) == 0 {
		v.asks().instead("condition", chosen, "all agents")
	}
	var err error
	page.listPage, err = list(s, v, func(size int32, token string) ([]*meteringv1.Agent, string, error) {
		answer, err := s.agents.ListAgents(v.ctx, &meteringv1.ListAgentsRequest{PageSize: size, PageToken: token, Conditions: conditions})
		return answer.GetAgents(), answer.GetNextPageToken(), err
	})
	if err != nil || len(page.Items) > 0 {
		return page, err
	}
	managers, err := s.managers.ListManagers(v.ctx, &identityv1.ListManagersRequest{PageSize: 1})
	page.Managers = len(managers.GetManagers())
	return page, err
}

// conditionMeans is what is amiss, in words.
func conditionMeans(c meteringv1.AgentCondition) string {
	switch c {
	case meteringv1.AgentCondition_AGENT_CONDITION_SILENT:
		return "not heard of for longer than an hour"
	case meteringv1.AgentCondition_AGENT_CONDITION_SKEWED:
		return "its clock is more than two minutes off"
	case meteringv1.AgentCondition_AGENT_CONDITION_BACKLOG:
		return "more than 1,000 records wait on it"
	case meteringv1.AgentCondition_AGENT_CONDITION_PAUSED:
		return "paused"
	case meteringv1.AgentCondition_AGENT_CONDITION_UNSUPPORTED:
		return "its desktop does not tell everything"
	case meteringv1.AgentCondition_AGENT_CONDITION_PLUGIN:
		return "a plug-in failed or was refused"
	case meteringv1.AgentCondition_AGENT_CONDITION_RELEASE:
		return "a release was refused"
	case meteringv1.AgentCondition_AGENT_CONDITION_REFUSED:
		return "its Manager refused something of it"
	case meteringv1.AgentCondition_AGENT_CONDITION_COPIED:
		return "two machines came under its id"
	case meteringv1.AgentCondition_AGENT_CONDITION_MANAGER:
		return "a Manager that it prefers cannot be spoken to"
	case meteringv1.AgentCondition_AGENT_CONDITION_POLICY:
		return "it cannot put the last policy into force"
	case meteringv1.AgentCondition_AGENT_CONDITION_UNSPECIFIED:
	}
	return strings.ToLower(strings.TrimPrefix(c.String(), "AGENT_CONDITION_"))
}

// agentPage is one agent.
type agentPage struct {
	Zone  *time.Location
	Agent *meteringv1.Agent
	// Admission is what was decided on it; nil: nothing.
	Admission *identityv1.AgentAdmission
}

// Means is for templates.
func (agentPage) Means(c meteringv1.AgentCondition) string { return conditionMeans(c) }

func (s *Service) agent(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	got, err := s.agentOf(v)
	if err != nil {
		return nil, err
	}
	page := agentPage{Zone: zone, Agent: got}
	decided, err := s.admissions.GetAgentAdmission(v.ctx, &identityv1.GetAgentAdmissionRequest{AgentId: got.GetAgentId()})
	if err != nil && status.Code(err) != codes.NotFound {
		return nil, err
	}
	page.Admission = decided.GetAgentAdmission()
	return page, nil
}

func (s *Service) agentOf(v *visit) (*meteringv1.Agent, error) {
	got, err := s.agents.GetAgent(v.ctx, &meteringv1.GetAgentRequest{AgentId: v.r.PathValue("id")})
	return got.GetAgent(), err
}

func (s *Service) confirmRevokeAgent(v *visit) (confirmation, error) {
	a, err := s.agentOf(v)
	f := v.form(of("/agents", v.r.PathValue("id"), "revoke"), nil, "")
	return confirmation{
		Title: "Keep an agent out", Text: "The agent of “" + cmp.Or(a.GetMachineName(), a.GetAgentId()) + "” is to be kept out, at whichever Manager of the account: its machine was stolen, say, or is out of use.",
		Consequences: []string{"Its connection is cut, and its certificate is good for nothing any more.", "What it has not sent stays on its machine.", "You can readmit it later; it then needs a new token."},
		Button:       "Keep it out", Back: of("/agents", v.r.PathValue("id")), Form: f,
		Boxes: []field{f.Field("copies", "Also agents that enrolled by its certificate, as copied machines do")},
	}, err
}

func (s *Service) revokeAgent(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	_, err := s.admissions.RevokeAgent(v.ctx, &identityv1.RevokeAgentRequest{AgentId: id, Copies: f.is("copies"), RequestId: f.requestID})
	return outcome{next: of("/agents", id), notice: "The agent is kept out."}, err
}

func (s *Service) confirmReadmitAgent(v *visit) (confirmation, error) {
	a, err := s.agentOf(v)
	return confirmation{
		Title: "Readmit an agent", Text: "The agent of “" + cmp.Or(a.GetMachineName(), a.GetAgentId()) + "” is to be let in again under its id, with a new token: it is back, or has lost its certificate.",
		Consequences: []string{"Certificates of before stay good for nothing.", "Make it a token at its Manager, and give it that on the machine."},
		Button:       "Readmit it", Back: of("/agents", v.r.PathValue("id")),
	}, err
}

func (s *Service) readmitAgent(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	_, err := s.admissions.ReadmitAgent(v.ctx, &identityv1.ReadmitAgentRequest{AgentId: id, RequestId: f.requestID})
	return outcome{next: of("/agents", id), notice: "The agent may enrol again, with a new token."}, err
}

func (s *Service) confirmRemoveAgent(v *visit) (confirmation, error) {
	a, err := s.agentOf(v)
	return confirmation{
		Title: "Leave an agent out", Text: "The agent of “" + cmp.Or(a.GetMachineName(), a.GetAgentId()) + "” is to be left out of lists and counts: its machine is gone.",
		Consequences: []string{"What was measured stays.", "If it is heard of again, it is listed again. To keep it out, do that instead."},
		Button:       "Leave it out", Back: of("/agents", v.r.PathValue("id")),
	}, err
}

func (s *Service) removeAgent(v *visit, f *sent) (outcome, error) {
	_, err := s.agents.RemoveAgent(v.ctx, &meteringv1.RemoveAgentRequest{AgentId: v.r.PathValue("id"), RequestId: f.requestID})
	return outcome{next: "/agents", notice: "The agent is listed no more."}, err
}
