package buffer

import (
	"os"
	"path/filepath"
	"testing"
)

// The disk fails while the Manager runs, and what comes back has lost its end.
func TestATailLostWhileRunningIsReportedAndItsPositionsGetAnotherIdentity(t *testing.T) {
	dir := t.TempDir()
	b := open(t, testConfig(dir))
	put(t, b, usage, "a", "b", "c", "d")
	id := b.State().ID
	b.store.close()
	file := blockFiles(t, dir)[0]
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, info.Size()-10); err != nil {
		t.Fatal(err)
	}
	// Its index would remember how far it came.
	if err := os.Remove(filepath.Join(filepath.Dir(file), "index.db")); err != nil {
		t.Fatal(err)
	}
	if err := b.reopen(); err != nil {
		t.Fatal(err)
	}
	s := b.State()
	if len(s.Losses) != 1 || s.Losses[0].To != 4 || s.LastPosition != s.Losses[0].From-1 || s.ID == id {
		t.Fatalf("the loss is not told: %+v", s)
	}
	if p := put(t, b, usage, "e"); p[0] != s.Losses[0].From {
		t.Errorf("position %d, not %d", p[0], s.Losses[0].From)
	}
	if segments := b.Segments(); len(segments) != 2 || segments[0].To != s.Losses[0].From-1 || segments[1].ID != s.ID {
		t.Errorf("segments: %+v", segments)
	}
	shut(t, b)
	b = open(t, testConfig(dir))
	if again := b.State(); len(again.Losses) != 1 || again.ID != s.ID {
		t.Errorf("opened once more: %+v", again)
	}
}
