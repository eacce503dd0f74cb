package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// old is a stream whose beginning is in an archive only.
type old struct {
	js    jetstream.JetStream
	store archive.Store
	keys  *archive.Keys
	want  map[uint64]string
	// anew has the archive begin where the stream does, whatever that has lost.
	anew bool
}

func newOld(t *testing.T) *old {
	t.Helper()
	js, err := jetstream.New(platformtest.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OLD", Subjects: []string{"old.>"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &old{js: js, store: store, keys: archive.NewKeys(), want: make(map[uint64]string)}
}

func (o *old) publish(t *testing.T, n int) (last uint64) {
	t.Helper()
	for i := range n {
		ack, err := o.js.Publish(t.Context(), fmt.Sprintf("old.%d.x", i%2), fmt.Appendf(nil, "%d of them", i))
		if err != nil {
			t.Fatal(err)
		}
		o.want[ack.Sequence], last = fmt.Sprintf("%d of them", i), ack.Sequence
	}
	return last
}

// age has all that the stream holds archived, and taken out of it.
func (o *old) age(t *testing.T) {
	t.Helper()
	a, err := archive.NewArchiver(archive.ArchiverConfig{Stream: "OLD", SegmentBytes: 300, SegmentAge: time.Millisecond, Keep: time.Millisecond, BeginAnew: o.anew},
		archive.Deps{JetStream: o.js, Store: o.store, Keys: o.keys, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for {
		stream, err := o.js.Stream(t.Context(), "OLD")
		if err != nil {
			t.Fatal(err)
		}
		if stream.CachedInfo().State.Msgs == 0 {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (o *old) run(t *testing.T, cfg projection.Config) (*projection.Runner, func()) {
	t.Helper()
	cfg.Name, cfg.Stream, cfg.JetStream, cfg.Logger = "seen", "OLD", o.js, platformtest.Logger(t)
	r, err := projection.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return r, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestArchiveIsReadBeforeTheStream(t *testing.T) {
	o, s := newOld(t), platformtest.Store(t, storeConfig(1))
	o.publish(t, 200)
	o.age(t)
	last := o.publish(t, 50)
	// Failures now and then: what is read of the archive has its effect once, too.
	var times atomic.Int64
	failing := func(context.Context, pgx.Tx, []projection.Message) error {
		if n := times.Add(1); n%5 == 0 && n < 40 {
			return &pgconn.PgError{Code: "40001"} // what PostgreSQL gets over
		}
		return nil
	}
	level := make(chan struct{})
	r, stop := o.run(t, projection.Config{
		Pool: s.Projector, Handler: note(failing), MaxMessages: 16, Archive: archive.NewReader(o.store, o.keys, "OLD"),
		Decode: func(*projection.Message) {}, Level: func(context.Context) error { close(level); return nil },
	})
	waitFor(t, r, last)
	<-level
	exactlyOnce(t, s, o.want)
	stop()
	// All is out of the stream, and the projection stands in the midst of what is.
	o.publish(t, 30)
	o.age(t)
	r, stop = o.run(t, projection.Config{Pool: s.Projector, Handler: note(nil), Archive: archive.NewReader(o.store, o.keys, "OLD")})
	waitFor(t, r, 280)
	last = o.publish(t, 3)
	waitFor(t, r, last)
	stop()
	exactlyOnce(t, s, o.want)
}

func TestArchiveIsReadThroughTheProjectionsFilter(t *testing.T) {
	o, s := newOld(t), platformtest.Store(t, storeConfig(1))
	o.publish(t, 100)
	o.age(t)
	o.publish(t, 10)
	for position := range o.want {
		if position%2 == 0 {
			delete(o.want, position) // of old.1
		}
	}
	asked := &lateArchive{Archive: archive.NewReader(o.store, o.keys, "OLD")}
	r, stop := o.run(t, projection.Config{Pool: s.Projector, Handler: note(nil), Subjects: []string{"nothing.>", "old.0.*"}, Archive: asked})
	waitFor(t, r, 109)
	stop()
	exactlyOnce(t, s, o.want)
	if n := asked.asked.Load(); n != 1 {
		t.Errorf("the archive was asked %d times: what the filter leaves out was taken for what has gone out of the stream", n)
	}
}

// TestWhatGoesOutOfTheStreamBeforeItIsReadIsReadFromTheArchive: a purge moves the consumer on, and its own numbers do not
// show it, neither by what comes behind nor where nothing comes.
func TestWhatGoesOutOfTheStreamBeforeItIsReadIsReadFromTheArchive(t *testing.T) {
	for name, c := range map[string]struct {
		subjects []string
		then     int
	}{
		"all, and more comes":          {nil, 50},
		"all, and nothing comes":       {nil, 0},
		"some of it, and more comes":   {[]string{"old.0.*"}, 50},
		"some of it, and nothing more": {[]string{"old.0.*"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o, s := newOld(t), platformtest.Store(t, storeConfig(1))
			began, goOn := make(chan struct{}), make(chan struct{})
			first := true
			waiting := func(ctx context.Context, _ pgx.Tx, _ []projection.Message) error {
				if !first {
					return nil
				}
				first = false
				close(began)
				select {
				case <-goOn:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			o.publish(t, 2)
			r, stop := o.run(t, projection.Config{
				Pool: s.Projector, Handler: note(waiting), Subjects: c.subjects, MaxMessages: 4, Prefetch: 4 << 10, Archive: archive.NewReader(o.store, o.keys, "OLD"),
			})
			<-began
			last := o.publish(t, 300) // more than is read ahead
			o.age(t)
			if c.then > 0 {
				last = o.publish(t, c.then)
			}
			close(goOn)
			for position := range o.want {
				if c.subjects != nil && position%2 == 0 {
					delete(o.want, position) // of old.1
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := r.WaitFor(ctx, projection.AllPartitions, last); err != nil {
				t.Error(err)
			}
			stop()
			exactlyOnce(t, s, o.want)
		})
	}
}

// TestCheckpointsAreNotMovedOverWhatHasGoneOutUnread: a consumer that has nothing to read says nothing of what was purged.
func TestCheckpointsAreNotMovedOverWhatHasGoneOutUnread(t *testing.T) {
	o, s := newOld(t), platformtest.Store(t, storeConfig(1))
	shares, err := projection.NewShares(projection.SharesConfig{Pool: s.Projector, Partitions: contract.Partitions, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := projection.New(projection.Config{
		Name: "seen", JetStream: o.js, Stream: "OLD", Subjects: []string{"old.>"}, Shares: shares, Pool: s.Projector, Handler: note(nil),
		Archive: archive.NewReader(o.store, o.keys, "OLD"), Logger: platformtest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	o.publish(t, 10)
	o.age(t)
	last := o.publish(t, 1) // of partition 0
	stream, err := o.js.Stream(t.Context(), "OLD")
	if err != nil {
		t.Fatal(err)
	}
	for read, want := range map[uint64]error{0: projection.ErrOvertaken, 9: projection.ErrOvertaken, 10: nil} {
		at, err := r.GoOn(t.Context(), stream, 1, read)
		if !errors.Is(err, want) || want != nil && at != read || want == nil && at != last {
			t.Errorf("a session that has read up to %d goes on to %d: %v", read, at, err)
		}
	}
}

func TestArchiveThatCannotBeReadIsWaitedFor(t *testing.T) {
	o, s := newOld(t), platformtest.Store(t, storeConfig(1))
	last := o.publish(t, 100)
	o.age(t)
	away := &awayArchive{Archive: archive.NewReader(o.store, o.keys, "OLD")}
	r, stop := o.run(t, projection.Config{Pool: s.Projector, Handler: note(nil), MaxMessages: 8, Archive: away})
	waitFor(t, r, last)
	stop()
	exactlyOnce(t, s, o.want)
	if away.asked.Load() < 4 {
		t.Errorf("the archive was asked %d times", away.asked.Load())
	}
}

// awayArchive breaks off three times.
type awayArchive struct {
	projection.Archive
	asked atomic.Int64
}

func (a *awayArchive) Read(ctx context.Context, created time.Time, from uint64, take func(projection.Message) error) (uint64, error) {
	left := []int64{0, 5, 40, 1000}[min(3, a.asked.Add(1)-1)]
	return a.Archive.Read(ctx, created, from, func(m projection.Message) error {
		if left--; left < 0 {
			return errors.New("the archive is away")
		}
		return take(m)
	})
}

// An archive that is not where it should be is waited for, too: what it holds would be left out for good.
func TestArchiveThatIsNotThereIsWaitedFor(t *testing.T) {
	o, s := newOld(t), platformtest.Store(t, storeConfig(1))
	o.publish(t, 100)
	o.age(t)
	last := o.publish(t, 10)
	nothing, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	late := &lateArchive{nothing: archive.NewReader(nothing, o.keys, "OLD"), Archive: archive.NewReader(o.store, o.keys, "OLD")}
	r, stop := o.run(t, projection.Config{Pool: s.Projector, Handler: note(nil), Archive: late})
	waitFor(t, r, last)
	stop()
	exactlyOnce(t, s, o.want)
}

// What an archive has lost is left out, and all that it holds is not.
func TestWhatAnArchiveHasLostIsLeftOut(t *testing.T) {
	o, s := newOld(t), platformtest.Store(t, storeConfig(1))
	o.publish(t, 100)
	stream, err := o.js.Stream(t.Context(), "OLD")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(21)); err != nil {
		t.Fatal(err)
	}
	for position := range o.want {
		if position < 21 {
			delete(o.want, position)
		}
	}
	o.anew = true
	o.age(t)
	last := o.publish(t, 10)
	r, stop := o.run(t, projection.Config{Pool: s.Projector, Handler: note(nil), Archive: archive.NewReader(o.store, o.keys, "OLD")})
	waitFor(t, r, last)
	stop()
	exactlyOnce(t, s, o.want)
}

// lateArchive holds nothing when it is asked the first times, where it is told so.
type lateArchive struct {
	projection.Archive
	nothing projection.Archive // nil: it is not late
	asked   atomic.Int64
}

func (l *lateArchive) Begins(ctx context.Context, created time.Time, from uint64) (uint64, error) {
	if l.asked.Add(1) <= 2 && l.nothing != nil {
		return l.nothing.Begins(ctx, created, from)
	}
	return l.Archive.Begins(ctx, created, from)
}

func TestSubjects(t *testing.T) {
	for _, c := range []struct {
		filter string
		takes  []string
	}{
		{">", []string{"a", "a.b", "a.b.c"}},
		{"a", []string{"a"}},
		{"a.*", []string{"a.b"}},
		{"*.b", []string{"a.b"}},
		{"a.>", []string{"a.b", "a.b.c"}},
		{"*.*.c", []string{"a.b.c"}},
		{"b.>", nil},
	} {
		var got []string
		for _, subject := range []string{"a", "a.b", "a.b.c"} {
			if projection.Matches(c.filter, subject) {
				got = append(got, subject)
			}
		}
		if !slices.Equal(got, c.takes) {
			t.Errorf("%s takes %q, want %q", c.filter, got, c.takes)
		}
	}
}
