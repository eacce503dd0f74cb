package journal_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent/journal"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

var agentID = contract.ID{7}

func config(dir string) journal.Config {
	return journal.Config{Dir: dir, Lane: usagev1.Lane_LANE_USAGE, AgentID: agentID, SegmentBytes: 2 << 10, Sync: func(*os.File) error { return nil }}
}

func open(t testing.TB, c journal.Config) *journal.Journal {
	t.Helper()
	j, err := journal.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	// Windows does not remove the folder of a test while a file in it is open.
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func anchor(n int64) *usagev1.Anchor {
	a := &usagev1.Anchor{BootId: make([]byte, 16), BootMillis: n, UtcMillis: 1000 + n}
	a.AnchorId = contract.AnchorID(a)
	return a
}

// batch makes n events whose ids go on from a number.
func batch(from, n int, a *usagev1.Anchor) journal.Batch {
	b := journal.Batch{Anchors: []*usagev1.Anchor{a}}
	for i := range n {
		id := fmt.Sprintf("%016d", from+i)
		b.Usage = append(b.Usage, &usagev1.UsageEvent{SchemaVersion: 1, EventId: []byte(id), AnchorId: a.GetAnchorId(), AtBootMillis: int64(from + i)})
	}
	return b
}

// drain reads all frames from a sequence number on, as the uplink does, and checks all
// that a Manager and the platform check.
func drain(t testing.TB, j *journal.Journal) (ids []string) {
	t.Helper()
	next := uint64(1)
	chain := map[uint64]contract.Hash{}
	for {
		f, err := j.Frame(next)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			return ids
		}
		if f.GetEpoch() != j.Epoch() || f.GetFirstSeq() < next || len(f.GetRecords()) == 0 || len(f.GetRecords()) > contract.MaxFrameRecords || proto.Size(f) > contract.MaxFrameBytes {
			t.Fatalf("a frame out of bounds: epoch %x, first %d, %d records", f.GetEpoch(), f.GetFirstSeq(), len(f.GetRecords()))
		}
		anchors := map[uint64]bool{}
		for _, a := range f.GetAnchors() {
			anchors[a.GetAnchorId()] = contract.AnchorID(a) == a.GetAnchorId()
		}
		hash := contract.Hash(f.GetChainBefore())
		if before, known := chain[f.GetFirstSeq()]; known && before != hash {
			t.Fatalf("the chain breaks before %d", f.GetFirstSeq())
		}
		if f.GetFirstSeq() == 1 && hash != (contract.Hash{}) {
			t.Fatal("the chain does not begin at zero")
		}
		for i, b := range f.GetRecords() {
			var r usagev1.Record
			if err := proto.Unmarshal(b, &r); err != nil {
				t.Fatal(err)
			}
			u := r.GetUsage()
			if u.GetSeq() != f.GetFirstSeq()+uint64(i) || u.GetEpoch() != f.GetEpoch() || !bytes.Equal(u.GetAgentId(), agentID[:]) {
				t.Fatalf("record %d says that it is %d of epoch %x", f.GetFirstSeq()+uint64(i), u.GetSeq(), u.GetEpoch())
			}
			if !anchors[u.GetAnchorId()] {
				t.Fatalf("record %d names an anchor that the frame lacks", u.GetSeq())
			}
			hash = contract.Chain(hash, b)
			ids = append(ids, string(u.GetEventId()))
		}
		if hash != contract.Hash(f.GetChainAfter()) {
			t.Fatal("the chain after the frame is wrong")
		}
		next = f.GetFirstSeq() + uint64(len(f.GetRecords()))
		chain[next] = hash
	}
}

func numbers(from, to int) (ids []string) {
	for n := from; n < to; n++ {
		ids = append(ids, fmt.Sprintf("%016d", n))
	}
	return ids
}

func same(t testing.TB, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%d records, want %d:\n%v\n%v", len(got), len(want), got, want)
	}
}

