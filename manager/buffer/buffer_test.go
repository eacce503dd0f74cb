package buffer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const usage, choice = usagev1.Lane_LANE_USAGE, usagev1.Lane_LANE_CHOICE

func testConfig(dir string) Config {
	return Config{
		Dir: dir, AccountID: contract.ID{1}, ManagerID: contract.ID{2}, MaxBytes: 1 << 30,
		Log: slog.New(slog.NewTextHandler(testOutput(), nil)),
	}
}

func open(t *testing.T, config Config) *Buffer {
	t.Helper()
	b, err := Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, b) })
	return b
}

func shut(t *testing.T, b *Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
}

// put appends entries one after the other, each in a commit of its own, and
// returns their positions.
func put(t *testing.T, b *Buffer, lane usagev1.Lane, frames ...string) []uint64 {
	t.Helper()
	var positions []uint64
	for _, frame := range frames {
		done := make(chan uint64, 1)
		if err := b.Append(context.Background(), Entry{Lane: lane, Frame: []byte(frame), Done: func(p uint64) { done <- p }}); err != nil {
			t.Fatal(err)
		}
		positions = append(positions, await(t, done))
	}
	return positions
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came for 20 s")
		panic("unreachable")
	}
}

// frames reads a lane from a position to its end.
func frames(t *testing.T, b *Buffer, lane usagev1.Lane, from uint64) []string {
	t.Helper()
	var out []string
	for {
		m, err := b.Next(context.Background(), lane, from)
		if errors.Is(err, ErrNothing) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var batch usagev1.AgentBatch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			t.Fatal(err)
		}
		for _, f := range batch.GetFrames() {
			out = append(out, string(f.GetFrame()))
		}
		from = m.Position + 1
	}
}

func TestBatchesAreWhatGeneratedCodeReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.Byte(), 0, 40)
		account, manager := contract.ID{1}, contract.ID{2}
		want := &usagev1.AgentBatch{AccountId: account[:], ManagerId: manager[:]}
		raw := batchHead(account, manager)
		for range rapid.IntRange(0, 4).Draw(t, "entries") {
			e := Entry{ReceivedMillis: rapid.Int64().Draw(t, "received"), SkewMillis: rapid.Int64().Draw(t, "skew")}
			if rapid.Bool().Draw(t, "frame?") {
				e.Frame = append([]byte{}, some.Draw(t, "frame")...)
				received := &usagev1.ReceivedFrame{Frame: e.Frame, ReceivedUtcMillis: e.ReceivedMillis, SkewMillis: e.SkewMillis}
				for range rapid.IntRange(0, 3).Draw(t, "bindings") {
					binding := &usagev1.PrincipalBinding{PrincipalAlias: some.Draw(t, "alias"), PrincipalId: some.Draw(t, "principal")}
					b, err := proto.Marshal(binding)
					if err != nil {
						t.Fatal(err)
					}
					e.Bindings, received.Bindings = append(e.Bindings, b), append(received.Bindings, binding)
				}
				want.Frames = append(want.Frames, received)
			}
			if rapid.Bool().Draw(t, "name?") {
				name := &usagev1.SealedName{Subject: &usagev1.SealedName_Person{Person: true}, Sealed: some.Draw(t, "sealed")}
				b, err := proto.Marshal(name)
				if err != nil {
					t.Fatal(err)
				}
				e.Names, want.Names = append(e.Names, b), append(want.Names, name)
			}
			if rapid.Bool().Draw(t, "machine?") {
				machine := &usagev1.MachineName{HostName: "desk"}
				b, err := proto.Marshal(machine)
				if err != nil {
					t.Fatal(err)
				}
				e.Machine, want.Machines = b, append(want.Machines, machine)
			}
			before := len(raw)
			if raw = e.appendTo(raw); len(raw)-before != e.size() {
				t.Fatalf("an entry of %d bytes says that it has %d", len(raw)-before, e.size())
			}
		}
		var got usagev1.AgentBatch
		if err := proto.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestEntriesSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	positions := put(t, b, usage, "a", "b")
	positions = append(positions, put(t, b, choice, "c")...)
	if diff := cmp.Diff([]uint64{1, 2, 3}, positions); diff != "" {
		t.Fatal(diff)
	}
	id := b.State().ID
	shut(t, b)

	b = open(t, testConfig(dir))
	if s := b.State(); s.ID != id || s.LastPosition != 3 || len(s.Losses) != 0 {
		t.Fatalf("after reopening: %+v", s)
	}
	if diff := cmp.Diff([]string{"a", "b"}, frames(t, b, usage, 1)); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"c"}, frames(t, b, choice, 1)); diff != "" {
		t.Fatal(diff)
	}
	if p := put(t, b, usage, "d"); p[0] != 4 {
		t.Fatalf("the next position is %d", p[0])
	}
}

