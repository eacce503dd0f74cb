package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

func things() postgres.Config {
	return postgres.Config{
		Service: "things", Version: 1,
		Migrations: []postgres.Migrations{{Name: "things", Files: os.DirFS("testdata/migrations")}},
	}
}

func id(b byte) contract.ID { return contract.ID{0: b, 15: b} }

func count(t *testing.T, s *postgres.Store, account contract.ID) (n int) {
	t.Helper()
	if err := s.InAccount(t.Context(), account, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT count(*) FROM thing").Scan(&n)
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAccountsAreWalledOff(t *testing.T) {
	s := platformtest.Store(t, things())
	ctx := t.Context()
	rows := [][]any{{id(1), "a"}, {id(1), "b"}, {id(2), "c"}}
	if n, err := s.Projector.CopyFrom(ctx, pgx.Identifier{"thing"}, []string{"account_id", "name"}, pgx.CopyFromRows(rows)); err != nil || n != 3 {
		t.Fatalf("the projector copied %d rows of two accounts: %v", n, err)
	}
	for account, want := range map[contract.ID]int{id(1): 2, id(2): 1, id(3): 0} {
		if got := count(t, s, account); got != want {
			t.Errorf("account %s sees %d rows, want %d", account, got, want)
		}
	}
	if err := s.InAccount(ctx, contract.ID{}, func(pgx.Tx) error { return nil }); err == nil {
		t.Error("a query without an account was let in")
	}
	err := s.InAccount(ctx, id(1), func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO thing VALUES ($1, 'd')", id(1))
		return err
	})
	if err == nil {
		t.Error("the query role wrote")
	}
	err = s.InAccount(ctx, id(1), func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SET LOCAL ROLE things_projector")
		return err
	})
	if err == nil {
		t.Error("the query role became the projector")
	}
	if err := s.CheckWalls(ctx); err != nil {
		t.Error(err)
	}
}

func TestOpenAgainChangesNothing(t *testing.T) {
	cfg := things()
	cfg.URL = platformtest.Database(t)
	for range 2 {
		s, err := postgres.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	var wg sync.WaitGroup
	for range 3 { // three replicas of a service starting at once
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), cfg)
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
}

