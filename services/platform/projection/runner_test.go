package projection_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// seenTables has a row for each time that a message was applied, and no key
// that would hide a second one.
var seenTables = fstest.MapFS{"00001_seen.sql": {Data: []byte(`-- +goose Up
CREATE TABLE seen (account_id uuid NOT NULL, position bigint NOT NULL, data text NOT NULL);
SELECT cetrus.wall('seen');
CREATE TABLE tally (account_id uuid PRIMARY KEY, messages bigint NOT NULL, last bigint NOT NULL);
SELECT cetrus.wall('tally');
CREATE TABLE poison (account_id uuid NOT NULL, position bigint NOT NULL, cause text NOT NULL);
SELECT cetrus.wall('poison');
`)}}

func storeConfig(version int) postgres.Config {
	return postgres.Config{
		Service: "seen", Version: version,
		Migrations: []postgres.Migrations{projection.Migrations(), {Name: "seen", Files: seenTables}},
	}
}

var account = contract.ID{1}

// note writes what it is given; failing, where it is set, spoils it.
func note(failing func(context.Context, pgx.Tx, []projection.Message) error) projection.HandlerFunc {
	return func(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
		rows := make([][]any, len(batch))
		for i, m := range batch {
			rows[i] = []any{account, int64(m.Position), string(m.Data)}
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"seen"}, []string{"account_id", "position", "data"}, pgx.CopyFromRows(rows)); err != nil {
			return err
		}
		if failing != nil {
			return failing(ctx, tx, batch)
		}
		return nil
	}
}

// remembering notes like note does, but for what it remembers to have noted, and
// writes how many that are out of its memory: what agentlog does with its ranges.
type remembering struct {
	known          bool
	messages, last int64
}

func (m *remembering) forget() { m.known = false }

func (m *remembering) Apply(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
	if !m.known {
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(messages), 0), coalesce(max(last), 0) FROM tally").Scan(&m.messages, &m.last); err != nil {
			return err
		}
	}
	m.known = true
	projection.AfterTx(ctx, func(committed bool) { m.known = m.known && committed })
	var fresh []projection.Message
	for _, message := range batch {
		if int64(message.Position) > m.last {
			fresh = append(fresh, message)
			m.messages, m.last = m.messages+1, int64(message.Position)
		}
	}
	if _, err := tx.Exec(ctx, `INSERT INTO tally VALUES ($1, $2, $3)
		ON CONFLICT (account_id) DO UPDATE SET messages = excluded.messages, last = excluded.last`, account, m.messages, m.last); err != nil {
		return err
	}
	return note(nil)(ctx, tx, fresh)
}

// tallied fails where what was remembered is not what was noted.
func tallied(t *testing.T, s *postgres.Store, want map[uint64]string) {
	t.Helper()
	var messages int
	if err := s.Projector.QueryRow(t.Context(), "SELECT messages FROM tally").Scan(&messages); err != nil || messages != len(want) {
		t.Errorf("%d messages are tallied, want %d: %v", messages, len(want), err)
	}
	exactlyOnce(t, s, want)
}

