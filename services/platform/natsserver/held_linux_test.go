package natsserver

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/natsfiles/natsfilestest"
)

// TestAStreamThatCannotBeOpenedForAMomentIsThereAfterwards: its folder takes no new file, as on a disk that
// fails for a moment, and nats-server removes what it cannot open.
func TestAStreamThatCannotBeOpenedForAMomentIsThereAfterwards(t *testing.T) {
	config := Config{StoreDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	stored := func(publish bool) uint64 {
		t.Helper()
		s, err := Start(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		nc, err := s.Connect(User{})
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := EnsureStreams(t.Context(), nc, Streams{}); err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if publish {
			if _, err := js.Publish(t.Context(), contract.AgentSubject(contract.ID{1}, contract.ID{2}, 1), []byte("kept")); err != nil {
				t.Fatal(err)
			}
		}
		stream, err := js.Stream(t.Context(), contract.AgentStream)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State.Msgs
	}
	stored(true)
	folders, err := filepath.Glob(filepath.Join(config.StoreDir, "jetstream", "*", "streams", contract.AgentStream))
	if err != nil || len(folders) != 1 {
		t.Fatalf("the stream's folder: %q, %v", folders, err)
	}
	over := natsfilestest.Unwritable(t, folders[0])
	failed, err := Start(t.Context(), config)
	over()
	if err == nil {
		failed.Stop()
		t.Error("a server starts that cannot open its log")
	}
	if n := stored(false); n != 1 {
		t.Errorf("%d messages are left of 1", n)
	}
}