// A service that starts just when the server dies must not die with it.
func TestOpenOutlivesTheServersDeaths(t *testing.T) {
	cfg := things()
	cfg.URL = platformtest.Database(t)
	cfg.Logger = platformtest.Logger(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	struck := 0
	for ; struck < 5; cfg.Version++ { // each has all of the preparation before it
		opening, opened := context.WithCancel(ctx)
		var killing sync.WaitGroup
		killing.Go(func() {
			for once := 0; once == 0 && opening.Err() == nil; struck += once {
				if err := conn.QueryRow(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").Scan(&once); err != nil {
					t.Error(err)
					return
				}
			}
		})
		s, err := postgres.Open(ctx, cfg)
		opened()
		killing.Wait()
		if err != nil || t.Failed() {
			t.Fatalf("after %d deaths: %v", struck, err)
		}
		s.Close()
	}
}

func TestOpenTablesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ sql, want string }{
		"no policy":      {"CREATE TABLE naked (account_id uuid);", "naked: row-level security is not enabled"},
		"not forced":     {"CREATE TABLE half (account_id uuid); ALTER TABLE half ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON half USING (account_id = cetrus.account());", "half: row-level security is not forced"},
		"lets all":       {"CREATE TABLE wide (account_id uuid); SELECT cetrus.wall('wide'); CREATE POLICY all_in ON wide USING (true);", "all_in lets rows of every account through"},
		"lets all write": {"CREATE TABLE wide (account_id uuid); SELECT cetrus.wall('wide'); CREATE POLICY ins ON wide FOR INSERT WITH CHECK (true);", "ins lets rows of every account through"},
		"open, of an account": {
			"CREATE TABLE liar (account_id uuid); ALTER TABLE liar ENABLE ROW LEVEL SECURITY; ALTER TABLE liar FORCE ROW LEVEL SECURITY; CREATE POLICY p ON liar USING (true); COMMENT ON TABLE liar IS 'open: honest';",
			"liar: its policy p lets rows",
		},
		"view":      {"CREATE TABLE base (account_id uuid); SELECT cetrus.wall('base'); CREATE VIEW peek AS SELECT * FROM base;", "peek: a view reads with its owner's rights"},
		"mat. view": {"CREATE TABLE base (account_id uuid); SELECT cetrus.wall('base'); CREATE MATERIALIZED VIEW sum AS SELECT * FROM base;", "sum: a materialized view"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := postgres.Config{
				URL: platformtest.Database(t), Service: "things", Version: 1,
				Migrations: []postgres.Migrations{{Name: "things", Files: fstest.MapFS{
					"00001_t.sql": {Data: []byte("-- +goose Up\n" + c.sql)},
				}}},
			}
			s, err := postgres.Open(t.Context(), cfg)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

// people is a service whose rows are of principals.
func people(sql string) postgres.Config {
	return postgres.Config{
		Service: "people", Version: 1, Own: true,
		Migrations: []postgres.Migrations{{Name: "people", Files: fstest.MapFS{"00001_t.sql": {Data: []byte("-- +goose Up\n" + `
			CREATE TABLE work (account_id uuid NOT NULL, principal_id uuid NOT NULL);
			SELECT cetrus.wall('work');
			CREATE TABLE total (account_id uuid NOT NULL, n int);
			SELECT cetrus.wall('total');` + sql)}}}},
	}
}

func TestWhoSeesOnlyTheirOwn(t *testing.T) {
	s := platformtest.Store(t, people("SELECT cetrus.own_of('work');"))
	ctx := t.Context()
	rows := [][]any{{id(1), id(10)}, {id(1), id(11)}, {id(1), id(12)}, {id(2), id(10)}}
	if _, err := s.Projector.CopyFrom(ctx, pgx.Identifier{"work"}, []string{"account_id", "principal_id"}, pgx.CopyFromRows(rows)); err != nil {
		t.Fatal(err)
	}
	as := func(reach authzv1.Reach, own ...contract.ID) context.Context {
		return authn.WithOwn(authn.WithCaller(ctx, authn.Caller{Account: id(1), Actor: "test", Reach: reach}), own)
	}
	const self = authzv1.Reach_REACH_SELF
	read := func(ctx context.Context, sql string) (n int, err error) {
		err = s.InAccount(ctx, id(1), func(tx pgx.Tx) error { return tx.QueryRow(ctx, sql).Scan(&n) })
		return n, err
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		want int
	}{
		"the platform itself":      {ctx, 3},
		"all of the account":       {as(authzv1.Reach_REACH_ACCOUNT, id(10)), 3},
		"one principal":            {as(self, id(10)), 1},
		"two":                      {as(self, id(10), id(12), id(99)), 2},
		"none":                     {as(self), 0},
		"what nobody has judged":   {as(authzv1.Reach_REACH_UNSPECIFIED), 0},
		"a context of that one's":  {context.WithoutCancel(as(self, id(11))), 1},
		"one after all the others": {as(self, id(11)), 1},
	} {
		if n, err := read(c.ctx, "SELECT count(*) FROM work"); err != nil || n != c.want {
			t.Errorf("%s: %d rows, not %d: %v", name, n, c.want, err)
		}
	}
	for _, sql := range []string{"SELECT count(*) FROM total", "WITH w AS (INSERT INTO work VALUES (gen_random_uuid(), gen_random_uuid()) RETURNING 1) SELECT count(*) FROM w"} {
		if n, err := read(as(self, id(10)), sql); err == nil {
			t.Errorf("%s: %d", sql, n)
		}
	}
	for _, role := range []string{"people_query", "people_projector", "cetrus_owner"} {
		if _, err := read(as(self, id(10)), "SELECT count(set_config('role', '"+role+"', true))"); err == nil {
			t.Errorf("it became %s", role)
		}
	}
}

func TestTablesOpenToWhoSeesOnlyTheirOwnAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ sql, want string }{
		"no policy":        {"GRANT SELECT ON work TO cetrus_own;", "work: those who see only what is their own can read it"},
		"every principal":  {"SELECT cetrus.own('work', 'true');", "work: those who see only what is their own see rows of every principal"},
		"a column is read": {"GRANT SELECT (n) ON total TO cetrus_own;", "total: those who see only what is their own can read it"},
		"written":          {"SELECT cetrus.own_of('work'); GRANT DELETE ON work TO cetrus_own;", "work: the role people_own may do more than read it"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := people(c.sql)
			cfg.URL = platformtest.Database(t)
			s, err := postgres.Open(t.Context(), cfg)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestVersionsSwap(t *testing.T) { ofEachAdministrator(t, testVersionsSwap) }

func testVersionsSwap(t *testing.T, url string) {
	cfg := things()
	cfg.URL = url
	ctx := t.Context()
	v1, err := postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer v1.Close()
	if _, err := v1.Projector.Exec(ctx, "INSERT INTO thing VALUES ($1, 'old')", id(1)); err != nil {
		t.Fatal(err)
	}
	cfg.Version = 2
	v2, err := postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer v2.Close()
	if got := count(t, v2, id(1)); got != 1 {
		t.Fatalf("before the swap a query sees %d rows, want the old version's 1", got)
	}
	if active, err := v2.Active(ctx); active || err != nil {
		t.Fatalf("Active() = %v, %v before the swap", active, err)
	}
	if err := v2.DropOthers(ctx); err == nil {
		t.Fatal("the active version was dropped")
	}
	if err := v2.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*postgres.Store{v1, v2} {
		if got := count(t, s, id(1)); got != 0 {
			t.Fatalf("after the swap a query sees %d rows, want the new version's 0", got)
		}
	}
	if err := v2.DropOthers(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v1.CheckWalls(ctx); err == nil {
		t.Fatal("the old version's schema is still there")
	}
}

// server starts a private server that ends with the test.
func server(t *testing.T, dir string) *postgres.Server {
	t.Helper()
	s, err := postgres.StartServer(t.Context(), postgres.ServerConfig{Dir: dir, Unsafe: true, Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(t *testing.T, s *postgres.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// publicDir is a directory that the server's user can reach, unlike t.TempDir
// under some roots.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cetrus server-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestServerOutlivesItsDeaths(t *testing.T) {
	dir := publicDir(t)
	first := server(t, dir)
	cfg := things()
	cfg.URL = first.URL()
	cfg.Logger = platformtest.Logger(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Projector.Exec(ctx, "INSERT INTO thing VALUES ($1, 'kept')", id(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.StartServer(ctx, postgres.ServerConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("a second server on the directory: %v", err)
	}

	pid := first.Pid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for { // the same pools find the server again
		var n int
		err := s.InAccount(ctx, id(1), func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, "SELECT count(*) FROM thing").Scan(&n)
		})
		if err == nil && n == 1 && first.Pid() != pid {
			break
		}
		if err != nil && !postgres.IsTransient(err) {
			t.Fatalf("while the server was dead: %v is not called transient", err)
		}
		if ctx.Err() != nil {
			t.Fatal("the server did not come back:", err)
		}
	}
	s.Close()
	stop(t, first)

	again := server(t, dir)
	defer stop(t, again)
	cfg.URL = again.URL()
	s, err = postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := count(t, s, id(1)); got != 1 {
		t.Fatalf("after a restart there are %d rows, want 1", got)
	}
}

// When the parent is killed the server must not stay behind, nor stand in the
// way of the next start.
func TestParentIsKilled(t *testing.T) {
	const dirName = "CETRUS_TEST_SERVER_DIR"
	if dir := os.Getenv(dirName); dir != "" { // this is the parent to be killed
		s := server(t, dir)
		if _, err := fmt.Fprintln(os.Stdout, "pid", s.Pid()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute) // it is killed before
	}
	dir := publicDir(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestParentIsKilled$")
	cmd.Env = append(os.Environ(), dirName+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "pid %d", &pid); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	s := server(t, dir)
	defer stop(t, s)
	// A dead process that nobody has waited for has no program any more.
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); s.Pid() == pid || err == nil && filepath.Base(exe) == "postgres" {
		t.Errorf("the server %d of the killed parent lives on", pid)
	}
}

// A pid file whose process is another program now must not keep a server down.
func TestStalePidFile(t *testing.T) {
	dir := publicDir(t)
	s := server(t, dir)
	stop(t, s)
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	text := strings.Join([]string{"1", filepath.Join(dir, "data"), "1", "5432", "", "127.0.0.1", "", "ready"}, "\n")
	if err := os.WriteFile(pidFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	again := server(t, dir)
	stop(t, again)
}

// Root's home is closed to the user that the server runs as.
func TestServerUnderAClosedDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root drops to another user")
	}
	parent := publicDir(t)
	if err := os.Chmod(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "db")
	cfg := things()
	for range 2 {
		s := server(t, dir)
		cfg.URL = s.URL()
		store, err := postgres.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		store.Close()
		stop(t, s)
	}
}

func TestServerErrorsNameTheWayOut(t *testing.T) {
	t.Run("no binaries", func(t *testing.T) {
		if _, err := postgres.FindBinaries(3); err == nil || !strings.Contains(err.Error(), "apt-get install postgresql-3") {
			t.Fatal(err)
		}
		if !strings.Contains(postgres.ErrNoBinaries.Error(), "apt-get install postgresql") {
			t.Fatal(postgres.ErrNoBinaries)
		}
	})
	t.Run("no cluster", func(t *testing.T) {
		dir := publicDir(t)
		os.MkdirAll(filepath.Join(dir, "data"), 0o755)
		os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("cheese"), 0o644)
		if _, err := postgres.StartServer(t.Context(), postgres.ServerConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "no database cluster") {
			t.Fatal(err)
		}
	})
	t.Run("port taken", func(t *testing.T) {
		s := server(t, publicDir(t))
		defer stop(t, s)
		began := time.Now()
		_, err := postgres.StartServer(t.Context(), postgres.ServerConfig{Dir: publicDir(t), Port: s.Port(), Unsafe: true, Logger: platformtest.Logger(nil)})
		if err == nil || !strings.Contains(err.Error(), "Address already in use") {
			t.Fatal(err)
		}
		if time.Since(began) > 20*time.Second {
			t.Error("it took", time.Since(began))
		}
	})
}

func TestTransient(t *testing.T) {
	if postgres.IsTransient(errors.New("x")) || postgres.IsTransient(nil) || postgres.IsTransient(context.Canceled) {
		t.Error("what will not pass is called transient")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := pgx.Connect(ctx, "postgres://a:b@127.0.0.1:1/x?sslmode=disable")
	if !postgres.IsTransient(err) {
		t.Errorf("%v is not called transient", err)
	}
}

// A version is built again beside itself, is opened again as far as it is, and is
// what Open opens once it answers.
func TestBuildBeside(t *testing.T) { ofEachAdministrator(t, testBuildBeside) }

func testBuildBeside(t *testing.T, url string) {
	cfg := things()
	cfg.URL = url
	ctx := t.Context()
	first, err := postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if there, err := first.HasBeside(ctx); there || err != nil {
		t.Fatalf("HasBeside() = %v, %v before there is one", there, err)
	}
	beside, err := first.Beside(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	if there, err := first.HasBeside(ctx); !there || err != nil {
		t.Fatalf("HasBeside() = %v, %v", there, err)
	}
	if _, err := beside.Projector.Exec(ctx, "INSERT INTO thing VALUES ($1, 'new')", id(1)); err != nil {
		t.Fatal(err)
	}
	again, err := first.Beside(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := count(t, again, id(1)); got != 0 || again.Schema != beside.Schema {
		t.Fatalf("%d rows of %s are seen before the swap", got, again.Schema)
	}
	if err := again.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	opened, err := postgres.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if got := count(t, opened, id(1)); got != 1 || opened.Schema != beside.Schema {
		t.Fatalf("opened %s with %d rows, want %s with 1", opened.Schema, got, beside.Schema)
	}
	if err := opened.DropOthers(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Projector.Exec(ctx, "SELECT 1 FROM "+first.Schema+".thing"); err == nil {
		t.Fatal("the former build is still there")
	}
}
