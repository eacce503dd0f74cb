package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/load"
)

// Load is an order for a process that generates load.
type Load struct {
	Address string
	// Out is the file that takes the Loaded, as JSON.
	Out string
	// Raw tells that the server is a pass-through, which numbers messages.
	Raw bool
	// Streams agents keep Window frames each unacknowledged.
	Streams, Window int
	// MinRecords and MaxRecords bound the records of a frame: the sizes between them
	// follow each other in turn.
	MinRecords, MaxRecords int
	// Frames is how many frames a stream sends at most.
	Frames int
	// Span is for how long frames are sent.
	Span time.Duration
	// Pace is the time from one frame of a stream to its next; 0: as fast as
	// acknowledgements come.
	Pace time.Duration
}

// Loaded is what came of a Load.
type Loaded struct {
	// Events and Frames are what was acknowledged.
	Events, Frames int64
	Seconds        float64
	// P50 and P99 are from sending a frame to its acknowledgement.
	P50, P99 time.Duration
	// CPU is the generator's own.
	CPU time.Duration
	// ServerCPU is what the server took meanwhile; whoever started it fills it in.
	ServerCPU time.Duration
}

func (l Loaded) rate() float64 { return float64(l.Events) / max(l.Seconds, 1e-9) }

// variants is how many different journals the streams send. The records of a
// stream are those of its variant, only the frame's ids are its own: so that the
// generator, which shares the processors with what is measured, does next to
// nothing while the clock runs.
const variants = 4

// journal is the frames of a variant.
type journal struct {
	source *load.Source
	tails  [][]byte // of the n-th frame: everything but its ids
	count  []int
	last   []uint64
}

func (l Load) journals() ([]*journal, error) {
	corpus, err := load.Recorded()
	if err != nil {
		return nil, err
	}
	all := make([]*journal, variants)
	for v := range all {
		j := &journal{source: load.NewSource(corpus, load.SourceConfig{Number: v, Seed: 1, StartUTCMillis: time.Now().Add(-90 * 24 * time.Hour).UnixMilli()})}
		for n := range l.Frames {
			f, err := j.source.Next(l.MinRecords + n%(l.MaxRecords-l.MinRecords+1))
			if err != nil {
				return nil, err
			}
			j.count, j.last = append(j.count, len(f.GetRecords())), append(j.last, j.source.Seq())
			f.AgentId, f.MachineId, f.Epoch = nil, nil, 0
			tail, err := proto.Marshal(f)
			if err != nil {
				return nil, err
			}
			j.tails = append(j.tails, tail)
		}
		all[v] = j
	}
	return all, nil
}

// ready is a message whose bytes are ready.
type ready struct{ parts mem.BufferSlice }

type readyCodec struct{ encoding.CodecV2 }

func (c readyCodec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*ready); ok {
		return m.parts, nil
	}
	return c.CodecV2.Marshal(v)
}

// speaker is one agent.
type speaker struct {
	load           Load
	journal        *journal
	agent, machine contract.ID
	epoch          uint64
	conn           *grpc.ClientConn
	stream         agentv1.AgentService_ConnectClient
	sent           []time.Time
	done           int
	latency        []time.Duration
	events         int64
}

// message is the n-th frame with the speaker's ids before it.
func (s *speaker) message(n int) *ready {
	ids := protowire.AppendTag(nil, 1, protowire.BytesType)
	ids = protowire.AppendBytes(ids, s.agent[:])
	ids = protowire.AppendTag(ids, 2, protowire.Fixed64Type)
	ids = protowire.AppendFixed64(ids, s.epoch)
	ids = protowire.AppendTag(ids, 9, protowire.BytesType)
	ids = protowire.AppendBytes(ids, s.machine[:])
	head := protowire.AppendTag(nil, 2, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(ids)+len(s.journal.tails[n])))
	return &ready{mem.BufferSlice{mem.SliceBuffer(append(head, ids...)), mem.SliceBuffer(s.journal.tails[n])}}
}

