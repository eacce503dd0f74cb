package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

const usage, choice = usagev1.Lane_LANE_USAGE, usagev1.Lane_LANE_CHOICE

func numbered(from, to int) []string {
	var out []string
	for n := from; n <= to; n++ {
		out = append(out, fmt.Sprintf("frame %d", n))
	}
	return out
}

func same(t *testing.T, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("the platform has something else (-buffer +platform):\n%s", diff)
	}
}

func TestEverythingArrivesOnceAndInOrder(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.put(usage, numbered(1, 20)...)
	s.put(choice, "chosen")
	s.connect(p.address())
	s.put(usage, numbered(21, 40)...)
	s.level()
	same(t, s.stored[usage], p.frames(usage))
	same(t, s.stored[choice], p.frames(choice))
}

func TestMessagesSayWhereTheyComeFrom(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.put(usage, "a", "b")
	s.connect(p.address())
	s.level()
	js, done := p.local()
	defer done()
	stream, err := js.Stream(context.Background(), contract.AgentStream)
	must(t, err)
	last, err := stream.GetLastMsgForSubject(context.Background(), subject)
	must(t, err)
	for header, want := range map[string]string{
		contract.HeaderBuffer: s.buffer.State().ID.String(), contract.HeaderBufferPosition: "2", contract.HeaderType: contract.AgentBatchType,
		contract.HeaderSpecVersion: contract.SpecVersion, contract.HeaderContentType: contract.ContentTypeProtobuf,
		contract.HeaderID: s.buffer.State().ID.String() + "/2", contract.HeaderSource: "urn:cetrus:manager:" + manager.String(),
	} {
		if got := last.Header.Get(header); got != want {
			t.Errorf("%s is %q, not %q", header, got, want)
		}
	}
	if _, err := time.Parse(time.RFC3339Nano, last.Header.Get(contract.HeaderTime)); err != nil {
		t.Error(err)
	}
}

func TestALostTailIsSentAgain(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.connect(p.address())
	s.put(usage, numbered(1, 10)...)
	s.level()
	p.stop()
	older := t.TempDir()
	copyDir(t, p.dir, older)
	p.start()
	s.put(usage, numbered(11, 20)...)
	s.level()
	p.stop()
	copyDir(t, older, p.dir)
	p.start()
	eventually(t, "the rewind", func() bool { return s.lane().Rewinds == 1 })
	s.level()
	same(t, s.stored[usage], p.frames(usage))
}

// A damaged file takes the very position that the platform names last. The buffer
// knows that it lost it, so nobody has to say that no copy of it went on elsewhere.
func TestALostPositionIsNoCopyElsewhere(t *testing.T) {
	p := startPlatform(t)
	dir := t.TempDir()
	s := openSite(t, dir)
	s.connect(p.address())
	s.put(usage, numbered(1, 10)...)
	s.level()
	s.disconnect()
	s.close()
	blocks, err := filepath.Glob(filepath.Join(dir, "*", "jetstream", "*", "streams", "*", "msgs", "*.blk"))
	must(t, err)
	if len(blocks) != 1 {
		t.Fatalf("the buffer has the files %q", blocks)
	}
	info, err := os.Stat(blocks[0])
	must(t, err)
	must(t, os.Truncate(blocks[0], info.Size()/2))
	s.open()
	if len(s.buffer.State().Losses) == 0 {
		t.Fatal("the buffer does not tell that it lost something")
	}
	s.connect(p.address())
	s.put(usage, numbered(11, 20)...)
	s.level()
	same(t, numbered(1, 20), p.frames(usage))
}

func TestAStreamMadeAnewIsFilledAgain(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.connect(p.address())
	s.put(usage, numbered(1, 10)...)
	s.put(choice, "chosen")
	s.level()
	s.disconnect()
	js, done := p.local()
	must(t, js.DeleteStream(context.Background(), contract.AgentStream))
	done()
	must(t, p.createStream())
	s.connect(p.address())
	eventually(t, "everything is there again", func() bool { return len(p.frames(usage)) == 10 && len(p.frames(choice)) == 1 })
	same(t, s.stored[usage], p.frames(usage))
}

