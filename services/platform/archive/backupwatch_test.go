package archive_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cetrus/cetrus/services/platform/archive"
)

// unreachable is a store that cannot be asked.
type unreachable struct{ archive.Store }

func (unreachable) Folders(context.Context, string) ([]string, error) {
	return nil, errors.New("no route to host")
}

// large is a store of which nobody lists all objects every few minutes, or asks again for what does not change.
type large struct {
	archive.Store
	t     *testing.T
	asked *int
}

func (l large) Has(ctx context.Context, name string) (bool, error) {
	*l.asked++
	return l.Store.Has(ctx, name)
}

func (l large) List(_ context.Context, prefix string) ([]string, error) {
	l.t.Errorf("all objects in %q are listed", prefix)
	return nil, nil
}

// What counts is the latest backup that was finished, whatever happens to the one that makes them.
func TestBackupsThatDoNotComeAreLate(t *testing.T) {
	for kind, store := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			ctx, keys := t.Context(), archive.NewKeys()
			begin := time.Now()
			now := begin
			asked := 0
			w, err := archive.NewBackupWatch(large{store, t, &asked}, 36*time.Hour, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.SetClock(func() time.Time { return now })
			late := func(what string, want time.Duration) {
				t.Helper()
				if got := w.Late(); got.Round(time.Second) != want {
					t.Errorf("%s: it is late by %v, not %v", what, got, want)
				}
			}
			look := func() {
				t.Helper()
				if err := w.Look(ctx); err != nil {
					t.Fatal(err)
				}
			}
			look()
			late("a new installation has time", 0)
			now = begin.Add(40 * time.Hour)
			look()
			late("there is none yet", 4*time.Hour)

			begun := archive.NewBackup(store, keys, now)
			if err := begun.Add(ctx, "file/x", func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err != nil {
				t.Fatal(err)
			}
			look()
			late("one was begun", 4*time.Hour)
			for _, at := range []time.Duration{39 * time.Hour, 20 * time.Hour} { // the latest counts, in whatever order they come
				if err := archive.NewBackup(store, keys, begin.Add(at)).Finish(ctx, nil); err != nil {
					t.Fatal(err)
				}
			}
			look()
			late("one was made", 0)
			now = begin.Add((39 + 36 + 2) * time.Hour)
			late("no other has come", 2*time.Hour)
			asked = 0
			look()
			if asked != 1 {
				t.Errorf("it is asked for %d backups, where one of three is not finished", asked)
			}

			broken, err := archive.NewBackupWatch(unreachable{store}, 36*time.Hour, nil)
			if err != nil {
				t.Fatal(err)
			}
			broken.SetClock(func() time.Time { return begin.Add(37 * time.Hour) })
			if err := broken.Look(ctx); err == nil || broken.Late().Round(time.Second) != time.Hour {
				t.Errorf("a store that cannot be looked into: %v, late by %v", err, broken.Late())
			}
		})
	}
}
