package postgres_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

// TestAnotherAuthorityIsReadByOpenPools: who runs the database renews its authority, and services run for longer than it lives.
func TestAnotherAuthorityIsReadByOpenPools(t *testing.T) {
	dir := publicDir(t)
	s := server(t, dir)
	defer stop(t, s)
	file := filepath.Join(t.TempDir(), "ca.crt")
	certify(t, s, dir, file)
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {file}}.Encode()
	cfg := things()
	cfg.URL, cfg.Logger = u.String(), platformtest.Logger(t)
	store, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()

	certify(t, s, dir, file)
	store.Projector.Reset()
	encrypted := false
	const ask = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
	for late := time.Now().Add(30 * time.Second); ; { // the server reads its files a moment after it is told to
		err = store.Projector.QueryRow(t.Context(), ask).Scan(&encrypted)
		if err == nil || time.Now().After(late) {
			break
		}
	}
	if err != nil || !encrypted {
		t.Fatalf("encrypted %t: %v", encrypted, err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	beside, err := store.Beside(bounded)
	if err != nil {
		t.Fatalf("tables are not built anew: %v", err)
	}
	beside.Close()
	if err := os.WriteFile(file, authority(t).Certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	store.Projector.Reset()
	if err := store.Projector.QueryRow(t.Context(), ask).Scan(&encrypted); err == nil {
		t.Error("a server that another authority has signed is spoken to")
	}
}

func authority(t *testing.T) *tlsfiles.Authority {
	t.Helper()
	a, err := tlsfiles.NewAuthority("of a test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// certify has a server known by a new authority, whose certificate it puts into a file.
func certify(t *testing.T, s *postgres.Server, dir, file string) {
	t.Helper()
	by := authority(t)
	pair, err := by.Issue([]string{"127.0.0.1"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	owner := serversUser(t, dir)
	for name, text := range map[string][]byte{"server.crt": pair.Certificate, "server.key": pair.Key} {
		path := filepath.Join(dir, "data", name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, by.Certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range []string{"ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for encrypts := ""; encrypts != "on"; {
		if err := conn.QueryRow(t.Context(), "SHOW ssl").Scan(&encrypts); err != nil {
			t.Fatal(err)
		}
	}
}

func serversUser(t *testing.T, dir string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}
