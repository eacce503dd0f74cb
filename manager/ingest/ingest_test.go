package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/ingest"
	"github.com/cetrus/cetrus/manager/internal/agenttest"
)

func journal(seed uint64) *agenttest.Journal {
	return agenttest.NewJournal(rand.New(rand.NewPCG(seed, 7)))
}

func dial(t *testing.T, address string) *agenttest.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	c, err := agenttest.Dial(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// connect says hello and hears the welcome.
func connect(t *testing.T, r *running, j *agenttest.Journal) *agenttest.Client {
	t.Helper()
	c := dial(t, r.address)
	must(t, c.SendHello(agenttest.Hello(j)))
	if _, err := agenttest.Next(c, (*agentv1.ConnectResponse).GetWelcome, func(w *agentv1.Welcome) bool { return w != nil }); err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func acknowledged(t *testing.T, c *agenttest.Client, f *usagev1.Frame) {
	t.Helper()
	must(t, c.Acknowledged(f.GetEpoch(), f.GetFirstSeq(), f.GetFirstSeq()+uint64(len(f.GetRecords()))-1))
}

// batches reads everything in the buffer.
func batches(t *testing.T, r *running) []*usagev1.AgentBatch {
	t.Helper()
	var out []*usagev1.AgentBatch
	for position := uint64(1); ; {
		m, err := r.buffer.Next(context.Background(), usagev1.Lane_LANE_USAGE, position)
		if errors.Is(err, buffer.ErrNothing) {
			return out
		}
		must(t, err)
		var b usagev1.AgentBatch
		must(t, proto.Unmarshal(m.Data, &b))
		out = append(out, &b)
		position = m.Position + 1
	}
}

func received(t *testing.T, r *running) []*usagev1.ReceivedFrame {
	var out []*usagev1.ReceivedFrame
	for _, b := range batches(t, r) {
		out = append(out, b.GetFrames()...)
	}
	return out
}

func TestAFrameIsStoredByteForByteAndAcknowledged(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	f := j.Frame(5)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
	want, err := proto.Marshal(f)
	must(t, err)
	got := received(t, r)
	if len(got) != 1 || string(got[0].GetFrame()) != string(want) {
		t.Fatalf("%d frames are stored, or other bytes", len(got))
	}
	b := batches(t, r)[0]
	if string(b.GetAccountId()) != string(testAccount[:]) || string(b.GetManagerId()) != string(testManager[:]) {
		t.Error("the batch names another account or Manager")
	}
	if len(b.GetMachines()) != 1 || string(b.GetMachines()[0].GetMachineId()) != string(j.Machine[:]) {
		t.Errorf("machines: %v", b.GetMachines())
	}
	if skew := got[0].GetSkewMillis(); skew > 5000 || skew < -5000 {
		t.Errorf("skew %d ms", skew)
	}
}

func TestARepeatedFrameIsAcknowledgedAgainAndStoredOnce(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	f := j.Frame(5)
	for range 3 {
		must(t, c.SendFrame(f))
		acknowledged(t, c, f)
	}
	c.Close()
	c = connect(t, r, j)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
	if got := received(t, r); len(got) != 1 {
		t.Fatalf("%d frames are stored", len(got))
	}
}

func TestTwoContentsUnderOneNumberAreRefused(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	first := j.Frame(5)
	must(t, c.SendFrame(first))
	acknowledged(t, c, first)

	clone := journal(2)
	clone.Agent, clone.Machine, clone.Epoch = j.Agent, j.Machine, j.Epoch
	must(t, c.SendFrame(clone.Frame(5)))
	refusal, err := c.Refused()
	must(t, err)
	if refusal.GetReason() != contract.ReasonConflict || !refusal.GetNewEpoch() || refusal.GetEpoch() != j.Epoch || refusal.GetLastSeq() != 5 {
		t.Fatalf("refusal: %v", refusal)
	}
	// So is a frame that goes on from another history.
	must(t, c.SendFrame(clone.Frame(1)))
	if refusal, err = c.Refused(); err != nil || refusal.GetReason() != contract.ReasonConflict {
		t.Fatalf("refusal: %v, %v", refusal, err)
	}
	next := j.Frame(1)
	must(t, c.SendFrame(next))
	acknowledged(t, c, next)
}

func TestBadFramesAreRefusedWithTheirReasonAndTheStreamGoesOn(t *testing.T) {
	r := start(t, testConfig{})
	for i, test := range []struct {
		name     string
		spoil    func(*usagev1.Frame)
		reason   string
		newEpoch bool
	}{
		{"another agent", func(f *usagev1.Frame) { f.AgentId = make([]byte, 16) }, contract.ReasonMalformed, false},
		{"no machine", func(f *usagev1.Frame) { f.MachineId = nil }, contract.ReasonMalformed, false},
		{"no epoch", func(f *usagev1.Frame) { f.Epoch = 0 }, contract.ReasonMalformed, false},
		{"unknown lane", func(f *usagev1.Frame) { f.Lane = 77 }, contract.ReasonUnknownVersion, false},
		{"no sequence", func(f *usagev1.Frame) { f.FirstSeq = 0 }, contract.ReasonMalformed, false},
		{"sequence overflow", func(f *usagev1.Frame) { f.FirstSeq = 1<<64 - 1 }, contract.ReasonMalformed, false},
		{"no records", func(f *usagev1.Frame) { f.Records = nil }, contract.ReasonMalformed, false},
		{"empty record", func(f *usagev1.Frame) { f.Records[0] = nil }, contract.ReasonMalformed, false},
		{"changed record", func(f *usagev1.Frame) { f.Records[1][3] ^= 1 }, contract.ReasonBrokenChain, true},
		{"chain begins elsewhere", func(f *usagev1.Frame) { f.ChainBefore[0] = 1 }, contract.ReasonBrokenChain, true},
		{"short chain", func(f *usagev1.Frame) { f.ChainAfter = f.ChainAfter[:31] }, contract.ReasonMalformed, false},
		{"anchor moved", func(f *usagev1.Frame) { f.Anchors[0] = proto.CloneOf(f.Anchors[0]); f.Anchors[0].UtcMillis++ }, contract.ReasonUnknownAnchor, false},
		{"no anchor", func(f *usagev1.Frame) { f.Anchors = nil }, contract.ReasonUnknownAnchor, false},
		{"too many records", func(f *usagev1.Frame) {
			for range contract.MaxFrameRecords {
				f.Records = append(f.Records, []byte{1})
			}
		}, contract.ReasonTooLarge, false},
		{"twice the size", func(f *usagev1.Frame) { f.Records[0] = make([]byte, 2*contract.MaxFrameBytes) }, contract.ReasonTooLarge, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := journal(uint64(i) + 100)
			c := connect(t, r, j)
			good := proto.CloneOf(j.Frame(3))
			bad := proto.CloneOf(good)
			test.spoil(bad)
			must(t, c.SendFrame(bad))
			refusal, err := c.Refused()
			must(t, err)
			if refusal.GetReason() != test.reason || refusal.GetNewEpoch() != test.newEpoch || refusal.GetMessage() == "" {
				t.Fatalf("refusal: %v", refusal)
			}
			must(t, c.SendFrame(good))
			acknowledged(t, c, good)
		})
	}
}

func TestBadConversationsEndWithAReason(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	hello := func(change func(*agentv1.Hello)) func(*agenttest.Client) error {
		return func(c *agenttest.Client) error {
			h := agenttest.Hello(j)
			change(h)
			return c.SendHello(h)
		}
	}
	for _, test := range []struct {
		name   string
		say    func(*agenttest.Client) error
		reason string
		code   codes.Code
	}{
		{"frame before hello", func(c *agenttest.Client) error { return c.SendFrame(j.Frame(1)) }, contract.ReasonNoHello, codes.FailedPrecondition},
		{"wrong version", hello(func(h *agentv1.Hello) { h.ProtocolVersion = 2 }), contract.ReasonUnknownVersion, codes.FailedPrecondition},
		{"foreign account", hello(func(h *agentv1.Hello) { h.AccountId = make([]byte, 16) }), contract.ReasonForeignAccount, codes.FailedPrecondition},
		{"short agent id", hello(func(h *agentv1.Hello) { h.AgentId = h.AgentId[:3] }), contract.ReasonMalformed, codes.FailedPrecondition},
		{"no machine", hello(func(h *agentv1.Hello) { h.MachineId = nil }), contract.ReasonMalformed, codes.FailedPrecondition},
		{"two hellos", func(c *agenttest.Client) error {
			return errors.Join(c.SendHello(agenttest.Hello(j)), c.SendHello(agenttest.Hello(j)))
		}, contract.ReasonMalformed, codes.FailedPrecondition},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t, r.address)
			must(t, test.say(c))
			refusal, err := c.Refused()
			must(t, err)
			if refusal.GetReason() != test.reason || refusal.GetMessage() == "" || refusal.GetEpoch() != 0 {
				t.Fatalf("refusal: %v", refusal)
			}
			if _, err := c.Stream.Recv(); status.Code(err) != test.code {
				t.Fatalf("the stream ended with %v", err)
			}
		})
	}
}

