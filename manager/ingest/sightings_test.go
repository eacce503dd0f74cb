package ingest

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// fixedPolicy never changes by itself.
type fixedPolicy struct{ policy *policyv1.Policy }

func (p *fixedPolicy) Current() (*policyv1.Policy, <-chan struct{}) { return p.policy, nil }

// The policy asks for all programs, an agent tells them and goes; then the policy does not
// ask any more, and later the agent is taken for retired.
func TestSightingsOfAnAgentThatIsAway(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	policies := &fixedPolicy{&policyv1.Policy{SightingsWanted: true}}
	var told []string
	s := New(Config{AccountID: contract.ID{1}, ManagerID: contract.ID{2}, Now: func() time.Time { return now }}, Deps{
		Policies: policies,
		Publish: func(_ string, data []byte) bool {
			var report usagev1.SightingReport
			if err := proto.Unmarshal(data, &report); err != nil || contract.ID(report.GetAgentId()) != (contract.ID{3}) || report.GetReceivedUtcMillis() != 7 {
				t.Errorf("published %v, %v", &report, err)
			}
			told = []string{}
			for _, seen := range report.GetSightings() {
				told = append(told, seen.GetExecutable())
			}
			return true
		},
	})
	agent := contract.ID{3}
	var c session
	s.join(agent, &c)
	s.saw(c.agent, &usagev1.SightingReport{AgentId: agent[:], ReceivedUtcMillis: 7, Sightings: []*usagev1.Sighting{
		{Executable: "draft"}, {Executable: "firefox", RuleId: agent[:]},
	}})
	repeat := func(what string, want []string) {
		t.Helper()
		told = nil
		s.RepeatSightings()
		if !slices.Equal(told, want) || (told == nil) != (want == nil) {
			t.Errorf("%s: %q is told, not %q", what, told, want)
		}
	}
	repeat("connected", []string{"draft", "firefox"})
	now = now.Add(2 * repeatFor)
	repeat("connected for long", []string{"draft", "firefox"})
	s.leave(&c)
	now = now.Add(repeatFor)
	repeat("away", []string{"draft", "firefox"})
	policies.policy = &policyv1.Policy{}
	repeat("not wanted any more", []string{"firefox"})
	policies.policy = &policyv1.Policy{SightingsWanted: true}
	repeat("forgotten", []string{"firefox"})
	now = now.Add(time.Second)
	repeat("retired", nil)
	policies.policy = nil
	s.saw(c.agent, &usagev1.SightingReport{AgentId: agent[:], ReceivedUtcMillis: 7, Sightings: []*usagev1.Sighting{{Executable: "draft"}}})
	if len(told) != 0 || told == nil {
		t.Errorf("no policy asks, and %q is told", told)
	}
}
