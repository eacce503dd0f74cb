package agentlog

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog/agentlogtest"
	"github.com/cetrus/cetrus/services/platform/projection"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// FuzzUsage compares the decoder by hand with protobuf's own.
func FuzzUsage(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	p := agentlogtest.NewPerson(rnd, 0)
	for range 3 {
		b, err := proto.Marshal(p.Next(rnd))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	// An unknown field, a known one of another type, an interval in two parts.
	f.Add([]byte{0xf8, 0x07, 1, 0x0a, 1, 'x', 0xa2, 1, 2, 0x08, 5, 0xa2, 1, 2, 0x20, 9})
	f.Add([]byte{0x0b, 0x08, 0x01, 0x0c}) // a group
	// Where the session was shown, of the interval and of what is entered.
	f.Add([]byte{0xa2, 1, 2, 0x38, 2, 0xd0, 1, 2})
	f.Add([]byte{0x08})
	f.Add([]byte{0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var got rawUsage
		err := got.parse(b)
		var want usagev1.UsageEvent
		wantErr := proto.Unmarshal(b, &want)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s: by hand %v, by protobuf %v", hex.EncodeToString(b), err, wantErr)
		}
		if err != nil {
			return
		}
		again := &usagev1.UsageEvent{
			SchemaVersion: uint32(got.version), AgentId: got.agent, Epoch: got.epoch, Seq: got.seq, EventId: got.event,
			SourceKind: usagev1.SourceKind(got.source), BootId: got.boot, AnchorId: got.anchor, RuleId: got.rule,
			ApplicationId: got.application, PolicyRevision: got.revision, PrincipalAlias: got.alias, SessionId: got.session,
			InstanceId: got.instance, DocumentId: got.document, Transition: usagev1.Transition(got.transition),
			Attention: usagev1.Attention(got.attention), State: usagev1.State(got.state), AtBootMillis: got.at,
			Reason: usagev1.Reason(got.reason), DocumentSource: usagev1.DocumentSource(got.documentSource),
			DocumentConfidence: usagev1.DocumentConfidence(got.documentConfidence), DocumentUnsaved: got.documentUnsaved,
		}
		if got.hasClosed {
			again.Closed = &usagev1.Interval{
				Attention: usagev1.Attention(got.closedAttention), State: usagev1.State(got.closedState),
				FromBootMillis: got.from, ToBootMillis: got.to, Reason: usagev1.Reason(got.closedReason),
				SessionAccess: usagev1.SessionAccess(got.closedAccess),
			}
		}
		// What no reader needs is not decoded by hand.
		want.ProtoReflect().SetUnknown(nil)
		want.PauseReason, want.SessionAccess = "", 0
		if want.GetClosed() != nil {
			want.GetClosed().ProtoReflect().SetUnknown(nil)
			want.Closed.PauseReason = ""
		}
		if !proto.Equal(&want, again) {
			t.Fatalf("%s: by hand %v, by protobuf %v", hex.EncodeToString(b), again, &want)
		}
	})
}

// FuzzFrame compares the decoders of the messages around the records.
func FuzzFrame(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	j := agentlogtest.NewJournal(rnd, noon)
	p := agentlogtest.NewPerson(rnd, 0)
	j.AppendUsage(p.Next(rnd))
	j.AppendUsage(p.Next(rnd))
	b, err := proto.Marshal(j.Frame(1, 2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x12, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var got rawFrame
		if got.parse(b) != nil {
			return
		}
		var want usagev1.Frame
		if proto.Unmarshal(b, &want) != nil {
			return // protobuf also looks into the anchors and at UTF-8
		}
		if !bytes.Equal(got.agent, want.GetAgentId()) || got.epoch != want.GetEpoch() || int32(got.lane) != int32(want.GetLane()) || got.first != want.GetFirstSeq() ||
			!bytes.Equal(got.before, want.GetChainBefore()) || !bytes.Equal(got.after, want.GetChainAfter()) || !bytes.Equal(got.machine, want.GetMachineId()) ||
			string(got.traceparent) != want.GetTraceparent() || len(got.records) != len(want.GetRecords()) || len(got.anchors) != len(want.GetAnchors()) {
			t.Fatalf("%s: by hand %+v, by protobuf %v", hex.EncodeToString(b), got, &want)
		}
		for i := range got.records {
			if !bytes.Equal(got.records[i], want.GetRecords()[i]) {
				t.Fatalf("record %d differs", i)
			}
		}
	})
}

