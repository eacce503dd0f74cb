package ingest

import (
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/agenttest"
)

// FuzzFrame holds our reading of a frame against the generated code's.
func FuzzFrame(f *testing.F) {
	j := agenttest.NewJournal(rand.New(rand.NewPCG(1, 2)))
	for _, records := range []int{1, 3} {
		frame := j.Frame(records)
		frame.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		raw, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(append(raw, raw...))
		f.Add(raw[:len(raw)/2])
	}
	f.Add(protowire.AppendVarint(protowire.AppendTag(nil, frameAgent, protowire.VarintType), 7))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want usagev1.Frame
		wantErr := proto.Unmarshal(raw, &want)
		var got frame
		err := got.parse(raw)
		if wantErr == nil && err != nil {
			t.Fatalf("generated code reads it, we do not: %v", err)
		}
		if wantErr != nil {
			// We do not look into anchors before check; nothing else may differ.
			if err == nil && len(got.anchors) == 0 {
				t.Fatalf("we read it, generated code does not: %v", wantErr)
			}
			return
		}
		same := string(got.agent) == string(want.GetAgentId()) && got.epoch == want.GetEpoch() && got.lane == int32(want.GetLane()) &&
			got.first == want.GetFirstSeq() && string(got.before) == string(want.GetChainBefore()) && string(got.after) == string(want.GetChainAfter()) &&
			string(got.machine) == string(want.GetMachineId()) && string(got.trace) == want.GetTraceparent() && len(got.anchors) == len(want.GetAnchors()) &&
			slices.EqualFunc(got.records, want.GetRecords(), func(a, b []byte) bool { return string(a) == string(b) })
		if !same {
			t.Fatalf("read differently:\n%+v\n%v", got, &want)
		}
		newChecker().check(&got, contract.ID{})
	})
}

// FuzzRequest holds our reading of a request against the generated code's.
func FuzzRequest(f *testing.F) {
	for _, m := range []*agentv1.ConnectRequest{
		{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{ProtocolVersion: 1}}},
		{Message: &agentv1.ConnectRequest_Health{Health: &agentv1.Health{Paused: true}}},
		{Message: &agentv1.ConnectRequest_Frame{Frame: &usagev1.Frame{Epoch: 7}}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		kind, body, err := parseRequest(raw)
		var want agentv1.ConnectRequest
		if proto.Unmarshal(raw, &want) != nil || err != nil {
			return
		}
		again := protowire.AppendTag(nil, kind, protowire.BytesType)
		again = protowire.AppendBytes(again, body)
		var got agentv1.ConnectRequest
		if kind != 0 {
			if err := proto.Unmarshal(again, &got); err != nil {
				t.Fatal(err)
			}
		}
		want.ProtoReflect().SetUnknown(nil)
		got.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(&want, &got) {
			t.Fatalf("read differently:\n%v\n%v", &got, &want)
		}
	})
}

func TestTheChainIsTheContracts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 200), 1, 20).Draw(t, "records")
		var before contract.Hash
		copy(before[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "before"))
		after := before
		for _, r := range records {
			after = contract.Chain(after, r)
		}
		f := &frame{first: 2, records: records, before: before[:], after: after[:]}
		if r := newChecker().checkChain(f); r != nil {
			t.Fatal(r.message)
		}
		f.after = before[:]
		if newChecker().checkChain(f) == nil {
			t.Fatal("a wrong chain was taken")
		}
	})
}

// TestSpansAreTheNumbersAdded compares with a plain set of numbers.
func TestSpansAreTheNumbersAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var spans []span
		set := make(map[uint64]bool)
		for range rapid.IntRange(1, 30).Draw(t, "adds") {
			first := rapid.Uint64Range(1, 60).Draw(t, "first")
			last := first + rapid.Uint64Range(0, 9).Draw(t, "more")
			spans = addSpan(spans, span{first, last})
			for n := first; n <= last; n++ {
				set[n] = true
			}
		}
		count := uint64(0)
		for i, s := range spans {
			if s.first > s.last || i > 0 && spans[i-1].last+1 >= s.first {
				t.Fatalf("spans touch or are out of order: %v", spans)
			}
			for n := s.first; n <= s.last; n++ {
				if !set[n] {
					t.Fatalf("%d was never added", n)
				}
				count++
			}
		}
		if count != uint64(len(set)) {
			t.Fatalf("%d numbers in spans, %d added", count, len(set))
		}
	})
}
