package ingest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// talk is one connection of an agent, driven by hand.
type talk struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse]
	heard  chan *agentv1.ConnectResponse
	cut    func()
}

func converse(t *testing.T, address string, hello *agentv1.Hello) *talk {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &talk{t: t, stream: stream, heard: make(chan *agentv1.ConnectResponse, 64), cut: func() {
		cancel()
		_ = conn.Close()
	}}
	t.Cleanup(c.cut)
	hello.ProtocolVersion, hello.UtcMillis = 1, time.Now().UnixMilli()
	c.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}})
	go func() {
		defer close(c.heard)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			c.heard <- m
		}
	}()
	c.hear("a welcome", func(m *agentv1.ConnectResponse) bool { return m.GetWelcome() != nil })
	return c
}

func (c *talk) say(m *agentv1.ConnectRequest) {
	c.t.Helper()
	if err := c.stream.Send(m); err != nil {
		c.t.Fatal(err)
	}
}

func (c *talk) report(h *agentv1.Health) {
	c.t.Helper()
	h.UtcMillis = time.Now().UnixMilli()
	c.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Health{Health: h}})
}

const patience = 30 * time.Second

func (c *talk) hear(what string, wanted func(*agentv1.ConnectResponse) bool) *agentv1.ConnectResponse {
	c.t.Helper()
	late := time.After(patience)
	for {
		select {
		case m, ok := <-c.heard:
			if !ok {
				c.t.Fatalf("the connection ended before %s", what)
			}
			if wanted(m) {
				return m
			}
		case <-late:
			c.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func isProbe(m *agentv1.ConnectResponse) bool { return m.GetProbe() != nil }

func helloOf(run uint64, host string) *agentv1.Hello {
	agent, machine := contract.ID{9}, contract.ID{8}
	return &agentv1.Hello{AgentId: agent[:], MachineId: machine[:], HostName: host, RunId: run}
}

func info(r *running) (copied string, connected bool) {
	for _, a := range r.server.Agents() {
		if a.AgentID == (contract.ID{9}) {
			return a.Copied, a.Connected
		}
	}
	return "", false
}

func TestTwoMachinesUnderOneID(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig{})
	older := converse(t, r.address, helloOf(1, "golden"))
	younger := converse(t, r.address, helloOf(2, "clone"))
	probe := older.hear("a probe", isProbe).GetProbe()
	// An answer to something else proves nothing.
	older.report(&agentv1.Health{Probe: probe.GetNonce() + 1, UnacknowledgedRecords: 42})
	for late := time.Now().Add(patience); r.server.Agents()[0].Unacknowledged != 42; <-time.After(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("waited in vain for the report that answers something else")
		}
	}
	if copied, _ := info(r); copied != "" {
		t.Fatalf("without an answer it is told: %s", copied)
	}
	older.report(&agentv1.Health{Probe: probe.GetNonce()})
	refusal := younger.hear("a refusal", func(m *agentv1.ConnectResponse) bool { return m.GetRefusal() != nil }).GetRefusal()
	if !refusal.GetBeginAnew() || refusal.GetReason() != contract.ReasonCopied {
		t.Errorf("the refusal is %v", refusal)
	}
	if copied, _ := info(r); !strings.Contains(copied, "golden") || !strings.Contains(copied, "clone") {
		t.Errorf("the alarm says %q", copied)
	}
}

// A machine that was cloned with its memory goes on in the same start: it is known by both
// being alive.
func TestACloneWithItsMemory(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig{})
	older := converse(t, r.address, helloOf(1, "vm"))
	younger := converse(t, r.address, helloOf(1, "vm"))
	older.report(&agentv1.Health{Probe: older.hear("a probe", isProbe).GetProbe().GetNonce()})
	refusal := younger.hear("a refusal", func(m *agentv1.ConnectResponse) bool { return m.GetRefusal() != nil }).GetRefusal()
	if !refusal.GetBeginAnew() {
		t.Errorf("the refusal is %v", refusal)
	}
}