// exactlyOnce fails where the table is not the stream, message by message.
func exactlyOnce(t *testing.T, s *postgres.Store, want map[uint64]string) {
	t.Helper()
	rows, err := s.Projector.Query(t.Context(), "SELECT position, data FROM seen ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint64]string{}
	var position int64
	var data string
	if _, err := pgx.ForEachRow(rows, []any{&position, &data}, func() error {
		if _, twice := got[uint64(position)]; twice {
			t.Errorf("position %d was applied twice", position)
		}
		got[uint64(position)] = data
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for p, d := range want {
		if got[p] != d {
			t.Errorf("position %d holds %q, want %q", p, got[p], d)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d messages are applied, want %d", len(got), len(want))
	}
}

type published struct {
	js   jetstream.JetStream
	want map[uint64]string
	last uint64
}

func (p *published) publish(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		data := fmt.Sprintf("%d of %d", i, n)
		ack, err := p.js.Publish(t.Context(), "ev.0.test", []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		p.want[ack.Sequence], p.last = data, ack.Sequence
	}
}

func stream(t *testing.T, nc *nats.Conn) *published {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &published{js: js, want: map[uint64]string{}}
}

// run runs a projection until the test, or stop, ends it.
func run(t *testing.T, cfg projection.Config) (r *projection.Runner, stop func() error) {
	t.Helper()
	cfg.Name, cfg.Stream, cfg.Logger = "seen", contract.EventStream, platformtest.Logger(nil)
	r, err := projection.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	return r, stop
}

func waitFor(t *testing.T, r *projection.Runner, position uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := r.WaitFor(ctx, projection.AllPartitions, position); err != nil {
		t.Fatal(err)
	}
}

func TestAppliesAndGoesOnWhereItEnded(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	p.publish(t, 500)
	r, stop := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil), MaxMessages: 64})
	waitFor(t, r, p.last)
	if err := stop(); err != nil {
		t.Fatal("stopped in good order:", err)
	}
	exactlyOnce(t, s, p.want)
	p.publish(t, 100)
	r, _ = run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	p.publish(t, 100)
	waitFor(t, r, p.last)
	exactlyOnce(t, s, p.want)
	if at, err := projection.Position(t.Context(), s.Projector, "seen", projection.AllPartitions); err != nil || at != p.last {
		t.Errorf("the checkpoint is %d (%v), want %d", at, err, p.last)
	}
	if got := r.Progress(); got.Done != 200 || !got.Level {
		t.Errorf("progress is %+v", got)
	}
}

// A projection that was level and can apply nothing any more says what waits: that it stands still is seen by that.
func TestWhatWaitsIsToldWhileNothingCanBeApplied(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	var broken atomic.Bool
	failing := func(context.Context, pgx.Tx, []projection.Message) error {
		if broken.Load() {
			return context.DeadlineExceeded
		}
		return nil
	}
	r, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(failing)})
	waiting := func() uint64 { now := r.Progress(); return now.Total - now.Done }
	p.publish(t, 3)
	waitFor(t, r, p.last)
	broken.Store(true)
	for _, more := range []int{1, 4} { // the first alone fails in the session that was level
		p.publish(t, more)
		for deadline := time.Now().Add(time.Minute); waiting() != p.last-3; <-time.After(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d wait, of %d", waiting(), p.last-3)
			}
		}
	}
	broken.Store(false)
	waitFor(t, r, p.last)
	if n := waiting(); n != 0 {
		t.Errorf("all is applied, and %d wait", n)
	}
}

// Whatever fails at whatever moment, each message has its effect once.
func TestExactlyOnceThroughFailures(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	var mu sync.Mutex
	var failed, committed, rolledBack atomic.Int64
	failing := func(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
		projection.AfterTx(ctx, func(ok bool) {
			if ok {
				committed.Add(int64(len(batch)))
			} else {
				rolledBack.Add(1)
			}
		})
		mu.Lock()
		kind := rnd.IntN(6)
		mu.Unlock()
		if failed.Load() > 30 {
			kind = 5
		}
		if kind < 4 {
			failed.Add(1)
		}
		switch kind {
		case 0: // a deadlock, as Postgres would say it
			_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'deadlock_detected'; END $$")
			return err
		case 1: // the connection dies before the commit
			_, _ = tx.Exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid())")
			return nil
		case 2: // it dies unseen, so that the commit itself fails
			return tx.Conn().PgConn().Conn().Close()
		case 3:
			return context.DeadlineExceeded
		}
		return nil
	}
	r, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(failing), MaxMessages: 16})
	for range 10 {
		p.publish(t, 60)
	}
	waitFor(t, r, p.last)
	exactlyOnce(t, s, p.want)
	if rolledBack.Load() == 0 || committed.Load() < int64(len(p.want))-32 {
		t.Errorf("hooks heard of %d messages committed and %d transactions rolled back", committed.Load(), rolledBack.Load())
	}
	t.Logf("%d failures", failed.Load())
}

