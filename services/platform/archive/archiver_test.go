package archive_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

const patience = time.Minute

// log is the stream AGENT of a real server, and what it was given.
type log struct {
	js   jetstream.JetStream
	nc   *nats.Conn
	rnd  *rand.Rand
	sent map[uint64]archive.Message
}

func newLog(t *testing.T) *log {
	t.Helper()
	nc := platformtest.NATS(t)
	if err := natsserver.EnsureStreams(t.Context(), nc, natsserver.Streams{}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	return &log{js: js, nc: nc, rnd: rand.New(rand.NewPCG(seed, 62)), sent: make(map[uint64]archive.Message)}
}

func (l *log) stream(t *testing.T) jetstream.Stream {
	t.Helper()
	s, err := l.js.Stream(t.Context(), contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// send appends so many messages of about a size.
func (l *log) send(t *testing.T, n, size int) {
	t.Helper()
	for range n {
		m := nats.NewMsg(fmt.Sprintf("agent.1.a.m%d.usage", l.rnd.IntN(3)))
		m.Data = []byte(strings.Repeat(fmt.Sprint(l.rnd.IntN(10)), l.rnd.IntN(2*size+1)))
		m.Header.Set("Which", fmt.Sprint(l.rnd.Int()))
		ack, err := l.js.PublishMsg(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		l.sent[ack.Sequence] = archive.Message{Subject: m.Subject, Sequence: ack.Sequence, Header: m.Header, Data: m.Data}
	}
}

func (l *log) archive(t *testing.T, store archive.Store, keys *archive.Keys) *archive.Archive {
	t.Helper()
	return archive.New(store, keys, contract.AgentStream, l.stream(t).CachedInfo().Created)
}

// archiver starts one; stop ends it.
func (l *log) archiver(t *testing.T, cfg archive.ArchiverConfig, store archive.Store, keys *archive.Keys) (a *archive.Archiver, stop func()) {
	t.Helper()
	cfg.Stream = contract.AgentStream
	a, err := archive.NewArchiver(cfg, archive.Deps{JetStream: l.js, Store: store, Keys: keys, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return a, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// holds fails where the archive is not what was sent from a sequence to another.
func (l *log) holds(t *testing.T, a *archive.Archive, from, to uint64) {
	t.Helper()
	got := make(map[uint64]archive.Message)
	reached, err := a.Read(t.Context(), from, func(m archive.Message) error {
		if _, twice := got[m.Sequence]; twice || m.Stored.IsZero() {
			t.Errorf("message %d, stored at %s, is read twice: %t", m.Sequence, m.Stored, twice)
		}
		m.Stored = time.Time{}
		got[m.Sequence] = m
		return nil
	})
	if err != nil || reached != to {
		t.Errorf("read to %d, want %d: %v", reached, to, err)
	}
	want := maps.Clone(l.sent)
	maps.DeleteFunc(want, func(s uint64, _ archive.Message) bool { return s < from || s > to })
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
	for s, m := range want {
		if string(got[s].Data) != string(m.Data) || got[s].Subject != m.Subject || fmt.Sprint(got[s].Header) != fmt.Sprint(m.Header) {
			t.Errorf("message %d is %+v, sent was %+v", s, got[s], m)
		}
	}
}

func TestWhatIsArchivedIsWhatWasSent(t *testing.T) {
	for kind, store := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			l, keys := newLog(t), archive.NewKeys()
			l.send(t, 300, 1000)
			cfg := archive.ArchiverConfig{SegmentBytes: 50_000, SegmentAge: 100 * time.Millisecond}
			one, stopOne := l.archiver(t, cfg, store, keys)
			two, stopTwo := l.archiver(t, cfg, store, keys)
			until(t, "300 are archived", func() bool { return max(one.Position(), two.Position()) >= 300 })
			l.send(t, 200, 1000)
			until(t, "500 are archived", func() bool { return max(one.Position(), two.Position()) >= 500 })
			stopOne()
			stopTwo()
			of := l.archive(t, store, keys)
			for _, from := range []uint64{1, 2, 123, 500} {
				l.holds(t, of, from, 500)
			}
			if first, last, err := of.Range(t.Context()); first != 1 || last != 500 || err != nil {
				t.Errorf("it holds %d to %d: %v", first, last, err)
			}
			v, err := of.Verify(t.Context(), l.stream(t), func(uint64, uint64) {})
			if err != nil || len(v.Differences) > 0 || v.Messages != 500 || v.Compared != 500 {
				t.Errorf("%+v %v", v, err)
			}
			if err := l.stream(t).DeleteMsg(t.Context(), 77); err != nil {
				t.Fatal(err)
			}
			if v, err = of.Verify(t.Context(), l.stream(t), func(uint64, uint64) {}); err != nil || len(v.Differences) != 1 || !strings.Contains(v.Differences[0], "message 77 ") {
				t.Errorf("message 77 was taken out: %+v %v", v, err)
			}
			if info, err := l.stream(t).Info(t.Context()); err != nil || info.State.FirstSeq != 1 {
				t.Errorf("the stream begins at %d, though it keeps all: %v", info.State.FirstSeq, err)
			}
		})
	}
}

// TestABacklogIsNotOneSegmentAMessage: what has waited for longer than a segment may become old is not cut by its age.
func TestABacklogIsNotOneSegmentAMessage(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, keys := newLog(t), archive.NewKeys()
	l.send(t, 200, 10)
	a, stop := l.archiver(t, archive.ArchiverConfig{SegmentBytes: 1 << 20, SegmentAge: time.Nanosecond}, store, keys)
	defer stop()
	segments := func() int {
		t.Helper()
		names, err := store.List(t.Context(), contract.AgentStream+"/")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	until(t, "the backlog is archived", func() bool { return a.Position() == 200 })
	if n := segments(); n != 1 {
		t.Errorf("a backlog of 200 is %d segments", n)
	}
	l.send(t, 1, 10)
	until(t, "what comes then is archived", func() bool { return a.Position() == 201 })
}

// growing is a store in which there is more when it is listed for the second time.
type growing struct {
	archive.Store
	lists int
	grow  func()
}

func (g *growing) List(ctx context.Context, prefix string) ([]string, error) {
	if g.lists++; g.lists == 2 {
		g.grow()
	}
	return g.Store.List(ctx, prefix)
}

// TestAnArchiveIsVerifiedWhileItGrows: that it has more in the end than in the beginning is no difference.
func TestAnArchiveIsVerifiedWhileItGrows(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, keys := newLog(t), archive.NewKeys()
	l.send(t, 100, 100)
	a, stop := l.archiver(t, archive.ArchiverConfig{SegmentBytes: 2000, SegmentAge: time.Millisecond}, store, keys)
	until(t, "100 are archived", func() bool { return a.Position() == 100 })
	looked := l.stream(t)
	more := func(to uint64) {
		l.send(t, 10, 100)
		until(t, "more is archived", func() bool { return a.Position() == to })
	}
	more(110)
	of := l.archive(t, &growing{Store: store, grow: func() { more(120) }}, keys)
	v, err := of.Verify(t.Context(), looked, func(uint64, uint64) {})
	if err != nil || len(v.Differences) > 0 || v.Messages != 120 {
		t.Errorf("%+v %v", v, err)
	}
	stop()
	if err := l.stream(t).Purge(t.Context(), jetstream.WithPurgeSequence(51)); err != nil {
		t.Fatal(err)
	}
	nothing, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if v, err = l.archive(t, nothing, keys).Verify(t.Context(), l.stream(t), func(uint64, uint64) {}); err != nil || len(v.Differences) != 1 || !strings.Contains(v.Differences[0], "the stream begins at 51") {
		t.Errorf("of an archive that is not there: %+v %v", v, err)
	}
}

func TestOnlyWhatIsArchivedGoesOutOfTheStream(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	broken := &brokenStore{Store: store}
	l, keys := newLog(t), archive.NewKeys()
	l.send(t, 100, 100)
	broken.set(errors.New("no room"))
	a, stop := l.archiver(t, archive.ArchiverConfig{SegmentBytes: 2000, SegmentAge: time.Millisecond, Keep: time.Millisecond}, broken, keys)
	until(t, "it has failed", func() bool { return broken.asked() >= 2 })
	if a.Behind() == 0 {
		t.Error("it has never reached the store, and is not behind")
	}
	if info, err := l.stream(t).Info(t.Context()); err != nil || info.State.FirstSeq != 1 || info.State.Msgs != 100 {
		t.Errorf("while nothing can be archived the stream holds %d messages: %v", info.State.Msgs, err)
	}
	broken.set(nil)
	until(t, "all is archived", func() bool { return a.Position() == 100 })
	until(t, "all is taken out", func() bool {
		info, err := l.stream(t).Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	if a.Behind() != 0 {
		t.Errorf("it is behind by %s", a.Behind())
	}
	l.send(t, 10, 100)
	until(t, "what comes then is archived, too", func() bool { return a.Position() == 110 })
	stop()
	l.holds(t, l.archive(t, store, keys), 1, 110)
}

// An archiver at an empty store would have the stream's beginning forgotten: it is more likely the wrong store.
func TestAnArchiveDoesNotBeginWhereTheStreamHasLostItsBeginning(t *testing.T) {
	right, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, keys := newLog(t), archive.NewKeys()
	l.send(t, 20, 100)
	cfg := archive.ArchiverConfig{SegmentAge: time.Millisecond, Keep: time.Millisecond}
	_, stop := l.archiver(t, cfg, right, keys)
	until(t, "what is archived is taken out", func() bool {
		info, err := l.stream(t).Info(t.Context())
		return err == nil && info.State.FirstSeq == 21
	})
	stop()
	l.send(t, 20, 100)
	cfg.Stream = contract.AgentStream
	lost, err := archive.NewArchiver(cfg, archive.Deps{JetStream: l.js, Store: wrong, Keys: keys, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := lost.Session(bounded); !errors.Is(err, archive.ErrNoBeginning) || !strings.Contains(err.Error(), "--archive-begin-anew") || !strings.Contains(err.Error(), wrong.Where()) {
		t.Errorf("at another store: %v", err)
	}
	if info, err := l.stream(t).Info(t.Context()); err != nil || info.State.FirstSeq != 21 {
		t.Errorf("the stream begins at %d: %v", info.State.FirstSeq, err)
	}
	// Somebody has said that there is no other.
	cfg.BeginAnew = true
	a, stop := l.archiver(t, cfg, wrong, keys)
	until(t, "it begins anew", func() bool { return a.Position() == 40 })
	stop()
	l.holds(t, l.archive(t, wrong, keys), 21, 40)
}

// slowStore tells of questions that end by themselves, and lists nothing before it may.
type slowStore struct {
	archive.Store
	bounded func(what string)
	listing sync.Once
	listed  chan struct{} // closed when it is asked for the first list
	answers chan struct{} // closed when it may answer
}

func (s *slowStore) ask(ctx context.Context, what string) {
	if _, bounded := ctx.Deadline(); bounded {
		s.bounded(what)
	}
}

func (s *slowStore) Create(ctx context.Context, name string, content []byte) error {
	s.ask(ctx, "create "+name)
	return s.Store.Create(ctx, name, content)
}

func (s *slowStore) Load(ctx context.Context, name string) ([]byte, error) {
	s.ask(ctx, "load "+name)
	return s.Store.Load(ctx, name)
}

func (s *slowStore) List(ctx context.Context, prefix string) ([]string, error) {
	s.ask(ctx, "list "+prefix)
	s.listing.Do(func() { close(s.listed) })
	<-s.answers
	return s.Store.List(ctx, prefix)
}

// On a slow line the last segment takes its time, and others go on meanwhile.
func TestAnArchiverWaitsForASlowStore(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, keys := newLog(t), archive.NewKeys()
	archiveTo := func(position uint64) {
		l.send(t, 10, 100)
		a, stop := l.archiver(t, archive.ArchiverConfig{SegmentAge: time.Millisecond}, store, keys)
		until(t, "it is archived", func() bool { return a.Position() == position })
		stop()
	}
	archiveTo(10)
	slow := &slowStore{
		Store: store, bounded: func(what string) { t.Errorf("the store is given up after a while: %s", what) },
		listed: make(chan struct{}), answers: make(chan struct{}),
	}
	a, err := archive.NewArchiver(archive.ArchiverConfig{Stream: contract.AgentStream, SegmentAge: time.Millisecond}, archive.Deps{JetStream: l.js, Store: slow, Keys: keys, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Session(ctx) }()
	<-slow.listed
	archiveTo(20)
	close(slow.answers)
	until(t, "it has begun, or failed", func() bool { return a.Position() == 20 || len(ended) > 0 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it has failed: %v", err)
	}
}

// An archiver outlives the stream: what it meant to take out of it is no measure for the next of that name.
func TestAStreamThatWasMadeAnewKeepsItsOwn(t *testing.T) {
	const keep = 3 * time.Second
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, keys := newLog(t), archive.NewKeys()
	l.send(t, 20, 100)
	old := time.Now()
	a, stop := l.archiver(t, archive.ArchiverConfig{SegmentAge: time.Millisecond, Keep: keep}, store, keys)
	defer stop()
	until(t, "all is archived", func() bool { return a.Position() == 20 })
	if err := l.js.DeleteStream(t.Context(), contract.AgentStream); err != nil {
		t.Fatal(err)
	}
	if err := natsserver.EnsureStreams(t.Context(), l.nc, natsserver.Streams{}); err != nil {
		t.Fatal(err)
	}
	until(t, "it goes on with the new one", func() bool { return a.Position() == 0 })
	until(t, "what the former held may go", func() bool { return time.Since(old) > keep })
	fresh := time.Now()
	for n := range uint64(2) { // once the second is archived, what was to go behind the first has gone
		l.send(t, 1, 100)
		until(t, "it is archived", func() bool { return a.Position() == n+1 })
	}
	info, err := l.stream(t).Info(t.Context())
	if err != nil || info.State.FirstSeq != 1 && time.Since(fresh) < keep {
		t.Errorf("the new stream begins at %d after %s: %v", info.State.FirstSeq, time.Since(fresh), err)
	}
}

// A store that refuses where nothing is would else be asked without a pause.
func TestAStoreThatRefusesForNoReasonIsNotPressed(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	broken := &brokenStore{Store: store}
	l := newLog(t)
	l.send(t, 10, 100)
	broken.set(archive.ErrExists)
	began := time.Now()
	_, stop := l.archiver(t, archive.ArchiverConfig{SegmentAge: time.Millisecond}, broken, archive.NewKeys())
	defer stop()
	until(t, "it has tried four times", func() bool { return broken.asked() >= 4+1 }) // and once whether it refuses
	if took := time.Since(began); took < time.Second {
		t.Errorf("four times in %s", took)
	}
}

func TestRemovedAndReplacedSegmentsAreFound(t *testing.T) {
	dir := t.TempDir()
	store, err := archive.OpenStore("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	l, keys := newLog(t), archive.NewKeys()
	l.send(t, 60, 100)
	a, stop := l.archiver(t, archive.ArchiverConfig{SegmentBytes: 1000, SegmentAge: time.Millisecond}, store, keys)
	until(t, "all is archived", func() bool { return a.Position() == 60 })
	stop()
	of := l.archive(t, store, keys)
	files, err := filepath.Glob(filepath.Join(dir, contract.AgentStream, "*", "000000", "*.segment"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d segments: %v", len(files), err)
	}
	read := func() error {
		_, err := of.Read(t.Context(), 1, func(archive.Message) error { return nil })
		return err
	}
	away := filepath.Join(t.TempDir(), "away")
	rename(t, files[1], away)
	if err := read(); !errors.Is(err, archive.ErrGap) {
		t.Errorf("a segment is missing: %v", err)
	}
	rename(t, files[2], files[1])
	if err := read(); !errors.Is(err, archive.ErrGap) {
		t.Errorf("a segment is in the place of another: %v", err)
	}
	rename(t, files[1], files[2])
	rename(t, away, files[1])
	if err := read(); err != nil {
		t.Errorf("all in their places: %v", err)
	}
	// One that was made by somebody with the key, of other messages, does not fit.
	l.sent = make(map[uint64]archive.Message)
	forged, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, stop := l.archiver(t, archive.ArchiverConfig{SegmentBytes: 1000, SegmentAge: time.Millisecond}, forged, keys)
	until(t, "all is archived", func() bool { return b.Position() == 60 })
	stop()
	names, err := store.List(t.Context(), contract.AgentStream+"/")
	if err != nil {
		t.Fatal(err)
	}
	content, err := forged.Load(t.Context(), names[1])
	if err != nil {
		t.Fatal(err)
	}
	rename(t, files[1], away)
	if err := store.Create(t.Context(), names[1], content); err != nil {
		t.Fatal(err)
	}
	if err := read(); !errors.Is(err, archive.ErrGap) {
		t.Errorf("a segment was replaced: %v", err)
	}
}

// A stream that was put back from a backup and has forgotten what is archived goes on in a branch.
func TestForks(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, keys := newLog(t), archive.NewKeys()
	l.send(t, 60, 100)
	cfg := archive.ArchiverConfig{SegmentBytes: 1500, SegmentAge: time.Millisecond}
	a, stop := l.archiver(t, cfg, store, keys)
	until(t, "all is archived", func() bool { return a.Position() == 60 })
	stop()
	of := l.archive(t, store, keys)
	for _, at := range []uint64{35, 34, 50, 60} {
		if _, err := of.Fork(t.Context(), at, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	// 50 and 60 are behind what the branch before them holds.
	l.holds(t, of, 1, 34)
	l.holds(t, of, 34, 34)
	if reached, err := of.Read(t.Context(), 35, func(archive.Message) error { return nil }); reached != 0 || err != nil {
		t.Errorf("what is forgotten is read to %d: %v", reached, err)
	}
	for s := range l.sent {
		if s > 34 {
			delete(l.sent, s)
		}
	}
	// The archiver goes on there: with messages 35 to 60 of the stream, which take the places of those.
	a, stop = l.archiver(t, cfg, store, keys)
	until(t, "it has gone on", func() bool { return a.Position() == 60 })
	stop()
	first, last, err := of.Range(t.Context())
	if err != nil || first != 1 || last != 60 {
		t.Errorf("it holds %d to %d: %v", first, last, err)
	}
	if reached, err := of.Read(t.Context(), 1, func(archive.Message) error { return nil }); reached != 60 || err != nil {
		t.Errorf("read to %d: %v", reached, err)
	}
	// It is put back again, to before where the branch begins that has segments of its own.
	if _, err := of.Fork(t.Context(), 20, time.Now()); err != nil {
		t.Fatal(err)
	}
	l.holds(t, of, 1, 20)
	a, stop = l.archiver(t, cfg, store, keys)
	until(t, "it has gone on from there", func() bool { return a.Position() == 60 })
	stop()
	if reached, err := of.Read(t.Context(), 1, func(archive.Message) error { return nil }); reached != 60 || err != nil {
		t.Errorf("read to %d: %v", reached, err)
	}
}
