package natsserver

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/natsfiles/natsfilestest"
)

// TestAServerThatWritesNoMoreEndsOnceItsDiskIsWell: a server whose disk was full writes no more, also when there is
// room again, and so ends to be started again; before that a restart would not help.
func TestAServerThatWritesNoMoreEndsOnceItsDiskIsWell(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s, err := Start(t.Context(), Config{StoreDir: filepath.Join(dir, "nats"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := s.Connect(User{})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := EnsureStreams(t.Context(), nc, Streams{}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.gaveUp(time.Now()); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 15<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	subject := contract.AgentSubject(contract.ID{1}, contract.ID{2}, 1)
	for late := time.Now().Add(20 * time.Second); s.said.unwritten.Load() == nil; {
		_, _ = js.Publish(t.Context(), subject, make([]byte, 512<<10))
		if time.Now().After(late) {
			t.Fatalf("a full disk is not noticed: %v", s.Ready())
		}
	}
	// Not even a little fits any more.
	rest := filepath.Join(dir, "rest")
	if err := os.WriteFile(rest, make([]byte, 16<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	if err := s.gaveUp(time.Now()); err != nil {
		t.Errorf("a restart would help while the disk is full: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	if err := errors.Join(os.Remove(ballast), os.Remove(rest)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "has to be started again") {
			t.Errorf("it says %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
}

// TestAServerThatCouldNotWriteWhatItsClusterDecidedEndsOnceItsDiskIsWell: it would be behind for ever.
func TestAServerThatCouldNotWriteWhatItsClusterDecidedEndsOnceItsDiskIsWell(t *testing.T) {
	cluster, err := StartCluster(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Stop)
	struck := cluster.Servers[0]
	nc, err := cluster.Servers[1].Connect(User{})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := EnsureStreams(t.Context(), nc, Streams{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(struck.config.StoreDir, "jetstream")
	consumer := func(durable string) error {
		_, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: durable})
		return err
	}
	if err := consumer("first"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, unwritable, says string
		decide                 func() error
	}{
		{"stream changed", filepath.Join(store, "$G", "streams", contract.EventStream), "assignment error", func() error {
			changed := stream.CachedInfo().Config
			changed.Description = "decided while a disk fails"
			_, err := js.UpdateStream(t.Context(), changed)
			return err
		}},
		{"stream made", filepath.Join(store, "$G", "streams"), "assignment error", func() error {
			_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LATER", Subjects: []string{"later"}, Replicas: 3})
			return err
		}},
		{"consumer made", filepath.Join(store, "$G", "streams", contract.EventStream, "obs"), "assignment error", func() error { return consumer("second") }},
		{"node of a consumer made", filepath.Join(store, "$SYS", "_js_"), "node missing", func() error { return consumer("third") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			health := func() string { return struck.server.Healthz(nil).Error }
			await := func(what string, is func() bool) {
				t.Helper()
				look := time.NewTicker(10 * time.Millisecond)
				defer look.Stop()
				for late := time.After(time.Minute); !is(); {
					select {
					case <-look.C:
					case <-late:
						t.Fatalf("%s did not come: %q", what, health())
					}
				}
			}
			await("health", func() bool { return health() == "" })
			over := natsfilestest.Unwritable(t, c.unwritable)
			if err := c.decide(); err != nil {
				t.Log(err) // where the struck server leads it is the one that answers
			}
			await("the failure", func() bool { return strings.Contains(health(), c.says) })
			over()
			now := time.Now()
			for _, server := range cluster.Servers {
				if err := server.gaveUp(now); err != nil {
					t.Errorf("it does not wait: %v", err)
				}
			}
			if err := struck.gaveUp(now.Add(unmadeFor)); err == nil || !strings.Contains(err.Error(), "has to be started again") {
				t.Errorf("it says %v", err)
			}
			if err := cluster.Servers[1].gaveUp(now.Add(unmadeFor)); err != nil {
				t.Errorf("another has to be started again: %v", err)
			}
			struck.Stop()
			if struck, err = Start(t.Context(), struck.config); err != nil {
				t.Fatal(err)
			}
			cluster.Servers[0] = struck
			await("health after a start", func() bool { return health() == "" })
		})
	}
}
