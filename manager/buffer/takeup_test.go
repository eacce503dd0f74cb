package buffer

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAStreamWhoseDescriptionIsDamagedIsTakenUpAgain(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func(folder string) error
	}{
		{"the sum is gone", func(folder string) error { return os.Remove(filepath.Join(folder, "meta.sum")) }},
		{"the description is gone", func(folder string) error { return os.Remove(filepath.Join(folder, "meta.inf")) }},
		{"the description is unreadable", func(folder string) error {
			return os.WriteFile(filepath.Join(folder, "meta.inf"), []byte("no"), 0o600)
		}},
	} {
		t.Run(damage.name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, testConfig(dir))
			put(t, b, usage, "a", "b", "c")
			id := b.State().ID
			shut(t, b)
			if err := damage.do(filepath.Join(dir, "jetstream", "$G", "streams", streamName)); err != nil {
				t.Fatal(err)
			}
			b = open(t, testConfig(dir))
			if s := b.State(); len(s.Losses) > 0 || s.ID != id || s.FirstPosition != 1 || s.LastPosition != 3 {
				t.Errorf("%+v", s)
			}
			if p := put(t, b, usage, "d"); p[0] != 4 {
				t.Errorf("position %d", p[0])
			}
		})
	}
}
