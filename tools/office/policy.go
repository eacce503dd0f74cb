package office

import (
	"encoding/binary"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// Policy is what the platform would make of Applications, with ids of its own:
// for those who need the office without a platform. The first byte of an
// application's id is its place in Applications, from 1.
func Policy() *policyv1.Policy {
	id := func(kind uint16, n int) []byte {
		b := make([]byte, 16)
		b[0] = byte(n + 1)
		binary.BigEndian.PutUint16(b[14:], kind)
		return b
	}
	const account, application, rule = 1, 2, 3
	policy := &policyv1.Policy{AccountId: id(account, 0), Revision: 1, PauseAllowed: true, DocumentKey: make([]byte, 32)}
	rules := 0
	for i, a := range Applications() {
		p := &policyv1.ApplicationPolicy{
			ApplicationId: id(application, i), DisplayName: a.GetDisplayName(), ActivityGap: a.GetActivityGap(), Timeout: a.GetTimeout(),
			InstanceScope: a.GetInstanceScope(), Documents: a.GetDocuments(), DocumentReduction: a.GetDocumentReduction(),
		}
		for _, r := range a.GetRules() {
			p.Rules = append(p.Rules, &policyv1.Rule{
				RuleId: id(rule, rules), Priority: r.GetPriority(), Executable: r.GetExecutable(), Path: r.GetPath(),
				WindowClass: r.GetWindowClass(), Title: r.GetTitle(), Package: r.GetPackage(), DocumentTitle: r.GetDocumentTitle(),
			})
			rules++
		}
		policy.Applications = append(policy.Applications, p)
	}
	return policy
}
