package buffer

import (
	"context"
	"path/filepath"
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