func TestWhatAgedOutIsNotSentAgain(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.connect(p.address())
	s.put(usage, numbered(1, 10)...)
	s.level()
	s.disconnect()
	js, done := p.local()
	stream, err := js.Stream(context.Background(), contract.AgentStream)
	must(t, err)
	must(t, stream.Purge(context.Background()))
	done()
	s.put(usage, numbered(11, 12)...)
	s.connect(p.address())
	s.level()
	same(t, numbered(11, 12), p.frames(usage))
}

// TestACopyOfTheBufferStops: while the buffer goes on, a copy of its folder is
// started elsewhere; whichever comes second stops.
func TestACopyOfTheBufferStops(t *testing.T) {
	p := startPlatform(t)
	dir := t.TempDir()
	s := openSite(t, dir)
	s.connect(p.address())
	s.put(usage, numbered(1, 5)...)
	s.level()
	s.close()
	clone := t.TempDir()
	copyDir(t, dir, clone)

	s.open()
	s.connect(p.address())
	s.put(usage, "of the original")
	s.level()
	for _, test := range []struct {
		name string
		put  []string
	}{{"behind", nil}, {"level", []string{"of the copy"}}, {"ahead", []string{"of the copy", "too"}}} {
		t.Run(test.name, func(t *testing.T) {
			copied := t.TempDir()
			copyDir(t, clone, copied)
			c := openSite(t, copied)
			c.put(usage, test.put...)
			c.connect(p.address())
			eventually(t, "the copy stops", func() bool { return c.lane().Phase == PhaseStopped })
			if trouble := c.lane().Trouble; !strings.Contains(trouble, "copy") {
				t.Errorf("it says: %s", trouble)
			}
			c.close()
		})
	}
	same(t, append(numbered(1, 5), "of the original"), p.frames(usage))
	s.put(usage, "more")
	s.level()
}

func TestATakeoverGoesOnWithEverythingUnsent(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.connect(p.address())
	s.put(usage, "old 1", "old 2")
	s.level()
	s.close()

	anew := openSite(t, t.TempDir()) // the same Manager, installed anew
	anew.put(usage, "new 1")
	anew.put(choice, "chosen")
	anew.connect(p.address())
	eventually(t, "it stops", func() bool { return anew.lane().Phase == PhaseStopped })
	if trouble := anew.lane().Trouble; !strings.Contains(trouble, "installed anew") {
		t.Errorf("it says: %s", trouble)
	}
	must(t, anew.forwarder.Takeover())
	anew.level()
	same(t, []string{"old 1", "old 2", "new 1"}, p.frames(usage))
	same(t, []string{"chosen"}, p.frames(choice))

	// The permission was for once: the old one, coming back, stops too.
	s.open()
	s.connect(p.address())
	eventually(t, "the old one stops", func() bool { return s.lane().Phase == PhaseStopped })
	// And the new one goes on, over a restart too.
	anew.close()
	anew.open()
	anew.put(usage, "new 2")
	anew.connect(p.address())
	anew.level()
	same(t, []string{"old 1", "old 2", "new 1", "new 2"}, p.frames(usage))
}

func TestALostStateFileIsNoLoss(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.connect(p.address())
	s.put(usage, numbered(1, 5)...)
	s.level()
	s.close()
	must(t, os.WriteFile(filepath.Join(s.dir, "forward"), []byte("rubbish"), 0o600))
	s.open()
	s.put(usage, numbered(6, 8)...)
	s.connect(p.address())
	s.level()
	same(t, numbered(1, 8), p.frames(usage))
}

func TestOldForwardedDataIsReleased(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	s.put(usage, numbered(1, 5)...)
	s.forwarder.config.KeepFor = 0
	must(t, s.forwarder.release(context.Background()))
	if first := s.buffer.State().FirstPosition; first != 1 {
		t.Fatalf("released up to %d before anything was forwarded", first-1)
	}
	s.connect(p.address())
	s.level()
	s.forwarder.config.KeepFor = time.Hour
	must(t, s.forwarder.release(context.Background()))
	if first := s.buffer.State().FirstPosition; first != 1 {
		t.Fatalf("released up to %d within the time to keep", first-1)
	}
	s.forwarder.config.KeepFor = 0
	must(t, s.forwarder.release(context.Background()))
	if state := s.buffer.State(); state.FirstPosition != 6 || len(state.Losses) != 0 {
		t.Fatalf("after the release: %+v", state)
	}
	s.put(usage, "6")
	s.level()
	same(t, append(numbered(1, 5), "6"), p.frames(usage))
}

