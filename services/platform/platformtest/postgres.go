package platformtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/postgres"
)

// cluster is the one server of this test binary.
type cluster struct {
	mu        sync.Mutex
	main      bool
	dir       string
	server    *postgres.Server
	err       error
	templates map[string]string
	databases int
	// emptied are by their template.
	emptied map[string]*lent
}

// lent is a store that tests have one after another.
type lent struct {
	store *postgres.Store
	taken bool
}

// shared is a variable because a test binary has no other owner for what
// outlives a test; Main is its only opener and closer.
var shared cluster

// Main runs the tests of a binary, then stops what they started, and exits.
func Main(m *testing.M) {
	shared.main = true
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "platformtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func (c *cluster) stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return nil
	}
	for _, one := range c.emptied {
		one.store.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(c.server.Stop(ctx), os.RemoveAll(c.dir))
}

func (c *cluster) start(ctx context.Context) error {
	if c.server != nil || c.err != nil {
		return c.err
	}
	if !c.main {
		return errors.New(`this test binary needs "func TestMain(m *testing.M) { platformtest.Main(m) }"`)
	}
	if c.dir, c.err = os.MkdirTemp("", "cetrus-postgres-"); c.err != nil {
		return c.err
	}
	c.templates, c.emptied = make(map[string]string), make(map[string]*lent)
	c.server, c.err = postgres.StartServer(ctx, postgres.ServerConfig{Dir: c.dir, Unsafe: true, Logger: Logger(nil)})
	return c.err
}

// create makes an empty database or the clone of one, and returns its URL.
func (c *cluster) create(ctx context.Context, template string) (string, string, error) {
	conn, err := pgx.Connect(ctx, c.server.URL())
	if err != nil {
		return "", "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	c.databases++
	name := fmt.Sprintf("test_%d", c.databases)
	statement := "CREATE DATABASE " + name
	if template != "" {
		statement += " TEMPLATE " + template
	}
	if _, err := conn.Exec(ctx, statement); err != nil {
		return "", "", err
	}
	u, err := url.Parse(c.server.URL())
	if err != nil {
		return "", "", err
	}
	u.Path = "/" + name
	return u.String(), name, nil
}

func (c *cluster) drop(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.server.URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
	return err
}

// Database makes an empty database for the test and returns an administrator's
// URL of it.
func Database(t testing.TB) string {
	t.Helper()
	return database(t, "")
}

func database(t testing.TB, template string) string {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if err := shared.start(t.Context()); err != nil {
		t.Fatal("platformtest:", err)
	}
	u, name, err := shared.create(t.Context(), template)
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	t.Cleanup(func() {
		if err := shared.drop(name); err != nil {
			t.Error("platformtest:", err)
		}
	})
	return u
}

// Store opens a service's store in a database of the test's own. cfg's URL and
// Logger are filled in. The store is closed with the test.
func Store(t testing.TB, cfg postgres.Config) *postgres.Store {
	t.Helper()
	cfg.Logger = Logger(t)
	cfg.URL = database(t, template(t, cfg))
	s, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Emptied is Store for packages whose many tests come one after another and change no tables, since
// a database for each would take most of their time: all have one, which each finds empty. Who asks
// while another test has it gets a store of their own.
func Emptied(t testing.TB, cfg postgres.Config) *postgres.Store {
	t.Helper()
	one, free, err := shared.lend(cfg, template(t, cfg))
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	if !free {
		return Store(t, cfg)
	}
	t.Cleanup(func() {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		one.taken = false
	})
	var tables string
	err = one.store.Projector.QueryRow(t.Context(), `SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables
		WHERE schemaname = current_schema() AND NOT starts_with(tablename, 'goose_')`).Scan(&tables)
	if err == nil {
		_, err = one.store.Projector.Exec(t.Context(), "TRUNCATE "+tables)
	}
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	return one.store
}

// lend gives out the store that is made of a template, where no test has it.
func (c *cluster) lend(cfg postgres.Config, template string) (one *lent, free bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one = c.emptied[template]
	if one == nil {
		ctx := context.Background() // it outlives the test that asks first
		u, _, err := c.create(ctx, template)
		if err != nil {
			return nil, false, err
		}
		cfg.URL, cfg.Logger = u, Logger(nil)
		store, err := postgres.Open(ctx, cfg)
		if err != nil {
			return nil, false, err
		}
		one = &lent{store: store}
		c.emptied[template] = one
	}
	free = !one.taken
	one.taken = true
	return one, free, nil
}

// template is the database to clone for a store: made once for each set of
// migrations.
func template(t testing.TB, cfg postgres.Config) string {
	t.Helper()
	key, err := contentOf(cfg)
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if err := shared.start(t.Context()); err != nil {
		t.Fatal("platformtest:", err)
	}
	if name, ok := shared.templates[key]; ok {
		return name
	}
	u, name, err := shared.create(t.Context(), "")
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	cfg.URL = u
	s, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	s.Close()
	shared.templates[key] = name
	return name
}

// contentOf tells sets of migrations apart by what they say: who asks makes them anew each time.
func contentOf(cfg postgres.Config) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d %t", cfg.Service, cfg.Version, cfg.Own)
	for _, m := range cfg.Migrations {
		fmt.Fprintf(h, " %q", m.Name)
		err := fs.WalkDir(m.Files, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := fs.ReadFile(m.Files, path)
			fmt.Fprintf(h, " %q %q", path, content)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return string(h.Sum(nil)), nil
}

// Logger writes to the test's log what is at least a warning; everything where
// CETRUS_TEST_LOG is set. Without a test it writes to standard error.
func Logger(t testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if os.Getenv("CETRUS_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	if t == nil {
		return slog.New(slog.NewTextHandler(os.Stderr, options))
	}
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, options))
}

// testWriter stops writing with its test: a late line would make Go panic.
type testWriter struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}