// delayed holds entries back until they are let go, and counts both sides.
type delayed struct {
	ingest.Buffer
	release chan struct{}
	durable atomic.Int64
}

func (d *delayed) Append(ctx context.Context, e buffer.Entry) error {
	done := e.Done
	e.Done = func(position uint64) {
		<-d.release
		d.durable.Add(1)
		done(position)
	}
	return d.Buffer.Append(ctx, e)
}

// TestNoAcknowledgementBeforeItsCommit counts: with every commit held back, no
// acknowledgement comes; after each one that is let go, no more acknowledged
// records than durable ones.
func TestNoAcknowledgementBeforeItsCommit(t *testing.T) {
	d := &delayed{release: make(chan struct{})}
	r := start(t, testConfig{wrap: func(b ingest.Buffer) ingest.Buffer { d.Buffer = b; return d }})
	j := journal(1)
	c := connect(t, r, j)
	const frames = 30
	for range frames {
		must(t, c.SendFrame(j.Frame(1)))
	}
	heard := make(chan uint64)
	go func() {
		defer close(heard)
		for {
			m, err := c.Stream.Recv()
			if err != nil {
				return
			}
			if a := m.GetAcknowledgement(); a != nil {
				heard <- a.GetLastSeq()
			}
		}
	}()
	select {
	case last := <-heard:
		t.Fatalf("%d was acknowledged before any commit", last)
	case <-time.After(300 * time.Millisecond):
	}
	for n := uint64(1); n <= frames; n++ {
		d.release <- struct{}{}
		if last := <-heard; last > n || int64(last) > d.durable.Load() {
			t.Fatalf("%d was acknowledged after %d commits", last, n)
		}
	}
}

