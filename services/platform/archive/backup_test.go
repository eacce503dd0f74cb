package archive_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/services/platform/archive"
)

// The contents of a backup grow with what is in it, beyond what one sealed block may hold.
func TestABackupOfVeryMuchOpens(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keys, about := archive.NewKeys(), strings.Repeat("a digest of a piece ", 2<<20)
	begun := archive.NewBackup(store, keys, time.Now())
	if err := begun.Finish(t.Context(), about); err != nil {
		t.Fatal(err)
	}
	if kept, err := archive.OpenBackup(t.Context(), store, keys, begun.Name()); err != nil || len(kept.About) != len(about)+2 {
		t.Errorf("%v", err)
	}
}

// A backup of hours is not lost with one answer.
func TestABackupOutlivesLostAnswers(t *testing.T) {
	store, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keys, now := archive.NewKeys(), time.Now()
	begin := func() *archive.Backup { return archive.NewBackup(deafStore{store}, keys, now) }
	add := func(b *archive.Backup) error {
		return b.Add(t.Context(), "file/name-key", func(w io.Writer) error { _, err := w.Write([]byte("key")); return err })
	}
	one := begin()
	if err := errors.Join(add(one), one.Finish(t.Context(), nil)); err != nil {
		t.Error(err)
	}
	kept, err := archive.OpenBackup(t.Context(), store, keys, one.Name())
	if err == nil {
		err = kept.Check(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	if err := add(begin()); !errors.Is(err, archive.ErrExists) {
		t.Errorf("another of the same name: %v", err)
	}
	of := archive.New(deafStore{store}, keys, "S", now)
	for want := range 2 {
		if branch, err := of.Fork(t.Context(), 0, now); branch != want+1 || err != nil {
			t.Errorf("branch %d: %v", branch, err)
		}
	}
}

func TestBackupsHoldWhatWasPutIntoThem(t *testing.T) {
	for kind, store := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			ctx, keys := t.Context(), archive.NewKeys()
			large := bytes.Repeat([]byte("a line of a table\n"), 2<<20) // more than two pieces
			files := map[string][]byte{"stream/EVENTS": large, "file/name-key": []byte("key"), "table/x/empty": nil}
			begun := archive.NewBackup(store, keys, time.Now())
			for _, name := range []string{"stream/EVENTS", "file/name-key", "table/x/empty"} {
				if err := begun.Add(ctx, name, func(w io.Writer) error {
					for chunk := range slices.Chunk(files[name], 100_001) {
						if _, err := w.Write(chunk); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			if names, err := archive.Backups(ctx, store); err != nil || len(names) != 0 {
				t.Errorf("a backup that is not finished is one: %q %v", names, err)
			}
			if _, err := archive.OpenBackup(ctx, store, keys, begun.Name()); !errors.Is(err, archive.ErrNone) {
				t.Errorf("a backup that is not finished opens: %v", err)
			}
			if err := begun.Finish(ctx, map[string]string{"release": "1"}); err != nil {
				t.Fatal(err)
			}
			if names, err := archive.Backups(ctx, store); err != nil || !slices.Equal(names, []string{begun.Name()}) {
				t.Errorf("finished: %q %v", names, err)
			}
			kept, err := archive.OpenBackup(ctx, store, keys, begun.Name())
			if err != nil || string(kept.About) != `{"release":"1"}` {
				t.Fatalf("%s %v", kept.About, err)
			}
			for name, want := range files {
				var got []byte
				if err := kept.Each(ctx, name, func(piece []byte) error {
					got = append(got, piece...)
					return nil
				}); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes of %d: %v", name, len(got), len(want), err)
				}
			}
			if err := kept.Check(ctx); err != nil {
				t.Error(err)
			}
			if _, err := archive.OpenBackup(ctx, store, archive.NewKeys(), begun.Name()); !errors.Is(err, archive.ErrOtherKey) {
				t.Errorf("with another key: %v", err)
			}
			// A piece of another backup does not fit, though the same key has sealed it.
			other := archive.NewBackup(archive.Within(store, "other"), keys, time.Now())
			if err := other.Add(ctx, "stream/EVENTS", func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err != nil {
				t.Fatal(err)
			}
			content, err := archive.Within(store, "other/"+other.Name()).Load(ctx, "stream/EVENTS/000000")
			if err != nil {
				t.Fatal(err)
			}
			swapped := archive.Within(store, "swapped")
			for name := range files {
				names, err := archive.Within(store, begun.Name()).List(ctx, name+"/")
				if err != nil {
					t.Fatal(err)
				}
				for _, piece := range append(names, "contents") {
					body, err := archive.Within(store, begun.Name()).Load(ctx, piece)
					if piece == "stream/EVENTS/000000" {
						body = content
					}
					if err == nil {
						err = swapped.Create(ctx, begun.Name()+"/"+piece, body)
					}
					if err != nil && !errors.Is(err, archive.ErrExists) {
						t.Fatal(err)
					}
				}
			}
			if kept, err = archive.OpenBackup(ctx, swapped, keys, begun.Name()); err != nil {
				t.Fatal(err)
			}
			if err := kept.Check(ctx); !errors.Is(err, archive.ErrGap) {
				t.Errorf("a piece was replaced: %v", err)
			}
		})
	}
}

// Whoever reads the key reads the archive and all backups.
func TestAKeyFileThatOthersMayReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), archive.KeyFile)
	if _, made, err := archive.EnsureKeys(path); err != nil || !made {
		t.Fatalf("%t %v", made, err)
	}
	for mode, good := range map[fs.FileMode]bool{0o600: true, 0o440: true, 0o644: false, 0o660: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.LoadKeys(path); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%04o: %v", mode, err)
		}
	}
}