// Connections that are left over, from a machine that lost its power or of the same start, and
// a bequest are no second machine.
func TestWhatIsNoSecondMachine(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig{})
	converse(t, r.address, helloOf(1, "ws")) // dumb from here on, as if its machine were gone
	again := converse(t, r.address, helloOf(2, "ws"))
	same := converse(t, r.address, helloOf(2, "ws"))
	bequest := helloOf(3, "clone")
	bequest.Bequest = true
	heir := converse(t, r.address, bequest)
	heir.report(&agentv1.Health{UnacknowledgedRecords: 77})
	// A later start challenges all that are left: the messages before have been heard then.
	converse(t, r.address, helloOf(4, "ws"))
	again.hear("a probe", isProbe)
	same.hear("a probe", isProbe)
	for {
		select {
		case m := <-heir.heard:
			if isProbe(m) || m.GetRefusal() != nil {
				t.Errorf("the bequest hears %v", m)
			}
			continue
		default:
		}
		break
	}
	if copied, connected := info(r); copied != "" || !connected {
		t.Errorf("copied: %q, connected: %t", copied, connected)
	}
	for _, a := range r.server.Agents() {
		if a.Unacknowledged == 77 {
			t.Error("the bequest's health stands for the agent's")
		}
	}
}

// toldOf is all that the platform was told of agents.
func toldOf(t *testing.T, r *running) (list []*agentv1.AgentState) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, raw := range r.published[contract.HealthSubject(testAccount, testManager)] {
		told := new(agentv1.AgentStates)
		if err := proto.Unmarshal(raw, told); err != nil {
			t.Fatal(err)
		}
		list = append(list, told.GetAgents()...)
	}
	return list
}

// The platform hears of an agent when something of it changes, once more when it asks,
// and that it has gone.
func TestHealthIsTold(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig{})
	states := func() []*agentv1.AgentState { return toldOf(t, r) }
	await := func(what string, holds func(*agentv1.AgentState) bool) {
		t.Helper()
		for late := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
			if list := states(); len(list) > 0 && holds(list[len(list)-1]) {
				return
			}
			if time.Now().After(late) {
				t.Fatalf("waited in vain until %s: %v", what, states())
			}
		}
	}
	c := converse(t, r.address, helloOf(1, "ws"))
	await("it is connected", func(s *agentv1.AgentState) bool { return s.GetConnected() && s.GetHostName() == "ws" })
	c.report(&agentv1.Health{Paused: true, Unsupported: []string{strings.Repeat("x", 10_000)}})
	await("it is paused", func(s *agentv1.AgentState) bool {
		return s.GetHealth().GetPaused() && len(s.GetHealth().GetUnsupported()[0]) == 255
	})
	before := len(states())
	r.server.RepeatHealth()
	await("it is told again", func(*agentv1.AgentState) bool { return len(states()) > before })
	c.cut()
	await("it has gone", func(s *agentv1.AgentState) bool { return !s.GetConnected() })
}

// What agents say has bounds: none keeps others from being told of.
func TestWordyAgentsKeepNobodyFromBeingToldOf(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig{})
	words := strings.Repeat("€", 1000)
	var wordy agentv1.Health
	for range 100 {
		wordy.Plugins = append(wordy.Plugins, &agentv1.PluginHealth{Name: words, Version: words, Message: words})
	}
	wordy.Release = &agentv1.ReleaseReport{System: strings.Repeat(words, 100), Message: strings.Repeat(words, 100)}
	wordy.PluginReleases = &agentv1.PluginReleases{System: words}
	for range 100 {
		wordy.PluginReleases.Plugins = append(wordy.PluginReleases.Plugins, &agentv1.ReleaseReport{Name: words[:900], System: words[:900], Message: words[:900]})
	}
	// A field that only a newer Manager knows.
	wordy.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), strings.Repeat(words, 100)))
	for n := range 10 {
		hello := helloOf(1, "wordy")
		hello.AgentId = []byte{15: byte(n + 1)}
		converse(t, r.address, hello).report(proto.CloneOf(&wordy))
	}
	converse(t, r.address, helloOf(1, "ws"))
	for late := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		told := make(map[string]bool)
		for _, s := range toldOf(t, r) {
			if s.GetHostName() == "ws" || len(s.GetHealth().GetPlugins()) > 0 {
				told[string(s.GetAgentId())] = true
			}
			if size := proto.Size(s); size > 256<<10 {
				t.Fatalf("a state has %d bytes", size)
			}
		}
		if len(told) == 11 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("of 11 agents %d were told of", len(told))
		}
	}
}
