package activity_test

import (
	"fmt"
	"testing"

	"github.com/cetrus/cetrus/agent/activity"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// BenchmarkObserve is one look a second at a full desktop: 200 processes, 40 windows,
// 20 monitored programs, under 20 and under 1,000 rules.
func BenchmarkObserve(b *testing.B) {
	for _, rules := range []int{20, 1000} {
		for _, same := range []bool{true, false} {
			b.Run(fmt.Sprintf("rules=%d/same=%v", rules, same), func(b *testing.B) {
				m := activity.New(activity.Config{Alias: func(activity.User) contract.ID { return contract.ID{1} }})
				p := &policyv1.Policy{Revision: 1}
				for n := range rules {
					id := contract.ID{1, byte(n >> 8), byte(n)}
					p.Applications = append(p.Applications, &policyv1.ApplicationPolicy{ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: fmt.Sprint("app", n)}}})
				}
				if err := m.SetPolicy(p); err != nil {
					b.Fatal(err)
				}
				s := activity.Session{Key: "1", Foreground: 3}
				for n := range 200 {
					s.Processes = append(s.Processes, activity.Process{PID: int32(n + 1), StartMillis: 1, ParentPID: int32(n), Executable: fmt.Sprint("app", n*rules/20)})
				}
				for n := range 40 {
					s.Windows = append(s.Windows, activity.Window{ID: uint64(n + 1), PID: int32(n + 1), Title: fmt.Sprint("window ", n)})
				}
				at := int64(0)
				look := func() {
					at += 1000
					s.LastInputMillis = at - at%7000
					m.Observe(activity.Observation{BootID: contract.ID{1}, BootMillis: at, AwakeMillis: at, UTCMillis: at, Sessions: []activity.Session{s}})
				}
				look()
				s.SameProcesses, s.SameWindows = same, same
				b.ReportAllocs()
				for b.Loop() {
					look()
				}
			})
		}
	}
}
