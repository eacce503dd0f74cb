package uplink_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/uplink"
	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
	"github.com/cetrus/cetrus/proto/contract"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// rig is an uplink over a journal in memory.
type rig struct {
	journal  *journal
	uplink   *uplink.Uplink
	alias    contract.ID
	policies chan *policyv1.Policy
	revision atomic.Uint64
	adopted  chan []string
	stop     func()
}

func quick(managers ...string) uplink.Config {
	return uplink.Config{
		Managers: managers, FirstPause: time.Millisecond, LastPause: 20 * time.Millisecond,
		AckTimeout: 200 * time.Millisecond, RefusalPause: 100 * time.Millisecond,
		LivePeriod: 20 * time.Millisecond, HealthPeriod: time.Second, HelloTimeout: 2 * time.Second,
	}
}

// cleaner is what testing.TB and rapid.T have in common.
type cleaner interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
}

func start(tb cleaner, config uplink.Config, dial ...grpc.DialOption) *rig {
	tb.Helper()
	r := &rig{journal: newJournal(), alias: randomID(), policies: make(chan *policyv1.Policy, 16), adopted: make(chan []string, 16)}
	u, err := uplink.New(config, uplink.Deps{
		Hello: func() *agentv1.Hello {
			return &agentv1.Hello{ProtocolVersion: 1, AgentId: r.journal.agent[:], MachineId: r.journal.machine[:], PolicyRevision: r.revision.Load()}
		},
		Health: func() *agentv1.Health {
			return &agentv1.Health{UnacknowledgedRecords: uint64(r.journal.waiting()), AppliedPolicyRevision: r.revision.Load()}
		},
		Policy: func(_ context.Context, p *policyv1.Policy) error {
			r.revision.Store(p.GetRevision())
			r.policies <- p
			return nil
		},
		Adopt: func(addresses []string) error {
			r.adopted <- addresses
			return nil
		},
		Journals: []uplink.Journal{r.journal},
		Labels:   r.journal,
		Dial:     dial,
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatal(err)
	}
	r.uplink = u
	u.SetPersons([]*agentv1.Person{{PrincipalAlias: r.alias[:], UserName: "anna"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = u.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
	}
	tb.Cleanup(r.stop)
	return r
}

func (r *rig) append(n int) {
	for range n {
		r.journal.append(r.alias, int64(len(r.journal.records)))
	}
	r.uplink.Appended()
}

func until(tb cleaner, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain until %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func manager(tb cleaner, seed uint64) *uplinktest.Manager {
	tb.Helper()
	m, err := uplinktest.New(seed)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Stop)
	return m
}

func noProblems(tb cleaner, m *uplinktest.Manager) {
	tb.Helper()
	if problems := m.Problems(); len(problems) > 0 {
		tb.Fatal(errors.Join(problems...))
	}
}

func TestSendsWhatIsJournalled(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	r := start(t, quick(m.Address()))
	r.append(100)
	until(t, "all is acknowledged", func() bool { return r.journal.waiting() == 0 })
	r.append(3)
	until(t, "all is acknowledged", func() bool { return r.journal.waiting() == 0 })
	if m.Count() != 103 {
		t.Errorf("the Manager keeps %d records, want 103", m.Count())
	}
	noProblems(t, m)
	if s := r.uplink.Status(); !s.Connected || s.Problem != "" || s.LastAcknowledged.IsZero() {
		t.Errorf("status is %+v", s)
	}
}

// Whatever goes wrong on the way, every record arrives with the content that
// was journalled, and the journal gets empty.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	injected := make(map[string]int)
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rate := func(name string) int { return rapid.IntRange(0, 150).Draw(t, name) }
		faults := uplinktest.Faults{
			CutBefore: rate("cut before"), CutAfter: rate("cut after"), DropAck: rate("drop") / 3,
			RepeatAck: rate("repeat"), DelayAck: rate("delay"), SplitAck: rate("split"), Throttle: rate("throttle"),
		}
		m := manager(t, seed)
		m.SetFaults(faults)
		config := quick(m.Address())
		config.AckTimeout = 30 * time.Millisecond
		r := start(t, config)
		total := 0
		for _, n := range rapid.SliceOfN(rapid.IntRange(1, 60), 1, 5).Draw(t, "appended") {
			r.append(n)
			total += n
			if rapid.Bool().Draw(t, "cut all") {
				m.CutAll()
			}
		}
		until(t, "all is acknowledged", func() bool { return r.journal.waiting() == 0 })
		kept := m.Records()[uplinktest.Key{Agent: r.journal.agent, Epoch: r.journal.epoch, Lane: r.journal.lane}]
		if len(kept) != total {
			t.Fatalf("the Manager keeps %d records, %d were journalled", len(kept), total)
		}
		for i, raw := range r.journal.raw {
			if string(kept[uint64(i+1)]) != string(raw) {
				t.Fatalf("record %d arrived as something else", i+1)
			}
		}
		noProblems(t, m)
		for name, n := range m.Injected() {
			injected[name] += n
		}
		r.stop()
		m.Stop()
	})
	t.Logf("faults injected: %v", injected)
	for _, name := range []string{"cut before", "cut after", "ack dropped", "ack repeated", "ack delayed", "ack split", "throttle"} {
		// A short run draws too few of them to tell.
		if injected[name] == 0 && !testing.Short() {
			t.Errorf("the fault %q never happened", name)
		}
	}
}

