package console

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/load"
	"github.com/cetrus/cetrus/tools/stack"
)

const (
	// changesShown is how often something changes at an agent, and shownWithin how soon all of it must stand on the
	// page.
	changesShown = 20
	shownWithin  = 2 * time.Second
)

// showsChangesSoon measures how long it takes from a change at an agent to the changed line in the browser: by the
// Manager, the platform, the console and its stream. The page notes when it changed, so that asking it costs
// nothing that is measured.
func showsChangesSoon(t *testing.T, p *stack.Platform, b *browser) {
	t.Helper()
	corpus, err := load.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	source := load.NewSource(corpus, load.SourceConfig{Number: 1, Seed: uint64(time.Now().UnixNano()), StartUTCMillis: time.Now().Add(-time.Hour).UnixMilli()})
	conn, err := grpc.NewClient(p.ManagerAgents, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say := func(m *agentv1.ConnectRequest) {
		t.Helper()
		if err := stream.Send(m); err != nil {
			_, why := stream.Recv()
			t.Fatalf("%v: %v", err, why)
		}
	}
	hello := source.Hello()
	hello.UtcMillis = time.Now().UnixMilli()
	say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}})
	say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Person{Person: source.Person()}})
	agent, machine := source.Agent(), source.Machine()
	instance := agent // any id will do
	const valid = 90_000
	serial := uint64(0)
	change := func() (since int64) {
		t.Helper()
		serial++
		since = time.Now().UnixMilli() - int64(serial) // each change has its own
		attention, state := usagev1.Attention_ATTENTION_BUSY, usagev1.State_STATE_ACTIVE
		if serial%2 == 0 {
			attention, state = usagev1.Attention_ATTENTION_IDLE, usagev1.State_STATE_INACTIVE
		}
		say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Live{Live: &usagev1.LiveSnapshot{
			AgentId: agent[:], MachineId: machine[:], SessionId: machine[:], PrincipalAlias: source.Person().GetPrincipalAlias(), RunId: 1, Serial: serial,
			ObservedUtcMillis: time.Now().UnixMilli(), ValidMillis: valid,
			Open: []*usagev1.OpenInstance{{InstanceId: instance[:], ApplicationId: machine[:], RuleId: machine[:], Attention: attention, State: state, SinceUtcMillis: since, OpenedUtcMillis: since - 60_000}},
		}}})
		return since
	}

	b.visit("/now")
	b.until("the stream", "document.querySelector('[data-live-state]').textContent === 'Live'")
	if _, err := evaluate[bool](b, `(() => {
		window.shown = {};
		const look = () => { for (const t of document.querySelectorAll("#session-`+machine.String()+` td:nth-child(5) time")) window.shown[Date.parse(t.dataset.elapsed)] ??= Date.now(); };
		new MutationObserver(look).observe(document.querySelector("[data-live-table]"), {childList: true, subtree: true});
		return true;
	})()`); err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for n := range changesShown + 1 {
		began := time.Now()
		since := change()
		b.until("a change", fmt.Sprintf("window.shown[%d]", since))
		at, err := evaluate[int64](b, fmt.Sprintf("window.shown[%d]", since))
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 { // the first brings names along
			took = append(took, time.UnixMilli(at).Sub(began))
		}
	}
	slices.Sort(took)
	t.Logf("from a change at an agent to the browser: median %v, of %d the slowest %v", took[len(took)/2].Round(time.Millisecond), len(took), took[len(took)-1].Round(time.Millisecond))
	if slowest := took[len(took)-1]; slowest > shownWithin {
		t.Errorf("a change at an agent was shown after %v, which is more than %v", slowest, shownWithin)
	}
}
