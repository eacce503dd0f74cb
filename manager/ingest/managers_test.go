package ingest_test

import (
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

// Agents are told of the Managers of this one's settings, or else of the account's, and of none
// where neither says any.
func TestAgentsAreToldOfTheirManagers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ own, accounts, want []string }{
		"its own":       {[]string{"a:1", "b:1"}, []string{"c:1"}, []string{"a:1", "b:1"}},
		"the account's": {nil, []string{"c:1"}, []string{"c:1"}},
		"none":          {nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			raw, err := proto.Marshal(&policyv1.Policy{AccountId: testAccount[:], Revision: 7, Managers: c.accounts})
			if err == nil {
				err = durable.Replace(filepath.Join(dir, "policy"), raw)
			}
			if err != nil {
				t.Fatal(err)
			}
			r := start(t, testConfig{dir: dir, managers: c.own})
			agent := converse(t, r.address, helloOf(1, "ws"))
			var told []string
			// What is said of Managers is said before the policy.
			agent.hear("the policy", func(m *agentv1.ConnectResponse) bool {
				if list := m.GetManagers().GetAddresses(); list != nil {
					told = list
				}
				return m.GetPolicy() != nil
			})
			if !slices.Equal(told, c.want) {
				t.Errorf("it is told of %q, want %q", told, c.want)
			}
		})
	}
}