func TestTakesTheNextManager(t *testing.T) {
	t.Parallel()
	const address = "127.0.0.1:1" // nobody listens there, and the kernel gives it to nobody
	first, second := manager(t, 1), manager(t, 2)
	r := start(t, quick(address, first.Address(), second.Address()))
	r.append(5)
	until(t, "the first living Manager has all", func() bool { return first.Count() == 5 && r.journal.waiting() == 0 })
	first.Stop()
	r.append(5)
	until(t, "the second Manager has the rest", func() bool { return second.Count() == 5 && r.journal.waiting() == 0 })
	if s := r.uplink.Status(); s.Manager != second.Address() || s.Reconnects == 0 {
		t.Errorf("status is %+v", s)
	}
}

func TestWaitsForAManager(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	address := m.Address()
	m.Stop()
	r := start(t, quick(address))
	r.append(9)
	until(t, "the failure is told", func() bool { return strings.Contains(r.uplink.Status().Problem, address) })
	again, err := uplinktest.Listen(address, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Stop)
	until(t, "all is acknowledged", func() bool { return r.journal.waiting() == 0 })
	noProblems(t, again)
}

func TestNewEpoch(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	r := start(t, quick(m.Address()))
	r.append(10)
	until(t, "the first ones are acknowledged", func() bool { return r.journal.waiting() == 0 })
	first := r.journal.Epoch()
	m.Refuse(&agentv1.Refusal{Reason: contract.ReasonConflict, NewEpoch: true})
	r.append(40)
	until(t, "all is acknowledged", func() bool { return r.journal.Epoch() != first && r.journal.waiting() == 0 })
	second := m.Records()[uplinktest.Key{Agent: r.journal.agent, Epoch: r.journal.Epoch(), Lane: r.journal.lane}]
	var numbers []int64
	for _, seq := range slices.Sorted(maps.Keys(second)) {
		record := new(usagev1.Record)
		if err := proto.Unmarshal(second[seq], record); err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, record.GetUsage().GetAtBootMillis())
	}
	if len(numbers) != 40 || numbers[0] != 10 || numbers[39] != 49 {
		t.Errorf("the new epoch holds %v, want 10 to 49", numbers)
	}
	noProblems(t, m)
}

func TestHoldsWhatIsRefused(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	r := start(t, quick(m.Address()))
	m.Refuse(&agentv1.Refusal{Reason: contract.ReasonClockOutOfRange, Message: "ten years off"})
	r.append(4)
	until(t, "the status tells", func() bool { return strings.Contains(r.uplink.Status().Problem, "ten years off") })
	if r.journal.waiting() != 4 {
		t.Errorf("%d records wait, want 4", r.journal.waiting())
	}
	until(t, "it is offered again", func() bool { return r.journal.waiting() == 0 })
	if p := r.uplink.Status().Problem; p != "" {
		t.Errorf("the problem is still told: %s", p)
	}
}

func TestRefusedAgentComesBack(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	m.Refuse(&agentv1.Refusal{Reason: contract.ReasonForeignAccount, Message: "not one of ours"})
	r := start(t, quick(m.Address()))
	until(t, "the status tells", func() bool { return strings.Contains(r.uplink.Status().Problem, "not one of ours") })
	r.append(1)
	until(t, "it is let in", func() bool { return r.journal.waiting() == 0 })
}

