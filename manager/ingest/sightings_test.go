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

// A program is dated from the first of the reports without a break that held it, whoever
// claims it meanwhile; what an agent says of that itself counts for nothing.
func TestSightingsAreDated(t *testing.T) {
	var last *usagev1.SightingReport
	s := New(Config{AccountID: contract.ID{1}, ManagerID: contract.ID{2}, Now: time.Now}, Deps{
		Policies: &fixedPolicy{&policyv1.Policy{SightingsWanted: true}},
		Publish: func(_ string, data []byte) bool {
			last = new(usagev1.SightingReport)
			if err := proto.Unmarshal(data, last); err != nil {
				t.Error(err)
			}
			return true
		},
	})
	agent := contract.ID{3}
	var c session
	s.join(agent, &c)
	for n, step := range []struct {
		programs []*usagev1.Sighting
		want     []int64
	}{
		{[]*usagev1.Sighting{{Executable: "draft", FirstReceivedUtcMillis: -5}, {Executable: "paint"}}, []int64{1, 1}},
		{[]*usagev1.Sighting{{Executable: "paint", RuleId: agent[:]}, {Executable: "paint", WindowClass: "Paint"}, {Executable: "draft"}}, []int64{1, 2, 1}},
		{[]*usagev1.Sighting{{Executable: "paint"}}, []int64{1}},
		{[]*usagev1.Sighting{{Executable: "draft"}}, []int64{4}},
	} {
		s.saw(c.agent, &usagev1.SightingReport{AgentId: agent[:], ReceivedUtcMillis: int64(n + 1), Sightings: step.programs})
		var got []int64
		for _, seen := range last.GetSightings() {
			got = append(got, seen.GetFirstReceivedUtcMillis())
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("report %d is dated %v, not %v", n+1, got, step.want)
		}
	}
}