// FuzzDecode feeds whole messages: never a panic, and whatever is no fact is
// set aside with a reason.
func FuzzDecode(f *testing.F) {
	rnd := rand.New(rand.NewPCG(5, 6))
	account, manager := agentlogtest.ID(rnd), agentlogtest.ID(rnd)
	j := agentlogtest.NewJournal(rnd, noon)
	p := agentlogtest.NewPerson(rnd, 0)
	for range 5 {
		j.AppendUsage(p.Next(rnd))
	}
	alias := agentlogtest.ID(rnd)
	m := agentlogtest.Message(1, noon, usagev1.Lane_LANE_USAGE, &usagev1.AgentBatch{
		AccountId: account[:], ManagerId: manager[:],
		Frames: []*usagev1.ReceivedFrame{
			agentlogtest.Received(j.Frame(1, 3), &usagev1.PrincipalBinding{PrincipalAlias: p.Alias[:], PrincipalId: alias[:]}),
			agentlogtest.Received(j.Frame(2, 5)),
		},
		Names:    []*usagev1.SealedName{{Subject: &usagev1.SealedName_Person{Person: true}, PrincipalId: alias[:], Sealed: make([]byte, 60)}},
		Machines: []*usagev1.MachineName{{MachineId: j.Machine[:], HostName: "ws-1"}},
	})
	f.Add(m.Subject, m.Data)
	f.Add("agent.0.x.y.usage", []byte{1, 2, 3})
	f.Add(m.Subject, []byte{0x0a})
	d := NewDecoder(Config{})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		for _, s := range []string{subject, m.Subject} {
			out := d.decode(&projection.Message{Subject: s, Position: 1, Stored: noon, Data: data})
			for _, fault := range out.faults {
				if fault.reason == "" || fault.detail == "" || fault.size < 1 {
					t.Fatalf("a fault without reason: %+v", fault)
				}
			}
			for _, fr := range out.frames {
				if len(fr.usage)+len(fr.choices)+len(fr.faults) != fr.records {
					t.Fatalf("%d records became %d events, %d choices and %d faults", fr.records, len(fr.usage), len(fr.choices), len(fr.faults))
				}
			}
		}
	})
}

// FuzzStored reads what Postgres keeps of a journal.
func FuzzStored(f *testing.F) {
	j := &journal{spans: []span{{seqRange{1, 9}, link{1}, link{2}}}, missing: []seqRange{{3, 4}}, tail: segment{8, []mark{{1, 11}, {2, 12}}}}
	f.Add(j.encode(), multirange(j.present()))
	f.Add([]byte{1, 255}, "{[1,3)")
	f.Fuzz(func(t *testing.T, b []byte, s string) {
		_, _ = decodeJournal(b, s)
	})
}

func TestStoredJournalComesBack(t *testing.T) {
	j := &journal{
		spans:   []span{{seqRange{1, 9}, link{}, link{2}}, {seqRange{20, 30}, link{3}, link{4}}},
		missing: []seqRange{{1, 2}, {9, 9}, {20, 30}},
		tail:    segment{29, []mark{{7, 17}, {8, 18}}},
	}
	text := multirange(j.present())
	if text != "{[3,9)}" {
		t.Fatalf("present is %s", text)
	}
	got, err := decodeJournal(j.encode(), text)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := multirange(got.missing), multirange(j.missing); a != b {
		t.Errorf("missing is %s, was %s", a, b)
	}
	if len(got.spans) != 2 || got.spans[1] != j.spans[1] || got.tail.first != 29 || len(got.tail.marks) != 2 {
		t.Errorf("got %+v, was %+v", got, j)
	}
}