// Two Runners take turns: each remembers what the other has overwritten since, and
// must forget it.
func TestTwoRunnersDoNoHarm(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	var one, other remembering
	a, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: &one, Forget: one.forget, MaxMessages: 8})
	b, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: &other, Forget: other.forget, MaxMessages: 8})
	p.publish(t, 300)
	waitFor(t, a, p.last)
	waitFor(t, b, p.last)
	tallied(t, s, p.want)
}

func TestBadMessageStopsOrIsSetAside(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	p.publish(t, 30)
	const bad = 17
	failing := func(_ context.Context, _ pgx.Tx, batch []projection.Message) error {
		for _, m := range batch {
			if m.Position == bad {
				panic("this message panics")
			}
		}
		return nil
	}
	r, stop := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(failing)})
	err := r.WaitFor(t.Context(), projection.AllPartitions, p.last)
	if err == nil || !strings.Contains(err.Error(), "the message at position 17 cannot be applied") {
		t.Fatal(err)
	}
	if err := stop(); err == nil {
		t.Fatal("Run returned nil")
	}
	good := map[uint64]string{}
	for position := uint64(1); position < bad; position++ {
		good[position] = p.want[position]
	}
	exactlyOnce(t, s, good)

	poison := func(ctx context.Context, tx pgx.Tx, m projection.Message, cause error) error {
		_, err := tx.Exec(ctx, "INSERT INTO poison VALUES ($1, $2, $3)", account, int64(m.Position), cause.Error())
		return err
	}
	r, _ = run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(failing), Poison: poison})
	waitFor(t, r, p.last)
	delete(p.want, bad)
	exactlyOnce(t, s, p.want)
	var position int
	var cause string
	if err := s.Projector.QueryRow(t.Context(), "SELECT position, cause FROM poison").Scan(&position, &cause); err != nil || position != bad || !strings.Contains(cause, "panic") {
		t.Errorf("set aside: %d, %q, %v", position, cause, err)
	}
}

func TestOtherStreamIsRefused(t *testing.T) {
	s, nc := platformtest.Store(t, storeConfig(1)), platformtest.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	p := &published{js: js, want: map[uint64]string{}}
	p.publish(t, 10)
	r, stop := run(t, projection.Config{JetStream: js, Pool: s.Projector, Handler: note(nil)})
	waitFor(t, r, p.last)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), contract.EventStream); err != nil {
		t.Fatal(err)
	}
	if err := natsserver.EnsureStreams(t.Context(), nc, natsserver.Streams{}); err != nil {
		t.Fatal(err)
	}
	p.publish(t, 20)
	r, _ = run(t, projection.Config{JetStream: js, Pool: s.Projector, Handler: note(nil)})
	if err := r.WaitFor(t.Context(), projection.AllPartitions, 20); !errors.Is(err, projection.ErrOtherStream) {
		t.Fatal(err)
	}
}

func TestWaitForPositionsThatAreLeftOut(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	r, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil), Subjects: []string{"ev.*.test"}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.publish(t, 3)
	ack, err := p.js.Publish(ctx, "ev.0.other", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WaitFor(ctx, projection.AllPartitions, ack.Sequence); err != nil {
		t.Fatal(err)
	}
	exactlyOnce(t, s, p.want)
	soon, cancelSoon := context.WithTimeout(ctx, 150*time.Millisecond)
	defer cancelSoon()
	if err := r.WaitFor(soon, projection.AllPartitions, ack.Sequence+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a position that is not stored counts as passed: %v", err)
	}
}

