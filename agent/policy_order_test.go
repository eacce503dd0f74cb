package agent

import (
	"testing"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// What a platform publishes after its log was put back or made anew counts revisions from
// less, and holds all the same; what a Manager repeats that was away does not.
func TestThePolicyPublishedLastHolds(t *testing.T) {
	p := func(published int64, revision uint64) *policyv1.Policy {
		return &policyv1.Policy{PublishedUtcMillis: published, Revision: revision}
	}
	for _, c := range []struct {
		policy, over *policyv1.Policy
		want         bool
	}{
		{p(1, 0), nil, true},
		{p(0, 1), nil, true},
		{p(20, 3), p(10, 900), true},
		{p(10, 900), p(20, 3), false},
		{p(10, 900), p(10, 900), false},
		{p(10, 901), p(10, 900), true},
		{p(0, 901), p(0, 900), true},
		{p(10, 5), p(0, 900), true},
	} {
		if got := supersedes(c.policy, c.over); got != c.want {
			t.Errorf("%v over %v: %v", c.policy, c.over, got)
		}
	}
}
