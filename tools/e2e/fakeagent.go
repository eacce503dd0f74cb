package e2e

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// fakeAgent says to a Manager what no real agent would.
type fakeAgent struct {
	t             *testing.T
	agent         contract.ID
	machine, boot contract.ID
	instance      contract.ID
	epoch         uint64
	next          uint64
	link          contract.Hash
	anchor        *usagev1.Anchor
	policy        *policyv1.Policy
	stream        agentv1.AgentService_ConnectClient
}

// meet connects an agent whose machine's clock is off, and waits to be welcomed.
func meet(t *testing.T, address string, clockOff time.Duration) *fakeAgent {
	t.Helper()
	a := &fakeAgent{t: t, agent: newID(), machine: newID(), boot: newID(), instance: newID(), next: 1}
	id := newID()
	a.epoch = binary.BigEndian.Uint64(id[:]) | 1
	a.anchor = &usagev1.Anchor{BootId: a.boot[:], UtcMillis: time.Now().Add(clockOff - time.Hour).UnixMilli()}
	a.anchor.AnchorId = contract.AnchorID(a.anchor)
	a.dial(address)
	hello := a.hello()
	hello.UtcMillis += clockOff.Milliseconds()
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}})
	// The Manager offers its policy after the welcome.
	a.hear("a policy", func(m *agentv1.ConnectResponse) bool { a.policy = m.GetPolicy(); return a.policy != nil })
	return a
}

// strange connects an agent that says a hello as somebody changed it, and gives
// the refusal.
func strange(t *testing.T, address string, change func(*agentv1.Hello)) *agentv1.Refusal {
	t.Helper()
	a := &fakeAgent{t: t, agent: newID(), machine: newID()}
	a.dial(address)
	hello := a.hello()
	change(hello)
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}})
	return a.refused()
}

func (a *fakeAgent) hello() *agentv1.Hello {
	return &agentv1.Hello{
		ProtocolVersion: 1, AgentId: a.agent[:], MachineId: a.machine[:], HostName: fmt.Sprintf("fake-%x", a.machine[:2]),
		OperatingSystem: "Linux", AgentVersion: "test", UtcMillis: time.Now().UnixMilli(),
	}
}

func (a *fakeAgent) dial(address string) {
	a.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), 30*time.Second)
	a.t.Cleanup(func() { cancel(); _ = conn.Close() })
	if a.stream, err = agentv1.NewAgentServiceClient(conn).Connect(ctx); err != nil {
		a.t.Fatal(err)
	}
}

func (a *fakeAgent) say(m *agentv1.ConnectRequest) {
	a.t.Helper()
	if err := a.stream.Send(m); err != nil {
		a.t.Fatalf("say: %v", err)
	}
}

func (a *fakeAgent) hear(what string, wanted func(*agentv1.ConnectResponse) bool) {
	a.t.Helper()
	for {
		m, err := a.stream.Recv()
		if err != nil {
			a.t.Fatalf("the Manager was to say %s: %v", what, err)
		}
		if wanted(m) {
			return
		}
	}
}

func (a *fakeAgent) refused() (r *agentv1.Refusal) {
	a.t.Helper()
	a.hear("a refusal", func(m *agentv1.ConnectResponse) bool { r = m.GetRefusal(); return r != nil })
	return r
}

// send sends records as the next frame and waits until they are acknowledged.
func (a *fakeAgent) send(records ...[]byte) {
	a.t.Helper()
	f := a.frame(records...)
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: f}})
	a.hear("an acknowledgement", func(m *agentv1.ConnectResponse) bool {
		if r := m.GetRefusal(); r != nil {
			a.t.Fatalf("refused: %v", r)
		}
		return m.GetAcknowledgement().GetLastSeq() == f.GetFirstSeq()+uint64(len(records))-1
	})
	a.next, a.link = f.GetFirstSeq()+uint64(len(records)), contract.Hash(f.GetChainAfter())
}

// sendRefused sends records as the next frame and gives the refusal.
func (a *fakeAgent) sendRefused(records ...[]byte) *agentv1.Refusal {
	a.t.Helper()
	a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: a.frame(records...)}})
	return a.refused()
}

func (a *fakeAgent) frame(records ...[]byte) *usagev1.Frame {
	after := a.link
	for _, r := range records {
		after = contract.Chain(after, r)
	}
	before := a.link
	return &usagev1.Frame{
		AgentId: a.agent[:], Epoch: a.epoch, Lane: usagev1.Lane_LANE_USAGE, FirstSeq: a.next, Records: records,
		ChainBefore: before[:], ChainAfter: after[:], Anchors: []*usagev1.Anchor{a.anchor}, MachineId: a.machine[:],
	}
}

// record is a usage event that is the nth of the frame sent next: the instance is
// opened, and busy from then on. A second of the boot timeline goes by between two
// events.
func (a *fakeAgent) record(n int, change func(*usagev1.UsageEvent)) []byte {
	a.t.Helper()
	seq := a.next + uint64(n)
	event, rule, alias, session := newID(), contract.ID{1}, contract.ID{2}, contract.ID{3}
	e := &usagev1.UsageEvent{
		SchemaVersion: 1, AgentId: a.agent[:], Epoch: a.epoch, Seq: seq, EventId: event[:],
		SourceKind: usagev1.SourceKind_SOURCE_KIND_AGENT, BootId: a.boot[:], AnchorId: a.anchor.GetAnchorId(),
		RuleId: rule[:], ApplicationId: a.policy.GetApplications()[0].GetApplicationId(), PrincipalAlias: alias[:],
		SessionId: session[:], InstanceId: a.instance[:],
		Transition: usagev1.Transition_TRANSITION_OPENED, Attention: usagev1.Attention_ATTENTION_BUSY,
		State: usagev1.State_STATE_ACTIVE, AtBootMillis: 1000 * int64(seq),
	}
	if change != nil {
		change(e)
	}
	b, err := proto.Marshal(&usagev1.Record{Fact: &usagev1.Record_Usage{Usage: e}})
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

// closing ends the instance, which was busy since a number of seconds.
func closing(seconds int64) func(*usagev1.UsageEvent) {
	return func(e *usagev1.UsageEvent) {
		e.Transition, e.Attention, e.State = usagev1.Transition_TRANSITION_CLOSED, 0, 0
		e.Closed = &usagev1.Interval{
			Attention: usagev1.Attention_ATTENTION_BUSY, State: usagev1.State_STATE_ACTIVE,
			FromBootMillis: e.GetAtBootMillis() - 1000*seconds, ToBootMillis: e.GetAtBootMillis(),
		}
	}
}

func newID() (id contract.ID) {
	if _, err := rand.Read(id[:]); err != nil {
		panic(errors.Join(errors.New("no randomness"), err))
	}
	return id
}
