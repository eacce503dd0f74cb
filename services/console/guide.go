package console

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// guidePage leads an administrator from an empty account to the first figures. Its steps are what
// the API says, and so turn green by themselves.
type guidePage struct {
	Steps []guideStep
	// Done says that there is nothing left of it.
	Done bool
}

// guideStep is one thing to do.
type guideStep struct {
	Title, Text string
	Done, Next  bool
	// Link leads to where it is done, Button says so.
	Link, Button string
}

// guideDays is how far back the first use is looked for.
const guideDays = 30

func (s *Service) guide(v *visit) (any, error) {
	managers, err := s.managers.ListManagers(v.ctx, &identityv1.ListManagersRequest{PageSize: searchPageSize})
	if err != nil {
		return nil, err
	}
	link, created, enrolled := "/managers", false, false
	for _, m := range managers.GetManagers() {
		if m.GetRevokeTime() == nil {
			created = true
			if !enrolled {
				link = of("/managers", m.GetManagerId())
			}
			enrolled = enrolled || m.GetEnrollTime() != nil
		}
	}
	agents, err := s.agents.ListAgents(v.ctx, &meteringv1.ListAgentsRequest{PageSize: 1})
	if err != nil {
		return nil, err
	}
	heard := len(agents.GetAgents()) > 0
	programs, err := s.programs.ListApplications(v.ctx, &meteringv1.ListApplicationsRequest{PageSize: 1})
	if err != nil {
		return nil, err
	}
	end := s.deps.Now().Truncate(time.Hour).Add(time.Hour)
	use, err := s.usage.SummarizeUsage(v.ctx, &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(end.AddDate(0, 0, -guideDays)), EndTime: timestamppb.New(end),
	})
	if err != nil {
		return nil, err
	}
	busy := use.GetTotals().GetBusy().AsDuration()
	// An agent is heard of through a Manager, whichever way that was made known here.
	page := guidePage{Steps: []guideStep{
		{Title: "Create a Manager", Text: "The hub of a site, on a Linux machine there: agents report to it, and it to this platform. Give it the site's name.", Done: created || heard, Link: "/managers", Button: "Create a Manager"},
		{Title: "Install it", Text: "Paste on its machine what you were shown. If that is lost, its page makes another token.", Done: enrolled || heard, Link: link, Button: "See the Manager"},
		{Title: "Install an agent", Text: "The Manager's page makes an enrolment token, and with it the commands for Windows and Linux.", Done: heard, Link: link, Button: "Make an enrolment token"},
		{Title: "Say what is metered", Text: "Nothing is watched but the applications that you name.", Done: len(programs.GetApplications()) > 0, Link: "/applications", Button: "See the applications"},
		{Title: "See the first busy minute", Text: "Open one of these applications on the agent's machine, and work in it for a minute.", Done: busy > 0, Link: "/now", Button: "See what is open now"},
	}}
	page.Done = true
	for i := range page.Steps {
		if step := &page.Steps[i]; !step.Done {
			step.Next, page.Done = page.Done, false
		}
	}
	return page, nil
}

// unready tells of an administrator whose account has no agent yet, so that the guide is where
// they begin.
func (s *Service) unready(v *visit) bool {
	if !administers(v.caller.Privileges) {
		return false
	}
	agents, err := s.agents.ListAgents(v.ctx, &meteringv1.ListAgentsRequest{PageSize: 1})
	return err == nil && len(agents.GetAgents()) == 0
}