func TestPolicyArrives(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	r := start(t, quick(m.Address()))
	m.SetPolicy(&policyv1.Policy{AccountId: make([]byte, 16), Revision: 3})
	if p := <-r.policies; p.GetRevision() != 3 {
		t.Errorf("policy is %v", p)
	}
	until(t, "health tells the revision", func() bool {
		h := m.Health()
		return len(h) > 0 && h[len(h)-1].GetAppliedPolicyRevision() == 3
	})
	m.CutAll()
	until(t, "it connects again", func() bool { h := m.Hellos(); return len(h) == 2 && h[1].GetPolicyRevision() == 3 })
}

// Live snapshots come within moments though a great backlog waits, and the
// newest of a session is what comes in the end.
func TestLiveIsNotStarved(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	config := quick(m.Address())
	r := start(t, config)
	r.append(20_000)
	session := randomID()
	for serial := uint64(1); serial <= 300; serial++ {
		r.uplink.ShowLive([]*usagev1.LiveSnapshot{{AgentId: r.journal.agent[:], SessionId: session[:], Serial: serial}})
	}
	until(t, "the newest snapshot has come", func() bool {
		live := m.Live()
		return len(live) > 0 && live[len(live)-1].GetSerial() == 300
	})
	if r.journal.waiting() == 0 {
		t.Log("the backlog was sent before the snapshot; the machine is too fast for this test to tell")
	}
	if n := len(m.Live()); n > 50 {
		t.Errorf("%d snapshots were sent of 300; they are to be replaced, not queued", n)
	}
}

func TestLabelsAreSentUntilKept(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	r := start(t, quick(m.Address()))
	id := randomID()
	r.journal.mu.Lock()
	r.journal.labels[id] = "bridge.dwg"
	r.journal.mu.Unlock()
	r.uplink.Appended()
	until(t, "the label is let go of", func() bool { return len(r.journal.PendingLabels(1)) == 0 })
	if m.Labels()[id] != "bridge.dwg" {
		t.Errorf("labels are %v", m.Labels())
	}
}

func TestDialer(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	dialled := make(chan string, 8)
	config := quick("manager.example:10041")
	config.TLS.Plain = true
	r := start(t, config, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		dialled <- address
		return new(net.Dialer).DialContext(ctx, "tcp", m.Address())
	}))
	r.append(1)
	until(t, "it is acknowledged", func() bool { return r.journal.waiting() == 0 })
	if a := <-dialled; a != "manager.example:10041" {
		t.Errorf("dialled %q", a)
	}
}

func TestBadConfigIsNamed(t *testing.T) {
	t.Parallel()
	if _, err := uplink.New(uplink.Config{}, uplink.Deps{}); err == nil || !strings.Contains(err.Error(), "host:port") {
		t.Errorf("error is %v", err)
	}
}

// The end of a session is told again over every new connection for as long as a
// snapshot of it could still be shown: nobody knows what a lost connection has carried.
func TestEndedIsToldAgain(t *testing.T) {
	t.Parallel()
	m := manager(t, 12)
	r := start(t, quick(m.Address()))
	session := randomID()
	snapshot := func(serial uint64, ended bool, valid int64) *usagev1.LiveSnapshot {
		return &usagev1.LiveSnapshot{AgentId: r.journal.agent[:], SessionId: session[:], Serial: serial, Ended: ended, ValidMillis: valid}
	}
	ends := func() (n int) {
		for _, s := range m.Live() {
			if s.GetEnded() {
				n++
			}
		}
		return n
	}
	reconnect := func() {
		before := len(m.Hellos())
		m.CutAll()
		until(t, "it has reconnected", func() bool { return len(m.Hellos()) > before && r.uplink.Status().Connected })
	}
	r.uplink.ShowLive([]*usagev1.LiveSnapshot{snapshot(1, false, 60_000)})
	r.uplink.ShowLive([]*usagev1.LiveSnapshot{snapshot(2, true, 60_000)})
	until(t, "the end is told", func() bool { return ends() == 1 })
	reconnect()
	until(t, "the end is told again", func() bool { return ends() == 2 })

	r.uplink.ShowLive([]*usagev1.LiveSnapshot{snapshot(3, true, 1)})
	until(t, "the short-lived end is told", func() bool { return ends() == 3 })
	reconnect()
	until(t, "everything is shown", r.uplink.Shown)
	if n := ends(); n != 3 {
		t.Errorf("an end is told %d times, though no snapshot could still be shown", n)
	}
}