// A new version is built beside the old one, which goes on; queries swap when
// it is level.
func TestRebuildBeside(t *testing.T) {
	cfg, p := storeConfig(1), stream(t, platformtest.NATS(t))
	cfg.URL = platformtest.Database(t)
	open := func(version int) *postgres.Store {
		cfg.Version = version
		s, err := postgres.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	v1 := open(1)
	p.publish(t, 200)
	old, _ := run(t, projection.Config{JetStream: p.js, Pool: v1.Projector, Handler: note(nil)})
	waitFor(t, old, p.last)

	v2 := open(2)
	var told []projection.Progress
	swapped := make(chan struct{})
	_, stop := run(t, projection.Config{
		JetStream: p.js, Pool: v2.Projector, Handler: note(nil), MaxMessages: 10,
		Progress: func(p projection.Progress) { told = append(told, p) },
		Level: func(ctx context.Context) error {
			defer close(swapped)
			return v2.Activate(ctx)
		},
	})
	p.publish(t, 50)
	<-swapped
	var schema string
	if err := v1.InAccount(t.Context(), account, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema)
	}); err != nil || schema != "seen_v2" {
		t.Fatalf("queries see %s: %v", schema, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if last := told[len(told)-1]; !last.Level || last.Done < 200 || last.Total != last.Done {
		t.Errorf("the last progress is %+v", last)
	}
	waitFor(t, old, p.last)
	exactlyOnce(t, v1, p.want)
}

// ownServer starts a server that a test may kill, and opens a store on it.
func ownServer(t *testing.T) (*postgres.Server, *postgres.Store) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cetrus-projection-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	server, err := postgres.StartServer(t.Context(), postgres.ServerConfig{Dir: dir, Unsafe: true, Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		server.Stop(ctx)
	})
	cfg := storeConfig(1)
	cfg.URL = server.URL()
	s, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return server, s
}

// Real deaths: Postgres by SIGKILL, NATS by a stop that its clients see as a
// crash.
func TestOutlivesPostgresAndNATS(t *testing.T) {
	server, s := ownServer(t)

	held, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	address := held.Addresses()[0]
	files := t.TempDir()
	user := natsserver.PlatformUser("secret")
	startNATS := func() *natsserver.Server {
		n, err := natsserver.Start(t.Context(), natsserver.Config{StoreDir: files, Listen: address, Users: []natsserver.User{user}, Unsynced: true, Logger: platformtest.Logger(nil)})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := startNATS()
	defer func() { n.Stop() }()
	nc, err := nats.Connect("nats://"+address, append(user.Options(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if err := natsserver.EnsureStreams(t.Context(), nc, natsserver.Streams{}); err != nil {
		t.Fatal(err)
	}
	p := stream(t, nc)
	r, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil), MaxMessages: 16})
	killed := 0
	for round := range 3 {
		p.publish(t, 200)
		// Everything may have been applied before the last kill: the server need
		// not be back yet.
		alive(t, s, server, killed)
		killed = server.Pid()
		if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			n.Stop()
			n = startNATS()
			deadline := time.Now().Add(10 * time.Second)
			for !nc.IsConnected() && time.Now().Before(deadline) {
				nc.ForceReconnect()
				nc.FlushTimeout(200 * time.Millisecond)
			}
		}
		waitFor(t, r, p.last)
	}
	// The last transactions may have been before the death: connections of then are
	// of no use for looking.
	alive(t, s, server, killed)
	exactlyOnce(t, s, p.want)
}

// A crash of Postgres takes back commits that were reported, and with them what
// the handler remembers of them: what comes again must count again.
func TestForgetsWhatACrashTookBack(t *testing.T) {
	server, s := ownServer(t)
	admin, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	// What is committed without waiting stays in memory as long as can be.
	for _, sql := range []string{"ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()"} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := admin.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := stream(t, platformtest.NATS(t))
	p.publish(t, 200)
	var handler remembering
	commits, back := 0, int64(0)
	killing := projection.HandlerFunc(func(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
		err := handler.Apply(ctx, tx, batch)
		projection.AfterTx(ctx, func(committed bool) {
			if commits++; commits != 100 {
				return
			}
			before := handler.last
			killed := server.Pid()
			if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			alive(t, s, server, killed)
			var last int64
			if err := s.Projector.QueryRow(t.Context(), "SELECT coalesce(max(last), 0) FROM tally").Scan(&last); err != nil {
				t.Error(err)
			}
			back = before - last
		})
		return err
	})
	r, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: killing, Forget: handler.forget, MaxMessages: 1})
	waitFor(t, r, p.last)
	tallied(t, s, p.want)
	if back == 0 {
		t.Error("the crash took nothing back: this run has shown nothing")
	}
	t.Logf("the crash took %d commits back", back)
}