// What fails is named by the reason that people and Managers know.
func TestReasons(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	account, manager, other := agentlogtest.ID(rnd), agentlogtest.ID(rnd), agentlogtest.ID(rnd)
	frame := func(change func(*usagev1.UsageEvent), frames ...func(*usagev1.Frame)) func() projection.Message {
		return func() projection.Message {
			j := agentlogtest.NewJournal(rnd, noon.Add(-time.Hour))
			p := agentlogtest.NewPerson(rnd, 0)
			j.AppendUsage(p.Next(rnd))
			e := p.Next(rnd)
			if change != nil {
				change(e)
			}
			j.AppendUsage(e)
			fr := j.Frame(1, 2)
			for _, c := range frames {
				c(fr)
			}
			return agentlogtest.Message(1, noon, usagev1.Lane_LANE_USAGE, &usagev1.AgentBatch{
				AccountId: account[:], ManagerId: manager[:], Frames: []*usagev1.ReceivedFrame{agentlogtest.Received(fr)},
			})
		}
	}
	anchorAt := func(at time.Time) func(*usagev1.Frame) {
		return func(f *usagev1.Frame) {
			// The records name the journal's anchor: place a wrong one under its id.
			f.Anchors[0] = &usagev1.Anchor{BootId: f.GetAnchors()[0].GetBootId(), UtcMillis: at.UnixMilli()}
			f.Anchors[0].AnchorId = contract.AnchorID(f.GetAnchors()[0])
		}
	}
	raw := func(subject string, data []byte, header projection.Header) func() projection.Message {
		return func() projection.Message {
			return projection.Message{Subject: subject, Position: 1, Stored: noon, Data: data, Header: header}
		}
	}
	subject := contract.AgentSubject(account, manager, usagev1.Lane_LANE_USAGE)
	for name, c := range map[string]struct {
		message func() projection.Message
		want    string // "" where nothing is wrong
		facts   int
	}{
		"good":            {frame(nil), "", 2},
		"subject":         {raw("agent.1.x.y.usage", nil, nil), contract.ReasonMalformed, 0},
		"wrong partition": {raw("agent.99."+account.String()+"."+manager.String()+".usage", nil, nil), contract.ReasonMalformed, 0},
		"bytes":           {raw(subject, []byte("\x0anot"), nil), contract.ReasonMalformed, 0},
		"type":            {raw(subject, nil, projection.Header{contract.HeaderType: {"cetrus.agent.batch.v2"}}), contract.ReasonUnknownVersion, 0},
		"too large":       {raw(subject, make([]byte, contract.MaxBatchBytes+1), nil), contract.ReasonTooLarge, 0},
		"foreign account": {func() projection.Message {
			m := frame(nil)()
			m.Subject = contract.AgentSubject(other, manager, 1)
			return m
		}, contract.ReasonForeignAccount, 0},
		"foreign manager": {func() projection.Message {
			m := frame(nil)()
			m.Subject = contract.AgentSubject(account, other, 1)
			return m
		}, contract.ReasonForeignManager, 0},
		"other lane": {func() projection.Message {
			m := frame(nil)()
			m.Subject = contract.AgentSubject(account, manager, 2)
			return m
		}, contract.ReasonMalformed, 0},
		"broken chain":        {frame(nil, func(f *usagev1.Frame) { f.ChainAfter[0]++ }), contract.ReasonBrokenChain, 0},
		"record changed":      {frame(nil, func(f *usagev1.Frame) { f.Records[1] = f.GetRecords()[0] }), contract.ReasonBrokenChain, 0},
		"chain from afar":     {frame(nil, func(f *usagev1.Frame) { f.ChainBefore = bytes.Repeat([]byte{1}, 32) }), contract.ReasonBrokenChain, 0},
		"no agent":            {frame(nil, func(f *usagev1.Frame) { f.AgentId = nil }), contract.ReasonMalformed, 0},
		"another agent":       {frame(nil, func(f *usagev1.Frame) { f.AgentId = other[:] }), contract.ReasonMalformed, 0},
		"seq too large":       {frame(nil, func(f *usagev1.Frame) { f.FirstSeq = 1<<63 - 1 }), contract.ReasonMalformed, 0},
		"anchor forged":       {frame(nil, func(f *usagev1.Frame) { f.Anchors[0].UtcMillis++ }), contract.ReasonUnknownAnchor, 0},
		"no anchor":           {frame(nil, func(f *usagev1.Frame) { f.Anchors = nil }), contract.ReasonUnknownAnchor, 0},
		"other anchor":        {frame(nil, anchorAt(noon)), contract.ReasonUnknownAnchor, 0},
		"version":             {frame(func(e *usagev1.UsageEvent) { e.SchemaVersion = 2 }), contract.ReasonUnknownVersion, 1},
		"interval ends early": {frame(func(e *usagev1.UsageEvent) { e.Closed.ToBootMillis = e.GetClosed().GetFromBootMillis() - 1 }), contract.ReasonMalformed, 1},
		"interval of years":   {frame(func(e *usagev1.UsageEvent) { e.Closed.ToBootMillis += longestInterval + 1 }), contract.ReasonMalformed, 1},
		"no interval":         {frame(func(e *usagev1.UsageEvent) { e.Closed = nil }), contract.ReasonMalformed, 1},
		"active and idle":     {frame(func(e *usagev1.UsageEvent) { e.Closed.State = usagev1.State_STATE_ACTIVE }), contract.ReasonMalformed, 1},
		"attention unheard":   {frame(func(e *usagev1.UsageEvent) { e.Attention = 300 }), contract.ReasonMalformed, 1},
		"short id":            {frame(func(e *usagev1.UsageEvent) { e.InstanceId = e.GetInstanceId()[:15] }), contract.ReasonMalformed, 1},
		"document zero":       {frame(func(e *usagev1.UsageEvent) { e.DocumentId = make([]byte, 16) }), contract.ReasonMalformed, 1},
		"clock ahead":         {frame(func(e *usagev1.UsageEvent) { e.AtBootMillis += (72 * time.Hour).Milliseconds() }), contract.ReasonClockOutOfRange, 1},
		"clock overflows":     {frame(func(e *usagev1.UsageEvent) { e.AtBootMillis = 1<<63 - 1 }), contract.ReasonMalformed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := c.message()
			out := NewDecoder(Config{}).decode(&m)
			facts, got := 0, map[string]string{}
			for _, f := range out.faults {
				got[f.reason] = f.detail
			}
			for _, f := range out.frames {
				facts += len(f.usage)
				for _, r := range f.faults {
					got[r.reason] = r.detail
				}
			}
			if facts != c.facts {
				t.Errorf("%d facts, want %d", facts, c.facts)
			}
			if _, there := got[c.want]; (c.want == "") != (len(got) == 0) || c.want != "" && !there {
				t.Errorf("set aside for %v, want %q", got, c.want)
			}
		})
	}
	t.Run("clock ten years off", func(t *testing.T) {
		for _, years := range []int{-10, 10} {
			j := agentlogtest.NewJournal(rnd, noon.AddDate(years, 0, 0))
			p := agentlogtest.NewPerson(rnd, 0)
			j.AppendUsage(p.Next(rnd))
			m := agentlogtest.Message(1, noon, usagev1.Lane_LANE_USAGE, &usagev1.AgentBatch{
				AccountId: account[:], ManagerId: manager[:], Frames: []*usagev1.ReceivedFrame{agentlogtest.Received(j.Frame(1, 1))},
			})
			out := NewDecoder(Config{}).decode(&m)
			if len(out.frames) != 1 || len(out.frames[0].faults) != 1 || out.frames[0].faults[0].reason != contract.ReasonClockOutOfRange {
				t.Errorf("%d years: %+v", years, out)
			}
		}
	})
}

