package uplink_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent/uplink"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// TestAgentsComeBackSpreadAndWithinAMinute: as long as there is no Manager, agents that lost it at the
// same moment ask for it again at moments of their own, none waits for longer than leaves it a minute with
// all that a connection may take, and they become fewer at a time. The time is a made-up one.
func TestAgentsComeBackSpreadAndWithinAMinute(t *testing.T) {
	if most := uplink.DefaultLastPause + uplink.DefaultHelloTimeout; most > time.Minute {
		t.Errorf("an agent may take %v", most)
	}
	synctest.Test(t, func(t *testing.T) {
		const agents, outage = 200, 10 * time.Minute
		ctx, stop := context.WithTimeout(t.Context(), outage)
		defer stop()
		began := time.Now()
		var mu sync.Mutex
		var all []time.Duration
		longest := time.Duration(0)
		var running sync.WaitGroup
		for n := range agents {
			last := began
			away := errors.New("nobody is there")
			u, err := uplink.New(uplink.Config{Managers: []string{"127.0.0.1:1"}}, uplink.Deps{
				Hello:    func() *agentv1.Hello { return &agentv1.Hello{} },
				Health:   func() *agentv1.Health { return &agentv1.Health{} },
				Policy:   func(context.Context, *policyv1.Policy) error { return nil },
				Journals: []uplink.Journal{newJournal()},
				Random:   rand.New(rand.NewPCG(1, uint64(n))),
				Dial: []grpc.DialOption{grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
					mu.Lock()
					defer mu.Unlock()
					now := time.Now()
					longest, last = max(longest, now.Sub(last)), now
					all = append(all, now.Sub(began))
					return nil, away
				})},
			})
			if err != nil {
				t.Fatal(err)
			}
			running.Go(func() { _ = u.Run(ctx) })
		}
		running.Wait()
		if longest > uplink.DefaultLastPause {
			t.Errorf("an agent waited for %v", longest)
		}
		slices.Sort(all)
		// most is the greatest number of attempts within a while, of those between two times.
		most := func(after, to, within time.Duration) (most int) {
			first := 0
			for i, at := range all {
				for all[first] <= after || at-all[first] > within {
					if first++; first > i {
						break
					}
				}
				if at <= to {
					most = max(most, i-first+1)
				}
			}
			return most
		}
		// The first attempt is at once; the next are spread over the first pause, as chance has it.
		if n := most(0, uplink.DefaultFirstPause, uplink.DefaultFirstPause/20); n > agents/5 {
			t.Errorf("%d of %d came back within a twentieth of the first pause", n, agents)
		}
		if n := most(5*time.Minute, outage, time.Second); n > agents/10 {
			t.Errorf("%d of %d asked within a second, long after", n, agents)
		}
	})
}