// alive waits until a server other than the killed one answers.
func alive(t *testing.T, s *postgres.Store, server *postgres.Server, killed int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		pid := server.Pid()
		s.Projector.Reset()
		err := s.Projector.Ping(ctx)
		if err == nil && pid != 0 && pid != killed && pid == server.Pid() {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the server does not come back:", err)
		}
	}
}

// A stream that has lost its tail would give the same positions to other
// messages.
func TestStreamThatLostItsTailIsRefused(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	p.publish(t, 5)
	r, stop := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	waitFor(t, r, p.last)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Projector.Exec(t.Context(), "UPDATE projection_checkpoint SET position = 9"); err != nil {
		t.Fatal(err)
	}
	r, _ = run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	if err := r.WaitFor(t.Context(), projection.AllPartitions, 10); !errors.Is(err, projection.ErrBehind) {
		t.Fatal(err)
	}
}

// A stream that has lost its tail and taken other messages in since ends behind
// the checkpoint again, and yet is another.
func TestStreamWithAnotherMessageAtTheCheckpointIsRefused(t *testing.T) {
	s, files, restored := platformtest.Store(t, storeConfig(1)), t.TempDir(), t.TempDir()
	nc, stopNATS := platformtest.NATSServer(t, files)
	stream(t, nc).publish(t, 5)
	stopNATS()
	if err := os.CopyFS(restored, os.DirFS(files)); err != nil {
		t.Fatal(err)
	}
	nc, stopNATS = platformtest.NATSServer(t, files)
	p := stream(t, nc)
	p.publish(t, 5)
	r, stop := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	waitFor(t, r, p.last)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	stopNATS()
	nc, _ = platformtest.NATSServer(t, restored)
	p = stream(t, nc)
	p.publish(t, 7)
	r, _ = run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	if err := r.WaitFor(t.Context(), projection.AllPartitions, p.last); !errors.Is(err, projection.ErrReplaced) {
		t.Fatal(err)
	}
}

// What Do runs sees the tables as a batch left them, whatever is applied
// meanwhile, and is refused where another Runner keeps them.
func TestDoStandsBetweenBatches(t *testing.T) {
	s, p := platformtest.Store(t, storeConfig(1)), stream(t, platformtest.NATS(t))
	r, stop := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil), MaxMessages: 4})
	p.publish(t, 1)
	waitFor(t, r, p.last)
	look := func(ctx context.Context, tx pgx.Tx) error {
		var rows, checkpoint int64
		for range 2 {
			if err := tx.QueryRow(ctx, "SELECT (SELECT count(*) FROM seen), (SELECT position FROM projection_checkpoint)").Scan(&rows, &checkpoint); err != nil {
				return err
			}
			if rows != checkpoint {
				return fmt.Errorf("%d rows at the position %d", rows, checkpoint)
			}
		}
		return nil
	}
	for range 20 {
		p.publish(t, 10)
		if err := r.Do(t.Context(), 0, look); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, r, p.last)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	p.publish(t, 10)
	other, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	waitFor(t, other, p.last)
	if err := r.Do(t.Context(), 0, look); err == nil {
		t.Fatal("a Runner that another has replaced still wrote")
	}
	if err := other.Do(t.Context(), 0, look); err != nil {
		t.Fatal(err)
	}
	third, _ := run(t, projection.Config{JetStream: p.js, Pool: s.Projector, Handler: note(nil)})
	waitFor(t, third, p.last)
	for range 2 { // the second knows its own turn
		if err := third.Do(t.Context(), 0, look); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Do(t.Context(), 0, look); err == nil {
		t.Fatal("a Runner wrote, though another has since, between two batches")
	}
}
