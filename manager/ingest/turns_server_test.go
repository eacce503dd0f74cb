package ingest_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/ingest"
	"github.com/cetrus/cetrus/manager/internal/agenttest"
)

// narrow lets no large entry through until it is opened.
type narrow struct {
	ingest.Buffer
	open          chan struct{}
	waiting, most atomic.Int64
}

func (n *narrow) Append(ctx context.Context, e buffer.Entry) error {
	if len(e.Frame) > buffer.SmallEntry {
		for now, most := n.waiting.Add(1), n.most.Load(); now > most && !n.most.CompareAndSwap(most, now); most = n.most.Load() {
			continue
		}
		defer n.waiting.Add(-1)
		select {
		case <-n.open:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return n.Buffer.Append(ctx, e)
}

// laptop is an agent that has much to send.
type laptop struct {
	*agenttest.Client
	says   bool // that it has
	frames []*usagev1.Frame
	gone   atomic.Int64 // frames that are on their way
	sent   chan error
}

func TestBacklogsAreReadInTurnAndOthersPassThem(t *testing.T) {
	gate := &narrow{open: make(chan struct{})}
	r := start(t, testConfig{wrap: func(b ingest.Buffer) ingest.Buffer {
		gate.Buffer = b
		return gate
	}})
	const room, more = 8, 12
	r.server.Turns(room, ingest.LongestTurn)
	var laptops []*laptop
	for n := range room + more {
		j := journal(uint64(1000 + n))
		l := &laptop{Client: connect(t, r, j), says: n%4 > 0, sent: make(chan error, 1)}
		for range 3 {
			l.frames = append(l.frames, j.Frame(contract.MaxFrameRecords))
		}
		laptops = append(laptops, l)
		go func() { l.sent <- l.send() }()
	}
	until(t, "all turns to be taken, and all others to wait for one", func() bool { return gate.waiting.Load() == room && r.server.InTurn() == more })
	begun := 0
	for _, l := range laptops {
		if l.says && l.gone.Load() > 1 {
			begun++
		}
	}
	if begun > room {
		t.Errorf("more was read of %d laptops that said that they have much than there is room for", begun)
	}

	fresh, desktop := journal(1), contract.ID{7}
	c := connect(t, r, fresh)
	for range 3 {
		f := fresh.Frame(2)
		must(t, c.SendFrame(f))
		acknowledged(t, c, f)
		must(t, c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Live{Live: &usagev1.LiveSnapshot{SessionId: desktop[:], ValidMillis: 90_000}}}))
	}
	until(t, "live snapshots to pass", func() bool { return r.server.Counts().Live == 3 })
	// Who waits is told so; who goes makes room.
	r.server.TellTurns()
	for _, l := range laptops[:room/2] {
		l.Close()
		<-l.sent
	}
	until(t, "others to take the turns of those who have gone", func() bool {
		return gate.waiting.Load() == room && r.server.InTurn() == more-room/2
	})
	close(gate.open)
	told := 0
	for _, l := range laptops[room/2:] {
		must(t, <-l.sent)
		waited := false
		last := l.frames[len(l.frames)-1]
		for done := false; !done; {
			m, err := l.Stream.Recv()
			if errors.Is(err, io.EOF) {
				t.Fatal("a laptop was sent away")
			}
			must(t, err)
			waited = waited || m.GetThrottle().GetInTurn()
			done = m.GetAcknowledgement().GetLastSeq() == last.GetFirstSeq()+uint64(len(last.GetRecords()))-1
		}
		if waited {
			told++
		}
	}
	if told < more-room/2 {
		t.Errorf("%d were told that they wait, at least %d did", told, more-room/2)
	}
	if n := gate.most.Load(); n != room {
		t.Errorf("%d large frames were under way at once, there is room for %d", n, room)
	}
}

// Who has sent the last of a backlog keeps nobody waiting, also where it was small.
func TestTheEndOfABacklogMakesRoom(t *testing.T) {
	r := start(t, testConfig{})
	r.server.Turns(1, time.Hour)
	j := journal(1)
	c := connect(t, r, j)
	send := func(records int) {
		f := j.Frame(records)
		must(t, c.SendFrame(f))
		acknowledged(t, c, f)
	}
	send(contract.MaxFrameRecords)
	until(t, "room to be lent for what follows", func() bool { return !r.server.Room(1) })
	send(2)
	until(t, "it to be given back", func() bool { return r.server.Room(1) })
}

// until waits for what will happen.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !happened(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// send sends the backlog, having said that there is one if that is its way.
func (l *laptop) send() error {
	now := time.Now().UnixMilli()
	health := &agentv1.Health{UtcMillis: now}
	if l.says {
		health.Backlog = &agentv1.Backlog{OldestUtcMillis: now - 1, TimeMillis: 1}
	}
	if err := l.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Health{Health: health}}); err != nil {
		return err
	}
	for _, f := range l.frames {
		if err := l.SendFrame(f); err != nil {
			return err
		}
		l.gone.Add(1)
	}
	return nil
}