func TestManyAppendersShareCommits(t *testing.T) {
	b := open(t, testConfig(t.TempDir()))
	const appenders, each = 50, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := make(map[string]uint64)
	for i := range appenders {
		wg.Go(func() {
			last := uint64(0)
			for n := range each {
				done := make(chan uint64, 1)
				name := fmt.Sprintf("%d/%d", i, n)
				if err := b.Append(context.Background(), Entry{Lane: usage, Frame: []byte(name), Done: func(p uint64) { done <- p }}); err != nil {
					t.Error(err)
					return
				}
				p := await(t, done)
				if p <= last {
					t.Errorf("%s stands at %d, the one before it at %d", name, p, last)
				}
				last = p
				mu.Lock()
				got[name] = p
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s := b.State()
	if s.Stats.Entries != appenders*each || len(frames(t, b, usage, 1)) != appenders*each {
		t.Fatalf("%d entries, %d of them found again", s.Stats.Entries, len(frames(t, b, usage, 1)))
	}
	if s.Stats.Commits > appenders*each/4 {
		t.Errorf("%d commits for %d entries: they do not share", s.Stats.Commits, s.Stats.Entries)
	}
}

// blockFiles are the stream's own files that hold messages.
func blockFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", streamName, "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no message files in %s: %v", dir, err)
	}
	return files
}

// TestAFileThatCannotBeReadIsNamed: nothing is given up for it before somebody has moved it away, and then what it held is told.
func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b", "c", "d")
	shut(t, b)
	file := blockFiles(t, dir)[0]
	away := filepath.Join(t.TempDir(), "away")
	if err := errors.Join(os.Rename(file, away), os.Mkdir(file, 0o700)); err != nil { // a folder cannot be read
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(t.Context(), testConfig(dir)); err == nil || !strings.Contains(err.Error(), file+" cannot be read") || !strings.Contains(err.Error(), "move that file away") {
			t.Fatalf("it says %v", err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b = open(t, testConfig(dir))
	if s := b.State(); len(s.Losses) != 1 || s.Losses[0].From != 1 || s.Losses[0].To != 4 {
		t.Errorf("losses: %+v", s.Losses)
	}
	put(t, b, usage, "e")
	shut(t, b)
}

func TestACutTailIsReportedAndItsPositionsAreNotUsedAgainUnderTheSameIdentity(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b", "c", "d")
	id := b.State().ID
	shut(t, b)
	file := blockFiles(t, dir)[0]
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, info.Size()-10); err != nil {
		t.Fatal(err)
	}

	b = open(t, testConfig(dir))
	s := b.State()
	if len(s.Losses) != 1 || s.Losses[0].To != 4 {
		t.Fatalf("losses: %+v", s.Losses)
	}
	kept := frames(t, b, usage, 1)
	if uint64(len(kept)) != s.Losses[0].From-1 {
		t.Errorf("%d messages are left, but the loss begins at %d", len(kept), s.Losses[0].From)
	}
	if p := put(t, b, usage, "e"); p[0] <= 4 && s.ID == id {
		t.Errorf("position %d is used twice under one identity", p[0])
	}
	if n, err := b.Acknowledge(time.Now()); n != 1 || err != nil {
		t.Errorf("acknowledged %d losses: %v", n, err)
	}
	shut(t, b)
	b = open(t, testConfig(dir))
	if again := b.State(); len(again.Losses) != 1 || again.ID != s.ID || again.Losses[0].Acknowledged.IsZero() {
		t.Errorf("opened once more: %+v", again)
	}
	if n, err := b.Acknowledge(time.Now()); n != 0 || err != nil {
		t.Errorf("acknowledged %d losses again: %v", n, err)
	}
}

func TestAMissingStreamIsReported(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b")
	shut(t, b)
	if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
		t.Fatal(err)
	}
	b = open(t, testConfig(dir))
	if s := b.State(); len(s.Losses) != 1 || s.Losses[0].From != 1 || s.Losses[0].To != 2 {
		t.Fatalf("losses: %+v", s.Losses)
	}
	if p := put(t, b, usage, "c"); p[0] <= 2 {
		t.Errorf("position %d is used again", p[0])
	}
}

func TestADamagedIdentityIsRefusedWithTheWayOut(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b")
	shut(t, b)
	if err := os.Truncate(filepath.Join(dir, identityFileName), 20); err != nil {
		t.Fatal(err)
	}
	_, err := Open(context.Background(), testConfig(dir))
	if err == nil || !strings.Contains(err.Error(), "cetrus-manager takeover") || !strings.Contains(err.Error(), identityFileName) {
		t.Fatalf("error: %v", err)
	}
	config := testConfig(dir)
	config.Reborn = true
	b = open(t, config)
	if diff := cmp.Diff([]string{"a", "b"}, frames(t, b, usage, 1)); diff != "" {
		t.Fatal(diff)
	}
	if s := b.State(); len(s.Losses) != 0 {
		t.Errorf("losses: %+v", s.Losses)
	}
}

func TestASecondManagerIsKeptOut(t *testing.T) {
	dir := t.TempDir()
	open(t, testConfig(dir))
	if _, err := Open(context.Background(), testConfig(dir)); err == nil || !strings.Contains(err.Error(), "in use by another Manager") {
		t.Fatalf("error: %v", err)
	}
}

func TestReleasedMessagesAreNoLoss(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b", "c", "d", "e")
	if err := b.Release(context.Background(), 3); err != nil {
		t.Fatal(err)
	}
	shut(t, b)
	b = open(t, testConfig(dir))
	if s := b.State(); len(s.Losses) != 0 || s.FirstPosition != 4 {
		t.Fatalf("state: %+v", s)
	}
	if diff := cmp.Diff([]string{"d", "e"}, frames(t, b, usage, 1)); diff != "" {
		t.Fatal(diff)
	}
	if err := b.Release(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	shut(t, b)
	b = open(t, testConfig(dir))
	if s := b.State(); len(s.Losses) != 0 || s.FirstPosition != 6 || s.LastPosition != 5 {
		t.Fatalf("all released: %+v", s)
	}
	if p := put(t, b, usage, "f"); p[0] != 6 {
		t.Errorf("the next position is %d", p[0])
	}
}

func TestAFullBufferStallsAndGoesOn(t *testing.T) {
	config := testConfig(t.TempDir())
	config.MaxBytes, config.InFlight = 24<<20, 1
	b := open(t, config)
	frame := strings.Repeat("x", 400<<10)
	var mu sync.Mutex
	durable := 0
	done := func(uint64) { mu.Lock(); durable++; mu.Unlock() }
	ctx, cancel := context.WithCancel(context.Background())
	sent := 0
	for b.Stalled() == "" {
		if err := b.Append(ctx, Entry{Lane: usage, Frame: []byte(frame), Done: done}); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	if reason := b.Stalled(); !strings.Contains(reason, "the buffer is full") {
		t.Fatalf("stalled because %q", reason)
	}
	cancel()
	if err := b.Release(context.Background(), b.State().LastPosition); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		mu.Lock()
		all := durable == sent
		mu.Unlock()
		if all {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d entries are durable: %+v", durable, sent, b.State())
		}
		<-time.After(10 * time.Millisecond)
	}
}

// TestSmallEntriesWaitForOneAnotherOnly: while large entries wait there is room for small ones, up to a
// bound of their own, and all room is there again when all is durable.
func TestSmallEntriesWaitForOneAnotherOnly(t *testing.T) {
	config := testConfig(t.TempDir())
	config.MaxBytes, config.InFlight = 24<<20, 1
	b := open(t, config)
	large, small := make([]byte, 400<<10), make([]byte, SmallEntry/2)
	var left sync.WaitGroup
	fill := func(frame []byte) (entries int) {
		for ; ; entries++ {
			short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			left.Add(1)
			err := b.Append(short, Entry{Lane: usage, Frame: frame, Done: func(uint64) { left.Done() }})
			cancel()
			if err != nil {
				left.Done()
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				return entries
			}
		}
	}
	fill(large)
	if b.Stalled() == "" {
		t.Fatal("nothing keeps entries waiting: the test proves nothing")
	}
	waiting, gone := context.WithCancel(context.Background())
	given := make(chan error, 1)
	go func() { given <- b.Append(waiting, Entry{Lane: usage, Frame: large}) }()
	if n, most := fill(small), quickBytes/len(small); n < most/2 || n > most {
		t.Errorf("%d small entries were taken while large ones waited, at most %d have room", n, most)
	}
	gone()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("a large entry did not wait: %v", err)
	}
	if err := b.Release(context.Background(), b.State().LastPosition); err != nil {
		t.Fatal(err)
	}
	left.Wait()
	for deadline := time.Now().Add(10 * time.Second); !b.budget.TryAcquire(int64(b.config.InFlight+2) * int64(b.config.BatchBytes+contract.MaxFrameBytes)); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("room for large entries is lost")
		}
	}
	for deadline := time.Now().Add(10 * time.Second); !b.quick.TryAcquire(quickBytes); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("room for small entries is lost")
		}
	}
}

