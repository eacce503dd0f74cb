package buffer

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cetrus/cetrus/proto/natsfiles/natsfilestest"
)

// TestAStreamThatCannotBeOpenedForAMomentIsThereAfterwards: its folder takes no new file, as on a disk that
// fails for a moment, and the embedded server removes what it cannot open.
func TestAStreamThatCannotBeOpenedForAMomentIsThereAfterwards(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b", "c")
	id := b.State().ID
	shut(t, b)
	folder := filepath.Join(dir, "jetstream", "$G", "streams", streamName)
	over := natsfilestest.Unwritable(t, folder)
	failed, err := Open(context.Background(), testConfig(dir))
	over()
	if err == nil {
		shut(t, failed)
		t.Fatal("a buffer is opened that cannot be written")
	}
	b = open(t, testConfig(dir))
	if s := b.State(); len(s.Losses) > 0 || s.ID != id || s.FirstPosition != 1 || s.LastPosition != 3 {
		t.Errorf("%+v", s)
	}
}

// TestADiskThatIsWellAgainWhileTheServerStarts: the folder takes new files again as soon as the embedded server has failed
// to open the stream, and removed its messages. Made anew there, it would be empty.
func TestADiskThatIsWellAgainWhileTheServerStarts(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b", "c")
	id := b.State().ID
	shut(t, b)
	over := sync.OnceFunc(natsfilestest.Unwritable(t, filepath.Join(dir, "jetstream", "$G", "streams", streamName)))
	config := testConfig(dir)
	heard := false
	config.Log = slog.New(hearing(func(said string) {
		if strings.HasPrefix(said, "Error recreating stream") {
			heard = true
			over()
		}
	}))
	b = open(t, config)
	if s := b.State(); !heard || len(s.Losses) > 0 || s.ID != id || s.FirstPosition != 1 || s.LastPosition != 3 {
		t.Errorf("heard of the failure: %t; %+v", heard, s)
	}
	if p := put(t, b, usage, "d"); p[0] != 4 {
		t.Errorf("position %d", p[0])
	}
}

// hearing is a log that somebody listens to.
type hearing func(said string)

// Enabled implements slog.Handler.
func (hearing) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h hearing) Handle(_ context.Context, r slog.Record) error {
	h(r.Message)
	return nil
}

// WithAttrs implements slog.Handler.
func (h hearing) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h hearing) WithGroup(string) slog.Handler { return h }