func BenchmarkPredecode(b *testing.B) {
	m, events := corpus(b, 500, 1000, 20)
	d := NewDecoder(Config{})
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for i := range m {
			d.decode(&m[i])
		}
		n += events
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}

// corpus is messages of frames of perFrame events each.
func corpus(tb testing.TB, agents, perAgent, perFrame int) (messages []projection.Message, events int) {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(9, 10))
	account, manager := agentlogtest.ID(rnd), agentlogtest.ID(rnd)
	type agent struct {
		journal *agentlogtest.Journal
		people  *agentlogtest.Person
	}
	all := make([]agent, agents)
	for i := range all {
		all[i] = agent{agentlogtest.NewJournal(rnd, noon.Add(-240*time.Hour)), agentlogtest.NewPerson(rnd, 0)}
		for range perAgent {
			all[i].journal.AppendUsage(all[i].people.Next(rnd))
		}
	}
	batch := &usagev1.AgentBatch{AccountId: account[:], ManagerId: manager[:]}
	size := 0
	flush := func() {
		if size > 0 {
			messages = append(messages, agentlogtest.Message(uint64(len(messages)+1), noon, usagev1.Lane_LANE_USAGE, batch))
			batch, size = &usagev1.AgentBatch{AccountId: account[:], ManagerId: manager[:]}, 0
		}
	}
	for from := 1; from <= perAgent; from += perFrame {
		for _, a := range all {
			r := agentlogtest.Received(a.journal.Frame(uint64(from), uint64(min(perAgent, from+perFrame-1))))
			if size += len(r.GetFrame()); size > 256<<10 {
				flush()
				size = len(r.GetFrame())
			}
			batch.Frames = append(batch.Frames, r)
		}
	}
	flush()
	return messages, agents * perAgent
}