func TestDoneComesOnlyAfterTheServerSaysSynced(t *testing.T) {
	b := open(t, testConfig(t.TempDir()))
	for n := range 20 {
		done := make(chan uint64, 1)
		if err := b.Append(context.Background(), Entry{Lane: usage, Frame: []byte{byte(n)}, Done: func(p uint64) {
			// Read from another connection's view: the message is stored and head knows it.
			if s := b.State(); s.LastPosition < p {
				t.Errorf("done for %d while durable is %d", p, s.LastPosition)
			}
			done <- p
		}}); err != nil {
			t.Fatal(err)
		}
		p := await(t, done)
		if _, err := b.Next(context.Background(), usage, p); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add([]byte(`{"segments":[{"id":"00000000-0000-4000-8000-000000000000","from":1}],"released":0}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		i, err := decodeIdentity(raw)
		if err != nil {
			return
		}
		again, err := i.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeIdentity(again); err != nil {
			t.Fatal(err)
		}
		i.of(1)
		i.rebornAt(7)
	})
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("123456789012"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if position, err := decodeHead(raw); err == nil && len(raw) != headSize {
			t.Fatalf("%d bytes were taken for position %d", len(raw), position)
		}
	})
}

// testOutput shows the buffer's log where CETRUS_TEST_LOG is set.
func testOutput() io.Writer {
	if os.Getenv("CETRUS_TEST_LOG") != "" {
		return os.Stderr
	}
	return io.Discard
}