func TestPeopleAreBoundSealedAndLabelled(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	must(t, c.SendPerson(&agentv1.Person{PrincipalAlias: j.Alias[:], Domain: "ACME", UserName: "anna", DisplayName: "Anna Berg"}))
	f := j.Frame(1)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
	document := contract.ID{9}
	must(t, c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Label{Label: &agentv1.DocumentLabel{DocumentId: document[:], PrincipalAlias: j.Alias[:], Name: "bridge.dwg"}}}))
	label, err := agenttest.Next(c, (*agentv1.ConnectResponse).GetLabelAcknowledgement, func(l *agentv1.LabelAcknowledgement) bool { return l != nil })
	must(t, err)
	if string(label.GetDocumentId()) != string(document[:]) {
		t.Fatalf("acknowledged %x", label.GetDocumentId())
	}
	principal, ok := r.people.Principal(j.Agent, j.Alias)
	if !ok {
		t.Fatal("the alias is not bound")
	}
	binding := received(t, r)[0].GetBindings()
	if len(binding) != 1 || string(binding[0].GetPrincipalId()) != string(principal[:]) {
		t.Errorf("bindings: %v", binding)
	}
	opened := map[string]bool{}
	for _, b := range batches(t, r) {
		raw, err := proto.Marshal(b)
		must(t, err)
		for _, secret := range []string{"Anna", "anna", "bridge"} {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%q stands in the log", secret)
			}
		}
		for _, name := range b.GetNames() {
			text, err := r.people.Open(name)
			must(t, err)
			opened[text] = true
		}
	}
	if !opened["Anna Berg"] || !opened["bridge.dwg"] || len(opened) != 2 {
		t.Errorf("names in the log: %v", opened)
	}
}

// A refusal that names no record would end the connection, and the agent would come back
// with the same person and label for ever.
func TestAPersonOrLabelThatCannotBeTakenIsLeftOutAndTheAgentIsNotRefused(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	must(t, c.SendPerson(&agentv1.Person{PrincipalAlias: j.Alias[:]}))
	document := contract.ID{9}
	must(t, c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Label{Label: &agentv1.DocumentLabel{DocumentId: document[:], PrincipalAlias: j.Alias[:], Name: "bridge.dwg"}}}))
	if m, err := c.Stream.Recv(); err != nil || string(m.GetLabelAcknowledgement().GetDocumentId()) != string(document[:]) {
		t.Fatalf("the agent is told %v, %v", m, err)
	}
	if n := r.server.Counts().Refused; n != 2 {
		t.Errorf("%d are counted as refused", n)
	}
	if agents := r.server.Agents(); len(agents) != 1 || !strings.Contains(agents[0].LastRefusal, "label") {
		t.Errorf("agents: %+v", agents)
	}
	f := j.Frame(1)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
}