func TestAppendReadAcknowledge(t *testing.T) {
	c := config(t.TempDir())
	j := open(t, c)
	for n := range 50 {
		if err := j.Append(t.Context(), batch(n*3, 3, anchor(int64(n/10)))); err != nil {
			t.Fatal(err)
		}
	}
	same(t, drain(t, j), numbers(0, 150))
	segments, _ := filepath.Glob(filepath.Join(c.Dir, "*.seg"))
	if len(segments) < 3 {
		t.Fatalf("only %d segments", len(segments))
	}
	for _, ack := range [][2]uint64{{10, 20}, {1, 5}, {149, 900}, {6, 9}, {15, 30}} {
		if err := j.Acknowledge(j.Epoch(), ack[0], ack[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Acknowledge(99, 1, 100); err != nil {
		t.Fatal(err)
	}
	same(t, drain(t, j), numbers(30, 148))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, c)
	if d := j.Stats().Damage; d.Reason != "" || d.TornBytes != 0 {
		t.Fatalf("damage after closing in order: %+v", d)
	}
	same(t, drain(t, j), numbers(30, 148))
	left, _ := filepath.Glob(filepath.Join(c.Dir, "*.seg"))
	if len(left) >= len(segments) {
		t.Fatal("no acknowledged segment was deleted")
	}
	if err := j.Acknowledge(j.Epoch(), 1, 1<<60); err != nil {
		t.Fatal(err)
	}
	if j.Backlog() != 0 || len(drain(t, j)) != 0 {
		t.Fatal("something is left after everything was acknowledged")
	}
	if err := j.Append(t.Context(), batch(150, 1, anchor(9))); err != nil {
		t.Fatal(err)
	}
	same(t, drain(t, j), numbers(150, 151))
}

// An append returns behind a sync that saw its record in the segment: a Manager can be
// sent nothing that a loss of power takes back.
func TestAppendReturnsBehindItsSync(t *testing.T) {
	c := config(t.TempDir())
	var synced []byte
	c.Sync = func(f *os.File) error {
		if strings.HasSuffix(f.Name(), ".seg") {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Error(err)
			}
			synced = b
		}
		return nil
	}
	j := open(t, c)
	for n := range 100 {
		if err := j.Append(t.Context(), batch(n, 1, anchor(1))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(synced, []byte(numbers(n, n+1)[0])) {
			t.Fatalf("record %d was not in the segment at the last sync", n)
		}
	}
}

func TestGroupCommitSharesSyncs(t *testing.T) {
	c := config(t.TempDir())
	c.SegmentBytes = 1 << 20
	gate, entered := make(chan struct{}), make(chan struct{}, 1)
	hold := false
	c.Sync = func(*os.File) error {
		if hold {
			hold = false
			entered <- struct{}{}
			<-gate
		}
		return nil
	}
	j := open(t, c)
	before := j.Stats().Syncs
	hold = true
	var wg sync.WaitGroup
	wg.Go(func() { _ = j.Append(context.Background(), batch(0, 1, anchor(1))) })
	<-entered
	started := make(chan struct{}, 100)
	for n := range 100 {
		wg.Go(func() {
			b := batch(1+n, 1, anchor(1))
			started <- struct{}{}
			if err := j.Append(context.Background(), b); err != nil {
				t.Error(err)
			}
		})
	}
	for range 100 {
		<-started
	}
	close(gate)
	wg.Wait()
	if syncs := j.Stats().Syncs - before; syncs > 50 {
		t.Fatalf("101 appends took %d syncs", syncs)
	}
	ids := drain(t, j)
	slices.Sort(ids)
	same(t, ids, numbers(0, 101))
}

func TestFullRefusesLoudlyAndRecovers(t *testing.T) {
	c := config(t.TempDir())
	c.MaxBytes, c.SegmentBytes = journal.LeastMaxBytes, 0
	j := open(t, c)
	n := 0
	var full *journal.FullError
	for {
		err := j.Append(t.Context(), batch(n, 1, anchor(1)))
		if errors.As(err, &full) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if !j.Stats().Full || !strings.Contains(full.Error(), "connect") {
		t.Fatalf("full, but %v", full)
	}
	same(t, drain(t, j), numbers(0, n))
	if err := j.Acknowledge(j.Epoch(), 1, uint64(n)); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), batch(n, 1, anchor(1))); err != nil {
		t.Fatal(err)
	}
	if j.Stats().Full {
		t.Fatal("still full")
	}
}

func TestTooSmallACapIsRefused(t *testing.T) {
	t.Parallel()
	for _, sizes := range [][2]int64{{journal.LeastMaxBytes - 1, 0}, {-1, 0}, {1, 1}, {1 << 20, 1<<18 + 1}, {1 << 20, -1}} {
		c := config(t.TempDir())
		c.MaxBytes, c.SegmentBytes = sizes[0], sizes[1]
		if _, err := journal.Open(c); err == nil || !strings.Contains(err.Error(), "at least 262144 bytes") {
			t.Errorf("at most %d bytes in segments of %d: %v", sizes[0], sizes[1], err)
		}
	}
}

// At the least cap, and behind a slot that lags as far as an agent lets it, whatever is
// acknowledged makes room for as much again.
func TestAcknowledgedRecordsMakeRoom(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.MaxBytes, c.SegmentBytes = journal.LeastMaxBytes, 0
	j := open(t, c)
	n, written := 0, int64(0)
	for written < 4*c.MaxBytes {
		before := j.Bytes()
		err := j.Append(t.Context(), batch(n, 100, anchor(1)))
		var full *journal.FullError
		switch {
		case errors.As(err, &full):
			same(t, drain(t, j), numbers(n-int(j.Backlog()), n))
			if err := j.Acknowledge(j.Epoch(), 1, uint64(n)); err != nil {
				t.Fatal(err)
			}
			if err := j.Append(t.Context(), batch(n, 100, anchor(1))); err != nil {
				t.Fatalf("everything is acknowledged, and still: %v", err)
			}
		case err != nil:
			t.Fatal(err)
		default:
			written += j.Bytes() - before
		}
		n += 100
		if n%500 == 0 {
			if err := j.WriteSlot([]byte("slot")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestFailedSyncTakesNothing(t *testing.T) {
	c := config(t.TempDir())
	fail := 0
	c.Sync = func(*os.File) error {
		if fail > 0 {
			fail--
			return errors.New("the disk is gone")
		}
		return nil
	}
	j := open(t, c)
	_ = j.Append(t.Context(), batch(0, 2, anchor(1)))
	fail = 1
	if err := j.Append(t.Context(), batch(2, 2, anchor(2))); err == nil {
		t.Fatal("an append succeeded though its sync failed")
	}
	same(t, drain(t, j), numbers(0, 2))
	if err := j.Append(t.Context(), batch(2, 2, anchor(2))); err != nil {
		t.Fatal(err)
	}
	same(t, drain(t, j), numbers(0, 4))
	fail = 2
	if err := j.Append(t.Context(), batch(4, 1, anchor(2))); err == nil {
		t.Fatal("an append succeeded though its sync failed")
	}
	if err := j.Append(t.Context(), batch(4, 1, anchor(2))); err == nil {
		t.Fatal("a journal of which nobody knows what is on the disk goes on")
	}
	same(t, drain(t, open(t, config(c.Dir))), numbers(0, 4))
}

func TestUnknownAnchorIsRefused(t *testing.T) {
	j := open(t, config(t.TempDir()))
	b := batch(0, 1, anchor(1))
	b.Anchors = nil
	if err := j.Append(t.Context(), b); err == nil {
		t.Fatal("a record without its anchor was taken")
	}
}

func TestNewEpochKeepsWhatIsNotAcknowledged(t *testing.T) {
	c := config(t.TempDir())
	j := open(t, c)
	for n := range 40 {
		_ = j.Append(t.Context(), batch(n, 1, anchor(int64(n/7))))
	}
	if err := j.WriteSlot([]byte("state")); err != nil {
		t.Fatal(err)
	}
	for n := 40; n < 50; n++ {
		_ = j.Append(t.Context(), batch(n, 1, anchor(int64(n/7))))
	}
	_ = j.Acknowledge(j.Epoch(), 1, 45)
	for range 3 {
		before := j.Epoch()
		if err := j.NewEpoch(); err != nil {
			t.Fatal(err)
		}
		if j.Epoch() == before {
			t.Fatal("the epoch is the same")
		}
		same(t, drain(t, j), numbers(45, 50))
		j = reopen(t, j, c)
		same(t, drain(t, j), numbers(45, 50))
		state, tail, anchors, found, err := j.Slot()
		if err != nil || !found || string(state) != "state" || len(anchors) == 0 {
			t.Fatalf("slot %q, %v, %v", state, found, err)
		}
		var ids []string
		for _, u := range tail {
			ids = append(ids, string(u.GetEventId()))
		}
		same(t, ids, numbers(40, 50))
	}
}

func reopen(t *testing.T, j *journal.Journal, c journal.Config) *journal.Journal {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, c)
}

func TestLabels(t *testing.T) {
	c := config(t.TempDir())
	j := open(t, c)
	label := func(n byte) *agentv1.DocumentLabel {
		return &agentv1.DocumentLabel{DocumentId: append(make([]byte, 15), n), PrincipalAlias: make([]byte, 16), Name: fmt.Sprint(n)}
	}
	if err := j.Append(t.Context(), journal.Batch{Labels: []*agentv1.DocumentLabel{label(1), label(2), label(1), label(3)}}); err != nil {
		t.Fatal(err)
	}
	if err := j.AcknowledgeLabel(contract.ID{15: 2}); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, j, c)
	var names []string
	for _, l := range j.PendingLabels(10) {
		names = append(names, l.GetName())
	}
	same(t, names, []string{"1", "3"})
	if got := j.PendingLabels(1); len(got) != 1 {
		t.Fatalf("%d labels, one was asked for", len(got))
	}
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	c := config(t.TempDir())
	j := open(t, c)
	_ = j.Append(t.Context(), batch(0, 1, anchor(1)))
	_ = j.Close()
	c.AgentID = contract.ID{8}
	if _, err := journal.Open(c); err == nil || !strings.Contains(err.Error(), "belongs to agent") {
		t.Fatalf("got %v", err)
	}
}

var seedFlag = flag.Uint64("seed", 0, "repeat a test with the seed that it told; 0: another one each time")

// random is what a test draws from. It tells the seed; stream tells tests apart.
func random(t *testing.T, stream uint64) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("go test ./journal -run '^%s$' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, stream))
}

// memoryDir is a directory in memory where there is one: these tests pretend to sync.
func memoryDir(t testing.TB) string {
	if dir, err := os.MkdirTemp("/dev/shm", "journal"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

func readDir(t testing.TB, dir string) map[string][]byte {
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		files[rel] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func writeDir(t testing.TB, dir string, files map[string][]byte) {
	for name, b := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// torn mixes what was durable with what was being written.
func torn(r *rand.Rand, before, after []byte) []byte {
	n := 0
	if len(after) > 0 {
		n = r.IntN(len(after) + 1)
	}
	b := slices.Clone(after[:n])
	if len(before) > n {
		b = append(b, before[n:]...)
	}
	if r.IntN(4) == 0 && len(b) > len(before) {
		// The length came through, the bytes did not.
		for i := max(len(before), n/2); i < len(b); i++ {
			b[i] = 0
		}
	}
	return b
}

// TestTenThousandCrashes takes the power away in the middle of a sync, or kills the
// program there, which leaves all that was written, 10,000 times together. It opens what
// is left, in every third case with a flipped bit in a copy of the state too: everything
// that an append had returned for is there once, in order, and nothing else but a first
// part of the append at hand.
func TestTenThousandCrashes(t *testing.T) {
	want := 10_000
	if testing.Short() {
		want = 500
	}
	random := random(t, 1)
	crashes, kills, tornWrites, epochs, flips, aside := 0, 0, 0, 0, 0, 0
	scratch := memoryDir(t)
	for run := 0; crashes < want; run++ {
		dir := filepath.Join(scratch, fmt.Sprint("run", run))
		synced := map[string][]byte{}
		var acked, done int // events acknowledged (a prefix) and appended
		appending := 0
		check := func(name string) {
			now := readDir(t, dir)
			base, left := filepath.Base(name), now
			if random.IntN(3) == 0 {
				kills++
			} else {
				left = maps.Clone(synced)
				for f := range left {
					if _, there := now[f]; !there {
						delete(left, f)
					}
				}
				if b, there := now[base]; there {
					left[base] = torn(random, synced[base], b)
				}
			}
			flipped := false
			if state := []string{"state.a", "state.b"}[random.IntN(2)]; len(left[state]) > 0 && random.IntN(3) == 0 {
				b := slices.Clone(left[state])
				b[random.IntN(len(b))] ^= 1 << random.IntN(8)
				left[state], flipped = b, true
				flips++
			}
			crashed := filepath.Join(scratch, "crashed")
			_ = os.RemoveAll(crashed)
			writeDir(t, crashed, left)
			j, err := journal.Open(config(crashed))
			if err != nil {
				t.Fatalf("run %d: %v", run, err)
			}
			d := j.Stats().Damage
			switch {
			case (d.Reason != "" || len(d.Quarantined) > 0) && !flipped, d.LostRecords > 0:
				t.Fatalf("run %d, crash %d in %s: called damage: %+v", run, crashes, base, d)
			case len(d.Quarantined) > 0:
				aside++
			case d.TornBytes > 0:
				tornWrites++
			}
			ids := drain(t, j)
			// An acknowledgement that did not reach the disk brings records back, which
			// readers know; nothing else may be there or missing.
			for n, id := range ids {
				if n > 0 && ids[n-1] >= id {
					t.Fatalf("run %d: doubled or out of order: %v", run, ids)
				}
			}
			for _, id := range numbers(acked, done) {
				if !slices.Contains(ids, id) {
					t.Fatalf("run %d, crash %d in %s: record %s is lost; acknowledged up to %d, appended up to %d: %v", run, crashes, base, id, acked, done, ids)
				}
			}
			if n := len(ids); n > 0 && ids[n-1] >= fmt.Sprintf("%016d", done+appending) {
				t.Fatalf("run %d: a record that nobody appended: %s", run, ids[n-1])
			}
			if state, _, _, found, err := j.Slot(); err != nil || found && !bytes.HasPrefix(state, []byte("slot")) {
				t.Fatalf("run %d: slot %q: %v", run, state, err)
			}
			// It can be written again.
			if err := j.Append(t.Context(), batch(1_000_000, 1, anchor(5))); err != nil {
				t.Fatal(err)
			}
			if after := drain(t, j); len(after) != len(ids)+1 {
				t.Fatalf("run %d: %d records, %d after one more", run, len(ids), len(after))
			}
			_ = j.Close()
			crashes++
		}
		c := config(dir)
		c.Sync = func(f *os.File) error {
			if random.IntN(2) == 0 {
				check(f.Name())
			}
			b, err := os.ReadFile(f.Name())
			if err == nil {
				synced[filepath.Base(f.Name())] = b
			}
			return nil
		}
		j := open(t, c)
		for range 60 {
			switch k := random.IntN(20); {
			case k < 12:
				appending = 1 + random.IntN(4)
				if err := j.Append(t.Context(), batch(done, appending, anchor(int64(random.IntN(3))))); err != nil {
					t.Fatal(err)
				}
				done, appending = done+appending, 0
			case k < 16 && done > acked:
				to := acked + 1 + random.IntN(done-acked)
				ids := drain(t, j)
				f, err := j.Frame(1)
				if err != nil {
					t.Fatal(err)
				}
				before := acked
				acked = to
				first := f.GetFirstSeq()
				if err := j.Acknowledge(j.Epoch(), first, first+uint64(to-before)-1); err != nil {
					t.Fatal(err)
				}
				_ = ids
			case k < 18:
				if err := j.WriteSlot(fmt.Appendf(nil, "slot %d", done)); err != nil {
					t.Fatal(err)
				}
			case k == 18:
				epochs++
				if err := j.NewEpoch(); err != nil {
					t.Fatal(err)
				}
			}
		}
		same(t, drain(t, j), numbers(acked, done))
		_ = j.Close()
		_ = os.RemoveAll(dir)
	}
	t.Logf("%d crashes, %d of them kills, %d torn writes, %d changes of epoch, %d flipped bits, %d times segments put aside", crashes, kills, tornWrites, epochs, flips, aside)
}

// TestBitRot flips bits and cuts files of a journal that was closed in order: what is
// lost is said, the rest is there once.
func TestBitRot(t *testing.T) {
	rounds := 1500
	if testing.Short() {
		rounds = 100
	}
	random := random(t, 2)
	scratch := memoryDir(t)
	c := config(filepath.Join(scratch, "sound"))
	j := open(t, c)
	for n := range 60 {
		_ = j.Append(t.Context(), batch(n, 1, anchor(int64(n/9))))
		if n == 30 {
			_ = j.WriteSlot([]byte("slot"))
		}
	}
	_ = j.Acknowledge(j.Epoch(), 1, 13)
	_ = j.Close()
	sound := readDir(t, c.Dir)
	names := slices.Sorted(maps.Keys(sound))
	epochs := 0
	for round := range rounds {
		files := maps.Clone(sound)
		name := names[random.IntN(len(names))]
		b := slices.Clone(files[name])
		what := ""
		switch random.IntN(4) {
		case 0:
			b = b[:random.IntN(len(b)+1)]
			what = fmt.Sprintf("%s cut to %d", name, len(b))
		case 1:
			delete(files, name)
			what = name + " removed"
		default:
			for range 1 + random.IntN(3) {
				if len(b) > 0 {
					at := random.IntN(len(b))
					b[at] ^= 1 << random.IntN(8)
					what += fmt.Sprintf("%s bit at %d of %d, ", name, at, len(b))
				}
			}
		}
		if _, there := files[name]; there {
			files[name] = b
		}
		dir := filepath.Join(scratch, "rotten")
		_ = os.RemoveAll(dir)
		writeDir(t, dir, files)
		rc := config(dir)
		j, err := journal.Open(rc)
		if err != nil {
			t.Fatalf("round %d: %s: %v", round, what, err)
		}
		ids := drain(t, j)
		d := j.Stats().Damage
		if d.NewEpoch {
			epochs++
		}
		seen := map[string]bool{}
		for _, id := range ids {
			if seen[id] {
				t.Fatalf("round %d: %s: %s is there twice", round, what, id)
			}
			seen[id] = true
		}
		missing := uint64(0)
		for _, id := range numbers(13, 60) {
			if !seen[id] {
				missing++
			}
		}
		if missing != d.LostRecords {
			t.Fatalf("round %d: %s: %d records are missing, %d said to be lost (%+v)", round, what, missing, d.LostRecords, d)
		}
		if missing > 0 && !d.NewEpoch {
			t.Fatalf("round %d: %s: lost without a new epoch", round, what)
		}
		if _, _, _, _, err := j.Slot(); err != nil {
			t.Fatalf("round %d: %s: %v", round, what, err)
		}
		_ = j.Close()
	}
	t.Logf("%d rounds, %d new epochs", rounds, epochs)
}

// Frames are the same whether they are read one after the other, as records come, or from
// anywhere anew: over segments, acknowledgements, repetitions and a new epoch.
func TestFramesDoNotDependOnWhatWasRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp(memoryDir(t), "frames")
		if err != nil {
			r.Fatal(err)
		}
		defer os.RemoveAll(dir)
		c := config(dir)
		j := open(t, c)
		defer j.Close()
		written, next, epoch := 0, uint64(1), j.Epoch()
		for range rapid.IntRange(5, 60).Draw(r, "steps") {
			switch rapid.IntRange(0, 9).Draw(r, "step") {
			case 0, 1, 2, 3:
				n := rapid.IntRange(1, 9).Draw(r, "records")
				b := batch(written, n, anchor(int64(rapid.IntRange(1, 3).Draw(r, "anchor"))))
				b.TraceParent = rapid.SampledFrom([]string{"", "00-1-2-01"}).Draw(r, "trace")
				if err := j.Append(t.Context(), b); err != nil {
					r.Fatal(err)
				}
				written += n
			case 4:
				next = rapid.Uint64Range(0, next+2).Draw(r, "again from")
			case 5:
				first := rapid.Uint64Range(1, next+1).Draw(r, "first")
				if err := j.Acknowledge(epoch, first, first+rapid.Uint64Range(0, 20).Draw(r, "more")); err != nil {
					r.Fatal(err)
				}
			case 6:
				if rapid.IntRange(0, 9).Draw(r, "renew") == 0 {
					if err := j.NewEpoch(); err != nil {
						r.Fatal(err)
					}
					next, epoch = 1, j.Epoch()
				}
			default:
				oldest, err := j.Oldest() // which whoever sends does not notice
				if err != nil {
					r.Fatal(err)
				}
				got, err := j.Frame(next)
				if err != nil {
					r.Fatal(err)
				}
				// Reading something else between makes the journal forget where it was.
				copied := filepath.Join(dir, "copy")
				writeDir(t, copied, readDir(t, dir))
				fresh := c
				fresh.Dir = copied
				other := open(t, fresh)
				want, err := other.Frame(next)
				if err != nil {
					r.Fatal(err)
				}
				first, err := other.Frame(1)
				if err != nil {
					r.Fatal(err)
				}
				wantOldest := &usagev1.Record{}
				if first == nil {
					wantOldest = nil
				} else if err := proto.Unmarshal(first.GetRecords()[0], wantOldest); err != nil {
					r.Fatal(err)
				}
				if !proto.Equal(oldest, wantOldest) {
					r.Fatalf("the oldest is %v, not %v", oldest, wantOldest)
				}
				_ = other.Close()
				_ = os.RemoveAll(copied)
				if !proto.Equal(got, want) {
					r.Fatalf("from %d:\n%v\nwant\n%v", next, got, want)
				}
				if got != nil {
					next = got.GetFirstSeq() + uint64(len(got.GetRecords()))
				}
			}
		}
	})
}
