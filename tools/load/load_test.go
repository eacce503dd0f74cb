package load

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// smallCorpus is one instance with two intervals.
func smallCorpus() *Corpus {
	instance, application := make([]byte, 16), make([]byte, 16)
	instance[0], application[0] = 1, 1
	event := func(transition usagev1.Transition, from, at int64, attention usagev1.Attention) *usagev1.UsageEvent {
		e := &usagev1.UsageEvent{InstanceId: instance, ApplicationId: application, RuleId: application, Transition: transition, AtBootMillis: at}
		if attention != 0 {
			e.Closed = &usagev1.Interval{Attention: attention, State: usagev1.State_STATE_ACTIVE, FromBootMillis: from, ToBootMillis: at}
		}
		return e
	}
	return &Corpus{Sessions: []Session{{SpanMillis: 9000, Events: []*usagev1.UsageEvent{
		event(usagev1.Transition_TRANSITION_OPENED, 0, 1000, 0),
		event(usagev1.Transition_TRANSITION_CHANGED, 1000, 3000, usagev1.Attention_ATTENTION_BUSY),
		event(usagev1.Transition_TRANSITION_CLOSED, 3000, 7000, usagev1.Attention_ATTENTION_IDLE),
	}}}}
}

func TestSourceKeepsTheChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ledger := NewLedger()
		source := NewSource(smallCorpus(), SourceConfig{Number: 3, Seed: rapid.Uint64().Draw(t, "seed"), StartUTCMillis: 1_700_000_000_000, Ledger: ledger})
		var chain contract.Hash
		seq := uint64(0)
		got := map[Key]int64{}
		for range rapid.IntRange(1, 6).Draw(t, "frames") {
			frame, err := source.Next(rapid.IntRange(1, 20).Draw(t, "records"))
			if err != nil {
				t.Fatal(err)
			}
			if frame.GetFirstSeq() != seq+1 || [32]byte(frame.GetChainBefore()) != chain {
				t.Fatalf("frame begins at %d with another chain than %d ended with", frame.GetFirstSeq(), seq)
			}
			for _, bytes := range frame.GetRecords() {
				record := &usagev1.Record{}
				if err := proto.Unmarshal(bytes, record); err != nil {
					t.Fatal(err)
				}
				seq++
				if record.GetUsage().GetSeq() != seq {
					t.Fatalf("record %d says %d", seq, record.GetUsage().GetSeq())
				}
				chain = contract.Chain(chain, bytes)
				if c := record.GetUsage().GetClosed(); c != nil {
					got[Key{Instance: contract.ID(record.GetUsage().GetInstanceId()), Attention: c.GetAttention()}] += c.GetToBootMillis() - c.GetFromBootMillis()
				}
			}
			if [32]byte(frame.GetChainAfter()) != chain {
				t.Fatal("the chain after the frame is not that of its records")
			}
		}
		if c := ledger.Compare(got); !c.Equal() || uint64(ledger.Events()) != seq {
			t.Fatalf("the ledger disagrees with the records: %+v", c)
		}
	})
}

// TestALossCannotHideADoubling: the sums agree, the comparison does not.
func TestALossCannotHideADoubling(t *testing.T) {
	ledger := NewLedger()
	one, two := Key{Instance: contract.ID{1}, Attention: 5}, Key{Instance: contract.ID{2}, Attention: 5}
	ledger.AddMillis(one, 100)
	ledger.AddMillis(two, 100)
	c := ledger.Compare(map[Key]int64{one: 150, two: 50})
	if c.Equal() || c.LostMillis != 50 || c.DoubledMillis != 50 || c.Keys != 2 {
		t.Errorf("%+v", c)
	}
	if c := ledger.Compare(map[Key]int64{one: 100, two: 100, {Instance: contract.ID{3}}: 7}); c.DoubledMillis != 7 || !c.Differences[0].Surprises {
		t.Errorf("what the truth does not know: %+v", c)
	}
}

// moody is a Manager that acknowledges what it likes and cuts connections.
type moody struct {
	agentv1.UnimplementedAgentServiceServer
	mu   sync.Mutex
	rand *rand.Rand
	seen map[string]map[uint64]bool // acknowledged seqs by agent
}

func (m *moody) Connect(stream agentv1.AgentService_ConnectServer) error {
	hello, err := stream.Recv()
	if err != nil || hello.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "hello first")
	}
	agent := string(hello.GetHello().GetAgentId())
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{}}}); err != nil {
		return err
	}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		frame := request.GetFrame()
		if frame == nil {
			continue
		}
		m.mu.Lock()
		mood := m.rand.IntN(10)
		if mood > 0 {
			if m.seen[agent] == nil {
				m.seen[agent] = map[uint64]bool{}
			}
			for i := range frame.GetRecords() {
				m.seen[agent][frame.GetFirstSeq()+uint64(i)] = true
			}
		}
		m.mu.Unlock()
		if mood <= 1 { // lost before, or right after it was taken
			return status.Error(codes.Unavailable, "cut")
		}
		if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Acknowledgement{Acknowledgement: &agentv1.Acknowledgement{
			Epoch: frame.GetEpoch(), FirstSeq: frame.GetFirstSeq(), LastSeq: frame.GetFirstSeq() + uint64(len(frame.GetRecords())) - 1,
		}}}); err != nil {
			return err
		}
	}
}

func TestFleetDeliversEverythingToAMoodyManager(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	manager := &moody{rand: rand.New(rand.NewPCG(1, 2)), seen: map[string]map[uint64]bool{}}
	server := grpc.NewServer()
	agentv1.RegisterAgentServiceServer(server, manager)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer server.Stop()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ledger := NewLedger()
	const streams, events = 5, 60
	result, err := Run(ctx, Config{
		Address: listener.Addr().String(), Corpus: smallCorpus(), Streams: streams, EventsPerStream: events,
		MinBatch: 1, MaxBatch: 7, Window: 3, Seed: 4, Ledger: ledger, Prepared: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if result.Events != streams*events || ledger.Events() != streams*events {
		t.Errorf("%d events acknowledged, %d made, want %d", result.Events, ledger.Events(), streams*events)
	}
	if result.Percentile(0.99) < result.Percentile(0.5) || result.Percentile(0.5) <= 0 {
		t.Errorf("latencies: %v", result.Latency)
	}
	for agent, seen := range manager.seen {
		if len(seen) != events {
			t.Errorf("agent %x: %d of %d records arrived", agent, len(seen), events)
		}
	}
}