func TestLiveSnapshotsCarryPrincipalAndNames(t *testing.T) {
	r := start(t, testConfig{})
	j := journal(1)
	c := connect(t, r, j)
	must(t, c.SendPerson(&agentv1.Person{PrincipalAlias: j.Alias[:], UserName: "anna"}))
	session := contract.ID{5}
	must(t, c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Live{Live: &usagev1.LiveSnapshot{
		AgentId: make([]byte, 16), SessionId: session[:], PrincipalAlias: j.Alias[:], ValidMillis: 60_000,
		Open: []*usagev1.OpenInstance{{State: usagev1.State_STATE_ACTIVE}},
	}}}))
	f := j.Frame(1)
	must(t, c.SendFrame(f))
	acknowledged(t, c, f)
	r.mu.Lock()
	sent := r.published[contract.LiveSubject(testAccount, testManager)]
	r.mu.Unlock()
	if len(sent) != 1 {
		t.Fatalf("%d snapshots were published", len(sent))
	}
	var snapshot usagev1.LiveSnapshot
	must(t, proto.Unmarshal(sent[0], &snapshot))
	principal, _ := r.people.Principal(j.Agent, j.Alias)
	if string(snapshot.GetPrincipalId()) != string(principal[:]) || string(snapshot.GetAgentId()) != string(j.Agent[:]) || len(snapshot.GetNames()) != 1 || snapshot.GetMachine().GetHostName() == "" {
		t.Errorf("published: %v", &snapshot)
	}
	if live := r.server.Live(); len(live) != 1 {
		t.Errorf("%d live sessions", len(live))
	}
}

// stalled is a buffer that takes nothing for a while.
type stalled struct {
	ingest.Buffer
	reason atomic.Pointer[string]
	gate   chan struct{}
}

func (s *stalled) Stalled() string { return *s.reason.Load() }

func (s *stalled) Append(ctx context.Context, e buffer.Entry) error {
	select {
	case <-s.gate:
		return s.Buffer.Append(ctx, e)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestAStalledBufferThrottlesAndLosesNothing(t *testing.T) {
	s := &stalled{gate: make(chan struct{})}
	full, fine := "the disk is full", ""
	s.reason.Store(&full)
	r := start(t, testConfig{wrap: func(b ingest.Buffer) ingest.Buffer { s.Buffer = b; return s }})
	j := journal(1)
	c := connect(t, r, j)
	f := j.Frame(3)
	must(t, c.SendFrame(f))
	throttle, err := agenttest.Next(c, (*agentv1.ConnectResponse).GetThrottle, func(t *agentv1.Throttle) bool { return t != nil })
	must(t, err)
	if throttle.GetReason() != full || throttle.GetPauseMillis() <= 0 {
		t.Fatalf("throttle: %v", throttle)
	}
	s.reason.Store(&fine)
	close(s.gate)
	acknowledged(t, c, f)
}

func TestAStopAcknowledgesWhatIsOnItsWay(t *testing.T) {
	r := start(t, testConfig{})
	var wg sync.WaitGroup
	var sent, acked atomic.Int64
	for i := range 20 {
		j := journal(uint64(i))
		c := connect(t, r, j)
		wg.Go(func() {
			for range 50 {
				if c.SendFrame(j.Frame(1)) != nil {
					return
				}
				sent.Add(1)
			}
		})
		wg.Go(func() {
			for {
				m, err := c.Stream.Recv()
				if err != nil {
					if status.Code(err) != codes.Unavailable {
						t.Errorf("the stream ended with %v", err)
					}
					return
				}
				if a := m.GetAcknowledgement(); a != nil {
					acked.Add(int64(a.GetLastSeq() - a.GetFirstSeq() + 1))
				}
			}
		})
	}
	began := time.Now()
	r.stop()
	wg.Wait()
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the stop took %v", took)
	}
	t.Logf("%d frames sent, %d acknowledged before the stop", sent.Load(), acked.Load())
}

func TestManyAgentsAtOnce(t *testing.T) {
	r := start(t, testConfig{})
	const agents, frames = 200, 5
	var wg sync.WaitGroup
	for i := range agents {
		j := journal(uint64(i))
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			c, err := agenttest.Dial(ctx, r.address)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			err = c.SendHello(agenttest.Hello(j))
			for range frames {
				f := j.Frame(2)
				err = errors.Join(err, c.SendFrame(f))
			}
			if err = errors.Join(err, c.Acknowledged(j.Epoch, 1, 2*frames)); err != nil {
				t.Error(fmt.Errorf("agent %d: %w", i, err))
			}
		})
	}
	wg.Wait()
	if got := len(received(t, r)); got != agents*frames {
		t.Fatalf("%d frames are stored, not %d", got, agents*frames)
	}
}
