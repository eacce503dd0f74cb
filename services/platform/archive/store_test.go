package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cetrus/cetrus/services/platform/archive"
)

// s3Server starts a real S3 server on this machine, on a bucket, and returns the URL of a store in it.
func s3Server(t *testing.T) string {
	t.Helper()
	program, err := filepath.Abs("../../../bin/versitygw")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("no S3 server: tools/bootstrap.sh test builds it: %v", err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := lis.Addr().String()
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "archivist")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not a secret")
	cmd := exec.CommandContext(t.Context(), program, "--access", "archivist", "--secret", "not a secret", "--port", address, "--quiet", "posix", dir)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // told to end by its context
	}()
	t.Cleanup(func() { <-ended })
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
			break
		}
		select {
		case <-ended:
			t.Fatalf("the S3 server has ended: %s", said.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return "s3://bucket/some/where?endpoint=http://" + address + "&region=us-east-1"
}

// stores are one of each kind.
func stores(t *testing.T) map[string]archive.Store {
	t.Helper()
	all := make(map[string]archive.Store)
	for kind, url := range map[string]string{"folder": "file://" + filepath.Join(t.TempDir(), "not", "there"), "s3": s3Server(t)} {
		store, err := archive.OpenStore(url)
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = store
	}
	return all
}

func TestStoresKeepTheContract(t *testing.T) {
	for kind, store := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			ctx := t.Context()
			if names, err := store.List(ctx, "a/"); err != nil || len(names) != 0 {
				t.Errorf("an empty store lists %q: %v", names, err)
			}
			if _, err := store.Load(ctx, "a/1"); !errors.Is(err, archive.ErrNone) {
				t.Errorf("what is not there: %v", err)
			}
			large := bytes.Repeat([]byte("0123456789abcdef"), 20<<16)
			for name, content := range map[string][]byte{"a/2": []byte("two"), "a/10": large, "a/b/1": {}, "ab/1": []byte("other")} {
				if err := store.Create(ctx, name, content); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if err := store.Create(ctx, name, []byte("another")); !errors.Is(err, archive.ErrExists) {
					t.Errorf("%s is made twice: %v", name, err)
				}
				if got, err := store.Load(ctx, name); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s is %d bytes, not %d: %v", name, len(got), len(content), err)
				}
			}
			if names, err := store.List(ctx, "a/"); err != nil || !slices.Equal(names, []string{"a/10", "a/2", "a/b/1"}) {
				t.Errorf("lists %q: %v", names, err)
			}
			part := archive.Within(store, "a/b")
			if got, err := part.Load(ctx, "1"); err != nil || len(got) != 0 {
				t.Errorf("within: %q %v", got, err)
			}
			if names, err := archive.Within(store, "a").List(ctx, "b/"); err != nil || !slices.Equal(names, []string{"b/1"}) {
				t.Errorf("within: %q %v", names, err)
			}
			for prefix, want := range map[string][]string{"": {"a", "ab"}, "a/": {"b"}, "ab/": nil, "none/": nil} {
				if names, err := store.Folders(ctx, prefix); err != nil || !slices.Equal(names, want) {
					t.Errorf("folders in %q: %q %v", prefix, names, err)
				}
			}
			if names, err := archive.Within(store, "a").Folders(ctx, ""); err != nil || !slices.Equal(names, []string{"b"}) {
				t.Errorf("folders within: %q %v", names, err)
			}
			for name, want := range map[string]bool{"a/2": true, "a/b/1": true, "a/b": false, "a/1": false, "none/1": false} {
				if has, err := store.Has(ctx, name); err != nil || has != want {
					t.Errorf("%s is there: %t %v", name, has, err)
				}
			}
			if has, err := part.Has(ctx, "1"); err != nil || !has {
				t.Errorf("within it is there: %t %v", has, err)
			}
			// Of many who make one object, one succeeds, and it is that one's.
			var made atomic.Int32
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() {
					content := fmt.Appendf(nil, "of %d", i)
					err := store.Create(ctx, "raced", content)
					if err == nil {
						made.Add(1)
						if got, err := store.Load(ctx, "raced"); err != nil || !bytes.Equal(got, content) {
							t.Errorf("it is %q, made was %q: %v", got, content, err)
						}
					} else if !errors.Is(err, archive.ErrExists) {
						t.Error(err)
					}
				})
			}
			group.Wait()
			if made.Load() != 1 {
				t.Errorf("%d made the same object", made.Load())
			}
		})
	}
}

// The store of backups has keys of its own where they are given, and the archive never has them.
func TestBackupsHaveKeysOfTheirOwn(t *testing.T) {
	url := s3Server(t)
	may := func(open func(string) (archive.Store, error)) bool {
		t.Helper()
		store, err := open(url)
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.List(t.Context(), "a/")
		return err == nil
	}
	if !may(archive.OpenStore) || !may(archive.OpenBackups) {
		t.Error("the same keys are not for both where there are no others")
	}
	t.Setenv("BACKUPS_AWS_ACCESS_KEY_ID", "archivist")
	t.Setenv("BACKUPS_AWS_SECRET_ACCESS_KEY", "not a secret")
	t.Setenv("AWS_ACCESS_KEY_ID", "another")
	if may(archive.OpenStore) || !may(archive.OpenBackups) {
		t.Error("backups are not reached with their keys, or the archive is")
	}
	t.Setenv("BACKUPS_AWS_ACCESS_KEY_ID", "another")
	t.Setenv("AWS_ACCESS_KEY_ID", "archivist")
	if !may(archive.OpenStore) || may(archive.OpenBackups) {
		t.Error("the archive is not reached with its keys, or backups are")
	}
}

func TestURLsThatNameNoStore(t *testing.T) {
	for _, url := range []string{
		"", "file:relative", "file:///", "ftp://x/y", "s3:///prefix", "s3://bucket?secret=1", "s3://key:secret@bucket/x",
		"s3://bucket?endpoint=example.com", "s3://bucket?endpoint=https://example.com/path", "://",
	} {
		if store, err := archive.OpenStore(url); err == nil {
			t.Errorf("%q is %s", url, store.Where())
		} else {
			t.Log(err)
		}
	}
}