func TestALargeBacklogTravelsInFewMessages(t *testing.T) {
	p := startPlatform(t)
	s := openSite(t, t.TempDir())
	for n := range 30 {
		s.put(usage, strings.Repeat(strconv.Itoa(n%10), 300<<10))
	}
	s.connect(p.address())
	s.level()
	same(t, s.stored[usage], p.frames(usage))
	if n := s.lane().Published; n > 5 {
		t.Errorf("%d messages for 9 MB", n)
	}
}

// TestFaults throws everything at the forwarder while data comes in, and then
// compares what the platform has with what the buffer took, one by one.
func TestFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("CETRUS_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("CETRUS_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	p := startPlatform(t)
	x := startProxy(t, p.address)
	s := openSite(t, t.TempDir())
	port := x.listener.Addr().(*net.TCPAddr).Port
	s.connect(port)
	faults := map[string]int{}
	fault := func(name string) { faults[name]++ }
	older := t.TempDir()
	n := 0
	for range 40 {
		for range random.IntN(8) {
			n++
			lane := usage
			if random.IntN(4) == 0 {
				lane = choice
			}
			s.put(lane, fmt.Sprintf("%d %s", n, strings.Repeat("x", random.IntN(2000))))
			if random.IntN(3) == 0 {
				p.disturb()
			}
		}
		switch random.IntN(7) {
		case 0:
			fault("connection cut")
			x.cut()
		case 1:
			fault("answers lost")
			x.deafen(true)
			n++
			s.put(usage, fmt.Sprintf("%d into the deaf", n))
			<-time.After(time.Duration(random.IntN(30)) * time.Millisecond)
			x.cut()
			x.deafen(false)
		case 2:
			fault("platform restarted")
			p.stop()
			p.start()
		case 3:
			fault("tail lost")
			p.stop()
			copyDir(t, p.dir, older)
			p.start()
			for range 1 + random.IntN(5) {
				n++
				s.put(usage, fmt.Sprintf("%d will be lost", n))
			}
			if random.IntN(2) == 0 {
				s.level()
			}
			p.stop()
			copyDir(t, older, p.dir)
			p.start()
		case 4:
			fault("Manager restarted")
			s.close()
			s.open()
			s.connect(port)
		case 5:
			fault("state file lost")
			s.close()
			must(t, os.RemoveAll(filepath.Join(s.dir, "forward")))
			s.open()
			s.connect(port)
		}
	}
	s.level()
	t.Logf("%d frames, faults: %v, %d rewinds", n, faults, s.lane().Rewinds)
	same(t, s.stored[usage], p.frames(usage))
	same(t, s.stored[choice], p.frames(choice))
	eventually(t, "a cut that is noticed late is mended, too", func() bool { return s.lane().Phase == PhaseForwarding })
}

// FuzzState: whatever the state file holds, the forwarder begins.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"lanes":{"LANE_USAGE":{"cursor":7,"level":9,"stream_created":"2026-01-01T00:00:00Z"}}}`))
	f.Add([]byte(`{"lanes":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "forward")
		must(t, durable.Replace(path, raw))
		if _, err := loadState(path); err != nil && !errors.Is(err, durable.ErrDamaged) {
			t.Fatal(err)
		}
		must(t, os.WriteFile(path, raw, 0o600))
		if _, err := loadState(path); err != nil && !errors.Is(err, durable.ErrDamaged) {
			t.Fatal(err)
		}
	})
}

// TestMessagesWithoutHeadersStop: somebody else wrote to our subject.
func TestMessagesWithoutHeadersStop(t *testing.T) {
	p := startPlatform(t)
	js, done := p.local()
	_, err := js.Publish(context.Background(), subject, []byte("?"), jetstream.WithMsgID("x"))
	must(t, err)
	done()
	s := openSite(t, t.TempDir())
	s.put(usage, "a")
	s.connect(p.address())
	eventually(t, "it stops", func() bool { return s.lane().Phase == PhaseStopped })
}