func (s *speaker) connect(ctx context.Context) (err error) {
	s.conn, err = grpc.NewClient("passthrough:///"+s.load.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(readyCodec{encoding.GetCodecV2("proto")})),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(32<<10))
	if err != nil {
		return err
	}
	if s.stream, err = agentv1.NewAgentServiceClient(s.conn).Connect(ctx); err != nil {
		return err
	}
	hello := s.journal.source.Hello()
	hello.AgentId, hello.MachineId, hello.UtcMillis = s.agent[:], s.machine[:], time.Now().UnixMilli()
	if err := s.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	if !s.load.Raw {
		// The variant's alias is this machine's person: many machines, four people.
		if err := s.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Person{Person: s.journal.source.Person()}}); err != nil {
			return err
		}
	}
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if m.GetWelcome() != nil {
			break
		}
	}
	// The first frame warms up: what a server does once for a stream is no part of
	// the measured time.
	return s.send(ctx, func() bool { return len(s.sent) < 1 })
}

// send sends frames while more says so, then waits for what is unacknowledged.
func (s *speaker) send(ctx context.Context, more func() bool) error {
	for {
		for len(s.sent)-s.done < s.load.Window && len(s.sent) < s.load.Frames && more() {
			if n := len(s.sent); n > 1 && s.load.Pace > 0 && !pause(ctx, time.Until(s.sent[n-1].Add(s.load.Pace))) {
				return ctx.Err()
			}
			m := s.message(len(s.sent))
			s.sent = append(s.sent, time.Now())
			if err := s.stream.SendMsg(m); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		if s.done == len(s.sent) {
			return nil
		}
		m, err := s.stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if refusal := m.GetRefusal(); refusal != nil {
			return fmt.Errorf("refused: %s", refusal)
		}
		for a := m.GetAcknowledgement(); a != nil && s.done < len(s.sent) && s.until(s.done) <= a.GetLastSeq(); s.done++ {
			s.latency = append(s.latency, time.Since(s.sent[s.done]))
			s.events += int64(s.journal.count[s.done])
		}
	}
}

// until is the number that an acknowledgement of the n-th frame reaches.
func (s *speaker) until(n int) uint64 {
	if s.load.Raw {
		return uint64(n + 1)
	}
	return s.journal.last[n]
}

// Generate carries the order out and writes what came of it.
func (l Load) Generate(ctx context.Context) error {
	journals, err := l.journals()
	if err != nil {
		return err
	}
	speakers := make([]*speaker, l.Streams)
	defer func() {
		for _, s := range speakers {
			if s != nil && s.conn != nil {
				_ = s.conn.Close()
			}
		}
	}()
	for i := range speakers {
		random := rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
		s := &speaker{load: l, journal: journals[i%variants], epoch: max(1, random.Uint64())}
		for b := range s.agent {
			s.agent[b], s.machine[b] = byte(random.Uint32()), byte(random.Uint32())
		}
		speakers[i] = s
		if err := s.connect(ctx); err != nil {
			return fmt.Errorf("bench: stream %d: %w", i, err)
		}
		s.latency, s.events = nil, 0
	}
	runtime.GC()

	cpu, began := ownCPU(), time.Now()
	deadline := began.Add(l.Span)
	failures := make([]error, l.Streams)
	var speaking sync.WaitGroup
	for i, s := range speakers {
		speaking.Go(func() {
			if l.Pace > 0 && !pause(ctx, rand.N(l.Pace)) { // streams do not march in step
				return
			}
			failures[i] = s.send(ctx, func() bool { return time.Now().Before(deadline) })
		})
	}
	speaking.Wait()
	loaded := Loaded{Seconds: time.Since(began).Seconds(), CPU: ownCPU() - cpu}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	var latency []time.Duration
	for _, s := range speakers {
		loaded.Events += s.events
		loaded.Frames += int64(len(s.latency))
		latency = append(latency, s.latency...)
	}
	if len(latency) > 0 {
		slices.Sort(latency)
		loaded.P50, loaded.P99 = latency[len(latency)/2], latency[len(latency)*99/100]
	}
	text, err := json.Marshal(loaded)
	if err != nil {
		return err
	}
	return writeWhole(l.Out, string(text))
}

func ownCPU() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
